/* 00_quickstart.c - encode a pruned layer, multiply it, check the result. Start here.
 *
 *     00_quickstart [layer.npy | --rows M --cols K] [--zeros PERCENT] [--n TOKENS] [--bf16]
 *
 * Y = W X: W is the weight of a linear layer, X the activations of some tokens. Compiled by nvcc and run where there is
 * a GPU, this multiplies on the GPU, else on the CPU. W comes from a .npy file, or is made up and pruned as Wanda
 * would. Exit status 0 means that every result that was checked lies within its error bound. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L /* clock_gettime(), also under -std=c99 */
#endif

#include "common.h"
#include "npy.h"

#include <time.h>

#ifdef __CUDACC__
#define SPINFER_IMPLEMENTATION
#include "spinfer.cuh"
#endif

typedef struct options {
    const char   *npy;        /* NULL: the built-in layer       */
    size_t        rows, cols; /* of W; until then 0: not given  */
    size_t        n;          /* tokens                         */
    double        zeros;      /* share to prune; < 0: not given */
    spinfer_dtype dtype;
} options;

/* ---- The layer ------------------------------------------------------------------------------- */

static uint16_t *make_layer(options *o)
{
    uint16_t *dense = NULL;
    size_t    i;
    if (o->npy) {
        const char *error = npy_read(o->npy, o->dtype, &dense, &o->rows, &o->cols);
        if (error) {
            fprintf(stderr, "%s: %s\n", o->npy, error);
            exit(1);
        }
        for (i = 0; i < o->rows * o->cols; i++)
            if (!isfinite(spinfer_to_float(dense[i], o->dtype))) {
                fprintf(stderr, "%s: a weight is not finite, or too large for fp16 (then try --bf16)\n", o->npy);
                exit(1);
            }
        if (o->zeros >= 0) prune_by_magnitude(dense, o->rows, o->cols, o->zeros);
    } else {
        dense = (uint16_t *)allocate(o->rows * o->cols * sizeof *dense);
        fill_normal(dense, o->rows * o->cols, 0.02, o->dtype, 1);
        prune_wanda_like(dense, o->rows, o->cols, o->zeros >= 0 ? o->zeros : 0.5, o->dtype, 2);
    }
    return dense;
}

/* ---- The multiplication, in microseconds ----------------------------------------------------- */

static double multiply_on_cpu(const spinfer_matrix *W, const uint16_t *X, uint16_t *Y, size_t n)
{
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    CHECK_SPINFER(spinfer_spmm_host(1.0f, W, X, W->cols, 0.0f, Y, W->rows, n));
    clock_gettime(CLOCK_MONOTONIC, &end);
    return (double)(end.tv_sec - begin.tv_sec) * 1e6 + (double)(end.tv_nsec - begin.tv_nsec) * 1e-3;
}

#ifdef __CUDACC__

static void *copy_to_gpu(const void *host, size_t bytes)
{
    void *device;
    CHECK_CUDA(cudaMalloc(&device, bytes));
    CHECK_CUDA(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice));
    return device;
}

static int compare_floats(const void *left, const void *right)
{
    const float a = *(const float *)left, b = *(const float *)right;
    return (a > b) - (a < b);
}

/* In a model, other layers push this one out of the L2 cache between two calls. To see the same, launches take turns
 * with copies of W, together more than twice the cache; one W again and again would look too fast. */
