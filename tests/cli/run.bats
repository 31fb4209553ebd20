#!/usr/bin/env bats
# softmig run: status, signals, files, environment.

# shellcheck disable=SC2016,SC2154 # scripts for other shells; variables of bats
load helpers

@test "the exit status is that of the program" {
  for status in 0 1 7 255; do
    run -"$status" sliced -- sh -c "exit $status"
    [ -z "$output" ]
  done
}

@test "it ends by the signal that ended the program" {
  for signal in INT TERM HUP KILL USR1 SEGV; do
    run python3 -c '
import signal, subprocess, sys
line = [sys.argv[1], "run", "--sim", "1x8G", "--memory", "4G", "--",
        "sh", "-c", "ulimit -c 0; kill -%s $$" % sys.argv[2]]
print(subprocess.run(line).returncode == -getattr(signal, "SIG" + sys.argv[2]))' "$SOFTMIG" $signal
    [ "$output" = True ]
  done
  run -143 sliced -- sh -c 'kill -TERM $$'
  [ "$(slices_left)" -eq 0 ]
}

@test "127 if the program does not exist, 126 if it cannot be run" {
  run -127 sliced -- /nowhere/at-all
  [[ "$output" == "softmig run: cannot run /nowhere/at-all: No such file or directory"* ]]
  run -127 sliced -- no-such-program-in-path
  run -127 sliced -- ""
  run -126 sliced -- /
  touch "$work/plain"
  run -126 sliced -- "$work/plain"
  [[ "$output" == *"Permission denied"* ]]
  printf '#!/nowhere/interpreter\n' >"$work/script"
  chmod +x "$work/script"
  run -127 sliced -- "$work/script"
  [[ "$output" == *interpreter* ]]
  [ "$(slices_left)" -eq 0 ]
}

@test "125 for its own failures, each naming option and text" {
  run -125 "$SOFTMIG" run
  [[ "$output" == *"no command given"* ]]
  run -125 "$SOFTMIG" run -- true
  [[ "$output" == *"nothing to limit"* ]]
  run -125 sliced --memory 4X -- true
  run -125 "$SOFTMIG" run --sim 1x8G --memory 4X -- true
  [[ "$output" == *'--memory: "4X" is not a size such as'* ]]
  run -125 "$SOFTMIG" run --sim 1x8G --memory 0 -- true
  [[ "$output" == *"--memory 0 would be no limit"* ]]
  run -125 "$SOFTMIG" run --sim 1x8G --memory=-1M -- true
  for share in 101 -5 half; do
    run -125 "$SOFTMIG" run --sim 1x8G "--sm=$share" -- true
    [[ "$output" == *"--sm: \"$share\" is not a whole number from 1 to 100"* ]]
  done
  run -125 sliced --sm 25 --slots 9/4 -- true
  [[ "$output" == *'--slots: "9/4" is not'* ]]
  run -125 sliced --slots 0/4 -- true
  run -125 sliced --no-such-option -- true
  run -125 "$SOFTMIG" run --sim 0xNothing --memory 4G -- true
  [[ "$output" == *"--sim 0xNothing"* ]]
  run -125 sliced --sim-cuda 9.9 -- true
  [ "$(slices_left)" -eq 0 ]
}

@test "without a GPU it says what to do" {
  if [ -e /dev/nvidiactl ]; then skip "there is a GPU"; fi
  run -125 "$SOFTMIG" run --memory 4G -- true
  [[ "$output" == *"no NVIDIA GPU"*"softmig run --sim 1x48G --memory 4G -- COMMAND"* ]]
}

@test "arguments arrive as they were given" {
  cat >"$work/show" <<'SHOW'
#!/bin/sh
for word; do printf '<%s>' "$word"; done
SHOW
  chmod +x "$work/show"
  expected='<a b><><*><--memory><4G><--><$HOME><"q'"'"'>'
  run -0 sliced -- "$work/show" 'a b' '' '*' --memory 4G -- '$HOME' "\"q'"
  [ "$output" = "$expected" ]
  run -0 sliced "$work/show" 'a b' '' '*' --memory 4G -- '$HOME' "\"q'"
  [ "$output" = "$expected" ]
  run -0 sliced -- "$work/show" $'two\nlines'
  [ "$output" = $'<two\nlines>' ]
}

