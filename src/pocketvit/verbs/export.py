"""`pocketvit export MODEL`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..rundir import Outcome
from ..settings import Export, verb


@verb(Export)
def export(settings: Export) -> Outcome:
    """Export any model to ONNX, fp32 and int8, check both against the original, and pack device.zip."""
    from ..deployment.files import export_files, export_web
    from ..deployment.runtimes import RUNTIMES
    from ..deployment.web import find_runtime
    from ..files import human_bytes
    from ..road.phone import export_phone
    from ..road.runtimes import export_runtime

    out = Path(settings.out) if settings.out else None
    given: dict[str, Any] = {
        "arch": settings.arch,
        "weights": settings.weights,
        "input_size": settings.input_size,
        "norm": settings.norm,
        "classes": settings.classes or None,
    }
    notes = []
    if settings.target == "web":
        folder, told = export_web(settings.model, out, runtime=find_runtime(settings.runtime), **given)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        lines = [f"{folder.name}  {human_bytes(size)} with onnxruntime-web, {told}"]
        lines.append(f"to try it: python -m http.server -d {folder}, then open http://localhost:8000")
        return Outcome("\n".join([*lines, f"written to {folder}"]), {"folder": str(folder), "checked": told})
    if settings.target in RUNTIMES:
        return _ported(export_runtime(settings, out, **given), RUNTIMES[settings.target])
    if settings.target == "phone":
        folder, checks, kept = export_phone(settings, out)
        notes = [
            f"int8: {kept}",
            "One picture at a time, products in QDQ. Not measured on a phone: bench.py of device.zip does that",
        ]
    else:
        folder, checks = export_files(settings.model, out, picture_size=settings.picture_size, **given)
    sizes = {name: (folder / name).stat().st_size for name in (*checks, "device.zip")}
    lines = [f"{name:16} {human_bytes(sizes[name]):>8}  {check.text()}" for name, check in checks.items()]
    lines.append(f"{'device.zip':16} {human_bytes(sizes['device.zip']):>8}  checked: it answers as PocketViT does")
    data = {
        "folder": str(folder),
        "files": {name: {"bytes": sizes[name], **vars(check)} for name, check in checks.items()},
    }
    on = "the run's images" if settings.target == "phone" else "drawn pictures"
    return Outcome("\n".join([*lines, *notes, f"written to {folder} (parity on {on})"]), data)


def _ported(made: Any, runtime: Any) -> Outcome:
    """Return what `export_runtime` made, in words and as data."""
    from ..files import human_bytes

    checks = {name: check.text() if check else runtime.unchecked for name, check in made.checks.items()}
    sizes = {name: runtime.size(made.folder / name) for name in checks}
    wide = max(map(len, (*checks, "example.py")))
    lines = [f"{name:{wide}} {human_bytes(sizes[name]):>8}  {told}" for name, told in checks.items()]
    lines += [f"{'example.py':{wide}} {'':8}  {made.example}", f"int8: {made.int8}"]
    files = {name: {"bytes": sizes[name], **(vars(check) if check else {})} for name, check in made.checks.items()}
    data = {"folder": str(made.folder), "files": files, "int8": made.int8, "example": made.example}
    return Outcome("\n".join([*lines, f"written to {made.folder} (parity on {made.images})"]), data)
