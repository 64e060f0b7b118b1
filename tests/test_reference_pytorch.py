"""The reference's normalisation, clipping, optimisers and training steps against PyTorch's numbers.

They are in data/pytorch.json, which data/make_pytorch.py makes; where PyTorch is installed it is asked again.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_close

from cymlp import reference

DATA = Path(__file__).parent / "data"
TABLES = json.loads((DATA / "pytorch.json").read_text(encoding="utf-8"))
RULES = TABLES["rules"]
EPSILON, MOMENTUM = 1e-3, 0.2
SIZES, BATCH = (4, 6, 5, 3), 4


def _table(name):
    return {key: np.array(values) for key, values in TABLES[name].items()}


def test_the_file_has_what_this_pytorch_computes():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; its numbers are those in data/pytorch.json")
    spec = importlib.util.spec_from_file_location("make_pytorch", DATA / "make_pytorch.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert (maker.EPSILON, maker.MOMENTUM, maker.SIZES, maker.BATCH) == (EPSILON, MOMENTUM, SIZES, BATCH)
    assert maker.rules() == RULES
    tables = maker.tables()
    assert set(tables) == set(TABLES) - {"torch", "rules"}, torch.__version__
    for name, arrays in tables.items():
        assert set(arrays) == set(TABLES[name])
        for key, array in arrays.items():
            assert_close(array, _table(name)[key], 2 * (11 + sum(SIZES)) * 6, 8, kind="training", dtype=np.float64)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_normalizations(step):
    table = _table("normalizations")
    Z, dY, scale, shift = (table[key] for key in (f"Z{step}", f"dY{step}", "scale", "shift"))
    Y, mean, variance = reference.batch_norm(Z, scale, shift, None, EPSILON)
    found = {
        "batch": (Y, *reference.batch_norm_backward(dY, Z, scale, None, EPSILON)),
        "layer": (
            reference.layer_norm(Z, scale, shift, EPSILON),
            *reference.layer_norm_backward(dY, Z, scale, EPSILON),
        ),
    }
    for name, arrays in found.items():
        for key, array in zip(("Y", "dZ", "dscale", "dshift"), arrays, strict=True):
            assert_close(array, table[f"{name}_{key}{step}"], 6, 8)
    rows = len(Z)
    before = (
        (np.zeros(4), np.ones(4)) if step == 0 else (table[f"running_{key}{step - 1}"] for key in ("mean", "variance"))
    )
    for key, old, new in zip(("mean", "variance"), before, (mean, variance * rows / (rows - 1)), strict=True):
        assert_close((1 - MOMENTUM) * old + MOMENTUM * new, table[f"running_{key}{step}"], 6)


def test_running_statistics_and_predictions():
    """An identity before the normalisation and after it: what a network makes of three minibatches."""
    table = _table("normalizations")
    network = reference.Network(
        (4, 4, 4), [("identity", 0.0)] * 2, ("squared_error", 1.0), np.float64, [("batch", EPSILON, MOMENTUM), None]
    )
    flat = np.concatenate([np.eye(4).ravel(), table["shift"], table["scale"], np.eye(4).ravel(), np.zeros(4)])
    network.set_parameters(flat)
    rule = {"name": "sgd", "learning_rate": 1e-300, "momentum": 0.0, "nesterov": False}
    for step in range(3):
        Z = table[f"Z{step}"]
        assert network.train_epoch(Z, Z, None, None, len(Z), rule)[1] == -1
        statistics = np.empty(8)
        network.get_statistics(statistics)
        desired = np.concatenate([table[f"running_mean{step}"], table[f"running_variance{step}"]])
        assert_close(statistics, desired, 6 * (step + 1))
    assert_close(network.forward(Z)[1][-1], table["predicted"], 6, 8)


@pytest.mark.parametrize("name", RULES["optimizers"])
def test_optimizers(name):
    table = _table("optimizers")
    w, state = table["start"].copy(), np.zeros((2, 3))
    for step, gradient in enumerate(table["gradients"], start=1):
        reference.update(RULES["optimizers"][name], step, w, gradient, state)
        assert_close(w, table[name][step - 1], step, 2, kind="update")


def test_clipping():
    table = _table("clipping")
    g, norm = table["gradients"], float(table["norm"])
    assert_close(np.sqrt(reference.sum_of_squares(g)), norm, 7)
    np.testing.assert_array_equal(reference.clip(g, 0.5), table["by_value"])
    # PyTorch divides by norm + 1e-6.
    assert_close(table["by_norm"] * ((norm + 1e-6) / norm), g * (0.5 / norm), 7)


@pytest.mark.parametrize("name", RULES["training"])
def test_training(name):
    """Batch and layer normalisation, clipping, decay, max-norm: losses, norms, parameters, statistics, predictions."""
    table = {key.removeprefix(f"{name}_"): array for key, array in _table("training").items() if key.startswith(name)}
    network = reference.Network(
        SIZES,
        [("tanh", 0.0), ("softplus", 0.0), ("softmax", 0.0)],
        ("categorical_cross_entropy", 1.0),
        np.float64,
        [("batch", EPSILON, MOMENTUM), ("layer", EPSILON), None],
    )
    network.set_parameters(table["start"])
    losses, norms = np.empty((2, 3, 2)), np.empty((2, 3))
    for epoch in range(2):
        _, failed = network.train_epoch(
            table["X"], table["y"], None, None, BATCH, RULES["training"][name], 1, losses[epoch], norms[epoch]
        )
        assert failed == -1
    end, statistics = np.empty_like(table["start"]), np.empty(2 * SIZES[1])
    network.get_parameters(end)
    network.get_statistics(statistics)
    found = {
        "losses": losses[..., 0].ravel(),
        "norms": norms.ravel(),
        "end": end,
        "statistics": statistics,
        "predicted": network.forward(table["X"])[1][-1],
    }
    for key, array in found.items():
        assert_close(array, table[key], 6 * (BATCH + sum(SIZES)), kind="training")
