#!/usr/bin/env python3
"""A small real Slurm on this machine: munged, slurmctld and slurmd's, out of everybody's sight.

    lab.py [--tracking=KIND] SCRIPT [ARGS...]   runs a Python script of tests in a lab of its own
    lab.py [--tracking=KIND] --shell            a shell in a lab, to look around

KIND is how Slurm knows a job's processes: linuxproc (by their parents), cgroup1 or cgroup2.

The lab lives in namespaces of its own (mounts, processes, network, host name, IPC, cgroups): /etc is an
overlay, and /run, /var/log, /var/lib and /var/spool are in memory. So the programs use their real paths,
ports and users collide with nothing, several labs run beside each other, and nothing is left behind
whatever ends it: when its first process dies, the kernel kills the rest. Cgroups of a lab that was
killed are empty, and the next lab removes them.

Needs root and Debian's slurmctld, slurmd, slurm-client, slurm-wlm-basic-plugins and munge. Where
something is missing the exit status is 77, with a line that says what.
"""

import ctypes
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import sys
import time

SKIPPED = 77
HERE = pathlib.Path(__file__).resolve().parent
SOURCE = HERE.parent.parent
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "unshare", "setpriv", "ip")
PACKAGES = "slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge util-linux iproute2"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOST = "softmig-lab"
USERS = ("ada", "bob", "cyd", "dan")
FIRST_UID = 59001
DEVICES = pathlib.Path("/run/lab/dev")
HOME = pathlib.Path("/run/lab/home")  # of all users
PLAIN = pathlib.Path("/etc/slurm-plain")  # a client that has no cli_filter

# Nodes and the GPUs in them, as slurm.conf and gres.conf tell it.
NODES = {"n1": ["l40s"], "n2": ["l40s", "a100-sxm4"]}
SHARDS = 4

SLURM_CONF = """\
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmUser=slurm
AuthType=auth/munge
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd.%n
SlurmctldPidFile=/run/slurm/slurmctld.pid
SlurmdPidFile=/run/slurmd.%n.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.%n.log
SlurmctldDebug=info
SlurmdDebug=info
{tracking}
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
MailProg=/bin/true
SwitchType=switch/none
KillWait=2
InactiveLimit=0
PropagateResourceLimits=NONE
GresTypes=gpu,shard
JobSubmitPlugins=lua
{extra}
NodeName=DEFAULT Sockets=1 CoresPerSocket=16 ThreadsPerCore=1 RealMemory=20000 State=UNKNOWN
{nodes}
PartitionName=all Nodes={all} Default=YES MaxTime=INFINITE State=UP DefMemPerCPU=100
"""

TRACKING = {
    "linuxproc": ("ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nPrologFlags=Alloc",
                  "CgroupPlugin=cgroup/v1\n"),
    "cgroup1": ("ProctrackType=proctrack/cgroup\nTaskPlugin=task/cgroup\nPrologFlags=Contain",
                "CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\nConstrainRAMSpace=yes\n"),
    "cgroup2": ("ProctrackType=proctrack/cgroup\nTaskPlugin=task/cgroup\nPrologFlags=Contain",
                "CgroupPlugin=cgroup/v2\nCgroupMountpoint=/sys/fs/cgroup\nIgnoreSystemd=yes\n"
                "IgnoreSystemdOnFailure=yes\n"),
}
ONLY_V2 = os.environ.get("SOFTMIG_LAB_ONLY_V2", "")  # a library that hides cgroup v1 from slurmd
SOFTMIG_SIM = os.environ.get("SOFTMIG_SIM_TOOL", "softmig-sim")
KIND = os.environ.get("SOFTMIG_LAB_TRACKING", "linuxproc")
HIERARCHIES = ("freezer", "memory", "devices", "cpuset", "cpuacct")  # of cgroup v1, that slurmd needs
PRELOAD = pathlib.Path("/etc/ld.so.preload")  # the lab's own
LIBRARY = pathlib.Path("/var/lib/shared/libsoftmig.so")  # likewise
GPU_STATE = "/run/lab/gpu/state"  # the simulated GPUs of a node, on it


class LabError(Exception):
    """The lab did not come up; the text says why."""


