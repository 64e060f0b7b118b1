"""What a rule may ask of the reference's epochs beside its optimiser, by definition and by central differences.

Clipping, penalties, decay, max-norm, dropout and numbers for each minibatch, on networks with every normalisation.
"""

import itertools
import math

import numpy as np
import pytest
from conftest import CENTRAL_DIFFERENCE, PAIRS, assert_close, draw_targets

from cymlp import activations, optimizers, reference

HIDDEN = [name for name, definition in activations.ACTIVATIONS.items() if definition.hidden]
OPTIMIZERS = {
    "sgd": optimizers.SGD(0.05),
    "momentum": optimizers.SGD(0.05, momentum=0.9),
    "nesterov": optimizers.SGD(0.05, momentum=0.8, nesterov=True),
    "rmsprop": optimizers.RMSprop(0.01, epsilon=1e-3),
    "adam": optimizers.Adam(0.02, epsilon=1e-3),
    "adamw": optimizers.AdamW(0.02, epsilon=1e-3),
}
NORMALIZATIONS = {"plain": None, "batch": ("batch", 1e-2, 0.1), "layer": ("layer", 1e-2)}
SIZES = (4, 5, 3, 2)
CLIPPING = {"none": {}, **{key: {key: 0.05} for key in ("clip_value", "clip_norm", "clip_layer_norm")}}


class Problem:
    """A network, parameters of which none is near 0, and data for it."""

    def __init__(
        self, kinds=("batch", "layer"), dtype=np.float64, hidden="tanh", pair=None, rows=9, labels=False, seed=3
    ):
        loss, output = ("squared_error", "identity") if pair is None else pair
        rng = np.random.default_rng(seed)
        layers = [(hidden, 0.2), (hidden, 0.2), (output, 0.2)]
        normalizations = [*(NORMALIZATIONS[kind] for kind in kinds), None]
        self.network = reference.Network(SIZES, layers, (loss, 0.7), dtype, normalizations)
        # For each layer where its W, b and scale, if there is one, are in the vector of parameters.
        self.parts, pieces, start = [], [], 0
        for (n_in, n_out), normalization in zip(itertools.pairwise(SIZES), normalizations, strict=True):
            lengths = [n_in * n_out, n_out] + [n_out] * (normalization is not None)
            ends = start + np.cumsum([0, *lengths])
            self.parts.append([slice(*pair) for pair in itertools.pairwise(ends.tolist())])
            magnitudes = [rng.uniform(0.1, 1.2, lengths[0]), rng.uniform(0.1, 0.5, n_out), rng.uniform(0.5, 1.5, n_out)]
            pieces += [magnitudes[i] * rng.choice([-1, 1], length) for i, length in enumerate(lengths)]
            start = int(ends[-1])
        self.flat = np.concatenate(pieces).astype(dtype)
        self.X = rng.normal(size=(rows, SIZES[0])).astype(dtype)
        self.y = draw_targets(rng, loss, rows, SIZES[-1], dtype, labels)
        self.w = rng.uniform(0.5, 2, rows).astype(dtype)
        self.network.set_parameters(self.flat)

    def parameters(self):
        out = np.empty_like(self.flat)
        self.network.get_parameters(out)
        return out

    def penalized(self, rule):
        """Where a penalty counts."""
        everywhere = rule.get("penalize_biases", False)
        where = np.full(self.flat.size, everywhere)
        for parts in self.parts:
            where[parts[0]] = True
        return where


def _norm(vector):
    return math.sqrt(np.square(vector, dtype=np.float64).sum())


# ---- Vectors ----


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "extra", [{"l1": 0.3}, {"weight_decay": 0.5}, {"l1": 0.3, "l2": 0.2, "weight_decay": 0.5}], ids=str
)
def test_penalties_enter_the_gradient_and_decay_does_not(optimizer, extra, rng, dtype):
    w, g = np.append(rng.normal(size=6), 0).astype(dtype), rng.normal(size=7).astype(dtype)
    rule = {**OPTIMIZERS[optimizer].rule(), "weight_decay": 0.0}
    moved, by_hand = w.copy(), w.copy()
    state, state_by_hand = np.zeros((2, 2, 7), dtype)
    for step in range(1, 4):
        penalized = g + extra.get("l2", 0) * by_hand + extra.get("l1", 0) * np.sign(by_hand)
        before = by_hand.copy()
        reference.update(rule, step, by_hand, penalized.astype(dtype), state_by_hand)
        by_hand -= (rule["learning_rate"] * extra.get("weight_decay", 0) * before).astype(dtype)
        reference.update({**rule, **extra}, step, moved, g, state)
        assert moved.dtype == dtype
        assert_close(moved, by_hand, step, 3, kind="update")
        assert_close(state, state_by_hand, step, 3, kind="update")


