"""What `cymlp doctor` does: forecasts a network, trains it a little, says what ails it, and tries what would help.

No command line here.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from .experiment import prepare, told_of, training_options, updates_of_epoch
from .health.forecasting import forecast
from .health.rules import RULES
from .history import DivergenceError
from .network import MLP

__all__ = ["Diagnosis", "Trial", "diagnose", "draw_forecast", "forecast_figures", "is_healthy"]

# The fewest epochs and updates after which every rule can tell.
EPOCHS, UPDATES = (
    max(math.ceil(rule.thresholds[name]) for rule in RULES.values() if name in rule.thresholds)
    for name in ("epochs", "steps")
)

# The most that errors of a better network are of another's: nearer ones may be luck, validation rows being few.
BETTER = 0.95

# Rows of the batch that forecasts are measured on: a mean square over them and 100 units is exact to 1 %.
MEASURED_ROWS = 256


@dataclass(frozen=True, slots=True)
class Trial:
    """A network after a short training: its health report, and figures that JSON can hold."""

    network: MLP
    report: object
    figures: dict

    @property
    def is_healthy(self):
        return self.report.is_healthy and self.figures["diverged"] is None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found.

    Attributes
    ----------
    forecast : Forecast
        With what one batch gives beside it.
    trial : Trial
        Of the network as it was asked for.
    applied : Applied or None
        The network with the changes that the findings propose; None without findings.
    second : Trial or None
        Of that network, where it was to be trained, too.
    interrupted : bool
    figures : dict
        All of it, for JSON.
    """

    forecast: object
    trial: Trial
    applied: object
    second: Trial | None
    interrupted: bool
    figures: dict

    def draw(self, path, name):
        """Write the pictures of the report on data called `name` to a .png, .svg or .pdf file."""
        from .displays import save_health_figure

        save_health_figure(path, self.trial.report, f"{name}: {self.figures['task']} of {self.figures['target']}")


def diagnose(table, target, task, settings, terminal, every=True, apply=False):
    """Examine the network that `cymlp.experiment.run` would train, on the rows that it would train it with.

    Parameters
    ----------
    table, target, task, settings, terminal
        As for `run`; `settings.epochs` None means as many as every rule needs: 5, and 700 updates.
    every : bool or int
        What `MLP.train` takes as `health`.
    apply : bool, default False
        Train the network with the changes, too.

    Returns
    -------
    Diagnosis
        KeyboardInterrupt and divergence end a training, and are told in the figures.

    Raises
    ------
    ValueError
        Data that cannot be learned from.
    KeyboardInterrupt
        Before there was anything to report.
    """
    problem = prepare(table, target, task, settings, terminal)
    needed = max(EPOCHS, math.ceil(UPDATES / updates_of_epoch(settings, len(problem.split.training))))
    if settings.epochs is None:
        settings = replace(settings, epochs=needed)
    elif settings.epochs < needed:
        terminal.note(f"after fewer than {needed} epochs some rules cannot tell yet")
    options = training_options(problem, settings)
    before = _forecast(problem, settings)
    trial = _train(problem, problem.network, options, every, terminal)
    applied, second, interrupted = None, None, trial.figures["interrupted"]
    if trial.report.findings:
        applied = trial.report.apply(problem.network)
        if apply and applied.changes and not interrupted:
            terminal.say("with the changes:")
            try:
                second = _train(problem, applied.model, {**options, **applied.training}, every, terminal, applied)
                interrupted = second.figures["interrupted"]
            except KeyboardInterrupt:
                interrupted = True
    figures = _figures(problem, settings, before, trial, applied, second)
    return Diagnosis(before, trial, applied, second, interrupted, figures)


def _forecast(problem, settings):
    """Of the network as it stands, for inputs as large as these, and measured on some of them."""
    X = problem.X[problem.split.training]
    expected = forecast(
        problem.network.layer_sizes,
        settings.hidden_activation,
        settings.initializer,
        settings.gain,
        dropout=settings.dropout,
        batch_norm=settings.normalization == "batch",
        layer_norm=settings.normalization == "layer",
        dtype=settings.dtype,
        output_activation=str(problem.network.output_activation),
        input_scale=float(np.sqrt(np.mean(np.square(X, dtype=np.float64)))) or 1.0,
    )
    return expected.measure(X[:MEASURED_ROWS], network=problem.network)


def _train(problem, network, options, every, terminal, applied=None):
    """A `Trial` of a network; `applied` says how its inputs and targets are to be changed.

    KeyboardInterrupt comes through where there is nothing to examine.
    """
    inputs = _identity if applied is None or applied.inputs is None else applied.inputs
    targets = None if applied is None else applied.targets
    goals = _identity if targets is None else targets
    rows, held_out = problem.split.training, problem.split.validation
    if "validation_data" in options:
        X, y = options["validation_data"]
        options = options | {"validation_data": (inputs(X), goals(y))}
    diverged, interrupted = None, False
    with terminal.progress(options["epochs"], problem.encoder.score_name) as progress:
        try:
            network.train(inputs(problem.X[rows]), goals(problem.y[rows]), **options, callback=progress, health=every)
        except DivergenceError as error:
            diverged = str(error)
        except KeyboardInterrupt:
            interrupted = True
    history = network.history_
    if history is None or (interrupted and not history.epochs and not len(history.health.records)):
        raise KeyboardInterrupt
    report = history.health
    # A network that diverged has the parameters of before: they say nothing.
    output = np.full((len(held_out), problem.encoder.n_outputs), np.nan)
    if diverged is None:
        output = network.predict(inputs(problem.X[held_out])).astype(np.float64)
        output = output if targets is None else targets.inverse(output)
    figures = {
        "epochs": history.epochs,
        "loss": list(history.loss),
        "validation_loss": list(history.validation_loss),
        "diverged": diverged,
        "interrupted": interrupted,
        **_quality(problem, output),
        "findings": [finding.rule for finding in report.findings],
    }
    return Trial(network, report, figures)


