#!/usr/bin/env bats
# What softmig run measures from outside: memory that the driver holds for the slice beyond the ledger.

# shellcheck disable=SC2016,SC2154 # scripts for other shells; variables of bats
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
    # Soon the library of the other process knows.
    sleep 0.4
    ! ask "alloc 2684354560" || exit 2
    exec 7>&-
    less() { [ "$(beyond)" -lt 64 ]; }
    eventually less || { beyond; exit 3; }
    sleep 0.4
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
  # As fast as it goes, for six seconds, with an eye on the page (abi::ExtraPage).
  cat >"$work/churn.py" <<'PYTHON'
import ctypes, os, struct, time

driver = ctypes.CDLL("libcuda.so.1")
context, address = ctypes.c_void_p(), ctypes.c_uint64()


def must(code):
    if code != 0:
        raise SystemExit(f"CUDA error {code}")


must(driver.cuInit(0))
must(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
must(driver.cuCtxSetCurrent(context))
worst, looks, end = 0, 0, time.monotonic() + 6
while time.monotonic() < end:
    for _ in range(100):
        must(driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(1 << 30)))
        must(driver.cuMemFree_v2(address))
    try:
        with open(os.environ["SOFTMIG_REGION"] + ".extra", "rb") as page:
            worst = max(worst, struct.unpack_from("Q", page.read(), 32)[0])
            looks += 1
    except FileNotFoundError:
        pass
print(f"worst of {looks}: {worst >> 20} MiB")
raise SystemExit(0 if looks > 100 and worst < 64 << 20 else 1)
PYTHON
  run -0 sliced -- python3 "$work/churn.py"
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
