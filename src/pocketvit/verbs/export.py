"""`pocketvit export MODEL`."""

from __future__ import annotations

from pathlib import Path

from ..rundir import Outcome
from ..settings import Export, verb


@verb(Export)
def export(settings: Export) -> Outcome:
    """Export any model to ONNX, fp32 and int8, check both against the original, and pack device.zip."""
    from ..deployment.files import export_files
    from ..files import human_bytes

    folder, checks = export_files(
        settings.model,
        Path(settings.out) if settings.out else None,
        picture_size=settings.picture_size,
        arch=settings.arch,
        weights=settings.weights,
        input_size=settings.input_size,
        norm=settings.norm,
        classes=settings.classes or None,
    )
    sizes = {name: (folder / name).stat().st_size for name in (*checks, "device.zip")}
    lines = [f"{name:16} {human_bytes(sizes[name]):>8}  {check.text()}" for name, check in checks.items()]
    lines.append(f"{'device.zip':16} {human_bytes(sizes['device.zip']):>8}  checked: it answers as PocketViT does")
    data = {
        "folder": str(folder),
        "files": {name: {"bytes": sizes[name], **vars(check)} for name, check in checks.items()},
    }
    return Outcome("\n".join([*lines, f"written to {folder} (parity on drawn pictures)"]), data)
