"""The reference's optimisers and epochs against steps worked out by hand, and that it learns."""

import numpy as np
import pytest
from conftest import assert_close

from cymlp import optimizers, reference

SIZES = (3, 4, 2)
IS_WEIGHT = np.r_[np.ones(12), np.zeros(4), np.ones(8), np.zeros(2)].astype(bool)


def _network(sizes=SIZES, dtype=np.float64, output="identity", loss="squared_error"):
    layers = [("tanh", 0.01)] * (len(sizes) - 2) + [(output, 0.01)]
    return reference.Network(sizes, layers, (loss, 1.0), dtype)


def _parameters(network, n=IS_WEIGHT.size, dtype=np.float64):
    out = np.empty(n, dtype)
    network.get_parameters(out)
    return out


# The last gradient is small, where epsilon counts.
W0, G = np.array([1.0, -2.0, 0.5]), np.array([0.5, -2.0, 1e-3])
TIMES = np.arange(1, 21)[:, np.newaxis]


def _steps(optimizer, gradients):
    """w after each step from W0."""
    w, state, rule = W0.copy(), (np.zeros(3), np.zeros(3)), optimizer.rule()
    path = []
    for step, g in enumerate(gradients, start=1):
        reference.update(rule, step, w, g, state)
        path.append(w.copy())
    return np.array(path)


# Under a constant gradient g, by summing geometric series; s = sign(g).
CONSTANT_GRADIENT = {
    "sgd": (optimizers.SGD(0.1), W0 - 0.1 * TIMES * G),
    "momentum": (  # v_t = -eta g (1 - mu^t) / (1 - mu)
        optimizers.SGD(0.1, momentum=0.8),
        W0 - 0.1 * G / 0.2 * (TIMES - 0.8 * (1 - 0.8**TIMES) / 0.2),
    ),
    "nesterov": (  # each step is mu v_t - eta g = v_{t+1}
        optimizers.SGD(0.1, momentum=0.8, nesterov=True),
        W0 - 0.1 * G / 0.2 * (TIMES - 0.8**2 * (1 - 0.8**TIMES) / 0.2),
    ),
    "rmsprop": (  # s_t = (1 - rho^t) g^2
        optimizers.RMSprop(0.1, rho=0.8, epsilon=1e-3),
        W0 - 0.1 * np.cumsum(G / (np.sqrt(1 - 0.8**TIMES) * np.abs(G) + 1e-3), axis=0),
    ),
    "adam": (  # both corrected moments are g and g^2 at once
        optimizers.Adam(0.1, beta1=0.8, beta2=0.9, epsilon=1e-3),
        W0 - 0.1 * TIMES * G / (np.abs(G) + 1e-3),
    ),
    "adam, epsilon-hat": (  # m_t = (1 - beta1^t) g, v_t = (1 - beta2^t) g^2
        optimizers.Adam(0.1, beta1=0.8, beta2=0.9, epsilon=1e-3, epsilon_hat=True),
        W0 - 0.1 * np.cumsum(np.sqrt(1 - 0.9**TIMES) * G / (np.sqrt(1 - 0.9**TIMES) * np.abs(G) + 1e-3), axis=0),
    ),
    "adamw": (  # w_t = q w_{t-1} - step, q = 1 - eta lambda
        optimizers.AdamW(0.1, beta1=0.8, beta2=0.9, epsilon=1e-3, weight_decay=0.5),
        0.95**TIMES * W0 - 0.1 * G / (np.abs(G) + 1e-3) * (1 - 0.95**TIMES) / 0.05,
    ),
}


@pytest.mark.parametrize("case", CONSTANT_GRADIENT)
def test_steps_under_a_constant_gradient(case):
    optimizer, desired = CONSTANT_GRADIENT[case]
    assert_close(_steps(optimizer, [G] * len(TIMES)), desired, len(TIMES), np.abs(desired).max() + 1, kind="update")


