/* 15_persistent_kernel.cu - the library's stages of a ring in a loop of our own: a kernel that stays on its SM.
 *
 *     15_persistent_kernel [rows cols [percent of zeros]]
 *
 * The idea. A block of the library's kernel lives for some strips and one range of K: it brings its part of X, starts
 * its rings, multiplies, adds its sums, and is gone; the next one begins with empty buffers. Here there are only as
 * many blocks as SMs, and a block takes every so many-th strip until none is left:
 *
 *     X         is brought once, all of it, to where the multiply expects it (spinfer_x_place). A kernel that makes X
 *               itself would write it there
 *     weights   a ring for each warp. The warps of a block share the columns of a strip: scan, multiply, release
 *     sums      borrow the stage that is filled last (spinfer_sums_store). While they are added, the other stages
 *               already take in the next strip
 *
 * The library's own kernel is timed beside it. Fewer warps find room beside all of X, and every strip ends with a sum
 * of all warps, so staying is no gain in itself. It is for what has to stay, such as several layers in one kernel; for
 * work before or behind the sums of one layer, lessons 10 and 11 are shorter.
 *
 * Introduces: spinfer_ring_init(), _range(), _fetch(), _wait(), _release(), spinfer_scan_stage(),
 * spinfer_multiply_stage(), spinfer_sums_store(), spinfer_x_place(), spinfer_bulk_fence() */
#include "lesson.h"

enum { N_FRAGS = 1, BATCH = 8 * N_FRAGS, WARPS = 22, STAGES = 2 };

/* Shared memory of a block, bytes. */
typedef struct memory {
    uint32_t places, tables, rings, stage, x, total;
} memory;

SPINFER_HD memory memory_layout(const spinfer_matrix *W, uint32_t warps)
{
    const uint32_t stage = spinfer_stage_bytes(1, W->max_record), sums = BATCH * SPINFER_SUMS_STRIDE;
    memory         m;
    m.places = STAGES * warps * spinfer_ring_barriers(1); /* the barriers come first */
    m.tables = (m.places + 4 * warps + 127) / 128 * 128;
    m.rings = (m.tables + SPINFER_TABLE * warps + 127) / 128 * 128;
    m.stage = stage > sums ? stage : sums;
    m.x = (m.rings + STAGES * warps * m.stage + 1023) / 1024 * 1024;
    m.total = m.x + 2 * BATCH * W->cols;
    return m;
}

/* All of X to its places, 16 bytes for each thread at a time. Scope: block; a barrier publishes it. */
SPINFER_DEVICE void place_x(unsigned char *to, const uint16_t *X, uint32_t cols, uint32_t thread, uint32_t threads)
{
    for (uint32_t i = thread; i < BATCH * cols / 8; i += threads) {
        const uint32_t token = i / (cols / 8), col = i % (cols / 8) * 8;
        *(uint4 *)(to + spinfer_x_place(BATCH, col, token)) = *(const uint4 *)(X + (size_t)token * cols + col);
    }
}

/* Adds what the warps have stored for a token, in their order, and stores Y: lane i has rows 2i and 2i + 1 of a strip.
 * Scope: warp. */
SPINFER_DEVICE void add_warps(float *y, const unsigned char *smem, const uint32_t *places, uint32_t warps,
                              uint32_t token, uint32_t lane)
{
    float2 sum = make_float2(0.0f, 0.0f);
    for (uint32_t warp = 0; warp < warps; warp++) {
        const float2 v = *(const float2 *)(smem + places[warp] + token * SPINFER_SUMS_STRIDE + 8 * lane);
        sum.x += v.x;
        sum.y += v.y;
    }
    *(float2 *)(y + 2 * lane) = sum;
}

