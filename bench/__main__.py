"""cymlp's speed, beside other libraries and beside what the machine can do.  bench/README.md explains every column.

python -m bench                                        the quick round of everything, some minutes
python -m bench --full                                 all networks, rivals and threads, and the sweeps; an hour
python -m bench train --case 784-128-10@128            training steps
python -m bench predict --case 784-512-512-10 --rows 1 1024
"""

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info

import cymlp
from bench import compare, machine, report
from bench.cases import ACTIVATIONS, PREDICTED, PREDICTED_ROWS, RATES, TRAINED, parse


def facts():
    """What names machine and libraries."""
    np.ones((2, 2)) @ np.ones((2, 2))  # loads the BLAS
    blas = next((pool for pool in threadpool_info() if pool["user_api"] == "blas"), {})
    config = cymlp.show_config()
    return {
        **machine.facts(),
        "cymlp": config["version"],
        "isa": config["instruction_set"],
        "numpy": config["numpy"],
        "blas": f"{blas.get('internal_api')} {blas.get('version')} {blas.get('architecture')}",
    }


class Bench:
    """One run: what was asked for, what the machine can do, and what was found."""

    def __init__(self, options, folder):
        self.options = options
        self.result = {"facts": facts(), "machine": None, "machine_problem": None, "rows": []}
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

    def run_group(self, kind, cases, rivals, rows=()):
        options = self.options
        group = compare.contestants(
            cases,
            rivals,
            options.threads,
            self.isas,
            dict(options.python),
            dict(options.build),
            self.library is not None,
        )
        found = compare.compare(
            kind, group, rows=rows, rounds=options.rounds, seconds=options.seconds, timeout=options.timeout,
            peaks=self.library, bandwidths=self.bandwidths("triad" if kind == "train" else "read"), log=self.log,
        )  # fmt: skip
        self.log("")
        self.result["rows"] += found
        for n in rows if kind == "predict" else [cases[0].batch]:
            self.say(*report.table([row for row in found if row["batch"] == n]))

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
            self.run_group("train", self.cases(name), self.rivals(compare.TRAINING_RIVALS))

    def predict(self):
        for name in self.options.case or PREDICTED:
            cases = list(dict.fromkeys(self.cases(name)))
            self.run_group("predict", cases, self.rivals(compare.PREDICTION_RIVALS), self.options.rows)

    def write(self):
        if self.options.output:
            Path(f"{self.options.output}.json").write_text(json.dumps(self.result, indent=1) + "\n")


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
    parser.add_argument("what", nargs="?", choices=["train", "predict", "machine"], help="all of them if left out")
    parser.add_argument("--full", action="store_true", help="everything, at length")
    parser.add_argument("--case", nargs="+", help="networks like 784-128-10@128 (@: rows of a minibatch) or 152x64@128")
    parser.add_argument("--rows", nargs="+", type=int, default=list(PREDICTED_ROWS), help="rows of predictions")
    parser.add_argument(
        "--rivals", nargs="+", choices=[*compare.RIVALS, "none"], help="all that go with it if left out"
    )
    parser.add_argument("--python", nargs="+", action="extend", type=_pairs, default=[], metavar="NAME[,NAME]=PATH",
                        help="the interpreter of an environment that has these rivals")  # fmt: skip
    parser.add_argument("--build", nargs="+", type=_pair, default=[], metavar="NAME=FOLDER",
                        help="another build of cymlp to be timed beside this one, in rows of this name")  # fmt: skip
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--isa", nargs="+", choices=machine.ISAS, help="instruction sets of ours")
    parser.add_argument("--dtype", nargs="+", choices=["float32", "float64"], default=["float32"])
    parser.add_argument("--activation", nargs="+", choices=ACTIVATIONS, default=["relu"])
    parser.add_argument("--optimizer", nargs="+", choices=RATES, default=["adam"])
    parser.add_argument("--rounds", type=int, default=7, help="turns of each that count: %(default)s")
    parser.add_argument("--seconds", type=float, default=0.2, help="length of a turn: %(default)s")
    parser.add_argument("--timeout", type=float, default=300, help="for a rival to set up: %(default)s")
    parser.add_argument("--output", metavar="STEM", help="write STEM.json and STEM.png")
    return parser


def main(argv=None):
    parser = arguments()
    options = parser.parse_args(argv)
    options.python = [pair for pairs in options.python for pair in pairs]
    try:
        for name in options.case or ():
            parse(name)
    except ValueError as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, folder)
        with contextlib.suppress(KeyboardInterrupt):
            if options.what in (None, "train"):
                bench.train()
            if options.what in (None, "predict"):
                bench.predict()
        bench.write()


if __name__ == "__main__":
    main()
