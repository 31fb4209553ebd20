#!/usr/bin/env bats
# scripts/nvidia-smi-hook.sh in front of a script that prints what nvidia-smi prints: pid 1111 and
# 3333 are of this job, 2222 and 4444 are somebody else's.

# shellcheck disable=SC2016,SC2154 # scripts for other shells; variables of bats
load helpers

hook_setup() {
  bin=$work/bin
  mkdir "$bin"
  cp "${SOFTMIG_SOURCE:?the source tree}/scripts/nvidia-smi-hook.sh" "$bin/nvidia-smi"
  printf '1111\n3333\n' >"$work/own"
  printf '#!/bin/sh\ncat "%s/own"; exit "$(cat "%s/status" 2>/dev/null || echo 0)"\n' \
    "$work" "$work" >"$bin/softmig"
  {
    printf '#!/bin/sh\necho "$*" >"%s/arguments"\n' "$work"
    cat <<'SMI'
row() { printf '|  %3d   N/A  N/A %15d      C   %-36s %8s |\n' "$@"; }
line() { echo "+-----------------------------------------------------------------------------------------+"; }
text() { # -q of one GPU; its arguments are pids
  printf '\n==============NVSMI LOG==============\n\n'
  echo 'Timestamp                                 : Mon Nov 23 12:00:00 2026'
  echo 'GPU 00000000:19:00.0'
  echo '    Product Name                          : NVIDIA H100 80GB HBM3'
  echo '    FB Memory Usage'
  echo '        Total                             : 4096 MiB'
  [ $# -gt 0 ] || echo '    Processes                             : None'
  [ $# -eq 0 ] || echo '    Processes'
  for pid; do
    echo '        GPU instance ID                   : N/A'
    echo '        Compute instance ID               : N/A'
    echo "        Process ID                        : $pid"
    echo '            Type                          : C'
    echo "            Name                          : python$pid"
    echo '            Used GPU Memory               : 518 MiB'
  done
  echo '    Accounted Processes'
  echo '        Process ID                        : 4444'
  echo '            GPU Utilization               : 9 %'
  echo
}
xml() {
  echo '<?xml version="1.0" ?>'
  echo '<nvidia_smi_log>'
  echo '	<fb_memory_usage><total>4096 MiB</total></fb_memory_usage>'
  echo '		<processes>'
  for pid in 1111 2222 3333; do
    echo '			<process_info>'
    echo '				<gpu_instance_id>N/A</gpu_instance_id>'
    echo "				<pid>$pid</pid>"
    echo "				<process_name>python$pid</process_name>"
    echo '			</process_info>'
  done
  echo '		</processes>'
  echo '</nvidia_smi_log>'
}
case "$*" in
  *--query-compute-apps*)
    case "$*" in *noheader*) ;; *) echo "pid, process_name, used_gpu_memory [MiB]" ;; esac
    echo "1111, python, with, commas, 518 MiB"
    echo "2222, secret, 1000 MiB"
    ;;
  pmon*-o\ DT*)
    echo '#Date       Time        gpu         pid   type     sm    mem    command '
    echo '#YYYYMMDD   HH:MM:SS    Idx           #    C/G      %      %    name '
    echo ' 20261123   12:00:00      0       1111     C      4      -    python '
    echo ' 20261123   12:00:00      0       2222     C     90      -    secret '
    ;;
  pmon*csv,noheader*)
    echo '0, 1111, C, 4, -, python'
    echo '0, 2222, C, 4, -, secret'
    ;;
  pmon*)
    echo '# gpu         pid   type     sm    mem    command '
    echo '# Idx           #    C/G      %      %    name '
    echo '    0       1111     C      4      -    python '
    echo '    0       2222     C     90      -    secret '
    echo '    1          -     -      -      -    -              '
    ;;
  *-x*) xml ;;
  *NONE*) text ;;
  *FOREIGN*) text 2222 ;;
  -q*) text 1111 2222 3333 ;;
  wait) trap 'exit 9' TERM; echo $$; sleep 30 & wait ;;
  slow) for i in 1 2; do echo "tick $i"; sleep 1; done ;;
  dmon*) echo '# gpu    pwr'; echo '    0     70' ;;
  raw) printf 'no end of line'; exit 6 ;;
  killed) kill -9 $$ ;;
  old)
    echo '| Processes:                                                       GPU Memory |'
    echo '|  GPU       PID   Type   Process name                             Usage      |'
    echo '|=============================================================================|'
    echo '|    0      1111      C   python                                       518MiB |'
    echo '|    0      2222      C   secret                                       518MiB |'
    echo '+-----------------------------------------------------------------------------+'
    ;;
  *)
    line
    echo '|   0  NVIDIA H100 80GB HBM3          On  |   00000000:19:00.0 Off |                    0 |'
    echo '| N/A   30C    P0             70W /  700W |    1580MiB /   4096MiB |      0%      Default |'
    line
    printf '%-90s\n' ' '
    line
    printf '%-90s|\n' '| Processes:'
    printf '%-90s|\n' '|  GPU   GI   CI              PID   Type   Process name                        GPU Memory'
    printf '%-90s|\n' '|        ID   ID                                                               Usage'
    echo '|=========================================================================================|'
    case "$*" in *ALONE*) ;; *) row 0 1111 python 518MiB; row 1 3333 'my prog' 10MiB ;; esac
    case "$*" in *EMPTY*) printf '|  %-87s|\n' 'No running processes found' ;; *) row 0 2222 secret 518MiB ;; esac
    line
    ;;
