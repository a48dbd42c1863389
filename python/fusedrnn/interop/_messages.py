"""Error messages of the weight bridges: ``owner: argument came-as-this; expected that``.

What layers say stands in ``fusedrnn._validate``, and what the gradient bridges say about layers' calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def listed(names: Iterable[object]) -> str:
    return ", ".join(map(repr, names)) or "none"


def not_real(owner: str, name: str, dtype: object) -> str:
    return f"{owner}: {name} has dtype {dtype}; expected real numbers"


def wrong_source(owner: str, value: object, expected: str) -> str:
    return f"{owner}: got {type(value).__name__}; expected {expected}"


def no_such_cell(owner: str, rows: int, hidden_size: int) -> str:
    return (
        f"{owner}: the recurrent weights have {rows} rows for hidden_size {hidden_size}; expected 1 (RNN), 3 (GRU) or "
        f"4 (LSTM) times as many as hidden_size"
    )


def uneven_biases(owner: str) -> str:
    return f"{owner}: biases are there for some layers or directions only; expected them for all or none"


def no_such_option(owner: str, layer: str, name: str, value: Any) -> str:
    return f"{owner}: {name} is {value!r}, which {layer} does not have"


def not_theirs(owner: str, layer: str, name: str, value: Any, default: Any, hint: str) -> str:
    return f"{owner}: {layer} has {name}={value!r}; expected {default!r}{hint}"


def kinds_differ(owner: str, kind: str, found: str, why: str) -> str:
    return f"{owner}: kind is {kind!r}, but the weights are those of {found}: {why}"


def unknown_kind(owner: str, kind: object, kinds: Sequence[str]) -> str:
    return f"{owner}: kind is {kind!r}; expected one of {listed(kinds)}"


def not_read(owner: str, name: str, what: str) -> str:
    return f"{owner}: found {name}, of {what}, which it does not read; load_state_dict of a layer with it does"


def several(owner: str, what: str, found: Sequence[object], argument: str) -> str:
    return f"{owner}: there are several {what}: {listed(found)}; choose one with {argument}"


def none_found(owner: str, what: str, looked: str) -> str:
    return f"{owner}: found no {what} in {looked}"


def steps_of_torch(found_none: str) -> str:
    return f"{found_none}; torch exports an RNN with dynamo=True as single steps; expected one with dynamo=False"


def other_recurrent(owner: str, node: str, domain: str) -> str:
    advice = "convert the model from before it was quantized" if "Quant" in node else "convert the node by hand"
    return (
        f"{owner}: found {node} of domain {domain!r}; expected only RNN, GRU and LSTM of the standard, whose weights "
        f"it reads: {advice}"
    )


def too_deep(owner: str, function: str, depth: int) -> str:
    return (
        f"{owner}: function {function!r} calls itself, or calls are nested; expected at most {depth} within each other"
    )


def above_backwards(owner: str, layer: str) -> str:
    return (
        f"{owner}: {layer} stands above a layer that goes backwards, whose steps Keras leaves reversed; "
        f"expected one way"
    )


def no_chain(owner: str, above: str, below: Sequence[str], cause: str) -> str:
    return (
        f"{owner}: {above!r} reads something else than the outputs of {listed(below)}: {cause}; expected nodes that "
        f"stand upon each other, or chain=False"
    )


# Causes of a sparse tensor that cannot be read; `reading` puts the owner and the tensor in front of each.
SPARSE_ORDER = "indices are not in rising order, or outside of the tensor"


def sparse_shapes(values: tuple[int, ...], indices: tuple[int, ...]) -> str:
    return f"values and indices have shapes {values} and {indices}"


def negative_shape(shape: tuple[int, ...]) -> str:
    return f"its shape is {shape}"


def linear_behind(owner: str, name: str) -> str:
    return (
        f"{owner}: {name} is a linear layer behind the cell; expected expansion_factor=1 and no proj_out, or a state "
        "dict without to_out, applied after the layer"
    )


def does_more(node: str) -> str:
    return f"{node} may do more than change the order of axes"


def turned_otherwise(names: Sequence[str]) -> str:
    return f"the axes, directions or rows of {listed(names)} are in another order, or not all are there"


def own_of_node(owner: str, node: str, what: str, cause: str) -> str:
    return (
        f"{owner}: node {node!r} has {what} of its own: {cause}; expected an input of the model, in the order of a "
        f"layer, or chain=False"
    )


def some_have(owner: str, node: str, what: str, other: str, missing: str) -> str:
    return (
        f"{owner}: {node!r} reads {what}, but {other!r} reads no {missing}; expected that all nodes do or none, or "
        f"chain=False"
    )


def other_rows(tensor: str, start: int, count: int, expected: int) -> str:
    return (
        f"rows {start} to {start + count - 1} of input {tensor!r}, where a layer's rows would start at {expected} and "
        f"fill one input, or each node has an input"
    )


def other_reader(owner: str, output: str, node: str) -> str:
    return (
        f"{owner}: output {output!r} of the model follows from Y of {node!r}, upon which other nodes stand; expected "
        f"that only these read Y, as a stack returns the outputs of its last layer, or chain=False"
    )


def in_subgraph(owner: str, node: str) -> str:
    return f"{owner}: node {node!r} is in a branch of If or a body of Loop or Scan; expected none there, or chain=False"


def two_layouts(owner: str, output: str, batch_first: bool) -> str:
    orders = ("(batch, time)", "(time, batch)")
    read, given = orders if batch_first else orders[::-1]
    return (
        f"{owner}: the model's input has axes {read}, but its output {output!r} has {given}; expected one order, or "
        f"chain=False"
    )


def sizes_differ(owner: str, name: str, got: str, expected: str) -> str:
    return f"{owner}: {name} has shape {got}; expected {expected}, as onnxruntime runs no other"


def several_over_one(owner: str, nodes: Sequence[str]) -> str:
    return f"{owner}: nodes {listed(nodes)} read the same; expected one, or a forward and a reverse one, or chain=False"


def shape(owner: str, name: str, got: tuple[int, ...], expected: str) -> str:
    return f"{owner}: {name} has shape {got}; expected {expected}"


def attribute(owner: str, name: str, value: object, expected: str) -> str:
    return f"{owner}: {name} is {value!r}; expected {expected}"


def contradiction(owner: str, name: str, value: object, but: str) -> str:
    return f"{owner}: {name} is {value!r}, but {but}"


# ---- of one bridge each ---------------------------------------------------------------------------------------------


def no_description(owner: str, key: str, error: Exception) -> str:
    return f"{owner}: the file's entry {key!r} is no description of a layer: {error!r}"


def unreadable(owner: str, what: str, error: Exception) -> str:
    return f"{owner}: {what} cannot be read: {type(error).__name__}: {error}"


def in_file(owner: str, error: Exception, path: str | None) -> str:
    said = str(error)
    where = "" if path is None else f" (file {path!r})"
    return f"{said if said.startswith(owner) else f'{owner}: {said}'}{where}"


def twice(names: Iterable[str]) -> str:
    return f"there are several entries called {listed(names)}"


def no_array(owner: str, name: str, found: str, expected: str) -> str:
    return f"{owner}: {name} {found}; expected {expected}"


def unpacks_to(owner: str, name: str, nbytes: int, left: int, size: int) -> str:
    return f"{owner}: {name} unpacks to {nbytes} bytes; expected at most {left} more of a file of {size} bytes"


def too_large(owner: str, what: str, found: str, expected: str) -> str:
    return f"{owner}: {what} makes {found}; expected at most {expected}"


def not_in_arrays(owner: str, argument: str, value: object, name: str, got: tuple[int, ...], expected: int) -> str:
    return f"{owner}: {argument} is {value!r}, but {name} has shape {got}; expected {expected}"


def no_mapping(owner: str, argument: str, value: object) -> str:
    return f"{owner}: {argument} is a {type(value).__name__}; expected a mapping of names to arrays"


def no_name(owner: str, name: object) -> str:
    return f"{owner}: a name is {name!r} ({type(name).__name__}); expected strings"


def computed(argument: str, tensor: str) -> str:
    return f"OnnxNode: {argument} is None; expected an array, as the model computes it ({tensor})"


def no_constant(owner: str, argument: str, tensor: str) -> str:
    return f"{owner}: {argument} ({tensor!r}) is no constant; expected it in tensors="


def missing(owner: str, argument: str) -> str:
    return f"{owner}: {argument} is missing; expected weights"


def unknown_attributes(owner: str, names: Iterable[str]) -> str:
    return f"{owner}: has unknown attributes {listed(names)}"


def no_number(owner: str, activation: str, which: str) -> str:
    return f"{owner}: activation {activation} has no activation_{which}; expected one, as it has no default"


def numbers_left(owner: str, count: int) -> str:
    return f"{owner}: activation_alpha and activation_beta have {count} numbers too many"


def one_lstm(owner: str, count: int, among: str) -> str:
    return f"{owner}: the model has {count} initialised LSTM.v1; expected one among {among}"


def no_sizes(owner: str, inputs: int | None, outputs: int | None) -> str:
    return f"{owner}: nI is {inputs} and nO is {outputs}; expected the sizes, as a vector does not tell them"


# ---- objects whose code is not their framework's -------------------------------------------------------------------


def replaced_code(owner: str, found: str, base: str, names: Iterable[str]) -> str:
    return (
        f"{owner}: {found} has {listed(names)} of its own, so that its weights do not tell what it computes; expected "
        f"{base} with the framework's code, or force=True to read its weights as those of {base}"
    )


def foreign_code(owner: str, found: str) -> str:
    return (
        f"{owner}: {found} has weights under the names of a recurrent layer, but is no class of the framework, so that "
        f"the weights do not tell what it computes; expected the framework's class, or force=True to read them as such"
    )


def replaced_container(owner: str, found: str, base: str, names: Iterable[str]) -> str:
    return (
        f"{owner}: {found} has {listed(names)} of its own, so that the order of its modules is unknown; expected "
        f"{base}, or prefix=[...] with the modules that stand upon each other"
    )


def between(owner: str, found: str) -> str:
    return (
        f"{owner}: {found} stands between recurrent modules; expected these right upon each other, or prefix=[...] "
        f"with the names of those to stack without it, or prefix= with one name"
    )


def hooked(owner: str, found: str, hooks: Iterable[str]) -> str:
    return (
        f"{owner}: {found} has hooks, {listed(hooks)}, which may change inputs, outputs or weights; expected none "
        f"(call remove() of their handles), or force=True to leave them out"
    )


def parametrized(owner: str, name: str, what: str) -> str:
    return (
        f"{owner}: {name} is computed by the parametrization {what}; expected one of torch.nn.utils.parametrizations "
        f"(or call torch.nn.utils.parametrize.remove_parametrizations first), or force=True to read what it gives now"
    )


def assigned(owner: str, name: str) -> str:
    return (
        f"{owner}: {name} is a plain attribute and no parameter, so that something else may compute it anew for each "
        f"call; expected a parameter, or force=True to read the weight as it is now"
    )


def in_training(owner: str, name: str) -> str:
    return (
        f"{owner}: {name} has a spectral norm, which changes the weight at each call in training mode; expected "
        f"evaluation mode (call eval() first)"
    )


def traced(owner: str, found: str) -> str:
    return (
        f"{owner}: {found} was made by torch.jit.trace, which keeps weights, but neither nonlinearity nor batch_first; "
        f"expected the module that was traced, or its state_dict() with these arguments"
    )


def quantised(owner: str, found: str) -> str:
    return (
        f"{owner}: {found} is quantised: it keeps packed integers and rounds its inputs, too, which no weights can "
        f"repeat; expected the module or state dict before its quantisation"
    )


def beside(owner: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (
        f"{owner}: beside the weights there are {listed(names[:5])}{more}, which no RNN, GRU or LSTM of the framework "
        f"has; expected its weights alone, or force=True to leave the others out"
    )


def several_readings(owner: str, count: int, readings: Sequence[str]) -> str:
    return (
        f"{owner}: the {count} arrays can be read in several ways, as {' or as '.join(readings)}; choose one with "
        f"num_layers= or bidirectional="
    )


def no_reading(owner: str, kernels: Sequence[tuple[int, ...]], bidirectional: object, num_layers: object) -> str:
    said = "".join(
        f", and {name}={value!r}"
        for name, value in (("bidirectional", bidirectional), ("num_layers", num_layers))
        if value is not None
    )
    return (
        f"{owner}: the kernels have shapes {listed(kernels)}{said}; expected two alike for two directions, or layers "
        f"that read the outputs of the one before (of both directions after merge_mode)"
    )


def two_ways_of_cells(owner: str, found: str) -> str:
    return (
        f"{owner}: {found} has several cells in each direction; expected one (convert forward_layer and backward_layer "
        f"and put both into fusedrnn.Bidirectional)"
    )


def computes_in(owner: str, found: str, dtype: str) -> str:
    return (
        f"{owner}: {found} computes in {dtype}, to which it rounds weights, inputs and states; expected dtype= to say "
        f"in which precision the layer here computes, such as dtype='float32'"
    )


def no_counterpart(owner: str, name: str) -> str:
    return f"{owner}: found {name}, which has no counterpart in fusedrnn; expected another layer"


def unknown_before(owner: str, kind: str, name: str) -> str:
    return (
        f"{owner}: {kind} {name!r} stands before a recurrent layer, and how long its weights are is unknown here; "
        f"expected a model that begins with the recurrent layers"
    )


def needs(owner: str, package: str, what: str) -> str:
    return f"{owner}: {what or 'this'} needs the package {package}, which is not installed (pip install {package})"


def no_plain_weights(owner: str, error: Exception) -> str:
    cause = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return (
        f"{owner}: torch.load(weights_only=True) refuses the file: {cause}; expected tensors alone, as "
        "torch.save(model.state_dict(), path) writes them"
    )


# ---- files of fusedrnn.save ----------------------------------------------------------------------------------------


def no_checksum(owner: str) -> str:
    return (
        f"{owner}: the header does not begin with a checksum; expected a file as fusedrnn.save wrote it (another "
        "program may have rewritten the file: interop.from_torch reads its arrays)"
    )


def other_checksum(owner: str, said: str, found: str) -> str:
    return f"{owner}: the checksum is {said!r}, but the bytes have {found!r}; expected an undamaged file"


def later_version(owner: str, version: object, known: int) -> str:
    return (
        f"{owner}: the file's version is {version!r}; expected 1 to {known}: a later fusedrnn wrote the file, and "
        "pip install -U fusedrnn may bring one that reads it"
    )


def no_file_of_ours(owner: str, found: str, reader: str) -> str:
    return f"{owner}: the file is {found}; expected one that fusedrnn.save wrote ({reader})"


def not_saved(owner: str, where: str, value: object, expected: str) -> str:
    return f"{owner}: {where} is {type(value).__name__}; expected {expected}"


def ends_early(owner: str, left: int, nbytes: int, what: str) -> str:
    return f"{owner}: the .bin file has {left} more bytes; expected {nbytes} for {what}"


# ---- functions on tensors -------------------------------------------------------------------------------------------


def no_tensor(owner: str, name: str, value: object) -> str:
    return f"{owner}: {name} is {type(value).__name__}; expected a torch.Tensor"


def not_on_the_cpu(owner: str, name: str, device: object) -> str:
    return f"{owner}: {name} is on {device}; expected the CPU"


def not_floating(owner: str, name: str, dtype: object) -> str:
    return f"{owner}: {name} has dtype {dtype}; expected float32, float64, bfloat16 or float16"


def tensor_shape(owner: str, name: str, shape: object, formula: str) -> str:
    return f"{owner}: {name} has shape {shape}; expected {formula}"


def step_without_gradient(owner: str) -> str:
    return (
        f"{owner}: an argument requires a gradient, which a step in place does not have; expected torch.no_grad() "
        "around the call, or the function over a sequence"
    )


def no_such_activation(owner: str, activation: object) -> str:
    return f"{owner}: activation is {activation!r}; expected None, 'silu' or 'swish'"


def states_of_packed_sequences(owner: str) -> str:
    return f"{owner}: seq_idx is given together with initial or final states; expected one or the other"


def no_varlen_states(owner: str) -> str:
    return f"{owner}: return_varlen_states is True, which is not available; expected False"


# ---- transformers ---------------------------------------------------------------------------------------------------


def other_transformers(version: str, what: str, found: str, known: str) -> str:
    return (
        f"accelerate: transformers {version} has {what}{found}; this version of fusedrnn knows {what}{known} of "
        "transformers 5.24, and replaces no function that may compute something else"
    )


def no_function(version: str, what: str) -> str:
    return f"accelerate: transformers {version} has no {what}; expected it as in transformers 5.24"


def no_such_model(model: object, known: Iterable[str]) -> str:
    return f"accelerate: models names {model!r}; expected some of {listed(known)}"


def operator_inputs(owner: str, arguments: Sequence[str], count: int, named: Sequence[str]) -> str:
    came = f"{count} inputs" + (f" and {listed(named)}" if named else "")
    return f"{owner}: got {came}; expected at most one each of {listed(arguments)}"


def no_input(owner: str, name: str) -> str:
    return f"{owner}: {name} is missing, and the operator needs it"
