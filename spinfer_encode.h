/* spinfer_encode.h - v0.1.0 - the TCA-BME weight format: encode, decode, validate, slice, multiply on the host
 *
 *   One C99 header, nothing but the C standard library, every function static inline.
 *   License at the end of this file (Apache-2.0).
 *
 *   ENCODE A WEIGHT: sizes first, you allocate, then encode.
 *
 *       spinfer_sizes  sizes;
 *       spinfer_matrix W;
 *       spinfer_encode_sizes(dense, M, K, K, &sizes);                // dense: uint16_t [M, K], fp16 or bf16 bits
 *       uint32_t *offsets = malloc(sizes.offsets_bytes);
 *       void     *data    = aligned_alloc(16, sizes.data_bytes);
 *       spinfer_encode(dense, M, K, K, SPINFER_FP16, offsets, sizes.offsets_bytes, data, sizes.data_bytes, &W);
 *
 *   To use it on a GPU, copy the two arrays as they are and let a second spinfer_matrix point at the copies:
 *   the format is the same in every memory. spinfer.cuh multiplies it.
 *
 *   CONTENTS   1 Configuration   2 Format   3 Status   4 Structures   5 Bits and 16-bit floats
 *              6 Layout          7 Encode   8 Decode   9 Validate   10 Slice and concatenate   11 Multiply
 */
#ifndef SPINFER_ENCODE_H
#define SPINFER_ENCODE_H

#ifndef __CUDACC_RTC__
#include <stddef.h> /* size_t */
#include <stdint.h> /* uint16_t, uint32_t, uint64_t */
#include <string.h> /* memcpy, memset */
#endif

/* ---- 1. Configuration ------------------------------------------------------------------------ */

#define SPINFER_VERSION_MAJOR 0
#define SPINFER_VERSION_MINOR 1
#define SPINFER_VERSION_PATCH 0
#define SPINFER_VERSION (SPINFER_VERSION_MAJOR * 10000 + SPINFER_VERSION_MINOR * 100 + SPINFER_VERSION_PATCH)
#define SPINFER_VERSION_GE(major, minor)                                                                               \
    (SPINFER_VERSION_MAJOR > (major) || (SPINFER_VERSION_MAJOR == (major) && SPINFER_VERSION_MINOR >= (minor)))

/* Changes when the bytes of section 2 change. Files carry it as well. */
#define SPINFER_FORMAT_VERSION 1

/* #define SPINFER_NO_FORCEINLINE   debug builds: real functions with frames to step through, slow */

/* SPINFER_HD: a function of the host and of the device. The decode of a warp runs on a CPU because of it. */
#ifdef __CUDACC_RTC__
typedef unsigned char      uint8_t;
typedef unsigned short     uint16_t;
typedef unsigned int       uint32_t;
typedef unsigned long long uint64_t;
#endif
#if defined(__CUDACC__) && defined(SPINFER_NO_FORCEINLINE)
#define SPINFER_HD static __host__ __device__ __noinline__
#elif defined(__CUDACC__)
#define SPINFER_HD static __host__ __device__ __forceinline__
#else
#define SPINFER_HD static inline
#endif

/* ---- 2. Format: TCA-BME, version 1 -----------------------------------------------------------
 *
 * Tensor-Core-Aware Bitmap Encoding (SpInfer, EuroSys'25): one bit for every weight, values only for the nonzeros,
 * both in the order in which tensor-core operands want them. A weight is kept if (bits & 0x7fff) != 0: zeros of both
 * signs are dropped, subnormals, infinities and NaNs (payload included) stay.
 *
 * FIG 1, the tiles. W is [rows, cols], padded with zeros to whole GroupTiles.
 *
 *     GroupTile 64 x 32                  TCTile 16 x 16          BitmapTile 8 x 8
 *     +-------------+-------------+      +------+------+
 *     |  TCTile 0   |  TCTile 4   |      | BT 0 | BT 1 |         one uint64_t
 *     |  TCTile 1   |  TCTile 5   |      +------+------+         bit 8 * row + col
 *     |  TCTile 2   |  TCTile 6   |      | BT 2 | BT 3 |
 *     |  TCTile 3   |  TCTile 7   |      +------+------+
 *     +-------------+-------------+      = one A operand of mma.m16n8k16
 *      cols 0..15    cols 16..31
 *
 *     BitmapTile number inside its GroupTile = 4 * TCTile + BT, 0..31: one for each lane of a warp.
 *
 * FIG 2, the bits of a BitmapTile, and the lane that owns them (section 4 of spinfer.cuh)
 *
 *              bit number                     left tile (BT 0, 2)   right tile (BT 1, 3)
 *     row 0 |  0  1  2  3  4  5  6  7         L0           L1       L2           L3
 *     row 1 |  8  9 10 11 12 13 14 15         L4           L5       L6           L7
 *      ...                                     ...                   ...
 *     row 7 | 56 57 58 59 60 61 62 63         L28          L29      L30          L31
 *
 *     The value of a set bit is values[rank], rank = number of set bits before it.
 *     Example: row 0 = # . . # # . . .   L0 owns bits 0..3: bit 0 -> values[0], bit 3 -> values[1]
 *                                        L1 owns bits 4..7: bit 4 -> values[2]
 *
 * FIG 3, the two arrays
 *
 *     offsets   uint32_t [row_groups * group_ld + 1], in units of 16 bytes: record g is the bytes
 *               16 * offsets[g] .. 16 * offsets[g + 1] of data, g = (row / 64) * group_ld + col / 32
 *
 *     data      one record for each GroupTile, 16-byte aligned, in the order of g; zeros up to a multiple of 128 bytes
 *
 *        byte 0          16                        272                          272 + 2 * nnz
 *        +--------------+-------------------------+----------------------------+-----------------+
 *        | tc_offsets   | bitmaps                 | values                     | 0 to 7 zeros    |
 *        | uint16_t [8] | uint64_t [32]           | uint16_t [nnz]             | to 16 bytes     |
 *        +--------------+-------------------------+----------------------------+-----------------+
 *
 *     tc_offsets[t] = number of values of the TCTiles before TCTile t of this record (tc_offsets[0] = 0).
 *     values: TCTile by TCTile, BitmapTile by BitmapTile, by rising bit number.
 *
 * Why one record instead of an array for each kind: a warp fetches bitmaps and values by one bulk copy (a separate
 * bitmap stream cost 10 % on an H200). Why tc_offsets (0.7 % of the bytes at 50 % density): a reader can start at any
 * TCTile, and a warp needs no scan across all of its lanes. Why 64 x 32: a stage of 2.3 KB at 50 % lets 24 warps of an
 * SM own private two-stage buffers, and widths like 1376 or 1440 (tensor-parallel shards) need no padding.
 *
 * All numbers are little-endian.
 * Bytes = 4 (groups + 1) + roundup128(sum over groups of roundup16(272 + 2 nnz)): 9.1 bits a weight at 50 % density. */

