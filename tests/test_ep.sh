#!/usr/bin/env bash
# moe-tune ep on the host: starts its ranks or is started by a launcher, checks bits, prints a row for each way of
# running the layer; what is asked for wrongly; a rank that is killed.
. "$(dirname "$0")/lib.sh"
export OMP_WAIT_POLICY=passive # ranks share the processors
unset RANK WORLD_SIZE OMPI_COMM_WORLD_RANK SLURM_PROCID
small="--experts 8 --choices 2 --hidden 64 --inter 32 --tokens 16 --skew uniform --rounds 3"

expect 0 "" "$MOE" ep --ranks 2 --check --rounds 3
is "rows of the built-in shape" "$(grep -c '"name":"small","ranks":2,.*"same_bits":true' out)" 4
expect 0 "" "$MOE" ep --ranks 4 --check --transport lsa,exchange --returns rows,sums --chunks 1,3 $small
is "rows of all ways" "$(grep -c '"ranks":4,"tokens":16' out)" 8
is "rows of three chunks" "$(grep -c '"chunks":3' out)" 4
expect 0 "" "$MOE" ep --ranks 2 --transport bound --numerics fast $small --skew zipf:1
is "rows of fast" "$(grep -c '"skew":"zipf:1","peer":"moe-tune bound","returns":"sums"' out)" 1
expect 0 "" "$MOE" ep --ranks 1 $small
is "one rank, columns" "$(python3 -c 'import json,sys; print(sorted(json.loads(open("out").read())) == sorted("name ranks tokens skew peer returns chunks comm_sms dispatch_us rate_gbs combine_us combine_gbs experts_us layer_us layer_iqr_us layer_over_max graph same_bits config".split()))')" True

# ---- choices from files ----
mkdir ids
python3 - <<'END'
import struct
def save(path, shape, ids, kind="<i4"):
    header = repr({"descr": kind, "fortran_order": False, "shape": shape})
    header += " " * ((-len(header) - 11) % 64) + "\n"
    with open(path, "wb") as f:
        f.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
        f.write(b"".join(struct.pack("<i" if kind == "<i4" else "<q", i) for i in ids))
# All of rank 0's tokens go to rank 1's experts and the other way round; some choose one, some none.
save("ids/given-16-uniform.npy", (2, 16, 2), [e for t in range(16) for e in (4 + t % 4, 4 + (t + 1) % 4 if t else -1)] + [e for t in range(16) for e in (t % 4, -1)])
save("ids/given-16-zipf:1.npy", (2, 16, 2), [0, -1] * 31 + [8, 1], "<i8")
save("ids/given-16-zipf:2.npy", (2, 16, 2), [0, -1] * 31 + [3, 3])
save("ids/given-16-zipf:3.npy", (2, 8, 2), [0, -1] * 16)
save("ids/given-16-zipf:4.npy", (2, 16, 2), [-1, -1] * 32)
END
expect 0 "" "$MOE" ep --ranks 2 --check --transport lsa,exchange --returns rows,sums $small --ids ids
is "rows of choices read" "$(grep -c '"same_bits":true' out)" 4
expect 0 "" "$MOE" ep --ranks 2 --check $small --skew zipf:4 --ids ids
is "rows of tokens without choices" "$(grep -c '"same_bits":true' out)" 1
export SEVERAL_LINES=1 # a rank each
expect 2 "zipf:1.npy: rank 1, token 15: expert 8 is none of 8, nor -1" "$MOE" ep --ranks 2 $small --skew zipf:1 --ids ids
expect 2 "zipf:2.npy: rank 1, token 15 names expert 3 twice" "$MOE" ep --ranks 2 $small --skew zipf:2 --ids ids
expect 2 "zipf:3.npy is of shape [2, 8, 2], must be [ranks, tokens, choices], here [2, 16, 2]" "$MOE" ep --ranks 2 $small --skew zipf:3 --ids ids
expect 1 "ids/given-32-uniform.npy: No such file" "$MOE" ep --ranks 2 $small --tokens 32 --ids ids
unset SEVERAL_LINES

