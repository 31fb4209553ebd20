#!/usr/bin/env python3
"""Checks who may include whom.

    check_layers.py [ROOT]      exit status 0: all well, 1: violations, one a line as
                                file:line: "included": rule

The layers of src/, lowest first, each of which may use those below it:

    base < abi < sys < policy* < job < hook < { cuda, nvml }

* policy is arithmetic: base and abi only, no clock and no operating system. agent and cli never see
hook, cuda or nvml; what they share beyond job lies in host. The simulated GPU (sim/) shares nothing
but abi. What enters other processes calls the operating system in sys and hook only; job may lean on
sys.
"""

import pathlib
import re
import sys

MAY_INCLUDE = {
    "base": set(),
    "abi": {"base"},
    "sys": {"base", "abi"},
    "policy": {"base", "abi"},
    "job": {"base", "abi", "sys", "policy"},
    "hook": {"base", "abi", "sys", "policy", "job"},
    "cuda": {"base", "abi", "sys", "policy", "job", "hook"},
    "nvml": {"base", "abi", "sys", "policy", "job", "hook"},
    "host": {"base", "abi", "sys", "policy", "job"},
    "agent": {"base", "abi", "sys", "policy", "job", "host"},
    "cli": {"base", "abi", "sys", "policy", "job", "host"},
    "sim": {"abi"},
}

# Layers of the preload that may not include headers of the operating system.
WITHOUT_OS = {"base", "abi", "policy", "job", "cuda", "nvml"}

# C++ headers that stand for the operating system all the same.
OS_IN_CXX = {"chrono", "condition_variable", "csignal", "ctime", "filesystem", "fstream", "future",
             "iostream", "mutex", "shared_mutex", "thread"}

# Headers of the C library that call nothing.
PLAIN_C = {"assert.h", "ctype.h", "errno.h", "inttypes.h", "limits.h", "stdarg.h", "stddef.h",
           "stdint.h", "stdio.h", "stdlib.h", "string.h"}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def is_os_header(name):
    """Whether a header in angle brackets belongs to the operating system: the names of POSIX and
    Linux ones end in .h, those of C++ do not."""
    return name not in PLAIN_C and (name.endswith(".h") or name in OS_IN_CXX)


def check_line(root, layer, line):
    """The rule that an #include line of a layer breaks, as (included, rule), or None."""
    match = INCLUDE.match(line)
    if not match:
        return None
    kind, name = match.groups()
    if kind == "<":
        if layer in WITHOUT_OS and is_os_header(name):
            return name, f"{layer} may not use the operating system; only sys and hook do"
        return None
    if layer == "sim" and (root / "sim" / name).is_file():
        return None
    target = name.split("/")[0]
    if not (root / "src" / name).is_file():
        return name, "no such file under src/; includes are written from there"
    if target != layer and target not in MAY_INCLUDE[layer]:
        allowed = ", ".join(sorted(MAY_INCLUDE[layer])) or "none of our headers"
        return name, f"{layer} may include only {allowed}"
    return None


def check(root):
    """Yields 'file:line: "included": rule' for every violation under root."""
    for path in sorted([*root.glob("src/**/*"), *root.glob("sim/**/*")]):
        if path.suffix not in {".h", ".cc", ".c", ".def"}:
            continue
        parts = path.relative_to(root).parts
        layer = parts[1] if parts[0] == "src" else "sim"
        if layer not in MAY_INCLUDE:
            yield f'{path.relative_to(root)}:1: "{layer}": not a layer; see tools/check_layers.py'
            continue
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            broken = check_line(root, layer, line)
            if broken:
                yield f'{path.relative_to(root)}:{number}: "{broken[0]}": {broken[1]}'


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    if not (root / "src").is_dir():
        print(f"{root}/src is no folder", file=sys.stderr)
        return 2
    violations = list(check(root))
    for violation in violations:
        print(violation)
    print(f"{len(violations)} violations of the layers")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
