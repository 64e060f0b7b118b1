"""Which steps are watched, the table of records, and what is said of the data that a network was trained with."""

import itertools
import math
import pickle

import numpy as np
import pytest
from conftest import assert_close, run_python

from cymlp import MLP, losses, optimizers
from cymlp.engine import MONITORED
from cymlp.health.monitor import EVERY, Records, as_every, next_watched, watched_steps
from cymlp.health.summaries import base_loss, sample_rows

# ---- Steps ----


def _watched_by_definition(every, last):
    """The steps up to `last`, as the contract has them."""
    found = []
    for t in range(1, last + 1):
        if t < every:
            if math.log2(t).is_integer():
                found.append(t)
        elif t % (every * max(1, 2 ** math.floor(math.log2(t / (256 * every))))) == 0:
            found.append(t)
    return found


@pytest.mark.parametrize("every", [1, 2, 3, 7, 16, 200])
def test_watched_steps_are_those_of_the_definition(every):
    last = 3000 * every if every < 8 else 20 * every
    expected = _watched_by_definition(every, last)
    assert (watched_steps(every, 0, last) + 1).tolist() == expected
    steps, step = [], 0
    while (step := next_watched(every, step)) <= last:
        steps.append(step)
    assert steps == expected


def test_watched_steps_do_not_depend_on_how_a_run_is_cut(rng):
    whole = watched_steps(20, 0, 30_000)
    for _ in range(5):
        cuts = [0, *sorted(rng.integers(0, 30_000, 40).tolist()), 30_000]
        parts = [a + watched_steps(20, a, b - a) for a, b in itertools.pairwise(cuts)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("every", [1, 50, EVERY])
def test_there_are_a_few_hundred_however_long_a_run_is(every):
    """Twice as many steps are 256 more records at most, from 512 on."""
    counts = [len(watched_steps(every, 0, every * 512 * 2**k)) for k in range(6)]
    assert counts[0] <= 512 + math.log2(every) + 1
    assert all(0 < b - a <= 256 for a, b in itertools.pairwise(counts))
    assert len(watched_steps(every, 0, 10**12)) < 10_000


def test_a_step_that_is_not_watched_gives_nothing():
    assert watched_steps(256, 256, 255).tolist() == []
    assert watched_steps(256, 256, 256).tolist() == [255]
    assert watched_steps(256, 0, 0).tolist() == []
    assert watched_steps(256, 0, 1).dtype == np.int64


@pytest.mark.parametrize(
    ("health", "every"), [(True, EVERY), (np.True_, EVERY), (False, 0), (1, 1), (7, 7), (np.int32(50), 50)]
)
def test_as_every(health, every):
    assert as_every(health) == every
    assert type(as_every(health)) is int


@pytest.mark.parametrize(
    ("health", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), ("yes", TypeError), (None, TypeError)]
)
def test_wrong_health(health, error):
    with pytest.raises(error, match=r"^health must be True, False or an integer"):
        as_every(health)


# ---- Records ----


@pytest.fixture
def records(rng):
    values = rng.uniform(0.5, 2, (3, 4, len(MONITORED)))
    values[:, 0, [1, 5, 6, 7]] = values[:, -1, 2:5] = np.nan
    return Records(np.array([1, 2, 256]), np.array([0, 0, 3]), values)


def test_records_have_the_columns_by_name(records):
    assert len(records) == 3
    for number, name in enumerate(MONITORED):
        np.testing.assert_array_equal(getattr(records, name), records.values[:, :, number])
    np.testing.assert_array_equal(records.update_ratio, records.update / records.weight)
    assert repr(records) == "<Records of 3 steps, 3 layers>"


def test_update_ratio_where_weights_are_zero():
    values = np.zeros((1, 3, len(MONITORED)))
    values[0, :, MONITORED.index("update")] = [np.nan, 0, 2]
    ratio = Records(np.array([1]), np.array([0]), values).update_ratio[0]
    assert np.isnan(ratio[0])
    assert (ratio[1], ratio[2]) == (0, np.inf)


def test_records_as_tables(records):
    table = records.to_dict()
    assert list(table) == ["step", "epoch", *MONITORED, "update_ratio"]
    assert table["step"] == [1, 2, 256]
    assert table["activation"] == records.activation.tolist()
    frame = records.to_pandas()
    assert list(frame.columns) == ["step", "epoch", "layer", *MONITORED, "update_ratio"]
    row = frame[(frame["step"] == 256) & (frame["layer"] == 2)].iloc[0]
    assert (row["epoch"], row["gradient"]) == (3, records.gradient[2, 2])
    assert len(frame) == 12


