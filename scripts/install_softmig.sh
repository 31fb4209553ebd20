#!/bin/bash
# Puts SoftMig on this node, or a newer version of it. As root:
#
#   install_softmig.sh [LIBRARY] [OPTIONS...]
#
#   LIBRARY   the libsoftmig.so to install; without it, the one of the build
#   OPTIONS   those of `softmig install`: --log-group GROUP, --nvidia-smi-hook, --no-preload, --root DIR
#
# All of the work is done by `softmig install`, which tries the library before any program loads it and
# never writes over a library that is in use.
set -euo pipefail

fail() {
  printf 'install_softmig.sh: %s\n' "$@" >&2
  exit 1
}

case "${1:-}" in
  -h | --help)
    sed -n 's/^# \{0,1\}//; 2,10p' "$0"
    exit 0
    ;;
esac
library=
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
  library=$1
  shift
  [ -f "$library" ] || fail "$library: there is no such file" "./build.sh builds build/libsoftmig.so"
fi

# The command that was built with the library, else that of this source tree, else an installed one.
here=$(dirname "$(realpath "$0")")
softmig=
for candidate in ${library:+"$(dirname "$library")/softmig"} "$here/../build/softmig" \
  /usr/local/bin/softmig /usr/bin/softmig; do
  if [ -f "$candidate" ] && [ -x "$candidate" ]; then
    softmig=$candidate
    break
  fi
done
[ -n "$softmig" ] || fail "there is no command softmig beside the library, in build/ or installed" \
  "./build.sh builds it"
[ "$(id -u)" -eq 0 ] || fail "this changes the system: it needs root" \
  "sudo $0${library:+ $library}${*:+ $*}"

"$softmig" install ${library:+--library "$library"} "$@"
echo "softmig doctor says what else this node needs; docs/installation.md what Slurm needs."
