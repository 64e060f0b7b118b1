"""Checkpoints: a training run in a file, from which another process goes on to exactly the same end.

The file is made as model files are, by the same writer: safetensors with one entry of metadata, ``cymlp_checkpoint``, a
canonical JSON document with a SHA-256 over itself and all tensors.  The document says which run it is of ("run": its
arguments as texts) and holds the run's state: whatever the loop hands over of None, bool, int, float, str, lists, dicts
and arrays.  Arrays become tensors of their own.  What JSON has not is a dict with a key that no other dict has:

    {"$float": "nan"}  {"$float": "inf"}  {"$float": "-inf"}  {"$int": "18446744073709551616"}
    {"$array": {"dtype": "float32", "shape": [3, 4], "tensor": "state.parameters"}}     no tensor where it is empty
    {"$list": {"dtype": "float64", "shape": [5000], "tensor": "state.history.loss"}}    a long list of floats

Finite floats survive exactly: JSON has the shortest text that is read back as the same number.
"""

import math
import os
import sys
import time
from dataclasses import dataclass

import numpy as np

from . import _validation, persistence
from .persistence import require

__all__ = ["Checkpoint", "Recorder", "conform"]

FORMAT_VERSION = 1
_ENTRY = "cymlp_checkpoint"
_KEYS = {"format_version", "run", "sha256", "state"}
_ARRAYS = ("$array", "$list")
_LONG = 64  # floats in a list from which on they are a tensor: a history of 100,000 epochs takes no longer to write
_MAX_DIGITS = 1000  # of an integer, so that a file cannot make us work for long

