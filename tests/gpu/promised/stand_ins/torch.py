"""Stand-in for PyTorch: what limit_pytorch.py calls of it."""

import types

import driver

__version__ = "stand-in"
uint8 = "uint8"
cuda = types.SimpleNamespace(is_available=driver.present, OutOfMemoryError=driver.OutOfMemory)


def ones(shape, device):
    assert device == "cuda"
    return driver.Matrix(shape[0])


def empty(count, dtype, device):
    assert (dtype, device) == (uint8, "cuda")
    return driver.Memory(count)
