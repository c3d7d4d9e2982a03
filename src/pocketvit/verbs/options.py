"""Options that several verbs read the same way."""

from __future__ import annotations

import difflib
import math
import os
import re
from pathlib import Path

from ..config import TermConfig
from ..errors import PocketError

# Numbers that options take: at least, below. Of those in _POSITIVE the lower end itself is refused too.
_LIMITS = {
    "epochs": (1, math.inf),
    "views": (1, math.inf),
    "patch": (1, math.inf),
    "batch_size": (1, math.inf),
    "accumulate": (1, math.inf),
    "input": (1, math.inf),
    "seed": (0, math.inf),
    "seeds": (1, math.inf),
    "folds": (0, math.inf),
    "tile": (8, math.inf),
    "images_limit": (2, math.inf),
    "top": (1, math.inf),
    "lr": (0, math.inf),
    "temperature": (0, math.inf),
    "teacher_share": (0, math.nextafter(1, 2)),
    "label_smoothing": (0, 1),
    "ema": (0, 1),
    "drop_path": (0, 1),
}
_POSITIVE = ("lr", "temperature")


def check_numbers(**given: float | None) -> None:
    """Refuse numbers that an option cannot take, NaN among them, before any work is done; None is not given."""
    for name, value in given.items():
        low, below = _LIMITS[name]
        if value is None or (low <= value < below and not (name in _POSITIVE and value == low)):
            continue
        wanted = f"above {low}" if name in _POSITIVE else f"at least {low}"
        if isinstance(value, float):
            wanted += " and finite" if below == math.inf else f" and {'at most' if below > 1 else 'below'} 1"
        raise PocketError(f"--{name.replace('_', '-')} {value:g}: give a number that is {wanted}.")


_TERM = re.compile(r"([a-z_]+)(?::(\d+(?:\.\d*)?|\.\d+))?(?:@([^>]*)>(.*))?")


def parse_match(match: str | None, ema: float) -> tuple[TermConfig, ...]:
    """Read objectives on features between commas, each ``NAME[:WEIGHT][@STUDENT_LAYER>TEACHER_LAYER]``.

    Raises:
        PocketError: One is not understood or unknown, or needs an average of the student's weights that is not kept.
    """
    from ..objectives.terms import TERMS, check_term

    terms = []
    for part in filter(None, (piece.strip() for piece in (match or "").split(","))):
        found = _TERM.fullmatch(part)
        if found is None:
            raise PocketError(
                f"--match {part}: give an objective, if you like with its weight and layers, as in fitnets, rkd:0.5 or "
                "fitnets:1@blocks.3>layer3."
            )
        name, weight, mine, theirs = found.groups()
        check_term(name)
        if TERMS[name].family == "self-distillation" and not ema:
            raise PocketError(f"--match {name} learns from an average of the student's weights: give --ema 0.999, say.")
        terms.append(TermConfig(name, float(weight or 1.0), (mine or "").strip(), (theirs or "").strip()))
    return tuple(terms)


def check_device(device: str | None) -> None:
    """Refuse a device that torch does not know or this machine does not have."""
    if device is None:
        return
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise PocketError(
            f"--device {device} cannot be used here ({reason}). Give cpu or cuda, or leave it away."
        ) from error


def check_images(images: object) -> None:
    """Refuse a path that is not there before anything is loaded, with the one that may have been meant."""
    if not isinstance(images, str | Path) or str(images) == "digits":
        return
    path = Path(images).expanduser()
    if path.exists():
        return
    try:
        names = os.listdir(path.parent)
    except OSError:
        names = []
    near = difflib.get_close_matches(path.name, names, n=2)
    hint = f" Did you mean {' or '.join(str(path.parent / name) for name in near)}?" if near else ""
    raise PocketError(f"there is no {images}.{hint} Give a folder of images, a .npz or .csv file, or 'digits'.")


def check_student(name: str) -> None:
    """Refuse a student that nobody knows, rather than after the teachers' work."""
    import timm

    from ..models import LADDER
    from ..models.registry import suggest

    if name not in LADDER and not timm.is_model(name.split(".", 1)[0]):
        raise PocketError(f"--student: unknown model {name!r}.{suggest(name)} The sizes are {', '.join(LADDER)}.")


def check_tokens(tokens: int, teachers: int) -> None:
    """Refuse distillation tokens that no teacher would speak to."""
    if tokens not in (0, 1, teachers):
        raise PocketError(f"--tokens {tokens}: give 0, 1, or one a teacher, which is {teachers} here.")


def check_stem(stem: str, attention: str, tokens: int, student: str) -> None:
    """Refuse stems and attention that the student cannot have, rather than after the teachers' work."""
    from ..models import LADDER
    from ..models.variants import is_vision_transformer

    if (stem, attention) == ("patch", "plain"):
        return
    if stem != "coadvise":
        if student not in LADDER and not is_vision_transformer(student):
            raise PocketError(
                f"--stem {stem} --attention {attention}: {student} is no plain ViT, whose patches and attention could "
                f"be exchanged. Choose {', '.join(LADDER)}, or a vit_ or deit_ model of timm."
            )
        return
    if tokens != 2:
        raise PocketError(
            f"--stem {stem} starts the tokens of two teachers, a convolutional one and then one of involution: give "
            f"--tokens 2 with it, not {tokens}."
        )
    if student not in LADDER:
        raise PocketError(f"--stem {stem} needs a student of the ladder ({', '.join(LADDER)}), not {student}.")


def check_against(name: str | None) -> None:
    """Refuse a model that timm does not know, rather than after the student's training."""
    if name is None:
        return
    import timm

    from ..models.registry import suggest

    if not timm.is_model(name.split(".", 1)[0]):
        raise PocketError(
            f"--against {name}: there is no such model.{suggest(name)} timm.list_models() lists them all."
        )


def parse_window(text: str | tuple[float, float] | None) -> tuple[float, float] | None:
    """Read ``LOW,HIGH``, the intensities that become black and white."""
    if text is None or isinstance(text, tuple):
        return text
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise PocketError(f"--window {text}: give two numbers, LOW,HIGH, as in --window 0,4095.") from None
    if not -math.inf < low < high < math.inf:
        raise PocketError(f"--window {text}: the first number must be the smaller one, and both finite.")
    return low, high
