"""OH: what the library costs a program. And the memory calls of LLM, which come from the same runs."""

import os
import subprocess
import time

import arithmetic
from arithmetic import percentile
from stage import Skip, processor_seconds
from statistics import median

THREADS = 8


def launches(stage, report):
    columns = ("native", "none", "99")
    groups = []
    for _ in stage.groups(5, 1, 15):
        groups.append({
            column: stage.once([stage.node.program("cost"), "launch"], stage.environment(column))
            for column in columns
        })
    for column in columns:
        report.put("OH-001/a", column, median(group[column]["launch"] for group in groups))
        report.put("OH-008", column, median(group[column]["launch_added"] for group in groups))


def start_up(stage, report):
    lines = {"before": [], "slice": [], "after": []}
    environments = {
        "before": stage.environment("native"),
        "slice": stage.environment("25"),
        "after": stage.environment("native"),
    }
    for _ in stage.groups(40, 6, 50, least=8):
        for name, env in environments.items():
            line = stage.once(
                [stage.node.program("virt"), "context", str(time.monotonic_ns())], env
            )
            if line["library"] != (name == "slice"):
                raise RuntimeError("the library is not where it must be")
            lines[name].append(line)
    for key, field in (("OH-004/a", "ns"), ("OH-004/b", "cpu_ns")):
        before, changed, after = (
            [line[field] / 1e6 for line in lines[name]] for name in ("before", "slice", "after")
        )
        report.put(key, "native", median(before + after))
        report.put(key, "25", median(changed))
        report.put_added(key, *arithmetic.median_interval(
            arithmetic.paired_difference(before, changed, after)))
        low, middle, high = arithmetic.median_interval([b - a for a, b in zip(before, after)])
        report.note(key, f"native against native, the control: {middle:+.2f} ms ({low:+.2f} to "
                         f"{high:+.2f}); {len(changed)} triples")


def calls(stage, report):
    columns = stage.count(("native", "none", "25"), ("native", "25"))
    times = {column: [] for column in columns}
    for _ in stage.groups(5, 1, 10):
        for column in columns:
            line = stage.once([stage.node.program("cost"), "calls"], stage.environment(column))
            times[column].append(line["plt_call"])
    for column in columns:
        report.put("OH-005", column, median(times[column]))


def memory(stage, report):
    columns = stage.count(("native", "25", "50"), ("native", "25"))
    lines = {column: [] for column in columns}
    rates = {column: [] for column in columns}
    contended = {column: [] for column in columns}
    for _ in stage.groups(3, 1, 30):
        for column in columns:
            with stage.running(stage.virt(column)) as (worker,):
                lines[column].append(worker.ask("memory", stage.count(300, 100), 0, 100, 10000))
                rates[column].append(worker.ask("cache", stage.count(0.5, 0.1))["rate"])
                contended[column] += _times(
                    stage.ask_all([worker], ("contend", THREADS, stage.count(100, 30)))
                )
    for column in columns:
        def of(key, column=column):
            return median(line[key] for line in lines[column])

        report.put("OH-002", column, of("alloc_0") / 1e3)
        report.put("OH-003", column, of("free_0") / 1e3)
        for row, live in (("OH-007/a", 100), ("OH-007/b", 10000)):
            report.put(row, column, median(
                line[f"alloc_{live}"] + line[f"free_{live}"] - line["alloc_0"] - line["free_0"]
                for line in lines[column]))
        report.put("LLM-002", column, median(rates[column]))
        report.put("LLM-005", column,
                   -arithmetic.loss(of("direct_pair"), of("pool_pair")))
        report.put("LLM-007", column, of("large") / 1e6)
        report.put("OH-006/a", column, percentile(contended[column], 0.95) / 1e3)


def _times(lines):
    return [int(word) for line in lines for word in line["times"].split()]


def eight_processes(stage, report):
    for column in stage.count(("native", "25", "50"), ("native", "25")):
        env = stage.environment(column)
        with stage.running(*[stage.virt(column, env) for _ in range(THREADS)]) as workers:
            lines = stage.ask_all(workers, ("contend", 1, stage.count(200, 30)))
        report.put("OH-006/b", column, percentile(_times(lines), 0.95) / 1e3)


def throughput(stage, report):
    """Native, no limit, native, 99, native: each limited run against its native neighbours."""
    seconds = stage.options.seconds

    def work(column):
        with stage.running(stage.load(column)) as workers:
            return stage.run_loads(workers, ["back:200us"], seconds)[0]["share"]

    shares = {"none": [], "99": []}
    native = [work("native")]
    for _ in stage.groups(2, 1, 20):
        for column in shares:
            got = work(column)
            native.append(native[0] if stage.quick else work("native"))
            shares[column].append((got, (native[-2] + native[-1]) / 2))
    for column, cap in (("none", 100), ("99", 99)):
        losses = [arithmetic.loss(min(base, cap), got) for got, base in shares[column]]
        report.put("OH-010", column, median(losses))
    control = [arithmetic.loss(before, after) for before, after in zip(native, native[1:])]
    report.note("OH-010", f"native against native, the control: {min(control):+.2f} to "
                          f"{max(control):+.2f} %")


def agent(stage, report):
    """softmigd with a mount namespace of its own, so that it neither sees nor leaves anything."""
    program = os.path.join(stage.place.build, "softmigd")
    if not os.path.exists(program):
        raise Skip("the build has no softmigd")
    if os.getuid() != 0:
        raise Skip("needs root")
    config = os.path.join(stage.place.root, "agent.conf")
    with open(config, "w", encoding="ascii") as file:
        file.write("METRICS_ADDRESS=off\n")
    env = stage.place.bare_environment()
    if stage.options.libraries:
        env["LD_LIBRARY_PATH"] = stage.options.libraries + ":" + env.get("LD_LIBRARY_PATH", "")
    script = ("mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/log && "
              'exec "$0" --config "$1"')
    seconds = stage.count(6, 1)
    workers = [stage.load("25", tenant=tenant) for tenant in range(4)]
    with stage.running(*workers), open(os.devnull, "r+b") as null:
        run = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, program, config],
            env=env, stdin=null, stdout=null, stderr=stage.errors)
        try:
            time.sleep(stage.count(1, 0.3))  # it opens NVML, and maps what it needs
            if run.poll() is not None:
                raise Skip(f"softmigd did not start here (status {run.returncode})")
            try:
                before, began = processor_seconds(run.pid), time.monotonic()
            except OSError:
                raise Skip("the kernel does not say what threads use") from None
            stage.run_loads(workers, ["back:200us"] * 4, seconds, 0)
            used, took = processor_seconds(run.pid) - before, time.monotonic() - began
            if run.poll() is not None:
                raise Skip(f"softmigd ended (status {run.returncode})")
        finally:
            run.terminate()
            run.wait(10)
    report.put("OH-009", "25", 100 * used / took)
    report.note("OH-009", f"{1000 * used:.1f} ms of a core in {took:.1f} s; the library has no "
                          "thread of its own in a program")
