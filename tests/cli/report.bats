#!/usr/bin/env bats
# softmig report: what a job used, while it runs and after it.

# shellcheck disable=SC2016,SC2154 # scripts for other shells; variables of bats
load helpers
load node

@test "a job that runs, and its record when it is over" {
  on_node '
    job 4711 5001 2
    worker 4711 5001 gpu-worker
    say 4711 "alloc 5368709120"
    say 4711 launch
    answered 4711 3
    "$SOFTMIG" report 4711
    finish 4711
    ls /run/softmig
    stat -c "%U %a %n" /var/lib/softmig/jobs /var/lib/softmig/jobs/4711.json
    "$SOFTMIG" report 4711
    as 5001 "$SOFTMIG" report 4711 --json >/run/t/json
    python3 -c "
import json
all = json.load(open(\"/run/t/json\"))
device, = all[\"devices\"]
print(all[\"job\"], all[\"uid\"], all[\"ended\"], device[\"launches\"], device[\"peak\"] >> 30)
print(device[\"advice\"])"'
  [ "$status" -eq 0 ]
  [[ "$output" == *"job       4711, alice on "* ]]
  [[ "$output" == *"still there"*"ended"* ]]
  [[ "$output" == *"memory    5."*" GiB at the peak, limit 24.0 GiB; 0 requests refused"* ]]
  [[ "$output" == *"advice    peaked at 5."*" GiB of 24.0 GiB and "*" waited: ask for l40s.4"* ]]
  [[ "$output" != *"4711.conf"* ]]
  [[ "$output" == *"root 755 /var/lib/softmig/jobs"*"alice 400 /var/lib/softmig/jobs/4711.json"* ]]
  [[ "$output" == *"4711 5001 True 1 5"*"waited: ask for l40s.4" ]]
  [ "$(grep -c "^GPU       NVIDIA L40S" <<<"$output")" -eq 2 ]
}

@test "nobody reads the report of another user's job" {
  on_node '
    job 4711 5001 1
    as 5002 "$SOFTMIG" report 4711 || echo "status $?"
    finish 4711
    as 5002 "$SOFTMIG" report 4711 || echo "status $?"
    as 5001 "$SOFTMIG" report 4711 | grep advice'
  [ "$status" -eq 0 ]
  [ "$(grep -c "softmig report: job 4711 is not yours" <<<"$output")" -eq 2 ]
  [ "$(grep -c "status 1" <<<"$output")" -eq 2 ]
  [[ "$output" == *"advice    never used the GPU: ask for none"* ]]
}

@test "a job of which nothing is known: status 3" {
  run -3 "$SOFTMIG" report 123456789
  [[ "$output" == *"nothing is known of job 123456789 on this node"* ]]
  run -3 "$SOFTMIG" report 123456789_3
  [[ "$output" == *"a task of an array has a number of its own: sacct"* ]]
  run -2 "$SOFTMIG" report ../../etc/passwd
  [[ "$output" == *"is not a job"* ]]
  run -2 "$SOFTMIG" report
  [[ "$output" == *"this process is in no slice"* ]]
}

@test "the slice of softmig run that this is" {
  run -0 sliced -- bash -c '
    uuid=$("$SOFTMIG" limits --json | python3 -c "import json, sys
print(json.load(sys.stdin)[\"devices\"][0][\"uuid\"])")
    printf "open %s\nalloc 8589934592\n" "$uuid" | "$SOFTMIG" gpu-worker
    "$SOFTMIG" report'
  [[ "$output" == *"slice     run."* ]]
  [[ "$output" == *"1 request refused"* ]]
  [[ "$output" == *"was refused memory 1 time: give it more"* ]]
}

@test "what its user made of a record does no harm, and large ones go" {
  on_node '
    job 4711 5001 1; finish 4711
    chmod 600 /var/lib/softmig/jobs/4711.json
    for text in "" "{" "[1, 2]" "{\"format\": 1, \"name\": 5}"; do
      echo "$text" >/var/lib/softmig/jobs/4711.json
      "$SOFTMIG" report 4711 || echo "status $?"
    done
    truncate -s 1M /var/lib/softmig/jobs/4711.json
    job 4712 5002 1; finish 4712
    ls /var/lib/softmig/jobs'
  [ "$status" -eq 0 ]
  [ "$(grep -c "is no record of a job" <<<"$output")" -eq 4 ]
  [[ "$output" == *$'\n'4712.json && "$output" != *4711.json$'\n'4712.json ]]
}

@test "a folder that others can write takes no record, and the job ends all the same" {
  on_node '
    mkdir -p /var/lib/softmig/jobs; chmod 777 /var/lib/softmig/jobs
    job 4711 5001 1; finish 4711; echo "status $?"
    ls /var/lib/softmig/jobs /run/softmig'
  [ "$status" -eq 0 ]
  [[ "$output" == *"job 4711: no record is kept: /var/lib/softmig/jobs: is not a folder of root's alone"* ]]
  [[ "$output" == *"status 0"* && "$output" != *4711.conf* && "$output" != *4711.json* ]]
}
