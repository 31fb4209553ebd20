#!/usr/bin/env bats
# softmig config, version and help.

# shellcheck disable=SC2016,SC2154 # scripts for other shells; variables of bats
load helpers

check() {
  printf '%b' "$1" >"$work/job.conf"
  run "$SOFTMIG" config check "$work/job.conf"
}

@test "a good config: its limits, status 0" {
  check 'CUDA_DEVICE_MEMORY_LIMIT=12288M\nCUDA_DEVICE_SM_LIMIT=25\n'
  [ "$status" -eq 0 ]
  [ "$output" = "$work/job.conf: memory 12288 MiB, GPU time 25 %" ]
  check '# a comment\r\n  CUDA_DEVICE_MEMORY_LIMIT = 1.5G \r\nCUDA_DEVICE_MEMORY_LIMIT_1=0'
  [ "$status" -eq 0 ]
  [ "$output" = "$work/job.conf: memory 1536 MiB, GPU time no limit; device 1: memory no limit, GPU time no limit" ]
}

@test "every error names file, line, key and text" {
  check 'CUDA_DEVICE_MEMORY_LIMIT=4X\nno assignment\nCUDA_DEVICE_SM_LIMIT=101\nCUDA_DEVICE_SM_LIMIT_16=5\n'
  [ "$status" -eq 1 ]
  [ "${lines[0]}" = "$work/job.conf:1: CUDA_DEVICE_MEMORY_LIMIT: \"4X\" is not a size such as 12288M, 24G or 1.5GiB" ]
  [ "${lines[1]}" = "$work/job.conf:2: \"no assignment\" is not KEY=VALUE" ]
  [ "${lines[2]}" = "$work/job.conf:3: CUDA_DEVICE_SM_LIMIT: \"101\" is not a whole number from 0 to 100" ]
  [ "${lines[3]}" = "$work/job.conf:4: CUDA_DEVICE_SM_LIMIT_16: devices are counted from 0 to 15" ]
}

@test "control bytes of a config do not reach the terminal" {
  check 'CUDA_DEVICE_MEMORY_LIMIT=\033[31m4X\n'
  [ "$status" -eq 1 ]
  [[ "$output" != *$'\033'* && "$output" == *'\x1b[31m4X'* ]]
}

@test "unknown and repeated keys are warned about" {
  check 'CUDA_DEVICE_MEMORY_LIMIT=1G\nCUDA_DEVICE_MEMORY=1G\nCUDA_DEVICE_MEMORY_LIMIT=2G\n'
  [ "$status" -eq 0 ]
  [[ "$output" == *":2: warning: CUDA_DEVICE_MEMORY: no such key, it is ignored"* ]]
  [[ "$output" == *":3: warning: CUDA_DEVICE_MEMORY_LIMIT is there twice: the last one counts"* ]]
  [[ "$output" == *"memory 2048 MiB"* ]]
}

@test "what would close a job is said" {
  check ''
  [ "$status" -eq 1 ]
  [[ "$output" == *"has no known key"* ]]
  run -1 "$SOFTMIG" config check /nowhere.conf
  [ "$output" = "/nowhere.conf: cannot be opened: No such file or directory" ]
  run -1 "$SOFTMIG" config check /
  [[ "$output" == *"is not a regular file"* ]]
  echo CUDA_DEVICE_MEMORY_LIMIT=1G >"$work/open.conf"
  chmod 666 "$work/open.conf"
  run -0 "$SOFTMIG" config check "$work/open.conf"
  [[ "$output" == *"warning: others may write it"* ]]
}

@test "several files and standard input" {
  echo CUDA_DEVICE_MEMORY_LIMIT=1G >"$work/a.conf"
  echo CUDA_DEVICE_MEMORY_LIMIT=x >"$work/b.conf"
  run -1 "$SOFTMIG" config check "$work/b.conf" "$work/a.conf"
  [[ "$output" == *"a.conf: memory 1024 MiB"* ]]
  run -0 bash -c 'echo CUDA_DEVICE_SM_LIMIT=50 | "$SOFTMIG" config check -'
  [ "$output" = "-: memory no limit, GPU time 50 %" ]
}

@test "every key of the table is listed" {
  run -0 "$SOFTMIG" config keys
  while read -r key; do
    [[ "$output" == *"$key"* ]]
  done < <(sed -n 's/^SM_CONFIG_KEY(\([A-Z_]*\),.*/\1/p' "$SOFTMIG_SOURCE/src/abi/config_keys.def")
}

@test "help and versions" {
  run -0 "$SOFTMIG" --help
  for command in run limits demo calibrate config version; do [[ "$output" == *"  $command "* ]]; done
  [[ "$output" != *gpu-worker* ]]
  for command in run limits demo calibrate "config check" "config keys" version; do
    # shellcheck disable=SC2086
    run -0 "$SOFTMIG" $command --help
    for line in "${lines[@]}"; do [ "${#line}" -le 100 ]; done
  done
  run -0 "$SOFTMIG" --version
  [[ "$output" =~ ^softmig\ [0-9]+\.[0-9]+\.[0-9]+$ ]]
  run -0 "$SOFTMIG" version
  [[ "$output" == "softmig "*"library"*"/libsoftmig.so"* ]]
}

@test "a command line without sense is status 2" {
  run -2 "$SOFTMIG"
  run -2 "$SOFTMIG" no-such-command
  run -2 "$SOFTMIG" limits --no-such-option
  run -2 "$SOFTMIG" config
  run -2 "$SOFTMIG" config check
}

@test "what is no file is not read" {
  mkfifo "$work/fifo"
  for path in /dev/zero "$work/fifo" /; do
    run -1 timeout 20 "$SOFTMIG" config check "$path"
    [ "$output" = "$path: is not a regular file" ]
  done
}
