"""Every spelling of a slice, through the real sbatch, salloc, srun and scontrol."""

import concurrent.futures
import pathlib
import unittest

import lab

HERE = pathlib.Path(__file__).resolve().parent
NODES = {"n1": ["l40s"] * 3 + ["rtx_6000"], "n2": ["l40s"] * 3 + ["a100-sxm4"] * 2 + ["tesla.v100"]}
SHOW = "scontrol -o show job $SLURM_JOB_ID"

# What scontrol update makes of a job that has shard:l40s:3. Slurm 22.05 hands on no text when it refuses
# a change; slurmctld's log has it.
UPDATES = [
    ("gres=gpu:l40s.4:1", "shard:l40s:1"),
    ("gres=gpu:l40s.2", "shard:l40s:2"),
    ("gres=gpu:L40S.4=1", "shard:l40s:1"),
    ("Gres=gpu:a100-sxm4.2:1", "shard:a100-sxm4:2"),
    ("gres=shard:l40s:2", "shard:l40s:2"),
    ("TresPerNode=gres:gpu:l40s.4:1", "shard:l40s:1"),
    ("TresPerJob=gres:gpu:l40s.2:1", "shard:l40s:2"),
    ("TresPerTask=gres:gpu:l40s.2:1", "shard:l40s:2"),
    ("gres=l40s.4:1", "shard:l40s:1"),
    ("gres=gpu:l40s.3:1", '!"gpu:l40s.3:1" is not a slice'),
    ("gres=gpu:l40s.1:1", '!"gpu:l40s.1:1" is no slice but a whole GPU'),
    ("gres=gpu:l40s.4:2", '!"gpu:l40s.4:2" is not one slice'),
    ("gres=gpu:l40s.4,gpu:l40s.4", '!"gpu:l40s.4" is a second slice'),
    ("gres=gpu:l40s.4,gpu:l40s:1", '!"gpu:l40s.4" and "gpu:l40s:1" cannot be had in one job'),
    ("gres=shard:l40s:5", '!"shard:l40s:5" can never start'),
    ("TresPerSocket=gres:gpu:l40s.4", '!"gpu:l40s.4": a slice cannot be asked for per socket'),
    ("TresPerNode=gpu:l40s.4:1", '!"gpu:l40s.4:1" would be taken for no GPU at all'),
    # Slurm turns no shards into whole GPUs.
    ("gres=gpu:l40s:1", "!!Invalid generic resource"),
]


def spellings():
    """[(options, may it start, result with the filter, result without)]"""
    rows = []
    for line in (HERE / "spellings.tsv").read_text(encoding="ascii").splitlines():
        if line and not line.startswith(("#", "request\t")):
            request, filtered, plain = line.split("\t")
            words = request.split()
            starts = words[0] != "-"
            rows.append((words if starts else words[1:], starts, filtered,
                         filtered if plain == "=" else plain))
    return rows


def tres(text):
    """TresPerNode in an `scontrol -o show job`, without its first gres:."""
    for word in text.split():
        if word.startswith("TresPerNode="):
            return word.removeprefix("TresPerNode=").removeprefix("gres:")
    return "no TresPerNode"


def setUpModule():
    """One Slurm for all."""
    Case.lab = lab.Lab(NODES)
    Case.lab.start()


class Case(unittest.TestCase):
    """A test that leaves no job behind."""
    lab = None

    def tearDown(self):
        self.lab.cancel_all()


