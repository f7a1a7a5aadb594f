/* bitmask_file.h - sparse-bitmask and sparse-24-bitmask weights of compressed-tensors in safetensors files.
 *
 *     <base>.compressed     F16, BF16 or F32 [values], sparse-24: [rows, cols / 2]
 *     <base>.bitmask        U8  [rows, ceil(cols / 8)]
 *     <base>.row_offsets    I64 [rows], absent in sparse-24
 *     <base>.shape          I64 [2] = rows, cols, sparse-24: [2, 1]
 *
 * Up to 0.8 compressed-tensors wrote every tensor of a model this way and kept ".weight" in the base; a vector has a
 * one-dimensional bitmask, row_offsets of rank 0 and shape [1]. From 0.9 on only weights, and the base lacks ".weight".
 * So the logical name is the base if it ends in ".weight", else base + ".weight"; a vector of the old kind keeps its
 * base. The "sparsity_config" of config.json is not asked: the tensors say what they are. */
#ifndef SPINFER_EXAMPLES_BITMASK_FILE_H
#define SPINFER_EXAMPLES_BITMASK_FILE_H

#include "bitmask.h"
#include "tca_bme_file.h"

/* bitmask_group : where the tensors of a compressed one are. */
typedef struct bitmask_group {
    const safetensors_tensor *compressed, *bitmask, *shape;
    const safetensors_tensor *row_offsets; /* NULL: sparse-24-bitmask                      */
    uint32_t                  rank;        /* of the dense tensor, 1 or 2                  */
    uint64_t                  rows, cols;  /* of the dense tensor; rows is 1 for a vector  */
} bitmask_group;

/* bitmask_base_length() : bytes of `name` before ".compressed", ".bitmask", ".row_offsets" or ".shape", or 0 if it ends
 * in none of them. A tensor that happens to be called so need not be part of a group: ask bitmask_find(). */
static inline size_t bitmask_base_length(const char *name)
{
    static const char *const suffixes[4] = {".compressed", ".bitmask", ".row_offsets", ".shape"};
    const size_t             length = strlen(name);
    int                      i;
    for (i = 0; i < 4; i++) {
        const size_t suffix = strlen(suffixes[i]);
        if (length > suffix && strcmp(name + length - suffix, suffixes[i]) == 0) return length - suffix;
    }
    return 0;
}

/* The dense shape, from the tensor that holds it. Returns NULL or what is wrong. */
static inline const char *bitmask_read_shape(const safetensors_model *model, bitmask_group *group,
                                             safetensors_error *error)
{
    const safetensors_tensor *shape = group->shape;
    uint64_t                  sizes[2] = {0, 1};
    if (!shape || shape->dtype != SAFETENSORS_I64 || shape->rank < 1 || shape->rank > 2 || shape->shape[0] < 1 ||
        shape->shape[0] > 2 || (shape->rank == 2 && shape->shape[1] != 1))
        return ".shape is missing or not I64 [1], [2] or [2, 1]";
    if (!safetensors_read(model, shape, 0, shape->bytes, sizes, error)) return error->text;
    group->rank = (uint32_t)shape->shape[0];
    group->rows = group->rank == 2 ? sizes[0] : 1;
    group->cols = group->rank == 2 ? sizes[1] : sizes[0];
    if (group->rows < 1 || group->cols < 1 || group->rows > SPINFER_MAX_DIM || group->cols > SPINFER_MAX_DIM)
        return ".shape holds a size that is not 1 to 2147483584";
    return NULL;
}

