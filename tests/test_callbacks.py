"""The ready-made callbacks: what they draw and write, in runs that end well, badly, or go on in another process."""

import copy
import csv
import importlib.util
import io
import json
import math
import pickle
import struct
import sys
import types

import numpy as np
import pytest

from cymlp import MLP, MLPClassifier, callbacks, plots, schedules

TITLE = list(callbacks.FIELDS)
NO_TENSORBOARD = r"^TensorBoard needs tensorboardX or tensorboard: pip install tensorboardX$"
LOGS = [callbacks.CSVLog, callbacks.JSONLinesLog]


def event(epoch, epochs=5, **fields):
    """As `MLP.train` makes them: absent values are None."""
    n = epoch or 0
    history = types.SimpleNamespace(loss=[1 / i for i in range(1, n + 1)], validation_loss=[])
    defaults = {"loss": 1 / epoch if epoch else None, "step": 7 * n, "history": history, "network": None}
    names = ("validation_loss", "metric", "learning_rate", "gradient_norm", "seconds")
    return types.SimpleNamespace(epoch=epoch, epochs=epochs, **{**dict.fromkeys(names), **defaults, **fields})


def run(callback, first=1, last=3, epochs=5, **fields):
    """Epochs first .. last, as `MLP.train` tells of them."""
    callback.begin(event(first - 1, epochs, **fields))
    for epoch in range(first, last + 1):
        assert callback(event(epoch, epochs, **fields)) is None
    if hasattr(callback, "end"):
        callback.end(event(last, epochs, **fields))


def read(path):
    """The columns of a log."""
    if path.suffix == ".csv":
        with open(path, newline="", encoding="ascii") as file:
            rows = list(csv.DictReader(file))
        rows = [{name: float(text) if text else None for name, text in row.items()} for row in rows]
    else:
        rows = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
    assert all(list(row) == TITLE for row in rows)
    return {name: [row[name] for row in rows] for name in TITLE}


@pytest.fixture(params=LOGS)
def log(request, tmp_path):
    return request.param(tmp_path / ("log.csv" if request.param is callbacks.CSVLog else "log.jsonl"))


def path_of(log, tmp_path):
    (path,) = tmp_path.glob("log.*")
    assert log.path == str(path)
    return path


# ---- Logs ----


def test_a_log_has_a_line_for_each_epoch_with_every_digit(log, tmp_path):
    run(log, metric=np.float64(0.1), learning_rate=1e-300, gradient_norm=np.float32(0.1), seconds=2)
    columns = read(path_of(log, tmp_path))
    assert columns == {
        "epoch": [1, 2, 3],
        "step": [7, 14, 21],
        "loss": [1.0, 0.5, 1 / 3],
        "validation_loss": [None] * 3,
        "metric": [0.1] * 3,
        "learning_rate": [1e-300] * 3,
        "gradient_norm": [float(np.float32(0.1))] * 3,
        "seconds": [2.0] * 3,
    }


def test_a_log_can_be_read_while_training_goes_on(log, tmp_path):
    log.begin(event(0))
    for epoch in (1, 2, 3):
        log(event(epoch))
        assert read(path_of(log, tmp_path))["epoch"] == list(range(1, epoch + 1))


@pytest.mark.parametrize("resumed_at", [1, 2, 3, 4])
def test_a_resumed_run_tells_no_epoch_twice(log, tmp_path, resumed_at):
    run(log, 1, 3)
    path = path_of(log, tmp_path)
    before = path.read_bytes()
    run(type(log)(path), resumed_at, 5)
    assert read(path)["epoch"] == list(range(1, 6))
    assert read(path)["loss"] == [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]
    assert path.read_bytes().startswith(before)


def test_a_log_that_a_kill_cut_off_anywhere_is_gone_on_with(log, tmp_path):
    run(log, 1, 3)
    path = path_of(log, tmp_path)
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        done = max(whole[:length].count(b"\n") - (path.suffix == ".csv"), 0)
        run(type(log)(path), done + 1, 3)
        assert path.read_bytes() == whole


def test_a_new_run_begins_the_log_anew(log, tmp_path):
    run(log, 1, 5)
    run(log, 1, 2)
    assert read(path_of(log, tmp_path))["epoch"] == [1, 2]
    for epoch in (1, 2, 3):  # nobody says where it begins
        log(event(epoch))
    for epoch in (1, 2):
        log(event(epoch))
    assert read(path_of(log, tmp_path))["epoch"] == [1, 2]


