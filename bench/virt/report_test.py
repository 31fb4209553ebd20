#!/usr/bin/env python3
"""The whole report on the simulated GPU, in its quick form: everything is measured, nothing fails, and
what cannot depend on the machine is right. What must be exact is for the tests of the parts.

  report_test.py BUILD OUT
"""

import json
import os
import re
import subprocess
import sys
import unittest

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
REPORT = os.path.join(HERE, "..", "virt_report.py")
BUILD, OUT = sys.argv[1], sys.argv[2]
# Of a loaded machine no more can be asked.
RANGES = {
    ("IS-001", "25"): (99, 100),
    ("IS-001", "50"): (99, 100),
    ("IS-002", "25"): (1, 1e6),
    ("IS-006", "25"): (50, 130),
    ("IS-008/a", "native"): (0.9, 1),
    ("IS-008/a", "50"): (0.9, 1),
    ("OH-001/a", "99"): (10, 1e6),
    ("OH-004/a", "25"): (0.1, 5000),
    ("LLM-002", "25"): (1000, 1e9),
    ("ERR-003", "25"): (100, 100),
    ("FRAG-003", "50"): (100, 100),
    ("BW-002", "25"): (0.25, 1),
}
MAY_BE_MISSING = {"OH-009": "root, and softmigd", "IS-004": "root", "NCCL-001": "cards",
                  "ERR-001": "a card"}
NOT_IN_QUICK = {"IS-003/b", "IS-003/c", "IS-003/d", "IS-008/b", "IS-009/b", "LLM-003", "LLM-006", "LLM-009",
                "SCHED-003"}


class Quick(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        done = subprocess.run(
            [REPORT, "--build", BUILD, "--sim", "1x80G", "--quick", "--out", OUT],
            capture_output=True, text=True, check=False)
        cls.output = done.stdout + done.stderr
        print(done.stdout[-6000:], done.stderr[-2000:])
        cls.status = done.returncode
        with open(os.path.join(OUT, "report.json"), encoding="utf-8") as file:
            cls.report = json.load(file)
        cls.rows = {row["key"]: row for row in cls.report["rows"]}

    def test_it_ends(self):
        self.assertIn(self.status, (0, 1), self.output[-3000:])

    def test_nothing_failed(self):
        self.assertEqual(self.report["failures"], [])

    def test_every_metric_was_measured(self):
        missing = {key for key, row in self.rows.items() if not row["values"]}
        self.assertLessEqual(missing, NOT_IN_QUICK | set(MAY_BE_MISSING))

    def test_figures_are_possible(self):
        for (key, column), (low, high) in RANGES.items():
            value = self.rows[key]["values"].get(column)
            self.assertIsNotNone(value, f"{key} {column}")
            self.assertTrue(low <= value <= high, f"{key} {column} is {value}")

    def test_nothing_is_above_the_limit(self):
        self.assertNotIn("spoiled", self.rows["IS-001"])

    def test_another_tenant_reads_nothing(self):
        self.assertEqual(self.rows["IS-005"]["values"]["25"], 1)

    def test_every_bound_has_a_verdict(self):
        for row in self.rows.values():
            if "bound" in row:
                self.assertIn(row["verdict"], ("holds", "undecided", "missed", "not measured"))

    def test_markdown_says_where_it_was_made(self):
        with open(os.path.join(OUT, "report.md"), encoding="utf-8") as file:
            text = file.read()
        self.assertIn("SIMULATED", text)
        for key in self.rows:
            self.assertIn(key, text)

    def test_plots(self):
        for name in ("noisy-neighbours", "fairness", "illegal-address", "sigkill"):
            with open(os.path.join(OUT, f"{name}.svg"), encoding="utf-8") as file:
                self.assertTrue(re.match(r"<svg .*", file.readline()), name)


class Formulas(unittest.TestCase):
    def test_the_document_has_the_table_that_is_printed(self):
        table = subprocess.run([REPORT, "--formulas"], capture_output=True, text=True, check=True)
        path = os.path.join(HERE, "..", "..", "docs", "benchmark-report.md")
        with open(path, encoding="utf-8") as file:
            self.assertIn(table.stdout.strip(), file.read(),
                          "put the output of `bench/virt_report.py --formulas` into it")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
