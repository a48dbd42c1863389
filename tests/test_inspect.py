"""What ``layer.inspect`` shows: outputs and c have the layer's own bits, gates equal the reference's."""

from typing import Any

import numpy as np
import pytest

from fusedrnn import GRU, LSTM, RNN, _core, reference
from fusedrnn.reference.cells import gru_cell, lstm_cell, rnn_cell
from problems import assert_same_bits
from tolerances import assert_close, dot_length

CASES: list[tuple[Any, dict[str, Any]]] = [
    (RNN, {}),
    (RNN, {"nonlinearity": "relu", "bias": False}),
    (RNN, {"activation": ("scaled_tanh", 0.7, 1.2), "clip": 0.9}),
    (GRU, {}),
    (GRU, {"reset_after": False}),
    (GRU, {"reset_after": False, "recurrent_activation": "hard_sigmoid", "bias": False}),
    (GRU, {"reset_gate": False, "activation": "softsign", "bias": "single"}),
    (GRU, {"activation": "softsign", "clip": 0.8}),
    (LSTM, {}),
    (LSTM, {"bias": "single", "recurrent_activation": "hard_sigmoid", "output_activation": "softsign"}),
    (LSTM, {"peephole": "ifo", "cell_clip": 0.4, "clip": 1.5}),
    (LSTM, {"peephole": "o_prev"}),
    (LSTM, {"coupled": True}),
    (LSTM, {"coupled": True, "peephole": "ifo", "bias": False}),
    (LSTM, {"proj_size": 4}),
]
NAMES = {RNN: [], GRU: ["r", "z", "n"], LSTM: ["i", "f", "g", "o"]}
MAKE: dict[Any, Any] = {RNN: rnn_cell, GRU: gru_cell, LSTM: lstm_cell}
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def by_reference(layer: Any, x: Any, k: int, suffix: str, given: dict[str, Any], state: Any) -> dict[str, Any]:
    """h, c and gates of one layer in one direction, from the reference's own run in float64."""
    names = ["nonlinearity", "reset_after", "reset_gate", "peephole", "coupled", "cell_clip", "clip"]
    names += ["activation", "recurrent_activation", "output_activation"]
    options = {name: getattr(layer, name) for name in names if hasattr(layer, name)}
    cell = MAKE[type(layer)](**options)
    p = {name: array for name, array in layer.params.items() if name.endswith(f"_l{k}{suffix}")}
    weights = [p.get(f"{name}_l{k}{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    more = {"W_peephole": p.get(f"weight_peephole_l{k}{suffix}"), "W_hr": p.get(f"weight_hr_l{k}{suffix}")}
    reverse = suffix == "_reverse"
    _, _, tape = reference.forward(cell, x, state, *weights, **more, **given, reverse=reverse)
    after = tape.states[:-1] if reverse else tape.states[1:]
    units = (weights[1].shape[1], layer.hidden_size)
    seen = {name: after[:, s, :, : units[s]] for s, name in enumerate(("h", "c")[: cell.states])}
    seen |= cell.gate_values([tape.saved[:, s] for s in range(cell.saved)])
    return {name: np.where(tape.valid[..., None], array, 0) for name, array in seen.items()}


@DTYPES
@pytest.mark.parametrize(("kind", "cell"), CASES)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("which", range(3))
def test_everything_seen_is_the_references(kind, cell, dtype, bidirectional, which, rng):
    T, B, I, H, L = 7, 4, 3, 6, 2
    D = 1 + bidirectional
    layer = kind(
        I, H, L, bidirectional=bidirectional, merge="sum" if bidirectional else "concat", dtype=dtype, rng=1, **cell
    )
    x = rng.standard_normal((T, B, I)).astype(dtype)
    lengths, mask, reset = np.array([7, 0, 5, 2]), rng.random((T, B)) < 0.7, rng.random((T, B)) < 0.3
    given: dict[str, Any] = [{}, {"lengths": lengths}, {"lengths": lengths, "mask": mask, "reset": reset}][which]
    if which:
        x[np.arange(T)[:, None] >= lengths] = np.nan
    _, like = layer(x, **given)
    state = tuple(rng.standard_normal(s.shape).astype(dtype) for s in (like if kind is LSTM else (like,)))
    y, state_n = layer(x, state if kind is LSTM else state[0], **given)
    seen = layer.inspect(x, state if kind is LSTM else state[0], **given)

    top = seen.outputs[-D:]
    assert_same_bits(top[0] + top[1] if bidirectional else top[0], y, "outputs")
    names = [n for n in NAMES[kind] if n != "r" or cell.get("reset_gate", True)]
    assert list(seen.gates) == names
    assert (seen.c is None) == (kind is not LSTM)
    if not which:
        for name, part in zip(("outputs", "c"), state_n if kind is LSTM else (state_n,), strict=False):
            for i in range(L * D):
                assert_same_bits(getattr(seen, name)[i, 0 if i % D else -1], part[i], f"final {name} {i}")
    below: Any = x
    K = dot_length("y", T=T, B=B, I=max(I, H), H=H, gates=4)
    for k in range(L):
        for d, suffix in enumerate(("", "_reverse")[:D]):
            i = k * D + d
            expected = by_reference(layer, below, k, suffix, given, tuple(s[i] for s in state))
            actual = {"h": seen.outputs[i]} | ({} if seen.c is None else {"c": seen.c[i]})
            actual |= {name: gate[i] for name, gate in seen.gates.items()}
            assert actual.keys() == expected.keys()
            for name, value in expected.items():
                assert actual[name].dtype == dtype
                assert_close(actual[name], value, dtype=dtype, K=K, T=T * (k + 1), what=f"{name} of {i}")
        below = seen.outputs[k * D : (k + 1) * D].sum(axis=0, dtype=dtype)


@pytest.mark.parametrize("merge", ["concat", "sum", "mean", "mul", None])
def test_layouts_and_merges(merge, rng):
    layer = LSTM(3, 5, 2, bidirectional=True, merge=merge, learned_state=True, rng=0)
    for name in layer.params:
        layer.params[name][:] = rng.standard_normal(layer.params[name].shape) * 0.5
    x = rng.standard_normal((7, 4, 3)).astype("f4")
    seen = layer.inspect(x)
    y, _ = layer(x)
    forward, reverse = seen.outputs[2:]
    half = np.float32(0.5)
    joined = {
        "concat": np.concatenate((forward, reverse), -1),
        "sum": forward + reverse,
        "mean": (forward + reverse) * half,
        "mul": forward * reverse,
        None: (forward, reverse),
    }[merge]
    assert_same_bits(y, joined, "y")
    first = LSTM(3, 5, 2, bidirectional=True, merge=merge, learned_state=True, batch_first=True)
    first.load_state_dict(layer.state_dict())
    swapped = first.inspect(x.swapaxes(0, 1))
    assert_same_bits(swapped.outputs, seen.outputs.swapaxes(1, 2), "batch first")
    assert swapped.c.shape == (4, 4, 7, 5)
    alone = layer.inspect(x[:, 2])
    assert_same_bits(alone.outputs, seen.outputs[:, :, 2], "unbatched")
    np.testing.assert_allclose(alone.gates["f"], seen.gates["f"][:, :, 2], rtol=1e-5)
    listed = layer.inspect([x[:, 0], x[:3, 1], x[:0, 2]])
    assert [gate.shape for gate in listed.gates["o"]] == [(4, 7, 5), (4, 3, 5), (4, 0, 5)]
    assert_same_bits(listed.outputs[0], seen.outputs[:, :, 0], "list")
    assert repr(seen).startswith("Inspection(outputs=(4, 7, 4, 5), c=(4, 7, 4, 5), gates={'i': (4, 7, 4, 5), ")


@pytest.mark.parametrize("kind", [RNN, GRU, LSTM])
def test_tokens_and_layers_that_run_backwards(kind, rng):
    layer = kind(3, 5, backwards=True, rng=0)
    ids = rng.integers(0, 3, (7, 4))
    ids[5:, 1] = -1
    seen = layer.inspect(ids, lengths=[7, 5, 7, 0])
    dense = layer.inspect(np.eye(3, dtype="f4")[ids], lengths=[7, 5, 7, 0])
    np.testing.assert_allclose(seen.outputs, dense.outputs, rtol=1e-5, atol=1e-6)
    for name, gate in seen.gates.items():
        np.testing.assert_allclose(gate, dense.gates[name], rtol=1e-5, atol=1e-6)
        assert not gate[0, :, 3].any()
    assert_same_bits(seen.outputs[0], layer(ids, lengths=[7, 5, 7, 0])[0], "y")
    assert layer.inspect(np.zeros((0, 2, 3), "f4")).outputs.shape == (1, 0, 2, 5)
    assert layer.inspect(np.zeros((4, 0, 3), "f4")).outputs.shape == (1, 4, 0, 5)


def test_an_lstms_equations_hold(rng):
    seen = LSTM(3, 5, dtype="f8", rng=0).inspect(rng.standard_normal((7, 4, 3)))
    i, f, g, o = (seen.gates[name][0] for name in "ifgo")
    c = seen.c[0]
    np.testing.assert_allclose(c[1:], f[1:] * c[:-1] + i[1:] * g[1:], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(seen.outputs[0], o * np.tanh(c), rtol=1e-12, atol=1e-14)


def test_dropout_does_not_act_and_draws_nothing(rng):
    layer = GRU(3, 5, 2, dropout=0.5, recurrent_dropout=0.5, rng=0)
    x = rng.standard_normal((7, 4, 3)).astype("f4")
    before = layer.rng.bit_generator.state
    assert_same_bits(layer.inspect(x).outputs[1], layer(x)[0], "y")
    assert layer.rng.bit_generator.state == before
    with pytest.raises(ValueError, match="GRU: x has"):
        layer.inspect(x[..., :2])


@DTYPES
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("kind", "zoneout"), [(RNN, 0.3), (GRU, 0.3), (LSTM, (0.2, 0.4)), (LSTM, (0.0, 0.4))])
def test_zoneout_is_seen_as_inference_has_it(kind, zoneout, bidirectional, dtype, rng):
    layer = kind(3, 5, 2, zoneout=zoneout, bidirectional=bidirectional, recurrent_dropout=0.5, dtype=dtype, rng=0)
    x, lengths = rng.standard_normal((7, 4, 3)).astype(dtype), [7, 0, 5, 2]
    y, _ = layer(x, lengths=lengths)
    seen = layer.inspect(x, lengths=lengths)
    top = seen.outputs[-2:] if bidirectional else seen.outputs[-1:]
    assert_same_bits(np.concatenate(list(top), -1), y, "y")
    h = seen.outputs[0, :, 0]  # the first layer's forward direction, the row that is 7 steps long
    before = np.concatenate([np.zeros_like(h[:1]), h[:-1]])
    gates = {name: gate[0, :, 0] for name, gate in seen.gates.items()}
    eps = np.finfo(dtype).eps
    if kind is LSTM:
        z_h, z_c = (dtype_of(z, dtype) for z in zoneout)
        c = seen.c[0, :, 0]
        c_before = np.concatenate([np.zeros_like(c[:1]), c[:-1]])
        made = gates["f"] * c_before + gates["i"] * gates["g"]
        np.testing.assert_allclose(c, (1 - z_c) * made + z_c * c_before, rtol=0, atol=40 * eps)
        made = gates["o"] * np.tanh(made)
        np.testing.assert_allclose(h, (1 - z_h) * made + z_h * before, rtol=0, atol=40 * eps)
    elif kind is GRU:
        z = dtype_of(zoneout, dtype)
        made = (1 - gates["z"]) * gates["n"] + gates["z"] * before
        np.testing.assert_allclose(h, (1 - z) * made + z * before, rtol=0, atol=40 * eps)


def dtype_of(value: float, dtype: Any) -> Any:
    return np.dtype(dtype).type(value)


def test_what_is_looked_at_has_no_gradients():
    """With zoneout as in inference, a tape can only be inspected: backward would need masks."""
    weights = GRU(3, 5)._arrays()
    roles = ("W_ih", "W_hh", "b_ih", "b_hh")
    packed = _core.Weights("gru_after", dict(zip(roles, weights, strict=True)), True, zoneout=(0.5, 0.0))
    x, y, h = np.zeros((2, 1, 3), "f4"), np.zeros((2, 1, 5), "f4"), np.zeros((1, 5), "f4")
    tape = _core.forward(packed, x, None, y, (h,), _core.Schedule(2, 1), False, True)
    assert tape is not None
    dparams = {role: np.empty_like(w) for role, w in zip(roles, weights, strict=True)}
    with pytest.raises(ValueError, match="zoneout had no masks"):
        _core.backward(tape, y, (None,), None, False, (h,), dparams)
