"""What the name of a network says about its weights."""

from __future__ import annotations

from pathlib import Path


def is_pretrained(name: str) -> bool:
    """Whether a name stands for a network with weights of its own, as timm's names do.

    That is ``hf-hub:USER/MODEL``, ``local-dir:FOLDER``, a folder or a file that is there, and ``NAME.TAG``; a bare
    ``NAME`` is trained from scratch.
    """
    if name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        return True
    return "." in Path(name).name or Path(name).expanduser().exists()
