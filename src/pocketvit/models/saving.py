"""Student folders: ``model.safetensors`` and ``config.json`` in timm's layout.

``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads such a folder without pocketvit, unless its
architecture is one that pocketvit registers (``needs_pocketvit`` in the config).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import timm
import torch
from timm.models import model_entrypoint
from torch import Tensor, nn

from .. import files
from ..errors import PocketError
from ..views.preprocessing import Preprocessing
from . import cifar_resnet, coadvise, rednet, vit  # noqa: F401  (register their networks in timm)
from .checkpoint import WEIGHT_SUFFIXES, load_weights, outputs_in, read_weights
from .inputs import config_of, input_stats
from .positions import fit_positions
from .registry import build, takes_image_size

if TYPE_CHECKING:
    from ..tasks import Task

log = logging.getLogger("pocketvit")

WEIGHTS, CONFIG = "model.safetensors", "config.json"
# Fields of timm's pretrained_cfg that describe an architecture and are true for any weights of it.
_KEPT = ("fixed_input_size", "first_conv", "classifier")


# What a foreign config.json may not ask of timm: to fetch or read other files, or to be no classifier.
_REFUSED = {
    *("cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict"),
    *("exportable", "features_only", "no_jit", "out_indices", "scriptable"),
}


@dataclass(frozen=True)
class LoadedModel:
    """A network read from a folder, in evaluation mode, with what it needs to be fed and understood."""

    module: nn.Module
    classes: tuple[str, ...]  # () where the folder names none
    preprocessing: Preprocessing
    task: str  # by name, for `task_named`
    config: dict[str, Any]  # the whole config.json


def recipe_of(model: nn.Module) -> dict[str, Any]:
    """Return ``{"architecture", "model_args"}`` with which timm makes this network again.

    Raises:
        PocketError: the network is not one of timm's, or was changed after it was made.
    """
    recipe = getattr(model, "pocket_recipe", None)
    if recipe is not None:
        args = dict(recipe["model_args"])
        if "num_classes" in args:  # reset_classifier() changes it
            args["num_classes"] = getattr(model, "num_classes", args["num_classes"])
        return {"architecture": recipe["architecture"], "model_args": args}
    architecture = config_of(model).get("architecture")
    if architecture is None or not timm.is_model(architecture):
        raise PocketError(
            f"{type(model).__name__} is not a timm model, so that it cannot be saved as one. Save its state_dict() "
            "and load it with --teacher MODULE:FUNCTION --weights FILE."
        )
    recorded = getattr(model, "_model_args", None) or {}  # newer versions of timm keep them
    args = {key: value for key, value in recorded.items() if "drop" not in key}
    args["num_classes"] = getattr(model, "num_classes", config_of(model).get("num_classes"))
    again = timm.create_model(architecture, **args).state_dict()
    if {key: value.shape for key, value in again.items()} != {k: v.shape for k, v in model.state_dict().items()}:
        raise PocketError(
            f"this {architecture} differs from the one that timm makes with {args}. Make it with "
            "pocketvit.models.create_model, which remembers its arguments."
        )
    return {"architecture": architecture, "model_args": args}


def activation_of(model: nn.Module) -> str:
    """Return what makes probabilities of a network's outputs: "sigmoid" where its folder says so, else "softmax"."""
    return str(getattr(model, "pocket_activation", "softmax"))


def needs_pocketvit(architecture: str) -> bool:
    """Whether timm knows ``architecture`` only because pocketvit registered it."""
    return model_entrypoint(architecture).__module__.split(".", 1)[0] == __name__.split(".", 1)[0]


