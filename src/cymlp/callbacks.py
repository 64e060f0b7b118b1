"""Ready-made callbacks: a progress bar, logs, TensorBoard's event files, pictures of the curves.

Each is called with an event after every epoch.  Its `begin` is called before the first epoch and its `end` after the
last one, however that ends; where nobody calls `begin`, the first event stands for it.  Events of `MLP.train` and of
estimators will do: what an event has not, or has as None, is left out.  What a callback needs installed is imported
when it is made, and ImportError says what to install.

An object can be used for one run after another, copied and pickled; copies begin anew.
"""

import csv
import importlib
import io
import json
import math
import os
import secrets
import sys
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

from . import _validation

__all__ = ["CSVLog", "JSONLinesLog", "PlotHistory", "ProgressBar", "TensorBoard"]

# What logs tell of an epoch, in this order.
FIELDS = ("epoch", "step", "loss", "validation_loss", "metric", "learning_rate", "gradient_norm", "seconds")

_REFRESH = 0.1  # seconds between two pictures of a bar: as often as an eye can follow


def _fields(event):
    """A dict of `FIELDS`: numbers of Python's, or None.  A score of an estimator is its metric."""
    found = {name: getattr(event, name, None) for name in FIELDS}
    if found["metric"] is None:
        found["metric"] = getattr(event, "validation_score", None)
    return {
        name: value if value is None else (int if name in ("epoch", "step") else float)(value)
        for name, value in found.items()
    }


class _Callback:
    """What all have: public attributes are the arguments, the others belong to a run and are not copied."""

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __setstate__(self, state):
        self.__init__(**state)

    def __repr__(self):
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.__getstate__().items())
        return f"{type(self).__name__}({arguments})"


class _Opened(_Callback):
    """With something open during a run, which is closed with Python at the latest: where nobody calls `end`, too.

    A terminal gets its cursor back then, and writers, which have threads, do not outlive what these need.
    """

    def __init__(self):
        self._opened = self._close = None

    def end(self, event):
        """Close what is open.

        Parameters
        ----------
        event : Event
        """
        self._finish()

    def _open(self, opened):
        self._opened, self._close = opened, weakref.finalize(self, opened.close)

    def _finish(self):
        if self._opened is not None:
            self._opened = None
            self._close()


class ProgressBar(_Opened):
    """A bar that moves on with each epoch, and the last losses beside it.

    Parameters
    ----------
    library : {"auto", "tqdm", "rich"}, default "auto"
        Which draws it; "auto" takes tqdm where it is installed, else rich.
    file : file-like, optional
        Where it is drawn; None means stderr.

    Raises
    ------
    ImportError
        Where the library is not installed.
    """

    def __init__(self, library="auto", file=None):
        self.library = library
        self.file = file
        super().__init__()
        self._make = _bar_maker(library)

    def begin(self, event):
        """Draw the bar.

        Parameters
        ----------
        event : Event
            Its `epoch` is the number of epochs that an earlier process has done.
        """
        self._start(event, event.epoch or 0)

    def __call__(self, event):
        """Move it on.

        Parameters
        ----------
        event : Event
        """
        if self._opened is None:
            self._start(event, event.epoch - 1)
        told = _fields(event)
        parts = (("loss", "loss"), ("validation_loss", "validation"), ("metric", "metric"))
        self._opened.move(
            event.epoch, "  ".join(f"{label} {told[name]:.4g}" for name, label in parts if told[name] is not None)
        )
        if event.epoch == event.epochs:
            self._finish()

    def _start(self, event, done):
        self._finish()
        self._open(self._make(sys.stderr if self.file is None else self.file, event.epochs, done))


def _bar_maker(library):
    if library not in ("auto", "tqdm", "rich"):
        raise ValueError(f"library must be 'auto', 'tqdm' or 'rich'; got {library!r}")
    for name, maker in (("tqdm", _TqdmBar), ("rich", _RichBar)):
        if library in ("auto", name):
            try:
                importlib.import_module(f"{name}.{maker.module}")
            except ImportError:
                continue
            return maker
    wanted = "tqdm or rich: pip install tqdm" if library == "auto" else f"{library}: pip install {library}"
    raise ImportError(f"ProgressBar(library={library!r}) needs {wanted}")


class _TqdmBar:
    module = "auto"  # which finds out whether this is a notebook

    def __init__(self, file, planned, done):
        from tqdm.auto import tqdm

        self.bar = tqdm(total=planned, initial=done, unit="epoch", file=file, mininterval=_REFRESH)

    def move(self, epoch, text):
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(epoch - self.bar.n)

    def close(self):
        self.bar.close()


