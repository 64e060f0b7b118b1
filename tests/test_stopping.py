"""When training ends before its last epoch, and whose parameters the network has then."""

import functools
import itertools
import math
import time

import numpy as np
import pytest
from conftest import assert_close
from test_turns import Interrupt, assert_in_step

from cymlp import MLP, Checkpoint, EarlyStopping, optimizers, run, schedules, training
from cymlp.history import COLUMNS
from cymlp.stopping import Watch


@pytest.fixture
def net(engine_name, dtype):
    return MLP([3, 5, 2], "tanh", dtype=dtype, random_state=3, engine=engine_name)


@pytest.fixture
def data(rng, dtype):
    return rng.normal(size=(20, 3)).astype(dtype), rng.normal(size=(20, 2)).astype(dtype)


def _watch(values, **options):
    """(epoch in which it stopped, why, best epoch) for the values of a monitored number."""
    watch = Watch(EarlyStopping(**options), True, True)
    for epoch, value in enumerate(values, 1):
        _, reason = watch.judge(epoch, value)
        if reason is not None:
            return epoch, reason, watch.best_epoch
    return None, None, watch.best_epoch


nan, inf = math.nan, math.inf


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ([3, 2, 1, 2, 2, 2], {"patience": 3}, (6, "patience", 3)),
        ([3, 2, 1, 2, 2, 0.5, 2, 2, 2], {"patience": 3}, (9, "patience", 6)),
        ([1, 1, 1], {"patience": 1}, (2, "patience", 1)),
        ([1, 2, 3, 4], {"patience": None}, (None, None, 1)),
        # Small steps count together, and the best of them is still the best.
        ([10, 9.9, 9.8, 9.7], {"patience": 2, "min_change": 1}, (3, "patience", 3)),
        ([10, 9.4, 8.8, 8.2, 7.6, 7.0], {"patience": 2, "min_change": 1}, (None, None, 6)),
        ([1, 2, 3, 3, 2], {"patience": 2, "mode": "max"}, (5, "patience", 3)),
        ([1, 2, 3, 3, 2], {"patience": 2, "monitor": "metric"}, (5, "patience", 3)),
        ([1, 2, 3], {"patience": 2, "monitor": "metric", "mode": "min"}, (3, "patience", 1)),
        ([3, 2, 1], {"target": 2}, (2, "target", 2)),
        ([3, 2, 1], {"target": 1.5}, (3, "target", 3)),
        ([0.1, 0.6, 0.9], {"target": 0.5, "monitor": "metric"}, (2, "target", 2)),
        ([1, 1], {"target": 1, "patience": 1}, (1, "target", 1)),
        ([nan, nan, 5, nan, 4], {"patience": 3}, (None, None, 5)),
        ([nan, nan, nan], {"patience": 3}, (3, "patience", None)),
        ([inf, 5, -inf], {"patience": 2}, (None, None, 2)),
    ],
)
def test_patience_change_and_target(values, options, expected):
    assert _watch(values, **options) == expected


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_watch_goes_on_from_its_state(mode):
    options = {"patience": 2, "mode": mode, "min_change": 0.5}
    values = [5.0, 4.0, 4.2, nan, 3.8, 6.0, 6.1, 5.9, 5.9]
    for cut in range(len(values) + 1):
        one, two = (Watch(EarlyStopping(**options), True, False) for _ in range(2))
        judged = [one.judge(epoch, value) for epoch, value in enumerate(values, 1)]
        for epoch, value in enumerate(values[:cut], 1):
            two.judge(epoch, value)
        other = Watch(EarlyStopping(**options), True, False)
        other.restore(two.state())
        assert [other.judge(epoch, values[epoch - 1]) for epoch in range(cut + 1, len(values) + 1)] == judged[cut:]
        assert other.best_epoch == one.best_epoch


WRONG = {
    "patience": ({"patience": 0}, ValueError, ["EarlyStopping.patience", ">= 1", "got 0"]),
    "float patience": ({"patience": 1.5}, TypeError, ["EarlyStopping.patience", "integer", "1.5"]),
    "monitor": ({"monitor": "accuracy"}, ValueError, ["EarlyStopping.monitor", "'metric'", "'accuracy'"]),
    "mode": ({"mode": "least"}, ValueError, ["EarlyStopping.mode", "'min'", "'least'"]),
    "no mode": ({"mode": None}, ValueError, ["EarlyStopping.mode", "'min'", "None"]),
    "min_change": ({"min_change": -1}, ValueError, ["EarlyStopping.min_change", ">= 0", "-1"]),
    "infinite change": ({"min_change": inf}, ValueError, ["EarlyStopping.min_change", "finite", "inf"]),
    "restore_best": ({"restore_best": 1}, TypeError, ["EarlyStopping.restore_best", "True or False", "1"]),
    "target": ({"target": "low"}, ValueError, ["EarlyStopping.target", "finite number", "'low'"]),
    "NaN target": ({"target": nan}, ValueError, ["EarlyStopping.target", "finite number", "nan"]),
}


