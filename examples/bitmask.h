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

static inline size_t bitmask_row_bytes(uint64_t cols) { return (size_t)((cols + 7) / 8); }

/* Number of the first value of a row, as row_offsets say; their fixed distance in sparse-24. */
static inline uint64_t bitmask_row_first(const bitmask_matrix *B, uint64_t row)
{
    uint64_t first;
    if (!B->row_offsets) return row * (B->cols / 2);
    memcpy(&first, (const char *)B->row_offsets + 8 * row, 8);
    return first;
}

/* The first value of a row. A matrix of zeros may have no values at all. */
static inline const unsigned char *bitmask_row_values(const bitmask_matrix *B, uint64_t row)
{
    static const unsigned char nothing[2] = {0, 0};
    return B->value_count ? (const unsigned char *)B->values + 2 * bitmask_row_first(B, row) : nothing;
}

static inline uint64_t bitmask_count_bits(const uint8_t *bytes, size_t count)
{
    uint64_t bits = 0, word;
    size_t   i;
    for (i = 0; i + 8 <= count; i += 8) {
        memcpy(&word, bytes + i, 8);
        bits += (uint64_t)spinfer_popcount64(word);
    }
    for (; i < count; i++) bits += (uint64_t)spinfer_popcount(bytes[i]);
    return bits;
}

/* Two bits in every four. */
static inline int bitmask_is_two_of_four(const uint8_t *bytes, uint64_t cols)
{
    uint64_t col;
    for (col = 0; col < cols; col += 4)
        if (spinfer_popcount((uint32_t)bytes[col / 8] >> col % 8 & 15u) != 2) return 0;
    return 1;
}

/* What can be checked without the bits. Returns NULL or what is wrong. */
static inline const char *bitmask_check_sizes(const bitmask_matrix *B)
{
    if (B->bitmask_bytes != B->rows * bitmask_row_bytes(B->cols))
        return "the bitmask is not rows * ceil(cols / 8) bytes long";
    if (B->row_offsets && B->row_offsets_count != B->rows) return "row_offsets has not one number for each row";
    if (!B->row_offsets && B->row_offsets_count) return "row_offsets is missing";
    if (!B->row_offsets && B->cols % 4) return "the number of columns is no multiple of 4";
    return NULL;
}

/* bitmask_validate() : do the arrays agree? Nothing in B is trusted but that the pointers may be read for their sizes.
 *
 *   why       out  NULL, or [BITMASK_WHY] characters: what is wrong and in which row, or an empty string
 *
 *   Checks    sizes of all arrays, unused bits, row_offsets against the bits of every row, value_count against all
 *             bits; without row_offsets: cols is a multiple of 4, and every four columns have two bits
 *   Errors    NULL, SHAPE, FORMAT */
static inline spinfer_status bitmask_validate(const bitmask_matrix *B, char *why)
{
    const char *problem = NULL;
    uint64_t    row, values = 0;
    size_t      row_bytes;
    if (why) *why = 0;
    if (!B || !B->bitmask || (!B->values && B->value_count)) return SPINFER_ERR_NULL;
    if (B->rows < 1 || B->cols < 1 || B->rows > SPINFER_MAX_DIM || B->cols > SPINFER_MAX_DIM) return SPINFER_ERR_SHAPE;
    problem = bitmask_check_sizes(B);
    row_bytes = bitmask_row_bytes(B->cols);
    for (row = 0; row < B->rows && !problem; row++) {
        const uint8_t *bytes = B->bitmask + row * row_bytes;
        if (B->cols % 8 && bytes[row_bytes - 1] >> B->cols % 8)
            problem = "the bitmask has a bit behind the last column";
        else if (bitmask_row_first(B, row) != values)
            problem = "row_offsets and the bits of the rows before disagree";
        else if (!B->row_offsets && !bitmask_is_two_of_four(bytes, B->cols))
            problem = "the bitmask has not two bits in every four";
        values += bitmask_count_bits(bytes, row_bytes);
        if (problem && why) snprintf(why, BITMASK_WHY, "row %llu: %s", (unsigned long long)row, problem);
    }
    if (!problem && values != B->value_count && why)
        snprintf(why, BITMASK_WHY, "the bitmask has %llu bits, but there are %llu values", (unsigned long long)values,
                 (unsigned long long)B->value_count);
    else if (problem && why && !*why)
        snprintf(why, BITMASK_WHY, "%s", problem);
    return problem || values != B->value_count ? SPINFER_ERR_FORMAT : SPINFER_OK;
}

