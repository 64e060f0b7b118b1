"""Data of estimators: how rows may be stored, that they are not copied, hidden layers as features, scaled targets."""

import itertools
import tracemalloc

import numpy as np
import pytest
from conftest import assert_close
from scipy import sparse
from sklearn import base, compose, linear_model, pipeline, preprocessing
from sklearn.exceptions import NotFittedError
from test_estimators import HIDDEN, KINDS, SOLVERS, assert_same_bits, draw, estimator, outputs_of

from cymlp import MLPClassifier, MLPRegressor
from cymlp.estimators import examples

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def _classes(kind, y):
    """What partial_fit of such data takes besides."""
    labels = {"multilabel": np.arange(3)} if kind == "multilabel" else {kind: np.unique(y)}
    return {"classes": labels[kind]} if kind in ("binary", "multiclass", "multilabel") else {}


# ---- How rows are stored ----


def _read_only(X):
    X.flags.writeable = False
    return X


def _unaligned(X):
    buffer = np.empty(X.nbytes + 1, np.uint8)[1:]
    buffer[:] = np.ascontiguousarray(X).view(np.uint8).ravel()
    return buffer.view(X.dtype).reshape(X.shape)


def _mapped(X, folder):
    np.save(folder / "X.npy", X)
    return np.load(folder / "X.npy", mmap_mode="r")


LAYOUTS = {
    "read-only": _read_only,
    "Fortran": np.asfortranarray,
    "unaligned": _unaligned,
    "strided": lambda X: np.repeat(X, 3, axis=0)[::3],
    "backwards": lambda X: np.ascontiguousarray(X[::-1, ::-1])[::-1, ::-1],
    "big-endian": lambda X: X.astype(">f8"),
    "object": lambda X: X.astype(object),
    "list": np.ndarray.tolist,
    "matrix of one row, repeated": lambda X: np.broadcast_to(X[:1], X.shape),
}
NARROW = {"float16": np.float16, "int": np.int64, "uint8": np.uint8, "bool": np.bool_, "big-endian float32": ">f4"}


@pytest.mark.parametrize("name", [*LAYOUTS, *NARROW, "memmap"])
@pytest.mark.parametrize("kind", ["multiclass", "outputs"])
def test_rows_of_any_storage_are_the_numbers_in_them(name, kind, tmp_path):
    X, y = draw(kind)
    if name == "memmap":
        stored = _mapped(X, tmp_path)
    else:
        stored = LAYOUTS[name](X.copy()) if name in LAYOUTS else np.abs(4 * X).astype(NARROW[name])
    plain = np.array(stored, dtype=np.float64, order="C")
    for params in ({}, {"early_stopping": True}, {"solver": "lbfgs"}):
        expected = estimator(kind, **params).fit(plain, y)
        assert_same_bits(estimator(kind, **params).fit(stored, y), expected)
    for method in ("predict", "predict_proba", "predict_log_proba", "transform"):
        if hasattr(expected, method):
            np.testing.assert_array_equal(getattr(expected, method)(stored), getattr(expected, method)(plain))


@pytest.mark.parametrize("fitted", [np.float32, np.float64])
@pytest.mark.parametrize("asked", [np.float32, np.float64])
def test_the_first_rows_decide_for_a_dtype(fitted, asked):
    X, y = draw("regression")
    model = estimator("regression").fit(X.astype(fitted), y)
    outputs = model.predict(X.astype(asked))
    assert outputs.dtype == model.transform(X.astype(asked)).dtype == fitted
    np.testing.assert_array_equal(outputs, model.predict(X.astype(asked).astype(fitted)))
    model.partial_fit(X.astype(asked), y)
    assert model.set_params(warm_start=True).fit(X.astype(asked), y).coefs_[0].dtype == fitted
    assert model.set_params(warm_start=False).fit(X.astype(asked), y).coefs_[0].dtype == asked