def test_l1_alone_moves_by_a_constant_until_zero_and_leaves_zero_alone():
    w, rule = np.array([1.0, -1.0, 0.0]), {**optimizers.SGD(0.25).rule(), "l1": 1.0}
    for step in (1, 2, 3, 4, 5):
        reference.update(rule, step, w, np.zeros(3), (np.zeros(3), np.zeros(3)))
        np.testing.assert_array_equal(w, np.array([1, -1, 0]) * max(0, 1 - step / 4))


def test_decay_alone_is_a_geometric_series(dtype):
    for optimizer in OPTIMIZERS.values():
        w, rule = np.array([1, -2, 0.5], dtype), {**optimizer.rule(), "learning_rate": 0.125, "weight_decay": 2.0}
        for step in range(1, 5):
            reference.update(rule, step, w, np.zeros(3, dtype), np.zeros((2, 3), dtype))
        np.testing.assert_array_equal(w, np.array([1, -2, 0.5]) * 0.75**4)


def test_sum_of_magnitudes(rng, dtype):
    w = rng.normal(size=1000).astype(dtype)
    assert_close(reference.sum_of_magnitudes(w), math.fsum(np.abs(w.astype(np.float64))), 1000, dtype=np.float64)
    large = np.array([2**26, *[-1] * 999], dtype)  # to which float32 cannot add 1
    assert reference.sum_of_magnitudes(large) == 2**26 + 999
    assert reference.sum_of_magnitudes(np.empty(0, dtype)) == 0
    assert math.isnan(reference.sum_of_magnitudes(np.array([1, np.nan], dtype)))


def test_clip(dtype):
    g = np.array([-3, -0.5, 0, -0.0, 0.5, 3, np.inf, -np.inf, np.nan], dtype)
    kept = g.copy()
    clipped = reference.clip(g, 0.75)
    assert clipped.dtype == dtype
    np.testing.assert_array_equal(clipped, [-0.75, -0.5, 0, 0, 0.5, 0.75, 0.75, -0.75, np.nan])
    assert reference.clip(g, math.inf).tobytes() == g.tobytes() == kept.tobytes()


def test_limit_columns(rng, dtype):
    W = np.array([[3, 0.3, 0, 1e-3], [4, 0.4, 0, 0]], dtype)
    np.testing.assert_array_equal(
        reference.limit_columns(W, 1.25), np.array([[0.75, 0.3, 0, 1e-3], [1, 0.4, 0, 0]], dtype)
    )
    np.testing.assert_array_equal(reference.limit_columns(W, 5), W)
    np.testing.assert_array_equal(reference.limit_columns(W, math.inf), W)
    W = rng.normal(size=(50, 40)).astype(dtype)
    limited = reference.limit_columns(W, 7.0)
    norms, before = (np.linalg.norm(matrix.astype(np.float64), axis=0) for matrix in (limited, W))
    assert limited.dtype == dtype
    assert 0 < (before > 7).sum() < 40
    np.testing.assert_array_equal(limited[:, before <= 7], W[:, before <= 7])
    assert_close(norms, np.minimum(before, 7), 2, dtype=dtype)
    cosines = (limited.astype(np.float64) * W).sum(axis=0) / norms / before
    assert_close(cosines, np.ones(40), 50, dtype=dtype)


# ---- Epochs by hand ----


