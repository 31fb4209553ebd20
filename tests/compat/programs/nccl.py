"""nccl.py: an all-reduce of NCCL by one process over all GPUs that it sees, be it one."""

import ctypes

import kit

COUNT = 1 << 20
FLOAT32, SUM = 7, 0


def main():
    nccl = kit.library("libnccl.so.2")
    card = kit.Card()
    number, version = ctypes.c_int(), ctypes.c_int()
    kit.check(card.driver.cuDeviceGetCount(ctypes.byref(number)), "cuDeviceGetCount")
    kit.check(nccl.ncclGetVersion(ctypes.byref(version)), "ncclGetVersion")
    cards = number.value
    communicators = (ctypes.c_void_p * cards)()
    kit.check(nccl.ncclCommInitAll(communicators, cards, None), "ncclCommInitAll")
    contexts, data = [], []
    for index in range(cards):
        context, device = ctypes.c_void_p(), ctypes.c_int()
        kit.check(card.driver.cuDeviceGet(ctypes.byref(device), index), "cuDeviceGet")
        retained = card.driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
        kit.check(retained, "cuDevicePrimaryCtxRetain")
        kit.check(card.driver.cuCtxSetCurrent(context), "cuCtxSetCurrent")
        contexts.append(context)
        data.append(card.put(kit.floats(COUNT, index + 1)))
    for _ in range(5):
        kit.check(nccl.ncclGroupStart(), "ncclGroupStart")
        for index in range(cards):
            kit.check(card.driver.cuCtxSetCurrent(contexts[index]), "cuCtxSetCurrent")
            reduced = nccl.ncclAllReduce(
                data[index], data[index], ctypes.c_size_t(COUNT), FLOAT32, SUM,
                ctypes.c_void_p(communicators[index]), None,
            )
            kit.check(reduced, "ncclAllReduce")
        kit.check(nccl.ncclGroupEnd(), "ncclGroupEnd")
    results = {"cards": cards}
    for index in range(cards):
        kit.check(card.driver.cuCtxSetCurrent(contexts[index]), "cuCtxSetCurrent")
        card.wait()
        results[f"card {index}"] = kit.checksum(card.get(data[index], 4 * COUNT))
    card.use()
    kit.finish(results, version=str(version.value), **card.limits())


if __name__ == "__main__":
    main()