@pytest.mark.parametrize("content", [b"x,y\n1,2\n", b"\0", b"loss,epoch\r\n", b'{"a": 1}\n', b"\n", b"epoch\n"])
def test_a_log_does_not_overwrite_other_files(log, tmp_path, content):
    path = tmp_path / log.path
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"log\.\w+' is there already and no .*Log: it is left as it is"):
        log.begin(event(0))
    assert path.read_bytes() == content


@pytest.mark.parametrize("line", [b"\n", b"a,b\n", b"{}\n", b"[1]\n", b'{"epoch": null}\n', b"\xff\n"])
def test_a_damaged_log_is_left_as_it_is(log, tmp_path, line):
    run(log, 1, 3)
    path = path_of(log, tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], line, *lines[2:]]))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"is no .*Log: line 3 tells of no epoch"):
        log.begin(event(3))
    assert path.read_bytes() == before


def test_a_log_that_cannot_be_written_fails_before_training(log, tmp_path):
    nowhere = type(log)(tmp_path / "nowhere" / "log")
    net = MLP([1, 1], random_state=0)
    with pytest.raises(FileNotFoundError):
        nowhere.begin(event(0, network=net))


def test_json_has_no_numbers_that_are_none(tmp_path):
    log = callbacks.JSONLinesLog(tmp_path / "log.jsonl")
    run(log, metric=math.nan, gradient_norm=math.inf)
    assert read(tmp_path / "log.jsonl")["metric"] == read(tmp_path / "log.jsonl")["gradient_norm"] == [None] * 3
    table = callbacks.CSVLog(tmp_path / "log.csv")
    run(table, metric=math.nan, gradient_norm=math.inf)
    assert all(math.isnan(value) for value in read(tmp_path / "log.csv")["metric"])
    assert read(tmp_path / "log.csv")["gradient_norm"] == [math.inf] * 3


def test_pandas_reads_the_logs(tmp_path):
    pandas = pytest.importorskip("pandas")
    for make, name in ((callbacks.CSVLog, "log.csv"), (callbacks.JSONLinesLog, "log.jsonl")):
        run(make(tmp_path / name), metric=0.25)
    table, lines = pandas.read_csv(tmp_path / "log.csv"), pandas.read_json(tmp_path / "log.jsonl", lines=True)
    for frame in (table, lines):
        assert frame["loss"].round(9).tolist() == [1, 0.5, round(1 / 3, 9)]
        assert frame["epoch"].tolist() == [1, 2, 3]
        assert frame["validation_loss"].isna().all()


# ---- The bar ----


class Packages:
    """Says which packages can be imported."""

    def __init__(self, *absent):
        self.absent = absent

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.fixture
def without(monkeypatch):
    """A function that makes packages absent."""

    def hide(*names):
        for module in [module for module in sys.modules if module.split(".")[0] in names]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setattr(sys, "meta_path", [Packages(*names), *sys.meta_path])

    return hide


def libraries():
    return [name for name in ("tqdm", "rich") if importlib.util.find_spec(name) is not None]


@pytest.mark.parametrize("library", [*libraries(), "auto"])
@pytest.mark.parametrize("epochs", [5, None])
@pytest.mark.parametrize("first", [1, 3])
def test_the_bar_shows_epochs_and_losses(library, epochs, first):
    file = io.StringIO()
    bar = callbacks.ProgressBar(library, file)
    run(bar, first, 5, epochs, validation_loss=0.25, metric=0.125)
    text = file.getvalue()
    assert "loss 0.2  validation 0.25  metric 0.125" in " ".join(text.replace("\n", " ").split(" "))
    assert "5/5" in text if epochs else "5" in text


def test_the_bar_takes_what_is_there(without):
    assert type(callbacks.ProgressBar()._make) is type
    without("tqdm")
    assert callbacks.ProgressBar()._make is callbacks._RichBar
    with pytest.raises(ImportError, match=r"needs tqdm: pip install tqdm$"):
        callbacks.ProgressBar("tqdm")
    without("tqdm", "rich")
    with pytest.raises(ImportError, match=r"needs tqdm or rich: pip install tqdm$"):
        callbacks.ProgressBar()
    with pytest.raises(ImportError, match=r"needs rich: pip install rich$"):
        callbacks.ProgressBar("rich")