def _step_by_hand(problem, rule, step, flat, state, rows, rates):
    """What one minibatch does, from the kernels; its (loss, penalty, norm)."""
    network, gradient, w = problem.network, np.empty_like(flat), problem.w[rows]
    network.set_parameters(flat)
    drops = None if rates is None else (rule["seed"], step, rates)
    loss = network.gradients(problem.X[rows], problem.y[rows], w, gradient, 1, drops)
    norm, where = _norm(gradient), problem.penalized(rule)
    if "clip_value" in rule:
        gradient = reference.clip(gradient, rule["clip_value"])
    for part in {
        "clip_norm": [slice(None)],
        "clip_layer_norm": [slice(parts[0].start, parts[-1].stop) for parts in problem.parts],
    }.get(next((key for key in rule if key.startswith("clip")), None), []):
        limit = rule.get("clip_norm", rule.get("clip_layer_norm"))
        if _norm(gradient[part]) > limit:
            gradient[part] *= limit / _norm(gradient[part])
    l2 = rule.get("l2", 0) + rule.get("alpha", 0) / float(w.sum(dtype=np.float64))
    l1 = rule.get("l1", 0)
    values = flat[where].astype(np.float64)
    penalty = l2 / 2 * (values**2).sum() + l1 * np.abs(values).sum()
    bare = {**rule, "l1": 0.0, "l2": 0.0, "weight_decay": 0.0}
    for mask, each in ((where, {**rule, "l1": l1, "l2": l2}), (~where, bare)):
        part, part_state = flat[mask], [vector[mask] for vector in state]
        reference.update(each, step, part, gradient[mask], part_state)
        flat[mask] = part
        for vector, new in zip(state, part_state, strict=True):
            vector[mask] = new
    if "max_norm" in rule:
        for (W, *_), shape in zip(problem.parts, itertools.pairwise(SIZES), strict=True):
            flat[W] = reference.limit_columns(flat[W].reshape(shape), rule["max_norm"]).ravel()
    return loss, penalty, norm


PENALTIES = {
    "none": {},
    "weights": {"l1": 0.02, "l2": 0.03, "alpha": 0.1, "weight_decay": 0.2},
    "biases, too": {"l1": 0.02, "l2": 0.03, "alpha": 0.1, "weight_decay": 0.2, "penalize_biases": True},
}


@pytest.mark.parametrize("dropout", [None, [0.2, 0.4, 0.3]], ids=["", "dropout"])
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("clipping", CLIPPING)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_epochs_are_steps_by_hand(optimizer, clipping, penalty, dropout, dtype):
    """Two epochs of minibatches of 4, 4 and 1 rows, bit for bit."""
    rule = {**OPTIMIZERS[optimizer].rule(), **CLIPPING[clipping], **PENALTIES[penalty], "max_norm": 1.0}
    if dropout is not None:
        rule = {**rule, "dropout": dropout, "seed": 2**40 + 5}
    trained, by_hand = Problem(dtype=dtype), Problem(dtype=dtype)
    flat, statistics = by_hand.flat.copy(), np.empty(10, dtype)
    state, step, order = np.zeros((2, flat.size), dtype), 0, np.random.default_rng(8).permutation(9)
    for _ in range(2):
        losses, norms, desired = np.full((3, 2), np.nan), np.full(3, np.nan), []
        mean, failed = trained.network.train_epoch(
            trained.X, trained.y, trained.w, order, 4, rule, losses=losses, norms=norms
        )
        assert failed == -1
        for rows in np.split(order, [4, 8]):
            step += 1
            # gradients() leaves running statistics alone; the last minibatch, of 1 row, takes those of the trained one.
            if len(rows) == 1:
                trained.network.get_statistics(statistics)
                by_hand.network.set_statistics(statistics)
            desired.append(_step_by_hand(by_hand, rule, step, flat, state, rows, dropout))
        assert trained.parameters().tobytes() == flat.tobytes()
        desired = np.array(desired)
        np.testing.assert_array_equal(losses[:, 0], desired[:, 0])
        assert_close(losses[:, 1], desired[:, 1], flat.size, dtype=np.float64)
        np.testing.assert_array_equal(norms, desired[:, 2])
        weights = [trained.w[rows].sum(dtype=np.float64) for rows in np.split(order, [4, 8])]
        assert_close(mean, np.average(losses.sum(axis=1), weights=weights), 9, dtype=np.float64)


@pytest.mark.parametrize("clipping", ["clip_value", "clip_norm", "clip_layer_norm"])
def test_a_gradient_within_its_limit_keeps_every_bit(clipping):
    plain, clipped = Problem(), Problem()
    norms = np.empty((2, 3))
    for problem, extra, row in ((plain, {}, norms[0]), (clipped, {clipping: math.inf}, norms[1])):
        problem.network.train_epoch(
            problem.X, problem.y, None, None, 4, {**OPTIMIZERS["adam"].rule(), **extra}, norms=row
        )
    assert plain.parameters().tobytes() == clipped.parameters().tobytes()
    np.testing.assert_array_equal(norms[0], norms[1])
    assert (norms > 0).all()


