"""torch_memory.py: what PyTorch shows of a slice of 4096 MiB, and how it ends there."""

import json
import sys

import torch

LIMIT = 4096 << 20
PIECE = 64 << 20


def fill():
    """Tensors until torch.OutOfMemoryError; the tensors and the error's text."""
    held = []
    while len(held) * PIECE < LIMIT + (3 << 30):
        try:
            held.append(torch.empty(PIECE, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError as error:
            return held, str(error)
    return held, None


def main():
    wrong = []
    free, total = torch.cuda.mem_get_info()
    if total != LIMIT:
        wrong.append(f"mem_get_info shows a total of {total >> 20} MiB")
    if not 0 < free < total:
        wrong.append(f"mem_get_info shows {free >> 20} MiB free")
    if torch.cuda.get_device_properties(0).total_memory != LIMIT:
        wrong.append("get_device_properties shows the whole card")
    first, text = fill()
    allocated = torch.cuda.memory_allocated()
    if text is None:
        wrong.append("no torch.OutOfMemoryError")
    else:
        if "4.00 GiB" not in text:
            wrong.append("the error text does not name the slice: " + text[:200])
    granted = len(first)
    if allocated != granted * PIECE:
        wrong.append(f"memory_allocated is {allocated}")
    if granted * PIECE < 0.90 * free - PIECE:
        wrong.append(f"only {granted * PIECE >> 20} of {free >> 20} MiB granted")
    del first
    torch.cuda.empty_cache()
    second, _ = fill()
    if len(second) < granted:
        wrong.append(f"the second time only {len(second)} of {granted} tensors")
    print(
        json.dumps(
            {
                "what": "torch_memory",
                "granted": granted * PIECE,
                "total": total,
                "free": free,
                "error": (text or "")[:300],
                "ok": not wrong,
                **({"text": "; ".join(wrong)} if wrong else {}),
            }
        )
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
