"""The commands: what can be asked on the command line, and how it is answered.

Exit codes: 0 done, 1 it did not work (one line on stderr says why), 2 the command line is wrong, 130 interrupted.
Commands that examine have those of linters: 0 nothing was found, 1 something was, 2 it did not work.
Libraries that only some commands need are imported where they are used, so that ``--help`` does not wait for them.
"""

import functools
import json
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from . import __version__, arguments, show_config
from .arguments import output_file, usage
from .experiment import find_rates, load_data, run
from .network import MLP
from .plots import SUFFIXES
from .tables import check_names, some
from .tabular import TabularEncoder
from .terminal import (
    Terminal,
    print_diagnosis,
    print_encoder,
    print_outcome,
    print_pairs,
    print_picture,
    print_rates,
)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train multilayer perceptrons on tables and use them.",
)


FIGURES_SHOWN = (
    *("test_accuracy", "test_log_loss", "test_r2", "test_rmse", "test_mae"),
    *("training_loss", "validation_loss", "epochs", "best_epoch", "train_seconds", "batch_size", "seed"),
)
LOGS = (".csv", ".jsonl")


def _reports_failures(command=None, *, code=1):
    """A command whose errors are one line on stderr and an exit code, not a traceback."""
    if command is None:
        return functools.partial(_reports_failures, code=code)

    @functools.wraps(command)
    def wrapper(**arguments):
        try:
            command(**arguments)
        except BrokenPipeError:
            raise  # whoever read our output has seen enough: typer ends quietly
        except OSError as error:
            _fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error, code)
        except (ValueError, ArithmeticError, MemoryError, ImportError) as error:
            _fail(str(error) or type(error).__name__, code)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None

    return wrapper


def _fail(message, code):
    typer.echo("error: " + " ".join(str(message).splitlines()), err=True)
    raise typer.Exit(code)


def _load(common):
    """The table, the column to learn, and the task where one was asked for."""
    table = load_data(common.data, arguments.split_names(common.ignore))
    target = common.target or ("digit" if common.data == "digits" else None)
    if target is None:
        raise usage(f"is needed: the column to learn, one of {some(table.columns)}", "--target")
    return table, target, common.task and str(common.task)


@app.command()
@_reports_failures
@arguments.with_common_options
def train(
    common,
    optimizer: arguments.Optimizer = "adamw",
    learning_rate: arguments.LearningRate = None,
    schedule: arguments.Schedule = "constant",
    warm_up: arguments.WarmUp = 0,
    epochs: arguments.Epochs = None,
    validation_size: arguments.ValidationSize = 0.1,
    test_size: arguments.TestSize = 0.2,
    patience: arguments.Patience = None,
    target_loss: arguments.TargetLoss = None,
    max_time: arguments.MaxTime = None,
    output: arguments.ModelOutput = None,
    plot: arguments.CurvesPlot = None,
    no_plot: arguments.NoPlot = False,
    checkpoint: arguments.Checkpoint = None,
    log: arguments.Log = None,
):
    """Train a network on a table: test figures, model file and learning curves.

    Ctrl-C stops the training after the last whole epoch and saves that.  With --checkpoint the same command then goes
    on from there, also after the process was killed.
    """
    output = output_file(output or arguments.file_of(common.data, ".safetensors"), "--output", (".safetensors",))
    if not no_plot:
        plot = output_file(plot or output.with_name(output.stem + "-curves.png"), "--plot", SUFFIXES)
    for path, option, suffixes in ((checkpoint, "--checkpoint", None), (log, "--log", LOGS)):
        if path is not None:
            output_file(path, option, suffixes)
    arguments.check_distinct(
        data=common.data, output=output, plot=None if no_plot else plot, checkpoint=checkpoint, log=log
    )
    arguments.check_fraction(validation_size, "--validation-size")
    arguments.check_fraction(test_size, "--test-size")
    if validation_size + test_size >= 1:
        raise usage(f"must leave rows to train on: less than {1 - validation_size:g}; got {test_size}", "--test-size")
    arguments.check_schedule(optimizer, schedule, warm_up)
    settings = common.settings(
        optimizer,
        learning_rate,
        schedule=schedule,
        warm_up=warm_up,
        epochs=epochs,
        validation_size=validation_size,
        test_size=test_size,
        patience=patience,
        target_loss=target_loss,
        max_time=max_time,
        checkpoint=checkpoint,
        log=log,
    )
    terminal = Terminal(silent=common.as_json or common.quiet)
    with terminal.warnings_as_notes():
        table, target, task = _load(common)
        try:
            outcome = run(table, target, task, settings, terminal)
        except KeyboardInterrupt:
            typer.echo("interrupted before the first epoch was whole: nothing is saved", err=True)
            raise typer.Exit(130) from None
        outcome.save(output)
        if not no_plot:
            outcome.draw(plot, Path(common.data).name)
    figures = {**outcome.figures, "model": str(output), "plot": None if no_plot else str(plot), "notes": terminal.notes}
    if common.as_json:
        typer.echo(json.dumps(figures, indent=2, allow_nan=False))
    else:
        print_outcome(terminal, figures)
    if figures["interrupted"]:
        typer.echo(f"interrupted: the model is that of epoch {figures['epochs']}, the last whole one", err=True)
        raise typer.Exit(130)


