#!/usr/bin/env bash
# verify --against on the host: dumps of small integers, whose sums are exact in any order, compare equal; one flipped
# bit shows as one element of its expert; every refusal says what is wrong with which array.
. "$(dirname "$0")/lib.sh"

against() { "$MOE" verify --device host --against "$@"; }
expect_any() { SEVERAL_LINES=1 expect "$@"; }
touch absent-minizip.npz
if against absent-minizip.npz 2>&1 | grep -q 'without minizip'; then
    expect 1 "libminizip-dev" against absent-minizip.npz
    finish
    exit
fi

# dump.py KIND FILE [CHANGE...]: writes a good file with changes: Python statements on `a`, the arrays by name, each
# [descr, shape, values]. Numbers are BF16 bits where the type is <u2.
cat >dump.py <<'EOT'
import random, struct, sys, zipfile
random.seed(5)

def bits(x): # of BF16, round to nearest even; x is finite
    n = struct.unpack("<I", struct.pack("<f", x))[0]
    return (n + 0x7FFF + (n >> 16 & 1)) >> 16

def numbers(n, most=2): return [float(random.randint(-most, most)) for _ in range(n)]
def bf16(shape, values): return ["<u2", shape, [bits(v) for v in values]]

def gemm():
    E, N, K, counts = 4, 16, 24, [3, 0, 20, 1]
    M = sum(counts)
    x, w, bias = numbers(M * K), numbers(E * N * K), numbers(E * N)
    out, m = [], 0
    for e, count in enumerate(counts):
        for m in range(m, m + count):
            out += [sum(x[m * K + k] * w[(e * N + n) * K + k] for k in range(K)) + bias[e * N + n] for n in range(N)]
        m += count > 0
    kn = [w[(e * N + n) * K + k] for e in range(E) for k in range(K) for n in range(N)]
    return {"x": bf16((M, K), x), "w": bf16((E, N, K), w), "counts": ["<i8", (E,), counts],
            "bias": bf16((E, N), bias), "out": bf16((M, N), out)}, bf16((E, K, N), kn)

# Gates of 0 give swiglu of 0 with any up; so a path's output is that of its down bias: sums of weights times it.
def path():
    R, k, E, H, I = 5, 2, 3, 16, 8
    ids = [0, -1, 2, 0, -1, -1, 1, 2, 2, -1]
    weights = [0.5, 9.0, 0.25, 2.0, 9.0, 9.0, 1.0, 0.5, 4.0, 9.0]
    x, up, down, down_bias = numbers(R * H), numbers(E * 2 * I * H), numbers(E * H * I), numbers(E * H)
    for e in range(E):
        for g in range(I * H): up[e * 2 * I * H + g] = 0.0
    out = []
    for t in range(R):
        local = [(ids[t * k + c], weights[t * k + c]) for c in range(k) if ids[t * k + c] >= 0]
        out += [0.0 + sum(p * down_bias[e * H + h] for e, p in local) for h in range(H)]
    return {"x": bf16((R, H), x), "ids": ["<i8", (R, k), ids], "weights": ["<f4", (R, k), weights],
            "up": bf16((E, 2 * I, H), up), "down": bf16((E, H, I), down), "down_bias": bf16((E, H), down_bias),
            "out": bf16((R, H), out)}

def npy(descr, shape, values, version=1, fortran=False):
    text = repr({"descr": descr, "fortran_order": fortran, "shape": shape}).encode()
    head = 8 + 2 * version
    text += b" " * (-(head + len(text) + 1) % 64) + b"\n"
    code = {"u1": "B", "u2": "H", "V2": "H", "i2": "h", "i4": "i", "i8": "q", "u8": "Q", "f2": "e", "f4": "f"}
    data = struct.pack("<%d%s" % (len(values), code[descr[1:]]), *values)
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + data

kind, name, *changes = sys.argv[1:]
if kind == "gemm": a, kn = gemm()
else: a = path()
pack, more = zipfile.ZIP_STORED, {}
def half(v): return struct.unpack("<f", struct.pack("<I", v << 16))[0]
def as_floats(descr, array): array[0], array[2] = descr, [half(v) for v in array[2]]
for change in changes: exec(change)
with zipfile.ZipFile(name, "w", pack) as z:
    for key, array in a.items(): z.writestr(key + ".npy", npy(*array, **more.get(key, {})))
