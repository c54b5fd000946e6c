#!/bin/sh
# Compares answers of a real vLLM server with those of the engine here.
# usage: tests/vllm/run.sh PYTHON [--environment DIRECTORY]   (PYTHON: the project's)
set -eu
python=$(command -v "${1:?usage: $0 PYTHON}")
shift
case $python in /*) ;; *) python=$PWD/$python ;; esac
cd "$(dirname "$0")/../.."
# The models are small: more threads than cores only get in each other's way.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$python" -u -m tests.vllm "$@"
