"""jax_preallocates.py: JAX, which takes three quarters of what it is shown when it starts."""

import os

# The same kernels every time: nothing is chosen by measuring.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_gpu_autotune_level=0 --xla_gpu_deterministic_ops=true"
)

import kit  # noqa: E402

jax = kit.need("jax")


def main():
    try:
        card = jax.devices("gpu")[0]
    except RuntimeError as error:
        kit.skip(error)
    numpy = jax.numpy
    key = jax.random.PRNGKey(3)
    data = jax.random.normal(key, (512, 512), dtype=numpy.float32)

    def loss(weights):
        return numpy.mean(numpy.tanh(data @ weights) ** 2)

    step = jax.jit(jax.value_and_grad(loss))
    weights = jax.random.normal(jax.random.PRNGKey(4), (512, 256), dtype=numpy.float32)
    for _ in range(5):
        value, gradient = step(weights)
        weights = weights - 0.1 * gradient
    results = {"loss": float(value).hex(), "weights": kit.checksum(jax.device_get(weights))}
    figures = {}
    if kit.limit():
        stats = card.memory_stats() or {}
        figures["pool"] = stats.get("bytes_limit", 0)
        figures |= kit.fill(
            lambda count: numpy.zeros((count,), numpy.uint8).block_until_ready(),
            jax.errors.JaxRuntimeError,
        )
    kit.finish(results, version=jax.__version__, **figures)


if __name__ == "__main__":
    main()
