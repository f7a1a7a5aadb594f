/* 05_warp_spmm.cu - a warp multiplies 16 rows: correct and slow.
 *
 *     05_warp_spmm [rows cols [percent of zeros]]
 *
 * The idea. The registers that a decode fills are the A operand of an mma, so a sparse multiply is a loop: decode a
 * TCTile, load the part of X that it meets, multiply, go 16 columns to the right. One warp does it for 16 rows, four
 * warps for the 64 rows of a strip of records. Nothing is staged, nothing is shared: weights and X come straight from
 * global memory, each load waits for the one before it, and the warp waits for all of them. That is why it is slow: the
 * memory has next to nothing to do. Lessons 06, 07 and 09 change this one by one, with the same names.
 *
 * Introduces: spinfer_record_at(), spinfer_decode_record_tc_tile(), spinfer_frag_b_col(), spinfer_frag_b_token(),
 *             spinfer_mma_m16n16k16(), spinfer_frag_c_row(), spinfer_frag_c_token() */
#include "lesson.h"

enum { WARPS = 4 }; /* of a block: one for each 16 rows of a record */

/* The part of X that belongs to 16 columns of W, for 16 tokens. A lane owns four neighbouring columns of one token in
 * each half, which are the 8 bytes of two registers. */
static __device__ void load_x(spinfer_frag_b *b, const uint16_t *X, size_t ldx, uint32_t col, int lane)
{
    for (int half = 0; half < 2; half++) { /* tokens 0..7 and 8..15 */
        const size_t    token = (size_t)(8 * half + spinfer_frag_b_token(lane));
        const uint32_t *x = (const uint32_t *)(X + token * ldx + col + (uint32_t)spinfer_frag_b_col(lane, 0));
        b[half].r[0] = x[0];
        b[half].r[1] = x[1];
    }
}

/* Threads (32, WARPS), one block for each 64 rows. */
static __global__ void __launch_bounds__(32 * WARPS) multiply(spinfer_matrix W, const uint16_t *X, float *Y)
{
    const int      lane = (int)threadIdx.x, warp = (int)threadIdx.y;
    const uint32_t strip = blockIdx.x;
    spinfer_frag_c sums[2] = {};
    for (uint32_t k = 0; k < spinfer_col_groups(W.cols); k++) {
        const void *record = spinfer_record_at(&W, strip, k);
        for (int slab = 0; slab < 2; slab++) { /* TCTiles 0..3 of a record are its left 16 columns, 4..7 its right */
            spinfer_frag_a a;
            spinfer_frag_b b[2];
            spinfer_decode_record_tc_tile(&a, record, 4 * slab + warp, lane);
            load_x(b, X, W.cols, SPINFER_GROUP_COLS * k + 16 * (uint32_t)slab, lane);
            spinfer_mma_m16n16k16(SPINFER_FP16, sums, &a, b);
        }
    }
    store_y(sums, Y + SPINFER_GROUP_ROWS * strip + 16 * (uint32_t)warp, W.rows, lane);
}

static void launch_multiply(spinfer_matrix W, const uint16_t *X, float *Y)
{
    multiply<<<spinfer_row_groups(W.rows), dim3(32, WARPS)>>>(W, X, Y);
}

int main(int argc, char **argv)
{
    layer l;
    require_gpu();
    l = layer_create(argc, argv);
    layer_check(&l, launch_multiply, "a warp for 16 rows");
    layer_time(&l, launch_multiply, "a warp for 16 rows");
    layer_free(&l);
    puts("OK");
    return 0;
}
