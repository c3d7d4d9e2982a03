"""Reaching the Hugging Face hub, or finding out at once that it cannot be reached."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from huggingface_hub import constants
from huggingface_hub.utils import get_session

_PATIENCE = 5.0  # seconds for an answer; the hub's own client retries for about a minute


@contextlib.contextmanager
def hub() -> Iterator[bool]:
    """Yield whether the hub answers; where it does not, its client looks only into its cache meanwhile."""
    before = constants.HF_HUB_OFFLINE
    reachable = not before and _answers()
    constants.HF_HUB_OFFLINE = not reachable
    try:
        yield reachable
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers() -> bool:
    try:
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
    except Exception:  # each version of the client has other transport errors, and all of them mean no
        return False
    return True


def explain(name: str, reachable: bool, error: Exception) -> str:
    """Say why weights from the hub could not be loaded, and what to do."""
    remedy = (
        "give a local folder (local-dir:FOLDER, with model.safetensors and config.json) or a weights file with --arch"
    )
    if not reachable and isinstance(error, (OSError, RuntimeError)):
        return (
            f"{name} is not in this machine's cache of the hub, and {constants.ENDPOINT} cannot be reached. Connect to "
            f"the network, or {remedy}."
        )
    first = next(iter(str(error).strip().splitlines()), "")
    return (
        f"{name} could not be loaded ({type(error).__name__}: {first[:200]}). Check its name and access, or {remedy}."
    )