#define SPINFER_GROUP_ROWS 64
#define SPINFER_GROUP_COLS 32
#define SPINFER_GROUP_TC_TILES 8
#define SPINFER_GROUP_BITMAP_TILES 32
#define SPINFER_GROUP_ELEMENTS 2048
#define SPINFER_RECORD_BITMAPS 16     /* byte offset of the bitmaps in a record                 */
#define SPINFER_RECORD_VALUES 272     /* byte offset of the values in a record                  */
#define SPINFER_RECORD_MAX_BYTES 4368 /* a record without any zero                              */
#define SPINFER_MAX_DIM 0x7fffffc0u   /* rows and cols, so that their padded size fits 31 bits  */

/* ---- 3. Status -------------------------------------------------------------------------------
 *
 * Every function that can fail returns one of these, for both headers. Values are stable: new ones are added, none is
 * renumbered. A function that fails has written nothing and launched nothing. */

typedef enum spinfer_status {
    SPINFER_OK = 0,
    SPINFER_ERR_NULL = 1,      /* a required pointer is NULL                                         */
    SPINFER_ERR_SHAPE = 2,     /* a dimension, leading dimension or slice bound is out of range      */
    SPINFER_ERR_ALIGNMENT = 3, /* a pointer is not aligned as its documentation asks                 */
    SPINFER_ERR_DTYPE = 4,     /* not a spinfer_dtype, or dtypes that differ                         */
    SPINFER_ERR_CAPACITY = 10, /* a destination or workspace is smaller than its size query said     */
    SPINFER_ERR_OVERFLOW = 11, /* the encoded matrix exceeds 64 GiB, the reach of 32-bit offsets     */
    SPINFER_ERR_FORMAT = 20,   /* spinfer_validate(): the arrays contradict each other               */
    SPINFER_ERR_VERSION = 21,  /* the matrix has another format version                              */
    SPINFER_ERR_ARCH = 30,     /* the GPU is older than sm_80, or the plan asks for what it lacks    */
    SPINFER_ERR_PLAN = 31,     /* a plan whose numbers contradict each other or the matrix           */
    SPINFER_ERR_SMEM = 32,     /* the plan needs more shared memory than the GPU has                 */
    SPINFER_ERR_CUDA = 90      /* the CUDA runtime failed; cudaPeekAtLastError() has its code        */
} spinfer_status;

#ifndef __CUDACC_RTC__

/* spinfer_status_string() : one English sentence without a full stop. Never NULL, static storage. */
static inline const char *spinfer_status_string(spinfer_status status)
{
    switch (status) {
    case SPINFER_OK: return "success";
    case SPINFER_ERR_NULL: return "a required pointer is NULL";
    case SPINFER_ERR_SHAPE: return "a dimension, leading dimension or slice bound is out of range";
    case SPINFER_ERR_ALIGNMENT: return "a pointer is not aligned as required";
    case SPINFER_ERR_DTYPE: return "unknown or differing data types";
    case SPINFER_ERR_CAPACITY: return "a destination or workspace is too small";
    case SPINFER_ERR_OVERFLOW: return "the encoded matrix exceeds 64 GiB";
    case SPINFER_ERR_FORMAT: return "the arrays of the encoded matrix contradict each other";
    case SPINFER_ERR_VERSION: return "the encoded matrix has another format version";
    case SPINFER_ERR_ARCH: return "the GPU lacks what the kernel needs (sm_80 or newer)";
    case SPINFER_ERR_PLAN: return "the plan contradicts itself or the matrix";
    case SPINFER_ERR_SMEM: return "the plan needs more shared memory than the GPU has";
    case SPINFER_ERR_CUDA: return "the CUDA runtime reported an error";
    }
    return "unknown status";
}

#endif /* !__CUDACC_RTC__ */

/* ---- 4. Structures --------------------------------------------------------------------------- */

typedef enum spinfer_dtype {
    SPINFER_FP16 = 1, /* IEEE binary16 */
    SPINFER_BF16 = 2  /* bfloat16      */
} spinfer_dtype;

/* spinfer_matrix : an encoded weight, or a slice of one. A plain struct to copy by value; it owns nothing.
 * The two pointers are both host memory or both device memory; which one is the caller's knowledge. */
typedef struct spinfer_matrix {
    const uint32_t *offsets;    /* [row_groups * group_ld + 1], see FIG 3                                   */
    const void     *data;       /* records, 16-byte aligned; 128-byte aligned in device memory              */
    uint64_t        data_bytes; /* bytes that data points at; a slice keeps the number of its parent        */
    uint32_t        rows;       /* M, 1 .. SPINFER_MAX_DIM, without padding                                 */
    uint32_t        cols;       /* K, 1 .. SPINFER_MAX_DIM, without padding                                 */
    uint32_t        group_ld;   /* offsets from one row of GroupTiles to the next; >= groups in a row       */
    uint32_t        max_record; /* bytes of the largest record; a slice keeps the number of its parent      */
    uint32_t        dtype;      /* spinfer_dtype                                                            */
    uint32_t        format;     /* SPINFER_FORMAT_VERSION                                                   */
} spinfer_matrix;

/* spinfer_sizes : what the two arrays of an encoded matrix need. */
typedef struct spinfer_sizes {
    uint64_t offsets_bytes; /* of the offsets array                */
    uint64_t data_bytes;    /* of the data array                   */
    uint64_t nnz;           /* kept weights                        */
    uint32_t max_record;    /* bytes of the largest record         */
} spinfer_sizes;

/* ---- 5. Bits and 16-bit floats --------------------------------------------------------------- */

/* spinfer_popcount() : number of set bits of a 32-bit word. On the device one POPC instruction. */
SPINFER_HD int spinfer_popcount(uint32_t word)
{
#if defined(__CUDA_ARCH__)
    return __popc(word);
#elif defined(__GNUC__) && !defined(__CUDACC_RTC__)
    return __builtin_popcount(word);
#else
    word = word - ((word >> 1) & 0x55555555u);
    word = (word & 0x33333333u) + ((word >> 2) & 0x33333333u);
    return (int)((((word + (word >> 4)) & 0x0f0f0f0fu) * 0x01010101u) >> 24);
#endif
}

