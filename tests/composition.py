"""Whole layers composed from the reference: stacked, in one or two directions, with every kind of dropout."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusedrnn import reference
from fusedrnn.reference import Cell
from fusedrnn.reference.windows import backward_windows, forward_windows
from tolerances import assert_close

#: A layer's parameter names -> the reference's names of their gradients.
NAMES = {
    "weight_ih": "dW_ih",
    "weight_hh": "dW_hh",
    "bias_ih": "db_ih",
    "bias_hh": "db_hh",
    "weight_peephole": "dW_peephole",
    "weight_hr": "dW_hr",
}

#: The same for layer normalisation, in the order of `reference.LayerNorm`.
NORMS = ("weight_ln_ih", "weight_ln_hh", "weight_ln_c", "bias_ln_c")


@dataclass
class Composed:
    """Results of a whole layer in float64, and its backward function."""

    y: Any  # (T, B, width), or a pair of such arrays
    state: list[Any]  # (L*D, B, units), one array each for h and c
    backward: Callable[[Any, Any], tuple[Any, list[Any], dict[str, Any]]]  # dy, dstate -> dx, dstate_0, dparams


def compose(
    cell: Cell,
    layer: Any,
    x: Any,
    state: Any,
    steps: dict[str, Any] | None = None,
    masks: dict[str, Any] | None = None,
    params: dict[str, Any] | None = None,
) -> Composed:
    """Exactly what the documentation of layers says: stack, run both directions, merge.

    Time-major and batched. `steps` are lengths, mask, reset and past_end; `masks` are the masks of training, as in
    ``tape.masks``, or None for inference; `params` replace the layer's own parameters.
    """
    S, D, L, window = cell.states, 1 + layer.bidirectional, layer.num_layers, getattr(layer, "window", 1)
    params = layer.params if params is None else params
    ways = ("", "_reverse")[:D]
    suffixes = [f"_l{k}{way}" for k in range(L) for way in ways]
    below = dict(steps or {})
    last = below | {"past_end": below.pop("past_end", "zero")}
    outputs, finals, factors = [], [], []
    tapes: list[Any] = []
    for k in range(L):
        ys = []
        for d in range(D):
            row = k * D + d
            arguments, factor = step_options(layer, masks, row)
            *weights, W_peephole, W_hr = [params.get(name + suffixes[row]) for name in NAMES]
            weights[1] = None if weights[1] is None else weights[1] * factor
            W_peephole = params.get("weight_unit" + suffixes[row], W_peephole)
            gains = [params.get(name + suffixes[row]) for name in NORMS]
            own = tuple(params.get(f"{part}_0{suffixes[row]}") for part in "hc"[:S])
            norm = reference.LayerNorm(*gains, layer.layer_norm_eps) if layer.layer_norm else None
            arguments |= {"initial": own, "reverse": d == 1 or layer.backwards} | (last if k == L - 1 else below)
            before = tuple(s[row] for s in state) if state else (None,) * S
            if window > 1:
                y, final, tape = forward_windows(cell, window, x, before, weights[0], weights[2], **arguments)
            else:
                y, final, tape = reference.forward(
                    *(cell, x, before, *weights), W_peephole=W_peephole, W_hr=W_hr, layer_norm=norm, **arguments
                )
            ys.append(y)
            tapes.append(tape), finals.append(final), factors.append(factor)
        outputs.append(ys)
        x = join(layer.merge if k == L - 1 else layer.merge or "concat", ys)
    result = [np.stack([final[s] for final in finals]) for s in range(S)]

    def backward(dy: Any, dstate: Any) -> tuple[Any, list[Any], dict[str, Any]]:
        dparams, dstates = {}, [np.zeros_like(s) for s in result]
        for k in reversed(range(L)):
            merge = layer.merge if k == L - 1 else layer.merge or "concat"
            dys = [dy] if D == 1 else split(merge, dy, outputs[k])
            dx = 0.0
            for d in range(D):
                row = k * D + d
                dlast = tuple(
                    np.zeros_like(s[row]) if ds is None else ds[row] for s, ds in zip(result, dstate, strict=True)
                )
                back: Any = backward_windows if window > 1 else reference.backward
                grads = back(tapes[row], dys[d], dlast)
                dx = None if grads.dx is None else dx + grads.dx
                for s in range(S):
                    dstates[s][row] = grads.dstate[s]
                values = {name: getattr(grads, gradient) for name, gradient in NAMES.items()}
                values["weight_unit"] = values["weight_peephole"]
                if cell.recurrent:
                    values["weight_hh"] = values["weight_hh"] * factors[row]
                values |= dict(zip(NORMS, grads.dlayer_norm or (), strict=False))
                values |= (
                    zip((f"{part}_0" for part in "hc"), grads.dinitial, strict=False) if layer.learned_state else {}
                )
                dparams |= {name + suffixes[row]: value for name, value in values.items()}
            dy = dx
        return dy, dstates, dparams

    return Composed(x, result, backward)


def step_options(layer: Any, masks: dict[str, Any] | None, row: int) -> tuple[dict[str, Any], Any]:
    """The reference's recurrent_mask and zoneout for one layer and direction, and the factors of its W_hh."""
    if masks is None:
        rates = layer.zoneout if isinstance(layer.zoneout, tuple) else (layer.zoneout, layer.zoneout)
        return {"zoneout": rates}, 1.0
    options: dict[str, Any] = {}
    if "recurrent_dropout" in masks:
        options["recurrent_mask"] = masks["recurrent_dropout"][row] / (1 - layer.recurrent_dropout)
    kept = [masks.get(name) for name in ("zoneout_h", "zoneout_c")]
    options["zoneout"] = tuple(0.0 if m is None else m[row].astype(np.float64) for m in kept)
    dropped = masks.get("weight_dropout")
    return options, 1.0 if dropped is None else dropped[row] / (1 - layer.weight_dropout)


def join(merge: str | None, ys: list[Any]) -> Any:
    if len(ys) == 1:
        return ys[0]
    first, second = ys
    if merge == "concat":
        return np.concatenate(ys, axis=2)
    return {"sum": first + second, "mean": (first + second) / 2, "mul": first * second}.get(str(merge), (first, second))


def split(merge: str | None, dy: Any, ys: list[Any]) -> list[Any]:
    if merge is None:
        return [None, None] if dy is None else list(dy)
    if dy is None:
        return [None, None]
    first, second = ys
    if merge == "concat":
        return [dy[..., : first.shape[2]], dy[..., first.shape[2] :]]
    return {"sum": [dy, dy], "mean": [dy / 2, dy / 2], "mul": [dy * second, dy * first]}[merge]


class Checker:
    """float64: each array has its own scale. float32: arrays share a scale, because some have few elements."""

    def __init__(self, dtype: Any, K: int, T: int) -> None:
        self.dtype, self.K, self.T = dtype, K, T

    def group(self, what: str, actual: Any, expected: Any) -> None:
        __tracebackhide__ = True
        for a, e in zip(actual, expected, strict=True):
            assert a.shape == e.shape, what
            if self.dtype == np.float64:
                assert_close(a, e, dtype=self.dtype, K=self.K, T=self.T, what=what)
        if self.dtype == np.float32 and len(actual):
            flat = [np.concatenate([np.ravel(a) for a in arrays]) for arrays in (actual, expected)]
            assert_close(*flat, dtype=self.dtype, K=self.K, T=self.T, what=what)