@app.command()
@_reports_failures
@arguments.with_common_options
def rates(
    common,
    optimizer: arguments.Descent = "adamw",
    lowest: arguments.Lowest = 1e-7,
    highest: arguments.Highest = 10.0,
    steps: arguments.Steps = 200,
    plot: arguments.RatesPlot = None,
    no_plot: arguments.NoPlot = False,
):
    """Find a learning rate: the loss while the rate rises from update to update, and where it falls fastest.

    The network and its training rows are those that cymlp train has with the same options.
    """
    if not no_plot:
        plot = output_file(plot or arguments.file_of(common.data, "-rates.png"), "--plot", SUFFIXES)
    for option, rate in (("--lowest", lowest), ("--highest", highest)):
        if not 0 < rate < np.inf:
            raise usage(f"must be a finite number > 0; got {rate}", option)
    if lowest >= highest:
        raise usage(f"must be above the lowest, {lowest:g}; got {highest:g}", "--highest")
    settings = common.settings(optimizer)
    terminal = Terminal(silent=common.as_json or common.quiet)
    with terminal.warnings_as_notes():
        table, target, task = _load(common)
        test = find_rates(table, target, task, settings, terminal, (lowest, highest), steps)
        if not no_plot:
            test.plot(plot, Path(common.data).name)
    figures = {
        "suggestion": test.suggestion,
        "optimizer": str(optimizer),
        **{name: getattr(test, name).tolist() for name in ("learning_rates", "losses", "smoothed")},
        "plot": None if no_plot else str(plot),
        "notes": terminal.notes,
    }
    if common.as_json:
        typer.echo(json.dumps(figures, indent=2, allow_nan=False))
    else:
        print_rates(terminal, figures, steps)


