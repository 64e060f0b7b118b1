"""The fit loop: what it learns, what it reports, and what is left when it ends early."""

import functools
import itertools
import pickle
import tracemalloc

import numpy as np
import pytest
from conftest import assert_close
from test_turns import assert_in_step

from cymlp import MLP, DivergenceError, optimizers

XOR = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
STOCHASTIC = ["sgd", "rmsprop", "adam", "adamw"]


@pytest.fixture
def net(engine_name, dtype):
    return MLP([3, 5, 2], "tanh", dtype=dtype, random_state=3, engine=engine_name)


@pytest.fixture
def data(rng, dtype):
    return rng.normal(size=(20, 3)).astype(dtype), rng.normal(size=(20, 2)).astype(dtype)


@pytest.mark.parametrize("output", ["sigmoid", "softmax"])
@pytest.mark.parametrize(
    ("optimizer", "learning_rate"), [("sgd", 0.5), ("rmsprop", 0.02), ("adam", 0.05), ("adamw", 0.05), ("lbfgs", None)]
)
def test_learns_xor(output, optimizer, learning_rate, engine_name, dtype):
    n_out = 1 if output == "sigmoid" else 2
    net = MLP([2, 8, n_out], "tanh", output, dtype=dtype, random_state=0, engine=engine_name)
    net.train(XOR, [0, 1, 1, 0], epochs=1000, batch_size=4, optimizer=optimizer, learning_rate=learning_rate)
    P = net.predict(XOR)
    assert ((P[:, 0] > 0.5) if n_out == 1 else P.argmax(axis=1)).tolist() == [0, 1, 1, 0]
    assert net.evaluate(XOR, [0, 1, 1, 0]) < 0.05


@pytest.mark.parametrize("optimizer", [*STOCHASTIC, "lbfgs"])
def test_history_and_events(optimizer, net, data):
    X, y = data
    events = []
    validation = (X[:7], y[:7], np.arange(1, 8))
    history = net.train(
        X, y, epochs=4, batch_size=8, optimizer=optimizer, validation_data=validation, callback=events.append
    )
    assert history is net.history_
    assert history.epochs == len(history.loss) == len(history.validation_loss) == len(history.seconds) == 4
    assert all(isinstance(number, float) for number in (*history.loss, *history.validation_loss, *history.seconds))
    assert min(history.seconds) >= 0
    assert [event.epoch for event in events] == [1, 2, 3, 4]
    assert [event.loss for event in events] == history.loss
    assert [event.validation_loss for event in events] == history.validation_loss
    assert all(event.network is net and event.history is history for event in events)
    assert history.validation_loss[-1] == net.evaluate(*validation)


def test_training_copies_neither_parameters_nor_data(rng):
    net = MLP([200, 300, 200], "relu", dtype=np.float32, random_state=0)
    X, y = rng.normal(size=(900, 200)).astype(np.float32), rng.normal(size=(900, 200)).astype(np.float32)
    net.predict(X[:1])
    tracemalloc.start()  # counts what NumPy allocates, not what the engine does
    net.train(X, y, epochs=2, batch_size=32)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < min(net.parameters.nbytes, X.nbytes) / 4


def test_without_validation_data(net, data):
    events = []
    history = net.train(*data, epochs=2, callback=events.append)
    assert history.validation_loss == []
    assert [event.validation_loss for event in events] == [None, None]


def test_loss_of_an_epoch_is_the_mean_over_its_rows(net, data):
    X, y = data
    expected = net.evaluate(X, y)
    history = net.train(X, y, epochs=1, batch_size=7, optimizer=optimizers.SGD(learning_rate=1e-30))
    assert_close(history.loss[0], expected, 3 + 5 + 2 + 20, kind="pass", dtype=net.dtype)


def test_parameters_are_current_in_the_callback(net, data):
    X, y = data
    seen = []

    def callback(event):
        seen.append(event.network.parameters.copy())
        assert_in_step(event.network, seen[-1])

    net.train(X, y, epochs=3, callback=callback)
    assert all((a != b).any() for a, b in itertools.pairwise(seen))
    assert_in_step(net, seen[-1])


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
@pytest.mark.parametrize("answer", [True, np.True_])
def test_callback_stops_where_it_returns_true(optimizer, answer, net, data):
    kept = []

    def callback(event):
        kept.append(event.network.parameters.copy())
        return answer if event.epoch == 2 else None

    history = net.train(*data, epochs=9, optimizer=optimizer, callback=callback)
    assert history.epochs == len(kept) == 2
    assert_in_step(net, kept[-1])