EOT
dump() { python3 dump.py "$@" || fail "dump.py $*"; }

# value COLUMN EXPERT: of the csv in `out`
value() { tr -d '\r' <out | awk -F, -v c="$1" -v e="$2" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == c) at = i } NR > 1 && $1 == e { print $at }'; }

# ---- GEMM: equal ----
dump gemm good.npz
expect_any 0 "good.npz on " against good.npz --format csv
holds "the summary" err ": 0 of 384 elements differ; config "
holds "the summary" err "op=up,experts=4,hidden=24,inter=8"
holds "rows" err "rows 17-64           1 experts  0 of 320 elements differ"
is "columns" "$(head -n 1 out | tr -d '\r')" "expert,rows,elements,differing,differing_pct,max_ulp,nan_mismatch"
is "experts" "$(grep -c '^[0-9]' out)" 4
is "rows of expert 2" "$(value rows 2)" 20
is "elements of expert 1" "$(value elements 1)" 0
expect_any 0 "hidden=16,inter=24" against good.npz --ops down
expect_any 0 "numerics=fast" against good.npz --ops up --numerics fast
dump gemm kn.npz 'a["w"] = kn'
expect_any 0 "layout=kn" against kn.npz
expect_any 0 " 0 of 384 elements" against kn.npz --layout kn
dump gemm packed.npz 'pack = zipfile.ZIP_DEFLATED' 'a["counts"][0] = "<i4"; a["x"][0] = "|V2"; a["w"][0] = "<V2"' \
    'a["out"][0] = "<i2"; a["out"][2] = [v - (v >> 15 << 16) for v in a["out"][2]]' 'more = {"x": {"version": 2}}'
expect_any 0 " 0 of 384 elements" against packed.npz
dump gemm plain.npz 'a["bias"][2] = [0] * 64' 'del a["bias"]' 'a["x"][2] = [0] * len(a["x"][2]); a["out"][2] = [0] * 384'
expect_any 0 "bias=0" against plain.npz
dump gemm empty.npz 'a["counts"][2] = [0] * 4; a["x"][1:] = [(0, 24), []]; a["out"][1:] = [(0, 16), []]'
expect_any 0 " 0 of 0 elements" against empty.npz
dump gemm square.npz 'w = a["w"]; a = {"x": ["<u2", (24, 16), [0] * 384], "w": ["<u2", (4, 16, 16), w[2][:1024]], "counts": a["counts"], "out": ["<u2", (24, 16), [0] * 384]}'
expect_any 0 "taken as nk, --layout kn is the other" against square.npz
holds "the layout taken" err "layout=nk"
expect_any 0 "layout=kn" against square.npz --layout kn
is "the layout that was asked for" "$(grep -c 'taken as' err)" 0
dump gemm typo.npz 'a["Bias"] = a["bias"]'
expect_any 0 "array Bias is not looked at" against typo.npz

# ---- GEMM: one element ----
dump gemm flipped.npz 'a["out"][2][(3 + 7) * 16 + 5] ^= 1' # row 7 of expert 2
expect_any 3 ": 1 of 384 elements differ" against flipped.npz --format csv
is "differing elements" "$(for e in 0 1 2 3; do value differing $e; done | xargs)" "0 0 1 0"
is "the distance" "$(value max_ulp 2)" 1
holds "rows" err "rows 17-64           1 experts  1 of 320 elements differ"
holds "rows" err "rows 1               1 experts  0 of 16 elements differ"
dump gemm nan.npz 'a["out"][2][0] = 0x7fc0; a["out"][2][383] ^= 0x8000'
expect_any 3 ": 2 of 384 elements differ" against nan.npz --format csv
is "NaN" "$(for e in 0 1 2 3; do value nan_mismatch $e; done | xargs)" "1 0 0 0"
is "differing elements" "$(for e in 0 1 2 3; do value differing $e; done | xargs)" "1 0 0 1"
expect_any 3 "" against nan.npz --format json
python3 -c 'import json; rows = [json.loads(l) for l in open("out")]; assert [r["differing"] for r in rows] == [1, 0, 0, 1]' &&
    pass || fail "json"
