#!/bin/bash
# Builds everything: build/libsoftmig.so, build/softmig, the simulated GPU and the test programs.
#
#   ./build.sh [CMAKE OPTIONS...]
#
# `cd build && make` builds again what has changed. tools/deps.sh build names what has to be
# installed; no part of NVIDIA's software is needed.
set -euo pipefail
shopt -s inherit_errexit

cd "$(dirname "$0")"
folder=${BUILD:-build}
# A folder that was configured before keeps its generator.
if [ ! -e "$folder/CMakeCache.txt" ]; then set -- -G "Unix Makefiles" "$@"; fi
cmake -S . -B "$folder" "$@"
cmake --build "$folder" --parallel "${JOBS:-$(nproc)}"
if [ -e "$folder/libsoftmig.so" ]; then echo "built $folder/libsoftmig.so"; fi
