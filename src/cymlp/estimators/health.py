"""How the fits of an estimator are watched, and ``health_``, the report on them."""

import numpy as np
from scipy import sparse

from .. import optimizers
from ..health.monitor import Monitor, as_every
from ..health.summaries import sample_rows

__all__ = ["Watched", "monitor_of"]


class Watched:
    """An estimator with a ``_monitor``."""

    _monitor = None
    health = True  # of those that were pickled before there was this parameter

    @property
    def health_(self):
        """A `cymlp.health.HealthReport` on the layers while they were trained, made when it is asked for."""
        if "network_" not in self.__dict__:
            raise AttributeError(f"this {type(self).__name__} is not fitted yet: it has no health_")
        if self._monitor is None:
            raise AttributeError(f"this {type(self).__name__} was not watched: fit it with health=True to have health_")
        return self._monitor.history.health


def monitor_of(estimator, examples, rows, batch_size, regularization, incremental):
    """The `Monitor` of a fit that begins, which has seen some of its rows; None where nothing is watched.

    That of the fits before where this one goes on with them.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
    examples : Examples
    rows : ndarray of int64, or None
        Those to train with; None for all.
    batch_size : int
    regularization : Regularization or None
        None for "lbfgs".
    incremental : bool
        Whether it is a part of a stream.
    """
    every = as_every(estimator.health)
    if not every:
        estimator._monitor = None
        return None
    n_rows, monitor = len(examples) if rows is None else len(rows), estimator._monitor
    is_shown = monitor is None or not incremental or monitor.wants_rows(-(-n_rows // batch_size))
    if not is_shown and monitor.every == every:
        return monitor  # in most calls of a stream there is nothing to be seen
    network, solver = estimator.network_, estimator.__dict__.get("_optimizer")
    if regularization is None:
        optimizer, rate = optimizers.LBFGS(), None
    else:
        optimizer, rate = solver.optimizer, None if regularization.schedules_rate else solver.initial_rate
    facts = {
        "optimizer": optimizer,
        "learning_rate": rate,
        "batch_size": batch_size,
        "n_rows": None if incremental else n_rows,
        "dropout": () if regularization is None else regularization.rates,
        "class_weight": getattr(estimator, "class_weight", None) is not None,
        "sample_weight": examples.sample_weight is not None,
        "clipping": regularization is not None and regularization.clips,
    }
    if monitor is None:
        estimator._monitor = monitor = Monitor(every, network, facts, estimator._loss_factor, float(estimator.gain))
    else:
        monitor.go_on_with(every, network, facts)
    if is_shown:
        _show_rows(monitor, examples, rows, incremental, network)
    return monitor


def _show_rows(monitor, examples, rows, incremental, network):
    n_rows = len(examples) if rows is None else len(rows)
    some = sample_rows(n_rows, examples.X.shape[1])
    some = some if rows is None else rows[some]
    X, targets, counts = examples.X[some], examples.targets, None
    if targets.ndim == 1 and not incremental:
        # Of all rows, so that nothing is copied: what is held out has the same mix.
        counts = np.bincount(targets, minlength=network.layer_sizes[-1])
    if sparse.issparse(X):
        X = X.toarray(order="C")
    monitor.see(X, targets[some], None if examples.weight is None else examples.weight[some], counts)
