#!/usr/bin/env python3
"""Limits on two GPUs of one job: independent of each other, and with NCCL between its processes.

  bench/two_gpus.py --build build --real
  bench/two_gpus.py --build build --sim 2x80G      without NCCL, which needs cards

First kernels of 200 us back to back on both GPUs at once, natively and with several pairs of limits in
one slice. Then two ranks whose kernels wait for each other (`collective`), started at once and two
seconds apart, and two that multiply matrices and all-reduce them by NCCL. Exits 1 if a share is more
than a point off, ranks get less than three quarters of the stricter limit or more than it, or a
result is wrong. --only RE picks by `kernels`, `collective`, `nccl`.
"""

import json
import os
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "tests", "gpu"))

from harness import arguments as options_of  # noqa: E402

PARTS = ("kernels", "collective", "nccl")
LIMITS = ((25, 25), (25, 60), (50, 10))
LOAD = "back:200us"
COUPLED_LIMITS = ((25, 25), (50, 50), (25, 60))


def arguments():
    parser = options_of.parser_of(__doc__)
    options_of.add_place(parser)
    parser.add_argument("--seconds", type=options_of.above_zero, default=4)
    parser.add_argument("--only", metavar="RE", type=options_of.expression)
    options = parser.parse_args()
    options.parts = options_of.matching(parser, options.only, PARTS)
    options_of.needs_gpu(options)
    return options


class Job:
    """One slice, or none, with a process per GPU."""

    def __init__(self, options, limits=None):
        self.setting = ""
        self.command = []
        if limits or options.sim:
            self.command = [os.path.join(options.build, "softmig"), "run"]
            self.command += ["--sim", options.sim] if options.sim else []
        if limits:
            # The general limit makes a slice; those of the GPUs hold instead of it.
            self.command += ["--sm", str(max(limits))]
            for device, limit in enumerate(limits):
                self.setting += f"export CUDA_DEVICE_SM_LIMIT_{device}={limit}; "

    def run(self, script, timeout=180):
        """Lines of JSON that the script printed."""
        command = self.command + (["--"] if self.command else [])
        command += ["sh", "-c", self.setting + script]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False
        )
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode or not lines:
            sys.exit(f"{script}: status {done.returncode}\n{done.stdout}\n{done.stderr[-2000:]}")
        return lines


def kernels(options, costs, limits):
    share = os.path.join(options.build, "bench", "share")
    one = f"{share} run '{costs}' {LOAD} {options.seconds} 1 0"
    lines = Job(options, limits).run(f"{one} 0 & {one} 1 & wait")
    return [line["share"] for line in sorted(lines, key=lambda line: line["device"])]


def nccl(options, limits):
    rank = f"{sys.executable} {HERE}/share/nccl_train.py"
    script = f"{rank} 1 2 29511 {options.seconds} & {rank} 0 2 29511 {options.seconds}; wait"
    return Job(options, limits).run(script)[0]


def collective(options, costs, limits, apart=0):
    rank = f"{os.path.join(options.build, 'bench', 'collective')} '{costs}'"
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as board:
        board.truncate(4096)
        os.chmod(board.name, 0o666)
        arguments = f"{board.name} {options.seconds}"
        script = f"{rank} 0 {arguments} & sleep {apart}; {rank} 1 {arguments}; wait"
        return Job(options, limits).run(script)[0]["rate"]


class Marks:
    """Prints results, and counts those that are off."""

    def __init__(self):
        self.bad = 0

    def shares(self, name, shares, limits):
        off = limits and max(abs(one - limit) for one, limit in zip(shares, limits)) > 1
        self.bad += bool(off)
        figures = "  ".join(f"{one:5.1f}" for one in shares)
        print(f"kernels, {name:<26} shares {figures}{'  OFF' if off else ''}", flush=True)

    def rate(self, name, rate, native, limits=None, right=True):
        percent = 100 * rate / native
        # What the meeting itself takes varies: up to a tenth above the limit is noise.
        off = limits and not 0.75 * min(limits) < percent < 1.1 * min(limits) + 1
        self.bad += bool(off) + (not right)
        print(
            f"{name:<35} {rate:7.1f} steps/s, {percent:5.1f} % of native"
            f"{'' if right else ', sums WRONG'}{'  OFF' if off else ''}",
            flush=True,
        )


def text_of(limits):
    return f"limits {limits[0]} / {limits[1]}" if limits else "native"


def main():
    options = arguments()
    share = os.path.join(options.build, "bench", "share")
    costs = Job(options).run(f"{share} calibrate")[0]["costs"]
    marks = Marks()

    if "kernels" in options.parts:
        for limits in (None, *LIMITS):
            marks.shares(text_of(limits), kernels(options, costs, limits), limits)
    if "collective" in options.parts:
        native = collective(options, costs, None)
        marks.rate("collective, native", native, native)
        for limits in COUPLED_LIMITS:
            rate = collective(options, costs, limits)
            marks.rate(f"collective, {text_of(limits)}", rate, native, limits)
        # Up to two seconds are paid back for the time that the first spun.
        rate = collective(options, costs, (25, 25), apart=2)
        marks.rate("collective, 25 / 25, 2 s apart", rate, native)
        marks.bad += rate < native / 20
    if options.real and "nccl" in options.parts:
        native = None
        for limits in (None, *COUPLED_LIMITS, None):
            line = nccl(options, limits)
            native = native or line["rate"]
            marks.rate(f"NCCL, {text_of(limits)}", line["rate"], native, limits, line["right"])
    return 1 if marks.bad else 0


if __name__ == "__main__":
    sys.exit(main())
