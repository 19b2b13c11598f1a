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

# ---- asked for wrongly ----
expect 2 "give --gpus N or --ranks N" "$MOE" ep
expect 2 "either --gpus N or --ranks N" "$MOE" ep --gpus 2 --ranks 2
expect 2 "together" "$MOE" ep --ranks 2 --experts 8
expect 2 "rows or sums" "$MOE" ep --ranks 2 --returns both
expect 2 "uniform or zipf:S" env RANK=0 WORLD_SIZE=1 "$MOE" ep --device host --skew steep
expect 2 "come from a launcher's variables" env RANK=0 WORLD_SIZE=1 "$MOE" ep --ranks 2
expect 2 "WORLD_SIZE is 'two'" env RANK=0 WORLD_SIZE=two "$MOE" ep
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
if command -v mpirun >/dev/null; then
    expect 0 "" mpirun --allow-run-as-root --oversubscribe -n 2 "$MOE" ep --device host --net mpi --check $small
    is "rows under mpirun" "$(grep -c '"peer":"moe-tune lsa"' out)" 1
    expect 0 "" mpirun --allow-run-as-root --oversubscribe -n 4 "$MOE" ep --device host --net mpi --transport exchange --check $small
    is "rows over MPI" "$(grep -c '"peer":"moe-tune exchange"' out)" 1
fi

# ---- ranks that differ, that do not come, that are killed ----
launched 1 $small --timeout 5 >one.out 2>one.err &
other=$!
expect 1 "ranks differ: rank 0 has problem=" launched 0 $small --hidden 128 --timeout 5
wait $other && fail "rank 1 of two that differ ended well" || holds "rank 1 of two that differ" one.err "hidden=64"
began=$SECONDS
expect 1 "1 of 2 ranks did not come" launched 0 $small --timeout 1
expect 1 "nobody listened" launched 1 $small --timeout 1
[ $((SECONDS - began)) -le 8 ] && pass || fail "ranks that do not come: $((SECONDS - began)) s"
RANK=1 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port "$MOE" ep --device host $small --rounds 1000 --tokens 64 \
    --timeout 5 >one.out 2>one.err &
other=$! # the program itself, no shell around it
launched 0 $small --rounds 1000 --tokens 64 --timeout 5 >zero.out 2>zero.err &
first=$!
sleep 0.6
kill -9 $other
began=$SECONDS code=0
wait $first || code=$?
is "the rank that is left" "$code" 1
holds "the rank that is left" zero.err "rank 1 ended"
[ $((SECONDS - began)) -le 7 ] && pass || fail "a rank that is killed: $((SECONDS - began)) s"
wait $other 2>/dev/null
finish
