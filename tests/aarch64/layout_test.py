#!/usr/bin/env python3
"""Compares the layout of all structures of src/abi between two compilers, by their debug information:
sizes, the place of every member, the value of every enumerator.

    layout_test.py --source DIR --cxx CXX CXX
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile

# Ours, and those of the driver's interfaces; the C library's may differ.
WANTED = re.compile(r"(softmig::|CU|cu[A-Z]|nvml)")
TAG = re.compile(r"<(\d+)><[0-9a-f]+>: Abbrev Number: \d+ \(DW_TAG_(\w+)\)")
ATTRIBUTE = re.compile(r"DW_AT_(\w+)\s*:\s*(.*)")
SCOPES = ("namespace", "structure_type", "union_type", "class_type", "enumeration_type")
PLACES = ("byte_size", "data_member_location", "data_bit_offset", "bit_size", "const_value")


def entries(text):
    """(depth, tag, {attribute: text}) of what readelf prints."""
    entry = None
    for line in text.splitlines():
        if found := TAG.search(line):
            if entry:
                yield entry
            entry = (int(found[1]), found[2], {})
        elif entry and (found := ATTRIBUTE.search(line)):
            # Long names stand elsewhere: "(indirect string, offset: 0x1f): name".
            entry[2][found[1]] = re.sub(r"^\(.*?\): ", "", found[2]).strip()
    if entry:
        yield entry


def layout(text):
    """{"scope::name": [its sizes and places]}"""
    found, path = {}, []
    for depth, tag, attributes in entries(text):
        # The compilation unit has depth 0.
        del path[depth - 1 :]
        path.append(attributes.get("name", f"({tag})"))
        name = "::".join(path)
        figures = [f"{place} {attributes[place]}" for place in PLACES if place in attributes]
        if figures and (tag in SCOPES or tag in ("member", "enumerator")) and WANTED.match(name):
            found.setdefault(name, []).append(", ".join(figures))
    return found


def layout_of(compiler, source):
    with tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, "layout.o")
        subprocess.run(
            [compiler, "-std=c++20", "-g", "-gdwarf-5", "-fno-eliminate-unused-debug-types",
             "-c", "-I", f"{source}/src", "-o", output, f"{source}/tests/aarch64/layout.cc"],
            check=True,
        )  # fmt: skip
        dump = subprocess.run(["readelf", "--debug-dump=info", output], check=True,
                              capture_output=True, text=True)  # fmt: skip
    return layout(dump.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True)
    parser.add_argument("--cxx", nargs=2, required=True)
    options = parser.parse_args()
    one, other = (layout_of(compiler, options.source) for compiler in options.cxx)
    wrong = [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]
    for name in wrong:
        print(f"FAIL {name}: {one.get(name)}, not {other.get(name)}")
    print(f"{len(one)} sizes and places compared, {len(wrong)} differ")
    # A parser that finds nothing would find no difference either.
    return 1 if wrong or not any(name.startswith("softmig::abi::Region::") for name in one) else 0


if __name__ == "__main__":
    sys.exit(main())
