"""Old pickles of layers refer to this module, where the classes used to be."""

from .families.gru import GRU
from .families.lstm import LSTM
from .families.rnn import RNN

__all__ = ["GRU", "LSTM", "RNN"]
