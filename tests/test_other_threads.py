"""What happens outside a call while it runs: other threads write its arrays, the number of threads changes, threads
cannot start, the interpreter ends, an object is used in the middle of its own call.

Tests that may end a process run in a process of their own.
"""

import os
import subprocess
import sys
import textwrap
import threading
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

import fusedrnn
from fusedrnn import _core
from test_process import LINUX, PARALLEL, run

# ---- arrays that other threads write


def forward(tokens: Any, training: bool, schedule: _core.Schedule | None = None) -> None:
    """Calls the kernels directly, without Python's checks: the situation of an array that changes after the checks."""
    T, B = tokens.shape
    weights = _core.usual_weights("gru_after", np.zeros((24, 5)), np.zeros((24, 8)), None, None, training)
    schedule = schedule or _core.Schedule(T, B)
    _core.forward(weights, tokens, None, np.zeros((T, B, 8)), (np.zeros((B, 8)),), schedule, False, training)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("wrong", [-1, 5, 2**40, -(2**63)])
def test_the_kernels_check_the_tokens_that_they_use(wrong, training):
    tokens = np.zeros((7, 3), np.int64)
    tokens[4, 1] = wrong
    with pytest.raises(IndexError, match=rf"tokens\[4\]\[1\] is {wrong}; expected 0 <= token < input_size = 5"):
        forward(tokens, training)
    lengths = np.array([7, 4, 7])
    forward(tokens, training, _core.Schedule(7, 3, lengths))  # no step reads the invalid token
    mask = np.ones((3, 7), np.bool_)
    mask[1, 4] = False
    forward(tokens, training, _core.Schedule(7, 3, None, mask))


REFILL = """
    import sys, threading
    import numpy as np, fusedrnn
    layer = fusedrnn.{kind}(50, 64, rng=0)
    frozen = layer.freeze()
    big = fusedrnn.{kind}(50, 400, rng=0).freeze().stream(64)  # its steps let go of the GIL
    tokens, step = np.zeros((500, 64), np.int64), np.zeros(64, np.int64)
    lengths = np.full(64, 500)
    stop = False
    def refill():
        while not stop:
            tokens[-100:], step[-9:], lengths[:] = 2**40, 2**40, 2**40
            tokens[...], step[...], lengths[:] = 3, 3, 500
    thread = threading.Thread(target=refill)
    thread.start()
    def train():
        y, _, tape = layer.forward(tokens)
        tape.backward(y)
    calls = {{
        "call": lambda: frozen(tokens), "train": train, "step": lambda: big.step(step),
        "lengths": lambda: layer(np.ones((500, 64, 50), np.float32), lengths=lengths),
        "functional": lambda: fusedrnn.functional.{function}_forward(tokens, *layer.params.values()),
    }}
    for call in calls.values():
        for _ in range(40):
            try: call()
            except (IndexError, ValueError): pass
    stop = True
    thread.join()
"""


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_arrays_refilled_by_another_thread_end_nothing(kind):
    run(REFILL.format(kind=kind, function=kind.lower()))


def test_flags_that_are_no_bools_count_as_true(rng):
    x = rng.standard_normal((6, 4, 3))
    mask = rng.random((6, 4)) < 0.6
    odd = np.where(mask, rng.integers(1, 256, mask.shape), 0).astype(np.uint8).view(np.bool_)
    layer = fusedrnn.GRU(3, 5, dtype="float64", recurrent_dropout=0.0, zoneout=0.5, rng=0)
    for name in ("mask", "reset"):
        assert np.array_equal(layer(x, **{name: mask})[0], layer(x, **{name: odd})[0])
    keep = rng.random((1, 6, 4, 5)) < 0.5
    odd_keep = np.where(keep, 7, 0).astype(np.uint8).view(np.bool_)
    tape = layer.forward(x)[2]
    (name,) = tape.masks
    shape = tape.masks[name].shape
    y_1 = layer.forward(x, masks={name: keep.reshape(shape)})[0]
    y_2 = layer.forward(x, masks={name: odd_keep.reshape(shape)})[0]
    assert np.array_equal(y_1, y_2)
    stream = layer.freeze().stream(4)
    stream.step(x[0])
    stream.reset(np.array([2, 0, 1, 0], np.uint8).view(np.bool_))
    assert [bool(row.any()) for row in stream.state[0]] == [False, True, False, True]


# ---- the number of threads


