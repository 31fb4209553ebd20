"""A site that has SoftMig, in a lab: prolog and epilog, simulated GPUs, the library in every program.

    SOFTMIG             the command line under test
    SOFTMIG_LIBRARY     the library under test
    SOFTMIG_SIM_DRIVER  folder of the simulated libcuda.so.1
    SOFTMIG_SIM_NVML    folder of the simulated libnvidia-ml.so.1
    SOFTMIG_SIM_TOOL    softmig-sim
"""

import json
import os
import pathlib
import re
import shutil
import unittest

import lab

SOFTMIG = os.environ["SOFTMIG"]
# In Slurm's order and in that of the device numbers alike.
NODES = {"n1": ["l40s"], "n2": ["a100", "l40s"]}
CARDS = {"n1": "1x48G:l40s", "n2": "1x80G:a100+1x48G:l40s"}
TOTAL = {"l40s": 49152, "a100": 81920}  # MiB
RESERVE = {"l40s": 1024, "a100": 2048}  # or the last slice would not have all of its memory
CONTEXT = 600  # MiB, at most, of which a program in a slice does not get to dispose
SITE = "NUM_SHARDS_PER_GPU=4\n" + "".join(f"MEMORY_RESERVE[{k}]={v}M\n" for k, v in RESERVE.items())
OUT_OF_MEMORY = 2
# CUDA would put the faster card first, and Slurm's numbers mean the order of the bus.
JOB_ENVIRONMENT = {"SOFTMIG_SIM_STATE": lab.GPU_STATE, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
LIMITS = pathlib.Path("/run/softmig")
PROLOG = """\
#!/bin/bash
export PATH=/run/lab/bin:/usr/bin:/bin SOFTMIG_SIM_STATE={state}
{slurmd}
if [ -e /run/lab/before_prolog ]; then . /run/lab/before_prolog; fi
begin=${{EPOCHREALTIME/./}}
$WRAP /etc/slurm/prolog_softmig.sh 2>>/run/lab/prolog.err
status=$?
echo $(( ${{EPOCHREALTIME/./}} - begin )) >>/run/lab/prolog.us
times >>/run/lab/prolog.times
exit $status
"""
EPILOG = """\
#!/bin/sh
export PATH=/run/lab/bin:/usr/bin:/bin
exec /etc/slurm/epilog_softmig.sh
"""
# What belongs to a node and not to a job; and what who was killed left of them, for a minute.
KEPT = ("asking", "board", "cgroup_ns", "gpus", "gres", "lock", "requests")
PROBE = pathlib.Path("/run/lab/gpu_probe.py")


def slice_of(gpu, shards):
    """Memory of so many shards, in MiB."""
    return (TOTAL[gpu] - RESERVE[gpu]) * shards // 4


def script(path, text):
    """An executable file."""
    path = pathlib.Path(path)
    path.write_text(text, encoding="ascii")
    path.chmod(0o755)


def is_buried(path):
    """Whether this is what the epilog of a requeued job leaves."""
    try:
        return path.name.endswith(".conf") and "was requeued" in path.read_text(encoding="ascii")
    except OSError:
        return False


def start(extra=""):
    """Makes the site, with more lines in slurm.conf -> its lab."""
    site = lab.Lab(NODES, f"Prolog=/run/lab/prolog.sh\nEpilog=/run/lab/epilog.sh\n{extra}")
    # It calls slurmd.
    slurmd = "".join(f"export {name}={value}" for name, value in lab.slurmd_environment().items())
    script("/run/lab/prolog.sh", PROLOG.format(state=lab.GPU_STATE, slurmd=slurmd))
    script("/run/lab/epilog.sh", EPILOG)
    os.makedirs("/etc/slurm", exist_ok=True)
    for name in ("prolog", "epilog"):
        shutil.copy(lab.SOURCE / "slurm" / f"{name}_softmig.sh", "/etc/slurm")
    for folder in ("/run/lab/bin", "/run/lab/driver", "/var/log/softmig"):
        os.makedirs(folder)
    os.chmod("/var/log/softmig", 0o1777)
    shutil.copy(SOFTMIG, "/run/lab/bin/softmig")
    shutil.copy(lab.HERE / "gpu_probe.py", PROBE)
    PROBE.chmod(0o755)
    for variable in ("SOFTMIG_SIM_DRIVER", "SOFTMIG_SIM_NVML"):
        for library in pathlib.Path(os.environ[variable]).glob("lib*.so.1"):
            shutil.copy(library, "/run/lab/driver")
    site.softmig_conf.parent.mkdir()
    site.softmig_conf.write_text(SITE, encoding="ascii")
    site.preload(os.environ["SOFTMIG_LIBRARY"], "/run/lab/driver", CARDS)
    site.start()
    return site


class Case(unittest.TestCase):
    """Jobs of several users, and nothing left of them afterwards."""
    lab = None

    def setUp(self):
        self.folders = {node: self.lab.run_folder(node) for node in NODES}
        self.go = lab.HOME / "go"
        self.go.unlink(missing_ok=True)

    def tearDown(self):
        self.lab.softmig_conf.write_text(SITE, encoding="ascii")
        self.go.touch()
        self.lab.cancel_all()
        try:
            lab.wait_for("nothing is left of jobs", lambda: not self.left())
        except lab.LabError:
            self.fail(f"left: {self.left()}, {self.lab.log('slurmd.n1', 40)}")
        self.assert_no_node_was_drained()

    def left(self):
        """What there is of jobs on the nodes; configs of requeued jobs are to stay for ten minutes."""
        return [str(entry) for folder in self.folders.values() for entry in folder.iterdir()
                if not entry.name.startswith(KEPT) and not is_buried(entry)]

    def assert_no_node_was_drained(self):
        """No node is lost to the jobs that come next."""
        states = self.lab.output("sinfo", "-h", "-N", "-o", "%t").split()
        self.assertEqual(len(states), len(NODES))
        for state in states:
            self.assertFalse(state.startswith(("drain", "drng", "down", "fail", "unk")), states)

    def submit(self, *options, user="ada", command):
        """A job; its id. What it prints is in said()."""
        result = self.lab.as_user(user, "sbatch", "--parsable", "-o", f"{lab.HOME}/%A.out", *options,
                                  "--wrap", command, env=JOB_ENVIRONMENT)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout.strip()

    def probing(self, *options, user="ada", take="all", before=""):
        """A job that takes memory, and holds it until self.go; its id."""
        return self.submit(*options, user=user,
                           command=f"{before} {PROBE} --take {take} --hold {self.go}")

    def said(self, job):
        """What the job has printed, as text."""
        try:
            return (lab.HOME / f"{job}.out").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def seen(self, job, line=0):
        """What a probing job has printed."""
        try:
            lab.wait_for(f"job {job} says line {line}", lambda: self.said(job).count("\n") > line)
        except lab.LabError as error:
            record = self.lab.output("scontrol", "-o", "show", "job", str(job))
            raise lab.LabError(f"{error}: {self.said(job)!r} {record} {self.lab.log('slurmd.n1')} "
                               f"{self.lab.log('slurmd.n2')}") from error
        text = self.said(job).splitlines()[line]
        self.assertTrue(text.startswith("{"), f"job {job}: {text}")
        return json.loads(text)

    def assert_got_nothing(self, job):
        """A cancelled job: its script may begin before that reaches slurmd, but it is closed."""
        for line in self.said(job).splitlines():
            if line.startswith("{"):
                self.assertNotEqual(json.loads(line)["opened"], 0, line)
            else:
                self.assertIn("CANCELLED", line)

    def step(self, job, *command, user="ada", env=None):
        """A program in a running job -> what it prints, as JSON."""
        result = self.lab.as_user(user, "srun", f"--jobid={job}", "--overlap", *command,
                                  env={**JOB_ENVIRONMENT, **(env or {})})
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout.splitlines()[-1])

    def config(self, job, node="n1"):
        """The config of a job as {key: value}; None if there is none."""
        return lab.read_config(self.folders[node] / f"{job}.conf")

    def assert_slice(self, seen, mib):
        """A probe saw a slice of this size, and could take all of it and no more."""
        self.assertEqual(seen["opened"], 0)
        for key in ("total", "whole", "nvml_total"):
            self.assertEqual(seen[key], mib, seen)
        if seen["refused"]:
            self.assertEqual(seen["refused"], OUT_OF_MEMORY)
            self.assertLessEqual(seen["taken"], mib - 500, seen)
            self.assertGreaterEqual(seen["taken"], mib - CONTEXT - 64, seen)

    def comment(self, job):
        """What the user of a job reads about it."""
        text = self.lab.output("scontrol", "-o", "show", "job", str(job))
        found = re.search("Comment=(.*?) (?:StdErr|Command|WorkDir)=", text)
        return found.group(1) if found else ""
