# Sourced by the scripts that start jobs: sets the array `command` from their arguments, STAGE.json [option of `train`]... or
# train|run|rlaif|eval [argument]..., so that a second start continues the first.
case "$1" in
  train | run | rlaif | eval) command=("$@") ;;
  *) command=(train "$@") ;;
esac
case "${command[0]} ${command[1]-}" in
  # Single stages of the loop continue what they find in their folder, and an evaluation begins anew.
  eval\ * | rlaif\ sample | rlaif\ split | rlaif\ judge | rlaif\ pairs | rlaif\ train | rlaif\ eval) ;;
  *) command+=(--resume) ;;
esac
