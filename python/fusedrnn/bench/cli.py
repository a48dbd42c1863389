"""The command line of `python -m fusedrnn bench`."""

import argparse
import sys
from functools import reduce
from pathlib import Path

import fusedrnn

from . import document, forced
from .cases import Case, select_cases
from .equipment import INSTALLED, Equipment
from .machine import describe, usable_cores
from .peers import DEFAULT_PEERS, Peer, select_peers
from .report import count_of, markdown
from .result import Result
from .run import run_cases
from .store import Store


def add_arguments(parser: argparse.ArgumentParser, equipment: Equipment = INSTALLED) -> None:
    """Declare the options."""
    cores = usable_cores()
    names = ", ".join(peer.name for peer in equipment.peers)
    parser.add_argument("--quick", action="store_true", help="a few cases and less time for each: under two minutes")
    parser.add_argument("--cases", metavar="REGEX", help="only cases whose name matches anywhere (see --list)")
    parser.add_argument(
        "--threads", type=_numbers, default=sorted({1, cores}), metavar="N,N", help=f"thread counts (1,{cores})"
    )
    parser.add_argument(
        "--peers",
        type=lambda text: tuple(text.split(",")),
        default=DEFAULT_PEERS,
        metavar="P,P",
        help=f"some of {names}; the first is what the others are compared with. Default: {','.join(DEFAULT_PEERS)}",
    )
    parser.add_argument("--rounds", type=_number, default=15, metavar="N", help="at most so many samples of each (15)")
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="begin no round of a case after this time (8; 2.5 with --quick)"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=0.0,
        metavar="S",
        help="measure a case that other programs disturbed again, for so long (0)",
    )
    parser.add_argument(
        "--isa", choices=forced.ISAS, help="hold fusedrnn and every peer that can be to this instruction set"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample here")
    parser.add_argument(
        "--append",
        type=Path,
        metavar="FILE",
        help="the same, case by case, into a file that may have results: those are skipped",
    )
    parser.add_argument("--again", action="store_true", help="measure, and replace, what the file of --append has, too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report here, too")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help=f"write DIR/{document.PAGE}, DIR/{document.DIRECTORY}/{document.RESULTS} (medians and ratios of what is "
        "measured; it may have results, as with --append) and, with matplotlib, plots",
    )
    parser.add_argument(
        "--from",
        dest="sources",
        type=_paths,
        metavar="FILE,FILE",
        help="with --report: measure nothing, draw these results",
    )
    parser.add_argument("--list", action="store_true", help="print the names of the cases and end")


def main(options: argparse.Namespace, equipment: Equipment = INSTALLED) -> int:
    """Run the benchmark; 0 when all went well, 1 when our own outputs were wrong, 2 for a bad option."""
    if options.isa and not options.sources and forced.forced() != options.isa:
        given = {name: value for name, value in vars(options).items() if name not in ("command", "isa", "sources")}
        return forced.run(options.isa, given, equipment.command)
    try:
        if options.sources:
            return _draw(options)
        cases = select_cases(options.cases, quick=options.quick)
        peers = select_peers(options.peers, equipment.peers)
        if not peers[0].available():
            raise ValueError(f"bench: {peers[0].name} can't be compared with the others: {peers[0].missing()}")
        if options.list:
            print("\n".join(case.name for case in cases))
            return 0
        path = options.append or (options.report and options.report / document.DIRECTORY / document.RESULTS)
        store = Store.load(path) if path and path.exists() else Store()
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return _measure(options, equipment, cases, peers, store, path)


def _draw(options: argparse.Namespace) -> int:
    """The report from files."""
    store = reduce(_merged, map(Store.load, options.sources), Store())
    if options.report is None:
        print(markdown(store.machine(store.results), store.results), end="")
        return 0
    for path in document.write(store, options.report):
        print(path)
    return 0


def _merged(store: Store, other: Store) -> Store:
    store.merge(other)
    return store


def _measure(
    options: argparse.Namespace,
    equipment: Equipment,
    cases: list[Case],
    peers: list[Peer],
    store: Store,
    path: Path | None,
) -> int:
    """Run the cases, save what comes, report it."""
    seconds = options.seconds or (2.5 if options.quick else 8.0)
    settings = {"rounds": options.rounds, "seconds": seconds, "quick": options.quick, "threads": options.threads}
    machine = describe(peers, equipment.describe_probes())
    total = len(cases) * len(options.threads)
    fresh = Store()  # of this run alone
    for each in (store, fresh):
        each.begin(machine, settings)
    isa, names = fusedrnn.current_isa(), [peer.name for peer in peers if peer.available()]
    results: list[Result] = []
    interrupted = False
    try:
        for result in run_cases(
            cases,
            peers,
            options.threads,
            rounds=options.rounds,
            seconds=seconds,
            patience=options.patience,
            wanted=lambda case, threads: options.again or not store.covers(case, threads, isa, names),
            probes=equipment.make_probes,
        ):
            results.append(result)
            fresh.add(result)
            store.add(result)
            if path:
                store.save(path, samples=path == options.append)
            print(
                f"[{len(results)}/{total}] {result.case.name}, {count_of(result.threads)}", file=sys.stderr, flush=True
            )
    except KeyboardInterrupt:
        interrupted = True
        machine["Interrupted"] = f"{len(results)} of {total} results"
    text = markdown(machine, results)
    print(text, end="")
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    if options.json:
        fresh.save(options.json)
    if options.report and store.results:
        document.write(store, options.report)
    return 130 if interrupted else int(any(result.subject in result.refused for result in results))


def _number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not >= 1")
    return number


def _numbers(text: str) -> list[int]:
    return sorted({_number(part) for part in text.split(",")})


def _paths(text: str) -> list[Path]:
    return [Path(part) for part in text.split(",")]
