"""Forecasts and reports in words: what is told, within how many columns, and HTML that does nothing but stand there."""

import types
from html.parser import HTMLParser

import numpy as np
import pytest

from cymlp.health import text

DEEP = (64, *[100] * 151, 10)


def _forecast(layer_sizes=(784, 256, 10), factor=1.0, **attributes):
    """What a `Forecast` has: gradients shrink by a factor in each layer, on their way back."""
    last = len(layer_sizes) - 1
    gradient = factor ** np.arange(last, -1.0, -1.0)
    depth = np.inf if factor == 1 else 1 / abs(np.log(factor))
    said = {
        "layer_sizes": layer_sizes,
        "activations": ("relu",) * (last - 1) + ("identity",),
        "initializers": ("he_normal",) * (last - 1) + ("xavier",),
        "dtype": "float32",
        "activation_scale": np.ones(last + 1),
        "activation_band": np.array([[0.5], [2.0]]) * np.ones(last + 1),
        "gradient_scale": gradient,
        "gradient_band": np.array([[0.5], [2.0]]) * gradient,
        "forward_depth_scale": np.inf,
        "gradient_depth_scale": depth,
        "correlation_depth_scale": np.inf,
        "trainable_depth": 6 * depth,
        "dead_share": np.zeros(last + 1),
        "dead_network": 0.0,
        "underflow_layer": None,
        "overflow_layer": None,
        "verdict": "Healthy: sizes are kept" if factor == 1 else "Vanishing: layer 1 has nothing left",
    }
    return types.SimpleNamespace(**said | attributes)


def _report(layer_sizes=(784, 256, 10), steps=(1, 2, 200), findings=(), **attributes):
    shape = (len(steps), len(layer_sizes))
    columns = dict.fromkeys(("activation", "gradient", "weight"), np.full(shape, 4.0))
    columns |= dict.fromkeys(("zero", "dead", "saturated", "twins"), np.full(shape, 0.25))
    columns |= {"steps": np.array(steps), "update_ratio": np.full(shape, 1e-3)}
    evidence = types.SimpleNamespace(
        layer_sizes=layer_sizes,
        history={"loss": [2.25, 0.5], "validation_loss": [], **attributes.pop("history", {})},
        data=types.SimpleNamespace(base_loss=2.5),
        diverged=attributes.pop("diverged", None),
    )
    said = {"records": _Records(columns), "findings": findings, "is_healthy": not findings, "evidence": evidence}
    return types.SimpleNamespace(**said | {"forecast": _forecast(layer_sizes)} | attributes)


class _Records:
    def __init__(self, columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns["steps"])

    def __getattr__(self, name):
        return self.columns[name]


def _finding(**attributes):
    said = {"rule": "dead units", "message": "all are dead", "layers": (1, 2), "since": 8, "reason": "no gradient"}
    return types.SimpleNamespace(**said | {"change": "activation='leaky_relu'"} | attributes)


def _row(written, first):
    return next(line.split() for line in written.splitlines() if line.split()[:1] == [str(first)])


# ---- What is told ----


def test_a_forecast_is_told_by_layer():
    written = text.forecast_text(_forecast(dead_share=np.array([0, 0.125, 0])))
    assert written.startswith("Forecast for 784-256-10, relu, he_normal, xavier: healthy\n")
    assert "sizes are kept" in written
    assert "any depth; this network has 2" in written
    assert _row(written, 1) == ["1", "256", "1", "0.5..2", "1", "0.5..2", "12.5"]
    assert "measured" not in written


def test_a_forecast_tells_what_was_measured_beside_it():
    measured = {"measured_activation_scale": np.full(3, 0.75), "measured_gradient_scale": np.full(3, 1.5)}
    written = text.forecast_text(_forecast(**measured))
    assert _row(written, 1) == ["1", "256", "1", "0.5..2", "0.75", "1", "0.5..2", "1.5", "0"]