/* bitmask_rows : where the 64 rows of a row of GroupTiles stand in the values. */
typedef struct bitmask_rows {
    const unsigned char *next[SPINFER_GROUP_ROWS]; /* the next value of each row                  */
    const unsigned char *end;                      /* of all values of the matrix                 */
    int                  has_zeros;                /* among the values of these rows, so look out */
} bitmask_rows;

/* To the beginning of a row of GroupTiles. The values of its rows are one piece. */
static inline void bitmask_begin_rows(const bitmask_matrix *B, uint64_t row_group, bitmask_rows *rows)
{
    const uint64_t first = row_group * SPINFER_GROUP_ROWS, after = first + SPINFER_GROUP_ROWS;
    const size_t   count =
        (size_t)((after < B->rows ? bitmask_row_first(B, after) : B->value_count) - bitmask_row_first(B, first));
    const unsigned char *values = bitmask_row_values(B, first);
    size_t               i;
    uint32_t             zeros = 0;
    for (i = 0; i < SPINFER_GROUP_ROWS && first + i < B->rows; i++) rows->next[i] = bitmask_row_values(B, first + i);
    rows->end = bitmask_row_values(B, 0) + 2 * B->value_count;
    for (i = 0; i < count; i++) {
        uint16_t bits;
        memcpy(&bits, values + 2 * i, 2);
        zeros |= (bits & 0x7fffu) == 0;
    }
    rows->has_zeros = zeros != 0;
}

/* Takes the values of one bitmask byte, eight columns of row r, that are not zero. Returns the bits that stay; *kept
 * advances by their number. Stores up to eight values past *kept. */
static inline uint32_t bitmask_take_byte(uint32_t byte, bitmask_rows *rows, int r, uint16_t **kept)
{
    const int            count = spinfer_popcount(byte);
    const unsigned char *value = rows->next[r];
    uint32_t             stay = 0, left;
    rows->next[r] += 2 * count;
    if (!rows->has_zeros) {
        if (rows->end - value >= 16)
            memcpy(*kept, value, 16); /* a fixed size is two moves instead of a call */
        else
            memcpy(*kept, value, 2 * (size_t)count);
        *kept += count;
        return byte;
    }
    for (left = byte; left; left &= left - 1, value += 2) {
        uint16_t bits;
        memcpy(&bits, value, 2);
        if (!(bits & 0x7fff)) continue;
        *(*kept)++ = bits;
        stay |= left & (0 - left);
    }
    return stay;
}

/* bitmask_record : what one GroupTile becomes. */
typedef struct bitmask_record {
    uint16_t tc_offsets[SPINFER_GROUP_TC_TILES];
    uint64_t bitmaps[SPINFER_GROUP_BITMAP_TILES];
    uint16_t values[SPINFER_GROUP_ELEMENTS + 8];
    uint32_t nnz;
} bitmask_record;

/* Builds the record of GroupTile (row_group, group). Groups come from left to right, and inside of one every row sees
 * its columns in rising order too, so rows->next only moves forward. */
