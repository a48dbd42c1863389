"""One recurrent node of an ONNX model, as `from_onnx` gives it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..bidirectional import Bidirectional
from . import _messages
from .conventions import Array, Pair, Part


class OnnxNode:
    """One RNN, GRU or LSTM node: a layer, and what else the model says about how to call it.

    Calling it is running the operator: same arguments, axes and results.

    Attributes
    ----------
    name : str
        Of the node; of its first output, if it has none.
    layer : RNN, GRU or LSTM, or Bidirectional of two, where the activations of the directions differ
        ``batch_first`` with ``layout=1``.
    lengths : ndarray or None
        ``sequence_lens``, if the model has them as constants.
    state : ndarray, pair of ndarray, or None
        The initial state for `layer`, (D, B, H), if the model has it as constants.
    layout : int
    inputs : dict of str to str
        Which of the model's tensors feed X and what is no constant of ``sequence_lens``, ``initial_h``, ``initial_c``.
    outputs : tuple of str
        The model's names of Y, Y_h and Y_c; empty where it does not use them.

    Examples
    --------
    >>> from fusedrnn.interop import OnnxNode
    >>> OnnxNode.__call__.__doc__.splitlines()[0]
    'Run the operator.'
    """

    def __init__(
        self,
        name: str,
        layer: Any,
        lengths: Array | None,
        state: Any,
        layout: int,
        inputs: dict[str, str],
        outputs: tuple[str, ...],
        part: Part | Pair,
    ) -> None:
        self.name = name
        self._part = part
        self.layer = layer
        self.lengths = lengths
        self.state = state
        self.layout = layout
        self.inputs = inputs
        self.outputs = outputs

    def __repr__(self) -> str:
        return f"OnnxNode({self.name!r}, {self.layer!r})"

    def __call__(
        self, X: Any, sequence_lens: Any = None, initial_h: Any = None, initial_c: Any = None
    ) -> tuple[Array, ...]:
        """Run the operator.

        Parameters
        ----------
        X : (T, B, I), with ``layout=1`` (B, T, I)
        sequence_lens : (B,) or None
        initial_h, initial_c : (D, B, H), with ``layout=1`` (B, D, H), or None
            None is the model's constant, and zeros if there is none.

        Returns
        -------
        Y : (T, D, B, H), with ``layout=1`` (B, T, D, H)
        Y_h, and of an LSTM Y_c : (D, B, H), with ``layout=1`` (B, D, H)

        Raises
        ------
        ValueError
            A shape is wrong; or the model computes one of the last three and it was not given.
        """
        given = {"sequence_lens": sequence_lens, "initial_h": initial_h, "initial_c": initial_c}
        for argument, value in given.items():
            if value is None and argument in self.inputs:
                tensor = self.inputs[argument]
                raise ValueError(_messages.computed(argument, tensor))
        layer, axes = self.layer, (1, 0, 2)
        parts = [initial_h, initial_c][: 1 + isinstance(self._state(X), tuple)]
        state = self.state
        if any(part is not None for part in parts):
            old = self._state(X) if state is None else state
            old = old if isinstance(old, tuple) else (old,)
            turned = [p if p is None or not self.layout else np.asarray(p).transpose(axes) for p in parts]
            both = tuple(o if p is None else p for p, o in zip(turned, old, strict=True))
            state = both if len(both) == 2 else both[0]
        D = len(layer._plan.ways)
        two = isinstance(layer, Bidirectional)
        if two and state is not None:
            state = split_state(state)
        y, state_n = layer(X, state, lengths=self.lengths if sequence_lens is None else sequence_lens)
        if two:
            state_n = join_states(*state_n)
        states = state_n if isinstance(state_n, tuple) else (state_n,)
        y = y.reshape(*y.shape[:2], D, y.shape[2] // D)  # not -1, which no steps or rows would leave open
        if self.layout:
            return (y, *(np.ascontiguousarray(part.transpose(axes)) for part in states))
        return (np.ascontiguousarray(y.transpose(0, 2, 1, 3)), *states)

    def _state(self, X: Any) -> Any:
        """Zeros, as an initial state of the node."""
        layer = self.layer
        first = layer.layers[0] if isinstance(layer, Bidirectional) else layer
        B = np.shape(X)[0 if self.layout else 1]
        zeros = np.zeros((len(layer._plan.ways), B, first.hidden_size), layer.dtype)
        return (zeros, zeros) if type(first).__name__ == "LSTM" else zeros


def split_state(state: Any) -> tuple[Any, Any]:
    """A node's state, (2, B, H) for each part, as that of a `Bidirectional`."""
    if isinstance(state, tuple):
        return tuple([part[:1] for part in state]), tuple([part[1:] for part in state])
    return state[:1], state[1:]


def join_states(first: Any, second: Any) -> Any:
    """The inverse."""
    if isinstance(first, tuple):
        return tuple([np.concatenate(parts) for parts in zip(first, second, strict=True)])
    return np.concatenate((first, second))
