"""Many short jobs at once: none gets a wrong limit, and no node is lost. What the prologs took is printed;
it depends on the machine's other work (docs/benchmarks.md)."""

import os
import pathlib
import re
import statistics
import unittest

import gpu_site
import lab

COUNT = int(os.environ.get("SOFTMIG_BURST", "200"))
# (user, GPU, shards) of jobs that are submitted one by one; the other half is one array of cyd's.
KINDS = (("ada", "l40s", 1), ("bob", "a100", 1), ("dan", "l40s", 2), ("ada", "a100", 2))
SHOW = f"cat {gpu_site.LIMITS}/$SLURM_JOB_ID.conf"


def processor_ms():
    """What each prolog and its children took of a core: the second line of bash's `times` of each."""
    lines = pathlib.Path("/run/lab/prolog.times").read_text(encoding="ascii").splitlines()[1::2]
    return [sum(60000 * float(minutes) + 1000 * float(seconds) for minutes, seconds in
                re.findall(r"(\d+)m([\d.]+)s", line)) for line in lines]


def setUpModule():
    """One site for all."""
    gpu_site.Case.lab = gpu_site.start()


class Burst(gpu_site.Case):
    """Half of them an array, the others of several users and sizes."""

    def array(self, count):
        """An array of quarters; {file of a task: what it must hold}."""
        self.submit(f"--array=1-{count}", "--gres=gpu:l40s.4:1", "-o", f"{lab.HOME}/task.%a",
                    user="cyd", command=SHOW)
        return {f"task.{task}": ("cyd", "l40s", 1) for task in range(1, count + 1)}

    def singles(self, count):
        """As array, for single jobs."""
        made = {}
        for number in range(count):
            user, gpu, shards = KINDS[number % len(KINDS)]
            self.submit(f"--gres=gpu:{gpu}.{4 // shards}:1", "-o", f"{lab.HOME}/single.{number}",
                        user=user, command=SHOW)
            made[f"single.{number}"] = (user, gpu, shards)
        return made

    def test_no_wrong_limit_and_no_drained_node(self):
        made = {**self.array(COUNT // 2), **self.singles(COUNT - COUNT // 2)}
        lab.wait_for("all done", lambda: not self.lab.output("squeue", "-h").strip(), seconds=75)
        self.assert_no_node_was_drained()
        for name, (user, gpu, shards) in made.items():
            text = (lab.HOME / name).read_text(encoding="ascii")
            self.assertIn(f"CUDA_DEVICE_MEMORY_LIMIT={gpu_site.slice_of(gpu, shards)}M\n", text, name)
            self.assertIn(f"CUDA_DEVICE_SM_LIMIT={25 * shards}\n", text, name)
            self.assertIn(f"SOFTMIG_UID={lab.FIRST_UID + lab.USERS.index(user)}\n", text, name)
        spent = [int(us) / 1000 for us in pathlib.Path("/run/lab/prolog.us").read_text().split()]
        self.assertGreaterEqual(len(spent), COUNT)
        print(f"{len(spent)} prologs: median {statistics.median(spent):.1f} ms, "
              f"most {max(spent):.1f} ms, of a core {statistics.median(processor_ms()):.1f} ms, "
              f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    unittest.main()
