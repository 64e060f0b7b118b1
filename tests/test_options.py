"""What `MLP.train` makes of its options: the rule that the engine is given, step by step, and what it refuses."""

import itertools
import math
import pickle

import numpy as np
import pytest
from conftest import assert_close
from test_turns import assert_in_step

from cymlp import MLP, Checkpoint, DivergenceError, optimizers, schedules, training

PLAIN = {"epochs": 2, "batch_size": 8}


def _network(engine_name, sizes=(4, 6, 5, 3), **options):
    return MLP(list(sizes), "tanh", random_state=5, engine=engine_name, **options)


@pytest.fixture
def data(rng):
    return rng.normal(size=(30, 4)), rng.normal(size=(30, 3))


@pytest.fixture
def rules(monkeypatch, data):
    """A function that trains a network and returns the rules its engine was given, one for each call of it."""

    def train(net, *arguments, **options):
        net.predict(np.zeros((1, net.layer_sizes[0])))
        real, seen = net._network, []

        class Recording:
            def __getattr__(self, name):
                return getattr(real, name)

            def train_epoch(self, X, y, sample_weight, order, batch_size, rule, n_threads, **optional):
                seen.append(rule | {"optional": set(optional)})
                return real.train_epoch(X, y, sample_weight, order, batch_size, rule, n_threads, **optional)

        monkeypatch.setattr(net, "_network", Recording())
        net.train(*(arguments or data), **PLAIN | options)
        monkeypatch.setattr(net, "_network", real)
        return seen

    return train


# ---- The rule ----


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adam", "adamw"])
def test_a_plain_run_gives_the_engine_the_rule_of_the_optimizer_alone(optimizer, engine_name, rules):
    net = _network(engine_name)
    state = net._rng.bit_generator.state
    seen = rules(net, optimizer=optimizer, shuffle=False)
    assert seen == [optimizers.OPTIMIZERS[optimizer]().rule() | {"optional": set()}] * 2
    assert net._rng.bit_generator.state == state


def test_options_at_their_defaults_are_no_options(engine_name, rules):
    options = {
        "alpha": 0,
        "l1": 0.0,
        "l2": np.float32(0),
        "penalize_biases": np.False_,
        "max_norm": None,
        "clip_value": None,
        "dropout": [0, 0.0, np.float64(0)],
        "label_smoothing": 0,
    }
    assert rules(_network(engine_name), **options) == [optimizers.Adam().rule() | {"optional": set()}] * 2


@pytest.mark.parametrize(
    ("option", "optional"),
    [
        ({"alpha": 0.1}, set()),
        ({"l1": 0.1}, set()),
        ({"l2": 0.1}, set()),
        ({"max_norm": 2.0}, set()),
        ({"penalize_biases": True}, set()),
        ({"clip_value": 0.1}, set()),
        ({"clip_norm": 0.1}, {"norms"}),
        ({"clip_layer_norm": math.inf}, {"norms"}),
    ],
)
def test_options_are_keys_of_the_rule(option, optional, engine_name, rules):
    assert rules(_network(engine_name), **option) == [optimizers.Adam().rule() | option | {"optional": optional}] * 2


def test_weight_decay_is_a_key_where_there_is_one(engine_name, rules):
    seen = rules(_network(engine_name), optimizer=optimizers.SGD(0.1, weight_decay=0.25))
    assert [rule["weight_decay"] for rule in seen] == [0.25] * 2


# ---- Dropout ----


@pytest.mark.parametrize(
    ("dropout", "rates"),
    [(0.5, [0.0, 0.5, 0.5]), ([0.1, 0, 1], [0.1, 0.0, 1.0]), (np.array([0.2, 0.5, 0.0]), [0.2, 0.5, 0.0])],
)
def test_rates_of_inputs_and_hidden_layers(dropout, rates, engine_name, rules):
    seen = rules(_network(engine_name), dropout=dropout)
    assert [rule["dropout"] for rule in seen] == [rates] * 2
    assert all(type(rate) is float for rate in seen[0]["dropout"])


def test_one_rate_drops_no_inputs(engine_name, rules):
    net = _network(engine_name, (4, 3))
    state = net._rng.bit_generator.state
    assert "dropout" not in rules(net, dropout=0.5, shuffle=False)[0]
    assert net._rng.bit_generator.state == state


def test_the_seed_is_64_bits_of_the_generator(engine_name, rules):
    net, twin = _network(engine_name), _network(engine_name)
    expected = int(twin._rng.integers(2**64, dtype=np.uint64))
    assert [rule["seed"] for rule in rules(net, dropout=0.5)] == [expected] * 2
    other = rules(net, dropout=0.5)[0]["seed"]
    assert other != expected
    assert rules(net, dropout=0.5, resume=True)[0]["seed"] == other
    assert 0 <= other < 2**64


