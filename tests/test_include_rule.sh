#!/usr/bin/env bash
# Includes point left only: src <- kernels <- bench <- tuner. Of src, kernels include the headers of the plug-in
# points, cuda_api.h and nvtx.h. Only tuner/store*.c include sqlite3.h. No file is longer than it is one thing.
set -u
cd "${1:?usage: $0 SOURCE_DIR}" || exit 1
bad=0
complain() {
    [ -z "$1" ] && return
    echo "$2:"
    echo "$1" | sed 's/^/  /'
    bad=$((bad + 1))
}
includes() { grep -nE '^[[:space:]]*#[[:space:]]*include' "$@" /dev/null; }

[ "$(includes src/*.[ch] | wc -l)" -gt 20 ] || complain "src" "no includes found: the test looks in the wrong place"
complain "$(includes src/*.[ch] | grep -E '"(\.\./)*(kernels|bench|tuner)/')" "src includes from further right"
complain "$(includes src/*.[ch] | grep -E '"\.\./')" "src includes from elsewhere"
complain "$(includes kernels/*.[ch] kernels/*.cu | grep -E '"(\.\./)*(bench|tuner)/')" "kernels include from further right"
complain "$(includes kernels/*.[ch] | grep -E '"\.\./' | grep -vE '"\.\./src/(moet|family|device|counts|ep_stages|cuda_api|nvtx)\.h"')" \
    "kernels include more of src than moet.h, family.h, device.h, counts.h, ep_stages.h, cuda_api.h and nvtx.h"
complain "$(includes kernels/*.cu kernels/*.cuh)" "CUDA sources include headers, which NVRTC would have to find"
complain "$(includes bench/*.[ch] | grep -E '"(\.\./)*tuner/')" "bench includes from tuner"
complain "$(includes src/*.[ch] kernels/*.[ch] bench/*.[ch] tuner/*.[ch] | grep 'sqlite3.h' |
    grep -vE '^tuner/store[a-z_]*\.[ch]:')" "sqlite3.h outside tuner/store*"
complain "$(wc -l src/*.[ch] kernels/*.[ch] kernels/*.cu kernels/*.cuh bench/*.[ch] tuner/*.[ch] tests/*.[ch] | awk '$2 != "total" && $1 > 650')" \
    "longer than 650 lines"
complain "$(grep -nE '^MOET_FAMILY' src/families.def | sort | uniq -d)" "a family stands twice"
[ "$bad" = 0 ] && echo "the include rule holds"
exit "$bad"
