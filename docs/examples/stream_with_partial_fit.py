"""A stream: test with each chunk, then train with it, through a change of what is to be learned.

Every chunk is 500 rows that are seen once. With chunk 41 the rule turns, for a part of the rows. The share that is
right falls, and comes back as `partial_fit` goes on with the network and with the state of its optimizer.
"""

import numpy as np

import cymlp


def chunks():
    """80 pairs (X, y), of which the later half has another rule."""
    rng = np.random.default_rng(0)
    for number in range(80):
        X = rng.standard_normal((500, 10))
        sign = 1 if number < 40 else -1
        yield X, (X[:, 0] * X[:, 1] + sign * X[:, 2] > 0).astype(int)


model = cymlp.MLPClassifier((32,), batch_size=20, learning_rate_init=0.01, random_state=0)
right = [np.nan]  # nothing is known before the first chunk
for X, y in chunks():
    if hasattr(model, "classes_"):
        right.append(model.score(X, y))
    model.partial_fit(X, y, classes=[0, 1])  # all that will ever come; the first chunk need not have them

for first, last in ((2, 2), (3, 10), (31, 40), (41, 41), (42, 50), (71, 80)):
    chunk = f"chunk {first}" if first == last else f"chunks {first} to {last}"
    print(f"{chunk}: {np.mean(right[first - 1 : last]):.1%} right")
print(f"{model.t_} rows, each seen once")

before, turned, after = np.mean(right[30:40]), right[40], np.mean(right[70:])
assert before > 0.94
assert turned < before - 0.2
assert after > 0.94
assert model.t_ == 80 * 500
