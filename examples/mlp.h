/* mlp.h - what lesson 11 compares with: the steps of an MLP as kernels of their own, and the results in double. CUDA C.
 *
 * x, z: [BATCH, cols], sums: [BATCH, rows], Y: [BATCH, rows / 2], all fp16. Row 2i of W belongs to the gate, row 2i + 1
 * to up, and the gain of the norm is in its columns. */
#ifndef SPINFER_EXAMPLES_MLP_H
#define SPINFER_EXAMPLES_MLP_H

#include <math.h>

#include "lesson.h"

#define EPSILON 1e-5f
#define SCALE 0x1p-6f /* of the weights: sums of some hundreds would saturate silu */

enum { BATCH = 8, NORM_THREADS = 512 };

SPINFER_DEVICE float add_lanes(float value)
{
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

/* sum + the squares of eight values. */
SPINFER_DEVICE float add_squares(float sum, uint4 values)
{
    const uint16_t *v = (const uint16_t *)&values;
    SPINFER_UNROLL
    for (int i = 0; i < 8; i++) sum += spinfer_widen(SPINFER_FP16, v[i]) * spinfer_widen(SPINFER_FP16, v[i]);
    return sum;
}

/* ---- The steps ------------------------------------------------------------------------------- */

/* z = SCALE * x / rms(x), a block of NORM_THREADS for each token, 16 bytes for each thread at a time. */
static __global__ void rms_norm(const uint16_t *x, uint16_t *z, uint32_t cols)
{
    __shared__ float part[NORM_THREADS / 32];
    const uint4     *from = (const uint4 *)(x + (size_t)blockIdx.x * cols);
    uint4           *to = (uint4 *)(z + (size_t)blockIdx.x * cols);
    float            squares = 0.0f;
    for (uint32_t unit = threadIdx.x; unit < cols / 8; unit += NORM_THREADS) squares = add_squares(squares, from[unit]);
    squares = add_lanes(squares);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = squares;
    __syncthreads(); /* the parts are complete */
    squares = 0.0f;
    for (int i = 0; i < NORM_THREADS / 32; i++) squares += part[i];
    const float factor = SCALE * rsqrtf(squares / (float)cols + EPSILON);
    for (uint32_t unit = threadIdx.x; unit < cols / 8; unit += NORM_THREADS) {
        uint4     values = from[unit];
        uint16_t *v = (uint16_t *)&values;
        SPINFER_UNROLL
        for (int i = 0; i < 8; i++) v[i] = spinfer_narrow(SPINFER_FP16, factor * spinfer_widen(SPINFER_FP16, v[i]));
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

static spinfer_plan plan; /* for all multiplies */
static uint16_t    *z, *sums;
static void        *workspace;
static size_t       workspace_bytes;

static void multiply_by(const spinfer_kernel *kernel, float alpha, spinfer_matrix W, const uint16_t *X, void *Y,
                        size_t ldy, const void *epilogue, size_t bytes)
{
    CHECK_SPINFER(spinfer_kernel_launch(kernel, 1, epilogue, bytes, &plan, alpha, &W, X, W.cols, 0.0f, Y, ldy, BATCH,
                                        workspace, workspace_bytes, 0));
}

/* Y has room for floats; the results in it are fp16. */
static void launch_separate(spinfer_matrix W, const uint16_t *x, float *Y)
{
    const uint32_t count = BATCH * W.rows / 2;
    rms_norm<<<BATCH, NORM_THREADS>>>(x, z, W.cols);
    multiply_by(&multiply_info, 1.0f, W, z, sums, W.rows, NULL, 0);
    swiglu<<<(count + 255) / 256, 256>>>((const uint32_t *)sums, (uint16_t *)Y, count);
}

static void launch_epilogue(spinfer_matrix W, const uint16_t *x, float *Y)
{
    const spinfer_fused none = {NULL, NULL, 0};
    rms_norm<<<BATCH, NORM_THREADS>>>(x, z, W.cols);
    multiply_by(&multiply_swiglu_info, 1.0f, W, z, Y, W.rows / 2, &none, sizeof none);
}

/* ---- The check ------------------------------------------------------------------------------- */

/* to = values * gain of the column, [rows, cols]. */
static void scale_columns(uint16_t *to, const uint16_t *values, const uint16_t *gain, size_t rows, size_t cols)
{
    for (size_t i = 0; i < rows * cols; i++)
        to[i] = spinfer_from_float(
            spinfer_to_float(values[i], SPINFER_FP16) * spinfer_to_float(gain[i % cols], SPINFER_FP16), SPINFER_FP16);
}

/* Multiplies the gain into the weights on the GPU; l->host stays as it is, for expect(). */
static void fold_gain(layer *l, const uint16_t *gain)
{
    const size_t   rows = l->host.rows, cols = l->host.cols;
    uint16_t      *dense = (uint16_t *)allocate(rows * cols * sizeof *dense);
    spinfer_matrix folded;
    CHECK_SPINFER(spinfer_decode(&l->host, dense, cols));
    scale_columns(dense, dense, gain, rows, cols);
    folded = encode_matrix(dense, rows, cols, SPINFER_FP16);
    for (int i = 0; i < l->count; i++) {
        matrix_free_on_gpu(&l->copies[i]);
        l->copies[i] = matrix_to_gpu(&folded);
    }
    free_matrix(&folded);
    free(dense);
}

/* exact: sums of integers, W as it was times x * gain, exact in fp32, and from there on in double.
 * bound: of the fused kernel. The factor is off by less than 6 units of 2^-23, which silu amplifies by up to 1 +
 * |gate|; spinfer_silu() states its own error; the last term is the rounding to fp16. */
static void expect(const layer *l, const uint16_t *gain, double *exact, double *bound)
{
    const size_t   rows = l->host.rows, cols = l->host.cols;
    float         *s = (float *)allocate(BATCH * rows * sizeof *s), *S;
    uint16_t      *product = (uint16_t *)allocate(BATCH * cols * sizeof *product);
    spinfer_matrix W = matrix_to_gpu(&l->host);
    scale_columns(product, l->x, gain, BATCH, cols);
    CHECK_CUDA(cudaMemcpy(z, product, BATCH * cols * sizeof *z, cudaMemcpyHostToDevice));
    CHECK_CUDA(cudaMalloc((void **)&S, BATCH * rows * sizeof *S));
    multiply_by(&multiply_exact_info, 1.0f, W, z, sums, rows, &S, sizeof S);
    CHECK_CUDA(cudaMemcpy(s, S, BATCH * rows * sizeof *s, cudaMemcpyDeviceToHost));
    for (size_t token = 0; token < BATCH; token++) {
        double squares = 0, factor;
        for (size_t k = 0; k < cols; k++)
            squares += pow((double)spinfer_to_float(l->x[token * cols + k], SPINFER_FP16), 2);
        factor = (double)SCALE / sqrt(squares / (double)cols + (double)EPSILON);
        for (size_t i = token * rows / 2; i < (token + 1) * rows / 2; i++) {
            const double gate = factor * (double)s[2 * i], up = factor * (double)s[2 * i + 1];
            exact[i] = gate / (1 + exp(-gate)) * up;
            bound[i] = fabs(exact[i]) * ((24 + 11 * fabs(gate)) * 0x1p-23 + 0x1p-11) + 0x1p-25;
        }
    }
    matrix_free_on_gpu(&W);
    CHECK_CUDA(cudaFree(S));
    free(s);
    free(product);
}

/* The largest error of a launch against `exact`. A result outside of `bound`, if that is given, ends the program. */
static double largest_error(const layer *l, launch start, const double *exact, const double *bound)
{
    const size_t count = BATCH * (size_t)l->host.rows / 2;
    uint16_t    *y = (uint16_t *)allocate(count * sizeof *y);
    double       most = 0;
    CHECK_CUDA(cudaMemset(l->Y, 0xff, count * sizeof *y));
    start(l->copies[0], l->X, l->Y);
    CHECK_CUDA(cudaGetLastError());
    CHECK_CUDA(cudaMemcpy(y, l->Y, count * sizeof *y, cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < count; i++) {
        const double error = fabs((double)spinfer_to_float(y[i], SPINFER_FP16) - exact[i]);
        CHECK(error >= 0 && (!bound || error <= bound[i])); /* a NaN is neither */
        if (error > most) most = error;
    }
    free(y);
    return most;
}

/* Memory, and a plan that leaves room for what `kernel` wants of shared memory. */
static void prepare(const layer *l, const spinfer_kernel *kernel)
{
    const spinfer_matrix *W = &l->copies[0];
    spinfer_device        device;
    CHECK_SPINFER(spinfer_device_query(&device));
    CHECK_SPINFER(spinfer_kernel_plan(kernel, 1, W, BATCH, &device, &plan));
    CHECK_SPINFER(spinfer_kernel_workspace_bytes(kernel, 1, &plan, W, BATCH, &workspace_bytes));
    CHECK_CUDA(cudaMalloc(&workspace, workspace_bytes + 16)); /* + 16: it may be 0 */
    CHECK_CUDA(cudaMemset(workspace, 0, workspace_bytes + 16));
    CHECK_CUDA(cudaMalloc((void **)&z, BATCH * (size_t)W->cols * sizeof *z));
    CHECK_CUDA(cudaMalloc((void **)&sums, BATCH * (size_t)W->rows * sizeof *sums));
}

#endif /* SPINFER_EXAMPLES_MLP_H */
