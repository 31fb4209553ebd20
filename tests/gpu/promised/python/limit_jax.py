"""limit_jax.py: JAX, without preallocation, until it raises RESOURCE_EXHAUSTED.

JAX itself stops at a part of what it is shown, three quarters unless told otherwise.
"""

import os
import sys

import limit_case

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")


def prepare(jax):
    try:
        card = jax.devices("gpu")[0]
    except RuntimeError as error:
        raise limit_case.NoGpu(error) from error
    numpy = jax.numpy

    def compute():
        ones = numpy.ones((256, 256), dtype=numpy.float32, device=card)
        return float((ones @ ones).sum()) == 256.0**3

    def take(count):
        return numpy.zeros((count,), dtype=numpy.uint8, device=card).block_until_ready()

    return take, jax.errors.JaxRuntimeError, compute


if __name__ == "__main__":
    sys.exit(limit_case.run("JAX", "jax", prepare))
