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


ROUTES = [
    "kernel",
    "kernel_ptsz",
    "kernel_buffer",
    "ex",
    "ex_ptsz",
    "ex_cooperative",
    "cooperative",
    "cooperative_ptsz",
    "multi_device",
    "old_launch",
    "old_grid",
    "old_grid_async",
    "graph",
    "graph_ptsz",
]
STREAMS = ["default", "legacy", "per_thread", "blocking", "priority", "green", "default_ptsz"]
CAPTURES = [
    "capture_global",
    "capture_global_first",
    "capture_thread_local",
    "capture_thread_local_first",
    "capture_relaxed",
    "capture_relaxed_first",
    "capture_fork_join",
    "capture_into_graph",
    "capture_across_threads",
    "capture_legacy_beside",
    "capture_broken",
    "exec_update",
]
DEVICES = ["two_devices", "peer_access", "launch_on_both"]
TWO_GPUS = "2x24G"


def stuck(quick):
    cases = []
    for percent in (25,) if quick else (10, 25):
        for name in STUCK:
            cases.append(limited(f"stuck/{percent}/{name}", ["stuck", name], percent))
    cases += [] if quick else [long_kernel()]
    for name in WITH_SLOTS:
        case = limited(f"stuck/slots/{name}", ["stuck", name], 25)
        case.variables["SOFTMIG_SLOTS"] = "1/4"
        case.before = foreign_process
        cases.append(case)
    return cases


def long_kernel():
    """A debt of 30 s is paid for within two minutes."""
    case = limited("stuck/25/after_30s_kernel", ["stuck", "after_long_kernel"], 25, real_only=True)
    case.variables["TEST_LONG_SECONDS"] = "30"
    return case


def limited(name, arguments, percent, **more):
    """A case under a limit of GPU time; its memory limit is there for the witness."""
    variables = {"CUDA_DEVICE_SM_LIMIT": str(percent)}
    return Case(name, arguments, LIMIT, timeout=300, variables=variables, witness="report", **more)


def launches(quick):
    names = [f"route_{name}" for name in ROUTES] + [f"stream_{name}" for name in STREAMS]
    names += ["several_threads"] + CAPTURES
    cases = []
    for percent in (25,) if quick else (10, 25, 50):
        for name in names:
            cases.append(limited(f"launches/{percent}/{name}", ["launches", name], percent))
    return cases + on_two_gpus() + without_limit()


def on_two_gpus():
    """On a simulated node of its own, or on the machine if that has two."""
    cases = []
    for where, more in (("sim", {"sim": TWO_GPUS}), ("real", {"real_only": True})):
        for name in DEVICES:
            cases.append(limited(f"launches/{where}/{name}", ["launches", name], 25, **more))
        second = ["launches", "only_second_limited"]
        case = limited(f"launches/{where}/only_second", second, 0, **more)
        case.variables = {"CUDA_DEVICE_SM_LIMIT_1": "25"}
        cases.append(case)
    for case in cases:
        case.limit = None
    return cases


def without_limit():
    """Look-ups of a program give the driver's own functions."""

    def case(name, check, limit, **variables):
        return Case(
            f"launches/{name}", ["launches", check], limit, variables=variables, witness="report"
        )

    return [
        case("symbols", "every_symbol_is_known", None),
        case("passive", "nothing_in_the_way", None),
        case("passive_100", "nothing_in_the_way", None, CUDA_DEVICE_SM_LIMIT="100"),
        # A graph may take memory, so that its launch counts it.
        case("memory_only", "nothing_in_the_way", LIMIT, TEST_HOOKED="cuGraphLaunch"),
    ]


GROUPS = {"launches": launches, "stuck": stuck}
