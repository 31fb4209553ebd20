"""Programs that are told what to run and answer with lines of JSON, in a slice or in none."""

import contextlib
import json
import os
import queue
import subprocess
import threading
import time

ANSWER_SECONDS = 90  # beyond what a command itself takes


def mode_variables(mode):
    """What a mode adds to a limited job's environment, and whether the job has slots.

    "native" is no library at all and never comes here; "library" is the library as it is; any other
    name is a policy for the experiment. NAME@MS changes the length of the frame.
    """
    name, _, frame = mode.partition("@")
    variables = {} if name == "library" else {"SOFTMIG_SHARE_MODE": name}
    if frame:
        variables["SOFTMIG_FRAME_MS"] = frame
    return variables, name != "budget"


class Failed(RuntimeError):
    """A program ended, was silent or reported an error."""


class Worker:
    """One program that serves."""

    def __init__(self, command, env, errors, user=None, limited=False):
        self.limited = limited
        rights = {"user": user, "group": user, "extra_groups": []} if user is not None else {}
        self.process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            bufsize=1,
            start_new_session=True,
            **rights,
        )
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            if line.startswith("{"):
                self.lines.put(json.loads(line))
        self.lines.put(None)

    def tell(self, *words):
        try:
            self.process.stdin.write(" ".join(map(str, words)) + "\n")
        except (BrokenPipeError, OSError):
            pass  # answer() says so

    def answer(self, seconds=0):
        try:
            line = self.lines.get(timeout=seconds + ANSWER_SECONDS)
        except queue.Empty:
            raise Failed("no answer") from None
        if line is None:
            raise Failed(f"ended with {self.process.wait()}")
        if not line.get("ok", True):
            raise Failed(line.get("text", str(line)))
        return line

    def ready(self, seconds=0):
        """The answer of a program that has made its context."""
        line = self.answer(seconds)
        if line["library"] != self.limited:
            raise Failed("libsoftmig.so is " + ("not " if self.limited else "") + "loaded")
        return line

    def ask(self, *words):
        self.tell(*words)
        return self.answer()

    def close(self):
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def together(workers, commands, seconds):
    """Every worker's answer to its own command, all under way at the same time."""
    for worker, words in zip(workers, commands):
        worker.tell(*words)
    return [worker.answer(seconds) for worker in workers]


class Node:
    """Starts workers on the card or on the simulated one."""

    def __init__(self, place, via, errors):
        self.place, self.via, self.errors = place, via, errors
        self.costs = None

    def board(self):
        """Where the jobs tell each other whether they fill their slots."""
        path = os.path.join(self.place.root, "board")
        os.makedirs(path, exist_ok=True)
        os.chmod(path, 0o777)
        return path

    def program(self, name):
        return os.path.join(self.place.build, "bench", name)

    def serve(self):
        return [self.program("share"), "serve"] + ([self.costs] if self.costs else [])

    def native(self, command=None):
        return Worker(
            command or self.serve(), self.place.bare_environment(), self.errors, self.place.user
        )

    def limited(self, member, mode, command=None):
        """The workers of one job: member.processes of them in one slice."""
        variables, with_slots = mode_variables(mode)
        slots = member.slots if with_slots else None
        command = command or self.serve()
        if self.via == "run" and member.processes == 1:
            return [self._through_run(member.limit, slots, variables, command)]
        variables = {**variables, "CUDA_DEVICE_SM_LIMIT": str(member.limit)}
        if slots:
            variables["SOFTMIG_SLOTS"] = slots
            variables["SOFTMIG_BOARD"] = self.board()
        env = self.place.new_slice(None, variables=variables)
        return [
            Worker(command, env, self.errors, self.place.user, limited=True)
            for _ in range(member.processes)
        ]

    def _through_run(self, limit, slots, variables, command):
        run = [os.path.join(self.place.build, "softmig"), "run", "--sm", str(limit)]
        if slots:
            run += ["--slots", slots]
        env = {**self.place.bare_environment(), **variables}
        return Worker(run + ["--"] + command, env, self.errors, self.place.user, limited=True)

    def passive(self):
        return {**self.place.bare_environment(), "LD_PRELOAD": self.place.preload}

    def meter(self, seconds, start_ns):
        """Started before, read after: the outside meter of a run."""
        return Worker(
            [self.program("busy"), str(seconds), str(start_ns)],
            self.place.bare_environment(),
            self.errors,
        )


def start_ns(lead):
    return time.monotonic_ns() + int(lead * 1e9)