static inline void bitmask_build_record(const bitmask_matrix *B, uint64_t row_group, uint64_t group, bitmask_rows *rows,
                                        bitmask_record *record)
{
    const size_t   row_bytes = bitmask_row_bytes(B->cols);
    const uint64_t first_row = row_group * SPINFER_GROUP_ROWS, left = B->rows - first_row;
    const int      height = left < SPINFER_GROUP_ROWS ? (int)left : SPINFER_GROUP_ROWS;
    uint16_t      *kept = record->values;
    int            tile, r;
    for (tile = 0; tile < SPINFER_GROUP_BITMAP_TILES; tile++) {
        const int    row = spinfer_bitmap_tile_row(tile), col = spinfer_bitmap_tile_col(tile);
        const size_t column_byte = (size_t)group * (SPINFER_GROUP_COLS / 8) + (size_t)col / 8;
        uint64_t     bits = 0;
        if (tile % 4 == 0) record->tc_offsets[tile / 4] = (uint16_t)(kept - record->values);
        if (column_byte < row_bytes)
            for (r = row; r < row + 8 && r < height; r++) {
                const uint32_t byte = B->bitmask[(first_row + (uint64_t)r) * row_bytes + column_byte];
                bits |= (uint64_t)bitmask_take_byte(byte, rows, r, &kept) << 8 * (r - row);
            }
        record->bitmaps[tile] = bits;
    }
    record->nnz = (uint32_t)(kept - record->values);
    memset(kept, 0, 8 * sizeof *kept);
}

/* Bits of GroupTile (row_group, group): its number of values where none of them is zero. */
static inline uint32_t bitmask_count_group(const bitmask_matrix *B, uint64_t row_group, uint64_t group)
{
    const size_t   row_bytes = bitmask_row_bytes(B->cols), first_byte = (size_t)group * (SPINFER_GROUP_COLS / 8);
    const size_t   width = row_bytes - first_byte < 4 ? row_bytes - first_byte : 4;
    const uint64_t first_row = row_group * SPINFER_GROUP_ROWS;
    uint64_t       row;
    uint32_t       count = 0;
    for (row = first_row; row < first_row + SPINFER_GROUP_ROWS && row < B->rows; row++) {
        const uint8_t *bytes = B->bitmask + row * row_bytes + first_byte;
        uint32_t       word = 0;
        if (width == 4)
            memcpy(&word, bytes, 4);
        else
            memcpy(&word, bytes, width);
        count += (uint32_t)spinfer_popcount(word);
    }
    return count;
}

/* Adds a row of GroupTiles to the sums; writes the record sizes in units of 16 bytes where units is not NULL. */
static inline void bitmask_count_row(const bitmask_matrix *B, uint64_t row_group, uint32_t *units, spinfer_sizes *sum)
{
    const uint64_t groups = spinfer_col_groups((uint32_t)B->cols);
    bitmask_rows   rows;
    bitmask_record record;
    uint64_t       group;
    bitmask_begin_rows(B, row_group, &rows);
    for (group = 0; group < groups; group++) {
        uint32_t bytes;
        if (rows.has_zeros)
            bitmask_build_record(B, row_group, group, &rows, &record);
        else
            record.nnz = bitmask_count_group(B, row_group, group);
        bytes = spinfer_record_bytes(record.nnz);
        sum->nnz += record.nnz;
        sum->data_bytes += bytes;
        if (bytes > sum->max_record) sum->max_record = bytes;
        if (units) units[group] = bytes / 16;
    }
}

/* Writes the records of a row of GroupTiles. */
static inline void bitmask_build_row(const bitmask_matrix *B, uint64_t row_group, unsigned char *data)
{
    const uint64_t groups = spinfer_col_groups((uint32_t)B->cols);
    bitmask_rows   rows;
    bitmask_record record;
    uint64_t       group;
    bitmask_begin_rows(B, row_group, &rows);
    for (group = 0; group < groups; group++) {
        uint32_t bytes;
        bitmask_build_record(B, row_group, group, &rows, &record);
        bytes = spinfer_record_bytes(record.nnz);
        memcpy(data, record.tc_offsets, sizeof record.tc_offsets);
        memcpy(data + SPINFER_RECORD_BITMAPS, record.bitmaps, sizeof record.bitmaps);
        memcpy(data + SPINFER_RECORD_VALUES, record.values, bytes - SPINFER_RECORD_VALUES);
        data += bytes;
    }
}

