/* convert_model.h - a checkpoint as a list of items, whatever the file format: weights, and everything else.
 *
 * A weight is a 2-D matrix that is stored dense, as TCA-BME or as a sparse bitmask; the several tensors of an encoded
 * one are a single item under the name that the dense one had. */
#ifndef SPINFER_EXAMPLES_CONVERT_MODEL_H
#define SPINFER_EXAMPLES_CONVERT_MODEL_H

#include "bitmask_file.h"
#include "convert_options.h"
#include "npy.h"
#include "safetensors.h"
#include "tca_bme_file.h"

typedef enum item_kind {
    ITEM_OTHER,   /* copied byte by byte                                         */
    ITEM_DENSE,   /* a weight: fp16, bf16 or fp32 in a tensor                    */
    ITEM_NPY,     /* a weight: the matrix of a .npy file                         */
    ITEM_TCA_BME, /* a weight                                                    */
    ITEM_BITMASK, /* a weight                                                    */
    ITEM_VECTOR   /* one dimension as a bitmask; becomes dense with the weights  */
} item_kind;

typedef struct item {
    item_kind                 kind;
    char                     *name;   /* of the dense tensor; what it is called in the file may differ */
    const safetensors_tensor *tensor; /* of ITEM_OTHER and ITEM_DENSE                                  */
    tca_bme_group             tca_bme;
    bitmask_group             bitmask;
    uint32_t                  rows, cols; /* of weights and vectors (rows = 1)                   */
    spinfer_dtype             dtype;      /* of its 16-bit values                                */
    uint64_t                  bytes;      /* in the input                                        */
    int                       is_fp32;    /* dense, and rounded to 16 bits when it is read       */
} item;

typedef struct checkpoint {
    safetensors_model model; /* empty for a .npy file */
    const char       *npy;   /* path, or NULL         */
    item             *items; /* in the order of the files */
    size_t            count;
} checkpoint;

static inline int is_weight(const item *it) { return it->kind != ITEM_OTHER && it->kind != ITEM_VECTOR; }

static inline safetensors_dtype file_dtype(const item *it)
{
    return it->dtype == SPINFER_BF16 ? SAFETENSORS_BF16 : SAFETENSORS_F16;
}

static inline int fail(safetensors_error *error, const char *name, const char *what)
{
    return safetensors_fail(error, "%.1000s: %s", name, what);
}

