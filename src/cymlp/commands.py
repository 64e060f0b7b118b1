"""The commands: what can be asked on the command line, and how it is answered.

Exit codes: 0 done, 1 it did not work (one line on stderr says why), 2 the command line is wrong, 130 interrupted.
Libraries that only some commands need are imported where they are used, so that ``--help`` does not wait for them.
"""

import contextlib
import csv
import functools
import json
import os
import sys
import tempfile
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from . import __version__, activations, engine, initializers, optimizers, show_config
from .experiment import Settings, load_data, run
from .network import MLP
from .plots import SUFFIXES
from .tables import check_file, check_names, some
from .tabular import MISSING, TASKS, TabularEncoder

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train multilayer perceptrons on tables and use them.",
)


def _choices(name, values):
    return StrEnum(name, {value: value for value in values})


Task = _choices("Task", TASKS)
Missing = _choices("Missing", MISSING)
Scaling = _choices("Scaling", ("auto", "column", "shared"))
Optimizer = _choices("Optimizer", optimizers.OPTIMIZERS)
Initializer = _choices("Initializer", ("auto", *initializers.INITIALIZERS))
Dtype = _choices("Dtype", ("float32", "float64"))
Engine = _choices("Engine", engine.ENGINES)

MAX_CLASSES_SHOWN = 30
FIGURES_SHOWN = (
    *("test_accuracy", "test_log_loss", "test_r2", "test_rmse", "test_mae"),
    *("training_loss", "validation_loss", "epochs", "best_epoch", "train_seconds", "batch_size", "seed"),
)
MAX_COLUMNS_SHOWN = 20
MAX_WIDTH = 2**31 - 1  # of a layer, and rows of a batch: what no memory holds
MAX_SEED = 2**32 - 1  # what NumPy and scikit-learn take


class Terminal:
    """Where things are said: results on stdout, progress and notes on stderr; silent for --quiet and --json."""

    def __init__(self, silent=False):
        self.silent = silent
        self.notes = []
        self.out = Console(markup=False, highlight=False, soft_wrap=True, quiet=silent)
        self.err = Console(markup=False, highlight=False, soft_wrap=True, quiet=silent, stderr=True)

    def say(self, text):
        self.err.print(text)

    def note(self, text):
        self.notes.append(text)
        self.err.print(f"note: {text}")

    @contextlib.contextmanager
    def warnings_as_notes(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = lambda message, *_, **__: self.note(str(message))
            yield

    @contextlib.contextmanager
    def progress(self, n_epochs, score_name):
        """A bar for the time of a training; gives the function that moves it on."""
        columns = (
            TextColumn("epoch {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        )
        with Progress(*columns, console=self.err, disable=self.silent) as bars:
            bar = bars.add_task("", total=n_epochs)

            def advance(event, scores):
                validation = f"  validation {score_name} {scores[-1]:.4f}" if scores else ""
                bars.update(bar, completed=event.epoch, description=f"loss {event.loss:.4f}{validation}")

            yield advance


def _reports_failures(command):
    """A command whose errors are one line on stderr and an exit code, not a traceback."""

    @functools.wraps(command)
    def wrapper(**arguments):
        try:
            command(**arguments)
        except BrokenPipeError:
            raise  # whoever read our output has seen enough: typer ends quietly
        except OSError as error:
            _fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error)
        except (ValueError, ArithmeticError, MemoryError, ImportError) as error:
            _fail(str(error) or type(error).__name__)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None

    return wrapper


def _fail(message):
    typer.echo("error: " + " ".join(str(message).splitlines()), err=True)
    raise typer.Exit(1)


def _usage(message, option):
    return typer.BadParameter(message, param_hint=f"'{option}'")


def _parse_layers(text):
    if text.strip().lower() == "none":
        return ()
    try:
        layers = tuple(int(part) for part in text.split(","))
    except ValueError:
        layers = (0,)
    if not all(1 <= width <= MAX_WIDTH for width in layers):
        raise _usage(f"must be whole numbers from 1 to {MAX_WIDTH} such as 128,64, or none; got {text!r}", "--layers")
    return layers


def _parse_activations(text, n_layers):
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in activations.ACTIVATIONS or not activations.ACTIVATIONS[name].hidden:
            hidden = [known for known, definition in activations.ACTIVATIONS.items() if definition.hidden]
            raise _usage(f"must be of {', '.join(hidden)}; got {name!r}", "--activation")
    if len(names) not in (1, n_layers):
        raise _usage(f"must be one name, or {n_layers}: one per hidden layer; got {len(names)}", "--activation")
    return names[0] if len(names) == 1 else names


def _output_file(path, option, suffixes):
    """Check that a file can be written, before any work is done for it."""
    if path.suffix.lower() not in suffixes:
        raise _usage(f"must end in {' or '.join(suffixes)}; got {str(path)!r}", option)
    target = Path(os.path.realpath(path))  # a link stays one: what it points to is written
    try:
        for folder in (path.parent, target.parent):
            if not folder.is_dir():
                raise ValueError(f"{option}: there is no folder {str(folder)!r}")
        if target.is_dir():
            raise ValueError(f"{option}: {str(path)!r} is a folder")
        with contextlib.suppress(FileNotFoundError), open(target, "r+b"):  # OSError for a long name or a locked file
            pass
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".cymlp-"):
            pass
    except OSError as error:
        raise ValueError(f"{option}: cannot write {str(path)!r}: {error.strerror}") from None
    return path


def _model_file(data):
    """The model file of data, where none is given."""
    if data != "digits":
        check_file(data)
    return Path(Path(data).stem + ".safetensors")


def _split_names(text):
    """Names between commas, quoted as in a .csv file where they have commas themselves."""
    return tuple(name.strip() for name in next(csv.reader([text], skipinitialspace=True), ()) if name.strip())


Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A .csv, .tsv, .parquet or .npz file, or digits: scikit-learn's handwritten digits.",
    ),
]
Ignore = Annotated[str, typer.Option(help="Columns (arrays of an .npz file) to leave out: a,b,c.", show_default=False)]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads; by default the work decides.")]
EngineOption = Annotated[Engine, typer.Option("--engine", help="reference computes with NumPy.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")]

