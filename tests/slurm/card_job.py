#!/usr/bin/python3
"""What a job of card.py runs: waits for the common start, multiplies matrices for a while, takes memory
until it is refused, and says in one line of JSON what it saw.

    card_job.py torch|driver SECONDS READY GO FULL

READY is made when the GPU is open, then GO is awaited; FULL is made when memory was refused. With the
file names "-" nothing is awaited and no memory taken: the figure of a program that is alone. `driver`
is for the simulated GPU, which PyTorch cannot use.
"""

import ctypes
import json
import os
import pathlib
import subprocess
import sys
import time

MIB = 1 << 20
SIDE = 4096  # of the matrices
SPIN_US = 200
MODULE = (b".version 7.0\n.target sm_70\n.address_size 64\n"
          b".visible .entry spin_us(.param .u32 us){ ret; }\n")
WAIT_SECONDS = 60
HOLD_SECONDS = 3  # with all memory taken, for who looks from outside


class Torch:
    """PyTorch on a card."""

    def __init__(self):
        import torch
        self.torch, self.held = torch, []
        self.matrix = torch.rand(SIDE, SIDE, device="cuda", dtype=torch.bfloat16)
        self.step()

    def step(self):
        """Some products of matrices, until they are done."""
        for _ in range(8):
            self.torch.matmul(self.matrix, self.matrix)
        self.torch.cuda.synchronize()

    def info(self):
        """(free, total) in bytes."""
        return self.torch.cuda.mem_get_info()

    def fill(self, piece):
        """Takes memory until it is refused -> the text of the error."""
        try:
            while True:
                self.held.append(self.torch.empty(piece, dtype=self.torch.uint8, device="cuda"))
        except self.torch.cuda.OutOfMemoryError as error:
            return str(error)


class Driver:
    """The driver's API."""

    def __init__(self):
        self.cuda, self.held = ctypes.CDLL("libcuda.so.1"), []
        device, context, module = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self.kernel = ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)
        self.call("cuModuleLoadData", ctypes.byref(module), MODULE)
        self.call("cuModuleGetFunction", ctypes.byref(self.kernel), module, b"spin_us")

    def call(self, name, *arguments):
        """A function of the driver that must not fail."""
        code = getattr(self.cuda, name)(*arguments)
        if code != 0:
            raise OSError(f"{name}: {code}")

    def step(self):
        """Some kernels, until they are done."""
        spin = ctypes.c_uint(SPIN_US)
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(spin))
        for _ in range(8):
            self.call("cuLaunchKernel", self.kernel, 4096, 1, 1, 256, 1, 1, 0, None, parameters, None)
        self.call("cuCtxSynchronize")

    def info(self):
        """(free, total) in bytes."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def fill(self, piece):
        """Takes memory until it is refused -> the driver's code, as text."""
        while True:
            address = ctypes.c_ulonglong()
            code = self.cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(piece))
            if code != 0:
                return f"cuMemAlloc: {code}"
            self.held.append(address.value)


def rate(engine, seconds):
    """Steps in a second."""
    begin, steps = time.monotonic(), 0
    while time.monotonic() < begin + seconds:
        engine.step()
        steps += 1
    return steps / (time.monotonic() - begin)


def wait_for(path):
    """Until the file is there, but not for ever."""
    end = time.monotonic() + WAIT_SECONDS
    while not os.path.exists(path) and time.monotonic() < end:
        time.sleep(0.005)


def said(*command):
    """What a command prints and how it ended, as lines; for people."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [str(error)]
    lines = (result.stdout + result.stderr).splitlines()
    return lines if result.returncode == 0 else [*lines, f"exit status {result.returncode}"]


def main():
    """The command line."""
    engine = {"torch": Torch, "driver": Driver}[sys.argv[1]]()
    ready, go, full = sys.argv[3:]
    told = {"pid": os.getpid(), "job": os.environ.get("SLURM_JOB_ID"), "uid": os.getuid()}
    free, total = engine.info()
    told |= {"total": total // MIB, "free": free // MIB}
    if go != "-":
        pathlib.Path(ready).touch()
        wait_for(go)
    told["per_second"] = rate(engine, float(sys.argv[2]))
    if go == "-":
        print(json.dumps(told), flush=True)
        return
    told["refused"] = engine.fill(64 * MIB)
    told["taken"] = len(engine.held) * 64
    told["free_at_last"] = engine.info()[0] // MIB
    pathlib.Path(full).touch()
    time.sleep(HOLD_SECONDS)
    told["limits"] = said("softmig", "limits")
    told["smi"] = said("nvidia-smi")
    told["smi_memory"] = said("nvidia-smi", "--query-gpu=memory.total,memory.used",
                              "--format=csv,noheader,nounits")
    told["smi_apps"] = said("nvidia-smi", "--query-compute-apps=pid,used_memory",
                            "--format=csv,noheader,nounits")
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
