"""Implementations that the benchmark can run: those that packages for Python are enough for.

The first of the chosen ones is the one that the others are compared with. `benchmarks/peers` in the source tree has
more.
"""

from collections.abc import Iterable

from .base import Job, Peer
from .fused_peer import FusedPeer
from .numpy_peer import NumpyPeer
from .onnxruntime_peer import OnnxruntimePeer
from .torch_peer import TorchPeer

__all__ = ["DEFAULT_PEERS", "Job", "Peer", "all_peers", "select_peers"]

DEFAULT_PEERS = ("fusedrnn", "numpy", "torch")


def all_peers() -> list[Peer]:
    """One of each, installed or not."""
    return [
        FusedPeer(),
        FusedPeer(frozen=False),
        NumpyPeer(),
        TorchPeer(),
        TorchPeer(onednn=False),
        OnnxruntimePeer(),
        OnnxruntimePeer(binding=True),
    ]


def select_peers(names: tuple[str, ...] = DEFAULT_PEERS, peers: Iterable[Peer] | None = None) -> list[Peer]:
    """Peers by name, in the order given.

    Parameters
    ----------
    names : tuple of str
    peers : iterable of Peer, optional
        Those to choose from; `all_peers()` if not given.

    Raises
    ------
    ValueError
        A name is unknown, or none is given.
    """
    known = {peer.name: peer for peer in (all_peers() if peers is None else peers)}
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        given = ", ".join(unknown) or "(none given)"
        raise ValueError(
            f"bench: unknown peer {given}; expected some of {', '.join(known)} "
            "(python -m benchmarks, in the source tree, has them all)"
        )
    return [known[name] for name in dict.fromkeys(names)]
