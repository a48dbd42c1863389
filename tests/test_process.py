"""fusedrnn as a guest in a process: forks, signals, threads, the floating-point state, memory, the environment.

Tests that may hang or kill a process run in a process of their own, with a time limit that only a hang reaches.
"""

import ctypes
import ctypes.util
import os
import platform
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import fusedrnn
from fusedrnn import _core, functional
from fusedrnn.parameters import CLASSES
from problems import assert_same_bits, make_problem

HANG = 60  # seconds: nothing here takes a tenth of this
FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
PARALLEL = pytest.mark.skipif(_core.build_info()["openmp"].startswith("none"), reason="built without OpenMP")
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def run(script: str, *, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a new Python process, in which warnings are errors, and return its output."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=HANG,
        env=os.environ | environment,
    )
    assert not check or done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
    return done


# ---- fork

FORK = """
import multiprocessing, os, sys, threading, time, warnings
import numpy as np, fusedrnn
warnings.filterwarnings("ignore", category=DeprecationWarning)  # newer Pythons: fork in a process with threads
fusedrnn.set_num_threads(2)
rng = np.random.default_rng(0)
layer = fusedrnn.{kind}(200, 200, 2, bidirectional=True, rng=0)
x = rng.standard_normal((20, 32, 200), np.float32)

def work():
    y, state, tape = layer.forward(x)
    grads = tape.backward(y)
    return b"".join(np.ascontiguousarray(a).tobytes() for a in (y, grads.x, *grads.params.values()))

def in_child(function):
    child = os.fork()
    if child == 0:
        os._exit(0 if function() else 1)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0

expected = work()
def same():
    return work() == expected
"""


@FORKS
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_a_forked_child_works_after_parallel_use(kind):
    run(FORK.format(kind=kind) + "for _ in range(5):\n    assert in_child(same)\nassert same()")


@FORKS
def test_children_of_children_and_threads_of_children_work(tmp_path):
    run(
        FORK.format(kind="GRU")
        + """
def thread_works():
    results = []
    threads = [threading.Thread(target=lambda: results.append(same())) for _ in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return results == [True] * 3
assert in_child(lambda: same() and in_child(lambda: same() and in_child(thread_works)) and same())
assert in_child(thread_works)
"""
    )


@FORKS
def test_a_child_forked_while_another_thread_computes_works():
    run(
        FORK.format(kind="LSTM")
        + """
stop = False
def keep_busy():
    while not stop: work()
thread = threading.Thread(target=keep_busy)
thread.start()
for _ in range(8):
    assert in_child(same)
stop = True
thread.join()
"""
    )


@FORKS
def test_multiprocessing_pool_by_fork(tmp_path):
    run(
        FORK.format(kind="LSTM")
        + """
def task(_): return same()
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(task, range(6)) == [True] * 6
"""
    )


@FORKS
def test_a_child_forked_before_any_use_works():
    run(
        FORK.format(kind="LSTM").replace("expected = work()", "child_first = in_child(work)\nexpected = work()")
        + "assert child_first and in_child(same)"
    )


# ---- signals

# The slowest kernels, so that a call takes long without being large; enough steps for a few seconds.
LONG_CALL = """
import os, signal, sys, threading, time
import numpy as np, fusedrnn
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that started the tests in the background ignores it
isa = fusedrnn.available_isas()[-1]
fusedrnn.use_isa(isa).__enter__()
fusedrnn.set_num_threads({threads})
layer = fusedrnn.LSTM(300, 500, dtype=np.float64, rng=0)
rng = np.random.default_rng(0)
small = rng.standard_normal((10, 16, 300))
y_small, _, tape_small = layer.forward(small)
grads_small = tape_small.backward(y_small)

def seconds_of(call):
    start = time.perf_counter(); call(); return time.perf_counter() - start
a_step = min(seconds_of(lambda: layer(small)) for _ in range(3)) / 10
x = rng.standard_normal((min(int({seconds} / a_step) + 10, 5000), 16, 300))

def works():
    y, _, tape = layer.forward(small)
    grads = tape.backward(y)
    return (y == y_small).all() and all((grads.params[name] == grads_small.params[name]).all() for name in grads.params)
"""

