#!/usr/bin/env bats
# softmig demo on the simulated GPU: every promise that it prints holds.

# shellcheck disable=SC2016,SC2154 # scripts for other shells; variables of bats
load helpers

@test "the demo holds what it promises" {
  run -0 "$SOFTMIG" demo --simulated
  [[ "$output" == *"simulated"* ]]
  [[ "$output" == *"CUDA_ERROR_OUT_OF_MEMORY (2)"* ]]
  [[ "$output" == *"checks hold on a simulated GPU."* ]]
  [[ "$output" != *"NOT SO"* ]]
  [ "$(slices_left)" -eq 0 ]
}

@test "the next command that it names works here" {
  run -0 "$SOFTMIG" demo --simulated
  next=$(grep -A1 '^Next:' <<<"$output" | tail -n 1)
  [[ "$next" == *"-- YOUR PROGRAM" ]]
  run -0 bash -c "${next/YOUR PROGRAM/true}"
}

@test "it fits a terminal of 100 columns, and a log has no colours" {
  run -0 "$SOFTMIG" demo --simulated
  local line
  for line in "${lines[@]}"; do
    line=${line//"$SOFTMIG"/softmig}
    [ "${#line}" -le 100 ]
  done
  [[ "$output" != *$'\033'* ]]
}

@test "inside a slice it does not run" {
  run -1 sliced -- "$SOFTMIG" demo
  [[ "$output" == *"this process is in a slice already"* ]]
}