@test "standard input, output and the working folder are the program's" {
  cd "$work"
  run -0 bash -c 'printf "some\ntext" | "$SOFTMIG" run --sim 1x8G --memory 4G -- cat'
  [ "$output" = $'some\ntext' ]
  run -0 sliced -- pwd
  [ "$output" = "$work" ]
  run -0 sliced -- sh -c 'echo out; echo err >&2'
  [ "$output" = $'out\nerr' ]
}

@test "the program gets its limits and the library, and nothing else changes" {
  export CUDA_DEVICE_MEMORY_LIMIT=9G CUDA_DEVICE_MEMORY_LIMIT_0=1G CUDA_DEVICE_SM_LIMIT_3=7
  run -0 sliced --sm 25 --slots 0,2/4 -- env
  [[ $'\n'"$output" == *$'\n'"CUDA_DEVICE_MEMORY_LIMIT=4096M"* ]]
  [[ $'\n'"$output" == *$'\n'"CUDA_DEVICE_SM_LIMIT=25"* ]]
  [[ $'\n'"$output" == *$'\n'"SOFTMIG_SLOTS=0,2/4"* ]]
  [[ $'\n'"$output" == *$'\n'"SOFTMIG_REGION=$SLURM_TMPDIR/softmig-run."*/region* ]]
  [[ $'\n'"$output" == *$'\n'LD_PRELOAD=*/libsoftmig.so* ]]
  [[ "$output" != *MEMORY_LIMIT_0* && "$output" != *SM_LIMIT_3* ]]
  unset CUDA_DEVICE_MEMORY_LIMIT CUDA_DEVICE_MEMORY_LIMIT_0 CUDA_DEVICE_SM_LIMIT_3
  run -0 sliced -- env
  [[ "$output" != *SM_LIMIT* && "$output" != *SLOTS* ]]
}

@test "what was preloaded before stays, another libsoftmig.so does not" {
  library=$(dirname "$SOFTMIG")/libsoftmig.so
  LD_PRELOAD=libm.so.6:/nowhere/libsoftmig.so run -0 --separate-stderr sliced -- sh -c 'echo $LD_PRELOAD'
  [ "$output" = "$library:libm.so.6" ]
}

@test "a library is found under any path, and a wrong one is refused" {
  mkdir "$work/a b"
  cp "$(dirname "$SOFTMIG")/libsoftmig.so" "$work/a b/"
  run -0 sliced --library "$work/a b/libsoftmig.so" -- sh -c 'grep -c "a b/libsoftmig.so" /proc/self/maps'
  [ "${lines[0]}" -gt 0 ]
  SLURM_TMPDIR="$work/a b" run -125 sliced --library "$work/a b/libsoftmig.so" -- true
  [[ "$output" == *"cannot stand in LD_PRELOAD"* ]]
  run -125 sliced --library /nowhere.so -- true
  [[ "$output" == *"--library /nowhere.so: no such file"* ]]
  echo text >"$work/libsoftmig.so"
  run -125 sliced --library "$work/libsoftmig.so" -- true
  [[ "$output" == *"is not a shared library"* ]]
}

@test "the slice's files are private and vanish with it" {
  run -0 sliced -- sh -c 'stat -c "%a %F" "$(dirname $SOFTMIG_REGION)" "$SOFTMIG_REGION"'
  [ "${lines[0]}" = "700 directory" ]
  [ "${lines[1]}" = "600 regular file" ]
  [ "$(slices_left)" -eq 0 ]
}

@test "signals are passed on" {
  for signal in HUP INT QUIT TERM USR1 USR2 CONT WINCH; do
    # A program that says what it got. The pause lets it set its trap.
    detached --sim 1x8G --memory 4G -- bash -c '
      trap "echo got '$signal'; exit 3" '$signal'
      echo ready
      while :; do sleep 0.02; done' >"$work/$signal" 2>&1 3>&- &
    job=$!
    eventually grep -q ready "$work/$signal"
    kill "-$signal" "$job"
    status=0
    wait "$job" || status=$?
    [ "$status" -eq 3 ]
    grep -q "got $signal" "$work/$signal"
  done
  [ "$(slices_left)" -eq 0 ]
}

@test "a signal reaches the program's children too" {
  detached --sim 1x8G --memory 4G -- bash -c '
    sleep 100 & echo $! >'"$work"'/child; wait' 3>&- &
  job=$!
  eventually test -s "$work/child"
  kill -TERM "$job"
  run wait "$job"
  eventually gone "$(cat "$work/child")"
}

