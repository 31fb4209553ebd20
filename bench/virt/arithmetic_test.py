#!/usr/bin/env python3
"""The formulas of the report against figures worked out by hand."""

import os
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import arithmetic as a  # noqa: E402


class Jain(unittest.TestCase):
    def test_equal_shares_are_one(self):
        self.assertAlmostEqual(a.jain([24.6] * 4), 1)

    def test_one_has_everything(self):
        self.assertAlmostEqual(a.jain([99, 0, 0, 0]), 0.25)

    def test_between(self):
        self.assertAlmostEqual(a.jain([10, 20, 30]), 3600 / (3 * 1400))

    def test_the_unit_does_not_matter(self):
        self.assertAlmostEqual(a.jain([1, 2]), a.jain([1000, 2000]))

    def test_nothing(self):
        self.assertEqual(a.jain([0, 0]), 0)


class Simple(unittest.TestCase):
    def test_variation(self):
        self.assertAlmostEqual(a.variation([8, 12]), 0.2)
        self.assertEqual(a.variation([5, 5, 5]), 0)
        self.assertEqual(a.variation([0, 0]), 0)

    def test_accuracy_counts_both_sides(self):
        self.assertAlmostEqual(a.accuracy(24, 25), 96)
        self.assertAlmostEqual(a.accuracy(26, 25), 96)
        self.assertAlmostEqual(a.accuracy(25, 25), 100)

    def test_a_limiter_that_does_nothing_is_not_accurate(self):
        self.assertAlmostEqual(a.accuracy(100, 25), -200)

    def test_loss(self):
        self.assertAlmostEqual(a.loss(25, 24), 4)
        self.assertAlmostEqual(a.loss(25, 26), -4)

    def test_percentile(self):
        self.assertEqual(a.percentile([3, 1, 2], 0.5), 2)
        self.assertEqual(a.percentile(range(101), 0.95), 95)
        self.assertEqual(a.percentile([7], 0.99), 7)

    def test_paired_difference(self):
        self.assertEqual(a.paired_difference([10, 20], [13, 21], [12, 20]), [2, 1])


class MedianInterval(unittest.TestCase):
    def test_twenty_values(self):
        # Of 20 values the 6th smallest to the 6th largest hold the median in 95.9 %.
        self.assertEqual(a.median_interval(list(range(1, 21))), (6, 10.5, 15))

    def test_few_values_give_all_of_them(self):
        self.assertEqual(a.median_interval([3, 1, 2]), (1, 2, 3))
        self.assertEqual(a.median_interval([5]), (5, 5, 5))

    def test_six_values_are_enough_for_all_of_them(self):
        self.assertEqual(a.median_interval([1, 2, 3, 4, 5, 6]), (1, 3.5, 6))

    def test_one_outlier_does_not_move_it(self):
        low, middle, high = a.median_interval([1] * 19 + [1000])
        self.assertEqual((low, middle, high), (1, 1, 1))


class Response(unittest.TestCase):
    def test_at_once(self):
        series = [50] * 10 + [25] * 10
        self.assertAlmostEqual(a.response(series, 0.1, 1.0, 25), 0.1)

    def test_after_half_a_second(self):
        series = [50] * 15 + [25] * 10
        self.assertAlmostEqual(a.response(series, 0.1, 1.0, 25), 0.6)

    def test_between_two_buckets(self):
        series = [50] * 11 + [25] * 10
        self.assertAlmostEqual(a.response(series, 0.1, 1.04, 25), 0.16)

    def test_never(self):
        self.assertIsNone(a.response([50] * 30, 0.1, 1.0, 25))

    def test_one_low_bucket_is_not_it(self):
        series = [50] * 11 + [25] + [50] * 10
        self.assertIsNone(a.response(series, 0.1, 1.0, 25))

    def test_upwards(self):
        series = [25] * 12 + [50] * 10
        self.assertAlmostEqual(a.response(series, 0.1, 1.0, 50), 0.3)


class Verdict(unittest.TestCase):
    def test_plain(self):
        self.assertEqual(a.verdict(4, 4, ("<=", 5)), "holds")
        self.assertEqual(a.verdict(6, 6, ("<=", 5)), "missed")
        self.assertEqual(a.verdict(0.995, 0.995, (">=", 0.99)), "holds")
        self.assertEqual(a.verdict(0.98, 0.98, (">=", 0.99)), "missed")

    def test_at_the_bound(self):
        self.assertEqual(a.verdict(5, 5, ("<=", 5)), "holds")
        self.assertEqual(a.verdict(0.1 + 0.2, 0.1 + 0.2, ("<=", 0.3)), "holds")

    def test_an_interval_over_the_bound(self):
        self.assertEqual(a.verdict(1, 3, ("<=", 2)), "undecided")
        self.assertEqual(a.verdict(1, 2, ("<=", 2)), "holds")
        self.assertEqual(a.verdict(2.1, 3, ("<=", 2)), "missed")

    def test_worst(self):
        self.assertEqual(a.worst(["holds", "missed", "holds"]), "missed")
        self.assertEqual(a.worst(["holds", "undecided"]), "undecided")
        self.assertEqual(a.worst(["holds"]), "holds")
        self.assertIsNone(a.worst([]))


if __name__ == "__main__":
    unittest.main()
