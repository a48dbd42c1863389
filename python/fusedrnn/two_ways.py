"""Pickles of `Bidirectional` from before it had a file of its name look for it here."""

from .bidirectional import Bidirectional

__all__ = ["Bidirectional"]
