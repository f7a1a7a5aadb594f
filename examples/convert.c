/* convert.c - a pruned checkpoint to TCA-BME and back: convert --help. Also a worked example of the host API.
 *
 * One weight at a time: read it as 16-bit values, prune it if asked to, count (spinfer_encode_sizes), encode and write it
 * strip by strip. All of these steps run on all cores. What takes memory is the dense weight and a little; less than twice
 * the largest tensor in any case. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif

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

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- Progress -------------------------------------------------------------------------------- */

/* Threads that start and wait for each other cost more than a small weight. */
static void choose_threads(const item *it)
{
#ifdef _OPENMP
    static int all;
    if (!all) all = omp_get_max_threads();
    omp_set_num_threads((uint64_t)it->rows * it->cols < (uint64_t)1 << 20 ? 1 : all);
#else
    (void)it;
#endif
}

static void start_item(converter *cv, size_t number)
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

static void end_progress(converter *cv)
{
    if (cv->is_shown) fputs("\r\033[K", stderr);
    cv->is_shown = 0;
}

/* ---- One weight: read, prune, count, encode --------------------------------------------------- */

static int is_npy(const char *path) { return ends_in(path, ".npy"); }

static void *reserve(buffer *b, size_t bytes)
{
    if (bytes > b->bytes) {
        free(b->memory);
        b->memory = allocate(bytes);
        b->bytes = bytes;
    }
    return b->memory;
}

static double zeros_share(const item *it, const outcome *r)
{
    return 1 - (double)r->sizes.nnz / ((double)it->rows * (double)it->cols);
}

static double encoded_bytes(const outcome *r) { return (double)(r->sizes.offsets_bytes + r->sizes.data_bytes); }

/* Rounding to fp16 may have made a large fp32 weight infinite. */
static int check_range(converter *cv, const item *it, const uint16_t *dense)
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
static uint16_t *load_dense(converter *cv, source *s, pruning prune)
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
static int measure(converter *cv, source *s, outcome *r, uint16_t **dense)
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
static int encode(converter *cv, const item *it, const uint16_t *dense, outcome *r)
{
    void          *data = reserve(&cv->data, (size_t)r->sizes.data_bytes);
    spinfer_status status;
    r->offsets = (uint32_t *)allocate((size_t)r->sizes.offsets_bytes);
    status = spinfer_encode(dense, it->rows, it->cols, it->cols, it->dtype, r->offsets, r->sizes.offsets_bytes, data,
                            r->sizes.data_bytes, &r->W);
    return status == SPINFER_OK || fail(&cv->error, it->name, spinfer_status_string(status));
}

/* ---- Write ----------------------------------------------------------------------------------- */

/* Tensors of wide elements come first, so that every tensor is aligned; the records of TCA-BME before all. */
enum { PASS_ENCODE, PASS_8_BYTES, PASS_4_BYTES, PASS_2_BYTES, PASS_1_BYTE, PASSES };

static int pass_of_width(uint32_t bits)
{
    return bits == 64 ? PASS_8_BYTES : bits == 32 ? PASS_4_BYTES : bits == 16 ? PASS_2_BYTES : PASS_1_BYTE;
}

/* compressed-tensors names weights only: "x.weight" is stored as "x.bitmask" and so on. */
static int can_be_bitmask(const item *it) { return ends_in(it->name, ".weight"); }

static char *bitmask_base(const item *it)
{
    return copy_text(it->name, strlen(it->name) - (can_be_bitmask(it) ? strlen(".weight") : 0));
}

static int is_to_encode(const converter *cv, const item *it)
{
    return is_weight(it) && (cv->o->to == TO_TCA_BME || (cv->o->to == TO_BITMASK && can_be_bitmask(it)));
}

