"""The suite "cost": what the launch hook costs.

Groups of processes, interleaved: native, passive (the library and no limit at all), memory (a limit
of memory alone), 99 (a compute limit that is not reached), control (native again).
"""

import json
import os
import statistics
import subprocess

import suites
from node import Failed, start_ns

KINDS = ("native", "passive", "memory", "99", "control")
# name, text, what may be added to native in ns: without a compute limit, with limit 99. Graphs are
# hooked for their memory.
ROWS = [
    ("launch", "cuLaunchKernel, empty kernel", 2, 200),
    ("launch_cooperative", "cuLaunchCooperativeKernel, empty kernel", 2, 200),
    ("launch_graph", "cuGraphLaunch, one empty kernel", None, 200),
]


def _environment(node, kind):
    place = node.place
    return {
        "native": place.bare_environment,
        "control": place.bare_environment,
        "passive": node.passive,
        "memory": lambda: place.new_slice(60 << 30),
        "99": lambda: place.new_slice(None, variables={"CUDA_DEVICE_SM_LIMIT": "99"}),
    }[kind]()


def _cost(node, kind, what):
    done = subprocess.run(
        [node.program("cost"), what],
        env=_environment(node, kind),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines or not lines[-1].get("ok"):
        raise Failed(f"cost {what}: {done.stdout} {done.stderr[-300:]}")
    return lines[-1]


def _launches(bench):
    """A table row per figure: medians of the differences to the native process of the same group."""
    groups = []
    for _ in range(bench.options.pairs):
        group = {kind: _cost(bench.node, kind, "launch") for kind in KINDS}
        groups.append(group)
        bench.log({"what": "launch cost", **group})
    rows = []
    for name, text, *allowed in ROWS:
        native = statistics.median(group["native"][name] for group in groups)
        row = {"text": text, "native": native, "allowed": allowed}
        for kind in KINDS[1:]:
            row[kind] = statistics.median(g[kind][name] - g["native"][name] for g in groups)
        rows.append(row)
        added = "  ".join(f"{kind} {row[kind]:+.0f}" for kind in KINDS[1:])
        print(f"{text:<42} native {native:.0f} ns  {added}", flush=True)
    # Through the hook and past it in one process: finer than any two processes can tell.
    inside = {kind: statistics.median(g[kind]["launch_added"] for g in groups) for kind in KINDS}
    print(f"{'cuLaunchKernel, hook against driver':<42} "
          + "  ".join(f"{kind} {inside[kind]:+.0f}" for kind in KINDS), flush=True)
    rows.append({"text": "cuLaunchKernel, hook against driver in one process",
                 "native": inside["native"], "allowed": (2, 200),
                 **{kind: inside[kind] for kind in KINDS[1:]}})
    return rows


def _plt(bench):
    lines = {kind: [] for kind in ("native", "passive")}
    for _ in range(bench.options.pairs):
        for kind, list_ in lines.items():
            list_.append(_cost(bench.node, kind, "calls")["plt_launch"])
    added = statistics.median(b - a for a, b in zip(lines["native"], lines["passive"]))
    bench.log({"what": "plt", "added": added})
    print(f"cuLaunchKernel through the PLT, passive: {added:+.1f} ns (2 allowed)", flush=True)
    return added


def _run(bench, member, load):
    """One load alone; native if `member` is None."""
    node = bench.node
    worker = node.limited(member, "library")[0] if member else node.native()
    try:
        worker.ready()
        seconds = bench.options.seconds
        worker.tell("run", load, seconds, 1, start_ns(0.1))
        line = worker.answer(seconds + 1)
    finally:
        worker.close()
    bench.log(line)
    return line


def _loads(bench):
    """Throughput under a limit that is not reached, and latency of a job far below its limit."""
    rounds = max(1, bench.options.pairs // 2)
    figures = {"20us": [], "20us control": [], "light": [], "light control": []}
    for _ in range(rounds):
        native = _run(bench, None, "back:20us")["share"]
        limited = _run(bench, suites.Member(99), "back:20us")["share"]
        control = _run(bench, None, "back:20us")["share"]
        figures["20us"].append(100 * (1 - limited / native))
        figures["20us control"].append(100 * (1 - control / native))
        native = _run(bench, None, "light:200us")["wait_p99_us"]
        limited = _run(bench, suites.Member(25), "light:200us")["wait_p99_us"]
        control = _run(bench, None, "light:200us")["wait_p99_us"]
        figures["light"].append(limited - native)
        figures["light control"].append(control - native)
    middle = {name: statistics.median(values) for name, values in figures.items()}
    print(
        f"20 us kernels back to back, limit 99: {middle['20us']:+.2f} % slower "
        f"(control {middle['20us control']:+.2f} %; 1 % allowed, and what the limit itself cuts)\n"
        f"p99 of launch and wait, 5 % load at limit 25: {middle['light']:+.0f} us "
        f"(control {middle['light control']:+.0f} us; 100 us allowed)",
        flush=True,
    )
    return middle


def run(bench):
    rows, plt = _launches(bench), _plt(bench)
    bench.calibrate()
    middle = _loads(bench)
    lines = [
        f"{bench.options.pairs} groups of processes, interleaved; medians in ns, and what was added.",
        "",
        "| call | native | no limit | memory limit only | limit 99 | control | allowed |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        allowed = " / ".join("-" if a is None else f"{a}" for a in row["allowed"])
        lines.append(
            f"| {row['text']} | {row['native']:.0f} | {row['passive']:+.0f} | {row['memory']:+.0f} | "
            f"{row['99']:+.0f} | {row['control']:+.0f} | {allowed} |"
        )
    lines += [
        f"| the same call through the PLT, refused at once | | {plt:+.1f} | | | | 2 |",
        "",
        "| figure | added | control | allowed |",
        "|---|---|---|---|",
        f"| 20 us kernels back to back, limit 99, slower by | {middle['20us']:.2f} % | "
        f"{middle['20us control']:.2f} % | 1 % |",
        f"| p99 of launch and wait of a job that uses 5 % of its 25 % | {middle['light']:.0f} us | "
        f"{middle['light control']:.0f} us | 100 us |",
    ]
    os.makedirs(bench.options.out, exist_ok=True)
    bench.write_table("\n".join(lines) + "\n")
