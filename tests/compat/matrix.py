#!/usr/bin/env python3
"""The compatibility matrix: every cell natively and in a slice, one after another.

  tests/compat/matrix.py --build build                          on the card; under 8 minutes
  tests/compat/matrix.py --build build --only 'torch|jax'       a regular expression
  tests/compat/matrix.py --build build --sim 1x16G              what needs no card
  tests/compat/matrix.py --markdown docs/compatibility.md --from one.json [two.json ...]

A cell is green if its program prints the same numbers, bit by bit, natively and inside
`softmig run --memory 8192M --sm 50`, the slice shows its limit, the program is refused memory there,
and a reader of NVML outside the slice never saw more on any GPU that the job sees. If that reader saw
nothing, the cell is "unwitnessed": its limit is the program's word alone. Red: not. A program that
fails natively as well says nothing about slices and is marked "broken". What cannot run here is
skipped with the reason.

One line per cell; --json keeps everything. Exit status 0 if some cell is green, and none is red or
unwitnessed.
"""

import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import types

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "gpu"))

import cells as all_cells  # noqa: E402
from harness import arguments as options_of  # noqa: E402
from harness.case import json_lines, kill_session  # noqa: E402
from harness.place import MIB, Place  # noqa: E402
from harness.witness import Witness  # noqa: E402

OURS = re.compile(r"SOFTMIG_|CUDA_DEVICE_(MEMORY|SM)_LIMIT|LD_PRELOAD$|COMPAT_|ACTIVE_OOM")
# What compilers keep: empty for every run, so that each compiles in its own world.
CACHES = ("CUDA_CACHE_PATH", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "CUPY_CACHE_DIR",
          "NUMBA_CACHE_DIR")  # fmt: skip
UNSEEN = "by the program alone"  # what is said of a limit that no witness confirmed
STATES = ("green", "unwitnessed", "red", "broken", "skipped")
MARKS = ("<!-- the matrix: begin -->", "<!-- the matrix: end -->")


# Prints the UUIDs of the GPUs that CUDA shows, which CUDA_VISIBLE_DEVICES and the order of devices
# choose; NVML knows nothing of either.
ASK_UUIDS = """
import ctypes, uuid
cuda, count, text = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.create_string_buffer(16)
assert cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0
for device in range(count.value):
    assert cuda.cuDeviceGetUuid_v2(text, device) == 0
    print(f"GPU-{uuid.UUID(bytes=text.raw)}")
"""

# What the driver keeps of a GPU for itself: 3 MiB once a process has begun to use it, 128 MiB once one
# has touched managed memory there, however many do so. It is no job's, so it is taken before any job's.
TAKE_DRIVERS_OWN = """
import ctypes, sys
cuda, count, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_void_p()
assert cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0
for device in range(count.value):
    address = ctypes.c_uint64()
    assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
    assert cuda.cuCtxSetCurrent(context) == 0
    assert cuda.cuMemAllocManaged(ctypes.byref(address), ctypes.c_size_t(65536), 1) == 0
    assert cuda.cuMemsetD8_v2(address, 1, ctypes.c_size_t(65536)) == 0 and cuda.cuCtxSynchronize() == 0
print("taken", flush=True)
sys.stdin.read()
"""


