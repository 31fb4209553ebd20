"""What the limit_*.py programs share: take device memory until it is refused, and judge the end.

Each program prints one line with PASS, FAIL or SKIP in front. Exit status: 0 for PASS and SKIP (no
framework, no GPU), 1 for FAIL. CUDA_DEVICE_MEMORY_LIMIT, if set, is the limit that must hold.
"""

import importlib
import os
import re

MIB = 1 << 20
PIECE = 64 * MIB
# Without a limit the program takes no more than this: others may share the card.
MOST_WITHOUT_LIMIT = 2048 * MIB
# A framework's pool grows in steps, so that it may be refused this much below the limit, contexts
# aside; a context takes about 530 MiB of an H100.
CONTEXTS = 1024 * MIB

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class NoGpu(Exception):
    """The framework is there, a GPU is not."""


def limit_bytes():
    """The limit that the environment asks for; None without one."""
    text = os.environ.get("CUDA_DEVICE_MEMORY_LIMIT", "").strip()
    found = re.fullmatch(r"([0-9.]+)\s*([KMGT]?)(?:i?B)?", text, re.I)
    return int(float(found[1]) * UNITS[found[2].upper()]) if found else None


def fill(take, refused, most):
    """Calls `take(PIECE)` until it raises `refused` -> (pieces held, what was raised or None).

    `take` returns whatever keeps the piece alive. No more than `most` bytes are taken.
    """
    held = []
    while len(held) * PIECE < most:
        try:
            held.append(take(PIECE))
        except refused as error:
            return held, error
    return held, None


def judge(granted, error, limit, computed):
    """(passed, what to say) of one run."""
    text = f"{granted // MIB} MiB granted"
    if not computed:
        return False, f"{text}; computed a wrong result"
    if limit is None:
        return granted > 0, f"{text}; no limit is set: {MOST_WITHOUT_LIMIT // MIB} MiB were tried"
    text += f" of a limit of {limit // MIB} MiB"
    if error is None:
        return False, f"{text}; never refused"
    text += f", then {type(error).__name__}"
    if granted > limit:
        return False, f"{text}: above the limit"
    if granted < (limit - CONTEXTS) * 0.9 - PIECE:
        return False, f"{text}: refused too early"
    return True, text


def run(framework, module, prepare):
    """Runs one program; returns its exit status.

    prepare(module) -> (take, refused, compute): see fill(); compute() -> whether a small
    calculation on the GPU came out right. It raises NoGpu where there is none.
    """
    try:
        loaded = importlib.import_module(module)
    except ImportError as error:
        print(f"SKIP: {framework} is not installed ({error})", flush=True)
        return 0
    except Exception as error:  # MXNet with a newer NumPy
        print(f"SKIP: {framework} cannot be loaded ({error})", flush=True)
        return 0
    try:
        take, refused, compute = prepare(loaded)
        computed = compute()
    except NoGpu as error:
        print(f"SKIP: {framework} finds no GPU ({error})", flush=True)
        return 0
    limit = limit_bytes()
    held, error = fill(take, refused, MOST_WITHOUT_LIMIT if limit is None else limit + 16 * PIECE)
    # What was computed before the memory ran out must still come out right after it did.
    granted = len(held) * PIECE
    del held
    passed, text = judge(granted, error, limit, computed and compute())
    version = getattr(loaded, "__version__", "?")
    print(f"{'PASS' if passed else 'FAIL'}: {framework} {version}: {text}", flush=True)
    return 0 if passed else 1
