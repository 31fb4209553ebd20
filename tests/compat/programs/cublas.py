"""cublas.py: matrix products of cuBLAS, small and large, on two streams."""

import ctypes

import kit

SIZES = (64, 512, 1024)


def main():
    cublas = kit.library("libcublas.so.13")
    card = kit.Card()
    handle, version = ctypes.c_void_p(), ctypes.c_int()
    kit.check(cublas.cublasCreate_v2(ctypes.byref(handle)), "cublasCreate")
    kit.check(cublas.cublasGetVersion_v2(handle, ctypes.byref(version)), "cublasGetVersion")
    results = {}
    for size in SIZES:
        left, right = (card.put(kit.floats(size * size, seed)) for seed in (1, 2))
        product = card.take(4 * size * size)
        for _ in range(20):
            kit.multiply(cublas, handle, size, left, right, product)
        card.wait()
        results[f"sgemm {size}"] = kit.checksum(card.get(product, 4 * size * size))
    kit.finish(results, version=str(version.value), **card.limits())


if __name__ == "__main__":
    main()
