"""All attacks there are."""

from __future__ import annotations

from attacks import artifacts, names, requests, wire

ATTACKS = [*names.ATTACKS, *artifacts.ATTACKS, *requests.ATTACKS, *wire.ATTACKS]
