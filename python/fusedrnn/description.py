"""What layers, cells, groups and frozen ones say about their parameters: how many, as a table, and as HTML."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import _hints


class Summary(str):
    """A text that an interactive session shows as it is, line by line."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Described:
    """Base of all objects that have parameters by name."""

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def params(self) -> Mapping[str, Any]:
            """The parameters by name."""

    @property
    def num_parameters(self) -> int:
        """Number of elements of all parameters."""
        return sum(int(array.size) for array in self.params.values())

    def summary(self) -> Summary:
        """A table of the parameters: names, shapes, numbers of elements.

        Returns
        -------
        Summary
            A str, which an interactive session shows as a table.

        Examples
        --------
        >>> import fusedrnn
        >>> fusedrnn.GRU(3, 5).summary()
        GRU(3, 5)
        parameter     shape    elements
        weight_ih_l0  (15, 3)        45
        weight_hh_l0  (15, 5)        75
        bias_ih_l0    (15,)          15
        bias_hh_l0    (15,)          15
        total         float32       150
        """
        rows = self._rows()
        names, shapes, counts = ([row[i] for row in rows] for i in range(3))
        wide = [max(map(len, column)) for column in (names, shapes, counts)]
        lines = [f"{a:<{wide[0]}}  {b:<{wide[1]}}  {c:>{wide[2]}}" for a, b, c in rows]
        return Summary("\n".join([repr(self), *lines]))

    def _rows(self) -> list[tuple[str, str, str]]:
        """Header, one row for each parameter, and the total."""
        arrays = dict(self.params)
        own = [(name, str(tuple(array.shape)), f"{array.size:,}") for name, array in arrays.items()]
        dtypes = ", ".join(sorted({str(array.dtype) for array in arrays.values()}))
        total = sum(int(array.size) for array in arrays.values())
        return [("parameter", "shape", "elements"), *own, ("total", dtypes, f"{total:,}")]

    def _repr_html_(self) -> str:
        """The summary as a table, which notebooks show."""
        head, *rows = self._rows()
        cells = "".join(f"<th>{html.escape(text)}</th>" for text in head)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>" for row in rows)
        caption = f"<caption><code>{html.escape(repr(self))}</code></caption>"
        return f"<table>{caption}<thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"

    if not TYPE_CHECKING:  # so that type checkers still report misspelt names

        def __getattr__(self, name: str) -> Any:
            # Only called for names that are not ordinary attributes.
            raise _hints.no_attribute(self, name)
