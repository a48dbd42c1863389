"""Fixtures of all tests. Only the fixtures that need fusedrnn import it: the reference's tests run without a build."""

from collections.abc import Iterator

import numpy as np
import pytest

from problems import SWEPT, VARIANTS


@pytest.fixture
def rng() -> np.random.Generator:
    """A random generator with the same seed in every test."""
    return np.random.default_rng(20140601)


@pytest.fixture
def cell(request: pytest.FixtureRequest) -> str:
    """Each cell by name: with every instruction set the swept ones, else every variant."""
    return str(request.param)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that uses `isa` once per instruction set that this CPU supports."""
    if "cell" in metafunc.fixturenames and not _parametrizes(metafunc, "cell"):
        swept = getattr(metafunc.module, "SWEEP", SWEPT)
        metafunc.parametrize("cell", swept if "isa" in metafunc.fixturenames else list(VARIANTS), indirect=True)
    if "isa" in metafunc.fixturenames:
        import fusedrnn

        metafunc.parametrize("isa", fusedrnn.available_isas(), indirect=True)


@pytest.fixture
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set, selected for the duration of the test."""
    import fusedrnn

    with fusedrnn.use_isa(request.param):
        yield request.param


def _parametrizes(metafunc: pytest.Metafunc, name: str) -> bool:
    """Whether a mark of the test gives an argument its values."""
    marks = metafunc.definition.iter_markers("parametrize")
    return any(
        name in ([n.strip() for n in m.args[0].split(",")] if isinstance(m.args[0], str) else m.args[0]) for m in marks
    )
