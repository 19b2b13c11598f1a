#!/usr/bin/env bash
# recheck finds what no longer holds of a table, and sweep --stale measures that again and nothing else. Tables are
# edited so that what is to be found is there for sure: a family that has become slow, is wrong, fails or is of another
# version in the place of a winner.
. "$(dirname "$0")/lib.sh"
MOE=$BUILD/moe-tune-faulty
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 # however busy the machine is

small_sweep --db a.db >log 2>&1
is "the sweep" $? 0
expect 0 "" "$MOE" emit --db a.db --out emitted
python3 - emitted/table.json <<'EOF' && pass || fail "a winner's runner-up and a point's tokens are not in the table"
import json, sys
points = json.load(open(sys.argv[1]))["devices"][0]["problems"][0]["points"]
assert len(points) == 2
for p in points:
    assert p["tokens"] is None
    assert p["any"]["runner_up"] and p["any"]["runner_up"] != p["any"]["config"], p["any"]
EOF

# edited NAME STATEMENTS: a table of that name, in which every winner is the default but for what Python does to
# points[...] and device. Its times are so long that no machine is busy enough to make a verdict unclear.
edited() {
    mkdir -p "$1"
    python3 - "$1/table.json" "$2" <<'EOF'
import hashlib, json, sys
table = json.load(open("emitted/table.json"))
device = table["devices"][0]
problem = device["problems"][0]
points = problem["points"]
default = problem["defaults"][0]
for p in points:
    p["device_counts"] = None
    p["any"] = dict(p["any"], runner_up=None, device_counts=False, algorithms=[], time_ns=10**12, default_time_ns=None, **default)
def put(point, config, version=1, **more):
    point["any"].update(config=config, version=version, validator="", cubins=[], **more)
exec(sys.argv[2])
table["hash"] = ""
text = json.dumps(table, indent=1) + "\n"
digest = hashlib.sha256(text.encode()).hexdigest()
open(sys.argv[1], "w").write(text.replace('"hash": ""', '"hash": "' + digest + '"', 1))
EOF
}
# recheck TABLE ...: JSON lines in out.
recheck() { "$MOE" recheck --device host --rounds 3 --format json --table "$@" >out 2>err; }
# column NAME WORKLOAD FILE
column() { python3 -c 'import json,sys
print(*[json.loads(l)[sys.argv[1]] for l in open(sys.argv[3]) if json.loads(l)["workload"] == sys.argv[2]])' "$@"; }

edited good ""
recheck good --save good.jsonl
is "a table that holds" $? 0
is "its first point" "$(column verdict small/a out)" holds
is "its second point" "$(column verdict small/b out)" holds
holds "its summary" err "2 hold, 0 lost, 0 unclear, 0 stale, 0 wrong, 0 do not run, 0 left; 1 of 1 configurations"
cmp -s out good.jsonl && pass || fail "--save writes something else than --format json"
is "the time of a default that is the winner" "$(column default_us small/a out)" "$(column time_us small/a out)"

# Time for one point only: the other is told.
recheck good --seconds 0.001s --format text
is "no time" $? 0
is "verdicts without time" "$(awk '{ print $1 }' out | sort | xargs)" "holds left verdict"
holds "text" out "up experts=4 hidden=64 inter=32"
holds "no time" err "out of time: 1 entries not rechecked"

# Slower than when it was tuned, beside a runner-up; and one whose runner-up nobody knows.
edited slower 'points[0]["any"]["runner_up"] = "gone_family:x=1"
put(points[1], "faulty:fault=none", runner_up="host_tile:mr=4,nr=16,kc=256,nc=64,schedule=static")'
MOET_FAULT_SLOW=1 recheck slower --rounds 11 --save lost.jsonl
is "a winner that was lost" $? 4
is "the lost point" "$(column verdict small/b out)" lost
is "the other point" "$(column verdict small/a out)" holds
[ "$(column runner_up_us small/b out)" != None ] && pass || fail "the runner-up was not timed: $(cat out)"
holds "a runner-up that nobody knows" out "the runner-up: "
holds "the next step" err "moe-tune sweep --stale lost.jsonl"

# Interrupted, twice at once as by timeout: what was not reached is left, the rows are printed and saved. The second
# point takes half a minute.
MOET_FAULT_SLOW=1 "$MOE" recheck --device host --rounds 1000 --seconds 0 --format json --table slower --save cut.jsonl >out 2>err &
pid=$!
for _ in $(seq 600); do grep -q small/ err && break; sleep 0.1; done
kill -TERM $pid $pid
wait $pid
is "an interrupted recheck" $? 1
is "its second point" "$(column verdict small/b out)" left
is "its rows" "$(wc -l <out)" 2
is "a time of rounds that are not all" "$(column time_us small/b out)" None
holds "its summary" err "the same command begins anew"
cmp -s out cut.jsonl && pass || fail "an interrupted recheck saves something else"
is "what an interrupted recheck leaves" "$(echo cut.jsonl*)" cut.jsonl
# Where it cannot be saved nothing is measured: the table is not even looked for. A link stays one.
expect 1 "good: Is a directory" "$MOE" recheck --device host --table absent --save good
expect 1 "nowhere/x.jsonl" "$MOE" recheck --device host --table absent --save nowhere/x.jsonl
ln -s linked.jsonl link.jsonl
recheck good --seconds 0.001s --save link.jsonl
[ -L link.jsonl ] && pass || fail "--save replaces a link"
cmp -s out linked.jsonl && pass || fail "--save writes beside the link's target"

# Far slower than tuned, in times that differ by more than any other could be faster: no rival wins, and nothing holds.
edited busy 'put(points[1], "faulty:fault=none", time_ns=1000000, noise_ns=0, default_time_ns=1)'
MOET_FAULT_SLOW=growing recheck busy --save unclear.jsonl
is "a winner on a busy device" $? 4
is "the point on a busy device" "$(column verdict small/b out)" unclear
is "the other point" "$(column verdict small/a out)" holds
holds "its reason" out "times the tuned time"
holds "the summary" err "1 hold, 0 lost, 1 unclear, 0 stale"
holds "the hint" err "the device is busy"
grep -q "next:" err && fail "a sweep is named for what is unclear" || pass

edited wrong 'put(points[1], "faulty:fault=wrong"); points[0]["any"]["runner_up"] = "faulty:fault=wrong"'
recheck wrong
is "wrong results" $? 3
is "the point of a wrong winner" "$(column verdict small/b out)" wrong
is "the point of a wrong runner-up" "$(column verdict small/a out)" wrong
case $(column reason small/b out) in "the winner: "*" elements are wrong"*) pass ;; *) fail "wrong winner: $(cat out)" ;; esac
case $(column reason small/a out) in "the runner-up: "*" elements are wrong"*) pass ;; *) fail "wrong runner-up: $(cat out)" ;; esac
edited broken 'put(points[0], "faulty:fault=none", version=7); put(points[1], "faulty:fault=error")'
recheck broken --save stale.jsonl
is "winners of another version and that do not run" $? 4
is "the stale point" "$(column verdict small/a out)" stale
holds "the stale point" out "version 7 expected, 1 found"
is "the point that does not run" "$(column verdict small/b out)" failed
edited other 'device["key"] = device["key"] + "x"'
expect 1 "no entry was made for this device" "$MOE" recheck --device host --table other
expect 1 "absent" "$MOE" recheck --device host --table absent
"$MOE" recheck --device host --table other --save none.jsonl >out 2>err
is "what an error saves" "$(echo none.jsonl*)" "none.jsonl*"
SEVERAL_LINES=1 expect 2 "give --table" "$MOE" recheck

