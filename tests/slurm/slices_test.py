"""From sbatch to the files that limit a job: prolog and epilog on simulated GPUs.

SOFTMIG is the command line under test, SOFTMIG_SIM_NVML the folder of a simulated NVML.
"""

import os
import pathlib
import random
import re
import shutil
import subprocess
import time
import unittest

import lab

NODES = {"n1": ["l40s"], "n2": ["l40s", "a100"]}
CARDS = {"n1": "1x48G:l40s", "n2": "1x48G:l40s+1x80G:a100"}
SOFTMIG = pathlib.Path(os.environ["SOFTMIG"])
NVML = os.environ["SOFTMIG_SIM_NVML"]

PROLOG = """\
#!/bin/bash
export PATH=/run/lab/bin:/usr/bin SOFTMIG_SIM_STATE=/run/lab/sim.$SLURMD_NODENAME
export LD_LIBRARY_PATH={nvml} SOFTMIG_SIM=$(cat /run/lab/cards.$SLURMD_NODENAME)
[ ! -e /run/lab/no_nvml ] || LD_LIBRARY_PATH=/nowhere
exec /etc/slurm/prolog_softmig.sh 2>>/run/lab/prolog.err
"""
EPILOG = """\
#!/bin/bash
export PATH=/run/lab/bin:/usr/bin
exec /etc/slurm/epilog_softmig.sh
"""
SCRIPT = f": >{lab.HOME}/on.$SLURM_JOB_ID.${{SLURM_RESTART_COUNT:-0}}; sleep 300"
# What stays, and what who was killed left of them, for a minute.
KEPT = ("asking", "board", "cgroup_ns", "gpus", "gres", "lock", "requests")


def setUpModule():
    """One Slurm for all."""
    Case.lab = lab.Lab(NODES, "Prolog=/run/lab/prolog.sh\nEpilog=/run/lab/epilog.sh\n")
    for name, text in (("prolog", PROLOG.format(nvml=NVML)), ("epilog", EPILOG)):
        path = pathlib.Path(f"/run/lab/{name}.sh")
        path.write_text(text, encoding="ascii")
        path.chmod(0o755)
        os.makedirs("/etc/slurm", exist_ok=True)
        shutil.copy(lab.SOURCE / "slurm" / f"{name}_softmig.sh", "/etc/slurm")
    for node, cards in CARDS.items():
        pathlib.Path(f"/run/lab/cards.{node}").write_text(cards, encoding="ascii")
    pathlib.Path("/run/lab/bin").mkdir()
    os.symlink(SOFTMIG, "/run/lab/bin/softmig")
    Case.lab.start()


class Case(unittest.TestCase):
    """Jobs that hold still while their files are looked at."""
    lab = None

    def setUp(self):
        self.folders = {node: self.lab.run_folder(node) for node in NODES}

    def tearDown(self):
        self.lab.softmig_conf.unlink(missing_ok=True)
        self.lab.cancel_all()
        self.forget_the_buried()
        for node, folder in self.folders.items():
            lab.wait_for(f"nothing left of jobs on {node}", lambda folder=folder: all(
                entry.name.startswith(KEPT) for entry in folder.iterdir()))
            self.assertEqual(list(folder.glob("board/*")), [])
        self.assert_no_node_was_drained()

    def forget_the_buried(self):
        """Configs of requeued jobs stay for ten minutes: not in front of the next test."""
        for folder in self.folders.values():
            for path in folder.glob("*.conf"):
                if "was requeued" in path.read_text(encoding="ascii"):
                    path.unlink()

    def assert_no_node_was_drained(self):
        """No node is lost to the jobs that come next."""
        states = self.lab.output("sinfo", "-h", "-N", "-o", "%t").split()
        self.assertEqual(len(states), len(NODES))
        for state in states:
            self.assertFalse(state.startswith(("drain", "drng", "down", "fail", "unk")), states)

    def submit(self, *options, user="ada"):
        """A job that sleeps; its id."""
        result = self.lab.as_user(user, "sbatch", "--parsable", "-o", "/dev/null", *options,
                                  "--wrap", SCRIPT)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout.strip()

    def started(self, job):
        """Waits until a job runs its script."""
        lab.wait_for(f"job {job} runs", (lab.HOME / f"on.{job}.0").exists)

    def running(self, *options, user="ada"):
        """As submit, and its prolog is over."""
        job = self.submit(*options, user=user)
        self.started(job)
        return job

    def config(self, job, node="n1"):
        """The config of a job as {key: value}; None if there is none."""
        return lab.read_config(self.folders[node] / f"{job}.conf")