static uint64_t header_bytes(const converter *cv)
{
    uint64_t bytes = safetensors_metadata_bytes(TCA_BME_METADATA_KEY, TCA_BME_METADATA_VALUE);
    size_t   i;
    for (i = 0; i < cv->in.model.file_count; i++) {
        const char *key;
        json_t     *value, *metadata = safetensors_metadata(&cv->in.model, i);
        json_object_foreach(metadata, key, value) bytes += safetensors_metadata_bytes(key, json_string_value(value));
    }
    for (i = 0; i < cv->in.count; i++) {
        const item *it = &cv->in.items[i];
        bytes += safetensors_entry_bytes(it->name);
        if (is_to_encode(cv, it)) bytes += tca_bme_entry_bytes(it->name) + bitmask_entry_bytes(it->name);
    }
    return bytes;
}

/* The metadata of the input, of all shards together; the first of equal keys counts. */
static int write_metadata(converter *cv)
{
    json_t *seen = json_object();
    size_t  i;
    int     ok = seen != NULL;
    if (ok && cv->o->to == TO_TCA_BME) {
        ok = safetensors_add_metadata(&cv->out, TCA_BME_METADATA_KEY, TCA_BME_METADATA_VALUE, &cv->error);
    }
    json_object_set_new(seen, TCA_BME_METADATA_KEY, json_null());
    for (i = 0; ok && i < cv->in.model.file_count; i++) {
        const char *key;
        json_t     *value, *metadata = safetensors_metadata(&cv->in.model, i);
        json_object_foreach(metadata, key, value)
        {
            if (!ok || json_object_get(seen, key)) continue;
            ok = json_object_set(seen, key, value) == 0 &&
                 safetensors_add_metadata(&cv->out, key, json_string_value(value), &cv->error);
        }
    }
    json_decref(seen);
    return ok;
}

static int copy_tensor(converter *cv, const safetensors_tensor *t)
{
    enum { PIECE = 16 << 20 };
    const size_t size = t->bytes < PIECE ? (size_t)t->bytes : PIECE;
    void        *memory = allocate(size);
    uint64_t     first;
    int          ok = safetensors_begin(&cv->out, t->name, t->dtype, t->rank, t->shape, &cv->error);
    for (first = 0; ok && first < t->bytes; first += size) {
        const uint64_t bytes = t->bytes - first < size ? t->bytes - first : size;
        ok = safetensors_read(&cv->in.model, t, first, bytes, memory, &cv->error) &&
             safetensors_append(&cv->out, memory, bytes, &cv->error);
    }
    free(memory);
    return ok;
}

/* A weight or vector as a dense 16-bit tensor. */
static int write_dense(converter *cv, source *s)
{
    const item     *it = s->it;
    const size_t    strip = strip_rows(it, (size_t)8 << 20);
    const uint16_t *dense = NULL;
    uint16_t       *rows = NULL;
    uint64_t        shape[2];
    size_t          row;
    int             ok;
    shape[0] = it->kind == ITEM_VECTOR ? it->cols : it->rows;
    shape[1] = it->cols;
    if (!s->W.data && it->kind != ITEM_VECTOR) {
        dense = load_dense(cv, s, cv->o->to == TO_DENSE ? cv->o->prune : PRUNE_NOTHING);
        if (!dense) return 0;
    }
    if (!dense) rows = (uint16_t *)allocate(2 * (strip < it->rows ? strip : it->rows) * (size_t)it->cols);
    ok = safetensors_begin(&cv->out, it->name, file_dtype(it), it->kind == ITEM_VECTOR ? 1 : 2, shape, &cv->error);
    for (row = 0; ok && row < it->rows; row += strip) {
        const size_t    count = it->rows - row < strip ? it->rows - row : strip;
        const uint16_t *from = dense ? dense + row * it->cols : rows;
        ok = (dense || read_rows(s, row, count, rows, &cv->error)) &&
             safetensors_append(&cv->out, from, 2 * (uint64_t)count * it->cols, &cv->error);
    }
    free(rows);
    return ok;
}

/* Encodes rows first .. first + count - 1 into memory of this thread. */
static spinfer_status encode_strip(const item *it, const uint16_t *dense, size_t first, size_t count, buffer *offsets,
                                   buffer *data, spinfer_matrix *W)
{
    const uint16_t *rows = dense + first * it->cols;
    spinfer_sizes   sizes;
    spinfer_status  status = spinfer_encode_sizes(rows, count, it->cols, it->cols, &sizes);
    if (status != SPINFER_OK) return status;
    return spinfer_encode(rows, count, it->cols, it->cols, it->dtype,
                          (uint32_t *)reserve(offsets, (size_t)sizes.offsets_bytes), sizes.offsets_bytes,
                          reserve(data, (size_t)sizes.data_bytes), sizes.data_bytes, W);
}

