"""cupy_pools.py POOL: CuPy with its own pool ("own") or the driver's stream-ordered one ("async")."""

import sys

import kit

cupy = kit.need("cupy")


def main():
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        kit.skip(error)
    pool = cupy.cuda.MemoryAsyncPool() if sys.argv[1] == "async" else cupy.cuda.MemoryPool()
    cupy.cuda.set_allocator(pool.malloc)
    numpy = kit.need("numpy")
    random = numpy.random.default_rng(5)
    matrix = cupy.asarray(random.standard_normal((512, 512), dtype=numpy.float32))
    kernel = cupy.RawKernel(
        r"""extern "C" __global__ void bend(float* x, int n) {
          int i = blockIdx.x * blockDim.x + threadIdx.x;
          if (i < n) x[i] = x[i] / (1.0f + fabsf(x[i]));
        }""",
        "bend",
    )
    for _ in range(10):
        matrix = matrix @ matrix.T
        kernel((matrix.size // 256,), (256,), (matrix, cupy.int32(matrix.size)))
    results = {
        "product": kit.checksum(cupy.asnumpy(matrix)),
        "sorted": kit.checksum(cupy.asnumpy(cupy.sort(matrix.ravel()))),
        "sum": float(matrix.sum()).hex(),
    }
    total = cupy.cuda.runtime.memGetInfo()[1]

    def take(count):
        return cupy.empty((count,), cupy.uint8)

    # The stream-ordered pool raises the runtime's own error.
    refused = (cupy.cuda.memory.OutOfMemoryError, cupy.cuda.runtime.CUDARuntimeError)
    kit.finish(results, version=cupy.__version__, total=total, **kit.fill(take, refused))


if __name__ == "__main__":
    main()
