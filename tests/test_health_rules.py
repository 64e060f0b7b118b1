"""Each rule on evidence that is made by hand: where it speaks, where it is silent, and what odd numbers do to it."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from cymlp import DivergenceError, activations, losses, normalizations, optimizers
from cymlp.engine import MONITORED
from cymlp.health import RULES, DataSummary, Evidence, HealthReport, Records
from cymlp.health.remedies import Setup, change, describe
from cymlp.health.rules import judge
from cymlp.health.signs import Signs

STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768)


def _records(sizes, steps=STEPS, **columns):
    """Records of a good run; columns are numbers, or arrays that broadcast to (records, layers)."""
    last = len(sizes) - 1
    values = {"activation": 1.0, "gradient": 1.0 / np.array(sizes), "zero": 0.5, "dead": 0.1, "saturated": 0.0}
    values |= {"weight": 10.0, "update": 0.03, "twins": 0.0} | columns
    shape = (len(steps), last + 1)
    array = np.stack([np.broadcast_to(values[name], shape) for name in MONITORED], axis=2).astype(float)
    for name in ("gradient", "weight", "update", "twins"):
        array[:, 0, MONITORED.index(name)] = np.nan
    for name in ("zero", "dead", "saturated"):
        array[:, last, MONITORED.index(name)] = np.nan
    steps = np.array(steps, dtype=np.int64)
    return Records(steps, steps // 40, array)


def _data(**more):
    known = {
        "n_rows": 1000,
        "input_mean": np.zeros(8),
        "input_std": np.ones(8),
        "n_constant": 0,
        "n_classes": 2,
        "class_shares": np.array([0.5, 0.5]),
        "target_mean": None,
        "target_std": None,
        "base_loss": math.log(2),
        "predicted_shares": np.array([0.5, 0.5]),
        "recall": np.array([0.9, 0.9]),
    }
    return DataSummary(**(known | more))


def _numbers(**more):
    """A summary of targets that are numbers."""
    none = dict.fromkeys(("n_classes", "class_shares", "predicted_shares", "recall"))
    return _data(**(none | {"target_mean": np.zeros(1), "target_std": np.ones(1), "base_loss": 0.5} | more))


LEARNED, FLAT = [0.6, 0.4, 0.3, 0.2, 0.1] * 4, [math.log(2)] * 20


def _evidence(curve=LEARNED, sizes=(8, 16, 16, 16, 2), activation="relu", records=None, data=None, **more):
    hidden = len(sizes) - 2
    facts = {
        "records": _records(sizes) if records is None else records,
        "history": {"loss": list(curve), "validation_loss": [], "learning_rate": [], "gradient_norm": []},
        "layer_sizes": tuple(sizes),
        "activations": (activations.get(activation),) * hidden + (activations.get("softmax"),),
        "initializers": ("he_normal",) * hidden + ("glorot_uniform",),
        "gain": 1.0,
        "normalizations": (None,) * hidden,
        "loss": losses.get("categorical_cross_entropy"),
        "dtype": np.dtype("float32"),
        "optimizer": optimizers.Adam(),
        "learning_rate": 0.001,
        "batch_size": 32,
        "n_rows": 1280,
        "dropout": (),
        **dict.fromkeys(("class_weight", "sample_weight", "clipping"), False),
        "diverged": None,
        "data": _data() if data is None else data,
    }
    return Evidence(**(facts | more))


def _rules(evidence):
    return [rule.name for rule, _ in judge(evidence)]


def _layers(n, **at):
    """A row of ones, but for some layers."""
    row = np.ones(n)
    for layer, value in at.items():
        row[int(layer[1:])] = value
    return row


# ---- Each of them ----


def test_a_good_run_has_no_findings():
    assert _rules(_evidence()) == []
    assert _rules(_evidence(FLAT[:3])) == []  # nothing learned yet, and nothing wrong


def test_symmetric_units():
    records = _records((8, 16, 16, 16, 2), twins=_layers(5, l1=0, l3=0, l4=0))
    ((rule, seen),) = judge(_evidence(FLAT, records=records))
    assert (rule.name, seen.layers, seen.since) == ("symmetric units", (2,), 1)
    assert "100 %" in seen.message
    parted = _records((8, 16, 16, 16, 2), twins=np.where(np.arange(11)[:, None] < 3, 1.0, 0.0))
    assert _rules(_evidence(records=parted)) == []  # dropout parts them
    output = _records((8, 16, 16, 16, 2), twins=_layers(5, l1=0, l2=0, l3=0))
    assert _rules(_evidence(records=output)) == []  # of the output all begin with zeros often
    few = _records((8, 16, 16, 16, 2), twins=0.49)
    assert _rules(_evidence(records=few)) == []


def test_inputs_not_scaled():
    large = _data(input_mean=np.full(8, 3.0), input_std=np.r_[np.ones(7), 1e4])
    ((rule, seen),) = judge(_evidence([30.0, *FLAT], data=large))
    assert (rule.name, seen.layers, seen.since) == ("inputs not scaled", (0,), 0)
    assert "input 7" in seen.message
    assert "1.0e+04" in seen.message or "1e+04" in seen.message
    assert _rules(_evidence([30.0, *LEARNED], data=large)) == ["inputs not scaled"]  # the first loss tells
    assert _rules(_evidence([0.6, 0.3, 0.01], data=large)) == []
    ages = _data(input_mean=np.full(8, 45.0), input_std=np.full(8, 15.0))
    assert _rules(_evidence(LEARNED, data=ages)) == []
    assert _rules(_evidence([0.6] * 20, data=ages)) == ["inputs not scaled"]
    small = _data(input_std=np.full(8, 1e-3))
    assert _rules(_evidence([0.6] * 20, data=small)) == ["inputs not scaled"]
    spread = _data(input_std=np.r_[np.full(7, 0.1), 20.0])
    assert _rules(_evidence([0.6] * 20, data=spread)) == ["inputs not scaled"]
    batch = (normalizations.BatchNorm(), None, None)
    assert _rules(_evidence([0.6] * 20, data=ages, normalizations=batch)) == []  # which scales what it gets
    assert _rules(_evidence([0.6] * 20, data=spread, normalizations=batch)) == ["inputs not scaled"]
    assert _rules(_evidence([0.6] * 20, data=_data(input_std=np.zeros(8)))) == []


def test_targets_not_scaled():
    identity = {"activations": (activations.get("relu"),) * 3 + (activations.get("identity"),)}
    identity |= {"loss": losses.get("squared_error"), "sizes": (8, 16, 16, 16, 1)}
    far = _numbers(target_mean=np.array([150.0]), target_std=np.array([77.0]), base_loss=2964.0)
    ((rule, seen),) = judge(_evidence([14000.0, 9000.0], data=far, **identity))
    assert (rule.name, seen.layers, seen.since) == ("targets not scaled", (4,), 0)
    assert "150" in seen.message
    assert "77" in seen.message
    assert _rules(_evidence([14000.0, 500.0], data=far, **identity)) == []
    tiny = _numbers(target_std=np.array([1e-4]), base_loss=5e-9)
    assert _rules(_evidence([1.0, 1e-6], data=tiny, **identity)) == ["targets not scaled"]
    assert _rules(_evidence([1.0, 0.4], data=_numbers(), **identity)) == []
    positive = identity | {"activations": (activations.get("relu"),) * 3 + (activations.get("exp"),)}
    assert _rules(_evidence([14000.0, 9000.0], data=far, **positive)) == []  # counts have no other unit


def test_saturated_units():
    records = _records((8, 16, 16, 16, 2), saturated=_layers(5, l1=0.9, l2=0.1, l3=0.1))
    ((rule, seen),) = judge(_evidence([0.6] * 20, activation="tanh", records=records))
    assert (rule.name, seen.layers, seen.since) == ("saturated units", (1,), 1)
    assert "90 %" in seen.message
    assert _rules(_evidence(LEARNED, activation="tanh", records=records)) == []


def test_dead_units():
    dead = _layers(5, l0=0.1, l1=0.2, l2=0.9, l3=0.2)
    records = _records((8, 16, 16, 16, 2), dead=dead, zero=0.95)
    ((rule, seen),) = judge(_evidence([0.6] * 20, records=records))
    assert (rule.name, seen.layers, seen.since) == ("dead units", (2,), 1)
    assert _rules(_evidence(LEARNED, records=records)) == []
    all_dead = _records((8, 16, 16, 16, 2), dead=np.where(np.arange(11)[:, None] > 5, 1.0, 0.1) * _layers(5, l1=0.1))
    assert _rules(_evidence(LEARNED, records=all_dead)) == ["dead units"]  # a layer that is not there, harm or not


def test_dead_units_of_few_rows_are_no_dead_units():
    records = _records((8, 16, 16, 16, 2), dead=0.8, zero=0.8)
    assert _rules(_evidence([0.6] * 20, records=records)) == ["dead units"]
    assert _rules(_evidence([0.6] * 20, records=records, batch_size=1, n_rows=20)) == []
    assert _rules(_evidence([0.6] * 20, records=records, dropout=(0.0, 0.8, 0.8, 0.8))) == []
    gone = _records((8, 16, 16, 16, 2), dead=1.0, zero=1.0)
    assert _rules(_evidence([0.6] * 20, records=gone, batch_size=1, n_rows=20)) == ["dead units"]


def test_exploding_gradients():
    sizes = (8, 16, 16, 16, 2)
    records = _records(sizes, gradient=np.array([1, 1e6, 1e4, 1e2, 1]) / np.array(sizes))
    ((rule, seen),) = judge(_evidence([0.6] * 20, records=records))
    assert (rule.name, seen.layers, seen.since) == ("exploding gradients", (1,), 1)
    assert "1e+03" in seen.message
    assert "10 times as much from layer to layer" in seen.message
    assert _rules(_evidence(LEARNED, records=records)) == []
    forward = _records(sizes, activation=np.array([1, 1, 1e2, 1e4, 1e6]))
    assert _rules(_evidence([0.6] * 20, records=forward)) == ["exploding gradients"]
    infinite = _records(sizes, activation=np.array([1, 1, 1, np.inf, np.nan]))
    assert _rules(_evidence([], records=infinite, diverged=DivergenceError("x", 1, 1, 3))) == ["exploding gradients"]


def test_gradients_that_explode_later():
    gradient = np.where(np.arange(11)[:, None] > 7, 1e8, 1.0) / np.array((8, 16, 16, 16, 2))
    records = _records((8, 16, 16, 16, 2), gradient=gradient)
    loss = [0.6, 0.4, 0.2, 5.0, 9.0]
    ((rule, seen),) = judge(_evidence(loss, records=records))
    assert (rule.name, seen.since) == ("exploding gradients", 256)
    assert HealthReport(_evidence(loss, records=records)).findings[0].change == "gradients clipped to the norm 1"
    assert _rules(_evidence(LEARNED, records=records)) == []


def test_vanishing_gradients():
    sizes = (8, 16, 16, 16, 2)
    gradient = np.array([1, 1e-10, 1e-8, 1e-2, 1]) / np.array(sizes)
    records = _records(sizes, gradient=gradient)
    ((rule, seen),) = judge(_evidence([0.6] * 20, records=records))
    assert (rule.name, seen.layers, seen.since) == ("vanishing gradients", (1, 2), 1)
    assert "from layer 2 down" in seen.message
    assert "1.0e-05" in seen.message or "1e-05" in seen.message
    assert _rules(_evidence(LEARNED, records=records)) == []


def test_tiny_gradients_of_a_network_that_has_learned_all_do_not_vanish():
    records = _records((8, 16, 16, 16, 2), gradient=1e-30)
    assert _rules(_evidence([0.6, 1e-15], records=records)) == []
    assert _rules(_evidence([0.6] * 20, records=records)) == []  # all layers alike


def test_an_output_that_begins_at_zero_is_no_vanishing_gradient():
    sizes = (8, 16, 16, 16, 2)
    gradient = np.ones((11, 5))
    gradient[:4, 1:4] = [[0.0], [1e-9], [1e-8], [1e-7]]
    weight = np.full((11, 5), 10.0)
    weight[0, -1] = 0
    assert _rules(_evidence(FLAT[:4], records=_records(sizes, gradient=gradient, weight=weight))) == []
    weight[0, -1] = 1
    assert _rules(_evidence(FLAT[:4], records=_records(sizes, gradient=gradient, weight=weight))) == [
        "vanishing gradients"
    ]


def test_gradients_of_a_normalized_layer_do_not_tell_the_size_of_its_inputs():
    """Inputs of 1e4: the gradient by the sums is 1e-4 of what it is by the normalized ones."""
    sizes = (8, 16, 16, 2)
    gradient = np.array([np.nan, 1e-8, 1, 1]) / np.array(sizes)
    records = _records(sizes, activation=np.array([1e8, 1, 1, 1]), gradient=gradient, weight=4.0)
    ordinary = {"records": records, "data": _data(), "sizes": sizes}
    assert _rules(_evidence([0.6] * 20, **ordinary)) == ["vanishing gradients"]
    batch = (normalizations.BatchNorm(),) * 2
    assert _rules(_evidence([0.6] * 20, normalizations=batch, **ordinary)) == []


def test_restless_layers():
    records = _records((8, 16, 16, 16, 2), update=5.0)
    ((rule, seen),) = judge(_evidence([130.0, 2.4, 0.7, 0.7], records=records))
    assert (rule.name, seen.layers, seen.since) == ("restless layers", (1, 2, 3, 4), 1)
    assert "0.5" in seen.message
    assert _rules(_evidence(LEARNED, records=records)) == []
    assert _rules(_evidence([0.5, 0.2, 0.6], records=records)) == ["restless layers"]  # it has risen
    assert _rules(_evidence(FLAT[:4], records=records)) == []
    assert _rules(_evidence([0.5, 0.55, 130.0, 0.4, 0.4], records=records)) == []  # it has recovered
    died = _records((8, 16, 16, 16, 2), update=5.0, dead=np.where(np.arange(11)[:, None] < 3, 0.1, 0.9))
    assert _rules(_evidence(FLAT[:4], records=died)) == ["restless layers"]
    assert _rules(_evidence([130.0], records=records)) == []  # the first epoch may be bad


def test_whatever_diverges_has_a_finding():
    error = DivergenceError("x", 3, 5, 2)
    ((rule, seen),) = judge(_evidence([0.6, 0.5], diverged=error))
    assert (rule.name, seen.layers) == ("restless layers", (2,))
    assert "epoch 3" in seen.message


def test_still_layers():
    records = _records((8, 16, 16, 16, 2), update=1e-6)
    ((rule, seen),) = judge(_evidence(FLAT, records=records))
    assert (rule.name, seen.layers, seen.since) == ("still layers", (1, 2, 3, 4), 1)
    assert _rules(_evidence(LEARNED, records=records)) == []
    slow = {"update": 5e-4}
    assert _rules(_evidence(FLAT[:4], records=_records((8, 16, 16, 16, 2), **slow))) == ["still layers"]
    assert _rules(_evidence(FLAT[:4], records=_records((8, 16, 16, 16, 2), STEPS[:8], **slow))) == []
    warm = np.where(np.arange(11)[:, None] > 5, 0.03, 0.0)  # the rate comes from 0
    assert _rules(_evidence(FLAT[:4], records=_records((8, 16, 16, 16, 2), update=warm))) == []


def test_linear_layers():
    ((rule, seen),) = judge(_evidence(activation="identity"))
    assert (rule.name, seen.layers) == ("linear layers", (1, 2, 3))
    layer = (normalizations.LayerNorm(), None, None)
    assert _rules(_evidence(activation="identity", normalizations=layer)) == []
    some = (activations.get("identity"),) + (activations.get("relu"),) * 2 + (activations.get("softmax"),)
    assert _rules(_evidence(activations=some)) == []
    assert _rules(_evidence(sizes=(8, 2))) == []  # there is none


def test_class_imbalance():
    rare = {"class_shares": np.array([0.99, 0.01]), "recall": np.array([1.0, 0.0]), "base_loss": 0.056}
    ((rule, seen),) = judge(_evidence([0.1, 0.05, 0.04], data=_data(**rare)))
    assert rule.name == "class imbalance"
    assert "class 1 is 1 %" in seen.message
    assert _rules(_evidence([0.04] * 3, data=_data(**rare), class_weight=True)) == []
    assert _rules(_evidence([0.04] * 3, data=_data(**rare), sample_weight=True)) == []
    assert _rules(_evidence([0.04] * 3, data=_data(**(rare | {"recall": np.array([1.0, 0.5])})))) == []
    assert _rules(_evidence([0.04] * 3, data=_data(**(rare | {"recall": np.array([1.0, np.nan])})))) == []
    few = _records((8, 16, 16, 16, 2), STEPS[:5])
    assert _rules(_evidence([0.04] * 3, data=_data(**rare), records=few)) == []


def test_stuck_at_base_rate():
    ((rule, seen),) = judge(_evidence(FLAT))
    assert rule.name == "stuck at base rate"
    assert "since epoch 11" in seen.message
    assert _rules(_evidence([0.68] * 20)) == []
    assert _rules(_evidence([*(1 - 0.01 * np.arange(20))])) == []  # on its way
    assert _rules(_evidence(FLAT, records=_records((8, 16, 16, 16, 2), STEPS[:8]))) == []
    falling = [*(5 - 0.2 * np.arange(20))]
    assert _rules(_evidence(falling)) == []
    history = {"loss": falling, "validation_loss": FLAT, "learning_rate": [], "gradient_norm": []}
    assert _rules(_evidence(history=history)) == ["stuck at base rate"]
    weighted = _data(class_shares=np.array([0.99, 0.01]), base_loss=0.056)
    assert _rules(_evidence(FLAT, data=weighted, class_weight=True)) == ["stuck at base rate"]


# ---- Which one is the first ----


def test_causes_come_before_what_they_explain():
    sizes = (8, 16, 16, 16, 2)
    vanishing = np.array([1, 1e-10, 1e-8, 1e-2, 1]) / np.array(sizes)
    everything = _records(sizes, twins=1.0, gradient=vanishing, dead=0.95, zero=0.95, update=1e-6, saturated=0.9)
    assert _rules(_evidence(FLAT, records=everything)) == ["symmetric units"]
    large = _data(input_std=np.full(8, 1e4))
    assert _rules(_evidence(FLAT, records=everything, data=large)) == ["symmetric units", "inputs not scaled"]
    no_twins = _records(sizes, gradient=vanishing, dead=0.95, zero=0.95, update=1e-6)
    assert _rules(_evidence(FLAT, records=no_twins)) == ["dead units"]
    assert _rules(_evidence(FLAT, records=_records(sizes, gradient=vanishing, update=1e-6))) == ["vanishing gradients"]


def test_what_was_there_first_is_the_cause():
    """A rate that kills units, and dead units that were born so."""
    late = np.arange(11)[:, None] > 5
    later = _records((8, 16, 16, 16, 2), dead=np.where(late, 1.0, 0.1), zero=0.9, update=np.where(late, 0.0, 20.0))
    assert _rules(_evidence([50.0, 0.8, 0.7, 0.7], records=later)) == ["restless layers"]
    born = _records((8, 16, 16, 16, 2), dead=1.0, zero=1.0, update=5.0)
    assert _rules(_evidence([50.0, 0.8, 0.7, 0.7], records=born))[0] == "dead units"


# ---- Odd numbers ----


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 1e-300, 1e300])
@pytest.mark.parametrize("n", [0, 1, 2, 5])
@pytest.mark.parametrize("diverged", [False, True])
def test_rules_take_any_numbers(value, n, diverged):
    error = DivergenceError("x", 1, 1, None) if diverged else None
    for column in MONITORED:
        records = _records((8, 16, 16, 16, 2), STEPS[:n], **{column: value})
        for loss in ([], [value], FLAT, [value] * 20):
            report = HealthReport(_evidence(loss, records=records, diverged=error))
            for finding in report.findings:
                assert finding.message
                assert finding.change
                assert "nan" not in finding.change
    records = _records((8, 16, 16, 16, 2), STEPS[:n], **dict.fromkeys(MONITORED, value))
    assert isinstance(HealthReport(_evidence(FLAT, records=records, diverged=error)).findings, tuple)


@pytest.mark.parametrize("sizes", [(8, 2), (1, 1, 2), (3, 1, 1, 1, 2)])
def test_rules_take_any_network(sizes):
    for loss in ([], FLAT, LEARNED):
        assert _rules(
            _evidence(loss, sizes, data=_data(input_mean=np.zeros(sizes[0]), input_std=np.ones(sizes[0])))
        ) in (
            [],
            ["stuck at base rate"],
        )


def test_rules_do_without_data():
    evidence = _evidence(FLAT)
    evidence.data = None
    assert _rules(evidence) == []
    evidence.diverged = DivergenceError("x", 1, 1, 1)
    assert _rules(evidence) == ["restless layers"]


# ---- What is changed ----


@pytest.mark.parametrize("name", RULES)
def test_each_rule_has_a_remedy_that_is_said_in_words(name):
    evidence = _evidence(FLAT, activation="identity" if name == "linear layers" else "tanh")
    evidence.gain = 3.0
    setup = Setup.of(evidence)
    if name == "dead units":
        setup = Setup.of(_evidence(FLAT))
    changed = change(setup, name, Signs(evidence))
    assert changed != setup
    assert describe(setup, changed)
    assert describe(setup, setup) == ()


# ---- The documents ----


def _documented():
    """What docs/health.md says of the rules."""
    lines = []
    for rule in RULES.values():
        lines += [f"### {rule.name}", "", f"{rule.title}. {' '.join(rule.reason.split())}", ""]
        lines += ["| limit | | why |", "|---|---|---|"] if rule.limits else ["There is no limit."]
        lines += [f"| {name} | {limit.value:g} | {limit.reason} |" for name, limit in rule.limits.items()]
        explains = [other for other in RULES if other in rule.explains]
        lines += ["", f"Source: {rule.source}." + (f" It explains: {', '.join(explains)}." if explains else ""), ""]
    return "\n".join(lines)


def test_the_documents_have_the_rules_as_they_are():
    text = (Path(__file__).parent.parent / "docs" / "health.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"<!-- rules -->\n(.*)\n<!-- end of rules -->", text, re.DOTALL)
    assert shown.strip() == _documented().strip()


def test_rules_are_whole():
    for name, rule in RULES.items():
        assert rule.name == name
        assert all((rule.title, rule.reason, rule.source))
        assert rule.explains <= set(RULES) - {name}
        assert rule.thresholds == {key: limit.value for key, limit in rule.limits.items()}
        assert all(limit.reason for limit in rule.limits.values())
