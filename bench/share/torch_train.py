"""Training steps that are told when to run; for bench/share.py --suite torch.

Commands on standard input, answers as lines of JSON:
  open                               makes the CUDA context
  prepare MODEL                      builds it, trains 8 steps, gives a checksum
  gpu MODEL                          GPU time of a step: as a CUDA graph, replayed, between two events
  run MODEL SECONDS SKIP START_NS    steps per second from START_NS (CLOCK_MONOTONIC) + SKIP on

MODEL: eager (a transformer, launched kernel by kernel), graph (the same step as a CUDA graph), conv
(a convolutional net, kernel by kernel).
"""

import hashlib
import json
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "tests", "gpu", "frameworks"))

import torch  # noqa: E402
import torch_step  # noqa: E402  (sets what cuBLAS needs to be deterministic)

BATCH = {"transformer": 8, "conv": 32}
WARM_UP = 8
IN_FLIGHT = 2  # steps that a program runs ahead of the GPU
REPLAYS = 40
BUCKET = 0.1  # seconds, as in series.h


def say(what, **values):
    print(json.dumps({"what": what, "ok": True, **values}), flush=True)


class Training:
    """One model, one batch, one optimizer."""

    def __init__(self, name):
        kind = "conv" if name == "conv" else "transformer"
        torch.manual_seed(1)
        model = torch_step.conv_net() if kind == "conv" else torch_step.Transformer()
        samples = torch_step.Samples(kind, BATCH[kind])
        inputs, targets = zip(*(samples[i] for i in range(BATCH[kind])))
        self.model = model.to("cuda")
        self.inputs = torch.stack(inputs).to("cuda")
        self.targets = torch.stack(targets).to("cuda").flatten()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, capturable=True)
        self.loss_of = torch.nn.CrossEntropyLoss()
        self.graph = None
        for _ in range(WARM_UP):
            self.launch()
        torch.cuda.synchronize()
        self.sum = self.checksum()
        if name == "graph":
            self.capture()

    def launch(self):
        self.optimizer.zero_grad(set_to_none=True)
        output = self.model(self.inputs)
        self.loss_of(output.flatten(0, -2), self.targets).backward()
        self.optimizer.step()

    def capture(self):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.launch()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(self.graph):
            self.launch()
        self.graph.replay()
        torch.cuda.synchronize()

    def step(self):
        if self.graph is not None:
            self.graph.replay()
        else:
            self.launch()

    def gpu_ms(self):
        if self.graph is None:
            self.capture()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.graph.replay()
        begin.record()
        for _ in range(REPLAYS):
            self.graph.replay()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / REPLAYS

    def checksum(self):
        digest = hashlib.sha256()
        for parameter in self.model.parameters():
            digest.update(parameter.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def series_of(ends, skip, seconds):
    """Steps per second in each bucket; a step is spread over the time since the one before."""
    buckets = [0.0] * round((skip + seconds) / BUCKET)
    for begin, end in zip([0.0] + ends, ends):
        at = begin
        while at < end:
            number = int(at / BUCKET + 1e-9)
            if number >= len(buckets):
                break
            until = min(end, (number + 1) * BUCKET)
            buckets[number] += (until - at) / (end - begin) / BUCKET
            at = until
    return buckets


def run(training, model, seconds, skip, start_ns):
    base = torch.cuda.Event(enable_timing=True)
    time.sleep(max(0, (start_ns - time.monotonic_ns()) / 1e9))
    base.record()
    torch.cuda.synchronize()
    began = time.monotonic_ns()
    until = began + int((skip + seconds) * 1e9)
    events, launch_ms = [], []
    while time.monotonic_ns() < until:
        if len(events) >= IN_FLIGHT:
            events[-IN_FLIGHT].synchronize()
        before = time.monotonic_ns()
        training.step()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        events.append(event)
        launch_ms.append((time.monotonic_ns() - before) / 1e6)
    torch.cuda.synchronize()
    ends = [base.elapsed_time(event) / 1e3 for event in events]
    series = series_of(ends, skip, seconds)
    counted = series[round(skip / BUCKET) :]
    steps = sorted((b - a) * 1e3 for a, b in zip(ends, ends[1:]))
    say(
        "torch",
        model=model,
        pid=os.getpid(),
        rate=sum(counted) / len(counted),
        steps=len(ends),
        step_p50_ms=steps[len(steps) // 2] if steps else 0,
        step_p99_ms=steps[len(steps) * 99 // 100] if steps else 0,
        launch_p50_ms=sorted(launch_ms)[len(launch_ms) // 2],
        late=began > start_ns + 20_000_000,
        series=[round(rate, 3) for rate in series],
    )


def obey(words, trainings):
    command, name = words[0], words[1] if len(words) > 1 else ""
    if command == "open":
        torch.ones(1, device="cuda")
        torch.cuda.synchronize()
        with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
            say("ready", pid=os.getpid(), library="libsoftmig.so" in maps.read())
    elif command == "prepare":
        trainings[name] = Training(name)
        say("prepared", checksum=trainings[name].sum)
    elif command == "gpu":
        say("gpu", gpu_ms=trainings[name].gpu_ms())
    else:
        run(trainings[name], name, float(words[2]), float(words[3]), int(words[4]))


def main():
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = True
    trainings = {}
    say("imported")
    for line in sys.stdin:
        words = line.split()
        try:
            obey(words, trainings)
        except RuntimeError as error:
            print(json.dumps({"what": words[0], "ok": False, "text": str(error)[:300]}), flush=True)


if __name__ == "__main__":
    main()
