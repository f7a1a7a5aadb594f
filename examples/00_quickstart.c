/* 00_quickstart.c - encode a pruned layer, multiply it, check the result. Start here.
 *
 *     00_quickstart [layer.npy | --rows M --cols K] [--zeros PERCENT] [--n TOKENS] [--bf16]
 *
 * The idea. Y = W X: W is the weight of a linear layer, X the activations of some tokens. For each weight one bit says
 * whether it is zero, and only the others keep their 16 bits. So a pruned W takes less memory, and nothing is
 * approximated. Compiled by nvcc and run where there is a GPU, this multiplies on the GPU, else on the CPU. Exit status
 * 0: every result that was checked lies within its error bound.
 *
 * Introduces: spinfer_encode_sizes(), spinfer_encode(), spinfer_spmm_host(); for the GPU spinfer_device_query(),
 *             spinfer_spmm_plan(), spinfer_spmm_workspace_bytes(), spinfer_spmm() */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L /* clock_gettime(), also under -std=c99 */
#endif

#include "quickstart_layer.h"

#include <time.h>

/* Y = W X, in microseconds. */
static double multiply_on_cpu(const spinfer_matrix *W, const uint16_t *X, uint16_t *Y, size_t n)
{
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    CHECK_SPINFER(spinfer_spmm_host(1.0f, W, X, W->cols, 0.0f, Y, W->rows, n));
    clock_gettime(CLOCK_MONOTONIC, &end);
    return (double)(end.tv_sec - begin.tv_sec) * 1e6 + (double)(end.tv_nsec - begin.tv_nsec) * 1e-3;
}

#ifdef __CUDACC__
#define SPINFER_IMPLEMENTATION
#include "lesson.h" /* includes spinfer.cuh */

/* In a model, other layers push this one out of the L2 cache between two calls. To see the same, launches take turns
 * with copies of W, together more than twice the cache; one W again and again would look too fast. */
static double multiply_on_gpu(const spinfer_matrix *host, const uint16_t *X, uint16_t *Y, size_t n)
{
    enum { MOST_COPIES = 256, ROUNDS = 20 };
    const size_t   y_bytes = n * host->rows * sizeof *Y, l2_bytes = (size_t)device_attribute(cudaDevAttrL2CacheSize);
    void          *dX = copy_to_gpu(X, n * host->cols * sizeof *X), *dY = copy_to_gpu(Y, y_bytes), *workspace;
    spinfer_matrix W[MOST_COPIES];
    spinfer_device device;
    spinfer_plan   plan;
    size_t         workspace_bytes, copies, i;
    cudaEvent_t    begin, end;
    float          ms;
    for (copies = 0; copies < MOST_COPIES && copies * host->data_bytes <= 2 * l2_bytes; copies++)
        W[copies] = matrix_to_gpu(host); /* the same struct, its two arrays copied as they are */

    CHECK_SPINFER(spinfer_device_query(&device)); /* once for a layer */
    CHECK_SPINFER(spinfer_spmm_plan(host, n, &device, &plan));
    CHECK_SPINFER(spinfer_spmm_workspace_bytes(&plan, host, n, &workspace_bytes));
    CHECK_CUDA(cudaMalloc(&workspace, workspace_bytes + 16)); /* + 16: it may be 0 */
    CHECK_CUDA(cudaMemset(workspace, 0, workspace_bytes + 16));

    CHECK_CUDA(cudaEventCreate(&begin));
    CHECK_CUDA(cudaEventCreate(&end));
    for (i = 0; i < 2 * ROUNDS * copies; i++) {
        if (i == ROUNDS * copies) CHECK_CUDA(cudaEventRecord(begin, 0)); /* the first half warms up */
        CHECK_SPINFER(spinfer_spmm(&plan, 1.0f, &W[i % copies], dX, host->cols, 0.0f, dY, host->rows, n, workspace,
                                   workspace_bytes, 0));
    }
    CHECK_CUDA(cudaEventRecord(end, 0));
    CHECK_CUDA(cudaMemcpy(Y, dY, y_bytes, cudaMemcpyDeviceToHost)); /* waits for all launches */
    CHECK_CUDA(cudaEventElapsedTime(&ms, begin, end));

    CHECK_CUDA(cudaEventDestroy(begin));
    CHECK_CUDA(cudaEventDestroy(end));
    for (i = 0; i < copies; i++) matrix_free_on_gpu(&W[i]);
    CHECK_CUDA(cudaFree(dX));
    CHECK_CUDA(cudaFree(dY));
    CHECK_CUDA(cudaFree(workspace));
    return ms * 1e3 / (double)(ROUNDS * copies);
}
#endif

/* The name of a GPU that can run the kernel, or NULL. */
static const char *find_gpu(void)
{
#ifdef __CUDACC__
    static struct cudaDeviceProp properties;
    const cudaError_t            error = cudaGetDeviceProperties(&properties, 0);
    if (error == cudaSuccess && properties.major >= 8) return properties.name;
    printf("(no GPU is used: %s)\n", error == cudaSuccess ? "it is older than sm_80" : cudaGetErrorString(error));
#endif
    return NULL;
}

/* How far off y = sum of w x may be. That depends on W and X only, not on what was computed. With S = sum of |w x|:
 *
 *   CPU   sums in double, here and there: K 2^-52 S.
 *   GPU   sums in fp32. A step of a tensor core multiplies exactly, then aligns the products and the running sum to
 *         the largest of them, cuts off what lies below 2^-23 of it, and does so again with their sum. With j nonzero
 *         products in the step that is at most j + 1 <= 2 j cuts; adding the partial sums of warps and splits costs
 *         less. Over a row with `kept` nonzero products: less than 3 kept 2^-23 S.
 *   Then  y is rounded to float and to the dtype, by half a unit in the last place each. */
