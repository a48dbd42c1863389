"""What a caller may have meant: sentences for messages, and other libraries' names for what this library has."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import Any

#: Arguments of other libraries' layers -> arguments here; the first that a constructor has is meant.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("hidden_dim", "hidden", "hidden_units", "n_hidden", "num_hidden", "rnn_size"), ("hidden_size",)),
    **dict.fromkeys(("units", "num_units", "n_units", "nb_units"), ("hidden_size", "out_features")),
    **dict.fromkeys(("n_features", "num_features", "features", "input_shape"), ("input_size", "in_features")),
    "input_dim": ("input_size", "in_features", "num_embeddings"),
    "input_size": ("in_features", "num_embeddings"),
    "in_features": ("input_size",),
    "out_features": ("hidden_size", "embedding_dim"),
    "output_dim": ("embedding_dim", "out_features", "hidden_size"),
    "output_size": ("out_features", "hidden_size"),
    "hidden_size": ("out_features", "embedding_dim"),
    **dict.fromkeys(("vocab_size", "num_tokens", "vocabulary"), ("num_embeddings", "input_size")),
    **dict.fromkeys(("layers", "n_layers", "nb_layers", "depth"), ("num_layers",)),
    "use_bias": ("bias",),
    **dict.fromkeys(("bidir", "bi", "birnn"), ("bidirectional",)),
    "go_backwards": ("backwards",),
    "merge_mode": ("merge",),
    **dict.fromkeys(("time_major", "batchfirst"), ("batch_first",)),
    "projection_size": ("proj_size",),
    "layer_normalization": ("layer_norm",),
    "learn_initial_state": ("learned_state",),
    **dict.fromkeys(("seed", "random_state", "generator", "key"), ("rng",)),
    **dict.fromkeys(("learning_rate", "eta", "alpha"), ("lr",)),
}

#: Arguments of other libraries' layers that have no counterpart, and why.
NO_ARGUMENT = {
    "device": "leave it out: layers compute on the CPU",
    "return_sequences": "leave it out: a call returns the outputs of all steps and the last state",
    "return_state": "leave it out: a call returns the outputs of all steps and the last state",
    "stateful": "leave it out: a call takes and returns the state, and layer.freeze().stream() keeps one",
    "unroll": "leave it out: kernels run over time",
    "kernel_initializer": "leave it out, and write into layer.params",
    "recurrent_initializer": "leave it out, and write into layer.params",
    "name": "leave it out: layers have no names",
}

#: Attributes that objects of other libraries have, and where the thing is.
ATTRIBUTES = {
    "stream": "streams are made by frozen layers: layer.freeze().stream()",
    "step": "a stream takes steps: stream = layer.freeze().stream(); stream.step(x_t)",
    "forward": "frozen layers are for inference: call the object itself, or train with layer.forward(x)",
    "backward": "forward returns a tape, which has the method: y, state, tape = layer.forward(x); tape.backward(dy)",
    "train": "there is no training mode: layer.forward(x) trains, with dropout, and layer(x) is inference",
    "eval": "there is no training mode: layer(x) is inference, without dropout, and layer.forward(x) trains",
    "parameters": "the parameters are layer.params, a dict of live arrays; fusedrnn.optim takes the layer itself",
    "named_parameters": "the parameters are layer.params, a dict of live arrays; see layer.params.items()",
    "get_weights": "the parameters are layer.params, a dict of live arrays; copies: layer.state_dict()",
    "set_weights": "call layer.load_state_dict(d), or write into the arrays of layer.params",
    "weights": "the parameters are layer.params, a dict of live arrays",
    "save": "call {save}",
    "load": "call {load}",
    "predict": "call the layer itself: y, state = layer(x)",
    "fit": "write a loop with layer.forward, tape.backward and fusedrnn.optim, or see fusedrnn.interop.sklearn",
    "compile": "nothing has to be compiled; layer.freeze() packs the parameters once",
    "zero_grad": "there is nothing to zero: tape.backward returns new gradients each time",
    "to": "layers compute on the CPU; the dtype is fixed: dtype=... when the layer is made",
    "cuda": "layers compute on the CPU",
    "float": "the dtype is fixed: dtype='float32' when the layer is made",
    "double": "the dtype is fixed: dtype='float64' when the layer is made",
    "half": "the dtype is fixed: dtype='float32' or 'float64' when the layer is made",
    "grad": "gradients are returned: grads = tape.backward(dy); grads.params",
    "count_params": "the number is layer.num_parameters",
    "reset_states": "calls keep no state: pass state=..., or use a stream, which has reset()",
    "units": "the attribute is hidden_size",
    "hidden_dim": "the attribute is hidden_size",
}


def no_core(name: str) -> ImportError:
    """Something that needs the compiled module where there is none for this Python."""
    return ImportError(
        f"fusedrnn.{name}: there is no compiled module fusedrnn._core; expected one that is built for this Python "
        f"(pip install fusedrnn, or pip install . in a checkout; fusedrnn.reference does without)"
    )


def instead_of_list(name: str, value: object) -> str:
    """For an input that is a list of lists of different lengths: how sequences of different lengths are passed."""
    if name == "x" and isinstance(value, (list, tuple)) and all(isinstance(row, (list, tuple)) for row in value):
        return " Expected rows of one length, or an array for each sequence, as in [np.array(row) for row in x]"
    return ""


def instead_of_objects(dtype: Any, expected: str) -> str:
    """For an input that is an array of objects or strings: what to do."""
    if "tokens" not in expected:
        return ""
    if dtype.kind == "O":
        return (
            " (an array of objects holds None, strings, or arrays of different lengths: pass those as a list, and "
            "columns of a table as numbers)"
        )
    return " (map strings to integers first: tokens)" if dtype.kind in "US" else ""


def check_argument_names(cls: type, given: Iterable[str]) -> None:
    """An error for an argument that a constructor does not have, with the one that is probably meant."""
    parameters = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    known = [name for name in parameters if name != "self"]
    for name in given:
        if name not in known:
            raise TypeError(f"{cls.__name__}() got an unexpected keyword argument {name!r}; {meant(name, known)}")


def meant(name: str, known: Collection[str]) -> str:
    """Which of the known arguments a name probably means."""
    for other in ARGUMENTS.get(name.lower(), ()):
        if other in known:
            return f"did you mean {other}?"
    if name in NO_ARGUMENT:
        return NO_ARGUMENT[name]
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"expected some of {', '.join(known)}"


def no_attribute(thing: object, name: str) -> AttributeError:
    """An attribute that an object does not have; for well-known ones, where the thing is."""
    text = f"{type(thing).__name__!r} object has no attribute {name!r}"
    if name.startswith("_"):
        return AttributeError(text)
    hint = ATTRIBUTES.get(name)
    if hint is None:
        known = [*dir(type(thing)), *getattr(thing, "__dict__", {}).get("params", {})]
        close = difflib.get_close_matches(name, [other for other in known if other[0] != "_"], n=1, cutoff=0.75)
        return AttributeError(f"{text}; did you mean {close[0]!r}?" if close else text)
    return AttributeError(f"{text}; {hint.format(save=SAVE, load=LOAD)}")


#: How objects are written to files and read from them.
SAVE = "fusedrnn.save(path, layer)"
LOAD = "fusedrnn.load(path)"


def no_name(module: str, name: str, known: Collection[str]) -> AttributeError:
    """A name that a module does not have."""
    text = f"module {module!r} has no attribute {name!r}"
    alike = [other for other in known if other.lower() == name.lower()]
    close = alike or difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    if not close and name in ("Dense", "dense"):
        close = ["Linear"]
    return AttributeError(f"{text}; did you mean {close[0]!r}?" if close else text)


def common_prefix(given: Mapping[Any, Any], known: Collection[str]) -> str:
    """For a state dict of a whole network: what comes before the names that belong to the layer."""
    prefixes = {str(key)[: -len(name)] for key in given for name in known if str(key).endswith("." + name)}
    for prefix in sorted(prefixes):
        own = [name for name in known if prefix + name in given]
        if len(own) == len(known):
            return (
                f"the names begin with {prefix!r}: call fusedrnn.interop.from_torch(d, prefix={prefix.rstrip('.')!r}), "
                f"or pass {{name.removeprefix({prefix!r}): w for name, w in d.items() if name.startswith({prefix!r})}}"
            )
    return ""


def refuse_integer_table(owner: str, x: Any, dtype: Any) -> None:
    """An error for a DataFrame of integers: its columns are features, and integers would be read as tokens."""
    kinds = getattr(x, "dtypes", None)
    if not hasattr(x, "columns") or isinstance(x, type) or kinds is None:
        return
    found = {str(getattr(kind, "kind", "")) for kind in kinds}
    if found and found <= set("iu"):
        raise TypeError(
            f"{owner}: x is a {type(x).__name__} of integers in shape {tuple(x.shape)}; its columns are features, but "
            f"integers are tokens: for values call x.astype({dtype.name!r}), for tokens x.to_numpy()"
        )


def warn_of_features(owner: str, shape: tuple[int, ...], axes: str, input_size: int, dtype: Any) -> None:
    """Warn that integers are read as tokens, though their shape is also that of the features of one sequence."""
    if len(shape) and shape[-1] == input_size > 1:
        warnings.warn(
            f"{owner}: x holds integers in shape {shape} and is read as tokens ({axes}), though its last axis is also "
            f"input_size = {input_size} wide, as features would be; for values call x.astype({dtype.name!r})",
            UserWarning,
            stacklevel=outside(),
        )


def outside() -> int:
    """The stack level, for a warning, of the first caller that is not in this package."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] == __package__:
        frame, level = frame.f_back, level + 1
    return level