@LINUX
@PARALLEL
def test_the_number_of_threads_may_change_at_any_time(tmp_path):
    """The number changes between any two queries: a preloaded library answers 1 and 2 in place of OpenMP."""
    source, library = tmp_path / "processors.c", tmp_path / "processors.so"
    source.write_text(
        "static unsigned s = 1;\n"
        "int omp_get_num_procs(void) { s = s * 1103515245u + 12345u; return 1 + ((s >> 16) & 1); }\n"
    )
    subprocess.run(["cc", "-shared", "-fPIC", source, "-o", library], check=True)
    run(
        """
        import numpy as np, fusedrnn
        rng = np.random.default_rng(0)
        layer = fusedrnn.LSTM(512, 128, rng=0)
        two = fusedrnn.GRU(512, 64, 2, bidirectional=True, rng=0)
        x = rng.standard_normal((40, 32, 1024), np.float32)[:, :, ::2]  # features apart: gathered
        for net in (layer, two, layer.freeze()):
            want = net(x.copy())[0]
            for _ in range(100):
                assert np.array_equal(net(x)[0], want)
                if net is not layer: continue
                y, _, tape = net.forward(x)
                assert np.array_equal(y, want)
                tape.backward(y)
        """,
        LD_PRELOAD=str(library),
        MALLOC_CHECK_="3",
        MALLOC_PERTURB_="85",
    )


@LINUX
@PARALLEL
def test_affinity_widened_and_narrowed_during_calls():
    run(
        """
        import os, subprocess, sys
        import numpy as np, fusedrnn
        all_of_them = sorted(os.sched_getaffinity(0))
        if len(all_of_them) < 2: sys.exit()
        layer = fusedrnn.LSTM(256, 64, rng=0)
        x = np.ones((1, 2048, 512), np.float32)[:, :, ::2]
        want = layer(x.copy())[0]
        program = f"import os\\nwhile os.getppid() == {os.getpid()}:\\n"
        for cpus in (all_of_them[:1], all_of_them):
            program += f"    os.sched_setaffinity({os.getpid()}, {cpus})\\n"
        flipping = subprocess.Popen([sys.executable, "-c", program])
        try:
            for _ in range(100):
                assert np.array_equal(layer.forward(x)[0], want) and np.array_equal(layer(x)[0], want)
        finally:
            flipping.kill()
            flipping.wait()
        """
    )


# ---- threads that cannot start

NO_THREAD = """
    import os, resource, sys, threading
    import numpy as np, fusedrnn
    layer, other = fusedrnn.LSTM(64, 256, rng=0), fusedrnn.GRU(64, 200, 2, bidirectional=True, rng=0)
    x = np.ones((50, 32, 64), np.float32)
    def work():
        results = []
        for net in (layer, other):
            y, _, tape = net.forward(x)
            results += [y, net(x)[0], *tape.backward(y).params.values()]
        return b"".join(a.tobytes() for a in results)
    with fusedrnn.threads(1): want = work()
    before = len(os.listdir("/proc/self/task"))
    {limit}
    with fusedrnn.threads(4):
        assert work() == want and work() == want
    print("started", len(os.listdir("/proc/self/task")) - before)
"""
# Enough memory for the arrays, but not for a stack of OMP_STACKSIZE=1G.
ADDRESS_SPACE = """
    with open("/proc/self/statm") as file: size = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE") + 2**29
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
"""
# A user without other processes, so that the number of threads left is known. Root has no limit.
PROCESSES = """
    if os.geteuid() == 0: os.setresuid(54321, 54321, 54321)
    resource.setrlimit(resource.RLIMIT_NPROC, (before + {more}, before + {more}))
"""


def no_thread(limit: str) -> str:
    return NO_THREAD.format(limit=textwrap.dedent(limit).strip().replace("\n", "\n    "))


@LINUX
@PARALLEL
@pytest.mark.parametrize("limit", [ADDRESS_SPACE, PROCESSES.format(more=0)], ids=["address space", "processes"])
def test_a_call_whose_threads_cannot_start_runs_without_them(limit):
    assert run(no_thread(limit), OMP_STACKSIZE="1G").stdout == "started 0\n"


@LINUX
@PARALLEL
@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="only root may become a user without processes")
def test_calls_use_the_threads_that_can_start():
    assert run(no_thread(PROCESSES.format(more=2))).stdout == "started 2\n"


@LINUX
@PARALLEL
def test_a_stack_that_is_too_large_for_the_system():
    assert run(no_thread(""), OMP_STACKSIZE="1000000G").stdout == "started 0\n"


@LINUX
@PARALLEL
def test_a_forked_child_whose_threads_cannot_start():
    limit = """
    with fusedrnn.threads(4): work()
    child = os.fork()
    if child: sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    run(no_thread(limit + ADDRESS_SPACE), OMP_STACKSIZE="1G")


# ---- the end of the interpreter

ENDING = """
    import sys, threading, time
    import numpy as np, fusedrnn
    layer = fusedrnn.LSTM(64, 128, rng=0)
    frozen, x, dc = layer.freeze(), np.ones((1000, 4, 64), np.float32), np.ones((1, 4, 128), np.float32)
    streams = threading.local()
    def step(x_t):
        if not hasattr(streams, "of_thread"): streams.of_thread = fusedrnn.LSTM(512, 1024, rng=0).freeze().stream(1)
        streams.of_thread.step(x_t)
    x_t, as_list = np.ones((1, 512), np.float32), [[1.0] * 512]
    def forever():
        while True: {call}
    for _ in range(2): threading.Thread(target=forever, daemon=True).start()
    time.sleep({seconds})
    print("bye", flush=True)
