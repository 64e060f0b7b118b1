"""What commands say: results on stdout, progress and notes on stderr."""

import contextlib
import warnings

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .tables import some

__all__ = [
    "Terminal",
    "print_diagnosis",
    "print_encoder",
    "print_outcome",
    "print_pairs",
    "print_picture",
    "print_rates",
]

MAX_CLASSES_SHOWN = 30
MAX_COLUMNS_SHOWN = 20

# Why a training ended before its last epoch.
ENDS = {"patience": "no longer better", "target": "target reached", "time": "time is up", "converged": "converged"}


# What a trial tells of the validation rows.
VALIDATED = (
    ("accuracy", "accuracy", "{:.2%}"),
    ("mean_recall", "mean recall", "{:.2%}"),
    ("log_loss", "log loss", "{:.4f}"),
    ("r2", "R2", "{:.4f}"),
    ("rmse", "RMSE", "{:.5g}"),
)


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

            def advance(event):
                validation = "" if event.metric is None else f"  validation {score_name} {event.metric:.4f}"
                bars.update(bar, completed=event.epoch, description=f"loss {event.loss:.4f}{validation}")

            yield advance


def print_outcome(terminal, figures):
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
    why = f" ({ENDS[figures['stopped']]})" if figures["stopped"] in ENDS else ""
    terminal.out.print(f"{'training':<14} {figures['train_seconds']:.2f} s, {figures['epochs']} epochs{why}{best}")
    terminal.out.print(f"{'model':<14} {figures['model']}")
    print_picture(terminal, figures["plot"])


def print_rates(terminal, figures, steps):
    rates, smoothed = figures["learning_rates"], figures["smoothed"]
    least = min(smoothed)
    suggestion = "none: the loss never falls" if figures["suggestion"] is None else f"{figures['suggestion']:.3g}"
    terminal.out.print(f"{'learning rate':<14} {suggestion}")
    terminal.out.print(f"{'least loss':<14} {least:.4f} at {rates[smoothed.index(least)]:.3g}")
    terminal.out.print(f"{'updates':<14} {len(rates)} of {steps}, up to {rates[-1]:.3g}")
    print_picture(terminal, figures["plot"])


def print_picture(terminal, path):
    if path is not None:
        terminal.out.print(f"{'picture':<14} {path}")


def _print_validated(terminal, trial):
    """What a trial makes of the validation rows, in a line; nothing where it diverged."""
    shown = [f"{label} {form.format(trial[name])}" for name, label, form in VALIDATED if trial[name] is not None]
    if shown:
        terminal.out.print(f"{'validation':<14} {', '.join(shown)}")


def _course(trial):
    """Where a trial went, in half a line."""
    found = f"found: {', '.join(trial['findings'])}" if trial["findings"] else "nothing found"
    if trial["diverged"] is not None:
        return f"{trial['diverged']}; {found}"
    losses = trial["loss"]
    return (f"loss {losses[0]:.4g} to {losses[-1]:.4g}, " if losses else "no whole epoch, ") + found


def _compared(comparison):
    """Whether the changes help, in a line."""
    label, form = next((label, form) for name, label, form in VALIDATED if name == comparison["by"])
    before, after = (
        "not finite" if comparison[when] is None else form.format(comparison[when]) for when in ("before", "after")
    )
    found = f"{'better' if comparison['better'] else 'not better':<14} {label} {before} before, {after} after"
    return found + f"; of a constant answer {form.format(comparison['constant'])}"


def print_diagnosis(terminal, diagnosis, figures):
    """Forecast and report, and where something was found the changes, the forecast after them and what they bring."""
    terminal.out.print(f"{diagnosis.forecast}\n\n{diagnosis.trial.report}\n")
    for number, name in figures["names"].items():
        terminal.out.print(f"{number:<14} {some([name])}")
    _print_validated(terminal, figures["training"])
    if diagnosis.applied is not None:
        changes = figures["changes"] or ["none is known"]
        terminal.out.print("\nChanges\n" + "\n".join(f"- {change}" for change in changes))
        terminal.out.print(f"\nAfter these changes\n\n{diagnosis.applied.forecast}\n")
    if diagnosis.second is not None:
        after = figures["training_after"]
        terminal.out.print(f"{'with changes':<14} {_course(after)}")
        _print_validated(terminal, after)
        terminal.out.print(_compared(figures["comparison"]))
    print_picture(terminal, figures["plot"])


def print_pairs(terminal, pairs):
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        terminal.out.print(f"{name:<{width}}  {f'{value:.6g}' if isinstance(value, float) else value}")


def print_encoder(terminal, encoder):
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
