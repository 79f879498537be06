#!/usr/bin/env bash
# From nothing to a phone model: set-up, build, then the whole recipe configs/recipes/quickstart.json, small.
#   quickstart.sh [--fast] [--run NAME] [--set a.b=c]...
# --fast walks the same way in a few minutes and learns little. An interrupted run continues when called again.
set -euo pipefail
cd "$(dirname "$0")/.."
run="" fast=0 more=()
while [ $# -gt 0 ]; do
  case "$1" in
    --fast) fast=1; shift ;;
    --run) run=${2:?"quickstart.sh: --run needs a name"}; shift 2 ;;
    --set) more+=(--set "${2:?"quickstart.sh: --set needs a.b=c"}"); shift 2 ;;
    *) echo "quickstart.sh: unknown option $1 (known: --fast, --run NAME, --set a.b=c)" >&2; exit 1 ;;
  esac
done
./scripts/build.sh release --target pocketvlm pocketvlm-engine pocketvlm-mobile
if [ "$fast" = 1 ]; then
  run=${run:-quickstart-fast}
  more+=(--set scale=0.1)
fi
run=${run:-quickstart}
./build/release/pocketvlm run configs/recipes/quickstart.json --run "$run" --resume "${more[@]}"
echo
echo "Report:   runs/$run/report.html"
echo "Figures:  runs/$run/summary.json"
echo "Ask the phone runtime yourself:"
picture=$(find "runs/$run/gallery/images" -name '*.png' | sort | head -n 1)
echo "  ./build/release/pocketvlm-mobile chat --model runs/$run/export/language-q4_0.gguf --mmproj runs/$run/export/mmproj-f16.gguf \\"
echo "      --image $picture --prompt 'describe the picture in detail.'"
