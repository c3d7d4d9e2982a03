"""Where the road ends: the honest table, its verdict, plots, the HTML report and the model card."""

from __future__ import annotations

from .table import Table

__all__ = ["Table"]
