"""The pictures: what is drawn, on which axes, and what is refused."""

import types

import numpy as np
import pytest
from matplotlib.figure import Figure

from cymlp import plots


def _history(loss, validation_loss=()):
    return types.SimpleNamespace(loss=loss, validation_loss=list(validation_loss))


def test_plots_draw_what_they_are_given():
    ax = Figure().subplots()
    drawn = plots.learning_curves(_history([1.0, 0.1, 0.01], [2.0, 0.2, 0.02]), ax, best_epoch=2)
    assert drawn is ax
    assert [line.get_label() for line in ax.lines] == ["training", "validation", "best epoch: 2"]
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[1, 1.0], [2, 0.1], [3, 0.01]])
    assert ax.get_yscale() == "log"
    scores = Figure().subplots()
    plots.score_curve([0.5, 0.6], scores, "accuracy")
    assert scores.get_ylabel() == "accuracy"
    np.testing.assert_array_equal(scores.lines[0].get_ydata(), [0.5, 0.6])


@pytest.mark.parametrize("loss", [[1.0, 0.9], [1.0, 0.0], [1.0, -5.0], [1.0]])
def test_losses_that_vanish_or_hardly_vary_are_drawn_linearly(loss):
    assert plots.learning_curves(_history(loss), Figure().subplots()).get_yscale() == "linear"


def test_plots_refuse_empty_histories_and_other_suffixes(tmp_path):
    with pytest.raises(ValueError, match="history must have at least one epoch; got 0"):
        plots.learning_curves(_history([]))
    with pytest.raises(ValueError, match="scores must have at least one value; got 0"):
        plots.score_curve([])
    with pytest.raises(ValueError, match="path must end in"):
        plots.save_learning_curves(tmp_path / "a.bmp", _history([1.0]))


@pytest.mark.parametrize("title", ["$x_{", "$\\frac$", "a & b_c^d %", "目標", "x" * 500])
def test_titles_are_drawn_as_they_are_and_fit(tmp_path, monkeypatch, title):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    plots.save_learning_curves(tmp_path / "a.png", _history([1.0, 0.5]), [0.5, 0.6], title=title)
    monkeypatch.undo()
    (figure,) = drawn
    assert figure.get_suptitle() == (title if len(title) <= 100 else f"{title[:100]}...")
    plots.save_learning_curves(tmp_path / "b.png", _history([1.0, 0.5]), [0.5, 0.6], title=title)
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
