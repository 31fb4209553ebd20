"""The cases: every route, every door, races, kills, views, life cycles."""

import os
import subprocess
import threading

from .case import Case
from .place import GIB, MIB

LIMIT = 4096 * MIB
SLACK = 3 * GIB  # how far above the limit a broken slice may go before a test stops

DENSE = ["alloc", "pitch", "pitch_padded", "managed", "async", "pool", "create", "create_map"]
POOLED = ["pool_hold"]
SHAPED = [
    "array_1d",
    "array_2d",
    "array_3d",
    "array_layered",
    "array_cubemap",
    "array_cubemap_layered",
    "array_surface",
    "mipmapped",
    "graph",
    "graph_captured",
]
OTHERS = ["alloc_v1", "contexts", "streams", "green", "all"]
SIZES = ["512", "4K", "64K", "1M", "2M", "64M", "1G", "mixed"]
QUICK_SIZES = ["64M", "fill:512", "mixed"]
# Millions of pieces of these would only take hours: small ones fill the end of the slice.
SLOW_IF_SMALL = ("managed", "pool_hold", *SHAPED)
# Looked up by a program that is not linked with libcuda.
DOORS = [
    "handle",
    "default",
    "next",
    "dlvsym",
    "proc1:12000:0",
    "proc1:13000:2",
    "proc2:12000:1",
    "proc2:12080:2",
    "proc2:13000:0",
    "nested:12040:0",
]
SHARED = ["share", "share_exit", "ipc", "ipc_exit"]
SINGLE = ["module_global", "library_global", "heap_limit", "printf_limit", "stack_limit"]

LIFECYCLE = [
    "fork_before_init",
    "fork_after_init",
    "fork_grandchild_outlives",
    "exec_self",
    "exit_without_free",
    "spawn_others",
    "dlclose_and_again",
    "primary_references",
    "primary_reset",
    "context_destroy",
    "context_refused",
    "free_crosswise",
    "free_elsewhere",
    "free_refused",
    "free_packed_pieces",
    "vmm_references",
    "host_memory",
    "import_outlives_exporter",
    "pool_destroyed",
    "pool_hoards",
    "pool_threshold",
    "capture_survives",
    "wrong_arguments",
    "null_handles",
    "huge_sizes",
    "negative_sizes",
    "planar_array",
    "before_initialisation",
    "racing_first_call",
    "no_drift",
]


def size_of(text):
    """Bytes of one piece; for "mixed" and "fill:..." the smallest that must still be granted."""
    text = text.split(":")[-1]
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    if text == "mixed":
        return 512
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


def usable(case, place, lines, seen):
    """At least 98 % of what the contexts leave, or all but one piece."""
    cost = place.measured_context_cost
    if not cost:
        return None
    route, size = case.arguments[1], case.arguments[2]
    room = case.limit - cost
    piece = size_of(size) * (2 if route in SHAPED else 1)  # the driver rounds these up
    least = min(0.98 * room, room - piece)
    for line in lines:
        if line.get("what") != "route" or line.get("skipped") or line["result"] != 2:
            continue
        if route == "contexts":
            made, expected = line["pieces"], room // cost
            if made != expected:
                return f"{made} contexts where {expected} have room"
            continue
        got = line["granted"]
        # The driver rounds shapes up, and a pool breaks random sizes: there the card's word counts.
        if route not in DENSE or size == "mixed":
            got = max(got, seen["device"] - cost)
        if got < least:
            return (
                f"{line['lookup']}: only {got / MIB:.0f} of {room / MIB:.0f} MiB granted "
                f"({100 * got / room:.1f} %)"
            )
    return None


def route_case(route, size, lookup, program="route", timeout=120):
    cap = (LIMIT + SLACK) // MIB
    door = lookup if program == "route" else lookup + "-dl"
    judge = usable if route in DENSE + SHAPED + ["contexts"] else None
    return Case(
        f"routes/{route}/{size}/{door}",
        [program, route, size, lookup, "--cap", f"{cap}M"],
        LIMIT,
        timeout=timeout,
        judge=judge,
    )


def routes(quick):
    cases = []
    for route in DENSE + POOLED + SHAPED:
        for size in QUICK_SIZES if quick else SIZES:
            slow = route in SLOW_IF_SMALL and size in ("512", "4K")
            size = f"fill:{size}" if slow else size
            cases.append(route_case(route, size, "link", timeout=300))
    cases += [route_case(route, "64M", "link") for route in OTHERS]
    cases += [route_case("all", "mixed", "link")]
    cases += [Case(f"routes/{r}/64M/handle", ["route", r, "64M", "handle"], LIMIT) for r in SHARED]
    cases += [Case(f"routes/{r}/5G/link", ["route", r, "5G", "link"], LIMIT) for r in SINGLE]
    return cases


