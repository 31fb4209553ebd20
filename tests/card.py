#!/usr/bin/env python3
"""Everything that needs a real card, most important first, in one go; each part under its own time limit.

  tests/card.py --build build [--only REGEX] [--budget-seconds 540] [--out FOLDER]
  tests/card.py --list

A part that does not fit into what is left of the budget is skipped aloud. Of each part only lines that
say something are shown; FOLDER has the whole output in PART.txt and what the part itself writes in
PART/, and plan.json what was run, for how long and with what status. Exits 1 if a part failed.
As root where parts need it. The build folder may come from another machine, with `--libraries` for shared
libraries that this one lacks.
"""

import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "tests" / "gpu"))

from harness import arguments as options_of  # noqa: E402

TELLING = r"FAIL|fail|passed|slowest|OFF|OVER|WRONG|rror:|sum |\bred\b|broken|skipped|SKIPPED|% of|<=|>=|bounds:|{\"what\""


class Part:
    """One command; what stands in braces is filled in. `needs` is an option without which it is nothing."""

    def __init__(self, name, seconds, command, gpus=1, needs=None, environment=None):
        self.name, self.seconds, self.command = name, seconds, command
        self.gpus, self.needs, self.environment = gpus, needs, environment or {}


AGENT = {"SOFTMIG_REAL": "1", "SOFTMIG_BUILD": "{build}", "SOFTMIG_SOURCE": "{root}",
         "SOFTMIG_LIBRARIES": "{libraries}"}
GPU = "tests/gpu/run.py --build {build} --real --out {out} "
SHARE = "bench/share.py --build {build} --real --out {out} "
MATRIX = "tests/compat/matrix.py --build {build} --json {out}/matrix.json "
PLAN = (
    Part("two_gpus", 110, "bench/two_gpus.py --build {build} --real", gpus=2),
    Part("quick", 60, GPU + "--quick --only 'kill/(random|close|fork)|race/(2|6)|routes/.*/64M/link'"),
    Part("never_stuck", 260, GPU + "--group stuck --group launches"),
    Part("slurm", 170, "tests/slurm/card.py --slurm-root {slurm_root} --build {build} "
                       "--out {out}", needs="slurm_root"),
    Part("agent_cost", 60, "tests/agent/card_test.py --only Cost --seconds 24", environment=AGENT),
    Part("exec", 15, "{build}/bench/cost exec 400 {build}/libsoftmig.so"),
    Part("launch", 30, "sh -c 'for i in 1 2 3; do {build}/softmig run --sm 99 -- {build}/bench/cost "
                       "launch; done; {build}/bench/cost launch'"),
    Part("virt_report", 480, "bench/virt_report.py --build {build} --real --out {out} --libraries={libraries}"),
    Part("shares", 130, SHARE + "--suite experiment --modes native,library --seconds 3 --only "
                                "'4x25|10/90|50/25/25|8x12|half'"),
    Part("alone", 130, SHARE + "--suite alone"),
    Part("torch", 220, SHARE + "--suite torch"),
    Part("matrix_libraries", 200, MATRIX + "--budget 180 --only 'driver|runtime|library|cupy|jax|triton'"),
    Part("matrix_torch", 200, MATRIX + "--budget 180 --only torch"),
    Part("together", 560, SHARE + "--suite together"),
    Part("report", 560, "bench/report.py --build {build} --real --markdown {out}/report.md"),
    Part("agent", 220, "tests/agent/card_test.py", environment=AGENT),
    Part("soak", 1260, "tests/gpu/soak.py --build {build} --real --minutes 20"),
    Part("routes", 580, GPU + "--group routes --user nobody"),
)


def arguments():
    parser = options_of.parser_of(__doc__)
    parser.add_argument("--build", default="build", metavar="DIR", help="build folder; build")
    parser.add_argument("--only", metavar="REGEX", type=options_of.expression, help="parts by name")
    parser.add_argument("--budget-seconds", type=float, default=float("inf"))
    parser.add_argument("--out", default="card-results")
    parser.add_argument("--libraries", default="", help="a folder of shared libraries")
    parser.add_argument("--slurm-root", default="", metavar="FILE", help="what tests/slurm/pack_slurm.sh made")
    parser.add_argument("--list", action="store_true", help="name the parts and stop")
    options = parser.parse_args()
    options.parts = options_of.matching(parser, options.only, PLAN, lambda part: (part.name,))
    if not options.list:
        options_of.needs_build(parser, options.build)
    return options


def gpu_count():
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return 0
    return len(re.findall(r"^GPU \d+:", done.stdout, re.MULTILINE))


class Runner:
    """Runs parts while the budget lasts."""

    def __init__(self, options, gpus):
        self.options = options
        self.gpus = gpus
        self.out = pathlib.Path(options.out).resolve()
        self.end = time.monotonic() + options.budget_seconds
        self.records = []

    def fill(self, text, part):
        return text.format(
            build=pathlib.Path(self.options.build).resolve(),
            out=self.out / part.name,
            root=ROOT,
            libraries=self.options.libraries,
            slurm_root=self.options.slurm_root,
        )

    def why_not(self, part):
        if part.needs and not getattr(self.options, part.needs):
            return f"needs --{part.needs.replace('_', '-')}"
        if part.gpus > self.gpus:
            return f"needs {part.gpus} GPUs, there are {self.gpus}"
        if time.monotonic() + part.seconds > self.end:
            return f"{part.seconds} s are not left"
        return None

    def run(self, part):
        reason = self.why_not(part)
        if reason:
            print(f"== {part.name}: skipped, {reason}", flush=True)
            self.note(part, "skipped", 0)
            return
        (self.out / part.name).mkdir(parents=True, exist_ok=True)
        print(f"== {part.name}", flush=True)
        begin = time.monotonic()
        log = self.out / f"{part.name}.txt"
        status = self.call(part, log)
        took = time.monotonic() - begin
        for line in log.read_text(errors="replace").splitlines():
            if re.search(TELLING, line):
                print("   " + line[:200])
        print(f"== {part.name}: {status} after {took:.0f} s", flush=True)
        self.note(part, status, took)

    def call(self, part, log):
        environment = {k: self.fill(v, part) for k, v in part.environment.items()}
        with log.open("w") as file, subprocess.Popen(
            shlex.split(self.fill(part.command, part)), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file,
            stderr=subprocess.STDOUT, start_new_session=True, env={**os.environ, **environment},
        ) as process:
            try:
                code = process.wait(part.seconds)
                return "passed" if code == 0 else f"failed with status {code}"
            except subprocess.TimeoutExpired:
                return f"stopped after {part.seconds} s"
            finally:
                # What it started and left behind would disturb the next part.
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass

    def note(self, part, status, took):
        self.records.append({"part": part.name, "status": status, "seconds": round(took, 1)})
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "plan.json").write_text(json.dumps(self.records, indent=1) + "\n")


def main():
    options = arguments()
    if options.list:
        for part in options.parts:
            print(f"{part.name:<18} at most {part.seconds:4} s   {part.command}")
        return 0
    gpus = gpu_count()
    if gpus == 0:
        sys.exit("tests/card.py: no GPU here: nvidia-smi -L shows none")
    runner = Runner(options, gpus)
    for part in options.parts:
        runner.run(part)
    count = {kind: sum(r["status"].startswith(kind) for r in runner.records) for kind in
             ("passed", "skipped")}
    failed = len(runner.records) - sum(count.values())
    print(f"{count['passed']} passed, {failed} failed, {count['skipped']} skipped; {runner.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
