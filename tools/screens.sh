#!/bin/bash
# Draws softmig status and top as they stand at a terminal of a simulated L40S with jobs of three users:
# BUILD/screens/{status,top,top-wide}.svg. tests/agent/screens_test.py makes the PNG of docs/images of them.
#
#   screens.sh [BUILD]      as root; ./build is the default
set -euo pipefail
shopt -s inherit_errexit

source_folder=$(cd "$(dirname "$0")/.." && pwd)
build=$(cd "${1:-$source_folder/build}" && pwd)
export SOFTMIG=$build/softmig TOOLS=$source_folder/tools OUT=$build/screens
mkdir -p "$OUT"

# shellcheck source=/dev/null
source "$source_folder/tests/cli/node.bash"
eventually() {
  for _ in {1..100}; do
    if "$@"; then return 0; fi
    sleep 0.05
  done
  return 1
}
skip() {
  echo "screens.sh: $1" >&2
  exit 1
}
run() { "$@"; }

# shellcheck disable=SC2016 # for the node
on_node '
  printf "carol:x:5003:5003::/:/bin/sh\n" >>/etc/passwd
  job 70211 5001 1; job 70214 5002 2; job 70215 5003 1
  worker 70211 5001 share-worker
  worker 70214 5002 share-worker
  worker 70215 5003 gpu-worker
  say 70215 "alloc 11274289152"
  answered 70215 2
  say 70215 "alloc 2147483648"
  # A second program of a job, which has so many bytes of memory.
  fill() {
    mkfifo "/run/t/$1.fill"
    env SLURM_JOB_ID="$1" LD_PRELOAD=/run/t/libsoftmig.so \
      setpriv --reuid "$2" --regid "$2" --clear-groups "$SOFTMIG" gpu-worker \
      <"/run/t/$1.fill" >"/run/t/$1.filled" &
    eval "exec {fill_$1}>/run/t/$1.fill"
    printf "open %s\nalloc %s\n" "$uuid" "$3" >"/run/t/$1.fill"
    eventually eval "[ \"\$(grep -c ^ok /run/t/$1.filled)\" = 2 ]"
  }
  fill 70211 5001 4294967296
  fill 70214 5002 17179869184
  sleep 1
  say 70211 "run 200000 200000 0 60"
  say 70214 "run 200000 200000 0 60"
  sleep 3
  shot() { "$TOOLS/terminal_svg.py" "$@"; }
  shot --size 90x20 --seconds 1 --title "softmig status" "$OUT/status.svg" "$SOFTMIG" status
  shot --size 80x24 --seconds 3 --keys q --title "softmig top" "$OUT/top.svg" "$SOFTMIG" top
  shot --size 150x24 --seconds 3 --keys q --title "softmig top" "$OUT/top-wide.svg" "$SOFTMIG" top
  kill $(jobs -p) || true
'
echo "written: $OUT/{status,top,top-wide}.svg"
