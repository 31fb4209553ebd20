#!/usr/bin/env python3
"""The runner of the matrix, with small programs in place of the real ones: what it judges, and how.

    matrix_test.py --build DIR

A stand-in for `softmig` runs the program as it is; the programs tell by COMPAT_LIMIT where they are.
"""

import argparse
import json
import os
import sys
import tempfile
import types
import unittest

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import cells as all_cells  # noqa: E402
import matrix  # noqa: E402

GOOD = {"results": {"sum": "1"}, "version": "9.9"}
SEEN = {"total": 1024 << 20, "granted": 960 << 20, "refused": 1}
SOFTMIG = """#!/bin/sh
while [ "$1" != -- ]; do shift; done
shift
echo "fake log" >"$SOFTMIG_LOG_FILE"
exec "$@"
"""


class FakeWitness:
    """Stands for the readers of NVML: says what it is told to have seen."""

    def __init__(self, seen):
        self.seen = seen

    def mark(self):
        pass

    def follow(self, session):
        pass

    def stop(self):
        return self.seen


class RunnerCase(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        softmig = os.path.join(self.folder, "softmig")
        with open(softmig, "w", encoding="utf-8") as file:
            file.write(SOFTMIG)
        os.chmod(softmig, 0o755)
        options = types.SimpleNamespace(
            build=self.folder, compat=self.folder, sim=None, memory=1024, sm=50, budget=60
        )
        self.place = matrix.CompatPlace(options)
        self.place.known_gpus = ["GPU-0"]
        self.place.witness = FakeWitness([{"processes": 900 << 20, "device": 0}])
        self.addCleanup(self.place.close)

    def cell(self, native, sliced, name="x/y", **more):
        """A cell whose program is two lines of Python, one for each place."""
        text = (
            "import os, sys, time, json\n"
            f"native, sliced = {native!r}, {sliced!r}\n"
            "exec(sliced if 'COMPAT_LIMIT' in os.environ else native)\n"
        )
        return all_cells.Cell(name, "text", [sys.executable, "-c", text], **more)

    @staticmethod
    def prints(*lines):
        return "\n".join(f"print({json.dumps(line)!r})" for line in lines)

    def run_one(self, native, sliced, timeout=20, **more):
        return matrix.run_cell(self.cell(native, sliced, **more), self.place, timeout)


class Judgement(RunnerCase):
    def state(self, sliced, native=GOOD, **more):
        record = self.run_one(self.prints(native), self.prints(sliced), **more)
        return record["state"], record["note"]

    def test_green(self):
        record = self.run_one(self.prints(GOOD), self.prints({**GOOD, **SEEN}))
        self.assertEqual((record["state"], record["note"]), ("green", ""))
        self.assertEqual(record["limit"], "1024 MiB shown, 960 MiB granted, highest 900 MiB")
        self.assertEqual((record["version"], record["log"]), ("9.9", "fake log\n"))

    def test_numbers_differ(self):
        state = self.state({**SEEN, "results": {"sum": "2"}})
        self.assertEqual(state, ("red", "the numbers differ"))

    def test_limit_is_not_shown(self):
        self.assertEqual(self.state({**GOOD, **SEEN, "total": 80 << 30}), ("red", "shows 81920 MiB"))

    def test_never_refused(self):
        state = self.state({**GOOD, **SEEN, "refused": 0})
        self.assertEqual(state, ("red", "was never refused"))

    def test_granted_too_much_or_too_little(self):
        for granted in (1088, 448):
            state = self.state({**GOOD, **SEEN, "granted": granted << 20})
            self.assertEqual(state, ("red", f"was granted {granted} MiB"))

    def test_pool(self):
        self.assertEqual(self.state({**GOOD, "pool": 768 << 20})[0], "green")
        self.assertEqual(self.state({**GOOD, "pool": 60 << 30})[0], "red")

    def test_witness(self):
        # Two GPUs: the most on either counts, their sum does not.
        seen = [{"processes": 700 << 20, "device": 0}, {"processes": 0, "device": 800 << 20}]
        self.assertEqual(matrix.judge_limit(SEEN, seen, 1024 << 20)[0], None)
        seen[1]["device"] = 1025 << 20
        wrong, words = matrix.judge_limit(SEEN, seen, 1024 << 20)
        self.assertEqual(wrong, "the witness saw 1025 MiB")
        self.assertIn("highest 1025 MiB", words)

    def test_witness_that_saw_nothing(self):
        for witness in (None, FakeWitness([]), FakeWitness([{"processes": 0, "device": 0}])):
            self.place.witness = witness
            record = self.run_one(self.prints(GOOD), self.prints({**GOOD, **SEEN}))
            self.assertEqual((record["state"], record["note"]), ("unwitnessed", ""))
            self.assertIn("960 MiB granted, by the program alone", record["limit"])
        self.assertEqual(self.state({**GOOD, "total": 80 << 30})[0], "red")

    def test_fails_in_the_slice_alone(self):
        self.assertEqual(self.state({"error": "cudaMalloc"}), ("red", "cudaMalloc"))
        record = self.run_one(self.prints(GOOD), "sys.exit(3)")
        self.assertEqual((record["state"], record["note"]), ("red", "exit status 3: "))
        record = self.run_one(self.prints(GOOD), "os.kill(os.getpid(), 11)")
        self.assertEqual(record["state"], "red")

    def test_fails_everywhere(self):
        record = self.run_one("sys.exit('no symbol')", "sys.exit('no symbol')")
        self.assertEqual(record["state"], "broken")
        self.assertEqual(record["note"], "natively: exit status 1: no symbol")

    def test_no_results(self):
        self.assertEqual(self.run_one("", "")["note"], "natively: prints no results")

    def test_skips_itself(self):
        state = self.state(GOOD, native={"skip": "no jax"})
        self.assertEqual(state, ("skipped", "no jax"))
        self.assertEqual(self.state({"skip": "no GPU"})[0], "red")

    def test_what_a_tool_says(self):
        cell = {"says": (r"ERROR SUMMARY: 0 errors",)}
        lines = self.prints({**GOOD, **SEEN})
        quiet = self.run_one(lines, lines, **cell)
        self.assertEqual(quiet["note"], "natively: its output lacks 'ERROR SUMMARY: 0 errors'")
        says = f"print('ERROR SUMMARY: 0 errors')\n{lines}"
        self.assertEqual(self.run_one(says, says, **cell)["state"], "green")
        self.assertEqual(self.run_one(says, lines, **cell)["state"], "red")


class Runs(RunnerCase):
    def test_hangs(self):
        # Its child too must be gone; else its end of the pipe would hold up the runner.
        slow = "import subprocess; subprocess.Popen(['sleep', '100']); time.sleep(100)"
        record = self.run_one(self.prints(GOOD), slow, timeout=2)
        self.assertEqual((record["state"], record["note"]), ("red", "hangs: killed after 2 s"))
        self.assertLess(record["slice_s"], 10)

    def test_needs(self):
        for more, note in (
            ({"modules": ("no_such_module",)}, "no_such_module is not installed"),
            ({"gpus": 99}, "needs 99 GPUs"),
        ):
            record = self.run_one("", "", **more)
            self.assertEqual((record["state"], record["note"]), ("skipped", note))
        cell = all_cells.Cell("x", "", ["@bin/none"])
        self.assertIn("fetch.sh", matrix.run_cell(cell, self.place, 5)["note"])
        cell = all_cells.Cell("x", "", ["no-such-program"])
        note = matrix.run_cell(cell, self.place, 5)["note"]
        self.assertEqual(note, "no-such-program is not installed")

    def test_the_environment_is_clean(self):
        os.environ["CUDA_DEVICE_MEMORY_LIMIT"] = "1G"
        self.addCleanup(os.environ.pop, "CUDA_DEVICE_MEMORY_LIMIT")
        code = "print(json.dumps({'results': {'x': os.environ.get('CUDA_DEVICE_MEMORY_LIMIT', 0)}}))"
        self.assertEqual(self.run_one(code, code)["results"], {"x": 0})

    def test_budget(self):
        cells = [self.cell("time.sleep(9)", "", f"x/{i}") for i in range(3)]
        with open(os.devnull, "w", encoding="utf-8") as silent:
            out, sys.stdout = sys.stdout, silent
            try:
                records = matrix.run_all(cells, self.place, 6)
            finally:
                sys.stdout = out
        self.assertEqual([r["note"] for r in records[1:]], ["no time left"] * 2)

    def test_slice_command(self):
        command = matrix.Run.in_slice(self.place, all_cells.Cell("x", "", ["y"]))
        self.assertEqual(command[1:4], ["run", "--memory", "1024M"])
        self.assertEqual(command[-3:], ["--sm", "50", "--"])
        bare = matrix.Run.in_slice(self.place, all_cells.Cell("x", "", ["y"], sm=False))
        self.assertNotIn("--sm", bare)


class Table(unittest.TestCase):
    CELLS = [all_cells.Cell("a/1", "first", ["x"]), all_cells.Cell("b/2", "second", ["x"])]

    def report(self, *records):
        machine = {"date": "2001-02-03", "card": "C", "driver": "D", "memory": 8, "sm": 50}
        return {"machine": machine, "cells": list(records)}

    def test_nothing_run(self):
        text = matrix.table([], self.CELLS)
        self.assertIn("| a/1 | first | not run yet |  |  |  |", text)
        self.assertNotIn("green", text)

    def test_later_runs_count_but_skips_do_not(self):
        green = {"cell": "a/1", "state": "green", "note": "", "same": True, "limit": "8 MiB shown"}
        alone = {**green, "state": "unwitnessed"}
        skip = {"cell": "a/1", "state": "skipped", "note": "needs two GPUs"}
        red = {"cell": "b/2", "state": "red", "note": "the numbers differ", "same": False}
        text = matrix.table([self.report(green), self.report(skip, red)], self.CELLS)
        self.assertIn("| 1 | 2001-02-03 | 1 x C | D | 8 MiB, 50 % of the time |", text)
        self.assertIn("| a/1 | first | green | same | 8 MiB shown | 1 |", text)
        self.assertIn("| a/1 | first | green, unwitnessed |",
                      matrix.table([self.report(alone)], self.CELLS))  # fmt: skip
        self.assertIn("| b/2 | second | red: the numbers differ | differ |  | 2 |", text)

    def test_document(self):
        with tempfile.NamedTemporaryFile("w+", suffix=".md") as file:
            file.write(f"before\n{matrix.MARKS[0]}\nold\n{matrix.MARKS[1]}\nafter\n")
            file.flush()
            matrix.write_markdown(file.name, [], self.CELLS)
            with open(file.name, encoding="utf-8") as again:
                text = again.read()
        self.assertTrue(text.startswith("before\n") and text.endswith("\nafter\n"))
        self.assertIn("not run yet", text)
        self.assertNotIn("old", text)

    def test_names(self):
        names = [cell.name for cell in all_cells.all_cells()]
        self.assertEqual(len(names), len(set(names)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build")
    _, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)


if __name__ == "__main__":
    main()
