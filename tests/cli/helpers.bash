# What the tests of the command line share. SOFTMIG is the binary under test.

bats_require_minimum_version 1.5.0

setup() {
  : "${SOFTMIG:?the binary under test}"
  work=$(mktemp -d "${BATS_TEST_TMPDIR}/work.XXXXXX")
  # Slices of this test in a folder of its own: tests run beside each other and beside real slices.
  export SLURM_TMPDIR=$work/slices
  mkdir "$SLURM_TMPDIR"
  unset CUDA_VISIBLE_DEVICES LD_PRELOAD SOFTMIG_REGION SOFTMIG_SIM SLURM_JOB_ID XDG_RUNTIME_DIR
}

# softmig run on a simulated GPU with a limit, and more options or a command behind. Bounded: what
# hangs must not outlive its test.
sliced() { timeout 100 "$SOFTMIG" run --sim 1x8G --memory 4G "$@"; }

# softmig run for the background: no terminal, and SIGINT not ignored as bash does for its jobs.
detached() { exec env --default-signal setsid "$SOFTMIG" run "$@"; }

slices_left() { find "$SLURM_TMPDIR" -mindepth 1 -maxdepth 1 -name 'softmig-run.*' | wc -l; }

# Waits, for at most five seconds, until a command succeeds.
eventually() {
  for _ in {1..100}; do
    if "$@"; then return 0; fi
    sleep 0.05
  done
  echo "never came true: $*"
  return 1
}

gone() { ! kill -0 "$1" 2>/dev/null; }

# Runs a script in mount namespace of its own with an empty /run, as root of this machine only.
with_empty_run() {
  if [ "$(id -u)" != 0 ] || ! unshare -m true 2>/dev/null; then skip "needs root and namespaces"; fi
  run unshare -m bash -euc "mount -t tmpfs -o mode=755 none /run; mkdir /run/softmig; $1"
}
