#!/usr/bin/env python3
"""Ways past the library: each is named by the agent within two seconds and killed where the site wants
that; nobody else is touched."""

import os
import re
import shutil
import subprocess
import time

import node
from node import OTHER, RUN, USER


class Watched:
    """A node that kills, with a neighbour; every test has a job of its own."""

    sim = "2x48G:l40s"
    site = "ON_VERDICT=kill\n"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # An honest neighbour, who must live through all of it.
        cls.job(9000, uid=OTHER)
        _, cls.neighbour = cls.start(9000, "hold", 2000, uid=OTHER)
        cls.start_agent()

    def setUp(self):
        self.number = 9001 + len(self.used)
        self.used.add(self.number)

    def tearDown(self):
        self.assertLives(self.neighbour)
        self.assertIsNone(self.agent.poll())
        self.end_job(self.number)


class Programs(Watched, node.Node):
    """Programs that go past the library."""

    def test_static_program(self):
        """A program that does not load the library at all."""
        self.job(self.number)
        _, pid = self.start(self.number, "hold", 100, library=False)
        self.named("no_library", self.number, pid=pid)
        self.assertGone(pid)

    def test_own_dlsym(self):
        """The driver's own functions beside the preload: linked before it, looked up past it."""
        self.job(self.number)
        _, pid = self.start(self.number, "hold", 100, library=False,
                            variables={"LD_PRELOAD": str(self.driver_library())})
        self.named("no_library", self.number, pid=pid)
        self.assertGone(pid)

    def test_other_root(self):
        """A root directory without the library, as in a container."""
        if node.REAL:
            self.skipTest("the root would need the driver's device files")
        self.job(self.number)
        root = self.folder / "root"
        for path in ("lib64", "lib/x86_64-linux-gnu", "usr/lib", "tmp"):
            (root / path).mkdir(parents=True, exist_ok=True)
        libraries = subprocess.run(["ldd", str(self.folder / "agent_probe")], text=True,
                                   stdout=subprocess.PIPE, check=True).stdout
        for path in re.findall(r"(/\S+)", libraries):
            (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / path[1:])
        for name in ("libdl.so.2", "libpthread.so.0"):
            found = [p for p in (f"/lib/x86_64-linux-gnu/{name}", f"/lib64/{name}") if os.path.exists(p)]
            if found:
                shutil.copy(found[0], root / found[0][1:])
        inside = root / str(self.folder)[1:]
        shutil.copytree(self.folder / "sim", inside / "sim", symlinks=True, dirs_exist_ok=True)
        (inside / "state").mkdir(exist_ok=True)
        shutil.copy(self.folder / "agent_probe", inside)
        state = self.folder / "state" / "node"
        os.link(state, inside / "state" / "node")
        os.chmod(inside / "state", 0o1777)
        shutil.copytree("/dev", root / "dev", dirs_exist_ok=True,
                        ignore=lambda _folder, names: [n for n in names if n != "null"])
        (root / "proc").mkdir(exist_ok=True)
        subprocess.run(["mount", "--bind", "/proc", str(root / "proc")], check=True)
        _, pid = self.start(self.number, "hold", 100, uid=0, library=False,
                                  prefix=["chroot", f"--userspec={USER}:{USER}", str(root)])
        self.named("no_library", self.number, pid=pid)
        self.assertGone(pid)
        subprocess.run(["umount", str(root / "proc")], check=True)

    def test_execve_after_the_library(self):
        """A process that was in the ledger and became another program."""
        self.job(self.number)
        _, pid = self.start(self.number, "exec", 100)
        self.named("no_library", self.number, pid=pid)
        self.assertGone(pid)

    def test_renamed(self):
        self.job(self.number)
        copy = self.folder / "state" / "systemd-journald"
        shutil.copy(self.folder / "agent_probe", copy)
        _, pid = self.start(self.number, "hold", 100, library=False, program=copy)
        self.named("no_library", self.number, pid=pid)
        self.assertGone(pid)

    def test_setsid_and_double_fork(self):
        self.job(self.number)
        _, pid = self.start(self.number, "detach", 100, library=False)
        self.named("no_library", self.number, pid=pid)
        self.assertGone(pid)


