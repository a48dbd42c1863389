"""Fused recurrent layers for NumPy on the CPU: RNN, GRU, LSTM and others, forward, backward, streaming.

Layers have torch's arguments, names and shapes; gradients are computed from an explicit tape. `functional` offers the
same for one layer on plain arrays, and `reference` the same in plain NumPy, to read and to check against.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import (
    _hints,
    _interpreter,  # noqa: F401  refuses sub-interpreters before anything else is imported
)
from ._version import __version__
from .c_api import get_include
from .grads import Grads, SparseGrad

try:
    importlib.import_module("._core", __name__)
except ModuleNotFoundError as error:
    if error.name != f"{__name__}._core":
        raise
    # A checkout that is not built: `reference` does without the module, what needs it says so when it is used. A module
    # that is there and cannot be loaded, or refuses FUSEDRNN_ISA, is an error at once: silence would hide it.
    _missing: ImportError | None = error
else:
    _missing = None
    from . import functional, losses, optim
    from .bidirectional import Bidirectional
    from .clipping import clip_grad_norm, clip_grad_value
    from .embedding import Embedding
    from .ensemble import Ensemble
    from .explanation import Explanation, explain
    from .families.gru import GRU, GRUCell
    from .families.indrnn import IndRNN, IndRNNCell
    from .families.lru import LRU, LRUCell
    from .families.lstm import LSTM, LSTMCell
    from .families.mingru import MinGRU, MinGRUCell, MinLSTM, MinLSTMCell
    from .families.qrnn import QRNN, QRNNCell
    from .families.rglru import RGLRU, RGLRUCell
    from .families.rnn import RNN, RNNCell
    from .families.sru import SRU, SRUCell
    from .frozen import FrozenLayer, Stream
    from .frozen_mixer import FrozenMixer, MixerStream
    from .groups import FrozenGroup
    from .isa import available_isas, current_isa, show_config, use_isa
    from .linear import Linear
    from .mamba import Mamba
    from .pipeline import Pipeline
    from .signatures import unquote as _unquote
    from .stack import Stack, StackStream
    from .tape import Tape
    from .threads import get_num_threads, set_num_threads, threads

    _unquote(value for value in [*globals().values(), *vars(functional).values()] if callable(value))
    _unquote(getattr(module, name) for module in (losses, optim) for name in module.__all__)

if TYPE_CHECKING:
    from . import interop, reference
    from .interop.object_files import load, save

__all__ = [
    "GRU",
    "LRU",
    "LSTM",
    "QRNN",
    "RGLRU",
    "RNN",
    "SRU",
    "Bidirectional",
    "Embedding",
    "Ensemble",
    "Explanation",
    "FrozenGroup",
    "FrozenLayer",
    "FrozenMixer",
    "GRUCell",
    "Grads",
    "IndRNN",
    "IndRNNCell",
    "LRUCell",
    "LSTMCell",
    "Linear",
    "Mamba",
    "MinGRU",
    "MinGRUCell",
    "MinLSTM",
    "MinLSTMCell",
    "MixerStream",
    "Pipeline",
    "QRNNCell",
    "RGLRUCell",
    "RNNCell",
    "SRUCell",
    "SparseGrad",
    "Stack",
    "StackStream",
    "Stream",
    "Tape",
    "__version__",
    "available_isas",
    "clip_grad_norm",
    "clip_grad_value",
    "current_isa",
    "explain",
    "functional",
    "get_include",
    "get_num_threads",
    "interop",
    "load",
    "losses",
    "optim",
    "reference",
    "save",
    "set_num_threads",
    "show_config",
    "threads",
    "use_isa",
]


if not TYPE_CHECKING:  # so that type checkers still report misspelt names

    def __getattr__(name: str) -> Any:
        if name in ("interop", "reference"):  # imported on first use, so that other users need not wait for it
            return importlib.import_module(f".{name}", __name__)
        if name in ("load", "save") and _missing is None:  # likewise
            found = globals()[name] = getattr(importlib.import_module(".interop.object_files", __name__), name)
            _unquote([found])
            return found
        if _missing is not None and name in (*__all__, "_core"):
            raise _hints.no_core(name) from _missing
        raise _hints.no_name(__name__, name, __all__)


def __dir__() -> list[str]:
    return __all__
