"""A grid search over how a deep network begins: `initializer` and `gain` are parameters as any other.

Through six layers of tanh signals vanish where weights begin too small, and saturate where they begin too large. The
search takes each initializer with each gain; None is scikit-learn's own draw, on which the gain is a factor.
"""

from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

import cymlp


def falling(progress):
    """The factor on learning_rate_init where this share of the epochs is done."""
    return 1 - progress


X, y = load_digits(return_X_y=True)
gains, initializers = (0.3, 1.0, 2.0), (None, "he_normal", "orthogonal")
network = cymlp.MLPClassifier(
    (32,) * 6,
    activation="tanh",
    batch_size=32,
    learning_rate=falling,
    learning_rate_init=0.003,
    max_iter=10,
    random_state=0,
)
search = GridSearchCV(network, {"gain": gains, "initializer": initializers}, cv=3).fit(X / 16, y)

scores = dict(zip(map(str, search.cv_results_["params"]), search.cv_results_["mean_test_score"], strict=True))
print("share that is right:" + "".join(f"{name!s:>12}" for name in initializers))
for gain in gains:
    row = [scores[str({"gain": gain, "initializer": name})] for name in initializers]
    print(f"{f'gain {gain:g}':>20}" + "".join(f"{score:12.2f}" for score in row))
print(f"best: {search.best_params_}")

assert search.best_params_["gain"] == 1.0
assert all(scores[str({"gain": 1.0, "initializer": name})] > 0.9 for name in initializers)
