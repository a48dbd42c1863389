"""A filter learned from its output: what moved the cutoff of this wah-wah, given what went in and what came out?

    w_t = tan(pi f_t / rate),  q = 1 / Q                       f_t: the cutoff in Hz, another one at every sample
    [s1, s2]_t = A_t [s1, s2]_{t-1} + B_t x_t                  state variable filter, trapezoidal rule (Simper 2013)
    y_t = C_t [s1, s2]_{t-1} + D_t x_t                         its band pass

A is a 2 x 2 matrix of its own at every sample: one call of `fusedrnn.functional.state_space_forward` filters the whole
sound, and `state_space_backward` gives the gradient with respect to every A_t, B_t, C_t, D_t, from there by the chain
rule that of the cutoff. The cutoff is learned as a curve of few numbers, log f_t interpolated between K points, and Q
as one; Adam starts from a constant. Data: a sawtooth with noise, made here, so the true cutoff is known.
"""

import sys

import autograd.numpy as np
import matplotlib.pyplot as plt
from autograd import value_and_grad
from autograd.extend import defvjp, primitive

from fusedrnn.functional import state_space_backward, state_space_forward
from training import Adam, parse_options, save, verdict

RATE = 8000


def run(x, A, B, C, D):
    """y (T,) and the tape; one row, one input, one output."""
    y, _, tape = state_space_forward(x[:, None, None], A, B, C, D, read="before")
    return y[:, 0, 0], tape


@primitive
def filtered(A, B, C, D, x):
    return run(x, A, B, C, D)[0]


def gradients(place):
    """The gradient with respect to one of the four matrices."""

    def of(y, A, B, C, D, x):
        _, tape = run(x, A, B, C, D)
        return lambda dy: getattr(state_space_backward(tape, dy[:, None, None]), "d" + "ABCD"[place])

    return of


defvjp(filtered, *map(gradients, range(4)), argnums=(0, 1, 2, 3))


def matrices(log_cutoff, log_q):
    """The state variable filter at every sample: the two integrators' states, and its band pass as the output."""
    w, q = np.tan(np.pi * np.exp(log_cutoff) / RATE), np.exp(log_q)
    g = 1 / (1 + w * (w + q))
    rows = np.stack([2 * g - 1, -2 * w * g, 2 * w * g, 1 - 2 * w * w * g], axis=1)
    A = np.reshape(rows, (-1, 2, 2))
    B = np.stack([2 * w * g, 2 * w * w * g], axis=1)[:, :, None]
    C = np.stack([g, -w * g], axis=1)[:, None, :]
    return A, B, C, (w * g)[:, None, None]


def main(arguments: list[str] | None = None) -> int:
    options = parse_options(__doc__, arguments, {"steps": 60, "seconds": 0.25}, steps=300, seconds=1.0, points=48)
    T, K = int(options.seconds * RATE), options.points
    rng, time = np.random.default_rng(options.seed), np.arange(T) / RATE
    x = 2 * (110 * time % 1) - 1 + 0.1 * rng.standard_normal(T)
    true_cutoff = np.log(900) + 0.7 * np.sin(2 * np.pi * 3 * time) + 0.3 * np.sin(2 * np.pi * 7 * time + 1)
    target = filtered(*matrices(true_cutoff, np.log(0.4)), x)

    places = np.linspace(0, K - 1, T)
    below = np.minimum(places.astype(int), K - 2)
    weight = places - below

    def cutoff(params):
        points = params["cutoff"]
        return points[below] * (1 - weight) + points[below + 1] * weight

    def loss(params):
        y = filtered(*matrices(cutoff(params), params["q"]), x)
        return np.mean((y - target) ** 2) / np.mean(target**2)

    params = {"cutoff": np.full(K, np.log(600.0)), "q": np.array(0.0)}
    first, adam, both, curve = np.array(cutoff(params)), Adam(params, clip=1.0), value_and_grad(loss), []
    for step in range(options.steps):
        value, grads = both(params)
        adam.step(grads, 0.05 * (0.525 + 0.475 * np.cos(np.pi * step / options.steps)))
        curve.append(float(value))
    off = float(np.sqrt(np.mean((cutoff(params) - true_cutoff) ** 2)) / np.log(2))
    print(f"energy of the error: {curve[0]:.3f} of the sound's at first, {curve[-1]:.2e} in the end")
    print(f"Q: {np.exp(-params['q']):.2f} of {1 / 0.4:.2f}; the cutoff is off by {12 * off:.2f} semitones")

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5), width_ratios=(1, 2))
    left.semilogy(curve)
    left.set(xlabel="training step", ylabel="energy of the error")
    for values, style, label in (
        (true_cutoff, "k-", "true"), (first, ":", "at first"), (cutoff(params), "--", "learned"),
    ):  # fmt: skip
        right.plot(time, np.exp(values), style, label=label)
    right.set(xlabel="seconds", ylabel="cutoff in Hz", yscale="log")
    right.legend()
    figure.tight_layout()
    save(figure, options.out, "audio_filter")
    return verdict("energy of the error", curve[-1], at_most=0.2 if options.quick else 0.01)


if __name__ == "__main__":
    sys.exit(main())
