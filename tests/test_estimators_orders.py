"""In which order estimators take the rows: stratified by class, or drawn by weight."""

import copy
import itertools
import pickle

import numpy as np
import pytest
from scipy import sparse
from sklearn import base, metrics
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import unique_labels
from test_estimators import assert_same_bits, assert_same_to_rounding, draw, estimator

from cymlp import MLPClassifier
from cymlp.estimators import examples
from cymlp.orders import Stratified, Weighted

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

KINDS = ["binary", "multiclass", "multilabel", "regression", "counts"]
CASES = [*itertools.product(["binary", "multiclass"], ["stratified"]), *itertools.product(KINDS, ["weighted"])]
WEIGHT = np.random.default_rng(5).integers(0, 5, 90).astype(float)


def fitted(kind, shuffle, data=None, **params):
    """One that was fitted to the rows of `draw`, which have weights where they are drawn by them."""
    X, y = data or draw(kind)
    return estimator(kind, shuffle=shuffle, **params).fit(X, y, WEIGHT if shuffle == "weighted" else None)


@pytest.fixture
def taken(monkeypatch):
    """What epochs take, in a list: the examples, and the numbers of rows in order."""
    seen = []
    pieces = examples.Examples.pieces

    def tell(self, order, *arguments):
        seen.append((self, np.arange(len(self)) if order is None else order.copy()))
        return pieces(self, order, *arguments)

    monkeypatch.setattr(examples.Examples, "pieces", tell)
    return seen


# ---- Training ----


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize(("kind", "shuffle"), CASES)
def test_training_takes_the_order(kind, shuffle, solver, engine_name):
    """That of the generator that the random state seeds after it drew the first parameters; without weights."""
    X, y = draw(kind)
    model = fitted(kind, shuffle, solver=solver, engine=engine_name)
    random_state = np.random.RandomState(0)
    twin = estimator(kind, shuffle=False, solver=solver, engine=engine_name, random_state=random_state)
    twin.fit(X, y)
    rng = np.random.default_rng(random_state.randint(2**32, size=4, dtype=np.uint32))
    order = Weighted(WEIGHT) if shuffle == "weighted" else Stratified(np.unique(y, return_inverse=True)[1])
    twin = estimator(kind, shuffle=False, solver=solver, engine=engine_name)
    classes = {"classes": unique_labels(y)} if isinstance(twin, MLPClassifier) else {}
    for _ in range(4):
        rows = order(rng)
        twin.partial_fit(X[rows], y[rows], **classes)
    assert_same_bits(model, twin)


@pytest.mark.parametrize(("kind", "shuffle"), CASES)
def test_it_trains_as_in_the_reference(kind, shuffle):
    compiled, oracle = (fitted(kind, shuffle, engine=engine) for engine in ("compiled", "reference"))
    assert_same_to_rounding(compiled, oracle, 90)


@pytest.mark.parametrize("shuffle", ["stratified", "weighted"])
def test_it_does_not_depend_on_threads(shuffle):
    X, y = draw("multiclass", rows=700, columns=40)
    params = {"hidden_layer_sizes": (70, 30), "batch_size": 300, "max_iter": 3, "shuffle": shuffle}
    one, two = (
        estimator("multiclass", **params, n_threads=n).fit(X.astype(np.float32), y, np.linspace(0, 1, 700))
        for n in (1, 2)
    )
    assert_same_bits(one, two)


@pytest.mark.parametrize("elements", [1, 5 * 40, 2**20])
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("shuffle", ["stratified", "weighted"])
def test_sparse_rows_train_as_dense_ones(shuffle, early_stopping, elements, monkeypatch):
    X, y = draw("multiclass")
    X = np.where(np.abs(X) > 0.8, X, 0)
    dense = fitted("multiclass", shuffle, (X, y), early_stopping=early_stopping)
    monkeypatch.setattr(examples, "_TILE_ELEMENTS", elements)
    tiles = fitted("multiclass", shuffle, (sparse.csr_array(X), y), early_stopping=early_stopping)
    assert_same_bits(dense, tiles)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("shuffle", ["stratified", "weighted"])
