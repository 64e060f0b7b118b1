"""``MLP.train(health=...)``: what is collected, that it changes nothing, and what becomes of it when a run is cut, goes
on, diverges, is interrupted, copied or looked at while it runs."""

import itertools

import numpy as np
import pytest
from conftest import assert_close

from cymlp import MLP, Checkpoint, EarlyStopping, optimizers
from cymlp.engine import MONITORED
from cymlp.health.monitor import watched_steps

SIZES, ROWS, BATCH, EPOCHS = (4, 7, 5, 3), 50, 8, 6
N_BATCHES = 7  # of an epoch
EVERY = 5
STEPS = (watched_steps(EVERY, 0, N_BATCHES * EPOCHS) + 1).tolist()


def make_network(engine="compiled", sizes=SIZES, **options):
    return MLP(
        sizes,
        **{"hidden_activation": "tanh", "output_activation": "softmax", "random_state": 0} | options,
        engine=engine,
    )


@pytest.fixture
def data(rng):
    return rng.standard_normal((ROWS, SIZES[0])), rng.integers(0, 3, ROWS)


def train_watched(net, data, health=EVERY, **options):
    return net.train(*data, **{"epochs": EPOCHS, "batch_size": BATCH, "health": health} | options)


def _table(history):
    return {name: column for name, column in history.to_dict().items() if name != "seconds"}


