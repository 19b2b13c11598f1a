#!/usr/bin/env bash
# Traces of every format into workload files, what is refused, and a sweep and bench of an imported file.
. "$(dirname "$0")/lib.sh"

import() { "$MOE" workloads import "$@"; }
shape=(--hidden 64 --inter 32 --ep 2)

# ---- one trace in every format: 2 steps, 2 layers, 8 experts ----
python3 - <<'PY'
import json, struct
trace = [[[5, 0, 3, 8, 1, 1, 2, 0], [0, 0, 0, 0, 4, 4, 4, 4]], [[7, 7, 7, 7, 9, 0, 0, 1], [2, 0, 0, 0, 0, 0, 0, 6]]]
passes = [(s, l, c) for s, layers in enumerate(trace) for l, c in enumerate(layers)]
with open("long.csv", "w") as f:
    f.write("layer,step,rank,count,expert\n")
    for s, l, counts in reversed(passes):
        for e, c in enumerate(counts):
            if c:
                f.write(f"{l},{s},x,{c},{e}\n")
with open("wide.csv", "w") as f:
    f.write("step,layer," + ",".join(f"e{e}" for e in range(8)) + "\n")
    for s, l, counts in passes:
        f.write(f"{s},{l}," + ",".join(map(str, counts)) + "\n")
with open("lines.jsonl", "w") as f:
    for s, l, counts in passes:
        f.write(json.dumps({"step": s, "layer": l, "counts": counts}) + "\n")
json.dump({"rank": 0, "logical_count": trace, "average_utilization_rate_over_window": None}, open("sglang.json", "w"))
json.dump({"expert_load_window": trace}, open("vllm.json", "w"), indent=1)
flat = [c for _, _, counts in passes for c in counts]
for name, descr, code in (("i64", "<i8", "q"), ("i32", "<i4", "i"), ("u16", "<u2", "H"), ("f32", "<f4", "f"), ("f64", "<f8", "d")):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (2, 2, 8), }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    with open(name + ".npy", "wb") as f:
        f.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + struct.pack(f"<32{code}", *flat))
want = [(s, l, r, counts[4 * r : 4 * r + 4]) for s, l, counts in passes for r in range(2)]
with open("want", "w") as f:
    for line in sorted(f"trace:s{s}:l{l}:r{r} {c}" for s, l, r, c in want if sum(c)):
        print(line, file=f)
PY
cat >lines.py <<'EOF2'
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
print("\n".join(sorted(f'{w["skew"]} {w["counts"]}' for w in lines)))
assert all(w["rows"] == sum(w["counts"]) and w["hidden"] == 64 and w["inter"] == 32 and w["experts"] == 4 for w in lines)
assert abs(sum(w["weight"] for w in lines) - 1) < 1e-9
EOF2
for file in long.csv wide.csv lines.jsonl sglang.json vllm.json i64.npy i32.npy u16.npy f32.npy f64.npy; do
    expect 0 "1 more without rows" import "$file" "${shape[@]}" --clusters 0 --out "$file.out"
    is "$file" "$(python3 lines.py "$file.out")" "$(cat want)"
    holds "$file" err "sweep --workloads $file.out"
done
expect 0 "" import long.csv "${shape[@]}" --clusters 0
is "standard output" "$(cat out)" "$(cat long.csv.out)"
expect 0 "" import long.csv "${shape[@]}" --rank 1 --clusters 0 --out rank.jsonl
is "one rank" "$(python3 lines.py rank.jsonl)" "$(grep ':r1 ' want)"
expect 0 "3 stand for all" import lines.jsonl "${shape[@]}" --clusters 3 --out three.jsonl
is "three" "$(wc -l <three.jsonl)" 3
cp three.jsonl before.jsonl
expect 0 "" import lines.jsonl "${shape[@]}" --clusters 3 --out three.jsonl
cmp -s before.jsonl three.jsonl && pass || fail "the same trace gives other workloads"
expect 0 "14 workloads, 7 of them different" import wide.csv f32.npy "${shape[@]}"
# Standard input and pipes are read to their end, workloads in them too; - is standard output.
for file in long.csv lines.jsonl sglang.json f32.npy; do
    is "$file from a pipe" "$(cat "$file" | import - "${shape[@]}" --clusters 0 2>err)" "$(cat "$file.out")"
    is "$file from a process" "$(import <(cat "$file") "${shape[@]}" --clusters 0 2>err)" "$(cat "$file.out")"
