#!/usr/bin/env python3
"""A long mixed load in one slice: does anything drift, grow, or get stuck?

  tests/gpu/soak.py --build build --sim 1x80G --minutes 60    simulated GPU
  tests/gpu/soak.py --build build --real --minutes 20         the card

Three processes work all the while by every route to memory and launch kernels under a limit of GPU
time; short ones come and go, by themselves, by SIGKILL, with their memory. Every 10 s is looked at:
descriptors and memory of the long processes, files of the slice, use within the limit. What the
library maps is counted by itself; of the rest, what grows in one more process that runs without it is
the driver's own. In the end, when
everything has gone, the ledger must be empty to the byte. The last line says what was seen.
"""

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

from harness import arguments as options_of  # noqa: E402
from harness.case import kill_session  # noqa: E402
from harness.place import GIB, MIB, Place  # noqa: E402

LIMIT = 24 * GIB
LONG = 3
INTERVAL = 10
# How much more than a process without the library one may gain, per turn: the driver's own growth
# depends on what was drawn by lot.
MOST_GROWTH = 2048
MOST_LOG = 64 * 1024


def arguments():
    parser = options_of.parser_of(__doc__)
    options_of.add_place(parser)
    parser.add_argument("--minutes", type=options_of.above_zero, default=60)
    parser.add_argument("--user", help="run the programs as this user (needs root)")
    options = parser.parse_args()
    options_of.needs_gpu(options)
    options.no_preload, options.context_cost = False, None
    return options


