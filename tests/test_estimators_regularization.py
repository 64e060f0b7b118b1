"""Estimators with dropout, normalisation, penalties, clipping and schedules, and what becomes of these in copies."""

import copy
import pickle
import threading

import numpy as np
import pytest
from conftest import assert_close
from scipy import sparse
from sklearn import base, datasets, model_selection
from test_estimators import (
    assert_same_bits,
    assert_same_to_rounding,
    draw,
    estimator,
    outputs_of,
    standing_still,
)

from cymlp import MLPClassifier, optimizers, schedules
from cymlp.normalizations import BatchNorm

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def rising(step):
    """A schedule of one's own."""
    return 0.01 * step


def lately(step):
    """Another one, which begins without any."""
    return 0.9 * (step >= 3)


FEATURES = {
    "dropout": {"dropout": 0.3},
    "dropout_by_layer": {"dropout": [0.1, 0.5, schedules.Polynomial(0.4, steps=9)]},
    "batch_norm": {"batch_norm": True},
    "layer_norm": {"layer_norm": True},
    "l1": {"l1": 0.01},
    "l2": {"l2": 0.05},
    "weight_decay": {"weight_decay": 0.1},
    "scheduled_decay": {"weight_decay": schedules.Polynomial(0.5, steps=20)},
    "decay_by_function": {"weight_decay": rising},
    "max_norm": {"max_norm": 0.8},
    "clip_norm": {"clip_norm": 0.2},
    "clip_value": {"clip_value": 0.01},
    "clip_layer_norm": {"clip_layer_norm": 0.05},
    "penalize_biases": {"penalize_biases": True, "l2": 0.1},
    "schedule": {"learning_rate": schedules.WarmUp(schedules.Exponential(0.02, steps=12), steps=4)},
    "plateau": {"learning_rate": schedules.ReduceOnPlateau(0.02, factor=0.5, patience=1, min_change=10.0)},
    "momentum": {"solver": "sgd", "momentum": schedules.Polynomial(0.95, final=0.5, steps=20)},
    "momentum_by_function": {"solver": "sgd", "momentum": lately, "nesterovs_momentum": False},
    "all": {
        "dropout": [0.1, 0.2, 0.3],
        "batch_norm": BatchNorm(momentum=0.3),
        "l1": 0.001,
        "l2": 0.01,
        "weight_decay": 0.05,
        "max_norm": 1.5,
        "clip_norm": 1.0,
        "learning_rate": schedules.OneCycle(0.001, peak=0.02, steps=24),
    },
}
LAYERS = {"hidden_layer_sizes": (7, 6)}


def build(kind, feature, **params):
    return estimator(kind, **{**LAYERS, **params, **FEATURES[feature]})


# ---- Training ----


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize(("kind", "solver"), [("multiclass", "adam"), ("outputs", "sgd")])
def test_it_trains_as_in_the_reference(feature, kind, solver):
    X, y = draw(kind)
    compiled, oracle = (
        build(kind, feature, solver=solver, engine=engine).fit(X, y) for engine in ("compiled", "reference")
    )
    assert_same_to_rounding(compiled, oracle, len(X))
    plain = estimator(kind, solver=solver, **LAYERS).fit(X, y)
    assert not np.array_equal(compiled.coefs_[0], plain.coefs_[0])
    np.testing.assert_allclose(compiled.network_.statistics, oracle.network_.statistics, rtol=1e-9)
    np.testing.assert_allclose(compiled.gradient_norm_curve_, oracle.gradient_norm_curve_, rtol=1e-9)


