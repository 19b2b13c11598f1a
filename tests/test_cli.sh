#!/usr/bin/env bash
# Bad input of every kind: a one-line error that says what and where, the right exit code, nothing lost and nothing
# half-written. And the good way through every command, once.
. "$(dirname "$0")/lib.sh"

shape=(--experts 4 --hidden 64 --inter 32 --device host)

# ---- usage ----
SEVERAL_LINES=1 expect 2 "Usage:" "$MOE"
expect 2 "did you mean 'sweep'" "$MOE" sweeep
expect 2 "no command 'bogus'" "$MOE" bogus
expect 0 "" "$MOE" --help
expect 0 "" "$MOE" --version
for command in doctor workloads sweep show emit diff merge bench compare regret verify recheck; do
    expect 0 "" "$MOE" $command --help
    holds "$command --help" out "Example:"
    expect 2 "--nonsense" "$MOE" $command --nonsense
done

# ---- numbers and names ----
expect 2 "deepseek-v3" "$MOE" sweep --model deepseek-w3 --ep 32
expect 2 "does not divide the 256 experts" "$MOE" sweep --model deepseek-v3 --ep 7
expect 2 "--ep" "$MOE" sweep --model deepseek-v3
expect 2 "give one of" "$MOE" sweep
while IFS='|' read -r option value words; do
    expect 2 "$words" "$MOE" sweep "${shape[@]}" "$option" "$value"
done <<'EOF'
--rows|0|--rows: 0 is not between
--rows|-5|--rows: '-5'
--rows|99999999|99999999
--rows|99999999999999999999999|--rows
--rows|1..|--rows
--rows|64..8x2|--rows
--rows|1..1048576+1|--rows
--rows|8,|--rows
--experts|0|--experts
--experts|1025|1025
--experts|-4|'-4'
--hidden|60|multiples of 8
--hidden|0|--hidden
--hidden|64e3|e3'
--inter|2097152|--inter
--skew|bogus:1|'bogus:1'
--skew|zipf:-1|zipf:-1
--skew|hot:2|hot:2
--ops|sideways|'sideways'
--layout|kk|'kk'
--families|nope|'nope'
--budget|soon|'soon'
--budget|-5s|'-5s'
--shard|5/4|'5/4'
--shard|0/4|'0/4'
--numerics|exact|'exact'
--device|toaster|'toaster'
--rounds|0|--rounds
--seed|x|--seed
EOF
# Options of op ffn that contradict each other are named, whatever the command.
while IFS='|' read -r given words; do
    for command in "sweep ${shape[*]}" "bench --device host --default --workloads small.jsonl" \
        "verify --device host --against dump.npz"; do
        expect 2 "$words" "$MOE" $command --ops ffn $given
    done
done <<'EOF'
--combine paddle|--combine paddle needs --prob combine
--combine paddle --prob advance|--combine paddle needs --prob combine
--activation swiglu_clamp|--activation swiglu_clamp needs --clamp
--activation swiglu_clamp --clamp 0|--activation swiglu_clamp needs --clamp
--clamp 1.5|--clamp needs --activation swiglu_clamp
--activation gpt_oss --clamp 7|--clamp needs --activation swiglu_clamp
--bias up|--bias=up
--bias sideways|Too many arguments
EOF
expect 0 "" "$MOE" sweep "${shape[@]}" --ops ffn --dry-run --activation swiglu_clamp --clamp 1.5 --bias=up \
    --combine paddle --prob combine
expect 0 "" "$MOE" sweep --help
holds "sweep --help" out "--bias[=yes|no|up|down]"
is "databases that usage errors leave" "$(echo *.db*)" "*.db*"

