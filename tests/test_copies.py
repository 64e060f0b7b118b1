"""The optimiser's state: out of an engine and into another one, and with copies of networks, which then resume."""

import copy
import itertools
import pickle

import numpy as np
import pytest
from conftest import draw_parameters
from test_engine import CALM_RULES, _rule_id

from cymlp import MLP, _engine, optimizers, reference

SIZES = {"mirrored": ((9, 20, 3), 40), "blocks": ((9, 20, 3), 16)}
DUPLICATES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "pickle of a copy": lambda net: pickle.loads(pickle.dumps(copy.copy(net))),
}
OPTIMIZERS = [*CALM_RULES[1:], optimizers.SGD(0.05)]


# ---- Engines ----


class Training:
    """A network of one engine and its data."""

    def __init__(self, engine, dtype, kind="mirrored", start=0):
        rng, (sizes, self.batch) = np.random.default_rng(4), SIZES[kind]
        layers = [("tanh", 0.0), ("softmax", 0.0)]
        self.network = engine.Network(sizes, layers, ("categorical_cross_entropy", 1.0), dtype)
        self.flat = draw_parameters(np.random.default_rng(start), sizes, dtype)
        self.network.set_parameters(self.flat)
        self.X, self.y = rng.standard_normal((90, sizes[0])).astype(dtype), rng.integers(0, sizes[-1], 90)

    def train(self, rule, n_threads=1):
        assert self.network.train_epoch(self.X, self.y, None, None, self.batch, rule, n_threads)[1] == -1

    def parameters(self):
        out = np.empty_like(self.flat)
        self.network.get_parameters(out)
        return out