_NET, _TRAIN, _FILES = "Network", "Training", "Output"


@app.command()
@_reports_failures
def train(
    data: Data,
    target: Annotated[str | None, typer.Option(help="The column (array) to learn; not needed for digits.")] = None,
    task: Annotated[Task | None, typer.Option(help="What the target is; by default, its values decide.")] = None,
    ignore: Ignore = "",
    missing: Annotated[Missing, typer.Option(help="Missing values; impute: median or most frequent.")] = "error",
    scaling: Annotated[
        Scaling, typer.Option(help="Divide numbers by each column's deviation, or by a shared one; auto: pixels share.")
    ] = "auto",
    layers: Annotated[str, typer.Option(help="Widths of hidden layers, or none.", rich_help_panel=_NET)] = "256,128",
    activation: Annotated[
        str, typer.Option(help="Of the hidden layers: one name, or a,b,c.", rich_help_panel=_NET)
    ] = "relu",
    initializer: Annotated[Initializer, typer.Option(help="Initial weights.", rich_help_panel=_NET)] = "auto",
    gain: Annotated[float, typer.Option(help="Factor of the initial weights.", rich_help_panel=_NET)] = 1.0,
    dtype: Annotated[Dtype, typer.Option(help="Precision.", rich_help_panel=_NET)] = "float32",
    optimizer: Annotated[Optimizer, typer.Option(help="Update rule.", rich_help_panel=_TRAIN)] = "adamw",
    learning_rate: Annotated[
        float | None, typer.Option(help="By default the optimizer's.", rich_help_panel=_TRAIN)
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Passes over the training rows; 50, or more for few rows.", rich_help_panel=_TRAIN),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, max=MAX_WIDTH, help="Rows per update.", rich_help_panel=_TRAIN)
    ] = 32,
    label_smoothing: Annotated[
        float, typer.Option(help="How much of a class's certainty all classes share.", rich_help_panel=_TRAIN)
    ] = 0.05,
    validation_size: Annotated[
        float, typer.Option(help="Fraction of rows that chooses the best epoch.", rich_help_panel=_TRAIN)
    ] = 0.1,
    test_size: Annotated[float, typer.Option(help="Fraction of rows kept for the test.", rich_help_panel=_TRAIN)] = 0.2,
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=MAX_SEED, help="Of the split, the weights and the order of rows.", rich_help_panel=_TRAIN
        ),
    ] = 0,
    threads: Threads = None,
    engine: EngineOption = "compiled",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Model file; default: DATA.safetensors here.", rich_help_panel=_FILES),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Picture of the learning curves; default: MODEL-curves.png.", rich_help_panel=_FILES),
    ] = None,
    no_plot: Annotated[bool, typer.Option("--no-plot", help="Draw no picture.", rich_help_panel=_FILES)] = False,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
):
    """Train a network on a table: test figures, model file and learning curves.

    Ctrl-C stops the training after the last whole epoch and saves that.
    """
    hidden = _parse_layers(layers)
    output = _output_file(output or _model_file(data), "--output", (".safetensors",))
    if not no_plot:
        plot = _output_file(plot or output.with_name(output.stem + "-curves.png"), "--plot", SUFFIXES)
    fractions = {"--validation-size": validation_size, "--test-size": test_size, "--label-smoothing": label_smoothing}
    for option, fraction in fractions.items():
        if not 0 <= fraction < 1:
            raise _usage(f"must be a fraction in [0, 1); got {fraction}", option)
    if validation_size + test_size >= 1:
        raise _usage(f"must leave rows to train on: less than {1 - validation_size:g}; got {test_size}", "--test-size")
    try:
        rule = optimizers.get(str(optimizer), learning_rate)
    except ValueError as error:
        raise _usage(str(error), "--learning-rate") from None
    settings = Settings(
        hidden_layers=hidden,
        hidden_activation=_parse_activations(activation, len(hidden)),
        initializer=str(initializer),
        gain=gain,
        dtype=str(dtype),
        optimizer=rule,
        epochs=epochs,
        batch_size=batch_size,
        label_smoothing=label_smoothing,
        validation_size=validation_size,
        test_size=test_size,
        seed=seed,
        n_threads=threads,
        engine=str(engine),
        missing=str(missing),
        scaling=str(scaling),
    )
    if gain <= 0 or not np.isfinite(gain):
        raise _usage(f"must be a finite number > 0; got {gain}", "--gain")

    terminal = Terminal(silent=as_json or quiet)
    with terminal.warnings_as_notes():
        table = load_data(data, _split_names(ignore))
        target = target or ("digit" if data == "digits" else None)
        if target is None:
            raise _usage(f"is needed: the column to learn, one of {some(table.columns)}", "--target")
        try:
            outcome = run(table, target, task and str(task), settings, terminal)
        except KeyboardInterrupt:
            typer.echo("interrupted before the first epoch was whole: nothing is saved", err=True)
            raise typer.Exit(130) from None
        outcome.save(output)
        if not no_plot:
            outcome.draw(plot, Path(data).name)
    figures = {**outcome.figures, "model": str(output), "plot": None if no_plot else str(plot), "notes": terminal.notes}
    if as_json:
        typer.echo(json.dumps(figures, indent=2, allow_nan=False))
    else:
        _print_outcome(terminal, figures)
    if figures["interrupted"]:
        typer.echo(f"interrupted: the model is that of epoch {figures['epochs']}, the last whole one", err=True)
        raise typer.Exit(130)


