"""Few rows, some of them with a wrong label: dropout and batch normalization against learning them by heart."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from cymlp import MLPClassifier, schedules

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X / 16, y, train_size=500, stratify=y, random_state=0)
wrong = np.random.default_rng(0).random(len(y_train)) < 0.15
y_train[wrong] = np.random.default_rng(1).integers(10, size=wrong.sum())

rate = schedules.WarmUp(schedules.CosineRestarts(0.005), steps=100)  # the rate of each minibatch
common = {"hidden_layer_sizes": (256, 256), "batch_size": 32, "learning_rate": rate, "max_iter": 60, "random_state": 0}
right = {}
for name, parameters in {
    "plain": {},
    "batch_norm": {"batch_norm": True},
    "dropout": {"dropout": [0.2, 0.5, 0.5]},
    "both": {"dropout": [0.2, 0.5, 0.5], "batch_norm": True},
}.items():
    classifier = MLPClassifier(**common, **parameters).fit(X_train, y_train)
    right[name] = classifier.score(X_test, y_test)
    print(f"{name:>10}: {classifier.score(X_train, y_train):5.1%} of training rows right, {right[name]:.1%} of others")
assert max(right["plain"], right["batch_norm"]) + 0.03 < right["dropout"] < right["both"]

# Prediction drops nothing, and normalizes by numbers that are known by then: they become a part of the weights.
np.testing.assert_allclose(classifier.to_sklearn().predict_proba(X_test), classifier.predict_proba(X_test), atol=1e-9)
