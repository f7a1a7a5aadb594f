/* Risk: a lane that takes the value of its neighbour, or reads a byte that is not part of its record. The decode of the
 * GPU (section 5 of spinfer.cuh) takes its lane as an argument, so here a warp is a loop over 32 lanes on the CPU, and
 * all that it may read ends or begins at an unreadable page. What it must give is what spinfer_decode() gives. */
#include "spinfer.cuh"
#include "test.h"

/* ---- Memory of exact size -------------------------------------------------------------------- */

/* Readable memory between two unreadable pages. */
typedef struct fence {
    unsigned char *begin, *end;
} fence;

static fence fence_create(void)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (SPINFER_RECORD_MAX_BYTES + page) / page * page;
    char        *memory = (char *)mmap(NULL, body + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    fence        f;
    CHECK((void *)memory != MAP_FAILED);
    CHECK(mprotect(memory + page, body, PROT_READ | PROT_WRITE) == 0);
    f.begin = (unsigned char *)memory + page;
    f.end = f.begin + body;
    return f;
}

/* A copy that begins (side 0) or ends (side 1) at an unreadable page; poison at its other side. */
static const void *fence_copy(const fence *f, int side, const void *bytes, size_t count)
{
    unsigned char *copy = side == 0 ? f->begin : f->end - count;
    memset(f->begin, POISON, (size_t)(f->end - f->begin));
    memcpy(copy, bytes, count);
    return copy;
}

/* ---- One GroupTile --------------------------------------------------------------------------- */

typedef struct group {
    uint16_t dense[64][32]; /* what spinfer_decode() gives */
    uint64_t bitmaps[32];
    uint16_t values[2048], tc_offsets[8];
    uint64_t record[SPINFER_RECORD_MAX_BYTES / 8];
    size_t   record_bytes;
} group;

static group group_create(const uint16_t *dense)
{
    spinfer_matrix W = encode_matrix(dense, 64, 32, SPINFER_FP16);
    group          g;
    CHECK_SPINFER(spinfer_decode(&W, g.dense[0], 32));
    CHECK(spinfer_record_at(&W, 0, 0) == W.data);
    g.record_bytes = 16 * (size_t)W.offsets[1];
    memcpy(g.record, W.data, g.record_bytes);
    memcpy(g.tc_offsets, g.record, sizeof g.tc_offsets);
    memcpy(g.bitmaps, (char *)g.record + 16, sizeof g.bitmaps);
    memcpy(g.values, (char *)g.record + 272, g.record_bytes - 272);
    free_matrix(&W);
    return g;
}

/* The register holds the elements (row, col) and (row, col + 1) of the GroupTile. */
static void check_pair(const group *g, uint32_t pair, int row, int col)
{
    CHECK(pair == ((uint32_t)g->dense[row][col] | (uint32_t)g->dense[row][col + 1] << 16));
}

static void check_frag(const group *g, const spinfer_frag_a *frag, int tc_tile, int lane)
{
    int reg;
    for (reg = 0; reg < 4; reg++)
        check_pair(g, frag->r[reg], spinfer_tc_tile_row(tc_tile) + spinfer_frag_a_row(lane, reg),
                   spinfer_tc_tile_col(tc_tile) + spinfer_frag_a_col(lane, reg));
}

/* Values of the BitmapTiles before `tile`. */
static int values_before(const group *g, int tile)
{
    int before = 0;
    while (tile-- > 0) before += spinfer_popcount64(g->bitmaps[tile]);
    return before;
}

/* Four weights at a time. They may read no other values than their own, so there are none behind those. */
static void test_quads(const group *g, const fence *f, int side)
{
    int tile, row, half;
    for (tile = 0; tile < 32; tile++)
        for (row = 0; row < 8; row++)
            for (half = 0; half < 2; half++) {
                const uint64_t  bitmap = g->bitmaps[tile];
                const uint32_t  low = (uint32_t)bitmap, word = row < 4 ? low : (uint32_t)(bitmap >> 32);
                const uint16_t *values = g->values + values_before(g, tile);
                const int       first = 8 * row + 4 * half; /* bit of the BitmapTile */
                const int       end = spinfer_popcount64(bitmap & ~(uint64_t)0 >> (60 - first));
                const int       skip = row < 4 ? 0 : spinfer_popcount(low);
                const int       to_row = spinfer_bitmap_tile_row(tile) + row;
                const int       to_col = spinfer_bitmap_tile_col(tile) + 4 * half;
                uint32_t        pairs[2] = {POISON, POISON};
                spinfer_decode_quad(word, first % 32,
                                    (const uint16_t *)fence_copy(f, side, values + skip, 2 * (size_t)(end - skip)),
                                    pairs);
                check_pair(g, pairs[0], to_row, to_col);
                check_pair(g, pairs[1], to_row, to_col + 2);
                pairs[0] = pairs[1] = POISON;
                spinfer_decode_bitmap_tile(bitmap, (const uint16_t *)fence_copy(f, side, values, 2 * (size_t)end), row,
                                           half, pairs);
                check_pair(g, pairs[0], to_row, to_col);
                check_pair(g, pairs[1], to_row, to_col + 2);
            }
}

