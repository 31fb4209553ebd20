"""compare.py ROUNDS PERCENT -- SCRIPT ARGUMENTS...: a slice against no slice, interleaved.

Runs the script in the order native, slice, native (the control) ROUNDS times, each in a fresh
process. The checksums must be the same; the median step in the slice must be within PERCENT of the
native one, plus what the control differs from it.
"""

import json
import os
import statistics
import subprocess
import sys

OURS = (
    "LD_PRELOAD",
    "CUDA_DEVICE_MEMORY_LIMIT",
    "SOFTMIG_REGION",
    "SOFTMIG_LOG_FILE",
    "SOFTMIG_CONTEXT_COST",
)


def run(command, env):
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        print(json.dumps({"what": "compare", "ok": False, "text": done.stderr[-500:]}))
        sys.exit(1)
    return lines[-1]


def main():
    rounds, percent = int(sys.argv[1]), float(sys.argv[2])
    command = [sys.executable] + sys.argv[sys.argv.index("--") + 1 :]
    sliced = dict(os.environ)
    native = {k: v for k, v in sliced.items() if k not in OURS}
    times = {"native": [], "slice": [], "control": []}
    checksums = set()
    for _ in range(rounds):
        for name, env in (("native", native), ("slice", sliced), ("control", native)):
            line = run(command, env)
            times[name].append(line["step_ms"])
            checksums.add(line["checksum"])
    medians = {name: statistics.median(values) for name, values in times.items()}
    added = 100 * (medians["slice"] / medians["native"] - 1)
    control = 100 * (medians["control"] / medians["native"] - 1)
    texts = []
    if len(checksums) != 1:
        texts.append(f"results differ: {sorted(checksums)}")
    if added > percent + abs(control):
        texts.append(f"{added:.2f} % slower, the control differs by {control:.2f} %")
    print(
        json.dumps(
            {
                "what": "compare",
                "native_ms": medians["native"],
                "slice_ms": medians["slice"],
                "control_ms": medians["control"],
                "added_percent": round(added, 3),
                "control_percent": round(control, 3),
                "checksum": sorted(checksums)[0],
                "ok": not texts,
                **({"text": "; ".join(texts)} if texts else {}),
            }
        )
    )
    return 1 if texts else 0


if __name__ == "__main__":
    sys.exit(main())
