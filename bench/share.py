#!/usr/bin/env python3
"""What share of a GPU programs get, native and with SoftMig, and what the launch hook costs.

  bench/share.py --build build --real --suite experiment --out results
  bench/share.py --build build --sim 1x80G --suite alone --only 'back:200us'

Suites: alone (one job, every load), together (several jobs on one GPU), experiment (the candidates
for several jobs side by side), torch (PyTorch training steps; needs a card), cost (the launch hook).
Under --out: lines.jsonl with everything that was measured, table.md, and one SVG of share over time
per mix and load. Exits 1 if a result of a computation was wrong or a program failed; figures are
printed, not judged by the exit status, unless --strict is given.
"""

import contextlib
import dataclasses
import json
import os
import statistics
import sys
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "share"), os.path.join(HERE, "..", "tests", "gpu")]

import launch_cost  # noqa: E402
import suites  # noqa: E402
import tables  # noqa: E402
import torch_suite  # noqa: E402
from harness import arguments as options_of  # noqa: E402
from harness.place import Place  # noqa: E402
from node import Failed, Node, start_ns, together  # noqa: E402

LEAD = 0.15  # seconds from the last command to the common start
BUCKETS_PER_SECOND = 10


def arguments():
    parser = options_of.parser_of(__doc__)
    options_of.add_place(parser)
    parser.add_argument(
        "--suite", required=True, choices=("alone", "together", "experiment", "torch", "cost")
    )
    parser.add_argument("--seconds", type=options_of.above_zero, help="measured per run")
    parser.add_argument("--only", metavar="RE", type=options_of.expression,
                        help="of 'MIX ROUND', or of a PyTorch model")  # fmt: skip
    parser.add_argument("--modes", help="instead of the suite's own: native,library,budget,strict@80,...")
    parser.add_argument("--via", choices=("environment", "run"), default="environment")
    parser.add_argument("--budget-seconds", type=float, default=1e9, help="stop in time")
    parser.add_argument("--pairs", type=options_of.above_zero, default=6, help="of processes, suite cost")
    parser.add_argument("--meter", action="store_true", help="NVML beside every run")
    parser.add_argument("--strict", action="store_true", help="exit 1 where a share is off")
    parser.add_argument("--user", help="run all programs as this user; with --real only")
    parser.add_argument("--out", required=True, metavar="DIR")
    options = parser.parse_args()
    if options.user and options.sim:
        parser.error("--user is for the card: the simulated one belongs to who starts it")
    options.no_preload, options.context_cost = False, None
    options.seconds = options.seconds or suites.DEFAULT_SECONDS[options.suite]
    options.parts = options_of.matching(parser, options.only, parts_of(options))
    options_of.needs_gpu(options)
    return options


def parts_of(options):
    """What --only chooses from."""
    if options.suite == "cost":
        return ["cost"]
    if options.suite == "torch":
        return torch_suite.MODELS
    mixes = suites.SUITES[options.suite](options.seconds)
    return [f"{mix.name} {one.label}" for mix in mixes for one in mix.rounds]


