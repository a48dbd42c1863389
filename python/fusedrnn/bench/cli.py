"""The command line of `python -m fusedrnn bench`."""

import argparse
import json
import sys
from pathlib import Path

from .cases import select_cases
from .machine import describe, usable_cores
from .peers import DEFAULT_PEERS, all_peers, select_peers
from .report import markdown, to_json
from .run import Result, run_cases


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    cores = usable_cores()
    names = ", ".join(peer.name for peer in all_peers())
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
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample here")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report here, too")
    parser.add_argument("--list", action="store_true", help="print the names of the cases and end")


def main(options: argparse.Namespace) -> int:
    """Run the benchmark; 0 when all went well, 1 when our own outputs were wrong, 2 for a bad option."""
    try:
        cases = select_cases(options.cases, quick=options.quick)
        peers = select_peers(options.peers)
        if not peers[0].available():
            raise ValueError(f"bench: {peers[0].name} can't be compared with the others: {peers[0].missing()}")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if options.list:
        print("\n".join(case.name for case in cases))
        return 0
    seconds = options.seconds or (2.5 if options.quick else 8.0)
    machine = describe(peers)
    total = len(cases) * len(options.threads)
    results: list[Result] = []
    interrupted = False
    try:
        for result in run_cases(
            cases, peers, options.threads, rounds=options.rounds, seconds=seconds, patience=options.patience
        ):
            results.append(result)
            _progress(len(results), total, result)
    except KeyboardInterrupt:
        interrupted = True
        machine["Interrupted"] = f"{len(results)} of {total} results"
    text = markdown(machine, results)
    print(text, end="")
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    if options.json:
        settings = {"rounds": options.rounds, "seconds": seconds, "quick": options.quick, "threads": options.threads}
        options.json.write_text(json.dumps(to_json(machine, settings, results), indent=1) + "\n", encoding="utf-8")
    return 130 if interrupted else int(any(result.subject in result.refused for result in results))


def _progress(done: int, total: int, result: Result) -> None:
    threads = f"{result.threads} thread{'s' if result.threads > 1 else ''}"
    print(f"[{done}/{total}] {result.case.name}, {threads}", file=sys.stderr, flush=True)


def _number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not >= 1")
    return number


def _numbers(text: str) -> list[int]:
    return sorted({_number(part) for part in text.split(",")})