# ---- workload files: file and line ----
bad_line() { # WORDS LINE
    { cat small.jsonl; printf '%s' "$2"; } >bad.jsonl
    expect 2 "bad.jsonl:3" "$MOE" sweep --device host --workloads bad.jsonl --dry-run
    holds "bad line $2" err "$1"
}
bad_line "column" '{"name":"x","experts":4'
bad_line "column" 'hello'
bad_line "missing" '{"name":"x"}'
bad_line "unknown field" '{"name":"x","experts":1,"hidden":8,"inter":8,"rows":1,"skew":"s","counts":[1],"colour":1}'
bad_line "sum to 3" '{"name":"x","experts":2,"hidden":8,"inter":8,"rows":4,"skew":"s","counts":[1,2]}'
bad_line "2 numbers for 3 experts" '{"name":"x","experts":3,"hidden":8,"inter":8,"rows":3,"skew":"s","counts":[1,2]}'
bad_line "counts[1]" '{"name":"x","experts":2,"hidden":8,"inter":8,"rows":1,"skew":"s","counts":[2,-1]}'
bad_line "rows" '{"name":"x","experts":1,"hidden":8,"inter":8,"rows":9999999999,"skew":"s","counts":[9999999999]}'
bad_line "1e3" '{"name":"x","experts":1,"hidden":1e3,"inter":8,"rows":1,"skew":"s","counts":[1]}'
expect 1 "absent.jsonl" "$MOE" sweep --device host --workloads absent.jsonl
: >empty.jsonl
"$MOE" sweep --device host --workloads empty.jsonl --dry-run >out 2>err && fail "an empty workload file is taken" || pass
holds "empty file" err "empty.jsonl"
head -c 150000 /dev/urandom >noise.jsonl
"$MOE" sweep --device host --workloads noise.jsonl --dry-run >out 2>err
is "noise as workloads" $? 2
"$MOE" sweep --device host --workloads . --dry-run >out 2>err && fail "a folder as workloads" || pass