/* TCTiles: to registers, and from there to row-major tiles with and without gaps. */
static void test_tc_tiles(const group *g, const fence *bits_fence, const fence *values_fence, int side)
{
    static const size_t lds[] = {16, 20, 40};
    int                 t, lane, row, col;
    for (t = 0; t < 8; t++) {
        const int       before = values_before(g, 4 * t), count = values_before(g, 4 * t + 4) - before;
        const uint64_t *bitmaps = (const uint64_t *)fence_copy(bits_fence, side, g->bitmaps + 4 * t, 32);
        const uint16_t *values =
            (const uint16_t *)fence_copy(values_fence, side, g->values + before, 2 * (size_t)count);
        spinfer_frag_a frags[32];
        size_t         i;
        CHECK(before == g->tc_offsets[t]);
        memset(frags, POISON, sizeof frags);
        for (lane = 0; lane < 32; lane++) {
            CHECK(spinfer_decode_tc_tile(&frags[lane], bitmaps, values, lane) == count);
            check_frag(g, &frags[lane], t, lane);
        }
        for (i = 0; i < sizeof lds / sizeof lds[0]; i++) {
            const size_t ld = lds[i], bytes = 2 * span(16, 16, ld);
            uint16_t    *tile = (uint16_t *)allocate_fenced(bytes);
            for (lane = 0; lane < 32; lane++) spinfer_store_tc_tile(&frags[lane], tile, ld, lane);
            for (row = 0; row < 16; row++) {
                for (col = 0; col < 16; col++)
                    CHECK(tile[(size_t)row * ld + (size_t)col] ==
                          g->dense[spinfer_tc_tile_row(t) + row][spinfer_tc_tile_col(t) + col]);
                if (row < 15) CHECK(is_poison(tile + (size_t)row * ld + 16, 2 * (ld - 16)));
            }
            free_fenced(tile, bytes);
        }
    }
}

/* Whole records, dealt to some warps. */
static void test_group(const group *g, const fence *f, int side)
{
    static const size_t lds[] = {32, 36, 104};
    const void         *record = fence_copy(f, side, g->record, g->record_bytes);
    int                 warps, warp, lane, row, t;
    size_t              i;
    for (t = 0; t < 8; t++)
        for (lane = 0; lane < 32; lane++) {
            spinfer_frag_a frag;
            CHECK(spinfer_decode_record_tc_tile(&frag, record, t, lane) ==
                  values_before(g, 4 * t + 4) - values_before(g, 4 * t));
            check_frag(g, &frag, t, lane);
        }
    for (warps = 1; warps <= 8; warps *= 2)
        for (i = 0; i < sizeof lds / sizeof lds[0]; i++) {
            const size_t ld = lds[i], bytes = 2 * span(64, 32, ld);
            uint16_t    *tile = (uint16_t *)allocate_fenced(bytes);
            for (warp = 0; warp < warps; warp++)
                for (lane = 0; lane < 32; lane++) spinfer_decode_group(record, tile, ld, lane, warp, warps);
            for (row = 0; row < 64; row++) {
                CHECK(memcmp(tile + (size_t)row * ld, g->dense[row], sizeof g->dense[row]) == 0);
                if (row < 63) CHECK(is_poison(tile + (size_t)row * ld + 32, 2 * (ld - 32)));
            }
            free_fenced(tile, bytes);
        }
}

/* Into tiles that the compiler knows to be uint16_t. Stores of 32-bit words into them may be moved behind the reads
 * (strict aliasing, gcc at -O2); the fenced tiles above come out of a call and hide that. */
static void test_typed_tiles(const group *g)
{
    uint16_t tile[64 * 32], tc_tile[16 * 16];
    int      lane, i;
    memset(tile, POISON, sizeof tile);
    for (lane = 0; lane < 32; lane++) spinfer_decode_group(g->record, tile, 32, lane, 0, 1);
    for (i = 0; i < 64 * 32; i++) CHECK(tile[i] == g->dense[i / 32][i % 32]);
    memset(tc_tile, POISON, sizeof tc_tile);
    for (lane = 0; lane < 32; lane++) {
        spinfer_frag_a frag;
        spinfer_decode_record_tc_tile(&frag, g->record, 0, lane);
        spinfer_store_tc_tile(&frag, tc_tile, 16, lane);
    }
    for (i = 0; i < 16 * 16; i++) CHECK(tc_tile[i] == g->dense[i / 16][i % 16]);
}

