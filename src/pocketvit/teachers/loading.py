"""Getting a teacher from whatever the user has: a timm or hub name, a folder, a weights file, a function, a module."""

from __future__ import annotations

import copy
import difflib
import importlib
import io
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from ..errors import PocketError
from ..models.checkpoint import (
    WEIGHT_SUFFIXES,
    architecture_of,
    load_weights,
    outputs_in,
    read_weights,
    torchvision_of,
    weights_among,
)
from ..models.grey import in_colour, is_grey, of_brightness
from ..models.hub import explain, hub
from ..models.inputs import config_of, input_stats, parse_norm
from ..models.names import published_tags
from ..models.registry import create_model, suggest
from ..models.saving import activation_of, load_model
from ..models.vit import LADDER
from .detector_forms import is_detector
from .detectors import TORCHVISION, detector_teacher, load_detector
from .hugging_face import kind_saved, open_classifier
from .teacher import Teacher, first_logits, has_classes

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*|.+\.py:[A-Za-z_]\w*")
_HUB = re.compile(r"(hf-hub|hf_hub|local-dir):.+", re.DOTALL)
# What leaves numbers as they are, as autograd calls it.
_FORMS = ("View", "Squeeze", "Unsqueeze", "Reshape", "Clone", "ToCopy", "UnsafeView", "Permute", "Transpose", "T")
Norm = str | tuple[Sequence[float], Sequence[float]] | None


def load_teacher(
    spec: str | Path | nn.Module | Teacher,
    *,
    arch: str | None = None,
    weights: str | Path | None = None,
    input_size: int | None = None,
    norm: Norm = None,
    classes: Sequence[str] | None = None,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
) -> Teacher:
    """Load a teacher, frozen and in evaluation mode.

    Args:
        spec: one of
            - a timm name (``resnet50.a1_in1k``), ``hf-hub:USER/MODEL``, ``local-dir:FOLDER``;
            - a model folder or a run folder of pocketvit; a folder of transformers' (an image classifier,
              or a detector: see `detectors`);
            - a weights file (.safetensors, or .pth .pt .th holding a state dict) with ``arch``;
            - ``MODULE:FUNCTION`` (or ``FILE.py:FUNCTION``) that makes the network, with ``weights`` or its own;
            - ``torchvision:NAME`` with ``weights``: one of its classifiers or detectors;
            - an ``nn.Module``, which is copied and left as it is; a `Teacher`, which is returned.
        arch: timm (or our) name of the network whose weights ``spec`` holds.
        weights: a weights file for ``MODULE:FUNCTION``, for a timm name (instead of its own), or for a module.
        input_size: side of the square that the network sees; None for what its config says.
        norm: "imagenet", "half", "none" or (mean, std); None for what its config says.
        classes: names of its outputs, in order; None for what comes with it.
        precision: "fp32", or "bf16" / "fp16" autocast.
        device: where it runs.

    Raises:
        PocketError: says what is missing or wrong, and what to do.
    """
    if isinstance(spec, Teacher):
        return spec
    if precision not in ("fp32", "bf16", "fp16"):
        raise PocketError(f"unknown precision {precision!r} for a teacher: choose fp32, bf16 or fp16.")
    notes: list[str] = []
    known_classes: Sequence[str] | None = None
    about: dict[str, Any] = {"input_size": input_size, "precision": precision, "device": device}
    about["norm"] = None if norm is None else parse_norm(norm)
    text = "" if isinstance(spec, nn.Module) else str(spec)
    saved = kind_saved(text) if text else None
    if saved == "ObjectDetection" or (text.startswith(TORCHVISION) and not _is_torchvision(text)):
        return load_detector(text, weights=weights, classes=classes, **about)
    if isinstance(spec, nn.Module):
        name, module = type(spec).__name__, _copy(spec)
        if weights is not None:
            load_weights(module, read_weights(weights), weights, name)
    elif saved == "ImageClassification":
        name, module = open_classifier(text)
    else:
        name, found, known_classes = _by_text(text, arch, weights, input_size, norm, notes)
        if isinstance(found, Teacher):  # of a function of the user's
            said = {"--weights": weights, "--teacher-size": input_size, "--teacher-norm": norm}
            unused = ", ".join(option for option, value in said.items() if value is not None)
            note = f"{found.name}: {text} gives a whole teacher, so that {unused} is not used for it."
            return found.with_columns(found.columns, note) if unused else found
        module = found
    if is_detector(module):
        return detector_teacher(module, name=name, classes=classes or known_classes, **about)
    if classes is None:
        classes = known_classes or _config_classes(module)
    stats = input_stats(module)
    size = input_size or stats.input_size
    mean, std = (stats.mean, stats.std) if norm is None else parse_norm(norm)
    cfg = config_of(module)
    if "input_size" not in cfg and input_size is None:
        notes.append(f"{name}: input size not known; assumed {size} px (set it with --teacher-size).")
    if "mean" not in cfg and norm is None:
        notes.append(f"{name}: normalization not known; assumed ImageNet's mean and std (set it with --teacher-norm).")
    if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        raise PocketError(f"the teacher {name} is on the meta device, without its numbers. Load its weights first.")
    if in_colour(module):
        notes.append(f"{name} takes grey pictures: of colour ones it sees the brightness (ITU-R BT.601).")
        mean, std = of_brightness(mean), of_brightness(std)
    module.to(device).eval()
    outputs = _probe(module, name, size, notes)
    if classes is not None and outputs and len(classes) != outputs:
        raise PocketError(f"the teacher {name} has {outputs} outputs, but {len(classes)} class names were given.")
    return Teacher(
        module,
        name=name,
        input_size=size,
        mean=mean,
        std=std,
        raw_outputs=outputs,
        classes=classes if outputs else None,
        precision=precision,
        notes=notes,
        kind=activation_of(module),
    )


