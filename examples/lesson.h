/* lesson.h - what the lessons on the GPU share: the way to the GPU, the layer, the check, the clock. CUDA C.
 *
 * Lessons 05 to 09 multiply the same layer, 8192 x 8192 with 50 % zeros for 16 tokens if nobody says otherwise. Weights
 * and activations are integers from -4 to 4. All their sums are exact in fp32, whatever the order, so a result is right
 * or wrong, and no lesson needs a tolerance. */
#ifndef SPINFER_EXAMPLES_LESSON_H
#define SPINFER_EXAMPLES_LESSON_H

#include "common.h"
#include "spinfer.cuh"

enum { TOKENS = 16, MAX_COPIES = 64, RUNS = 11 };

typedef struct layer {
    spinfer_matrix host;               /* [rows, cols], fp16                                      */
    spinfer_matrix copies[MAX_COPIES]; /* the same on the GPU                                     */
    int            count;
    uint16_t      *x;        /* [TOKENS, cols] on the host                                        */
    uint16_t      *X;        /* [TOKENS, cols] on the GPU: token t starts at X + t * cols         */
    float         *Y;        /* [TOKENS, rows] on the GPU: the results, before they are rounded   */
    uint16_t      *expected; /* [TOKENS, rows] on the host, rounded to fp16                       */
} layer;

/* A kernel launch: Y = W X. */
typedef void (*launch)(spinfer_matrix W, const uint16_t *X, float *Y);

/* The sums of 16 rows and 16 tokens into Y, whose element for the first row and token is at y. Scope: warp. */
static inline __device__ void store_y(const spinfer_frag_c *sums, float *y, size_t ldy, int lane)
{
    for (int half = 0; half < 2; half++) /* tokens 0..7 and 8..15 */
        for (int r = 0; r < 4; r++)
            y[(size_t)(8 * half + spinfer_frag_c_token(lane, r)) * ldy + (size_t)spinfer_frag_c_row(lane, r)] =
                sums[half].r[r];
}

static inline int device_attribute(enum cudaDeviceAttr which)
{
    int value;
    CHECK_CUDA(cudaDeviceGetAttribute(&value, which, 0));
    return value;
}

/* Without a GPU of sm_80 or newer a lesson ends here, as skipped. */
static inline void require_gpu(void)
{
    int               count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver) {
        printf("skipped: %s\n", cudaGetErrorString(error));
        exit(SKIPPED);
    }
    CHECK_CUDA(error);
    if (device_attribute(cudaDevAttrComputeCapabilityMajor) < 8) {
        printf("skipped: the GPU is older than sm_80\n");
        exit(SKIPPED);
    }
}

static inline void *copy_to_gpu(const void *host, size_t bytes)
{
    void *device;
    CHECK_CUDA(cudaMalloc(&device, bytes));
    CHECK_CUDA(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice));
    return device;
}

/* The two arrays go to the GPU as they are. */
static inline spinfer_matrix matrix_to_gpu(const spinfer_matrix *host)
{
    spinfer_matrix device = *host;
    device.offsets =
        (const uint32_t *)copy_to_gpu(host->offsets, (size_t)spinfer_offsets_bytes(host->rows, host->cols));
    device.data = copy_to_gpu(host->data, (size_t)host->data_bytes);
    return device;
}

static inline void matrix_free_on_gpu(spinfer_matrix *device)
{
    CHECK_CUDA(cudaFree((void *)device->offsets));
    CHECK_CUDA(cudaFree((void *)device->data));
}

/* Integers from -4 to 4 as fp16; each is 0 with the given probability, and by the draw. */
static inline void fill_integers(uint16_t *values, size_t count, double zeros, int zero_too, uint64_t seed)
{
    uint16_t  fp16[9];
    long long i;
    for (i = 0; i < 9; i++) fp16[i] = spinfer_from_float((float)(i - 4), SPINFER_FP16);
#ifdef _OPENMP
#pragma omp parallel for
#endif
    for (i = 0; i < (long long)count; i++) {
        const uint64_t bits = random_bits(seed, (uint64_t)i);
        const int      value = zero_too ? (int)(bits % 9) : (int)(bits % 4) + (bits & 4 ? 5 : 0); /* 0..3 or 5..8 */
        values[i] = (double)(bits >> 11) * 0x1p-53 < zeros ? 0 : fp16[value];
    }
}

/* The layer of the command line: [rows cols [percent of zeros]]. SPINFER_TEST_SMALL=1 asks for a small one.
 * integers: 1 as said above, 0 for normal values, of which nothing is expected but that they are multiplied. */
