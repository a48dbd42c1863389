"""The first thing that is imported: refuses sub-interpreters, in which the compiled module would wait for ever.

pybind11 asks for the GIL by PyGILState_Ensure, which knows the main interpreter alone: elsewhere the thread waits for
what it holds itself. Nothing else is imported here, so that the refusal comes before NumPy, too.
"""

import _thread


def is_main() -> bool:
    """Whether the main interpreter runs this; True where Python cannot tell."""
    known = getattr(_thread, "_is_main_interpreter", None)  # Python 3.13 and later
    if known is not None:
        return bool(known())
    try:
        import _xxsubinterpreters as interpreters  # type: ignore[import-not-found]  # 3.11, 3.12; may be left out
    except ImportError:
        return True
    return bool(interpreters.get_current() == interpreters.get_main())


if not is_main():
    raise ImportError(
        "fusedrnn: imported in a sub-interpreter; expected the main interpreter of the process (mod_wsgi: set "
        "WSGIApplicationGroup %{GLOBAL}), or a process of its own"
    )
