#!/usr/bin/env python3
"""What SoftMig costs: a program with it against the same program without it, in one run.

  bench/report.py --build build --real [--markdown FILE] [--json FILE]
  bench/report.py --build build --sim 1x80G

Every figure comes from process pairs in the order native, slice, native (the control), interleaved,
--pairs times (20); with 1, 8 and 64 processes in the slice. "added" is the median of the pairs'
differences, "control" the same for two native processes: what lies within it is noise.
"""

import json
import os
import statistics
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "gpu"))

from harness import arguments as options_of  # noqa: E402
from harness.place import GIB, Place  # noqa: E402

LIMIT = 60 * GIB  # room for 64 contexts
# What an H100 takes for some calls, in ns: on the simulated GPU, whose own calls cost next to
# nothing, "1 %" is 1 % of this.
CARD_NS = {"alloc_free": 96000, "create_release": 27000, "mem_get_info": 7200}
# name, text, what may be added: ("ns", x), ("percent", x), or None where it is only shown
ROWS = [
    ("async_alloc", "cuMemAllocAsync, warm pool", ("ns", 100)),
    ("async_free", "cuMemFreeAsync, warm pool", ("ns", 100)),
    ("async_pair", "cuMemAllocAsync + FreeAsync, back to back", ("ns", 200)),
    ("alloc_free", "cuMemAlloc + Free, 2 MiB", ("percent", 1)),
    ("alloc_free_512", "cuMemAlloc + Free, 512 B in a used page", None),
    ("create_release", "cuMemCreate + Release, 2 MiB", ("percent", 1)),
    ("mem_get_info", "cuMemGetInfo", ("percent", 0)),
    ("first_context", "process start to first context", ("ns", 2e6)),
]


def arguments():
    parser = options_of.parser_of(__doc__)
    options_of.add_place(parser)
    parser.add_argument("--pairs", type=options_of.above_zero, default=20)
    parser.add_argument("--processes", type=options_of.counts, default="1,8,64", metavar="LIST",
                        help="processes in the slice; 1,8,64")  # fmt: skip
    parser.add_argument("--context-cost", type=int)
    parser.add_argument("--markdown", metavar="FILE")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    options_of.needs_gpu(options)
    options.user, options.no_preload = None, False
    return options


