#!/bin/bash
# Fetches CUDA runtimes of several versions from PyPI and builds the program of the matrix against
# each, with the headers and the library of that version.
#
#   fetch.sh [--nvrtc VERSION] [--newest] FOLDER
#
#   FOLDER/bin/runtime_12.4_shared     and _static, where the wheel of that version has the library
#   FOLDER/lib/12.4/libcudart.so.12    what a shared one is linked with
#   FOLDER/wheels/*.whl                nvJPEG, which has the static cudart of its version inside, and
#                                      with --nvrtc NVRTC of that version; matrix.py unpacks them
#
# --newest looks for a version newer than those named here. What is there is not made again. It
# needs pip, g++, binutils and ptxas and fatbinary of a CUDA toolkit (any of 12.0 or newer); the
# folder can be carried to a machine that has none of them. Exit status: 0 all there, 1 some are not.
set -euo pipefail
shopt -s inherit_errexit

# version of CUDA:version of the wheel; the last of each version that the wheel index has.
runtimes=(12.0:12.0.146 12.2:12.2.140 12.4:12.4.127 12.6:12.6.77 12.8:12.8.90 12.9:12.9.79
  13.0:13.0.96 13.5:13.5.37)
nvjpegs=(12.0.0.28 12.2.0.2 12.3.1.117 12.3.5.92)
nvrtc=
newest=
folder=

while [ $# -gt 0 ]; do
  case $1 in
    --nvrtc) nvrtc=$2 && shift ;;
    --newest) newest=yes ;;
    -*) folder= && break ;;
    *) folder=$1 ;;
  esac
  shift
done
if [ -z "$folder" ]; then
  echo "usage: $0 [--nvrtc VERSION] [--newest] FOLDER" >&2
  exit 2
fi
mkdir -p "$folder"/{bin,lib,wheels}
folder=$(realpath "$folder")
here=$(dirname "$(realpath "$0")")
programs=$here/programs
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0

# A tool of the toolkit, wherever it lies.
tool() {
  local place
  for place in "$(command -v "$1" || true)" "${CUDA_HOME:-/usr/local/cuda}/bin/$1"; do
    if [ -x "$place" ]; then
      echo "$place"
      return
    fi
  done
  echo "$0: $1 is not there; install a CUDA toolkit or set CUDA_HOME" >&2
  return 1
}

# download PACKAGE==VERSION: the path of its wheel, in a folder of its own
download() {
  local place=$scratch/$1
  mkdir -p "$place"
  if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-cache-dir \
    --only-binary=:all: --platform manylinux2014_x86_64 --platform manylinux1_x86_64 \
    --platform manylinux_2_27_x86_64 --python-version 3.12 --retries 1 --timeout 30 --dest "$place" \
    "$1" >"$place.log" 2>&1; then
    echo "cannot fetch $1: $(tail -n 1 "$place.log")" >&2
    return 1
  fi
  echo "$place"/*.whl
}

unpack() { python3 -m zipfile -e "$1" "$2"; }

# The machine code of the kernels, made once.
make_kernels() {
  local ptxas fatbinary images=() card
  ptxas=$(tool ptxas)
  fatbinary=$(tool fatbinary)
  for card in 80 90; do
    "$ptxas" -arch "sm_$card" "$programs/mix.ptx" -o "$scratch/mix.$card"
    images+=("--image3=kind=elf,sm=$card,file=$scratch/mix.$card")
  done
  "$fatbinary" --create="$scratch/mix.fatbin" "${images[@]}" \
    --image3="kind=ptx,sm=75,file=$programs/mix.ptx"
  # The one header of the compiler that the runtime's own include.
  mkdir -p "$scratch/crt/crt"
  cp "$(dirname "$ptxas")/../include/crt/host_defines.h" "$scratch/crt/crt/"
}

# compile OUTPUT INCLUDE LIBRARY OPTION...
compile() {
  local output=$1 include=$2 library=$3
  shift 3
  g++ -std=c++20 -O1 -Wall -Wextra -Werror -DMIX_FATBIN="\"$scratch/mix.fatbin\"" \
    -DMIX_PTX="\"$programs/mix.ptx\"" -isystem "$include" -isystem "$scratch/crt" -o "$output" \
    "$programs/runtime.cc" "$library" "$@" -ldl -lrt -lpthread -static-libstdc++ -static-libgcc -s
}

# add_runtime VERSION WHEEL-VERSION
add_runtime() {
  local version=$1 package=nvidia-cuda-runtime-cu12 wheel place include lib shared
  [ "$folder/bin/runtime_${version}_shared" -nt "$programs/runtime.cc" ] && return
  [ "${version%%.*}" -ge 13 ] && package=nvidia-cuda-runtime
  wheel=$(download "$package==$2") || return 1
  place=$scratch/runtime-$version
  unpack "$wheel" "$place"
  include=$(dirname "$(find "$place" -name cuda_runtime_api.h)")
  lib=$(dirname "$(find "$place" -name 'libcudart.so.*')")
  shared=$(basename "$lib"/libcudart.so.*)
  mkdir -p "$folder/lib/$version"
  cp "$lib/$shared" "$folder/lib/$version/"
  compile "$folder/bin/runtime_${version}_shared" "$include" "$lib/$shared" \
    "-Wl,-rpath,\$ORIGIN/../lib/$version"
  [ -e "$lib/libcudart_static.a" ] || return 0
  if [ -e "$lib/libculibos.a" ]; then set -- "$lib/libculibos.a"; else set --; fi
  compile "$folder/bin/runtime_${version}_static" "$include" "$lib/libcudart_static.a" "$@"
}

# The newest version of a package in the index, e.g. 13.5.37.
newest_of() {
  python3 -m pip index versions --disable-pip-version-check "$1" 2>/dev/null |
    sed -n 's/^Available versions: \([0-9.]*\).*/\1/p'
}

# add_wheel PACKAGE VERSION
add_wheel() {
  local wheel
  compgen -G "$folder/wheels/${1//-/_}-$2-*.whl" >/dev/null && return
  wheel=$(download "$1==$2") || return 1
  mv "$wheel" "$folder/wheels/"
}

if [ "$newest" ]; then
  latest=$(newest_of nvidia-cuda-runtime)
  short=$(echo "$latest" | cut -d. -f1,2)
  case " ${runtimes[*]} " in *" $short:"*) ;; *) [ "$short" ] && runtimes+=("$short:$latest") ;; esac
fi
make_kernels
for runtime in "${runtimes[@]}"; do
  add_runtime "${runtime%:*}" "${runtime#*:}" || failed=1
done
for version in "${nvjpegs[@]}"; do
  add_wheel nvidia-nvjpeg-cu12 "$version" || failed=1
done
if [ "$nvrtc" ]; then
  package=nvidia-cuda-nvrtc-cu12
  [ "${nvrtc%%.*}" -ge 13 ] && package=nvidia-cuda-nvrtc
  add_wheel "$package" "$nvrtc" || failed=1
fi

(cd "$folder" && find . -type f -printf '%10s %p\n' | sort -k2)
du -sh --apparent-size "$folder"
exit "$failed"
