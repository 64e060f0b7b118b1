"""Batches from an iterable, memory maps, and arrays that are read batch by batch."""

import itertools
import subprocess
import sys
import textwrap
import tracemalloc

import numpy as np
import pytest
from conftest import assert_close
from test_turns import assert_in_step

from cymlp import MLP, Checkpoint, DivergenceError, schedules, sources

OPTIONS = {"epochs": 3, "batch_size": 8}


def _network(engine_name, sizes=(4, 6, 3), output="softmax", **options):
    return MLP(list(sizes), "tanh", output, random_state=5, engine=engine_name, **options)


@pytest.fixture
def labeled(rng):
    return rng.normal(size=(45, 4)), rng.integers(0, 3, 45)


def _batches(X, y, *weight, size=8):
    """The minibatches of an epoch that takes rows as they are."""
    return [tuple(part[start : start + size] for part in (X, y, *weight)) for start in range(0, len(X), size)]


class Again:
    """An iterable that is no list: of unknown length, and the same each time."""

    def __init__(self, items):
        self.items, self.passes = items, 0

    def __iter__(self):
        self.passes += 1
        return iter(self.items)


# ---- Iterables ----


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", [list, Again])
def test_batches_are_an_epoch_in_their_order(kind, weighted, engine_name, labeled, dtype, rng):
    X, y = labeled[0].astype(dtype), labeled[1]
    weight = [rng.integers(1, 9, 45).astype(float)] if weighted else []
    net, twin = _network(engine_name), _network(engine_name)
    history = net.train(kind(_batches(X, y, *weight)), epochs=3)
    expected = twin.train(X, y, shuffle=False, sample_weight=weight[0] if weighted else None, **OPTIONS)
    assert net.dtype == dtype
    assert (history.epochs, history.stopped) == (3, "epochs")
    np.testing.assert_array_equal(net.parameters, twin.parameters)
    assert_close(history.loss, expected.loss, 45, dtype=dtype)
    assert_in_step(net, net.parameters.copy())


def test_batches_may_have_any_sizes(engine_name, labeled):
    X, y = labeled
    net, twin = _network(engine_name), _network(engine_name)
    cuts = [0, 1, 2, 20, 45]
    net.train([(X[a:b], y[a:b]) for a, b in itertools.pairwise(cuts)], epochs=2)
    for number, (a, b) in enumerate([*itertools.pairwise(cuts)] * 2):
        twin.train(X[a:b], y[a:b], epochs=1, batch_size=99, shuffle=False, resume=number > 0)
    np.testing.assert_array_equal(net.parameters, twin.parameters)


def test_an_iterator_gives_one_epoch(engine_name, labeled):
    net, twin = _network(engine_name), _network(engine_name)
    history = net.train(iter(_batches(*labeled)), epochs=7)
    assert (history.epochs, history.stopped) == (1, "stream")
    twin.train(*labeled, epochs=1, batch_size=8, shuffle=False)
    np.testing.assert_array_equal(net.parameters, twin.parameters)
    assert net.train(iter(_batches(*labeled)), epochs=1, resume=True).stopped == "epochs"
    twin.train(*labeled, epochs=1, batch_size=8, shuffle=False, resume=True)
    np.testing.assert_array_equal(net.parameters, twin.parameters)


def test_an_iterable_is_begun_once_for_each_epoch(engine_name, labeled):
    batches = Again(_batches(*labeled))
    _network(engine_name).train(batches, epochs=4)
    assert batches.passes == 4


def test_batches_are_asked_for_one_at_a_time(engine_name, labeled):
    log = []

    def batches():
        for number, batch in enumerate(_batches(*labeled)):
            log.append(number)
            yield batch

    net = _network(engine_name)
    real = sources.Stream.piece

    def piece(self, *arguments):
        found = real(self, *arguments)
        log.append("piece")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources.Stream, "piece", piece)
        net.train(batches())
    # The first one decides the dtype; at the end, and for a second epoch, there is none.
    assert log == [0, "piece", 1, "piece", 2, "piece", 3, "piece", 4, "piece", 5, "piece", "piece", "piece"]


def test_weights_of_a_stream_count_in_the_mean_loss(engine_name, labeled):
    X, y = labeled
    weight = np.where(np.arange(45) < 8, 1000.0, 1.0)
    net = _network(engine_name)
    expected = net.evaluate(X, y, weight)
    history = net.train(_batches(X, y, weight), epochs=1, optimizer="sgd", learning_rate=1e-30)
    assert_close(history.loss[0], expected, 45, dtype=np.float64)


