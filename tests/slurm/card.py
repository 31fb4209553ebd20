#!/usr/bin/env python3
"""A Slurm lab on a machine with a card: four users submit four quarter jobs that run PyTorch, and
everything is looked at from outside. Needs root, and neither network nor packages: Slurm comes as
pack_slurm.sh made it, in its folder or its file.

    card.py --slurm-root slurmroot.tar.xz --build BUILD [--python PYTHON]    on a card
    card.py --slurm-root slurmroot.tar.xz --build BUILD --sim                on a simulated GPU

munged, slurmctld and slurmd run in namespaces of their own (mounts, network, host name), with a private
/etc, /run and /var/log. All of it is gone at the end, which comes after 150 s at the latest. What the
machine lacks is said before anything is started, all at once. Prints short lines; with --out FOLDER
they are in card.txt as well, all figures in card.json, and the logs of what did not hold in logs/.
Exit status 0 if every check held, 2 if nothing was begun.
"""

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import traceback

sys.dont_write_bytecode = True
import lab  # noqa: E402

MOST_SECONDS = 145
INSIDE_SECONDS = 132  # after which logs are still collected
START_SECONDS = 50  # for four PyTorch's to come up
BASE_SECONDS = 4
MIB = 1 << 20
USERS = ("card1", "card2", "card3", "card4")
FIRST_UID = 60001
DAEMON_UIDS = {"munge": 60011, "slurm": 60012}
BIN = pathlib.Path("/run/lab/bin")
LIB = pathlib.Path("/run/lab/lib")
CONFIGS = pathlib.Path("/run/softmig")
SITE = "NUM_SHARDS_PER_GPU=4\nMEMORY_RESERVE=2G\n"
SIM_GPU = "1x80G:h100"
BY_BOTH = ("LD_LIBRARY_PATH", "CUDA_DEVICE_ORDER", "SOFTMIG_SIM_STATE")  # prolog and jobs need them
NAMESPACES = ("--mount", "--uts", "--net", "--ipc", "--propagation", "private")
PROLOG = """\
#!/bin/bash
export PATH={bin}:{path}
{variables}
begin=${{EPOCHREALTIME/./}}
{program}
status=$?
echo $(( ${{EPOCHREALTIME/./}} - begin )) >>/run/lab/{name}.us
exit $status
"""
# In place of nvidia-smi, which does not know simulated GPUs: it lists everybody. The hook asks for one
# more column, the pid, and takes it away.
SIM_SMI = """\
#!/bin/sh
case "$*" in
  *memory.total*) echo 81920, 0 ;;
  *compute-apps*)
    for one in /proc/[0-9]*; do
      pid=${one#/proc/}
      if { tr '\\0' ' ' <"$one/cmdline"; } 2>/dev/null | grep -q 'card_job.py driver'; then
        echo "$pid, $pid, 600"
      fi
    done ;;
esac
"""
SYSTEM_PROGRAMS = ("bash", "unshare", "setpriv", "mount", "umount", "ldconfig", "ldd")
PACKED_PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmstepd", "sbatch", "squeue", "scontrol", "sinfo",
                   "scancel")
PLUGINS = "usr/lib/x86_64-linux-gnu/slurm-wlm"
RESULT = {"checks": [], "seconds": {}}
WRONG = []
OUT = None  # of card.txt and card.json, in the namespaces
BEGAN = time.monotonic()


def say(text):
    """One line, at once: what comes after may hang."""
    print(text, flush=True)
    if OUT:
        with open(OUT / "card.txt", "a", encoding="utf-8") as lines:
            lines.write(f"{text}\n")


def check(what, held, seen=""):
    """A line of the result."""
    say(f"{'ok   ' if held else 'WRONG'} {what}{': ' if seen != '' else ''}{seen}")
    RESULT["checks"].append({"what": what, "held": bool(held), "seen": seen})
    if not held:
        WRONG.append(what)


