"""The command line on a network's health: cymlp doctor, which looks at a short training, and cymlp forecast."""

import functools
import json
import signal
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_cli import call, flowers, prices

import cymlp
from cymlp import MLP, doctor, optimizers
from cymlp.doctor import diagnose
from cymlp.experiment import Settings, load_data, prepare
from cymlp.health.rules import RULES
from cymlp.terminal import Terminal

DEEP = ",".join(["32"] * 20)
FIGURES = {
    *("task", "target", "rows", "layer_sizes", "optimizer", "label_smoothing", "schedule", "warm_up", "batch_size"),
    *("normalization", "initializer", "gain", "dropout", "l1", "l2", "max_norm", "penalize_biases", "clip_norm"),
    *("clip_layer_norm", "clip_value", "class_weight", "order", "seed", "dtype", "engine"),
    *("forecast", "training", "healthy", "findings", "names", "changes", "training_changes", "forecast_after"),
    *("training_after", "comparison", "records", "plot", "notes"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder to work in: files go where the command was called."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def examine(*arguments, code=1):
    """The figures of a doctor that finds something, unless the exit code is another."""
    return json.loads(call("doctor", *arguments, "--no-plot", "--json", code=code).stdout)


def found(figures):
    return [finding["rule"] for finding in figures["findings"]]


def unscaled(n_rows=600):
    """Two columns of which one is a million times as large as the other."""
    rng = np.random.default_rng(2)
    rate, area = rng.standard_normal(n_rows), 1e6 * (2 + rng.standard_normal(n_rows))
    town = rng.choice(["Bern", "Oslo"], n_rows)
    return pd.DataFrame({"rate": rate, "town": town, "area": area, "large": np.where(rate > 0, "yes", "no")})


def rare(n_rows=2000):
    """A class of which there is a row in forty."""
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, n_rows))
    fraud = a + b + 1.5 * rng.standard_normal(n_rows) > 4
    return pd.DataFrame({"a": a, "b": b, "kind": np.where(fraud, "fraud", "sound")})


# ---- Healthy networks ----


@pytest.mark.parametrize("data", ["digits", "flowers.csv", "prices.csv"])
def test_healthy_networks_have_no_findings(data):
    flowers().to_csv("flowers.csv", index=False)
    prices().to_csv("prices.csv", index=False)
    target = {"flowers.csv": ("--target", "species", "--ignore", "id"), "prices.csv": ("--target", "price")}
    figures = examine(data, *target.get(data, ()), "--apply", code=0)
    assert (figures["healthy"], figures["findings"], figures["changes"]) == (True, [], [])
    assert (figures["forecast_after"], figures["training_after"], figures["comparison"]) == (None, None, None)
    assert figures["forecast"]["verdict"].startswith("Healthy")
    assert 700 <= figures["records"]["step"][-1] < 760
    assert figures["training"]["loss"][-1] < figures["training"]["loss"][0]


def test_json_is_one_object_with_all_figures():
    figures = examine("digits", "--layers", "16", "--every", 50, "--epochs", 5, code=0)
    assert set(figures) == FIGURES
    assert figures["rows"] == {"training": 1257, "validation": 180, "test": 360}
    assert figures["records"]["step"] == [1, 2, 4, 8, 16, 32, 50, 100, 150, 200]
    training = figures["training"]
    assert figures["notes"] == ["after fewer than 18 epochs some rules cannot tell yet"]
    assert (training["epochs"], training["interrupted"], training["diverged"]) == (5, False, None)
    assert len(training["loss"]) == len(training["validation_loss"]) == 5
    assert 0.5 < training["accuracy"] < 1
    assert training["rmse"] is training["r2"] is None
    forecast = figures["forecast"]
    assert len(forecast["activation_scale"]) == len(forecast["measured_gradient_scale"]) == 3
    assert np.shape(forecast["gradient_band"]) == (2, 3)


def test_the_network_and_its_training_are_those_of_train(monkeypatch):
    """The same rows, the same network, the same options: the losses of the same epochs are the same."""
    options = ("digits", "--layers", "16", "--epochs", 3, "--dropout", 0.1, "--seed", 2, "--clip-norm", 1)
    options += ("--schedule", "cosine", "--warm-up", 10, "--learning-rate", 0.002, "--order", "stratified")
    figures = examine(*options, code=0)
    call("train", *options, "--no-plot", "--quiet", "--log", "log.csv")
    log = pd.read_csv("log.csv")
    assert figures["training"]["loss"] == log["loss"].tolist()
    assert figures["training"]["validation_loss"] == log["validation_loss"].tolist()


