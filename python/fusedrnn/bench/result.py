"""What was measured of one case at one thread count."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from .cases import Case
from .load import BUSY
from .timing import Samples

# Peers that leave out what a user can't: shown, but neither "best" nor a case lost.
BOUNDS = ("onednn-prepacked",)


@dataclass(frozen=True)
class Limit:
    """A probe's samples: `amount` operations or bytes a call, its `rate` in 1e9 of `unit`."""

    amount: float
    unit: str
    samples: Samples

    @property
    def rate(self) -> float:
        """Median over the rounds, in `unit` (GFLOP/s or GB/s)."""
        return self.amount / float(np.median(self.samples.seconds)) / 1e9


@dataclass(frozen=True)
class Result:
    """A case at one thread count.

    Attributes
    ----------
    case : Case
    threads : int
    subject : str
        The peer that the others are compared with.
    flops : float
        Useful operations of one call.
    samples : dict
        By peer; only of those that gave the right answer.
    refused : dict
        Peers that gave a wrong answer or none at all, and what was wrong; they are not timed.
    unsupported : tuple of str
        Peers that can't run the case.
    oracle : str
        What the outputs were compared with.
    others : float or None
        Cores that other programs used meanwhile, if the system tells.
    isa : str
        Instruction set of our kernels.
    limits : dict
        What the machine did in the same rounds, by probe: "FMA", "L2" and "L3", or "gemm" alone.
    """

    case: Case
    threads: int
    subject: str
    flops: float
    oracle: str
    samples: dict[str, Samples] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    unsupported: tuple[str, ...] = ()
    others: float | None = None
    isa: str = ""
    limits: dict[str, Limit] = field(default_factory=dict)

    @property
    def measured(self) -> bool:
        """Whether the subject was timed."""
        return self.subject in self.samples

    def quantile(self, peer: str, q: float) -> float:
        """Seconds per call."""
        return float(np.quantile(self.samples[peer].seconds, q))

    def median(self, peer: str) -> float:
        """Median over the rounds of the seconds per call."""
        return self.quantile(peer, 0.5)

    def ratio(self, peer: str) -> float:
        """Median over the rounds of (peer's time / subject's time); above 1 the subject is faster."""
        pairs = zip(self.samples[peer].seconds, self.samples[self.subject].seconds, strict=True)
        return float(np.median([theirs / ours for theirs, ours in pairs]))

    def best_of(self, names: Iterable[str]) -> str | None:
        """The fastest of these peers, by ratio, without variants of the subject and without bounds."""
        family = self.subject.partition("-")[0]
        others = [n for n in names if n in self.samples and n.partition("-")[0] != family and n not in BOUNDS]
        return min(others, key=self.ratio, default=None) if self.measured else None

    @property
    def best_peer(self) -> str | None:
        """The fastest of the others. Variants of the subject ("fusedrnn-unfrozen") don't count as others."""
        return self.best_of(self.samples)

    @property
    def loses(self) -> bool:
        """Whether some peer is faster than the subject, or the subject's answer was wrong."""
        best = self.best_peer
        return self.subject in self.refused or (best is not None and self.ratio(best) < 1.0)

    @property
    def noisy(self) -> bool:
        """Whether other programs took so much of the machine that the times can't be trusted."""
        return self.others is not None and self.others > BUSY

    @property
    def gflops(self) -> float:
        """Useful GFLOP/s of the subject."""
        return self.flops / self.median(self.subject) / 1e9

    @property
    def yardstick(self) -> str | None:
        """The probe of arithmetic: "FMA", or "gemm" where that was all, or None."""
        return next((name for name in ("FMA", "gemm") if name in self.limits), None)

    @property
    def fraction(self) -> float:
        """Median over the rounds of the subject's speed as a part of the yardstick's; NaN without one."""
        if not self.yardstick:
            return float("nan")
        limit = self.limits[self.yardstick]
        pairs = zip(limit.samples.seconds, self.samples[self.subject].seconds, strict=True)
        return float(np.median([self.flops / ours / (limit.amount / theirs) for theirs, ours in pairs]))
