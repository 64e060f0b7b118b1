"""Networks that do not train, each for a reason of its own: the report names it first, and what it proposes helps.

The catalogue is data: what is broken, which rule is to be the first, and how it is judged whether a network trains.
"""

import contextlib
import functools
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import (
    load_diabetes,
    load_digits,
    load_wine,
    make_circles,
    make_friedman1,
    make_moons,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import Pipeline

from cymlp import MLP, DivergenceError, MLPClassifier, MLPRegressor, initializers, optimizers
from cymlp.health import RULES

# ---- Data: inputs as they should be, float32, with labels or numbers ----


def _standard(X):
    deviation = X.std(axis=0)
    return ((X - X.mean(axis=0)) / np.where(deviation > 0, deviation, 1)).astype(np.float32)


@functools.cache
def _data(name):
    name, _, how = name.partition(", ")
    match name:
        case "digits":
            X, y = load_digits(return_X_y=True)
        case "wine":
            X, y = load_wine(return_X_y=True)
        case "diabetes":
            X, y = load_diabetes(return_X_y=True)
        case "circles":
            X, y = make_circles(600, noise=0.08, factor=0.5, random_state=0)
        case "moons":
            X, y = make_moons(600, noise=0.15, random_state=0)
        case "friedman":
            X, y = make_friedman1(800, random_state=0)
            y = (y - y.mean()) / y.std()
        case "rare":  # 1 %, of whom nobody can be sure: near them there are as many of the others
            rng = np.random.default_rng(0)
            X = rng.standard_normal((4000, 8))
            y = np.zeros(4000, dtype=np.int64)
            y[:40] = 1
            X[:40, :3] += 1.3
    X = X if how == "raw" else _standard(X)
    match how:
        case "bytes":  # pixels of scanners
            X = load_digits().data * 600
        case "one large":
            X[:, 3] *= 1e6
        case "large target":
            y = 1e5 * (1.5 + 0.5 * y)
        case "small inputs":
            X = X * 1e-4
    return X.astype(np.float32), y if y.dtype.kind == "i" else y.astype(np.float32)


# ---- The catalogue ----


@dataclass(frozen=True, eq=False)
class Case:
    """A broken set-up.

    `network` has the arguments of an `MLP` but for its sizes, or is an estimator; `bias` is what hidden biases are set
    to.  It trains where the loss is below the share `trains` of that of a constant prediction; for ``"recall"``, where
    half of the rare rows are found; an estimator where its score is at least `trains`.
    """

    name: str
    data: str
    hidden: tuple
    network: dict | Any
    training: dict
    expected: str
    trains: float | str = 0.5
    bias: float | None = None


def _net(activation, **more):
    return {"hidden_activation": activation, **more}


WATCHED = {"random_state": 0, "health": True}
TANH, RELU, SIGMOID, LINEAR = _net("tanh"), _net("relu"), _net("sigmoid"), _net("identity")

CATALOGUE = (
    Case("zeros", "digits", (64, 64), _net("tanh", initializer="zeros"), {"epochs": 10}, "symmetric units"),
    Case("zeros in ReLU", "moons", (32, 32), _net("relu", initializer="zeros"), {"epochs": 20}, "symmetric units"),
    Case(
        "ones", "digits", (64, 64), _net("relu", initializer=initializers.constant), {"epochs": 10}, "symmetric units"
    ),
    Case(
        "small constants",
        "digits",
        (64, 64),
        _net("tanh", initializer=functools.partial(initializers.constant, value=0.05)),
        {"epochs": 10},
        "symmetric units",
    ),
    Case(
        "0.01 randn, 20 layers",
        "digits",
        (64,) * 20,
        _net("tanh", initializer="normal"),
        {"epochs": 10},
        "vanishing gradients",
    ),
    Case(
        "logistic, 8 layers, estimator",
        "digits",
        (),
        MLPClassifier((50,) * 8, "logistic", max_iter=20, **WATCHED),
        {},
        "vanishing gradients",
        0.9,
    ),
    Case("sigmoid, 10 layers", "digits", (64,) * 10, SIGMOID, {"epochs": 15}, "vanishing gradients"),
    Case(
        "Xavier for ReLU, 60 layers",
        "digits",
        (64,) * 60,
        _net("relu", initializer="xavier"),
        {"epochs": 10},
        "vanishing gradients",
    ),
    Case("gain 0.5, 30 layers", "digits", (64,) * 30, _net("tanh", gain=0.5), {"epochs": 10}, "vanishing gradients"),
    Case(
        "0.5 I, 40 layers",
        "digits",
        (64,) * 40,
        _net("identity", initializer="scaled_identity", gain=0.5),
        {"epochs": 10},
        "vanishing gradients",
    ),
    Case("gain 3, 12 layers", "digits", (64,) * 12, _net("relu", gain=3.0), {"epochs": 10}, "exploding gradients"),
    Case(
        "1.5 I, 40 layers",
        "digits",
        (64,) * 40,
        _net("identity", initializer="scaled_identity", gain=1.5),
        {"epochs": 10},
        "exploding gradients",
    ),
    Case(
        "N(0, 1)",
        "digits",
        (64, 64, 64),
        _net("relu", initializer=functools.partial(initializers.normal, std=1.0)),
        {"epochs": 10},
        "exploding gradients",
    ),
    Case(
        "batch normalization, 40 layers",
        "digits",
        (64,) * 40,
        _net("relu", normalization="batch"),
        {"epochs": 10},
        "exploding gradients",
    ),
    Case("tanh with gain 20", "digits", (64, 64, 64), _net("tanh", gain=20.0), {"epochs": 15}, "saturated units"),
    Case(
        "sigmoid with N(0, 10)",
        "digits",
        (64, 64),
        _net("sigmoid", initializer=functools.partial(initializers.normal, std=10.0)),
        {"epochs": 10},
        "saturated units",
    ),
    Case("biases of -10", "digits", (64, 64), RELU, {"epochs": 10}, "dead units", bias=-10.0),
    Case("biases of -5 in one layer", "moons", (32, 32), RELU, {"epochs": 20}, "dead units", bias=-5.0),
    Case("rate of 1, Adam", "digits", (64, 64), RELU, {"epochs": 10, "learning_rate": 1.0}, "restless layers"),
    Case("rate of 3, Adam", "digits", (64, 64), TANH, {"epochs": 10, "learning_rate": 3.0}, "restless layers"),
    Case("rate of 0.1, Adam", "digits", (64, 64), RELU, {"epochs": 20, "learning_rate": 0.1}, "restless layers"),
    Case(
        "rate of 10, SGD",
        "digits",
        (64, 64),
        RELU,
        {"epochs": 10, "optimizer": "sgd", "learning_rate": 10.0},
        "restless layers",
    ),
    Case(
        "rate of 1, SGD",
        "friedman",
        (64, 64),
        RELU,
        {"epochs": 30, "optimizer": optimizers.SGD(1.0, momentum=0.9)},
        "restless layers",
    ),
    Case(
        "rate of 1e-6, SGD",
        "digits",
        (64, 64),
        RELU,
        {"epochs": 10, "optimizer": "sgd", "learning_rate": 1e-6},
        "still layers",
    ),
    Case("rate of 1e-7, Adam", "digits", (64, 64), RELU, {"epochs": 10, "learning_rate": 1e-7}, "still layers"),
    Case("pixels up to 10 000", "digits, bytes", (64, 64), TANH, {"epochs": 20}, "inputs not scaled", 0.1),
    Case("an input of 1e6", "wine, one large", (64, 64), RELU, {"epochs": 40}, "inputs not scaled"),
    Case("raw columns", "wine, raw", (100,), RELU, {"epochs": 60}, "inputs not scaled", 0.1),
    Case("raw columns, estimator", "wine, raw", (), MLPClassifier(**WATCHED), {}, "inputs not scaled", 0.98),
    Case("inputs of 1e-4", "wine, small inputs", (64, 64), TANH, {"epochs": 20}, "inputs not scaled"),
    Case("targets of 1e5", "friedman, large target", (64, 64), RELU, {"epochs": 30}, "targets not scaled"),
    Case("raw targets", "diabetes", (100,), RELU, {"epochs": 40}, "targets not scaled"),
    Case("raw targets, estimator", "diabetes", (), MLPRegressor(**WATCHED), {}, "targets not scaled", 0.5),
    Case("linear layers for circles", "circles", (32, 32), LINEAR, {"epochs": 40}, "linear layers"),
    Case("1 in 100", "rare", (32,), RELU, {"epochs": 10}, "class imbalance", "recall"),
    Case(
        "sigmoid, too slow",
        "circles",
        (20, 20),
        SIGMOID,
        {"epochs": 50, "optimizer": "sgd", "learning_rate": 0.01},
        "stuck at base rate",
    ),
)


# Those whose rule is not the first, and those that do not train after the change.
MISNAMED = set()
UNCURED = {"Xavier for ReLU, 60 layers"}


# ---- What is done with them ----


@dataclass(frozen=True)
class Outcome:
    """Whether it trained before the change and after it, the report, and what `apply` gave."""

    before: bool
    after: bool
    report: Any
    applied: Any


def _make(case, X, y):
    if not isinstance(case.network, dict):
        return clone(case.network)
    is_class = y.dtype.kind == "i"
    n_outputs = int(y.max()) + 1 if is_class else 1
    arguments = {"random_state": 0, "dtype": "float32", **case.network}
    output = "softmax" if is_class else "identity"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "hidden_activation 'identity'")
        net = MLP((X.shape[1], *case.hidden, n_outputs), output_activation=output, **arguments)
    if case.bias is not None:
        net.biases = [*(np.full(len(b), case.bias) for b in net.biases[:-1]), net.biases[-1]]
    return net


