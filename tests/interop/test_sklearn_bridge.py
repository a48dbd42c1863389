"""Estimators of fusedrnn.interop.sklearn: scikit-learn's own checks, and the features only sequences have."""

import pickle

import numpy as np
import pytest

import fusedrnn

pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install scikit-learn")

from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from fusedrnn.interop.sklearn import RNNFeatures, SequenceClassifier, SequenceRegressor, SlidingWindows
from fusedrnn.interop.sklearn_inputs import CELLS

#: Repeated samples are in other batches than weighted ones, as for every estimator that draws batches.
BATCHES = dict.fromkeys(
    ("check_sample_weight_equivalence_on_dense_data", "check_sample_weight_equivalence_on_sparse_data"), "draws batches"
)
ALL = pytest.mark.parametrize("kind", [RNNFeatures, SequenceClassifier, SequenceRegressor])


def rises(rng, samples=60):
    """Sequences that rise or fall, and their labels."""
    X = [np.sort(rng.normal(size=(n, 1)), axis=0)[:: rng.choice([1, -1])] for n in rng.integers(2, 12, samples)]
    return X, np.array(["up" if x[-1] > x[0] else "down" for x in X])


@ALL
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks(kind):
    results = check_estimator(kind(), on_fail=None, on_skip=None, expected_failed_checks=BATCHES)
    assert [r["check_name"] for r in results if r["status"] not in ("passed", "skipped", "xfail")] == []
    assert sum(r["status"] == "passed" for r in results) > 40


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2, "dropout": 0.2}], ids=str)
def test_classifier_learns(cell, options, rng):
    X, y = rises(rng, 120)
    model = SequenceClassifier(cell=cell, random_state=0, **options).fit(X[:80], y[:80])
    assert model.score(X[80:], y[80:]) > 0.9
    p = model.predict_proba(X[80:])
    np.testing.assert_allclose(p.sum(1), 1)
    np.testing.assert_array_equal(model.classes_[p.argmax(1)], model.predict(X[80:]))
    assert model.loss_curve_[-1] < model.loss_curve_[0]


@pytest.mark.parametrize("outputs", [1, 2])
def test_regressor_learns(outputs, rng):
    X = [rng.normal(size=(n, 2)) for n in rng.integers(1, 6, 150)]
    y = np.array([[3 * x[-1, 0] + 100, x[-1, 1]] for x in X])
    y = y if outputs == 2 else y[:, 0]
    model = SequenceRegressor(random_state=0).fit(X[:100], y[:100])
    assert model.predict(X[100:]).shape == y[100:].shape
    assert model.score(X[100:], y[100:]) > 0.8


@pytest.mark.parametrize("kind", [SequenceClassifier, SequenceRegressor])
@pytest.mark.parametrize(
    "options",
    [{}, *({"bidirectional": True, "num_layers": 2, "cell": c} for c in ("lstm", "qrnn", "sru", "lru", "rglru"))],
    ids=str,
)
def test_gradients(kind, options, rng):
    """Gradients of every parameter by finite differences in float32: precise enough to detect a wrong term."""
    X = [rng.normal(size=(n, 2)).astype("float32") for n in (3, 1, 4)]
    y = np.array([0, 1, 1]) if kind is SequenceClassifier else np.array([0.0, 1.0, 2.0])
    model = kind(hidden_size=4, max_iter=1, random_state=0, **options).fit(X, y)
    target = y if kind is SequenceClassifier else y[:, None].astype("float32")
    weight = np.array([1.0, 2.0, 0.5])
    _, (of_layer, of_head) = model._gradients(X, target, weight)
    arrays = [*model.layer_.params.values(), *model.head_.params.values()]
    for w, g in zip(arrays, [*of_layer.params.values(), *of_head.params.values()], strict=True):
        assert w.shape == g.shape
        direction = rng.standard_normal(w.shape).astype("float32")
        before = w.copy()
        losses = []
        for step in (1e-2, -1e-2):
            w[...] = before + np.float32(step) * direction
            losses.append(model._gradients(X, target, weight)[0])
        w[...] = before
        assert (losses[0] - losses[1]) / 2e-2 == pytest.approx(float((g * direction).sum()), rel=2e-2, abs=2e-3)


