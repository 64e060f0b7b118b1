"""The bench: names and work of networks, a comparison from end to end, tables, the picture.  Nothing is timed."""

import dataclasses
import itertools
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from cymlp import MLP

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the bench is part of a checkout, not of the package

from bench import __main__ as command  # noqa: E402
from bench import cases, compare, estimators, facts, machine, picture, predictors, report, sweep, trainers  # noqa: E402

# ---- Networks and their work ----


@pytest.mark.parametrize("name", [*cases.TRAINED, "3-2@1", "9x5@7"])
def test_networks_have_the_name_they_are_parsed_from(name):
    assert str(cases.parse(name)) == name


def test_a_name_without_rows_is_one_row():
    assert cases.parse("784-128-10") == cases.Case((784, 128, 10), 1)
    assert cases.parse("152x64@128").sizes == (64,) * 153


@pytest.mark.parametrize("name", ["784", "784-", "0-3", "3-x", "3x", "-1-2", ""])
def test_what_names_no_network_is_refused(name):
    with pytest.raises(ValueError, match="named like"):
        cases.parse(name)


@pytest.mark.parametrize("sizes", [(3, 2), (4, 5, 3), (7, 6, 5, 2)])
def test_work_is_that_of_the_loops(sizes):
    """Counted by going through every product of a step: one multiplication and one addition each."""
    batch, forward, backward, parameters = 6, 0, 0, 0
    for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        products = sum(1 for _ in itertools.product(range(n_in), range(n_out)))
        forward += 2 * products
        backward += 2 * products * (1 if layer == 0 else 2)
        parameters += products + n_out
    case = cases.Case(sizes, batch)
    assert case.n_parameters == parameters == MLP(sizes).parameters.size
    assert case.flops_per_row == forward
    assert case.flops_per_step == batch * (forward + backward)
    assert case.bytes_per_step == 4 * (6 * parameters + batch * (sizes[0] + 1))
    sgd = dataclasses.replace(case, optimizer="sgd", dtype="float64")
    assert sgd.bytes_per_step == 8 * (2 * parameters + batch * (sizes[0] + 1))
    assert (case.state_bytes, sgd.state_bytes) == (12 * parameters, 8 * parameters)
    assert case.prediction_bytes(5) == 4 * (parameters + 5 * (sizes[0] + sizes[-1]))


def test_every_network_is_given_steps():
    assert {str(case): case.steps for case in map(cases.parse, cases.TRAINED)} == {
        **dict.fromkeys(cases.TRAINED, 64),
        "784-512-512-10@256": 60,
        "1024-2048-2048-1000@1024": 4,
    }


@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
def test_deep_networks_begin_with_rows_apart(activation):
    """100 random matrices one after another would make all rows alike, and any loss the right one."""
    case = cases.parse("152x64@128", activation=activation, dtype="float64")
    X, y = case.data(128)
    net = MLP(case.sizes, activation, "softmax", engine="reference", dtype="float64")
    net.parameters = case.parameters()
    Z = net.forward(X).Z[-1]
    distances = np.linalg.norm(Z[1:] - Z[:-1], axis=1)
    assert 0.02 < np.median(distances) / np.median(np.linalg.norm(X[1:] - X[:-1], axis=1)) < 2
    gradients = net.gradients(X, y)[1].weights
    norms = [np.linalg.norm(gradient) for gradient in gradients]
    assert max(norms) < 100 * min(norms)


def test_data_have_every_class():
    case = cases.parse("5-4-30@8")
    X, y = case.data(40)
    assert X.shape == (40, 5)
    assert X.dtype == np.float32
    assert set(y) == set(range(30))


def test_parameters_are_the_layers_one_after_another():
    case = cases.parse("3-4-2@5")
    flat = case.parameters()
    net = MLP(case.sizes, dtype=np.float32)
    net.parameters = flat
    for (W, b), weights, biases in zip(case.layers(flat), net.weights, net.biases, strict=True):
        np.testing.assert_array_equal(W, weights)
        np.testing.assert_array_equal(b, biases)


# ---- Comparisons ----


def test_every_rival_has_its_functions():
    libraries = {rival.library for rival in compare.RIVALS.values()}
    assert set(predictors.PREDICTORS) == libraries
    assert set(trainers.TRAINERS) == {compare.RIVALS[name].library for name in compare.TRAINING_RIVALS} | {"cymlp"}
    assert set(compare.PREDICTION_RIVALS) | {"cymlp"} == set(compare.RIVALS)