@pytest.mark.parametrize("feature", FEATURES)
def test_it_does_not_depend_on_threads(feature):
    X, y = draw("multiclass", rows=700, columns=40)
    params = {"hidden_layer_sizes": (70, 30), "batch_size": 300, "max_iter": 3}
    one, two = (build("multiclass", feature, **params, n_threads=n).fit(X.astype(np.float32), y) for n in (1, 2))
    assert_same_bits(one, two)
    assert one.network_.statistics.tobytes() == two.network_.statistics.tobytes()
    assert one.gradient_norm_curve_ == two.gradient_norm_curve_


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_steps_are_those_of_the_network(feature, kind):
    """All but the masks of dropout, whose seed is another."""
    X, y = draw(kind)
    given = {name: value for name, value in FEATURES[feature].items() if name not in ("dropout", "solver")}
    norms = {name: given.pop(name) for name in ("batch_norm", "layer_norm") if name in given}
    params = {**LAYERS, "solver": "sgd", "shuffle": False, "alpha": 0.2, "max_iter": 3}
    network = estimator(kind, **params, **norms).set_params(learning_rate=standing_still, max_iter=1).fit(X, y).network_
    network.statistics = network._layout.first_statistics(network.dtype)
    targets = (y == "yes")[:, None].astype(float) if kind == "binary" else y[:, None]
    own = {name: given.pop(name) for name in ("learning_rate", "momentum", "weight_decay") if name in given}
    nesterov = given.pop("nesterovs_momentum", True)
    optimizer = optimizers.SGD(**{"learning_rate": 0.01, "momentum": 0.9, "nesterov": nesterov, **own})
    history = network.train(X, targets, epochs=3, batch_size=16, optimizer=optimizer, shuffle=False, alpha=0.2, **given)
    model = estimator(kind, **params, **norms, **given, **own, nesterovs_momentum=nesterov).fit(X, y)
    assert model.network_.parameters.tobytes() == network.parameters.tobytes()
    assert model.network_.statistics.tobytes() == network.statistics.tobytes()
    assert model.network_.history_.learning_rate == history.learning_rate
    np.testing.assert_allclose(model.loss_curve_, history.loss, rtol=1e-12)
    np.testing.assert_allclose(model.gradient_norm_curve_, history.gradient_norm, rtol=1e-12)


def test_dropout_of_nothing_is_none():
    X, y = draw("multiclass")
    plain = estimator("multiclass", **LAYERS).fit(X, y)
    for dropout in ([0.0, 0.0, 0.0], np.zeros(3), 0, np.float32(0)):
        assert_same_bits(estimator("multiclass", **LAYERS, dropout=dropout).fit(X, y), plain)


def test_dropout_of_everything_leaves_the_mean():
    X, y = draw("multiclass")
    model = estimator("multiclass", **LAYERS, dropout=1.0, max_iter=200, n_iter_no_change=200).fit(X, y)
    _, counts = np.unique(y, return_counts=True)
    assert abs(model.loss_ + np.sum(counts / 90 * np.log(counts / 90))) < 0.02


def test_dropout_has_other_masks_in_each_step_and_for_each_random_state():
    X, y = draw("regression")
    params = {"dropout": 0.5, "learning_rate": standing_still, "batch_size": 90, "shuffle": False, "alpha": 0.0}
    curve = estimator("regression", **params).fit(X, y).loss_curve_
    assert len(set(curve)) == len(curve) == 4
    again = [estimator("regression", **params, random_state=seed).fit(X, y).loss_curve_ for seed in (0, 1)]
    assert again[0] == curve
    assert again[1] != curve


@pytest.mark.parametrize("early_stopping", [False, True])
def test_sparse_rows_train_as_dense_ones(early_stopping):
    """A tile of them is no whole epoch, and minibatches keep their numbers."""
    X, y = draw("multiclass", rows=500, columns=9000)
    X[:, 5:-1] *= np.random.default_rng(0).random((500, 8994)) < 0.001
    params = {"max_iter": 2, "early_stopping": early_stopping, "hidden_layer_sizes": (3, 2)}
    dense, tiles = (build("multiclass", "all", **params).fit(rows, y) for rows in (X, sparse.csr_array(X)))
    assert_same_bits(dense, tiles)
    assert dense.network_.statistics.tobytes() == tiles.network_.statistics.tobytes()


# ---- What it is for ----


@pytest.fixture(scope="module")
def noisy():
    """Digits, few of them, of which some have the label of another: what a network should not learn by heart."""
    X, y = datasets.load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = model_selection.train_test_split(
        X.astype(np.float32) / 16, y, train_size=300, random_state=0, stratify=y
    )
    wrong = np.random.default_rng(0).permutation(300)[:45]
    y_train[wrong] = np.roll(y_train[wrong], 1)
    return X_train, y_train, X_test, y_test