class _RichBar:
    module = "progress"

    def __init__(self, file, planned, done):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("epoch {task.completed:.0f}" + ("" if planned is None else "/{task.total:.0f}")),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        )
        # No thread of its own, and nobody's stdout taken: a bar that nobody ends leaves nothing behind.
        self.bars = Progress(
            *columns, console=Console(file=file), auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self.bar = self.bars.add_task("", total=planned, completed=done)
        self.bars.start()
        self.drawn = time.monotonic()

    def move(self, epoch, text):
        self.bars.update(self.bar, completed=epoch, description=text)
        if time.monotonic() >= self.drawn + _REFRESH:
            self.bars.refresh()
            self.drawn = time.monotonic()

    def close(self):
        self.bars.stop()


class _Log(_Callback):
    """A file with a line for each epoch, which is in the file before the next epoch begins.

    Lines of epochs that come again are cut off: a run that was killed goes on from its last checkpoint, which may be
    older than the log.  So is a line that was not finished.
    """

    def __init__(self, path):
        self.path = os.fsdecode(path)
        self._last = None

    def begin(self, event):
        """Begin the file, or cut off what comes again; anything but a log of this kind is refused by ValueError.

        Parameters
        ----------
        event : Event
            Its `epoch` is the number of epochs that an earlier process has done: lines of these are kept.
        """
        self._start(event.epoch or 0)

    def __call__(self, event):
        """Add a line.

        Parameters
        ----------
        event : Event
        """
        told = _fields(event)
        if self._last is None or told["epoch"] != self._last + 1:
            self._start(told["epoch"] - 1)
        with open(self.path, "ab") as file:
            file.write(self._line(told).encode())
        self._last = told["epoch"]

    def _start(self, done):
        with open(self.path, "ab+") as file:
            file.seek(0)
            lines = file.readlines()
            if lines and not (lines[0].startswith(self._head) or self._head.startswith(lines[0])):
                raise ValueError(f"{self.path!r} is there already and no {type(self).__name__}: it is left as it is")
            end, first = len(self._title), 1 if self._title else 0
            for number, line in enumerate(lines[first:], first + 1):
                if not line.endswith(b"\n") or self._epoch(line, number) > done:
                    break
                end += len(line)
            if lines and lines[0].startswith(self._title):
                file.truncate(end)
            else:
                file.truncate(0)
                file.write(self._title)
        self._last = done

    def _epoch(self, line, number):
        try:
            return int(self._read(line))
        except (ValueError, TypeError, KeyError, IndexError):
            raise ValueError(f"{self.path!r} is no {type(self).__name__}: line {number} tells of no epoch") from None


class CSVLog(_Log):
    """A table in a file: a line of names, and a line for each epoch, with nothing where there is no number.

    Parameters
    ----------
    path : str or path-like
        Begun anew with each run, and gone on with by one that is resumed from a checkpoint.
    """

    _title = (",".join(FIELDS) + "\r\n").encode()  # RFC 4180
    _head = _title

    def _line(self, told):
        text = io.StringIO()
        csv.writer(text).writerow(["" if value is None else repr(value) for value in told.values()])
        return text.getvalue()

    @staticmethod
    def _read(line):
        return line.split(b",")[0]


class JSONLinesLog(_Log):
    """A file with a JSON object for each epoch in a line of its own; null where there is no number, or no finite one.

    Parameters
    ----------
    path : str or path-like
        Begun anew with each run, and gone on with by one that is resumed from a checkpoint.
    """

    _title = b""
    _head = b'{"epoch": '

    def _line(self, told):
        finite = {name: value if value is not None and math.isfinite(value) else None for name, value in told.items()}
        return json.dumps(finite, allow_nan=False) + "\n"

    @staticmethod
    def _read(line):
        return json.loads(line)["epoch"]


class TensorBoard(_Opened):
    """Event files that TensorBoard shows, with the numbers of each epoch.

    Parameters
    ----------
    folder : str or path-like
        One for each run; made where it is absent.  What a run that is resumed from a checkpoint tells again replaces,
        in TensorBoard's eyes, what was told before.

    Raises
    ------
    ImportError
        Where neither tensorboard nor tensorboardX is installed.
    """

    _TAGS = (
        ("loss", "loss/training"),
        ("validation_loss", "loss/validation"),
        ("metric", "metric"),
        ("learning_rate", "learning_rate"),
        ("gradient_norm", "gradient_norm"),
        ("seconds", "seconds"),
    )

    def __init__(self, folder):
        self.folder = os.fsdecode(folder)
        super().__init__()
        self._make = _event_file_maker()

    def begin(self, event):
        """Begin a file.

        Parameters
        ----------
        event : Event
            Its `epoch` is the number of epochs that an earlier process has done.
        """
        self._start(event.epoch or 0)

    def __call__(self, event):
        """Write an epoch's numbers into it, through to the disk's cache.

        Parameters
        ----------
        event : Event
        """
        if self._opened is None:
            self._start(event.epoch - 1)
        told = _fields(event)
        self._opened.write(event.epoch, [(tag, told[name]) for name, tag in self._TAGS if told[name] is not None])
        if event.epoch == event.epochs:
            self._finish()

    def _start(self, done):
        self._finish()
        self._open(self._make(self.folder, done + 1))


def _event_file_maker():
    try:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError:
        pass
    else:
        return lambda folder, first: _EventFile(EventFileWriter(folder), event_pb2, summary_pb2, first)
    try:
        from tensorboardX.event_file_writer import EventFileWriter
        from tensorboardX.proto import event_pb2, summary_pb2
    except ImportError:
        raise ImportError("TensorBoard needs tensorboardX or tensorboard: pip install tensorboardX") from None

    def make(folder, first):
        # Its files are named by the second, and a second one would overwrite the first.
        writer = EventFileWriter(folder, filename_suffix=f".{secrets.token_hex(4)}")
        return _EventFile(writer, event_pb2, summary_pb2, first)

    return make


class _EventFile:
    """Both packages write protocol buffers of one kind by a class of one interface."""

    def __init__(self, writer, event_pb2, summary_pb2, first):
        self.writer, self.events, self.summaries = writer, event_pb2, summary_pb2
        # What other files of the folder tell of `first` and later is void.
        status = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        writer.add_event(event_pb2.Event(wall_time=time.time(), step=first, session_log=status))
        writer.flush()

    def write(self, epoch, values):
        summary = self.summaries.Summary(
            value=[self.summaries.Summary.Value(tag=tag, simple_value=value) for tag, value in values]
        )
        self.writer.add_event(self.events.Event(wall_time=time.time(), step=epoch, summary=summary))
        self.writer.flush()

    def close(self):
        self.writer.close()


class PlotHistory(_Callback):
    """A picture of the curves so far, replaced as a whole: loss, and what else there is of metric, rate and norm.

    Parameters
    ----------
    path : str or path-like
        Ends in .png, .svg or .pdf.
    every : int, default 1
        Epochs from one picture to the next, at least 1; `end` draws the last one.

    Raises
    ------
    ImportError
        Where matplotlib is not installed.
    """

    def __init__(self, path, every=1):
        from .plots import SUFFIXES

        self.path = os.fsdecode(path)
        self.every = _validation.as_count(every, "every")
        if Path(self.path).suffix.lower() not in SUFFIXES:
            raise ValueError(f"path must end in {', '.join(SUFFIXES)}; got {self.path!r}")
        try:
            importlib.import_module("matplotlib.figure")
        except ImportError:
            raise ImportError("PlotHistory needs matplotlib: pip install matplotlib") from None
        self._drawn = None

    def begin(self, event):
        """Forget the run before.

        Parameters
        ----------
        event : Event
        """
        self._drawn = event.epoch or 0

    def __call__(self, event):
        """Draw, where it is time.

        Parameters
        ----------
        event : Event
        """
        if event.epoch % self.every == 0:
            self._draw(event)

    def end(self, event):
        """Draw, where there were epochs since.

        Parameters
        ----------
        event : Event
        """
        if (event.epoch or 0) > (self._drawn or 0):
            self._draw(event)

    def _draw(self, event):
        from .persistence import write_atomically
        from .plots import history_figure

        buffer = io.BytesIO()
        figure = history_figure(_history(event))
        figure.savefig(buffer, format=Path(self.path).suffix[1:].lower(), dpi=150)
        write_atomically(self.path, buffer.getvalue())
        self._drawn = event.epoch


def _history(event):
    """The `History`, or the lists of an estimator by the names they have there."""
    history = getattr(event, "history", None)
    if history is not None:
        return history
    curves = {"loss": "loss_curve_", "validation_loss": "validation_loss_curve_", "metric": "validation_scores_"}
    curves["gradient_norm"] = "gradient_norm_curve_"
    return SimpleNamespace(**{name: getattr(event.estimator, curve, None) or [] for name, curve in curves.items()})
