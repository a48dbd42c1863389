"""Results in a JSON file, to which later runs add case by case, and from which the report is drawn.

A result is written with every sample, or as a summary: medians, spread and ratios, which is all that the report needs.
"""

import json
import math
import os
import tempfile
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

from .cases import Case
from .result import Limit, Rate, Result, Summary
from .timing import Samples

FORMAT = 3
_READABLE = (2, FORMAT)  # format 2 had no summaries

# Written into every file, to explain the file to its readers.
_ABOUT = (
    "Results of `python -m fusedrnn bench`, one a line. peers: name -> every sample, or "
    "[median seconds per call, median of the ratios to the subject's time, 10th percentile, 90th percentile]. "
    "limits: probe -> every sample, or [GFLOP/s or GB/s, the subject's speed as a part of that]. "
    "case: fields at their defaults are left out. run: which of the runs."
)

_CASE_DEFAULTS = {field.name: field.default for field in fields(Case)}  # without the name, which is made of them
Key = tuple[str, int, str]


class Store:
    """Results of one or more runs; a case, thread count and instruction set is there once, the newest one.

    Attributes
    ----------
    runs : list of dict
        `machine` (the report's header) and `settings` of each run.
    """

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []
        self._results: dict[Key, tuple[int, Result]] = {}

    @property
    def results(self) -> list[Result]:
        """In the order in which they came."""
        return [result for _, result in self._results.values()]

    def begin(self, machine: dict[str, str], settings: dict[str, Any]) -> None:
        """What is added from now on belongs to this run."""
        self.runs.append({"machine": machine, "settings": settings})

    def add(self, result: Result) -> None:
        """Add a result to the latest run; replaces an older one."""
        self._results[key_of(result)] = (len(self.runs) - 1, result)

    def covers(self, case: Case, threads: int, isa: str, peers: list[str]) -> bool:
        """Whether a result with all of these peers is there already."""
        _, found = self._results.get((case.name, threads, isa), (0, None))
        return found is not None and {*peers} <= {*found.times, *found.refused, *found.unsupported}

    def merge(self, other: "Store") -> None:
        """Add all of another store's runs and results."""
        first = len(self.runs)
        self.runs += other.runs
        self._results.update({key: (first + run, result) for key, (run, result) in other._results.items()})

    def machine(self, results: list[Result]) -> dict[str, str]:
        """The header for some of the results: the newest run's, with the versions and dates of all."""
        used = sorted({self._results[key_of(result)][0] for result in results})
        headers = [self.runs[run]["machine"] for run in used]
        merged: dict[str, str] = {}
        for header in headers:
            merged.update(header)
        for field, separator in (("Versions", "; "), ("Date", ", ")):
            values = [part for header in headers for part in header.get(field, "").split(separator) if part]
            merged[field] = separator.join(dict.fromkeys(values))
        dates = merged["Date"].split(", ")
        merged["Date"] = dates[0] if len(dates) == 1 else f"{min(dates)} to {max(dates)}"
        return merged

    def to_json(self, *, samples: bool = True) -> dict[str, Any]:
        """Everything that was measured.

        Parameters
        ----------
        samples : bool
            With every sample, as far as the store has them, or as summaries, in a tenth of the space.
        """
        write = _as_dict if samples else _as_summary
        results = [{"run": run, **write(result)} for run, result in self._results.values()]
        return {"format": FORMAT, "about": _ABOUT, "runs": self.runs, "results": results}

    def summarised(self) -> "Store":
        """The store as it comes back from a file of summaries."""
        return self.from_json(self.to_json(samples=False))

    @classmethod
    def from_json(cls, document: Any) -> "Store":
        """The inverse of `to_json`.

        Raises
        ------
        ValueError
            The document has another format.
        """
        if not isinstance(document, dict) or document.get("format") not in _READABLE:
            raise ValueError(f"bench: not results of format {FORMAT}")
        store = cls()
        store.runs = document["runs"]
        for entry in document["results"]:
            result = _from_dict(entry)
            store._results[key_of(result)] = (entry["run"], result)
        return store

    @classmethod
    def load(cls, path: Path) -> "Store":
        """Read a file.

        Raises
        ------
        ValueError
            It holds something else.
        """
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"bench: {path} does not hold benchmark results: {error!r}") from error

    def save(self, path: Path, *, samples: bool = True) -> None:
        """Write a file, with `samples` as for `to_json`.

        An interruption leaves the old file or the new one, nothing in between.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".json")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(_lines(self.to_json(samples=samples)))
        Path(name).chmod(0o644)
        Path(name).replace(path)


def key_of(result: Result) -> Key:
    """What a result is replaced by."""
    return result.case.name, result.threads, result.isa


def _lines(document: dict[str, Any]) -> str:
    """JSON with a line for each run and each result, so that a changed result is a changed line."""
    dump = partial(json.dumps, separators=(",", ":"), ensure_ascii=False)
    parts = []
    for name, value in document.items():
        if isinstance(value, list):
            entries = ",\n".join(map(dump, value))
            parts.append(f"{dump(name)}:[\n{entries}\n]")
        else:
            parts.append(f"{dump(name)}:{dump(value)}")
    return "{" + ",\n".join(parts) + "}\n"


def _digits(value: float) -> float:
    """Four digits are more than a time is worth."""
    return float(f"{value:.4g}")


def _samples(samples: Samples) -> dict[str, Any]:
    return {"seconds": [_digits(s) for s in samples.seconds], "repeats": samples.repeats}


def _as_summary(result: Result) -> dict[str, Any]:
    """What the report needs; whatever is empty is left out."""
    case = {name: value for name, value in asdict(result.case).items() if value != _CASE_DEFAULTS[name]}
    peers: dict[str, list[float]] = {}
    for peer in result.times:
        peers[peer] = [_digits(result.median(peer)), round(result.ratio(peer), 4)]
        spread = result.spread(peer)
        if peer == result.subject and spread:  # nobody else's spread is in the report
            peers[peer] += map(_digits, spread)
    limits: dict[str, list[float]] = {}
    for name, limit in result.limits.items():
        limits[name] = [_digits(limit.rate)]
        if name == result.yardstick and not math.isnan(result.fraction):
            limits[name].append(round(result.fraction, 4))
    entry = {
        "isa": result.isa,
        "threads": result.threads,
        "case": case,
        "subject": result.subject,
        "flops": result.flops,
        "peers": peers,
        "limits": limits,
        "oracle": result.oracle,
        "others": result.others,
        "refused": result.refused,
        "unsupported": list(result.unsupported),
    }
    return {name: value for name, value in entry.items() if value not in (None, "", {}, [])}


def _as_dict(result: Result) -> dict[str, Any]:
    """Every sample; a result that has none is written as a summary."""
    if any(isinstance(times, Summary) for times in result.times.values()):
        return _as_summary(result)
    return {
        "case": result.case.as_dict(),
        "threads": result.threads,
        "isa": result.isa,
        "subject": result.subject,
        "flops": result.flops,
        "oracle": result.oracle,
        "peers": {
            peer: {**_samples(s), **({"ratio": round(result.ratio(peer), 4)} if result.measured else {})}
            for peer, s in result.times.items()
            if isinstance(s, Samples)
        },
        "best_peer": result.best_peer,
        "others": result.others,
        "refused": result.refused,
        "unsupported": list(result.unsupported),
        "limits": {
            name: {"amount": limit.amount, "unit": limit.unit, **_samples(limit.samples), "rate": round(limit.rate, 2)}
            for name, limit in result.limits.items()
            if isinstance(limit, Limit)
        },
    }


def _from_dict(entry: dict[str, Any]) -> Result:
    given = {name: value for name, value in entry["case"].items() if name in _CASE_DEFAULTS}

    def samples(saved: dict[str, Any]) -> Samples:
        return Samples(tuple(saved["seconds"]), saved["repeats"])

    def times(saved: Any) -> Samples | Summary:
        return Summary(*saved) if isinstance(saved, list) else samples(saved)

    def limit(saved: Any) -> Limit | Rate:
        return Rate(*saved) if isinstance(saved, list) else Limit(saved["amount"], saved["unit"], samples(saved))

    return Result(
        Case(**given),
        entry["threads"],
        entry["subject"],
        entry["flops"],
        entry.get("oracle", ""),
        {peer: times(saved) for peer, saved in entry.get("peers", {}).items()},
        entry.get("refused", {}),
        tuple(entry.get("unsupported", ())),
        entry.get("others"),
        entry.get("isa", ""),
        {name: limit(saved) for name, saved in entry.get("limits", {}).items()},
    )
