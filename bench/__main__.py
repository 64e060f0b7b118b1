"""cymlp's speed, beside other libraries and beside what the machine can do.  bench/README.md explains every column.

python -m bench                                        the quick round of everything, some minutes
python -m bench --full                                 all networks, rivals and threads, and the sweeps; an hour
python -m bench train --case 784-128-10@128            training steps
python -m bench predict --case 784-512-512-10 --rows 1 1024
python -m bench features --case 784-512-512-10@256     training steps with dropout, normalisation, ...; predictions
python -m bench estimators --case digits               fits and predictions beside scikit-learn's
"""

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path

from bench import compare, estimators, facts, machine, picture, report, sweep
from bench.cases import (
    ACTIVATIONS,
    FEATURED,
    FEATURES,
    PREDICTED,
    PREDICTED_FEATURES,
    PREDICTED_ROWS,
    RATES,
    TRAINED,
    parse,
)


class Bench:
    """One run: what was asked for, what the machine can do, and what was found."""

    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.result = {"facts": machine.facts(), "machine": None, "machine_problem": None}
        self.result |= {"rows": [], "features": [], "estimators": []}
        self.isas = options.isa or [self.result["facts"]["isa"]]
        self.library = None
        try:
            self.library = machine.build("peaks.c", folder)
        except OSError as error:
            self.result["machine_problem"] = str(error)
        else:
            self.result["machine"] = machine.measure(machine.Peaks(self.library), sorted({1, *options.threads}))
        self.say(*report.machine_table(self.result["facts"], self.result["machine"], self.result["machine_problem"]))

    def say(self, *lines):
        print("\n".join(lines), "\n", flush=True)

    def log(self, line):
        """Progress, on a line that the next one overwrites."""
        if sys.stderr.isatty():
            print(f"\r\033[K{line}", end="\r", file=sys.stderr, flush=True)

    def bandwidths(self, kind):
        measured = self.result["machine"] or {"bandwidth": []}
        return {row["threads"]: row["bytes_per_second"] for row in measured["bandwidth"] if row["kind"] == kind}

    def group(self, cases, rivals, with_peaks=True):
        options = self.options
        return compare.contestants(
            cases, rivals, options.threads, self.isas, options.python, options.build, with_peaks and bool(self.library)
        )

    def run_group(self, kind, group, rows=()):
        options = self.options
        found = compare.compare(
            kind, group, rows=rows, rounds=options.rounds, seconds=options.seconds, timeout=options.timeout,
            peaks=self.library, bandwidths=self.bandwidths("triad" if kind == "train" else "read"), log=self.log,
        )  # fmt: skip
        self.log("")
        for n in dict.fromkeys(row["batch"] for row in found):
            self.say(*report.table([row for row in found if row["batch"] == n]))
        return found

    def cases(self, name):
        options = self.options
        return [
            parse(name, activation=activation, optimizer=optimizer, dtype=dtype)
            for dtype in options.dtype
            for activation in options.activation
            for optimizer in options.optimizer
        ]

    def rivals(self, known):
        names = self.options.rivals
        return () if names == ["none"] else [name for name in names or known if name in known]

    def train(self):
        for name in self.options.case or TRAINED:
            group = self.group(self.cases(name), self.rivals(compare.TRAINING_RIVALS))
            self.result["rows"] += self.run_group("train", group)

    def features(self):
        """Each feature's steps beside the plain ones, then predictions with those that trained networks keep."""
        for name in self.options.featured:
            cases = [
                dataclasses.replace(case, feature=feature)
                for case in self.cases(name)
                for feature in self.options.feature
            ]
            self.beside_plain("train", cases)
            kept = [case for case in self.predicted(cases) if case.feature in PREDICTED_FEATURES]
            if {case.feature for case in kept} - {"plain"}:
                self.beside_plain("predict", kept)

    def beside_plain(self, kind, cases):
        """Turns of one library follow each other."""
        group = self.group(cases, self.rivals(compare.FEATURE_RIVALS))
        names = list(dict.fromkeys(one.rival for one in group))
        group.sort(key=lambda one: (one.rival == "peak", one.threads, names.index(one.rival)))
        self.result["features"] += self.run_group(kind, group, self.options.rows if kind == "predict" else ())

    def predicted(self, cases):
        """Those that differ in a prediction."""
        return list(dict.fromkeys(dataclasses.replace(case, optimizer="adam", batch=1) for case in cases))

    def predict(self):
        options = self.options
        for name in options.case or PREDICTED:
            group = self.group(self.predicted(self.cases(name)), self.rivals(compare.PREDICTION_RIVALS))
            self.result["rows"] += self.run_group("predict", group, options.rows)

    def estimators(self):
        options = self.options
        for name in options.work:
            work = estimators.WORKS[name]
            if options.epochs and work.kind != "call":
                work = dataclasses.replace(work, epochs=options.epochs)
            works = [dataclasses.replace(work, dtype=dtype) for dtype in options.estimator_dtype]
            found = estimators.compare_estimators(
                self.group(works, self.rivals(estimators.RIVALS), work.kind != "call"), rounds=options.rounds,
                seconds=options.seconds, timeout=options.timeout, peaks=self.library, log=self.log,
            )  # fmt: skip
            self.log("")
            self.result["estimators"] += found
            for what in dict.fromkeys(row["what"] for row in found):
                self.say(*report.table([row for row in found if row["what"] == what]))

    def sweep(self):
        options = self.options
        self.result["sweep"] = compare.run_points(
            sweep.points(options.full, options.only), options.threads, isa=self.isas[0], rounds=min(options.rounds, 3),
            seconds=options.seconds / 4, timeout=options.timeout, log=self.log,
        )  # fmt: skip
        self.result["cliffs"] = sweep.find_cliffs(self.result["sweep"])
        self.log("")
        self.say(*report.sweep_table(self.result["sweep"], self.result["cliffs"]))

    def facts(self):
        self.result["measured"] = facts.measure(max(self.options.threads), self.folder, self.log)
        self.log("")
        self.say(*report.facts_table(self.result["measured"]))

    def write(self):
        stem = self.options.output
        if stem:
            Path(f"{stem}.json").write_text(json.dumps(self.result, indent=1) + "\n")
            picture.draw(self.result, f"{stem}.png")
            print(f"{stem}.json and {stem}.png written")


