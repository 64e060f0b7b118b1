"""Exact resume: runs whose processes are killed again and again end with the bits of runs that are not."""

import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import types
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import supervisor
from supervisor import EPOCHS, X, Y
from test_checkpoints import file_size_limit

from cymlp import MLP, Checkpoint, DivergenceError, EarlyStopping, checkpoints, training

NAMES = list(itertools.product(supervisor.CASES, ("reference", "compiled")))


@pytest.mark.parametrize(("number", "case", "engine"), [(i, *name) for i, name in enumerate(NAMES)])
def test_a_run_that_is_killed_ends_as_one_that_is_not(number, case, engine, tmp_path):
    """In folders, files and processes of their own, with one and two threads in turns."""
    done = subprocess.run(
        [sys.executable, "-W", "error", Path(supervisor.__file__), case, engine, tmp_path, str(number)],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # Python warns of forks beside threads
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["killed"] >= supervisor.SUICIDES
    assert found["resumed"] == found["whole"] == found["plain"] == found["again"]
    history = json.loads(found["plain"]["history"])
    assert found["epochs"] == history["epoch"]  # the log has each of them once
    assert found["losses"] == history["loss"]
    assert found["files"] == ["log.jsonl", "result.json", "run.safetensors"]
    if supervisor.EVERY[number % 4].get("steps") == 1:
        assert found["within"] > 0


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


class Halt(Exception):
    """Ends a run as a failure of the machine does, seen from within."""


def halt_at(epoch):
    def callback(event):
        if event.epoch == epoch:
            raise Halt

    return callback


def network(engine="reference", **options):
    return MLP((5, 8, 3), "tanh", "softmax", random_state=0, engine=engine, **options)


def interrupted(path, epoch=3, net=None, data=(X, Y), **options):
    """A run that failed in the callback of an epoch, before that was in the checkpoint."""
    net = network() if net is None else net
    with pytest.raises(Halt):
        net.train(*data, epochs=EPOCHS, checkpoint=Checkpoint(path), callback=halt_at(epoch), **options)
    return net


def resumed(path, net=None, data=(X, Y), **options):
    net = network() if net is None else net
    return net, net.train(*data, **{"epochs": EPOCHS, "checkpoint": Checkpoint(path), **options})


def test_callbacks_are_told_of_the_epochs_that_are_done(path):
    interrupted(path, 4)
    told = []

    class Diary:
        def __call__(self, event):
            told.append((event.epoch, event.step, len(event.history.loss)))

        def begin(self, event):
            told.append(("begin", event.epoch, event.step, event.loss, event.network.predict(X).tolist()))

    net, history = resumed(path, callback=Diary())
    half = network()
    half.train(X, Y, epochs=3)
    assert told[0] == ("begin", 3, 6, history.loss[2], half.predict(X).tolist())
    assert told[1:] == [(4, 8, 4), (5, 10, 5), (6, 12, 6)]
    assert history is net.history_
    assert history.epochs == EPOCHS


def test_the_same_network_can_go_on(path, engine_name):
    options = {"dropout": 0.2, "batch_size": 8, "shuffle": "stratified"}
    net = interrupted(path, 4, network(engine_name), **options)
    _, history = resumed(path, net, **options)
    whole = network(engine_name)
    assert history.loss == whole.train(X, Y, epochs=EPOCHS, **options).loss
    np.testing.assert_array_equal(net.parameters, whole.parameters)


def test_an_interrupt_at_any_call_of_a_checkpoint_leaves_one_to_go_on_from(path, monkeypatch):
    """KeyboardInterrupt, as each file is opened, written through, renamed and closed."""
    whole = network().train(X, Y, epochs=2, batch_size=22)
    left = 0

    def interrupting(call):
        def called(*arguments, **options):
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            return call(*arguments, **options)

        return called

    for name in ("open", "fsync", "replace", "close"):
        monkeypatch.setattr(os, name, interrupting(getattr(os, name)))
    options = {"epochs": 2, "batch_size": 22, "checkpoint": Checkpoint(path, epochs=None, steps=1)}
    for count in itertools.count(1):
        left = count
        try:
            network().train(X, Y, **options)
            break
        except KeyboardInterrupt:
            assert network().train(X, Y, **options).loss == whole.loss
            assert os.listdir(path.parent) == [path.name]
            path.unlink()
    assert count > 30


@pytest.mark.parametrize("reason", ["epochs", "callback", "target", "patience"])
def test_a_run_that_has_ended_returns_at_once(path, reason):
    options = {
        "callback": {"callback": lambda event: event.epoch == 2},
        "target": {"stopping": EarlyStopping(target=100.0)},
        "patience": {"stopping": EarlyStopping(patience=1, min_change=100.0)},
    }.get(reason, {})
    first, history = resumed(path, **options)
    assert history.stopped == reason
    before, told = path.read_bytes(), []
    options["callback"] = told.append
    again, same = resumed(path, **options)
    assert told == []
    assert same == history
    np.testing.assert_array_equal(again.parameters, first.parameters)
    assert path.read_bytes() == before
    more = [net.train(X, Y, epochs=1, resume=net._resumable is not None).loss for net in (first, again)]
    assert more[0] == more[1]  # generator and optimiser, too


def test_a_run_that_was_out_of_time_goes_on(path):
    net = network()
    history = net.train(X, Y, epochs=EPOCHS, checkpoint=Checkpoint(path), max_time=1e-9)
    assert history.stopped == "time"
    assert history.epochs < EPOCHS
    net, history = resumed(path, max_time=1e9)
    assert history.stopped == "epochs"
    assert history.loss == network().train(X, Y, epochs=EPOCHS).loss


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"net": MLP((5, 9, 3), "tanh", "softmax")}, "network"),
        ({"net": MLP((5, 8, 3), "relu", "softmax")}, "network"),
        ({"net": MLP((5, 8, 3), "tanh", "softmax", normalization="batch")}, "network"),
        ({"net": MLP((5, 8, 3), "tanh", "softmax", dtype=np.float32)}, "network"),
        ({"net": MLP((5, 8, 3), "tanh", "softmax", engine="compiled")}, "network"),
        ({"data": (X[:-1], Y[:-1])}, "number of rows"),
        ({"validation_data": (X, Y)}, "number of validation rows"),
        ({"epochs": 7}, "epochs"),
        ({"batch_size": 5}, "number of batches"),
        ({"batch_size": 31}, "batch_size"),
        ({"optimizer": "sgd"}, "optimizer"),
        ({"learning_rate": 0.5}, "optimizer"),
        ({"learning_rate": lambda step: 0.001}, "optimizer"),
        ({"shuffle": False}, "shuffle"),
        ({"dropout": 0.5}, "dropout"),
        ({"l1": 0.5}, "l1"),
        ({"clip_norm": 0.5}, "clip_norm"),
        ({"class_weight": "balanced"}, "class_weight"),
        ({"label_smoothing": 0.5}, "label_smoothing"),
        ({"stopping": EarlyStopping()}, "stopping"),
        ({"sample_weight": np.ones(len(X))}, "weights of rows"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_another_run_is_refused_and_nothing_changes(change, what, path):
    interrupted(path)
    before = path.read_bytes()
    net = change.pop("net", None) or network()
    parameters, state = net.parameters.copy(), repr(net._rng.bit_generator.state)
    with pytest.raises(ValueError, match=f"is the checkpoint of another run: its {re.escape(what)} is .*, here it is"):
        resumed(path, net, **change)
    assert path.read_bytes() == before
    np.testing.assert_array_equal(net.parameters, parameters)
    assert repr(net._rng.bit_generator.state) == state
    net.train(X, Y, epochs=1)


@pytest.mark.parametrize("data", [b"", b"hello", None])
def test_other_files_are_refused_before_anything_changes(data, path):
    network().save(path) if data is None else path.write_bytes(data)
    before, net = path.read_bytes(), network()
    with pytest.raises(ValueError, match=r"run\.safetensors' is not a whole cymlp checkpoint: "):
        resumed(path, net)
    assert path.read_bytes() == before
    np.testing.assert_array_equal(net.parameters, network().parameters)


def altered(**changes):
    def alter(state):
        return state | changes

    return alter


@pytest.mark.parametrize(
    "alter",
    [
        altered(parameters=np.zeros(3)),
        altered(parameters=np.full(75, np.nan)),
        altered(parameters=None),
        altered(statistics=np.zeros(2)),
        altered(optimizer=["adam", 3, np.zeros(3), np.zeros(3)]),
        altered(optimizer=["import", 3, None, None]),
        altered(rng={}),
        altered(rng=np.random.MT19937(0).state),
        altered(history={}),
        altered(history=None),
        altered(sums=[1.0]),
        altered(epoch="1"),
        altered(batch=-1),
        altered(step=None),
        altered(schedules=[]),
        lambda state: {},
        lambda state: [],
    ],
)
def test_a_state_that_makes_no_sense_is_refused_and_nothing_changes(alter, path):
    interrupted(path)
    with open(path, "rb") as file:
        run, state = checkpoints._read(file)
    path.write_bytes(checkpoints._to_bytes(run, alter(state)))
    net = network()
    generator = repr(net._rng.bit_generator.state)
    with pytest.raises(ValueError, match=r"run\.safetensors' holds no state of this run"):
        resumed(path, net)
    np.testing.assert_array_equal(net.parameters, network().parameters)
    assert repr(net._rng.bit_generator.state) == generator
    assert net.train(X, Y, epochs=2).loss == network().train(X, Y, epochs=2).loss


def test_a_folder_that_cannot_be_written_is_told_before_training(tmp_path):
    net, told = network(), []
    with pytest.raises(FileNotFoundError, match="nowhere"):
        net.train(X, Y, checkpoint=Checkpoint(tmp_path / "nowhere" / "run"), callback=told.append)
    assert told == []
    np.testing.assert_array_equal(net.parameters, network().parameters)


@pytest.fixture
def folder_of_others():
    """A folder, and all below /, that this process may read only: root becomes somebody else for a while."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            os.seteuid(user)


def test_a_read_only_folder_is_told_before_training(folder_of_others):
    net, told = network(), []
    with pytest.raises(PermissionError, match=re.escape(str(folder_of_others))):
        net.train(X, Y, checkpoint=Checkpoint(folder_of_others / "run"), callback=told.append)
    assert told == []
    np.testing.assert_array_equal(net.parameters, network().parameters)


def test_a_full_disk_ends_the_run_and_leaves_the_old_checkpoint(path):
    net, seen = network(), []

    def callback(event):
        if event.epoch == 3:
            stack.enter_context(file_size_limit(500))
        seen.append(event.network.parameters.copy())

    with ExitStack() as stack, pytest.raises(OSError, match="File too large"):
        net.train(X, Y, epochs=EPOCHS, checkpoint=Checkpoint(path), callback=callback)
    np.testing.assert_array_equal(net.parameters, seen[2])
    assert net.history_.epochs == 3
    assert os.listdir(path.parent) == [path.name]
    assert resumed(path)[1].loss == network().train(X, Y, epochs=EPOCHS).loss


def test_a_run_that_diverges_keeps_its_checkpoint(path):
    """It would diverge again: the file tells the last whole epoch."""
    for _ in range(2):
        with pytest.raises(DivergenceError, match="in epoch 2, batch"):
            resumed(path, MLP((5, 3), random_state=0), (X, X[:, :3]), optimizer="sgd", learning_rate=1e80)
    assert os.listdir(path.parent) == [path.name]


def test_the_clock_can_cut_epochs(path, monkeypatch):
    monkeypatch.setattr(training, "_TIMED_FLOPS", 1.0)
    written = []
    write = checkpoints.Recorder.write
    monkeypatch.setattr(
        checkpoints.Recorder, "write", lambda self, state: written.append(state["step"]) or write(self, state)
    )
    clock = itertools.count()
    monkeypatch.setattr(checkpoints, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    options = {"batch_size": 8, "checkpoint": Checkpoint(path, epochs=None, seconds=1)}
    _, history = resumed(path, **options)
    assert written == list(range(37))
    assert history.loss == network().train(X, Y, epochs=EPOCHS, batch_size=8).loss


def test_a_checkpoint_goes_with_resume(path):
    """The file comes first; where there is none, the optimiser's state of the call before."""
    first, second = network(), network()
    for net in (first, second):
        net.train(X, Y, epochs=2)
    whole = first.train(X, Y, epochs=EPOCHS, resume=True)
    interrupted(path, 3, second, resume=True)
    _, history = resumed(path, resume=True)
    assert history.loss == whole.loss


def test_what_is_no_checkpoint_is_refused():
    for wrong in ("run.safetensors", 3, {}):
        with pytest.raises(TypeError, match=r"checkpoint must be None or a cymlp\.Checkpoint; got"):
            network().train(X, Y, checkpoint=wrong)


@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
@pytest.mark.parametrize(
    ("sizes", "rows", "batch_size"),
    [
        ((4, 6, 2), 135, 40),  # small enough for each of two cores to have the network for itself
        ((4, 6, 2), 33, 32),
        ((300, 200, 3), 5000, 3500),  # minibatches that go through a step in parts
    ],
    ids=["mirrored", "one row left", "in parts"],
)
def test_where_an_epoch_is_cut_changes_no_bit(sizes, rows, batch_size, normalization, engine_name, dtype, path, rng):
    X, y, weight = rng.normal(size=(rows, sizes[0])), rng.normal(size=(rows, sizes[-1])), rng.random(rows)
    found = []
    for checkpoint in (None, Checkpoint(path, epochs=None, steps=1)):
        for sample_weight in (None, weight):
            net = MLP(sizes, random_state=0, dtype=dtype, engine=engine_name, normalization=normalization)
            options = {"sample_weight": sample_weight, "clip_norm": 1.0, "alpha": 0.1, "checkpoint": checkpoint}
            history = net.train(X, y, epochs=1, batch_size=batch_size, **options)
            found.append((history.loss, history.gradient_norm, net.parameters.tobytes(), net.statistics.tobytes()))
            path.unlink(missing_ok=True)
    assert found[:2] == found[2:]
