"""What becomes of the records of a run that diverges or is interrupted, of those that are looked at while it runs, and
of copies."""

import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest
from test_health_training import EPOCHS, N_BATCHES, ROWS, SIZES, STEPS, make_network, train_watched

from cymlp import DivergenceError, optimizers, schedules
from cymlp.health.report import HealthReport


@pytest.fixture
def data(rng):
    return rng.standard_normal((ROWS, SIZES[0])), rng.integers(0, 3, ROWS)


# ---- Runs that end early ----


def test_divergence(engine_name, data):
    """The report has the steps up to the one that failed, and what was told of it."""
    net = make_network(engine_name, hidden_activation="relu", output_activation="identity")
    with pytest.raises(DivergenceError) as caught:
        train_watched(net, (data[0], np.eye(3)[data[1]]), 1, optimizer=optimizers.SGD(1e6))
    report = net.history_.health
    assert isinstance(report, HealthReport)
    diverged, error = report.evidence.diverged, caught.value
    assert (str(diverged), diverged.epoch, diverged.batch, diverged.layer) == (
        str(error),
        error.epoch,
        error.batch,
        error.layer,
    )
    assert diverged.__traceback__ is diverged.__context__ is None
    assert report.records.steps.tolist() == list(range(1, len(report.records) + 1))
    assert len(report.records) in ((error.epoch - 1) * N_BATCHES + error.batch, error.epoch * N_BATCHES)
    assert report.records.update[0, 1] > 1e3


def test_divergence_of_lbfgs(engine_name, data):
    """What the iteration that failed has met is known, though it has taken no step."""
    net = make_network(engine_name, hidden_activation="relu", output_activation="identity", dtype="float32")
    with pytest.raises(DivergenceError):
        train_watched(net, (1e25 * data[0], np.eye(3)[data[1]]), 1, optimizer="lbfgs")
    report = net.history_.health
    assert report.records.steps.tolist() == [1]
    assert report.records.activation[0, 0] > 1e49
    assert np.isnan(report.records.update[0, 1:]).all()
    assert not report.is_healthy
    assert report.apply(net).changes


def test_an_interrupt(engine_name, data):
    """Nothing is known of the epoch under way, all of those before."""
    net = make_network(engine_name)

    def interrupt(step):
        if step >= 3 * N_BATCHES:
            raise KeyboardInterrupt
        return 0.01

    with pytest.raises(KeyboardInterrupt):
        train_watched(net, data, 1, learning_rate=interrupt)
    records = net.history_.health.records
    assert records.steps.tolist() == list(range(1, 3 * N_BATCHES + 1))
    assert net.history_.stopped == "interrupted"
    assert train_watched(net, data).health.records.steps.tolist() == STEPS


def test_a_callback_sees_what_has_been_so_far(engine_name, data):
    seen = []

    def look(event):
        report = event.history.health
        assert report is event.history.health  # made once for an epoch
        assert report.evidence.data.recall is None  # not before the end
        seen.append((event.epoch, report.records.steps.tolist(), len(report.evidence.history["loss"])))

    class Both:
        begin = __call__ = staticmethod(look)

    net = make_network(engine_name)
    history = train_watched(net, data, callback=Both())
    assert [epoch for epoch, _, _ in seen] == [*range(EPOCHS + 1)]
    for epoch, steps, epochs in seen:
        assert steps == [step for step in STEPS if step <= epoch * N_BATCHES]
        assert epochs == epoch
    assert history.health.evidence.data.recall is not None


def test_another_thread_may_look(data):
    net, found, failed = make_network(), [], []

    def look():
        while not found or found[-1] < len(STEPS):
            history = net.history_
            if history is not None:
                try:
                    found.append(len(history.health.records))
                except Exception as error:  # told in the test's own thread
                    failed.append(error)
                    return

    thread = threading.Thread(target=look)
    thread.start()
    train_watched(net, data, callback=lambda event: None)
    thread.join()
    assert failed == []
    assert found[-1] == len(STEPS)
    assert sorted(found) == found


# ---- Copies ----


def test_histories_are_kept(engine_name, data):
    net = make_network(engine_name)
    history = train_watched(net, data)
    for again in (pickle.loads(pickle.dumps(history)), copy.deepcopy(history), copy.deepcopy(net).history_):
        assert again == history
        assert again.health.records == history.health.records
        assert again.health.evidence.data.recall.tolist() == history.health.evidence.data.recall.tolist()
        assert str(again.health) == str(history.health)
    assert len(pickle.dumps(history)) < 8000
    assert "health" not in history.to_dict()


@pytest.mark.parametrize("copied", [lambda one: pickle.loads(pickle.dumps(one)), copy.deepcopy])
def test_functions_do_not_keep_what_they_schedule_from_being_copied(engine_name, data, copied):
    """A network that was trained with a lambda can be pickled, watched or not; schedules stay what they are."""
    net, decay = make_network(engine_name), schedules.Constant(0.25)
    optimizer = optimizers.SGD(lambda step: 0.01, momentum=schedules.Constant(0.5))
    history = train_watched(net, data, optimizer=optimizer, dropout=[0.0, lambda step: 0.1, decay])
    report = history.health
    for again in (copied(net).history_.health, copied(history).health, copied(report)):
        assert str(again) == str(report)
        assert again.evidence.optimizer.momentum == optimizer.momentum
        assert again.evidence.dropout[::2] == (0.0, decay)
        assert again.apply(net).changes == report.apply(net).changes
        for function in (again.evidence.optimizer.learning_rate, again.evidence.dropout[1]):
            with pytest.raises(TypeError, match="was not copied"):
                function(1)
    assert report.evidence.optimizer is optimizer  # only copies are without


def test_rows_are_not_kept_with_copies(rng):
    secret = 123456.789
    X, y = np.full((60, 4), secret), np.zeros(60, np.int64)
    X[:, 0] = rng.standard_normal(60)
    history = train_watched(make_network(), (X, y))
    kept = pickle.dumps(history)
    assert kept.count(np.float64(secret).tobytes()) <= 4  # a mean of each input


def test_copies_in_a_callback_go_on_by_themselves(engine_name, data):
    copies = []
    net = make_network(engine_name)
    history = train_watched(net, data, callback=lambda event: copies.append(copy.deepcopy(event.network)))
    assert [len(one.history_.health.records) for one in copies] == [
        sum(step <= epoch * N_BATCHES for step in STEPS) for epoch in range(1, EPOCHS + 1)
    ]
    assert history.health.records.steps.tolist() == STEPS
    assert train_watched(copies[0], data).health.records.steps.tolist() == STEPS


def test_a_report_does_not_keep_a_network_alive(data):
    net = make_network()
    history = train_watched(net, data)
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None
    assert history.health.evidence.data.recall is None
    assert history.health.records.steps.tolist() == STEPS


def test_what_a_network_answers_is_of_its_own_run(data):
    net = make_network()
    first = train_watched(net, data)
    train_watched(net, data, False)
    assert first.health.evidence.data.recall is None  # it has been trained since