FORMATS = [sparse.csr_array, sparse.csc_matrix, sparse.coo_array]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("elements", [1, 5 * 16, 5 * 40, 2**20])
@pytest.mark.parametrize("shuffle", [False, True])
def test_sparse_rows_give_the_bits_of_dense_ones(kind, elements, shuffle, monkeypatch, dtype):
    """Over any number of tiles, the last of which are narrower than a minibatch."""
    X, y = draw(kind)
    X = np.where(np.abs(X) > 0.8, X, 0).astype(dtype)
    weight = np.linspace(0.5, 2, 90)
    for solver, container in itertools.product(["adam", "sgd"], FORMATS):
        dense = estimator(kind, solver=solver, shuffle=shuffle).fit(X, y, weight)
        with monkeypatch.context() as context:
            context.setattr(examples, "_TILE_ELEMENTS", elements)
            model = estimator(kind, solver=solver, shuffle=shuffle).fit(container(X), y, weight)
            assert_same_bits(model, dense)
            for method in ("predict", "predict_proba", "transform"):
                if hasattr(model, method):
                    np.testing.assert_array_equal(getattr(model, method)(container(X)), getattr(dense, method)(X))
            model.partial_fit(container(X), y)
        assert_same_bits(model, dense.partial_fit(X, y))


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_tiles_are_scored_and_fitted_by_lbfgs_as_a_whole(kind, monkeypatch):
    X, y = draw(kind)
    for params in ({"early_stopping": True}, {"early_stopping": True, "scoring": "loss"}, {"solver": "lbfgs"}):
        dense = estimator(kind, **params).fit(X, y, validation_data=(X, y))
        with monkeypatch.context() as context:
            context.setattr(examples, "_TILE_ELEMENTS", 5 * 16)
            model = estimator(kind, **params).fit(sparse.csr_array(X), y, validation_data=(sparse.csr_array(X), y))
        for name in ("loss_curve_", "validation_scores_", "validation_loss_curve_"):
            # A sum over rows is taken in parts.
            desired = getattr(dense, name)
            assert_close(
                getattr(model, name), desired, 4 * 90 * 4, np.abs(desired).max() + 1, kind="loss", dtype=np.float64
            )


@pytest.mark.parametrize("container", [np.asarray, sparse.csr_array], ids=["dense", "sparse"])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(container, rows):
    X, y = draw("outputs", rows=rows)
    model = MLPRegressor(hidden_layer_sizes=(3,), random_state=0, max_iter=2).fit(container(X), y)
    assert model.predict(container(X)).shape == model.predict(X).shape == (rows, 3)
    assert model.transform(container(X)).shape == (rows, 3)


# ---- Copies ----


def _peak(function, *arguments):
    """The most bytes that a call holds at a time beyond what there was."""
    function(*arguments)  # what is loaded and made once
    tracemalloc.start()
    try:
        function(*arguments)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_rows_are_not_copied(kind, shuffle, dtype, tmp_path):
    X, y = draw(kind, rows=60_000, columns=120)
    X = X.astype(dtype) if shuffle else _mapped(X.astype(dtype), tmp_path)
    model = estimator(kind, max_iter=1, batch_size=200, shuffle=shuffle, hidden_layer_sizes=(2,), n_threads=1)
    calls = [
        (model.fit, X, y),
        (model.fit, X, y, np.ones(len(X))),
        (lambda: model.fit(X, y, validation_data=(X, y)),),
        (lambda: base.clone(model).set_params(early_stopping=True, validation_fraction=0.05).fit(X, y),),
        (lambda: base.clone(model).set_params(solver="lbfgs").fit(X, y),),
        (lambda: base.clone(model).set_params(max_time=100).fit(X, y),),
        (lambda: model.partial_fit(X, y, **_classes(kind, y)),),
        (model.predict, X),
        (model.score, X, y),
        (model.transform, X),
    ]
    for call in calls:
        assert _peak(*call) < X.nbytes / 3


def test_sparse_rows_are_never_dense_as_a_whole(monkeypatch):
    monkeypatch.setattr(examples, "_TILE_ELEMENTS", 2**14)
    X = sparse.random_array((4000, 2000), density=0.001, rng=np.random.default_rng(0), format="csr")
    y = np.arange(4000) % 3
    model = MLPClassifier((2,), max_iter=1, batch_size=4, random_state=0, early_stopping=True)
    for call in ((model.fit, X, y), (model.predict, X), (model.transform, X), (model.score, X, y)):
        assert _peak(*call) < 4000 * 2000 * 8 / 20


