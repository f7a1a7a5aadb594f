/* 01_bytes.c - what the bytes look like.
 *
 *     01_bytes
 *
 * The idea. An encoded weight is two arrays: offsets say where each record starts, and a record holds 64 x 32 weights:
 * one bit for each of them, then the values of those that are not zero, in the order of the bits. This program encodes
 * such a block, shows the bytes of its record, and finds every weight again by hand: the rank of a bit, the number of
 * bits before it, is the index of its value. At the end it compares the size with dense, CSR and 2:4.
 *
 * Introduces: spinfer_encode_sizes(), spinfer_encode(), spinfer_bitmap_tile_at(), spinfer_bitmap_bit_at(),
 *             spinfer_popcount64(), SPINFER_RECORD_BITMAPS, SPINFER_RECORD_VALUES */
#include "common.h"

enum { ROWS = SPINFER_GROUP_ROWS, COLS = SPINFER_GROUP_COLS };

/* The parts of a record, copied out of it. */
typedef struct record {
    uint16_t tc_offsets[SPINFER_GROUP_TC_TILES];  /* values before each TCTile    */
    uint64_t bitmaps[SPINFER_GROUP_BITMAP_TILES]; /* bit 8 * row + col            */
    uint16_t values[SPINFER_GROUP_ELEMENTS + 8];  /* only the first nnz, and zeros */
} record;

static record read_record(const spinfer_matrix *W, size_t number)
{
    const unsigned char *bytes = (const unsigned char *)W->data + 16 * (size_t)W->offsets[number];
    const size_t         size = 16 * (size_t)(W->offsets[number + 1] - W->offsets[number]);
    record               r;
    memset(&r, 0, sizeof r);
    memcpy(r.tc_offsets, bytes, sizeof r.tc_offsets);
    memcpy(r.bitmaps, bytes + SPINFER_RECORD_BITMAPS, sizeof r.bitmaps);
    memcpy(r.values, bytes + SPINFER_RECORD_VALUES, size - SPINFER_RECORD_VALUES);
    return r;
}

/* The weight at (row, col) of a record. The decode of the GPU does the same for many at once. */
static uint16_t weight_at(const record *r, int row, int col)
{
    const int tile = spinfer_bitmap_tile_at(row, col), bit = spinfer_bitmap_bit_at(row, col);
    int       index = r->tc_offsets[tile / 4], earlier;
    if (!(r->bitmaps[tile] >> bit & 1)) return 0;
    for (earlier = tile / 4 * 4; earlier < tile; earlier++) index += spinfer_popcount64(r->bitmaps[earlier]);
    index += spinfer_popcount64(r->bitmaps[tile] & (((uint64_t)1 << bit) - 1)); /* the bits before */
    return r->values[index];
}

static void show_tc_tile(const record *r)
{
    int row, col, tile, i;
    puts("TCTile 0, 16 x 16 weights (# is not zero), and the bitmaps of its four BitmapTiles:\n");
    for (row = 0; row < 16; row++) {
        for (col = 0; col < 16; col++) {
            const uint64_t bits = r->bitmaps[spinfer_bitmap_tile_at(row, col)];
            printf("%s %c", col == 8 ? "  " : "", bits >> spinfer_bitmap_bit_at(row, col) & 1 ? '#' : '.');
        }
        if (row % 8 == 3)
            for (tile = row / 8 * 2, i = 0; i < 2; i++, tile++)
                printf("    BT %d %016llx", tile, (unsigned long long)r->bitmaps[tile]);
        puts(row == 7 ? "\n" : "");
    }
    printf("\nvalues of BT 0:");
    for (i = 0; i < spinfer_popcount64(r->bitmaps[0]); i++)
        printf("%s%7.4f", i % 8 ? " " : "\n   ", (double)spinfer_to_float(r->values[i], SPINFER_FP16));
    puts("");
}

static void show_record(const record *r, uint32_t bytes)
{
    const int last = SPINFER_GROUP_BITMAP_TILES - 1;
    int       nnz = r->tc_offsets[7], tile;
    for (tile = last - 3; tile <= last; tile++) nnz += spinfer_popcount64(r->bitmaps[tile]);
    printf("\nthe record of %d x %d weights, %u bytes:\n", (int)ROWS, (int)COLS, (unsigned)bytes);
    printf("  bytes %4d ..  tc_offsets, values before each TCTile:", 0);
    for (tile = 0; tile < SPINFER_GROUP_TC_TILES; tile++) printf(" %d", r->tc_offsets[tile]);
    printf("\n  bytes %4d ..  %d bitmaps of 8 bytes\n", SPINFER_RECORD_BITMAPS, SPINFER_GROUP_BITMAP_TILES);
    printf("  bytes %4d ..  %d values of 2 bytes\n", SPINFER_RECORD_VALUES, nnz);
    printf("  bytes %4d ..  %d zeros, to a multiple of 16 bytes\n", SPINFER_RECORD_VALUES + 2 * nnz,
           ((int)bytes - SPINFER_RECORD_VALUES - 2 * nnz) / 2);
    CHECK(spinfer_record_bytes((uint32_t)nnz) == bytes);
}

/* Bits for each weight of a 1024 x 1024 layer. CSR: a 16-bit value and a 32-bit column for each nonzero, a 32-bit
 * offset for each row. 2:4: half of the values and 2 bits each for their places, and only where the pattern fits. */
static void show_sizes(void)
{
    const size_t side = 1024, count = side * side;
    uint16_t    *dense = (uint16_t *)allocate(count * sizeof *dense);
    int          percent;
    puts("\nbits for each weight, 1024 x 1024:\n\n    zeros   dense     CSR     2:4   TCA-BME");
    for (percent = 0; percent <= 90; percent += 10) {
        spinfer_sizes sizes;
        double        csr, own;
        fill_normal(dense, count, 0.02, SPINFER_FP16, 1);
        prune_iid(dense, side, side, percent / 100.0, 2);
        CHECK_SPINFER(spinfer_encode_sizes(dense, side, side, side, &sizes));
        csr = ((double)sizes.nnz * (16 + 32) + (double)(side + 1) * 32) / (double)count;
        own = 8 * (double)(sizes.offsets_bytes + sizes.data_bytes) / (double)count;
        printf("    %3d %%   16.00  %6.2f   %s  %8.2f\n", percent, csr, percent == 50 ? " 9.00" : "    -", own);
    }
    free(dense);
}

int main(void)
{
    uint16_t       dense[ROWS * COLS];
    spinfer_matrix W;
    record         r;
    int            row, col;
    fill_normal(dense, ROWS * COLS, 0.02, SPINFER_FP16, 1);
    prune_iid(dense, ROWS, COLS, 0.5, 2);
    W = encode_matrix(dense, ROWS, COLS, SPINFER_FP16); /* one record; common.h shows the two calls */
    r = read_record(&W, 0);
    show_tc_tile(&r);
    show_record(&r, 16 * (W.offsets[1] - W.offsets[0]));
    for (row = 0; row < ROWS; row++)
        for (col = 0; col < COLS; col++) CHECK(weight_at(&r, row, col) == dense[row * COLS + col]);
    printf("  all %d weights found again, bit for bit\n", (int)(ROWS * COLS));
    show_sizes();
    free_matrix(&W);
    puts("OK");
    return 0;
}