/* spinfer_popcount64() : number of set bits of a bitmap. */
SPINFER_HD int spinfer_popcount64(uint64_t bits)
{
    return spinfer_popcount((uint32_t)bits) + spinfer_popcount((uint32_t)(bits >> 32));
}

#ifndef __CUDACC_RTC__

/* spinfer_detail_lowest_bit() : number of the lowest set bit; bits != 0. */
static inline int spinfer_detail_lowest_bit(uint64_t bits)
{
#if defined(__GNUC__)
    return __builtin_ctzll(bits);
#else
    return spinfer_popcount64((bits & (0 - bits)) - 1);
#endif
}

/* spinfer_to_float() : the value of 16 bits, exactly. NaN payloads move to the top of the fp32 payload. */
static inline float spinfer_to_float(uint16_t bits, spinfer_dtype dtype)
{
    uint32_t word;
    float    value;
    if (dtype == SPINFER_BF16) {
        word = (uint32_t)bits << 16;
    } else {
        const uint32_t sign = (uint32_t)(bits & 0x8000u) << 16, rest = bits & 0x7fffu;
        if (rest >= 0x7c00u) {
            word = 0x7f800000u | (rest & 0x3ffu) << 13;
        } else if (rest >= 0x400u) {
            word = (rest << 13) + (112u << 23); /* exponent bias 15 -> 127 */
        } else {                                /* subnormal: rest * 2^-24 */
            value = (float)rest * 5.9604644775390625e-8f;
            memcpy(&word, &value, 4);
        }
        word |= sign;
    }
    memcpy(&value, &word, 4);
    return value;
}

/* spinfer_detail_fp16_bits() : the nearest fp16 of a float without its sign. Weights spread over normal and subnormal
 * numbers, which a branch cannot predict: all cases are computed, and masks choose (four times as fast, gcc -O2). */
static inline uint32_t spinfer_detail_fp16_bits(uint32_t rest)
{
    const uint32_t subnormal = 0u - (rest < 0x38800000u); /* below 2^-14           */
    const uint32_t infinite = 0u - (rest >= 0x477ff000u); /* 65520 and above, NaN  */
    const uint32_t nan = 0u - (rest > 0x7f800000u);
    const uint32_t normal_bits = (rest - (112u << 23) + 0xfffu + ((rest >> 13) & 1u)) >> 13; /* bias 127 -> 15 */
    uint32_t       subnormal_bits, bits;
    float          value;
    memcpy(&value, &rest, 4);
    value += 0.5f; /* lets the fp32 adder round at 2^-24 */
    memcpy(&subnormal_bits, &value, 4);
    subnormal_bits -= 0x3f000000u;
    bits = (normal_bits & ~subnormal) | (subnormal_bits & subnormal);
    bits = (bits & ~infinite) | (0x7c00u & infinite);
    return bits | (nan & (0x200u | (rest >> 13 & 0x3ffu))); /* the top of the payload, quiet */
}

/* spinfer_from_float() : the nearest 16-bit value, ties to even; overflow gives infinity, NaN stays NaN. */
static inline uint16_t spinfer_from_float(float value, spinfer_dtype dtype)
{
    uint32_t word, sign, rest;
    memcpy(&word, &value, 4);
    sign = (word >> 16) & 0x8000u;
    rest = word & 0x7fffffffu;
    if (dtype != SPINFER_BF16) return (uint16_t)(sign | spinfer_detail_fp16_bits(rest));
    if (rest > 0x7f800000u) return (uint16_t)((word >> 16) | 0x40u); /* NaN: the top of the payload, quiet */
    return (uint16_t)(sign | ((rest + 0x7fffu + ((rest >> 16) & 1u)) >> 16));
}

#endif /* !__CUDACC_RTC__ */

/* ---- 6. Layout -------------------------------------------------------------------------------
 *
 * FIG 1 and FIG 2 as functions. Encoder, decoder, kernels, tests and figures all ask here. */

/* spinfer_row_groups(), spinfer_col_groups() : GroupTiles along rows and along columns. */
SPINFER_HD uint32_t spinfer_row_groups(uint32_t rows) { return (rows + SPINFER_GROUP_ROWS - 1) / SPINFER_GROUP_ROWS; }
SPINFER_HD uint32_t spinfer_col_groups(uint32_t cols) { return (cols + SPINFER_GROUP_COLS - 1) / SPINFER_GROUP_COLS; }

/* spinfer_tc_tile_row(), spinfer_tc_tile_col() : first row and column of TCTile 0..7 inside its GroupTile. */
SPINFER_HD int spinfer_tc_tile_row(int tc_tile) { return 16 * (tc_tile % 4); }
SPINFER_HD int spinfer_tc_tile_col(int tc_tile) { return 16 * (tc_tile / 4); }

/* spinfer_bitmap_tile_row(), spinfer_bitmap_tile_col() : the same for BitmapTile 0..31. */
SPINFER_HD int spinfer_bitmap_tile_row(int tile) { return spinfer_tc_tile_row(tile / 4) + 8 * (tile / 2 % 2); }
SPINFER_HD int spinfer_bitmap_tile_col(int tile) { return spinfer_tc_tile_col(tile / 4) + 8 * (tile % 2); }

/* spinfer_bitmap_tile_at(), spinfer_bitmap_bit_at() : the BitmapTile and its bit for (row, col) of a GroupTile. */
SPINFER_HD int spinfer_bitmap_tile_at(int row, int col)
{
    return 16 * (col / 16) + 4 * (row / 16) + 2 * (row / 8 % 2) + col / 8 % 2;
}
SPINFER_HD int spinfer_bitmap_bit_at(int row, int col) { return 8 * (row % 8) + col % 8; }

/* spinfer_record_bytes() : bytes of a record with nnz values. */
SPINFER_HD uint32_t spinfer_record_bytes(uint32_t nnz) { return SPINFER_RECORD_VALUES + (2 * nnz + 15) / 16 * 16; }

#ifndef __CUDACC_RTC__

/* spinfer_offsets_bytes() : size of the offsets array of a [rows, cols] matrix, or 0 for an illegal shape. */
static inline uint64_t spinfer_offsets_bytes(size_t rows, size_t cols)
{
    if (rows < 1 || cols < 1 || rows > SPINFER_MAX_DIM || cols > SPINFER_MAX_DIM) return 0;
    return 4 * ((uint64_t)spinfer_row_groups((uint32_t)rows) * spinfer_col_groups((uint32_t)cols) + 1);
}

/* ---- 7. Encode ------------------------------------------------------------------------------- */