/* One pass over a validated matrix: sizes, and the record sizes where units is not NULL. */
static inline spinfer_status bitmask_count(const bitmask_matrix *B, uint32_t *units, spinfer_sizes *sizes)
{
    const size_t    groups = spinfer_col_groups((uint32_t)B->cols);
    const long long row_groups = (long long)spinfer_row_groups((uint32_t)B->rows);
    uint64_t        nnz = 0, bytes = 0;
    uint32_t        max_record = 0;
    long long       row_group;
#ifdef _OPENMP
#pragma omp parallel for schedule(static) reduction(+ : nnz, bytes) reduction(max : max_record)
#endif
    for (row_group = 0; row_group < row_groups; row_group++) {
        spinfer_sizes sum = {0, 0, 0, 0};
        bitmask_count_row(B, (uint64_t)row_group, units ? units + (size_t)row_group * groups : NULL, &sum);
        nnz += sum.nnz;
        bytes += sum.data_bytes;
        if (sum.max_record > max_record) max_record = sum.max_record;
    }
    bytes = (bytes + 127) / 128 * 128;
    if (bytes / 16 > UINT32_MAX) return SPINFER_ERR_OVERFLOW;
    sizes->offsets_bytes = spinfer_offsets_bytes((size_t)B->rows, (size_t)B->cols);
    sizes->data_bytes = bytes;
    sizes->nnz = nnz;
    sizes->max_record = max_record;
    return SPINFER_OK;
}

/* bitmask_encode_sizes() : what bitmask_encode() will need; validates first.
 *   Errors    NULL, SHAPE, FORMAT, OVERFLOW */
static inline spinfer_status bitmask_encode_sizes(const bitmask_matrix *B, spinfer_sizes *sizes)
{
    const spinfer_status status = bitmask_validate(B, NULL);
    if (!sizes) return SPINFER_ERR_NULL;
    return status == SPINFER_OK ? bitmask_count(B, NULL, sizes) : status;
}

/* bitmask_encode() : bitmask -> TCA-BME; arguments as for spinfer_encode().
 *   Errors    NULL, SHAPE, ALIGNMENT, DTYPE, CAPACITY, OVERFLOW, FORMAT; then nothing was written.
 *   Threads   OpenMP over rows of GroupTiles; the result does not depend on them. */
static inline spinfer_status bitmask_encode(const bitmask_matrix *B, spinfer_dtype dtype, uint32_t *offsets,
                                            uint64_t offsets_bytes, void *data, uint64_t data_bytes,
                                            spinfer_matrix *matrix)
{
    spinfer_sizes  sizes;
    spinfer_status status;
    size_t         group, groups, in_row;
    uint32_t       unit = 0;
    long long      row_group, row_groups;
    if (!offsets || !data || !matrix) return SPINFER_ERR_NULL;
    if (dtype != SPINFER_FP16 && dtype != SPINFER_BF16) return SPINFER_ERR_DTYPE;
    if ((uintptr_t)offsets % 4 || (uintptr_t)data % 16) return SPINFER_ERR_ALIGNMENT;
    status = bitmask_encode_sizes(B, &sizes);
    if (status != SPINFER_OK) return status;
    if (offsets_bytes < sizes.offsets_bytes || data_bytes < sizes.data_bytes) return SPINFER_ERR_CAPACITY;

    bitmask_count(B, offsets, &sizes);
    groups = (size_t)(sizes.offsets_bytes / 4 - 1);
    for (group = 0; group < groups; group++) {
        const uint32_t units = offsets[group];
        offsets[group] = unit;
        unit += units;
    }
    offsets[groups] = unit;
    memset((unsigned char *)data + 16 * (size_t)unit, 0, (size_t)sizes.data_bytes - 16 * (size_t)unit);

    in_row = spinfer_col_groups((uint32_t)B->cols);
    row_groups = (long long)spinfer_row_groups((uint32_t)B->rows);
#ifdef _OPENMP
#pragma omp parallel for schedule(static)
#endif
    for (row_group = 0; row_group < row_groups; row_group++)
        bitmask_build_row(B, (uint64_t)row_group,
                          (unsigned char *)data + 16 * (size_t)offsets[(size_t)row_group * in_row]);
    matrix->offsets = offsets;
    matrix->data = data;
    matrix->data_bytes = sizes.data_bytes;
    matrix->rows = (uint32_t)B->rows;
    matrix->cols = (uint32_t)B->cols;
    matrix->group_ld = spinfer_col_groups((uint32_t)B->cols);
    matrix->max_record = sizes.max_record;
    matrix->dtype = (uint32_t)dtype;
    matrix->format = SPINFER_FORMAT_VERSION;
    return SPINFER_OK;
}

