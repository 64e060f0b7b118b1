"""What the estimators of scikit-learn do not have: activations, losses, initial weights, weights of classes.

Where there is a registry, the cases are its members: a new one is tested by existing.
"""

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import STANDARD_ERRORS, assert_close, is_legal
from scipy import special
from sklearn import base, metrics, neural_network, preprocessing
from sklearn.utils.class_weight import compute_sample_weight

from cymlp import MLPClassifier, MLPRegressor, activations, initializers, losses, reference

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

HIDDEN = [name for name, definition in activations.ACTIVATIONS.items() if definition.hidden]
REGRESSION_LOSSES = [name for name, definition in losses.LOSSES.items() if definition.output_activation is None]
QUICK = {"hidden_layer_sizes": (7,), "max_iter": 4, "batch_size": 16, "learning_rate_init": 0.01, "random_state": 0}
SOLVERS = ["adam", "sgd", "lbfgs"]
KINDS = ["binary", "multiclass", "multilabel", "regression", "outputs", "counts"]


def standing_still(progress):
    """A schedule with which parameters stay what they are."""
    return 0.0


def falling(progress):
    return 1 - progress


def draw(kind, rows=90, columns=5, seed=0):
    """X and y in float64."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, columns))
    Z = np.tanh(X[:, :3]) + rng.normal(0, 0.2, (rows, 3))
    y = {
        "binary": lambda: np.array(["no", "yes"])[(Z[:, 0] > 0.2).astype(int)],
        "multiclass": lambda: Z.argmax(axis=1) + 10,
        "multilabel": lambda: (Z > 0).astype(int),
        "regression": lambda: 3 * Z[:, 0] + 1,
        "outputs": lambda: 3 * Z + 1,
        "counts": lambda: rng.poisson(np.exp(Z[:, 0])).astype(float),
    }
    return X, y[kind]()


def estimator(kind, **params):
    """One for such data, which is soon fitted."""
    if kind in ("binary", "multiclass", "multilabel"):
        return MLPClassifier(**{**QUICK, **params})
    return MLPRegressor(**{**QUICK, **({"loss": "poisson"} if kind == "counts" else {}), **params})


def outputs_of(model, X):
    """The numbers that it predicts."""
    return model.predict_proba(X) if hasattr(model, "predict_proba") else model.predict(X)


class Diary:
    """A callback that keeps what it is told, and the parameters."""

    def __init__(self, stop_after=math.inf, raises=None):
        self.events, self.parameters = [], []
        self.stop_after, self.raises = stop_after, raises

    def __call__(self, event):
        self.events.append(event)
        self.parameters.append(event.estimator.network_.parameters.copy())
        if len(self.events) >= self.stop_after:
            if self.raises is not None:
                raise self.raises
            return True
        return None


def assert_same_bits(model, other):
    assert model.network_.parameters.tobytes() == other.network_.parameters.tobytes()
    assert (model.loss_curve_, model.validation_scores_) == (other.loss_curve_, other.validation_scores_)


def assert_same_to_rounding(model, other, rows):
    """Of two fits with the same steps, whose batches have at most 16 rows."""
    steps = -(-rows // 16) * model.n_iter_
    terms = (sum(model.network_.layer_sizes) + 16) * steps
    largest = np.abs(other.network_.parameters).max() + QUICK["learning_rate_init"] * steps
    dtype = model.network_.dtype
    assert_close(model.network_.parameters, other.network_.parameters, terms, largest, kind="training", dtype=dtype)
    assert_close(model.loss_curve_, other.loss_curve_, terms, max(other.loss_curve_) + 1, kind="training", dtype=dtype)


# ---- Activations ----


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_every_activation_trains_as_in_the_reference(name, kind, dtype):
    X, y = draw(kind)
    compiled, oracle = (
        estimator(kind, activation=name, hidden_layer_sizes=(7, 6), engine=engine).fit(X.astype(dtype), y)
        for engine in ("compiled", "reference")
    )
    assert compiled.network_.dtype == dtype
    assert_same_to_rounding(compiled, oracle, len(X))


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_layers_have_the_activation_that_was_asked_for(name):
    X, y = draw("outputs")
    other = activations.leaky_relu(0.3)
    model = estimator("outputs", activation=[name, other], hidden_layer_sizes=(7, 6)).fit(X, y)
    assert model.network_.hidden_activations == (activations.get(name), other)
    A = X
    for layer, activation in enumerate((activations.get(name), other, activations.get("identity"))):
        Z = A @ model.coefs_[layer] + model.intercepts_[layer]
        A = reference.activate(activation.name, np.ascontiguousarray(Z), slope=activation.slope)
    assert_close(model.predict(X), A, 5 + 7 + 6, np.abs(A).max() + 1, kind="pass")


def test_logistic_is_sigmoid():
    X, y = draw("multiclass")
    for sizes in ((), (6,), (6, 5)):
        specs = ["logistic", "sigmoid", activations.get("sigmoid"), ["logistic"] * len(sizes)]
        first, *others = (estimator("multiclass", activation=spec, hidden_layer_sizes=sizes) for spec in specs)
        first.fit(X, y)
        for other in others[: 3 if sizes else 2]:
            assert_same_bits(first, other.fit(X, y))


@pytest.mark.parametrize(
    ("activation", "error", "message"),
    [
        (["relu"], ValueError, r"activation must have 2 entries, one for each hidden layer; got 1"),
        (["relu", "softmax"], ValueError, r"activation\[1\] must not be 'softmax', which is for the output"),
        (["relu", "step"], ValueError, r"activation\[1\] must be one of identity, .*; got 'step'"),
        (("relu", None), ValueError, r"activation\[1\] must be one of"),
        (activations.get("exp"), ValueError, r"activation must not be 'exp', which is for the output"),
        ("softmax", ValueError, "'activation' parameter of MLPClassifier must be"),
        ("step", ValueError, "'activation' parameter of MLPClassifier must be"),
        (None, ValueError, "'activation' parameter of MLPClassifier must be"),
    ],
)
def test_activations_that_there_are_not(activation, error, message):
    with pytest.raises(error, match=message):
        estimator("binary", activation=activation, hidden_layer_sizes=(4, 3)).fit(*draw("binary"))


# ---- Losses and outputs of regressors ----


class Choice(NamedTuple):
    """A loss, and the mean over rows and outputs by other means, of targets, predictions and weights of rows."""

    spec: Any
    mean: Any


def _mean(function):
    return lambda y, a, weight: np.average(function(y, a).reshape(len(y), -1).mean(axis=1), weights=weight)


def _metric(function, **params):
    return lambda y, a, weight: function(y, a, sample_weight=weight, **params)


CHOICES = {
    "squared_error": Choice("squared_error", _mean(lambda y, a: (a - y) ** 2 / 2)),
    "absolute_error": Choice("absolute_error", _metric(metrics.mean_absolute_error)),
    "poisson": Choice("poisson", _mean(special.kl_div)),
    "huber": Choice("huber", _mean(lambda y, a: special.huber(1.0, a - y))),
    "huber 0.3": Choice(losses.huber(0.3), _mean(lambda y, a: special.huber(0.3, a - y))),
    "quantile": Choice("quantile", _metric(metrics.mean_pinball_loss)),
    "quantile 0.9": Choice(losses.quantile(0.9), _metric(metrics.mean_pinball_loss, alpha=0.9)),
}


def test_every_loss_of_the_registry_is_tested():
    assert {losses.get(choice.spec).name for choice in CHOICES.values()} == set(REGRESSION_LOSSES)


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
@pytest.mark.parametrize("kind", ["regression", "outputs"])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_are_what_they_are_called(choice, kind, weighted, engine_name):
    """The mean over outputs; for Poisson, as in scikit-learn, the sum."""
    X, y = draw(kind)
    y = np.abs(y)
    weight = np.linspace(0.5, 2, len(y)) if weighted else None
    model = estimator(kind, loss=choice.spec, learning_rate=standing_still, alpha=0, batch_size=90, engine=engine_name)
    model.fit(X, y, weight, validation_data=(X, y, weight))
    factor = y[0].size if choice.spec == "poisson" else 1
    expected = factor * choice.mean(y, model.predict(X), weight)
    for value in (*model.loss_curve_, *model.validation_loss_curve_):
        assert_close(value, expected, y.size, kind="loss", dtype=np.float64)
    assert len(model.validation_loss_curve_) == model.n_iter_


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_every_loss_trains_as_in_the_reference(choice, solver, dtype):
    X, y = draw("outputs", rows=48)
    params = {"loss": choice.spec, "solver": solver, "activation": "tanh"}
    compiled, oracle = (
        estimator("outputs", **params, engine=engine).fit(X.astype(dtype), np.abs(y))
        for engine in ("compiled", "reference")
    )
    assert_same_to_rounding(compiled, oracle, len(X))
    assert oracle.loss_curve_[-1] < oracle.loss_curve_[0]


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_a_quantile_is_one(level):
    """So many targets are below it: where noise is larger, too."""
    rng = np.random.default_rng(5)
    X = rng.uniform(-1, 1, (3000, 2))
    y = X[:, 0] + np.exp(X[:, 1]) * rng.exponential(size=3000)
    model = MLPRegressor(
        losses.quantile(level),
        (16,),
        "tanh",
        max_iter=40,
        learning_rate_init=0.02,
        learning_rate=falling,
        random_state=0,
    )
    below = y <= model.fit(X, y).predict(X)
    for half in (slice(None), X[:, 1] < 0, X[:, 1] >= 0):
        share = below[half].mean()
        assert abs(share - level) < STANDARD_ERRORS * math.sqrt(level * (1 - level) / len(below[half]))


@pytest.mark.parametrize(("loss", "output"), list(itertools.product(REGRESSION_LOSSES, activations.ACTIVATIONS)))
def test_outputs_that_go_with_a_loss(loss, output):
    X, y = draw("outputs", rows=20)
    model = estimator("outputs", loss=loss, output_activation=output, learning_rate=standing_still)
    if not is_legal(loss, output):
        with pytest.raises(ValueError, match=r"output_activation|output activation"):
            model.fit(X, np.abs(y))
        return
    model.fit(X, np.abs(y))
    A = np.maximum(X @ model.coefs_[0] + model.intercepts_[0], 0)
    Z = A @ model.coefs_[1] + model.intercepts_[1]
    assert_close(model.predict(X), reference.activate(output, Z), 12, np.abs(Z).max() + 1, kind="pass")
    assert model.out_activation_ == ("logistic" if output == "sigmoid" else output)
    same = base.clone(model).set_params(output_activation=activations.get(output))
    assert_same_bits(model, same.fit(X, np.abs(y)))


def test_default_and_other_names_of_outputs():
    X, y = draw("counts")
    for loss, output, alias in (
        ("poisson", "exp", "exp"),
        ("huber", "identity", "identity"),
        ("huber", "sigmoid", "logistic"),
    ):
        default = estimator("regression", loss=loss, output_activation=None if alias == output else alias).fit(X, y)
        assert_same_bits(default, base.clone(default).set_params(output_activation=output).fit(X, y))
        assert default.network_.output_activation.name == output


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "categorical_cross_entropy", "deviance", None, 0.5])
def test_losses_that_are_not_for_regression(loss):
    with pytest.raises(ValueError, match="'loss' parameter of MLPRegressor must be"):
        MLPRegressor(loss).fit(*draw("regression"))


def test_poisson_needs_targets_that_are_not_negative():
    X, y = draw("counts")
    y[7] = -1
    with pytest.raises(ValueError, match=r"y must be >= 0 for the Poisson loss; got -1.0 at row 7"):
        estimator("counts").fit(X, y)


# ---- Initial weights ----


def first_weights(kind="multiclass", columns=40, **params):
    X, y = draw(kind, columns=columns)
    params = {"learning_rate": standing_still, "max_iter": 1, "hidden_layer_sizes": (50, 30), **params}
    return estimator(kind, **params).fit(X, y)


@pytest.mark.parametrize("name", [*initializers.INITIALIZERS, "auto"])
@pytest.mark.parametrize("gain", [1.0, 0.5, 3])
def test_every_initializer_draws_the_first_weights(name, gain):
    """Of the distribution that the registry's function draws from, times the gain; biases are zero."""
    chosen = ["relu", "tanh"]
    model = first_weights(initializer=name, gain=gain, activation=chosen)
    rng = np.random.default_rng(1)
    for W, b, activation in zip(model.coefs_, model.intercepts_, [*chosen, "softmax"], strict=True):
        draw_again = initializers.get(name, activations.ACTIVATIONS[activation])
        expected = draw_again(rng, *W.shape, gain=float(gain))
        assert not b.any()
        spread = expected.std()
        assert abs(W.mean() - expected.mean()) <= STANDARD_ERRORS * spread * math.sqrt(2 / W.size)
        assert abs(W.std() - spread) <= STANDARD_ERRORS * spread / math.sqrt(W.size)
        assert np.abs(W).max() <= 2 * np.abs(expected).max()
    ones = first_weights(initializer=name, activation=chosen)
    for W, one in zip(model.coefs_, ones.coefs_, strict=True):
        assert_close(W, gain * one, 2, np.abs(gain * one))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ["relu", "logistic"])