def _print_outcome(terminal, figures):
    rows = figures["rows"]
    if figures["test_classes"]:
        classes = sorted(figures["test_classes"], key=lambda entry: entry["f1"])[:MAX_CLASSES_SHOWN]
        shown = [entry for entry in figures["test_classes"] if entry in classes]
        title = f"Test on {rows['test']} rows"
        table = Table(title=title if len(shown) == len(figures["test_classes"]) else f"{title}: the worst classes")
        table.add_column(some([figures["target"]]))
        for name in ("precision", "recall", "f1", "rows"):
            table.add_column(name, justify="right")
        for entry in shown:
            numbers = (f"{entry[name]:.3f}" for name in ("precision", "recall", "f1"))
            table.add_row(some([entry["class"]]), *numbers, str(entry["rows"]))
        terminal.out.print(table)
    for label, key, form in (
        ("test accuracy", "test_accuracy", "{:.2%}"),
        ("test log loss", "test_log_loss", "{:.4f}"),
        ("test R2", "test_r2", "{:.4f}"),
        ("test RMSE", "test_rmse", "{:.5g}"),
        ("test MAE", "test_mae", "{:.5g}"),
    ):
        if figures[key] is not None:
            terminal.out.print(f"{label:<14} {form.format(figures[key])}")
    best = f", the best is {figures['best_epoch']}" if figures["best_epoch"] is not None else ""
    terminal.out.print(f"{'training':<14} {figures['train_seconds']:.2f} s, {figures['epochs']} epochs{best}")
    terminal.out.print(f"{'model':<14} {figures['model']}")
    if figures["plot"] is not None:
        terminal.out.print(f"{'picture':<14} {figures['plot']}")


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
    data: Data,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=".csv or .parquet file; default: CSV on stdout.")
    ] = None,
    proba: Annotated[bool, typer.Option("--proba", help="Add the probability of each class.")] = False,
    threads: Threads = None,
    engine: EngineOption = "compiled",
):
    """Predict the target for each row of a table.

    Columns are found by name; the target itself need not be there.
    """
    import pandas as pd

    if output is not None:
        _output_file(output, "--output", (".csv", ".parquet"))
    terminal = Terminal()
    with terminal.warnings_as_notes():
        network, encoder = _load_model(model, threads, str(engine))
        if encoder is None:
            raise ValueError(f"{model}: holds no names of columns, as cymlp train writes; use cymlp.MLP.load in Python")
        if proba and encoder.classes is None:
            raise _usage("is for classification; the model is a regression", "--proba")
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
    as_json: Json = False,
):
    """Tell what a model is, or how cymlp is installed here."""
    terminal = Terminal()
    if model is None:
        config = show_config()
        if as_json:
            typer.echo(json.dumps(config, indent=2, default=str))
        else:
            _print_pairs(terminal, config)
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
        _print_encoder(terminal, encoder)
        shown = {key: figures[key] for key in FIGURES_SHOWN if figures.get(key) is not None}
        _print_pairs(terminal, {key.replace("_", " "): value for key, value in shown.items()})
    _print_pairs(terminal, {key: some([value]) for key, value in other.items()})