def _by_text(
    text: str, arch: str | None, weights: str | Path | None, input_size: int | None, norm: Norm, notes: list[str]
) -> tuple[str, nn.Module | Teacher, Sequence[str] | None]:
    """Return (name, network, class names if the source has them) for a spec in words."""
    path = Path(text).expanduser()
    if _is_torchvision(text):
        return text.removeprefix(TORCHVISION), _from_torchvision(text, weights, input_size), None
    if _HUB.fullmatch(text):
        source, place = text.split(":", 1)
        if source == "local-dir":
            return _folder(Path(place).expanduser(), input_size)
        return place.rsplit("/", 1)[-1], _from_hub(text, input_size), None
    if path.is_dir():
        return _folder(path, input_size)
    if path.is_file():
        if path.suffix == ".py":
            raise PocketError(
                f"{path} holds code: name the function or class in it that makes the network, {path}:NAME."
            )
        if arch is None and path.suffix == ".safetensors" and (path.parent / "config.json").is_file():
            return _folder(path, input_size)
        return _from_file(path, arch, input_size, norm, notes)
    if _FUNCTION.fullmatch(text):
        module = _call(text)
        if weights is not None and isinstance(module, nn.Module):
            load_weights(module, read_weights(weights), weights, text)
        return text.rsplit(":", 1)[1], module, None
    if path.suffix in WEIGHT_SUFFIXES or "/" in text or "\\" in text:
        named = "" if path.suffix in WEIGHT_SUFFIXES else f" A model of the hub is written hf-hub:{text}."
        raise PocketError(f"there is no model at {text}.{_near_files(path)} Check the path.{named}")
    if text in LADDER:
        raise PocketError(
            f"{text} has no published weights. Name a run that trained it (runs/NAME-1), or train one: `pocketvit "
            f"train IMAGES --model {text}`."
        )
    if not timm.is_model(text.split(".", 1)[0]):
        raise PocketError(
            f"unknown model {text!r}.{suggest(text)} It may be a timm name, hf-hub:USER/MODEL, a folder, a weights "
            "file with --arch, or MODULE:FUNCTION."
        )
    if weights is not None:
        module = _from_file(Path(weights).expanduser(), text, input_size, norm, notes)[1]
        return text, module, None
    return text, _from_timm(text, input_size), None


def _copy(module: nn.Module) -> nn.Module:
    try:
        if isinstance(module, torch.jit.ScriptModule):  # whose copies keep a graph to the first one's weights
            stored = io.BytesIO()
            torch.jit.save(module, stored)
            stored.seek(0)
            return torch.jit.load(stored)
        return copy.deepcopy(module)
    except Exception as error:  # whatever the user's __deepcopy__ or a hook raises
        raise PocketError(
            f"{type(module).__name__} could not be copied ({error}), and a teacher never works on the user's own "
            "module. Give a function that makes it instead: --teacher MODULE:FUNCTION, or detach what holds a graph."
        ) from error


def _folder(path: Path, input_size: int | None) -> tuple[str, nn.Module, Sequence[str] | None]:
    loaded = load_model(path, input_size)
    name = path.resolve().parent.name if path.name == "student" or path.is_file() else path.resolve().name
    return name, loaded.module, loaded.classes or None


