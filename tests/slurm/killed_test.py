"""A lab that is killed leaves nothing behind. Runs outside of any lab."""

import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

import lab

UP = "import lab, time; lab.Lab().start(); print('up', flush=True); time.sleep(100)\n"


def namespace(pid):
    """The pid namespace of a process, or None if it is gone."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None


def members(wanted):
    """The processes of a pid namespace, dead ones that nobody has buried left out."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit() and namespace(entry.name) == wanted:
            try:
                state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue  # it ended while we looked
            if state not in "ZX":
                found.append(int(entry.name))
    return found


class Killed(unittest.TestCase):
    """What is left of a lab whose process is killed."""

    def test_nothing_is_left(self):
        with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
            script.write(UP)
            script.flush()
            with subprocess.Popen([sys.executable, str(lab.HERE / "lab.py"), script.name],
                                  stdout=subprocess.PIPE, text=True) as process:
                self.assertEqual(process.stdout.readline(), "up\n")
                children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
                inner = namespace(children.read_text().split()[0])
                self.assertNotEqual(inner, namespace(os.getpid()))
                self.assertGreater(len(members(inner)), 5)
                process.kill()
        end = time.monotonic() + 5
        while members(inner) and time.monotonic() < end:
            time.sleep(0.05)
        self.assertEqual(members(inner), [])
        self.assertFalse(os.path.exists("/run/lab"))
        self.assertNotIn("/run/lab", pathlib.Path("/proc/mounts").read_text())


if __name__ == "__main__":
    LACK = lab.missing()
    if LACK:
        print(f"skipped: no Slurm lab: {LACK}")
        sys.exit(lab.SKIPPED)
    unittest.main()