def missing():
    """What keeps a lab from running here, or None."""
    if os.getuid() != 0:
        return "needs root"
    lacking = [name for name in PROGRAMS if not shutil.which(name, path=PATH)]
    if lacking:
        return f"{', '.join(lacking)} not found; apt-get install {PACKAGES}"
    for user in ("slurm", "munge"):
        try:
            pwd.getpwnam(user)
        except KeyError:
            return f"there is no user {user}; apt-get install {PACKAGES}"
    trial = subprocess.run(unshared("sh", "-c", "mount -t tmpfs none /run && mkdir /run/d && "
                                    "mknod /run/d/null c 1 3 && : > /run/d/null"),
                           capture_output=True, text=True, check=False)
    if trial.returncode != 0:
        return f"namespaces cannot be made here: {trial.stderr.strip()}"
    return None


def unshared(*command, cgroup=False):
    """The command, as the first process of namespaces of its own that die with it."""
    return ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", *["--cgroup"] * cgroup, "--fork",
            "--kill-child=KILL", "--mount-proc", "--propagation", "private", *command]


def cgroup_mounts():
    """Where the hierarchies of cgroups are mounted: {"freezer": folder, ..., "2": folder}."""
    found = {}
    for line in pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        left, right = line.split(" - ")
        kind, _, options = right.split(" ", 2)
        folder = pathlib.Path(left.split(" ")[4])
        if kind == "cgroup2":
            found["2"] = folder
        elif kind == "cgroup":
            found.update((name, folder) for name in options.split(",") if name in HIERARCHIES)
    return found


def remove_cgroups(top):
    """A folder of cgroups without processes, from below. One that is in use stays."""
    for folder, _, _ in os.walk(top, topdown=False):
        try:
            os.rmdir(folder)
        except OSError:
            pass


def enter_cgroups():
    """Puts this process in cgroups of its own -> those, or what keeps it from that as a text."""
    wanted = {"cgroup1": HIERARCHIES, "cgroup2": ("2",), "linuxproc": ()}[KIND]
    mounts = cgroup_mounts()
    made = []
    for name in wanted:
        if name not in mounts:
            return f"no cgroup hierarchy {name} is mounted: {KIND} cannot be tried"
        for old in mounts[name].glob("softmig-lab.*"):
            if not os.path.exists(f"/proc/{old.suffix[1:]}"):
                remove_cgroups(old)
        folder = mounts[name] / f"softmig-lab.{os.getpid()}"
        try:
            folder.mkdir()
            made.append(folder)
            if name == "cpuset":  # empty ones take no process
                for what in ("cpus", "mems"):
                    (folder / f"cpuset.{what}").write_text((mounts[name] / f"cpuset.{what}").read_text())
            (folder / "cgroup.procs").write_text("0")
        except OSError as error:
            return f"cgroups cannot be made here: {error}"
    return made


def mount_cgroups():
    """As the first process: /sys/fs/cgroup as on a machine that has this kind alone."""
    if KIND == "linuxproc":
        return
    run("mount", "-t", "tmpfs" if KIND == "cgroup1" else "cgroup2", "lab", "/sys/fs/cgroup")
    for name in HIERARCHIES if KIND == "cgroup1" else ():
        folder = f"/sys/fs/cgroup/{name}"
        os.mkdir(folder)
        run("mount", "-t", "cgroup", "-o", name, "lab", folder)
    if KIND == "cgroup2":
        # What has processes of its own can hand nothing on to those below.
        for name in ("lab", "system.slice"):
            os.makedirs(f"/sys/fs/cgroup/{name}", exist_ok=True)
        pathlib.Path("/sys/fs/cgroup/lab/cgroup.procs").write_text("0", encoding="ascii")


def run(*command, check=True, timeout=60, **options):
    """subprocess.run with captured text, bounded: Slurm's clients wait for a dead controller."""
    return subprocess.run(command, check=check, timeout=timeout, text=True, errors="replace",
                          capture_output=True, stdin=subprocess.DEVNULL, **options)


def wait_for(what, true, seconds=30):
    """Polls until true() holds."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise LabError(f"{what}: not within {seconds} seconds")
        time.sleep(0.05)


def read_config(path):
    """A job's config as {key: value}; None if there is none."""
    if not path.exists():
        return None
    lines = path.read_text(encoding="ascii").splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def slurmd_environment():
    """What slurmd needs to take a machine with both versions of cgroups for one with the second."""
    lines = pathlib.Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    return {"LD_PRELOAD": ONLY_V2} if KIND == "cgroup2" and ONLY_V2 and len(lines) > 1 else {}