/* A GroupTile as a whole 64 x 32 block: inside the matrix where it lies, at an edge a zero-padded copy. */
static inline const uint16_t *spinfer_detail_group_block(const uint16_t *dense, size_t rows, size_t cols, size_t ld,
                                                         size_t row, size_t col, uint16_t *copy, size_t *block_ld)
{
    const uint16_t *block = dense + row * ld + col;
    const size_t    height = rows - row < SPINFER_GROUP_ROWS ? rows - row : SPINFER_GROUP_ROWS;
    const size_t    width = cols - col < SPINFER_GROUP_COLS ? cols - col : SPINFER_GROUP_COLS;
    size_t          r;
    *block_ld = ld;
    if (height == SPINFER_GROUP_ROWS && width == SPINFER_GROUP_COLS) return block;
    *block_ld = SPINFER_GROUP_COLS;
    memset(copy, 0, SPINFER_GROUP_ELEMENTS * sizeof *copy);
    for (r = 0; r < height; r++) memcpy(copy + r * SPINFER_GROUP_COLS, block + r * ld, width * sizeof *copy);
    return copy;
}

static inline uint32_t spinfer_detail_count(const uint16_t *block, size_t ld)
{
    uint32_t nnz = 0;
    int      row, col;
    for (row = 0; row < SPINFER_GROUP_ROWS; row++) {
        const uint16_t *line = block + (size_t)row * ld;
        uint16_t        kept = 0; /* 16 bits wide like the data, so that compilers vectorise the loop */
        for (col = 0; col < SPINFER_GROUP_COLS; col++) kept = (uint16_t)(kept + ((line[col] & 0x7fffu) != 0));
        nnz += kept;
    }
    return nnz;
}

/* Writes one record and returns its bytes. The values go through a buffer because the branch-free loop stores one
 * element past the last kept one. */
static inline uint32_t spinfer_detail_write_record(const uint16_t *block, size_t ld, unsigned char *record)
{
    uint16_t tc_offsets[SPINFER_GROUP_TC_TILES], values[SPINFER_GROUP_ELEMENTS + 8];
    uint64_t bitmaps[SPINFER_GROUP_BITMAP_TILES];
    uint32_t nnz = 0, bytes;
    int      tile, row, col;
    for (tile = 0; tile < SPINFER_GROUP_BITMAP_TILES; tile++) {
        const uint16_t *corner =
            block + (size_t)spinfer_bitmap_tile_row(tile) * ld + (size_t)spinfer_bitmap_tile_col(tile);
        uint64_t bits = 0;
        if (tile % 4 == 0) tc_offsets[tile / 4] = (uint16_t)nnz;
        for (row = 0; row < 8; row++) {
            uint32_t kept_bits = 0;
            for (col = 0; col < 8; col++) {
                const uint16_t value = corner[(size_t)row * ld + (size_t)col];
                const uint32_t kept = (value & 0x7fffu) != 0;
                values[nnz] = value;
                nnz += kept;
                kept_bits |= kept << col;
            }
            bits |= (uint64_t)kept_bits << (8 * row);
        }
        bitmaps[tile] = bits;
    }
    memset(values + nnz, 0, 8 * sizeof *values);
    bytes = spinfer_record_bytes(nnz);
    memcpy(record, tc_offsets, sizeof tc_offsets);
    memcpy(record + SPINFER_RECORD_BITMAPS, bitmaps, sizeof bitmaps);
    memcpy(record + SPINFER_RECORD_VALUES, values, bytes - SPINFER_RECORD_VALUES);
    return bytes;
}

static inline spinfer_status spinfer_detail_check_dense(const void *dense, size_t rows, size_t cols, size_t ld)
{
    if (!dense) return SPINFER_ERR_NULL;
    if (rows < 1 || cols < 1 || rows > SPINFER_MAX_DIM || cols > SPINFER_MAX_DIM || ld < cols) return SPINFER_ERR_SHAPE;
    if (ld > SIZE_MAX / 2 / rows) return SPINFER_ERR_SHAPE; /* rows * ld * 2 bytes would overflow size_t */
    if ((uintptr_t)dense % 2) return SPINFER_ERR_ALIGNMENT;
    return SPINFER_OK;
}

/* Counts the values of one row of GroupTiles; writes the record sizes in units of 16 bytes where units is not NULL. */
static inline void spinfer_detail_count_row(const uint16_t *dense, size_t rows, size_t cols, size_t ld,
                                            size_t row_group, uint32_t *units, uint64_t *nnz, uint64_t *bytes,
                                            uint32_t *max_record)
{
    const size_t groups = spinfer_col_groups((uint32_t)cols);
    uint16_t     copy[SPINFER_GROUP_ELEMENTS];
    size_t       group, block_ld;
    for (group = 0; group < groups; group++) {
        const uint16_t *block = spinfer_detail_group_block(dense, rows, cols, ld, row_group * SPINFER_GROUP_ROWS,
                                                           group * SPINFER_GROUP_COLS, copy, &block_ld);
        const uint32_t  kept = spinfer_detail_count(block, block_ld), record = spinfer_record_bytes(kept);
        *nnz += kept;
        *bytes += record;
        if (record > *max_record) *max_record = record;
        if (units) units[row_group * groups + group] = record / 16;
    }
}

/* spinfer_encode_sizes() : what spinfer_encode() will need for this matrix. One pass over the input.
 *
 *   dense     in   fp16 or bf16 bits [rows, cols] row-major, row r starts at dense + r * ld. Host, 2-byte aligned.
 *   rows      in   M, 1 .. SPINFER_MAX_DIM
 *   cols      in   K, 1 .. SPINFER_MAX_DIM
 *   ld        in   elements from one row to the next, >= cols
 *   sizes     out  bytes of both arrays, number of kept weights, largest record
 *
 *   Errors    NULL, SHAPE, ALIGNMENT, OVERFLOW
 *   Threads   OpenMP over rows of GroupTiles where the compiler has it; the result does not depend on them. */
static inline spinfer_status spinfer_encode_sizes(const uint16_t *dense, size_t rows, size_t cols, size_t ld,
                                                  spinfer_sizes *sizes)
{
    const spinfer_status status = spinfer_detail_check_dense(dense, rows, cols, ld);
    uint64_t             nnz = 0, bytes = 0;
    uint32_t             max_record = 0;
    long long            row_group, row_groups;
    if (!sizes) return SPINFER_ERR_NULL;
    if (status != SPINFER_OK) return status;
    row_groups = (long long)spinfer_row_groups((uint32_t)rows);
#ifdef _OPENMP
#pragma omp parallel for schedule(static) reduction(+ : nnz, bytes) reduction(max : max_record)
#endif
    for (row_group = 0; row_group < row_groups; row_group++)
        spinfer_detail_count_row(dense, rows, cols, ld, (size_t)row_group, NULL, &nnz, &bytes, &max_record);
    bytes = (bytes + 127) / 128 * 128;
    if (bytes / 16 > UINT32_MAX) return SPINFER_ERR_OVERFLOW;
    sizes->offsets_bytes = spinfer_offsets_bytes(rows, cols);
    sizes->data_bytes = bytes;
    sizes->nnz = nnz;
    sizes->max_record = max_record;
    return SPINFER_OK;
}