def _group(case, names):
    return [compare.Contestant(name, case, 1) for name in names]


def test_training_is_compared_from_end_to_end():
    case = cases.parse("3-4-2@8")
    group = [*_group(case, ["reference", "sklearn"]), compare.Contestant("jax", case, 1, python="/nowhere/python")]
    rows = compare.compare("train", group, rounds=2, seconds=0.002)
    assert [row["problem"] is None for row in rows] == [True, True, False]
    assert "/nowhere/python" in rows[2]["problem"]
    for row in rows[:2]:
        assert len(row["rounds"]) == 2
        assert 0 < row["fastest"] <= row["seconds"]
        assert row["flops"] == case.flops_per_step
    assert "sigmoid" in rows[1]["note"]
    assert json.loads(json.dumps(rows)) == rows


def test_predictions_are_compared_from_end_to_end():
    case = cases.parse("3-4-2")
    rows = compare.compare("predict", _group(case, ["reference"]), rows=(1, 5), rounds=2, seconds=0.001)
    assert [(row["batch"], row["problem"], len(row["rounds"])) for row in rows] == [(1, None, 2), (5, None, 2)]


def test_points_are_timed_from_end_to_end():
    few = [point for point in sweep.points(False) if point["flops"] < 2e5][:2]
    found = compare.run_points(few, [1], rounds=1, seconds=0.001)
    assert [(row["x"], row["threads"]) for row in found] == [(point["x"], 1) for point in few]
    assert all(row["seconds"] > 0 for row in found)


def test_wrong_answers_are_not_timed(tmp_path):
    right = {"losses": [1.0, 0.5, 0.25]}
    assert compare._problem("train", {"losses": [1.001, 0.501, 0.2499]}, right, (), tmp_path, "0") is None
    assert "losses" in compare._problem("train", {"losses": [1.0, 0.5, 0.26]}, right, (), tmp_path, "0")
    assert compare._problem("train", {"losses": [1.1, 1.2, 0.9]}, right, (), tmp_path, "0", is_random=True) is None
    for losses in ([1.0, 0.5, 1.1], [1.0, 0.5, float("nan")]):
        assert "fall" in compare._problem("train", {"losses": losses}, right, (), tmp_path, "0", is_random=True)
    probabilities = np.full((2, 3), 1 / 3)
    np.save(tmp_path / "expected-2.npy", probabilities)
    for label, theirs in {"same": probabilities, "other": probabilities + 0.001, "nan": probabilities * np.nan}.items():
        np.save(tmp_path / f"{label}-2.npy", theirs)
        problem = compare._problem("predict", {}, {}, (2,), tmp_path, label)
        assert (problem is None) == (label == "same")


def test_contestants_are_ours_first_then_rivals_for_each_variant():
    two = [cases.parse("3-2@4"), cases.parse("3-2@4", dtype="float64")]
    group = compare.contestants(
        two, ["torch-compile"], [1, 2], ["avx2", "baseline"], {"torch": "theirs"}, {"before": "folder"}
    )
    assert len(group) == 4 * 4 + 2 * 2 * 2
    first, second, before, rival = group[:4]
    assert [one.rival for one in group[:4]] == ["cymlp", "cymlp", "before", "torch-compile"]
    assert first.environment["CYMLP_ISA"] == "avx2"
    assert second.environment["CYMLP_ISA"] == "baseline"
    assert before.environment["PYTHONPATH"].startswith("folder")
    assert (rival.python, rival.environment["OMP_NUM_THREADS"]) == ("theirs", "1")
    peaks = {(one.isa, one.case.dtype, one.threads) for one in group if one.rival == "peak"}
    assert peaks == set(itertools.product(["avx2", "baseline"], ["float32", "float64"], [1, 2]))


def test_ratios_are_medians_within_rounds():
    assert compare.ratio([1.0, 8.0, 3.0], [1.0, 2.0, 1.0]) == 3.0
    assert compare.ratio([1.0], None) is None


# ---- Estimators ----


def _work(name, **changes):
    return dataclasses.replace(estimators.WORKS[name], **changes)


