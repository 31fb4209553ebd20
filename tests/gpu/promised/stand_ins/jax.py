"""Stand-in for JAX: what limit_jax.py calls of it."""

import types

import driver

__version__ = "stand-in"
errors = types.SimpleNamespace(JaxRuntimeError=driver.OutOfMemory)


class _Array(driver.Memory):
    def block_until_ready(self):
        return self


def devices(kind):
    if kind != "gpu" or not driver.present():
        raise RuntimeError("no GPU backend")
    return ["card"]


numpy = types.SimpleNamespace(
    float32="float32",
    uint8="uint8",
    ones=lambda shape, dtype, device: driver.Matrix(shape[0]),
    zeros=lambda shape, dtype, device: _Array(shape[0]),
)
