#!/usr/bin/env bash
# Help, man pages and completions say what the commands parse: the same options everywhere, examples of options that
# there are, in the documents too. Completions are tried in bash, and read by zsh and fish where these are installed.
. "$(dirname "$0")/lib.sh"

"$MOE" --help >help
commands=$(sed -n 's/^  \([a-z]*\)  *[a-z].*/\1/p' help | grep -v '^moe')
is "commands of --help and of the sources" "$(echo "$commands" | sort | tr '\n' ' ')" \
    "$(ls "$SOURCE"/tuner/cmd_*.c | sed 's/.*cmd_\(.*\)\.c/\1/' | sort | tr '\n' ' ')"

"$MOE" help --man >man.txt
"$MOE" help --completion bash >completion.bash
"$MOE" help --completion zsh >completion.zsh
"$MOE" help --completion fish >completion.fish
. ./completion.bash

# complete WORD...: what bash offers for the last word, sorted, in one line.
complete_words() {
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
    _moe_tune
    printf '%s\n' "${COMPREPLY[@]}" | tr -d = | sort | tr '\n' ' '
}
options_of() { grep -oE -- '--[a-z][a-z-]*' | sort -u | tr '\n' ' '; }

for command in $commands; do
    expect 0 "" "$MOE" "$command" --help
    cp out "$command.help"
    listed=$(sed -nE 's/^ +(-\?, )?(--[a-z-]+).*/\2/p' "$command.help" | sort -u | tr '\n' ' ')
    case $listed in *--help*) pass ;; *) fail "$command: no options found in its help" ;; esac
    "$MOE" help --man "$command" >"$command.1"
    is "man page of $command" "$(sed -n 's/\\-/-/g; s/^\(\\fB-?\\fR, \)\{0,1\}\\fB\(--[a-z-]*\).*/\2/p' "$command.1" | sort -u | tr '\n' ' ')" "$listed"
    is "bash completion of $command" "$(complete_words moe-tune "$command" --)" "$listed"
    is "zsh completion of $command" "$(sed -n "/^    $command)/,/;;/p" completion.zsh | sed -n "s/^ *'\(--[a-z-]*\).*/\1/p" | sort -u | tr '\n' ' ')" "$listed"
    is "fish completion of $command" "$(sed -n "s/.*subcommand_from $command' -l \([a-z-]*\) .*/--\1/p" completion.fish | sort -u | tr '\n' ' ')" "$listed"
    holds "the man page of moe-tune" man.txt "moe\\-tune\\-$command (1)"
    # The example: of this command, and of options that it has.
    example=$(sed -n '/^Example:/,/^$/p' "$command.help" | tr '\n' ' ')
    case $example in *"moe-tune $command"*) pass ;; *) fail "$command --help has no example" ;; esac
    # One line a command: argp breaks long ones, and a shell takes their second half for a command.
    is "$command: its examples are lines" "$(sed -n '/^Example:/,/^$/p' "$command.help" | grep -vE '^(Example:|  moe-tune .*|)$')" ""
    for option in $(echo "$example" | options_of); do
        case " $listed" in *" $option "*) pass ;; *) fail "$command: its example has $option, which it does not know" ;; esac
    done
    if [ -d "$BUILD/documents" ]; then
        cmp -s "$command.1" "$BUILD/documents/man1/moe-tune-$command.1" && pass || fail "documents/man1/moe-tune-$command.1 is not of this build"
    fi
done

# Values.
is "bash: commands" "$(complete_words moe-tune sw)" "sweep "
is "bash: words" "$(complete_words moe-tune sweep --device =)" "auto cuda host "
is "bash: words begun" "$(complete_words moe-tune sweep --device = ho)" "host "
is "bash: words without =" "$(complete_words moe-tune bench --numerics t)" "train "
is "bash: only words of the doc" "$(complete_words moe-tune sweep --activation =)" "gpt_oss swiglu swiglu_clamp "
is "bash: efforts" "$(complete_words moe-tune sweep --effort =)" "exhaustive normal quick "
is "bash: tools" "$(complete_words moe-tune profile --tool =)" "ncu none nsys "
is "bash: where TEXT is free" "$(complete_words moe-tune show --device = ho)" " "
mkdir folder && touch file.jsonl
is "bash: folders" "$(complete_words moe-tune bench --table = fo)" "folder "
is "bash: files" "$(complete_words moe-tune bench --workloads = fi)" "file.jsonl "
is "bash: files as arguments" "$(complete_words moe-tune compare fi)" "file.jsonl "
expect 2 "no shell 'ksh'" "$MOE" help --completion ksh
expect 2 "did you mean 'sweep'" "$MOE" help --man swep
for shell in bash zsh fish; do
    command -v $shell >/dev/null || continue
    $shell -n completion.$shell && pass || fail "$shell does not read its completion"
