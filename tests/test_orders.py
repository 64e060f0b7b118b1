"""Minibatches: their order, the weights of their rows, their labels."""

import itertools

import numpy as np
import pytest
from test_turns import assert_in_step

from cymlp import MLP
from cymlp.orders import Shuffled, Stratified, Weighted

OPTIONS = {"epochs": 3, "batch_size": 8}


def _network(engine_name, sizes=(4, 6, 3), output="softmax", **options):
    return MLP(list(sizes), "tanh", output, random_state=5, engine=engine_name, **options)


@pytest.fixture
def labeled(rng):
    return rng.normal(size=(40, 4)), rng.choice(3, 40, p=[0.6, 0.3, 0.1])


@pytest.fixture
def binary(rng):
    return rng.normal(size=(40, 4)), rng.choice(2, 40, p=[0.8, 0.2])


def _trained(engine_name, X, y, sizes=(4, 6, 3), output="softmax", **options):
    net = _network(engine_name, sizes, output)
    history = net.train(X, y, **OPTIONS | options)
    return net.parameters.tobytes(), history.loss


# ---- Orders ----


def test_a_shuffled_order_is_a_permutation(rng):
    order = Shuffled(1000)
    first, second = order(rng), order(rng)
    assert first.dtype == np.int64
    assert sorted(first) == sorted(second) == list(range(1000))
    assert (first != second).any()


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.9, 0.1], [0.7, 0.2, 0.05, 0.05], [1.0], [0.1] * 10])
def test_a_stratified_order_has_the_mix_of_the_whole_in_any_part(shares, rng):
    n_rows = 2000
    labels = rng.choice(len(shares), n_rows, p=shares) * 3 - 1  # any numbers
    order = Stratified(labels)
    first, second = order(rng), order(rng)
    assert first.dtype == np.int64
    for rows in (first, second):
        assert sorted(rows) == list(range(n_rows))
        for start, length in itertools.product(range(0, n_rows, 37), (20, 64, 500)):
            part = labels[rows[start : start + length]]
            for label in set(labels):
                expected = len(part) * (labels == label).mean()
                # One more or less at each end, and as much for where the ends are, which all classes decide together.
                assert abs((part == label).sum() - expected) <= 2 + len(shares) * (labels == label).mean()
    assert (first != second).any()


def test_a_class_has_a_random_order_of_its_own(rng):
    order = Stratified(np.zeros(100, int))
    assert (np.diff(order(rng)) != 1).any()


