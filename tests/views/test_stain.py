"""Stain jitter moves along the stains, by as much as was asked for, the same everywhere."""

from __future__ import annotations

import numpy as np

from pocketvit.config import ViewConfig
from pocketvit.views import Views
from pocketvit.views.stain import DRAWS, _parts, _tables, stain_jitter

COLOURS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])


def _numbers(value: int, count: int) -> np.ndarray:
    return np.full((count, DRAWS), value, np.uint32)


def test_densities_and_values_are_inverse_and_no_change_changes_nothing() -> None:
    densities, values = _tables()
    assert np.array_equal(values[densities], np.arange(256))
    assert np.array_equal(_parts().sum(0), np.eye(3, dtype=int) << 12)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 9, 7), np.uint8)
    middle = _numbers(1 << 31, 4)  # factors of 1, shifts of 0
    assert np.array_equal(stain_jitter(pixels, middle, 0.2), pixels)


def test_a_stain_is_scaled_and_shifted_as_beer_and_lambert_say() -> None:
    """Against the definition in floating point: densities = stains @ colours, stains' = stains * factor + shift."""
    random = np.random.default_rng(1)
    stains = random.uniform(0.05, 0.8, (3, 6, 5, 3))
    pixels = np.rint(256 * np.exp(-stains @ COLOURS) - 1).clip(0, 255).astype(np.uint8).transpose(0, 3, 1, 2)
    amount = 0.2
    for draw, sign in ((0, -1), ((1 << 32) - 1, 1)):
        seen = stain_jitter(pixels, _numbers(draw, 3), amount).astype(float)
        amounts = -np.log((pixels.transpose(0, 2, 3, 1) + 1.0) / 256) @ np.linalg.inv(COLOURS)
        changed = amounts * (1 + sign * amount) + sign * amount
        wanted = (256 * np.exp(-changed @ COLOURS) - 1).clip(0, 255).transpose(0, 3, 1, 2)
        assert np.abs(seen - wanted).max() < 2.5
        assert np.sign(wanted.mean() - pixels.mean()) == -sign  # more stain is darker


def test_views_with_stain_jitter_and_transposition_do_not_depend_on_the_batch() -> None:
    class Pictures:
        ids = np.arange(40, dtype=np.uint64)
        images = np.random.default_rng(2).integers(0, 256, (40, 12, 12, 3), np.uint8)

        def rgb(self, positions: np.ndarray) -> np.ndarray:
            return self.images[positions]

    config = ViewConfig(view_size=12, flip=0.5, vertical_flip=0.5, transpose=0.5, stain_jitter=0.1)
    views = Views(Pictures(), config, seed=1)
    together = views.render(np.arange(40), 3).pixels
    assert all((views.render(np.array([i]), 3).pixels[0] == together[i]).all() for i in range(40))
    turns = Views(Pictures(), ViewConfig(view_size=12, transpose=0.5), seed=1).render(np.arange(40), 0).pixels.numpy()
    plain = Pictures.images.transpose(0, 3, 1, 2)
    as_is = (turns == plain).all((1, 2, 3))
    turned = (turns == plain.swapaxes(2, 3)).all((1, 2, 3))
    assert (as_is ^ turned).all()
    assert 8 < turned.sum() < 32


def test_gentle_randaugment_never_inverts_or_cuts_intensities() -> None:
    """A picture of one grey stays one of a few greys; solarize and posterize would lose the order of a ramp."""

    class Ramp:
        ids = np.arange(200, dtype=np.uint64)

        def rgb(self, positions: np.ndarray) -> np.ndarray:
            ramp = np.repeat(np.arange(40, 200, 5, dtype=np.uint8)[None, :, None], 3, 2)
            return np.broadcast_to(ramp, (len(positions), 32, 32, 3)).copy()

    config = ViewConfig(view_size=32, randaugment_ops=1, randaugment_magnitude=9.0, randaugment_set="gentle")
    middle = Views(Ramp(), config).render(np.arange(200), 0).pixels[:, 0, 16, 6:26].numpy().astype(int)
    assert (np.diff(middle, axis=1) >= 0).all(1).mean() > 0.9  # a row of a sheared ramp is still a ramp
    every = Views(Ramp(), ViewConfig(view_size=32, randaugment_ops=1)).render(np.arange(200), 0).pixels
    rows = every[:, 0, 16, 6:26].numpy().astype(int)
    assert (np.diff(rows, axis=1) >= 0).all(1).mean() < (np.diff(middle, axis=1) >= 0).all(1).mean()
