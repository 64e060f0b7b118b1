"""What all benches share: the few facts about the machine that a table needs, and limits on NumPy's threads."""

import os

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import cymlp

from .machine import cpu_name


def _machine():
    config = cymlp.show_config()
    np.ones((2, 2)) @ np.ones((2, 2))  # loads the BLAS
    blas = next((pool for pool in threadpool_info() if pool["user_api"] == "blas"), {})
    return {
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "instruction_set": config["instruction_set"],
        "threads": config["threads"],
        "threads_because": config["threads_because"],
        "cymlp": config["version"],
        "numpy": config["numpy"],
        "blas": f"{blas.get('internal_api')} {blas.get('version')} {blas.get('architecture')}",
        "python": config["python"],
    }


def pytest_benchmark_generate_machine_info(config):
    """In place of everything that py-cpuinfo finds out, the name of the host included."""
    return _machine()


def pytest_report_header(config):
    machine = _machine()
    return (
        f"cymlp {machine['cymlp']}, {machine['instruction_set']}, {machine['threads']} threads "
        f"({machine['threads_because']}); {machine['cpu']}; NumPy {machine['numpy']}, {machine['blas']}"
    )


@pytest.fixture
def limit_blas():
    """Function of a number of threads: NumPy takes no more during this bench."""
    limits = []

    def limit(n_threads):
        limits.append(threadpool_limits(n_threads, user_api="blas"))

    yield limit
    for one in reversed(limits):
        one.restore_original_limits()
