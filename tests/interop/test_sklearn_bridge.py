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

from fusedrnn.interop.sklearn import RNNFeatures, SequenceClassifier, SequenceRegressor

ALL = pytest.mark.parametrize("kind", [RNNFeatures, SequenceClassifier, SequenceRegressor])


def rises(rng, samples=60):
    """Sequences that rise or fall, and their labels."""
    X = [np.sort(rng.normal(size=(n, 1)), axis=0)[:: rng.choice([1, -1])] for n in rng.integers(2, 12, samples)]
    return X, np.array(["up" if x[-1] > x[0] else "down" for x in X])


@ALL
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks(kind):
    results = check_estimator(kind(), on_fail=None, on_skip=None)
    assert [r["check_name"] for r in results if r["status"] not in ("passed", "skipped")] == []
    assert sum(r["status"] == "passed" for r in results) > 40


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
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
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2, "cell": "lstm"}], ids=str)
def test_gradients(kind, options, rng):
    """Gradients of every parameter by finite differences in float32: precise enough to detect a wrong term."""
    X = [rng.normal(size=(n, 2)).astype("float32") for n in (3, 1, 4)]
    y = np.array([0, 1, 1]) if kind is SequenceClassifier else np.array([0.0, 1.0, 2.0])
    model = kind(hidden_size=3, max_iter=1, random_state=0, **options).fit(X, y)
    target = np.eye(2, dtype="float32")[y] if kind is SequenceClassifier else y[:, None].astype("float32")
    _, gradients = model._loss(X, target)
    arrays = [*model.layer_.params.values(), model.coef_, model.intercept_]
    for w, g in zip(arrays, gradients, strict=True):
        assert w.shape == g.shape
        direction = rng.standard_normal(w.shape).astype("float32")
        before = w.copy()
        losses = []
        for step in (1e-2, -1e-2):
            w[...] = before + np.float32(step) * direction
            losses.append(model._loss(X, target)[0])
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