def test_every_rule_has_a_constant_gradient_case():
    assert {optimizer.rule()["name"] for optimizer, _ in CONSTANT_GRADIENT.values()} == set(reference.RULES)


def test_second_step_after_a_changed_gradient():
    """g = 1, then h: the moments remember the first."""
    one, h = np.ones(3), np.array([1.0, -1.0, 2.0])
    desired = {
        optimizers.SGD(0.1, momentum=0.8): 0.1 + 0.1 * (0.8 + h),
        optimizers.SGD(0.1, momentum=0.8, nesterov=True): 0.18 + 0.1 * (0.64 + 0.8 * h + h),
        optimizers.RMSprop(0.1, rho=0.8): 0.1 / np.sqrt(0.2) + 0.1 * h / np.sqrt(0.16 + 0.2 * h**2),
        optimizers.Adam(0.1, beta1=0.8, beta2=0.9): 0.1
        + 0.1 * (0.8 + h) / 1.8 / np.sqrt((0.9 + h**2) / 1.9),  # (1 - beta^2) / (1 - beta) = 1 + beta
    }
    for optimizer, change in desired.items():
        fields = {**optimizer.rule(), "epsilon": 0.0}  # the moments alone
        w, state = W0.copy(), (np.zeros(3), np.zeros(3))
        reference.update(fields, 1, w, one, state)
        reference.update(fields, 2, w, h, state)
        assert_close(w, W0 - change, 2, 4, kind="update")


@pytest.mark.parametrize("name", reference.RULES)
def test_update_works_in_place_and_keeps_float32(name):
    rule = optimizers.OPTIMIZERS[name]().rule()
    w, g, state = W0.astype(np.float32), G.astype(np.float32), (np.zeros(3, np.float32), np.zeros(3, np.float32))
    reference.update(rule, 1, w, g, state)
    desired, state64 = W0.copy(), (np.zeros(3), np.zeros(3))
    reference.update(rule, 1, desired, G, state64)
    assert_close(w, desired, 1, 2, kind="update")
    for actual, vector in zip(state, state64, strict=True):
        assert_close(actual, vector, 1, kind="update")
    np.testing.assert_array_equal(g, G.astype(np.float32))


def test_sgd_without_momentum_leaves_the_state_alone():
    w, m, v = W0.copy(), np.full(3, 7.0), np.full(3, 7.0)
    reference.update(optimizers.SGD(0.1, nesterov=True).rule(), 1, w, G, (m, v))
    np.testing.assert_array_equal(w, W0 - 0.1 * G)
    np.testing.assert_array_equal((m, v), np.full((2, 3), 7.0))


def _training_data(rng, dtype=np.float64, rows=11):
    """X, y, weights, and parameters with which sums of a layer are of the order of 1."""
    X, y = rng.normal(size=(rows, 3)).astype(dtype), rng.normal(size=(rows, 2)).astype(dtype)
    return X, y, rng.uniform(0, 2, rows).astype(dtype), rng.normal(0, 0.6, IS_WEIGHT.size).astype(dtype)


@pytest.mark.parametrize("case", CONSTANT_GRADIENT)
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_train_epoch_is_gradients_and_updates(case, ordered, weighted, rng, dtype):
    """Two epochs of batches of 4, 4 and 3 rows, bit for bit; weight decay on weights alone."""
    rule = CONSTANT_GRADIENT[case][0].rule()
    X, y, weight, flat = _training_data(rng, dtype)
    weight = weight if weighted else None
    order = rng.permutation(11) if ordered else None
    trained, by_hand = _network(dtype=dtype), _network(dtype=dtype)
    trained.set_parameters(flat)
    state, step = (np.zeros_like(flat), np.zeros_like(flat)), 0
    for _ in range(2):
        loss, failed = trained.train_epoch(X, y, weight, order, 4, rule)
        total, gradient = 0.0, np.empty_like(flat)
        for rows in np.split(np.arange(11) if order is None else order, [4, 8]):
            batch_weight = None if weight is None else weight[rows]
            by_hand.set_parameters(flat)
            batch_loss = by_hand.gradients(X[rows], y[rows], batch_weight, gradient)
            total += batch_loss * (len(rows) if weight is None else batch_weight.sum(dtype=np.float64))
            step += 1
            flat[IS_WEIGHT] -= rule["learning_rate"] * rule.get("weight_decay", 0.0) * flat[IS_WEIGHT]
            reference.update({**rule, "weight_decay": 0.0}, step, flat, gradient, state)
        np.testing.assert_array_equal(_parameters(trained, dtype=dtype), flat)
        assert failed == -1
        assert_close(loss, total / (11 if weight is None else weight.sum(dtype=np.float64)), 11)


