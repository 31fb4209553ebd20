"""numba_kernels.py: kernels that Numba compiles."""

import kit

numba = kit.need("numba")
numpy = kit.need("numpy")
cuda = __import__("numba.cuda").cuda


@cuda.jit
def mix(data, seed):
    i = cuda.grid(1)
    if i < data.size:
        data[i] = data[i] * 3 + seed + i


def main():
    if not cuda.is_available():
        kit.skip("Numba finds no GPU")
    data = cuda.to_device(numpy.arange(1 << 18, dtype=numpy.int64))
    for seed in range(20):
        mix[data.size // 256, 256](data, seed)
    results = {"mixed": kit.checksum(data.copy_to_host())}
    total = cuda.current_context().get_memory_info()[1]

    def take(count):
        return cuda.device_array((count,), numpy.uint8)

    figures = kit.fill(take, cuda.cudadrv.driver.CudaAPIError)
    kit.finish(results, version=numba.__version__, total=total, **figures)


if __name__ == "__main__":
    main()