@contextlib.contextmanager
def step(what, seconds):
    """A part of the run that may take so long, and what there is left of the whole."""
    def late(*_):
        raise lab.LabError(f"{what}: not done after {time.monotonic() - begin:.0f} s")
    begin = time.monotonic()
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, max(0.1, min(seconds, BEGAN + INSIDE_SECONDS - begin)))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        RESULT["seconds"][what] = round(time.monotonic() - begin, 1)
    say(f"{what}: {RESULT['seconds'][what]} s")


# Outside of the namespaces -------------------------------------------------------------------------


class NotHere(Exception):
    """What is needed and is not there; the text names the file."""


def packed_name(folder, program):
    """A program of the packed Slurm, under either of its names, or None."""
    names = [f"{folder}/usr/{place}/{program}{end}" for place in ("bin", "sbin") for end in ("", "-wlm")]
    return next((name for name in names if os.path.exists(name)), None)


def find_root(folder):
    """Where in a folder the packed root is: itself, or a folder in it."""
    inner = sorted(path for path in folder.glob("*") if path.is_dir())
    for candidate in (folder, *inner):
        if packed_name(candidate, "slurmctld"):
            break
    else:
        raise NotHere(f"{folder}: no usr/sbin/slurmctld in it, but {[path.name for path in inner]}: "
                      "make it with tests/slurm/pack_slurm.sh, or name its .tar.xz")
    lacking = [name for name in PACKED_PROGRAMS if not packed_name(candidate, name)]
    if lacking or not (candidate / PLUGINS).is_dir():
        raise NotHere(f"{candidate}: lacks {', '.join(lacking) or PLUGINS}")
    return candidate


def stage_root(given, stage):
    """Puts the packed Slurm into stage/root, from its folder or from its file."""
    path = pathlib.Path(given)
    beside = path.with_name(f"{path.name}.tar.xz")
    if path.is_dir() and not any(path.iterdir()) and beside.exists():
        path = beside
    if path.is_dir():
        shutil.copytree(find_root(path), stage / "root", symlinks=True)
    elif path.is_file():
        options = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}
        try:
            with tarfile.open(path) as archive:
                archive.extractall(stage / "unpacked", **options)
        except (tarfile.TarError, OSError, EOFError) as error:
            raise NotHere(f"{path}: cannot be unpacked: {error}") from error
        os.rename(find_root(stage / "unpacked"), stage / "root")
    else:
        raise NotHere(f"{path}: is not there")


def stage_files(options, stage):
    """Copies what is needed to where it stays visible, whatever is mounted over."""
    for folder in ("slurm", "scripts", "tests/slurm"):
        shutil.copytree(lab.SOURCE / folder, stage / folder)
    for folder in ("build", "out"):
        (stage / folder).mkdir()
    build = pathlib.Path(options.build)
    programs = [build / "softmig", build / "libsoftmig.so"]
    if options.sim:
        programs += [build / "softmig-sim", *(build / "sim/13.0" / name for name in
                                              ("libcuda.so.1", "libnvidia-ml.so.1"))]
    lacking = [str(program) for program in programs if not program.exists()]
    if lacking:
        raise NotHere(f"not built: {', '.join(lacking)}")
    for program in programs:
        shutil.copy(program, stage / "build")
    stage_root(options.slurm_root, stage)
    stage.chmod(0o755)


def closed_to_others(path):
    """The first folder above a path that other users cannot pass, or None."""
    for folder in (*reversed(pathlib.Path(path).absolute().parents),
                   *reversed(pathlib.Path(path).resolve().parents)):
        if not folder.stat().st_mode & 1:
            return folder
    return None


def has_module(python, module):
    """Whether a Python has it, without loading it."""
    result = lab.run(python, "-c", "import importlib.util as u, sys; "
                     f"sys.exit(u.find_spec('{module}') is None)", check=False)
    return result.returncode == 0


