"""What the machine can do: multiply-adds a second for each instruction set, bytes of memory a second, and its noise."""

import ctypes
import os
import platform
import shlex
import subprocess
from pathlib import Path

import numpy as np

__all__ = [
    "ISAS",
    "Peaks",
    "build",
    "cpu_name",
    "cpu_ticks",
    "facts",
    "last_cache",
    "measure",
    "seconds_at_least",
    "stolen",
]

ISAS = ("baseline", "avx2", "avx512")
FOLDER = Path(__file__).parent


def build(source, folder):
    """The shared library that this machine's C compiler makes of a source file in this folder.

    Raises
    ------
    OSError
        Where there is no compiler, or it fails.
    """
    target = Path(folder, Path(source).stem + ".so")
    compiler = shlex.split(os.environ.get("CC") or "") or ["cc"]
    command = [*compiler, "-O2", "-shared", "-fPIC", "-pthread", str(FOLDER / source), "-o", str(target), "-ldl"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise OSError(f"no C compiler: {error}") from error
    if done.returncode != 0:
        raise OSError(f"{compiler[0]} failed: {done.stderr.strip().splitlines()[-1:]}")
    return target


class Peaks:
    """The functions of peaks.c, from the library that `build` made."""

    def __init__(self, path):
        self._library = ctypes.CDLL(str(path))
        self._library.bench_peak.restype = self._library.bench_bandwidth.restype = ctypes.c_double

    def isas(self):
        """The instruction sets of this machine, best last."""
        return [isa for isa in ISAS if self._library.bench_has(isa.encode())]

    def flops(self, isa, dtype, threads, seconds):
        """Floating point operations a second of so many threads together."""
        is_double = dtype == "float64"
        return self._library.bench_peak(isa.encode(), is_double, threads, ctypes.c_double(seconds))

    def bandwidth(self, kind, threads, seconds):
        """Bytes a second of "read" or "triad", over arrays that no cache holds."""
        size = ctypes.c_size_t(max(2**28, 8 * last_cache()))
        return self._library.bench_bandwidth(kind == "triad", size, threads, ctypes.c_double(seconds))


def measure(peaks, threads, seconds=0.05, repeats=3):
    """Peaks and bandwidths for each number of threads: the best of some repeats, as what disturbs only slows down."""

    def best(function, *arguments):
        return max(function(*arguments, seconds) for _ in range(repeats))

    return {
        "flops": [
            {"isa": isa, "dtype": dtype, "threads": n, "flops_per_second": best(peaks.flops, isa, dtype, n)}
            for isa in peaks.isas()
            for dtype in ("float32", "float64")
            for n in threads
        ],
        "bandwidth": [
            {"kind": kind, "threads": n, "bytes_per_second": best(peaks.bandwidth, kind, n)}
            for kind in ("read", "triad")
            for n in threads
        ],
    }


def seconds_at_least(flops, bytes_moved, working_set, peak, bandwidth):
    """The bound of one unit of work: FLOPs at the peak, or bytes at the bandwidth, whichever takes longer.

    Bytes count only where what is touched again and again does not fit into the last cache.
    """
    memory = bytes_moved / bandwidth if working_set > last_cache() else 0.0
    return max(flops / peak, memory)


def last_cache():
    """Bytes of the largest cache; 32 MiB where the system does not tell."""
    found = [32 * 2**20]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        found.append(int(text[:-1]) * {"K": 2**10, "M": 2**20}[text[-1]])
    return max(found[1:] or found)


def cpu_name():
    """The CPU's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def cpu_ticks():
    """Ticks of all CPUs since the start of the system, and those that the hypervisor gave to somebody else."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except OSError:
        return 0, 0
    return sum(fields), fields[7]


def stolen(before, after):
    """The share of CPU time between two `cpu_ticks` that was given to somebody else."""
    total, steal = (late - early for late, early in zip(after, before, strict=True))
    return steal / max(total, 1)


def facts():
    """What names this machine and what runs on it, in tables and in JSON."""
    from threadpoolctl import threadpool_info  # the processes of rivals need neither

    import cymlp

    config = cymlp.show_config()
    np.ones((2, 2)) @ np.ones((2, 2))  # loads the BLAS
    blas = next((pool for pool in threadpool_info() if pool["user_api"] == "blas"), {})
    return {
        "cpu": cpu_name(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "last_cache": last_cache(),
        "system": f"{platform.system()} {platform.release()}",
        "isa": config["instruction_set"],
        "threads": config["threads"],
        "threads_because": config["threads_because"],
        "cymlp": config["version"],
        "numpy": config["numpy"],
        "blas": f"{blas.get('internal_api')} {blas.get('version')} {blas.get('architecture')}",
        "python": config["python"],
    }
