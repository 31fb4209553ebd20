"""Stand-in for TensorFlow: what limit_tensorflow.py and limit_tensorflow2.py call of it."""

import contextlib
import types

import driver

__version__ = "stand-in"
float32 = "float32"
errors = types.SimpleNamespace(ResourceExhaustedError=driver.OutOfMemory)
config = types.SimpleNamespace(
    list_physical_devices=lambda kind: ["card"] if driver.present() else [],
    experimental=types.SimpleNamespace(set_memory_growth=lambda card, on: None),
)


@contextlib.contextmanager
def device(name):
    assert name == "/GPU:0"
    yield


def ones(shape):
    return driver.Matrix(shape[0])


def matmul(left, right):
    return left @ right


def reduce_sum(matrix):
    return matrix.sum()


def zeros(shape, dtype):
    return driver.Memory(4 * shape[0])


class _Variable:
    """Takes its memory when its initializer is run, as a graph's variable does."""

    def __init__(self, count):
        self.count, self.memory = count, None

    @property
    def initializer(self):
        return self

    def initialize(self):
        self.memory = driver.Memory(self.count)


class _Session:
    def __init__(self, config):
        assert config.gpu_options.allow_growth

    def run(self, what):
        return what.initialize() if isinstance(what, _Variable) else what


compat = types.SimpleNamespace(
    v1=types.SimpleNamespace(
        float32=float32,
        disable_eager_execution=lambda: None,
        ConfigProto=lambda: types.SimpleNamespace(gpu_options=types.SimpleNamespace()),
        Session=_Session,
        device=device,
        ones=ones,
        matmul=matmul,
        reduce_sum=reduce_sum,
        zeros=lambda shape, dtype: 4 * shape[0],
        Variable=_Variable,
        errors=errors,
    )
)