def test_a_fit_is_compared_from_end_to_end():
    work = _work("digits", epochs=2)
    group = compare.contestants([work], ["sklearn"], [1], ["baseline"], with_peaks=False)
    group.append(compare.Contestant("sklearn", work, 1, python="/nowhere/python"))
    rows = estimators.compare_estimators(group, rounds=2, seconds=0.001)
    assert [(row["rival"], row["dtype"], row["epochs"]) for row in rows] == [
        ("cymlp", "float64", 2),
        *[("sklearn", "float64", 2)] * 2,
    ]
    assert [row["problem"] is None for row in rows] == [True, True, False]
    for row in rows[:2]:
        assert len(row["rounds"]) == 2
        assert row["order"] > 0
    assert json.loads(json.dumps(rows)) == rows
    assert report.table(rows)[1].endswith("order")


def test_calls_are_compared_from_end_to_end():
    work = _work("predict-digits", epochs=1, dtype="float32")
    rows = estimators.compare_estimators(_group(work, ["cymlp", "sklearn"]), rounds=1, seconds=0.001)
    assert [row["problem"] for row in rows] == [None] * len(rows)
    found = [(row["what"].partition(";")[0], row["rival"]) for row in rows]
    expected = list(itertools.product(work.items, ["cymlp", "sklearn"]))
    expected.remove(("network_.predict of 1 row", "sklearn"))
    assert found == expected


@pytest.mark.parametrize(
    ("name", "n_losses"), [("regression", 1), ("early-stopping", 2), ("sgd", 1), ("text", 1), ("stream", 3)]
)
def test_what_estimators_are_timed_at_can_be_called(name, n_losses):
    work = _work(name, epochs=3 if name == "stream" else 1)
    calls, checked = estimators.set_up("sklearn", work)
    assert len(calls) == len(work.items)
    assert len(checked) == n_losses
    for function, argument in calls:
        function(argument)


def test_orders_are_as_long_as_those_of_the_fit():
    assert {name: work.rows for name, work in estimators.WORKS.items() if work.kind != "call"} == {
        "digits": 1797, "two-classes": 20_000, "regression": 20_000, "early-stopping": 18_000, "sgd": 20_000,
        "text": 1000, "stream": 32,
    }  # fmt: skip


def test_other_losses_and_probabilities_are_not_timed():
    right = {"checked": [1.0, 0.5]}
    assert estimators._problem(_work("digits"), {"checked": [1.0, 0.5000001]}, right) is None
    assert "2e-05, in epoch 2" in estimators._problem(_work("digits"), {"checked": [1.0, 0.50001]}, right)
    assert estimators._problem(_work("digits", dtype="float32"), {"checked": [1.0, 0.501]}, right) is None
    assert "differ" in estimators._problem(_work("digits"), {"checked": [1.0, float("nan")]}, right)
    assert "1 losses" in estimators._problem(_work("digits"), {"checked": [1.0]}, right)
    assert "probabilities" in estimators._problem(_work("predict-digits"), {"checked": [1.0, 0.501]}, right)


def test_a_fit_of_fewer_epochs_is_an_error():
    with pytest.raises(RuntimeError, match="0 epochs in place of 2"):
        estimators._fit(_NoEpochs, _work("digits", epochs=2), None, None)


class _NoEpochs:
    loss_curve_ = ()

    def __init__(self, **options):
        pass

    def fit(self, X, y):
        pass


# ---- The machine ----


def test_the_bound_is_the_longer_of_arithmetic_and_memory():
    small, large = machine.last_cache() // 2, machine.last_cache() * 2
    assert machine.seconds_at_least(100.0, 50.0, small, 10.0, 1.0) == 10.0
    assert machine.seconds_at_least(100.0, 50.0, large, 10.0, 1.0) == 50.0
    assert machine.seconds_at_least(100.0, 5.0, large, 10.0, 1.0) == 10.0


def test_stolen_time_is_a_share_of_all():
    assert machine.stolen((1000, 10), (1200, 30)) == 0.1
    assert machine.stolen((0, 0), (0, 0)) == 0.0


def test_peaks_are_measured_where_there_is_a_compiler(tmp_path):
    peaks = machine.Peaks(machine.build("peaks.c", tmp_path))
    assert peaks.isas()[0] == "baseline"
    assert all(peaks.flops(isa, dtype, 2, 1e-4) > 0 for isa in peaks.isas() for dtype in ("float32", "float64"))
    assert peaks.flops("altivec", "float32", 1, 1e-4) < 0


