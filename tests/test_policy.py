"""How calls share threads: csrc/core/policy.h, asked about machines that are not at hand.

The table records what is chosen, not what would be best: a row that changes with a rate has to be reviewed and updated.
"""

import json
from typing import Any

import numpy as np
import pytest

import fusedrnn
from fusedrnn import _core

KIB, MIB = 2**10, 2**20

#: (threads, bytes of L2): one core, two, a desktop, a server's socket, two sockets.
MACHINES = {
    "1 core": (1, MIB),
    "2 cores": (2, MIB),
    "2 cores, L2 of 512 KiB": (2, 512 * KIB),
    "16 cores, L2 of 2 MiB": (16, 2 * MIB),
    "64 cores": (64, MIB),
    "64 cores, L2 of 4 MiB": (64, 4 * MIB),
    "192 cores, two sockets": (192, 2 * MIB),
}


def machine(name: str) -> dict[str, Any]:
    threads, l2_bytes = MACHINES[name]
    measured = {"barrier": 0.2e-6, "region": 15e-6, "warm_region": 5e-6}  # not those of this machine at this moment
    return _core.machine(False) | measured | {"threads": threads, "l2_bytes": l2_bytes}


def load(kind: str, T: int, B: int, I: int, H: int, training: bool = False) -> dict[str, Any]:
    """A call of an AVX-512 LSTM or GRU, as `_core.measure` describes it."""
    gates = {"lstm": 4, "gru": 3}[kind]
    flops = 2.0 * T * B * gates * H * (H + I) * (2 if training else 1)
    return {
        "flops": flops, "weight_bytes": 4.0 * gates * H * H, "steps": T, "rows": B, "panels": -(-H // 16),
        "barriers": T, "lanes": 16, "divisible": not training,
    }  # fmt: skip


def told(stages: list[dict[str, Any]]) -> list[Any]:
    """Ways and threads, with the grid of a team if it has several row groups."""
    short = []
    for stage in stages:
        grids = [f"{size}/{groups}" if groups > 1 else size for size, groups in stage["teams"]]
        short.append((stage["way"], *(grids or [stage["threads"]])))
    return short


ONE = {
    # shape (kind, T, B, I, H): by machine
    ("lstm", 1, 1, 64, 64): ["team 1"] * 7,
    ("lstm", 100, 1, 64, 64): ["team 1", "team 2", "team 2", "team 4", "team 4", "team 4", "team 4"],
    ("lstm", 100, 1, 256, 256): ["team 1", "team 2", "team 2", "team 16", "team 16", "team 16", "team 16"],
    ("lstm", 100, 1, 1024, 1024): ["team 1", "team 2", "team 2", "team 16", "team 64", "team 64", "team 64"],
    ("lstm", 50, 64, 256, 256): ["team 1", "rows 2", "rows 2", "team 16", "team 64/4", "team 64/4", "team 128/8"],
    ("gru", 200, 4, 64, 64): ["team 1", "rows 2", "rows 2", "team 4", "team 4", "team 4", "team 4"],
}


@pytest.mark.parametrize("shape", ONE, ids=str)
def test_one_call(shape):
    chosen = []
    for name in MACHINES:
        (stage,) = told(_core.decide([load(*shape)], "independent", machine(name)))
        chosen.append(" ".join(map(str, stage)))
    assert chosen == ONE[shape]


def test_training_is_never_cut_by_rows_but_into_groups_of_them():
    for name in MACHINES:
        (stage,) = _core.decide([load("lstm", 50, 256, 128, 128, training=True)], "independent", machine(name))
        assert stage["way"] == "team"
        ((size, groups),) = stage["teams"]
        assert size == stage["threads"] <= MACHINES[name][0]
        assert size // groups <= 8  # panels
        assert groups <= 256 // 8


def test_two_directions_run_side_by_side_while_a_core_holds_the_weights():
    two = [load("lstm", 100, 16, 80, 128)] * 2
    assert told(_core.decide(two, "independent", machine("1 core"))) == [("team", 1), ("team", 1)]
    assert told(_core.decide(two, "independent", machine("2 cores"))) == [("queue", 2)]
    large = [load("lstm", 100, 2, 1024, 1024)] * 2
    assert told(_core.decide(large, "independent", machine("2 cores"))) == [("team", 2), ("team", 2)]
    (stage,) = _core.decide(two, "independent", machine("16 cores, L2 of 2 MiB"))
    assert stage["way"] == "teams"
    assert stage["calls"] == [0, 1]
    assert stage["threads"] <= 16


def test_calls_of_several_sizes_are_taken_the_longest_first():
    loads = [load("gru", T, 4, 32, 64) for T in (50, 400, 100, 200)]
    (stage,) = _core.decide(loads, "independent", machine("2 cores"))
    assert (stage["way"], stage["calls"]) == ("queue", [1, 3, 2, 0])


def test_stacked_layers_run_as_a_wavefront_while_a_core_holds_a_layer():
    stack = [load("lstm", 100, 1, 64, 64)] * 3
    stages = _core.decide(stack, "stacked", machine("2 cores"))
    assert [(s["way"], s["calls"]) for s in stages] == [("wavefront", [0, 1]), ("team", [2])]
    assert stages[0]["behind"] == 8
    large = [load("lstm", 100, 1, 1024, 1024)] * 2
    assert [s["way"] for s in _core.decide(large, "stacked", machine("2 cores"))] == ["team", "team"]


@pytest.mark.parametrize("name", MACHINES)
def test_every_call_is_in_one_stage_and_no_stage_has_more_threads_than_there_are(name, rng):
    threads = MACHINES[name][0]
    for _ in range(200):
        count, order = int(rng.integers(1, 6)), str(rng.choice(["independent", "stacked"]))
        T, B = int(rng.integers(0, 300)), int(rng.integers(0, 200))
        sizes = rng.choice([1, 16, 64, 200, 512, 1500], (count, 2))
        loads = [load("lstm", T, B, int(i), int(h), bool(rng.random() < 0.3)) for i, h in sizes]
        stages = _core.decide(loads, order, machine(name))
        calls = [call for stage in stages for call in stage["calls"]]
        assert sorted(calls) == list(range(count))
        assert order == "independent" or calls == sorted(calls)
        for stage in stages:
            assert 1 <= stage["threads"] <= threads
            assert len(stage["teams"]) == (0 if stage["way"] in ("rows", "queue") else len(stage["calls"]))
            assert stage["threads"] == sum(size for size, _ in stage["teams"]) or not stage["teams"]
            assert all(size % groups == 0 for size, groups in stage["teams"])
            assert stage["seconds"] >= 0


def test_a_slow_barrier_and_a_fork_keep_short_calls_on_one_thread():
    short = load("lstm", 100, 1, 64, 64)
    assert told(_core.decide([short], "independent", machine("2 cores") | {"barrier": 0.5e-6})) == [("team", 1)]
    assert told(_core.decide([short], "independent", machine("2 cores") | {"region": 300e-6})) == [("team", 1)]


def test_steps_of_streams():
    def threads(H: int, awake: bool, name: str = "2 cores") -> int:
        return _core.step_threads(load("lstm", 1, 1, H, H) | {"weight_bytes": 32.0 * H * H}, machine(name), awake)

    assert [threads(H, True) for H in (64, 128, 160, 256, 512)] == [1, 1, 2, 2, 2]
    assert [threads(H, False) for H in (128, 160, 256, 512)] == [1, 1, 1, 2]
    assert threads(1024, True, "64 cores") == 64


@pytest.mark.parametrize("cell", ["rnn_tanh", "gru_after", "gru_before", "gru_simple", "lstm"])
def test_panels_are_the_kernels(cell, isa):
    """GRU, reset before, has two phases, each with its own panels."""
    gates = {"rnn_tanh": 1, "gru_after": 3, "gru_before": 3, "gru_simple": 2, "lstm": 4}[cell]
    for H in (1, 16, 64, 100, 192, 513):
        weights = _core.usual_weights(cell, np.zeros((gates * H, 3)), np.zeros((gates * H, H)), None, None, True)
        needs = _core.measure(weights, _core.Schedule(5, 2), False, True)
        lanes = needs["forward"]["lanes"]
        blocks = -(-H // lanes)

        def panels(most: int, blocks: int = blocks) -> int:
            count = -(-blocks // most)
            return count + (most > 1 and count > 1 and count % 2)

        most = {"rnn_tanh": [4], "gru_after": [1], "gru_before": [2, 4], "gru_simple": [2], "lstm": [1]}[cell]
        assert needs["forward"]["panels"] == max(map(panels, most))
        assert needs["backward"]["panels"] == panels(4)


# ---- explain


def test_what_explain_says_is_what_a_call_needs(rng):
    layer = fusedrnn.LSTM(20, 24, num_layers=2, bidirectional=True, rng=0)
    seen = fusedrnn.explain(layer, T=30, B=7, training=True)
    _, _, tape = layer.forward(rng.standard_normal((30, 7, 20)).astype(np.float32))
    assert seen["tape_bytes"] == tape.nbytes
    calls = [call for stage in seen["forward"] for call in stage["calls"]]
    assert [call["input_size"] for call in calls] == [20, 20, 48, 48]
    assert sum(call["multiply_adds"] for call in calls) == sum(30 * 7 * 4 * 32 * (24 + i) for i in (20, 20, 48, 48))
    assert len(seen["backward"]) >= 1
    json.dumps(seen)


LAYERS = {
    "rnn": lambda: fusedrnn.RNN(5, 8, batch_first=True, rng=0),
    "gru": lambda: fusedrnn.GRU(5, 8, 3, reset_after=False, dtype="float64", learned_state=True, rng=0),
    "lstm": lambda: fusedrnn.LSTM(5, 8, 2, bidirectional=True, merge="mul", proj_size=3, rng=0),
    "norm": lambda: fusedrnn.LSTM(5, 8, layer_norm=True, dropout=0.0, recurrent_dropout=0.2, rng=0),
    "stack": lambda: fusedrnn.Stack([fusedrnn.LSTM(5, 6, rng=0), fusedrnn.GRU(6, 4, rng=0)]),
    "two": lambda: fusedrnn.Bidirectional(fusedrnn.LSTM(5, 6, rng=0), fusedrnn.GRU(5, 4, rng=0)),
    "ensemble": lambda: fusedrnn.Ensemble([fusedrnn.GRU(5, 6, rng=k) for k in range(3)]),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [False, True])
def test_everything_that_is_called_as_a_layer_explains_itself(name, training):
    layer = LAYERS[name]()
    before = {n: a.copy() for n, a in layer.params.items()}
    for target in [layer] if training else [layer, layer.freeze()]:
        for changes in ({}, {"lengths": [3, 0, 4]}, {"tokens": True}):
            seen = fusedrnn.explain(target, 4, 3, training=training, **changes)
            words = str(seen)
            assert repr(target) in words
            assert all("->" in line for line in words.splitlines() if line.startswith("    "))
            assert (seen["tape_bytes"] > 0) == training
    assert all(np.array_equal(layer.params[n], a) for n, a in before.items())


def test_explain_reads_well():
    layer = fusedrnn.LSTM(80, 256, num_layers=2, rng=0)
    rates = machine("2 cores")
    with fusedrnn.use_isa(fusedrnn.available_isas()[-1]):
        words = str(fusedrnn.explain(layer, 200, 16, machine=rates)).splitlines()
    assert words[0].startswith("LSTM(80, 256, num_layers=2), float32: inference over T=200, B=16, ")
    assert words[0].endswith("up to 2 threads")
    assert words[2].endswith("cut by rows into 2 shares, one thread each, which never wait for each other")
    assert words[3].startswith("    lstm 80 -> 256: 200 steps of 16 rows, 1 MiB of weights a step, chunks of ")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"layer": 3}, TypeError, "explain: layer is an int; expected a layer"),
        ({"layer": fusedrnn.GRUCell(3, 5)}, TypeError, "explain: layer is a GRUCell; expected a layer"),
        ({"T": 0}, ValueError, "explain: T is 0; expected an integer >= 1"),
        ({"B": 1.5}, TypeError, "explain: B is 1.5"),
        ({"training": 1}, TypeError, "explain: training is 1"),
        ({"lengths": [9]}, ValueError, r"GRU: lengths\[0\] is 9"),
        ({"machine": 3}, TypeError, "explain: machine is an int"),
        ({"machine": {"cores": 3}}, ValueError, "explain: machine has 'cores'; expected names of 'l2_bytes'"),
        ({"machine": {"threads": 0}}, ValueError, r"explain: machine\['threads'\] is 0; expected a finite number > 0"),
        ({"machine": {"barrier": np.nan}}, ValueError, r"explain: machine\['barrier'\] is nan"),
        ({"machine": {"threads": 1.5}}, TypeError, r"explain: machine\['threads'\] is 1.5"),
    ],
)
def test_wrong_arguments_of_explain(changes, error, message):
    with pytest.raises(error, match=message):
        fusedrnn.explain(**({"layer": fusedrnn.GRU(3, 5, rng=0), "T": 4, "B": 1} | changes))


def test_a_frozen_layer_has_no_training_to_explain():
    with pytest.raises(ValueError, match=r"training is True, but <frozen GRU\(3, 5\).* is for inference"):
        fusedrnn.explain(fusedrnn.GRU(3, 5, rng=0).freeze(), 4, training=True)
