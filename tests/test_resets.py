"""`reset` returns a row to the layer's own initial state: layers, groups and streams beside a loop over segments.

tests/test_steps.py has the functions, the reference and the kernels; here segments run alone, through public calls.
"""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, note
from hypothesis import strategies as st

import fusedrnn
from fusedrnn import GRU, LSTM, RNN, Bidirectional, Ensemble, Stack
from problems import assert_same_bits
from test_properties import examples

KINDS = pytest.mark.parametrize("kind", [RNN, GRU, LSTM])
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def parts(state: Any) -> tuple[Any, ...]:
    return state if isinstance(state, tuple) else (state,)


def like(rng: np.random.Generator, value: Any) -> Any:
    """Random numbers in the structure of a state."""
    if isinstance(value, (tuple, list)):
        return type(value)(like(rng, item) for item in value)
    return rng.standard_normal(value.shape).astype(value.dtype)


def with_learned(layer: Any, rng: np.random.Generator) -> Any:
    """The layer, with random learned initial states if it has any."""
    for name, w in layer.params.items():
        if "_0_l" in name:
            w[:] = rng.standard_normal(w.shape)
    return layer


def own_state(layer: Any) -> tuple[Any, ...]:
    """The own initial state of one row, (L*D, 1, H) each."""
    zeros = [np.zeros_like(part) for part in parts(layer(np.zeros((1, 1, layer.input_size), layer.dtype))[1])]
    for p, part in zip("hc", zeros, strict=False):
        names = [name for name in layer.params if name.startswith(f"{p}_0_l")]
        for i, name in enumerate(names):
            part[i, 0] = layer.params[name]
    return tuple(zeros)


def in_segments(layer: Any, x: Any, reset: Any, state: Any, dy: Any, dstate: Any) -> dict[str, Any]:
    """Results and gradients of one row, (T, I), from separate calls over the runs between its resets.

    A direction starts from `state`, unless a reset comes before; every later run from the own initial state.
    """
    T = len(x)
    ways = (False, True) if layer.bidirectional else (layer.backwards,)
    cuts = [0, *(t for t in range(1, T) if reset[t]), T]
    own = own_state(layer)
    y, dx = np.zeros_like(dy), np.zeros_like(x)
    final = tuple(s.copy() for s in own)
    dstate_0 = tuple(np.zeros_like(s) for s in own)
    dparams: dict[str, Any] = {name: np.zeros(w.shape) for name, w in layer.params.items()}
    for begin, end in itertools.pairwise(cuts):
        start, wanted = tuple(s.copy() for s in own), tuple(np.zeros_like(s) for s in own)
        goes_on, ends = {}, {}
        for d, reverse in enumerate(ways):
            goes_on[d] = end == T if reverse else begin == 0 and not reset[0]
            ends[d] = begin == 0 if reverse else end == T
            for k in range(len(own)):
                if goes_on[d]:
                    start[k][d :: len(ways)] = state[k][d :: len(ways)]
                if ends[d]:
                    wanted[k][d :: len(ways)] = dstate[k][d :: len(ways)]
        given = start if len(start) > 1 else start[0]
        y[begin:end], state_n, tape = layer.forward(x[begin:end, None], given)
        grads = tape.backward(dy[begin:end], wanted if len(wanted) > 1 else wanted[0])
        dx[begin:end] = grads.x[:, 0]
        for name, d in grads.params.items():
            dparams[name] += d
        for k, (s_n, ds) in enumerate(zip(parts(state_n), parts(grads.state), strict=True)):
            for d in range(len(ways)):
                if ends[d]:
                    final[k][d :: len(ways)] = s_n[d :: len(ways)]
                if goes_on[d]:
                    dstate_0[k][d :: len(ways)] = ds[d :: len(ways)]
                elif layer.learned_state:
                    for layer_number in range(layer.num_layers):
                        suffix = f"_l{layer_number}{'_reverse' if d else ''}"
                        dparams[f"{'hc'[k]}_0{suffix}"] += ds[layer_number * len(ways) + d, 0]
    return {"y": y, "state": final, "dx": dx, "dstate": dstate_0, "dparams": dparams}


