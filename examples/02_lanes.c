/* 02_lanes.c - a warp is a loop over 32 lanes: the decode of the GPU, on the CPU.
 *
 *     02_lanes
 *
 * The idea. A tensor core multiplies 16 x 16 weights at once, and wants each lane of a warp to hold eight of them in
 * four registers. So a lane must find its own values without asking the others: the rank of its first bit is one
 * population count, and the rest follow behind it. In spinfer no function below a kernel reads threadIdx. Lane and warp
 * are arguments, and therefore the same functions run here, on the host, where one can print what each lane does.
 *
 * Introduces: spinfer_decode_tc_tile(), spinfer_frag_a_row(), spinfer_frag_a_col(), spinfer_lane_tile(),
 *             spinfer_lane_half(), spinfer_lane_shift(), spinfer_record_at(), spinfer_decode_record_tc_tile() */
#include "common.h"
#include "spinfer.cuh"

enum { ROWS = 128, COLS = 64 }; /* 2 x 2 records */

/* Four neighbouring weights of a row, slowly and in words: what spinfer_decode_quad() does for the upper row. */
static void explain(const uint64_t *bitmaps, const uint16_t *values, int lane)
{
    const int tile = spinfer_lane_tile(lane), half = spinfer_lane_half(lane), shift = spinfer_lane_shift(lane);
    const int before =
        (tile ? spinfer_popcount64(bitmaps[0]) : 0) + (half ? spinfer_popcount((uint32_t)bitmaps[tile]) : 0);
    const uint32_t word = (uint32_t)(bitmaps[tile] >> (32 * half));
    int            index = before + spinfer_popcount(word & ((1u << shift) - 1)), i;
    printf("  lane %2d  row %d, columns %2d..%2d  BT %d, %s word, bits %2d..%2d  ", lane, spinfer_frag_a_row(lane, 0),
           spinfer_frag_a_col(lane, 0), spinfer_frag_a_col(lane, 0) + 3, tile, half ? "high" : "low ", shift,
           shift + 3);
    for (i = 0; i < 4; i++) putchar(word >> (shift + i) & 1 ? '#' : '.');
    printf("  rank %2d ", index);
    for (i = 0; i < 4; i++)
        if (word >> (shift + i) & 1)
            printf(" %7.4f", (double)spinfer_to_float(values[index++], SPINFER_FP16));
        else
            printf("    .   ");
    puts("");
}

/* The registers of 32 lanes back into a row-major tile, by the functions that say who owns what. */
static void to_tile(const spinfer_frag_a *frags, uint16_t (*tile)[16])
{
    int lane, reg;
    for (lane = 0; lane < 32; lane++)
        for (reg = 0; reg < 4; reg++) {
            const int row = spinfer_frag_a_row(lane, reg), col = spinfer_frag_a_col(lane, reg);
            tile[row][col] = (uint16_t)frags[lane].r[reg]; /* the lower column in the lower half */
            tile[row][col + 1] = (uint16_t)(frags[lane].r[reg] >> 16);
        }
}

int main(void)
{
    uint16_t       dense[ROWS * COLS], tile[16][16];
    spinfer_frag_a frags[32];
    spinfer_matrix W;
    const void    *record;
    uint32_t       row_group, col_group;
    int            lane, t, row, owner[8][16];
    fill_normal(dense, ROWS * COLS, 0.02, SPINFER_FP16, 1);
    prune_iid(dense, ROWS, COLS, 0.5, 2);
    W = encode_matrix(dense, ROWS, COLS, SPINFER_FP16);

    puts("who owns the 8 upper rows of a TCTile (the same lanes own the rows 8 below):\n");
    for (lane = 0; lane < 32; lane++)
        for (t = 0; t < 4; t++) owner[spinfer_frag_a_row(lane, 0)][spinfer_frag_a_col(lane, 0) + t] = lane;
    for (row = 0; row < 8; row++, puts(""))
        for (t = 0; t < 16; t++) printf("%s%2d", t == 8 ? "   " : " ", owner[row][t]);

    puts("\nhow the lanes of the first two rows find their values in TCTile 0:\n");
    record = spinfer_record_at(&W, 0, 0);
    for (lane = 0; lane < 8; lane++)
        explain((const uint64_t *)(const void *)((const unsigned char *)record + SPINFER_RECORD_BITMAPS),
                (const uint16_t *)(const void *)((const unsigned char *)record + SPINFER_RECORD_VALUES), lane);

    for (row_group = 0; row_group < ROWS / SPINFER_GROUP_ROWS; row_group++)
        for (col_group = 0; col_group < COLS / SPINFER_GROUP_COLS; col_group++)
            for (t = 0; t < SPINFER_GROUP_TC_TILES; t++) {
                const size_t first_row = SPINFER_GROUP_ROWS * row_group + (size_t)spinfer_tc_tile_row(t);
                const size_t first_col = SPINFER_GROUP_COLS * col_group + (size_t)spinfer_tc_tile_col(t);
                record = spinfer_record_at(&W, row_group, col_group);
                for (lane = 0; lane < 32; lane++) spinfer_decode_record_tc_tile(&frags[lane], record, t, lane);
                to_tile(frags, tile);
                for (row = 0; row < 16; row++)
                    CHECK(memcmp(tile[row], dense + (first_row + (size_t)row) * COLS + first_col, sizeof tile[row]) ==
                          0);
            }
    printf("\n%d weights, decoded by 32 lanes in a loop: bit for bit as they were\n", (int)(ROWS * COLS));
    free_matrix(&W);
    puts("OK");
    return 0;
}