def test_the_default_draw_is_that_of_scikit_learn(kind, activation, dtype):
    X, y = draw(kind)
    X = X.astype(dtype)
    model = estimator(kind, activation=activation, learning_rate=standing_still, max_iter=1).fit(X, y)
    twice = base.clone(model).set_params(gain=2.0).fit(X, y)
    kept = {name: model.get_params()[name] for name in ("loss", "hidden_layer_sizes") if name in model.get_params()}
    theirs = getattr(neural_network, type(model).__name__)(activation=activation, random_state=0, **kept)
    theirs.set_params(learning_rate_init=1e-300, solver="sgd", momentum=0, max_iter=1).fit(X, y)
    parameters = [estimator.coefs_ + estimator.intercepts_ for estimator in (model, twice, theirs)]
    for mine, double, desired in zip(*parameters, strict=True):
        assert mine.dtype == dtype
        np.testing.assert_array_equal(mine, desired)
        np.testing.assert_array_equal(double, 2 * desired)


def test_an_initializer_of_ones_own():
    calls = []

    def fan(rng, n_in, n_out, *, gain=1.0):
        calls.append((n_in, n_out, gain))
        return np.full((n_in, n_out), gain / n_in)

    model = first_weights(initializer=fan, gain=2)
    assert calls == [(40, 50, 2.0), (50, 30, 2.0), (30, 3, 2.0)]
    assert [float(W[0, 0]) for W in model.coefs_] == [2 / 40, 2 / 50, 2 / 30]
    with pytest.raises(ValueError, match=r"initializer must return an array of shape \(40, 50\)"):
        first_weights(initializer=lambda rng, n_in, n_out, gain: np.ones(3))


