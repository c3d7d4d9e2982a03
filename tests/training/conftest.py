"""Processes that tests start import torch once for all of them."""

from __future__ import annotations

import multiprocessing
import os

if os.name == "posix":
    multiprocessing.set_forkserver_preload(["timm", "pocketvit.training"])
