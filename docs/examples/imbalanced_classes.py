"""Three rows in a hundred are of the class that matters: class_weight and scoring.

A classifier that is fitted as it comes is right for nearly all rows and finds two thirds of the rare ones.
`class_weight="balanced"` gives both classes the same weight in the loss: more are found, with more false alarms.
Early stopping that watches the average precision, which asks how well rows are ranked, trains longer: here it keeps
what is found and halves the false alarms. `scoring` takes any scorer of scikit-learn, or "loss".
"""

from sklearn.datasets import make_classification
from sklearn.metrics import balanced_accuracy_score, precision_score, recall_score
from sklearn.model_selection import train_test_split

import cymlp

X, y = make_classification(6000, 20, n_informative=6, n_redundant=4, weights=[0.97], flip_y=0, random_state=0)
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
print(f"{len(y_test)} test rows, {y_test.sum()} of them rare")

found, balanced = {}, {}
for name, parameters in {
    "as it comes": {},
    "class_weight": {"class_weight": "balanced"},
    "class_weight and scoring": {"class_weight": "balanced", "scoring": "average_precision"},
}.items():
    model = cymlp.MLPClassifier(
        (32,), learning_rate_init=0.003, early_stopping=True, validation_fraction=0.2, random_state=0, **parameters
    ).fit(X_train, y_train)
    predicted = model.predict(X_test)
    found[name] = recall_score(y_test, predicted)
    balanced[name] = balanced_accuracy_score(y_test, predicted)
    print(
        f"{name}: {model.score(X_test, y_test):.1%} right, {found[name]:.0%} of the rare ones found, "
        f"{precision_score(y_test, predicted):.0%} of alarms true"
    )

assert min(found["class_weight"], found["class_weight and scoring"]) > found["as it comes"] + 0.1
assert min(balanced["class_weight"], balanced["class_weight and scoring"]) > balanced["as it comes"] + 0.05
