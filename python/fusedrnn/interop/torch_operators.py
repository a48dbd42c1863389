"""Functions on plain arrays as operators of torch: registered with torch's dispatcher, with gradients and fake tensors.

An operator has three ways. A usual call without gradients goes straight to the kernels. A usual call with gradients is
a node of torch's graph that holds the tape. Under torch.compile, torch.export and the transforms of torch.func the call
is ``torch.ops.fusedrnn.<name>``; its gradient is an operator, too, which runs forward once more instead of holding a
tape, because an operator returns nothing but tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray

from .. import _core, _validate

Array = NDArray[Any]

#: torch's namespace ``torch.ops.fusedrnn``.
LIBRARY = torch.library.Library("fusedrnn", "FRAGMENT")


class TorchsThreads:
    """Use torch's number of threads within a ``with`` block; like fusedrnn.threads, but without its checks."""

    def __enter__(self) -> None:
        self._before = _core.get_local_num_threads()
        _core.set_local_num_threads(torch.get_num_threads())

    def __exit__(self, *_: object) -> None:
        _core.set_local_num_threads(self._before)


def graph_is_kept() -> bool:
    """Whether the current backward pass has retain_graph=True; torch has no official way to ask."""
    ask = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return ask is None or bool(ask())


class Function(NamedTuple):
    """A pair of functions on plain arrays, and the shapes of results.

    `forward` takes arrays and options by position and returns the outputs and a tape; `backward` takes the tape and the
    gradients of the outputs and returns those of the arrays, None for flags. `shapes` are those of the outputs, from
    the tensors and options.
    """

    name: str
    tensors: str  # the tensors of torch's schema
    options: str  # the other arguments
    outputs: int
    forward: Callable[..., tuple[tuple[Array, ...], Any]]
    backward: Callable[..., Sequence[Array | None]]
    shapes: Callable[..., tuple[tuple[Any, ...], ...]]


