"""A rival's process: sets up what its job says, answers what is to be checked, then times what each line asks for.

    python -m bench.worker FOLDER

The folder has ``data.npz`` and takes what predictions answer.  The first line of the standard input is the job, in JSON
as every line; its answer is what was set up.  Each later ``{"item": i, "seconds": s}`` asks for a turn of about s
seconds, whose answer is the seconds of a unit of work.
"""

import functools
import importlib.metadata
import itertools
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from bench import estimators, machine, predictors, sweep, trainers
from bench.cases import Case

# Passed through before anything is timed: enough for another algorithm to show in the losses.
CHECKED_EPOCHS = 3

# Where a library's version is found, if not under its own name.
PACKAGES = {"reference": "numpy", "sklearn": "scikit-learn", "torch-compile": "torch", "peak": None, "sweep": None}


class Turn:
    """Times a function of a number of repeats, as many as fill the seconds of a turn."""

    def __init__(self, run):
        self.run, self.repeats = run, 1

    def __call__(self, seconds):
        """Seconds of one repeat."""
        if self.repeats > 1:  # what takes all of a turn does not mind that the caches were somebody else's
            self.run(max(1, self.repeats // 20))
        took = self.run(self.repeats)
        while took * self.repeats < seconds / 4:  # the first turn does not know how many
            self.repeats *= 4
            took = self.run(self.repeats)
        self.repeats = max(1, round(seconds / took))
        return took


def set_up(job, folder):
    """A function of seconds for each item, that gives the seconds of a unit of work; and what is to be checked."""
    if job["library"] == "peak":
        return [_peak(job)] * max(1, len(job["rows"])), {}
    if job["library"] == "sweep":
        return [functools.partial(sweep.time_point, point, job["threads"]) for point in job["points"]], {}
    if job["kind"] == "estimator":
        start = time.perf_counter()
        calls, checked = estimators.set_up(job["library"], estimators.Work(**job["case"]))
        turns = [Turn(_calls(*call)) if call else _nothing for call in calls]
        return turns, {"checked": checked, "setup": time.perf_counter() - start}
    case = Case(**{**job["case"], "sizes": tuple(job["case"]["sizes"])})
    data = np.load(Path(folder, "data.npz"))
    start = time.perf_counter()
    if job["kind"] == "train":
        train = trainers.TRAINERS[job["library"]](case, data["flat"], data["X"], data["y"], job["threads"])
        losses = [float(loss) for loss in train(CHECKED_EPOCHS)]
        return [Turn(_steps(train, job["steps"]))], {"losses": losses, "setup": time.perf_counter() - start}
    matrices = [np.ascontiguousarray(data["X"][:rows]) for rows in job["rows"]]
    calls = predictors.PREDICTORS[job["library"]](case, data["flat"], matrices, job["threads"])
    for rows, (function, argument) in zip(job["rows"], calls, strict=True):
        np.save(Path(folder, f"{job['label']}-{rows}.npy"), np.array(function(argument)))
    return [Turn(_calls(*call)) for call in calls], {"setup": time.perf_counter() - start}


def _steps(train, steps):
    """The seconds of a step, in whole epochs of so many."""

    def run(repeats):
        epochs = max(1, round(repeats / steps))
        begin = time.perf_counter()
        train(epochs)
        return (time.perf_counter() - begin) / epochs / steps

    return run


def _calls(function, argument):
    """The seconds of a call."""

    def run(repeats):
        begin = time.perf_counter()
        for _ in itertools.repeat(None, repeats):
            function(argument)
        return (time.perf_counter() - begin) / repeats

    return run


def _nothing(seconds):
    """The turn of a library that does not have what others are timed at."""


def _peak(job):
    """Seconds of 10^9 floating point operations at the machine's peak."""
    peaks = machine.Peaks(job["peaks"])
    return lambda seconds: 1e9 / peaks.flops(job["isa"], job["case"]["dtype"], job["threads"], min(seconds, 0.05))


def version(library):
    package = PACKAGES.get(library, library)
    return importlib.metadata.version(package) if package else ""


def main():
    folder = sys.argv[1]
    job = json.loads(sys.stdin.readline())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    if hasattr(os, "sched_setaffinity"):  # before the library looks at how many CPUs there are
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job["threads"]])
    turns, found = set_up(job, folder)
    print(json.dumps({"version": version(job["library"]), **found}), file=answers, flush=True)
    for line in sys.stdin:
        turn = json.loads(line)
        print(json.dumps(turns[turn["item"]](turn["seconds"])), file=answers, flush=True)


if __name__ == "__main__":
    main()
