#!/usr/bin/env bash
# scripts/slurm_array.sbatch and the commands of scripts/k8s-indexed-job.yaml as their tasks run them: the shards merge to
# what one sweep has. And a read-only root: what works, and what is said where something cannot be written.
. "$(dirname "$0")/lib.sh"
options=(--device host --families host_blas --workloads "$PWD/small.jsonl" --ops up --rounds 3)
points() { "$MOE" show --db "$1" --format json | python3 -c 'import json, sys
for row in map(json.loads, sys.stdin): print(row["workload"], row["rows"], row["skew"], row["kind"])' | sort; }

expect 0 "" "$MOE" sweep "${options[@]}" --db whole.db
export MOE_TUNE=$MOE SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_MAX=2 SLURM_ARRAY_TASK_COUNT=2
for task in 1 2; do
    SLURM_ARRAY_TASK_ID=$task expect 0 "" bash "$SOURCE/scripts/slurm_array.sbatch" array "${options[@]}"
done
expect 0 "" "$MOE" merge --db array/all.db array/shard-1.db array/shard-2.db
points whole.db >whole
is "points of the merged array" "$(points array/all.db)" "$(cat whole)"
[ "$(wc -l <whole)" -ge 2 ] && pass || fail "one sweep has only $(wc -l <whole) points"
[ -n "$(points array/shard-1.db)" ] && [ -n "$(points array/shard-2.db)" ] && pass || fail "a shard is empty"
expect 2 "not a task of an array" bash "$SOURCE/scripts/slurm_array.sbatch" array
SLURM_ARRAY_TASK_ID=1 expect 2 "say where the databases go" bash "$SOURCE/scripts/slurm_array.sbatch"
SLURM_ARRAY_TASK_ID=1 SLURM_ARRAY_TASK_MAX=3 expect 2 "the array has gaps" bash "$SOURCE/scripts/slurm_array.sbatch" array
unset SLURM_ARRAY_TASK_MIN SLURM_ARRAY_TASK_MAX SLURM_ARRAY_TASK_COUNT

# The Job's two commands, with the folder of the test for /data and this build for the program of the image.
sed -n 's/^ *- exec moe-tune //p' "$SOURCE/scripts/k8s-indexed-job.yaml" | sed "s|/data/|$PWD/pods/|g" >commands
is "commands of the Job" "$(wc -l <commands)" 2
mkdir pods
for index in 0 1; do
    SHARDS=2 OPTIONS=${options[*]} JOB_COMPLETION_INDEX=$index expect 0 "" sh -c "exec $MOE $(sed -n 1p commands)"
done
expect 0 "" sh -c "exec $MOE $(sed -n 2p commands)"
is "points of the merged pods" "$(points pods/all.db)" "$(cat whole)"
# One number of shards, three times.
is "shards of the Job" "$(grep -E 'completions: |parallelism: |name: SHARDS' "$SOURCE/scripts/k8s-indexed-job.yaml" | grep -oE '[0-9]+' | sort -u | wc -l)" 1

# What is written where it may not be.
expect 0 "" env MOET_CACHE_DIR=/proc/none "$MOE" doctor --no-measure --device host
holds "doctor on a cache that cannot be written" out "cannot be written: each process compiles its kernels anew"
expect 0 "" env -u MOET_CACHE_DIR -u XDG_CACHE_HOME HOME=/proc/none "$MOE" doctor --no-measure --device host
holds "doctor on a home that cannot be written" out "/proc/none/.cache/moe-tune"
expect 0 "" env -u MOET_CACHE_DIR -u XDG_CACHE_HOME -u HOME "$MOE" doctor --no-measure --device host
holds "doctor without a home" out "MOET_CACHE_DIR names another folder"
expect 0 "" env MOET_CACHE_DIR="$PWD/new/cache" "$MOE" doctor --no-measure --device host
grep -q 'cannot be written' out && fail "a cache folder that can be made is said not to be" || pass
expect 1 "name one that can be written (--out)" "$MOE" emit --db whole.db --out /proc/none/table

# A root that is read-only but for one folder, in a mount namespace of our own.
mkdir root
cat >readonly.sh <<EOF2
mount -t tmpfs none "$PWD/root" && mount -o remount,bind,ro / || exit 77
cd / && touch /tmp/moet-probe 2>/dev/null && exit 77
export HOME=/root
unset MOET_CACHE_DIR XDG_CACHE_HOME
cp "$PWD/whole.db" "$PWD/root/x.db" # of which a sweep has nothing left to do but opens it for writing
"$MOE" sweep ${options[*]} --db "$PWD/root/x.db" && "$MOE" show --db "$PWD/root/x.db" && "$MOE" emit --db "$PWD/root/x.db" --out "$PWD/root/table" &&
    "$MOE" verify --device host --table "$PWD/root/table" && "$MOE" show --db "$PWD/whole.db" || exit 1
"$MOE" sweep ${options[*]} && exit 1
"$MOE" emit --db "$PWD/whole.db" --out "$PWD/table" && exit 1
exit 0
EOF2
code=0
unshare -rm sh readonly.sh >out 2>err || code=$?
case $code in
0)
    pass
    holds "a database on a read-only root" err "database 'moe-tune.db': cannot be opened; check that its folder exists and can be written, or name another (--db)"
    holds "a table on a read-only root" err "Read-only file system; name one that can be written (--out)"
    ;;
1) fail "on a read-only root: $(tail -n 3 err)" ;;
*) echo "not tried: a read-only root (no mount namespaces here)" ;;
esac
finish