@pytest.mark.parametrize("answer", [None, False, 1, "stop", [0]])
def test_callback_goes_on_where_it_returns_anything_else(answer, net, data):
    assert net.train(*data, epochs=3, callback=lambda event: answer).epochs == 3


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_callback_that_raises_stop_iteration_is_told(optimizer, net, data):
    """SciPy would take it for an order to stop."""
    with pytest.raises(RuntimeError, match=r"callback raised StopIteration; to stop training, return True"):
        net.train(*data, optimizer=optimizer, callback=lambda event: next(iter(())))


def test_callback_may_set_parameters(net, data):
    net.train(*data, epochs=1, callback=lambda event: setattr(event.network, "parameters", np.ones(net.n_parameters)))
    assert_in_step(net, np.ones(net.n_parameters))


def test_callback_must_not_train(net, data):
    with pytest.raises(RuntimeError, match=r"train\(\) is running"):
        net.train(*data, callback=lambda event: event.network.train(*data))
    assert net.train(*data, epochs=1).epochs == 1


@pytest.mark.parametrize("optimizer", STOCHASTIC)
def test_resumed_calls_are_one_long_call(optimizer, engine_name, dtype, data):
    one, two, fresh = (MLP([3, 5, 2], "tanh", dtype=dtype, random_state=3, engine=engine_name) for _ in range(3))
    options = {"batch_size": 6, "optimizer": getattr(optimizers, type(optimizers.get(optimizer)).__name__)()}
    if optimizer == "sgd":
        options["optimizer"] = optimizers.SGD(momentum=0.9)
    whole = one.train(*data, epochs=5, shuffle=False, **options)
    first = two.train(*data, epochs=2, shuffle=False, resume=True, **options)  # nothing to resume yet: a fresh start
    second = two.train(*data, epochs=3, shuffle=False, resume=True, **options)
    np.testing.assert_array_equal(one.parameters, two.parameters)
    assert whole.loss == first.loss + second.loss
    fresh.train(*data, epochs=2, shuffle=False, **options)
    fresh.train(*data, epochs=3, shuffle=False, **options)
    assert (fresh.parameters != one.parameters).any()


def test_resume_with_shuffling_goes_on_with_the_generator(engine_name, data):
    one, two = (MLP([3, 5, 2], random_state=3, engine=engine_name) for _ in range(2))
    one.train(*data, epochs=5, batch_size=6)
    two.train(*data, epochs=2, batch_size=6)
    two.train(*data, epochs=3, batch_size=6, resume=True)
    np.testing.assert_array_equal(one.parameters, two.parameters)


def test_resume_with_another_learning_rate(net, data):
    net.train(*data, epochs=1)
    assert net.train(*data, epochs=1, learning_rate=0.1, resume=True).epochs == 1


def test_resume_with_another_optimizer_is_refused(net, data):
    net.train(*data, epochs=1, optimizer="adam")
    with pytest.raises(ValueError, match="resume needs the optimizer of the previous call, Adam; got SGD"):
        net.train(*data, epochs=1, optimizer="sgd", resume=True)
    net.train(*data, epochs=1, optimizer="sgd")
    net.train(*data, epochs=1, optimizer="lbfgs")
    net.train(*data, epochs=1, optimizer="adam", resume=True)  # L-BFGS leaves nothing behind to resume


@pytest.mark.parametrize("optimizer", [*STOCHASTIC, "lbfgs"])
def test_seeds_reproduce_to_the_bit(optimizer, engine_name, dtype, data):
    nets = [MLP([3, 5, 2], dtype=dtype, random_state=seed, engine=engine_name) for seed in (1, 1, 2)]
    losses = [net.train(*data, epochs=3, batch_size=4, optimizer=optimizer).loss for net in nets]
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes() != nets[2].parameters.tobytes()
    assert losses[0] == losses[1] != losses[2]