def test_pieces_of_an_epoch_are_the_epoch(shuffle, early_stopping, monkeypatch):
    monkeypatch.setattr(examples, "_TIMED_FLOPS", 1.0)
    whole, pieces = (
        fitted("multiclass", shuffle, early_stopping=early_stopping, max_time=most) for most in (None, 1e6)
    )
    assert_same_bits(whole, pieces)


@pytest.mark.parametrize("shuffle", [True, False])
def test_orders_of_scikit_learn_are_what_they_were(shuffle, taken):
    X, y = draw("multiclass")
    model = estimator("multiclass", shuffle=shuffle).fit(X, y, WEIGHT)
    assert_same_bits(estimator("multiclass", shuffle=np.bool_(shuffle)).fit(X, y, WEIGHT), model)
    random_state = np.random.RandomState(0)
    for W in (*model.coefs_, *model.intercepts_):
        random_state.uniform(size=W.size)
    order = np.arange(90)
    for each, rows in taken[:4]:
        if shuffle:
            random_state.shuffle(order)
        np.testing.assert_array_equal(rows, order)
        np.testing.assert_array_equal(each.weight, WEIGHT)


# ---- What is drawn ----


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_minibatches_have_the_mix_of_classes(kind, early_stopping, taken):
    X, y = draw(kind, rows=320)
    model = estimator(kind, shuffle="stratified", batch_size=32, early_stopping=early_stopping).fit(X, y)
    codes, n_classes = np.searchsorted(model.classes_, y), len(model.classes_)
    (_, first), *others = taken
    assert len(others) == 3
    assert len(set(first)) == len(first) == (288 if early_stopping else 320)
    shares = np.bincount(codes[first], minlength=n_classes) / len(first)
    for _, rows in taken:
        assert set(rows) == set(first)
        for start in range(0, len(rows), 32):
            counts = np.bincount(codes[rows[start : start + 32]], minlength=n_classes)
            # One more or less at each end, and as much for where the ends are, which all classes decide together.
            assert (np.abs(counts - 32 * shares) <= 2 + n_classes * shares).all()
    assert not any((rows == first).all() for _, rows in others)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_smoothed_labels_are_of_the_same_class(kind, taken):
    for smoothing in (0.0, 0.9):
        fitted(kind, "stratified", label_smoothing=smoothing, max_iter=1)
    np.testing.assert_array_equal(taken[0][1], taken[1][1])


def test_a_class_may_be_absent_from_a_part_of_a_stream(taken):
    X, y = draw("multiclass")
    some = y != 11
    model = estimator("multiclass", shuffle="stratified", batch_size="auto").partial_fit(
        X[some], y[some], classes=[10, 11, 12]
    )
    model.partial_fit(X[:20][y[:20] == 10], y[:20][y[:20] == 10])
    assert sorted(taken[0][1]) == [*range(some.sum())]
    assert len(model.classes_) == 3


