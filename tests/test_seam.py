"""The seam between Python and an engine: names and rules that are written down in several places, ranges, errors."""

import itertools

import numpy as np
import pytest
from conftest import PAIRS, draw_parameters, is_legal

from cymlp import _boundary, _engine, _reference_checks, _rules, activations, losses, optimizers, reference

EVERY_PAIR = list(itertools.product(losses.LOSSES, activations.ACTIVATIONS))
WITH_RULE = {name: kind for name, kind in optimizers.OPTIMIZERS.items() if hasattr(kind, "rule")}
SGD = optimizers.SGD().rule()


# ---- What is written in several places ----


def test_names_are_those_of_the_registries():
    assert tuple(activations.ACTIVATIONS) == tuple(reference.ACTIVATIONS) == _boundary.ACTIVATIONS
    assert tuple(losses.LOSSES) == tuple(reference.LOSSES) == _boundary.LOSSES
    assert list(WITH_RULE) == list(reference.RULES) == list(_rules.RULES)
    assert reference.OPTIONS == _rules.OPTIONS


def test_tables_of_legal_pairs_agree():
    elementwise = tuple(name for name in activations.ACTIVATIONS if name != "softmax")
    by_loss = {loss: tuple(name for name in activations.ACTIVATIONS if is_legal(loss, name)) for loss in losses.LOSSES}
    listed = {loss: outputs for loss, outputs in by_loss.items() if outputs != elementwise}
    assert listed == _reference_checks.OUTPUTS == _boundary.OUTPUTS


@pytest.mark.parametrize(("loss", "output"), EVERY_PAIR)
def test_a_pair_is_legal_for_both_engines_or_neither(engine, loss, output):
    """Where kernels are asked for it, and where a network is made."""
    Z, y = np.full((2, 3), 0.5), np.full((2, 3), 0.25)
    calls = (
        lambda: engine.loss_and_gradient(loss, output, Z, y),
        lambda: engine.Network((2, 3), [(output, 0.1)], (loss, 1.0), np.float64),
    )
    for call in calls:
        if (loss, output) in PAIRS:
            call()
        else:
            with pytest.raises(ValueError, match=rf"activation must be one of .* with loss '{loss}'; got '{output}'"):
                call()


@pytest.mark.parametrize("name", WITH_RULE)
def test_a_rule_has_the_keys_that_both_engines_ask_for(engine, name):
    rule = WITH_RULE[name]().rule()
    assert reference.RULES[name] == _rules.RULES[name]
    assert [key for key in rule if key not in reference.OPTIONS[name]] == ["name", *reference.RULES[name]]
    vectors = [np.zeros(3) for _ in range(4)]
    engine.update(rule, 1, vectors[0], vectors[1], vectors[2:])
    for key in reference.RULES[name]:
        short = {other: value for other, value in rule.items() if other != key}
        with pytest.raises(ValueError, match=f"rule '{name}' must have .*; got no {key}"):
            engine.update(short, 1, vectors[0], vectors[1], vectors[2:])


@pytest.mark.parametrize("wrong", ["", "softmin", "Relu", None, 3])
def test_unknown_names_are_errors_of_both_engines(engine, wrong):
    Z = np.ones((1, 2))
    with pytest.raises(ValueError, match="name must be one of"):
        engine.activate(wrong, Z)
    with pytest.raises(ValueError, match="loss must be one of"):
        engine.loss_and_gradient(wrong, "identity", Z, Z)
    with pytest.raises(ValueError, match="activation must be one of"):
        engine.loss_and_gradient("squared_error", wrong, Z, Z)
    with pytest.raises(ValueError, match=r"rule\['name'\] must be one of"):
        engine.update({"name": wrong}, 1, Z[0], Z[0], (Z[0], Z[0]))


def test_an_unknown_instruction_set_is_an_error():
    with pytest.raises(ValueError, match="isa must be one of"):
        _engine.use_isa("avx9")


# ---- Parameters, and epochs that fail ----


def test_parameters_go_in_and_out(isa, dtype, rng, widths):
    for sizes in [(1, 1), (3, 1, 2), *itertools.product((7, 33), widths, (5, 18))]:
        network = _engine.Network(sizes, [("relu", 0.0)] * (len(sizes) - 1), ("squared_error", 1.0), dtype)
        flat = draw_parameters(rng, sizes, dtype)
        out = np.full_like(flat, np.nan)
        network.get_parameters(out)
        assert not out.any()
        network.set_parameters(flat)
        network.get_parameters(out)
        assert out.tobytes() == flat.tobytes()


def test_parameters_are_finite_or_not(engine, dtype, rng):
    sizes = (5, 17, 3)
    network = engine.Network(sizes, [("relu", 0.0)] * 2, ("squared_error", 1.0), dtype)
    flat = draw_parameters(rng, sizes, dtype)
    for place in (0, 5 * 17, flat.size - 1):
        for value in (np.nan, np.inf, -np.inf, np.finfo(dtype).max):
            changed = flat.copy()
            changed[place] = value
            network.set_parameters(changed)
            assert network.is_finite() is bool(np.isfinite(value))


