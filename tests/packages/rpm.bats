#!/usr/bin/env bats
# The RPM packages: what they hold, what they say of themselves, and their life on a system of the
# test's own.

# shellcheck disable=SC2016,SC2154 # scripts for other shells; variables of bats
load helpers

setup_file() {
  if ! command -v rpmbuild >/dev/null || ! command -v rpm >/dev/null; then skip "no rpmbuild"; fi
  build_packages RPM
}

setup() { now=$BATS_FILE_TMPDIR/now; }

# For scripts on a layer. Debian's rpm has to be told that it may install.
readonly rpm_words='rpm() { command rpm --nodeps --force-debian "$@" >/tmp/log 2>&1 || { cat /tmp/log; return 1; }; }
  command rpm --initdb
'

query() { rpm -qp --qf "$1" "$now/$2"-[0-9]*.rpm; }

@test "three packages, each with what its machines need" {
  for package in softmig softmig-controller softmig-client; do
    query '%{NAME} %{ARCH} %{LICENSE} %{PREFIXES}\n' $package
    query '[%{FILEMODES:perms} %{FILEUSERNAME} %{FILEGROUPNAME} %{FILENAMES}\n]' $package |
      grep -v -e softmigd -e '/usr/share/doc/' -e /.build-id
  done >"$BATS_TEST_TMPDIR/found"
  diff "$BATS_TEST_TMPDIR/found" - <<END
softmig $(uname -m) Apache-2.0 (none)
-rw-r--r-- root root /etc/logrotate.d/softmig
-rwxr-xr-x root root /usr/bin/softmig
drwxr-xr-x root root /usr/lib/softmig
-rwxr-xr-x root root /usr/lib/softmig/epilog_softmig.sh
-rw-r--r-- root root /usr/lib/softmig/libsoftmig.so
-rwxr-xr-x root root /usr/lib/softmig/nvidia-smi-hook.sh
-rwxr-xr-x root root /usr/lib/softmig/prolog_softmig.sh
-rw-r--r-- root root /usr/lib/tmpfiles.d/softmig.conf
drwxr-xr-x root root /usr/share/licenses/softmig
-rw-r--r-- root root /usr/share/licenses/softmig/LICENSE
-rw-r--r-- root root /usr/share/man/man1/softmig.1.gz
-rw-r--r-- root root /usr/share/man/man5/softmig.conf.5.gz
-rw-r--r-- root root /usr/share/man/man7/libsoftmig.7.gz
softmig-controller noarch Apache-2.0 (none)
drwxr-xr-x root root /usr/share/licenses/softmig-controller
-rw-r--r-- root root /usr/share/licenses/softmig-controller/LICENSE
drwxr-xr-x root root /usr/share/softmig
drwxr-xr-x root root /usr/share/softmig/controller
-rw-r--r-- root root /usr/share/softmig/controller/job_submit_softmig.lua
-rw-r--r-- root root /usr/share/softmig/controller/softmig_rules.lua
softmig-client noarch Apache-2.0 (none)
drwxr-xr-x root root /usr/share/licenses/softmig-client
-rw-r--r-- root root /usr/share/licenses/softmig-client/LICENSE
drwxr-xr-x root root /usr/share/softmig
drwxr-xr-x root root /usr/share/softmig/client
-rw-r--r-- root root /usr/share/softmig/client/cli_filter_softmig.lua
-rw-r--r-- root root /usr/share/softmig/client/softmig_rules.lua
END
}

@test "what it needs, what it keeps, what its scripts are" {
  run -0 rpm -qp --requires "$now"/softmig-[0-9]*.rpm
  [[ "$output" == *"libc.so.6"* && "$output" == *libfmt* ]]
  [ "$(rpm -qpc "$now"/softmig-[0-9]*.rpm)" = /etc/logrotate.d/softmig ]
  run -0 rpm -qp --scripts "$now"/softmig-[0-9]*.rpm
  [ "$(grep -c scriptlet <<<"$output")" = 3 ]
  for package in controller client; do
    [ -z "$(rpm -qp --scripts "$now/softmig-$package"-*.rpm)" ]
  done
}

@test "installed, put to work, upgraded, removed" {
  need_layers
  run -0 on_layer "$rpm_words"'
    rpm -i $packages/now/*.rpm
    modes /var/lib/shared /var/lib/shared/libsoftmig.so /run/softmig /var/log/softmig
    [ ! -e /etc/ld.so.preload ]
    softmig install >/dev/null
    mapped
    inode=$(stat -c %i /etc/ld.so.preload)
    rpm -U $packages/next/*.rpm
    command rpm -q softmig
    [ "$(stat -c %i /etc/ld.so.preload)" = "$inode" ]
    mapped
    touch /var/log/softmig/1.log
    rpm -e softmig softmig-controller softmig-client
    [ -z "$(mapped)" ]
    left'
  [ "$output" = "755 root:root /var/lib/shared
644 root:root /var/lib/shared/libsoftmig.so
755 root:root /run/softmig
1777 root:root /var/log/softmig
/var/lib/shared/libsoftmig.so
softmig-99.0-1.$(uname -m)
/var/lib/shared/libsoftmig.so
./var/log/softmig/1.log
/var/log/softmig
/var/log/softmig/1.log" ]
}

@test "the line goes before the library, and a failure keeps the package" {
  need_layers
  run -0 on_layer "$rpm_words"'
    rpm -i $packages/now/softmig-[0-9]*.rpm
    softmig install >/dev/null
    mount --bind /var/lib/shared /var/lib/shared
    mount -o remount,bind,ro /var/lib/shared
    if rpm -e softmig; then exit 9; fi
    [ ! -e /etc/ld.so.preload ]
    command rpm -q softmig
    umount /var/lib/shared
    rpm -e softmig
    left'
  [ "$(grep -v ^error <<<"$output")" = \
    "softmig uninstall: /var/lib/shared/libsoftmig.so: Read-only file system
$(query '%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}' softmig)" ]
}