static inline layer layer_create_of(int argc, char **argv, int integers)
{
    const char  *small = getenv("SPINFER_TEST_SMALL");
    const size_t side = small && strcmp(small, "1") == 0 ? 1152 : 8192;
    const size_t rows = argc > 2 ? (size_t)atoi(argv[1]) : side, cols = argc > 2 ? (size_t)atoi(argv[2]) : side;
    const double zeros = argc > 3 ? atof(argv[3]) / 100 : 0.5;
    uint16_t    *dense;
    layer        l;
    double       l2_bytes;
    if (rows < 64 || cols < 64 || rows % 64 || cols % 64 || rows > 1 << 20 || cols > 1 << 20) {
        fprintf(stderr, "usage: %s [rows cols [percent of zeros]], rows and cols multiples of 64\n", argv[0]);
        exit(1);
    }
    dense = (uint16_t *)allocate(rows * cols * sizeof *dense);
    l.x = (uint16_t *)allocate(TOKENS * cols * sizeof *l.x);
    if (integers) {
        fill_integers(dense, rows * cols, zeros, 0, 1);
        fill_integers(l.x, TOKENS * cols, 0, 1, 2);
    } else {
        fill_normal(dense, rows * cols, 0.02, SPINFER_FP16, 1);
        prune_iid(dense, rows, cols, zeros, 2);
        fill_normal(l.x, TOKENS * cols, 1.0, SPINFER_FP16, 3);
    }
    l.host = encode_matrix(dense, rows, cols, SPINFER_FP16);
    l.expected = (uint16_t *)allocate(TOKENS * rows * sizeof *l.expected);
    CHECK_SPINFER(spinfer_spmm_host(1.0f, &l.host, l.x, cols, 0.0f, l.expected, rows, TOKENS));

    /* In a model, other layers push this one out of the L2 cache between two calls. To see the same, launches take
     * turns with copies, together more than twice the cache. */
    l2_bytes = device_attribute(cudaDevAttrL2CacheSize);
    for (l.count = 0; l.count < (small ? 2 : MAX_COPIES) && l.count * (double)l.host.data_bytes <= 2 * l2_bytes;
         l.count++)
        l.copies[l.count] = matrix_to_gpu(&l.host);
    l.X = (uint16_t *)copy_to_gpu(l.x, TOKENS * cols * sizeof *l.x);
    CHECK_CUDA(cudaMalloc((void **)&l.Y, TOKENS * rows * sizeof *l.Y));
    printf("layer %zu x %zu, %s, %.0f %% zeros, %d tokens: %.1f MB encoded, %.1f MB dense\n", rows, cols,
           integers ? "integers" : "normal values", 100 * zeros, (int)TOKENS, (double)l.host.data_bytes * 1e-6,
           (double)(2 * rows * cols) * 1e-6);
    free(dense);
    return l;
}

static inline layer layer_create(int argc, char **argv) { return layer_create_of(argc, argv, 1); }

static inline void layer_free(layer *l)
{
    for (int i = 0; i < l->count; i++) matrix_free_on_gpu(&l->copies[i]);
    CHECK_CUDA(cudaFree(l->X));
    CHECK_CUDA(cudaFree(l->Y));
    free(l->x);
    free(l->expected);
    free_matrix(&l->host);
}

/* Multiplies once and exits with 1 unless every result of the first tokens, rounded to fp16, is that of
 * spinfer_spmm_host(). */
static inline void layer_check_tokens(const layer *l, launch multiply, size_t tokens, const char *what)
{
    const size_t rows = l->host.rows, bytes = tokens * rows * sizeof(float);
    float       *y = (float *)allocate(bytes);
    CHECK_CUDA(cudaMemset(l->Y, 0xff, bytes)); /* NaN: a result that nobody writes is found */
    multiply(l->copies[0], l->X, l->Y);
    CHECK_CUDA(cudaGetLastError());
    CHECK_CUDA(cudaMemcpy(y, l->Y, bytes, cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < tokens * rows; i++) {
        const float is = spinfer_to_float(spinfer_from_float(y[i], SPINFER_FP16), SPINFER_FP16);
        const float should_be = spinfer_to_float(l->expected[i], SPINFER_FP16);
        if (is != should_be) {
            fprintf(stderr, "%s: row %zu, token %zu: %g instead of %g\n", what, i % rows, i / rows, (double)is,
                    (double)should_be);
            exit(1);
        }
    }
    printf("%s: %zu results, all exact\n", what, tokens * rows);
    free(y);
}

static inline void layer_check(const layer *l, launch f, const char *what) { layer_check_tokens(l, f, TOKENS, what); }

static inline int compare_floats(const void *left, const void *right)
{
    const float a = *(const float *)left, b = *(const float *)right;
    return (a > b) - (a < b);
}

/* Microseconds of a launch: the median of some runs of 20 launches or more. For information, no lesson fails by it. */
static inline double launch_time(const layer *l, launch multiply)
{
    const int   least = getenv("SPINFER_TEST_SMALL") ? 1 : 20; /* a tool that checks the kernel takes its time */
    const int   launches = l->count < least ? least : l->count;
    cudaEvent_t begin, end;
    float       ms[RUNS];
    CHECK_CUDA(cudaEventCreate(&begin));
    CHECK_CUDA(cudaEventCreate(&end));
    for (int run = -1; run < RUNS; run++) { /* run -1 warms up */
        CHECK_CUDA(cudaEventRecord(begin, 0));
        for (int i = 0; i < launches; i++) multiply(l->copies[i % l->count], l->X, l->Y);
        CHECK_CUDA(cudaEventRecord(end, 0));
        CHECK_CUDA(cudaEventSynchronize(end));
        if (run >= 0) CHECK_CUDA(cudaEventElapsedTime(&ms[run], begin, end));
    }
    CHECK_CUDA(cudaGetLastError());
    CHECK_CUDA(cudaEventDestroy(begin));
    CHECK_CUDA(cudaEventDestroy(end));
    qsort(ms, RUNS, sizeof *ms, compare_floats);
    return ms[RUNS / 2] * 1e3 / launches;
}

static inline void layer_time(const layer *l, launch multiply, const char *what)
{
    const double us = launch_time(l, multiply);
    printf("%s: %.1f us, %.2f TB/s\n", what, us, (double)l->host.data_bytes / us * 1e-6);
}

#endif /* SPINFER_EXAMPLES_LESSON_H */