def test_clipping_limits_what_it_says():
    """By the step of plain descent: its elements, its norm, the norm of its layers; the direction stays."""
    for clipping in ("clip_value", "clip_norm", "clip_layer_norm"):
        problem, plain = Problem(), Problem()
        for each, extra in ((problem, {clipping: 1e-3}), (plain, {})):
            each.network.train_epoch(each.X, each.y, None, None, 9, {**optimizers.SGD(1.0).rule(), **extra})
        step, free = problem.flat - problem.parameters(), plain.flat - plain.parameters()
        layers = [slice(parts[0].start, parts[-1].stop) for parts in problem.parts]
        if clipping == "clip_value":
            assert_close(step, np.clip(free, -1e-3, 1e-3), 1, 2)
            continue
        for part in [slice(None)] if clipping == "clip_norm" else layers:
            assert_close(_norm(step[part]), 1e-3, 1, 2)
            assert_close(step[part], free[part] * 1e-3 / _norm(free[part]), 1, 2)


def test_max_norm_holds_after_every_epoch(dtype):
    problem = Problem(dtype=dtype)
    rule = {**optimizers.SGD(0.5).rule(), "max_norm": 0.75}
    for _ in range(3):
        problem.network.train_epoch(problem.X, problem.y, None, None, 4, rule)
        flat = problem.parameters().astype(np.float64)
        parts = zip(problem.parts, itertools.pairwise(SIZES), strict=True)
        norms = [np.linalg.norm(flat[W].reshape(shape), axis=0) for (W, *_), shape in parts]
        assert (np.concatenate(norms) <= 0.75 * (1 + 2 * np.finfo(dtype).eps)).all()


# ---- Numbers for each minibatch ----

SCHEDULES = {
    "learning_rate": [0.1, 0.0125, 0.05],
    "momentum": [0.0, 0.9, 0.5],
    "beta1": [0.95, 0.5, 0.9],
    "weight_decay": [0.0, 0.5, 1.0],
    "dropout": [[0.0, 0.0, 0.0], [0.2, 1.0, 0.5], [0.1, 0.2, 0.3]],
}


def _schedules():
    """Each optimiser with each number that it has, and with all of them."""
    for optimizer, instance in OPTIMIZERS.items():
        keys = [key for key in SCHEDULES if key in instance.rule() or key in ("weight_decay", "dropout")]
        yield from ((optimizer, (key,)) for key in keys)
        yield optimizer, tuple(keys)


@pytest.mark.parametrize(("optimizer", "keys"), list(_schedules()), ids=str)
def test_arrays_have_the_numbers_of_each_minibatch(optimizer, keys, dtype):
    """An epoch of three minibatches is three epochs of one."""
    rule = {**OPTIMIZERS[optimizer].rule(), "l1": 0.01, "seed": 3}
    whole, pieces = Problem(dtype=dtype), Problem(dtype=dtype)
    arrays = {name: np.array(SCHEDULES[name]) for name in keys}
    losses, norms, rows = np.empty((3, 2)), np.empty(3), np.arange(9)
    _, failed = whole.network.train_epoch(whole.X, whole.y, None, None, 4, {**rule, **arrays}, 1, losses, norms)
    assert failed == -1
    for number, batch in enumerate(np.split(rows, [4, 8])):
        numbers, one_loss, one_norm = {name: SCHEDULES[name][number] for name in keys}, np.empty((1, 2)), np.empty(1)
        pieces.network.train_epoch(pieces.X, pieces.y, None, batch, 4, {**rule, **numbers}, 1, one_loss, one_norm)
        np.testing.assert_array_equal(losses[number], one_loss[0])
        assert norms[number] == one_norm[0]
    assert whole.parameters().tobytes() == pieces.parameters().tobytes()


# ---- Failures and edges ----


def _overflowing():
    """A finite loss whose gradient's norm overflows, in the second of two minibatches."""
    network = reference.Network((1, 1), [("identity", 0.0)], ("squared_error", 1.0), np.float64)
    return network, np.array([[1.0], [1e200]]), np.array([[0.0], [1.0]])


