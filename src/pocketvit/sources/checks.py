"""One threaded pass over every image: is it readable, what is it, and is it there twice. Then the window."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import PocketError
from .base import Item, Result, Window, cores
from .decode import CHANNELS, BrokenImage, Probe, probe, read_bytes, without_alpha
from .findings import DEPTHS, Findings
from .listing import Arrays, Files, Listing

_NOT_NUMBERS = "holds intensities that are not numbers (NaN or infinite); replace them or delete it"
_BATCH = 32  # files a task: enough to hide the cost of a task, few enough for a lively progress bar


@dataclass
class Checked:
    """A listing after the one pass over its images, from which datasets are built.

    Attributes:
        good: bool [N], whether an image can be used.
        window: decided over all images.
        broken: (name, why) of those that cannot be used.
        notes: said so far.
    """

    listing: Listing
    findings: Findings
    good: np.ndarray
    window: Window | None
    broken: tuple[tuple[str, str], ...]
    notes: list[str]

    @property
    def group_names(self) -> tuple[str, ...]:
        """The cells of the first groups, by their number; those of an empty cell come after them."""
        return tuple(sorted(set(self.listing.groups or ()) - {""}))

    @property
    def groups(self) -> np.ndarray | None:
        """int64 [N], equal for images of one group; an empty cell of the table is a group of its own."""
        cells = self.listing.groups
        if cells is None:
            return None
        number = {cell: index for index, cell in enumerate(self.group_names)}
        alone = np.cumsum([not cell for cell in cells]) + len(number) - 1
        return np.array([number.get(cell, int(own)) for cell, own in zip(cells, alone, strict=True)], np.int64)


def examine(listing: Listing, *, val_fraction: float, window: Window | None, progress: bool) -> Checked:
    """Read every image of a listing once, and decide the window."""
    if not 0 <= val_fraction < 0.5:
        raise PocketError(f"val_fraction is {val_fraction:g}: give a share of the images from 0 to below 0.5")
    findings = check(listing, progress)
    good = findings.good
    broken = listing.broken + [(listing.names[row], findings.why[row]) for row in np.flatnonzero(~good)]
    if not good.any():
        examples = "; ".join(f"{name} {why}" for name, why in broken[:3])
        raise PocketError(f"{listing.name} has no image that can be used. {examples}")
    notes = list(listing.notes)
    if listing.task == "ordinal":
        notes.append(
            f"the {len(listing.classes)} classes are ordered grades: distances between grades are reported too"
        )
    window = window_for(listing, findings, window, notes)
    return Checked(listing, findings, good, window, tuple(broken), notes)


def check(listing: Listing, progress: bool = True) -> Findings:
    """Read every image once.

    Args:
        progress: show a bar if it takes more than a second.
    """
    if isinstance(listing.images, Arrays):
        return _check_arrays(listing.images)
    return _check_files(listing.images, listing.names, progress)


def _check_files(files: Files, names: list[str], progress: bool) -> Findings:
    findings = Findings.empty(len(names))

    def work(rows: range) -> range:
        for row in rows:
            _check_file(files.paths[row], names[row], findings, row)
        return rows

    tasks = (range(start, min(start + _BATCH, len(names))) for start in range(0, len(names), _BATCH))
    with (
        warnings.catch_warnings(),  # here and not in the threads: the filters are one list for all of them
        tqdm(
            total=len(names),
            desc="checking",
            unit=" images",
            delay=1,
            disable=None if progress else True,  # None: only where standard error is a terminal
            leave=False,
        ) as bar,
    ):
        warnings.simplefilter("ignore")  # odd EXIF and palettes: what matters is said by the findings
        for rows in threaded(work, tasks):
            bar.update(len(rows))
    return findings


def threaded(work: Callable[[Item], Result], tasks: Iterable[Item]) -> Iterator[Result]:
    """Yield ``work(task)`` as they finish, with few tasks waiting, so that millions cost no memory."""
    pool = ThreadPoolExecutor(cores(), thread_name_prefix="pocketvit-check")
    running: set[Future] = set()
    try:
        for task in tasks:
            running.add(pool.submit(work, task))
            if len(running) >= 2 * cores():
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)  # Ctrl-C: what runs ends within a few images


def _check_file(path: Path, name: str, findings: Findings, row: int) -> None:
    try:
        data = read_bytes(path, name)
        findings.digests[row] = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
        findings.stored[row] = len(data)
        image = probe(data, name)
    except BrokenImage as error:
        findings.why[row] = error.why
        return
    pixels = image.pixels
    findings.looks[row] = _look(image)
    findings.shapes[row] = (*image.shape, 0)[:3]
    findings.depths[row] = DEPTHS.index(pixels.dtype.name)
    findings.kinds[row] = image.kind
    if pixels.dtype != np.uint8:
        seen = without_alpha(pixels)
        findings.ranges[row] = seen.min(), seen.max()
        if not np.isfinite(findings.ranges[row]).all():
            findings.why[row] = _NOT_NUMBERS


def _look(image: Probe) -> bytes:
    head = f"{image.shape}{image.pixels.dtype.name}".encode()
    return hashlib.blake2b(image.pixels.data, digest_size=16, key=head).digest()


def _check_arrays(arrays: Arrays) -> Findings:
    findings = Findings.empty(sum(len(part) for part in arrays.parts))
    row = 0
    for part in arrays.parts:
        head = f"{part.shape[1:]}{part.dtype.newbyteorder('<').str}".encode()
        for image in part:
            digest = hashlib.sha256(head + np.ascontiguousarray(image).tobytes()).digest()
            findings.digests[row] = np.frombuffer(digest, np.uint8)
            findings.looks[row] = digest
            row += 1
        rows = slice(row - len(part), row)
        findings.shapes[rows] = (*part.shape[1:], 0)[:3]
        findings.depths[rows] = DEPTHS.index(part.dtype.name)
        findings.stored[rows] = part[:1].nbytes
        findings.kinds[rows.start : rows.stop] = [_kind(part)] * len(part)
        if part.dtype != np.uint8 and len(part):
            seen = without_alpha(part) if part.ndim == 4 else part
            axes = tuple(range(1, part.ndim))
            findings.ranges[rows, 0], findings.ranges[rows, 1] = seen.min(axes), seen.max(axes)
            for bad in np.flatnonzero(~np.isfinite(findings.ranges[rows]).all(1)):
                findings.why[rows.start + bad] = _NOT_NUMBERS
    return findings


def _kind(images: np.ndarray) -> str:
    channels = CHANNELS[images.shape[-1] if images.ndim == 4 else 0]
    return {"uint8": "", "uint16": "16-bit "}.get(images.dtype.name, f"{images.dtype.name} ") + channels


def window_for(
    listing: Listing, findings: Findings, window: tuple[float, float] | None, notes: list[str]
) -> tuple[float, float] | None:
    """Decide the intensity window, and say in ``notes`` what was decided.

    Raises:
        PocketError: float images without a window, or a window that is upside down.
    """
    if window is not None and not window[0] < window[1]:
        raise PocketError(f"the window {window[0]:g},{window[1]:g} is empty: give LOW,HIGH with LOW below HIGH")
    deep = findings.good & ~np.isnan(findings.ranges[:, 0])
    if not deep.any():
        if window is not None:
            notes.append("the window is not used: every image is 8-bit")
        return None
    low, high = float(findings.ranges[deep, 0].min()), float(findings.ranges[deep, 1].max())
    floats = [row for row in np.flatnonzero(deep) if DEPTHS[findings.depths[row]] == "float32"]
    if window is None and floats:
        bottom, top = findings.ranges[floats, 0].min(), findings.ranges[floats, 1].max()
        more = f" and {len(floats) - 1:,} more images" if len(floats) > 1 else ""
        raise PocketError(
            f"floating-point intensities ({bottom:g} to {top:g}) in {listing.names[floats[0]]}{more} of "
            f"{listing.name}: say which are black and white, as --window LOW,HIGH"
        )
    plain = int((findings.good & ~deep).sum())
    untouched = f"; the {plain:,} 8-bit images stay as they are" if plain else ""
    kinds = " and ".join(sorted({findings.kinds[row] for row in np.flatnonzero(deep)}))
    if window is None:
        window = (low, high if high > low else low + 1)
        notes.append(
            f"intensity window {window[0]:g} to {window[1]:g} (the full range found in {int(deep.sum()):,} {kinds} "
            f"images) becomes 0 to 255; choose another with --window LOW,HIGH{untouched}"
        )
        return window
    outside = int(((findings.ranges[:, 0] < window[0]) | (findings.ranges[:, 1] > window[1]))[deep].sum())
    clipped = f"; {outside:,} of {int(deep.sum()):,} images reach beyond it and are clipped" if outside else ""
    notes.append(
        f"intensity window {window[0]:g} to {window[1]:g} becomes 0 to 255 in {kinds} images{clipped}{untouched}"
    )
    return (float(window[0]), float(window[1]))
