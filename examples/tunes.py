"""One to many: from a metre and a key alone, a whole Irish tune, one character of ABC notation after the other.

    h_0 = S[metre] + S[key]                 the one input
    h_t = GRU(x_t, h_{t-1})                 x_1 starts the tune, x_{t+1} is the character drawn at t
    p(x_{t+1}) = softmax(W h_t + b)

The seed is never shown again: what it says must live in the state. How much it says is measured by giving held-out
tunes the seed of another. Data: O'Neill's collection of Irish tunes, ABC files in music21's corpus, read as text.
"""

import re
import sys
from importlib.metadata import distribution
from pathlib import Path

import autograd.numpy as np
import matplotlib.pyplot as plt

import fusedrnn
from fusedrnn.interop.autograd import apply
from training import cross_entropy, dense, dense_params, fit, log_softmax, pad, parse_options, save, shuffled, verdict

END = "\n"  # starts and ends every tune


def read_tunes() -> list[tuple[str, str, str]]:
    """(metre, key, notes) of each tune, without ornaments, chord names and comments."""
    folder, tunes = Path(distribution("music21").locate_file("music21/corpus/oneills1850")), []
    for path in sorted(folder.glob("*.abc")):
        for block in re.split(r"^X:", path.read_text(encoding="utf-8", errors="replace"), flags=re.MULTILINE)[1:]:
            fields = dict(re.findall(r"^([MK]): *([^\s%]+)", block, flags=re.MULTILINE))
            lines = [line for line in block.splitlines()[1:] if not re.match(r"[A-Za-z]:|%|\s*$", line)]
            notes = re.sub(r'\{[^}]*\}|"[^"]*"|!.*?!|%.*', "", "".join(lines))
            notes = re.sub(r"[^A-Ga-gz0-9,'/|:\[\]()<>^_=-]", "", notes)
            if len(fields) == 2 and 50 <= len(notes) <= 600:
                tunes.append((fields["M"], fields["K"], notes + END))
    return tunes


def staff_positions(notes: str) -> list[tuple[float, float, int]]:
    """(start, length, steps above middle C) of each note, in units of the tune's eighth note."""
    place, found = 0.0, []
    for letter, octave, times, divided in re.findall(r"([A-Ga-gz])([,']*)(\d*)(/?\d*)", notes):
        length = float(times or 1) / (float(divided[1:] or 2) if divided else 1)
        if letter != "z":
            step = "CDEFGABcdefgab".index(letter) + 7 * (octave.count("'") - octave.count(","))
            found.append((place, length, step))
        place += length
    return found


def main(arguments: list[str] | None = None) -> int:
    options = parse_options(
        __doc__, arguments, {"steps": 120, "hidden": 64}, steps=600, hidden=192, temperature=0.6, metre="6/8", key="G"
    )
    rng, H = np.random.default_rng(options.seed), options.hidden
    tunes = read_tunes()
    np.random.default_rng(0).shuffle(tunes)
    characters = END + "".join(sorted({c for *_, notes in tunes for c in notes} - {END}))
    seeds = sorted({value for metre, key, _ in tunes for value in (metre, key)})
    notes = [np.array([characters.index(c) for c in END + notes]) for _, _, notes in tunes]
    seed = np.array([(seeds.index(metre), seeds.index(key)) for metre, key, _ in tunes])
    n, V = len(tunes) * 9 // 10, len(characters)
    print(f"{len(tunes)} tunes, {sum(map(len, notes)):,} characters of {V} kinds")

    gru = fusedrnn.GRU(V, H, rng=rng)  # reads characters as integers: one-hot, never written out
    params = {"S": np.zeros((len(seeds), H), "f4"), "gru": gru.params, "out": dense_params(rng, H, V)}

    def first_state(params, seed):
        return np.tanh(params["S"][seed[:, 0]] + params["S"][seed[:, 1]])[None]

    def loss(params, x, lengths, seed):
        """Teacher forcing: the character before is the tune's own, whatever the model would have drawn."""
        y, _ = apply(gru, params["gru"], x[:-1], first_state(params, seed), lengths=lengths - 1)
        valid = np.arange(1, len(x))[:, None] < lengths
        return cross_entropy(dense(params["out"], y), x[1:], valid)

    test, test_seed = pad(notes[n:]), seed[n:]

    def bits(seed):
        return float(loss(params, *test, seed)) / np.log(2)

    batches = ((*pad([notes[i] for i in index]), seed[index]) for index in shuffled(rng, n, 32))
    losses = fit(loss, params, batches, options.steps, every=max(1, options.steps // 6),
                 check=lambda step: f"held-out {bits(test_seed):.3f} bits per character")  # fmt: skip
    other = np.roll(test_seed, 1, axis=0)
    print(f"bits per character: with its own seed {bits(test_seed):.3f}, with another tune's {bits(other):.3f}")

    def write(metre, key, longest=400):
        """Draw characters until END; each is fed back."""
        stream = gru.freeze().stream()
        stream.state = first_state(params, np.array([[seeds.index(metre), seeds.index(key)]]))
        token, written = np.array([0]), ""
        while len(written) < longest:
            p = np.exp(log_softmax(dense(params["out"], stream.step(token)[0]) / options.temperature))
            token = rng.choice(V, size=1, p=p / p.sum())
            if characters[token[0]] == END:
                break
            written += characters[token[0]]
        return written

    tune = write(options.metre, options.key)
    abc = f"X:1\nT:Seed {options.seed}\nM:{options.metre}\nL:1/8\nK:{options.key}\n{tune}\n"
    (options.out / "tune.abc").write_text(abc)
    print(abc)
    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 5))
    above.plot(np.array(losses) / np.log(2), linewidth=0.7)
    above.set(xlabel="training step", ylabel="bits per character")
    for start, length, step in staff_positions(tune):
        below.plot([start, start + 0.85 * length], [step, step], "C0", linewidth=4, solid_capstyle="butt")
    for line in (2, 4, 6, 8, 10):  # e g b d' f'
        below.axhline(line, color="0.8", linewidth=0.8, zorder=0)
    below.set(xlabel=f"eighths of the tune drawn from the seed ({options.metre}, {options.key})", yticks=[])
    figure.tight_layout()
    save(figure, options.out, "tune")
    return verdict("bits per character", bits(test_seed), at_most=3.8 if options.quick else 2.2)


if __name__ == "__main__":
    sys.exit(main())
