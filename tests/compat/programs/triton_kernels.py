"""triton_kernels.py: kernels of Triton, one of them a matrix product, on tensors of PyTorch."""

import kit

torch = kit.need("torch")
triton = kit.need("triton")
tl = __import__("triton.language").language


@triton.jit
def bend(source, target, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = at < count
    x = tl.load(source + at, mask=here)
    tl.store(target + at, x * tl.sigmoid(x), mask=here)


@triton.jit
def multiply(left, right, target, size, BLOCK: tl.constexpr):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    for start in range(0, size, BLOCK):
        inner = start + tl.arange(0, BLOCK)
        a = tl.load(left + rows[:, None] * size + inner[None, :])
        b = tl.load(right + inner[:, None] * size + columns[None, :])
        total += tl.dot(a, b)
    tl.store(target + rows[:, None] * size + columns[None, :], total)


def main():
    if not torch.cuda.is_available():
        kit.skip("PyTorch finds no GPU")
    size = 512
    random = torch.Generator().manual_seed(2)
    left, right = (torch.randn(size, size, generator=random).cuda().half() for _ in range(2))
    product = torch.empty(size, size, device="cuda")
    multiply[(size // 64, size // 64)](left, right, product, size, BLOCK=64)
    bent = torch.empty_like(product)
    for _ in range(10):
        bend[(size * size // 1024,)](product, bent, size * size, BLOCK=1024)
        product, bent = bent, product
    results = {"bent": kit.checksum(product.cpu().numpy())}

    def take(count):
        return torch.empty(count, dtype=torch.uint8, device="cuda")

    figures = kit.fill(take, torch.cuda.OutOfMemoryError)
    total = torch.cuda.mem_get_info()[1]
    kit.finish(results, version=triton.__version__, total=total, **figures)


if __name__ == "__main__":
    main()
