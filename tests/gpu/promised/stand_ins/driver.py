"""The few driver calls that the stand-ins of the frameworks need, through ctypes.

A stand-in lets a limit_*.py program run where its framework is not installed, and on the simulated
GPU, which the frameworks' own runtime does not accept. Its memory is real device memory of the
driver that is there; its arithmetic is done on the host.
"""

import ctypes


class OutOfMemory(Exception):
    """cuMemAlloc said CUDA_ERROR_OUT_OF_MEMORY."""


def _open():
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, context = ctypes.c_int(), ctypes.c_void_p()
    good = (
        library.cuInit(0) == 0
        and library.cuDeviceGet(ctypes.byref(device), 0) == 0
        and library.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
        and library.cuCtxSetCurrent(context) == 0
    )
    return library if good else None


_library = _open()


def present():
    return _library is not None


class Memory:
    """A piece of device memory; given back when the object goes."""

    def __init__(self, count):
        self._address = ctypes.c_uint64()
        code = _library.cuMemAlloc_v2(ctypes.byref(self._address), ctypes.c_size_t(count))
        if code == 2:
            raise OutOfMemory(f"{count} bytes")
        if code != 0:
            raise RuntimeError(f"cuMemAlloc gave {code}")

    def __del__(self):
        if self._address.value and _library is not None:
            _library.cuMemFree_v2(self._address)


class Matrix:
    """A square matrix whose elements are all the same."""

    def __init__(self, side, value=1.0):
        self.side, self.value = side, value

    def __matmul__(self, other):
        return Matrix(self.side, self.side * self.value * other.value)

    def sum(self):
        return self.side**2 * self.value
