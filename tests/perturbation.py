"""What the outcome of a training may hang on, to be changed from outside: `make perturbed`.

TRAINING_SEED      of the trainings whose outcome a test looks at
LINEAR_KERNEL      the setting: torch or onednn, whose products differ in their last digits
OMP_NUM_THREADS    which changes the order of sums
"""

from __future__ import annotations

import os

SEED = int(os.environ.get("TRAINING_SEED", "73"))
