#!/usr/bin/env python3
"""Runs every command that README.md and docs show, on a node of its own: the lab of tests/slurm (a
private Slurm with a simulated L40S), SoftMig installed there as the documents say, softmigd, and a job.
Output that a document shows is compared with the real one. How commands are run, and which are not, is
in rules.py.

    tests/slurm/lab.py tests/docs/commands_test.py        SOFTMIG_BUILD is the build folder

Stand-ins: sudo, systemctl (starts and stops softmigd), journalctl, dmesg, python with a module torch
that asks the driver itself, and nvidia-smi, which asks NVML as it would.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "slurm")]
import commands  # noqa: E402
import lab  # noqa: E402
import rules  # noqa: E402

SOURCE = HERE.parents[1]
BUILD = pathlib.Path(os.environ["SOFTMIG_BUILD"])
ROOM = pathlib.Path("/run/docs")
TREE = ROOM / "tree"  # the repository, as the reader has it
NODE, TYPE, CARDS = "n1", "l40s", "2x48G:l40s"
USER, UID = lab.USERS[0], lab.FIRST_UID
MARK = "\036"
PATIENCE_S = 60
SCRIPT = r"(bench|tests|tools)/\S+\.py( |$)"  # of the repository
# Documents of those who have SoftMig on their node; the others begin without it.
INSTALLED = ("operations", "troubleshooting", "installation", "agent", "containers", "slurm",
             "user-guide", "security", "metrics", "cli", "compatibility")

PROLOG = """\
#!/bin/bash
export PATH=/usr/local/bin:/usr/sbin:/usr/bin {environment}
exec /etc/slurm/prolog_softmig.sh
"""
EPILOG = """\
#!/bin/bash
export PATH=/usr/local/bin:/usr/sbin:/usr/bin
exec /etc/slurm/epilog_softmig.sh
"""
SYSTEMCTL = f"""\
#!/bin/sh
case " $* " in
  *" start "* | *" --now "*)
    kill -0 "$(cat {ROOM}/agent.pid 2>/dev/null)" 2>/dev/null && exit
    setsid softmigd --config /etc/softmig/softmig.conf </dev/null >>{ROOM}/journal 2>&1 &
    echo $! >{ROOM}/agent.pid ;;
  *" stop "*)
    kill "$(cat {ROOM}/agent.pid)"
    while kill -0 "$(cat {ROOM}/agent.pid)" 2>/dev/null; do sleep .1; done
    rm {ROOM}/agent.pid ;;
  *) exit 64 ;;