def choose_python(options):
    """The Python that the jobs will run: the one that was told, or else the first that has what they need."""
    module = "ctypes" if options.sim else "torch"
    folders = [*os.environ.get("PATH", "").split(":"), *lab.PATH.split(":")]
    candidates = dict.fromkeys(filter(None, [
        options.python, sys.executable, *(f"{folder}/python3" for folder in folders)]))
    found = []
    for python in candidates:
        if not os.access(python, os.X_OK):
            continue
        closed = closed_to_others(python)
        if closed:
            found.append(f"{python}: other users cannot pass {closed}")
        elif not has_module(python, module):
            # A virtual environment's is a link, and what that leads to knows nothing of the environment.
            found.append(f"{python}: has no {module}")
        else:
            return python
    raise NotHere(f"no Python for the jobs: {'; '.join(found)}")


def lacks(options, stage):
    """Everything that keeps this machine from being the lab, as texts."""
    if os.getuid() != 0:
        return ["needs root"]
    found = []
    path = f"{os.environ.get('PATH', '')}:{lab.PATH}"
    missing = [name for name in SYSTEM_PROGRAMS if not shutil.which(name, path=path)]
    if missing:
        found.append(f"not installed: {', '.join(missing)}")
    for work in (lambda: stage_files(options, stage),
                 lambda: setattr(options, "python", choose_python(options))):
        try:
            work()
        except NotHere as error:
            found.append(str(error))
    if "unshare" not in missing and "mount" not in missing:
        trial = lab.run("unshare", *NAMESPACES, "mount", "-t", "tmpfs", "none", "/run", check=False)
        if trial.returncode != 0:
            found.append(f"namespaces cannot be made here: {trial.stderr.strip()}")
    if not options.sim:
        devices = [pathlib.Path("/dev/nvidiactl"), pathlib.Path("/dev/nvidia-uvm"),
                   *pathlib.Path("/dev").glob("nvidia[0-9]*")]
        for path in devices:
            if not path.exists():
                found.append(f"{path}: is not there")
            elif path.stat().st_mode & 6 != 6:
                found.append(f"{path}: is not for other users")
        if len(devices) == 2:
            found.append("/dev/nvidia0: is not there")
    return found


def children_of(pid):
    """All processes below one."""
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, new = [], [pid]
    while new:
        new = [child for one in new for child in parents.get(one, [])]
        found += new
    return found


def end_all():
    """Kills and buries everything that this process started, daemons too (see main)."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        left = children_of(os.getpid())
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0] != 0:
                pass
        except ChildProcessError:
            return True
        time.sleep(0.05)
    return False


def outside(options):
    """Looks whether all is there, starts the rest in namespaces, and ends it in time."""
    stage = pathlib.Path(tempfile.mkdtemp(prefix="softmig-card.", dir="/tmp"))
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans come to us
    status = 1
    try:
        told = options.python
        found = lacks(options, stage)
        if told and options.python != told:
            say(f"{told} cannot run the jobs, {options.python} does")
        if found or options.check:
            for text in found:
                say(f"LACKS {text}")
            say("nothing was started" if found else f"all is there; jobs will run {options.python}")
            return 2 if found else 0
        with subprocess.Popen(
                ["unshare", *NAMESPACES, sys.executable, str(stage / "tests/slurm/card.py"), "--inside",
                 str(stage), *sys.argv[1:], "--python", options.python],
                stdin=subprocess.DEVNULL) as process:
            try:
                status = process.wait(MOST_SECONDS)
            except subprocess.TimeoutExpired:
                say(f"WRONG not done after {MOST_SECONDS} s")
                process.kill()
    finally:
        if not end_all():
            say("WRONG processes are left")
            status = 1
        if options.out and (stage / "out").is_dir():
            shutil.copytree(stage / "out", options.out, dirs_exist_ok=True)
        shutil.rmtree(stage, ignore_errors=True)
    return status


# Within: the machine -------------------------------------------------------------------------------


def network():
    """127.0.0.1, and a second address: where it is the only one, look-ups of names find nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        def interface(name, request, value):
            fcntl.ioctl(control, request, struct.pack("16s24s", name, value))

        def address(text):
            return struct.pack("HH4s", socket.AF_INET, 0, socket.inet_aton(text))
        interface(b"lo", 0x8914, struct.pack("h", 0x49))  # SIOCSIFFLAGS: up, loopback, running
        interface(b"lo:1", 0x8916, address("192.0.2.1"))  # SIOCSIFADDR
        interface(b"lo:1", 0x891C, address("255.255.255.255"))  # SIOCSIFNETMASK


