"""Handwritten digits: one import takes the place of scikit-learn's, and the numbers stay.

scikit-learn's classifier and cymlp's are fitted with the same parameters and the same random_state, and compared.
Then `transform` gives what scikit-learn's has not: the activations of the hidden layer, features that the network has
learned. Among them the nearest of ten class means is the right one more often than among pixels.
"""

import numpy as np
import sklearn.neural_network
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import cymlp


def right_by_class_means(train, test):
    """The share of test rows whose nearest class mean is that of their class."""
    means = np.stack([train[y_train == digit].mean(axis=0) for digit in range(10)])
    return np.mean(np.linalg.norm(test[:, np.newaxis] - means, axis=2).argmin(axis=1) == y_test)


X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X / 16, y, stratify=y, random_state=0)

parameters = {"hidden_layer_sizes": (64,), "learning_rate_init": 0.01, "tol": 1e-3, "random_state": 0}
theirs = sklearn.neural_network.MLPClassifier(**parameters).fit(X_train, y_train)
ours = cymlp.MLPClassifier(**parameters).fit(X_train, y_train)
for name, model in (("scikit-learn", theirs), ("cymlp", ours)):
    print(f"{name}: {model.n_iter_} epochs, loss {model.loss_:.4f}, {model.score(X_test, y_test):.1%} right")

# The same initial weights and the same minibatches: only the last digits of sums differ.
assert ours.n_iter_ == theirs.n_iter_
np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-6)
np.testing.assert_array_equal(ours.predict(X_test), theirs.predict(X_test))

# The 64 activations of the hidden layer in place of the 64 pixels.
by_pixels = right_by_class_means(X_train, X_test)
by_features = right_by_class_means(ours.transform(X_train), ours.transform(X_test))
print(f"nearest class mean: {by_pixels:.1%} right by pixels, {by_features:.1%} by learned features")
assert by_features > by_pixels + 0.03
