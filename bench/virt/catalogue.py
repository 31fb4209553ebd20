"""The metrics: ids as GPU-Virt-Bench names them, what is measured here under each, what is not and why.

"published" says what the published code computes (its state of December 2025), where that differs.
"""

from __future__ import annotations

from dataclasses import dataclass

COLUMNS = ("native", "none", "99", "25", "50")
COLUMN_TEXT = {
    "native": "nothing preloaded",
    "none": "the library without any limit",
    "99": "a limit of 99 % of GPU time",
    "25": "a slice of 25 %: memory, GPU time and slots",
    "50": "a slice of 50 %",
}


@dataclass(frozen=True)
class Metric:
    key: str  # id, and a letter where one id has several rows
    name: str
    unit: str
    better: str  # "less", "more" or "" where neither is
    ours: str
    published: str
    bound: tuple | None = None  # ("<=" or ">=", number)
    judged: tuple = ()  # of which columns, or "added"
    digits: int = 1

    @property
    def id(self):
        return self.key.split("/")[0]


SAME = "the same"

METRICS = [
    Metric("OH-001/a", "launch, one after the other", "ns", "less",
           "median host time of cuLaunchKernel of an empty kernel, single launches; median of groups",
           "median of one process, no native run beside it", digits=0),
    Metric("OH-001/b", "launch, one every 4 ms", "us", "less",
           "median host time of cuLaunchKernel in a job that uses 5 % of the GPU: below every limit",
           "not there", digits=2),
    Metric("OH-002", "allocation of 2 MiB", "us", "less",
           "median host time of cuMemAlloc", SAME, digits=2),
    Metric("OH-003", "free of 2 MiB", "us", "less", "median host time of cuMemFree", SAME, digits=2),
    Metric("OH-004/a", "start-up", "ms", "less",
           "time from starting a process to its first context; added: median over triples native, "
           "slice, native, with its 95 % interval",
           "time of a context after a device reset in the same process: nothing, where the reset is "
           "answered by a hook",
           ("<=", 2), ("added",)),
    Metric("OH-004/b", "start-up, processor time", "ms", "less",
           "the same in processor time of the process: what is added there is not hidden by what the "
           "driver waits for", "not there"),
    Metric("OH-005", "a call that ends in a hook", "ns", "less",
           "median batch of calls of cuMemAlloc through the PLT that are refused at once",
           "cudaGetDeviceCount, which the runtime answers itself: no hook is reached", digits=1),
    Metric("OH-006/a", "allocation, 8 threads at once", "us", "less",
           "95th percentile of cuMemAlloc of 2 MiB, all threads' calls", "threads only", digits=1),
    Metric("OH-006/b", "allocation, 8 processes at once", "us", "less",
           "the same for 8 processes of one slice", "not there", digits=1),
    Metric("OH-007/a", "tracking, 100 live allocations", "ns", "less",
           "median time of allocation and free with 100 others live, less the same with none",
           "the difference is cut off at 0 and came out as 0 for all", digits=0),
    Metric("OH-007/b", "tracking, 10000 live allocations", "ns", "less",
           "the same with 10000", "not there", digits=0),
    Metric("OH-008", "the limiter, per launch", "ns", "less",
           "launches through the hook and past it in turn in one process, median of differences, "
           "limit not reached",
           "median launch over several grids: a launch, not the limiter's part of it", digits=0),
    Metric("OH-009", "the node agent", "% of a core", "less",
           "processor time of softmigd over wall time while four programs use the GPU",
           "processor time of the benchmark's own NVML loop", digits=2),
    Metric("OH-010", "throughput lost", "%", "less",
           "100 x (1 - work done / the smaller of native work and the limit), 200 us kernels",
           "the constant 0, filled in later from other figures", digits=2),
    Metric("IS-001", "memory accuracy", "%", "more",
           "highest rise of the device's used memory as an NVML reader without hooks saw it (what "
           "was granted and the context) / limit; above the limit counts as missed",
           "sum of 64 MB pieces, at most 16 GiB, / total of cuMemGetInfo, which the hook answers",
           (">=", 99.9), ("25", "50"), 3),
    Metric("IS-002", "refusal", "ns", "less",
           "median host time of cuMemAlloc of 2 MiB in a full slice; natively of more than the card has",
           "mean of refusals of free + 100 MB", ("<=", 1000), ("25", "50"), 0),
    Metric("IS-003/a", "accuracy of compute, 200 us kernels", "%", "more",
           "100 x (1 - abs(share - limit) / limit), share = fixed work done x its cost alone / time",
           "NVML's rate of the device, not divided by the limit: no limiter at all scores 100"),
    Metric("IS-003/b", "the same, graphs", "%", "more", "graphs of 20 kernels", "not there"),
    Metric("IS-003/c", "the same, 2 ms kernels", "%", "more", "kernels of 2 ms", "not there"),
    Metric("IS-003/d", "the same, 20 us or 2 ms at random", "%", "more",
           "one kernel whose argument says how long it takes", "not there"),
    Metric("IS-004", "response to a new limit", "ms", "less",
           "from rewriting the job's config while it works to the end of the first 100 ms from which "
           "on half a second has the new share within a tenth; column 25: 50 to 25, column 50: back",
           "time in which 1000 kernels drain; no limit changes", digits=0),
    Metric("IS-005", "memory of another tenant", "1 or 0", "more",
           "1 if another process in a slice of its own cannot read at our address, and memory that we "
           "lend it by descriptor is charged to it in full",
           "a child reads its parent's pointer: separate address spaces, always 1", digits=0),
    Metric("IS-006", "compute isolation", "%", "more",
           "100 x work beside three hungry neighbours in their slices / work alone in its slice, "
           "200 us kernels, a process each",
           "baseline / contended time, neighbours in the same process"),
    Metric("IS-007", "variation of completion", "CV", "less",
           "standard deviation / mean of the time from launch to the end waited for, one 200 us "
           "kernel every 4 ms, beside three hungry neighbours",
           "of kernels of one process alone", digits=3),
    Metric("IS-008/a", "fairness, like loads", "Jain", "more",
           "(sum x)^2 / (n sum x^2), x = share / limit of four processes in four slices, 200 us; "
           "column 25: limits 25 25 25 25, column 50: 50 16 16 16; natively x = share",
           "four streams of one process, one after the other", (">=", 0.99), ("25", "50"), 4),
    Metric("IS-008/b", "fairness, unlike loads", "Jain", "more",
           "the same, kernels of 20 us, 200 us, 2 ms, and graphs", "not there",
           (">=", 0.99), ("25", "50"), 4),
    Metric("IS-009/a", "noisy neighbours", "%", "less",
           "100 x (work alone - work beside three hogs) / work alone, processes in slices of their "
           "own; hogs: 300 ms queued ahead, 2 ms kernels, four streams",
           "time of one process against its own second stream", ("<=", 5), ("25", "50"), 2),
    Metric("IS-009/b", "noisy neighbours, 20 ms kernels", "%", "less",
           "the same, hogs: kernels of 20 ms, longer than what is left of their slots",
           "not there", ("<=", 5), ("25", "50"), 2),
    Metric("IS-010/a", "a neighbour's illegal address", "%", "more",
           "100 x work per time after / before the neighbour crashed, the least of three other "
           "processes, whose results must be right",
           "one process asks for 1 TB and goes on: no fault, no neighbour"),
    Metric("IS-010/b", "a neighbour's SIGKILL", "%", "more",
           "the same, the neighbour was killed with its queue full", "not there"),
    Metric("LLM-002", "cache blocks", "1/s", "more",
           "cuMemAllocAsync of 2 MiB from a warm pool, 64 blocks live, the oldest freed", SAME,
           digits=0),
    Metric("LLM-003", "small batches", "%", "more",
           "100 x work done in kernels of 20 us / in kernels of 2 ms, same limit",
           "ratio of throughputs of two batch sizes"),
    Metric("LLM-004/a", "token, median", "us", "less",
           "launch to end waited for, 200 us of work every 4 ms, median",
           "a kernel of no work, in ms", digits=0),
    Metric("LLM-004/b", "token, 99th percentile", "us", "less", "the same, 99th percentile",
           "not there", digits=0),
    Metric("LLM-005", "pool against plain", "%", "less",
           "100 x (pool pair - plain pair) / plain pair, allocation and free of 2 MiB, warm pool",
           SAME),
    Metric("LLM-006", "several streams", "%", "more",
           "100 x work done on four streams / on one, kernels that fill the GPU, same limit",
           "sequential / concurrent / 4"),
    Metric("LLM-007", "large tensor", "ms", "less", "cuMemAlloc and cuMemFree of 1 GiB, medians",
           "allocation alone", digits=3),
    Metric("LLM-009", "variation of mixed batches", "CV", "less",
           "standard deviation / mean of work per 100 ms, kernels of 20 us and 2 ms at random",
           "of single kernels' times", digits=3),
    Metric("BW-001", "device bandwidth in a slice", "%", "more",
           "100 x copy rate within the device in the slice / native, alone; bandwidth is not sliced",
           "achieved / theoretical, one process", digits=1),
    Metric("BW-002", "fairness of bandwidth", "Jain", "more",
           "over the copy rates of four processes in four slices at once", "over streams", digits=4),
    Metric("BW-004", "interference of bandwidth", "%", "less",
           "100 x (rate alone - rate beside three copiers) / rate alone, first of the four",
           "streams of one process"),
    Metric("PCIE-001", "host to device", "GB/s", "more", "pinned memory, one process", SAME),
    Metric("PCIE-002", "device to host", "GB/s", "more", "pinned memory, one process", SAME),
    Metric("PCIE-003", "contention of the bus", "%", "more",
           "100 x sum of four processes' rates / rate of one, host to device", "streams"),
    Metric("PCIE-004", "pageable memory", "%", "more", "100 x pageable / pinned rate", SAME),
    Metric("SCHED-001", "lost by switching", "%", "less",
           "100 - sum of the shares of four hungry processes; at 50/16/16/16 98 - sum",
           "time of two alternating kernels in us", digits=1),
    Metric("SCHED-002", "launch beside neighbours", "us", "less",
           "median host time of cuLaunchKernel, one every 4 ms, beside three hungry neighbours",
           "alone", digits=2),
    Metric("SCHED-003", "overlap of streams", "x", "more",
           "work done / time in which any of it ran: four streams of kernels that fill a part",
           "in %, of fixed sleeps", digits=2),
    Metric("SCHED-004", "waiting for neighbours", "ms", "less",
           "99th percentile from launch to end beside three hungry neighbours, less alone",
           "stream priorities in one process", digits=2),
    Metric("FRAG-001", "fragmentation", "%", "less",
           "100 x (1 - largest request granted / free), all memory taken in pieces, every second freed",
           SAME, digits=2),
    Metric("FRAG-002", "allocation among holes", "ratio", "less",
           "median cuMemAlloc of 2 MiB then / before", SAME, digits=2),
    Metric("FRAG-003", "whole again", "%", "more",
           "100 x largest request after all was freed / before", SAME, digits=2),
    Metric("ERR-001", "a fault is seen", "us", "less",
           "from the launch of a kernel with a bad address to the error", SAME, digits=0),
    Metric("ERR-002", "memory of the dead", "ms", "less",
           "slowest first request for all that was free before a process came that was killed; "
           "natively 1 GiB",
           "time to work again after an error in the same process", digits=1),
    Metric("ERR-003", "after a refusal", "%", "more",
           "100 x steps that do what they must: refuse, free, allocate, write, read, compute",
           SAME, digits=0),
    Metric("NCCL-001", "two GPUs, NCCL", "steps/s", "more",
           "two ranks that multiply and all-reduce 32 MiB, a process each; column 50: both at 50 %",
           "kernels on one GPU: no NCCL"),
]

LEFT_OUT = [
    ("LLM-001", "attention: counts operations that its kernel does not do; a kernel's speed is the card's"),
    ("LLM-008", "FP16 against FP32: a ratio of the card's units, whatever shares it"),
    ("LLM-010", "scaling over GPUs: of one GPU in the published code; see NCCL-001"),
    ("BW-003", "streams until bandwidth is full: of the card, one process"),
    ("CACHE-001..004", "the L2 cache is not sliced, and hit rates guessed from times are no hit rates; "
     "BW-004 shows what neighbours cost"),
    ("NCCL-002..004", "all-gather, peer copies, broadcast: no hook of ours is in them but the launch, "
     "which NCCL-001 has"),
]

BY_KEY = {metric.key: metric for metric in METRICS}
