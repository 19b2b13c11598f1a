#!/usr/bin/env bash
# Efforts: a higher one tries more and begins where a lower one ended, a lower one never begins again. Budgets: the time is
# shared, the sweep ends with what is there and says what is not tuned.
. "$(dirname "$0")/lib.sh"
export OMP_WAIT_POLICY=passive # threads that outnumber processors must not spin

for rows in 8 24; do
    echo "{\"name\":\"w$rows\",\"experts\":2,\"hidden\":64,\"inter\":32,\"rows\":$((2 * rows)),\"skew\":\"balanced\",\"counts\":[$rows,$rows]}"
done >workloads.jsonl
sweep=("$MOE" sweep --device host --families host_tile --workloads workloads.jsonl --ops up --rounds 3 --db a.db)
trials() { query a.db "SELECT count(*) FROM trials WHERE status = 'ok'"; }
efforts() { query a.db "SELECT group_concat(effort) FROM (SELECT effort FROM done ORDER BY effort)"; }

expect 0 "2 races finished" "${sweep[@]}" --effort quick
is "done after quick" "$(efforts)" 0,0
quick=$(trials)
is "cost models" "$(query a.db 'SELECT count(*) FROM cost_models WHERE points > 0 AND tensor_flops_per_s > 0')" 1
model=$(query a.db 'SELECT quote(tensor_flops_per_s) FROM cost_models')
expect 0 "2 were finished before" "${sweep[@]}" --effort quick
is "trials after the same again" "$(trials)" "$quick"

expect 0 "2 races finished" "${sweep[@]}" # normal
is "done after normal" "$(efforts)" 1,1
is "the cost model, fitted once" "$(query a.db 'SELECT quote(tensor_flops_per_s) FROM cost_models')" "$model"
normal=$(trials)
[ "$normal" -gt "$quick" ] && pass || fail "normal tried no more than quick: $normal, $quick"
expect 0 "2 were finished before" "${sweep[@]}" --effort quick
is "done after quick again" "$(efforts)" 1,1

expect 0 "2 races finished" "${sweep[@]}" --effort exhaustive
is "done after exhaustive" "$(efforts)" 2,2
[ "$(trials)" -gt "$normal" ] && pass || fail "exhaustive tried no more than normal"
[ "$(query a.db "SELECT count(*) FROM trials t JOIN runs r ON r.id = t.run_id WHERE final_rounds = 1 AND r.effort = 2")" -ge 2 ] && pass || fail "no final rounds of the highest effort"
holds "what show says" <("$MOE" show --db a.db --trials --format csv) ,exhaustive,

# Retuned with a lower effort: measured again, but what stands was found with more.
final_trials() { query a.db "SELECT group_concat(t.id) FROM (SELECT t.id FROM trials t JOIN runs r ON r.id = t.run_id WHERE final_rounds = 1 AND r.effort = 2 ORDER BY t.id) t"; }
before=$(final_trials)
expect 0 "2 races finished" "${sweep[@]}" --effort quick --retune
is "final trials after it" "$(final_trials)" "$before"
is "done after it" "$(efforts)" 2,2

# What a table takes of a problem, of the chosen families, is measured at all its workloads; at quick it need not be. The
# same again does nothing. Which these are is a matter of times: more than one mostly.
for rows in 8 64 512; do
    echo "{\"name\":\"f$rows\",\"experts\":4,\"hidden\":64,\"inter\":32,\"rows\":$((4 * rows)),\"skew\":\"balanced\",\"counts\":[$rows,$rows,$rows,$rows]}"
    echo "{\"name\":\"h$rows\",\"experts\":4,\"hidden\":64,\"inter\":32,\"rows\":$((4 * rows)),\"skew\":\"hot\",\"counts\":[$((4 * rows - 3)),1,1,1]}"
done >six.jsonl
six=("$MOE" sweep --device host --families host_tile --workloads six.jsonl --ops up --rounds 3 --db six.db)
expect 0 "6 races finished" "${six[@]}"
expect 0 "" "$MOE" emit --db six.db --out six
cat >lacking.py <<'END'
import json, sqlite3, sys
db, configs, lacking = sqlite3.connect(sys.argv[1]), set(), 0
def walk(o):
    if isinstance(o, dict):
        configs.update(v for k, v in o.items() if k == "config" and v.startswith("host_tile:"))
        for v in o.values(): walk(v)
    elif isinstance(o, list):
        for v in o: walk(v)
walk(json.load(open(sys.argv[2])))
for (point,) in db.execute("SELECT id FROM workloads").fetchall():
    tried = {c for (c,) in db.execute("SELECT config FROM trials WHERE workload_id = ? AND measured_at >= ?", (point, sys.argv[3]))}
    lacking += len(configs - tried)
