/* Risk: the lanes of the GPU encoder and decompressor are wrong. Their steps run here, lane by lane: keep bits against
 * the definition for every pattern and threshold, the places of lanes in matrices of any shape, placed values and
 * decoded rows against the records and weights of the host. */
#include "spinfer.cuh"
#include "test.h"

static uint32_t above(uint32_t threshold) { return (0x7fffu - threshold) * 0x10001u; }

/* Eight neighbouring weights as a lane has them. */
static void load_row(const uint16_t *weights, uint32_t *words)
{
    int i;
    for (i = 0; i < 4; i++) words[i] = (uint32_t)weights[2 * i] | (uint32_t)weights[2 * i + 1] << 16;
}

static void test_kept_bits(void)
{
    static const uint32_t thresholds[] = {0, 1, 2, 0x3ff, 0x400, 0x3c00, 0x7bff, 0x7c00, 0x7f7f, 0x7f80};
    size_t                t;
    uint32_t              bits;
    for (t = 0; t < sizeof thresholds / sizeof *thresholds; t++)
        for (bits = 0; bits < 0x10000; bits++) {
            uint16_t weights[8];
            uint32_t words[4], expected = 0;
            int      i;
            for (i = 0; i < 8; i++) { /* the pattern itself in a place that moves, random ones around it */
                weights[i] = (uint16_t)(i == (int)bits % 8 ? bits : (uint32_t)random_bits(bits, (uint64_t)i));
                if (random_bits(bits, (uint64_t)i) >> 63) weights[i] &= 0x8003;
                expected |= (uint32_t)((weights[i] & 0x7fffu) > thresholds[t]) << i;
            }
            load_row(weights, words);
            CHECK(spinfer_kept_bits(words, above(thresholds[t])) == expected);
        }
}

/* Tiles of work of a matrix. */
static uint32_t tiles_of(uint32_t rows, uint32_t cols)
{
    return (spinfer_row_groups(rows) * spinfer_col_groups(cols) + SPINFER_ENCODE_WARPS - 1) / SPINFER_ENCODE_WARPS;
}

/* The GroupTile of a weight, and its BitmapTile in there. */
static uint32_t group_of(uint32_t cols, uint32_t row, uint32_t col)
{
    return row / SPINFER_GROUP_ROWS * spinfer_col_groups(cols) + col / SPINFER_GROUP_COLS;
}

static int bitmap_tile_of(uint32_t row, uint32_t col)
{
    return spinfer_bitmap_tile_at((int)(row % SPINFER_GROUP_ROWS), (int)(col % SPINFER_GROUP_COLS));
}

/* The lanes of all tiles of work have every weight once, in the right BitmapTile of the right GroupTile. */
static void test_places(void)
{
    static char seen[300][300];
    int         shape;
    for (shape = 0; shape < 200; shape++) {
        const uint32_t rows = 1 + (uint32_t)(random_bits(1, (uint64_t)shape) % 300);
        const uint32_t cols = 1 + (uint32_t)(random_bits(2, (uint64_t)shape) % 300);
        uint32_t       tile, row, col, weights = 0;
        int            warp, lane;
        memset(seen, 0, sizeof seen);
        for (tile = 0; tile < tiles_of(rows, cols); tile++)
            for (warp = 0; warp < SPINFER_ENCODE_WARPS; warp++)
                for (lane = 0; lane < 32; lane++) {
                    const spinfer_dense_tile t = spinfer_band_place(rows, cols, tile, warp, lane);
                    const uint32_t           group = tile * SPINFER_ENCODE_WARPS + (uint32_t)spinfer_band_group(lane);
                    CHECK(t.rows <= 8 && t.cols <= 8);
                    for (row = t.row; row < t.row + t.rows; row++)
                        for (col = t.col; col < t.col + t.cols; col++) {
                            CHECK(row < rows && col < cols && !seen[row][col]++);
                            CHECK(group_of(cols, row, col) == group);
                            CHECK(bitmap_tile_of(row, col) == spinfer_band_tile(warp, lane));
                            weights++;
                        }
                }
        CHECK(weights == rows * cols);
    }
}

