"""Recurrent layers as one writes them in NumPy today: one projection for all steps, then a Python loop.

One layer, one direction; gate order, equations, arguments and results are those of `fusedrnn.reference`. What differs
is that speed counts here: the input projection of all steps is one matrix product, and so is each weight gradient.
`keep=False` drops what only backward needs.
"""

from .gru import gru_backward, gru_forward
from .lstm import lstm_backward, lstm_forward
from .rnn import rnn_backward, rnn_forward

__all__ = ["gru_backward", "gru_forward", "lstm_backward", "lstm_forward", "rnn_backward", "rnn_forward"]
