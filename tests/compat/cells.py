"""The cells of the matrix: what runs, what it needs, how long it may take.

A cell's program prints one line of JSON (programs/kit.py, programs/report.h): "results" must be the
same natively and in a slice.
"""

import dataclasses
import glob
import importlib.util
import os
import shutil
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAMS = os.path.join(HERE, "programs")

# CUDA runtimes, in the order of the table.
VERSIONS = ["12.0", "12.2", "12.4", "12.6", "12.8", "12.9", "13.0", "13.5"]
# The wheels of nvJPEG that fetch.sh takes, and the runtime that is inside.
STATIC_INSIDE = {"12.0": "12.0.0.28", "12.2": "12.2.0.2", "12.4": "12.3.1.117", "12.8": "12.3.5.92"}


@dataclasses.dataclass
class Cell:
    """
    name       group/what
    text       what it is, for the table
    command    program and arguments; "@x" is x in the compat folder, "%x" x in the build folder
    modules    Python packages that it needs
    says       regular expressions that its output must match, natively and in the slice
    variables  more environment, natively and in the slice
    timeout    seconds of either run
    sim        also runs on the simulated GPU
    gpus       how many it needs
    sm         False: without a limit of GPU time, which the cell's tool takes over
    """

    name: str
    text: str
    command: list
    modules: tuple = ()
    says: tuple = ()
    variables: dict = dataclasses.field(default_factory=dict)
    timeout: float = 60
    sim: bool = False
    gpus: int = 1
    sm: bool = True

    def missing(self, place):
        """Why it cannot run here, or None."""
        if place.sim and not self.sim:
            return "needs a card"
        for module in self.modules:
            if importlib.util.find_spec(module) is None:
                return f"{module} is not installed"
        for part in self.command:
            path = place.path(part)
            if path is None:
                return f"{part[1:]} is not there; tests/compat/fetch.sh makes it"
        if shutil.which(self.command[0]) is None and place.path(self.command[0]) == self.command[0]:
            return f"{self.command[0]} is not installed"
        if self.gpus > 1 and self.gpus > len(place.gpus()):
            return f"needs {self.gpus} GPUs"
        return None


def script(name, *arguments):
    return [sys.executable, os.path.join(PROGRAMS, name), *map(str, arguments)]


def driver():
    doors = {
        "link": ("linked with libcuda.so.1", "%tests/compat/driver_linked", "link"),
        "dlsym": ("dlopen and dlsym", "%tests/compat/driver", "handle"),
        "proc-12.0": ("cuGetProcAddress for 12.0", "%tests/compat/driver", "proc2:12000:0"),
        "proc-12.4": ("cuGetProcAddress for 12.4", "%tests/compat/driver", "proc2:12040:0"),
        "proc-13.0": ("cuGetProcAddress for 13.0", "%tests/compat/driver", "proc2:13000:0"),
        "per-thread": ("per-thread default stream", "%tests/compat/driver", "proc2:13000:2"),
    }
    return [
        Cell(f"driver/{name}", f"driver API alone, {text}", [program, door], timeout=30, sim=True)
        for name, (text, program, door) in doors.items()
    ]


def runtimes():
    found = []
    for version in VERSIONS:
        for kind in ("shared", "static"):
            text = f"CUDA runtime {version}, {kind} cudart"
            command = [f"@bin/runtime_{version}_{kind}"]
            if kind == "static" and version in STATIC_INSIDE:
                text += " inside nvJPEG"
                wheel = f"@wheels/nvidia_nvjpeg_cu12-{STATIC_INSIDE[version]}-*"
                command = script("nvjpeg.py", wheel)
            elif kind == "static" and version == "12.6":
                continue  # no wheel of that version has it
            found.append(Cell(f"runtime/{version}/{kind}", text, command, timeout=45))
    return found


