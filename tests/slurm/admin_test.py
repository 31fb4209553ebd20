"""What administrators do to a node while it has jobs, and what users ask for that is rare: each job's
limits are right, other jobs keep theirs, and nothing is left."""

import os
import pathlib
import signal
import time
import unittest

import gpu_site
import lab
from gpu_site import PROBE

QUARTER = gpu_site.slice_of("l40s", 1)
LONG = "a-user-with-a-name-of-32-letters"
NUMBER = "4711"
OTHERS = {NUMBER: lab.FIRST_UID + 20, LONG: lab.FIRST_UID + 21}
PROLOG_SECONDS = 6


def setUpModule():
    """One site for all."""
    for name, number in OTHERS.items():
        with open("/etc/passwd", "a", encoding="ascii") as passwd, \
                open("/etc/group", "a", encoding="ascii") as group:
            passwd.write(f"{name}:x:{number}:{number}::{lab.HOME}:/bin/bash\n")
            group.write(f"{name}:x:{number}:\n")
    gpu_site.Case.lab = gpu_site.start(f"PrologEpilogTimeout={PROLOG_SECONDS}\n")


class Admin(gpu_site.Case):
    """A real Slurm, two nodes."""

    def tearDown(self):
        pathlib.Path("/run/lab/before_prolog").unlink(missing_ok=True)
        super().tearDown()

    def holding(self, *options, **more):
        """A job of a quarter on n1 that waits; its id and its config."""
        job = self.probing("-w", "n1", "--gres=gpu:l40s.4:1", *options, take=64, **more)
        self.assertEqual(self.seen(job)["total"], QUARTER)
        return job, self.config(job)

    def all_over(self, seconds=40):
        """Waits for the end of all jobs."""
        lab.wait_for("all over", lambda: not self.lab.output("squeue", "-h").strip(), seconds)

    def slurmd(self, node="n1"):
        """The daemon's pid, or 0."""
        try:
            pid = int(pathlib.Path(f"/run/slurmd.{node}.pid").read_text())
            os.kill(pid, 0)
            return pid
        except (OSError, ValueError):
            return 0

    def end_slurmd(self, number=signal.SIGTERM):
        """Ends the daemon of n1, and waits until it is gone."""
        pid = self.slurmd()
        os.kill(pid, number)
        lab.wait_for("slurmd is gone", lambda: not os.path.exists(f"/proc/{pid}"))

    def restart_slurmd(self):
        """As systemd does it: the mounts are those of before."""
        mounts = os.open(f"/proc/{self.slurmd()}/ns/mnt", os.O_RDONLY)
        self.end_slurmd()
        self.lab.daemon("slurmd.n1", "nsenter", f"--mount=/proc/{os.getpid()}/fd/{mounts}", "slurmd", "-N",
                        "n1", env={**os.environ, **lab.slurmd_environment()})
        os.close(mounts)

    def resume(self):
        """Takes n1 back into service, as an administrator does where Slurm has not."""
        lab.run("scontrol", "update", "NodeName=n1", "State=resume", check=False)
        # Slurm 22.05 goes on calling a node mixed that was drained under its last job.
        lab.wait_for("n1 takes jobs", lambda: self.state() in ("idle", "mixed"))

    def state(self):
        """What the controller thinks of n1."""
        return self.lab.output("sinfo", "-h", "-n", "n1", "-o", "%T").strip()

    def run_again(self, job, true):
        """Lets a requeued job start now, and not in two minutes; until true()."""
        for _ in range(15):
            lab.run("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
            try:
                return lab.wait_for(f"job {job} runs again", true, seconds=3)
            except lab.LabError:
                continue
        raise lab.LabError(self.lab.output("scontrol", "show", "job", job) + self.lab.log("slurmd.n1", 40))

    # What is asked for ------------------------------------------------------------------------------

    def components(self, first, second, node):
        """A heterogeneous job on n1 and `node`, and what a program of each component saw."""
        out = lab.HOME / "het"
        result = self.lab.as_user(
            "ada", "sbatch", "--parsable", "-o", f"{out}.all", "-w", "n1", *first, ":", "-w", node, *second,
            "--wrap", f"srun --het-group=0 -o {out}.0 {PROBE} --take 0; "
            f"srun --het-group=1 -o {out}.1 {PROBE} --take all", env=gpu_site.JOB_ENVIRONMENT)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.all_over()
        texts = [pathlib.Path(f"{out}.{i}") for i in range(2)]
        seen = [gpu_site.json.loads(path.read_text(encoding="utf-8")) for path in texts]
        for path in texts:
            path.unlink()
        return seen

    def test_a_heterogeneous_job(self):
        first, second = self.components(["--gres=gpu:l40s.4:1"], ["--gres=gpu:a100.2:1"], "n2")
        self.assert_slice(first, QUARTER)
        self.assert_slice(second, gpu_site.slice_of("a100", 2))

    def test_a_heterogeneous_job_whose_first_component_has_no_gpu(self):
        first, second = self.components([], ["--gres=gpu:l40s.4:1"], "n2")
        self.assertNotEqual(first["total"], QUARTER)
        self.assert_slice(second, QUARTER)

    def test_steps_side_by_side(self):
        go = f"--take all --hold {self.go}"
        job = self.submit("-w", "n1", "--gres=gpu:l40s.4:1", "-n", "3", command=" ".join(
            f"srun -n1 --overlap -o {lab.HOME}/step.{i} {PROBE} {go} &" for i in range(3)) + " wait")
        paths = [lab.HOME / f"step.{i}" for i in range(3)]
        lab.wait_for("three steps", lambda: all(path.exists() and path.read_text() for path in paths))
        seen = [gpu_site.json.loads(path.read_text().splitlines()[0]) for path in paths]
        self.assertEqual({one["job"] for one in seen}, {job})
        self.assertLessEqual(sum(one["taken"] for one in seen), QUARTER)
        self.assertGreater(sum(one["taken"] for one in seen), QUARTER - 3 * gpu_site.CONTEXT - 64)

    def test_users_with_odd_names(self):
        for name, number in OTHERS.items():
            job, config = self.holding(user=name)
            self.assertEqual(config["SOFTMIG_UID"], str(number), name)
            self.assertEqual((self.folders["n1"] / f"{job}.region").stat().st_uid, number, name)

    def test_jobs_with_odd_names(self):
        for name in ("two\nlines", "'", '"', "%j %A %n {} {0}", "\t", "$(touch /run/lab/run)", "ä\xff"):
            job, _ = self.holding("-J", name, "--comment", name)
            self.go.touch()
            self.seen(job, 1)
            self.go.unlink()
        self.assertFalse(os.path.exists("/run/lab/run"))

    @unittest.skipIf(lab.KIND != "linuxproc", "cgroups need PrologFlags=Contain")
    def test_without_prolog_flags(self):
        """The prolog of a node then runs when the job's first program on it is started, and not before."""
        conf = pathlib.Path("/etc/slurm/slurm.conf")
        text = conf.read_text(encoding="ascii")
        try:
            conf.write_text(text.replace("PrologFlags=Alloc", ""), encoding="ascii")
            lab.run("scontrol", "reconfigure")
            lab.wait_for("no flags", lambda: "PrologFlags             = (null)" in
                         self.lab.output("scontrol", "show", "config"))
            for command in (("srun",), ("salloc", "srun")):
                result = self.lab.as_user(
                    "ada", *command[:1], "-N2", "-n2", "--gres=gpu:l40s.4:1", *command[1:], PROBE, "--take",
                    "0", env=gpu_site.JOB_ENVIRONMENT)
                lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
                self.assertEqual([gpu_site.json.loads(line)["total"] for line in lines], [QUARTER] * 2,
                                 result.stderr)
        finally:
            conf.write_text(text, encoding="ascii")
            lab.run("scontrol", "reconfigure")

    # What is done to the node -----------------------------------------------------------------------

    def test_slurmd_is_restarted_under_a_job(self):
        job, config = self.holding()
        self.restart_slurmd()
        self.assertEqual(self.config(job), config)
        self.assertEqual(self.step(job, PROBE, "--take", "0")["total"], QUARTER)
        other, others = self.holding(user="bob")
        self.assertNotEqual(others["SOFTMIG_SLOTS"], config["SOFTMIG_SLOTS"])
        self.go.touch()
        self.assertEqual(self.seen(job, 1)["total"], QUARTER)
        self.all_over()
        self.assertNotIn(other, [path.name for path in self.folders["n1"].iterdir()])

    def test_slurm_is_reconfigured_under_a_job(self):
        job, config = self.holding()
        os.utime("/etc/slurm/gres.conf")
        lab.run("scontrol", "reconfigure")
        time.sleep(0.5)
        self.assertEqual(self.config(job), config)
        self.assertEqual(self.step(job, PROBE, "--take", "0")["total"], QUARTER)
        half = self.probing("-w", "n1", "--gres=gpu:l40s.2:1", user="bob")
        self.assert_slice(self.seen(half), gpu_site.slice_of("l40s", 2))

    @unittest.skipIf(lab.KIND != "linuxproc", "cgroups and mounts of a node outlive the boot of a lab's")
    def test_the_node_boots_under_a_job(self):
        job, _ = self.holding()
        steps = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
                 if f"slurmstepd: [{job}." in self.title(pid)]
        self.assertTrue(steps)
        probe = self.seen(job)["pid"]
        self.end_slurmd(signal.SIGKILL)
        for pid in (*steps, probe):
            os.kill(pid, signal.SIGKILL)
        (lab.HOME / f"{job}.out").unlink()
        folder = self.folders["n1"]
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        lab.run("scontrol", "update", "NodeName=n1", "State=down", "Reason=boot")
        lab.wait_for("requeued", lambda: self.lab.job(job).get("Restarts") == "1")
        # Or the order to end its first run, which the node has missed, ends the second.
        lab.run("scontrol", "hold", job)
        self.lab.start_node("n1", "-b")
        self.resume()
        time.sleep(2)
        lab.run("scontrol", "release", job)
        def told():
            return [line for line in self.said(job).splitlines() if line.startswith("{")]
        self.run_again(job, told)
        seen = gpu_site.json.loads(told()[0])
        # It has limits: its own, or those of the buried.
        if seen["opened"] != gpu_site.OUT_OF_MEMORY:
            self.assertEqual(seen["total"], QUARTER)
            self.assertEqual(self.config(job)["CUDA_DEVICE_MEMORY_LIMIT"], f"{QUARTER}M")

    def test_the_end_of_a_run_from_before_the_boot_leaves_no_job_without_limits(self):
        """Slurm may say of it that it was not requeued, and start it again without its prolog."""
        end = ["softmig", "job-end"]
        env = {"PATH": "/run/lab/bin:" + lab.PATH, "SLURM_JOB_ID": "77", "SLURM_JOB_RESTART_COUNT": "0"}
        config = self.folders["n1"] / "77.conf"
        lab.run(*self.lab.on_node("n1", *end), env=env)
        self.assertFalse(config.exists(), "it has no GPUs")
        lab.run(*self.lab.on_node("n1", *end), env={**env, "SLURM_JOB_GPUS": "0"})
        self.assertIn("MEMORY_LIMIT=1M", config.read_text(encoding="ascii"))
        whole = self.probing("-w", "n1", "--gres=gpu:l40s:1", take=64)
        self.assertGreater(self.seen(whole)["total"], QUARTER * 3)
        self.assertIsNone(self.config(whole))
        self.go.touch()
        self.all_over()
        self.assertFalse((self.folders["n1"] / f"{whole}.conf").exists(), "its prolog was here")

    def title(self, pid):
        """What a process calls itself; empty if it is gone."""
        try:
            return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            return ""

    def test_a_prolog_that_takes_too_long_runs_no_job(self):
        """It waits for a controller that is silent, and slurmd kills it."""
        other, others = self.holding(user="bob")
        silent = pathlib.Path("/run/lab/silent")
        silent.mkdir()
        for name in ("squeue", "scontrol"):
            gpu_site.script(silent / name, "#!/bin/sh\nexec sleep 60\n")
        pathlib.Path("/run/lab/before_prolog").write_text(
            f"rm /run/lab/before_prolog; PATH={silent}:$PATH\n", encoding="ascii")
        job = self.submit("-w", "n1", "--gres=gpu:l40s.4:1", command=f"{PROBE} --take 64")
        lab.wait_for("requeued", lambda: self.lab.job(job).get("Restarts") == "1")
        self.assertEqual(self.said(job), "")
        self.assertEqual(self.config(other), others)
        lab.run("scancel", job)
        self.go.touch()
        self.all_over()
        lab.wait_for("drained", lambda: "drained" in self.state())
        self.resume()

    def test_a_job_that_is_cancelled_in_its_prolog(self):
        other, others = self.holding(user="bob")
        for when in ("", "WRAP='timeout 5 /run/lab/slow'\n"):
            gpu_site.script("/run/lab/slow", '#!/bin/sh\nsleep 1\nexec "$@"\n')
            pathlib.Path("/run/lab/before_prolog").write_text(
                f"rm /run/lab/before_prolog; scancel $SLURM_JOB_ID\n{when}", encoding="ascii")
            job = self.submit("-w", "n1", "--gres=gpu:l40s.4:1", command=f"{PROBE} --take 64")
            lab.wait_for("cancelled", lambda job=job: self.lab.job(job).get("JobState") == "CANCELLED")
            lab.wait_for("nothing of it is left",
                         lambda job=job: not list(self.folders["n1"].glob(f"{job}.*")))
            self.assert_got_nothing(job)
        self.assertEqual(self.config(other), others)

    def test_the_controller_forgets_and_numbers_anew(self):
        """The files of an earlier job with this id, of another user and size, are not taken for its own."""
        job, config = self.holding(user="bob")
        number = str(int(job) + 1)
        folder = self.folders["n1"]
        (folder / f"{number}.conf").write_text(
            f"SOFTMIG_UID={lab.FIRST_UID + 3}\nCUDA_DEVICE_MEMORY_LIMIT=40000M\n", encoding="ascii")
        (folder / f"{number}.region").write_bytes(b"\x55" * 70000)
        (folder / f"{number}.state").write_text(f"{config['SOFTMIG_GPUS']} 4 e\n", encoding="ascii")
        (folder / "requests").write_text(
            f"{number} {number} {lab.FIRST_UID + 3} 0 gres:shard:l40s:3\n", encoding="ascii")
        again, anew = self.holding()
        self.assertEqual(again, number)
        self.assertEqual((anew["SOFTMIG_UID"], anew["CUDA_DEVICE_MEMORY_LIMIT"]),
                         (str(lab.FIRST_UID), f"{QUARTER}M"))
        self.assertNotEqual(anew["SOFTMIG_SLOTS"], config["SOFTMIG_SLOTS"])
        self.assertEqual((folder / f"{number}.region").stat().st_uid, lab.FIRST_UID)


if __name__ == "__main__":
    unittest.main()
