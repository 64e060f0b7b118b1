"""What users are promised about the process around a network: floating point mode, forks, Ctrl-C, threads, imports."""

import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

import cymlp
from cymlp import _engine
from cymlp.engine import available_cpus, resolve_n_threads


def run_python(code, **environment):
    """Run code in a process of its own and return what it printed; its failure is the test's."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _data(rows=64, columns=20, classes=3):
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, columns)).astype(np.float32), rng.integers(0, classes, rows)


def _network(n_threads=2, sizes=(20, 100, 3)):
    return cymlp.MLP(sizes, output_activation="softmax", dtype=np.float32, n_threads=n_threads, random_state=0)


# ---- Floating point mode ----


def _subnormals_survive():
    smallest = np.array([np.finfo(np.float32).tiny], np.float32)
    return bool(smallest[0] / np.float32(4) > 0) and bool((smallest * np.float32(0.25))[0] > 0)


def test_import_leaves_the_floating_point_mode_alone():
    out = run_python(
        """
        import numpy as np
        import cymlp
        tiny = np.array([np.finfo(np.float32).tiny], np.float32)
        print((tiny * np.float32(0.25))[0] > 0, 5e-324 * 1.0 > 0)
        """
    )
    assert out.split() == ["True", "True"]


@pytest.mark.parametrize("n_threads", [1, 2])
def test_training_leaves_the_floating_point_mode_alone(n_threads):
    X, y = _data()
    network = _network(n_threads)
    network.train(X, y, epochs=2)
    network.predict(X)
    network.gradients(X, y)
    assert _subnormals_survive()


def test_an_exception_in_training_leaves_the_floating_point_mode_alone():
    X, y = _data()

    def stop(event):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        _network().train(X, y, epochs=2, callback=stop)
    assert _subnormals_survive()
    with pytest.raises(cymlp.DivergenceError):
        _network().train(X * np.float32(1e18), y, epochs=20, optimizer="sgd", learning_rate=1e10)
    assert _subnormals_survive()


def test_subnormal_numbers_inside_a_pass_are_flushed(isa):
    """What the mode is for: inputs below the smallest normal number count as zero, in every thread."""
    tiny = np.full((300, 4), np.finfo(np.float32).tiny / 2, np.float32)
    network = cymlp.MLP.from_weights([np.full((4, 2), 1e30, np.float32)], [np.zeros(2, np.float32)], n_threads=2)
    assert not network.predict(tiny).any()


# ---- Forks ----


def _train_in_child(queue):
    X, y = _data()
    network = _network()
    network.train(X, y, epochs=2)
    queue.put(network.parameters.tobytes())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_forked_after_training_can_train():
    X, y = _data()
    network = _network()
    network.train(X, y, epochs=2)
    context = multiprocessing.get_context("fork")
    for _ in range(3):
        queue = context.SimpleQueue()
        child = context.Process(target=_train_in_child, args=(queue,))
        child.start()
        child.join(30)
        if child.is_alive():
            child.kill()
            pytest.fail("the child hangs")
        assert child.exitcode == 0
        assert queue.get() == network.parameters.tobytes()
        again = _network()
        again.train(X, y, epochs=2)
        assert again.parameters.tobytes() == network.parameters.tobytes()


# ---- Ctrl-C ----


def _interrupt_latency(network, X, y, after, **arguments):
    """Seconds from the signal to the KeyboardInterrupt in the main thread."""
    sent = []

    def send():
        time.sleep(after)
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=send)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        network.train(X, y, epochs=10_000_000, **arguments)
    seconds = time.perf_counter() - sent[0]
    thread.join()
    return seconds


@pytest.mark.parametrize(
    ("sizes", "rows", "batch"),
    [
        pytest.param((20, 100, 3), 2000, 200, id="small steps"),
        pytest.param((512, 1500, 1500, 3), 1024, 1024, id="steps of a second"),
    ],
)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_an_interrupt_is_raised_within_50_ms(sizes, rows, batch, n_threads):
    X, y = _data(rows, sizes[0])
    network = _network(n_threads, sizes)
    latencies = [_interrupt_latency(network, X, y, 0.2, batch_size=batch) for _ in range(5)]
    # The median: a shared machine can take the core away from a test for longer than that.
    assert statistics.median(latencies) <= 0.05


def test_an_interrupted_fit_keeps_the_last_whole_epoch():
    X, y = _data(4000)
    network = _network(1)
    _interrupt_latency(network, X, y, 0.3, batch_size=7)
    epochs = len(network.history_.loss)
    assert epochs > 0
    again = _network(1)
    again.train(X, y, epochs=epochs, batch_size=7)
    assert again.parameters.tobytes() == network.parameters.tobytes()
    network.train(X, y, epochs=1)


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
        _network(wrong)


def test_omp_num_threads_limits_the_default():
    out = run_python(
        "import cymlp, json; print(json.dumps(cymlp.show_config()))", OMP_NUM_THREADS="1", CYMLP_ISA="baseline"
    )
    config = json.loads(out)
    assert config["threads"] == 1
    assert config["instruction_set"] == "baseline"


def test_other_libraries_keep_their_number_of_threads():
    before = _engine.max_threads()
    X, y = _data()
    _network(7).train(X, y, epochs=1)
    assert _engine.max_threads() == before


def test_other_python_threads_take_turns_with_training():
    X, y = _data(2000)
    network, stop, seen = _network(2), threading.Event(), []

    def use():
        while not stop.is_set():
            seen.append((network.predict(X).sum(), network.gradients(X, y)[0]))

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    network.train(X, y, epochs=300, batch_size=200)
    stop.set()
    for thread in threads:
        thread.join()
    assert len(seen) >= 3
    np.testing.assert_allclose([total for total, _ in seen], 2000, rtol=1e-5)
    assert np.isfinite([loss for _, loss in seen]).all()
    alone = _network(1)
    alone.train(X, y, epochs=300, batch_size=200)
    assert alone.parameters.tobytes() == network.parameters.tobytes()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timers")
def test_a_signal_handler_that_uses_the_network_is_an_error_and_no_deadlock():
    X, y = _data(4000)
    network = _network(1)

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


def test_show_config():
    config = cymlp.show_config()
    assert config["version"] == cymlp.__version__
    assert config["instruction_set"] in config["instruction_sets"]
    assert config["threads"] >= 1
    assert config["threads_because"]
    assert config["numpy"] == np.__version__