/* spinfer_encode() : dense -> TCA-BME, bit-exact.
 *
 *   dense, rows, cols, ld    in   as above
 *   dtype                    in   what the bits mean; the encoder does not look
 *   offsets, offsets_bytes   out  host memory of at least sizes.offsets_bytes, 4-byte aligned
 *   data, data_bytes         out  host memory of at least sizes.data_bytes, 16-byte aligned
 *   matrix                   out  describes both arrays
 *
 *   Errors    NULL, SHAPE, ALIGNMENT, DTYPE, CAPACITY, OVERFLOW; then nothing was written.
 *   Passes    three over the input: check the capacity, place the records, fill them. */
static inline spinfer_status spinfer_encode(const uint16_t *dense, size_t rows, size_t cols, size_t ld,
                                            spinfer_dtype dtype, uint32_t *offsets, uint64_t offsets_bytes, void *data,
                                            uint64_t data_bytes, spinfer_matrix *matrix)
{
    spinfer_sizes  sizes;
    spinfer_status status;
    uint64_t       group, groups;
    uint32_t       unit = 0;
    long long      row_group, row_groups;
    if (!offsets || !data || !matrix) return SPINFER_ERR_NULL;
    if (dtype != SPINFER_FP16 && dtype != SPINFER_BF16) return SPINFER_ERR_DTYPE;
    if ((uintptr_t)offsets % 4 || (uintptr_t)data % 16) return SPINFER_ERR_ALIGNMENT;
    status = spinfer_encode_sizes(dense, rows, cols, ld, &sizes);
    if (status != SPINFER_OK) return status;
    if (offsets_bytes < sizes.offsets_bytes || data_bytes < sizes.data_bytes) return SPINFER_ERR_CAPACITY;

    row_groups = (long long)spinfer_row_groups((uint32_t)rows);
#ifdef _OPENMP
#pragma omp parallel for schedule(static)
#endif
    for (row_group = 0; row_group < row_groups; row_group++) {
        uint64_t nnz = 0, bytes = 0;
        uint32_t max_record = 0;
        spinfer_detail_count_row(dense, rows, cols, ld, (size_t)row_group, offsets, &nnz, &bytes, &max_record);
    }
    groups = sizes.offsets_bytes / 4 - 1;
    for (group = 0; group < groups; group++) {
        const uint32_t units = offsets[group];
        offsets[group] = unit;
        unit += units;
    }
    offsets[groups] = unit;
    memset((unsigned char *)data + 16 * (size_t)unit, 0, (size_t)sizes.data_bytes - 16 * (size_t)unit);

#ifdef _OPENMP
#pragma omp parallel for schedule(static)
#endif
    for (row_group = 0; row_group < row_groups; row_group++) {
        const size_t in_row = spinfer_col_groups((uint32_t)cols);
        uint16_t     copy[SPINFER_GROUP_ELEMENTS];
        size_t       col_group, block_ld;
        for (col_group = 0; col_group < in_row; col_group++) {
            const uint16_t *block =
                spinfer_detail_group_block(dense, rows, cols, ld, (size_t)row_group * SPINFER_GROUP_ROWS,
                                           col_group * SPINFER_GROUP_COLS, copy, &block_ld);
            spinfer_detail_write_record(
                block, block_ld, (unsigned char *)data + 16 * (size_t)offsets[(size_t)row_group * in_row + col_group]);
        }
    }
    matrix->offsets = offsets;
    matrix->data = data;
    matrix->data_bytes = sizes.data_bytes;
    matrix->rows = (uint32_t)rows;
    matrix->cols = (uint32_t)cols;
    matrix->group_ld = spinfer_col_groups((uint32_t)cols);
    matrix->max_record = sizes.max_record;
    matrix->dtype = (uint32_t)dtype;
    matrix->format = SPINFER_FORMAT_VERSION;
    return SPINFER_OK;
}

/* ---- 8. Decode ------------------------------------------------------------------------------- */

static inline const unsigned char *spinfer_detail_record(const spinfer_matrix *W, size_t row_group, size_t col_group)
{
    return (const unsigned char *)W->data + 16 * (size_t)W->offsets[row_group * W->group_ld + col_group];
}

/* What can be checked of a matrix without reading its arrays. */
static inline spinfer_status spinfer_detail_check_matrix(const spinfer_matrix *W)
{
    if (!W || !W->offsets || !W->data) return SPINFER_ERR_NULL;
    if (W->format != SPINFER_FORMAT_VERSION) return SPINFER_ERR_VERSION;
    if (W->dtype != SPINFER_FP16 && W->dtype != SPINFER_BF16) return SPINFER_ERR_DTYPE;
    if (W->rows < 1 || W->cols < 1 || W->rows > SPINFER_MAX_DIM || W->cols > SPINFER_MAX_DIM) return SPINFER_ERR_SHAPE;
    if (W->group_ld < spinfer_col_groups(W->cols) || W->group_ld > spinfer_col_groups(SPINFER_MAX_DIM))
        return SPINFER_ERR_SHAPE;
    if (W->max_record < SPINFER_RECORD_VALUES || W->max_record > SPINFER_RECORD_MAX_BYTES || W->max_record % 16)
        return SPINFER_ERR_FORMAT;
    if ((uintptr_t)W->offsets % 4 || (uintptr_t)W->data % 16) return SPINFER_ERR_ALIGNMENT;
    return SPINFER_OK;
}

/* Expands one record into a 64 x 32 block of fp16 or bf16 bits; every element is written. It walks the set bits,
 * because a branch for each weight would be mispredicted half of the time. */
