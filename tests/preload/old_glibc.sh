#!/bin/bash
# The library in the worlds of other C libraries: Debian 11 (glibc 2.31) and 10 (2.28, from the archive
# of retired releases), whose programs and loader are unpacked into the cache, musl, and Ubuntu 18.04
# (2.27) and 16.04 (2.23).
#
#   old_glibc.sh --library LIB --bin DIR --source DIR --cache DIR
#
# Exit status: 0 all well, 1 not, 77 the archive cannot be reached and the cache is empty.
set -euo pipefail

while [ $# -gt 1 ]; do
  case $1 in
    --library) library=$(realpath "$2") ;;
    --bin) bin=$(realpath "$2") ;;
    --source) source_dir=$(realpath "$2") ;;
    --cache) mkdir -p "$2" && cache=$(realpath "$2") ;;
    *) break ;;
  esac
  shift 2
done
if [ $# -ne 0 ]; then
  echo "usage: $0 --library LIB --bin DIR --source DIR --cache DIR" >&2
  exit 2
fi
: "${library:?}" "${bin:?}" "${source_dir:?}" "${cache:?}"

program_source=$source_dir/tests/preload/world/old_world.c
driver=$bin/fake/libcuda.so.1
passed=0
failed=0
skipped=0

# Of libc6.
declare -A sums=(
  [bionic]=1e1eb86fd646aa68f7144ec692b837b6b352d215880c6a2d0c92c19d36938427
  [xenial]=68d69a0fb2dae7578a2a7054bc0cd5f0994d523f60d540bc6708ff3f2fb33e18
)

# check NAME EXPECTED FOUND
check() {
  if [ "$2" = "$3" ]; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    printf 'FAIL %s\n  expected: %s\n  found:    %s\n' "$1" "${2//$'\n'/ | }" "${3//$'\n'/ | }"
  fi
}

skip() {
  echo "skipped: $1"
  skipped=$((skipped + 1))
}

# Downloads packages of a Debian release and unpacks them into $cache/RELEASE/root, once.
# unpack RELEASE PACKAGE...
unpack() {
  local place=$cache/$1 release=$1 mirror=http://deb.debian.org/debian
  shift
  local trust=
  case $release in
    buster) mirror=http://archive.debian.org/debian ;;
    # Debian has no keys of Ubuntu: what is downloaded is known by its sum.
    xenial | bionic) mirror=http://archive.ubuntu.com/ubuntu trust="[trusted=yes]" ;;
  esac
  [ -e "$place/complete" ] && return 0
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
  rm -rf "$place"
  mkdir -p "$place"/{state/lists/partial,cache/archives/partial,deb,root,none}
  echo "deb $trust $mirror $release main" >"$place/sources.list"
  cat >"$place/apt.conf" <<END
