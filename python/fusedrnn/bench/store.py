"""Results in a JSON file, to which later runs add case by case, and from which the report is drawn."""

import json
import os
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

from .cases import Case
from .result import Limit, Result
from .timing import Samples

FORMAT = 2
_CASE_FIELDS = {field.name for field in fields(Case)}  # without the name, which is made of them
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
        return found is not None and {*peers} <= {*found.samples, *found.refused, *found.unsupported}

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

    def to_json(self) -> dict[str, Any]:
        """Everything that was measured, every sample included."""
        results = [{"run": run, **_as_dict(result)} for run, result in self._results.values()]
        return {"format": FORMAT, "runs": self.runs, "results": results}

    @classmethod
    def from_json(cls, document: Any) -> "Store":
        """The inverse of `to_json`.

        Raises
        ------
        ValueError
            The document has another format.
        """
        if not isinstance(document, dict) or document.get("format") != FORMAT:
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

    def save(self, path: Path) -> None:
        """Write a file. An interruption leaves the old one or the new one, nothing in between."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".json")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(self.to_json(), file, indent=None, separators=(",", ":"))
            file.write("\n")
        Path(name).chmod(0o644)
        Path(name).replace(path)


def key_of(result: Result) -> Key:
    """What a result is replaced by."""
    return result.case.name, result.threads, result.isa


def _samples(samples: Samples) -> dict[str, Any]:
    """Four digits are more than a time is worth."""
    return {"seconds": [float(f"{s:.4g}") for s in samples.seconds], "repeats": samples.repeats}


def _as_dict(result: Result) -> dict[str, Any]:
    return {
        "case": result.case.as_dict(),
        "threads": result.threads,
        "isa": result.isa,
        "subject": result.subject,
        "flops": result.flops,
        "oracle": result.oracle,
        "peers": {
            peer: {**_samples(s), **({"ratio": round(result.ratio(peer), 4)} if result.measured else {})}
            for peer, s in result.samples.items()
        },
        "best_peer": result.best_peer,
        "others": result.others,
        "refused": result.refused,
        "unsupported": list(result.unsupported),
        "limits": {
            name: {"amount": limit.amount, "unit": limit.unit, **_samples(limit.samples), "rate": round(limit.rate, 2)}
            for name, limit in result.limits.items()
        },
    }


def _from_dict(entry: dict[str, Any]) -> Result:
    given = {name: value for name, value in entry["case"].items() if name in _CASE_FIELDS}

    def samples(saved: dict[str, Any]) -> Samples:
        return Samples(tuple(saved["seconds"]), saved["repeats"])

    return Result(
        Case(**given),
        entry["threads"],
        entry["subject"],
        entry["flops"],
        entry["oracle"],
        {peer: samples(saved) for peer, saved in entry["peers"].items()},
        entry["refused"],
        tuple(entry["unsupported"]),
        entry["others"],
        entry["isa"],
        {name: Limit(saved["amount"], saved["unit"], samples(saved)) for name, saved in entry["limits"].items()},
    )
