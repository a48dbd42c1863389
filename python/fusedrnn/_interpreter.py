"""Imported first: refuses sub-interpreters, in which the compiled module would wait for ever.

pybind11 requests the GIL by PyGILState_Ensure, which knows only the main interpreter: in other interpreters the thread
would wait for a lock that it holds itself. This file imports nothing else, so that the error comes before NumPy's.
"""

import _thread


def is_main() -> bool:
    """Whether this is the main interpreter; True if Python cannot tell."""
    known = getattr(_thread, "_is_main_interpreter", None)  # Python 3.13 and later
    if known is not None:
        return bool(known())
    try:
        import _xxsubinterpreters as interpreters  # type: ignore[import-not-found]  # 3.11, 3.12; may be missing
    except ImportError:
        return True
    return bool(interpreters.get_current() == interpreters.get_main())


if not is_main():
    raise ImportError(
        "fusedrnn: imported in a sub-interpreter; expected the main interpreter of the process (mod_wsgi: set "
        "WSGIApplicationGroup %{GLOBAL}), or a process of its own"
    )