# ---- Threads ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_bits_do_not_depend_on_threads(kind, solver, dtype):
    X, y = draw(kind, rows=400, columns=30)
    X = X.astype(dtype)
    params = {"solver": solver, "hidden_layer_sizes": (70, 40), "batch_size": 130, "max_iter": 3}
    models = [estimator(kind, **params, n_threads=n).fit(X, y, validation_data=(X, y)) for n in (1, 2, 3, None)]
    for model in models[1:]:
        assert_same_bits(models[0], model)
        np.testing.assert_array_equal(outputs_of(models[0], X), outputs_of(model, X))
        np.testing.assert_array_equal(models[0].transform(X), model.transform(X))
    assert [model.network_.n_threads for model in models] == [1, 2, 3, None]


# ---- Hidden layers as features ----


@pytest.mark.parametrize("container", [np.asarray, sparse.csr_array, np.asfortranarray], ids=["C", "sparse", "Fortran"])
@pytest.mark.parametrize("kind", ["binary", "outputs"])
def test_transform_gives_the_activations_of_a_layer(container, kind, dtype, monkeypatch):
    monkeypatch.setattr(examples, "_TILE_ELEMENTS", 5 * 16)
    X, y = draw(kind)
    X = X.astype(dtype)
    model = estimator(kind, hidden_layer_sizes=(7, 6, 4), activation=["tanh", "gelu", "relu"]).fit(X, y)
    expected = model.network_.forward(X).A
    for layer in (0, 1, 2, -1, -2, -3, np.int64(1)):
        features = model.transform(container(X), layer=layer)
        assert features.dtype == dtype
        assert features.flags.c_contiguous
        np.testing.assert_array_equal(features, expected[layer if layer >= 0 else 3 + layer])
    np.testing.assert_array_equal(model.transform(container(X)), expected[2])
    assert model.get_feature_names_out().tolist() == [f"{type(model).__name__.lower()}{i}" for i in range(4)]


@pytest.mark.parametrize("layer", [2, -3, 7, 1.0, "last", None, True])
def test_layers_that_there_are_not(layer):
    X, y = draw("multiclass")
    model = estimator("multiclass", hidden_layer_sizes=(7, 6)).fit(X, y)
    with pytest.raises(ValueError, match=f"layer must be the number of one of 2 hidden layers; got {layer!r}"):
        model.transform(X, layer=layer)
    linear = estimator("multiclass", hidden_layer_sizes=()).fit(X, y)
    with pytest.raises(ValueError, match="layer must be the number of one of 0 hidden layers; got -1"):
        linear.transform(X)
    with pytest.raises(NotFittedError):
        base.clone(model).transform(X)
    with pytest.raises(ValueError, match="X has 3 features, but MLPClassifier is expecting 5 features as input"):
        model.transform(X[:, :3])


@pytest.mark.parametrize("kind", KINDS)
def test_transform_in_a_pipeline(kind):
    X, y = draw(kind)
    model = estimator(kind)
    scaler = preprocessing.StandardScaler()
    steps = pipeline.make_pipeline(scaler, model, preprocessing.MinMaxScaler(), linear_model.Ridge())
    target = (y == "yes").astype(float) if kind == "binary" else y
    steps.fit(X, target)
    features = steps[:2].transform(X)
    assert features.shape == (90, 7)
    np.testing.assert_array_equal(model.transform(steps[0].transform(X)), features)
    np.testing.assert_array_equal(base.clone(model).fit_transform(steps[0].transform(X), target), features)
    assert steps[:-1].get_feature_names_out().tolist() == [f"{type(model).__name__.lower()}{i}" for i in range(7)]


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_transform_into_data_frames(container):
    frames = pytest.importorskip(container)
    X, y = draw("binary")
    frame = frames.DataFrame(dict(zip("abcde", X.T, strict=True)))
    model = estimator("binary").fit(frame, y).set_output(transform=container)
    features = model.transform(frame)
    assert isinstance(features, frames.DataFrame)
    assert list(features.columns) == [f"mlpclassifier{i}" for i in range(7)]
    np.testing.assert_array_equal(features.to_numpy(), model.set_output(transform="default").transform(frame))
    assert list(model.feature_names_in_) == list("abcde")
    with pytest.raises(ValueError, match="feature names"):
        model.transform(frame.rename(columns={"a": "z"}) if container == "pandas" else frame.rename({"a": "z"}))