/* bitmask_decode() : bitmask -> dense [rows, cols], row-major with leading dimension ld >= cols; validates first. Every
 * element is written, what is not stored as +0. For what is no weight, like a one-dimensional tensor (rows = 1).
 *   Errors    NULL, SHAPE, ALIGNMENT, FORMAT; then nothing was written. */
static inline spinfer_status bitmask_decode(const bitmask_matrix *B, uint16_t *dense, size_t ld)
{
    const spinfer_status status = bitmask_validate(B, NULL);
    long long            row;
    if (!dense) return SPINFER_ERR_NULL;
    if (status != SPINFER_OK) return status;
    if (ld < B->cols || ld > SIZE_MAX / 2 / B->rows) return SPINFER_ERR_SHAPE;
    if ((uintptr_t)dense % 2) return SPINFER_ERR_ALIGNMENT;
#ifdef _OPENMP
#pragma omp parallel for schedule(static)
#endif
    for (row = 0; row < (long long)B->rows; row++) {
        const size_t         row_bytes = bitmask_row_bytes(B->cols);
        const uint8_t       *bytes = B->bitmask + (size_t)row * row_bytes;
        const unsigned char *value = bitmask_row_values(B, (uint64_t)row);
        uint16_t            *line = dense + (size_t)row * ld;
        size_t               col;
        for (col = 0; col < B->cols; col++) {
            uint16_t bits = 0;
            if (bytes[col / 8] >> col % 8 & 1) {
                memcpy(&bits, value, 2);
                value += 2;
            }
            line[col] = (bits & 0x7fff) ? bits : 0;
        }
    }
    return SPINFER_OK;
}

/* Adds up the bits of each of the 64 rows of a row of GroupTiles, and writes their bitmask where it is not NULL. */
static inline void bitmask_export_bits(const spinfer_matrix *W, size_t row_group, uint64_t *counts, uint8_t *bitmask)
{
    const size_t groups = spinfer_col_groups(W->cols), row_bytes = bitmask_row_bytes(W->cols);
    const size_t first_row = row_group * SPINFER_GROUP_ROWS;
    size_t       group;
    int          tile, r;
    for (group = 0; group < groups; group++) {
        const unsigned char *record = spinfer_detail_record(W, row_group, group);
        for (tile = 0; tile < SPINFER_GROUP_BITMAP_TILES; tile++) {
            const size_t row = first_row + (size_t)spinfer_bitmap_tile_row(tile);
            const size_t byte = group * (SPINFER_GROUP_COLS / 8) + (size_t)spinfer_bitmap_tile_col(tile) / 8;
            uint64_t     bits;
            memcpy(&bits, record + SPINFER_RECORD_BITMAPS + 8 * tile, 8);
            if (byte >= row_bytes) continue; /* padding */
            for (r = 0; r < 8 && row + (size_t)r < W->rows; r++, bits >>= 8) {
                counts[row + (size_t)r - first_row] += (uint64_t)spinfer_popcount((uint32_t)bits & 255u);
                if (bitmask) bitmask[(row + (size_t)r) * row_bytes + byte] = (uint8_t)bits;
            }
        }
    }
}

