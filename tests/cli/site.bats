#!/usr/bin/env bats
# softmig config check for softmig.conf.

# shellcheck disable=SC2154 # variables of bats
load helpers

check() {
  printf '%b' "$1" >"$work/softmig.conf"
  run "$SOFTMIG" config check "$work/softmig.conf"
}

@test "a good softmig.conf" {
  check '# shards\nNUM_SHARDS_PER_GPU=8\nNUM_SHARDS_PER_GPU[a100]=4\nMEMORY_RESERVE=512M\n'
  [ "$status" -eq 0 ]
  [ "$output" = "$work/softmig.conf: 8 shards a GPU, 512 MiB held back" ]
}

@test "errors name file, line, key and text" {
  check '\nNUM_SHARDS_PER_GPU=0\nON_FAILURE=hope\n'
  [ "$status" -eq 1 ]
  [ "${lines[0]}" = "$work/softmig.conf:2: NUM_SHARDS_PER_GPU: \"0\" is not a whole number from 1 to 32" ]
  [ "${lines[1]}" = "$work/softmig.conf:3: ON_FAILURE: \"hope\" is not cancel or drain" ]
}

@test "unknown keys are warned about" {
  check 'NUM_SHARDS=4\n'
  [ "$status" -eq 0 ]
  [[ "$output" == *":1: warning: NUM_SHARDS: no such key, it is ignored"* ]]
}

@test "a softmig.conf that is not there" {
  run "$SOFTMIG" config check "$work/softmig.conf"
  [ "$status" -eq 1 ]
  [[ "$output" == *"No such file"* ]]
}

@test "its keys can be listed" {
  run "$SOFTMIG" config keys --site
  [ "$status" -eq 0 ]
  [[ "$output" == *"NUM_SHARDS_PER_GPU[type]"* && "$output" == *ON_FAILURE* ]]
}

@test "job-start and job-end are the prolog's and the epilog's" {
  for command in job-start job-end; do
    run env -u SLURM_JOB_ID "$SOFTMIG" "$command"
    [ "$status" -eq 2 ]
    [[ "$output" == *"SLURM_JOB_ID"* ]]
  done
}
