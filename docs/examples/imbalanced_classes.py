"""Three rows in a hundred are of the class that matters: scoring and class_weight.

Nearly all rows are right soon, so early stopping by the accuracy ends before the rare class is learned. `scoring` has
it watch something else: with the average precision, which asks how well the rare rows are ranked, training goes on and
more of them are found. `class_weight="balanced"` gives both classes the same weight in the loss: still more are found,
for more false alarms. The balanced accuracy, the mean over classes of the share that is right, fits that.
"""

from sklearn.datasets import make_classification
from sklearn.metrics import balanced_accuracy_score, precision_score, recall_score
from sklearn.model_selection import train_test_split

import cymlp

X, y = make_classification(6000, 20, n_informative=6, n_redundant=4, weights=[0.97], flip_y=0, random_state=0)
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
print(f"{len(y_test)} test rows, {y_test.sum()} of them rare")

found, balanced = [], []
for title, parameters in {
    "as it comes": {},
    "scoring": {"scoring": "average_precision"},
    "scoring and class_weight": {"scoring": "balanced_accuracy", "class_weight": "balanced"},
}.items():
    model = cymlp.MLPClassifier(
        (32,), learning_rate_init=0.003, early_stopping=True, validation_fraction=0.2, random_state=0, **parameters
    ).fit(X_train, y_train)
    predicted = model.predict(X_test)
    found.append(recall_score(y_test, predicted))
    balanced.append(balanced_accuracy_score(y_test, predicted))
    print(
        f"{title}: {model.n_iter_} epochs, {model.score(X_test, y_test):.1%} right, {found[-1]:.0%} of the rare ones "
        f"found, {precision_score(y_test, predicted):.0%} of alarms true"
    )

assert found[0] + 0.05 < found[1] < found[2] - 0.05
assert balanced == sorted(balanced)
