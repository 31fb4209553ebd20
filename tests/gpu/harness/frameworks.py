"""The cases that need the card: PyTorch, JAX, CuPy, nvidia-smi, programs of the runtime API."""

import importlib.util
import os
import sys

from .case import Case
from .cases import LIMIT, SLACK, foreign_process
from .place import GIB, MIB

SCRIPTS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "frameworks")
RUNTIME_ROUTES = [
    "malloc",
    "pitch",
    "3d",
    "managed",
    "async",
    "pool",
    "array",
    "array3d",
    "mipmapped",
    "graph",
    "ipc",
]
ALLOCATORS = {
    "native": {},
    "expandable": {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
    "cudaMallocAsync": {"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"},
}


def script(name, file, *arguments, limit, needs=(), timeout=600, **more):
    if any(importlib.util.find_spec(module) is None for module in needs):
        return []
    path = os.path.join(SCRIPTS, file)
    return [
        Case(
            name, [sys.executable, path, *arguments], limit, timeout=timeout, real_only=True, **more
        )
    ]


def torch(quick):
    steps = 60 if quick else 150
    step = os.path.join(SCRIPTS, "torch_step.py")
    found = []

    def compare(name, rounds, percent, arguments, variables=None):
        return script(
            f"torch/{name}",
            "compare.py",
            *(str(rounds), str(percent), "--", step, *arguments),
            limit=16 * GIB,
            needs=["torch"],
            variables=variables,
        )

    for model in ("transformer", "conv"):
        found += compare(f"{model}/native", 2 if quick else 5, 0.5, [model, str(steps)])
        workers = [model, str(steps), "--workers", "4"]
        found += compare(f"{model}/workers", 1, 20, workers)
    for name in () if quick else ("expandable", "cudaMallocAsync"):
        found += compare(
            f"transformer/{name}", 3, 0.5, ["transformer", str(steps)], ALLOCATORS[name]
        )
    for name, variables in ALLOCATORS.items():
        found += script(
            f"torch/memory/{name}",
            "torch_memory.py",
            limit=LIMIT,
            needs=["torch"],
            variables=variables,
        )
    return found


def programs(_quick):
    found = script("frameworks/jax-jax-cupy", "one_slice.py", limit=16 * GIB, needs=["jax", "cupy"])
    smi = script("frameworks/nvidia-smi", "nvidia_smi.py", "", limit=LIMIT)
    smi[0].before = nvidia_smi
    smi[0].witness = "report"
    return found + smi


def nvidia_smi(case, place, env):
    case.arguments[2] = place.program("route_dl")
    return foreign_process(case, place, env)


def runtime(quick):
    """The runtime API, cudart linked statically and shared; built only where there is nvcc."""
    found = []
    sizes = ["64M"] if quick else ["512", "1M", "64M", "1G"]
    for kind in ("static", "shared"):
        for route in RUNTIME_ROUTES:
            for size in sizes:
                case = Case(
                    f"runtime/{route}/{size}/{kind}",
                    [f"runtime_route_{kind}", route, size, "--cap", f"{(LIMIT + SLACK) // MIB}M"],
                    LIMIT,
                    timeout=180,
                    real_only=True,
                )
                found.append(case)
        found.append(
            Case(
                f"runtime/heap/5G/{kind}",
                [f"runtime_route_{kind}", "heap", "5G"],
                LIMIT,
                real_only=True,
            )
        )
    found.append(
        Case("runtime/device-array/5G/shared", ["runtime_big_shared"], LIMIT, real_only=True)
    )
    return found


GROUPS = {"runtime": runtime, "torch": torch, "frameworks": programs}
