/* Risk: the bytes of the format change under files that exist. The arrays below were written by hand from the format
 * specification (section 2 of spinfer_encode.h); they must never change for SPINFER_FORMAT_VERSION 1. Bytes that are
 * not named are zero, so the tail up to a multiple of 128 bytes is. In a record: tc_offsets at 0, bitmaps at
 * 16 + 8 * BitmapTile, values at 272, little-endian. */
#include "test.h"

typedef struct {
    uint16_t row, col, bits;
} entry;

typedef struct {
    const char          *name;
    uint16_t             rows, cols;
    spinfer_dtype        dtype;
    const entry         *entries;
    size_t               entry_count, offset_count, data_bytes;
    const uint32_t      *offsets;
    const unsigned char *data;
    uint32_t             nnz, max_record;
} golden;

/* TCTile 1 and later begin behind the one value of TCTile 0. */
static const entry         one_entries[] = {{0, 0, 0x3c00}};
static const uint32_t      one_offsets[] = {0, 18};
static const unsigned char one_data[384] = { /* 288, to a multiple of 128 */
    [2] = 1, [4] = 1, [6] = 1, [8] = 1, [10] = 1, [12] = 1, [14] = 1, /* tc_offsets[1..7]  */
    [16] = 0x01,                                                      /* BitmapTile 0      */
    [272] = 0x00, [273] = 0x3c};                                      /* 1.0 in fp16       */

/* The example of FIG 2 in row 0, one more value in rows 2 and 7; -0.0 is not kept. */
static const entry corner_entries[] = {{0, 0, 0x0001}, {0, 3, 0xfc01}, {0, 4, 0x7c00}, {2, 1, 0x8003}, {7, 7, 0x3555},
                                       {5, 5, 0x8000}};
static const uint32_t      corner_offsets[] = {0, 18};
static const unsigned char corner_data[384] = {
    [2] = 5, [4] = 5, [6] = 5, [8] = 5, [10] = 5, [12] = 5, [14] = 5,
    [16] = 0x19, [18] = 0x02, [23] = 0x80, /* row 0: bits 0, 3, 4; row 2: bit 1; row 7: bit 7 */
    [272] = 0x01, 0x00, 0x01, 0xfc, 0x00, 0x7c, 0x03, 0x80, 0x55, 0x35};

/* One whole GroupTile; the values are numbered in the order of the format. */
static const entry group_entries[] = {
    {0, 0, 0x4001},   /* TCTile 0, BT 0: BitmapTile  0, bit  0 */
    {0, 8, 0x4002},   /* TCTile 0, BT 1: BitmapTile  1, bit  0 */
    {8, 0, 0x4003},   /* TCTile 0, BT 2: BitmapTile  2, bit  0 */
    {15, 15, 0x4004}, /* TCTile 0, BT 3: BitmapTile  3, bit 63 */
    {16, 0, 0x4005},  /* TCTile 1, BT 0: BitmapTile  4, bit  0 */
    {33, 6, 0x4006},  /* TCTile 2, BT 0: BitmapTile  8, bit 14 */
    {63, 0, 0x4007},  /* TCTile 3, BT 2: BitmapTile 14, bit 56 */
    {0, 16, 0x4008},  /* TCTile 4, BT 0: BitmapTile 16, bit  0 */
    {31, 31, 0x4009}, /* TCTile 5, BT 3: BitmapTile 23, bit 63 */
    {40, 24, 0x400a}, /* TCTile 6, BT 3: BitmapTile 27, bit  0 */
    {48, 31, 0x400b}, /* TCTile 7, BT 1: BitmapTile 29, bit  7 */
    {63, 31, 0x400c}, /* TCTile 7, BT 3: BitmapTile 31, bit 63 */
};
static const uint32_t      group_offsets[] = {0, 19};
static const unsigned char group_data[384] = {
    [2] = 4, [4] = 5, [6] = 6, [8] = 7, [10] = 8, [12] = 9, [14] = 10,
    [16 + 8 * 0] = 0x01, [16 + 8 * 1] = 0x01, [16 + 8 * 2] = 0x01, [16 + 8 * 3 + 7] = 0x80, [16 + 8 * 4] = 0x01,
    [16 + 8 * 8 + 1] = 0x40, [16 + 8 * 14 + 7] = 0x01, [16 + 8 * 16] = 0x01, [16 + 8 * 23 + 7] = 0x80,
    [16 + 8 * 27] = 0x01, [16 + 8 * 29] = 0x80, [16 + 8 * 31 + 7] = 0x80,
    [272] = 0x01, 0x40, 0x02, 0x40, 0x03, 0x40, 0x04, 0x40, 0x05, 0x40, 0x06, 0x40,
            0x07, 0x40, 0x08, 0x40, 0x09, 0x40, 0x0a, 0x40, 0x0b, 0x40, 0x0c, 0x40};

/* 2 x 2 GroupTiles, of which one is whole and the others are edges: one row below, one column to the right. Eight
 * values in the last but one record fill their 16 bytes; the last record is empty. */
static const entry edge_entries[] = {
    {0, 0, 0x3f80}, {63, 31, 0xbf80},                                      /* record 0: BitmapTile 0 and 31  */
    {0, 32, 0x7fc1}, {63, 32, 0x0001},                                     /* record 1: BitmapTile 0 and 14  */
    {64, 0, 0x4000}, {64, 1, 0x4001}, {64, 2, 0x4002}, {64, 3, 0x4003},    /* record 2: BitmapTile 0, row 0, */
    {64, 4, 0x4004}, {64, 5, 0x4005}, {64, 6, 0x4006}, {64, 31, 0x4007},   /*           and 17               */
    {64, 32, 0x8000}};                                                     /* record 3: -0.0 only            */
