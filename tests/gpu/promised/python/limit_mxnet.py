"""limit_mxnet.py: Apache MXNet until it raises MXNetError.

MXNet is retired; its last release is for CUDA 11, and with a newer NumPy it does not load.
"""

import sys

import limit_case


def prepare(mxnet):
    if mxnet.context.num_gpus() == 0:
        raise limit_case.NoGpu("num_gpus() is 0")
    card = mxnet.gpu(0)

    def compute():
        ones = mxnet.nd.ones((256, 256), ctx=card)
        return float(mxnet.nd.dot(ones, ones).sum().asscalar()) == 256.0**3

    def take(count):
        array = mxnet.nd.zeros((count // 4,), ctx=card)
        array.wait_to_read()  # work is queued; a refusal shows when it is waited for
        return array

    return take, mxnet.base.MXNetError, compute


if __name__ == "__main__":
    sys.exit(limit_case.run("MXNet", "mxnet", prepare))
