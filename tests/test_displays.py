"""Pictures of health: what is drawn and where it comes from, that all of it is seen, and that legends hide nothing."""

import math
import re
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image, pyplot
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import cymlp
from cymlp import displays, losses, optimizers
from cymlp.activations import Activation
from cymlp.engine import MONITORED
from cymlp.health import DataSummary, Evidence, HealthReport, Records


def _report(n_layers=3, steps=(1, 2, 4, 8, 100), loss=(2.0, 1.0), **columns):
    """A report of ones, but for some columns, as training with inputs of size 1 would leave it."""
    values = np.ones((len(steps), n_layers + 1, len(MONITORED)))
    columns["update"] = columns.pop("update_ratio", 1.0)
    for i, name in enumerate(MONITORED):
        values[:, :, i] = columns.pop(name, 1.0)
        if name in ("gradient", "weight", "update", "twins"):
            values[:, 0, i] = np.nan
        if name in ("zero", "dead", "saturated"):
            values[:, -1, i] = np.nan
    assert not columns
    ones = np.ones(4)
    evidence = Evidence(
        records=Records(np.array(steps), np.zeros(len(steps), int), values),
        history={"loss": list(loss), "validation_loss": []},
        layer_sizes=(4,) * (n_layers + 1),
        activations=(Activation("relu"),) * (n_layers - 1) + (Activation("identity"),),
        initializers=("he_normal",) * n_layers,
        gain=1.0,
        normalizations=(None,) * (n_layers - 1),
        loss=losses.get("squared_error"),
        dtype=np.dtype("float32"),
        optimizer=optimizers.SGD(),
        learning_rate=0.01,
        batch_size=10,
        n_rows=100,
        dropout=(),
        class_weight=False,
        sample_weight=False,
        clipping=False,
        diverged=None,
        data=DataSummary(100, 0 * ones, ones, 0, None, None, 0 * ones, ones, 1.5),
    )
    return HealthReport(evidence)


def _axes():
    return Figure(figsize=(4.8, 3.6), layout="constrained").subplots()


LAYERED = [displays.GradientFlowDisplay, displays.ActivationDisplay]
STEPPED = [displays.UpdateRatioDisplay, displays.DeadUnitsDisplay]
OF_REPORTS = [*LAYERED, *STEPPED, displays.LossCurveDisplay, displays.ForecastDisplay]


# ---- What is drawn ----


def test_gradients_and_activations_are_root_mean_squares_of_the_first_a_middle_and_the_last_record():
    squares = np.arange(1.0, 6)[:, None] ** 2 * np.array([1.0, 4, 9, 16])
    display = displays.GradientFlowDisplay.from_report(_report(gradient=squares), ax=_axes())
    assert [line.get_label() for line in display.lines_] == ["step 1", "step 4", "step 100"]
    for line, factor in zip(display.lines_, (1, 3, 5), strict=True):
        np.testing.assert_array_equal(line.get_xydata(), [[1, 2 * factor], [2, 3 * factor], [3, 4 * factor]])
    display = displays.ActivationDisplay.from_report(_report(activation=squares), ax=_axes(), n_lines=1)
    (line,) = display.lines_
    np.testing.assert_array_equal(line.get_xydata(), [[0, 5], [1, 10], [2, 15], [3, 20]])
    assert line.get_label() == "step 100"


@pytest.mark.parametrize(("display", "column", "factor"), [(STEPPED[0], "update_ratio", 1), (STEPPED[1], "dead", 100)])
def test_updates_and_dead_units_are_a_line_for_each_layer(display, column, factor):
    values = np.arange(20.0).reshape(5, 4) / 20
    drawn = display.from_report(_report(**{column: values}), ax=_axes())
    layers = (1, 2, 3) if column == "update_ratio" else (1, 2)
    assert [line.get_label() for line in drawn.lines_] == [f"layer {layer}" for layer in layers]
    for line, layer in zip(drawn.lines_, layers, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [1, 2, 4, 8, 100])
        np.testing.assert_allclose(line.get_ydata(), factor * values[:, layer])


@pytest.mark.parametrize(("display", "column"), [(STEPPED[0], "update_ratio"), (STEPPED[1], "dead")])
def test_many_layers_are_a_picture_of_colors(display, column):
    values = np.arange(5.0 * 153).reshape(5, 153) / 1000
    drawn = display.from_report(_report(152, **{column: values}), ax=_axes())
    assert drawn.lines_ == []
    last = 152 if column == "dead" else 153
    shown = drawn.mesh_.get_array() / (100 if column == "dead" else 1)
    np.testing.assert_allclose(shown, values[:, 1:last].T)
    assert drawn.ax_.get_ylim() == (0.5, last - 0.5)
    assert drawn.colorbar_.ax.get_ylabel() != ""