static inline void spinfer_detail_read_record(const unsigned char *record, uint16_t *block)
{
    const unsigned char *value = record + SPINFER_RECORD_VALUES;
    int                  tile;
    memset(block, 0, SPINFER_GROUP_ELEMENTS * sizeof *block);
    for (tile = 0; tile < SPINFER_GROUP_BITMAP_TILES; tile++) {
        uint16_t *corner = block + spinfer_bitmap_tile_row(tile) * SPINFER_GROUP_COLS + spinfer_bitmap_tile_col(tile);
        uint64_t  bits;
        memcpy(&bits, record + SPINFER_RECORD_BITMAPS + 8 * tile, 8);
        for (; bits; bits &= bits - 1, value += 2) {
            const int bit = spinfer_detail_lowest_bit(bits);
            memcpy(corner + bit / 8 * SPINFER_GROUP_COLS + bit % 8, value, 2);
        }
    }
}

/* spinfer_decode() : TCA-BME -> dense, bit-exact but for the sign of zeros, which come back as +0.
 *
 *   W         in   encoded matrix in host memory. Trusted: run spinfer_validate() on what you did not encode.
 *   dense     out  [rows, cols] row-major, every element written. Host, 2-byte aligned.
 *   ld        in   elements from one row to the next, >= cols; the gap behind a row is not written
 *
 *   Errors    NULL, SHAPE, ALIGNMENT, DTYPE, VERSION, FORMAT */
static inline spinfer_status spinfer_decode(const spinfer_matrix *W, uint16_t *dense, size_t ld)
{
    spinfer_status status = spinfer_detail_check_matrix(W);
    long long      row_group, row_groups;
    if (status == SPINFER_OK) status = spinfer_detail_check_dense(dense, W->rows, W->cols, ld);
    if (status != SPINFER_OK) return status;
    row_groups = (long long)spinfer_row_groups(W->rows);
#ifdef _OPENMP
#pragma omp parallel for schedule(static)
#endif
    for (row_group = 0; row_group < row_groups; row_group++) {
        const size_t groups = spinfer_col_groups(W->cols), row = (size_t)row_group * SPINFER_GROUP_ROWS;
        const size_t height = W->rows - row < SPINFER_GROUP_ROWS ? W->rows - row : SPINFER_GROUP_ROWS;
        uint16_t     block[SPINFER_GROUP_ELEMENTS];
        size_t       group, r;
        for (group = 0; group < groups; group++) {
            const size_t col = group * SPINFER_GROUP_COLS;
            const size_t width = W->cols - col < SPINFER_GROUP_COLS ? W->cols - col : SPINFER_GROUP_COLS;
            spinfer_detail_read_record(spinfer_detail_record(W, (size_t)row_group, group), block);
            for (r = 0; r < height; r++)
                memcpy(dense + (row + r) * ld + col, block + r * SPINFER_GROUP_COLS, width * sizeof *block);
        }
    }
    return SPINFER_OK;
}

/* ---- 9. Validate ----------------------------------------------------------------------------- */

/* The bits of BitmapTile `tile` that lie inside a GroupTile of which only height x width is part of the matrix. */
static inline uint64_t spinfer_detail_inside_bits(int tile, uint32_t height, uint32_t width)
{
    const int row = spinfer_bitmap_tile_row(tile), col = spinfer_bitmap_tile_col(tile);
    uint64_t  bits = 0;
    int       bit;
    for (bit = 0; bit < 64; bit++)
        if ((uint32_t)(row + bit / 8) < height && (uint32_t)(col + bit % 8) < width) bits |= (uint64_t)1 << bit;
    return bits;
}

static inline int spinfer_detail_record_is_valid(const unsigned char *record, uint64_t record_bytes, uint32_t height,
                                                 uint32_t width)
{
    uint16_t tc_offsets[SPINFER_GROUP_TC_TILES], zero[8] = {0};
    uint32_t nnz = 0;
    int      tile;
    if (record_bytes < SPINFER_RECORD_VALUES) return 0;
    memcpy(tc_offsets, record, sizeof tc_offsets);
    for (tile = 0; tile < SPINFER_GROUP_BITMAP_TILES; tile++) {
        uint64_t bits;
        memcpy(&bits, record + SPINFER_RECORD_BITMAPS + 8 * tile, 8);
        if (tile % 4 == 0 && tc_offsets[tile / 4] != nnz) return 0;
        if ((height < SPINFER_GROUP_ROWS || width < SPINFER_GROUP_COLS) &&
            (bits & ~spinfer_detail_inside_bits(tile, height, width)))
            return 0;
        nnz += (uint32_t)spinfer_popcount64(bits);
    }
    if (record_bytes != spinfer_record_bytes(nnz)) return 0;
    return memcmp(record + SPINFER_RECORD_VALUES + 2 * nnz, zero, record_bytes - SPINFER_RECORD_VALUES - 2 * nnz) == 0;
}

/* spinfer_validate() : may this matrix be decoded and multiplied? For arrays from a file or any other untrusted place.
 *
 *   W              in   encoded matrix in host memory; nothing in it is trusted but that the pointers may be read for
 *   offsets_bytes  in   bytes behind W->offsets, and
 *   data_bytes     in   bytes behind W->data (W->data_bytes must not exceed it)
 *
 *   Checks    shape, dtype and version; that the offsets rise and stay inside; that every record has the size, the
 *             tc_offsets and the padding that its bitmaps ask for, and no bit outside of the matrix; that no record
 *             exceeds max_record. Values are not looked at: every 16-bit pattern is legal. After SPINFER_OK no function
 *             of this library reads or writes out of bounds because of W.
 *   Cost      reads offsets and bitmaps once, O(rows * cols)
 *   Errors    NULL, SHAPE, ALIGNMENT, DTYPE, VERSION, CAPACITY (arrays too short), FORMAT (contradiction) */
static inline spinfer_status spinfer_validate(const spinfer_matrix *W, uint64_t offsets_bytes, uint64_t data_bytes)
{
    const spinfer_status status = spinfer_detail_check_matrix(W);
    long long            row_group, row_groups;
    uint64_t             groups, needed;
    int                  bad = 0;
    if (status != SPINFER_OK) return status;
    row_groups = (long long)spinfer_row_groups(W->rows);
    groups = spinfer_col_groups(W->cols);
    needed = ((uint64_t)row_groups - 1) * W->group_ld + groups + 1; /* < 2^52: no overflow */
    if (offsets_bytes / 4 < needed || W->data_bytes > data_bytes) return SPINFER_ERR_CAPACITY;
    if (W->data_bytes % 128) return SPINFER_ERR_FORMAT;
#ifdef _OPENMP
#pragma omp parallel for schedule(static) reduction(| : bad)
#endif
    for (row_group = 0; row_group < row_groups; row_group++) {
        const uint32_t *offsets = W->offsets + (size_t)row_group * W->group_ld;
        const uint64_t  left = W->rows - (uint64_t)row_group * SPINFER_GROUP_ROWS;
        const uint32_t  height = left < SPINFER_GROUP_ROWS ? (uint32_t)left : SPINFER_GROUP_ROWS;
        uint64_t        group;
        for (group = 0; group < groups && !bad; group++) {
            const uint64_t begin = 16 * (uint64_t)offsets[group], end = 16 * (uint64_t)offsets[group + 1];
            const uint64_t right = W->cols - group * SPINFER_GROUP_COLS;
            const uint32_t width = right < SPINFER_GROUP_COLS ? (uint32_t)right : SPINFER_GROUP_COLS;
            if (end < begin || end > W->data_bytes || end - begin > W->max_record ||
                !spinfer_detail_record_is_valid((const unsigned char *)W->data + begin, end - begin, height, width))
                bad = 1;
        }
    }
    return bad ? SPINFER_ERR_FORMAT : SPINFER_OK;
}