# What goes into different paths of the loop.
OPTIONS = {
    "plain": {},
    "weights": {"sample_weight": np.linspace(0.5, 2, ROWS)},
    "classes": {"class_weight": {0: 2.0}},
    "clipped": {"clip_norm": 0.1},
    "schedule": {"learning_rate": lambda step: 0.01 / (1 + step)},
    "dropout": {"dropout": 0.25},
    "timed": {"max_time": 1e6},
    "as they are": {"shuffle": False},
    "best": {"stopping": EarlyStopping(patience=None)},
    "lbfgs": {"optimizer": "lbfgs"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_watching_changes_nothing(engine_name, dtype, data, name):
    shown = []
    for health in (False, True, 1, EVERY):
        net = make_network(engine_name, dtype=dtype)
        history = train_watched(net, data, health, **OPTIONS[name])
        shown.append((net.parameters.tobytes(), repr(_table(history)), net._rng.bit_generator.state["state"]["state"]))
        assert (history.health is None) == (health is False)
    assert len(set(shown)) == 1


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "lbfgs"])
def test_records_are_of_the_steps_that_are_watched(engine_name, data, name):
    history = train_watched(make_network(engine_name), data, **OPTIONS[name])
    records = history.health.records
    assert records.steps.tolist() == STEPS
    assert records.epochs.tolist() == [(step - 1) // N_BATCHES for step in STEPS]
    assert records.values.shape == (len(STEPS), len(SIZES), len(MONITORED))
    assert np.isfinite(records.activation).all()
    assert (records.update[:, 1:] > 0).all()
    assert (records.weight[:, 1:] > 0).all()


def test_both_engines_tell_the_same(data):
    ours, theirs = (train_watched(make_network(engine), data, 1).health.records for engine in ("compiled", "reference"))
    for number, name in enumerate(MONITORED):
        length = (sum(SIZES) + BATCH) * len(STEPS)
        assert_close(ours.values[:, :, number], theirs.values[:, :, number], length, kind="training", dtype=np.float64)
        assert name in MONITORED


def test_records_do_not_depend_on_threads(data):
    tables = [train_watched(make_network(n_threads=n), data).health.records for n in (1, 2, 3)]
    assert tables[0] == tables[1] == tables[2]


def test_the_first_step_by_hand(engine_name, data):
    """Of all rows in one minibatch: what `gradients` of the engine says of the parameters before."""
    net = make_network(engine_name, dtype="float64")
    X, y = data
    record, out = np.empty((len(SIZES), len(MONITORED))), np.empty_like(net.parameters)
    net.predict(X)
    net._network.gradients(X, y, None, out, record=record)
    before = net.parameters.copy()
    told = train_watched(net, data, 1, epochs=1, batch_size=ROWS, shuffle=False).health.records
    assert len(told) == 1
    change = np.array([np.linalg.norm(W) for W in net._layout.views(net.parameters - before).weights])
    record[1:, MONITORED.index("update")] = change
    assert_close(told.values[0], record, before.size)


def test_validation_data_are_not_looked_at(data):
    plain = train_watched(make_network(), data).health.records
    X, y = data
    assert train_watched(make_network(), data, validation_data=(100 * X, y)).health.records == plain


@pytest.mark.parametrize("health", [0, -3, 1.5, "yes", None])
def test_wrong_health(data, health):
    net = make_network()
    before = net.parameters.copy()
    with pytest.raises((ValueError, TypeError), match=r"^health must be True, False or an integer"):
        train_watched(net, data, health)
    np.testing.assert_array_equal(net.parameters, before)
    assert net.history_ is None


# ---- L-BFGS ----


def test_lbfgs(engine_name, data):
    """Iterations are steps: of each one what its first point says, and how far it went."""
    net = make_network(engine_name, dtype="float64")
    vectors, X, y = [net.parameters.copy()], *data
    history = train_watched(
        net, data, 1, optimizer="lbfgs", callback=lambda event: vectors.append(event.network.parameters.copy())
    )
    records = history.health.records
    assert records.steps.tolist() == list(range(1, EPOCHS + 1))
    assert records.epochs.tolist() == list(range(EPOCHS))
    for number, (before, after) in enumerate(itertools.pairwise(vectors)):
        other = make_network(engine_name, dtype="float64")
        other.parameters = before
        record = np.empty((len(SIZES), len(MONITORED)))
        other.predict(X)
        other._network.gradients(X, y, None, np.empty_like(before), record=record)
        steps = net._layout.views(after - before).weights
        record[1:, MONITORED.index("update")] = [np.linalg.norm(step) for step in steps]
        assert_close(records.values[number], record, before.size)


def test_lbfgs_of_many_rows_looks_at_some(engine_name, rng):
    X = rng.standard_normal((3000, 4))
    history = train_watched(make_network(engine_name), (X, rng.integers(0, 3, 3000)), 2, optimizer="lbfgs")
    assert history.health.records.steps.tolist() == [1, 2, 4, 6]
    assert history.health.evidence.data.n_rows == 1000


# ---- How data come ----


@pytest.mark.parametrize("shuffle", [True, False])
def test_memory_maps(engine_name, data, tmp_path, shuffle):
    np.save(tmp_path / "X.npy", data[0])
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r"), data[1]
    plain = train_watched(make_network(engine_name), data, shuffle=shuffle).health
    assert train_watched(make_network(engine_name), mapped, shuffle=shuffle).health.records == plain.records


def test_a_bad_row_of_a_memory_map_is_told_when_it_comes(data, tmp_path):
    data[0][-1, 2] = np.nan
    np.save(tmp_path / "X.npy", data[0])
    net = make_network()
    with pytest.raises(ValueError, match=r"X\[49:50\]"):
        train_watched(net, (np.load(tmp_path / "X.npy", mmap_mode="r"), data[1]), 1, shuffle=False)
    assert net.history_.health.evidence.data is None


@pytest.mark.parametrize("kind", ["list", "iterator"])
def test_streams(engine_name, data, kind):
    X, y = data
    rows = [slice(start, start + BATCH) for start in range(0, ROWS, BATCH)]
    batches = [(X[some], y[some]) for some in rows]
    history = make_network(engine_name).train(batches if kind == "list" else iter(batches), epochs=EPOCHS, health=EVERY)
    epochs = EPOCHS if kind == "list" else 1
    plain = train_watched(make_network(engine_name), data, shuffle=False, epochs=epochs)
    assert history.health.records == plain.health.records
    summary = history.health.evidence.data
    assert summary.n_rows >= ROWS
    assert history.health.evidence.n_rows is None
    if kind == "iterator":
        assert_close(summary.input_mean, X.mean(axis=0), ROWS)
        assert_close(summary.class_shares, np.bincount(y) / ROWS, 1)


def test_a_stream_may_use_its_arrays_again(data):
    X, y = data

    def batches():
        room = np.empty((BATCH, 4))
        for start in range(0, 48, BATCH):
            room[:] = X[start : start + BATCH]
            yield room, y[start : start + BATCH]

    summary = make_network().train(batches(), health=True).health.evidence.data
    assert_close(summary.input_mean, X[:48].mean(axis=0), ROWS)


# ---- What is known of the data ----


def test_summary_of_classes(engine_name, data):
    X, y = data
    X[:, 1] = 7
    net = make_network(engine_name, dtype="float64")
    evidence = train_watched(net, data, class_weight={0: 3.0}).health.evidence
    summary, answers = evidence.data, net.predict(X).argmax(axis=1)
    assert (summary.n_rows, summary.n_classes, summary.n_constant) == (ROWS, 3, 1)
    assert_close(summary.input_std, X.std(axis=0), ROWS)
    np.testing.assert_allclose(summary.class_shares, np.bincount(y) / ROWS)
    np.testing.assert_allclose(summary.predicted_shares, np.bincount(answers, minlength=3) / ROWS)
    np.testing.assert_allclose(summary.recall, [np.mean(answers[y == c] == c) for c in range(3)])
    assert summary.target_mean is None
    shares = np.bincount(y, weights=np.where(y == 0, 3, 1)) / np.where(y == 0, 3, 1).sum()
    assert_close(summary.base_loss, -(shares * np.log(shares)).sum(), ROWS)
    assert evidence.class_weight
    assert not evidence.sample_weight


def test_summary_of_two_classes(engine_name, rng):
    X, y = rng.standard_normal((40, 4)), np.repeat([0.0, 1.0], [30, 10])
    net = make_network(engine_name, (4, 5, 1), output_activation="sigmoid")
    summary = train_watched(net, (X, y)).health.evidence.data
    assert summary.n_classes == 2
    assert summary.class_shares.tolist() == [0.75, 0.25]
    answers = net.predict(X)[:, 0] > 0.5
    assert summary.predicted_shares.tolist() == [np.mean(~answers), np.mean(answers)]


def test_summary_of_numbers(engine_name, rng):
    X, y = rng.standard_normal((40, 4)), 5 + 3 * rng.standard_normal((40, 2))
    net = make_network(engine_name, (4, 5, 2), output_activation="identity")
    summary = train_watched(net, (X, y)).health.evidence.data
    assert summary.n_classes is summary.class_shares is summary.recall is None
    assert_close(summary.target_mean, y.mean(axis=0), 40)
    assert_close(summary.target_std, y.std(axis=0), 40)
    assert_close(summary.base_loss, y.var(axis=0).sum() / 2, 40)


def test_class_shares_are_of_all_rows(rng):
    y = np.zeros(30_000, np.int64)
    y[rng.choice(30_000, 3, replace=False)] = 1
    summary = train_watched(make_network(), (rng.standard_normal((30_000, 4)), y), epochs=1).health.evidence.data
    assert summary.n_rows == 1000
    assert summary.class_shares.tolist() == [1 - 1e-4, 1e-4, 0]


def test_evidence_has_the_configuration(data):
    net = make_network(initializer="he_normal", gain=0.5, normalization=["batch", None])
    evidence = train_watched(
        net,
        data,
        optimizer=optimizers.SGD(0.125, momentum=0.5),
        dropout=0.25,
        clip_norm=1.0,
        sample_weight=np.ones(ROWS),
    ).health.evidence
    assert evidence.layer_sizes == SIZES
    assert [activation.name for activation in evidence.activations] == ["tanh", "tanh", "softmax"]
    assert evidence.initializers == ("he_normal",) * 3
    assert evidence.gain == 0.5
    assert evidence.normalizations == net.normalizations
    assert evidence.loss == net.loss
    assert evidence.dtype == net.dtype
    assert evidence.optimizer == optimizers.SGD(0.125, momentum=0.5)
    assert (evidence.learning_rate, evidence.batch_size, evidence.n_rows) == (0.125, BATCH, ROWS)
    assert evidence.dropout == (0.0, 0.25, 0.25)
    assert evidence.sample_weight
    assert evidence.clipping
    assert evidence.diverged is None
    assert evidence.history["loss"] == net.history_.loss
    assert evidence.history["gradient_norm"] == net.history_.gradient_norm
    scheduled = train_watched(make_network(), data, learning_rate=lambda step: 0.01 / (1 + step)).health.evidence
    assert scheduled.learning_rate == 0.01 / N_BATCHES  # of the first epoch's last step
    assert not train_watched(make_network(), data, clip_norm=np.inf).health.evidence.clipping


def test_dtype_that_data_decide(data):
    single = data[0].astype(np.float32), data[1]
    assert train_watched(make_network(), single).health.evidence.dtype == np.float32


# ---- Runs that go on ----


def test_resumed_calls_go_on_counting(engine_name, data):
    """The records of two calls are those of one."""
    whole = train_watched(make_network(engine_name), data).health.records
    net = make_network(engine_name)
    parts = [train_watched(net, data, epochs=n, resume=True).health.records for n in (2, EPOCHS - 2)]
    np.testing.assert_array_equal(np.concatenate([part.steps for part in parts]), whole.steps)
    np.testing.assert_array_equal(np.concatenate([part.values for part in parts]), whole.values)
    assert parts[1].epochs.tolist() == [(step - 1) // N_BATCHES - 2 for step in parts[1].steps]
    assert train_watched(net, data).health.records.steps.tolist() == STEPS  # begun anew


class Halt(Exception):
    pass


@pytest.mark.parametrize("at", [1, 3, EPOCHS])
@pytest.mark.parametrize("name", ["plain", "weights", "dropout", "schedule", "best"])
def test_a_run_that_goes_on_from_a_checkpoint_has_the_same_records(engine_name, data, tmp_path, at, name):
    options = OPTIONS[name] | {"learning_rate": 0.01} if name == "schedule" else OPTIONS[name]
    whole = train_watched(make_network(engine_name), data, **options)

    def halt(event):
        if event.epoch == at:
            raise Halt

    path = tmp_path / "run.safetensors"
    with pytest.raises(Halt):
        train_watched(make_network(engine_name), data, checkpoint=Checkpoint(path, steps=3), callback=halt, **options)
    net = make_network(engine_name)
    again = train_watched(net, data, checkpoint=Checkpoint(path, steps=3), **options)
    assert again.health.records == whole.health.records
    assert _table(again) == _table(whole)
    done = train_watched(net, data, checkpoint=Checkpoint(path), **options)  # which has ended
    assert done.health.records == whole.health.records
    assert done.health.evidence.data.recall is not None


def test_checkpoints_with_and_without_health_are_of_different_runs(data, tmp_path):
    path = tmp_path / "run.safetensors"
    train_watched(make_network(), data, False, checkpoint=Checkpoint(path))
    train_watched(make_network(), data, False, checkpoint=Checkpoint(path))
    for health in (True, EVERY):
        with pytest.raises(ValueError, match=f"its health is absent, here it is {256 if health is True else EVERY}"):
            train_watched(make_network(), data, health, checkpoint=Checkpoint(path))


@pytest.mark.parametrize(
    "damage",
    [
        {"step": -1},
        {"step": 1.0},
        {"steps": None},
        {"steps": np.ones(3)},
        {"epochs": np.ones((9, 1), np.int64)},
        {"values": np.ones((9, 3, 8))},
        {"values": np.ones((9, 4, 8), np.float32)},
    ],
    ids=str,
)
def test_a_checkpoint_whose_records_are_none_is_refused(data, tmp_path, damage):
    path = tmp_path / "run.safetensors"
    net = make_network()
    train_watched(net, data, checkpoint=Checkpoint(path))
    run = {}

    class Damaged:
        def recorder(self, identity):
            recorder = Checkpoint(path).recorder(identity)
            recorder.state["health"] |= damage
            run.update(identity)
            return recorder

    before = net.parameters.copy()
    with pytest.raises(ValueError, match="holds no state of this run: ValueError: its records of the layers are none"):
        train_watched(net, data, checkpoint=Damaged())
    np.testing.assert_array_equal(net.parameters, before)
    assert run["health"] == str(EVERY)
