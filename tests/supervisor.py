"""Runs a training in processes that are killed, one after another, until one comes to the end; see test_resuming.py.

``python supervisor.py CASE ENGINE FOLDER SEED`` prints JSON: what the uninterrupted run was like, what the interrupted
one was like in the end, how many processes were killed, and how many of these had left a checkpoint within an epoch.
The processes are children of this one, which has imported everything and never trains: it has one thread.
"""

import contextlib
import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback

import numpy as np

from cymlp import MLP, Checkpoint, EarlyStopping, callbacks, checkpoints, optimizers, schedules, training

ROWS, EPOCHS = 44, 6
EVERY = ({"epochs": 1}, {"epochs": None, "steps": 1}, {"epochs": 2, "steps": 4}, {"epochs": None, "seconds": 1e-9})
SUICIDES = 4  # processes that end themselves while they write, before others are killed at any moment
SIZES = (5, 8, 3)


def _data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(ROWS, SIZES[0])), rng.integers(0, SIZES[-1], ROWS), rng.random(ROWS)


X, Y, WEIGHT = _data()
VALIDATION = {"validation_data": (X[:9], Y[:9])}


class Batches:
    """An iterable that gives the same batches each time."""

    def __iter__(self):
        for start in range(0, ROWS, 8):
            yield X[start : start + 8], Y[start : start + 8]


def accuracy(y, outputs):
    return float((outputs.argmax(axis=1) == y).mean())


# name -> arguments of MLP, arguments of train.
CASES = {
    "adam": ({}, {"alpha": 0.01, "health": 3}),
    "sgd": ({"random_state": np.random.Generator(np.random.MT19937(1)), "dtype": np.float32}, {
        "optimizer": optimizers.SGD(0.05, momentum=0.9, nesterov=True), "shuffle": "weighted", "sample_weight": WEIGHT,
    }),
    "dropout": ({}, {"optimizer": "adamw", "dropout": [0.1, schedules.Polynomial(0.5, 0.2)], "max_norm": 1.0}),
    "batch norm": ({"normalization": "batch"}, {
        "shuffle": "stratified", "class_weight": "balanced", "epochs": 5, "health": 1,
    }),
    "layer norm": ({"normalization": "layer"}, {
        "optimizer": "rmsprop", "clip_norm": 0.1, "shuffle": False, "sample_weight": WEIGHT, "l1": 1e-3, "alpha": 0.1,
        "label_smoothing": 0.1,
    }),
    "plateau": ({"normalization": "batch"}, {
        "optimizer": optimizers.Adam(schedules.WarmUp(schedules.ReduceOnPlateau(0.3, patience=1), 9)), **VALIDATION,
    }),
    "one cycle": ({"dtype": np.float32}, {
        "optimizer": optimizers.SGD(schedules.OneCycle(0.1, 0.5), momentum=schedules.Polynomial(0.5, 0.9)),
        "dropout": 0.3,
    }),
    "stopping": ({"normalization": "batch"}, {
        "learning_rate": 0.3, "epochs": 30, "stopping": EarlyStopping(patience=3, monitor="metric"),
        "metric": accuracy, **VALIDATION,
    }),
    "stream": ({}, {"X": Batches(), "y": None, "dropout": 0.2, "health": True}),
}  # fmt: skip


def train(case, engine, checkpoint=None, log=None, n_threads=1, seed=0):
    """Do a case's training; a text that two runs have in common where they agree to the last bit."""
    own, given = CASES[case]
    options = {"X": X, "y": Y, "epochs": EPOCHS, "batch_size": 8, "checkpoint": checkpoint, **given}
    network = MLP(SIZES, "tanh", "softmax", **{"random_state": seed, "engine": engine, "n_threads": n_threads, **own})
    if log is not None:
        options["callback"] = callbacks.JSONLinesLog(log)
    X_, y = options.pop("X"), options.pop("y")
    history = network.train(X_, y, **options)
    columns = history.to_dict() | {"seconds": None}
    state = network._network.get_optimizer() if network._resumable is not None else None
    digest = hashlib.sha256(network.parameters.tobytes() + network.statistics.tobytes() + network.predict(X).tobytes())
    seen = [] if history._monitor is None else history._monitor.state().values()
    for part in (*(state or ()), *seen):
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return {
        "history": json.dumps(columns),  # whose floats have every digit
        "stopped": history.stopped,
        "bits": digest.hexdigest(),
        "generator": repr(network._rng.bit_generator.state),
    }


def die_at(function, is_before, count):
    """Kill this process at the `count`-th call of a function of `os`: before it, or when it is done."""
    call, calls = getattr(os, function), []

    def counted(*arguments, **options):
        calls.append(arguments)
        is_last = len(calls) == count
        if is_last and is_before:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return call(*arguments, **options)
        finally:
            if is_last:
                os.kill(os.getpid(), signal.SIGKILL)

    setattr(os, function, counted)


def in_child(work, folder, delay=None):
    """What ``work()`` returns in a child process, or None where that is killed: after `delay` seconds, or by itself."""
    path = os.path.join(folder, "result.json")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    pid = os.fork()
    if pid == 0:
        try:
            result = work()
            with open(path, "w", encoding="utf-8") as file:
                json.dump(result, file)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if delay is not None:
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)  # it may have ended: nobody else has its number before it is waited for
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    assert status == 0, "the child failed"
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def supervise(case, engine, folder, seed):
    """What this module prints."""
    draw = random.Random(seed)
    path, log = os.path.join(folder, "run.safetensors"), os.path.join(folder, "log.jsonl")
    every = EVERY[seed % len(EVERY)]
    training._TIMED_FLOPS = 6.0 * (SIZES[0] * SIZES[1] + SIZES[1] * SIZES[2]) * 8 * 2  # seconds: 2 minibatches a piece
    plain = in_child(lambda: train(case, engine), folder)
    started = time.perf_counter()
    whole = in_child(lambda: train(case, engine, Checkpoint(path, **every), log), folder)
    longest = time.perf_counter() - started
    os.unlink(path)
    killed, within, done = 0, 0, None
    while done is None:
        delay = None if killed < SUICIDES else draw.uniform(0, longest * 1.2 ** (killed - SUICIDES) / 4)
        # The first dies with its second checkpoint in place, so that one run goes on from there whatever delays do.
        fate = draw.choice(("fsync", "replace")), draw.random() < 0.5, draw.randint(1, 2)
        fate = ("replace", False, 2) if killed == 0 else fate

        def work(n_threads=1 + killed % 2, fate=fate if delay is None else None):
            if fate is not None:
                die_at(*fate)
            return train(case, engine, Checkpoint(path, **every), log, n_threads)

        done = in_child(work, folder, delay)
        killed += done is None
        if os.path.exists(path):
            with open(path, "rb") as file:
                within += checkpoints._read(file)[1]["batch"] > 0
    again = in_child(lambda: train(case, engine, Checkpoint(path, **every), log), folder)
    with open(log, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    return {
        "plain": plain, "whole": whole, "resumed": done, "again": again, "killed": killed, "within": within,
        "epochs": [line["epoch"] for line in lines], "losses": [line["loss"] for line in lines],
        "files": sorted(os.listdir(folder)),
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(supervise(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))))
