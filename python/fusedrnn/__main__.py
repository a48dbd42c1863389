"""The command line: `bench` measures, `config` shows what is installed, `inspect` and `convert` read models."""

import argparse
import sys

import fusedrnn


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    from .bench import cli

    parser = argparse.ArgumentParser(prog="python -m fusedrnn", description="fused recurrent layers for NumPy")
    parser.add_argument("--version", action="version", version=f"fusedrnn {fusedrnn.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    cli.add_arguments(commands.add_parser("bench", help="measure against NumPy and torch, side by side"))
    commands.add_parser("config", help="print version, ISA, threads and build")
    kinds = "of fusedrnn, Keras, torch, ONNX, RTNeural, or npz"
    inspect = commands.add_parser("inspect", help="show the layers in a file", description=f"Show a file {kinds}.")
    inspect.add_argument("file", metavar="FILE")
    convert = commands.add_parser(
        "convert", help="write the layers of a file into another one", description=f"Convert a file {kinds}."
    )
    convert.add_argument("file", metavar="FILE")
    convert.add_argument(
        *("-o", "--output"),
        metavar="OUT",
        required=True,
        help="ends with .npz or .onnx for such a file; any other name is a file for fusedrnn.load",
    )
    options = parser.parse_args(arguments)
    if options.command == "bench":
        return cli.main(options)
    if options.command == "config":
        fusedrnn.show_config()
        return 0
    return of_file(options)


def of_file(options: argparse.Namespace) -> int:
    """Run `inspect` or `convert`; an error is one line."""
    from .interop.any_files import outline, read_any, write_any

    owner = options.command
    try:
        kind, value = read_any(owner, options.file)
        if owner == "convert":
            written = write_any(owner, options.output, value)
            print(f"{options.file} ({kind}) -> {options.output} ({written})")
    except (OSError, ValueError, TypeError, ModuleNotFoundError) as error:
        print(f"python -m fusedrnn {owner}: {error}", file=sys.stderr)
        return 1
    if owner == "inspect":
        print(f"{options.file}: {kind}", *outline(value), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
