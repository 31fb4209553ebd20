#!/usr/bin/env python3
"""The library in /etc/ld.so.preload of a whole machine, in a mount namespace of its own: every
program must run as without it, byte for byte.

    world_test.py --library LIB --bin DIR --source DIR      as root, else it is skipped
"""

import atexit
import ctypes
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

import harness
from harness import Options

NOBODY = 65534
JOB = 77123
PRELOAD = pathlib.Path("/etc/ld.so.preload")
CLONE_NEWNS = 0x20000
MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 4096, 16384, 1 << 18, 2
HELLO = '#include <stdio.h>\nint main(void) { puts("hello"); return 7; }\n'
HELLO_32 = """int puts(const char*);
void exit(int);
__attribute__((force_align_arg_pointer)) void _start(void) { puts("hello"); exit(7); }
"""
LIBC_32 = ("/usr/lib32/libc.so.6", "/usr/lib/i386-linux-gnu/libc.so.6", "/lib/i386-linux-gnu/libc.so.6")
WARNING = "ERROR: ld.so: object '%s' from /etc/ld.so.preload cannot be preloaded"


class World:
    """The private machine: /etc, /run and /var/log of its own, and a folder for programs."""

    folder = None
    library = None

    @classmethod
    def make(cls):
        """Enters the namespace; everything is gone with this process. False: not allowed."""
        libc = ctypes.CDLL(None, use_errno=True)
        if os.geteuid() != 0 or libc.unshare(CLONE_NEWNS) != 0:
            return False

        def mount(source, target, kind, flags, options):
            if libc.mount(source, str(target).encode(), kind, flags, options) != 0:
                raise OSError(ctypes.get_errno(), f"mount on {target}")

        mount(None, "/", None, MS_REC | MS_PRIVATE, None)
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="softmig-world-"))

        def remove():
            libc.umount2(str(cls.folder).encode(), MNT_DETACH)
            os.rmdir(cls.folder)

        atexit.register(remove)
        mount(b"tmpfs", cls.folder, b"tmpfs", 0, b"mode=755")
        shutil.copytree("/etc", cls.folder / "etc", symlinks=True)
        for path in ("etc/shadow", "etc/gshadow"):
            if (cls.folder / path).exists():
                shutil.chown(cls.folder / path, 0, "shadow")
        mount(str(cls.folder / "etc").encode(), "/etc", None, MS_BIND, None)
        mount(b"tmpfs", "/run", b"tmpfs", 0, b"mode=755")
        mount(b"tmpfs", "/var/log", b"tmpfs", 0, b"mode=755")
        for name in ("lib", "bin", "work", "evil"):
            (cls.folder / name).mkdir()
        (cls.folder / "evil").chmod(0o777)
        cls.library = cls.folder / "lib" / "libsoftmig.so"
        shutil.copy(Options.library, cls.library)
        cls.driver = cls.folder / "lib" / "libcuda.so.1"
        shutil.copy(Options.bin / "fake" / "libcuda.so.1", cls.driver)
        shutil.copy(Options.bin / "privileged", cls.folder / "bin")
        os.chmod(cls.folder / "bin" / "privileged", 0o4755)
        return True

    @staticmethod
    def preload(*libraries):
        """What /etc/ld.so.preload names from now on."""
        PRELOAD.unlink(missing_ok=True)
        if libraries:
            PRELOAD.write_text("".join(f"{library}\n" for library in libraries))