INTERRUPTED = """
{prepare}
started, arrived = threading.Event(), 0.0
def interrupt():
    global arrived
    started.wait()
    time.sleep(0.3)
    arrived = time.perf_counter()
    os.kill(os.getpid(), signal.SIGINT)
thread = threading.Thread(target=interrupt)
thread.start()
started.set()
begin = time.perf_counter()
try:
    {call}
except KeyboardInterrupt:
    print(time.perf_counter() - arrived)
else:
    sys.exit(f"not interrupted; the call took {{time.perf_counter() - begin}} s")
thread.join()
assert works()
{afterwards}
"""

CALLS = {
    "inference": ("", "layer(x)", ""),
    "training": ("", "layer.forward(x)", ""),
    "frozen": ("frozen = layer.freeze()", "frozen(x)", "assert (frozen(small)[0] == y_small).all()"),
    "strided": ("x = np.asfortranarray(x)", "layer(x)", ""),
    # On two threads, one layer each, the upper layer a few steps behind.
    "stacked": (
        "stack = fusedrnn.LSTM(100, 100, 2, dtype=np.float64, rng=0); z = rng.standard_normal((80000, 1, 100))",
        "stack(z)",
        "",
    ),
    # If the signal arrives while a tape is in use, the tape can be used again.
    "backward": (
        "y, _, tape = layer.forward(x[: len(x) // 2])",
        "tape.backward(y)",
        "y, _, tape = layer.forward(small); assert (tape.backward(y).x == grads_small.x).all()",
    ),
}


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself SIGINT there")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_stops_a_long_call(call, threads, record_property):
    prepare, code, afterwards = CALLS[call]
    script = LONG_CALL.format(threads=threads, seconds=3) + INTERRUPTED.format(
        prepare=prepare, call=code, afterwards=afterwards
    )
    latency = float(run(script).stdout)
    record_property("latency", latency)
    print(f"{call}, {threads} threads: {1000 * latency:.0f} ms")
    # 0.1 s is promised on an idle machine; the rest is for a busy one. Without checks for signals it would be seconds.
    assert latency < 1


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself SIGINT there")
def test_ctrl_c_stops_a_long_call_that_one_thread_takes_for_several():
    """The rows are split over two threads; the only thread that OpenMP grants checks for signals in both halves."""
    prepare, code, afterwards = CALLS["frozen"]
    script = LONG_CALL.format(threads=2, seconds=5) + INTERRUPTED.format(
        prepare=prepare, call=code, afterwards=afterwards
    )
    assert float(run(script, OMP_THREAD_LIMIT="1").stdout) < 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs interval timers")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_handler_that_does_not_raise_runs_during_the_call(threads):
    run(
        LONG_CALL.format(threads=threads, seconds=1)
        + """
expected = layer(x)[0]
seen = []
running = False
signal.signal(signal.SIGALRM, lambda *_: seen.append(running))
signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
running = True
y, _ = layer(x)
running = False
signal.setitimer(signal.ITIMER_REAL, 0)
assert sum(seen) >= 2, seen  # once may be just before the call returns
assert (y == expected).all()
"""
    )


def test_a_signal_during_a_call_from_another_thread_goes_to_the_main_thread():
    run(
        LONG_CALL.format(threads=2, seconds=1)
        + """
results = []
thread = threading.Thread(target=lambda: results.append(layer(x)[0]))
thread.start()
try:
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
except KeyboardInterrupt:
    pass
thread.join()
assert (results[0] == layer(x)[0]).all()
"""
    )


# ---- the floating-point state


