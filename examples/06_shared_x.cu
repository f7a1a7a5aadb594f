/* 06_shared_x.cu - X through shared memory, and why its rows must not begin in the same bank.
 *
 *     06_shared_x [rows cols [percent of zeros]]
 *
 * The idea. The four warps of a block need the same X, so they fetch it once, a piece at a time, into shared memory.
 * That has 32 banks of 4 bytes, and whoever reads different words of one bank waits in line. The tokens of a piece are
 * rows of 1024 bytes, so a chunk of 16 bytes lies in the same banks for all of them: eight tokens take eight turns. Two
 * cures are counted and timed here:
 *
 *     swizzle   chunk c of token t is kept at place c ^ (t % 8) of its row. ldmatrix reads one chunk of eight
 *               tokens, and now they lie in eight places. The multiply below does so, or without for comparison.
 *     padding   a row is 32 bytes longer than what it holds, and a lane reads its own 8 bytes, as in lesson 07. The
 *               library reads 8 bytes for a lane, too, but from the swizzled rows that the copy engine writes.
 *
 * ldmatrix deals columns to lanes as the instruction wants them: 2j, 2j + 1, 2j + 8, 2j + 9 to lane j. Our weights are
 * in quad order (FIG 4 of spinfer.cuh), so pairs of columns are dealt before they are stored: chunk 0 of 16 columns
 * holds the first pair of each lane (register 0), chunk 1 the second one (register 1).
 *
 * Introduces: spinfer_shared_address(), spinfer_ldmatrix_x4(), spinfer_shared_u32x2() */
#include "lesson.h"

enum { WARPS = 4, X_COLS = 512, X_ROW = 2 * X_COLS, PADDED_ROW = X_ROW + 32 };
enum { READERS = 16, READS = 1024 }; /* warps, and how often each reads */
enum way { PLAIN, SWIZZLED, PADDED };

/* Where a piece of X keeps a 16-byte chunk of a token, in bytes; not padded. */
SPINFER_HD uint32_t x_place(int way, uint32_t token, uint32_t chunk)
{
    return token * X_ROW + 16 * (chunk ^ (token % (way == SWIZZLED ? 8 : 1)));
}

/* Where lane i reads the X of step `step`, 16 columns. For ldmatrix it names row i % 8 of matrix i / 8: registers 0 and
 * 1 of tokens 0..7, then of tokens 8..15. In padded rows these are its 8 bytes of tokens 0..7; those of tokens 8..15
 * lie 8 rows behind. */
SPINFER_HD uint32_t x_place_of_lane(int way, uint32_t step, int lane)
{
    if (way != PADDED) return x_place(way, (uint32_t)(lane / 16 * 8 + lane % 8), 2 * step + (uint32_t)(lane / 8 % 2));
    return (uint32_t)spinfer_frag_b_token(lane) * PADDED_ROW + 32 * step + 2 * (uint32_t)spinfer_frag_b_col(lane, 0);
}

/* Columns col .. col + X_COLS - 1 of all tokens into shared memory, as far as there are any. Scope: block; a barrier
 * publishes them. */
static __device__ void load_piece(int way, unsigned char *piece, const uint16_t *X, uint32_t cols, uint32_t col,
                                  uint32_t thread)
{
    for (uint32_t i = thread; i < TOKENS * X_COLS / 16; i += 32 * WARPS) {
        const uint32_t token = i / (X_COLS / 16), step = i % (X_COLS / 16);
        if (col + 16 * step < cols) {
            const uint4 *x = (const uint4 *)(X + (size_t)token * cols + col + 16 * step); /* 16 columns, 8 pairs */
            const uint4  left = x[0], right = x[1];
            *(uint4 *)(piece + x_place(way, token, 2 * step)) = make_uint4(left.x, left.z, right.x, right.z);
            *(uint4 *)(piece + x_place(way, token, 2 * step + 1)) = make_uint4(left.y, left.w, right.y, right.w);
        }
    }
}

static __device__ void load_x(int way, spinfer_frag_b *b, spinfer_shared piece, uint32_t step, int lane)
{
    spinfer_ldmatrix_x4(piece + x_place_of_lane(way, step, lane), (uint32_t *)b); /* two registers for 8 tokens each */
}

/* Threads (32, WARPS), one block for each 64 rows. */
static __global__ void __launch_bounds__(32 * WARPS) multiply(int way, spinfer_matrix W, const uint16_t *X, float *Y)
{
    __shared__ __align__(128) unsigned char piece[TOKENS * X_ROW];
    const int                               lane = (int)threadIdx.x, warp = (int)threadIdx.y;
    const uint32_t                          strip = blockIdx.x, groups = spinfer_col_groups(W.cols);
    spinfer_frag_c                          sums[2] = {};
    for (uint32_t k = 0; k < groups; k++) {
        const uint32_t in_piece = k % (X_COLS / SPINFER_GROUP_COLS);
        const void    *record = spinfer_record_at(&W, strip, k);
        if (in_piece == 0) {
            __syncthreads(); /* all warps have read the piece before */
            load_piece(way, piece, X, W.cols, SPINFER_GROUP_COLS * k, threadIdx.y * 32 + threadIdx.x);
            __syncthreads(); /* the piece is complete for all warps */
        }
        for (int slab = 0; slab < 2; slab++) {
            spinfer_frag_a a;
            spinfer_frag_b b[2];
            spinfer_decode_record_tc_tile(&a, record, 4 * slab + warp, lane);
            load_x(way, b, spinfer_shared_address(piece), 2 * in_piece + (uint32_t)slab, lane);
            spinfer_mma_m16n16k16(SPINFER_FP16, sums, &a, b);
        }
    }
    store_y(sums, Y + SPINFER_GROUP_ROWS * strip + 16 * (uint32_t)warp, W.rows, lane);
}