def libraries():
    found = [
        Cell("library/nvrtc", "NVRTC of the machine", script("nvrtc.py")),
        Cell("library/cublas", "cuBLAS", script("cublas.py")),
        Cell("library/cufft", "cuFFT", script("cufft.py")),
        Cell("library/cudnn", "cuDNN", script("cudnn.py")),
        Cell("library/nccl", "NCCL, one process, every GPU", script("nccl.py")),
    ]
    wheel = "@wheels/nvidia_cuda_nvrtc_cu12-*"
    found.append(Cell("library/nvrtc-12", "NVRTC of CUDA 12", script("nvrtc.py", wheel)))
    return found


def torch():
    def cell(name, text, mode, timeout=90, gpus=1, **variables):
        command = script("torch_modes.py", mode)
        return Cell(
            f"torch/{name}", f"PyTorch, {text}", command, ("torch",), (), variables, timeout,
            gpus=gpus,
        )  # fmt: skip

    allocator = "PYTORCH_CUDA_ALLOC_CONF"
    return [
        cell("eager", "eager", "eager", 120),
        cell("graphs", "CUDA graphs", "graphs"),
        cell("workers", "DataLoader workers", "workers"),
        cell("expandable", "expandable_segments", "eager",
             **{allocator: "expandable_segments:True"}),
        cell("malloc-async", "cudaMallocAsync backend", "eager",
             **{allocator: "backend:cudaMallocAsync"}),
        cell("compile", "torch.compile", "compile", 150),
        cell("ddp", "DDP with NCCL", "ddp", 150, gpus=2),
    ]  # fmt: skip


def frameworks():
    return [
        Cell("jax/preallocates", "JAX with preallocation", script("jax_preallocates.py"), ("jax",),
             timeout=120),
        Cell("cupy/pool", "CuPy, its own pool", script("cupy_pools.py", "own"), ("cupy",)),
        Cell("cupy/async-pool", "CuPy, stream-ordered pool", script("cupy_pools.py", "async"),
             ("cupy",)),
        Cell("triton", "Triton", script("triton_kernels.py"), ("torch", "triton"), timeout=90),
        Cell("numba", "Numba", script("numba_kernels.py"), ("numba",), timeout=60),
        Cell("tensorflow", "TensorFlow", script("tensorflow_steps.py"), ("tensorflow",),
             timeout=120),
    ]  # fmt: skip


def load():
    return [
        Cell("burn", "two processes at full load for 6 s", script("burn.py", 2, 6), timeout=60),
    ]


def tools():
    """Debuggers and profilers around a program of the newest runtime that the driver must take."""
    program = "@bin/runtime_13.0_static"
    debugger = ["cuda-gdb", "-batch", "-nx"]
    for command in (
        "set pagination off",
        "set cuda break_on_launch application",
        "run",
        "info cuda kernels",
        "set cuda break_on_launch none",
        "continue",
    ):
        debugger += ["-ex", command]
    profiler = ["ncu", "--metrics", "gpu__time_duration.sum", "--launch-count", "3"]
    return [
        Cell("tool/compute-sanitizer", "compute-sanitizer memcheck",
             ["compute-sanitizer", "--tool", "memcheck", program],
             says=(r"ERROR SUMMARY: 0 errors",), timeout=90, sm=False),
        Cell("tool/cuda-gdb", "cuda-gdb, stops in a kernel", debugger + ["--args", program],
             says=(r"\bmix\b", r"exited normally"), timeout=90, sm=False),
        Cell("tool/ncu", "Nsight Compute, three kernels", profiler + [program],
             says=(r"\bmix\b", r"gpu__time_duration"), timeout=120, sm=False),
    ]  # fmt: skip


def all_cells():
    groups = (driver, runtimes, libraries, load, tools, frameworks, torch)
    return [cell for group in groups for cell in group()]


def find(pattern):
    """The path that a pattern names, or None."""
    found = sorted(glob.glob(pattern))
    return found[-1] if found else None
