"""The C API: its function table, called through ctypes. The structs are repeated here, as in older compiled programs.

Tests that need a compiler (Cython, C, C++) are at the end.
"""

import ctypes as ct
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusedrnn
from fusedrnn import _core, functional
from fusedrnn.parameters import CLASSES
from fusedrnn.reference import CELLS
from problems import VARIANTS, Problem, assert_same_bits, make_problem, with_structure

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples" / "c_api"
HEADER = Path(fusedrnn.get_include()) / "fusedrnn.h"
OK, INVALID, MEMORY, INTERRUPTED, BUSY = range(5)
INTERRUPT = ct.CFUNCTYPE(ct.c_int, ct.c_void_p)
Pointer, Size = ct.c_void_p, ct.c_ssize_t
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


#: The cells without options of their own, which the C API does not have.
LAYERS = {name.lower(): cls for name, cls in CLASSES.items()}
EACH_CELL = pytest.mark.parametrize("cell", list(CELLS))


class Arguments(ct.Structure):
    def __init__(self, **values: Any) -> None:
        super().__init__(**{k: v.ctypes.data if isinstance(v, np.ndarray) else v for k, v in values.items()})
        self.size = ct.sizeof(self)
        self.kept = values  # the arrays that the pointers point to


class Layer(Arguments):
    _fields_ = [
        ("size", ct.c_size_t),
        ("cell", ct.c_char_p),
        ("dtype", ct.c_int),
        ("training", ct.c_int),
        ("input_size", Size),
        ("hidden_size", Size),
        *((name, Pointer) for name in ("W_ih", "W_hh", "b_ih", "b_hh")),
    ]


class Info(Arguments):
    _fields_ = [
        ("size", ct.c_size_t),
        ("cell", ct.c_char_p),
        ("isa", ct.c_char_p),
        *((name, ct.c_int) for name in ("dtype", "training", "gates", "states")),
        ("input_size", Size),
        ("hidden_size", Size),
        ("nbytes", ct.c_size_t),
    ]


class Forward(Arguments):
    _fields_ = [
        ("size", ct.c_size_t),
        ("T", Size),
        ("B", Size),
        ("lengths", Pointer),
        ("x", Pointer),
        ("x_time", Size),
        ("x_batch", Size),
        ("tokens", Pointer),
        ("h_0", Pointer),
        ("c_0", Pointer),
        ("y", Pointer),
        ("y_time", Size),
        ("y_batch", Size),
        ("h_n", Pointer),
        ("c_n", Pointer),
        ("reverse", ct.c_int),
        ("interrupted", INTERRUPT),
        ("interrupted_argument", Pointer),
    ]


class Backward(Arguments):
    _fields_ = [
        ("size", ct.c_size_t),
        ("dy", Pointer),
        ("dy_time", Size),
        ("dy_batch", Size),
        ("dh_n", Pointer),
        ("dc_n", Pointer),
        ("dx", Pointer),
        ("dx_time", Size),
        ("dx_batch", Size),
        ("accumulate_dx", ct.c_int),
        *((name, Pointer) for name in ("dh_0", "dc_0", "dW_ih", "dW_hh", "db_ih", "db_hh")),
        ("interrupted", INTERRUPT),
        ("interrupted_argument", Pointer),
    ]


# Members appended later: projections, and the dropout masks of training.


class StructuredLayer(Layer):
    _fields_ = [("proj_size", Size), ("W_hr", Pointer), ("zoneout_h", ct.c_double), ("zoneout_c", ct.c_double)]


class StructuredInfo(Info):
    _fields_ = [("output_size", Size)]


class StructuredForward(Forward):
    _fields_ = [("recurrent_mask", Pointer), ("zoneout_h", Pointer), ("zoneout_c", Pointer)]


class StructuredBackward(Backward):
    _fields_ = [("dW_hr", Pointer)]


# Appended after these: which steps run, and the own initial state.


class SteppedForward(StructuredForward):
    _fields_ = [(name, Pointer) for name in ("mask", "reset", "h_initial", "c_initial")]


class PackedForward(SteppedForward):
    _fields_ = [("packed", ct.c_int)]


class SteppedBackward(StructuredBackward):
    _fields_ = [("dh_initial", Pointer), ("dc_initial", Pointer)]


# Members appended later: parameters per unit.


class UnitLayer(StructuredLayer):
    _fields_ = [("units", Pointer)]


class UnitBackward(SteppedBackward):
    _fields_ = [("dunits", Pointer)]


class Table(ct.Structure):
    """ABI 1, as first released."""

    _fields_ = [
        ("size", ct.c_size_t),
        ("abi", ct.c_int),
        ("version", ct.c_char_p),
        ("message", ct.CFUNCTYPE(ct.c_char_p)),
        ("get_num_threads", ct.CFUNCTYPE(ct.c_int)),
        ("set_num_threads", ct.CFUNCTYPE(ct.c_int, ct.c_int)),
        ("weights_new", ct.CFUNCTYPE(ct.c_int, Pointer, Pointer)),
        ("weights_share", ct.CFUNCTYPE(ct.c_int, Pointer, Pointer)),
        ("weights_info", ct.CFUNCTYPE(ct.c_int, Pointer, Pointer)),
        ("weights_free", ct.CFUNCTYPE(None, Pointer)),
        ("forward", ct.CFUNCTYPE(ct.c_int, Pointer, Pointer, Pointer)),
        ("backward", ct.CFUNCTYPE(ct.c_int, Pointer, Pointer)),
        ("tape_nbytes", ct.CFUNCTYPE(ct.c_size_t, Pointer)),
        ("tape_free", ct.CFUNCTYPE(None, Pointer)),
        ("stream_new", ct.CFUNCTYPE(ct.c_int, Pointer, Size, Size, Pointer)),
        ("stream_step", ct.CFUNCTYPE(ct.c_int, Pointer, Pointer, Pointer)),
        ("stream_step_tokens", ct.CFUNCTYPE(ct.c_int, Pointer, Pointer, Pointer)),
        ("stream_get_state", ct.CFUNCTYPE(ct.c_int, Pointer, Pointer, Pointer)),
        ("stream_set_state", ct.CFUNCTYPE(ct.c_int, Pointer, Pointer, Pointer)),
        ("stream_reset", ct.CFUNCTYPE(ct.c_int, Pointer, Pointer)),
        ("stream_free", ct.CFUNCTYPE(None, Pointer)),
    ]


def capsule_pointer(capsule: Any, name: bytes) -> int:
    get = ct.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = Pointer, [ct.py_object, ct.c_char_p]
    return get(capsule, name)


