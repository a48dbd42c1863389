"""With what a program measures: the peers and probes that it knows, and how it is started."""

from collections.abc import Callable
from dataclasses import dataclass

from .peers import Peer, all_peers
from .probes import Probe, describe_probes, make_probes


@dataclass(frozen=True)
class Equipment:
    """Peers, probes and command of a program.

    Attributes
    ----------
    peers : tuple of Peer
        All that `--peers` can name.
    make_probes : callable
        (dtype, threads) -> probes.
    describe_probes : callable
        () -> a line for the report's header.
    command : tuple of str
        Arguments of the interpreter that start the program, to start it again for `--isa`.
    """

    peers: tuple[Peer, ...]
    make_probes: Callable[[str, int], list[Probe]]
    describe_probes: Callable[[], str]
    command: tuple[str, ...]


#: What a wheel has. `benchmarks/__main__.py` of the source tree has more.
INSTALLED = Equipment(tuple(all_peers()), make_probes, describe_probes, ("-m", "fusedrnn", "bench"))