class Long:
    """A process that works all the while, and the lines that it has said."""

    def __init__(self, place, env, seconds, seed):
        self.lines = []
        self.process = place.start(
            [place.program("load"), "long", str(seconds), str(seed)],
            env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            if line.startswith("{"):
                self.lines.append(json.loads(line))

    def finish(self, timeout):
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            kill_session(self.process.pid)
            return "a long process hangs"
        self.reader.join(5)
        if self.process.returncode != 0:
            return f"a long process ended with {self.process.returncode}: " + (
                self.process.stderr.read().strip()
            )
        return None

    def steady(self):
        """The lines after the warm-up: the first third."""
        return self.lines[len(self.lines) // 3 :]

    def growth_per_turn(self):
        lines = self.steady()
        turns = lines[-1]["turns"] - lines[0]["turns"] if len(lines) > 1 else 0
        return (lines[-1]["resident"] - lines[0]["resident"]) / turns if turns else 0.0


class Short:
    """Processes that come and go."""

    def __init__(self, place, env):
        self.place, self.env = place, env
        self.random = random.Random(1)
        self.living = []
        self.started = self.killed = 0
        self.fault = None

    def turn(self):
        while len(self.living) < 2:
            seed = self.random.randrange(1 << 30)
            command = [self.place.program("load"), "short", "0", str(seed)]
            self.living.append(
                self.place.start(command, self.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            )
            self.started += 1
        if self.random.random() < 0.7:
            time.sleep(self.random.random() * 0.03)
            victim = self.living[-1]
            if victim.poll() is None:
                victim.send_signal(signal.SIGKILL)
                self.killed += 1
        time.sleep(0.05)
        self.reap()

    def reap(self):
        for process in [p for p in self.living if p.poll() is not None]:
            self.living.remove(process)
            Place.sessions.remove(process.pid)
            said = process.stderr.read().decode(errors="replace").strip()
            process.stderr.close()
            # Beside the long ones there may be no room for a context.
            if process.returncode not in (0, 1, -signal.SIGKILL):
                self.fault = f"a short process ended with {process.returncode}: {said}"

    def end(self):
        for process in self.living:
            kill_session(process.pid)
        for process in self.living:
            process.wait()


def region(place, env):
    """Bytes in use and slots of the slice, as `softmig region` reads them."""
    command = [os.path.join(place.build, "softmig"), "region", env["SOFTMIG_REGION"], "--json"]
    run = subprocess.run(command, env=place.bare_environment(), capture_output=True, text=True)
    return json.loads(run.stdout)


def folder_bytes(path):
    names = os.listdir(path)
    return sorted(names), sum(os.stat(os.path.join(path, name)).st_size for name in names)


class Soak:
    def __init__(self, options):
        self.options = options
        self.place = Place(options, 0)
        variables = {"CUDA_DEVICE_SM_LIMIT": "60", "SOFTMIG_LOG_LEVEL": "1"}
        self.env = self.place.new_slice(LIMIT, variables=variables)
        self.folder = os.path.dirname(self.env["SOFTMIG_REGION"])
        self.faults = []
        self.looks = 0

    def run(self):
        seconds = self.options.minutes * 60
        start = time.monotonic()
        longs = [Long(self.place, self.env, seconds, seed) for seed in range(LONG)]
        control = Long(self.place, self.place.bare_environment(), seconds, 0)
        short = Short(self.place, self.env)
        next_look = start + INTERVAL
        while time.monotonic() < start + seconds and not self.faults:
            short.turn()
            if short.fault:
                self.faults.append(short.fault)
            if time.monotonic() >= next_look:
                next_look += INTERVAL
                self.look(longs)
        short.end()
        for process in [*longs, control]:
            fault = process.finish(60)
            if fault:
                self.faults.append(fault)
        self.judge(longs, control)
        self.judge_end()
        self.report(longs, control, short, time.monotonic() - start)
        self.place.close()
        return 1 if self.faults else 0

    def look(self, longs):
        self.looks += 1
        seen = region(self.place, self.env)
        used = sum(device["used"] for device in seen["devices"])
        if used > LIMIT:
            self.faults.append(f"{used} bytes are used of {LIMIT}")
        for process in longs:
            if process.process.poll() not in (None, 0):
                self.faults.append("a long process has ended")
        _, size = folder_bytes(self.folder)
        if size > 64 * MIB:
            self.faults.append(f"the slice's folder holds {size} bytes")

    def judge(self, longs, control):
        for process in longs:
            lines = process.steady()
            if len(lines) < 2:
                self.faults.append("a long process said too little")
                continue
            if lines[-1]["descriptors"] > lines[0]["descriptors"]:
                self.faults.append(f"descriptors grew to {lines[-1]['descriptors']}")
            if lines[-1]["library"] > lines[0]["library"]:
                self.faults.append(f"the library's memory grew to {lines[-1]['library']} bytes")
            ours = process.growth_per_turn() - control.growth_per_turn()
            if ours > MOST_GROWTH:
                self.faults.append(f"{ours:.0f} bytes a turn more than without the library")

    def judge_end(self):
        # A view looks for the dead; then a process that asks for all must get it.
        run = self.place.start(
            [self.place.program("views"), "totals"],
            dict(self.env, TEST_LIMIT=str(LIMIT)),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        run.communicate(timeout=60)
        seen = region(self.place, self.env)
        others = [slot for slot in seen["slots"] if slot["pid"] != run.pid]
        held = sum(
            device["bytes"]
            for slot in seen["slots"]
            if slot["pid"] == run.pid
            for device in slot["devices"]
        )
        used = sum(device["used"] for device in seen["devices"])
        if others or used != held:
            self.faults.append(f"{used - held} bytes and {len(others)} processes stay behind")
        names, _ = folder_bytes(self.folder)
        unknown = [n for n in names if n not in ("region", "region.extra", "log")]
        if unknown:
            self.faults.append(f"files stay behind: {unknown}")
        log = os.path.join(self.folder, "log")
        if os.path.exists(log) and os.path.getsize(log) > MOST_LOG + self.looks * 4096:
            self.faults.append(f"the log has {os.path.getsize(log)} bytes")

    def report(self, longs, control, short, seconds):
        turns = [p.lines[-1]["turns"] for p in longs if p.lines]
        spread = max(turns) / max(1, min(turns)) if turns else 0
        shares = f"turns of equals within {100 * (spread - 1):.0f} %"
        growth = statistics.mean(p.growth_per_turn() for p in longs) - control.growth_per_turn()
        descriptors = {p.lines[-1]["descriptors"] for p in longs if p.lines}
        library = {p.lines[-1]["library"] for p in longs if p.lines}
        for fault in self.faults:
            print(f"FAULT: {fault}")
        print(
            f"{seconds / 60:.1f} min, {sum(turns)} turns, {short.started} short processes, "
            f"{short.killed} killed, {self.looks} looks: {len(self.faults)} faults; descriptors "
            f"{sorted(descriptors)}, library memory {sorted(library)} B, resident {growth:+.0f} B a turn "
            f"beside the driver's own {control.growth_per_turn():.0f}, {shares}"
        )


def main():
    def end(*_):
        for session in Place.sessions:
            kill_session(session)
        os._exit(1)

    signal.signal(signal.SIGTERM, end)
    return Soak(arguments()).run()


if __name__ == "__main__":
    sys.exit(main())
