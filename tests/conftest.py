"""Fixtures of all tests. Only the fixtures that need fusedrnn import it: the reference's tests run without a build."""

from collections.abc import Iterator

import numpy as np
import pytest

from problems import VARIANTS


@pytest.fixture
def rng() -> np.random.Generator:
    """A random generator with the same seed in every test."""
    return np.random.default_rng(20140601)


@pytest.fixture(params=list(VARIANTS))
def cell(request: pytest.FixtureRequest) -> str:
    """Each cell by name."""
    return str(request.param)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that uses `isa` once per instruction set that this CPU supports."""
    if "isa" in metafunc.fixturenames:
        import fusedrnn

        metafunc.parametrize("isa", fusedrnn.available_isas(), indirect=True)


@pytest.fixture
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set, selected for the duration of the test."""
    import fusedrnn

    with fusedrnn.use_isa(request.param):
        yield request.param