def add_daemon_users():
    """munge and slurm, where the machine has none."""
    for name, number in DAEMON_UIDS.items():
        if f"\n{name}:" in pathlib.Path("/etc/passwd").read_text():
            continue
        with open("/etc/passwd", "a", encoding="ascii") as passwd:
            passwd.write(f"{name}:x:{number}:{number}::/nonexistent:/bin/false\n")
        with open("/etc/group", "a", encoding="ascii") as group:
            group.write(f"{name}:x:{number}:\n")


def install_slurm(root):
    """Names for the packed programs, and the loader finds those of their libraries that the machine
    lacks."""
    for folder in (BIN, LIB):
        folder.mkdir()
    for folder in ("usr/bin", "usr/sbin"):
        for program in (root / folder).iterdir():
            os.symlink(program, BIN / program.name.removesuffix("-wlm"))
    known = lab.run("ldconfig", "-p").stdout
    libraries = sorted(root.glob("**/lib/x86_64-linux-gnu/lib*.so.*"))
    targets = {os.readlink(library) for library in libraries if library.is_symlink()}
    for library in libraries:
        if library.name not in targets and f"\t{library.name} " not in known:
            os.symlink(library, LIB / library.name)
    with open("/etc/ld.so.conf", "a", encoding="ascii") as conf:
        conf.write(f"\n{root}/{PLUGINS}\n{LIB}\n")
    lab.run("ldconfig", "-X", "-i", check=False)
    files = [packed_name(root, program) for program in PACKED_PROGRAMS] + [f"{root.parent}/build/softmig"]
    loaded = lab.run("ldd", *files, *map(str, (root / PLUGINS).glob("*.so")), check=False)
    wrong = [line.strip() for line in (loaded.stdout + loaded.stderr).splitlines() if "not found" in line]
    if wrong:
        raise lab.LabError(f"Slurm or softmig cannot be loaded here: {'; '.join(sorted(set(wrong)))}")
    RESULT["slurm"] = lab.run("slurmd", "-V").stdout.strip()
    say(f"{RESULT['slurm']}, packed libraries in use: "
        f"{', '.join(sorted(path.name for path in LIB.iterdir())) or 'none'}")


def shared_variables():
    """What the prolog and the jobs must have of this process's environment."""
    return {name: os.environ[name] for name in BY_BOTH if name in os.environ}


def install_softmig(stage):
    """The library in every program that starts from now on, the command, the hook of nvidia-smi."""
    variables = "\n".join(f"export {name}={value!r}" for name, value in shared_variables().items())
    for name in ("prolog", "epilog"):
        path = pathlib.Path(f"/run/lab/{name}.sh")
        path.write_text(PROLOG.format(bin=BIN, path=lab.PATH, variables=variables, name=name,
                                      program=stage / f"slurm/{name}_softmig.sh"), encoding="ascii")
        path.chmod(0o755)
    for name, source in (("softmig", "build/softmig"), ("nvidia-smi", "scripts/nvidia-smi-hook.sh")):
        shutil.copy(stage / source, BIN / name)
        (BIN / name).chmod(0o755)
    lab.LIBRARY.parent.mkdir()
    shutil.copy(stage / "build/libsoftmig.so", lab.LIBRARY)
    os.makedirs("/var/log/softmig")
    os.chmod("/var/log/softmig", 0o1777)
    lab.PRELOAD.write_text(f"{lab.LIBRARY}\n", encoding="ascii")