def test_people_get_forecast_findings_and_a_picture(folder):
    result = call("doctor", "digits", "--layers", "16", "--initializer", "zeros", "--plot", "health.svg", code=1)
    lines = result.stdout.splitlines()
    assert "Forecast for 64-16-10" in result.stdout
    assert "1. symmetric units" in result.stdout
    assert "Changes\n- " in result.stdout
    assert "\nAfter these changes\n" in result.stdout
    assert "with changes" not in result.stdout
    assert lines[-1] == "picture        health.svg"
    assert "1257 rows for training" in result.stderr
    assert "epoch 18/18" in result.stderr
    assert "<svg" in (folder / "health.svg").read_text()
    assert call("doctor", "digits", "--layers", "16", "--quiet").output == ""
    assert (folder / "digits-health.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(folder.iterdir())) == 2


# ---- Broken ones ----


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("vanishing gradients", ("digits", "--layers", DEEP, "--activation", "sigmoid")),
        ("symmetric units", ("digits", "--layers", "32", "--initializer", "zeros")),
        ("restless layers", ("digits", "--layers", "32", "--learning-rate", 10)),
        ("still layers", ("digits", "--layers", "32", "--optimizer", "sgd", "--learning-rate", 1e-7)),
        ("inputs not scaled", ("unscaled.csv", "--target", "large", "--scaling", "none")),
        ("targets not scaled", ("targets.csv", "--target", "area", "--scaling", "none")),
        ("class imbalance", ("rare.csv", "--target", "kind")),
    ],
)
def test_what_is_found_is_changed_and_the_change_helps(rule, options):
    unscaled().to_csv("unscaled.csv", index=False)
    unscaled().assign(area=lambda t: 5000 + 50 * t["rate"]).to_csv("targets.csv", index=False)
    rare().to_csv("rare.csv", index=False)
    figures = examine(*options, "--apply")
    assert set(figures) == FIGURES
    assert found(figures)[0] == rule in RULES
    assert figures["changes"]
    assert figures["forecast_after"]["verdict"].startswith("Healthy")
    assert rule not in figures["training_after"]["findings"]
    assert figures["comparison"]["better"] is True
    text = call("doctor", *options, "--apply", "--no-plot", code=1).stdout
    assert f"1. {rule}" in text
    assert text.splitlines()[-1].startswith("better         ")


def test_inputs_and_classes_have_their_names():
    unscaled().to_csv("unscaled.csv", index=False)
    rare().to_csv("rare.csv", index=False)
    options = ("unscaled.csv", "--target", "large", "--scaling", "none")
    assert examine(*options)["names"] == {"input 3": "area"}  # after rate, town=Bern, town=Oslo
    assert "\ninput 3        area\n" in call("doctor", *options, "--no-plot", code=1).stdout
    assert examine("rare.csv", "--target", "kind")["names"] == {"class 0": "fraud"}


def test_numbers_as_they_are_may_be_very_large():
    """Squares of them are infinite in float32."""
    table = prices().assign(price=lambda t: 1e25 * t["price"])
    table.to_csv("large.csv", index=False)
    figures = examine("large.csv", "--target", "price", "--scaling", "none", "--apply")
    assert set(found(figures)) == {"targets not scaled"}
    after, comparison = figures["training_after"], figures["comparison"]
    assert comparison["better"] is True
    variance = table["price"].std() ** 2
    assert after["r2"] == pytest.approx(1 - after["rmse"] ** 2 / variance, abs=0.2)


def test_a_change_is_better_than_a_constant_answer_too():
    problem = prepare(load_data("digits"), "digit", None, Settings(), Terminal(silent=True))
    trial = dict.fromkeys(("accuracy", "mean_recall", "log_loss", "r2", "rmse")) | {"findings": []}
    worse, better = trial | {"log_loss": 2.4}, trial | {"log_loss": 2.1}
    near = trial | {"log_loss": 2.04}
    assert doctor._comparison(problem, better, near)["better"] is False
    assert doctor._comparison(problem, trial, worse)["better"] is False
    assert doctor._comparison(problem, worse, better)["better"] is True
    assert doctor._comparison(problem, better, worse)["better"] is False
    assert doctor._comparison(problem, trial, trial)["better"] is False
    assert doctor._comparison(problem, trial, better) == {
        "by": "log_loss", "before": None, "after": 2.1, "constant": pytest.approx(np.log(10), abs=1e-3), "better": True,
    }  # fmt: skip


# ---- Trainings that end early ----