def test_masks_of_resumed_calls_are_those_of_one_long_call(engine_name, data):
    one, two, three = (_network(engine_name) for _ in range(3))
    options = {"dropout": [0.1, 0.5, 0.2], "batch_size": 8}
    one.train(*data, epochs=4, **options)
    two.train(*data, epochs=1, **options)
    two.train(*data, epochs=3, resume=True, **options)
    np.testing.assert_array_equal(one.parameters, two.parameters)
    three.train(*data, epochs=2, **options)
    copy = pickle.loads(pickle.dumps(three))
    copy.train(*data, epochs=2, resume=True, **options)
    np.testing.assert_array_equal(one.parameters, copy.parameters)


def test_predictions_and_losses_after_an_epoch_drop_nothing(engine_name, data):
    net = _network(engine_name)
    history = net.train(*data, dropout=0.5, validation_data=data, **PLAIN)
    assert history.validation_loss[-1] == net.evaluate(*data)
    np.testing.assert_array_equal(net.predict(data[0]), net.predict(data[0]))


# ---- Schedules ----


def test_schedules_are_numbers_of_each_step(engine_name, rules):
    steps = []

    def rate(step):
        steps.append(step)
        return 0.01 / (1 + step)

    decay = schedules.Polynomial(0.1, steps=6)
    optimizer = optimizers.AdamW(rate, beta1=lambda step: 0.9 if step < 4 else 0.5, weight_decay=decay)
    dropout = [0.25, lambda step: step / 100, schedules.Constant(0.5)]
    net = _network(engine_name)
    first, second = rules(net, optimizer=optimizer, dropout=dropout)
    assert steps == list(range(8))
    np.testing.assert_array_equal(first["learning_rate"], [0.01 / (1 + step) for step in range(4)])
    np.testing.assert_array_equal(second["learning_rate"], [0.01 / (1 + step) for step in range(4, 8)])
    assert (first["beta1"], second["beta1"]) == (0.9, 0.5)  # all the same: a number
    np.testing.assert_array_equal(second["weight_decay"], decay(np.arange(4, 8)))
    np.testing.assert_array_equal(first["dropout"], [[0.25, step / 100, 0.5] for step in range(4)])
    for rule in (first, second):
        assert rule["learning_rate"].dtype == rule["weight_decay"].dtype == rule["dropout"].dtype == np.float64
        assert rule["dropout"].flags.c_contiguous
    assert net.history_.learning_rate == [0.01 / 4, 0.01 / 8]


def test_a_scheduled_learning_rate_in_place_of_the_default(engine_name, rules):
    seen = rules(_network(engine_name), optimizer="sgd", learning_rate=schedules.StepDecay(0.5, 4))
    assert [rule["learning_rate"] for rule in seen] == [0.5, 0.05]


@pytest.mark.parametrize("momentum", [schedules.Constant(0.9), lambda step: 0.9])
def test_a_constant_schedule_is_its_number(momentum, engine_name, data):
    one, two = _network(engine_name), _network(engine_name)
    one.train(*data, optimizer=optimizers.SGD(0.01, momentum), **PLAIN)
    two.train(*data, optimizer=optimizers.SGD(0.01, 0.9), **PLAIN)
    np.testing.assert_array_equal(one.parameters, two.parameters)


def test_the_length_of_a_schedule_is_that_of_the_run(engine_name, data):
    net = _network(engine_name)
    rates = net.train(*data, epochs=5, batch_size=8, learning_rate=schedules.Polynomial(0.02)).learning_rate
    np.testing.assert_array_equal(rates, schedules.Polynomial(0.02, steps=20)(np.array([3, 7, 11, 15, 19])))


def test_schedules_count_the_steps_of_resumed_calls(engine_name, data):
    one, two = _network(engine_name), _network(engine_name)
    rate = schedules.Exponential(0.02, steps=20)
    whole = one.train(*data, epochs=5, batch_size=8, learning_rate=rate)
    parts = [two.train(*data, epochs=n, batch_size=8, learning_rate=rate, resume=n > 2) for n in (2, 3)]
    assert whole.learning_rate == parts[0].learning_rate + parts[1].learning_rate
    np.testing.assert_array_equal(one.parameters, two.parameters)