def test_a_forecast_tells_how_deep_networks_may_be_and_where_numbers_end():
    deep = _forecast(DEEP, 0.5, underflow_layer=26, overflow_layer=140, dead_network=0.25)
    written = text.forecast_text(deep)
    assert "Forecast for 64-100x151-10, relu, he_normal, xavier: vanishing" in written
    assert "gradients 1.44 layers" in written
    assert "8.66 layers; this network has 152" in written
    assert "the whole network with probability 0.25" in written
    assert "of float32 at layer 26" in written
    assert "of float32 at layer 140" in written


def test_a_report_tells_its_findings_in_order():
    findings = (_finding(), _finding(rule="still layers", layers=(), since=None, message="nothing moves", change=""))
    written = text.report_text(_report(findings=findings))
    assert "Health up to step 200: 2 findings" in written
    assert written.index("1. dead units, layers 1, 2, since step 8\n") < written.index("2. still layers\n")
    assert written.count("change ") == 1
    assert "forecast  Healthy: sizes are kept" in written
    assert "2.25 in epoch 1, 0.5 in epoch 2; best constant prediction 2.5" in written
    assert _row(written, 1) == ["1", "256", "2", "2", *["25.0"] * 4, "4", "0.001"]


def test_a_report_of_a_healthy_run_says_so():
    written = text.report_text(_report(history={"loss": [0.5], "validation_loss": [0.75]}))
    assert written.startswith("Health up to step 200: healthy, nothing found\n")
    assert "0.5 in epoch 1, 0.75 in validation" in written


def test_a_report_of_a_run_that_diverged_before_anything_was_seen():
    diverged = ArithmeticError("the loss is infinite")
    report = _report(steps=(), history={"loss": []}, diverged=diverged, findings=(_finding(),), forecast=None)
    written = text.report_text(report)
    assert written.startswith("Health before the first step: 1 finding\n")
    assert "the loss is infinite" in written
    assert "Measured" not in written


def test_what_is_not_finite_is_written_and_what_is_not_defined_is_not():
    report = _report()
    report.records.columns["gradient"] = np.array([[np.nan, np.nan, np.inf]] * 3)
    report.records.columns["dead"] = np.array([[0, 1, np.nan]] * 3)
    written = text.report_text(report)
    assert _row(written, 0) == ["0", "784", "2", "25.0", "0", "25.0", "25.0"]
    assert _row(written, 1)[3:6] == ["nan", "25.0", "100"]
    assert _row(written, 2) == ["2", "10", "2", "inf", *["25.0"] * 3, "4", "0.001"]


@pytest.mark.parametrize("layer_sizes", [(3, 1), (784, 256, 10), DEEP, (100000, *range(100, 130), 100000)])
def test_texts_fit_a_terminal_whatever_is_in_them(layer_sizes):
    n = len(layer_sizes)
    tiny = np.full(n, 1.23e-123)
    bands = dict.fromkeys(("activation_band", "gradient_band"), np.array([tiny, tiny]))
    scales = ("activation_scale", "gradient_scale", "measured_activation_scale", "measured_gradient_scale")
    forecast = _forecast(layer_sizes, **dict.fromkeys(scales, tiny), **bands, dead_share=np.full(n, 0.9999))
    forecast.verdict = "Vanishing: " + "the gradient is gone " * 20
    report = _report(layer_sizes, findings=(_finding(message="word " * 100, layers=range(1, 200, 2)),))
    report.records.columns = {name: column * 1e-100 for name, column in report.records.columns.items()}
    report.records.columns["steps"] = np.array([1, 2, 10**9])
    for written in (text.forecast_text(forecast), text.report_text(report)):
        assert max(map(len, written.splitlines())) <= 100
        assert len(written.splitlines()) < 40


# ---- Words ----