esac
"""
STANDINS = {
    "sudo": '#!/bin/sh\nexec "$@"\n',
    "systemctl": SYSTEMCTL,
    "journalctl": f"#!/bin/sh\ntail {ROOM}/journal\n",
    "dmesg": "#!/bin/sh\necho 'NVRM: loading NVIDIA UNIX x86_64 Kernel Module'\n",
    "python": '#!/bin/sh\nexec python3 "$@"\n',
}
NVIDIA_SMI = '''\
#!/usr/bin/env python3
import ctypes, sys
nvml = ctypes.CDLL("libnvidia-ml.so.1")
assert nvml.nvmlInit_v2() == 0
count = ctypes.c_uint()
nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
for index in range(count.value):
    device, name, memory = ctypes.c_void_p(), ctypes.create_string_buffer(96), (ctypes.c_ulonglong * 3)()
    nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device))
    nvml.nvmlDeviceGetName(device, name, 96)
    nvml.nvmlDeviceGetMemoryInfo(device, memory)
    print(f"GPU {index}: {name.value.decode()} | {memory[2] >> 20}MiB / {memory[0] >> 20}MiB |")
'''
TORCH = '''\
import ctypes
_driver = ctypes.CDLL("libcuda.so.1")


class cuda:
    @staticmethod
    def mem_get_info():
        context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
        assert _driver.cuInit(0) == 0
        assert _driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
        assert _driver.cuCtxSetCurrent(context) == 0
        assert _driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
        return free.value, total.value
'''


def script(path, text):
    """An executable file."""
    path.write_text(text, encoding="ascii")
    path.chmod(0o755)


def simulated():
    """The environment of who sees the simulated card."""
    return {"LD_LIBRARY_PATH": str(TREE / "build/sim/13.0"), "SOFTMIG_SIM": CARDS,
            "SOFTMIG_SIM_STATE": str(ROOM / "sim")}


def mount_room():
    """The repository at a place of its own, and private layers where commands write."""
    for name in ("tree", "bin", "python"):
        os.makedirs(ROOM / name)
    ROOM.chmod(0o755)
    for below, place in ((SOURCE, TREE), ("/usr", "/usr"), ("/root", "/root")):
        layer = ROOM / f"layer{len(os.listdir(ROOM))}"
        os.makedirs(layer / "upper")
        os.makedirs(layer / "work")
        lab.run("mount", "-t", "overlay", "-o",
                f"lowerdir={below},upperdir={layer}/upper,workdir={layer}/work", "docs", place)
    (TREE / "build").mkdir(exist_ok=True)
    lab.run("mount", "--bind", BUILD, TREE / "build")
    lab.run("mount", "-t", "tmpfs", "-o", "mode=1777", "docs", "/tmp")
    lab.SOURCE = TREE


def make_things():
    """What commands call and read."""
    for name, text in STANDINS.items():
        script(ROOM / "bin" / name, text)
    for path in ("/usr/bin/nvidia-smi", "/usr/local/bin/softmig", "/usr/sbin/softmigd"):
        pathlib.Path(path).unlink(missing_ok=True)
    script(pathlib.Path("/usr/bin/nvidia-smi"), NVIDIA_SMI)
    if (TREE / "build/softmigd").exists():
        shutil.copy(TREE / "build/softmigd", "/usr/sbin")
    (ROOM / "python/torch.py").write_text(TORCH, encoding="ascii")
    (ROOM / "journal").write_text("softmigd: started\n", encoding="ascii")
    for name in ("prog", "program", "simulate", "my_driver_api_program"):
        shutil.copy(TREE / "build/test/test_alloc", TREE / name)
    (TREE / "train.py").write_text("import os\nos.execv('./prog', ['./prog'])\n", encoding="ascii")
    script(TREE / "job.sh", "#!/bin/sh\nsoftmig limits\n")
    (ROOM / "prefix/etc").mkdir(parents=True)
    (ROOM / "prefix/usr/bin").mkdir(parents=True)
    shutil.copy("/usr/bin/grep", ROOM / "prefix/usr/bin")
    for folder in ("/var/lib/dpkg/info", "/var/lib/dpkg/updates", "/etc/softmig"):
        os.makedirs(folder, exist_ok=True)
    pathlib.Path("/var/lib/dpkg/status").touch()
    shutil.copy(TREE / "slurm/softmig.conf.example", "/etc/softmig/softmig.conf")
    for path in (TREE, lab.HOME):
        path.chmod(0o1777)


def start_node():
    """A Slurm of one node, with SoftMig on it, softmigd, and a job in a slice."""
    shown = " ".join(f"{key}='{value}'" for key, value in simulated().items())
    script(ROOM / "prolog.sh", PROLOG.format(environment=shown))
    script(ROOM / "epilog.sh", EPILOG)
    os.makedirs("/etc/slurm", exist_ok=True)
    for name in ("prolog", "epilog"):
        shutil.copy(TREE / f"slurm/{name}_softmig.sh", "/etc/slurm")
    slurm = lab.Lab({NODE: [TYPE, TYPE]}, f"Prolog={ROOM}/prolog.sh\nEpilog={ROOM}/epilog.sh\n")
    lab.run(TREE / "build/softmig", "install")
    slurm.start()
    lab.run("mount", "--bind", slurm.run_folder(NODE), "/run/softmig")
    with open("/etc/slurm/cgroup.conf", "a", encoding="ascii") as conf:
        conf.write("ConstrainDevices=yes\n")
    os.symlink(f"slurmd.{NODE}.log", "/var/log/slurm/slurmd.log")
    return slurm


class Session:
    """One bash for the commands of a block."""

    def __init__(self, job):
        self.job = job

    def environment(self):
        """What all commands find."""
        return {**os.environ, **simulated(), "HOME": "/root", "USER": "root", "LC_ALL": "C",
                "PATH": f"{ROOM}/bin:{lab.PATH}", "PYTHONPATH": str(ROOM / "python"),
                "JOB": self.job["id"], "NODE": NODE, "PID": self.job["pid"],
                "PREFIX": str(ROOM / "prefix")}

    def preamble(self):
        """Functions for the rules."""
        user = (f"setpriv --reuid {UID} --regid {UID} --init-groups env HOME={lab.HOME} "
                f"USER={USER} PATH={ROOM}/bin:/usr/local/bin:/usr/bin:/bin")
        return f"""
