"""Forecasts against measurements: of networks drawn over a grid, how many layers lie inside their 95 % band.

`python tests/test_health_validation.py` prints the tables of docs/forecasts.md; the tests draw the networks again.
"""

import itertools
import re
import zlib
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import run_examples

import cymlp
from cymlp.activations import ACTIVATIONS

PAGE = Path(__file__).parent.parent / "docs" / "forecasts.md"
HIDDEN = tuple(name for name, definition in ACTIVATIONS.items() if definition.hidden)
ROWS = 64

# What the documents promise of every activation and depth together, and of each alone.
PROMISED = 0.90


class Case(NamedTuple):
    """One network of the grid: as many inputs and outputs as units."""

    activation: str
    depth: int
    width: int
    initializer: str
    gain: float


def grid():
    """All networks; those that take seconds each with one gain, and not orthogonal."""
    initializers, gains = ("glorot_uniform", "he_normal", "orthogonal"), (0.5, 1.0, 2.0)
    for case in itertools.product(HIDDEN, (2, 5, 10, 30, 100), (16, 64, 256), initializers, gains):
        case = Case(*case)
        if case.depth * case.width < 5000 or (case.gain == 1.0 and case.initializer != "orthogonal"):
            yield case


def subset():
    """Every activation, initialiser and gain, of networks that are drawn in a millisecond."""
    return (case for case in grid() if case.depth <= 10 and case.width <= 64)


# What is hardest: narrow and deep networks whose gradients change with the size of activations, and normalised ones.
HARD = (
    (Case("relu", 30, 16, "he_normal", 1.0), {}),
    (Case("gelu", 30, 16, "he_normal", 1.0), {}),
    (Case("silu", 30, 16, "he_normal", 1.0), {}),
    (Case("softplus", 30, 16, "he_normal", 1.0), {}),
    (Case("silu", 10, 64, "he_normal", 1.0), {}),
    (Case("relu", 10, 64, "he_normal", 1.0), {"dropout": 0.2}),
    (Case("relu", 10, 64, "he_normal", 1.0), {"bias": 0.5}),
    (Case("relu", 10, 64, "he_normal", 1.0), {"layer_norm": True}),
    (Case("tanh", 10, 64, "glorot_normal", 1.0), {"layer_norm": True}),
    (Case("relu", 10, 64, "he_normal", 1.0), {"batch_norm": True}),
    (Case("tanh", 10, 64, "glorot_normal", 1.0), {"batch_norm": True}),
)
HARD_DRAWS = 30


def inside(case, draw=0, **more):
    """Of each layer but the inputs and the output's gradient, whether it is in the band: (2, depth)."""
    sizes = [case.width] * (case.depth + 1)
    forecast = cymlp.forecast(sizes, case.activation, case.initializer, case.gain, dtype="float64", **more)
    measured = forecast.measure(n_samples=ROWS, random_state=zlib.crc32(repr(tuple(case)).encode()) + draw)
    found = []
    for kind, layers in (("activation", slice(1, None)), ("gradient", slice(None, -1))):
        low, high = getattr(measured, f"{kind}_band")[:, layers]
        sizes = getattr(measured, f"measured_{kind}_scale")[layers]
        found.append((low <= sizes) & (sizes <= high))
    return np.array(found)


class Coverage:
    """Shares of layers inside, by anything that cases have."""

    def __init__(self, cases):
        self.cases, self.found = [], []
        for case in cases:
            self.cases.append(case)
            self.found.append(inside(case))

    def by(self, *fields):
        """{values of the fields: (share of activations, share of gradients, number of layers)}."""
        sums = defaultdict(lambda: np.zeros(3))
        for case, found in zip(self.cases, self.found, strict=True):
            sums[tuple(getattr(case, field) for field in fields)] += (*found.sum(axis=1), found.shape[1])
        return {key: (a / n, g / n, int(n)) for key, (a, g, n) in sums.items()}

    def by_layer(self):
        """{quarter of the depth: shares of both}, for networks of 10 layers and more."""
        sums = np.zeros((4, 3))
        for found in self.found:
            if found.shape[1] >= 10:
                for quarter, part in enumerate(np.array_split(found, 4, axis=1)):
                    sums[quarter] += (*part.sum(axis=1), part.shape[1])
        return {quarter + 1: (a / n, g / n) for quarter, (a, g, n) in enumerate(sums)}


def _cell(shares):
    return f"{100 * shares[0]:.0f} / {100 * shares[1]:.0f}"


def tables(coverage):
    """The tables of the page, as Markdown."""
    depths = sorted({case.depth for case in coverage.cases})
    cells, rows, columns = coverage.by("activation", "depth"), coverage.by("activation"), coverage.by("depth")
    lines = ["| activation | " + " | ".join(f"{depth} layers" for depth in depths) + " | all |"]
    lines.append("|" + "---|" * (len(depths) + 2))
    for name in HIDDEN:
        found = [_cell(cells[name, depth]) for depth in depths]
        lines.append(f"| {name} | " + " | ".join(found) + f" | {_cell(rows[name,])} |")
    found = [_cell(columns[depth,]) for depth in depths]
    lines.append("| all | " + " | ".join(found) + f" | {_cell(coverage.by()[()])} |")
    lines += ["", "| | activations / gradients |", "|---|---|"]
    for field in ("width", "initializer", "gain"):
        lines += [f"| {field} {value} | {_cell(shares)} |" for (value,), shares in sorted(coverage.by(field).items())]
    quarters = coverage.by_layer().items()
    lines += [f"| quarter {quarter} of the layers | {_cell(shares)} |" for quarter, shares in quarters]
    return "\n".join(lines)


def hard_table():
    """The table of what is hardest, as Markdown."""
    lines = ["| | activations / gradients |", "|---|---|"]
    for case, more in HARD:
        shares = np.mean([inside(case, draw, **more).mean(axis=1) for draw in range(HARD_DRAWS)], axis=0)
        words = "".join(f", {name} {value}" for name, value in more.items())
        lines.append(f"| {case.activation}, {case.depth} layers of {case.width}{words} | {_cell(shares)} |")
    return "\n".join(lines)


def _check(coverage):
    for shares in (*coverage.by().values(), *coverage.by("width").values(), *coverage.by_layer().values()):
        assert min(shares[:2]) >= PROMISED, shares


def test_nine_of_ten_layers_of_shallow_networks_are_inside_their_band():
    _check(Coverage(subset()))


@pytest.mark.slow
def test_nine_of_ten_layers_are_inside_their_band_and_the_page_says_how_many():
    coverage = Coverage(grid())
    _check(coverage)
    _compare(tables(coverage) + hard_table())


def _compare(now):
    """Sums are added in another order with other instructions, which may move a layer across the end of a band."""
    texts = PAGE.read_text(encoding="utf-8"), now
    page, now = ([tuple(map(int, pair)) for pair in re.findall(r"\| (\d+) / (\d+)(?= \|)", text)] for text in texts)
    assert len(page) == len(now)
    np.testing.assert_allclose(page, now, rtol=0, atol=1)


def test_the_examples_of_the_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_examples(PAGE)


if __name__ == "__main__":
    print(tables(Coverage(grid())), hard_table(), sep="\n\n")
