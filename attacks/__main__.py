"""Attacks a server of its own, and prints what has come of it: `python -m attacks [--only WORD]`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from attacks.attack import attempt
from attacks.every import ATTACKS
from attacks.target import target


def main() -> int:
    """0 where every attack was refused as it is to be."""
    parser = argparse.ArgumentParser(prog="python -m attacks", description=__doc__)
    parser.add_argument("--only", default="", help="those whose name has this in it")
    options = parser.parse_args()
    chosen = [attack for attack in ATTACKS if options.only in attack.name]
    failed = 0
    with tempfile.TemporaryDirectory() as directory, target(Path(directory)) as attacked:
        for attack in chosen:
            outcome = attempt(attack, attacked)
            failed += bool(outcome.faults)
            verdict = "; ".join(outcome.faults) or "ok"
            print(
                f"{verdict:<4} {attack.name}: {outcome.status or 'answered'}, {outcome.seconds:.1f} s",
                flush=True,
            )
    print(f"{len(chosen) - failed} of {len(chosen)} attacks came to nothing")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
