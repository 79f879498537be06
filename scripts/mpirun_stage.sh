#!/usr/bin/env bash
# One stage on this machine, or on those of a host file, with plain mpirun; continued until it is done.
#   mpirun_stage.sh RANKS STAGE.json [--hostfile FILE] [--set a.b=c]...
set -uo pipefail
cd "$(dirname "$0")/.."
ranks=${1:?"mpirun_stage.sh: number of ranks"} stage=${2:?"mpirun_stage.sh: stage config"}
shift 2
places=(--bind-to none) more=()
while [ $# -gt 0 ]; do
  case "$1" in
    --hostfile) places+=(--hostfile "${2:?"mpirun_stage.sh: --hostfile needs a file"}"); shift 2 ;;
    --set) more+=(--set "${2:?"mpirun_stage.sh: --set needs a.b=c"}"); shift 2 ;;
    *) echo "mpirun_stage.sh: unknown option $1 (known: --hostfile FILE, --set a.b=c)" >&2; exit 1 ;;
  esac
done
[ "$(id -u)" = 0 ] && places+=(--allow-run-as-root)  # a container
program=${POCKETVLM:-build/release/pocketvlm}
[ -x "$program" ] || {
  echo "mpirun_stage.sh: $program is not there; build it with ./scripts/build.sh, or name another one in POCKETVLM" >&2
  exit 1
}
for attempt in $(seq 1 "${POCKETVLM_MOST_RESTARTS:-20}"); do
  mpirun --oversubscribe -n "$ranks" "${places[@]}" "$program" train "$stage" --resume "${more[@]}"
  status=$?
  [ "$status" = 0 ] && exit 0
  # 1: a mistake, which the next start would repeat. 75: a rank or the way to it was lost; above 128: a process was killed.
  [ "$status" = 1 ] && exit 1
  echo "mpirun_stage.sh: attempt $attempt ended with status $status; continuing from the last state" >&2
done
echo "mpirun_stage.sh: gave up" >&2
exit 1
