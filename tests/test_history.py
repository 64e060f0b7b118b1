"""What is told of a run: the history, the events of callbacks, why it stopped, where it diverged."""

import pickle

import numpy as np
import pytest
from test_turns import assert_in_step

from cymlp import MLP, DivergenceError, EarlyStopping, optimizers
from cymlp.history import COLUMNS, Event, History


@pytest.fixture
def net(engine_name):
    return MLP([3, 5, 2], "tanh", random_state=3, engine=engine_name)


@pytest.fixture
def data(rng):
    return rng.normal(size=(20, 3)), rng.normal(size=(20, 2))


# ---- The table ----


def test_a_history_is_a_table(net, data):
    history = net.train(*data, epochs=3, validation_data=data, metric=lambda y, outputs: 0.5)
    table = history.to_dict()
    assert list(table) == ["epoch", "loss", "validation_loss", "metric", "learning_rate", "seconds"]
    assert table["epoch"] == [1, 2, 3]
    assert all(len(column) == 3 for column in table.values())
    assert table["metric"] == [0.5] * 3
    assert table["learning_rate"] == [0.001] * 3
    table["loss"].clear()
    assert history.epochs == 3
    assert (history.stopped, net.history_) == ("epochs", history)


def test_an_empty_history_is_a_table_without_rows():
    assert History().to_dict() == {"epoch": [], "loss": [], "seconds": []}
    assert (History().epochs, History().best_epoch) == (0, None)


def test_a_history_is_a_data_frame(net, data):
    frame = net.train(*data, epochs=2).to_pandas()
    assert list(frame.columns) == ["epoch", "loss", "learning_rate", "seconds"]
    assert frame["epoch"].tolist() == [1, 2]
    assert frame["loss"].tolist() == net.history_.loss


@pytest.mark.parametrize(
    ("columns", "best"),
    [
        ({"loss": [3.0, 1.0, 1.0]}, 2),
        ({"loss": [3.0, 1.0, 2.0], "validation_loss": [5.0, 6.0, 4.0]}, 3),
        ({"loss": [3.0, 1.0], "validation_loss": [5.0, 4.0], "monitor": "loss", "mode": "min"}, 2),
        ({"loss": [3.0, 1.0, 2.0], "metric": [0.5, 0.9, 0.9], "monitor": "metric", "mode": "max"}, 2),
        ({"loss": [np.nan, 2.0, 3.0]}, 2),
        ({"loss": [np.nan]}, None),
    ],
)
def test_the_best_epoch_is_the_first_of_the_best(columns, best):
    assert History(**columns).best_epoch == best


def test_writing_an_epoch_twice_is_writing_it_once():
    history = History()
    for _ in range(2):
        history.put(0, {"loss": 1, "metric": None, "seconds": np.float32(2)})
    history.put(1, {"loss": 3.0, "seconds": 4.0})
    assert history.to_dict() == {"epoch": [1, 2], "loss": [1.0, 3.0], "seconds": [2.0, 4.0]}
    assert history.last() == dict.fromkeys(COLUMNS) | {"loss": 3.0, "seconds": 4.0}


def test_lbfgs_has_no_rates(net, data):
    history = net.train(*data, epochs=3, optimizer="lbfgs")
    assert (history.learning_rate, history.gradient_norm, history.stopped) == ([], [], "epochs")
    line = MLP([3, 2], random_state=0, engine=net.engine)
    assert line.train(*data, epochs=300, optimizer="lbfgs").stopped == "converged"


# ---- Events ----