def test_weighted_draws_follow_the_weights(rng):
    weight = np.array([0.0, 1.0, 3.0, 0.0, 6.0, 0.0])
    order = Weighted(np.repeat(weight, 1000))
    rows = order(rng)
    assert rows.dtype == np.int64
    assert len(rows) == 6000
    counts = np.bincount(rows // 1000, minlength=6)
    assert (counts[weight == 0] == 0).all()
    expected = 6000 * weight / weight.sum()
    assert (abs(counts - expected) <= 5 * np.sqrt(expected)).all()  # five standard deviations at least
    assert len(np.unique(rows)) < 3000  # with replacement


@pytest.mark.parametrize("kind", ["stratified", "weighted"])
def test_training_takes_the_order(kind, engine_name, labeled):
    X, y = labeled
    weight = np.arange(40.0)
    net, twin = _network(engine_name), _network(engine_name)
    options = {"sample_weight": weight} if kind == "weighted" else {}
    net.train(X, y, shuffle=kind, **OPTIONS, **options)
    draw = Weighted(weight) if kind == "weighted" else Stratified(y)
    for _ in range(3):
        rows = draw(twin._rng)
        twin.train(X[rows], y[rows], epochs=1, batch_size=8, shuffle=False, resume=True)
    np.testing.assert_array_equal(net.parameters, twin.parameters)
    assert_in_step(net, twin.parameters)


def test_strata_of_probabilities_are_their_largest(engine_name, labeled):
    X, y = labeled
    soft = 0.2 + 0.4 * np.eye(3)[y]
    net, twin = _network(engine_name), _network(engine_name)
    net.train(X, soft, shuffle="stratified", epochs=1)
    rows = Stratified(y)(twin._rng)
    twin.train(X[rows], soft[rows], shuffle=False, epochs=1)
    np.testing.assert_array_equal(net.parameters, twin.parameters)


def test_strata_of_one_output_are_its_sides(engine_name, binary):
    X, y = binary
    net, twin = (_network(engine_name, (4, 3, 1), "sigmoid") for _ in range(2))
    net.train(X, 0.1 + 0.8 * y, shuffle="stratified", epochs=1)
    rows = Stratified(y)(twin._rng)
    twin.train(X[rows], (0.1 + 0.8 * y)[rows], shuffle=False, epochs=1)
    np.testing.assert_array_equal(net.parameters, twin.parameters)


# ---- Weights of classes ----


@pytest.mark.parametrize("as_probabilities", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_weights_of_classes_are_weights_of_rows(weighted, as_probabilities, engine_name, labeled, rng):
    X, y = labeled
    own = rng.integers(1, 5, 40).astype(float) if weighted else np.ones(40)
    options = {"sample_weight": own} if weighted else {}
    targets = np.eye(3)[y] if as_probabilities else y
    expected = _trained(engine_name, X, targets, sample_weight=own * np.array([1.0, 2.5, 0.0])[y])
    assert _trained(engine_name, X, targets, class_weight={1: 2.5, 2: 0}, **options) == expected


def test_balanced_weights_give_each_class_the_same(engine_name, labeled):
    X, y = labeled
    counts = np.bincount(y)
    expected = _trained(engine_name, X, y, sample_weight=(40 / (3 * counts))[y])
    assert _trained(engine_name, X, y, class_weight="balanced") == expected


def test_balanced_weights_count_classes_that_occur(engine_name, labeled):
    X, y = labeled[0], np.repeat([0, 2], [30, 10])
    expected = _trained(engine_name, X, y, sample_weight=np.repeat([40 / 60, 40 / 20], [30, 10]))
    assert _trained(engine_name, X, y, class_weight="balanced") == expected


def test_balanced_weights_are_scikit_learns(labeled):
    from sklearn.utils.class_weight import compute_class_weight

    from cymlp import _labels

    y = labeled[1]
    ours = _labels.table("balanced", np.bincount(y).astype(float), 3)
    np.testing.assert_array_equal(ours, compute_class_weight("balanced", classes=np.arange(3), y=y))


def test_weights_of_two_classes_of_one_output(engine_name, binary):
    X, y = binary
    sizes, output = (4, 3, 1), "sigmoid"
    weight = np.where(y == 1, 4.0, 1.0)
    expected = _trained(engine_name, X, y, sizes, output, sample_weight=weight)
    assert _trained(engine_name, X, y, sizes, output, class_weight={1: 4}) == expected
    assert _trained(engine_name, X, y[:, np.newaxis], sizes, output, class_weight={np.int64(1): 4, 0: 1}) == expected


def test_draws_by_weights_of_classes(engine_name, labeled):
    X, y = labeled
    expected = _trained(engine_name, X, y, shuffle="weighted", sample_weight=np.array([1.0, 0.0, 5.0])[y])
    assert _trained(engine_name, X, y, shuffle="weighted", class_weight={1: 0, 2: 5}) == expected


# ---- Smoothed labels ----


def test_smoothed_labels_behind_a_softmax(engine_name, rng):
    X, y = rng.normal(size=(40, 4)), rng.integers(0, 4, 40)
    sizes = (4, 6, 4)
    expected = _trained(engine_name, X, 0.75 * np.eye(4)[y] + 0.0625, sizes)
    assert _trained(engine_name, X, y, sizes, label_smoothing=0.25) == expected
    assert _trained(engine_name, X, np.eye(4)[y], sizes, label_smoothing=0.25) == expected


@pytest.mark.parametrize("n_out", [1, 3])
def test_smoothed_labels_behind_a_sigmoid(n_out, engine_name, rng):
    X, y = rng.normal(size=(40, 4)), rng.integers(0, 2, (40, n_out)).astype(float)
    sizes, output = (4, 3, n_out), "sigmoid"
    expected = _trained(engine_name, X, 0.75 * y + 0.125, sizes, output)
    assert _trained(engine_name, X, y, sizes, output, label_smoothing=0.25) == expected


def test_validation_data_are_not_smoothed(engine_name, labeled):
    net = _network(engine_name)
    history = net.train(*labeled, label_smoothing=0.5, validation_data=labeled)
    assert history.validation_loss[-1] == net.evaluate(*labeled)


def test_weights_of_classes_are_those_of_labels_before_they_are_smoothed(engine_name, rng):
    X, y = rng.normal(size=(40, 4)), rng.integers(0, 4, 40)
    sizes, table = (4, 6, 4), np.array([1.0, 2.0, 0.5, 4.0])
    expected = _trained(engine_name, X, 0.75 * np.eye(4)[y] + 0.0625, sizes, sample_weight=table[y])
    weights = dict(enumerate(table))
    assert _trained(engine_name, X, y, sizes, label_smoothing=0.25, class_weight=weights) == expected


# ---- Wrong arguments ----

WRONG = {
    "kind": ({"shuffle": "random"}, ValueError, ["shuffle", "'stratified'", "'random'"]),
    "number": ({"shuffle": 1}, TypeError, ["shuffle", "True or False", "1"]),
    "no weights": ({"shuffle": "weighted"}, ValueError, ["shuffle", "'weighted'", "sample_weight"]),
    "class_weight": ({"class_weight": "equal"}, ValueError, ["class_weight", "'balanced'", "'equal'"]),
    "list": ({"class_weight": [1, 2, 3]}, TypeError, ["class_weight", "dict", "list"]),
    "label": ({"class_weight": {3: 1.0}}, ValueError, ["class_weight", "labels 0 to 2", "3"]),
    "float label": ({"class_weight": {0.5: 1.0}}, ValueError, ["class_weight", "labels 0 to 2", "0.5"]),
    "weight": ({"class_weight": {1: -1.0}}, ValueError, ["class_weight[1]", ">= 0", "-1.0"]),
    "zeros": ({"class_weight": {0: 0, 1: 0, 2: 0}}, ValueError, ["class_weight", "all zero"]),
    "smoothing": ({"label_smoothing": 1.0}, ValueError, ["label_smoothing", "[0, 1)", "1.0"]),
    "negative": ({"label_smoothing": -0.1}, ValueError, ["label_smoothing", "[0, 1)", "-0.1"]),
    "text": ({"label_smoothing": "much"}, ValueError, ["label_smoothing", "[0, 1)", "'much'"]),
}


@pytest.mark.parametrize(("options", "exception", "parts"), WRONG.values(), ids=WRONG)
def test_wrong_arguments_change_nothing(options, exception, parts, engine_name, labeled):
    net = _network(engine_name)
    before, state = net.parameters.copy(), net._rng.bit_generator.state
    with pytest.raises(exception) as caught:
        net.train(*labeled, **options)
    assert all(part in str(caught.value) for part in parts), caught.value
    assert (net.history_, net._rng.bit_generator.state) == (None, state)
    assert_in_step(net, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weight": "balanced"}, "class_weight needs classes"),
        ({"shuffle": "stratified"}, "shuffle='stratified' needs classes"),
        ({"label_smoothing": 0.1}, "label_smoothing must be 0.0 but behind a softmax or sigmoid output"),
    ],
)
def test_classes_are_needed(options, message, engine_name, rng):
    net = _network(engine_name, output="identity")
    with pytest.raises(ValueError, match=message):
        net.train(rng.normal(size=(8, 4)), rng.normal(size=(8, 3)), **options)
    assert net.history_ is None