API = Table.from_address(capsule_pointer(_core._C_API, b"fusedrnn._core._C_API"))


def done(code: int) -> None:
    assert code == OK, (code, API.message())


def data(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data


def made(function: Any, *arguments: Any) -> Pointer:
    handle = Pointer()
    done(function(*arguments, ct.byref(handle)))
    return handle


def pack(cell: str, weights: Any, training: bool = False, **structure: Any) -> Pointer:
    W_ih, W_hh, b_ih, b_hh = weights
    W_hr = structure.get("W_hr")
    values = {
        "cell": cell.encode(),
        "dtype": W_ih.itemsize,
        "training": training,
        "input_size": W_ih.shape[1],
        "hidden_size": len(W_ih) // CELLS[cell].gates,
        "W_ih": W_ih,
        "W_hh": W_hh,
        "b_ih": b_ih,
        "b_hh": b_hh,
    }
    if W_hr is not None:
        structure["proj_size"] = len(W_hr)
    # A program compiled before projections and masks has the smaller struct.
    layer = UnitLayer(**values, **structure) if structure else Layer(**values)
    return made(API.weights_new, ct.byref(layer))


def units_of(problem: Problem) -> dict[str, Any]:
    """The member `units` of a layer, if the cell has parameters per unit."""
    return {} if problem.W_peephole is None else {"units": problem.W_peephole}


def run(problem: Problem, need_dx: bool) -> dict[str, Any]:
    """Everything that the functional API returns, computed by the C API."""
    T, B, I = (problem.sizes[k] for k in "TBI")
    tokens = problem.x.ndim == 2
    masks = dict(problem.structure)
    W_hr = masks.pop("W_hr", None)
    structure = units_of(problem) | ({} if W_hr is None else {"W_hr": W_hr})
    weights = pack(problem.cell, problem.weights, training=True, **structure)
    names = "hc"[: len(problem.state)]
    results = {"y": np.empty_like(problem.dy)} | {
        f"{n}_n": np.empty_like(s) for n, s in zip(names, problem.dstate, strict=True)
    }
    own = {f"d{name}": np.empty_like(s) for name, s in masks.items() if name.endswith("_initial")}
    masks |= {name: flags for name in ("mask", "reset") if (flags := getattr(problem, name)) is not None}
    stepped = bool(own) or problem.mask is not None or problem.reset is not None
    Arguments = SteppedForward if stepped else StructuredForward if problem.structure else Forward
    forward = Arguments(
        T=T,
        B=B,
        lengths=None if problem.lengths is None else np.asarray(problem.lengths, np.int64),
        reverse=problem.reverse,
        **{"tokens" if tokens else "x": np.ascontiguousarray(problem.x)},
        **{f"{s}_0": state for s, state in zip(names, problem.state, strict=True) if state is not None},
        **results,
        **masks,
    )
    tape = made(API.forward, weights, ct.byref(forward))
    API.weights_free(weights)  # the tape has its own reference
    assert API.tape_nbytes(tape) > 0
    W_ih, W_hh, b_ih, b_hh = problem.weights
    grads: dict[str, Any] = {"dx": np.empty((T, B, I), problem.dtype) if need_dx else None}
    grads |= {f"d{n}_0": np.empty_like(s) for n, s in zip(names, problem.dstate, strict=True)}
    for name, w in (("dW_ih", W_ih), ("dW_hh", W_hh), ("db_ih", b_ih), ("db_hh", b_hh)):
        grads[name] = None if w is None else np.empty_like(w)
    if W_hr is not None:
        grads["dW_hr"] = np.empty_like(W_hr)
    ends = {f"d{s}_n": d for s, d in zip(names, problem.dstate, strict=True)}
    grads |= own
    units = {} if problem.W_peephole is None else {"dunits": np.empty_like(problem.W_peephole)}
    Struct = (
        UnitBackward if units else SteppedBackward if stepped else StructuredBackward if problem.structure else Backward
    )
    done(API.backward(tape, ct.byref(Struct(dy=problem.dy, **ends, **grads, **units))))
    API.tape_free(tape)
    if W_hh is None:
        grads = {name: d for name, d in grads.items() if name not in ("dW_hh", "db_hh")}
        grads |= {"dW_unit": units["dunits"]} if units else {}
    return results | grads


# ---- what is computed


def test_the_table_is_the_installed_package_s():
    assert (API.abi, API.version.decode()) == (1, fusedrnn.__version__)
    assert API.size >= ct.sizeof(Table)


@EACH_CELL
@DTYPES
@pytest.mark.parametrize("kind", ["plain", "lengths", "reverse", "tokens", "no bias"])
def test_forward_and_backward_give_python_s_bits(isa, rng, cell, dtype, kind):
    options: dict[str, Any] = {
        "plain": {},
        "lengths": {"lengths": True, "reverse": True},
        "reverse": {"reverse": True},
        "tokens": {"tokens": True, "lengths": True},
        "no bias": {"bias": False},
    }[kind]
    problem = make_problem(rng, cell, dtype, T=7, B=5, I=6, H=19, **options)
    need_dx = "tokens" not in options
    results, tape = problem.forward(functional)
    expected = results | problem.backward(functional, tape, need_dx)
    for name in ("dW_peephole", "dW_hr", "dh_initial", "dc_initial"):
        expected.pop(name, None)
    if problem.W_peephole is None:
        expected.pop("dW_unit", None)
    assert_same_bits(run(problem, need_dx), expected, cell)


@DTYPES
@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("rnn_tanh", ("recurrent_mask", "zoneout_h")),
        ("gru_before", ("recurrent_mask", "zoneout_h")),
        ("lstm", ("W_hr",)),
        ("lstm", ("zoneout_c",)),
        ("lstm", ("W_hr", "recurrent_mask", "zoneout_h", "zoneout_c")),
    ],
    ids=lambda v: v if isinstance(v, str) else "-".join(v),
)
def test_structure_gives_python_s_bits(isa, rng, cell, dtype, names):
    problem = make_problem(rng, cell, dtype, T=7, B=5, I=6, H=37, lengths=True, reverse=True)
    problem = with_structure(problem, rng, *names)
    results, tape = problem.forward(functional)
    expected = results | problem.backward(functional, tape)
    expected = {name: value for name, value in expected.items() if value is not None}
    assert_same_bits(run(problem, True), expected, cell)


