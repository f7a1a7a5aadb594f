/* common.h - what examples, tests and the bench share: checks, random numbers, pruned layers. C99, CUDA C and C++.
 *
 * Programs exit with 0 when all is right, 1 when something is wrong, and SKIPPED when this machine lacks a GPU. */
#ifndef SPINFER_EXAMPLES_COMMON_H
#define SPINFER_EXAMPLES_COMMON_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "spinfer_encode.h"

enum { SKIPPED = 77 };

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);                                  \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

#define CHECK_SPINFER(call)                                                                                            \
    do {                                                                                                               \
        const spinfer_status status_ = (call);                                                                         \
        if (status_ != SPINFER_OK) {                                                                                   \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, spinfer_status_string(status_));             \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

#ifdef __CUDACC__
#define CHECK_CUDA(call)                                                                                               \
    do {                                                                                                               \
        const cudaError_t error_ = (call);                                                                             \
        if (error_ != cudaSuccess) {                                                                                   \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error_));                 \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)
#endif

/* Allocates or exits. 16-byte aligned, as malloc() is on 64-bit systems, so that encoded data may live there. Free with
 * free(). */
static inline void *allocate(size_t bytes)
{
    void *memory = malloc(bytes ? bytes : 1);
    if (!memory) {
        fprintf(stderr, "out of memory (%zu bytes)\n", bytes);
        exit(1);
    }
    CHECK((uintptr_t)memory % 16 == 0);
    return memory;
}