# ---- the good way ----
expect 0 "" small_sweep --db good.db
expect 0 "" "$MOE" show --db good.db
holds "show" out "small/a"
expect 0 "" "$MOE" show --db good.db --trials --format csv
expect 0 "" "$MOE" show --db good.db --format json
python3 -c 'import json,sys; [json.loads(l) for l in open("out")]' && pass || fail "show --format json is no JSON"
expect 2 "both name a workload" "$MOE" show --db good.db --why small/a --workload small/b
expect 0 "" "$MOE" show --db good.db --why small/a
# Counts that are there under another name are found by the new ones too, several in one file or in a new database.
{ head -n 1 small.jsonl | sed 's|small/a|other/a|'; head -n 1 small.jsonl | sed 's|small/a|third/a|'; } >names.jsonl
names() { "$MOE" sweep --effort exhaustive --device host --families host_blas --workloads names.jsonl --ops up --rounds 3 "$@"; }
cp good.db "good names.db"
expect 0 "0 races finished, 2 were finished before" names --db "good names.db"
for name in other/a third/a small/a; do expect 0 "" "$MOE" show --db "good names.db" --why "$name"; done
expect 0 "1 races finished, 1 were finished before" names --db "it's.db"
holds "a path as a shell reads it" err "next: moe-tune show --db 'it'\\''s.db'"
for name in other/a third/a; do expect 0 "" "$MOE" show --db "it's.db" --why "$name"; done
holds "show --why" out "host_blas"
expect 0 "" "$MOE" emit --db good.db --out table
cp -r table before
expect 0 "" "$MOE" emit --db good.db --out table
cmp -s before/table.json table/table.json && pass || fail "emitting twice changes the table"
expect 0 "" "$MOE" emit --db good.db --out again
expect 0 "times the time of the winners of all" "$MOE" emit --db good.db --out same --bits host_tile --format json
holds "bits" out '"bits":"host_tile"'
expect 2 "no bit class 'sequ'; the classes are seq, " "$MOE" emit --db good.db --out sequ --bits sequ
[ ! -e sequ ] && pass || fail "a wrong bit class leaves a table"
cmp -s again/table.json table/table.json && pass || fail "the same database gives another table"
expect 0 "" "$MOE" diff before table
expect 0 "" "$MOE" verify --table table --device host
expect 0 "" "$MOE" bench --device host --table table --workloads small.jsonl --ops up --rounds 3
cp out bench.jsonl
grep -qF '"hit":"exact"' bench.jsonl && pass || fail "bench: no exact hit"
expect 0 "" "$MOE" bench --device host --default --workloads small.jsonl --ops up --rounds 3
cp out default.jsonl
SEVERAL_LINES=1 expect 0 "out of time: 1 of 1 points not measured" "$MOE" bench --device host --default --ops up --seconds 0.000000001s --workloads small.jsonl --match small/a
expect 2 "--match: no workload of small.jsonl has 'elsewhere' in its name" "$MOE" bench --device host --default --workloads small.jsonl --match elsewhere
expect 0 "" "$MOE" compare bench.jsonl default.jsonl
expect 4 "" "$MOE" compare bench.jsonl default.jsonl --at-least 1000000
peers="$(python3 -c 'import json; print(", ".join(dict.fromkeys(p["peer"] for p in map(json.loads, open("bench.jsonl")) if "peer" in p)))')"
expect 2 "bench.jsonl holds no peer foo but $peers; --peer" "$MOE" compare bench.jsonl default.jsonl --peer foo
expect 2 "bench.jsonl holds no peer foo but $peers; --against" "$MOE" compare bench.jsonl bench.jsonl --against foo,bar
# A path may be no UTF-8, JSON is.
expect 0 "" "$MOE" emit --db good.db --out $'t\xff' --format json
is "bytes of a path in JSON" "$(python3 -c 'import json; print(json.loads(open("out", encoding="utf-8").read())["table"].encode("utf-8").hex())')" 74efbfbd
expect 0 "next: moe-tune regret --table table --workloads 'drawn here.jsonl'" "$MOE" workloads draw --count 2 --model deepseek-v3 --out "drawn here.jsonl"
expect 0 "" "$MOE" sweep "${shape[@]}" --dry-run
expect 0 "" "$MOE" sweep --model deepseek-v3 --ep 32 --dry-run --device host --db dry.db
[ ! -e dry.db ] && pass || fail "--dry-run made a database"
expect 0 "" "$MOE" doctor --no-measure
expect 0 "" "$MOE" merge --db merged.db good.db
expect 0 "" "$MOE" emit --db merged.db --out merged
cmp -s merged/table.json table/table.json && pass || fail "a merged database gives another table"
expect 0 "" "$MOE" sweep "${shape[@]}" --families host_blas --ops up --rows 8 --skew balanced --rounds 3 --db shards.db --shard 1/2
expect 0 "" "$MOE" sweep "${shape[@]}" --families host_blas --ops up --rows 8 --skew balanced --rounds 3 --db shards.db --shard 2/2

# ---- databases that are none ----
mkdir folder.db
expect 2 "is a folder" "$MOE" show --db folder.db
expect 2 "is a folder" small_sweep --db folder.db
expect 1 "absent.db" "$MOE" show --db absent.db
[ ! -e absent.db ] && pass || fail "show made a database"
expect 1 "nowhere" small_sweep --db nowhere/x.db
python3 - <<'EOF'
import sqlite3
c = sqlite3.connect("mail.db"); c.execute("CREATE TABLE mail (id INTEGER)"); c.execute("INSERT INTO mail VALUES (1)"); c.commit(); c.close()
EOF
sum=$(sha256sum <mail.db)
for command in "show --db mail.db" "emit --db mail.db --out t2" "merge --db mail.db good.db"; do
    "$MOE" $command >out 2>err
    code=$?
    { [ $code = 1 ] || [ $code = 2 ]; } && grep -q "another program" err && pass || fail "$command: exit $code, $(cat err)"
