/* 09_split_k.cu - more blocks than strips: split-K, and the same bits every time.
 *
 *     09_split_k [rows cols [percent of zeros]]
 *
 * The idea. 8192 rows are 128 strips, so lesson 07 had 128 blocks of four warps, and most of what an H200 can keep in
 * flight was idle. K is cut into ranges, and each has blocks of its own: more warps, more copies under way. Each range
 * gives sums that are only a part of Y, and somebody must add them.
 *
 *     atomics   every block adds its part to Y as it finishes. Short, but blocks finish in another order every time,
 *               (a + b) + c is not a + (b + c) in fp32, and so the last bits of Y change from run to run.
 *     partials  every range writes its part to a place of its own, and a second kernel adds them by rising K. The same
 *               input gives the same bits.
 *
 * The library adds by rising K, too, but without a second kernel: the block of the last range waits for the sums of the
 * others. This lesson runs both ways on weights that are no integers, and looks.
 *
 * Introduces: nothing of the library, only a third index of the grid */
#include "lesson.h"

enum { WARPS = 4, STAGES = 4, MAX_SPLITS = 16, REPEATS = 20 };
enum { X_ROW = 2 * SPINFER_GROUP_COLS + 32, STAGE = SPINFER_RECORD_MAX_BYTES + TOKENS * X_ROW }; /* bytes */

/* Starts the copies of step k, as in lesson 07. */
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

static __device__ void load_x(spinfer_frag_b *b, spinfer_shared stage, uint32_t slab, int lane)
{
    const spinfer_shared x = stage + SPINFER_RECORD_MAX_BYTES + (uint32_t)spinfer_frag_b_token(lane) * X_ROW +
                             32 * slab + 2 * (uint32_t)spinfer_frag_b_col(lane, 0);
    spinfer_shared_u32x2(x, b[0].r);
    spinfer_shared_u32x2(x + 8 * X_ROW, b[1].r);
}

/* Instead of storing: adds to what other blocks have added. */
static __device__ void add_y(const spinfer_frag_c *sums, float *y, size_t ldy, int lane)
{
    for (int half = 0; half < 2; half++)
        for (int r = 0; r < 4; r++)
            atomicAdd(y + (size_t)(8 * half + spinfer_frag_c_token(lane, r)) * ldy +
                          (size_t)spinfer_frag_c_row(lane, r),
                      sums[half].r[r]);
}

/* Threads (32, WARPS), blocks (strips, splits). Range s of K goes to partials + s * TOKENS * rows; with `atomics` all
 * go to the first place. The loop is that of lesson 07, from k_begin to k_end. */
static __global__ void __launch_bounds__(32 * WARPS)
    multiply(spinfer_matrix W, const uint16_t *X, float *partials, int atomics)
{
    __shared__ __align__(128) unsigned char stages[STAGES][STAGE];
    const int                               lane = (int)threadIdx.x, warp = (int)threadIdx.y;
    const uint32_t                          thread = 32 * threadIdx.y + threadIdx.x;
    const uint32_t                          strip = blockIdx.x, groups = spinfer_col_groups(W.cols);
    const uint32_t k_begin = groups * blockIdx.y / gridDim.y, k_end = groups * (blockIdx.y + 1) / gridDim.y;
    spinfer_frag_c sums[2] = {};
    for (uint32_t k = k_begin; k < k_begin + STAGES - 1; k++) {
        if (k < k_end) fetch(&W, X, strip, k, spinfer_shared_address(stages[k % STAGES]), thread);
        spinfer_cp_async_commit();
    }
    for (uint32_t k = k_begin; k < k_end; k++) {
        const uint32_t ahead = k + STAGES - 1;
        spinfer_cp_async_wait(STAGES - 2);
        __syncthreads(); /* publishes the copies of step k; all threads have left step k - 1 */
        if (ahead < k_end) fetch(&W, X, strip, ahead, spinfer_shared_address(stages[ahead % STAGES]), thread);
        spinfer_cp_async_commit();
        for (uint32_t slab = 0; slab < 2; slab++) {
            spinfer_frag_a a;
            spinfer_frag_b b[2];
            spinfer_decode_record_tc_tile(&a, stages[k % STAGES], 4 * (int)slab + warp, lane);
            load_x(b, spinfer_shared_address(stages[k % STAGES]), slab, lane);
            spinfer_mma_m16n16k16(SPINFER_FP16, sums, &a, b);
        }
    }
    float *y = partials + SPINFER_GROUP_ROWS * strip + 16 * (uint32_t)warp;
    if (atomics)
        add_y(sums, y, W.rows, lane);
    else
        store_y(sums, y + (size_t)blockIdx.y * TOKENS * W.rows, W.rows, lane);
}

