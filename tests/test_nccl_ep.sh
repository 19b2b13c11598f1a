#!/usr/bin/env bash
# The transport nccl_ep where NCCL or NCCL EP is absent, too old or not as it must be: every rank says so in one line, and
# in time. Where they serve, the bits of one rank. The libraries are those of fake_nccl.h.
. "$(dirname "$0")/lib.sh"
export OMP_WAIT_POLICY=passive TMPDIR=$WORK
unset RANK WORLD_SIZE OMPI_COMM_WORLD_RANK SLURM_PROCID
small="--experts 8 --choices 2 --hidden 64 --inter 32 --tokens 16 --skew uniform --rounds 3"
# ep TRANSPORT [OPTION...]
ep() { LD_LIBRARY_PATH=${FAKES-$BUILD/testlib/fake_nccl}:${LD_LIBRARY_PATH:-} "$MOE" ep --ranks 2 --returns sums $small --transport "$@"; }
export SEVERAL_LINES=1 # one of each rank
# says EXIT WORDS TRANSPORT [OPTION...]: both ranks do. One that is late may find the other gone: then once more.
says() {
    expect "$1" "$2" ep "${@:3}"
    [ "$(grep -oF -- "$2" err | wc -l)" = 2 ] || ! grep -q "rank [01] ended" err || expect "$1" "$2" ep "${@:3}"
    is "${*:3}: both ranks say '$2'" "$(grep -oF -- "$2" err | wc -l)" 2 # lines of both may run into each other
}

# ---- where it serves ----
expect 0 "" ep nccl_ep,nccl_ep:windows=off:sms=8,nccl_ep:layout=expert_major:align=8,lsa --chunks 1,2 --check
is "rows of all ways" "$(grep -c '"same_bits":true' out)" 8
is "a way's parameters" "$(grep -c '"peer":"moe-tune nccl_ep:layout=expert_major:align=8"' out)" 2
is "rows of all ways, tokens of no multiple of 4" "$(ep nccl_ep,nccl_ep:windows=off,nccl_ep:layout=expert_major --chunks 1,2 --tokens 1,13 --check | grep -c '"same_bits":true')" 12
expect 0 "" ep nccl_ep --check --ranks 4 --numerics fast
is "rows of four ranks" "$(grep -c '"ranks":4,.*"same_bits":true' out)" 1

# ---- asked for wrongly ----
says 2 "no parameter 'sms=17'" nccl_ep:sms=17
says 2 "no parameter 'align=3'" nccl_ep:align=3
says 2 "no parameter 'windows=maybe'" nccl_ep:windows=maybe
says 2 "no parameter 'layout'" nccl_ep:layout
says 2 "no parameter ''" nccl_ep:
says 2 "no transport 'lsa:sms=4'" lsa:sms=4
says 1 "sums only" nccl_ep --returns rows
says 1 "6 experts of a host are no multiple of 4" nccl_ep --experts 6

says 1 "a power of two of experts a rank, not 6" nccl_ep:layout=expert_major --experts 12
expect 0 "" ep nccl_ep:layout=expert_major:windows=off --experts 12 --check
says 1 "up to 8 experts of a token on a rank, not 9" nccl_ep:layout=expert_major --experts 32 --choices 9
says 1 "hidden 11616 and 8 experts of a host do not fit" nccl_ep:layout=expert_major --hidden 11616
expect 0 "" ep nccl_ep,nccl_ep:layout=expert_major:windows=off --experts 32 --choices 9 --check

# ---- libraries ----
mkdir none hollow old
echo "not a library" >none/libnccl.so.2
FAKES=$WORK/none says 1 "transport nccl_ep: library not found: tried libnccl.so.2" nccl_ep
cp "$BUILD/testlib/fake_nccl/libnccl.so.2" hollow/
echo "not a library" >hollow/libnccl_ep.so.0
FAKES=$WORK/hollow says 1 "tried libnccl_ep.so.0, libnccl_ep.so" nccl_ep
FAKES=$WORK/hollow says 1 "docs/nccl_ep.md" nccl_ep
cp "$BUILD/testlib/fake_nccl/libnccl.so.2" old/
if ${CC:-cc} -shared -fPIC -Wl,-soname,libnccl_ep.so.0 -o old/libnccl_ep.so.0 -xc - <<<"int ncclEpGetVersion(int *v) { *v = 200; return 0; }"; then
    FAKES=$WORK/old says 1 "lacks the function ncclEpCreateGroup" nccl_ep
fi
FAKE_NCCL_VERSION=22809 says 1 "libnccl.so.2 is NCCL 2.28.9, 2.29.7 or later is needed" nccl_ep
FAKE_NCCL_EP_VERSION=100 says 1 "libnccl_ep is NCCL EP 0.1.0, 0.2.0 or later is needed" nccl_ep
FAKE_NCCL_LACKS=device says 1 "no loads and stores to other GPUs" nccl_ep
FAKE_NCCL_LACKS=network says 1 "GPU-initiated network (GIN)" nccl_ep
FAKE_NCCL_LACKS=windows says 1 "makes no window" nccl_ep
FAKE_NCCL_LACKS=windows expect 0 "" ep nccl_ep:windows=off --check

# ---- ranks that differ, or that do not come while NCCL waits for them ----
port=$((27000 + $$ % 3000))
launched() { RANK=$1 WORLD_SIZE=2 LOCAL_RANK=$1 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port LD_LIBRARY_PATH=$BUILD/testlib/fake_nccl "$MOE" ep --device host --returns sums --transport nccl_ep $small "${@:2}"; }
FAKE_NCCL_VERSION=23203 launched 1 >one.out 2>one.err &
other=$!
expect 1 "rank 1 has NCCL 2.32.3 and NCCL EP 0.2.0, rank 0 has NCCL 2.30.7" launched 0
wait $other && fail "rank 1 of two that differ ended well" || holds "rank 1 of two that differ" one.err "rank 0 has NCCL 2.30.7"
FAKE_NCCL_VERSION=22809 launched 1 >one.out 2>one.err &
other=$!
expect 1 "transport nccl_ep: rank 1 cannot" launched 0
wait $other && fail "a rank with an old NCCL ended well" || holds "a rank with an old NCCL" one.err "NCCL 2.28.9"
began=$SECONDS
FAKE_NCCL_SLEEPS=1 expect 1 "creating a group did not end within 4000 ms" ep nccl_ep --timeout 4
[ $((SECONDS - began)) -le 25 ] && pass || fail "a rank that sleeps: $((SECONDS - began)) s"
began=$SECONDS
FAKE_NCCL_DISPATCH_SLEEPS=1 expect 1 "the first launch did not end within 4000 ms" ep nccl_ep --timeout 4
[ $((SECONDS - began)) -le 25 ] && pass || fail "a rank that sleeps in its first launch: $((SECONDS - began)) s"
finish
