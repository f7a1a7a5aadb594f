/* 11_fused_kernel.cu - the library's stages in a kernel of our own: RMSNorm + linear + SwiGLU at once.
 *
 *     11_fused_kernel [rows cols [percent of zeros]]
 *
 * The idea. The first half of a transformer's MLP is Y = silu(G z) * (U z) with z = x * gain / rms(x). As separate
 * steps that is a kernel for the norm, a multiply by gate and up (in one matrix, rows interleaved), and a kernel for
 * the rest; the small ones take microseconds in which no weight moves. Here all is one kernel, which stays on its SM:
 *
 *     weights    a ring for each warp (spinfer_ring_...): the first records are on their way before x has been read
 *     x          each block multiplies it by the gain, writes it where the multiply expects it (spinfer_x_place), and
 *                adds up squares. 1 / rms is one factor for a token, so it waits for the sums: W (z / r) = (W z) / r
 *     strips     a block takes every so many-th 64 rows. Its warps share the columns: scan, multiply, release
 *     sums       borrow the stage that is filled last (spinfer_sums_store). While they are added, the first stage of
 *                the next strip is already on its way
 *
 * On an H200 it takes 56.6 us, the steps 45.8, and 43.1 with SwiGLU as an epilogue of the multiply: 22 warps decode
 * here, 28 there, and each strip ends with a sum of all warps. The stages are for what an epilogue cannot do.
 *
 * Introduces: spinfer_ring_init(), _range(), _fetch(), _wait(), _release(), spinfer_scan_stage(),
 * spinfer_multiply_stage(), spinfer_sums_store(), spinfer_x_place(), spinfer_silu(), spinfer_epilogue_swiglu */
#include "mlp.h"

enum { N_FRAGS = 1, WARPS = 22, STAGES = 2, READERS = 2 /* warps that read a token */ };

/* Shared memory, bytes. */
typedef struct memory {
    uint32_t squares, places, tables, rings, stage, x, total;
} memory;

SPINFER_HD memory memory_layout(const spinfer_matrix *W)
{
    const uint32_t stage = spinfer_stage_bytes(1, W->max_record), sums = BATCH * SPINFER_SUMS_STRIDE;
    memory         m;
    m.squares = 8 * STAGES * WARPS; /* the barriers come first */
    m.places = m.squares + 4 * READERS * BATCH;
    m.tables = (m.places + 4 * WARPS + 127) / 128 * 128;
    m.rings = m.tables + 512 * WARPS;
    m.stage = stage > sums ? stage : sums;
    m.x = (m.rings + STAGES * WARPS * m.stage + 1023) / 1024 * 1024;
    m.total = m.x + 2 * BATCH * W->cols;
    return m;
}

/* A part of a token: x * gain to its place, returns the sum of squares of x. Scope: warp. */
SPINFER_DEVICE float normalise(const arguments *args, unsigned char *to, uint32_t token, uint32_t part, uint32_t lane)
{
    const uint4 *x = (const uint4 *)(args->x + (size_t)token * args->W.cols), *gain = (const uint4 *)args->gain;
    float        squares = 0.0f;
    for (uint32_t unit = 32 * part + lane; unit < args->W.cols / 8; unit += 32 * READERS) { /* 8 columns */
        uint4           values = x[unit];
        const uint4     gains = gain[unit];
        uint16_t       *v = (uint16_t *)&values;
        const uint16_t *g = (const uint16_t *)&gains;
        SPINFER_UNROLL
        for (int i = 0; i < 8; i++) {
            const float value = spinfer_widen(SPINFER_FP16, v[i]);
            squares += value * value;
            v[i] = spinfer_narrow(SPINFER_FP16, value * spinfer_widen(SPINFER_FP16, g[i]));
        }
        *(uint4 *)(to + spinfer_x_place(BATCH, 8 * unit, token)) = values;
    }
    return add_lanes(squares);
}

/* Adds what the warps have stored, in their order, and stores Y. Lane i has rows 2i and 2i + 1. Scope: warp. */
SPINFER_DEVICE void store_token(const arguments *args, const unsigned char *smem, const uint32_t *places, float factor,
                                uint32_t strip, uint32_t token, uint32_t lane)
{
    float gate = 0.0f, up = 0.0f;
    for (int warp = 0; warp < WARPS; warp++) {
        const float2 v = *(const float2 *)(smem + places[warp] + token * SPINFER_SUMS_STRIDE + 8 * lane);
        gate += v.x;
        up += v.y;
    }
    args->Y[(size_t)token * (args->W.rows / 2) + 32 * strip + lane] =
        spinfer_narrow(SPINFER_FP16, spinfer_silu(factor * gate) * (factor * up));
}

