"""Who is timed, in a process of its own each, one at a time and round by round; and what their times say."""

import contextlib
import dataclasses
import json
import os
import re
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench import machine
from bench.cases import Case

__all__ = [
    "FEATURE_RIVALS",
    "PREDICTION_RIVALS",
    "RIVALS",
    "TRAINING_RIVALS",
    "Contestant",
    "Process",
    "compare",
    "contestants",
    "figures",
    "peak_of",
    "ratio",
    "run_points",
    "run_rounds",
]

ROOT = Path(__file__).resolve().parent.parent

# Losses of the first epochs agree to this, relatively: rounding in float32 and the place of Adam's epsilon, before or
# after the correction of bias, make differences of 1e-4; another algorithm makes 1e-1.
LOSS_TOLERANCE = 0.01

# Probabilities agree to this, absolutely: rounding of sums of 2048 float32 makes 1e-6.
PROBABILITY_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Rival:
    """A way to train or predict: a function of trainers.py and predictors.py, and the environment it runs in."""

    library: str
    environment: dict = field(default_factory=dict)
    note: str = ""


RIVALS = {
    "cymlp": Rival("cymlp"),
    "reference": Rival("reference", note="NumPy, engine='reference'"),
    "sklearn": Rival("sklearn"),
    "sklearn-skylakex": Rival("sklearn", {"OPENBLAS_CORETYPE": "SkylakeX"}, "OpenBLAS made to use AVX-512"),
    "jax": Rival("jax"),
    "torch": Rival("torch"),
    "torch-compile": Rival("torch-compile"),
    "onnxruntime": Rival("onnxruntime"),
    "openvino": Rival("openvino"),
}
TRAINING_RIVALS = ("reference", "sklearn", "sklearn-skylakex", "jax", "torch", "torch-compile")
FEATURE_RIVALS = ("torch", "torch-compile")
PREDICTION_RIVALS = (*TRAINING_RIVALS, "onnxruntime", "openvino")


@dataclass(slots=True)
class Contestant:
    """One row of a comparison before it is timed.

    Attributes
    ----------
    rival : str
        A name from RIVALS, that of another build of cymlp, "peak": the machine's, in the same rounds, or "sweep".
    case : Case or estimators.Work
    threads : int
    isa : str, optional
        The instruction set of ours, and of the peak.
    python : str
        The interpreter.
    path : str, optional
        Another build's folder to import cymlp from.
    """

    rival: str
    case: Case
    threads: int
    isa: str | None = None
    python: str = sys.executable
    path: str | None = None

    @property
    def definition(self):
        return RIVALS.get(self.rival, RIVALS["cymlp"])

    @property
    def library(self):
        return self.rival if self.rival in ("peak", "sweep") else self.definition.library

    @property
    def is_ours(self):
        return self.library in ("cymlp", "sweep")

    @property
    def checked_case(self):
        """What its answer is compared with."""
        return self.case.logistic() if self.library == "sklearn" else self.case

    @property
    def environment(self):
        limits = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        paths = [self.path, str(ROOT), *(os.path.abspath(path) for path in inherited if path)]  # workers are elsewhere
        isa = {"CYMLP_ISA": self.isa} if self.is_ours and self.isa else {}
        return {
            **os.environ,
            **dict.fromkeys(limits, str(self.threads)),
            **self.definition.environment,
            **isa,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }


