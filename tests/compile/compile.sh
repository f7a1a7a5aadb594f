#!/usr/bin/env bash
# compile.sh CHECK [ARGUMENT] - one promise that a compiler or linker can prove. CTest runs them all; by hand:
#
#     tests/compile/compile.sh ptxas sm_90
#
# Exit status 0: kept, 77: skipped because this machine lacks the compiler. Environment: CC, CXX, NVCC, CMAKE.
set -euo pipefail

CC=${CC-cc} CXX=${CXX-c++} NVCC=${NVCC-nvcc} CMAKE=${CMAKE-cmake}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

host_flags=(-I"$root" -I"$root/examples" -O2 -Wall -Wextra -Wpedantic -Wconversion -Werror)
cuda_flags=(-I"$root" -Werror all-warnings -Xcompiler=-Wall,-Wextra)
ptx_only=(-gencode arch=compute_90,code=compute_90) # front ends and host compiler; the ptxas checks do the rest

fail() { echo "FAILED: $*"; exit 1; }
skip() { echo "skipped: $*"; exit 77; }
have() { command -v "$1" >/dev/null; }

# Both headers alone, in both orders and twice, as files with the given suffix.
write_includes() {
    local encode='#include "spinfer_encode.h"' spmm='#include "spinfer.cuh"'
    echo "$encode" >encode."$1"
    echo "$spmm" >spmm."$1"
    printf '%s\n' "$encode" "$spmm" >encode_spmm."$1"
    printf '%s\n' "$spmm" "$encode" "$spmm" "$encode" >twice."$1"
}

# The translation unit that holds the kernels: SPINFER_IMPLEMENTATION or SPINFER_STATIC.
write_kernels() { printf '#define %s\n#include "spinfer.cuh"\n' "$1" >"$1".cu; }

# The same with kernels for all other epilogues of the library.
write_all_kernels() {
    local epilogue
    write_kernels SPINFER_IMPLEMENTATION
    for epilogue in bias gelu silu swiglu; do
        echo "SPINFER_DEFINE_SPMM_KERNELS(${epilogue}_fp16, SPINFER_FP16, spinfer_epilogue_$epilogue);"
        echo "SPINFER_DEFINE_SPMM_KERNELS(${epilogue}_bf16, SPINFER_BF16, spinfer_epilogue_$epilogue);"
        echo "const spinfer_kernel *${epilogue}_list(int i) { return i ? ${epilogue}_fp16 : ${epilogue}_bf16; }"
    done >>SPINFER_IMPLEMENTATION.cu
}

# ---- language standards --------------------------------------------------------------------------

# c STANDARD, cxx STANDARD: without CUDA, by every compiler that is here.
compile_includes() {
    local suffix=$1 standard=$2 compilers=0 compiler file
    shift 2
    write_includes "$suffix"
    for compiler in "$@"; do
        have "$compiler" || continue
        compilers=$((compilers + 1))
        for file in *."$suffix"; do
            echo "$compiler -std=$standard $file"
            "$compiler" -std="$standard" "${host_flags[@]}" -c "$file" -o object.o
        done
    done
    [ "$compilers" -gt 0 ] || skip "no compiler for $suffix"
}
check_c() {
    echo '#include "common.h"' >common.c # of the examples: it says C99 as well
    compile_includes c "$1" "$CC" gcc clang
}
check_cxx() { compile_includes cpp "$1" "$CXX" g++ clang++; }

# nvcc STANDARD: the plain headers, the kernels, and the kernels kept private.
check_nvcc() {
    local file
    write_includes cu
    write_kernels SPINFER_IMPLEMENTATION
    for file in *.cu; do
        echo "nvcc -std=$1 $file"
        "$NVCC" -std="$1" "${cuda_flags[@]}" "${ptx_only[@]}" -c "$file" -o object.o
    done
}

