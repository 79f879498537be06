#!/usr/bin/env bash
# list_skipped.sh LOG: the tests that ctest's log says were skipped, each with its reason; nothing where all ran.
set -euo pipefail
log=${1:?list_skipped.sh: which log?}
# GoogleTest prints "FILE:LINE: Skipped", the reason, an empty line, and the name after "[  SKIPPED ]" with its time.
awk '
  /: Skipped$/ { reason = ""; reading = 1; next }
  reading && /^$/ { reading = 0 }
  reading { reason = reason (reason == "" ? "" : " ") $0 }
  /^\[  SKIPPED \] [^ ]+ \([0-9]+ ms\)$/ { reading = 0; if (!count++) print "Skipped:"; print "  " $4 ": " reason }
' "$log"
