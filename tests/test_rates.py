"""The learning-rate range test: its numbers, that it leaves no trace, and where it ends."""

import copy
import pickle
import types

import numpy as np
import pytest
from conftest import assert_close
from matplotlib import pyplot
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from cymlp import MLP, RangeTest, learning_rate_range, optimizers, plots, rates, schedules


@pytest.fixture
def problem(rng):
    """Two classes that a small network tells apart."""
    X = rng.normal(size=(300, 4))
    return X, (X[:, 0] + X[:, 1] ** 2 > 1).astype(int)


def _network(engine_name, dtype=None, seed=0):
    return MLP([4, 16, 2], "tanh", "softmax", dtype=dtype, random_state=seed, engine=engine_name)


def test_losses_are_those_of_descent_with_rising_rates(engine_name):
    """On a parabola: with all rows in each minibatch, w and its loss (w - 3)^2 / 2 are known at each step."""
    net = MLP.from_weights([[[1.0]]], [[0.0]], engine=engine_name)
    # Rows x = 1 and x = -1 keep the bias at 0.
    X, y = np.array([[1.0], [-1.0]]), np.array([3.0, -3.0])
    test = learning_rate_range(net, X, y, lowest=1e-3, highest=1.0, steps=31, batch_size=2, optimizer="sgd")
    assert_close(test.learning_rates, 10.0 ** (np.arange(31) / 10 - 3), 4)
    w, losses = 1.0, []
    for rate in test.learning_rates:
        losses.append((w - 3) ** 2 / 2)
        w += rate * (3 - w)
    assert_close(test.losses, losses, 31, scale=np.array(losses) + 1e-6, kind="update")


def test_steps_are_those_of_training_with_the_same_rates(problem, engine_name, dtype):
    X, y = problem
    net = _network(engine_name, dtype)
    other, optimizer = copy.deepcopy(net), optimizers.SGD(0.5, momentum=schedules.Polynomial(0.9, 0.5))
    arguments = {"batch_size": 64, "dropout": 0.2, "clip_norm": 0.5, "shuffle": "stratified"}
    test = learning_rate_range(net, X, y, lowest=1e-4, highest=0.1, steps=15, optimizer=optimizer, **arguments)
    rates = test.learning_rates
    optimizer = optimizers.SGD(lambda step: rates[step], optimizer.momentum)
    history = other.train(X, y, epochs=3, optimizer=optimizer, **arguments)
    rows = np.array([64, 64, 64, 64, 44])
    assert_close(test.losses.reshape(3, 5) @ rows / 300, history.loss, 300, kind="product", dtype=dtype)


def test_losses_are_without_penalties_and_with_weights_of_classes(problem, engine_name):
    X, y = problem
    net = _network(engine_name, np.float64)
    plain = net.evaluate(X, y, np.where(y == 1, 3.0, 1.0))
    arguments = {"class_weight": {1: 3.0}, "l1": 0.1, "l2": 0.1, "alpha": 0.1, "batch_size": 300, "max_norm": 1.0}
    test = learning_rate_range(net, X, y, **arguments)
    assert_close(test.losses[0], plain, 300, kind="product")
    smoothed = learning_rate_range(net, X, y, batch_size=300, label_smoothing=0.2)
    assert_close(smoothed.losses[0], net.evaluate(X, 0.8 * np.eye(2)[y] + 0.1), 300, kind="product")


def test_batches_may_come_from_an_iterable(problem, engine_name):
    X, y = problem
    batches = [(X[i : i + 30], y[i : i + 30]) for i in range(0, 300, 30)]
    tests = [
        learning_rate_range(_network(engine_name, np.float64), *data, batch_size=30, shuffle=False, steps=25)
        for data in ((batches,), (X, y))
    ]
    assert tests[0].losses.tobytes() == tests[1].losses.tobytes()
    with pytest.raises(ArithmeticError, match="needs at least 10 steps, and ended after 8: there were no more batches"):
        learning_rate_range(_network(engine_name), iter(batches[:8]))