# ---- kept in a database, emitted, taken from the table ----
expect 0 "" "$MOE" ep --ranks 2 --db ep.db $small --tokens 16,32
is "rows of two points" "$(grep -c '"layer_us"' out)" 12
is "trials" "$(query ep.db "SELECT count(*) || ' ' || sum(is_default) || ' ' || sum(sample_count) FROM ep_trials WHERE ranks = 2 AND hosts = 1 AND choices = 2 AND returns = 'rows'")" "12 2 36"
is "the layer's samples" "$(query ep.db "SELECT count(*) FROM ep_samples WHERE part = 'layer' AND time_ns > 0")" 36
is "parts' samples, of one chunk" "$(query ep.db "SELECT count(*) FROM ep_samples s JOIN ep_trials t ON t.id = s.trial_id WHERE part <> 'layer' AND asked LIKE '%chunks=1%'")" 36
is "what auto came to" "$(query ep.db "SELECT choice FROM ep_trials WHERE asked = 'transport=auto,chunks=1,comm_sms=0' LIMIT 1")" transport=lsa,chunks=1,comm_sms=0
is "one run" "$(query ep.db "SELECT count(*) || command FROM runs")" "1moe-tune ep --ranks 2 --db ep.db $small --tokens 16,32"
expect 0 "2 points are in 'ep.db' already" "$MOE" ep --ranks 2 --db ep.db $small --tokens 16,32
is "rows of points that are there" "$(wc -l <out)" 0
expect 0 "2 points are in 'ep.db' already" "$MOE" ep --ranks 2 --db ep.db $small --tokens 16,32,64
is "rows of the point that is not" "$(grep -c '"tokens":64' out)" 6
first=$(query ep.db "SELECT measured_at FROM ep_trials WHERE tokens = 16 AND asked = 'transport=auto,chunks=1,comm_sms=0'")
expect 0 "" "$MOE" ep --ranks 2 --db ep.db $small --again
[ "$first" != "$(query ep.db "SELECT measured_at FROM ep_trials WHERE tokens = 16 AND asked = 'transport=auto,chunks=1,comm_sms=0'")" ] && pass || fail "--again left the trial as it was"
is "trials after --again" "$(query ep.db 'SELECT count(*) FROM ep_trials')" 18
expect 0 "" "$MOE" ep --ranks 2 --db sums.db $small --returns sums
is "ways of sums" "$(query sums.db "SELECT count(*) || ' ' || sum(asked LIKE 'transport=allgather,%,comm_sms=0') FROM ep_trials")" "9 3"
expect 0 "" "$MOE" ep --ranks 2 --db ep.db $small --transport exchange --chunks 3 --tokens 128 # the default is measured beside it
is "ways of one that is asked for" "$(query ep.db "SELECT group_concat(asked, ' ') FROM (SELECT asked FROM ep_trials WHERE tokens = 128 ORDER BY asked)")" \
    "transport=auto,chunks=1,comm_sms=0 transport=exchange,chunks=3,comm_sms=16"

