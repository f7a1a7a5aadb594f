/* mlp.h - what lesson 11 compares with: the steps of an MLP as kernels of their own, and the results in double. CUDA C.
 *
 * x, z: [BATCH, cols], sums: [BATCH, rows], Y: [BATCH, rows / 2]; row 2i of W belongs to the gate, row 2i + 1 to up. */
#ifndef SPINFER_EXAMPLES_MLP_H
#define SPINFER_EXAMPLES_MLP_H

#include <math.h>

#include "lesson.h"

#define EPSILON 1e-5f

enum { BATCH = 8 };

typedef struct arguments {
    spinfer_matrix  W;    /* row 2i: gate, row 2i + 1: up */
    const uint16_t *x;    /* [BATCH, cols]     */
    const uint16_t *gain; /* [cols]            */
    uint16_t       *Y;    /* [BATCH, rows / 2] */
    float           scale;
} arguments;

SPINFER_DEVICE float add_lanes(float value)
{
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

/* z = x * gain / rms(x) as fp16, a block of NORM_THREADS for each token, 16 bytes for each thread at a time. */
enum { NORM_THREADS = 512 };

static __global__ void rms_norm(const uint16_t *x, const uint16_t *gain, uint16_t *z, uint32_t cols, float scale)
{
    __shared__ float part[NORM_THREADS / 32];
    const uint4     *from = (const uint4 *)(x + (size_t)blockIdx.x * cols), *gains = (const uint4 *)gain;
    uint4           *to = (uint4 *)(z + (size_t)blockIdx.x * cols);
    float            squares = 0.0f;
    for (uint32_t unit = threadIdx.x; unit < cols / 8; unit += NORM_THREADS) {
        const uint4     values = from[unit];
        const uint16_t *v = (const uint16_t *)&values;
        SPINFER_UNROLL
        for (int i = 0; i < 8; i++) squares += spinfer_widen(SPINFER_FP16, v[i]) * spinfer_widen(SPINFER_FP16, v[i]);
    }
    squares = add_lanes(squares);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = squares;
    __syncthreads(); /* the parts are complete */
    squares = 0.0f;
    for (int i = 0; i < NORM_THREADS / 32; i++) squares += part[i];
    const float factor = scale * rsqrtf(squares / (float)cols + EPSILON);
    for (uint32_t unit = threadIdx.x; unit < cols / 8; unit += NORM_THREADS) {
        uint4           values = from[unit];
        const uint4     gain_values = gains[unit];
        uint16_t       *v = (uint16_t *)&values;
        const uint16_t *g = (const uint16_t *)&gain_values;
        SPINFER_UNROLL
        for (int i = 0; i < 8; i++)
            v[i] = spinfer_narrow(SPINFER_FP16,
                                  factor * spinfer_widen(SPINFER_FP16, v[i]) * spinfer_widen(SPINFER_FP16, g[i]));
        to[unit] = values;
    }
}

/* Y = silu(gate) * up of neighbouring rows of sums. */
static __global__ void swiglu(const uint32_t *sums, uint16_t *Y, uint32_t count)
{
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const float gate = spinfer_widen(SPINFER_FP16, (uint16_t)sums[i]);
    Y[i] = spinfer_narrow(SPINFER_FP16, spinfer_silu(gate) * spinfer_widen(SPINFER_FP16, (uint16_t)(sums[i] >> 16)));
}

/* fp32 sums as they are, for the check. */
SPINFER_DEVICE void store_sums(const spinfer_dtype dtype, const spinfer_spmm_args *args, uint32_t row, uint32_t token,
                               spinfer_sums sum)
{
    (void)dtype;
    *(float4 *)(*(float *const *)args->user + token * args->ldy + row) =
        make_float4(sum.row[0], sum.row[1], sum.row[2], sum.row[3]);
}

SPINFER_DEFINE_SPMM_KERNEL(multiply, SPINFER_FP16, 1, 1, 28, spinfer_epilogue_scale);
SPINFER_DEFINE_SPMM_KERNEL(multiply_swiglu, SPINFER_FP16, 1, 1, 28, spinfer_epilogue_swiglu);
SPINFER_DEFINE_SPMM_KERNEL(multiply_exact, SPINFER_FP16, 1, 1, 28, store_sums);

static arguments    args;
static spinfer_plan plan;
static uint16_t    *z, *sums; /* [BATCH, cols], [BATCH, rows] */
static void        *workspace;
static size_t       workspace_bytes;

static void multiply_by(const spinfer_kernel *kernel, spinfer_matrix W, const uint16_t *X, void *Y, size_t ldy,
                        const void *epilogue, size_t bytes)
{
    CHECK_SPINFER(spinfer_kernel_launch(kernel, 1, epilogue, bytes, &plan, 1.0f, &W, X, W.cols, 0.0f, Y, ldy, BATCH,
                                        workspace, workspace_bytes, 0));
}

static void launch_separate(spinfer_matrix W, const uint16_t *x, float *unused)
{
    const uint32_t count = BATCH * W.rows / 2;
    (void)unused;
    rms_norm<<<BATCH, NORM_THREADS>>>(x, args.gain, z, W.cols, args.scale);
    multiply_by(&multiply_info, W, z, sums, W.rows, NULL, 0);
    swiglu<<<(count + 255) / 256, 256>>>((const uint32_t *)sums, args.Y, count);
}

static void launch_epilogue(spinfer_matrix W, const uint16_t *x, float *unused)
{
    const spinfer_fused none = {NULL, NULL, 0};
    (void)unused;
    rms_norm<<<BATCH, NORM_THREADS>>>(x, args.gain, z, W.cols, args.scale);
    multiply_by(&multiply_swiglu_info, W, z, args.Y, W.rows / 2, &none, sizeof none);
}

/* The largest error of a launch against `exact` [BATCH, rows / 2]. A result outside of `bound`, if that is given, ends
 * the program. */
static double largest_error(const layer *l, launch start, const double *exact, const double *bound)
{
    const size_t count = BATCH * (size_t)l->host.rows / 2;
    uint16_t    *y = (uint16_t *)allocate(count * sizeof *y);
    double       most = 0;
    CHECK_CUDA(cudaMemset(args.Y, 0xff, count * sizeof *y));
    start(l->copies[0], l->X, NULL);
    CHECK_CUDA(cudaGetLastError());
    CHECK_CUDA(cudaMemcpy(y, args.Y, count * sizeof *y, cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < count; i++) {
        const double error = fabs((double)spinfer_to_float(y[i], SPINFER_FP16) - exact[i]);
        CHECK(error >= 0 && (!bound || error <= bound[i])); /* a NaN is neither */
        if (error > most) most = error;
    }
    free(y);
    return most;
}

/* exact: from sums of integers, which are exact in fp32, and from there on in double.
 * bound: of the fused kernel. The factor is off by less than 6 units of 2^-23, which silu amplifies by up to 1 +
 * |gate|; spinfer_silu() states its own error; the last term is the rounding to fp16. */
static void expect(const layer *l, const uint16_t *gain, double *exact, double *bound)
{
    const size_t rows = l->host.rows, cols = l->host.cols;
    float       *s = (float *)allocate(BATCH * rows * sizeof *s), *S;
    uint16_t    *product = (uint16_t *)allocate(BATCH * cols * sizeof *product);
    for (size_t i = 0; i < BATCH * cols; i++)
        product[i] = spinfer_from_float(
            spinfer_to_float(l->x[i], SPINFER_FP16) * spinfer_to_float(gain[i % cols], SPINFER_FP16), SPINFER_FP16);
    CHECK_CUDA(cudaMemcpy(z, product, BATCH * cols * sizeof *z, cudaMemcpyHostToDevice));
    CHECK_CUDA(cudaMalloc((void **)&S, BATCH * rows * sizeof *S));
    multiply_by(&multiply_exact_info, l->copies[0], z, sums, rows, &S, sizeof S);
    CHECK_CUDA(cudaMemcpy(s, S, BATCH * rows * sizeof *s, cudaMemcpyDeviceToHost));
    for (size_t token = 0; token < BATCH; token++) {
        double squares = 0, factor;
        for (size_t k = 0; k < cols; k++)
            squares += pow((double)spinfer_to_float(l->x[token * cols + k], SPINFER_FP16), 2);
        factor = (double)args.scale / sqrt(squares / (double)cols + (double)EPSILON);
        for (size_t i = token * rows / 2; i < (token + 1) * rows / 2; i++) {
            const double gate = factor * (double)s[2 * i], up = factor * (double)s[2 * i + 1];
            exact[i] = gate / (1 + exp(-gate)) * up;
            bound[i] = fabs(exact[i]) * ((24 + 11 * fabs(gate)) * 0x1p-23 + 0x1p-11) + 0x1p-25;
        }
    }
    CHECK_CUDA(cudaFree(S));
    free(s);
    free(product);
}

/* Memory and a plan for the steps. */
static void prepare_steps(const layer *l, const uint16_t *gain)
{
    const spinfer_matrix *W = &l->copies[0];
    const size_t          rows = W->rows, cols = W->cols;
    spinfer_device        device;
    CHECK_SPINFER(spinfer_device_query(&device));
    CHECK_SPINFER(spinfer_kernel_plan(&multiply_info, 1, W, BATCH, &device, &plan));
    CHECK_SPINFER(spinfer_kernel_workspace_bytes(&multiply_info, 1, &plan, W, BATCH, &workspace_bytes));
    CHECK_CUDA(cudaMalloc(&workspace, workspace_bytes + 16)); /* + 16: it may be 0 */
    CHECK_CUDA(cudaMemset(workspace, 0, workspace_bytes + 16));
    CHECK_CUDA(cudaMalloc((void **)&z, BATCH * cols * sizeof *z));
    CHECK_CUDA(cudaMalloc((void **)&sums, BATCH * rows * sizeof *sums));
    CHECK_CUDA(cudaMalloc((void **)&args.Y, BATCH * rows / 2 * sizeof *args.Y));
    args.gain = (const uint16_t *)copy_to_gpu(gain, cols * sizeof *gain);
    args.scale = 0x1p-6f; /* of the weights: sums of some hundreds would saturate silu */
}

static void free_steps(void)
{
    CHECK_CUDA(cudaFree((void *)args.gain));
    CHECK_CUDA(cudaFree(args.Y));
    CHECK_CUDA(cudaFree(sums));
    CHECK_CUDA(cudaFree(z));
    CHECK_CUDA(cudaFree(workspace));
}

#endif /* SPINFER_EXAMPLES_MLP_H */
