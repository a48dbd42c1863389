"""Which modules of torch `from_torch` reads: those that run torch's own code, and whose weights can be known.

torch calls hooks and parametrizations around or before a module's own code. Of these, the ones of ``torch.nn.utils``
that compute a weight (weight_norm, spectral_norm, orthogonal, pruning) are understood: the computed weight is read.
"""

from __future__ import annotations

import re
from typing import Any

from . import _messages
from .conventions import Array, as_weights
from .own_code import replaced

#: torch's recurrent classes.
CLASSES = ("RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell")

#: Where their code is: in torch, and in the modules of ours that take torch's place.
HOMES = ("torch.nn.modules.rnn", "fusedrnn.interop.torch")

#: Modules that do nothing outside of training, and may stand between stacked layers.
NOTHING = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout", "Identity")

#: Attributes of a module that hold its hooks.
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")

#: What to do where there are several modules.
SEVERAL = "prefix=, or some that stand upon each other with prefix=[...]"


def own_class(module: Any) -> type | None:
    """The recurrent class whose code a module runs unless it replaces the code."""
    classes = type(module).__mro__
    return next((cls for cls in classes if cls.__name__ in CLASSES and cls.__module__ in HOMES), None)


def scripted(module: Any) -> str | None:
    """The class's name in TorchScript, for a module that TorchScript made."""
    inside = getattr(module, "_c", None)
    if "ScriptModule" not in [cls.__name__ for cls in type(module).__mro__] or inside is None:
        return None
    return re.sub(r"___torch_mangle_\d+\.", "", str(inside._type().qualified_name()))


def quantised(module: Any) -> bool:
    """Whether this is a recurrent module of torch's quantisation, which keeps packed integers."""
    home = type(module).__module__
    return home.startswith(("torch.ao.nn.quant", "torch.nn.quant")) and type(module).__name__ in CLASSES


def is_recurrent(module: Any) -> bool:
    """Whether a module is, or looks like, one of those that `from_torch` reads."""
    names = ("weight_ih_l0", "weight_ih", "weight_hh")
    first, ih, hh = (hasattr(getattr(module, name, None), "shape") for name in names)  # no module of that name
    return first or (ih and hh) or quantised(module) or own_class(module) is not None


def compiled(module: Any) -> bool:
    """Whether this is the wrapper of ``torch.compile``."""
    return type(module).__name__ == "OptimizedModule" and type(module).__module__.startswith("torch._dynamo")


def plain_name(name: str) -> str:
    """A module's name without the wrappers of ``torch.compile``."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def recurrent_module(owner: str, source: Any, prefix: str | None, force: bool) -> Any:
    """The recurrent module itself, or the only one inside, or the one called `prefix`; its code is torch's."""
    found: dict[str, Any] = {}
    wrappers: dict[str, Any] = {}
    for name, module in source.named_modules(remove_duplicate=False):
        if compiled(module):
            wrappers[plain_name(name)] = module
        elif is_recurrent(module):
            found[plain_name(name)] = module
    if prefix is not None:
        found = {name: module for name, module in found.items() if name == plain_name(prefix.rstrip("."))}
    if not found:
        looked = type(source).__name__ + (f" under prefix {prefix!r}" if prefix else "")
        raise ValueError(_messages.none_found(owner, "RNN, GRU or LSTM", looked))
    if len({id(module) for module in found.values()}) > 1:
        raise ValueError(_messages.several(owner, "recurrent modules", sorted(found), SEVERAL))
    name, module = next(iter(found.items()))
    label = f"{name!r} ({class_name(module)})" if name else f"the module ({class_name(module)})"
    refuse_quantised(owner, label, module)
    if not force:
        refuse_other_code(owner, label, module)
        if name in wrappers:
            refuse_hooks(owner, label, wrappers[name], [])
    return module


def class_name(module: Any) -> str:
    """A class's name, with the file that it is from."""
    cls = type(module)
    home = "" if cls.__module__ == "__main__" else f"{cls.__module__}."
    return scripted(module) or f"{home}{cls.__qualname__}"


def refuse_quantised(owner: str, label: str, module: Any) -> None:
    """Quantised modules also round their inputs at each call, so that no weights equal them."""
    if quantised(module):
        raise ValueError(_messages.quantised(owner, label))


def refuse_other_code(owner: str, label: str, module: Any) -> None:
    """Refuse a module that may compute something else than torch's class does with the same weights."""
    name = scripted(module)
    if name is not None:
        if "Traced" in type(module).__name__:
            raise ValueError(_messages.traced(owner, label))
        if name not in [f"__torch__.torch.nn.modules.rnn.{cls}" for cls in CLASSES]:
            raise ValueError(_messages.foreign_code(owner, label))
        inside = module._c
        if any(getattr(inside, ask, list)() for ask in ("_get_forward_hooks", "_get_forward_pre_hooks")):
            raise ValueError(_messages.hooked(owner, label, ["hooks in TorchScript"]))
        return
    base = own_class(module)
    if base is None:
        raise ValueError(_messages.foreign_code(owner, label))
    changed = replaced(module, base)
    # Parameters that are properties of a subclass, but for those that torch's parametrizations make.
    own = type(module).__mro__[: type(module).__mro__.index(base)]
    derived = [cls for cls in own if cls.__module__ != "torch.nn.utils.parametrize"]
    changed += [name for name in parameter_names(module) if any(name in vars(cls) for cls in derived)]
    if changed:
        raise ValueError(_messages.replaced_code(owner, label, base.__name__, changed))
    refuse_hooks(owner, label, module, list(weight_hooks(module)))


