#!/usr/bin/env python3
"""Honest load with churn, kills and numbers used again: no verdict. And the extra page, which an honest
job needs. HONEST_SECONDS in the environment: how long (8)."""

import os
import struct
import time

import node
from node import MIB, OTHER, RUN


class Honest(node.Node):
    site = "ON_VERDICT=kill\n"
    sim = "2x48G:l40s"

    def test_churn(self):
        self.job(9701, memory="12G")
        self.job(9702, memory="12G", uid=OTHER, sm=50)
        self.start_agent()
        seconds = int(os.environ.get("HONEST_SECONDS", "8"))
        runs = [self.start(9701, "churn", seconds, 1)[0], self.start(9701, "churn", seconds, 2)[0],
                self.start(9702, "churn", seconds, 3, uid=OTHER)[0]]
        for run in runs:
            self.assertEqual(run.wait(seconds + 60), 0)
        # The churn's processes end by themselves or are killed by their parents.
        self.assertEqual(self.value("softmig_actions_total", action="kill"), 0)
        self.assertEqual(self.value("softmig_verdicts_total"), 0, self.said())
        self.assertEqual(self.value("softmig_agent_driver_up"), 1)
        looks = self.value("softmig_agent_looks_total")
        self.assertGreater(looks, seconds / 2)
        print(f"({seconds} s, {looks:.0f} looks, no verdict, {node.resident_mib(self.agent.pid):.1f} MiB)")


class Extra(node.Node):
    def test_extra_page(self):
        self.job(9703, memory="12G")
        self.start_agent()
        _, pid = self.start(9703, "hold", 100)
        _, raw = self.start(9703, "hold", 900, library=False)
        page = RUN / "9703.region.extra"

        def beyond():
            if not page.exists():
                return 0
            data = page.read_bytes()
            _, _, count, _ = struct.unpack_from("<QIIQ", data)
            return sum(struct.unpack_from("<QQ", data, 24 + 16 * i)[1] for i in range(count))

        self.until(lambda: beyond() > 1300 * MIB, 8, "the raw process shows")
        first = page.stat().st_mtime_ns
        self.until(lambda: page.stat().st_mtime_ns > first, 4, "it is kept up to date")
        self.assertEqual(page.stat().st_uid, 0)
        self.assertAlmostEqual(self.value("softmig_job_memory_unaccounted_bytes", slurmjobid="9703"),
                               beyond(), delta=100 * MIB)
        node.os.kill(raw, 9)
        self.until(lambda: beyond() < 200 * MIB, 8, "and is gone")


if __name__ == "__main__":
    node.main()
