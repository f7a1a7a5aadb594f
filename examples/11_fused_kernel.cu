/* 11_fused_kernel.cu - RMSNorm + linear + SwiGLU in one kernel, around the library's stages of a block.
 *
 *     11_fused_kernel [rows cols [percent of zeros]]
 *
 * The idea. The first half of a transformer's MLP is Y = silu(G z) * (U z) with z = x * gain / rms(x). What follows the
 * sums is an epilogue (lesson 10), but a norm comes before them, and as a kernel of its own it takes time in which no
 * weight moves. It need not come before:
 *
 *     gain      is a factor of a column of the weight, and multiplied into it before it is encoded, once for all
 *     1 / rms   is one factor for all of a token, so it can wait for the sums: W (x / r) = (W x) / r
 *     squares   of x are added up in time that is lost anyway: a block has asked for its first weights and for X, and
 *               until they arrive its warps have nothing to do. All blocks read the same small x, from the L2 cache
 *
 * So the kernel is the library's (spinfer_spmm_block()) with a line of ours between its stages, a little shared memory
 * of its own for the sums of squares, and an epilogue that divides by the rms. Plan, split of K and launch are the
 * library's, too: a spinfer_kernel describes our kernel to it.
 *
 * On an H200 it takes 39.3 us for 28672 x 4096 and 16 tokens, the separate steps 42.1.
 *
 * Introduces: spinfer_block_init(), spinfer_block_start(), spinfer_block_multiply(), spinfer_reduce(), own_bytes */
#include "mlp.h"

enum { TEAM = 1, N_FRAGS = BATCH / 8, MAX_WARPS = 28, PARTS = 3 /* warps for a token */, IN_FLIGHT = 6 };

/* The squares of x of the BATCH tokens from `first` on to squares [PARTS][BATCH], each part by one warp: over all of K,
 * whatever the block's range of it, and in a fixed order. Behind the last token it is read again, and nobody asks for
 * the result. 8 divides ldx and K, and X is aligned to 16 bytes. Scope: block; a barrier publishes the squares. */
SPINFER_DEVICE void sum_squares(const spinfer_spmm_args *args, uint32_t first, float *squares, uint32_t warp,
                                uint32_t warps, uint32_t lane)
{
    const uint32_t units = args->W.cols / 8, step = 32 * PARTS; /* 16 bytes */
    for (uint32_t i = warp; i < PARTS * BATCH; i += warps) {
        const uint32_t token = min(first + i % BATCH, args->n - 1);
        const uint4   *x = (const uint4 *)(args->X + token * args->ldx);
        float          sum = 0.0f;
        SPINFER_NO_UNROLL
        for (uint32_t unit = i / BATCH * 32 + lane; unit < units; unit += IN_FLIGHT * step) {
            uint4 values[IN_FLIGHT]; /* all are asked for before the first is used */
            SPINFER_UNROLL
            for (uint32_t k = 0; k < IN_FLIGHT; k++)
                values[k] = unit + k * step < units ? x[unit + k * step] : make_uint4(0, 0, 0, 0);
            SPINFER_UNROLL
            for (uint32_t k = 0; k < IN_FLIGHT; k++) sum = add_squares(sum, values[k]);
        }
        sum = add_lanes(sum);
        if (lane == 0) squares[i] = sum;
    }
}

/* Y = silu(gate) * up of two pairs of rows. The squares are complete: spinfer_reduce() calls us behind a barrier. */
SPINFER_DEVICE void normalise_swiglu(const spinfer_dtype dtype, const spinfer_spmm_args *args, uint32_t row,
                                     uint32_t token, spinfer_sums sum)
{
    const float *squares = (const float *)(spinfer_smem_bytes + args->layout.own) + token % BATCH;
    spinfer_sums value = {{0.0f, 0.0f, 0.0f, 0.0f}};
    float        all = 0.0f;
    SPINFER_UNROLL
    for (int part = 0; part < PARTS; part++) all += squares[part * BATCH];
    const float factor = args->alpha * rsqrtf(all / (float)args->W.cols + EPSILON);
    SPINFER_UNROLL
    for (int i = 0; i < 2; i++) value.row[i] = spinfer_silu(factor * sum.row[2 * i]) * (factor * sum.row[2 * i + 1]);
    spinfer_store_rows(dtype, 2, args->Y + token * args->ldy + row / 2, spinfer_rows_left(args, row) / 2, value);
}

