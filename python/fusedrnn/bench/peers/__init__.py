"""Implementations that the benchmark can run. The first of the chosen ones is the one the others are compared with."""

from .base import Job, Peer
from .fused_peer import FusedPeer
from .jax_peer import JaxPeer
from .keras_peer import KerasPeer
from .numpy_peer import NumpyPeer
from .onednn_peer import OnednnPeer
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
        OnednnPeer(),
        OnednnPeer("prepacked"),
        OnednnPeer("stream"),
        JaxPeer(),
        KerasPeer(),
    ]


def select_peers(names: tuple[str, ...] = DEFAULT_PEERS) -> list[Peer]:
    """Peers by name, in the order given.

    Raises
    ------
    ValueError
        A name is unknown, or none is given.
    """
    known = {peer.name: peer for peer in all_peers()}
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        given = ", ".join(unknown) or "(none given)"
        raise ValueError(f"bench: unknown peer {given}; expected some of {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)]