/* Appends the records of a strip to the file, and where they begin to `offsets`, in units of 16 bytes. */
static int append_strip(converter *cv, const spinfer_matrix *strip, size_t first, uint32_t *offsets)
{
    const size_t   groups = (size_t)spinfer_row_groups(strip->rows) * strip->group_ld;
    const size_t   at = first / SPINFER_GROUP_ROWS * strip->group_ld;
    const uint32_t begin = offsets[at];
    size_t         i;
    for (i = 1; i <= groups; i++) offsets[at + i] = begin + strip->offsets[i];
    return safetensors_append(&cv->out, strip->data, 16 * (uint64_t)strip->offsets[groups], &cv->error);
}

/* Encodes strip by strip and writes the records at once: while one thread writes, the others encode, and no more than a
 * strip for each thread takes memory. The bytes are those of a single spinfer_encode(). */
static int write_records(converter *cv, const item *it, const uint16_t *dense, outcome *r)
{
    static const char zeros[128] = {0};
    const size_t      step = strip_rows(it, (size_t)1 << 18);
    const long long   strips = (long long)((it->rows + step - 1) / step);
    uint32_t         *offsets = (uint32_t *)allocate((size_t)r->sizes.offsets_bytes);
    char             *name = (char *)allocate(strlen(it->name) + 32);
    spinfer_matrix    W = {NULL, NULL, 0, 0, 0, 0, 0, 0, SPINFER_FORMAT_VERSION};
    long long         strip;
    int               ok;
    sprintf(name, "%s.tca_bme_data", it->name);
    ok = safetensors_begin(&cv->out, name, SAFETENSORS_U8, 1, &r->sizes.data_bytes, &cv->error);
    offsets[0] = 0;
#ifdef _OPENMP
#pragma omp parallel
#endif
    {
        buffer strip_offsets = {NULL, 0}, strip_data = {NULL, 0};
#ifdef _OPENMP
#pragma omp for ordered schedule(dynamic, 1)
#endif
        for (strip = 0; strip < strips; strip++) {
            const size_t   first = (size_t)strip * step, count = it->rows - first < step ? it->rows - first : step;
            spinfer_matrix part;
            spinfer_status status = encode_strip(it, dense, first, count, &strip_offsets, &strip_data, &part);
#ifdef _OPENMP
#pragma omp ordered
#endif
            if (ok && status != SPINFER_OK)
                ok = fail(&cv->error, it->name, spinfer_status_string(status));
            else if (ok)
                ok = append_strip(cv, &part, first, offsets);
        }
        free(strip_offsets.memory);
        free(strip_data.memory);
    }
    free(name);
    r->offsets = offsets;
    W.offsets = offsets;
    W.data_bytes = r->sizes.data_bytes;
    W.rows = it->rows;
    W.cols = it->cols;
    W.group_ld = spinfer_col_groups(it->cols);
    W.max_record = r->sizes.max_record;
    W.dtype = it->dtype;
    r->W = W;
    return ok && safetensors_append(&cv->out, zeros, /* to a multiple of 128 bytes */
                                    W.data_bytes - 16 * (uint64_t)offsets[r->sizes.offsets_bytes / 4 - 1], &cv->error);
}