# What a table says is run: here what was slowest, made to win.
python3 -c "import sqlite3; c = sqlite3.connect('ep.db'); c.execute(\"UPDATE ep_trials SET noise_ns = 0, median_ns = CASE WHEN choice LIKE 'transport=exchange,chunks=2%' THEN 1 ELSE median_ns END WHERE tokens = 32\"); c.commit()"
expect 0 "" "$MOE" show --db ep.db --ep --format csv
is "winners shown" "$(grep -c ',true,true,\|,false,true,' out)" 4
expect 0 "" "$MOE" show --db ep.db --ep --trials
is "trials shown" "$(($(wc -l <out) - 1))" 20
expect 2 "--ep goes with" "$MOE" show --db ep.db --ep --why small
expect 0 "" "$MOE" emit --db ep.db --out table --format csv
is "points emitted" "$(python3 -c 'import csv; print(next(csv.DictReader(open("out")))["ep_points"])')" 4
expect 1 "table has no GEMM entries to verify, only how the expert-parallel layer is run" "$MOE" verify --device host --table table
expect 0 "" "$MOE" ep --ranks 2 --table table $small --tokens 32 --check
is "what the table says" "$(grep -c '"peer":"moe-tune exchange","returns":"rows","chunks":2,"comm_sms":16,.*"same_bits":true' out)" 1
expect 0 "" "$MOE" ep --ranks 2 --table table $small --tokens 32 --chunks 1
is "what is asked for before that" "$(grep -c '"peer":"moe-tune lsa","returns":"rows","chunks":1' out)" 1
expect 0 "" "$MOE" ep --ranks 2 --table table $small --tokens 2048 --hidden 64
is "too far from what was measured" "$(grep -c '"peer":"moe-tune lsa","returns":"rows","chunks":1' out)" 1
expect 0 "" "$MOE" ep --ranks 2 --table table --db ep.db $small # of another table: measured again
is "trials of the table" "$(query ep.db "SELECT count(DISTINCT table_hash) || ' ' || sum(table_hash <> '') FROM ep_trials")" "2 6"
cp -r table before
expect 0 "" "$MOE" emit --db ep.db --out table
expect 0 "changed" "$MOE" diff --format csv --all before table
is "diff knows the layer's points" "$(grep -c 'ep ranks=2 hosts=1 choices=2 returns=rows' out)" 4
expect 2 "--again is of --db" "$MOE" ep --ranks 2 --again $small
echo "no database" >text.db
expect 2 "not a moe-tune database" "$MOE" ep --ranks 2 --db text.db $small

# ---- asked for wrongly ----
expect 2 "give --gpus N or --ranks N" "$MOE" ep
expect 2 "either --gpus N or --ranks N" "$MOE" ep --gpus 2 --ranks 2
expect 2 "together" "$MOE" ep --ranks 2 --experts 8
expect 2 "rows or sums" "$MOE" ep --ranks 2 --returns both
expect 2 "uniform or zipf:S" env RANK=0 WORLD_SIZE=1 "$MOE" ep --device host --skew steep
expect 2 "come from a launcher's variables" env RANK=0 WORLD_SIZE=1 "$MOE" ep --ranks 2
expect 2 "WORLD_SIZE is 'two'" env RANK=0 WORLD_SIZE=two "$MOE" ep
expect 2 "16 experts of small cannot be spread over 3 ranks evenly" "$MOE" ep --ranks 3
expect 2 "2 experts of given cannot be spread over 4 ranks evenly" "$MOE" ep --ranks 4 $small --experts 2
expect 2 "--choices 9 are more than 8 experts" "$MOE" ep --ranks 2 $small --choices 9
expect 0 "" "$MOE" ep --ranks 2 $small --skew zipf:0.50
is "a skew in one spelling" "$(grep -c '"skew":"zipf:0.5"' out)" 1
# A rank that cannot take connections says so, and ends.
SEVERAL_LINES=1 expect 1 "rendezvous" bash -c "ulimit -n 9; exec '$MOE' ep --ranks 8 --timeout 10s $small"
SEVERAL_LINES=1 expect 2 "no transport 'pigeon'" "$MOE" ep --ranks 2 --transport pigeon $small
SEVERAL_LINES=1 expect 1 "sums only" "$MOE" ep --ranks 2 --transport bound --returns rows $small

