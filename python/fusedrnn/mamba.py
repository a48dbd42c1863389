"""Mamba: a selective scan between two linear layers, behind a causal convolution and under a gate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _validate
from .causal_conv import causal_conv_backward, causal_conv_forward
from .mixer_form import StepsGiven
from .mixers import (
    Mixer,
    last_inputs,
    product,
    step_bias,
    total_bytes,
    weight_gradient,
)
from .plain_arrays import ArrayTape
from .selective_scan import selective_scan_backward, selective_scan_forward, selective_scan_step
from .specs import ParameterSpec

Array = NDArray[Any]


class Saved(NamedTuple):
    """What the gradients of a run need."""

    params: Mapping[str, Array]
    x: Array
    convolved: Array
    projected: Array
    scanned: Array
    convolution: ArrayTape
    scan: ArrayTape
    last: Any  # takes the gradient of the last inputs back

    @property
    def nbytes(self) -> int:
        """Bytes of arrays and tapes; the scan's operands, which other entries hold, count once."""
        return total_bytes([self.x, self.projected, self.scanned, self.convolution, self.scan])


class Mamba(Mixer):
    """A Mamba layer: names, shapes and initialisation of mamba_ssm's ``Mamba``.

    Parameters
    ----------
    d_model : int
        Width of inputs and outputs.
    d_state : int
        N, states of each channel.
    d_conv : int
        k, steps that the convolution sees.
    expand : int
        There are expand * d_model channels inside, d_inner.
    dt_rank : int or "auto"
        Width from which step sizes are computed; "auto" is d_model / 16, rounded up.
    conv_bias : bool
    bias : bool
        Whether the two outer products have a bias.
    dt_min, dt_max : float
        Initial step sizes lie between them.
    dt_init : "random" or "constant"
        The initial weight of dt_proj: uniform, or all equal.
    dt_scale, dt_init_floor : float
        The size of that weight is dt_scale / sqrt(dt_rank); no initial step size is below `dt_init_floor`.
    batch_first : bool
        x and y are (B, T, d_model) instead of (T, B, d_model).
    backwards : bool
        Run from the last step to the first.
    dtype : float32 or float64
    rng : int, numpy.random.Generator or None

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or value.

    Notes
    -----
    A. Gu and T. Dao, Mamba: Linear-time sequence modeling with selective state spaces, 2023. With [u, z] = W_in x,
    c = silu(conv(u)), [r, B, C] = W_x c and delta = softplus(W_dt r + b_dt),
    y = W_out scan(c, delta, -exp(A_log), B, C, D, z); `fusedrnn.functional.selective_scan_forward` has the equation of
    the scan. Norms, residuals and MLPs around a layer are the caller's.

    The state is (conv, ssm): the last k inputs of the convolution (B, d_inner, k), the oldest first, and
    (B, d_inner, N), as in the cache of mamba_ssm's ``step``. Tapes hold a few arrays (T, B, d_inner), but no states of
    all steps.

    Convolution and scan give the same bits for any number of threads, batch, chunk or stream; the matrix products are
    NumPy's, whose last bits depend on the shapes and on the BLAS, so that results agree up to rounding. Tokens,
    ``past_end="hold"`` and ``inspect`` are not available. Packed sequences are padded inside.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> layer = fusedrnn.Mamba(4, d_state=8, rng=0)
    >>> y, (conv, ssm), tape = layer.forward(np.ones((7, 2, 4), np.float32), lengths=[7, 5])
    >>> y.shape, conv.shape, ssm.shape
    ((7, 2, 4), (2, 8, 4), (2, 8, 8))
    >>> grads = tape.backward(np.ones_like(y))
    >>> grads.x.shape, grads.params["A_log"].shape
    ((7, 2, 4), (8, 8))
    """

    d_state: int
    d_conv: int
    expand: int
    dt_rank: int | str

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | str = "auto",
        conv_bias: bool = True,
        bias: bool = False,
        *,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        batch_first: bool = False,
        backwards: bool = False,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        owner = type(self).__name__
        values: dict[str, Any] = {"batch_first": batch_first, "backwards": backwards}
        for name, value in (("d_model", d_model), ("d_state", d_state), ("d_conv", d_conv), ("expand", expand)):
            values[name] = _validate.size(owner, name, value)
        auto = isinstance(dt_rank, str) and dt_rank == "auto"
        values["dt_rank"] = "auto" if auto else _validate.size(owner, "dt_rank", dt_rank)
        values["conv_bias"] = _validate.flag(owner, "conv_bias", conv_bias)
        values["bias"] = _validate.flag(owner, "bias", bias)
        for name, number in (
            *(("dt_min", dt_min), ("dt_max", dt_max)),
            *(("dt_scale", dt_scale), ("dt_init_floor", dt_init_floor)),
        ):
            values[name] = _validate.finite(owner, name, number)
            if values[name] <= 0:
                raise ValueError(f"{owner}: {name} is {number!r}; expected a positive number")
        values["dt_init"] = _validate.choice(owner, "dt_init", dt_init, ("random", "constant"))
        self._make(values, dtype, rng)

    @property
    def d_inner(self) -> int:
        """Channels inside."""
        return self.expand * self.d_model

    @property
    def _rank(self) -> int:
        return math.ceil(self.d_model / 16) if isinstance(self.dt_rank, str) else self.dt_rank

    def _parts(self) -> dict[str, tuple[tuple[int, ...], str]]:
        return {
            "conv": ((self.d_inner, self.d_conv), "d_inner, d_conv"),
            "ssm": ((self.d_inner, self.d_state), "d_inner, d_state"),
        }

    def _parameter_specs(self) -> list[ParameterSpec]:
        M, D, N, k, R = self.d_model, self.d_inner, self.d_state, self.d_conv, self._rank
        shapes: dict[str, tuple[tuple[int, ...], str]] = {
            "A_log": ((D, N), "(d_inner, d_state)"),
            "D": ((D,), "(d_inner,)"),
            "in_proj.weight": ((2 * D, M), "(2*d_inner, d_model)"),
            "in_proj.bias": ((2 * D,), "(2*d_inner,)"),
            "conv1d.weight": ((D, 1, k), "(d_inner, 1, d_conv)"),
            "conv1d.bias": ((D,), "(d_inner,)"),
            "x_proj.weight": ((R + 2 * N, D), "(dt_rank + 2*d_state, d_inner)"),
            "dt_proj.weight": ((D, R), "(d_inner, dt_rank)"),
            "dt_proj.bias": ((D,), "(d_inner,)"),
            "out_proj.weight": ((M, D), "(d_model, d_inner)"),
            "out_proj.bias": ((M,), "(d_model,)"),
        }
        absent = set() if self.bias else {"in_proj.bias", "out_proj.bias"}
        absent |= set() if self.conv_bias else {"conv1d.bias"}
        return [ParameterSpec(name, *shape, name) for name, shape in shapes.items() if name not in absent]

    def _initial_values(self) -> dict[str, Array]:
        M, D, N, k, R = self.d_model, self.d_inner, self.d_state, self.d_conv, self._rank
        scale = self.dt_scale / math.sqrt(R)
        values = {
            "A_log": np.log(np.broadcast_to(np.arange(1.0, N + 1), (D, N))),
            "D": np.ones(D),
            "in_proj.weight": self._linear(2 * D, M),
            "in_proj.bias": self._uniform(1 / math.sqrt(M), (2 * D,)),
            "conv1d.weight": self._uniform(1 / math.sqrt(k), (D, 1, k)),
            "conv1d.bias": self._uniform(1 / math.sqrt(k), (D,)),
            "x_proj.weight": self._linear(R + 2 * N, D),
            "dt_proj.weight": self._uniform(scale, (D, R)) if self.dt_init == "random" else np.full((D, R), scale),
        }
        values["dt_proj.bias"] = step_bias(self.rng, D, self.dt_min, self.dt_max, self.dt_init_floor)
        values["out_proj.weight"] = self._linear(M, D)
        values["out_proj.bias"] = self._uniform(1 / math.sqrt(D), (M,))
        return values

    def _sequence(
        self, params: Mapping[str, Array], x: Array, state: Any, steps: StepsGiven
    ) -> tuple[Array, Any, Saved]:
        D, N, R = self.d_inner, self.d_state, self._rank
        B = x.shape[1]
        conv, ssm = (None, None) if state is None else state
        if conv is None:
            conv = np.zeros((B, D, self.d_conv), self.dtype)
        both = product(x, params["in_proj.weight"], params.get("in_proj.bias"))
        u, z = both[..., :D], both[..., D:]
        before = np.ascontiguousarray(conv[:, :, 1:].transpose(0, 2, 1))
        kernel = params["conv1d.weight"][:, 0]
        c, _, convolution = causal_conv_forward(
            u, kernel, params.get("conv1d.bias"), before, activation="silu", **steps._asdict()
        )
        conv_n, last = last_inputs((causal_conv_forward, causal_conv_backward), u, conv, steps)
        p = product(c, params["x_proj.weight"])
        delta = product(p[..., :R], params["dt_proj.weight"])
        y, h_n, scan = selective_scan_forward(
            c, delta, -np.exp(params["A_log"]), p[..., R : R + N], p[..., R + N :], params["D"], z,
            params["dt_proj.bias"], ssm, delta_softplus=True, **steps._asdict(),
        )  # fmt: skip
        out = product(y, params["out_proj.weight"], params.get("out_proj.bias"))
        return out, (conv_n, h_n), Saved(params, x, c, p, y, convolution, scan, last)

    def _gradients(
        self, saved: Saved, dy: Array | None, dstate_n: Any, need_dx: bool
    ) -> tuple[Any, tuple[Array, ...], dict[str, Array]]:
        params, R = saved.params, self._rank
        of_conv, of_ssm = (None, None) if dstate_n is None else dstate_n
        if dy is None:
            dy = np.zeros((*saved.x.shape[:2], self.d_model), self.dtype)
        grads: dict[str, Any] = {"out_proj.weight": weight_gradient(dy, saved.scanned)}
        if self.bias:
            grads["out_proj.bias"] = dy.sum((0, 1))
        of_scan = selective_scan_backward(saved.scan, product(dy, params["out_proj.weight"].T), of_ssm)
        grads["A_log"] = of_scan.dA * -np.exp(params["A_log"])
        grads["D"] = of_scan.dD
        grads["dt_proj.bias"] = of_scan.ddelta_bias
        grads["dt_proj.weight"] = weight_gradient(of_scan.ddelta, saved.projected[..., :R])
        dp = np.concatenate([product(of_scan.ddelta, params["dt_proj.weight"].T), of_scan.dB, of_scan.dC], axis=2)
        grads["x_proj.weight"] = weight_gradient(dp, saved.convolved)
        dc = of_scan.du + product(dp, params["x_proj.weight"].T)
        of_convolution = causal_conv_backward(saved.convolution, dc)
        grads["conv1d.weight"] = of_convolution.dweight[:, None]
        if self.conv_bias:
            grads["conv1d.bias"] = of_convolution.dbias
        du = of_convolution.dx
        dconv = np.zeros((du.shape[1], self.d_inner, self.d_conv), self.dtype)
        dconv[:, :, 1:] = of_convolution.dstate.transpose(0, 2, 1)
        if of_conv is not None:
            more, before = saved.last(np.ascontiguousarray(of_conv))
            du, dconv = du + more, dconv + before
        both = np.concatenate([du, of_scan.dz], axis=2)
        grads["in_proj.weight"] = weight_gradient(both, saved.x)
        if self.bias:
            grads["in_proj.bias"] = both.sum((0, 1))
        dx = product(both, params["in_proj.weight"].T) if need_dx else None
        return dx, (dconv, of_scan.dh_0), {spec.name: grads[spec.name] for spec in self._specs}

    def _step(self, params: Mapping[str, Array], x: Array, state: list[Array]) -> Array:
        D, N, R = self.d_inner, self.d_state, self._rank
        conv, ssm = state
        both = product(x[None], params["in_proj.weight"], params.get("in_proj.bias"))
        u, z = both[..., :D], both[..., D:]
        before = np.ascontiguousarray(conv[:, :, 1:].transpose(0, 2, 1))
        c, _, _ = causal_conv_forward(
            u, params["conv1d.weight"][:, 0], params.get("conv1d.bias"), before, activation="silu"
        )
        conv[:, :, :-1] = conv[:, :, 1:].copy()
        conv[:, :, -1] = u[0]
        p = product(c, params["x_proj.weight"])
        delta = product(p[..., :R], params["dt_proj.weight"])
        y = selective_scan_step(
            ssm, c[0], delta[0], -np.exp(params["A_log"]), p[0, :, R : R + N], p[0, :, R + N :], params["D"], z[0],
            params["dt_proj.bias"], delta_softplus=True,
        )  # fmt: skip
        out: Array = product(y[None], params["out_proj.weight"], params.get("out_proj.bias"))[0]
        return out
