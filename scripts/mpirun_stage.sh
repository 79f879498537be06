#!/usr/bin/env bash
# A stage, or another command that ranks share, on this machine or on those of a host file, with plain mpirun; continued until it is done.
#   mpirun_stage.sh RANKS [--hostfile FILE] STAGE.json [option of `train`]...
#   mpirun_stage.sh RANKS [--hostfile FILE] train|run|rlaif|eval [argument]...
set -uo pipefail
cd "$(dirname "$0")/.."
ranks=${1:?"mpirun_stage.sh: number of ranks"}
shift
places=(--bind-to none) arguments=()
while [ $# -gt 0 ]; do
  case "$1" in
    --hostfile) places+=(--hostfile "${2:?"mpirun_stage.sh: --hostfile needs a file"}"); shift 2 ;;
    *) arguments+=("$1"); shift ;;
  esac
done
: "${arguments[0]:?"mpirun_stage.sh: name a stage config, or train, run, rlaif or eval with arguments"}"
. scripts/job_command.sh "${arguments[@]}"
[ "$(id -u)" = 0 ] && places+=(--allow-run-as-root)  # a container
program=${POCKETVLM:-build/release/pocketvlm}
[ -x "$program" ] || {
  echo "mpirun_stage.sh: $program is not there; build it with ./scripts/build.sh, or name another one in POCKETVLM" >&2
  exit 1
}
for attempt in $(seq 1 "${POCKETVLM_MOST_RESTARTS:-20}"); do
  mpirun --oversubscribe -n "$ranks" "${places[@]}" "$program" "${command[@]}"
  status=$?
  [ "$status" = 0 ] && exit 0
  # 1: a mistake, 2: a check that did not hold; the next start would end the same way. 75: a rank or the way to it was lost; above 128: a
  # process was killed.
  case $status in 1 | 2) exit "$status" ;; esac
  echo "mpirun_stage.sh: attempt $attempt ended with status $status; continuing from the last state" >&2
done
echo "mpirun_stage.sh: gave up" >&2
exit 1
