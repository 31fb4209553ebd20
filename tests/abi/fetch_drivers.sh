#!/bin/bash
# Fetches the driver's libraries that Debian's releases have, for the lists of what they export alone.
#
#   fetch_drivers.sh FOLDER     -> FOLDER/535.261.03/libcuda.so.1 and libnvidia-ml.so.1, ...
#
# A release that was fetched is not fetched again. Exit status: 0 all there, 1 some could not be had
# (no network, no apt), 2 wrong use. Nothing that SoftMig builds or installs needs these files.
set -euo pipefail
if [ $# -ne 1 ]; then
  echo "usage: $0 FOLDER" >&2
  exit 2
fi
mkdir -p "$1"
folder=$(realpath "$1")

# In a folder of its own, so that nothing of this machine's apt is touched.
# fetch RELEASE
fetch() {
  local release=$1 place=$folder/.$1 library version
  [ -e "$folder/$release.complete" ] && return 0
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
  rm -rf "$place"
  mkdir -p "$place"/{state/lists/partial,cache/archives/partial,deb,root,none}
  echo "deb http://deb.debian.org/debian $release non-free" >"$place/sources.list"
  cat >"$place/apt.conf" <<END
Dir::State "$place/state";
Dir::State::status "/dev/null";
Dir::Cache "$place/cache";
Dir::Etc::sourcelist "$place/sources.list";
Dir::Etc::sourceparts "$place/none";
Dir::Etc::parts "$place/none";
APT::Architecture "amd64";
Acquire::Languages "none";
Acquire::Retries "0";
Acquire::Check-Valid-Until "false";
Acquire::http::Timeout "15";
APT::Sandbox::User "root";
END
  (
    export APT_CONFIG=$place/apt.conf
    cd "$place/deb"
    timeout 60 apt-get -qq update >../log 2>&1
    timeout 120 apt-get -qq download libcuda1 libnvidia-ml1 >>../log 2>&1
  ) || return 1
  for package in "$place"/deb/*.deb; do dpkg-deb -x "$package" "$place/root"; done
  for library in libcuda libnvidia-ml; do
    found=$(find "$place/root" -type f -name "$library.so.*")
    version=${found##*.so.}
    mkdir -p "$folder/$version"
    mv "$found" "$folder/$version/$library.so.1"
  done
  rm -rf "$place"
  touch "$folder/$release.complete"
  echo "fetched driver $version of Debian's $release"
}

failed=0
for release in bookworm trixie experimental; do
  fetch "$release" || {
    echo "cannot fetch the driver of Debian's $release" >&2
    tail -n 2 "$folder/.$release/log" >&2 || true
    rm -rf "$folder/.$release"
    failed=1
  }
done
exit $failed