@EACH_CELL
@DTYPES
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("state", ["given", "own"])
def test_masks_and_resets_give_python_s_bits(isa, rng, cell, dtype, reverse, state):
    problem = make_problem(rng, cell, dtype, T=9, B=5, I=6, H=19, lengths=True, reverse=reverse)
    problem = with_structure(problem, rng, "h_initial", "c_initial")
    problem = problem.but(mask=rng.random((9, 5)) < 0.8, reset=rng.random((9, 5)) < 0.4)
    if state == "own":
        problem = problem.but(state=(None,) * len(problem.state))
    results, tape = problem.forward(functional)
    expected = results | problem.backward(functional, tape)
    expected = {name: value for name, value in expected.items() if value is not None}
    assert_same_bits(run(problem, True), expected, cell)


def test_wrong_own_initial_states_are_refused(rng):
    problem = make_problem(rng, "gru_after", "float32", T=3, B=2, I=4, H=9)
    weights, h, y = (
        pack("gru_after", problem.weights, training=True),
        np.zeros(9, np.float32),
        np.zeros((3, 2, 9), "f4"),
    )
    good: dict[str, Any] = {"T": 3, "B": 2, "x": problem.x, "y": y}
    tape = Pointer()
    for changes, message in [
        ({"c_initial": h}, b"forward: c_initial is given, but this cell's only state is h"),
        ({"h_initial": y[0, 0]}, b"forward: y overlaps h_initial"),
        ({"h_initial": h.ctypes.data + 1}, b"forward: h_initial is not aligned to 4 bytes, the size of an element"),
    ]:
        assert API.forward(weights, ct.byref(SteppedForward(**(good | changes))), ct.byref(tape)) == INVALID
        assert API.message() in (message, message.replace(b"y overlaps h_initial", b"h_initial overlaps y"))
    done(API.forward(weights, ct.byref(SteppedForward(**good)), ct.byref(tape)))
    assert API.backward(tape, ct.byref(SteppedBackward(dy=y, dc_initial=h))) == INVALID
    assert API.message() == b"backward: dc_initial is given, but this cell's only state is h"
    API.tape_free(tape)
    API.weights_free(weights)


@DTYPES
@pytest.mark.parametrize("names", [(), ("W_hr", "zoneout_h", "zoneout_c")], ids=["plain", "structure"])
@pytest.mark.parametrize("tokens", [False, True])
def test_packed_rows_give_the_bits_of_a_padded_batch(dtype, names, tokens, rng):
    padded = make_problem(rng, "lstm", dtype, T=7, B=5, I=6, H=19, lengths=True, tokens=tokens, reverse=True)
    padded = with_structure(padded, rng, *names)
    time, row = np.nonzero(np.arange(7)[:, None] < padded.lengths)
    order = np.lexsort((time, row))

    def pack_rows(array: Any) -> Any:
        return np.ascontiguousarray(array[time[order], row[order]])

    masks = {name: pack_rows(m) if name.startswith("zoneout") else m for name, m in padded.structure.items()}
    expected = run(padded, not tokens)
    W_hr = masks.pop("W_hr", None)
    weights = pack("lstm", padded.weights, training=True, **({} if W_hr is None else {"W_hr": W_hr}))
    x, dy, lengths = pack_rows(padded.x), pack_rows(padded.dy), np.asarray(padded.lengths, np.int64)
    y, h_n, c_n = np.empty_like(dy), *map(np.empty_like, padded.state)
    given: dict[str, Any] = {"T": len(x), "B": 5, "lengths": lengths, "reverse": 1, "packed": 1, "y": y}
    given |= {"tokens" if tokens else "x": x, "h_0": padded.state[0], "c_0": padded.state[1], "h_n": h_n, "c_n": c_n}
    tape = made(API.forward, weights, ct.byref(PackedForward(**given, **masks)))
    found = {"dx": None if tokens else np.empty_like(x), "dW_hh": np.empty_like(padded.weights[1])}
    ends = {"dh_n": padded.dstate[0], "dc_n": padded.dstate[1]}
    done(API.backward(tape, ct.byref(Backward(dy=dy, **ends, **found))))
    API.tape_free(tape)
    assert_same_bits([y, h_n, c_n], [pack_rows(expected["y"]), expected["h_n"], expected["c_n"]], "forward")
    assert_same_bits(found["dW_hh"], expected["dW_hh"], "dW_hh")
    if not tokens:
        assert_same_bits(found["dx"], pack_rows(expected["dx"]), "dx")
    # Every second entry of a larger array, and lengths that do not fit.
    apart = np.zeros((2 * len(x), dy.shape[1]), y.dtype)
    done(API.forward(weights, ct.byref(PackedForward(**(given | {"y": apart, "y_time": 2 * dy.shape[1]}))), None))
    assert_same_bits(apart[::2], y, "y") if not masks else None
    for changes in ({"T": len(x) + 1}, {"lengths": None}, {"lengths": lengths + 1}):
        assert API.forward(weights, ct.byref(PackedForward(**(given | changes))), None) == INVALID
    API.weights_free(weights)


@DTYPES
def test_inference_and_streams_of_projections_with_zoneout(isa, dtype, rng):
    layer = fusedrnn.LSTM(6, 19, 2, proj_size=7, zoneout=(0.2, 0.3), dtype=dtype, rng=rng)
    frozen = layer.freeze()
    capsules = frozen.c_weights()
    handles = [capsule_pointer(capsule, b"fusedrnn_weights") for capsule in capsules]
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    weights = [layer.params[name] for name in names]
    own = pack("lstm", weights, W_hr=layer.weight_hr_l0, zoneout_h=0.2, zoneout_c=0.3)
    x, y = rng.standard_normal((5, 3, 6)).astype(dtype), np.empty((5, 3, 7), dtype)
    h, c = np.empty((3, 7), dtype), np.empty((3, 19), dtype)
    results = []
    for handle in (handles[0], own):
        done(API.forward(handle, ct.byref(Forward(T=5, B=3, x=x, y=y, h_n=h, c_n=c)), None))
        results.append((y.copy(), h.copy(), c.copy()))
    assert_same_bits(*results, "Python's weights and C's")
    info = StructuredInfo()
    done(API.weights_info(own, ct.byref(info)))
    assert (info.hidden_size, info.output_size) == (19, 7)
    API.weights_free(own)

    stream = made(API.stream_new, (Pointer * 2)(*handles), 2, 3)
    expected, _ = frozen(x)
    for t in range(5):
        done(API.stream_step(stream, x[t].ctypes.data, h.ctypes.data))
        assert_same_bits(h, expected[t], "step")
    all_h, all_c = np.empty((2, 3, 7), dtype), np.empty((2, 3, 19), dtype)
    done(API.stream_get_state(stream, all_h.ctypes.data, all_c.ctypes.data))
    assert_same_bits((all_h, all_c), frozen(x)[1], "state")
    API.stream_free(stream)