@pytest.mark.parametrize("clipping", CLIPPING)
def test_a_norm_that_is_not_finite_fails_where_it_clips(clipping):
    network, X, y = _overflowing()
    losses, norms, flat = np.full((2, 2), np.nan), np.full(2, np.nan), np.empty(2)
    rule = {**optimizers.SGD(1e-300).rule(), **CLIPPING[clipping]}
    loss, failed = network.train_epoch(X, y, None, None, 1, rule, 1, losses, norms)
    network.get_parameters(flat)
    assert failed == (1 if clipping in ("clip_norm", "clip_layer_norm") else -1)
    assert loss == 0.25
    np.testing.assert_array_equal(losses, [[0, 0], [0.5, 0]])
    np.testing.assert_array_equal(norms, [0, np.inf])
    assert flat.any() == (failed == -1)
    assert network.get_optimizer()[1] == (2 if failed == -1 else 1)


def test_a_loss_that_is_not_finite_fails_before_its_norm_is_known():
    problem, norms = Problem(), np.full(3, -1.0)
    problem.y[5, 0] = np.inf
    rule = {**OPTIMIZERS["sgd"].rule(), "clip_norm": 1.0}
    assert problem.network.train_epoch(problem.X, problem.y, None, None, 4, rule, norms=norms)[1] == 1
    assert norms[0] > 0
    np.testing.assert_array_equal(norms[1:], [np.nan, -1])


@pytest.mark.parametrize("clipping", CLIPPING)
def test_minibatches_without_weight_change_nothing_but_by_decay(clipping):
    problem, losses, norms = Problem(), np.empty((3, 2)), np.empty(3)
    rule = {**OPTIMIZERS["adam"].rule(), **CLIPPING[clipping], "l1": 0.1, "l2": 0.1, "alpha": 0.1}
    rule |= {"dropout": [0.5] * 3, "seed": 1}
    arguments = (problem.X, problem.y, 0 * problem.w, None, 4)
    assert problem.network.train_epoch(*arguments, rule, 1, losses, norms) == (0.0, -1)
    assert not losses.any()
    assert not norms.any()
    assert problem.parameters().tobytes() == problem.flat.tobytes()
    problem.network.train_epoch(*arguments, {**rule, "learning_rate": 0.5, "weight_decay": 0.25})
    weights = problem.penalized(rule)
    np.testing.assert_array_equal(problem.parameters()[~weights], problem.flat[~weights])
    assert_close(problem.parameters()[weights], problem.flat[weights] * 0.875**3, 3, kind="update")


def test_an_epoch_without_rows():
    problem = Problem()
    rule = {
        **OPTIMIZERS["momentum"].rule(),
        "clip_norm": 1.0,
        "learning_rate": np.empty(0),
        "dropout": np.empty((0, 3)),
    }
    answer = problem.network.train_epoch(
        problem.X, problem.y, None, np.empty(0, np.int64), 4, {**rule, "seed": 1}, norms=np.empty(0)
    )
    assert answer == (0.0, -1)
    assert problem.parameters().tobytes() == problem.flat.tobytes()