done
expect 1 "another program" small_sweep --db mail.db
is "another program's database" "$(sha256sum <mail.db)" "$sum"
cp good.db newer.db
python3 -c 'import sqlite3; c=sqlite3.connect("newer.db"); c.execute("PRAGMA user_version=99"); c.commit()'
expect 1 "99" "$MOE" show --db newer.db
expect 1 "99" small_sweep --db newer.db
# What was wrong at one workload wins at no other: said where trials are shown, and of a default where a table is made.
cp good.db suspect.db
is "a default that was wrong" "$(python3 - <<'EOF'
import sqlite3
c = sqlite3.connect("suspect.db", isolation_level=None)
at = "workload_id = (SELECT workload_id FROM workload_names WHERE skew = 'hot')"
config, problem = c.execute(f"SELECT config, problem_id FROM trials WHERE is_default AND {at}").fetchone()
c.execute(f"UPDATE trials SET status = 'wrong', final_rounds = 0 WHERE config = ? AND problem_id = ? AND {at}", (config, problem))
print(c.execute("SELECT count(*) > 0 FROM suspects JOIN trials USING (id) WHERE status = 'ok'").fetchone()[0])
EOF
)" 1
expect 0 "" "$MOE" show --db suspect.db --trials --format csv
holds "its other trials" out "wrong elsewhere in this problem: it wins nothing"
expect 0 "winners stand where the default was wrong at another workload" "$MOE" emit --db suspect.db --out suspects
# A database of the first version: read and merged from as it is, migrated by what writes.
cp good.db older.db
python3 - "$SOURCE/tuner/schema.sql" <<'EOF'
import sqlite3, sys
c = sqlite3.connect("older.db", isolation_level=None)
c.execute("PRAGMA journal_mode = DELETE")
c.execute("ALTER TABLE trials ADD COLUMN cubin_sha256 TEXT REFERENCES cubins (sha256)")
c.execute("DROP TABLE trial_cubins")
for table in "trial_algorithms", "algorithms", "cost_models", "counters", "profiles", "ep_samples", "ep_trials": c.execute("DROP TABLE " + table)
for table in "runs", "done": c.execute(f"ALTER TABLE {table} DROP COLUMN effort")
for part in "VIEW winners", "VIEW candidates", "VIEW suspects", "VIEW wrong_trials", "INDEX wrong_by_config": c.execute("DROP " + part)
first = open(sys.argv[1]).read()
c.executescript(first[first.index("CREATE VIEW candidates"):])
c.execute("PRAGMA user_version = 1")
EOF
sum=$(sha256sum <older.db)
"$MOE" show --db good.db --trials --format csv | sed 's/,normal,/,exhaustive,/' >good.csv # as what was before efforts counts
expect 0 "" "$MOE" show --db older.db --trials --format csv
is "trials of an older database" "$(cat out)" "$(cat good.csv)"
expect 0 "" "$MOE" emit --db older.db --out older-table
expect 0 "" "$MOE" merge --db from-older.db older.db
expect 0 "" "$MOE" show --db from-older.db --trials --format csv
is "trials merged from an older database" "$(cat out)" "$(cat good.csv)"
is "the older database" "$(sha256sum <older.db)" "$sum"
expect 0 "" small_sweep --db older.db
is "the version after a sweep" "$(query older.db "PRAGMA user_version")" 8
echo "this is a diary" >diary.db
expect 2 "diary.db" "$MOE" show --db diary.db
is "a text as database" "$(cat diary.db)" "this is a diary"

# What cannot be merged is named, and leaves no database behind that was not there.
expect 2 "database 'diary.db': not a moe-tune database; name another file" "$MOE" merge --db new.db good.db diary.db
is "an option for an argument" "$(grep -c -e --db err)" 0
[ ! -e new.db ] && pass || fail "a merge that cannot begin makes a database"
cp good.db damaged.db
python3 - <<'EOF'
import sqlite3
c = sqlite3.connect("damaged.db")
c.execute("PRAGMA journal_mode = DELETE")
page, = c.execute("PRAGMA page_size").fetchone()
root, = c.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'trials'").fetchone()
c.close()
with open("damaged.db", "r+b") as f:
    f.seek((root - 1) * page)
    f.write(b"\xff" * page)