esac
exit "${SMI_STATUS:-0}"
SMI
  } >"$bin/nvidia-smi.real"
  chmod 755 "$bin"/*
}

hooked() { "$bin/nvidia-smi" "$@"; }
plain() { "$bin/nvidia-smi.real" "$@"; }
arguments() { cat "$work/arguments"; }

@test "the table: own processes only, the rest as it was" {
  hook_setup
  run -0 diff <(plain | grep -v secret) <(hooked)
  run -0 diff <(plain old | grep -v secret) <(hooked old)
}

@test "the table: nobody else's is no process, in the same width" {
  hook_setup
  run -0 diff <(plain EMPTY ALONE) <(hooked ALONE)
  run -0 diff <(plain EMPTY ALONE) <(hooked EMPTY ALONE)
}

@test "-q: whole records; None where none is left" {
  hook_setup
  hooked -q >"$work/out"
  [ "$(grep -c 'Process ID' "$work/out")" = 2 ]
  [ "$(grep -c 'GPU instance ID' "$work/out")" = 2 ]
  run -1 grep -e 2222 -e 4444 "$work/out"
  grep -qx '    Accounted Processes                   : None' "$work/out"
  grep -q 'Total                             : 4096 MiB' "$work/out"
  run -0 diff <(plain -q NONE | grep -v -e 4444 -e '9 %' | grep -v Accounted) \
    <(hooked -q FOREIGN | grep -v Accounted)
  run -0 diff <(hooked -q FOREIGN) <(hooked -q -d PIDS FOREIGN)
}

@test "-q -x: still XML, without the foreign record" {
  hook_setup
  hooked -q -x >"$work/out"
  run -0 python3 -c 'import sys, xml.etree.ElementTree as tree
print(*[pid.text for pid in tree.parse(sys.argv[1]).iter("pid")])' "$work/out"
  [ "$output" = "1111 3333" ]
}

@test "--query-compute-apps: judged by the pid, asked for or not" {
  hook_setup
  run -0 hooked --query-compute-apps=process_name,used_memory --format=csv
  [ "${lines[0]}" = "process_name, used_gpu_memory [MiB]" ]
  [ "${lines[1]}" = "python, with, commas, 518 MiB" ]
  [ "${#lines[@]}" = 2 ]
  [ "$(arguments)" = "--query-compute-apps=pid,process_name,used_memory --format=csv" ]
  run -0 hooked --format=csv,noheader --query-compute-apps process_name
  [ "$output" = "python, with, commas, 518 MiB" ]
  [ "$(arguments)" = "--format=csv,noheader --query-compute-apps pid,process_name" ]
}

@test "pmon: with dates, as CSV, idle GPUs" {
  hook_setup
  run -0 diff <(plain pmon -c 1 | grep -v secret) <(hooked pmon -c 1)
  run -0 diff <(plain pmon -o DT | grep -v secret) <(hooked pmon -o DT)
  run -0 hooked pmon --format csv,noheader
  [ "$output" = "0, 1111, C, 4, -, python" ]
}

@test "-f: the file is filtered as well" {
  hook_setup
  run -0 hooked -q -f "$work/file"
  [ "$output" = "" ]
  [ "$(arguments)" = "-q" ]
  run -0 diff <(hooked -q) "$work/file"
  run -0 hooked --filename="$work/file2" -x
  run -0 diff <(hooked -x) "$work/file2"
  run -0 hooked dmon -f "$work/file3"
  [ "$(arguments)" = "dmon -f $work/file3" ]
}

@test "everything else comes through: bytes, arguments, exit status, signals" {
  hook_setup
  run -6 --keep-empty-lines hooked raw
  [ "$output" = "no end of line" ]
  SMI_STATUS=15 run -15 hooked -q
  SMI_STATUS=15 run -15 hooked dmon -s p
  run -137 hooked killed
  hooked -i '0, 1' '*' ''
  [ "$(arguments)" = "-i 0, 1 * " ]
}

@test "lines are not held back" {
  hook_setup
  coproc smi { "$bin/nvidia-smi" slow; }
  read -r -t 0.9 line <&"${smi[0]}"
  [ "$line" = "tick 1" ]
  wait "$smi_PID" || true
}

@test "who ends the hook ends nvidia-smi" {
  hook_setup
  "$bin/nvidia-smi" wait >"$work/pid" &
  hook=$!
  eventually test -s "$work/pid"
  kill "$hook"
  wait "$hook" || status=$?
  [ "$status" = 143 ]
  eventually gone "$(cat "$work/pid")"
}

@test "outside of jobs and slices: nvidia-smi itself" {
  hook_setup
  echo 3 >"$work/status"
  run -0 diff <(plain) <(hooked)
  run -0 hooked --query-compute-apps=name --format=csv
  [ "$(arguments)" = "--query-compute-apps=name --format=csv" ]
}

@test "no list of own processes: none is shown, and it says so" {
  hook_setup
  for trouble in 1 127; do
    echo "$trouble" >"$work/status"
    run -0 --separate-stderr hooked
    [[ "$stderr" == *"none is shown"* ]]
    [[ "$output" == *"No running processes found"*  ]]
    [[ "$output" != *python* && "$output" != *secret* ]]
  done
  rm "$bin/softmig"
  PATH=/usr/bin:/bin run -0 --separate-stderr hooked pmon
  [[ "$output" != *secret* ]]
}

@test "it never calls itself" {
  hook_setup
  cp "$bin/nvidia-smi" "$bin/nvidia-smi.real"
  PATH=$bin:/nowhere:$PATH run -127 hooked
  [[ "$output" == *"no nvidia-smi.real"* ]]
  # Found by PATH where nothing was moved.
  mkdir "$work/other"
  printf '#!/bin/sh\necho the other\n' >"$work/other/nvidia-smi"
  chmod 755 "$work/other/nvidia-smi"
  PATH=$bin:$work/other:$PATH run -0 hooked
  [ "$output" = "the other" ]
  # What it finds may call it nevertheless.
  printf '#!/bin/sh\nexec "%s/nvidia-smi"\n' "$bin" >"$work/other/nvidia-smi"
  PATH=$bin:$work/other:$PATH run -127 hooked
  [[ "$output" == *"called by what it calls"* ]]
}

@test "softmig processes: those of the slice, and outside of one none" {
  run -3 "$SOFTMIG" processes
  [ "$output" = "" ]
  run -0 sliced -- "$SOFTMIG" processes
  [ "$output" = "" ]
  run -0 sliced -- bash -c '
    coproc worker { "$SOFTMIG" gpu-worker; }
    read -r _ pid <&"${worker[0]}"
    uuid=$("$SOFTMIG" limits --json | python3 -c "import json, sys
print(json.load(sys.stdin)[\"devices\"][0][\"uuid\"])")
    for request in "open $uuid" "alloc 1048576"; do
      echo "$request" >&"${worker[1]}"
      read -r answer <&"${worker[0]}"
    done
    [ "$("$SOFTMIG" processes)" = "$pid" ]'
}