@test "SIGTSTP stops the program, SIGCONT lets it go on" {
  detached --sim 1x8G --memory 4G -- sh -c 'echo $$ >'"$work"'/pid; exec sleep 100' 3>&- &
  job=$!
  eventually test -s "$work/pid"
  program=$(cat "$work/pid")
  kill -TSTP "$job"
  eventually grep -q 'State:.*T' "/proc/$program/status"
  kill -CONT "$job"
  eventually grep -q 'State:.*S' "/proc/$program/status"
  kill -TERM "$job"
  eventually gone "$job"
}

@test "ignored signals stay ignored" {
  run -0 bash -c 'trap "" HUP INT; "$SOFTMIG" run --sim 1x8G --memory 4G -- sh -c "kill -HUP \$\$; kill -INT \$\$; echo alive"'
  [ "$output" = alive ]
}

@test "the program inherits neither blocked signals nor open files" {
  run -0 sliced -- grep -E 'Sig(Blk|Ign)' /proc/self/status
  [ "$output" = "$(grep -E 'Sig(Blk|Ign)' /proc/self/status)" ]
  run -0 sliced -- ls /proc/self/fd
  [ "$output" = "$(ls /proc/self/fd)" ]
}

@test "SIGKILL of the program: status 137 and nothing left" {
  run -137 sliced -- sh -c 'kill -KILL $$'
  [ "$(slices_left)" -eq 0 ]
}

@test "SIGKILL of softmig run: the slice lives on, and its files go with the last process" {
  detached --sim 1x8G --memory 4G -- sh -c 'echo $$ >'"$work"'/pid; exec sleep 100' 3>&- &
  job=$!
  eventually test -s "$work/pid"
  program=$(cat "$work/pid")
  kill -KILL "$job"
  eventually gone "$job"
  kill -0 "$program"
  sleep 1.1
  run -0 sliced -- true
  [ "$(slices_left)" -eq 1 ]
  kill -KILL "$program"
  eventually gone "$program"
  run -0 sliced -- true
  [ "$(slices_left)" -eq 0 ]
}

@test "a sweep leaves living slices and the files of others alone" {
  detached --sim 1x8G --memory 4G -- sleep 100 3>&- &
  job=$!
  eventually test "$(slices_left)" -eq 0 || true
  eventually bash -c '[ "$(ls "$SLURM_TMPDIR" | wc -l)" -eq 1 ]'
  mkdir "$SLURM_TMPDIR/softmig-other"
  ln -s "$work" "$SLURM_TMPDIR/softmig-run.link"
  touch "$SLURM_TMPDIR/softmig-run.file"
  sleep 1.1
  run -0 sliced -- true
  [ "$(find "$SLURM_TMPDIR" -mindepth 1 -maxdepth 1 | wc -l)" -eq 4 ]
  [ -d "$work" ]
  kill -TERM "$job"
  eventually gone "$job"
}

@test "a program that goes on in the background keeps its slice" {
  run -0 sliced -- sh -c 'setsid sleep 100 >/dev/null 2>&1 3>&- & echo $!'
  daemon=$output
  [ "$(slices_left)" -eq 1 ]
  kill "$daemon"
  eventually gone "$daemon"
  sleep 1.1
  run -0 sliced -- true
  [ "$(slices_left)" -eq 0 ]
}

@test "a place that cannot be written is passed over" {
  if [ "$(id -u)" = 0 ]; then export SLURM_TMPDIR=/nowhere; else chmod a-w "$SLURM_TMPDIR"; fi
  run -0 sliced -- sh -c 'dirname "$(dirname "$SOFTMIG_REGION")"'
  [ "$output" = /tmp ]
}

@test "inside a slice only smaller limits are possible, and the slice stays the same" {
  # shellcheck disable=SC2016
  run -0 sliced --sm 50 -- bash -c '
    inner() { "$SOFTMIG" run "$@"; }
    inner --memory 2G -- bash -c "echo \$CUDA_DEVICE_MEMORY_LIMIT \$CUDA_DEVICE_SM_LIMIT; [ \$SOFTMIG_REGION = $SOFTMIG_REGION ] && echo same"
    inner --memory 4G -- echo equal
    inner --memory 5G -- true || echo "refused $?"
    inner --sm 60 -- true || echo "refused $?"'
  [ "${lines[0]}" = "2048M 50" ]
  [ "${lines[1]}" = same ]
  [ "${lines[2]}" = equal ]
  [[ "${lines[3]}" == *"--memory 5G is more than the 4096 MiB of the slice"* ]]
  [ "${lines[5]}" = "refused 125" ]
  [[ "${lines[6]}" == *"--sm 60 is more than the 50 % of the slice"* ]]
}

