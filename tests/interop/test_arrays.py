"""Arrays of any library are accepted without a copy, and results are arrays of the caller's library."""

import numpy as np
import pytest

import fusedrnn
from fusedrnn import _validate
from fusedrnn.interop.arrays import as_kind_of


class OnlyDLPack:
    """An array of a library that supports only the protocol."""

    def __init__(self, array, device=(1, 0)):
        self.array = array
        self.device = device

    def __dlpack__(self, **options):
        if self.device[0] != 1:
            raise BufferError("not on the CPU")
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


class Namespace:
    """A minimal array API namespace."""

    from_dlpack = staticmethod(lambda array: OnlyDLPack(array))


class Standard(OnlyDLPack):
    def __array_namespace__(self):
        return Namespace


@pytest.fixture
def layer():
    return fusedrnn.LSTM(3, 5, rng=0)


@pytest.fixture
def x(rng):
    return rng.standard_normal((7, 2, 3)).astype("float32")


def test_dlpack_without_a_copy(layer, x):
    assert np.shares_memory(_validate.as_array("LSTM", "x", OnlyDLPack(x)), x)
    y, (h, c) = layer(x)
    again, state = layer(OnlyDLPack(x))
    np.testing.assert_array_equal(y, again)
    resumed, _ = layer(OnlyDLPack(x), (OnlyDLPack(h), OnlyDLPack(c)))
    np.testing.assert_array_equal(resumed, layer(x, (h, c))[0])
    _, _, tape = layer.forward(OnlyDLPack(x))
    np.testing.assert_array_equal(tape.backward(OnlyDLPack(y)).x, tape.backward(y).x)
    del state


def test_other_devices_are_refused(layer, x):
    with pytest.raises(TypeError, match="LSTM: x is an OnlyDLPack that cannot be read as an array"):
        layer(OnlyDLPack(x, device=(2, 0)))


def test_standard_namespaces(layer, x):
    y, (h, c) = expected = layer(x)
    got = as_kind_of(Standard(x), expected)
    assert isinstance(got[0], OnlyDLPack)
    assert isinstance(got[1], tuple)
    for mine, array in zip((got[0], *got[1]), (y, h, c), strict=True):
        assert mine.array is array
    assert as_kind_of(Standard(x), None) is None
    assert as_kind_of(Standard(x), [y, None])[1] is None


def test_numpys_own_kind(layer, x):
    results = layer(x)
    assert as_kind_of(x, results) is results
    assert as_kind_of(x.tolist(), results) is results


def test_torch(layer, x):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x_t = torch.from_numpy(x)
    assert np.shares_memory(_validate.as_array("LSTM", "x", x_t), x)
    y, _ = layer(x_t)
    got = as_kind_of(x_t, y)
    assert isinstance(got, torch.Tensor)
    assert got.data_ptr() == y.ctypes.data


def test_jax(layer, x):
    jnp = pytest.importorskip("jax.numpy", reason="jax is not installed")
    x_j = jnp.asarray(x)
    y, _ = layer(x_j)
    np.testing.assert_array_equal(y, layer(x)[0])
    got = as_kind_of(x_j, y)
    assert type(got) is type(x_j)
    np.testing.assert_array_equal(got, y)


def test_errors(layer, x):
    with pytest.raises(TypeError, match="as_kind_of: like is an OnlyDLPack, whose library has no from_dlpack"):
        as_kind_of(OnlyDLPack(x), x)
