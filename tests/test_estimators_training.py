"""What estimators with dropout, normalisation, clipping and schedules show, tell to callbacks, and refuse."""

import csv
import io
import json

import numpy as np
import pytest
from conftest import assert_close
from scipy import sparse
from test_estimators import Diary, assert_same_bits, draw, estimator, standing_still
from test_estimators_regularization import LAYERS, build

from cymlp import DivergenceError, MLPClassifier, MLPRegressor, callbacks, schedules
from cymlp.normalizations import BatchNorm, LayerNorm

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# ---- What is shown ----


def test_clipping_tells_the_norms():
    X, y = draw("outputs")
    told = Diary()
    plain = estimator("outputs", callbacks=told).fit(X, y)
    assert plain.gradient_norm_curve_ == []
    assert {event.gradient_norm for event in told.events} == {None}
    told = Diary()
    measured = estimator("outputs", clip_norm=np.inf, callbacks=told).fit(X, y)
    assert_same_bits(measured, plain)
    assert [event.gradient_norm for event in told.events] == measured.gradient_norm_curve_
    assert len(measured.gradient_norm_curve_) == 4
    limit = 0.5 * min(measured.gradient_norm_curve_)
    clipped = estimator("outputs", clip_norm=limit, solver="sgd", learning_rate=standing_still).fit(X, y)
    assert min(clipped.gradient_norm_curve_) > limit


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("rate", [schedules.CosineRestarts(0.02), schedules.WarmUp(schedules.OneCycle(0.01), 5)])
def test_rates_of_schedules_are_those_of_their_steps(solver, rate):
    """The length of the run is that of `max_iter` epochs; the rate to begin with is not read."""
    X, y = draw("multiclass")
    told = Diary()
    params = {"learning_rate": rate, "solver": solver, "callbacks": told}
    model = estimator("multiclass", **params).fit(X, y)  # 6 minibatches in an epoch
    assert [event.step for event in told.events] == [6, 12, 18, 24]
    assert [event.learning_rate for event in told.events] == [rate(step - 1, 24) for step in (6, 12, 18, 24)]
    assert_same_bits(estimator("multiclass", **params, learning_rate_init=7.0).fit(X, y), model)


@pytest.mark.filterwarnings("error")
def test_a_schedule_ends_after_max_iter_by_design():
    estimator("multiclass", learning_rate=schedules.Polynomial(0.1)).fit(*draw("multiclass"))


def test_a_plateau_is_one_of_the_validation_loss_where_there_is_one():
    X, y = draw("regression")
    rate = schedules.ReduceOnPlateau(1e-12, factor=0.5, patience=1, min_change=0.0)
    rising, falling = y + np.linspace(0, 1, len(y)), y
    for data, waits in ((None, False), ((X, rising), True), ((X, falling), False)):
        told = Diary()
        params = {"learning_rate": rate, "callbacks": told, "alpha": 0.0, "solver": "sgd"}
        model = estimator("regression", **params).fit(X, y, validation_data=data)
        curve = model.validation_loss_curve_ or model.loss_curve_
        falls = [curve[i] < min(curve[:i], default=np.inf) for i in range(4)]
        halvings = np.cumsum([0, *(not fell for fell in falls[:-1])])
        assert [event.learning_rate for event in told.events] == [1e-12 * 0.5**k for k in halvings], waits


@pytest.mark.parametrize("kind", ["binary", "outputs"])
def test_scales_and_statistics(kind):
    X, y = draw(kind)
    names = ("scales_", "running_means_", "running_variances_")
    model = build(kind, "batch_norm")
    for name in names:
        with pytest.raises(AttributeError, match=rf"this {type(model).__name__} is not fitted yet: it has no {name}"):
            getattr(model, name)
    model.fit(X, y)
    (s, t, _), (m, n, _), (v, w, _) = ([*getattr(model, name)] for name in names)
    A = X
    for layer, (scale, mean, variance) in enumerate(((s, m, v), (t, n, w))):
        Z = scale * (A @ model.coefs_[layer] - mean) / np.sqrt(variance + 1e-5) + model.intercepts_[layer]
        A = np.maximum(Z, 0)
        assert_close(model.transform(X, layer), A, 12, np.abs(Z).max() + 1, kind="pass")
    for name in names:
        assert getattr(model, name)[-1] is None
        assert not getattr(model, name)[0].flags.writeable
    plain = estimator(kind).fit(X, y)
    assert all(getattr(plain, name) == [None, None] for name in names)
    by_row = build(kind, "layer_norm").fit(X, y)
    assert by_row.running_means_ == by_row.running_variances_ == [None] * 3
    assert [scale.shape for scale in by_row.scales_[:-1]] == [(7,), (6,)]