def test_losses_are_drawn_with_what_a_constant_prediction_reaches():
    display = displays.LossCurveDisplay.from_report(_report(), ax=_axes())
    np.testing.assert_array_equal(display.lines_[0].get_xydata(), [[1, 2], [2, 1]])
    assert [line.get_label() for line in display.ax_.lines] == ["training", "best constant"]


def test_a_forecast_is_drawn_with_its_bands_and_what_the_first_step_has_measured():
    gradient = np.array([np.nan, 16.0, 9, 4])
    report = _report(activation=4.0, gradient=gradient)
    display = displays.ForecastDisplay.from_report(report, ax=_axes())
    assert [line.get_label() for line in display.lines_] == ["activation, forecast", "gradient, forecast"]
    activations, gradients = display.points_
    np.testing.assert_array_equal(activations.get_xydata(), [[0, 2], [1, 2], [2, 2], [3, 2]])
    np.testing.assert_array_equal(gradients.get_xydata(), [[1, 2], [2, 1.5], [3, 1]])
    assert len(display.bands_) == 2
    expected = report.forecast
    np.testing.assert_allclose(display.lines_[0].get_ydata(), expected.activation_scale)
    for band, limits in zip(display.bands_, (expected.activation_band, expected.gradient_band), strict=True):
        drawn = band.get_paths()[0].vertices[:, 1]
        assert (drawn.min(), drawn.max()) == pytest.approx((limits.min(), limits.max()))


def test_a_forecast_is_of_the_size_that_inputs_have():
    report = _report()
    report.evidence.data.input_std *= 3
    report.evidence.data.input_mean += 4
    display = displays.ForecastDisplay.from_report(report, ax=_axes())
    np.testing.assert_allclose(display.lines_[0].get_ydata(), 5 * report.forecast.activation_scale)
    report.evidence.data = None
    display = displays.ForecastDisplay.from_report(report, ax=_axes())
    np.testing.assert_allclose(display.lines_[0].get_ydata(), report.forecast.activation_scale)


def test_a_forecast_that_has_measured_nothing_has_no_points():
    later = displays.ForecastDisplay.from_report(_report(steps=(200, 400)), ax=_axes())
    assert later.points_ == []  # not of the network as it was drawn
    vanishing = cymlp.forecast([4] * 400, initializer="xavier")
    alone = displays.ForecastDisplay.from_forecast(vanishing, ax=_axes())
    assert alone.points_ == []
    names = [text.get_text() for text in alone.ax_.get_legend().get_texts()]
    assert names[1] == f"underflow: layer {vanishing.underflow_layer}"
    measured = cymlp.forecast([4, 4, 4, 4]).measure(random_state=0)
    drawn = displays.ForecastDisplay.from_forecast(measured, ax=_axes())
    np.testing.assert_array_equal(drawn.points_[1].get_ydata(), measured.measured_gradient_scale)


# ---- What an axis cannot hold ----


@pytest.mark.parametrize("display", LAYERED)
def test_zeros_have_a_place_on_the_axis(display):
    column = "gradient" if display is LAYERED[0] else "activation"
    drawn = display.from_report(_report(**{column: [1.0, 0, 0, 1e-20]}), ax=_axes())
    assert drawn.ax_.get_yscale() == "symlog"
    assert 0 in drawn.ax_.get_yticks()
    low, high = drawn.ax_.get_ylim()
    assert low < 0 < 1e-10 < high
    # The least positive number stands clear of them.
    places = drawn.ax_.transData.transform([(0, 0), (0, 1e-10)])[:, 1]
    assert places[1] - places[0] > 5


