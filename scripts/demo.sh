#!/usr/bin/env bash
# From a clean checkout to a tuned table, and what it gains: installs what is missing, builds into build/, sweeps a small
# set of real workloads on the best device (a CUDA GPU, otherwise this machine's processor), shows the winners, emits a
# table and runs it through the runtime library beside the family defaults. Under 5 minutes on 2 cores without a GPU.
#
#   scripts/demo.sh [DEVICE]      auto (default), host, cuda, cuda:N
set -euo pipefail
cd "$(dirname "$0")/.."
device=${1:-auto}
build=build
out=$build/demo
say() { printf '\n== %s\n' "$*"; }

say "1. What is needed to build"
scripts/install_deps.sh
echo "all there"

say "2. Building into $build/ (log: $build/demo-build.log)"
mkdir -p "$build"
{ cmake -S . -B "$build" -DBUILD_TESTING=OFF && cmake --build "$build" -j "$(nproc)"; } >"$build/demo-build.log" 2>&1 ||
    { tail -n 30 "$build/demo-build.log"; exit 1; }
grep -E 'moe-tune: ' "$build/demo-build.log" || true
moe=$build/moe-tune
mkdir -p "$out"

say "3. This machine"
"$moe" doctor --device "$device" --no-measure

# The experts of one rank: DeepSeek-V3's on a GPU, a small model's on a processor, which does some 1000 times less.
if "$moe" doctor --no-measure --format csv 2>/dev/null | grep -qE '^device,cuda[:0-9]*,' && [ "$device" != host ]; then
    name=deepseek-v3/ep32 budget=150s
    shape='"experts":8,"hidden":7168,"inter":2048'
    points='512 balanced 64,64,64,64,64,64,64,64
512 hot 288,32,32,32,32,32,32,32
2048 balanced 256,256,256,256,256,256,256,256
2048 hot 1152,128,128,128,128,128,128,128'
else
    name=small-moe budget=100s
    shape='"experts":8,"hidden":1024,"inter":256'
    points='64 balanced 8,8,8,8,8,8,8,8
64 hot 36,4,4,4,4,4,4,4
256 balanced 32,32,32,32,32,32,32,32
256 hot 144,16,16,16,16,16,16,16'
fi
echo "$points" | while read -r m skew counts; do
    echo "{\"name\":\"$name\",$shape,\"rows\":$m,\"skew\":\"$skew\",\"counts\":[$counts]}"
done >"$out/workloads.jsonl"

say "4. Sweep: every kernel configuration on these workloads, for at most $budget (run this again to go on)"
cat "$out/workloads.jsonl"
"$moe" sweep --device "$device" --workloads "$out/workloads.jsonl" --ops up,down --db "$out/demo.db" --budget "$budget"

say "5. Winners"
"$moe" show --db "$out/demo.db"

say "6. The table that a program loads"
"$moe" emit --db "$out/demo.db" --out "$out/table"

say "7. The table through the runtime library, beside the family defaults, in the same rounds"
"$moe" bench --device "$device" --table "$out/table" --with-default --workloads "$out/workloads.jsonl" --seconds 60 >"$out/bench.jsonl"
"$moe" compare "$out/bench.jsonl" "$out/bench.jsonl" --peer moe-tune --against moe-tune-default

say "Done: $out/demo.db (trials), $out/table (table), $out/bench.jsonl (times)"
echo "A program loads it so: $build/moet-example, docs/example.c"
