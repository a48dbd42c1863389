"""The number of threads that the kernels use."""

from __future__ import annotations

from types import TracebackType

from . import _core, _validate

#: More threads than any current machine has cores; a larger number is a mistake.
MOST_THREADS = 4096


def get_num_threads() -> int:
    """The maximum number of threads for a call of this Python thread; small problems use fewer.

    The initial value is the number of cores that this process may run on, or OMP_NUM_THREADS if that is less.
    """
    return _core.get_num_threads()


def set_num_threads(n: int) -> None:
    """Set the maximum number of threads of a call, for the whole process; `threads` overrides it.

    Results do not depend on the number of threads, bit for bit.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError
        `n` is not an integer.
    ValueError
        `n` is less than 1, or absurdly large.
    """
    _core.set_num_threads(_validate.size("set_num_threads", "n", n, MOST_THREADS))


class threads:  # noqa: N801  a context manager that reads as a function, like np.errstate
    """Use at most `n` threads within a ``with`` block, in calls of the Python thread that entered it.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        As for `set_num_threads`.

    Examples
    --------
    >>> import fusedrnn
    >>> with fusedrnn.threads(1):
    ...     fusedrnn.get_num_threads()
    1
    """

    def __init__(self, n: int) -> None:
        self._n = _validate.size("threads", "n", n, MOST_THREADS)
        self._previous: list[int] = []  # a stack, because the same object may be entered again

    def __enter__(self) -> int:
        self._previous.append(_core.get_local_num_threads())
        _core.set_local_num_threads(self._n)
        return self._n

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _core.set_local_num_threads(self._previous.pop())