EOF
cp good.db target.db
expect 2 "database 'damaged.db': damaged; rescue it with .recover of sqlite3, or name another file" "$MOE" merge --db target.db damaged.db
is "an option for an argument" "$(grep -c -e --db err)" 0
expect 2 "database 'damaged.db': damaged" "$MOE" merge --db new.db damaged.db
is "what a merge that failed leaves" "$(ls new.db* 2>/dev/null)" ""
expect 2 "database 'damaged.db': damaged" "$MOE" merge --db new.db good.db damaged.db
is "trials before the damaged one" "$(query new.db "SELECT count(*) FROM trials")" "$(query good.db "SELECT count(*) FROM trials")"
expect 2 "database 'damaged.db': damaged; rescue it with .recover of sqlite3, or name another file (--db)" "$MOE" merge --db damaged.db good.db

# ---- tables that are none ----
expect 1 "absent/table.json" "$MOE" verify --table absent --device host
mkdir broken
for length in 0 1 100 $(($(stat -c %s table/table.json) / 2)); do
    head -c "$length" table/table.json >broken/table.json
    expect 2 "broken/table.json" "$MOE" verify --table broken --device host
done
sed 's/"time_ns":\t[0-9]*/"time_ns":\t1/' table/table.json >broken/table.json
expect 1 "its hash says" "$MOE" verify --table broken --device host
expect 1 "its hash says" "$MOE" bench --table broken --workloads small.jsonl --device host
expect 1 "hash" "$MOE" diff table broken
mkdir thesis && echo text >thesis/chapter.txt
expect 2 "thesis" "$MOE" emit --db good.db --out thesis
is "a folder of something else" "$(ls thesis)" "chapter.txt"
MOET_TABLE=absent expect 0 "" "$MOE" verify --table table --device host # the command line wins
SEVERAL_LINES=1 expect 1 "entries refused, the first: op=" "$MOE" verify --table "$SOURCE/results/h100/table" --device host
is "verify of another device's table: a line a reason, and the sum" "$(wc -l <err)" 2

# ---- what cannot be written ----
printf x >file
expect 2 "file" "$MOE" emit --db good.db --out file/table
# Root passes over permissions, so another user tries.
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
    chmod 755 "$WORK"
    mkdir closed && cp good.db closed/ && chmod 555 closed && chmod 444 closed/good.db
    nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
    if nobody test -x "$MOE" && nobody test -r "$WORK/closed/good.db"; then
        expect 1 "closed/new.db" nobody "$MOE" sweep --device host --families host_blas --workloads small.jsonl --db closed/new.db
        expect 1 "closed/good.db" nobody "$MOE" merge --db closed/good.db good.db
        expect 1 "closed/table" nobody "$MOE" emit --db good.db --out closed/table
        expect 0 "" nobody "$MOE" show --db closed/good.db
        is "a read-only folder" "$(ls closed)" "good.db"
    else
        echo "skipped: another user cannot reach $MOE"
    fi
fi
# A full disk: a small file system where one may be mounted, otherwise a limit on the size of files.
clean_up() { mountpoint -q "$WORK/small" 2>/dev/null && umount "$WORK/small"; }
mkdir small
cp table/table.json before.json
if mount -t tmpfs -o size=256k tmpfs small 2>/dev/null; then
    SEVERAL_LINES=1 expect 1 "disk full" small_sweep --db small/full.db
    rm -rf small/*
    cat /dev/zero >small/filler 2>/dev/null
    expect 1 "small" "$MOE" emit --db good.db --out small/table
    rm -f small/filler
    is "what a failed emit left" "$(find small -name table.json | wc -l)" 0
    umount small
else
    echo "no tmpfs may be mounted: files limited to 64 KiB instead"
    (ulimit -f 64; trap '' XFSZ; small_sweep --db full.db) >out 2>err </dev/null
    is "a full disk" $? 1
    holds "a full disk" err "full.db"
fi
expect 0 "" "$MOE" verify --table table --device host
cmp -s before.json table/table.json && pass || fail "the table was touched"
"$MOE" show --db good.db >/dev/full 2>err
is "a full standard output" $? 1
finish
