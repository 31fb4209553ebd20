"""limit_cupy.py: CuPy, with its memory pool, until OutOfMemoryError."""

import sys

import limit_case


def prepare(cupy):
    try:
        if cupy.cuda.runtime.getDeviceCount() == 0:
            raise limit_case.NoGpu("getDeviceCount() is 0")
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise limit_case.NoGpu(error) from error

    def compute():
        ones = cupy.ones((256, 256), dtype=cupy.float32)
        return float((ones @ ones).sum()) == 256.0**3

    def take(count):
        return cupy.empty((count,), dtype=cupy.uint8)

    return take, cupy.cuda.memory.OutOfMemoryError, compute


if __name__ == "__main__":
    sys.exit(limit_case.run("CuPy", "cupy", prepare))