as_user() {{ {user} bash -c "$1"; }}
as_step() {{ {user} srun --overlap --mem=0 --jobid="$JOB" bash -c "$1"; }}
in_slice() {{ softmig run --memory 4G -- bash -c "$1"; }}
"""

    def run(self, texts):
        """[(status, output)] of the commands, one after the other in one shell."""
        lines = [self.preamble()]
        for text in texts:
            lines += [text, f'printf "{MARK}%d{MARK}" $?']
        path = ROOM / "block.sh"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        with subprocess.Popen(["bash", path], cwd=TREE, env=self.environment(), text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, errors="replace",
                              start_new_session=True) as process:
            try:
                out = process.communicate(timeout=PATIENCE_S)[0]
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                out = process.communicate()[0] + "\n(it did not come to its end)"
        parts = out.split(MARK)
        found = [(int(parts[i + 1]), parts[i]) for i in range(0, len(parts) - 1, 2)]
        return found + [(-1, parts[-1])] * (len(texts) - len(found))


def shell_text(command, rule):
    """The command as bash gets it."""
    text = command.text
    if rule and rule.replace:
        assert rule.replace[0] in text, rule
        text = text.replace(*rule.replace)
    if rule and (rule.user or rule.job or rule.inside):
        place = "as_user" if rule.user else "as_step" if rule.job else "in_slice"
        quoted = text.replace("'", "'\\''")
        text = f"{place} '{quoted}'"
    if rule and rule.before:
        text = f"{rule.before}\n{text}"
    if rule and rule.after:
        text = f"{text}\ndocs_status=$?\n{{ {rule.after}\n}} && (exit $docs_status)"
    return text


class Commands(unittest.TestCase):
    """Every block."""

    @classmethod
    def setUpClass(cls):
        mount_room()
        cls.blocks = commands.blocks(TREE)
        make_things()
        cls.slurm = start_node()
        cls.used = set()
        cls.has_agent = (TREE / "build/softmigd").exists()
        cls.job = None
        cls.start_job()

    @classmethod
    def start_job(cls):
        """The job of which operations.md speaks: a quarter, and a process that sleeps in it."""
        number = cls.slurm.as_user(USER, "sbatch", "--parsable", "-o", "/dev/null",
                                   f"--gres=gpu:{TYPE}.4:1", "--wrap",
                                   f"echo $$ >{lab.HOME}/pid; exec sleep 900").stdout.strip()
        pid = lab.HOME / "pid"
        lab.wait_for("the job", lambda: pid.exists() and pid.read_text(encoding="ascii").strip())
        cls.job = {"id": number, "pid": pid.read_text(encoding="ascii").strip()}

    def rule_of(self, document, command, table=rules.RULES):
        """The first rule that is for this command."""
        for rule in table:
            if document.endswith(rule.document) and re.search(rule.pattern, command.text):
                self.used.add(rule)
                return rule
        return None

    def prepare(self, document):
        """The node as the document's reader has it."""
        name = pathlib.Path(document).stem
        preload = pathlib.Path("/etc/ld.so.preload")
        if name in INSTALLED:
            if not pathlib.Path("/usr/local/bin/softmig").exists() or not preload.exists() or \
                    "libsoftmig" not in preload.read_text(encoding="ascii"):
                lab.run(TREE / "build/softmig", "install")
        else:
            preload.write_text("", encoding="ascii")
        if name == "operations" and self.has_agent:
            lab.run(ROOM / "bin/systemctl", "start", "softmigd", env=Session(self.job).environment())
            lab.wait_for("softmigd answers", lambda: lab.run(
                "curl", "-sf", "http://127.0.0.1:9799/metrics", check=False).returncode == 0)
        self.wake_node()

    def wake_node(self):
        """The node takes jobs, and answers."""
        if "drain" in self.state():
            lab.run("scontrol", "update", f"NodeName={NODE}", "State=resume")
        if "*" in self.state():  # resumed, and slurmctld waits for a word of the node
            os.kill(int(pathlib.Path(f"/run/slurmd.{NODE}.pid").read_text(encoding="ascii")),
                    signal.SIGHUP)
            lab.wait_for("the node answers", lambda: "*" not in self.state())

    def state(self):
        """The node's, as sinfo has it."""
        return self.slurm.output("sinfo", "-h", "-n", NODE, "-o", "%T")

    def check(self, command, rule, status, output):
        """One command's end and words."""
        allowed = rule.status if rule else (0,)
        self.assertIn(status, allowed, output)
        if rule and rule.prints:
            self.assertRegex(output.strip("\n"), re.compile(rule.prints, re.M), "what was printed")
        if command.output is not None:
            self.assertTrue(commands.is_shown(command.output, output.split("\n")),
                            f"the document shows another output:\n{output}")

    def test_commands(self):
        count = 0
        for block in self.blocks:
            pairs = [(command, self.rule_of(block.document, command)) for command in block.commands]
            pairs = [(command, rule) for command, rule in pairs if not rule or not (
                rule.skip or rule.agent and not self.has_agent)]
            if not pairs:
                continue
            self.prepare(block.document)
            begin = time.monotonic()
            results = Session(self.job).run([shell_text(*pair) for pair in pairs])
            self.tell(f"{block.document}:{block.line}", begin)
            for (command, rule), (status, output) in zip(pairs, results):
                count += 1
                with self.subTest(place=f"{block.document}:{command.line}", command=command.text):
                    self.check(command, rule, status, output)
        self.assertGreater(count, 60)
        there = {pathlib.Path(block.document).name for block in self.blocks} | {""}
        self.no_idle_rule(rule for rule in rules.RULES if rule.document in there)

    def no_idle_rule(self, table):
        """Every rule was for some command."""
        self.assertEqual([rule for rule in table if rule not in self.used], [],
                         "no command needs these rules")

    @staticmethod
    def tell(place, begin):
        """How long it took, if VERBOSE is set."""
        if os.environ.get("VERBOSE"):
            print(f"{place} {time.monotonic() - begin:.1f} s", file=sys.stderr)

    def look(self, place, command, rule):
        """One command in a shell of its own."""
        self.wake_node()
        with self.subTest(place=place, command=command.text):
            begin = time.monotonic()
            (status, output), = Session(self.job).run([shell_text(command, rule)])
            self.tell(place, begin)
            self.check(command, rule, status, output)

    def test_commands_in_running_text(self):
        self.prepare("docs/operations.md")
        done, count = set(), 0
        for document, command in commands.mentioned(TREE):
            if command.text in done:
                continue
            done.add(command.text)
            place = f"{document}:{command.line}"
            rule = self.rule_of("", command, rules.MENTIONED)
            if ours := commands.named(command.text):
                command, rule = ours
            if rule and (rule.skip or rule.agent and not self.has_agent):
                continue
            count += 1
            if re.match(SCRIPT, command.text):
                with self.subTest(place=place, command=command.text):
                    self.assertEqual(commands.unknown_options(command.text, TREE), [])
            else:
                self.look(place, command, rule)
        self.assertGreater(count, 60)
        self.no_idle_rule(rules.MENTIONED)

    def test_examples_of_the_manual(self):
        self.prepare("docs/cli.md")
        shown = [TREE / "build/softmig", *([TREE / "build/softmigd"] if self.has_agent else [])]
        overview = lab.run(shown[0], "--help").stdout.split("Subcommands:")[1]
        texts = [lab.run(shown[0], name, "--help").stdout
                 for name in re.findall(r"^  ([a-z-]+)", overview, re.M)]
        texts += [lab.run(program, "--help").stdout for program in shown]
        found = [command for text in texts for command in commands.examples(text)]
        self.assertGreater(len(found), 2)
        for command in found:
            self.look("--help", command, self.rule_of("--help", command))

    def test_scripts_that_are_not_run_know_their_options(self):
        count = 0
        for block in self.blocks:
            for command in block.commands:
                rule = self.rule_of(block.document, command)
                if rule and rule.skip and re.match(SCRIPT, command.text):
                    count += 1
                    with self.subTest(place=f"{block.document}:{command.line}", command=command.text):
                        self.assertEqual(commands.unknown_options(command.text, TREE), [])
        self.assertGreater(count, 5)

    def test_alert_rules_are_rules(self):
        if not shutil.which("promtool"):
            self.skipTest("no promtool")
        exported = set(re.findall(r'"((?:softmig|slurm)_\w+)"', (
            TREE / "src/agent/metrics.def").read_text(encoding="utf-8")))
        found = 0
        for path in sorted((TREE / "docs").glob("*.md")):
            for block in commands.markdown.blocks(path.read_text(encoding="utf-8")):
                if block.language == "yaml" and block.text.startswith("groups:"):
                    found += 1
                    asked = set(re.findall(r"\b(?:softmig|slurm)_\w+", block.text))
                    self.assertEqual(asked - exported, set(), "no such metric")
                    file = ROOM / "rules.yml"
                    file.write_text(block.text, encoding="ascii")
                    result = lab.run("promtool", "check", "rules", file, check=False)
                    self.assertEqual(result.returncode, 0, f"{path}:{block.line} {result.stdout}"
                                                           f"{result.stderr}")
        self.assertGreater(found, 0)


