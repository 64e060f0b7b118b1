"""Forecasts and health reports in words: the same description as text of at most 100 columns, and as HTML.

The HTML needs no scripts and nothing from elsewhere, and takes its colors from the notebook, light or dark.
"""

import math
import textwrap
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np

__all__ = ["forecast_html", "forecast_text", "layer_ranges", "report_html", "report_text", "sizes", "telling_layers"]

WIDTH = 100  # columns of a text
ROWS = 14  # of a table: with what stands around it, it fits a terminal
_RARE = 1e-3  # a smaller probability is not worth a line


def forecast_text(forecast):
    """What `str` makes of a `Forecast`."""
    return _text(_forecast(forecast))


def forecast_html(forecast):
    """What a notebook shows of a `Forecast`."""
    return _html(_forecast(forecast), "Forecast")


def report_text(report):
    """What `str` makes of a `HealthReport`."""
    return _text(_report(report))


def report_html(report):
    """What a notebook shows of a `HealthReport`."""
    return _html(_report(report), "Health report")


# ---- Words ----


def sizes(layer_sizes):
    """Sizes of layers, equal neighbors counted: "784-100x150-10", which is 150 layers of 100 units.

    Parameters
    ----------
    layer_sizes : sequence of int

    Returns
    -------
    str
        With "..." instead of the middle where the sizes vary over more than 12 layers.
    """
    runs = []
    for size in layer_sizes:
        if runs and runs[-1][0] == size:
            runs[-1][1] += 1
        else:
            runs.append([size, 1])
    # Two or three equal ones are read faster than counted.
    words = [word for size, n in runs for word in ([f"{size}x{n}"] if n > 3 else [str(size)] * n)]
    if len(words) > 12:
        words[6:-5] = ["..."]
    return "-".join(words)


def layer_ranges(layers):
    """Numbers of layers in words: "layer 3", "layers 1 to 4, 9", "" for none.

    Parameters
    ----------
    layers : iterable of int

    Returns
    -------
    str
    """
    runs = []
    for layer in sorted(set(layers)):
        if runs and runs[-1][1] == layer - 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    words = [str(a) if a == b else f"{a}, {b}" if a == b - 1 else f"{a} to {b}" for a, b in runs]
    if len(words) > 8:
        words[8:] = ["..."]
    return f"layer{'s' if any(a != b for a, b in runs) or len(runs) > 1 else ''} {', '.join(words)}" if runs else ""


