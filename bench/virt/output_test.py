#!/usr/bin/env python3
"""The report's own book-keeping: verdicts, what was skipped, what is on disk, times that end."""

import argparse
import json
import os
import sys
import tempfile
import time
import unittest

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "share")]

import catalogue  # noqa: E402
import output  # noqa: E402
from stage import TENANTS, Stage, Timeout, at_most  # noqa: E402

HEAD = {"where": "nowhere", "date": "2026-01-01", "seconds": 1}


class Book(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.report = output.Report(self.folder.name, HEAD)

    def verdict(self, key):
        return self.report.verdict(catalogue.BY_KEY[key])

    def test_the_worst_column_counts(self):
        self.report.put("IS-009/a", "25", 1.0)
        self.assertEqual(self.verdict("IS-009/a"), "holds")
        self.report.put("IS-009/a", "50", 7.0)
        self.assertEqual(self.verdict("IS-009/a"), "missed")

    def test_native_is_not_judged(self):
        self.report.put("IS-009/a", "native", 78.0)
        self.assertIsNone(self.verdict("IS-009/a"))

    def test_what_is_added_is_judged_by_its_interval(self):
        self.report.put_added("OH-004/a", -1.0, 0.5, 3.0)
        self.assertEqual(self.verdict("OH-004/a"), "undecided")
        self.report.put_added("OH-004/a", -1.0, 0.5, 1.9)
        self.assertEqual(self.verdict("OH-004/a"), "holds")

    def test_memory_above_the_limit_is_missed_however_near(self):
        self.report.put("IS-001", "25", 99.99)
        self.assertEqual(self.verdict("IS-001"), "holds")
        self.report.spoil("IS-001", "25", "0.1 MiB above the limit")
        self.assertEqual(self.verdict("IS-001"), "missed")

    def test_unknown_keys_are_errors(self):
        self.assertRaises(KeyError, self.report.put, "IS-099", "25", 1)

    def test_the_disk_has_all_of_it(self):
        self.report.put("IS-002", "25", 90.0)
        self.report.skip(["IS-002", "IS-004"], "needs root")
        self.report.fail("copies", "no driver")
        self.report.save()
        with open(os.path.join(self.folder.name, "report.json"), encoding="utf-8") as file:
            rows = {row["key"]: row for row in json.load(file)["rows"]}
        self.assertEqual(set(rows), set(catalogue.BY_KEY))
        self.assertEqual(rows["IS-002"]["values"], {"25": 90.0})
        self.assertEqual(rows["IS-002"]["verdict"], "holds")
        self.assertNotIn("skipped", rows["IS-002"])
        self.assertEqual(rows["IS-004"]["skipped"], "needs root")
        self.assertEqual(rows["IS-001"]["verdict"], "not measured")
        text = self.report.markdown()
        self.assertIn("| IS-002 | refusal | ns, less |  |  |  | 90 |  | <= 1000: holds |", text)
        self.assertIn("IS-004 (needs root)", text)
        self.assertIn("copies failed: no driver", text)

    def test_a_missed_bound_is_told_at_the_end(self):
        self.report.put("IS-002", "25", 90.0)
        self.assertTrue(self.report.summary()[1])
        self.report.put("IS-002", "50", 2000.0)
        text, good = self.report.summary()
        self.assertFalse(good)
        self.assertIn("1 missed (IS-002)", text)


class Catalogue(unittest.TestCase):
    def test_keys_are_unique(self):
        self.assertEqual(len(catalogue.METRICS), len(catalogue.BY_KEY))

    def test_rows_of_the_table_are_whole(self):
        for line in output.formulas():
            self.assertIn(line.count("|"), (0, 3, 4), line)

    def test_what_is_judged_has_a_bound(self):
        for metric in catalogue.METRICS:
            self.assertEqual(bool(metric.bound), bool(metric.judged), metric.key)
            self.assertLessEqual(set(metric.judged), {*catalogue.COLUMNS, "added"}, metric.key)

    def test_nothing_is_measured_and_left_out(self):
        measured = {metric.id for metric in catalogue.METRICS}
        self.assertFalse(measured & {name for name, _ in catalogue.LEFT_OUT})


class Times(unittest.TestCase):
    def test_tenants_do_not_share_slots_and_fit(self):
        for slots, limits in TENANTS.values():
            self.assertLessEqual(sum(limits), 100)
            own = [number for text in slots for number in text.split("/")[0].split(",")]
            self.assertEqual(len(own), len(set(own)))

    def test_fewer_turns_where_they_take_long(self):
        stage = Stage.__new__(Stage)
        stage.options = argparse.Namespace(quick=False)
        self.assertLess(len([time.sleep(0.02) for _ in stage.groups(50, 1, 0.1)]), 10)
        self.assertEqual(len(list(stage.groups(5, 1, 10))), 5)
        self.assertEqual(len(list(stage.groups(5, 1, -1, least=2))), 2)

    def test_a_measurement_ends_in_time(self):
        began = time.monotonic()
        with self.assertRaises(Timeout):
            with at_most(0.2):
                time.sleep(20)
        self.assertLess(time.monotonic() - began, 5)
        time.sleep(0.3)  # and the alarm is off


if __name__ == "__main__":
    unittest.main()
