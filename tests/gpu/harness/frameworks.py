"""The cases that need the card: PyTorch, JAX, CuPy, nvidia-smi, programs of the runtime API."""

import glob
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
# Millions of small pieces would only take hours here.
SLOW_IF_SMALL = ("managed", "graph", "ipc", "array", "array3d", "mipmapped")
ALLOCATORS = {
    "native": {},
    "expandable": {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
    "cudaMallocAsync": {"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"},
}

PROMISED_SCRIPTS = {
    "pytorch": "torch",
    "tensorflow": "tensorflow",
    "tensorflow2": "tensorflow",
    "mxnet": "mxnet",
    "jax": "jax",
    "cupy": "cupy",
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
            f"transformer/{name}", 2, 0.5, ["transformer", "60"], ALLOCATORS[name]
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
    smi = script("frameworks/nvidia-smi", "nvidia_smi.py", "", "", "", limit=LIMIT)
    smi[0].before = nvidia_smi
    smi[0].witness = "report"
    return found + smi


def nvidia_smi(case, place, env):
    hook = os.path.join(SCRIPTS, "..", "..", "..", "scripts", "nvidia-smi-hook.sh")
    softmig = os.path.join(place.build, "softmig")
    case.arguments[2:5] = [place.program("route_dl"), hook, softmig]
    return foreign_process(case, place, env)


def find_cudart(case, _place, env):
    """Programs with the shared cudart find it where the toolkit or a Python package has it."""
    if not case.name.endswith("shared"):
        return
    places = [os.path.join(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "lib64")]
    for folder in sys.path:
        places += glob.glob(os.path.join(folder, "nvidia", "*", "lib"))
    found = [p for p in places if glob.glob(os.path.join(p, "libcudart.so.*"))]
    env["LD_LIBRARY_PATH"] = ":".join(filter(None, [env.get("LD_LIBRARY_PATH")] + found[:1]))


def runtime(quick):
    """The runtime API, cudart linked statically and shared; built only where there is nvcc."""
    found = []
    sizes = ["64M"] if quick else ["512", "1M", "64M", "1G"]
    cap = f"{(LIMIT + SLACK) // MIB}M"

    def case(name, *arguments):
        found.append(Case(name, arguments, LIMIT, timeout=300, real_only=True, before=find_cudart))

    for kind in ("static", "shared"):
        program = f"runtime_route_{kind}"
        for route in RUNTIME_ROUTES:
            for size in sizes[-2:] if route in SLOW_IF_SMALL else sizes:
                case(f"runtime/{route}/{size}/{kind}", program, route, size, "--cap", cap)
        case(f"runtime/heap/5G/{kind}", program, "heap", "5G")
    case("runtime/device-array/5G/shared", "runtime_big_shared")
    return found


def promised(_quick):
    """The programs that the documentation promises; those in Python where their framework is."""
    names = ["alloc", "alloc_host", "alloc_managed", "runtime_alloc", "runtime_launch"]
    found = [
        Case(f"promised/{name}", [f"@test/test_{name}"], LIMIT, real_only=True)
        for name in names + ["nvml_process_filter"]
    ]
    for name, module in PROMISED_SCRIPTS.items():
        if importlib.util.find_spec(module) is not None:
            arguments = [sys.executable, f"@test/python/limit_{name}.py"]
            found.append(Case(f"promised/limit_{name}", arguments, LIMIT, 600, real_only=True))
    return found


GROUPS = {"promised": promised, "runtime": runtime, "torch": torch, "frameworks": programs}
