"""The five cells by name. A new cell is one small file and a line here (and its twin in `csrc/cells/`)."""

from fusedrnn.reference.cells.cell import Cell, OnePhaseCell, TwoPhaseCell
from fusedrnn.reference.cells.gru import GRUAfter, GRUBefore
from fusedrnn.reference.cells.lstm import LSTM
from fusedrnn.reference.cells.rnn import RNNRelu, RNNTanh

__all__ = ["CELLS", "LSTM", "Cell", "GRUAfter", "GRUBefore", "OnePhaseCell", "RNNRelu", "RNNTanh", "TwoPhaseCell"]

CELLS: dict[str, Cell] = {
    "rnn_tanh": RNNTanh(),
    "rnn_relu": RNNRelu(),
    "gru_after": GRUAfter(),
    "gru_before": GRUBefore(),
    "lstm": LSTM(),
}
