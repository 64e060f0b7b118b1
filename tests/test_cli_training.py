"""Training control on the command line: regularization, schedules, stopping, checkpoints, logs, the range test."""

import functools
import inspect
import json
import os
import signal

import numpy as np
import pandas as pd
import pytest
from test_cli import SMALL, call, flowers, prices, train

from cymlp import MLP, RangeTest, commands, experiment, learning_rate_range, optimizers, schedules
from cymlp.experiment import SCHEDULES, Settings


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder to work in: files go where the command was called."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def told(monkeypatch):
    """What `MLP.train` is told, call by call."""
    calls, original = [], MLP.train

    @functools.wraps(original)
    def spy(self, *data, **arguments):
        calls.append({**arguments, "network": self})
        return original(self, *data, **arguments)

    monkeypatch.setattr(MLP, "train", spy)
    return calls


# ---- Regularization ----


def test_what_is_asked_for_is_what_training_is_told(told):
    figures = train(
        *("digits", *SMALL, "--dropout", 0.25, "--l1", 1e-6, "--l2", 1e-5, "--weight-decay", 0.5, "--max-norm", 3),
        *("--clip-norm", 2, "--patience", 7, "--target-loss", 0.01, "--max-time", 60, "--normalization", "batch"),
    )
    (asked,) = told
    assert asked["optimizer"] == optimizers.AdamW(weight_decay=0.5)
    assert {name: asked[name] for name in ("dropout", "l1", "l2", "max_norm", "clip_norm", "max_time")} == {
        "dropout": 0.25, "l1": 1e-6, "l2": 1e-5, "max_norm": 3.0, "clip_norm": 2.0, "max_time": 60.0,
    }  # fmt: skip
    assert (asked["stopping"].patience, asked["stopping"].target) == (7, 0.01)
    assert [normalization.name for normalization in asked["network"].normalizations] == ["batch"]
    assert (figures["dropout"], figures["normalization"], figures["clip_norm"]) == (0.25, "batch", 2.0)
    assert figures["optimizer"]["weight_decay"] == 0.5
    assert figures["stopped"] == "epochs"


def test_other_clippings_weights_of_classes_orders_and_biases(told):
    figures = train(
        *("digits", *SMALL, "--clip-layer-norm", 2, "--l2", 1e-5, "--penalize-biases"),
        *("--class-weight", "balanced", "--order", "weighted"),
    )
    train("digits", *SMALL, "--clip-value", 0.5, "--order", "sequential")
    names = ("clip_layer_norm", "clip_value", "penalize_biases", "class_weight", "shuffle")
    assert [tuple(asked[name] for name in names) for asked in told] == [
        (2.0, None, True, "balanced", "weighted"),
        (None, 0.5, False, None, False),
    ]
    assert (figures["order"], figures["class_weight"], figures["penalize_biases"]) == ("weighted", "balanced", True)


def test_without_options_training_is_told_nothing_of_them(told):
    train("digits", *SMALL)
    (asked,) = told
    defaults = {name: parameter.default for name, parameter in inspect.signature(MLP.train).parameters.items()}
    for name in ("dropout", "l1", "l2", "max_norm", "clip_norm", "max_time", "checkpoint"):
        assert asked[name] == defaults[name]
    assert asked["optimizer"] == optimizers.AdamW()
    assert asked["stopping"].patience is None


def test_dropout_by_layer_and_another_decay(told):
    train("digits", *SMALL, "--dropout", "0.1,0.5", "--optimizer", "sgd", "--weight-decay", 0.1, "--learning-rate", 0.2)
    assert told[0]["dropout"] == [0.1, 0.5]
    assert told[0]["optimizer"] == optimizers.SGD(0.2, weight_decay=0.1)


@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_normalized_models_are_saved_and_predict(normalization):
    flowers().to_csv("flowers.csv", index=False)
    figures = train(
        *("flowers.csv", "--target", "species", "--ignore", "id", "--layers", "16,8", "--epochs", 200, "--no-plot"),
        *("--normalization", normalization, "--seed", 1),
    )
    assert figures["test_accuracy"] > 0.9
    assert all(network is not None for network in MLP.load("flowers.safetensors").normalizations)
    predicted = call("predict", "flowers.safetensors", "flowers.csv").stdout.split()
    assert np.mean(np.array(predicted[1:]) == flowers()["species"]) > 0.9
    assert normalization in call("info", "flowers.safetensors").stdout