@test "inside a Slurm job's slice root's limits stay" {
  with_empty_run 'echo CUDA_DEVICE_MEMORY_LIMIT=2G >/run/softmig/4711.conf
    export SLURM_JOB_ID=4711
    "$SOFTMIG" run --sim 1x8G --memory 1G -- true'
  [ "$status" -eq 125 ]
  [[ "$output" == *"a slice of a Slurm job already (/var/run/softmig/4711.conf): its limits stay"* ]]
}

@test "--device counts among the devices that are visible" {
  run -0 "$SOFTMIG" run --sim 2x8G --memory 4G --device 1,0 -- sh -c 'echo $CUDA_VISIBLE_DEVICES'
  [ "$output" = 1,0 ]
  run -125 sliced --device one -- true
  [[ "$output" == *'--device one: "one" is no number and no UUID'* ]]
  run -0 "$SOFTMIG" run --sim 4x8G -- sh -c '
    export CUDA_VISIBLE_DEVICES=3,1
    "$SOFTMIG" run --memory 4G --device 1 -- sh -c "echo \$CUDA_VISIBLE_DEVICES"
    "$SOFTMIG" run --memory 4G --device 2 -- true || echo "status $?"'
  [ "${lines[0]}" = 1 ]
  [[ "${lines[1]}" == *"CUDA_VISIBLE_DEVICES=3,1 shows no device 2" ]]
}

@test "--device names devices that there are, each once" {
  run -125 sliced --device 9 -- true
  [[ "$output" == *"--device 9: there is no device 9, only 1"* ]]
  run -125 sliced --device GPU-foo -- true
  [[ "$output" == *"--device GPU-foo: no device has the UUID GPU-foo"* ]]
  for twice in 0,0 00,0; do
    run -125 sliced --device $twice -- true
    [[ "$output" == *"--device $twice: names device 0 twice"* ]]
  done
  uuid=$(sliced -- "$SOFTMIG" limits --json | python3 -c 'import json, sys
print(json.load(sys.stdin)["devices"][0]["uuid"])')
  for name in "$uuid" "${uuid:0:12}" MIG-12345678; do
    run -0 sliced --device "$name" -- sh -c 'echo $CUDA_VISIBLE_DEVICES'
    [ "$output" = "$name" ]
  done
  [ "$(slices_left)" -eq 0 ]
}

@test "what a user typed cannot steer the terminal" {
  local bad=$'x\e[2J\ny'
  for option in --memory --sm --slots --device --sim --sim-cuda --library "--$bad"; do
    others=(--sim 1x8G --sm 25)
    case $option in
    --sm) others=(--sim 1x8G) ;;
    --sim) others=(--sm 25) ;;
    esac
    run -125 "$SOFTMIG" run "${others[@]}" "$option" "$bad" -- true
    [[ "$output" != *$'\e'* ]]
    [[ "$output" == *'x\x1b[2J'* ]]
  done
  run -127 sliced -- "/nowhere/$bad"
  [[ "$output" == *'x\x1b[2J\x0ay'* && "$output" != *$'\e'* ]]
  run -2 "$SOFTMIG" "$bad"
  [[ "$output" != *$'\e'* ]]
}

@test "--sim alone is a machine without limits, and slices can be made in it" {
  run -0 "$SOFTMIG" run --sim 2x48G -- env
  [[ "$output" == *SOFTMIG_SIM=2x48G* && "$output" == *SOFTMIG_SIM_STATE=* ]]
  [[ "$output" != *SOFTMIG_REGION* && "$output" != *LD_PRELOAD* ]]
  run -0 "$SOFTMIG" run --sim 2x48G -- "$SOFTMIG" run --memory 4G -- sh -c 'echo $CUDA_DEVICE_MEMORY_LIMIT'
  [ "$output" = 4096M ]
}

@test "every version of the simulated driver is there" {
  for version in 12.0 12.4 13.0; do
    run -0 sliced --sim-cuda $version -- sh -c 'echo $LD_LIBRARY_PATH'
    [[ "$output" == */sim/$version* ]]
  done
}

@test "-v says what is done, on standard error" {
  run -0 --separate-stderr sliced -v -- echo text
  [ "$output" = text ]
  # shellcheck disable=SC2154
  [[ "$stderr" == *"limits: memory 4096 MiB, GPU time no limit"* ]]
}
