"""Reads the hook registry of libsoftmig.so: the linker section that SM_HOOK fills.

A row is {const char* name, void* hook, void** next, uint32 since, uint16 library,
uint16 purpose}; the pointers are
still zero in the file, their values stand in the relocations. ELF64, little endian.
"""

import struct
from typing import NamedTuple

_SECTION = "softmig_hooks"
_ROW_BYTES = 32
_RELA, _DYNSYM = 4, 11
# The three relocations of a data pointer, x86-64 and aarch64: against a symbol, or relative.
_SYMBOLIC = {62: {1}, 183: {257}}
_RELATIVE = {62: {8}, 183: {1027}}


class Row(NamedTuple):
    """One SM_HOOK: the name it answers to, the function it stands for, since which CUDA version."""
    name: str
    function: str
    since: int
    library: int


class _Elf:
    def __init__(self, path):
        with open(path, "rb") as file:
            self.data = file.read()
        assert self.data[:6] == b"\x7fELF\x02\x01", "not a 64-bit little-endian ELF file"
        self.machine = struct.unpack_from("<H", self.data, 18)[0]
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

    def relocations(self):
        """Yields (address, type, symbol index, addend)."""
        for section in self.sections:
            if section["type"] == _RELA:
                body = self.data[section["offset"]:section["offset"] + section["size"]]
                for address, info, addend in struct.iter_unpack("<QQq", body):
                    yield address, info & 0xffffffff, info >> 32, addend


def read(path):
    """The rows of the library's registry, [] if it has none."""
    elf = _Elf(path)
    section = next((s for s in elf.sections if s["name"] == _SECTION), None)
    if section is None:
        return []
    symbols = elf.symbols()
    by_address = {address: name for name, address in symbols if address}
    relative, symbolic = {}, {}
    for address, kind, symbol, addend in elf.relocations():
        if kind in _RELATIVE[elf.machine]:
            relative[address] = addend
        elif kind in _SYMBOLIC[elf.machine]:
            symbolic[address] = symbols[symbol][0]
    rows = []
    for offset in range(0, section["size"], _ROW_BYTES):
        address = section["address"] + offset
        since, library = struct.unpack_from("<IH", elf.data, section["offset"] + offset + 24)
        function = symbolic.get(address + 8) or by_address.get(relative.get(address + 8), "?")
        rows.append(Row(elf.text_of_address(relative[address]), function, since, library))
    return rows
