"""scikit-learn's callback protocol, where the installed scikit-learn has it (1.9), and plain functions beside it."""

import copy

__all__ = ["CallbackSupportMixin", "as_callbacks", "reporters"]

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # before scikit-learn 1.9

    class CallbackSupportMixin:
        """Nothing to support."""


def _reconstruction(estimator):
    """The attributes with which a copy of the estimator predicts as it does now."""
    return {"network_": copy.deepcopy(estimator.network_), "_handed_out": None}


def _bridge(estimator, X, y, sample_weight):
    """Two functions that tell the callbacks set by ``set_callbacks`` of an epoch's end, and of the fit's."""
    metadata = None if sample_weight is None else {"sample_weight": sample_weight}
    context = estimator._init_callback_context(max_subtasks=estimator.max_iter)
    context.call_on_fit_task_begin(estimator=estimator, X=X, y=y, metadata=metadata)

    def tell(context):
        return context.call_on_fit_task_end(
            estimator=estimator,
            X=X,
            y=y,
            metadata=metadata,
            reconstruction_attributes=lambda: _reconstruction(estimator),
        )

    def epoch(event):
        subcontext = context.subcontext(task_name="epoch")
        subcontext.call_on_fit_task_begin(estimator=estimator, X=X, y=y, metadata=metadata)
        return bool(tell(subcontext))

    return epoch, lambda: tell(context)


def as_callbacks(given):
    """The parameter `callbacks` as a list of functions of an `Event`; one that returns True stops the fit."""
    callbacks = [] if given is None else [given] if callable(given) else list(given)
    for i, callback in enumerate(callbacks):
        if not callable(callback):
            raise TypeError(f"callbacks[{i}] must be callable; got {type(callback).__name__}")
    return callbacks


def reporters(estimator, X, y, sample_weight):
    """What tells scikit-learn's callbacks of the fit that begins now.

    Returns
    -------
    report : list of callables
        Of an `Event`, as those of `as_callbacks`.
    finish : callable
        To be called without arguments when the fit has ended well.
    """
    if not hasattr(estimator, "_skl_callbacks") and not hasattr(estimator, "_parent_callback_ctx"):
        return [], lambda: None
    epoch, finish = _bridge(estimator, X, y, sample_weight)
    return [epoch] * hasattr(estimator, "_skl_callbacks"), finish