def test_initializers_draw_from_the_random_state():
    state = np.random.RandomState(3)
    first, second, again = (first_weights(initializer="he_normal", random_state=seed) for seed in (state, state, 3))
    assert np.array_equal(first.coefs_[0], again.coefs_[0])
    assert not np.array_equal(first.coefs_[0], second.coefs_[0])


@pytest.mark.parametrize(
    "params", [{"initializer": "he"}, {"initializer": 1}, {"gain": 0}, {"gain": -1.0}, {"gain": "2"}]
)
def test_initial_weights_that_there_are_not(params):
    with pytest.raises(ValueError, match=f"'{next(iter(params))}' parameter of MLPClassifier must be"):
        first_weights(**params)


# ---- Weights of classes ----


def _labels(kind):
    X, y = draw(kind)
    weights = {"binary": {"yes": 3.0, "no": 0.5}, "multiclass": {10: 2, 11: 0.25, 12: 1}}
    return X, y, weights.get(kind, [{0: 1, 1: 4.0}, {1: 2}, {0: 0.5}])


def _all_classes(kind, y):
    return np.arange(3) if kind == "multilabel" else np.unique(y)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_class_weights_are_weights_of_rows(kind, solver):
    X, y, weights = _labels(kind)
    rows = np.linspace(0.5, 2, len(y))
    plain = estimator(kind, solver=solver)
    for class_weight, extra in itertools.product((weights, "balanced"), (None, rows)):
        by_class = compute_sample_weight(class_weight, y)
        weighted = estimator(kind, solver=solver, class_weight=class_weight).fit(X, y, extra)
        assert_same_bits(weighted, plain.fit(X, y, by_class if extra is None else by_class * extra))
    assert not np.array_equal(weighted.coefs_[0], plain.fit(X, y).coefs_[0])


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("scoring", [None, "loss", "accuracy"])
def test_class_weights_do_not_weigh_scores(kind, scoring):
    X, y, weights = _labels(kind)
    params = {"early_stopping": True, "scoring": scoring, "learning_rate": standing_still}
    for weight in (None, np.linspace(0.5, 2, len(y))):
        weighted, plain = (estimator(kind, **params, class_weight=by).fit(X, y, weight) for by in (weights, None))
        assert weighted.validation_scores_ == plain.validation_scores_
        assert weighted.loss_curve_ != plain.loss_curve_


