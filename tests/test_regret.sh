#!/usr/bin/env bash
# Regret on the host: of a table whose choice is made slow, of a good one, with a database, with races.
. "$(dirname "$0")/lib.sh"
MOE=$BUILD/moe-tune-faulty
export MOET_FAULTS=none # the family that is slow when it is told, and nothing else of these

# One processor, one thread: threads that wait for each other are slow by chance where others run too.
taskset -cp "$(taskset -cp $$ | sed 's/.*: //; s/[,-].*//')" $$ >pinned

cat >unseen.jsonl <<'EOF2'
{"name":"unseen/a","experts":4,"hidden":64,"inter":32,"rows":67,"skew":"balanced","counts":[17,17,17,16]}
EOF2
cat >far.jsonl <<'EOF2'
{"name":"unseen/far","experts":4,"hidden":64,"inter":32,"rows":5,"skew":"balanced","counts":[2,1,1,1]}
EOF2
regret() { "$MOE" regret --device host --ops up --rounds 3 "$@"; }
# member NAME: of the only line of out
member() { python3 -c 'import json,sys; print(json.loads(open("out").readline())[sys.argv[1]])' "$1"; }
above() { if python3 -c 'import sys; sys.exit(not float(sys.argv[1]) > float(sys.argv[2]))' "$2" "$3"; then pass; else fail "$1: $2 is not above $3"; fi; }

expect 0 "2 races finished" small_sweep --db small.db
expect 0 "" "$MOE" emit --db small.db --out good
expect 0 "" regret --table good --workloads unseen.jsonl --format json
python3 - <<'PY' && pass || fail "regret of a good choice: $(cat out)"
import json
row = json.loads(open("out").readline())
assert row["hit"] == "nearest"
assert row["config"] != row["best_config"] or row["regret_pct"] == 0
PY
# One whose launches will take 20 ms, and not microseconds as the others', becomes the winner of every point.
slow='faulty:fault=none'
python3 - "$slow" <<'PY' && pass || fail "the slow configuration is not there"
import sqlite3, sys
db = sqlite3.connect("small.db")
db.execute("UPDATE trials SET median_ns = 1, noise_ns = 0, final_rounds = 1 WHERE status = 'ok' AND config = ?", sys.argv[1:])
assert db.total_changes == 2
db.execute("UPDATE trials SET noise_ns = 0") # or what is noisy would tie with it
db.commit()
PY
expect 0 "" "$MOE" emit --db small.db --out slow
export MOET_FAULT_SLOW=1
expect 0 "" regret --table slow --workloads unseen.jsonl --format json
is "the choice" "$(member config)" "$slow"
is "hit" "$(member hit)" nearest
above "regret of a slow choice" "$(member regret_pct)" 50
above "candidates" "$(member candidates)" 1
[ "$(member best_config)" != "$slow" ] && pass || fail "the slow choice is the best"
# One is a median of ratios, the other a ratio of medians.
expect 0 "" regret --table slow --workloads unseen.jsonl --rounds 11 --format json
python3 - <<'PY' && pass || fail "regret_pct is not time over best: $(cat out)"
import json
row = json.loads(open("out").readline())
ratio = 100 * (row["time_us"] / row["best_us"] - 1)
assert ratio / 4 < row["regret_pct"] < 4 * ratio, ratio
PY
SEVERAL_LINES=1 expect 4 "slower than asked" regret --table slow --workloads unseen.jsonl --at-most 20,20,20

# ---- points of the table are no test of it; far ones get the default ----
cp unseen.jsonl both.jsonl
head -n 1 small.jsonl >>both.jsonl
cat far.jsonl >>both.jsonl
expect 0 "" regret --table slow --workloads both.jsonl
holds "sums" out "n 2"
holds "sums" out "nearest 1, default 1; exact, which are left out above: 1"
is "rows" "$(grep -c '^unseen/\|^small/' out)" 3
SEVERAL_LINES=1 expect 1 "no workload that was not tuned" regret --table slow --workloads small.jsonl

