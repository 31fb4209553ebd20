#!/usr/bin/env python3
"""A host that has no room left, and a clock that jumps.

  tests/chaos/host_test.py BUILD

Full disks are small tmpfs in a mount namespace of our own; where that is not allowed those tests are
skipped, aloud. Everything runs on the simulated GPU through the library that ships.
"""

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

BUILD = os.path.abspath(sys.argv.pop(1)) if len(sys.argv) > 1 else "build"
SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GIB = 1 << 30
LIMIT = 20 * GIB
NEW_NAMESPACE, PRIVATE_AND_BELOW = 0x00020000, (1 << 18) | (1 << 14)


def enter_mount_namespace():
    """None, or why not."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.getuid() != 0:
        return "mounting needs root"
    if libc.unshare(NEW_NAMESPACE) != 0 or libc.mount(b"none", b"/", None, PRIVATE_AND_BELOW, None) != 0:
        return os.strerror(ctypes.get_errno())
    with tempfile.TemporaryDirectory() as folder:
        if libc.mount(b"softmig", folder.encode(), b"tmpfs", 0, b"size=64k") != 0:
            return os.strerror(ctypes.get_errno())
        libc.umount(folder.encode())
    return None


NO_MOUNTS = enter_mount_namespace()
if NO_MOUNTS:
    print(f"SKIPPED: full disks ({NO_MOUNTS})", file=sys.stderr)


class Node(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.mkdtemp(prefix="softmig-host-")
        self.mounts = []
        self.addCleanup(self.clean_up)
        self.region = os.path.join(self.root, "region")
        self.env = {
            "PATH": os.environ["PATH"],
            "LD_LIBRARY_PATH": os.path.join(BUILD, "sim", "13.0"),
            "SOFTMIG_SIM": "1x80G",
            "SOFTMIG_SIM_STATE": os.path.join(self.root, "node"),
            "CUDA_DEVICE_MEMORY_LIMIT": f"{LIMIT >> 20}M",
            "CUDA_DEVICE_SM_LIMIT": "50",
            "SOFTMIG_REGION": self.region,
            "SOFTMIG_LOG_FILE": os.path.join(self.root, "log"),
        }

    def clean_up(self):
        for folder in self.mounts:
            subprocess.run(["umount", "-l", folder], check=False)
        shutil.rmtree(self.root, ignore_errors=True)

    def disk(self, size):
        """A folder on a disk of so many KiB."""
        folder = tempfile.mkdtemp(dir=self.root)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "softmig", folder]
        subprocess.run(mount, check=True)
        self.mounts.append(folder)
        return folder

    def fill(self, folder):
        with open(os.path.join(folder, "filler"), "wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError:
                pass

    def start(self, *command, preload=""):
        env = dict(self.env, LD_PRELOAD=f"{BUILD}/libsoftmig.so {preload}".strip())
        return subprocess.Popen(
            [os.path.join(BUILD, "tests", "gpu", command[0]), *command[1:]],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run_one(self, *command, **more):
        process = self.start(*command, **more)
        out, err = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 0, out + err)
        return json.loads(out.splitlines()[-1]) if out else None

    def granted(self, **more):
        """What a process is granted until it is refused."""
        line = self.run_one("route_dl", "alloc", "64M", "--cap", "70G", "--hold", "0", **more)
        return line["granted"]

    def assert_limited(self, granted):
        self.assertLess(granted, LIMIT)
        self.assertGreater(granted, LIMIT - 2 * GIB)


@unittest.skipIf(NO_MOUNTS, NO_MOUNTS)
class FullDisk(Node):
    def test_no_room_for_a_region_limits_within_the_process(self):
        self.env["SOFTMIG_REGION"] = os.path.join(self.disk(256), "region")
        self.assert_limited(self.granted())
        self.assertEqual(os.listdir(os.path.dirname(self.env["SOFTMIG_REGION"])), [])
        with open(self.env["SOFTMIG_LOG_FILE"], encoding="utf-8") as log:
            self.assertIn("limits hold within this process only", log.read())

    def test_a_disk_that_fills_up_later_kills_nobody(self):
        folder = self.disk(2048)
        self.env["SOFTMIG_REGION"] = os.path.join(folder, "region")
        self.env["CUDA_DEVICE_MEMORY_LIMIT"] = "60000M"
        self.assertGreater(self.granted(), GIB)
        self.fill(folder)
        many = [self.start("load", "short", "0", str(n)) for n in range(40)]
        ended = [(p.communicate(timeout=120)[1], p.returncode) for p in many]
        self.assertEqual([e for e in ended if e[1] not in (0, 1)], [])

    def test_more_processes_than_a_full_disk_has_places_for(self):
        folder = self.disk(2048)
        self.env["SOFTMIG_REGION"] = os.path.join(folder, "region")
        self.env["CUDA_DEVICE_MEMORY_LIMIT"] = "70000M"
        first = self.start("load", "long", "12")
        while not os.path.exists(self.env["SOFTMIG_REGION"]):
            self.assertIsNone(first.poll())
        self.fill(folder)
        more = [self.start("load", "long", "4", str(n)) for n in range(30)]
        for process in [*more, first]:
            out, err = process.communicate(timeout=120)
            self.assertIn(process.returncode, (0, 1), out + err)

    def test_a_full_log_folder_is_no_trouble(self):
        folder = self.disk(64)
        self.fill(folder)
        self.env["SOFTMIG_LOG_FILE"] = os.path.join(folder, "log")
        self.env["SOFTMIG_LOG_LEVEL"] = "4"
        self.assert_limited(self.granted())

    def test_a_full_board_is_no_trouble(self):
        folder = self.disk(64)
        self.fill(folder)
        self.env["SOFTMIG_BOARD"] = folder
        self.env["SOFTMIG_SLOTS"] = "0,2/4"
        line = self.run_one("load", "long", "2")
        self.assertGreater(line["turns"], 0)


class Clock(Node):
    SHIM = """
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
/* The time of day jumps by a day, back and forth, at every look. */
int clock_gettime(clockid_t clock, struct timespec *now) {
  static int looks;
  long result = syscall(SYS_clock_gettime, clock, now);
  if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += looks++ % 2 ? 86400 : -86400;
  return (int)result;
}
"""

    def test_a_jumping_time_of_day_changes_nothing(self):
        shim = os.path.join(self.root, "shim.so")
        source = shim + ".c"
        with open(source, "w", encoding="utf-8") as file:
            file.write(self.SHIM)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, source], check=True)
        self.assertEqual(self.granted(preload=shim), self.granted())
        line = self.run_one("load", "threads", preload=shim)
        self.assertTrue(line["ok"], line)

    def test_decisions_never_ask_for_the_time_of_day(self):
        """realtime_ns is for the stamps of log lines, regions and pages that people read."""
        known = {"src/job/log.cc", "src/job/region.cc", "src/sys/clock.cc", "src/sys/clock.h"}
        asking = set()
        for folder in ("base", "abi", "sys", "policy", "job", "hook", "cuda", "nvml"):
            for name in os.listdir(os.path.join(SOURCE, "src", folder)):
                path = os.path.join("src", folder, name)
                with open(os.path.join(SOURCE, path), encoding="utf-8") as file:
                    if re.search(r"realtime_ns|CLOCK_REALTIME\b|gettimeofday|\btime[(]", file.read()):
                        asking.add(path)
        self.assertLessEqual(asking - {"src/abi/region.h", "src/job/region_view.h"}, known)
        symbols = subprocess.run(
            ["nm", "-D", "--undefined-only", os.path.join(BUILD, "libsoftmig.so")],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for name in ("gettimeofday", "time", "times", "clock", "ftime", "timespec_get"):
            self.assertNotRegex(symbols, rf"\bU {name}(@|$)")

    def test_processes_of_other_time_namespaces_take_back_the_dead(self):
        """Their monotonic clocks differ by an hour; start times cannot be compared."""
        try:
            subprocess.run(["unshare", "--time", "--monotonic", "-3600", "true"], check=True, stderr=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError):
            self.skipTest("no time namespaces here")
        self.run_one("load", "short")
        here = self.granted()
        self.run_one("load", "short")
        other = subprocess.run(
            ["unshare", "--time", "--monotonic", "-3600", "--fork", "env",
             f"LD_PRELOAD={BUILD}/libsoftmig.so", os.path.join(BUILD, "tests", "gpu", "route_dl"),
             "alloc", "64M", "--cap", "70G", "--hold", "0"],
            env=self.env, capture_output=True, text=True, timeout=60, check=True)
        self.assertEqual(json.loads(other.stdout.splitlines()[-1])["granted"], here)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], "-v", *sys.argv[1:]])
