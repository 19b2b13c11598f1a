#!/usr/bin/env bash
# Configurations that only a vendor library can enumerate: an exhaustive sweep asks the worker for them and races them, others
# do not; what is finished is known without asking again; a library that fails at it costs itself alone.
. "$(dirname "$0")/lib.sh"
MOE=$BUILD/moe-tune-faulty
export MOET_FAULTS=none
export OMP_WAIT_POLICY=passive # threads that outnumber processors must not spin

echo '{"name":"small","experts":2,"hidden":64,"inter":32,"rows":48,"skew":"balanced","counts":[40,8]}' >small.jsonl
# sweep DB ...
sweep() { local db=$1; shift; "$MOE" sweep --db "$db" --noise 100 --device host --families faulty --workloads small.jsonl --ops up --rounds 3 "$@"; }
# listed DB: how many of them were tried and are right
listed() { query "$1" "SELECT count(*) FROM trials WHERE config LIKE 'faulty:fault=none,listed=%' AND status = 'ok'"; }
efforts() { query "$1" "SELECT group_concat(effort) FROM (SELECT effort FROM done ORDER BY effort)"; }

MOET_FAULT_LIST=5 expect 0 "1 races finished" sweep a.db
is "listed at normal effort" "$(listed a.db)" 0
MOET_FAULT_LIST=5 expect 0 "1 races finished" sweep a.db --effort exhaustive
is "listed at exhaustive effort" "$(listed a.db)" 5
is "done" "$(efforts a.db)" 1,2
# Finished: nobody is asked, or it would crash.
for effort in exhaustive normal quick; do
    MOET_FAULT_LIST=crash expect 0 "nothing to do" sweep a.db --effort $effort
done
# Another number is another set; what is stored is not tried again.
last=$(query a.db "SELECT max(id) FROM trials")
MOET_FAULT_LIST=7 expect 0 "1 races finished" sweep a.db --effort exhaustive --listed 6
is "listed, more" "$(listed a.db)" 6
is "tried again" "$(query a.db "SELECT count(*) FROM trials WHERE id > $last AND final_rounds = 0 AND config <> 'faulty:fault=none,listed=6'")" 0

MOET_FAULT_LIST=5 expect 0 "1 races finished" sweep here.db --effort exhaustive --listed 3 --in-process
is "listed in one process" "$(listed here.db)" 3
# One that crashes: the sweep goes on, is not exhaustive, and says so; later it is.
MOET_FAULT_LIST=crash expect 0 "not exhaustive, for a library did not list its algorithms: its process was killed by signal 11" \
    sweep crash.db --effort exhaustive
is "listed by a crash" "$(listed crash.db)" 0
is "good trials beside it" "$(query crash.db "SELECT count(*) FROM trials WHERE config = 'faulty:fault=none' AND status = 'ok'")" 1
is "done beside it" "$(efforts crash.db)" 1
MOET_FAULT_LIST=2 expect 0 "1 races finished" sweep crash.db --effort exhaustive
is "listed after it" "$(listed crash.db)" 2
is "done after it" "$(efforts crash.db)" 2

dry() { sweep a.db --dry-run "$@" >dry 2>/dev/null; }
dry --effort exhaustive
holds "a dry run" dry "at most 256 more, of what a vendor library lists when asked"
dry --effort exhaustive --listed 0
grep -q "vendor library" dry && fail "a dry run of none: $(cat dry)" || pass
dry --effort exhaustive --listed 9
holds "a dry run of 9" dry "at most 9 more"
dry
grep -q "vendor library" dry && fail "a dry run of normal effort lists: $(cat dry)" || pass
expect 2 "--listed" sweep a.db --listed 5000
finish
