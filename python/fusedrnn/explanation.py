"""Explain a call of a layer: how its work is divided among threads, what it reads and saves, and its rough duration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import _core, _validate
from .calling import INFER, Mode, Runnable
from .form import Steps, new_outputs, read_sequence
from .unroll import run_to_end

Record = dict[str, Any]


class Explanation(Record):
    """Description of a call, created by `explain`: a dict that prints as text.

    Keys
    ----
    layer, dtype, isa : str
        The layer, its dtype, and the instruction set for which its weights are packed.
    T, B : int
        Steps and rows. A call with lengths has fewer rows in its later steps.
    training : bool
    machine : dict
        Rates and thresholds that determine how calls are divided; ``csrc/core/policy.h`` explains each. Units are
        bytes, bytes per second, seconds, operations per second and lane; "threads" is the number that the call may use.
    forward, backward : list of dict
        Stages that run one after the other; "backward" in training only. Each has "way" ("team", "rows", "queue",
        "teams" or "wavefront"), "threads", "teams" (threads and groups of rows of each call's team), "behind" (steps
        between the layers of a wavefront), "seconds" (predicted) and "calls".
    multiply_adds, weight_bytes_read, tape_bytes : int
        Totals over all calls.
    seconds : float
        Predicted from rates below those of most machines; for comparing alternatives, not for planning.

    Each call is a dict with "cell", "form", "input_size", "hidden_size", "tokens", "reverse", "steps", "rows",
    "multiply_adds", "weight_bytes" (read at every step), "chunk_rows" (whose input product is computed at once),
    "tape_bytes" and "scratch_bytes". With tokens, "input_size" is the number of columns of weight_ih that are packed.

    Examples
    --------
    >>> import fusedrnn
    >>> seen = fusedrnn.explain(fusedrnn.GRU(3, 5), T=7, machine={"threads": 1})
    >>> print(seen)  # doctest: +ELLIPSIS
    GRU(3, 5), float32: inference over T=7, B=1, ..., up to 1 thread
      2688 multiply-adds, ...
    """

    def __str__(self) -> str:
        return "\n".join(_lines(self))

    def __repr__(self) -> str:
        return f"<{self}>"


def explain(
    layer: Runnable,
    T: int,
    B: int = 1,
    *,
    training: bool = False,
    lengths: Any = None,
    tokens: bool = False,
    machine: Mapping[str, float] | None = None,
) -> Explanation:
    """Describe what a call of a layer would do, without running it; include the result in reports of slow cases.

    Parameters
    ----------
    layer : RNN, GRU, LSTM, Stack, Bidirectional, Ensemble, or the result of their ``freeze()``
    T, B : int
        Steps and rows of the call.
    training : bool
        Explain ``forward`` and ``backward`` instead of a call without a tape.
    lengths : integers (B,) or None
        Number of valid steps of each row; None means T for all rows.
    tokens : bool
        Whether the input is integer tokens: as many distinct ones as the steps and the vocabulary allow.
    machine : mapping of str to float, or None
        Numbers that replace those of this machine, for example ``{"threads": 64, "l2_bytes": 2**21}``.

    Returns
    -------
    Explanation
        A dict that prints as text.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit, or `machine` has a name that `Explanation` does not list.

    Notes
    -----
    The layer's weights are packed, and arrays for its outputs are allocated, as for a call; nothing is computed.

    Examples
    --------
    >>> import fusedrnn
    >>> layer = fusedrnn.LSTM(80, 256, num_layers=2)
    >>> seen = fusedrnn.explain(layer, T=200, B=16, machine={"threads": 2})
    >>> [(stage["way"], stage["threads"]) for stage in seen["forward"]]
    [('rows', 2), ('rows', 2)]
    >>> seen["multiply_adds"], seen["tape_bytes"]
    (2778726400, 0)
    """
    owner = "explain"
    if not hasattr(layer, "_run"):
        raise _validate.nothing_to_explain(owner, layer)
    T, B = _validate.size(owner, "T", T), _validate.size(owner, "B", B)
    training, tokens = _validate.flag(owner, "training", training), _validate.flag(owner, "tokens", tokens)
    if training and not hasattr(layer, "forward"):
        raise _validate.frozen_cannot_train(owner, layer)
    form = layer._plan
    shape = (B, T) if form.batch_first else (T, B)
    if tokens:  # as many distinct ones as there can be
        x = (np.arange(T * B) % form.input_size).reshape(shape)
    else:
        x = np.broadcast_to(np.zeros((), form.dtype), (*shape, form.input_size))
    numbers = _core.machine() | _validate.machine(owner, machine, _core.machine(False))
    levels: list[tuple[str, list[Record]]] = []

    def note(calls: list[tuple[Any, ...]], order: str = "independent") -> list[None]:
        levels.append((order, [_measure(call, training) for call in calls]))
        return [None] * len(calls)

    def note_stacked(calls: list[tuple[Any, ...]]) -> list[None]:
        return note(calls, "stacked")

    with np.errstate(all="ignore"):  # merges outputs that have not been computed
        inputs, extent = read_sequence(form, x, Steps(lengths, None, None))
        extent = extent._replace(outline=True)
        outputs = new_outputs(form, extent)
        state_0 = form.read_state(extent, "state", None)
        run = layer._run(inputs, state_0, extent, outputs, Mode(save=True) if training else INFER)
        run_to_end(run, note, note_stacked)
    found = Explanation(
        layer=repr(layer), dtype=str(form.dtype), isa=levels[0][1][0]["isa"] if levels else _core.current_isa(),
        T=T, B=B, training=training, machine=numbers,
        forward=[stage for order, calls in levels for stage in _stages(calls, "forward", order, numbers)],
    )  # fmt: skip
    passes = ["forward"]
    if training:
        passes.append("backward")
        found["backward"] = [
            stage for _, calls in reversed(levels) for stage in _stages(calls, "backward", "independent", numbers)
        ]
    stages = [stage for name in passes for stage in found[name]]
    every = [call for stage in stages for call in stage["calls"]]
    found["multiply_adds"] = sum(call["multiply_adds"] for call in every)
    found["weight_bytes_read"] = sum(call["weight_bytes"] * call["steps"] for call in every)
    found["tape_bytes"] = sum(call["tape_bytes"] for stage in found["forward"] for call in stage["calls"])
    found["seconds"] = sum(stage["seconds"] for stage in stages)
    return found


def _measure(call: tuple[Any, ...], training: bool) -> Record:
    """The cost of one `_core.forward` with these arguments."""
    weights, x, _, _, _, schedule, reverse, masks, _ = call
    tokens = x.ndim == 2
    needs = _core.measure(weights, schedule, tokens, training, masks is not None)
    about = {"cell": weights.cell, "input_size": weights.input_size, "hidden_size": weights.hidden_size}
    return {**about, "isa": weights.isa, "tokens": tokens, "reverse": reverse, **needs}


def _stages(calls: Sequence[Record], name: str, order: str, machine: Record) -> list[Record]:
    stages = _core.decide([call[name] for call in calls], order, machine)
    for stage in stages:
        stage["calls"] = [_call(calls[i], name) for i in stage["calls"]]
    return stages


def _call(needs: Record, name: str) -> Record:
    load, training = needs[name], "backward" in needs
    about = {key: needs[key] for key in ("cell", "form", "input_size", "hidden_size", "tokens", "reverse")}
    about |= {"steps": load["steps"], "rows": load["rows"], "multiply_adds": int(load["flops"]) // 2}
    about["weight_bytes"] = int(load["weight_bytes"])
    if name == "backward":
        return about | {
            "chunk_rows": needs["backward_chunk_rows"],
            "tape_bytes": 0,
            "scratch_bytes": needs["backward_bytes"],
        }
    lasting, scratch = needs["lasting_bytes"], needs["scratch_bytes"]
    memory = {"tape_bytes": lasting, "scratch_bytes": scratch} if training else {
        "tape_bytes": 0, "scratch_bytes": lasting + scratch}  # fmt: skip
    return about | {"chunk_rows": needs["chunk_rows"], **memory}


# ---- words ----------------------------------------------------------------------------------------------------------


def _lines(found: Explanation) -> list[str]:
    what = "training" if found["training"] else "inference"
    lines = [
        f"{found['layer']}, {found['dtype']}: {what} over T={found['T']}, B={found['B']}, "
        f"{found['isa']}, up to {_count(found['machine']['threads'], 'thread')}",
        f"  {_number(found['multiply_adds'])} multiply-adds, {_bytes(found['weight_bytes_read'])} of weights read, "
        f"{_bytes(found['tape_bytes'])} of tape, roughly {_seconds(found['seconds'])}",
    ]
    for name in ("forward", "backward"):
        for stage in found.get(name, ()):
            lines.append(f"  {name}, {_seconds(stage['seconds'])}: {_way(stage)}")
            lines += [f"    {_call_words(call)}" for call in stage["calls"]]
    return lines


def _way(stage: Record) -> str:
    threads, calls = _count(stage["threads"], "thread"), _count(len(stage["calls"]), "call")
    grids = ", ".join(f"{size // groups} by units x {groups} by rows" for size, groups in stage["teams"])
    if stage["way"] == "rows":
        return f"cut by rows into {stage['threads']} shares, one thread each, which never wait for each other"
    if stage["way"] == "queue":
        return f"{calls} taken by {threads}, the longest first"
    if stage["way"] == "teams":
        return f"{calls} side by side on {threads}: {grids}"
    if stage["way"] == "wavefront":
        return f"a wavefront of {len(stage['calls'])} layers on {threads}, {stage['behind']} steps apart: {grids}"
    if stage["threads"] == 1:
        return "on the calling thread"
    return f"a team of {threads}: {grids}"


def _call_words(call: Record) -> str:
    cell = call["cell"] if call["form"] == "plain" else f"{call['cell']} ({call['form']})"
    source = "tokens" if call["tokens"] else str(call["input_size"])
    direction = ", from the last step" if call["reverse"] else ""
    memory = f"{_bytes(call['tape_bytes'])} of tape, " if call["tape_bytes"] else ""
    extent = f"{_count(call['steps'], 'step')} of {_count(call['rows'], 'row')}"
    return (
        f"{cell} {source} -> {call['hidden_size']}{direction}: {extent}, "
        f"{_bytes(call['weight_bytes'])} of weights a step, chunks of {_count(call['chunk_rows'], 'row')}, "
        f"{memory}{_bytes(call['scratch_bytes'])} of scratch"
    )


def _count(n: int, name: str) -> str:
    return f"{n} {name}" if n == 1 else f"{n} {name}s"


def _number(n: float) -> str:
    for factor, unit in ((1e9, " G"), (1e6, " M")):
        if n >= factor:
            return f"{n / factor:.3g}{unit}"
    return str(n)


def _bytes(n: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if n < 1024 or unit == "TiB":
            return f"{n:.3g} {unit}"
        n /= 1024
    raise AssertionError


def _seconds(s: float) -> str:
    for factor, unit in ((1e6, "us"), (1e3, "ms")):
        if s * factor < 1000:
            return f"{s * factor:.3g} {unit}"
    return f"{s:.3g} s"