def test_a_batch_may_be_without_any_weight(engine_name, labeled):
    X, y = labeled
    weight = np.where(np.arange(45) < 8, 0.0, 1.0)
    net, twin = _network(engine_name), _network(engine_name)
    net.train(_batches(X, y, weight), epochs=2)
    twin.train(X, y, epochs=2, batch_size=8, shuffle=False, sample_weight=weight)
    np.testing.assert_array_equal(net.parameters, twin.parameters)


def test_classes_and_smoothing_of_a_stream(engine_name, rng):
    X, y = rng.normal(size=(40, 4)), rng.integers(0, 4, 40)
    options = {"class_weight": {1: 2.0, 3: 0.5}, "label_smoothing": 0.25}
    net, twin = (_network(engine_name, (4, 6, 4)) for _ in range(2))
    net.train(_batches(X, y), epochs=2, **options)
    twin.train(X, y, epochs=2, batch_size=8, shuffle=False, **options)
    np.testing.assert_array_equal(net.parameters, twin.parameters)


def test_alpha_is_divided_by_weights_as_they_were_given(engine_name, labeled):
    X, y = labeled
    nets = [_network(engine_name) for _ in range(4)]
    ones = np.ones(45)
    options = {"epochs": 2, "alpha": 3.0}
    nets[0].train(X, y, batch_size=8, shuffle=False, **options)
    nets[1].train(X, y, batch_size=8, shuffle=False, sample_weight=ones, **options)
    nets[2].train(_batches(X, y), **options)
    nets[3].train(_batches(X, y, ones), **options)
    for net in nets[1:]:
        np.testing.assert_array_equal(net.parameters, nets[0].parameters)


def test_schedules_know_the_length_of_a_list_of_batches(engine_name, labeled):
    X, y = labeled
    rate = schedules.Polynomial(0.1)
    net, twin = _network(engine_name), _network(engine_name)
    rates = net.train(_batches(X, y), epochs=3, learning_rate=rate).learning_rate
    assert rates == twin.train(X, y, shuffle=False, learning_rate=rate, **OPTIONS).learning_rate
    np.testing.assert_array_equal(net.parameters, twin.parameters)
    with pytest.raises(ValueError, match=r"Adam\.learning_rate: Polynomial\.steps must be given"):
        net.train(Again(_batches(X, y)), learning_rate=rate)
    assert net.train(Again(_batches(X, y)), epochs=1, learning_rate=schedules.Polynomial(0.1, steps=6)).epochs == 1


def test_a_stream_goes_on_from_a_checkpoint(engine_name, labeled, tmp_path):
    """Batches that were used are asked for again, and not used."""

    class Killed(Exception):
        pass

    def batches(last=None):
        for number, batch in enumerate(_batches(*labeled)):
            if number == last:
                raise Killed
            yield batch

    class Dying:
        passes = 0

        def __iter__(self):
            self.passes += 1
            return batches(4 if self.passes == 2 else None)

    checkpoint = Checkpoint(tmp_path / "run", epochs=None, steps=2)
    net, again, twin = (_network(engine_name) for _ in range(3))
    with pytest.raises(Killed):
        net.train(Dying(), epochs=3, checkpoint=checkpoint)
    history = again.train(Again(_batches(*labeled)), epochs=3, checkpoint=checkpoint)
    expected = twin.train(Again(_batches(*labeled)), epochs=3)
    assert again.parameters.tobytes() == twin.parameters.tobytes()
    assert history.loss == expected.loss


WRONG = {
    "array": (lambda X, y: (X,), {}, TypeError, ["y must be given", "ndarray"]),
    "number": (lambda X, y: (3,), {}, TypeError, ["y must be given", "int"]),
    "pair": (lambda X, y: ((X, y),), {}, TypeError, ["X must give batches (X, y)", "batch 1 is ndarray"]),
    "empty": (lambda X, y: ([],), {}, ValueError, ["X must give at least 1 batch"]),
    "long": (lambda X, y: ([(X, y, y, y)],), {}, TypeError, ["X must give batches", "tuple of length 4"]),
    "columns": (lambda X, y: ([(X[:, :3], y)],), {}, ValueError, ["X of batch 1", "4 columns", "got 3"]),
    "no rows": (lambda X, y: ([(X[:0], y[:0])],), {}, ValueError, ["X of batch 1", "at least 1 row"]),
    "labels": (lambda X, y: ([(X, y + 1)],), {}, ValueError, ["y of batch 1", "0 to 2", "got 3"]),
    "weights": (lambda X, y: ([(X, y, -y)],), {}, ValueError, ["sample_weight of batch 1", ">= 0"]),
    "own weights": (lambda X, y: (_batches(X, y),), {"sample_weight": [1]}, ValueError, ["sample_weight must be None"]),
    "balanced": (lambda X, y: (_batches(X, y),), {"class_weight": "balanced"}, ValueError, ["class_weight", "a dict"]),
    "stratified": (lambda X, y: (_batches(X, y),), {"shuffle": "stratified"}, ValueError, ["shuffle", "'stratified'"]),
    "lbfgs": (lambda X, y: (_batches(X, y),), {"optimizer": "lbfgs"}, ValueError, ["optimizer 'lbfgs'", "X must be"]),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "options", "exception", "parts"), WRONG.values(), ids=WRONG)