def test_order_comes_from_the_generator(net, data):
    X, y = data
    twin = MLP([3, 5, 2], "tanh", dtype=net.dtype, engine=net.engine)
    twin.parameters = net.parameters
    rng = np.random.default_rng(11)
    net._rng = np.random.default_rng(11)
    net.train(X, y, epochs=2, batch_size=6)
    for _ in range(2):
        order = rng.permutation(len(X))
        twin.train(X[order], y[order], epochs=1, batch_size=6, shuffle=False, resume=True)
    np.testing.assert_array_equal(net.parameters, twin.parameters)


def test_batches_larger_than_the_data_are_the_data(engine_name, data):
    nets = [MLP([3, 5, 2], random_state=1, engine=engine_name) for _ in range(2)]
    for net, batch_size in zip(nets, (20, 2**70), strict=True):
        net.train(*data, epochs=2, batch_size=batch_size, shuffle=False)
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)


def test_more_corrections_than_iterations_are_as_many(engine_name, data):
    nets = [MLP([3, 5, 2], random_state=1, engine=engine_name) for _ in range(2)]
    for net, memory in zip(nets, (4, 2**70), strict=True):
        net.train(*data, epochs=4, optimizer=optimizers.LBFGS(memory=memory))
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)


@pytest.mark.parametrize(
    ("optimizer", "factor"),
    [
        (optimizers.RMSprop, 1),
        (functools.partial(optimizers.Adam, beta2=0.75), 0.5),
        (functools.partial(optimizers.AdamW, beta2=0.75, weight_decay=0.0), 0.5),
    ],
)
def test_the_least_epsilon_is_enough_for_a_gradient_of_zero(optimizer, factor, net):
    """In Adam's first step sqrt(1 - beta2) is its factor."""
    least, before = float(np.finfo(net.dtype).tiny) / factor, net.parameters.copy()
    zeros = np.zeros((4, 3)), np.zeros((4, 2))
    net.train(*zeros, optimizer=optimizer(epsilon=least))
    assert_in_step(net, before)
    with pytest.raises(ValueError, match=rf"epsilon must be at least {least:.3g}, .* in {net.dtype.name}; got"):
        net.train(*zeros, optimizer=optimizer(epsilon=0.99 * least))


def test_rows_of_weight_zero_do_not_matter(engine_name, data):
    X, y = data
    nets = [MLP([3, 5, 2], random_state=1, engine=engine_name) for _ in range(2)]
    weight = np.ones(20)
    weight[::2] = 0
    nets[0].train(X, y, epochs=3, batch_size=20, shuffle=False, sample_weight=weight)
    nets[1].train(X[1::2], y[1::2], epochs=3, batch_size=20, shuffle=False)
    assert_close(nets[0].parameters, nets[1].parameters, 3 * (3 + 5 + 2 + 20), kind="training")


def test_integer_weights_count_rows(engine_name, data):
    X, y = data
    nets = [MLP([3, 5, 2], random_state=1, engine=engine_name) for _ in range(2)]
    count = np.arange(20) % 3
    losses = [
        nets[0].train(X, y, epochs=2, batch_size=99, shuffle=False, sample_weight=count).loss,
        nets[1]
        .train(np.repeat(X, count, axis=0), np.repeat(y, count, axis=0), epochs=2, batch_size=99, shuffle=False)
        .loss,
    ]
    assert_close(losses[0], losses[1], 3 * (3 + 5 + 2 + 20), kind="training", dtype=nets[0].dtype)


def test_divergence_is_named_and_undone(engine_name, dtype):
    # w <- w - rate (w - y) with rate = 1e12: |w| grows by 1e12 a step, and w^2 overflows in a step that is known.
    net = MLP([1, 1], dtype=dtype, initializer="zeros", engine=engine_name)
    X, y = np.ones((3, 1)), np.ones((3, 1))
    kept = [net.parameters.copy()]
    w, b, steps = 0.0, 0.0, 0
    with np.errstate(over="ignore"):
        while np.isfinite(dtype.type((dtype.type(w + b) - 1) ** 2)):
            w, b, steps = w - 1e12 * (w + b - 1), b - 1e12 * (w + b - 1), steps + 1
    epoch, batch = steps // 3 + 1, steps % 3 + 1
    with pytest.raises(DivergenceError, match=f"in epoch {epoch}, batch {batch}") as caught:
        net.train(
            X,
            y,
            epochs=99,
            batch_size=1,
            optimizer=optimizers.SGD(learning_rate=1e12),
            callback=lambda event: kept.append(event.network.parameters.copy()),
        )
    assert isinstance(caught.value, ArithmeticError)
    assert (caught.value.epoch, caught.value.batch) == (epoch, batch)
    assert "smaller learning rate" in str(caught.value)
    assert "scaled" in str(caught.value)
    assert net.history_.epochs == epoch - 1 == len(kept) - 1
    assert np.isfinite(net.history_.loss).all()
    assert_in_step(net, kept[-1])


