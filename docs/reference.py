"""Write the API reference, a page per module made from the docstrings by pdoc: ``make docs``, into build/docs.

A room's page has what the room exports (its ``__all__``) and leads to the pages of its modules.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import shutil
import warnings
from pathlib import Path
from types import ModuleType

import pocketvit
from pocketvit.settings import VERBS


def public_modules() -> list[str]:
    """Return the name of every module of the package that a reader may look up: none begins with an underscore."""
    found = pkgutil.walk_packages(pocketvit.__path__, f"{pocketvit.__name__}.")
    names = [pocketvit.__name__, *(module.name for module in found)]
    return [name for name in names if not any(part.startswith("_") for part in name.split("."))]


def open_up(module: ModuleType) -> None:
    """Let pdoc see what is imported on first use, and the modules of a room beside what the room exports."""
    exported = list(vars(module).get("__all__", ()))
    for name in exported:
        vars(module)[name] = getattr(module, name)  # the verbs are attributes only once they were asked for
    if exported and hasattr(module, "__path__"):
        inner = [found.name for found in pkgutil.iter_modules(module.__path__) if not found.name.startswith("_")]
        module.__all__ = [*exported, *(name for name in inner if name not in exported)]  # type: ignore[attr-defined]


def write(folder: Path) -> None:
    """Write the pages into a folder, instead of what it held. What pdoc would warn of is an error."""
    import pdoc

    for name in public_modules():
        open_up(importlib.import_module(name))
    for name in VERBS:  # pdoc would show the function of one settings object that stands behind the keywords
        vars(getattr(pocketvit, name)).pop("__wrapped__", None)
    shutil.rmtree(folder, ignore_errors=True)
    pdoc.render.configure(docformat="google", show_source=False, footer_text=f"pocketvit {pocketvit.__version__}")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="pdoc")
        # Inherited fields name types that only the module of the base imports: they stand there as they are written.
        warnings.filterwarnings("ignore", "Error parsing type annotation")
        pdoc.pdoc(pocketvit.__name__, output_directory=folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/docs"), help="the folder to write (default build/docs)")
    place = parser.parse_args().out
    write(place)
    print(f"reference  {place / 'index.html'}")