def make_simulated_gpu(stage):
    """A GPU in memory, and its driver where programs find it."""
    place = pathlib.Path("/run/lab/sim")
    place.mkdir()
    os.environ["SOFTMIG_SIM_STATE"] = str(place / "state")
    lab.run(str(stage / "build/softmig-sim"), "show", env={**os.environ, "SOFTMIG_SIM": SIM_GPU})
    (place / "state").chmod(0o666)
    os.environ["LD_LIBRARY_PATH"] = str(stage / "build")
    smi = pathlib.Path("/run/lab/real")
    smi.mkdir()
    (smi / "nvidia-smi").write_text(SIM_SMI, encoding="ascii")
    (smi / "nvidia-smi").chmod(0o755)
    lab.PATH = f"{smi}:{lab.PATH}"


class CardLab(lab.Lab):
    """One node, which is this machine."""

    def __init__(self, file, *arguments):
        super().__init__(*arguments)
        self.file = file

    def on_node(self, node, *command):
        if command[0] == "slurmd":
            command += ("-d", str(BIN / "slurmstepd"))
        return list(command)

    def run_folder(self, node):
        return CONFIGS

    def device_file(self, index):
        return self.file


# Within: the card, from outside of all jobs --------------------------------------------------------


class ProcessInfo(ctypes.Structure):
    """nvmlProcessInfo_t"""
    _fields_ = [("pid", ctypes.c_uint), ("bytes", ctypes.c_ulonglong), ("instance", ctypes.c_uint),
                ("compute", ctypes.c_uint)]


class Sample(ctypes.Structure):
    """nvmlProcessUtilizationSample_t"""
    _fields_ = [("pid", ctypes.c_uint), ("at_us", ctypes.c_ulonglong), ("sm", ctypes.c_uint),
                ("memory", ctypes.c_uint), ("encoder", ctypes.c_uint), ("decoder", ctypes.c_uint)]