def drop_to_nobody():
    """Between fork and exec."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


class WorldCase(unittest.TestCase):
    """Compares programs with and without the library."""

    def setUp(self):
        if World.folder is None:
            self.skipTest("needs root and a mount namespace")
        self.addCleanup(World.preload)
        self.work = World.folder / "work"
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()

    def run_one(self, command, nobody=False, **env):
        """(status, stdout, stderr) of a shell command in an empty folder."""
        shutil.rmtree(self.work)
        self.work.mkdir()
        self.work.chmod(0o777)
        variables = {"PATH": "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin", "LC_ALL": "C",
                     "HOME": "/nonexistent", "TZ": "UTC", **env}
        done = subprocess.run(["/bin/bash", "-c", command], cwd=self.work, env=variables,
                              timeout=300, stdin=subprocess.DEVNULL, capture_output=True,
                              check=False, preexec_fn=drop_to_nobody if nobody else None)
        return done.returncode, done.stdout, done.stderr

    def same(self, command, expected=None, **options):
        """The command does the same with the library -> its stdout."""
        World.preload()
        bare = self.run_one(command, **options)
        World.preload(World.library)
        self.assertEqual(self.run_one(command, **options), bare, command)
        if expected is not None:
            self.assertEqual(bare[0], expected, f"{command}: {bare[2]}")
        return bare[1]

    def needs(self, *programs):
        """Skips the test where a program is not installed."""
        for program in programs:
            if shutil.which(program, path="/usr/sbin:/sbin:/usr/bin:/bin") is None:
                self.skipTest(f"{program} is not installed")


class Programs(WorldCase):
    """Ordinary programs."""

    def test_the_library_is_loaded(self):
        World.preload(World.library)
        maps = self.run_one("cat /proc/self/maps")[1].decode()
        self.assertIn(str(World.library), maps)

    def test_shells_and_tools(self):
        for command in ("ls -la /usr /usr/lib/gcc", "bash -c 'echo $((6*7)); exit 3'",
                        "sh -c 'trap \"echo t\" TERM; kill $$; echo u'",
                        "umask 027; touch f; ls -l f | cut -c1-10",
                        "printf 'b\\na\\n' | sort | tee x | md5sum; cat x", "env -i /usr/bin/env",
                        "tar cf - /usr/share/doc/bash 2>&1 | md5sum",
                        "find /usr/bin | sort | md5sum",
                        "date -d @0", "id; id nobody", "getent passwd root",
                        "stat -c %a /etc/passwd",
                        "awk 'BEGIN { print length(ENVIRON) > 0 }'", "ulimit -a", "true; false",
                        "nonexistent-program", "exec 9>f; ls /proc/self/fd | wc -l"):
            self.same(command)

    def test_interpreters(self):
        self.needs("perl")
        self.same("/usr/bin/perl -e 'use POSIX; use Socket; print 6*7, \"\\n\"; exit 4'", 4)
        if pathlib.Path("/usr/bin/python3").exists():
            self.same("/usr/bin/python3 -c 'import json, ssl, ctypes, sqlite3, subprocess; "
                      "print(json.dumps([1]), subprocess.run(\"true\").returncode); "
                      "print(ctypes.CDLL(None).getpid() > 0)'", 0)

    def test_a_driver_function_without_a_driver(self):
        # The error is the same but for the name of the object that was searched.
        if not pathlib.Path("/usr/bin/python3").exists():
            self.skipTest("no /usr/bin/python3")
        command = "/usr/bin/python3 -c 'import ctypes; ctypes.CDLL(None).cuMemAlloc_v2'"
        for libraries in ([], [World.library]):
            World.preload(*libraries)
            status, _, errors = self.run_one(command)
            self.assertEqual(status, 1, libraries)
            self.assertTrue(errors.endswith(b": undefined symbol: cuMemAlloc_v2\n"), errors)

    def test_compilers(self):
        self.needs("gcc", "make")
        (World.folder / "hello.c").write_text(HELLO)
        source = World.folder / "hello.c"
        self.same(f"gcc -O2 {source} -o h && md5sum h && ./h", 7)
        self.same(f"gcc -O2 -static {source} -o h && md5sum h && ./h", 7)
        self.same("printf 'all: a b\\na b:\\n\\t@echo made $@\\n' > Makefile; make -j2 | sort", 0)

    def test_git_and_ssh(self):
        self.needs("git", "ssh-keygen")
        key = World.folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        self.same(f"ssh-keygen -y -f {key}; ssh-keygen -l -f {key}", 0)
        stamp = "2020-01-01T00:00:00Z"
        self.same("git init -q . && "
                  "git -c user.name=a -c user.email=b commit -q --allow-empty -m c && "
                  "git log && git fsck", 0, GIT_AUTHOR_DATE=stamp, GIT_COMMITTER_DATE=stamp,
                  HOME=str(World.folder))

    def test_many_small_programs(self):
        # As a configure script: hundreds of short programs.
        command = ("i=0; while [ $i -lt 100 ]; do /bin/true && echo $i | /bin/sed s/1/2/ | "
                   "/bin/grep -c 2; /usr/bin/expr $i + 1; i=$((i+1)); done; echo end")
        World.preload()
        bare, bare_time = self.timed(command)
        World.preload(World.library)
        preloaded, time_taken = self.timed(command)
        self.assertEqual(preloaded, bare)
        self.assertEqual((bare[0], bare[2]), (0, b""))
        self.assertLess(time_taken, 3 * bare_time + 1)

    def timed(self, command):
        """What run_one says, and the seconds it took."""
        begin = time.monotonic()
        return self.run_one(command), time.monotonic() - begin

    def test_nothing_is_done_in_programs_without_cuda(self):
        self.needs("strace")
        World.preload(World.library)
        for program in ("/bin/true", "/usr/bin/perl -MPOSIX -e 1"):
            _, _, trace = self.run_one(f"strace -f {program}")
            lines = [line for line in trace.decode().splitlines() if "softmig" in line]
            self.assertEqual(len(lines), 1, lines)  # the loader's open
            self.assertIn("libsoftmig.so", lines[0])

    def program_of_32_bits(self):
        """A command that prints hello and ends with 7; gcc and the loader are enough for it."""
        libc = next((path for path in LIBC_32 if pathlib.Path(path).exists()), None)
        if libc is None:
            self.skipTest("no 32-bit programs here: libc6-i386 is not installed")
        self.needs("gcc")
        (World.folder / "hello32.c").write_text(HELLO_32)
        program = World.folder / "bin" / "hello32"
        done = self.run_one(f"gcc -m32 -fno-stack-protector -fno-pie -no-pie -nostdlib -o {program} "
                            f"-Wl,-dynamic-linker,/lib/ld-linux.so.2 {World.folder}/hello32.c {libc}")
        self.assertEqual(done[0], 0, done[2])
        if self.run_one(str(program))[:2] != (7, b"hello\n"):
            self.skipTest("this kernel runs no 32-bit programs")
        return str(program)

    def test_programs_of_32_bits(self):
        World.preload()
        program = self.program_of_32_bits()
        World.preload(World.library)
        status, output, errors = self.run_one(program)
        self.assertEqual((status, output), (7, b"hello\n"))
        self.assertEqual(errors.count(b"\n"), 1)  # the loader's warning
        self.assertIn((WARNING % World.library).encode(), errors)

    def test_a_line_that_suits_programs_of_32_bits_too(self):
        # As docs/compatibility.md has it: $LIB, and a library without anything in it.
        World.preload()
        program = self.program_of_32_bits()
        for name in ("lib64", "lib/x86_64-linux-gnu"):
            self.link(World.library, World.folder / "both" / name)
        stub = World.folder / "lib" / "empty32.so"
        done = self.run_one(f"gcc -m32 -shared -nostdlib -o {stub} -x c /dev/null")
        self.assertEqual(done[0], 0, done[2])
        for name in ("lib", "lib32", "lib/i386-linux-gnu"):
            self.link(stub, World.folder / "both" / name)
        World.preload(World.folder / "both" / "$LIB" / "libsoftmig.so")
        self.assertEqual(self.run_one(program), (7, b"hello\n", b""))
        status, maps, errors = self.run_one("cat /proc/self/maps")
        self.assertEqual((status, errors), (0, b""))
        self.assertIn(b"libsoftmig.so", maps)

    @staticmethod
    def link(target, folder):
        """Makes folder/libsoftmig.so."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "libsoftmig.so").symlink_to(target)

    def test_a_missing_library_is_only_a_warning(self):
        missing = World.folder / "lib" / "gone.so"
        World.preload(missing, World.library)
        status, output, errors = self.run_one("exec cat /proc/self/maps")
        self.assertEqual(status, 0)
        self.assertIn(str(World.library).encode(), output)
        self.assertEqual(set(errors.decode().splitlines()),
                         {WARNING % missing + " (cannot open shared object file): ignored."})