def _identity(array):
    return array


def _quality(problem, output):
    """What outputs for the validation rows are worth, and what is without learning: the base of each.

    The figures compare networks whatever they were trained with.  None for what has no meaning, or is not finite.
    """
    y, encoder = problem.y[problem.split.validation], problem.encoder
    y = y if encoder.classes is not None else y.astype(np.float64)  # squares of float32 may be infinite
    figures = dict.fromkeys(("accuracy", "mean_recall", "log_loss", "r2", "rmse"))
    if len(y) == 0 or not np.isfinite(output).all():
        return figures
    if encoder.classes is None:
        error, spread = output[:, 0] - y, float(np.sum((y - y.mean()) ** 2))
        figures["rmse"] = encoder.target_scale * float(np.sqrt(np.mean(error**2)))
        return figures | {"r2": 1 - float(np.sum(error**2)) / spread if spread > 0 else None}
    answers = output.argmax(axis=1)
    right = np.maximum(output[np.arange(len(y)), y], np.finfo(np.float32).tiny)
    recalls = [np.mean(answers[y == label] == label) for label in np.unique(y)]
    figures |= {"accuracy": float(np.mean(answers == y)), "mean_recall": float(np.mean(recalls))}
    return figures | {"log_loss": float(-np.log(right).mean())}


def _constant(problem):
    """The quality of the best answer that is the same for all rows."""
    rows, validation = problem.split.training, problem.split.validation
    y = problem.y[rows]
    if problem.encoder.classes is None:
        constant = [y.mean(dtype=np.float64)]
    else:
        constant = np.bincount(y, minlength=problem.encoder.n_outputs) / len(y)
    return _quality(problem, np.tile(constant, (len(validation), 1)))


def _comparison(problem, before, after):
    """By what two trials are compared, the values, and whether the second is better: than a constant answer, too."""
    imbalanced = "class imbalance" in before["findings"]
    name = "rmse" if problem.encoder.classes is None else "mean_recall" if imbalanced else "log_loss"
    found = {"before": before[name], "after": after[name], "constant": _constant(problem)[name]}
    errors = {when: _error(name, value) for when, value in found.items()}
    return {"by": name, **found, "better": errors["after"] < BETTER * min(errors["before"], errors["constant"])}


def _error(name, value):
    if value is None:
        return math.inf
    return 1 - value if name == "mean_recall" else value


# What there is in a `Forecast`.
_FORECAST = (
    *("verdict", "layer_sizes", "activation_scale", "activation_band", "measured_activation_scale", "gradient_scale"),
    *("gradient_band", "measured_gradient_scale", "forward_depth_scale", "gradient_depth_scale"),
    *("correlation_depth_scale", "trainable_depth", "dead_share", "dead_network", "underflow_layer", "overflow_layer"),
)


def forecast_figures(forecast):
    """A `Forecast` for JSON; depths without a limit are None."""
    return {name: _plain(getattr(forecast, name, None)) for name in _FORECAST}


def is_healthy(forecast):
    return forecast.verdict.startswith("Healthy")


def draw_forecast(path, forecast):
    """Write a picture of a forecast to a .png, .svg or .pdf file."""
    from .displays import ForecastDisplay
    from .health.text import sizes
    from .plots import new_figure, write

    figure, panels = new_figure(1, 1)
    ForecastDisplay.from_forecast(forecast, ax=panels[0, 0])
    write(figure, path, f"Forecast for {sizes(forecast.layer_sizes)}")


def _names(report, encoder):
    """What findings number by the names that the table has for them: "input 5" -> "area"."""
    inputs = []
    for feature in encoder.features:
        of_categories = [f"{feature.name}={category}" for category in getattr(feature, "categories", ())]
        inputs += of_categories or [feature.name]
    known = {"input": inputs, "class": [] if encoder.classes is None else encoder.classes.tolist()}
    numbered = [(kind, finding.evidence.get(kind)) for finding in report.findings for kind in known]
    return {f"{kind} {i}": str(known[kind][i]) for kind, i in numbered if i is not None}


def _figures(problem, settings, before, trial, applied, second):
    report = _plain(trial.report.to_dict())
    changed = applied is not None
    return {
        "task": problem.task,
        "target": problem.encoder.target,
        "rows": problem.sizes,
        "layer_sizes": list(problem.network.layer_sizes),
        **told_of(settings, problem.task),
        "initializer": settings.initializer,
        "gain": settings.gain,
        "forecast": forecast_figures(before),
        "training": trial.figures,
        "healthy": trial.is_healthy,
        "findings": report["findings"],
        "names": _names(trial.report, problem.encoder),
        "changes": list(applied.changes) if changed else [],
        "training_changes": _plain(applied.training) if changed else {},
        "forecast_after": forecast_figures(applied.forecast) if changed else None,
        "training_after": None if second is None else second.figures,
        "records": report["records"],
        "comparison": None if second is None else _comparison(problem, trial.figures, second.figures),
    }


def _plain(value):
    """For JSON: arrays as lists, what is not finite as None, other objects as text."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(one) for one in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
