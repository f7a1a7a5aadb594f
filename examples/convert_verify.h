/* convert_verify.h - is the output of convert what it should be? Both files are read again and compared bit for bit. */
#ifndef SPINFER_EXAMPLES_CONVERT_VERIFY_H
#define SPINFER_EXAMPLES_CONVERT_VERIFY_H

#include "convert_weight.h"

static inline int compare_bytes(converter *cv, const safetensors_tensor *a, const checkpoint *out,
                                const safetensors_tensor *b)
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
static inline int is_right(uint16_t in, uint16_t out, int is_pruned)
{
    return out == in || (out == 0 && (is_pruned || (in & 0x7fff) == 0));
}

/* Compares the dense values of both; counts those that are not zero. */
static inline int compare_rows(converter *cv, const source *a, const source *b, int is_pruned, uint64_t *kept)
{
    const size_t strip = strip_rows(a->it, (size_t)4 << 20), cols = a->it->cols;
    const size_t most = strip < a->it->rows ? strip : a->it->rows;
    uint16_t    *left = (uint16_t *)allocate(4 * most * cols), *right = left + most * cols;
    size_t       row;
    int          ok = 1;
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

static inline int verify_weight(converter *cv, const item *it, const outcome *r, checkpoint *out, const item *other,
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
static inline int verify_item(converter *cv, const item *it, const outcome *r, checkpoint *out, const options *all)
{
    const safetensors_tensor *same = it->tensor ? safetensors_find(&out->model, it->tensor->name) : NULL;
    const int is_pruned = r->is_pruned || (it->kind == ITEM_DENSE && cv->o->to == TO_DENSE && cv->o->prune);
    item      other;
    int       found, ok;
    if (it->kind == ITEM_OTHER && !same) return fail(&cv->error, it->name, "is not in the output");
    if (it->kind == ITEM_OTHER || (same && same->dtype == it->tensor->dtype && !is_pruned))
        return compare_bytes(cv, it->tensor, out, same);
    found = find_item(out, it->name, all, &other, &cv->error);
    if (found == 1 && it->kind == ITEM_VECTOR && other.tensor && other.tensor->rank == 1 &&
        other.bytes == 2 * it->cols) {
        other.kind = ITEM_DENSE;
        other.rows = 1;
        other.cols = it->cols;
        other.dtype = dtype_16(other.tensor->dtype, it->dtype);
    }
    ok = found == 1 && verify_weight(cv, it, r, out, &other, is_pruned);
    if (found == 0) fail(&cv->error, it->name, "is not in the output");
    free(other.name);
    return ok;
}

static inline int verify_output(converter *cv, const char *path)
{
    options    all = *cv->o;
    checkpoint out;
    size_t     i;
    int        ok = 1;
    all.input = path;
    all.include.count = 1;
    all.include.text[0] = "*";
    all.exclude.count = 0;
    if (is_npy(path)) all.dtype = single_weight(&cv->in)->dtype; /* of <u2 */
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

#endif /* SPINFER_EXAMPLES_CONVERT_VERIFY_H */