@given(st.data())
@examples(300)
def test_pieces_between_resets_have_the_same_bits(data):
    """Layers of all kinds, both dtypes, one or two directions or backwards, with and without a learned state."""
    draw = data.draw
    kind, dtype = draw(st.sampled_from([RNN, GRU, LSTM])), draw(st.sampled_from(["float32", "float64"]))
    way = draw(st.sampled_from([{}, {"bidirectional": True}, {"backwards": True}]))
    seed = draw(st.integers(0, 1000))
    rng = np.random.default_rng(seed)
    L = draw(st.integers(1, 2))
    layer = with_learned(kind(3, 5, L, learned_state=draw(st.booleans()), dtype=dtype, rng=1, **way), rng)
    T, B = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    reset = np.array(draw(st.lists(st.booleans(), min_size=T * B, max_size=T * B))).reshape(T, B)
    lengths = np.array(draw(st.lists(st.integers(0, T), min_size=B, max_size=B)))
    note(f"{layer} {reset} {lengths}")
    x = rng.standard_normal((T, B, 3)).astype(dtype)
    state = parts(like(rng, layer(x)[1]))
    y, state_n, tape = layer.forward(x, state if len(state) > 1 else state[0], reset=reset, lengths=lengths)
    dy, dstate = like(rng, y), parts(like(rng, state_n))
    grads = tape.backward(dy, dstate if len(dstate) > 1 else dstate[0])
    total = dict.fromkeys(grads.params, 0.0)
    for b, n in enumerate(lengths):
        if n == 0:  # a reset past a row's end does nothing
            assert_same_bits([s[:, b] for s in parts(state_n)], [s[:, b] for s in state], "no step")
            assert_same_bits([d[:, b] for d in parts(grads.state)], [d[:, b] for d in dstate], "no step")
            continue
        rows = slice(b, b + 1)
        alone = in_segments(
            *(layer, x[:n, b], reset[:n, b], tuple(s[:, rows] for s in state)),
            *(dy[:n, rows], tuple(d[:, rows] for d in dstate)),
        )
        assert_same_bits(y[:n, rows], alone["y"], "y")
        assert_same_bits([s[:, rows] for s in parts(state_n)], alone["state"], "state")
        assert_same_bits(grads.x[:n, b], alone["dx"], "dx")
        assert_same_bits([d[:, rows] for d in parts(grads.state)], alone["dstate"], "dstate")
        for name, d in alone["dparams"].items():
            total[name] = total[name] + d
    for name, d in total.items():
        tolerance = 1e-4 if dtype == "float32" else 1e-12
        np.testing.assert_allclose(grads.params[name], d, rtol=tolerance, atol=tolerance, err_msg=name)


@KINDS
@DTYPES
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("group", [False, True])
def test_a_reset_with_carried_state_is_a_streams_reset(kind, dtype, learned, group, rng):
    layer = with_learned(kind(3, 5, 2, learned_state=learned, dtype=dtype, rng=1), rng)
    net = Stack([layer, with_learned(GRU(5, 4, learned_state=learned, dtype=dtype, rng=2), rng)]) if group else layer
    x, reset = rng.standard_normal((9, 4, 3)).astype(dtype), rng.random((9, 4)) < 0.4
    reset[0] = [True, False, True, False]
    state = like(rng, net(x)[1])
    y, state_n = net(x, state, reset=reset)
    frozen = net.freeze()
    assert_same_bits(list(frozen(x, state, reset=reset)), [y, state_n], "frozen")
    assert_same_bits(list(net.forward(x, state, reset=reset)[:2]), [y, state_n], "tape")
    stream = frozen.stream(4)
    stream.state = state
    steps = []
    for x_t, reset_t in zip(x, reset, strict=True):
        stream.reset(reset_t)
        steps.append(stream.step(x_t))
    assert_same_bits([np.stack(steps), stream.state], [y, state_n], "stream")