static double multiply_on_gpu(const spinfer_matrix *W, const uint16_t *X, uint16_t *Y, size_t n)
{
    enum { RUNS = 11, MAX_COPIES = 256 };
    const size_t   offsets_bytes = (size_t)spinfer_offsets_bytes(W->rows, W->cols);
    const size_t   data_bytes = (size_t)W->data_bytes, y_bytes = n * W->rows * sizeof *Y;
    spinfer_matrix copies[MAX_COPIES];
    spinfer_device device;
    spinfer_plan   plan;
    void          *dX = copy_to_gpu(X, n * W->cols * sizeof *X), *dY = copy_to_gpu(Y, y_bytes), *workspace = NULL;
    size_t         workspace_bytes, count, launches, i;
    cudaEvent_t    begin, end;
    float          ms[RUNS];
    int            run, l2_bytes;

    CHECK_CUDA(cudaDeviceGetAttribute(&l2_bytes, cudaDevAttrL2CacheSize, 0));
    for (count = 0; count < MAX_COPIES && count * data_bytes <= 2 * (size_t)l2_bytes; count++) {
        copies[count] = *W; /* sizes and dtype stay; the two arrays go to the GPU as they are */
        copies[count].offsets = (const uint32_t *)copy_to_gpu(W->offsets, offsets_bytes);
        copies[count].data = copy_to_gpu(W->data, data_bytes);
    }
    CHECK_SPINFER(spinfer_device_query(&device));
    CHECK_SPINFER(spinfer_spmm_plan(W, n, &device, &plan));
    CHECK_SPINFER(spinfer_spmm_workspace_bytes(&plan, W, n, &workspace_bytes));
    if (workspace_bytes) {
        CHECK_CUDA(cudaMalloc(&workspace, workspace_bytes));
        CHECK_CUDA(cudaMemset(workspace, 0, workspace_bytes));
    }
    CHECK_CUDA(cudaEventCreate(&begin));
    CHECK_CUDA(cudaEventCreate(&end));
    launches = count < 20 ? 20 : count;
    for (run = -1; run < RUNS; run++) { /* run -1 warms up */
        CHECK_CUDA(cudaEventRecord(begin, 0));
        for (i = 0; i < launches; i++)
            CHECK_SPINFER(spinfer_spmm(&plan, 1.0f, &copies[i % count], dX, W->cols, 0.0f, dY, W->rows, n, workspace,
                                       workspace_bytes, 0));
        CHECK_CUDA(cudaEventRecord(end, 0));
        CHECK_CUDA(cudaEventSynchronize(end));
        if (run >= 0) CHECK_CUDA(cudaEventElapsedTime(&ms[run], begin, end));
    }
    qsort(ms, RUNS, sizeof *ms, compare_floats);
    CHECK_CUDA(cudaMemcpy(Y, dY, y_bytes, cudaMemcpyDeviceToHost));

    CHECK_CUDA(cudaEventDestroy(begin));
    CHECK_CUDA(cudaEventDestroy(end));
    for (i = 0; i < count; i++) {
        CHECK_CUDA(cudaFree((void *)copies[i].offsets));
        CHECK_CUDA(cudaFree((void *)copies[i].data));
    }
    CHECK_CUDA(cudaFree(dX));
    CHECK_CUDA(cudaFree(dY));
    CHECK_CUDA(cudaFree(workspace));
    return ms[RUNS / 2] * 1e3 / (double)launches;
}

#endif /* __CUDACC__ */

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

/* ---- The check ------------------------------------------------------------------------------- */

/* Compares Y with the product of the dense W in float64. Returns 1 if no result y = sum of w x is farther off than it
 * may be. That depends on W and X only, not on what was computed. With S = sum of |w x|:
 *
 *   CPU   sums in double, here and there: K 2^-52 S.
 *   GPU   sums in fp32. A step of a tensor core multiplies exactly, then aligns the products and the running sum to
 *         the largest of them, cuts off what lies below 2^-23 of it, and does so again with their sum. With j nonzero
 *         products in the step that is at most j + 1 <= 2 j cuts; adding the partial sums of warps and splits costs
 *         less. Over a row with `kept` nonzero products: less than 3 kept 2^-23 S.
 *   Then  y is rounded to float and to the dtype, by half a unit in the last place each. */
