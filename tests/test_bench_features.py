"""The bench of features: what is trained, answers and prices, goals, the table and the command.  Nothing is timed."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the bench is part of a checkout, not of the package

from bench import __main__ as command  # noqa: E402
from bench import cases, compare, predictors, report, trainers  # noqa: E402


def test_features_are_compared_from_end_to_end():
    """Ours with every feature, against the reference with the same; the price is over the plain step of the same."""
    features = [cases.parse("6-16-16-3@32", feature=name) for name in cases.FEATURES]
    group = compare.contestants(features, [], [1], ["baseline"], with_peaks=False)
    rows = compare.compare("train", group, rounds=2, seconds=0.002)
    assert [(row["feature"], row["problem"]) for row in rows] == [(name, None) for name in cases.FEATURES]
    assert [row["over_plain"] is None for row in rows] == [name == "plain" for name in cases.FEATURES]
    assert all(row["over_ours"] == 1.0 for row in rows)
    assert json.loads(json.dumps(rows)) == rows


def test_predictions_of_normalized_networks_are_compared_with_plain_ones():
    kept = [cases.parse("6-16-16-3", feature=name) for name in cases.PREDICTED_FEATURES]
    group = compare.contestants(kept, [], [1], ["baseline"], with_peaks=False)
    rows = compare.compare("predict", group, rows=(1, 3), rounds=2, seconds=0.001)
    assert [(row["batch"], row["feature"], row["problem"], row["goal"]) for row in rows] == [
        (n, name, None, "") for n in (1, 3) for name in cases.PREDICTED_FEATURES
    ]
    assert [row["over_plain"] is None for row in rows] == 2 * [True, False, False]


def test_normalization_is_in_what_is_predicted():
    """With scales, means and variances of its own, or a rival without them would pass."""
    plain, batch, layer = (cases.parse("6-16-16-3", feature=name) for name in cases.PREDICTED_FEATURES)
    X, _ = plain.data(5)
    found = []
    for case in (plain, batch, layer):
        [(predict, argument)] = predictors.predict_cymlp(case, case.parameters(), [X], 1)
        found.append(predict(argument))
    differences = [abs(found[i] - found[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert min(differences) > 10 * compare.PROBABILITY_TOLERANCE


def test_features_change_what_is_trained():
    """Each is in the losses, or a rival without it would pass; callbacks and watching are not to be seen."""
    found = {}
    for name in cases.FEATURES:
        case = cases.parse("6-16-16-3@32", feature=name, dtype="float64")
        X, y = case.data(8 * case.batch)
        found[name] = trainers.train_cymlp(case, case.parameters(), X, y, 1)(30)
    assert found.pop("callback") == found.pop("health") == found["plain"]
    assert len({tuple(losses) for losses in found.values()}) == len(found)
    assert all(losses[-1] < losses[0] for losses in found.values())


def test_goals_of_features():
    def goals(name):
        return {feature: goal for feature in cases.FEATURES if (goal := cases.parse(name, feature=feature).goal)}

    assert goals("784-512-512-10@256") == {"dropout": 1.1, "batch-norm": 1.25, "clip-norm": 1.1, "health": 1.01}
    assert goals("64-64-64-10@64") == {"dropout": 1.1, "clip-norm": 1.1, "health": 1.01}


def test_a_price_is_over_the_same_contestants_plain_step():
    two = [cases.parse("3-2@4", feature=name) for name in ("plain", "dropout")]
    group = compare.contestants(two, ["torch"], [1, 2], ["avx2"], with_peaks=False)
    times = {number: [1.0 + number, 2.0 + number] for number in range(len(group))}
    for number, one in enumerate(group):
        price = compare._over_plain(group, times, one, number)
        assert price == (None if number < 4 else compare.ratio(times[number], times[number - 4]))


def test_tables_of_features_have_their_prices():
    row = {
        "kind": "train", "network": "3-2", "batch": 4, "rival": "cymlp", "threads": 2, "isa": "avx2", "flops": 96,
        "activation": "relu", "dtype": "float32", "optimizer": "adam", "version": "1.0", "setup": 0.5, "stolen": 0.01,
        "problem": None, "note": "", "seconds": 2e-6, "fastest": 1.9e-6, "spread": 0.1, "over_ours": 1.0,
        "speedup": 1.8, "bound": 1e-6, "share": 0.5, "feature": "plain", "over_plain": None,
    }  # fmt: skip
    rows = [row, {**row, "feature": "dropout", "over_plain": 1.0625, "goal": "a goal"}]
    lines = report.table(rows)
    assert lines[1].endswith("over plain")
    assert [(line.split()[:2], line.split()[-1]) for line in lines[2:4]] == [
        (["cymlp", "plain"], "-"),
        (["cymlp", "dropout"], "1.062"),
    ]
    assert lines[4] == "  goal: a goal"


def test_features_are_a_part_of_the_results(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CC", "/nowhere/cc")
    stem = str(tmp_path / "found")
    options = ["--case", "3-4-2@8", "--rivals", "none", "--threads", "1", "--rounds", "1", "--seconds", "0.001"]
    command.main(["features", *options, "--feature", "plain", "clip-norm", "--output", stem])
    assert "goal: clip-norm at most 1.1 times the plain step" in capsys.readouterr().out
    result = json.loads(Path(f"{stem}.json").read_text())
    assert [(row["rival"], row["feature"]) for row in result["features"]] == [
        ("cymlp", "plain"),
        ("cymlp", "clip-norm"),
    ]
    assert result["rows"] == []
    command.main(["features", *options, "--rows", "2", "--feature", "plain", "batch-norm", "--output", stem])
    result = json.loads(Path(f"{stem}.json").read_text())
    assert [(row["kind"], row["feature"]) for row in result["features"]] == [
        (kind, feature) for kind in ("train", "predict") for feature in ("plain", "batch-norm")
    ]