def contestants(cases, names, threads, isas, pythons=None, builds=None, with_peaks=True):
    """Ours first, then the rivals, for every case and number of threads.

    Parameters
    ----------
    cases : list of Case
        The same network with different options.
    names : sequence of str
        Of RIVALS, without ours.
    threads : sequence of int
    isas : sequence of str
        Instruction sets: ours runs once with each.
    pythons : dict, optional
        Interpreter of a rival, by its name or its library's.
    builds : dict, optional
        Name -> folder of another build of cymlp.
    with_peaks : bool, default True
        Whether the machine's peaks are measured in the same rounds.
    """
    pythons, builds, found = pythons or {}, builds or {}, []
    for case in cases:
        for n in threads:
            found += [Contestant("cymlp", case, n, isa) for isa in isas]
            found += [Contestant(name, case, n, isas[0], path=path) for name, path in builds.items()]
            for name in names:
                library = RIVALS[name].library
                python = pythons.get(name) or pythons.get(library.removesuffix("-compile")) or sys.executable
                found.append(Contestant(name, case, n, python=python))
    if with_peaks:
        needed = {(isa, case.dtype, n): case for case in cases for n in threads for isa in isas}
        found += [Contestant("peak", case, n, isa) for (isa, _, n), case in needed.items()]
    return found


# ---- Processes ----


class Process:
    """A running bench.worker, stopped while others have their turn."""

    def __init__(self, contestant, job, folder, timeout):
        self.timeout, self.problem, self.answer = timeout, None, {}
        self.errors = open(Path(folder, f"errors-{job['label']}.txt"), "w+")  # noqa: SIM115 - closed with the process
        try:
            self.process = subprocess.Popen(
                [contestant.python, "-m", "bench.worker", str(folder)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, cwd=folder,
                env=contestant.environment,
            )  # fmt: skip
        except OSError as error:
            self.process, self.problem = None, str(error)
            return
        self.answer = self._ask({**job, "library": contestant.library, "threads": contestant.threads}) or {}
        self._stop()

    def _ask(self, question):
        """The answer, or None where there is a problem."""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(question), file=self.process.stdin, flush=True)
        ready, _, _ = select.select([self.process.stdout], [], [], self.timeout)
        line = self.process.stdout.readline() if ready else ""
        if line:
            return json.loads(line)
        if not ready:
            self.problem = f"no answer within {self.timeout:g} s"
        else:
            code = self.process.wait()
            self.errors.seek(0)
            lines = [text.strip() for text in self.errors if text.strip()]
            raised = [text for text in lines if re.match(r"[\w.]*(Error|Exception)\b", text)]
            self.problem = signal.Signals(-code).name if code < 0 else (raised or lines or [f"exit code {code}"])[-1]
        return None

    def _stop(self):
        if self.problem is None:
            self.process.send_signal(signal.SIGSTOP)

    def take_turn(self, item, seconds):
        """Seconds of one unit of work; None where there is no such work, or a problem."""
        self.process.send_signal(signal.SIGCONT)
        answer = self._ask({"item": item, "seconds": seconds})
        self._stop()
        return answer

    def close(self):
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
        self.errors.close()


# ---- What is checked ----


def _problem(kind, answer, expected, rows, folder, label, is_random=False):
    """What is wrong with an answer, or None; with other random numbers than ours losses have to fall, no more."""
    if kind == "train":
        if is_random:
            first, *_, last = answer["losses"]
            return None if last < first else f"its losses do not fall: {answer['losses']}"
        if not np.allclose(answer["losses"], expected["losses"], rtol=LOSS_TOLERANCE, atol=0):
            return f"its losses {answer['losses']} are not those of the reference, {expected['losses']}"
        return None
    for n in rows:
        theirs, right = (np.load(Path(folder, f"{name}-{n}.npy")) for name in (label, "expected"))
        if theirs.shape != right.shape or not np.abs(theirs - right).max() < PROBABILITY_TOLERANCE:
            return f"its probabilities for {n} rows are not those of the reference"
    return None


# ---- The comparison ----


