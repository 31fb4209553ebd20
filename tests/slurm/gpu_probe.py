#!/usr/bin/python3
"""What a program in a job sees of the GPUs, and gets: the driver's API by ctypes, one JSON object.

    gpu_probe.py [--take MIB|all] [--hold FILE]

--take takes memory in pieces of 64 MiB, up to so many MiB or until it is refused. --hold keeps it until
FILE is there; what was seen is then printed at once, and what is seen at the end on a second line.
"""

import argparse
import ctypes
import json
import os
import sys
import time

MIB = 1 << 20
PIECE = 64 * MIB


class Memory(ctypes.Structure):
    """nvmlMemory_t"""
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class Process(ctypes.Structure):
    """nvmlProcessInfo_t"""
    _fields_ = [("pid", ctypes.c_uint), ("bytes", ctypes.c_ulonglong), ("instance", ctypes.c_uint),
                ("compute", ctypes.c_uint)]


class Gpu:
    """The first device."""

    def __init__(self):
        self.cuda, self.nvml = ctypes.CDLL("libcuda.so.1"), ctypes.CDLL("libnvidia-ml.so.1")
        self.device, self.context = ctypes.c_int(), ctypes.c_void_p()
        self.nvml_device = ctypes.c_void_p()
        self.taken = 0

    def open(self):
        """Makes a context -> the first code that is not 0."""
        return (self.cuda.cuInit(0) or self.cuda.cuDeviceGet(ctypes.byref(self.device), 0) or
                self.cuda.cuDevicePrimaryCtxRetain(ctypes.byref(self.context), self.device) or
                self.cuda.cuCtxSetCurrent(self.context))

    def take(self, most):
        """Takes memory -> the code of the last request."""
        code, address = 0, ctypes.c_ulonglong()
        while code == 0 and self.taken + PIECE <= most:
            code = self.cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(PIECE))
            self.taken += PIECE if code == 0 else 0
        return code

    def uuid(self):
        """As NVML writes it."""
        raw = (ctypes.c_ubyte * 16)()
        self.cuda.cuDeviceGetUuid_v2(raw, self.device)
        text = bytes(raw).hex()
        return "GPU-" + "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))

    def open_nvml(self):
        """NVML's handle of the same device."""
        self.nvml.nvmlInit_v2()
        self.nvml.nvmlDeviceGetHandleByUUID(self.uuid().encode(), ctypes.byref(self.nvml_device))

    def processes(self):
        """The pids that NVML shows, in order."""
        count, infos = ctypes.c_uint(64), (Process * 64)()
        self.nvml.nvmlDeviceGetComputeRunningProcesses_v3(self.nvml_device, ctypes.byref(count), infos)
        return sorted(infos[i].pid for i in range(count.value))

    def seen(self):
        """What the slice looks like, sizes in MiB."""
        free, total, whole, memory = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_size_t(), Memory()
        self.cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        self.cuda.cuDeviceTotalMem_v2(ctypes.byref(whole), self.device)
        self.nvml.nvmlDeviceGetMemoryInfo(self.nvml_device, ctypes.byref(memory))
        return {"total": total.value // MIB, "free": free.value // MIB, "whole": whole.value // MIB,
                "nvml_total": memory.total // MIB, "nvml_used": memory.used // MIB,
                "taken": self.taken // MIB, "pids": self.processes()}


def main():
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--take", default="0")
    parser.add_argument("--hold")
    options = parser.parse_args()
    gpu = Gpu()
    opened = gpu.open()
    told = {"pid": os.getpid(), "job": os.environ.get("SLURM_JOB_ID"), "opened": opened}
    if opened != 0:
        print(json.dumps({**told, "refused": opened, "taken": 0}), flush=True)
        return 0
    gpu.open_nvml()
    refused = gpu.take(sys.maxsize if options.take == "all" else int(options.take) * MIB)
    print(json.dumps({**told, "uuid": gpu.uuid(), "refused": refused, **gpu.seen()}), flush=True)
    while options.hold and not os.path.exists(options.hold):
        time.sleep(0.05)
    if options.hold:
        print(json.dumps({**told, **gpu.seen()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
