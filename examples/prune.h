/* prune.h - magnitude pruning with an exact count: the smallest weights of a row, or of a whole tensor, become +0.
 *
 * Without its sign bit a 16-bit float sorts like an integer, so the threshold is found by counting how often each
 * magnitude occurs. Zeros that are there already count as pruned, NaNs go last. Equal magnitudes go in row-major order,
 * so that the result does not depend on threads. */
#ifndef SPINFER_EXAMPLES_PRUNE_H
#define SPINFER_EXAMPLES_PRUNE_H

#include "common.h"

enum {
    PRUNE_MAGNITUDES = 0x8000,
    PRUNE_PIECES = 1024 /* of a tensor, for threads */
};

/* How many of `count` weights a share stands for, rounded to the nearest. */
static inline uint64_t prune_count(uint64_t count, double share)
{
    return (uint64_t)floor(share * (double)count + 0.5);
}

/* What to remove: every magnitude below `magnitude`, and the first `ties` that are equal to it. */
typedef struct prune_threshold {
    uint32_t magnitude;
    uint64_t ties;
} prune_threshold;

/* The threshold that removes exactly `remove` of the weights that were counted: histogram[m] is how many have the
 * magnitude m, bins [0, count). */
static inline prune_threshold prune_find_threshold(const uint64_t *histogram, uint32_t count, uint64_t remove)
{
    prune_threshold t = {0, remove};
    while (t.magnitude < count && t.ties >= histogram[t.magnitude]) t.ties -= histogram[t.magnitude++];
    return t;
}

/* Adds the magnitudes of some weights to histogram [PRUNE_MAGNITUDES]. */
static inline void prune_count_magnitudes(const uint16_t *weights, size_t count, uint64_t *histogram)
{
    size_t i;
    for (i = 0; i < count; i++) histogram[weights[i] & 0x7fffu]++;
}

/* How many weights are as large as the threshold: the ties among them. */
static inline uint64_t prune_count_ties(const uint16_t *weights, size_t count, const prune_threshold *t)
{
    uint64_t ties = 0;
    size_t   i, j;
    for (i = 0; i < count; i += j) { /* short counters, so that compilers vectorise the loop over 16-bit lanes */
        const size_t chunk = count - i < 32768 ? count - i : 32768;
        uint16_t     found = 0;
        for (j = 0; j < chunk; j++) found = (uint16_t)(found + ((weights[i + j] & 0x7fffu) == t->magnitude));
        ties += found;
    }
    return ties;
}

/* Zeroes what lies below the threshold, and the first t->ties of the weights that are equal to it. */
static inline void prune_below(uint16_t *weights, size_t count, const prune_threshold *t)
{
    uint64_t ties = t->ties;
    size_t   i;
    for (i = 0; i < count; i++) weights[i] = (weights[i] & 0x7fffu) < t->magnitude ? 0 : weights[i];
    for (i = 0; i < count && ties; i++) {
        if ((weights[i] & 0x7fffu) != t->magnitude) continue;
        weights[i] = 0;
        ties--;
    }
}

/* Prunes exactly `remove` of the weights of one row. Counts the upper 11 bits, then the lower 4: clearing
 * 32768 counters would cost more than most rows. */
static inline void prune_row(uint16_t *row, size_t cols, uint64_t remove)
{
    uint64_t        upper[2048] = {0}, lower[16] = {0};
    prune_threshold coarse, t;
    size_t          col;
    for (col = 0; col < cols; col++) upper[(row[col] & 0x7fffu) >> 4]++;
    coarse = prune_find_threshold(upper, 2048, remove);
    for (col = 0; col < cols; col++)
        if ((row[col] & 0x7fffu) >> 4 == coarse.magnitude) lower[row[col] & 0xfu]++;
    t = prune_find_threshold(lower, 16, coarse.ties);
    t.magnitude += coarse.magnitude << 4;
    prune_below(row, cols, &t);
}

/* Prunes a share of every row. */
static inline void prune_rows(uint16_t *dense, size_t rows, size_t cols, double share)
{
    const uint64_t remove = prune_count(cols, share);
    long long      row;
#ifdef _OPENMP
#pragma omp parallel for schedule(static)
#endif
    for (row = 0; row < (long long)rows; row++) prune_row(dense + (size_t)row * cols, cols, remove);
}

/* Where piece i of a tensor begins, and how long it is. */
static inline size_t prune_piece(size_t count, int i, size_t *first)
{
    const size_t length = count / PRUNE_PIECES + 1;
    *first = (size_t)i * length < count ? (size_t)i * length : count;
    return count - *first < length ? count - *first : length;
}

/* Prunes a share of all weights: counts their magnitudes, then divides the ties between pieces from first to last. */
static inline void prune_tensor(uint16_t *dense, size_t count, double share)
{
    uint64_t       *histogram = (uint64_t *)allocate(PRUNE_MAGNITUDES * sizeof *histogram), ties[PRUNE_PIECES], left;
    prune_threshold threshold;
    int             i;
    memset(histogram, 0, PRUNE_MAGNITUDES * sizeof *histogram);
#ifdef _OPENMP
#pragma omp parallel
#endif
    {
        uint64_t *own = (uint64_t *)allocate(PRUNE_MAGNITUDES * sizeof *own);
        int       m;
        memset(own, 0, PRUNE_MAGNITUDES * sizeof *own);
#ifdef _OPENMP
#pragma omp for schedule(static) nowait
#endif
        for (i = 0; i < PRUNE_PIECES; i++) {
            size_t       first;
            const size_t length = prune_piece(count, i, &first);
            prune_count_magnitudes(dense + first, length, own);
        }
#ifdef _OPENMP
#pragma omp critical
#endif
        for (m = 0; m < PRUNE_MAGNITUDES; m++) histogram[m] += own[m];
        free(own);
    }
    threshold = prune_find_threshold(histogram, PRUNE_MAGNITUDES, prune_count(count, share));
    free(histogram);
#ifdef _OPENMP
#pragma omp parallel for schedule(static)
#endif
    for (i = 0; i < PRUNE_PIECES; i++) {
        size_t       first;
        const size_t length = prune_piece(count, i, &first);
        ties[i] = prune_count_ties(dense + first, length, &threshold);
    }
    left = threshold.ties;
    for (i = 0; i < PRUNE_PIECES; i++) {
        ties[i] = ties[i] < left ? ties[i] : left;
        left -= ties[i];
    }
#ifdef _OPENMP
#pragma omp parallel for schedule(static)
#endif
    for (i = 0; i < PRUNE_PIECES; i++) {
        size_t          first;
        const size_t    length = prune_piece(count, i, &first);
        prune_threshold t = threshold;
        t.ties = ties[i];
        prune_below(dense + first, length, &t);
    }
}

#endif /* SPINFER_EXAMPLES_PRUNE_H */