def test_wrong_structure_is_refused(rng):
    p = with_structure(make_problem(rng, "lstm", "float32", T=3, B=2, I=4, H=9), rng, "W_hr", "zoneout_c")
    W_ih, W_hh, *_ = p.weights
    good: dict[str, Any] = {"cell": b"lstm", "dtype": 4, "input_size": 4, "hidden_size": 9, "W_ih": W_ih, "W_hh": W_hh}
    good |= {"training": 1, "proj_size": 3, "W_hr": p.structure["W_hr"]}
    handle = Pointer()

    def attempt(**changes: Any) -> int:
        return API.weights_new(ct.byref(StructuredLayer(**(good | changes))), ct.byref(handle))

    refused(attempt(proj_size=9), "proj_size is 9; expected less than hidden_size = 9")
    refused(attempt(proj_size=-1), "proj_size is -1")
    refused(attempt(cell=b"gru_after"), "proj_size is 3, but gru_after is no LSTM")
    refused(attempt(W_hr=None), "W_hr is NULL")
    refused(attempt(proj_size=0), "W_hr is given, but proj_size is 0")
    refused(attempt(zoneout_c=1.0), "zoneout_c is 1; expected 0 <= zoneout_c < 1")
    refused(attempt(zoneout_h=float("nan")), "zoneout_h is nan")
    refused(attempt(cell=b"rnn_tanh", proj_size=0, W_hr=None, zoneout_c=0.5), "only state is h")

    done(attempt(zoneout_c=0.5))
    weights, tape = Pointer(handle.value), Pointer()
    masks: dict[str, Any] = {"zoneout_c": p.structure["zoneout_c"]}

    def forward(**given: Any) -> int:
        return API.forward(weights, ct.byref(StructuredForward(T=3, B=2, x=p.x, **given)), ct.byref(tape))

    refused(forward(), "zoneout_c is NULL, but the weights have a rate of 0.5")
    refused(forward(zoneout_c=np.full((3, 2, 9), 2, np.uint8)), "zoneout_c[0][0][0] is 2; expected 0 or 1")
    refused(forward(recurrent_mask=p.x.ctypes.data + 1, **masks), "recurrent_mask is not aligned")
    given = ct.byref(StructuredForward(T=3, B=2, x=p.x, **masks))
    refused(API.forward(weights, given, None), "no tape is wanted")
    done(forward(**masks))
    API.tape_free(tape)
    API.weights_free(weights)
    plain = pack("lstm", make_problem(rng, "lstm", "float32", T=1, B=1, I=4, H=9).weights, training=True)
    tape = made(API.forward, plain, ct.byref(Forward(T=3, B=2, x=p.x)))
    backward = StructuredBackward(dW_hr=p.structure["W_hr"])
    refused(API.backward(tape, ct.byref(backward)), "dW_hr is given, but there is no projection")
    API.tape_free(tape)
    API.weights_free(plain)


@DTYPES
def test_strides_and_what_is_not_wanted(rng, dtype):
    problem = make_problem(rng, "lstm", dtype, T=6, B=3, I=4, H=8)
    weights = pack("lstm", problem.weights, training=True)
    T, B, I, H = (problem.sizes[k] for k in "TBIH")
    expected, tape = problem.forward(functional)
    d_expected = problem.backward(functional, tape)
    x = np.ascontiguousarray(problem.x.swapaxes(0, 1))  # batch first
    both = np.full((T, B, 2 * H), 7, dtype)  # y goes into the second half, last step first
    h, c = (s.copy() for s in problem.state)  # updated in place
    forward = Forward(T=T, B=B, x=x, x_time=I, x_batch=T * I, h_0=h, c_0=c, h_n=h, c_n=c)
    forward.y = both[-1, :, H:].ctypes.data
    forward.y_time, forward.y_batch = -B * 2 * H, 2 * H
    tape = made(API.forward, weights, ct.byref(forward))
    assert_same_bits({"y": both[::-1, :, H:], "h_n": h, "c_n": c}, expected, "forward")
    assert (both[..., :H] == 7).all()
    done(API.forward(weights, ct.byref(Forward(T=T, B=B, x=problem.x)), None))  # no output wanted
    only_c = np.empty((B, H), dtype)
    h, c = problem.state
    done(API.forward(weights, ct.byref(Forward(T=T, B=B, x=problem.x, h_0=h, c_0=c, c_n=only_c)), None))
    assert_same_bits(only_c, expected["c_n"], "c_n alone")

    dh, dc = (d.copy() for d in problem.dstate)
    dx = np.ones((B, T, I), dtype)
    backward = Backward(dy=problem.dy, dh_n=dh, dc_n=dc, dx=dx, dx_time=I, dx_batch=T * I, dh_0=dh, dc_0=dc)
    backward.accumulate_dx = 1
    done(API.backward(tape, ct.byref(backward)))
    assert_same_bits({"dh_0": dh, "dc_0": dc}, {k: d_expected[k] for k in ("dh_0", "dc_0")}, "in place")
    np.testing.assert_allclose(dx.swapaxes(0, 1), 1 + d_expected["dx"], rtol=1e-6)
    dW_hh = np.empty_like(problem.weights[1])
    done(
        API.backward(
            tape, ct.byref(Backward(dy=problem.dy, dh_n=problem.dstate[0], dc_n=problem.dstate[1], dW_hh=dW_hh))
        )
    )
    assert_same_bits(dW_hh, d_expected["dW_hh"], "dW_hh alone, from a tape used before")
    API.tape_free(tape)
    API.weights_free(weights)


@EACH_CELL
@DTYPES
@pytest.mark.parametrize(("T", "B"), [(0, 3), (4, 0), (0, 0)])
def test_empty_sequences(cell, dtype, rng, T, B):
    problem = make_problem(rng, cell, dtype, T=1, B=max(B, 1), I=3, H=6)
    weights = pack(cell, problem.weights, training=True, **units_of(problem))
    h_0, h_n = np.ones((B, 6), dtype), np.zeros((B, 6), dtype)
    tape = made(API.forward, weights, ct.byref(Forward(T=T, B=B, h_0=h_0, h_n=h_n)))
    assert (h_n == h_0).all()
    dW_ih = np.ones_like(problem.weights[0])
    done(API.backward(tape, ct.byref(Backward(dW_ih=dW_ih))))
    assert not dW_ih.any()
    API.tape_free(tape)
    API.weights_free(weights)