@ALL
def test_same_seed_same_model(kind, rng):
    X, y = rises(rng)
    y = (y == "up").astype(float) if kind is SequenceRegressor else y
    a, b = (clone(kind(random_state=3, hidden_size=4)).fit(X, y) for _ in range(2))
    use = "transform" if kind is RNNFeatures else "predict"
    expected = getattr(a, use)(X)
    np.testing.assert_array_equal(expected, getattr(b, use)(X))
    np.testing.assert_array_equal(expected, getattr(pickle.loads(pickle.dumps(a)), use)(X))
    with pytest.raises(NotFittedError):
        getattr(clone(a), use)(X)


def test_grid_search_and_cross_validation(rng):
    X, y = rises(rng)
    search = GridSearchCV(SequenceClassifier(max_iter=20, random_state=0), {"hidden_size": [4, 8]}, cv=3).fit(X, y)
    assert search.best_score_ > 0.8
    assert cross_val_score(search.best_estimator_, X, y, cv=3).mean() > 0.8


def test_features_before_a_linear_model(rng):
    X, y = rises(rng, 120)
    model = make_pipeline(RNNFeatures(random_state=0), LogisticRegression(C=100, max_iter=1000))
    assert model.fit(X[:80], y[:80]).score(X[80:], y[80:]) > 0.9


@pytest.mark.parametrize("pool", ["last", "mean", "max"])
@pytest.mark.parametrize("frozen", [False, True])
def test_features_of_a_trained_layer(pool, frozen, rng):
    layer = fusedrnn.LSTM(2, 5, bidirectional=True)
    X = [rng.normal(size=(n, 2)).astype("float32") for n in (3, 7, 1)]
    model = RNNFeatures(layer.freeze() if frozen else layer, pool=pool, batch_size=2).fit(X)
    for x, features in zip(X, model.transform(X), strict=True):
        y, (h, _) = layer(x)
        expected = {"last": np.concatenate([h[0], h[1]]), "mean": y.mean(0), "max": y.max(0)}[pool]
        np.testing.assert_allclose(features, expected, atol=1e-6)
    assert list(model.get_feature_names_out())[:1] == ["rnnfeatures0"]
    assert clone(model).layer == model.layer


def test_arrays_are_sequences_too(rng):
    X = rng.normal(size=(20, 6, 3))
    y = rng.integers(0, 2, 20)
    model = SequenceClassifier(max_iter=2, random_state=0)
    np.testing.assert_array_equal(model.fit(X, y).predict_proba(X), model.fit(list(X), y).predict_proba(list(X)))
    flat = X[:, :, 0]
    rows = [row[:, None] for row in flat]
    np.testing.assert_array_equal(model.fit(flat, y).predict_proba(flat), model.fit(rows, y).predict_proba(rows))
    ragged = np.empty(2, object)
    ragged[:] = [X[0, :2, :1], X[1, :, :1]]
    assert model.predict(ragged).shape == (2,)


def test_errors(rng):
    X, y = rises(rng, 10)
    model = SequenceClassifier(max_iter=1).fit(X, y)
    with pytest.raises(ValueError, match=r"SequenceClassifier: X has sequences of width 2; expected input_size = 1"):
        model.predict([np.ones((3, 2))])
    with pytest.raises(ValueError, match=r"SequenceClassifier: X has sequences of widths 1, 2; expected one width"):
        model.fit([np.ones((3, 1)), np.ones((3, 2))], [0, 1])
    with pytest.raises(ValueError, match=r"SequenceClassifier: X\[1\] contains NaN or infinity"):
        model.fit([np.ones((3, 1)), np.full((3, 1), np.nan)], [0, 1])
    with pytest.raises(ValueError, match=r"SequenceClassifier: X\[0\] has shape \(1, 1, 1\)"):
        model.fit([np.ones((1, 1, 1))], [0])
    with pytest.raises(ValueError, match=r"SequenceClassifier: y has 1 class; expected at least 2"):
        model.fit(X, ["a"] * 10)
    with pytest.raises(ValueError, match=r"RNNFeatures: X has sequences of width 1; expected input_size = 2"):
        RNNFeatures(fusedrnn.GRU(2, 3)).fit(X)
    with pytest.raises(ValueError, match="'cell' parameter"):
        SequenceClassifier(cell="transformer").fit(X, y)
    with pytest.raises(ValueError, match="requires y to be passed"):
        SequenceRegressor().fit(X, None)


