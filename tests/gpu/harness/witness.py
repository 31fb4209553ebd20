"""The impartial witness: tests/gpu/watch, started outside every slice."""

import json
import subprocess


class Witness:
    def __init__(self, place, hz=200, sim=None, device="0"):
        """`device`: NVML's number of the card to watch, or its UUID."""
        self.process = subprocess.Popen(
            [place.program("watch"), "--hz", str(hz), "--device", str(device)],
            env=place.bare_environment(sim),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def ask(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the witness has died: is there NVML?")
        return json.loads(line)

    def mark(self):
        return self.ask("mark")

    def follow(self, session):
        return self.ask(f"follow {session}")

    def stop(self):
        return self.ask("stop")

    def close(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # it has died, which was reported where it was asked
        self.process.wait(10)
