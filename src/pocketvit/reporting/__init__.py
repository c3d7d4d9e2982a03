"""Where the road ends: the honest table, plots, the HTML report, the model card and the README's chart."""

from __future__ import annotations

from .table import Table

__all__ = ["Table"]
