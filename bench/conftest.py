"""What all benches share: the few facts about the machine that a table needs, and limits on NumPy's threads."""

import pytest
from threadpoolctl import threadpool_limits

from . import machine


def pytest_benchmark_generate_machine_info(config):
    """In place of everything that py-cpuinfo finds out, the name of the host included."""
    return machine.facts()


def pytest_report_header(config):
    facts = machine.facts()
    return (
        f"cymlp {facts['cymlp']}, {facts['isa']}, {facts['threads']} threads "
        f"({facts['threads_because']}); {facts['cpu']}; NumPy {facts['numpy']}, {facts['blas']}"
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
