"""Peers that the wheel leaves out."""

from fusedrnn.bench import Peer
from fusedrnn.bench import peers as installed

from .jax_peer import JaxPeer
from .keras_peer import KerasPeer
from .onednn_peer import OnednnPeer

__all__ = ["all_peers"]


def all_peers() -> list[Peer]:
    """One of each, those of the wheel first, installed or not."""
    more = [OnednnPeer(), OnednnPeer("prepacked"), OnednnPeer("stream"), JaxPeer(), KerasPeer()]
    return [*installed.all_peers(), *more]
