"""What goes wrong on a node or at the controller while a job starts: the job fails with a message, or
its limits are right. It never runs without them, no other job is harmed, and the node is drained only
where the fault is its own."""

import os
import pathlib
import random
import signal
import subprocess
import time

import unittest

import gpu_site
import lab
from gpu_site import PROBE

QUARTER = gpu_site.slice_of("l40s", 1)
SIM = {"PATH": "/run/lab/bin:" + lab.PATH, "SOFTMIG_SIM_STATE": lab.GPU_STATE}


def setUpModule():
    """One site for all."""
    # How long a client looks for a controller that is down.
    gpu_site.Case.lab = gpu_site.start("MessageTimeout=4\n")


class Faults(gpu_site.Case):
    """job-start is run by hand for a job that has its slice, or by a prolog that is disturbed."""

    def tearDown(self):
        pathlib.Path("/run/lab/before_prolog").unlink(missing_ok=True)
        super().tearDown()

    def holding(self, **options):
        """A job of a quarter on n1 that waits; its id and its config."""
        job = self.probing("-w", "n1", "--gres=gpu:l40s.4:1", take=64, **options)
        self.assertEqual(self.seen(job)["total"], QUARTER)
        return job, self.config(job)

    def environment(self, job, **more):
        """What slurmd gives the prolog of a job on n1."""
        return {**SIM, "SLURM_JOB_ID": job, "SLURM_JOB_GPUS": "0", "SLURMD_NODENAME": "n1",
                "SLURM_JOB_UID": str(lab.FIRST_UID), "SLURM_JOB_GID": str(lab.FIRST_UID),
                "SLURM_JOB_RESTART_COUNT": "0", **more}

    def on_node(self, text, env):
        """A shell's command line on n1, as root."""
        return lab.run(*self.lab.on_node("n1", "sh", "-c", text), check=False, env=env)

    def assert_safe(self, status, config, right):
        """What a start may leave: a failed prolog, a closed job, or the right limits."""
        if status == 0:
            self.assertIsNotNone(config, "no limits, and no failure")
        if config is not None and not config["CUDA_DEVICE_MEMORY_LIMIT"].startswith("closed: "):
            self.assertEqual(config, right)

    def cancelled(self, *options):
        """A job that must be cancelled before it runs -> what its user reads."""
        job = self.submit(*options, command=f"{PROBE} --take 64")
        lab.wait_for("cancelled", lambda: self.lab.job(job).get("JobState") == "CANCELLED")
        self.assert_got_nothing(job)
        self.assert_no_node_was_drained()
        return self.comment(job)

    # The controller -------------------------------------------------------------------------------

    def test_the_controller_goes_down_during_the_prolog(self):
        other, right = self.holding(user="bob")
        pathlib.Path("/run/lab/before_prolog").write_text(
            "rm /run/lab/before_prolog; kill $(cat /run/slurm/slurmctld.pid)\n"
            "while [ -e /run/slurm/slurmctld.pid ]; do sleep 0.02; done\n", encoding="ascii")
        job = self.probing("-w", "n1", "--gres=gpu:l40s.4:1", take="all")
        try:
            seen = self.seen(job)
            self.assertEqual((seen["opened"], seen["taken"]), (gpu_site.OUT_OF_MEMORY, 0))
            self.assertIn("controller cannot be asked", self.config(job)["CUDA_DEVICE_MEMORY_LIMIT"])
            log = pathlib.Path(f"/var/log/softmig/{job}.log").read_text(encoding="utf-8")
            self.assertIn("controller cannot be asked", log)
        finally:
            self.lab.daemon("slurmctld", "slurmctld")
            lab.wait_for("slurmctld answers", lambda: "UP" in self.lab.output("scontrol", "ping"))
            lab.wait_for("it knows its nodes", lambda: "unk" not in self.lab.output(
                "sinfo", "-h", "-N", "-o", "%T"))
        self.assertEqual(self.config(other), right)

    def test_a_controller_that_is_silent(self):
        """The job is closed all the while, and the prolog gives up long before Slurm gives up on it."""
        job, right = self.holding()
        (self.folders["n1"] / "requests").unlink(missing_ok=True)
        (self.folders["n1"] / f"{job}.conf").unlink()
        silent = pathlib.Path("/run/lab/silent")
        silent.mkdir()
        for name in ("squeue", "scontrol", "scancel"):
            gpu_site.script(silent / name, "#!/bin/sh\nexec sleep 60\n")
        env = self.environment(job, PATH=f"{silent}:/run/lab/bin:{lab.PATH}")
        begin = time.monotonic()
        with subprocess.Popen(self.lab.on_node("n1", "softmig", "job-start"), start_new_session=True,
                              env=env, stderr=subprocess.DEVNULL) as process:
            lab.wait_for("closed", lambda: self.config(job) is not None, seconds=5)
            self.assertTrue(self.config(job)["CUDA_DEVICE_MEMORY_LIMIT"].startswith("closed: "))
            self.assertEqual(self.step(job, PROBE)["opened"], gpu_site.OUT_OF_MEMORY)
            self.assertEqual(process.wait(60), 0)
        self.assertLess(time.monotonic() - begin, 25)
        self.assertIn("does not answer", self.config(job)["CUDA_DEVICE_MEMORY_LIMIT"])
        self.assertEqual(self.on_node("softmig job-start", self.environment(job)).returncode, 0)
        self.assertEqual(self.config(job), right)

    def test_a_controller_that_talks_nonsense(self):
        job, right = self.holding()
        fake = pathlib.Path("/run/lab/fake")
        fake.mkdir(exist_ok=True)
        (fake / "scancel").unlink(missing_ok=True)
        for text in ("", "x", f"JobId={job}", f"JobId={job} Nodes=n1 GRES=", "\\377\\0\\n" * 50,
                     f"JobId={job} Nodes=n1 GRES=shard:l40s:99999999999999999999(IDX:0)",
                     f"JobId={job} Nodes=n1 GRES=shard:l40s:9(IDX:0)",
                     f"JobId={job} Nodes=n1 GRES=shard:l40s:1(IDX:77)", f"JobId={int(job) + 1} Nodes=n1"):
            for name in ("scontrol", "squeue", "scancel"):
                gpu_site.script(fake / name, f"#!/bin/sh\nprintf '{text}'\n")
            (self.folders["n1"] / "requests").unlink(missing_ok=True)
            result = self.on_node("softmig job-start",
                                  self.environment(job, PATH=f"{fake}:/run/lab/bin:{lab.PATH}"))
            config = self.config(job)
            self.assertEqual(result.returncode, 0)
            self.assertTrue(config["CUDA_DEVICE_MEMORY_LIMIT"].startswith("closed: "), text)
        self.assertEqual(self.on_node("softmig job-start", self.environment(job)).returncode, 0)
        self.assertEqual(self.config(job), right)

    # The node ---------------------------------------------------------------------------------------

    def test_a_disk_of_any_size(self):
        job, right = self.holding()
        ended = set()
        for size in (4, 8, 12, 16, 20, 24, 32, 64, 128, 256, 512, 1024, 4096):
            result = self.on_node(f"mount -t tmpfs -o size={size}k,mode=755 x /run/softmig; "
                                  f"softmig job-start; echo $?; cat /run/softmig/{job}.conf",
                                  self.environment(job, PATH=f"{self.harmless()}:/run/lab/bin:{lab.PATH}"))
            status, *lines = result.stdout.splitlines()
            config = dict(line.split("=", 1) for line in lines) or None
            with self.subTest(size=size, said=result.stdout + result.stderr):
                self.assert_safe(int(status), config, right)
            closed = config is None or "closed" in config["CUDA_DEVICE_MEMORY_LIMIT"]
            self.assertEqual(closed, bool(result.stderr), "a job that fails says why")
            ended.add((int(status), closed))
        self.assertIn((0, False), ended)
        self.assertTrue(any(closed for _, closed in ended), ended)

    def test_no_folder_for_the_configs(self):
        job, right = self.holding()
        result = self.on_node(
            "mount --rbind /run /mnt && mount -t tmpfs -o mode=755 x /run && for d in lab munge slurm; do "
            f"mkdir /run/$d && mount --rbind /mnt/$d /run/$d; done; [ ! -e {gpu_site.LIMITS} ] && "
            f"softmig job-start && stat -c %a {gpu_site.LIMITS} && cat {gpu_site.LIMITS}/{job}.conf",
            self.environment(job))
        self.assertEqual(result.returncode, 0, result.stderr)
        mode, *lines = result.stdout.splitlines()
        self.assertEqual(mode, "755")
        config = dict(line.split("=", 1) for line in lines)
        self.assertEqual({**config, "SOFTMIG_SLOTS": ""}, {**right, "SOFTMIG_SLOTS": ""})

    def test_nvml_that_fails(self):
        job, right = self.holding()
        for fault in ("nvml:absent", "nvmlInit_v2:fail=999", "nvmlDeviceGetHandleByIndex_v2:fail=15",
                      "nvmlDeviceGetMemoryInfo*:fail=999", "missing=nvmlDeviceGetCount_v2"):
            (self.folders["n1"] / "gpus").unlink(missing_ok=True)
            result = self.on_node("softmig job-start", self.environment(
                job, SOFTMIG_SIM_FAULT=fault, PATH=f"{self.harmless()}:/run/lab/bin:{lab.PATH}"))
            self.assertEqual(result.returncode, 0)
            self.assertRegex(result.stderr, "NVML|driver", fault)
            self.assert_safe(0, self.config(job), right)
            self.assertIn("closed", self.config(job)["CUDA_DEVICE_MEMORY_LIMIT"], fault)

    def harmless(self):
        """A folder with an scancel that cancels nothing."""
        folder = pathlib.Path("/run/lab/harmless")
        folder.mkdir(exist_ok=True)
        gpu_site.script(folder / "scancel", "#!/bin/sh\n")
        return folder

    def test_a_softmig_conf_of_any_kind(self):
        for text in (b"NUM_SHARDS_PER_GPU=0\n", b"NUM_SHARDS_PER_GPU\n", b"\xff\x00\x01" * 100,
                     b"MEMORY_RESERVE=99T\n", b"NUM_SHARDS_PER_GPU=4\nLIMIT_COMPUTE=maybe\n"):
            # On the node alone, or the clients would refuse to submit.
            pathlib.Path("/run/lab/bad.conf").write_bytes(text)
            pathlib.Path("/run/lab/before_prolog").write_text(
                "WRAP='unshare --mount sh /run/lab/with_bad_conf'\n", encoding="ascii")
            pathlib.Path("/run/lab/with_bad_conf").write_text(
                'mount --bind /run/lab/bad.conf /etc/softmig/softmig.conf && exec "$@"\n',
                encoding="ascii")
            self.assertIn("SoftMig: ", self.cancelled("-w", "n1", "--gres=shard:l40s:1"), text)

    def test_caches_of_noise(self):
        job, right = self.holding()
        folder = self.folders["n1"]
        for name in ("gpus", "gres", "requests", "cgroup_ns"):
            good = (folder / name).read_bytes() if (folder / name).exists() else b""
            for noise in (b"", b"\n", os.urandom(3000), good[:len(good) // 2], good + good,
                          good.replace(b" ", b"\n"), b"9" * 70000):
                (folder / name).write_bytes(noise)
                result = self.on_node("softmig job-start", self.environment(
                    job, PATH=f"{self.harmless()}:/run/lab/bin:{lab.PATH}"))
                self.assert_safe(result.returncode, self.config(job), right)
                self.assertEqual(self.config(job), right, (name, noise[:40]))

    def test_killed_at_any_instant(self):
        other, others = self.holding(user="bob")
        job, right = self.holding()
        path = self.folders["n1"] / f"{job}.conf"
        took = []
        for attempt in range(40):
            path.unlink(missing_ok=True)
            (self.folders["n1"] / "requests").unlink(missing_ok=True)
            begin = time.monotonic()
            with subprocess.Popen(self.lab.on_node("n1", "softmig", "job-start"), start_new_session=True,
                                  env=self.environment(job), stderr=subprocess.DEVNULL) as process:
                if attempt >= 4:
                    time.sleep(random.uniform(0, 1.2) * sorted(took)[2])
                    os.killpg(process.pid, signal.SIGKILL)
                status = process.wait()
            took.append(time.monotonic() - begin) if attempt < 4 else None
            self.assert_safe(status, self.config(job), right)
            self.assertEqual(self.config(other), others)
        self.assertEqual(self.on_node("softmig job-start", self.environment(job)).returncode, 0)
        self.assertEqual(self.config(job), right)

    def test_a_prolog_that_is_killed_runs_no_job(self):
        pathlib.Path("/run/lab/before_prolog").write_text(
            "rm /run/lab/before_prolog; kill -9 $$\n", encoding="ascii")
        job = self.submit("-w", "n1", "--gres=gpu:l40s.4:1", command=f"{PROBE} --take 64")
        lab.wait_for("requeued", lambda: self.lab.job(job).get("Restarts") == "1")
        self.assertEqual(self.said(job), "")
        lab.run("scancel", job)
        # The node's own fault: Slurm drains it, and the administrator resumes it.
        lab.wait_for("drained", lambda: "drain" in self.lab.output("sinfo", "-h", "-n", "n1", "-o", "%T"))
        lab.run("scontrol", "update", "NodeName=n1", "State=resume")
        lab.wait_for("nodes idle", self.lab.all_idle)


if __name__ == "__main__":
    unittest.main()
