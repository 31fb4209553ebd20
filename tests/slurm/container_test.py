"""A job with a /tmp of its own (job_container/tmpfs): its programs are in another mount namespace than
slurmd, and find their limits all the same. One job at a time: Slurm 22.05 fails to make such mounts where
several jobs begin at once, and rarely of one."""

import os
import pathlib
import unittest

import gpu_site
import lab
from gpu_site import PROBE

QUARTER = gpu_site.slice_of("l40s", 1)
BASE = pathlib.Path("/run/lab/containers")


def setUpModule():
    """One site for all."""
    os.makedirs("/etc/slurm", exist_ok=True)
    pathlib.Path("/etc/slurm/job_container.conf").write_text(
        f"AutoBasePath=true\nBasePath={BASE}\n", encoding="ascii")
    gpu_site.Case.lab = gpu_site.start("JobContainerType=job_container/tmpfs\n")


class Container(gpu_site.Case):
    """One job, with a step."""

    def contained(self):
        """A job whose /tmp Slurm could make."""
        for _ in range(3):
            job = self.probing("-w", "n1", "--gres=gpu:l40s.4:1", take=1024, before="touch /tmp/mark;")
            lab.wait_for("it says something", lambda: self.said(job).count("\n") > 0)
            if not self.said(job).startswith("slurmstepd"):
                return job
            print(self.said(job))
            self.lab.cancel_all()
        raise lab.LabError(self.lab.log("slurmd.n1"))

    def test_a_tmp_of_its_own(self):
        job = self.contained()
        self.assertEqual(self.seen(job)["total"], QUARTER)
        self.assertTrue(list(BASE.rglob("mark")), "the plugin is on")
        self.assertFalse(os.path.exists("/tmp/mark"))
        step = self.step(job, PROBE, "--take", "all")
        self.assertEqual(step["total"], QUARTER)
        self.assertLess(step["taken"], QUARTER - 1024, "both programs share the slice")
        self.go.touch()
        self.assertEqual(self.seen(job, 1)["total"], QUARTER)


if __name__ == "__main__":
    unittest.main()
