#!/usr/bin/env bash
# Writes docs/configuration.md from the config structs of the built program. --check only compares.
set -euo pipefail
cd "$(dirname "$0")/.."
program=${POCKETVLM:-build/release/pocketvlm}
out=$(mktemp)
trap 'rm -f "$out"' EXIT
{
  echo "# Configuration reference"
  echo
  echo "Made by \`scripts/make_config_reference.sh\` from the structs themselves. \`pocketvlm explain FILE\` prints the same for a config of"
  echo "yours, with its values. Any field can be set on the command line: \`--set stages.0.steps=50\`."
  for config in recipes/quickstart models/minicpmv-2.6; do
    echo
    echo "## configs/$config.json"
    echo
    echo '```'
    "$program" explain "configs/$config.json"
    echo '```'
  done
} > "$out"
if [ "${1:-}" = --check ]; then
  diff -u docs/configuration.md "$out" || { echo "docs/configuration.md is out of date: run scripts/make_config_reference.sh" >&2; exit 1; }
else
  cp "$out" docs/configuration.md
fi