# PyTorch compiles its extensions with these.
check_pytorch() {
    write_kernels SPINFER_IMPLEMENTATION
    "$NVCC" "${cuda_flags[@]}" "${ptx_only[@]}" -D__CUDA_NO_HALF_OPERATORS__ -D__CUDA_NO_HALF_CONVERSIONS__ \
        -D__CUDA_NO_HALF2_OPERATORS__ -D__CUDA_NO_BFLOAT16_CONVERSIONS__ --expt-relaxed-constexpr \
        -Xcompiler=-fPIC -c SPINFER_IMPLEMENTATION.cu -o object.o
}

# For a debugger: no optimisation, real functions.
check_debug() {
    write_all_kernels
    "$NVCC" "${cuda_flags[@]}" -G -DSPINFER_NO_FORCEINLINE -arch=sm_90 -cubin SPINFER_IMPLEMENTATION.cu -o kernels.cubin
}

# ---- machine code --------------------------------------------------------------------------------

# ptxas ARCH: the kernels assemble, and none of them has a stack frame or spills a register.
check_ptxas() {
    local compute=compute_${1#sm_}
    "$NVCC" --list-gpu-arch | grep -qx "${compute%a}" || skip "this nvcc does not know $1"
    write_all_kernels
    "$NVCC" "${cuda_flags[@]}" -arch="$1" -Xptxas -v -cubin SPINFER_IMPLEMENTATION.cu -o kernels.cubin 2>report ||
        { cat report; exit 1; }
    awk '/Compiling entry function/ { kernel = $(NF - 2); gsub(/\047/, "", kernel) }
         /bytes stack frame/        { frame = $1; spills = $5 + $9; bad += frame + spills > 0 }
         /Used [0-9]+ registers/    { kernels++; printf "%s %3d registers, %d bytes stack frame, %d bytes spilled\n", \
                                                         kernel, $5, frame, spills }
         END                        { print kernels + 0, "kernels,", bad + 0, "with a frame or spills"
                                      exit bad || !kernels }' report || fail "$1"
}

# stamps: a shape that no kernel can have is refused, and the message says why.
check_stamps() {
    local shape word
    while read -r shape word; do
        cat >stamp.cu <<CODE
#include "spinfer.cuh"
SPINFER_DEFINE_SPMM_KERNEL(kernel, SPINFER_FP16, $shape, spinfer_epilogue_scale);
const void *address(void) { return kernel_info.function; }
CODE
        if "$NVCC" "${cuda_flags[@]}" "${ptx_only[@]}" -c stamp.cu -o object.o >report 2>&1; then
            [ "$word" = fine ] || fail "$shape compiles"
        else
            grep -q "static assertion failed with \"$word" report || fail "$shape: not because of $word"
        fi
        echo "$shape: $word"
    done <<END
1,3,20 fine
4,7,28 fine
2,8,16 fine
3,1,27 TEAM
1,0,16 N_FRAGS
2,9,8 N_FRAGS
1,8,8 N_FRAGS
1,1,33 MAX_WARPS
2,1,15 MAX_WARPS
1,3,28 registers
END
}

# ---- linkage -------------------------------------------------------------------------------------

# Names of the macros that a file defines, given the command that preprocesses it.
macros_of() { "$@" | awk '$1 == "#define" { sub(/\(.*/, "", $2); print $2 }' | sort -u; }

# macros c|nvcc: including the headers adds only SPINFER_ macros to those of the standard headers that they include.
check_macros() {
    local preprocess=("$CC" -E -dM) file=twice.c
    write_includes c
    if [ "$1" = nvcc ]; then
        write_kernels SPINFER_IMPLEMENTATION
        preprocess=("$NVCC" -E -Xcompiler -dM) file=SPINFER_IMPLEMENTATION.cu
    fi
    grep -h '^ *# *include *<' "$root/spinfer_encode.h" "$root/spinfer.cuh" >"standard.${file#*.}"
    [ "$1" = nvcc ] || sed -i '/cuda/d' standard.c # those only come with the kernels
    macros_of "${preprocess[@]}" "standard.${file#*.}" >before
    macros_of "${preprocess[@]}" -I"$root" "$file" >after
    comm -13 before after >added
    grep -q '^SPINFER_ENCODE_H$' added || fail "the macros of the headers were not seen"
    if grep -v '^SPINFER_' added; then fail "macros without the prefix"; fi
    echo "$(wc -l <added) macros, all SPINFER_"
}

# Symbols of an object file that other files can link to.
external() { nm -g --defined-only "$1" | awk '{ print $NF }'; }

# symbols c|nvcc: a plain include and SPINFER_STATIC export nothing, SPINFER_IMPLEMENTATION only spinfer_ functions, and
# no shared library exports even those: two libraries in one process must keep their own kernels.
check_symbols() {
    local object
    if [ "$1" = c ]; then
        write_includes c
        "$CC" "${host_flags[@]}" -c twice.c
    else
        write_includes cu
        write_kernels SPINFER_IMPLEMENTATION
        write_kernels SPINFER_STATIC
        for object in twice SPINFER_IMPLEMENTATION SPINFER_STATIC; do
            "$NVCC" -I"$root" "${ptx_only[@]}" -O2 -Xcompiler=-fPIC,-fno-exceptions -c "$object.cu" -o "$object.o"
        done
        external SPINFER_IMPLEMENTATION.o | tee exported
        grep -qx spinfer_spmm exported || fail "spinfer_spmm is not there"
        if grep -v '^spinfer_' exported; then fail "symbols without the prefix"; fi
        "$NVCC" -shared SPINFER_IMPLEMENTATION.o -o library.so
        if nm -D --defined-only library.so | grep spinfer_; then fail "symbols leave the shared library"; fi
        [ -z "$(external SPINFER_STATIC.o)" ] || fail "SPINFER_STATIC exports $(external SPINFER_STATIC.o)"
    fi
    [ -z "$(external twice.o)" ] || fail "a plain include exports $(external twice.o)"
}

# link -rdc=false|true: two users of the headers, one with the kernels, one with private kernels and a C main.
check_link() {
    local unit flags=("${cuda_flags[@]}" "$1" -arch=sm_90)
    write_kernels SPINFER_IMPLEMENTATION
    "$NVCC" "${flags[@]}" -c SPINFER_IMPLEMENTATION.cu -o kernels.o
    "$NVCC" "${flags[@]}" -DUNIT=unit_private -DSPINFER_STATIC -c "$here/link_unit.cu" -o private.o
    for unit in a b; do "$NVCC" "${flags[@]}" -DUNIT=unit_$unit -c "$here/link_unit.cu" -o $unit.o; done
    "$CC" "${host_flags[@]}" -c "$here/link_main.c" -o main.o
    "$NVCC" "$1" -arch=sm_90 main.o a.o b.o private.o kernels.o -o program
    ./program
}

# ---- consumers -----------------------------------------------------------------------------------

# consumer find_package|add_subdirectory: another project that uses spinfer, installed or from the source tree.
check_consumer() {
    local options=(-DSPINFER_ROOT="$root")
    if [ "$1" = find_package ]; then
        "$CMAKE" -S "$root" -B build -DCMAKE_C_COMPILER="$CC" -DSPINFER_BUILD_TESTS=OFF -DSPINFER_BUILD_EXAMPLES=OFF
        "$CMAKE" --install build --prefix "$work/prefix"
        options=(-DCMAKE_PREFIX_PATH="$work/prefix")
    fi
    "$CMAKE" -S "$here/consumer" -B consumer -DCMAKE_C_COMPILER="$CC" -DCMAKE_CUDA_COMPILER="$NVCC" "${options[@]}"
    "$CMAKE" --build consumer
    ./consumer/consumer
}

"check_$1" "${@:2}"