def save_model(
    model: nn.Module,
    folder: Path | str,
    *,
    classes: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
    task: Task | None = None,
) -> Path:
    """Write a network as a folder that timm loads.

    Args:
        model: made by `create_model`, `create_student` or timm.
        folder: made if need be; files in it are replaced one by one, each whole.
        classes: names of the outputs, in order; () if unknown.
        preprocessing: how pictures become its input; None for what the model's own config says of its input.
        task: what its outputs answer; None for one class per image.

    Returns:
        The folder.

    Raises:
        PocketError: the network is not one that timm can make again, or the disk refuses.
    """
    folder = Path(folder)
    recipe = recipe_of(model)
    num_classes = int(getattr(model, "num_classes", len(classes)))
    if classes and len(classes) != num_classes:
        raise ValueError(f"{len(classes)} class names for a network of {num_classes} outputs")
    if preprocessing is None:
        mean, std, size = input_stats(model)
        preprocessing = Preprocessing.plain((size, mean, std))
    cfg = {key: value for key, value in config_of(model).items() if key in _KEPT}
    cfg |= {
        "num_classes": num_classes,
        "input_size": [3, preprocessing.input_size, preprocessing.input_size],
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "crop_pct": 1.0,  # our views are already cropped
        "interpolation": "lanczos",
    }
    # Drop-path and dropout belong to training, and change no weight.
    args = {key: value for key, value in recipe["model_args"].items() if "drop" not in key}
    config: dict[str, Any] = {
        "architecture": recipe["architecture"],
        "num_classes": num_classes,
        "num_features": int(getattr(model, "num_features", 0)),
        "model_args": {**args, "num_classes": num_classes},
    }
    if classes:
        config["label_names"] = list(classes)
    config["pretrained_cfg"] = cfg
    config["pocketvit"] = {
        "needs_pocketvit": needs_pocketvit(recipe["architecture"]),
        "task": task.name if task else "classification",
        "activation": task.kind if task else "softmax",
        "preprocessing": preprocessing.to_dict(),
    }
    state = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    files.require_space(folder, sum(value.nbytes for value in state.values()), f"saving {folder}")
    with files.atomic(folder / WEIGHTS) as temporary:
        safetensors.torch.save_file(state, temporary, metadata={"format": "pt"})
    files.write_json(folder / CONFIG, config)
    return folder


def find_model(path: Path | str) -> tuple[Path, Path]:
    """Return (config file, weights file) of a model folder, a run folder, or a weights file with its config beside it.

    Raises:
        PocketError: nothing there that can be loaded.
    """
    path = Path(path)
    if path.is_file() and path.suffix == ".safetensors" and (path.parent / CONFIG).is_file():
        return path.parent / CONFIG, path
    for folder in (path, path / "student"):
        weights = [
            folder / WEIGHTS,
            *(file for suffix in WEIGHT_SUFFIXES for file in sorted(folder.glob(f"*{suffix}"))),
        ]
        found = next((file for file in weights if file.is_file()), None)
        if (folder / CONFIG).is_file() and found is not None:
            return folder / CONFIG, found
    if not path.exists():
        raise PocketError(f"there is no model at {path}. Check the path.")
    if (path / "config.yaml").is_file() and not (path / "student").exists():
        raise PocketError(
            f"{path} is a run without a student: it is not finished. Give its command again with --resume, or name "
            "another."
        )
    raise PocketError(
        f"{path} is no model: a folder with {CONFIG} and {WEIGHTS}, as `pocketvit distill` writes in RUN/student, is "
        "needed. For other weights name their architecture too: --arch NAME."
    )


def load_model(path: Path | str, input_size: int | None = None) -> LoadedModel:
    """Load what `save_model` wrote, or any timm model folder. Runs no code from files.

    Args:
        path: a model folder, a run folder, or a ``.safetensors`` file with ``config.json`` beside it.
        input_size: side of the square input in pixels, if it is to be another than the one that was saved: position
            embeddings are then resampled (`positions.resample_positions`).

    Raises:
        PocketError: nothing there, a broken file, an unknown architecture, weights of another network.
    """
    config_file, weights_file = find_model(path)
    config = files.read_json(config_file)
    architecture = config.get("architecture") if isinstance(config, dict) else None
    made = config.get("architectures") if isinstance(config, dict) else None
    if architecture is None and isinstance(made, list) and made:
        raise PocketError(
            f"{config_file} is of a network of transformers ({made[0]}), not of timm. It serves as a teacher "
            "(`pocketvit distill IMAGES --teacher FOLDER`), and `pocketvit export FOLDER` exports an image classifier."
        )
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise PocketError(f"{config_file} names no architecture that timm knows ({architecture!r}). Update timm?")
    cfg = _named(config, "pretrained_cfg", config_file)
    cfg.setdefault("architecture", architecture)
    args = _named(config, "model_args", config_file)
    refused = sorted(_REFUSED & {name for one in _nested(args) for name in one})
    if refused:
        raise PocketError(
            f"{config_file} asks timm for {', '.join(refused)}, which no folder of weights needs and a stranger's may "
            'misuse. Take it out of "model_args" if you trust the folder.'
        )
    args.setdefault("num_classes", config.get("num_classes", cfg.get("num_classes", 1000)))
    state = read_weights(weights_file)
    size = cfg.get("input_size")
    old_size = tuple(size[-2:]) if isinstance(size, list | tuple) else ()
    if input_size is not None:
        cfg["input_size"] = [args.get("in_chans", 3), input_size, input_size]
        if takes_image_size(architecture):
            args["img_size"] = input_size
    _check_size(architecture, args, state, config_file)
    try:
        model = build(architecture, args)
    except Exception as error:  # a network that is given strange arguments fails in any way
        raise PocketError(f"{config_file} does not describe a {architecture} that can be made: {error}") from error
    if args["num_classes"] != outputs_in(state, model) is not None:
        raise PocketError(
            f"{config_file} says {args['num_classes']} classes, but {weights_file.name} beside it has "
            f"{outputs_in(state, model)}. Restore the pair of files that was saved together."
        )
    if input_size is not None:
        state = fit_positions(state, model, old_size if len(old_size) == 2 else None)
    load_weights(model, state, weights_file, architecture)
    vars(model)["pretrained_cfg"] = {**config_of(model), **cfg}
    own = _named(config, "pocketvit", config_file)
    if own.get("activation") == "sigmoid":
        vars(model)["pocket_activation"] = "sigmoid"
    names = config.get("label_names") or cfg.get("label_names") or ()
    if not isinstance(names, dict | list | tuple):
        raise PocketError(f"{config_file}: its label_names are no list. {_RESTORE}")
    classes = tuple(map(str, names.values() if isinstance(names, dict) else names))
    if classes and args["num_classes"] and len(classes) != args["num_classes"]:
        raise PocketError(f"{config_file} names {len(classes)} of {args['num_classes']} classes. {_RESTORE}")
    try:
        preprocessing = _preprocessing_of(own, model, config_file)
        if input_size is not None:
            preprocessing = dataclasses.replace(preprocessing, view_size=input_size, input_size=input_size)
    except PocketError as error:
        raise PocketError(f"{config_file}: {error}") from error
    except (TypeError, ValueError, LookupError) as error:
        raise PocketError(f"{config_file}: what pictures it is fed cannot be read ({error}). {_RESTORE}") from error
    return LoadedModel(model.eval(), classes, preprocessing, task_in(own), config)