def mount_private_folders():
    """Puts memory where the lab writes."""
    run("mount", "-t", "tmpfs", "-o", "mode=755", "lab", "/run")
    for folder in ("/run/lab/etc", "/run/lab/etc.work"):
        os.makedirs(folder)
    overlay = run("mount", "-t", "overlay", "-o",
                  "lowerdir=/etc,upperdir=/run/lab/etc,workdir=/run/lab/etc.work", "lab", "/etc",
                  check=False)
    if overlay.returncode != 0:  # as on an overlay that is itself on an overlay
        run("cp", "-a", "/etc/.", "/run/lab/etc")
        run("mount", "--bind", "/run/lab/etc", "/etc")
    for folder in ("/var/log", "/var/lib", "/var/spool", "/var/cache"):
        run("mount", "-t", "tmpfs", "-o", "mode=755", "lab", folder)
    os.mkdir(HOME)
    HOME.chmod(0o1777)


def add_names():
    """The host and ordinary users, in the lab's /etc alone."""
    pathlib.Path("/etc/hosts").write_text(f"127.0.0.1 localhost {HOST}\n", encoding="ascii")
    with open("/etc/passwd", "a", encoding="ascii") as passwd, \
            open("/etc/group", "a", encoding="ascii") as group:
        for number, name in enumerate(USERS, FIRST_UID):
            passwd.write(f"{name}:x:{number}:{number}::{HOME}:/bin/bash\n")
            group.write(f"{name}:x:{number}:\n")


def make_folder(path, owner, mode):
    """A folder of that owner."""
    os.makedirs(path, exist_ok=True)
    shutil.chown(path, owner, owner)
    os.chmod(path, mode)


def make_devices(nodes):
    """Character devices that can be opened, numbered as a node's GPUs."""
    DEVICES.mkdir(parents=True)
    for index in range(max(len(gpus) for gpus in nodes.values())):
        path = DEVICES / f"nvidia{index}"
        os.mknod(path, 0o20666, os.makedev(4, 48 + index))
        os.chmod(path, 0o666)


def gres_of(gpus):
    """A node's Gres= of slurm.conf."""
    types = sorted(set(gpus))
    return ",".join([f"gpu:{name}:{gpus.count(name)}" for name in types] +
                    [f"shard:{name}:{gpus.count(name) * SHARDS}" for name in types])


