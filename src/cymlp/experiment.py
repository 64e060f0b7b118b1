"""One training run on a table: split, encode, train while keeping the best epoch, measure.  No command line here."""

import math
import time
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import numpy as np

from .network import MLP
from .optimizers import LBFGS, AdamW
from .tables import Table, read_table
from .tabular import TabularEncoder, choose_task

__all__ = ["Outcome", "Settings", "Split", "load_data", "run", "split_rows"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run needs beside the data.

    `epochs` None means 50, or with few rows as many as make 2000 updates, up to 1000.  `validation_size`, `test_size`
    are fractions of all rows.  `label_smoothing` is the e of the targets (1 - e) one_hot + e / n_classes, which keep a
    network from growing ever more certain of what it has by heart: Szegedy et al. (2016), Rethinking the Inception
    architecture, section 7.
    """

    hidden_layers: tuple = (256, 128)
    hidden_activation: str | list = "relu"
    initializer: str = "auto"
    gain: float = 1.0
    dtype: str = "float32"
    optimizer: object = field(default_factory=AdamW)
    epochs: int | None = None
    batch_size: int = 32
    label_smoothing: float = 0.05
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


class _BestEpoch:
    """A callback of `MLP.train`: the validation score of every epoch, and the parameters of the lowest loss."""

    def __init__(self, X, y, progress):
        self.X, self.y, self.progress = X, y, progress
        self.scores, self.epoch, self.parameters = [], None, None
        self._loss = math.inf

    def __call__(self, event):
        if event.validation_loss is not None:
            self.scores.append(_score(event.network.predict(self.X), self.y))
            if event.validation_loss < self._loss:
                self._loss, self.epoch = event.validation_loss, event.epoch
                self.parameters = event.network.parameters.copy()
        self.progress(event, self.scores)


def _smoothed(labels, n_classes, smoothing, dtype):
    """The targets (1 - e) one_hot + e / n_classes, shape (n_rows, n_classes); the labels themselves for e = 0."""
    if smoothing == 0:
        return labels
    goals = np.full((len(labels), n_classes), smoothing / n_classes, dtype)
    goals[np.arange(len(labels)), labels] += 1 - smoothing
    return goals


def _score(output, y):
    """Accuracy for integer labels, else R^2 = 1 - sum (y - a)^2 / sum (y - mean y)^2."""
    if y.dtype.kind == "i":
        return float(np.mean(output.argmax(axis=1) == y))
    total = float(np.sum((y - y.mean()) ** 2))
    return 1 - float(np.sum((y - output[:, 0]) ** 2)) / total if total > 0 else -math.inf


def _n_epochs(settings, n_training):
    if settings.epochs is not None:
        return settings.epochs
    full_batch = isinstance(settings.optimizer, LBFGS)
    updates = 1 if full_batch else math.ceil(n_training / settings.batch_size)
    return min(max(50, math.ceil(2000 / updates)), 1000)


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
        a function of the event of an epoch and the scores so far.

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
    )
    sizes = {name: len(rows) for name, rows in split._asdict().items()}
    terminal.say(f"{task} of {target!r}{reason}")
    terminal.say(
        f"{sizes['training']} rows for training, {sizes['validation']} for validation, {sizes['test']} for the test; "
        f"network {'-'.join(map(str, network.layer_sizes))} with {network.n_parameters:,} parameters"
    )
    goals = y if task == "regression" else _smoothed(y, encoder.n_outputs, settings.label_smoothing, settings.dtype)
    held_out = X[split.validation]
    epochs = _n_epochs(settings, sizes["training"])
    interrupted = False
    with terminal.progress(epochs, encoder.score_name) as progress:
        best = _BestEpoch(held_out, y[split.validation], progress)
        started = time.perf_counter()
        try:
            network.train(
                X[split.training],
                goals[split.training],
                epochs=epochs,
                batch_size=settings.batch_size,
                optimizer=settings.optimizer,
                validation_data=(held_out, goals[split.validation]) if len(held_out) else None,
                callback=best,
            )
        except KeyboardInterrupt:
            interrupted = True
        seconds = time.perf_counter() - started
    history = network.history_
    if interrupted and (history is None or history.epochs == 0):
        raise KeyboardInterrupt
    kept = None if interrupted else best.epoch
    if kept is not None:
        network.parameters = best.parameters
    figures = {
        "task": task,
        "target": target,
        "rows": sizes,
        **_measure(network, encoder, X[split.test], y[split.test]),
        "train_seconds": seconds,
        "epochs": history.epochs,
        "best_epoch": kept,
        "training_loss": history.loss[-1],
        "validation_loss": history.validation_loss[(kept or history.epochs) - 1] if history.validation_loss else None,
        "interrupted": interrupted,
        "layer_sizes": list(network.layer_sizes),
        "optimizer": {"name": type(settings.optimizer).__name__, **asdict(settings.optimizer)},
        "batch_size": settings.batch_size,
        "label_smoothing": settings.label_smoothing if task == "classification" else None,
        "seed": settings.seed,
        "dtype": settings.dtype,
        "engine": settings.engine,
    }
    return Outcome(network, encoder, history, best.scores, figures)


def _measure(network, encoder, X, y):
    """The figures of test rows, None where they have no meaning; all None without rows."""
    names = ("test_accuracy", "test_log_loss", "test_r2", "test_rmse", "test_mae", "test_classes")
    figures = dict.fromkeys(names)
    if len(y) == 0:
        return figures
    output = network.predict(X)
    if encoder.classes is None:
        error = encoder.target_scale * (output[:, 0].astype(np.float64) - y)
        r2 = _score(output, y)
        figures |= {"test_r2": r2 if math.isfinite(r2) else None, "test_mae": float(np.mean(np.abs(error)))}
        return figures | {"test_rmse": float(np.sqrt(np.mean(error**2)))}
    from sklearn.metrics import log_loss, precision_recall_fscore_support

    numbers = np.arange(len(encoder.classes))
    probabilities = output.astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    by_class = precision_recall_fscore_support(y, output.argmax(axis=1), labels=numbers, zero_division=0)
    figures["test_accuracy"] = _score(output, y)
    figures["test_log_loss"] = float(log_loss(y, probabilities, labels=numbers))
    figures["test_classes"] = [
        {"class": label, "precision": float(p), "recall": float(r), "f1": float(f), "rows": int(n)}
        for label, p, r, f, n in zip(encoder.classes.tolist(), *by_class, strict=True)
    ]
    return figures
