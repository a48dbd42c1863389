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
class Summary:
    """What the report says of a peer, where its samples are not at hand.

    Attributes
    ----------
    median : float
        Seconds per call: median over the rounds.
    ratio : float
        Median over the rounds of (peer's time / subject's time).
    low, high : float or None
        10th and 90th percentile of the seconds per call.
    """

    median: float
    ratio: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Rate:
    """What the report says of a probe, where its samples are not at hand.

    Attributes
    ----------
    rate : float
        Median over the rounds, in GFLOP/s or GB/s.
    fraction : float or None
        Median over the rounds of the subject's speed as a part of the probe's; only of a probe of arithmetic.
    """

    rate: float
    fraction: float | None = None


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
    times : dict of Samples or Summary
        By peer; only of those that gave the right answer. Either all are samples or all are summaries.
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
    limits : dict of Limit or Rate
        What the machine did in the same rounds, by probe: "FMA", "L2" and "L3", or "gemm" alone.
    """

    case: Case
    threads: int
    subject: str
    flops: float
    oracle: str
    times: dict[str, Samples | Summary] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    unsupported: tuple[str, ...] = ()
    others: float | None = None
    isa: str = ""
    limits: dict[str, Limit | Rate] = field(default_factory=dict)

    @property
    def measured(self) -> bool:
        """Whether the subject was timed."""
        return self.subject in self.times

    def spread(self, peer: str) -> tuple[float, float] | None:
        """10th and 90th percentile of the seconds per call; None where a summary does not tell."""
        times = self.times[peer]
        if isinstance(times, Samples):
            low, high = np.quantile(times.seconds, (0.1, 0.9))
            return float(low), float(high)
        return None if times.low is None or times.high is None else (times.low, times.high)

    def median(self, peer: str) -> float:
        """Median over the rounds of the seconds per call."""
        times = self.times[peer]
        return float(np.median(times.seconds)) if isinstance(times, Samples) else times.median

    def ratio(self, peer: str) -> float:
        """Median over the rounds of (peer's time / subject's time); above 1 the subject is faster."""
        theirs, ours = self.times[peer], self.times[self.subject]
        if isinstance(theirs, Samples) and isinstance(ours, Samples):
            pairs = zip(theirs.seconds, ours.seconds, strict=True)
            return float(np.median([their / our for their, our in pairs]))
        if isinstance(theirs, Summary):
            return theirs.ratio
        raise ValueError(f"Result: {peer} has samples and {self.subject} has none")

    def best_of(self, names: Iterable[str]) -> str | None:
        """The fastest of these peers, by ratio, without variants of the subject and without bounds."""
        family = self.subject.partition("-")[0]
        others = [n for n in names if n in self.times and n.partition("-")[0] != family and n not in BOUNDS]
        return min(others, key=self.ratio, default=None) if self.measured else None

    @property
    def best_peer(self) -> str | None:
        """The fastest of the others. Variants of the subject ("fusedrnn-unfrozen") don't count as others."""
        return self.best_of(self.times)

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
        limit, ours = self.limits[self.yardstick], self.times[self.subject]
        if isinstance(limit, Limit) and isinstance(ours, Samples):
            pairs = zip(limit.samples.seconds, ours.seconds, strict=True)
            return float(np.median([self.flops / our / (limit.amount / theirs) for theirs, our in pairs]))
        return float("nan") if isinstance(limit, Limit) or limit.fraction is None else limit.fraction
