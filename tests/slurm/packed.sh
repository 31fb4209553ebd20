#!/bin/bash
# Runs card.py with a simulated GPU on a machine that is as bare as one with a card may be: without Slurm,
# munge and their users, and without network. So that a run on a card does not fail for anything else.
#
#   packed.sh own BUILD [OPTION...]      this machine without the packages; what a test can afford
#   packed.sh trixie BUILD [OPTION...]   a minimal Debian 13, which has a newer glibc and Python than ours;
#                                        debootstrap makes it once, as BUILD/trixie (260 MiB)
#
# OPTIONs go to card.py; a folder for --out lies in BUILD. The packed Slurm is made as BUILD/slurmroot.tar.xz if it is not there. Nothing of
# the machine is changed: all is written into memory, in namespaces. Needs root and Debian 12; exit status
# 77, with the reason, where something that is needed cannot be had.
set -euo pipefail
shopt -s inherit_errexit

skip() {
  echo "skipped: $*"
  exit 77
}

# In the namespace: the other machine, seen from within it.
if [ "${1:-}" = --inside ]; then
  lower=$2 work=$3 source=$4 build=$5
  shift 5
  mount -t tmpfs none "$work"
  mkdir "$work"/{upper,work,root}
  root=$work/root
  mount -t overlay -o "lowerdir=$lower,upperdir=$work/upper,workdir=$work/work" none "$root" ||
    skip "no overlay of $lower can be mounted here"
  for folder in proc dev sys; do
    mount --rbind "/$folder" "$root/$folder"
  done
  mount -t tmpfs none "$root/tmp"
  chmod 1777 "$root/tmp"
  mkdir -p "$root$source" "$root$build"
  mount --bind "$source" "$root$source"
  mount --bind "$build" "$root$build"
  if [ "$lower" = / ]; then
    dpkg-query -W -f '${db:Status-Status} ${Package}\n' '*slurm*' '*munge*' |
      sed -n 's/^installed //p' | xargs dpkg -L | sort -u |
      while read -r file; do
        # /bin is a link to a folder, and not theirs.
        if [ ! -d "$root$file" ]; then rm -f "$root$file"; fi
      done
  fi
  for name in passwd group; do
    sed -i '/^\(slurm\|munge\):/d' "$root/etc/$name"
  done
  rm -rf "$root"/etc/{slurm,munge} "$root"/etc/alternatives/{slurm*,sbatch,srun,munge*}
  PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" ldconfig
  for program in slurmctld slurmd sbatch munged; do
    if PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" sh -c "command -v $program"; then
      echo "$program is still there" >&2
      exit 1
    fi
  done
  exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" /usr/bin/python3 \
    "$source/tests/slurm/card.py" --sim --slurm-root "$build/slurmroot.tar.xz" --build "$build" "$@"
fi

if [ "$#" -lt 2 ]; then
  sed -n '2,/^set /s/^# \{0,1\}//p' "$0" | head -n -1 >&2
  exit 2
fi
kind=$1
build=$(realpath "$2")
shift 2
source=$(realpath "$(dirname "$0")/../..")

if [ "$(id -u)" -ne 0 ]; then skip "needs root"; fi
unshare --mount --propagation private true 2>/dev/null || skip "no namespace can be made here"
if [ ! "$build/slurmroot.tar.xz" -nt "$source/tests/slurm/pack_slurm.sh" ]; then
  "$source/tests/slurm/pack_slurm.sh" "$build/slurmroot" "$build/softmig" >"$build/slurmroot.log" 2>&1 ||
    skip "Slurm cannot be packed: $(tail -n 1 "$build/slurmroot.log")"
fi
lower=/
if [ "$kind" = trixie ]; then
  lower=$build/trixie
  if [ ! -e "$lower/.made" ]; then
    command -v debootstrap >/dev/null || skip "no debootstrap; apt-get install debootstrap"
    rm -rf "$lower"
    debootstrap --variant=minbase --include=python3 trixie "$lower" >"$build/trixie.log" 2>&1 ||
      skip "no Debian 13 can be had: $(tail -n 1 "$build/trixie.log")"
    touch "$lower/.made"
  fi
fi
work=$(mktemp -d)
trap 'rmdir "$work"' EXIT
unshare --mount --propagation private "$0" --inside "$lower" "$work" "$source" "$build" "$@"