# ---- launchers ----
port=$((21000 + $$ % 5000))
launched() { RANK=$1 WORLD_SIZE=2 LOCAL_RANK=$1 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port "$MOE" ep --device host "${@:2}"; }
launched 1 --check $small >one.out 2>one.err &
other=$!
launched 0 --check $small >zero.out 2>zero.err && pass || fail "rank 0 as torchrun starts it: $(cat zero.err)"
wait $other && pass || fail "rank 1 as torchrun starts it: $(cat one.err)"
is "rows of rank 0" "$(grep -c same_bits zero.out)" 1
is "rows of rank 1" "$(wc -l <one.out)" 0
launched 1 --db one.db $small >one.out 2>one.err &
other=$!
launched 0 --db zero.db $small >zero.out 2>zero.err && pass || fail "rank 0 with a database: $(cat zero.err)"
wait $other && pass || fail "rank 1 of a rank 0 with a database: $(cat one.err)"
is "rank 0 writes" "$(query zero.db 'SELECT count(*) FROM ep_trials')" 6
[ ! -e one.db ] && pass || fail "rank 1 wrote a database"
launched 1 $small >one.out 2>one.err &
other=$!
expect 2 "not a moe-tune database" launched 0 --db text.db $small
wait $other && fail "rank 1 of a rank 0 without its database ended well" || holds "rank 1 of a rank 0 without its database" one.err "rank 0 ended"
if command -v mpirun >/dev/null; then
    expect 0 "" mpirun --allow-run-as-root --oversubscribe -n 2 "$MOE" ep --device host --net mpi --check $small
    is "rows under mpirun" "$(grep -c '"peer":"moe-tune lsa"' out)" 1
    expect 0 "" mpirun --allow-run-as-root --oversubscribe -n 4 "$MOE" ep --device host --net mpi --transport exchange --check $small
    is "rows over MPI" "$(grep -c '"peer":"moe-tune exchange"' out)" 1
fi

# A port out of those that the system gives to outgoing connections: rank 1, which is there first, connects to itself.
if unshare -n sh -c 'ip link set lo up && echo 40000 40010 >/proc/sys/net/ipv4/ip_local_port_range' 2>/dev/null; then
    export MOE small
    unshare -n bash -c 'ip link set lo up && echo 40000 40010 >/proc/sys/net/ipv4/ip_local_port_range
        launched() { RANK=$1 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=40004 "$MOE" ep --device host $small; }
        launched 1 & sleep 3; launched 0 && wait $!' >zero.out 2>zero.err && pass || fail "a port that rank 1 gets: $(cat zero.err)"
else
    echo "no network of its own to be had here: a port that rank 1 gets is not tested"
fi

# ---- ranks that differ, that do not come, that are killed ----
launched 1 $small --timeout 60 >one.out 2>one.err &
other=$!
expect 1 "ranks differ: rank 0 has problem=" launched 0 $small --hidden 128 --timeout 60
wait $other && fail "rank 1 of two that differ ended well" || holds "rank 1 of two that differ" one.err "hidden=64"
began=$SECONDS
expect 1 "1 of 2 ranks did not come" launched 0 $small --timeout 1
expect 1 "nobody listened" launched 1 $small --timeout 1
[ $((SECONDS - began)) -le 25 ] && pass || fail "ranks that do not come: $((SECONDS - began)) s" # 60 without --timeout
RANK=1 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port "$MOE" ep --device host $small --rounds 1000 --tokens 2048 \
    --timeout 60 >one.out 2>one.err &
other=$! # the program itself, no shell around it
launched 0 $small --rounds 1000 --tokens 2048 --timeout 60 >zero.out 2>zero.err &
first=$!
# Once they have met: state 01 is an established connection.
for _ in $(seq 600); do
    cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -qi ":$(printf %04X "$port") [0-9A-F]*:[0-9A-F]* 01 " && break
    sleep 0.1
done
sleep 1
kill -9 $other
began=$SECONDS code=0
wait $first || code=$?
is "the rank that is left" "$code" 1
holds "the rank that is left" zero.err "rank 1 ended"
[ $((SECONDS - began)) -le 30 ] && pass || fail "a rank that is killed: $((SECONDS - began)) s"
wait $other 2>/dev/null
finish
