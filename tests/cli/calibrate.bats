#!/usr/bin/env bats
# softmig calibrate, on simulated GPUs whose contexts cost what SOFTMIG_SIM says.

# shellcheck disable=SC2016,SC2154 # scripts for other shells; variables of bats
load helpers

calibrate() { "$SOFTMIG" run --sim "$1" -- "$SOFTMIG" calibrate --output "$work/cost" "${@:2}"; }

@test "the cost of a context with its margin, one line for each model and driver" {
  run -0 calibrate '1x48G:l40s+2x80G:h100,context=400M'
  [[ "$output" == *"GPU 0"*"GPU 1"*"written to $work/cost"* ]]
  [[ "$output" != *"GPU 2"* && "$output" != *busy* ]]
  [ "$(grep -c -v '^#' "$work/cost")" -eq 2 ]
  while IFS=$'\t' read -r driver name bytes; do
    [[ "$driver" =~ ^[0-9.]+$ && "$name" == NVIDIA* ]]
    # What the card has less is more than what is listed; with the margin it is not much more.
    [ "$bytes" -gt $((400 << 20)) ]
    [ "$bytes" -lt $((450 << 20)) ]
    [ $((bytes % (2 << 20))) -eq 0 ]
  done < <(grep -v '^#' "$work/cost")
  [ "$(stat -c %a "$work/cost")" = 644 ]
}

@test "lines of other models and drivers stay, the own one is replaced" {
  printf '# kept\n1.0\tNVIDIA Old\t1\n' >"$work/cost"
  run -0 calibrate 1x80G:h100,context=400M
  run -0 calibrate 1x80G:h100,context=600M
  [ "$(sed -n 1p "$work/cost")" = "# kept" ]
  [ "$(sed -n 2p "$work/cost")" = $'1.0\tNVIDIA Old\t1' ]
  [ "$(wc -l <"$work/cost")" -eq 3 ]
  [ "$(tail -1 "$work/cost" | cut -f 3)" -gt $((600 << 20)) ]
}

@test "one device alone" {
  run -0 calibrate 1x48G:l40s+1x80G:h100 --device 1
  [[ "$output" == *"GPU 1"* && "$output" != *"GPU 0"* ]]
  run -1 calibrate 1x48G:l40s --device 7
  [[ "$output" == *"--device 7: nvidia-smi -L shows no such GPU"* ]]
}

@test "a busy card is said to be busy" {
  run -0 "$SOFTMIG" run --sim 1x48G:l40s -- bash -c '
    uuid=$("$SOFTMIG" limits --json | python3 -c "import json, sys
print(json.load(sys.stdin)[\"devices\"][0][\"uuid\"])")
    { echo "open $uuid"
      while [ ! -e "$1/done" ]; do echo "alloc 67108864"; sleep 0.01; echo free; sleep 0.01; done
    } | "$SOFTMIG" gpu-worker >"$1/answers" &
    until [ -s "$1/answers" ]; do sleep 0.01; done
    "$SOFTMIG" calibrate --output "$1/cost"
    touch "$1/done"
    wait' - "$work"
  [[ "$output" == *"written to"* ]]
  bytes=$(tail -1 "$work/cost" | cut -f 3)
  [ "$bytes" -gt $((500 << 20)) ]
  [ "$bytes" -lt $((600 << 20)) ]
}

@test "without a GPU, without root and inside a slice it says why not" {
  if [ ! -e /dev/nvidiactl ]; then
    run -1 "$SOFTMIG" calibrate --output "$work/cost"
    [[ "$output" == *"no NVIDIA GPU"* ]]
  fi
  run -1 sliced -- "$SOFTMIG" calibrate --output "$work/cost"
  [[ "$output" == *"this process is in a slice"* ]]
  if [ "$(id -u)" = 0 ]; then
    run -1 setpriv --reuid 65534 --clear-groups "$SOFTMIG" calibrate
    [[ "$output" == *"only root can write /var/lib/softmig/context_cost"* ]]
  fi
  [ ! -e "$work/cost" ]
}
