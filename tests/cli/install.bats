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
    for folder in /run /var/lib /var/log /usr/local/bin; do mount -t tmpfs tmpfs "$folder"; done
    chmod 755 /run /var/lib /var/log /usr/local/bin
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
    ! grep -q libsoftmig /proc/self/maps
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