@pytest.mark.parametrize("library", ["", "TQDM", None, 1])
def test_the_bar_knows_two_libraries(library):
    with pytest.raises(ValueError, match="library must be 'auto', 'tqdm' or 'rich'"):
        callbacks.ProgressBar(library)


def test_a_bar_that_nobody_ends_leaves_stdout_alone(capsys):
    before = sys.stdout, sys.stderr
    bar = callbacks.ProgressBar("rich")
    bar.begin(event(0))
    bar(event(1))
    assert (sys.stdout, sys.stderr) == before
    print("hello")
    assert capsys.readouterr().out == "hello\n"
    bar.begin(event(0))  # another run
    bar.end(event(0))


@pytest.mark.parametrize("library", libraries())
def test_a_bar_that_nobody_ends_is_closed(library, monkeypatch):
    bar, closed = callbacks.ProgressBar(library, io.StringIO()), []
    monkeypatch.setattr(bar._make, "close", lambda drawn: closed.append(drawn))
    bar(event(1))
    assert closed == []
    del bar
    assert len(closed) == 1


# ---- TensorBoard ----


def records(path):
    """The protocol buffers of an event file: TFRecords, each with its length and checksums of both."""
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(data[12 : 12 + length])
        data = data[16 + length :]
    return found


def scalars(path):
    proto = importlib.import_module(
        "tensorboardX.proto" if "tensorboardX" in sys.modules else "tensorboard.compat.proto"
    )
    event_pb2 = importlib.import_module(f"{proto.__name__}.event_pb2")
    events = [event_pb2.Event.FromString(record) for record in records(path)]
    values = [(one.step, value.tag, value.simple_value) for one in events for value in one.summary.value]
    starts = [one.step for one in events if one.session_log.status == event_pb2.SessionLog.START]
    return values, starts