def test_wrong_streams_change_nothing(arguments, options, exception, parts, engine_name, labeled):
    net = _network(engine_name)
    before, state = net.parameters.copy(), net._rng.bit_generator.state
    with pytest.raises(exception) as caught:
        net.train(*arguments(*labeled), **options)
    assert all(part in str(caught.value) for part in parts), caught.value
    assert (net.history_, net._rng.bit_generator.state, net._dtype_decided) == (None, state, False)
    assert_in_step(net, before)


def test_a_bad_batch_is_named_and_its_epoch_undone(engine_name, labeled):
    X, y = labeled
    bad = X.copy()
    bad[17, 2] = np.nan
    batches = [*_batches(X, y), *_batches(bad, y)]
    net, twin = _network(engine_name), _network(engine_name)
    net.train(_batches(X, y), epochs=1)
    with pytest.raises(ValueError, match="X of batch 9 must be finite; got nan at row 1, column 2"):
        net.train(batches, epochs=3)
    assert (net.history_.epochs, net.history_.stopped) == (0, "interrupted")
    twin.train(_batches(X, y), epochs=1)
    assert_in_step(net, twin.parameters)


def test_an_error_of_the_iterable_comes_through(engine_name, labeled):
    def failing():
        yield from _batches(*labeled)[:3]
        raise OSError("connection lost")

    net = _network(engine_name)
    before = net.parameters.copy()
    with pytest.raises(OSError, match="connection lost"):
        net.train(failing())
    assert_in_step(net, before)


def test_divergence_in_a_stream_names_the_batch(engine_name, labeled):
    X, y = labeled[0].astype(np.float32), np.ones((45, 1), np.float32)
    batches = _batches(X, y)
    batches[3] = (batches[3][0] * np.float32(1e38), batches[3][1])
    net = MLP([4, 1], random_state=0, engine=engine_name)
    with pytest.raises(DivergenceError) as caught:
        net.train(batches)
    assert (caught.value.epoch, caught.value.batch, caught.value.layer) == (1, 4, 1)


# ---- Memory maps and odd types ----


def _map(tmp_path, name, array):
    path = tmp_path / f"{name}.npy"
    np.save(path, array)
    return np.load(path, mmap_mode="r")


@pytest.mark.parametrize("options", [{}, {"shuffle": False}, {"shuffle": "stratified"}, {"class_weight": "balanced"}])
@pytest.mark.parametrize("kind", ["<f4", ">f8", "u1"])
@pytest.mark.parametrize("tile", [1, 100, 2**17])
def test_a_memory_map_trains_to_the_bits_of_an_array(tile, kind, options, engine_name, labeled, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_TILE_ELEMENTS", tile)
    X, y = np.abs(labeled[0] * 50).astype(kind), labeled[1].astype("i2")
    net, twin = _network(engine_name), _network(engine_name)
    history = net.train(_map(tmp_path, "X", X), _map(tmp_path, "y", y), **OPTIONS, **options)
    expected = twin.train(X, y, **OPTIONS, **options)
    assert net.parameters.tobytes() == twin.parameters.tobytes()
    assert_close(history.loss, expected.loss, 45, dtype=np.float64)


def test_a_large_array_of_another_type_trains_to_the_bits_of_a_copy(engine_name, labeled, monkeypatch):
    X, y = (labeled[0] * 50).astype("i4"), labeled[1]
    net, twin, fortran = (_network(engine_name, dtype=np.float32) for _ in range(3))
    twin.train(X, y, **OPTIONS)
    monkeypatch.setattr(sources, "_COPY_BYTES", 100)
    monkeypatch.setattr(sources, "_TILE_ELEMENTS", 40)
    net.train(X, y, **OPTIONS)
    fortran.train(np.asfortranarray(X.astype(np.float32)), y, **OPTIONS)
    assert net.parameters.tobytes() == twin.parameters.tobytes() == fortran.parameters.tobytes()


@pytest.mark.parametrize("weighted", [False, True])
def test_what_is_read_takes_weights_and_smoothed_labels(weighted, engine_name, rng, tmp_path):
    X, y = rng.normal(size=(40, 4)), rng.integers(0, 4, 40)
    options = {"label_smoothing": 0.25, "epochs": 2, "batch_size": 8}
    if weighted:
        options |= {"sample_weight": rng.integers(1, 5, 40), "class_weight": {1: 3.0}, "alpha": 0.5}
    net, twin = (_network(engine_name, (4, 6, 4)) for _ in range(2))
    net.train(_map(tmp_path, "X", X), y, **options)
    twin.train(X, y, **options)
    assert net.parameters.tobytes() == twin.parameters.tobytes()


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_bad_row_of_a_map_is_named_when_it_comes_to_it(shuffle, engine_name, labeled, tmp_path):
    X, y = labeled
    X[33, 1] = np.inf
    net = _network(engine_name)
    before = net.parameters.copy()
    with pytest.raises(ValueError, match=r"X\[33:34\] must be finite; got inf at row 0, column 1"):
        net.train(_map(tmp_path, "X", X), y, shuffle=shuffle, **OPTIONS)
    assert net.history_.epochs == 0
    assert_in_step(net, before)
    X[33, 1], y[5] = 0, 7
    with pytest.raises(ValueError, match=r"y\[5:6\] must hold class labels 0 to 2; got 7 at row 0"):
        net.train(_map(tmp_path, "X", X), y, shuffle=shuffle, **OPTIONS)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((9, 3), (9,)), "X must have 4 columns; got 3"),
        (((9,), (9,)), "X must have 2 dimensions"),
        (((0, 4), (0,)), "X must have at least 1 row"),
        (((9, 4), (8,)), "y must have as many rows as X, 9; got 8"),
        (((9, 4), (9, 2)), r"y must have shape \(9,\) or \(9, 3\); got \(9, 2\)"),
    ],
)
def test_shapes_of_maps_are_checked_before_anything_changes(shapes, message, engine_name, tmp_path):
    net = _network(engine_name)
    arrays = [np.memmap(tmp_path / str(i), "f8", "w+", shape=shape) if 0 not in shape else np.zeros(shape)
              for i, shape in enumerate(shapes)]  # fmt: skip
    with pytest.raises(ValueError, match=message):
        net.train(*arrays)
    assert net.history_ is None


