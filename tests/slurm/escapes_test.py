"""What an ordinary user may try to get past his slice. Each way is closed, or it is open as
docs/security.md says, and left to the node's agent; then the test says so too (assert_open)."""

import os
import shutil
import subprocess
import unittest

import gpu_site
import lab
from gpu_site import OUT_OF_MEMORY, PROBE

QUARTER, HALF = gpu_site.slice_of("l40s", 1), gpu_site.slice_of("l40s", 2)
CARD = gpu_site.TOTAL["l40s"] * 127 // 128  # what the driver shows of it
BY_CGROUP = lab.KIND != "linuxproc"
OWN_DLSYM = "/run/lab/own_dlsym.so"
ELSEWHERE = lab.HOME / "elsewhere"
FORGED = "a   Nodes=n1 CPU_IDs=0 Mem=1 GRES="


def setUpModule():
    """One site for all."""
    gpu_site.Case.lab = gpu_site.start()
    shutil.copy(os.environ["SOFTMIG_OWN_DLSYM"], OWN_DLSYM)
    ELSEWHERE.mkdir()
    ELSEWHERE.chmod(0o777)


class AdaAndBob(gpu_site.Case):
    """Ada has a quarter, with 1 GiB in use, and Bob has a half."""
    ada = bob = None

    def begin(self):
        """Starts both jobs."""
        super().setUp()
        self.ada = self.probing("-w", "n1", "--gres=gpu:l40s.4:1", take=1024)
        self.bob = self.probing("-w", "n1", "--gres=gpu:l40s.2:1", user="bob", take=1024)
        self.assertEqual(self.seen(self.ada)["taken"], 1024)
        self.assertEqual(self.seen(self.bob)["taken"], 1024)

    def end(self):
        """What Ada did is no matter of Bob's: his program lives, and he gets all that is his."""
        seen = self.step(self.bob, PROBE, "--take", "all", user="bob")
        self.assert_slice({**seen, "taken": seen["taken"] + 1024 + 600}, HALF)
        self.go.touch()
        self.assertEqual(self.seen(self.bob, 1)["taken"], 1024)
        super().tearDown()

    def shell(self, text, **env):
        """A command line of Ada's in her job -> its result."""
        return self.lab.as_user("ada", "srun", f"--jobid={self.ada}", "--overlap", "sh", "-c", text,
                                env={**gpu_site.JOB_ENVIRONMENT, **env})

    def attempt(self, text, **env):
        """What a probe sees that Ada runs so."""
        result = self.shell(text, **env)
        self.assertEqual(result.returncode, 0, result.stderr)
        return gpu_site.json.loads(result.stdout.splitlines()[-1])

    def assert_closed(self, text, **env):
        """Ada sees her quarter, and gets no more than what is left of it."""
        seen = self.attempt(f"{text} {PROBE} --take all", **env)
        self.assertEqual(seen["total"], QUARTER, seen)
        self.assertEqual(seen["refused"], OUT_OF_MEMORY)
        self.assertLess(seen["taken"], QUARTER - 1024)

    def assert_open(self, text, **env):
        """Ada sees the whole card: only the node's agent can find that out."""
        self.assertEqual(self.attempt(f"{text} {PROBE}", **env)["total"], CARD)

    def on_node(self, *command):
        """As root on the node, not in a job."""
        return lab.run(*self.lab.on_node("n1", *command), check=False)