static inline int ends_in(const char *text, const char *end)
{
    const size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

static inline int is_npy(const char *path) { return ends_in(path, ".npy"); }

static inline char *copy_text(const char *text, size_t length)
{
    char *copy = (char *)allocate(length + 1);
    memcpy(copy, text, length);
    copy[length] = 0;
    return copy;
}

/* ---- Open ------------------------------------------------------------------------------------ */

static inline spinfer_dtype dtype_16(safetensors_dtype dtype, spinfer_dtype wanted)
{
    return dtype == SAFETENSORS_F16 ? SPINFER_FP16 : dtype == SAFETENSORS_BF16 ? SPINFER_BF16 : wanted;
}

/* A weight can be pruned, encoded and multiplied: two dimensions of a size that TCA-BME holds, of a suitable type. */
static inline int is_dense_weight(const safetensors_tensor *t)
{
    const int is_float = t->dtype == SAFETENSORS_F16 || t->dtype == SAFETENSORS_BF16 || t->dtype == SAFETENSORS_F32;
    return is_float && t->rank == 2 && t->shape[0] >= 1 && t->shape[0] <= SPINFER_MAX_DIM && t->shape[1] >= 1 &&
           t->shape[1] <= SPINFER_MAX_DIM;
}

/* The group that a tensor belongs to, as an item. Returns 1, 0 if it belongs to none or a group member before it has
 * already made the item, -1 on error. */
static inline int find_tca_bme(checkpoint *c, const safetensors_tensor *t, item *it, safetensors_error *error)
{
    char     *base = copy_text(t->name, tca_bme_base_length(t->name));
    const int found = tca_bme_find(&c->model, base, &it->tca_bme, error);
    it->name = base;
    if (found == 1) {
        spinfer_matrix W;
        if (!tca_bme_read_header(&c->model, &it->tca_bme, &W, error)) return -1;
        it->kind = ITEM_TCA_BME;
        it->rows = W.rows;
        it->cols = W.cols;
        it->dtype = (spinfer_dtype)W.dtype;
        it->bytes = it->tca_bme.data->bytes + it->tca_bme.offsets->bytes + it->tca_bme.header->bytes;
    }
    return found;
}

static inline int find_bitmask(checkpoint *c, const safetensors_tensor *t, spinfer_dtype dtype, item *it,
                               safetensors_error *error)
{
    const size_t   length = bitmask_base_length(t->name);
    char          *base = copy_text(t->name, length), *name = (char *)allocate(SAFETENSORS_MAX_NAME + 8);
    bitmask_group *group = &it->bitmask;
    const int      found = bitmask_find(&c->model, base, group, error);
    if (found == 1) {
        bitmask_logical_name(base, group, name);
        it->kind = group->rank == 2 ? ITEM_BITMASK : ITEM_VECTOR;
        it->rows = (uint32_t)group->rows;
        it->cols = (uint32_t)group->cols;
        it->dtype = dtype_16(group->compressed->dtype, dtype);
        it->bytes = group->compressed->bytes + group->bitmask->bytes + group->shape->bytes +
                    (group->row_offsets ? group->row_offsets->bytes : 0);
    }
    it->name = name;
    free(base);
    return found;
}

/* Makes the item of a tensor. Returns 1, 0 if the tensor is part of an item that another one has made, -1 on error. */
static inline int make_item(checkpoint *c, const safetensors_tensor *t, const options *o, item *it,
                            safetensors_error *error)
{
    int found = 0;
    memset(it, 0, sizeof *it);
    if (tca_bme_base_length(t->name)) {
        found = find_tca_bme(c, t, it, error);
        if (found == 1 && is_wanted(o, it->name, 1)) return it->tca_bme.data == t;
    } else if (bitmask_base_length(t->name)) {
        found = find_bitmask(c, t, o->dtype, it, error);
        if (found == 1 && is_wanted(o, it->name, 1)) return it->bitmask.bitmask == t;
    }
    if (found < 0) return -1;
    free(it->name); /* also of a group that is not wanted: its tensors are copied one by one */
    it->kind = ITEM_OTHER;
    it->name = copy_text(t->name, strlen(t->name));
    it->tensor = t;
    it->bytes = t->bytes;
    if (is_dense_weight(t) && is_wanted(o, t->name, 0)) {
        it->kind = ITEM_DENSE;
        it->rows = (uint32_t)t->shape[0];
        it->cols = (uint32_t)t->shape[1];
        it->dtype = dtype_16(t->dtype, o->dtype);
        it->is_fp32 = t->dtype == SAFETENSORS_F32;
    }
    return 1;
}

static inline int open_npy(checkpoint *c, const options *o, safetensors_error *error)
{
    FILE       *file = fopen(o->input, "rb");
    npy_header  header;
    const char *what = file ? npy_read_header(file, &header) : "cannot be opened";
    if (file) fclose(file);
    if (what) return fail(error, o->input, what);
    c->npy = o->input;
    c->items = (item *)allocate(sizeof *c->items);
    memset(c->items, 0, sizeof *c->items);
    c->items->kind = ITEM_NPY;
    c->items->name = copy_text("weight", 6);
    c->items->rows = (uint32_t)header.rows;
    c->items->cols = (uint32_t)header.cols;
    c->items->dtype = o->dtype;
    c->items->is_fp32 = header.descr[2] == '4';
    c->items->bytes = header.rows * header.cols * (c->items->is_fp32 ? 4 : 2);
    c->count = 1;
    return 1;
}

/* The weight `name`, in whichever form. Returns 1, 0 if it is not there, -1 on error; free(it->name) in any case. */
static inline int find_item(checkpoint *c, const char *name, const options *o, item *it, safetensors_error *error)
{
    static const char *const  suffixes[] = {"", ".tca_bme_data", ".bitmask", ".bitmask"};
    const safetensors_tensor *t = NULL;
    char                     *text = (char *)allocate(strlen(name) + 32);
    size_t                    i;
    memset(it, 0, sizeof *it);
    for (i = 0; i < 4 && !t; i++) {
        size_t length = strlen(name);
        if (i == 3 && ends_in(name, ".weight")) length -= strlen(".weight"); /* as bitmasks are called */
        sprintf(text, "%.*s%s", (int)length, name, suffixes[i]);
        t = safetensors_find(&c->model, text);
    }
    free(text);
    return t ? make_item(c, t, o, it, error) : 0;
}

static inline void close_checkpoint(checkpoint *c)
{
    size_t i;
    for (i = 0; i < c->count; i++) free(c->items[i].name);
    free(c->items);
    safetensors_close(&c->model);
}

/* Opens the input. After a failure there is nothing to close. */
static inline int open_checkpoint(checkpoint *c, const options *o, safetensors_error *error)
{
    size_t i;
    memset(c, 0, sizeof *c);
    if (is_npy(o->input)) return open_npy(c, o, error);
    if (!safetensors_open(&c->model, o->input, error)) return 0;
    c->items = (item *)allocate(c->model.tensor_count * sizeof *c->items);
    for (i = 0; i < c->model.tensor_count; i++) {
        const int made = make_item(c, &c->model.tensors[i], o, &c->items[c->count], error);
        if (made == 1) {
            c->count++;
            continue;
        }
        free(c->items[c->count].name);
        if (made == 0) continue;
        close_checkpoint(c);
        return 0;
    }
    return 1;
}

/* The only weight of a checkpoint, or NULL. */
static inline const item *single_weight(const checkpoint *c)
{
    const item *weight = NULL;
    size_t      i;
    for (i = 0; i < c->count; i++) {
        if (!is_weight(&c->items[i])) continue;
        if (weight) return NULL;
        weight = &c->items[i];
    }
    return weight;
}

/* ---- Read a weight --------------------------------------------------------------------------- */

/* The arrays of one weight, in memory as far as they have to be. */
typedef struct source {
    const checkpoint *c;
    const item       *it;
    uint16_t         *dense; /* all of it (.npy, vectors), or NULL         */
    spinfer_matrix    W;     /* W.data == NULL: it is not encoded          */
} source;

static inline void close_source(source *s)
{
    if (s->it->kind == ITEM_TCA_BME)
        tca_bme_free(&s->W);
    else
        free_matrix(&s->W);
    free(s->dense);
    s->dense = NULL;
}

static inline int open_bitmask(source *s, safetensors_error *error)
{
    const item    *it = s->it;
    bitmask_matrix B;
    spinfer_sizes  sizes;
    spinfer_status status;
    if (!bitmask_load(&s->c->model, &it->bitmask, it->dtype, &B, error)) return 0;
    if (it->kind == ITEM_VECTOR) {
        s->dense = (uint16_t *)allocate(2 * (size_t)it->cols);
        status = bitmask_decode(&B, s->dense, it->cols);
    } else if ((status = bitmask_encode_sizes(&B, &sizes)) == SPINFER_OK) {
        uint32_t *offsets = (uint32_t *)allocate((size_t)sizes.offsets_bytes);
        void     *data = allocate((size_t)sizes.data_bytes);
        status = bitmask_encode(&B, it->dtype, offsets, sizes.offsets_bytes, data, sizes.data_bytes, &s->W);
        if (status != SPINFER_OK) free(offsets), free(data);
    }
    bitmask_free(&B);
    return status == SPINFER_OK || fail(error, it->name, spinfer_status_string(status));
}

/* close_source() it, also after a failure. */
static inline int open_source(source *s, const checkpoint *c, const item *it, safetensors_error *error)
{
    memset(s, 0, sizeof *s);
    s->c = c;
    s->it = it;
    if (it->kind == ITEM_TCA_BME) return tca_bme_load(&c->model, &it->tca_bme, &s->W, error);
    if (it->kind == ITEM_BITMASK || it->kind == ITEM_VECTOR) return open_bitmask(s, error);
    if (it->kind == ITEM_NPY) {
        size_t      rows, cols;
        const char *what = npy_read(c->npy, it->dtype, &s->dense, &rows, &cols);
        if (!what && (rows != it->rows || cols != it->cols)) what = "the file has changed while it was read";
        return !what || fail(error, c->npy, what);
    }
    return 1;
}

/* Rows as dense 16-bit values; `first` is a multiple of 64, `count` too unless it reaches to the end. */
static inline int read_rows(const source *s, size_t first, size_t count, uint16_t *rows, safetensors_error *error)
{
    const size_t   cols = s->it->cols;
    spinfer_matrix slice;
    spinfer_status status;
    if (s->dense) {
        memcpy(rows, s->dense + first * cols, 2 * count * cols);
        return 1;
    }
    if (!s->W.data && !s->it->is_fp32) /* nothing to round: pieces as large as they come */
        return safetensors_read(&s->c->model, s->it->tensor, 2 * first * cols, 2 * count * cols, rows, error);
    if (!s->W.data)
        return tca_bme_read_dense(&s->c->model, s->it->tensor, first * cols, count * cols, s->it->dtype, rows, error);
    status = spinfer_slice_rows(&s->W, first, count, &slice);
    if (status == SPINFER_OK) status = spinfer_decode(&slice, rows, cols);
    return status == SPINFER_OK || fail(error, s->it->name, spinfer_status_string(status));
}

/* Rows of a strip of about so many weights: whole GroupTiles. */
static inline size_t strip_rows(const item *it, size_t weights)
{
    const size_t rows = weights / it->cols / SPINFER_GROUP_ROWS * SPINFER_GROUP_ROWS;
    return rows ? rows : SPINFER_GROUP_ROWS;
}

#endif /* SPINFER_EXAMPLES_CONVERT_MODEL_H */
