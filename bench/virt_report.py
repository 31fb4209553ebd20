#!/usr/bin/env python3
"""The benchmark report: GPU-Virt-Bench's metric ids with formulas that measure what they say.

  bench/virt_report.py --build build --real --out results/report          as root, for all of it
  bench/virt_report.py --build build --sim 1x80G --quick --out results/report

Native beside slices of 25 and 50 %; whatever is called isolation or fairness is measured with several
processes in slices of their own. Under --out, replaced after every measurement, so that nothing is lost
when it is stopped: report.json, report.md, SVGs; stderr.log of the programs.

Measurements come in the order of what has a bound. One that fails or takes too long is named and the
next begins. Exits 1 if a bound was missed, a measurement failed or there is no GPU.
"""

import argparse
import copy
import datetime
import os
import re
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "virt"), os.path.join(HERE, "share"),
                os.path.join(HERE, "..", "tests", "gpu")]

import catalogue  # noqa: E402
import isolation  # noqa: E402
import overhead  # noqa: E402
import two_gpus  # noqa: E402
from harness import arguments as options_of  # noqa: E402
from harness.place import Place  # noqa: E402
from node import Failed  # noqa: E402
from output import Report, formulas  # noqa: E402
from stage import Skip, Stage, Timeout, at_most  # noqa: E402

RESERVE = 3  # seconds for the end
# What a calibration gives on the simulated GPU, to a few ns: --quick has no time for one.
SIMULATED_COSTS = ",".join(
    f"{key}={each}:{each * kernels}.0"
    for key, each, kernels in (
        ("20us", 20000, 1), ("200us", 200000, 1), ("2ms", 2000000, 1), ("20ms", 20000000, 1),
        ("200ms", 200000000, 1), ("small:200us", 200000, 1), ("graph:20us", 20000, 20),
        ("graph:200us", 200000, 20))
)


class Formulas(argparse.Action):
    """Needs nothing else, as --help."""

    def __call__(self, parser, *_):
        print("\n".join(formulas()))
        parser.exit()


def arguments():
    parser = options_of.parser_of(__doc__)
    options_of.add_place(parser)
    parser.add_argument("--seconds", type=options_of.above_zero,
                        help="per run of a load (2; with --quick 0.3)")
    parser.add_argument("--budget-seconds", type=float, default=460, help="stop in time (460)")
    parser.add_argument("--quick", action="store_true", help="that all works, in 25 s")
    parser.add_argument("--only", metavar="RE", type=options_of.expression,
                        help="measurements by name or metric id")
    parser.add_argument("--libraries", help="folder with libraries that softmigd needs here")
    parser.add_argument("--formulas", action=Formulas, nargs=0, help="print the table of formulas and end")
    parser.add_argument("--out", metavar="DIR", required=True)
    options = parser.parse_args()
    options.measurements = options_of.matching(parser, options.only, measurements(),
                                               lambda row: (row[0], *row[3]))
    options_of.needs_gpu(options)
    options.user, options.no_preload, options.context_cost = None, False, None
    options.seconds = options.seconds or (0.3 if options.quick else 2)
    return options