# ---- tokens


def remember(rng, samples=90):
    """Sequences of tokens whose last says the label."""
    X = [rng.integers(10, 14, n) for n in rng.integers(2, 6, samples)]
    return X, np.array([x[-1] >= 12 for x in X])


TOKENS = {
    "arrays": lambda X: X,
    "small integers": lambda X: [x.astype("uint8") for x in X],
    "lists": lambda X: [x.tolist() for x in X],
    "lists of words": lambda X: [[f"w{i}" for i in x] for x in X],
    "arrays of words": lambda X: [np.array([f"w{i}" for i in x]) for x in X],
    "texts": lambda X: [" ".join(f"w{i}" for i in x) for x in X],
    "an array of texts": lambda X: np.array([" ".join(f"w{i}" for i in x) for x in X]),
    "an array of objects": lambda X: np.array([" ".join(f"w{i}" for i in x) for x in X], dtype=object),
}


@pytest.mark.parametrize("form", TOKENS)
def test_tokens(form, rng):
    """Integers and words are tokens, and the same model whatever their form."""
    X, y = remember(rng)
    given = TOKENS[form](X)
    model = SequenceClassifier(hidden_size=12, max_iter=30, random_state=0).fit(given[:60], y[:60])
    assert model.input_size_ == 5
    assert list(model.vocabulary_.values()) == [1, 2, 3, 4]
    assert model.score(given[60:], y[60:]) > 0.9
    plain = SequenceClassifier(hidden_size=12, max_iter=30, random_state=0).fit(X[:60], y[:60])
    np.testing.assert_array_equal(model.predict_proba(given), plain.predict_proba(X))
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(given), model.predict_proba(given))


def test_other_tokens_are_one_token(rng):
    X, y = remember(rng)
    model = SequenceClassifier(hidden_size=4, max_iter=2, random_state=0).fit(X, y)
    np.testing.assert_array_equal(model.predict_proba([[10, 99]]), model.predict_proba([[10, -1]]))


def test_characters_and_functions(rng):
    texts = ["ab", "ba", "aab", "bba"] * 5
    y = [text[0] == "a" for text in texts]
    model = SequenceClassifier(analyzer="char", random_state=0, hidden_size=8).fit(texts, y)
    assert model.vocabulary_ == {"a": 1, "b": 2}
    assert model.score(texts, y) == 1
    same = SequenceClassifier(analyzer=list, random_state=0, hidden_size=8).fit(texts, y)
    np.testing.assert_array_equal(same.predict_proba(texts), model.predict_proba(texts))
    assert clone(model).analyzer == "char"
    search = GridSearchCV(SequenceClassifier(max_iter=3), {"analyzer": ["word", "char"]}, cv=2).fit(texts, y)
    assert search.best_params_ == {"analyzer": "char"} or search.best_score_ > 0


def test_features_of_tokens(rng):
    X, _ = remember(rng, 8)
    assert RNNFeatures(hidden_size=3, random_state=0).fit_transform(X).shape == (8, 3)
    layer = fusedrnn.GRU(20, 5, rng=0)
    np.testing.assert_array_equal(RNNFeatures(layer).fit_transform(X), [layer(x)[1][0] for x in X])
    with pytest.raises(TypeError, match="X holds strings, but layer is given"):
        RNNFeatures(layer).fit(["a b"])


def test_tokens_and_numbers_do_not_mix(rng):
    X, y = remember(rng)
    model = SequenceClassifier(max_iter=1, hidden_size=2).fit(X, y)
    with pytest.raises(ValueError, match="X holds numbers; expected tokens"):
        model.predict([np.ones(3)])
    with pytest.raises(TypeError, match=r"X\[1\] is not a sequence of tokens"):
        model.fit([np.array([1]), np.ones((2, 2))], [0, 1])
    with pytest.raises(TypeError, match="expected integers in all, or strings in all"):
        model.fit([["a", 1], ["b", 2]], [0, 1])
    with pytest.raises(ValueError, match="without any token"):
        model.fit(["", " "], [0, 1])
    model.fit([np.ones((3, 1)), np.ones((2, 1))], [0, 1])
    with pytest.raises(ValueError, match=r"X holds tokens .* expected sequences of numbers"):
        model.predict([np.array([1, 2])])