# ---- Scaled targets ----


@pytest.mark.parametrize("kind", ["regression", "outputs"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("weighted", [False, True])
def test_target_scaling_trains_with_standardised_targets(kind, solver, weighted, dtype):
    X, y = draw(kind)
    X, y = X.astype(dtype), 1000 * y - 300
    weight = np.linspace(0.1, 2, 90).astype(dtype) if weighted else None
    model = estimator(kind, solver=solver, target_scaling="standard").fit(X, y, weight)
    mean = np.average(y, axis=0, weights=weight)
    scale = np.sqrt(np.average((y - mean) ** 2, axis=0, weights=weight))
    assert_close(model.target_mean_, np.atleast_1d(mean), 90, np.abs(y).max(), kind="product")
    assert_close(model.target_scale_, np.atleast_1d(scale), 90, np.abs(y).max(), kind="product")
    inner = estimator(kind, solver=solver).fit(X, (y - model.target_mean_) / model.target_scale_, weight)
    assert_same_bits(model, inner)
    outputs = inner.predict(X) * model.target_scale_ + model.target_mean_
    assert model.predict(X).dtype == dtype
    np.testing.assert_array_equal(model.predict(X), outputs.astype(dtype))
    assert inner.target_mean_ is inner.target_scale_ is None


def test_target_scaling_is_that_of_scikit_learn():
    X, y = draw("outputs")
    ours = estimator("outputs", target_scaling="standard").fit(X, y)
    theirs = compose.TransformedTargetRegressor(estimator("outputs"), transformer=preprocessing.StandardScaler()).fit(
        X, y
    )
    assert_close(ours.predict(X), theirs.predict(X), (5 + 7 + 3 + 16) * 24, np.abs(y).max(), kind="training")


@pytest.mark.parametrize("value", [0.0, 0.1, -1e30, 1 / 3, 7.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_constant_targets_are_not_blown_up(value, weighted):
    X, y = draw("regression", rows=97)
    weight = np.linspace(0.1, 2, 97) if weighted else None
    both = np.column_stack([np.full(97, value), y])
    model = estimator("outputs", target_scaling="standard").fit(X, both, weight)
    assert model.target_scale_[0] == 1
    assert_close(model.target_mean_[0], value, 97)
    model = estimator("regression", target_scaling="standard").partial_fit(X[:20], both[:20, 0]).partial_fit(X, y)
    assert np.isfinite(model.predict(X)).all()


def test_later_fits_keep_the_scale_of_the_first():
    X, y = draw("regression")
    model = estimator("regression", target_scaling="standard").partial_fit(X[:40], y[:40])
    mean, scale = model.target_mean_, model.target_scale_
    assert scale == y[:40].std()
    model.partial_fit(X[40:], y[40:])
    model.set_params(warm_start=True).fit(X, y, validation_data=(X, y))
    assert (model.target_mean_ is mean, model.target_scale_ is scale) == (True, True)
    scaled = (
        estimator("regression")
        .partial_fit(X[:40], (y[:40] - mean) / scale)
        .partial_fit(X[40:], (y[40:] - mean) / scale)
    )
    scaled.set_params(warm_start=True).fit(X, (y - mean) / scale)
    np.testing.assert_array_equal(scaled.predict(X) * scale + mean, model.predict(X))
    assert model.set_params(warm_start=False).fit(X, y).target_scale_ == y.std()


@pytest.mark.parametrize(
    ("name", "value"), [("loss", "poisson"), *(("output_activation", name) for name in HIDDEN[1:])]
)
def test_target_scaling_needs_outputs_without_bounds(name, value):
    X, y = draw("counts")
    with pytest.raises(ValueError, match="target_scaling must be None where the output activation is not 'identity'"):
        estimator("regression", **{name: value}, target_scaling="standard").fit(X, y)
    with pytest.raises(ValueError, match="'target_scaling' parameter of MLPRegressor must be"):
        estimator("regression", target_scaling="minmax").fit(X, y)


def test_sparse_targets_are_targets():
    X, y = draw("outputs")
    dense, thin = (estimator("outputs").fit(X, targets) for targets in (y, sparse.csr_array(y)))
    assert_same_bits(dense, thin)