/* The records of a weight, or its bitmask: what comes first in the file. */
static int write_encoded(converter *cv, const item *it, outcome *r)
{
    source    s;
    uint16_t *dense = NULL;
    int       ok = open_source(&s, &cv->in, it, &cv->error) && measure(cv, &s, r, &dense);
    if (ok && r->is_encoded) {
        cv->bytes_done += it->bytes;
        if (cv->o->to == TO_TCA_BME && dense) {
            ok = write_records(cv, it, dense, r);
        } else {
            char *base = bitmask_base(it);
            if (dense)
                ok = encode(cv, it, dense, r);
            else
                r->W = s.W;
            if (cv->o->to == TO_TCA_BME)
                ok = ok && tca_bme_write_data(&cv->out, it->name, &r->W, &cv->error);
            else
                ok = ok && bitmask_write(&cv->out, base, &r->W, &cv->error);
            free(base);
        }
    }
    r->W.data = NULL;
    if (it->kind == ITEM_BITMASK) { /* the offsets have to last */
        r->offsets = (uint32_t *)(uintptr_t)s.W.offsets;
        s.W.offsets = NULL;
    }
    close_source(&s);
    return ok;
}

/* The item's part of this pass. */
static int write_item(converter *cv, const item *it, outcome *r, int pass)
{
    const int rewrites = it->kind == ITEM_VECTOR || (is_weight(it) && it->kind != ITEM_DENSE) ||
                         (it->kind == ITEM_DENSE && cv->o->to == TO_DENSE && cv->o->prune != PRUNE_NOTHING);
    source s;
    int    ok;
    if (pass == PASS_ENCODE) return !is_to_encode(cv, it) || write_encoded(cv, it, r);
    if (r->is_encoded) {
        if (cv->o->to != TO_TCA_BME || pass != PASS_4_BYTES) return 1;
        if (it->kind == ITEM_TCA_BME)
            return copy_tensor(cv, it->tca_bme.offsets) && copy_tensor(cv, it->tca_bme.header);
        return tca_bme_write_offsets(&cv->out, it->name, &r->W, &cv->error);
    }
    if (pass != (rewrites ? PASS_2_BYTES : pass_of_width(safetensors_dtype_bits(it->tensor->dtype)))) return 1;
    cv->bytes_done += it->bytes;
    if (!rewrites) return copy_tensor(cv, it->tensor);
    ok = open_source(&s, &cv->in, it, &cv->error) && write_dense(cv, &s);
    close_source(&s);
    return ok;
}

/* Starts cv->out at `path`, writes everything, gives it its name. */
static int write_output(converter *cv, const char *path)
{
    size_t i;
    int    pass, ok = safetensors_create(&cv->out, path, header_bytes(cv), &cv->error) && write_metadata(cv);
    for (pass = PASS_ENCODE; ok && pass < PASSES; pass++)
        for (i = 0; ok && i < cv->in.count; i++) {
            start_item(cv, i);
            ok = write_item(cv, &cv->in.items[i], &cv->outcomes[i], pass);
        }
    if (ok) return safetensors_commit(&cv->out, &cv->error);
    safetensors_abandon(&cv->out);
    return 0;
}

/* ---- A single dense matrix as .npy ------------------------------------------------------------ */

/* Header and rows. bf16 becomes <u2: NumPy has no bf16. */
static int write_npy_rows(converter *cv, source *s, int file)
{
    const item  *it = s->it;
    const size_t strip = strip_rows(it, (size_t)8 << 20);
    uint16_t    *rows = (uint16_t *)allocate(2 * (strip < it->rows ? strip : it->rows) * (size_t)it->cols);
    char         header[129];
    size_t       row;
    int          ok;
    memset(header, ' ', 128);
    memcpy(header, "\x93NUMPY\1\0\x76\0", 10);
    row = (size_t)sprintf(header + 10, "{'descr': '%s', 'fortran_order': False, 'shape': (%u, %u), }",
                          it->dtype == SPINFER_BF16 ? "<u2" : "<f2", it->rows, it->cols);
    header[10 + row] = ' ';
    header[127] = '\n';
    ok = write_all(file, header, 128);
    for (row = 0; ok && row < it->rows; row += strip) {
        const size_t count = it->rows - row < strip ? it->rows - row : strip;
        if (!read_rows(s, row, count, rows, &cv->error)) break;
        ok = write_all(file, rows, 2 * count * it->cols);
    }
    if (!ok) fail(&cv->error, unnamed_output, strerror(errno));
    free(rows);
    return ok && row >= it->rows;
}

