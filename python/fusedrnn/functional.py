"""One layer in one direction on plain arrays, and linear recurrences, for authors of their own layers.

`fusedrnn.reference` has the same functions in plain NumPy, to be read beside the textbook. Letters: T steps, B rows, I
inputs, H hidden units, G gates (RNN 1, GRU 3, LSTM 4). Weights are W_ih (G*H, I) and W_hh (G*H, H), biases (G*H,),
gates in torch's order (GRU r z n, LSTM i f g o; an option that removes a gate removes its rows). x is (T, B, I),
or integer tokens (T, B), each a one-hot vector. Or x is a tuple (values, lengths): values (N, I), or tokens (N,), hold
the steps of row 0, then those of row 1, and so on, and lengths (B,) sum to N. Then all arrays that are (T, B, ...)
are (N, ...), reset included; `lengths` and `mask` stay None. Functions of cells without a recurrent matrix (minGRU and
minLSTM, IndRNN, QRNN, SRU, LRU, RG-LRU) take W_ih, b_ih and, where single units have parameters, W_unit; docs/cells.md
lists their rows.

The dtype of W_ih, float32 or float64, is that of the computation: all weights must have it, other arrays are cast to
it.
"""

from __future__ import annotations

from .causal_conv import CausalConvGrads, causal_conv_backward, causal_conv_forward
from .discretization import DiscretizeGrads, discretize, discretize_backward, discretize_forward
from .families.gru import gru_backward, gru_forward
from .families.indrnn import indrnn_backward, indrnn_forward
from .families.lru import lru_backward, lru_forward
from .families.lstm import lstm_backward, lstm_forward
from .families.mingru import mingru_backward, mingru_forward, minlstm_backward, minlstm_forward
from .families.qrnn import qrnn_backward, qrnn_forward
from .families.rglru import rglru_backward, rglru_forward
from .families.rnn import rnn_backward, rnn_forward
from .families.sru import sru_backward, sru_forward
from .grads import ElementwiseGrads, ElementwisePairGrads, GRUGrads, LSTMGrads, RNNGrads
from .linear_attention import LinearAttentionGrads, linear_attention_backward, linear_attention_forward
from .one_direction import FunctionalTape
from .plain_arrays import ArrayTape
from .scans import ScanGrads, scan_backward, scan_forward
from .selective_scan import (
    SelectiveScanGrads,
    selective_scan_backward,
    selective_scan_forward,
    selective_scan_step,
)
from .state_spaces import StateSpaceGrads, state_space_backward, state_space_forward

__all__ = [
    "ArrayTape",
    "CausalConvGrads",
    "DiscretizeGrads",
    "ElementwiseGrads",
    "ElementwisePairGrads",
    "FunctionalTape",
    "GRUGrads",
    "LSTMGrads",
    "LinearAttentionGrads",
    "RNNGrads",
    "ScanGrads",
    "SelectiveScanGrads",
    "StateSpaceGrads",
    "causal_conv_backward",
    "causal_conv_forward",
    "discretize",
    "discretize_backward",
    "discretize_forward",
    "gru_backward",
    "gru_forward",
    "indrnn_backward",
    "indrnn_forward",
    "linear_attention_backward",
    "linear_attention_forward",
    "lru_backward",
    "lru_forward",
    "lstm_backward",
    "lstm_forward",
    "mingru_backward",
    "mingru_forward",
    "minlstm_backward",
    "minlstm_forward",
    "qrnn_backward",
    "qrnn_forward",
    "rglru_backward",
    "rglru_forward",
    "rnn_backward",
    "rnn_forward",
    "scan_backward",
    "scan_forward",
    "selective_scan_backward",
    "selective_scan_forward",
    "selective_scan_step",
    "sru_backward",
    "sru_forward",
    "state_space_backward",
    "state_space_forward",
]
