"""One file for each family of cells: options, layer, cell, and the functions on plain arrays.

The gate maths is elsewhere: in `reference/cells/` to be read, in `csrc/cells/` to be run. docs/add-a-cell.md adds a
family.
"""