def compare(kind, group, *, rows=(), rounds=7, seconds=0.3, timeout=300.0, peaks=None, bandwidths=None, log=None):
    """Time a group of contestants.

    Parameters
    ----------
    kind : {"train", "predict"}
    group : list of Contestant
    rows : sequence of int
        Of the matrices to predict.
    rounds : int
        Turns of each contestant that count; one more comes before them.
    seconds : float
        Length of a turn.
    timeout : float
        Seconds that a rival may take to set up, or for a turn.
    peaks : path, optional
        The library of machine.py.
    bandwidths : dict, optional
        Threads -> bytes a second.
    log : callable, optional
        Called with a line about progress.

    Returns
    -------
    list of dict
        One for each contestant and number of rows, in order; see bench/README.md for the fields.
    """
    log, before = log or (lambda line: None), machine.cpu_ticks()
    items = list(rows) if kind == "predict" else [None]
    with tempfile.TemporaryDirectory() as top, contextlib.ExitStack() as stack:
        folders, running = {}, {}
        for number, one in enumerate(group):
            checked, label = one.checked_case, str(number)
            folder = folders.setdefault(checked, Path(top, str(len(folders))))
            job = {"kind": kind, "case": dataclasses.asdict(checked), "rows": list(rows), "steps": checked.steps}
            job |= {"label": label, "isa": one.isa, "peaks": str(peaks)}
            if not folder.exists():
                _write_data(folder, kind, checked, rows)
                reference = Contestant("reference", checked, max(one.threads for one in group))
                log(f"{checked.network} {checked.activation} {checked.optimizer} {checked.dtype}: reference")
                process = Process(reference, {**job, "label": "expected"}, folder, timeout)
                process.close()
                if process.problem:
                    raise RuntimeError(f"the reference failed: {process.problem}")
                folders[checked, "expected"] = process.answer
            log(f"{checked.network}: {one.rival}, {one.threads} threads")
            process = running[number] = Process(one, job, folder, timeout)
            stack.callback(process.close)
            if process.problem is None and one.rival != "peak":
                expected = folders[checked, "expected"]
                is_random = checked.feature == "dropout" and not one.is_ours
                process.problem = _problem(kind, process.answer, expected, rows, folder, label, is_random)
        times = run_rounds(running, len(items), rounds, seconds, log)
    stolen = machine.stolen(before, machine.cpu_ticks())
    found = []
    for item, n in enumerate(items):
        mine = {number: times[number, item] for number in running}
        found += _rows(kind, group, running, mine, n, bandwidths or {}, stolen)
    return found


def _write_data(folder, kind, case, rows):
    folder.mkdir()
    X, y = case.data(case.steps * case.batch if kind == "train" else max(rows))
    np.savez(Path(folder, "data.npz"), flat=case.parameters(), X=X, y=y)


def run_rounds(running, n_items, rounds, seconds, log):
    """(contestant, item) -> seconds of a unit of work, one for each round; none where a process has no such item."""
    times = {(number, item): [] for number in running for item in range(n_items)}
    for turn in range(rounds + 1):
        log(f"round {turn} of {rounds}")
        order = list(running.items())
        for item in range(n_items):
            for number, process in order if turn % 2 else order[::-1]:
                if process.problem is not None:
                    continue
                took = process.take_turn(item, seconds)
                if took is not None and turn > 0:  # the first one warms up, and tells how many repeats a turn takes
                    times[number, item].append(took)
                time.sleep(0.01)  # the system's own housekeeping
    return times


def run_points(points, threads, *, isa=None, rounds=3, seconds=0.05, timeout=300.0, log=None):
    """Time points of sweep.py with ours, round by round.

    Parameters
    ----------
    points : list of dict
    threads : sequence of int
        Each in a process of its own.
    isa, rounds, seconds, timeout, log
        As in `compare`.

    Returns
    -------
    list of dict
        The points with ``threads``, ``seconds`` (the median) and ``spread``.
    """
    log, found = log or (lambda line: None), []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        running = {}
        for n in threads:
            one = Contestant("sweep", Case((1, 1), 1), n, isa)
            running[n] = Process(one, {"label": str(n), "points": points}, folder, timeout)
            stack.callback(running[n].close)
        times = run_rounds(running, len(points), rounds, seconds, log)
        problems = [process.problem for process in running.values() if process.problem]
        if problems:
            raise RuntimeError(f"the sweep failed: {problems[0]}")
    for (n, item), mine in times.items():
        median = statistics.median(mine)
        found.append({**points[item], "threads": n, "seconds": median, "spread": (max(mine) - min(mine)) / median})
    return found


