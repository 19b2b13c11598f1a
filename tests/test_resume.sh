#!/usr/bin/env bash
# kill -9 during a sweep, then the same command again: no finished trial is lost or measured again. Two sweeps at once
# on one database share the work or repeat some, and lose nothing. What refinement adds to the candidates is kept alike.
. "$(dirname "$0")/lib.sh"

for rows in 8 16 24 32; do
    echo "{\"name\":\"w$rows\",\"experts\":2,\"hidden\":64,\"inter\":32,\"rows\":$((2 * rows)),\"skew\":\"balanced\",\"counts\":[$rows,$rows]}"
done >workloads.jsonl
sweep=("$MOE" sweep --device host --effort exhaustive --families host_blas --workloads workloads.jsonl --ops up --rounds 3 --db sweep.db)
trials() { query sweep.db "SELECT count(*) FROM trials WHERE status IN ('ok','inapplicable')" 2>/dev/null || echo 0; }
# What a trial is and when it was measured; winners are measured again in final rounds, which replaces the trial.
snapshot() {
    python3 - "$1" <<'EOF'
import sqlite3, sys
c = sqlite3.connect("file:sweep.db?mode=ro", uri=True)
for row in c.execute("SELECT workload_id, problem_id, config, device_counts, measured_at, median_ns, sample_count, run_id FROM trials "
                     "WHERE final_rounds = 0 ORDER BY 1, 2, 3, 4"):
    print("|".join(map(str, row)), file=open(sys.argv[1], "a"))
EOF
}

kills=0
for round in 1 2 3; do
    "${sweep[@]}" >log 2>&1 &
    pid=$!
    before=$(trials)
    # Killed in the middle: once it has stored something new.
    for _ in $(seq 600); do
        [ "$(trials)" -gt $((before + 4 * round)) ] && break
        kill -0 $pid 2>/dev/null || break
        sleep 0.05
    done
    if kill -9 $pid 2>/dev/null; then kills=$((kills + 1)); fi
    wait $pid 2>/dev/null
    is "the database after kill -9" "$(query sweep.db 'PRAGMA integrity_check')" ok
    now=$(trials)
    [ "$now" -ge "$before" ] && pass || fail "kill $round: $before trials before, $now after"
    rm -f "kept.$round"
    snapshot "kept.$round"
    [ -s "kept.$round" ] || echo "kill $round: nothing but final rounds yet"
done
[ "$kills" -gt 0 ] && pass || fail "the sweep ended before it could be killed: the test tests nothing"
"${sweep[@]}" >log 2>&1
is "the sweep that goes on" $? 0
rm -f after
snapshot after
# check_kept SNAPSHOT...: every trial that stood at a kill stands unchanged, or was replaced by its final rounds.
check_kept() {
    python3 - "$@" <<'EOF' && pass || fail "finished trials were lost or measured again"
import sqlite3, sys, os
c = sqlite3.connect("file:sweep.db?mode=ro", uri=True)
rows = {tuple(map(str, r[:4])): r for r in c.execute(
    "SELECT workload_id, problem_id, config, device_counts, measured_at, median_ns, sample_count, run_id, final_rounds FROM trials")}
bad = kept = 0
for name in sys.argv[1:]:
    if not os.path.exists(name): continue
    for line in open(name):
        old = line.rstrip("\n").split("|")
        new = rows.get(tuple(old[:4]))
        if new is None: print("lost:", line); bad += 1
        elif new[8]: continue
        elif list(map(str, new[4:8])) != old[4:8]: print("measured again:", line, new); bad += 1
        else: kept += 1
print(kept, "trials kept as they were")
sys.exit(bad != 0 or kept == 0)
EOF
}
check_kept kept.1 kept.2 kept.3
before=$(sha256sum after)
runs=$(query sweep.db "SELECT max(run_id) FROM trials")
"${sweep[@]}" >log 2>&1
is "a sweep with nothing left" $? 0
rm -f after
snapshot after
is "what a sweep with nothing left changes" "$(sha256sum after)" "$before"
is "the latest run with trials" "$(query sweep.db 'SELECT max(run_id) FROM trials')" "$runs"