def _train(model, X, y, training):
    """Train it; its report."""
    if isinstance(model, MLP):
        with contextlib.suppress(DivergenceError):
            model.train(X, y, health=True, **training)
        return model.history_.health
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y)
    return (model[-1] if isinstance(model, Pipeline) else model).health_


def _trains(case, model, X, y, report):
    """Whether it has learned."""
    if not isinstance(model, MLP):
        return model.score(X, y) >= case.trains
    if not np.isfinite(model.predict(X)).all():
        return False
    if case.trains == "recall":
        return (model.predict(X).argmax(axis=1) == y)[y == 1].mean() >= 0.5
    return model.evaluate(X, y) < case.trains * report.evidence.data.base_loss


@functools.cache
def _outcome(case):
    X, y = _data(case.data)
    model = _make(case, X, y)
    report = _train(model, X, y, case.training)
    before = _trains(case, model, X, y, report)
    applied = report.apply(model)
    Z = X if applied.inputs is None else applied.inputs(X)
    t = y if applied.targets is None else applied.targets(y)
    second = _train(applied.model, Z, t, case.training | applied.training)
    return Outcome(before, _trains(case, applied.model, Z, t, second), report, applied)


each_case = pytest.mark.parametrize("case", CATALOGUE, ids=lambda case: case.name)


@each_case
def test_it_does_not_train(case):
    assert not _outcome(case).before


@each_case
def test_its_rule_is_the_first(case):
    findings = _outcome(case).report.findings
    found = findings[0].rule if findings else None
    assert (found == case.expected) == (case.name not in MISNAMED), f"{found} for {case.expected}"


@each_case
def test_it_trains_after_the_change(case):
    outcome = _outcome(case)
    assert outcome.applied.changes
    assert outcome.after == (case.name not in UNCURED), outcome.applied.changes


def test_enough_of_them_are_named_and_cured():
    assert len(CATALOGUE) == len({case.name for case in CATALOGUE}) == 36
    assert {case.name for case in CATALOGUE} >= MISNAMED | UNCURED
    assert len(CATALOGUE) - len(MISNAMED) == 36
    assert len(CATALOGUE) - len(UNCURED) == 35


def test_every_rule_has_a_case():
    assert {case.expected for case in CATALOGUE} == set(RULES)
