#!/usr/bin/env bash
# The tarball runs elsewhere; libmoet.so needs the C library only and exports moet_* only; the CMake package and the
# pkg-config file build docs/example.c.
. "$(dirname "$0")/lib.sh"
CC=${CC:-cc}

(cd "$BUILD" && cpack -B "$WORK/pack") >out 2>&1 || fail "cpack: $(tail -n 3 out)"
tarball=$(ls pack/moe-tune-*.tar.gz 2>/dev/null | head -n 1)
if [ -z "$tarball" ]; then
    fail "no tarball: $(tail -n 5 out)"
    finish
    exit
fi
mkdir elsewhere
tar -xzf "$tarball" -C elsewhere
root=$(echo elsewhere/moe-tune-*)
expect 0 "" "$root/bin/moe-tune" doctor --no-measure --device host
holds "doctor from the tarball" out "host_blas"
expect 0 "" "$root/bin/moe-tune" sweep --device host --families host_blas --workloads small.jsonl --ops up --rounds 3 --db x.db
expect 0 "" "$root/bin/moe-tune" emit --db x.db --out table
expect 0 "" "$root/bin/moe-tune" verify --table table --device host
# What Debian or Ubuntu may lack there is inside: SQLite in the program, cJSON and OpenBLAS beside it.
needed() { readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'; }
for library in $(needed "$root/bin/moe-tune"); do
    case $library in
    libc.so.6 | libm.so.6 | libdl.so.2 | libpthread.so.0 | ld-linux*) pass ;;
    *) [ -n "$(find "$root" -name "$library")" ] && pass || fail "moe-tune of the tarball needs $library, which is not in it" ;;
    esac
done
for library in libcjson.so.1 libopenblas.so.0; do
    [ -n "$(find "$root" -name "$library")" ] && pass || fail "the tarball lacks $library"
done

# The prefix is as far up as the libraries' folder is deep; includes are then found.
for folder in lib lib/x86_64-linux-gnu; do
    cmake -S "$SOURCE" -B "deep/$folder" -DCMAKE_C_COMPILER="$CC" -DCMAKE_INSTALL_LIBDIR=$folder -DMOET_CUDA=OFF >out 2>&1
    mkdir -p "root/$folder/pkgconfig" root/include
    cp "deep/$folder/moet.pc" "root/$folder/pkgconfig/"
    prefix=$(sed -n "s,^prefix=\${pcfiledir},root/$folder/pkgconfig,p" "root/$folder/pkgconfig/moet.pc")
    is "moet.pc's prefix of $folder" "$(realpath "$prefix")" "$PWD/root"
done

library=$(find "$root" -name 'libmoet.so.0' | head -n 1)
[ -n "$library" ] && pass || fail "no libmoet.so.0 in the tarball"
for name in $(needed "$library"); do
    case $name in
    libc.so.6 | libm.so.6 | ld-linux*) pass ;;
    *) fail "libmoet.so needs $name" ;;
    esac
done
is "the SONAME" "$(readelf -d "$library" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p')" libmoet.so.0
strange=$(nm -D --defined-only "$library" | awk '{print $3}' | grep -v '^moet_' | grep -v '^MOET_')
is "exported symbols that are not moet_*" "$strange" ""
nm -D --defined-only "$library" | grep -q 'moet_launch@@MOET_0' && pass || fail "moet_launch has no version"

if command -v "$CC" >/dev/null && command -v pkg-config >/dev/null; then
    # Found, not installed: .pc files are relative to where they lie.
    pc=$(dirname "$(find "$PWD/$root" -name moet.pc | head -n 1)")
    flags=$(PKG_CONFIG_PATH=$pc pkg-config --cflags --libs moet) && pass || fail "pkg-config does not find moet"
    "$CC" "$SOURCE/docs/example.c" $flags -o example && pass || fail "docs/example.c does not build by pkg-config"
    LD_LIBRARY_PATH=$(dirname "$library") ./example >out 2>&1
    is "the example by pkg-config" $? 0
    holds "the example" out "64 expected"
    LD_LIBRARY_PATH=$(dirname "$library") ./example table >out 2>&1
    is "the example with a table" $? 0
fi
if command -v cmake >/dev/null && command -v "$CC" >/dev/null; then
    mkdir user
    cat >user/CMakeLists.txt <<EOF
cmake_minimum_required(VERSION 3.25)
project(user LANGUAGES C)
find_package(moet REQUIRED)
add_executable(user $SOURCE/docs/example.c)
target_link_libraries(user PRIVATE moet::moet)
add_executable(user_static $SOURCE/docs/example.c)
target_link_libraries(user_static PRIVATE moet::moet_static)
EOF
    if cmake -S user -B user/build -DCMAKE_C_COMPILER="$CC" -DCMAKE_PREFIX_PATH="$PWD/$root" >out 2>&1 && cmake --build user/build >>out 2>&1; then
        pass
        user/build/user >out 2>&1
        is "the example by CMake" $? 0
        user/build/user_static >out 2>&1
        holds "where the host kernels belong" out "or beside your program where libmoet is linked into that"
        cp "$(dirname "$library")"/libmoet_host.so user/build/ 2>/dev/null
        user/build/user_static >out 2>&1
        is "the example by CMake, static" $? 0
    else
        fail "docs/example.c does not build by the CMake package: $(tail -n 4 out)"
    fi
fi
finish
