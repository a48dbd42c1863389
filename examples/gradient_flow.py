"""Vanishing and exploding gradients: how large is dL/dh_t, t steps before the loss?

    dL/dh_t = dL/dh_T  prod_{s=t+1..T} dh_s/dh_{s-1}      (Bengio et al. 1994, Pascanu et al. 2013)

The adding problem (Hochreiter & Schmidhuber 1997): x_t is a random number and a flag, two flags are set, and the
answer after the last step is the sum of the two flagged numbers. Always answering 1 has a mean squared error of 1/6.
First the norms for an RNN, a GRU and an LSTM before training, and for cells without a recurrent matrix, where
dh_s/dh_{s-1} is diagonal: each unit has a rate of its own. Then whether they learn the task, which the LRU, linear in
x, cannot by itself. Then a network whose gradients explode: clipping bounds them, and where they are no longer finite
that is noticed rather than trained on.
"""

import sys

import autograd.numpy as np
import matplotlib.pyplot as plt
from autograd import grad

import fusedrnn
from fusedrnn.interop.autograd import apply
from training import Adam, dense, dense_params, fit, leaves, parse_options, save, verdict

KINDS = {"RNN": fusedrnn.RNN, "GRU": fusedrnn.GRU, "LSTM": fusedrnn.LSTM}
DIAGONAL = {"MinGRU": fusedrnn.MinGRU, "RG-LRU": fusedrnn.RGLRU, "LRU": fusedrnn.LRU}


def adding_problem(rng, T, B):
    """x (T, B, 2): numbers in [0, 1] and flags, one in each half; and the sum of the flagged numbers (B,)."""
    numbers, flags, rows = rng.random((T, B)), np.zeros((T, B)), np.arange(B)
    flags[rng.integers(T // 2, size=B), rows] = 1
    flags[rng.integers(T // 2, T, size=B), rows] = 1
    return np.stack([numbers, flags], axis=-1).astype("f4"), np.sum(numbers * flags, axis=0).astype("f4")


def squared_error(layer, params, x, target):
    y, _ = apply(layer, params["layer"], x)
    return np.mean((dense(params["out"], y[-1])[:, 0] - target) ** 2)


def norms(layer, params, x, target):
    """|dL/dh_t| for t = 0 ... T: the layer is run one step at a time, and its tapes are walked from the last back."""
    state, tapes = None, []
    for t in range(len(x)):
        y, state, tape = layer.forward(x[t : t + 1], state)
        tapes.append(tape)
    dy = grad(lambda h: np.mean((dense(params["out"], h)[:, 0] - target) ** 2))(y[-1])[None]
    lstm, found = isinstance(state, tuple), [np.linalg.norm(dy)]
    d_state = None
    for tape in reversed(tapes):
        grads = tape.backward(dy, d_state, need_dx=False)
        dy, d_state = None, grads.state
        found.append(np.linalg.norm(np.concatenate(d_state) if lstm else d_state))
    return found[::-1]


def main(arguments: list[str] | None = None) -> int:
    options = parse_options(
        __doc__, arguments, {"steps": 400, "length": 20, "hidden": 32}, steps=1500, length=60, hidden=64
    )
    rng, T, H = np.random.default_rng(options.seed), options.length, options.hidden
    x_test, target_test = adding_problem(np.random.default_rng(1), T, 500)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.5))

    def endless():
        while True:
            yield adding_problem(rng, T, 50)

    error = {}
    for name, kind in (KINDS | DIAGONAL).items():
        layer = kind(2, H, rng=np.random.default_rng(options.seed))
        if name == "LSTM":
            layer.params["bias_ih_l0"][H : 2 * H] = 1  # the forget gate starts open
        params = {"layer": layer.params, "out": dense_params(rng, H, 1)}
        at_first = norms(layer, params, x_test, target_test)
        style = "--" if name in DIAGONAL else "-"
        left.semilogy(at_first, style, label=name)
        curve = fit(lambda p, x, y, layer=layer: squared_error(layer, p, x, y), params, endless(), options.steps)
        error[name] = float(squared_error(layer, params, x_test, target_test))
        trained = norms(layer, params, x_test, target_test)
        print(
            f"{name:6} |dL/dh_0| / |dL/dh_T|: {at_first[0] / at_first[-1]:8.1e} before, "
            f"{trained[0] / trained[-1]:8.1e} after training; error {error[name]:.4f} of {1 / 6:.4f}"
        )
        middle.semilogy(np.convolve(curve, np.ones(25) / 25, "valid"), style, label=name)
    left.set(xlabel="t", ylabel="norm of dL/dh_t", title="before training")
    middle.axhline(1 / 6, color="0.5", linestyle=":")
    middle.set(xlabel="training step", ylabel="squared error", title="training, gradients clipped")
    left.legend()
    middle.legend()

    # Explosion: W_hh = g Q with an orthogonal Q. A relu lets about half of the units through, so that the square of
    # the norm grows by g^2 / 2 a step: it vanishes where g < 1.41, and nothing saturates to stop it where g is larger.
    for g in (1.0, 1.2, 1.4, 1.7):
        layer = fusedrnn.RNN(2, H, nonlinearity="relu", rng=np.random.default_rng(0))
        layer.params["weight_hh_l0"][:] = g * np.linalg.qr(rng.normal(size=(H, H)))[0]
        params = {"layer": layer.params, "out": dense_params(np.random.default_rng(0), H, 1)}
        right.semilogy(norms(layer, params, x_test, target_test), label=f"g = {g}")
    right.set(xlabel="t", ylabel="norm of dL/dh_t", title="RNN of relu, W_hh = g Q")
    right.legend()
    figure.tight_layout()
    save(figure, options.out, "gradient_flow")

    gradients = grad(lambda p: squared_error(layer, p, x_test, target_test))(params)
    norm = fusedrnn.clip_grad_norm(list(leaves(gradients)), 1.0)
    after = np.sqrt(sum(np.sum(g**2) for g in leaves(gradients)))
    print(f"g = 1.7: norm of the gradient {norm:.3g}, after clipping {after:.3g}")
    layer.params["weight_hh_l0"][:] *= 1e6  # nothing can clip this one: it is not finite
    with np.errstate(all="ignore"):
        gradients = grad(lambda p: squared_error(layer, p, x_test, target_test))(params)
    try:
        Adam(params, clip=1.0).step(gradients, 0.01)
    except FloatingPointError as report:
        print(f"g = 1.7e6: not trained on: {report}")
    else:
        return 1
    gated = max(error["GRU"], error["LSTM"])
    return verdict("squared error of GRU and LSTM, the larger", gated, at_most=0.14 if options.quick else 0.01)


if __name__ == "__main__":
    sys.exit(main())
