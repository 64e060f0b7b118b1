"""What is said of a run: its findings, and the model that should do without them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .applying import Standardization, adapter, kind_of
from .remedies import Setup, change, describe, forecast_of
from .rules import RULES, judge
from .signs import Signs
from .text import report_html, report_text

__all__ = ["Applied", "Finding", "HealthReport"]


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    Attributes
    ----------
    rule : str
        A key of `RULES`.
    message : str
        What was seen, with numbers.
    layers : tuple of int
        Where: 0 for the inputs, from 1 on layers.
    since : int or None
        The step since when, as far as records tell; 0 where it was so before.
    reason : str
        Why it matters.
    change : str
        What should help.
    evidence : dict
        The numbers behind the message.
    """

    rule: str
    message: str
    layers: tuple
    since: int | None
    reason: str
    change: str
    evidence: dict

    def __str__(self):
        return f"{self.rule}: {self.message}.  Change: {self.change}."

    def to_dict(self):
        """Its attributes, as JSON can hold them, but for infinite numbers and NaN."""
        return dict(vars(self), layers=list(self.layers), evidence=dict(self.evidence))


@dataclass(frozen=True)
class Applied:
    """What `HealthReport.apply` returns: ``model, forecast = report.apply(model)``.

    Attributes
    ----------
    model : MLP, estimator or Pipeline
        New, and not trained.
    forecast : Forecast
        Of the new model.
    changes : tuple of str
        What is another one than before; empty where nothing could be changed.
    training : dict
        For an `MLP`: the arguments of `MLP.train` that change, ``network.train(X, y, **(given | applied.training))``.
    inputs, targets : Standardization or None
        For an `MLP`: what to train and predict with in place of the inputs and targets as they are, ``inputs(X)`` and
        ``targets(y)``; predictions go back with ``targets.inverse``.
    """

    model: Any
    forecast: Any
    changes: tuple
    training: dict
    inputs: Standardization | None
    targets: Standardization | None

    def __iter__(self):
        return iter((self.model, self.forecast))


class HealthReport:
    """What the layers of a network did while it was trained, what is wrong with that, and what to change.

    Parameters
    ----------
    evidence : Evidence
        What a run has collected.

    Attributes
    ----------
    findings : tuple of Finding
        Causes first; empty for a run that is healthy.
    forecast : Forecast
        Of the network as it was made.
    records : Records
        Of the steps that were watched.
    is_healthy : bool
        Whether there are no findings.

    Examples
    --------
    >>> import numpy as np
    >>> from cymlp import MLP
    >>> X = np.random.default_rng(0).standard_normal((200, 4))
    >>> net = MLP([4, 8, 8, 1], "tanh", initializer="zeros", random_state=0, engine="reference")
    >>> report = net.train(X, X[:, :1], health=True).health
    >>> report.findings[0].rule
    'symmetric units'
    >>> model, forecast = report.apply(net)
    >>> forecast.verdict.partition(":")[0]
    'Healthy'
    """

    def __init__(self, evidence):
        self.evidence = evidence

    def __repr__(self):
        found = "healthy" if self.is_healthy else ", ".join(finding.rule for finding in self.findings)
        return f"<HealthReport: {found}>"

    def __str__(self):
        return report_text(self)

    def _repr_html_(self):
        return report_html(self)

    def __getstate__(self):
        return {"evidence": self.evidence}

    @property
    def records(self):
        return self.evidence.records

    @property
    def is_healthy(self):
        return not self.findings

    @cached_property
    def findings(self):
        evidence = self.evidence
        setup, signs = Setup.of(evidence), Signs(evidence)
        found = []
        for rule, seen in judge(evidence):
            words = describe(setup, change(setup, rule.name, signs))
            changed = ", ".join(words) or "none is known"
            found.append(Finding(rule.name, seen.message, seen.layers, seen.since, rule.reason, changed, seen.numbers))
        return tuple(found)

    @cached_property
    def forecast(self):
        return forecast_of(Setup.of(self.evidence))

    def to_dict(self):
        """The report as JSON can hold it, but for infinite numbers and NaN among the records.

        Returns
        -------
        dict
            "is_healthy", "findings" (a list of dicts), "forecast" (its verdict), "records".
        """
        return {
            "is_healthy": self.is_healthy,
            "findings": [finding.to_dict() for finding in self.findings],
            "forecast": self.forecast.verdict,
            "records": self.records.to_dict(),
        }

    def apply(self, model, findings=None):
        """A new model with what the findings ask for, and what it can be expected to do.

        Parameters
        ----------
        model : MLP, MLPClassifier, MLPRegressor, TabularClassifier, TabularRegressor, or Pipeline
            As the one that was trained; of a Pipeline the last step is one of these.  It stays as it is.
        findings : Finding or iterable of Finding, optional
            Of this report; None for all.

        Returns
        -------
        Applied
            With a new network of the same random state for an `MLP`; else a clone with other parameters, or, where
            inputs are to be standardized, a `Pipeline` that does so before.

        Raises
        ------
        TypeError
            For another kind of model, or findings that are none.
        """
        made = adapter(model, self.evidence)
        signs, setup = Signs(self.evidence), made.setup
        for finding in self._chosen(findings):
            setup = made.possible(change(setup, finding.rule, signs))
        changes = describe(made.setup, setup)
        new, training = made.make(setup)
        data, inputs, targets = self.evidence.data, None, None
        if kind_of(model) == "network":  # which has no place for them
            if setup.inputs is not None:
                inputs = Standardization.of(data.input_mean, data.input_std)
            if setup.targets is not None:
                targets = Standardization.of(data.target_mean, data.target_std)
        return Applied(new, forecast_of(setup), changes, training, inputs, targets)

    def _chosen(self, findings):
        if findings is None:
            return self.findings
        chosen = (findings,) if isinstance(findings, Finding) else tuple(findings)
        for finding in chosen:
            if not isinstance(finding, Finding) or finding.rule not in RULES:
                raise TypeError(f"findings must be of this report; got {finding!r}")
        return chosen