def _print_pairs(terminal, pairs):
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        terminal.out.print(f"{name:<{width}}  {f'{value:.6g}' if isinstance(value, float) else value}")


def _print_encoder(terminal, encoder):
    if encoder.classes is None:
        learned = f"mean {encoder.target_mean:.6g}, scale {encoder.target_scale:.6g}"
    else:
        learned = f"{len(encoder.classes)} classes: {some(encoder.classes)}"
    terminal.out.print(f"target {encoder.target!r}, {encoder.task}, {learned}")
    table = Table(title=f"{len(encoder.features)} columns, {encoder.n_inputs} inputs")
    for name in ("column", "kind", "encoding", "if missing"):
        table.add_column(name)
    for feature in encoder.features[:MAX_COLUMNS_SHOWN]:
        if feature.kind == "numeric":
            encoding = f"(x - {feature.mean:.6g}) / {feature.scale:.6g}"
        else:
            encoding = f"one-hot: {some(feature.categories, 8)}"
        fill = "error" if feature.fill is None else some([feature.fill])
        table.add_row(some([feature.name]), feature.kind, encoding, fill)
    terminal.out.print(table)
    if len(encoder.features) > MAX_COLUMNS_SHOWN:
        terminal.out.print(f"and {len(encoder.features) - MAX_COLUMNS_SHOWN} more columns")


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
