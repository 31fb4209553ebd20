#!/bin/sh
# Slurm epilog: removes what prolog_softmig.sh made for a job. In slurm.conf:
#
#   Epilog=/etc/slurm/epilog_softmig.sh

# Slurm gives an epilog no PATH.
export PATH="${PATH:+$PATH:}/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin:/var/lib/shared"

# Files that stay behind limit nobody, since job ids are not used again soon, and the next job that
# needs their slots removes them: no reason to drain the node.
softmig job-end || echo "epilog_softmig.sh: files of job $SLURM_JOB_ID may be left" >&2
exit 0