@pytest.mark.parametrize(("package", "other"), [("tensorboard", "tensorboardX"), ("tensorboardX", "tensorboard")])
def test_tensorboard_writes_event_files_or_says_what_to_install(package, other, without, tmp_path):
    without(other)
    if importlib.util.find_spec(package) is None:
        with pytest.raises(ImportError, match=NO_TENSORBOARD):
            callbacks.TensorBoard(tmp_path / "run")
        return
    board = callbacks.TensorBoard(tmp_path / "run")
    run(board, 1, 2, validation_loss=0.25)
    run(board, 2, 3, metric=0.5)
    first, second = sorted((tmp_path / "run").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    training, validation = "loss/training", "loss/validation"
    values, starts = scalars(first)
    assert values == [(1, training, 1.0), (1, validation, 0.25), (2, training, 0.5), (2, validation, 0.25)]
    assert starts == [1]
    values, starts = scalars(second)
    assert [value[:2] for value in values] == [(2, training), (2, "metric"), (3, training), (3, "metric")]
    assert starts == [2]  # void from there on is what the first one tells


def test_tensorboard_absent_is_told(without, tmp_path):
    without("tensorboard", "tensorboardX")
    with pytest.raises(ImportError, match=NO_TENSORBOARD):
        callbacks.TensorBoard(tmp_path)


# ---- Pictures ----


@pytest.mark.parametrize("suffix", plots.SUFFIXES)
def test_pictures_are_replaced_as_a_whole(tmp_path, suffix):
    path = tmp_path / f"curves{suffix}"
    picture = callbacks.PlotHistory(path)
    sizes = []
    picture.begin(event(0))
    for epoch in (1, 2):
        picture(event(epoch))
        sizes.append(path.stat().st_ino)
    assert sizes[0] != sizes[1]
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml", b"%PDF-")


def test_pictures_come_every_so_many_epochs_and_at_the_end(tmp_path, monkeypatch):
    picture, drawn = callbacks.PlotHistory(tmp_path / "curves.png", every=3), []
    monkeypatch.setattr(plots, "history_figure", lambda history: drawn.append(len(history.loss)) or plots_figure())
    run(picture, 1, 7)
    assert drawn == [3, 6, 7]
    run(picture, 1, 6)
    assert drawn == [3, 6, 7, 3, 6]
    picture.begin(event(0))
    picture.end(event(0))  # no epoch at all
    assert drawn == [3, 6, 7, 3, 6]


def plots_figure():
    from matplotlib.figure import Figure

    return Figure()


def test_a_picture_has_a_panel_for_each_curve():
    loss = [3.0, 2.0, 1.0]
    history = types.SimpleNamespace(loss=loss, validation_loss=loss, metric=[0.1, math.nan, 0.3], learning_rate=[1] * 3)
    first, second = plots.history_figure(history).axes
    assert [line.get_label() for line in first.lines] == ["training", "validation"]
    assert second.get_ylabel() == "metric"
    history = types.SimpleNamespace(loss=loss, validation_loss=[], learning_rate=loss, gradient_norm=loss)
    assert [ax.get_ylabel() for ax in plots.history_figure(history).axes] == ["loss", "learning rate", "gradient norm"]


def test_pictures_refuse_wrong_arguments(tmp_path, without):
    with pytest.raises(ValueError, match=r"path must end in \.png, \.svg, \.pdf; got"):
        callbacks.PlotHistory(tmp_path / "curves.bmp")
    with pytest.raises(ValueError, match="every must be an integer >= 1; got 0"):
        callbacks.PlotHistory(tmp_path / "curves.png", 0)
    without("matplotlib")
    with pytest.raises(ImportError, match=r"^PlotHistory needs matplotlib: pip install matplotlib$"):
        callbacks.PlotHistory(tmp_path / "curves.png")


# ---- All ----


def everything(folder):
    found = [
        callbacks.ProgressBar(),
        callbacks.CSVLog(folder / "log.csv"),
        callbacks.JSONLinesLog(folder / "log.jsonl"),
        callbacks.PlotHistory(folder / "curves.png", every=2),
    ]
    try:
        return [*found, callbacks.TensorBoard(folder / "board")]
    except ImportError:
        return found


def test_callbacks_can_be_copied_and_pickled_in_the_middle_of_a_run(tmp_path):
    for callback in everything(tmp_path):
        callback.begin(event(0))
        callback(event(1))
        for again in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
            assert repr(again) == repr(callback)
            assert again.__getstate__() == callback.__getstate__()
            run(again)


def test_estimators_take_them(tmp_path, rng):
    X, y = rng.normal(size=(60, 3)), np.repeat([0, 1, 2], 20)
    model = MLPClassifier(
        (4,),
        max_iter=4,
        n_iter_no_change=9,
        early_stopping=True,
        clip_norm=1.0,
        random_state=0,
        callbacks=everything(tmp_path),
    )
    with pytest.warns(UserWarning, match="Maximum iterations"):
        model.fit(X, y)
    for name in ("log.csv", "log.jsonl"):
        columns = read(tmp_path / name)
        assert columns["epoch"] == [1, 2, 3, 4]
        assert columns["loss"] == model.loss_curve_
        assert columns["metric"] == model.validation_scores_
        assert columns["gradient_norm"] == model.gradient_norm_curve_
        assert columns["learning_rate"] == [0.001] * 4
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_training_takes_them(tmp_path, rng):
    X, y = rng.normal(size=(60, 3)), rng.normal(size=(60, 2))
    net = MLP([3, 4, 2], random_state=0)
    history = net.train(
        X,
        y,
        epochs=4,
        learning_rate=schedules.Exponential(0.01),
        clip_norm=1.0,
        validation_data=(X[:9], y[:9]),
        metric=lambda y, outputs: np.abs(y - outputs).max(),
        callback=everything(tmp_path),
    )
    for name in ("log.csv", "log.jsonl"):
        columns = read(tmp_path / name)
        assert columns.pop("step") == [2, 4, 6, 8]
        assert columns == history.to_dict()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(plots.history_figure(history).axes) == 4
    for callback in everything(tmp_path):  # for another run
        assert net.train(X, y, epochs=2, callback=callback).epochs == 2
    assert read(tmp_path / "log.csv")["epoch"] == [1, 2]


def test_an_end_that_fails_does_not_hide_why_training_ended(tmp_path, monkeypatch, rng):
    X = rng.normal(size=(8, 2))
    picture = callbacks.PlotHistory(tmp_path / "curves.png", every=9)

    def fail(epoch_told):
        raise KeyError("of training")

    monkeypatch.setattr(callbacks.PlotHistory, "_draw", lambda self, event: 1 / 0)
    with pytest.raises(KeyError, match="of training"):
        MLP([2, 2], random_state=0).train(X, X, callback=[picture, fail])
    with pytest.raises(ZeroDivisionError):
        MLP([2, 2], random_state=0).train(X, X, epochs=1, callback=picture)


def test_bars_and_pictures_of_runs_that_fail_at_once(tmp_path):
    for callback in everything(tmp_path):
        run(callback, 1, 0)