@app.command()
@_reports_failures(code=2)
@arguments.with_common_options
def doctor(
    common,
    optimizer: arguments.Optimizer = "adamw",
    learning_rate: arguments.LearningRate = None,
    schedule: arguments.Schedule = "constant",
    warm_up: arguments.WarmUp = 0,
    epochs: arguments.FewEpochs = None,
    every: arguments.Every = 10,
    apply: arguments.Apply = False,
    plot: arguments.HealthPlot = None,
    no_plot: arguments.NoPlot = False,
):
    """Examine a network: forecast it, train it a little, and tell what ails it and what would help.

    The network and its training rows are those that cymlp train has with the same options.

    Ctrl-C ends the training with what was found so far; one that diverges is examined, too.

    Exit codes: 0 nothing was found, 1 something was, 2 it did not work, 130 interrupted.
    """
    if not no_plot:
        plot = output_file(plot or arguments.file_of(common.data, "-health.png"), "--plot", SUFFIXES)
        arguments.check_distinct(data=common.data, plot=plot)
    arguments.check_schedule(optimizer, schedule, warm_up)
    settings = common.settings(optimizer, learning_rate, schedule=schedule, warm_up=warm_up, epochs=epochs)
    from .doctor import diagnose

    terminal = Terminal(silent=common.as_json or common.quiet)
    with terminal.warnings_as_notes():
        table, target, task = _load(common)
        try:
            diagnosis = diagnose(table, target, task, settings, terminal, every, apply)
        except KeyboardInterrupt:
            typer.echo("interrupted before there was anything to examine", err=True)
            raise typer.Exit(130) from None
        if not no_plot:
            diagnosis.draw(plot, Path(common.data).name)
    figures = diagnosis.figures | {"plot": None if no_plot else str(plot), "notes": terminal.notes}
    if common.as_json:
        typer.echo(json.dumps(figures, indent=2, allow_nan=False))
    else:
        print_diagnosis(terminal, diagnosis, figures)
    if diagnosis.interrupted:
        typer.echo("interrupted: these are the findings so far", err=True)
        raise typer.Exit(130)
    raise typer.Exit(0 if diagnosis.trial.is_healthy else 1)


@app.command("forecast")
@_reports_failures(code=2)
def forecast_sizes(
    sizes: arguments.Sizes,
    activation: arguments.Activation = "relu",
    output_activation: arguments.OutputActivation = "identity",
    normalization: arguments.Normalization = "none",
    initializer: arguments.Initializer = "auto",
    gain: arguments.Gain = 1.0,
    bias: arguments.Bias = 0.0,
    dropout: arguments.Dropout = "0",
    dtype: arguments.Dtype = "float32",
    input_scale: arguments.InputScale = 1.0,
    measure: arguments.Measure = False,
    seed: arguments.MeasureSeed = 0,
    plot: arguments.ForecastPlot = None,
    as_json: arguments.Json = False,
    quiet: arguments.Quiet = False,
):
    """Forecast a network without data: sizes of activations and gradients by layer, and whether it can learn.

    Exit codes: 0 healthy, 1 not, 2 it did not work.
    """
    if plot is not None:
        output_file(plot, "--plot", SUFFIXES)
    widths = arguments.parse_sizes(sizes)
    arguments.check_gain(gain)
    if not 0 <= bias < np.inf:
        raise usage(f"must be a finite number >= 0; got {bias}", "--bias")
    if not 0 < input_scale < np.inf:
        raise usage(f"must be a finite number > 0; got {input_scale}", "--input-scale")
    n_hidden = len(widths) - 2
    from .doctor import draw_forecast, forecast_figures, is_healthy
    from .health.forecasting import forecast

    terminal = Terminal(silent=as_json or quiet)
    with terminal.warnings_as_notes():
        found = forecast(
            widths,
            arguments.parse_activations(activation, n_hidden),
            str(initializer),
            gain,
            bias,
            arguments.parse_dropout(dropout, n_hidden),
            normalization == "batch",
            str(dtype),
            output_activation=str(output_activation),
            layer_norm=normalization == "layer",
            input_scale=input_scale,
        )
        found = found.measure(random_state=seed) if measure else found
        if plot is not None:
            draw_forecast(plot, found)
    if as_json:
        figures = forecast_figures(found) | {"plot": plot and str(plot), "notes": terminal.notes}
        typer.echo(json.dumps(figures, indent=2, allow_nan=False))
    else:
        terminal.out.print(str(found))
        print_picture(terminal, plot)
    raise typer.Exit(0 if is_healthy(found) else 1)


def _load_model(path, n_threads=None, engine="compiled"):
    """A network and its encoder, None for a network that was not written by ``cymlp train``."""
    network = MLP.load(path, n_threads=n_threads, engine=engine)
    if "encoder" not in network.metadata:
        return network, None
    encoder = TabularEncoder.from_dict(network.metadata["encoder"])
    ends = (network.layer_sizes[0], network.layer_sizes[-1])
    if ends != (encoder.n_inputs, encoder.n_outputs):
        raise ValueError(
            f"{path}: the network must have {encoder.n_inputs} inputs and {encoder.n_outputs} outputs, as the encoder; "
            f"got {ends[0]} and {ends[1]}"
        )
    return network, encoder


