"""Estimators beside scikit-learn's: whole fits of as many epochs, and predictions with all that they validate.

Both draw the same weights and the same order of rows from one ``random_state``, so that their losses are the same, too.
"""

import contextlib
import dataclasses
import functools
import math
import operator
import tempfile
import warnings
from dataclasses import dataclass

import numpy as np

from bench import compare, machine
from bench.cases import Case

__all__ = ["RIVALS", "WORKS", "Work", "compare_estimators", "set_up"]

RIVALS = ("sklearn", "sklearn-skylakex")

# Losses of so many epochs are compared, and agree to this, relatively: in float64 rounding alone makes differences of
# 1e-12, which grow with the epochs; in float32, 1e-4.
CHECKED_EPOCHS = 20
TOLERANCES = {"float64": 1e-6, "float32": compare.LOSS_TOLERANCE}

# Rows of a minibatch that comes in a call of partial_fit.
STREAM_ROWS = 32

# What is called of a fitted estimator, with so many rows; scikit-learn's has no `network_`.
CALLS = (
    ("predict_proba", 1),
    ("predict", 1),
    ("network_.predict", 1),
    ("predict_proba", 1000),
    ("predict", 1000),
)


@dataclass(frozen=True, slots=True)
class Work:
    """What an estimator is timed at.

    Attributes
    ----------
    name : str
    kind : {"fit", "stream", "call"}
        A fit; calls of partial_fit, one for each minibatch; calls of a fitted estimator.
    data : str
        A key of DATA.
    epochs : int
        Of a fit, or the minibatches of a stream.
    settings : tuple of pairs
        Of the constructor, beside what fixes the epochs and the random numbers.
    goal : str
        Of a fit, or the first of the calls.
    dtype : {"float64", "float32"}
    """

    name: str
    kind: str
    data: str
    epochs: int
    settings: tuple = ()
    goal: str = ""
    dtype: str = "float64"

    @property
    def options(self):
        """Of the constructor: nothing but ``max_iter`` ends a fit."""
        fixed = {"random_state": 0, "max_iter": self.epochs, "tol": 0.0, "n_iter_no_change": math.inf}
        return {**dict(self.settings), **fixed}

    @property
    def rows(self):
        """Of an epoch."""
        if self.kind == "stream":
            return STREAM_ROWS
        n = DATA[self.data].rows
        return n - n // 10 if self.options.get("early_stopping") else n

    @property
    def flops(self):
        """Floating point operations of an epoch's matrix products; None for sparse rows and calls."""
        if self.kind == "call" or self.data == "text":
            return None
        return Case(DATA[self.data].sizes, self.rows).flops_per_step

    @property
    def items(self):
        """What is timed: a fit and a drawing of its order, or each call."""
        if self.kind != "call":
            return ["fit", "order"]
        return [f"{name} of {rows} row{'s' * (rows > 1)}" for name, rows in CALLS]


# ---- Data ----


@dataclass(frozen=True, slots=True)
class Data:
    """Where X and y come from; `sizes` are those of the estimator's network."""

    what: str
    rows: int
    sizes: tuple[int, ...]
    load: object
    estimator: str = "MLPClassifier"


def _digits():
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return X / 16, y  # raw pixels make losses beyond the 36 at which scikit-learn's end


def _two_classes():
    from sklearn.datasets import make_classification

    return make_classification(20_000, 20, random_state=0)


def _regression():
    from sklearn.datasets import make_regression

    X, y = make_regression(20_000, 20, noise=10.0, random_state=0)
    return X, y / y.std()


def _text():
    """Rows with 1 % of the words, and two classes."""
    from scipy import sparse

    rng = np.random.default_rng(0)
    X = sparse.random(1000, 5000, 0.01, format="csr", random_state=rng)
    return X, (X @ rng.standard_normal(5000) > 0).astype(np.int64)


