/* convert_weight.h - the steps of convert for one weight: read, prune, count, encode; and the progress line. */
#ifndef SPINFER_EXAMPLES_CONVERT_WEIGHT_H
#define SPINFER_EXAMPLES_CONVERT_WEIGHT_H

#include <time.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "convert_guard.h"
#include "convert_model.h"
#include "prune.h"

/* What became of an item. */
typedef struct outcome {
    int            is_encoded; /* it is one of those that are TCA-BME or a bitmask in the output */
    int            is_pruned;
    spinfer_sizes  sizes;   /* encoded, of any weight that was looked at                                      */
    spinfer_matrix W;       /* for TCA-BME: its offsets wait here for their place in the file; W.data is gone */
    uint32_t      *offsets; /* W.offsets, if this owns them                                                   */
} outcome;

/* Memory for one weight after another: fresh pages from the system cost more than encoding into them. */
typedef struct buffer {
    void  *memory;
    size_t bytes;
} buffer;

typedef struct converter {
    const options     *o;
    checkpoint         in;
    outcome           *outcomes; /* [in.count] */
    safetensors_writer out;
    safetensors_error  error;
    buffer             dense, data; /* of the weight under way */
    double             begin, seconds;
    uint64_t           bytes, bytes_done;
    int                is_shown; /* a progress line stands on the terminal */
} converter;

static inline double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- Progress -------------------------------------------------------------------------------- */

/* Threads that start and wait for each other cost more than a small weight. */
static inline void choose_threads(const item *it)
{
#ifdef _OPENMP
    static int all;
    if (!all) all = omp_get_max_threads();
    omp_set_num_threads((uint64_t)it->rows * it->cols < (uint64_t)1 << 20 ? 1 : all);
#else
    (void)it;
#endif
}

static inline void start_item(converter *cv, size_t number)
{
    const item  *it = &cv->in.items[number];
    const double time = seconds() - cv->begin, gigabytes = 1e-9 * (double)cv->bytes_done;
    choose_threads(it);
    printable(it->name, current_item, sizeof current_item);
    if (cv->o->quiet || !isatty(STDERR_FILENO)) return;
    fprintf(stderr, "\r\033[K%3.0f %%  %.2f of %.2f GB  %.2f GB/s  %.60s",
            cv->bytes ? 100 * (double)cv->bytes_done / (double)cv->bytes : 0, gigabytes, 1e-9 * (double)cv->bytes,
            time > 0 ? gigabytes / time : 0, current_item);
    cv->is_shown = 1;
}

static inline void end_progress(converter *cv)
{
    if (cv->is_shown) fputs("\r\033[K", stderr);
    cv->is_shown = 0;
}

/* ---- One weight: read, prune, count, encode --------------------------------------------------- */

static inline void *reserve(buffer *b, size_t bytes)
{
    if (bytes > b->bytes) {
        free(b->memory);
        b->memory = allocate(bytes);
        b->bytes = bytes;
    }
    return b->memory;
}

static inline void release(buffer *b)
{
    free(b->memory);
    b->memory = NULL;
    b->bytes = 0;
}

static inline double zeros_share(const item *it, const outcome *r)
{
    return 1 - (double)r->sizes.nnz / ((double)it->rows * (double)it->cols);
}

static inline double encoded_bytes(const outcome *r) { return (double)(r->sizes.offsets_bytes + r->sizes.data_bytes); }

/* Rounding to fp16 may have made a large fp32 weight infinite. */
static inline int check_range(converter *cv, const item *it, const uint16_t *dense)
{
    const long long count = (long long)it->rows * it->cols;
    long long       i, bad = 0;
    char            what[160];
    if (!it->is_fp32 || it->dtype != SPINFER_FP16) return 1;
#ifdef _OPENMP
#pragma omp parallel for reduction(+ : bad)
#endif
    for (i = 0; i < count; i++) bad += (dense[i] & 0x7fff) == 0x7c00;
    if (!bad) return 1;
    snprintf(what, sizeof what, "%lld fp32 weights are infinite or too large for fp16: use --dtype bf16 or --exclude",
             bad);
    return fail(&cv->error, it->name, what);
}

/* The dense values of a weight that is not encoded; NULL after an error. */
static inline uint16_t *load_dense(converter *cv, source *s, pruning prune)
{
    const item  *it = s->it;
    const size_t count = (size_t)it->rows * it->cols;
    uint16_t    *dense = s->dense;
    if (!dense) {
        dense = (uint16_t *)reserve(&cv->dense, 2 * count);
        if (!read_rows(s, 0, it->rows, dense, &cv->error)) return NULL;
    }
    if (!check_range(cv, it, dense)) return NULL;
    if (prune == PRUNE_TENSOR) prune_tensor(dense, count, cv->o->sparsity);
    if (prune == PRUNE_ROWS) prune_rows(dense, it->rows, it->cols, cv->o->sparsity);
    return dense;
}

/* Counts the zeros, and decides whether the weight is to be encoded: fills r->sizes, is_encoded, is_pruned. Its dense
 * values are in *dense then, if it is not encoded already. */
static inline int measure(converter *cv, source *s, outcome *r, uint16_t **dense)
{
    const item    *it = s->it;
    spinfer_status status;
    if (s->W.data) {
        status = bitmask_export_sizes(&s->W, &r->sizes.nnz);
        r->sizes.offsets_bytes = spinfer_offsets_bytes(it->rows, it->cols);
        r->sizes.data_bytes = s->W.data_bytes;
        r->is_encoded = 1;
    } else {
        *dense = load_dense(cv, s, cv->o->prune);
        if (!*dense) return 0;
        status = spinfer_encode_sizes(*dense, it->rows, it->cols, it->cols, &r->sizes);
        r->is_encoded = zeros_share(it, r) >= cv->o->threshold;
        r->is_pruned = r->is_encoded && cv->o->prune != PRUNE_NOTHING;
    }
    return status == SPINFER_OK || fail(&cv->error, it->name, spinfer_status_string(status));
}

/* The dense values as r->W, whose offsets are r->offsets and whose data is in cv->data. */
static inline int encode(converter *cv, const item *it, const uint16_t *dense, outcome *r)
{
    void          *data = reserve(&cv->data, (size_t)r->sizes.data_bytes);
    spinfer_status status;
    r->offsets = (uint32_t *)allocate((size_t)r->sizes.offsets_bytes);
    status = spinfer_encode(dense, it->rows, it->cols, it->cols, it->dtype, r->offsets, r->sizes.offsets_bytes, data,
                            r->sizes.data_bytes, &r->W);
    return status == SPINFER_OK || fail(&cv->error, it->name, spinfer_status_string(status));
}

#endif /* SPINFER_EXAMPLES_CONVERT_WEIGHT_H */
