"""torch_modes.py MODE: some training steps of PyTorch with fixed seeds.

MODE: eager, compile (torch.compile), graphs (the whole step as a CUDA graph), workers (two forked
DataLoader workers and pinned memory), ddp (two processes with NCCL, on two GPUs). The allocators are
chosen by PYTORCH_CUDA_ALLOC_CONF.
"""

import os
import sys

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import kit  # noqa: E402

torch = kit.need("torch")

STEPS, BATCH, CLASSES = 8, 16, 10


def model():
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.GELU(),
        nn.Flatten(2),
        nn.LayerNorm(256),
        nn.Linear(256, 64),
        nn.Flatten(1),
        nn.Linear(64 * 32, CLASSES),
    )


def sample(index):
    random = torch.Generator().manual_seed(index)
    label = torch.randint(0, CLASSES, (), generator=random)
    return torch.randn(3, 32, 32, generator=random), label


class Samples(torch.utils.data.Dataset):
    def __len__(self):
        return STEPS * BATCH

    def __getitem__(self, index):
        return sample(index)


def prepare(device):
    torch.manual_seed(1)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    return model().to(device)


def batches(workers, device):
    loader = torch.utils.data.DataLoader(
        Samples(), batch_size=BATCH, num_workers=workers, pin_memory=workers > 0
    )
    for images, labels in loader:
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def train(net, data):
    """The losses of the steps."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for images, labels in data:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def train_by_graph(net, data):
    """The same; every step is one launch of a captured graph."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    data = list(data)
    images, labels = (part.clone() for part in data[0])

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        loss = step()
    losses = []
    for new_images, new_labels in data:
        images.copy_(new_images)
        labels.copy_(new_labels)
        graph.replay()
        losses.append(loss.detach().clone())
    return torch.stack(losses)


def numbers(net, losses):
    tensors = [losses] + list(net.parameters())
    return {
        "loss": float(losses[-1]).hex(),
        "parameters": kit.checksum(*(t.detach().cpu().numpy() for t in tensors)),
    }


def limits():
    def take(count):
        return torch.empty(count, dtype=torch.uint8, device="cuda")

    total = torch.cuda.mem_get_info()[1]
    return {"total": total, **kit.fill(take, torch.cuda.OutOfMemoryError)}


def one_of_two(rank, port, answers):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.cuda.set_device(rank)
    torch.distributed.init_process_group("nccl", rank=rank, world_size=2)
    net = torch.nn.parallel.DistributedDataParallel(prepare(f"cuda:{rank}"), device_ids=[rank])
    data = list(batches(0, f"cuda:{rank}"))[rank::2]
    answers.put((rank, numbers(net, train(net, data)), torch.cuda.mem_get_info()[1]))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def ddp():
    if torch.cuda.device_count() < 2:
        kit.skip("needs two GPUs")
    context = torch.multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    port = 20000 + os.getpid() % 20000
    processes = [
        context.Process(target=one_of_two, args=(rank, port, answers)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    found = sorted((answers.get() for _ in processes), key=lambda answer: answer[0])
    for process in processes:
        process.join()
    results = {f"rank {rank}": result for rank, result, _ in found}
    kit.finish(results, version=torch.__version__, total=found[0][2])


def main():
    mode = sys.argv[1]
    if not torch.cuda.is_available():
        kit.skip("PyTorch finds no GPU")
    if mode == "ddp":
        ddp()
        return
    net = prepare("cuda")
    data = batches(2 if mode == "workers" else 0, "cuda")
    if mode == "compile":
        losses = train(torch.compile(net), data)
    elif mode == "graphs":
        losses = train_by_graph(net, data)
    else:
        losses = train(net, data)
    results = numbers(net, losses)
    kit.finish(results, version=torch.__version__, **limits())


if __name__ == "__main__":
    main()
