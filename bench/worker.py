"""A rival's process: sets up what its job says, answers what is to be checked, then times what each line asks for.

    python -m bench.worker FOLDER

The folder has ``job.json`` and ``data.npz``, and takes what predictions answer.  Standard output carries one JSON object
a line: first what was set up, then seconds for each ``{"item": i, "seconds": s}`` on the standard input.
"""

import importlib.metadata
import itertools
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from bench import machine, predictors, trainers
from bench.cases import Case

# Passed through before anything is timed: enough for another algorithm to show in the losses.
CHECKED_EPOCHS = 3

# Where a library's version is found, if not under its own name.
PACKAGES = {"reference": "numpy", "sklearn": "scikit-learn", "torch-compile": "torch", "peak": None}


def set_up(job, folder):
    """Functions, one for each item, of a number of repeats; and what is to be checked."""
    if job["library"] == "peak":
        return [_peak(job)] * max(1, len(job["rows"])), {}
    case = Case(**{**job["case"], "sizes": tuple(job["case"]["sizes"])})
    data = np.load(Path(folder, "data.npz"))
    start = time.perf_counter()
    if job["kind"] == "train":
        train = trainers.TRAINERS[job["library"]](case, data["flat"], data["X"], data["y"], job["threads"])
        losses = [float(loss) for loss in train(CHECKED_EPOCHS)]

        def step(repeats):
            epochs = max(1, round(repeats / job["steps"]))
            begin = time.perf_counter()
            train(epochs)
            return (time.perf_counter() - begin) / epochs / job["steps"]

        return [step], {"losses": losses, "setup": time.perf_counter() - start}
    matrices = [np.ascontiguousarray(data["X"][:rows]) for rows in job["rows"]]
    calls = predictors.PREDICTORS[job["library"]](case, data["flat"], matrices, job["threads"])
    for rows, (function, arguments) in zip(job["rows"], calls, strict=True):
        np.save(Path(folder, f"{job['label']}-{rows}.npy"), np.array(function(*arguments)))
    return [_timer(*call) for call in calls], {"setup": time.perf_counter() - start}


def _timer(function, arguments):
    def run(repeats):
        begin = time.perf_counter()
        for _ in itertools.repeat(None, repeats):
            function(*arguments)
        return (time.perf_counter() - begin) / repeats

    return run


def _peak(job):
    """Seconds of 10^9 floating point operations at the machine's peak."""
    peaks = machine.Peaks(job["peaks"])
    return lambda repeats: 1e9 / peaks.flops(job["isa"], job["case"]["dtype"], job["threads"], 0.002 * repeats)


def version(library):
    package = PACKAGES.get(library, library)
    return importlib.metadata.version(package) if package else ""


def take_turn(run, repeats, seconds):
    """Seconds of one unit of work, and the repeats that make the next turn as long as it should be."""
    run(max(1, repeats // 20))  # the caches were somebody else's
    took = run(repeats)
    while took * repeats < seconds / 4:  # the first turn does not know how many
        repeats *= 4
        took = run(repeats)
    return took, max(1, round(seconds / took))


def main():
    folder = sys.argv[1]
    job = json.loads(sys.stdin.readline())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    if hasattr(os, "sched_setaffinity"):  # before the library looks at how many CPUs there are
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job["threads"]])
    runs, found = set_up(job, folder)
    print(json.dumps({"version": version(job["library"]), **found}), file=answers, flush=True)
    repeats = [1] * len(runs)
    for line in sys.stdin:
        turn = json.loads(line)
        item = turn["item"]
        took, repeats[item] = take_turn(runs[item], repeats[item], turn["seconds"])
        print(json.dumps(took), file=answers, flush=True)


if __name__ == "__main__":
    main()