/* The only weight of the input, or NULL. */
static const item *single_weight(const converter *cv)
{
    const item *weight = NULL;
    size_t      i;
    for (i = 0; i < cv->in.count; i++) {
        if (!is_weight(&cv->in.items[i])) continue;
        if (weight) return NULL;
        weight = &cv->in.items[i];
    }
    return weight;
}

static int write_npy(converter *cv, const char *path)
{
    const item *weight = single_weight(cv);
    source      s;
    int         file, ok;
    if (cv->o->to != TO_DENSE || cv->o->prune || !weight)
        return fail(&cv->error, cv->o->output, "a .npy file holds one dense matrix: use --decode, --include to choose");
    start_item(cv, (size_t)(weight - cv->in.items));
    file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file < 0) return fail(&cv->error, path, strerror(errno));
    ok = open_source(&s, &cv->in, weight, &cv->error) && write_npy_rows(cv, &s, file);
    close_source(&s);
    if (fsync(file) != 0 && ok) ok = fail(&cv->error, path, strerror(errno));
    if (close(file) != 0 && ok) ok = fail(&cv->error, path, strerror(errno));
    cv->bytes_done = weight->bytes;
    return ok;
}

/* ---- Verify ---------------------------------------------------------------------------------- */

static int compare_bytes(converter *cv, const safetensors_tensor *a, const checkpoint *out, const safetensors_tensor *b)
{
    enum { PIECE = 8 << 20 };
    const size_t size = a->bytes < PIECE ? (size_t)a->bytes : PIECE;
    char        *left, *right;
    uint64_t     first;
    int          ok = 1;
    if (a->dtype != b->dtype || a->rank != b->rank || memcmp(a->shape, b->shape, sizeof a->shape) != 0)
        return fail(&cv->error, a->name, "type or shape differ between input and output");
    left = (char *)allocate(2 * size);
    right = left + size;
    for (first = 0; ok && first < a->bytes; first += size) {
        const uint64_t bytes = a->bytes - first < size ? a->bytes - first : size;
        ok = safetensors_read(&cv->in.model, a, first, bytes, left, &cv->error) &&
             safetensors_read(&out->model, b, first, bytes, right, &cv->error);
        if (ok && memcmp(left, right, (size_t)bytes) != 0)
            ok = fail(&cv->error, a->name, "the bytes in the output are not those of the input");
    }
    free(left);
    return ok;
}

/* Is this what must become of a weight? Zeros of both signs become +0; a pruned weight is kept or +0. */
static int is_right(uint16_t in, uint16_t out, int is_pruned)
{
    return out == in || (out == 0 && (is_pruned || (in & 0x7fff) == 0));
}

/* Compares the dense values of both; counts those that are not zero. */
static int compare_rows(converter *cv, const source *a, const source *b, int is_pruned, uint64_t *kept)
{
    const size_t strip = strip_rows(a->it, (size_t)8 << 20), cols = a->it->cols,
                 most = strip < a->it->rows ? strip : a->it->rows;
    uint16_t *left = (uint16_t *)allocate(4 * most * cols), *right = left + most * cols;
    size_t    row;
    int       ok = 1;
    for (row = 0; ok && row < a->it->rows; row += strip) {
        const size_t    rows = a->it->rows - row < strip ? a->it->rows - row : strip;
        const long long count = (long long)(rows * cols);
        long long       i, wrong = count, nonzeros = 0;
        ok = read_rows(a, row, rows, left, &cv->error) && read_rows(b, row, rows, right, &cv->error);
        if (!ok) break;
#ifdef _OPENMP
#pragma omp parallel for reduction(+ : nonzeros) reduction(min : wrong)
#endif
        for (i = 0; i < count; i++) {
            nonzeros += right[i] != 0;
            if (!is_right(left[i], right[i], is_pruned) && i < wrong) wrong = i;
        }
        *kept += (uint64_t)nonzeros;
        if (wrong < count) {
            char what[160];
            snprintf(what, sizeof what, "row %zu, column %zu is 0x%04x in the input and 0x%04x in the output",
                     row + (size_t)wrong / cols, (size_t)wrong % cols, left[wrong], right[wrong]);
            ok = fail(&cv->error, a->it->name, what);
        }
    }
    free(left);
    return ok;
}

