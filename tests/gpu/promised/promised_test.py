#!/usr/bin/env python3
"""The programs that the documentation promises in build/test, on the simulated GPU.

    promised_test.py --build DIR

The Python programs run with stand-ins of their frameworks (promised/stand_ins), whose memory is the
simulated driver's.
"""

import argparse
import os
import signal
import subprocess
import sys
import types
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
sys.dont_write_bytecode = True

from harness.place import GIB, Place  # noqa: E402

FRAMEWORKS = {
    "limit_pytorch.py": "torch",
    "limit_tensorflow.py": "tensorflow",
    "limit_tensorflow2.py": "tensorflow",
    "limit_mxnet.py": "mxnet",
    "limit_jax.py": "jax",
    "limit_cupy.py": "cupy",
}
STAND_INS = os.path.join(HERE, "stand_ins")


class PromisedCase(unittest.TestCase):
    build = None

    def setUp(self):
        options = types.SimpleNamespace(
            build=self.build,
            sim="1x8G",
            sim_version="13.0",
            user=None,
            context_cost=None,
            no_preload=False,
        )
        self.place = Place(options, "promised")
        self.addCleanup(self.place.close)

    def program(self, name):
        return os.path.join(self.build, "test", name)

    def run_in(self, env, command, status=0, **variables):
        """Runs a command with the variables `env` -> what it printed; `status` must be its end."""
        done = subprocess.run(
            command,
            env={**env, **variables},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        self.assertEqual(done.returncode, status, f"{command}: {done.stdout}{done.stderr}")
        return done.stdout

    def no_gpu(self):
        """Variables of a machine without a driver."""
        return {k: v for k, v in self.place.bare_environment().items() if k != "LD_LIBRARY_PATH"}

    def python(self, env, name, stand_in=True, status=0, **variables):
        path = STAND_INS if stand_in else "/nonexistent"
        # -S: what is installed on this machine is not looked at.
        command = [sys.executable, "-S", self.program(f"python/{name}")]
        return self.run_in(env, command, status, PYTHONPATH=path, **variables)


class Programs(PromisedCase):
    def test_takes_memory_until_refused(self):
        for name in ("test_alloc", "test_alloc_managed"):
            out = self.run_in(self.place.new_slice(2 * GIB), [self.program(name)])
            self.assertIn("total 2048 MiB", out)
            granted = int(out.split(" MiB granted")[0].split()[-1])
            self.assertIn("CUDA_ERROR_OUT_OF_MEMORY", out)
            self.assertTrue(1344 <= granted <= 1984, out)

    def test_without_a_limit_it_takes_the_card(self):
        out = self.run_in(self.place.bare_environment(), [self.program("test_alloc")])
        self.assertIn("total 8128 MiB", out)

    def test_without_a_limit_managed_memory_goes_beyond_the_card(self):
        # The driver's own way; with a limit that nobody holds it is a fault.
        env = self.place.bare_environment()
        out = self.run_in(env, [self.program("test_alloc_managed")])
        self.assertIn("8192 MiB granted, more than there is: no limit is set", out)
        out = self.run_in(env, [self.program("test_alloc_managed")], 1, CUDA_DEVICE_MEMORY_LIMIT="2G")
        self.assertIn("FAIL: cuMemAllocManaged: 8192 MiB granted", out)

    def test_host_memory_is_free(self):
        out = self.run_in(self.place.new_slice(2 * GIB), [self.program("test_alloc_host")])
        self.assertIn("PASS", out)

    def test_skips_without_a_gpu(self):
        for name in ("test_alloc", "test_alloc_host", "test_alloc_managed",
                     "test_nvml_process_filter", "test_runtime_alloc", "test_runtime_launch"):
            self.assertTrue(self.run_in(self.no_gpu(), [self.program(name)]).startswith("SKIP"))

    def test_runtime_on_the_simulated_gpu(self):
        # NVIDIA's runtime refuses a driver that is not NVIDIA's.
        for name in ("test_runtime_alloc", "test_runtime_launch"):
            out = self.run_in(self.place.new_slice(2 * GIB), [self.program(name)])
            self.assertTrue(out.startswith("SKIP"), out)


class ProcessFilter(PromisedCase):
    def filter(self, env):
        return self.run_in(env, [self.program("test_nvml_process_filter")]).splitlines()

    def foreign(self):
        """A process that is in no slice and holds memory."""
        process = self.place.start(
            [self.place.program("route_dl"), "alloc", "64M", "handle", "--cap", "64M", "--hold",
             "60000"],
            self.place.bare_environment(),
            outside=True,
            stdout=subprocess.PIPE,
        )

        def end():
            process.kill()
            process.communicate()

        self.addCleanup(end)
        listed = self.place.new_slice(None)
        for _ in range(200):
            lines = self.filter(listed)
            if "2 processes listed, 1 of them ours" in lines[0]:
                return process
        return self.fail("the foreign process is not listed")

    def test_alone(self):
        lines = self.filter(self.place.new_slice(2 * GIB + 1536 * 1024 * 1024))
        self.assertIn("PASS: single process: 1 processes listed, 1 of them ours", lines[0])
        self.assertIn("NVML itself lists as many", lines[0])
        self.assertIn("4 processes listed, 4 of them ours", lines[1])

    def test_foreign_processes_are_filtered(self):
        self.foreign()
        lines = self.filter(self.place.new_slice(4 * GIB))
        self.assertIn("1 processes listed, 1 of them ours; filtered: NVML itself lists 2", lines[0])
        self.assertIn("4 of them ours; filtered: NVML itself lists 5", "".join(lines))

    def test_native_lists_everybody(self):
        self.foreign()
        lines = self.filter(self.place.bare_environment())
        self.assertIn("2 processes listed, 1 of them ours; NVML itself lists as many", lines[0])

    def test_fails_where_a_child_cannot_hold(self):
        env = self.place.new_slice(GIB)  # one context fits, four do not
        out = self.run_in(env, [self.program("test_nvml_process_filter")], status=1)
        self.assertIn("FAIL: a child process cannot hold memory (CUDA_ERROR_OUT_OF_MEMORY)", out)

    def test_its_children_end_with_it(self):
        process = self.place.start(
            [self.program("test_nvml_process_filter")], self.place.bare_environment(),
            stdout=subprocess.PIPE)
        process.communicate(timeout=60)
        self.assertRaises(ProcessLookupError, os.killpg, process.pid, signal.SIGCONT)


class Frameworks(PromisedCase):
    def test_without_the_framework(self):
        for name in FRAMEWORKS:
            out = self.python(self.place.new_slice(2 * GIB), name, stand_in=False)
            self.assertRegex(out, r"^SKIP: .* is not installed \(No module named '\w+'\)\n$")

    def test_without_a_gpu(self):
        for name in FRAMEWORKS:
            self.assertRegex(self.python(self.no_gpu(), name), r"^SKIP: .* finds no GPU \(.*\)\n$")

    def test_to_the_limit(self):
        for name in FRAMEWORKS:
            out = self.python(self.place.new_slice(2 * GIB), name)
            self.assertRegex(out, r"^PASS: .*stand-in: \d+ MiB granted of a limit of 2048 MiB, then")

    def test_without_a_limit(self):
        for name in FRAMEWORKS:
            out = self.python(self.place.bare_environment(), name)
            self.assertIn("2048 MiB granted; no limit is set", out)

    def test_a_limit_that_nobody_holds(self):
        env = self.place.bare_environment()
        for name in FRAMEWORKS:
            out = self.python(env, name, status=1, CUDA_DEVICE_MEMORY_LIMIT="2G")
            self.assertRegex(out, "^FAIL: .*never refused")

    def test_refused_too_early(self):
        env = self.place.new_slice(2 * GIB)
        out = self.python(env, "limit_pytorch.py", status=1, SOFTMIG_CONTEXT_COST="1900M")
        self.assertRegex(out, "^FAIL: .*refused too early")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", required=True)
    args, rest = parser.parse_known_args()
    PromisedCase.build = os.path.abspath(args.build)
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)


if __name__ == "__main__":
    main()