class Places(Watched, node.Node):
    """Processes that are not where they should be, ledgers that are not what they should be."""

    def test_cleared_environment(self):
        """Without SLURM_JOB_ID the cgroup still names the job; without cgroups it is a stranger."""
        self.job(self.number)
        _, pid = self.start(self.number, "hold", 100, library=False, variables={"SLURM_JOB_ID": "1"})
        if self.cgroups:
            self.named("no_library", self.number, pid=pid)
        else:
            self.named("stranger", None, pid=pid)
        self.assertGone(pid)

    def test_forged_job(self):
        """Another user's job in the environment."""
        self.job(self.number)
        _, pid = self.start(None, "hold", 100, uid=OTHER, library=False,
                            variables={"SLURM_JOB_ID": str(self.number)})
        self.named("stranger", None, pid=pid)
        self.assertGone(pid)

    def test_no_job(self):
        """A login by ssh, a cron job."""
        self.job(self.number)
        _, pid = self.start(None, "hold", 100, library=False)
        self.named("stranger", None, pid=pid)
        self.assertGone(pid)

    def test_gpu_of_others(self):
        """A job's program on a GPU that it was not given."""
        if len(self.uuids()) < 2:
            self.skipTest("needs two GPUs")
        first, second = self.uuids()
        self.job(self.number, gpus=[first])
        self.job(self.number + 500, gpus=[second])
        _, pid = self.start(self.number, "hold", 100, library=False, variables={"PROBE_DEVICE": "1"})
        self.named("stranger", self.number, pid=pid)
        self.assertGone(pid)
        self.end_job(self.number + 500)

    def test_emptied_ledger(self):
        """The job's user sets what is used to nothing, and the library grants anew."""
        self.job(self.number)
        self.start(self.number, "empty", RUN / f"{self.number}.region", library=False, wait=False)
        _, pid = self.start(self.number, "hold", 8000)
        self.named("ledger", self.number)
        self.assertGone(pid)

    def test_spoilt_ledger(self):
        self.job(self.number)
        _, pid = self.start(self.number, "hold", 100)
        with open(RUN / f"{self.number}.region", "r+b") as region:
            region.write(b"\0" * 64)
        self.named("ledger", self.number)
        self.assertGone(pid)

    def test_cut_ledger(self):
        self.job(self.number)
        _, pid = self.start(self.number, "hold", 100, library=False)
        os.truncate(RUN / f"{self.number}.region", 100)
        self.named("ledger", self.number)
        self.assertGone(pid)

    def test_over_the_limit(self):
        """Memory beyond the limit, whoever took it."""
        self.job(self.number, memory="4G", region=False)
        _, pid = self.start(self.number, "hold", 6000, library=False)
        self.named("over_memory", self.number, pid=pid)
        self.assertGone(pid)

    def test_fork_bomb(self):
        """Thirty processes at once: none of them is left."""
        self.job(self.number, memory="40G")
        self.start(self.number, "bomb", 30, 16, library=False)
        self.named("no_library", self.number)
        self.until(lambda: self.value("softmig_job_processes", slurmjobid=str(self.number)) == 0, 12,
                   "all are gone")

    def test_own_namespaces(self):
        """Root in a user namespace of its own, with other mounts and another view of cgroups."""
        self.job(self.number)
        words = ["unshare", "--map-root-user", "--mount", "--cgroup"]
        enter = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
        if subprocess.run([*enter, *words, "true"], check=False).returncode != 0:
            self.skipTest("users may make no namespaces here")
        _, pid = self.start(self.number, "hold", 100, library=False, prefix=words)
        self.named("no_library", self.number, pid=pid)
        self.assertGone(pid)

    def test_nobody_of_roots_is_killed(self):
        """A process of root in a job is named, and left alone."""
        self.job(self.number)
        _, pid = self.start(self.number, "hold", 100, uid=0, library=False)
        if not self.cgroups:
            return
        self.named("no_library", self.number, pid=pid)
        self.until(lambda: "root's, left alone" in self.said(), 4, "the reason")
        self.assertLives(pid)
        os.kill(pid, 9)


