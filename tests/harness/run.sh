#!/bin/sh
# Shows that lm-evaluation-harness, unmodified, measures tuned prompts over the web door as the server does.
# usage: tests/harness/run.sh PYTHON [--environment DIRECTORY]   (PYTHON: the project's)
set -eu
python=$(command -v "${1:?usage: $0 PYTHON}")
shift
case $python in /*) ;; *) python=$PWD/$python ;; esac
cd "$(dirname "$0")/../.."
# The models are small: more threads than cores only get in each other's way.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$python" -u -m tests.harness "$@"
