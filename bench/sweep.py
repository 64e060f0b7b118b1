"""How ours grows with the work: minibatches of 1 to 65536 rows, widths of 8 to 4096, depths of 1 to 152.

Time per floating point operation should fall to a plateau and stay there: `find_cliffs` names the points where it does
not.  Points lie at powers of two and beside them, and at the edges of tiles.
"""

import time

import numpy as np

from bench.cases import Case

__all__ = ["SWEEPS", "find_cliffs", "points", "time_point"]

# A point is a cliff where a unit of work takes so many times as long as at both neighbours, or so many times as long as
# at the one before; or where less work takes so many times as long as more.
PEAK, STEP, REVERSAL = 1.5, 1.5, 1.25

_POWERS = tuple(2**i for i in range(17))
_TILES = (6, 12, 48, 96, 192)  # rows of a register tile, and multiples of it

_BATCHES = sorted({n + d for n in _POWERS for d in (-1, 0, 1) if 1 <= n + d <= 65536} | {n + 1 for n in _TILES})
_WIDTHS = sorted({n + d for n in _POWERS[3:13] for d in (-1, 0, 1) if 8 <= n + d <= 4096} | {24, 48, 49, 96, 192, 193})
_DEPTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 152)

# Name -> what changes, its values, and the network at a value.
SWEEPS = {
    "batch, 64-64-64-10": (_BATCHES, lambda n: Case((64, 64, 64, 10), n)),
    "batch, 784-128-10": (_BATCHES, lambda n: Case((784, 128, 10), n)),
    "width, w-w-w@128": (_WIDTHS, lambda n: Case((n, n, n), 128)),
    "depth, d layers of 64@128": (_DEPTHS, lambda n: Case((64,) * (n + 1), 128)),
}


def points(full, only=None):
    """All points, as a list of dicts; without `full` a few of each sweep, the largest left out.

    `only` has the first words of the sweeps to take, for instance "width".
    """
    found = []
    for name, (values, case_of) in SWEEPS.items():
        if only and name.partition(",")[0] not in only:
            continue
        few = [n for n in values if n in (152, *_POWERS[:13:2]) and (n <= 1024 or "width" not in name)]
        for n in values if full else few:
            case = case_of(n)
            work = {"train": case.flops_per_step, "predict": case.batch * case.flops_per_row}
            found += [
                {"sweep": name, "x": n, "kind": kind, "sizes": case.sizes, "batch": case.batch, "flops": work[kind]}
                for kind in work
            ]
    return found


def time_point(point, threads, seconds):
    """Seconds of a training step or of a prediction of ours."""
    import cymlp

    case = Case(tuple(point["sizes"]), point["batch"])
    network = cymlp.MLP(case.sizes, "relu", "softmax", initializer="zeros", dtype=case.dtype, n_threads=threads)
    rng = np.random.default_rng(0)
    network.parameters = 0.05 * rng.random(case.n_parameters, np.float32) - 0.025
    steps = max(1, min(64, 2**22 // (case.batch * case.sizes[0]))) if point["kind"] == "train" else 1
    X = rng.random((steps * case.batch, case.sizes[0]), np.float32)
    if point["kind"] == "predict":
        return _median_time(lambda: network.predict(X), seconds)
    y = rng.integers(0, case.sizes[-1], len(X))
    options = {"batch_size": case.batch, "learning_rate": 1e-6, "shuffle": False, "resume": True}
    begin = time.perf_counter()
    network.train(X, y, epochs=2, **options)
    epochs = int(max(3, min(1000, 2 * seconds / (time.perf_counter() - begin))))
    return float(np.median(network.train(X, y, epochs=epochs, **options).seconds)) / steps


def _median_time(function, seconds):
    function()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def find_cliffs(rows):
    """Where the cost does not grow as the work does.

    Parameters
    ----------
    rows : list of dict
        Points with ``sweep``, ``kind``, ``threads``, ``x``, ``flops`` and ``seconds``.

    Returns
    -------
    list of dict
        ``sweep``, ``kind``, ``threads``, ``x``, ``factor`` and ``what``: "peak" (a unit of work takes `factor` times as
        long as at the better of both neighbours), "step" (than at the one before), "reversal" (less work than at the
        next point takes `factor` times as long).
    """
    found, groups = [], {}
    for row in rows:
        groups.setdefault((row["sweep"], row["kind"], row["threads"]), []).append(row)
    for (name, kind, threads), group in groups.items():
        group.sort(key=lambda row: row["x"])
        unit = [row["seconds"] / row["flops"] for row in group]
        for i, row in enumerate(group):
            factors = []
            if 0 < i < len(group) - 1:
                factors.append(("peak", unit[i] / max(unit[i - 1], unit[i + 1]), PEAK))
            if i > 0:
                factors.append(("step", unit[i] / unit[i - 1], STEP))
            if i < len(group) - 1:
                factors.append(("reversal", row["seconds"] / group[i + 1]["seconds"], REVERSAL))
            place = {"sweep": name, "kind": kind, "threads": threads, "x": row["x"]}
            found += [{**place, "what": what, "factor": factor} for what, factor, limit in factors if factor > limit]
    return found