/* The largest matrices: nothing overflows, not even behind the last GroupTile. */
static void test_large_places(void)
{
    const uint32_t     rows = SPINFER_MAX_DIM, last = tiles_of(rows, 1) - 1;
    spinfer_dense_tile t = spinfer_band_place(rows, 1, last, 7, 31);
    CHECK(t.row > rows && t.rows == 0 && t.cols == 0);
    t = spinfer_band_place(1, SPINFER_MAX_DIM, tiles_of(1, SPINFER_MAX_DIM) - 1, 0, 0);
    CHECK(t.row == 0 && t.rows == 1 && t.col < SPINFER_MAX_DIM && t.cols == 8);
}

/* A BitmapTile as a lane has it: zeros outside of the matrix. */
static void load_tile(const uint16_t *dense, size_t ld, spinfer_dense_tile t, uint32_t *words)
{
    uint32_t row, col;
    memset(words, 0, 32 * sizeof *words);
    for (row = 0; row < t.rows; row++)
        for (col = 0; col < t.cols; col++)
            words[4 * row + col / 2] |= (uint32_t)dense[(t.row + row) * ld + t.col + col] << (16 * (col % 2));
}

static uint64_t bitmap_at(const unsigned char *record, int tile)
{
    uint64_t bitmap;
    memcpy(&bitmap, record + SPINFER_RECORD_BITMAPS + 8 * tile, 8);
    return bitmap;
}

/* What a warp counts in its record: values before each BitmapTile, tc_offsets. Returns the bytes of the record. */
static uint32_t count_record(unsigned char *record, uint16_t *before)
{
    uint32_t nnz = 0;
    int      tile;
    for (tile = 0; tile < SPINFER_GROUP_BITMAP_TILES; tile++) {
        before[tile] = (uint16_t)nnz;
        if (tile % 4 == 0) memcpy(record + tile / 4 * 2, before + tile, 2);
        nnz += (uint32_t)spinfer_popcount64(bitmap_at(record, tile));
    }
    return spinfer_record_bytes(nnz);
}

/* The records of a tile of work as its block makes them, held against those of the host. */
static void encode_tile(const uint16_t *dense, size_t ld, const spinfer_matrix *W, uint32_t tile)
{
    uint16_t before[SPINFER_ENCODE_WARPS][SPINFER_GROUP_BITMAP_TILES];
    uint32_t words[32], bytes[SPINFER_ENCODE_WARPS];
    int      warp, lane;
    unsigned char(*records)[SPINFER_RECORD_MAX_BYTES] =
        (unsigned char(*)[SPINFER_RECORD_MAX_BYTES])allocate(SPINFER_ENCODE_WARPS * sizeof *records);
    memset(records, 0, SPINFER_ENCODE_WARPS * sizeof *records);
    for (warp = 0; warp < SPINFER_ENCODE_WARPS; warp++)
        for (lane = 0; lane < 32; lane++) {
            unsigned char *record = records[spinfer_band_group(lane)];
            uint64_t       bitmap;
            load_tile(dense, ld, spinfer_band_place(W->rows, W->cols, tile, warp, lane), words);
            bitmap = spinfer_tile_bitmap(words, above(0));
            memcpy(record + SPINFER_RECORD_BITMAPS + 8 * spinfer_band_tile(warp, lane), &bitmap, 8);
        }
    for (warp = 0; warp < SPINFER_ENCODE_WARPS; warp++) bytes[warp] = count_record(records[warp], before[warp]);
    for (warp = SPINFER_ENCODE_WARPS - 1; warp >= 0; warp--)
        for (lane = 31; lane >= 0; lane--) { /* any order */
            const int      group = spinfer_band_group(lane), bitmap_tile = spinfer_band_tile(warp, lane);
            unsigned char *record = records[group];
            load_tile(dense, ld, spinfer_band_place(W->rows, W->cols, tile, warp, lane), words);
            spinfer_place_values(words, bitmap_at(record, bitmap_tile),
                                 record + SPINFER_RECORD_VALUES + 2 * before[group][bitmap_tile]);
        }
    for (warp = 0; warp < SPINFER_ENCODE_WARPS; warp++) {
        const uint32_t group = tile * SPINFER_ENCODE_WARPS + (uint32_t)warp;
        if (group >= spinfer_row_groups(W->rows) * spinfer_col_groups(W->cols)) break;
        CHECK(bytes[warp] == 16 * (W->offsets[group + 1] - W->offsets[group]));
        CHECK(memcmp(records[warp], (const char *)W->data + 16 * (size_t)W->offsets[group], bytes[warp]) == 0);
    }
    free(records);
}

