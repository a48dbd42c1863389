"""Bridges to other frameworks. A framework is imported only when one of its objects is passed.

Weights: ``from_torch``, ``to_torch``, ``from_keras``, ``to_keras``, ``from_onnx``, ``to_onnx``, ``from_paddle``,
``from_dynet``, ``from_madmom``, ``from_thinc``, ``from_flax``, ``from_haste``, ``from_mingru``, ``from_sru``,
``from_recurrentgemma`` and files, ``save_safetensors``, ``load_safetensors``, ``save_npz``, ``load_npz``,
``load_ncnn``, ``load_rtneural`` (GuitarML's, too). Each bridge is a file ``weights_<framework>.py``, the only place
that knows the framework's gate order; docs/conventions.md lists the conventions in one table.

Gradients: ``fusedrnn.interop.autograd``, ``fusedrnn.interop.jax``, ``fusedrnn.interop.thinc`` and
``fusedrnn.interop.torch``; estimators: ``fusedrnn.interop.sklearn``;
results as arrays of any library: ``fusedrnn.interop.arrays``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..signatures import unquote

if TYPE_CHECKING:
    from .onnx_nodes import OnnxNode
    from .onnx_operators import OnnxOperator
    from .weight_files import load_npz, load_safetensors, save_npz, save_safetensors
    from .weights_dynet import from_dynet
    from .weights_flax import from_flax
    from .weights_haste import from_haste
    from .weights_keras import from_keras, to_keras
    from .weights_madmom import from_madmom
    from .weights_mingru import from_mingru
    from .weights_ncnn import load_ncnn
    from .weights_onnx import from_onnx
    from .weights_onnx_export import to_onnx
    from .weights_paddle import from_paddle
    from .weights_recurrentgemma import from_recurrentgemma
    from .weights_rtneural import load_rtneural
    from .weights_sru import from_sru
    from .weights_thinc import from_thinc
    from .weights_torch import from_torch, to_torch

__all__ = [
    "OnnxNode",
    "OnnxOperator",
    "from_dynet",
    "from_flax",
    "from_haste",
    "from_keras",
    "from_madmom",
    "from_mingru",
    "from_onnx",
    "from_paddle",
    "from_recurrentgemma",
    "from_sru",
    "from_thinc",
    "from_torch",
    "load_ncnn",
    "load_npz",
    "load_rtneural",
    "load_safetensors",
    "save_npz",
    "save_safetensors",
    "to_keras",
    "to_onnx",
    "to_torch",
]

#: Public name -> its module, which is imported on first use.
_MODULES = {
    "OnnxNode": "onnx_nodes",
    "OnnxOperator": "onnx_operators",
    "from_haste": "weights_haste",
    "from_flax": "weights_flax",
    "from_dynet": "weights_dynet",
    "from_keras": "weights_keras",
    "from_madmom": "weights_madmom",
    "from_mingru": "weights_mingru",
    "from_onnx": "weights_onnx",
    "from_paddle": "weights_paddle",
    "from_recurrentgemma": "weights_recurrentgemma",
    "from_sru": "weights_sru",
    "from_thinc": "weights_thinc",
    "load_ncnn": "weights_ncnn",
    "from_torch": "weights_torch",
    "load_rtneural": "weights_rtneural",
    "load_npz": "weight_files",
    "load_safetensors": "weight_files",
    "save_npz": "weight_files",
    "save_safetensors": "weight_files",
    "to_keras": "weights_keras",
    "to_onnx": "weights_onnx_export",
    "to_torch": "weights_torch",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        thing = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
        unquote([thing])
        return thing
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