def _from_file(
    path: Path, arch: str | None, input_size: int | None, norm: Norm, notes: list[str]
) -> tuple[str, nn.Module, Sequence[str] | None]:
    state, guessed = read_weights(path), arch is None
    if arch is None:
        arch = architecture_of(state)
        theirs = torchvision_of(state) if arch is None else None
        if theirs is not None:
            notes.append(f"{path.name}: its layers are those of torchvision's {theirs}, which it is taken for.")
            return path.stem, _from_torchvision(TORCHVISION + theirs, path, input_size), None
        if arch is None:
            raise PocketError(
                f"{path} holds weights only, and not those of a common network as it is usually made: say of which one "
                "with --arch NAME (of timm, or cifar_resnet56)."
            )
        notes.append(f"{path.name}: its layers are those of {arch}, which it is taken for (--arch).")
    cfg = timm.get_pretrained_cfg(arch.split(".", 1)[0]) if timm.is_model(arch.split(".", 1)[0]) else None
    sample = create_model(arch, num_classes=cfg.num_classes if cfg else 10, image_size=input_size)
    state = weights_among(sample.state_dict(), state, path)
    outputs = outputs_in(state, sample)
    own = outputs_in(sample.state_dict(), sample)
    module = sample
    more: dict[str, Any] = {}
    if is_grey(state, sample):
        more["in_chans"] = 1
    if outputs != own or more:
        module = create_model(arch, num_classes=outputs or 0, image_size=input_size, **more)
    load_weights(module, state, path, arch)
    if input_size is None:
        notes.append(f"{path.name}: input size assumed {input_stats(module).input_size} px, {arch}'s (--teacher-size).")
    if (outputs != own or guessed) and norm is None:  # of other images: the architecture's own statistics are a guess
        notes.append(f"{path.name}: normalization assumed mean {input_stats(module).mean}, {arch}'s (--teacher-norm).")
    return path.stem, module, None


def _is_torchvision(text: str) -> bool:
    """Whether a classifier of torchvision's is named."""
    named = text.removeprefix(TORCHVISION)
    return named != text and named in torchvision.models.list_models(module=torchvision.models)


def _from_torchvision(text: str, weights: str | Path | None, input_size: int | None) -> nn.Module:
    if weights is None:
        raise PocketError(f"{text} needs weights: give its file as --weights FILE. (Nothing is fetched.)")
    state = read_weights(weights)
    name = text.removeprefix(TORCHVISION)
    more = {"image_size": input_size} if name.startswith("vit_") and input_size else {}
    head = list(torchvision.models.get_model(name, weights=None, **more).state_dict())[-1]  # the last one's bias
    if head not in state:
        raise PocketError(f"the weights in {weights} are not those of {text}: {head} is missing in the file.")
    module = torchvision.models.get_model(name, weights=None, num_classes=len(state[head]), **more)
    load_weights(module, state, weights, text)
    return module


def _from_timm(name: str, input_size: int | None) -> nn.Module:
    base, _, tag = name.partition(".")
    cfg = timm.get_pretrained_cfg(base)
    tags = published_tags(base)
    if tag and tag not in tags:
        near = difflib.get_close_matches(tag, tags, n=3, cutoff=0.4) or tags[:3]
        hint = f" Did you mean {' or '.join(f'{base}.{one}' for one in near)}?" if near else ""
        raise PocketError(f"timm has no weights {name!r}.{hint}")
    if cfg is None or not (tags or cfg.has_weights):
        raise PocketError(
            f"{name} has no published weights. Give a file of yours: --weights FILE, or FILE with --arch."
        )
    classes = (timm.get_pretrained_cfg(name) or cfg).num_classes
    return create_model(name, num_classes=classes, image_size=input_size, pretrained=True)


def _from_hub(text: str, input_size: int | None) -> nn.Module:
    with hub() as reachable:
        try:
            module = timm.create_model(text, pretrained=True)
            if input_size is not None and config_of(module).get("fixed_input_size"):  # positions are resampled
                module = timm.create_model(text, pretrained=True, img_size=input_size)
            return module
        except Exception as error:  # the hub's client, its transport and timm each raise their own
            raise PocketError(explain(text, reachable, error)) from error


