#!/usr/bin/env bats
# softmig region: what stands in a region.

# shellcheck disable=SC2016,SC2154 # scripts for other shells; variables of bats
load helpers
load node

@test "devices and slots of the slice that this is" {
  run -0 sliced --sm 50 -- bash -c '
    uuid=$("$SOFTMIG" limits --json | python3 -c "import json, sys
print(json.load(sys.stdin)[\"devices\"][0][\"uuid\"])")
    printf "open %s\nalloc 1048576\nlaunch\n" "$uuid" | "$SOFTMIG" gpu-worker
    "$SOFTMIG" region
    "$SOFTMIG" region --json >"$SLURM_TMPDIR/json"
    "$SOFTMIG" region "$SOFTMIG_REGION" | head -n 1'
  [[ "$output" == *"layout      version "*" bytes, 1 slots of 32768 used so far"* ]]
  [[ "$output" =~ "DEVICE  KEY"[^$'\n']*"USED"[^$'\n']*"PEAK"[^$'\n']*"LAUNCHES" ]]
  [[ "$output" =~ "SLOT"[^$'\n']*"PID"[^$'\n']*"STATE"[^$'\n']*"CHARGED" ]]
  [[ "$output" =~ " 0 "[^$'\n']*" gone " ]]
  [[ "${lines[-1]}" == "region      $SLURM_TMPDIR/softmig-run."*/region ]]
  run -0 python3 -c 'import json, sys
all = json.load(open(sys.argv[1]))
device, = all["devices"]
slot, = all["slots"]
print(slot["state"], device["launches"], slot["devices"][0]["launches"])
print(device["peak"] >= slot["devices"][0]["bytes"] > 0, all["high_water"])' "$SLURM_TMPDIR/json"
  [ "${lines[0]}" = "gone 1 1" ]
  [ "${lines[1]}" = "True 1" ]
}

@test "what is no region: why not, and status 1" {
  echo text >"$work/text"
  head -c 1000 /dev/zero >"$work/short"
  for file in "$work/text" "$work/short" "$work"; do
    run -1 "$SOFTMIG" region "$file"
    [[ "$output" == "softmig region: $file: not a region"* || "$output" == *"not a regular file"* ]]
  done
  run -1 "$SOFTMIG" region "$work/nowhere"
  [[ "$output" == *"there is no such file"* ]]
  run -2 "$SOFTMIG" region nonsense
  run -2 "$SOFTMIG" region "$(printf 'a%.0s' {1..5000})"
  [[ "$output" == *"neither a file nor a job"* ]]
  run -2 "$SOFTMIG" region
  [[ "$output" == *"this process is in no slice"* ]]
}

@test "another version of the layout is named" {
  run -0 sliced -- bash -c 'cp "$SOFTMIG_REGION" "$SLURM_TMPDIR/copy"'
  printf '\011' | dd of="$SLURM_TMPDIR/copy" bs=1 seek=8 conv=notrunc status=none
  run -1 "$SOFTMIG" region "$SLURM_TMPDIR/copy"
  [[ "$output" == *"layout version 9, and this program knows "* ]]
}

@test "a job by its number, for its user alone" {
  on_node '
    job 4711 5001 1
    as 5001 "$SOFTMIG" region 4711
    as 5002 "$SOFTMIG" region 4711 || echo "status $?"'
  [ "$status" -eq 0 ]
  [[ "$output" == *"region      /var/run/softmig/4711.region"* ]]
  [[ "$output" == *"/var/run/softmig/4711.region: cannot be read"*"status 1"* ]]
}