class Reading(unittest.TestCase):
    """How commands are found and outputs compared."""

    def test_commands_are_told_apart(self):
        block = commands.markdown.Block(3, "sh", "a b  # c\n\n# only words\nfor x in 1; do\n  echo $x\n"
                                                 "done\nd \\\n  e")
        self.assertEqual([(c.line, c.text) for c in commands.typed(block)],
                         [(3, "a b  # c"), (6, "for x in 1; do\n  echo $x\ndone"), (9, "d \\\n  e")])
        block = commands.markdown.Block(1, "console", "$ a\nb\n\n$ c \\\n> d\ne")
        self.assertEqual([(c.text, c.output) for c in commands.shown(block)],
                         [("a", ["b", ""]), ("c \\\nd", ["e"])])

    def test_commands_in_text_are_found(self):
        text = "a `softmig x y`, `b c`\nand `scontrol\nz`\n\n| message | do |\n|---|---|\n| `ps a` | `ps b` |\n"
        found = [(line, re.findall("`([^`]+)`", part)) for line, part in commands.paragraphs(text) if "`" in part]
        self.assertEqual(found, [(1, ["softmig x y", "b c", "scontrol\nz"]), (7, ["ps b"])])
        self.assertEqual(commands.named("make x-y")[0].text, "make -n x-y")
        self.assertEqual(commands.named("make x N=2")[0].text, "make -n x N=2")
        self.assertEqual(commands.named("softmig config keys")[0].text, "softmig config keys --help")
        self.assertIsNone(commands.named("softmig run --sm 1"))

    def test_outputs_are_compared(self):
        self.assertTrue(commands.is_shown(["a  b", "x ... y", ""], ["a b", "x 12 y"]))
        self.assertTrue(commands.is_shown(["a", "..."], ["a", "b", "c"]))
        self.assertFalse(commands.is_shown(["a"], ["a", "b"]))
        self.assertFalse(commands.is_shown(["a", "b"], ["a"]))
        self.assertFalse(commands.is_shown(["4096 MiB"], ["4095 MiB"]))


if __name__ == "__main__":
    unittest.main()
