"""What a peer is: something that runs the cases, gives its results to be checked and is then timed."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ..cases import Case
from ..problem import Problem

Array = NDArray[Any]


@dataclass(frozen=True)
class Job:
    """A case made ready by a peer.

    Attributes
    ----------
    call : callable
        What is timed; takes nothing. A stream's call advances the stream's state by one step.
    outputs : callable
        Runs the case once, from its initial state, and gives what it computes: `y`, `h_n`, `c_n` and, in mode
        "train", `dx`, `dh_0`, `dc_0` and the gradient of every parameter as `d` + its name. Not timed.
    steps : int
        How often `call` runs the case: a loop in C++ can make many steps in one call. Times are divided by it.
    """

    call: Callable[[], object]
    outputs: Callable[[], dict[str, Array]]
    steps: int = 1


class Peer(ABC):
    """An implementation to be measured. To add one: subclass, and list it in `benchmarks/peers`."""

    name: str

    @abstractmethod
    def missing(self) -> str | None:
        """Why the peer can't be used here (a few words), or None when it can."""

    @abstractmethod
    def version(self) -> str:
        """Versions of what the peer stands on; called only when nothing is missing."""

    @abstractmethod
    def supports(self, case: Case) -> bool:
        """Whether the peer can run the case at all."""

    @abstractmethod
    def using(self, threads: int) -> AbstractContextManager[None]:
        """Set the thread count, and whatever else is global, around the peer's calls; restores it on leaving."""

    @abstractmethod
    def prepare(self, problem: Problem) -> Job:
        """Load the weights, convert the inputs: all that a user does once. Called and run inside `using`."""

    def available(self) -> bool:
        """Whether the peer can be used here."""
        return self.missing() is None