RULE = optimizers.SGD().rule()
MISTAKES = {
    "rule must have at most one of .*; got clip_value, clip_norm": {"clip_value": 1.0, "clip_norm": 1.0},
    "rule must have at most one of .*; got clip_norm, clip_layer_norm": {"clip_layer_norm": 1.0, "clip_norm": 1.0},
    r"rule\['clip_norm'\] must be greater than 0; got 0": {"clip_norm": 0},
    r"rule\['clip_value'\] must be greater than 0; got nan": {"clip_value": math.nan},
    r"rule\['max_norm'\] must be greater than 0; got -1": {"max_norm": -1},
    r"rule\['max_norm'\] must be a number; got str": {"max_norm": "1"},
    r"rule\['learning_rate'\] must have shape \(3,\); got \(2,\)": {"learning_rate": np.ones(2)},
    r"rule\['momentum'\] must have dtype float64; got float32": {"momentum": np.zeros(3, np.float32)},
    r"rule\['weight_decay'\] must be C-contiguous": {"weight_decay": np.zeros(6)[::2]},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_named(message):
    problem = Problem()
    with pytest.raises((ValueError, TypeError), match="^" + message):
        problem.network.train_epoch(problem.X, problem.y, None, None, 4, {**RULE, **MISTAKES[message]})
    assert problem.parameters().tobytes() == problem.flat.tobytes()


def test_norms_are_checked():
    problem = Problem()
    for norms, words in ((np.empty(2), "shape"), (np.empty(3, np.float32), "dtype"), (np.empty(6)[::2], "C-contig")):
        with pytest.raises((ValueError, TypeError), match=f"^norms must .*{words}"):
            problem.network.train_epoch(problem.X, problem.y, None, None, 4, RULE, norms=norms)


# ---- Central differences ----


def _along(problem, rule, weight, direction, h):
    """What `losses` gets from one minibatch of all rows; and the parameters after it."""
    problem.network.reset_optimizer()
    problem.network.set_parameters(problem.flat + h * direction)
    losses = np.empty((1, 2))
    _, failed = problem.network.train_epoch(problem.X, problem.y, weight, None, len(problem.X), rule, losses=losses)
    assert failed == -1
    return losses.sum()


def _assert_gradient(make, rule, weighted):
    """A step of plain gradient descent of rate 1 is the gradient of loss and penalty, along a vertex of the cube.

    A kink between the points shows in differences that disagree with those of half the width; other data then, as where
    all outputs are off and nothing has a gradient.
    """
    for seed in range(20):
        problem = make(seed)
        weight = problem.w if weighted else None
        _along(problem, rule, weight, problem.flat, 0.0)
        gradient = problem.flat - problem.parameters()
        direction = np.random.default_rng(seed).choice([-1.0, 1.0], gradient.size)

        def slope(h, problem=problem, weight=weight, direction=direction):
            ahead, behind = (_along(problem, rule, weight, direction, step) for step in (h, -h))
            return (ahead - behind) / (2 * h)

        coarse, fine = slope(4e-4), slope(2e-4)
        desired, bound = (4 * fine - coarse) / 3, CENTRAL_DIFFERENCE * np.linalg.norm(gradient)
        if bound > 0 and abs(gradient @ direction - desired) <= bound:
            return
        finer = (4 * slope(1e-4) - fine) / 3
        if abs(finer - desired) < bound:  # no kink
            assert abs(gradient @ direction - finer) <= bound
            return
    raise AssertionError("no data away from kinks")


def _penalties(number):
    return [{}, {"l1": 0.03}, {"l2": 0.1, "alpha": 0.2}, {"l1": 0.03, "alpha": 0.2, "penalize_biases": True}][
        number % 4
    ]


def _drops(number):
    return [{}, {"dropout": [0.0, 0.4, 0.3], "seed": 2}, {"dropout": [0.25, 0.5, 0.0], "seed": 2**63 + 1}][number % 3]


KINDS = list(itertools.product(NORMALIZATIONS, NORMALIZATIONS))


@pytest.mark.slow
@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_gradients_by_central_differences(hidden, kinds):
    """Every loss behind every output, with penalties, dropout and weights in turn: all pairs of them meet."""
    pairs = [(*pair, False) for pair in PAIRS] + [("categorical_cross_entropy", "softmax", True)]
    offset = HIDDEN.index(hidden) + KINDS.index(kinds)
    for number, (loss, output, labels) in enumerate(pairs, start=offset):
        rule = {**optimizers.SGD(1.0).rule(), **_penalties(number), **_drops(number)}

        def make(seed, pair=(loss, output), labels=labels):
            return Problem(kinds, np.float64, hidden, pair, 6, labels, seed)

        _assert_gradient(make, rule, number % 2 == 0)


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("drops", [0, 1, 2])
@pytest.mark.parametrize("penalty", [0, 1, 2, 3])
@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_gradients_with_everything(kinds, penalty, drops, weighted):
    rule = {**optimizers.SGD(1.0).rule(), **_penalties(penalty), **_drops(drops)}
    _assert_gradient(lambda seed: Problem(kinds, rows=6, seed=seed), rule, weighted)


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_gradient_of_every_parameter(kinds):
    problem = Problem(kinds, rows=6)
    rule = {**optimizers.SGD(1.0).rule(), **_penalties(3), **_drops(1)}
    _along(problem, rule, problem.w, problem.flat, 0.0)
    gradient = problem.flat - problem.parameters()
    for direction in np.eye(gradient.size):
        coarse, fine = (
            (_along(problem, rule, problem.w, direction, h) - _along(problem, rule, problem.w, direction, -h)) / (2 * h)
            for h in (5e-4, 2.5e-4)
        )
        assert abs(gradient @ direction - (4 * fine - coarse) / 3) <= CENTRAL_DIFFERENCE * np.linalg.norm(gradient)
