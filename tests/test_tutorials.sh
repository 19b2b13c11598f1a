#!/usr/bin/env bash
# Runs the shell commands of the tutorials as they stand, each tutorial in a folder of its own; a block behind a comment
# "not run" is left out. Checks what the text says of some of them.
. "$(dirname "$0")/lib.sh"
unset MOET_LIBRARY

# commands_of TUTORIAL: its blocks of sh.
commands_of() {
    awk '/^<!-- not run/ { skip = 1 } /^```sh$/ { inside = !skip; skip = 0; next } /^```$/ { inside = 0 } inside' "$SOURCE/docs/$1"
}

# run TUTORIAL: prints each command and its output into <tutorial>.log.
run() {
    local name=${1%.md} lines
    commands_of "$1" >"$name.sh"
    lines=$(wc -l <"$name.sh")
    [ "$lines" -ge "$2" ] && pass || fail "$1: only $lines lines of commands"
    mkdir "$name"
    ln -s "$BUILD" "$name/build"
    ln -s "$SOURCE/docs" "$name/docs"
    if (cd "$name" && PATH=$BUILD:$PATH bash -eux "../$name.sh") >"$name.log" 2>&1; then
        pass
    else
        fail "$1: $(tail -n 6 "$name.log")"
    fi
}

run tutorial-sweep.md 14
holds "the sweep given again" tutorial-sweep.log "nothing to do: all of it is in tutorial.db"
holds "emit" tutorial-sweep.log "entries"
holds "bench and compare" tutorial-sweep.log "geomean"
is "shards merged" "$(query tutorial-sweep/all.db 'select count(*) > 10 from trials')" 1

run tutorial-nsight.md 7
is "a configuration timed by itself, and the default" "$(grep -o '"peer":"[a-z0-9-]*"' tutorial-nsight.log | sort -u | tr '\n' ' ')" '"peer":"config1" "peer":"moe-tune-default" '

run tutorial-production.md 10
holds "the example without a table" tutorial-production.log "default: host_tile:"
grep -qE '^(nearest|exact): host_' tutorial-production.log && pass || fail "the example with a table: $(grep -E '^[a-z]+: host' tutorial-production.log)"
is "the example with MOET_TABLE=off" "$(grep -A2 'MOET_TABLE=off' tutorial-production.log | grep -c '^default: ')" 1
holds "diff" tutorial-production.log "added"
is "the table in use" "$(readlink tutorial-production/table)" table.2
finish
