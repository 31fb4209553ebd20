"""torch_step.py MODEL STEPS: training steps with fixed seeds; prints a checksum and the step time.

MODEL is "transformer" or "conv". The same numbers must come out bit by bit with and without a
slice. With --workers N the data comes from N DataLoader workers, forked after CUDA was started.
"""

import argparse
import hashlib
import json
import os
import statistics
import time

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch  # noqa: E402
from torch import nn  # noqa: E402

BATCH = 32


class Transformer(nn.Module):
    def __init__(self, words=8192, width=512, layers=6):
        super().__init__()
        self.embed = nn.Embedding(words, width)
        layer = nn.TransformerEncoderLayer(
            width, 8, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, words)

    def forward(self, tokens):
        return self.head(self.body(self.embed(tokens)))


def conv_net():
    layers, channels = [], 3
    for width in (64, 64, 128, 128, 256, 256):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        if width != channels:
            layers.append(nn.MaxPool2d(2))
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 100))


class Samples(torch.utils.data.Dataset):
    """Made from the index alone, so that every worker makes the same ones."""

    def __init__(self, model, count):
        self.model, self.count = model, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        random = torch.Generator().manual_seed(index)
        if self.model == "transformer":
            tokens = torch.randint(0, 8192, (257,), generator=random)
            return tokens[:-1], tokens[1:]
        return torch.randn(3, 96, 96, generator=random), torch.randint(0, 100, (), generator=random)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", choices=("transformer", "conv"))
    parser.add_argument("steps", type=int)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(1)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    device = torch.device("cuda")
    model = (Transformer() if options.model == "transformer" else conv_net()).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss_of = nn.CrossEntropyLoss()
    warm_up = 10
    samples = Samples(options.model, BATCH * (options.steps + warm_up))
    loader = torch.utils.data.DataLoader(
        samples, batch_size=BATCH, num_workers=options.workers, pin_memory=options.workers > 0
    )
    batches = (
        loader if options.workers else [tuple(t.to(device) for t in batch) for batch in loader]
    )
    times, losses = [], []
    for inputs, targets in batches:
        start = time.perf_counter()
        inputs, targets = inputs.to(device, non_blocking=True), targets.to(
            device, non_blocking=True
        )
        optimizer.zero_grad(set_to_none=True)
        output = model(inputs)
        loss = loss_of(output.flatten(0, -2), targets.flatten())
        loss.backward()
        optimizer.step()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
        losses.append(loss.detach())
    digest = hashlib.sha256()
    for tensor in [torch.stack(losses)] + list(model.parameters()):
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    print(
        json.dumps(
            {
                "what": "torch_step",
                "model": options.model,
                "checksum": digest.hexdigest()[:16],
                "loss": float(losses[-1]),
                "step_ms": statistics.median(times[warm_up:]) * 1e3,
                "allocated_mib": torch.cuda.max_memory_allocated() / 2**20,
                "ok": True,
            }
        )
    )


if __name__ == "__main__":
    main()
