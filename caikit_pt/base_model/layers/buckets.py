"""Sizes that shapes are rounded up to, so that few shapes stand for all: 1, 2, 3, 4, 6, 8, 12, 16, 24 ..."""

from __future__ import annotations


def bucket(size: int) -> int:
    """The smallest power of two, or one and a half of one, that holds `size`: at most half as much again."""
    power = 1 << max(0, size - 1).bit_length()
    less = power * 3 // 4
    return less if less >= size and power > 2 else power
