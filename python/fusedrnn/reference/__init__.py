"""The same recurrent layers in plain NumPy, written to be read beside the textbook and beside `csrc/`.

It is deliberately slow and simple; everything else in fusedrnn is tested against it. Start with `cells/lstm.py`, then
`sequence.py`. The functions have the signatures of `fusedrnn.functional`, plus `dtype` (float64 by default).
"""

from fusedrnn.grads import (
    CausalConvGrads,
    GRUGrads,
    LinearAttentionGrads,
    LSTMGrads,
    RNNGrads,
    ScanGrads,
    SelectiveScanGrads,
    StateSpaceGrads,
)
from fusedrnn.reference import elementwise, functions
from fusedrnn.reference.activations import sigmoid
from fusedrnn.reference.causal_conv import CausalConvTape, causal_conv_backward, causal_conv_forward
from fusedrnn.reference.cells import CELLS, Cell
from fusedrnn.reference.discretization import discretize
from fusedrnn.reference.elementwise import *  # noqa: F403  cells without a recurrent matrix
from fusedrnn.reference.functions import *  # noqa: F403  every family's, listed there
from fusedrnn.reference.layer_norm import LayerNorm
from fusedrnn.reference.linear_attention import (
    LinearAttentionTape,
    linear_attention_backward,
    linear_attention_forward,
)
from fusedrnn.reference.scan import ScanTape, scan_backward, scan_forward
from fusedrnn.reference.selective_scan import SelectiveScanTape, selective_scan_backward, selective_scan_forward
from fusedrnn.reference.sequence import SequenceGrads, Tape, backward, forward
from fusedrnn.reference.state_space import StateSpaceTape, state_space_backward, state_space_forward

__all__ = [
    "CELLS",
    "CausalConvGrads",
    "CausalConvTape",
    "Cell",
    "GRUGrads",
    "LSTMGrads",
    "LayerNorm",
    "LinearAttentionGrads",
    "LinearAttentionTape",
    "RNNGrads",
    "ScanGrads",
    "ScanTape",
    "SelectiveScanGrads",
    "SelectiveScanTape",
    "SequenceGrads",
    "StateSpaceGrads",
    "StateSpaceTape",
    "Tape",
    "backward",
    "causal_conv_backward",
    "causal_conv_forward",
    "discretize",
    "forward",
    "linear_attention_backward",
    "linear_attention_forward",
    "scan_backward",
    "scan_forward",
    "selective_scan_backward",
    "selective_scan_forward",
    "sigmoid",
    "state_space_backward",
    "state_space_forward",
]
__all__ += [*functions.__all__, *elementwise.__all__]