@pytest.mark.parametrize("validated", [False, True])
def test_a_plateau_of_the_loss_reduces_the_rate(validated, engine_name, data):
    net = _network(engine_name)
    options = {"validation_data": data} if validated else {}
    rate = schedules.ReduceOnPlateau(1e-3, factor=0.5, patience=1, min_change=1e9)  # nothing is that much better
    history = net.train(*data, epochs=5, learning_rate=rate, **options)
    assert history.learning_rate == [1e-3, 1e-3, 5e-4, 2.5e-4, 1.25e-4]


def test_a_bad_value_of_a_schedule_is_named_and_its_epoch_undone(engine_name, data):
    net, kept = _network(engine_name), []
    with pytest.raises(
        ValueError, match=r"Adam\.learning_rate must be a finite number >= 0 at each step; .* at step 9"
    ):
        net.train(
            *data,
            epochs=5,
            batch_size=8,
            learning_rate=lambda step: -1.0 if step == 9 else 0.01,
            callback=lambda event: kept.append(event.network.parameters.copy()),
        )
    assert net.history_.epochs == 2
    assert_in_step(net, kept[-1])


# ---- Norms ----


@pytest.mark.parametrize("cut", [False, True])
def test_norms_are_in_the_history(cut, engine_name, data, monkeypatch):
    if cut:
        monkeypatch.setattr(training, "_TIMED_FLOPS", 1)
    net, twin = _network(engine_name), _network(engine_name)
    events, norms = [], []
    options = {"clip_norm": math.inf, "shuffle": False, "callback": events.append}
    history = net.train(*data, max_time=1000 if cut else None, **PLAIN, **options)
    for epoch, start in itertools.product(range(2), range(0, 30, 8)):
        batch = data[0][start : start + 8], data[1][start : start + 8]
        norms.append(np.linalg.norm(twin.gradients(*batch)[1].flat))
        twin.train(*batch, epochs=1, shuffle=False, resume=epoch > 0 or start > 0)
    assert_close(net.parameters, twin.parameters, 8 * 30, kind="training")
    assert_close(history.gradient_norm, np.reshape(norms, (2, 4)).mean(axis=1), 200, kind="training", dtype=np.float64)
    assert [event.gradient_norm for event in events] == history.gradient_norm
    assert net.train(*data, clip_value=0.1).gradient_norm == []


def test_an_infinite_gradient_is_divergence_where_it_is_clipped(engine_name):
    """Z and the loss are finite, sums of its derivatives by weights are not."""
    net = MLP([1, 1], dtype=np.float32, initializer="zeros", engine=engine_name)
    X, y = np.full((4, 1), 1e30, np.float32), np.full((4, 1), 1e15, np.float32)
    with pytest.raises(DivergenceError, match="the gradient became infinite or NaN in epoch 1, batch 1, layer 1"):
        net.train(X, y, clip_norm=1.0, batch_size=4)
    assert_in_step(net, np.zeros(2))


# ---- L-BFGS ----


@pytest.mark.parametrize("penalize_biases", [False, True])
def test_penalties_of_lbfgs(penalize_biases, engine_name, data):
    """For a line: ridge regression."""
    X, y = data
    weight = np.arange(1.0, 31.0)
    net = _network(engine_name, (4, 3))
    optimizer = optimizers.LBFGS(gradient_tolerance=0.0, loss_tolerance=0.0)
    options = {"l2": 0.5, "alpha": 20.0, "penalize_biases": penalize_biases}
    history = net.train(X, y, epochs=500, optimizer=optimizer, sample_weight=weight, **options)
    rows, decay = np.column_stack([X, np.ones(30)]), 0.5 + 20.0 / weight.sum()
    penalty = np.diag([decay] * 4 + [decay * penalize_biases])
    share = weight / weight.sum()
    solution = np.linalg.solve(rows.T @ (share[:, np.newaxis] * rows) + penalty, rows.T @ (share[:, np.newaxis] * y))
    flatness = np.finfo(float).eps ** -0.5  # as in test_lbfgs_reaches_least_squares
    assert_close(net.weights[0], solution[:4], reduction_length=1, scale=flatness)
    assert_close(net.biases[0], solution[4], reduction_length=1, scale=flatness)
    loss = net.evaluate(X, y, weight) + 0.5 * (penalty @ np.square([*net.weights[0], net.biases[0]])).sum()
    assert_close(history.loss[-1], loss, 200, dtype=np.float64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 0.1}, "dropout must be 0.0 for optimizer 'lbfgs'"),
        ({"l1": 0.1}, "l1 must be 0.0 for optimizer 'lbfgs'; got 0.1"),
        ({"max_norm": 1}, "max_norm must be None for optimizer 'lbfgs'; got 1.0"),
        ({"clip_value": 1}, "clip_value must be None for optimizer 'lbfgs'"),
        ({"clip_norm": math.inf}, "clip_norm must be None for optimizer 'lbfgs'; got inf"),
        ({"clip_layer_norm": 1}, "clip_layer_norm must be None for optimizer 'lbfgs'"),
        ({"learning_rate": schedules.Constant(0.1)}, "learning_rate has no meaning for optimizer='lbfgs'"),
        ({"shuffle": "weighted", "sample_weight": np.ones(30)}, "shuffle must be True or False for optimizer 'lbfgs'"),
        ({"resume": True}, "resume must be False for optimizer 'lbfgs'"),
    ],
)
def test_lbfgs_refuses_what_it_cannot_do(options, message, engine_name, data):
    net = _network(engine_name)
    with pytest.raises(ValueError, match=message):
        net.train(*data, optimizer="lbfgs", **options)
    assert net.history_ is None