class Bench:
    """One run: the node, the clock, the results and where they go."""

    def __init__(self, options):
        self.options = options
        self.began = time.monotonic()
        os.makedirs(options.out, exist_ok=True)
        self.place = Place(options, "share")
        self.errors = open(os.path.join(options.out, "stderr.log"), "w", encoding="utf-8")
        self.lines = open(os.path.join(options.out, "lines.jsonl"), "w", encoding="utf-8")
        self.node = Node(self.place, options.via, self.errors)
        self.results, self.native, self.skipped = [], {}, []
        self.where = "GPU"  # its name, once a program asked the driver
        self.pool = []  # native workers, which keep their contexts from round to round

    def close(self):
        self.place.close()
        self.errors.close()
        self.lines.close()

    def left(self):
        return self.options.budget_seconds - (time.monotonic() - self.began)

    def record(self, result):
        self.results.append(result)
        self.log(result)

    def log(self, line):
        self.lines.write(json.dumps(line) + "\n")
        self.lines.flush()

    # --- one process makes the measure of all shares

    def calibrate(self):
        worker = self.node.native()
        try:
            worker.ready()
            line = worker.ask("calibrate")
        finally:
            worker.close()
        if self.place.real and not line["right"]:
            raise Failed("the GPU's result of the calibration is wrong")
        self.node.costs, self.where = line["costs"], line["gpu"]
        self.log(line)
        print(f"costs {line['costs']}", flush=True)

    def check_drift(self):
        """How the clocks changed since the calibration, in percent."""
        worker = self.node.native()
        try:
            worker.ready()
            line = worker.ask("again", "200us")
        finally:
            worker.close()
        drift = 100 * (line["ns"] / line["before_ns"] - 1)
        self.log({"what": "drift", "percent": drift})
        print(f"200us kernel alone, again: {drift:+.2f} % of the calibration", flush=True)

    # --- rounds

    def run_mix(self, mix, mode):
        if mix.seconds() > self.left():
            self.skipped.append(f"{mix.name} {mode}")
            return
        jobs = []
        try:
            jobs = self.start_jobs(mix, mode)
            for one in mix.rounds:
                self.run_round(mix, one, mode, jobs)
        except Failed as failure:
            done = {(r["mix"], r["round"], r["mode"]) for r in self.results}
            for one in mix.rounds:
                if (mix.name, one.label, mode) not in done:
                    self.fail(mix, one, mode, failure)
            if mode == "native":
                self.close_pool()
        finally:
            if mode != "native":
                close([worker for job in jobs for worker in job])

    def fail(self, mix, one, mode, failure):
        print(f"{mix.name:<10} {one.label:<14} {mode:<8} FAILED: {failure}", flush=True)
        self.record({"mix": mix.name, "round": one.label, "mode": mode, "error": str(failure)})

    def start_jobs(self, mix, mode):
        """A list of workers per member, all ready."""
        if mode == "native":
            fresh = [self.node.native() for _ in range(mix.processes() - len(self.pool))]
            self.pool += fresh
            jobs, first = [], 0
            for member in mix.members:
                jobs.append(self.pool[first : first + member.processes])
                first += member.processes
        else:
            jobs = [self.node.limited(member, mode) for member in mix.members]
            fresh = [worker for job in jobs for worker in job]
        try:
            for worker in fresh:
                worker.ready()
        except Failed:
            close(fresh)
            raise
        return jobs

    def close_pool(self):
        close(self.pool)
        self.pool = []

    def run_round(self, mix, one, mode, jobs):
        if mode == "native" and len(mix.members) == 1:
            one = dataclasses.replace(one, seconds=min(one.seconds, suites.NATIVE_SECONDS))
        begin = start_ns(LEAD)
        workers, commands = [], []
        for number, job in enumerate(jobs):
            offset = one.offsets[number] if one.offsets else 0
            seconds = (one.lengths[number] if one.lengths else 0) or one.seconds - offset
            for worker in job:
                workers.append(worker)
                commands.append(
                    ("run", one.loads[number], seconds, one.skip, begin + int(offset * 1e9))
                )
        meter = None
        if self.options.meter:
            meter = self.node.meter(one.seconds, begin + int(one.skip * 1e9))
        answers = together(workers, commands, one.seconds + one.skip)
        result = {"mix": mix.name, "round": one.label, "mode": mode, "jobs": []}
        for number, job in enumerate(jobs):
            lines, answers = answers[: len(job)], answers[len(job) :]
            result["jobs"].append(job_result(mix.members[number], lines, begin))
        if meter is not None:
            result["meter"] = meter.answer(one.seconds)
            meter.close()
        key = (mix.name, one.label)
        if mode == "native":
            self.native[key] = result
        tables.judge(result, None if one.offsets else self.native.get(key))
        self.record(result)
        print(tables.compact(result), flush=True)

    # --- suites

    def shares(self):
        mixes = suites.SUITES[self.options.suite](self.options.seconds)
        chosen = self.options.modes.split(",") if self.options.modes else None
        self.calibrate()
        modes = []
        for mix in mixes:
            mix.modes = chosen or mix.modes
            mix.rounds = [one for one in mix.rounds
                          if f"{mix.name} {one.label}" in self.options.parts]
        mixes = [mix for mix in mixes if mix.rounds]
        estimate = sum(mix.seconds() * len(mix.modes) for mix in mixes)
        print(f"at most {estimate:.0f} s", flush=True)
        for mix in mixes:
            modes += [mode for mode in mix.modes if mode not in modes]
        # Native first: one set of processes serves all, and is gone before a limited job starts.
        for mix in mixes:
            if "native" in mix.modes:
                self.run_mix(mix, "native")
        self.close_pool()
        for mix in mixes:
            for mode in mix.modes:
                if mode != "native":
                    self.run_mix(mix, mode)
        self.check_drift()
        self.write_table(tables.markdown(self.results, modes))
        tables.plots(self.results, self.options.out)

    def write_table(self, text):
        kind = "" if self.place.real else "simulated "
        head = f"Where: {kind}{self.where}; {self.options.seconds:g} s measured per run.\n\n"
        path = os.path.join(self.options.out, "table.md")
        with open(path, "w", encoding="utf-8") as file:
            file.write(head + text)
        print(f"{path} written")

    def exit_status(self):
        if self.skipped:
            print(f"skipped for time: {', '.join(self.skipped)}")
        failed = [r for r in self.results if "error" in r]
        right = ("right",) if self.place.real else ("right", "not computed")
        jobs = [job for r in self.results for job in r.get("jobs", [])]
        wrong = [job for job in jobs if job.get("result", "right") not in right]
        off = [job for job in jobs if not job.get("good", True)]
        good = sum(1 for job in jobs if job.get("good", False))
        print(
            f"{len(failed)} runs failed, {len(wrong)} results wrong; {good} jobs within their mark, "
            f"{len(off)} off; {time.monotonic() - self.began:.0f} s in all"
        )
        return 1 if failed or wrong or (self.options.strict and off) else 0