@pytest.mark.parametrize("kind", ["multiclass", "outputs"])
def test_rows_are_drawn_as_often_as_they_weigh(kind, taken):
    X, y = draw(kind, rows=1500)
    weight = np.repeat([0.0, 1.0, 3.0, 0.0, 6.0], 300)
    estimator(kind, shuffle="weighted", batch_size=200).fit(X, y, weight)
    assert [(each.weight, len(rows)) for each, rows in taken] == [(None, 1500)] * 4
    drawn = np.concatenate([rows for _, rows in taken])
    counts, expected = np.bincount(drawn // 300, minlength=5), 6000 * np.array([0, 0.1, 0.3, 0, 0.6])
    assert (counts[[0, 3]] == 0).all()
    assert (np.abs(counts - expected) <= 5 * np.sqrt(expected)).all()  # five standard deviations at least
    assert len(np.unique(taken[0][1])) < 900  # with replacement


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_rows_that_are_held_out_are_not_drawn(kind, taken):
    held_out = []

    def score(estimator, X, y):
        held_out.append(X[:, 0])
        return 1.0

    fitted(kind, "weighted", early_stopping=True, scoring=score)
    drawn = np.concatenate([rows for _, rows in taken])
    assert len(drawn) == 4 * 81
    assert len(np.unique(drawn)) > 40
    assert not np.isin(draw(kind)[0][drawn, 0], held_out[0]).any()


def test_weights_of_classes_and_rows_are_multiplied(taken):
    X, y = draw("multiclass")
    by_class = {10: 0.0, 12: 3.0}
    model = estimator("multiclass", shuffle="weighted", class_weight=by_class).fit(X, y, WEIGHT)
    plain = estimator("multiclass", shuffle="weighted").fit(X, y, WEIGHT * np.array([0.0, 1.0, 3.0])[y - 10])
    assert_same_bits(model, plain)
    assert not (y[taken[0][1]] == 10).any()
    model.set_params(class_weight="balanced").fit(X, y)
    balanced = compute_sample_weight("balanced", y)
    assert_same_bits(model, estimator("multiclass", shuffle="weighted").fit(X, y, balanced))


def test_balanced_draws_have_as_many_of_each_class(taken):
    rng = np.random.default_rng(0)
    y = rng.choice(3, 3000, p=[0.9, 0.08, 0.02])
    X = rng.normal(size=(3000, 4)) + y[:, None]
    MLPClassifier((4,), shuffle="weighted", class_weight="balanced", max_iter=1, random_state=0).fit(X, y)
    counts = np.bincount(y[taken[0][1]])
    assert (np.abs(counts - 1000) <= 5 * np.sqrt(1000)).all()


@pytest.mark.parametrize("factor", [2.0**-1070, 2.0**-40, 2.0**1000])
def test_the_size_of_weights_does_not_matter(factor):
    X, y = draw("regression")
    model = estimator("regression", shuffle="weighted").fit(X, y, factor * WEIGHT)
    assert_same_bits(model, fitted("regression", "weighted"))


def test_what_is_scored_has_the_weights_of_rows():
    X, y = draw("multiclass")
    model = estimator("multiclass", shuffle="weighted", class_weight={11: 5.0})
    model.fit(X, y, WEIGHT, validation_data=(X, y, WEIGHT))
    score = metrics.accuracy_score(y, model.predict(X), sample_weight=WEIGHT)
    loss = metrics.log_loss(y, model.predict_proba(X), sample_weight=WEIGHT)
    assert (model.validation_scores_[-1], model.validation_loss_curve_[-1]) == pytest.approx((score, loss))


# ---- Where the draws go on ----


@pytest.mark.parametrize("seed", [0, np.random.RandomState(3)])
@pytest.mark.parametrize(("kind", "shuffle"), CASES)
def test_a_stream_goes_on_where_it_was_and_so_do_copies(kind, shuffle, seed):
    X, y = draw(kind)
    weight = WEIGHT if shuffle == "weighted" else None
    whole = fitted(kind, shuffle, random_state=copy.deepcopy(seed))
    stream = estimator(kind, shuffle=shuffle, random_state=copy.deepcopy(seed))
    first = {"classes": unique_labels(y)} if isinstance(stream, MLPClassifier) else {}
    stream.partial_fit(X, y, weight, **first).partial_fit(X, y, weight)
    copies = [pickle.loads(pickle.dumps(stream)), copy.deepcopy(stream)]
    for model in (stream, *copies):
        model.partial_fit(X, y, weight).partial_fit(X, y, weight)
        assert_same_bits(model, whole)


@pytest.mark.parametrize("shuffle", ["stratified", "weighted"])
def test_warm_starts_draw_others_and_fits_the_same(shuffle, taken):
    X, y = draw("multiclass")
    model = estimator("multiclass", shuffle=shuffle, warm_start=True, max_iter=1)
    for warm_start in (True, True, False):
        model.set_params(warm_start=warm_start).fit(X, y, WEIGHT)
    orders = [rows for _, rows in taken]
    assert not np.array_equal(orders[0], orders[1])
    np.testing.assert_array_equal(orders[0], orders[2])
    whole = base.clone(model).set_params(max_iter=2).fit(X, y, WEIGHT)
    assert whole.n_iter_ == 2
    for rows, expected in zip(orders[:2], taken[3:], strict=True):
        np.testing.assert_array_equal(rows, expected[1])


def test_the_generator_comes_from_the_random_state(taken):
    for seed in (0, 0, 1, np.random.RandomState(0)):
        fitted("multiclass", "stratified", random_state=seed, max_iter=1)
    first, again, other, instance = (rows for _, rows in taken)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, instance)
    assert not np.array_equal(first, other)