# ---- Schedules ----


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_by_name(name, told):
    figures = train("digits", *SMALL, "--schedule", name, "--learning-rate", 0.01)
    rate = told[0]["optimizer"].learning_rate
    assert (figures["schedule"], figures["warm_up"], figures["optimizer"]["learning_rate"]) == (name, 0, 0.01)
    assert "schedule" not in figures["optimizer"]
    if name == "constant":
        assert rate == 0.01
        return
    assert type(rate) is schedules.SCHEDULES[name]
    values = rate(np.arange(120), 120)  # 40 updates in each of 3 epochs
    assert values.max() == 0.01
    assert figures["test_accuracy"] > 0.1
    if name == "step":
        assert [int(step) for step in np.flatnonzero(np.diff(values)) + 1] == [60, 90]
    if name == "inverse":
        assert values[40] == pytest.approx(0.01 / 2**0.5, abs=1e-12)
    if name == "one-cycle":
        assert values.argmax() == 36


@pytest.mark.parametrize("name", ["constant", "cosine", "step"])
def test_warm_up_comes_before_any(name, told):
    train("digits", *SMALL, "--schedule", name, "--warm-up", 20)
    rate = told[0]["optimizer"].learning_rate
    assert (type(rate), rate.steps, rate.start) == (schedules.WarmUp, 20, 0.0)
    values = rate(np.arange(120), 120)
    assert values[:21].tolist() == pytest.approx([0.001 * step / 20 for step in range(21)], abs=1e-12)
    if name == "step":
        assert (np.flatnonzero(np.diff(values[20:])) + 21).tolist() == [70, 95]


def test_short_runs_have_schedules_too(told):
    for name in SCHEDULES:
        train("digits", "--epochs", 1, "--batch-size", 2000, "--no-plot", "--schedule", name)
        train("digits", "--epochs", 1, "--batch-size", 2000, "--no-plot", "--schedule", name, "--warm-up", 5)


# ---- Stopping ----


def test_patience_ends_a_training_and_the_best_epoch_is_kept():
    options = ("digits", "--layers", "16", "--learning-rate", 0.05, "--epochs", 200, "--no-plot")
    figures = train(*options, "--patience", 4)
    assert figures["stopped"] == "patience"
    assert figures["epochs"] == figures["best_epoch"] + 4 < 200
    assert "no longer better" in call("train", *options, "--patience", 4).stdout
    again = train(*options, "--epochs", figures["epochs"], "-o", "again.safetensors")
    assert again["best_epoch"] == figures["best_epoch"]
    assert np.array_equal(MLP.load("digits.safetensors").parameters, MLP.load("again.safetensors").parameters)


def test_a_target_ends_a_training():
    figures = train("digits", "--epochs", 300, "--no-plot", "--target-loss", 0.45)
    assert figures["stopped"] == "target"
    assert figures["validation_loss"] <= 0.45
    assert figures["epochs"] == figures["best_epoch"] < 300


def test_without_validation_rows_the_loss_decides_and_the_last_epoch_is_kept():
    figures = train("digits", "--epochs", 300, "--no-plot", "--validation-size", 0, "--target-loss", 0.5)
    assert (figures["stopped"], figures["best_epoch"]) == ("target", None)
    assert figures["training_loss"] <= 0.5


def test_a_time_limit_ends_a_training():
    figures = train("digits", "--epochs", 10**9, "--no-plot", "--max-time", 0.3)
    assert figures["stopped"] == "time"
    assert figures["epochs"] > 0
    slow = ("--layers", "2000,2000", "--batch-size", 8)  # an epoch of more than one look at the clock
    message = call("train", "digits", "--no-plot", "--quiet", "--max-time", 1e-9, *slow, code=1).stderr
    assert message == "error: no epoch was whole within 1e-09 s: nothing has been learned\n"


# ---- Checkpoints and logs ----


