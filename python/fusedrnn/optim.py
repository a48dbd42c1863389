"""Optimisers that change parameters in place: `SGD`, `Adam` and `AdamW`, with torch's arguments, rules and defaults.

An optimiser is given layers, groups, or dicts of arrays, and then, at each step, gradients of the same form:

>>> import fusedrnn, numpy as np
>>> from fusedrnn import optim
>>> layer, head = fusedrnn.GRU(3, 8, rng=0), fusedrnn.Linear(8, 1, rng=1)
>>> adam = optim.Adam([layer, head], lr=0.01)
>>> y, h, tape = layer.forward(np.ones((7, 2, 3), np.float32))
>>> scores, head_tape = head.forward(y)
>>> of_head = head_tape.backward(scores)
>>> of_layer = tape.backward(of_head.x)
>>> adam.step([of_layer, of_head])
>>> adam
Adam(6 parameters, lr=0.01, steps=1)

Updates are NumPy's, element by element.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from . import _validate
from .grads import Grads, SparseGrad

__all__ = ["SGD", "Adam", "AdamW"]

Array = NDArray[Any]
#: A learning rate: a number, or a function of the number of steps taken so far.
Rate = float | Callable[[int], float]


class Optimizer:
    """Base of all optimisers.

    Attributes
    ----------
    lr : float or callable
        May be assigned between steps.
    steps : int
        Steps taken so far.
    """

    def __init__(self, params: Any, lr: Rate, kept: tuple[str, ...]) -> None:
        """`kept`: names of the arrays that the optimiser keeps for each parameter."""
        self._params = params
        self.lr = lr
        self.steps = 0
        owner = type(self).__name__
        found = self._arrays()
        if not found:
            raise ValueError(f"{owner}: params has no arrays; expected a layer, a group, or arrays by name")
        seen: dict[int, str] = {}
        for name, array in found.items():
            if id(array) in seen:
                raise ValueError(f"{owner}: {name} is {seen[id(array)]}, the same array; expected each only once")
            seen[id(array)] = name
        self._kept = {moment: {name: np.zeros_like(a) for name, a in found.items()} for moment in kept}

    @property
    def lr(self) -> Rate:
        return self._lr

    @lr.setter
    def lr(self, value: Rate) -> None:
        self._lr = value if callable(value) else rate(type(self).__name__, "lr", value)

    def _arrays(self) -> dict[str, Array]:
        """The parameters by name, looked up anew at each step, because an entry may have been replaced."""
        owner = type(self).__name__
        found: dict[str, Array] = {}
        for name, array in leaves(owner, "params", self._params):
            if not isinstance(array, np.ndarray) or array.dtype.type not in (np.float32, np.float64):
                came = f"has dtype {array.dtype}" if isinstance(array, np.ndarray) else f"is {_validate.kind(array)}"
                raise TypeError(f"{owner}: {name} {came}; expected an ndarray of float32 or float64")
            if not array.flags.writeable:
                raise ValueError(f"{owner}: {name} is read-only; expected an array that can be changed in place")
            found[name] = array
        return found

    def step(self, gradients: Any) -> None:
        """Change the parameters in place.

        Parameters
        ----------
        gradients : Grads, dict of arrays, or list or dict of these
            In the form in which the parameters were given, with the same names. A `Grads` stands for its parameter
            gradients. None for an array leaves this parameter, and what is kept for it, as they are.

        Raises
        ------
        ValueError
            Names or shapes differ from those of the parameters, or the learning rate is out of range.
        TypeError
            A gradient is not an array of real numbers. Nothing is changed after an error.
        """
        owner = type(self).__name__
        arrays = self._arrays()
        given = dict(leaves(owner, "gradients", gradients))
        missing, unexpected = [n for n in arrays if n not in given], [n for n in given if n not in arrays]
        if missing or unexpected:
            wrong = [f"no {', '.join(missing)}"] * bool(missing) + [f"{', '.join(unexpected)}"] * bool(unexpected)
            raise ValueError(
                f"{owner}: gradients has {' but '.join(wrong)}; expected {', '.join(arrays)}, as the parameters have"
            )
        checked: dict[str, Any] = {}
        for name, array in arrays.items():
            gradient = given[name]
            if gradient is None:
                continue
            if not isinstance(gradient, SparseGrad):
                gradient = _validate.floats(owner, f"gradient of {name}", gradient, array.dtype)
            elif gradient.dtype != array.dtype:
                ids, values, axis = gradient.ids, gradient.values.astype(array.dtype), gradient.axis
                gradient = SparseGrad(ids, values, gradient.shape[axis], axis)
            if gradient.shape != array.shape:
                raise ValueError(
                    f"{owner}: gradient of {name} has shape {gradient.shape}; expected {array.shape}, as the parameter"
                )
            for kept in self._kept.values():
                if kept[name].shape != array.shape or kept[name].dtype != array.dtype:
                    raise ValueError(f"{owner}: {name} has shape {array.shape}; expected {kept[name].shape}, as before")
            checked[name] = gradient
        now = rate(owner, f"lr({self.steps})", self._lr(self.steps)) if callable(self._lr) else self._lr
        self.steps += 1
        with np.errstate(under="ignore"):
            for name, gradient in checked.items():
                self._update(arrays[name], gradient, [kept[name] for kept in self._kept.values()], now)

    def _update(self, w: Array, g: Any, kept: list[Array], lr: float) -> None:
        """Change one parameter; `steps` counts this step already."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Array]:
        """Copies of all that a step depends on besides the arguments and the parameters.

        Returns
        -------
        dict of str to ndarray
            ``"steps"``, and for each parameter what is kept for it, as ``"m.weight_ih_l0"``; so `numpy.savez` saves it.
        """
        arrays = {f"{moment}.{name}": a.copy() for moment, kept in self._kept.items() for name, a in kept.items()}
        return {"steps": np.array(self.steps)} | arrays

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Continue where another optimiser of the same kind stopped.

        Parameters
        ----------
        d : mapping of str to array-like
            From `state_dict`.

        Raises
        ------
        ValueError, TypeError
            Names or shapes differ, or an entry is not an array of real numbers. Nothing is changed in this case.
        """
        owner = type(self).__name__
        if not isinstance(d, Mapping):
            raise TypeError(f"{owner}: load_state_dict got {_validate.kind(d)}; expected a mapping of names to arrays")
        own = {f"{moment}.{name}": array for moment, kept in self._kept.items() for name, array in kept.items()}
        missing = [name for name in ("steps", *own) if name not in d]
        unexpected = [str(name) for name in d if name != "steps" and name not in own]
        if missing or unexpected:
            wrong = [f"missing: {', '.join(missing)}"] * bool(missing)
            wrong += [f"unexpected: {', '.join(unexpected)}"] * bool(unexpected)
            raise ValueError(f"{owner}: load_state_dict changed nothing. {' | '.join(wrong)}")
        steps = np.asarray(d["steps"])
        if steps.ndim or steps.dtype.kind not in "iu" or steps < 0:
            raise ValueError(f"{owner}: steps is {d['steps']!r}; expected an integer >= 0")
        read = {}
        for name, array in own.items():
            read[name] = _validate.floats(owner, name, d[name], array.dtype)
            _validate.exact_shape(owner, name, read[name], array.shape, "that of the parameter")
        for name, array in own.items():
            array[...] = read[name]
        self.steps = int(steps)

    def __repr__(self) -> str:
        lr = getattr(self._lr, "__name__", "a function") if callable(self._lr) else self._lr
        return f"{type(self).__name__}({len(self._arrays())} parameters, lr={lr}, steps={self.steps})"


def leaves(owner: str, name: str, tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The arrays of layers, gradients, dicts and lists of these, with names such as "0.weight_ih_l0"."""
    if isinstance(tree, Grads):
        tree = tree.params
    elif not isinstance(tree, (Mapping, list, tuple, np.ndarray, SparseGrad)):
        tree = getattr(tree, "params", tree)
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from leaves(owner, name, value, f"{prefix}{key}.")
    elif isinstance(tree, (list, tuple)):
        for i, value in enumerate(tree):
            yield from leaves(owner, name, value, f"{prefix}{i}.")
    elif prefix:
        yield prefix[:-1], tree
    else:
        expected = "a layer, a group, or arrays by name" if name == "params" else "Grads, or arrays by name"
        raise TypeError(f"{owner}: {name} is {_validate.kind(tree)}; expected {expected}, or a list or dict of these")


