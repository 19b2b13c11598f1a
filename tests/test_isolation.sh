#!/usr/bin/env bash
# Candidates that crash, hang, compute wrong values, write where they should not, or take what is not there: each costs
# itself alone and is stored with its reason, and the sweep finds its winner. No worker outlives its sweep.
#
#   test_isolation.sh BUILD_DIR SOURCE_DIR [DEVICE]      default: host. A GPU has its own faults.
. "$(dirname "$0")/lib.sh"
DEVICE=${3:-host}
MOE=$BUILD/moe-tune-faulty
family=faulty
[ "$DEVICE" = host ] || family=faulty_cuda

# Two experts: on the host sixty calls of a candidate take a millisecond, and nothing but a hang takes seconds.
echo '{"name":"small","experts":2,"hidden":64,"inter":32,"rows":48,"skew":"balanced","counts":[24,24]}' >small.jsonl
sweep=("$MOE" sweep --effort exhaustive --noise 100 --device "$DEVICE" --families $family --workloads small.jsonl --ops up --rounds 3 --watchdog 8s)
sweep() { "${sweep[@]}" "$@"; }
# field NAME DB FAULT: of the trial of a fault
field() { query "$2" "SELECT $1 FROM trials WHERE config = '$family:fault=$3' UNION ALL SELECT 'none' LIMIT 1"; }
# fault NAME STATUS WORDS: what became of it
fault() {
    local status reason
    status=$(field status sweep.db "$1")
    reason=$(field reason sweep.db "$1")
    is "the trial of $1" "$status" "$2"
    case $reason in *"$3"*) pass ;; *) fail "$1: '$3' is not in its reason: $reason" ;; esac
}
trials() { query sweep.db "SELECT count(*) FROM trials WHERE status = 'ok'" 2>/dev/null || echo 0; }

began=$SECONDS
sweep --db sweep.db >log 2>&1
is "a sweep over every fault" $? 0
holds "its last words" log "1 races finished"
echo "it took $((SECONDS - began)) s"
fault none ok ""
if [ "$DEVICE" = host ]; then
    fault crash failed "was killed by signal 11"
    fault crash failed "while verifying"
    fault crash_late failed "was killed by signal 11"
    fault crash_prepare failed "while preparing"
    fault abort failed "was killed by signal 6"
    fault exit failed "ended with exit code 7"
    fault hang timeout "no end within 8 s while verifying"
    fault hang_late timeout "no end within 8 s"
    fault wrong wrong "1 of 3072 elements are wrong"
    fault outside wrong "memory was written past the output"
    fault slow_once ok ""
    fault greedy failed "bytes of memory are needed"
    fault starved failed "no host memory is left"
    fault error failed "no lasting one"
    # Slow once, 0.4 s, and then as fast as the others: it was raced.
    [ "$(field median_ns sweep.db slow_once)" -lt 300000000 ] && pass || fail "slow_once was judged by its first launch"
    # Right, and of other bits than what computes for them, on rows of one scale only; emit tells them apart.
    class() { query sweep.db "SELECT coalesce(max(bit_class), 'none') FROM trials WHERE config LIKE '$1' AND is_default = 1 OR config = '$1'"; }
    is "the bits of none" "$(class "$family:fault=none")" "$(class 'host_tile:%')"
    for off in off_large off_small off_cancel; do
        fault $off ok ""
        same=$(query sweep.db "SELECT count(*) FROM trials a JOIN trials b ON a.bit_class = b.bit_class WHERE a.config = '$family:fault=$off' AND a.id <> b.id")
        is "trials with the bits of $off" "$same" 0
        half=$(query sweep.db "SELECT count(DISTINCT substr(bit_class, 1, 16)) FROM trials WHERE config IN ('$family:fault=$off', '$family:fault=none')")
        is "bits of $off on rows of one scale" "$half" 1
    done
    faults=18
else
    fault crash failed "was killed by signal 11"
    fault illegal failed "ILLEGAL_ADDRESS"
    fault illegal_late failed "ILLEGAL_ADDRESS"
    fault trap failed "LAUNCH_FAILED"
    fault hang timeout "no end within 8 s while verifying"
    fault hang_late timeout "no end within 8 s"
    fault greedy failed "memory"
    faults=8
