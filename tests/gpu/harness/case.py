"""One case: a program in a fresh slice, what the witness saw, and whether that was right."""

import json
import os
import signal
import subprocess
import threading
import time

SKIPPED = 77


class Case:
    """
    name       group/what, e.g. "routes/alloc/64M/link"
    arguments  program and arguments; the program is below build/tests/gpu, "@..." below build
    limit      bytes of the slice, None for no limit
    timeout    seconds; whoever is still there then is killed, and the case has failed
    variables  more variables of the slice
    witness    "limit": nothing above the limit may be seen; "report": only write it down
    judge      function(case, place, lines, seen) -> text of what is wrong, or None
    before     function(case, place, env) called with the slice's variables; returns a clean-up
    sim        another simulated node than the run's own, e.g. "2x24G"; such a case needs --sim
    real_only  needs the card
    root_only  needs root
    in_slice   False: outside of any slice; the program makes its own
    """

    def __init__(
        self,
        name,
        arguments,
        limit,
        timeout=60,
        variables=None,
        witness="limit",
        judge=None,
        before=None,
        sim=None,
        real_only=False,
        root_only=False,
        in_slice=True,
    ):
        self.name = name
        self.arguments = arguments
        self.limit = limit
        self.timeout = timeout
        self.variables = variables or {}
        self.witness = witness
        self.judge = judge
        self.before = before
        self.sim = sim
        self.real_only = real_only
        self.root_only = root_only
        self.in_slice = in_slice

    def unfit(self, place):
        """Why this case cannot run here, or None."""
        if self.real_only and not place.real:
            return "needs the card"
        if self.sim and place.real:
            return "needs a simulated node of its own"
        if self.root_only and (os.getuid() != 0 or place.user is not None):
            return "needs root"
        path = place.path(self.arguments[0])
        return None if os.path.exists(path) else f"{path} is not there"

    def command(self, place):
        arguments = [str(a) for a in self.arguments]
        arguments[1:2] = [place.path(a) if a.startswith("@") else a for a in arguments[1:2]]
        return [place.path(arguments[0])] + arguments[1:]


def json_lines(text):
    lines = []
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                lines.append(json.loads(line))
            except ValueError:
                pass
    return lines


def kill_session(pid):
    """Whatever is left of a case: its processes are one session."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            if os.getsid(int(entry)) == pid:
                os.kill(int(entry), signal.SIGKILL)
        except OSError:
            pass


def run_case(case, place, witness):
    """Runs it; returns the record that goes into results.jsonl."""
    record = {"case": case.name, "limit": case.limit}
    why_not = case.unfit(place)
    if why_not:
        return {**record, "outcome": "skipped", "text": why_not}
    if case.in_slice:
        env = place.new_slice(case.limit, case.sim, case.variables)
    else:
        env = place.bare_environment(case.sim)
    clean_up = case.before(case, place, env) if case.before else None
    start = time.monotonic()
    witness.mark()
    process = place.start(case.command(place), env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    witness.follow(process.pid)
    output = {}
    readers = [
        threading.Thread(target=lambda k=k, f=f: output.update({k: f.read()}))
        for k, f in (("out", process.stdout), ("err", process.stderr))
    ]
    for reader in readers:
        reader.start()
    try:
        status = process.wait(case.timeout)
    except subprocess.TimeoutExpired:
        status = None
    kill_session(process.pid)
    process.wait()
    for reader in readers:
        reader.join(10)
    seen = witness.stop()
    if clean_up:
        clean_up()
    lines = json_lines(output.get("out", b"").decode(errors="replace"))
    record.update(
        seconds=round(time.monotonic() - start, 3),
        status=status,
        lines=lines,
        seen={k: seen[k] for k in ("processes", "listed", "device", "samples")},
        stderr=output.get("err", b"").decode(errors="replace")[-2000:],
    )
    text = verdict(case, place, status, lines, seen)
    if status == SKIPPED and text is None:
        return {**record, "outcome": "skipped", "text": reason(lines)}
    return {**record, "outcome": "failed" if text else "passed", "text": text or ""}


def reason(lines):
    return next((line["text"] for line in lines if "text" in line), "skipped by the program")


def verdict(case, place, status, lines, seen):
    """What is wrong, or None."""
    if status is None:
        return f"hangs: killed after {case.timeout} s"
    if status < 0:
        return f"died of signal {-status}"
    if case.limit is not None and case.witness == "limit":
        for what in ("processes", "device"):
            if seen[what] > case.limit:
                return f"above the limit: the witness saw {what} at {seen[what] / 2**20:.1f} MiB"
    if status not in (0, SKIPPED):
        bad = next((line for line in lines if not line.get("ok", True)), {})
        return f"exit status {status}: {describe(bad)}"
    return case.judge(case, place, lines, seen) if case.judge and status == 0 else None


def describe(line):
    """The telling part of a program's failing line."""
    if "text" in line:
        return line["text"]
    keys = (
        "lookup",
        "result_name",
        "result",
        "granted",
        "granted_again",
        "capped",
        "free_before",
        "free_after",
        "import_result",
        "granted_while_imported",
        "smaller_result",
    )
    return ", ".join(f"{k} {line[k]}" for k in keys if k in line) or "no line"