static const uint32_t      edge_offsets[] = {0, 18, 36, 54, 71};
static const unsigned char edge_data[3 * 288 + 272 + 16] = {
    [2] = 1, [4] = 1, [6] = 1, [8] = 1, [10] = 1, [12] = 1, [14] = 1,
    [16] = 0x01, [16 + 8 * 31 + 7] = 0x80,
    [272] = 0x80, 0x3f, 0x80, 0xbf,
    [288 + 2] = 1, [288 + 4] = 1, [288 + 6] = 1, [288 + 8] = 2, [288 + 10] = 2, [288 + 12] = 2, [288 + 14] = 2,
    [288 + 16] = 0x01, [288 + 16 + 8 * 14 + 7] = 0x01,
    [288 + 272] = 0xc1, 0x7f, 0x01, 0x00,
    [576 + 2] = 7, [576 + 4] = 7, [576 + 6] = 7, [576 + 8] = 7, [576 + 10] = 8, [576 + 12] = 8, [576 + 14] = 8,
    [576 + 16] = 0x7f, [576 + 16 + 8 * 17] = 0x80,
    [576 + 272] = 0x00, 0x40, 0x01, 0x40, 0x02, 0x40, 0x03, 0x40, 0x04, 0x40, 0x05, 0x40, 0x06, 0x40, 0x07, 0x40};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define GOLDEN(name, rows, cols, dtype, nnz, max_record)                                                               \
    {#name, rows, cols, dtype, name##_entries, COUNT(name##_entries), COUNT(name##_offsets), sizeof name##_data,       \
     name##_offsets, name##_data, nnz, max_record}

static const golden all[] = {GOLDEN(one, 1, 1, SPINFER_FP16, 1, 288), GOLDEN(corner, 8, 8, SPINFER_FP16, 5, 288),
                             GOLDEN(group, 64, 32, SPINFER_BF16, 12, 304), GOLDEN(edge, 65, 33, SPINFER_BF16, 12, 288)};

static void test_golden(const golden *g)
{
    uint16_t      *dense = (uint16_t *)allocate_fenced(2 * (size_t)g->rows * g->cols);
    void          *data = allocate(g->data_bytes); /* a copy of the golden bytes, aligned as the format asks */
    spinfer_sizes  sizes;
    spinfer_matrix W, from_file;
    size_t         i;
    memset(dense, 0, 2 * (size_t)g->rows * g->cols);
    for (i = 0; i < g->entry_count; i++) dense[g->entries[i].row * g->cols + g->entries[i].col] = g->entries[i].bits;

    CHECK_SPINFER(spinfer_encode_sizes(dense, g->rows, g->cols, g->cols, &sizes));
    CHECK(sizes.offsets_bytes == 4 * g->offset_count && sizes.data_bytes == g->data_bytes);
    CHECK(sizes.nnz == g->nnz && sizes.max_record == g->max_record);
    W = encode_fenced(dense, g->rows, g->cols, g->cols, g->dtype);
    CHECK(memcmp(W.offsets, g->offsets, 4 * g->offset_count) == 0);
    CHECK(memcmp(W.data, g->data, g->data_bytes) == 0);
    CHECK(W.rows == g->rows && W.cols == g->cols && W.group_ld == (uint32_t)(g->cols + 31) / 32);
    CHECK(W.dtype == (uint32_t)g->dtype && W.format == 1);

    from_file = W;
    memcpy(data, g->data, g->data_bytes);
    from_file.offsets = g->offsets;
    from_file.data = data;
    CHECK_SPINFER(spinfer_validate(&from_file, 4 * g->offset_count, g->data_bytes));
    check_decodes_to(&from_file, dense, g->cols);
    free_fenced_matrix(&W);
    free_fenced(dense, 2 * (size_t)g->rows * g->cols);
    free(data);
}

/* Bytes in bulk: 4 x 4 GroupTiles with edges, the density rising from 12 to 90 %, by a 64-bit FNV-1a sum over offsets
 * and data. The sum came from a second encoder, written in another language from the specification alone. */
static void test_sum(void)
{
    enum { ROWS = 200, COLS = 101 };
    uint16_t      *dense = (uint16_t *)allocate(2 * ROWS * COLS);
    uint64_t       sum = 0xcbf29ce484222325u;
    spinfer_matrix W;
    size_t         row, col, i;
    for (row = 0; row < ROWS; row++)
        for (col = 0; col < COLS; col++) {
            const uint32_t mixed = (uint32_t)(row * COLS + col + 1) * 2654435761u;
            dense[row * COLS + col] = (uint16_t)((mixed >> 8 & 0xff) < row + 30 ? mixed >> 16 : 0);
        }
    W = encode_fenced(dense, ROWS, COLS, COLS, SPINFER_FP16);
    for (i = 0; i < 4 * (4 * 4 + 1); i++) sum = (sum ^ ((const unsigned char *)W.offsets)[i]) * 0x100000001b3u;
    for (i = 0; i < W.data_bytes; i++) sum = (sum ^ ((const unsigned char *)W.data)[i]) * 0x100000001b3u;
    CHECK(sum == 0xe24d49e19fd3ca4eu);
    free_fenced_matrix(&W);
    free(dense);
}

int main(void)
{
    size_t i;
    CHECK(SPINFER_FORMAT_VERSION == 1);
    for (i = 0; i < COUNT(all); i++) test_golden(&all[i]);
    test_sum();
    printf("golden bytes: %d matrices written by hand and the sum of a 200 x 101 one, format version 1: OK\n",
           (int)COUNT(all));
    return 0;
}