@EACH_CELL
@DTYPES
def test_streams_give_python_s_bits(isa, cell, dtype, rng):
    name, options = VARIANTS[cell]
    layer = LAYERS[name](6, 20, 2, dtype=dtype, rng=rng, **options)
    frozen = layer.freeze()
    capsules = frozen.c_weights()
    handles = (Pointer * 2)(*(capsule_pointer(c, b"fusedrnn_weights") for c in capsules))
    stream = made(API.stream_new, handles, 2, 3)
    twin = frozen.stream(3)
    del frozen, capsules  # the stream has its own reference
    states = CELLS[cell].states
    parts = [np.zeros((2, 3, 20), dtype) for _ in range(states)]
    h, c = parts[0], parts[1] if states == 2 else None
    y = np.empty((3, 20), dtype)
    for t in range(6):
        if t % 2:
            tokens = rng.integers(0, 6, 3)
            done(API.stream_step_tokens(stream, tokens.ctypes.data, y.ctypes.data))
            assert_same_bits(y, twin.step(tokens), "tokens")
        else:
            x = rng.standard_normal((3, 6)).astype(dtype)
            done(API.stream_step(stream, x.ctypes.data, y.ctypes.data))
            assert_same_bits(y, twin.step(x), "step")
        done(API.stream_get_state(stream, data(h), data(c)))
        assert_same_bits(tuple(parts), twin.get_state(), "state")
        if t == 3:
            rows = np.array([True, False, True])
            done(API.stream_reset(stream, rows.ctypes.data))
            twin.reset(rows)
    for part in parts:
        part[...] = rng.standard_normal(part.shape)
    done(API.stream_set_state(stream, data(h), data(c)))
    twin.set_state(tuple(parts))
    x = rng.standard_normal((3, 6)).astype(dtype)
    done(API.stream_step(stream, x.ctypes.data, y.ctypes.data))
    assert_same_bits(y, twin.step(x), "after set_state")
    done(API.stream_reset(stream, None))
    done(API.stream_get_state(stream, data(h), data(c)))
    assert not any(part.any() for part in parts)
    API.stream_free(stream)


@DTYPES
def test_options_of_python_s_layers_come_along(dtype, rng):
    layer = fusedrnn.LSTM(6, 19, peephole="ifo", clip=2.0, activation="softsign", dtype=dtype, rng=rng)
    frozen = layer.freeze()
    (capsule,) = frozen.c_weights()
    weights = capsule_pointer(capsule, b"fusedrnn_weights")
    x = rng.standard_normal((7, 3, 6)).astype(dtype)
    expected, (h_n, c_n) = frozen(x)
    y, h, c = np.empty((7, 3, 19), dtype), np.empty((3, 19), dtype), np.empty((3, 19), dtype)
    done(API.forward(weights, ct.byref(Forward(T=7, B=3, x=x, y=y, h_n=h, c_n=c)), None))
    assert_same_bits((y, h, c), (expected, h_n[0], c_n[0]), "forward")
    stream = made(API.stream_new, (Pointer * 1)(weights), 1, 3)
    for t in range(7):
        done(API.stream_step(stream, x[t].ctypes.data, h.ctypes.data))
        assert_same_bits(h, expected[t], "step")
    API.stream_free(stream)


@EACH_CELL
def test_info_tells_what_weights_are(isa, cell, rng):
    problem = make_problem(rng, cell, "float64", T=1, B=1, I=3, H=6)
    weights = pack(cell, problem.weights, training=True, **units_of(problem))
    again = made(API.weights_share, weights)
    API.weights_free(weights)
    info = Info()
    done(API.weights_info(again, ct.byref(info)))
    assert (info.cell.decode(), info.isa.decode(), info.dtype, info.training) == (cell, isa, 8, 1)
    assert (info.input_size, info.hidden_size, info.states) == (problem.sizes["I"], 6, len(problem.state))
    assert info.gates * 6 == problem.weights[0].shape[0]
    assert info.nbytes > 0
    API.weights_free(again)


# ---- what is refused


def refused(code: int, *words: str, expected: int = INVALID) -> None:
    message = API.message().decode()
    assert code == expected, (code, message)
    for word in words:
        assert word in message


def test_wrong_weights_are_refused():
    W = np.zeros((20, 5), np.float32)
    good: dict[str, Any] = {"cell": b"lstm", "dtype": 4, "input_size": 5, "hidden_size": 5, "W_ih": W, "W_hh": W}
    handle = Pointer()

    def attempt(**changes: Any) -> int:
        return API.weights_new(ct.byref(Layer(**(good | changes))), ct.byref(handle))

    refused(API.weights_new(None, ct.byref(handle)), "weights_new", "NULL")
    refused(API.weights_new(ct.byref(Layer(**good)), None), "NULL")
    refused(attempt(cell=b"transformer"), "unknown cell 'transformer'")
    refused(attempt(cell=b"x" * 2000), "unknown cell")
    refused(attempt(cell=None), "cell is NULL")
    refused(attempt(dtype=2), "dtype is 2")
    refused(attempt(input_size=0), "input_size is 0")
    refused(attempt(hidden_size=-3), "hidden_size is -3")
    refused(attempt(hidden_size=2**31), "hidden_size is 2147483648")
    refused(attempt(W_ih=None), "W_ih is NULL")
    refused(attempt(W_hh=W.ctypes.data + 1), "W_hh is not aligned to 4")
    refused(attempt(b_hh=W.ctypes.data + 2), "b_hh is not aligned")
    refused(attempt(hidden_size=2**31 - 1, input_size=2**31 - 1, dtype=8), expected=MEMORY)
    assert not handle
    for share in (API.weights_share, API.weights_info):
        refused(share(None, ct.byref(handle)), "NULL")
    for free in (API.weights_free, API.tape_free, API.stream_free):
        free(None)
    assert API.tape_nbytes(None) == 0


