#!/usr/bin/env bats
# docs/containers.md without the container runtimes: its mounts, made over the root of a Debian 11
# (glibc 2.31), and what an ordinary user's programs then see of their limits.

# shellcheck disable=SC2016,SC2154 # scripts for other shells; variables of bats
bats_require_minimum_version 1.5.0

# Programs and loader of Debian 11, as tests/preload/old_glibc.sh unpacks and builds them.
setup_file() {
  [ "$(id -u)" -eq 0 ] || skip "needs root"
  unshare --mount true 2>/dev/null || skip "private mounts are not allowed here"
  export worlds=${SOFTMIG_BUILD:?the build folder}/tests/preload/worlds
  if [ ! -e "$worlds/old_world" ] || [ ! -e "$worlds/bullseye/complete" ]; then
    "${SOFTMIG_SOURCE:?the source tree}/tests/preload/old_glibc.sh" --source "$SOFTMIG_SOURCE" \
      --library "$SOFTMIG_BUILD/libsoftmig.so" --bin "$SOFTMIG_BUILD/tests/preload" \
      --cache "$worlds" >/dev/null || skip "Debian 11 cannot be downloaded"
  fi
  unshare --mount bash -euc 'mount -t tmpfs none /mnt; mkdir /mnt/{upper,work,root}
    mount -t overlay -o "lowerdir=$0,upperdir=/mnt/upper,workdir=/mnt/work" none /mnt/root' \
    "$worlds/bullseye/root" 2>/dev/null || skip "overlay mounts are not allowed here"
}

# Runs a script on a node where SoftMig is installed and job 77 has a slice. There `container` is the
# root of the image, `bind SOURCE [TARGET]` makes a mount with its mount point, and `program` runs the
# program of the image as a user, in this job.
on_node() {
  cp -a /etc "$BATS_TEST_TMPDIR/etc"
  rm -f "$BATS_TEST_TMPDIR/etc/ld.so.preload"
  chmod 755 "$BATS_TEST_TMPDIR"
  run unshare --mount bash -euc '
    script=$1 private=$2
    mount --bind "$private/etc" /etc
    for folder in /run /var/lib /var/log /usr/local /mnt; do
      mount -t tmpfs -o mode=755 none "$folder"
    done
    mkdir /usr/local/bin /usr/local/lib
    "$SOFTMIG_BUILD/softmig" install >/dev/null
    printf "%s\n" CUDA_DEVICE_MEMORY_LIMIT=1024M SOFTMIG_CONTEXT_COST=64M >/run/softmig/77.conf
    # A region as the library makes it itself.
    CUDA_DEVICE_MEMORY_LIMIT=1G SOFTMIG_REGION=/run/model \
      "$worlds/old_world" "$SOFTMIG_BUILD/tests/preload/fake/libcuda.so.1" >/dev/null
    install -m 600 -o 1234 -g 1234 /run/model /run/softmig/77.region
    container=/mnt/root
    mkdir /mnt/{upper,work,root}
    mount -t overlay -o "lowerdir=$worlds/bullseye/root,upperdir=/mnt/upper,workdir=/mnt/work" none \
      $container
    mkdir -p $container/{proc,var,tmp}
    ln -s /run $container/var/run
    mount --rbind /proc $container/proc
    cp "$worlds/old_world" "$SOFTMIG_BUILD/tests/preload/fake/libcuda.so.1" $container/opt/
    bind() {
      local target=$container${2:-$1}
      mkdir -p "$(dirname "$target")"
      if [ -d "$1" ]; then mkdir -p "$target"; else touch "$target"; fi
      mount --bind "$1" "$target"
    }
    program() {
      LC_ALL=C SLURM_JOB_ID=77 chroot --userspec=1234:1234 $container \
        /opt/old_world /opt/libcuda.so.1 2>&1 | sed -n "/^pieces/p; /^info/p; /^child/p; /ERROR/p"
    }
    eval "$script"' bash "$1" "$BATS_TEST_TMPDIR"
}

