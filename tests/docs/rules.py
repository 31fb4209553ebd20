"""How the commands of the documents are run, and which are not: the one table.

A command without a rule is run as it stands, as root, in the source tree, and must end with status 0. A
rule that no command needs any more is an error.
"""

from typing import NamedTuple


class Rule(NamedTuple):
    """For commands of a document (its end, "" for all) in which a regular expression is found."""
    document: str
    pattern: str
    skip: str = ""        # the reason why it is not run
    user: bool = False    # as an ordinary user, ada
    inside: bool = False  # in a slice of 4 GiB
    job: bool = False     # as a step of the job $JOB
    status: tuple = (0,)
    prints: str = ""      # a regular expression that what it prints must hold
    before: str = ""      # shell that is run before it
    after: str = ""       # shell that is run after it, and must succeed
    replace: tuple = ()   # (text, by what)
    agent: bool = False   # only where the build has softmigd


BUILDS = "builds for minutes; whoever runs this test has done it"
CARD = "needs a GPU and minutes"
PACKAGES = "tests/packages builds, installs, upgrades and removes the packages"

RULES = (
    # README.md
    Rule("README.md", r"^make demo", skip="tests/cli/demo.bats runs it; it takes half a minute"),
    Rule("README.md", r"^make test", skip="this is it"),
    Rule("", r"^\./build\.sh|^cmake ", skip=BUILDS),
    Rule("", r"^make packages|^apt install", skip=PACKAGES),
    Rule("README.md", r"-- nvidia-smi", prints=r"/ 4096MiB"),
    Rule("", r"python train\.py", prints=r"4096 MiB.*\n.*CUDA_ERROR_OUT_OF_MEMORY"),
    Rule("README.md", r"run --memory 4G -- build/softmig limits", prints=r"4096 MiB"),
    Rule("README.md", r"softmig top", skip="needs a terminal; tests/cli/top_test.py has one"),
    Rule("", r"^sudo build/softmig install|^softmig install  ", prints=r"the line was written, last|unchanged",
         after="grep -q libsoftmig /proc/self/maps"),
    Rule("README.md", r"^sudo build/softmig uninstall", prints="Uninstalled",
         after="! grep -q libsoftmig /proc/self/maps"),
    Rule("README.md", r"^printf", before="JOB=4711"),
    Rule("README.md", r"mv -T /var/run",
         after="build/softmig config check /run/softmig/$JOB.conf; rm /run/softmig/$JOB.conf"),
    # Slurm, as users ask.
    Rule("", r"^sbatch --gres", user=True, prints=r"Submitted batch job \d+"),
    Rule("", r"^srun .*softmig limits", user=True,
         prints=r"limits from  /var/run/softmig/\d+\.conf[\s\S]*12288 MiB"),
    Rule("installation.md", r"^srun .*nvidia-smi", user=True, prints=r"/ 12288MiB"),
    Rule("containers.md", r"^srun .*apptainer",
         skip="needs Apptainer; tests/packages/containers.bats makes its mounts"),
    # Containers
    Rule("containers.md", r"^loader=", replace=("/path/to/a/program/of/the/tree", "/bin/true")),
    Rule("containers.md", r"^strings", prints=r"/etc/ld\.so\.preload"),
    Rule("containers.md", r"^ln -s", before="rm -f $PREFIX/etc/ld.so.preload",
         after="grep -q libsoftmig $PREFIX/etc/ld.so.preload; rm $PREFIX/etc/ld.so.preload"),
    Rule("containers.md", r"^mount --bind", before=": >$PREFIX/etc/ld.so.preload",
         after="grep -q libsoftmig $PREFIX/etc/ld.so.preload"),
    Rule("", r"^\S*grep libsoftmig /proc/self/maps", prints=r"/var/lib/shared/libsoftmig\.so"),
    # Configuration
    Rule("configuration.md", r"\./program", before="rm -f /tmp/cudevshr.cache.*",
         prints=r"total 4096 MiB"),
    Rule("configuration.md", r"^mv ", after="build/softmig config check /run/softmig/122.conf; rm /run/softmig/122.conf"),
    # Installation
    Rule("installation.md", r"--nvidia-smi-hook",
         before="mv /usr/bin/nvidia-smi /usr/bin/smi; cp /bin/true /usr/bin/nvidia-smi",
         after="grep -q softmig-nvidia-smi-hook /usr/bin/nvidia-smi; mv /usr/bin/smi /usr/bin/nvidia-smi"),
    Rule("installation.md", r"^(semanage|restorecon)", skip="needs SELinux"),
    Rule("", r"^softmig doctor *(#|$)", prints=r"\n0 bad"),
    Rule("", r"^softmig calibrate", prints=r"written to /var/lib/softmig/context_cost"),
    # The agent
    Rule("", r"^systemctl (enable|start)", agent=True,
         after="until curl -sf http://127.0.0.1:9799/metrics >/dev/null; do sleep .1; done"),
    Rule("", r"^systemctl", agent=True),
    Rule("agent.md", r"^softmigd --config FILE", agent=True, status=(124,), prints=r"softmigd: memory limits: library",
         replace=("softmigd --config FILE", "timeout 3 softmigd --config /etc/softmig/softmig.conf")),
    # Operations
    Rule("operations.md", r"metrics \| grep", agent=True, prints=r"^[1-9][0-9]*$"),
    Rule("operations.md", r"^softmig region \$JOB($| +#)", prints=r"region "),
    Rule("operations.md", r"^cat /proc/\$PID/cgroup", prints=r":"),
    Rule("operations.md", r"^unshare -m", prints=r"^0$"),
    Rule("operations.md", r"^chmod 644 /var/run/softmig/.new",
         before="cp -p /run/softmig/$JOB.conf /run/docs/kept.conf",
         after="as_step 'softmig limits' | grep -q 'no limit' || exit 1; "
               "mv -T /run/docs/kept.conf /run/softmig/$JOB.conf"),
    Rule("operations.md", r"^softmig uninstall", prints="Uninstalled",
         after="! grep -q libsoftmig /proc/self/maps"),
    Rule("operations.md", r"^cat /etc/ld.so.preload", before=": >/etc/ld.so.preload", prints=r"^$"),
    Rule("operations.md", r"^grep -c libsoftmig /proc/self/maps", prints=r"^0$"),
    Rule("operations.md", r"^grep -l libsoftmig", prints=r"^[1-9][0-9]*$"),
    # Troubleshooting and the user guide
    Rule("troubleshooting.md", r"^softmig limits; echo", job=True, prints=r"limits from[\s\S]*12288 MiB[\s\S]*\n0$"),
    Rule("troubleshooting.md", r"^SOFTMIG_LOG_LEVEL=3", job=True, prints=r"active: limits from /var/run"),
    Rule("user-guide.md", r"^softmig limits", inside=True, prints=r"4096 MiB|4294967296"),
    Rule("user-guide.md", r"^nvidia-smi", inside=True, prints=r"/ 4096MiB"),
    Rule("user-guide.md", r"^python -c", inside=True, prints=r"^\(\d+, 4294967296\)"),
    Rule("user-guide.md", r"^softmig run .*\./prog", prints=r"total 4096 MiB"),
    Rule("user-guide.md", r"^softmig report", job=True, prints=r"memory "),
    # Figures of a card
    Rule("benchmarks.md", r"", skip=CARD),
    Rule("benchmark-report.md", r"--real|^make bench-report", skip=CARD),
    Rule("benchmark-report.md", r"--quick", skip="bench_report_sim runs it"),
    # Compatibility
    Rule("compatibility.md", r"^(make|tests/)", skip="needs a GPU, the network and minutes"),
    Rule("compatibility.md", r"^gcc -m32", after="readelf -h /var/lib/shared/empty32.so | grep -q ELF32"),
    Rule("compatibility.md", r"^mv ", before="softmig doctor >/run/docs/plain || exit 1",
         after="test -z \"$(/bin/true 2>&1)\" && grep -q libsoftmig.so /proc/self/maps && "
               "softmig doctor | grep -q '[$]LIB' && softmig install >/dev/null && "
               "grep -qx /var/lib/shared/libsoftmig.so /etc/ld.so.preload"),
    # The command line, and the examples of help texts and manual pages
    Rule("--help", r"^softmig run --sim", replace=("softmig run", "build/softmig run"),
         prints=r"total 4096 MiB"),
    Rule("", r"\./(simulate|program|my_\w+)$", prints=r"total (4096|12288) MiB"),
)

