"""Fixtures of all tests. fusedrnn is imported by those that need it alone: the reference's tests do without a build."""

from collections.abc import Iterator

import numpy as np
import pytest

from problems import VARIANTS


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that starts the same in every test."""
    return np.random.default_rng(20140601)


@pytest.fixture(params=list(VARIANTS))
def cell(request: pytest.FixtureRequest) -> str:
    """Each cell by name."""
    return str(request.param)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `isa` once for each level this CPU can run."""
    if "isa" in metafunc.fixturenames:
        import fusedrnn

        metafunc.parametrize("isa", fusedrnn.available_isas(), indirect=True)


@pytest.fixture
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each level of instructions, in force during the test."""
    import fusedrnn

    with fusedrnn.use_isa(request.param):
        yield request.param
