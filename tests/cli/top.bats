#!/usr/bin/env bats
# softmig top --json, and what it does without a terminal. At one: top_test.py.

# shellcheck disable=SC2016,SC2154 # scripts for other shells; variables of bats
load helpers
load node

@test "samples as lines: rates from the second on" {
  on_node '
    job 4711 5001 1
    worker 4711 5001 share-worker
    say 4711 "run 200000 200000 0 4"
    sleep 1
    "$SOFTMIG" top --json --count 3 --interval 0.5 >/run/t/json
    python3 -c "
import json
lines = [json.loads(line) for line in open(\"/run/t/json\")]
devices = [line[\"slices\"][0][\"devices\"][0] for line in lines]
print(len(lines), devices[0][\"gpu_percent\"], devices[0][\"launches_per_second\"])
print([10 < d[\"gpu_percent\"] < 40 and d[\"launches_per_second\"] > 100 for d in devices[1:]])
print(devices[2][\"gpu_time_ns\"] > devices[1][\"gpu_time_ns\"] > 0)
print(lines[0][\"gpus\"][0][\"name\"])"'
  [ "$status" -eq 0 ]
  [[ "$output" == *"3 None None"*"[True, True]"*"True"*"NVIDIA L40S"* ]]
}

@test "an ordinary user's samples have his own slices" {
  on_node '
    job 4711 5001 1; job 4712 5002 1
    as 5002 "$SOFTMIG" top --json -n 1 | grep -o "\"name\":\"47[0-9]*\""'
  [ "$status" -eq 0 ]
  [ "$output" = '"name":"4712"' ]
}

@test "without a terminal it says what to do" {
  run -1 bash -c '"$SOFTMIG" top </dev/null'
  [[ "$output" == *"standard output is no terminal"*"softmig top --json"* ]]
}

@test "bad numbers are bad usage" {
  run -2 "$SOFTMIG" top --interval 0
  run -2 "$SOFTMIG" top --json --count 0
}

@test "a reader that goes away ends it" {
  run -0 timeout 20 bash -c '"$SOFTMIG" top --json --interval 0.1 | head -n 2 | wc -l'
  [ "$output" = 2 ]
}
