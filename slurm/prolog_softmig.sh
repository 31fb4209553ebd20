#!/bin/sh
# Slurm prolog: gives a job that has shards its slice. In slurm.conf:
#
#   Prolog=/etc/slurm/prolog_softmig.sh
#   PrologFlags=Alloc
#
# A prolog of your own calls this one, or is called beside it (Prolog=/etc/slurm/prolog.d/*). What the
# exit status means is in docs/slurm.md; the limits come from /etc/softmig/softmig.conf.

# Shards of each GPU, where softmig.conf does not say it. They must not contradict each other.
# export NUM_SHARDS_PER_GPU=4

# Slurm gives a prolog no PATH.
export PATH="${PATH:+$PATH:}/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin:/var/lib/shared"

if ! command -v softmig >/dev/null; then
  # Without it jobs would run without limits: this node is not fit for slices.
  echo "prolog_softmig.sh: there is no softmig in $PATH" >&2
  exit 1
fi
exec softmig job-start
