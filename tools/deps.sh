#!/bin/bash
# Installs what is missing of the Debian packages that a task needs.
#
#   deps.sh build    the library, the command line, the simulated GPU and all test programs
#   deps.sh test     the above, and what the tests call
#   deps.sh lab      the above, and what makes another Debian
#   deps.sh packages that of build, and what makes packages
#   deps.sh check    all above, and what looks at the sources
#   deps.sh aarch64  what builds the library for aarch64 and runs it
#
# Does nothing if all are there. Installing needs root; without it, the command to type is printed.
set -euo pipefail
shopt -s inherit_errexit

build=(cmake make g++ python3 libcli11-dev libfmt-dev nlohmann-json3-dev libncurses-dev libgtest-dev
  libgmock-dev)
tests=(bats binutils libc6-i386 util-linux procps mandoc curl python3-pip clang-14 libclang-rt-14-dev
  fonts-dejavu-core librsvg2-bin)
# What the tests of the Slurm side call; without them those tests are skipped.
slurm=(lua-busted lua5.1 lua5.2 lua5.3 lua5.4 slurmctld slurmd slurm-client
  slurm-wlm-basic-plugins munge iproute2 xz-utils)
# The node agent and what checks its metrics; without them it is not built.
agent=(prometheus-cpp-dev prometheus)
# What builds and checks the packages.
packages=(dpkg-dev file lintian rpm)
# The other processor; GoogleTest is built from its sources.
aarch64=(cmake make g++ python3 binutils g++-aarch64-linux-gnu qemu-user googletest)
check=(lua-check git shellcheck clang-format clang-tidy)

case "${1:-}" in
  build) wanted=("${build[@]}") ;;
  test) wanted=("${build[@]}" "${tests[@]}" "${slurm[@]}" "${agent[@]}" "${packages[@]}") ;;
  lab) wanted=("${build[@]}" "${tests[@]}" "${slurm[@]}" debootstrap) ;;
  packages) wanted=("${build[@]}" "${agent[@]}" "${packages[@]}") ;;
  check) wanted=("${build[@]}" "${tests[@]}" "${slurm[@]}" "${agent[@]}" "${packages[@]}"
    "${check[@]}") ;;
  aarch64) wanted=("${aarch64[@]}") ;;
  *)
    echo "usage: $0 build|test|lab|packages|check|aarch64" >&2
    exit 2
    ;;
esac

if ! command -v dpkg-query >/dev/null; then
  echo "This is no Debian: see to it that cmake >= 3.22, a C++20 compiler, CLI11, fmt," \
    "nlohmann-json, ncurses and GoogleTest are installed." >&2
  exit 0
fi

missing=()
for package in "${wanted[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  if [ "$state" != installed ]; then missing+=("$package"); fi
done
if [ "${#missing[@]}" -eq 0 ]; then exit 0; fi

install="apt-get install -y --no-install-recommends ${missing[*]}"
if [ "$(id -u)" -ne 0 ]; then
  printf 'These Debian packages are missing; as root:\n  %s\n' "$install" >&2
  exit 1
fi
echo "Installing ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # the words of the command
if ! { apt-get update -q && $install -q -o Dpkg::Use-Pty=0; } </dev/null >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "apt-get failed: ${install}" >&2
  exit 1
fi
