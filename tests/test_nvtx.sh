#!/usr/bin/env bash
# NVTX ranges as a tool receives them: domain, categories, nesting, messages, payloads. The tool is nvtx_inject.c.
. "$(dirname "$0")/lib.sh"
export NVTX_INJECTION64_PATH=$BUILD/testlib/libmoet_nvtx_inject.so MOET_NVTX_LOG=$WORK/ranges
[ -f "$NVTX_INJECTION64_PATH" ] || { echo "no $NVTX_INJECTION64_PATH"; exit 1; }

# nesting: each kind of range with the kinds around it, outermost first, by the categories' names, with ':' and its
# message. A pop that ends nothing, or a range that no pop ended, is a line of its own.
nesting() {
    awk -F'\t' '
        $1 == "category" { name[$3] = $4 }
        $1 == "push" {
            if ($3 != 0 + depth) print "depth " $3
            path[depth + 1] = (depth ? path[depth] ">" : "") name[$5]
            print path[++depth] ":" $7
        }
        $1 == "pop" { if (depth-- == 0) print "pop of nothing" }
        $1 == "depth" && $2 != 0 { print "left open " $2 }' ranges
}
kinds() { nesting | sed 's/:.*//' | sort -u | tr '\n' ' '; }

# A sweep in one process: sweep > workload > trial, of host_blas, which is no path: no stages.
small_sweep --db ranges.db --in-process >/dev/null 2>err || fail "sweep: $(tail -n 3 err)"
is "one domain" "$(awk -F'\t' '$1 == "category" { print $2 } $1 == "push" { print $4 }' ranges | sort -u)" "moe-tune"
is "categories" "$(awk -F'\t' '$1 == "category" { print $3, $4 }' ranges | head -n 3 | tr '\n' ';')" "1 sweep;2 workload;3 trial;"
# Trials that the cost model is fitted to are of no workload that was asked for.
is "a sweep's ranges" "$(kinds | sed 's/sweep>trial //')" "sweep sweep>workload sweep>workload>trial "
is "one thread" "$(awk -F'\t' '$1 != "category" && $1 != "depth" { print $2 }' ranges | sort -u | wc -l)" 1
is "the sweep's payload: workloads" "$(awk -F'\t' '$7 == "sweep" { print $6 }' ranges)" 2
nesting >found
holds "a workload's message" found "sweep>workload:small/b 64 rows hot up nk"
holds "a trial's message is its config" found "sweep>workload>trial:host_blas:"
is "a workload's payload: rows" "$(awk -F'\t' '$7 ~ /^small/ { print $6 }' ranges | sort -u)" 64
query ranges.db "select group_concat(distinct config) from trials where status = 'ok'" | sed 's/,\([a-z_]*:\)/\n\1/g' | sort -u >configs
[ -s configs ] || fail "the sweep measured no config"
is "configs that were timed and have no range" "$(awk -F'\t' '$5 == 3 { print $7 }' ranges | sort -u | comm -13 - configs)" ""
is "trials are numbered from 0" "$(awk -F'\t' '$5 == 3 { print $6 }' ranges | sort -un | head -n 1)" 0

# A plan of the expert path: its launch, and in this order its stages.
"$MOE" bench --device host --default --ops ffn --rounds 3 --match small/a --workloads small.jsonl >/dev/null 2>err ||
    fail "bench: $(tail -n 3 err)"
nesting >found
in=workload\>trial\>launch
# The reference that trials are compared with is made of stages too.
is "a path's ranges" "$(kinds | tr ' ' '\n' | grep -v 'workload>[^t]' | tr '\n' ' ')" "workload workload>trial $in $in>activate $in>combine $in>down $in>gather $in>permute $in>up "
is "the order of its stages" "$(grep -A6 -m1 "^$in:" found | sed -n 's/.*>\([a-z]*\):.*/\1/p' | tail -n 6 | tr '\n' ' ')" \
    "permute gather up activate down combine "
holds "the launch's message is its config" found "$in:host_tile_ffn:"
is "payloads of a launch and its stages: rows, tokens" \
    "$(awk -F'\t' '$7 ~ /^(host_tile_ffn:.*|permute|up|down|combine)$/ { print $6 }' ranges | sort -u)" 64

# A plan of a GEMM is one stage.
"$MOE" bench --device host --default --ops down --rounds 3 --match small/a --workloads small.jsonl >/dev/null 2>err ||
    fail "bench: $(tail -n 3 err)"
is "a GEMM's ranges" "$(kinds)" "workload workload>trial $in $in>down "

finish
