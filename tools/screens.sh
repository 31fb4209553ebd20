#!/bin/bash
# Draws softmig status and top as they stand at a terminal of a simulated L40S with jobs of three users, one
# near his limit and one above it: BUILD/screens/{status,top,top-wide}.svg. tests/agent/screens_test.py makes
# the PNG of docs/images of them.
#
#   screens.sh [BUILD]      as root; ./build is the default
set -euo pipefail
shopt -s inherit_errexit

source_folder=$(cd "$(dirname "$0")/.." && pwd)
build=$(cd "${1:-$source_folder/build}" && pwd)
export SOFTMIG=$build/softmig AGENT=$build/softmigd TOOLS=$source_folder/tools OUT=$build/screens
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
  # The agent says what the driver holds beyond the ledgers. It serves no metrics: the network is not ours.
  echo METRICS_ADDRESS=off >/run/t/site.conf
  "$AGENT" --config /run/t/site.conf 2>/run/t/agent.log &
  worker 70211 5001 share-worker
  worker 70214 5002 share-worker
  worker 70215 5003 gpu-worker
  say 70215 "alloc 7516192768"
  answered 70215 2
  # fill ID UID BYTES [VARIABLE]: a second program of a job, which has so much memory.
  fill() {
    mkfifo "/run/t/$1.fill"
    env SLURM_JOB_ID="$1" "${4-LD_PRELOAD=/run/t/libsoftmig.so}" \
      setpriv --reuid "$2" --regid "$2" --clear-groups "$SOFTMIG" gpu-worker \
      <"/run/t/$1.fill" >"/run/t/$1.filled" &
    eval "exec {fill_$1}>/run/t/$1.fill"
    printf "open %s\nalloc %s\n" "$uuid" "$3" >"/run/t/$1.fill"
    eventually eval "[ \"\$(grep -c ^ok /run/t/$1.filled)\" = 2 ]"
  }
  # Nearly full, and more is refused.
  fill 70211 5001 10737418240
  echo "alloc 4294967296" >"/run/t/70211.fill"
  fill 70214 5002 17179869184
  # Without the library: above the limit, and the agent names it.
  fill 70215 5003 6442450944 A=1
  eventually grep -q "70215: over_memory" /run/t/agent.log
  sleep 1
  say 70211 "run 200000 200000 0 60"
  say 70214 "run 200000 200000 0 60"
  sleep 2
  shot() { "$TOOLS/terminal_svg.py" "$@"; }
  shot --size 90x20 --seconds 1 --title "softmig status" "$OUT/status.svg" "$SOFTMIG" status
  shot --size 80x24 --seconds 3 --keys q --title "softmig top" "$OUT/top.svg" "$SOFTMIG" top
  shot --size 150x24 --seconds 3 --keys q --title "softmig top" "$OUT/top-wide.svg" "$SOFTMIG" top
  kill $(jobs -p) || true
'
echo "written: $OUT/{status,top,top-wide}.svg"
