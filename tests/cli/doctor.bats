#!/usr/bin/env bats
# softmig doctor, on images of nodes.

# shellcheck disable=SC2016,SC2154 # scripts for other shells; variables of bats
load helpers

# A node as it should be.
node() {
  [ "$(id -u)" -eq 0 ] || skip "needs root"
  node=$work/node
  mkdir -p "$node/etc/slurm" "$node/proc/sys/user" "$node/proc/sys/kernel"
  chmod 755 "$work" "$node"
  "$SOFTMIG" install --root "$node" >/dev/null
  echo 0 >"$node/proc/sys/user/max_user_namespaces"
  cat >"$node/etc/slurm/slurm.conf" <<'CONF'
PrologFlags=Alloc
GresTypes=gpu,\
shard
Include scripts.conf
JobSubmitPlugins=lua # users write gpu:l40s.4:1
CliFilterPlugins=lua
ProctrackType=proctrack/cgroup
NodeName=n[1-2] Gres=gpu:l40s:2,shard:l40s:8 CPUs=4
NodeName=n3 Gres=gpu:l40s:1,gpu:H100:1,shard:l40s:4,shard:H100:8(S:0) CPUs=4
CONF
  echo 'Prolog=/etc/slurm/prolog.d/* Epilog=epilog.sh' >"$node/etc/slurm/scripts.conf"
  echo 'ConstrainDevices=yes' >"$node/etc/slurm/cgroup.conf"
  cat >"$node/etc/slurm/gres.conf" <<'CONF'
NodeName=n[1-2] Name=gpu Type=l40s File=/dev/nvidia[0-1]
NodeName=n[1-2] Name=shard Type=l40s Count=8 File=/dev/nvidia[0-1]
NodeName=n3 Name=shard Type=l40s Count=4 File=/dev/nvidia0
NodeName=n3 Name=shard Type=H100 Count=8 File=/dev/nvidia1
CONF
  mkdir "$node/etc/softmig" "$node/etc/slurm/prolog.d"
  printf 'NUM_SHARDS_PER_GPU=4\nNUM_SHARDS_PER_GPU[H100]=8\n' >"$node/etc/softmig/softmig.conf"
  cp "${SOFTMIG_SOURCE:?the source tree}/slurm/prolog_softmig.sh" "$node/etc/slurm/prolog.d/50-softmig"
  printf '#!/bin/sh\n/usr/lib/softmig/epilog_softmig.sh\n' >"$node/etc/slurm/epilog.sh"
  chmod 755 "$node/etc/slurm/prolog.d/50-softmig" "$node/etc/slurm/epilog.sh"
  for name in job_submit cli_filter; do
    echo "return dofile(\"/x/${name}_softmig.lua\")" >"$node/etc/slurm/$name.lua"
  done
}

doctor() { "$SOFTMIG" doctor --root "$node" "$@"; }

@test "a good node is called good" {
  node
  run -0 doctor
  [[ "$output" == *"0 bad, 0 to think about"* ]]
  [[ "$output" != *BAD* ]]
  [[ "$output" == *"the library loads and says nothing"* ]]
}

@test "what is wrong is named, and what to do" {
  node
  chmod 666 "$node/etc/ld.so.preload"
  chmod 777 "$node/run/softmig"
  rm "$node/var/lib/shared/libsoftmig.so"
  sed -i s/Alloc/X11/ "$node/etc/slurm/slurm.conf"
  run -1 doctor
  [[ "$output" == *"/etc/ld.so.preload has mode 666, owner 0; 644, owner 0 is right"* ]]
  [[ "$output" == *"/run/softmig has mode 777, owner 0; 755, owner 0 is right"* ]]
  [[ "$output" == *"/var/lib/shared/libsoftmig.so is not there"* ]]
  [[ "$output" == *"PrologFlags=X11"* ]]
  [[ "$output" == *"4 bad, 0 to think about"* ]]
}

@test "a list without the library, with two, with one in another place" {
  node
  : >"$node/etc/ld.so.preload"
  run -1 doctor
  [[ "$output" == *"does not name the library"* ]]
  printf '/old/libsoftmig.so:/var/lib/shared/libsoftmig.so\n' >"$node/etc/ld.so.preload"
  run -1 doctor
  [[ "$output" == *"names the library 2 times"* ]]
  [[ "$output" == *"loads /old/libsoftmig.so"* ]]
}