def doors(quick):
    """Every way to find the functions. One process tries all doors in turn; besides, programs that
    know only one door, so that the first call of the process comes through it."""
    swept = DENSE + POOLED + SHAPED
    cases = [route_case(route, "1G", "sweep", timeout=300) for route in swept]
    for case in cases:
        case.arguments += ["--hold", 20]  # many doors, each long enough to be seen
    single = ["alloc", "async", "create_map"] if quick else swept
    cases += [route_case(route, "256M", door, "route_dl") for route in single for door in DOORS]
    return cases


def races(quick):
    reps = 3 if quick else 20
    cases = []
    for processes, limit in ((2, 4 * GIB), (6, 4 * GIB), (32, 40 * GIB), (32, 4 * GIB)):
        if quick and processes == 32 and limit == 40 * GIB:
            reps = 1
        case = Case(f"race/{processes}x64M/{limit // GIB}G", None, limit, timeout=60 + 30 * reps)
        case.arguments = [
            "race",
            processes,
            "64M",
            "--reps",
            reps,
            "--cap",
            f"{(limit + SLACK) // MIB}M",
            "--limit",
            limit,
        ]
        case.before = add_context_cost
        cases.append(case)
    return cases


def add_context_cost(case, place, _env):
    if place.measured_context_cost and "--context" not in case.arguments:
        case.arguments += ["--context", place.measured_context_cost]


def kills(quick):
    rounds = 12 if quick else 200
    # A living child keeps the dead parent's descriptors, and with them the memory on the card: no
    # slice can hold that back, so there the witness only writes down what it saw.
    return [
        Case(
            f"kill/{mode}",
            ["kill", mode, rounds],
            LIMIT,
            timeout=60 + 4 * rounds,
            before=within,
            witness="report" if mode == "fork_child" else "limit",
        )
        for mode in ("random", "fork_child", "close_range")
    ] + [
        Case(
            "kill/native",
            ["kill", "native", rounds],
            None,
            timeout=60 + 4 * rounds,
            witness="report",
            in_slice=False,
        )
    ]


def within(case, place, _env):
    """10 ms are promised; simulated cases share their cores with others: no place to measure."""
    if "--within" not in case.arguments:
        case.arguments += ["--within", 10 if place.real else 100]


def lifecycle(_quick):
    cases = [
        Case(
            f"lifecycle/{name}",
            ["lifecycle", name],
            LIMIT,
            witness="report" if name == "fork_grandchild_outlives" else "limit",
        )
        for name in LIFECYCLE
    ]
    cases.append(Case("lifecycle/other_device", ["lifecycle", "other_device"], LIMIT, sim="2x24G"))
    cases.append(
        Case(
            "lifecycle/region_full",
            ["lifecycle", "region_full"],
            LIMIT,
            variables={"CUDA_DEVICE_MEMORY_LIMIT_1": "0"},
            sim="2x24G",
            witness="report",
        )
    )
    cases.append(Case("lifecycle/own_malloc", ["own_malloc"], LIMIT))
    return cases


def foreign_process(case, place, env):
    """A process outside the slice that holds memory and runs kernels while the case runs."""
    holder = place.start(
        [place.program("views"), "_busy"],
        place.bare_environment(case.sim),
        outside=True,
        stdout=subprocess.PIPE,
    )
    holder.stdout.readline()
    env["TEST_FOREIGN_PID"] = str(holder.pid)

    def end():
        holder.kill()
        holder.wait()

    return end


class LiveConfig:
    """The config of a Slurm job, written by root while the program waits for it to change."""

    FOLDER = "/var/run/softmig"
    JOB = 67000001

    def __init__(self, limits, delays):
        self.limits = limits
        self.delays = delays
        self.path = f"{self.FOLDER}/{self.JOB}.conf"

    def write(self, limit):
        with open(self.path + ".new", "w", encoding="ascii") as file:
            file.write(f"CUDA_DEVICE_MEMORY_LIMIT={limit // MIB}M\n")
        os.chmod(self.path + ".new", 0o644)
        os.rename(self.path + ".new", self.path)

    def __call__(self, _case, _place, env):
        made = not os.path.isdir(self.FOLDER)
        os.makedirs(self.FOLDER, 0o755, exist_ok=True)
        self.write(self.limits[0])
        for name in ("CUDA_DEVICE_MEMORY_LIMIT", "SOFTMIG_REGION"):
            env.pop(name, None)
        env.update(SLURM_JOB_ID=str(self.JOB), SLURM_TMPDIR=env["TMPDIR"], TEST_CONFIG=self.path)
        stop = threading.Event()

        def rewrite():
            for limit, delay in zip(self.limits[1:], self.delays):
                if stop.wait(delay):
                    return
                self.write(limit)

        thread = threading.Thread(target=rewrite)
        thread.start()

        def end():
            stop.set()
            thread.join()
            os.unlink(self.path)
            if made:
                os.rmdir(self.FOLDER)

        return end


