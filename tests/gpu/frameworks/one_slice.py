"""one_slice.py: two JAX programs and one of CuPy, alive at the same time in one slice."""

import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def start(script, **variables):
    return subprocess.Popen(
        [sys.executable, os.path.join(HERE, script)],
        env={**os.environ, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def main():
    programs = [
        start("jax_program.py", XLA_PYTHON_CLIENT_PREALLOCATE="false"),
        start("jax_program.py", XLA_PYTHON_CLIENT_MEM_FRACTION="0.2"),
    ]
    lines = [program.stdout.readline() for program in programs]
    programs.append(start("cupy_program.py"))
    lines.append(programs[-1].stdout.readline())
    alive = [program.poll() is None for program in programs]
    for program in programs:
        program.stdin.close()
        program.wait(60)
    print("".join(lines), end="")
    good = [bool(line) and json.loads(line)["ok"] for line in lines]
    ok = all(good) and all(alive)
    print(
        json.dumps(
            {"what": "one_slice", "ok": ok, "text": "" if ok else f"good {good}, alive {alive}"}
        )
    )
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