class Escapes(AdaAndBob):
    """Ways that leave Ada's job as it is: one for all of them."""
    jobs = None

    @classmethod
    def setUpClass(cls):
        cls.jobs = AdaAndBob()
        cls.jobs.begin()
        cls.ada, cls.bob = cls.jobs.ada, cls.jobs.bob

    @classmethod
    def tearDownClass(cls):
        cls.jobs.end()

    def setUp(self):
        self.folders = self.jobs.folders

    def tearDown(self):
        self.assertEqual(self.said(self.bob).count("\n"), 1)

    # Whose job ------------------------------------------------------------------------------------

    def test_no_job_id(self):
        (self.assert_closed if BY_CGROUP else self.assert_open)("env -u SLURM_JOB_ID -u SLURM_JOBID")

    def test_the_id_of_no_job(self):
        (self.assert_closed if BY_CGROUP else self.assert_open)("env SLURM_JOB_ID=99999999")

    def test_the_id_of_another_users_job(self):
        self.assert_closed(f"env SLURM_JOB_ID={self.bob} SLURM_JOBID={self.bob}")

    def test_array_variables(self):
        self.assert_closed("env SLURM_ARRAY_JOB_ID=1 SLURM_ARRAY_TASK_ID=7")

    def test_a_login_without_a_job(self):
        login = ("setpriv", "--reuid", "ada", "--regid", "ada", "--init-groups", "env", "-i",
                 *(f"{name}={value}" for name, value in gpu_site.JOB_ENVIRONMENT.items()),
                 str(PROBE))
        seen = gpu_site.json.loads(self.on_node(*login).stdout)
        self.assertEqual(seen["total"], CARD)  # why logins need pam_slurm_adopt
        if not BY_CGROUP:
            return
        # What pam_slurm_adopt does with a login.
        places = sorted(path for path in lab.pathlib.Path("/sys/fs/cgroup").rglob("cgroup.procs")
                        if f"job_{self.ada}/step_extern" in str(path))
        join = f'echo 0 >{max(places, key=lambda path: len(path.parts))} && exec "$@"'
        seen = gpu_site.json.loads(self.on_node("sh", "-c", join, "sh", *login).stdout)
        self.assertEqual(seen["total"], QUARTER)

    # Other limits, another ledger -----------------------------------------------------------------

    def test_variables_that_set_limits(self):
        self.assert_closed("env CUDA_DEVICE_MEMORY_LIMIT=0 CUDA_DEVICE_MEMORY_LIMIT_0=100G "
                           f"SOFTMIG_UID=0 SOFTMIG_GPUS=GPU-{'0' * 8}-0000-0000-0000-{'0' * 12}")

    def test_another_place_for_the_ledger(self):
        for variable in ("SLURM_TMPDIR", "CUDA_DEVICE_MEMORY_SHARED_CACHE", "SOFTMIG_REGION"):
            self.assert_closed(f"env {variable}={ELSEWHERE}/{variable}")
        self.assert_closed(f"env SLURM_TMPDIR={ELSEWHERE}")

    def test_deleted_files(self):
        result = self.shell("rm -rf /run/softmig/* /var/log/softmig/nothing; "
                            f"mv /run/softmig/{self.ada}.conf {ELSEWHERE}; "
                            f": >/run/softmig/{self.ada}.conf; : >/run/softmig/{self.ada}.region.extra; "
                            f"ln -sf /dev/null /run/softmig/{self.ada}.conf; mkdir /run/softmig/x; true")
        self.assertEqual(result.stderr.count("Permission denied") >= 5, True, result.stderr)
        self.assert_closed("")

    def test_another_users_ledger(self):
        result = self.shell(f"cat /run/softmig/{self.bob}.region; echo x >/run/softmig/{self.bob}.region")
        self.assertEqual(result.stderr.count("Permission denied"), 2, result.stderr)

    # Around the library -----------------------------------------------------------------------------

    def test_ones_own_dlsym(self):
        self.assert_open(f"env LD_PRELOAD={OWN_DLSYM}")

    def test_a_preloaded_library_that_is_not_there(self):
        self.assert_closed("env LD_PRELOAD=/nowhere.so")

    def needs_user_namespaces(self):
        """Many machines forbid them to users, and that closes these ways."""
        if self.shell("unshare -U -r true").returncode != 0:
            self.skipTest("users cannot make user namespaces here")

    def test_root_in_a_user_namespace(self):
        self.needs_user_namespaces()
        self.assert_closed("unshare -U -r")

    def test_a_user_namespace_without_a_map(self):
        self.needs_user_namespaces()
        seen = self.attempt(f"unshare -U {PROBE} --take all")
        self.assertEqual((seen["opened"], seen["taken"]), (OUT_OF_MEMORY, 0))

    def test_another_cgroup_namespace(self):
        self.needs_user_namespaces()
        self.assert_closed("unshare -U -r -C")
        self.assert_closed("unshare -U -r -C env -u SLURM_JOB_ID")

    def test_another_pid_namespace(self):
        self.needs_user_namespaces()
        # Whether what her other programs took is free again cannot be told from in there.
        seen = self.attempt(f"unshare -U -r -p -f --mount-proc {PROBE}")
        self.assertEqual(seen.get("total", QUARTER), QUARTER)

    def test_the_preload_file_masked(self):
        self.needs_user_namespaces()
        self.assert_open("unshare -U -r -m sh -c "
                         f"'mount --bind /dev/null {lab.PRELOAD} && exec \"$@\"' sh")

    def test_the_configs_masked(self):
        self.needs_user_namespaces()
        seen = self.attempt("unshare -U -r -m sh -c 'mount -t tmpfs none /run/softmig && exec \"$@\"' sh "
                            f"{PROBE} --take all")
        self.assertEqual(seen.get("total"), CARD)  # as the masked preload file


