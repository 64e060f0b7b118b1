"""What users hand in: every layout and type gives the bits of the plain array, or an error that says what is wrong."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from conftest import assert_close

from cymlp import MLP, _validation, activations, losses, optimizers

ROWS, COLUMNS, OUTPUTS = 12, 5, 3


def _unaligned(A, path):
    buffer = np.zeros(A.nbytes + 1, np.uint8)
    view = buffer[1:].view(A.dtype).reshape(A.shape)
    view[...] = A
    assert not view.flags.aligned
    return view


def _read_only(A, path):
    A = A.copy()
    A.flags.writeable = False
    return A


def _memmap(A, path):
    np.save(path, A)
    return np.load(path, mmap_mode="r")


def _sliced(A, path):
    wide = np.full((2 * A.shape[0], 3 * A.shape[1]), 7, A.dtype)
    wide[::2, ::3] = A
    return wide[::2, ::3]


def _matrix(A, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return np.matrix(A)


# From a C-contiguous array of zeros and ones, which every number type can hold, to something else with numbers in it.
LAYOUTS = {
    "C": lambda A, path: A,
    "Fortran": lambda A, path: np.asfortranarray(A),
    "sliced": _sliced,
    "negative stride": lambda A, path: A[::-1, ::-1],
    "transposed": lambda A, path: np.ascontiguousarray(A.T).T,
    "broadcast": lambda A, path: np.broadcast_to(A[0], A.shape),
    "read-only": _read_only,
    "memmap": _memmap,
    "unaligned": _unaligned,
    "big-endian": lambda A, path: A.astype(A.dtype.newbyteorder(">")),
    "little-endian": lambda A, path: A.astype(A.dtype.newbyteorder("<")),
    "float16": lambda A, path: A.astype(np.float16),
    "float32": lambda A, path: A.astype(np.float32),
    "float64": lambda A, path: A.astype(np.float64),
    "longdouble": lambda A, path: A.astype(np.longdouble),
    "int8": lambda A, path: A.astype(np.int8),
    "uint64": lambda A, path: A.astype(np.uint64),
    "int32, big-endian": lambda A, path: A.astype(">i4"),
    "bool": lambda A, path: A.astype(bool),
    "list": lambda A, path: A.tolist(),
    "tuple of arrays": lambda A, path: tuple(A),
    "matrix": _matrix,
    "pandas": lambda A, path: pd.DataFrame(A),
}


@pytest.fixture(params=LAYOUTS)
def layout(request, tmp_path):
    """A function that brings an array of zeros and ones into a layout."""
    return lambda A: LAYOUTS[request.param](A, tmp_path / "array.npy")


def _bits(result):
    """Arrays and numbers, however nested, as bytes."""
    if isinstance(result, (list, tuple)):
        return [_bits(item) for item in result]
    return np.asarray(result).tobytes()


def _network(engine_name, dtype, output="identity"):
    return MLP([COLUMNS, 4, OUTPUTS], "tanh", output, dtype=dtype, random_state=0, engine=engine_name)


def _train(net, X, y, weight):
    history = net.train(X, y, epochs=2, batch_size=5, sample_weight=weight, validation_data=(X, y))
    return history.loss, history.validation_loss, net.parameters


OPERATIONS = {
    "predict": lambda net, X, y, weight: net.predict(X),
    "forward": lambda net, X, y, weight: net.forward(X),
    "gradients": lambda net, X, y, weight: net.gradients(X, y, weight),
    "evaluate": lambda net, X, y, weight: net.evaluate(X, y, weight),
    "train": _train,
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_layout_and_type_do_not_change_a_bit(operation, layout, engine_name, dtype, rng):
    X = layout(rng.integers(0, 2, (ROWS, COLUMNS)).astype(dtype))
    y = layout(rng.integers(0, 2, (ROWS, OUTPUTS)).astype(dtype))
    weight = rng.integers(1, 3, 2 * ROWS).astype(dtype)[::2]
    before = np.array(X), np.array(y)
    plain = [np.array(np.asarray(array), dtype=dtype, order="C") for array in (X, y, weight)]
    result = operation(_network(engine_name, dtype), X, y, weight)
    assert _bits(result) == _bits(operation(_network(engine_name, dtype), *plain))
    for given, copy in zip((X, y), before, strict=True):
        np.testing.assert_array_equal(np.asarray(given), copy)


@pytest.mark.parametrize(
    "kind", [bool, np.int8, np.uint8, np.int64, ">i8", np.uint64, np.float16, np.float32, np.float64]
)
@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_labels_of_any_number_type(kind, output, engine_name, rng):
    labels = rng.integers(0, 2, ROWS)
    X = rng.normal(size=(ROWS, COLUMNS))
    net = _network(engine_name, None, output)
    loss, gradients = net.gradients(X, labels.astype(kind))
    expected, expected_gradients = net.gradients(X, labels)
    assert loss == expected
    assert gradients.flat.tobytes() == expected_gradients.flat.tobytes()
    one_hot_loss, _ = net.gradients(X, np.eye(OUTPUTS)[labels])
    assert_close(one_hot_loss, loss, COLUMNS + 4 + OUTPUTS + ROWS, kind="pass", dtype=net.dtype)


def test_a_plain_array_is_not_copied(dtype):
    X = np.ones((3, 2), dtype)
    assert _validation.as_matrix(_validation.as_real_array(X, "X"), "X", 2, dtype) is X


def test_engines_get_aligned_arrays(dtype):
    X = _unaligned(np.ones((3, 2), dtype), None)
    assert _validation.as_matrix(X, "X", 2, dtype).flags.aligned


@pytest.mark.parametrize("size", [0, 1, 100, _validation._DOT_LIMIT, _validation._DOT_LIMIT + 1, 3 * 65536])
def test_finite_check_sees_every_position(size, dtype):
    values = np.full((1, size), np.finfo(dtype).max, dtype)  # whose squares, and whose sum, overflow
    values[:, ::2] *= -1
    assert _validation.is_finite(values)
    for position in {0, size // 2, size - 1} if size else ():
        for bad in (np.nan, np.inf, -np.inf):
            broken = values.copy()
            broken[0, position] = bad
            assert not _validation.is_finite(broken)
            with pytest.raises(ValueError, match=rf"X must be finite; got {bad} at row 0, column {position}$"):
                _validation.check_finite(broken, "X")


def test_empty_input(engine_name):
    net = _network(engine_name, np.float32)
    X = np.empty((0, COLUMNS), np.float32)
    assert net.predict(X).shape == (0, OUTPUTS)
    assert [A.shape for A in net.forward(X).A] == [(0, 4), (0, OUTPUTS)]
    assert [Z.dtype for Z in net.forward(X).Z] == [np.float32] * 2
    assert net.predict(np.empty((0, COLUMNS), int)).dtype == np.float32


X = np.linspace(-1, 1, ROWS * COLUMNS).reshape(ROWS, COLUMNS)
Y = np.linspace(0, 1, ROWS * OUTPUTS).reshape(ROWS, OUTPUTS)
LABELS = np.arange(ROWS) % OUTPUTS


def _with(array, index, value):
    array = np.array(array, dtype=np.result_type(array, type(value)))
    array[index] = value
    return array


def _masked():
    return np.ma.masked_array(X, mask=X > 0)


# call, exception, what the message must hold.  `net` has an identity output and float32, `soft` softmax labels,
# `sig` sigmoid outputs, `pois` the Poisson loss.
WRONG_CALLS = {
    "1-D X": (lambda n: n.net.predict(X[0]), ValueError, ["X ", "2 dimensions", "(5,)", "reshape(1, -1)"]),
    "3-D X": (lambda n: n.net.predict(X[None]), ValueError, ["X ", "2 dimensions", "(1, 12, 5)"]),
    "0-D X": (lambda n: n.net.predict(3.0), ValueError, ["X ", "2 dimensions", "()"]),
    "narrow X": (lambda n: n.net.predict(X[:, :4]), ValueError, ["X ", "5 columns", "got 4"]),
    "wide X": (lambda n: n.net.forward(np.ones((2, 6))), ValueError, ["X ", "5 columns", "got 6"]),
    "NaN in X": (lambda n: n.net.predict(_with(X, (7, 2), np.nan)), ValueError, ["X ", "nan", "row 7, column 2"]),
    "inf in X": (lambda n: n.net.gradients(_with(X, (3, 4), np.inf), Y), ValueError, ["X ", "inf", "row 3, column 4"]),
    "float32 overflow": (
        lambda n: n.net.train(_with(X, (1, 0), -1e300), Y),
        ValueError,
        ["X ", "fit in float32", "-1e+300", "row 1, column 0", "overflows"],
    ),
    "complex X": (lambda n: n.net.predict(X + 1j), TypeError, ["X ", "complex128"]),
    "object X": (lambda n: n.net.predict(X.astype(object)), TypeError, ["X ", "object"]),
    "string X": (lambda n: n.net.predict([["a"] * 5]), TypeError, ["X ", "real numbers"]),
    "date X": (lambda n: n.net.predict(np.zeros((2, 5), "M8[s]")), TypeError, ["X ", "datetime64"]),
    "ragged X": (lambda n: n.net.predict([[1, 2], [3]]), ValueError, ["X ", "one length"]),
    "huge integers": (lambda n: n.net.predict([[10**30] * 5]), TypeError, ["X ", "object"]),
    "None X": (lambda n: n.net.predict(None), TypeError, ["X ", "object"]),
    "masked X": (lambda n: n.net.predict(_masked()), TypeError, ["X ", "masked"]),
    "sparse X": (
        lambda n: n.net.predict(scipy.sparse.csr_array(X)),
        TypeError,
        ["X ", "dense", "csr_array", "toarray"],
    ),
    "sparse matrix": (lambda n: n.net.train(scipy.sparse.coo_matrix(X), Y), TypeError, ["X ", "dense", "coo_matrix"]),
    "empty gradients": (lambda n: n.net.gradients(X[:0], Y[:0]), ValueError, ["X ", "at least 1 row", "(0, 5)"]),
    "empty evaluate": (lambda n: n.net.evaluate(X[:0], Y[:0]), ValueError, ["X ", "at least 1 row"]),
    "empty train": (lambda n: n.net.train(X[:0], Y[:0]), ValueError, ["X ", "at least 1 row"]),
    "flat y": (lambda n: n.net.gradients(X, Y[:, 0]), ValueError, ["y ", "(12, 3)", "(12,)"]),
    "short y": (lambda n: n.net.gradients(X, Y[:-1]), ValueError, ["y ", "12", "got 11"]),
    "narrow y": (lambda n: n.net.train(X, Y[:, :2]), ValueError, ["y ", "(12, 3)", "(12, 2)"]),
    "0-D y": (lambda n: n.soft.gradients(X, 1), ValueError, ["y ", "(12,) or (12, 3)", "()"]),
    "NaN in y": (lambda n: n.net.gradients(X, _with(Y, (5, 1), np.nan)), ValueError, ["y ", "nan", "row 5, column 1"]),
    "string y": (lambda n: n.soft.train(X, ["cat"] * ROWS), TypeError, ["y ", "real numbers"]),
    "sparse y": (lambda n: n.net.train(X, scipy.sparse.csr_array(Y)), TypeError, ["y ", "dense"]),
    "high label": (lambda n: n.soft.gradients(X, _with(LABELS, 4, 3)), ValueError, ["y ", "0 to 2", "got 3 at row 4"]),
    "negative label": (
        lambda n: n.soft.train(X, _with(LABELS, 2, -1)),
        ValueError,
        ["y ", "0 to 2", "got -1 at row 2"],
    ),
    "label beyond int64": (
        lambda n: n.soft.gradients(X, _with(LABELS.astype(np.uint64), 6, np.uint64(2**64 - 1))),
        ValueError,
        ["y ", "0 to 2", f"got {2**64 - 1} at row 6"],
    ),
    "fractional label": (
        lambda n: n.soft.gradients(X, LABELS + 0.5),
        ValueError,
        ["y ", "integer", "got 0.5 at row 0"],
    ),
    "NaN label": (
        lambda n: n.soft.gradients(X, _with(LABELS, 1, np.nan)),
        ValueError,
        ["y ", "integer", "got nan at row 1"],
    ),
    "inf label": (
        lambda n: n.sig.gradients(X, _with(LABELS, 1, np.inf)),
        ValueError,
        ["y ", "integer", "got inf at row 1"],
    ),
    "label column": (lambda n: n.soft.gradients(X, LABELS[:, None]), ValueError, ["y ", "(12,) or (12, 3)", "(12, 1)"]),
    "row sum": (lambda n: n.soft.gradients(X, np.full((ROWS, 3), 0.5)), ValueError, ["y ", "sum to 1", "1.5 at row 0"]),
    "negative probability": (
        lambda n: n.soft.gradients(X, np.tile([-1.0, 1.0, 1.0], (ROWS, 1))),
        ValueError,
        ["y ", "[0, 1]", "softmax", "got -1.0 at row 0, column 0"],
    ),
    "sigmoid y": (
        lambda n: n.sig.gradients(X, _with(Y, (2, 1), 1.5)),
        ValueError,
        ["y ", "[0, 1]", "1.5 at row 2, column 1"],
    ),
    "Poisson y": (lambda n: n.pois.gradients(X, _with(Y, (2, 1), -1.5)), ValueError, ["y ", ">= 0", "-1.5 at row 2"]),
    "short weight": (lambda n: n.net.gradients(X, Y, np.ones(11)), ValueError, ["sample_weight ", "(12,)", "(11,)"]),
    "2-D weight": (lambda n: n.net.train(X, Y, sample_weight=Y), ValueError, ["sample_weight ", "(12,)", "(12, 3)"]),
    "negative weight": (
        lambda n: n.net.gradients(X, Y, _with(np.ones(ROWS), 3, -2.0)),
        ValueError,
        ["sample_weight ", ">= 0", "-2.0 at position 3"],
    ),
    "NaN weight": (
        lambda n: n.net.evaluate(X, Y, _with(np.ones(ROWS), 3, np.nan)),
        ValueError,
        ["sample_weight ", "finite", "nan at position 3"],
    ),
    "zero weights": (
        lambda n: n.net.train(X, Y, sample_weight=np.zeros(ROWS)),
        ValueError,
        ["sample_weight ", "all zero"],
    ),
    "list out": (lambda n: n.net.predict(X, out=[0.0]), TypeError, ["out ", "ndarray", "list"]),
    "float64 out": (lambda n: n.net.predict(X, out=np.empty((ROWS, 3))), TypeError, ["out ", "float32", "float64"]),
    "wrong out": (lambda n: n.net.predict(X, out=np.empty((3, 3), "f4")), ValueError, ["out ", "(12, 3)", "(3, 3)"]),
    "Fortran out": (
        lambda n: n.net.predict(X, out=np.empty((ROWS, 3), "f4", order="F")),
        ValueError,
        ["out ", "C-contiguous"],
    ),
    "read-only out": (
        lambda n: n.net.predict(X, out=_read_only(np.empty((ROWS, 3), "f4"), None)),
        ValueError,
        ["out ", "writable"],
    ),
    "short parameters": (lambda n: setattr(n.net, "parameters", [1.0]), ValueError, ["parameters ", "(39,)", "(1,)"]),
    "NaN parameters": (
        lambda n: setattr(n.net, "parameters", np.full(39, np.nan)),
        ValueError,
        ["parameters ", "nan at position 0"],
    ),
    "wrong weights": (
        lambda n: setattr(n.net, "weights", [np.ones((5, 4)), np.ones((3, 4))]),
        ValueError,
        ["weights[1] ", "(4, 3)", "(3, 4)"],
    ),
    "no weights": (
        lambda n: setattr(n.net, "weights", None),
        TypeError,
        ["weights ", "sequence of arrays", "NoneType"],
    ),
    "one bias": (lambda n: setattr(n.net, "biases", 3.0), TypeError, ["biases ", "sequence of arrays", "float"]),
    "few biases": (lambda n: setattr(n.net, "biases", [np.ones(4)]), ValueError, ["biases ", "2 arrays", "got 1"]),
    "zero epochs": (lambda n: n.net.train(X, Y, epochs=0), ValueError, ["epochs ", ">= 1", "got 0"]),
    "float epochs": (lambda n: n.net.train(X, Y, epochs=1.5), TypeError, ["epochs ", "integer", "1.5"]),
    "bool batch": (lambda n: n.net.train(X, Y, batch_size=True), TypeError, ["batch_size ", "integer", "True"]),
    "negative batch": (lambda n: n.net.train(X, Y, batch_size=-1), ValueError, ["batch_size ", ">= 1", "-1"]),
    "optimizer": (lambda n: n.net.train(X, Y, optimizer="sdg"), ValueError, ["optimizer ", "sgd", "'sdg'"]),
    "learning rate": (lambda n: n.net.train(X, Y, learning_rate=-1.0), ValueError, ["learning_rate ", "> 0", "-1.0"]),
    "huge learning rate": (
        lambda n: n.net.train(X, Y, learning_rate=10**400),
        ValueError,
        ["Adam.learning_rate ", "finite number > 0", "got 1000"],
    ),
    "tiny epsilon": (
        lambda n: n.net.train(X, Y, optimizer=optimizers.RMSprop(epsilon=1e-42)),
        ValueError,
        ["RMSprop.epsilon ", "1.18e-38", "float32", "got 1e-42"],
    ),
    "tiny epsilon in float64": (
        lambda n: n.soft.train(X, LABELS, optimizer=optimizers.AdamW(epsilon=3e-308)),
        ValueError,
        ["AdamW.epsilon ", "7.04e-307", "float64", "got 3e-308"],
    ),
    "shuffle": (lambda n: n.net.train(X, Y, shuffle=1), TypeError, ["shuffle ", "True or False", "got 1"]),
    "resume": (lambda n: n.net.train(X, Y, resume="yes"), TypeError, ["resume ", "True or False", "'yes'"]),
    "resumed lbfgs": (lambda n: n.net.train(X, Y, optimizer="lbfgs", resume=True), ValueError, ["resume ", "lbfgs"]),
    "callback": (lambda n: n.net.train(X, Y, callback=3), TypeError, ["callback ", "callable", "int"]),
    "validation": (
        lambda n: n.net.train(X, Y, validation_data=X),
        TypeError,
        ["validation_data ", "(X, y)", "ndarray"],
    ),
    "validation X": (
        lambda n: n.net.train(X, Y, validation_data=(X[:, :3], Y)),
        ValueError,
        ["validation_data[0] ", "5 columns", "got 3"],
    ),
    "validation y": (
        lambda n: n.net.train(X, Y, validation_data=(X, Y[:3])),
        ValueError,
        ["validation_data[1] ", "12", "got 3"],
    ),
    "validation weight": (
        lambda n: n.net.train(X, Y, validation_data=(X, Y, np.zeros(ROWS))),
        ValueError,
        ["validation_data[2] ", "all zero"],
    ),
}


class _Networks:
    def __init__(self, engine_name):
        self.net = _network(engine_name, np.float32)
        self.soft, self.sig, self.pois = (_network(engine_name, None, name) for name in ("softmax", "sigmoid", "exp"))


@pytest.mark.parametrize(("call", "exception", "parts"), WRONG_CALLS.values(), ids=WRONG_CALLS)
def test_wrong_calls_are_named_and_change_nothing(call, exception, parts, engine_name):
    networks = _Networks(engine_name)

    def state():
        return [
            (n.parameters.tobytes(), n.dtype, n._dtype_decided, n._rng.bit_generator.state, n.history_, n._resumable)
            for n in vars(networks).values()
        ]

    before = state()
    with pytest.raises(exception) as caught:
        call(networks)
    message = str(caught.value)
    for part in parts:
        assert part in message, message
    assert message.split()[0] == parts[0].strip() or "." in message.split()[0], message
    assert state() == before


WRONG_CONSTRUCTIONS = {
    "one layer": ({"layer_sizes": [3]}, ValueError, ["layer_sizes", "at least 2", "[3]"]),
    "no layers": ({"layer_sizes": None}, TypeError, ["layer_sizes", "sequence", "None"]),
    "more than an address space": (
        {"layer_sizes": [2**40, 2**40]},
        ValueError,
        ["layer_sizes", "at most", str([2**40, 2**40]), f"{2**80 + 2**40:,}"],
    ),
    "more than any memory": (
        {"layer_sizes": [2**28, 2**28]},
        MemoryError,
        ["layer_sizes", f"{2**56 + 2**28:,} parameters", str([2**28, 2**28])],
    ),
    "no sequence": ({"layer_sizes": 3}, TypeError, ["layer_sizes", "sequence", "3"]),
    "zero units": ({"layer_sizes": [3, 0, 1]}, ValueError, ["layer_sizes[1]", ">= 1", "0"]),
    "float units": ({"layer_sizes": [3, 2.0]}, TypeError, ["layer_sizes[1]", "integer", "2.0"]),
    "activation": ({"hidden_activation": "rely"}, ValueError, ["hidden_activation", "relu", "'rely'"]),
    "activations": ({"hidden_activation": ["relu", "rely"]}, ValueError, ["hidden_activation[1]", "'rely'"]),
    "too few": ({"hidden_activation": ["relu"]}, ValueError, ["hidden_activation", "2 entries", "1"]),
    "no activation": ({"hidden_activation": 3}, TypeError, ["hidden_activation", "list", "3"]),
    "hidden softmax": ({"hidden_activation": "softmax"}, ValueError, ["hidden_activation", "softmax", "output"]),
    "output": ({"output_activation": None}, ValueError, ["output_activation", "None"]),
    "loss": ({"loss": "mse"}, ValueError, ["loss", "squared_error", "'mse'"]),
    "pair": ({"loss": "binary_cross_entropy"}, ValueError, ["loss", "sigmoid", "'identity'"]),
    "initializer": ({"initializer": "magic"}, ValueError, ["initializer", "'magic'"]),
    "initializer's shape": (
        {"initializer": lambda rng, n, m, gain: np.ones(2)},
        ValueError,
        ["initializer", "(3, 4)", "(2,)"],
    ),
    "initializer's size": (
        {"initializer": lambda rng, n, m, gain: np.full((n, m), 1e300), "dtype": np.float32},
        ValueError,
        ["initializer", "float32", "1e+300"],
    ),
    "huge gain": ({"gain": 10**400}, ValueError, ["gain", "finite", "1000"]),
    "gain": ({"gain": np.inf}, ValueError, ["gain", "finite", "inf"]),
    "dtype": ({"dtype": np.float16}, ValueError, ["dtype", "float32 or float64", "float16"]),
    "no dtype": ({"dtype": "fast"}, ValueError, ["dtype", "float32 or float64", "'fast'"]),
    "threads": ({"n_threads": 0}, ValueError, ["n_threads", ">= 1", "0"]),
    "float threads": ({"n_threads": 2.0}, TypeError, ["n_threads", "integer", "2.0"]),
    "seed": ({"random_state": -1}, ValueError, ["random_state", ">= 0", "-1"]),
    "legacy generator": ({"random_state": np.random.RandomState(0)}, TypeError, ["random_state", "Generator"]),
    "engine": ({"engine": "fast"}, ValueError, ["engine", "'compiled'", "'fast'"]),
    "definition": (
        {"hidden_activation": activations.ACTIVATIONS["relu"]},
        TypeError,
        ["hidden_activation", "Activation"],
    ),
}


@pytest.mark.parametrize(("arguments", "exception", "parts"), WRONG_CONSTRUCTIONS.values(), ids=WRONG_CONSTRUCTIONS)
def test_wrong_constructions_are_named(arguments, exception, parts):
    with pytest.raises(exception) as caught:
        MLP(**{"layer_sizes": [3, 4, 4, 2], "engine": "reference"} | arguments)
    for part in parts:
        assert part in str(caught.value)


HUGE = {
    "slope": lambda: activations.leaky_relu(10**400),
    "delta": lambda: losses.huber(10**400),
    "level": lambda: losses.quantile(10**400),
    "SGD.learning_rate": lambda: optimizers.SGD(10**400),
    "SGD.momentum": lambda: optimizers.SGD(0.1, 10**400),
    "AdamW.weight_decay": lambda: optimizers.AdamW(weight_decay=10**400),
    "LBFGS.gradient_tolerance": lambda: optimizers.LBFGS(gradient_tolerance=10**400),
}


@pytest.mark.parametrize("name", HUGE)
def test_integers_beyond_all_floats_are_named(name):
    with pytest.raises(ValueError, match=rf"^{name} must be a (finite )?number .*; got 10{{400}}$"):
        HUGE[name]()


WRONG_WEIGHTS = {
    "no list": ((None, None), TypeError, ["coefs", "sequence of arrays", "NoneType"]),
    "no others": (([np.ones((2, 3))], 5), TypeError, ["intercepts", "sequence of arrays", "int"]),
    "none": (([], []), ValueError, ["coefs", "at least 1"]),
    "1-D": (([[1.0]], [[1.0]]), ValueError, ["coefs[0]", "2 dimensions", "(1,)"]),
    "chain": (([np.ones((2, 3)), np.ones((4, 1))], [np.ones(3), [1.0]]), ValueError, ["coefs[1]", "3 rows", "got 4"]),
    "count": (([np.ones((2, 3))], []), ValueError, ["intercepts", "1", "got 0"]),
    "bias": (([np.ones((2, 3))], [np.ones(2)]), ValueError, ["intercepts[0]", "(3,)", "(2,)"]),
    "infinite": (([[[np.inf]]], [[1.0]]), ValueError, ["coefs[0]", "inf", "row 0, column 0"]),
    "text": (([[["a"]]], [[1.0]]), TypeError, ["coefs[0]", "real numbers"]),
}


@pytest.mark.parametrize(("arguments", "exception", "parts"), WRONG_WEIGHTS.values(), ids=WRONG_WEIGHTS)
def test_wrong_given_weights_are_named(arguments, exception, parts):
    with pytest.raises(exception) as caught:
        MLP.from_weights(*arguments, engine="reference")
    for part in parts:
        assert part in str(caught.value)