/* Do the tensors have the dtypes and shapes that go with the dense shape? Returns NULL or what is wrong. */
static inline const char *bitmask_check_group(const bitmask_group *group)
{
    const safetensors_tensor *values = group->compressed, *bits = group->bitmask, *offsets = group->row_offsets;
    if (bits->dtype != SAFETENSORS_U8 || bits->rank != group->rank ||
        bits->shape[group->rank - 1] != bitmask_row_bytes(group->cols) ||
        (group->rank == 2 && bits->shape[0] != group->rows))
        return ".bitmask is not U8 with a bit for each element of .shape";
    if (!values) return ".compressed is missing";
    if (values->dtype != SAFETENSORS_F16 && values->dtype != SAFETENSORS_BF16 && values->dtype != SAFETENSORS_F32)
        return ".compressed is none of F16, BF16 and F32";
    if (!offsets) {
        if (group->rank != 2 || values->rank != 2 || values->shape[0] != group->rows ||
            values->shape[1] != group->cols / 2)
            return ".row_offsets is missing, and .compressed is not [rows, columns / 2] as in sparse-24-bitmask";
    } else {
        if (values->rank != 1) return ".compressed has not one dimension";
        if (offsets->dtype != SAFETENSORS_I64 || offsets->rank > 1 || offsets->bytes != 8 * group->rows)
            return ".row_offsets is not I64 with one number for each row";
    }
    return NULL;
}

/* bitmask_find() : looks for the group `base`, and reads its shape.
 *
 *   Returns   1  found, and dtypes and shapes of the tensors are those above; fills group
 *             0  no <base>.bitmask is there (error->text is empty)
 *            -1  a tensor of the group is missing or not as above, or cannot be read; error->text says which */
static inline int bitmask_find(const safetensors_model *model, const char *base, bitmask_group *group,
                               safetensors_error *error)
{
    safetensors_error why;
    const char       *problem;
    error->text[0] = 0;
    memset(group, 0, sizeof *group);
    group->bitmask = tca_bme_part(model, base, ".bitmask");
    if (!group->bitmask) return 0;
    group->compressed = tca_bme_part(model, base, ".compressed");
    group->row_offsets = tca_bme_part(model, base, ".row_offsets");
    group->shape = tca_bme_part(model, base, ".shape");
    problem = bitmask_read_shape(model, group, &why);
    if (!problem) problem = bitmask_check_group(group);
    if (!problem) return 1;
    safetensors_fail(error, "%s: \"%.200s\": %s", model->files[group->bitmask->file].path, base, problem);
    return -1;
}

/* bitmask_logical_name() : name of the dense tensor, into [SAFETENSORS_MAX_NAME + 8] characters. */
static inline void bitmask_logical_name(const char *base, const bitmask_group *group, char *name)
{
    const size_t length = strlen(base);
    const int    is_named = length >= 7 && strcmp(base + length - 7, ".weight") == 0;
    snprintf(name, SAFETENSORS_MAX_NAME + 8, "%.*s%s", (int)SAFETENSORS_MAX_NAME, base,
             is_named || group->rank == 1 ? "" : ".weight");
}

static inline void bitmask_free(bitmask_matrix *B)
{
    free((void *)(uintptr_t)B->values);
    free((void *)(uintptr_t)B->bitmask);
    free((void *)(uintptr_t)B->row_offsets);
    memset(B, 0, sizeof *B);
}

/* A tensor in fresh memory, or NULL with a message. */
static inline void *bitmask_read_whole(const safetensors_model *model, const safetensors_tensor *tensor,
                                       safetensors_error *error)
{
    void *memory = malloc((size_t)tensor->bytes + 1);
    if (!memory) {
        safetensors_fail(error, "%s: tensor \"%.200s\": out of memory", model->files[tensor->file].path, tensor->name);
    } else if (!safetensors_read(model, tensor, 0, tensor->bytes, memory, error)) {
        free(memory);
        memory = NULL;
    }
    return memory;
}

/* bitmask_load() : reads a group into fresh memory and validates it; values are rounded to dtype where they are of
 * another type. bitmask_free() it; after a failure there is nothing to. */