def test_a_table_of_integers_warns(rng):
    X = rng.integers(0, 5, (10, 4))
    with pytest.warns(UserWarning, match=r"X holds integers in shape \(10, 4\) and is read as numbers.*list\(X\)"):
        model = SequenceClassifier(max_iter=1).fit(X, [0, 1] * 5)
    assert model.vocabulary_ is None


# ---- training


BOTH = pytest.mark.parametrize("kind", [SequenceClassifier, SequenceRegressor])


def easy(kind, rng, samples=80):
    X = [rng.normal(size=(n, 2)) for n in rng.integers(1, 5, samples)]
    y = np.array([x[-1, 0] for x in X])
    return X, (y > 0 if kind is SequenceClassifier else y)


def test_idle_dropout_warns(rng):
    X, y = easy(SequenceClassifier, rng, 10)
    with pytest.warns(UserWarning, match=r"dropout=0.9 does nothing with num_layers=1"):
        SequenceClassifier(dropout=0.9, max_iter=1).fit(X, y)


@BOTH
def test_early_stopping(kind, rng, capsys):
    X, y = easy(kind, rng)
    options = {"early_stopping": True, "validation_fraction": 0.25, "n_iter_no_change": 2, "tol": 1e-2}
    model = kind(max_iter=200, learning_rate=0.05, verbose=True, random_state=0, **options).fit(X, y)
    assert model.n_iter_ < 200
    assert len(model.validation_curve_) == len(model.loss_curve_) == model.n_iter_
    assert len(capsys.readouterr().out.splitlines()) == model.n_iter_
    best = kind(
        max_iter=int(np.argmin(model.validation_curve_)) + 1, learning_rate=0.05, random_state=0,
        **options | {"n_iter_no_change": 200},
    ).fit(X, y)  # fmt: skip
    np.testing.assert_array_equal(model.predict(X), best.predict(X))


@BOTH
def test_sample_weights(kind, rng):
    """Samples of weight zero do not count, and all weights may be multiplied by one number."""
    X, y = easy(kind, rng)
    weight = np.r_[np.ones(40), np.zeros(40)]
    options = {"batch_size": 80, "max_iter": 5, "hidden_size": 4, "random_state": 0}
    wrong = y.copy()
    wrong[40:] = ~y[40:] if kind is SequenceClassifier else y[:40]
    one = kind(**options)
    if kind is SequenceClassifier:
        two = clone(one).fit(X, wrong, sample_weight=weight)
        np.testing.assert_allclose(one.fit(X, y, sample_weight=weight).predict_proba(X), two.predict_proba(X))
        three = clone(one).fit(X, y, sample_weight=4 * weight)
        np.testing.assert_allclose(three.predict_proba(X), one.predict_proba(X), rtol=1e-5)
    else:
        three = clone(one).fit(X, y, sample_weight=4 * weight)
        np.testing.assert_allclose(three.predict(X), one.fit(X, y, sample_weight=weight).predict(X), atol=1e-5)


def test_class_weights(rng):
    """Rare classes are found more often when they weigh more."""
    X, y = easy(SequenceClassifier, rng, 100)
    y = np.array([x[-1, 0] + 0.8 * rng.normal() > 1.2 for x in X])
    options = {"max_iter": 20, "hidden_size": 8, "random_state": 0}
    plain = SequenceClassifier(**options).fit(X, y).predict(X).sum()
    balanced = SequenceClassifier(class_weight="balanced", **options).fit(X, y).predict(X).sum()
    given = SequenceClassifier(class_weight={False: 1, True: 20}, **options).fit(X, y).predict(X).sum()
    assert plain < balanced <= given