static double error_bound(const layer_options *o, int on_gpu, double sum, double S, double kept)
{
    const int    is_fp16 = o->dtype == SPINFER_FP16;
    const double underflow = is_fp16 ? 0x1p-25 : (double)o->cols * 0x1p-126; /* half a subnormal, or lost products */
    const double added = S * (on_gpu ? 3 * kept * 0x1p-23 : (double)o->cols * 0x1p-52);
    return added + (0x1p-23 + (is_fp16 ? 0x1p-11 : 0x1p-8)) * (fabs(sum) + added) + underflow;
}

/* Compares Y with the product of the dense W in float64. Returns 1 if no result is farther off than it may be. */
static int check(const layer_options *o, const uint16_t *dense, const uint16_t *X, const uint16_t *Y, int on_gpu)
{
    const double largest = o->dtype == SPINFER_FP16 ? 65504 : 3.38e38;
    const size_t affordable = ((size_t)1 << 28) / (o->rows * o->cols) + 1;
    const size_t tokens = o->n < affordable ? o->n : affordable;
    double       worst = -1, allowed = 1; /* an error and its bound */
    size_t       row, col, i;
    for (row = 0; row < o->rows; row++) {
        for (i = 0; i < tokens; i++) {
            const size_t    t = i * o->n / tokens; /* evenly spread, if not all */
            const uint16_t *w = dense + row * o->cols, *x = X + t * o->cols;
            const double    y = spinfer_to_float(Y[t * o->rows + row], o->dtype);
            double          sum = 0, S = 0, kept = 0, bound, error;
            for (col = 0; col < o->cols; col++) {
                const double wx = (double)spinfer_to_float(w[col], o->dtype) * spinfer_to_float(x[col], o->dtype);
                sum += wx;
                S += fabs(wx);
                kept += wx != 0;
            }
            bound = error_bound(o, on_gpu, sum, S, kept);
            error = isnan(y) ? INFINITY : fabs(y - sum);
            if (isinf(y) && fabs(sum) + bound > largest) error = 0; /* too large for the dtype: infinity is right */
            if (error / bound > worst / allowed) worst = error, allowed = bound;
        }
    }
    printf("check      ");
    if (tokens < o->n) printf("%zu of ", tokens * o->rows);
    printf("%zu results, worst error %.6g, allowed there %.6g\n", o->n * o->rows, worst, allowed);
    return worst <= allowed;
}

int main(int argc, char **argv)
{
    layer_options  o = parse_options(argc, argv);
    const char    *gpu = find_gpu();
    uint16_t      *dense = create_layer(&o, gpu ? 4096 : 2048);        /* a CPU should not take long either */
    uint16_t      *X = (uint16_t *)allocate(o.n * o.cols * sizeof *X); /* token t: K values from X + t * K  */
    uint16_t      *Y = (uint16_t *)allocate(o.n * o.rows * sizeof *Y); /* token t: M results from Y + t * M */
    const double   weights = (double)o.rows * (double)o.cols;
    spinfer_matrix W;
    spinfer_sizes  sizes;
    void          *offsets, *data;
    double         bytes, ratio, us;
    int            ok;

    CHECK_SPINFER(spinfer_encode_sizes(dense, o.rows, o.cols, o.cols, &sizes)); /* sizes first: the caller allocates */
    offsets = allocate((size_t)sizes.offsets_bytes);
    data = allocate((size_t)sizes.data_bytes);
    CHECK_SPINFER(spinfer_encode(dense, o.rows, o.cols, o.cols, o.dtype, (uint32_t *)offsets, sizes.offsets_bytes, data,
                                 sizes.data_bytes, &W));
    bytes = (double)(sizes.offsets_bytes + sizes.data_bytes);
    ratio = 2 * weights / bytes;
    printf("layer      %zu x %zu, %.1f %% zeros, %s\n", o.rows, o.cols, 100 * (1 - (double)sizes.nnz / weights),
           o.dtype == SPINFER_FP16 ? "fp16" : "bf16");
    printf("dense      %.2f MB\n", 2 * weights * 1e-6);
    printf("encoded    %.2f MB   %.2fx %s, %.2f bits per weight\n", bytes * 1e-6, fmax(ratio, 1 / ratio),
           ratio > 1 ? "smaller" : "larger", 8 * bytes / weights);

    fill_normal(X, o.n * o.cols, 1.0, o.dtype, 3);
    memset(Y, 0xff, o.n * o.rows * sizeof *Y); /* NaN: a result that nobody writes is found */
#ifdef __CUDACC__
    us = gpu ? multiply_on_gpu(&W, X, Y, o.n) : multiply_on_cpu(&W, X, Y, o.n);
#else
    us = multiply_on_cpu(&W, X, Y, o.n);
#endif
    printf("multiply   %zu tokens on %s: %.1f %s\n", o.n, gpu ? gpu : "the CPU", us < 1e3 ? us : us * 1e-3,
           us < 1e3 ? "us" : "ms");
    ok = check(&o, dense, X, Y, gpu != NULL);
    puts(ok ? "OK" : "WRONG");
    free_matrix(&W);
    free(dense);
    free(X);
    free(Y);
    return !ok;
}