@pytest.mark.parametrize(("options", "exception", "parts"), WRONG.values(), ids=WRONG)
def test_wrong_options_are_named(options, exception, parts):
    with pytest.raises(exception) as caught:
        EarlyStopping(**options)
    assert all(part in str(caught.value) for part in parts), caught.value


WRONG_CALLS = {
    "no stopping": ({"stopping": 5}, TypeError, "stopping must be None or an EarlyStopping; got int"),
    "no validation": (
        {"stopping": EarlyStopping(monitor="validation_loss")},
        ValueError,
        "stopping must monitor 'loss' where there is no validation_data",
    ),
    "no metric": ({"stopping": EarlyStopping(monitor="metric")}, ValueError, "where there is no metric"),
    "time": ({"max_time": 0}, ValueError, "max_time must be None or a number of seconds > 0; got 0"),
    "no time": ({"max_time": "long"}, ValueError, "max_time must be None or a number of seconds > 0; got 'long'"),
    "NaN time": ({"max_time": nan}, ValueError, "max_time must be None or a number of seconds > 0; got nan"),
    "metric": ({"metric": "r2"}, TypeError, "metric must be None or callable; got str"),
    "metric of nothing": ({"metric": max}, ValueError, "metric must be None without validation_data"),
}


@pytest.mark.parametrize(("options", "exception", "message"), WRONG_CALLS.values(), ids=WRONG_CALLS)
def test_wrong_calls_change_nothing(options, exception, message, net, data):
    before = net.parameters.copy()
    with pytest.raises(exception, match=message):
        net.train(*data, **options)
    assert net.history_ is None
    assert_in_step(net, before)


# ---- Runs ----


def _trajectory(net, data, **options):
    """The network after training, its history, and its parameters after each epoch."""
    seen = []
    history = net.train(*data, callback=lambda event: seen.append(event.network.parameters.copy()), **options)
    return history, seen


@pytest.mark.parametrize("optimizer", [optimizers.Adam(0.5), "lbfgs"])
@pytest.mark.parametrize("restore", [True, False])
def test_the_best_epoch_is_restored(optimizer, restore, net, data, rng):
    validation = rng.normal(size=(30, 3)), rng.normal(size=(30, 2))
    stopping = EarlyStopping(patience=3, restore_best=restore)
    history, seen = _trajectory(
        net, data, epochs=500, optimizer=optimizer, validation_data=validation, stopping=stopping
    )
    best = int(np.argmin(history.validation_loss)) + 1
    assert (history.stopped, history.best_epoch, history.epochs) == ("patience", best, best + 3)
    assert_in_step(net, seen[best - 1 if restore else -1])
    if restore:
        assert net.evaluate(*validation) == history.validation_loss[best - 1]
        assert net._resumable is None


def test_the_state_of_the_optimizer_stays_where_the_last_epoch_was_the_best(net, data):
    history, seen = _trajectory(net, data, epochs=3, stopping=EarlyStopping())
    assert (history.stopped, history.best_epoch) == ("epochs", 3)
    assert_in_step(net, seen[-1])
    assert net._resumable == "Adam"


def test_running_statistics_are_restored_with_the_parameters(engine_name, data, rng):
    net = MLP([3, 5, 4, 2], "tanh", random_state=3, engine=engine_name, normalization=["batch", None])
    validation, seen = (rng.normal(size=(30, 3)), rng.normal(size=(30, 2))), []
    history = net.train(
        *data,
        epochs=500,
        batch_size=8,
        learning_rate=0.1,
        validation_data=validation,
        stopping=EarlyStopping(patience=3),
        callback=lambda event: seen.append(event.network.statistics.copy()),
    )
    best = history.best_epoch
    assert history.epochs == best + 3
    np.testing.assert_array_equal(net.statistics, seen[best - 1])
    assert (net.statistics != seen[-1]).any()
    assert net.evaluate(*validation) == history.validation_loss[best - 1]
    engine_statistics = np.empty_like(net.statistics)
    net._network.get_statistics(engine_statistics)
    np.testing.assert_array_equal(engine_statistics, seen[best - 1])