class Operator:
    """A differentiable operator of torch, called like the function that it stands for."""

    def __init__(self, function: Function) -> None:
        name, given, options, outputs = function.name, function.tensors, function.options, function.outputs
        self._function = function
        self._tensors = n = given.count("Tensor")
        arguments = f"{given}, {options}" if options else given
        gradients = ", ".join(f"Tensor? gradient_{k}" for k in range(outputs))
        LIBRARY.define(f"{name}({arguments}) -> ({', '.join(['Tensor'] * outputs)})")
        LIBRARY.define(f"{name}_backward({arguments}, {gradients}) -> ({', '.join(['Tensor'] * n)})")
        self._op = getattr(torch.ops.fusedrnn, name).default
        self._of_backward = getattr(torch.ops.fusedrnn, f"{name}_backward").default
        for op, run, fake in (
            (self._op, self._plain, self._fake),
            (self._of_backward, self._plain_backward, self._fake_backward),
        ):
            LIBRARY.impl(op._schema.name.split("::")[1], run, "CPU")
            torch.library.register_fake(op._schema.name, fake, lib=LIBRARY)
        torch.library.register_autograd(self._op._schema.name, self._gradients, setup_context=self._keep, lib=LIBRARY)
        torch.library.register_autograd(self._of_backward._schema.name, self._twice, lib=LIBRARY)

    def __call__(self, *arguments: Any) -> tuple[Any, ...]:
        tensors = arguments[: self._tensors]
        if torch._C._are_functorch_transforms_active():
            return _Transformed.apply(self, *arguments)
        if is_traced(tensors):
            results: tuple[Any, ...] = self._op(*arguments)
            return results
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
            return _Node.apply(self, *arguments)
        return self._plain(*arguments)

    def run(self, arguments: Sequence[Any]) -> tuple[tuple[Any, ...], Any]:
        """Outputs and tape."""
        n = self._tensors
        arrays = [None if t is None else t.detach().numpy() for t in arguments[:n]]
        with TorchsThreads():
            outputs, tape = self._function.forward(*arrays, *arguments[n:])
        return tuple(torch.from_numpy(output) for output in outputs), tape

    def run_backward(self, tape: Any, gradients: Sequence[Any]) -> list[Any]:
        """The gradient of each tensor, or None."""
        arrays = [None if g is None else g.detach().numpy() for g in gradients]
        with TorchsThreads():
            found = self._function.backward(tape, *arrays)
        return [None if d is None else torch.from_numpy(d) for d in found]

    @property
    def owner(self) -> str:
        return self._function.name

    def _plain(self, *arguments: Any) -> tuple[Any, ...]:
        return self.run(arguments)[0]

    def _plain_backward(self, *arguments: Any) -> tuple[Any, ...]:
        given, gradients = arguments[: -self._function.outputs], arguments[-self._function.outputs :]
        tensors = given[: self._tensors]
        if all(g is None for g in gradients):
            return tuple(torch.zeros(0) if t is None else torch.zeros_like(t) for t in tensors)
        _, tape = self.run(given)
        found = self.run_backward(tape, gradients)
        return tuple(
            d if d is not None else torch.zeros(0) if t is None else torch.zeros(t.shape, dtype=t.dtype)
            for t, d in zip(tensors, found, strict=True)
        )

    def _fake(self, *arguments: Any) -> tuple[Any, ...]:
        shapes = self._function.shapes(*arguments)
        complex_one = next((t for t in arguments[: self._tensors] if t is not None and t.is_complex()), arguments[0])
        like = (arguments[0], *[complex_one] * (len(shapes) - 1))
        return tuple(t.new_empty(shape) for t, shape in zip(like, shapes, strict=True))

    def _fake_backward(self, *arguments: Any) -> tuple[Any, ...]:
        return tuple(
            arguments[0].new_empty(0, dtype=torch.float32) if t is None else t.new_empty(t.shape)
            for t in arguments[: self._tensors]
        )

    def _keep(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        n = self._tensors
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:n])
        ctx.options = inputs[n:]

    def _gradients(self, ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        return self.only_numbers(ctx, self._of_backward(*ctx.saved_tensors, *ctx.options, *gradients))

    def only_numbers(self, ctx: Any, found: Sequence[Any]) -> tuple[Any, ...]:
        """Gradients of all arguments from those of the tensors: None for flags and options, and where there is none."""
        kept = [
            d if t is not None and (t.is_floating_point() or t.is_complex()) else None
            for t, d in zip(ctx.saved_tensors, found, strict=True)
        ]
        return (*kept, *[None] * len(ctx.options))

    def _twice(self, ctx: Any, *_: Any) -> Any:
        raise _validate.twice(self.owner)


class _Node(torch.autograd.Function):
    """A call of an operator with its tape."""

    @staticmethod
    def forward(ctx: Any, operator: Operator, *arguments: Any) -> tuple[Any, ...]:
        ctx.set_materialize_grads(False)
        outputs, ctx.tape = operator.run(arguments)
        ctx.operator = operator
        ctx.save_for_backward(
            *[t for t in arguments if isinstance(t, torch.Tensor)]
        )  # torch finds what was overwritten
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        if torch.is_grad_enabled():  # create_graph=True
            raise _validate.twice(ctx.operator.owner)
        needed = ctx.needs_input_grad
        if all(g is None for g in gradients):
            return (None,) * len(needed)
        _ = ctx.saved_tensors
        found = [None, *ctx.operator.run_backward(ctx.tape, gradients)]
        if not graph_is_kept():
            ctx.tape.release()
        found += [None] * (len(needed) - len(found))
        return tuple(d if need else None for d, need in zip(found, needed, strict=True))


class _Transformed(torch.autograd.Function):
    """A call of an operator under the transforms of torch.func."""

    @staticmethod
    def forward(operator: Operator, *arguments: Any) -> tuple[Any, ...]:
        outputs: tuple[Any, ...] = operator._op(*arguments)
        return outputs

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.operator = inputs[0]
        ctx.operator._keep(ctx, inputs[1:], output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        operator = ctx.operator
        found = _TransformedBackward.apply(operator, *ctx.saved_tensors, *ctx.options, *gradients)
        return (None, *operator.only_numbers(ctx, found))

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[Any], operator: Operator, *arguments: Any) -> Any:
        return _one_after_another(operator, info, in_dims[1:], arguments)


class _TransformedBackward(torch.autograd.Function):
    """The gradient of such a call."""

    @staticmethod
    def forward(operator: Operator, *arguments: Any) -> tuple[Any, ...]:
        found: tuple[Any, ...] = operator._of_backward(*arguments)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.owner = inputs[0].owner

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise _validate.twice(ctx.owner)

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[Any], operator: Operator, *arguments: Any) -> Any:
        def again(*own: Any) -> Any:
            return _TransformedBackward.apply(operator, *own)

        return _one_after_another(again, info, in_dims[1:], arguments)


def _one_after_another(call: Callable[..., Any], info: Any, in_dims: Sequence[Any], arguments: Sequence[Any]) -> Any:
    """vmap: one call for each element of the mapped axis."""
    results = [
        call(*[a if dim is None else a.select(dim, k) for a, dim in zip(arguments, in_dims, strict=True)])
        for k in range(info.batch_size)
    ]
    stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    return stacked, (0,) * len(stacked)


def is_traced(tensors: Sequence[Any]) -> bool:
    """Whether torch looks at the call instead of only running it: compilation, export, a transform, a mode."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or not all(t is None or type(t) in (torch.Tensor, torch.nn.Parameter) for t in tensors)
    )


def as_arrays(tensor: Any, dtype: Any) -> Any:
    """A sequence (B, D, T) as a time-major view (T, B, D) with a contiguous last axis, copied only if necessary."""
    tensor = tensor.to(dtype)
    if tensor.stride(1) == 1 or tensor.shape[1] == 1:
        return tensor.permute(2, 0, 1)
    return tensor.transpose(1, 2).contiguous().transpose(0, 1)


def contiguous_last(tensor: Any) -> Any:
    """The tensor with a contiguous last axis, copied only if necessary."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()
