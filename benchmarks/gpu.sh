#!/usr/bin/env bash
# All that a GPU is needed for, in one command; see benchmarks/gpu.py.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python}" benchmarks/gpu.py "$@"