@pytest.mark.parametrize("display", OF_REPORTS[:4])
@pytest.mark.parametrize("n_layers", [3, 30])
def test_nothing_but_zeros_is_drawn(display, n_layers):
    zeros = dict.fromkeys(("gradient", "activation", "update_ratio", "dead"), 0.0)
    drawn = display.from_report(_report(n_layers, **zeros), ax=_axes())
    drawn.figure_.draw_without_rendering()
    assert drawn.lines_ or drawn.mesh_ is not None


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_what_is_not_finite_is_crossed(broken):
    gradient = np.array([[1.0] * 4, [1, 1, broken, 1], [1, broken, broken, 1]])
    display = displays.GradientFlowDisplay.from_report(_report(steps=(1, 2, 3), gradient=gradient), ax=_axes())
    crosses = [line for line in display.ax_.lines if line.get_marker() == "x"]
    assert [line.get_xdata().tolist() for line in crosses] == [[2], [1, 2]]
    assert len({float(line.get_ydata()[0]) for line in crosses}) == 2
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == [
        *("step 1", "step 2", "step 3"),
        "not finite",
    ]


def test_what_is_exactly_zero_or_not_finite_has_colors_of_its_own():
    ratio = np.ones((5, 31))
    ratio[0, 5], ratio[1, 6], ratio[2, 7] = 0, np.nan, np.inf
    display = displays.UpdateRatioDisplay.from_report(_report(30, update_ratio=ratio), ax=_axes())
    display.figure_.draw_without_rendering()
    names = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert names == ["exactly 0", "not finite"]
    colors = display.mesh_.get_facecolors().reshape(30, 5, 4)
    assert colors[4, 0].tolist() == [1, 1, 1, 1]
    np.testing.assert_array_equal(colors[5, 1], colors[6, 2])
    assert not np.array_equal(colors[5, 1], colors[0, 0])


@pytest.mark.parametrize("loss", [[1.0, np.nan], [np.inf, 1.0], [np.nan]])
def test_losses_that_are_not_finite_are_crossed(loss):
    display = displays.LossCurveDisplay(loss=loss).plot(_axes())
    display.figure_.draw_without_rendering()
    (crosses,) = [line for line in display.ax_.lines if line.get_marker() == "x"]
    assert crosses.get_xdata().tolist() == [i + 1 for i, value in enumerate(loss) if not math.isfinite(value)]


@pytest.mark.parametrize("size", [1e-320, 1e-150, 1e150, 1e300])
def test_numbers_at_the_ends_of_the_range_are_drawn(size):
    for values in ([size] * 4, [1.0, size, 0.0, 1.0], [1 / max(size, 1e-300), size, 1.0, 1.0]):
        display = displays.ActivationDisplay(steps=[1], activation=[values]).plot(_axes())
        display.figure_.draw_without_rendering()
        assert np.isfinite(display.ax_.get_ylim()).all()


# ---- Legends hide nothing ----

SITUATIONS = {
    "healthy": {"gradient": np.array([1.0, 2, 1.5, 1.2]), "activation": np.array([1.0, 1, 1, 2])},
    "peaks": {"gradient": np.array([1.0, 1e9, 1, 1e9]), "activation": np.array([1e9, 1, 1, 1e9])},
    "zeros": {"gradient": np.array([1.0, 1, 0, 1]), "activation": np.array([1.0, 0, 0, 1]), "update_ratio": 0.0},
    "diverged": {
        "gradient": np.array([[1.0] * 4, [np.nan] * 4]),
        "activation": np.array([[1.0] * 4, [1, 1e9, np.inf, 1]]),
    },
    "dead": {"dead": 1.0, "update_ratio": np.array([[0.0, 1, 0, 1e-9]] * 2)},
}


@pytest.mark.parametrize("display", [*OF_REPORTS[:4], displays.ForecastDisplay])
@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("size", [(4.8, 3.6), (6.4, 4.8), (3.2, 2.4)])
def test_legends_hide_nothing(display, situation, size):
    ax = Figure(figsize=size, layout="constrained").subplots()
    drawn = display.from_report(_report(steps=(1, 2), **SITUATIONS[situation]), ax=ax)
    drawn.figure_.draw_without_rendering()
    box = ax.get_legend().get_window_extent()
    for line in [*drawn.lines_, *getattr(drawn, "points_", ()), *(one for one in ax.lines if one.get_marker() == "x")]:
        points = line.get_transform().transform(np.array(line.get_xydata(), dtype=float))
        points = points[np.isfinite(points).all(axis=1)]
        assert not (points[:, 1] > box.y0).any(), line.get_label()


def _luminance(color):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("style", ["default", "dark_background"])
@pytest.mark.parametrize("display", OF_REPORTS)
def test_lines_are_seen_on_white_and_on_black(display, style):
    with pyplot.style.context(style):
        drawn = display.from_report(_report(7), ax=_axes())
        paper = _luminance(drawn.ax_.get_facecolor())
        for line in drawn.lines_:
            low, high = sorted((paper, _luminance(line.get_color())))
            assert (high + 0.05) / (low + 0.05) > 1.9  # the contrast of WCAG 2