static int verify_weight(converter *cv, const item *it, const outcome *r, checkpoint *out, const item *other,
                         int is_pruned)
{
    source   a, b;
    uint64_t kept = 0;
    int      ok;
    if (it->rows != other->rows || it->cols != other->cols || it->dtype != other->dtype)
        return fail(&cv->error, it->name, "type or shape differ between input and output");
    ok = open_source(&a, &cv->in, it, &cv->error);
    if (ok) {
        ok = open_source(&b, out, other, &cv->error) && compare_rows(cv, &a, &b, is_pruned, &kept);
        close_source(&b);
    }
    close_source(&a);
    if (ok && r->is_encoded && kept != r->sizes.nnz) return fail(&cv->error, it->name, "the number of zeros is wrong");
    return ok;
}

/* The output against the input, both read again from their files. */
static int verify_item(converter *cv, const item *it, const outcome *r, checkpoint *out, const options *all)
{
    const safetensors_tensor *same = it->tensor ? safetensors_find(&out->model, it->tensor->name) : NULL;
    const int                 is_pruned = r->is_pruned || (cv->o->to == TO_DENSE && cv->o->prune != PRUNE_NOTHING);
    item                      other;
    int                       found, ok;
    if (it->kind == ITEM_OTHER && !same) return fail(&cv->error, it->name, "is not in the output");
    if (it->kind == ITEM_OTHER || (same && same->dtype == it->tensor->dtype && !is_pruned))
        return compare_bytes(cv, it->tensor, out, same);
    found = find_item(out, it->name, all, &other, &cv->error);
    if (found < 0) return 0;
    if (found && it->kind == ITEM_VECTOR && other.tensor && other.tensor->rank == 1 && other.bytes == 2 * it->cols) {
        other.kind = ITEM_DENSE;
        other.rows = 1;
        other.cols = it->cols;
        other.dtype = dtype_16(other.tensor->dtype, it->dtype);
    }
    ok = found ? verify_weight(cv, it, r, out, &other, is_pruned) : fail(&cv->error, it->name, "is not in the output");
    if (found) free(other.name);
    return ok;
}

static int verify_output(converter *cv, const char *path)
{
    options    all = *cv->o;
    checkpoint out;
    size_t     i;
    int        ok = 1;
    all.input = path;
    all.include.count = 1;
    all.include.text[0] = "*";
    all.exclude.count = 0;
    if (is_npy(path)) all.dtype = single_weight(cv)->dtype; /* of <u2 */
    if (!open_checkpoint(&out, &all, &cv->error)) return 0;
    cv->bytes_done = 0;
    for (i = 0; ok && i < cv->in.count; i++) {
        const item *it = &cv->in.items[i];
        start_item(cv, i);
        if (!is_npy(path))
            ok = verify_item(cv, it, &cv->outcomes[i], &out, &all);
        else if (is_weight(it))
            ok = verify_weight(cv, it, &cv->outcomes[i], &out, &out.items[0], 0);
        cv->bytes_done += it->bytes;
    }
    close_checkpoint(&out);
    return ok;
}

/* ---- Convert --------------------------------------------------------------------------------- */

static void print_summary(const converter *cv)
{
    double before = 0, after = 0;
    size_t i, weights = 0, encoded = 0;
    for (i = 0; i < cv->in.count; i++) {
        const item *it = &cv->in.items[i];
        weights += (size_t)is_weight(it);
        if (!cv->outcomes[i].is_encoded) continue;
        encoded++;
        before += 2.0 * it->rows * it->cols;
        after += encoded_bytes(&cv->outcomes[i]);
    }
    if (encoded && cv->o->to == TO_TCA_BME)
        printf("%zu of %zu weights encoded: %.3f MB in 16 bits, %.3f MB encoded, %.2f times smaller\n", encoded,
               weights, 1e-6 * before, 1e-6 * after, before / after);
    else if (cv->o->to != TO_DENSE)
        printf("%zu of %zu weights encoded\n", encoded, weights);
    if (weights && !encoded && cv->o->to != TO_DENSE)
        printf("None has %.3g %% zeros. Is the checkpoint pruned? --list shows it, --prune prunes it.\n",
               100 * cv->o->threshold);
    printf("%.3f MB read, converted in %.2f s: %.2f GB/s\n", 1e-6 * (double)cv->bytes, cv->seconds,
           1e-9 * (double)cv->bytes / cv->seconds);
    if (cv->o->verify) puts("verified: every value in the output is that of the input");
}