def _rows(kind, group, running, times, n, bandwidths, stolen):
    """The rows of one item."""
    told, found = figures(group, times), []
    for number, one in enumerate(group):
        if one.rival == "peak":
            continue
        case, process = one.case, running[number]
        flops = case.flops_per_step if kind == "train" else n * case.flops_per_row
        row = {
            "kind": kind, "network": case.network, "batch": case.batch if kind == "train" else n, "rival": one.rival,
            "threads": one.threads, "isa": one.isa, "activation": case.activation, "dtype": case.dtype,
            "optimizer": case.optimizer if kind == "train" else None, "version": process.answer.get("version", ""),
            "setup": process.answer.get("setup"), "flops": flops, "stolen": stolen, "problem": process.problem,
            "note": _note(one), "feature": case.feature, "goal": _goal(case) if kind == "train" else "",
        }  # fmt: skip
        if number in told and process.problem is None:
            row |= told[number] | {"over_plain": _over_plain(group, times, one, number)}
            at_peak = peak_of(group, times, one)
            if at_peak and one.threads in bandwidths:
                row |= _share(kind, case, n, flops, times[number], at_peak, bandwidths[one.threads])
        found.append(row)
    return found


def figures(group, times):
    """What times say of each contestant that has some, by its number: medians, and ratios to others.

    Parameters
    ----------
    group : list of Contestant
    times : dict
        Number of a contestant -> seconds of each round.
    """
    first = {(c.case, c.threads): i for i, c in reversed(list(enumerate(group))) if c.rival == "cymlp"}
    single = {(c.rival, c.case, c.isa): i for i, c in enumerate(group) if c.threads == 1}
    found = {}
    for number, one in enumerate(group):
        mine = times[number]
        if mine:
            median = statistics.median(mine)
            one_thread = single.get((one.rival, one.case, one.isa)) if one.threads > 1 else None
            found[number] = {
                "seconds": median, "fastest": min(mine), "spread": (max(mine) - min(mine)) / median, "rounds": mine,
                "over_ours": ratio(mine, times.get(first.get((one.case, one.threads)))),
                "speedup": ratio(times.get(one_thread), mine),
            }  # fmt: skip
    return found


def _goal(case):
    return f"{case.feature} at most {case.goal:g} times the plain step" if case.goal else ""


def _over_plain(group, times, one, number):
    """The time of a step or prediction with a feature over that of its own plain one; None for the plain one."""
    if one.case.feature == "plain":
        return None
    same = dataclasses.replace(one, case=dataclasses.replace(one.case, feature="plain"))
    return ratio(times[number], times[group.index(same)] if same in group else None)


def peak_of(group, times, one):
    """The seconds of 10^9 operations in each round at the peak that belongs to one of ours, or None."""
    peak = {(c.isa, c.case.dtype, c.threads): i for i, c in enumerate(group) if c.rival == "peak"}
    return times.get(peak.get((one.isa, one.case.dtype, one.threads))) if one.is_ours else None


def _note(one):
    notes = [one.definition.note]
    if one.checked_case != one.case:
        notes.append("1 sigmoid output in place of 2 with softmax")
    return "; ".join(filter(None, notes))


def ratio(theirs, ours):
    """Median over rounds of the ratio within a round, so that a slow spell of the machine counts for both.

    None where one of them was not timed.
    """
    if not theirs or not ours:
        return None
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=False))


def _share(kind, case, n, flops, mine, at_peak, bandwidth):
    """The bound of each round, with the peak measured in the same round, over what it took."""
    if kind == "train":
        moved, kept = case.bytes_per_step, case.state_bytes
    else:
        moved = kept = case.prediction_bytes(n)
    bounds = [machine.seconds_at_least(flops, moved, kept, 1e9 / gigaflop, bandwidth) for gigaflop in at_peak]
    return {"bound": statistics.median(bounds), "share": ratio(bounds, mine)}
