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
 * base. Sparsity_config "format" is not asked: the tensors say what they are. */
#ifndef SPINFER_EXAMPLES_BITMASK_FILE_H
#define SPINFER_EXAMPLES_BITMASK_FILE_H

#include "bitmask.h"
#include "safetensors.h"

/* bitmask_group : where the tensors of a compressed one are. */
typedef struct bitmask_group {
    const safetensors_tensor *compressed, *bitmask, *shape;
    const safetensors_tensor *row_offsets; /* NULL: sparse-24-bitmask                      */
    uint32_t                  rank;        /* of the dense tensor, 1 or 2                  */
    uint64_t                  rows, cols;  /* of the dense tensor; rows is 1 for a vector  */
} bitmask_group;

/* bitmask_base_length() : bytes of `name` before ".compressed", ".bitmask", ".row_offsets" or ".shape", or 0 if it ends
 * in none of them. A tensor that happens to be called so need not be part of a group: ask bitmask_find(). */
static inline size_t bitmask_base_length(const char *name);

/* bitmask_find() : looks for the group `base`, and reads its shape.
 *
 *   Returns   1  found, and dtypes and shapes of the tensors are those above; fills group
 *             0  no <base>.bitmask is there (error->text is empty)
 *            -1  a tensor of the group is missing or not as above, or cannot be read; error->text says which */
static inline int bitmask_find(const safetensors_model *model, const char *base, bitmask_group *group,
                               safetensors_error *error);

/* bitmask_logical_name() : name of the dense tensor, into [SAFETENSORS_MAX_NAME + 8] characters. */
static inline void bitmask_logical_name(const char *base, const bitmask_group *group, char *name);

/* bitmask_load() : reads a group into fresh memory and validates it; values are rounded to dtype where they are of
 * another type. bitmask_free() it; after a failure there is nothing to. */
static inline int bitmask_load(const safetensors_model *model, const bitmask_group *group, spinfer_dtype dtype,
                               bitmask_matrix *B, safetensors_error *error);

static inline void bitmask_free(bitmask_matrix *B);

/* bitmask_entry_bytes() : room that the four tensors need in the header of a file, for safetensors_create(). */
static inline uint64_t bitmask_entry_bytes(const char *base);

/* bitmask_write() : appends the four tensors of an encoded weight, trusted, under the base; takes memory for the values
 * and the bitmask while it runs. In a file of many groups their tensors alternate between wide and narrow elements:
 * readers copy. */
static inline int bitmask_write(safetensors_writer *writer, const char *base, const spinfer_matrix *W,
                                safetensors_error *error);

#endif /* SPINFER_EXAMPLES_BITMASK_FILE_H */
