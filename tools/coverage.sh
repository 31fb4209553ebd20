#!/bin/bash
# What the unit tests and the fuzzers' corpora reach of the sources, by clang's coverage.
#
#   coverage.sh FOLDER      builds in FOLDER; the report is FOLDER/html/index.html
#
# Prints the totals for each folder of src; the last line is the total. Code that runs in a preloaded
# process only (hook, cuda, nvml) is not measured: it has no C++ runtime to measure with. Its routes are
# counted by data/surface.
set -euo pipefail
shopt -s inherit_errexit

if [ $# -eq 0 ]; then
  echo "usage: $0 FOLDER" >&2
  exit 2
fi
folder=$1
source=$(cd "$(dirname "$0")/.." && pwd)
export CC=clang-14 CXX=clang++-14
flags="-fprofile-instr-generate -fcoverage-mapping"

cmake -S "$source" -B "$folder" -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS="$flags" \
  -DCMAKE_EXE_LINKER_FLAGS="$flags" -DSOFTMIG_FUZZ_COVERAGE=ON >"$folder.log"
cmake --build "$folder" --parallel "$(nproc)" --target unit_tests cli_units agent_units slurm_units \
  fuzzers >>"$folder.log" 2>&1 || {
  tail -n 30 "$folder.log" >&2
  exit 1
}
rm -f "$folder.log"

profiles="$folder/profiles"
rm -rf "$profiles"
mkdir -p "$profiles"
profiles=$(cd "$profiles" && pwd)
programs=()

# Tests that a coverage build cannot pass (sizes, timings) do not matter here.
for program in "$folder"/tests/unit/unit_tests "$folder"/tests/*/*_units "$folder"/*_units; do
  if [ ! -x "$program" ]; then continue; fi
  programs+=("$program")
  LLVM_PROFILE_FILE="$profiles/%p.profraw" "$program" --gtest_brief=1 >"$profiles/log" 2>&1 ||
    echo "$(basename "$program"): $(grep -c '^\[  FAILED' "$profiles/log") lines of failures" >&2
done
for program in "$folder"/tests/fuzz/*_fuzz; do
  parser=$(basename "$program" _fuzz)
  programs+=("$program")
  LLVM_PROFILE_FILE="$profiles/%p.profraw" "$program" -seed=1 -runs=3000 -max_len=4096 \
    -artifact_prefix="$profiles/" "$(mktemp -d -p "$profiles")" "$source/tests/fuzz/corpus/$parser" \
    >"$profiles/log" 2>&1 || { tail -n 20 "$profiles/log" >&2 && exit 1; }
done

llvm-profdata-14 merge -sparse --failure-mode=all "$profiles"/*.profraw -o "$profiles/all.profdata"
objects=()
for program in "${programs[@]:1}"; do objects+=(-object "$program"); done
wanted=("$source"/src/base "$source"/src/sys "$source"/src/policy "$source"/src/job "$source"/src/host
  "$source"/src/agent "$source"/src/cli)
cov=(-instr-profile="$profiles/all.profdata" "${programs[0]}" "${objects[@]}")
llvm-cov-14 show -format=html -output-dir="$folder/html" "${cov[@]}" "${wanted[@]}" >/dev/null 2>&1
llvm-cov-14 export -summary-only "${cov[@]}" "${wanted[@]}" 2>/dev/null |
  python3 "$source/tools/coverage_table.py" "$source"
rm -rf "$profiles"