static inline int bitmask_load(const safetensors_model *model, const bitmask_group *group, spinfer_dtype dtype,
                               bitmask_matrix *B, safetensors_error *error)
{
    const safetensors_tensor *compressed = group->compressed;
    const uint64_t            count = compressed->bytes / (safetensors_dtype_bits(compressed->dtype) / 8);
    uint16_t                 *values = (uint16_t *)malloc((size_t)(2 * count + 2));
    char                      why[BITMASK_WHY];
    int                       is_good = values != NULL;
    memset(B, 0, sizeof *B);
    B->rows = group->rows;
    B->cols = group->cols;
    B->values = values;
    B->value_count = count;
    B->bitmask_bytes = group->bitmask->bytes;
    if (!is_good)
        safetensors_fail(error, "%s: tensor \"%.200s\": out of memory", model->files[compressed->file].path,
                         compressed->name);
    is_good = is_good && tca_bme_read_dense(model, compressed, 0, count, dtype, values, error) &&
              (B->bitmask = (const uint8_t *)bitmask_read_whole(model, group->bitmask, error)) != NULL;
    if (is_good && group->row_offsets) {
        B->row_offsets = bitmask_read_whole(model, group->row_offsets, error);
        B->row_offsets_count = group->row_offsets->bytes / 8;
        is_good = B->row_offsets != NULL;
    }
    if (is_good && bitmask_validate(B, why) != SPINFER_OK)
        is_good = safetensors_fail(error, "%s: tensor \"%.200s\": %s", model->files[group->bitmask->file].path,
                                   group->bitmask->name, why);
    if (!is_good) bitmask_free(B);
    return is_good;
}

/* bitmask_entry_bytes() : room that the four tensors need in the header of a file, for safetensors_create(). */
static inline uint64_t bitmask_entry_bytes(const char *base)
{
    return 4 * (safetensors_entry_bytes(base) + safetensors_entry_bytes(".row_offsets"));
}

/* Declares <base><suffix> and appends it. */
static inline int bitmask_write_part(safetensors_writer *writer, const char *base, const char *suffix,
                                     safetensors_dtype dtype, uint32_t rank, const uint64_t *shape, const void *memory,
                                     safetensors_error *error)
{
    char      whole[TCA_BME_NAME_ROOM];
    const int length = snprintf(whole, sizeof whole, "%s%s", base, suffix);
    if (length < 0 || (size_t)length >= sizeof whole)
        return safetensors_writer_fail(writer, error, base, "its name is too long");
    return safetensors_begin(writer, whole, dtype, rank, shape, error) &&
           safetensors_append(writer, memory, writer->data_bytes - writer->position, error);
}

/* bitmask_write() : appends the four tensors of an encoded weight, trusted, under the base; takes memory for the values
 * and the bitmask while it runs. In a file of many groups their tensors alternate between wide and narrow elements:
 * readers copy. */
static inline int bitmask_write(safetensors_writer *writer, const char *base, const spinfer_matrix *W,
                                safetensors_error *error)
{
    const safetensors_dtype dtype = W->dtype == SPINFER_BF16 ? SAFETENSORS_BF16 : SAFETENSORS_F16;
    const uint64_t          shape[2] = {W->rows, W->cols}, mask[2] = {W->rows, bitmask_row_bytes(W->cols)}, two = 2;
    uint64_t                count = 0;
    spinfer_status          status = bitmask_export_sizes(W, &count);
    uint16_t               *values = (uint16_t *)malloc((size_t)(2 * count + 2));
    uint8_t                *bits = (uint8_t *)malloc((size_t)(mask[0] * mask[1] + 1));
    int64_t                *row_offsets = (int64_t *)malloc((size_t)(8 * shape[0] + 8));
    int                     is_good = 0;
    if (!values || !bits || !row_offsets) {
        safetensors_writer_fail(writer, error, base, "out of memory");
    } else {
        if (status == SPINFER_OK) status = bitmask_export(W, values, count, bits, row_offsets);
        if (status != SPINFER_OK)
            safetensors_writer_fail(writer, error, base, spinfer_status_string(status));
        else
            is_good = bitmask_write_part(writer, base, ".row_offsets", SAFETENSORS_I64, 1, shape, row_offsets, error) &&
                      bitmask_write_part(writer, base, ".shape", SAFETENSORS_I64, 1, &two, shape, error) &&
                      bitmask_write_part(writer, base, ".compressed", dtype, 1, &count, values, error) &&
                      bitmask_write_part(writer, base, ".bitmask", SAFETENSORS_U8, 2, mask, bits, error);
    }
    free(values);
    free(bits);
    free(row_offsets);
    return is_good;
}

#endif /* SPINFER_EXAMPLES_BITMASK_FILE_H */
