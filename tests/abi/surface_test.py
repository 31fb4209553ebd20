#!/usr/bin/env python3
"""Holds the hooks of libsoftmig.so against data/surface, which says of every driver symbol what is
done about it: hook (ours stands before it), pass (the driver's own answers), later (to be hooked;
the reason says for what, or which gap is open until then).

    surface_test.py --source DIR --library LIB [--headers DIR] [--drivers DIR] [--driver LIB]... [--cxx g++]
    surface_test.py --self-test

Fails on a symbol that nobody classified, on a hook that the library lacks, on an exported driver
symbol that is no hook, on a registry row that names another function than its own, and on a hook
with a version (_v2, _v3, _ptsz, _ptds) that is not hooked too. --headers is the cache of real
headers that tests/abi/fetch_headers.sh makes, --drivers that of drivers which tests/abi/fetch_drivers.sh
makes (it is called here), --driver a libcuda.so.1 or libnvidia-ml.so.1.
"""

import argparse
import pathlib
import re
import subprocess
import sys
from typing import NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))
import cuda_header  # noqa: E402
import registry  # noqa: E402

DECISIONS = {"hook", "pass", "later"}

class Decision(NamedTuple):
    """One row of data/surface. since: CUDA version, e.g. 12050; 0: not known, for NVML <= 12.0."""
    since: int
    decision: str
    reason: str


def read_table(path, problems):
    """{symbol: Decision}; what is wrong with the file goes to problems."""
    table, last = {}, ""
    lines = path.read_text().splitlines()
    if lines[0] != "symbol\tsince\tdecision\treason":
        problems.append(f"{path.name}: the first line is not the heading")
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if len(cells) != 4 or not cells[1].isdigit() or cells[2] not in DECISIONS or not cells[3]:
            problems.append(f"{path.name}:{number}: not 'symbol, since, {DECISIONS}, reason'")
            continue
        if cells[0] <= last:
            problems.append(f"{path.name}:{number}: {cells[0]} is not in order, or there twice")
        last = cells[0]
        table[cells[0]] = Decision(int(cells[1]), cells[2], cells[3])
    return table


def exported(library):
    """The driver symbols that a library defines for others."""
    output = subprocess.run(["nm", "-D", "--defined-only", library], check=True,
                            capture_output=True, text=True).stdout
    names = {line.split()[-1].split("@")[0] for line in output.splitlines()}
    return {name for name in names if re.match(r"(cu|nvml)[A-Z]", name)}


def check_exports(table, symbols):
    """Hooks that are missing, exports that are no hook."""
    for name, row in table.items():
        if row.decision == "hook" and name not in symbols:
            yield f"{name}: data/surface says hook, the library has none"
    for name in sorted(symbols):
        if name not in table:
            yield f"{name}: exported, but not in data/surface"
        elif table[name].decision != "hook":
            yield f"{name}: exported, but data/surface says {table[name].decision}"


# Half of the slots of the indices of src/hook/registry.cc.
MOST_ROWS = 512


def check_registry(table, symbols, rows):
    """The registry and the exports must be the same set, each row true to its function."""
    names = [row.name for row in rows]
    if len(rows) > MOST_ROWS:
        yield f"{len(rows)} rows: the indices of src/hook/registry.cc are made for {MOST_ROWS}"
    for row in rows:
        if row.function != row.name:
            yield f"{row.name}: its registry row points to {row.function}"
        since = table[row.name].since if row.name in table else row.since
        if row.name.startswith("cu") and row.since != since:
            yield f"{row.name}: SM_HOOK says since {row.since}, data/surface {since}"
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{name}: more than one registry row"
    for name in sorted(symbols - set(names)):
        yield f"{name}: exported without a registry row: cuGetProcAddress and dlsym miss it"
    for name in sorted(set(names) - symbols):
        yield f"{name}: has a registry row, but is not exported"


def is_gap(row):
    """Known to be open, and said in the reason."""
    return row.decision == "later" and row.reason.startswith("gap:")


def check_siblings(table):
    """All versions of a hooked function must be hooked, or said to be a gap."""
    families = {}
    for name in table:
        families.setdefault(cuda_header.stem(name), []).append(name)
    for members in families.values():
        hooked = [name for name in members if table[name].decision == "hook"]
        for name in members if hooked else []:
            if name not in hooked and not is_gap(table[name]):
                yield f"{name}: not hooked, but its sibling {hooked[0]} is"