# ---- races tell rivals that neither the table nor the defaults have; what is stored needs no race ----
unset MOET_FAULT_SLOW
expect 0 "races: 1 finished" regret --table slow --workloads unseen.jsonl --exhaustive --db raced.db --format csv
is "trials of races" "$([ "$(query raced.db "SELECT count(*) FROM trials WHERE status = 'ok'")" -gt 10 ] && echo many)" many
raced=$(python3 -c 'import csv; print(next(csv.DictReader(open("out")))["candidates"])')
expect 0 "races: 0 finished, 1 were finished before" regret --table slow --workloads unseen.jsonl --exhaustive --db raced.db --format csv
expect 0 "" regret --table slow --workloads unseen.jsonl --format csv
above "candidates of a race" "$raced" "$(python3 -c 'import csv; print(next(csv.DictReader(open("out")))["candidates"])')"
expect 0 "" regret --table slow --workloads unseen.jsonl --device-counts --format json
is "device counts" "$(member hit)" nearest

# ---- drawn workloads ----
expect 0 "60 workloads" "$MOE" workloads draw --seed 7 --out drawn.jsonl
expect 0 "" "$MOE" workloads draw --seed 7 --count 60 --rows 256..65536
cmp -s out drawn.jsonl && pass || fail "the same seed gives other workloads"
expect 0 "" "$MOE" workloads draw --seed 8
cmp -s out drawn.jsonl && fail "another seed gives the same workloads" || pass
python3 - <<'PY' && pass || fail "drawn workloads"
import json, math
drawn = [json.loads(line) for line in open("drawn.jsonl")]
rows = sorted(w["rows"] for w in drawn)
assert len(drawn) == 60 and 256 <= rows[0] and rows[-1] <= 65536
assert not any(r & (r - 1) == 0 for r in rows)
assert all(sum(w["counts"]) == w["rows"] and len(w["counts"]) == w["experts"] and w["seed"] == 7 for w in drawn)
assert len({w["skew"] for w in drawn}) == 11 and len({w["name"].split("/")[0] for w in drawn}) == 18
names = [w["name"] for w in drawn]
assert len([n for i, n in enumerate(names) if i == 0 or n != names[i - 1]]) == len(set(names))
# Log-uniform: each of four parts of the logarithm has 15 of 60, give or take 4 standard deviations of 3.4.
for part in range(4):
    low, high = 256 * 4**part, 256 * 4 ** (part + 1)
    assert 2 <= sum(low <= r < high for r in rows) <= 28, rows
PY
expect 0 "" "$MOE" workloads draw --model mixtral,olmoe --ep 2,4 --rows 3..5 --skew hot:0.5 --count 4 --out few.jsonl
is "models drawn" "$(grep -c '"name":"\(mixtral-8x7b\|olmoe-1b-7b\)/ep[24]"' few.jsonl)" 4
expect 2 "workloads draw" "$MOE" workloads
expect 2 "reads no file" "$MOE" workloads draw x
expect 2 "--rank goes with workloads import" "$MOE" workloads draw --rank 1
expect 2 "--count goes with workloads draw" "$MOE" workloads import x --count 3
expect 2 "is not a power of two" "$MOE" workloads draw --rows 4..4
expect 2 "MIN..MAX" "$MOE" workloads draw --rows 5
expect 2 "none of the numbers divides the 8 experts" "$MOE" workloads draw --model mixtral --ep 32
expect 2 "no model 'foo'" "$MOE" workloads draw --model foo
expect 2 "no skew 'bar'" "$MOE" workloads draw --skew bar

# ---- what is refused ----
expect 2 "give --table DIR" regret --workloads unseen.jsonl
expect 2 "give --workloads FILE" regret --table slow
expect 2 "--at-most" regret --table slow --workloads unseen.jsonl --at-most 1,2
expect 2 "--listed" regret --table slow --workloads unseen.jsonl --listed many
expect 1 "nowhere" regret --table nowhere --workloads unseen.jsonl
expect 1 "nowhere.db" regret --table slow --workloads unseen.jsonl --db nowhere.db
finish
