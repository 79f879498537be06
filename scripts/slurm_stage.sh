#!/usr/bin/env bash
# A stage, or another command that ranks share, on a Slurm cluster, one process a GPU, started again by Slurm until it is done.
#   sbatch --nodes=8 --gpus-per-node=8 --time=24:00:00 scripts/slurm_stage.sh configs/cluster/minicpmv-2.5-sft-1.json [option of `train`]...
#   sbatch ... scripts/slurm_stage.sh train|run|rlaif|eval [argument]...
# The stage saves its state every `checkpoint_every` steps. Ten minutes before the time limit, or when the job is preempted,
# or when a rank died, the job is put back into the queue and continues from the last state.
#SBATCH --job-name=pocketvlm
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --exclusive
#SBATCH --open-mode=append
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
: "${1:?"slurm_stage.sh: name a stage config, or train, run, rlaif or eval with arguments"}"
. scripts/job_command.sh "$@"
most_restarts=${POCKETVLM_MOST_RESTARTS:-50}  # a fault that comes back at once must not loop for ever
program=${POCKETVLM:-build/cuda/pocketvlm}
gpus=${SLURM_GPUS_ON_NODE:-8}
[ -x "$program" ] || {
  echo "slurm_stage.sh: $program is not there; build it with ./scripts/build.sh cuda, or name another one in POCKETVLM" >&2
  exit 1
}

again() {
  echo "slurm_stage.sh: $1; restart ${SLURM_RESTART_COUNT:-0} of at most $most_restarts"
  [ "${SLURM_RESTART_COUNT:-0}" -lt "$most_restarts" ] || { echo "slurm_stage.sh: too many restarts" >&2; exit 1; }
  [ -n "${step:-}" ] && kill "$step" 2>/dev/null
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
}
trap 'again "the time limit or a preemption is near"' USR1

# The node's processors are divided among its ranks.
cpus=$(((${SLURM_CPUS_ON_NODE:-$(nproc)} + gpus - 1) / gpus))
export OMP_NUM_THREADS=$cpus
srun --mpi=pmix --ntasks-per-node="$gpus" --cpus-per-task="$cpus" --gpus-per-node="$gpus" --kill-on-bad-exit=1 \
  "$program" "${command[@]}" &
step=$!
wait "$step"
status=$?
case $status in
  0) echo "slurm_stage.sh: done" ;;
  # The program's own answer to a mistake in config or data (1), or a check that did not hold (2): the next start would end the same way.
  1 | 2) echo "slurm_stage.sh: ended with status $status; see the message above" >&2; exit "$status" ;;
  *) again "a rank ended with status $status" ;;
esac
