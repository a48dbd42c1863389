"""Linear recurrent unit: a complex diagonal recurrence. The twin of `csrc/cells/lru.h`.

    h' = lambda * h + gamma * a      lambda = exp(-exp(nu) + i exp(theta))     gamma = exp(g)       a = W_ih x + b_ih

h, a and lambda are complex. Units 2k and 2k + 1 are the real and the imaginary part of the complex unit k, both in h
and in the rows of W_ih; the unit parameters nu, theta and g have one element for each complex unit.

A. Orvieto et al., Resurrecting recurrent neural networks for long sequences, ICML 2023, arXiv:2303.06349, eq. 3-7.
Their output Re(C h) + D x is a linear layer over h and x.
"""

import numpy as np

from fusedrnn.reference.cells.cell import CELLS, Array, Arrays, OnePhaseCell

__all__ = ["LRU"]


class LRU(OnePhaseCell):
    """Unit parameters nu, theta, g."""

    name = "lru"
    gates, states, saved, unit_parameters = 1, 1, 1, 3
    recurrent = False
    sharing = 2

    def forward(self, a: Arrays, s: Arrays, p: Arrays) -> tuple[Arrays, Arrays]:
        """Save a."""
        decay, gamma = _factors(p)
        return (_real(decay * _complex(s[0]) + gamma * _complex(a[0])),), (a[0],)

    def backward(self, save: Arrays, s: Arrays, s_new: Arrays, p: Arrays, ds_new: Arrays) -> tuple[Arrays, Arrays]:
        """A gradient g of h' is a complex number whose parts are those of the real parts; conj(lambda) passes it on."""
        decay, gamma = _factors(p)
        dh = _complex(ds_new[0])
        return (_real(gamma * dh),), (_real(decay.conj() * dh),)

    def unit_gradients(self, save: Arrays, s: Arrays, s_new: Arrays, p: Arrays, ds_new: Arrays, da: Arrays) -> Arrays:
        """From the gradient of lambda: d lambda / d nu = -exp(nu) lambda, d lambda / d theta = i exp(theta) lambda."""
        decay, gamma = _factors(p)
        dh = _complex(ds_new[0])
        along = dh.conj() * decay * _complex(s[0])
        dnu = -np.exp(p[0]) * along.real
        dtheta = -np.exp(p[1]) * along.imag
        return dnu, dtheta, gamma * (dh.conj() * _complex(save[0])).real

    def gate_values(self, save: Arrays) -> dict[str, Array]:
        """The input of the recurrence, before it is multiplied by gamma."""
        return {"x": save[0]}


def _factors(p: Arrays) -> tuple[Array, Array]:
    """lambda, and gamma."""
    size, angle = np.exp(-np.exp(p[0])), np.exp(p[1])
    return size * np.cos(angle) + 1j * (size * np.sin(angle)), np.exp(p[2])


def _complex(pairs: Array) -> Array:
    """(B, H) pairs as (B, H/2) complex numbers."""
    return pairs[..., ::2] + 1j * pairs[..., 1::2]


def _real(numbers: Array) -> Array:
    """The inverse of `_complex`."""
    pairs = np.stack([numbers.real, numbers.imag], axis=-1)
    return pairs.reshape(*numbers.shape[:-1], 2 * numbers.shape[-1])


CELLS["lru"] = LRU()