expect_any 3 "" against nan.npz
holds "text" out "nan_mismatch"

# ---- with a table ----
expect 0 "" small_sweep --db good.db
expect 0 "" "$MOE" emit --db good.db --out table
expect_any 0 "hit default" against good.npz --table table
expect 1 "absent/table.json" against good.npz --table absent
MOET_TABLE=absent expect_any 0 "" against good.npz # the command line wins

# ---- the expert path ----
combine=(--prob combine --format csv)
dump path path.npz
expect_any 0 ": 0 of 80 elements differ" against path.npz "${combine[@]}"
holds "the problem" err "op=ffn,experts=3,hidden=16,inter=8"
holds "the problem" err "prob=combine"
is "rows" "$(for e in 0 1 2 ""; do value rows "$e"; done | xargs)" "2 1 3 1"
dump path wide.npz 'a["ids"][0] = "<i4"'
expect_any 0 ": 0 of 80 elements differ" against wide.npz "${combine[@]}" --ops ffn
expect_any 0 "activation=swiglu_clamp" against path.npz "${combine[@]}" --activation swiglu_clamp --clamp 7
expect_any 3 "combine=paddle" against path.npz "${combine[@]}" --combine paddle # token 0 has one local expert, 0.5 of it
dump path flipped.npz 'a["out"][2][16 + 3] ^= 1' # token 1, which chose 2 and 0
expect_any 3 ": 1 of 80 elements differ" against flipped.npz "${combine[@]}"
is "differing elements" "$(for e in 0 1 2 ""; do value differing "$e"; done | xargs)" "1 0 1 0"
dump path nowhere.npz 'a["out"][2][2 * 16] ^= 1' # token 2, which chose none
expect_any 3 ": 1 of 80 elements differ" against nowhere.npz "${combine[@]}"
is "differing elements" "$(for e in 0 1 2 ""; do value differing "$e"; done | xargs)" "0 0 0 1"
dump path unweighted.npz 'del a["weights"]' 'a["down_bias"][2] = [0] * 48; a["out"][2] = [0] * 80'
expect_any 0 "prob=none" against unweighted.npz --prob none
expect 2 "no array weights, must be there as [R, k]" against unweighted.npz

