"""The command line: what it does with data, how it says what went wrong, and what it leaves behind."""

import io
import json
import math
import re
import signal
import subprocess
import sys
import types

import numpy as np
import pandas as pd
import pytest
from conftest import assert_close
from typer.testing import CliRunner

from cymlp import MLP, cli, show_config
from cymlp.commands import app
from cymlp.experiment import Settings, load_data, split_rows
from cymlp.tabular import TabularEncoder

SMALL = ["--layers", "8", "--epochs", "3", "--no-plot"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in: files go where the command was called."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments, code=0):
    """Run a command; where the exit code is another, what it said is in the failure."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def train(*arguments):
    return json.loads(call("train", *arguments, "--json").stdout)


def flowers(n_rows=90):
    """Three classes that can be told apart by a number and a category together."""
    rng = np.random.default_rng(5)
    kind = rng.integers(0, 3, n_rows)
    return pd.DataFrame(
        {
            "width": np.where(kind == 0, -2.0, 2.0) + 0.3 * rng.standard_normal(n_rows),
            "color": np.where(kind == 1, "red", np.where(np.arange(n_rows) % 2, "blue", "white")),
            "id": np.arange(n_rows),
            "species": np.array(["lily", "rose", "tulip"])[kind],
        }
    )


def prices(n_rows=300):
    """A value that depends smoothly on two numbers and a category."""
    rng = np.random.default_rng(6)
    a, b = rng.uniform(-1, 1, (2, n_rows))
    town = rng.choice(["Bern", "Oslo"], n_rows)
    return pd.DataFrame({"a": a, "b": b, "town": town, "price": 500 + 80 * a * b + 40 * a + 30 * (town == "Oslo")})


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_digits_reach_97_percent(folder, seed):
    figures = train("digits", "--seed", seed, "--no-plot")
    assert figures["test_accuracy"] >= 0.97
    assert figures["rows"] == {"training": 1257, "validation": 180, "test": 360}


def test_json_is_one_object_with_the_figures(folder):
    result = call("train", "digits", "--epochs", 2, "--json")
    figures = json.loads(result.stdout)
    assert result.stderr == ""
    assert set(figures) == {
        *(
            "task",
            "target",
            "rows",
            "layer_sizes",
            "optimizer",
            "batch_size",
            "label_smoothing",
            "seed",
            "dtype",
            "engine",
        ),
        *("schedule", "warm_up", "normalization", "dropout", "l1", "l2", "max_norm", "clip_norm", "stopped"),
        *("penalize_biases", "clip_layer_norm", "clip_value", "class_weight", "order"),
        *("test_accuracy", "test_log_loss", "test_r2", "test_rmse", "test_mae", "test_classes"),
        *("train_seconds", "epochs", "best_epoch", "training_loss", "validation_loss", "interrupted"),
        *("model", "plot", "notes"),
    }
    assert (figures["task"], figures["target"], figures["epochs"]) == ("classification", "digit", 2)
    assert 0 < figures["test_accuracy"] <= 1
    assert figures["test_r2"] is None
    assert [entry["class"] for entry in figures["test_classes"]] == list(range(10))
    assert sum(entry["rows"] for entry in figures["test_classes"]) == 360
    assert (figures["model"], figures["plot"]) == ("digits.safetensors", "digits-curves.png")
    assert (folder / "digits-curves.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "digits.safetensors").exists()


def test_the_same_seed_gives_the_same_model(folder):
    for name in ("a", "b"):
        train("digits", *SMALL, "-o", f"{name}.safetensors")
    assert np.array_equal(MLP.load("a.safetensors").parameters, MLP.load("b.safetensors").parameters)
    train("digits", *SMALL, "--seed", 1, "-o", "c.safetensors")
    assert not np.array_equal(MLP.load("a.safetensors").parameters, MLP.load("c.safetensors").parameters)


def test_people_get_a_table_and_the_files(folder):
    result = call("train", "digits", "--epochs", 2, "--plot", "curves.svg")
    assert "precision" in result.stdout
    assert "test accuracy" in result.stdout
    assert "digits.safetensors" in result.stdout
    assert "epoch 2/2" in result.stderr
    assert "validation accuracy" in result.stderr
    assert "<svg" in (folder / "curves.svg").read_text()


def test_quiet_prints_nothing(folder):
    result = call("train", "digits", *SMALL, "--quiet")
    assert result.output == ""


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_classification_of_a_table_and_its_predictions(folder, suffix):
    table = flowers()
    path = folder / f"flowers.{suffix}"
    table.to_csv(path, index=False) if suffix == "csv" else table.to_parquet(path)
    figures = train(path, "--target", "species", "--ignore", "id", "--layers", "16", "--no-plot")
    assert figures["epochs"] == 1000  # so few rows make 2 updates in an epoch
    assert figures["task"] == "classification"
    assert figures["test_accuracy"] == 1.0
    assert [entry["class"] for entry in figures["test_classes"]] == ["lily", "rose", "tulip"]

    table[["color", "width"]].to_csv("new.csv", index=False)  # another order, and no target
    result = call("predict", "flowers.safetensors", "new.csv", "--proba")
    assert result.stderr == ""
    predicted = pd.read_csv(io.StringIO(result.stdout))
    assert list(predicted) == ["species", "proba_lily", "proba_rose", "proba_tulip"]
    network = MLP.load("flowers.safetensors")
    encoder = TabularEncoder.from_dict(network.metadata["encoder"])
    probabilities = network.predict(encoder.transform(table, np.float32))
    np.testing.assert_array_equal(predicted.iloc[:, 1:].to_numpy(np.float32), probabilities)
    assert predicted["species"].tolist() == encoder.classes[probabilities.argmax(axis=1)].tolist()


def test_regression_of_a_table_and_its_predictions(folder):
    table = prices()
    table.to_csv("prices.csv", index=False)
    figures = train("prices.csv", "--target", "price", "--layers", "32", "--dtype", "float64", "--learning-rate", 0.01)
    assert figures["task"] == "regression"
    assert figures["test_accuracy"] is None
    assert figures["test_r2"] > 0.9
    assert figures["test_mae"] <= figures["test_rmse"]

    call("predict", "prices.safetensors", "prices.csv", "-o", "out.parquet")
    call("predict", "prices.safetensors", "prices.csv", "-o", "out.csv")
    predicted = pd.read_parquet("out.parquet")["price"].to_numpy()
    network = MLP.load("prices.safetensors")
    encoder = TabularEncoder.from_dict(network.metadata["encoder"])
    expected = encoder.decode_target(network.predict(encoder.transform(table)))
    np.testing.assert_array_equal(predicted, expected)
    assert (folder / "out.csv").read_text().split() == ["price", *map(repr, expected.tolist())]
    text = call("train", "prices.csv", "--target", "price", *SMALL).stdout
    assert "test R2" in text
    assert "test accuracy" not in text


def test_test_figures_are_those_of_the_test_rows(folder):
    table = prices()
    table.to_csv("prices.csv", index=False)
    figures = train("prices.csv", "--target", "price", "--dtype", "float64", *SMALL)
    settings = Settings()
    rows = split_rows(len(table), None, settings, note=None).test
    predicted = pd.read_csv(io.StringIO(call("predict", "prices.safetensors", "prices.csv").stdout))["price"]
    error = (predicted - table["price"])[rows]
    spread = table["price"][rows] - table["price"][rows].mean()
    largest = table["price"].max()
    assert_close(figures["test_rmse"], math.sqrt((error**2).mean()), len(rows), largest)
    assert_close(figures["test_mae"], error.abs().mean(), len(rows), largest)
    assert_close(figures["test_r2"], 1 - (error**2).sum() / (spread**2).sum(), len(rows), 1.0)


def test_arrays_of_an_npz_file(folder):
    rng = np.random.default_rng(3)
    X = rng.standard_normal((200, 2))
    np.savez("points.npz", X=X, y=(X[:, 0] > 0).astype(int), extra=np.zeros(7))
    figures = train("points.npz", "--target", "y", "--ignore", "extra", "--no-plot", "--epochs", 20)
    assert figures["task"] == "classification"
    assert figures["test_accuracy"] > 0.85
    np.savez("new.npz", X=X[:3])
    predicted = call("predict", "points.safetensors", "new.npz").stdout.split()
    assert predicted[0] == "y"
    assert len(predicted) == 4
    assert (
        "same number of rows: X (200), y (200), extra (7)"
        in call("train", "points.npz", "--target", "y", code=1).stderr
    )


def test_the_choice_of_the_task_is_told_and_can_be_overridden(folder):
    pd.DataFrame({"a": np.arange(60.0), "y": np.arange(60) % 3}).to_csv("t.csv", index=False)
    assert (
        "classification of 'y': it holds 3 distinct integers" in call("train", "t.csv", "--target", "y", *SMALL).stderr
    )
    asked = call("train", "t.csv", "--target", "y", "--task", "regression", *SMALL)
    assert "regression of 'y', as asked" in asked.stderr
    assert "test R2" in asked.stdout


def test_missing_values_are_told_or_imputed(folder):
    table = flowers()
    table.loc[[3, 5], "width"] = np.nan
    table.loc[7, "color"] = None
    table.to_csv("gaps.csv", index=False)
    failed = call("train", "gaps.csv", "--target", "species", *SMALL, code=1)
    assert failed.stdout == ""
    assert "missing values in 2 column(s): width (2), color (1)" in failed.stderr
    assert not (folder / "gaps.safetensors").exists()
    train("gaps.csv", "--target", "species", "--missing", "impute", *SMALL)
    assert len(call("predict", "gaps.safetensors", "gaps.csv").stdout.split()) == 91


def test_unknown_categories_and_columns_are_noted(folder):
    table = flowers()
    table.to_csv("flowers.csv", index=False)
    train("flowers.csv", "--target", "species", *SMALL, "--ignore", "id")
    table.loc[0, "color"] = "mauve"
    table.to_csv("new.csv", index=False)
    result = call("predict", "flowers.safetensors", "new.csv")
    assert "'color' has 1 categories that were not in the training data, in 1 row(s): mauve" in result.stderr
    assert "ignored 1 column(s) that the model does not know: id" in result.stderr
    assert len(result.stdout.split()) == 91


def test_categories_that_look_like_numbers_stay_text(folder):
    table = flowers().assign(color=lambda t: t["color"].map({"red": "07", "blue": "8x", "white": "9"}))
    table.to_csv("codes.csv", index=False)
    train("codes.csv", "--target", "species", *SMALL, "--ignore", "id")
    table[table["color"] == "07"].to_csv("new.csv", index=False)  # on its own this column reads as the number 7
    assert "not in the training data" not in call("predict", "codes.safetensors", "new.csv").stderr


def test_notes_are_in_the_json(folder):
    flowers().to_csv("flowers.csv", index=False)
    notes = train("flowers.csv", "--target", "species", *SMALL, "--activation", "identity")["notes"]
    assert any("identity" in note for note in notes)


def test_rare_classes_do_not_stop_a_training(folder):
    table = flowers()
    table.loc[0, "species"] = "orchid"
    table.to_csv("rare.csv", index=False)
    figures = train("rare.csv", "--target", "species", *SMALL)
    assert len(figures["test_classes"]) == 4
    assert any("too few rows" in note for note in figures["notes"])


def test_no_test_and_no_validation_rows(folder):
    figures = train("digits", *SMALL, "--test-size", 0, "--validation-size", 0)
    assert figures["rows"] == {"training": 1797, "validation": 0, "test": 0}
    assert (
        figures["test_accuracy"]
        is figures["test_classes"]
        is figures["validation_loss"]
        is figures["best_epoch"]
        is None
    )
    assert "test accuracy" not in call("train", "digits", *SMALL, "--test-size", 0).stdout


def test_the_best_epoch_is_kept(folder):
    figures = train(
        "digits", "--layers", "16", "--epochs", 12, "--learning-rate", 0.05, "--dtype", "float64", "--no-plot"
    )
    assert figures["best_epoch"] < 12
    settings = Settings(seed=0)
    table = load_data("digits")
    rows = split_rows(1797, table.columns["digit"].astype(str), settings, note=None).validation
    network = MLP.load("digits.safetensors")
    encoder = TabularEncoder.from_dict(network.metadata["encoder"])
    X = encoder.transform(table.columns)[rows]
    goals = 0.95 * np.eye(10)[table.columns["digit"][rows]] + 0.005
    assert_close(network.evaluate(X, goals), figures["validation_loss"], 64 + 16 + 10 + len(rows), kind="pass")


@pytest.mark.parametrize(
    "options",
    [
        ("--engine", "reference"),
        ("--threads", 1),
        ("--optimizer", "lbfgs"),
        ("--optimizer", "sgd", "--learning-rate", 0.1),
        ("--layers", "none"),
        ("--layers", "8,4", "--activation", "tanh,gelu"),
        ("--initializer", "orthogonal", "--gain", 1.5),
        ("--dtype", "float64"),
        ("--label-smoothing", 0),
        ("--scaling", "column"),
        ("--batch-size", 100),
    ],
)
def test_options_of_training(folder, options):
    figures = train("digits", *SMALL, *options)
    assert 0.15 < figures["test_accuracy"] < 1
    assert figures["epochs"] == 3


def test_info_of_a_model_and_of_the_installation(folder):
    flowers().to_csv("flowers.csv", index=False)
    figures = train("flowers.csv", "--target", "species", *SMALL, "--ignore", "id")
    text = call("info", "flowers.safetensors").stdout
    for told in ("4 x 8", "relu", "one-hot: blue, red, white", "lily, rose, tulip", "test accuracy"):
        assert told in text
    known = json.loads(call("info", "flowers.safetensors", "--json").stdout)
    assert known["layer_sizes"] == [4, 8, 3]
    assert known["figures"]["test_accuracy"] == figures["test_accuracy"]
    assert known["encoder"]["target"]["classes"] == ["lily", "rose", "tulip"]
    assert json.loads(call("info", "--json").stdout)["version"] == show_config()["version"]
    assert str(show_config()["numpy"]) in call("info").stdout


def test_info_of_many_columns_is_short(folder):
    train("digits", *SMALL)
    text = call("info", "digits.safetensors").stdout
    assert "and 44 more columns" in text
    assert "pixel_7_7" not in text


def test_models_that_were_saved_in_python(folder):
    MLP([2, 1], random_state=0).save("plain.safetensors")
    assert "no preprocessing" in call("info", "plain.safetensors").stdout
    flowers().to_csv("flowers.csv", index=False)
    assert "holds no names of columns" in call("predict", "plain.safetensors", "flowers.csv", code=1).stderr


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"encoder": 3}, "encoder must be a dictionary; got 3"),
        ({"encoder": "fits", "figures": {}}, "must have 1 inputs and 1 outputs, as the encoder; got 2 and 1"),
        ({"encoder": "fits 2", "figures": None}, "metadata must have a dictionary 'figures'; got None"),
    ],
)
def test_models_with_strange_metadata_are_refused(folder, metadata, message):
    for name in ("fits", "fits 2"):
        if metadata["encoder"] == name:
            table = {column: np.arange(4.0) for column in ("y", "a", "b")[: 3 if name == "fits 2" else 2]}
            metadata = {**metadata, "encoder": TabularEncoder.fit(table, "y").to_dict()}
    MLP([2, 1], random_state=0).save("strange.safetensors", metadata=metadata)
    assert message in call("info", "strange.safetensors", code=1).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "none.csv", "--target", "y"], "none.csv: No such file or directory"),
        (["train", "notes.txt", "--target", "y"], "file must end in .csv, .tsv, .parquet or .npz; got 'notes.txt'"),
        (["train", "flowers.csv", "--target", "y"], "target must be a column of the table: width, .*; got 'y'"),
        (["train", "flowers.csv", "--target", "species", "--ignore", "x,y"], "there is no x, y to ignore"),
        (["train", "flowers.csv", "--target", "species", "--task", "regression"], "'species' must hold numbers"),
        (["train", "digits", "--ignore", "pixel_9_9"], "digits has no column pixel_9_9 to ignore"),
        (["train", "digits", "-o", "none/a.safetensors"], "--output: there is no folder 'none'"),
        (["train", "digits", "--plot", "none/a.png"], "--plot: there is no folder 'none'"),
        (["train", "digits", "--optimizer", "sgd", "--learning-rate", "1e9"], "training diverged"),
        (["train", "one.csv", "--target", "y"], "1 rows are too few"),
        (["predict", "none.safetensors", "flowers.csv"], "none.safetensors: No such file or directory"),
        (["predict", "flowers.csv", "flowers.csv"], "flowers.csv"),
        (
            ["predict", "model.safetensors", "other.csv"],
            r"2 column\(s\) of the training data are missing: width, color",
        ),
        (["predict", "model.safetensors", "flowers.csv", "-o", "none/a.csv"], "there is no folder 'none'"),
        (["info", "none.safetensors"], "none.safetensors: No such file or directory"),
    ],
)
def test_failures_are_one_line_and_exit_code_1(folder, arguments, message):
    flowers().to_csv("flowers.csv", index=False)
    pd.DataFrame({"other": [1]}).to_csv("other.csv", index=False)
    pd.DataFrame({"a": [1.0], "y": [2.0]}).to_csv("one.csv", index=False)
    if "model.safetensors" in arguments:
        train("flowers.csv", "--target", "species", "--ignore", "id", *SMALL, "-o", "model.safetensors")
    before = set(folder.iterdir())
    result = call(*arguments, *(["--quiet"] if arguments[0] == "train" else []), code=1)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert re.search(message, result.stderr)
    assert set(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "Missing argument"),
        (["train", "flowers.csv"], "--target"),
        (["train", "digits", "--task", "ranking"], "--task"),
        (["train", "digits", "--layers", "8,x"], "--layers"),
        (["train", "digits", "--layers", "0"], "--layers"),
        (["train", "digits", "--activation", "softmax"], "--activation"),
        (["train", "digits", "--layers", "8,8,8", "--activation", "relu,tanh"], "--activation"),
        (["train", "digits", "--gain", "-1"], "--gain"),
        (["train", "digits", "--gain", "nan"], "--gain"),
        (["train", "digits", "--learning-rate", "-1"], "--learning-rate"),
        (["train", "digits", "--optimizer", "lbfgs", "--learning-rate", "1"], "--learning-rate"),
        (["train", "digits", "--epochs", "0"], "--epochs"),
        (["train", "digits", "--threads", "0"], "--threads"),
        (["train", "digits", "--test-size", "1"], "--test-size"),
        (["train", "digits", "--validation-size", "nan"], "--validation-size"),
        (["train", "digits", "--test-size", "0.6", "--validation-size", "0.5"], "--test-size"),
        (["train", "digits", "--label-smoothing", "1.5"], "--label-smoothing"),
        (["train", "digits", "--output", "model.pkl"], "--output"),
        (["train", "digits", "--plot", "curves.bmp"], "--plot"),
        (["predict", "model.safetensors", "prices.csv", "--proba"], "--proba"),
        (["predict", "model.safetensors", "prices.csv", "-o", "a.txt"], "--output"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_usage_errors_have_exit_code_2(folder, arguments, message):
    flowers().to_csv("flowers.csv", index=False)
    prices().to_csv("prices.csv", index=False)
    if "model.safetensors" in arguments:
        train("prices.csv", "--target", "price", *SMALL, "-o", "model.safetensors")
    result = call(*arguments, code=2)
    assert result.stdout == ""
    assert message in result.stderr


def test_parquet_without_pyarrow_says_what_to_install(folder, monkeypatch):
    prices().to_parquet("prices.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    message = call("train", "prices.parquet", "--target", "price", code=1).stderr
    assert message == 'error: reading .parquet files needs pyarrow: pip install "cymlp[parquet]"\n'


def _interrupt_in_epoch(monkeypatch, epoch):
    """A real SIGINT after that epoch; after the checks of the data for 0."""
    original = MLP.train

    def train(self, X, y, *, callback, **arguments):
        if epoch == 0:
            signal.raise_signal(signal.SIGINT)

        def interrupting(event):
            if event.epoch == epoch:
                signal.raise_signal(signal.SIGINT)

        return original(self, X, y, callback=[interrupting, *callback], **arguments)

    monkeypatch.setattr(MLP, "train", train)


def test_interrupt_keeps_the_last_whole_epoch(folder, monkeypatch):
    figures = train("digits", "--epochs", 4, "--validation-size", 0, "-o", "four.safetensors")
    _interrupt_in_epoch(monkeypatch, 4)
    result = call(
        "train", "digits", "--epochs", 1000, "--validation-size", 0, "-o", "cut.safetensors", "--json", code=130
    )
    assert result.stderr == "interrupted: the model is that of epoch 4, the last whole one\n"
    cut = json.loads(result.stdout)
    assert (cut["epochs"], cut["interrupted"], figures["interrupted"]) == (4, True, False)
    assert np.array_equal(MLP.load("cut.safetensors").parameters, MLP.load("four.safetensors").parameters)
    assert (folder / "cut-curves.png").exists()


def test_interrupt_before_the_first_epoch_saves_nothing(folder, monkeypatch):
    _interrupt_in_epoch(monkeypatch, 0)
    result = call("train", "digits", code=130)
    assert "interrupted before the first epoch was whole: nothing is saved" in result.stderr
    assert list(folder.iterdir()) == []


def test_without_the_extra_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name in ("typer", "rich") else types.ModuleType(name))
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 'error: the command needs typer, rich; install with: pip install "cymlp[cli]"'


def test_python_m_cymlp_in_a_process_of_its_own(folder):
    command = [sys.executable, "-m", "cymlp"]
    done = subprocess.run([*command, "train", "digits", *SMALL, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["model"] == "digits.safetensors"
    assert done.stderr == ""
    failed = subprocess.run([*command, "info", "none.safetensors"], capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == "error: none.safetensors: No such file or directory\n"
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith("cymlp ")