def test_coefs_can_be_written_into_where_scales_are_between_them():
    X, y = draw("regression")
    model = build("regression", "all").fit(X, y)
    before, scales = model.predict(X), [scale.copy() for scale in model.scales_[:-1]]
    model.intercepts_[-1][:] += 1
    np.testing.assert_allclose(model.predict(X), before + 1)
    model.coefs_ = [2 * W for W in model.coefs_]
    for scale, now in zip(scales, model.scales_[:-1], strict=True):
        np.testing.assert_array_equal(scale, now)


# ---- Errors ----


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"batch_norm": True, "layer_norm": True}, "^layer_norm must be False where batch_norm is True; got True"),
        ({"clip_norm": 1.0, "clip_value": 1.0}, r"^clip_value must be None where clip_norm is given; got 1\.0"),
        ({"dropout": [0.1, 0.1]}, "^dropout must have 3 entries, one for the inputs and one for each hidden layer"),
        ({"dropout": [0.1, 0.1, 1.5]}, r"^dropout\[2\] must be a number in \[0, 1\]; got 1.5"),
        ({"dropout": 1.5}, "^The 'dropout' parameter of MLPRegressor must be"),
        ({"dropout": schedules.Constant(2.0)}, r"^dropout must be a number in \[0, 1\] at each step"),
        ({"dropout": True}, r"^dropout must be a number in \[0, 1\]"),
        ({"batch_norm": "yes"}, "^The 'batch_norm' parameter of MLPRegressor must be"),
        ({"layer_norm": BatchNorm()}, "^The 'layer_norm' parameter of MLPRegressor must be"),
        ({"batch_norm": LayerNorm()}, "^The 'batch_norm' parameter of MLPRegressor must be"),
        ({"l1": -1.0}, "^The 'l1' parameter of MLPRegressor must be"),
        ({"l2": np.inf}, "^The 'l2' parameter of MLPRegressor must be"),
        ({"weight_decay": None}, "^The 'weight_decay' parameter of MLPRegressor must be"),
        ({"max_norm": 0.0}, "^The 'max_norm' parameter of MLPRegressor must be"),
        ({"clip_norm": 0}, "^The 'clip_norm' parameter of MLPRegressor must be"),
        ({"clip_value": np.nan}, "^The 'clip_value' parameter of MLPRegressor must be"),
        ({"learning_rate": schedules.Constant(-1.0)}, "^learning_rate must be a finite number >= 0 at each step"),
        ({"weight_decay": schedules.Constant(-1.0)}, "^weight_decay must be a finite number >= 0 at each step"),
        ({"weight_decay": float}, "^weight_decay must be a finite number >= 0, a schedule, or a callable of the step"),
        ({"momentum": lambda step: 0.9}, "^momentum must not be a schedule for solver 'adam', which has none"),
        ({"momentum": 1.5}, "^The 'momentum' parameter of MLPRegressor must be"),
        (
            {"solver": "sgd", "momentum": schedules.WarmUp(schedules.Constant(1.5), 3)},
            r"^momentum must be a number in \[0, 1\] at each step; got",
        ),
    ],
)
def test_what_is_refused_before_anything_changes(params, message):
    X, y = draw("regression")
    model = estimator("regression", **LAYERS).fit(X, y)
    before = {name: value for name, value in vars(model).items() if name.endswith("_")}
    with pytest.raises(ValueError, match=message):
        model.set_params(**params).fit(X, y)
    assert {name: value for name, value in vars(model).items() if name.endswith("_")} == before


def test_a_schedule_of_the_length_of_a_run_is_not_for_streams():
    X, y = draw("regression")
    model = estimator("regression", learning_rate=schedules.CosineRestarts(0.1))
    with pytest.raises(ValueError, match=r"^learning_rate: CosineRestarts\.steps must be given where the length"):
        model.partial_fit(X, y)
    assert not hasattr(model, "network_")
    model.fit(X, y)


@pytest.mark.parametrize("name", ["momentum", "weight_decay"])
def test_values_of_functions_are_looked_at_as_they_come(name):
    X, y = draw("regression")
    model = estimator("regression", solver="sgd", **{name: lambda step: 0.5 if step < 8 else -1})
    with pytest.raises(ValueError, match=rf"^{name} must be a .* at each step; .* gives -1\.0 at step 8$"):
        model.fit(X, y)
    assert model.n_iter_ == 1