class Watch(threading.Thread):
    """Looks at the card ten times a second: memory and utilisation of each process."""

    def __init__(self, folder):
        super().__init__(daemon=True)
        name = "libnvidia-ml.so.1"
        self.nvml = ctypes.CDLL(str(folder / name) if folder else name)
        self.device = ctypes.c_void_p()
        self.nvml.nvmlInit_v2()
        code = self.nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.device))
        if code != 0:
            raise lab.LabError(f"NVML shows no GPU: {code}")
        self.most, self.used, self.seen_at = {}, {}, 0
        self.counting = self.ended = False

    def name(self):
        """The card's."""
        text = ctypes.create_string_buffer(96)
        self.nvml.nvmlDeviceGetName(self.device, text, 96)
        return text.value.decode()

    def device_file(self):
        """The card's: it need not be the first."""
        number = ctypes.c_uint()
        self.nvml.nvmlDeviceGetMinorNumber(self.device, ctypes.byref(number))
        return f"nvidia{number.value}"

    def others(self):
        """How many processes have the card open."""
        count, infos = ctypes.c_uint(64), (ProcessInfo * 64)()
        self.nvml.nvmlDeviceGetComputeRunningProcesses_v3(self.device, ctypes.byref(count), infos)
        return count.value

    def look(self):
        """Once."""
        count, infos = ctypes.c_uint(64), (ProcessInfo * 64)()
        look = self.nvml.nvmlDeviceGetComputeRunningProcesses_v3
        if look(self.device, ctypes.byref(count), infos) == 0:
            for info in infos[:count.value]:
                self.most[info.pid] = max(self.most.get(info.pid, 0), info.bytes // MIB)
        count, samples = ctypes.c_uint(256), (Sample * 256)()
        if self.nvml.nvmlDeviceGetProcessUtilization(self.device, samples, ctypes.byref(count),
                                                     ctypes.c_ulonglong(self.seen_at)) != 0:
            return
        for sample in samples[:count.value]:
            if sample.at_us <= self.seen_at and self.seen_at:
                continue
            if self.counting:
                self.used.setdefault(sample.pid, []).append(sample.sm)
        self.seen_at = max([self.seen_at, *(sample.at_us for sample in samples[:count.value])])

    def run(self):
        while not self.ended:
            self.look()
            time.sleep(0.1)

    def share(self, pid):
        """Mean utilisation of the SMs by one process while counted, in percent, or None."""
        values = self.used.get(pid)
        return sum(values) / len(values) if values else None


# Within: the jobs ----------------------------------------------------------------------------------


class Jobs:
    """Four jobs of four users."""

    def __init__(self, site, options, stage, gpu):
        self.site, self.options, self.gpu = site, options, gpu
        self.program = (f"{options.python} {stage}/tests/slurm/card_job.py "
                        f"{'driver' if options.sim else 'torch'}")
        self.environment = {**shared_variables(), "PATH": lab.PATH}
        self.numbers = []

    def try_python(self):
        """Whether the users can run what the jobs will."""
        modules = "ctypes" if self.options.sim else "torch"
        result = self.site.as_user(USERS[0], self.options.python, "-c", f"import {modules}",
                                   env=self.environment, timeout=60)
        if result.returncode != 0:
            raise lab.LabError(f"{self.options.python} as {USERS[0]}: {result.stderr[-600:]}")

    def alone(self):
        """Steps a second of the program, without Slurm and limits."""
        result = lab.run("sh", "-c", f"exec {self.program} {BASE_SECONDS} - - -", check=False,
                         env={**os.environ, "PATH": lab.PATH})
        if result.returncode != 0:
            raise lab.LabError(f"alone: {result.stderr[-600:]}")
        return json.loads(result.stdout.splitlines()[-1])["per_second"]

    def submit(self):
        """By sbatch."""
        for number, user in enumerate(USERS):
            files = " ".join(f"{lab.HOME}/{name}" for name in (f"ready.{number}", "go", f"full.{number}"))
            result = self.site.as_user(
                user, "sbatch", "--parsable", "-o", f"{lab.HOME}/{user}.out", "-c", "2",
                f"--gres=gpu:{self.gpu}.4:1", "--wrap",
                f"exec {self.program} {self.options.seconds} {files}", env=self.environment)
            if result.returncode != 0:
                raise lab.LabError(f"sbatch of {user}: {result.stderr}")
            self.numbers.append(result.stdout.strip())

    def wait(self, what, true, seconds):
        """wait_for, with what is known if it takes too long, or if no job is left to wait for."""
        def is_over():
            return true() or not self.site.output("squeue", "-h").strip()
        try:
            lab.wait_for(what, is_over, seconds)
            if not true():
                raise lab.LabError(f"{what}: but no job is left")
        except lab.LabError as error:
            outputs = [self.text(user)[-400:] for user in USERS]
            raise lab.LabError(f"{error}\n{self.site.output('squeue', '-t', 'all')}{outputs}") from error

    def text(self, user):
        """What a job printed."""
        try:
            return (lab.HOME / f"{user}.out").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def seen(self, user):
        """The job's last line."""
        lines = [line for line in self.text(user).splitlines() if line.startswith("{")]
        if not lines:
            raise lab.LabError(f"{user} said nothing: {self.text(user)[-600:]}")
        return json.loads(lines[-1])

    def run(self, watch):
        """Starts them together, watches, and returns {user: its config} and {user: what it saw}."""
        def made(kind):
            return lambda: all((lab.HOME / f"{kind}.{i}").exists() for i in range(len(USERS)))
        with step("four jobs have the card open", START_SECONDS + 2):
            self.submit()
            self.wait("all jobs have the card open", made("ready"), START_SECONDS)
        configs = {user: (CONFIGS / f"{job}.conf").read_text(encoding="ascii")
                   for user, job in zip(USERS, self.numbers)}
        with step("they compute", self.options.seconds + 30):
            (lab.HOME / "go").touch()
            time.sleep(1)
            watch.counting = True
            time.sleep(max(1, self.options.seconds - 2))
            watch.counting = False
            self.wait("all jobs have filled their slices", made("full"), 25)
        with step("they end", 32):
            self.wait("all jobs are over", lambda: not self.site.output("squeue", "-h").strip(), 30)
        return configs, {user: self.seen(user) for user in USERS}


def value(config, key):
    """One of a config's values."""
    return re.search(f"^{key}=(.*)$", config, re.MULTILINE).group(1)


def report(configs, seen, watch, alone):
    """Checks, and the figures of each job."""
    shares = []
    for user in USERS:
        one, limit = seen[user], int(value(configs[user], "CUDA_DEVICE_MEMORY_LIMIT").removesuffix("M"))
        apps = {line.split(",")[0] for line in one["smi_apps"] if line.strip()}
        outside = watch.most.get(one["pid"])
        shares.append(100 * one["per_second"] / alone)
        used = watch.share(one["pid"])
        say(f"{user} job {one['job']} uid {one['uid']}: limit {limit} MiB, slots "
            f"{value(configs[user], 'SOFTMIG_SLOTS')}, total {one['total']}, free {one['free']}, taken "
            f"{one['taken']}, free then {one['free_at_last']}, from outside at most {outside} MiB, "
            f"{one['per_second']:.1f} steps/s = {shares[-1]:.1f} % of alone, SM use "
            f"{'not told' if used is None else f'{used:.1f} %'}")
        refused = " ".join(one["refused"].split())
        say(f"  refused: {refused[:230]}")
        RESULT.setdefault("jobs", {})[user] = {
            **one, "config": configs[user].splitlines(), "outside_mib": outside, "share": shares[-1],
            "sm_use": used}
        check(f"{user} sees its slice", one["total"] == limit, one["total"])
        check(f"{user} was refused within it", limit * 0.85 <= one["taken"] <= limit, one["taken"])
        check(f"{user} never had more", outside is not None and 0 < outside <= limit, outside)
        check(f"{user}: nvidia-smi lists its own process alone", apps == {str(one["pid"])}, sorted(apps))
        if len(one["smi"]) > 3:
            check(f"{user}: nvidia-smi shows the slice", f"{limit}MiB" in "".join(one["smi"]),
                  one["smi_memory"])
    check("nobody gets much of another's quarter", max(shares) < 32, " ".join(f"{s:.1f}" for s in shares))
    say(f"sum of shares {sum(shares):.1f} %")
    RESULT["sum_of_shares"] = sum(shares)
    for line in seen[USERS[0]]["limits"]:
        say(f"  softmig limits: {line}")
    for line in seen[USERS[0]]["smi"]:
        if "MiB" in line or re.search(r" +[CG] +", line):
            say(f"  nvidia-smi: {line.strip()}")


def card_type(name):
    """h100 of "NVIDIA H100 80GB HBM3"."""
    found = re.search(r"[A-Za-z]+\d+[A-Za-z]*", name)
    return found.group(0).lower() if found else "gpu"


def prepare(options, stage):
    """The machine within the namespaces -> who watches the card, and the lab."""
    lab.mount_private_folders()
    if os.path.isdir("/sys/fs/cgroup") and options.hide_cgroups:
        lab.run("umount", "-l", "/sys/fs/cgroup", check=False)
    network()
    socket.sethostname(lab.HOST)
    lab.add_names()
    add_daemon_users()
    os.makedirs("/etc/softmig")
    pathlib.Path("/etc/softmig/softmig.conf").write_text(SITE, encoding="ascii")
    if options.sim:
        make_simulated_gpu(stage)
    lab.PATH = f"{BIN}:{lab.PATH}"
    os.environ["PATH"] = lab.PATH
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    watch = Watch(stage / "build" if options.sim else None)
    gpu = card_type(watch.name())
    RESULT["card"] = watch.name()
    say(f"{watch.name()}: gres type {gpu}, /dev/{watch.device_file()}, processes of others on it: "
        f"{watch.others()}")
    install_slurm(stage / "root")
    install_softmig(stage)
    if not options.sim:
        lab.DEVICES = pathlib.Path("/dev")
        lab.make_devices = lambda nodes: None
    site = CardLab("nvidia0" if options.sim else watch.device_file(), {"n1": [gpu]},
                   f"Prolog=/run/lab/prolog.sh\nEpilog=/run/lab/epilog.sh\n"
                   f"PluginDir={stage}/root/{PLUGINS}\n")
    return watch, site, gpu


def work(options, stage):
    """Everything, in the namespaces, step by step."""
    with step("the machine is prepared", 20):
        watch, site, gpu = prepare(options, stage)
    watch.start()
    with step("slurm is up", 30):
        site.start()
    jobs = Jobs(site, options, stage, gpu)
    with step(f"{options.python} runs as a user", 45):
        jobs.try_python()
    with step("alone", 40):
        alone = jobs.alone()
    say(f"alone: {alone:.1f} steps/s")
    RESULT["alone"] = alone
    configs, seen = jobs.run(watch)
    watch.ended = True
    report(configs, seen, watch, alone)
    with step("the epilogs are over", 12):
        lab.wait_for("nothing is left in /run/softmig", lambda: not list(CONFIGS.glob("[0-9]*")), 10)
    check("nothing is left of the jobs", True)
    state = site.output("sinfo", "-h", "-N", "-o", "%t").strip()
    check("the node is kept", state in ("idle", "comp"), state)
    for name in ("prolog", "epilog"):
        spent = pathlib.Path(f"/run/lab/{name}.us").read_text(encoding="ascii").split()
        RESULT[f"{name}_ms"] = [int(us) / 1000 for us in spent]
        say(f"{name}s, ms: {' '.join(f'{ms:.0f}' for ms in RESULT[f'{name}_ms'])}")


def keep_logs():
    """What tells why something did not hold."""
    for folder in ("/var/log/slurm", "/var/log/softmig", "/var/log/munge", str(lab.HOME), str(CONFIGS)):
        for path in pathlib.Path(folder).glob("*"):
            if path.is_file() and path.stat().st_size < 1 << 20:
                place = OUT / "logs" / folder.strip("/").replace("/", "-")
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place)


