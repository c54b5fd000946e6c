"""The tests of caikit_pt. They compare bits: with as many threads everywhere, from the import of torch on."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
