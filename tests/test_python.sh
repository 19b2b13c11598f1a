#!/usr/bin/env bash
# bindings/python against this build's libmoet: with NumPy, and with torch and Paddle where they are installed; and the
# package installed by pip, where pip can build without a network.
. "$(dirname "$0")/lib.sh"
export MOET_LIBRARY=$BUILD/libmoet.so.0 MOET_SOURCE=$SOURCE PYTHONDONTWRITEBYTECODE=1

python=
for candidate in ${MOET_PYTHON:-} python3 /usr/bin/python3; do
    if "$candidate" -c 'import numpy' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "skipped: no python3 with NumPy (apt install python3-numpy; MOET_PYTHON names another interpreter)"
    exit 77
fi
if [ ! -e "$MOET_LIBRARY" ] || [ ! -e "$BUILD/libmoet_host.so" ]; then
    echo "skipped: $BUILD has no libmoet.so.0 or no libmoet_host.so"
    exit 77
fi

# A table that the tests look up.
expect 0 "" small_sweep --db small.db
expect 0 "" "$MOE" emit --db small.db --out table
export MOET_TEST_TABLE=$PWD/table

# run NAME COMMAND...: a run of unittest, whose last lines are shown.
run() {
    local name=$1
    shift
    if "$@" >log 2>&1 && grep -qE '^Ran [1-9][0-9]* tests?' log; then
        pass
        grep -E '^(Ran|OK)' log | tr '\n' ' '
        echo "($name)"
    else
        fail "$name: $(grep -vE '^(\.|s)*$' log | tail -n 25)"
    fi
}
tests=(-m unittest discover -s "$SOURCE/bindings/python/tests")
PYTHONPATH=$SOURCE/bindings/python run "the source as it is" "$python" "${tests[@]}"

# Without libmoet the message says what to do.
cat >none.py <<'E2'
try:
    import moe_tune
except ImportError as error:
    print(error)
E2
MOET_LIBRARY=$PWD/none.so PYTHONPATH=$SOURCE/bindings/python "$python" none.py >out 2>&1
holds "no libmoet" out "set MOET_LIBRARY to its libmoet.so.0"
MOET_LIBRARY=libc.so.6 PYTHONPATH=$SOURCE/bindings/python "$python" none.py >out 2>&1
holds "another library" out "libc.so.6 lacks moet_"

if command -v cc >/dev/null; then
    echo 'const char *moet_version(void) { return "9.8.7"; }' | cc -shared -fPIC -x c - -o other.so
    MOET_LIBRARY=$PWD/other.so PYTHONPATH=$SOURCE/bindings/python "$python" none.py >out 2>&1
    holds "another version" out "other.so is libmoet 9.8.7, this moe_tune is "
fi

# pip install: of a copy, as pip builds inside the folder.
can_build='import sys
from importlib.metadata import version
from importlib.util import find_spec as has
sys.exit(not (has("pip") and has("setuptools") and (has("wheel") or int(version("setuptools").split(".")[0]) > 70)))'
if "$python" -c "$can_build"; then
    cp -r "$SOURCE/bindings/python" package
    if "$python" -m pip install --quiet --no-build-isolation --no-deps --no-index --target site ./package >log 2>&1; then
        PYTHONPATH=$PWD/site run "installed by pip" "$python" "${tests[@]}"
        is "files of other platforms" "$(find site -name '*.so*')" ""
    else
        fail "pip install ./bindings/python: $(tail -n 3 log)"
    fi
else
    echo "not tried: pip install (this python3 has no pip, setuptools or wheel)"
fi
finish