def test_an_interrupt_at_any_line_leaves_one_whole_epoch(engine_name, data):
    """The last one or the best one, parameters and statistics alike."""
    scores = [1.0, 3.0, 2.0, 1.0]
    for number in itertools.count():
        net = MLP([3, 5, 2], "tanh", random_state=3, engine=engine_name, normalization="batch")
        net.predict(data[0])
        epochs = [(net.parameters.tobytes(), net.statistics.tobytes())]
        given, interrupt = iter(scores), Interrupt(number)

        def callback(event, epochs=epochs):
            epochs.append((event.network.parameters.tobytes(), event.network.statistics.tobytes()))

        interrupt.during(
            functools.partial(
                net.train,
                *data,
                epochs=9,
                batch_size=8,
                validation_data=data,
                metric=lambda y, outputs, given=given: next(given),
                stopping=EarlyStopping(2, "metric"),
                callback=callback,
            )
        )
        history = net.history_
        shown = net.parameters.tobytes(), net.statistics.tobytes()
        n_epochs = 0 if history is None else history.epochs
        if n_epochs < len(epochs):  # else it came between showing the epoch and telling the callback
            assert shown in (epochs[n_epochs], epochs[history.best_epoch if n_epochs else 0])
        net.predict(data[0])
        engine = np.empty_like(net.parameters), np.empty_like(net.statistics)
        net._network.get_parameters(engine[0])
        net._network.get_statistics(engine[1])
        assert (engine[0].tobytes(), engine[1].tobytes()) == shown
        if not interrupt.came:
            break
    assert (history.stopped, history.best_epoch, shown) == ("patience", 2, epochs[2])
    assert number > 30


@pytest.mark.parametrize("reason", ["epochs", "callback", "target"])
def test_the_best_epoch_is_restored_however_training_stops_by_itself(reason, net, data):
    scores = iter([0.5, 0.9, 0.7])
    options = {
        "epochs": 3 if reason == "epochs" else 9,
        "validation_data": data,
        "metric": lambda y, outputs: next(scores),
        "stopping": EarlyStopping(monitor="metric", target=None),
    }
    seen = []

    def callback(event):
        seen.append(event.network.parameters.copy())
        return reason == "callback" and event.epoch == 3

    if reason == "target":
        options |= {"stopping": EarlyStopping(monitor="metric", target=0.9)}
    history = net.train(*data, callback=callback, **options)
    assert (history.stopped, history.best_epoch, history.epochs) == (reason, 2, 2 if reason == "target" else 3)
    assert_in_step(net, seen[1])


@pytest.mark.parametrize(("mode", "best"), [("min", 2), ("max", 5)])
@pytest.mark.parametrize("wrong", [nan, inf, -inf])
def test_the_history_and_the_network_agree_on_the_best_epoch(wrong, mode, best, net, data):
    """An infinite metric is none that could be better."""
    scores, seen = iter([wrong, 1, 2, wrong, 3, wrong]), []
    history = net.train(
        *data,
        epochs=6,
        validation_data=data,
        metric=lambda y, outputs: next(scores),
        stopping=EarlyStopping(None, monitor="metric", mode=mode),
        callback=lambda event: seen.append(event.network.parameters.copy()),
    )
    assert history.best_epoch == best
    assert_in_step(net, seen[best - 1])


def test_an_exception_leaves_the_last_whole_epoch(net, data):
    seen = []

    def callback(event):
        seen.append(event.network.parameters.copy())
        if event.epoch == 4:
            raise KeyboardInterrupt

    scores = iter([4, 3, 2, 1])
    stopping = EarlyStopping(monitor="metric")
    with pytest.raises(KeyboardInterrupt):
        net.train(*data, validation_data=data, metric=lambda *_: next(scores), stopping=stopping, callback=callback)
    assert net.history_.best_epoch == 1
    assert_in_step(net, seen[3])


def test_the_metric_is_given_targets_as_they_came_and_what_predict_gives(engine_name, rng):
    net = MLP([3, 4, 2], output_activation="softmax", random_state=0, engine=engine_name)
    X, y = rng.normal(size=(20, 3)), rng.integers(0, 2, 20)
    labels, calls = y.astype(float).tolist(), []

    def metric(targets, outputs):
        calls.append(outputs)
        assert targets is labels
        return np.float32(len(calls))

    def callback(event):
        np.testing.assert_array_equal(calls[-1], event.network.predict(X))
        assert event.metric == len(calls)

    history = net.train(X, y, epochs=3, validation_data=(X, labels), metric=metric, callback=callback)
    assert history.metric == [1.0, 2.0, 3.0]
    assert all(type(value) is float for value in history.metric)


