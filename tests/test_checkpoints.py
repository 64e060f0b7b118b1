"""Checkpoint files: what they hold, what is refused, what is left when writing fails or the process is killed."""

import contextlib
import json
import math
import os
import re
import resource
import signal
import struct
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import run_python
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import save as to_bytes

from cymlp import MLP, Checkpoint, checkpoints, persistence

RUN = {"layer_sizes": "[2, 3, 1]", "epochs": "5"}
STATE = {"parameters": np.arange(5, dtype=np.float32), "loss": [0.5, math.nan], "step": 7}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


def write(path, state=STATE, run=RUN):
    Checkpoint(path).recorder(run).write(state)


def read(path, run=RUN):
    return Checkpoint(path).recorder(run).state


def same(a, b):
    """Equal to the bit, tuples and lists aside; NumPy's numbers and Python's are one."""
    if isinstance(a, np.ndarray):
        native = a.astype(a.dtype.newbyteorder("="))
        return a.shape == b.shape and native.dtype == b.dtype and native.tobytes() == b.tobytes()
    a = a.item() if isinstance(a, np.generic) else a
    if isinstance(a, (list, tuple)):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or struct.pack("<d", a) == struct.pack("<d", b)
    return a == b


# ---- What a file holds ----

DTYPES = st.sampled_from([*checkpoints._DTYPES, ">f4", ">i8"])
ARRAYS = DTYPES.flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=4))
)
KEYS = st.text(max_size=4).filter(lambda key: not key.startswith("$"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | ARRAYS
    | st.lists(st.floats(), min_size=checkpoints._LONG, max_size=checkpoints._LONG + 2),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(deadline=None, derandomize=True)
@given(state=st.dictionaries(KEYS, VALUES, max_size=4), run=st.dictionaries(st.text(max_size=3), st.text(max_size=3)))
def test_a_state_survives_to_the_bit(state, run):
    with tempfile.TemporaryDirectory() as folder:
        recorder = Checkpoint(os.path.join(folder, "run")).recorder(run)
        assert recorder.state is None
        recorder.write(state)
        again = Checkpoint(os.path.join(folder, "run")).recorder(run).state
    assert same(state, again)
    assert checkpoints._to_bytes(run, again) == checkpoints._to_bytes(run, state)


@pytest.mark.parametrize("name", ["MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"])
def test_random_generators_go_on_where_they_were(name, path):
    generator = np.random.Generator(getattr(np.random, name)(3))
    generator.integers(0, 9, 5, dtype=np.int8)  # leaves half a word behind
    write(path, {"rng": generator.bit_generator.state})
    other = np.random.Generator(getattr(np.random, name)())
    other.bit_generator.state = read(path)["rng"]
    assert other.integers(0, 99, 9, dtype=np.int32).tolist() == generator.integers(0, 99, 9, dtype=np.int32).tolist()
    assert other.permutation(9).tolist() == generator.permutation(9).tolist()


def test_arrays_that_are_read_can_be_written_into(path):
    write(path)
    parameters = read(path)["parameters"]
    assert parameters.flags.writeable
    parameters[0] = 9


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": object()}, r"^state\.a must be made of None, bool, numbers, str, list, dict and arrays; got object$"),
        ({"a": [1j]}, r"^state\.a\.0 must be made of .*; got complex$"),
        ({"a": {"b": {1, 2}}}, r"^state\.a\.b must be made of .*; got set$"),
        ({"a": np.array(["x"])}, r"^state\.a must have one of the dtypes bool, float32.*; got <U1$"),
        ({1: 2}, r"^state must have keys of type str that do not begin with \$; got 1$"),
        ({"$a": 2}, r"^state must have keys of type str that do not begin with \$; got '\$a'$"),
    ],
)
def test_what_a_state_cannot_hold_is_told(state, message, path):
    with pytest.raises(TypeError, match=message):
        write(path, state)
    assert not path.exists()


