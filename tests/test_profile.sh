#!/usr/bin/env bash
# moe-tune profile: the launch under a tool, and the tool's part by a stand-in for ncu, which runs what it is given and
# prints the fixture as its report.
. "$(dirname "$0")/lib.sh"
export TMPDIR=$WORK/tmp # other programs' folders are none of ours
mkdir "$TMPDIR"
export SOURCE WORK
mkdir bin && cat >bin/ncu <<'NCU'
#!/usr/bin/env bash
# As ncu is called here: over a program, and over its own report.
[ "$1" = --import ] && { cat "$SOURCE/tests/ncu_raw.csv"; exit; }
[ -n "${NCU_DENIES:-}" ] && { echo "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission"; exit 1; }
printf '%s\n' "$@" >"$WORK/arguments"
while [ "${1##*/}" != moe-tune ]; do
    [ "$1" = --export ] && report=$2
    shift
done
echo "==PROF== Connected"
"$@" || { echo "==ERROR== The application returned an error code"; exit 1; }
echo report >"$report"
NCU
chmod +x bin/ncu
host="--device host --match small/a"

# The launch itself, for a profiler of the user's.
expect 0 "" "$MOE" profile small.jsonl $host --tool none
is "it says what it launched" "$(grep -c '^launched host_tile:' out)" 1
"$MOE" profile small.jsonl $host --tool none --ops ffn 2>err | sed 's/^launched //' >path
expect 0 "" "$MOE" profile small.jsonl $host --tool none --ops ffn --config "$(cat path)"
holds "a config by name" out "launched host_tile_ffn:"

# Under ncu.
"$MOE" profile small.jsonl $host --tool none 2>err | sed 's/^launched //' >default
PATH=$WORK/bin:$PATH expect 0 "" "$MOE" profile small.jsonl $host --warm-up 3 --keep kept
is "ten lines" "$(wc -l <out)" 10
holds "what was launched" out "small/a 64 rows balanced up: $(cat default)"
holds "what binds" out "binds        L2"
holds "no trial's time" out "890.7 us at 1667 MHz under ncu, which is no trial's time"
is "the report stays" "$(cat kept.ncu-rep)" "report"
holds "from the profiler's start on" arguments "--profile-from-start"
holds "the metrics" arguments "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed,"
is "the launch under the tool runs under none" "$(tail -n 1 arguments)" "none"
is "nothing is left behind" "$(ls "${TMPDIR:-/tmp}" | grep -c '^moe-tune-')" 0
PATH=$WORK/bin:$PATH expect 0 "" "$MOE" profile small.jsonl $host --config "$(cat default)" --keep kept.ncu-rep --keep-source
holds "sources for ncu's page" arguments "--import-source"
[ -d kept.ncu-rep.sources ] && pass || fail "no folder of sources"

# The scripts: with the stand-in, and what they say where the tool is nowhere.
MOE_TUNE=$MOE NCU=$WORK/bin/ncu expect 0 "" bash "$SOURCE/scripts/profile_ncu.sh" all.ncu-rep small.jsonl $host
is "the script's report" "$(cat all.ncu-rep)" "report"
holds "everything that ncu's pages show" arguments "full"
for tool in ncu nsys; do
    [ -x /usr/local/cuda/bin/$tool ] || [ -d /opt/nvidia ] || PATH=/usr/bin:/bin command -v $tool >/dev/null ||
        PATH=/usr/bin:/bin expect 1 "no $tool: install" bash "$SOURCE/scripts/profile_$tool.sh" all.rep small.jsonl
done

# What goes wrong.
NCU_DENIES=1 PATH=$WORK/bin:$PATH expect 1 "NVreg_RestrictProfilingToAdminUsers=0" "$MOE" profile small.jsonl $host
PATH=$WORK/bin:$PATH expect 1 "inapplicable" "$MOE" profile small.jsonl $host --config "$(cat path)"
[ -x /usr/local/cuda/bin/ncu ] || PATH=/usr/bin:/bin expect 1 "ncu is not here: install Nsight Compute" "$MOE" profile small.jsonl $host
expect 2 "2 workloads, one is profiled" "$MOE" profile small.jsonl --device host --tool none
expect 2 "no file and no workload" "$MOE" profile nothing --tool none
expect 2 "the nearest are deepseek-v3" "$MOE" profile deepseek-v33/ep8/64/balanced --tool none
expect 2 "do not divide" "$MOE" profile deepseek-v3/ep7/64/balanced --tool none
expect 2 "give one of --ops" "$MOE" profile small.jsonl $host --tool none --ops up,down
expect 2 "give a WORKLOAD" "$MOE" profile
expect 2 "--counters wants --config" "$MOE" profile small.jsonl --counters x.csv
expect 2 "none of ncu, nsys, none" "$MOE" profile small.jsonl --tool gprof
expect 2 "--keep-source goes with --keep" "$MOE" profile small.jsonl --keep-source
expect 2 "cannot read standard input twice" "$MOE" profile -

# Counters that were read elsewhere.
expect 0 "" "$MOE" profile small.jsonl $host --config "$(cat default)" --counters "$SOURCE/tests/ncu_raw.csv"
is "ten lines of a file" "$(wc -l <out)" 10

# Beside the trial: a winner is found, profiled, and its counters are shown; its times stay what they were.
small_sweep --db p.db >/dev/null 2>err || fail "sweep: $(tail -n 3 err)"
cp p.db unprofiled.db
before=$("$MOE" show --trials --db p.db --format csv | sha256sum)
PATH=$WORK/bin:$PATH expect 0 "" "$MOE" profile small.jsonl $host --db p.db
winner=$("$MOE" show --db p.db --format csv --workload small/a | python3 -c 'import csv,sys; print(next(csv.DictReader(sys.stdin))["config"])')
holds "the winner was launched" out "up: $winner"
is "times stay" "$("$MOE" show --trials --db p.db --format csv | sha256sum)" "$before"
"$MOE" show --counters --db p.db --format csv >counters
holds "a counter" counters "gpu__time_duration.sum,890720.000"
holds "of that config" counters "$winner"
is "each counter that there is" "$(tail -n +2 counters | wc -l)" 28
expect 0 "" "$MOE" profile small.jsonl $host --db p.db --counters "$SOURCE/tests/ncu_raw.csv"
is "a second profile is in place of the first" "$("$MOE" show --counters --db p.db --format csv | tail -n +2 | wc -l)" 28
expect 1 "no trial of the configuration" "$MOE" profile small.jsonl $host --db p.db --config "$(cat path)"
expect 1 "no winner" "$MOE" profile small.jsonl $host --ops down --db p.db
expect 2 "which ncu has" "$MOE" profile small.jsonl --db p.db --tool nsys
expect 2 "neither --trials nor --why" "$MOE" show --counters --trials --db p.db
expect 0 "moe-tune profile --db puts them there" "$MOE" show --counters --db unprofiled.db
"$MOE" merge --db both.db unprofiled.db p.db >/dev/null 2>err || fail "merge: $(cat err)"
"$MOE" merge --db turned.db p.db unprofiled.db >/dev/null 2>err || fail "merge: $(cat err)"
"$MOE" show --counters --db both.db --format csv >both
is "merged, in either order" "$("$MOE" show --counters --db turned.db --format csv | sha256sum)" "$(sha256sum <both)"
is "merged counters" "$(tail -n +2 both | wc -l)" 28

echo '"ID","Kernel Name"' >bad.csv
expect 2 "bad.csv:1: no column" "$MOE" profile small.jsonl $host --config "$(cat default)" --counters bad.csv
finish
