"""What the Python programs of the matrix share: the line that they print, and NVIDIA's libraries.

A program prints one line of JSON: "results", which must be the same natively and in a slice to the
last bit, and what it saw of the limit. COMPAT_LIMIT is the size of the slice in bytes; natively it
is not set, and no memory is taken to its end.
"""

import ctypes
import glob
import hashlib
import json
import os
import sys
import time

PIECE = 64 << 20
HOLD = 0.05  # long enough to be seen from outside


def limit():
    return int(os.environ.get("COMPAT_LIMIT", "0"))


def skip(why):
    """This program cannot run here."""
    print(json.dumps({"skip": str(why)}), flush=True)
    sys.exit(0)


def need(module):
    """An installed Python package, or the program is skipped."""
    try:
        return __import__(module)
    except ImportError:
        return skip(f"{module} is not installed")


def checksum(*blobs):
    """Of anything that has bytes: NumPy arrays, bytes."""
    digest = hashlib.sha256()
    for blob in blobs:
        digest.update(blob if isinstance(blob, bytes) else blob.tobytes())
    return digest.hexdigest()[:16]


def fill(take, refused):
    """Takes pieces until `take(PIECE)` raises `refused` -> figures; natively nothing."""
    if not limit():
        return {}
    held, full = [], 0
    while not full and len(held) * PIECE <= limit():
        try:
            held.append(take(PIECE))
        except refused:
            full = 1
    time.sleep(HOLD)
    return {"granted": len(held) * PIECE, "refused": full}


def finish(results, **figures):
    print(json.dumps({"results": results, **figures}), flush=True)


def library(name):
    """Opens an NVIDIA library where the system, a toolkit or a Python package has it."""
    places = [name]
    for folder in [os.environ.get("CUDA_HOME", "/usr/local/cuda")]:
        places += glob.glob(f"{folder}/lib*/{name}") + glob.glob(f"{folder}/targets/*/lib/{name}")
    wheels = [f"{folder}/nvidia/*/lib/{name}" for folder in sys.path if folder]
    # The packages' own first: that is what their programs load.
    places = [path for pattern in wheels for path in sorted(glob.glob(pattern))] + places
    for place in places:
        try:
            return ctypes.CDLL(place)
        except OSError:
            pass
    return skip(f"{name} is not installed")


def check(code, what):
    """A call's status must be 0."""
    if code != 0:
        print(json.dumps({"error": f"{what} gave {code}"}), flush=True)
        sys.exit(1)


def multiply(cublas, handle, size, left, right, product):
    """A product of two square matrices of floats; the first as it is, the second transposed."""
    one, zero, number = ctypes.c_float(1), ctypes.c_float(0), ctypes.c_int(size)
    check(
        cublas.cublasSgemm_v2(
            handle, 0, 1, number, number, number, ctypes.byref(one), left, number, right, number,
            ctypes.byref(zero), product, number,
        ),
        "cublasSgemm",
    )


class Refused(Exception):
    """cuMemAlloc said CUDA_ERROR_OUT_OF_MEMORY."""


class Card:
    """The driver API with the primary context of the first device."""

    def __init__(self):
        try:
            self.driver = ctypes.CDLL("libcuda.so.1")
        except OSError:
            skip("no driver")
        device, self.context = ctypes.c_int(), ctypes.c_void_p()
        if self.driver.cuInit(0) != 0:
            skip("no GPU")
        check(self.driver.cuDeviceGet(ctypes.byref(device), 0), "cuDeviceGet")
        retained = self.driver.cuDevicePrimaryCtxRetain(ctypes.byref(self.context), device)
        check(retained, "cuDevicePrimaryCtxRetain")
        self.use()

    def use(self):
        check(self.driver.cuCtxSetCurrent(self.context), "cuCtxSetCurrent")

    def total(self):
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        check(self.driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)), "cuMemGetInfo")
        return total.value

    def take(self, count):
        """Device memory: its address as a c_uint64."""
        address = ctypes.c_uint64()
        code = self.driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(count))
        if code == 2:
            raise Refused
        check(code, "cuMemAlloc")
        return address

    def put(self, blob):
        """Device memory with the bytes of `blob`."""
        address = self.take(len(blob))
        copied = self.driver.cuMemcpyHtoD_v2(address, blob, ctypes.c_size_t(len(blob)))
        check(copied, "cuMemcpyHtoD")
        return address

    def get(self, address, count):
        blob = ctypes.create_string_buffer(count)
        copied = self.driver.cuMemcpyDtoH_v2(blob, address, ctypes.c_size_t(count))
        check(copied, "cuMemcpyDtoH")
        return blob.raw

    def wait(self):
        check(self.driver.cuCtxSynchronize(), "cuCtxSynchronize")

    def limits(self):
        """What the program saw of the limit."""
        return {"total": self.total(), **fill(self.take, Refused)}


def floats(count, seed):
    """The bytes of `count` float32 numbers from -1 to 1, the same everywhere."""
    array = (ctypes.c_float * count)()
    state = seed
    for i in range(count):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        array[i] = (state >> 8) / (1 << 23) - 1
    return bytes(array)


def version_of(path):
    """Of a wheel: nvidia_nvjpeg_cu12-12.0.0.28-py3... -> 12.0.0.28"""
    return os.path.basename(path).split("-")[1]
