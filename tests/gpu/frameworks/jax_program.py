"""jax_program.py: starts JAX, computes and allocates; then waits for the end of its input."""

import json
import sys

import jax
import jax.numpy as jnp


def main():
    a = jnp.ones((2048, 2048), jnp.float32)
    value = float(jax.jit(lambda x: (x @ x).sum())(a))
    held = [jnp.zeros((64 << 20,), jnp.uint8).block_until_ready() for _ in range(8)]
    stats = jax.devices()[0].memory_stats() or {}
    print(
        json.dumps(
            {
                "what": "jax",
                "value": value,
                "held": len(held),
                "limit": stats.get("bytes_limit", 0),
                "ok": value == 2048.0**3,
            }
        ),
        flush=True,
    )
    sys.stdin.readline()


if __name__ == "__main__":
    main()
