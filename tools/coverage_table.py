#!/usr/bin/env python3
"""The summary of llvm-cov on standard input, by folder of src.

  llvm-cov export -summary-only ... | coverage_table.py SOURCE
"""

import collections
import json
import os
import sys


def main():
    source = os.path.join(os.path.abspath(sys.argv[1]), "src")
    lines = collections.defaultdict(lambda: [0, 0])
    for entry in json.load(sys.stdin)["data"][0]["files"]:
        folder = os.path.relpath(entry["filename"], source).split(os.sep)[0]
        if folder == "..":
            continue
        count = entry["summary"]["lines"]
        for name in (folder, "total"):
            lines[name][0] += count["covered"]
            lines[name][1] += count["count"]
    for name in sorted(lines, key=lambda n: (n == "total", n)):
        covered, count = lines[name]
        print(f"{name:<8} {covered:6} of {count:6} lines  {100 * covered / count:5.1f} %")


if __name__ == "__main__":
    main()
