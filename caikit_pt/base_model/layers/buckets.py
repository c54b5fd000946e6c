"""Sizes that shapes are rounded up to, so that few shapes stand for all: 1, 2, 3, 4, 6, 8, 12, 16, 24 ..."""

from __future__ import annotations


def bucket(size: int) -> int:
    """The smallest power of two, or one and a half of one, that holds `size`: at most half as much again."""
    power = 1 << max(0, size - 1).bit_length()
    less = power * 3 // 4
    return less if less >= size and power > 2 else power


def room(has: tuple[int, int], needs: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of new tensors in the place of others: no fewer than either, where that isn't twice
    what the larger of the two takes. Many short rows at one time and few long ones at another need no room
    for many long ones."""
    both = max(has[0], needs[0]), max(has[1], needs[1])
    larger = max(has[0] * has[1], needs[0] * needs[1])
    return both if both[0] * both[1] <= 2 * larger else needs