def close(workers):
    """All at once: ending a context takes a while."""
    for worker in workers:
        with contextlib.suppress(OSError):
            worker.process.stdin.close()
    for worker in workers:
        worker.close()


def job_result(member, lines, begin):
    """The processes of one job taken together."""
    first = lines[0]
    series = [[float(percent) for percent in line["series"].split()] for line in lines]
    skip = round(first["skip"] * BUCKETS_PER_SECOND)
    sums = [sum(values) for values in zip(*series)][skip:]
    full = len(sums) // BUCKETS_PER_SECOND * BUCKETS_PER_SECOND
    windows = [
        statistics.mean(sums[i : i + BUCKETS_PER_SECOND])
        for i in range(0, full, BUCKETS_PER_SECOND)
    ]
    results = {line["result"] for line in lines}
    return {
        "limit": member.limit,
        "slots": member.slots,
        "share": sum(line["share"] for line in lines),
        "deviation": statistics.pstdev(windows) if windows else 0.0,
        "seconds": first["seconds"],
        "offset": (first["start_ns"] - begin) / 1e9,
        "longest_us": max(line["longest_us"] for line in lines),
        "result": results.pop() if len(results) == 1 else "wrong",
        "series": series,
        **{
            key: max(line[key] for line in lines)
            for key in ("launch_p50_us", "launch_p99_us", "launch_max_us")
        },
        **{key: first[key] for key in ("wait_p50_us", "wait_p99_us", "work") if key in first},
        "load": first["load"],
        "kernels": sum(line["kernels"] for line in lines),
        "pids": [line["pid"] for line in lines],
        "late": any(line["late"] for line in lines),
    }


def main():
    options = arguments()
    bench = Bench(options)
    try:
        if options.suite == "cost":
            launch_cost.run(bench)
        elif options.suite == "torch":
            torch_suite.run(bench)
        else:
            bench.shares()
        return bench.exit_status()
    except Failed as failure:
        print(f"failed: {failure}; see {options.out}/stderr.log")
        return 1
    finally:
        bench.close_pool()
        bench.close()


if __name__ == "__main__":
    sys.exit(main())