def test_a_stream_keeps_the_momentum_that_it_began_with():
    """As the rate: it is the state of the optimizer."""
    X, y = draw("regression")
    params = {"solver": "sgd", "momentum": schedules.Exponential(0.9, steps=9)}
    model, other = (estimator("regression", **params).partial_fit(X, y) for _ in range(2))
    other.set_params(momentum=0.1).partial_fit(X, y)
    assert_same_bits(other, model.partial_fit(X, y))
    assert not np.array_equal(other.fit(X, y).coefs_[0], model.fit(X, y).coefs_[0])


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize(("gain", "layer"), [(1e150, 1), (1.0, 3)])
@pytest.mark.parametrize("container", [np.asarray, sparse.csr_array])
def test_divergence_names_the_layer(solver, gain, layer, container):
    """Where sums of the first one, or only the loss of the last one's, are infinite."""
    X, y = draw("regression")
    model = estimator("regression", **LAYERS, solver=solver, gain=gain)
    where = rf"non-finite parameter weights.* in epoch 1, batch 1, layer {layer};"
    with pytest.raises(DivergenceError, match=where) as caught:
        model.fit(container(1e160 * X), y)
    assert caught.value.layer == layer


def test_a_stream_that_diverged_begins_its_steps_anew():
    X, y = draw("regression")
    rate = schedules.Exponential(0.01, steps=60)
    model = build("regression", "batch_norm", learning_rate=rate, solver="sgd").partial_fit(X, y)
    with pytest.raises(DivergenceError):
        model.partial_fit(X, 1e200 * y)
    told = Diary()
    model.set_params(callbacks=told).partial_fit(X, y)
    assert [event.step for event in told.events] == [6]
    assert told.events[0].learning_rate == rate(5)


# ---- Ready-made callbacks ----


class Recorder:
    def __init__(self):
        self.calls = []

    def begin(self, event):
        self.calls.append(("begin", event.epoch, event.loss))

    def __call__(self, event):
        self.calls.append(("epoch", event.epoch, event.loss))

    def end(self, event):
        self.calls.append(("end", event.epoch, event.loss))


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_callbacks_are_told_of_the_beginning_and_the_end(solver):
    X, y = draw("regression")
    recorder, stop = Recorder(), Diary(stop_after=3)
    model = estimator("regression", solver=solver, callbacks=[recorder, stop]).fit(X, y)
    curve = model.loss_curve_
    epochs = [("epoch", i, loss) for i, loss in enumerate(curve, 1)]
    assert recorder.calls == [("begin", 0, None), *epochs, ("end", 3, curve[-1])]
    assert {event.epochs for event in stop.events} == {4}
    recorder.calls.clear()
    model.set_params(callbacks=[recorder, Diary(1, KeyError("mine"))])
    with pytest.raises(KeyError, match="mine"):
        model.fit(X, y)
    assert recorder.calls == [("begin", 0, None), ("epoch", 1, model.loss_), ("end", 1, model.loss_)]


@pytest.mark.parametrize("cls", [MLPClassifier, MLPRegressor])
def test_bars_and_logs(cls, tmp_path):
    X, y = draw("multiclass")
    screen = io.StringIO()
    ready = [
        callbacks.ProgressBar(file=screen),
        callbacks.CSVLog(tmp_path / "log.csv"),
        callbacks.JSONLinesLog(tmp_path / "log.jsonl"),
    ]
    params = {"clip_norm": 1.0, "learning_rate": schedules.Polynomial(0.01), "max_iter": 5, "random_state": 0}
    model = cls(hidden_layer_sizes=(4,), **params, callbacks=[*ready, Diary(stop_after=3)]).fit(
        X, y, validation_data=(X, y)
    )
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{name: float(value) for name, value in row.items()} for row in rows] == lines
    columns = {name: [line[name] for line in lines] for name in lines[0]}
    assert columns.pop("epoch") == columns.pop("step") == [1, 2, 3]
    assert columns.pop("loss") == model.loss_curve_
    assert columns.pop("validation_loss") == model.validation_loss_curve_
    assert columns.pop("metric") == model.validation_scores_
    assert columns.pop("gradient_norm") == model.gradient_norm_curve_
    assert columns.pop("learning_rate") == pytest.approx([0.01, 0.008, 0.006])
    assert min(columns.pop("seconds")) > 0
    assert columns == {}
    assert "3/5" in screen.getvalue()
    assert screen.getvalue().endswith("\n")