class FloatingPoint:
    """The floating-point state of this thread, as the C library reports it."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("m")
        if name is None or platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc":
            pytest.skip("reads and writes the floating-point state of x86-64 through glibc")
        self.libm = ctypes.CDLL(name)

    ROUNDINGS: ClassVar[dict[str, int]] = {"downward": 0x400, "upward": 0x800, "toward zero": 0xC00}
    FLUSH = 0x8040  # flushing of results and of operands

    def mxcsr(self) -> int:
        environment = (ctypes.c_uint32 * 8)()
        assert self.libm.fegetenv(environment) == 0
        return int(environment[7]) & ~0x3F  # without the sticky flags

    def set_mxcsr(self, value: int) -> None:
        environment = (ctypes.c_uint32 * 8)()
        assert self.libm.fegetenv(environment) == 0
        environment[7] = value
        assert self.libm.fesetenv(environment) == 0

    @contextmanager
    def changed(self, how: str) -> Iterator[int]:
        """Sets the state within a block."""
        before = self.mxcsr()
        try:
            if how == "flush":
                self.set_mxcsr(before | self.FLUSH)
            else:
                assert self.libm.fesetround(self.ROUNDINGS[how]) == 0
            yield self.mxcsr()
        finally:
            self.libm.fesetround(0)
            self.set_mxcsr(before)


@DTYPES
@pytest.mark.parametrize("how", [*FloatingPoint.ROUNDINGS, "flush"])
def test_the_callers_floating_point_state_is_kept_and_does_not_matter(cell, isa, dtype, how, rng):
    state = FloatingPoint()
    problem = make_problem(rng, cell, dtype, T=5, B=20, I=70, H=130)
    with fusedrnn.threads(1):
        expected = problem.run(functional)
    for threads in 1, 2:
        with fusedrnn.threads(threads):
            with state.changed(how) as changed:
                actual = problem.run(functional)
                after = state.mxcsr()
            assert after == changed
            assert_same_bits(actual, expected, f"{how}, {threads} threads")
            assert_same_bits(problem.run(functional), expected, f"after {how}, {threads} threads")


@PARALLEL
@pytest.mark.parametrize("how", [*FloatingPoint.ROUNDINGS, "flush"])
def test_threads_started_in_another_floating_point_state_do_not_stay_in_it(how):
    FloatingPoint()  # skips the test if the state cannot be set
    run(
        f"""
        import sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        import numpy as np, fusedrnn
        from test_process import FloatingPoint
        layer = fusedrnn.RNN(200, 400, rng=0)
        x = np.random.default_rng(0).standard_normal((5, 16, 200), np.float32)
        with fusedrnn.threads(1):
            expected = layer(x)[0]
        with fusedrnn.threads(2):
            with FloatingPoint().changed({how!r}):
                layer(x)
            assert (layer(x)[0] == expected).all()
        """
    )


def test_a_stream_keeps_the_floating_point_state(isa, rng):
    state = FloatingPoint()
    frozen = fusedrnn.LSTM(30, 40, 2, rng=0).freeze()
    x = rng.standard_normal((3, 30)).astype(np.float32)
    expected = frozen.stream(3).step(x)
    for how in *FloatingPoint.ROUNDINGS, "flush":
        stream = frozen.stream(3)
        with state.changed(how) as changed:
            y = stream.step(x)
            after = state.mxcsr()
        assert after == changed
        assert_same_bits(y, expected, how)


@DTYPES
def test_denormals_are_flushed_in_kernels_alone(isa, dtype):
    tiny = np.finfo(dtype).tiny
    weights = [np.eye(20, dtype=dtype), np.zeros((20, 20), dtype)]
    x = np.full((3, 2, 20), tiny / 4, dtype)
    for nonlinearity in "tanh", "relu":
        y, _, tape = functional.rnn_forward(x, None, *weights, nonlinearity=nonlinearity)
        assert not y.any()
        grads = functional.rnn_backward(tape, x)
        assert not any(grad.any() for grad in grads if grad is not None)
    halves = np.array([tiny], dtype) * np.array(0.5, dtype)
    assert halves.any(), "NumPy flushes, too: the state was not restored"


# ---- threads


@pytest.mark.parametrize("threads", [1, 2])
def test_other_python_threads_run_during_a_call(threads):
    run(
        LONG_CALL.format(threads=threads, seconds=0.3)
        + """
inside, finished, ticks = False, False, 0
def tick():
    global ticks
    while not finished:
        time.sleep(0.001)
        ticks += inside
