"""Views are a pure function of (config, seed, sample, view)."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pocketvit.config import ViewConfig
from pocketvit.errors import PocketError
from pocketvit.files import sha256_of
from pocketvit.views import Views
from pocketvit.views.boxes import BOX_DRAWS, central_boxes, random_boxes
from pocketvit.views.philox import draw

EVERYTHING = ViewConfig(
    view_size=24,
    crop="random_resized",
    flip=0.5,
    vertical_flip=0.5,
    randaugment_ops=2,
    color_jitter=0.4,
    erase=0.5,
    mixup=0.8,
    cutmix=1.0,
)
CONFIGS = {
    "everything": EVERYTHING,
    "padded crop": ViewConfig(view_size=24, crop="padded", flip=0.5, randaugment_ops=3, erase=0.25),
    "mixup alone": ViewConfig(view_size=24, mixup=0.2),
    "padding out": ViewConfig(view_size=24, fit="pad", cutmix=1.0),
    "plain": ViewConfig(view_size=24),
}


class Pictures:
    """A source of smooth pictures, of one size or of mixed ones."""

    def __init__(self, count: int, sizes: list[tuple[int, int]]) -> None:
        random = np.random.default_rng(count)
        self.ids = random.integers(0, 2**64, count, dtype=np.uint64)
        self.images = []
        for size, _ in zip(itertools.cycle(sizes), range(count), strict=False):
            coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8))
            self.images.append(np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC)))
        self.uniform = len(sizes) == 1
        self.size = sizes[0] if self.uniform else None
        self.seen: set[int] = set()

    def rgb(self, positions: np.ndarray) -> np.ndarray | list[np.ndarray]:
        self.seen |= set(positions.tolist())
        chosen = [self.images[position] for position in positions]
        if self.uniform:
            return np.array(chosen, np.uint8).reshape(-1, *self.images[0].shape)
        return chosen


SOURCES = {
    "view's size": lambda n: Pictures(n, [(24, 24)]),
    "small": lambda n: Pictures(n, [(20, 30)]),
    "large": lambda n: Pictures(n, [(90, 70)]),
    "mixed": lambda n: Pictures(n, [(24, 24), (1, 1), (40, 17), (90, 130), (3, 50)]),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("config", CONFIGS)
def test_any_grouping_order_and_thread_count_renders_the_same_bits(source: str, config: str) -> None:
    views = Views(SOURCES[source](31), CONFIGS[config], seed=3)
    whole = views.render(np.arange(31), 2)
    assert whole.pixels.shape == (31, 3, 24, 24)
    assert whole.pixels.dtype == torch.uint8
    assert whole.pixels.is_contiguous()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        shuffled = np.random.default_rng(0).permutation(31)
        for positions in (shuffled, shuffled[:7], np.array([30]), np.array([4, 4])):
            some = views.render(positions, 2)
            assert torch.equal(some.pixels, whole.pixels[positions])
            assert np.array_equal(some.partner, whole.partner[positions])
            assert np.array_equal(some.ratio, whole.ratio[positions])
    finally:
        torch.set_num_threads(threads)


def test_many_threads_and_chunks_render_the_same_bits() -> None:
    """Enough pictures that the work is cut up."""
    source = Pictures(1500, [(24, 24)])
    views = Views(source, CONFIGS["padded crop"])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = views.render(np.arange(1500), 0).pixels
        torch.set_num_threads(3)
        assert torch.equal(views.render(np.arange(1500), 0).pixels, one)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(views.render(np.array([777]), 0).pixels[0], one[777])


def test_a_sample_looks_the_same_in_another_source() -> None:
    """Only its id and its pixels matter, not its position (what is mixed needs its partner too)."""
    config = replace(EVERYTHING, mixup=0.0, cutmix=0.0)
    source, other = Pictures(20, [(30, 30)]), Pictures(20, [(30, 30)])
    other.ids, other.images = other.ids[::-1].copy(), other.images[::-1]
    pixels = Views(source, config).render(np.arange(20), 5).pixels
    assert torch.equal(Views(other, config).render(np.arange(20), 5).pixels.flip(0), pixels)


def test_views_seeds_and_samples_differ() -> None:
    source = Pictures(20, [(24, 24)])
    base = Views(source, CONFIGS["padded crop"]).render(np.arange(20), 0).pixels
    for seed, view in ((0, 1), (1, 0), (0, -1), (0, 10**6)):
        other = Views(source, CONFIGS["padded crop"], seed).render(np.arange(20), view).pixels
        assert (base == other).flatten(1).all(1).float().mean() < 0.2


def test_pairs_are_mutual_and_share_their_ratio() -> None:
    source = Pictures(31, [(24, 24)])
    views = Views(source, EVERYTHING)
    order = views.order(7)
    assert np.array_equal(np.sort(order), np.arange(31))
    batch = views.render(order, 7)
    mixed = batch.ratio < 1
    assert mixed.mean() > 0.7
    first, second = order[:-1:2], order[1::2]
    assert np.array_equal(batch.partner[:-1:2], np.where(mixed[:-1:2], second, first))
    assert np.array_equal(batch.partner[1::2], np.where(mixed[1::2], first, second))
    assert np.array_equal(batch.ratio[:-1:2], batch.ratio[1::2])
    assert batch.partner[-1] == order[-1]  # the odd last one stays alone
    assert batch.ratio[-1] == 1
    assert not np.array_equal(order, views.order(8))


def test_the_pairing_depends_on_ids_not_positions() -> None:
    source, other = Pictures(21, [(24, 24)]), Pictures(21, [(24, 24)])
    other.ids = other.ids[::-1].copy()
    mine, theirs = (Views(s, EVERYTHING, 1).order(4) for s in (source, other))
    assert np.array_equal(source.ids[mine], other.ids[theirs])


def test_only_needed_pictures_are_read() -> None:
    source = Pictures(40, [(24, 24)])
    views = Views(source, EVERYTHING)
    order = views.order(0)
    views.render(order[6:10], 0)
    assert source.seen == set(order[6:10].tolist())
    views.render(order[20:21], 0)
    assert source.seen == set(order[6:10].tolist()) | set(order[20:22].tolist())


def test_nothing_mixed_means_natural_order_and_own_partners() -> None:
    views = Views(Pictures(5, [(24, 24)]), CONFIGS["padded crop"])
    assert np.array_equal(views.order(3), np.arange(5))
    batch = views.render(np.array([3, 1]), 3)
    assert batch.partner.tolist() == [3, 1]
    assert batch.ratio.tolist() == [1, 1]


def test_flips_happen_only_when_asked() -> None:
    """A picture whose sides differ shows which way it is turned."""
    source = Pictures(200, [(24, 24)])
    mark = np.zeros((24, 24, 3), np.uint8)
    mark[:12, :12] = 255
    source.images = [mark] * 200
    for flip, vertical in ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (1.0, 1.0)):
        pixels = (
            Views(source, ViewConfig(view_size=24, flip=flip, vertical_flip=vertical)).render(np.arange(200), 0).pixels
        )
        right = (pixels[:, 0, :, 23] > 0).any(1).float().mean().item()
        low = (pixels[:, 0, 23] > 0).any(1).float().mean().item()
        assert right == pytest.approx(flip, abs=0.12 if flip == 0.5 else 0)
        assert low == pytest.approx(vertical, abs=0.12 if vertical == 0.5 else 0)


def test_padded_crops_are_all_shifts_in_a_frame_of_zeros() -> None:
    source = Pictures(600, [(8, 8)])
    picture = source.images[0] // 2 + 1
    source.images = [picture] * 600
    pixels = Views(source, ViewConfig(view_size=8, crop="padded", crop_padding=2)).render(np.arange(600), 0).pixels
    padded = np.pad(picture, ((2, 2), (2, 2), (0, 0))).transpose(2, 0, 1)
    windows = {padded[:, y : y + 8, x : x + 8].tobytes() for y in range(5) for x in range(5)}
    assert {row.numpy().tobytes() for row in pixels} == windows


def test_erasing_fills_boxes_of_the_right_share() -> None:
    source = Pictures(400, [(32, 32)])
    source.images = [np.zeros((32, 32, 3), np.uint8)] * 400
    pixels = Views(source, ViewConfig(view_size=32, erase=0.5)).render(np.arange(400), 0).pixels
    share = (pixels > 0).any(1).float().mean((1, 2)).numpy()
    assert (share > 0).mean() == pytest.approx(0.5, abs=0.08)
    assert share.max() < 1 / 3 + 0.05
    assert share[share > 0].min() > 0.01


@pytest.mark.parametrize(
    ("fit", "size"), [("crop", (40, 60)), ("stretch", (40, 60)), ("pad", (40, 60)), ("pad", (60, 40))]
)
def test_other_shapes_become_square_as_pillow_would(fit: str, size: tuple[int, int]) -> None:
    source = Pictures(1, [size])
    image = Image.fromarray(source.images[0])
    config = ViewConfig(view_size=24, fit=fit, resample="bicubic")  # type: ignore[arg-type]
    ours = Views(source, config).render(np.array([0]), 0).pixels[0].permute(1, 2, 0).numpy().astype(int)
    height, width = size
    if fit == "crop":
        image = image.crop((10, 0, 50, 40))
    expected = np.zeros((24, 24, 3), int)
    if fit == "pad":
        inner = np.asarray(image.resize((24, 16) if width > height else (16, 24), Image.Resampling.BICUBIC))
        place = (slice(4, 20), slice(None)) if width > height else (slice(None), slice(4, 20))
        expected[place] = inner
    else:
        expected[:] = np.asarray(image.resize((24, 24), Image.Resampling.BICUBIC))
    assert np.abs(ours - expected).max() <= 1


@pytest.mark.parametrize("resample", ["lanczos", "bicubic", "bilinear", "nearest"])
def test_small_pictures_are_cropped_and_resized_as_large_ones_one_by_one(resample: str) -> None:
    """The path for many small pictures against the path for a list, to the bit."""
    config = ViewConfig(view_size=16, crop="random_resized", resample=resample)  # type: ignore[arg-type]
    source = Pictures(40, [(20, 28)])
    many = Views(source, config).render(np.arange(40), 0).pixels
    source.uniform = False
    assert torch.equal(Views(source, config).render(np.arange(40), 0).pixels, many)


def test_random_boxes_keep_their_share_and_shape() -> None:
    numbers = draw(0, np.arange(5000, dtype=np.uint64), 0, {"crop": BOX_DRAWS})["crop"]
    sides = np.full(5000, 300)
    boxes, found = random_boxes(numbers, sides, sides, (0.35, 1.0), (3 / 4, 4 / 3))
    top, left, height, width = boxes[found].T
    assert found.mean() > 0.95
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max(), (left + width).max()) <= 300
    share = height * width / 300**2
    assert 0.34 < share.min() < 0.37
    assert share.max() > 0.95
    ratio = width / height
    assert 0.74 < ratio.min() < 0.76
    assert 1.32 < ratio.max() < 1.35
    assert np.log(ratio[share < 0.5]).mean() == pytest.approx(0, abs=0.02)


def test_shapes_that_no_box_fits_fall_back_to_the_centre() -> None:
    boxes = central_boxes(np.array([10, 1000, 50, 1]), np.array([1000, 10, 50, 1]), (3 / 4, 4 / 3))
    assert boxes.tolist() == [[0, 493, 10, 13], [493, 0, 13, 10], [0, 0, 50, 50], [0, 0, 1, 1]]


def test_read_only_pictures_are_rendered_without_a_warning() -> None:
    """A memory-mapped pack hands out such arrays."""
    for sizes in ([(24, 24)], [(20, 30)], [(90, 70), (24, 24)]):
        source = Pictures(4, sizes)
        for image in source.images:
            image.flags.writeable = False
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for config in (EVERYTHING, CONFIGS["plain"]):
                Views(source, config).render(np.arange(4), 0)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("source", SOURCES)
def test_no_positions_render_to_no_pictures(source: str, config: str) -> None:
    batch = Views(SOURCES[source](3), CONFIGS[config]).render(np.empty(0, np.int64), 0)
    assert batch.pixels.shape == (0, 3, 24, 24)
    assert len(batch.partner) == len(batch.ratio) == 0


def test_the_source_is_never_written_to() -> None:
    source = Pictures(8, [(24, 24)])
    stack = np.stack(source.images)
    source.rgb = lambda positions: stack  # type: ignore[method-assign, assignment]
    before = stack.copy()
    for config in CONFIGS.values():
        if not config.mixes:
            Views(source, config).render(np.arange(8), 0).pixels.zero_()
    assert np.array_equal(stack, before)


def test_fingerprints_leave_defaults_out_and_tell_configs_apart() -> None:
    source = Pictures(1, [(24, 24)])
    assert Views(source, ViewConfig(), 5).fingerprint == {"version": 1, "seed": 5}
    prints = {sha256_of(Views(source, config).fingerprint) for config in CONFIGS.values()}
    assert len(prints) == len(CONFIGS)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("view_size", 0),
        ("flip", 1.5),
        ("erase", -0.1),
        ("lobes", 0),
        ("crop_scale", (0.0, 1.0)),
        ("crop_ratio", (2.0, 1.0)),
        ("randaugment_magnitude", 11.0),
        ("mixup", -1.0),
        ("resample", "cubic"),
        ("fit", "letterbox"),
    ],
)
def test_values_out_of_range_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(PocketError, match=field):
        Views(Pictures(1, [(24, 24)]), replace(ViewConfig(), **{field: value}))  # type: ignore[arg-type]