/* splitmix64: 64 random bits from a counter, so that every element can be drawn on its own, in any order. */
static inline uint64_t random_bits(uint64_t seed, uint64_t index)
{
    uint64_t z = seed * 0xd1342543de82ef95u + (index + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Uniform in [0, 1). */
static inline double random_unit(uint64_t seed, uint64_t index)
{
    return (double)(random_bits(seed, index) >> 11) * 0x1p-53;
}

/* Roughly normal, mean 0, variance 1: the sum of four uniforms. */
static inline double random_normal(uint64_t seed, uint64_t index)
{
    const uint64_t bits = random_bits(seed, index);
    const double   sum = (double)(bits & 0xffff) + (double)(bits >> 16 & 0xffff) + (double)(bits >> 32 & 0xffff) +
                       (double)(bits >> 48);
    return (sum / 65536.0 - 2.0) * 1.7320508075688772;
}

/* Normal values with the deviation scale, rounded to the dtype. Never zero. */
static inline void fill_normal(uint16_t *values, size_t count, double scale, spinfer_dtype dtype, uint64_t seed)
{
    long long i;
#ifdef _OPENMP
#pragma omp parallel for
#endif
    for (i = 0; i < (long long)count; i++) {
        const uint16_t bits = spinfer_from_float((float)(scale * random_normal(seed, (uint64_t)i)), dtype);
        values[i] = (bits & 0x7fff) ? bits : spinfer_from_float((float)scale, dtype);
    }
}

/* Sets each weight of [rows, cols] to +0 with the given probability, independently (iid). */
static inline void prune_iid(uint16_t *dense, size_t rows, size_t cols, double zeros, uint64_t seed)
{
    long long i;
#ifdef _OPENMP
#pragma omp parallel for
#endif
    for (i = 0; i < (long long)(rows * cols); i++)
        if (random_unit(seed, (uint64_t)i) < zeros) dense[i] = 0;
}

/* Prunes every row to the given share of zeros: the smallest magnitudes go. Without their sign bit, 16-bit floats sort
 * like integers, so the threshold is found bit by bit. */
static inline void prune_by_magnitude(uint16_t *dense, size_t rows, size_t cols, double zeros)
{
    const size_t remove = (size_t)floor(zeros * (double)cols + 0.5);
    size_t       row, col;
    for (row = 0; row < rows; row++) {
        uint16_t *line = dense + row * cols;
        unsigned  threshold = 0, bit; /* becomes the largest t for which at most `remove` magnitudes are below t */
        size_t    below, gone = 0;
        for (bit = 0x4000; bit; bit >>= 1) {
            for (col = 0, below = 0; col < cols; col++) below += (line[col] & 0x7fffu) < threshold + bit;
            if (below <= remove) threshold += bit;
        }
        for (col = 0; col < cols; col++)
            if ((line[col] & 0x7fffu) < threshold) line[col] = 0, gone++;
        for (col = 0; col < cols && gone < remove; col++) /* ties: from the left */
            if ((line[col] & 0x7fffu) == threshold) line[col] = 0, gone++;
    }
}

/* Sets the `remove` weights of a row with the smallest score |weight| * heavy[col] to +0. scratch: [2 * cols]. */
static inline void prune_row_by_score(uint16_t *line, size_t cols, size_t remove, spinfer_dtype dtype, uint64_t seed,
                             const double *heavy, double *scratch)
{
    double *score = scratch, *sorted = scratch + cols;
    size_t  col, low = 0, high = cols, gone = 0;
    double  threshold;
    for (col = 0; col < cols; col++)
        score[col] = sorted[col] = fabs((double)spinfer_to_float(line[col], dtype)) * heavy[col];
    while (low + 1 < high) { /* quickselect: afterwards sorted[0 .. remove - 1] are the smallest */
        const double pivot = sorted[low + (size_t)(random_bits(seed, low + high) % (high - low))];
        size_t       below = low, equal = low, above = high;
        while (equal < above) {
            const double s = sorted[equal];
            if (s < pivot) {
                sorted[equal++] = sorted[below];
                sorted[below++] = s;
            } else if (s > pivot) {
                sorted[equal] = sorted[--above];
                sorted[above] = s;
            } else {
                equal++;
            }
        }
        if (remove < below) {
            high = below;
        } else if (remove >= above) {
            low = above;
        } else {
            break;
        }
    }
    threshold = remove < cols ? sorted[remove] : INFINITY;
    for (col = 0; col < cols && gone < remove; col++)
        if (score[col] < threshold) line[col] = 0, gone++;
    for (col = 0; col < cols && gone < remove; col++) /* ties: from the left */
        if (line[col] && score[col] == threshold) line[col] = 0, gone++;
}

/* Prunes as Wanda does: in every row exactly round(zeros * cols) weights go, those with the smallest |weight| * norm of
 * their input column. A few columns are outliers whose input is far larger, and they stay nearly whole ("heavy"). */
static inline void prune_wanda_like(uint16_t *dense, size_t rows, size_t cols, double zeros, spinfer_dtype dtype,
                                    uint64_t seed)
{
    const size_t remove = (size_t)floor(zeros * (double)cols + 0.5);
    double      *heavy = (double *)allocate(cols * sizeof *heavy);
    size_t       col;
    for (col = 0; col < cols; col++)
        heavy[col] = random_unit(seed ^ 0x5eed, col) < 0.01 ? 20.0 : exp(0.35 * random_normal(seed, col));
#ifdef _OPENMP
#pragma omp parallel
#endif
    {
        double   *scratch = (double *)allocate(2 * cols * sizeof *scratch); /* one for a thread: rows are many */
        long long row;
#ifdef _OPENMP
#pragma omp for
#endif
        for (row = 0; row < (long long)rows; row++)
            prune_row_by_score(dense + (size_t)row * cols, cols, remove, dtype, seed, heavy, scratch);
        free(scratch);
    }
    free(heavy);
}

/* Encodes into fresh host memory or exits. Free with free_matrix(). */
static inline spinfer_matrix encode_matrix(const uint16_t *dense, size_t rows, size_t cols, spinfer_dtype dtype)
{
    spinfer_sizes  sizes;
    spinfer_matrix W;
    uint32_t      *offsets;
    void          *data;
    CHECK_SPINFER(spinfer_encode_sizes(dense, rows, cols, cols, &sizes));
    offsets = (uint32_t *)allocate((size_t)sizes.offsets_bytes);
    data = allocate((size_t)sizes.data_bytes);
    CHECK_SPINFER(spinfer_encode(dense, rows, cols, cols, dtype, offsets, sizes.offsets_bytes, data, sizes.data_bytes,
                                 &W));
    return W;
}

/* What a weight with a random mask would be like once it is encoded, for plans and estimates: no arrays, which they do
 * not read. Padding: 7 bytes in the average record. Values of the largest: four standard deviations above the mean. */
static inline spinfer_matrix imagine_matrix(size_t rows, size_t cols, double density, spinfer_dtype dtype)
{
    const double   all = SPINFER_GROUP_ELEMENTS, most = all * density + 4 * sqrt(all * density * (1 - density));
    const double   largest = SPINFER_RECORD_VALUES + 2 * (most < all ? most : all);
    spinfer_matrix W;
    double         groups;
    memset(&W, 0, sizeof W);
    W.offsets = (const uint32_t *)128;
    W.data = (const void *)128;
    W.rows = (uint32_t)rows;
    W.cols = (uint32_t)cols;
    W.group_ld = spinfer_col_groups(W.cols);
    W.max_record = (uint32_t)ceil(largest / 16) * 16;
    groups = (double)spinfer_row_groups(W.rows) * W.group_ld;
    W.data_bytes = (uint64_t)(groups * (SPINFER_RECORD_VALUES + 7) + 2 * density * (double)rows * (double)cols);
    W.dtype = (uint32_t)dtype;
    W.format = SPINFER_FORMAT_VERSION;
    return W;
}

static inline void free_matrix(spinfer_matrix *W)
{
    free((void *)W->offsets);
    free((void *)W->data);
    W->offsets = NULL;
    W->data = NULL;
}

#endif /* SPINFER_EXAMPLES_COMMON_H */