static int check(const options *o, const uint16_t *dense, const uint16_t *X, const uint16_t *Y, int on_gpu)
{
    const int    is_fp16 = o->dtype == SPINFER_FP16;
    const double rounding = is_fp16 ? 0x1p-11 : 0x1p-8, largest = is_fp16 ? 65504 : 3.38e38;
    const double underflow = is_fp16 ? 0x1p-25 : (double)o->cols * 0x1p-126; /* half a subnormal, or lost products */
    const size_t affordable = ((size_t)1 << 28) / (o->rows * o->cols) + 1;
    const size_t tokens = o->n < affordable ? o->n : affordable;
    double       worst = -1, worst_error = 0, worst_allowed = 0;
    size_t       row, col, i;
    for (row = 0; row < o->rows; row++) {
        for (i = 0; i < tokens; i++) {
            const size_t    t = i * o->n / tokens; /* evenly spread, if not all */
            const uint16_t *w = dense + row * o->cols, *x = X + t * o->cols;
            const double    y = spinfer_to_float(Y[t * o->rows + row], o->dtype);
            double          sum = 0, S = 0, kept = 0, allowed, error;
            for (col = 0; col < o->cols; col++) {
                const double weight = spinfer_to_float(w[col], o->dtype);
                const double wx = weight * spinfer_to_float(x[col], o->dtype);
                sum += wx;
                S += fabs(wx);
                kept += wx != 0;
            }
            allowed = S * (on_gpu ? 3 * kept * 0x1p-23 : (double)o->cols * 0x1p-52);
            allowed += (rounding + 0x1p-23) * (fabs(sum) + allowed) + underflow;
            error = fabs(y - sum);
            if (isinf(y) && fabs(sum) + allowed > largest) error = 0; /* too large for the dtype: infinity is right */
            if (isnan(error)) error = INFINITY;
            if (error / allowed <= worst) continue;
            worst = error / allowed;
            worst_error = error;
            worst_allowed = allowed;
        }
    }
    printf("check      ");
    if (tokens < o->n) printf("%zu of ", tokens * o->rows);
    printf("%zu results, worst error %.6g, allowed there %.6g\n", o->n * o->rows, worst_error, worst_allowed);
    return worst <= 1;
}

/* ---- Main ------------------------------------------------------------------------------------ */

/* The number after an option, or exit. */
static double number(const char *option, const char *text, double least, double most)
{
    char        *end = NULL;
    const double value = text ? strtod(text, &end) : 0;
    if (!text || end == text || *end || !(value >= least && value <= most)) {
        fprintf(stderr, "%s wants a number from %g to %g\n", option, least, most);
        exit(1);
    }
    return value;
}

static options parse(int argc, char **argv)
{
    options o = {NULL, 0, 0, 16, -1, SPINFER_FP16};
    int     i;
    for (i = 1; i < argc; i++) {
        const char *option = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(option, "--bf16") == 0)
            o.dtype = SPINFER_BF16;
        else if (strcmp(option, "--n") == 0)
            o.n = (size_t)number(option, value, 1, 65536), i++;
        else if (strcmp(option, "--rows") == 0)
            o.rows = (size_t)number(option, value, 1, 1 << 20), i++;
        else if (strcmp(option, "--cols") == 0)
            o.cols = (size_t)number(option, value, 1, 1 << 20), i++;
        else if (strcmp(option, "--zeros") == 0)
            o.zeros = number(option, value, 0, 100) / 100, i++;
        else if (option[0] != '-' && !o.npy)
            o.npy = option;
        else {
            fputs("usage: 00_quickstart [layer.npy | --rows M --cols K] [--zeros PERCENT] [--n TOKENS] [--bf16]\n",
                  stderr);
            exit(1);
        }
    }
    return o;
}

int main(int argc, char **argv)
{
    options        o = parse(argc, argv);
    const char    *gpu = find_gpu();
    const size_t   side = gpu ? 4096 : 2048; /* of the built-in layer; a CPU should not take long either */
    uint16_t      *dense, *X, *Y;
    spinfer_matrix W;
    spinfer_sizes  sizes;
    double         weights, bytes, us;
    int            ok;

    if (!o.rows) o.rows = side;
    if (!o.cols) o.cols = side;
    dense = make_layer(&o);
    weights = (double)o.rows * (double)o.cols;
    CHECK_SPINFER(spinfer_encode_sizes(dense, o.rows, o.cols, o.cols, &sizes));
    bytes = (double)(sizes.offsets_bytes + sizes.data_bytes);
    W = encode_matrix(dense, o.rows, o.cols, o.dtype);
    printf("layer      %zu x %zu, %.1f %% zeros, %s\n", o.rows, o.cols, 100 * (1 - (double)sizes.nnz / weights),
           o.dtype == SPINFER_FP16 ? "fp16" : "bf16");
    printf("dense      %.2f MB\n", 2 * weights * 1e-6);
    printf("encoded    %.2f MB   %.2fx %s, %.2f bits per weight\n", bytes * 1e-6,
           bytes < 2 * weights ? 2 * weights / bytes : bytes / (2 * weights),
           bytes < 2 * weights ? "smaller" : "larger", 8 * bytes / weights);

    X = (uint16_t *)allocate(o.n * o.cols * sizeof *X); /* token t: K values from X + t * K */
    Y = (uint16_t *)allocate(o.n * o.rows * sizeof *Y); /* token t: M results from Y + t * M */
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
    return ok ? 0 : 1;
}
