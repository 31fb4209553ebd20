#!/bin/sh
# Fetches the real cuda.h and nvml.h of several CUDA versions, for tests/abi only.
#
#   fetch_headers.sh FOLDER     -> FOLDER/cuda-12.0/cuda.h ... FOLDER/nvml-13.0/nvml.h
#
# What is there already is not fetched again. Exit status: 0 all there, 1 some could not be had
# (no network, no pip), 2 wrong use. Nothing that SoftMig builds or installs needs these files.
set -u

if [ $# -ne 1 ]; then
  echo "usage: $0 FOLDER" >&2
  exit 2
fi
folder=$1
mkdir -p "$folder" || exit 2
failed=0

# fetch HEADER VERSION REQUIREMENT [PREFIX]
fetch() {
  target=$folder/${4:-}$1-$2/$1.h
  [ -s "$target" ] && return 0
  scratch=$(mktemp -d) || return 1
  if python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-cache-dir \
      --only-binary=:all: --retries 1 --timeout 20 --dest "$scratch" "$3" >"$scratch/log" 2>&1 &&
    python3 - "$scratch" "$1.h" <<'PYTHON'
import pathlib, sys, zipfile
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
(wheel,) = folder.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    (member,) = [m for m in archive.namelist() if m.endswith("/include/" + name)]
    (folder / name).write_bytes(archive.read(member))
PYTHON
  then
    mkdir -p "$(dirname "$target")" && mv "$scratch/$1.h" "$target" && echo "fetched $1.h of CUDA $2"
  else
    echo "cannot fetch $1.h of CUDA $2 ($3): $(tail -n 1 "$scratch/log")" >&2
    failed=1
  fi
  rm -rf "$scratch"
}

fetch cuda 12.0 nvidia-cuda-runtime-cu12==12.0.146
fetch cuda 12.2 nvidia-cuda-runtime-cu12==12.2.140
fetch cuda 12.4 nvidia-cuda-runtime-cu12==12.4.127
fetch cuda 12.6 nvidia-cuda-runtime-cu12==12.6.77
fetch cuda 12.8 nvidia-cuda-runtime-cu12==12.8.90
fetch cuda 12.9 nvidia-cuda-runtime-cu12==12.9.79
fetch cuda 13.0 nvidia-cuda-runtime==13.0.88
fetch nvml 12.0 nvidia-nvml-dev-cu12==12.0.140
fetch nvml 12.2 nvidia-nvml-dev-cu12==12.2.140
fetch nvml 12.4 nvidia-nvml-dev-cu12==12.4.127
fetch nvml 12.8 nvidia-nvml-dev-cu12==12.8.90
fetch nvml 12.9 nvidia-nvml-dev-cu12==12.9.79
fetch nvml 13.0 nvidia-nvml-dev==13.0.87

# For the names of functions alone: structures have changed since, and are compared up to 13.0.
fetch cuda 13.1 nvidia-cuda-runtime==13.1.80 newer-
fetch cuda 13.2 nvidia-cuda-runtime==13.2.86 newer-
fetch cuda 13.3 nvidia-cuda-runtime==13.3.29 newer-
fetch cuda 13.4 nvidia-cuda-runtime==13.4.92 newer-
fetch cuda 13.5 nvidia-cuda-runtime==13.5.37 newer-
fetch nvml 13.1 nvidia-nvml-dev==13.1.115 newer-
fetch nvml 13.2 nvidia-nvml-dev==13.2.86 newer-
fetch nvml 13.3 nvidia-nvml-dev==13.3.29 newer-
fetch nvml 13.4 nvidia-nvml-dev==13.4.92 newer-
fetch nvml 13.5 nvidia-nvml-dev==13.5.37 newer-
exit $failed
