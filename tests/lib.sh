# Sourced by the test scripts: BUILD and SOURCE (absolute), a working folder that is removed at the end, and checks.
set -u
BUILD=$(cd "${1:?usage: $0 BUILD_DIR SOURCE_DIR}" && pwd)
SOURCE=$(cd "${2:?usage: $0 BUILD_DIR SOURCE_DIR}" && pwd)
MOE=$BUILD/moe-tune
export MOET_CACHE_DIR=$BUILD/test-cache
unset MOET_TABLE
WORK=$(mktemp -d "${TMPDIR:-/tmp}/moet-test-XXXXXX")
trap 'clean_up; rm -rf "$WORK"' EXIT
clean_up() { :; } # a script with something to undo defines its own
cd "$WORK" || exit 1
passed=0 failed=0

pass() { passed=$((passed + 1)); }
fail() {
    failed=$((failed + 1))
    echo "FAILED: $*"
}

# is NAME ACTUAL EXPECTED
is() { if [ "$2" = "$3" ]; then pass; else fail "$1: '$3' expected, '$2' found"; fi; }

# holds NAME FILE WORDS: the file has these words
holds() { if grep -qF -- "$3" "$2"; then pass; else fail "$1: '$3' is not in: $(head -c 500 "$2")"; fi; }

# expect EXIT WORDS COMMAND...: exit code, and words in stderr. An error is one line (argp adds its own "Try ...").
expect() {
    local code=$1 words=$2 actual=0
    shift 2
    "$@" >out 2>err </dev/null || actual=$?
    if [ "$actual" != "$code" ]; then
        fail "$*: exit $code expected, $actual found: $(tail -n 3 err)"
    elif [ -n "$words" ] && ! grep -qF -- "$words" err; then
        fail "$*: '$words' is not in: $(head -c 500 err)"
    elif [ "$code" != 0 ] && [ "$(grep -cvE '^Try |^information\.$' err)" != 1 ] && [ -z "${SEVERAL_LINES:-}" ]; then
        fail "$*: more than one line: $(head -c 500 err)"
    else
        pass
    fi
}

# One value of a query, for facts that no command prints.
query() { python3 -c 'import sqlite3,sys; print(sqlite3.connect("file:"+sys.argv[1]+"?mode=ro",uri=True).execute(sys.argv[2]).fetchone()[0])' "$@"; }

finish() {
    echo "$passed checks passed, $failed failed"
    [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
}

# A small host sweep: two workloads, one family, seconds.
cat >small.jsonl <<'EOF'
{"name":"small/a","experts":4,"hidden":64,"inter":32,"rows":64,"skew":"balanced","counts":[16,16,16,16]}
{"name":"small/b","experts":4,"hidden":64,"inter":32,"rows":64,"skew":"hot","counts":[61,1,1,1]}
EOF
small_sweep() { "$MOE" sweep --effort exhaustive --device host --families host_blas --workloads small.jsonl --ops up --rounds 3 "$@"; }
