# What the tests of packages share: packages of this build and of a version above it, and a system to
# install them on, which is this one with a private layer above its disk.

bats_require_minimum_version 1.5.0

# build_packages KIND: into $BATS_FILE_TMPDIR/{now,next}. The library of `next` is a byte longer.
build_packages() {
  local kind=$1 next=$BATS_FILE_TMPDIR/next
  (cd "${SOFTMIG_BUILD:?the build folder}" && cpack -G "$kind" -B "$BATS_FILE_TMPDIR/now" &&
    cpack -G "$kind" -B "$next" -D CPACK_PACKAGE_VERSION=99.0) >"$BATS_FILE_TMPDIR/log" 2>&1 ||
    { cat "$BATS_FILE_TMPDIR/log" && return 1; }
  rm -r "$BATS_FILE_TMPDIR"/{now,next}/_CPack_Packages
}

need_layers() {
  [ "$(id -u)" -eq 0 ] || skip "needs root"
  unshare --mount true 2>/dev/null || skip "private mounts are not allowed here"
  on_layer true || skip "overlay mounts are not allowed here"
}

# Runs a script as root of a system whose changes nobody else sees. $packages is where the packages
# lie, /tmp/build has what was built.
on_layer() {
  mkdir -p "$BATS_TEST_TMPDIR/layer"
  unshare --mount bash -euc '
    mount -t tmpfs -o mode=755 none "$1"
    mkdir "$1"/upper "$1"/work "$1"/root
    mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" none "$1/root"
    for folder in proc sys dev; do mount --rbind "/$folder" "$1/root/$folder"; done
    for folder in run tmp; do
      mount -t tmpfs -o mode=755 none "$1/root/$folder"
    done
    chmod 1777 "$1/root/tmp"
    mkdir "$1"/root/tmp/{packages,build}
    cp "$SOFTMIG_BUILD"/{softmig,libsoftmig.so} "$1/root/tmp/build/"
    if [ -d "$2/now" ]; then cp -r "$2/now" "$2/next" "$1/root/tmp/packages/"; fi
    rm -rf "$1"/root/var/lib/{shared,softmig} "$1/root/var/log/softmig" "$1/root/etc/ld.so.preload" \
      "$1"/root/usr/local/{bin,lib}/softmig "$1/root/var/lib/man-db/auto-update"
    mkdir "$1/root/tmp/upper"
    mount --bind "$1/upper" "$1/root/tmp/upper"
    export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive
    exec chroot "$1/root" bash -euc "packages=/tmp/packages; $4
      $3"' \
    bash "$BATS_TEST_TMPDIR/layer" "$BATS_FILE_TMPDIR" "$1" "$(declare -f modes mapped left)"
}

# For scripts on a layer.
modes() { stat -c '%a %U:%G %n' "$@"; }
mapped() { sed -n 's|.* \(/[^ ]*libsoftmig.so.*\)|\1|p' "/proc/${1:-self}/maps" | sort -u; }
# What is there now and was not before, but for the package managers' own books.
left() {
  (cd /tmp/upper && find . ! -type d ! -type c) |
    grep -v -E '^./var/(lib/(dpkg|rpm)|cache)/|^./root/.rpmdb/|^./var/log/[^/]*$|^./etc/ld.so.cache$|/man-db/' || true
  find /{var/log,run,var/lib,etc,usr/lib,usr/share}/softmig /var/lib/shared /usr/share/doc/softmig* \
    2>/dev/null || true
}
