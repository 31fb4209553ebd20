"""burn.py PROCESSES SECONDS: full load by several processes at once, each result checked.

Every process repeats one matrix product with cuBLAS and compares it with its first, byte by byte.
"""

import ctypes
import json
import subprocess
import sys
import time

import kit

SIZE = 2048


def burn(seconds):
    cublas = kit.library("libcublas.so.13")
    card = kit.Card()
    handle = ctypes.c_void_p()
    kit.check(cublas.cublasCreate_v2(ctypes.byref(handle)), "cublasCreate")
    # A small table, again and again: numbers are slow to make.
    blob = kit.floats(1 << 16, 9) * (SIZE * SIZE >> 16)
    left, right, product = card.put(blob), card.put(blob), card.take(4 * SIZE * SIZE)
    first, errors, rounds = None, 0, 0
    end = time.monotonic() + seconds
    while first is None or time.monotonic() < end:
        for _ in range(50):
            kit.multiply(cublas, handle, SIZE, left, right, product)
        card.wait()
        found = card.get(product, 4 * SIZE * SIZE)
        first = first or found
        errors += found != first
        rounds += 1
    line = {"errors": errors, "checksum": kit.checksum(first), "rounds": rounds}
    print(json.dumps({**line, "total": card.total()}))


def main():
    if len(sys.argv) == 2:
        burn(float(sys.argv[1]))
        return
    kit.library("libcublas.so.13")
    kit.Card()
    processes = [
        subprocess.Popen([sys.executable, __file__, sys.argv[2]], stdout=subprocess.PIPE, text=True)
        for _ in range(int(sys.argv[1]))
    ]
    lines = [json.loads(process.communicate()[0]) for process in processes]
    checksums = {line["checksum"] for line in lines}
    results = {"errors": sum(line["errors"] for line in lines), "checksums": sorted(checksums)}
    rounds = sum(line["rounds"] for line in lines)
    kit.finish(results, rounds=rounds, total=lines[0]["total"])


if __name__ == "__main__":
    main()
