"""IS, SCHED, and what LLM says of shares: four tenants, each a process in a slice of its own."""

import contextlib
import os
import signal
import statistics
import time

import arithmetic
from harness.witness import Witness
from node import Failed
from stage import MIB, Skip

BUCKET = 0.1
HOGS = ["deep:200us", "back:2ms", "streams:200us"]
LOSS_OF_50 = 98  # 50 + 16 + 16 + 16


def accuracy(stage, report):
    for column, percent in (("25", 25), ("50", 50)):
        limit = stage.limit_bytes(percent)
        witness = Witness(stage.place)
        try:
            witness.mark()
            worker = stage.virt(column)
            witness.follow(worker.process.pid)
            with stage.running(worker):
                filled = worker.ask("fill")
                time.sleep(0.1)  # several looks of the witness
                seen = witness.stop()
                worker.ask("drop")
                denied = worker.ask("deny", stage.count(5000, 500))
        finally:
            witness.close()
        most = max(seen["device"], seen["processes"])
        report.put("IS-001", column, arithmetic.accuracy(seen["device"], limit))
        if most > limit:
            report.spoil("IS-001", column, f"{(most - limit) / MIB:.1f} MiB above the limit")
        set_aside = limit - filled["granted"] - filled["free"]
        report.note(
            "IS-001",
            f"{percent} %: limit {limit / MIB:.0f} MiB, granted {filled['granted'] / MIB:.0f} and set "
            f"aside for the context {set_aside / MIB:.0f}, NVML {seen['device'] / MIB:.1f} on the device, "
            f"{seen['processes'] / MIB:.1f} of the process, {seen['samples']} samples",
        )
        report.put("IS-002", column, denied["median"])
        report.note("IS-002", f"{percent} %: 99th percentile {denied['p99']:.0f} ns")
    with stage.running(stage.virt("native")) as (worker,):
        line = worker.ask("deny", stage.count(1000, 100), 2 * stage.total // MIB)
    report.put("IS-002", "native", line["median"])


class Tenants:
    """Four processes, in slices of their own or native, and what they got, round by round."""

    def __init__(self, stage, report, column):
        self.stage, self.report, self.column = stage, report, column
        limits = {"25": [25] * 4, "50": [50, 16, 16, 16], "native": [100] * 4}[column]
        self.limits, self.limit = limits, limits[0]
        self.alone = {}

    def put(self, key, value):
        self.report.put(key, self.column, value)

    def run(self, loads, seconds=None):
        seconds = seconds or self.stage.options.seconds
        return self.stage.run_loads(self.workers, loads, seconds)

    def first(self, load):
        """The first tenant alone; measured once."""
        if load not in self.alone:
            time.sleep(self.stage.count(0.4, 0.1))  # until what neighbours said of their slots is old
            self.alone[load] = self.run([load, None, None, None])[0]
        return self.alone[load]

    def rounds(self):
        """By importance: whatever is not reached in time is missing alone."""
        if self.stage.quick:
            few = [self.by_itself, self.noise, self.light]
            return few if self.column == "25" else [self.fairness]
        return [self.by_itself, self.noise, self.fairness, self.long_hogs, self.unlike, self.light,
                self.exact, self.batches, self.overlap]

    def by_itself(self):
        """Before any neighbour has done anything."""
        light = self.first("light:200us")
        self.put("OH-001/b", light["launch_p50_us"])
        self.put("LLM-004/a", light["wait_p50_us"])
        self.put("LLM-004/b", light["wait_p99_us"])
        alone = self.first("back:200us")
        if self.column != "native":
            self.put("IS-003/a", arithmetic.accuracy(alone["share"], self.limit))
            self.report.note("IS-003/a", f"{self.column}: {alone['share']:.2f} % of the GPU")
            self.put("OH-010", arithmetic.loss(self.limit, alone["share"]))

    def noise(self):
        alone = self.first("back:200us")
        lines = self.run(["back:200us"] + HOGS)
        beside = lines[0]["share"]
        self.put("IS-006", 100 * beside / alone["share"])
        self.put("IS-009/a", arithmetic.loss(alone["share"], beside))
        self.report.note("IS-009/a", f"{self.column}: alone {alone['share']:.2f} % of the GPU, beside "
                                     f"{beside:.2f}, hogs "
                                     + " ".join(f"{line['share']:.1f}" for line in lines[1:]))
        self.keep("noisy-neighbours", "One job beside three hogs", lines)

    def long_hogs(self):
        alone = self.first("back:200us")
        lines = self.run(["back:200us"] + ["back:20ms"] * 3)
        self.put("IS-009/b", arithmetic.loss(alone["share"], lines[0]["share"]))

    def fairness(self):
        lines = self.run(["back:200us"] * 4)
        self.put("IS-008/a", self.jain(lines))
        possible = LOSS_OF_50 if self.column == "50" else 100
        shares = [line["share"] for line in lines]
        self.put("SCHED-001", possible - sum(shares))
        self.report.note("IS-008/a", f"{self.column}: " + " ".join(f"{s:.2f}" for s in shares))
        self.keep("fairness", "Four jobs, 200 us kernels", lines)

    def unlike(self):
        lines = self.run(["back:200us", "back:20us", "back:2ms", "graph:200us"])
        self.put("IS-008/b", self.jain(lines))
        self.report.note("IS-008/b", f"{self.column}: "
                                     + " ".join(f"{line['share']:.2f}" for line in lines))

    def jain(self, lines):
        return arithmetic.jain([line["share"] / limit for line, limit in zip(lines, self.limits)])

    def light(self):
        alone = self.first("light:200us")
        beside = self.run(["light:200us"] + HOGS)[0]
        self.put("IS-007", beside["wait_deviation_us"] / beside["wait_mean_us"])
        self.report.note("IS-007", "{}: alone {:.3f}; beside: mean {:.0f}, median {:.0f} us".format(
            self.column, alone["wait_deviation_us"] / alone["wait_mean_us"], beside["wait_mean_us"],
            beside["wait_p50_us"]))
        self.put("SCHED-002", beside["launch_p50_us"])
        self.put("SCHED-004", (beside["wait_p99_us"] - alone["wait_p99_us"]) / 1e3)

    def exact(self):
        if self.column == "native":
            return
        for key, load in (("IS-003/b", "graph:200us"), ("IS-003/c", "back:2ms"),
                          ("IS-003/d", "varied")):
            share = self.first(load)["share"]
            self.put(key, arithmetic.accuracy(share, self.limit))
            self.report.note(key, f"{self.column}: {share:.2f} % of the GPU")

    def batches(self):
        small, large = self.first("back:20us"), self.first("back:2ms")
        self.put("LLM-003", 100 * small["share"] / large["share"])
        streams = self.first("streams:200us")
        self.put("LLM-006", 100 * streams["share"] / self.first("back:200us")["share"])
        varied = self.first("varied")
        self.put("LLM-009", arithmetic.variation(counted(varied)))

    def overlap(self):
        line = self.first("small:200us")
        self.put("SCHED-003", line["work"] / line["share"])

    def keep(self, name, title, lines):
        """Series for a plot, a panel per column."""
        _, panels = self.report.series.setdefault(name, (title, []))
        limits = [None] * 4 if self.column == "native" else self.limits
        text = "native" if self.column == "native" else f"slice of {self.column} %"
        panels.append(panel(text, lines, limits))


def panel(title, lines, limits):
    return {
        "title": title,
        "rows": [
            {"label": f"job {number}", "series": series(line), "limit": limit, "offset": 0}
            for number, (line, limit) in enumerate(zip(lines, limits), 1)
        ],
    }


def series(line):
    return [float(word) for word in line["series"].split()]


def counted(line):
    """The buckets that count for figures."""
    return series(line)[round(line["skip"] / BUCKET):]


def tenants(stage, report, column, guard):
    """All rounds of one column; guard(name, body) runs each, and says "late" or "failed" if it was."""
    four = Tenants(stage, report, column)
    rounds = four.rounds()
    while rounds:
        with stage.running(*[stage.load(column, tenant=t) for t in range(4)]) as four.workers:
            outcome = None
            while rounds and outcome is None:
                one = rounds.pop(0)
                outcome = guard(f"tenants {column}, {one.__name__}", one)
        if outcome == "late":
            return


class LiveJob:
    """The config of a Slurm job that root rewrites while the job runs."""

    FOLDER = "/var/run/softmig"
    JOB = 67000002

    def __init__(self, env):
        if os.getuid() != 0:
            raise Skip("needs root, who alone writes configs of jobs")
        self.path = f"{self.FOLDER}/{self.JOB}.conf"
        self.made = not os.path.isdir(self.FOLDER)
        try:
            os.makedirs(self.FOLDER, 0o755, exist_ok=True)
            self.write(25)
        except OSError as error:
            self.leave()
            raise Skip(f"{self.FOLDER}: {error.strerror}") from None
        for name in ("SOFTMIG_REGION", "CUDA_DEVICE_SM_LIMIT"):
            env.pop(name, None)
        env.update(SLURM_JOB_ID=str(self.JOB), SLURM_TMPDIR=env["TMPDIR"])

    def write(self, percent):
        with open(self.path + ".new", "w", encoding="ascii") as file:
            file.write(f"CUDA_DEVICE_SM_LIMIT={percent}\n")
        os.chmod(self.path + ".new", 0o644)
        os.rename(self.path + ".new", self.path)

    def leave(self):
        for path in (self.path, self.path + ".new"):
            with contextlib.suppress(OSError):
                os.unlink(path)
        if self.made:
            with contextlib.suppress(OSError):
                os.rmdir(self.FOLDER)


def response(stage, report):
    env = stage.place.new_slice(None)
    job = LiveJob(env)
    changes = [(1.03, 50, "50")] if stage.quick else [
        (1.53, 50, "50"), (4.07, 25, "25"), (6.61, 50, "50"), (9.12, 25, "25")]
    patience = stage.count(2.4, 1.7)
    length = changes[-1][0] + patience
    try:
        with stage.running(stage.load("25", env)) as (worker,):
            begin = stage.begin()
            worker.tell("run", "back:200us", round(length, 1), 0, begin)
            at = []
            for when, percent, _ in changes:
                time.sleep(max(0, (begin - time.monotonic_ns()) / 1e9 + when))
                job.write(percent)
                at.append((time.monotonic_ns() - begin) / 1e9)
            line = stage.checked([worker.answer(length)])[0]
    finally:
        job.leave()
    got = series(line)
    before = statistics.fmean(got[5:10])
    if abs(before - 25) > 5:
        raise Skip(f"the job's config does not reach it (share {before:.0f} before a "
                   "change): is this process in another Slurm job?")
    found = {"25": [], "50": []}
    for moment, (_, percent, column) in zip(at, changes):
        found[column].append(arithmetic.response(got, BUCKET, moment, percent))
    for column, seconds in found.items():
        if None in seconds:  # it is the slowest that counts
            report.note("IS-004", f"{column}: not within {patience} s")
        elif seconds:
            report.put("IS-004", column, 1000 * max(seconds))
    report.note("IS-004", f"the slowest of {len(at)} changes; the config is "
                          "looked at once a second")
    report.series["response"] = ("A limit of 25 % is set to 50 and back",
                                 [panel(f"changed at {', '.join(f'{t:.1f}' for t in at)} s", [line],
                                        [None])])


def cross_tenant(stage, report):
    mib = 64
    for column in ("native", "25"):
        path = os.path.join(stage.place.root, f"lend-{column}")
        with stage.running(stage.virt(column), stage.virt(column, tenant=1)) as (lender, borrower):
            lender.tell("lend", mib, path)
            lender.answer()
            got = borrower.ask("borrow", mib, path)
            lender.answer()
            lender.tell("lend", mib, path)
            read, how = peek(borrower, lender.answer()["address"])
            lender.process.kill()  # nobody comes to borrow it
        charged = got.get("charged", 0) / MIB
        safe = not read and (got["import_result"] != 0 or charged >= mib)
        report.note("IS-005", f"{column}: reading at our address gave {how}; an import of memory that we lent "
                              f"gave {got['import_result']} and took {charged:.0f} of {mib} MiB from the "
                              "other's free memory")
        if column != "native":
            report.put("IS-005", column, 1 if safe else 0)


def peek(worker, address):
    """Whether a process reads our bytes at our address, and what came of it."""
    worker.tell("peek", address)
    try:
        line = worker.answer()
    except Failed as failure:
        return False, str(failure)
    return line["read"], "our bytes" if line["read"] else f"code {line['result']}, not our bytes"


def faults(kind):
    """kind "illegal" or "killed": the first tenant crashes, the other three work."""

    def measure(stage, report):
        seconds, moment = stage.count(3, 1), stage.count(1.5, 0.5)
        skip = stage.skip
        key = "IS-010/a" if kind == "illegal" else "IS-010/b"
        for column in stage.count(("native", "25"), ("25",)):
            victim = (stage.virt if kind == "illegal" else stage.load)(column)
            others = [stage.load(column, tenant=tenant) for tenant in (1, 2, 3)]
            with stage.running(victim, *others):
                begin = stage.begin()
                for worker in others:
                    worker.tell("run", "back:200us", seconds, skip, begin)
                if kind == "killed":
                    victim.tell("run", "deep:200us", seconds, 0, begin)
                time.sleep(max(0, (begin - time.monotonic_ns()) / 1e9 + skip + moment))
                crash(stage, report, kind, column, victim)
                lines = stage.checked([worker.answer(seconds) for worker in others])
            at = round((skip + moment) / BUCKET)
            ratios = []
            for line in lines:
                before = counted(line)[: round(moment / BUCKET) - 1]
                after = series(line)[at + 1 :]
                ratios.append(100 * statistics.fmean(after) / statistics.fmean(before))
            report.put(key, column, min(ratios))
            name = "illegal-address" if kind == "illegal" else "sigkill"
            _, panels = report.series.setdefault(
                name, (f"A neighbour's {name.replace('-', ' ')} after {skip + moment:.1f} s", []))
            panels.append(panel("native" if column == "native" else "slices of 25 %", lines,
                                [None if column == "native" else 25] * 3))

    return measure


def crash(stage, report, kind, column, victim):
    if kind == "killed":
        os.kill(victim.process.pid, signal.SIGKILL)
        victim.process.wait()
        return
    victim.tell("crash")
    try:
        line = victim.answer()
    except Failed:
        if stage.place.real:
            raise
        # The simulated GPU has nothing at that address, so that the program itself dies of it.
        report.skip(("ERR-001",), f"the program itself ended with {victim.process.wait()}")
        return
    if line["result"] == 0:
        raise Failed("the bad address was no error")
    report.put("ERR-001", column, line["ns"] / 1e3)
    report.note("ERR-001", f"{column}: code {line['result']}")


def dead_memory(stage, report):
    program = stage.place.program("kill")
    if not os.path.exists(program):
        raise Skip(f"{program} is not there")
    rounds = str(stage.count(12, 3))
    env = stage.place.new_slice(4096 * MIB)
    line = stage.once([program, "random", rounds, "--within", "1000"], env)
    report.put("ERR-002", "25", line["slowest_ms"])
    line = stage.once([program, "native", rounds], stage.environment("native"))
    report.put("ERR-002", "native", line["slowest_ms"])
    report.note("ERR-002", f"in a slice of 4 GiB; {rounds} kills")


def after_refusal(stage, report):
    for column in ("native", "25", "50"):
        with stage.running(stage.virt(column)) as (worker,):
            line = worker.ask("degrade", 20000)
        good, tried = line["good"], line["tried"]
        report.put("ERR-003", column, 100 * good / tried)


def fragments(stage, report):
    for column in ("native", "25", "50"):
        size = stage.total if column == "native" else stage.limit_bytes(int(column))
        piece = max(4, size // MIB // 1000 // 2 * 2)
        with stage.running(stage.virt(column)) as (worker,):
            line = worker.ask("fragment", piece)
        report.put("FRAG-001", column, 100 * (1 - line["largest"] / line["free"]))
        report.put("FRAG-002", column, line["alloc_in_holes"] / line["alloc_before"])
        report.put("FRAG-003", column, 100 * line["largest_after"] / line["largest_before"])


def copies(stage, report):
    # Within the device more than its cache holds.
    mib = {"h2d": 64, "d2h": 64, "pageable": 64, "d2d": 256} if stage.place.real else {}
    seconds = stage.count(0.8, 0.1)
    native = None
    for column in stage.count(("native", "25", "50"), ("native", "25")):
        workers = [stage.virt(column, tenant=tenant) for tenant in range(4)]
        with stage.running(*workers):
            def rate(kind, of, workers=workers):
                words = ("copy", kind, mib.get(kind, 1), seconds)
                return [line["gb_s"] for line in stage.ask_all(workers[:of], words, seconds)]

            rates = {kind: rate(kind, 1)[0] for kind in ("h2d", "d2h", "pageable", "d2d")}
            four = {kind: rate(kind, 4) for kind in ("h2d", "d2d")}
        native = native or rates
        report.put("PCIE-001", column, rates["h2d"])
        report.put("PCIE-002", column, rates["d2h"])
        report.put("PCIE-003", column, 100 * sum(four["h2d"]) / rates["h2d"])
        report.put("PCIE-004", column, 100 * rates["pageable"] / rates["h2d"])
        report.put("BW-001", column, 100 * rates["d2d"] / native["d2d"])
        report.put("BW-002", column, arithmetic.jain(four["d2d"]))
        report.put("BW-004", column, arithmetic.loss(rates["d2d"], four["d2d"][0]))
    report.note("BW-001", f"native {native['d2d']:.1f} GB/s copied, read and written again; "
                          f"{mib.get('d2d', 1)} MiB at a time")
