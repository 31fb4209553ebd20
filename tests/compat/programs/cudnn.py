"""cudnn.py: a convolution of cuDNN, forward, by an algorithm that is the same every time."""

import ctypes

import kit

NCHW, FLOAT, CROSS_CORRELATION = 0, 0, 1
IMPLICIT_PRECOMP_GEMM = 1
INPUT, FILTER, OUTPUT = (8, 16, 32, 32), (32, 16, 3, 3), (8, 32, 32, 32)


def count(shape):
    product = 1
    for side in shape:
        product *= side
    return product


def main():
    cudnn = kit.library("libcudnn.so.9")
    cudnn.cudnnGetVersion.restype = ctypes.c_size_t
    card = kit.Card()

    def call(name, *arguments):
        kit.check(getattr(cudnn, name)(*arguments), name)

    def made(name):
        descriptor = ctypes.c_void_p()
        call(name, ctypes.byref(descriptor))
        return descriptor

    handle = made("cudnnCreate")
    source, target = made("cudnnCreateTensorDescriptor"), made("cudnnCreateTensorDescriptor")
    weights = made("cudnnCreateFilterDescriptor")
    convolution = made("cudnnCreateConvolutionDescriptor")
    call("cudnnSetTensor4dDescriptor", source, NCHW, FLOAT, *INPUT)
    call("cudnnSetTensor4dDescriptor", target, NCHW, FLOAT, *OUTPUT)
    call("cudnnSetFilter4dDescriptor", weights, FLOAT, NCHW, *FILTER)
    call(
        "cudnnSetConvolution2dDescriptor", convolution, 1, 1, 1, 1, 1, 1, CROSS_CORRELATION, FLOAT
    )
    size = ctypes.c_size_t()
    call(
        "cudnnGetConvolutionForwardWorkspaceSize", handle, source, weights, convolution, target,
        IMPLICIT_PRECOMP_GEMM, ctypes.byref(size),
    )
    workspace = card.take(max(size.value, 1))
    data, kernel = card.put(kit.floats(count(INPUT), 1)), card.put(kit.floats(count(FILTER), 2))
    output = card.take(4 * count(OUTPUT))
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    for _ in range(10):
        call(
            "cudnnConvolutionForward", handle, ctypes.byref(one), source, data, weights, kernel,
            convolution, IMPLICIT_PRECOMP_GEMM, workspace, size, ctypes.byref(zero), target, output,
        )
    card.wait()
    results = {"convolution": kit.checksum(card.get(output, 4 * count(OUTPUT)))}
    kit.finish(results, version=str(cudnn.cudnnGetVersion()), **card.limits())


if __name__ == "__main__":
    main()
