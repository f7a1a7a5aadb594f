/* 07_pipeline.cu - copies that run ahead: the asynchronous pipeline.
 *
 *     07_pipeline [rows cols [percent of zeros]]
 *
 * The idea. Until now a warp asked for a record, waited most of a microsecond, decoded it, and only then asked for the
 * next. Now the block keeps the next records on their way while it works on this one: cp.async copies from global to
 * shared memory behind the threads' backs. Shared memory is a ring of STAGES stages, and each holds what one step
 * needs, a record and the 32 columns of X that it meets. With 4 stages:
 *
 *     time      ---------------------------------------------------------------->
 *     copies    0 1 2     3           4           5           6
 *     threads        wait 0  work 0  wait 1  work 1  wait 2  work 2  wait 3 ..
 *     stages    copy k goes to stage k % 4, which step k - 4 has left: the barrier of step k - 3 says so
 *
 * One barrier for each step does two things. Behind it the copies of this step are visible to all threads, because each
 * has waited for its own; and all threads have finished the step before, so its stage may be overwritten.
 *
 * X lies in padded rows and is read without ldmatrix, the second cure of lesson 06, because copies of 16 bytes cannot
 * deal pairs. The library does the same with one bulk copy for each record (cp.async.bulk, sm_90) and gives each warp a
 * ring of its own, so that no block barrier is left in the loop.
 *
 * Introduces: spinfer_cp_async_16(), spinfer_cp_async_commit(), spinfer_cp_async_wait() */
#include "lesson.h"

enum { WARPS = 4, STAGES = 4 };
enum { X_ROW = 2 * SPINFER_GROUP_COLS + 32, STAGE = SPINFER_RECORD_MAX_BYTES + TOKENS * X_ROW }; /* bytes */

/* Starts the copies of step k. Scope: block; every thread commits them and later waits for its own. */
static __device__ void fetch(const spinfer_matrix *W, const uint16_t *X, uint32_t strip, uint32_t k,
                             spinfer_shared stage, uint32_t thread)
{
    const uint32_t      *offsets = W->offsets + (size_t)strip * W->group_ld + k;
    const unsigned char *record = (const unsigned char *)spinfer_record_at(W, strip, k);
    for (uint32_t unit = thread; unit < offsets[1] - offsets[0]; unit += 32 * WARPS)
        spinfer_cp_async_16(stage + 16 * unit, record + 16 * unit, 16);
    if (thread < 4 * TOKENS) { /* 64 bytes of each token */
        const uint32_t token = thread / 4, unit = thread % 4;
        spinfer_cp_async_16(stage + SPINFER_RECORD_MAX_BYTES + token * X_ROW + 16 * unit,
                            X + (size_t)token * W->cols + SPINFER_GROUP_COLS * k + 8 * unit, 16);
    }
}

/* The X of 16 columns: 8 bytes of one token in each half. */
static __device__ void load_x(spinfer_frag_b *b, spinfer_shared stage, uint32_t slab, int lane)
{
    const spinfer_shared x = stage + SPINFER_RECORD_MAX_BYTES + (uint32_t)spinfer_frag_b_token(lane) * X_ROW +
                             32 * slab + 2 * (uint32_t)spinfer_frag_b_col(lane, 0);
    spinfer_shared_u32x2(x, b[0].r);
    spinfer_shared_u32x2(x + 8 * X_ROW, b[1].r);
}

/* Threads (32, WARPS), one block for each 64 rows. */
static __global__ void __launch_bounds__(32 * WARPS) multiply(spinfer_matrix W, const uint16_t *X, float *Y)
{
    __shared__ __align__(128) unsigned char stages[STAGES][STAGE];
    const int                               lane = (int)threadIdx.x, warp = (int)threadIdx.y;
    const uint32_t                          thread = 32 * threadIdx.y + threadIdx.x;
    const uint32_t                          strip = blockIdx.x, groups = spinfer_col_groups(W.cols);
    spinfer_frag_c                          sums[2] = {};
    for (uint32_t k = 0; k < STAGES - 1; k++) { /* fill all stages but one */
        if (k < groups) fetch(&W, X, strip, k, spinfer_shared_address(stages[k]), thread);
        spinfer_cp_async_commit(); /* a group for each step, if need be an empty one: waiting counts groups */
    }
    for (uint32_t k = 0; k < groups; k++) {
        const uint32_t ahead = k + STAGES - 1;
        spinfer_cp_async_wait(STAGES - 2); /* the copies of step k have landed, those of later steps are under way */
        __syncthreads();                   /* publishes them to all threads; all threads have left step k - 1 */
        if (ahead < groups) fetch(&W, X, strip, ahead, spinfer_shared_address(stages[ahead % STAGES]), thread);
        spinfer_cp_async_commit();
        for (uint32_t slab = 0; slab < 2; slab++) {
            spinfer_frag_a a;
            spinfer_frag_b b[2];
            spinfer_decode_record_tc_tile(&a, stages[k % STAGES], 4 * (int)slab + warp, lane);
            load_x(b, spinfer_shared_address(stages[k % STAGES]), slab, lane);
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
    layer_check(&l, launch_multiply, "four stages");
    layer_time(&l, launch_multiply, "four stages");
    layer_free(&l);
    puts("OK");
    return 0;
}
