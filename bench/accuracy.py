"""How often the tabular preset is right beside others, none of them tuned: ``python -m bench.accuracy [SET ...]``.

Cross-validation in 5 folds over 3 seeds, on the sets that scikit-learn brings; accuracy, or R² for the last set.  The
difference to the plain default is paired: both see the same folds.  Prints a table in Markdown.
"""

import functools
import sys
import warnings

import numpy as np
import sklearn.datasets
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cymlp.presets import tabular

__all__ = ["MODELS", "SEEDS", "SETS", "difference", "scores", "table"]

SETS = {
    "digits": "classification",
    "breast_cancer": "classification",
    "wine": "classification",
    "iris": "classification",
    "diabetes": "regression",
}
SEEDS = (0, 1, 2)


def _by_task(classifier, regressor, task, seed):
    return (classifier if task == "classification" else regressor)(random_state=seed)


def _scaled(model, task, seed):
    return make_pipeline(StandardScaler(), model(task, seed))


_mlp = functools.partial(_by_task, MLPClassifier, MLPRegressor)
# Each makes an estimator from a task and a seed.
MODELS = {
    "tabular preset": lambda task, seed: tabular(task, random_state=seed),
    "plain MLP": _mlp,
    "StandardScaler, MLP": functools.partial(_scaled, _mlp),
    "StandardScaler, linear": functools.partial(_scaled, functools.partial(_by_task, LogisticRegression, Ridge)),
    "HistGradientBoosting": functools.partial(_by_task, HistGradientBoostingClassifier, HistGradientBoostingRegressor),
}


def scores(model, name):
    """Scores of an entry of `MODELS`, or a function like them, on a set: ndarray (3 seeds * 5 folds,)."""
    task = SETS[name]
    X, y = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)
    folds = StratifiedKFold if task == "classification" else KFold
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the plain default comes to its 200 epochs
        return np.concatenate(
            [cross_val_score(model(task, seed), X, y, cv=folds(5, shuffle=True, random_state=seed)) for seed in SEEDS]
        )


def difference(ours, theirs):
    """The mean of paired differences and its standard error."""
    differences = ours - theirs
    return differences.mean(), differences.std(ddof=1) / np.sqrt(len(differences))


def table(names):
    """Lines of Markdown: a row for each set, a column for each model, and the difference to the plain default."""
    yield f"| set | {' | '.join(MODELS)} | preset - plain |"
    yield f"|---{'|---:' * (len(MODELS) + 1)}|"
    for name in names:
        found = {model: scores(make, name) for model, make in MODELS.items()}
        mean, error = difference(found["tabular preset"], found["plain MLP"])
        cells = [f"{one.mean():.3f}" for one in found.values()]
        yield f"| {name} | {' | '.join(cells)} | {mean:+.3f} ± {error:.3f} |"


if __name__ == "__main__":
    for line in table(sys.argv[1:] or SETS):
        print(line, flush=True)