@app.command()
@_reports_failures
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file that cymlp train wrote.")],
    data: arguments.Data,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=".csv or .parquet file; default: CSV on stdout.")
    ] = None,
    proba: Annotated[bool, typer.Option("--proba", help="Add the probability of each class.")] = False,
    threads: arguments.Threads = None,
    engine: arguments.EngineOption = "compiled",
):
    """Predict the target for each row of a table.

    Columns are found by name; the target itself need not be there.
    """
    import pandas as pd

    if output is not None:
        output_file(output, "--output", (".csv", ".parquet"))
    terminal = Terminal()
    with terminal.warnings_as_notes():
        network, encoder = _load_model(model, threads, str(engine))
        if encoder is None:
            raise ValueError(f"{model}: holds no names of columns, as cymlp train writes; use cymlp.MLP.load in Python")
        if proba and encoder.classes is None:
            raise usage("is for classification; the model is a regression", "--proba")
        columns = load_data(data, encoder=encoder).columns
        result = network.predict(encoder.transform(columns, network.dtype))
        known = {encoder.target, *(feature.name for feature in encoder.features)}
        extra = [name for name in columns if name not in known]
        if extra:
            terminal.note(f"ignored {len(extra)} column(s) that the model does not know: {some(extra, 5)}")
    answers = [(encoder.target, encoder.decode_target(result))]
    if proba:
        answers += [(f"proba_{label}", result[:, i]) for i, label in enumerate(encoder.classes)]
    check_names([name for name, _ in answers])
    frame = pd.DataFrame(dict(answers))
    if output is None:
        frame.to_csv(sys.stdout, index=False)
    elif output.suffix.lower() == ".csv":
        frame.to_csv(output, index=False)
    else:
        frame.to_parquet(output, index=False)


@app.command()
@_reports_failures
def info(
    model: Annotated[
        Path | None, typer.Argument(metavar="MODEL", help="A model file; without one: the installation.")
    ] = None,
    as_json: arguments.Json = False,
):
    """Tell what a model is, or how cymlp is installed here."""
    terminal = Terminal()
    if model is None:
        config = show_config()
        if as_json:
            typer.echo(json.dumps(config, indent=2, default=str))
        else:
            print_pairs(terminal, config)
        return
    network, encoder = _load_model(model)
    figures = network.metadata.get("figures") if encoder else None
    if encoder and not isinstance(figures, dict):
        raise ValueError(f"{model}: metadata must have a dictionary 'figures'; got {figures!r}")
    other = {key: value for key, value in network.metadata.items() if not encoder or key not in ("encoder", "figures")}
    if as_json:
        activations_of_layers = [str(layer) for layer in (*network.hidden_activations, network.output_activation)]
        known = {"layer_sizes": list(network.layer_sizes), "activations": activations_of_layers}
        known |= {"n_parameters": network.n_parameters, "dtype": network.dtype.name, "loss": str(network.loss)}
        known |= {"figures": figures, "encoder": encoder and encoder.to_dict(), "metadata": other}
        typer.echo(json.dumps(known, indent=2))
        return
    terminal.out.print(network.summary())
    terminal.out.print(f"\nloss {network.loss}, {network.dtype.name}")
    if encoder is None:
        terminal.out.print("no preprocessing: the network takes numbers as they are")
    else:
        print_encoder(terminal, encoder)
        shown = {key: figures[key] for key in FIGURES_SHOWN if figures.get(key) is not None}
        print_pairs(terminal, {key.replace("_", " "): value for key, value in shown.items()})
    print_pairs(terminal, {key: some([value]) for key, value in other.items()})


def _print_version(wanted: bool):
    if wanted:
        typer.echo(f"cymlp {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
):
    """Options of the command as a whole; its help is the app's."""