fi
is "trials of the faults" "$(query sweep.db "SELECT count(*) FROM trials WHERE config LIKE '$family:%'")" $faults
# Every good candidate has all its final samples, of however many processes.
is "samples of the winner" "$(query sweep.db "SELECT min(sample_count) = max(sample_count) AND min(sample_count) >= 3 FROM trials WHERE final_rounds = 1")" 1
expect 0 "" "$MOE" emit --db sweep.db --out table
expect 0 "" "$MOE" verify --table table --device "$DEVICE"

# What failed is not tried again.
before=$(query sweep.db "SELECT count(*) || max(measured_at) FROM trials")
sweep --db sweep.db >log 2>&1
is "the same sweep again" $? 0
holds "its words" log "nothing to do"
is "what it changed" "$(query sweep.db "SELECT count(*) || max(measured_at) FROM trials")" "$before"

[ "$DEVICE" = host ] || { finish; exit; }

# In this process a fault is the sweep's own; what works works there too.
export MOET_FAULTS=crash
sweep --db here.db --in-process >log 2>&1
is "a crash in the sweep's own process" $? 139
MOET_FAULTS=none,wrong sweep --db whole.db --in-process >log 2>&1
is "a sweep in one process" $? 0
is "its good trial" "$(field status whole.db none)" ok
is "its wrong one" "$(field status whole.db wrong)" wrong

# A sweep that is killed while a candidate hangs takes its worker along; the next one goes on. --watchdog is long here:
# nothing else may end the worker.
export MOET_FAULTS=none,hang
"$MOE" sweep --device host --families faulty --workloads small.jsonl --ops up --rounds 3 --watchdog 300s --db killed.db >log 2>&1 &
pid=$!
worker=""
for _ in $(seq 600); do
    worker=$(cat /proc/$pid/task/$pid/children 2>/dev/null | tr -d ' ')
    [ -n "$worker" ] && [ "$(query killed.db "SELECT count(*) FROM runs" 2>/dev/null || echo 0)" = 1 ] && break
    sleep 0.1
done
[ -n "$worker" ] && pass || fail "no worker was seen"
kill -9 $pid
wait $pid 2>/dev/null
for _ in $(seq 100); do
    kill -0 "$worker" 2>/dev/null || break
    sleep 0.1
done
kill -0 "$worker" 2>/dev/null && fail "worker $worker outlived its sweep" || pass
sweep --db killed.db >log 2>&1
is "the sweep that goes on" $? 0
is "the hang, then" "$(field status killed.db hang)" timeout

# A worker that is killed from outside: the candidate in flight is lost, the sweep is not. Ctrl-C goes to all processes
# of a terminal, and the worker leaves it to the sweep: the round ends, what was measured is stored, exit 1.
export MOET_FAULTS=none,hang_late
# begin_hanging WATCHDOG: a sweep, $pid, that has begun and will hang in its worker, $worker.
begin_hanging() {
    rm -f stopped.db*
    "${sweep[@]}" --watchdog "$1" --db stopped.db >log 2>&1 & # no function: $! would be its shell
    pid=$!
    for _ in $(seq 600); do
        worker=$(cat /proc/$pid/task/$pid/children 2>/dev/null | tr -d ' ')
        [ -n "$worker" ] && [ "$(query stopped.db "SELECT count(*) FROM runs" 2>/dev/null || echo 0)" = 1 ] && break
        sleep 0.1
    done
}
begin_hanging 8s
kill -INT "$worker" $pid
wait $pid
is "an interrupted sweep" $? 1
holds "its words" log "the same command goes on"
# timeout signals the process and then its group: twice within microseconds, which is one wish. A
# terminal that goes away signals too.
begin_hanging 8s
for signal in HUP TERM TERM; do kill -$signal $pid; done
wait $pid
is "a sweep interrupted three times at once" $? 1
holds "its words" log "the same command goes on"
# A second wish, later, ends what does not end.
begin_hanging 300s
kill -STOP "$worker" # hangs for sure
for _ in 1 2 3 4; do # the first may be looked at late
    kill -TERM $pid 2>/dev/null || break
    sleep 1.5
done
wait $pid 2>/dev/null
is "a sweep interrupted twice" $? 143
unset MOET_FAULTS

# It is no command of its own, and says what it is.
expect 2 "for moe-tune sweep to start" "$MOE" worker-process
expect 2 "--watchdog" "$MOE" sweep --workloads small.jsonl --watchdog soon
finish