/* ---- 10. Slice and concatenate ---------------------------------------------------------------
 *
 * Tensor parallelism and fused projections without touching a value. Slices are arithmetic on the struct, for host and
 * device matrices alike; they share the arrays of their parent. */

/* spinfer_slice_rows() : rows first .. first + count - 1 as a matrix of its own.
 *
 *   first     in   multiple of 64, < W->rows
 *   count     in   multiple of 64, or everything up to the last row
 *   Errors    NULL, SHAPE */
static inline spinfer_status spinfer_slice_rows(const spinfer_matrix *W, size_t first, size_t count,
                                                spinfer_matrix *slice)
{
    spinfer_matrix s;
    if (!W || !slice) return SPINFER_ERR_NULL;
    if (first % SPINFER_GROUP_ROWS || first >= W->rows || count < 1 || count > W->rows - first)
        return SPINFER_ERR_SHAPE;
    if (count % SPINFER_GROUP_ROWS && first + count != W->rows) return SPINFER_ERR_SHAPE;
    s = *W;
    s.offsets = W->offsets + first / SPINFER_GROUP_ROWS * W->group_ld;
    s.rows = (uint32_t)count;
    *slice = s;
    return SPINFER_OK;
}

/* spinfer_slice_cols() : columns first .. first + count - 1 as a matrix of its own.
 *
 *   first     in   multiple of 32, < W->cols
 *   count     in   multiple of 32, or everything up to the last column
 *   Errors    NULL, SHAPE */
static inline spinfer_status spinfer_slice_cols(const spinfer_matrix *W, size_t first, size_t count,
                                                spinfer_matrix *slice)
{
    spinfer_matrix s;
    if (!W || !slice) return SPINFER_ERR_NULL;
    if (first % SPINFER_GROUP_COLS || first >= W->cols || count < 1 || count > W->cols - first)
        return SPINFER_ERR_SHAPE;
    if (count % SPINFER_GROUP_COLS && first + count != W->cols) return SPINFER_ERR_SHAPE;
    s = *W;
    s.offsets = W->offsets + first / SPINFER_GROUP_COLS;
    s.cols = (uint32_t)count;
    *slice = s;
    return SPINFER_OK;
}

/* spinfer_concat_rows_sizes() : what spinfer_concat_rows() will need. The same parts, the same errors. */
static inline spinfer_status spinfer_concat_rows_sizes(const spinfer_matrix *parts, size_t count, spinfer_sizes *sizes)
{
    uint64_t rows = 0, bytes = 0, nnz = 0;
    uint32_t max_record = SPINFER_RECORD_VALUES;
    size_t   part, row_group, groups;
    if (!parts || !sizes) return SPINFER_ERR_NULL;
    if (count < 1) return SPINFER_ERR_SHAPE;
    for (part = 0; part < count; part++) {
        const spinfer_matrix *W = &parts[part];
        const spinfer_status  status = spinfer_detail_check_matrix(W);
        if (status != SPINFER_OK) return status;
        if (W->dtype != parts[0].dtype) return SPINFER_ERR_DTYPE;
        if (W->cols != parts[0].cols || (W->rows % SPINFER_GROUP_ROWS && part + 1 < count)) return SPINFER_ERR_SHAPE;
        rows += W->rows;
        if (rows > SPINFER_MAX_DIM) return SPINFER_ERR_SHAPE;
        groups = spinfer_col_groups(W->cols);
        for (row_group = 0; row_group < spinfer_row_groups(W->rows); row_group++) {
            const uint32_t *offsets = W->offsets + row_group * W->group_ld;
            size_t          group;
            bytes += 16 * (uint64_t)(offsets[groups] - offsets[0]);
            for (group = 0; group < groups; group++) { /* nnz: what the bitmaps say */
                const unsigned char *record = spinfer_detail_record(W, row_group, group);
                uint32_t             tile;
                for (tile = 0; tile < SPINFER_GROUP_BITMAP_TILES; tile++) {
                    uint64_t bits;
                    memcpy(&bits, record + SPINFER_RECORD_BITMAPS + 8 * tile, 8);
                    nnz += (uint64_t)spinfer_popcount64(bits);
                }
            }
        }
        if (W->max_record > max_record) max_record = W->max_record;
    }
    bytes = (bytes + 127) / 128 * 128;
    if (bytes / 16 > UINT32_MAX) return SPINFER_ERR_OVERFLOW;
    sizes->offsets_bytes = spinfer_offsets_bytes((size_t)rows, parts[0].cols);
    sizes->data_bytes = bytes;
    sizes->nnz = nnz;
    sizes->max_record = max_record;
    return SPINFER_OK;
}

/* spinfer_concat_rows() : stacks matrices on top of each other (fused QKV, gate and up) by copying whole records.
 *
 *   parts     in   [count] encoded matrices in host memory (or slices), trusted; equal cols and dtype, and rows a
 *                  multiple of 64 in all but the last
 *   offsets, offsets_bytes, data, data_bytes, matrix   out   as for spinfer_encode(); no overlap with the parts
 *
 *   Errors    NULL, SHAPE, ALIGNMENT, DTYPE, VERSION, FORMAT, CAPACITY, OVERFLOW; then nothing was written. */
