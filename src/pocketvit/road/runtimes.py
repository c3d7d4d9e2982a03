"""Any model as the files of a runtime other than ONNX Runtime, checked there on the run's own images."""

from __future__ import annotations

import copy
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import nn

from ..compression.fold import fold_norms
from ..compression.quantize import points_lost
from ..deployment.example import write_example
from ..deployment.export import export_onnx
from ..deployment.files import opened
from ..deployment.int8 import open_graph
from ..deployment.model import Network
from ..deployment.package import draw_golden
from ..deployment.parity import Parity, check_parity
from ..deployment.runtimes import RUNTIMES, Exported, Runtime
from ..errors import NotSmaller, PocketError
from ..files import whole_folder
from ..rundir import Run
from ..settings import Export
from ..views import Views
from .images import Road
from .reopen import Reopened, reopen
from .rounding import Rounding, score_of_files, write_int8

_CHECKED = 64  # images of parity
_WRONG = 0.9  # cosine to the network's answers that no rounding explains: broken kernels gave 0.6 to 0.9


@dataclass(frozen=True)
class Ported:
    """What `export_runtime` wrote.

    Attributes:
        folder: Where it is.
        checks: How each file agrees with the network under the runtime; None where that does not run here.
        int8: What the int8 file costs, or why there is none, in words.
        example: How the example was checked, in words.
        images: What was compared, in words.
    """

    folder: Path
    checks: dict[str, Parity | None]
    int8: str
    example: str
    images: str


def export_runtime(settings: Export, folder: Path | None, **given: Any) -> Ported:
    """Write ``model`` and ``model-int8`` in the form of a runtime, for one picture at a time, and an example beside.

    A run is checked on its own images; anything else, and a run with another input or other class names, on drawn ones.

    Args:
        settings: Of `export`.
        folder: To write into; by default exported/NAME-TARGET.
        given: As for `export_files`.

    Raises:
        PocketError: The runtime is not installed, or cannot take the network; its fp32 file computes something else.
    """
    runtime = RUNTIMES[settings.target]
    runtime.check()
    path = settings.model.folder if isinstance(settings.model, Run) else settings.model
    run = reopen(path, settings.images) if _is_run(path) and not any(given.values()) else None
    names = ("arch", "weights", "input_size", "norm", "classes")
    module, classes, about, task, name = opened(path, *(given.get(one) for one in names))
    network = Network(module, classes=classes, task=task, preprocessing=about)
    folder = folder or Path("exported") / f"{name.replace('/', '_')}-{settings.target}"
    with whole_folder(folder) as made, tempfile.TemporaryDirectory() as place:
        onnx = Path(place) / "model.onnx"
        export_onnx(module, onnx, classes=classes, preprocessing=about, task=task, fixed_batch=True)
        signature = replace(open_graph(onnx)[1], weights="")  # a digest is of the ONNX file's weights
        exported = Exported(_plain(module, about.input_size), signature, onnx)
        road = None if run is None else run.road(None)
        pixels = _drawn(about.view_size) if road is None else _seen(road)
        files = _Files(runtime, made, module, exported, pixels)
        checks = {files.fp32.name: files.write_fp32()}
        try:
            told, checks[files.int8.name] = files.write_int8(run, road, settings.max_drop)
        except NotSmaller as error:
            told = f"none, for {error}"
            for file in made.glob(f"{files.int8.stem}.*"):
                if file.is_dir():
                    shutil.rmtree(file)
                else:
                    file.unlink()
        example = write_example(made, runtime, network)
    return Ported(folder, checks, told, example, "drawn pictures" if run is None else "the run's images")


class _Files:
    """The two files of a runtime, in the making."""

    def __init__(
        self, runtime: Runtime, folder: Path, module: nn.Module, exported: Exported, pixels: torch.Tensor
    ) -> None:
        self.runtime, self.module, self.exported, self.pixels = runtime, module, exported, pixels
        self.fp32, self.int8 = (folder / f"{stem}{runtime.suffix}" for stem in ("model", "model-int8"))

    def write_fp32(self) -> Parity | None:
        """Write and check the fp32 file."""
        self.runtime.write(self.exported, self.fp32)
        return self._parity(self.fp32)

    def write_int8(self, run: Reopened | None, road: Road | None, max_drop: float) -> tuple[str, Parity | None]:
        """Write and check the int8 file; return what it costs, and its parity.

        Args:
            run: Whose student it is, if anyone's.
            road: Of the run.
            max_drop: Points that it may lose.

        Raises:
            NotSmaller: There is none that is good enough.
        """
        exported = replace(self.exported, signature=replace(self.exported.signature, precision="int8"))
        told = ""
        if self.runtime.calibrates:
            if run is None or road is None:
                raise NotSmaller("its scales are calibrated on the images of a run, and there are none here.")
            onnx = exported.onnx.with_name("model-int8.onnx")
            how = Rounding("static", max_drop=max_drop)
            told = f"{write_int8(self.module, exported.onnx, onnx, road, run.input, how)}; "
            exported = replace(exported, onnx=onnx)
        try:
            self.runtime.write(exported, self.int8)
            parity = self._parity(self.int8)
        except PocketError as error:
            raise NotSmaller(f"{str(error).rstrip('.')}.") from error
        if parity is None:
            return f"{told}{self.runtime.unchecked}", None
        if road is not None:
            return f"{told}{self._cost(road, max_drop)}", parity
        if not parity.cosine >= _WRONG:
            raise NotSmaller(f"{self.runtime.name} computes something else than the network: {parity.text()}.")
        return "what it loses is not known: there are no images of a run to score it on", parity

    def _cost(self, road: Road, max_drop: float) -> str:
        score, words = score_of_files(road, self.fp32)
        lost = points_lost(score(self.fp32), score(self.int8))
        if lost > max_drop:
            raise NotSmaller(
                f"under {self.runtime.name} it is {lost:.2f} points below fp32{words}, and at most {max_drop:g} is let "
                "pass (--max-drop)."
            )
        return f"under {self.runtime.name} {f'{lost:.2f} points below fp32' if lost > 0 else 'nothing lost'}{words}"

    def _parity(self, file: Path) -> Parity | None:
        if self.runtime.load is None:
            return None
        return check_parity(self.module, file, self.pixels, self.runtime.tolerance)


def _is_run(path: Any) -> TypeGuard[str | Path]:
    return isinstance(path, str | Path) and (Path(path).expanduser() / "config.yaml").is_file()


def _seen(road: Road) -> torch.Tensor:
    """Return views of some of a run's images, uint8 [N, 3, V, V]."""
    source = road.scored or road.dataset.train
    return Views(source, road.view.plain()).render(np.arange(min(_CHECKED, len(source))), 0).pixels


def _drawn(side: int) -> torch.Tensor:
    """Return drawn views, uint8 [8, 3, V, V]."""
    drawn = np.stack([np.roll(draw_golden(side, side), 7 * shift, axis=1) for shift in range(8)])
    return torch.from_numpy(np.ascontiguousarray(drawn.transpose(0, 3, 1, 2)))


def _plain(module: nn.Module, side: int) -> nn.Module:
    """Return a copy that every converter can read: BatchNorm in its convolutions, attention in plain products.

    XNNPACK is up to 40 % faster on these than on PyTorch's one attention operator, which it takes apart less well.
    """
    network = fold_norms(copy.deepcopy(module).float().cpu().eval(), side).requires_grad_(False)
    for part in network.modules():
        if hasattr(part, "fused_attn"):  # timm's name for it
            vars(part)["fused_attn"] = False
    return network