class Bench:
    def __init__(self, options):
        self.place = Place(options, "bench")
        self.cost = os.path.join(self.place.build, "bench", "cost")
        self.preload = self.place.preload
        self.pairs = options.pairs
        self.result = {
            "pairs": options.pairs,
            "where": "card" if options.real else f"simulated {options.sim}",
            "measured": {},
            "failures": [],
        }

    def run(self, env, *what):
        done = subprocess.run(
            [self.cost, *map(str, what)], env=env, capture_output=True, text=True, check=False
        )
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        if not lines or not lines[-1]["ok"]:
            raise RuntimeError(f"cost {what}: {done.stdout} {done.stderr[-500:]}")
        return lines[-1]

    def native(self):
        return {**self.place.bare_environment(), "COST_CARD_BYTES": str(1 << 62)}

    def passive(self):
        return {**self.place.bare_environment(), "LD_PRELOAD": self.preload}

    def note(self, name, text, native, changed, control, allowed, extra=None):
        """One row; native, changed, control are lists of equal length, pair by pair."""
        added = statistics.median(b - a for a, b in zip(native, changed))
        noise = statistics.median(c - a for a, c in zip(native, control))
        base = statistics.median(native)
        row = {
            "text": text,
            "native": base,
            "slice": statistics.median(changed),
            "added": added,
            "control": noise,
            "percent": 100 * added / base if base else 0.0,
            **(extra or {}),
        }
        if allowed:
            kind, most = allowed
            bound = most if kind == "ns" else self.percent(name, base, most)
            row["allowed"] = f"{most:g} %" if kind == "percent" else time_text(bound)
            row["ok"] = added <= bound + abs(noise)
            if not row["ok"]:
                self.result["failures"].append(name)
        self.result["measured"][name] = row
        print_row(row)

    def percent(self, name, native, most):
        """What "at most `most` percent more than native" means in ns."""
        if self.place.real:
            return native * most / 100
        card = CARD_NS[name.split("/")[0]]
        return card * (1 + most / 100) - native if most == 0 else card * most / 100

    def exec_true(self):
        line = self.run(self.place.bare_environment(), "exec", 25 * self.pairs, self.preload)
        self.note(
            "exec_true",
            "exec of /bin/true, passive",
            [line["native"]],
            [line["loaded"]],
            [line["control"]],
            ("ns", 50000),
        )

    def passive_calls(self):
        native, loaded, control = [], [], []
        for _ in range(self.pairs):
            native.append(self.run(self.place.bare_environment(), "calls")["plt_call"])
            loaded.append(self.run(self.passive(), "calls")["plt_call"])
            control.append(self.run(self.place.bare_environment(), "calls")["plt_call"])
        self.note("plt_call", "call through the PLT, passive", native, loaded, control, ("ns", 2))
        line = self.run(self.passive(), "pointers")
        self.result["pointers"] = {k: line[k] for k in ("looked_up", "foreign", "first_foreign")}
        print(
            f"{line['foreign']} of {line['looked_up']} looked-up pointers are not the driver's own "
            f"{line['first_foreign']}"
        )
        if line["foreign"]:
            self.result["failures"].append("pointers")

    def start_neighbours(self, env, count):
        held = [
            subprocess.Popen(
                [self.cost, "hold"], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            for _ in range(count)
        ]
        for process in held:
            if b'"ok":true' not in process.stdout.readline():
                raise RuntimeError("a neighbour got no context")
        return held

    def slice_costs(self, processes):
        env = self.place.new_slice(LIMIT)
        env["COST_CARD_BYTES"] = str(LIMIT + 1)
        neighbours = self.start_neighbours(env, processes - 1)
        times = {"native": [], "slice": [], "control": []}
        try:
            for _ in range(self.pairs):
                for name, variables in (
                    ("native", self.native()),
                    ("slice", env),
                    ("control", self.native()),
                ):
                    times[name].append(self.run(variables, "all", time.monotonic_ns()))
        finally:
            for process in neighbours:
                process.stdin.close()
            for process in neighbours:
                process.wait()
        for key, text, allowed in ROWS:
            lists = [[line[key] for line in times[name]] for name in ("native", "slice", "control")]
            self.note(
                f"{key}/{processes}",
                f"{text}, {processes} process{'es' if processes > 1 else ''}",
                *lists,
                allowed,
            )
        refusals = [line["refusal"] for line in times["slice"] if "refusal" in line]
        if refusals:
            zero = [0.0] * len(refusals)
            self.note(
                f"refusal/{processes}",
                f"refusal, {processes} process{'es' if processes > 1 else ''}",
                zero,
                refusals,
                zero,
                ("ns", 1000),
            )

    def flat(self, counts):
        """How much more is added in a slice of many processes than in one of a single process."""
        measured = self.result["measured"]
        for key, text, allowed in ROWS:
            if allowed is None or len(counts) < 2 or key == "first_context":
                continue
            first, last = measured[f"{key}/{counts[0]}"], measured[f"{key}/{counts[-1]}"]
            growth = last["added"] - first["added"]
            noise = abs(first["control"]) + abs(last["control"]) + 0.01 * last["native"]
            ok = growth <= max(noise, 50)
            self.result.setdefault("growth", {})[key] = {"ns": growth, "noise": noise, "ok": ok}
            print(
                f"{'ok  ' if ok else 'OVER'} {text}: {growth:+.0f} ns from {counts[0]} to "
                f"{counts[-1]} processes (noise {noise:.0f} ns)"
            )
            if not ok:
                self.result["failures"].append(f"flat/{key}")


def time_text(ns):
    for unit, size in (("ms", 1e6), ("us", 1e3)):
        if abs(ns) >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns:.1f} ns"


def print_row(row):
    mark = {True: "ok  ", False: "OVER", None: "    "}[row.get("ok")]
    print(
        f"{mark} {row['text']:<58} native {time_text(row['native']):>9}  "
        f"slice {time_text(row['slice']):>9}  added {time_text(row['added']):>9} "
        f"({row['percent']:+.2f} %)  control {time_text(row['control']):>9}  "
        f"allowed {row.get('allowed', '-')}",
        flush=True,
    )


def markdown(result):
    lines = [
        f"Where: {result['where']}; {result['pairs']} process pairs per figure, medians, "
        "interleaved native / slice / native.",
        "",
        "| cost | native | with SoftMig | added | control | allowed |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["measured"].values():
        lines.append(
            f"| {row['text']} | {time_text(row['native'])} | {time_text(row['slice'])} | "
            f"{time_text(row['added'])} ({row['percent']:+.2f} %) | {time_text(row['control'])} | "
            f"{row.get('allowed', '-')} |"
        )
    if "pointers" in result:
        p = result["pointers"]
        lines += [
            "",
            f"Passive: {p['looked_up'] - p['foreign']} of {p['looked_up']} looked-up pointers "
            "are the driver's own.",
        ]
    return "\n".join(lines) + "\n"


def main():
    options = arguments()
    bench = Bench(options)
    counts = options.processes
    try:
        bench.exec_true()
        bench.passive_calls()
        for count in counts:
            bench.slice_costs(count)
        bench.flat(counts)
    finally:
        bench.place.close()
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(bench.result, file, indent=1)
    if options.markdown:
        with open(options.markdown, "w", encoding="utf-8") as file:
            file.write(markdown(bench.result))
    failures = bench.result["failures"]
    rows = len([row for row in bench.result["measured"].values() if "ok" in row])
    rows += len(bench.result.get("growth", {})) + 1  # and the pointers
    print(f"{rows - len(failures)} passed, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
