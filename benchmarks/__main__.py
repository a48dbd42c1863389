"""The command line of `python -m benchmarks`."""

import argparse
import sys

from fusedrnn.bench import Equipment, cli

from .peers import all_peers
from .probes import describe_probes, make_probes

EQUIPMENT = Equipment(tuple(all_peers()), make_probes, describe_probes, ("-m", "benchmarks"))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="fusedrnn beside every peer")
    cli.add_arguments(parser, EQUIPMENT)
    return cli.main(parser.parse_args(arguments), EQUIPMENT)


if __name__ == "__main__":
    sys.exit(main())
