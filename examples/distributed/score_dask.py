"""Score many files with a trained character model, spread over processes by Dask: bits per character of each.

    pip install "dask[distributed]"
    python examples/char_lm.py --quick
    python examples/distributed/score_dask.py --model runs/char_lm_quick/best.safetensors --workers 2

The model travels to each worker once, as the pickle of a frozen layer: its parameters, not its packed weights, which
the worker makes for its own CPU. Workers x threads is the number of cores. Files become rows of one batch with
lengths, and a row's bits do not depend on its batch, so neither on how the files are spread.
"""

import argparse
import functools
import os
import pickle
import sys
import sysconfig
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# What every worker inherits: one thread for NumPy's products. Must be set before NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import fusedrnn

sys.path.insert(0, str(Path(__file__).parents[1]))
from char_lm import CharModel, cross_entropy
from char_lm_run import load
from char_lm_text import encode

try:
    import dask.bag
    from dask.distributed import Client, LocalCluster
except ImportError as error:
    sys.exit(f'score_dask.py needs {error.name}: pip install "dask[distributed]"')


def prepare(path: Path) -> bytes:
    """A trained model as one pickle: frozen layer, dense weights, vocabulary."""
    arrays, about = load(path)
    options = argparse.Namespace(**about["options"])
    model = CharModel(options, len(about["vocabulary"]))
    for name, array in arrays.items():
        np.copyto(model.params[name], array)
    return pickle.dumps((model.layer.freeze(), model.W, model.b, about["vocabulary"]))


@functools.cache
def unpacked(model: bytes, threads: int) -> Any:
    """The model in this process, made when it is first asked for; and how many threads the process may use."""
    fusedrnn.set_num_threads(threads)
    return pickle.loads(model)


def score(paths: Iterable[str], model: bytes, threads: int, most: int = 2000) -> list[tuple[str, float]]:
    """Bits per character of the first `most` characters of each file, given those before."""
    layer, weight, bias, vocabulary = unpacked(model, threads)
    paths = list(paths)
    texts = [encode(Path(p).read_text(encoding="utf-8", errors="replace")[:most], vocabulary) for p in paths]
    found = []
    for start in range(0, len(texts), 16):
        group = texts[start : start + 16]
        outputs, _ = layer([text[:-1] for text in group])  # a list of rows of any length
        for text, y in zip(group, outputs, strict=True):
            loss = cross_entropy(y @ weight.T + bias, text[1:]) if len(text) > 1 else 0.0
            found.append((paths[len(found)], loss / np.log(2)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="best.safetensors of a run of char_lm.py")
    parser.add_argument("--files", nargs="*", help="UTF-8 files; default: the standard library's modules")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    files = options.files or [str(p) for p in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))]
    model = prepare(options.model)
    threads = max(1, len(os.sched_getaffinity(0)) // options.workers)
    layer = pickle.loads(model)[0]
    print(f"{layer}: a pickle of {len(model) / 2**20:.2f} MiB; in memory {layer.nbytes / 2**20:.2f} MiB")

    began = time.perf_counter()
    alone = score(files, model, threads)
    one = time.perf_counter() - began
    # Processes, not threads: each has its own setting of how many threads its layers use.
    with (
        LocalCluster(
            n_workers=options.workers, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        everywhere = client.scatter(model, broadcast=True)  # once per worker, not once per task
        client.run(unpacked, model, threads)
        bag = dask.bag.from_sequence(files, npartitions=4 * options.workers)
        began = time.perf_counter()
        spread = bag.map_partitions(score, everywhere, threads).compute(scheduler=client)
        many = time.perf_counter() - began
    print(
        f"{len(files)} files: {one:.2f} s in one process, {many:.2f} s in {options.workers} workers x {threads} threads"
    )
    print(f"same bits: {spread == alone}")
    for path, bits in sorted(alone, key=lambda item: -item[1])[:3]:
        print(f"{bits:6.2f} bits per character  {Path(path).name}")


if __name__ == "__main__":
    main()
