"""Bridges to other libraries; each is optional, and this package alone imports none of them.

Gradients: ``fusedrnn.interop.autograd``.
"""

from __future__ import annotations
