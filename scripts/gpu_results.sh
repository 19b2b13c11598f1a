#!/usr/bin/env bash
# Measures again what results/ says, on a machine with a GPU, from a build folder; needs no compiler and no cmake. Parts
# that are compared with each other are of one card, in one run. Databases and tables stay in DIR: a sweep that is cut off
# goes on there when its part is called again; what is not kept in a database begins anew.
#
#   scripts/gpu_results.sh BUILD DIR PART...
#
#   tune      up, down and ffn of the public workloads, model by model, into DIR/models, DIR/tables, DIR/public.db and
#             DIR/table                                                                           10 min
#   tables_regret   a table a model of `tune` on workloads that nobody tuned, op up; COUNT (12) of each model, at most
#             BUDGET (40s)                                                                          5 min
#   bench     that table beside the default, all ops; the peers beside it: DIR/bench.jsonl, peers.jsonl   8 min
#   ffn       the same of ffn alone; without DIR/table that of results/h100                        8 min
#   tokens    ffn with 2 and 4 local experts a token, tuned for themselves, beside the peers      12 min; EVERY=5: 4 min
#   effort    one model, 9 row counts and 3 skews: --effort normal from an empty cache, then quick   8 min
#   effort_exhaustive   every fourth of those row counts: exhaustive                                3 min
#   effort_bench        the tables of the three on these; needs the two before                     1 min
#   regret    the sweep of `effort` and three more skews: its table on 60 workloads that nobody tuned, beside the best
#             of a race of each                                                                    10 min
#   regret_balanced     the same races, a table tuned on balanced routings alone; needs `regret`    3 min
#   engine    recheck of DIR/table; what a launch costs; candidates that crash                     4 min
#   rerun     winners and defaults of balanced routings again, under load, as emit --rerun does     4 min
#   profile   ncu on the worst points of DIR/table (profile --keep)                                2 min
#   stack     48 layers of qwen3-30b (bench/demo_stack.py), its table tuned on the way              7 min
#   ep_tune   DIR/ep_table: op ffn of what one of RANKS (2) runs in `ep`; needs one GPU            8 min
#   ep        the layer on all GPUs of this host beside its peer, with DIR/ep_table if it is there: bits, then times   9 min
#
# The minutes are estimates. MODEL and EP choose the model of `effort` and `regret` (qwen3-30b-a3b, 4), EVERY and FROM which
# of the public workloads `tokens` takes (every second, from the first on), and TOKENS for how many local experts (2 4),
# REGRET_OPS the ops of `regret` (up,down), EP_ROWS and EP_SKEWS what `ep_tune` tunes. Peers see PYTHONPATH and LD_PRELOAD as
# they are given; where DeepGEMM cannot be imported, `peers.py` says so.
set -uo pipefail
if [ $# -lt 3 ]; then
    sed -n '2,/^set/p' "$0" | grep '^#' | cut -c3-
    exit 2
fi
SOURCE=$(cd "$(dirname "$0")/.." && pwd) || exit 1
BUILD=$(cd "$1" && pwd) || exit 1
mkdir -p "$2" && DIR=$(cd "$2" && pwd) || exit 1
shift 2
MOE=$BUILD/moe-tune
PYTHON=${MOET_PYTHON:-python3}
MODEL=${MODEL:-qwen3-30b-a3b} EP=${EP:-4} REGRET_OPS=${REGRET_OPS:-up,down}
PUBLIC=$SOURCE/bench/workloads/public.jsonl
[ -x "$MOE" ] || { echo "gpu_results: no $MOE; build first" >&2; exit 1; }
export LD_LIBRARY_PATH=$BUILD/testlib:$BUILD${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export MOET_CACHE_DIR=${MOET_CACHE_DIR:-$DIR/cache}
unset MOET_TABLE
stop=
trap 'stop=1' INT TERM # what runs is told too, and ends by itself; nothing else begins
code=0

# run NAME COMMAND...: says on stderr what it runs, how long it took and whether it failed; the command's own stderr is
# kept beside the results, its end shown.
run() {
    local name=$1 began=$SECONDS status=0
    shift
    [ -z "$stop" ] || exit 130
    echo "\$ ${*//$SOURCE\//}" >&2
    "$@" 2>"$DIR/$name.err" || status=$?
    tail -n 4 "$DIR/$name.err" >&2
    echo "[$name: $((SECONDS - began)) s$([ $status = 0 ] || echo ", exit $status")]" >&2
    [ $status = 0 ] || code=1
    return $status
}
peers() { # peers FILE OP [WORKLOADS]
    local name
    name=$(basename "$1" .jsonl)_$2
    # PyTorch brings its own libraries: the build folder's stay out of its way.
    LD_LIBRARY_PATH= run "$name" "$PYTHON" "$SOURCE/bench/peers/peers.py" "${3:-$PUBLIC}" --ops "$2" \
        --peers "${PEERS:-grouped_mm,cublas_loop,deepgemm,deepgemm64}" --seconds "${PEERS_SECONDS:-450}" >>"$1"
    if grep -E 'out of time|left out' "$DIR/$name.err" >&2; then code=1; fi
}
bench() { # bench FILE OPS TABLE [WORKLOADS]
    run "$(basename "$1" .jsonl)_$2" "$MOE" bench --table "$3" --with-default --ops "$2" --workloads "${4:-$PUBLIC}" >>"$1"
    # A table of another device answers nothing.
    if grep '"peer":"moe-tune"' "$1" | grep -c '"hit":"default"' >"$DIR/defaults"; then
        echo "gpu_results: $(cat "$DIR/defaults") points of $1 ran the default: $3 does not hold here" >&2
        code=1
    fi
}

# A database and a table a model, with what they took; all databases together make the table of all.
part_tune() {
    local model began table
    mkdir -p "$DIR/models" "$DIR/tables"
    # A line a call: a sweep that was cut off goes on in the next one, and its seconds add up.
    [ -e "$DIR/tables.csv" ] || echo "model,seconds" >"$DIR/tables.csv"
    for model in $(sed 's/^{"name":"\([^/"]*\).*/\1/' "$PUBLIC" | sort -u); do
        grep "^{\"name\":\"$model/" "$PUBLIC" >"$DIR/models/$model.jsonl"
        began=$SECONDS table=$DIR/tables/$model
        run "tune_$model" "$MOE" sweep --device cuda --workloads "$DIR/models/$model.jsonl" --ops up,down,ffn \
            --families wgmma_gemm --db "$DIR/models/$model.db"
        echo "$model,$((SECONDS - began))" >>"$DIR/tables.csv"
        run "emit_$model" "$MOE" emit --db "$DIR/models/$model.db" --out "$table"
    done
    cat "$DIR/tables.csv"
    du -sk "$DIR"/tables/*
    run tune_merge "$MOE" merge --db "$DIR/public.db" "$DIR"/models/*.db
    run emit "$MOE" emit --db "$DIR/public.db" --out "$DIR/table"
    "$MOE" show --db "$DIR/public.db" --format csv >"$DIR/winners.csv"
}
# The tables of `tune` on workloads that nobody tuned, of the EP sizes that they were tuned for.
part_tables_regret() {
    local model eps
    rm -f "$DIR/tables_regret.jsonl"
    [ -d "$DIR/tables" ] || { echo "gpu_results: no $DIR/tables: run tune before" >&2; code=1; return; }
    for model in "$DIR"/tables/*/; do
        model=$(basename "$model")
        eps=$(sed 's/^{"name":"[^"]*\/ep\([0-9]*\)".*/\1/' "$DIR/models/$model.jsonl" | sort -un | paste -sd,)
        run "draw_$model" "$MOE" workloads draw --seed 7 --count "${COUNT:-12}" --model "$model" --ep "$eps" \
            --out "$DIR/models/drawn_$model.jsonl"
        run "regret_$model" "$MOE" regret --device cuda --table "$DIR/tables/$model" --ops up \
            --workloads "$DIR/models/drawn_$model.jsonl" --exhaustive --listed 16 --budget "${BUDGET:-40s}" \
            --db "$DIR/tables_races.db" --format json >>"$DIR/tables_regret.jsonl"
        grep -E ' (table|default) ' "$DIR/regret_$model.err"
    done
}
part_bench() {
    rm -f "$DIR/bench.jsonl" "$DIR/peers.jsonl"
    bench "$DIR/bench.jsonl" up,down "$DIR/table"
    bench "$DIR/bench.jsonl" ffn "$DIR/table"
    peers "$DIR/peers.jsonl" up,down
    peers "$DIR/peers.jsonl" ffn
    "$MOE" compare "$DIR/bench.jsonl" "$DIR/peers.jsonl" --peer moe-tune | tail -n 14 || code=1
}
part_ffn() {
    [ -e "$DIR/table" ] || cp -r "$SOURCE/results/h100/table" "$DIR/table"
    rm -f "$DIR/ffn_bench.jsonl" "$DIR/ffn_peers.jsonl"
    bench "$DIR/ffn_bench.jsonl" ffn "$DIR/table"
    peers "$DIR/ffn_peers.jsonl" ffn
    "$MOE" compare "$DIR/ffn_bench.jsonl" "$DIR/ffn_peers.jsonl" --peer moe-tune | tail -n 14 || code=1
}
part_tokens() {
    local k
    for k in ${TOKENS:-2 4}; do
        rm -f "$DIR/tokens${k}_bench.jsonl" "$DIR/tokens${k}_peers.jsonl"
        awk -v every="${EVERY:-2}" -v from="${FROM:-1}" 'NR % every == from % every' "$PUBLIC" |
            "$PYTHON" "$SOURCE/scripts/share_tokens.py" "$k" >"$DIR/tokens$k.jsonl" || { code=1; continue; }
        run "tokens${k}_tune" "$MOE" sweep --device cuda --workloads "$DIR/tokens$k.jsonl" --ops ffn --families wgmma_gemm \
            --db "$DIR/tokens$k.db"
        run "tokens${k}_emit" "$MOE" emit --db "$DIR/tokens$k.db" --out "$DIR/tokens$k"
        bench "$DIR/tokens${k}_bench.jsonl" ffn "$DIR/tokens$k" "$DIR/tokens$k.jsonl"
        PEERS=grouped_mm,deepgemm,deepgemm64 peers "$DIR/tokens${k}_peers.jsonl" ffn "$DIR/tokens$k.jsonl"
        "$MOE" compare "$DIR/tokens${k}_bench.jsonl" "$DIR/tokens${k}_peers.jsonl" --peer moe-tune | tail -n 10 || code=1
    done
}
effort_sweep() { # effort_sweep EFFORT ROWS [OPTIONS]: of what was done before, only what is left
    MOET_CACHE_DIR=$DIR/effort_cache CUDA_CACHE_DISABLE=1 run "effort_$1" "$MOE" sweep --device cuda --model "$MODEL" \
        --ep "$EP" --rows "$2" --skew balanced,lognormal:0.43,zipf:0.5 --ops up,down,ffn --effort "$1" \
        --db "$DIR/effort_$1.db" "${@:3}"
}
part_effort() {
    # Not the cache of other parts: what compiling costs belongs to the time.
    [ -e "$DIR/effort_normal.db" ] || rm -rf "$DIR/effort_cache"
    effort_sweep normal '256..65536x2'
    effort_sweep quick '256..65536x2'
}
part_effort_exhaustive() {
    effort_sweep exhaustive '256..65536x16' --listed 64
}
# The winners of all efforts, one effort after the other, on the workloads that exhaustive has done.
part_effort_bench() {
    local effort
    for effort in quick normal exhaustive; do
        run "effort_emit_$effort" "$MOE" emit --db "$DIR/effort_$effort.db" --all-winners --out "$DIR/effort_$effort"
        "$MOE" show --db "$DIR/effort_$effort.db" --format csv >"$DIR/effort_$effort.csv"
    done
    "$MOE" show --db "$DIR/effort_exhaustive.db" --format json | "$PYTHON" -c '
import json, sys
seen = set()
for line in sys.stdin:
    w = json.loads(line)
    problem = dict(pair.split("=") for pair in w["problem"].split(","))
    key = (w["rows"], w["skew"])
    if problem["op"] != "up" or key in seen: continue
    seen.add(key)
    print(json.dumps({"name": w["workload"], "experts": w["experts"], "hidden": int(problem["hidden"]),
                      "inter": int(problem["inter"]), "rows": w["rows"], "skew": w["skew"], "counts": w["counts"]}))
' >"$DIR/effort.jsonl"
    rm -f "$DIR"/effort_bench_*.jsonl
    for effort in exhaustive.1 normal.1 quick.1 exhaustive.2 normal.2; do # twice: what two runs of the same differ by
        run "effort_bench_$effort" "$MOE" bench --table "$DIR/effort_${effort%.*}" --ops up,down,ffn \
            --workloads "$DIR/effort.jsonl" >"$DIR/effort_bench_$effort.jsonl"
    done
    for effort in normal.1 quick.1 exhaustive.2 normal.2; do
        "$PYTHON" - "$DIR/effort_bench_exhaustive.1.jsonl" "$DIR/effort_bench_$effort.jsonl" <<'END' || code=1
import json, math, sys
def times(path):
    lines = [json.loads(line) for line in open(path)]
    return {(w["op"], w["rows"], w["skew"]): w["time_us"] for w in lines if w.get("hit") == "exact"}
a, b = times(sys.argv[1]), times(sys.argv[2])
ratios = sorted(b[k] / a[k] for k in a.keys() & b.keys())
if not ratios: sys.exit(f"{sys.argv[2]}: no points of both")
mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
print(f"{sys.argv[2].split('/')[-1]}: over exhaustive.1 {mean:.4f} in the mean, {ratios[-1]:.4f} at most, {len(ratios)} points")
END
    done
}
part_regret() {
    # Without the effort's cache every kernel would be compiled a second time.
    [ ! -d "$DIR/effort_cache" ] || local -x MOET_CACHE_DIR=$DIR/effort_cache
    run draw "$MOE" workloads draw --seed 7 --model "$MODEL" --ep "$EP" --out "$DIR/drawn.jsonl"
    [ -e "$DIR/regret.db" ] || run regret_merge "$MOE" merge --db "$DIR/regret.db" "$DIR/effort_normal.db" || return
    run regret_tune "$MOE" sweep --device cuda --model "$MODEL" --ep "$EP" --rows '256..65536x2' \
        --skew balanced,lognormal:0.43,zipf:0.5,zipf:1,hot:0.5,idle:0.5 --ops "$REGRET_OPS" --db "$DIR/regret.db"
    run regret_emit "$MOE" emit --db "$DIR/regret.db" --out "$DIR/regret_table"
    run regret "$MOE" regret --device cuda --table "$DIR/regret_table" --workloads "$DIR/drawn.jsonl" \
        --ops "$REGRET_OPS" --exhaustive --listed 16 --db "$DIR/races.db" --format json --at-most 1.5,4,10 >"$DIR/regret.jsonl"
    grep -E ' (table|default) ' "$DIR/regret.err"
}
part_regret_balanced() {
    [ ! -d "$DIR/effort_cache" ] || local -x MOET_CACHE_DIR=$DIR/effort_cache
    run emit_balanced "$MOE" emit --db "$DIR/regret.db" --out "$DIR/balanced" --skew balanced
    run regret_balanced "$MOE" regret --device cuda --table "$DIR/balanced" --workloads "$DIR/drawn.jsonl" \
        --ops "$REGRET_OPS" --exhaustive --listed 16 --db "$DIR/races.db" --format json >"$DIR/regret_balanced.jsonl"
    grep -E ' (table|default) ' "$DIR/regret_balanced.err"
}
part_engine() {
    run recheck "$MOE" recheck --device cuda --table "$DIR/table" --save "$DIR/recheck.jsonl"
    run launch_cost "$BUILD/test_launch_cost" --device cuda
    run lookup "$BUILD/test_lookup"
    run isolation bash "$SOURCE/tests/test_isolation.sh" "$BUILD" "$SOURCE" cuda
}
part_rerun() {
    run rerun "$MOE" emit --db "$DIR/public.db" --out "$DIR/rerun" --rerun auto --skew balanced
}
part_profile() {
    run profile "$MOE" profile deepseek-v3/ep8/8192/zipf:1 --ops up --table "$DIR/table" --keep "$DIR/profile.ncu-rep"
    run profile_csv ncu --import "$DIR/profile.ncu-rep" --csv --page raw --print-units base >"$DIR/ncu_raw.csv"
}
part_stack() {
    # moe-tune finds cJSON in testlib; nothing there is in PyTorch's way.
    LD_LIBRARY_PATH=$BUILD/testlib MOET_LIBRARY=$BUILD/libmoet.so.0 PYTHONPATH=$SOURCE/bindings/python${PYTHONPATH:+:$PYTHONPATH} \
        run stack "$PYTHON" "$SOURCE/bench/demo_stack.py" --tune 4m --out "$DIR" --moe-tune "$MOE" >"$DIR/stack.jsonl"
    cat "$DIR/stack.jsonl"
}
part_ep_tune() {
    local ranks=${RANKS:-2} shape
    # experts, hidden, inter of the shapes of bench/peers/ep.py
    for shape in "128 2048 768" "128 4096 1536" "64 7168 2048"; do
        set -- $shape
        run "ep_tune_$2" "$MOE" sweep --device cuda --experts $(($1 / ranks)) --hidden "$2" --inter "$3" --ops ffn \
            --rows "${EP_ROWS:-1024..131072x2}" --skew "${EP_SKEWS:-uniform,zipf:0.5}" --families wgmma_gemm --db "$DIR/ep.db"
    done
    run ep_emit "$MOE" emit --db "$DIR/ep.db" --out "$DIR/ep_table"
}
part_ep() {
    local gpus table=() ids=()
    gpus=$(nvidia-smi -L | grep -c '^GPU')
    [ -e "$DIR/ep_table" ] && table=(--table "$DIR/ep_table")
    local transport
    for transport in lsa lsa_joint allgather; do
        run "ep_bits_$transport" "$BUILD/test_ep" --device cuda --ranks "$gpus" --cases 12 --transport $transport
    done
    run ep_check "$MOE" ep --gpus "$gpus" --check --timeout 20 --transport allgather,lsa,lsa_joint --returns sums --chunks 1,2,3 \
        --match qwen3-30b --tokens 256,2048 --skew uniform --rounds 3 >"$DIR/ep_check.jsonl"
    # The peer's choices are the layer's too: which experts are heavy, and where, is then the same work.
    rm -rf "$DIR/ep_ids"
    LD_LIBRARY_PATH= run ep_peer torchrun --nproc_per_node="$gpus" "$SOURCE/bench/peers/ep.py" "$DIR/ep_ids" >"$DIR/ep_peers.jsonl" &&
        ids=(--ids "$DIR/ep_ids")
    # One way after the other, not in the same rounds: where one ends badly, the others' times are there.
    rm -f "$DIR/ep.jsonl"
    for transport in lsa lsa_joint allgather; do
        run "ep_$transport" "$MOE" ep --gpus "$gpus" --rounds 11 --timeout 20 --transport $transport --returns sums \
            --chunks 1,2,3 --comm-sms 16 "${table[@]}" "${ids[@]}" --db "$DIR/ep.db" --again >>"$DIR/ep.jsonl"
    done
    "$MOE" show --db "$DIR/ep.db" --ep --format csv >"$DIR/ep_winners.csv"
    part_ep_compare
    # All transports, ranks that differ and die; and more ranks than GPUs, which NCCL refuses: meaning only, no speed.
    run ep_bits "$BUILD/test_ep" --device cuda --ranks "$gpus" --cases 12
    for transport in lsa lsa_joint allgather; do
        run "ep_bits_8_$transport" "$BUILD/test_ep" --device cuda --ranks 8 --gpus "$gpus" --cases 6 --transport $transport
    done
}
part_ep_compare() {
    "$PYTHON" - "$DIR/ep.jsonl" "$DIR/ep_peers.jsonl" <<'END'
import json, math, sys
def points(path):
    best = {}
    for line in open(path):
        w = json.loads(line)
        if "layer_us" not in w: continue
        key = (w["name"], w["tokens"], str(w["skew"]))
        if key not in best or w["layer_us"] < best[key]["layer_us"]: best[key] = w
    return best
ours, peers = points(sys.argv[1]), points(sys.argv[2])
ratios = []
for key in sorted(ours.keys() & peers.keys()):
    a, b = ours[key], peers[key]
    ratios.append(b["layer_us"] / a["layer_us"])
    print(*key, a["peer"], a["chunks"], f"dispatch {a['rate_gbs']:.0f} GB/s, peer {b.get('rate_gbs', 0):.0f}; layer {a['layer_us']:.0f} us,"
          f" over the longest part {a['layer_over_max']:.3f}; peer / layer {ratios[-1]:.3f}")
if ratios: print(f"peer / layer: {math.exp(sum(map(math.log, ratios)) / len(ratios)):.3f} in the mean, {min(ratios):.3f} at least")
END
}

for part in "$@"; do
    declare -F "part_$part" >/dev/null || { echo "gpu_results: no part '$part'; without arguments it lists them" >&2; exit 2; }
done
nvidia-smi --query-gpu=name,driver_version,power.limit --format=csv,noheader
for part in "$@"; do
    printf '\n== %s\n' "$part"
    "part_$part"
done
exit $code