@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
def test_the_network_stays_as_it_is(problem, normalization, engine_name, dtype):
    X, y = problem
    net, twin = (
        MLP([4, 16, 2], "tanh", "softmax", dtype=dtype, random_state=0, engine=engine_name, normalization=normalization)
        for _ in range(2)
    )
    for trained in (net, twin):
        trained.train(X, y, epochs=2)
    before, history = pickle.dumps(net), net.history_
    learning_rate_range(net, X, y, dropout=0.1)
    assert pickle.dumps(net) == before
    assert net.history_ is history
    for trained in (net, twin):
        trained.train(X, y, epochs=2, resume=True)
    assert net.parameters.tobytes() == twin.parameters.tobytes()
    assert net.statistics.tobytes() == twin.statistics.tobytes()


def test_a_network_without_data_so_far_leaves_its_dtype_open(problem, engine_name):
    X, y = problem
    net = _network(engine_name)
    learning_rate_range(net, X.astype(np.float32), y, steps=20)
    assert "dtype=None" in repr(net)
    assert net.history_ is None


def test_averages_are_those_of_their_formula(rng):
    losses, decay = rng.normal(size=40) ** 2, 0.8
    weights = decay ** np.abs(np.arange(40)[:, None] - np.arange(40))
    assert_close(rates._two_sided(losses, decay), weights @ losses / weights.sum(axis=1), 40, kind="update")
    average, past = rates._Average(decay), np.tril(weights)
    means = [average.add(loss) for loss in losses]
    assert_close(means, past @ losses / past.sum(axis=1), 40, kind="update")


def test_the_suggestion_is_where_the_loss_falls_fastest():
    x = np.log(np.geomspace(1e-7, 10, 200))
    falls = 1 / (1 + np.exp(3 * (x - np.log(1e-2)))) + np.exp(2 * x) / 50
    suggestion = rates._steepest(np.exp(x), falls)
    assert 0.8e-2 < suggestion < 1.2e-2
    luck = falls - 0.1 * (np.arange(200) == 20)  # a minibatch, at a rate that does nothing
    assert rates._steepest(np.exp(x), luck) == suggestion
    assert rates._steepest(np.exp(x), np.exp(x)) is None
    assert rates._steepest(np.exp(x), np.ones(200)) is None


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adam", "adamw"])
def test_the_suggestion_trains_better_than_rates_far_from_it(optimizer):
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)

    def network():
        return MLP([64, 32, 10], "relu", "softmax", random_state=0)

    def loss(rate):
        net = network()
        net.train(X, y, epochs=3, optimizer=optimizer, learning_rate=rate)
        return net.evaluate(X, y)

    suggestion = learning_rate_range(network(), X, y, optimizer=optimizer).suggestion
    assert loss(suggestion) < min(loss(suggestion / 30), loss(suggestion * 30), 0.5)


def test_the_test_ends_where_the_loss_has_grown_or_is_not_finite(problem, engine_name):
    X, y = problem
    net = _network(engine_name)
    test = learning_rate_range(net, X, y, highest=1e4, optimizer="sgd")
    assert 10 <= len(test.learning_rates) == len(test.losses) == len(test.smoothed) < 200
    assert np.isfinite(test.losses).all()
    assert test.suggestion in test.learning_rates
    later = learning_rate_range(net, X, y, highest=1e4, optimizer="sgd", limit=1e9)
    assert len(later.losses) > len(test.losses)
    assert_close(later.losses[: len(test.losses)], test.losses, 1)
    line = MLP([4, 1], random_state=0, engine=engine_name)
    overflow = learning_rate_range(line, X, 1e3 * X[:, 0], highest=1e60, optimizer="sgd", limit=1e308)
    assert len(overflow.losses) < 200
    assert np.isfinite(overflow.smoothed).all()


def test_rows_without_weight_are_not_drawn(problem, engine_name):
    X, y = problem
    weight = np.where(np.arange(300) < 40, 2.0, 0.0)
    spoiled = np.where(np.arange(300)[:, None] < 40, X, 1e3)
    arguments = {"steps": 30, "batch_size": 7, "sample_weight": weight}
    tests = [learning_rate_range(_network(engine_name), rows, y, **arguments) for rows in (X, spoiled)]
    assert tests[0].losses.tobytes() == tests[1].losses.tobytes()
    assert 10 <= len(tests[0].losses) == len(tests[0].learning_rates) < 30
    assert tests[0].losses.min() > 0


