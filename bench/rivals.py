"""One Adam training step in float32: cymlp beside NumPy, scikit-learn, JAX and PyTorch, as far as they are installed.

    python bench/rivals.py --case 784-128-10@128 --threads 2

Each rival is a process of its own that waits while another one is timed, and rounds go through all of them in turn, so
that a slow spell of the machine meets every rival.  Nobody is timed whose loss in the first epochs, from the same
weights over the same minibatches, is not that of the reference.  A step is an epoch without shuffling, through each
library's public interface, divided by its minibatches.
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

# Losses of the first epochs agree to this, relatively: rounding in float32 and the place of Adam's epsilon (1e-8, beside
# a square root that is divided by its bias correction or not) make 1e-4 of difference, another algorithm makes 1e-1.
TOLERANCE = 0.01
CHECKED_EPOCHS = 3
RATE, BETA1, BETA2, EPSILON = 0.001, 0.9, 0.999, 1e-8

# ---- The rivals: each function gives the library's version, and a function that trains one epoch and returns its loss ----


def layers(case, flat):
    """The flat vector of parameters as [(W, b), ...]."""
    found, start = [], 0
    for n_in, n_out in zip(case.sizes, case.sizes[1:], strict=False):
        middle = start + n_in * n_out
        found.append((flat[start:middle].reshape(n_in, n_out), flat[middle : middle + n_out]))
        start = middle + n_out
    return found


def train_cymlp(case, flat, X, y, threads, engine="compiled"):
    import cymlp

    network = cymlp.MLP(
        case.sizes, output_activation="softmax", dtype=np.float32, n_threads=threads, engine=engine, random_state=0
    )
    network.parameters = flat
    options = {"epochs": 1, "batch_size": case.batch, "optimizer": "adam", "shuffle": False, "resume": True}
    return cymlp.__version__, lambda: network.train(X, y, **options).loss[-1]


def train_reference(case, flat, X, y, threads):
    return f"NumPy {np.__version__}", train_cymlp(case, flat, X, y, threads, engine="reference")[1]


def train_sklearn(case, flat, X, y, threads):
    import sklearn
    from sklearn.neural_network import MLPClassifier

    if case.sizes[-1] == 2:
        raise ValueError("two classes are one output in scikit-learn: not the same network")
    network = MLPClassifier(
        case.sizes[1:-1], alpha=0, batch_size=case.batch, learning_rate_init=RATE, shuffle=False, epsilon=EPSILON
    )
    # The first call makes the arrays that ours are written into, and an optimiser that the next call makes anew.
    network.partial_fit(X[: case.batch], y[: case.batch], classes=np.arange(case.sizes[-1]))
    for W, b, (ours, biases) in zip(network.coefs_, network.intercepts_, layers(case, flat), strict=True):
        W[:], b[:] = ours, biases
    del network._optimizer
    return sklearn.__version__, lambda: network.partial_fit(X, y).loss_


def train_jax(case, flat, X, y, threads):
    import jax
    import jax.numpy as jnp

    def loss(parameters, x, target):
        for W, b in parameters[:-1]:
            x = jax.nn.relu(x @ W + b)
        W, b = parameters[-1]
        return -jnp.mean(jnp.sum(target * jax.nn.log_softmax(x @ W + b), axis=1))

    def step(state, batch):
        w, m, v, t = state
        value, g = jax.value_and_grad(loss)(w, *batch)
        t += 1
        m = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, m, g)
        v = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, v, g)
        rate, root = RATE / (1 - BETA1**t), jnp.sqrt(1 - BETA2**t)
        w = jax.tree.map(lambda w, m, v: w - rate * m / (jnp.sqrt(v) / root + EPSILON), w, m, v)
        return (w, m, v, t), value

    epoch = jax.jit(lambda state, batches: jax.lax.scan(step, state, batches), donate_argnums=0)
    targets = np.eye(case.sizes[-1], dtype=np.float32)[y]
    batches = tuple(jnp.asarray(array.reshape(-1, case.batch, array.shape[1])) for array in (X, targets))
    weights = [(jnp.array(W), jnp.array(b)) for W, b in layers(case, flat)]
    state = [(weights, jax.tree.map(jnp.zeros_like, weights), jax.tree.map(jnp.zeros_like, weights), jnp.float32(0))]

    def train():
        state[0], losses = epoch(state[0], batches)
        return float(jax.block_until_ready(losses).mean())

    return jax.__version__, train


def train_torch(case, flat, X, y, threads):
    import torch

    torch.set_num_threads(threads)
    modules = []
    for W, b in layers(case, flat):
        linear = torch.nn.Linear(*W.shape)
        linear.weight.data, linear.bias.data = torch.tensor(W.T.copy()), torch.tensor(b)
        modules += [linear, torch.nn.ReLU()]
    network, criterion = torch.nn.Sequential(*modules[:-1]), torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE, betas=(BETA1, BETA2), eps=EPSILON, fused=True)
    batches = list(zip(torch.tensor(X).split(case.batch), torch.tensor(y).split(case.batch), strict=True))

    def train():
        total = torch.zeros(())
        for x, target in batches:
            optimizer.zero_grad()
            loss = criterion(network(x), target)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return total.item() / len(batches)

    return torch.__version__, train


RIVALS = {
    "cymlp": train_cymlp,
    "reference": train_reference,
    "sklearn": train_sklearn,
    "jax": train_jax,
    "torch": train_torch,
}

# ---- A rival's process ----


def work(name, folder):
    """Answer each line on the standard input with a line of JSON: first the losses to check, then times."""
    job = json.loads(Path(folder, "job.json").read_text())
    threads = job["threads"]
    if hasattr(os, "sched_setaffinity"):  # before the library looks at how many CPUs there are
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    case, data = Case(tuple(job["sizes"]), job["batch"]), np.load(Path(folder, "data.npz"))
    version, epoch = RIVALS[name](case, data["flat"], data["X"], data["y"], threads)
    print(json.dumps({"version": version, "losses": [epoch() for _ in range(CHECKED_EPOCHS)]}), flush=True)
    for _ in sys.stdin:
        times, end = [], time.perf_counter() + job["seconds"]
        while time.perf_counter() < end or len(times) < 3:
            start = time.perf_counter()
            epoch()
            times.append(time.perf_counter() - start)
        print(json.dumps(statistics.median(times) / job["steps"]), flush=True)


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
        print(file=self.process.stdin, flush=True)
        self.microseconds.append(1e6 * json.loads(self.process.stdout.readline()))


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
        for _ in range(options.rounds):
            for rival in rivals:
                if rival.problem is None:
                    rival.run_round()
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