class Privileged(WorldCase):
    """Setuid programs, started by somebody who sets every variable he knows."""

    def evil(self):
        """The variables; a file that appears in this folder is a finding."""
        evil = World.folder / "evil"
        return {"SOFTMIG_LOG_FILE": f"{evil}/log", "SOFTMIG_LOG_LEVEL": "4",
                "SOFTMIG_REGION": f"{evil}/region", "CUDA_DEVICE_MEMORY_LIMIT": "1M",
                "SLURM_TMPDIR": str(evil), "SLURM_JOB_ID": "1", "CUDA_REDIRECT": f"{evil}/lib.so",
                "LD_LIBRARY_PATH": str(evil), "LD_PRELOAD": f"{evil}/lib.so",
                "TMPDIR": str(evil), "SOFTMIG_CONTEXT_COST": "1M"}

    def made(self):
        """What has appeared in that folder."""
        return sorted(os.listdir(World.folder / "evil"))

    def privileged(self, mib):
        """A command that runs the test program."""
        return f"{World.folder}/bin/privileged {World.driver} {mib}"

    def test_programs_of_the_system(self):
        self.needs("su", "passwd", "newgrp", "mount")
        for command in ("su -c true root", "passwd -S nobody", "newgrp nogroup", "mount",
                        "mount /nonexistent", "chsh -s /bin/sh"):
            World.preload()
            bare = self.run_one(f"exec {command}", nobody=True)
            World.preload(World.library)
            self.assertEqual(self.run_one(f"exec {command}", nobody=True), bare, command)
        self.assertEqual(self.made(), [])

    def test_variables_mean_nothing(self):
        World.preload(World.library)
        variables = self.evil()
        variables.pop("LD_PRELOAD")  # the shell between would warn
        status, output, errors = self.run_one(f"exec {self.privileged(2048)}", nobody=True,
                                              **variables)
        self.assertEqual((status, output.split(), errors),
                         (0, b"uid 0 secure 1 alloc 0".split(), b""))
        self.assertEqual(self.made(), [])
        self.assertEqual(os.listdir("/var/log"), [])

    def test_the_same_variables_limit_an_ordinary_program(self):
        World.preload(World.library)
        variables = self.evil() | {"CUDA_DEVICE_MEMORY_LIMIT": "1024M"}
        variables.pop("LD_PRELOAD")
        _, output, _ = self.run_one(f"exec {self.privileged(2048)}", **variables)
        self.assertEqual(output.split(), b"uid 0 secure 0 alloc 2".split())
        for name in self.made():
            (World.folder / "evil" / name).unlink()

    def test_the_config_of_the_job_holds(self):
        cgroup = self.make_cgroup()
        os.makedirs("/run/softmig", 0o755)
        self.addCleanup(shutil.rmtree, "/run/softmig")
        config = pathlib.Path(f"/run/softmig/{JOB}.conf")
        config.write_text("CUDA_DEVICE_MEMORY_LIMIT=1024M\nSOFTMIG_CONTEXT_COST=64M\n")
        World.preload(World.library)
        variables = self.evil() | {"CUDA_DEVICE_MEMORY_LIMIT": "80G"}
        variables.pop("LD_PRELOAD")
        join = f"echo $$ > {cgroup}/cgroup.procs; "
        for mib, result in ((512, 0), (2048, 2)):
            _, output, errors = self.run_one(
                f"{join} exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups "
                f"{self.privileged(mib)}", **variables)
            self.assertEqual((output.split(), errors),
                             (f"uid 0 secure 1 alloc {result}".encode().split(), b""))
        self.assertEqual(self.made(), [])

    def make_cgroup(self):
        """A cgroup that looks like one of Slurm's job."""
        for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/freezer", "/sys/fs/cgroup/unified"):
            top = pathlib.Path(root) / f"softmig-test-slurm-{os.getpid()}"
            try:
                top.mkdir()
                self.addCleanup(top.rmdir)
                cgroup = top / f"job_{JOB}"
                cgroup.mkdir()
                self.addCleanup(cgroup.rmdir)
            except OSError:
                continue
            if (cgroup / "cgroup.procs").exists():
                return cgroup
        self.skipTest("no cgroup can be made")


if __name__ == "__main__":
    harness.parse_options(__doc__.splitlines()[0])
    if not World.make():
        print("skipped: needs root and a mount namespace")
        sys.exit(harness.SKIPPED)
    harness.main()