def test_wrong_calls_are_refused(rng):
    p = make_problem(rng, "gru_after", "float32", T=4, B=3, I=5, H=6)
    inference, weights = pack(p.cell, p.weights), pack(p.cell, p.weights, training=True)
    y, h = np.full((4, 3, 6), 7, np.float32), np.zeros((3, 6), np.float32)
    tokens = np.zeros((4, 3), np.int64)

    def attempt(tape: Any = None, **changes: Any) -> int:
        return API.forward(weights, ct.byref(Forward(**({"T": 4, "B": 3, "x": p.x, "y": y} | changes))), tape)

    handle = Pointer()
    refused(API.forward(None, ct.byref(Forward()), None), "weights are NULL")
    refused(API.forward(weights, None, None), "NULL")
    refused(API.forward(inference, ct.byref(Forward(T=4, B=3, x=p.x)), ct.byref(handle)), "not packed for training")
    refused(attempt(T=-1), "T is -1")
    refused(attempt(x=None), "x and tokens are NULL")
    refused(attempt(tokens=tokens), "one of them")
    refused(attempt(x=None, tokens=tokens - 1), "tokens[0][0] is -1")
    refused(attempt(x=None, tokens=tokens + 5), "input_size = 5")
    refused(attempt(lengths=np.array([4, 5, 1])), "lengths[1] is 5")
    refused(attempt(lengths=np.array([-1, 4, 1])), "lengths[0] is -1")
    refused(attempt(c_0=h), "only state is h")
    refused(attempt(x=p.x.ctypes.data + 1), "x is not aligned")
    refused(attempt(y=y.ctypes.data + 2), "y is not aligned")
    refused(attempt(h_0=h.ctypes.data + 2), "h_0 is not aligned")
    refused(attempt(y=p.x), "y overlaps x")
    refused(attempt(y=p.x.ctypes.data + 8 - y.nbytes), "y overlaps x")
    refused(attempt(h_n=y), "h_n overlaps y")
    refused(attempt(x=None, tokens=tokens, h_n=tokens), "h_n overlaps tokens")
    for strides in [(6, 6), (3, 18), (18, 5), (12, 6), (0, 6), (-17, 6)]:
        refused(attempt(y_time=strides[0], y_batch=strides[1]), "rows of y overlap")
    refused(attempt(T=2**62, B=2**62), expected=MEMORY)
    refused(attempt(x_time=2**62), expected=MEMORY)
    assert (y == 7).all()

    done(attempt(ct.byref(handle)))
    d = np.empty((4, 3, 6), np.float32)
    refused(API.backward(None, ct.byref(Backward())), "tape is NULL")
    refused(API.backward(handle, None), "NULL")
    refused(API.backward(handle, ct.byref(Backward(dc_n=h))), "only state is h")
    refused(API.backward(handle, ct.byref(Backward(dy=p.dy, dx=p.dy))), "dx overlaps dy")
    refused(API.backward(handle, ct.byref(Backward(dy=p.dy.ctypes.data + 1))), "dy is not aligned")
    refused(API.backward(handle, ct.byref(Backward(dW_ih=d, db_ih=d))), "db_ih overlaps dW_ih")
    API.tape_free(handle)
    done(attempt(ct.byref(handle), x=None, tokens=tokens))
    refused(API.backward(handle, ct.byref(Backward(dx=d))), "tokens have no gradient")
    API.tape_free(handle)
    API.weights_free(inference)
    API.weights_free(weights)


def test_wrong_streams_are_refused(rng):
    p = make_problem(rng, "gru_after", "float32", T=1, B=2, I=5, H=6)
    q = make_problem(rng, "gru_after", "float64", T=1, B=2, I=6, H=6)
    first, second = pack(p.cell, p.weights), pack(q.cell, q.weights)
    handle = Pointer()
    refused(API.stream_new(None, 1, 1, ct.byref(handle)), "NULL")
    refused(API.stream_new((Pointer * 1)(first), 0, 1, ct.byref(handle)), "layers is 0")
    refused(API.stream_new((Pointer * 1)(first), 1, 0, ct.byref(handle)), "B is 0")
    refused(API.stream_new((Pointer * 1)(None), 1, 1, ct.byref(handle)), "weights are NULL")
    refused(API.stream_new((Pointer * 2)(first, second), 2, 1, ct.byref(handle)), "different dtypes")
    refused(API.stream_new((Pointer * 2)(first, first), 2, 1, ct.byref(handle)), "does not fit gru_after(5, 6)")
    stream = made(API.stream_new, (Pointer * 1)(first), 1, 2)
    x, y = np.zeros((2, 5), np.float32), np.zeros((2, 6), np.float32)
    refused(API.stream_step(None, x.ctypes.data, y.ctypes.data), "stream is NULL")
    refused(API.stream_step(stream, None, y.ctypes.data), "x is NULL")
    refused(API.stream_step(stream, x.ctypes.data, None), "y is NULL")
    refused(API.stream_step(stream, x.ctypes.data + 1, y.ctypes.data), "x is not aligned")
    refused(API.stream_step(stream, y.ctypes.data, y.ctypes.data), "y overlaps x")
    refused(API.stream_step_tokens(stream, None, y.ctypes.data), "tokens is NULL")
    refused(API.stream_step_tokens(stream, np.array([0, 5]).ctypes.data, y.ctypes.data), "tokens[1] is 5")
    refused(API.stream_get_state(stream, None, y.ctypes.data), "only state is h")
    refused(API.stream_set_state(stream, y.ctypes.data + 1, None), "not aligned")
    done(API.stream_step(stream, x.ctypes.data, y.ctypes.data))  # and it still works
    API.stream_free(stream)
    API.weights_free(first)
    API.weights_free(second)


def test_structs_may_grow(rng):
    p = make_problem(rng, "rnn_tanh", "float32", T=2, B=1, I=3, H=4)
    weights = pack(p.cell, p.weights)

    class Newer(PackedForward):
        _fields_ = [("an_option", Pointer)]

    newer = Newer(T=2, B=1, x=p.x)
    assert newer.size == ct.sizeof(PackedForward) + 8
    done(API.forward(weights, ct.byref(newer), None))
    newer.an_option = 1
    refused(API.forward(weights, ct.byref(newer), None), "an option is set that this version")
    older = Forward(T=2, B=1, x=p.x)
    older.size -= 8
    refused(API.forward(weights, ct.byref(older), None), f"expected sizeof of the struct, {ct.sizeof(PackedForward)}")
    older.size = 2**40  # never set
    refused(API.forward(weights, ct.byref(older), None), "size is")
    API.weights_free(weights)


# ---- threads, forks, interrupts


def test_many_threads_share_weights_and_tapes(rng):
    p = make_problem(rng, "lstm", "float32", T=20, B=8, I=40, H=64)
    expected = p.forward(functional)[0]["y"]
    weights = pack(p.cell, p.weights, training=True)
    expected_dW = input_weights_gradient(p, weights)

    def work(_: int) -> bool:
        y = np.empty_like(expected)
        done(API.forward(weights, ct.byref(Forward(T=20, B=8, x=p.x, h_0=p.state[0], c_0=p.state[1], y=y)), None))
        return np.array_equal(y, expected) and np.array_equal(input_weights_gradient(p, weights), expected_dW)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(60)))
    API.weights_free(weights)


