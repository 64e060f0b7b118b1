"""Regression: targets in units of their own, scaled inside the estimator.

The diabetes set has targets from 25 to 346. A network begins with outputs near 0, and with small steps it takes long
to get there: with these epochs it ends worse than the mean of y, which is what a negative R2 says.
`target_scaling="standard"` trains with targets of mean 0 and standard deviation 1, and predicts in the units of y,
without a TransformedTargetRegressor around it.
"""

import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.model_selection import KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import cymlp


def falling(progress):
    """The factor on learning_rate_init where this share of the epochs is done."""
    return 1 - progress


X, y = load_diabetes(return_X_y=True)
folds = KFold(5, shuffle=True, random_state=0)
plain = cymlp.MLPRegressor(
    hidden_layer_sizes=(16,), batch_size=32, max_iter=100, learning_rate=falling, n_iter_no_change=100, random_state=0
)
scaled = clone(plain).set_params(target_scaling="standard")

for name, regressor in (("as they are", plain), ("scaled", scaled)):
    scores = cross_val_score(make_pipeline(StandardScaler(), regressor), X, y, cv=folds)
    print(f"targets {name}: R2 {scores.mean():.2f}")
    assert (scores.mean() > 0.4) == (regressor is scaled)

# What it learned of the targets, and predictions in their units.
X = StandardScaler().fit_transform(X)
scaled.fit(X, y)
print(f"targets have mean {scaled.target_mean_[0]:.1f} and standard deviation {scaled.target_scale_[0]:.1f}")
np.testing.assert_allclose([scaled.target_mean_[0], scaled.target_scale_[0]], [y.mean(), y.std()])
print(f"predictions have mean {scaled.predict(X).mean():.0f} and are off by {np.abs(scaled.predict(X) - y).mean():.0f}")

# scikit-learn's regressor has no such parameter. What is made of it has the scaling in its last layer.
np.testing.assert_allclose(scaled.to_sklearn().predict(X), scaled.predict(X))