# ---- refusals ----
refused() { # WORDS KIND CHANGE [OPTIONS...]
    local words=$1 kind=$2 change=$3
    shift 3
    dump "$kind" bad.npz "$change"
    expect 2 "bad.npz: $words" against bad.npz "$@"
}
for name in x w counts out; do refused "no array $name, must be there" gemm "del a['$name']"; done
for name in x weights up down out; do refused "no array $name, must be there" path "del a['$name']"; done
advice="must be of BF16 as 2-byte integers: tensor.view(torch.int16).numpy()"
refused "array x is of float32, $advice" gemm 'as_floats("<f4", a["x"])'
refused "array out is of float16, $advice" gemm 'as_floats("<f2", a["out"])'
refused "array w is of int32, $advice" gemm 'a["w"][0] = "<i4"'
refused "array counts is of float32, must be of integers" gemm 'a["counts"][0] = "<f4"'
refused "array ids is of uint8, must be of int32 or int64" path 'a["ids"][0] = "|u1"; a["ids"][2] = [0] * 10'
refused "array weights is of uint16, must be of float32" path 'a["weights"] = ["<u2", (5, 2), [0] * 10]'
refused "array x is big-endian ('>u2')" gemm 'a["x"][0] = ">u2"'
refused "array x is in Fortran order" gemm 'more = {"x": {"fortran": True}}'
refused "array x is of .npy format 3.0" gemm 'more = {"x": {"version": 3}}'
refused "array x has 1152 bytes of data, its shape wants 1200" gemm 'a["x"][1] = (25, 24)'
refused "array x is [576], must be [M, K]" gemm 'a["x"][1] = (576,)'
refused "array w is [4, 384], must be [E, N, K] or [E, K, N]" gemm 'a["w"][1] = (4, 384)'
refused "array w is [4, 12, 32], must be [E, N, 24] or [E, 24, N] as x has K = 24" gemm 'a["w"][1] = (4, 12, 32)'
refused "array counts is [3], must be [4] as w" gemm 'a["counts"] = ["<i8", (3,), [3, 20, 1]]'
refused "array bias is [16, 4], must be [4, 16]" gemm 'a["bias"][1] = (16, 4)'
refused "array out is [16, 24], must be [24, 16]" gemm 'a["out"][1] = (16, 24)'
refused "array counts sums to 23, must be the 24 rows of x" gemm 'a["counts"][2] = [3, 0, 19, 1]'
refused "array counts has -1 at 1, must be 0 to the 24 rows of x" gemm 'a["counts"][2] = [4, -1, 20, 1]'
refused "array counts has 25 at 2" gemm 'a["counts"][2] = [0, 0, 25, 0]'
refused "array w is of layout nk, must be kn as --layout says" gemm '' --layout kn
refused "by its shapes: " gemm 'a["w"][1] = (16, 4, 24); a["bias"][1] = (16, 4); a["counts"] = ["<i8", (16,), [24] + [0] * 15]; a["out"] = ["<u2", (24, 4), [0] * 96]'
refused "array w is [12, 5, 24], must be of an even N with op up" gemm 'a["w"] = ["<u2", (12, 5, 24), [0] * 1440]; a["counts"] = ["<i8", (12,), [2] * 12]'
refused "array w is [1, 1048577, 0], must be of at most 1048576" gemm 'a["w"] = ["<u2", (1, 1048577, 0), []]'
refused "has no array ids, must be op up or down, not ffn" gemm '' --ops ffn
refused "has an array ids, must be op ffn, not down" path '' --ops down
refused "array up is [3, 8, 32], must be [E, 2I, 16] or [E, 16, 2I] as x has H = 16" path 'a["up"][1] = (3, 8, 32)'
refused "array down is [3, 4, 16], must be [E, 16, I] with up [E, 2I, 16], or [E, I, 16] with up [E, 16, 2I]; up is [3, 16, 16]" path 'a["down"] = ["<u2", (3, 4, 16), [0] * 192]'
refused "array down is [2, 16, 8], must be" path 'a["down"] = ["<u2", (2, 16, 8), [0] * 256]'
refused "array ids is [4, 2], must be [5, 2]" path 'a["ids"] = ["<i8", (4, 2), [0, 1] * 4]'
refused "array ids is [5, 17], must be [5, 1 to 16]" path 'a["ids"] = ["<i8", (5, 17), [-1] * 85]'
refused "array weights is [2, 5], must be [5, 2]" path 'a["weights"][1] = (2, 5)'
refused "array ids: " path 'a["ids"][2][3] = 3'
refused "array ids: " path 'a["ids"][2][3] = 2' # twice in token 1
expect 2 "--activation swiglu_clamp needs --clamp" against path.npz --activation swiglu_clamp

# ---- files that are none ----
expect 1 "absent.npz" against absent.npz
echo "this is a diary, long enough" >diary.npz
expect 2 "diary.npz is no .npz file" against diary.npz
: >nothing.npz
expect 2 "nothing.npz is no .npz file" against nothing.npz
expect 1 "table" against table
for length in 10 500 $(($(stat -c %s good.npz) - 5)); do
    head -c "$length" good.npz >cut.npz
    expect 2 "cut.npz" against cut.npz
    holds "a cut file" err "cut off"
done
python3 - <<'EOT'
data = bytearray(open("good.npz", "rb").read())
data[300] ^= 1 # of x
open("damaged.npz", "wb").write(data)
EOT
expect 2 "damaged.npz: array x is damaged" against damaged.npz

# ---- options ----
expect 2 "give --table DIR or --against FILE" "$MOE" verify
expect 2 "go with --against" "$MOE" verify --table table --ops up
expect 2 "one op" against good.npz --ops up,down
expect 2 "one layout" against good.npz --layout nk,kn
expect 2 "'later'" against path.npz --combine later
finish