# ---- When it is due ----


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"epochs": 0}, ValueError, r"^Checkpoint\.epochs must be an integer >= 1; got 0$"),
        ({"epochs": 1.5}, TypeError, r"^Checkpoint\.epochs must be an integer >= 1; got 1\.5$"),
        ({"steps": -1}, ValueError, r"^Checkpoint\.steps must be an integer >= 1; got -1$"),
        ({"seconds": 0}, ValueError, r"^Checkpoint\.seconds must be None or a finite number > 0; got 0$"),
        ({"seconds": math.inf}, ValueError, r"^Checkpoint\.seconds must be None or a finite number > 0; got inf$"),
        ({"seconds": math.nan}, ValueError, r"^Checkpoint\.seconds must be None or a finite number > 0; got nan$"),
        ({"seconds": "1"}, ValueError, r"^Checkpoint\.seconds must be None or a finite number > 0; got '1'$"),
        ({"epochs": None}, ValueError, r"^Checkpoint must have one of epochs, steps and seconds; got None for all$"),
        ({"path": 3}, TypeError, r"expected str, bytes or os\.PathLike object, not int"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Checkpoint(**{"path": "run", **arguments})


def test_due_by_epochs_and_by_steps(path):
    by_epochs = Checkpoint(path, epochs=3).recorder(RUN)
    assert [epoch for epoch in range(1, 10) if by_epochs.is_due(7 * epoch, epoch)] == [3, 6, 9]
    assert not any(by_epochs.is_due(step) for step in range(1, 50))
    assert (by_epochs.steps_left(5), by_epochs.is_timed) == (None, False)
    by_steps = Checkpoint(path, epochs=None, steps=4).recorder(RUN)
    assert [step for step in range(1, 13) if by_steps.is_due(step)] == [4, 8, 12]
    assert [by_steps.steps_left(step) for step in range(6)] == [4, 3, 2, 1, 4, 3]
    assert not by_steps.is_due(7, 1)
    both = Checkpoint(path, epochs=2, steps=4).recorder(RUN)
    assert [both.is_due(4), both.is_due(6, 2), both.is_due(6), both.is_due(3, 1)] == [True, True, False, False]


def test_due_by_the_clock(path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    recorder = Checkpoint(path, epochs=None, seconds=10).recorder(RUN)
    assert recorder.is_timed
    found = []
    for _ in range(30):
        now[0] += 3
        if recorder.is_due(1):
            recorder.write(STATE)
            found.append(now[0] - 100)
    assert found == [12, 24, 36, 48, 60, 72, 84]


# ---- What is refused ----


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (RUN | {"epochs": "6"}, "its epochs is 5, here it is 6"),
        ({"layer_sizes": "[9]", "epochs": "6"}, r"its layer_sizes is \[2, 3, 1\], here it is \[9\]"),
        ({"layer_sizes": "[2, 3, 1]"}, "its epochs is 5, here it is absent"),
        (RUN | {"l1": "0.5"}, "its l1 is absent, here it is 0.5"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(run, message, path):
    write(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"run\.safetensors' is the checkpoint of another run: {message}$"):
        read(path, run)
    assert path.read_bytes() == before


def rejected(path, data, message="is not a whole cymlp checkpoint"):
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert repr(str(path)) in str(caught.value)
    assert path.read_bytes() == data


def test_damage_anywhere_is_found(path):
    write(path)
    whole = path.read_bytes()
    for i in range(len(whole)):
        rejected(path, whole[:i])
        rejected(path, whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :])
    rejected(path, whole + b"\0")
    path.write_bytes(whole)
    assert same(STATE, read(path))


def test_other_files_are_refused(path, tmp_path):
    for data in (b"", b"\0" * 8, b"{}", b"hello, world", os.urandom(100)):
        rejected(path, data)
    MLP([2, 1], random_state=0).save(path)
    rejected(path, path.read_bytes(), "its metadata are not those of a cymlp checkpoint")
    rejected(path, to_bytes({"parameters": np.zeros(3)}), "its metadata are not those of a cymlp checkpoint")
    write(tmp_path / "other")
    with pytest.raises(ValueError, match="its metadata are not those of a cymlp model"):
        MLP.load(tmp_path / "other")
    for place in (tmp_path, os.devnull):
        with pytest.raises((OSError, ValueError), match=re.escape(str(place))):
            read_path(place)


def read_path(place):
    return Checkpoint(place).recorder(RUN).state


def sealed(state, tensors=None, **changes):
    """A file whose checksum is right, of a state as JSON has it."""
    tensors = {} if tensors is None else tensors
    document = {"format_version": 1, "run": RUN, "state": state, **changes}
    document["sha256"] = persistence.digest(document, *(tensors[name] for name in sorted(tensors)))
    return to_bytes(tensors, metadata={"cymlp_checkpoint": persistence.canonical(document)})


def array(**changes):
    return {"a": {"$array": {"dtype": "float64", "shape": [3], "tensor": "t", **changes}}}


T = {"t": np.zeros(3)}
HOSTILE = {
    "version": (sealed({}, format_version=2), "format_version 2 is not 1"),
    "version of another type": (sealed({}, format_version=True), "format_version True is not 1"),
    "keys": (sealed({}, extra=1), "its description has the keys"),
    "run": (sealed({}, run=[]), "its run has no texts"),
    "texts": (sealed({}, run={"epochs": 5}), "its run has no texts"),
    "no dict": (sealed({"$float": "nan", "a": 1}), r"its state has a dict with the keys \['\$float', 'a'\]"),
    "float": (sealed({"$float": "1e5"}), r"its state has \$float '1e5'"),
    "kind": (sealed({"$import": "os"}), r"its state has \$import 'os'"),
    "float of another type": (sealed({"$float": 1}), r"its state has a \$float that is no text"),
    "integer": (sealed({"$int": "1_0"}), "its state has the integer '1_0'"),
    "long integer": (sealed({"$int": "1" * 5000}), "its state has the integer '1111"),
    "digits of others": (sealed({"$int": "\u0663"}), "its state has the integer"),
    "dtype": (sealed(array(dtype="object"), T), "its state has an array of dtype 'object'"),
    "dtype of another type": (sealed(array(dtype=[]), T), r"its state has an array of dtype \[\]"),
    "shape": (sealed(array(shape=[-3]), T), r"its state has an array of shape \[-3\]"),
    "shape of another type": (sealed(array(shape=[3.0]), T), r"its state has an array of shape \[3.0\]"),
    "huge": (sealed(array(shape=[2**62]), T), "its tensor 't' is not"),
    "empty": (sealed(array(shape=[0]), T), "its state has an array whose shape and tensor do not agree"),
    "no tensor": (sealed({"$array": {"dtype": "bool", "shape": [2**40]}}), "shape and tensor do not agree"),
    "unknown tensor": (sealed(array(tensor="u"), T), "its tensors are not those of its state"),
    "one more": (sealed({}, T), "its tensors are not those of its state"),
    "twice": (sealed([array(), array()], T), "its state has a tensor twice"),
    "name": (sealed(array(tensor=3), T), "its state has a tensor whose name is no text"),
    "other key": (sealed(array(code="x"), T), "its state has an array without dtype or shape"),
    "no object": (sealed({"$array": 3}), "its state has an array without dtype or shape"),
    "dtypes": (sealed(array(dtype="int64"), T), "its tensor 't' is not"),
    "shapes": (sealed(array(shape=[1, 3]), T), "its tensor 't' is not"),
    "checksum": (sealed({}).replace(b"epochs", b"epochz"), "its checksum does not match"),
    "deep": (sealed(json.loads("[" * 400 + "]" * 400)), None),
}


@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_files(data, message, path):
    if message is None:
        path.write_bytes(data)
        read(path)
    else:
        rejected(path, data, message)


def test_a_state_that_the_loop_cannot_read_is_told_with_the_file(path):
    write(path)
    recorder = Checkpoint(path).recorder(RUN)
    for error in (KeyError("m"), TypeError("m"), ValueError("m"), IndexError("m"), AttributeError("m")):

        def fail(state, error=error):
            raise error

        with pytest.raises(ValueError, match=rf"run\.safetensors' holds no state of this run: {type(error).__name__}"):
            recorder.restore(fail)
    recorder.restore(lambda state: None)


# ---- Writing that fails, and processes that are killed ----


def test_a_folder_that_cannot_be_written_is_told(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Checkpoint(tmp_path / "nowhere" / "run").recorder(RUN)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        Checkpoint(tmp_path / "file" / "run").recorder(RUN)


@contextlib.contextmanager
def file_size_limit(n_bytes, action=signal.SIG_IGN):
    """No file may become larger: what a full disk does.  Python ignores the signal and raises OSError."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, action)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)


def test_a_full_disk_leaves_the_old_checkpoint(path):
    write(path)
    before = path.read_bytes()
    recorder = Checkpoint(path).recorder(RUN)
    with file_size_limit(len(before) // 2), pytest.raises(OSError, match="File too large"):
        recorder.write(STATE | {"step": 8})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
    recorder.write(STATE | {"step": 8})
    assert read(path)["step"] == 8


# Each case is a child of one process, which has imported everything and has no threads.
SUPERVISOR = """
    import json, os, resource, signal
    import numpy as np
    from cymlp import Checkpoint

    folder = os.environ["FOLDER"]
    path = os.path.join(folder, "run")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


    def die_at(function, when, count):
        call, calls = getattr(os, function), []

        def killed(*arguments, **options):
            calls.append(arguments)
            if len(calls) < count:
                return call(*arguments, **options)
            if when == "after":
                call(*arguments, **options)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(os, function, killed)


    def die_writing(n_bytes):
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


    def child(act, arguments):
        recorder = Checkpoint(path).recorder({})
        recorder.write({"number": recorder.state["number"] + 1 if recorder.state else 0})
        act(*arguments)
        recorder.write({"number": 100, "parameters": np.zeros(10000)})


    cases = [(die_writing, (n_bytes,)) for n_bytes in (0, 1, 1000, 4096, 80000)]
    for function, calls in (("open", 2), ("fsync", 2), ("replace", 1), ("close", 2)):
        cases += [(die_at, (function, when, i)) for when in ("before", "after") for i in range(1, calls + 1)]
    for act, arguments in cases:
        if os.path.exists(path):
            os.unlink(path)
        pid = os.fork()
        if pid == 0:
            child(act, arguments)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        left = len(os.listdir(folder)) - 1
        recorder = Checkpoint(path).recorder({})
        found = [act.__name__, arguments, os.WTERMSIG(status), left, recorder.state["number"], os.listdir(folder)]
        print(json.dumps(found))
"""


def test_a_writer_that_is_killed_leaves_the_old_checkpoint_or_the_new_one(tmp_path):
    found = [json.loads(line) for line in run_python(SUPERVISOR, FOLDER=str(tmp_path)).splitlines()]
    assert len(found) == 19
    leftovers = 0
    for act, arguments, killed_by, left, number, files in found:
        assert killed_by == (signal.SIGXFSZ if act == "die_writing" else signal.SIGKILL)
        replaced = arguments == ["replace", "after", 1] or arguments[0] == "close" or arguments[1:] == ["before", 2]
        replaced = replaced or arguments[1:] == ["after", 2]
        assert number == (100 if replaced else 0), arguments
        assert files == ["run"]
        leftovers += left
    assert leftovers >= 5


def test_files_that_are_being_written_are_not_swept_away(path):
    write(path)
    ours, descriptor = persistence._new_file(str(path.parent))
    (path.parent / f".cymlp-{'0' * 16}.tmp").write_bytes(b"left behind")
    others = [".cymlp-.tmp", f".cymlp-{'0' * 16}.tmp.gz", f"cymlp-{'0' * 16}.tmp"]
    for name in others:
        (path.parent / name).write_bytes(b"")
    read(path)
    assert sorted(os.listdir(path.parent)) == sorted([path.name, os.path.basename(ours), *others])
    os.close(descriptor)
    read(path)
    assert sorted(os.listdir(path.parent)) == sorted([path.name, *others])


def test_a_file_that_is_swept_away_before_it_is_locked_is_made_again(path, monkeypatch):
    lock, swept = persistence.fcntl.flock, []

    def slow(descriptor, operation):
        if not swept and not operation & persistence.fcntl.LOCK_NB:
            swept.append(True)
            persistence.sweep(path.parent)
        lock(descriptor, operation)

    monkeypatch.setattr(persistence.fcntl, "flock", slow)
    write(path)
    assert swept
    assert same(STATE, read(path))
    assert os.listdir(path.parent) == [path.name]


def test_threads_that_write_one_file_leave_a_whole_one(path):
    def work(number):
        recorder = Checkpoint(path).recorder(RUN)
        for i in range(5):
            recorder.write({"number": number, "values": np.full(1000, number)})
            state = Checkpoint(path).recorder(RUN).state
            assert (state["values"] == state["number"]).all(), i

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert os.listdir(path.parent) == [path.name]
