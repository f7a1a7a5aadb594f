/* bitmask.h - sparse-bitmask matrices to and from TCA-BME, bitmap to bitmap, in memory. C99, CUDA C and C++.
 *
 * The format of compressed-tensors stores a [rows, cols] matrix as
 *
 *     values        16-bit values of the nonzeros, row by row, packed
 *     bitmask       uint8_t [rows, ceil(cols / 8)]: column c is bit c % 8 of byte c / 8; unused bits of a row are zero
 *     row_offsets   int64_t [rows]: number of values in the rows before
 *
 * sparse-24-bitmask keeps exactly two of every four columns: no row_offsets, row r starts at value r * cols / 2.
 *
 * Eight columns of a bitmask are one row of a BitmapTile, so bytes only change places; a dense matrix never exists. The
 * result has the bytes that spinfer_encode() gives for the dense matrix. Hence a stored value that is zero (of either
 * sign) is dropped like any zero; NaNs, infinities and subnormals stay bit by bit. Little-endian hosts only.
 *
 * bitmask_file.h finds these arrays in a safetensors file. */
#ifndef SPINFER_EXAMPLES_BITMASK_H
#define SPINFER_EXAMPLES_BITMASK_H

#include <stdio.h>

#include "spinfer_encode.h"

/* bitmask_matrix : the arrays in host memory; it owns nothing. */
typedef struct bitmask_matrix {
    const void    *values;            /* 16-bit, any alignment                                             */
    uint64_t       value_count;       /* stored                                                            */
    const uint8_t *bitmask;           /* [rows, ceil(cols / 8)]                                            */
    uint64_t       bitmask_bytes;     /* rows * ceil(cols / 8), nothing else is accepted                   */
    const void    *row_offsets;       /* int64_t, any alignment. NULL for sparse-24-bitmask                */
    uint64_t       row_offsets_count; /* rows, nothing else is accepted; 0 without row_offsets             */
    uint64_t       rows, cols;        /* 1 .. SPINFER_MAX_DIM                                              */
} bitmask_matrix;

enum { BITMASK_WHY = 160 };

/* bitmask_validate() : do the arrays agree? Nothing in B is trusted but that the pointers may be read for their sizes.
 *
 *   why       out  NULL, or [BITMASK_WHY] characters: what is wrong and in which row, or an empty string
 *
 *   Checks    sizes of all arrays, unused bits, row_offsets against the bits of every row, value_count against all bits;
 *             without row_offsets: cols a multiple of 4, and two bits in every four
 *   Errors    NULL, SHAPE, FORMAT */
static inline spinfer_status bitmask_validate(const bitmask_matrix *B, char *why);

/* bitmask_encode_sizes() : what bitmask_encode() will need; validates first.
 *   Errors    NULL, SHAPE, FORMAT, OVERFLOW */
static inline spinfer_status bitmask_encode_sizes(const bitmask_matrix *B, spinfer_sizes *sizes);

/* bitmask_encode() : bitmask -> TCA-BME; arguments as for spinfer_encode().
 *   Errors    NULL, SHAPE, ALIGNMENT, DTYPE, CAPACITY, OVERFLOW, FORMAT; then nothing was written.
 *   Threads   OpenMP over rows of GroupTiles; the result does not depend on them. */
static inline spinfer_status bitmask_encode(const bitmask_matrix *B, spinfer_dtype dtype, uint32_t *offsets,
                                            uint64_t offsets_bytes, void *data, uint64_t data_bytes,
                                            spinfer_matrix *matrix);

/* bitmask_decode() : bitmask -> dense [rows, cols], row-major with leading dimension ld >= cols; validates first. Every
 * element is written, what is not stored as +0. For what is no weight, like a one-dimensional tensor (rows = 1).
 *   Errors    NULL, SHAPE, ALIGNMENT, FORMAT; then nothing was written. */
static inline spinfer_status bitmask_decode(const bitmask_matrix *B, uint16_t *dense, size_t ld);

/* bitmask_export_sizes() : number of values that bitmask_export() will write; the bitmask takes rows * ceil(cols / 8)
 * bytes and row_offsets 8 * rows.
 *   W         in   encoded matrix in host memory, trusted (spinfer_validate())
 *   Errors    NULL, SHAPE, ALIGNMENT, DTYPE, VERSION, FORMAT */
static inline spinfer_status bitmask_export_sizes(const spinfer_matrix *W, uint64_t *value_count);

/* bitmask_export() : TCA-BME -> sparse-bitmask.
 *
 *   W             in   as above
 *   values        out  [value_count], 2-byte aligned
 *   value_count   in   as bitmask_export_sizes() said, or CAPACITY
 *   bitmask       out  [rows, ceil(cols / 8)]
 *   row_offsets   out  [rows], 8-byte aligned
 *
 *   Errors    as above and CAPACITY; then nothing was written. */
static inline spinfer_status bitmask_export(const spinfer_matrix *W, uint16_t *values, uint64_t value_count,
                                            uint8_t *bitmask, int64_t *row_offsets);

#endif /* SPINFER_EXAMPLES_BITMASK_H */
