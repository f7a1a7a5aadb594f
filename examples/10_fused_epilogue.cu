/* 10_fused_epilogue.cu - what happens to a sum before it is stored: a fused epilogue.
 *
 *     10_fused_epilogue [rows cols [percent of zeros]]
 *
 * The idea. A layer is seldom W x alone: a bias is added, an activation follows. As a kernel of its own, that step
 * reads and writes all of Y again and costs a launch, several microseconds behind a multiply that takes some twenty.
 * But there is a moment at which a lane has the finished sums of four rows in registers, and what it then does with
 * them costs nothing, because the kernel waits for weights, not for arithmetic. The library calls a function of ours at
 * that moment:
 *
 *     SPINFER_DEVICE void name(dtype, args, row, token, sum)      sum.row[0..3] belong to rows row .. row + 3
 *
 * A macro stamps kernels around it, one for each number of tokens. It is no function pointer at run time: the name is a
 * constant, everything is inlined, and there is no call left in the machine code.
 *
 * Here are two. The first stores the sums as they are, in fp32; the second adds a bias and takes what is positive. The
 * library has more: spinfer_epilogue_bias(), _gelu(), _silu() with a residual, and _swiglu().
 *
 * Introduces: SPINFER_DEFINE_SPMM_KERNELS(), spinfer_kernel_plan(), spinfer_kernel_launch(), spinfer_rows_left() */
#include "lesson.h"

/* What our epilogues are given, by value: up to 64 bytes, which the launch copies. */
typedef struct output {
    float       *Y;    /* [TOKENS, rows] */
    const float *bias; /* [rows]         */
} output;

/* Stores sums as they are. The number of rows is a multiple of 64, so none of the four is missing. */
SPINFER_DEVICE void store_sums(const spinfer_dtype dtype, const spinfer_spmm_args *args, uint32_t row, uint32_t token,
                               spinfer_sums sum)
{
    const output *out = (const output *)args->user;
    (void)dtype;
    *(float4 *)(out->Y + token * args->ldy + row) = make_float4(sum.row[0], sum.row[1], sum.row[2], sum.row[3]);
}

/* max(sum + bias, 0). */
SPINFER_DEVICE void store_bias_relu(const spinfer_dtype dtype, const spinfer_spmm_args *args, uint32_t row,
                                    uint32_t token, spinfer_sums sum)
{
    const output *out = (const output *)args->user;
    const float4  bias = *(const float4 *)(out->bias + row);
    (void)dtype;
    *(float4 *)(out->Y + token * args->ldy + row) =
        make_float4(fmaxf(sum.row[0] + bias.x, 0.0f), fmaxf(sum.row[1] + bias.y, 0.0f),
                    fmaxf(sum.row[2] + bias.z, 0.0f), fmaxf(sum.row[3] + bias.w, 0.0f));
}

SPINFER_DEFINE_SPMM_KERNELS(multiply, SPINFER_FP16, store_sums);
SPINFER_DEFINE_SPMM_KERNELS(multiply_bias_relu, SPINFER_FP16, store_bias_relu);

/* The same step as a kernel of its own. */
static __global__ void bias_relu(float *Y, const float *bias, uint32_t rows)
{
    const uint32_t row = blockIdx.x * blockDim.x + threadIdx.x;
    const size_t   i = (size_t)blockIdx.y * rows + row;
    if (row < rows) Y[i] = fmaxf(Y[i] + bias[row], 0.0f);
}

static spinfer_plan plan;
static void        *workspace;
static size_t       workspace_bytes;
static float       *bias; /* [rows] on the GPU */

static void launch_kernels(const spinfer_kernel *kernels, spinfer_matrix W, const uint16_t *X, float *Y)
{
    const output out = {Y, bias};
    CHECK_SPINFER(spinfer_kernel_launch(kernels, SPINFER_KERNELS, &out, sizeof out, &plan, 1.0f, &W, X, W.cols, 0.0f, Y, W.rows,
                                        TOKENS, workspace, workspace_bytes, 0));
}

static void launch_plain(spinfer_matrix W, const uint16_t *X, float *Y) { launch_kernels(multiply, W, X, Y); }

static void launch_separate(spinfer_matrix W, const uint16_t *X, float *Y)
{
    launch_kernels(multiply, W, X, Y);
    bias_relu<<<dim3((W.rows + 255) / 256, TOKENS), 256>>>(Y, bias, W.rows);
}

static void launch_fused(spinfer_matrix W, const uint16_t *X, float *Y) { launch_kernels(multiply_bias_relu, W, X, Y); }

/* Both kernels were stamped from one list of shapes, so one plan and one workspace do for both. */
static void prepare(const layer *l)
{
    spinfer_device device;
    float         *values = (float *)allocate(l->host.rows * sizeof *values);
    CHECK_SPINFER(spinfer_device_query(&device));
    CHECK_SPINFER(spinfer_kernel_plan(multiply, SPINFER_KERNELS, &l->copies[0], TOKENS, &device, &plan));
    CHECK_SPINFER(spinfer_kernel_workspace_bytes(multiply, SPINFER_KERNELS, &plan, &l->copies[0], TOKENS, &workspace_bytes));
    CHECK_CUDA(cudaMalloc(&workspace, workspace_bytes + 16)); /* + 16: it may be 0 */
    CHECK_CUDA(cudaMemset(workspace, 0, workspace_bytes + 16));
    for (uint32_t row = 0; row < l->host.rows; row++) values[row] = (float)(random_bits(7, row) % 401) - 200.0f;
    bias = (float *)copy_to_gpu(values, l->host.rows * sizeof *values);
    free(values);
}

/* All of Y. Free with free(). */
static float *result_of(const layer *l, launch start)
{
    const size_t bytes = TOKENS * l->host.rows * sizeof(float);
    float       *y = (float *)allocate(bytes);
    CHECK_CUDA(cudaMemset(l->Y, 0xff, bytes));
    start(l->copies[0], l->X, l->Y);
    CHECK_CUDA(cudaMemcpy(y, l->Y, bytes, cudaMemcpyDeviceToHost));
    return y;
}

int main(int argc, char **argv)
{
    layer  l;
    float *separate, *fused;
    size_t positive = 0;
    require_gpu();
    l = layer_create(argc, argv);
    prepare(&l);
    layer_check(&l, launch_plain, "sums in fp32");

    separate = result_of(&l, launch_separate);
    fused = result_of(&l, launch_fused);
    for (size_t i = 0; i < TOKENS * l.host.rows; i++) positive += fused[i] > 0;
    printf("bias and ReLU: %.0f %% of the results are positive\n",
           100.0 * (double)positive / (double)(TOKENS * l.host.rows));
    CHECK(memcmp(separate, fused, TOKENS * l.host.rows * sizeof *fused) == 0);

    layer_time(&l, launch_plain, "the multiply alone     ");
    layer_time(&l, launch_separate, "and a kernel behind it ");
    layer_time(&l, launch_fused, "as an epilogue         ");
    free(separate);
    free(fused);
    CHECK_CUDA(cudaFree(bias));
    CHECK_CUDA(cudaFree(workspace));
    layer_free(&l);
    puts("OK");
    return 0;
}
