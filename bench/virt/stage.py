"""Where programs run: native, with the library and no limit, in slices; and the end of all of them."""

import contextlib
import json
import os
import signal
import subprocess
import time

from node import Failed, Node, Worker, start_ns, together

MIB = 1 << 20
PAGE = 2 * MIB
# The slots of a job of that limit and of three others beside it, and the others' limit.
TENANTS = {
    "25": (["0/4", "1/4", "2/4", "3/4"], [25, 25, 25, 25]),
    "50": (["0,1,2/6", "3/6", "4/6", "5/6"], [50, 16, 16, 16]),
}


class Timeout(RuntimeError):
    """A measurement took longer than it may."""


class Skip(Exception):
    """A measurement cannot be made here."""


@contextlib.contextmanager
def at_most(seconds):
    """Raises Timeout in the main thread, wherever it waits."""

    def alarm(_number, _frame):
        raise Timeout(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Stage:
    """Starts programs by the name of a column; knows the card and the costs of the loads."""

    def __init__(self, place, options, errors):
        self.place, self.options, self.errors = place, options, errors
        self.node = Node(place, "environment", errors)
        self.workers = []
        self.total = self.devices = 0
        self.gpu = "GPU"

    @property
    def quick(self):
        return self.options.quick

    def begin(self):
        """The common start of programs that are told next (CLOCK_MONOTONIC, ns)."""
        return start_ns(self.count(0.15, 0.08))

    @property
    def skip(self):
        """Seconds at the start of a load that count for no figure."""
        return self.count(0.5, 0.2)

    def count(self, full, quick):
        return quick if self.quick else full

    def groups(self, full, quick, seconds, least=1):
        """As many turns as wanted, fewer (but `least`) where they take longer than `seconds`."""
        end = time.monotonic() + seconds
        for number in range(self.count(full, quick)):
            if number >= least and time.monotonic() > end:
                return
            yield number

    # --- environments

    def limit_bytes(self, percent):
        return self.total * percent // 100 // PAGE * PAGE

    def environment(self, column, tenant=0):
        """Variables of a process in a fresh slice of that column, or in none."""
        if column == "native":
            return self.place.bare_environment()
        if column == "none":
            return self.node.passive()
        if column == "99":
            return self.place.new_slice(None, variables={"CUDA_DEVICE_SM_LIMIT": "99"})
        slots, limits = TENANTS[column]
        return self.place.new_slice(
            self.limit_bytes(limits[tenant]),
            variables={
                "CUDA_DEVICE_SM_LIMIT": str(limits[tenant]),
                "SOFTMIG_SLOTS": slots[tenant],
                "SOFTMIG_BOARD": self.node.board(),
            },
        )

    # --- programs

    def start(self, command, column, env=None, tenant=0):
        env = env or self.environment(column, tenant)
        worker = Worker(command, env, self.errors, self.place.user, limited=column != "native")
        self.workers.append(worker)
        return worker

    def virt(self, column, env=None, tenant=0):
        return self.start([self.node.program("virt"), "serve"], column, env, tenant)

    def load(self, column, env=None, tenant=0):
        return self.start(self.node.serve(), column, env, tenant)

    def once(self, command, env):
        """The last line of JSON of a program that runs to its end."""
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, check=False, timeout=120
        )
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        if not lines or not lines[-1].get("ok"):
            raise Failed(f"{os.path.basename(command[0])} {command[1:]}: status {done.returncode} "
                         f"{done.stdout[-300:]} {done.stderr[-300:]}")
        return lines[-1]

    @contextlib.contextmanager
    def running(self, *workers):
        """Workers that are ready; they are gone afterwards."""
        try:
            for worker in workers:
                worker.ready()
            yield workers
        except BaseException:
            self.kill_all()
            raise
        for worker in workers:  # all at once: ending a context takes a while
            with contextlib.suppress(OSError):
                worker.process.stdin.close()
        for worker in workers:
            worker.close()
            self.workers = [one for one in self.workers if one is not worker]

    def kill_all(self):
        """What a measurement that failed has left."""
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.wait()
        self.workers = []

    # --- loads

    def run_loads(self, workers, loads, seconds, skip=None):
        """Runs a load on each of the workers (None: it rests), all from one instant; their lines."""
        skip = self.skip if skip is None else skip
        begin = self.begin()
        busy = [(w, load) for w, load in zip(workers, loads) if load]
        commands = [("run", load, seconds, skip, begin) for _, load in busy]
        return self.checked(together([w for w, _ in busy], commands, seconds + skip))

    def ask_all(self, workers, words, seconds=0):
        """The same command on all, at one instant that is put after the words."""
        begin = self.begin()
        return together(workers, [(*words, begin)] * len(workers), seconds)

    def checked(self, lines):
        allowed = ("right",) if self.place.real else ("right", "not computed")
        for line in lines:
            if line["result"] not in allowed:
                raise Failed(f"the result of {line['load']} is {line['result']}")
        return lines


def processor_seconds(pid):
    """What all threads of a process have used of a processor so far."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/schedstat", encoding="ascii") as file:
            total += int(file.read().split()[0])
    return total / 1e9