DATA = {
    "digits": Data("1797 rows, 64 features, 10 classes", 1797, (64, 100, 10), _digits),
    "two-classes": Data("20 000 rows, 20 features, 2 classes", 20_000, (20, 100, 1), _two_classes),
    "regression": Data("20 000 rows, 20 features, 1 target", 20_000, (20, 100, 1), _regression, "MLPRegressor"),
    "text": Data("1000 sparse rows, 5000 features, 1 % of them", 1000, (5000, 100, 1), _text),
}

# Epochs of the first two: as many as scikit-learn's default settings take.
WORKS = {
    work.name: work
    for work in (
        Work("digits", "fit", "digits", 200, goal="at least 10 times as fast as sklearn"),
        Work("two-classes", "fit", "two-classes", 200, goal="at least 12 times as fast as sklearn"),
        Work("regression", "fit", "regression", 20),
        Work("early-stopping", "fit", "two-classes", 20, (("early_stopping", True),)),
        Work("sgd", "fit", "two-classes", 20, (("solver", "sgd"),)),
        Work("text", "fit", "text", 20),
        Work("stream", "stream", "two-classes", 200),
        Work("predict-digits", "call", "digits", 3, goal="at most 25 us"),
        Work("predict-two-classes", "call", "two-classes", 3, goal="at most 25 us"),
    )
}


# ---- A rival's process ----


def set_up(library, work):
    """What the process of a library times.

    Returns
    -------
    calls : list
        A pair (function, argument) for each of ``work.items``, None for what the library does not have.
    checked : list of float
        What has to be that of scikit-learn.
    """
    if library == "sklearn":
        from sklearn import neural_network as package
        from sklearn.utils import shuffle

        def draw(order):
            shuffle(order, random_state=random_state)
    else:
        import cymlp as package
        from cymlp._random import shuffle

        def draw(order):
            shuffle(order, random_state)

    warnings.simplefilter("ignore")  # that it has not converged
    data, random_state = DATA[work.data], np.random.RandomState(0)
    X, y = data.load()
    X = X.astype(work.dtype)
    if y.dtype.kind == "f":
        y = y.astype(work.dtype)
    estimator = getattr(package, data.estimator)
    few = dataclasses.replace(work, epochs=min(work.epochs, CHECKED_EPOCHS))
    if work.kind != "call":
        done = _fit(estimator, few, X, y)
        checked = [float(number) for number in (*done.loss_curve_, *(done.validation_scores_ or ()))]
        return [(functools.partial(_fit, estimator, work, X), y), (draw, np.arange(work.rows))], checked
    fitted, calls = _fit(estimator, work, X, y), []
    for name, rows in CALLS:
        known = hasattr(fitted, name.partition(".")[0])
        calls.append((operator.attrgetter(name)(fitted), np.ascontiguousarray(X[:rows])) if known else None)
    return calls, fitted.predict_proba(X[:100]).ravel().tolist()


def _fit(estimator, work, X, y):
    fitted = estimator(**work.options)
    if work.kind == "stream":
        classes, n = np.unique(y), len(y) // STREAM_ROWS
        for number in range(work.epochs):
            rows = slice(number % n * STREAM_ROWS, (number % n + 1) * STREAM_ROWS)
            fitted.partial_fit(X[rows], y[rows], **({"classes": classes} if number == 0 else {}))
    else:
        fitted.fit(X, y)
    if len(fitted.loss_curve_) != work.epochs:
        raise RuntimeError(f"{len(fitted.loss_curve_)} epochs in place of {work.epochs}")
    return fitted


# ---- The comparison ----


def _problem(work, answer, expected):
    """What is wrong with an answer, or None."""
    theirs, right = (np.array(one["checked"]) for one in (answer, expected))
    if theirs.shape != right.shape:
        return f"{theirs.size} losses in place of {right.size}"
    if work.kind == "call":
        if not np.abs(theirs - right).max() < compare.PROBABILITY_TOLERANCE:
            return "its probabilities are not those of scikit-learn"
    elif not (off := np.abs(theirs / right - 1)).max() <= TOLERANCES[work.dtype]:
        return f"its losses differ from those of scikit-learn by {off.max():.2g}, in epoch {off.argmax() + 1}"
    return None