class Lab:
    """A running Slurm. Made within the namespaces, by main()."""

    def __init__(self, nodes=None, extra=""):
        self.nodes = dict(nodes or NODES)
        self.extra = extra
        self.softmig_conf = pathlib.Path("/etc/softmig/softmig.conf")

    # Setting up ------------------------------------------------------------------------------------

    def start(self):
        """Starts everything; returns when all nodes are idle."""
        make_devices(self.nodes)
        make_folder("/etc/slurm", "root", 0o755)
        make_folder(self.softmig_conf.parent, "root", 0o755)
        self.write_configs()
        self.start_munge()
        self.start_controller()
        for node in self.nodes:
            self.start_node(node)
        wait_for("nodes idle", self.all_idle)

    def write_configs(self):
        """slurm.conf (with and without cli_filter), gres.conf, and SoftMig's Lua as they are shipped."""
        ports = {name: 17000 + number for number, name in enumerate(self.nodes, 1)}
        lines = [f"NodeName={name} NodeHostname={HOST} NodeAddr=127.0.0.1 Port={ports[name]} "
                 f"Gres={gres_of(gpus)}" for name, gpus in self.nodes.items()]
        tracking, cgroup = TRACKING[KIND]
        conf = SLURM_CONF.format(host=HOST, extra=self.extra, tracking=tracking, nodes="\n".join(lines),
                                 all=",".join(self.nodes))
        gres = ["AutoDetect=off"]
        for name, gpus in self.nodes.items():
            for index, kind in enumerate(gpus):
                place = f"Type={kind} File={DEVICES}/{self.device_file(index)}"
                gres += [f"NodeName={name} Name=gpu {place}",
                         f"NodeName={name} Name=shard Count={SHARDS} {place}"]
        PLAIN.mkdir()
        for folder, more in (("/etc/slurm", "CliFilterPlugins=lua\n"), (PLAIN, "")):
            folder = pathlib.Path(folder)
            (folder / "slurm.conf").write_text(conf + more, encoding="ascii")
            (folder / "gres.conf").write_text("\n".join(gres) + "\n", encoding="ascii")
            (folder / "cgroup.conf").write_text(cgroup, encoding="ascii")
            (folder / "plugstack.conf").write_text("", encoding="ascii")
            for name in ("softmig_rules", "job_submit_softmig", "cli_filter_softmig"):
                shutil.copy(SOURCE / "slurm" / f"{name}.lua", folder)
            os.symlink("job_submit_softmig.lua", folder / "job_submit.lua")
            os.symlink("cli_filter_softmig.lua", folder / "cli_filter.lua")

    def start_munge(self):
        """munged, with a key of its own."""
        for folder in ("/etc/munge", "/run/munge", "/var/log/munge", "/var/lib/munge"):
            make_folder(folder, "munge", 0o755 if folder == "/run/munge" else 0o700)
        key = pathlib.Path("/etc/munge/munge.key")
        key.unlink(missing_ok=True)
        key.write_bytes(os.urandom(128))
        shutil.chown(key, "munge", "munge")
        key.chmod(0o400)
        run("setpriv", "--reuid", "munge", "--regid", "munge", "--clear-groups", "munged",
            "--num-threads=2")

    def start_controller(self):
        """slurmctld, with an empty state."""
        for folder in ("/run/slurm", "/var/log/slurm", "/var/spool/slurmctld"):
            make_folder(folder, "slurm", 0o755)
        self.daemon("slurmctld", "slurmctld", "-c")
        wait_for("slurmctld answers", lambda: "UP" in self.output("scontrol", "ping"))

    def start_node(self, node, *options):
        """The slurmd of one node, with a /run/softmig of its own: run_folder() outside of it."""
        os.makedirs(f"/var/spool/slurmd.{node}", exist_ok=True)
        os.makedirs("/run/softmig", exist_ok=True)
        self.run_folder(node).mkdir(parents=True, exist_ok=True)
        self.daemon(f"slurmd.{node}", *self.on_node(node, "slurmd", "-N", node, *options),
                    env={**os.environ, **slurmd_environment()})

    def on_node(self, node, *command):
        """The command, as it is run on that node: it has its own /run/softmig and GPUs."""
        gpus = pathlib.Path(f"/run/lab/gpus/{node}")
        for folder in (gpus, pathlib.Path(GPU_STATE).parent):
            folder.mkdir(parents=True, exist_ok=True)
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c",
                f'mount --bind {self.run_folder(node)} /run/softmig && '
                f'mount --bind {gpus} {os.path.dirname(GPU_STATE)} && exec "$@"', "sh", *command]

    def preload(self, library, drivers, gpus):
        """Puts the library into every program of the lab, and simulated GPUs behind it: `drivers` is
        the folder of their driver, `gpus` what each node has, as SOFTMIG_SIM wants it."""
        LIBRARY.parent.mkdir()
        shutil.copy(library, LIBRARY)
        for driver in pathlib.Path(drivers).glob("lib*.so.1"):
            shutil.copy(driver, LIBRARY.parent)
        pathlib.Path("/etc/ld.so.conf").write_text(f"{LIBRARY.parent}\n"
                                                   "include /etc/ld.so.conf.d/*.conf\n")
        run("ldconfig", "-X", "-i")
        for node, cards in gpus.items():
            folder = pathlib.Path(f"/run/lab/gpus/{node}")
            folder.mkdir(parents=True)
            run(SOFTMIG_SIM, "show", env={"SOFTMIG_SIM_STATE": str(folder / "state"),
                                          "SOFTMIG_SIM": cards, "PATH": PATH})
            (folder / "state").chmod(0o666)
        PRELOAD.write_text(f"{LIBRARY}\n", encoding="ascii")

    def device_file(self, index):
        """The name of a node's GPU in DEVICES."""
        return f"nvidia{index}"

    def run_folder(self, node):
        """What is /var/run/softmig on that node."""
        return pathlib.Path(f"/run/lab/nodes/{node}")

    def daemon(self, log, *command, **options):
        """Starts a daemon that goes to the background by itself."""
        result = run(*command, check=False, start_new_session=True, **options)
        if result.returncode != 0:
            raise LabError(f"{command[0]}: {result.stderr}{self.log(log)}")

    def all_idle(self):
        """Whether every node takes jobs."""
        states = self.output("sinfo", "-h", "-N", "-o", "%t").split()
        return len(states) == len(self.nodes) and set(states) == {"idle"}

    # Using it --------------------------------------------------------------------------------------

    def log(self, name, lines=20):
        """The end of a daemon's log."""
        try:
            text = pathlib.Path(f"/var/log/slurm/{name}.log").read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def output(self, *command):
        """What a command prints, as root; empty if it fails."""
        result = run(*command, check=False)
        return result.stdout if result.returncode == 0 else ""

    def as_user(self, user, *command, plain=False, env=None, timeout=30):
        """A command as an ordinary user with a clean environment. `plain`: without cli_filter."""
        variables = {"PATH": PATH, "USER": user, "HOME": str(HOME), **(env or {})}
        if plain:
            variables["SLURM_CONF"] = str(PLAIN / "slurm.conf")
        return run("setpriv", "--reuid", user, "--regid", user, "--init-groups", *command,
                   check=False, timeout=timeout, env=variables, cwd=HOME)

    def job(self, number):
        """A job's record, as scontrol shows it: {"JobState": ...}."""
        text = self.output("scontrol", "-d", "-o", "show", "job", str(number))
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def cancel_all(self):
        """Ends all jobs, and waits until they are gone."""
        for state in ("PENDING", "RUNNING"):  # in this order, or what waits would start
            jobs = self.output("squeue", "-h", f"--states={state}", "-o", "%A").split()
            if jobs:
                run("scancel", *jobs, check=False)
        wait_for("no job left", lambda: not self.output("squeue", "-h").strip())