@pytest.mark.parametrize("value", [None, "high", [1, 2]])
def test_a_metric_must_return_a_number(value, net, data):
    before = net.parameters.copy()
    with pytest.raises(TypeError, match="metric must return a number; got"):
        net.train(*data, validation_data=data, metric=lambda y, outputs: value)
    assert net.history_.epochs == 0
    assert_in_step(net, before)


# ---- Time ----


class Clock:
    """Time in which each look at the clock takes a second."""

    def __init__(self, monkeypatch):
        self.seconds = itertools.count()
        monkeypatch.setattr(time, "perf_counter", lambda: float(next(self.seconds)))


def test_time_is_up_after_an_epoch(net, data):
    def callback(event):
        time.sleep(0.03)

    history = net.train(*data, epochs=10**6, max_time=0.1, callback=callback)
    assert history.stopped == "time"
    assert 1 <= history.epochs <= 4


@pytest.mark.parametrize("best", [False, True])
def test_an_epoch_that_time_cuts_is_not_shown(best, net, data, monkeypatch):
    """Pieces of one minibatch each, some of which the last epoch has taken."""
    monkeypatch.setattr(training, "_TIMED_FLOPS", 1)
    pieces = []
    real = run.Run.epoch
    monkeypatch.setattr(run.Run, "epoch", lambda self, *args, **kw: pieces.append(1) or real(self, *args, **kw))
    Clock(monkeypatch)
    stopping = EarlyStopping(patience=None) if best else None
    history, seen = _trajectory(net, data, epochs=99, batch_size=2, max_time=45, stopping=stopping)
    assert history.stopped == "time"
    assert history.epochs == len(seen) >= 2
    assert len(pieces) % 10 != 0
    assert_in_step(net, seen[(history.best_epoch if best else history.epochs) - 1])
    monkeypatch.undo()
    twin = MLP([3, 5, 2], "tanh", dtype=net.dtype, random_state=3, engine=net.engine)
    whole = twin.train(*data, epochs=history.epochs, batch_size=2)
    np.testing.assert_array_equal(twin.parameters, seen[-1])
    assert_close(history.loss, whole.loss, 10, kind="sum", dtype=np.float64)


def test_a_run_that_time_cuts_goes_on_from_its_checkpoint(engine_name, data, tmp_path, monkeypatch):
    """Within an epoch, as often as it takes; the best epoch that was shown in between is not what it goes on from."""

    def new():
        return MLP([3, 5, 4, 2], "tanh", random_state=3, engine=engine_name, normalization="batch")

    rate = schedules.WarmUp(schedules.ReduceOnPlateau(0.05, patience=1), 9)
    options = {"epochs": 6, "batch_size": 2, "dropout": 0.2, "validation_data": data, "learning_rate": rate}
    options |= {"clip_norm": 1.0, "stopping": EarlyStopping()}
    monkeypatch.setattr(training, "_TIMED_FLOPS", 1)
    whole, calls = new(), 0
    expected = whole.train(*data, max_time=1e9, **options)
    Clock(monkeypatch)
    checkpoint = Checkpoint(tmp_path / "run", epochs=None, seconds=1e9)
    stopped = "time"
    while stopped == "time":
        net, calls = new(), calls + 1
        history = net.train(*data, max_time=13, checkpoint=checkpoint, **options)
        stopped = history.stopped
    assert calls > 3
    assert stopped == expected.stopped
    for name in set(COLUMNS) - {"seconds"}:
        assert getattr(history, name) == getattr(expected, name), name
    assert history.best_epoch == expected.best_epoch
    assert net.parameters.tobytes() == whole.parameters.tobytes()
    assert net.statistics.tobytes() == whole.statistics.tobytes()
    assert net.train(*data, max_time=13, checkpoint=checkpoint, **options).loss == expected.loss


def test_time_that_ends_in_the_first_epoch_changes_nothing(net, data, monkeypatch):
    monkeypatch.setattr(training, "_TIMED_FLOPS", 1)
    before = net.parameters.copy()
    Clock(monkeypatch)
    history = net.train(*data, batch_size=2, max_time=1)
    assert (history.epochs, history.stopped) == (0, "time")
    assert_in_step(net, before)


def test_time_is_looked_at_after_iterations_of_lbfgs(net, data):
    history = net.train(*data, epochs=10**6, optimizer="lbfgs", max_time=0.1, callback=lambda event: time.sleep(0.06))
    assert history.stopped == "time"
    assert 1 <= history.epochs <= 2
