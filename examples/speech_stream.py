"""Speech as it arrives: who is speaking, decided anew after each frame, one step of a stream at a time.

    h_t = GRU(x_t, h_{t-1}),   p_t(speaker) = softmax(W h_t + b)

Trained on whole utterances with the loss at every valid frame. Then all test utterances are one endless stream of
frames: `stream.step` takes one frame, `stream.reset` starts the next utterance. Last, many streams side by side: a row
whose utterance ended is reset alone, and takes the next one.
Data: Japanese Vowels (nine men say /ae/, 12 cepstrum coefficients a frame, CC BY 4.0), which sktime contains.
"""

import sys
import time
from importlib.metadata import distribution

import autograd.numpy as np
import matplotlib.pyplot as plt

import fusedrnn
from fusedrnn.interop.autograd import apply
from training import (
    cross_entropy,
    dense,
    dense_params,
    dropout,
    fit,
    log_softmax,
    pad,
    parse_options,
    save,
    shuffled,
    verdict,
)


def read_utterances(part: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Frames (T_i, 12) of each utterance, and its speaker 0 ... 8."""
    path = distribution("sktime").locate_file(f"sktime/datasets/data/JapaneseVowels/JapaneseVowels_{part}.ts")
    lines = path.read_text(encoding="utf-8").partition("@data")[2].split()
    rows = [line.split(":") for line in lines]
    frames = [np.array([row.split(",") for row in coefficients], "f4").T for *coefficients, _ in rows]
    return frames, np.array([int(speaker) - 1 for *_, speaker in rows])


def main(arguments: list[str] | None = None) -> int:
    options = parse_options(__doc__, arguments, {"steps": 100}, steps=500, hidden=64, rate=0.3, rows=16)
    rng, H = np.random.default_rng(options.seed), options.hidden
    (train, speaker), (test, speaker_test) = read_utterances("TRAIN"), read_utterances("TEST")
    mean, scale = np.concatenate(train).mean(axis=0), np.concatenate(train).std(axis=0)
    train, test = ([(frames - mean) / scale for frames in part] for part in (train, test))
    print(
        f"{len(train)} utterances to learn from, {len(test)} to test on, {min(map(len, test))} to "
        f"{max(map(len, test))} frames each"
    )

    gru = fusedrnn.GRU(12, H, rng=rng)
    params = {"gru": gru.params, "out": dense_params(rng, H, 9)}

    def loss(params, x, lengths, speaker):
        y, _ = apply(gru, params["gru"], dropout(rng, x, options.rate), lengths=lengths)
        valid = np.arange(len(x))[:, None] < lengths
        scores = dense(params["out"], dropout(rng, y, options.rate))
        return cross_entropy(scores, np.broadcast_to(speaker, valid.shape), valid)

    batches = ((*pad([train[i] for i in index]), speaker[index]) for index in shuffled(rng, len(train), 30))
    losses = fit(loss, params, batches, options.steps)

    # One microphone: p[t] of every frame, as it arrives.
    stream, p, h, start = gru.freeze().stream(), [], np.empty((1, H), "f4"), time.perf_counter()
    for frames in test:
        stream.reset()  # nothing of the speaker before is remembered
        p.append([])
        for frame in frames:
            stream.step(frame[None], out=h)
            p[-1].append(np.exp(log_softmax(dense(params["out"], h[0]))))
    each = (time.perf_counter() - start) / sum(map(len, test)) * 1e6
    right = np.array([np.argmax(of[-1]) for of in p]) == speaker_test
    print(f"accuracy {right.mean():.3f} after the last frame; {each:.0f} microseconds a frame, dense layer included")

    # The same, many at once: each row of the batch has an utterance of its own.
    B = options.rows
    stream, waiting = gru.freeze().stream(batch_size=B), list(range(len(test)))[::-1]
    playing, at, answers = [waiting.pop() for _ in range(B)], np.zeros(B, int), {}
    while any(i is not None for i in playing):
        x = np.stack([np.zeros(12, "f4") if i is None else test[i][t] for i, t in zip(playing, at, strict=True)])
        h = stream.step(x)
        at += 1
        ended = np.array([i is not None and t == len(test[i]) for i, t in zip(playing, at, strict=True)])
        for row in np.flatnonzero(ended):
            answers[playing[row]] = np.argmax(dense(params["out"], h[row]))
            playing[row], at[row] = (waiting.pop() if waiting else None), 0
        stream.reset(ended)
    together = np.array([answers[i] for i in range(len(test))]) == speaker_test
    print(f"accuracy {together.mean():.3f} with {B} microphones in one batch")
    assert (together == right).all()

    figure, axes = plt.subplots(1, 3, figsize=(12, 3), width_ratios=(1, 1, 1.6))
    axes[0].plot(losses, linewidth=0.7)
    axes[0].set(xlabel="training step", ylabel="cross-entropy", yscale="log")
    sure = [np.mean([np.argmax(of[min(t, len(of) - 1)]) == s for of, s in zip(p, speaker_test, strict=True)])
            for t in range(20)]  # fmt: skip
    axes[1].plot(range(1, 21), sure, "o-")
    axes[1].set(xlabel="frames heard (or all there are)", ylabel="accuracy")
    shown = range(0, len(test), len(test) // 7)
    axes[2].imshow(np.concatenate([p[i] for i in shown]).T, aspect="auto", cmap="Greys", vmin=0, vmax=1)
    for end in np.cumsum([len(p[i]) for i in shown])[:-1]:
        axes[2].axvline(end - 0.5, color="C3")
    axes[2].set(xlabel="frame (red: reset)", ylabel="speaker", title="p_t(speaker) along the stream")
    figure.tight_layout()
    save(figure, options.out, "speech_stream")
    return verdict("accuracy after the last frame", right.mean(), at_least=0.8 if options.quick else 0.94)


if __name__ == "__main__":
    sys.exit(main())
