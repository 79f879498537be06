#!/usr/bin/env bash
# Set-up, build and all tests. Tests labelled `slow` run with --all only. Ends with the runner's own summary.
set -euo pipefail
cd "$(dirname "$0")/.."
all=0
for argument in "$@"; do
  case "$argument" in
    --all) all=1 ;;
    *) echo "test.sh: unknown option $argument (known: --all)" >&2; exit 1 ;;
  esac
done
./scripts/setup.sh --aarch64 || echo "test.sh: the tests of the ARM build will be skipped" >&2
./scripts/build.sh phone
./scripts/build.sh release
select=(--label-exclude slow)
[ "$all" = 1 ] && select=()
# The phone build is tested by what it links (see tests/apps); both suites run from the release build.
ctest --test-dir build/release -j2 --output-on-failure "${select[@]}"