def _bits(state):
    return [part.tobytes() if isinstance(part, np.ndarray) else part for part in state]


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=_rule_id)
def test_a_state_goes_on_in_another_network(engine, dtype, kind, optimizer):
    one, rule = Training(engine, dtype, kind), optimizer.rule()
    assert one.network.get_optimizer() is None
    for n_threads in (1, 2):
        one.train(rule, n_threads)
    state, flat = one.network.get_optimizer(), one.parameters()
    assert isinstance(state, tuple)
    assert state[:2] == (rule["name"], 2 * -(-90 // one.batch))
    kept = {"sgd": (rule.get("momentum", 0) > 0, False), "rmsprop": (False, True)}.get(rule["name"], (True, True))
    assert tuple(moment is not None for moment in state[2:]) == kept
    assert all(moment is None or (moment.dtype, moment.shape) == (dtype, flat.shape) for moment in state[2:])
    bits = _bits(state)
    for _ in range(2):
        one.train(rule, 2)
    for n_threads in (1, 2):
        other = Training(engine, dtype, kind, start=1)
        other.train(rule, n_threads)  # what it has is forgotten
        other.network.set_parameters(flat)
        other.network.set_optimizer(state)
        assert _bits(other.network.get_optimizer()) == _bits(state) == bits
        for _ in range(2):
            other.train(rule, n_threads)
        assert other.parameters().tobytes() == one.parameters().tobytes()
        assert _bits(other.network.get_optimizer()) == _bits(one.network.get_optimizer())
    assert _bits(state) == bits  # a copy, in and out


def test_states_of_one_engine_are_states_of_the_other(isa, dtype):
    for maker, taker in itertools.permutations((_engine, reference)):
        one, other = Training(maker, dtype), Training(taker, dtype)
        one.train(optimizers.AdamW().rule())
        other.network.set_optimizer(one.network.get_optimizer())
        assert _bits(other.network.get_optimizer()) == _bits(one.network.get_optimizer())


def test_no_state_is_a_reset(engine, dtype):
    rule, results = optimizers.Adam(0.01).rule(), []
    for begin in (lambda network: None, lambda network: network.reset_optimizer(), lambda n: n.set_optimizer(None)):
        run = Training(engine, dtype)
        for _ in range(2):
            run.network.set_parameters(run.flat)
            begin(run.network)
            run.train(rule)
        results.append(run.parameters().tobytes())
    assert results[0] != results[1] == results[2]


def test_a_state_brings_its_rule(engine):
    run = Training(engine, np.float64)
    run.network.set_optimizer(("rmsprop", 3, None, np.ones_like(run.flat)))
    with pytest.raises(ValueError, match=r"rule must stay 'rmsprop' until reset_optimizer\(\); got 'adam'"):
        run.train(optimizers.Adam().rule())
    run.train(optimizers.RMSprop().rule())
    assert run.network.get_optimizer()[1] == 3 + 3


GOOD = np.zeros(263)
WRONG = {
    "type": ([("adam", 1, GOOD, GOOD)], TypeError, r"state must be None or a tuple \(name, step, m, v\); got list"),
    "length": (("adam", 1, GOOD), TypeError, "state must be None or a tuple"),
    "rule": (("lbfgs", 1, GOOD, GOOD), ValueError, r"state\[0\] must be one of sgd, .*; got 'lbfgs'"),
    "type of step": (("adam", 1.0, GOOD, GOOD), TypeError, r"state\[1\] must be an integer; got float"),
    "step": (("adam", -1, GOOD, GOOD), ValueError, r"state\[1\] must be at least 0; got -1"),
    "size of m": (("adam", 1, GOOD[1:], GOOD), ValueError, r"state\[2\] must have shape"),
    "dtype of v": (("adam", 1, GOOD, GOOD.astype("f4")), TypeError, r"state\[3\] must have dtype float64"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_states_are_named_and_change_nothing(engine, wrong):
    state, error, words = WRONG[wrong]
    run = Training(engine, np.float64)
    run.train(optimizers.Adam().rule())
    before = _bits(run.network.get_optimizer())
    with pytest.raises(error, match="^" + words):
        run.network.set_optimizer(state)
    assert _bits(run.network.get_optimizer()) == before


# ---- Copies ----


@pytest.fixture
def net(engine_name, dtype):
    return MLP([3, 5, 2], "tanh", dtype=dtype, random_state=3, engine=engine_name)


@pytest.fixture
def data(rng, dtype):
    return rng.normal(size=(20, 3)).astype(dtype), rng.normal(size=(20, 2)).astype(dtype)


@pytest.mark.parametrize("duplicate", DUPLICATES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=_rule_id)
def test_a_copy_resumes_as_if_there_had_been_no_break(duplicate, optimizer, engine_name, dtype, data):
    one, two = (MLP([3, 5, 2], "tanh", dtype=dtype, random_state=3, engine=engine_name) for _ in range(2))
    options = {"batch_size": 6, "optimizer": optimizer}
    whole = one.train(*data, epochs=5, **options)
    first = two.train(*data, epochs=2, **options)
    twin = DUPLICATES[duplicate](two)
    second = twin.train(*data, epochs=3, resume=True, **options)
    assert twin.parameters.tobytes() == one.parameters.tobytes()
    assert whole.loss == first.loss + second.loss
    two.train(*data, epochs=3, resume=True, **options)  # of which the copy took nothing
    assert two.parameters.tobytes() == one.parameters.tobytes()


def test_a_copy_that_was_only_asked_resumes(net, data):
    net.train(*data, epochs=2)
    twin = copy.copy(net)
    np.testing.assert_array_equal(twin.predict(data[0]), net.predict(data[0]))
    grandchild = pickle.loads(pickle.dumps(twin))
    results = [each.train(*data, epochs=2, resume=True).loss for each in (net, twin, grandchild)]
    assert results[0] == results[1] == results[2]


def test_a_copy_keeps_its_state_when_parameters_are_set(net, data):
    net.train(*data, epochs=2)
    twin = copy.copy(net)
    for each in (net, twin):
        each.parameters = np.ones(each.n_parameters)
        each.train(*data, epochs=1, resume=True)
    assert twin.parameters.tobytes() == net.parameters.tobytes()


def test_a_copy_that_a_callback_makes_resumes(net, data):
    copies, options = [], {"shuffle": False, "batch_size": 6}
    net.train(*data, epochs=4, callback=lambda event: copies.append(copy.copy(event.network)), **options)
    copies[1].train(*data, epochs=2, resume=True, **options)
    assert copies[1].parameters.tobytes() == net.parameters.tobytes()


def test_a_copy_made_within_an_epoch_is_that_of_the_last_whole_one(net, data, monkeypatch):
    """By a signal handler, or by another thread; moments are then those of another moment, and stay behind."""
    copies, kept = [], []
    net.predict(data[0])
    real = net._network

    class Interrupted:
        def __getattr__(self, name):
            return getattr(real, name)

        def train_epoch(self, *arguments, **optional):
            answer = real.train_epoch(*arguments, **optional)
            copies.append(copy.copy(net))
            return answer

    monkeypatch.setattr(net, "_network", Interrupted())
    net.train(*data, epochs=3, shuffle=False, callback=lambda event: kept.append(event.network.parameters.copy()))
    twin = copies[2]
    np.testing.assert_array_equal(twin.parameters, kept[1])
    assert twin.history_.epochs == 2
    fresh = MLP([3, 5, 2], "tanh", dtype=net.dtype, engine=net.engine)
    fresh.parameters = kept[1]
    for each in (twin, fresh):
        each.train(*data, epochs=2, shuffle=False, resume=True)
    np.testing.assert_array_equal(twin.parameters, fresh.parameters)


def test_a_copy_refuses_to_resume_with_another_optimizer(net, data):
    net.train(*data, epochs=1, optimizer="adam")
    twin = copy.copy(net)
    with pytest.raises(ValueError, match="resume needs the optimizer of the previous call, Adam; got SGD"):
        twin.train(*data, epochs=1, optimizer="sgd", resume=True)
    twin.train(*data, epochs=1, optimizer="sgd")
    assert copy.copy(twin).train(*data, epochs=1, optimizer="sgd", resume=True).epochs == 1


def test_what_keeps_no_state_has_none_to_copy(net, data, tmp_path):
    net.train(*data, epochs=1, optimizer="adam")
    net.save(tmp_path / "m.safetensors")
    loaded = MLP.load(tmp_path / "m.safetensors", engine=net.engine)
    net.train(*data, epochs=1, optimizer="lbfgs")
    for each in (copy.copy(net), loaded, copy.copy(loaded)):
        assert each.train(*data, epochs=1, optimizer="sgd", resume=True).epochs == 1