def rate(owner: str, name: str, value: object) -> float:
    """A finite number >= 0."""
    number = _validate.finite(owner, name, value)
    if number < 0:
        raise ValueError(f"{owner}: {name} is {number!r}; expected a number >= 0")
    return number


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum: v' = momentum v + g, w' = w - lr v'.

    Parameters
    ----------
    params : layer, group, dict of arrays, or list or dict of these
        The parameters themselves: a dict of arrays is changed in place, a layer's ``params`` are looked up at each
        step.
    lr : float or callable
        Learning rate; or a function of the number of steps taken, 0 at the first step.
    momentum : float
    weight_decay : float
        This multiple of w is added to its gradient.
    nesterov : bool
        Whether a step goes along g + momentum v'.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or value, `params` has no arrays or one twice, or `nesterov` is True without
        momentum.

    Notes
    -----
    As ``torch.optim.SGD``. Polyak, 1964; Sutskever et al., On the importance of
    initialization and momentum in deep learning, ICML 2013. Without momentum and weight decay a `SparseGrad` changes
    only what its tokens select; with them each element changes at each step, so time follows the vocabulary.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.optim import SGD
    >>> params = {"w": np.array([1.0, 2.0])}
    >>> sgd = SGD(params, lr=lambda step: 0.1 / (1 + step))
    >>> sgd.step({"w": np.array([1.0, 0.0])})
    >>> sgd.step({"w": np.array([1.0, 0.0])})
    >>> params["w"]
    array([0.85, 2.  ])
    """

    def __init__(
        self,
        params: Any,
        lr: Rate = 0.001,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        owner = type(self).__name__
        self.momentum = rate(owner, "momentum", momentum)
        self.weight_decay = rate(owner, "weight_decay", weight_decay)
        self.nesterov = _validate.flag(owner, "nesterov", nesterov)
        if self.nesterov and not self.momentum:
            raise ValueError(f"{owner}: nesterov is True with momentum={momentum}; expected a momentum > 0")
        super().__init__(params, lr, ("velocity",) if self.momentum else ())

    def _update(self, w: Array, g: Any, kept: list[Array], lr: float) -> None:
        if isinstance(g, SparseGrad):
            if not self.momentum and not self.weight_decay:
                g.add_to(w, -lr)
                return
            g = g.to_dense()
        if self.weight_decay:
            g = g + self.weight_decay * w
        if self.momentum:
            (v,) = kept
            v *= self.momentum
            v += g
            g = g + self.momentum * v if self.nesterov else v
        w -= lr * g


class Adam(Optimizer):
    """Adam: steps along the mean of the gradients, divided by the root of the mean of their squares.

    Parameters
    ----------
    params : layer, group, dict of arrays, or list or dict of these
        As for `SGD`.
    lr : float or callable
        Learning rate; or a function of the number of steps taken, 0 at the first step.
    betas : pair of float
        Decay of the two means, each at least 0 and less than 1.
    eps : float
        Is added to the root.
    weight_decay : float
        This multiple of w is added to its gradient.
    lazy : bool
        Whether a `SparseGrad` changes only what its tokens select, means included, as ``torch.optim.SparseAdam`` does
        (but for the place of eps); another rule than Adam's, whose time follows the tokens that occur.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or value, or `params` has no arrays or one twice.

    Notes
    -----
    Kingma and Ba, Adam: a method for stochastic optimization, ICLR 2015, as in ``torch.optim.Adam``. The means of an
    element whose gradient is zero decay, and the element moves on; so a step with a `SparseGrad` takes time in
    proportion to the vocabulary unless it is `lazy`, though no dense gradient is built. Both give the bits that the
    dense gradient gives for all elements that tokens select.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> from fusedrnn.optim import Adam
    >>> layer = fusedrnn.GRU(3, 5, rng=0)
    >>> adam = Adam(layer, lr=0.01)
    >>> for _ in range(3):
    ...     y, h, tape = layer.forward(np.ones((7, 2, 3), np.float32))
    ...     adam.step(tape.backward(2 * y))
    >>> adam
    Adam(4 parameters, lr=0.01, steps=3)
    """

    #: Whether weight decay is apart from the gradient.
    _decoupled: ClassVar[bool] = False

    def __init__(
        self,
        params: Any,
        lr: Rate = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        lazy: bool = False,
    ) -> None:
        owner = type(self).__name__
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise TypeError(f"{owner}: betas is {betas!r}; expected a pair of numbers")
        self.betas = tuple(_validate.probability(owner, f"betas[{i}]", beta) for i, beta in enumerate(betas))
        self.eps = rate(owner, "eps", eps)
        self.weight_decay = rate(owner, "weight_decay", weight_decay)
        self.lazy = _validate.flag(owner, "lazy", lazy)
        super().__init__(params, lr, ("m", "v"))

    def _update(self, w: Array, g: Any, kept: list[Array], lr: float) -> None:
        if not isinstance(g, SparseGrad):
            self._move(w, g, kept, lr)
        elif self.lazy:
            where = (g.ids,) if g.axis == 0 else (slice(None), g.ids)
            parts = [array[where] for array in (w, *kept)]
            self._move(parts[0], g.values, parts[1:], lr)
            for array, part in zip((w, *kept), parts, strict=True):
                array[where] = part
        elif self.weight_decay and not self._decoupled:
            self._move(w, g.to_dense(), kept, lr)
        else:
            self._move(w, g, kept, lr)

    def _move(self, w: Array, g: Any, kept: list[Array], lr: float) -> None:
        (beta1, beta2), (m, v) = self.betas, kept
        if self.weight_decay and self._decoupled:
            w *= 1 - lr * self.weight_decay
        elif self.weight_decay:
            g = g + self.weight_decay * w
        m *= beta1
        v *= beta2
        if isinstance(g, SparseGrad):
            g.add_to(m, 1 - beta1)
            SparseGrad(g.ids, (1 - beta2) * g.values * g.values, g.shape[g.axis], g.axis).add_to(v)
        else:
            m += (1 - beta1) * g
            v += (1 - beta2) * g * g
        root = np.sqrt(v, out=np.empty_like(v))  # an array, also where the parameter has no axes
        root /= math.sqrt(1 - beta2**self.steps)
        root += self.eps
        np.divide(m, root, out=root)
        root *= lr / (1 - beta1**self.steps)
        w -= root


class AdamW(Adam):
    """Adam with weight decay apart from the gradient: w is multiplied by 1 - lr weight_decay before each step.

    Parameters
    ----------
    params : layer, group, dict of arrays, or list or dict of these
    lr : float or callable
    betas : pair of float
    eps : float
        All as for `Adam`.
    weight_decay : float
        The share of w that is lost at a step, divided by the learning rate.
    lazy : bool
        As for `Adam`; then only what tokens select decays.

    Raises
    ------
    TypeError, ValueError
        As for `Adam`.

    Notes
    -----
    Loshchilov and Hutter, Decoupled weight decay regularization, ICLR 2019, as in ``torch.optim.AdamW``.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.optim import AdamW
    >>> params = {"w": np.array([1.0])}
    >>> AdamW(params, lr=0.1, weight_decay=0.5).step({"w": np.array([0.0])})
    >>> params["w"]
    array([0.95])
    """

    _decoupled = True

    def __init__(
        self,
        params: Any,
        lr: Rate = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        lazy: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, lazy=lazy)
