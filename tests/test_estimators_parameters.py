"""Parameters of a fitted estimator: coefs_ that are written into, and models that change to scikit-learn's and back."""

import copy
import pickle

import numpy as np
import pytest
from conftest import assert_close
from sklearn import linear_model, neural_network
from sklearn.exceptions import NotFittedError
from test_estimators import HIDDEN, KINDS, assert_same_bits, draw, estimator, falling, outputs_of

import cymlp
from cymlp import MLPClassifier, MLPRegressor, losses

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

ATTRIBUTES = ["coefs_", "intercepts_"]


def by_hand(model, X):
    """What the output layer makes of X, by the weights that the model shows."""
    A = X
    for W, b in zip(model.coefs_, model.intercepts_, strict=True):
        Z = A @ W + b
        A = np.maximum(Z, 0)
    return Z


# ---- Weights that are written into ----


def _double(array):
    array *= 2


def _flip_in_place(arrays):
    arrays[0] = arrays[0][::-1]


def _permute(arrays):
    arrays[-1] = arrays[-1].copy(order="F") * np.float32(0.5)


WRITES = {
    "an element": lambda model: model.coefs_[0].__setitem__((1, 2), 9.0),
    "a row": lambda model: model.coefs_[1].__setitem__(0, 0.25),
    "all of an array": lambda model: _double(model.coefs_[0]),
    "a bias": lambda model: model.intercepts_[1].__setitem__(0, -3.0),
    "a slice's slice": lambda model: model.coefs_[0][2:][:, 1:3].fill(7),
    "an item of the list": lambda model: model.coefs_.__setitem__(0, np.full((5, 7), 0.5)),
    "a list in its place": lambda model: model.intercepts_.__setitem__(0, [1.0] * 7),
    "another type and order": lambda model: _permute(model.coefs_),
    "a view of the same memory": lambda model: _flip_in_place(model.coefs_),
    "an item, then an element of it": lambda model: (
        model.coefs_.__setitem__(0, np.ones((5, 7))),
        model.coefs_[0].__setitem__((0, 0), 5.0),
    ),
    "the whole attribute": lambda model: setattr(model, "coefs_", [2 * W for W in model.coefs_]),
    "both attributes": lambda model: [setattr(model, name, [-a for a in getattr(model, name)]) for name in ATTRIBUTES],
    "the attribute, then an item": lambda model: (
        setattr(model, "coefs_", [2 * W for W in model.coefs_]),
        model.coefs_[0].fill(0.1),
    ),
    "integers": lambda model: setattr(model, "intercepts_", [np.arange(b.size) for b in model.intercepts_]),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("kind", ["binary", "multiclass", "outputs"])
def test_what_is_written_into_coefs_is_predicted_with(write, kind, dtype):
    X, y = draw(kind)
    X = X.astype(dtype)
    model = estimator(kind).fit(X, y)
    before = model.predict(X), model.network_.forward(X).Z[-1]
    write(model)
    expected = by_hand(model, X)
    for _ in range(3):
        model.predict(X)
        Z = model.network_.forward(X).Z[-1]
        assert_close(Z, expected, 12, np.abs(expected).max() + 20, kind="pass", dtype=dtype)
    assert not np.array_equal(Z, before[1])
    assert {array.dtype for array in (*model.network_.weights, *model.network_.biases)} == {dtype}
    for use in (lambda model: pickle.loads(pickle.dumps(model)), copy.deepcopy, copy.copy):
        write(model.fit(X, y))  # and not predicted with before
        np.testing.assert_array_equal(use(model).network_.forward(X).Z[-1], Z)
    assert_close(model.fit(X, y).network_.forward(X).Z[-1], before[1], 1, dtype=dtype)


@pytest.mark.parametrize(
    "hold", ["coefs_", "intercepts_", "an array", "a bias", "a row", "a row's element", "a transpose"]
)
def test_arrays_that_are_held_stay_those_of_the_model(hold):
    """Whatever is held of them, and through any number of predictions and writes."""
    X, y = draw("regression")
    model = estimator("regression").fit(X, y)
    get = {
        "coefs_": lambda: (held := model.coefs_, lambda value: held[0].fill(value))[1],
        "intercepts_": lambda: (held := model.intercepts_, lambda value: held[0].fill(value))[1],
        "an array": lambda: model.coefs_[1].fill,
        "a bias": lambda: model.intercepts_[1].fill,
        "a row": lambda: model.coefs_[0][3].fill,
        "a row's element": lambda: model.coefs_[0][3][2:3].fill,
        "a transpose": lambda: model.coefs_[0].T[:2].fill,
    }
    write = get[hold]()
    seen = []
    for value in (0.0, 1.0, -2.0, 1.0):
        write(value)
        seen.append(model.predict(X))
        model.predict(X[:1])
        assert_close(seen[-1], by_hand(model, X)[:, 0], 12, np.abs(seen[-1]).max() + 20, kind="pass")
    assert not np.array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(seen[1], seen[3])
    model.fit(X, y)
    fitted = model.predict(X)
    write(5.0)  # into what is no longer the model's
    np.testing.assert_array_equal(model.predict(X), fitted)


def test_arrays_that_nobody_holds_are_let_go():
    X, y = draw("multiclass")
    model = estimator("multiclass").fit(X, y)
    for look in (lambda: model.coefs_, lambda: model.intercepts_[0][0], lambda: model.coefs_[0].sum()):
        look()
        assert model._handed_out is not None
        model.predict(X)
        assert model._handed_out is None
    held = model.coefs_
    model.predict(X)
    assert model._handed_out is not None
    del held
    model.predict(X)
    assert model._handed_out is None


@pytest.mark.parametrize("container", ["warm_start", "partial_fit"])
def test_training_goes_on_from_what_was_written(container):
    X, y = draw("outputs")
    models = [estimator("outputs", warm_start=True).fit(X, y) for _ in range(3)]
    for W in models[0].coefs_:
        W *= 0.5
    models[1].coefs_ = [W * 0.5 for W in models[1].coefs_]
    for model in models:
        model.fit(X, y) if container == "warm_start" else model.partial_fit(X, y)
    assert_same_bits(models[0], models[1])
    assert not np.array_equal(models[0].coefs_[0], models[2].coefs_[0])


def _put(name, index, value):
    return lambda model: getattr(model, name).__setitem__(index, value)


BAD = {
    "coefs_ must have 2 arrays, one for each layer; got 1": lambda model: model.coefs_.pop(),
    "coefs_ must have 2 arrays, one for each layer; got 3": lambda model: model.coefs_.append(np.zeros((3, 3))),
    r"coefs_\[1\] must have shape \(7, 3\); got \(3, 7\)": _put("coefs_", 1, np.ones((3, 7))),
    r"coefs_\[0\] must be finite; got nan at row 2, column 4": lambda model: model.coefs_[0][2].put(4, np.nan),
    r"intercepts_\[1\] must be finite; got inf at position 1": lambda model: model.intercepts_[1].put(1, np.inf),
    r"intercepts_\[0\] must have shape \(7,\); got \(\)": _put("intercepts_", 0, 1.0),
    r"coefs_\[0\] must hold real numbers; got dtype object": _put("coefs_", 0, None),
    r"coefs_\[0\] must hold real numbers; got dtype complex": _put("coefs_", 0, np.ones((5, 7)) * 1j),
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_predicted_with_is_an_error_and_changes_nothing(message):
    X, y = draw("outputs")
    model = estimator("outputs").fit(X, y)
    parameters = model.network_.parameters.copy()
    lists = [list(getattr(model, name)) for name in ATTRIBUTES]
    held = model.coefs_, model.intercepts_
    model.intercepts_[0][0] = 5.0  # goes with the other one, or not at all
    BAD[message](model)
    uses = [model.predict, model.transform, lambda X: model.score(X, y), lambda X: model.partial_fit(X, y)]
    for use in (*uses, lambda X: pickle.dumps(model), lambda X: model.to_sklearn(), lambda X: copy.copy(model)):
        with pytest.raises((ValueError, TypeError), match=message):
            use(X)
        np.testing.assert_array_equal(model.network_.parameters, parameters)
    for given, whole in zip(held, lists, strict=True):
        given[:] = [np.nan_to_num(array, posinf=0.0) for array in whole]
    assert_close(model.predict(X), by_hand(model, X), 12, 20, kind="pass")
    assert_same_bits(model.fit(X, y), estimator("outputs").fit(X, y))


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_assigning_what_does_not_fit_changes_nothing(name):
    X, y = draw("outputs")
    model = estimator("outputs").fit(X, y)
    before, arrays = model.predict(X), [array.copy() for array in getattr(model, name)]
    bad = [arrays[:1], [*arrays, arrays[0]], arrays[::-1], [arrays[0], arrays[1] * np.nan], 3, None, [arrays[0], "x"]]
    for value in bad:
        with pytest.raises((ValueError, TypeError), match=name):
            setattr(model, name, value)
        np.testing.assert_array_equal(model.predict(X), before)
    setattr(model, name, tuple(arrays))
    np.testing.assert_array_equal(model.predict(X), before)
    assert isinstance(getattr(model, name), list)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_weights_of_what_is_not_fitted(name):
    model = MLPClassifier()
    assert not hasattr(model, name)
    with pytest.raises(AttributeError, match="this MLPClassifier is not fitted yet"):
        getattr(model, name)
    with pytest.raises(NotFittedError):
        setattr(model, name, [])


# ---- scikit-learn's classes ----


def their_kind(kind, **params):
    """scikit-learn's estimator for such data."""
    ours = estimator(kind, **params)
    theirs = getattr(neural_network, type(ours).__name__)()
    return theirs.set_params(**{name: ours.get_params()[name] for name in theirs.get_params()})


def assert_same_predictions(ours, theirs, X):
    assert type(ours).__name__ == type(theirs).__name__
    desired = outputs_of(theirs, X)
    scale = np.abs(desired).max() + np.abs(theirs.intercepts_[-1]).max() + 1
    assert_close(outputs_of(ours, X), desired, 12, scale, kind="pass", dtype=ours.network_.dtype)
    if hasattr(ours, "classes_"):
        np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
        np.testing.assert_array_equal(ours.classes_, theirs.classes_)


VARIANTS = [
    {},
    {"solver": "sgd", "learning_rate": "invscaling"},
    {"solver": "lbfgs"},
    {"hidden_layer_sizes": ()},
    {"hidden_layer_sizes": (6, 4), "activation": "logistic"},
    {"activation": "tanh", "early_stopping": True},
    {"activation": "identity"},
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("params", VARIANTS, ids=str)
def test_models_of_scikit_learn_become_ours(kind, params, dtype):
    X, y = draw(kind)
    X = X.astype(dtype)
    theirs = their_kind(kind, **params).fit(X, y)
    ours = type(estimator(kind)).from_sklearn(theirs)
    assert cymlp.from_sklearn(theirs).get_params() == ours.get_params()
    assert ours.network_.dtype == theirs.coefs_[0].dtype  # float64 after their lbfgs
    assert_same_predictions(ours, theirs, X)
    for name in vars(theirs):
        if name.endswith("_") and name not in ATTRIBUTES:
            np.testing.assert_equal(getattr(ours, name), getattr(theirs, name))
    ours.coefs_[0][:] = 0  # a copy
    assert theirs.coefs_[0].any()
    assert ours.to_sklearn().get_params() == theirs.get_params()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("params", VARIANTS, ids=str)
def test_our_models_become_those_of_scikit_learn(kind, params, dtype):
    X, y = draw(kind)
    X = X.astype(dtype)
    ours = estimator(kind, **params).fit(X, y)
    theirs = ours.to_sklearn()
    assert type(theirs).__module__.startswith("sklearn.")
    assert {array.dtype for array in theirs.coefs_ + theirs.intercepts_} == {dtype}
    assert_same_predictions(ours, theirs, X)
    back = cymlp.from_sklearn(theirs)
    assert back.get_params() == ours.get_params()
    np.testing.assert_array_equal(outputs_of(back, X), outputs_of(ours, X))
    for name in ("loss_", "n_iter_", "n_outputs_", "t_", "out_activation_", "n_features_in_", "loss_curve_"):
        assert getattr(theirs, name) == getattr(ours, name)
    theirs.coefs_[0][:] = 0  # a copy
    assert ours.coefs_[0].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("params", VARIANTS, ids=str)
def test_fits_go_on_after_a_change_of_class(kind, params):
    """Both begin with the same weights, and with a new optimiser."""
    X, y = draw(kind)
    theirs = their_kind(kind, **params).fit(X, y)
    ours = cymlp.from_sklearn(theirs)
    back = ours.to_sklearn()
    for model in (ours, theirs, back):
        model.set_params(warm_start=True).fit(X, y)
    terms = (5 + 7 + 3 + 90) * 4 * (100 if params.get("solver") == "lbfgs" else 6)
    if params.get("early_stopping"):  # what theirs keeps where the second fit is no better is not the best
        for model in (ours, back):
            scores = model.validation_scores_
            assert_close(scores, theirs.validation_scores_, terms, 2, kind="training", dtype=np.float64)
        return
    for model in (ours, back):
        for mine, desired in zip(model.coefs_ + model.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
            assert_close(mine, desired, terms, np.abs(desired).max() + 1, kind="training")
    if params.get("solver") != "lbfgs":
        assert ours.partial_fit(X, y).t_ == theirs.partial_fit(X, y).t_ == back.partial_fit(X, y).t_


def test_models_of_one_class():
    X, _ = draw("binary")
    y = np.full(90, "only")
    theirs = their_kind("binary").fit(X, y)
    assert_same_predictions(cymlp.from_sklearn(theirs), theirs, X)
    ours = estimator("binary").fit(X, y)
    assert_same_predictions(ours, ours.to_sklearn(), X)


@pytest.mark.parametrize("kind", KINDS)
def test_estimators_that_are_not_fitted_change_class(kind):
    theirs = their_kind(kind, alpha=0.1, activation="tanh", random_state=np.random.RandomState(0))
    ours = cymlp.from_sklearn(theirs)
    assert type(ours) is type(estimator(kind))
    assert {name: ours.get_params()[name] for name in theirs.get_params()} == theirs.get_params()
    assert not hasattr(ours, "coefs_")
    with pytest.raises(NotFittedError):
        ours.to_sklearn()


def test_what_is_not_an_estimator_of_that_kind():
    for cls, source in (
        (MLPClassifier, neural_network.MLPRegressor()),
        (MLPRegressor, neural_network.MLPClassifier()),
        (MLPClassifier, MLPClassifier()),
        (MLPClassifier, neural_network.MLPClassifier),
        (MLPRegressor, None),
    ):
        with pytest.raises(TypeError, match=f"estimator must be a sklearn.neural_network.{cls.__name__}; got"):
            cls.from_sklearn(source)
    with pytest.raises(TypeError, match=r"estimator must be a sklearn\.neural_network\.MLP.*; got Ridge"):
        cymlp.from_sklearn(linear_model.Ridge())


FURTHER = [{"loss": "absolute_error"}, {"loss": losses.huber(0.5)}, {"output_activation": "tanh"}]


@pytest.mark.parametrize("params", FURTHER, ids=str)
@pytest.mark.parametrize("kind", ["regression", "outputs"])
def test_what_scikit_learn_can_predict_with_it_gets(kind, params):
    X, y = draw(kind)
    ours = estimator(kind, **params, learning_rate=falling).fit(X, y)
    assert_same_predictions(ours, ours.to_sklearn(), X)


@pytest.mark.parametrize("kind", ["regression", "outputs"])
def test_scaled_targets_become_part_of_the_last_layer(kind, dtype):
    X, y = draw(kind)
    X, y = X.astype(dtype), 1000 * y - 300
    for params in ({}, {"early_stopping": True}, {"hidden_layer_sizes": ()}):
        ours = estimator(kind, **params, target_scaling="standard").fit(X, y)
        theirs = ours.to_sklearn()
        assert_same_predictions(ours, theirs, X)
        theirs.set_params(warm_start=True, learning_rate_init=1e-300).fit(X, y)
        assert_same_predictions(ours, theirs, X)


def test_what_scikit_learn_cannot_predict_with():
    X, y = draw("regression")
    for name in set(HIDDEN) - {"identity", "sigmoid", "tanh", "relu"}:
        with pytest.raises(ValueError, match=f"activation must be one of identity, .*; got .*{name}"):
            estimator("regression", activation=name).fit(X, y).to_sklearn()
        with pytest.raises(ValueError, match=f"output_activation must be one that scikit-learn has; got '{name}'"):
            estimator("regression", output_activation=name).fit(X, y).to_sklearn()
    with pytest.raises(ValueError, match=r"activation must be one of identity, .* in all layers"):
        estimator("regression", activation=["relu", "tanh"], hidden_layer_sizes=(4, 3)).fit(X, y).to_sklearn()
    estimator("regression", activation=["tanh", "tanh"], hidden_layer_sizes=(4, 3)).fit(X, y).to_sklearn()