def input_weights_gradient(p: Problem, weights: Pointer) -> Any:
    tape = made(API.forward, weights, ct.byref(Forward(T=20, B=8, x=p.x, h_0=p.state[0], c_0=p.state[1])))
    dW = np.empty_like(p.weights[0])
    done(API.backward(tape, ct.byref(Backward(dy=p.dy, dW_ih=dW))))
    API.tape_free(tape)
    return dW


def test_messages_belong_to_their_thread():
    refused(API.stream_step(None, None, None), "stream_step")
    seen = []

    def other() -> None:
        seen.append(API.message())
        refused(API.backward(None, None), "backward")

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [b""]
    assert b"stream_step" in API.message()


def test_a_stream_in_use_is_refused(rng):
    p = make_problem(rng, "lstm", "float32", T=1, B=256, I=512, H=512)
    weights = pack(p.cell, p.weights)
    stream = made(API.stream_new, (Pointer * 1)(weights), 1, 256)
    API.weights_free(weights)
    codes = set()

    def work() -> None:
        x, y = np.zeros((256, 512), np.float32), np.empty((256, 512), np.float32)
        for _ in range(300):
            codes.add(API.stream_step(stream, x.ctypes.data, y.ctypes.data))
            if BUSY in codes:
                break

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == {OK, BUSY}
    API.stream_free(stream)


def test_threads_are_python_s():
    before = API.get_num_threads()
    assert before == fusedrnn.get_num_threads()
    with fusedrnn.threads(3):
        assert API.get_num_threads() == 3
    try:
        done(API.set_num_threads(5))
        assert fusedrnn.get_num_threads() == 5
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(API.get_num_threads).result() == before
    finally:
        done(API.set_num_threads(0))
    assert API.get_num_threads() == before
    refused(API.set_num_threads(-1), "n is -1")


@pytest.mark.parametrize("threads", [1, 2])
def test_a_call_can_be_interrupted(rng, threads):
    p = make_problem(rng, "lstm", "float32", T=50, B=64, I=128, H=128)
    weights = pack(p.cell, p.weights, training=True)
    asked = []
    caller = threading.get_ident()

    @INTERRUPT
    def enough(argument: int) -> int:
        asked.append((argument, threading.get_ident() == caller))
        return len(asked) >= 3

    with fusedrnn.threads(threads):
        arguments = Forward(T=50, B=64, x=p.x, interrupted=enough, interrupted_argument=12345)
        refused(API.forward(weights, ct.byref(arguments), None), "interrupted", expected=INTERRUPTED)
        assert len(asked) >= 3
        assert set(asked) == {(12345, True)}
        tape = made(API.forward, weights, ct.byref(Forward(T=50, B=64, x=p.x)))
        asked.clear()
        backward = Backward(dy=p.dy, interrupted=enough, interrupted_argument=12345)
        refused(API.backward(tape, ct.byref(backward)), "interrupted", expected=INTERRUPTED)
        assert set(asked) == {(12345, True)}
        done(API.backward(tape, ct.byref(Backward(dy=p.dy))))  # everything still works
    API.tape_free(tape)
    API.weights_free(weights)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_handles_work_in_a_forked_child():
    script = """
import os, sys
sys.path.insert(0, {tests!r})
import numpy as np, fusedrnn, test_c_api as c
from problems import make_problem
fusedrnn.set_num_threads(2)
p = make_problem(np.random.default_rng(0), "lstm", "float32", T=30, B=64, I=200, H=200)
weights = c.pack(p.cell, p.weights)
stream = c.made(c.API.stream_new, (c.Pointer * 1)(weights), 1, 64)
def work():
    y = np.empty((30, 64, 200), np.float32)
    c.done(c.API.forward(weights, c.ct.byref(c.Forward(T=30, B=64, x=p.x, y=y)), None))
    step = np.empty((64, 200), np.float32)
    c.done(c.API.stream_reset(stream, None))
    c.done(c.API.stream_step(stream, p.x.ctypes.data, step.ctypes.data))
    return y.tobytes() + step.tobytes()
expected = work()
child = os.fork()
if child == 0:
    os._exit(0 if work() == expected else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    command = [sys.executable, "-W", "ignore", "-c", script.format(tests=str(Path(__file__).parent))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_steps_stay_on_the_calling_thread():
    """The header promises this for audio callbacks; Python's streams use several threads for large weights."""
    script = """
import os, sys
sys.path.insert(0, {tests!r})
import numpy as np, fusedrnn, test_c_api as c
from problems import make_problem
fusedrnn.set_num_threads(1)  # packing, too, takes several
p = make_problem(np.random.default_rng(0), "lstm", "float32", T=1, B=1, I=600, H=600)
weights = c.pack(p.cell, p.weights)
fusedrnn.set_num_threads(2)
stream = c.made(c.API.stream_new, (c.Pointer * 1)(weights), 1, 1)
x, y = np.zeros((1, 600), np.float32), np.empty((1, 600), np.float32)
before = len(os.listdir("/proc/self/task"))
for _ in range(20):
    c.done(c.API.stream_step(stream, x.ctypes.data, y.ctypes.data))
print(len(os.listdir("/proc/self/task")) - before)
"""
    command = [sys.executable, "-W", "ignore", "-c", script.format(tests=str(Path(__file__).parent))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.stdout.split() == ["0"], ended.stderr


# ---- with compilers

CC = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
CXX = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++") or shutil.which("clang++")
PYTHON_H = Path(sysconfig.get_path("include")) / "Python.h"
NEEDS_C = pytest.mark.skipif(CC is None or not PYTHON_H.exists(), reason="no C compiler, or no Python.h")
LIBPYTHON = sysconfig.get_config_var("LIBDIR") or ""
LINK = [f"-L{LIBPYTHON}", f"-Wl,-rpath,{LIBPYTHON}", f"-lpython{sysconfig.get_config_var('LDVERSION')}"]
CAN_EMBED = any(Path(LIBPYTHON).glob(f"libpython{sysconfig.get_config_var('LDVERSION')}.*"))
NEEDS_CYTHON = pytest.mark.skipif(importlib.util.find_spec("Cython") is None, reason="pip install cython")
INCLUDES = [f"-I{fusedrnn.get_include()}", f"-I{sysconfig.get_path('include')}"]
STRICT = ["-Wall", "-Wextra", "-Werror"]


def call(*command: Any, **options: Any) -> str:
    ended = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=100, **options)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def compiled_extension(source: Path, folder: Path, *flags: str) -> Path:
    """Compile a C file to an importable module in the folder."""
    target = folder / (source.stem + (sysconfig.get_config_var("EXT_SUFFIX") or ".so"))
    shared = ["-undefined", "dynamic_lookup", "-bundle"] if sys.platform == "darwin" else ["-shared"]
    call(CC, "-O2", "-fPIC", *flags, *shared, *INCLUDES, source, "-o", target)
    return target