# ---- In the manner of Display classes ----


@pytest.mark.parametrize("display", OF_REPORTS)
@pytest.mark.parametrize("steps", [(1,), (1, 2), (1, 2, 4, 8, 200)])
@pytest.mark.parametrize("n_layers", [1, 2, 3, 152])
def test_displays_keep_what_they_have_drawn_and_draw_it_again(display, steps, n_layers):
    ax = _axes()
    drawn = display.from_report(_report(n_layers, steps), ax=ax)
    assert isinstance(drawn, display)
    assert (drawn.ax_, drawn.figure_) == (ax, ax.figure)
    assert ax.get_xlabel() != ""
    assert ax.get_ylabel() != ""
    other = _axes()
    assert drawn.plot(other) is drawn
    assert drawn.ax_ is other
    assert [line.get_xydata().tolist() for line in other.lines] == [line.get_xydata().tolist() for line in ax.lines]
    other.figure.draw_without_rendering()


@pytest.mark.parametrize("display", OF_REPORTS)
def test_two_displays_fit_one_pair_of_axes(display):
    ax = _axes()
    display.from_report(_report(), ax=ax)
    high = display.from_report(_report(gradient=1e12, activation=1e12, update_ratio=1e6, loss=[1e6, 1e5]), ax=ax)
    top = ax.get_ylim()[1]
    assert all(line.get_ydata().max() <= top for line in high.lines_)


def test_lines_take_keywords_of_matplotlib():
    for display in (*LAYERED, *STEPPED, displays.LossCurveDisplay, displays.ForecastDisplay):
        drawn = display.from_report(_report(), ax=_axes(), line_kw={"alpha": 0.5, "linewidth": 7})
        assert {(line.get_alpha(), line.get_linewidth()) for line in drawn.lines_} == {(0.5, 7)}
    mesh = displays.DeadUnitsDisplay.from_report(_report(30), ax=_axes(), mesh_kw={"cmap": "gray"}).mesh_
    assert mesh.get_cmap().name == "gray"
    bands = displays.ForecastDisplay.from_report(_report(), ax=_axes(), band_kw={"alpha": 0.5}).bands_
    assert {band.get_alpha() for band in bands} == {0.5}


def test_without_axes_a_figure_is_pyplots():
    drawn = displays.GradientFlowDisplay.from_report(_report())
    assert pyplot.gcf() is drawn.figure_
    pyplot.close(drawn.figure_)


def test_a_report_without_records_and_a_wrong_number_of_lines_are_refused():
    for display in OF_REPORTS[:4]:
        with pytest.raises(ValueError, match=f"report must have a record of a step for {display.__name__}; got none"):
            display.from_report(_report(steps=()), ax=_axes())
    with pytest.raises(ValueError, match="n_lines must be at least 1; got 0"):
        displays.GradientFlowDisplay.from_report(_report(), ax=_axes(), n_lines=0)


def test_estimators_that_have_not_been_fitted_or_are_not_ours_are_refused():
    for display in OF_REPORTS:
        with pytest.raises(NotFittedError):
            display.from_estimator(cymlp.MLPClassifier())
    theirs = Ridge().fit([[0.0], [1.0]], [0, 1])
    with pytest.raises(TypeError, match="estimator must be one of cymlp's, with health_, or hold one; got Ridge"):
        displays.GradientFlowDisplay.from_estimator(theirs)


def test_matplotlib_is_imported_when_something_is_drawn():
    code = "import sys; from cymlp import GradientFlowDisplay, displays; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- Of what was trained ----

X = np.random.default_rng(0).standard_normal((60, 4))
Y = (X[:, 0] > 0).astype(int)


def _classifier(**parameters):
    return cymlp.MLPClassifier((8, 8), max_iter=3, n_iter_no_change=10, random_state=0, **parameters)


@pytest.fixture(scope="module")
def fitted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return _classifier().fit(X, Y)


@pytest.mark.parametrize("display", OF_REPORTS)
def test_displays_are_made_of_fitted_estimators(display, fitted):
    drawn = display.from_estimator(fitted, ax=_axes())
    again = display.from_report(fitted.health_, ax=_axes())
    for line, other in zip(drawn.ax_.lines, again.ax_.lines, strict=True):
        np.testing.assert_array_equal(line.get_xydata(), other.get_xydata())
    assert drawn.lines_


