"""One threaded pass over every image: is it readable, what is it, and is it there twice."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import PocketError
from .base import Item, Result, Window, cores
from .decode import BrokenImage, Probe, kind_of, probe, read_bytes, whole, without_alpha
from .findings import DEPTHS, Findings
from .listing import Arrays, Files, Items, Listing
from .memory import place_of, recall, remember, stamps_of
from .window import intensities

NOT_NUMBERS = "holds intensities that are not numbers (NaN or infinite); replace them or delete it"
_BATCH = 32  # files a task: enough to hide the cost of a task, few enough for a lively progress bar


@dataclass
class Checked:
    """A listing after the one pass over its images, from which datasets are built.

    Attributes:
        good: bool [N], whether an image can be used.
        window: decided once the training images are known.
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


def examine(listing: Listing, *, val_fraction: float, progress: bool, memory: Path | None = None) -> Checked:
    """Read every image of a listing once, but for files that ``memory`` (a folder) knows."""
    if not 0 <= val_fraction < 0.5:
        raise PocketError(f"val_fraction is {val_fraction:g}: give a share of the images from 0 to below 0.5")
    findings = check(listing, progress, memory)
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
    group_by_patient(listing, findings, notes)
    return Checked(listing, findings, good, None, tuple(broken), notes)


def group_by_patient(listing: Listing, findings: Findings, notes: list[str]) -> None:
    """Keep the images of a patient, whom DICOM or a table names, on one side of every split that is made here."""
    if listing.groups is None:
        named = [patient for patient, good in zip(findings.patients, findings.good, strict=True) if patient and good]
        if 1 < len(set(named)) < len(named):
            listing.group, listing.groups, listing.unasked = "PatientID", list(findings.patients), True
    if listing.groups is None or not listing.unasked:
        return
    patients = listing.groups
    sides: dict[str, set[str]] = {}
    for patient, split in zip(patients, listing.splits, strict=True):
        sides.setdefault(patient, set()).add(split)
    both = sorted(patient for patient, splits in sides.items() if patient and len(splits) > 1)
    if both:
        notes.append(
            f"warning: {len(both):,} patients ({both[0]!r} first) are in more than one split: the score will be too "
            "good"
        )
        listing.group = f"{listing.group} within its split"  # what is held out of training splits no patient, for one
        listing.groups = [
            patient and f"{patient} of {split}" for patient, split in zip(patients, listing.splits, strict=True)
        ]


def check(listing: Listing, progress: bool = True, memory: Path | None = None) -> Findings:
    """Read every image once.

    Args:
        progress: show a bar if it takes more than a second.
        memory: folder in which findings are remembered by path, size and time.
    """
    if isinstance(listing.images, Arrays):
        return _check_arrays(listing.images)
    if isinstance(listing.images, Items):
        return _check_items(listing.images, listing.names)
    findings = Findings.empty(len(listing))
    if memory is None or not len(listing):
        _check_files(listing.images, listing.names, findings, np.arange(len(listing)), progress)
        return findings
    paths = [os.path.abspath(path) for path in listing.images.paths]
    place, stamps = place_of(memory, paths), stamps_of(paths)
    known = recall(place, paths, stamps, findings)
    if not known.all():
        _check_files(listing.images, listing.names, findings, np.flatnonzero(~known), progress)
        remember(place, paths, stamps, findings)
    return findings


def _check_files(files: Files, names: list[str], findings: Findings, rows: np.ndarray, progress: bool) -> None:
    def work(rows: list[int]) -> list[int]:
        for row in rows:
            _check_file(files.paths[row], names[row], findings, row)
        return rows

    tasks = (rows[start : start + _BATCH].tolist() for start in range(0, len(rows), _BATCH))
    with (
        warnings.catch_warnings(),  # here and not in the threads: the filters are one list for all of them
        tqdm(
            total=len(rows),
            desc="checking",
            unit=" images",
            delay=1,
            disable=None if progress else True,  # None: only where standard error is a terminal
            leave=False,
        ) as bar,
    ):
        warnings.simplefilter("ignore")  # odd EXIF and palettes: what matters is said by the findings
        for done in threaded(work, tasks):
            bar.update(len(done))
        _look_closely(files, names, findings)