/* Threads (32, WARPS), as many blocks as SMs or fewer. Rows and columns are multiples of 64. */
static __global__ void __launch_bounds__(32 * WARPS, 1) norm_multiply_swiglu(const __grid_constant__ arguments args)
{
#ifdef __CUDA_ARCH__ /* the stages are device code through and through: the host pass does not know them */
    const memory   at = memory_layout(&args.W);
    const uint32_t lane = threadIdx.x, warp = threadIdx.y, smem = spinfer_shared_address(spinfer_smem_bytes);
    const uint32_t strips = spinfer_row_groups(args.W.rows), cols = spinfer_col_groups(args.W.cols);
    const uint32_t stages = at.rings + STAGES * at.stage * warp, x_lane = spinfer_x_lane(smem + at.x, lane);
    float         *squares = (float *)(spinfer_smem_bytes + at.squares);
    uint32_t      *places = (uint32_t *)(spinfer_smem_bytes + at.places);
    spinfer_frag_c sums[4 * N_FRAGS];
    spinfer_frag_b x_frags[N_FRAGS];
    spinfer_ring   ring, next;
    uint32_t       strip = blockIdx.x;
    float          factor = 0.0f;

    spinfer_ring_init(1, &ring, smem + stages, smem + 8 * STAGES * warp, STAGES, at.stage, 0, lane);
    spinfer_ring_range(1, &ring, &args.W, strip, 0, cols, warp, WARPS, lane);
    spinfer_mbarrier_fence();
    __syncwarp(); /* the barriers of the warp's ring are ready */
    spinfer_ring_fetch(1, &ring, 0, STAGES, lane);
    if (warp < READERS * BATCH) {
        const float part = normalise(&args, spinfer_smem_bytes + at.x, warp / READERS, warp % READERS, lane);
        if (lane == 0) squares[warp] = part;
    }
    __syncthreads(); /* x and its squares are complete */
    if (warp < BATCH)
        factor =
            args.scale * rsqrtf((squares[READERS * warp] + squares[READERS * warp + 1]) / (float)args.W.cols + EPSILON);

    const spinfer_lane l = spinfer_lane_init(1, smem + at.tables + 512 * warp, 0, lane);
    for (; strip < strips; strip += gridDim.x) {
        const int more = strip + gridDim.x < strips;
        next = ring;
        if (more) spinfer_ring_range(1, &next, &args.W, strip + gridDim.x, 0, cols, warp, WARPS, lane); /* in time */
        spinfer_sums_clear(1, N_FRAGS, sums);
        SPINFER_NO_UNROLL
        while (ring.col < cols) {
            const uint32_t x = spinfer_x_at(1, N_FRAGS, x_lane, ring.col);
            spinfer_scan_stage(1, spinfer_ring_wait(1, &ring, lane), &l);
            __syncwarp(); /* the table is complete */
            spinfer_multiply_stage(SPINFER_FP16, 1, N_FRAGS, sums, x_frags, &l, 1, x);
            spinfer_ring_release(1, &ring, lane);
        }
        next.at = ring.at; /* another range, the same place in the ring */
        next.barrier = ring.barrier;
        next.parity = ring.parity;
        ring = next;
        const uint32_t borrowed = spinfer_ring_stage(&ring, STAGES - 1);
        if (more) spinfer_ring_fetch(1, &ring, 0, STAGES - 1, lane);
        spinfer_sums_store(1, N_FRAGS, sums, borrowed, 0, lane);
        spinfer_bulk_fence();
        if (lane == 0) places[warp] = borrowed - smem; /* rings of different warps are not in step */
        __syncthreads();                               /* the sums of all warps are visible */
        if (warp < BATCH) store_token(&args, spinfer_smem_bytes, places, factor, strip, warp, lane);
        __syncthreads(); /* all have read them */
        if (more) spinfer_ring_fetch(1, &ring, STAGES - 1, STAGES, lane);
    }
#else
    (void)args;
#endif
}

static int blocks;

static void launch_fused(spinfer_matrix W, const uint16_t *x, float *unused)
{
    arguments a = args;
    (void)unused;
    a.W = W;
    a.x = x;
    norm_multiply_swiglu<<<blocks, dim3(32, WARPS), memory_layout(&W).total>>>(a);
}

/* As many blocks as SMs, if one fits. */
static void prepare_fused(const spinfer_matrix *W)
{
    const uint32_t bytes = memory_layout(W).total, strips = spinfer_row_groups(W->rows);
    spinfer_device device;
    CHECK_SPINFER(spinfer_device_query(&device));
    if (bytes > (uint32_t)device.smem_per_block) {
        printf("skipped: %u bytes of shared memory for a block are more than this GPU has\n", (unsigned)bytes);
        exit(SKIPPED);
    }
    CHECK_CUDA(cudaFuncSetAttribute(norm_multiply_swiglu, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    blocks = device.sm_count < (int)strips ? device.sm_count : (int)strips;
}

int main(int argc, char **argv)
{
    const char *small = getenv("SPINFER_TEST_SMALL");
    char       *shape[] = {argv[0], (char *)(small ? "1152" : "28672"), (char *)(small ? "512" : "4096"), NULL};
    uint16_t   *gain;
    double     *exact, *bound, separate, epilogue, fused;
    layer       l;
    require_gpu();
    l = argc > 2 ? layer_create(argc, argv) : layer_create(3, shape);
    gain = (uint16_t *)allocate(l.host.cols * sizeof *gain);
    for (size_t k = 0; k < l.host.cols; k++) /* 1/2, 1 or 2: x * gain is exact */
        gain[k] = spinfer_from_float(0.5f * (float)(1 << random_bits(5, k) % 3), SPINFER_FP16);
    exact = (double *)allocate(BATCH * l.host.rows / 2 * sizeof *exact);
    bound = (double *)allocate(BATCH * l.host.rows / 2 * sizeof *bound);
    prepare_steps(&l, gain);
    prepare_fused(&l.copies[0]);
    expect(&l, gain, exact, bound);

    separate = largest_error(&l, launch_separate, exact, NULL);
    epilogue = largest_error(&l, launch_epilogue, exact, NULL);
    fused = largest_error(&l, launch_fused, exact, bound);
    printf("largest error: separate steps %.2g, SwiGLU as an epilogue %.2g, one kernel %.2g (all within its bound)\n",
           separate, epilogue, fused);
    CHECK(fused <= separate);
    layer_time(&l, launch_separate, "norm, multiply, SwiGLU  ");
    layer_time(&l, launch_epilogue, "norm, multiply + SwiGLU ");
    layer_time(&l, launch_fused, "one kernel              ");

    free_steps();
    free(exact);
    free(bound);
    free(gain);
    layer_free(&l);
    puts("OK");
    return 0;
}
