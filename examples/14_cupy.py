#!/usr/bin/env python3
"""14_cupy.py - a kernel of your own around the decode, from Python.

    python3 examples/14_cupy.py            needs CuPy and a GPU of sm_80 or newer; exit status 77: there is none

The idea. CuPy compiles CUDA C at run time, and the device half of spinfer needs nothing but its two headers. The kernel
below is that of lesson 05 with 8 tokens. The weight is encoded in NumPy, which shows the whole format in a few lines.
Who edits the headers sets CUPY_CACHE_IN_MEMORY=1: CuPy keeps kernels on disk and sees only changes of the code here.

Introduces: RawModule, the format (section 2 of spinfer_encode.h) in NumPy
"""

import os
import sys

try:
    import numpy as np
except ImportError:
    print("skipped: no NumPy")
    sys.exit(77)

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
KERNEL = r"""
#include "spinfer.cuh"
extern "C" __global__ void multiply(const uint32_t *offsets, const void *data, uint32_t rows, uint32_t cols,
                                    const uint16_t *X, float *Y)
{
    const int      lane = threadIdx.x, warp = threadIdx.y; // a warp for 16 rows, a block for 64
    spinfer_matrix W = {};
    spinfer_frag_c sums = {};
    W.offsets = offsets;
    W.data = data;
    W.group_ld = spinfer_col_groups(cols);
    for (uint32_t k = 0; k < W.group_ld; k++)
        for (int slab = 0; slab < 2; slab++) {
            const uint32_t *x = (const uint32_t *)(X + spinfer_frag_b_token(lane) * cols + 32 * k + 16 * slab +
                                                   spinfer_frag_b_col(lane, 0));
            spinfer_frag_a a;
            spinfer_frag_b b = {{x[0], x[1]}};
            spinfer_decode_record_tc_tile(&a, spinfer_record_at(&W, blockIdx.x, k), 4 * slab + warp, lane);
            spinfer_mma_m16n8k16(SPINFER_FP16, &sums, &a, &b);
        }
    for (int r = 0; r < 4; r++)
        Y[spinfer_frag_c_token(lane, r) * rows + 64 * blockIdx.x + 16 * warp + spinfer_frag_c_row(lane, r)] = sums.r[r];
}
"""


def encode(dense):
    """offsets (uint32) and data (uint8) of a float16 matrix; rows a multiple of 64, cols of 32."""
    rows, cols = dense.shape
    # [row group, column group, left or right 16 columns, 16 rows, upper or lower 8, left or right 8, row, column]
    tiles = dense.view(np.uint16).reshape(rows // 64, 4, 2, 8, cols // 32, 2, 2, 8).transpose(0, 4, 5, 1, 2, 6, 3, 7)
    tiles = tiles.reshape(-1, 32, 64)  # GroupTile, BitmapTile, bit
    kept = (tiles & 0x7FFF) != 0
    records, offsets = [], [0]
    for tile, bits in zip(tiles, kept):
        per_tc_tile = bits.reshape(8, -1).sum(axis=1)
        tc_offsets = (np.cumsum(per_tc_tile) - per_tc_tile).astype("<u2")
        record = tc_offsets.tobytes() + np.packbits(bits, axis=1, bitorder="little").tobytes() + tile[bits].tobytes()
        record += bytes(-len(record) % 16)
        records.append(record)
        offsets.append(offsets[-1] + len(record) // 16)
    data = b"".join(records)
    data += bytes(-len(data) % 128)
    return np.array(offsets, np.uint32), np.frombuffer(data, np.uint8)


def main():
    try:
        import cupy
    except ImportError:
        print("skipped: no CuPy")
        return 77
    try:
        capability = int(cupy.cuda.Device().compute_capability)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        print("skipped:", error)
        return 77
    if capability < 80:
        print("skipped: the GPU is older than sm_80")
        return 77
    rows, cols, tokens = 1024, 1152, 8
    random = np.random.default_rng(1)
    dense = random.integers(-4, 5, (rows, cols)) * (random.random((rows, cols)) < 0.5)
    x = random.integers(-4, 5, (tokens, cols))
    offsets, data = encode(dense.astype(np.float16))
    multiply = cupy.RawModule(code=KERNEL, options=("-I" + ROOT,)).get_function("multiply")
    y = cupy.full((tokens, rows), cupy.nan, cupy.float32)
    multiply((rows // 64,), (32, 4), (cupy.asarray(offsets), cupy.asarray(data), np.uint32(rows), np.uint32(cols),
                                      cupy.asarray(x.astype(np.float16)), y))
    assert (cupy.asnumpy(y) == x @ dense.T).all()  # integers: every sum is exact
    print(f"{rows} x {cols}, {tokens} tokens: {y.size} results, all exact\nOK")
    return 0


if __name__ == "__main__":
    sys.exit(main())
