#!/usr/bin/env bats
# softmig status: this node's GPUs and slices, each user his own.

# shellcheck disable=SC2016,SC2154 # scripts for other shells; variables of bats
load helpers
load node

# The value of a Python expression over the JSON on standard input, `all`.
value() { python3 -c 'import json, sys
all = json.load(sys.stdin)
print(eval(sys.argv[1]))' "$1"; }

@test "jobs with user, limits, slots, use and processes" {
  on_node '
    job 4711 5001 1; job 4712 5002 2
    worker 4711 5001 gpu-worker
    say 4711 "alloc 1073741824"
    answered 4711 2
    "$SOFTMIG" status
    "$SOFTMIG" status --json >/run/t/json
    python3 -c "
import json
all = json.load(open(\"/run/t/json\"))
one, two = all[\"slices\"]
device, = one[\"devices\"]
process, = device[\"processes\"]
print(one[\"name\"], one[\"job\"], one[\"user\"], one[\"slots\"], device[\"index\"], device[\"sm_limit\"])
print(device[\"used\"] == process[\"bytes\"], process[\"bytes\"] - process[\"context_bytes\"] >> 30)
print(device[\"memory_limit\"] >> 20, device[\"peak\"] == device[\"used\"])
print(two[\"user\"], two[\"slots\"], two[\"devices\"][0][\"used\"], two[\"devices\"][0][\"processes\"])
"'
  [ "$status" -eq 0 ]
  [[ "$output" == *"GPU  NAME"*"MEMORY"*"USED"*"BUSY"*"SLICES"* ]]
  [[ "$output" =~ "0    NVIDIA L40S  49152 MiB"[^$'\n']*" %       2" ]]
  [[ "$output" == *"SLICE  USER   GPU      LIMIT"*"USED"*"PEAK"*"TIME  SLOTS  PROCESSES"* ]]
  [[ "$output" =~ "4711   alice  0    12288 MiB  1"[^$'\n']*"25 %  0/4            1" ]]
  [[ "$output" =~ "4712   bob    0    24576 MiB     0 MiB     0 MiB  50 %  1,2/4          0" ]]
  [[ "$output" == *"4711 4711 alice 0/4 0 25"*"True 1"*"12288 True"*"bob 1,2/4 0 []"* ]]
}

@test "an ordinary user sees his own jobs" {
  on_node '
    job 4711 5001 1; job 4712 5002 2
    as 5001 "$SOFTMIG" status --json >/run/t/json
    python3 -c "import json; print([s[\"name\"] for s in json.load(open(\"/run/t/json\"))[\"slices\"]])"
    as 5003 "$SOFTMIG" status'
  [ "$status" -eq 0 ]
  [[ "$output" == *"['4711']"*"No slices of yours here."* ]]
  [[ "$output" != *4712* ]]
}

@test "a job that is closed, and why" {
  on_node '
    job 4711 5001 1
    echo CUDA_DEVICE_MEMORY_LIMIT=much >>/run/softmig/4711.conf
    "$SOFTMIG" status'
  [ "$status" -eq 0 ]
  [[ "$output" == *"4711"*"closed"* ]]
  [[ "$output" == *"closed 4711: nothing can be allocated: 4711.conf:"*"CUDA_DEVICE_MEMORY_LIMIT=much"* ]]
}

@test "slices of softmig run, while a program lives in them" {
  run -0 "$SOFTMIG" run --sim 1x48G:l40s -- sh -c '
    "$SOFTMIG" run --memory 4G --sm 25 --slots 1/4 -- "$SOFTMIG" status
    "$SOFTMIG" status'
  [[ "$output" =~ run\.[A-Za-z0-9]{6}" "[^$'\n']*"4096 MiB"[^$'\n']*"25 %  1/4" ]]
  [[ "${lines[-1]}" == "No slices"* ]]
}

@test "slices of one simulated machine are not seen on another" {
  "$SOFTMIG" run --sim 1x48G:l40s --memory 4G -- sleep 20 &
  eventually eval '[ "$(slices_left)" -eq 1 ]'
  sleep 0.3
  run -0 "$SOFTMIG" run --sim 1x8G -- "$SOFTMIG" status --json
  kill %1
  [ "$(value 'len(all["slices"]), all["gpus"][0]["memory"] >> 30' <<<"$output")" = "(0, 8)" ]
}

@test "a region that a user made of something else is not followed" {
  on_node '
    mkdir -m 755 /run/t/secret; cp /etc/hostname /run/t/secret/region
    for target in /run/t/secret/region /dev/null /nowhere; do
      SOFTMIG_REGION=$target as 5001 sleep 3 &
    done
    sleep 0.3
    "$SOFTMIG" status
    wait'
  [ "$status" -eq 0 ]
  [[ "$output" == *"No slices here."* ]]
}

@test "without a GPU it says so" {
  run -0 env LD_LIBRARY_PATH= "$SOFTMIG" status
  [[ "$output" == *"driver"* ]]
}

@test "lines fit a terminal of 100 columns and end without blanks" {
  run -0 "$SOFTMIG" run --sim 2x80G:h100 --memory 64G --sm 25 -- "$SOFTMIG" status
  for line in "${lines[@]}"; do
    [ "${#line}" -le 100 ]
    [[ "$line" != *" " ]]
  done
}
