#!/usr/bin/env python3
"""Writes what the door tests need from data/surface.

    names.py SURFACE_DIR OUT_DIR

names.txt      every driver symbol, a line each
bases.txt      the names that cuGetProcAddress knows: those without _v2, _ptsz and the like
names.inc      NAME(symbol) for each
link_stub.c    a libcuda.so.1 that a program can be linked with where no driver is installed
"""

import pathlib
import re
import sys


def main():
    surface, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    names = []
    for table in sorted(surface.glob("*.tsv")):
        names += [line.split("\t")[0] for line in table.read_text().splitlines()[1:]]
    bases = dict.fromkeys(re.sub(r"(_v\d+)?(_ptsz|_ptds)?$", "", name) for name in names
                          if name.startswith("cu"))
    out.mkdir(parents=True, exist_ok=True)
    (out / "names.txt").write_text("".join(f"{name}\n" for name in names))
    (out / "bases.txt").write_text("".join(f"{name}\n" for name in bases))
    (out / "names.inc").write_text("".join(f"NAME({name})\n" for name in names))
    (out / "link_stub.c").write_text(
        "".join(f"int {name}(void);\nint {name}(void) {{ return 34; }}\n" for name in names))


if __name__ == "__main__":
    main()