/* The values of 64 rows to where their rows begin; next[r] moves along row r. */
static inline void bitmask_export_values(const spinfer_matrix *W, size_t row_group, uint16_t **next)
{
    const size_t groups = spinfer_col_groups(W->cols);
    size_t       group;
    int          tile, r;
    for (group = 0; group < groups; group++) {
        const unsigned char *record = spinfer_detail_record(W, row_group, group);
        const unsigned char *value = record + SPINFER_RECORD_VALUES;
        for (tile = 0; tile < SPINFER_GROUP_BITMAP_TILES; tile++) {
            const int row = spinfer_bitmap_tile_row(tile);
            uint64_t  bits;
            memcpy(&bits, record + SPINFER_RECORD_BITMAPS + 8 * tile, 8);
            for (r = 0; bits; r++, bits >>= 8) {
                const int count = spinfer_popcount((uint32_t)bits & 255u);
                memcpy(next[row + r], value, 2 * (size_t)count);
                next[row + r] += count;
                value += 2 * count;
            }
        }
    }
}

/* bitmask_export_sizes() : number of values that bitmask_export() will write; the bitmask takes rows * ceil(cols / 8)
 * bytes and row_offsets 8 * rows.
 *   W         in   encoded matrix in host memory, trusted (spinfer_validate())
 *   Errors    NULL, SHAPE, ALIGNMENT, DTYPE, VERSION, FORMAT */
static inline spinfer_status bitmask_export_sizes(const spinfer_matrix *W, uint64_t *value_count)
{
    const spinfer_status status = spinfer_detail_check_matrix(W);
    uint64_t             values = 0;
    long long            row_group, row_groups;
    if (!value_count) return SPINFER_ERR_NULL;
    if (status != SPINFER_OK) return status;
    row_groups = (long long)spinfer_row_groups(W->rows);
#ifdef _OPENMP
#pragma omp parallel for schedule(static) reduction(+ : values)
#endif
    for (row_group = 0; row_group < row_groups; row_group++) {
        uint64_t counts[SPINFER_GROUP_ROWS] = {0};
        int      r;
        bitmask_export_bits(W, (size_t)row_group, counts, NULL);
        for (r = 0; r < SPINFER_GROUP_ROWS; r++) values += counts[r];
    }
    *value_count = values;
    return SPINFER_OK;
}

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
                                            uint8_t *bitmask, int64_t *row_offsets)
{
    uint64_t       needed, row, first = 0;
    spinfer_status status;
    long long      row_group, row_groups;
    if (!bitmask || !row_offsets || (!values && value_count)) return SPINFER_ERR_NULL;
    status = bitmask_export_sizes(W, &needed);
    if (status != SPINFER_OK) return status;
    if ((uintptr_t)values % 2 || (uintptr_t)row_offsets % 8) return SPINFER_ERR_ALIGNMENT;
    if (value_count < needed) return SPINFER_ERR_CAPACITY;
    row_groups = (long long)spinfer_row_groups(W->rows);
#ifdef _OPENMP
#pragma omp parallel for schedule(static)
#endif
    for (row_group = 0; row_group < row_groups; row_group++) {
        const size_t first_row = (size_t)row_group * SPINFER_GROUP_ROWS;
        uint64_t     counts[SPINFER_GROUP_ROWS] = {0};
        size_t       r;
        bitmask_export_bits(W, (size_t)row_group, counts, bitmask);
        for (r = 0; r < SPINFER_GROUP_ROWS && first_row + r < W->rows; r++)
            row_offsets[first_row + r] = (int64_t)counts[r];
    }
    for (row = 0; row < W->rows; row++) {
        const uint64_t count = (uint64_t)row_offsets[row];
        row_offsets[row] = (int64_t)first;
        first += count;
    }
#ifdef _OPENMP
#pragma omp parallel for schedule(static)
#endif
    for (row_group = 0; row_group < (needed ? row_groups : 0); row_group++) {
        const size_t first_row = (size_t)row_group * SPINFER_GROUP_ROWS;
        uint16_t    *next[SPINFER_GROUP_ROWS] = {NULL};
        size_t       r;
        for (r = 0; r < SPINFER_GROUP_ROWS && first_row + r < W->rows; r++)
            next[r] = values + row_offsets[first_row + r];
        bitmask_export_values(W, (size_t)row_group, next);
    }
    return SPINFER_OK;
}

#endif /* SPINFER_EXAMPLES_BITMASK_H */