# An interrupt keeps what is finished, exits 1 and says how to go on.
rm -f sweep.db*
"${sweep[@]}" >log 2>&1 &
pid=$!
for _ in $(seq 600); do [ "$(trials)" -gt 5 ] && break; sleep 0.05; done
kill -INT $pid
wait $pid
is "an interrupted sweep" $? 1
[ "$(trials)" -gt 5 ] && pass || fail "the interrupt lost trials"

# Two at once. Their threads are more than the processors: they must not spin while they wait.
rm -f sweep.db*
OMP_WAIT_POLICY=passive OPENBLAS_THREAD_TIMEOUT=4 "${sweep[@]}" >log.1 2>&1 &
first=$!
OMP_WAIT_POLICY=passive OPENBLAS_THREAD_TIMEOUT=4 "${sweep[@]}" >log.2 2>&1 &
second=$!
wait $first
is "the first of two sweeps" $? 0
wait $second
is "the second of two sweeps" $? 0
is "the database of two sweeps" "$(query sweep.db 'PRAGMA integrity_check')" ok
is "trials without samples" "$(query sweep.db "SELECT count(*) FROM trials t WHERE status = 'ok' AND sample_count <> (SELECT count(*) FROM samples s WHERE s.trial_id = t.id)")" 0
expect 0 "" "$MOE" emit --db sweep.db --out table
expect 0 "" "$MOE" verify --table table --device host

# Refinement varies what the first candidates leave at its first value: of chosen families only.
is "configs of a family that is not chosen" "$(query sweep.db "SELECT max(n) FROM (SELECT count(DISTINCT config) AS n FROM trials WHERE config LIKE 'host_tile:%' GROUP BY workload_id, problem_id)")" 1

# Killed in refinement. One expert of 256 columns: nc=256 is no default and, where there are two threads, slow enough
# for its trials to be stored at once.
echo '{"name":"refine","experts":1,"hidden":512,"inter":128,"rows":64,"skew":"balanced","counts":[64]}' >refine.jsonl
sweep=("$MOE" sweep --device host --effort exhaustive --families host_tile --workloads refine.jsonl --ops up --rounds 3 --db sweep.db)
cat >kill_refining.py <<'EOF'
import os, sqlite3, sys, time
pid = int(sys.argv[1])
for _ in range(30000):
    try:
        c = sqlite3.connect("file:sweep.db?mode=ro", uri=True)
        found = c.execute("SELECT count(*) FROM trials WHERE config LIKE '%nc=256%'").fetchone()[0]
        c.close()
    except sqlite3.Error:
        found = 0
    if found or not os.path.exists(f"/proc/{pid}"): break
    time.sleep(0.002)
os.kill(pid, 9)
EOF
# On a busy machine a kill may come too late to say anything.
in_refinement=
for _ in 1 2 3 4 5; do
    rm -f sweep.db* kept.*
    "${sweep[@]}" >log 2>&1 &
    pid=$!
    python3 kill_refining.py $pid 2>/dev/null # one process that looks often: the step is short
    wait $pid 2>/dev/null
    code=$?
    is "the database after it" "$(query sweep.db 'PRAGMA integrity_check')" ok
    before=$(trials)
    snapshot kept.1
    "${sweep[@]}" >log 2>&1
    is "the sweep that goes on refining" $? 0
    [ ! -s kept.1 ] || check_kept kept.1
    if [ "$code" = 137 ] && [ "$(trials)" -gt "$before" ]; then
        in_refinement=yes
        break
    fi
done
is "a sweep killed in refinement" "$in_refinement" yes
# mr and nr not the default's, and another nc or schedule than any first candidate has.
default=$(query sweep.db "SELECT substr(config, 1, instr(config, ',kc=')) FROM trials WHERE is_default = 1")
refined=$(query sweep.db "SELECT count(*) FROM trials WHERE status = 'ok' AND config LIKE 'host_tile:%' AND config NOT LIKE '$default%' AND (config NOT LIKE '%,nc=64,%' OR config NOT LIKE '%,schedule=static')")
[ "$refined" -gt 0 ] && pass || fail "refinement tried nothing but around the default '$default'"
finish