thread = threading.Thread(target=tick)
thread.start()
y, _, tape = layer.forward(x)
for run in (lambda: layer(x)), (lambda: layer.forward(x)), (lambda: tape.backward(y)):
    ticks = 0
    inside = True
    run()
    inside = False
    assert ticks >= 10, ticks  # with the GIL held it would be one or two
finished = True
thread.join()
"""
    )


@DTYPES
def test_one_layer_in_many_threads(cell, isa, dtype, rng):
    problem = make_problem(rng, cell, dtype, T=6, B=9, I=30, H=50)
    name, options = problem.family
    of_name = {cls.__name__.lower(): cls for cls in CLASSES.values()}
    inputs = problem.x.shape[2]  # as many as units where the cell takes x itself as a gate
    layer = of_name[name](inputs, 50, 2, bidirectional=True, dtype=dtype, rng=0, **options)
    frozen = layer.freeze()

    def everything(k: int) -> Any:
        x, lengths = problem.x * k, np.arange(9) % 7
        y, state, tape = layer.forward(x, lengths=lengths)
        grads = tape.backward(y, state)
        with fusedrnn.threads(1 + k % 2):
            return [frozen(x), y, state, grads.x, grads.state, grads.params]

    expected = [everything(k) for k in range(8)]
    actual: list[Any] = [None] * 8
    together = threading.Barrier(8)

    def work(k: int) -> None:
        together.wait()
        for _ in range(5):
            actual[k] = everything(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_same_bits(actual, expected, "threads")


def test_threads_step_streams_of_their_own_beside_calls_of_one_frozen_layer():
    """As in a server: one model, one stream per connection, and whole calls at the same time."""
    frozen = fusedrnn.LSTM(12, 64, num_layers=2, rng=0).freeze()
    x = np.random.default_rng(0).standard_normal((8, 50, 3, 12)).astype(np.float32)
    expected = [frozen(part) for part in x]
    wrong: list[int] = []
    together = threading.Barrier(8)

    def work(k: int) -> None:
        stream, y = frozen.stream(batch_size=3), np.empty((50, 3, 64), np.float32)
        together.wait()
        for turn in range(6):
            for t in range(50):
                stream.step(x[k, t], out=y[t])
            whole = frozen(x[k])
            try:
                assert_same_bits([y, stream.state], list(expected[k]), f"thread {k}, turn {turn}")
                assert_same_bits(whole, expected[k], f"thread {k}, turn {turn}")
            except AssertionError:
                wrong.append(k)
            stream.reset()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_thread_limits_are_local_to_a_thread():
    before = fusedrnn.get_num_threads()
    seen = []
    with fusedrnn.threads(before + 3):
        assert fusedrnn.get_num_threads() == before + 3
        thread = threading.Thread(target=lambda: seen.append(fusedrnn.get_num_threads()))
        thread.start()
        thread.join()
        with fusedrnn.threads(1):
            assert fusedrnn.get_num_threads() == 1
        assert fusedrnn.get_num_threads() == before + 3
    assert seen == [before]
    assert fusedrnn.get_num_threads() == before


def threads_used(**environment: str) -> int:
    return int(run("import fusedrnn; print(fusedrnn.get_num_threads())", **environment).stdout)


@PARALLEL
def test_omp_num_threads_is_honoured():
    assert threads_used(OMP_NUM_THREADS="1") == 1


@PARALLEL
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks")
def test_affinity_is_honoured():
    cores = os.sched_getaffinity(0)
    script = """
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        import fusedrnn
        print(fusedrnn.get_num_threads())
    """
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    assert int(run(script, **environment).stdout) == 1
    if "OMP_NUM_THREADS" not in os.environ:
        assert threads_used() == len(cores)


@PARALLEL
def test_threadpoolctl_is_honoured():
    pytest.importorskip("threadpoolctl", reason='threadpoolctl is not installed: pip install "fusedrnn[test]"')
    run(
        """
        import fusedrnn, threadpoolctl
        before = fusedrnn.get_num_threads()
        with threadpoolctl.threadpool_limits(1):
            assert fusedrnn.get_num_threads() == 1
        assert fusedrnn.get_num_threads() == before
        with threadpoolctl.threadpool_limits(1, user_api="openmp"):
            assert fusedrnn.get_num_threads() == 1
            with fusedrnn.threads(2):
                assert fusedrnn.get_num_threads() == 2
        """
    )


@pytest.mark.parametrize("threads", ["1", "2"])
def test_openmp_with_fewer_threads_than_asked_for(threads):
    """OMP_THREAD_LIMIT makes a team smaller: its threads must not wait for threads that never start."""
    run(
        """
        import numpy as np, fusedrnn
        layer = fusedrnn.LSTM(200, 200, rng=0)
        x = np.random.default_rng(0).standard_normal((10, 32, 200), np.float32)
        results = []
        for n in 1, 2, 5:
            with fusedrnn.threads(n):
                y, _, tape = layer.forward(x)
                results.append((y, tape.backward(y).params["weight_hh_l0"]))
        assert all((a == b).all() for result in results for a, b in zip(result, results[0]))
        """,
        OMP_THREAD_LIMIT=threads,
        OMP_DYNAMIC="true",
    )


# ---- memory


def resident() -> int:
    """Bytes of physical memory in use, without the memory that our pool or the C library keeps for reuse."""
    _core.trim_pool()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@LINUX
def test_memory_does_not_grow(rng):
    def one_call() -> None:
        T, B, I, H = (int(n) for n in rng.integers(1, 40, 4))
        kind = [fusedrnn.RNN, fusedrnn.GRU, fusedrnn.LSTM][int(rng.integers(3))]
        layer = kind(I, H, int(rng.integers(1, 3)), bidirectional=bool(rng.integers(2)), rng=rng)
        x = rng.standard_normal((T, B, I)).astype(np.float32)
        lengths = rng.integers(0, T + 1, B) if rng.integers(2) else None
        y, state, tape = layer.forward(x, lengths=lengths)
        tape.backward(y, state)
        layer.freeze()(x, state)
        if not layer.bidirectional:
            layer.freeze().stream(B).step(x[0])
        for wrong in (
            lambda: layer(x[..., :-1]),
            lambda: layer(x, lengths=[T + 1] * B),
            lambda: tape.backward(y[:, :-1]),
            lambda: layer.freeze()(x, out=y[:-1]),
            lambda: layer(np.full((T, B), I)),
        ):
            with pytest.raises((ValueError, IndexError)):
                wrong()

    for _ in range(150):
        one_call()
    before = resident()
    for _ in range(600):
        one_call()
    grown = resident() - before
    assert grown < 2 << 20, f"{grown / 2**20:.1f} MiB more after 600 calls"


@LINUX
def test_memory_of_large_results_is_given_back():
    layer = fusedrnn.LSTM(64, 64)
    x = np.zeros((2000, 64, 64), np.float32)
    layer.forward(x)
    before = resident()
    for _ in range(5):
        y, _, tape = layer.forward(x)
        tape.backward(y)
    del y, tape
    assert resident() - before < 16 << 20


@LINUX
def test_sizes_no_longer_used_make_room_for_those_that_are():
    """A pool full of other sizes must not force fresh pages in every call."""
    faults = run("""
        import resource
        import numpy as np
        from fusedrnn import _core
        for size in range(64):
            _core.empty(((8 + size) << 18,), np.dtype(np.float32))
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            _core.empty((100 << 18,), np.dtype(np.float32))[::1024] = 1
            print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """).stdout.split()
    assert int(faults[0]) >= 50 > int(faults[-1])  # 100 MiB in pages of 2 MiB, at least


def test_absurd_sizes_are_errors(rng):
    for I, H in (2**62, 1), (1, 2**62), (2**31, 2**31), (2**40, 2**10), (1, 2**24):
        for kind in fusedrnn.RNN, fusedrnn.GRU, fusedrnn.LSTM:
            with pytest.raises((MemoryError, ValueError)):
                kind(I, H, num_layers=2)
    layer = fusedrnn.LSTM(1, 3)
    one = np.zeros((1, 1, 1), np.float32)
    for T, B in (2**62, 1), (1, 2**62), (2**40, 2**20), (2**44, 1), (1, 2**44):
        x = np.broadcast_to(one[0, 0, 0], (T, B, 1)) if T * B < 2**61 else None
        if x is None:
            with pytest.raises(ValueError):  # NumPy has no such array
                np.broadcast_to(one[0, 0, 0], (T, B, 1))
            continue
        for call in layer, layer.forward, layer.freeze():
            with pytest.raises((MemoryError, ValueError)):
                call(x)
    with pytest.raises((MemoryError, ValueError)):
        layer.freeze().stream(2**60)
    for shape in (2**62, 2**62), (2**63 - 1,), (-1,):
        with pytest.raises((MemoryError, ValueError)):
            _core.empty(shape, np.float64)
    x = rng.standard_normal((3, 2, 1)).astype(np.float32)
    y, _ = layer(x)
    assert np.isfinite(y).all()


@LINUX
def test_out_of_memory_is_an_error_and_leaves_everything_usable():
    run(
        """
        import resource
        import numpy as np, fusedrnn
        with fusedrnn.threads(1):
            layer = fusedrnn.LSTM(64, 256, rng=0)
            small = np.random.default_rng(0).standard_normal((5, 3, 64)).astype(np.float32)
            y, _, tape = layer.forward(small)
            expected = tape.backward(y).x
            large = np.broadcast_to(small[0, 0], (5000, 64, 64))
            with open("/proc/self/statm") as statm:
                size = int(statm.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + (200 << 20), resource.RLIM_INFINITY))
            failures = 0
            for _ in range(3):
                try:
                    layer.forward(large)  # needs 2 GiB
                except MemoryError:
                    failures += 1
                y, _, tape = layer.forward(small)
                assert (tape.backward(y).x == expected).all()
            assert failures == 3, failures
        """
    )


# ---- the instruction set by the environment


def test_fusedrnn_isa_is_honoured(isa):
    done = run("import fusedrnn; print(fusedrnn.current_isa())", FUSEDRNN_ISA=isa)
    assert done.stdout.strip() == isa
    assert run("import fusedrnn; print(fusedrnn.current_isa())", FUSEDRNN_ISA=isa.upper()).stdout.strip() == isa


def test_empty_fusedrnn_isa_is_no_choice():
    done = run("import fusedrnn; print(fusedrnn.current_isa())", FUSEDRNN_ISA="")
    assert done.stdout.strip() == fusedrnn.available_isas()[0]


def test_unknown_fusedrnn_isa_is_an_import_error_that_names_the_choices():
    done = run("import fusedrnn", check=False, FUSEDRNN_ISA="mmx")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    choices = " ".join(f"'{isa}'" for isa in fusedrnn.available_isas())
    assert last == f"ImportError: FUSEDRNN_ISA is 'mmx'; this build and CPU offer {choices}"


L2 = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")


@pytest.mark.skipif(not L2.exists(), reason="this system does not say how large L2 is")
def test_the_size_of_l2_is_the_systems():
    said = int(L2.read_text().strip().removesuffix("K")) * 1024
    assert int(_core.build_info()["l2_bytes"]) == min(max(said, 128 * 1024), 4 * 1024**2)


# ---- sub-interpreters


@pytest.mark.parametrize("before", ["pass", "import numpy"])
def test_a_sub_interpreter_is_refused_at_once(before):
    """Otherwise the compiled module would wait for ever for a GIL that its own thread holds."""
    module = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    pytest.importorskip(module, reason="this Python is built without sub-interpreters")
    done = run(
        f"""
        import {module} as interpreters
        {before}
        code = (
            "try: import fusedrnn\\n"
            "except ImportError as error: print(error, flush=True)"
        )
        interpreters.run_string(interpreters.create(), code)
        import fusedrnn
        print(fusedrnn.__version__)
        """
    )
    refusal, version = done.stdout.splitlines()
    assert refusal.startswith("fusedrnn: imported in a sub-interpreter; expected the main interpreter")
    assert version == fusedrnn.__version__