# The same for commands in running text, whatever the document; the place is not looked at. Of `softmig NAME`
# alone the help is asked, of `make` the recipe, of `ctest` the list, and a script of the repository must know
# its options.
OWN_JOB = "JOB=$(as_user 'sbatch --parsable -o /dev/null --wrap \"sleep 60\"')"
ATTEMPT = "tests/slurm/escapes_test.py and spellings_test.py try it"
PART = "is no whole command"
MANUAL = "man() { ls build/man/$1.[1-8]; }"
MENTIONED = (
    Rule("", r"^man softmigd", before=MANUAL, agent=True),
    Rule("", r"^man ", before=MANUAL),
    Rule("", r"^: >", after="! grep -q libsoftmig /proc/self/maps && softmig install >/dev/null"),
    Rule("", r"^softmig COMMAND --help$", replace=("COMMAND", "limits"), prints="Exit status"),
    Rule("", r"^softmig COMMAND: what is wrong$", skip="is what commands say"),
    Rule("", r"^softmig run --sm 25$", replace=("--sm 25", "--sm 25 -- true")),
    Rule("", r"^softmig run .*--sm 50$", replace=("--sm 50", "--sm 50 -- true")),
    Rule("", r"^softmig limits --json$", inside=True, prints=r'"source"'),
    Rule("", r"^softmig report JOB$", replace=("JOB", "$JOB"), prints="memory "),
    Rule("", r"^softmig region PATH$", replace=("PATH", "/run/softmig/$JOB.region"), prints="region "),
    Rule("", r"^softmig config check FILE\.*$", before="FILE=/run/softmig/$JOB.conf",
         replace=("FILE", "$FILE #"), prints="12288"),
    Rule("", r"^softmig install --root$", skip=PART),
    Rule("", r"^softmig install --root /path", before="mkdir -p /run/docs/image",
         replace=("/path/to/image", "/run/docs/image"),
         after="grep -q libsoftmig /run/docs/image/etc/ld.so.preload"),
    Rule("", r"^softmig install --nvidia-smi-hook",
         before="mv /usr/bin/nvidia-smi /usr/bin/smi; cp /bin/true /usr/bin/nvidia-smi",
         after="grep -q softmig-nvidia-smi-hook /usr/bin/nvidia-smi; mv /usr/bin/smi /usr/bin/nvidia-smi"),
    Rule("", r"^softmig demo", skip="tests/cli/demo.bats runs it; it takes half a minute"),
    Rule("", r"^python train\.py", inside=True, prints=r"CUDA_ERROR_OUT_OF_MEMORY"),
    Rule("", r"^systemctl", agent=True, before="systemctl start softmigd"),
    Rule("", r"^unshare -m$", skip=PART),
    Rule("", r"^unshare ", skip=ATTEMPT),
    Rule("", r"^scontrol update( StartTime=now| jobid=N .*)?$", skip=ATTEMPT),
    Rule("", r"^(scancel|scontrol show job) \$JOB$", before=OWN_JOB),
    Rule("", r"State=resume$", before="scontrol update NodeName=$NODE State=drain Reason=test"),
    Rule("", r"^scontrol (-d )?show job$", prints="JobId="),
    Rule("", r"^scontrol suspend", before=OWN_JOB + "; until scontrol show job $JOB | grep -q =RUNNING; do sleep .1; done",
         after="scontrol resume $JOB && scancel $JOB"),
    Rule("", r"^scontrol requeue$", replace=("requeue", "requeue $JOB"),
         before=OWN_JOB + "; until scontrol show job $JOB | grep -q =RUNNING; do sleep .1; done",
         after="scancel $JOB"),
    Rule("", r"^srun --gres=gpu:l40s\.4:1$", replace=(".4:1", ".4:1 softmig limits"), user=True,
         prints="12288 MiB"),
    Rule("", r"^sbatch (--gres=gpu:h100|\.\.\.)", skip="needs another node; tests/slurm has them"),
    Rule("", r"^apptainer ", skip="needs Apptainer"),
    Rule("", r"^nvidia-smi --gpu-reset", skip="needs a GPU"),
    Rule("", r"^apt |^cmake ", skip=PACKAGES),
    Rule("", r"^(module|sudo cp|tee|rm)( |$)", skip=PART),
    Rule("", r"^bench/cost ", skip=CARD),
    Rule("", r"^tests/slurm/lab\.py ", skip="this is run by it"),
    Rule("", r"^tests/slurm/pack_slurm\.sh ", skip="lasts minutes; make lab-packed runs it"),
)