def test_a_missing_compiler_is_an_os_error(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "/nowhere/cc")
    with pytest.raises(OSError, match="no C compiler"):
        machine.build("peaks.c", tmp_path)


# ---- Sweeps and facts ----


def test_points_of_sweeps_reach_from_end_to_end():
    reach = {name: (values[0], values[-1]) for name, (values, _) in sweep.SWEEPS.items()}
    assert set(reach.values()) == {(1, 65536), (8, 4096), (1, 152)}
    full, few = sweep.points(True), sweep.points(False)
    assert all(point in full for point in few)
    assert {point["sweep"] for point in few} == set(sweep.SWEEPS)


def _points(seconds):
    place = {"sweep": "s", "kind": "train", "threads": 1}
    return [{**place, "x": x, "flops": x, "seconds": value} for x, value in seconds.items()]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({1: 1.0, 2: 1.5, 4: 2.5, 8: 5.0}, []),
        ({1: 1.0, 2: 4.0, 4: 7.0}, [(2, "step")]),
        ({1: 1.0, 2: 4.0, 3: 3.0}, [(2, "peak"), (2, "step"), (2, "reversal")]),
        ({1: 3.0, 2: 2.0, 4: 4.0}, [(1, "reversal")]),
    ],
)
def test_cliffs_are_found(seconds, expected):
    assert [(cliff["x"], cliff["what"]) for cliff in sweep.find_cliffs(_points(seconds))] == expected


def test_the_wheel_is_smaller_than_what_it_installs():
    assert 1e5 < facts.wheel_bytes() < 1e8


def test_memory_and_overhead_are_measured():
    small = cases.parse("3-4-2@8")
    assert set(facts.overhead(small, 1)["seconds"]) == {"sgd", "adam"}
    assert facts.memory(small, 1)["six_copies"] == 6 * 4 * small.n_parameters


# ---- Results ----


def _row(**changes):
    row = {
        "kind": "train", "network": "3-2", "batch": 4, "rival": "cymlp", "threads": 2, "isa": "avx2", "flops": 96,
        "activation": "relu", "dtype": "float32", "optimizer": "adam", "version": "1.0", "setup": 0.5, "stolen": 0.01,
        "problem": None, "note": "", "seconds": 2e-6, "fastest": 1.9e-6, "spread": 0.1, "rounds": [2e-6, 1.9e-6],
        "over_ours": 1.0, "speedup": 1.8, "bound": 1e-6, "share": 0.5,
    }  # fmt: skip
    return {**row, **changes}


RESULT = {
    "facts": {"cpu": "a CPU", "cpus": 2, "last_cache": 2**25, "python": "3", "cymlp": "1", "isa": "avx2", "numpy": "2",
              "blas": "a BLAS"},
    "machine": {
        "flops": [{"isa": "avx2", "dtype": "float32", "threads": n, "flops_per_second": n * 1e11} for n in (1, 2)],
        "bandwidth": [{"kind": "read", "threads": n, "bytes_per_second": n * 1e10} for n in (1, 2)],
    },
    "rows": [
        _row(),
        _row(rival="jax", isa=None, seconds=4e-6, over_ours=2.0, speedup=None, bound=None, share=None, setup=12.0),
        _row(rival="torch", isa=None, problem="ModuleNotFoundError: No module named 'torch'", setup=None),
        _row(network="30-20", flops=4800, seconds=5e-6),
        *[_row(kind="predict", optimizer=None, batch=n, seconds=n * 1e-6, bound=n * 1e-7) for n in (1, 32)],
    ],
    "sweep": [{**point, "sweep": "batch, 3-2", "x": point["x"]} for point in _points({1: 1e-6, 2: 4e-6, 3: 3e-6})],
    "measured": [
        {"what": "overhead", "case": "1-1-1@1", "threads": 2, "seconds": {"sgd": 2e-7, "adam": 3e-7}},
        {"what": "allocations", "case": "1-1-1@1", "threads": 2, "per_step": 0.0, "per_call": 10},
        {"what": "memory", "case": "1-1-1@1", "threads": 2, "used": 10**6, "data": 10**7, "six_copies": 5,
         "activations": 6},
        {"what": "memory", "case": "1-1-1@1", "threads": 2, "problem": "no /proc"},
        {"what": "wheel", "bytes": 2500000},
    ],
}  # fmt: skip