# Lines of docs/containers.md that begin with a pattern.
documented() { sed -n "/^$1/p" "$SOFTMIG_SOURCE/docs/containers.md"; }

readonly limited="pieces 7 then 2
info 0 total 1024
child 2"
readonly unlimited="pieces 64 then 0
info 0 total 81920
child 0"

@test "a container with nothing bound is not limited" {
  on_node program
  [ "$output" = "$unlimited" ]
}

@test "Apptainer's lines" {
  lines=$(documented 'bind path = ' | sed 's/.* = /bind /')
  [ "$(wc -l <<<"$lines")" = 3 ]
  on_node "$lines
    program"
  [ "$output" = "$limited" ]
}

@test "Apptainer's lines: none of the three can be left out" {
  on_node 'bind /etc/ld.so.preload; bind /run/softmig; program'
  [[ "$output" == *"cannot be preloaded"*"$unlimited"* ]]
  on_node 'bind /etc/ld.so.preload; bind /var/lib/shared; program'
  [ "$output" = "$unlimited" ]
}

@test "enroot's lines, with their options" {
  lines=$(documented '[^ ]* *[^ ]* *none x-create=')
  [ "$(wc -l <<<"$lines")" = 3 ]
  on_node "
    while read -r source target _ options; do
      bind \$source \$target
      options=\${options#x-create=*,}
      mount -o remount,\${options%,private} \$container\$target
    done <<<'$lines'
    program
    if touch \$container/etc/ld.so.preload 2>/dev/null; then echo writable; fi"
  [ "$output" = "$limited" ]
}

# As Apptainer without its setuid part, enroot and rootless Podman: root's files belong to nobody there.
@test "a container in a user namespace" {
  unshare --user --map-root-user true 2>/dev/null || skip "user namespaces are not allowed here"
  on_node 'bind /etc/ld.so.preload; bind /var/lib/shared; bind /run/softmig
    SLURM_JOB_ID=77 LC_ALL=C setpriv --reuid 1234 --regid 1234 --clear-groups \
      unshare --user --map-root-user chroot $container /opt/old_world /opt/libcuda.so.1 |
      sed -n "/^pieces/p; /^info/p; /^child/p"'
  [ "$output" = "$limited" ]
}

@test "a job of the host and its container count together" {
  on_node 'bind /etc/ld.so.preload; bind /var/lib/shared; bind /run/softmig
    # Half of the slice is held by a program outside.
    cat >/usr/local/bin/hold.py <<END
import ctypes, time
cuda, pointer = ctypes.CDLL("$SOFTMIG_BUILD/tests/preload/fake/libcuda.so.1"), ctypes.c_uint64()
assert cuda.cuInit(0) == 0 and cuda.cuCtxCreate_v2(ctypes.byref(pointer), 0, 0) == 0
assert cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(448 << 20)) == 0
print("held", flush=True)
time.sleep(1000)
END
    coproc SLURM_JOB_ID=77 setpriv --reuid 1234 --regid 1234 --clear-groups /usr/bin/python3 /usr/local/bin/hold.py
    read -r word <&${COPROC[0]}
    program
    kill $COPROC_PID'
  [[ "$output" == "pieces 3 then 2"* ]]
}

@test "a loader of its own: it says where its list is, and takes a link or a mount there" {
  loader='sed -i "s|/etc/ld.so.preload|/pfx/ld.so.preload|g" $container/lib/x86_64-linux-gnu/ld-2.31.so
    bind /var/lib/shared; bind /run/softmig
    mkdir $container/pfx'
  on_node "$loader
    bind /etc/ld.so.preload
    strings \$container/lib/x86_64-linux-gnu/ld-2.31.so | grep 'ld\\.so\\.preload\$'
    program"
  [ "$output" = "/pfx/ld.so.preload
$unlimited" ]
  on_node "$loader
    bind /etc/ld.so.preload
    ln -s /etc/ld.so.preload \$container/pfx/ld.so.preload
    program"
  [ "$output" = "$limited" ]
  on_node "$loader
    bind /etc/ld.so.preload /pfx/ld.so.preload
    program"
  [ "$output" = "$limited" ]
}
