"""Reads the hook registry of libsoftmig.so: the linker section that SM_HOOK fills.

A row is {int32 name, hook, next; int16 since, purpose}; the first three are distances from where they stand to a
text, a function and a pointer. ELF64, little endian.
"""

import struct
from typing import NamedTuple

_SECTION = "softmig_hooks"
_ROW_BYTES = 16
_DYNSYM = 11


class Row(NamedTuple):
    """One SM_HOOK: the name it answers to, the function it stands for, since which CUDA version."""
    name: str
    function: str
    since: int


class _Elf:
    def __init__(self, path):
        with open(path, "rb") as file:
            self.data = file.read()
        assert self.data[:6] == b"\x7fELF\x02\x01", "not a 64-bit little-endian ELF file"
        table, = struct.unpack_from("<Q", self.data, 40)
        size, count, names = struct.unpack_from("<HHH", self.data, 58)
        rows = [struct.unpack_from("<IIQQQQIIQQ", self.data, table + i * size)
                for i in range(count)]
        self.sections = [dict(zip(("name", "type", "flags", "address", "offset", "size", "link",
                                   "info", "align", "entry"), row)) for row in rows]
        for section in self.sections:
            section["name"] = self.text_at(rows[names][4] + section["name"])

    def text_at(self, offset):
        return self.data[offset:self.data.index(b"\0", offset)].decode()

    def text_of_address(self, address):
        for section in self.sections:
            if section["address"] <= address < section["address"] + section["size"]:
                return self.text_at(section["offset"] + address - section["address"])
        raise ValueError(f"no section holds address {address:#x}")

    def symbols(self):
        """[(name, address)] of the dynamic symbols, by index."""
        for section in self.sections:
            if section["type"] == _DYNSYM:
                strings = self.sections[section["link"]]["offset"]
                return [(self.text_at(strings + name), value) for name, value in
                        struct.iter_unpack("<I4xQ8x", self.data[section["offset"]:section["offset"]
                                                                + section["size"]])]
        return []


def read(path):
    """The rows of the library's registry, [] if it has none."""
    elf = _Elf(path)
    section = next((s for s in elf.sections if s["name"] == _SECTION), None)
    if section is None:
        return []
    by_address = {address: name for name, address in elf.symbols() if address}
    rows = []
    for offset in range(0, section["size"], _ROW_BYTES):
        address = section["address"] + offset
        name, hook, _, since, _ = struct.unpack_from("<3i2h", elf.data, section["offset"] + offset)
        rows.append(Row(elf.text_of_address(address + name),
                        by_address.get(address + 4 + hook, "?"), since))
    return rows