done
if command -v fish >/dev/null; then
    offered() { fish -c "source completion.fish; complete -C '$1'" | sed 's/\t.*//' | sort | tr '\n' ' '; }
    is "fish: words" "$(offered 'moe-tune sweep --device=')" "--device=auto --device=cuda --device=host "
    is "fish: commands" "$(offered 'moe-tune ver')" "verify "
    is "fish: an option of one command" "$(offered 'moe-tune merge --wi')" ""
fi
if command -v mandoc >/dev/null; then
    for page in man.txt $(for command in $commands; do echo "$command.1"; done); do
        is "mandoc on $page" "$(mandoc -T lint -W warning "$page" | grep -v 'missing date')" ""
    done
fi

# Environment variables that the library and the program read; MOET_WATCHDOG and MOET_RACECHECK are for its own tests.
for name in $(grep -rhoE 'getenv\("MOET_[A-Z_]+' "$SOURCE"/src "$SOURCE"/kernels "$SOURCE"/bench "$SOURCE"/tuner | sed 's/.*"//' | sort -u); do
    case $name in MOET_WATCHDOG | MOET_RACECHECK) continue ;; esac
    holds "ENVIRONMENT of the man page" man.txt ".B $name"
done

# Command lines in the documents: their options are ones that the command has.
lines=0
for document in "$SOURCE"/README.md "$SOURCE"/docs/*.md "$SOURCE"/results/*/README.md; do
    while read -r line; do
        command=$(echo "$line" | sed -n 's/.*moe-tune \([a-z]*\).*/\1/p')
        [ -f "$command.help" ] || continue
        lines=$((lines + 1))
        for option in $(echo "${line##*moe-tune "$command"}" | sed 's/ && .*//; s/ | .*//; s/`.*//; s/; .*//' | options_of); do
            grep -qE -- "^ +(-\?, )?$option\b" "$command.help" || fail "$(basename "$document"): moe-tune $command has no $option: $line"
        done
    done < <(awk '/\\$/ { sub(/\\$/, ""); printf "%s", $0; next } { print }' "$document" | grep -oE '(`|^|\$ )[^`]*moe-tune [a-z]+ [^`]*--[^`]*')
done
# Messages that docs/troubleshooting.md quotes are ones that there are: each piece between what differs is in a string of
# the sources.
cat >messages.py <<'E2'
import glob, re, sys
source = sys.argv[1]
text = ""
for pattern in ("src/*", "kernels/*.[ch]", "bench/*.[ch]", "tuner/*.[ch]", "bindings/python/moe_tune/*.py"):
    for path in glob.glob(f"{source}/{pattern}"):
        with open(path) as file:
            text += file.read()
text = re.sub(r'"\s*\n\s*f?"', "", text)  # one string over two lines
count = 0
for line in open(f"{source}/docs/troubleshooting.md"):
    quotes = re.findall(r"^### `(.*)`$", line) + re.findall(r"^\| `(.*)` \|", line)
    for quote in quotes:
        count += 1
        pieces = [piece for piece in re.split("…", quote) if len(piece) > 3]
        if not pieces or max(map(len, pieces)) < 8 or not all(piece in text for piece in pieces):
            print("no message of the sources:", quote)
if count < 30:
    print("only", count, "messages")
E2
is "messages of docs/troubleshooting.md" "$(python3 messages.py "$SOURCE")" ""
# Links to files of the repository.
for document in "$SOURCE"/*.md "$SOURCE"/docs/*.md "$SOURCE"/bindings/python/README.md "$SOURCE"/results/*/README.md; do
    for link in $(grep -oE '\]\([^):# ]+' "$document" | cut -c3- | grep -v '^https\{0,1\}$' | sort -u); do
        [ -e "$(dirname "$document")/$link" ] || fail "$(basename "$document"): no file $link"
    done
done
[ "$lines" -gt 20 ] && pass || fail "only $lines command lines were found in the documents"
finish