def compare_estimators(group, *, rounds=7, seconds=0.2, timeout=300.0, peaks=None, log=None):
    """Time a group of contestants, whose cases are the variants of one `Work`.

    Parameters
    ----------
    group, rounds, seconds, timeout, peaks, log
        As for `compare.compare`.

    Returns
    -------
    list of dict
        One for each contestant and each thing that is timed; see bench/README.md for the fields.
    """
    log, before, items = log or (lambda line: None), machine.cpu_ticks(), group[0].case.items
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        running, expected = {}, {}
        for number, one in enumerate(group):
            work = one.case
            job = {"kind": "estimator", "case": dataclasses.asdict(work), "rows": items, "label": str(number)}
            job |= {"isa": one.isa, "peaks": str(peaks)}
            if work not in expected:
                log(f"{work.name} {work.dtype}: scikit-learn")
                theirs = compare.Contestant("sklearn", work, max(one.threads for one in group))
                process = compare.Process(theirs, {**job, "label": "expected"}, folder, timeout)
                process.close()
                if process.problem:
                    raise RuntimeError(f"scikit-learn failed: {process.problem}")
                expected[work] = process.answer
            log(f"{work.name}: {one.rival}, {one.threads} threads")
            process = running[number] = compare.Process(one, job, folder, timeout)
            stack.callback(process.close)
            if process.problem is None and one.rival != "peak":
                process.problem = _problem(work, process.answer, expected[work])
        times = compare.run_rounds(running, len(items), rounds, seconds, log)
    stolen, found = machine.stolen(before, machine.cpu_ticks()), []
    for item, what in enumerate(items):
        mine = {number: times[number, item] for number in running}
        drawn = {number: times[number, 1] for number in running} if what == "fit" else {}
        if what != "order":
            found += _rows(group, running, mine, drawn, what, stolen)
    return found


def _rows(group, running, times, drawn, what, stolen):
    """The rows of one item, in the form that those of compare.py have."""
    found, kind = [], group[0].case.kind
    if kind != "call":
        units = [1 if one.rival == "peak" else one.case.epochs for one in group]
        times = {number: [took / units[number] for took in mine] for number, mine in times.items()}
    figures = compare.figures(group, times)
    for number, one in enumerate(group):
        work, process = one.case, running[number]
        if one.rival == "peak" or (process.problem is None and not times[number]):  # scikit-learn has no such call
            continue
        row = {
            "kind": kind, "network": work.name, "what": f"{UNITS[kind](work, what)}; {DATA[work.data].what}",
            "batch": work.rows, "rival": one.rival, "threads": one.threads, "isa": one.isa, "activation": None,
            "dtype": work.dtype, "optimizer": None, "version": process.answer.get("version", ""),
            "setup": process.answer.get("setup"), "flops": work.flops, "stolen": stolen, "problem": process.problem,
            "note": one.definition.note, "epochs": work.epochs, "goal": work.goal if what == work.items[0] else "",
        }  # fmt: skip
        if number in figures and process.problem is None:
            row |= figures[number] | {"order": compare.ratio(drawn.get(number), times[number])}
            at_peak = compare.peak_of(group, times, one)
            if at_peak and work.flops:
                bounds = [work.flops * second / 1e9 for second in at_peak]
                row |= {"bound": float(np.median(bounds)), "share": compare.ratio(bounds, times[number])}
        found.append(row)
    return found


# What a unit of work is.
UNITS = {
    "fit": lambda work, _: f"an epoch of a fit of {work.epochs}",
    "stream": lambda work, _: f"a call of partial_fit with {STREAM_ROWS} rows",
    "call": lambda _, what: what,
}