def test_a_class_that_is_not_named_weighs_1():
    X, y, _ = _labels("multiclass")
    model = estimator("multiclass", class_weight={11: 4.0}).fit(X, y)
    assert_same_bits(model, estimator("multiclass", class_weight={10: 1, 11: 4, 12: 1}).fit(X, y))
    names = np.array(["a", "b", "c"], dtype=object)[y - 10]
    assert_same_bits(model, estimator("multiclass", class_weight={"b": 4}).fit(X, names))
    assert_same_bits(model, estimator("multiclass", class_weight={11.0: 4}).fit(X, y.astype(float)))


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_class_weights_of_a_stream(kind):
    """A part of it may have one class alone."""
    X, y, weights = _labels(kind)
    order = np.lexsort(y.T) if y.ndim == 2 else np.argsort(y, kind="stable")
    X, y = X[order], y[order]
    by_class = compute_sample_weight(weights, y)
    classes = _all_classes(kind, y)
    weighted, plain = estimator(kind, class_weight=weights), estimator(kind)
    for rows in (slice(0, 20), slice(20, 60), slice(60, 90)):
        weighted.partial_fit(X[rows], y[rows], classes=classes)
        plain.partial_fit(X[rows], y[rows], by_class[rows], classes=classes)
    assert_same_bits(weighted, plain)


