/* 12_own_variant.cu - a kernel of your own shape, by one macro.
 *
 *     12_own_variant [rows cols [percent of zeros]]
 *
 * The idea. The library has kernels for 8, 16, 32 and 64 tokens. Whoever decodes 24 sequences at a time pays for 32
 * with the nearest of them: a third more of mma, of X in shared memory and of sums in registers. A macro stamps the
 * missing kernel from the same functions, which are written for any number of fragments:
 *
 *     SPINFER_DEFINE_SPMM_KERNEL(name, DTYPE, TEAM, N_FRAGS, MAX_WARPS, EPILOGUE)
 *
 *     N_FRAGS     fragments of 8 tokens: 3 for 24
 *     TEAM        warps that decode a buffer together: each of them has 16 / TEAM * N_FRAGS sums
 *     MAX_WARPS   in a block; 65536 registers / 32 / MAX_WARPS remain for each thread
 *
 * The three pull at each other. Many warps hide the wait for memory; many registers hold many sums; a large team needs
 * few of them in each warp, but every warp of it scans all bitmaps and loads X for itself. What cannot work does not
 * compile, and the message says why; TEAM = 1, N_FRAGS = 3, MAX_WARPS = 28 would need 84 registers of 72:
 *
 *     error: static assertion failed with "registers: 16 / TEAM * N_FRAGS sums and 36 others exceed 2048 / MAX_WARPS"
 *
 * What remains is a matter of measuring, so this lesson measures three of them against the kernel for 32 tokens.
 *
 * Introduces: SPINFER_DEFINE_SPMM_KERNEL(), spinfer_kernel */
#include "lesson.h"

enum { COUNT = 24 }; /* tokens */

SPINFER_DEFINE_SPMM_KERNEL(team_of_1, SPINFER_FP16, 1, 3, 20, spinfer_epilogue_scale);
SPINFER_DEFINE_SPMM_KERNEL(team_of_2, SPINFER_FP16, 2, 3, 28, spinfer_epilogue_scale);
SPINFER_DEFINE_SPMM_KERNEL(team_of_4, SPINFER_FP16, 4, 3, 28, spinfer_epilogue_scale);
SPINFER_DEFINE_SPMM_KERNEL(shipped, SPINFER_FP16, 1, 4, 16, spinfer_epilogue_scale); /* as the library does */

static const spinfer_kernel *kernel;
static spinfer_plan          plan;
static void                 *workspace;
static size_t                workspace_bytes;
static uint16_t             *x, *X, *Y; /* [COUNT, cols] on the host and on the GPU, [COUNT, rows] on the GPU */

static void multiply(spinfer_matrix W, const uint16_t *unused, float *unused_too)
{
    (void)unused;
    (void)unused_too;
    CHECK_SPINFER(spinfer_kernel_launch(kernel, 1, NULL, 0, &plan, 1.0f, &W, X, W.cols, 0.0f, Y, W.rows, COUNT,
                                        workspace, workspace_bytes, 0));
}

static void check(const layer *l, const uint16_t *expected)
{
    const size_t count = COUNT * l->host.rows;
    uint16_t    *y = (uint16_t *)allocate(count * sizeof *y);
    CHECK_CUDA(cudaMemset(Y, 0xff, count * sizeof *Y));
    multiply(l->copies[0], NULL, NULL);
    CHECK_CUDA(cudaMemcpy(y, Y, count * sizeof *y, cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < count; i++)
        CHECK(spinfer_to_float(y[i], SPINFER_FP16) == spinfer_to_float(expected[i], SPINFER_FP16));
    free(y);
}

/* Plans, checks and times one kernel. */
static void try_kernel(const layer *l, const spinfer_kernel *k, const uint16_t *expected, const char *name)
{
    spinfer_device device;
    char           what[96];
    kernel = k;
    CHECK_SPINFER(spinfer_device_query(&device));
    CHECK_SPINFER(spinfer_kernel_plan(k, 1, &l->copies[0], COUNT, &device, &plan));
    CHECK_SPINFER(spinfer_kernel_workspace_bytes(k, 1, &plan, &l->copies[0], COUNT, &workspace_bytes));
    CHECK_CUDA(cudaMalloc(&workspace, workspace_bytes + 16)); /* + 16: it may be 0 */
    CHECK_CUDA(cudaMemset(workspace, 0, workspace_bytes + 16));
    check(l, expected);
    snprintf(what, sizeof what, "%s: tokens %d, team %d, %2d warps, exact", name, k->tokens, k->team,
             plan.strips * plan.warps_k * plan.team);
    layer_time(l, multiply, what);
    CHECK_CUDA(cudaFree(workspace));
}

int main(int argc, char **argv)
{
    uint16_t *expected;
    layer     l;
    require_gpu();
    l = layer_create(argc, argv);
    x = (uint16_t *)allocate(COUNT * l.host.cols * sizeof *x);
    expected = (uint16_t *)allocate(COUNT * l.host.rows * sizeof *expected);
    fill_integers(x, COUNT * l.host.cols, 0, 1, 3);
    CHECK_SPINFER(spinfer_spmm_host(1.0f, &l.host, x, l.host.cols, 0.0f, expected, l.host.rows, COUNT));
    X = (uint16_t *)copy_to_gpu(x, COUNT * l.host.cols * sizeof *x);
    CHECK_CUDA(cudaMalloc((void **)&Y, COUNT * l.host.rows * sizeof *Y));

    printf("here for %d tokens:\n", (int)COUNT);
    try_kernel(&l, &shipped_info, expected, "as shipped");
    try_kernel(&l, &team_of_1_info, expected, "own");
    try_kernel(&l, &team_of_2_info, expected, "own");
    try_kernel(&l, &team_of_4_info, expected, "own");
    CHECK_CUDA(cudaFree(X));
    CHECK_CUDA(cudaFree(Y));
    free(x);
    free(expected);
    layer_free(&l);
    puts("OK");
    return 0;
}