static __global__ void __launch_bounds__(32 * SPINFER_BLOCK_WARPS(MAX_WARPS), 1)
    norm_multiply_swiglu(const __grid_constant__ spinfer_spmm_args args)
{
#ifdef __CUDA_ARCH__ /* the stages are device code through and through: the host pass does not know them */
    const spinfer_block block = spinfer_block_init(TEAM, &args, threadIdx, blockIdx, gridDim.x);
    const uint32_t      smem = spinfer_shared_address(spinfer_smem_bytes);
    const uint32_t      lane = threadIdx.x, warps = blockDim.y * blockDim.z;
    const uint32_t      warp = block.strip * blockDim.y + block.part * TEAM + block.member; /* the same in all lanes */
    float              *squares = (float *)(spinfer_smem_bytes + args.layout.own);
    spinfer_frag_c      sums[4 / TEAM * N_FRAGS];
    spinfer_frag_b      x_frags[N_FRAGS];
    spinfer_ring        ring;

    spinfer_block_start(TEAM, &ring, &args, &block, smem, lane);
    if (spinfer_finishes(&args, &block)) /* only there is an epilogue */
        sum_squares(&args, block.token, squares, warp, warps, lane);
    spinfer_block_multiply(SPINFER_FP16, TEAM, N_FRAGS, sums, x_frags, &ring, &args, &block, smem, lane);
    spinfer_reduce(SPINFER_FP16, TEAM, N_FRAGS, normalise_swiglu, sums, &args, &block, smem, lane);
#else
    (void)args;
#endif
}

SPINFER_CHECK_KERNEL(TEAM, N_FRAGS, MAX_WARPS);

/* What the host knows of it. */
static const spinfer_kernel fused_info = {
    (const void *)norm_multiply_swiglu, SPINFER_FP16, BATCH, TEAM, MAX_WARPS, sizeof(float[PARTS][BATCH]), 0};

static void launch_fused(spinfer_matrix W, const uint16_t *x, float *Y)
{
    multiply_by(&fused_info, SCALE, W, x, Y, W.rows / 2, NULL, 0);
}

int main(int argc, char **argv)
{
    const char *small = getenv("SPINFER_TEST_SMALL");
    char       *shape[] = {argv[0], (char *)(small ? "384" : "28672"), (char *)(small ? "512" : "4096"), NULL};
    uint16_t   *gain;
    double     *exact, *bound, separate, epilogue, fused;
    layer       l;
    require_gpu();
    l = argc > 2 ? layer_create(argc, argv) : layer_create(3, shape);
    gain = (uint16_t *)allocate(l.host.cols * sizeof *gain);
    for (size_t k = 0; k < l.host.cols; k++) /* 1/2, 1 or 2: all products remain exact */
        gain[k] = spinfer_from_float(0.5f * (float)(1 << random_bits(5, k) % 3), SPINFER_FP16);
    exact = (double *)allocate(BATCH * l.host.rows / 2 * sizeof *exact);
    bound = (double *)allocate(BATCH * l.host.rows / 2 * sizeof *bound);
    fold_gain(&l, gain);
    prepare(&l, &fused_info);
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

    CHECK_CUDA(cudaFree(z));
    CHECK_CUDA(cudaFree(sums));
    CHECK_CUDA(cudaFree(workspace));
    free(exact);
    free(bound);
    free(gain);
    layer_free(&l);
    puts("OK");
    return 0;
}