def test_records_are_compared_and_kept(records):
    again = pickle.loads(pickle.dumps(records))
    assert again == records
    again.values[0, 1, 0] += 1
    assert again != records
    assert records != 3
    assert len(pickle.dumps(records)) < 2000


# ---- Data ----


@pytest.mark.parametrize("n_rows", [1, 5, 999, 1000, 1001, 12_345])
def test_sample_rows_are_all_over_the_data(n_rows):
    rows = sample_rows(n_rows, 3)
    assert len(rows) == min(n_rows, 1000)
    assert (np.diff(rows) >= 0).all()
    assert rows[0] >= 0
    assert rows[-1] < n_rows
    assert np.diff([0, *rows, n_rows]).max() <= 3 * max(1, n_rows / 1000)
    for period in (2, 3, 10):  # a fixed distance between them could miss all but one of these
        if n_rows > 999:
            assert np.bincount(rows % period, minlength=period).min() > 0.8 * 1000 / period


def test_sample_rows_of_many_inputs_are_fewer():
    assert len(sample_rows(10**6, 10**6)) == 1
    assert len(sample_rows(10**6, 2**10)) == 2**8


LOSSES = [losses.Loss(name) for name in losses.LOSSES] + [losses.huber(0.3), losses.quantile(0.8)]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_base_loss_is_the_least_of_a_constant(loss, rng):
    """Against what a network without any input learns: no other constant is better, and it is no better than one."""
    if loss.name == "categorical_cross_entropy":
        y = rng.dirichlet(np.ones(3), 40)
    else:
        y = rng.poisson(1.5, (40, 3)) / (1.0 if loss.name == "poisson" else 8.0)
    weight = rng.uniform(0.5, 2, 40)
    least = base_loss(loss, y, weight / weight.sum())
    output = {"categorical_cross_entropy": "softmax", "binary_cross_entropy": "sigmoid", "poisson": "exp"}
    net = MLP([1, 3], output_activation=output.get(loss.name, "identity"), loss=loss, dtype="float64")
    net.weights = [np.zeros((1, 3))]
    optimizer = optimizers.LBFGS(gradient_tolerance=1e-12, loss_tolerance=0.0)
    net.train(np.zeros((40, 1)), y, optimizer=optimizer, epochs=200, sample_weight=weight)
    learned = net.evaluate(np.zeros((40, 1)), y, weight)
    assert least <= learned * (1 + 1e-12)
    if loss.name in ("absolute_error", "quantile"):  # which L-BFGS is not made for
        for value in np.unique(y):
            column = np.full((40, 3), value)
            errors = np.maximum(loss.level * (y - column), (loss.level - 1) * (y - column))
            errors = np.abs(y - column) if loss.name == "absolute_error" else errors
            assert least <= (weight @ errors / weight.sum()).sum() + 1e-12
    else:
        assert_close(least, learned, 40 * 200, kind="training")


def test_base_loss_of_labels_is_their_entropy():
    y = np.eye(2)[[0, 0, 0, 1]]
    weight = np.full(4, 0.25)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert_close(base_loss(losses.Loss("categorical_cross_entropy"), y, weight), entropy, 4)
    assert_close(base_loss(losses.Loss("binary_cross_entropy"), y[:, :1], weight), entropy, 4)
    assert base_loss(losses.Loss("categorical_cross_entropy"), np.eye(2)[[0, 0]], np.full(2, 0.5)) == 0


# ---- What is imported ----


def test_training_imports_no_report():
    """Rules, texts and displays follow when somebody asks."""
    run_python(
        """
        import sys
        import numpy as np
        import cymlp
        assert not [name for name in sys.modules if name.startswith("cymlp.health")]
        net = cymlp.MLP([2, 3, 1], random_state=0)
        history = net.train(np.ones((4, 2)), np.ones((4, 1)), health=True)
        found = {name for name in sys.modules if name.startswith("cymlp.health")}
        assert found == {"cymlp.health", "cymlp.health.monitor", "cymlp.health.summaries"}, found
        history.health
        assert "cymlp.health.report" in sys.modules
        """
    )


def test_estimators_import_no_report():
    run_python(
        """
        import sys
        import numpy as np
        from cymlp import MLPClassifier
        MLPClassifier((3,), max_iter=10, tol=1, n_iter_no_change=1).fit(np.eye(4), [0, 1, 0, 1])
        found = {name for name in sys.modules if name.startswith("cymlp.health")}
        assert found == {"cymlp.health", "cymlp.health.monitor", "cymlp.health.summaries"}, found
        assert not [name for name in sys.modules if name.startswith(("cymlp.displays", "matplotlib"))]
        """
    )