@test "a library that does not load" {
  node
  head -c 5000 "$node/var/lib/shared/libsoftmig.so" >"$work/cut"
  mv "$work/cut" "$node/var/lib/shared/libsoftmig.so"
  chmod 644 "$node/var/lib/shared/libsoftmig.so"
  run -1 doctor
  [[ "$output" == *"/bin/true with the library: it"* ]]
}

@test "for programs" {
  node
  rm "$node/etc/tmpfiles.d/softmig.conf"
  run -0 doctor --json
  [ "$(python3 -c 'import json, sys
print([f["section"] for f in json.load(sys.stdin) if f["level"] == "warning"])' <<<"$output")" = "['folders']" ]
}

# finds WORD... : doctor names these words in one line.
finds() {
  run doctor
  [[ "$output" == *"$1"* ]] || { echo "$output" && return 1; }
}

@test "prolog and epilog: named, there, ours, safe to run" {
  node
  prolog=$node/etc/slurm/prolog.d/50-softmig
  chmod 775 "$prolog"
  finds "BAD      slurm       $prolog has mode 775, owner 0: others than root can change"
  chmod 644 "$prolog"
  finds "BAD      slurm       $prolog cannot be run"
  echo '#!/bin/sh' >"$prolog"
  finds 'BAD      slurm       Prolog=/etc/slurm/prolog.d/*: nothing there calls softmig job-start'
  rm "$prolog"
  finds 'BAD      slurm       Prolog=/etc/slurm/prolog.d/*: there is no such file'
  : >"$node/etc/slurm/scripts.conf"
  finds 'BAD      slurm       Prolog='
  finds '-> Epilog=/usr/lib/softmig/epilog_softmig.sh, or call epilog_softmig.sh from your own'
}

@test "shards: slurm.conf and gres.conf against softmig.conf" {
  node
  finds "ok       shards      shards are as softmig.conf says"
  sed -i 's/H100]=8/H100]=4/' "$node/etc/softmig/softmig.conf"
  finds "BAD      shards      slurm.conf gives one GPU 8 h100 shards, /etc/softmig/softmig.conf says 4 for each"
  finds "BAD      shards      gres.conf gives one GPU 8 h100 shards"
  sed -i 's/GPU=4/GPU=2/; s/H100]=4/H100]=8/' "$node/etc/softmig/softmig.conf"
  finds "BAD      shards      gres.conf gives 2 GPUs 8 l40s shards"
  sed -i 's/GPU=2/GPU=none/' "$node/etc/softmig/softmig.conf"
  finds 'softmig.conf:1: NUM_SHARDS_PER_GPU: "none" is not a whole number from 1 to 32'
  rm "$node/etc/slurm/gres.conf"
  sed -i '/^NodeName/d' "$node/etc/slurm/slurm.conf"
  finds "warning  shards      no node of slurm.conf or gres.conf has shards"
}

@test "the rest of slurm.conf" {
  node
  echo 'SelectTypeParameters=CR_Core,MULTIPLE_SHARING_GRES_PJ' >>"$node/etc/slurm/slurm.conf"
  finds "BAD      slurm       SelectTypeParameters has MULTIPLE_SHARING_GRES_PJ"
  sed -i /CliFilter/d "$node/etc/slurm/slurm.conf"
  finds "warning  slurm       CliFilterPlugins="
  rm "$node/etc/slurm/cgroup.conf"
  finds "warning  slurm       cgroup.conf does not say ConstrainDevices=yes"
  : >"$node/etc/slurm/job_submit.lua"
  finds "warning  slurm       /etc/slurm/job_submit.lua does not call job_submit_softmig.lua"
  rm "$node/etc/slurm/cli_filter.lua"
  finds "note     slurm       there is no /etc/slurm/cli_filter.lua"
}

@test "versions: two commands, a library that is not the command's" {
  node
  mkdir "$node/usr/bin"
  echo other >"$node/usr/bin/softmig"
  finds "warning  library     /usr/bin/softmig and /usr/local/bin/softmig are two versions"
  mkdir -p "$node/proc/11"
  echo '7f0-7f1 r-xp 0 08:01 9 /var/lib/shared/libsoftmig.so (deleted)' >"$node/proc/11/maps"
  finds "note     library     1 programs run with an earlier library"
  mkdir -p "$node/sys/fs/selinux"
  echo 1 >"$node/sys/fs/selinux/enforce"
  finds "-> semanage fcontext -a -t lib_t /var/lib/shared/libsoftmig.so; restorecon"
}

@test "folders: a log folder that no user can write, files that are missing" {
  node
  chmod 775 "$node/var/log/softmig"
  finds "BAD      folders     /var/log/softmig has mode 775 and root's group: no user can log"
  rm "$node/etc/logrotate.d/softmig"
  finds "warning  folders     logs of jobs stay for ever"
  # A package brings its own.
  mkdir -p "$node/usr/lib/tmpfiles.d"
  mv "$node/etc/tmpfiles.d/softmig.conf" "$node/usr/lib/tmpfiles.d/"
  run doctor
  [[ "$output" != *"after a boot"* ]]
}

@test "nvidia-smi: the hook is there, or was replaced" {
  node
  mkdir -p "$node/usr/bin"
  cp /bin/echo "$node/usr/bin/nvidia-smi"
  finds "note     nvidia-smi  nvidia-smi lists the processes of all jobs"
  "$SOFTMIG" install --root "$node" --nvidia-smi-hook >/dev/null
  finds "ok       nvidia-smi  nvidia-smi shows the processes of one's own job"
  cp /bin/echo "$node/usr/bin/nvidia-smi"
  finds "warning  nvidia-smi  a new nvidia-smi has taken the place of the hook"
}

@test "what users can do: namespaces, and where they are closed" {
  node
  echo 1000 >"$node/proc/sys/user/max_user_namespaces"
  finds "warning  escapes     users can make user namespaces"
  echo 0 >"$node/proc/sys/kernel/unprivileged_userns_clone"
  run -0 doctor
  [[ "$output" != *"users can make user namespaces"* ]]
  rm "$node/proc/sys/kernel/unprivileged_userns_clone"
  echo 1 >"$node/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
  run -0 doctor
  [[ "$output" != *"users can make user namespaces"* ]]
  echo 'proc /proc proc rw,hidepid=invisible 0 0' >"$node/proc/mounts"
  finds "note     escapes     /proc hides other users' processes"
}

@test "containers: bound, or not" {
  node
  mkdir -p "$node/usr/bin" "$node/etc/apptainer" "$node/etc/enroot/mounts.d"
  touch "$node/usr/bin/apptainer" "$node/usr/bin/enroot"
  echo '# bind path = /etc/ld.so.preload' >"$node/etc/apptainer/apptainer.conf"
  finds "containers of Apptainer do not see /etc/ld.so.preload, /var/lib/shared, /run/softmig"
  sed -n '/^bind path/p' "$SOFTMIG_SOURCE/docs/containers.md" >"$node/etc/apptainer/apptainer.conf"
  sed -n '/x-create/p' "$SOFTMIG_SOURCE/docs/containers.md" >"$node/etc/enroot/mounts.d/50-softmig.fstab"
  finds "ok       containers  Apptainer binds the library into containers"
  finds "ok       containers  enroot binds the library into containers"
}

@test "the agent runs, does not, or runs twice" {
  node
  finds "0 to think about" # an image has no processes
  [[ "$output" != *" agent "* ]]
  mkdir "$node/proc/1" "$node/proc/20" "$node/proc/300"
  echo init >"$node/proc/1/comm"
  echo softmigd >"$node/proc/20/comm"
  chown 5001 "$node/proc/20"
  finds "note     agent       softmigd is not seen"
  chown 0 "$node/proc/20"
  finds "ok       agent       softmigd runs, process 20"
  cp "$node/proc/20/comm" "$node/proc/300/comm"
  finds "warning  agent       2 of softmigd run"
}

@test "in a job: its limits, or why there are none" {
  with_empty_run '
    chmod 755 /run/softmig
    echo CUDA_DEVICE_MEMORY_LIMIT=1G >/run/softmig/77.conf
    chmod 644 /run/softmig/77.conf
    export SLURM_JOB_ID=77
    "$SOFTMIG" doctor | grep "  job  " || true
    echo CUDA_DEVICE_MEMORY_LIMIT=much >/run/softmig/77.conf
    "$SOFTMIG" doctor | grep "  job  " || true
    rm /run/softmig/77.conf
    "$SOFTMIG" doctor | grep "  job  " || true'
  [[ "${lines[0]}" == "ok       job         job 77 has limits from /var/run/softmig/77.conf" ]]
  [[ "$output" == *"BAD      job         job 77 can allocate nothing: "*'"much" is not'* ]]
  [[ "$output" == *"note     job         job 77 has no slice"* ]]
}
