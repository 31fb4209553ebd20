"""Cases of programs whose launches are held back: they never hang, and every launch is charged."""

from .case import Case
from .cases import foreign_process
from .place import GIB

LIMIT = 40 * GIB
STUCK = [
    "spin_pair",
    "ping_pong",
    "queue_behind_spin",
    "spin_for_thread",
    "value_from_launch",
    "value_from_stream",
    "value_from_thread",
    "after_long_kernel",
    "host_function",
    "child_graphs",
    "conditional_nodes",
    "graphs_at_gate",
    "stop_continue",
    "debugger_stop",
    "kill_at_gate",
    "fork_at_gate",
    "exit_at_gate",
    "exec_at_gate",
    "threads_come_and_go",
    "destroy_under_work",
    "destroy_at_gate",
    "destroy_streams",
    "contexts_under_load",
    "primary_reset",
    "dlclose_at_gate",
]
# Slots count where somebody else has work on the GPU, and then shares are the subject of others.
WITH_SLOTS = [
    "spin_pair",
    "ping_pong",
    "queue_behind_spin",
    "spin_for_thread",
    "value_from_launch",
    "value_from_stream",
    "graphs_at_gate",
    "fork_at_gate",
    "exit_at_gate",
    "destroy_streams",
]


def stuck(quick):
    cases = []
    for percent in (25,) if quick else (10, 25):
        for name in STUCK:
            cases.append(limited(f"stuck/{percent}/{name}", ["stuck", name], percent))
    for name in WITH_SLOTS:
        case = limited(f"stuck/slots/{name}", ["stuck", name], 25)
        case.variables["SOFTMIG_SLOTS"] = "1/4"
        case.before = foreign_process
        cases.append(case)
    return cases


def limited(name, arguments, percent, **more):
    """A case under a limit of GPU time; its memory limit is there for the witness."""
    variables = {"CUDA_DEVICE_SM_LIMIT": str(percent)}
    return Case(name, arguments, LIMIT, timeout=300, variables=variables, witness="report", **more)


GROUPS = {"stuck": stuck}