def telling_layers(n_layers, *columns, marked=(), limit=ROWS):
    """The layers that tell what there is to tell of a long network.

    Parameters
    ----------
    n_layers : int
        Rows there are, from 0.
    *columns : array-like of shape (n_layers,)
        By which layers are chosen: those of the least and of the largest number, and the first that is not finite.
    marked : iterable of int
        Layers to show before others.
    limit : int, default 14
        Rows to show.

    Returns
    -------
    list of int
        Ascending: all where there are no more than `limit`.
    """
    if n_layers <= limit:
        return list(range(n_layers))
    wanted = [0, n_layers - 1, 1, n_layers - 2]
    for layer in sorted(set(marked)):
        wanted += [layer, layer - 1]  # where something begins: with the last row before
    for column in columns:
        column = np.asarray(column, dtype=float)
        finite = np.isfinite(column)
        if finite.any():
            wanted += [int(np.where(finite, column, np.inf).argmin()), int(np.where(finite, column, -np.inf).argmax())]
        broken = np.flatnonzero(np.isinf(column))
        wanted += broken[:1].tolist()
    chosen = list(dict.fromkeys(layer for layer in wanted if 0 <= layer < n_layers))[:limit]
    while len(chosen) < limit:  # the rest where the gaps are widest
        shown = sorted(chosen)
        below, above = max(pairwise(shown), key=lambda pair: pair[1] - pair[0])
        chosen.append((below + above) // 2)
    return sorted(chosen)


def number(value):
    """Two or three digits: "0.0123", "1234", "1.2e-05"."""
    size = abs(value)
    if not math.isfinite(value) or value == 0:
        return f"{value:.0f}"
    if 99.95 <= size < 9999.5:
        return f"{value:.0f}"
    return f"{value:.3g}" if 1e-3 <= size < 100 else f"{value:.1e}"


def percent(share):
    """A share in percent, without the sign; nothing where it is not defined."""
    if math.isnan(share):
        return ""
    if share in (0, 1):
        return f"{100 * share:.0f}"
    return "<0.1" if share < 0.001 else ">99.9" if share > 0.999 else f"{100 * share:.1f}"


def _band(low, high):
    return "" if math.isnan(low) and math.isnan(high) else f"{_short(low)}..{_short(high)}"


def _short(value):
    return f"{value:.2g}" if 0.01 <= abs(value) < 100 else number(value)


def _distinct(names):
    return dict.fromkeys(names)


def _layers(depth):
    return "any depth" if math.isinf(depth) else f"{number(depth)} layers"


# ---- What there is to say: a list of blocks ----


@dataclass(frozen=True)
class Title:
    text: str
    good: bool


@dataclass(frozen=True)
class Pairs:
    """Short names, and what is said about each; `title` stands above them."""

    title: str
    pairs: tuple


@dataclass(frozen=True)
class Table:
    """Columns with a head each; `groups` are (head, columns) above these."""

    caption: str
    groups: tuple
    heads: tuple
    rows: tuple  # of cells


def _forecast(forecast):
    n_layers = len(forecast.layer_sizes)
    kind, _, reason = forecast.verdict.partition(":")
    drawn = (*_distinct(forecast.activations[:-1]), *_distinct(forecast.initializers))
    yield Title(f"Forecast for {', '.join((sizes(forecast.layer_sizes), *drawn))}: {kind.lower()}", kind == "Healthy")
    pairs = [("verdict", (reason or forecast.verdict).strip())]
    scales = (forecast.forward_depth_scale, forecast.gradient_depth_scale, forecast.correlation_depth_scale)
    names = ("activations", "gradients", "correlations")
    said = [f"{name} {_layers(scale)}" for name, scale in zip(names, scales, strict=True) if math.isfinite(scale)]
    pairs.append(("depth scales", ", ".join(said) or "none: nothing grows or shrinks with depth"))
    pairs.append(("trainable", f"{_layers(forecast.trainable_depth)}; this network has {n_layers - 1}"))
    if forecast.dead_network >= _RARE:
        pairs.append(("dead at birth", f"the whole network with probability {number(forecast.dead_network)}"))
    for name, layer in (("underflow", forecast.underflow_layer), ("overflow", forecast.overflow_layer)):
        if layer is not None:
            pairs.append((name, f"of {forecast.dtype} at layer {layer}"))
    yield Pairs("", tuple(pairs))
    yield _forecast_table(forecast, n_layers)


def _forecast_table(forecast, n_layers):
    kinds = ("activation", "gradient")
    expected = [np.asarray(getattr(forecast, f"{kind}_scale"), dtype=float) for kind in kinds]
    bands = [np.asarray(getattr(forecast, f"{kind}_band"), dtype=float) for kind in kinds]
    measured = [getattr(forecast, f"measured_{kind}_scale", None) for kind in kinds]
    heads, groups = ["layer", "units"], [("", 2)]
    for title, found in zip(("activations (RMS)", "gradients / output's (RMS)"), measured, strict=True):
        heads += ["expected", "95 % band", *(() if found is None else ("measured",))]
        groups.append((title, 2 if found is None else 3))
    heads.append("dead")
    groups.append(("%", 1))
    marked = [layer for layer in (forecast.underflow_layer, forecast.overflow_layer) if layer is not None]
    rows = []
    for layer in telling_layers(n_layers, *expected, marked=marked):
        cells = [str(layer), str(forecast.layer_sizes[layer])]
        for scale, band, found in zip(expected, bands, measured, strict=True):
            cells += [number(scale[layer]), _band(band[0, layer], band[1, layer])]
            cells += [] if found is None else [number(found[layer])]
        rows.append((*cells, percent(forecast.dead_share[layer])))
    caption = "Expected at initialization" + _left_out(rows, n_layers)
    return Table(caption, tuple(groups), tuple(heads), tuple(rows))


def _report(report):
    records, findings = report.records, report.findings
    n = len(findings)
    said = "healthy, nothing found" if report.is_healthy else f"{n} finding{'s' if n > 1 else ''}"
    watched = f"up to step {records.steps[-1]}" if len(records) else "before the first step"
    yield Title(f"Health {watched}: {said}", report.is_healthy)
    pairs = _course(report.evidence)
    if report.forecast is not None:
        pairs.append(("forecast", report.forecast.verdict))
    if pairs:
        yield Pairs("", tuple(pairs))
    for i, finding in enumerate(findings, 1):
        where = [layer_ranges(finding.layers or ())]
        if finding.since is not None:
            where.append(f"since step {finding.since}" if finding.since else "from the start")
        title = f"{i}. {finding.rule}" + "".join(f", {words}" for words in where if words)
        pairs = (("seen", finding.message), ("why", finding.reason), ("change", finding.change))
        yield Pairs(title, tuple((name, str(words)) for name, words in pairs if words))
    if len(records):
        yield _report_table(report)


def _course(evidence):
    pairs, losses = [], evidence.history.get("loss") or ()
    if losses:
        words = f"{losses[0]:.4g} in epoch 1"
        words += f", {losses[-1]:.4g} in epoch {len(losses)}" if len(losses) > 1 else ""
        validation = evidence.history.get("validation_loss")
        words += f", {validation[-1]:.4g} in validation" if validation else ""
        words += f"; best constant prediction {evidence.data.base_loss:.4g}" if evidence.data is not None else ""
        pairs.append(("loss", words))
    if evidence.diverged is not None:
        pairs.append(("ended", str(evidence.diverged)))
    return pairs


def _report_table(report):
    records = report.records
    sizes_ = report.evidence.layer_sizes
    n_layers = len(sizes_)
    step = int(records.steps[-1])
    activation, gradient = np.sqrt(records.activation[-1]), np.sqrt(records.gradient[-1])
    shares = [getattr(records, name)[-1] for name in ("zero", "dead", "saturated", "twins")]
    weight, ratio = records.weight[-1], records.update_ratio[-1]
    marked = [layer for finding in report.findings for layer in (*finding.layers[:1], *finding.layers[-1:])]
    rows = []
    for layer in telling_layers(n_layers, activation, gradient, shares[1], marked=marked):
        cells = [str(layer), str(sizes_[layer]), number(activation[layer]), _defined(gradient, layer)]
        cells += [percent(share[layer]) for share in shares]
        rows.append((*cells, _defined(weight, layer), _defined(ratio, layer)))
    heads = ("layer", "units", "activations", "gradients", "zero", "dead", "saturated", "twins", "norm", "step/norm")
    groups = (("", 2), ("RMS", 2), ("shares, %", 4), ("weights", 2))
    return Table(f"Measured in step {step}" + _left_out(rows, n_layers), groups, heads, tuple(rows))


def _left_out(rows, n_layers):
    return f" ({len(rows)} of {n_layers} rows)" if len(rows) < n_layers else ""


def _defined(column, layer):
    return "" if layer == 0 else number(column[layer])  # inputs have no gradient and no weights


# ---- As text ----


def _text(blocks):
    return "\n".join(_block_text(block) for block in blocks)


def _block_text(block):
    if isinstance(block, Title):
        return _wrapped(block.text)
    if isinstance(block, Pairs):
        lines = ["", _wrapped(block.title)] if block.title else []
        indent = "   " if block.title else ""
        width = max(len(name) for name, _ in block.pairs) + 2
        lines += [_wrapped(words, f"{indent}{name:<{width}}", len(indent) + width) for name, words in block.pairs]
        return "\n".join(lines)
    return "\n".join(["", block.caption, *_table_lines(block)])


def _wrapped(words, first="", indent=0):
    words = " ".join(words.split())
    return textwrap.fill(words, WIDTH, initial_indent=first, subsequent_indent=" " * indent) or first.rstrip()


def _table_lines(table):
    widths = [max(map(len, column)) for column in zip(table.heads, *table.rows, strict=True)]
    groups, start = [], 0
    for head, n in table.groups:
        inner = sum(widths[start : start + n]) + 2 * (n - 1)
        if len(head) > inner:  # the last column of a group takes what its head needs
            widths[start + n - 1] += len(head) - inner
            inner = len(head)
        groups.append(f" {head} ".center(inner, "-") if 0 < len(head) <= inner - 4 else head.rjust(inner))
        start += n
    lines = ["  ".join(groups).rstrip()]
    for row in (table.heads, *table.rows):
        lines.append("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return lines


# ---- As HTML ----

# Everything inherits the notebook's colors; lines are of a gray that is seen on white and on black.
_STYLE = (
    "<style>"
    ".cymlp-health{max-width:64em;line-height:1.4}"
    ".cymlp-health p,.cymlp-health dl,.cymlp-health table{margin:.4em 0}"
    ".cymlp-health dl{display:grid;grid-template-columns:max-content 1fr;gap:0 .8em}"
    ".cymlp-health dt{opacity:.75}.cymlp-health dd{margin:0}"
    ".cymlp-health table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    ".cymlp-health caption{text-align:left;caption-side:top;padding:.2em 0}"
    ".cymlp-health th,.cymlp-health td{text-align:right;padding:.1em .6em;background:none;color:inherit;"
    "border-bottom:1px solid rgba(128,128,128,.35)}"
    ".cymlp-health th[colspan]{text-align:center}"
    "</style>"
)
_MARKS = {True: "#009e73", False: "#d55e00"}  # of a stripe beside the title, which says the same


def _html(blocks, label):
    inner = "".join(_block_html(block) for block in blocks)
    return f'{_STYLE}<section class="cymlp-health" aria-label="{escape(label)}">{inner}</section>'


def _block_html(block):
    if isinstance(block, Title):
        stripe = f"border-left:.3em solid {_MARKS[block.good]};padding-left:.6em"
        return f'<p style="{stripe}"><strong>{escape(block.text)}</strong></p>'
    if isinstance(block, Pairs):
        title = f"<p><strong>{escape(block.title)}</strong></p>" if block.title else ""
        pairs = "".join(f"<dt>{escape(name)}</dt><dd>{escape(words)}</dd>" for name, words in block.pairs)
        return f"{title}<dl>{pairs}</dl>"
    return _table_html(block)


def _table_html(table):
    groups = "".join(
        f'<th colspan="{n}" scope="colgroup">{escape(head)}</th>' if head else f'<td colspan="{n}"></td>'
        for head, n in table.groups
    )
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in table.heads)
    rows = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in table.rows
    )
    return (
        f"<table><caption>{escape(table.caption)}</caption>"
        f"<thead><tr>{groups}</tr><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    )
