"""What is run: mixes of jobs, and for each mix the rounds that its processes run one after another.

A mix's processes are started anew for every mode. Where one mix has several rounds, only the first
finds them cold; the suite "alone" has one round per mix.
"""

from __future__ import annotations

from dataclasses import dataclass, field

NATIVE_SECONDS = 1  # a job alone and native is the same all the time


@dataclass
class Member:
    """One job: its limit in percent, its slots, and how many processes it has."""

    limit: int
    slots: str | None = None
    processes: int = 1


@dataclass
class Round:
    label: str
    loads: list  # one per member
    seconds: float
    skip: float = 0.5
    # Per member, in seconds from the start: when it comes and how long it stays (0: to the end).
    offsets: list | None = None
    lengths: list | None = None


@dataclass
class Mix:
    name: str
    members: list
    rounds: list
    modes: list = field(default_factory=list)

    def processes(self):
        return sum(member.processes for member in self.members)

    def seconds(self):
        """About what one mode takes, start of the processes included."""
        start = 0.6 + 0.12 * self.processes()
        return start + sum(one.skip + one.seconds + 0.4 for one in self.rounds)


def _slots(*widths):
    total, first, texts = sum(widths), 0, []
    for width in widths:
        texts.append(f"{','.join(map(str, range(first, first + width)))}/{total}")
        first += width
    return texts


def _members(*limits, widths=None):
    widths = widths or [1] * len(limits)
    return [Member(limit, slots) for limit, slots in zip(limits, _slots(*widths))]


MIXES = {
    "4x25": lambda: _members(25, 25, 25, 25),
    "2x50": lambda: _members(50, 50),
    "50/25/25": lambda: _members(50, 25, 25, widths=[2, 1, 1]),
    "10/90": lambda: _members(10, 90, widths=[1, 9]),
    "8x12": lambda: _members(*[12] * 8),
}


def _same(load, name, seconds):
    return Round(load, [load] * len(MIXES[name]()), seconds)


def experiment(seconds):
    """The candidates for several jobs on one GPU, side by side."""
    modes = ["native", "budget", "strict", "fill"]

    def mix(name, *loads):
        return Mix(name, MIXES[name](), [_same(load, name, seconds) for load in loads], modes)

    half_idle = Round("one half idle", ["back:200us"] * 3 + ["idle:200us"], seconds)
    return [
        mix("4x25", "back:200us"),
        Mix("3x25+idle", MIXES["4x25"](), [half_idle], modes),
        mix("10/90", "back:200us", "back:20us"),
        mix("50/25/25", "back:200us"),
        mix("8x12", "back:200us"),
        mix("4x25", "back:2ms", "back:20us", "back:20ms"),
    ]


ALONE_LOADS = [
    "back:200us",
    "back:20us",
    "back:2ms",
    "graph:200us",
    "deep:200us",
    "mixed",
    "streams:200us",
    "wait:200us",
    "varied",
    "back:20ms",
    "graph:20us",
    "ptsz:200us",
    "coop:200us",
    "bound:20us",
    "idle:200us",
    "small:200us",
    "light:200us",
    "back:200ms",
]
# What these get natively is less than everything, or more: overlap, or gaps of their own.
NOT_HUNGRY = ("wait:", "bound:", "idle:", "small:", "light:", "streams:", "mixed")


# Of a job of that limit, as the prolog would give them.
ALONE_SLOTS = {10: "0/10", 25: "0/4", 50: "0,1/4", 75: "0,1,2/4", 90: "0,1,2,3,4,5,6,7,8/10"}


def alone(seconds):
    """One job by itself, from a cold start, every load; other limits for some."""

    def one(limit, load, modes):
        length = max(seconds, 6) if load.endswith(":200ms") else seconds
        return Mix(f"alone {limit}", [Member(limit, ALONE_SLOTS[limit])],
                   [Round(load, [load], length)], modes)

    mixes = []
    for load in ALONE_LOADS:
        native = ["native"] if load.startswith(NOT_HUNGRY) else []
        mixes.append(one(25, load, native + ["library"]))
        if load == "graph:200us":
            for limit in (10, 50, 75, 90):
                for other in ("back:200us", "back:20us", "graph:200us"):
                    mixes.append(one(limit, other, ["library"]))
    return mixes


def all_together(seconds):
    """Several jobs at once, and several processes of one job."""
    modes = ["native", "library"]
    loads = ["back:20us", "back:200us", "back:2ms", "back:20ms", "graph:200us"]
    mixes = [
        Mix(name, MIXES[name](), [_same(load, name, seconds) for load in loads], modes)
        for name in MIXES
    ]
    four = MIXES["4x25"]
    hog = Round("20 ms hog", ["back:20ms"] + ["back:200us"] * 3, seconds)
    half_idle = Round("one half idle", ["back:200us"] * 3 + ["idle:200us"], seconds)
    coming = Round(
        "come and go",
        ["back:200us"] * 4,
        2 * seconds,
        offsets=[0, 0, seconds / 2, seconds],
        lengths=[0, 1.5 * seconds, 0, 0],
    )
    mixes.append(Mix("4x25", four(), [hog], modes))
    mixes.append(Mix("3x25+idle", four(), [half_idle], modes))
    mixes.append(Mix("4x25", four(), [coming], modes))
    for processes in (2, 4):
        job = [Member(25, "0/4", processes)]
        overlap = Round("overlapping", ["back:200us"], seconds)
        turns = Round("alternating", ["idle:200us"], seconds)
        mixes.append(Mix(f"one job, {processes} processes", job, [overlap, turns], ["library"]))
    return mixes


SUITES = {"experiment": experiment, "alone": alone, "together": all_together}
DEFAULT_SECONDS = {"experiment": 2, "alone": 2, "together": 10, "torch": 3, "cost": 2}