@pytest.mark.parametrize("bad", [np.inf, np.nan, 1e300])
def test_train_epoch_stops_before_the_update_of_a_failed_batch(bad, rng):
    X, y, _, flat = _training_data(rng)
    y[8, 1] = bad  # in the third batch of 3
    failing, short = _network(), _network()
    failing.set_parameters(flat)
    short.set_parameters(flat)
    rule = optimizers.SGD(0.1).rule()
    loss, failed = failing.train_epoch(X, y, None, None, 3, rule)
    assert failed == 2
    assert not np.isfinite(loss)
    assert short.train_epoch(X[:6], y[:6], None, None, 3, rule)[1] == -1
    np.testing.assert_array_equal(_parameters(failing), _parameters(short))


def test_train_epoch_without_weight_or_rows(rng, dtype):
    X, y, weight, flat = _training_data(rng, dtype)
    network, rule = _network(dtype=dtype), optimizers.SGD(0.1).rule()
    network.set_parameters(flat)
    assert network.train_epoch(X, y, 0 * weight, None, 4, rule) == (0.0, -1)
    assert network.train_epoch(X, y, None, np.empty(0, np.int64), 4, rule) == (0.0, -1)
    np.testing.assert_array_equal(_parameters(network, dtype=dtype), flat)


def test_reset_optimizer_starts_again(rng):
    X, y, _, flat = _training_data(rng)
    network, results = _network(), []
    for optimizer in (optimizers.Adam(), optimizers.SGD(0.1, momentum=0.9), optimizers.Adam()):
        network.reset_optimizer()
        network.set_parameters(flat)
        network.train_epoch(X, y, None, None, 4, optimizer.rule())
        results.append(_parameters(network))
    np.testing.assert_array_equal(results[0], results[2])
    assert not np.array_equal(results[0], results[1])


def test_rule_stays_until_reset(rng):
    X, y, _, _ = _training_data(rng)
    network = _network()
    network.train_epoch(X, y, None, None, 4, optimizers.SGD().rule())
    with pytest.raises(ValueError, match=r"rule must stay 'sgd' until reset_optimizer\(\); got 'adam'"):
        network.train_epoch(X, y, None, None, 4, optimizers.Adam().rule())


def test_learns_xor(rng):
    X, y = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
    network = _network((2, 8, 2), output="softmax", loss="categorical_cross_entropy")
    network.set_parameters(rng.normal(0, 0.7, 42))
    for _ in range(200):
        loss, _ = network.train_epoch(X, y, None, None, 4, optimizers.Adam(0.05).rule())
    assert loss < 0.01
    np.testing.assert_array_equal(network.forward(X)[1][-1].argmax(axis=1), y)


def test_learns_the_least_squares_solution(rng):
    X, y, _, _ = _training_data(rng, rows=40)
    network = _network((3, 2))
    for _ in range(1000):
        network.train_epoch(X, y, None, None, 40, optimizers.SGD(0.3).rule())
    desired = np.linalg.lstsq(np.c_[X, np.ones(40)], y, rcond=None)[0]
    assert_close(_parameters(network, 8).reshape(4, 2), desired, 40 + 8, kind="pass")
