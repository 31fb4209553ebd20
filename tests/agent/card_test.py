#!/usr/bin/env python3
"""The agent on a real card: the bypasses that can be tried there, what is left between ledger and driver,
and what the agent costs a running PyTorch program. By hand, as root, on a node without Slurm jobs:

  SOFTMIG_REAL=1 SOFTMIG_BUILD=build SOFTMIG_SOURCE=. tests/agent/card_test.py [--only CLASS] [--seconds N]

N: how long the cost is measured.
"""

import argparse
import json
import os
import statistics
import sys
import threading
import time
import unittest

import bypass_test
import node
from node import MIB, OTHER

STEPS = r"""
import sys, time, torch
a = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)
torch.cuda.synchronize()
print("ok", __import__("os").getpid(), flush=True)
while True:
    for _ in range(20):
        a @ a
    torch.cuda.synchronize()
    sys.stdout.write(f"{time.monotonic():.6f}\n")
    sys.stdout.flush()
"""


class Residue(node.Node):
    """What the driver holds for honest jobs and the ledger does not."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.start_agent()

    def show(self, what, number):
        found = {}
        for (name, labels), value in self.metrics().items():
            if ("slurmjobid", str(number)) in labels and name.endswith("_bytes"):
                found[name] = round(value / MIB, 2)
        print(json.dumps({"what": what, **found}), flush=True)

    def test_residue(self):
        for count, (name, words, script) in enumerate((
                ("context", ["hold", 0], None),
                ("2000 MiB", ["hold", 2000], None),
                ("PyTorch", ["-c", STEPS], sys.executable))):
            number = 9300 + count
            self.job(number, memory="20G", uid=OTHER)
            process, pid = self.start(number, *words, uid=OTHER, program=script)
            time.sleep(3)
            self.show(name, number)
            process.kill()
            self.assertGone(pid)
            self.end_job(number)
        self.assertNotIn("no_library", self.said())
        self.assertNotIn("over_memory", self.said())


class Cost(node.Node):
    """The same program with the agent at work and stopped, a few seconds each in turn."""

    seconds = 40
    turn = 2

    def test_cost(self):
        self.job(9400, memory="20G", uid=OTHER)
        self.start_agent()
        process, _ = self.start(9400, "-c", STEPS, uid=OTHER, program=sys.executable)
        lines = []
        reader = threading.Thread(target=lambda: lines.extend(process.stdout))
        reader.start()
        time.sleep(3)
        turns = []
        for number in range(int(self.seconds / self.turn)):
            at_work = number % 2 == 0
            os.kill(self.agent.pid, 18 if at_work else 19)  # SIGCONT, SIGSTOP
            turns.append((at_work, time.monotonic(), time.monotonic() + self.turn))
            time.sleep(self.turn)
        os.kill(self.agent.pid, 18)
        process.kill()
        reader.join()
        ends = [float(line) for line in lines[:-1]]
        rates = {True: [], False: []}
        for at_work, begin, end in turns:
            inside = [t for t in ends if begin + 0.1 < t < end]
            rates[at_work].append((len(inside) - 1) / (inside[-1] - inside[0]))
        with_agent, without = (statistics.median(rates[key]) for key in (True, False))
        # Two halves of the turns without it: what is noise.
        control = statistics.median(rates[False][::2]) / statistics.median(rates[False][1::2]) - 1
        print(json.dumps({"what": "cost", "turns": len(turns), "percent": 100 * (1 - with_agent / without),
                          "control": 100 * control}), flush=True)
        self.assertLess(abs(1 - with_agent / without), 0.002 + 2 * abs(control))


def main():
    if not node.REAL:
        sys.exit("this needs a card: SOFTMIG_REAL=1")
    if not node.own_namespace():
        print("no mount namespace: /run/softmig and /var/log/softmig of this machine are used")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="CLASS")
    parser.add_argument("--seconds", type=float, default=Cost.seconds)
    options = parser.parse_args()
    Cost.seconds = options.seconds
    suite = unittest.TestSuite()
    for case in (Residue, bypass_test.Programs, bypass_test.Places, bypass_test.Reports, Cost):
        if options.only in ("", case.__name__):
            suite.addTests(unittest.defaultTestLoader.loadTestsFromTestCase(case))
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    print(f"{result.testsRun - len(result.failures) - len(result.errors) - len(result.skipped)} passed, "
          f"{len(result.failures) + len(result.errors)} failed, {len(result.skipped)} skipped")
    sys.exit(not result.wasSuccessful())


if __name__ == "__main__":
    main()