def _look_closely(files: Files, names: list[str], findings: Findings) -> None:
    """Decode large JPEGs in full where another kind of file has their size: it may be a copy."""
    drafted = findings.drafted & findings.good
    shapes = findings.shapes[:, :2]
    others = {(h, w) for h, w in shapes[findings.good & ~drafted].tolist()}

    def work(row: int) -> None:
        try:
            findings.looks[row] = _look(whole(read_bytes(files.paths[row], names[row]), names[row]))
            findings.drafted[row] = False
        except BrokenImage as error:
            findings.why[row] = error.why

    rows = [row for row in np.flatnonzero(drafted).tolist() if tuple(shapes[row].tolist()) in others]
    for _ in threaded(work, rows):
        pass


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
    findings.drafted[row] = image.drafted
    findings.windows[row] = image.window or (np.nan, np.nan)
    findings.patients[row] = image.patient
    if pixels.dtype != np.uint8:
        _measure(without_alpha(pixels), findings, row)


def _measure(pixels: np.ndarray, findings: Findings, row: int) -> None:
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        findings.why[row] = NOT_NUMBERS
        return
    found = intensities(pixels)
    findings.ranges[row], findings.robust[row] = found[:2], found[2:]


def _look(image: Probe) -> bytes:
    head = f"{image.shape}{image.pixels.dtype.name}".encode()
    return hashlib.blake2b(image.pixels.data, digest_size=16, key=head).digest()


def digest_of(pixels: np.ndarray) -> bytes:
    """Return what the pixels of an image that is in no file are known by."""
    head = f"{pixels.shape}{pixels.dtype.newbyteorder('<').str}".encode()
    return hashlib.sha256(head + pixels.tobytes()).digest()


def _check_items(items: Items, names: list[str]) -> Findings:
    """Check the images of dataset objects, one after the other: their code need not bear threads."""
    findings = Findings.empty(len(names))
    for row, name in enumerate(names):
        try:
            pixels = items.pixels(row, name)
        except BrokenImage as error:
            findings.why[row] = error.why
            continue
        digest = digest_of(pixels)
        findings.digests[row] = np.frombuffer(digest, np.uint8)
        findings.looks[row] = digest
        findings.shapes[row] = (*pixels.shape, 0)[:3]
        findings.depths[row] = DEPTHS.index(pixels.dtype.name)
        findings.kinds[row], findings.stored[row] = kind_of(pixels), pixels.nbytes
        if pixels.dtype != np.uint8:
            _measure(without_alpha(pixels), findings, row)
    _refuse_mixed(findings, names)
    return findings


def _refuse_mixed(findings: Findings, names: list[str]) -> None:
    """Refuse whole numbers of 64 bits of which only some pictures fit into 8: they are of one depth, but which?"""
    depths = np.array([DEPTHS[depth] for depth in findings.depths])
    small = np.flatnonzero(findings.good & (depths == "uint8"))
    large = np.flatnonzero(findings.good & np.isin(depths, ("int32", "uint32")))
    if len(small) and len(large):
        raise PocketError(
            f"item {names[large[0]]} has values above 255 and item {names[small[0]]} has none: give arrays of "
            "the depth that they were taken in, such as uint16"
        )


def _check_arrays(arrays: Arrays) -> Findings:
    findings = Findings.empty(sum(len(part) for part in arrays.parts))
    row = 0
    for part in arrays.parts:
        for image in part:
            digest = digest_of(image)
            findings.digests[row] = np.frombuffer(digest, np.uint8)
            findings.looks[row] = digest
            row += 1
        rows = slice(row - len(part), row)
        findings.shapes[rows] = (*part.shape[1:], 0)[:3]
        findings.depths[rows] = DEPTHS.index(part.dtype.name)
        findings.stored[rows] = part[:1].nbytes
        findings.kinds[rows.start : rows.stop] = [kind_of(part[0])] * len(part) if len(part) else []
        if part.dtype != np.uint8:
            for place, image in enumerate(part):
                _measure(without_alpha(image), findings, rows.start + place)
    return findings
