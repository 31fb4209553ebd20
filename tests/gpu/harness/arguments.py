"""Options that the programs of tests and bench share, so that a slip is one line and status 2: argparse
names the option and what was typed."""

import argparse
import os
import re
import subprocess
import sys

# Asked of the driver in a process of its own: ours has none, and forks.
COUNT_GPUS = """
import ctypes
try:
    driver = ctypes.CDLL("libcuda.so.1")
except OSError as error:
    raise SystemExit(error)
count = ctypes.c_int()
result = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
raise SystemExit(f"the driver gave {result}" if result or not count.value else 0)
"""


def expression(text):
    """A regular expression, as it was typed."""
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f'"{text}" is no regular expression: {error}') from None
    return text


def build_folder(text):
    """A folder in which SoftMig was built."""
    if not os.path.exists(os.path.join(text, "libsoftmig.so")):
        raise argparse.ArgumentTypeError(f'"{text}" has no libsoftmig.so: build it first')
    return text


def node(text):
    """GPUs of a simulated node, in the words of sim/state/settings.h."""
    group = r"\d+x\d+[KMG]?(:\w+)?"
    if not re.fullmatch(rf"{group}(\+{group})*(,\w+=\d+[KMG]?)*", text):
        raise argparse.ArgumentTypeError(f'"{text}" is not COUNTxSIZE, e.g. 1x80G')
    return text


def above_zero(text):
    """A number of seconds, minutes or rounds."""
    try:
        number = float(text)
    except ValueError:
        number = 0
    if number <= 0:
        raise argparse.ArgumentTypeError(f'"{text}" is not a number above 0')
    return int(number) if re.fullmatch(r"\d+", text) else number


def counts(text):
    """Whole numbers with commas between, as a list."""
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise argparse.ArgumentTypeError(f'"{text}" is not a list of numbers, e.g. 1,8,64')
    return [int(number) for number in text.split(",")]


def parser_of(description):
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_place(parser):
    """--build, --real or --sim, --sim-version: where something runs."""
    parser.add_argument("--build", default="build", type=build_folder, metavar="DIR",
                        help="build folder; build")  # fmt: skip
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--real", action="store_true", help="on the card")
    where.add_argument("--sim", metavar="NxSIZE", type=node, help="on a simulated node, e.g. 1x80G")
    parser.add_argument("--sim-version", default="13.0", choices=("12.0", "12.4", "13.0"),
                        help="export set of the simulated driver")  # fmt: skip


def needs_build(parser, build):
    """For programs with options that need no build, --list for example."""
    try:
        build_folder(build)
    except argparse.ArgumentTypeError as error:
        parser.error(f"argument --build: {error}")


def needs_gpu(options):
    """Ends the program where --real finds no GPU."""
    if not options.real:
        return
    probe = subprocess.run([sys.executable, "-S", "-c", COUNT_GPUS], capture_output=True, text=True,
                           check=False)  # fmt: skip
    if probe.returncode != 0:
        sys.exit(f"{os.path.basename(sys.argv[0])}: no GPU here: {probe.stderr.strip()}")


def matching(parser, only, items, names=lambda item: (item,)):
    """Those of `items` that have a name which `only` finds. None at all is a slip of whoever typed it."""
    found = [item for item in items if not only or any(re.search(only, one) for one in names(item))]
    if not found:
        parser.error(f'argument --only: "{only}" matches nothing')
    return found