def _call(text: str) -> nn.Module | Teacher:
    """Import MODULE and call FUNCTION without arguments."""
    module_name, function_name = text.rsplit(":", 1)
    file = Path(module_name).expanduser()
    if file.suffix == ".py" and file.is_file():  # a file is named, as other tools have it
        sys.path.insert(0, str(file.resolve().parent))
        module_name = file.stem
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does; the command line's own entry point does not
    try:
        function: Callable[[], Any] | None = getattr(importlib.import_module(module_name), function_name, None)
    except Exception as error:  # the user's own code
        raise PocketError(
            f"the teacher {text}: could not import {module_name} ({type(error).__name__}: {error})."
        ) from error
    if not callable(function):
        raise PocketError(f"the teacher {text}: {module_name} has no function {function_name}.")
    try:
        module = function()
    except Exception as error:  # the user's own code
        raise PocketError(f"the teacher {text}: {function_name}() failed ({type(error).__name__}: {error}).") from error
    if not isinstance(module, nn.Module | Teacher):
        raise PocketError(f"the teacher {text}: {function_name}() returned {type(module).__name__}, not an nn.Module.")
    return module


def _near_files(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=2)
    return f" Did you mean {' or '.join(str(path.parent / name) for name in near)}?" if near else ""


def _config_classes(module: nn.Module) -> Sequence[str] | None:
    """Class names from a timm config; ImageNet's for a network that timm trained on it."""
    cfg = config_of(module)
    about: Any = getattr(module, "config", None)  # of transformers
    named: Any = getattr(about, "id2label", None)
    complete = isinstance(named, dict) and len(named) == getattr(about, "num_labels", 0) > 0
    if complete and not all(str(name) == f"LABEL_{key}" for key, name in named.items()):
        return tuple(str(named[key]) for key in sorted(named, key=int))
    names = cfg.get("label_names")
    if names:
        described = cfg.get("label_descriptions") or {}  # names may be WordNet ids
        return tuple(described.get(name, str(name)) for name in (names.values() if isinstance(names, dict) else names))
    if cfg.get("num_classes") == getattr(module, "num_classes", None):
        from timm.data import ImageNetInfo, infer_imagenet_subset

        subset = infer_imagenet_subset(cfg)
        if subset:
            info = ImageNetInfo(subset)
            return tuple(info.index_to_description(index) for index in range(info.num_classes()))
    return None


def _probe(module: nn.Module, name: str, size: int, notes: list[str]) -> int:
    """Run two pictures through; return the number of classes, 0 for a network without, and note what is odd."""
    device = next((t.device for t in (*module.parameters(), *module.buffers())), torch.device("cpu"))
    try:
        with torch.no_grad():
            # Black, and a slope: that both answers are shares of one would be no chance.
            slope = torch.linspace(-2, 2, size, device=device).expand(1, 3, size, size)
            out = module(torch.cat([torch.zeros_like(slope), slope]))
    except Exception as error:  # any shape or type that the network cannot take
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        kinds = {tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()}
        remedy = "Set its size with --teacher-size." if kinds <= {torch.float32} else "Call .float() on it."
        raise PocketError(
            f"the teacher {name} cannot take a picture of 3 x {size} x {size} ({first[:200]}). {remedy}"
        ) from error
    if not has_classes(module):
        return 0
    try:
        logits = first_logits(out)
    except PocketError as error:
        raise PocketError(f"{name}: {error}") from error
    in_shares = bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-3).all())
    between = bool(((logits >= 0) & (logits <= 1)).all())
    if (in_shares and logits.shape[1] > 1) or (between and _ends_in_shares(module, slope)):
        raise PocketError(only_logits(name))
    if torch.equal(logits[0], logits[1]):
        notes.append(
            f"{name}: it gives two pictures that have nothing in common the same answer. Are its weights loaded?"
        )
    return logits.shape[1]


def _ends_in_shares(module: nn.Module, picture: torch.Tensor) -> bool:
    """Whether the last thing that a network does is a sigmoid or softmax, but for changes of form."""
    try:
        with torch.enable_grad():
            node = first_logits(module(picture.clone().requires_grad_())).grad_fn
    except Exception:  # whatever a network says of gradients: then nothing is known
        return False
    while node is not None and node.name().startswith(_FORMS):
        node = node.next_functions[0][0]
    return node is not None and node.name().startswith(("Sigmoid", "Softmax"))


def only_logits(name: str) -> str:
    """Say that a teacher gives probabilities, and what to do."""
    return (
        f"{name} gives probabilities (all between 0 and 1), and logits are needed: probabilities have lost what it "
        "thinks of unlikely classes. Remove the softmax or sigmoid at its end, or return its logarithm."
    )
