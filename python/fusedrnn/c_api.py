"""The path of the header for C and Cython; docs/c-api.md describes its contents."""

from __future__ import annotations

from pathlib import Path


def get_include() -> str:
    """Return the folder of ``fusedrnn.h``, for the include path of a C or Cython extension.

    Returns
    -------
    str
        An absolute path inside the installed package. Cython finds ``fusedrnn/kernels.pxd`` by itself.

    Examples
    --------
    >>> import fusedrnn, os
    >>> os.listdir(fusedrnn.get_include())
    ['fusedrnn.h']
    """
    return str(Path(__file__).parent / "include")