print(lacking)
END
is "configurations of the table that are not measured somewhere" "$(python3 lacking.py six.db six/table.json "")" 0
# Whatever won: what no race tries first wins at one workload, and is then measured at the others.
forced=host_tile:mr=4,nr=16,kc=512,nc=256,schedule=dynamic
cat >force.py <<'END'
import sqlite3, sys
db = sqlite3.connect("six.db")
db.execute("PRAGMA foreign_keys = ON") # samples go along
at = "workload_id = (SELECT workload_id FROM workload_names WHERE name = 'f8')"
columns = [r[1] for r in db.execute("PRAGMA table_info(trials)") if r[1] != "id"]
new = {"config": f"'{sys.argv[1]}'", "measured_at": sys.argv[2], "median_ns": "1", "final_rounds": "1", "is_default": "0"}
db.execute("DELETE FROM trials WHERE config = ?" + sys.argv[3], sys.argv[1:2])
rows = db.execute(f"INSERT INTO trials ({','.join(columns)}) SELECT {','.join(new.get(n, n) for n in columns)} "
                  f"FROM trials WHERE is_default AND device_counts AND {at}").rowcount
db.execute(f"UPDATE trials SET noise_ns = 0 WHERE {at}")
db.commit()
assert rows == 1
END
python3 force.py $forced measured_at "" && pass || fail "no default to copy"
expect 0 "0 races finished, 6 were finished before" "${six[@]}"
expect 0 "" "$MOE" emit --db six.db --out six
holds "a table with what wins at one workload" six/table.json "$forced"
is "workloads that lack it" "$(python3 lacking.py six.db six/table.json "")" 0
before=$(query six.db 'SELECT count(*), max(id) FROM trials')
expect 0 "nothing to do" "${six[@]}"
is "trials after the same again" "$(query six.db 'SELECT count(*), max(id) FROM trials')" "$before"
# Nor does another day's time stay beside today's.
python3 force.py $forced "'9999-01-01T00:00:00.000Z'" " AND workload_id = (SELECT workload_id FROM workload_names WHERE name = 'f8')" &&
    pass || fail "no default to copy: it wins with a time that --retune keeps"
expect 0 "6 races finished" "${six[@]}" --retune
expect 0 "" "$MOE" emit --db six.db --out six
is "configurations of the table that --retune left as they were" "$(python3 lacking.py six.db six/table.json "$(query six.db 'SELECT max(started_at) FROM runs')")" 0

# What was wrong at another workload is measured, and takes no place in the final rounds: here all that was tried before.
python3 - <<'END' && pass || fail "nothing could be made wrong"
import sqlite3
db = sqlite3.connect("six.db")
at = "workload_id = (SELECT workload_id FROM workload_names WHERE name = '%s')"
assert db.execute(f"UPDATE trials SET status = 'wrong', final_rounds = 0 WHERE NOT is_default AND {at % 'f512'} "
                  f"AND config IN (SELECT config FROM trials WHERE NOT is_default AND {at % 'f8'})").rowcount > 1
db.commit()
END
head -n 1 six.jsonl >f8.jsonl
expect 0 "1 races finished" "$MOE" sweep --device host --families host_tile --workloads f8.jsonl --ops up --rounds 3 --db six.db --retune
now="status = 'ok' AND NOT is_default AND measured_at BETWEEN (SELECT max(started_at) FROM runs) AND '9000' AND id IN (SELECT id FROM suspects)"
is "suspects that were measured" "$(query six.db "SELECT count(*) > 1 FROM trials WHERE $now")" 1
is "suspects in final rounds" "$(query six.db "SELECT count(*) FROM trials WHERE final_rounds = 1 AND $now")" 0

# Everything is in a merged database too.
expect 0 "" "$MOE" merge --db b.db a.db
is "done in a merged database" "$(query b.db 'SELECT min(effort) FROM done')" 2
is "cost models in it" "$(query b.db 'SELECT count(*) FROM cost_models')" 1

# A budget that is spent at once.
expect 0 "not tuned: w8 16 rows balanced up nk; w24 48 rows balanced up nk" "${sweep[@]}" --retune --budget 0.001s
expect 0 "the budget is spent; the same command measures all of it again (--retune)" "${sweep[@]}" --retune --budget 0.001s
# One that is enough changes nothing.
expect 0 "2 races finished, 0 were finished before, 0 failed, 0 left" "${sweep[@]}" --retune --effort quick --budget 1h

expect 2 "'slow' is not quick, normal or exhaustive" "${sweep[@]}" --effort slow
expect 2 "--noise" "${sweep[@]}" --noise -1
expect 2 "--jobs" "${sweep[@]}" --jobs many
expect 2 "--jobs: 64 is not between 0 and 16" "${sweep[@]}" --jobs 64
finish