class Tampering(AdaAndBob):
    """A forged ledger: Ada's own job may come to harm or get more, and the agent sees that. Bob,
    root's programs and the next jobs must not notice."""

    setUp, tearDown = AdaAndBob.begin, AdaAndBob.end

    def tampered(self, text):
        """Ada does something to her region; then root's programs run, and one of hers."""
        region = f"/run/softmig/{self.ada}.region"
        self.assertEqual(self.shell(text.format(region)).returncode, 0)
        try:
            self.shell(f"timeout 10 {PROBE} --take 128")
        except subprocess.TimeoutExpired:
            self.fail("hangs")
        for program in (("limits",), ("processes",)):
            result = self.on_node("env", f"SLURM_JOB_ID={self.ada}", "/run/lab/bin/softmig", *program)
            self.assertGreaterEqual(result.returncode, 0, result)
        other = self.submit("-w", "n1", "--gres=gpu:l40s.4:1", user="cyd", command=str(PROBE))
        self.assertEqual(self.seen(other)["total"], QUARTER)

    def test_noise_and_cutting(self):
        self.tampered("head -c 400000 /dev/urandom | dd of={} conv=notrunc status=none bs=64 seek=1")
        self.tampered("head -c 400000 /dev/urandom | dd of={} conv=notrunc status=none")
        self.tampered(": >{}")

    def test_ones_and_zeros(self):
        self.tampered("tr '\\\\0' '\\\\377' </dev/zero | head -c 400000 | "
                      "dd of={} conv=notrunc status=none bs=64 seek=1 2>/dev/null")
        self.tampered("head -c 400000 /dev/zero | dd of={} conv=notrunc status=none")


@unittest.skipIf(BY_CGROUP, "the same whatever Slurm knows processes by")
class Forged(gpu_site.Case):
    """What a user can make Slurm say."""

    def test_texts_that_look_like_a_record(self):
        for gres in ("(null)", "shard:l40s:4(IDX:0)", "gpu:l40s:1(IDX:0)"):
            for name in (FORGED + gres, f"{FORGED}{gres} \nJobId=99 JobName=b"):
                job = self.probing("-w", "n1", "--gres=gpu:l40s.4:1", "-J", name, take=64)
                self.assertEqual(self.seen(job)["total"], QUARTER, name)
                job = self.submit("-w", "n1", "--gres=shard:1", "-J", name, "--comment", name,
                                  command=str(PROBE))
                lab.wait_for("cancelled", lambda job=job: "CANCELLED" in self.lab.output(
                    "squeue", "-h", "-t", "all", "-j", job, "-o", "%T"))
                self.assert_got_nothing(job)
                self.lab.cancel_all()

    def test_names_that_only_look_odd(self):
        for name in ("train (v2", "a [b", "Nodes=n1", "GRES=", "x\ny"):
            for gres in ("gpu:l40s.4:1", "shard:1"):
                job = self.probing("-w", "n1", f"--gres={gres}", "-J", name, take=64)
                self.assertEqual(self.seen(job)["total"], QUARTER, name)
                self.lab.cancel_all()

    def test_variables_do_not_reach_the_prolog(self):
        job = self.probing("-w", "n1", "--gres=gpu:l40s.4:1", take=64,
                           before="env -u NUM_SHARDS_PER_GPU")
        self.seen(job)
        other = self.lab.as_user(
            "ada", "sbatch", "--parsable", "-w", "n1", "--gres=gpu:l40s.4:1", "-o", f"{lab.HOME}/%A.out",
            "--wrap", f"{PROBE} --take 64", env={
                **gpu_site.JOB_ENVIRONMENT, "NUM_SHARDS_PER_GPU": "1", "SLURM_JOB_GPUS": "7",
                "SLURM_JOB_RESTART_COUNT": "9", "LD_LIBRARY_PATH": str(ELSEWHERE),
                "SLURMD_NODENAME": "n2"}).stdout.strip()
        self.assertEqual(self.seen(other)["total"], QUARTER)


if __name__ == "__main__":
    unittest.main()