def test_parameters_that_overflow_in_the_last_step_are_divergence(engine_name, dtype):
    net = MLP([1, 1], dtype=dtype, initializer="zeros", engine=engine_name)
    big = float(np.sqrt(np.finfo(dtype).max)) / 100
    with pytest.raises(DivergenceError, match="parameters became infinite or NaN in epoch 1, batch 1") as caught:
        net.train([[1.0]], [[big]], epochs=1, optimizer=optimizers.SGD(learning_rate=big * 1e6))
    assert (caught.value.epoch, caught.value.batch) == (1, 1)
    assert "before the call" in str(caught.value)
    assert net.history_.epochs == 0
    assert_in_step(net, np.zeros(2))


def test_divergence_in_lbfgs(engine_name, dtype):
    net = MLP([1, 1], dtype=dtype, initializer="zeros", engine=engine_name)
    with pytest.raises(DivergenceError) as caught:
        net.train([[1.0]], [[float(np.finfo(dtype).max) / 2]], optimizer="lbfgs")
    assert (caught.value.epoch, caught.value.batch) == (1, 1)
    assert_in_step(net, np.zeros(2))


def test_divergence_error_survives_pickling():
    error = pickle.loads(pickle.dumps(DivergenceError("message", 3, 4)))
    assert (str(error), error.epoch, error.batch) == ("message", 3, 4)


def test_lbfgs_reaches_least_squares(engine_name, dtype, rng):
    X = rng.normal(size=(40, 3))
    y = X @ rng.normal(size=(3, 2)) + rng.normal(size=2) + 0.1 * rng.normal(size=(40, 2))
    net = MLP([3, 2], dtype=dtype, random_state=0, engine=engine_name)
    history = net.train(X, y, epochs=200, optimizer=optimizers.LBFGS(gradient_tolerance=0.0, loss_tolerance=0.0))
    solution, *_ = np.linalg.lstsq(np.column_stack([X, np.ones(40)]), y, rcond=None)
    # Near its minimum the loss is flat: it determines parameters to the square root of its own precision.
    flatness = np.finfo(dtype).eps ** -0.5
    assert_close(net.weights[0], solution[:3], reduction_length=1, scale=flatness)
    assert_close(net.biases[0], solution[3], reduction_length=1, scale=flatness)
    assert history.epochs < 200
    assert all(later <= earlier for earlier, later in itertools.pairwise(history.loss))


def test_lbfgs_history_is_the_loss_after_each_iteration(engine_name, data):
    net = MLP([3, 5, 2], random_state=0, engine=engine_name)
    seen = []
    history = net.train(
        *data, epochs=5, optimizer="lbfgs", callback=lambda event: seen.append(event.network.gradients(*data)[0])
    )
    assert history.loss == seen


def test_lbfgs_at_the_minimum_already(engine_name):
    net = MLP([1, 1], initializer="zeros", engine=engine_name)
    assert net.train([[1.0], [2.0]], [0.0, 0.0], optimizer="lbfgs").epochs == 0
    assert_in_step(net, np.zeros(2))


def test_history_starts_anew_in_each_call(net, data):
    first = net.train(*data, epochs=2)
    second = net.train(*data, epochs=3, resume=True)
    assert (first.epochs, second.epochs) == (2, 3)
    assert net.history_ is second


def test_learning_rate_of_numpys_type(engine_name, data):
    nets = [MLP([3, 5, 2], random_state=1, engine=engine_name) for _ in range(2)]
    for net, rate in zip(nets, (0.25, np.float32(0.25)), strict=True):
        net.train(*data, epochs=1, learning_rate=rate)
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)
