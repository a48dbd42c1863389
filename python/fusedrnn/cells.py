"""Old pickles of cells refer to this module, where the classes used to be."""

from .families.gru import GRUCell
from .families.lstm import LSTMCell
from .families.rnn import RNNCell

__all__ = ["GRUCell", "LSTMCell", "RNNCell"]
