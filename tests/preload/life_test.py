#!/usr/bin/env python3
"""The life of a process that has the library in it.

    life_test.py --library LIB --bin DIR --source DIR --driver DIR [--simulated yes]

--driver is a folder with a libcuda.so.1: the small one of tests/preload/fake, which does nothing
but answer, or with --simulated a simulated one.
"""

import pathlib
import unittest

import harness
from harness import Options

CUDA, NVML = "libcuda.so.1", "libnvidia-ml.so.1"
SKIPPED = 77
REUSED = [f"reused_{what}" for what in ("handle", "mapping", "context", "module", "external_memory",
                                        "import")]
# Need a driver that survives whatever they do to it; the simulated one has locks and files.
SMALL_DRIVER = ["fork_during_the_first_look_up", "fork_while_threads_allocate",
                "fork_while_threads_look_up", "fork_across_pid_namespaces",
                "held_in_another_pid_namespace", "raw_clone", "killed", "quick_exit", "aborted",
                "leader_ended", "killed_at_random", "exec_of_another_program", "exec_of_itself",
                "no_descriptors", "no_file_size", "closed_descriptors", "errno_is_kept",
                "small_stack", "exit_handlers", *REUSED]
ANY_DRIVER = ["vfork_and_exec", "context_is_kept", "signals_are_the_programs",
              "look_ups_in_signal_handlers", "threads_race_to_be_first", "no_threads_of_ours"]
# Hold in a slice only: without limits there is nothing to compare with.
OF_SLICES = {"held_in_another_pid_namespace", "killed", "quick_exit", "aborted", "leader_ended",
             "killed_at_random", "exec_of_another_program", "exec_of_itself", "no_descriptors",
             "no_file_size", "closed_descriptors", "small_stack", "threads_race_to_be_first", *REUSED}
# What an emulator of one process (qemu-user) takes away, whatever is preloaded.
EMULATED = {
    **dict.fromkeys(["vfork_and_exec", "exec_of_another_program", "exec_of_itself"],
                    "the kernel starts no program of another processor"),
    **dict.fromkeys(["fork_while_threads_allocate", "killed", "quick_exit", "aborted",
                     "leader_ended", "killed_at_random"],
                    "/proc/self/stat is made up, and so nobody knows who has died"),
    "no_file_size": "a blocked signal is not blocked for the emulator",
    "no_threads_of_ours": "the emulator has threads of its own",
}


class LifeCase(harness.Case):
    """A test that needs a driver."""

    def setUp(self):
        super().setUp()
        if not (pathlib.Path(Options.driver) / CUDA).exists():
            self.skipTest(f"no {CUDA} in {Options.driver}")


class Checks(LifeCase):
    """The checks of the program `life`; its tests are made below."""

    def check(self, name):
        """Well without the library (as far as it can be), passive and active."""
        if Options.emulator and name in EMULATED:
            self.skipTest(f"under an emulator {EMULATED[name]}")
        for mode in ["active"] if name in OF_SLICES else ["bare", "passive", "active"]:
            done = self.run_program("life", name, env=self.environment(mode))
            if done.returncode == SKIPPED:
                self.skipTest(f"{name} cannot be tried here")
            self.assertEqual((done.returncode, done.stderr), (0, ""), f"{mode}: {done.stdout}")


def add_checks():
    """One test for each check."""
    for name in ANY_DRIVER + ([] if Options.simulated else SMALL_DRIVER):
        setattr(Checks, f"test_{name}", lambda self, name=name: self.check(name))


class Silence(LifeCase):
    """What other programs, and the program itself, see of the library: nothing."""

    def test_state_of_the_process(self):
        bare, passive, active = self.outputs("state")
        self.assertIn("at the end", bare)
        self.assert_same(dict(enumerate(passive.splitlines())), dict(enumerate(bare.splitlines())))
        self.assert_same(dict(enumerate(active.splitlines())), dict(enumerate(bare.splitlines())))

    def test_state_when_the_log_is_full_of_words(self):
        log = {"SOFTMIG_LOG_LEVEL": "2", "SOFTMIG_LOG_FILE": str(self.folder / "chatty")}
        bare, active = (self.output_of("state", env=self.environment(mode, **log))
                        for mode in ("bare", "active"))
        self.assert_same(dict(enumerate(active.splitlines())), dict(enumerate(bare.splitlines())))

    def test_modes_of_files_do_not_depend_on_the_umask(self):
        region, log = self.folder / "region", self.folder / "own.log"
        self.run_program("state", env=self.environment(
            "active", SOFTMIG_LOG_LEVEL="4", SOFTMIG_LOG_FILE=str(log), SOFTMIG_REGION=str(region)))
        self.assertEqual(region.stat().st_mode & 0o7777, 0o600)
        self.assertEqual(log.stat().st_mode & 0o7777, 0o644)

    def test_words_are_for_the_log_below_level_3(self):
        for level, spoken in (("2", False), ("3", True)):
            done = self.run_program("life", "small_stack",
                                    env=self.environment("active", SOFTMIG_LOG_LEVEL=level))
            self.assertEqual((done.returncode, done.stderr != ""), (0, spoken), done.stderr)

    def test_a_bad_value_is_escaped_once_in_the_log(self):
        self.run_program("state", env=self.environment("active",
                                                       CUDA_DEVICE_MEMORY_LIMIT="4G\x1b[2J"))
        self.assertIn('CUDA_DEVICE_MEMORY_LIMIT: "4G\\x1b[2J" is not',
                      (self.folder / "log").read_text())

    def test_functions_called_with_zeros(self):
        if Options.emulator:
            self.skipTest("an emulator speaks of every signal")
        for library in (CUDA, NVML):
            if not (pathlib.Path(Options.driver) / library).exists():
                continue
            names = self.folder / "names"
            hooks = [name for found in harness.symbols(Options.library).values() for name in found
                     if name.startswith("cu" if library == CUDA else "nvml")]
            names.write_text("".join(f"{name}\n" for name in sorted(hooks)))
            bare, passive, active = (dict(line.split(" ", 1) for line in output.splitlines())
                                     for output in self.outputs("zeros", library, names))
            self.assertGreater(len(bare), 5)
            self.assert_same(passive, bare)
            self.assert_same({name: answer for name, answer in active.items()
                              if not bare[name].startswith("signal")},
                             {name: answer for name, answer in bare.items()
                              if not answer.startswith("signal")})

    def test_before_main_and_after_exit(self):
        if Options.simulated:
            self.skipTest("a driver in C++ is not there that early and that late")
        early = Options.bin / "early.so"
        for preload in ([early, Options.library], [Options.library, early]):
            outputs = [self.output_of("weak", env=self.environment(mode, preload=preload))
                       for mode in ("passive", "active")]
            words = [[line for line in output.splitlines() if line.split()[0] in ("early", "late")]
                     for output in outputs]
            self.assertEqual(words[0][:3], ["early 0"] * 3)
            self.assertEqual(words[1], ["early 0"] * 3 + ["early 2", "late 0"])


if __name__ == "__main__":
    harness.parse_options(__doc__.splitlines()[0], "--driver", "--simulated")
    add_checks()
    harness.main()
