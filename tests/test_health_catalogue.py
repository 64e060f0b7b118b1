"""Networks that do not train, each for a reason of its own: the report names it first, and what it proposes helps.

The catalogue is data: what is broken, which rule is to be the first, and how it is judged whether a network trains.
"""

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_wine,
    make_circles,
    make_friedman1,
    make_moons,
)

from cymlp import MLP, DivergenceError, MLPClassifier, MLPRegressor, initializers, optimizers
from cymlp.activations import leaky_relu
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
        case "cancer":
            X, y = load_breast_cancer(return_X_y=True)
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


@dataclass(frozen=True)
class Case:
    """A broken set-up.

    `network` has the arguments of an `MLP` but for its sizes, or is an estimator; `bias` is what hidden biases are set
    to.  It trains where the loss is below the share `trains` of that of a constant prediction; or, for ``"recall"``,
    where half of the rare rows are found.
    """

    name: str
    data: str
    hidden: tuple
    network: dict | Any
    training: dict
    expected: str
    trains: float | str = 0.5
    bias: float | None = None
    extra: dict = field(default_factory=dict)


def _net(activation, **more):
    return {"hidden_activation": activation, **more}


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
    Case("inputs of 1e-4", "wine, small inputs", (64, 64), TANH, {"epochs": 20}, "inputs not scaled"),
    Case("targets of 1e5", "friedman, large target", (64, 64), RELU, {"epochs": 30}, "targets not scaled"),
    Case("raw targets", "diabetes", (100,), RELU, {"epochs": 40}, "targets not scaled"),
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


# ---- What is done with them ----


def _make(case, X, y):
    if not isinstance(case.network, dict):
        return case.network
    is_class = y.dtype.kind == "i"
    n_outputs = int(y.max()) + 1 if is_class else 1
    arguments = {"random_state": 0, "dtype": "float32", **case.network}
    net = MLP(
        (X.shape[1], *case.hidden, n_outputs), output_activation="softmax" if is_class else "identity", **arguments
    )
    if case.bias is not None:
        net.biases = [np.full(len(b), case.bias) for b in net.biases[:-1]] + [net.biases[-1]]
    return net


def _train(model, X, y, training):
    """Train it; its report."""
    if isinstance(model, MLP):
        try:
            model.train(X, y, health=True, **training)
        except DivergenceError:
            pass
        return model.history_.health
    model.fit(X, y)
    return model.health_


def _trains(case, model, X, y, report):
    """Whether it has learned."""
    if not np.isfinite(model.predict(X)).all():
        return False
    if case.trains == "recall":
        return float((model.predict(X).argmax(axis=1) == y)[y == 1].mean()) >= 0.5
    return model.evaluate(X, y) < case.trains * report.evidence.data.base_loss


@pytest.mark.filterwarnings("ignore:hidden_activation 'identity'")
@pytest.mark.parametrize("case", CATALOGUE, ids=lambda case: case.name)
def test_x(case):
    X, y = _data(case.data)
    model = _make(case, X, y)
    report = _train(model, X, y, case.training)
    before = not _trains(case, model, X, y, report)
    applied = report.apply(model)
    Z = X if applied.inputs is None else applied.inputs(X)
    t = y if applied.targets is None else applied.targets(y)
    second = _train(applied.model, Z, t, case.training | applied.training)
    after = _trains(case, applied.model, Z, t, second)
    first = report.findings[0].rule if report.findings else None
    b = report.evidence.data.base_loss
    print(
        f"\n@@ {case.name:32s} broken={before} rule={'ok' if first == case.expected else first} fixed={after} {[f.rule for f in report.findings]} {applied.changes} {applied.forecast.verdict[:40]} "
        f"{model.evaluate(X, y) / b:.3f} -> {applied.model.evaluate(Z, t) / second.evidence.data.base_loss:.3f}  then {[f.rule for f in second.findings]}"
    )
