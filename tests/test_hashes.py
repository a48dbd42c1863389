"""The kernels compute the bits that tests/hashes.txt records."""

import numpy as np
import pytest

import hashes


def test_kernels_compute_the_recorded_bits(isa):
    compiler, recorded = hashes.read(hashes.RECORDED)
    if hashes.compilers() != compiler:
        pytest.skip(f"recorded with {compiler}; {hashes.compilers()} may fuse other products with additions")
    expected = {name: value for name, value in recorded.items() if name.startswith(f"{isa}:")}
    if not expected:
        pytest.skip(f"no hashes are recorded of {isa}")
    computed = dict(hashes.compute(isa))
    different = [name for name in computed.keys() | expected.keys() if computed.get(name) != expected.get(name)]
    assert not different, f"{len(different)} of {len(computed)} cases, {sorted(different)[:5]} among them"


def test_one_bit_changes_a_hash():
    array = np.ones((3, 5), np.float32)
    before = hashes.hash_of([None, array])
    array.view(np.uint32)[2, 3] ^= 1
    assert hashes.hash_of([None, array]) != before