def _pair(text):
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"needs NAME=VALUE; got {text!r}")
    return name, value


def _pairs(text):
    """name,name=value as pairs."""
    names, value = _pair(text)
    return [(name, value) for name in names.split(",")]


def arguments():
    parser = argparse.ArgumentParser(
        "python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    parts = ["train", "features", "predict", "estimators", "sweep", "facts", "machine", "draw"]
    add("what", nargs="?", choices=parts, help="all if left out")
    add("--full", action="store_true", help="everything, at length")
    add("--case", nargs="+", help="networks like 784-128-10@128 (@: rows of a minibatch) or 152x64@128; "
        f"estimators: {', '.join(estimators.WORKS)}")  # fmt: skip
    add("--rows", nargs="+", type=int, help="of predictions")
    add("--rivals", nargs="+", choices=[*compare.RIVALS, "none"], help="all that are installed if left out")
    add("--python", nargs="+", action="extend", type=_pairs, default=[], metavar="NAME[,NAME]=PATH",
        help="the interpreter of an environment that has these rivals")  # fmt: skip
    add("--build", nargs="+", type=_pair, default=[], metavar="NAME=FOLDER",
        help="another build of cymlp to be timed beside this one, in rows of this name")  # fmt: skip
    add("--threads", nargs="+", type=int)
    add("--isa", nargs="+", choices=machine.ISAS, help="instruction sets of ours")
    add("--dtype", nargs="+", choices=["float32", "float64"])
    add("--epochs", type=int, help="of the fits of estimators")
    add("--activation", nargs="+", choices=ACTIVATIONS, default=["relu"], help="of hidden layers")
    add("--optimizer", nargs="+", choices=RATES, default=["adam"])
    add("--feature", nargs="+", choices=FEATURES, default=list(FEATURES), help="what steps have")
    add("--only", nargs="+", choices=["batch", "width", "depth"], help="of the sweeps")
    add("--rounds", type=int, help="turns of each that count")
    add("--seconds", type=float, help="length of a turn")
    add("--timeout", type=float, default=300, help="seconds for a rival to set up: %(default)s")
    add("--output", metavar="STEM", help="write STEM.json and STEM.png; draw: make STEM.png from STEM.json")
    return parser


def defaults(options):
    """What was not asked for: little in the quick round of everything, all for a part or in full."""
    quick = options.what is None and not options.full
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    options.threads = options.threads or ([min(2, cpus)] if quick else sorted({1, min(2, cpus)}))
    options.rows = options.rows or ([1, 1024] if quick else list(PREDICTED_ROWS))
    options.rounds = options.rounds or (3 if quick else 7)
    options.seconds = options.seconds or (0.1 if quick else 0.2)
    options.output = options.output or ("bench-results" if options.what is None else None)
    options.featured = options.case or FEATURED[: 1 if quick else None]
    options.estimator_dtype = options.dtype or ["float64", "float32"][: 1 if quick else 2]
    options.dtype = options.dtype or ["float32"]
    options.work = (options.case if options.what == "estimators" else None) or list(estimators.WORKS)
    if quick:
        options.work, options.epochs = ["digits", "two-classes", "predict-digits"], options.epochs or 20
    if quick and options.rivals is None:
        options.rivals = [name for name in compare.PREDICTION_RIVALS if name != "torch-compile"]
    options.python = dict(pair for pairs in options.python for pair in pairs)
    options.build = dict(options.build)


def main(argv=None):
    parser = arguments()
    options = parser.parse_args(argv)
    defaults(options)
    try:
        for name in options.case or ():
            (estimators.WORKS.__getitem__ if options.what == "estimators" else parse)(name)
    except ValueError as error:
        parser.error(str(error))
    except KeyError as error:
        parser.error(f"estimators have the cases {', '.join(estimators.WORKS)}; got {error}")
    if options.what == "draw":
        stem = options.output or "bench-results"
        return picture.draw(json.loads(Path(f"{stem}.json").read_text()), f"{stem}.png")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, folder)
        with contextlib.suppress(KeyboardInterrupt):  # what has been measured is written
            for name in ("train", "features", "predict", "estimators", "facts", "sweep"):
                if options.what in (None, name):
                    getattr(bench, name)()
        bench.write()
    return None


if __name__ == "__main__":
    main()