def test_an_epoch_ends_before_the_update_of_a_batch_without_a_finite_loss(engine, dtype, rng):
    network = engine.Network((3, 4, 1), [("relu", 0.0), ("identity", 0.0)], ("squared_error", 1.0), dtype)
    network.set_parameters(draw_parameters(rng, (3, 4, 1), dtype))
    X, y = rng.standard_normal((40, 3)).astype(dtype), np.zeros((40, 1), dtype)
    y[25] = np.inf
    loss, failed = network.train_epoch(X, y, None, None, 4, optimizers.SGD(0.01).rule())
    after = np.empty(21, dtype)
    network.get_parameters(after)
    assert failed == 6
    assert not np.isfinite(loss)
    assert np.isfinite(after).all()


def test_rule_must_stay_until_the_optimizer_is_reset(engine, rng):
    network = engine.Network((3, 1), [("identity", 0.0)], ("squared_error", 1.0), np.float64)
    X, y = rng.standard_normal((4, 3)), np.zeros((4, 1))
    network.train_epoch(X, y, None, None, 2, optimizers.Adam().rule())
    with pytest.raises(ValueError, match="rule"):
        network.train_epoch(X, y, None, None, 2, SGD)
    network.reset_optimizer()
    network.train_epoch(X, y, None, None, 2, SGD)


# ---- Errors ----


def _classifier(engine, n_in=3, n_out=2):
    network = engine.Network((n_in, n_out), [("softmax", 0.0)], ("categorical_cross_entropy", 1.0), np.float64)
    network.set_parameters(np.linspace(-1, 1, (n_in + 1) * n_out))
    return network


MISTAKES = {
    "predict: width of X": (lambda n, X, y: n.predict(X[:, :2].copy(), y), ValueError, "X must have shape"),
    "predict: type of X": (lambda n, X, y: n.predict(X.astype("f4"), y), TypeError, "X must have dtype float64"),
    "predict: strides of X": (lambda n, X, y: n.predict(X[::2], y[:2].copy()), ValueError, "X must be .*C-contiguous"),
    "predict: out": (lambda n, X, y: n.predict(X, np.empty((4, 3))), ValueError, "out must have shape"),
    "forward: width of X": (lambda n, X, y: n.forward(X[:, :2].copy()), ValueError, "X must have shape"),
    "gradients: out": (lambda n, X, y: n.gradients(X, y, None, np.empty(3)), ValueError, "out must have shape"),
    "train: batch": (lambda n, X, y: n.train_epoch(X, y, None, None, 0, SGD), ValueError, "batch_size must be"),
    "train: y": (lambda n, X, y: n.train_epoch(X, y[:3], None, None, 2, SGD), ValueError, "y must have shape"),
    "train: weights": (lambda n, X, y: n.train_epoch(X, y, X[0], None, 2, SGD), ValueError, "sample_weight must have"),
    "train: type of order": (
        lambda n, X, y: n.train_epoch(X, y, None, np.zeros(4, np.int32), 2, SGD),
        TypeError,
        "order must have dtype int64",
    ),
    "set: size": (lambda n, X, y: n.set_parameters(np.zeros(3)), ValueError, "must have shape"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_and_leave_the_network_usable(engine, mistake):
    call, error, words = MISTAKES[mistake]
    X, y, out = np.ones((4, 3)), np.full((4, 2), 0.5), np.empty((4, 2))
    network = _classifier(engine)
    with pytest.raises(error, match=words):
        call(network, X, y)
    network.predict(X, out)
    expected = np.empty((4, 2))
    _classifier(engine).predict(X, expected)
    assert out.tobytes() == expected.tobytes()


@pytest.mark.parametrize("wrong", [-1, 4, 2**62, -(2**62)])
def test_an_order_out_of_range_reads_no_memory(wrong):
    X, labels, network = np.ones((4, 3)), np.array([0, 1, 1, 0]), _classifier(_engine)
    for at in (0, 3):
        order = np.array([0, 1, 2, 3])
        order[at] = wrong
        with pytest.raises(ValueError, match=r"order must be in \[0, 4\); got values from"):
            network.train_epoch(X, labels, None, order, 2, SGD)
    assert network.train_epoch(X, labels, None, np.array([3, 3, 0]), 2, SGD)[1] == -1


@pytest.mark.parametrize("wrong", [-1, 2, 2**62, -(2**62)])
def test_labels_out_of_range_read_no_memory(wrong):
    X, network = np.ones((4, 3)), _classifier(_engine)
    for at in (0, 3):
        labels = np.array([0, 1, 1, 0])
        labels[at] = wrong
        for call in (
            lambda labels=labels: network.train_epoch(X, labels, None, None, 2, SGD),
            lambda labels=labels: network.gradients(X, labels, None, np.empty(8)),
            lambda labels=labels: _engine.loss_and_gradient(*PAIRS[-1], X[:, :2].copy(), labels),
        ):
            with pytest.raises(ValueError, match=r"y must be in \[0, 2\); got values from"):
                call()
    assert network.train_epoch(X, np.array([0, 1, 1, 0]), None, None, 2, SGD)[1] == -1
