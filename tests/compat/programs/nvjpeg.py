"""nvjpeg.py WHEEL: a picture encoded by the nvJPEG of a wheel.

That library has the CUDA runtime of its version inside, linked statically: the one way to a static
cudart of CUDA 12.0 to 12.8, whose packages have the shared one alone.
"""

import ctypes
import glob
import sys
import tempfile
import zipfile

import kit

SIDE = 512
CSS_444, INPUT_RGBI = 0, 5


class Image(ctypes.Structure):
    """nvjpegImage_t"""

    _fields_ = [("channel", ctypes.c_uint64 * 4), ("pitch", ctypes.c_size_t * 4)]


def open_library(folder):
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        for name in wheel.namelist():
            if "/lib/libnvjpeg.so" in name:
                wheel.extract(name, folder)
    return ctypes.CDLL(glob.glob(f"{folder}/nvidia/*/lib/libnvjpeg.so.*")[0])


def picture():
    """Interleaved RGB: a gradient and a grid."""
    row = [bytes((x & 255, y & 255, (x * y) & 255)) for y in range(64) for x in range(SIDE)]
    return b"".join(row) * (SIDE // 64)


def encode(nvjpeg, card):
    handle, state, parameters = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()

    def call(name, *arguments):
        kit.check(getattr(nvjpeg, name)(*arguments), name)

    call("nvjpegCreateSimple", ctypes.byref(handle))
    call("nvjpegEncoderStateCreate", handle, ctypes.byref(state), None)
    call("nvjpegEncoderParamsCreate", handle, ctypes.byref(parameters), None)
    call("nvjpegEncoderParamsSetQuality", parameters, 90, None)
    call("nvjpegEncoderParamsSetSamplingFactors", parameters, CSS_444, None)
    image = Image()
    image.channel[0] = card.put(picture()).value
    image.pitch[0] = 3 * SIDE
    length = ctypes.c_size_t()
    source = ctypes.byref(image)
    call("nvjpegEncodeImage", handle, state, parameters, source, INPUT_RGBI, SIDE, SIDE, None)
    call("nvjpegEncodeRetrieveBitstream", handle, state, None, ctypes.byref(length), None)
    card.wait()
    stream = ctypes.create_string_buffer(length.value)
    call("nvjpegEncodeRetrieveBitstream", handle, state, stream, ctypes.byref(length), None)
    card.wait()
    return stream.raw


def main():
    card = kit.Card()
    with tempfile.TemporaryDirectory() as folder:
        nvjpeg = open_library(folder)
        number = ctypes.c_int()
        parts = []
        for part in (0, 1):  # MAJOR_VERSION, MINOR_VERSION
            code = nvjpeg.nvjpegGetCudartProperty(part, ctypes.byref(number))
            kit.check(code, "nvjpegGetCudartProperty")
            parts.append(number.value)
        stream = encode(nvjpeg, card)
    results = {"bytes": len(stream), "jpeg": kit.checksum(stream)}
    kit.finish(results, version=".".join(map(str, parts)), **card.limits())


if __name__ == "__main__":
    main()