def test_lbfgs_takes_a_map_as_an_array(engine_name, labeled, tmp_path):
    net, twin = _network(engine_name), _network(engine_name)
    net.train(_map(tmp_path, "X", labeled[0]), labeled[1], epochs=3, optimizer="lbfgs")
    twin.train(*labeled, epochs=3, optimizer="lbfgs")
    assert net.parameters.tobytes() == twin.parameters.tobytes()


# ---- Memory ----


@pytest.mark.parametrize("source", ["map", "stream"])
def test_peak_memory_is_a_batch_and_the_network(source, tmp_path):
    """32 MB of bytes, which in float32 would be 128 MB; counted is what NumPy allocates."""
    n_rows, n_in, batch_size = 2**15, 2**10, 64
    X = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", np.uint8, (n_rows, n_in))
    X[:] = np.arange(n_in) % 251
    X.flush()
    X, y = np.load(tmp_path / "X.npy", mmap_mode="r"), np.zeros(n_rows, np.int64)
    net = MLP([n_in, 8, 2], output_activation="softmax", dtype=np.float32, random_state=0)
    net.predict(np.zeros((1, n_in), np.float32))
    batches = ((X[i : i + batch_size], y[i : i + batch_size]) for i in range(0, n_rows, batch_size))
    tracemalloc.start()
    if source == "map":
        history = net.train(X, y, epochs=1, batch_size=batch_size, shuffle=False)
    else:
        history = net.train(batches, epochs=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert history.epochs == 1
    gathered = sources._TILE_ELEMENTS * (4 + 1)  # converted, and as it was
    batch = batch_size * n_in * (4 + 1)
    assert peak < net.parameters.nbytes + 2 * (gathered if source == "map" else batch)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the memory of a process as Linux counts it")
def test_a_map_larger_than_memory(tmp_path):
    """A sparse file of bytes, 1 GB in float32, for a process that may have a quarter of that beside what it has."""
    code = f"""
        import resource
        import numpy as np
        from cymlp import MLP
        net = MLP([1024, 4, 1], dtype=np.float32, random_state=0, n_threads=1)
        net.train(np.zeros((9, 1024), np.float32), np.zeros((9, 1)), epochs=1)  # all that is loaded late is there
        X = np.memmap({str(tmp_path / "X")!r}, np.uint8, "w+", shape=(2**18, 1024))
        del X
        X = np.memmap({str(tmp_path / "X")!r}, np.uint8, "r", shape=(2**18, 1024))
        with open("/proc/self/status") as file:
            data = next(int(line.split()[1]) for line in file if line.startswith("VmData"))
        resource.setrlimit(resource.RLIMIT_DATA, (1024 * data + 2**28, resource.RLIM_INFINITY))
        history = net.train(X, np.zeros((2**18, 1), np.float32), epochs=1, batch_size=4096)
        print(history.stopped)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "epochs", done.stderr