@KINDS
@DTYPES
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_nothing_of_the_carried_state_survives_a_reset(kind, dtype, poison, rng):
    """Row 0 starts anew at once, row 1 after steps that are masked, row 2 after its third step, row 3 goes on."""
    layer = with_learned(kind(3, 5, 2, learned_state=True, dtype=dtype, rng=1), rng)
    x = rng.standard_normal((6, 4, 3)).astype(dtype)
    reset, mask = np.zeros((6, 4), bool), np.ones((6, 4), bool)
    reset[0, 0] = reset[2, 1] = reset[3, 2] = True
    mask[:3, 1] = False
    clean = parts(like(rng, layer(x)[1]))
    for rows in [0, 1], [2]:
        carried = tuple(s.copy() for s in clean)
        for s in carried:
            s[:, rows] = poison
        states = [s if kind is LSTM else s[0] for s in (clean, carried)]
        (y, state_n, tape), (y_p, state_p, tape_p) = (layer.forward(x, s, reset=reset, mask=mask) for s in states)
        later = slice(3, None)
        assert_same_bits(y_p[later, :3], y[later, :3], "y")
        assert_same_bits([s[:, :3] for s in parts(state_p)], [s[:, :3] for s in parts(state_n)], "state")
        dy = rng.standard_normal(y.shape).astype(dtype)
        dy[:3, 2] = 0
        grads, grads_p = tape.backward(dy), tape_p.backward(dy)
        assert_same_bits(grads_p.x[later], grads.x[later], "dx")
        if rows == [0, 1]:
            assert_same_bits(
                [y_p, grads_p.x, grads_p.state, grads_p.params], [y, grads.x, grads.state, grads.params], ""
            )
        assert not any(d[:, :2].any() for d in parts(grads_p.state))


@KINDS
def test_groups_reset_each_member_to_its_own_initial_state(kind, rng):
    """A row that begins with a reset has the bits of the same row without a given state."""
    one = kind(3, 5, learned_state=True, dtype="float64", rng=1)
    other = kind(3, 5, learned_state=True, dtype="float64", rng=2)
    x = rng.standard_normal((7, 4, 3))
    reset = np.zeros((7, 4), bool)
    reset[0, :2] = reset[4, 3] = True
    for net in (Ensemble([one, other]), Stack([one, GRU(5, 4, dtype="float64", rng=3)])):
        for layer in net.layers:
            with_learned(layer, rng)
        expected, _, tape_own = net.forward(x[:, :2])
        y, _, tape = net.forward(x, like(rng, net(x)[1]), reset=reset)
        assert_same_bits(y[..., :2, :], expected, "y")
        dy = rng.standard_normal(y.shape)
        grads, own = tape.backward(dy), tape_own.backward(dy[..., :2, :])
        assert_same_bits(grads.x[:, :2], own.x, "dx")
        flat = [a for s in parts(grads.state) for a in parts(s)]
        assert not any(a[..., :2, :].any() for a in flat)
        assert all(a[..., 2:, :].any() for a in flat)


def test_two_directions_cut_at_the_same_place(rng):
    """The reverse direction crosses the boundary after its step t, so it starts anew before its step t - 1."""
    net = Bidirectional(GRU(3, 5, dtype="float64", rng=1), LSTM(3, 4, learned_state=True, dtype="float64", rng=2), None)
    with_learned(net.layers[1], rng)
    x = rng.standard_normal((7, 1, 3))
    reset = np.zeros((7, 1), bool)
    reset[0] = reset[4] = True
    state = like(rng, net(x)[1])
    (y, y_back), (h, (h_back, c_back)) = net(x, state, reset=reset)
    first, second = net(x[:4])[0], net(x[4:], (None, state[1]))[0]
    assert_same_bits(y, np.concatenate([first[0], second[0]]), "forward")
    assert_same_bits(y_back, np.concatenate([first[1], second[1]]), "reverse")
    assert_same_bits([h, h_back, c_back], [net(x[4:])[1][0], *net(x[:4])[1][1]], "state")