class Runner:
    """Measurements one after another, each with a time of its own, within the budget."""

    def __init__(self, options):
        self.options = options
        self.began = time.monotonic()
        self.place = Place(options, "report")
        os.makedirs(options.out, exist_ok=True)
        self.errors = open(os.path.join(options.out, "stderr.log"), "w", encoding="utf-8")
        self.stage = Stage(self.place, options, self.errors)
        self.report = Report(options.out, {
            "where": "not known",
            "date": datetime.date.today().isoformat(),
            "seconds": options.seconds,
            "quick": options.quick,
        })

    def close(self):
        self.stage.kill_all()
        self.place.close()
        self.errors.close()

    def left(self):
        return self.options.budget_seconds - RESERVE - (time.monotonic() - self.began)

    def prepare(self):
        """The card, and what the loads cost there alone."""
        stage = self.stage
        with at_most(60), stage.running(stage.virt("native")) as (worker,):
            line = worker.ask("about")
        stage.gpu, stage.total, stage.devices = line["gpu"], line["total"], line["devices"]
        self.place.context_cost = self.context_cost()
        if self.options.quick and not self.place.real:
            stage.node.costs = SIMULATED_COSTS
        else:
            with at_most(60), stage.running(stage.load("native")) as (worker,):
                stage.node.costs = worker.ask("calibrate")["costs"]
        kind = "" if self.place.real else "SIMULATED "
        self.report.head.update(where=f"{kind}{stage.gpu}{driver()}, {os.cpu_count()} CPU cores",
                                costs=stage.node.costs, simulated=not self.place.real,
                                version=self.version())
        print(f"{self.report.head['where']}; costs {stage.node.costs}", flush=True)
        self.report.save()

    def context_cost(self):
        """Bytes, as an administrator has them measured before any job runs."""
        file = os.path.join(self.place.root, "context_cost")
        program = os.path.join(self.place.build, "softmig")
        done = subprocess.run([program, "calibrate", "--device", "0", "--output", file],
                              env=self.place.bare_environment(), capture_output=True, text=True,
                              check=False, timeout=60)
        if done.returncode != 0:
            raise Failed(f"softmig calibrate: {done.stderr.strip()}")
        with open(file, encoding="utf-8") as lines:
            return int(list(lines)[-1].split("\t")[-1])

    def version(self):
        program = os.path.join(self.place.build, "softmig")
        if not os.path.exists(program):
            return "not known"
        done = subprocess.run([program, "--version"], env=self.place.bare_environment(),
                              capture_output=True, text=True, check=False, timeout=10)
        return done.stdout.strip()

    def measure(self, name, body, timeout, keys=()):
        """Runs one measurement; "late" if there is no time for it, "failed" if it failed, else None."""
        if self.left() < 1:
            self.report.skip(keys, "no time left")
            print(f"{name}: no time left", flush=True)
            return "late"
        before = copy.deepcopy(self.report.rows)
        began, outcome = time.monotonic(), None
        try:
            with at_most(min(timeout, self.left())):
                body()
        except Skip as why:
            self.report.skip(keys, str(why))
            print(f"{name}: SKIPPED: {why}", flush=True)
        except Exception as error:  # whatever it is, the others must be measured
            if isinstance(error, Timeout) and self.left() <= 0:
                outcome = "late"
                self.report.skip(keys, "no time left")
                print(f"{name}: no time left", flush=True)
                self.stage.kill_all()
            else:
                outcome = "failed"
                self.report.skip(keys, "failed")
                self.fail(name, error)
        self.report.save()
        self.report.plots()
        print(f"-- {name}, {time.monotonic() - began:.1f} s", flush=True)
        for key, row in self.report.rows.items():
            if row != before.get(key) and self.report.is_measured(key):
                print("   " + self.report.line(key), flush=True)
        return outcome

    def fail(self, name, error):
        self.report.fail(name, str(error) or type(error).__name__)
        print(f"{name}: FAILED: {error or type(error).__name__}", flush=True)
        self.stage.kill_all()

    def tenants(self, column):
        """Rounds of one set of processes; each is a measurement by itself."""
        timeout = 8 * self.options.seconds + 20
        try:
            isolation.tenants(self.stage, self.report, column,
                              lambda name, body: self.measure(name, body, timeout))
        except Exception as error:  # its processes did not start
            self.fail(f"tenants {column}", error)
            self.report.save()

    def run(self):
        for name, body, timeout, keys in self.options.measurements:
            if name.startswith("tenants"):
                self.tenants(name.split()[1])
            else:
                self.measure(name, lambda body=body: body(self.stage, self.report), timeout, keys)