def test_dropout_narrows_the_gap_between_training_and_validation(noisy):
    X, y, *held_out = noisy
    gaps, scores = [], []
    for dropout in (0.0, 0.5):
        model = MLPClassifier((128,), dropout=dropout, batch_size=32, max_iter=150, tol=0, random_state=0).fit(X, y)
        scores.append(model.score(*held_out))
        gaps.append(model.score(X, y) - scores[-1])
    assert gaps[1] < gaps[0] - 0.03
    assert scores[1] > scores[0] + 0.03


def test_normalization_trains_a_depth_that_does_not_train_without():
    X, y = datasets.load_digits(return_X_y=True)
    params = {"activation": "tanh", "gain": 0.2, "batch_size": 64, "max_iter": 8, "random_state": 0, "alpha": 0.0}
    plain, batch, layer = (
        MLPClassifier((32,) * 12, **params, **more).fit((X / 16).astype(np.float32), y)
        for more in ({}, {"batch_norm": True}, {"layer_norm": True})
    )
    assert plain.loss_ > 2.2
    assert batch.score(X / 16, y) > 0.9
    assert layer.score(X / 16, y) > 0.9


# ---- Streams, copies, warm starts ----


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_stream_goes_on_where_it_was_and_so_do_copies(feature, solver):
    X, y = draw("multiclass")
    params = {"solver": solver, "shuffle": False}
    whole = build("multiclass", feature, **params, max_iter=4).fit(X, y)
    stream = build("multiclass", feature, **params).partial_fit(X, y, classes=np.unique(y)).partial_fit(X, y)
    copies = [pickle.loads(pickle.dumps(stream)), copy.deepcopy(stream)]
    for model in (stream, *copies):
        model.partial_fit(X, y).partial_fit(X, y)
        assert_same_bits(model, whole)
        assert model.network_.statistics.tobytes() == whole.network_.statistics.tobytes()
        assert model.gradient_norm_curve_ == whole.gradient_norm_curve_


def test_copies_made_by_a_callback_predict_and_go_on():
    X, y = draw("outputs")
    kept = []
    whole = build("outputs", "all", callbacks=lambda event: kept.append(pickle.dumps(event.estimator.network_)))
    whole.fit(X, y)
    for epoch, network in enumerate(map(pickle.loads, kept), 1):
        short = build("outputs", "all", max_iter=epoch).fit(X, y)
        np.testing.assert_array_equal(network.predict(X), short.predict(X))


@pytest.mark.parametrize("feature", FEATURES)
def test_clones_train_the_same(feature):
    X, y = draw("regression")
    model = build("regression", feature).fit(X, y)
    again = base.clone(model).fit(X, y)
    assert_same_bits(again, model)
    assert again.network_.statistics.tobytes() == model.network_.statistics.tobytes()


def test_warm_starts_keep_scales_and_statistics():
    X, y = draw("multiclass")
    model = build("multiclass", "batch_norm", warm_start=True).fit(X, y)
    before, statistics = model.scales_[0].copy(), model.network_.statistics.copy()
    model.set_params(learning_rate=standing_still, max_iter=1, batch_norm=BatchNorm(momentum=0.0)).fit(X, y)
    np.testing.assert_array_equal(model.scales_[0], before)
    np.testing.assert_array_equal(model.network_.statistics, statistics)
    assert model.network_.normalizations == (BatchNorm(momentum=0.0),) * 2
    for params, made in (({"batch_norm": False}, "None"), ({"batch_norm": False, "layer_norm": True}, "layer")):
        with pytest.raises(ValueError, match=rf"need the normalization of the previous fit, batch.*; .* make {made}"):
            model.set_params(**params).fit(X, y)
        np.testing.assert_array_equal(model.network_.statistics, statistics)


def test_early_stopping_takes_the_best_statistics_back():
    X, y = draw("multiclass")
    kept = []

    def keep(event):
        kept.append((event.validation_score, event.estimator.network_.statistics.copy()))

    params = {"learning_rate_init": 0.3, "early_stopping": True, "max_iter": 12, "n_iter_no_change": 12}
    model = build("multiclass", "batch_norm", **params, callbacks=keep).fit(X, y)
    best = int(np.argmax([score for score, _ in kept]))
    assert best < len(kept) - 1
    np.testing.assert_array_equal(model.network_.statistics, kept[best][1])
    short = build("multiclass", "batch_norm", **params | {"max_iter": best + 1}).fit(X, y)
    np.testing.assert_array_equal(model.predict_proba(X), short.predict_proba(X))


