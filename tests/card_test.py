#!/usr/bin/env python3
"""The runner of what needs a card (card.py), with parts that need none."""

import argparse
import json
import os
import pathlib
import sys
import tempfile
import time
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import card  # noqa: E402
from card import Part  # noqa: E402


class RunnerTest(unittest.TestCase):
    """Each part of a plan, and the book-keeping."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.out = pathlib.Path(folder.name)

    def run_parts(self, *parts, budget=float("inf"), gpus=1):
        options = argparse.Namespace(build="build", out=self.out, budget_seconds=budget, libraries="", slurm_root="")
        runner = card.Runner(options, gpus)
        for part in parts:
            runner.run(part)
        return {record["part"]: record["status"] for record in json.loads((self.out / "plan.json").read_text())}

    def test_what_passes_and_what_fails(self):
        status = self.run_parts(Part("good", 5, "sh -c 'echo 3 passed; echo more'"), Part("bad", 5, "sh -c 'exit 3'"))
        self.assertEqual(status, {"good": "passed", "bad": "failed with status 3"})
        self.assertEqual((self.out / "good.txt").read_text(), "3 passed\nmore\n")

    def test_a_part_that_hangs_is_stopped_with_its_children(self):
        begin = time.monotonic()
        status = self.run_parts(Part("stuck", 1, "sh -c 'sleep 77 & echo $!; wait'"))
        self.assertLess(time.monotonic() - begin, 10)
        self.assertEqual(status, {"stuck": "stopped after 1 s"})
        child = int((self.out / "stuck.txt").read_text())
        while time.monotonic() - begin < 10 and os.path.exists(f"/proc/{child}/stat") and " Z " not in (
            pathlib.Path(f"/proc/{child}/stat").read_text()
        ):
            time.sleep(0.05)
        self.assertFalse(os.path.exists(f"/proc/{child}/exe"))

    def test_what_does_not_fit_is_skipped(self):
        status = self.run_parts(
            Part("long", 100, "false"), Part("two", 1, "false", gpus=2), Part("lab", 1, "false", needs="slurm_root"),
            Part("short", 5, "true"), budget=50,
        )
        self.assertEqual(status, {"long": "skipped", "two": "skipped", "lab": "skipped", "short": "passed"})

    def test_places_are_filled_in(self):
        part = Part("place", 5, "sh -c 'echo {out} {build} $WHERE'", environment={"WHERE": "{root}"})
        self.run_parts(part)
        said = (self.out / "place.txt").read_text().split()
        self.assertEqual(said, [str(self.out / "place"), str(pathlib.Path("build").resolve()), str(card.ROOT)])

    def test_programs_of_the_plan_are_there(self):
        for part in card.PLAN:
            program = part.command.split()[0]
            if program != "sh" and not program.startswith("{"):
                self.assertTrue(os.access(card.ROOT / program, os.X_OK), program)


if __name__ == "__main__":
    unittest.main()