def nccl(stage, report):
    if not stage.place.real or stage.devices < 2:
        raise Skip("needs two cards")
    options = argparse.Namespace(build=stage.place.build, sim=None, seconds=stage.count(4, 2))
    try:
        native = two_gpus.nccl(options, None)
        half = two_gpus.nccl(options, (50, 50))
    except SystemExit as error:
        raise Skip(f"no NCCL here: {str(error)[-200:]}") from None
    report.put("NCCL-001", "native", native["rate"])
    report.put("NCCL-001", "50", half["rate"])
    if not (native["right"] and half["right"]):
        raise RuntimeError("a sum is wrong")


def measurements():
    """Name, what measures, its longest time in seconds, the keys that it fills."""
    shares = [m.key for m in catalogue.METRICS if m.id.startswith(("IS-003", "IS-006", "IS-007",
              "IS-008", "IS-009", "SCHED", "LLM-003", "LLM-004", "LLM-006", "LLM-009"))]
    memory = ("OH-002", "OH-003", "OH-006/a", "OH-007/a", "OH-007/b", "LLM-002", "LLM-005",
              "LLM-007")
    bytes_moved = [m.key for m in catalogue.METRICS if m.id.startswith(("BW", "PCIE"))]
    holes = ("FRAG-001", "FRAG-002", "FRAG-003")
    return [
        ("accuracy of memory, refusal", isolation.accuracy, 60, ("IS-001", "IS-002")),
        ("tenants 25", None, 0, shares),
        ("tenants native", None, 0, shares),
        ("tenants 50", None, 0, shares),
        ("start-up", overhead.start_up, 90, ("OH-004/a", "OH-004/b")),
        ("launches", overhead.launches, 60, ("OH-001/a", "OH-008")),
        ("memory calls", overhead.memory, 90, memory),
        ("eight processes", overhead.eight_processes, 60, ("OH-006/b",)),
        ("response to a new limit", isolation.response, 40, ("IS-004",)),
        ("a neighbour's illegal address", isolation.faults("illegal"), 40,
         ("IS-010/a", "ERR-001")),
        ("a neighbour's SIGKILL", isolation.faults("killed"), 40, ("IS-010/b",)),
        ("memory of another tenant", isolation.cross_tenant, 30, ("IS-005",)),
        ("throughput", overhead.throughput, 60, ("OH-010",)),
        ("calls", overhead.calls, 40, ("OH-005",)),
        ("the node agent", overhead.agent, 40, ("OH-009",)),
        ("copies", isolation.copies, 60, bytes_moved),
        ("fragmentation", isolation.fragments, 60, holes),
        ("after a refusal", isolation.after_refusal, 30, ("ERR-003",)),
        ("memory of the dead", isolation.dead_memory, 60, ("ERR-002",)),
        ("NCCL", nccl, 120, ("NCCL-001",)),
    ]


def driver():
    """", driver 580.1" where the kernel says so."""
    try:
        with open("/proc/driver/nvidia/version", encoding="utf-8") as file:
            found = re.search(r"\d{3}\.\d+(\.\d+)?", file.read())
        return f", driver {found.group()}" if found else ""
    except OSError:
        return ""


def stop(_number, _frame):
    raise KeyboardInterrupt


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, stop)
    runner = Runner(options)
    report = runner.report
    try:
        try:
            runner.prepare()
        except Exception as error:
            print(f"no GPU to measure: {error}; see {options.out}/stderr.log")
            return 1
        runner.run()
    except KeyboardInterrupt:
        report.fail("the report", "stopped from outside")
    finally:
        runner.close()
    report.save()
    text, good = report.summary()
    print(f"{text}; {len(report.failures)} failures; {time.monotonic() - runner.began:.0f} s")
    print(f"{options.out}/report.md, report.json and {len(report.series)} SVGs written")
    return 0 if good and not report.failures else 1


if __name__ == "__main__":
    sys.exit(main())