# ---- sweep --stale ----
# state WORKLOAD: everything about its trials, their samples and its done marks
state() {
    python3 - "$1" <<'EOF'
import sqlite3, sys
c = sqlite3.connect("file:a.db?mode=ro", uri=True)
of = "WHERE workload_id IN (SELECT workload_id FROM workload_names WHERE name = ?) ORDER BY 1, 4"
for row in c.execute("SELECT t.*, (SELECT group_concat(time_ns) FROM samples WHERE trial_id = t.id) FROM trials t " + of, sys.argv[1:]):
    print(row)
for row in c.execute("SELECT * FROM done " + of, sys.argv[1:]):
    print(row)
EOF
}
trials() { query a.db "SELECT count(*) FROM trials WHERE workload_id = (SELECT workload_id FROM workload_names WHERE name = 'small/b') AND $1"; }
stale() { "$MOE" sweep --effort exhaustive --device host --families host_blas --rounds 3 --db a.db --stale "$@" >log 2>&1; }
winner() {
    "$MOE" show --db a.db --workload small/b --format json |
        python3 -c 'import json,sys; print(*[r["config"] for r in map(json.loads, sys.stdin) if r["kind"] == "any"])'
}
# Something that is tried no longer, and was the fastest by far on the day of the sweep.
gone=host_tile:mr=4,nr=16,kc=128,nc=32,schedule=static
python3 - $gone <<'EOF'
import sqlite3, sys
c = sqlite3.connect("a.db")
columns = [r[1] for r in c.execute("PRAGMA table_info(trials)") if r[1] != "id"]
new = {"config": f"'{sys.argv[1]}'", "median_ns": "1", "final_rounds": "1", "is_default": "0"}
c.execute(f"INSERT INTO trials ({','.join(columns)}) SELECT {','.join(new.get(n, n) for n in columns)} FROM trials "
          "WHERE is_default AND device_counts = 0 AND family = 'host_tile' "
          "AND workload_id = (SELECT workload_id FROM workload_names WHERE name = 'small/b')")