class Spellings(Case):
    """What a job becomes, by each client."""

    def check(self, expected, result, text):
        """Compares what a client said, or the job's TresPerNode in `text`, with the table."""
        if not expected.startswith("!"):
            self.assertEqual(result.returncode, 0, result.stderr)
            return self.assertEqual(tres(text), expected)
        self.assertNotEqual(result.returncode, 0, "was not refused")
        if expected.startswith("!!"):
            self.assertNotIn("SoftMig", result.stderr)
            return self.assertIn(expected[2:], result.stderr)
        ours = [line for line in result.stderr.splitlines() if "SoftMig: " in line]
        self.assertEqual(len(ours), 1, result.stderr)
        return self.assertIn("SoftMig: " + expected[1:], ours[0])

    def test_the_table_is_long(self):
        self.assertGreaterEqual(len(spellings()), 40)

    def test_sbatch(self):
        for plain in (False, True):
            for words, _, filtered, unfiltered in spellings():
                with self.subTest(request=" ".join(words), filter=not plain):
                    result = self.lab.as_user("ada", "sbatch", "-H", "--parsable", *words,
                                              "--wrap", "true", plain=plain)
                    job = result.stdout.strip()
                    text = self.lab.output("scontrol", "-o", "show", "job", job) if job else ""
                    self.check(unfiltered if plain else filtered, result, text)

    def at_once(self, client, script, plain):
        """[(row, result)] of all requests that may start. salloc waits in steps of three seconds."""
        rows = [row for row in spellings() if row[1]]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            return list(zip(rows, pool.map(lambda row: self.lab.as_user(
                "ada", client, *row[0], "sh", "-c", script, plain=plain, timeout=90), rows)))

    def test_salloc(self):
        for plain in (False, True):
            for (words, _, filtered, unfiltered), result in self.at_once("salloc", SHOW, plain):
                with self.subTest(request=" ".join(words), filter=not plain):
                    self.check(unfiltered if plain else filtered, result, result.stdout)

    def test_srun(self):
        script = f"echo had=$SLURM_SHARDS_ON_NODE; {SHOW}"
        for (words, _, filtered, _), result in self.at_once("srun", script, False):
            with self.subTest(request=" ".join(words)):
                self.check(filtered, result, result.stdout)
                if filtered.startswith("shard:l40s:") and "," not in filtered:
                    self.assertIn("had=" + filtered.rsplit(":", 1)[1], result.stdout.split())

    def test_scontrol_update(self):
        for change, expected in UPDATES:
            with self.subTest(change=change):
                job = self.lab.as_user("ada", "sbatch", "-H", "--parsable", "--gres=shard:l40s:3",
                                       "--wrap", "true").stdout.strip()
                result = self.lab.as_user("ada", "scontrol", "update", f"jobid={job}", change)
                text = self.lab.output("scontrol", "-o", "show", "job", job)
                if expected.startswith("!"):
                    self.assertNotEqual(result.returncode, 0, "was not refused")
                    self.assertIn("Invalid generic resource", result.stderr)
                    self.assertEqual(tres(text), "shard:l40s:3")
                    if not expected.startswith("!!"):
                        self.assertIn("SoftMig: " + expected[1:], self.lab.log("slurmctld", 5))
                else:
                    self.check(expected, result, text)

    def test_a_job_without_gpu_is_given_a_slice(self):
        job = self.lab.as_user("ada", "sbatch", "-H", "--parsable", "--wrap", "true").stdout.strip()
        result = self.lab.as_user("ada", "scontrol", "update", f"jobid={job}", "gres=gpu:l40s.4")
        self.check("shard:l40s:1", result, self.lab.output("scontrol", "-o", "show", "job", job))


class Steps(Case):
    """srun within a job, which job_submit never sees."""

    def steps(self, submit, plain, *steps):
        """What steps of a job print of their shards; `submit` is the job's request."""
        script = "unset SLURM_CONF\n" + "\n".join(
            f"srun -Q {step} sh -c 'echo \"[{step}] ${{SLURM_SHARDS_ON_NODE:-none}}\"'" for step in steps)
        path = lab.HOME / "steps.sh"
        path.write_text("#!/bin/sh\n" + script + "\n", encoding="ascii")
        out = lab.HOME / "steps.out"
        result = self.lab.as_user("bob", "sbatch", "--wait", "-o", str(out), *submit, str(path),
                                  plain=plain)
        self.assertIn("Submitted batch job", result.stdout, result.stderr)
        return out.read_text(encoding="ascii", errors="replace").splitlines()

    def test_steps_ask_as_their_job_did(self):
        asked = ["", "--gres=gpu:l40s.2:1", "--gpus=l40s.2", "--gpus-per-node=L40S.2:1",
                 "-n1 --gpus-per-task=l40s.2", "--gres=l40s.2"]
        for plain in (False, True):
            for submit in ("--gres=gpu:l40s.2:1", "--gpus=l40s.2:1", "--gpus-per-node=l40s.2"):
                with self.subTest(submit=submit, filter=not plain):
                    self.assertEqual(self.steps([submit], plain, *asked),
                                     [f"[{step}] 2" for step in asked])

    def test_a_step_may_take_less(self):
        self.assertEqual(self.steps(["--gres=gpu:l40s.2"], False, "--gres=gpu:l40s.4"),
                         ["[--gres=gpu:l40s.4] 1"])
        self.assertEqual(self.steps(["--gpus=l40s.2"], True, "--gres=none"), ["[--gres=none] none"])

    def test_a_step_of_what_is_no_slice_is_refused(self):
        said = self.steps(["--gres=gpu:l40s.2"], False, "--gres=gpu:l40s.3")
        self.assertTrue(any('SoftMig: "gpu:l40s.3" is not a slice' in line for line in said), said)


if __name__ == "__main__":
    unittest.main()
