"""Runs with nothing wrong: no rule speaks, whatever the data, the size, the dtype and the length of the run."""

import functools
import warnings

import numpy as np
import pytest
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    load_linnerud,
    load_wine,
    make_blobs,
    make_circles,
    make_classification,
    make_friedman1,
    make_moons,
    make_regression,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cymlp import MLP, EarlyStopping, MLPClassifier, MLPRegressor, optimizers, presets, schedules

BUNDLED = {
    "iris": load_iris,
    "wine": load_wine,
    "breast cancer": load_breast_cancer,
    "digits": load_digits,
    "diabetes": load_diabetes,
    "linnerud": load_linnerud,
}


@functools.cache
def _bundled(name):
    return BUNDLED[name](return_X_y=True)


def _standard(values):
    return StandardScaler().fit_transform(values.reshape(len(values), -1))


def _fit(estimator, X, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(X, y)


def _check(report, *, least=1):
    """No findings, and something to have found them in."""
    assert len(report.records) >= least
    assert report.findings == ()
    assert report.is_healthy


# ---- Estimators on the data sets that come with scikit-learn ----


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", BUNDLED)
def test_estimators_with_default_settings(name, seed):
    X, y = _bundled(name)
    if y.dtype.kind == "f":
        estimator = MLPRegressor(target_scaling="standard", random_state=seed)
    else:
        estimator = MLPClassifier(random_state=seed)
    _check(_fit(make_pipeline(StandardScaler(), estimator), X, y)[-1].health_)


@pytest.mark.parametrize("name", ["iris", "digits"])
def test_raw_inputs_of_a_size_that_does_no_harm(name):
    _check(_fit(MLPClassifier(random_state=0), *_bundled(name)).health_)


@pytest.mark.parametrize("name", ["wine", "breast cancer"])
def test_raw_inputs_that_do_harm_are_told_of(name):
    """Scaled they are learned to the end; as they are they are not."""
    X, y = _bundled(name)
    raw = _fit(MLPClassifier(random_state=0), X, y)
    assert [finding.rule for finding in raw.health_.findings] == ["inputs not scaled"]
    scaled = _fit(make_pipeline(StandardScaler(), MLPClassifier(random_state=0)), X, y)
    assert raw.score(X, y) < 0.95 < 0.99 < scaled.score(X, y)


def test_raw_targets_that_do_harm_are_told_of():
    X, y = _bundled("diabetes")
    raw = _fit(MLPRegressor(random_state=0), X, y)
    assert [finding.rule for finding in raw.health_.findings] == ["targets not scaled"]
    assert raw.score(X, y) < 0


@pytest.mark.parametrize(
    "parameters",
    [
        {"early_stopping": True},
        {"solver": "sgd"},
        {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.1},
        {"solver": "lbfgs"},
        {"activation": "tanh"},
        {"activation": "logistic"},
        {"hidden_layer_sizes": (64, 64, 64)},
        {"hidden_layer_sizes": (64, 64), "batch_norm": True},
        {"hidden_layer_sizes": (64, 64), "layer_norm": True},
        {"hidden_layer_sizes": (128, 128), "dropout": 0.5},
        {"hidden_layer_sizes": (), "max_iter": 50},
        {"hidden_layer_sizes": (1000,), "max_iter": 10},
        {"max_iter": 1},
        {"batch_size": 1, "max_iter": 3},
        {"alpha": 1.0},
        {"label_smoothing": 0.1},
        {"class_weight": "balanced"},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["iris", "wine", "digits"])
def test_estimators_with_other_settings(name, parameters):
    X, y = _bundled(name)
    if name == "digits" and parameters.get("batch_size") == 1:
        X, y = X[:300], y[:300]
    classifier = MLPClassifier(random_state=0, **parameters)
    _check(_fit(make_pipeline(StandardScaler(), classifier), X, y)[-1].health_)


@pytest.mark.parametrize("name", ["iris", "diabetes"])
def test_members_of_presets(name):
    X, y = _bundled(name)
    preset = presets.tabular("regression" if y.dtype.kind == "f" else "classification", random_state=0).fit(X, y)
    for member in preset.estimators_:
        _check(member.health_)


def test_a_stream_of_minibatches():
    X, y = _bundled("digits")
    classifier = MLPClassifier(random_state=0)
    for _ in range(5):
        for start in range(0, len(X), 128):
            classifier.partial_fit(X[start : start + 128] / 16, y[start : start + 128], classes=np.arange(10))
    _check(classifier.health_)


# ---- Networks ----

NETWORKS = {
    "30 layers of ReLU": ({"hidden": (64,) * 30}, {"epochs": 10}),
    "20 layers of tanh": ({"hidden": (64,) * 20, "activation": "tanh"}, {"epochs": 10}),
    "10 layers, batch normalization": ({"hidden": (64,) * 10, "normalization": "batch"}, {"epochs": 10}),
    "20 layers, layer normalization": ({"hidden": (64,) * 20, "normalization": "layer"}, {"epochs": 10}),
    "3 layers of sigmoid": ({"hidden": (64,) * 3, "activation": "sigmoid"}, {"epochs": 10}),
    "orthogonal": ({"hidden": (64,) * 15, "activation": "tanh", "initializer": "orthogonal"}, {"epochs": 10}),
    "narrow": ({"hidden": (6,)}, {"epochs": 20}),
    "a bottleneck": ({"hidden": (64, 8, 64)}, {"epochs": 10}),
    "wide": ({"hidden": (1024,)}, {"epochs": 5}),
    "leaky ReLU": ({"hidden": (64, 64), "activation": "leaky_relu"}, {"epochs": 10}),
    "SiLU with small weights": ({"hidden": (128, 128), "activation": "silu", "gain": 0.25}, {"epochs": 10}),
    "inputs dropped": ({"hidden": (128, 128)}, {"epochs": 10, "dropout": [0.2, 0.5, 0.5]}),
    "label smoothing": ({"hidden": (64, 64)}, {"epochs": 10, "label_smoothing": 0.1}),
    "float64": ({"hidden": (64, 64), "dtype": "float64"}, {"epochs": 10}),
    "converged": ({"hidden": (64, 64)}, {"epochs": 200}),
    "SGD": ({"hidden": (64, 64)}, {"epochs": 10, "optimizer": "sgd", "learning_rate": 0.1}),
    "SGD with its default": ({"hidden": (64, 64)}, {"epochs": 10, "optimizer": "sgd"}),
    "momentum": ({"hidden": (64, 64)}, {"epochs": 10, "optimizer": optimizers.SGD(0.01, momentum=0.9)}),
    "AdamW": ({"hidden": (256, 128)}, {"epochs": 10, "optimizer": "adamw"}),
    "RMSprop": ({"hidden": (64, 64)}, {"epochs": 10, "optimizer": "rmsprop"}),
    "L-BFGS": ({"hidden": (64, 64)}, {"epochs": 50, "optimizer": "lbfgs"}),
    "one cycle": ({"hidden": (64, 64)}, {"epochs": 10, "learning_rate": schedules.OneCycle(0.0004)}),
    "warm-up": ({"hidden": (64, 64)}, {"epochs": 10, "learning_rate": schedules.WarmUp(0.001, 200)}),
    "to 0": ({"hidden": (64, 64)}, {"epochs": 20, "learning_rate": schedules.Polynomial(0.003)}),
    "minibatches of 4": ({"hidden": (64, 64)}, {"epochs": 3, "batch_size": 4}),
    "all rows at once": ({"hidden": (64, 64)}, {"epochs": 100, "batch_size": 2000}),
    "one epoch": ({"hidden": (64, 64)}, {"epochs": 1}),
    "clipped": ({"hidden": (64, 64)}, {"epochs": 10, "clip_norm": 1.0}),
    "L1": ({"hidden": (64, 64)}, {"epochs": 10, "l1": 1e-4}),
    "max-norm": ({"hidden": (64, 64)}, {"epochs": 10, "max_norm": 2.0}),
}


@pytest.mark.parametrize("every", [True, 1], ids=["default", "every step"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, every):
    X, y = _bundled("digits")
    (made, training) = NETWORKS[name]
    arguments = {"dtype": "float32", **made}
    sizes = (64, *arguments.pop("hidden"), 10)
    net = MLP(sizes, arguments.pop("activation", "relu"), "softmax", random_state=0, **arguments)
    X = _standard(X).astype(arguments["dtype"])
    _check(net.train(X, y, health=every, **training).health)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("n_rows", [4, 20, 1000])
def test_few_rows_and_many(n_rows, seed):
    X, y = make_blobs(n_rows, 5, centers=2, random_state=seed)
    net = MLP((5, 32, 2), "relu", "softmax", random_state=seed)
    _check(net.train(_standard(X), y, epochs=20, health=True).health)
    X, y = make_friedman1(n_rows, random_state=seed)
    net = MLP((10, 32, 32, 1), "tanh", random_state=seed)
    _check(net.train(_standard(X), _standard(y), epochs=20, health=True).health)


def test_it_stops_early():
    X, y = make_moons(400, noise=0.2, random_state=0)
    net = MLP((2, 32, 32, 2), "relu", "softmax", random_state=0)
    stopping = EarlyStopping(3)
    history = net.train(
        X[:300],
        y[:300],
        epochs=200,
        validation_data=(X[300:], y[300:]),
        stopping=stopping,
        learning_rate=0.01,
        health=1,
    )
    assert history.stopped == "patience"
    _check(history.health)


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "huber", "quantile", "poisson"])
def test_losses(loss):
    X, y = make_friedman1(400, random_state=0)
    y = np.round(y) if loss == "poisson" else _standard(y)
    net = MLP((10, 64, 1), "relu", "exp" if loss == "poisson" else "identity", loss, random_state=0)
    _check(net.train(_standard(X), y, epochs=30, health=True).health)


def test_unequal_classes_that_are_both_learned():
    X, y = make_classification(2000, 20, n_informative=8, weights=[0.95], class_sep=2, flip_y=0, random_state=0)
    net = MLP((20, 64, 2), "relu", "softmax", random_state=0)
    _check(net.train(_standard(X), y, epochs=20, health=True).health)


def test_targets_that_are_not_of_size_1_and_are_learned():
    X, y = make_friedman1(800, random_state=0)  # about 14
    net = MLP((10, 64, 64, 1), "relu", random_state=0)
    _check(net.train(_standard(X), y, epochs=60, health=True).health)


# ---- Chance ----


def _random_run(seed):
    """A network that somebody might train, on data that it might be trained with.

    Not among them are those that a rule is right about: a deep network drawn for another activation, circles for
    layers that normalize each row, which forget how long it is, and for sigmoid by plain descent.
    """
    rng = np.random.default_rng(seed)
    names = ("digits", "wine", "blobs", "moons", "circles", "friedman", "linear", "several")
    name = str(rng.choice(names))
    sample = {
        "digits": lambda: _bundled("digits"),
        "wine": lambda: _bundled("wine"),
        "blobs": lambda: make_blobs(
            int(rng.integers(50, 1000)), int(rng.integers(2, 30)), centers=5, random_state=seed
        ),
        "moons": lambda: make_moons(int(rng.integers(50, 1000)), noise=0.2, random_state=seed),
        "circles": lambda: make_circles(int(rng.integers(200, 1000)), noise=0.1, factor=0.4, random_state=seed),
        "friedman": lambda: make_friedman1(int(rng.integers(100, 1000)), random_state=seed),
        "linear": lambda: make_regression(int(rng.integers(100, 1000)), 20, noise=20.0, random_state=seed),
        "several": lambda: make_regression(300, 10, n_targets=3, noise=5.0, random_state=seed),
    }
    X, y = sample[name]()
    is_class = y.dtype.kind == "i"
    X, y = _standard(X), y if is_class else _standard(y)
    activation = str(rng.choice(["relu", "relu", "tanh", "sigmoid", "leaky_relu", "elu", "gelu", "silu"]))
    depth = int(rng.choice([1, 2, 3] if activation == "sigmoid" else [1, 1, 2, 2, 3, 5, 8]))
    widths = [int(width) for width in rng.choice([8, 16, 32, 64, 128], depth)]
    initializer = str(rng.choice(["auto", "auto", "glorot_uniform", "he_normal", "lecun_normal", "orthogonal"]))
    net = MLP(
        (X.shape[1], *widths, int(y.max()) + 1 if is_class else y.shape[1]),
        activation,
        "softmax" if is_class else "identity",
        initializer=initializer if depth < 5 else "auto",
        dtype=str(rng.choice(["float32", "float64"])),
        normalization=[None, None, None, "batch", "layer"][int(rng.integers(4 if name == "circles" else 5))],
        random_state=seed,
    )
    optimizer = [
        optimizers.Adam(float(10 ** rng.uniform(-3.5, -2.3))),
        optimizers.AdamW(),
        optimizers.RMSprop(),
        optimizers.SGD(float(10 ** rng.uniform(-2, -1))),
        optimizers.SGD(float(10 ** rng.uniform(-2.7, -1.7)), momentum=0.9, nesterov=True),
    ][int(rng.integers(3 if (name, activation) == ("circles", "sigmoid") else 5))]
    training = {
        "epochs": int(rng.choice([1, 3, 5, 10, 20, 50])),
        "batch_size": int(rng.choice([8, 16, 32, 64, 200])),
        "optimizer": optimizer,
        "dropout": float(rng.choice([0, 0, 0.2, 0.5])) if min(widths) >= 32 else 0.0,
        "health": int(rng.choice([1, 10, 256])),
    }
    return net, X, y, training


@pytest.mark.parametrize("seed", [*range(40), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(40, 600))])
def test_random_networks(seed):
    net, X, y, training = _random_run(seed)
    _check(net.train(X, y, **training).health)
