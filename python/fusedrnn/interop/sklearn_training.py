"""How scikit-learn's estimators over sequences are trained. Needs scikit-learn."""

from __future__ import annotations

import copy
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

import fusedrnn
from fusedrnn import optim

from .. import _validate
from .sklearn_inputs import CONSTRAINTS, Sequences

Array = NDArray[Any]


class Trained(Sequences):
    """A recurrent layer and a dense one over its last state, trained together with AdamW."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **CONSTRAINTS,
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "max_norm": [Interval(Real, 0, None, closed="neither")],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        *,
        cell: str = "gru",
        hidden_size: int = 32,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        learning_rate: float = 0.01,
        max_iter: int = 50,
        batch_size: int = 32,
        max_norm: float = 1.0,
        alpha: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        analyzer: Any = "word",
        warm_start: bool = False,
        verbose: Any = False,
        random_state: Any = None,
    ) -> None:
        self.cell = cell
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.max_norm = max_norm
        self.alpha = alpha
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.analyzer = analyzer
        self.warm_start = warm_start
        self.verbose = verbose
        self.random_state = random_state

    @property
    def coef_(self) -> Array:
        """Weights of the dense layer, (features, outputs)."""
        weight: Array = self.head_.weight.T
        return weight

    @property
    def intercept_(self) -> Array:
        """Biases of the dense layer, (outputs,)."""
        bias: Array = self.head_.bias
        return bias

    @property
    def _goes_on(self) -> bool:
        """Whether ``fit`` starts from what it has learned before."""
        return bool(self.warm_start) and hasattr(self, "layer_")

    def _start(self, outputs: int) -> np.random.RandomState:
        """A new model, and the generator for its training."""
        random: np.random.RandomState = check_random_state(self.random_state)
        dropout = float(self.dropout)
        if dropout and self.num_layers == 1:
            _validate.warn_idle_dropout(type(self).__name__, dropout, stacklevel=5)
            dropout = 0.0
        self.layer_ = self._new_layer(random, dropout=dropout)
        width = self.layer_.hidden_size * (1 + self.layer_.bidirectional)
        self.head_ = fusedrnn.Linear(width, outputs, rng=int(random.randint(2**31 - 1)))
        self.loss_curve_: list[float] = []
        self.validation_curve_: list[float] = []
        self._new_optimiser()
        return random

    def _new_optimiser(self) -> None:
        rate, decay = float(self.learning_rate), float(self.alpha)
        self._optimiser = optim.AdamW([self.layer_, self.head_], lr=rate, weight_decay=decay)

    def _train(self, sequences: list[Array], target: Array, weight: Array, outputs: int, labels: Any = None) -> None:
        """Fit to `target`, an entry for each sequence; `labels` are split in equal shares for validation."""
        if self._goes_on:
            random = check_random_state(self.random_state)
            self._new_optimiser()
        else:
            random = self._start(outputs)
        rows, held_out = np.arange(len(sequences)), np.zeros(0, np.intp)
        if self.early_stopping:
            seed = int(random.randint(2**31 - 1))
            share = float(self.validation_fraction)
            rows, held_out = train_test_split(rows, test_size=share, random_state=seed, stratify=labels)
        weight = weight / max(float(weight[rows].mean()), np.finfo(np.float64).tiny)
        best, best_loss, since = None, np.inf, 0
        first = len(self.loss_curve_)
        for _ in range(self.max_iter):
            loss = self._pass(sequences, target, weight, random.permutation(rows))
            told = f"{type(self).__name__}: pass {len(self.loss_curve_)}, loss {loss:.4f}"
            if self.early_stopping:
                loss = self._loss_on(sequences, target, weight, held_out)
                self.validation_curve_.append(loss)
                told += f", of validation {loss:.4f}"
            if self.verbose:
                print(told)
            if not self.early_stopping:
                continue
            since = 0 if loss < best_loss - self.tol else since + 1
            if loss < best_loss:
                best, best_loss = copy.deepcopy((self.layer_.state_dict(), self.head_.state_dict())), loss
            if since >= self.n_iter_no_change:
                break
        if best is not None:
            self.layer_.load_state_dict(best[0])
            self.head_.load_state_dict(best[1])
        self.n_iter_ = len(self.loss_curve_) - first

    def _one_pass(self, sequences: list[Array], target: Array, weight: Array, outputs: int, first: bool) -> None:
        """What ``partial_fit`` does: the optimiser goes on from call to call."""
        if first:
            self._start(outputs)
            self.n_iter_ = 0
        # Batches in the order of the data: the caller chose it.
        self._pass(sequences, target, weight, np.arange(len(sequences)))
        self.n_iter_ += 1

    def _pass(self, sequences: list[Array], target: Array, weight: Array, order: Array) -> float:
        """One pass over the data; its mean loss."""
        losses = []
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            loss, gradients = self._gradients([sequences[i] for i in rows], target[rows], weight[rows])
            fusedrnn.clip_grad_norm(gradients, float(self.max_norm))
            self._optimiser.step(gradients)
            losses.append(loss * len(rows))
        self.loss_curve_.append(sum(losses) / len(order))
        return self.loss_curve_[-1]

    def _gradients(self, sequences: list[Array], target: Array, weight: Array) -> tuple[float, list[Any]]:
        """Loss of a batch, and the gradients of both layers."""
        layer = self.layer_
        _, state, tape = layer.forward(sequences)
        z, head_tape = self.head_.forward(last(state, layer))
        loss, dz = self._output_loss(z, target, weight)
        of_head = head_tape.backward(dz)
        parts = state if isinstance(state, tuple) else (state,)
        dstate = np.zeros_like(parts[0])
        D = 1 + layer.bidirectional
        dstate[-D:] = of_head.x.reshape(len(z), D, -1).swapaxes(0, 1)
        with tape:
            of_layer = tape.backward(
                dstate=(dstate, None) if len(parts) == 2 else dstate, need_dx=False, sparse=sequences[0].ndim == 1
            )
        return loss, [of_layer, of_head]

    def _loss_on(self, sequences: list[Array], target: Array, weight: Array, rows: Array) -> float:
        """Mean loss of some rows, without training."""
        z = self._scores([sequences[i] for i in rows])
        return self._output_loss(z, target[rows], weight[rows])[0]

    def _output_loss(self, z: Array, target: Array, weight: Array) -> tuple[float, Array]:
        """Weighted loss of the dense layer's outputs, divided by the number of rows, and its gradient."""
        raise NotImplementedError

    def _scores(self, sequences: list[Array]) -> Array:
        parts = []
        for start in range(0, len(sequences), 128):
            _, state = self.layer_(sequences[start : start + 128])
            parts.append(self.head_(last(state, self.layer_)))
        scores: Array = np.concatenate(parts)
        return scores

    def _outputs(self, X: Any) -> Array:
        check_is_fitted(self)
        return self._scores(self._read(X, reset=False))


def last(state: Any, layer: Any) -> Array:
    """The last layer's final h, (B, D*H)."""
    h = state[0] if isinstance(state, tuple) else state
    D = 1 + layer.bidirectional
    return np.ascontiguousarray(h[-D:].swapaxes(0, 1)).reshape(h.shape[1], -1)