class Teller:
    """A callback that keeps what it was told, by which of its methods."""

    def __init__(self, answer=None):
        self.told, self.answer = [], answer

    def begin(self, event):
        self.told.append(("begin", event))

    def __call__(self, event):
        self.told.append(("epoch", event))
        return self.answer

    def end(self, event):
        self.told.append(("end", event))

    @property
    def names(self):
        return [name for name, _ in self.told]


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_callbacks_are_told_of_beginning_epochs_and_end(optimizer, net, data):
    teller, plain = Teller(), []
    callbacks = [teller, plain.append]
    history = net.train(*data, epochs=3, batch_size=8, optimizer=optimizer, validation_data=data, callback=callbacks)
    assert teller.names == ["begin", "epoch", "epoch", "epoch", "end"]
    events = [event for _, event in teller.told]
    assert [event.epoch for event in events] == [0, 1, 2, 3, 3]
    assert [event.epochs for event in events] == [3] * 5
    n_steps = 1 if optimizer == "lbfgs" else 3
    assert [event.step for event in events] == [n_steps * done for done in (0, 1, 2, 3, 3)]
    for name in ("loss", "validation_loss", "seconds"):
        column = getattr(history, name)
        assert [getattr(event, name) for event in events] == [None, *column, column[-1]]
    assert [event.learning_rate for event in events[1:4]] == [None if optimizer == "lbfgs" else 0.001] * 3
    assert all(event.metric is event.gradient_norm is None for event in events)
    assert all(event.network is net and event.history is history for event in events)
    assert [event.epoch for event in plain] == [1, 2, 3]
    assert isinstance(plain[0], Event)


def test_steps_are_counted_over_resumed_calls(net, data):
    steps = []
    for resume in (False, True):
        net.train(*data, epochs=2, batch_size=8, resume=resume, callback=lambda event: steps.append(event.step))
    assert steps == [3, 6, 9, 12]


def test_the_network_can_be_used_at_the_beginning_and_at_the_end(net, data):
    predictions = []

    class Using:
        def begin(self, event):
            predictions.append(event.network.predict(data[0]))

        def __call__(self, event):
            pass

        def end(self, event):
            predictions.append(event.network.predict(data[0]))

    first = net.predict(data[0])
    net.train(*data, epochs=2, callback=Using())
    np.testing.assert_array_equal(predictions, [first, net.predict(data[0])])


def test_all_callbacks_are_told_where_one_asks_to_stop(net, data):
    tellers = [Teller(True), Teller()]
    history = net.train(*data, epochs=9, callback=tellers)
    assert [teller.names for teller in tellers] == [["begin", "epoch", "end"]] * 2
    assert (history.epochs, history.stopped) == (1, "callback")


@pytest.mark.parametrize("exception", [KeyboardInterrupt, ZeroDivisionError])
def test_callbacks_are_told_of_an_end_by_an_exception(exception, net, data):
    teller, stopped = Teller(), []
    teller.end = lambda event: stopped.append(event.history.stopped)

    def fail(event):
        if event.epoch == 2:
            raise exception

    with pytest.raises(exception):
        net.train(*data, epochs=9, callback=[teller, fail])
    assert teller.names == ["begin", "epoch", "epoch"]
    assert stopped == ["interrupted"] == [net.history_.stopped]


