"""Documents as sparse rows: CSR goes in as it is, and is never dense as a whole.

Ten thousand documents of 20 words are made up; each has a topic, and three of its words are of that topic.
HashingVectorizer turns them into rows of 4096 numbers of which nearly all are 0. As a dense matrix those to train
with would take 123 MB; fit and predict make a tile of some rows dense at a time. `tracemalloc`, which sees what NumPy
allocates, has the proof.
"""

import tracemalloc

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.model_selection import train_test_split

import cymlp

TOPICS = ["sea", "snow", "bread", "music", "steel"]
rng = np.random.default_rng(0)
topic = rng.integers(0, len(TOPICS), 10_000)
# Each topic has 200 words of its own, and there are 2000 that all have in common.
own = rng.integers(0, 200, (len(topic), 3))
common = rng.integers(0, 2000, (len(topic), 17))
documents = [
    " ".join([*(f"{TOPICS[k]}{i}" for i in rows), *(f"word{i}" for i in others)])
    for k, rows, others in zip(topic, own, common, strict=True)
]

X = HashingVectorizer(n_features=4096, dtype=np.float32).transform(documents)
y = np.array(TOPICS)[topic]
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
print(f"{X.shape[0]} documents, {X.nnz / X.shape[0]:.1f} of {X.shape[1]} numbers in a row are not 0")

model = cymlp.MLPClassifier((16,), early_stopping=True, n_iter_no_change=2, learning_rate_init=0.01, random_state=0)
tracemalloc.start()
right = model.fit(X_train, y_train).score(X_test, y_test)
peak = tracemalloc.get_traced_memory()[1]
tracemalloc.stop()
dense = X_train.shape[0] * X_train.shape[1] * X_train.dtype.itemsize

print(f"{model.n_iter_} epochs, {right:.0%} right")
print(f"peak of memory below {round(peak / dense + 0.05, 1):.0%} of the dense matrix of {dense / 1e6:.0f} MB")
assert right > 0.95
assert peak < 0.3 * dense