static inline spinfer_status spinfer_concat_rows(const spinfer_matrix *parts, size_t count, uint32_t *offsets,
                                                 uint64_t offsets_bytes, void *data, uint64_t data_bytes,
                                                 spinfer_matrix *matrix)
{
    spinfer_sizes        sizes;
    const spinfer_status status = spinfer_concat_rows_sizes(parts, count, &sizes);
    size_t               part, row_group, group, next = 0;
    uint32_t             unit = 0, rows = 0;
    if (!offsets || !data || !matrix) return SPINFER_ERR_NULL;
    if (status != SPINFER_OK) return status;
    if ((uintptr_t)offsets % 4 || (uintptr_t)data % 16) return SPINFER_ERR_ALIGNMENT;
    if (offsets_bytes < sizes.offsets_bytes || data_bytes < sizes.data_bytes) return SPINFER_ERR_CAPACITY;
    for (part = 0; part < count; part++) {
        const size_t groups = spinfer_col_groups(parts[part].cols);
        for (row_group = 0; row_group < spinfer_row_groups(parts[part].rows); row_group++) {
            const uint32_t *from = parts[part].offsets + row_group * parts[part].group_ld;
            memcpy((unsigned char *)data + 16 * (size_t)unit, spinfer_detail_record(&parts[part], row_group, 0),
                   16 * (size_t)(from[groups] - from[0]));
            for (group = 0; group < groups; group++) offsets[next++] = unit + (from[group] - from[0]);
            unit += from[groups] - from[0];
        }
        rows += parts[part].rows;
    }
    offsets[next] = unit;
    memset((unsigned char *)data + 16 * (size_t)unit, 0, (size_t)sizes.data_bytes - 16 * (size_t)unit);
    matrix->offsets = offsets;
    matrix->data = data;
    matrix->data_bytes = sizes.data_bytes;
    matrix->rows = rows;
    matrix->cols = parts[0].cols;
    matrix->group_ld = spinfer_col_groups(parts[0].cols);
    matrix->max_record = sizes.max_record;
    matrix->dtype = parts[0].dtype;
    matrix->format = SPINFER_FORMAT_VERSION;
    return SPINFER_OK;
}

/* ---- 11. Multiply on the host ---------------------------------------------------------------- */

/* Adds one record times 32 rows of X (as floats, [32][8]) to the sums of 64 rows. */
static inline void spinfer_detail_multiply_record(const unsigned char *record, spinfer_dtype dtype, float (*x)[8],
                                                  double (*sum)[8])
{
    const unsigned char *value = record + SPINFER_RECORD_VALUES;
    int                  tile, t;
    for (tile = 0; tile < SPINFER_GROUP_BITMAP_TILES; tile++) {
        const int row = spinfer_bitmap_tile_row(tile), col = spinfer_bitmap_tile_col(tile);
        uint64_t  bits;
        memcpy(&bits, record + SPINFER_RECORD_BITMAPS + 8 * tile, 8);
        for (; bits; bits &= bits - 1, value += 2) {
            const int bit = spinfer_detail_lowest_bit(bits);
            uint16_t  half;
            double    w;
            memcpy(&half, value, 2);
            w = (double)spinfer_to_float(half, dtype);
            for (t = 0; t < 8; t++) sum[row + bit / 8][t] += w * (double)x[col + bit % 8][t];
        }
    }
}

/* spinfer_spmm_host() : Y = alpha W X + beta Y on the CPU. The reference of the GPU kernel, and the way without a GPU.
 *
 *   W         in      encoded [M, K] in host memory, trusted
 *   X         in      [K, n] column-major: token t starts at X + t * ldx (PyTorch's contiguous x[n, K]). Host.
 *   ldx       in      elements, >= K
 *   Y         in/out  [M, n] column-major: token t starts at Y + t * ldy (PyTorch's contiguous y[n, M]). Host.
 *                     With beta == 0 it is written only, so it may hold anything, NaN included.
 *   ldy       in      elements, >= M
 *   n         in      tokens, >= 1
 *
 *   X and Y have the dtype of W. Sums are kept in double, then rounded to float, then to the dtype (to even).
 *   Errors    NULL, SHAPE, ALIGNMENT, DTYPE, VERSION, FORMAT; then nothing was written. */
static inline spinfer_status spinfer_spmm_host(float alpha, const spinfer_matrix *W, const uint16_t *X, size_t ldx,
                                               float beta, uint16_t *Y, size_t ldy, size_t n)
{
    const spinfer_status status = spinfer_detail_check_matrix(W);
    long long            row_group, row_groups;
    if (!X || !Y) return SPINFER_ERR_NULL;
    if (status != SPINFER_OK) return status;
    if (n < 1 || ldx < W->cols || ldy < W->rows) return SPINFER_ERR_SHAPE;
    if ((uintptr_t)X % 2 || (uintptr_t)Y % 2) return SPINFER_ERR_ALIGNMENT;
    row_groups = (long long)spinfer_row_groups(W->rows);
#ifdef _OPENMP
#pragma omp parallel for schedule(static)
#endif
    for (row_group = 0; row_group < row_groups; row_group++) {
        const spinfer_dtype dtype = (spinfer_dtype)W->dtype;
        const size_t        groups = spinfer_col_groups(W->cols), row = (size_t)row_group * SPINFER_GROUP_ROWS;
        const size_t        height = W->rows - row < SPINFER_GROUP_ROWS ? W->rows - row : SPINFER_GROUP_ROWS;
        size_t              token, group, r, c, t;
        for (token = 0; token < n; token += 8) {
            const size_t tokens = n - token < 8 ? n - token : 8;
            double       sum[SPINFER_GROUP_ROWS][8] = {{0}};
            for (group = 0; group < groups; group++) {
                float x[SPINFER_GROUP_COLS][8] = {{0}};
                for (t = 0; t < tokens; t++)
                    for (c = 0; c < SPINFER_GROUP_COLS && group * SPINFER_GROUP_COLS + c < W->cols; c++)
                        x[c][t] = spinfer_to_float(X[(token + t) * ldx + group * SPINFER_GROUP_COLS + c], dtype);
                spinfer_detail_multiply_record(spinfer_detail_record(W, (size_t)row_group, group), dtype, x, sum);
            }
            for (t = 0; t < tokens; t++)
                for (r = 0; r < height; r++) {
                    uint16_t *y = Y + (token + t) * ldy + row + r;
                    double    value = (double)alpha * sum[r][t];
                    if (beta != 0.0f) value += (double)beta * (double)spinfer_to_float(*y, dtype);
                    *y = spinfer_from_float((float)value, dtype);
                }
        }
    }
    return SPINFER_OK;
}

#endif /* !__CUDACC_RTC__ */

/* ----------------------------------------------------------------------------------------------
 * Copyright 2026 the spinfer authors
 *
 * Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
 * the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0
 *
 * Unless required by applicable law or agreed to in writing, software distributed under the License is distributed on
 * an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the License for the
 * specific language governing permissions and limitations under the License. */

#endif /* SPINFER_ENCODE_H */
