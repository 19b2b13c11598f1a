#!/usr/bin/env bash
# Op ffn through every command that measures, on the host: sweep, emit, verify, bench; workloads that differ in tokens.
. "$(dirname "$0")/lib.sh"

cat >one.jsonl <<'EOT'
{"name":"path/a","experts":4,"hidden":64,"inter":32,"rows":64,"skew":"given","counts":[30,0,20,14]}
EOT
cat >shared.jsonl <<'EOT'
{"name":"path/a","experts":4,"hidden":64,"inter":32,"rows":64,"skew":"given","tokens":32,"counts":[30,0,20,14]}
EOT
cat >crowded.jsonl <<'EOT'
{"name":"path/b","experts":20,"hidden":64,"inter":32,"rows":20,"skew":"given","tokens":1,"counts":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}
EOT

# ---- a whole sweep ----
expect 0 "1 races finished" "$MOE" sweep --device host --ops ffn --workloads one.jsonl --rounds 3 --db path.db
expect 0 "nothing to do" "$MOE" sweep --device host --ops ffn --workloads one.jsonl --rounds 3 --db path.db
count() { query path.db "SELECT count(*) FROM trials WHERE $1"; }
is "trials that are not right" "$(count "status NOT IN ('ok', 'inapplicable')")" 0
is "bit classes" "$(query path.db "SELECT count(DISTINCT bit_class) FROM trials WHERE status = 'ok'")" 1
default=$(query path.db "SELECT config FROM trials WHERE is_default LIMIT 1")
up=${default#*,} up=${up%%,down_*}
down=${default#*,down_}
tried() { [ "$(count "status = 'ok' AND $2")" -gt 0 ] && pass || fail "no $1 were tried"; }
tried "other up halves" "config NOT LIKE '%,$up,%' AND config LIKE '%,down_$down'"
tried "other down halves" "config LIKE '%,$up,%' AND config NOT LIKE '%,down_$down'"
tried "crossed halves" "config NOT LIKE '%,$up,%' AND config NOT LIKE '%,down_$down'"
# What --dry-run says is a bound on what was tried, alone and after the GEMMs, of which fewer halves are taken then.
said() { "$MOE" sweep --device host --workloads one.jsonl --ops "$1" --dry-run |
    sed -n 's/^candidates  at most \([0-9]*\), then at most \([0-9]*\) .*/\1 \2/p'; }
read -r alone around <<<"$(said ffn)"
expect 0 "3 races finished" "$MOE" sweep --device host --ops up,down,ffn --workloads one.jsonl --rounds 3 --db all.db
read -r after all_around <<<"$(said up,down,ffn)"
bounds() { # NAME DB LISTED AROUND
    local tried=$(query "$2" "SELECT count(*) FROM trials WHERE status = 'ok'")
    [ "$tried" -gt 0 ] && [ "$tried" -le $(($3 + $4)) ] && pass || fail "$1: $tried candidates tried, $3 and $4 said"
}
bounds "a dry run of op ffn" path.db "$alone" "$around"
bounds "a dry run of all ops" all.db "$after" "$all_around"
expect 0 "" "$MOE" show --db path.db
expect 0 "" "$MOE" emit --db path.db --out table
expect 0 "2 right, 0 wrong, 0 could not run" "$MOE" verify --table table --device host
for counts in "" --device-counts; do
    expect 0 "" "$MOE" bench --device host --table table --with-default --workloads one.jsonl --ops ffn --rounds 3 $counts
    is "lines of bench $counts" "$(grep -c '"op":"ffn"' out)" 2
    is "exact hits of bench $counts" "$(grep -c '"hit":"exact"' out)" 1
done
config=$(query path.db "SELECT config FROM trials WHERE status = 'ok' AND config NOT LIKE '%,down_$down'")
expect 0 "" "$MOE" bench --device host --config "$config" --workloads shared.jsonl --ops ffn --rounds 3 --bias \
    --activation swiglu_clamp --clamp 1.5 --prob combine
"$MOE" compare out out >compared 2>err && pass || fail "compare: $(cat err)"
is "tokens of bench" "$(grep -c '"rows":64,"tokens":32,' out)" 1
is "lines of bench --config" "$(grep -c '"hit":"asked"' out)" 1
SEVERAL_LINES=1 expect 1 "20 experts a token" "$MOE" bench --device host --default --workloads crowded.jsonl --ops ffn --rounds 3

# ---- other tokens are another workload to a store, and the same to a table ----
default_only() { "$MOE" sweep --device host --families host_blas --ops ffn --rounds 3 --db "$@"; } # no path family of it
expect 0 "1 races finished" default_only path.db --workloads shared.jsonl
holds "a sweep of other tokens" err "0 were finished before"
expect 0 "" "$MOE" show --db path.db
holds "show" out "tokens=32"
expect 0 "1 races finished" default_only other.db --workloads shared.jsonl
expect 0 "" "$MOE" merge --db other.db path.db
is "problems after a merge" "$(query other.db "SELECT count(*) FROM problems")" 2
expect 0 "" "$MOE" emit --db other.db --out joined
is "problems of the table" "$(grep -c '"key":.*"op=ffn' joined/table.json)" 1
is "points of one counts" "$(grep -c '"workload":' joined/table.json)" 1
expect 0 "2 right, 0 wrong, 0 could not run" "$MOE" verify --table joined --device host
expect 0 "" "$MOE" diff table joined
expect 0 "2 races finished" default_only other.db --ops ffn --experts 4 --hidden 64 --inter 32 --rows 32,128 --skew balanced
expect 0 "" "$MOE" emit --db other.db --out joined
is "rows of the points, ascending" "$(grep -oE '"rows":\s*[0-9]+' joined/table.json | grep -oE '[0-9]+' | xargs)" "32 64 128"
SEVERAL_LINES=1 expect 1 "not measured" default_only crowded.db --workloads crowded.jsonl

# ---- verify takes a point's tokens from the table ----
sed 's/"tokens":1,//' crowded.jsonl >apart.jsonl
expect 0 "1 races finished" default_only apart.db --workloads apart.jsonl
expect 0 "" "$MOE" emit --db apart.db --out apart
python3 - apart/table.json <<'EOT'
import hashlib, re, sys
text, edits = re.subn(r'("tokens":\s*)null', r"\g<1>1", open(sys.argv[1]).read())
assert edits == 1
before, digits, after = re.split(r'(?<="hash":)(\s*"[0-9a-f]{64})', text, maxsplit=1)
digits = digits[:-64]
digest = hashlib.sha256((before + digits + after).encode()).hexdigest()
open(sys.argv[1], "w").write(before + digits + digest + after)
EOT
SEVERAL_LINES=1 expect 1 "0 right, 0 wrong, 2 could not run" "$MOE" verify --table apart --device host
holds "verify's reason" out "20 experts a token"
finish
