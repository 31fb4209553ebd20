"""Cases of programs on a host that does strange things, and their moments."""

from .case import Case
from .place import GIB

LIMIT = 20 * GIB


def chaos(_quick):
    cases = [
        Case(
            f"chaos/{name}",
            ["load", name],
            LIMIT,
            timeout=300,
            variables={"CUDA_DEVICE_SM_LIMIT": "50"},
            witness="report",
        )
        for name in ("forks", "threads")
    ]
    # Without memory for its ledger the library cannot limit anything; it only must not break.
    cases.append(Case("chaos/little_memory", ["load", "little_memory"], LIMIT, witness="report"))
    return cases


GROUPS = {"chaos": chaos}
