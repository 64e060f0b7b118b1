"""Where displays take their numbers from."""

__all__ = ["ReportDisplay", "estimator_inside", "report_of"]


def estimator_inside(estimator, attribute):
    """The fitted estimator with an attribute: itself, or what a pipeline, a search or a transformed target has inside.

    Raises sklearn's NotFittedError where it is not fitted, and TypeError where nothing of ours is inside.
    """
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(estimator)
    inner = estimator
    while inner is not None and not hasattr(type(inner), attribute) and attribute not in getattr(inner, "__dict__", ()):
        inside = [getattr(inner, name, None) for name in ("best_estimator_", "regressor_", "_final_estimator")]
        inner = next((one for one in inside if one is not None), None)
    if inner is None:
        raise TypeError(f"estimator must be one of cymlp's, with {attribute}, or hold one; got {estimator!r}")
    return inner


def report_of(estimator):
    """The `HealthReport` of a fitted estimator; its AttributeError says how to have one where there is none."""
    return estimator_inside(estimator, "health_").health_


class ReportDisplay:
    """What displays of a `HealthReport` share."""

    @classmethod
    def from_estimator(cls, estimator, *, ax=None, **kwargs):
        """Draw what a fitted estimator has gone through.

        Parameters
        ----------
        estimator : MLPClassifier, MLPRegressor, or what holds one
            Fitted with ``health`` on, as it is by default.  Of a `Pipeline` its last step is taken, of a search the
            best estimator.
        ax : matplotlib Axes, optional
            Where to draw; default: a new figure of pyplot's.
        **kwargs
            Of `plot`.

        Returns
        -------
        display
            As drawn, with ``ax_`` and ``figure_``.

        Raises
        ------
        NotFittedError
            The estimator is not fitted.
        AttributeError
            It was not watched.
        TypeError
            It is none of cymlp's.
        """
        return cls.from_report(report_of(estimator), ax=ax, **kwargs)

    @classmethod
    def from_history(cls, history, *, ax=None, **kwargs):
        """Draw what `MLP.train` has gone through.

        Parameters
        ----------
        history : History
            What it returned with ``health=True``, or the network's ``history_``.
        ax, **kwargs
            As of `from_estimator`.

        Returns
        -------
        display
            As drawn, with ``ax_`` and ``figure_``.

        Raises
        ------
        ValueError
            The run was not watched.
        """
        if history.health is None:
            raise ValueError("history must have health; pass health=True to MLP.train")
        return cls.from_report(history.health, ax=ax, **kwargs)

    @classmethod
    def from_report(cls, report, *, ax=None, **kwargs):
        """Draw what a health report has seen.

        Parameters
        ----------
        report : HealthReport
        ax, **kwargs
            As of `from_estimator`.

        Returns
        -------
        display
            As drawn, with ``ax_`` and ``figure_``.

        Raises
        ------
        ValueError
            No step was watched.
        """
        return cls(**cls._data(report)).plot(ax=ax, **kwargs)

    @classmethod
    def _records(cls, report):
        if not len(report.records):
            raise ValueError(f"report must have a record of a step for {cls.__name__}; got none")
        return report.records