@BOTH
def test_alpha_shrinks(kind, rng):
    X, y = easy(kind, rng)
    plain, decayed = (kind(alpha=alpha, max_iter=20, random_state=0).fit(X, y) for alpha in (0.0, 10.0))
    assert np.linalg.norm(decayed.coef_) < 0.7 * np.linalg.norm(plain.coef_)


@BOTH
def test_warm_start_and_partial_fit(kind, rng):
    X, y = easy(kind, rng)
    model = kind(warm_start=True, max_iter=3, hidden_size=4, random_state=0).fit(X, y)
    layer, before = model.layer_, model.loss_curve_[-1]
    model.fit(X, y)
    assert model.layer_ is layer
    assert model.n_iter_ == 3
    assert len(model.loss_curve_) == 6
    assert model.loss_curve_[-1] < before
    parts = kind(hidden_size=4, random_state=0)
    for _ in range(30):
        for start in (0, 40):
            parts.partial_fit(X[start : start + 40], y[start : start + 40])
    assert parts.n_iter_ == 60
    assert parts.score(X, y) > 0.7
    with pytest.raises(ValueError, match="expected input_size = 2"):
        parts.partial_fit([np.ones((2, 3))], y[:1])


def test_partial_fit_takes_the_classes(rng):
    model = SequenceClassifier(hidden_size=2).partial_fit([np.ones((2, 1))], ["a"], classes=["a", "b", "c"])
    assert model.predict_proba([np.ones((2, 1))]).shape == (1, 3)
    with pytest.raises(ValueError, match="y has the classes 'd', which the first fit did not have"):
        model.partial_fit([np.ones((2, 1))], ["d"])
    numbers = SequenceRegressor(hidden_size=2).partial_fit([np.ones((2, 1))] * 2, [1.0, 2.0])
    with pytest.raises(ValueError, match="y has 2 outputs; expected 1"):
        numbers.partial_fit([np.ones((2, 1))] * 2, np.ones((2, 2)))


def test_dense_layer_is_shown_as_arrays(rng):
    X, y = easy(SequenceClassifier, rng, 20)
    model = SequenceClassifier(max_iter=1, hidden_size=4).fit(X, y)
    assert model.coef_.shape == (4, 2)
    assert model.intercept_.shape == (2,)
    assert model.coef_.base is model.head_.weight or np.shares_memory(model.coef_, model.head_.weight)


# ---- windows


@pytest.mark.parametrize(("length", "horizon", "step"), [(3, 1, 1), (4, 2, 1), (5, 1, 3), (3, 4, 2), (20, 1, 1)])
@pytest.mark.parametrize("columns", [None, 2])
def test_windows_of_a_series(length, horizon, step, columns, rng):
    series = rng.normal(size=(20,) if columns is None else (20, columns))
    windows = SlidingWindows(length, horizon=horizon, step=step)
    X, y = windows.fit_transform(series), windows.targets(series)
    two_axes = series.reshape(20, -1)
    last = windows.last_steps(20)
    assert len(X) == len(last)
    for sample, end in zip(X, last, strict=True):
        np.testing.assert_array_equal(sample, two_axes[end - length + 1 : end + 1])
    known = [end + horizon for end in last if end + horizon < 20]
    np.testing.assert_array_equal(y, series[known])
    assert clone(windows).get_params() == windows.get_params()


def test_windows_are_forecast():
    series = np.sin(np.arange(120) / 5)
    windows = SlidingWindows(8)
    X, y = windows.fit_transform(series), windows.targets(series)
    model = SequenceRegressor(max_iter=30, random_state=0).fit(X[:80], y[:80])
    assert model.score(X[80 : len(y)], y[80:]) > 0.9


def test_errors_of_windows():
    windows = SlidingWindows(5).fit(np.ones((7, 2)))
    with pytest.raises(ValueError, match="X has 3 columns; expected 2"):
        windows.transform(np.ones((7, 3)))
    with pytest.raises(ValueError, match="X has 4 steps; expected at least length = 5"):
        windows.transform(np.ones((4, 2)))
    with pytest.raises(ValueError, match="'length' parameter"):
        SlidingWindows(0).fit(np.ones(7))
    with pytest.raises(NotFittedError):
        SlidingWindows().transform(np.ones(20))