/* What is to be verified, and .npy files, have a name of their own until they are complete and right. */
static int convert(converter *cv)
{
    const char *output = cv->o->output;
    const int   npy = is_npy(output), is_direct = !npy && !cv->o->verify;
    char       *path = (char *)allocate(strlen(output) + 48);
    int         ok;
    sprintf(path, is_direct ? "%s" : "%s.%ld.unnamed%s", output, (long)getpid(), npy ? ".npy" : ".safetensors");
    if (!is_direct) unnamed_output = path;
    cv->begin = seconds();
    ok = npy ? write_npy(cv, path) : write_output(cv, path);
    cv->seconds = seconds() - cv->begin;
    if (ok && cv->o->verify) ok = verify_output(cv, path);
    end_progress(cv);
    current_item[0] = 0;
    if (!is_direct) {
        if (ok && rename(path, output) != 0) ok = fail(&cv->error, output, strerror(errno));
        if (ok && !safetensors_flush_folder(output)) ok = fail(&cv->error, output, "its folder cannot be flushed");
        unlink(path); /* there is none any more if all went well */
        unnamed_output = NULL;
    }
    free(path);
    return ok;
}

/* Weights that are encoded already are not pruned again: it would hide what was lost before. */
static int check_prune(converter *cv)
{
    size_t i;
    for (i = 0; cv->o->prune && i < cv->in.count; i++)
        if (cv->in.items[i].kind == ITEM_TCA_BME || cv->in.items[i].kind == ITEM_BITMASK)
            return fail(&cv->error, cv->in.items[i].name,
                        "is encoded already; --prune takes dense weights, so --decode first");
    return 1;
}

/* ---- Look ------------------------------------------------------------------------------------ */

/* What one token costs: it reads every weight once, but only one row of a table of embeddings. */
typedef struct traffic {
    double dense, encoded; /* bytes */
} traffic;

static int is_embedding(const item *it) { return it->kind == ITEM_OTHER && matches(&embeddings, it->name); }

static traffic token_traffic(const item *it, const outcome *r)
{
    traffic t;
    t.dense = is_weight(it) ? 2.0 * it->rows * it->cols : (double)it->bytes;
    if (is_embedding(it) && it->tensor->rank == 2 && it->tensor->shape[0]) t.dense /= (double)it->tensor->shape[0];
    t.encoded = r->is_encoded ? encoded_bytes(r) : t.dense;
    return t;
}

static void print_prediction(const char *name, traffic t, double bandwidth)
{
    char         text[SAFETENSORS_MAX_NAME + 8];
    const double per_us = 1e3 * bandwidth; /* bytes */
    printable(name, text, sizeof text);
    printf("%-56s %12.0f %12.0f %9.1f %9.1f %6.2f\n", text, t.dense, t.encoded, t.dense / per_us, t.encoded / per_us,
           t.encoded > 0 ? t.dense / t.encoded : 1);
}

static void print_item(const item *it, const outcome *r)
{
    static const char *const kinds[] = {"", "", "npy", "tca-bme ", "bitmask ", "bitmask "};
    char                     shape[128] = "", type[48], name[SAFETENSORS_MAX_NAME + 8];
    uint32_t                 i;
    int                      used = 0;
    if (it->tensor) {
        for (i = 0; i < it->tensor->rank; i++)
            used += snprintf(shape + used, sizeof shape - (size_t)used, "%s%llu", i ? " x " : "",
                             (unsigned long long)it->tensor->shape[i]);
        snprintf(type, sizeof type, "%s", safetensors_dtype_name(it->tensor->dtype));
    } else {
        snprintf(shape, sizeof shape, it->kind == ITEM_VECTOR ? "%.0u%u" : "%u x %u",
                 it->kind == ITEM_VECTOR ? 0 : it->rows, it->cols);
        snprintf(type, sizeof type, "%s%s", kinds[it->kind], safetensors_dtype_name(file_dtype(it)));
    }
    printable(it->name, name, sizeof name);
    printf("%-56s %15s %-13s", name, shape, type);
    if (is_weight(it))
        printf(" %6.2f %13.0f %6.2f%s", 100 * zeros_share(it, r), encoded_bytes(r),
               2.0 * it->rows * it->cols / encoded_bytes(r), r->is_encoded ? "" : "  stays dense");
    puts("");
}

