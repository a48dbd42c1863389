"""The layers that char_lm.py can learn with. Cells without a recurrent matrix get the units of equal parameters."""

import bisect
from typing import Any

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
    return kind(V, H, L, rng=rng, **arguments)


def units_like_lstm(kind: Any, arguments: dict[str, Any], V: int, layers: int) -> int:
    """The even number of units at which parameters are closest to those of an LSTM of 256 units."""

    def parameters(layer: Any) -> int:
        return sum(w.size for w in layer.params.values()) + V * layer.hidden_size + V

    def of(half: int) -> int:
        return parameters(kind(V, 2 * half, layers, rng=0, **arguments))

    target = parameters(fusedrnn.LSTM(V, 256, rng=0))
    half = bisect.bisect_left(range(1, 1024), target, key=of) + 1  # the first that has as many
    return 2 * min((half - 1, half), key=lambda half: abs(of(half) - target))
