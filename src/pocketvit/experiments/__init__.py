"""Variants of one training over paired seeds: what `compare` and the recipes are made of."""

from .arms import Arm, run_arms
from .tables import report_arms

__all__ = ["Arm", "report_arms", "run_arms"]