def reap_until(child):
    """As the first process: buries every orphan, until the child ends."""
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def inside(command):
    """The first process of the lab."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: os._exit(1))
    child = os.fork()
    if child != 0:
        return reap_until(child)
    mount_private_folders()
    mount_cgroups()
    run("hostname", HOST)
    run("ip", "link", "set", "lo", "up")
    # A name look-up with AI_ADDRCONFIG finds nothing at all where 127.0.0.1 is the only address.
    run("ip", "address", "add", "192.0.2.1/32", "dev", "lo")
    add_names()
    os.environ.update(PATH=PATH, PYTHONPATH=str(HERE), PYTHONDONTWRITEBYTECODE="1")
    for name in [name for name in os.environ if name.startswith(("SLURM", "SBATCH", "SALLOC"))]:
        del os.environ[name]
    os.chdir(HOME)
    os.execvp(command[0], command)
    return 1


def keep_cgroups(made):
    """Goes on in a child; this process waits for it and removes its cgroups."""
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: os.kill(child, signal.SIGKILL))
    _, status = os.waitpid(child, 0)
    for folder in made:
        (folder.parent / "cgroup.procs").write_text("0")
        end = time.monotonic() + 5
        while folder.exists() and time.monotonic() < end:
            remove_cgroups(folder)
            time.sleep(0.05)
    os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1)


def main():
    """The command line."""
    global KIND
    words = sys.argv[1:]
    if words[:1] == ["--inside"]:
        sys.exit(inside(words[1:]))
    if words and words[0].startswith("--tracking="):
        KIND = words.pop(0).partition("=")[2]
        os.environ["SOFTMIG_LAB_TRACKING"] = KIND
    if not words or KIND not in TRACKING:
        print(__doc__.strip(), file=sys.stderr)
        sys.exit(2)
    lack = missing()
    made = [] if lack else enter_cgroups()
    if isinstance(made, str):
        lack = made
    if lack:
        print(f"skipped: no Slurm lab: {lack}")
        sys.exit(SKIPPED)
    if made:
        keep_cgroups(made)
    command = [sys.executable, os.path.abspath(words[0]), *words[1:]]
    if words[0] == "--shell":
        command = [sys.executable, "-c", "import lab, os; lab.Lab().start(); os.execvp('bash', ['bash'])"]
    command = unshared(sys.executable, str(HERE / "lab.py"), "--inside", *command, cgroup=bool(made))
    os.execvpe(command[0], command, {**os.environ, "PATH": PATH})


if __name__ == "__main__":
    main()