static void launch_plain(spinfer_matrix W, const uint16_t *X, float *Y)
{
    multiply<<<spinfer_row_groups(W.rows), dim3(32, WARPS)>>>(PLAIN, W, X, Y);
}

static void launch_swizzled(spinfer_matrix W, const uint16_t *X, float *Y)
{
    multiply<<<spinfer_row_groups(W.rows), dim3(32, WARPS)>>>(SWIZZLED, W, X, Y);
}

/* ---- The conflicts alone ---------------------------------------------------------------------- */

/* One block does nothing but read the X of 16 columns. cycles[way]: of the whole block. */
static __global__ void __launch_bounds__(32 * READERS) read_x(long long *cycles, uint32_t *sink)
{
    __shared__ __align__(128) unsigned char piece[TOKENS * PADDED_ROW];
    const int                               lane = (int)threadIdx.x, thread = 32 * (int)threadIdx.y + lane;
    const spinfer_shared                    x_sh = spinfer_shared_address(piece);
    uint32_t                                x[4], all = 0;
    for (int i = thread; i < (int)sizeof piece / 4; i += 32 * READERS) ((uint32_t *)piece)[i] = (uint32_t)i;
    for (int way = PLAIN; way <= PADDED; way++) {
        __syncthreads(); /* the piece is written, all have finished the way before */
        const long long begin = clock64();
        for (uint32_t i = 0; i < READS; i++) {
            const spinfer_shared place = x_sh + x_place_of_lane(way, i % (X_COLS / 16), lane);
            if (way == PADDED) {
                spinfer_shared_u32x2(place, x);
                spinfer_shared_u32x2(place + 8 * PADDED_ROW, x + 2);
            } else {
                spinfer_ldmatrix_x4(place, x);
            }
            all ^= x[0] ^ x[1] ^ x[2] ^ x[3];
        }
        __syncthreads(); /* all have read */
        if (thread == 0) cycles[way] = clock64() - begin;
    }
    sink[thread] = all; /* or the compiler leaves the reads out */
}

/* How often shared memory must be read so that 32 lanes get `bytes` each. Lanes are served in groups that together take
 * 128 bytes; of a group, each bank gives one word at a time. */
static int count_turns(const uint32_t *place, uint32_t bytes)
{
    const uint32_t lanes = 128 / bytes;
    int            turns = 0;
    for (uint32_t first = 0; first < 32; first += lanes) {
        int in_bank[32] = {0}, most = 0;
        for (uint32_t i = 0; i < lanes * bytes / 4; i++) {
            const uint32_t word = place[first + 4 * i / bytes] / 4 + i % (bytes / 4);
            if (++in_bank[word % 32] > most) most = in_bank[word % 32];
        }
        turns += most;
    }
    return turns;
}

static void show_conflicts(void)
{
    static const char *const name[] = {"rows of 1024 bytes", "swizzled", "padded, without ldmatrix"};
    long long                cycles[3], *device;
    uint32_t                *sink;
    CHECK_CUDA(cudaMalloc((void **)&device, sizeof cycles));
    CHECK_CUDA(cudaMalloc((void **)&sink, 32 * READERS * sizeof *sink));
    for (int run = 0; run < 2; run++) read_x<<<1, dim3(32, READERS)>>>(device, sink); /* the first one warms up */
    CHECK_CUDA(cudaMemcpy(cycles, device, sizeof cycles, cudaMemcpyDeviceToHost));
    puts("X of 16 columns and 16 tokens for one warp, 512 bytes: at best 4 turns of 128 bytes");
    for (int way = PLAIN; way <= PADDED; way++) {
        uint32_t place[32];
        int      turns;
        for (int lane = 0; lane < 32; lane++) place[lane] = x_place_of_lane(way, 0, lane);
        turns = way == PADDED ? 2 * count_turns(place, 8) : count_turns(place, 16); /* two reads of 8 bytes */
        printf("  %-25s %2d turns by arithmetic, %5.1f clocks measured\n", name[way], turns,
               (double)cycles[way] / (READS * READERS));
        CHECK(turns == (way == PLAIN ? 32 : 4));
    }
    CHECK_CUDA(cudaFree(device));
    CHECK_CUDA(cudaFree(sink));
}

int main(int argc, char **argv)
{
    layer l;
    require_gpu();
    show_conflicts();
    l = layer_create(argc, argv);
    layer_check(&l, launch_plain, "X in shared memory, conflicts");
    layer_time(&l, launch_plain, "X in shared memory, conflicts");
    layer_check(&l, launch_swizzled, "X in shared memory, swizzled");
    layer_time(&l, launch_swizzled, "X in shared memory, swizzled");
    layer_free(&l);
    puts("OK");
    return 0;
}
