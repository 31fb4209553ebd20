"""nvrtc.py [WHEEL]: a kernel compiled by NVRTC, of the machine or of a wheel, and launched."""

import ctypes
import glob
import sys
import tempfile
import zipfile

import kit

SOURCE = b"""
extern "C" __global__ void scale(float* data, int count, float factor) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) data[i] = data[i] * factor + __sinf(data[i]);
}
"""
COUNT = 1 << 16


def open_library(folder):
    if len(sys.argv) < 2:
        return kit.library("libnvrtc.so.13")
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        for name in wheel.namelist():
            if "/lib/libnvrtc" in name and ".alt." not in name:
                wheel.extract(name, folder)
    # The builtins are opened by name; whoever is loaded already is taken.
    for builtins in glob.glob(f"{folder}/nvidia/*/lib/libnvrtc-builtins.so.*"):
        ctypes.CDLL(builtins)
    return ctypes.CDLL(glob.glob(f"{folder}/nvidia/*/lib/libnvrtc.so.*")[0])


def compiled(nvrtc):
    """PTX of the kernel."""
    program = ctypes.c_void_p()
    made = nvrtc.nvrtcCreateProgram(ctypes.byref(program), SOURCE, b"scale.cu", 0, None, None)
    kit.check(made, "nvrtcCreateProgram")
    options = (ctypes.c_char_p * 1)(b"--gpu-architecture=compute_80")
    kit.check(nvrtc.nvrtcCompileProgram(program, 1, options), "nvrtcCompileProgram")
    size = ctypes.c_size_t()
    kit.check(nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size)), "nvrtcGetPTXSize")
    ptx = ctypes.create_string_buffer(size.value)
    kit.check(nvrtc.nvrtcGetPTX(program, ptx), "nvrtcGetPTX")
    return ptx


def main():
    with tempfile.TemporaryDirectory() as folder:
        nvrtc = open_library(folder)
        major, minor = ctypes.c_int(), ctypes.c_int()
        kit.check(nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "nvrtcVersion")
        ptx = compiled(nvrtc)
    card = kit.Card()
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    kit.check(card.driver.cuModuleLoadData(ctypes.byref(module), ptx), "cuModuleLoadData")
    found = card.driver.cuModuleGetFunction(ctypes.byref(function), module, b"scale")
    kit.check(found, "cuModuleGetFunction")
    data = card.put(kit.floats(COUNT, 5))
    count, factor = ctypes.c_int(COUNT), ctypes.c_float(1.5)
    arguments = (ctypes.c_void_p * 3)(*(ctypes.addressof(a) for a in (data, count, factor)))
    for _ in range(10):
        launched = card.driver.cuLaunchKernel(
            function, COUNT // 256, 1, 1, 256, 1, 1, 0, None, arguments, None
        )
        kit.check(launched, "cuLaunchKernel")
    card.wait()
    results = {"scale": kit.checksum(card.get(data, 4 * COUNT))}
    kit.finish(results, version=f"{major.value}.{minor.value}", **card.limits())


if __name__ == "__main__":
    main()