def test_a_training_that_diverges_is_examined():
    figures = examine("digits", "--layers", "32", "--optimizer", "sgd", "--learning-rate", 1e12)
    assert "diverged" in figures["training"]["diverged"]
    assert figures["training"]["epochs"] == 0
    assert figures["training"]["accuracy"] is None
    assert found(figures)
    assert "diverged" in call("doctor", "digits", "--optimizer", "sgd", "--learning-rate", 1e12, code=1).stdout


def _interrupt(monkeypatch, epoch, training=1):
    """Ctrl-C at the end of an epoch of one of the trainings."""
    original, trainings = MLP.train, []

    @functools.wraps(original)
    def interrupted(self, *data, callback, **arguments):
        trainings.append(self)

        def interrupt(event):
            callback(event)
            if event.epoch == epoch and len(trainings) == training:
                signal.raise_signal(signal.SIGINT)

        return original(self, *data, callback=interrupt, **arguments)

    monkeypatch.setattr(MLP, "train", interrupted)


def test_an_interrupt_ends_with_the_findings_so_far(monkeypatch):
    _interrupt(monkeypatch, 3)
    options = ("doctor", "digits", "--layers", "32", "--initializer", "zeros", "--apply", "--json")
    result = call(*options, code=130)
    figures = json.loads(result.stdout)
    assert (figures["training"]["epochs"], figures["training"]["interrupted"]) == (3, True)
    assert found(figures) == ["symmetric units"]
    assert figures["forecast_after"] is not None
    assert figures["training_after"] is None
    assert result.stderr == "interrupted: these are the findings so far\n"


def test_an_interrupt_of_the_second_training_ends_it(monkeypatch):
    _interrupt(monkeypatch, 2, training=2)
    figures = examine("digits", "--layers", "32", "--initializer", "zeros", "--apply", code=130)
    assert (figures["training"]["epochs"], figures["training_after"]["epochs"]) == (18, 2)


def _interrupt_at_once(monkeypatch, training):
    """Ctrl-C before the first step of one of the trainings."""
    original, trainings = MLP.train, []

    @functools.wraps(original)
    def interrupted(self, *data, optimizer, **arguments):
        trainings.append(self)

        def interrupting(step):
            raise KeyboardInterrupt

        rate = interrupting if len(trainings) == training else optimizer.learning_rate
        return original(self, *data, optimizer=replace(optimizer, learning_rate=rate), **arguments)

    monkeypatch.setattr(MLP, "train", interrupted)


def test_an_interrupt_before_there_is_anything_to_examine(monkeypatch):
    _interrupt_at_once(monkeypatch, 1)
    result = call("doctor", "digits", "--quiet", "--no-plot", code=130)
    assert (result.stdout, result.stderr) == ("", "interrupted before there was anything to examine\n")


def test_an_interrupt_before_the_second_training_keeps_the_findings_of_the_first(monkeypatch):
    _interrupt_at_once(monkeypatch, 2)
    figures = examine("digits", "--layers", "32", "--initializer", "zeros", "--apply", code=130)
    assert found(figures) == ["symmetric units"]
    assert figures["training_after"] is figures["comparison"] is None


# ---- Options ----


@pytest.mark.parametrize(
    "options",
    [
        ("--engine", "reference"),
        ("--optimizer", "lbfgs"),
        ("--layers", "none"),
        ("--layers", "32,16", "--activation", "tanh,gelu", "--dropout", "0.1,0.1,0.2"),
        ("--normalization", "batch", "--dtype", "float64"),
        ("--normalization", "layer", "--every", 1),
        ("--initializer", "orthogonal", "--weight-decay", 0.1, "--max-norm", 5),
    ],
)
def test_options_of_the_doctor(options):
    figures = examine("digits", "--layers", "32", *options, code=0)
    assert figures["training"]["accuracy"] > 0.5


def test_epochs_are_as_many_as_all_rules_need():
    assert (doctor.EPOCHS, doctor.UPDATES) == (5, 700)
    flowers(60).to_csv("flowers.csv", index=False)
    options = ("flowers.csv", "--target", "species", "--ignore", "id", "--layers", "16")
    assert examine(*options, code=0)["training"]["epochs"] == 350  # of 2 updates
    assert examine(*options, "--batch-size", 8, code=0)["training"]["epochs"] == 117  # of 6
    assert examine(*options, "--epochs", 3, "--learning-rate", 0.01, code=0)["training"]["epochs"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.csv", "--target", "a"], "No such file"),
        (["flowers.csv", "--target", "petal"], "target must be a column"),
        (["flowers.csv", "--target", "species", "--plot", "nowhere/a.png"], "--plot: there is no folder"),
        (["flowers.csv", "--target", "species", "--ignore", "weight"], "to ignore"),
    ],
)
def test_what_does_not_work_is_one_line_and_exit_code_2(arguments, message):
    flowers().to_csv("flowers.csv", index=False)
    result = call("doctor", *arguments, code=2)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--every", "0"], "--every"),
        (["--epochs", "0"], "--epochs"),
        (["--gain", "0"], "--gain"),
        (["--layers", "0"], "--layers"),
        (["--plot", "a.txt"], "--plot"),
        (["--optimizer", "lbfgs", "--warm-up", "5"], "--warm-up"),
        (["--optimizer", "lbfgs", "--schedule", "step"], "--schedule"),
    ],
)
def test_usage_errors_name_the_option(arguments, message):
    assert message in call("doctor", "digits", *arguments, code=2).stderr


