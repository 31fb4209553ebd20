"""limit_pytorch.py: PyTorch takes device memory until torch.OutOfMemoryError."""

import sys

import limit_case


def prepare(torch):
    if not torch.cuda.is_available():
        raise limit_case.NoGpu("torch.cuda.is_available() is False")

    def compute():
        ones = torch.ones((256, 256), device="cuda")
        return float((ones @ ones).sum()) == 256.0**3

    def take(count):
        return torch.empty(count, dtype=torch.uint8, device="cuda")

    return take, torch.cuda.OutOfMemoryError, compute


if __name__ == "__main__":
    sys.exit(limit_case.run("PyTorch", "torch", prepare))