_RESTORE = "Restore the file, or copy the folder again."
_LARGEST = 100_000  # of a number among a network's arguments
_SLACK = 100_000_000  # weights of a network that is made before it is told that it is another
_WHOLE = 400_000_000  # more, of a network that lends a stem its first layers


def _named(config: dict[str, Any], name: str, config_file: Path) -> dict[str, Any]:
    value = config.get(name) or {}
    if not isinstance(value, dict):
        raise PocketError(f"{config_file}: its {name} is no set of named values. {_RESTORE}")
    return dict(value)


def _check_size(architecture: str, args: dict[str, Any], state: Mapping[str, Tensor], config_file: Path) -> None:
    """Refuse a config whose network would take far more memory than the weights beside it, before it is made."""
    numbers = [item for one in _nested(args) for item in one.items() if isinstance(item[1], int | float)]
    large = [name for name, value in numbers if abs(value) > (len(state) if name == "depth" else _LARGEST)]
    elements, held = 0, sum(value.numel() for value in state.values())
    if not large:
        with contextlib.suppress(Exception), torch.device("meta"):  # what cannot be made so is told by `build`
            elements = sum(value.numel() for value in timm.create_model(architecture, **args).parameters())
            for whole in _nested(args):  # of which a stem keeps the first layers
                if "architecture" in whole:
                    made = timm.create_model(whole["architecture"], **whole["model_args"])
                    elements = max(elements, sum(value.numel() for value in made.parameters()) - _WHOLE)
    if large or elements > 2 * held + _SLACK:
        what = f"{', '.join(large)} of it" if large else f"{elements:,} numbers"
        raise PocketError(
            f"{config_file} describes a {architecture} that is too large for the weights beside it ({what}; they have "
            f"{held:,} numbers). {_RESTORE}"
        )


def _nested(args: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield arguments, and those in them: of the network that a stem is of."""
    yield args
    for value in args.values():
        if isinstance(value, dict):
            yield from _nested(value)


def task_in(own: Mapping[str, Any]) -> str:
    """Return the name of the task in what an artefact of ours says of itself; before 0.2 that was its activation."""
    return str(own.get("task") or {"sigmoid": "multilabel"}.get(str(own.get("activation")), "classification"))


def _preprocessing_of(own: Mapping[str, Any], model: nn.Module, config_file: Path) -> Preprocessing:
    if "preprocessing" in own:
        return Preprocessing.from_dict(own["preprocessing"])
    mean, std, size = input_stats(model)
    known = Preprocessing.plain((size, mean, std))
    if own:
        log.warning(
            "warning  %s is of an older pocketvit and does not say how pictures become square or 8-bit: assumed are "
            "the middle of the picture and 8 bits. Its run's model.onnx knows.",
            config_file,
        )
    return dataclasses.replace(known, tile=own.get("tile"))
