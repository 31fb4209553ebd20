#!/usr/bin/env python3
"""Compares two versions of cuda.h (or of nvml.h) and says what has to be decided for the newer.

    surface_diff.py OLD NEW [--cxx g++]

New functions are printed as rows for data/surface, the decision left open ("?", with "memory?" in
front of those whose name speaks of memory or work); those that have a row there, with what was decided.
Changed signatures and structures are printed old beside new, new enumerators by enum. Exit status 0,
whatever was found; 2 on wrong use, and where one of the two is no such header.
"""

import argparse
import pathlib
import re
import subprocess

import cuda_header

SURFACE = pathlib.Path(__file__).resolve().parents[1] / "data/surface"
SUSPECT = re.compile(r"Alloc|Create|Launch|Import|Map|Load|Reserve|Pool|Graph.*Instantiate")


def heading(title, count):
    print(f"\n{title}: {count}")


def decisions():
    """{symbol: decision and reason} of data/surface."""
    lines = [line.split("\t") for path in SURFACE.glob("*.tsv")
             for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    return {cells[0]: f"{cells[2]}\t{cells[3]}" for cells in lines}


def print_functions(old, new, since):
    decided, removed = decisions(), sorted(old.keys() - new.keys())
    known = sorted((new.keys() - old.keys()) & decided.keys())
    added = sorted(new.keys() - old.keys() - decided.keys())
    heading("New functions to be decided, as rows for data/surface", len(added))
    families = {cuda_header.stem(name) for name in old}
    for name in added:
        hint = "memory? " if SUSPECT.search(name) else ""
        hint += "new version of a known function; " if cuda_header.stem(name) in families else ""
        print(f"{name}\t{since}\t?\t{hint}({new[name]})")
    heading("New functions, decided in data/surface already", len(known))
    for name in known:
        print(f"{name}\t{decided[name]}")
    heading("Functions that are gone (drivers keep them; keep their rows)", len(removed))
    for name in removed:
        print(f"{name}({old[name]})")
    changed = sorted(name for name in old.keys() & new.keys() if old[name] != new[name])
    heading("Same name, other parameters (names of parameters count)", len(changed))
    for name in changed:
        print(f"{name}\n  old ({old[name]})\n  new ({new[name]})")


def print_enumerators(old, new):
    added = {enum: [value for value in values if value not in old.get(enum, [])]
             for enum, values in new.items()}
    added = {enum: values for enum, values in added.items() if values}
    heading("Enums with new enumerators", len(added))
    for enum, values in sorted(added.items()):
        print(f"{enum}: {', '.join(values)}")


def print_structures(old, new):
    changed = sorted(name for name in old.keys() & new.keys() if old[name] != new[name])
    heading("Structures that changed", len(changed))
    for name in changed:
        print(f"{name}\n  old {{ {old[name]} }}\n  new {{ {new[name]} }}")
    added = sorted(new.keys() - old.keys())
    heading("New structures", len(added))
    print(", ".join(added) or "-")


def read(path, cxx, parser):
    """(the preprocessed text of a header that declares something, its CUDA_VERSION)."""
    try:
        with open(path, encoding="utf-8") as file:
            version = re.search(r"#define CUDA_VERSION (\d+)", file.read())
        text = cuda_header.preprocess(path, cxx)
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    except subprocess.CalledProcessError as error:
        parser.error(error.stderr.splitlines()[0])
    if not cuda_header.functions(text):
        parser.error(f"{path}: it declares no function of cuda.h or nvml.h")
    return text, version[1] if version else "0"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--cxx", default="g++")
    args = parser.parse_args()
    (old, _), (new, version) = (read(path, args.cxx, parser) for path in (args.old, args.new))
    print_functions(cuda_header.functions(old), cuda_header.functions(new), version)
    print_enumerators(cuda_header.enumerators(old), cuda_header.enumerators(new))
    print_structures(cuda_header.structures(old), cuda_header.structures(new))


if __name__ == "__main__":
    main()