class Witnesses:
    """A reader of NVML outside every slice for each GPU that the programs see, and a program that holds
    what the driver keeps for itself."""

    def __init__(self, place):
        self.all = []
        self.holder = subprocess.Popen(
            [sys.executable, "-c", TAKE_DRIVERS_OWN], env=place.environment(), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            if self.holder.stdout.readline() != b"taken\n":
                raise RuntimeError("no program can use the GPUs")
            for uuid in place.gpus():
                self.all.append(Witness(place, device=uuid))
            self.mark()
        except (OSError, RuntimeError):
            self.close()
            raise

    def mark(self):
        for witness in self.all:
            witness.mark()

    def follow(self, session):
        for witness in self.all:
            witness.follow(session)

    def stop(self):
        """-> what each saw, in the order of the programs' GPUs."""
        return [witness.stop() for witness in self.all]

    def close(self):
        for witness in self.all:
            witness.close()
        self.holder.communicate()


class CompatPlace(Place):
    """Where the cells run."""

    def __init__(self, options):
        super().__init__(
            types.SimpleNamespace(
                build=options.build, sim=options.sim, sim_version="13.0", user=None,
                no_preload=False, context_cost=None,
            ),
            "compat",
        )  # fmt: skip
        self.compat = os.path.abspath(options.compat or os.path.join(self.build, "compat"))
        self.options = options
        self.known_gpus = None

    def path(self, name):
        """"@x" in the folder of fetch.sh, "%x" in the build folder; None if it is not there."""
        if name[:1] == "@":
            return all_cells.find(os.path.join(self.compat, name[1:]))
        if name[:1] == "%":
            return all_cells.find(os.path.join(self.build, name[1:]))
        return name

    def environment(self):
        """Variables of a program that is in no slice."""
        if self.sim:
            chosen = {k: v for k, v in os.environ.items() if k == "CUDA_VISIBLE_DEVICES"}
            return {**self.bare_environment(), **chosen}
        return {k: v for k, v in os.environ.items() if not OURS.match(k)}

    def gpus(self):
        """UUIDs of the GPUs that a program sees; none without a driver."""
        if self.known_gpus is None:
            done = subprocess.run(
                [sys.executable, "-c", ASK_UUIDS], env=self.environment(), capture_output=True,
                text=True, timeout=60, check=False,
            )  # fmt: skip
            self.known_gpus = done.stdout.split() if done.returncode == 0 else []
        return self.known_gpus

    def ask_smi(self, what):
        """Lines of nvidia-smi's answer; none without it."""
        command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader"]
        try:
            done = subprocess.run(
                command, env=self.environment(), capture_output=True, text=True, timeout=60,
                check=False,
            )  # fmt: skip
        except OSError:
            return []
        return done.stdout.splitlines() if done.returncode == 0 else []

    def machine(self):
        """Date, card and driver of this run."""
        found = {"date": datetime.date.today().isoformat(), "memory": self.options.memory,
                 "sm": self.options.sm}  # fmt: skip
        if self.sim:
            return {**found, "card": f"simulated {self.sim}", "driver": "simulated, CUDA 13.0"}
        line = (self.ask_smi("name,driver_version") or ["unknown, unknown"])[0]
        card, _, driver = line.partition(", ")
        return {**found, "card": card, "driver": driver, "gpus": len(self.gpus())}


class Run:
    """One run of a program: how it ended and what it printed."""

    def __init__(self, place, cell, sliced, timeout):
        self.folder = tempfile.mkdtemp(dir=place.root)
        command = [place.path(part) for part in cell.command]
        env = {**place.environment(), **cell.variables}
        for name in CACHES:
            env[name] = os.path.join(self.folder, name.lower())
        self.log = os.path.join(self.folder, "softmig.log")
        if sliced:
            env["COMPAT_LIMIT"] = str(place.options.memory * MIB)
            env["SOFTMIG_LOG_FILE"] = self.log
            command = self.in_slice(place, cell) + command
        if place.witness and sliced:
            place.witness.mark()
        start = time.monotonic()
        process = place.start(command, env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if place.witness and sliced:
            place.witness.follow(process.pid)
        try:
            output, _ = process.communicate(timeout=timeout)
            self.status = process.returncode
        except subprocess.TimeoutExpired:
            self.status = None
        kill_session(process.pid)
        if self.status is None:
            output, _ = process.communicate()
        self.seconds = time.monotonic() - start
        self.seen = place.witness.stop() if place.witness and sliced else []
        self.output = output.decode(errors="replace")
        self.line = {}
        for line in json_lines(self.output):
            self.line.update(line)
        self.said = self.warnings()
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def in_slice(place, cell):
        command = [os.path.join(place.build, "softmig"), "run"]
        command += ["--memory", f"{place.options.memory}M", "--library", place.preload]
        if cell.sm and place.options.sm:
            command += ["--sm", str(place.options.sm)]
        return command + ["--"]

    def warnings(self):
        """What the library logged, refusals of memory aside."""
        try:
            with open(self.log, encoding="utf-8", errors="replace") as file:
                return file.read()[-2000:]
        except OSError:
            return ""

    def wrong(self, cell, timeout):
        """What is wrong with it by itself, or None."""
        if self.status is None:
            return f"hangs: killed after {timeout:.0f} s"
        if "error" in self.line:
            return str(self.line["error"])
        if self.status != 0:
            tail = " ".join(self.output.split())[-160:]
            return f"exit status {self.status}: {tail}"
        if not self.line.get("results"):
            return "prints no results"
        for pattern in cell.says:
            if not re.search(pattern, self.output):
                return f"its output lacks {pattern!r}"
        return None


def highest(seen):
    """The most that any witness saw on its GPU, in bytes."""
    return max((max(one["processes"], one["device"]) for one in seen), default=0)


def judge_limit(line, seen, limit):
    """(what is wrong with the limit or None, the figures in words)."""
    words = []
    if "total" in line:
        words.append(f"{line['total'] // MIB} MiB shown")
        if line["total"] != limit:
            return f"shows {line['total'] // MIB} MiB", ", ".join(words)
    if "pool" in line:
        words.append(f"pool of {line['pool'] // MIB} MiB")
        if not limit // 2 < line["pool"] < limit:
            return f"its pool is {line['pool'] // MIB} MiB", ", ".join(words)
    if "granted" in line:
        words.append(f"{line['granted'] // MIB} MiB granted")
        if not line.get("refused"):
            return "was never refused", ", ".join(words)
        if not limit // 2 < line["granted"] < limit:
            return f"was granted {line['granted'] // MIB} MiB", ", ".join(words)
    most = highest(seen)
    words.append(f"highest {most // MIB} MiB" if most else UNSEEN)
    if most > limit:
        return f"the witness saw {most // MIB} MiB", ", ".join(words)
    return None, ", ".join(words)


def run_cell(cell, place, timeout):
    """Runs it both ways -> its record."""
    record = {"cell": cell.name, "text": cell.text}
    missing = cell.missing(place)
    if missing:
        return {**record, "state": "skipped", "note": missing}
    native = Run(place, cell, False, timeout)
    record["native_s"] = round(native.seconds, 2)
    if "skip" in native.line:
        return {**record, "state": "skipped", "note": native.line["skip"]}
    record["version"] = native.line.get("version", "")
    wrong = native.wrong(cell, timeout)
    if wrong:
        return {**record, "state": "broken", "note": f"natively: {wrong}",
                "native_output": native.output[-4000:]}  # fmt: skip
    sliced = Run(place, cell, True, timeout)
    record["slice_s"] = round(sliced.seconds, 2)
    wrong = sliced.wrong(cell, timeout)
    if "skip" in sliced.line:
        wrong = f"runs natively, but in the slice: {sliced.line['skip']}"
    limit_wrong, record["limit"] = judge_limit(
        sliced.line, sliced.seen, place.options.memory * MIB
    )
    record["same"] = native.line["results"] == sliced.line.get("results")
    if not wrong and not record["same"]:
        wrong = "the numbers differ"
    record["results"] = native.line["results"]
    if "rounds" in native.line:
        record["rounds"] = [native.line["rounds"], sliced.line.get("rounds")]
    record["log"] = sliced.said
    record["seen"] = sliced.seen
    wrong = wrong or limit_wrong
    if wrong:
        record["slice_results"] = sliced.line.get("results")
        record["slice_output"] = sliced.output[-4000:]
    good = "green" if highest(sliced.seen) else "unwitnessed"
    return {**record, "state": "red" if wrong else good, "note": wrong or ""}


def print_line(record):
    times = "".join(
        f"{record[key]:6.1f}s" if key in record else "       " for key in ("native_s", "slice_s")
    )
    words = [record.get("limit", ""), record.get("version", ""), record["note"]]
    print(f"{record['state']:<11} {record['cell']:<22}{times}  {'  '.join(filter(None, words))}",
          flush=True)  # fmt: skip


def run_all(cells, place, budget):
    """Runs the cells within `budget` seconds -> their records."""
    end = time.monotonic() + budget
    records = []
    for cell in cells:
        left = end - time.monotonic()
        if left < 5:
            record = {"cell": cell.name, "text": cell.text, "state": "skipped",
                      "note": "no time left"}  # fmt: skip
        else:
            record = run_cell(cell, place, min(cell.timeout, left))
        records.append(record)
        print_line(record)
    return records


def table(reports, cells):
    """Markdown of all cells; where several reports ran a cell, the last counts."""
    lines = []
    if reports:
        lines += ["| run | date | card | driver | slice |", "|---|---|---|---|---|"]
    for number, report in enumerate(reports, start=1):
        where = report["machine"]
        card = f"{where.get('gpus', 1)} x {where['card']}"
        share = f", {where['sm']} % of the time" if where["sm"] else ""
        lines.append(
            f"| {number} | {where['date']} | {card} | {where['driver']} "
            f"| {where['memory']} MiB{share} |"
        )
    found = {}
    for number, report in enumerate(reports, start=1):
        for record in report["cells"]:
            # A skip tells nothing where another run has a result.
            if record["state"] != "skipped" or record["cell"] not in found:
                found[record["cell"]] = (number, record)
    lines += ["" if reports else None, "| cell | what | result | numbers | limit | run |",
              "|---|---|---|---|---|---|"]  # fmt: skip
    for cell in cells:
        number, record = found.get(cell.name, ("", {"state": "not run yet", "note": ""}))
        state = {"unwitnessed": "green, unwitnessed"}.get(record["state"], record["state"])
        state += f": {record['note']}" if record["note"] else ""
        text = cell.text + (f" ({record['version']})" if record.get("version") else "")
        numbers = {True: "same", False: "differ"}.get(record.get("same"), "")
        row = [cell.name, text, state, numbers, record.get("limit", ""), number]
        lines.append("| " + " | ".join(str(part).replace("|", "/") for part in row) + " |")
    return "\n".join(line for line in lines if line is not None)


def write_markdown(path, reports, cells):
    """Puts the table between its two marks in a document."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    before, _, rest = text.partition(MARKS[0])
    _, mark, after = rest.partition(MARKS[1])
    if not mark:
        raise SystemExit(f"{path}: it has no place for the table between {MARKS[0]} and {MARKS[1]}")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{before}{MARKS[0]}\n{table(reports, cells)}\n{MARKS[1]}{after}")


def arguments():
    parser = options_of.parser_of(__doc__)
    parser.add_argument("--build", default="build", metavar="DIR", help="build folder; build")
    parser.add_argument("--compat", metavar="DIR", help="what fetch.sh made; BUILD/compat")
    parser.add_argument("--sim", metavar="NxSIZE", type=options_of.node,
                        help="on a simulated node, e.g. 1x16G")  # fmt: skip
    parser.add_argument("--only", metavar="REGEX", type=options_of.expression,
                        help="only cells whose name matches")  # fmt: skip
    parser.add_argument("--budget", type=float, default=460, metavar="SECONDS",
                        help="cells that do not fit are skipped; 460")  # fmt: skip
    parser.add_argument("--memory", type=int, default=8192, metavar="MIB", help="of the slice; 8192")
    parser.add_argument("--sm", type=int, default=50, metavar="PERCENT",
                        help="share of GPU time of the slice; 50, 0 for none")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="name the cells and stop")
    parser.add_argument("--json", metavar="FILE", help="write everything there")
    parser.add_argument("--markdown", metavar="FILE", help="renew the table of this document")
    parser.add_argument("--from", dest="reports", nargs="*", metavar="JSON",
                        help="take these results for the table, run nothing")  # fmt: skip
    options = parser.parse_args()
    if options.reports is not None and not options.markdown:
        parser.error("--from needs --markdown: where the table goes")
    options.cells = options_of.matching(parser, options.only, all_cells.all_cells(),
                                        lambda cell: (cell.name,))  # fmt: skip
    if options.reports is None and not options.list:
        options_of.needs_build(parser, options.build)
    return options


def run_here(options, cells):
    place = CompatPlace(options)
    place.witness = None
    try:
        place.witness = Witnesses(place)
    except (OSError, RuntimeError):
        print("no witness: NVML or tests/gpu/watch is not there", flush=True)
    start = time.monotonic()
    try:
        records = run_all(cells, place, options.budget)
        report = {"machine": place.machine(), "cells": records}
    finally:
        if place.witness:
            place.witness.close()
        place.close()
    report["seconds"] = round(time.monotonic() - start, 1)
    return report


def main():
    options = arguments()
    cells = all_cells.all_cells()
    if options.reports is not None:
        reports = []
        for path in options.reports:
            with open(path, encoding="utf-8") as file:
                reports.append(json.load(file))
        write_markdown(options.markdown, reports, cells)
        return 0
    if options.list:
        print("\n".join(f"{cell.name:<24}{cell.text}" for cell in options.cells))
        return 0
    report = run_here(options, options.cells)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
    if options.markdown:
        write_markdown(options.markdown, [report], cells)
    counts = {}
    for record in report["cells"]:
        counts[record["state"]] = counts.get(record["state"], 0) + 1
    words = ", ".join(f"{counts.get(s, 0)} {s}" for s in STATES)
    print(f"{words} in {report['seconds']:.0f} s on {report['machine']['card']}, driver "
          f"{report['machine']['driver']}")  # fmt: skip
    bad = counts.get("red") or counts.get("unwitnessed") or not counts.get("green")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