def inside(options):
    """Everything, in the namespaces."""
    global OUT
    stage = pathlib.Path(options.inside)
    OUT = stage / "out"
    os.umask(0o022)
    lab.FIRST_UID, lab.USERS, lab.SOURCE = FIRST_UID, USERS, stage
    lab.PATH = f"{os.environ.get('PATH', '')}:{lab.PATH}"
    os.environ["PATH"] = lab.PATH
    try:
        work(options, stage)
    except Exception as error:  # whatever it is, the run has cost too much to say nothing
        text = getattr(error, "stderr", None) or ""
        check("the run came to its end", False, f"{type(error).__name__}: {error} {text}".strip())
        if not isinstance(error, (lab.LabError, OSError, subprocess.SubprocessError)):
            say(traceback.format_exc())
    if WRONG:
        keep_logs()
        for name in ("slurmctld", "slurmd.n1"):
            path = pathlib.Path(f"/var/log/slurm/{name}.log")
            if path.exists():
                say("\n".join(path.read_text(errors="replace").splitlines()[-12:]))
    RESULT["failed"] = WRONG
    RESULT["seconds"]["all"] = round(time.monotonic() - BEGAN, 1)
    say(f"{'all checks held' if not WRONG else f'{len(WRONG)} checks failed'}, "
        f"{RESULT['seconds']['all']} s")
    (OUT / "card.json").write_text(json.dumps(RESULT, indent=1), encoding="utf-8")
    return 1 if WRONG else 0


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slurm-root", required=True, metavar="FOLDER|FILE", help="of pack_slurm.sh")
    parser.add_argument("--build", required=True)
    parser.add_argument("--python", help="that has PyTorch; if it has not, the first that has")
    parser.add_argument("--seconds", type=float, default=20, help="for which the jobs compute")
    parser.add_argument("--out", metavar="FOLDER", help="for card.txt, card.json and logs/")
    parser.add_argument("--check", action="store_true", help="say what is lacking, and start nothing")
    parser.add_argument("--sim", action="store_true")
    parser.add_argument("--hide-cgroups", action="store_true", help="as on a machine without any")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    return inside(options) if options.inside else outside(options)


if __name__ == "__main__":
    sys.exit(main())