def test_a_training_that_was_interrupted_goes_on_from_its_checkpoint(folder, monkeypatch):
    options = ("digits", "--layers", "16", "--epochs", 6, "--dropout", 0.2, "--schedule", "cosine")
    whole = train(*options, "-o", "whole.safetensors", "--log", "whole.csv")
    kept = (*options, "-o", "cut.safetensors", "--checkpoint", "run.checkpoint", "--log", "cut.csv")

    original = MLP.train

    def interrupted(self, *data, callback, **arguments):
        def interrupt(event):
            if event.epoch == 3:
                signal.raise_signal(signal.SIGINT)

        return original(self, *data, callback=[*callback, interrupt], **arguments)

    monkeypatch.setattr(MLP, "train", interrupted)
    assert json.loads(call("train", *kept, "--json", code=130).stdout)["epochs"] == 3
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    figures = train(*kept)
    assert {**figures, "train_seconds": 0, "model": "", "plot": ""} == {
        **whole, "train_seconds": 0, "model": "", "plot": "",
    }  # fmt: skip
    assert np.array_equal(MLP.load("whole.safetensors").parameters, MLP.load("cut.safetensors").parameters)
    logs = [pd.read_csv(name).drop(columns="seconds") for name in ("whole.csv", "cut.csv")]
    assert logs[0].equals(logs[1])
    assert train(*kept)["epochs"] == 6  # it has ended: nothing is left to do
    message = call("train", *kept, "--l2", 0.1, "--quiet", code=1).stderr
    assert "l2" in message
    assert "run.checkpoint" in message


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_logs_have_a_line_for_each_epoch(suffix):
    figures = train("digits", *SMALL, "--log", f"log.{suffix}", "--clip-norm", 100)
    log = pd.read_csv("log.csv") if suffix == "csv" else pd.read_json("log.jsonl", lines=True)
    assert log["epoch"].tolist() == [1, 2, 3]
    assert log["step"].tolist() == [40, 80, 120]
    assert log["loss"].tolist()[-1] == pytest.approx(figures["training_loss"], rel=1e-12)
    assert log["learning_rate"].tolist() == [0.001] * 3
    assert log["metric"].between(0, 1).all()
    assert log["gradient_norm"].gt(0).all()


# ---- The range test ----


def test_rates_are_those_of_the_library():
    figures = json.loads(call("rates", "digits", "--layers", "16", "--seed", 3, "--steps", 100, "--json").stdout)
    assert set(figures) == {"suggestion", "optimizer", "learning_rates", "losses", "smoothed", "plot", "notes"}
    table = experiment.load_data("digits")
    settings = Settings(hidden_layers=(16,), seed=3)
    problem = experiment.prepare(table, "digit", None, settings, commands.Terminal(silent=True))
    rows = problem.split.training
    test = learning_rate_range(
        problem.network, problem.X[rows], problem.y[rows], steps=100, optimizer="adamw", label_smoothing=0.05
    )
    assert figures["losses"] == test.losses.tolist()
    assert figures["suggestion"] == test.suggestion
    assert figures["plot"] == "digits-rates.png"


def test_people_get_a_rate_and_a_picture(folder):
    result = call("rates", "digits", "--plot", "rates.svg")
    assert result.stdout.splitlines()[0].startswith("learning rate  0.00")
    assert "updates" in result.stdout
    assert "1257 rows for training" in result.stderr
    assert "<svg" in (folder / "rates.svg").read_text()
    assert call("rates", "digits", "--quiet", "--no-plot").output == ""
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    "options",
    [
        ("--optimizer", "sgd", "--highest", 100),
        ("--dropout", "0.1,0.2", "--normalization", "layer", "--l2", 0.001, "--clip-norm", 1, "--max-norm", 4),
        ("--batch-size", 7, "--lowest", 1e-5, "--engine", "reference"),
        ("--weight-decay", 0.1, "--dtype", "float64", "--label-smoothing", 0),
    ],
)
def test_options_of_rates(options):
    prices().to_csv("prices.csv", index=False)
    figures = json.loads(
        call("rates", "prices.csv", "--target", "price", "--layers", "8", "--no-plot", "--json", *options).stdout
    )
    assert figures["learning_rates"][0] < figures["suggestion"] < figures["learning_rates"][-1]
    assert figures["plot"] is None


def test_a_loss_that_never_falls_has_no_rate(monkeypatch):
    x = np.linspace(0.1, 1, 20)
    monkeypatch.setattr(commands, "find_rates", lambda *_: RangeTest(x, x, x, None))
    text = call("rates", "digits").stdout
    assert text.splitlines()[:2] == ["learning rate  none: the loss never falls", "least loss     0.1000 at 0.1"]
    assert json.loads(call("rates", "digits", "--json").stdout)["suggestion"] is None


