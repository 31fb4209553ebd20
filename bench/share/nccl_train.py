"""One rank of a job on several GPUs: multiplies matrices and sums them over all ranks, by NCCL.

nccl_train.py RANK RANKS PORT SECONDS: after a warm-up, rank 0 prints steps per second as a line of
JSON, with a checksum of the last result. The sum of a step is exact: small whole numbers.
"""

import json
import os
import sys
import time

import torch
import torch.distributed

SIZE = 4096
PRODUCTS = 8  # per step
WARM_UP = 3


def main():
    rank, ranks, port, seconds = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, NCCL_NVLS_ENABLE="0")
    torch.cuda.set_device(rank)
    torch.distributed.init_process_group("nccl", rank=rank, world_size=ranks)
    device = torch.device("cuda", rank)
    left = torch.full((SIZE, SIZE), 2, dtype=torch.float16, device=device)
    right = torch.eye(SIZE, dtype=torch.float16, device=device)
    stop = torch.zeros(1, device=device)

    def step():
        result = left
        for _ in range(PRODUCTS):
            result = result @ right
        torch.distributed.all_reduce(result)
        return result

    for _ in range(WARM_UP):
        step()
    torch.cuda.synchronize()
    begin, steps = time.monotonic(), 0
    while True:
        result = step()
        steps += 1
        # All ranks must end with the same step: rank 0 decides.
        if steps % 8 == 0:
            stop.fill_(float(time.monotonic() - begin > seconds))
            torch.distributed.broadcast(stop, 0)
            if stop.item():
                break
    torch.cuda.synchronize()
    rate = steps / (time.monotonic() - begin)
    if rank == 0:
        right_answer = bool((result == 2 * ranks).all())
        print(json.dumps({"what": "nccl", "rate": rate, "right": right_answer}), flush=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