def test_data_are_no_picture():
    flowers().to_csv("flowers.png", index=False)
    assert "same file as DATA" in call("doctor", "flowers.png", "--plot", "flowers.png", code=2).stderr


def test_help_tells_the_exit_codes():
    for command in ("doctor", "forecast"):
        text = " ".join(call(command, "--help").stdout.split())
        assert "Exit codes: 0 " in text


# ---- Forecasts without data ----


def test_a_forecast_is_that_of_the_library():
    result = call("forecast", "784,256,10", "--json")
    figures = json.loads(result.stdout)
    expected = cymlp.forecast([784, 256, 10])
    assert figures["verdict"] == expected.verdict
    assert figures["activation_scale"] == expected.activation_scale.tolist()
    assert figures["gradient_band"] == expected.gradient_band.tolist()
    assert figures["measured_activation_scale"] is None
    assert call("forecast", "784,256,10").stdout == f"{expected}\n"
    assert call("forecast", "784,256,10", "--quiet").output == ""


def test_options_of_forecasts():
    options = ("--activation", "tanh,relu", "--initializer", "normal", "--gain", 3, "--bias", 0.1, "--dropout", 0.2)
    options += ("--dtype", "float64", "--input-scale", 2, "--output-activation", "softmax")
    code = 0 if cymlp.forecast([9, 8, 7, 2], "relu", input_scale=2).verdict.startswith("Healthy") else 1
    assert code == 0
    figures = json.loads(call("forecast", "9,8,7,2", "--input-scale", 2, "--measure", "--seed", 5, "--json").stdout)
    measured = cymlp.forecast([9, 8, 7, 2], input_scale=2).measure(random_state=5)
    assert figures["measured_activation_scale"] == measured.measured_activation_scale.tolist()
    expected = cymlp.forecast(
        [9, 8, 7, 2], ["tanh", "relu"], "normal", 3.0, 0.1, 0.2, dtype="float64", output_activation="softmax",
        input_scale=2.0,
    )  # fmt: skip
    code = 0 if expected.verdict.startswith("Healthy") else 1
    assert call("forecast", "9,8,7,2", *options, code=code).stdout == f"{expected}\n"


def test_a_forecast_that_is_not_healthy_has_exit_code_1(folder):
    sizes = ",".join(["100"] * 50)
    result = call("forecast", sizes, "--activation", "sigmoid", "--plot", "deep.svg", code=1)
    assert "sigmoid, glorot_uniform: vanishing" in result.stdout.splitlines()[0]
    assert result.stdout.splitlines()[-1] == "picture        deep.svg"
    assert "<svg" in (folder / "deep.svg").read_text()
    for normalization in ("batch", "layer"):
        call("forecast", sizes, "--normalization", normalization, "--activation", "tanh")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["784"], "SIZES"),
        (["784,0"], "SIZES"),
        (["784-10"], "SIZES"),
        (["784,10", "--gain", "nan"], "--gain"),
        (["784,10", "--bias", "-1"], "--bias"),
        (["784,10", "--input-scale", "inf"], "--input-scale"),
        (["784,10", "--input-scale", "0"], "--input-scale"),
        (["784,8,10", "--activation", "softmax"], "--activation"),
        (["784,8,10", "--dropout", "2"], "--dropout"),
        (["784,10", "--plot", "a.txt"], "--plot"),
    ],
)
def test_forecasts_that_cannot_be_made(arguments, message):
    assert message in call("forecast", *arguments, code=2).stderr


def test_a_diagnosis_holds_what_it_found():
    settings = Settings(hidden_layers=(16,), initializer="zeros", optimizer=optimizers.Adam())
    diagnosis = diagnose(load_data("digits"), "digit", None, settings, Terminal(silent=True), apply=True)
    assert diagnosis.trial.report.findings[0].rule == "symmetric units"
    assert diagnosis.applied.model is diagnosis.second.network
    assert diagnosis.second.is_healthy
    assert not diagnosis.trial.is_healthy
