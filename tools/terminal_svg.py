#!/usr/bin/env python3
"""Runs a program at a terminal of its own and draws what stands there as SVG.

    terminal_svg.py [--size 80x24] [--seconds 3] [--keys q] [--title TEXT] OUT.svg COMMAND...

The picture is taken when the program ends, or after so many seconds; then the keys are typed.
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from terminal import Session  # noqa: E402


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--size", default="80x24")
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--keys", default="")
    parser.add_argument("--title", default="")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    width, height = (int(n) for n in options.size.split("x"))
    session = Session(options.command, width, height)
    session.watch(options.seconds)
    options.out.write_text(session.screen.svg(options.title))
    if options.keys:
        session.type(options.keys)
    status = session.status(5)
    session.close()
    return 0 if status == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