c.execute("UPDATE trials SET noise_ns = 0 WHERE workload_id = (SELECT workload_id FROM workload_names WHERE name = 'small/b')")
c.commit()
EOF
is "the winner of the day" "$(winner)" $gone
state small/a >a.before
before=$(trials 1)
checked=$(column checked_at small/b lost.jsonl)
stale lost.jsonl
is "sweep --stale" $? 0
holds "sweep --stale" log "1 races finished, 0 were finished before"
state small/a >a.after
state small/b >b.after
cmp -s a.before a.after && pass || fail "sweep --stale touched a workload whose winner holds"
is "trials after sweep --stale" "$(trials 1)" "$before"
is "old trials that count as of final rounds" "$(trials "final_rounds AND measured_at < '$checked'")" 0
is "new trials of final rounds" "$(trials "final_rounds AND measured_at > '$checked'" | sed 's/^[1-9].*/some/')" some
is "trials that were not measured again" "$(trials "measured_at < '$checked' AND status = 'ok'")" 1
[ "$(winner)" != $gone ] && pass || fail "the lost winner wins again"
# The same command has nothing left to do, and so has the sweep.
stale lost.jsonl
holds "sweep --stale again" log "nothing to do"
state small/b >b.again
cmp -s b.after b.again && pass || fail "sweep --stale again measures again"
small_sweep --db a.db >log 2>&1
holds "the sweep after sweep --stale" log "nothing to do"
# What is stale or does not run is measured again too; a table that holds asks for nothing.
stale stale.jsonl --dry-run
holds "sweep --stale of a stale entry" log "races       2 "
stale good.jsonl
is "sweep --stale of what holds" $? 0
holds "sweep --stale of what holds" log "no winner that is lost or stale"
stale unclear.jsonl
is "sweep --stale of what is unclear" $? 0
holds "sweep --stale of what is unclear" log "no winner that is lost or stale"

# ---- emit --rerun ----
# The winner of a point has become slow since: told, and emitted all the same, as a table is its database's.
python3 - <<'PYTHON'
import sqlite3
c = sqlite3.connect("a.db")
of = "workload_id = (SELECT workload_id FROM workload_names WHERE name = 'small/b')"
assert c.execute(f"UPDATE trials SET median_ns = 1, noise_ns = 0, final_rounds = 1 WHERE config = 'faulty:fault=none' AND NOT device_counts AND {of}").rowcount == 1
c.execute(f"UPDATE trials SET noise_ns = 0 WHERE {of}")
c.commit()
PYTHON
expect 0 "" "$MOE" emit --db a.db --out plain --all-winners
began=$SECONDS
mkdir scratch
MOET_FAULT_SLOW=1 TMPDIR=$WORK/scratch "$MOE" emit --db a.db --out rerun --all-winners --rerun host --format json >out 2>err
is "emit --rerun of a winner that is slow now" $? 4
[ $((SECONDS - began)) -ge 4 ] && pass || fail "two points took less than their two seconds of load"
holds "emit --rerun" err "small/b 64 rows hot up any: under load the default is faster"
holds "emit --rerun: how many points" err "[0/2] under load: small/"
grep -qE '"reranked":[1-4],' out && pass || fail "emit --rerun: $(cat out)" # on a busy machine others are reranked too
cmp -s plain/table.json rerun/table.json && pass || fail "emit --rerun emits another table"
is "what emit --rerun leaves" "$(ls -A scratch)" ""
sqlite_wrong="UPDATE trials SET config = 'faulty:fault=wrong' WHERE config = 'faulty:fault=none' AND median_ns = 1"
python3 -c 'import sqlite3,sys; c = sqlite3.connect("a.db"); c.execute("DELETE FROM trials WHERE config = \"faulty:fault=wrong\""); c.execute(sys.argv[1]); c.commit()' "$sqlite_wrong"
SEVERAL_LINES=1 expect 3 "nothing was emitted" "$MOE" emit --db a.db --out none --all-winners --rerun host
[ ! -e none ] && pass || fail "emit --rerun emitted what is wrong"

# ---- bad files ----
bad() { expect "$1" "$2" "$MOE" sweep --device host --db b.db --stale "$3"; }
echo hello >bad.jsonl
bad 2 "bad.jsonl:1: not one complete JSON object" bad.jsonl
sed 's/"verdict":"lost"/"verdict":"bored"/' lost.jsonl >bad.jsonl
bad 2 "'bored' is unknown" bad.jsonl
sed 's/"counts":\[61,/"counts":[60,/' lost.jsonl >bad.jsonl
bad 2 "counts sum to 63" bad.jsonl
sed 's/"device":"backend=host/"device":"backend=cuda/' lost.jsonl >bad.jsonl
bad 2 "rechecked on another device" bad.jsonl
{ sed 's/"device":"backend=host/"device":"backend=cuda/' good.jsonl; cat lost.jsonl; } >bad.jsonl
bad 2 "another device than the lines before" bad.jsonl
bad 1 "cannot open absent.jsonl" absent.jsonl
: >bad.jsonl
bad 2 "is empty" bad.jsonl
SEVERAL_LINES=1 expect 2 "give one of" "$MOE" sweep --stale lost.jsonl --workloads small.jsonl
SEVERAL_LINES=1 expect 2 "in the --stale file already" "$MOE" sweep --stale lost.jsonl --rows 64
is "databases that bad files leave" "$(echo b.db*)" "b.db*"

finish
