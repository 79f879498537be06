#!/usr/bin/env bash
# Feeds damaged files to every reader under sanitizers: fuzz.sh [seconds a target, default 600] [target]...
# Seconds are of processor time, so that a busy machine is no excuse; a target gets at most six times as long by the clock.
# Targets: c_api gguf image json pickled safetensors sentencepiece text tiktoken tokenizer_json. Inputs that gave new coverage stay in
# build/fuzz/corpus/<target>, findings in build/fuzz/findings/<target>-*.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-600}
[[ "$seconds" =~ ^[0-9]+$ ]] || { echo "fuzz.sh: seconds must be a number, not '$seconds'" >&2; exit 1; }
targets=("${@:2}")
[ ${#targets[@]} -gt 0 ] || targets=(c_api gguf image json pickled safetensors sentencepiece text tiktoken tokenizer_json)
./scripts/setup.sh --phone
command -v clang++-19 >/dev/null && [ -d /usr/lib/llvm-19/lib/clang ] || {
  echo "fuzz.sh: needs clang with libFuzzer: apt-get install clang-19 libclang-rt-19-dev" >&2; exit 1; }
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz --target "${targets[@]/#/fuzz_}"
mkdir -p build/fuzz/findings
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
ticks=$(getconf CLK_TCK)
used_seconds() {  # processor time of a process
  local fields
  read -r -a fields < <(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) || return 1
  [ "${fields[0]}" != Z ] || return 1
  echo $(((fields[11] + fields[12]) / ticks))
}
# libFuzzer calls an input slow by the clock. It is a finding only when it takes five seconds of processor time by itself.
keep_slow_units() {
  local unit user=0 system=0
  for unit in build/fuzz/findings/"$1"-slow-unit-*; do
    [ -f "$unit" ] || continue
    read -r user system < <(TIMEFORMAT='%U %S'; { time "build/fuzz/tests/fuzz_$1" "$unit" >/dev/null 2>&1; } 2>&1) || true
    awk "BEGIN { exit !($user + $system < 5) }" && rm "$unit"
    echo "   slow by the clock: $(basename "$unit"), $user + $system s of processor time alone"
  done
}
for target in "${targets[@]}"; do
  corpus=build/fuzz/corpus/$target
  mkdir -p "$corpus"
  POCKETVLM_WRITE_SEEDS=build/fuzz/seeds/$target "build/fuzz/tests/fuzz_$target"
  log=build/fuzz/$target.log
  "build/fuzz/tests/fuzz_$target" -max_total_time=$((6 * seconds)) -max_len=262144 -timeout=60 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="build/fuzz/findings/$target-" "$corpus" "build/fuzz/seeds/$target" >"$log" 2>&1 &
  fuzzer=$! used=0
  trap 'kill "$fuzzer" 2>/dev/null' EXIT
  while now=$(used_seconds "$fuzzer"); do
    used=$now
    [ "$used" -lt "$seconds" ] || kill -INT "$fuzzer" 2>/dev/null || true  # it prints its figures and ends
    sleep 1
  done
  wait "$fuzzer" || true
  trap - EXIT
  echo "== $target: $used of $seconds s of processor time"
  grep -aE 'ERROR|SUMMARY|runtime error|stat::number_of_executed_units|stat::peak_rss' "$log" || true
  keep_slow_units "$target"
done
if [ -n "$(ls build/fuzz/findings)" ]; then
  echo "fuzz.sh: findings in build/fuzz/findings; run one with build/fuzz/tests/fuzz_<target> FILE" >&2
  exit 1
fi