def views(_quick):
    expected = {"TEST_LIMIT": str(LIMIT)}
    cases = [
        Case(
            f"views/{name}",
            ["views", name],
            LIMIT,
            variables=expected,
            before=foreign_process,
            witness="report",
        )
        for name in ("totals", "free_is_true", "nvml_memory", "process_lists", "utilisation_lists")
    ]
    live = LiveConfig([LIMIT, 2 * GIB, 6 * GIB], [4, 4])
    cases.append(
        Case(
            "views/live_limit",
            ["views", "live_limit"],
            None,
            variables=expected,
            before=live,
            root_only=True,
        )
    )
    cases.append(
        Case(
            "views/order_of_nvml",
            ["views", "order_of_nvml"],
            None,
            variables={
                "CUDA_DEVICE_MEMORY_LIMIT_0": str(LIMIT),
                "CUDA_DEVICE_MEMORY_LIMIT_1": str(2 * LIMIT),
                "TEST_LIMIT": str(LIMIT),
            },
            sim="1x16G:t4+1x80G:h100",
            witness="report",
        )
    )
    return cases + per_device()


def per_device():
    """Limits of single devices, found by UUID, under several orders of the visible ones."""
    sim = "3x24G"
    orders = {"none": None, "reversed": [2, 1, 0], "last": [2], "swapped": [1, 0]}
    cases = []
    for name, order in orders.items():
        case = Case(
            f"views/per_device/{name}", ["views", "per_device"], 4 * GIB, sim=sim, witness="report"
        )
        case.before = PerDevice(order)
        cases.append(case)
        if order:
            by_uuid = Case(
                f"views/per_device/{name}-uuid",
                ["views", "per_device"],
                4 * GIB,
                sim=sim,
                witness="report",
            )
            by_uuid.before = PerDevice(order, by_uuid=True)
            cases.append(by_uuid)
    return cases


class PerDevice:
    """Limits 4 GiB in general, 6 GiB on device 1, none on device 2."""

    def __init__(self, order, by_uuid=False):
        self.order = order
        self.by_uuid = by_uuid

    def __call__(self, case, place, env):
        uuids = place.uuids(case.sim)
        limits = [4 * GIB, 6 * GIB, 0]
        env["CUDA_DEVICE_MEMORY_LIMIT_1"] = "6G"
        env["CUDA_DEVICE_MEMORY_LIMIT_2"] = "0"
        env["SOFTMIG_GPUS"] = ",".join(uuids)
        env["TEST_LIMITS"] = ",".join(f"{u}={b}" for u, b in zip(uuids, limits))
        if self.order is not None:
            names = [uuids[i] if self.by_uuid else str(i) for i in self.order]
            env["CUDA_VISIBLE_DEVICES"] = ",".join(names)


def shares(quick):
    """Shares of GPU time. On a card bench/share measures them: kernels of these programs know how
    long they take only on the simulated GPU."""
    seconds = 2 if quick else 8
    loads = [("async", us, []) for us in (20, 200, 2000, 20000)]
    loads += [("sync", 200, []), ("graph", 20, []), ("mixed", 2000, []), ("capture", 200, [])]
    loads += [("async", 200, ["--streams", 4]), ("async", 200, ["--processes", 2])]
    loads += [("async", 2000, ["--processes", 2])]
    cases = []
    for percent in (25, 50):
        for load, us, more in loads:
            name = "-".join([load, f"{us}us", *(str(m).strip("-") for m in more)])
            case = Case(
                f"share/{percent}/{name}",
                ["share", load, us, seconds, *more],
                None,
                timeout=seconds + 60,
                variables={"CUDA_DEVICE_SM_LIMIT": str(percent)},
                witness="report",
                judge=near(percent, 2),
            )
            cases.append(case)
    return [c for c in cases if not quick or "/25/" in c.name or "async-200us" in c.name]


def near(percent, points):
    def judge(_case, _place, lines, _seen):
        share = lines[0]["share"]
        if abs(share - percent) <= points:
            return None
        return f"{share:.1f} % of the GPU, not {percent}"

    return judge


def command_line(_quick):
    """Through `softmig run`, which makes the slice itself. On the simulated node it also makes the
    node, so the witness, who watches another one, has nothing to say."""

    def case(name, *command):
        made = Case(
            f"cli/{name}", ["@softmig", "run"], None, timeout=120, witness="report", in_slice=False
        )
        made.before = CommandLine(command)
        return made

    return [
        case("run", "--memory", "4G", "--", "route", "alloc", "64M", "handle"),
        case("race", "--memory", "4G", "--", "race", "6", "64M", "--limit", "4G"),
        case("limits", "--memory", "4G", "--", "@softmig", "limits"),
    ]


class CommandLine:
    """Completes the arguments of `softmig run` for the place: the node, and where programs are."""

    def __init__(self, command):
        self.command = command

    def __call__(self, case, place, _env):
        at = self.command.index("--") + 1
        node = [] if place.real else ["--sim", place.sim]
        program = place.path(self.command[at])
        case.arguments = ["@softmig", "run"] + node + list(self.command[:at])
        case.arguments += [program] + list(self.command[at + 1 :])


GROUPS = {
    "routes": routes,
    "doors": doors,
    "race": races,
    "kill": kills,
    "views": views,
    "lifecycle": lifecycle,
    "cli": command_line,
    "share": shares,
}