def test_lbfgs_refuses_batch_normalization_and_checkpoints(engine_name, data, tmp_path):
    net = _network(engine_name, normalization="batch")
    with pytest.raises(ValueError, match="optimizer 'lbfgs' must not be used with batch normalization"):
        net.train(*data, optimizer="lbfgs")
    with pytest.raises(ValueError, match="checkpoint must be None for optimizer 'lbfgs'"):
        _network(engine_name).train(*data, optimizer="lbfgs", checkpoint=Checkpoint(tmp_path / "c"))
    assert list(tmp_path.iterdir()) == []


# ---- Wrong arguments ----

WRONG = {
    "alpha": ({"alpha": -1}, ValueError, ["alpha", "finite number >= 0", "-1"]),
    "l1": ({"l1": "none"}, ValueError, ["l1", "finite number >= 0", "'none'"]),
    "l2": ({"l2": math.nan}, ValueError, ["l2", "finite number >= 0", "nan"]),
    "infinite l2": ({"l2": math.inf}, ValueError, ["l2", "finite number >= 0", "inf"]),
    "bool l2": ({"l2": True}, ValueError, ["l2", "finite number >= 0", "True"]),
    "complex l2": ({"l2": np.complex128(1)}, ValueError, ["l2", "finite number >= 0", "(1+0j)"]),
    "huge l2": ({"l2": 10**400}, ValueError, ["l2", "finite number >= 0", "1000"]),
    "biases": ({"penalize_biases": 1}, TypeError, ["penalize_biases", "True or False", "1"]),
    "max_norm": ({"max_norm": 0}, ValueError, ["max_norm", "> 0", "0"]),
    "clip_norm": ({"clip_norm": 0.0}, ValueError, ["clip_norm", "> 0", "0.0"]),
    "clip_value": ({"clip_value": math.nan}, ValueError, ["clip_value", "> 0", "nan"]),
    "huge clip": ({"clip_norm": 10**400}, ValueError, ["clip_norm", "> 0", "1000"]),
    "two clips": ({"clip_value": 1, "clip_norm": 2}, ValueError, ["clip_norm", "None", "clip_value", "2"]),
    "other two": ({"clip_norm": 1, "clip_layer_norm": 2}, ValueError, ["clip_layer_norm", "None", "clip_norm", "2"]),
    "dropout": ({"dropout": 1.5}, ValueError, ["dropout", "[0, 1]", "1.5"]),
    "text dropout": ({"dropout": "half"}, ValueError, ["dropout", "[0, 1]", "'half'"]),
    "few rates": ({"dropout": [0.1, 0.2]}, ValueError, ["dropout", "3 entries", "got 2"]),
    "one rate": ({"dropout": [0.1, -0.2, 0]}, ValueError, ["dropout[1]", "[0, 1]", "-0.2"]),
    "callback": ({"callback": [print, 3]}, TypeError, ["callback[1]", "callable", "int"]),
    "checkpoint": ({"checkpoint": "run.ckpt"}, TypeError, ["checkpoint", "cymlp.Checkpoint", "str"]),
    "schedule": ({"learning_rate": schedules.Constant(-1)}, ValueError, ["Adam.learning_rate", ">= 0", "-1"]),
}


@pytest.mark.parametrize(("options", "exception", "parts"), WRONG.values(), ids=WRONG)
def test_wrong_options_are_named_and_change_nothing(options, exception, parts, engine_name, data):
    net = _network(engine_name)
    before, state = net.parameters.copy(), net._rng.bit_generator.state
    with pytest.raises(exception) as caught:
        net.train(*data, **options)
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert message.split()[0] == parts[0]
    assert (net.history_, net._rng.bit_generator.state, net._dtype_decided) == (None, state, False)
    assert_in_step(net, before)
