#!/usr/bin/env bats
# The Debian packages, on a system of the test's own: installed, put to work, upgraded, removed, purged.

# shellcheck disable=SC2016,SC2154 # scripts for other shells; variables of bats
load helpers

setup_file() {
  command -v dpkg-deb >/dev/null || skip "no dpkg"
  build_packages DEB
}

setup() {
  now=$BATS_FILE_TMPDIR/now
  next=$BATS_FILE_TMPDIR/next
}

# A package of this build with another library; $1 is C for the library's constructor.
spoiled() {
  command -v cc >/dev/null || skip "no C compiler"
  local tree=$BATS_TEST_TMPDIR/tree
  dpkg-deb -R "$next"/softmig_*.deb "$tree"
  sed -i 's/^Version: .*/Version: 100.0/' "$tree/DEBIAN/control"
  printf '#include <stdio.h>\n__attribute__((constructor)) static void start(void) { %s }\n' "$1" |
    cc -shared -fPIC -x c -o "$tree/usr/lib/softmig/libsoftmig.so" -
  dpkg-deb -b "$tree" "$next/spoiled.deb" >/dev/null
}

@test "lintian has nothing to say" {
  command -v lintian >/dev/null || skip "no lintian"
  run -0 lintian --allow-root --fail-on error,warning "$now"/*.deb
  [ "$output" = "" ]
}

@test "a node's examples are those that its README names" {
  run -0 dpkg-deb -c "$now"/softmig_*.deb
  for example in dashboard.json slurm.conf.example softmig.conf.example; do
    [[ "$output" == *"/doc/softmig/examples/$example"* ]] || { echo "$example" && return 1; }
  done
}

@test "three packages, each with what its machines need" {
  for package in softmig softmig-controller softmig-client; do
    dpkg-deb -f "$now/$package"_*.deb Package Architecture
    dpkg-deb -c "$now/$package"_*.deb | awk '$6 !~ "/$|/usr/share/doc/" { print $1, $2, $6 }'
  done | grep -v softmigd >"$BATS_TEST_TMPDIR/found" # the agent, where this build has it
  arch=$(dpkg --print-architecture)
  diff "$BATS_TEST_TMPDIR/found" - <<END
Package: softmig
Architecture: $arch
-rw-r--r-- root/root ./etc/logrotate.d/softmig
-rwxr-xr-x root/root ./usr/bin/softmig
-rwxr-xr-x root/root ./usr/lib/softmig/epilog_softmig.sh
-rw-r--r-- root/root ./usr/lib/softmig/libsoftmig.so
-rwxr-xr-x root/root ./usr/lib/softmig/nvidia-smi-hook.sh
-rwxr-xr-x root/root ./usr/lib/softmig/prolog_softmig.sh
-rw-r--r-- root/root ./usr/lib/tmpfiles.d/softmig.conf
-rw-r--r-- root/root ./usr/share/lintian/overrides/softmig
-rw-r--r-- root/root ./usr/share/man/man1/softmig.1.gz
-rw-r--r-- root/root ./usr/share/man/man5/softmig.conf.5.gz
-rw-r--r-- root/root ./usr/share/man/man7/libsoftmig.7.gz
Package: softmig-controller
Architecture: all
-rw-r--r-- root/root ./usr/share/softmig/controller/job_submit_softmig.lua
-rw-r--r-- root/root ./usr/share/softmig/controller/softmig_rules.lua
Package: softmig-client
Architecture: all
-rw-r--r-- root/root ./usr/share/softmig/client/cli_filter_softmig.lua
-rw-r--r-- root/root ./usr/share/softmig/client/softmig_rules.lua
END
}

@test "installed: everything in its place, and nothing loads the library" {
  need_layers
  run -0 on_layer '
    dpkg -i $packages/now/*.deb >/tmp/log 2>&1 || cat /tmp/log
    cmp /usr/lib/softmig/libsoftmig.so /var/lib/shared/libsoftmig.so
    modes /var/lib/shared /var/lib/shared/libsoftmig.so /run/softmig /var/log/softmig /var/lib/softmig
    [ ! -e /etc/ld.so.preload ]
    [ ! -e /usr/local/bin/softmig ] && [ ! -e /etc/tmpfiles.d/softmig.conf ]
    [ "$(softmig version | head -n 2 | tail -n 1)" = "library      /usr/lib/softmig/libsoftmig.so" ]
    softmig doctor | grep -A 1 "does not name the library"'
  [ "$output" = "755 root:root /var/lib/shared
644 root:root /var/lib/shared/libsoftmig.so
755 root:root /run/softmig
1777 root:root /var/log/softmig
755 root:root /var/lib/softmig
BAD      preload     /etc/ld.so.preload does not name the library
                     -> softmig install: without it nothing is limited" ]
}

@test "an image that is being made: no /proc, nothing running" {
  need_layers
  run -0 on_layer '
    umount -l /proc
    dpkg -i $packages/now/softmig_*.deb >/tmp/log 2>&1 || cat /tmp/log
    softmig install >/dev/null
    cat /etc/ld.so.preload
    /bin/true
    dpkg -P softmig >/tmp/log 2>&1 || cat /tmp/log
    [ ! -e /etc/ld.so.preload ]
    left'
  [ "$output" = /var/lib/shared/libsoftmig.so ]
}

@test "a node that was installed by hand becomes the package's" {
  need_layers
  run -0 on_layer '
    /tmp/build/softmig install >/dev/null
    dpkg -i $packages/now/softmig_*.deb >/tmp/log 2>&1 || cat /tmp/log
    cmp /usr/lib/softmig/libsoftmig.so /var/lib/shared/libsoftmig.so
    cat /etc/ld.so.preload
    softmig doctor | grep "two versions"
    dpkg -P softmig >/tmp/log 2>&1 || cat /tmp/log
    if [ -e /etc/ld.so.preload ] || [ -e /var/lib/shared ]; then echo left; fi'
  [ "$output" = "/var/lib/shared/libsoftmig.so
warning  library     /usr/bin/softmig and /usr/local/bin/softmig are two versions" ]
}

@test "upgraded under running programs: the list of libraries is not touched" {
  need_layers
  run -0 on_layer '
    echo /usr/lib/x86_64-linux-gnu/libm.so.6 >/etc/ld.so.preload
    dpkg -i $packages/now/softmig_*.deb >/tmp/log 2>&1 || cat /tmp/log
    softmig install >/dev/null
    cat /etc/ld.so.preload
    sleep 1000 &
    running=$!
    while [ -z "$(mapped $running)" ]; do sleep 0.01; done
    # The newer version has a newer library.
    dpkg-deb -R $packages/next/softmig_*.deb /tmp/tree
    printf x >>/tmp/tree/usr/lib/softmig/libsoftmig.so
    dpkg-deb -b /tmp/tree /tmp/next.deb >/dev/null
    chgrp adm /var/log/softmig && chmod 775 /var/log/softmig
    before=$(stat -c "%i %Y" /etc/ld.so.preload)
    (while [ ! -e /tmp/over ]; do /bin/true || echo failed; done) >/tmp/meanwhile 2>&1 &
    dpkg -i /tmp/next.deb >/tmp/log 2>&1 || cat /tmp/log
    touch /tmp/over; wait $!
    cat /tmp/meanwhile
    [ "$(stat -c "%i %Y" /etc/ld.so.preload)" = "$before" ]
    cmp /tmp/tree/usr/lib/softmig/libsoftmig.so /var/lib/shared/libsoftmig.so
    mapped $running
    mapped
    modes /var/lib/shared/libsoftmig.so /var/log/softmig
    kill $running'
  [ "$output" = "/usr/lib/x86_64-linux-gnu/libm.so.6
/var/lib/shared/libsoftmig.so
/var/lib/shared/libsoftmig.so (deleted)
/var/lib/shared/libsoftmig.so
644 root:root /var/lib/shared/libsoftmig.so
775 root:adm /var/log/softmig" ]
}

@test "an upgrade whose library does harm fails, and what is there goes on" {
  need_layers
  spoiled 'puts("harm");'
  run -0 on_layer '
    dpkg -i $packages/now/softmig_*.deb >/tmp/log 2>&1
    softmig install >/dev/null
    sum=$(sha256sum </var/lib/shared/libsoftmig.so)
    if dpkg -i $packages/next/spoiled.deb >/tmp/log 2>&1; then exit 9; fi
    grep -e "it printed" -e "was not put in place" /tmp/log
    [ "$(sha256sum </var/lib/shared/libsoftmig.so)" = "$sum" ]
    ls /var/lib/shared
    cat /etc/ld.so.preload
    dpkg -i $packages/now/softmig_*.deb >/tmp/log 2>&1 || cat /tmp/log
    dpkg-query -W -f "\${db:Status-Status}\n" softmig'
  [ "$output" = "softmig install: /bin/true with the library, as uid 0: it printed: harm\\x0a
softmig: the library of this package was not put in place;
libsoftmig.so
/var/lib/shared/libsoftmig.so
installed" ]
}

@test "removed: the line goes first; purged: nothing is left" {
  need_layers
  run -0 on_layer '
    echo /usr/lib/x86_64-linux-gnu/libm.so.6 >/etc/ld.so.preload
    dpkg -i $packages/now/*.deb >/tmp/log 2>&1
    cp /bin/echo /usr/bin/nvidia-smi
    softmig install --nvidia-smi-hook >/dev/null
    [ "$(nvidia-smi one two)" = "one two" ]
    touch /var/log/softmig/1.log /run/softmig/1.conf
    # What the line names cannot be removed: the line is out all the same.
    mount --bind /var/lib/shared /var/lib/shared
    mount -o remount,bind,ro /var/lib/shared
    if dpkg -r softmig >/tmp/log 2>&1; then exit 9; fi
    grep -c "Read-only file system" /tmp/log
    cat /etc/ld.so.preload
    umount /var/lib/shared
    dpkg -r softmig softmig-client softmig-controller >/tmp/log 2>&1 || cat /tmp/log
    cat /etc/ld.so.preload
    [ -z "$(mapped)" ]
    cmp /bin/echo /usr/bin/nvidia-smi && rm /usr/bin/nvidia-smi
    find /etc/logrotate.d/softmig /var/log/softmig /run/softmig -type f
    dpkg -P softmig softmig-client softmig-controller >/tmp/log 2>&1 || cat /tmp/log
    rm /etc/ld.so.preload
    left'
  [ "$output" = "1
/usr/lib/x86_64-linux-gnu/libm.so.6
/usr/lib/x86_64-linux-gnu/libm.so.6
/etc/logrotate.d/softmig
/var/log/softmig/1.log
/run/softmig/1.conf" ]
}

@test "the rules are found where the packages put them" {
  need_layers
  command -v lua5.1 >/dev/null || skip "no Lua"
  run -0 on_layer '
    dpkg -i $packages/now/softmig-*.deb >/tmp/log 2>&1 || cat /tmp/log
    for script in controller/job_submit client/cli_filter; do
      echo "return dofile(\"/usr/share/softmig/${script}_softmig.lua\")" >/tmp/site.lua
      lua5.1 -e "slurm = { SUCCESS = 0 }; print(dofile(\"/tmp/site.lua\"))"
    done'
  [ "$output" = "0
0" ]
}
