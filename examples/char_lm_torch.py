"""The model of char_lm.py in torch, for --check-torch: the same starting weights, batches and training step."""

import argparse
import sys
from typing import Any

import torch

import fusedrnn
from char_lm_run import Arrays, Data, Progress, Run
from char_lm_text import Array


class TorchModel:
    """What CharModel does, by nn.LSTM, nn.GRU or nn.RNN, nn.Linear, and torch's Adam and clipping."""

    def __init__(self, options: argparse.Namespace, params: Arrays) -> None:
        torch.set_num_threads(fusedrnn.get_num_threads())
        kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[options.cell]
        V, H = params["dense.weight"].shape
        self.one_hot = torch.eye(V)  # torch's layers take vectors, not tokens
        self.net = torch.nn.ModuleDict({"layer": kind(V, H, options.layers or 1), "dense": torch.nn.Linear(H, V)})
        self.net.load_state_dict({n if "." in n else f"layer.{n}": torch.from_numpy(p) for n, p in params.items()})
        self.optimiser = torch.optim.Adam(self.net.parameters())

    def forward(self, x: Array, targets: Array, state: Any) -> tuple[Any, Any]:
        y, state = self.net["layer"](self.one_hot[torch.from_numpy(x)], state)
        state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        scores, flat_targets = self.net["dense"](y).flatten(0, 1), torch.from_numpy(targets).flatten()
        return torch.nn.functional.cross_entropy(scores, flat_targets), state

    def gradients(self, x: Array, targets: Array, state: Any) -> tuple[float, None, Any]:
        """The mean loss, and the state after x; torch keeps the gradients itself."""
        self.optimiser.zero_grad()
        loss, state = self.forward(x, targets, state)
        loss.backward()
        return loss.item(), None, state

    def update(self, grads: None, lr: float, step: int) -> None:
        self.optimiser.param_groups[0]["lr"] = lr
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()

    def loss_on(self, x: Array, targets: Array, state: Any) -> tuple[float, Any]:
        with torch.no_grad():
            loss, state = self.forward(x, targets, state)
        return loss.item(), state


def compare(train: Any, options: argparse.Namespace, data: Data, run: Run) -> None:
    """Train the twin as well, and print both curves side by side."""
    print("\nThe same in torch")
    ours, torchs = run.progress, Progress()
    if not train(TorchModel(options, run.start), options, data, torchs):
        sys.exit(130)
    print("\nbits per character     training              held-out")
    print("    step    fusedrnn     torch    fusedrnn     torch")
    for (step, a, a_held_out), (_, b, b_held_out) in zip(ours.curve, torchs.curve, strict=True):
        print(f"{step:8}{a:12.3f}{b:10.3f}{a_held_out:12.3f}{b_held_out:10.3f}")
    print(f"training took fusedrnn {ours.seconds:.1f} s, torch {torchs.seconds:.1f} s")
