# A node of a cluster for one script: a simulated L40S of 4 shards, the files of jobs in /run/softmig,
# users alice (5001) and bob (5002), and nothing of it outside of its namespaces.

# shellcheck disable=SC2154 # variables of the scripts that are run on the node

# on_node SCRIPT: runs it as root of the node. Skips where a container forbids namespaces.
on_node() {
  if [ "$(id -u)" != 0 ] || ! unshare -mu true 2>/dev/null; then skip "needs root and namespaces"; fi
  run env -u SLURM_TMPDIR timeout 120 unshare -mu bash -uc \
    "$(declare -f node_setup job as worker answered say finish eventually); node_setup; set -e; $1"
}

# What follows runs on the node.

node_setup() {
  mount -t tmpfs -o mode=755 none /run || exit 90
  mount -t tmpfs -o mode=755 none /var/lib || exit 90
  echo gpu07 >/proc/sys/kernel/hostname || exit 90
  mkdir -m 755 /run/t /run/t/bin && mkdir -m 1777 /run/t/state
  cp /etc/passwd /run/t/passwd
  printf 'alice:x:5001:5001::/:/bin/sh\nbob:x:5002:5002::/:/bin/sh\n' >>/run/t/passwd
  mount --bind /run/t/passwd /etc/passwd || exit 90
  # Where everybody may read them.
  cp -r "$(dirname "$SOFTMIG")"/{softmig,libsoftmig.so,sim} /run/t/
  # The controller knows the jobs that job() has told it of.
  # shellcheck disable=SC2016 # for that script
  printf '#!/bin/sh\nfor id; do :; done\ncat /run/t/record.$id\n' >/run/t/bin/scontrol
  chmod -R a+rX /run/t
  chmod 755 /run/t/bin/scontrol
  export PATH=/run/t/bin:$PATH SOFTMIG=/run/t/softmig LD_LIBRARY_PATH=/run/t/sim/13.0
  export SOFTMIG_SIM=1x48G:l40s SOFTMIG_SIM_STATE=/run/t/state/sim
  uuid=$("$SOFTMIG" status --json |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["gpus"][0]["uuid"])')
  cd /
}

# job ID UID SHARDS: what the prolog does.
job() {
  echo "JobId=$1 JobName=a Nodes=n1 CPU_IDs=0 Mem=0 GRES=shard:l40s:$3(IDX:0) MinCPUsNode=1" \
    >"/run/t/record.$1"
  env SLURM_JOB_ID="$1" SLURM_JOB_UID="$2" SLURM_JOB_GID="$2" SLURMD_NODENAME=n1 \
    SLURM_JOB_GPUS=0 "$SOFTMIG" job-start
}

# as UID COMMAND...
as() { setpriv --reuid "$1" --regid "$1" --clear-groups "${@:2}"; }

# worker ID UID KIND: a program of a job that does what say() tells it. KIND: gpu-worker or
# share-worker.
worker() {
  mkfifo "/run/t/$1.in"
  env SLURM_JOB_ID="$1" LD_PRELOAD=/run/t/libsoftmig.so \
    setpriv --reuid "$2" --regid "$2" --clear-groups "$SOFTMIG" "$3" \
    <"/run/t/$1.in" >"/run/t/$1.out" &
  eval "exec {to_$1}>/run/t/$1.in"
  say "$1" "open $uuid"
  answered "$1" 1
}

# answered ID COUNT: waits until so many requests were done.
answered() {
  # shellcheck disable=SC2016 # for eval
  eventually eval '[ "$(grep -c "^ok" "/run/t/'"$1"'.out")" -ge '"$2"' ]'
}

# say ID REQUEST
say() {
  local to="to_$1"
  echo "$2" >&"${!to}"
}

# finish ID: what the epilog does.
finish() { env SLURM_JOB_ID="$1" "$SOFTMIG" job-end; }
