"""Random numbers that belong to (seed, sample, view, operation, draw) and to nothing else.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) maps a 128-bit counter and a
64-bit key to four 32-bit numbers. The key is the seed; the counter is the sample's id, the view and the operation, so
that no worker, batch or rank has a state and adding an operation shifts no other. Everything here is integer
arithmetic: draws are equal to the bit on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache

import numpy as np

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_ROUNDS = 10
_MAX_DRAWS = 4 << 8  # eight bits of the counter number the blocks of four draws


def philox4x32(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Encrypt counters with ten rounds.

    Args:
        counter: uint32 values in an integer array [4, ...].
        key: two uint32 values.

    Returns:
        uint32 [4, ...].
    """
    c0, c1, c2, c3 = (np.array(word, np.uint64) for word in counter)
    key0, key1 = key
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = product1 >> _SHIFT, product0 >> _SHIFT
        c0 ^= c1
        c0 ^= np.uint64(key0)
        c2 ^= c3
        c2 ^= np.uint64(key1)
        product1 &= _LOW
        product0 &= _LOW
        c1, c3 = product1, product0
        key0, key1 = (key0 + _WEYL[0]) & 0xFFFFFFFF, (key1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack((c0, c1, c2, c3)).astype(np.uint32)


@cache
def _operation_code(name: str) -> int:
    """Return 24 bits of the name's SHA-256; the tests hold that no two operations share a code."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:3], "big")


def draw(seed: int, ids: np.ndarray, view: int, counts: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return the random numbers of some samples at one view.

    Args:
        seed: any integer; its low 64 bits count.
        ids: uint64 [n], the samples' ids.
        view: any integer; its low 32 bits count.
        counts: how many numbers each named operation draws.

    Returns:
        For each operation uint32 [n, count]; the same whatever else is drawn with it.
    """
    if max(counts.values(), default=0) > _MAX_DRAWS:
        raise ValueError(f"an operation has at most {_MAX_DRAWS} draws, asked for {dict(counts)}")
    blocks = {name: -(-count // 4) for name, count in counts.items()}
    codes = [(_operation_code(name) << 8) + block for name, number in blocks.items() for block in range(number)]
    words = np.empty((4, len(codes), len(ids)), np.uint64)
    words[0] = ids & _LOW
    words[1] = ids >> _SHIFT
    words[2] = view & 0xFFFFFFFF
    words[3] = np.array(codes, np.uint64)[:, None]
    numbers = philox4x32(words, (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))
    numbers = np.ascontiguousarray(numbers.transpose(2, 1, 0)).reshape(len(ids), 4 * len(codes))
    result, start = {}, 0
    for name, count in counts.items():
        result[name] = numbers[:, start : start + count]
        start += 4 * blocks[name]
    return result


def below(draws: np.ndarray, bound: np.ndarray | int) -> np.ndarray:
    """Map uint32 draws to int64 in [0, bound), with a bias of at most bound / 2^32."""
    return ((draws.astype(np.uint64) * np.asarray(bound, np.uint64)) >> _SHIFT).astype(np.int64)


def happens(draws: np.ndarray, probability: float) -> np.ndarray:
    """Return bool: true with ``probability``, which is rounded to 2^-32."""
    return draws.astype(np.uint64) < np.uint64(round(probability * 2**32))