done
is "standard input" "$(import - "${shape[@]}" --clusters 0 <long.csv 2>err)" "$(cat long.csv.out)"
is "workloads from a pipe" "$(cat three.jsonl | import - 2>err | python3 lines.py /dev/stdin)" "$(python3 lines.py three.jsonl)"
expect 2 "stdin is empty" import - "${shape[@]}"
expect 0 "" import long.csv "${shape[@]}" --clusters 0 --out -
is "--out -" "$(cat out)" "$(cat long.csv.out)"
expect 0 "" "$MOE" workloads draw --count 3 --out -
is "workloads drawn to --out -" "$(wc -l <out)" 3
# Where standard output is a file, what is there stays, and what comes after too.
{ echo first; "$MOE" workloads draw --count 1 --out /dev/stdout 2>err; echo last; } >stdout.txt
is "--out /dev/stdout" "$(sed 's/^{.*/a workload/' stdout.txt | tr '\n' ,)" "first,a workload,last,"
is "files called -" "$(ls ./-* 2>/dev/null)" ""
printf '{"counts":[%s]}\n' "$(seq -s, 256)" >model.jsonl
expect 0 "" import model.jsonl --model deepseek-v3 --ep 32 --out model.out
holds "--model" model.out '"name":"deepseek-v3/ep32","experts":8,"hidden":7168,"inter":2048'
expect 0 "" import wide.csv "${shape[@]}" --format csv

# ---- what is refused: one line that says where and what to do ----
expect 2 "workloads import FILE" "$MOE" workloads
expect 2 "workloads import FILE" "$MOE" workloads export a
expect 2 "name the traces" import
expect 2 "--model NAME" import long.csv
expect 2 "--ep N" import long.csv --hidden 64 --inter 32
expect 2 "--hidden with --inter" import long.csv --hidden 64 --ep 2
expect 2 "deepseek-v3" import long.csv --model deepseek-w3 --ep 2
expect 2 "8 experts, must have 256; --experts" import wide.csv --model deepseek-v3 --ep 32
expect 2 "--ep: 3 does not divide the 8 experts" import wide.csv --hidden 64 --inter 32 --ep 3
expect 2 "--rank: 2" import wide.csv "${shape[@]}" --rank 2
expect 2 "--clusters" import wide.csv "${shape[@]}" --clusters -1
expect 2 "xml" import wide.csv "${shape[@]}" --format xml
expect 1 "absent.csv" import absent.csv "${shape[@]}"
printf 'step,layer,expert,count\n0,0,0,5\n0,0,x,5\n' >bad.csv
expect 2 "bad.csv:3: column 3" import bad.csv "${shape[@]}"
printf '{"counts":[1,2]}\n{"counts":[1]}\n' >bad.jsonl
expect 2 "bad.jsonl:2" import bad.jsonl "${shape[@]}"
printf '{"logical":[1]}' >bad.json
expect 2 "logical_count" import bad.json "${shape[@]}"
head -c 200 i64.npy >bad.npy
expect 2 "bad.npy" import bad.npy "${shape[@]}"
printf 'PK\3\4' >dump.pt
expect 1 "torch.load(\"dump.pt\"" import dump.pt "${shape[@]}"
printf '{"counts":[1048577,1]}\n' >sum.jsonl
expect 2 "--divide N" import sum.jsonl "${shape[@]}"
expect 0 "" import sum.jsonl "${shape[@]}" --divide 4
printf '{"counts":[0,0]}\n' >zero.jsonl
expect 2 "no rank has rows" import zero.jsonl "${shape[@]}" --out zero.out
[ ! -e zero.out ] && pass || fail "a refused trace leaves a file"
expect 2 "leave out --model" import small.jsonl "${shape[@]}"
expect 1 "nowhere/x.jsonl" import wide.csv "${shape[@]}" --out nowhere/x.jsonl

# ---- what a recorder wrote: launches are weights, equal ones become one ----
cat >recorded.jsonl <<'EOF2'
{"name":"recorded/up","experts":4,"hidden":64,"inter":32,"rows":64,"skew":"recorded:0","weight":5,"counts":[16,16,16,16]}
{"name":"recorded/up","experts":4,"hidden":64,"inter":32,"rows":8,"skew":"recorded:1","weight":4,"counts":[8,0,0,0]}
{"name":"recorded/down","experts":4,"hidden":64,"inter":32,"rows":64,"skew":"recorded:2","weight":1,"counts":[16,16,16,16]}
EOF2
expect 0 "3 workloads, 2 of them different" import recorded.jsonl --out two.jsonl
holds "recorded" two.jsonl '"rows":64,"skew":"recorded:0","weight":0.6,"counts":[16,16,16,16]'
holds "what to do with GEMMs" err "next: moe-tune sweep --workloads two.jsonl"
sed 's,recorded/down,recorded/ffn,' recorded.jsonl >paths.jsonl
expect 0 "next: moe-tune sweep --ops ffn --workloads two.jsonl" import paths.jsonl --out two.jsonl
holds "what a workload does not say" err "the sweep must be told the plan's --prob"

# ---- a sweep and a bench of an imported file ----
expect 0 "" import lines.jsonl "${shape[@]}" --rank 0 --clusters 1 --out one.jsonl
expect 0 "" "$MOE" sweep --device host --families host_blas --workloads one.jsonl --ops up --rounds 3 --db one.db
expect 0 "" "$MOE" show --db one.db
holds "show" out "trace:s"
expect 0 "" "$MOE" emit --db one.db --out table
expect 0 "by weight: efficiency" "$MOE" bench --device host --table table --workloads one.jsonl --ops up --rounds 3
holds "bench" out '"hit":"exact"'
finish