/* A lane's BitmapTile as the decompressor writes it, from the record in W. */
static void decode_tile(const spinfer_matrix *W, uint32_t tile, int warp, int lane, uint16_t *dense, size_t ld)
{
    const spinfer_dense_tile t = spinfer_band_place(W->rows, W->cols, tile, warp, lane);
    const unsigned char     *record, *values;
    const int                bitmap_tile = spinfer_band_tile(warp, lane);
    uint32_t                 words[4], row, col;
    int                      other;
    if (t.rows == 0) return; /* behind the last GroupTile there are no records */
    record = (const unsigned char *)spinfer_record_at(W, t.row / SPINFER_GROUP_ROWS, t.col / SPINFER_GROUP_COLS);
    values = record + SPINFER_RECORD_VALUES;
    for (other = 0; other < bitmap_tile; other++) values += 2 * spinfer_popcount64(bitmap_at(record, other));
    for (row = 0; row < t.rows; row++) {
        const uint32_t bits = (uint32_t)(bitmap_at(record, bitmap_tile) >> (8 * row));
        spinfer_decode_row(bits, values, words);
        values += 2 * spinfer_popcount(bits & 0xff);
        for (col = 0; col < t.cols; col++)
            dense[(t.row + row) * ld + t.col + col] = (uint16_t)(words[col / 2] >> (16 * (col % 2)));
    }
}

static void test_matrix(uint32_t rows, uint32_t cols, double density, uint64_t seed)
{
    const size_t   bytes = (size_t)rows * cols * sizeof(uint16_t);
    uint16_t      *dense = (uint16_t *)allocate(bytes), *decoded = (uint16_t *)allocate(bytes);
    uint16_t      *expected = (uint16_t *)allocate(bytes);
    spinfer_matrix W;
    uint32_t       tile;
    int            warp, lane;
    fill_random(dense, rows, cols, cols, density, seed);
    W = encode_matrix(dense, rows, cols, SPINFER_FP16);
    CHECK_SPINFER(spinfer_decode(&W, expected, cols));
    for (tile = 0; tile < tiles_of(rows, cols); tile++) {
        encode_tile(dense, cols, &W, tile);
        for (warp = 0; warp < SPINFER_ENCODE_WARPS; warp++)
            for (lane = 0; lane < 32; lane++) decode_tile(&W, tile, warp, lane, decoded, cols);
    }
    CHECK(memcmp(decoded, expected, bytes) == 0);
    free_matrix(&W);
    free(expected);
    free(decoded);
    free(dense);
}

int main(void)
{
    static const uint32_t shapes[][2] = {{64, 256}, {64, 32},  {1, 1},     {200, 70}, {130, 100},
                                         {65, 33},  {641, 32}, {192, 264}, {7, 519}};
    enum { DENSITIES = 41, SHAPES = sizeof shapes / sizeof *shapes };
    int i;
    test_kept_bits();
    test_places();
    test_large_places();
    for (i = 0; i < SHAPES * DENSITIES; i++)
        test_matrix(shapes[i % SHAPES][0], shapes[i % SHAPES][1], (double)(i / SHAPES) / (DENSITIES - 1), (uint64_t)i);
    printf("lanes of encode and decompress: every pattern and threshold, every weight once, %d matrices: OK\n",
           SHAPES * DENSITIES);
    return 0;
}
