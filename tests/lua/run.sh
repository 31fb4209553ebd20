#!/bin/bash
# Runs the Lua tests under one interpreter: run.sh lua5.4
set -euo pipefail

lua=$(command -v "${1:?an interpreter}" || true)
busted=$(command -v busted || true)
if [ -z "$lua" ] || [ -z "$busted" ]; then
  echo "skipped: needs $1 and busted; apt-get install $1 lua-busted"
  exit 77
fi
SOFTMIG_SOURCE=${SOFTMIG_SOURCE:-$(cd "$(dirname "$0")/../.." && pwd)}
export SOFTMIG_SOURCE
# busted's own first line would take whatever `lua` is.
exec "$lua" "$busted" --output=plainTerminal --pattern=_spec "$SOFTMIG_SOURCE/tests/lua"
