"""The fit loop of `MLP.train` for L-BFGS: iterations over all rows, by SciPy."""

import time

import numpy as np

__all__ = ["fit"]


def fit(run, source, options, deadline):
    """At most as many iterations as there are to be epochs.

    Parameters
    ----------
    run : Run
    source : Arrays
    options : Options
    deadline : float
        By `time.perf_counter`.
    """
    network, optimizer, epochs = run.network, options.optimizer, options.epochs
    X, y, sample_weight = source.X, source.y, source.weight
    gradient = np.empty_like(network._flat)
    n_threads = network._threads(6.0 * network._n_weights * len(X))
    piece = source.piece(None, 0)
    with np.errstate(over="ignore"):
        share = float(np.ldexp(1 / piece.weights().sum(), -piece.exponent))  # of alpha
    decay = options.penalties.get("l2", 0.0) + options.penalties.get("alpha", 0.0) * share

    def set_parameters(vector):
        network._in_step = False
        with np.errstate(over="ignore"):  # the loss, or end_epoch, finds what overflows
            run.engine.set_parameters(vector.astype(network.dtype))

    def penalized(vector):
        """Views of what penalties are for."""
        return [vector] if options.penalties.get("penalize_biases") else network._layout.views(vector).weights

    def objective(vector):
        set_parameters(vector)
        loss, wide = run.engine.gradients(X, y, sample_weight, gradient, n_threads), gradient.astype(np.float64)
        if decay > 0:
            for w, dw in zip(penalized(vector), penalized(wide), strict=True):
                loss += 0.5 * decay * float(np.square(w).sum())
                dw += decay * w
        return loss, wide

    def end_iteration(vector, loss):
        set_parameters(vector)
        run.end_iteration()
        reason = run.end_epoch(loss, 1)
        if reason is None and run.history.epochs < epochs and time.perf_counter() >= deadline:
            reason = "time"
        if reason is not None:
            run.stop(reason)

    settings = {
        "maxcor": min(optimizer.memory, epochs),  # more corrections than iterations there are not
        "gtol": optimizer.gradient_tolerance,
        "ftol": optimizer.loss_tolerance,
        "maxiter": epochs,
        "maxls": 20,
        "maxfun": 1 + 21 * epochs,  # as many as maxls can ask for: only maxiter limits
    }
    run.begin()
    run.minimize(objective, network._flat.astype(np.float64), settings, end_iteration, X)
    run.finish("epochs" if run.history.epochs >= epochs else "converged")