def test_the_first_error_is_raised_and_all_ends_are_called(net, data):
    class Failing(Teller):
        def end(self, event):
            super().end(event)
            raise ValueError(self.answer)

    tellers = [Failing("first"), Failing("second"), Teller()]
    with pytest.raises(ValueError, match="first"):
        net.train(*data, epochs=1, callback=tellers)
    assert [teller.names[-1] for teller in tellers] == ["end"] * 3
    tellers.append(lambda event: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        net.train(*data, epochs=1, callback=tellers)
    assert [teller.names[-1] for teller in tellers[:3]] == ["end"] * 3


@pytest.mark.parametrize("others", [[], [lambda event: 1 / 0]])
def test_an_interrupt_of_one_end_keeps_no_other_from_being_called(others, net, data):
    class Failing(Teller):
        def end(self, event):
            super().end(event)
            raise self.answer

    tellers = [Failing(ValueError()), Failing(KeyboardInterrupt()), Teller()]
    with pytest.raises(KeyboardInterrupt):
        net.train(*data, epochs=1, callback=[*tellers, *others])
    assert [teller.names[-1] for teller in tellers] == ["end"] * 3
    assert_in_step(net, net.parameters.copy())


def test_a_callback_that_fails_to_begin_ends_the_run(net, data):
    class Failing(Teller):
        def begin(self, event):
            raise OSError("no disk")

    before, first, second = net.parameters.copy(), Teller(), Failing()
    with pytest.raises(OSError, match="no disk"):
        net.train(*data, callback=[first, second])
    assert (first.names, second.names) == (["begin", "end"], [])
    assert_in_step(net, before)


def test_refused_calls_tell_nobody(net, data):
    teller = Teller()
    with pytest.raises(ValueError, match="epochs"):
        net.train(*data, epochs=0, callback=teller)
    net.train(*data, epochs=1)
    with pytest.raises(ValueError, match="resume"):
        net.train(*data, epochs=1, optimizer="sgd", resume=True, callback=teller)
    assert teller.told == []


# ---- Divergence ----


def test_divergence_is_told(net, data):
    teller = Teller()
    with pytest.raises(DivergenceError) as caught:
        net.train(*data, epochs=99, optimizer=optimizers.SGD(1e200), callback=teller)
    assert net.history_.stopped == "diverged"
    assert teller.names[-1] == "end"
    assert f"layer {caught.value.layer}" in str(caught.value)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_the_first_layer_that_is_not_finite_is_named(layer, engine_name):
    """Weights near the largest number make Z overflow in one layer, and in all that follow."""
    net = MLP([3, 4, 4, 2], "relu", "identity", dtype=np.float32, random_state=0, engine=engine_name)
    parameters = [np.abs(W) for W in net.weights]
    parameters[layer - 1] = np.full_like(parameters[layer - 1], 3e38)
    net.weights = parameters
    before = net.parameters.copy()
    with pytest.raises(DivergenceError, match=f"in epoch 1, batch 1, layer {layer}; ") as caught:
        net.train(np.ones((8, 3)), np.ones((8, 2)), batch_size=4)
    assert (caught.value.epoch, caught.value.batch, caught.value.layer) == (1, 1, layer)
    assert_in_step(net, before)


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_rows_of_the_failed_batch_name_the_layer(shuffle, engine_name):
    net = MLP([1, 4, 1], "relu", dtype=np.float32, random_state=0, engine=engine_name)
    net.weights = [np.ones((1, 4)), np.full((4, 1), 1e20)]
    X = np.ones((64, 1), np.float32)
    X[40] = 1e38  # Z_1 is finite, Z_2 is not
    with pytest.raises(DivergenceError) as caught:
        net.train(X, np.ones((64, 1)), batch_size=1, shuffle=shuffle, optimizer=optimizers.SGD(1e-45))
    assert caught.value.layer == 2
    assert shuffle or caught.value.batch <= 41


def test_a_loss_that_overflows_alone_is_of_the_last_layer(engine_name):
    net = MLP([1, 1], dtype=np.float32, initializer="zeros", engine=engine_name)
    with pytest.raises(DivergenceError, match="layer 1; ") as caught:
        net.train([[1.0]], [[1e30]])
    assert caught.value.layer == 1


def test_parameters_that_overflow_name_their_layer(engine_name):
    net = MLP([1, 1, 1], "relu", dtype=np.float32, engine=engine_name)
    net.weights, net.biases = [[[1.0]], [[1.0]]], [[0.0], [0.0]]
    with pytest.raises(DivergenceError, match="parameters became infinite or NaN in epoch 1, batch 1, layer 1"):
        net.train([[1.0]], [[1e15]], epochs=1, optimizer=optimizers.SGD(1e30))


def test_divergence_in_lbfgs_names_a_layer(engine_name):
    net = MLP([1, 1], dtype=np.float32, initializer="zeros", engine=engine_name)
    with pytest.raises(DivergenceError) as caught:
        net.train([[1.0]], [[1e38]], optimizer="lbfgs")
    assert (caught.value.batch, caught.value.layer) == (1, 1)


def test_divergence_error_keeps_its_layer_when_pickled():
    error = pickle.loads(pickle.dumps(DivergenceError("message", 3, 4, 2)))
    assert (str(error), error.epoch, error.batch, error.layer) == ("message", 3, 4, 2)


def test_an_interrupted_epoch_before_any_is_a_history_without_rows(net, data):
    class Interrupting(Teller):
        def begin(self, event):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        net.train(*data, callback=Interrupting(), stopping=EarlyStopping())
    assert (net.history_.epochs, net.history_.stopped, net.history_.best_epoch) == (0, "interrupted", None)
