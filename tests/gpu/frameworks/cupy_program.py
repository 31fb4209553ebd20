"""cupy_program.py: a CuPy program that computes and then takes memory until it is refused."""

import json
import sys

import cupy

PIECE = 64 << 20


def main():
    value = float(
        (cupy.ones((2048, 2048), cupy.float32) @ cupy.ones((2048, 2048), cupy.float32)).sum()
    )
    free, total = cupy.cuda.runtime.memGetInfo()
    held, refused = [], False
    while len(held) * PIECE < total + (3 << 30):
        try:
            held.append(cupy.zeros(PIECE, cupy.uint8))
        except cupy.cuda.memory.OutOfMemoryError:
            refused = True
            break
    print(
        json.dumps(
            {
                "what": "cupy",
                "value": value,
                "granted": len(held) * PIECE,
                "free": free,
                "total": total,
                "refused": refused,
                "ok": refused and value == 2048.0**3 and len(held) > 0,
            }
        ),
        flush=True,
    )
    sys.stdin.readline()


if __name__ == "__main__":
    main()
