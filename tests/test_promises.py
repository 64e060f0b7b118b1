"""What users are promised about the process around a network: how many threads it takes, and what importing it does."""

import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from conftest import assert_close, classifier, classifier_data, run_python

import cymlp
from cymlp import _engine
from cymlp.engine import available_cpus, resolve_n_threads

# ---- Threads ----


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "100000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 1\n",
            },
            1,
        ),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "150000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "nonsense\n"}, None),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "1 0\n"}, None),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/x\n",
                "sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us": "90000\n",
                "sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us": "100000\n",
            },
            1,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ({"proc/self/cgroup": "7:memory:/x\nbroken line\n"}, None),
    ],
)
def test_control_groups_limit_the_threads(tmp_path, monkeypatch, files, quota):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    count, why = available_cpus(tmp_path)
    assert count == (64 if quota is None else quota)
    assert why == ("CPU affinity" if quota is None else "control group quota")


def test_small_work_takes_one_thread():
    assert resolve_n_threads(None, 1000.0) == 1
    assert resolve_n_threads(1, 1e12) == 1
    assert resolve_n_threads(5, 1000.0) == -5
    assert resolve_n_threads(10**6, 1000.0) >= -256


@pytest.mark.parametrize(
    ("wrong", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError), (True, TypeError)]
)
def test_wrong_n_threads_is_an_error(wrong, error):
    with pytest.raises(error, match="n_threads must be an integer >= 1"):
        classifier(wrong)


def test_omp_num_threads_limits_the_default():
    out = run_python(
        "import cymlp, json; print(json.dumps(cymlp.show_config()))", OMP_NUM_THREADS="1", CYMLP_ISA="baseline"
    )
    config = json.loads(out)
    assert config["threads"] == 1
    assert config["instruction_set"] == "baseline"


def test_other_libraries_keep_their_number_of_threads():
    before = _engine.max_threads()
    X, y = classifier_data()
    classifier(7).train(X, y, epochs=1)
    assert _engine.max_threads() == before


def test_other_python_threads_take_turns_with_training():
    X, y = classifier_data(2000)
    network, stop, seen = classifier(2), threading.Event(), []

    def use():
        while not stop.is_set():
            seen.append((network.predict(X).sum(axis=1), network.gradients(X, y)[0]))

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    network.train(X, y, epochs=300, batch_size=200)
    stop.set()
    for thread in threads:
        thread.join()
    assert len(seen) >= 3
    for totals, _ in seen:
        assert_close(totals, np.ones(2000), 3)
    assert np.isfinite([loss for _, loss in seen]).all()
    alone = classifier(1)
    alone.train(X, y, epochs=300, batch_size=200)
    assert alone.parameters.tobytes() == network.parameters.tobytes()


LIMITED_MEMORY = """
    import hashlib, resource
    from pathlib import Path
    import numpy as np
    import cymlp

    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((500, 20)).astype(np.float32), rng.integers(0, 3, 500)
    network = cymlp.MLP((20, 100, 3), "relu", "softmax", dtype=np.float32, n_threads={threads}, random_state=0)
    if {spare} is not None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + {spare}, resource.getrlimit(resource.RLIMIT_AS)[1]))
    network.train(X, y, epochs=3)
    network.forward(X)
    print(hashlib.sha256(network.predict(X).tobytes() + network.gradients(X, y)[1].flat.tobytes()).hexdigest())
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="this system does not tell the size of a process")
@pytest.mark.parametrize("spare", [2**30, 2**24], ids=["1 GiB", "16 MiB: less than the stacks of three threads"])
def test_where_threads_cannot_be_started_there_are_fewer(spare, n_threads):
    pytest.importorskip("resource", reason="this system has no limits of resources")
    unlimited = run_python(LIMITED_MEMORY.format(spare=None, threads=1))
    assert run_python(LIMITED_MEMORY.format(spare=spare, threads=n_threads)) == unlimited


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timers")
def test_a_signal_handler_that_uses_the_network_is_an_error_and_no_deadlock():
    X, y = classifier_data(4000)
    network = classifier(1)

    def handler(*_):
        network.predict(X)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
        with pytest.raises(RuntimeError, match="a signal handler cannot use it"):
            network.train(X, y, epochs=10_000_000, batch_size=4000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ---- Environment and import ----


def test_isa_can_be_capped_by_the_environment():
    code = "import cymlp; print(cymlp.show_config()['instruction_set'])"
    for name in _engine.available_isas():
        assert run_python(code, CYMLP_ISA=name).strip() == name
    assert run_python(code, CYMLP_ISA="avx512").strip() == _engine.available_isas()[-1]


def test_an_unknown_isa_in_the_environment_is_an_error():
    done = subprocess.run(
        [sys.executable, "-c", "import cymlp; cymlp.show_config()"],
        env={**os.environ, "CYMLP_ISA": "sse9"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "CYMLP_ISA must be one of baseline, avx2, avx512; got 'sse9'" in done.stderr


def test_import_brings_nothing_heavy():
    out = run_python("import sys, cymlp; print(*sorted({name.partition('.')[0] for name in sys.modules}))")
    assert not set(out.split()) & {"scipy", "sklearn", "pandas", "matplotlib", "typer", "rich", "safetensors", "joblib"}


def test_import_brings_nothing_of_training():
    """Somebody who predicts need not wait for it; all of it is there when it is asked for."""
    later = ("callbacks", "checkpoints", "estimators", "persistence", "presets", "rates", "schedules", "training")
    code = "import sys, cymlp; print(*(name for name in sys.modules if name.startswith('cymlp.')))"
    assert not set(run_python(code).split()) & {f"cymlp.{name}" for name in later}
    for name in cymlp.__all__:
        assert getattr(cymlp, name) is not None


def test_show_config():
    config = cymlp.show_config()
    assert config["version"] == cymlp.__version__
    assert config["instruction_set"] in config["instruction_sets"]
    assert config["threads"] >= 1
    assert config["threads_because"]
    assert config["numpy"] == np.__version__