class Reports(node.Node):
    """What a fresh installation does: it says so."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.start_agent()

    def test_nobody_is_killed_by_default(self):
        self.configure("")
        self.job(9101)
        kills = self.value("softmig_actions_total", action="kill")
        begun = self.value("softmig_verdicts_total", verdict="no_library")
        _, pid = self.start(9101, "hold", 100, library=False)
        took = self.named("no_library", 9101, pid=pid)
        time.sleep(1)
        self.assertLives(pid)
        self.assertEqual(self.value("softmig_actions_total", action="kill"), kills)
        self.assertEqual(self.value("softmig_verdicts_total", verdict="no_library"), begun + 1)
        self.assertEqual(self.value("softmig_job_verdict", slurmjobid="9101"), 1)
        print(f"(named after {took:.2f} s)")
        # The first day is over.
        self.configure("ON_VERDICT[no_library]=kill")
        self.assertGone(pid)
        log = (node.LOGS / "9101.log").read_text()
        self.assertIn("softmigd: process", log)
        self.assertIn("no_library", log)
        self.assertEqual((node.LOGS / "9101.log").stat().st_uid, USER)

    def test_cancel(self):
        self.configure("ON_VERDICT[stranger]=cancel\nON_VERDICT[no_library]=report")
        first = self.uuids()
        self.job(9102, gpus=first)
        self.job(9103, gpus=["GPU-00000000-0000-0000-0000-000000000001"])
        _, pid = self.start(9103, "hold", 100, library=False)
        self.named("stranger", 9103)
        self.assertGone(pid)
        self.until(lambda: "scancel 9103" in self.calls.read_text(), 5, "scancel")
        self.until(lambda: "scontrol update JobId=9103 Comment=SoftMig: stranger" in self.calls.read_text(),
                   5, "the comment")

    def test_orphan(self):
        """The job has ended, its process has not."""
        self.configure("ON_VERDICT[orphan]=kill\nON_VERDICT[no_library]=report")
        self.job(9104)
        _, pid = self.start(9104, "hold", 100)
        self.until(lambda: self.value("softmig_job_processes", slurmjobid="9104") == 1, 5, "it is seen")
        self.end_job(9104)
        if self.cgroups:
            self.named("orphan", 9104, seconds=12, pid=pid)
            self.assertGone(pid)

    def test_oom_killer(self):
        """ACTIVE_OOM_KILLER: a refused allocation ends the job's GPU processes, and no others."""
        self.job(9105, memory="4G", extra="ACTIVE_OOM_KILLER=1\n")
        self.job(9106, memory="4G")
        _, quiet = self.start(9106, "hold", 100)
        _, first = self.start(9105, "hold", 100)
        self.until(lambda: self.value("softmig_job_processes", slurmjobid="9105") == 1, 5, "it is seen")
        time.sleep(1.2)
        second, _ = self.start(9105, "want", 5000)
        self.assertGone(first)
        self.assertGone(second.pid)
        self.assertLives(quiet)
        self.assertIn("ACTIVE_OOM_KILLER", self.said())

    def test_compute(self):
        """Raw kernels above the job's share are named within thirty seconds."""
        self.configure("ON_VERDICT=report")
        self.job(9107, sm=25, region=False)
        begin = time.monotonic()
        _, pid = self.start(9107, "busy", 2000, 0, library=False)
        self.named("over_compute", 9107, seconds=30)
        print(f"(named after {time.monotonic() - begin:.1f} s)")
        os.kill(pid, 9)


if __name__ == "__main__":
    node.main()
