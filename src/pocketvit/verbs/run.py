"""`pocketvit run RECIPE`."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

from ..errors import PocketError
from ..rundir import Outcome
from ..settings import RunRecipe, verb


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let a recipe import the ones beside it, as a script could."""
    place = str(folder.resolve())
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.path.remove(place)


@verb(RunRecipe)
def run(settings: RunRecipe) -> Outcome:
    """Run a recipe from start to end: its table and report. Typed again, it goes on where it stopped."""
    path = Path(settings.recipe)
    if not path.is_file():
        known = ", ".join(sorted(str(file) for file in Path("recipes").glob("[!_]*.py"))) or "none here"
        raise PocketError(f"there is no recipe {path}. Recipes in this folder: {known}.")
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise PocketError(f"{path} is not a recipe: it is no Python file.")
    module = importlib.util.module_from_spec(spec)
    try:
        with _importable(path.parent):
            spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise PocketError(
            f"the recipe {path} could not be loaded ({error}). Mend it, or install what it imports."
        ) from error
    if not callable(getattr(module, "recipe", None)):
        raise PocketError(f"{path} is not a recipe: it has no function recipe(images, folder, small).")
    folder = Path(settings.out) / (path.stem + ("-small" if settings.small else ""))
    table = module.recipe(settings.images, folder, settings.small)
    reports = sorted(folder.rglob("report.html")) or [folder]  # a recipe may have one for each set of images
    told = "\n".join(f"report  {report}" for report in reports)
    return Outcome(f"{table}\n\n{told}", {"folder": str(folder), "table": table})