@pytest.mark.parametrize("batch_first", [False, True])
@DTYPES
def test_flags_have_the_axes_of_x(batch_first, dtype, rng):
    layer = LSTM(3, 5, 2, batch_first=batch_first, dtype=dtype, rng=1)
    rows = LSTM(3, 5, 2, dtype=dtype, rng=1)
    x, T, B = rng.standard_normal((6, 4, 3)).astype(dtype), 6, 4

    def turn(array: Any) -> Any:
        return array.swapaxes(0, 1) if batch_first else array

    mask, reset = rng.random((T, B)) < 0.7, rng.random((T, B)) < 0.3
    y, _ = layer(turn(x), mask=turn(mask), reset=turn(reset))
    for b in range(B):
        alone, _ = rows(x[:, b], mask=mask[:, b], reset=reset[:, b])
        assert_same_bits(turn(y)[:, b], alone, f"row {b}")
    axes = "(B, T) = (4, 6)" if batch_first else "(T, B) = (6, 4)"
    for call, name in itertools.product((layer, layer.forward, layer.freeze(), layer.inspect), ("mask", "reset")):
        with pytest.raises(ValueError, match="the layout of x: transpose it") as caught:
            call(turn(x), **{name: turn(mask).T})
        shape = turn(mask).T.shape
        assert str(caught.value) == f"LSTM: {name} has shape {shape}; expected {axes}, the layout of x: transpose it"


@KINDS
def test_a_rollout_is_the_loop_that_multiplies_the_state(kind, rng):
    """Recurrent PPO: the state is carried into the segment, and multiplied by 1 - episode_start before each step."""
    torch = pytest.importorskip("torch")
    from fusedrnn import interop

    torch.manual_seed(0)
    T, B, I, H = 8, 4, 5, 6
    theirs = getattr(torch.nn, kind.__name__)(I, H).double()
    ours = interop.from_torch(theirs)
    x = rng.standard_normal((T, B, I))
    start = rng.random((T, B)) < 0.3
    start[0, 1], start[:, 3] = True, False
    given = [rng.standard_normal((1, B, H)) for _ in range(1 + (kind is LSTM))]
    first = state = [torch.tensor(s, requires_grad=True) for s in given]
    inputs, outputs = torch.tensor(x, requires_grad=True), []
    for t in range(T):
        kept = [torch.tensor(1.0 - start[t])[None, :, None] * s for s in state]
        y_t, state = theirs(inputs[t : t + 1], tuple(kept) if len(kept) > 1 else kept[0])
        state = state if isinstance(state, tuple) else (state,)
        outputs.append(y_t)
    expected = torch.cat(outputs)
    dy = rng.standard_normal((T, B, H))
    (expected * torch.tensor(dy)).sum().backward()
    y, _, tape = ours.forward(x, tuple(given) if len(given) > 1 else given[0], reset=start)
    grads = tape.backward(dy)
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(grads.x, inputs.grad.numpy(), rtol=0, atol=1e-12)
    for d, s in zip(parts(grads.state), first, strict=True):
        np.testing.assert_allclose(d, s.grad.numpy(), rtol=0, atol=1e-12)
    for name, w in theirs.named_parameters():
        np.testing.assert_allclose(grads.params[name], w.grad.numpy(), rtol=0, atol=1e-12)


def test_explain_and_threads_see_no_difference(rng):
    """A reset before the first step alone leaves a dense call that may be split by rows."""
    layer = fusedrnn.LSTM(40, 37, rng=1)
    x, reset = rng.standard_normal((30, 37, 40)).astype("f4"), np.zeros((30, 37), bool)
    reset[0] = rng.random(37) < 0.5
    state = like(rng, layer(x)[1])
    cleared = tuple(np.where(reset[0][:, None], np.float32(0), s) for s in state)
    expected = layer(x, cleared)
    for n in 1, 2, 3, 16:
        with fusedrnn.threads(n):
            assert_same_bits(list(layer(x, state, reset=reset)), list(expected), f"{n} threads")
