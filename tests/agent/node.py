"""A node for the tests of the agent: simulated GPUs, jobs with configs and regions in /run/softmig, and
softmigd. All of it in a mount namespace of this process's own; skipped, aloud, where there is none.

Jobs are cgroups where cgroups can be made. Elsewhere processes carry SLURM_JOB_ID, which the agent
believes where the cgroup names no job, as on a node without proctrack/cgroup."""

import atexit
import ctypes
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

BUILD = pathlib.Path(os.environ["SOFTMIG_BUILD"])
# On a real card, one class after another; LIBRARIES: a folder with what softmigd needs besides.
REAL = bool(os.environ.get("SOFTMIG_REAL"))
LIBRARIES = os.environ.get("SOFTMIG_LIBRARIES", "")
SOURCE = pathlib.Path(os.environ["SOFTMIG_SOURCE"])
MIB = 1 << 20
GIB = 1 << 30
RUN = pathlib.Path("/run/softmig")
LOGS = pathlib.Path("/var/log/softmig")
USER, OTHER = 5001, 5002
CLONE_NEWNS = 0x00020000
MS_REC, MS_PRIVATE = 16384, 1 << 18


def own_namespace():
    """Whether this process has /run and /var/log to itself now."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0 or libc.unshare(CLONE_NEWNS) != 0:
        return False
    if libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None) != 0:
        return False
    for place in (b"/run", b"/var/log"):
        if libc.mount(b"tmpfs", place, b"tmpfs", 0, b"mode=755,size=1g") != 0:
            return False
    return True


def cgroup_folder():
    """A folder below which cgroups of jobs can be made, or None."""
    for mount in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/pids"):
        folder = pathlib.Path(mount) / f"softmig_test_slurm_{os.getpid()}"
        if not (pathlib.Path(mount) / "cgroup.procs").exists():
            continue
        try:
            folder.mkdir()
            job = folder / "job_1"
            job.mkdir()
            # Only where /proc shows it as a path that names the job.
            child = subprocess.Popen(["sleep", "5"])
            (job / "cgroup.procs").write_text(str(child.pid))
            shown = pathlib.Path(f"/proc/{child.pid}/cgroup").read_text()
            child.kill()
            child.wait()
            job.rmdir()
            if "/job_1" in shown:
                return folder
            folder.rmdir()
        except OSError:
            continue
    return None


class Node(unittest.TestCase):
    """One node for all tests of a class."""

    sim = "1x48G:l40s"
    site = ""
    options = ()
    environment = {}

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="softmig-agent-", dir="/run"))
        cls.folder.chmod(0o755)
        for name in ("libsoftmig.so", "agent_probe"):
            shutil.copy(cls.built(name), cls.folder / name)
        if not REAL:
            shutil.copytree(BUILD / "sim", cls.folder / "sim", symlinks=True,
                            ignore=shutil.ignore_patterns("CMakeFiles", "*.cmake", "Makefile"))
        (cls.folder / "state").mkdir()
        (cls.folder / "state").chmod(0o1777)
        for place in (RUN, LOGS):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(mode=0o755)
        LOGS.chmod(0o1777)
        cls.cgroups = cgroup_folder()
        cls.processes, cls.agent, cls.used = [], None, set()
        cls.faults = cls.folder / "faults"
        cls.faults.write_text("")
        cls.faults.chmod(0o644)
        cls.port = free_port()
        # Whatever Slurm this machine has hears nothing of our jobs.
        cls.calls = cls.folder / "calls"
        cls.calls.write_text("")
        for name in ("scontrol", "scancel"):
            script = cls.folder / name
            script.write_text(f'#!/bin/sh\necho {name} "$@" >>{cls.calls}\n')
            script.chmod(0o755)
        cls.site_file = cls.folder / "softmig.conf"
        cls.configure(cls.site)

    @staticmethod
    def built(name):
        found = [p for p in (BUILD / name, BUILD / "tests" / "agent" / name) if p.exists()]
        return found[0]

    @classmethod
    def tearDownClass(cls):
        cls.stop_agent()
        for process in cls.processes:
            process.kill()
        cls.kill_all()
        for process in cls.processes:
            process.wait()
            process.stdout.close()
        if cls.cgroups:
            for _ in range(100):
                try:
                    for job in cls.cgroups.glob("job_*"):
                        job.rmdir()
                    cls.cgroups.rmdir()
                    break
                except OSError:
                    cls.kill_all()
                    time.sleep(0.05)
        shutil.rmtree(cls.folder, ignore_errors=True)

    @classmethod
    def kill_all(cls):
        """What left its parents behind."""
        for pid in cls.probes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    @classmethod
    def probes(cls):
        """Processes of this test's copy of the probe."""
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                if os.readlink(f"/proc/{entry}/exe") == str(cls.folder / "agent_probe"):
                    found.append(int(entry))
            except OSError:
                pass
        return found

    @classmethod
    def configure(cls, site):
        fresh = cls.site_file.with_suffix(".new")
        fresh.write_text(f"METRICS_ADDRESS=127.0.0.1:{cls.port}\n{site}\n")
        fresh.rename(cls.site_file)

    @classmethod
    def sim_environment(cls):
        if REAL:
            return {"PATH": os.environ["PATH"]}
        return {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": str(cls.folder / "sim" / "13.0"),
                "SOFTMIG_SIM": cls.sim, "SOFTMIG_SIM_STATE": str(cls.folder / "state" / "node")}

    # --- jobs

    @classmethod
    def uuids(cls):
        if not hasattr(cls, "_uuids") or cls._uuids[0] != cls.sim:
            run = subprocess.run([str(BUILD / "softmig"), "status", "--json"], check=True,
                                 stdout=subprocess.PIPE, env=cls.sim_environment())
            cls._uuids = cls.sim, re.findall(rb'"uuid": *"(GPU-[^"]*)"', run.stdout)
        return [u.decode() for u in cls._uuids[1]]

    @classmethod
    def job(cls, number, memory="12288M", sm=None, uid=USER, gpus=None, extra="", region=True):
        """What the prolog does."""
        if gpus is None:
            gpus = cls.uuids()
        text = f"CUDA_DEVICE_MEMORY_LIMIT={memory}\nSOFTMIG_GPUS={','.join(gpus)}\nSOFTMIG_UID={uid}\n"
        if sm is not None:
            text += f"CUDA_DEVICE_SM_LIMIT={sm}\n"
        if region:
            subprocess.run([str(cls.folder / "agent_probe"), "region", str(RUN / f"{number}.region"),
                            str(uid)], check=True)
        fresh = RUN / f".{number}"
        fresh.write_text(text + extra)
        fresh.chmod(0o644)
        fresh.rename(RUN / f"{number}.conf")
        if cls.cgroups:
            (cls.cgroups / f"job_{number}").mkdir(exist_ok=True)

    @classmethod
    def end_job(cls, number):
        for path in RUN.glob(f"{number}.*"):
            path.unlink()

    @classmethod
    def start(cls, number, *words, uid=USER, library=True, prefix=(), variables=None, wait=True,
              program=None):
        """A program of a job (None: of none). Returns it and, once it has what it wants, its pid."""
        environment = cls.sim_environment() | (variables or {})
        if library:
            environment["LD_PRELOAD"] = str(cls.folder / "libsoftmig.so")
        enter = None
        if number is not None:
            # The library, which is in the same cgroup, needs no variable; where there are no
            # cgroups both go by it.
            if cls.cgroups:
                enter = cls.cgroups / f"job_{number}" / "cgroup.procs"
            else:
                environment["SLURM_JOB_ID"] = str(number)

        def into():
            if enter:
                enter.write_text(str(os.getpid()))
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)

        process = subprocess.Popen([*prefix, str(program or cls.folder / "agent_probe"), *map(str, words)],
                                   env=environment, preexec_fn=into, cwd="/", stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, start_new_session=True)
        cls.processes.append(process)
        if not wait:
            return process, process.pid
        line = process.stdout.readline().decode()
        if not line.startswith(("ok", "result")):
            raise AssertionError(f"{words}: {line!r}")
        return process, int(line.split()[1])

    # --- the agent

    @classmethod
    def start_agent(cls, *options, first_look=True):
        environment = cls.sim_environment() | {"SOFTMIG_SIM_FAULT": f"@{cls.faults}"} | cls.environment
        environment["PATH"] = f"{cls.folder}:{environment['PATH']}"
        if LIBRARIES:
            environment["LD_LIBRARY_PATH"] = f"{LIBRARIES}:{environment.get('LD_LIBRARY_PATH', '')}"
        with open(cls.folder / "agent.log", "wb") as output:
            words = [str(BUILD / "softmigd"), "--config", str(cls.site_file), *options, *cls.options]
            if not REAL:
                words += ["--devices", cls.sim_environment()["SOFTMIG_SIM_STATE"]]
            cls.agent = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=output,
                                         stderr=output)
        atexit.register(cls.agent.kill)
        if first_look:
            cls.until(lambda: cls.value("softmig_agent_looks_total") >= 1, 10, "the first look")

    @classmethod
    def stop_agent(cls):
        if cls.agent is None:
            return None
        cls.agent.terminate()
        try:
            status = cls.agent.wait(10)
        except subprocess.TimeoutExpired:
            cls.agent.kill()
            cls.agent.wait()
            raise
        cls.agent = None
        return status

    @classmethod
    def said(cls):
        return (cls.folder / "agent.log").read_text(errors="replace")

    @classmethod
    def metrics(cls):
        """The page as {(name, frozenset of labels): value}."""
        with urllib.request.urlopen(f"http://127.0.0.1:{cls.port}/metrics", timeout=5) as page:
            text = page.read().decode()
        found = {}
        for line in text.splitlines():
            match = re.match(r"([a-z_]+)(?:\{(.*)\})? (\S+)$", line)
            if match:
                labels = frozenset(re.findall(r'([a-z_]+)="([^"]*)"', match.group(2) or ""))
                found[match.group(1), labels] = float(match.group(3))
        return found

    @classmethod
    def value(cls, name, **labels):
        """Sum of a metric over all that has these labels; 0 if there is none, -1 without an agent."""
        try:
            return sum(value for (known, have), value in cls.metrics().items()
                       if known == name and set(labels.items()) <= have)
        except OSError:
            return -1

    @classmethod
    def until(cls, condition, seconds, what):
        """Waits, and returns how long it took."""
        begin = time.monotonic()
        while not condition():
            if time.monotonic() - begin > seconds:
                raise AssertionError(f"not within {seconds} s: {what}\n{cls.said()[-3000:]}")
            time.sleep(0.02)
        return time.monotonic() - begin

    def named(self, verdict, job, seconds=2, pid=None):
        """Waits for the agent's words about a job; returns how long that took."""
        subject = "no job" if job is None else f"job {job}"
        words = rf"{subject}: {verdict}: .*" + (rf"process {pid} " if pid else "")
        # Two seconds are promised; this machine may be busy with other tests.
        return self.until(lambda: re.search(words, self.said()), seconds + 3, f"{words}")

    @classmethod
    def driver_library(cls):
        """The driver's own library, by its path."""
        if not REAL:
            return cls.folder / "sim/13.0/libcuda.so.1"
        known = subprocess.run(["ldconfig", "-p"], stdout=subprocess.PIPE, text=True, check=True).stdout
        return re.search(r"libcuda\.so\.1 .*=> (\S+)", known).group(1)

    def assertGone(self, pid, seconds=6):
        def gone():
            try:
                with open(f"/proc/{pid}/stat") as stat:
                    return stat.read().rsplit(")", 1)[1].split()[0] in "ZX"
            except OSError:
                return True
        self.until(gone, seconds, f"process {pid} dies")

    def start_prometheus(self, labels="{}"):
        """One that scrapes the agent every second and adds these labels; its address."""
        port = free_port()
        config = self.folder / "prometheus.yml"
        config.write_text(f"""global:
  scrape_interval: 1s
scrape_configs:
  - job_name: softmigd
    static_configs:
      - targets: ['127.0.0.1:{self.port}']
        labels: {labels}
""")
        server = subprocess.Popen(
            ["prometheus", f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}",
             f"--storage.tsdb.path={self.folder / 'tsdb'}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        return f"http://127.0.0.1:{port}"

    def assertLives(self, pid):
        with open(f"/proc/{pid}/stat") as stat:
            self.assertNotIn(stat.read().rsplit(")", 1)[1].split()[0], "ZX")


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def free_port():
    import socket
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main():
    """Runs every class of the test as a process with a node of its own, all at once."""
    if len(sys.argv) == 1:
        runs = [subprocess.Popen([sys.executable, sys.argv[0], case.__name__], stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT) for case in Node.__subclasses__()]
        for run in runs:
            sys.stdout.write(run.communicate()[0].decode(errors="replace"))
        statuses = [run.returncode for run in runs]
        sys.exit(77 if set(statuses) == {77} else int(any(statuses)))
    if not own_namespace():
        print("skipped: needs root and a mount namespace")
        sys.exit(77)
    unittest.main(verbosity=2)
