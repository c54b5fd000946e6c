"""The tests of caikit_pt. What is compared bit for bit has as many threads everywhere, from torch's import on."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
