"""The layers that char_lm.py can learn with. Cells without a recurrent matrix get the units of equal parameters."""

import bisect
from typing import Any

import numpy as np

import fusedrnn

# Name: class, and its arguments besides the sizes.
RECURRENT: dict[str, tuple[Any, dict[str, Any]]] = {
    "lstm": (fusedrnn.LSTM, {}),
    "gru": (fusedrnn.GRU, {}),
    "gru-before": (fusedrnn.GRU, {"reset_after": False}),
    "rnn": (fusedrnn.RNN, {}),
}
WITHOUT_MATRIX: dict[str, tuple[Any, dict[str, Any]]] = {
    "mingru": (fusedrnn.MinGRU, {"activation": "tanh"}),
    "minlstm": (fusedrnn.MinLSTM, {"activation": "tanh"}),
    "indrnn": (fusedrnn.IndRNN, {"nonlinearity": "tanh"}),
    "qrnn": (fusedrnn.QRNN, {"window": 2}),
    "sru": (fusedrnn.SRU, {}),
    "lru": (fusedrnn.LRU, {"r_min": 0.5, "max_phase": 0.5}),
    "rglru": (fusedrnn.RGLRU, {}),
}
CELLS = RECURRENT | WITHOUT_MATRIX


def layers_of(cell: str) -> int:
    """Units of cells without a recurrent matrix meet between layers alone, so such a cell needs some."""
    return 3 if cell in WITHOUT_MATRIX else 1


def make_layer(cell: str, V: int, hidden: int | None, layers: int | None, rng: Any) -> Any:
    """The layer that reads one of V characters at each step.

    Without `hidden` it has 256 units; without a recurrent matrix as many as give it, together with the dense layer that
    scores V characters, about the parameters of an LSTM of 256 units.
    """
    kind, arguments = CELLS[cell]
    L = layers or layers_of(cell)
    H = hidden or (units_like_lstm(kind, arguments, V, L) if cell in WITHOUT_MATRIX else 256)
    layer = kind(V, H, L, rng=rng, **arguments)
    if cell == "rglru":
        start_quick(layer)
    return layer


def start_quick(layer: Any) -> None:
    """Decays of 0.1 to 0.9 a character, and x of unit size: the usual start is for blocks with residuals around them.

    With decays of 0.9 to 0.999 and sqrt(1 - a^2) before x, each layer of a bare stack would shrink x tenfold.
    """
    for name, w in layer.params.items():
        if name.startswith("weight_unit"):
            w[...] = np.log(np.expm1(-np.log(layer.rng.uniform(0.1, 0.9, w.shape)) / 8))
        elif name.startswith("weight_ih") and len(w) == 3 * layer.hidden_size:
            w[2 * layer.hidden_size :] *= 0.5 * w.shape[1] ** 0.5  # rows of x


def units_like_lstm(kind: Any, arguments: dict[str, Any], V: int, layers: int) -> int:
    """The even number of units at which parameters are closest to those of an LSTM of 256 units."""

    def parameters(layer: Any) -> int:
        return sum(w.size for w in layer.params.values()) + V * layer.hidden_size + V

    def of(half: int) -> int:
        return parameters(kind(V, 2 * half, layers, rng=0, **arguments))

    target = parameters(fusedrnn.LSTM(V, 256, rng=0))
    half = bisect.bisect_left(range(1, 1024), target, key=of) + 1  # the first that has as many
    return 2 * min((half - 1, half), key=lambda half: abs(of(half) - target))
