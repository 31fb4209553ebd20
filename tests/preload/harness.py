"""Runs the test programs with and without the library, each run in a slice of its own."""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

SKIPPED = 77
CUDA_VERSIONS = (2000, 3020, 4000, 5000, 6050, 7000, 8000, 9000, 10000, 10010, 10020, 11000, 11010,
                 11020, 11030, 11040, 11050, 11060, 11070, 11080, 12000, 12010, 12020, 12030, 12040,
                 12050, 12060, 12080, 12090, 13000)
KEPT_VARIABLES = ("PATH", "HOME", "LANG", "TERM", "TZ")


class Options:
    """The command line, for the tests to see."""
    library = bin = source = driver = version = simulated = emulator = None


def parse_options(description, *extra):
    """Fills Options from the command line; what it does not know stays for unittest."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--library", type=os.path.abspath, required=True)
    parser.add_argument("--bin", type=pathlib.Path, required=True)
    parser.add_argument("--source", type=pathlib.Path, required=True)
    # For programs of another processor; it is started without what they preload.
    parser.add_argument("--emulator", type=str.split, default=[])
    for name in extra:
        parser.add_argument(name)
    _, rest = parser.parse_known_args(namespace=Options)
    sys.argv[1:] = rest


def main():
    """Runs the calling module's tests and reports them in one line that counts."""
    program = unittest.main(module="__main__", exit=False, verbosity=1)
    result = program.result
    failed = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - failed - len(result.skipped)} passed, {failed} failed, "
          f"{len(result.skipped)} skipped")
    if failed == 0 and result.testsRun == len(result.skipped):
        sys.exit(SKIPPED)
    sys.exit(0 if failed == 0 else 1)


def symbols(path):
    """{offset: [names]} of what a library defines for others."""
    output = subprocess.run(["nm", "-D", "--defined-only", path], check=True, capture_output=True,
                            text=True).stdout
    found = {}
    for line in output.splitlines():
        address, _, name = line.split()
        found.setdefault(int(address, 16), []).append(name.split("@")[0])
    return found


class Case(unittest.TestCase):
    """A test with a folder of its own that any user may enter."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="softmig-preload-"))
        self.folder.chmod(0o755)
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.count = 0

    def environment(self, mode, preload=None, driver=None, **variables):
        """Variables of one run. mode: "bare" without the library, "passive", "active" with limits
        of memory and GPU time."""
        self.count += 1
        env = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        env["SOFTMIG_SIM"] = "1x80G"
        env["SOFTMIG_SIM_STATE"] = str(self.folder / "node")
        env["SOFTMIG_LOG_FILE"] = str(self.folder / "log")
        env["SOFTMIG_REGION"] = str(self.folder / f"region-{self.count}")
        driver = Options.driver if driver is None else driver
        if driver:
            env["LD_LIBRARY_PATH"] = str(driver)
        if mode == "active":
            env["CUDA_DEVICE_MEMORY_LIMIT"] = "4096M"
            env["CUDA_DEVICE_SM_LIMIT"] = "99"
            env["SOFTMIG_CONTEXT_COST"] = "64M"
        preload = [Options.library] if preload is None else preload
        if mode == "bare":
            preload = [library for library in preload if library != Options.library]
        if preload:
            env["LD_PRELOAD"] = ":".join(map(str, preload))
        env.update(variables)
        return env

    def run_program(self, name, *arguments, env, timeout=120, **options):
        """Runs a test program to its end -> CompletedProcess, its output as text."""
        command = [Options.bin / name, *map(str, arguments)]
        if Options.emulator:
            linker = [f"{key}={value}" for key, value in env.items() if key.startswith("LD_")]
            env = {key: value for key, value in env.items() if not key.startswith("LD_")}
            settings = [word for setting in linker for word in ("-E", setting)]
            command = [*Options.emulator, *settings, *command]
        return subprocess.run(command, env=env, timeout=timeout, capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, **options)

    def output_of(self, name, *arguments, env, **options):
        """As run_program, of a run that must succeed and write nothing to stderr -> stdout."""
        done = self.run_program(name, *arguments, env=env, **options)
        self.assertEqual((done.returncode, done.stderr), (0, ""),
                         f"{name} {arguments}: {done.stdout[-2000:]}")
        return done.stdout

    def assert_same(self, found, expected):
        """As assertEqual, of large tables: says only how some rows differ."""
        wrong = [f"{key}: {found.get(key)}, not {expected.get(key)}"
                 for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)]
        self.assertFalse(wrong, "\n".join([f"{len(wrong)} rows differ", *sorted(wrong)[:10]]))

    def outputs(self, name, *arguments, modes=("bare", "passive", "active"), **variables):
        """The output in each mode."""
        return [self.output_of(name, *arguments, env=self.environment(mode, **variables))
                for mode in modes]
