"""What a fit of ours costs beside floating point operations: a step's fixed price, allocations, memory; and the wheel.

    python -m bench.facts WHAT CASE THREADS

prints one JSON object; each is measured in a process of its own.
"""

import ctypes
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np

from bench import machine
from bench.cases import parse

__all__ = ["MEASURED", "measure", "wheel_bytes"]

ROOT = Path(__file__).resolve().parent.parent

# The step whose work is next to nothing; a small network, whose allocations would show; and fits for their memory: one
# of mostly data, one of mostly parameters.
MEASURED = {
    "overhead": ("1-1-1@1", "4-32-32-3@1"),
    "allocations": ("4-32-32-3@32", "784-128-10@128"),
    "memory": ("784-128-10@128", "784-512-512-10@256", "1024-2048-2048-1000@1024"),
}

# Minibatches of an epoch whose memory is looked at.
MEMORY_STEPS = {"784-128-10@128": 468}  # 60 000 rows


def _network(case, threads):
    import cymlp

    return cymlp.MLP(case.sizes, output_activation=case.output_activation, random_state=0, dtype=case.dtype,
                     n_threads=threads)  # fmt: skip


def _options(case, **options):
    return {"batch_size": case.batch, "learning_rate": 1e-6, "resume": True, **options}


def overhead(case, threads):
    """Seconds of a step with next to no work, by optimiser: its fixed price is less."""
    X, y = case.data(4096 * case.batch)
    found = {}
    for optimizer in ("sgd", "adam"):
        network = _network(case, threads)
        network.train(X, y, **_options(case, epochs=2, optimizer=optimizer))
        seconds = network.train(X, y, **_options(case, epochs=25, optimizer=optimizer)).seconds
        found[optimizer] = float(np.median(seconds)) / 4096
    return {"seconds": found}


def allocations(case, threads):
    """Calls of the allocator a step: what epochs of more steps have beyond what epochs of fewer have."""
    counter = ctypes.CDLL(None)
    counter.bench_allocations.restype = ctypes.c_ulong
    network, epochs, counted = _network(case, threads), 5, []
    for steps in (64, 64, 192):  # the first one warms up
        X, y = case.data(steps * case.batch)
        before = counter.bench_allocations()
        network.train(X, y, **_options(case, epochs=epochs))
        counted.append(counter.bench_allocations() - before)
    return {"per_step": (counted[2] - counted[1]) / (epochs * (192 - 64)), "per_call": counted[1]}


def memory(case, threads):
    """Bytes of a fit's peak beyond what was there before, data included before; and what it may take."""
    X, y = case.data(MEMORY_STEPS.get(str(case), case.steps) * case.batch)
    small = parse("2-2-2@2")
    _network(small, threads).train(*small.data(8), epochs=1)  # what the first call loads
    Path("/proc/self/clear_refs").write_text("5")  # the peak from now on
    before = _status("VmRSS")
    network = _network(case, threads)
    network.train(X, y, **_options(case, epochs=2))
    copies = 6 * case.n_parameters * case.real
    activations = case.batch * sum(case.sizes[1:]) * case.real
    found = {"used": _status("VmHWM") - before, "data": X.nbytes + y.nbytes}
    return {**found, "six_copies": copies, "activations": activations}


def _status(name):
    """Bytes of a line of the system's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def wheel_bytes():
    """Size of the installed package, packed as a wheel packs it."""
    import cymlp

    folder, packed = Path(cymlp.__file__).parent, io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                archive.write(path, path.relative_to(folder))
    return packed.tell()


def measure(threads, folder, log):
    """Rows ``{"what", "case", "threads", ...}``; with "problem" where something cannot be measured here."""
    found = []
    for what, names in MEASURED.items():
        for name in names:
            log(f"{what}: {name}")
            row = {"what": what, "case": name, "threads": threads}
            paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
            try:
                if what == "allocations":
                    preload = str(machine.build("allocations.c", folder))
                    environment |= {"LD_PRELOAD": preload, "PYTHONMALLOC": "malloc"}
                command = [sys.executable, "-m", "bench.facts", what, name, str(threads)]
                done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
                found.append({**row, **json.loads(done.stdout)})
            except (OSError, subprocess.CalledProcessError) as error:
                said = getattr(error, "stderr", None) or str(error)
                found.append({**row, "problem": said.strip().splitlines()[-1]})
    return [*found, {"what": "wheel", "bytes": wheel_bytes()}]


if __name__ == "__main__":
    functions = {"overhead": overhead, "allocations": allocations, "memory": memory}
    print(json.dumps(functions[sys.argv[1]](parse(sys.argv[2]), int(sys.argv[3]))))
