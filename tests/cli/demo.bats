#!/usr/bin/env bats
# softmig demo on the simulated GPU: every promise that it prints holds.

# shellcheck disable=SC2016,SC2154 # scripts for other shells; variables of bats
load helpers

# It takes a quarter of a minute: once for all tests that look at its output.
setup_file() {
  mkdir "$BATS_FILE_TMPDIR/slices"
  cd "$BATS_FILE_TMPDIR" || return
  env -u LD_PRELOAD -u SOFTMIG_REGION -u SOFTMIG_SIM -u SLURM_JOB_ID \
    SLURM_TMPDIR="$BATS_FILE_TMPDIR/slices" "$SOFTMIG" demo --simulated --plot plot.svg >output &&
    echo 0 >status || echo $? >status
}

demo() {
  cat "$BATS_FILE_TMPDIR/output"
  return "$(cat "$BATS_FILE_TMPDIR/status")"
}

@test "the demo holds what it promises" {
  run -0 demo
  [[ "$output" == *"simulated"* ]]
  [[ "$output" == *"CUDA_ERROR_OUT_OF_MEMORY (2)"* ]]
  [[ "$output" == *"checks hold on a simulated GPU."* ]]
  [[ "$output" != *"NOT SO"* ]]
  [ "$(find "$BATS_FILE_TMPDIR/slices" -mindepth 1 | wc -l)" -eq 0 ]
}

@test "the next command that it names works here" {
  run -0 demo
  next=$(grep -A1 '^Next:' <<<"$output" | tail -n 1)
  [[ "$next" == *"-- YOUR PROGRAM" ]]
  run -0 bash -c "${next/YOUR PROGRAM/true}"
}

@test "it fits a terminal of 100 columns, and a log has no colours" {
  run -0 demo
  local line
  for line in "${lines[@]}"; do
    line=${line//"$SOFTMIG"/softmig}
    [ "${#line}" -le 100 ]
  done
  [[ "$output" != *$'\033'* ]]
}

@test "four programs share a GPU: a line a second, a table, and a plot" {
  run -0 demo
  second='^ +[1-8] s   A +[0-9.]+ %   B .*   D +[0-9.]+ %   together +[0-9.]+ %$'
  [ "$(grep -Ec "$second" <<<"$output")" -eq 11 ]
  grep -Eq '^   PROGRAM +LIMIT +NATIVE +SOFTMIG$' <<<"$output"
  grep -Eq '^   together +100\.0 % +[0-9.]+ % +[0-9.]+ %$' <<<"$output"
  [[ "$output" == *"[ok] each has its quarter, within 5 points"* ]]
  [[ "$output" == *"Share over time: plot.svg"* ]]
  [ "$(grep -c '<polyline' "$BATS_FILE_TMPDIR/plot.svg")" -eq 8 ]
  python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' \
    "$BATS_FILE_TMPDIR/plot.svg"
}

@test "a plot that cannot be written is said, and the demo goes on" {
  run -0 "$SOFTMIG" demo --simulated --plot /nowhere/plot.svg
  [[ "$output" == *"/nowhere/plot.svg: cannot be written, so there is no plot"* ]]
}

@test "inside a slice it does not run" {
  run -1 sliced -- "$SOFTMIG" demo
  [[ "$output" == *"this process is in a slice already"* ]]
}