# ---- scikit-learn's class ----


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_scikit_learn_gets_what_it_has(kind):
    X, y = draw(kind)
    params = {"solver": "sgd", "momentum": lambda step: 0.5}
    model = fitted(kind, "weighted", **params)
    assert base.clone(model).get_params() == model.get_params()
    assert "shuffle='weighted'" in repr(model)
    theirs = model.to_sklearn()
    default = type(theirs)()
    assert (theirs.shuffle, theirs.momentum) == (default.shuffle, default.momentum) == (True, 0.9)
    np.testing.assert_allclose(theirs.predict(X), model.predict(X))
    theirs.partial_fit(X, y)
    again = type(model).from_sklearn(theirs).set_params(shuffle="weighted")
    again.partial_fit(X, y, WEIGHT)


# ---- Errors ----


@pytest.mark.parametrize(
    ("kind", "params", "weight", "message"),
    [
        ("multilabel", {"shuffle": "stratified"}, None, "^shuffle must not be 'stratified' for multilabel targets"),
        ("regression", {"shuffle": "stratified"}, None, "^The 'shuffle' parameter of MLPRegressor must be.*'weighted'"),
        ("multiclass", {"shuffle": "random"}, None, "^The 'shuffle' parameter of MLPClassifier must be.*'stratified'"),
        ("multiclass", {"shuffle": None}, None, "^The 'shuffle' parameter of MLPClassifier must be"),
        ("multiclass", {"shuffle": "weighted"}, None, "^shuffle must not be 'weighted' where rows have no weights"),
        ("regression", {"shuffle": "weighted"}, None, "^shuffle must not be 'weighted' where rows have no weights"),
        (
            "regression",
            {"shuffle": "weighted"},
            np.arange(90.0)[::-1] - 1,
            r"^with shuffle='weighted', weights of rows must be >= 0; got -1\.0 at position 89",
        ),
        (
            "multiclass",
            {"shuffle": "weighted", "class_weight": {10: 0, 11: 0, 12: 0}},
            WEIGHT,
            "^with shuffle='weighted', weights of rows must not be all zero; got 90 zeros",
        ),
        ("multiclass", {"shuffle": "stratified", "solver": "lbfgs"}, None, "^shuffle must be True or False for solver"),
    ],
)
def test_what_is_refused_before_anything_changes(kind, params, weight, message):
    X, y = draw(kind)
    model = fitted(kind, True)
    before, parameters = vars(model).copy(), model.network_.parameters.copy()
    with pytest.raises(ValueError, match=message):
        model.set_params(**params).fit(X, y, weight)
    kept = {name: value for name, value in vars(model).items() if name not in params}
    assert kept == {name: before[name] for name in kept}
    np.testing.assert_array_equal(model.network_.parameters, parameters)


def test_rows_that_are_left_after_the_split_need_weights():
    X, y = draw("regression")
    model = estimator("regression", shuffle="weighted", early_stopping=True, batch_size=81)
    held_out = []
    model.set_params(scoring=lambda estimator, X, y: held_out.append(X[:, 0]) or 1.0).fit(X, y, WEIGHT)
    weight = np.isin(X[:, 0], held_out[0]).astype(float)
    with pytest.raises(ValueError, match="weights of rows must not be all zero; got 81 zeros"):
        model.fit(X, y, weight)
