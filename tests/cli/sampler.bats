#!/usr/bin/env bats
# What softmig run measures from outside: memory that the driver holds for the slice beyond the ledger.

load helpers

# Within a slice: a worker that the library does not see takes 1 GiB, and answers stay readable.
unseen_worker='
  uuid=$("$SOFTMIG" limits --json | python3 -c "import json, sys
print(json.load(sys.stdin)[\"devices\"][0][\"uuid\"])")
  # A first program of the slice, seen by the library: the region then knows the device.
  coproc seen { "$SOFTMIG" gpu-worker; }
  read -r _ <&"${seen[0]}"
  ask() { echo "$1" >&"${seen[1]}"; read -r answer <&"${seen[0]}"; echo "$1: $answer" >&2; [ "$answer" = ok ]; }
  ask "open $uuid"
  mkfifo "$1/requests"
  env -u LD_PRELOAD "$SOFTMIG" gpu-worker <"$1/requests" >"$1/answers" &
  exec 7>"$1/requests"
  # MiB that the driver holds beyond the ledger.
  beyond() { echo $(($("$SOFTMIG" limits --json | grep -o -m 1 "beyond_ledger.*" | tr -cd 0-9) >> 20)); }
  eventually() { for _ in {1..60}; do if "$@"; then return 0; fi; sleep 0.05; done; return 1; }
'

@test "memory that the library cannot see counts, and is given back" {
  run -0 sliced -- bash -c "$unseen_worker"'
    printf "open %s\nalloc 1073741824\n" "$uuid" >&7
    eventually bash -c "[ \$(grep -c ^ok \"$1/answers\") -eq 2 ]"
    more() { [ "$(beyond)" -ge 1024 ] && [ "$(beyond)" -le 1700 ]; }
    eventually more || { beyond; exit 1; }
    # Within a second the library of the other process knows.
    sleep 1.2
    ! ask "alloc 2684354560" || exit 2
    exec 7>&-
    less() { [ "$(beyond)" -lt 64 ]; }
    eventually less || { beyond; exit 3; }
    sleep 1.2
    ask "alloc 2684354560" || exit 4' - "$work"
}

@test "a slice whose programs the library sees has nothing beyond, and the page is kept fresh" {
  run -0 sliced -- bash -c "$unseen_worker"'
    ask "alloc 1073741824"
    sleep 0.5
    [ "$(beyond)" -lt 64 ] || { beyond; exit 1; }
    first=$(stat -c %Y.%i "$SOFTMIG_REGION.extra")
    sleep 2.5
    [ "$(stat -c %Y.%i "$SOFTMIG_REGION.extra")" != "$first" ] || exit 2' - "$work"
}

@test "memory that comes and goes is not taken for memory beyond the ledger" {
  run -0 sliced -- bash -c "$unseen_worker"'
    for _ in {1..40}; do beyond; done >"$1/seen" &
    looking=$!
    while kill -0 "$looking" 2>/dev/null; do
      ask "alloc 1073741824" && ask free || exit 1
    done 2>/dev/null
    worst=$(sort -n "$1/seen" | tail -1)
    echo "worst of $(wc -l <"$1/seen"): $worst"
    [ "$worst" -lt 64 ]' - "$work"
}

@test "watching costs next to nothing" {
  run -0 python3 -c '
import os, subprocess, sys
subprocess.run([sys.argv[1], "run", "--sim", "1x8G", "--memory", "4G", "--", "sleep", "3"], check=True)
used = os.times()
print(used.children_user + used.children_system)' "$SOFTMIG"
  echo "CPU seconds of a run of three seconds: $output"
  [ "$(python3 -c "print($output < 0.15)")" = True ]
}
