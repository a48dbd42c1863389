"""Long short-term memory. The twin of `csrc/cells/lstm.h`; gates in torch's order i, f, g, o.

    i = sigmoid(a_i)   f = sigmoid(a_f)   g = tanh(a_g)   o = sigmoid(a_o)
    c' = f * c + i * g
    h' = o * tanh(c')                      a = W_ih x + b_ih + W_hh h + b_hh

    peephole "ifo":     a_i += p_i * c,   a_f += p_f * c,   a_o += p_o * c'      (p: i, f, o)
    peephole "o_prev":  a_o += p_o * c                                          (p: o)
    coupled:            f = 1 - i; there is no gate f                           (gates i, g, o; p: i, o)
    cell clip:          c' is limited to [-cell_clip, cell_clip] before it is used
    layer norm:         h' = o * tanh(LN(c'))                                   (p: gain, bias; `layer_norm.py`)

S. Hochreiter, J. Schmidhuber, Long short-term memory, Neural Computation 9 (1997); the forget gate f is from
F. A. Gers, J. Schmidhuber, F. Cummins, Learning to forget, Neural Computation 12 (2000); peepholes from F. A. Gers,
N. N. Schraudolph, J. Schmidhuber, Learning precise timing with LSTM recurrent networks, JMLR 3 (2002); coupled gates as
in K. Greff et al., LSTM: a search space odyssey, arXiv:1503.04069 (2015); the clip from H. Sak, A. Senior, F. Beaufays,
arXiv:1402.1128 (2014). Other functions can replace sigmoid (`gate`), the tanh of g (`state`) and the tanh of c'
(`output`).
"""

from typing import Any, Self

import numpy as np

from fusedrnn.reference.activations import Activation, activation_of
from fusedrnn.reference.cells.cell import CELLS, Array, Arrays, Cell, OnePhaseCell
from fusedrnn.reference.layer_norm import normalise, normalise_back

__all__ = ["LSTM", "lstm_cell"]


class LSTM(OnePhaseCell):
    """LSTM with a forget gate."""

    name = "lstm"
    states = 2

    def __init__(
        self,
        gate: Activation,
        state: Activation,
        output: Activation,
        peephole: str | None = None,
        coupled: bool = False,
        cell_clip: float | None = None,
    ) -> None:
        self.gate, self.state, self.output = gate, state, output
        self.peephole, self.coupled = peephole, coupled
        self.cell_clip = np.inf if cell_clip is None else cell_clip
        self.gates = self.saved = 3 if coupled else 4
        self.unit_parameters = 0 if peephole is None else 1 if peephole == "o_prev" else self.gates - 1
        plain = peephole is None and not coupled and cell_clip is None
        self.norm_groups = ((0, 1, 2, 3),) if plain else ()

    def normed(self, eps: float) -> Self:
        """Its unit parameters are the gain and the bias of c."""
        other = super().normed(eps)
        other.unit_parameters = 2
        return other

    def forward(self, a: Arrays, s: Arrays, p: Arrays) -> tuple[Arrays, Arrays]:
        """s is (h, c)."""
        a_i, *a_f, a_g, a_o = a
        if self.peephole == "ifo":
            a_i = a_i + p[0] * s[1]
            a_f = [a_f[0] + p[1] * s[1]] if a_f else []
        if self.peephole == "o_prev":
            a_o = a_o + p[0] * s[1]
        i, f, g = self._gates(a_i, a_f, a_g)
        c = np.clip(f * s[1] + i * g, -self.cell_clip, self.cell_clip)
        if self.peephole == "ifo":
            a_o = a_o + p[-1] * c
        return (self.gate(a_o) * self.output(self._seen(c, p)[0]), c), (a_i, *a_f, a_g, a_o)

    def backward(self, save: Arrays, s: Arrays, s_new: Arrays, p: Arrays, ds_new: Arrays) -> tuple[Arrays, Arrays]:
        """The gradient of c' has two sources: the step after, and h' through tanh(c'); with a peephole, o as well."""
        a_i, *a_f, a_g, a_o = save
        i, f, g = self._gates(a_i, a_f, a_g)
        o, c = self.gate(a_o), s_new[1]
        dh = ds_new[0]
        seen, normed, rate = self._seen(c, p)
        da_o = dh * self.output(seen) * self.gate.slope(a_o)
        dc = dh * o * self.output.slope(seen)
        if self.norm_eps is not None:
            dc = normalise_back((dc * p[0])[None], normed[None], rate[None], ((0,),))[0]
        dc = ds_new[1] + dc
        if self.peephole == "ifo":
            dc = dc + da_o * p[-1]
        dc = np.where(np.abs(f * s[1] + i * g) > self.cell_clip, np.zeros_like(dc), dc)
        di, df = (dc * (g - s[1]), []) if self.coupled else (dc * g, [dc * s[1]])
        da_i = di * self.gate.slope(a_i)
        da_f = [d * self.gate.slope(x) for d, x in zip(df, a_f, strict=True)]
        da_g = dc * i * self.state.slope(a_g)
        dc_old = dc * f
        if self.peephole == "ifo":
            dc_old = dc_old + da_i * p[0] + sum(d * p[1] for d in da_f)
        if self.peephole == "o_prev":
            dc_old = dc_old + da_o * p[0]
        return (da_i, *da_f, da_g, da_o), (np.zeros_like(dh), dc_old)

    def unit_gradients(self, save: Arrays, s: Arrays, s_new: Arrays, p: Arrays, ds_new: Arrays, da: Arrays) -> Arrays:
        """dp: the gradient of a peephole's gate times the peephole's input; with layer norm those of gain and bias."""
        da_i, *da_f, _, da_o = da
        if self.norm_eps is not None:
            seen, normed, _ = self._seen(s_new[1], p)
            dseen = ds_new[0] * self.gate(save[-1]) * self.output.slope(seen)
            return (dseen * normed, dseen)
        if self.peephole is None:
            return ()
        if self.peephole == "o_prev":
            return (da_o * s[1],)
        return (da_i * s[1], *(d * s[1] for d in da_f), da_o * s_new[1])

    def gate_values(self, save: Arrays) -> dict[str, Array]:
        """i, f, g, o; f also if coupled."""
        a_i, *a_f, a_g, a_o = save
        i, f, g = self._gates(a_i, a_f, a_g)
        return {"i": i, "f": f, "g": g, "o": self.gate(a_o)}

    def _gates(self, a_i: Array, a_f: list[Any], a_g: Array) -> tuple[Array, Array, Array]:
        i = self.gate(a_i)
        return i, (1 - i if self.coupled else self.gate(a_f[0])), self.state(a_g)

    def _seen(self, c: Array, p: Arrays) -> tuple[Array, Array, Array]:
        """The function of c that enters h'; and, with layer norm, c normalised, and the rate."""
        if self.norm_eps is None:
            return c, c, c
        normed, rate = normalise(c[None], ((0,),), self.norm_eps)
        return p[0] * normed[0] + p[1], normed[0], rate[0]


def lstm_cell(
    peephole: str | None = None,
    coupled: bool = False,
    activation: Any = None,
    recurrent_activation: Any = "sigmoid",
    output_activation: Any = None,
    clip: float | None = None,
    cell_clip: float | None = None,
) -> Cell:
    """An LSTM; arguments are those of `lstm_forward`."""
    gate, state = activation_of(recurrent_activation, clip), activation_of(activation or "tanh", clip)
    output = activation_of(output_activation or activation or "tanh")
    return LSTM(gate, state, output, peephole, coupled, cell_clip)


CELLS["lstm"] = lstm_cell()