class Slices(Case):
    """What the prolog writes for a job."""

    def test_a_quarter(self):
        job = self.running("-w", "n1", "--gres=gpu:l40s.4:1")
        config = self.config(job)
        self.assertRegex(config.pop("SOFTMIG_GPUS"), "^GPU-[0-9a-f-]{36}$")
        self.assertEqual(config, {
            "SOFTMIG_UID": str(lab.FIRST_UID), "CUDA_DEVICE_MEMORY_LIMIT": "12288M",
            "CUDA_DEVICE_SM_LIMIT": "25", "SOFTMIG_SLOTS": "0/4",
            "SOFTMIG_BOARD": "/var/run/softmig/board"})

    def test_files_are_roots_and_the_region_is_the_users(self):
        job = self.running("-w", "n1", "--gres=gpu:l40s.4:1", user="bob")
        status = (self.folders["n1"] / f"{job}.conf").lstat()
        self.assertEqual((status.st_uid, status.st_mode, status.st_nlink), (0, 0o100644, 1))
        status = (self.folders["n1"] / f"{job}.region").lstat()
        self.assertEqual((status.st_uid, status.st_gid, status.st_mode),
                         (lab.FIRST_UID + 1, lab.FIRST_UID + 1, 0o100600))
        (claim,) = self.folders["n1"].glob("board/*")
        status = claim.lstat()
        self.assertEqual((status.st_uid, status.st_mode), (lab.FIRST_UID + 1, 0o100644))
        self.assertTrue(claim.name.endswith(".0"))
        for folder in (self.folders["n1"], claim.parent):
            self.assertEqual((folder.stat().st_uid, folder.stat().st_mode & 0o777), (0, 0o755))
        self.assertEqual((self.folders["n1"] / "cgroup_ns").read_text().strip(),
                         str(os.stat("/proc/self/ns/cgroup").st_ino))

    def test_four_users_share_no_slot(self):
        jobs = [self.submit("-w", "n1", "--gres=gpu:l40s.4:1", user=user) for user in lab.USERS]
        for job in jobs:
            self.started(job)
        self.assertEqual({self.config(job)["SOFTMIG_SLOTS"] for job in jobs},
                         {"0/4", "1/4", "2/4", "3/4"})
        self.assertEqual([self.config(job)["SOFTMIG_UID"] for job in jobs],
                         [str(lab.FIRST_UID + i) for i in range(4)])

    def test_the_memory_is_that_of_the_very_gpu(self):
        # Slurm's order of n2's GPUs is l40s, a100 or the other way round; the names decide.
        half = self.running("-w", "n2", "--gres=gpu:a100.2:1")
        quarter = self.running("-w", "n2", "--gres=gpu:l40s.4:1")
        self.assertEqual(self.config(half, "n2")["CUDA_DEVICE_MEMORY_LIMIT"], "40960M")
        self.assertEqual(self.config(half, "n2")["SOFTMIG_SLOTS"], "0,1/4")
        self.assertEqual(self.config(quarter, "n2")["CUDA_DEVICE_MEMORY_LIMIT"], "12288M")
        self.assertNotEqual(self.config(half, "n2")["SOFTMIG_GPUS"],
                            self.config(quarter, "n2")["SOFTMIG_GPUS"])

    def test_shards_of_two_types(self):
        job = self.running("--gres=shard:l40s:1,shard:a100:3")
        config = self.config(job, "n2")
        gpus = config["SOFTMIG_GPUS"].split(",")
        self.assertEqual(len(set(gpus)), 2)
        self.assertEqual(config["CUDA_DEVICE_MEMORY_LIMIT"], "12288M")
        self.assertEqual({config["CUDA_DEVICE_MEMORY_LIMIT_0"], config["CUDA_DEVICE_MEMORY_LIMIT_1"]},
                         {"12288M", "61440M"})

    def test_a_job_on_two_nodes_has_a_slice_on_each(self):
        job = self.running("-N2", "--gres=gpu:l40s.2:1")
        for node in NODES:
            self.assertEqual(self.config(job, node)["CUDA_DEVICE_MEMORY_LIMIT"], "24576M")
            self.assertEqual(self.config(job, node)["CUDA_DEVICE_SM_LIMIT"], "50")

    def test_whole_gpus_and_no_gpus_are_not_limited(self):
        whole, none = self.running("-w", "n1", "--gres=gpu:l40s:1"), self.running("-w", "n1")
        self.assertIsNone(self.config(whole))
        self.assertIsNone(self.config(none))

    def test_all_shards_are_all_of_the_gpu(self):
        job = self.running("-w", "n1", "--gres=shard:l40s:4")
        self.assertEqual(self.config(job)["CUDA_DEVICE_MEMORY_LIMIT"], "49152M")
        self.assertEqual(self.config(job)["CUDA_DEVICE_SM_LIMIT"], "100")

    def test_every_task_of_an_array_has_its_own(self):
        self.submit("-w", "n1", "--array=1-4", "--gres=gpu:l40s.4:1")
        lab.wait_for("four configs", lambda: len(list(self.folders["n1"].glob("*.conf"))) == 4 and all(
            "SOFTMIG_SLOTS" in path.read_text() for path in self.folders["n1"].glob("*.conf")))
        self.assertEqual(len({path.read_text() for path in self.folders["n1"].glob("*.conf")}), 4)

    def test_a_job_that_is_requeued_gets_its_slice_anew(self):
        job = self.running("-w", "n1", "--gres=gpu:l40s.4:1")
        before = (self.folders["n1"] / f"{job}.region").stat().st_ino
        lab.run("scontrol", "requeue", job)
        lab.wait_for("requeued", lambda: self.lab.job(job).get("JobState") == "PENDING")
        # Slurm takes the end of its first script for that of the second, if it starts before that.
        lab.wait_for("its script is over",
                     lambda: f"[{job}.batch] done with job" in self.lab.log("slurmd.n1"))
        time.sleep(1.1)  # slurmd launches no job again in the second in which it ended
        lab.run("scontrol", "update", f"JobId={job}", "Gres=shard:l40s:2")
        # Slurm lets a requeued job wait for two minutes, beginning when its epilog is over.
        # Each change puts the job back in the queue, so not too often.
        again = lab.HOME / f"on.{job}.1"
        for _ in range(30):
            lab.run("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
            try:
                lab.wait_for(f"job {job} runs again", again.exists, seconds=3)
                break
            except lab.LabError:
                continue
        self.assertTrue(again.exists(), self.lab.output("scontrol", "show", "job", job) +
                        self.lab.log("slurmd.n1") + self.lab.log("slurmctld"))
        # slurmd 22.05 runs no prolog for a job that comes back within two seconds: what the epilog
        # left must hold then, since otherwise anybody could get rid of his limits that way.
        limit = self.config(job)["CUDA_DEVICE_MEMORY_LIMIT"]
        self.assertIn(limit, ("24576M", "1M"))
        if limit == "24576M":
            self.assertNotEqual((self.folders["n1"] / f"{job}.region").stat().st_ino, before)
        self.lab.cancel_all()
        # What is left of it goes when its time is over.
        left = self.folders["n1"] / f"{job}.conf"
        self.assertEqual([path.name for path in self.folders["n1"].glob(f"{job}.*")], [left.name])
        os.utime(left, (0, 0))
        self.running("-w", "n1", "--gres=gpu:l40s.4:1")
        self.assertFalse(left.exists())

    def test_softmig_conf_decides(self):
        self.lab.softmig_conf.write_text(
            "NUM_SHARDS_PER_GPU=4\nMEMORY_RESERVE[l40s]=1G\nLIMIT_COMPUTE=0\nSOFTMIG_LOG_LEVEL=2\n",
            encoding="ascii")
        config = self.config(self.running("-w", "n1", "--gres=gpu:l40s.4:1"))
        self.assertEqual(config["CUDA_DEVICE_MEMORY_LIMIT"], "12032M")
        self.assertNotIn("CUDA_DEVICE_SM_LIMIT", config)
        self.assertEqual(config["SOFTMIG_LOG_LEVEL"], "2")


class Failures(Case):
    """A job with a slice fails with a message, or is right; nodes are kept."""

    def cancelled(self, *options):
        """Submits, waits until the job is cancelled, and gives back what its user reads."""
        job = self.submit(*options)
        lab.wait_for("cancelled", lambda: self.lab.job(job).get("JobState") == "CANCELLED")
        text = self.lab.output("scontrol", "-o", "show", "job", job)
        self.assert_no_node_was_drained()
        return re.search("Comment=(.*?) (?:StdErr|Command|WorkDir)=|Comment=(.*)", text).group(0)

    def test_a_broken_softmig_conf(self):
        self.lab.softmig_conf.write_text("ON_FAILURE=perhaps\n", encoding="ascii")
        self.assertIn('/etc/softmig/softmig.conf:1: ON_FAILURE: "perhaps" is not',
                      self.cancelled("-w", "n1", "--gres=gpu:l40s.4:1"))

    def test_no_nvml(self):
        mark = pathlib.Path("/run/lab/no_nvml")
        mark.touch()
        (self.folders["n1"] / "gpus").unlink(missing_ok=True)  # what it said lately
        try:
            self.assertIn("SoftMig: NVML", self.cancelled("-w", "n1", "--gres=gpu:l40s.4:1"))
        finally:
            mark.unlink()

    def environment(self, job, node="n1"):
        return {"PATH": "/run/lab/bin:" + lab.PATH, "SLURM_JOB_ID": job, "SLURM_JOB_GPUS": "0",
                "SLURM_JOB_UID": str(lab.FIRST_UID), "SLURM_JOB_GID": str(lab.FIRST_UID),
                "SLURMD_NODENAME": node, "LD_LIBRARY_PATH": NVML,
                "SOFTMIG_SIM_STATE": f"/run/lab/sim.{node}", "SOFTMIG_SIM": CARDS[node]}

    def job_start(self, job, **more):
        return lab.run(*self.lab.on_node("n1", "softmig", "job-start"), check=False,
                       env={**self.environment(job), **more})

    def test_shards_told_by_a_sites_own_prolog(self):
        job = self.running("-w", "n1", "--gres=gpu:l40s.4:1")
        harmless = pathlib.Path("/run/lab/harmless")  # what is refused must not end the job
        harmless.mkdir()
        (harmless / "scancel").symlink_to("/bin/true")

        def limit(shards, said):
            result = self.job_start(job, NUM_SHARDS_PER_GPU=shards,
                                    PATH=f"{harmless}:/run/lab/bin:{lab.PATH}")
            self.assertEqual(result.returncode, 0)
            self.assertIn(said, result.stderr)
            self.assertEqual(bool(said), bool(result.stderr))
            return self.config(job)["CUDA_DEVICE_MEMORY_LIMIT"]
        self.assertEqual((limit("4", ""), limit("2", "")), ("12288M", "24576M"))
        self.assertIn("closed: ", limit("many", 'NUM_SHARDS_PER_GPU: "many" is not'))
        self.lab.softmig_conf.write_text("NUM_SHARDS_PER_GPU=4\n", encoding="ascii")
        self.assertEqual(limit("4", ""), "12288M")
        self.assertIn("closed: ", limit(
            "2", "NUM_SHARDS_PER_GPU is 2 in the environment and 4 in /etc/softmig/softmig.conf"))

    def test_a_controller_that_does_not_answer(self):
        fake = pathlib.Path("/run/lab/fake")
        fake.mkdir()
        for name in ("scontrol", "scancel"):
            (fake / name).write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
            (fake / name).chmod(0o755)
        result = self.job_start("4711", PATH=f"{fake}:/run/lab/bin:{lab.PATH}")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("cannot be asked: Unable to contact slurm controller", result.stderr)
        self.assertIn("closed: the Slurm controller", self.config("4711")["CUDA_DEVICE_MEMORY_LIMIT"])
        (self.folders["n1"] / "4711.conf").unlink()

    def test_a_folder_that_cannot_be_written_stops_the_job(self):
        result = lab.run(*self.lab.on_node("n1", "sh", "-c", "mount -t tmpfs -o size=4k,mode=755 x "
                                           "/run/softmig; dd if=/dev/zero of=/run/softmig/full "
                                           "bs=4k count=9 2>/dev/null; softmig job-start"),
                         check=False, env=self.environment("4711"))
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn("No space left", result.stderr)
        result = lab.run(*self.lab.on_node("n1", "sh", "-c", "mount -t tmpfs -o mode=777 x "
                                           "/run/softmig; softmig job-start"),
                         check=False, env=self.environment("4711"))
        self.assertEqual(result.returncode, 1)
        self.assertIn("nobody else can write", result.stderr)

    def test_killed_at_any_instant(self):
        job = self.running("-w", "n1", "--gres=gpu:l40s.4:1")
        right = self.config(job)
        seen = set()
        path = self.folders["n1"] / f"{job}.conf"
        for _ in range(60):
            path.unlink(missing_ok=True)
            with subprocess.Popen(self.lab.on_node("n1", "softmig", "job-start"),
                                  env=self.environment(job), stderr=subprocess.DEVNULL) as process:
                time.sleep(random.uniform(0.002, 0.06))
                process.kill()
                killed = process.wait() != 0
            config = self.config(job)
            if config is None:
                self.assertTrue(killed, "a job without limits")
                seen.add("before")
            elif "closed" in config["CUDA_DEVICE_MEMORY_LIMIT"]:
                self.assertTrue(killed)
                seen.add("closed")
            else:
                self.assertEqual(config, right)
                seen.add("right")
        self.assertTrue(seen & {"closed", "before"}, seen)
        self.assertEqual(self.job_start(job).returncode, 0)
        self.assertEqual(self.config(job), right)

    def test_orphans_give_their_slots_back(self):
        job = self.running("-w", "n1", "--gres=gpu:l40s.4:1")
        gpu = self.config(job)["SOFTMIG_GPUS"]
        for name in ("conf", "region", "state"):
            (self.folders["n1"] / f"9999.{name}").write_text(f"{gpu} 4 e\n", encoding="ascii")
        other = self.running("-w", "n1", "--gres=gpu:l40s.2:1")
        self.assertEqual(self.config(other)["SOFTMIG_SLOTS"], "1,2/4")
        self.assertFalse((self.folders["n1"] / "9999.conf").exists())


if __name__ == "__main__":
    unittest.main()
