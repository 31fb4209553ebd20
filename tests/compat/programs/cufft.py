"""cufft.py: transforms of cuFFT, forward and back."""

import ctypes

import kit

C2C, FORWARD, INVERSE = 0x29, -1, 1


def main():
    cufft = kit.library("libcufft.so.12")
    card = kit.Card()
    version = ctypes.c_int()
    kit.check(cufft.cufftGetVersion(ctypes.byref(version)), "cufftGetVersion")
    results = {}
    for length, batch in ((1 << 16, 1), (1000, 64), (97, 100)):
        plan = ctypes.c_int()
        kit.check(cufft.cufftPlan1d(ctypes.byref(plan), length, C2C, batch), "cufftPlan1d")
        data = card.put(kit.floats(2 * length * batch, 3))
        for direction in (FORWARD, INVERSE, FORWARD):
            kit.check(cufft.cufftExecC2C(plan, data, data, direction), "cufftExecC2C")
        card.wait()
        results[f"{length} x {batch}"] = kit.checksum(card.get(data, 8 * length * batch))
        kit.check(cufft.cufftDestroy(plan), "cufftDestroy")
    kit.finish(results, version=str(version.value), **card.limits())


if __name__ == "__main__":
    main()