/* --list and --predict: as if it were converted, but nothing is written. */
static int look(converter *cv)
{
    const int list = cv->o->list;
    traffic   sum = {0, 0};
    size_t    i;
    int       ok = 1;
    if (list)
        printf("%-56s %15s %-13s %6s %13s %6s\n", "tensor", "shape", "type", "zeros%", "encoded bytes", "ratio");
    else
        printf("%-56s %12s %12s %9s %9s %6s\n", "bytes for each token, and us at this bandwidth", "dense", "encoded",
               "dense us", "enc. us", "gain");
    cv->begin = seconds();
    for (i = 0; ok && i < cv->in.count; i++) {
        const item *it = &cv->in.items[i];
        outcome    *r = &cv->outcomes[i];
        uint16_t   *dense;
        traffic     t;
        source      s;
        start_item(cv, i);
        if (is_weight(it)) {
            ok = open_source(&s, &cv->in, it, &cv->error) && measure(cv, &s, r, &dense);
            close_source(&s);
        }
        cv->bytes_done += it->bytes;
        end_progress(cv);
        if (!ok) break;
        t = token_traffic(it, r);
        sum.dense += t.dense;
        sum.encoded += t.encoded;
        if (list)
            print_item(it, r);
        else if (r->is_encoded)
            print_prediction(it->name, t, cv->o->bandwidth);
    }
    if (!ok || list) return ok;
    print_prediction("all tensors", sum, cv->o->bandwidth);
    puts(
        "The gain is what bandwidth allows at best, for one token at a time, over the same weights in 16 bits. Of "
        "tables\n"
        "of embeddings one row is counted; if the output head shares such a table, add the whole table to both sides.");
    return 1;
}

/* Threads that wait for each other spin by default, which is slow where other programs run: on two busy cores it took
 * 25 times as long for a model of small weights. OpenMP reads its variables only when a program starts. */
static void start_again_with_threads_that_sleep(char **argv)
{
#ifdef _OPENMP
    if (getenv("OMP_WAIT_POLICY") || setenv("OMP_WAIT_POLICY", "passive", 0) != 0) return;
    execv("/proc/self/exe", argv); /* where this is not possible, go on as it is */
#else
    (void)argv;
#endif
}

int main(int argc, char **argv)
{
    const options o = parse_options(argc, argv);
    converter     cv;
    size_t        i;
    int           ok;
    start_again_with_threads_that_sleep(argv);
    memset(&cv, 0, sizeof cv);
    cv.o = &o;
    guard();
    ok = open_checkpoint(&cv.in, &o, &cv.error);
    if (ok) {
        cv.outcomes = (outcome *)allocate(cv.in.count * sizeof *cv.outcomes);
        memset(cv.outcomes, 0, cv.in.count * sizeof *cv.outcomes);
        for (i = 0; i < cv.in.count; i++) cv.bytes += cv.in.items[i].bytes;
        ok = check_prune(&cv) && (o.output ? convert(&cv) : look(&cv));
        end_progress(&cv);
        if (ok && o.output && !o.quiet) print_summary(&cv);
        for (i = 0; i < cv.in.count; i++) free(cv.outcomes[i].offsets);
        free(cv.outcomes);
        free(cv.dense.memory);
        free(cv.data.memory);
        close_checkpoint(&cv.in);
    }
    if (!ok) fprintf(stderr, "convert: %s\n", cv.error.text);
    return !ok;
}