def test_batches_are_no_larger_than_the_data(problem):
    X, y = problem
    test = learning_rate_range(_network("compiled"), X[:20], y[:20], steps=20, batch_size=10**9)
    assert_close(test.losses[0], _network("compiled").evaluate(X[:20], y[:20]), 20, kind="product")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"lowest": 0}, ValueError, "lowest must be a finite number > 0; got 0"),
        ({"highest": np.inf}, ValueError, "highest must be a finite number > 0; got inf"),
        ({"lowest": "a"}, ValueError, "lowest must be a finite number > 0; got 'a'"),
        ({"lowest": 1.0, "highest": 1.0}, ValueError, "highest must be above lowest, 1.0; got 1.0"),
        ({"steps": 9}, ValueError, "steps must be an integer >= 10; got 9"),
        ({"steps": 20.0}, TypeError, "steps must be an integer >= 10; got 20.0"),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer >= 1; got 0"),
        ({"limit": 1}, ValueError, "limit must be a finite number > 1; got 1"),
        ({"optimizer": "lbfgs"}, ValueError, "optimizer must be one that takes a learning rate; got 'lbfgs'"),
        ({"optimizer": optimizers.Adam(epsilon=1e-320)}, ValueError, "Adam.epsilon must be at least"),
        ({"optimizer": "adamant"}, ValueError, "optimizer must be one of"),
        ({"sample_weight": [1.0]}, ValueError, "sample_weight must have shape"),
        ({"network": None}, TypeError, "network must be an MLP; got NoneType"),
        ({"y": [0]}, ValueError, "y must have as many rows as X"),
        ({"y": None}, TypeError, "y must be given where X is an array"),
        ({"epochs": 3}, TypeError, "epochs must not be given: arguments of MLP.train that count here are"),
        ({"dropout": 2}, ValueError, "dropout must be a number in"),
    ],
)
def test_wrong_arguments_are_refused(problem, arguments, error, message):
    X, y = problem
    with pytest.raises(error, match=message):
        learning_rate_range(**{"network": _network("compiled"), "X": X, "y": y, **arguments})


def test_rates_that_are_all_too_high_are_refused(engine_name):
    net = MLP([1, 1], random_state=0, engine=engine_name)
    X = np.linspace(-1e3, 1e3, 50).reshape(-1, 1)
    with pytest.raises(ArithmeticError, match=r"ended after \d: there .* beyond the limit; try a lower `lowest`"):
        learning_rate_range(net, X, X, lowest=10, highest=100, optimizer="sgd")


# ---- Pictures ----


def _found(suggestion=1e-3):
    x = np.geomspace(1e-5, 1, 50)
    return RangeTest(x, np.ones(50), 1 - 0.5 * (x > 1e-3) + 5 * (x > 0.1), suggestion)


def test_the_curve_is_drawn_as_far_as_it_matters():
    test, ax = _found(), Figure().subplots()
    assert test.plot(ax) is ax
    assert ax.get_xscale() == "log"
    assert [line.get_label() for line in ax.lines] == ["minibatches", "average", "suggestion: 0.001"]
    np.testing.assert_array_equal(ax.lines[1].get_xydata(), np.column_stack([test.learning_rates, test.smoothed]))
    low, high = ax.get_ylim()
    assert low < 0.5
    assert 1 < high < 2
    assert [line.get_label() for line in plots.rate_curve(_found(None), Figure().subplots()).lines][-1] == "average"


def test_a_curve_that_never_falls_is_drawn():
    test = types.SimpleNamespace(learning_rates=[1, 2], losses=np.ones(2), smoothed=np.ones(2), suggestion=None)
    assert plots.rate_curve(test, Figure().subplots()).get_ylabel() == "loss"


@pytest.mark.parametrize("suffix", plots.SUFFIXES)
def test_pictures_are_written(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    assert _found().plot(path) is None
    assert path.stat().st_size > 1000
    assert _found().plot(str(path)) is None
    with pytest.raises(ValueError, match="path must end in"):
        _found().plot(tmp_path / "a.bmp")


def test_a_new_figure_is_pyplots(monkeypatch):
    monkeypatch.setattr(pyplot, "subplots", lambda **_: (None, Figure().subplots()))
    assert _found().plot().get_xlabel() == "learning rate"