/* The two steps of the kernel, with pointers as its shared addresses. The kernel finds the first value of a word by a
 * scan over the warp, here it is counted. */
static void test_two_steps(const group *g, const fence *f, int side)
{
    const unsigned char *record = (const unsigned char *)fence_copy(f, side, g->record, g->record_bytes);
    int                  t, lane, bottom;
    for (t = 0; t < 8; t++)
        for (lane = 0; lane < 32; lane++) {
            const spinfer_quad q = spinfer_lane_quad(lane);
            spinfer_frag_a     frag;
            for (bottom = 0; bottom < 2; bottom++) {
                const int      tile = 4 * t + 2 * bottom + spinfer_lane_tile(lane), half = spinfer_lane_half(lane);
                const uint64_t bitmap = g->bitmaps[tile];
                const int      before = values_before(g, tile) + (half ? spinfer_popcount((uint32_t)bitmap) : 0);
                const uint32_t word = (uint32_t)(bitmap >> (32 * half));
                spinfer_shared place = spinfer_quad_locate(word, record + SPINFER_RECORD_VALUES + 2 * before, q);
                uint32_t       values[4];
                spinfer_quad_load(word, place, q, values);
                frag.r[bottom] = spinfer_pack(values[0], values[1]);
                frag.r[bottom + 2] = spinfer_pack(values[2], values[3]);
            }
            check_frag(g, &frag, t, lane);
        }
}

/* The same for wgmma: pairs, in the order of the instruction, in which check_frag() does not look. */
static void test_pairs(const group *g, const fence *f, int side)
{
    const unsigned char *record = (const unsigned char *)fence_copy(f, side, g->record, g->record_bytes);
    int                  t, lane, reg;
    for (t = 0; t < 8; t++)
        for (lane = 0; lane < 32; lane++) {
            const spinfer_pair p = spinfer_lane_pair(lane);
            for (reg = 0; reg < 4; reg++) {
                const int      row = spinfer_tc_tile_row(t) + spinfer_pair_row(lane, reg);
                const int      col = spinfer_tc_tile_col(t) + spinfer_pair_col(lane, reg);
                const int      tile = 4 * t + 2 * (reg % 2) + reg / 2, half = spinfer_lane_half(lane);
                const uint64_t bitmap = g->bitmaps[tile];
                const int      before = values_before(g, tile) + (half ? spinfer_popcount((uint32_t)bitmap) : 0);
                const uint32_t word = (uint32_t)(bitmap >> (32 * half));
                spinfer_shared place = spinfer_pair_locate(word, record + SPINFER_RECORD_VALUES + 2 * before, p);
                CHECK(spinfer_pair_first(word, place, p) == g->dense[row][col]);
                CHECK(spinfer_pair_second(word, place, p) == g->dense[row][col + 1]);
            }
        }
}

/* All of a TCTile has an owner, once. */
static void test_pair_owners(void)
{
    int owned[16][16] = {{0}};
    int lane, reg, i;
    for (lane = 0; lane < 32; lane++)
        for (reg = 0; reg < 4; reg++)
            for (i = 0; i < 2; i++) owned[spinfer_pair_row(lane, reg)][spinfer_pair_col(lane, reg) + i]++;
    for (i = 0; i < 256; i++) CHECK(owned[i / 16][i % 16] == 1);
}

int main(void)
{
    static const uint16_t special[] = {0x0001, 0x8001, 0x03ff, 0x7c00, 0xfc00, 0x7c01,
                                       0xffff, 0x7f80, 0xff81, 0x8000, 0};
    const fence           a = fence_create(), b = fence_create();
    int                   groups = 0, percent, round, side, i;
    test_pair_owners();
    for (percent = 0; percent <= 100; percent += percent == 0 ? 1 : percent == 1 ? 9 : 10)
        for (round = 0; round < 5; round++) {
            uint16_t dense[64 * 32];
            group    g;
            fill_random(dense, 64, 32, 32, percent / 100.0, (uint64_t)(100 * percent + round));
            if (round == 4) /* smallest, largest, infinite, NaN; zeros of both signs */
                for (i = 0; i < 64 * 32; i++)
                    if (dense[i] & 0x7fff) dense[i] = special[dense[i] % (sizeof special / sizeof special[0])];
            g = group_create(dense);
            test_typed_tiles(&g);
            for (side = 0; side < 2; side++) {
                test_quads(&g, &a, side);
                test_tc_tiles(&g, &a, &b, side);
                test_group(&g, &a, side);
                test_two_steps(&g, &a, side);
                test_pairs(&g, &a, side);
            }
            groups++;
        }
    printf("decode lanes: %d GroupTiles of 0 to 100 %% nonzeros, by quads, pairs, TCTiles, records and in two steps, "
           "all bits as by spinfer_decode(), no byte read outside: OK\n",
           groups);
    return 0;
}