/* Y = the sum of the partials [splits][count], by rising K. */
static __global__ void add_partials(const float *partials, float *Y, uint32_t count, uint32_t splits)
{
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    float          sum = 0.0f;
    if (i >= count) return;
    for (uint32_t s = 0; s < splits; s++) sum += partials[(size_t)s * count + i];
    Y[i] = sum;
}

static float   *partials; /* [MAX_SPLITS][TOKENS][rows] on the GPU */
static uint32_t splits;

static void launch_partials(spinfer_matrix W, const uint16_t *X, float *Y)
{
    const uint32_t count = TOKENS * W.rows;
    multiply<<<dim3(spinfer_row_groups(W.rows), splits), dim3(32, WARPS)>>>(W, X, partials, 0);
    add_partials<<<(count + 255) / 256, 256>>>(partials, Y, count, splits);
}

static void launch_atomics(spinfer_matrix W, const uint16_t *X, float *Y)
{
    CHECK_CUDA(cudaMemsetAsync(Y, 0, TOKENS * W.rows * sizeof *Y, 0));
    multiply<<<dim3(spinfer_row_groups(W.rows), splits), dim3(32, WARPS)>>>(W, X, Y, 1);
}

/* How many of REPEATS results differ from the first one in any bit. */
static int count_different(const layer *l, launch start)
{
    const size_t bytes = TOKENS * l->host.rows * sizeof(float);
    float       *first = (float *)allocate(bytes), *again = (float *)allocate(bytes);
    int          different = 0;
    for (int i = 0; i <= REPEATS; i++) {
        start(l->copies[i % l->count], l->X, l->Y);
        CHECK_CUDA(cudaMemcpy(i ? again : first, l->Y, bytes, cudaMemcpyDeviceToHost));
        different += i && memcmp(first, again, bytes) != 0;
    }
    free(first);
    free(again);
    return different;
}

int main(int argc, char **argv)
{
    layer l;
    require_gpu();
    l = layer_create(argc, argv);
    CHECK_CUDA(cudaMalloc((void **)&partials, (size_t)MAX_SPLITS * TOKENS * l.host.rows * sizeof *partials));
    for (splits = 1; splits <= MAX_SPLITS; splits *= 2) {
        char what[64];
        snprintf(what, sizeof what, "%2u ranges of K", (unsigned)splits);
        layer_check(&l, launch_partials, what);
        layer_time(&l, launch_partials, what);
    }
    splits = MAX_SPLITS;
    layer_check(&l, launch_atomics, "atomics");
    layer_time(&l, launch_atomics, "atomics");
    layer_free(&l);

    l = layer_create_of(argc, argv, 0); /* here the order of a sum shows */
    printf("other bits than the first time: atomics %d of %d", count_different(&l, launch_atomics), (int)REPEATS);
    printf(", partials %d of %d\n", count_different(&l, launch_partials), (int)REPEATS);
    CHECK(count_different(&l, launch_partials) == 0);
    layer_free(&l);
    CHECK_CUDA(cudaFree(partials));
    puts("OK");
    return 0;
}