Dir::State "$place/state";
Dir::State::status "/dev/null";
Dir::Cache "$place/cache";
Dir::Etc::sourcelist "$place/sources.list";
Dir::Etc::sourceparts "$place/none";
Dir::Etc::parts "$place/none";
Acquire::Languages "none";
Acquire::Retries "0";
Acquire::Check-Valid-Until "false";
Acquire::http::Timeout "15";
APT::Sandbox::User "root";
END
  export APT_CONFIG=$place/apt.conf
  timeout 60 apt-get -qq update >"$place/log" 2>&1 || return 1
  (cd "$place/deb" && timeout 60 apt-get -qq download "$@" >>"$place/log" 2>&1) || return 1
  unset APT_CONFIG
  if [ -n "$trust" ]; then
    sha256sum --quiet --check <<<"${sums[$release]}  $(echo "$place"/deb/*.deb)" || return 1
  fi
  for package in "$place"/deb/*.deb; do dpkg-deb -x "$package" "$place/root"; done
  rm -rf "$place"/{state,cache,deb,none}
  touch "$place/complete"
}

# What old_world prints: with 1024 MiB, 64 of them for the context, and without limits.
readonly active_words="same 1
found 1
init 0 create 0
pieces 7 then 2
info 0 total 1024
child 2
thread 2
unknown 1
end 0"
readonly passive_words="same 1
found 1
init 0 create 0
pieces 64 then 0
info 0 total 81920
child 0
thread 0
unknown 1
end 0"

# try NAME COMMAND...: the command runs old_world; bare, passive and active.
try() {
  local name=$1 folder
  shift
  folder=$(mktemp -d)
  check "$name bare" "$passive_words" "$("$@" "$driver" 2>&1)"
  check "$name passive" "$passive_words" "$(preload=$library "$@" "$driver" 2>&1)"
  check "$name active" "$active_words" "$(
    export CUDA_DEVICE_MEMORY_LIMIT=1024M SOFTMIG_CONTEXT_COST=64M SOFTMIG_REGION=$folder/region
    preload=$library SOFTMIG_LOG_FILE=$folder/log "$@" "$driver" 2>&1
  )"
  rm -rf "$folder"
}

# Runs a program through the old loader; LD_PRELOAD only for that program.
in_bullseye() {
  local root=$cache/bullseye/root
  env ${preload:+LD_PRELOAD="$preload"} "$root/lib/x86_64-linux-gnu/ld-2.31.so" \
    --library-path "$root/lib/x86_64-linux-gnu:$root/usr/lib/x86_64-linux-gnu" "$@"
}

# The same programs with and without the library.
try_programs() {
  local root=$cache/bullseye/root command
  for command in "/bin/true" "/bin/ls -la /usr" "/bin/bash -c 'echo \$BASH_VERSION; exit 3'" \
    "/usr/bin/perl -e 'print 6*7'" "/bin/sort --version"; do
    local bare with
    bare=$(eval "in_bullseye $root$command" 2>&1; echo "status $?") || true
    with=$(eval "preload=\$library in_bullseye $root$command" 2>&1; echo "status $?") || true
    check "bullseye $command" "$bare" "$with"
  done
}

# The machine as a whole: /etc/ld.so.preload and the kernel's own choice of loader, as root.
try_chroot() {
  local root=$cache/bullseye/root inside=/opt/libsoftmig.so
  if [ "$(id -u)" -ne 0 ] || ! unshare -m true 2>/dev/null; then
    skip "a chroot needs root"
    return
  fi
  mkdir -p "$root/opt" "$root/etc"
  cp "$library" "$root$inside"
  echo "$inside" >"$root/etc/ld.so.preload"
  check "bullseye chroot" "5.1 42 7 $inside" "$(unshare -m bash -c "
    mkdir -p '$root'/{proc,dev} && mount --bind /proc '$root/proc' &&
    mount --bind /dev '$root/dev' && LC_ALL=C exec chroot '$root' /bin/bash -c '
      /bin/true && echo -n \"\${BASH_VERSION:0:3} \"; /usr/bin/perl -e \"print 42, qq( )\"
      bash -c \"exit 7\"; echo -n \"\$? \"
      while read -r _ _ _ _ _ file; do
        case \$file in *softmig*) echo \$file; break ;; esac
      done </proc/self/maps'" 2>&1)"
  rm -f "$root/etc/ld.so.preload" "$root$inside"
}

try_bullseye() {
  if ! unpack bullseye libc6 libc6-dev linux-libc-dev bash coreutils perl-base libtinfo6 \
    libselinux1 libpcre2-8-0 libacl1 libattr1 libgmp10 libcrypt1; then
    skip "Debian 11 cannot be downloaded"
    return
  fi
  local root=$cache/bullseye/root
  local lib=$root/lib/x86_64-linux-gnu
  # The packages' links are absolute, and lead out of the folder.
  ln -sf ../lib/x86_64-linux-gnu/ld-2.31.so "$root/lib64/ld-linux-x86-64.so.2"
  gcc --sysroot="$root" -B"$root/usr/lib/x86_64-linux-gnu" -L"$lib" \
    -L"$root/usr/lib/x86_64-linux-gnu" -O1 -o "$cache/old_world" "$program_source" \
    "$lib/libdl.so.2" "$lib/libpthread.so.0"
  try "bullseye" in_bullseye "$cache/old_world"
  try_programs
  try_chroot
}

# in_older RELEASE PROGRAM...: with that release's loader and C library.
in_older() {
  local lib=$cache/$1/root/lib/x86_64-linux-gnu
  shift
  env ${preload:+LD_PRELOAD="$preload"} "$lib"/ld-2.??.so --library-path "$lib" "$@"
}

# try_older RELEASE NAME: the program of Debian 11 runs there too.
try_older() {
  if [ ! -e "$cache/old_world" ] || ! unpack "$1" libc6; then
    skip "$2 cannot be downloaded"
    return
  fi
  try "$1" in_older "$1" "$cache/old_world"
}

# The kernel starts musl's loader under the name that the program gives it.
in_musl() { env ${preload:+LD_PRELOAD="$preload"} "$@"; }

try_musl() {
  if ! unpack bookworm musl musl-dev; then
    skip "musl cannot be downloaded"
    return
  fi
  local root=$cache/bookworm/root
  local lib=$root/usr/lib/x86_64-linux-musl
  gcc -nostdinc -isystem "$root/usr/include/x86_64-linux-musl" -O1 -fPIE -fno-stack-protector \
    -U_FORTIFY_SOURCE -c -o "$cache/musl_world.o" "$program_source"
  gcc -nostdlib -pie -o "$cache/musl_world" "$lib/Scrt1.o" "$lib/crti.o" "$cache/musl_world.o" \
    "$root/lib/x86_64-linux-musl/libc.so" "$lib/crtn.o" \
    -Wl,-dynamic-linker,"$root/lib/ld-musl-x86_64.so.1"
  try "musl" in_musl "$cache/musl_world"
}

try_bullseye
try_older buster "Debian 10, from archive.debian.org,"
try_musl
try_older bionic "Ubuntu 18.04"
try_older xenial "Ubuntu 16.04"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] || exit 1
[ "$passed" -gt 0 ] || exit 77
