#!/bin/bash
# Builds the library for aarch64 and tests it under qemu-user: ten minutes on two cores.
#
#   run.sh FOLDER [CTEST-OPTION...]
set -euo pipefail
if [ $# -lt 1 ]; then
  echo "usage: $0 FOLDER [CTEST-OPTION...]" >&2
  exit 2
fi
here=$(dirname "$(realpath "$0")")
folder=$1
shift
cmake -S "$here" -B "$folder" --toolchain "$here/toolchain.cmake" >/dev/null
cmake --build "$folder" --parallel "${JOBS:-$(nproc)}"
ctest --test-dir "$folder" --output-on-failure "$@"
