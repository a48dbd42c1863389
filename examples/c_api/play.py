"""Run the effect of audio_loop.pyx over a synthetic sound in real time's blocks, while another thread holds the GIL.

python play.py                  # a second of sound: nanoseconds per sample, and the slowest block against its deadline
python play.py --table          # nanoseconds per step by size: the table of docs/c-api.md
"""

import argparse
import threading

import numpy as np

import fusedrnn

try:
    import audio_loop
except ImportError as error:
    raise SystemExit(f"{error}: compile it first, see audio_loop.pyx") from None

RATE = 48_000  # samples per second


def hold_the_gil(ended: threading.Event) -> None:
    """Pure Python, as fast as it can."""
    while not ended.is_set():
        pass


def play(seconds: float, hidden: int, block: int) -> None:
    """Process a sweep, compare with stream.step, and tell how much of the time there is was needed."""
    rng = np.random.default_rng(0)
    n = int(seconds * RATE) // block * block
    t = np.arange(n) / RATE
    sound = (0.5 * np.sin(2 * np.pi * (100 + 1000 * t) * t)).astype(np.float32)
    out = np.empty_like(sound)
    frozen = fusedrnn.LSTM(1, hidden, rng=rng).freeze()
    w = rng.standard_normal(hidden, np.float32) / hidden

    effect = audio_loop.Effect(frozen, w)
    ended = threading.Event()
    busy = threading.Thread(target=hold_the_gil, args=(ended,), daemon=True)
    busy.start()
    taken = effect.run(sound, out, block)
    ended.set()
    busy.join()

    stream = frozen.stream()
    first = np.stack([stream.step(x.reshape(1, 1))[0] for x in sound[:200]])
    expected = sound[:200].copy()
    for k in range(hidden):  # in the order of the loop in audio_loop.pyx
        expected += w[k] * first[:, k]
    same = np.allclose(out[:200], expected, rtol=0, atol=1e-6)
    deadline = 1e9 * block / RATE
    print(f"LSTM(1, {hidden}), blocks of {block}: {np.median(taken) / block:.0f} ns per sample (median)")
    print(f"slowest block: {taken.max() / deadline:.1%} of its deadline; typical: {np.median(taken) / deadline:.1%}")
    print(f"same as stream.step: {same}")


def table() -> None:
    """Nanoseconds per step; the smallest of many runs, as the machine may be busy."""
    print(
        "| layer | " + " | ".join(f"I = H = {H}" for H in (64, 128, 256)) + " | I = 1, H = 64 |\n|---|---|---|---|---|"
    )
    for kind in (fusedrnn.LSTM, fusedrnn.GRU):
        sizes = [(64, 64), (128, 128), (256, 256), (1, 64)]
        times = [audio_loop.step_ns(kind(I, H, rng=0).freeze(), 200, 200) for I, H in sizes]
        print(f"| {kind.__name__} | " + " | ".join(f"{ns:.0f}" for ns in times) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        table()
    else:
        play(options.seconds, options.hidden, options.block)