@pytest.mark.parametrize("display", [*LAYERED, displays.LossCurveDisplay])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_estimators_may_be_inside_others(display):
    holders = (
        make_pipeline(StandardScaler(), _classifier()),
        GridSearchCV(make_pipeline(StandardScaler(), _classifier()), {"mlpclassifier__alpha": [1e-4]}, cv=2),
        TransformedTargetRegressor(cymlp.MLPRegressor(hidden_layer_sizes=(8,), max_iter=3, random_state=0)),
    )
    for holder in holders:
        assert display.from_estimator(holder.fit(X, Y), ax=_axes()).lines_


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_estimators_that_were_not_watched_have_losses_alone():
    estimator = _classifier(health=False).fit(X, Y)
    for display in (*LAYERED, *STEPPED, displays.ForecastDisplay):
        with pytest.raises(AttributeError, match="health=True"):
            display.from_estimator(estimator)
    drawn = displays.LossCurveDisplay.from_estimator(estimator, ax=_axes())
    assert [line.get_label() for line in drawn.ax_.lines] == ["training"]


@pytest.mark.parametrize("display", [*LAYERED, *STEPPED, displays.LossCurveDisplay])
def test_displays_are_made_of_what_train_returned(display):
    network = cymlp.MLP([4, 8, 8, 1], random_state=0)
    validation = (X[:10], X[:10, :1])
    history = network.train(X, X[:, :1], epochs=3, validation_data=validation, health=True)
    assert display.from_history(history, ax=_axes()).lines_
    bare = network.train(X, X[:, :1], epochs=3, validation_data=validation)
    if display is displays.LossCurveDisplay:
        drawn = display.from_history(bare, ax=_axes())
        names = [line.get_label() for line in drawn.ax_.lines]
        assert names == ["training", "validation", f"best epoch: {bare.best_epoch}"]
    else:
        with pytest.raises(ValueError, match=r"history must have health; pass health=True to MLP\.train"):
            display.from_history(bare)


@pytest.mark.parametrize("display", OF_REPORTS[:4])
def test_runs_that_diverge_are_drawn(display):
    network = cymlp.MLP([4, 8, 8, 1], random_state=0)
    with pytest.raises(cymlp.DivergenceError):
        network.train(X, X[:, :1], epochs=3, optimizer=optimizers.SGD(1e6), health=1)
    drawn = display.from_history(network.history_, ax=_axes())
    drawn.figure_.draw_without_rendering()
    assert drawn.lines_


# ---- All of it ----


def test_losses_of_a_run_that_nothing_is_known_of_are_drawn(tmp_path):
    """A bad row among those of the sample: training tells of it when it comes to it, after a time."""
    network = cymlp.MLP([2, 3, 1])
    np.save(tmp_path / "X.npy", np.full((8, 2), np.nan))
    with pytest.raises(ValueError, match="finite"):
        network.train(np.load(tmp_path / "X.npy", mmap_mode="r"), np.zeros(8), health=True)
    history = network.history_
    assert history.health.evidence.data is None
    history.loss.append(1.0)
    for display in (
        displays.LossCurveDisplay.from_history(history, ax=_axes()),
        displays.LossCurveDisplay.from_report(history.health, ax=_axes()),
    ):
        assert display.base_loss is None
        assert len(display.lines_) == 1


def test_the_overview_has_a_panel_for_what_there_is(tmp_path):
    assert len(displays.health_figure(_report()).axes) == 6
    assert len(displays.health_figure(_report(1)).axes) == 5  # no hidden layers that could be dead
    assert len(displays.health_figure(_report(steps=(), loss=())).axes) == 1
    displays.save_health_figure(tmp_path / "a.png", _report(152), "a title")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="path must end in"):
        displays.save_health_figure(tmp_path / "a.bmp", _report())


# ---- docs/pictures.md ----


def test_the_page_draws_its_pictures(tmp_path, monkeypatch):
    folder = Path(__file__).parent.parent / "docs"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        runpy.run_path(str(folder / "course" / "run.py"))["run"](folder / "pictures.md")
    drawn = {path.name: image.imread(path).shape for path in (tmp_path / "images").iterdir()}
    assert drawn == {path.name: image.imread(path).shape for path in (folder / "images").iterdir()}
    shown = re.findall(r"!\[[^]]{20,}\]\(images/([^)]+)\)", (folder / "pictures.md").read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(drawn)