def test_tables_say_what_was_found():
    lines = report.table(RESULT["rows"][:3])
    assert lines[0].startswith("3-2: a training step of 4 rows;")
    assert "1.0 % of CPU time stolen" in lines[0]
    header, ours, jax, torch = lines[1:5]
    assert [len(line) for line in (ours, jax)] == [len(header)] * 2
    assert re.findall(r"\S+", ours) == ["cymlp", "1.0", "2", "2.00", "1.90", "10%", "1.00", "1.80", "1.00", "50%"]
    assert re.findall(r"\S+", jax)[-3:] == ["-", "-", "-"]
    assert "not timed: ModuleNotFoundError" in torch
    assert "12 s to set up" in lines[5]


def test_tables_tell_variants_apart():
    lines = report.table([_row(), _row(dtype="float64"), _row(isa="avx512", optimizer="sgd")])
    assert [re.split(r"  +", line)[0] for line in lines[2:]] == [
        "cymlp avx2 (f32 relu Adam)",
        "cymlp avx2 (f64 relu Adam)",
        "cymlp avx512 (f32 relu SGD)",
    ]


def test_the_table_of_the_machine_has_peaks_and_bandwidths():
    text = "\n".join(report.machine_table(RESULT["facts"], RESULT["machine"]))
    assert re.search(r"avx2 float32 +100 GF/s +200 GF/s", text)
    assert re.search(r"memory, read +10.0 GB/s +20.0 GB/s", text)
    assert "no C compiler" in report.machine_table(RESULT["facts"], None, "no C compiler")[-1]


def test_tables_of_sweeps_and_facts():
    text = "\n".join(report.sweep_table(RESULT["sweep"], sweep.find_cliffs(RESULT["sweep"])))
    assert "at 2: peak, factor 2.00" in text
    lines = report.facts_table(RESULT["measured"])
    assert "sgd 0.20 us a step" in lines[1]
    assert "not measured: no /proc" in lines[4]
    assert lines[5].endswith("wheel: 2.50 MB")


@pytest.mark.parametrize("left_out", [(), ("sweep",), ("machine",), ("rows", "sweep")])
def test_the_picture_is_drawn(tmp_path, left_out):
    result = json.loads(json.dumps({**RESULT, "cliffs": sweep.find_cliffs(RESULT["sweep"])}))
    for name in left_out:
        result[name] = None if name == "machine" else []
    picture.draw(result, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


# ---- The command ----


def test_every_command_of_the_readme_is_understood():
    text = (ROOT / "bench" / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"python -m bench\b([^`#\n]*)", text)
    assert len(commands) > 10
    for line in commands:
        command.defaults(command.arguments().parse_args(shlex.split(line)))


def test_every_option_and_column_is_in_the_readme():
    text = (ROOT / "bench" / "README.md").read_text(encoding="utf-8")
    options = {option for action in command.arguments()._actions for option in action.option_strings}
    undocumented = {option for option in options if not re.search(rf"{option}\b", text)}
    assert undocumented == {"-h", "--help", "--timeout"}
    columns = re.split(r"  +", report.table([_row(order=0.02, feature="dropout", over_plain=1.0)])[1])
    assert columns[-2:] == ["order", "over plain"]
    assert all(f"`{name}`" in text for name in set(cases.FEATURES) | set(estimators.WORKS))
    assert [name for name in columns if name not in ("rival", "version", "threads") and f"| {name} |" not in text] == []


def test_a_run_writes_its_results(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CC", "/nowhere/cc")
    stem = str(tmp_path / "found")
    options = ["--case", "3-4-2@8", "--rivals", "none", "--threads", "1", "--rounds", "1", "--seconds", "0.001"]
    command.main(["train", *options, "--output", stem])
    printed = capsys.readouterr().out
    assert "no C compiler" in printed
    assert "3-4-2: a training step of 8 rows" in printed
    result = json.loads(Path(f"{stem}.json").read_text())
    assert [row["rival"] for row in result["rows"]] == ["cymlp"]
    assert Path(f"{stem}.png").exists()


def test_a_name_of_no_network_is_an_error_of_usage(capsys):
    with pytest.raises(SystemExit):
        command.main(["train", "--case", "784"])
    assert "named like" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["estimators", "--case", "784-128-10@128"])
    assert "cases digits, two-classes" in capsys.readouterr().err