/* Threads (32, warps), as many blocks as SMs or fewer. Rows and columns are multiples of 64. */
static __global__ void __launch_bounds__(32 * WARPS, 1) multiply(spinfer_matrix W, const uint16_t *X, float *Y)
{
#ifdef __CUDA_ARCH__ /* the stages are device code through and through: the host pass does not know them */
    const uint32_t lane = threadIdx.x, warp = threadIdx.y, warps = blockDim.y;
    const uint32_t smem = spinfer_shared_address(spinfer_smem_bytes);
    const memory   at = memory_layout(&W, warps);
    const uint32_t strips = spinfer_row_groups(W.rows), cols = spinfer_col_groups(W.cols);
    const uint32_t x_lane = spinfer_x_lane(smem + at.x, lane);
    uint32_t      *places = (uint32_t *)(spinfer_smem_bytes + at.places);
    spinfer_frag_c sums[4 * N_FRAGS];
    spinfer_frag_b x_frags[N_FRAGS];
    spinfer_ring   ring, next;
    uint32_t       strip = blockIdx.x;

    spinfer_ring_init(1, &ring, smem + at.rings + STAGES * at.stage * warp,
                      smem + STAGES * spinfer_ring_barriers(1) * warp, STAGES, at.stage, 0, lane);
    spinfer_ring_range(1, &ring, &W, strip, 0, cols, warp, warps, lane);
    spinfer_mbarrier_fence();
    __syncwarp(); /* the barriers of the warp's ring are ready */
    spinfer_ring_fetch(1, &ring, 0, STAGES, lane);
    place_x(spinfer_smem_bytes + at.x, X, W.cols, 32 * warp + lane, 32 * warps);
    __syncthreads(); /* X is complete */

    const spinfer_lane l = spinfer_lane_init(1, smem + at.tables + SPINFER_TABLE * warp, 0, lane);
    for (; strip < strips; strip += gridDim.x) {
        const int more = strip + gridDim.x < strips;
        next = ring;
        if (more) spinfer_ring_range(1, &next, &W, strip + gridDim.x, 0, cols, warp, warps, lane); /* in time */
        spinfer_sums_clear(1, N_FRAGS, sums);
        SPINFER_NO_UNROLL
        while (ring.col < cols) {
            const uint32_t x = spinfer_x_at(1, N_FRAGS, x_lane, ring.col);
            spinfer_scan_stage(1, spinfer_ring_wait(1, &ring, lane), &l);
            __syncwarp(); /* the table is complete */
            spinfer_multiply_stage(SPINFER_FP16, 1, N_FRAGS, sums, x_frags, &l, 1, x);
            spinfer_ring_release(1, &ring, lane);
        }
        spinfer_ring_follow(&ring, &next); /* another range, the same place in the ring */
        const uint32_t borrowed = spinfer_ring_stage(&ring, STAGES - 1);
        if (more) spinfer_ring_fetch(1, &ring, 0, STAGES - 1, lane);
        spinfer_sums_store(1, N_FRAGS, sums, borrowed, 0, lane);
        spinfer_bulk_fence();
        if (lane == 0) places[warp] = borrowed - smem; /* rings of different warps are not in step */
        __syncthreads();                               /* the sums of all warps are visible */
        for (uint32_t token = warp; token < BATCH; token += warps)
            add_warps(Y + (size_t)token * W.rows + SPINFER_GROUP_ROWS * strip, spinfer_smem_bytes, places, warps, token,
                      lane);
        __syncthreads(); /* all have read them */
        if (more) spinfer_ring_fetch(1, &ring, STAGES - 1, STAGES, lane);
    }
#else
    (void)W, (void)X, (void)Y;
#endif
}

static uint32_t     blocks, warps; /* of our kernel   */
static spinfer_plan plan;          /* of the library's */
static void        *workspace;
static size_t       workspace_bytes;

static void launch_persistent(spinfer_matrix W, const uint16_t *X, float *Y)
{
    multiply<<<blocks, dim3(32, warps), memory_layout(&W, warps).total>>>(W, X, Y);
}

/* The library's kernel: fp16 results in the place of Y. */
static void launch_library(spinfer_matrix W, const uint16_t *X, float *Y)
{
    CHECK_SPINFER(spinfer_spmm(&plan, 1.0f, &W, X, W.cols, 0.0f, Y, W.rows, BATCH, workspace, workspace_bytes, 0));
}

/* As many warps as find room beside X, and as many blocks as SMs, or fewer, so that a block has some three strips. */
static void prepare(const spinfer_matrix *W)
{
    const uint32_t strips = spinfer_row_groups(W->rows);
    spinfer_device device;
    CHECK_SPINFER(spinfer_device_query(&device));
    for (warps = WARPS; warps > 1 && memory_layout(W, warps).total > (uint32_t)device.smem_per_block;) warps--;
    if (memory_layout(W, warps).total > (uint32_t)device.smem_per_block) {
        puts("skipped: this GPU has no room for all of X in shared memory");
        exit(SKIPPED);
    }
    CHECK_CUDA(cudaFuncSetAttribute(multiply, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    (int)memory_layout(W, warps).total));
    blocks = (strips + 2) / 3 < (uint32_t)device.sm_count ? (strips + 2) / 3 : (uint32_t)device.sm_count;
    printf("%u blocks of %u warps\n", (unsigned)blocks, (unsigned)warps);
    CHECK_SPINFER(spinfer_spmm_plan(W, BATCH, &device, &plan));
    CHECK_SPINFER(spinfer_spmm_workspace_bytes(&plan, W, BATCH, &workspace_bytes));
    CHECK_CUDA(cudaMalloc(&workspace, workspace_bytes + 16)); /* + 16: it may be 0 */
    CHECK_CUDA(cudaMemset(workspace, 0, workspace_bytes + 16));
}

int main(int argc, char **argv)
{
    const char *small = getenv("SPINFER_TEST_SMALL");
    char       *shape[] = {argv[0], (char *)(small ? "1152" : "28672"), (char *)(small ? "512" : "4096"), NULL};
    layer       l;
    require_gpu();
    l = argc > 2 ? layer_create(argc, argv) : layer_create(3, shape);
    prepare(&l.copies[0]);
    layer_check_tokens(&l, launch_persistent, BATCH, "persistent kernel");
    layer_time(&l, launch_persistent, "persistent kernel");
    layer_time(&l, launch_library, "spinfer_spmm     ");
    CHECK_CUDA(cudaFree(workspace));
    layer_free(&l);
    puts("OK");
    return 0;
}
