#!/usr/bin/env python3
"""The documents of the packages that are made from other sources (manual.py makes the manual).

documents.py changelog PACKAGE VERSION MAINTAINER CHANGELOG.md OUTPUT   Debian's form of it, gzipped

The date is SOURCE_DATE_EPOCH, or today.
"""
import email.utils
import gzip
import os
import pathlib
import re
import sys
import textwrap
import time

NOW = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))


def write(output, text):
    with open(output, "wb") as file:
        with gzip.GzipFile("", "wb", 9, file, mtime=0) as zipped:
            zipped.write(text.encode())


def changelog(package, version, maintainer, source, output):
    text = pathlib.Path(source).read_text(encoding="utf-8")
    entries = []
    for number, rest in re.findall(r"^## (\S+)[^\n]*\n(.*?)(?=^## |\Z)", text, re.M | re.S):
        lines = [f"{package} ({version if not entries else number}) unstable; urgency=medium", ""]
        for item in re.findall(r"^- (.*?)(?=^- |^$|\Z)", rest, re.M | re.S):
            words = re.sub(r"\s+", " ", item).strip()
            lines += textwrap.wrap(words, 78, initial_indent="  * ", subsequent_indent="    ")
        date = email.utils.formatdate(NOW).replace("-0000", "+0000")
        entries.append("\n".join(lines + ["", f" -- {maintainer}  {date}", ""]))
    write(output, "\n".join(entries))


if __name__ == "__main__":
    {"changelog": changelog}[sys.argv[1]](*sys.argv[2:])
