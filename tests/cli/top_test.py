#!/usr/bin/env python3
"""softmig top and the demo's chart at a terminal: what stands on the screen, keys, sizes.

SOFTMIG is the binary under test, SOFTMIG_SOURCE the source folder.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(os.environ["SOFTMIG_SOURCE"]) / "tools"))
from terminal import Session  # noqa: E402

SOFTMIG = os.environ["SOFTMIG"]
PATIENCE = 20


class Top(unittest.TestCase):
    """A simulated machine with a slice of 8 GiB and 25 % in which a program works."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        libraries = pathlib.Path(SOFTMIG).parent / "sim" / "13.0"
        cls.environment = {
            "LD_LIBRARY_PATH": str(libraries), "SOFTMIG_SIM": "2x48G:l40s",
            "SOFTMIG_SIM_STATE": cls.folder.name + "/sim", "SLURM_TMPDIR": cls.folder.name,
            "LC_ALL": "C.UTF-8",
        }
        everything = {**os.environ, **cls.environment}
        status = subprocess.run([SOFTMIG, "status", "--json"], env=everything, check=True,
                                capture_output=True)
        uuid = json.loads(status.stdout)["gpus"][0]["uuid"]
        cls.worker = subprocess.Popen(
            [SOFTMIG, "run", "--memory", "8G", "--sm", "25", "--slots", "1/4", "--", SOFTMIG,
             "share-worker"], env=everything, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        cls.worker.stdin.write(f"open {uuid}\nrun 200000 200000 0 120\n".encode())
        cls.worker.stdin.flush()
        cls.worker.stdout.readline()

    @classmethod
    def tearDownClass(cls):
        cls.worker.terminate()
        cls.worker.communicate()
        cls.folder.cleanup()

    def top(self, width, height, *options, **environment):
        session = Session([SOFTMIG, "top", *options], width, height,
                          {**self.environment, **environment})
        self.addCleanup(session.close)
        return session

    def expect(self, session, pattern, seconds=PATIENCE):
        self.assertTrue(session.watch(seconds, pattern), session.screen.text())
        self.assertRegex(session.screen.text(), pattern)

    def test_80x24(self):
        session = self.top(80, 24)
        self.expect(session, r"GPU 0  NVIDIA L40S")
        self.expect(session, r"GPU 1  NVIDIA L40S")
        self.expect(session, r"SLICE +USER +GPU +MEMORY OF LIMIT +TIME OF LIMIT +PROC\n")
        self.expect(session, r"run\.\w{6} +\w+ +0 +\[\|+ +0\.[56]/8\.0 GiB\] \[\|+ *2\d/25 %\] +1\n")
        self.expect(session, r"memory \[.* 0\.[56]/48\.0 GiB\]  busy \[\|+ *[1-9]\d? %\]")
        session.type("q")
        self.assertEqual(session.status(), 0)

    def test_wide_has_more_columns(self):
        session = self.top(160, 24)
        self.expect(session, r"PROC +PEAK +WAITED +LAUNCHES +REFUSED +SLOTS")
        self.expect(session, r" 1 +0\.[56] GiB +\d+ % +[1-9]\d+/s +0 +1/4")
        session.type("Q")
        self.assertEqual(session.status(), 0)

    def test_a_new_size_is_used_at_once(self):
        session = self.top(80, 24, "--interval", "60")
        self.expect(session, r"run\.\w+")
        self.assertNotIn("WAITED", session.screen.text())
        session.resize(160, 30)
        self.expect(session, "WAITED", 5)
        session.resize(60, 6)
        self.expect(session, r"GPU 1", 5)
        self.assertLessEqual(max(map(len, session.screen.text().split("\n"))), 60)
        session.resize(20, 2)
        session.watch(0.5)
        session.resize(80, 24)
        self.expect(session, r"run\.\w+", 5)
        session.type("\x1b")
        self.assertEqual(session.status(), 0)

    def test_arrows_move_through_the_slices(self):
        more = [subprocess.Popen([SOFTMIG, "run", "--memory", f"{size}G", "--", "sleep", "60"],
                                 env={**os.environ, **self.environment}) for size in (1, 2, 3)]
        try:
            session = self.top(80, 9, "--interval", "0.5")
            self.expect(session, r"4 slices")
            self.expect(session, r"\.\.\. 3 more below")
            first = session.screen.text().split("\n")[7][:10]
            session.type("\x1bOB")
            self.expect(session, r"\.\.\. 2 more below", 5)
            self.assertNotIn(first, session.screen.text())
            session.type("\x1bOB")
            self.expect(session, r"run\.\w+.*\nrun\.\w+", 5)
            session.type("\x1b[5~")
            self.expect(session, r"\.\.\. 3 more below", 5)
            session.type("q")
            self.assertEqual(session.status(), 0)
        finally:
            for process in more:
                process.terminate()
                process.wait()

    def test_count_ends_it(self):
        session = self.top(80, 24, "--count", "2", "--interval", "0.2")
        self.assertEqual(session.status(), 0)

    def test_interrupt_ends_it_and_the_terminal_is_as_before(self):
        session = self.top(80, 24)
        self.expect(session, r"run\.\w+")
        session.type("\x03")
        self.assertIsNotNone(session.status())

    def test_without_colours(self):
        session = self.top(80, 24, NO_COLOR="1")
        self.expect(session, r"run\.\w+")
        colours = {style[0] for row in session.screen.cells for _, style in row}
        self.assertEqual(colours, {None})
        coloured = self.top(80, 24)
        self.expect(coloured, r"\[\|+ *2\d/25 %\]")
        colours = {style[0] for row in coloured.screen.cells for _, style in row}
        self.assertIn(2, colours)

    def test_a_terminal_that_nobody_knows(self):
        session = self.top(80, 24, TERM="no-such-terminal")
        self.expect(session, r"this terminal \(TERM=no-such-terminal\) is not known here")
        self.assertEqual(session.status(), 1)

    def test_status_fits(self):
        session = Session([SOFTMIG, "status"], 100, 24, self.environment)
        self.addCleanup(session.close)
        self.expect(session, r"run\.\w{6} +\w+ +0 +8192 MiB")
        self.assertEqual(session.status(), 0)


class Demo(unittest.TestCase):
    def test_the_chart_is_drawn_in_place(self):
        with tempfile.TemporaryDirectory() as folder:
            plot = folder + "/plot.svg"
            session = Session([SOFTMIG, "demo", "--simulated", "--plot", plot], 100, 80,
                              {"SLURM_TMPDIR": folder, "LC_ALL": "C.UTF-8"})
            self.addCleanup(session.close)
            self.assertTrue(session.watch(60, r"checks (hold|do not hold)"), session.screen.text())
            text = session.screen.text()
            chart = re.findall(r"^   ([A-D]) +(\d+\.\d) %  \[(\|+) +\]  (\S+)$", text, re.M)
            # Four lines natively and four in slices: each was drawn over, not below.
            self.assertEqual([row[0] for row in chart], list("ABCDABCD"), text)
            self.assertEqual(len(chart[0][3]), 12)
            self.assertEqual(len(chart[4][3]), 32)
            self.assertIn(session.status(), (0, 1))


if __name__ == "__main__":
    unittest.main(argv=sys.argv, verbosity=2)
