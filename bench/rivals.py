"""One Adam training step in float32: cymlp beside NumPy, scikit-learn, JAX and PyTorch, as far as they are installed.

    python bench/rivals.py --case 784-128-10@128 --threads 2

Each rival is a process of its own that waits while another one is timed, and rounds go through all of them in turn, so
that a slow spell of the machine meets every rival.  Nobody is timed whose loss in the first epochs, from the same
weights over the same minibatches, is not that of the reference.  A round is one training of some epochs without
shuffling, through the library's public interface, and a step's time is the round's over all minibatches.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from cases import CASES, Case
from trainers import TRAINERS

# Losses of the first epochs agree to this, relatively: rounding in float32 and the place of Adam's epsilon, before or
# after the correction of bias, make differences of 1e-4; another algorithm makes 1e-1.
TOLERANCE = 0.01
CHECKED_EPOCHS = 3

# ---- A rival's process ----


def work(name, folder):
    """Print losses to check, then answer each line on the standard input with the seconds of a step."""
    job = json.loads(Path(folder, "job.json").read_text())
    threads = job["threads"]
    if hasattr(os, "sched_setaffinity"):  # before the library looks at how many CPUs there are
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    case, data = Case(tuple(job["sizes"]), job["batch"]), np.load(Path(folder, "data.npz"))
    version, train = TRAINERS[name](case, data["flat"], data["X"], data["y"], threads)
    print(json.dumps({"version": version, "losses": train(CHECKED_EPOCHS)}), flush=True)
    epochs = CHECKED_EPOCHS
    for _ in sys.stdin:
        start = time.perf_counter()
        train(epochs)
        seconds = (time.perf_counter() - start) / epochs
        print(json.dumps(seconds / job["steps"]), flush=True)
        epochs = max(CHECKED_EPOCHS, round(job["seconds"] / seconds))


class Rival:
    """A running process of `work`."""

    def __init__(self, name, python, folder, threads):
        self.name, self.microseconds = name, []
        limits = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        self.process = subprocess.Popen(
            [python, __file__, "--worker", name, folder],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **dict.fromkeys(limits, str(threads))},
        )  # fmt: skip
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"version": "", "losses": None}
        self.version, self.losses = answer["version"], answer["losses"]
        self.problem = None if line else (self.process.stderr.read().strip().splitlines() or ["no answer"])[-1]

    def run_round(self):
        """Microseconds of a step."""
        print(file=self.process.stdin, flush=True)
        return 1e6 * json.loads(self.process.stdout.readline())


# ---- The comparison ----


def cpu_ticks():
    """Ticks of all CPUs since the start of the system, and those that the hypervisor gave to somebody else."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except OSError:
        return 0, 0
    return sum(fields), fields[7]


def compare(options):
    case, steps = CASES[options.case], options.steps
    pythons = dict(item.split("=", 1) for item in options.python)
    rivals, ticks = [], cpu_ticks()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        X, y = case.data(steps * case.batch)
        np.savez(Path(folder, "data.npz"), flat=case.parameters(), X=X, y=y)
        job = {"sizes": case.sizes, "batch": case.batch, "steps": steps, "threads": options.threads}
        Path(folder, "job.json").write_text(json.dumps({**job, "seconds": options.seconds}))
        for name in dict.fromkeys(["cymlp", "reference", *options.rivals.split(",")]):
            rivals.append(Rival(name, pythons.get(name, sys.executable), folder, options.threads))
            stack.callback(rivals[-1].process.communicate)
        expected = rivals[1].losses
        for rival in rivals:
            if rival.losses and not np.allclose(rival.losses, expected, rtol=TOLERANCE, atol=0):
                rival.problem = f"losses {rival.losses} are not those of the reference, {expected}"
        running = [rival for rival in rivals if rival.problem is None]
        for number in range(options.rounds + 1):
            for rival in running:
                microseconds = rival.run_round()
                if number > 0:  # the first one warms up, and tells how many epochs a round takes
                    rival.microseconds.append(microseconds)
                time.sleep(0.05)  # threads that wait by spinning go to sleep
    total, stolen = (after - before for after, before in zip(cpu_ticks(), ticks, strict=True))
    rows = []
    for rival in rivals:
        row = {"rival": rival.name, "version": rival.version, "problem": rival.problem}
        if rival.microseconds:
            median = statistics.median(rival.microseconds)
            ratios = [theirs / ours for theirs, ours in zip(rival.microseconds, rivals[0].microseconds, strict=False)]
            spread = (max(rival.microseconds) - min(rival.microseconds)) / median
            row |= {"microseconds": median, "fastest": min(rival.microseconds), "spread": spread}
            row |= {"ratio": statistics.median(ratios), "losses": rival.losses}
        rows.append(row)
    facts = {"case": str(case), "flops": case.flops_per_step, "threads": options.threads, "rounds": options.rounds}
    return {**facts, "steal": stolen / max(total, 1), "rows": rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="784-128-10@128", help="network and rows of a minibatch")
    parser.add_argument("--rivals", default="sklearn,jax,torch", help="which, with commas: %(default)s")
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH", help="a rival's interpreter")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=64, help="minibatches of an epoch: %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each rival: %(default)s")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a turn: %(default)s")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(*options.worker)
    result = compare(options)
    if options.json:
        return print(json.dumps(result))
    print(f"{result['case']}, float32, {result['threads']} threads, medians of {result['rounds']} rounds; ", end="")
    print(f"{result['flops'] / 1e6:.4g} MFLOP a step; {100 * result['steal']:.1f} % of CPU time stolen")
    print(f"{'rival':<12}{'version':<16}{'us a step':>10}{'fastest':>10}{'spread':>8}{'over ours':>11}")
    for row in result["rows"]:
        if row["problem"]:
            print(f"{row['rival']:<12}not timed: {row['problem']}")
        else:
            numbers = (
                f"{row['microseconds']:>10.1f}{row['fastest']:>10.1f}{100 * row['spread']:>7.0f}%{row['ratio']:>11.2f}"
            )
            print(f"{row['rival']:<12}{row['version']:<16}{numbers}")


if __name__ == "__main__":
    main()
