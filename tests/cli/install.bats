#!/usr/bin/env bats
# softmig install and uninstall: in another root folder, and on a system of the test's own, which is
# this one with private copies of all that is written.

# shellcheck disable=SC2016,SC2154 # scripts for other shells; variables of bats
load helpers

image() {
  [ "$(id -u)" -eq 0 ] || skip "needs root"
  image=$work/image
  mkdir -p "$image/etc"
  chmod 755 "$work" "$image"
}

# Runs a script on the test's own system. $1: what /etc/ld.so.preload holds there before.
own_system() {
  [ "$(id -u)" -eq 0 ] || skip "needs root"
  unshare --mount true || skip "private mounts are not allowed here"
  cp -a /etc "$work/etc"
  rm -f "$work/etc/ld.so.preload"
  [ -z "$1" ] || printf '%s' "$1" >"$work/etc/ld.so.preload"
  unshare --mount bash -euc '
    mount --bind "$0/etc" /etc
    for folder in /run /var/lib /var/log /usr/local; do mount -t tmpfs tmpfs "$folder"; done
    chmod 755 /run /var/lib /var/log /usr/local
    mkdir /usr/local/bin /usr/local/lib
    eval "$1"' "$work" "$2"
}

@test "an image gets everything, and other entries stay" {
  image
  printf '/usr/lib/other.so\n# a remark\n/old/libsoftmig.so:/usr/lib/b.so' >"$image/etc/ld.so.preload"
  run -0 "$SOFTMIG" install --root "$image"
  [ "$(cat "$image/etc/ld.so.preload")" = "/usr/lib/other.so
# a remark
/usr/lib/b.so
/var/lib/shared/libsoftmig.so" ]
  [ "$(stat -c '%a %U' "$image/var/lib/shared/libsoftmig.so")" = "644 root" ]
  [ "$(stat -c %a "$image/var/lib/shared" "$image/run/softmig" "$image/var/log/softmig" | xargs)" \
    = "755 755 1777" ]
  [ "$(stat -c %a "$image/etc/ld.so.preload" "$image/usr/local/bin/softmig" | xargs)" = "644 755" ]
  [ -e "$image/etc/tmpfiles.d/softmig.conf" ]
  [ -e "$image/etc/logrotate.d/softmig" ]
  for page in man1/softmig.1 man5/softmig.conf.5 man7/libsoftmig.7; do
    [ "$(stat -c %a "$image/usr/local/share/man/$page")" = 644 ]
  done
}

@test "again it changes nothing, and what it made goes when it is uninstalled" {
  image
  run -0 "$SOFTMIG" install --root "$image"
  inode=$(stat -c %i "$image/var/lib/shared/libsoftmig.so")
  run -0 "$SOFTMIG" update --root "$image"
  [[ "$output" == *"unchanged, tried"* ]]
  [ "$(stat -c %i "$image/var/lib/shared/libsoftmig.so")" = "$inode" ]
  touch "$image/var/log/softmig/1.log"
  run -0 "$SOFTMIG" uninstall --root "$image"
  [ "$(find "$image" -type f)" = "$image/var/log/softmig/1.log" ]
  run -0 "$SOFTMIG" uninstall --root "$image"
}

@test "logs for one group" {
  image
  run -0 "$SOFTMIG" install --root "$image" --log-group adm --no-preload
  [ "$(stat -c '%a %G' "$image/var/log/softmig")" = "775 adm" ]
  [ ! -e "$image/etc/ld.so.preload" ]
  run -1 "$SOFTMIG" install --root "$image" --log-group nosuchgroup
  [[ "$output" == *"--log-group nosuchgroup: there is no such group"* ]]
}

@test "an update keeps the log folder's group" {
  image
  run -0 "$SOFTMIG" install --root "$image" --log-group adm
  run -0 "$SOFTMIG" update --root "$image"
  [ "$(stat -c '%a %G' "$image/var/log/softmig")" = "775 adm" ]
  chmod 777 "$image/var/log/softmig"
  run -0 "$SOFTMIG" update --root "$image"
  [ "$(stat -c '%a %G' "$image/var/log/softmig")" = "1777 root" ]
}

@test "nvidia-smi-hook.sh is there, and takes the place of nvidia-smi where that is wanted" {
  image
  smi=$image/usr/bin/nvidia-smi
  run -0 "$SOFTMIG" install --root "$image"
  hook=$image/usr/local/lib/softmig/nvidia-smi-hook.sh
  cmp "$hook" "${SOFTMIG_SOURCE:?the source tree}/scripts/nvidia-smi-hook.sh"
  [ "$(stat -c %a "$hook")" = 755 ]
  run -1 "$SOFTMIG" install --root "$image" --nvidia-smi-hook
  [[ "$output" == *"there is no /usr/bin/nvidia-smi"* ]]
  mkdir -p "$image/usr/bin"
  echo '#!/bin/sh' >"$smi"
  run -1 "$SOFTMIG" install --root "$image" --nvidia-smi-hook
  [[ "$output" == *"is not NVIDIA's program"* ]]
  cp /bin/echo "$smi"
  run -0 "$SOFTMIG" install --root "$image" --nvidia-smi-hook
  cmp "$smi" "$hook"
  cmp "$smi.real" /bin/echo
  [ "$(stat -c %a "$smi")" = 755 ]
  # A newer version renews it without being asked; a newer driver is behind it once more when asked.
  echo '# softmig-nvidia-smi-hook of old' >"$smi"
  run -0 "$SOFTMIG" update --root "$image"
  cmp "$smi" "$hook"
  cp /bin/cat "$smi"
  run -0 "$SOFTMIG" update --root "$image"
  cmp "$smi" /bin/cat
  run -0 "$SOFTMIG" update --root "$image" --nvidia-smi-hook
  cmp "$smi.real" /bin/cat
  run -0 "$SOFTMIG" uninstall --root "$image"
  cmp "$smi" /bin/cat
  [ "$(ls "$image/usr/bin")" = nvidia-smi ]
  [ ! -e "$image/usr/local/lib/softmig" ]
}

@test "nvidia-smi that is a link to it" {
  image
  mkdir -p "$image"/{usr/bin,opt}
  cp /bin/echo "$image/opt/smi"
  ln -s ../../opt/smi "$image/usr/bin/nvidia-smi"
  run -0 "$SOFTMIG" install --root "$image" --nvidia-smi-hook
  cmp "$image/opt/smi" /bin/echo
  [ "$(readlink "$image/usr/bin/nvidia-smi.real")" = ../../opt/smi ]
  run -0 "$SOFTMIG" uninstall --root "$image"
  [ "$(readlink "$image/usr/bin/nvidia-smi")" = ../../opt/smi ]
}

@test "dpkg unpacks a newer driver behind the hook" {
  command -v dpkg-divert >/dev/null || skip "no dpkg"
  image
  mkdir -p "$image"/usr/bin "$image"/var/lib/dpkg/{info,updates}
  touch "$image"/var/lib/dpkg/{status,diversions}
  cp /bin/echo "$image/usr/bin/nvidia-smi"
  cp "$(command -v dpkg-divert)" "$image/usr/bin/"
  run -0 "$SOFTMIG" install --root "$image" --nvidia-smi-hook
  [ "$(dpkg-divert --root "$image" --truename /usr/bin/nvidia-smi)" = /usr/bin/nvidia-smi.real ]
  run -0 "$SOFTMIG" uninstall --root "$image"
  [ "$(dpkg-divert --root "$image" --truename /usr/bin/nvidia-smi)" = /usr/bin/nvidia-smi ]
  cmp "$image/usr/bin/nvidia-smi" /bin/echo
}

@test "install_softmig.sh: the promised name" {
  image
  script=$SOFTMIG_SOURCE/docs/examples/install_softmig.sh
  library=$(dirname "$SOFTMIG")/libsoftmig.so
  run -0 "$script" "$library" --root "$image" --log-group adm
  [ -e "$image/var/lib/shared/libsoftmig.so" ]
  [ "$(stat -c '%a %G' "$image/var/log/softmig")" = "775 adm" ]
  run -1 "$script" "$work/none.so"
  [[ "$output" == *"none.so: there is no such file"* ]]
  cp "$library" "$work/"
  run -0 "$script" --help
  [[ "$output" == *"install_softmig.sh [LIBRARY]"* ]]
  run -1 setpriv --reuid 65534 --clear-groups "$script" "$library"
  [[ "$output" == *"it needs root"* ]]
}

@test "a library that does harm is not installed" {
  image
  cat >"$work/harm.c" <<'C'
#include <stdio.h>
__attribute__((constructor)) static void hello(void) { puts("hello"); }
C
  cc -shared -fPIC -o "$work/libsoftmig.so" "$work/harm.c" || skip "no C compiler"
  echo /usr/lib/other.so >"$image/etc/ld.so.preload"
  run -1 "$SOFTMIG" install --root "$image" --library "$work/libsoftmig.so"
  [[ "$output" == *"it printed: hello"* ]]
  [ "$(cat "$image/etc/ld.so.preload")" = /usr/lib/other.so ]
  [ -z "$(find "$image" -name 'libsoftmig.so*')" ]
}

@test "a list that is a link is left alone" {
  image
  ln -s /elsewhere "$image/etc/ld.so.preload"
  run -1 "$SOFTMIG" install --root "$image"
  [[ "$output" == *"/etc/ld.so.preload is not a regular file"* ]]
  [ -L "$image/etc/ld.so.preload" ]
}

@test "only root" {
  [ "$(id -u)" -ne 0 ] || { run -1 setpriv --reuid 65534 --clear-groups "$SOFTMIG" install; }
  [ "$(id -u)" -eq 0 ] || { run -1 "$SOFTMIG" install; }
  [[ "$output" == *"it needs root"* ]]
}

@test "a system: programs load it from then on, and no more after it is uninstalled" {
  own_system "" '
    "$SOFTMIG" install
    grep -q /var/lib/shared/libsoftmig.so /proc/self/maps
    setpriv --reuid 65534 --clear-groups grep -q libsoftmig /proc/self/maps
    [ "$(cat /etc/ld.so.preload)" = /var/lib/shared/libsoftmig.so ]
    "$SOFTMIG" uninstall
    if grep -q libsoftmig /proc/self/maps; then exit 9; fi
    [ ! -e /etc/ld.so.preload ]
    [ -z "$(ls /run/softmig)" ]'
}

@test "an update under running programs replaces the file, not its contents" {
  own_system "" '
    "$SOFTMIG" install >/dev/null
    sleep 100 &
    running=$!
    cp /var/lib/shared/libsoftmig.so "$0/libsoftmig.so"
    printf "\0" >>"$0/libsoftmig.so"
    before=$(stat -c %i /var/lib/shared/libsoftmig.so)
    "$SOFTMIG" update --library "$0/libsoftmig.so" | grep "tried, put in place"
    [ "$(stat -c %i /var/lib/shared/libsoftmig.so)" != "$before" ]
    grep -q "libsoftmig.so (deleted)" /proc/$running/maps
    kill $running
    grep -q "shared/libsoftmig.so$" /proc/self/maps'
}

# 50 programs in one slice, each of them in and out of the library all the time; then newer ones.
@test "an update under 50 programs that use it: none is disturbed, new ones get the new one" {
  sim=$(dirname "$SOFTMIG")/sim/13.0
  [ -e "$sim/libcuda.so.1" ] || skip "no simulated GPU"
  command -v python3 >/dev/null || skip "no Python"
  cat >"$work/busy.py" <<'PYTHON'
import ctypes, os, sys, time
cuda = ctypes.CDLL("libcuda.so.1")
pointer, total, free = ctypes.c_uint64(), ctypes.c_size_t(), ctypes.c_size_t()
def call(name, *arguments):
    status = getattr(cuda, name)(*arguments)
    if status != 0:
        sys.exit(f"{name}: {status}")
call("cuInit", 0)
call("cuCtxCreate_v2", ctypes.byref(pointer), 0, 0)
own, stop = sys.argv[1] + f"/{os.getpid()}", sys.argv[1] + "/stop"
while True:
    call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(3 << 20))
    call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    if total.value != 64 << 30:
        sys.exit(f"total {total.value}")
    call("cuMemFree_v2", pointer)
    if own:
        open(own, "w").close()
        own = None
    if os.path.exists(stop):
        break
    time.sleep(0.01)
inode = {line.split()[4] for line in open("/proc/self/maps") if "libsoftmig.so" in line}
print(*inode)
PYTHON
  export sim
  own_system "" '
    "$SOFTMIG" install >/dev/null
    old=$(stat -c %i /var/lib/shared/libsoftmig.so)
    mkdir "$0/ready"
    export LD_LIBRARY_PATH=$sim SOFTMIG_SIM=1x80G CUDA_DEVICE_MEMORY_LIMIT=64G
    export SOFTMIG_REGION=$0/region SOFTMIG_CONTEXT_COST=64M SOFTMIG_SIM_STATE=$0/state
    for i in {1..50}; do
      python3 "$0/busy.py" "$0/ready" >"$0/old.$i" 2>&1 &
      programs[i]=$!
    done
    wait_for() {
      for _ in {1..600}; do
        [ "$(ls "$0/ready" | wc -l)" != "$1" ] || return 0
        sleep 0.1
      done
      cat "$0"/old.* "$0"/new.*
      exit 1
    }
    wait_for 50
    cp /var/lib/shared/libsoftmig.so "$0/libsoftmig.so"
    printf "\0" >>"$0/libsoftmig.so"
    "$SOFTMIG" update --library "$0/libsoftmig.so" | grep "tried, put in place"
    new=$(stat -c %i /var/lib/shared/libsoftmig.so)
    [ "$new" != "$old" ]
    for i in {1..5}; do
      python3 "$0/busy.py" "$0/ready" >"$0/new.$i" 2>&1 &
      programs[50+i]=$!
    done
    wait_for 55
    touch "$0/ready/stop"
    for i in ${!programs[@]}; do
      wait ${programs[i]} || { echo "program $i"; cat "$0"/*.$i; exit 1; }
    done
    [ "$(cat "$0"/old.* | sort -u)" = "$old" ]
    [ "$(cat "$0"/new.* | sort -u)" = "$new" ]'
}