def check_known(table, names, where):
    """Symbols that exist and that data/surface does not know."""
    for name in sorted(names - table.keys()):
        yield f"{name}: known from {where}, not in data/surface"


def drivers_of(folder):
    """The libraries of drivers in the cache; what can be fetched is."""
    script = pathlib.Path(__file__).with_name("fetch_drivers.sh")
    if subprocess.run([script, folder], check=False).returncode != 0:
        print("skipped: not every driver could be had")
    return sorted(folder.glob("*/*.so.1"))


def self_test():
    """Each check must notice its own fault -> problems."""
    hook, let = Decision(3020, "hook", "r"), Decision(2000, "pass", "r")
    later = Decision(2000, "later", "r")
    row = registry.Row("cuMemAlloc_v2", "cuMemAlloc_v2", 3020)
    faults = {
        "missing hook": check_exports({"cuMemAlloc_v2": hook}, set()),
        "pass exported": check_exports({"cuInit": let}, {"cuInit"}),
        "later exported": check_exports({"cuLaunch": later}, {"cuLaunch"}),
        "unknown export": check_exports({}, {"cuNew"}),
        "sibling": check_siblings({"cuMemAlloc": let, "cuMemAlloc_v2": hook}),
        "stream sibling": check_siblings({"cuMemFreeAsync": hook, "cuMemFreeAsync_ptsz": let}),
        "sibling for later": check_siblings({"cuMemAlloc": later, "cuMemAlloc_v2": hook}),
        "unknown symbol": check_known({}, {"cuAnything"}, "x"),
        "no row": check_registry({}, {"cuInit"}, []),
        "no export": check_registry({}, set(), [row]),
        "too many": check_registry({}, {row.name}, [row] * (MOST_ROWS + 1)),
        "twice": check_registry({}, {row.name}, [row, row]),
        "other function": check_registry({}, {row.name}, [row._replace(function="cuMemAlloc")]),
        "since": check_registry({row.name: hook}, {row.name}, [row._replace(since=2000)]),
    }
    clean = {
        "gap": check_siblings({"cuMemAlloc": later._replace(reason="gap: x"), "cuMemAlloc_v2": hook}),
        "hook": check_exports({"cuMemAlloc_v2": hook}, {"cuMemAlloc_v2"}),
        "siblings": check_siblings({"cuMemAlloc_v2": hook, "cuMemAllocAsync": let}),
        "known symbol": check_known({"cuInit": let}, {"cuInit"}, "x"),
        "row": check_registry({row.name: hook}, {row.name}, [row]),
    }
    return ([f"not noticed: {name}" for name, found in faults.items() if not list(found)] +
            [f"wrongly reported: {name}" for name, found in clean.items() if list(found)])


def check_all(args):
    """All checks on the real files -> problems."""
    problems = []
    tables = {name: read_table(args.source / "data/surface" / f"{name}.tsv", problems)
              for name in ("cuda", "nvml")}
    table = tables["cuda"] | tables["nvml"]
    for header in sorted(args.headers.glob("*/*.h")) if args.headers else []:
        names = cuda_header.functions(cuda_header.preprocess(header, args.cxx)).keys()
        problems += check_known(table, names, header.parent.name)
    drivers = args.driver + (drivers_of(args.drivers) if args.drivers else [])
    for driver in drivers:
        names = exported(driver)
        print(f"{driver}: {len(names)} symbols")
        problems += check_known(table, names, driver)
    problems += check_siblings(table)
    symbols = exported(args.library)
    problems += check_exports(table, symbols)
    problems += check_registry(table, symbols, registry.read(args.library))
    gaps = sorted(n for n, r in table.items() if is_gap(r))
    print(f"{len(table)} symbols known, {len(symbols)} hooked, {len(gaps)} gaps open:",
          ", ".join(gaps))
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=pathlib.Path)
    parser.add_argument("--library")
    parser.add_argument("--headers", type=pathlib.Path)
    parser.add_argument("--drivers", type=pathlib.Path)
    parser.add_argument("--driver", action="append", default=[])
    parser.add_argument("--cxx", default="g++")
    parser.add_argument("--self-test", action="store_true")
    args = parser.parse_args()
    problems = self_test() if args.self_test else check_all(args)
    for problem in problems:
        print("FAIL", problem)
    print(f"{len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
