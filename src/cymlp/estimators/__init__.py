"""scikit-learn's estimators around `cymlp.MLP`."""

from .classifier import MLPClassifier
from .regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor", "from_sklearn"]


def from_sklearn(estimator):
    """One of ours with the parameters and, where it is fitted, the state of one of scikit-learn's.

    Parameters
    ----------
    estimator : sklearn.neural_network.MLPClassifier or MLPRegressor

    Returns
    -------
    MLPClassifier or MLPRegressor
        With equal predictions.

    Raises
    ------
    TypeError
        For anything else.

    Examples
    --------
    >>> import sklearn.neural_network
    >>> from_sklearn(sklearn.neural_network.MLPClassifier((8,), random_state=0))
    MLPClassifier(hidden_layer_sizes=(8,), random_state=0)
    """
    import sklearn.neural_network

    for ours in (MLPClassifier, MLPRegressor):
        if isinstance(estimator, getattr(sklearn.neural_network, ours.__name__)):
            return ours.from_sklearn(estimator)
    raise TypeError(
        f"estimator must be a sklearn.neural_network.MLPClassifier or MLPRegressor; got {type(estimator).__name__}"
    )
