#!/bin/bash
# Puts Slurm and munge of Debian, with the libraries that they need, into a folder that can be carried to
# a machine without packages and without network: tests/slurm/card.py runs them from there.
#
#   pack_slurm.sh FOLDER [PROGRAM...]
#
# FOLDER becomes the root of what dpkg -x extracts, and FOLDER.tar.xz the same in one file. Libraries of
# the PROGRAMs (build/softmig) are packed too. Of glibc, libstdc++ and libgcc those of the other machine
# are used. Runs on Debian 12 that has the packages itself (tools/deps.sh test), for their names.
set -euo pipefail
shopt -s inherit_errexit

if [ "$#" -lt 1 ]; then
  sed -n '2,/^set /s/^# \{0,1\}//p' "$0" | head -n -1 >&2
  exit 2
fi
root=$(realpath -m "$1")
shift
programs=("$@")
packages=(slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge)
most=$((55 * 1024 * 1024))
own=lib/x86_64-linux-gnu/slurm-wlm

# A folder of somebody else is not cleared.
if [ -e "$root" ] && [ ! -e "$root/.packed" ]; then
  echo "$root is there, and was not made by this script" >&2
  exit 1
fi
rm -rf "$root"
mkdir -p "$root"
touch "$root/.packed"
debs=$(mktemp -d)
trap 'rm -rf "$debs"' EXIT

extract() {
  (cd "$debs" && rm -f ./*.deb && apt-get -q -o APT::Sandbox::User=root download "$@" >&2)
  for deb in "$debs"/*.deb; do dpkg -x "$deb" "$root"; done
}

# The packages of what the extracted programs load, without what every machine has.
needed_packages() {
  local files libraries
  mapfile -t files < <(find "$root/usr" -type f \( -path '*/bin/*' -o -path '*/sbin/*' -o -name '*.so*' \))
  libraries=$(LD_LIBRARY_PATH="$root/usr/$own" ldd "${files[@]}" "${programs[@]}" 2>/dev/null || true)
  if grep 'not found' <<<"$libraries" >&2; then exit 1; fi
  sed -n 's/.* => \(\/[^ ]*\) (.*/\1/p' <<<"$libraries" | sort -u | grep -v "^$root" |
    while read -r library; do
      # Either spelling, since /lib is a link to /usr/lib.
      dpkg -S "$(realpath "$library")" 2>/dev/null || dpkg -S "$library" 2>/dev/null ||
        dpkg -S "/usr$library"
    done | cut -d: -f1 | sort -u | grep -vxE 'libc6|libstdc\+\+6|libgcc-s1|slurm.*|munge'
}

extract "${packages[@]}"
names=$(needed_packages)
mapfile -t more <<<"$names"
extract "${more[@]}"
rm -rf "${root:?}"/{usr/share,etc,var,lib/systemd}
tar -C "$root" -cf - . | xz -T2 -6 >"$root.tar.xz"

size=$(stat -c %s "$root.tar.xz")
printf '%s: %s packages, %s MiB, %s.tar.xz: %s.%02d MiB\n' "$root" \
  "$((${#packages[@]} + ${#more[@]}))" "$(($(du -sk "$root" | cut -f1) / 1024))" "$root" \
  "$((size / 1048576))" "$((size % 1048576 * 100 / 1048576))"
if [ "$size" -ge "$most" ]; then
  echo "that is more than $((most / 1048576)) MiB" >&2
  exit 1
fi
