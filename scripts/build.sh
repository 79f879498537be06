#!/usr/bin/env bash
# Set-up and build. build.sh [preset]: release (default), dev, phone, aarch64, cuda; programs land in build/<preset>/.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:-release}
case "$preset" in
  phone) ./scripts/setup.sh --phone ;;
  aarch64) ./scripts/setup.sh --aarch64 ;;
  cuda) ./scripts/setup.sh --cuda ;;
  *) ./scripts/setup.sh ;;
esac
ccache --max-size=10G >/dev/null 2>&1 || true
cmake --preset "$preset" >/dev/null
cmake --build --preset "$preset" "${@:2}"
