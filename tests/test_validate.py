"""Each error message of the public API, exactly; and refused calls change nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusedrnn
from fusedrnn import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell, functional

F32 = np.float32
Case = tuple[Callable[[], Any], type[Exception], str]


def zeros(*shape: int, dtype: Any = F32) -> np.ndarray[Any, Any]:
    return np.zeros(shape, dtype)


def raises(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    __tracebackhide__ = True
    with pytest.raises(error, match=f"^{re.escape(message)}$") as info:
        call()
    assert type(info.value) is error


def cases(table: dict[str, Case]) -> Any:
    return pytest.mark.parametrize(("call", "error", "message"), list(table.values()), ids=list(table))


lstm = LSTM(8, 16, rng=0)
gru = GRU(8, 16, rng=0)
two_way = GRU(8, 16, num_layers=2, bidirectional=True, rng=0)
batch_first = LSTM(8, 16, batch_first=True, rng=0)
pairwise = RNN(8, 16, bidirectional=True, merge=None, rng=0)
tiny = LSTM(2, 2)
frozen = lstm.freeze()
frozen_pair = pairwise.freeze()

CONSTRUCTORS: dict[str, Case] = {
    "size float": (
        lambda: LSTM(8.0, 16),  # type: ignore[arg-type]
        TypeError,
        "LSTM: input_size is 8.0 (float); expected an integer >= 1",
    ),
    "size bool": (lambda: GRU(8, True), TypeError, "GRU: hidden_size is True (bool); expected an integer >= 1"),
    "size numpy bool": (
        lambda: GRU(8, np.True_),  # type: ignore[arg-type]
        TypeError,
        f"GRU: hidden_size is {np.True_!r} ({type(np.True_).__name__}); expected an integer >= 1",
    ),
    "number beyond floats": (
        lambda: LSTM(3, 5, dropout=10**400),
        ValueError,
        "LSTM: dropout is inf; expected 0 <= dropout < 1",
    ),
    "dtype fields": (
        lambda: LSTM(3, 5, dtype={"names": ["a"], "formats": []}),  # type: ignore[arg-type]
        TypeError,
        "LSTM: dtype is {'names': ['a'], 'formats': []}; expected float32 or float64",
    ),
    "size str": (
        lambda: RNN("8", 16),  # type: ignore[arg-type]
        TypeError,
        "RNN: input_size is '8' (str); expected an integer >= 1",
    ),
    "size zero": (lambda: RNN(0, 16), ValueError, "RNN: input_size is 0; expected an integer >= 1"),
    "size negative": (lambda: RNN(8, -1), ValueError, "RNN: hidden_size is -1; expected an integer >= 1"),
    "layers zero": (lambda: RNN(8, 16, 0), ValueError, "RNN: num_layers is 0; expected an integer >= 1"),
    "size large": (
        lambda: LSTM(10**12, 4),
        ValueError,
        "LSTM: input_size is 1000000000000; expected at most 2147483647",
    ),
    "size beyond int64": (
        lambda: LSTM(4, 10**30),
        ValueError,
        f"LSTM: hidden_size is {10**30}; expected at most 2147483647",
    ),
    "layers many": (
        lambda: LSTM(4, 9, 2**31 - 1),
        ValueError,
        "LSTM: num_layers is 2147483647; expected at most 4096",
    ),
    "product large": (
        lambda: LSTM(2**31 - 1, 2**31 - 1),
        ValueError,
        f"LSTM: the parameters would take {(8 * (2**31 - 1) ** 2 + 8 * (2**31 - 1)) * 4} bytes; "
        f"expected at most {2**63 - 1}",
    ),
    "bias": (lambda: LSTM(8, 16, 1, 1), TypeError, "LSTM: bias is 1 (int); expected True, False or 'single'"),  # type: ignore[arg-type]
    "batch_first": (
        lambda: GRU(8, 16, batch_first="yes"),  # type: ignore[arg-type]
        TypeError,
        "GRU: batch_first is 'yes' (str); expected True or False",
    ),
    "bidirectional": (
        lambda: GRU(8, 16, bidirectional=None),  # type: ignore[arg-type]
        TypeError,
        "GRU: bidirectional is None (NoneType); expected True or False",
    ),
    "reset_after": (
        lambda: GRU(8, 16, reset_after=0),  # type: ignore[arg-type]
        TypeError,
        "GRU: reset_after is 0 (int); expected True or False",
    ),
    "dropout one": (lambda: GRU(8, 16, 2, dropout=1), ValueError, "GRU: dropout is 1.0; expected 0 <= dropout < 1"),
    "dropout negative": (
        lambda: GRU(8, 16, 2, dropout=-0.1),
        ValueError,
        "GRU: dropout is -0.1; expected 0 <= dropout < 1",
    ),
    "dropout nan": (
        lambda: GRU(8, 16, 2, dropout=float("nan")),
        ValueError,
        "GRU: dropout is nan; expected 0 <= dropout < 1",
    ),
    "dropout bool": (
        lambda: GRU(8, 16, 2, dropout=True),
        TypeError,
        "GRU: dropout is True (bool); expected a number p, 0 <= p < 1",
    ),
    "dropout str": (
        lambda: GRU(8, 16, 2, dropout="0.5"),  # type: ignore[arg-type]
        TypeError,
        "GRU: dropout is '0.5' (str); expected a number p, 0 <= p < 1",
    ),
    "nonlinearity": (
        lambda: RNN(8, 16, nonlinearity="sigmoid"),
        ValueError,
        "RNN: nonlinearity is 'sigmoid'; expected one of 'tanh', 'relu'",
    ),
    "merge": (
        lambda: RNN(8, 16, bidirectional=True, merge="max"),
        ValueError,
        "RNN: merge is 'max'; expected one of 'concat', 'sum', 'mean', 'mul', None",
    ),
    "merge of one": (
        lambda: RNN(8, 16, merge="sum"),
        ValueError,
        "RNN: merge is 'sum', but bidirectional=False; expected 'concat'",
    ),
    "merge None of one": (
        lambda: RNN(8, 16, merge=None),
        ValueError,
        "RNN: merge is None, but bidirectional=False; expected 'concat'",
    ),
    "dtype int": (
        lambda: RNN(8, 16, dtype=np.int32),
        TypeError,
        "RNN: dtype is int32; expected float32 or float64",
    ),
    "dtype half": (lambda: RNN(8, 16, dtype="f2"), TypeError, "RNN: dtype is float16; expected float32 or float64"),
    "dtype swapped": (lambda: RNN(8, 16, dtype=">f4"), TypeError, "RNN: dtype is >f4; expected float32 or float64"),
    "dtype None": (lambda: RNN(8, 16, dtype=None), TypeError, "RNN: dtype is None; expected float32 or float64"),
    "dtype nonsense": (
        lambda: RNN(8, 16, dtype="floatish"),
        TypeError,
        "RNN: dtype is 'floatish'; expected float32 or float64",
    ),
    "rng": (
        lambda: RNN(8, 16, rng="seed"),  # type: ignore[arg-type]
        TypeError,
        "RNN: rng is a str; expected a seed or a numpy.random.Generator",
    ),
    "rng bool": (
        lambda: RNN(8, 16, rng=True),
        TypeError,
        "RNN: rng is True (bool); expected a seed or a numpy.random.Generator",
    ),
    "rng negative": (
        lambda: RNN(8, 16, rng=-1),
        ValueError,
        "RNN: rng is -1, no valid seed: expected non-negative integer",
    ),
    "proj_size": (
        lambda: LSTM(8, 16, proj_size=16),
        ValueError,
        "LSTM: proj_size is 16; expected less than hidden_size = 16, or 0 for none",
    ),
    "peephole": (
        lambda: LSTM(8, 16, peephole="iof"),
        ValueError,
        "LSTM: peephole is 'iof'; expected one of None, 'ifo', 'o_prev'",
    ),
    "cell size": (lambda: LSTMCell(0, 16), ValueError, "LSTMCell: input_size is 0; expected an integer >= 1"),
    "cell bias": (
        lambda: GRUCell(8, 16, "no"),  # type: ignore[arg-type]
        TypeError,
        "GRUCell: bias is 'no' (str); expected True, False or 'single'",
    ),
    "cell nonlinearity": (
        lambda: RNNCell(8, 16, nonlinearity="gelu"),
        ValueError,
        "RNNCell: nonlinearity is 'gelu'; expected one of 'tanh', 'relu'",
    ),
}

INPUTS: dict[str, Case] = {
    "x size": (
        lambda: lstm(zeros(5, 2, 7)),
        ValueError,
        "LSTM: x has shape (5, 2, 7); expected (T, B, input_size) = (T, B, 8)",
    ),
    "x size batch_first": (
        lambda: batch_first(zeros(2, 5, 7)),
        ValueError,
        "LSTM: x has shape (2, 5, 7); expected (B, T, input_size) = (B, T, 8)",
    ),
    "x size unbatched": (
        lambda: lstm(zeros(5, 7)),
        ValueError,
        "LSTM: x has shape (5, 7); expected (T, input_size) = (T, 8), as floats with two axes are one unbatched "
        "sequence (tokens are integers)",
    ),
    "x axes": (
        lambda: lstm(zeros(8)),
        ValueError,
        "LSTM: x has shape (8,); expected (T, B, input_size) = (T, B, 8), or (T, input_size) unbatched",
    ),
    "x four axes": (
        lambda: batch_first(zeros(1, 2, 3, 8)),
        ValueError,
        "LSTM: x has shape (1, 2, 3, 8); expected (B, T, input_size) = (B, T, 8), or (T, input_size) unbatched",
    ),
    "x complex": (
        lambda: lstm(zeros(5, 2, 8, dtype="c8")),
        TypeError,
        "LSTM: x has dtype complex64; expected a real floating-point dtype, or integers for tokens",
    ),
    "x bool": (
        lambda: lstm(zeros(5, 2, dtype=bool)),
        TypeError,
        "LSTM: x has dtype bool; expected a real floating-point dtype, or integers for tokens",
    ),
    "x object": (
        lambda: lstm(np.array([[None]])),
        TypeError,
        "LSTM: x has dtype object; expected a real floating-point dtype, or integers for tokens (an array of "
        "objects holds None, strings, or arrays of different lengths: pass those as a list, and columns of a table as "
        "numbers)",
    ),
    "x None": (
        lambda: lstm(None),
        TypeError,
        "LSTM: x has dtype object; expected a real floating-point dtype, or integers for tokens (an array of "
        "objects holds None, strings, or arrays of different lengths: pass those as a list, and columns of a table as "
        "numbers)",
    ),
    "x str": (
        lambda: lstm("text"),
        TypeError,
        "LSTM: x has dtype <U4; expected a real floating-point dtype, or integers for tokens "
        "(map strings to integers first: tokens)",
    ),
    "x masked": (
        lambda: lstm(np.ma.masked_array(zeros(5, 2, 8))),
        TypeError,
        "LSTM: x is a masked array; expected a plain one (call .filled(); see lengths=)",
    ),
    "x integers": (
        lambda: lstm(zeros(5, 2, 8, dtype="i4")),
        TypeError,
        "LSTM: x holds integers (int32) in shape (5, 2, 8); integers are tokens of shape (T, B); "
        "for values call x.astype('float32')",
    ),
    "x tokens axes": (
        lambda: batch_first(zeros(dtype="i8")),
        ValueError,
        "LSTM: x has shape (); expected tokens of shape (B, T), or (T,) unbatched",
    ),
    "token high": (
        lambda: lstm(np.array([[1, 2], [3, 8]])),
        IndexError,
        "LSTM: x holds token 8 at t=1, b=1; expected 0 <= token < input_size = 8",
    ),
    "token negative": (
        lambda: batch_first(np.array([[1, 2], [-1, 3]])),
        IndexError,
        "LSTM: x holds token -1 at t=0, b=1; expected 0 <= token < input_size = 8",
    ),
    "token beyond int64": (
        lambda: lstm(np.array([[2**64 - 1]], np.uint64)),
        IndexError,
        f"LSTM: x holds token {2**64 - 1} at t=0, b=0; expected 0 <= token < input_size = 8",
    ),
    "token unbatched": (
        lambda: lstm(np.array([1, 9])),
        IndexError,
        "LSTM: x holds token 9 at t=1; expected 0 <= token < input_size = 8",
    ),
    "token in list": (
        lambda: lstm([np.array([1, 2]), np.array([7, 7, 8])]),
        IndexError,
        "LSTM: x[1] holds token 8 at t=2; expected 0 <= token < input_size = 8",
    ),
    "list size": (
        lambda: lstm([zeros(3, 8), zeros(2, 9)]),
        ValueError,
        "LSTM: x[1] has shape (2, 9); expected (T_1, input_size) = (T_1, 8)",
    ),
    "list axes": (
        lambda: lstm([zeros(8), zeros(8)]),
        ValueError,
        "LSTM: x[0] has shape (8,); expected (T_0, input_size) = (T_0, 8)",
    ),
    "list tokens axes": (
        lambda: lstm([zeros(3, 8, dtype=int)]),
        ValueError,
        "LSTM: x[0] has shape (3, 8); expected tokens of shape (T_0,)",
    ),
    "list mixed": (
        lambda: lstm([zeros(3, 8), zeros(3, dtype="i8")]),
        TypeError,
        "LSTM: x[1] has dtype int64, x[0] has dtype float32; expected all tokens (integers) or all floats",
    ),
    "list dtype": (
        lambda: lstm([zeros(3, 8, dtype="c16")]),
        TypeError,
        "LSTM: x[0] has dtype complex128; expected a real floating-point dtype",
    ),
    "lengths and list": (
        lambda: lstm([zeros(3, 8)], lengths=[3]),
        ValueError,
        "LSTM: lengths given with a list of sequences, which have their own; expected None",
    ),
    "lengths and unbatched": (
        lambda: lstm(zeros(3, 8), lengths=[3]),
        ValueError,
        "LSTM: lengths given with an unbatched x; expected lengths=None",
    ),
    "lengths dtype": (
        lambda: lstm(zeros(5, 2, 8), lengths=[5.0, 4.0]),
        TypeError,
        "LSTM: lengths has dtype float64; expected integers",
    ),
    "lengths bool": (
        lambda: lstm(zeros(5, 2, 8), lengths=[True, False]),
        TypeError,
        "LSTM: lengths has dtype bool; expected integers",
    ),
    "lengths shape": (
        lambda: lstm(zeros(5, 2, 8), lengths=[5, 4, 3]),
        ValueError,
        "LSTM: lengths has shape (3,); expected (B,) = (2,)",
    ),
    "lengths scalar": (
        lambda: lstm(zeros(5, 2, 8), lengths=5),
        ValueError,
        "LSTM: lengths has shape (); expected (B,) = (2,)",
    ),
    "lengths high": (
        lambda: lstm(zeros(5, 2, 8), lengths=[5, 6]),
        ValueError,
        "LSTM: lengths[1] is 6; expected 0 <= length <= T = 5",
    ),
    "lengths negative": (
        lambda: lstm(zeros(5, 2, 8), lengths=[-1, 5]),
        ValueError,
        "LSTM: lengths[0] is -1; expected 0 <= length <= T = 5",
    ),
    "lengths beyond int64": (
        lambda: lstm(zeros(5, 1, 8), lengths=np.array([2**64 - 1], np.uint64)),
        ValueError,
        f"LSTM: lengths[0] is {2**64 - 1}; expected 0 <= length <= T = 5",
    ),
    "state no pair": (
        lambda: lstm(zeros(5, 2, 8), zeros(1, 2, 16)),
        TypeError,
        "LSTM: state is an ndarray; expected a pair (h, c)",
    ),
    "state three": (
        lambda: lstm(zeros(5, 2, 8), (zeros(1, 2, 16),) * 3),
        ValueError,
        "LSTM: state has 3 parts; expected a pair (h, c)",
    ),
    "state half": (
        lambda: lstm(zeros(5, 2, 8), (zeros(1, 2, 16), None)),
        TypeError,
        "LSTM: state c is None; expected an array of (num_layers, B, hidden_size) = (1, 2, 16)",
    ),
    "state shape": (
        lambda: lstm(zeros(5, 2, 8), (zeros(1, 2, 16), zeros(1, 3, 16))),
        ValueError,
        "LSTM: state c has shape (1, 3, 16); expected (num_layers, B, hidden_size) = (1, 2, 16)",
    ),
    "state pair": (
        lambda: gru(zeros(5, 2, 8), (zeros(1, 2, 16), zeros(1, 2, 16))),
        TypeError,
        "GRU: state is a tuple; expected one array h",
    ),
    "state directions": (
        lambda: two_way(zeros(5, 2, 8), zeros(2, 2, 16)),
        ValueError,
        "GRU: state h has shape (2, 2, 16); expected (2*num_layers, B, hidden_size) = (4, 2, 16)",
    ),
    "state unbatched": (
        lambda: gru(zeros(5, 8), zeros(1, 1, 16)),
        ValueError,
        "GRU: state h has shape (1, 1, 16); expected (num_layers, hidden_size) = (1, 16)",
    ),
    "state dtype": (
        lambda: gru(zeros(5, 2, 8), zeros(1, 2, 16, dtype=complex)),
        TypeError,
        "GRU: state h has dtype complex128; expected a real floating-point dtype",
    ),
}


def tape(layer: Any = lstm, x: Any = None, **arguments: Any) -> fusedrnn.Tape:
    made: fusedrnn.Tape = layer.forward(zeros(5, 2, 8) if x is None else x, **arguments)[2]
    return made


def released_tape() -> fusedrnn.Tape:
    t = tape()
    t.release()
    return t


BACKWARD: dict[str, Case] = {
    "nothing": (
        lambda: tape().backward(),
        ValueError,
        "LSTM: backward got neither dy nor dstate; expected at least one gradient",
    ),
    "nothing in pairs": (
        lambda: tape(pairwise).backward((None, None)),
        ValueError,
        "RNN: backward got neither dy nor dstate; expected at least one gradient",
    ),
    "nothing in states": (
        lambda: tape().backward(None, (None, None)),
        ValueError,
        "LSTM: backward got neither dy nor dstate; expected at least one gradient",
    ),
    "released": (
        lambda: released_tape().backward(zeros(5, 2, 16)),
        ValueError,
        "LSTM: this tape was released; expected one that still holds its arrays (run forward again)",
    ),
    "released with": (
        lambda: released_tape().__enter__(),
        ValueError,
        "LSTM: this tape was released; expected one that still holds its arrays (run forward again)",
    ),
    "dy shape": (
        lambda: tape().backward(zeros(5, 1, 16)),
        ValueError,
        "LSTM: dy has shape (5, 1, 16); expected (T, B, hidden_size) = (5, 2, 16)",
    ),
    "dy shape two-way": (
        lambda: tape(two_way).backward(zeros(5, 2, 16)),
        ValueError,
        "GRU: dy has shape (5, 2, 16); expected (T, B, 2*hidden_size) = (5, 2, 32)",
    ),
    "dy shape batch_first": (
        lambda: tape(batch_first).backward(zeros(2, 5, 16)),
        ValueError,
        "LSTM: dy has shape (2, 5, 16); expected (B, T, hidden_size) = (5, 2, 16)",
    ),
    "dy shape unbatched": (
        lambda: tape(lstm, zeros(5, 8)).backward(zeros(5, 1, 16)),
        ValueError,
        "LSTM: dy has shape (5, 1, 16); expected (T, hidden_size) = (5, 16)",
    ),
    "dy dtype": (
        lambda: tape().backward(zeros(5, 2, 16, dtype=bool)),
        TypeError,
        "LSTM: dy has dtype bool; expected a real floating-point dtype",
    ),
    "dy no pair": (
        lambda: tape(pairwise).backward(zeros(5, 2, 16)),
        TypeError,
        "RNN: dy is an ndarray; expected a pair (forward, reverse), as merge=None",
    ),
    "dy three": (
        lambda: tape(pairwise).backward([None, None, None]),
        ValueError,
        "RNN: dy has 3 parts; expected a pair (forward, reverse), as merge=None",
    ),
    "dy of pair": (
        lambda: tape(pairwise).backward((None, zeros(5, 2, 32))),
        ValueError,
        "RNN: dy[1] has shape (5, 2, 32); expected (T, B, hidden_size) = (5, 2, 16)",
    ),
    "dy no list": (
        lambda: tape(lstm, [zeros(3, 8), zeros(2, 8)]).backward(zeros(3, 2, 16)),
        TypeError,
        "LSTM: dy is an ndarray; expected a list of 2 arrays, as x was a list",
    ),
    "dy short list": (
        lambda: tape(lstm, [zeros(3, 8), zeros(2, 8)]).backward([zeros(3, 16)]),
        ValueError,
        "LSTM: dy has 1 arrays; expected 2, as x had",
    ),
    "dy in list": (
        lambda: tape(lstm, [zeros(3, 8), zeros(2, 8)]).backward([zeros(3, 16), zeros(3, 16)]),
        ValueError,
        "LSTM: dy[1] has shape (3, 16); expected (T_1, hidden_size) = (2, 16)",
    ),
    "dstate shape": (
        lambda: tape(gru).backward(None, zeros(1, 1, 16)),
        ValueError,
        "GRU: dstate h has shape (1, 1, 16); expected (num_layers, B, hidden_size) = (1, 2, 16)",
    ),
    "dstate no pair": (
        lambda: tape().backward(None, zeros(1, 2, 16)),
        TypeError,
        "LSTM: dstate is an ndarray; expected a pair (h, c)",
    ),
    "need_dx": (
        lambda: tape().backward(zeros(5, 2, 16), need_dx=1),  # type: ignore[arg-type]
        TypeError,
        "LSTM: need_dx is 1 (int); expected True or False",
    ),
}


def replaced(name: str, value: Any) -> LSTM:
    layer = LSTM(100, 128, rng=0)
    layer.params[name] = value
    return layer


def without(name: str) -> LSTM:
    layer = LSTM(100, 128, rng=0)
    del layer.params[name]
    return layer


X = zeros(1, 1, 100)
PARAMETERS: dict[str, Case] = {
    "shape": (
        lambda: replaced("weight_hh_l0", zeros(400, 128))(X),
        ValueError,
        "LSTM: weight_hh_l0 has shape (400, 128); expected (4*hidden_size, hidden_size) = (512, 128)",
    ),
    "shape of bias": (
        lambda: replaced("bias_ih_l0", zeros(128)).forward(X),
        ValueError,
        "LSTM: bias_ih_l0 has shape (128,); expected (4*hidden_size,) = (512,)",
    ),
    "dtype": (
        lambda: replaced("weight_ih_l0", zeros(512, 100, dtype="f8")).freeze(),
        TypeError,
        "LSTM: weight_ih_l0 has dtype float64; expected float32 (call .astype('float32'))",
    ),
    "byte order": (
        lambda: replaced("weight_ih_l0", zeros(512, 100, dtype=np.dtype("f4").newbyteorder()))(X),
        TypeError,
        f"LSTM: weight_ih_l0 has dtype {np.dtype('f4').newbyteorder().str} (not this machine's byte order); "
        f"expected float32 (call .astype('float32'))",
    ),
    "no array": (
        lambda: replaced("bias_ih_l0", [0.0] * 512)(X),
        TypeError,
        "LSTM: bias_ih_l0 is a list; expected an ndarray of (4*hidden_size,) = (512,)",
    ),
    "missing": (
        lambda: without("bias_hh_l0")(X),
        ValueError,
        "LSTM: params has no bias_hh_l0; expected (4*hidden_size,) = (512,)",
    ),
    "extra": (
        lambda: replaced("weight_hr_l0", zeros(1))(X),
        ValueError,
        "LSTM: params has 'weight_hr_l0', which is no parameter of this object",
    ),
    "state_dict": (
        lambda: replaced("bias_ih_l0", zeros(128)).state_dict(),
        ValueError,
        "LSTM: bias_ih_l0 has shape (128,); expected (4*hidden_size,) = (512,)",
    ),
    "assigned": (
        lambda: setattr(LSTM(1, 1), "params", {}),
        AttributeError,
        "LSTM: params cannot be assigned; update its arrays in place, or call load_state_dict",
    ),
    "fixed": (
        lambda: setattr(LSTM(1, 1), "hidden_size", 5),
        AttributeError,
        "LSTM: hidden_size is fixed when the object is made",
    ),
    "dropout assigned": (
        lambda: setattr(LSTM(1, 1), "dropout", 1.5),
        ValueError,
        "LSTM: dropout is 1.5; expected 0 <= dropout < 1",
    ),
    "no attribute": (
        lambda: LSTM(1, 1).weight_ih_l1,
        AttributeError,
        "'LSTM' object has no attribute 'weight_ih_l1'; did you mean 'weight_ih_l0'?",
    ),
    "load no mapping": (
        lambda: lstm.load_state_dict([1, 2]),  # type: ignore[arg-type]
        TypeError,
        "LSTM: load_state_dict got a list; expected a mapping of names to arrays",
    ),
    "load everything wrong": (
        lambda: tiny.load_state_dict({"weight_ih_l0": zeros(8, 3), "bias_ih_l0": zeros(8), "bias": 1, "more": 2}),
        ValueError,
        "LSTM: load_state_dict changed nothing. missing: weight_hh_l0, bias_hh_l0 | unexpected: bias, more | "
        "weight_ih_l0 has shape (8, 3); expected (4*hidden_size, input_size) = (8, 2)",
    ),
    "load shape though not strict": (
        lambda: tiny.load_state_dict({"bias_ih_l0": zeros(2), "more": 2}, strict=False),
        ValueError,
        "LSTM: load_state_dict changed nothing. bias_ih_l0 has shape (2,); expected (4*hidden_size,) = (8,)",
    ),
    "load dtype": (
        lambda: tiny.load_state_dict({"bias_ih_l0": ["a"] * 8}, strict=False),
        TypeError,
        "LSTM: load_state_dict changed nothing. bias_ih_l0 has dtype <U1; expected a real floating-point dtype",
    ),
    "load strict": (
        lambda: tiny.load_state_dict({}, strict="no"),  # type: ignore[arg-type]
        TypeError,
        "LSTM: strict is 'no' (str); expected True or False",
    ),
}


def overlapping() -> Any:
    memory = zeros(200)
    x, out = memory[:80].reshape(5, 2, 8), memory[40:200].reshape(5, 2, 16)
    return frozen(x, out=out)


def overlapping_state() -> Any:
    memory = zeros(5, 2, 16)
    return frozen(zeros(5, 2, 8), (zeros(1, 2, 16), memory[:1]), out=memory)


def overlapping_pair() -> Any:
    out = zeros(5, 2, 16)
    return frozen_pair(zeros(5, 2, 8), out=(out, out))


def read_only() -> Any:
    out = zeros(5, 2, 16)
    out.flags.writeable = False
    return frozen(zeros(5, 2, 8), out=out)


def unaligned() -> Any:
    out = np.zeros(5 * 2 * 16 * 4 + 1, np.uint8)[1:].view(F32).reshape(5, 2, 16)
    return frozen(zeros(5, 2, 8), out=out)


FROZEN: dict[str, Case] = {
    "precision": (
        lambda: lstm.freeze("float64"),
        ValueError,
        "LSTM: precision is 'float64'; expected 'float32', the one available for this layer",
    ),
    "precision later": (
        lambda: LSTM(1, 1, dtype="f8").freeze(precision="int8"),
        ValueError,
        "LSTM: precision is 'int8'; expected 'float64', the one available for this layer",
    ),
    "fixed": (
        lambda: setattr(frozen, "params", {}),
        AttributeError,
        "frozen LSTM: params cannot be set; frozen layers do not change",
    ),
    "deleted": (
        lambda: delattr(frozen, "params"),
        AttributeError,
        "frozen LSTM: params cannot be deleted; frozen layers do not change",
    ),
    "x": (
        lambda: frozen(zeros(5, 2, 7)),
        ValueError,
        "LSTM: x has shape (5, 2, 7); expected (T, B, input_size) = (T, B, 8)",
    ),
    "out kind": (
        lambda: frozen(zeros(5, 2, 8), out=[0.0]),
        TypeError,
        "LSTM: out is a list; expected an ndarray of (T, B, hidden_size) = (5, 2, 16)",
    ),
    "out shape": (
        lambda: frozen(zeros(5, 2, 8), out=zeros(5, 2, 15)),
        ValueError,
        "LSTM: out has shape (5, 2, 15); expected (T, B, hidden_size) = (5, 2, 16)",
    ),
    "out dtype": (
        lambda: frozen(zeros(5, 2, 8), out=zeros(5, 2, 16, dtype="f8")),
        ValueError,
        "LSTM: out has dtype float64; expected float32",
    ),
    "out read-only": (read_only, ValueError, "LSTM: out is read-only; expected a writeable array"),
    "out unaligned": (unaligned, ValueError, "LSTM: out is not aligned; expected memory aligned to 4 bytes"),
    "out strides": (
        lambda: frozen(zeros(5, 2, 8), out=zeros(5, 2, 32)[..., ::2]),
        ValueError,
        "LSTM: out has strides (256, 128, 8); expected a contiguous last axis",
    ),
    "out on itself": (
        lambda: frozen(zeros(5, 2, 8), out=np.lib.stride_tricks.as_strided(zeros(2, 16), (5, 2, 16), (0, 64, 4))),
        ValueError,
        "LSTM: out has strides (0, 64, 4); expected no two elements in one place",
    ),
    "out overlaps x": (overlapping, ValueError, "LSTM: out overlaps x in memory; expected memory of its own"),
    "out overlaps state": (
        overlapping_state,
        ValueError,
        "LSTM: out overlaps state c in memory; expected memory of its own",
    ),
    "out overlaps out": (
        overlapping_pair,
        ValueError,
        "RNN: out[1] overlaps out[0] in memory; expected memory of its own",
    ),
    "out no pair": (
        lambda: frozen_pair(zeros(5, 2, 8), out=zeros(5, 2, 16)),
        TypeError,
        "RNN: out is an ndarray; expected a pair (forward, reverse), as merge=None",
    ),
    "out and list": (
        lambda: frozen([zeros(5, 8)], out=zeros(5, 1, 16)),
        ValueError,
        "LSTM: out given with a list of sequences; expected out=None",
    ),
    "stream two-way": (
        lambda: two_way.freeze().stream(),
        ValueError,
        "GRU: stream of a bidirectional layer; expected bidirectional=False, or run chunks, with some steps more as "
        "look-ahead, through the layer itself",
    ),
    "stream batch_size": (
        lambda: frozen.stream(0),
        ValueError,
        "LSTM: batch_size is 0; expected an integer >= 1",
    ),
    "stream state": (
        lambda: setattr(frozen.stream(2), "state", (zeros(1, 2, 16), zeros(1, 2, 1))),
        ValueError,
        "LSTM: state c has shape (1, 2, 1); expected (num_layers, batch_size, hidden_size) = (1, 2, 16)",
    ),
    "stream rows dtype": (
        lambda: frozen.stream(2).reset([0, 1]),
        TypeError,
        "LSTM: rows has dtype int64; expected bool",
    ),
    "stream rows shape": (
        lambda: frozen.stream(2).reset([True]),
        ValueError,
        "LSTM: rows has shape (1,); expected (batch_size,) = (2,)",
    ),
    "stream x": (
        lambda: frozen.stream(2).step(zeros(3, 8)),
        ValueError,
        "LSTM: x has shape (3, 8); expected (batch_size, input_size) = (2, 8)",
    ),
    "stream x unbatched": (
        lambda: frozen.stream(1).step(zeros(8)),
        ValueError,
        "LSTM: x has shape (8,); expected (batch_size, input_size) = (1, 8)",
    ),
    "stream tokens": (
        lambda: frozen.stream(2).step(np.array([1, 2, 3])),
        ValueError,
        "LSTM: x has shape (3,); expected (batch_size,) = (2,)",
    ),
    "stream token": (
        lambda: frozen.stream(2).step(np.array([1, 8])),
        IndexError,
        "LSTM: x holds token 8 at b=1; expected 0 <= token < input_size = 8",
    ),
}

gru_cell = GRUCell(8, 16, rng=0)
lstm_cell = LSTMCell(8, 16, rng=0)
CELLS: dict[str, Case] = {
    "x": (
        lambda: gru_cell(zeros(2, 7)),
        ValueError,
        "GRUCell: x has shape (2, 7); expected (B, input_size) = (B, 8), or (input_size,) unbatched",
    ),
    "x integers": (
        lambda: gru_cell(zeros(2, 8, dtype="i2")),
        TypeError,
        "GRUCell: x holds integers (int16) in shape (2, 8); integers are tokens of shape (B,); "
        "for values call x.astype('float32')",
    ),
    "x tokens": (
        lambda: gru_cell(zeros(1, 2, 8, dtype="i2")),
        ValueError,
        "GRUCell: x has shape (1, 2, 8); expected tokens of shape (B,), or () unbatched",
    ),
    "x dtype": (
        lambda: gru_cell("x"),
        TypeError,
        "GRUCell: x has dtype <U1; expected a real floating-point dtype, or integers for tokens "
        "(map strings to integers first: tokens)",
    ),
    "token": (
        lambda: gru_cell(np.array([0, 8])),
        IndexError,
        "GRUCell: x holds token 8 at b=1; expected 0 <= token < input_size = 8",
    ),
    "token unbatched": (
        lambda: gru_cell(-1),
        IndexError,
        "GRUCell: x holds token -1; expected 0 <= token < input_size = 8",
    ),
    "state": (
        lambda: gru_cell(zeros(2, 8), zeros(2, 8)),
        ValueError,
        "GRUCell: state h has shape (2, 8); expected (B, hidden_size) = (2, 16)",
    ),
    "state unbatched": (
        lambda: lstm_cell(zeros(8), (zeros(1, 16), zeros(1, 16))),
        ValueError,
        "LSTMCell: state h has shape (1, 16); expected (hidden_size,) = (16,)",
    ),
    "state pair": (
        lambda: lstm_cell(zeros(2, 8), zeros(2, 16)),
        TypeError,
        "LSTMCell: state is an ndarray; expected a pair (h, c)",
    ),
    "nothing": (
        lambda: lstm_cell.forward(zeros(2, 8))[1].backward((None, None)),
        ValueError,
        "LSTMCell: backward got no dstate; expected the gradient of at least one part of the state",
    ),
    "None": (
        lambda: gru_cell.forward(zeros(2, 8))[1].backward(None),
        ValueError,
        "GRUCell: backward got no dstate; expected the gradient of at least one part of the state",
    ),
    "dstate": (
        lambda: gru_cell.forward(zeros(2, 8))[1].backward(zeros(3, 16)),
        ValueError,
        "GRUCell: dstate h has shape (3, 16); expected (B, hidden_size) = (2, 16)",
    ),
}


def gru_tape() -> functional.FunctionalTape:
    return functional.gru_forward(zeros(5, 2, 3), None, zeros(12, 3), zeros(12, 4))[2]


FUNCTIONAL: dict[str, Case] = {
    "W_ih dtype": (
        lambda: functional.rnn_forward(zeros(5, 2, 3), None, zeros(4, 3, dtype="f2"), zeros(4, 4)),
        TypeError,
        "rnn_forward: W_ih has dtype float16; expected float32 or float64",
    ),
    "W_hh dtype": (
        lambda: functional.rnn_forward(zeros(5, 2, 3), None, zeros(4, 3), zeros(4, 4, dtype="f8")),
        TypeError,
        "rnn_forward: W_hh has dtype float64; expected float32, as W_ih has",
    ),
    "W_hh shape": (
        lambda: functional.lstm_forward(zeros(5, 2, 3), None, None, zeros(16, 3), zeros(12, 4)),
        ValueError,
        "lstm_forward: W_hh has shape (12, 4); expected (4*hidden_size, hidden_size), hidden_size >= 1",
    ),
    "W_ih shape": (
        lambda: functional.gru_forward(zeros(5, 2, 3), None, zeros(16, 3), zeros(12, 4)),
        ValueError,
        "gru_forward: W_ih has shape (16, 3); expected (3*hidden_size, input_size) = (12, input_size), input_size >= 1",
    ),
    "bias": (
        lambda: functional.gru_forward(zeros(5, 2, 3), None, zeros(12, 3), zeros(12, 4), zeros(4)),
        ValueError,
        "gru_forward: b_ih has shape (4,); expected (3*hidden_size,) = (12,)",
    ),
    "x": (
        lambda: functional.rnn_forward(zeros(5, 3), None, zeros(4, 3), zeros(4, 4)),
        ValueError,
        "rnn_forward: x has shape (5, 3); expected (T, B, input_size) = (T, B, 3)",
    ),
    "x dtype": (
        lambda: functional.rnn_forward(zeros(5, 2, 3, dtype=bool), None, zeros(4, 3), zeros(4, 4)),
        TypeError,
        "rnn_forward: x has dtype bool; expected a real floating-point dtype, or integers for tokens",
    ),
    "tokens": (
        lambda: functional.rnn_forward(zeros(5, dtype=int), None, zeros(4, 3), zeros(4, 4)),
        ValueError,
        "rnn_forward: x has shape (5,); expected tokens (integers) of shape (T, B)",
    ),
    "token": (
        lambda: functional.rnn_forward(np.array([[3]]), None, zeros(4, 3), zeros(4, 4)),
        IndexError,
        "rnn_forward: x holds token 3 at t=0, b=0; expected 0 <= token < input_size = 3",
    ),
    "h_0": (
        lambda: functional.rnn_forward(zeros(5, 2, 3), zeros(1, 4), zeros(4, 3), zeros(4, 4)),
        ValueError,
        "rnn_forward: h_0 has shape (1, 4); expected (B, hidden_size) = (2, 4)",
    ),
    "nonlinearity": (
        lambda: functional.rnn_forward(zeros(5, 2, 3), None, zeros(4, 3), zeros(4, 4), nonlinearity="id"),
        ValueError,
        "rnn_forward: nonlinearity is 'id'; expected one of 'tanh', 'relu'",
    ),
    "reverse": (
        lambda: functional.rnn_forward(zeros(5, 2, 3), None, zeros(4, 3), zeros(4, 4), reverse=1),  # type: ignore[arg-type]
        TypeError,
        "rnn_forward: reverse is 1 (int); expected True or False",
    ),
    "lengths": (
        lambda: functional.rnn_forward(zeros(5, 2, 3), None, zeros(4, 3), zeros(4, 4), lengths=[6, 0]),
        ValueError,
        "rnn_forward: lengths[0] is 6; expected 0 <= length <= T = 5",
    ),
    "tape of another": (
        lambda: functional.rnn_backward(gru_tape(), zeros(5, 2, 4)),
        TypeError,
        "rnn_backward: tape is a tape of gru_forward; expected a tape of rnn_forward",
    ),
    "no tape": (
        lambda: functional.lstm_backward(None, zeros(5, 2, 4)),  # type: ignore[arg-type]
        TypeError,
        "lstm_backward: tape is None; expected a tape of lstm_forward",
    ),
    "dy": (
        lambda: functional.gru_backward(gru_tape(), zeros(5, 2, 3)),
        ValueError,
        "gru_backward: dy has shape (5, 2, 3); expected (T, B, hidden_size) = (5, 2, 4)",
    ),
    "dh_n": (
        lambda: functional.gru_backward(gru_tape(), dh_n=zeros(2, 3)),
        ValueError,
        "gru_backward: dh_n has shape (2, 3); expected (B, hidden_size) = (2, 4)",
    ),
    "nothing": (
        lambda: functional.gru_backward(gru_tape()),
        ValueError,
        "gru_backward: dy, dh_n are all None; expected at least one gradient",
    ),
}

OTHERS: dict[str, Case] = {
    "clip kind": (
        lambda: fusedrnn.clip_grad_norm([3.0], 1.0),
        TypeError,
        "clip_grad_norm: gradients[0] is a float; expected an ndarray of floats",
    ),
    "clip dtype": (
        lambda: fusedrnn.clip_grad_norm({"w": zeros(3, dtype=int)}, 1.0),
        TypeError,
        "clip_grad_norm: gradients['w'] has dtype int64; expected floats",
    ),
    "clip read-only": (
        lambda: fusedrnn.clip_grad_value([np.broadcast_to(F32(1), 3)], 1.0),
        ValueError,
        "clip_grad_value: gradients[0] is read-only; expected an array that can be scaled in place",
    ),
    "clip max_norm": (
        lambda: fusedrnn.clip_grad_norm([], -1.0),
        ValueError,
        "clip_grad_norm: max_norm is -1.0; expected a number >= 0",
    ),
    "clip max_norm kind": (
        lambda: fusedrnn.clip_grad_norm([], "1"),  # type: ignore[arg-type]
        TypeError,
        "clip_grad_norm: max_norm is '1' (str); expected a number",
    ),
    "clip norm_type": (
        lambda: fusedrnn.clip_grad_norm([], 1.0, 0),
        ValueError,
        "clip_grad_norm: norm_type is 0.0; expected a number > 0",
    ),
    "clip_value nan": (
        lambda: fusedrnn.clip_grad_value([], float("nan")),
        ValueError,
        "clip_grad_value: clip_value is nan; expected a number >= 0",
    ),
    "clip nan": (
        lambda: fusedrnn.clip_grad_norm({"a": zeros(3), "b": np.array([1.0, np.nan, np.inf])}, 1.0),
        FloatingPointError,
        "clip_grad_norm: the norm is nan; gradients['b'] has 2 of 3 elements that are not finite",
    ),
    "clip infinite": (
        lambda: fusedrnn.clip_grad_norm([np.array([-np.inf, 1.0])], 1.0, np.inf),
        FloatingPointError,
        "clip_grad_norm: the norm is inf; gradients[0] has 1 of 2 elements that are not finite",
    ),
    "clip overflow": (
        lambda: fusedrnn.clip_grad_norm([np.full(4, 1.7e308)], 1.0),
        FloatingPointError,
        "clip_grad_norm: the norm is inf, though all elements are finite; it is too large for a float64",
    ),
    "isa unknown": (
        lambda: fusedrnn.use_isa("mmx"),
        ValueError,
        f"use_isa: 'mmx' is not available; expected one of {', '.join(map(repr, fusedrnn.available_isas()))}",
    ),
    "isa kind": (
        lambda: fusedrnn.use_isa(None),  # type: ignore[arg-type]
        TypeError,
        f"use_isa: name is None; expected one of {', '.join(map(repr, fusedrnn.available_isas()))}",
    ),
    "threads zero": (
        lambda: fusedrnn.set_num_threads(0),
        ValueError,
        "set_num_threads: n is 0; expected an integer >= 1",
    ),
    "threads kind": (
        lambda: fusedrnn.threads(1.5),  # type: ignore[arg-type]
        TypeError,
        "threads: n is 1.5 (float); expected an integer >= 1",
    ),
    "threads absurd": (
        lambda: fusedrnn.set_num_threads(10**9),
        ValueError,
        "set_num_threads: n is 1000000000; expected at most 4096",
    ),
    "no attribute": (
        lambda: fusedrnn.Transformer,
        AttributeError,
        "module 'fusedrnn' has no attribute 'Transformer'",
    ),
}


@cases(CONSTRUCTORS)
def test_constructor_arguments(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    raises(call, error, message)


@cases(INPUTS)
def test_inputs(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    raises(call, error, message)


@cases(INPUTS)
def test_forward_and_frozen_layers_check_the_same(
    call: Callable[[], Any], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LSTM, "__call__", LSTM.forward)
    monkeypatch.setattr(GRU, "__call__", lambda self, *a, **k: self.freeze()(*a, **k))
    raises(call, error, message)


@cases(BACKWARD)
def test_backward(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    raises(call, error, message)


@cases(PARAMETERS)
def test_parameters(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    raises(call, error, message)


@cases(FROZEN)
def test_frozen_layers_and_streams(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    raises(call, error, message)


@cases(CELLS)
def test_cells(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    raises(call, error, message)


@cases(FUNCTIONAL)
def test_functional(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    raises(call, error, message)


@cases(OTHERS)
def test_others(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    raises(call, error, message)


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="the system does not say how much memory there is")
def test_parameters_that_no_memory_holds() -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    hidden_size = max(1, memory // 2**33)  # W_ih alone takes 2**35 times as many bytes
    with pytest.raises(MemoryError, match=r"^LSTM: the parameters would take \d+ GiB; this machine has \d+ GiB$"):
        LSTM(2**31 - 1, hidden_size)


def test_idle_dropout_warns_where_the_layer_is_made() -> None:
    message = "GRU: dropout=0.5 does nothing with num_layers=1; it acts between layers, not after the last"
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as caught:
        GRU(8, 16, dropout=0.5)
    assert caught[0].filename == __file__


def test_tensors_that_do_not_show_their_values() -> None:
    class Tensor:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            raise RuntimeError("no data")

    raises(
        lambda: lstm(Tensor()),
        TypeError,
        "LSTM: x is a Tensor that cannot be read as an array: no data",
    )


def test_ragged_nested_lists() -> None:
    with pytest.raises(TypeError, match=r"^LSTM: x is a list that cannot be read as an array: "):
        lstm([[1.0, 2.0], [3.0]])


@pytest.mark.parametrize("version", [None, 99])
def test_pickles_of_another_version(version: int | None) -> None:
    state = LSTM(2, 3).__getstate__() | {"version": version}
    raises(
        lambda: LSTM.__new__(LSTM).__setstate__(state),
        ValueError,
        f"LSTM: pickle has version {version}; expected 1",
    )


@pytest.mark.parametrize("made", [RNN, GRU, LSTM, RNNCell, GRUCell, LSTMCell])
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("num_layers", 2**31 - 1, ValueError),
        ("num_layers", 2**70, ValueError),
        ("hidden_size", 2**31 - 1, (ValueError, MemoryError)),
        ("hidden_size", -1, ValueError),
        ("input_size", "3", TypeError),
        ("activation", ("x", 1.0), ValueError),
        ("params", 3, ValueError),
    ],
)
def test_pickles_are_checked_as_arguments_are(made: Any, name: str, value: Any, error: Any) -> None:
    state = made(2, 3).__getstate__()
    if name in state:
        with pytest.raises(error, match=rf"^{made.__name__}: "):
            made.__new__(made).__setstate__(state | {name: value})
    if name in ("params", "hidden_size"):
        with pytest.raises(ValueError, match=f"^{made.__name__}: the pickle has no {name}; expected what pickling"):
            made.__new__(made).__setstate__({key: own for key, own in state.items() if key != name})


@pytest.mark.parametrize("place", [3, 4, 5])  # of a size in the configuration
@pytest.mark.parametrize("value", [2**31 - 1, 2**70, -1, 4])
def test_frozen_pickles_are_checked(place: int, value: int) -> None:
    make, (version, config, *rest) = LSTM(2, 3).freeze().__reduce__()
    with pytest.raises((ValueError, MemoryError), match=r"^LSTM: "):
        make(version, (*config[:place], value, *config[place + 1 :]), *rest)
    with pytest.raises((ValueError, TypeError)):
        make(version, (config[0], (*config[1][:5], {"gate": 1}), *config[2:]), *rest)


@pytest.mark.parametrize("members", [{}, {"forward": 3}, None])
def test_pickles_of_groups_are_checked(members: Any) -> None:
    group = fusedrnn.Bidirectional(LSTM(2, 3), GRU(2, 3))
    state = group.__getstate__() | {"_members": members}
    with pytest.raises(ValueError, match=r"^Bidirectional: the pickle has no members that fit"):
        group.__setstate__(state)


def test_what_is_refused_changes_nothing() -> None:
    layer = LSTM(3, 5, rng=0)
    before = layer.state_dict()
    good = {name: np.ones_like(w) for name, w in before.items()}
    for bad in (good | {"bias_hh_l0": np.ones(3)}, good | {"more": np.ones(3)}, {"weight_ih_l0": np.ones((20, 3))}):
        with pytest.raises(ValueError, match="changed nothing"):
            layer.load_state_dict(bad)
    assert all(np.array_equal(layer.params[name], w) for name, w in before.items())

    gradients = [np.ones(3), np.array([np.nan])]
    with pytest.raises(FloatingPointError):
        fusedrnn.clip_grad_norm(gradients, 0.1)
    assert np.isnan(fusedrnn.clip_grad_norm(gradients, 0.1, error_if_nonfinite=False))
    assert (gradients[0] == 1).all()


@pytest.mark.parametrize("call", ["__call__", "forward", "frozen"])
@pytest.mark.parametrize("layer", [lstm, batch_first, two_way], ids=repr)
@pytest.mark.parametrize("shape", [(10**12, 1), (1, 10**12), (2**28, 2**28)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8], ids=["floats", "other floats", "tokens"])
def test_what_no_memory_holds(call: str, layer: Any, shape: tuple[int, int], dtype: Any) -> None:
    """Views that repeat one element can be larger than any memory, and so can their results."""
    x = np.broadcast_to(np.zeros((), dtype), shape if dtype is np.uint8 else (*shape, 8))
    run = layer.freeze() if call == "frozen" else getattr(layer, call)
    with pytest.raises((MemoryError, ValueError)):
        run(x)


def test_what_no_index_reaches() -> None:
    x = np.broadcast_to(np.uint8(0), (2**31, 2**31))
    with pytest.raises((MemoryError, ValueError)):
        lstm(x)


def test_streams_that_no_memory_holds() -> None:
    with pytest.raises(MemoryError, match=r"^LSTM: the state would take \d+ GiB; this machine has \d+ GiB$"):
        frozen.stream(2**31 - 1)


def test_tokens_past_the_end_are_not_looked_at() -> None:
    tokens = np.array([[1, 2], [3, 10**9], [4, -7]])
    y, _ = lstm(tokens, lengths=[3, 1])
    clean, _ = lstm(np.where(abs(tokens) < 8, tokens, 0).clip(0), lengths=[3, 1])
    assert np.array_equal(y, clean)
