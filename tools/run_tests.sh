#!/bin/bash
# Runs the tests of a build folder and counts them.
#
#   run_tests.sh FOLDER [CTEST OPTIONS...]
#
# The last line is "N passed, N failed". Skipped tests are named before it and count as neither. Exit
# status: 0 if something passed and nothing failed, else 1.
set -euo pipefail
shopt -s inherit_errexit

if [ $# -eq 0 ]; then
  echo "usage: $0 FOLDER [CTEST OPTIONS...]" >&2
  exit 2
fi
folder=$1
shift
reports=$(mktemp -d)
trap 'rm -rf "$reports"' EXIT

run() {
  local report=$1
  shift
  ctest --test-dir "$folder" --output-on-failure --no-tests=ignore --output-junit "$report" "$@" \
    </dev/null || true
}

run "$reports/all" --parallel "$(nproc)" --label-exclude 'timed|waits' "$@"
# What has a Slurm or an agent of its own mostly waits for it: two Slurms and an agent at a time.
run "$reports/waits" --parallel 3 --label-regex waits --repeat until-pass:2 "$@"
# What waits for a clock runs alone, and may lose against a busy machine once, not twice.
run "$reports/timed" --label-regex timed --repeat until-pass:2 "$@"

# ctest itself may have failed before it wrote a report.
python3 - "$reports/all" "$reports/waits" "$reports/timed" <<'PYTHON'
import sys
import xml.etree.ElementTree as tree


def cases_of(report):
    try:
        return tree.parse(report).getroot().findall("testcase")
    except (OSError, tree.ParseError):
        return []


cases = [case for report in sys.argv[1:] for case in cases_of(report)]
kinds = {"run": [], "fail": [], "notrun": [], "disabled": []}
for case in cases:
    kinds.setdefault(case.get("status"), []).append(case)
skipped = [case for case in kinds["notrun"] + kinds["disabled"] if case.find("skipped") is not None]
failed = len(cases) - len(kinds["run"]) - len(skipped) + (not cases_of(sys.argv[1]))
for case in skipped:
    print("skipped:", case.get("name"))
print(f'{len(kinds["run"])} passed, {failed} failed')
sys.exit(0 if kinds["run"] and failed == 0 else 1)
PYTHON