@pytest.mark.parametrize(
    ("layer_sizes", "words"),
    [
        ((3, 1), "3-1"),
        ((5, 5, 5, 1), "5-5-5-1"),
        ((5, 5, 5, 5, 1), "5x4-1"),
        (DEEP, "64-100x151-10"),
        (tuple(range(1, 15)), "1-2-3-4-5-6-...-10-11-12-13-14"),
    ],
)
def test_sizes_are_counted_where_they_repeat(layer_sizes, words):
    assert text.sizes(layer_sizes) == words


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ((), ""),
        ((3,), "layer 3"),
        ((2, 1), "layers 1, 2"),
        ((1, 2, 3, 9), "layers 1 to 3, 9"),
        (range(1, 40, 2), "layers 1, 3, 5, 7, 9, 11, 13, 15, ..."),
    ],
)
def test_layers_are_told_in_ranges(layers, words):
    assert text.layer_ranges(layers) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (0.012345, "0.0123"),
        (99.96, "100"),
        (1234.5, "1234"),
        (12345.6, "1.2e+04"),
        (1.23e-45, "1.2e-45"),
        (np.nan, "nan"),
        (np.inf, "inf"),
    ],
)
def test_numbers_have_few_digits(value, words):
    assert text.number(value) == words


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.0, "0"), (1.0, "100"), (1e-5, "<0.1"), (0.99999, ">99.9"), (0.125, "12.5"), (np.nan, "")],
)
def test_a_share_is_none_or_all_only_where_it_is(share, words):
    assert text.percent(share) == words


# ---- Which layers ----


@pytest.mark.parametrize("n_layers", [2, 14, 15, 153])
def test_layers_that_are_shown_are_in_order_from_the_first_to_the_last(n_layers):
    layers = text.telling_layers(n_layers, np.ones(n_layers))
    assert layers == sorted(set(layers))
    assert (layers[0], layers[-1], len(layers)) == (0, n_layers - 1, min(n_layers, 14))


def test_layers_that_are_shown_are_those_where_something_happens():
    column = np.ones(153)
    column[40], column[90], column[111] = 1e-9, 1e9, np.inf
    layers = text.telling_layers(153, column, np.full(153, np.nan), marked=(77, 700))
    assert {1, 40, 76, 77, 90, 111, 151} <= set(layers)
    assert len(layers) == 14


def test_gaps_between_layers_are_filled_evenly():
    gaps = np.diff(text.telling_layers(153, np.arange(153)))
    assert gaps.max() <= 2 * np.median(gaps)


# ---- HTML ----


class _Reader(HTMLParser):
    """Elements that are open, what is forbidden, and the words."""

    def __init__(self):
        super().__init__()
        self.open, self.names, self.attributes, self.words = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.names.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def _read(html):
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


HOSTILE = "<script>alert('1')</script> & \"<img src=x onerror=y>\""


@pytest.mark.parametrize(
    "html",
    [
        text.forecast_html(_forecast()),
        text.forecast_html(_forecast(DEEP, 0.25, verdict=f"Vanishing: {HOSTILE}", underflow_layer=3)),
        text.report_html(_report()),
        text.report_html(
            _report(
                DEEP,
                findings=(_finding(rule=HOSTILE, message=HOSTILE, reason=HOSTILE, change=HOSTILE),),
                diverged=ArithmeticError(HOSTILE),
            )
        ),
    ],
)
def test_html_is_well_formed_and_self_contained_and_fits_any_background(html):
    reader = _read(html)
    assert not {"script", "link", "img", "iframe", "svg", "object"} & set(reader.names)
    assert not [name for name, _ in reader.attributes if name.startswith("on") or name in ("src", "href", "id")]
    style = html.partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    # No color of text or background that could be unreadable on the notebook's.
    assert "background:none" in style
    assert "color:inherit" in style
    assert len(html) < 20000


def test_html_says_what_the_text_says():
    report = _report(findings=(_finding(message=HOSTILE),))
    words = " ".join(_read(text.report_html(report)).words)
    for line in ("Health up to step 200: 1 finding", "1. dead units, layers 1, 2, since step 8", HOSTILE, "step/norm"):
        assert line in words


def test_html_tells_screen_readers_what_is_what():
    reader = _read(text.report_html(_report()))
    assert ("aria-label", "Health report") in reader.attributes
    assert reader.names.count("caption") == 1
    scopes = [value for name, value in reader.attributes if name == "scope"]
    assert scopes == [*["colgroup"] * 3, *["col"] * 10, *["row"] * 3]
