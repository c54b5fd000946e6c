"""Rows of several lengths as one tensor and a mask."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pad_left(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows [T_i, H] as one tensor [B, T, H] aligned at the end, and its mask [B, T] (int64)."""
    return _pad(rows, left=True)


def pad_right(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows [T_i, H] as one tensor [B, T, H] aligned at the start, and its mask [B, T] (int64)."""
    return _pad(rows, left=False)


def with_one_more(mask: Tensor) -> Tensor:
    """The mask [B, T] of rows that have all grown by a token: [B, T + 1]."""
    return torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)


def _pad(rows: Sequence[Tensor], left: bool) -> tuple[Tensor, Tensor]:
    longest = max(row.shape[0] for row in rows)
    padded, masks = [], []
    for row in rows:
        missing = longest - row.shape[0]
        rim = (missing, 0) if left else (0, missing)
        padded.append(torch.nn.functional.pad(row, (0, 0, *rim)))
        ones = torch.ones(row.shape[0], dtype=torch.long, device=row.device)
        masks.append(torch.nn.functional.pad(ones, rim))
    return torch.stack(padded), torch.stack(masks)
