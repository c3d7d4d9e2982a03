"""What the name of a network says about its weights."""

from __future__ import annotations

from pathlib import Path

import timm


def is_pretrained(name: str) -> bool:
    """Whether a name stands for a network with weights of its own, as timm's names do.

    That is ``hf-hub:USER/MODEL``, ``local-dir:FOLDER``, a folder or a file that is there, and ``NAME.TAG``; a bare
    ``NAME`` is trained from scratch.
    """
    if name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        return True
    return "." in Path(name).name or Path(name).expanduser().exists()


def published_tags(base: str) -> list[str]:
    """Return the tags of the weights that timm has of a model, as ``a1_in1k``."""
    return [name.split(".", 1)[1] for name in timm.list_pretrained(f"{base}.*") if "." in name]
