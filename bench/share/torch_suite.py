"""The suite "torch": training steps alone under several limits, and four jobs at once."""

import os
import sys

import suites
from node import Failed, start_ns, together

HERE = os.path.dirname(os.path.abspath(__file__))
# The capture comes last: a failed one can spoil a context.
MODELS = ("eager", "conv", "graph")
LIMITS = (25, 50, 99)
SKIP = 1.0
LEAD = 0.2
# About what one process takes for its context and for a model's warm-up.
OPEN_SECONDS, PREPARE_SECONDS = 3, 4


class Group:
    """Processes of one mode: opened together, run together."""

    def __init__(self, bench, name, workers, limits):
        self.bench, self.name, self.workers, self.limits = bench, name, workers, limits

    def open(self):
        for worker in self.workers:
            worker.tell("open")
        for worker in self.workers:
            worker.ready(60)

    def measure(self, model):
        lines = together(self.workers, [("prepare", model)] * len(self.workers), 120)
        self.bench.checksums.setdefault(model, set()).update(line["checksum"] for line in lines)
        return self.run(model)

    def gpu_ms(self, model):
        line = self.workers[0].ask("gpu", model)
        self.bench.log({"what": "gpu_ms", "model": model, "gpu_ms": line["gpu_ms"]})
        print(f"{model}: {line['gpu_ms']:.3f} ms of GPU time a step", flush=True)
        return line["gpu_ms"]

    def run(self, model):
        seconds, begin = self.bench.options.seconds, start_ns(LEAD)
        meter = self.bench.node.meter(seconds, begin + int(SKIP * 1e9))
        command = ("run", model, seconds, SKIP, begin)
        lines = together(self.workers, [command] * len(self.workers), seconds + SKIP)
        busy = meter.answer(seconds)
        meter.close()
        result = {
            "what": "torch",
            "group": self.name,
            "model": model,
            "rates": [line["rate"] for line in lines],
            "step_p99_ms": max(line["step_p99_ms"] for line in lines),
            "nvml": busy["device"],
            "limits": self.limits,
            "lines": lines,
        }
        self.bench.log(result)
        gpu_ms = self.bench.gpu_ms.get(model)
        shares = [rate * gpu_ms / 10 for rate in result["rates"]] if gpu_ms else []
        result["shares"] = shares
        print(
            f"{self.name:<12} {model:<6} it/s "
            + " ".join(f"{rate:6.1f}" for rate in result["rates"])
            + "  share "
            + " ".join(f"{share:5.1f}" for share in shares)
            + f"  NVML {busy['device']:5.1f}  step p99 {result['step_p99_ms']:.1f} ms",
            flush=True,
        )
        return result

    def close(self):
        for worker in self.workers:
            worker.close()


def _groups(bench):
    """All processes are started now, so that importing torch is paid once; contexts come later."""
    node, command = bench.node, [sys.executable, os.path.join(HERE, "torch_train.py")]
    four = suites.MIXES["4x25"]()
    groups = [Group(bench, "native", [node.native(command)], [None])]
    for limit in LIMITS:
        workers = node.limited(suites.Member(limit), "library", command)
        groups.append(Group(bench, f"limit {limit}", workers, [limit]))
    groups.append(Group(bench, "control", [node.native(command)], [None]))
    natives = [node.native(command) for _ in four]
    groups.append(Group(bench, "4 native", natives, [None] * 4))
    limited = [node.limited(member, "library", command)[0] for member in four]
    groups.append(Group(bench, "4 x 25", limited, [25] * 4))
    return groups


def _fail(bench, group, model, failure):
    print(f"{group.name} {model} FAILED: {failure}", flush=True)
    bench.record({"mix": group.name, "round": model, "mode": "", "error": str(failure)})


def _one(bench, group, model, results):
    try:
        results[(group.name, model)] = result = group.measure(model)
        if group.name == "native":  # after the run: the capture changes the training
            bench.gpu_ms[model] = group.gpu_ms(model)
            result["shares"] = [result["rates"][0] * bench.gpu_ms[model] / 10]
    except Failed as failure:
        _fail(bench, group, model, failure)
        if group.workers[0].process.poll() is not None:
            raise


def _measure(bench, models):
    groups, results = _groups(bench), {}
    try:
        for group in groups:
            for worker in group.workers:
                worker.answer(120)
        for group in groups:
            each = PREPARE_SECONDS + bench.options.seconds + SKIP
            if OPEN_SECONDS + len(models) * each > bench.left():
                bench.skipped.append(group.name)
                continue
            try:
                group.open()
                for model in models:
                    _one(bench, group, model, results)
            except Failed as failure:
                _fail(bench, group, "", failure)
            finally:
                group.close()
    finally:
        for group in groups:
            group.close()
    return results


def _cell(results, name, model):
    result = results.get((name, model))
    if result is None:
        return "-"
    share = result["shares"][0] if result["shares"] else 0
    return f"{result['rates'][0]:.1f} ({share:.1f} %, NVML {result['nvml']:.1f})"


def _table(bench, results, models):
    columns = ["native", *(f"limit {limit}" for limit in LIMITS), "control"]
    lines = [
        "Steps per second; in brackets the share that this is of the GPU (steps x GPU time of a step, "
        "measured natively as a replayed CUDA graph) and what NVML saw.",
        "",
        "| step | GPU ms | " + " | ".join(columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for model in models:
        cells = [_cell(results, column, model) for column in columns]
        lines.append(f"| {model} | {bench.gpu_ms.get(model, 0):.2f} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| four at once | native, each (sum) | limit 25, each (sum) | of native |",
        "|---|---|---|---|",
    ]
    for model in models:
        native, limited = results.get(("4 native", model)), results.get(("4 x 25", model))
        if native is None or limited is None:
            continue
        texts = [
            " / ".join(f"{rate:.1f}" for rate in one["rates"]) + f" ({sum(one['rates']):.1f})"
            for one in (native, limited)
        ]
        ratio = 100 * sum(limited["rates"]) / sum(native["rates"])
        lines.append(f"| {model} | {texts[0]} | {texts[1]} | {ratio:.1f} % |")
    return "\n".join(lines) + "\n"


def run(bench):
    if not bench.place.real:
        sys.exit("the suite torch needs a card: NVIDIA's runtime does not run on the simulated one")
    models = bench.options.parts
    bench.gpu_ms, bench.checksums = {}, {}
    results = _measure(bench, models)
    for model, sums in bench.checksums.items():
        same = len(sums) == 1
        print(f"{model}: weights after the warm-up are {'the same everywhere' if same else sums}")
        if not same:
            error = "checksums differ"
            bench.record({"mix": model, "round": "", "mode": "", "error": error})
    bench.write_table(_table(bench, results, models))
