#!/bin/bash
# Runs clang-tidy over all our sources, as many at a time as there are processors.
#
#   check_tidy.sh FOLDER [PATTERN]    a configured build folder; only sources whose path matches
#
# Exit status: 0 no findings, 1 findings, 77 clang-tidy is not installed.
set -euo pipefail
shopt -s inherit_errexit

if [ $# -eq 0 ]; then
  echo "usage: $0 FOLDER [PATTERN]" >&2
  exit 2
fi
folder=$1
pattern=${2:-.}
if ! command -v clang-tidy >/dev/null; then
  echo "skipped: clang-tidy is not installed"
  exit 77
fi
# Each source once, though several targets may compile it.
mapfile -t sources < <(python3 - "$folder/compile_commands.json" "$pattern" <<'PYTHON'
import json, os, re, sys
root = os.getcwd() + os.sep
files = {entry["file"] for entry in json.load(open(sys.argv[1], encoding="utf-8"))}
for file in sorted(files):
    if file.startswith((root + "src", root + "sim")) and re.search(sys.argv[2], file):
        print(file)
PYTHON
)
printf '%s\0' "${sources[@]}" | xargs -0 -P "$(nproc)" -n 1 clang-tidy -p "$folder" --quiet
echo "${#sources[@]} sources without findings"
