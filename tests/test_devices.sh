#!/usr/bin/env bash
# A sweep over several devices, and one in shards: all of it is measured, once, and the database is that of one sweep.
. "$(dirname "$0")/lib.sh"

for rows in 8 16 24 32; do
    echo "{\"name\":\"w$rows\",\"experts\":2,\"hidden\":64,\"inter\":32,\"rows\":$((2 * rows)),\"skew\":\"balanced\",\"counts\":[$rows,$rows]}"
done >workloads.jsonl
sweep() { "$MOE" sweep --effort exhaustive --families host_blas --workloads workloads.jsonl --ops up --rounds 3 "$@"; }
# What was measured, whatever it took: problem, counts, config, kind of counts, status.
contents() { "$MOE" show --db "$1" --trials --format csv | python3 -c '
import csv, sys
rows = csv.DictReader(sys.stdin)
keep = [k for k in rows.fieldnames if k in ("op", "layout", "name", "rows", "skew", "config", "device_counts", "status")]
for row in sorted("|".join(row[k] for k in keep) for row in rows): print(row)'; }

# ---- devices ----
expect 2 "--device is one device" sweep --device host --devices host
expect 2 "named twice" sweep --devices host,host --db none.db
expect 2 "named twice" "$MOE" sweep --devices host,host --experts 2 --hidden 64 --inter 32 --rows 8 --skew balanced --db none.db
expect 2 "named twice" sweep --devices host/1,host/1 --db none.db
expect 2 "named twice" sweep --devices host,host:0 --db none.db
expect 2 "'auto' is no single device" sweep --devices auto,host --db none.db
expect 2 "host/N takes 1 to" sweep --devices host/0 --db none.db
expect 2 "host/N takes 1 to" sweep --devices host/2x --db none.db
expect 2 "--in-process measures on one device" sweep --devices host:0,host/1 --in-process --db none.db
expect 2 "--watchdog: '300000h' is more than a year" sweep --device host --watchdog 300000h --db none.db
expect 2 "is no time" sweep --device host --watchdog 0.0000000001s --db none.db
expect 1 "host:7" sweep --devices host:7 --db none.db
[ -e none.db ] && fail "a refused sweep made a database" || pass

# A shell that may use two processors only: two parts of one each, wherever this runs; and one of them alone.
pair=$(taskset -cp $$ | sed 's/.*: //' | tr ',' '\n' | awk -F- '{ for (i = $1; i <= ($2 == "" ? $1 : $2); i++) print i }' | head -n 2 | paste -sd,)
taskset -c "${pair%,*}" "$MOE" sweep --effort exhaustive --families host_blas --workloads workloads.jsonl --ops up --rounds 3 --devices host --db one.db >log 2>&1
is "a sweep on one device of a list" $? 0
if [ "$(nproc)" -ge 2 ]; then
    # Parts of different sizes are different devices; so is a part beside the whole.
    expect 1 "is not like" sweep --devices host/2,host:0 --db none.db
    taskset -c "$pair" "$MOE" sweep --effort exhaustive --families host_blas --workloads workloads.jsonl --ops up --rounds 3 --devices host/2 --db two.db >log 2>&1
    is "a sweep on two" $? 0
    holds "its words" log "4 races finished, 0 were finished before, 0 failed, 0 left"
    is "workers that measured" "$(query two.db "SELECT count(DISTINCT run_id) FROM trials")" 2
    is "kinds of device" "$(query two.db "SELECT count(*) FROM devices")" 1
    is "the database" "$(query two.db "PRAGMA integrity_check")" ok
    contents two.db >two
    contents one.db >one
    is "what two measured, and one" "$(sha256sum <two)" "$(sha256sum <one)"
    [ "$(wc -l <one)" -gt 8 ] && pass || fail "one.db has $(wc -l <one) trials"
    taskset -c "$pair" "$MOE" sweep --effort exhaustive --families host_blas --workloads workloads.jsonl --ops up --rounds 3 --devices host/2 --db two.db >log 2>&1
    is "the same sweep again" $? 0
    holds "its words" log "nothing to do"
    # An interrupt stops both, and the rest is for the next.
    taskset -c "$pair" "$MOE" sweep --effort exhaustive --families host_blas --workloads workloads.jsonl --ops up --rounds 3 --devices host/2 --db cut.db >log 2>&1 &
    pid=$!
    for _ in $(seq 1200); do
        [ "$(query cut.db "SELECT count(*) FROM trials" 2>/dev/null || echo 0)" -gt 2 ] && break
        kill -0 $pid 2>/dev/null || break
        sleep 0.05
    done
    kill -INT $pid
    wait $pid
    is "an interrupted sweep on two" $? 1
    taskset -c "$pair" "$MOE" sweep --effort exhaustive --families host_blas --workloads workloads.jsonl --ops up --rounds 3 --devices host/2 --db cut.db >log 2>&1
    is "the sweep that goes on" $? 0
    contents cut.db >cut
    is "what both measured" "$(sha256sum <cut)" "$(sha256sum <one)"
fi

# ---- shards ----
for i in 1 2; do
    sweep --device host --shard $i/2 --db shard$i.db >log 2>&1
    is "shard $i" $? 0
done
"$MOE" merge --db whole.db shard1.db shard2.db >log 2>&1
is "merge" $? 0
[ "$(query shard1.db "SELECT count(*) FROM trials")" -gt 0 ] && [ "$(query shard2.db "SELECT count(*) FROM trials")" -gt 0 ] && pass || fail "a shard is empty"
is "trials of the shards" "$(query whole.db "SELECT count(*) FROM trials")" \
    "$(($(query shard1.db "SELECT count(*) FROM trials") + $(query shard2.db "SELECT count(*) FROM trials")))"
contents whole.db >whole
contents one.db >one
is "what the shards measured, and one sweep" "$(sha256sum <whole)" "$(sha256sum <one)"
sweep --device host --db whole.db >log 2>&1
holds "the whole sweep on what was merged" log "nothing to do"

# The example for a cluster is a script that a shell reads.
sed -n '/^#!\/bin\/bash/,/^```/p' "$SOURCE/docs/tuning.md" | sed '/^```/d' >array.sh
[ -s array.sh ] && bash -n array.sh && pass || fail "the Slurm example of docs/tuning.md"
finish
