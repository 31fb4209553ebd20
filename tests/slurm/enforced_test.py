"""Slices of several users on simulated GPUs, with the library in every program of the lab: what the
programs of a job see and get."""

import unittest

import lab
import gpu_site


def setUpModule():
    """One site for all."""
    gpu_site.Case.lab = gpu_site.start()


class Users(gpu_site.Case):
    """Jobs side by side."""

    def test_four_users_with_a_quarter_each(self):
        jobs = {user: self.probing("-w", "n1", "--gres=gpu:l40s.4:1", user=user) for user in lab.USERS}
        seen = {user: self.seen(job) for user, job in jobs.items()}
        for user, one in seen.items():
            self.assert_slice(one, gpu_site.slice_of("l40s", 1))
            self.assertEqual(one["refused"], gpu_site.OUT_OF_MEMORY, user)
        self.assertEqual(len({one["uuid"] for one in seen.values()}), 1)
        self.assertEqual(len({self.config(job)["SOFTMIG_SLOTS"] for job in jobs.values()}), 4)
        # A second program of each, while all are full: it sees both of its own, and gets nothing.
        for user, job in jobs.items():
            more = self.step(job, gpu_site.PROBE, "--take", "64", user=user)
            self.assertEqual((more["opened"], more["taken"]), (gpu_site.OUT_OF_MEMORY, 0))
        self.go.touch()
        for user, job in jobs.items():
            end = self.seen(job, 1)
            self.assertEqual(end["pids"], [end["pid"]], "sees others")
            self.assertEqual(end["nvml_used"] >= end["taken"], True)
        lab.wait_for("all done", lambda: not self.lab.output("squeue", "-h").strip())

    def test_two_programs_of_a_job_share_its_slice(self):
        job = self.probing("-w", "n1", "--gres=gpu:l40s.4:1", take=4096)
        first = self.seen(job)
        other = self.probing("-w", "n1", "--gres=gpu:l40s.4:1", take=0, user="bob")
        second = self.step(job, gpu_site.PROBE, "--take", "all")
        self.assertLess(second["taken"], gpu_site.slice_of("l40s", 1) - 4096)
        self.assertGreater(second["taken"], gpu_site.slice_of("l40s", 1) - 4096 - 2 * gpu_site.CONTEXT - 64)
        self.assertEqual(second["pids"], sorted([first["pid"], second["pid"]]))
        alone = self.seen(other)
        self.assertEqual(alone["pids"], [alone["pid"]])
        self.assertGreater(alone["free"], gpu_site.slice_of("l40s", 1) - gpu_site.CONTEXT)

    def test_all_kinds_at_once_on_two_nodes(self):
        jobs = {  # job: (user, GPU, shards)
            self.probing("--gres=gpu:a100.2:1", user="ada"): ("ada", "a100", 2),
            self.probing("--gres=gpu:a100.4:1", user="bob"): ("bob", "a100", 1),
            self.probing("-w", "n1", "--gres=gpu:l40s:1", user="dan", take=1024): ("dan", "l40s", 0)}
        result = self.lab.as_user(
            "cyd", "sbatch", "--parsable", "--array=1-20", "-o", f"{lab.HOME}/task.%a",
            "--gres=gpu:l40s.4:1", "--wrap", f"{gpu_site.PROBE} --take all; cat {gpu_site.LIMITS}/$SLURM_JOB_ID.conf",
            env=gpu_site.JOB_ENVIRONMENT)
        self.assertEqual(result.returncode, 0, result.stderr)
        for job, (_, gpu, shards) in jobs.items():
            seen = self.seen(job)
            if shards:
                self.assert_slice(seen, gpu_site.slice_of(gpu, shards))
            else:
                self.assertEqual(seen["total"], gpu_site.TOTAL[gpu] * 127 // 128)
                self.assertEqual(seen["taken"], 1024)
        self.go.touch()
        lab.wait_for("all done", lambda: not self.lab.output("squeue", "-h").strip(), seconds=90)
        for task in range(1, 21):
            text = (lab.HOME / f"task.{task}").read_text(encoding="utf-8")
            seen = gpu_site.json.loads(text.splitlines()[0])
            self.assert_slice(seen, gpu_site.slice_of("l40s", 1))
            self.assertIn(f"SOFTMIG_UID={lab.FIRST_UID + 2}\n", text)
            self.assertIn(f"SOFTMIG_GPUS={seen['uuid']}\n", text)

    def test_a_running_job_gets_new_limits(self):
        job = self.probing("-w", "n1", "--gres=gpu:l40s.4:1", take=1024)
        self.seen(job)
        path = self.folders["n1"] / f"{job}.conf"
        new = path.with_suffix(".new")
        new.write_text(path.read_text().replace("12032M", "6016M"))
        new.rename(path)
        lab.time.sleep(1.1)
        self.assertEqual(self.step(job, gpu_site.PROBE)["total"], 6016)
        self.go.touch()
        self.assertEqual(self.seen(job, 1)["total"], 6016)


if __name__ == "__main__":
    unittest.main()
