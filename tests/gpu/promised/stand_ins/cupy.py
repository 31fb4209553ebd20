"""Stand-in for CuPy: what limit_cupy.py calls of it."""

import types

import driver

__version__ = "stand-in"
float32, uint8 = "float32", "uint8"


class _RuntimeError(RuntimeError):
    pass


def _count():
    if not driver.present():
        raise _RuntimeError("cudaErrorInsufficientDriver")
    return 1


cuda = types.SimpleNamespace(
    runtime=types.SimpleNamespace(getDeviceCount=_count, CUDARuntimeError=_RuntimeError),
    memory=types.SimpleNamespace(OutOfMemoryError=driver.OutOfMemory),
)


def ones(shape, dtype):
    assert dtype == float32
    return driver.Matrix(shape[0])


def empty(shape, dtype):
    assert dtype == uint8
    return driver.Memory(shape[0])
