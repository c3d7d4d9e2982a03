"""Many batches of views, one after the other: rendered several at a time, and ahead of whoever works on them.

Rendering is cheapest in chunks of about a thousand small pictures or a few dozen large ones; a batch is what a step or
a teacher wants. Which batches share a chunk changes no pixel.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeVar

import numpy as np

from .ahead import Ahead
from .render import ViewBatch

CHUNK_IMAGES = 1024
CHUNK_BYTES = 32 << 20  # ... as long as that many views stay small in memory

Request = TypeVar("Request", bound=tuple[Any, ...])


class Renders(Protocol):
    """What is asked of `Views` here."""

    config: Any

    def render(self, positions: np.ndarray, view: int) -> ViewBatch: ...


def stream(views: Renders, positions: np.ndarray, view: int = 0, batch_size: int = 256) -> Iterator[ViewBatch]:
    """Yield the views of ``positions`` in batches, rendered in a thread while the caller works on those before.

    Args:
        views: `Views`.
        positions: int64 [N] positions in the source.
        view: Which view of each.
        batch_size: Images of a batch; the last may have fewer.
    """
    positions = np.asarray(positions, np.int64)
    starts = range(0, len(positions), batch_size)
    with Ahead(chunks(views, ((positions[start : start + batch_size], view) for start in starts))) as ready:
        for _, seen in itertools.chain.from_iterable(ready):
            yield seen


def chunks(views: Renders, requests: Iterable[Request]) -> Iterator[list[tuple[Request, ViewBatch]]]:
    """Yield requests with their views, as many at once as are rendered together: one first, then ever more.

    Args:
        views: `Views`.
        requests: Tuples that begin with (positions int64 [B], view); what follows is the caller's own. They may have no
            end, and are asked for one by one.
    """
    side = views.config.view_size
    most = max(1, min(CHUNK_IMAGES, CHUNK_BYTES // (3 * side * side)))
    room = 0
    group: list[Request] = []
    for request in requests:
        images = sum(len(positions) for positions, *_ in group)
        if group and (request[1] != group[0][1] or images + len(request[0]) > room):
            yield _rendered(views, group)
            room, group = min(most, 2 * max(room, images)), []
        group.append(request)
    if group:
        yield _rendered(views, group)


def _rendered(views: Renders, group: list[Request]) -> list[tuple[Request, ViewBatch]]:
    whole = views.render(np.concatenate([positions for positions, *_ in group]), group[0][1])
    ends = np.cumsum([len(positions) for positions, *_ in group]).tolist()
    parts = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    return [
        (
            request,
            dataclasses.replace(whole, pixels=whole.pixels[rows], partner=whole.partner[rows], ratio=whole.ratio[rows]),
        )
        for request, rows in zip(group, parts, strict=True)
    ]
