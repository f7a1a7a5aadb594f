/* Risk: the lanes of the GPU encoder and decompressor are wrong. Their steps run here, lane by lane: keep bits against
 * the definition for every pattern and threshold, placed values and decoded rows against the host encoder's records. */
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

static void test_steps_cover(void)
{
    int seen[SPINFER_GROUP_ROWS][SPINFER_GROUP_COLS] = {{0}}, step, lane, i, row, col;
    for (step = 0; step < 8; step++)
        for (lane = 0; lane < 32; lane++)
            for (i = 0; i < 8; i++) {
                row = 8 * step + lane / 4, col = 8 * (lane % 4) + i;
                CHECK(spinfer_step_tile(step, lane) == spinfer_bitmap_tile_at(row, col));
                CHECK(8 * (lane / 4) + i == spinfer_bitmap_bit_at(row, col));
                seen[row][col]++;
            }
    for (row = 0; row < SPINFER_GROUP_ROWS; row++)
        for (col = 0; col < SPINFER_GROUP_COLS; col++) CHECK(seen[row][col] == 1);
}

/* A record as a warp makes it: bitmaps byte by byte, counts, values. Returns its bytes. */
static uint32_t encode_by_lanes(const uint16_t *dense, unsigned char *record)
{
    uint16_t tc_offsets[SPINFER_GROUP_TC_TILES], first[SPINFER_GROUP_BITMAP_TILES];
    uint64_t bitmaps[SPINFER_GROUP_BITMAP_TILES];
    uint32_t nnz = 0, words[4];
    int      step, lane, tile;
    memset(record, 0, SPINFER_RECORD_MAX_BYTES);
    for (step = 0; step < 8; step++)
        for (lane = 0; lane < 32; lane++) {
            load_row(dense + (8 * step + lane / 4) * SPINFER_GROUP_COLS + 8 * (lane % 4), words);
            record[SPINFER_RECORD_BITMAPS + 8 * spinfer_step_tile(step, lane) + lane / 4] =
                (unsigned char)spinfer_kept_bits(words, above(0));
        }
    memcpy(bitmaps, record + SPINFER_RECORD_BITMAPS, sizeof bitmaps);
    for (tile = 0; tile < SPINFER_GROUP_BITMAP_TILES; tile++) {
        if (tile % 4 == 0) tc_offsets[tile / 4] = (uint16_t)nnz;
        first[tile] = (uint16_t)nnz;
        nnz += (uint32_t)spinfer_popcount64(bitmaps[tile]);
    }
    memcpy(record, tc_offsets, sizeof tc_offsets);
    for (step = 0; step < 8; step++)
        for (lane = 31; lane >= 0; lane--) { /* any order */
            tile = spinfer_step_tile(step, lane);
            load_row(dense + (8 * step + lane / 4) * SPINFER_GROUP_COLS + 8 * (lane % 4), words);
            spinfer_place_row(
                words, spinfer_locate_row(bitmaps[tile], record + SPINFER_RECORD_VALUES + 2 * first[tile], lane / 4));
        }
    return spinfer_record_bytes(nnz);
}

static void decode_by_lanes(const unsigned char *record, uint16_t *dense)
{
    uint64_t bitmaps[SPINFER_GROUP_BITMAP_TILES];
    uint32_t first = 0;
    int      tile, lane;
    memcpy(bitmaps, record + SPINFER_RECORD_BITMAPS, sizeof bitmaps);
    for (tile = 0; tile < SPINFER_GROUP_BITMAP_TILES; tile++) {
        for (lane = 0; lane < 8; lane++) { /* the row */
            uint32_t words[4];
            int      i;
            spinfer_decode_row(spinfer_locate_row(bitmaps[tile], record + SPINFER_RECORD_VALUES + 2 * first, lane),
                               words);
            for (i = 0; i < 8; i++)
                dense[(spinfer_bitmap_tile_row(tile) + lane) * SPINFER_GROUP_COLS + spinfer_bitmap_tile_col(tile) + i] =
                    (uint16_t)(words[i / 2] >> (16 * (i % 2)));
        }
        first += (uint32_t)spinfer_popcount64(bitmaps[tile]);
    }
}

int main(void)
{
    enum { DENSITIES = 41 };
    unsigned char *record = (unsigned char *)allocate(SPINFER_RECORD_MAX_BYTES);
    uint16_t       dense[SPINFER_GROUP_ELEMENTS], decoded[SPINFER_GROUP_ELEMENTS], expected[SPINFER_GROUP_ELEMENTS];
    int            i;
    test_kept_bits();
    test_steps_cover();
    for (i = 0; i < 5 * DENSITIES; i++) {
        spinfer_matrix W;
        uint32_t       bytes;
        fill_random(dense, SPINFER_GROUP_ROWS, SPINFER_GROUP_COLS, SPINFER_GROUP_COLS, (double)(i / 5) / 40.0,
                    (uint64_t)i);
        W = encode_matrix(dense, SPINFER_GROUP_ROWS, SPINFER_GROUP_COLS, SPINFER_FP16);
        bytes = encode_by_lanes(dense, record);
        CHECK(bytes == 16 * W.offsets[1] && memcmp(record, W.data, bytes) == 0);
        CHECK_SPINFER(spinfer_decode(&W, expected, SPINFER_GROUP_COLS));
        decode_by_lanes(record, decoded);
        CHECK(memcmp(decoded, expected, sizeof decoded) == 0);
        free_matrix(&W);
    }
    free(record);
    printf("lanes of encode and decompress: every pattern and threshold, %d GroupTiles: OK\n", 5 * DENSITIES);
    return 0;
}
