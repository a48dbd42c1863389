"""Old pickles of `Bidirectional` refer to this module, where the class used to be."""

from .bidirectional import Bidirectional

__all__ = ["Bidirectional"]