def refuse_hooks(owner: str, label: str, module: Any, known: list[Any]) -> None:
    """Refuse hooks, which may change inputs, outputs and gradients, but for the known ones."""
    import torch.nn.modules.module as everywhere

    hooks = [hook for name in HOOKS for hook in getattr(module, name, {}).values()]
    hooks += [hook for name in HOOKS for hook in getattr(everywhere, f"_global{name}", {}).values()]
    others = [getattr(hook, "__qualname__", type(hook).__qualname__) for hook in hooks if hook not in known]
    if others:
        raise ValueError(_messages.hooked(owner, label, others))


def parameter_names(module: Any) -> list[str]:
    """Attributes that hold the weights."""
    names = getattr(module, "_flat_weights_names", None)
    if names is not None:
        return list(names)
    layers = sorted(name for name, _ in module.named_parameters(recurse=False))  # of TorchScript, or a foreign class
    if "weight_ih_l0" in layers:
        return layers
    return [n for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if getattr(module, n, None) is not None]


def weight_hooks(module: Any) -> dict[Any, str]:
    """Hooks of ``torch.nn.utils`` that compute a weight before each call, with the weight's name."""
    from torch.nn.utils import prune, spectral_norm, weight_norm

    found: dict[Any, str] = {}
    for hook in getattr(module, "_forward_pre_hooks", {}).values():
        if isinstance(hook, prune.BasePruningMethod):
            if (
                not replaced(hook, prune.BasePruningMethod, ("compute_mask", "PRUNING_TYPE", "apply"))
                or type(hook).__module__ == prune.__name__
            ):
                found[hook] = str(hook._tensor_name)
        elif type(hook) in (_class(weight_norm, "WeightNorm"), _class(spectral_norm, "SpectralNorm")):
            found[hook] = str(hook.name)
    return found


def _class(function: Any, name: str) -> Any:
    """The class beside a function of ``torch.nn.utils``, whose module has the function's name."""
    return function.__globals__.get(name)


def weights_of(owner: str, module: Any, force: bool) -> dict[str, Array]:
    """The weights with which the module's next call in evaluation mode computes."""
    import torch

    with torch.no_grad():
        names = parameter_names(module)
        return {name: as_weights(owner, name, weight_of(owner, module, name, force)) for name in names}


def weight_of(owner: str, module: Any, name: str, force: bool) -> Any:
    """One weight, as torch's parametrizations and weight hooks compute it."""
    hooks = [hook for hook, computes in weight_hooks(module).items() if computes == name]
    if len(hooks) > 1 and not force:
        raise ValueError(_messages.hooked(owner, name, [type(hook).__name__ for hook in hooks]))
    if hooks:
        hook = hooks[0]
        if type(hook).__name__ == "SpectralNorm":
            refuse_training(owner, name, module, force)
            return hook.compute_weight(module, do_power_iteration=False)
        return hook.apply_mask(module) if hasattr(hook, "apply_mask") else hook.compute_weight(module)
    parametrizations = getattr(module, "parametrizations", {})
    if name in parametrizations:
        for part in parametrizations[name]:
            home, what = type(part).__module__, type(part).__name__
            if home != "torch.nn.utils.parametrizations" and not force:
                raise ValueError(_messages.parametrized(owner, name, what))
            if what == "_SpectralNorm":
                refuse_training(owner, name, part, force)
    elif name in getattr(module, "__dict__", {}) and not force:
        raise ValueError(_messages.assigned(owner, name))
    return getattr(module, name)


def refuse_training(owner: str, name: str, module: Any, force: bool) -> None:
    """spectral_norm changes the weight at each call in training mode."""
    if module.training and not force:
        raise ValueError(_messages.in_training(owner, name))


def prefixes_in_order(owner: str, source: Any, force: bool) -> list[str] | None:
    """Names of the recurrent modules right inside a container that has an order, if there are several."""
    containers = [cls for cls in type(source).__mro__ if cls.__module__ == "torch.nn.modules.container"]
    base = next((cls for cls in containers if cls.__name__ in ("Sequential", "ModuleList")), None)
    if base is None:
        return None
    children = [(name, child) for name, child in source._modules.items() if child is not None]
    places = [k for k, (_, child) in enumerate(children) if is_recurrent(child) or compiled_recurrent(child)]
    if len(places) < 2:
        return None
    if not force:
        label = f"the container ({class_name(source)})"
        changed = replaced(source, base)
        if changed:
            raise ValueError(_messages.replaced_container(owner, label, base.__name__, changed))
        refuse_hooks(owner, label, source, [])
        for name, child in children[places[0] : places[-1]]:
            if not is_recurrent(child) and not compiled_recurrent(child) and not does_nothing(child):
                raise ValueError(_messages.between(owner, f"{name!r} ({class_name(child)})"))
    return [children[k][0] for k in places]


def compiled_recurrent(module: Any) -> bool:
    """A recurrent module in the wrapper of ``torch.compile``."""
    return compiled(module) and is_recurrent(module._orig_mod)


def does_nothing(module: Any) -> bool:
    """A module that returns its input outside of training."""
    classes = type(module).__mro__
    base = next((cls for cls in classes if cls.__name__ in NOTHING and cls.__module__.startswith("torch.nn.")), None)
    hooks = any(getattr(module, name, None) for name in HOOKS)
    return base is not None and not hooks and not replaced(module, base)
