#!/usr/bin/env python3
"""Slips on the command lines of the programs that run tests and benchmarks: one line that quotes what was
typed, status 2, and nothing begun.

    arguments_test.py --build DIR
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Each with what it needs to begin with on the simulated GPU.
PROGRAMS = {
    "bench/report.py": [],
    "bench/share.py": ["--suite", "alone"],
    "bench/two_gpus.py": [],
    "bench/virt_report.py": [],
    "tests/gpu/run.py": [],
    "tests/gpu/soak.py": [],
}
WRITE = ("bench/share.py", "bench/virt_report.py")
CHOOSE = ("bench/share.py", "bench/two_gpus.py", "bench/virt_report.py", "tests/gpu/run.py")


class Slips(unittest.TestCase):
    build = None

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.out = os.path.join(folder.name, "out")

    def run_program(self, program, *words, build=None, **variables):
        command = [sys.executable, ROOT / program, "--build", build or self.build, *words]
        command += PROGRAMS.get(program, []) + (["--out", self.out] if program in WRITE else [])
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False,
                              env={**os.environ, **variables})

    def slip(self, program, text, *words, **more):
        done = self.run_program(program, *words, **more)
        self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
        self.assertRegex(done.stderr.splitlines()[-1], text)
        self.assertFalse(os.path.exists(self.out))

    def test_no_build(self):
        for program in PROGRAMS:
            self.slip(program, '--build: "/nowhere" has no libsoftmig.so', "--sim", "1x8G", build="/nowhere")
        for program in ("tests/card.py", "tests/compat/matrix.py"):
            self.slip(program, '--build: "/nowhere" has no libsoftmig.so', build="/nowhere")

    def test_no_node(self):
        for program in (*PROGRAMS, "tests/compat/matrix.py"):
            for text in ("8G", "1x", "1x8G+", "1x8G,context"):
                self.slip(program, f'--sim: "{text}" is not COUNTxSIZE'.replace("+", r"\+"), "--sim", text)

    def test_what_nothing_matches(self):
        for program in CHOOSE:
            self.slip(program, '--only: "nothing" matches nothing', "--sim", "1x8G", "--only", "nothing")
            self.slip(program, r'--only: "\(" is no regular expression', "--sim", "1x8G", "--only", "(")
        for program in ("tests/card.py", "tests/compat/matrix.py"):
            self.slip(program, '--only: "nothing" matches nothing', "--only", "nothing")

    def test_no_number(self):
        self.slip("tests/gpu/soak.py", '--minutes: "0" is not a number above 0', "--sim", "1x8G",
                  "--minutes", "0")
        self.slip("bench/report.py", '--processes: "1,x" is not a list', "--sim", "1x8G",
                  "--processes", "1,x")

    def test_no_group(self):
        self.slip("tests/gpu/run.py", "--group: invalid choice: 'x'", "--sim", "1x8G", "--group", "x")

    def test_no_place_for_the_table(self):
        self.slip("tests/compat/matrix.py", "--from needs --markdown", "--from")

    def test_no_gpu(self):
        # A folder without a driver stands before that of a machine with one.
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder, "libcuda.so.1").write_text("none")
            for program in PROGRAMS:
                done = self.run_program(program, "--real", LD_LIBRARY_PATH=folder)
                self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
                self.assertRegex(done.stderr, r"^\w+\.py: no GPU here: .*libcuda.so.1: .*\n$")

    def test_programs(self):
        for program, *words in (
                ("tests/chaos/chaos_stepper", "--kills", "many"),
                ("tests/chaos/chaos_stepper", "--only", "many"),
                ("tests/chaos/chaos_churn", "many"),
                ("tests/chaos/chaos_churn", "--seconds"),
                ("tests/model/protocol_model", "many")):
            done = subprocess.run([os.path.join(self.build, program), *words], capture_output=True,
                                  text=True, timeout=60, check=False)
            self.assertEqual((done.returncode, done.stdout), (2, ""))
            self.assertIn(words[-1], done.stderr)

    def test_every_grammar_of_a_node(self):
        for text in ("1x80G", "2x48G:l40s+1x80G:h100,context=600M,slice=3000", "16x1073741824"):
            done = self.run_program("tests/gpu/run.py", "--sim", text, "--list", "--group", "cli")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("cli/run\n", done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", required=True)
    options, rest = parser.parse_known_args()
    Slips.build = os.path.abspath(options.build)
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)


if __name__ == "__main__":
    main()