def test_threads_predict_with_parameters_and_statistics_of_one_epoch():
    """Also while the best ones are taken back."""
    X, y = draw("multiclass", rows=300)
    params = {"early_stopping": True, "warm_start": True, "max_iter": 3, "learning_rate_init": 0.1}
    model = build("multiclass", "batch_norm", **params).fit(X, y)
    whole, seen, done = {model.predict_proba(X).tobytes()}, set(), threading.Event()
    model.callbacks = lambda event: whole.add(event.estimator.predict_proba(X).tobytes())

    def predict():
        while not done.is_set():
            seen.add(model.predict_proba(X).tobytes())

    thread = threading.Thread(target=predict)
    thread.start()
    try:
        for _ in range(40):
            model.fit(X, y)
    finally:
        done.set()
        thread.join()
    assert seen
    assert seen <= whole


# ---- scikit-learn's class ----


@pytest.mark.parametrize("kind", ["binary", "multilabel", "outputs"])
def test_batch_normalization_becomes_a_part_of_the_weights(kind):
    X, y = draw(kind)
    params = {"batch_norm": BatchNorm(epsilon=0.01), "early_stopping": True}
    model = estimator(kind, **LAYERS, **params, **({"target_scaling": "standard"} if kind == "outputs" else {}))
    theirs = model.fit(X, y).to_sklearn()
    assert [W.shape for W in theirs.coefs_] == [W.shape for W in model.coefs_]
    assert theirs.get_params().keys() < model.get_params().keys()
    assert_close(outputs_of(theirs, X), outputs_of(model, X), 18, np.abs(outputs_of(model, X)).max() + 1, kind="pass")
    for best, last in zip(theirs._best_coefs, theirs.coefs_, strict=True):
        np.testing.assert_array_equal(best, last)
    again = type(model).from_sklearn(theirs)
    assert_close(outputs_of(again, X), outputs_of(theirs, X), 18, np.abs(outputs_of(model, X)).max() + 1, kind="pass")
    assert again.scales_ == again.running_means_ == [None] * 3


def test_layer_normalization_has_no_place_there():
    model = build("regression", "layer_norm").fit(*draw("regression"))
    with pytest.raises(ValueError, match="layer_norm must be False, as scikit-learn has none"):
        model.to_sklearn()


# ---- "lbfgs" ----

REFUSED = {
    "dropout": [0.1, [0.1, 0.0, 0.0], schedules.Constant(0.1)],
    "batch_norm": [True, BatchNorm()],
    "l1": [0.1],
    "weight_decay": [0.1, schedules.Constant(0.1)],
    "max_norm": [1.0],
    "clip_norm": [1.0, np.inf],
    "clip_value": [1.0],
    "clip_layer_norm": [1.0],
    "penalize_biases": [True],
    "learning_rate": [schedules.Constant(0.1)],
    "momentum": [schedules.Constant(0.1), rising],
    "shuffle": ["weighted"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in REFUSED.items() for value in values])
def test_lbfgs_refuses_what_it_cannot_do(name, value):
    X, y = draw("regression")
    model = estimator("regression", **LAYERS, solver="lbfgs").fit(X, y)
    before = model.network_.parameters.copy()
    with pytest.raises(ValueError, match=rf"^{name} must .* for solver 'lbfgs'"):
        model.set_params(**{name: value}).fit(X, y)
    np.testing.assert_array_equal(model.network_.parameters, before)


@pytest.mark.parametrize("params", [{"l2": 0.1}, {"layer_norm": True}, {"dropout": [0.0, 0.0, 0.0], "clip_norm": None}])
def test_lbfgs_does_the_rest_as_in_the_reference(params):
    X, y = draw("multiclass")
    compiled, oracle = (
        estimator("multiclass", **LAYERS, solver="lbfgs", **params, engine=engine).fit(X, y)
        for engine in ("compiled", "reference")
    )
    assert_same_to_rounding(compiled, oracle, len(X))


@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
def test_l2_is_alpha_over_the_number_of_rows(solver):
    X, y = draw("outputs")
    params = {**LAYERS, "solver": solver, "batch_size": 90}
    by_l2, by_alpha = (estimator("outputs", **params, alpha=a, l2=b).fit(X, y) for a, b in ((0, 0.02), (1.8, 0)))
    assert_same_to_rounding(by_l2, by_alpha, len(X))
