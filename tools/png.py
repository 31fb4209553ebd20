"""PNG of 8 bits per channel, read; and written small, with a palette."""

import collections
import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Bytes of a pixel by its colour type.
CHANNELS = {2: 3, 3: 1, 6: 4}
# So many colours stay as they are; of the others those with this squared distance from all of the palette.
EXACT, ALIKE = 64, 300


# Head of a text chunk: its keyword, packed, of no language (PNG specification, 11.3.3.4).
ABOUT = b"Description\0\1\0\0\0"


def _chunks(path):
    data = path.read_bytes()
    if not data.startswith(SIGNATURE):
        raise ValueError(f"{path}: no PNG")
    at = len(SIGNATURE)
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8:at + 8 + length]
        if zlib.crc32(kind + body) != struct.unpack_from(">I", data, at + 8 + length)[0]:
            raise ValueError(f"{path}: wrong sum of {kind}")
        yield kind, body
        at += 12 + length


def about(path):
    """The text that write() was given."""
    return next((zlib.decompress(body[len(ABOUT):]).decode() for kind, body in _chunks(path)
                 if kind == b"iTXt" and body.startswith(ABOUT)), "")


def read(path):
    """Lines of (red, green, blue, alpha). Fails on what is broken, interlaced, or of another depth."""
    packed, palette = b"", []
    for kind, body in _chunks(path):
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", body)
        elif kind == b"PLTE":
            palette = [(*body[i:i + 3], 255) for i in range(0, len(body), 3)]
        elif kind == b"tRNS":
            palette = [(*entry[:3], alpha) for entry, alpha in zip(palette, body)] + palette[len(body):]
        elif kind == b"IDAT":
            packed += body
    if depth != 8 or interlaced or colour not in CHANNELS:
        raise ValueError(f"{path}: depth {depth}, colour type {colour}, interlaced {interlaced}")
    size = CHANNELS[colour]
    stored = zlib.decompress(packed)
    line, lines = bytes(width * size), []
    for begin in range(0, height * (width * size + 1), width * size + 1):
        line = _unfiltered(stored[begin], stored[begin + 1:begin + 1 + width * size], line, size)
        alpha = line[3::4] if size == 4 else bytes([255]) * width
        lines.append([palette[i] for i in line] if size == 1 else
                     list(zip(line[0::size], line[1::size], line[2::size], alpha)))
    return lines


def _unfiltered(kind, row, above, size):
    """A line, from what was stored and the line above it (PNG specification, 9.2)."""
    if kind == 0:
        return row
    if kind == 2:
        return bytes([(a + b) & 255 for a, b in zip(row, above)])
    row = bytearray(row)
    for i, value in enumerate(row):
        left = row[i - size] if i >= size else 0
        if kind == 1:
            guess = left
        elif kind == 3:
            guess = (left + above[i]) >> 1
        else:
            up, corner = above[i], above[i - size] if i >= size else 0
            by_left, by_up, by_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
            guess = (left if by_left <= by_up and by_left <= by_corner else
                     up if by_up <= by_corner else corner)
        row[i] = (value + guess) & 255
    return bytes(row)


def write(path, lines, words):
    """With at most 256 colours: the most frequent, and those unlike them. Others become the nearest of these.
    words: what the picture shows."""
    counted = collections.Counter(pixel for line in lines for pixel in line)
    palette, index = [], {}
    for pixel, _ in counted.most_common():
        near, at = min(((_distance(pixel, other), i) for i, other in enumerate(palette)), default=(ALIKE, 0))
        if len(palette) < EXACT or (near >= ALIKE and len(palette) < 256):
            at = len(palette)
            palette.append(pixel)
        index[pixel] = at
    stored = b"".join(b"\0" + bytes([index[pixel] for pixel in line]) for line in lines)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", len(lines[0]), len(lines), 8, 3, 0, 0, 0)),
              (b"iTXt", ABOUT + zlib.compress(words.encode(), 9)),
              (b"PLTE", b"".join(bytes(pixel[:3]) for pixel in palette)),
              (b"tRNS", bytes(pixel[3] for pixel in palette)),
              (b"IDAT", zlib.compress(stored, 9)), (b"IEND", b""))
    path.write_bytes(SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks))


def _distance(one, other):
    return sum((a - b) ** 2 for a, b in zip(one, other))
