"""nvidia_smi.py HOLDER HOOK SOFTMIG: nvidia-smi as it is installed on a node, the hook before the
real one, in a slice of 4096 MiB beside a holder of memory and a process of somebody else."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time


def installed(hook, softmig):
    """A folder with the hook by the name of nvidia-smi, and the command that it asks."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="smi-"))
    shutil.copy(hook, folder / "nvidia-smi")
    (folder / "nvidia-smi").chmod(0o755)
    (folder / "softmig").symlink_to(softmig)
    return folder


def main():
    folder = installed(sys.argv[2], sys.argv[3])
    try:
        return check(str(folder / "nvidia-smi"))
    finally:
        shutil.rmtree(folder)


def check(program):
    def smi(*arguments):
        return subprocess.run(
            [program, *arguments], capture_output=True, text=True, check=False
        ).stdout

    holder = subprocess.Popen(
        [sys.argv[1], "alloc", "64M", "handle", "--hold", "30000"], stdout=subprocess.DEVNULL
    )
    time.sleep(4)
    plain = smi()
    memory = smi(
        "--query-gpu=memory.total,memory.used,memory.free", "--format=csv,noheader,nounits"
    ).split("\n")[0]
    apps = smi("--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits").split("\n")
    details = smi("-q", "-x")
    holder.kill()
    holder.wait()
    wrong = []
    shown = re.search(r"(\d+)MiB\s*/\s*(\d+)MiB", plain)
    if not shown or shown.group(2) != "4096":
        wrong.append(f"shows {shown.group(0) if shown else 'no memory'}")
    elif int(shown.group(1)) < 3000 or int(shown.group(1)) > 4096:
        wrong.append(f"shows {shown.group(1)} MiB in use")
    figures = [int(figure) for figure in memory.split(",")]
    if figures[0] != 4096 or min(figures) < 0 or max(figures) > 4096:
        wrong.append(f"--query-gpu shows {memory}")
    pids = {int(line.split(",")[0]) for line in apps if line.strip()}
    listed = {int(pid) for pid in re.findall(r"^\|\s+\d+\s+\S+\s+\S+\s+(\d+)\s", plain, re.M)}
    detailed = {int(pid) for pid in re.findall(r"<pid>(\d+)</pid>", details)}
    for name, found in (
        ("--query-compute-apps", pids),
        ("the table", listed),
        ("-q -x", detailed),
    ):
        if found != {holder.pid}:
            wrong.append(f"{name} lists {sorted(found)}, the job is {holder.pid}")
    foreign = os.environ.get("TEST_FOREIGN_PID")
    print(
        json.dumps(
            {
                "what": "nvidia_smi",
                "line": shown.group(0) if shown else "",
                "memory": memory,
                "foreign": foreign,
                "ok": not wrong,
                "text": "; ".join(wrong),
            }
        )
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
