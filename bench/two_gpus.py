#!/usr/bin/env python3
"""Limits on two GPUs of one job: independent of each other, and with NCCL between its processes.

  bench/two_gpus.py --build build --real
  bench/two_gpus.py --build build --sim 2x80G      without NCCL, which needs cards

First kernels of 200 us back to back on both GPUs at once, natively and with several pairs of limits in
one slice. Then two ranks that multiply matrices and all-reduce them. Exits 1 if a share is more than
a point off, or a result is wrong.
"""

import argparse
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
LIMITS = ((25, 25), (25, 60), (50, 10))
LOAD = "back:200us"


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--build", required=True)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--real", action="store_true")
    where.add_argument("--sim", metavar="NxSIZE")
    parser.add_argument("--seconds", type=float, default=4)
    return parser.parse_args()


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


def main():
    options = arguments()
    share = os.path.join(options.build, "bench", "share")
    costs = Job(options).run(f"{share} calibrate")[0]["costs"]
    bad = 0
    shares = kernels(options, costs, None)
    print("native          shares " + "  ".join(f"{one:5.1f}" for one in shares), flush=True)
    for limits in LIMITS:
        shares = kernels(options, costs, limits)
        off = max(abs(one - limit) for one, limit in zip(shares, limits)) > 1
        bad += off
        print(
            f"limits {limits[0]:3} / {limits[1]:3} shares "
            + "  ".join(f"{one:5.1f}" for one in shares)
            + ("  OFF" if off else ""),
            flush=True,
        )
    if options.real:
        native = None
        for limits in (None, (25, 25), (50, 50), (25, 60), None):
            line = nccl(options, limits)
            native = native or line["rate"]
            bad += not line["right"]
            name = f"limits {limits[0]} / {limits[1]}" if limits else "native"
            print(
                f"NCCL, {name:<16} {line['rate']:7.1f} steps/s, {100 * line['rate'] / native:5.1f} % of "
                f"native, sums {'right' if line['right'] else 'WRONG'}",
                flush=True,
            )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