def cythonized(source: Path, folder: Path) -> Path:
    """Compile a Cython file to an importable module in the folder; kernels.pxd comes from the installed package."""
    root = Path(fusedrnn.__file__).parents[1]
    c = folder / f"{source.stem}.c"
    call(sys.executable, "-m", "cython", "-3", "-Werror", "-I", root, source, "-o", c)
    return compiled_extension(c, folder)


def test_cython_declares_what_the_header_has():
    header = re.sub(r"/\*.*?\*/", "", HEADER.read_text(encoding="utf-8"), flags=re.DOTALL)
    pxd = (HEADER.parents[1] / "kernels.pxd").read_text(encoding="utf-8")
    members = re.findall(r"\(\*(\w+)\)\(", header) + re.findall(r"\b(FUSEDRNN_\w+)\b", header)
    for name in set(members) - {"FUSEDRNN_H", "FUSEDRNN_CAPSULE"}:
        assert re.search(rf"\b{name}\b", pxd), name
    for struct, body in re.findall(r"typedef struct \w+ \{(.*?)\} (\w+);", header, re.DOTALL):
        names = re.findall(r"(\w+)(?=\s*[,;])", re.sub(r"\([^*].*?\)", "", struct))
        declared = pxd[pxd.index(f"ctypedef struct {body}:") :].split("ctypedef struct")[1]
        for name in names:
            assert re.search(rf"\b{name}\b", declared), (body, name)


@pytest.mark.parametrize("standard", ["c99", "c17", "c++11", "c++17"])
@pytest.mark.parametrize("python", [False, True])
@NEEDS_C
@pytest.mark.skipif(CXX is None, reason="no C++ compiler")
def test_the_header_is_clean_c_and_cpp(tmp_path, standard, python):
    cpp = "++" in standard
    source = tmp_path / ("user.cpp" if cpp else "user.c")
    use = "const fusedrnn_api *f(void) { return fusedrnn_import(); }" if python else "fusedrnn_forward f;"
    source.write_text(f"{'#include <Python.h>' if python else ''}\n#include <fusedrnn.h>\n{use}\n")
    pedantic = [] if python else ["-pedantic"]
    call(CXX if cpp else CC, f"-std={standard}", *STRICT, *pedantic, *INCLUDES, "-fsyntax-only", source)


@NEEDS_C
def test_struct_layout_is_what_old_programs_have(tmp_path):
    structs = {"layer": Layer, "info": Info, "forward": Forward, "backward": Backward, "api": Table}
    later = {"layer": StructuredLayer, "info": StructuredInfo, "forward": StructuredForward}
    later["backward"] = StructuredBackward
    checks = [
        f'_Static_assert(offsetof(fusedrnn_{name}, {field[0]}) == {getattr(struct, field[0]).offset}, "{field[0]}");'
        for name, struct in (*structs.items(), *later.items())
        for field in struct._fields_
    ]
    source = tmp_path / "layout.c"
    source.write_text("#include <fusedrnn.h>\n" + "\n".join(checks) + "\n")
    call(CC, "-std=c11", *STRICT, *INCLUDES, "-fsyntax-only", source)


WRONG_VERSION = """
#include <Python.h>
#include <fusedrnn.h>
static PyObject *run(PyObject *self, PyObject *unused) {
  static fusedrnn_api other;
  PyObject *core, *capsule;
  (void)self, (void)unused;
  other.size = %s, other.abi = %s, other.version = "9.9";
  core = PyImport_ImportModule("fusedrnn._core");
  capsule = PyCapsule_New(&other, FUSEDRNN_CAPSULE, NULL);
  if (!core || !capsule || PyObject_SetAttrString(core, "_C_API", capsule) < 0) return NULL;
  if (!fusedrnn_import()) return NULL;
  Py_RETURN_NONE;
}
static PyMethodDef methods[] = {{"run", run, METH_NOARGS, ""}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "%s", NULL, -1, methods, NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit_%s(void) { return PyModule_Create(&module); }
"""


@NEEDS_C
@pytest.mark.parametrize(
    ("name", "size", "abi", "advice"),
    [("older", "sizeof other - 8", "1", "update fusedrnn"), ("other_abi", "sizeof other", "2", "compile again")],
)
def test_another_version_is_refused_on_import(tmp_path, name, size, abi, advice):
    source = tmp_path / f"{name}.c"
    source.write_text(WRONG_VERSION % (size, abi, name, name))
    compiled_extension(source, tmp_path, "-Wall", "-Wextra", "-Werror")
    script = f"import {name}\ntry: {name}.run()\nexcept ImportError as e: print(e)"
    assert advice in call(sys.executable, "-c", script, cwd=tmp_path)


@NEEDS_C
@NEEDS_CYTHON
def test_cython_example(tmp_path):
    cythonized(EXAMPLES / "audio_loop.pyx", tmp_path)
    printed = call(
        sys.executable, EXAMPLES / "play.py", "--seconds", "0.2", env=os.environ | {"PYTHONPATH": str(tmp_path)}
    )
    assert re.search(r"\d+ ns per sample", printed)
    assert "same as stream.step: True" in printed


@NEEDS_C
@pytest.mark.skipif(not CAN_EMBED, reason="no shared libpython to embed")
def test_c_example(tmp_path):
    program = tmp_path / "sine"
    call(CC, "-O2", "-std=c99", *STRICT, *INCLUDES, EXAMPLES / "sine.c", "-o", program, *LINK, "-lm", "-ldl")
    # The program's Python does not know this virtual environment, nor the editable installs in it.
    folders = [p for p in sys.path if p.endswith("-packages")]
    (tmp_path / "sitecustomize.py").write_text(f"import site\nfor p in {folders}: site.addsitedir(p)\n")
    printed = call(program, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    errors = [float(error) for error in re.findall(r"error ([\d.]+)", printed)]
    assert errors[-1] < 0.02 * errors[0]
    assert printed.count("network") == 10
