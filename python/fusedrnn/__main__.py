"""`python -m fusedrnn bench` runs benchmarks, `python -m fusedrnn config` shows what is installed."""

import argparse
import sys

import fusedrnn


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    from .bench import cli

    parser = argparse.ArgumentParser(prog="python -m fusedrnn", description="fused recurrent layers for NumPy")
    commands = parser.add_subparsers(dest="command", required=True)
    cli.add_arguments(commands.add_parser("bench", help="measure against NumPy and torch, side by side"))
    commands.add_parser("config", help="print version, ISA, threads and build")
    options = parser.parse_args(arguments)
    if options.command == "bench":
        return cli.main(options)
    fusedrnn.show_config()
    return 0


if __name__ == "__main__":
    sys.exit(main())
