#!/usr/bin/env bash
# Set-up, build and all tests. Tests labelled `slow` run with --all only. Ends with the tests that were skipped and why, and the
# runner's own summary.
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
status=0
ctest --test-dir build/release -j2 --output-on-failure "${select[@]}" | tee build/release/ctest.txt || status=$?
./scripts/list_skipped.sh build/release/Testing/Temporary/LastTest.log
grep -E '^[0-9]+% tests passed|^Total Test time' build/release/ctest.txt
exit "$status"