@pytest.mark.parametrize(
    ("kind", "class_weight", "message"),
    [
        ("binary", "even", "'class_weight' parameter of MLPClassifier must be"),
        ("binary", 2.0, "'class_weight' parameter of MLPClassifier must be"),
        ("binary", {"maybe": 2}, "The classes, .* are not in class_weight"),
        ("binary", [{"yes": 2}], "class_weight must be a dict or 'balanced' where there is one output; got a list"),
        ("multilabel", {1: 2}, "class_weight should be a list of dicts"),
        ("multilabel", [{1: 2}], "number of elements in class_weight should match number of outputs"),
    ],
)
def test_class_weights_that_there_are_not(kind, class_weight, message):
    with pytest.raises(ValueError, match=message):
        estimator(kind, class_weight=class_weight).fit(*draw(kind))


@pytest.mark.parametrize(("kind", "class_weight"), [("binary", "balanced"), ("multilabel", ["balanced", {}, {}])])
def test_balanced_classes_cannot_be_known_of_a_stream(kind, class_weight):
    X, y = draw(kind)
    with pytest.raises(ValueError, match="class_weight 'balanced' is not supported for partial_fit"):
        estimator(kind, class_weight=class_weight).partial_fit(X, y, classes=_all_classes(kind, y))


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_label_smoothing(kind, share, engine_name):
    X, y = draw(kind)
    params = {"learning_rate": standing_still, "alpha": 0, "batch_size": 90, "engine": engine_name}
    model = estimator(kind, label_smoothing=share, **params).fit(X, y, validation_data=(X, y))
    P = model.predict_proba(X)
    certain = preprocessing.label_binarize(y, classes=_all_classes(kind, y))
    if kind == "binary":
        certain, P = certain.astype(float), P[:, 1:]
    smooth = certain * (1 - share) + share / (3 if kind == "multiclass" else 2)
    for targets, value in ((smooth, model.loss_), (certain, model.validation_loss_curve_[-1])):
        if kind == "multiclass":
            expected = -special.xlogy(targets, P).sum(axis=1).mean()
        else:
            expected = -(special.xlogy(targets, P) + special.xlogy(1 - targets, 1 - P)).sum(axis=1).mean()
        assert_close(value, expected, P.size, kind="loss", dtype=np.float64)
    assert model.validation_scores_ == [model.score(X, y)] * model.n_iter_
    with pytest.raises(ValueError, match="'label_smoothing' parameter of MLPClassifier must be"):
        estimator(kind, label_smoothing=1.0).fit(X, y)


@pytest.mark.parametrize("base_class", [MLPClassifier, MLPRegressor])
def test_subclasses_may_have_a_constructor_of_their_own(base_class):
    class Narrow(base_class):
        def __init__(self, width=7, alpha=0.1):
            super().__init__(hidden_layer_sizes=(width,), alpha=alpha, max_iter=2, random_state=0)
            self.width = width

    X, y = draw("binary" if base_class is MLPClassifier else "regression")
    model = base.clone(Narrow(3)).set_params(alpha=0.5)
    assert model.get_params() == {"width": 3, "alpha": 0.5}
    model.fit(X, y)
    assert model.coefs_[0].shape == (X.shape[1], 3)


def test_coefs_are_those_of_a_network_that_was_changed_without_the_estimator():
    """Arrays that were handed out before are not written back over what it has learned, but what users write is."""
    X, y = draw("regression")
    model = estimator("regression").fit(X, y)
    held = model.coefs_
    for change in ("train", "set"):
        if change == "train":
            model.network_.train(X, y, epochs=2)
        else:
            model.network_.parameters = 0.5 * model.network_.parameters
        expected = model.network_.predict(X).ravel()
        assert not np.array_equal(model.coefs_[0], held[0])
        np.testing.assert_array_equal(model.predict(X), expected)
        np.testing.assert_array_equal(model.coefs_[0], model.network_.weights[0])
        held = model.coefs_
    model.network_.train(X, y, epochs=2)
    held[0][:] = 0
    assert not model.coefs_[0].any()
    assert np.ptp(model.predict(X)) == 0