# What a tensor can hold, by the names of NumPy and of safetensors.
_DTYPES = {"bool": "BOOL", "float32": "F32", "float64": "F64"}
_DTYPES |= {f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)}
_DTYPES |= {f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A file that `MLP.train` writes again and again, and goes on from where it is there: ``train(checkpoint=...)``.

    A run that was killed at any moment, and is called again in another process, ends with the bits of a run that was
    not: parameters, the optimiser's state, history (but for seconds).  For that the network has to be made, and `train`
    called, with the same arguments and data as before.  Where architecture, arguments or number of rows differ it is a
    ValueError; whether functions and the contents of data are the same, and whether an iterable gives its batches
    again, is left to the caller.  A run that has ended returns at once.  The number of threads may be another one; a
    CPU with other instruction sets may round otherwise.

    Parameters
    ----------
    path : str or path-like
        The file is replaced as a whole, through to the disk: the newest one always loads.
    epochs : int or None, default 1
        Write after every so many epochs; None: not for that.
    steps : int, optional
        Write after every so many minibatches, within an epoch, too.
    seconds : float, optional
        Write when so many seconds have passed since the last time, within an epoch, too; greater than 0.

    Raises
    ------
    ValueError, TypeError
        For arguments that are none of the above, or where nothing says when to write.

    Notes
    -----
    The first one is written before the first epoch, as a test of whether it can be; the last one when the run has
    ended.  `train` raises ValueError, naming the file and the reason, where there is a file that is no checkpoint or a
    damaged one, and OSError where it cannot be read or written; what was at `path` stays as it was then.

    Writing takes the time of writing the parameters twice to four times and of waiting for the disk: for short epochs
    `seconds` with ``epochs=None`` is the better choice.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from cymlp import MLP, Checkpoint
    >>> X, path = np.linspace(-1, 1, 64).reshape(-1, 1), tempfile.mkdtemp() + "/run.safetensors"
    >>> def run():
    ...     net = MLP([1, 8, 1], random_state=0, engine="reference")
    ...     return net.train(X, X**2, epochs=5, checkpoint=Checkpoint(path)), net.parameters.copy()
    >>> first, parameters = run()
    >>> again, same = run()  # the run has ended: its state is read
    >>> again.loss == first.loss, bool((same == parameters).all())
    (True, True)
    """

    path: str | os.PathLike
    epochs: int | None = 1
    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self):
        os.fsdecode(self.path)
        for name in ("epochs", "steps"):
            if getattr(self, name) is not None:
                _validation.as_count(getattr(self, name), f"Checkpoint.{name}")
        seconds = self.seconds
        if seconds is not None:
            number = isinstance(seconds, (int, float, np.number)) and not isinstance(seconds, bool)
            if not number or not 0 < seconds <= sys.float_info.max:
                raise ValueError(f"Checkpoint.seconds must be None or a finite number > 0; got {seconds!r}")
        if self.epochs is None and self.steps is None and seconds is None:
            raise ValueError("Checkpoint must have one of epochs, steps and seconds; got None for all")

    def recorder(self, run):
        """What a training loop uses: reads the state that is there, and writes the next ones.

        Parameters
        ----------
        run : dict of str
            What must be the same in all processes that go on with a run, as texts, in the order in which differences
            are told.

        Returns
        -------
        Recorder

        Raises
        ------
        ValueError, OSError
            As told above.
        """
        return Recorder(self, run)


class Recorder:
    """Decides when a `Checkpoint` is due, and writes it.

    Attributes
    ----------
    state : dict or None
        What `write` was given last, by this process or another; None where there is no file.  Arrays are new ones,
        tuples have become lists, NumPy's numbers have become Python's.
    """

    def __init__(self, checkpoint, run):
        self._checkpoint = checkpoint
        self._path = os.path.realpath(os.fsdecode(checkpoint.path))
        self._run = dict(run)
        persistence.sweep(os.path.dirname(self._path))
        self.state = self._load()
        self._written = time.monotonic()

    @property
    def is_timed(self):
        """Whether pieces of an epoch have to be short, so that a checkpoint can be due after any of them."""
        return self._checkpoint.seconds is not None

    def steps_left(self, step):
        """How many minibatches the next piece may have, or None for as many as there are.

        Parameters
        ----------
        step : int
            Those of the run that are done.
        """
        every = self._checkpoint.steps
        return None if every is None else every - step % every

    def is_due(self, step, epoch=None):
        """Whether it is time to write.

        Parameters
        ----------
        step : int
            Minibatches of the run that are done.
        epoch : int, optional
            Epochs that are done, where the last one has just ended; None within an epoch.
        """
        due = self._checkpoint
        return (
            (epoch is not None and due.epochs is not None and epoch % due.epochs == 0)
            or (due.steps is not None and step % due.steps == 0)
            or (due.seconds is not None and time.monotonic() >= self._written + due.seconds)
        )

    def write(self, state):
        """Replace the file.

        Parameters
        ----------
        state : dict

        Raises
        ------
        OSError
            Where it cannot be written; what was there is as it was.
        """
        persistence.write_atomically(self._path, _to_bytes(self._run, state))
        self._written = time.monotonic()

    def restore(self, function):
        """Do ``function(self.state)``, and tell what it cannot make sense of as a damage of the file.

        Parameters
        ----------
        function : callable
        """
        try:
            function(self.state)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
            raise ValueError(f"{self._path!r} holds no state of this run: {type(error).__name__}: {error}") from error

    def _load(self):
        try:
            with open(self._path, "rb", opener=persistence.open_at_once) as file:
                run, state = _read(file)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{self._path!r} is not a whole cymlp checkpoint: {error}") from error
        for name in (*self._run, *sorted(run.keys() - self._run.keys())):
            old, new = run.get(name, "absent"), self._run.get(name, "absent")
            if old != new:
                raise ValueError(
                    f"{self._path!r} is the checkpoint of another run: its {name} is {old}, here it is {new}"
                )
        return state


def conform(value, form, name="state"):
    """ValueError unless a state has the form that a loop expects.

    Parameters
    ----------
    value
    form
        A type: a value of that type, for float an int, too; an array: one of its dtype and shape; None: None; a dict:
        one with its keys; a list of one: any number of that form; a longer list: as many, each of its form; a tuple of
        None and another form: one of these.
    name : str
        Of the place, for the error.
    """
    if isinstance(form, tuple):
        form = next((one for one in form if (one is None) == (value is None)), form[0])
    if isinstance(form, np.ndarray):
        good = isinstance(value, np.ndarray) and (value.dtype, value.shape) == (form.dtype, form.shape)
        require(good, f"{name} is no array of {form.dtype} of shape {form.shape}")
    elif isinstance(form, type):
        good = type(value) is form or (form is float and type(value) is int)
        require(good, f"{name} is not of type {form.__name__}")
    elif form is None:
        require(value is None, f"{name} is not None")
    elif isinstance(form, dict):
        good = isinstance(value, dict) and value.keys() == form.keys()
        require(good, f"{name} has not the keys {', '.join(form)}")
        for key in form:
            conform(value[key], form[key], f"{name}.{key}")
    else:
        require(isinstance(value, list) and len(form) in (1, len(value)), f"{name} is no list of that length")
        for i, item in enumerate(value):
            conform(item, form[i if len(form) > 1 else 0], f"{name}.{i}")


# ---- Values ----


def _encode(value, name, tensors):
    """`value` as JSON can hold it; its arrays go into the dict `tensors` by the names of their places."""
    if isinstance(value, np.ndarray):
        return {"$array": _encode_array(value, name, tensors)}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < 2**63 else {"$int": str(value)}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, (list, tuple)):
        if len(value) >= _LONG and all(type(item) is float for item in value):
            return {"$list": _encode_array(np.array(value), name, tensors)}
        return [_encode(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str) or key.startswith("$"):
                raise TypeError(f"{name} must have keys of type str that do not begin with $; got {key!r}")
        return {key: _encode(item, f"{name}.{key}", tensors) for key, item in value.items()}
    raise TypeError(
        f"{name} must be made of None, bool, numbers, str, list, dict and arrays; got {type(value).__name__}"
    )


def _encode_array(array, name, tensors):
    if array.dtype.name not in _DTYPES:
        raise TypeError(f"{name} must have one of the dtypes {', '.join(_DTYPES)}; got {array.dtype}")
    described = {"dtype": array.dtype.name, "shape": list(array.shape)}
    if array.size:
        while name in tensors:  # keys may have dots
            name += "_"
        tensors[name] = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape)
        described["tensor"] = name
    return described


def _decode(value, arrays):
    """The inverse of `_encode`, for a state whose `_descriptions` are good."""
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if not any(key.startswith("$") for key in value):
        return {key: _decode(item, arrays) for key, item in value.items()}
    require(len(value) == 1, f"its state has a dict with the keys {sorted(value)}")
    ((kind, content),) = value.items()
    if kind in _ARRAYS:
        array = arrays[content["tensor"]] if "tensor" in content else np.empty(content["shape"], content["dtype"])
        return array if kind == "$array" else array.tolist()
    require(isinstance(content, str), f"its state has a {kind} that is no text")
    if kind == "$int":
        sound = content.isascii() and content.removeprefix("-").isdecimal() and len(content) <= _MAX_DIGITS
        require(sound, f"its state has the integer {content[:40]!r}")
        return int(content)
    require(kind == "$float" and content in ("nan", "inf", "-inf"), f"its state has {kind} {content[:40]!r}")
    return float(content)


def _descriptions(value):
    """Those of all arrays in an encoded state, checked."""
    if isinstance(value, list):
        for item in value:
            yield from _descriptions(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in _ARRAYS:
                yield _check_description(item)
            else:
                yield from _descriptions(item)


def _check_description(described):
    keys = described.keys() if isinstance(described, dict) else set()
    require({"dtype", "shape"} <= keys <= {"dtype", "shape", "tensor"}, "its state has an array without dtype or shape")
    dtype, shape = described["dtype"], described["shape"]
    require(isinstance(dtype, str) and dtype in _DTYPES, f"its state has an array of dtype {dtype!r}")
    sound = isinstance(shape, list) and len(shape) <= 32
    sound = sound and all(type(n) is int and 0 <= n <= sys.maxsize for n in shape)
    require(sound, f"its state has an array of shape {shape!r}")
    if "tensor" in keys:
        require(isinstance(described["tensor"], str), "its state has a tensor whose name is no text")
    require(("tensor" in keys) == (math.prod(shape) > 0), "its state has an array whose shape and tensor do not agree")
    return described


# ---- Files ----


def _to_bytes(run, state):
    from safetensors.numpy import save

    tensors = {}
    document = {"format_version": FORMAT_VERSION, "run": run, "state": _encode(state, "state", tensors)}
    document["sha256"] = persistence.digest(document, *(tensors[name] for name in sorted(tensors)))
    return save(tensors, metadata={_ENTRY: persistence.canonical(document)})


def _read(file):
    """(run, state) of a file; ValueError for anything that `_to_bytes` cannot have made."""
    head = persistence.read_head(file, _ENTRY, "checkpoint")
    document = head.document
    version = document.get("format_version")
    require(type(version) is int and version == FORMAT_VERSION, f"format_version {version!r} is not {FORMAT_VERSION}")
    require(document.keys() == _KEYS, f"its description has the keys {sorted(document)}, expected {sorted(_KEYS)}")
    require(head.is_canonical, "its description is not canonical JSON")
    run, state = document["run"], document["state"]
    require(isinstance(run, dict) and all(isinstance(text, str) for text in run.values()), "its run has no texts")
    described = [array for array in _descriptions(state) if "tensor" in array]
    arrays = {array["tensor"]: array for array in described}
    require(len(arrays) == len(described), "its state has a tensor twice")
    require(arrays.keys() == head.tensors.keys(), "its tensors are not those of its state")
    for name, array in arrays.items():
        tensor, expected = head.tensors[name], {"dtype": _DTYPES[array["dtype"]], "shape": array["shape"]}
        given = {key: tensor.get(key) for key in expected} if isinstance(tensor, dict) else tensor
        require(
            persistence.canonical(given) == persistence.canonical(expected), f"its tensor {name!r} is not {expected}"
        )
    stored = persistence.read_tensors(file)  # their places in the file are checked there
    for name in sorted(arrays):
        arrays[name] = stored[name].astype(arrays[name]["dtype"])  # writable, and in native byte order
    checksum = persistence.digest(document, *(arrays[name] for name in sorted(arrays)))
    require(checksum == document["sha256"], "its checksum does not match")
    return run, _decode(state, arrays)