# ---- What is refused ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dropout", "1.5"], "--dropout"),
        (["--dropout", "a"], "--dropout"),
        (["--dropout", "nan"], "--dropout"),
        (["--layers", "8", "--dropout", "0.1,0.2,0.3"], "must be one number, or 2"),
        (["--l1", "-1"], "--l1"),
        (["--l2", "-1"], "--l2"),
        (["--weight-decay", "-1"], "--weight-decay"),
        (["--weight-decay", "nan"], "--weight-decay"),
        (["--optimizer", "adam", "--weight-decay", "0.1"], "use adamw"),
        (["--optimizer", "lbfgs", "--weight-decay", "0.1"], "--weight-decay"),
        (["--optimizer", "lbfgs", "--schedule", "cosine"], "--schedule"),
        (["--optimizer", "lbfgs", "--warm-up", "5"], "--warm-up"),
        (["--schedule", "sine"], "--schedule"),
        (["--warm-up", "-1"], "--warm-up"),
        (["--normalization", "group"], "--normalization"),
        (["--patience", "0"], "--patience"),
        (["--log", "log.txt"], "--log"),
    ],
)
def test_usage_errors_have_exit_code_2(arguments, message, folder):
    result = call("train", "digits", *arguments, code=2)
    assert message in " ".join(result.stderr.replace("│", "").split())
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--log", "a.csv"], "must not be the same file as DATA; got 'a.csv'"),
        (["--log", "link.csv"], "must not be the same file as DATA; got 'link.csv'"),
        (["--checkpoint", "./a.csv"], "must not be the same file as DATA; got 'a.csv'"),
        (["--checkpoint", "a.safetensors"], "must not be the same file as --output; got 'a.safetensors'"),
        (["--checkpoint", "log.csv", "--log", "log.csv"], "must not be the same file as --checkpoint; got 'log.csv'"),
        (["--checkpoint", "a-curves.png"], "must not be the same file as --plot; got 'a-curves.png'"),
    ],
)
def test_no_file_is_written_over_another(arguments, message, folder):
    prices().to_csv("a.csv", index=False)
    os.symlink("a.csv", "link.csv")
    before = (folder / "a.csv").read_bytes()
    result = call("train", "a.csv", "--target", "price", *arguments, code=2)
    assert message in " ".join(result.stderr.replace("│", "").split())
    assert (folder / "a.csv").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["a.csv", "link.csv"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer", "lbfgs"], "--optimizer"),
        (["--lowest", "0"], "--lowest"),
        (["--lowest", "1", "--highest", "0.1"], "--highest"),
        (["--highest", "inf"], "--highest"),
        (["--steps", "5"], "--steps"),
        (["--plot", "a.bmp"], "--plot"),
        (["--label-smoothing", "1"], "--label-smoothing"),
        (["--gain", "0"], "--gain"),
    ],
)
def test_usage_errors_of_rates(arguments, message, folder):
    assert message in call("rates", "digits", *arguments, code=2).stderr
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-norm", "0"], "max_norm must be None or a finite number > 0; got 0.0"),
        (["--clip-norm", "0"], "clip_norm must be None or a number > 0; got 0.0"),
        (["--target-loss", "inf"], "EarlyStopping.target must be None or a finite number; got inf"),
        (["--max-time", "0"], "max_time must be None or a number of seconds > 0; got 0.0"),
        (["--optimizer", "lbfgs", "--dropout", "0.5"], "dropout must be 0.0 for optimizer 'lbfgs'"),
        (["--checkpoint", "none/run.checkpoint"], "--checkpoint: there is no folder 'none'"),
        (["--log", "none/log.csv"], "--log: there is no folder 'none'"),
        (["--checkpoint", "table.csv"], "table.csv"),
    ],
)
def test_failures_are_one_line_and_exit_code_1(arguments, message, folder):
    (folder / "table.csv").write_text("a,b\n1,2\n")
    result = call("train", "digits", *SMALL, "--quiet", *arguments, code=1)
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert [path.name for path in folder.iterdir()] == ["table.csv"]
    assert (folder / "table.csv").read_text() == "a,b\n1,2\n"
