#!/bin/bash
# Checks the format of all C++ files (clang-format) and all shell scripts (shellcheck).
#
#   check_format.sh [ROOT]      exit status 0: all well, 1: not, 77: a tool is missing
#
# Files that git ignores are left out.
set -euo pipefail
shopt -s inherit_errexit

cd "${1:-.}"
for tool in git clang-format shellcheck; do
  if ! command -v "$tool" >/dev/null; then
    echo "skipped: $tool is not installed"
    exit 77
  fi
done
if ! git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
  echo "skipped: not a git checkout"
  exit 77
fi

list() { git ls-files -z --cached --others --exclude-standard -- "$@"; }

# A file that git knows may have been deleted and not yet committed.
present() {
  while IFS= read -r -d '' file; do
    if [ -f "$file" ]; then printf '%s\0' "$file"; fi
  done
}

status=0
list '*.cc' '*.h' '*.cu' | present | xargs -0 -r clang-format --dry-run -Werror || status=1
list '*.sh' | present | xargs -0 -r shellcheck || status=1
exit "$status"
