#!/usr/bin/env bats
# softmig limits: what holds here, where it comes from, what is used.

# shellcheck disable=SC2016,SC2154 # scripts for other shells; variables of bats
load helpers

# A field of the JSON on standard input; devices[0] by a leading 0.
field() { python3 -c 'import json, sys
value = json.load(sys.stdin)
for key in sys.argv[1:]:
    value = value[int(key)] if key.isdigit() else value[key]
print(json.dumps(value))' "$@"; }

@test "outside of a slice: not limited, status 3" {
  run -3 "$SOFTMIG" limits
  [ "$output" = "limits from  nowhere: this process is not limited" ]
  run -3 --separate-stderr "$SOFTMIG" limits --json
  [ "$(field source <<<"$output")" = '"none"' ]
  [ "$(field limited <<<"$output")" = false ]
  [ "$(field region <<<"$output")" = null ]
}

@test "in a slice: limits, origin, region and devices, status 0" {
  run -0 sliced --sm 25 -- "$SOFTMIG" limits
  [ "${lines[0]}" = "limits from  softmig run" ]
  [[ "${lines[1]}" == "region       $SLURM_TMPDIR/softmig-run."*/region ]]
  [[ "$output" == *"GPU  NAME"*"LIMIT"*"USED"*"FREE"*"PROCESSES"*"CONTEXT"*"TIME"* ]]
  [[ "$output" == *"4096 MiB"*"0 MiB"*"4096 MiB"*"25 %"* ]]
}

@test "a limit above what the card has shows the card" {
  run -0 "$SOFTMIG" run --sim 1x8G --memory 64G -- "$SOFTMIG" limits --json
  [ "$(field devices 0 memory_limit <<<"$output")" = 8589934592 ]
  [ "$(field devices 0 free <<<"$output")" = 8589934592 ]
}

@test "JSON has the same in bytes" {
  run -0 sliced --sm 25 -- "$SOFTMIG" limits --json
  [ "$(field source <<<"$output")" = '"environment"' ]
  [ "$(field limited <<<"$output")" = true ]
  [ "$(field devices 0 memory_limit <<<"$output")" = 4294967296 ]
  [ "$(field devices 0 free <<<"$output")" = 4294967296 ]
  [ "$(field devices 0 used <<<"$output")" = 0 ]
  [ "$(field devices 0 sm_limit <<<"$output")" = 25 ]
  [ "$(field devices 0 launches <<<"$output")" = 0 ]
  [ "$(field devices 0 processes <<<"$output")" = '[]' ]
}

@test "what a process holds is shown with its name" {
  # The program holds 1 GiB until its input ends.
  run -0 sliced -- bash -c '
    coproc worker { "$SOFTMIG" gpu-worker; }
    read -r _ pid <&"${worker[0]}"
    uuid=$("$SOFTMIG" limits --json | python3 -c "import json, sys
print(json.load(sys.stdin)[\"devices\"][0][\"uuid\"])")
    for request in "open $uuid" "alloc 1073741824"; do
      echo "$request" >&"${worker[1]}"
      read -r answer <&"${worker[0]}"
      [ "$answer" = ok ] || { echo "$request: $answer"; exit 1; }
    done
    "$SOFTMIG" limits
    "$SOFTMIG" limits --json | python3 -c "import json, sys
device = json.load(sys.stdin)[\"devices\"][0]
process, = device[\"processes\"]
print(process[\"pid\"] == int(sys.argv[1]), process[\"bytes\"] - process[\"context_bytes\"] == 1 << 30)
print(device[\"used\"] >= process[\"bytes\"], device[\"used\"] + device[\"free\"] == 4 << 30)
" "$pid"'
  [[ "$output" == *"PID  USER"*"GPU"*"USED"*"PROGRAM"* ]]
  [[ "$output" == *" MiB  softmig"* ]]
  [[ "$output" == *"True True"*"True True"* ]]
}

@test "what each process did with GPU time, where that is limited" {
  run -0 sliced --sm 50 -- bash -c '
    coproc worker { "$SOFTMIG" gpu-worker; }
    read -r _ pid <&"${worker[0]}"
    uuid=$("$SOFTMIG" limits --json | python3 -c "import json, sys
print(json.load(sys.stdin)[\"devices\"][0][\"uuid\"])")
    for request in "open $uuid" launch launch; do
      echo "$request" >&"${worker[1]}"
      read -r answer <&"${worker[0]}"
    done
    "$SOFTMIG" limits
    "$SOFTMIG" limits --json | python3 -c "import json, sys
device = json.load(sys.stdin)[\"devices\"][0]
process, = device[\"processes\"]
print(process[\"launches\"], process[\"graph_launches\"], process[\"gpu_time_ns\"] == device[\"gpu_time_ns\"])"'
  [[ "$output" == *"GPU  GPU TIME USED"*"WAITED  LAUNCHES  GRAPHS"* ]]
  [[ "$output" == *"PID  USER"*"USED  GPU TIME"*"WAITED  LAUNCHES  PROGRAM"* ]]
  [[ "$output" =~ " s         2  softmig" ]]
  [ "${lines[-1]}" = "2 0 True" ]
}

@test "every device is listed, CUDA_VISIBLE_DEVICES hides and orders" {
  run -0 "$SOFTMIG" run --sim 3x8G --memory 4G -- sh -c '"$SOFTMIG" limits --json'
  [ "$(python3 -c 'import json, sys; print([d["index"] for d in json.load(sys.stdin)["devices"]])' <<<"$output")" = "[0, 1, 2]" ]
  run -0 "$SOFTMIG" run --sim 3x8G --memory 4G --device 2,0 -- sh -c '"$SOFTMIG" limits --json'
  [ "$(python3 -c 'import json, sys; print([d["index"] for d in json.load(sys.stdin)["devices"]])' <<<"$output")" = "[2, 0]" ]
}

@test "limits of variables alone" {
  run -0 env CUDA_DEVICE_MEMORY_LIMIT=16g "$SOFTMIG" limits
  [ "${lines[0]}" = "limits from  environment variables" ]
  [[ "$output" == *"16384 MiB"* ]]
}

@test "a variable that is no limit closes the slice: status 4 and its text" {
  run -4 env CUDA_DEVICE_MEMORY_LIMIT=many "$SOFTMIG" limits
  [[ "$output" == *"every allocation is refused"* ]]
  [[ "$output" == *'CUDA_DEVICE_MEMORY_LIMIT: "many" is not a size such as'* ]]
  run -4 env CUDA_DEVICE_MEMORY_LIMIT=many "$SOFTMIG" limits --json
  [ "$(field source <<<"$output")" = '"closed"' ]
  [[ "$(field error <<<"$output")" == *many* ]]
}

@test "root's config of the job: its path, its limits, its errors" {
  with_empty_run 'export SLURM_JOB_ID=4711
    echo CUDA_DEVICE_MEMORY_LIMIT=12288M >/run/softmig/4711.conf
    CUDA_DEVICE_MEMORY_LIMIT=1G "$SOFTMIG" limits
    echo CUDA_DEVICE_MEMORY_LIMIT=12288X >/run/softmig/4711.conf
    "$SOFTMIG" limits || echo "status $?"'
  [ "$status" -eq 0 ]
  [ "${lines[0]}" = "limits from  /var/run/softmig/4711.conf (root's file of this job)" ]
  [ "${lines[1]}" = "job          4711" ]
  [[ "$output" == *"12288 MiB"* ]]
  [[ "$output" == *'/var/run/softmig/4711.conf:1: CUDA_DEVICE_MEMORY_LIMIT: "12288X" is not'* ]]
  [ "${lines[-1]}" = "status 4" ]
}

@test "no colours in a file, nor at a terminal with NO_COLOR; colours at a terminal" {
  run -0 sliced -- "$SOFTMIG" limits
  [[ "$output" != *$'\033'* ]]
  at_terminal() { python3 -c 'import os, pty, sys
os.environ["TERM"] = "xterm"
pty.spawn(sys.argv[1:])' "$@"; }
  run -0 at_terminal env CUDA_DEVICE_MEMORY_LIMIT=1G "$SOFTMIG" limits
  [[ "$output" == *$'\033[1m'* ]]
  run -0 at_terminal env NO_COLOR=1 CUDA_DEVICE_MEMORY_LIMIT=1G "$SOFTMIG" limits
  [[ "$output" != *$'\033'* ]]
}

@test "lines fit a terminal of 100 columns and end without blanks" {
  run -0 "$SOFTMIG" run --sim 2x80G:h100 --memory 64G --sm 25 -- "$SOFTMIG" limits
  for line in "${lines[@]:2}"; do
    [ "${#line}" -le 100 ]
    [[ "$line" != *" " ]]
  done
}

@test "a full disk is an error" {
  run -1 bash -c '"$SOFTMIG" config keys >/dev/full'
  [[ "$output" == *"No space left on device"* ]]
}
