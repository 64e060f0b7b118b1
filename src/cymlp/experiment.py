"""One training run on a table: split, encode, train while keeping the best epoch, measure.  No command line here."""

import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import _labels, schedules
from .callbacks import CSVLog, JSONLinesLog
from .checkpoints import Checkpoint
from .network import MLP
from .optimizers import LBFGS, AdamW
from .rates import learning_rate_range
from .stopping import EarlyStopping
from .tables import Table, read_table
from .tabular import TabularEncoder, choose_task

__all__ = [
    "ORDERS",
    "SCHEDULES",
    "Outcome",
    "Problem",
    "Settings",
    "Split",
    "find_rates",
    "load_data",
    "prepare",
    "run",
    "split_rows",
    "told_of",
    "training_options",
    "updates_of_epoch",
]

# name -> f(rate, steps, steps of an epoch): how the learning rate goes on, in a run of so many steps.
SCHEDULES = {
    "constant": lambda rate, steps, epoch: schedules.Constant(rate),
    "step": lambda rate, steps, epoch: schedules.StepDecay(rate, sorted({-(-steps // 2), -(-3 * steps // 4)})),
    "exponential": lambda rate, steps, epoch: schedules.Exponential(rate),
    "inverse": lambda rate, steps, epoch: schedules.InverseScaling(rate, steps=epoch),
    "polynomial": lambda rate, steps, epoch: schedules.Polynomial(rate),
    "cosine": lambda rate, steps, epoch: schedules.CosineRestarts(rate),
    "one-cycle": lambda rate, steps, epoch: schedules.OneCycle(rate / 25, rate),
    "plateau": lambda rate, steps, epoch: schedules.ReduceOnPlateau(rate),
}


# Names of orders of rows -> what `MLP.train` calls them.
ORDERS = {"shuffled": True, "sequential": False, "stratified": "stratified", "weighted": "weighted"}

# The settings that `MLP.train` and the range test take by the same names.
_SHARED = ("dropout", "l1", "l2", "max_norm", "penalize_biases", "clip_norm", "clip_layer_norm", "clip_value")
# Those that figures tell as they are; `told_of` tells more.
_TOLD = (
    *("schedule", "warm_up", "batch_size", "normalization", *_SHARED, "class_weight", "order"),
    *("seed", "dtype", "engine"),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run needs beside the data.

    `epochs` None means 50, or with few rows as many as make 2000 updates, up to 1000.  `validation_size`, `test_size`
    are fractions of all rows.  `label_smoothing` is for classification.  `optimizer` has the learning rate that the
    `schedule`, by its name, and the `warm_up` steps before it make of it.  `patience` and `target_loss` are of the
    validation loss, or of the loss without validation rows.  `log` ends in .csv or .jsonl.  What else there is is as in
    `MLP` and `MLP.train`.
    """

    hidden_layers: tuple = (256, 128)
    hidden_activation: str | list = "relu"
    normalization: str | None = None
    initializer: str = "auto"
    gain: float = 1.0
    dtype: str = "float32"
    optimizer: object = field(default_factory=AdamW)
    schedule: str = "constant"
    warm_up: int = 0
    epochs: int | None = None
    batch_size: int = 32
    label_smoothing: float = 0.05
    dropout: float | list = 0.0
    l1: float = 0.0
    l2: float = 0.0
    max_norm: float | None = None
    penalize_biases: bool = False
    clip_norm: float | None = None
    clip_layer_norm: float | None = None
    clip_value: float | None = None
    class_weight: str = "none"
    order: str = "shuffled"
    patience: int | None = None
    target_loss: float | None = None
    max_time: float | None = None
    checkpoint: Path | None = None
    log: Path | None = None
    validation_size: float = 0.1
    test_size: float = 0.2
    seed: int = 0
    n_threads: int | None = None
    engine: str = "compiled"
    missing: str = "error"
    scaling: str = "auto"


class Split(NamedTuple):
    """Row numbers, sorted; none are in two parts."""

    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def load_data(name, ignore=(), encoder=None):
    """The `Table` of a file, or of ``"digits"``: 1797 images of 8 x 8 pixels and the column "digit"."""
    if name != "digits":
        return read_table(name, ignore, encoder)
    from sklearn.datasets import load_digits

    digits = load_digits()
    columns = {f"pixel_{i // 8}_{i % 8}": digits.data[:, i] for i in range(64)} | {"digit": digits.target}
    absent = [column for column in ignore if column not in columns]
    if absent:
        raise ValueError(f"digits has no column {', '.join(absent)} to ignore")
    return Table({column: values for column, values in columns.items() if column not in ignore}, pixels=True)


def split_rows(n_rows, labels, settings, note):
    """Training, validation and test rows, with the same mix of classes in each where their numbers allow it.

    Parameters
    ----------
    n_rows : int
    labels : ndarray (n_rows,) or None
        Classes; None for regression.
    settings : Settings
    note : callable
        Told where the classes could not be mixed alike.

    Returns
    -------
    Split

    Raises
    ------
    ValueError
        So few rows that a part would be empty.
    """
    from sklearn.model_selection import train_test_split

    rest, parts = np.arange(n_rows), {}
    for name, fraction in (("test", settings.test_size), ("validation", settings.validation_size)):
        size = math.ceil(fraction * n_rows)
        if size >= len(rest):
            raise ValueError(f"{n_rows} rows are too few to keep {fraction:g} of them for the {name}")
        if size == 0:
            parts[name] = rest[:0]
            continue
        mix = None if labels is None else labels[rest]
        if mix is not None:
            counts = np.unique(mix, return_counts=True)[1]
            if counts.min() < 2 or min(size, len(rest) - size) < len(counts):
                note(f"the {name} rows are chosen without regard to classes: some classes have too few rows to share")
                mix = None
        rest, parts[name] = train_test_split(rest, test_size=size, stratify=mix, random_state=settings.seed)
    return Split(np.sort(rest), np.sort(parts["validation"]), np.sort(parts["test"]))


def _score(y, output):
    """Accuracy where there are classes, else R^2 = 1 - sum (y - a)^2 / sum (y - mean y)^2."""
    if output.shape[1] > 1:
        return float(np.mean(output.argmax(axis=1) == (y if y.ndim == 1 else y.argmax(axis=1))))
    y = y.astype(np.float64)  # squares of float32 may be infinite, or 0
    total = float(np.sum((y - y.mean()) ** 2))
    return 1 - float(np.sum((y - output[:, 0]) ** 2)) / total if total > 0 else -math.inf


def updates_of_epoch(settings, n_training):
    """How many there are in an epoch of so many rows."""
    return 1 if isinstance(settings.optimizer, LBFGS) else math.ceil(n_training / settings.batch_size)


def _n_epochs(settings, n_training):
    if settings.epochs is not None:
        return settings.epochs
    return min(max(50, math.ceil(2000 / updates_of_epoch(settings, n_training))), 1000)


def _optimizer(settings, n_training):
    """The optimizer with its learning rate as the schedule makes it."""
    optimizer, warm_up = settings.optimizer, settings.warm_up
    if settings.schedule == "constant" and not warm_up:
        return optimizer
    updates = updates_of_epoch(settings, n_training)
    steps = max(1, updates * _n_epochs(settings, n_training) - warm_up)
    rate = SCHEDULES[settings.schedule](optimizer.learning_rate, steps, updates)
    return replace(optimizer, learning_rate=schedules.WarmUp(rate, warm_up) if warm_up else rate)


def _of_a_step(settings, task):
    """What `MLP.train` and the range test are told alike."""
    told = {name: getattr(settings, name) for name in _SHARED}
    told["class_weight"] = None if settings.class_weight == "none" else settings.class_weight
    told["shuffle"] = ORDERS[settings.order]
    return told | {"label_smoothing": settings.label_smoothing if task == "classification" else 0.0}


def training_options(problem, settings):
    """What `MLP.train` is told beside the training rows, but for what ends or watches it."""
    n_training, validation = len(problem.split.training), problem.split.validation
    told = _of_a_step(settings, problem.task)
    told |= {"epochs": _n_epochs(settings, n_training), "batch_size": settings.batch_size}
    told |= {"optimizer": _optimizer(settings, n_training)}
    if len(validation):  # smoothed, too: losses of the two are drawn in one picture
        y = problem.y[validation]
        goals = _labels.smoothed_for(problem.network, y, told["label_smoothing"], settings.dtype)
        told |= {"validation_data": (problem.X[validation], goals), "metric": _score}
    return told


def _stopping(settings, has_validation):
    """The best epoch is kept where validation rows tell which one that is."""
    if not has_validation and settings.patience is None and settings.target_loss is None:
        return None
    return EarlyStopping(settings.patience, target=settings.target_loss, restore_best=has_validation)


def _logs(path):
    if path is None:
        return []
    return [CSVLog(path) if path.suffix.lower() == ".csv" else JSONLinesLog(path)]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A trained network with its encoder, history and validation scores by epoch, and figures that JSON can hold."""

    network: MLP
    encoder: TabularEncoder
    history: object
    scores: list
    figures: dict

    def save(self, path):
        """Write network, encoder and figures to one model file."""
        self.network.save(path, metadata={"encoder": self.encoder.to_dict(), "figures": self.figures})

    def draw(self, path, name):
        """Write the learning curves of data called `name` to a .png, .svg or .pdf file."""
        from .plots import save_learning_curves

        title = f"{name}: {self.encoder.task} of {self.encoder.target}"
        best = self.figures["best_epoch"]
        save_learning_curves(path, self.history, self.scores, self.encoder.score_name, best, title)


class Problem(NamedTuple):
    """Data as a network learns from them, and one that has not begun."""

    task: str
    encoder: TabularEncoder
    X: np.ndarray
    y: np.ndarray
    split: Split
    network: MLP

    @property
    def sizes(self):
        """How many rows there are for what."""
        return {name: len(rows) for name, rows in self.split._asdict().items()}


def prepare(table, target, task, settings, terminal):
    """The `Problem` that a table poses; arguments as for `run`."""
    columns = table.columns
    chosen, why = choose_task(columns, target)
    if task is None:
        task, reason = chosen, f": {why}"
    else:
        reason = ", as asked"
    n_rows = len(columns[target])
    labels = np.asarray(columns[target]).astype(str) if task == "classification" else None
    split = split_rows(n_rows, labels, settings, terminal.note)
    scaling = ("shared" if table.pixels else "column") if settings.scaling == "auto" else settings.scaling
    encoder = TabularEncoder.fit(columns, target, task, split.training, settings.missing, scaling)
    X, y = encoder.transform(columns, settings.dtype), encoder.encode_target(columns, settings.dtype)
    network = MLP(
        [encoder.n_inputs, *settings.hidden_layers, encoder.n_outputs],
        settings.hidden_activation,
        "softmax" if task == "classification" else "identity",
        initializer=settings.initializer,
        gain=settings.gain,
        dtype=settings.dtype,
        n_threads=settings.n_threads,
        random_state=settings.seed,
        engine=settings.engine,
        normalization=settings.normalization,
    )
    terminal.say(f"{task} of {target!r}{reason}")
    terminal.say(
        f"{len(split.training)} rows for training, {len(split.validation)} for validation, {len(split.test)} for the "
        f"test; network {'-'.join(map(str, network.layer_sizes))} with {network.n_parameters:,} parameters"
    )
    return Problem(task, encoder, X, y, split, network)


def find_rates(table, target, task, settings, terminal, ends, steps):
    """The learning-rate range test of the network that `run` would train, on the rows that it would train it with.

    Parameters
    ----------
    table, target, task, settings, terminal
        As for `run`.
    ends : (lowest, highest)
        Learning rates.
    steps : int

    Returns
    -------
    RangeTest
    """
    problem = prepare(table, target, task, settings, terminal)
    rows = problem.split.training
    return learning_rate_range(
        problem.network,
        problem.X[rows],
        problem.y[rows],
        lowest=ends[0],
        highest=ends[1],
        steps=steps,
        batch_size=settings.batch_size,
        optimizer=settings.optimizer,
        **_of_a_step(settings, problem.task),
    )


def run(table, target, task, settings, terminal):
    """Train a network on a table.

    Parameters
    ----------
    table : Table
    target : str
    task : {"classification", "regression"} or None
        None: `choose_task`.
    settings : Settings
    terminal : Terminal
        Is told what happens: `say(text)`, `note(text)`, and `progress(epochs, score_name)`, a context manager giving
        a callback of `MLP.train`.

    Returns
    -------
    Outcome
        Of the epoch with the lowest validation loss; of the last one without validation rows.  KeyboardInterrupt ends
        the training with the last whole epoch instead, and is told in the figures.

    Raises
    ------
    ValueError
        Data that cannot be learned from.
    DivergenceError
        The loss is not finite.
    KeyboardInterrupt
        Before the first epoch was whole.
    """
    problem = prepare(table, target, task, settings, terminal)
    task, encoder, X, y, split, network = problem
    has_validation, interrupted = len(split.validation) > 0, False
    options = training_options(problem, settings)
    with terminal.progress(options["epochs"], encoder.score_name) as progress:
        started = time.perf_counter()
        try:
            network.train(
                X[split.training],
                y[split.training],
                **options,
                stopping=_stopping(settings, has_validation),
                max_time=settings.max_time,
                callback=[progress, *_logs(settings.log)],
                checkpoint=None if settings.checkpoint is None else Checkpoint(settings.checkpoint),
            )
        except KeyboardInterrupt:
            interrupted = True
        seconds = time.perf_counter() - started
    history = network.history_
    if history is None or history.epochs == 0:
        if interrupted:
            raise KeyboardInterrupt
        raise ValueError(f"no epoch was whole within {settings.max_time:g} s: nothing has been learned")
    kept = history.best_epoch if has_validation and not interrupted else None
    figures = {
        "task": task,
        "target": target,
        "rows": problem.sizes,
        **_measure(network, encoder, X[split.test], y[split.test]),
        "train_seconds": seconds,
        "epochs": history.epochs,
        "best_epoch": kept,
        "stopped": history.stopped,
        "training_loss": history.loss[-1],
        "validation_loss": history.validation_loss[(kept or history.epochs) - 1] if has_validation else None,
        "interrupted": interrupted,
        "layer_sizes": list(network.layer_sizes),
        **told_of(settings, task),
    }
    return Outcome(network, encoder, history, history.metric, figures)


def told_of(settings, task):
    """The settings that figures tell."""
    return {
        "optimizer": {"name": type(settings.optimizer).__name__, **asdict(settings.optimizer)},
        "label_smoothing": settings.label_smoothing if task == "classification" else None,
        **{name: getattr(settings, name) for name in _TOLD},
    }


def _measure(network, encoder, X, y):
    """The figures of test rows, None where they have no meaning; all None without rows."""
    names = ("test_accuracy", "test_log_loss", "test_r2", "test_rmse", "test_mae", "test_classes")
    figures = dict.fromkeys(names)
    if len(y) == 0:
        return figures
    output = network.predict(X)
    if encoder.classes is None:
        error = encoder.target_scale * (output[:, 0].astype(np.float64) - y)
        r2 = _score(y, output)
        figures |= {"test_r2": r2 if math.isfinite(r2) else None, "test_mae": float(np.mean(np.abs(error)))}
        return figures | {"test_rmse": float(np.sqrt(np.mean(error**2)))}
    from sklearn.metrics import log_loss, precision_recall_fscore_support

    numbers = np.arange(len(encoder.classes))
    probabilities = output.astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    by_class = precision_recall_fscore_support(y, output.argmax(axis=1), labels=numbers, zero_division=0)
    figures["test_accuracy"] = _score(y, output)
    figures["test_log_loss"] = float(log_loss(y, probabilities, labels=numbers))
    figures["test_classes"] = [
        {"class": label, "precision": float(p), "recall": float(r), "f1": float(f), "rows": int(n)}
        for label, p, r, f, n in zip(encoder.classes.tolist(), *by_class, strict=True)
    ]
    return figures
