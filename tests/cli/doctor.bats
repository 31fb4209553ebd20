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
Prolog=/etc/slurm/prolog.d/* Epilog=/etc/slurm/epilog.d/*
JobSubmitPlugins=lua # users write gpu:l40s.4:1
ProctrackType=proctrack/cgroup
CONF
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
