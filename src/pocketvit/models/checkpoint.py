"""Reading weights from files without ever running code that is in them, and loading them into a network."""

from __future__ import annotations

import argparse
import logging
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor, nn

from ..errors import PocketError
from ..files import is_archive
from .inputs import config_of
from .rednet import checkpoint_filter_fn as rednet_names

log = logging.getLogger("pocketvit")

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".th", ".bin", ".tar", ".ckpt")
# What training scripts wrap weights in; averaged weights first, as timm chooses.
_WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.")
# Plain data that many training scripts save beside the weights: their arguments, and scores as NumPy numbers.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "bool")),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
# Architectures worth naming when a checkpoint does not fit what was asked.
_COMMON = (
    *(f"cifar_resnet{depth}" for depth in (20, 32, 44, 56, 110)),
    *(f"cifar_rednet{depth}" for depth in (11, 20, 29, 56)),
    *("rednet26", "rednet38", "rednet50", "rednet101"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "mobilenetv3_small_100", "mobilenetv3_large_100"),
    *("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224", "deit_tiny_distilled_patch16_224"),
    *("deit_small_distilled_patch16_224", "convnext_tiny", "convnext_small", "convnext_base", "regnety_040"),
    *("efficientnet_b0", "swin_tiny_patch4_window7_224", "densenet121", "vgg16_bn"),
)
# The same of torchvision, whose names of weights are not timm's.
_OF_TORCHVISION = (
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0", "efficientnet_b1"),
    *("efficientnet_v2_s", "convnext_tiny", "convnext_small", "vit_b_16", "vit_b_32", "swin_t", "swin_s"),
    *("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "squeezenet1_1", "alexnet", "vgg16", "vgg16_bn"),
)


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """Read a state dict from ``.safetensors``, or from a file of ``torch.save`` that holds nothing but data.

    Wrappers (``state_dict``, ``model``, ``ema`` ...) and key prefixes (``module.`` of DataParallel) are taken off; the
    names of RedNet's published checkpoints become ours.

    Raises:
        PocketError: no such file, a broken one, no weights in it, or one that would have to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise PocketError(f"there is no weights file {path}. Check the path.")
    if path.suffix == ".onnx":
        raise PocketError(
            f"{path} is an exported graph, and weights that a network can be made of are needed: give the run or "
            "student folder that it comes from, or a file of weights with --arch NAME."
        )
    if path.suffix == ".safetensors":
        try:
            return rednet_names(_without_prefixes(safetensors.torch.load_file(path)))
        except (safetensors.SafetensorError, OSError) as error:
            raise PocketError(
                f"{path} is not a whole safetensors file ({error}). Copy or download it again."
            ) from error
    if _is_script(path):
        raise PocketError(_conversion(path))
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler that is fed anything stumbles over anything
        if _runs_code(error):
            raise PocketError(_conversion(path)) from error
        raise PocketError(f"{path} is not a whole file of torch.save. Copy or download it again.") from error
    return rednet_names(_without_prefixes(_unwrap(saved, path)))


def _runs_code(error: Exception) -> bool:
    text = str(error)
    return "Unsupported global" in text or "Unsupported class" in text or "GLOBAL" in text


def _is_script(path: Path) -> bool:
    """Whether the file is a TorchScript archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("constants.pkl") or "/code/" in name for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False  # none, or a damaged one, as reading its weights will say


def _conversion(path: Path) -> str:
    """What to say, and to paste, when a file holds a whole module instead of its weights."""
    target = path.with_name(path.stem + "-weights.pth").as_posix()
    if _is_script(path):
        load, what = f"torch.jit.load({path.as_posix()!r}, map_location='cpu')", "is a TorchScript program"
        module = path.stem if path.stem.isidentifier() else "scripted"
        alone = (
            f" Or, where only this file is left, write these three lines into {module}_teacher.py and give --teacher "
            f"{module}_teacher:load:\n\nimport torch\ndef load():\n    return {load}"
        )
    else:
        key = _wrapper_key(path)
        part = f"[{key!r}]" if key else ""
        load = f"torch.load({path.as_posix()!r}, map_location='cpu', weights_only=False){part}"
        alone = ""
        what = "holds Python objects, not only weights (torch.save(model)?)"
    return (
        f"{path} {what}: reading it would run code from it, so it was not read. If you trust where it comes from, run "
        "these three lines in Python where the model's own code can be imported:\n\n"
        "import torch\n"
        f"model = {load}\n"
        f"torch.save(model.state_dict() if hasattr(model, 'state_dict') else model, {target!r})\n\n"
        f"and give {target} with its architecture: --arch NAME (of timm), or with the function that makes the network: "
        f"--teacher MODULE:FUNCTION --weights {target}.{alone}"
    )


def _wrapper_key(path: Path) -> str | None:
    """Under which key of a pickled dictionary the model lies, told from its opcodes; None if it is no dictionary."""
    strings: set[str] = set()
    first = None
    try:
        for opcode, argument, _ in pickletools.genops(_pickle_bytes(path)):
            if opcode.name in ("PROTO", "FRAME"):
                continue
            first = first or opcode.name
            if isinstance(argument, str):
                strings.add(argument)
    except Exception:  # a damaged one ends anywhere; the hint is then shorter
        pass
    if first != "EMPTY_DICT":
        return None
    return next((key for key in _WRAPPERS if key in strings), None)


def _pickle_bytes(path: Path) -> bytes:
    if is_archive(path):
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            return archive.read(name)
    data = path.read_bytes()
    # The old format opens with three small pickles: magic number, protocol, system.
    for _ in range(3):
        data = data[data.index(b".") + 1 :] if data.startswith(b"\x80") else data
    return data


def _unwrap(saved: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(3):
        if isinstance(saved, Mapping) and saved and all(isinstance(v, Tensor) for v in saved.values()):
            # The counter of torch.optim.swa_utils.AveragedModel stands beside the weights, not among them.
            return {str(key): value for key, value in saved.items() if key != "n_averaged"}
        keys = [key for key in _WRAPPERS if isinstance(saved, Mapping) and _holds_weights(saved.get(key))]
        if not keys:
            break
        saved = saved[keys[0]]
    if isinstance(saved, Mapping):
        tensors = {str(key): value for key, value in saved.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
    what = f"the keys {', '.join(map(str, list(saved)[:6]))}" if isinstance(saved, Mapping) else type(saved).__name__
    raise PocketError(f"{path} holds no weights that could be found: it has {what}. Save model.state_dict() in it.")


def _holds_weights(value: Any) -> bool:
    """Whether a wrapper is worth opening: some keep a decay, or nothing yet, where averaged weights would be."""
    if not isinstance(value, Mapping):
        return False
    return any(isinstance(part, Tensor) and part.ndim for part in value.values()) or any(
        _holds_weights(value.get(key)) for key in _WRAPPERS
    )


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    changed = True
    while changed:
        changed = False
        for prefix in _PREFIXES:
            if state and all(key.startswith(prefix) for key in state):
                state, changed = {key[len(prefix) :]: value for key, value in state.items()}, True
    return state


def outputs_in(state: Mapping[str, Tensor], model: nn.Module) -> int | None:
    """How many classes the head in ``state`` has, where ``model``'s config names its classifier."""
    names = config_of(model).get("classifier")
    name = names[0] if isinstance(names, (tuple, list)) else names
    weight = state.get(f"{name}.weight")
    return None if weight is None else int(weight.shape[0])


def load_weights(model: nn.Module, state: Mapping[str, Tensor], where: Path | str, name: str) -> None:
    """Load ``state`` into ``model``, all of it.

    Raises:
        PocketError: keys or shapes differ; names the first few, and an architecture that fits if a common one does.
            Or weights are sparse or without numbers.
    """
    unusable = next((key for key, value in state.items() if value.is_meta or value.layout != torch.strided), None)
    if unusable is not None:
        kind = "on the meta device, without its numbers" if state[unusable].is_meta else "sparse"
        raise PocketError(f"the weights in {where} cannot be used: {unusable} is {kind}. Save it dense, from the CPU.")
    own = model.state_dict()
    names = dict(zip(_without_prefixes(own), own, strict=True))  # prefixes taken off in reading, but the network's own
    state = weights_among(
        own, {key if key in own else names.get(key, key): value for key, value in state.items()}, where
    )
    whole = [key for key in own if own[key].is_floating_point() and key in state and not _is_real(state[key])]
    if whole:
        raise PocketError(
            f"the weights in {where} are integers ({whole[0]} is {str(state[whole[0]].dtype).removeprefix('torch.')}), "
            "and what they are multiplied with is not among them. Give the weights as they were before quantization."
        )
    differences = list(_differences(own, state))
    if differences:
        shown = "; ".join(differences[:4]) + (f"; and {len(differences) - 4} more" if len(differences) > 4 else "")
        fits = architecture_of(state)
        others = None if fits else torchvision_of(state)
        hint = (
            f"They fit --arch {fits}, which is found where --arch is left away."
            if fits
            else "Give the --arch (and --teacher-size) that they were trained as."
        )
        if others:
            hint = f"They are torchvision's: --teacher torchvision:{others} --weights {where}."
        raise PocketError(f"the weights in {where} are not those of {name}: {shown}. {hint}")
    model.load_state_dict({**own, **state})  # old files lack BatchNorm's counters


def _is_real(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_quantized


def weights_among(own: Mapping[str, Tensor], state: Mapping[str, Tensor], where: Path | str) -> dict[str, Tensor]:
    """Return a network's weights out of all that was trained beside it, as Lightning saves them."""
    for part in dict.fromkeys(key.split(".", 1)[0] + "." for key in state if key not in own):
        found = {key.removeprefix(part): value for key, value in state.items() if key.startswith(part)}
        if len(found) < len(state) and not set(own).symmetric_difference(found) - _counters(own):
            others = [key for key in state if not key.startswith(part)]
            log.warning("warning  of %s the part %s* is read, and not %s", where, part, ", ".join(others[:4]))
            return found
    return dict(state)


def _counters(own: Mapping[str, Tensor]) -> set[str]:
    """BatchNorm's, which old files lack."""
    return {key for key in own if key.endswith("num_batches_tracked")}


def _differences(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Iterator[str]:
    there = state.keys() | _counters(own)
    missing = [key for key in own if key not in there]
    unexpected = [key for key in state if key not in own]
    for key in own:
        if key in state and own[key].shape != state[key].shape:
            yield f"{key} is {_shape(state[key])} in the file and {_shape(own[key])} in the network"
    yield from (f"{key} is missing in the file" for key in missing)
    yield from (f"the network has no {key}" for key in unexpected)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"


def architecture_of(state: Mapping[str, Tensor]) -> str | None:
    """Return a common architecture whose layers weights have, name by name and shape by shape; None for none."""
    for name in _COMMON:
        with torch.device("meta"):
            model = timm.create_model(name)
        outputs = outputs_in(state, model)
        classifier = config_of(model)["classifier"]
        heads = classifier if isinstance(classifier, (tuple, list)) else (classifier,)
        own = {key: value for key, value in model.state_dict().items() if not key.startswith(tuple(heads))}
        body = {key: value for key, value in state.items() if not key.startswith(tuple(heads))}
        if outputs and not list(_differences(own, body)):
            return name
    return None


def torchvision_of(state: Mapping[str, Tensor]) -> str | None:
    """Return the classifier of torchvision's whose layers weights have, under a head of any width; None for none."""
    for name in _OF_TORCHVISION:
        with torch.device("meta"):
            own = torchvision.models.get_model(name, weights=None).state_dict()
        if set(own) != set(state) | _counters(own):
            continue
        head = list(own)[-1].rpartition(".")[0]
        if all(own[key].shape == value.shape for key, value in state.items() if not key.startswith(head)):
            return name
    return None