"""


@pytest.mark.parametrize(
    "call",
    [
        "layer(x)",
        "frozen(x)",
        "layer.forward(x)[2].backward(dstate=(None, dc))",
        "layer.forward(x, past_end='hold', lengths=[1, 2, 3, 4])[2].backward(np.ones((1000, 4, 128), np.float32))",
        "step(x_t)",
        "step(as_list)",
    ],
)
def test_the_interpreter_ends_while_daemon_threads_compute(call):
    for k in range(4):
        done = run(ENDING.format(call=call, seconds=0.2 + 0.017 * k))
        assert done.stdout == "bye\n"
        assert done.stderr == ""


# ---- objects in the middle of their own call


def test_a_stream_is_made_once():
    """A second __init__, from another thread during a step, would destroy what the step uses."""
    run(
        """
        import threading
        import numpy as np, fusedrnn
        frozen = fusedrnn.LSTM(512, 1024, rng=0).freeze()
        stream, x = frozen.stream(1), np.ones((1, 512), np.float32)
        refused, stop = [], False
        def again():
            while not stop:
                try: stream.__init__(frozen, 1)
                except ValueError as error: refused.append(str(error))
        thread = threading.Thread(target=again)
        thread.start()
        for _ in range(300): stream.step(x)
        stop = True
        thread.join()
        assert refused and "__init__ is called again" in refused[0]
        """
    )


STREAMS = {
    "Stream": lambda: fusedrnn.LSTM(3, 5, rng=0).freeze(),
    "StackStream": lambda: fusedrnn.Stack([fusedrnn.GRU(3, 4, rng=0), fusedrnn.LSTM(4, 5, rng=1)]).freeze(),
}


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("use", ["__init__", "step", "state", "set state", "reset", "copy"])
def test_a_stream_in_a_step_is_not_used_by_the_call_that_converts_its_input(kind, use):
    frozen = STREAMS[kind]()
    stream, x = frozen.stream(2), np.ones((2, 3), np.float32)
    uses = {
        "__init__": lambda: stream.__init__(frozen, 4),
        "step": lambda: stream.step(x),
        "state": lambda: stream.state,
        "set state": lambda: setattr(stream, "state", None),
        "reset": lambda: stream.reset(),
        "copy": lambda: stream.__copy__(),
    }
    refused = []

    class Input:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            try:
                uses[use]()
            except (RuntimeError, ValueError) as error:
                refused.append(str(error))
            return x.astype(np.float64)

    y = stream.step(Input())
    assert len(refused) == 1
    assert ("__init__ is called again" if use == "__init__" else "already in use") in refused[0]
    assert np.array_equal(y, frozen.stream(2).step(x))
    assert np.array_equal(stream.step(x), steps(frozen, x, 2))


def steps(frozen: Any, x: Any, count: int) -> Any:
    stream = frozen.stream(len(x))
    for _ in range(count):
        y = stream.step(x)
    return y


@pytest.mark.parametrize(
    "make", [*STREAMS.values(), lambda: fusedrnn.Ensemble([fusedrnn.GRU(3, 5), fusedrnn.GRU(3, 5)]).freeze()]
)
def test_a_frozen_layer_is_made_once(make):
    frozen, x = make(), np.ones((4, 2, 3), np.float32)
    want = np.copy(frozen(x)[0])
    given = [frozen._group, "other"] if hasattr(frozen, "_group") else [frozen._plan, "other", {}, "float64"]
    with pytest.raises(ValueError, match="__init__ is called again"):
        frozen.__init__(*given)
    assert np.array_equal(frozen(x)[0], want)


def test_a_tape_released_by_another_thread_ends_nothing(rng):
    layer = fusedrnn.GRU(20, 64, rng=0)
    x = rng.standard_normal((50, 8, 20)).astype(np.float32)
    y, _, tape = layer.forward(x)
    want = tape.backward(y).x
    for _ in range(20):
        _, _, tape = layer.forward(x)
        releasing = threading.Thread(target=tape.release)
        releasing.start()
        with suppress(ValueError):  # it was released before
            assert np.array_equal(tape.backward(y).x, want)
        releasing.join()


def test_a_handler_may_use_what_it_interrupts():
    if sys.platform == "win32":
        pytest.skip("no SIGALRM")
    run(
        """
        import signal
        import numpy as np, fusedrnn
        layer = fusedrnn.LSTM(64, 128, rng=0)
        frozen, x = layer.freeze(), np.ones((4000, 8, 64), np.float32)
        short = x[:20]
        want, whole, calls = frozen(short)[0], frozen(x)[0], []
        def handler(*_):
            y, _, tape = layer.forward(short)
            tape.backward(y)
            calls.append(np.array_equal(frozen(short)[0], want))
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        for threads in (1, 2):
            with fusedrnn.threads(threads):
                for _ in range(5): assert np.array_equal(frozen(x)[0], whole)
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert calls and all(calls)
        """
    )
