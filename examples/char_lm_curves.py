"""Draw the curves of several runs of char_lm.py, each a folder that --out named: bits per character while it learned.

for cell in lstm mingru qrnn; do python examples/char_lm.py --cell $cell --out runs/$cell; done
python examples/char_lm_curves.py runs/lstm runs/mingru runs/qrnn --picture runs/curves.svg
"""

import argparse
import sys
from pathlib import Path

import matplotlib

from char_lm_run import load

matplotlib.use("agg")
import matplotlib.pyplot as plt


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="DIR", help="folders of runs")
    parser.add_argument("--picture", type=Path, default=Path("runs/curves.svg"), help="(%(default)s)")
    options = parser.parse_args(arguments)
    figure, axes = plt.subplots(figsize=(7, 4))
    for folder in options.runs:
        arrays, about = load(folder / "checkpoint.safetensors")
        cell, curve = about["options"]["cell"], about["progress"]["curve"]
        count = sum(w.size for name, w in arrays.items() if not name.startswith(("adam.", "state.")))
        steps, training, held_out = zip(*curve, strict=True)
        (line,) = axes.plot(steps, held_out, "o-", markersize=3, label=f"{cell}, {count:,} parameters")
        axes.plot(steps, training, ":", color=line.get_color(), linewidth=0.8)
        seconds = about["progress"]["seconds"]
        print(f"{cell:10} {count:9,} parameters, {min(held_out):.3f} bits per character, {seconds:.0f} s of training")
    axes.set(xlabel="training step", ylabel="bits per character; held-out text, dotted: training", yscale="log")
    axes.yaxis.set_major_formatter("{x:.1f}")
    axes.yaxis.set_minor_formatter("{x:.1f}")
    axes.legend()
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.picture, dpi=110, bbox_inches="tight")
    print(f"drawn: {options.picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
