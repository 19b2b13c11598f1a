#!/usr/bin/env bash
# moe-tune plot: every kind is drawn, as SVG and PNG, with what it is to show; what goes wrong has one line.
. "$(dirname "$0")/lib.sh"
export TMPDIR="$WORK/a folder" # other programs' folders are none of ours; this one's name takes quotes
mkdir "$TMPDIR"
command -v gnuplot >/dev/null || { echo "skipped: gnuplot is not installed (apt install gnuplot-nox)"; exit 77; }

# texts FILE.svg: what a reader sees, a line a text.
texts() { python3 -c 'import sys, xml.dom.minidom
for t in xml.dom.minidom.parse(sys.argv[1]).getElementsByTagName("text"):
    print("".join(n.data for s in [t] + list(t.getElementsByTagName("tspan")) for n in s.childNodes if n.nodeType == 3).strip())' "$1"; }
# drawn KIND: both files, of the right format.
drawn() {
    is "$1: what it wrote" "$(tr '\n' ' ' <out)" "$1.svg $1.png "
    is "$1.png" "$(head -c 8 "$1.png" | od -An -tx1 | tr -d ' \n')" 89504e470d0a1a0a
    python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' "$1.svg" && pass || fail "$1.svg is no XML"
    texts "$1.svg" >texts
}

# change FILE STATEMENT...: in that database.
change() { python3 -c 'import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
for statement in sys.argv[2:]: db.execute(statement)
db.commit()' "$@"; }

small_sweep --db small.db >/dev/null 2>err || fail "sweep: $(tail -n 3 err)"
change small.db "UPDATE trials SET efficiency = min(efficiency, 0.9)" # so small, everything is in the processor's cache
for kind in roofline efficiency winners; do
    expect 0 "" "$MOE" plot "$kind" --db small.db
    drawn "$kind"
done
"$MOE" plot roofline --db small.db >/dev/null 2>err
texts roofline.svg >texts
holds "the roofline's key counts winners" texts "up (2)"
grep -qE 'measured ceilings: [0-9.]+ [GT]FLOP/s, [0-9.]+ [GT]B/s' texts && pass || fail "no ceilings in the roofline: $(cat texts)"
texts efficiency.svg >texts
holds "efficiency names families" texts "host_blas"
texts winners.svg >texts
grep -qE '^host_[a-z]+:[a-z]+=[a-z0-9]+$' texts && pass || fail "winners of one family are not told apart: $(cat texts)"

# Rates within a decade have a linear axis, whose numbers are its own.
cp small.db narrow.db
change narrow.db "UPDATE trials SET median_ns = 1000" \
    "UPDATE runs SET dense_flops_per_s = 3e11, read_bytes_per_s = 1e11, copy_bytes_per_s = 1e11"
expect 0 "" "$MOE" plot roofline --db narrow.db
drawn roofline
is "numbers of a logarithmic axis" "$(grep -cx -e 2e-06 -e 0.05 texts)" 0
holds "numbers of a linear axis" texts "300"

# What is faster than the device says nothing of it: no title claims that it does, and there are no parts to show.
cp small.db doubtful.db
change doubtful.db "UPDATE trials SET efficiency = 3.7889"
doubt="fficiency up to 379 %: the ceilings were disturbed or the working set fits a cache; measure again"
for kind in roofline efficiency; do
    expect 0 "moe-tune: doubtful.db: e$doubt" "$MOE" plot "$kind" --db doubtful.db
    is "it is said once" "$(wc -l <err)" 1
    drawn "$kind"
    holds "$kind says so" texts "E$doubt"
    is "a claim in the title of $kind" "$(grep -c -e "Every winner" -e "the best of each family" texts)" 0
done
expect 0 "" "$MOE" plot winners --db doubtful.db
is "what wins stays so" "$(cat err)" ""
expect 1 "doubtful.db: no winner to take apart: efficiencies are up to 379 %: the ceilings" "$MOE" plot waterfall --db doubtful.db
change doubtful.db "UPDATE trials SET efficiency = 0.5 WHERE workload_id = (SELECT workload_id FROM workload_names WHERE name = 'small/b')"
expect 0 "measure again; such winners are left out" "$MOE" plot waterfall --db doubtful.db
drawn waterfall
holds "the other winner" texts "Where the time of the 1 least efficient winners goes"
is "the doubtful one" "$(grep -c small/a texts)" 0

# The worst points' parts, of a library whose tiles are not known nothing but the floor, and of a family's own kernel.
expect 0 "" "$MOE" plot waterfall --db small.db
drawn waterfall
holds "a point with its shape" texts "small/b 64 rows hot: up experts=4 hidden=64 inter=32"
grep -qE '^host_(blas|tile):.* \(its tiles are not known\)$' texts && pass || fail "a library's tiles are said to be known: $(cat texts)"
holds "what is not explained" texts "unexplained"
python3 - <<'EOF'
import shutil, sqlite3
shutil.copy("small.db", "tiles.db")
db = sqlite3.connect("tiles.db")
config = "mma_gemm:tile=64x128,bk=64,stages=3,group=8"
db.execute("DELETE FROM trials WHERE id NOT IN (SELECT min(id) FROM trials GROUP BY workload_id)")
for skew, ns, efficiency in ("balanced", 1000000, 0.1), ("hot", 500000, 0.2):
    db.execute("UPDATE trials SET config = ?, family = 'mma_gemm', median_ns = ?, efficiency = ? WHERE workload_id = "
               "(SELECT workload_id FROM workload_names WHERE skew = ?)", (config, ns, efficiency, skew))
db.execute("UPDATE devices SET sm_count = 4, smem_per_sm_bytes = 0")
db.execute("UPDATE runs SET dense_flops_per_s = 2 * 64 * 64 * 64 / 100e-6, read_bytes_per_s = 1e12, copy_bytes_per_s = 1e12")
db.execute("UPDATE cost_models SET tensor_flops_per_s = 1e15, l2_bytes_per_s = 1e15, store_bytes_per_s = 1e15")
db.commit()
EOF
# By hand: 64 rows and columns are 100 us of math; of 4 experts they fill a tile of 64x128 each, 8 times as much. The
# second point is said to have taken less than that.
if "$MOE" sweep --families nothing --workloads small.jsonl --db nothing.db 2>&1 | grep -q mma_gemm; then # a build with CUDA
    expect 0 "" "$MOE" plot waterfall --db tiles.db
    drawn waterfall
    is "parts by hand" "$(grep ' %$' texts | grep -v -e us, -e share | tr '\n' ',')" "10 %,padding 70 %,20 %,floor 20 %,padding 140 %,unexplained -60 %,"
    is "all tiles are known" "$(grep -c "not known" texts)" 0
    # A family's winners are told apart by its first parameter, whose value is not cut off.
    python3 - <<'EOF'
import sqlite3
db = sqlite3.connect("tiles.db")
config = "wgmma_gemm:mode=swap_pingpong,tile=192x128,stages=5,cluster=1x2,group=16,order=plain,store=bulk,launch=early,spare=0"
db.execute("UPDATE trials SET config = ?, family = 'wgmma_gemm'", (config,))
db.commit()
EOF
    expect 0 "" "$MOE" plot winners --db tiles.db
    drawn winners
    is "a winner's whole name" "$(grep -cx 'wgmma_gemm:mode=swap_pingpong' texts)" 1
fi
# Nothing to take apart, or no rates to do it by.
python3 - <<'EOF'
import shutil, sqlite3
for name, what in ("unfitted.db", "DELETE FROM cost_models"), ("path.db", "UPDATE problems SET key = replace(replace(key, 'op=up', 'op=ffn'), 'none,bias=0,prob=none', 'swiglu,bias=0,prob=none') || ',down_bias=0,combine=exact,clamp=0'"):
    shutil.copy("small.db", name)
    db = sqlite3.connect(name)
    db.execute(what)
    db.commit()
EOF
expect 1 "unfitted.db: no rates of" "$MOE" plot waterfall --db unfitted.db
expect 1 "path.db: no winner of op up or down" "$MOE" plot waterfall --db path.db

# Two sweeps beside each other: the same one twice has found the best.
cp small.db again.db
expect 0 "" "$MOE" plot sweep --db small.db --db again.db
drawn sweep
holds "sweeps by name" texts "again.db"
holds "workloads that both have" texts "2 workloads"

# A path may be no UTF-8, a picture is.
cp small.db $'byte\xff.db'
expect 0 "" "$MOE" plot sweep --db small.db --db $'byte\xff.db'
drawn sweep
holds "a sweep whose name has a byte" texts $'byte\xef\xbf\xbd.db'

# Peers, by hand: 2.0 and 0.5 times; the worst is named.
line() { echo "{\"name\":\"$1\",\"rows\":8,\"skew\":\"balanced\",\"op\":\"up\",\"peer\":\"$2\",\"time_us\":$3,\"layout\":\"nk\"}"; }
{ echo '{"device":"A card"}'; line good moe-tune 10; line bad moe-tune 10; } >ours.jsonl
{ line good other 20; line bad other 5; line elsewhere other 1; } >theirs.jsonl
expect 0 "" "$MOE" plot peers --bench ours.jsonl --peers theirs.jsonl
drawn peers
holds "points that both have, and the device" texts "2 points, sorted; A card"
holds "a peer's geomean" texts "other: geomean 1.000 of 2"
grep -q '0.500 .*bad 8 balanced up' texts && pass || fail "the worst point is not named: $(cat texts)"

# Of another device it is no comparison.
{ echo '{"device":"B card"}'; line good other 20; } >elsewhere.jsonl
expect 2 "elsewhere.jsonl is of 'B card', not of 'A card': give benches of one device" "$MOE" plot peers --bench ours.jsonl --peers elsewhere.jsonl

# Regret, by hand.
regret() { echo "{\"name\":\"$1\",\"rows\":8,\"skew\":\"balanced\",\"op\":\"up\",\"hit\":\"$2\",\"regret_pct\":$3,\"default_pct\":$4}"; }
{ regret a default 1 5; regret b nearest 3 null; regret c exact 0 9; } >regret.jsonl
expect 0 "" "$MOE" plot regret --regret regret.jsonl
drawn regret
holds "the mean" texts "mean 2.0 %, 95th percentile 3.0 %, most 3.0 %"
holds "the most that no table costs, which the picture may cut" texts "sorted by itself: most 5.0 %"
# Two tables beside each other, one of which has a name that gnuplot would read.
{ regret a default 7 5; regret b nearest -1 9; } >'bal"anced.jsonl'
expect 0 "" "$MOE" plot regret --regret regret.jsonl --regret 'bal"anced.jsonl'
drawn regret
holds "the first table" texts "regret.jsonl: mean 2.0 %, p95 3.0 %, most 3.0 %, n 2"
holds "the second table" texts "balanced.jsonl: mean 3.0 %, p95 7.0 %, most 7.0 %, n 2"

# What files say is text: gnuplot runs what stands between backquotes, and ends a string at a quote.
regret 'a `touch ran` \"b' nearest 3 null >text.jsonl
expect 0 "" "$MOE" plot regret --regret text.jsonl
drawn regret
holds "a name with a command" texts "3.0 %  a touch ran b 8 balanced up"
{ echo '{"device":"A `touch ran` \"card\""}'; line 'a`touch ran`' moe-tune 10; } >text_ours.jsonl
line 'a`touch ran`' "it's \`touch ran\`" 20 >text_theirs.jsonl
expect 0 "" "$MOE" plot peers --bench text_ours.jsonl --peers text_theirs.jsonl
drawn peers
holds "a device with quotes" texts "; A touch ran card"
holds "a peer with a quote" texts "its touch ran: geomean 2.000 of 1"
python3 - <<'EOF'
import shutil, sqlite3
shutil.copy("small.db", "text.db")
db = sqlite3.connect("text.db")
db.execute("UPDATE devices SET name = 'A `touch ran` \"card\"'")
db.execute("UPDATE trials SET config = '\"''`touch ran`; touch ran #:' || config")
db.commit()
EOF
expect 0 "" "$MOE" plot winners --db text.db
expect 0 "" "$MOE" plot roofline --db text.db
is "nothing of it was run" "$(ls ran 2>/dev/null)" ""
mkdir "it's"
expect 2 "TMPDIR: " env TMPDIR="$WORK/it's" "$MOE" plot winners --db small.db

# One file of either format.
expect 0 "" "$MOE" plot winners --db small.db --out a.png
is "one file" "$(cat out)" "a.png"

expect 2 "give a KIND" "$MOE" plot
expect 2 "no picture 'pie': there are roofline, efficiency, winners, peers, regret, sweep, waterfall" "$MOE" plot pie
expect 2 "drawn from --bench" "$MOE" plot peers
expect 2 "drawn from --regret" "$MOE" plot regret
expect 2 "give --db FILE for each" "$MOE" plot sweep --db small.db
expect 2 "kind sweep's only" "$MOE" plot roofline --db small.db --db again.db
expect 2 "a picture is a file .svg or .png" "$MOE" plot roofline --db small.db --out a.pdf
expect 1 "no device matches elsewhere" "$MOE" plot roofline --db small.db --device elsewhere
expect 1 "nothing.db" "$MOE" plot roofline --db nothing.db
expect 1 "ours.jsonl: no other program's times: give what bench/peers/peers.py printed (--peers)" "$MOE" plot peers --bench ours.jsonl
expect 1 "no point of a peer is one of moe-tune's" "$MOE" plot peers --bench ours.jsonl --peers ours.jsonl
echo '{"name":"x"}' >bad.jsonl
regret c exact 0 9 >exact.jsonl
expect 1 "no workload that was not tuned" "$MOE" plot regret --regret exact.jsonl
expect 2 "bad.jsonl:1: no line of" "$MOE" plot regret --regret bad.jsonl
expect 1 "nobody" "$MOE" plot roofline --db small.db --out nobody/a.svg
expect 1 "gnuplot is not here: it draws the pictures: apt install gnuplot-nox" env PATH="$WORK" "$MOE" plot roofline --db small.db
is "nothing is left behind" "$(ls -d "${TMPDIR:-/tmp}"/moe-tune-* 2>/dev/null | wc -l)" 0
finish
