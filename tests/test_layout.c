/* Risk: a figure that lies. The layout functions are the truth: here they must be one-to-one, and every figure about
 * them in the headers and the README is drawn again from them and compared with the text. Also: the layout of the
 * public structs, which programs in other languages copy.
 *
 *     test_layout DIRECTORY-OF-THE-HEADERS */
#include <stdarg.h>
#include <stddef.h>

#include "spinfer.cuh"
#include "test.h"

/* ---- One-to-one ------------------------------------------------------------------------------ */

static void test_tiles(void)
{
    char seen[64][32] = {{0}};
    int  tile, bit, tc_tile;
    for (tile = 0; tile < SPINFER_GROUP_BITMAP_TILES; tile++)
        for (bit = 0; bit < 64; bit++) {
            const int row = spinfer_bitmap_tile_row(tile) + bit / 8, col = spinfer_bitmap_tile_col(tile) + bit % 8;
            CHECK(row >= 0 && row < SPINFER_GROUP_ROWS && col >= 0 && col < SPINFER_GROUP_COLS && !seen[row][col]++);
            CHECK(spinfer_bitmap_tile_at(row, col) == tile && spinfer_bitmap_bit_at(row, col) == bit);
        }
    for (tc_tile = 0; tc_tile < SPINFER_GROUP_TC_TILES; tc_tile++) { /* BitmapTile number = 4 * TCTile + BT */
        const int row = spinfer_tc_tile_row(tc_tile), col = spinfer_tc_tile_col(tc_tile);
        CHECK(spinfer_bitmap_tile_at(row, col) == 4 * tc_tile &&
              spinfer_bitmap_tile_at(row + 15, col + 15) == 4 * tc_tile + 3);
    }
    CHECK(SPINFER_GROUP_ROWS * SPINFER_GROUP_COLS == SPINFER_GROUP_ELEMENTS);
    CHECK(SPINFER_GROUP_TC_TILES * 256 == SPINFER_GROUP_ELEMENTS &&
          SPINFER_GROUP_BITMAP_TILES * 64 == SPINFER_GROUP_ELEMENTS);
}

static void test_frags(void)
{
    char a[16][16] = {{0}}, b[16][8] = {{0}}, c[16][8] = {{0}}, quads[2][2][32] = {{{0}}};
    int  lane, reg, half;
    for (lane = 0; lane < 32; lane++) {
        const int row = spinfer_frag_a_row(lane, 0), col = spinfer_frag_a_col(lane, 0),
                  shift = spinfer_lane_shift(lane);
        for (half = 0; half < 2; half++) { /* of a register */
            for (reg = 0; reg < 4; reg++)
                CHECK(!a[spinfer_frag_a_row(lane, reg)][spinfer_frag_a_col(lane, reg) + half]++);
            for (reg = 0; reg < 2; reg++) CHECK(!b[spinfer_frag_b_col(lane, reg) + half][spinfer_frag_b_token(lane)]++);
        }
        for (reg = 0; reg < 4; reg++) CHECK(!c[spinfer_frag_c_row(lane, reg)][spinfer_frag_c_token(lane, reg)]++);
        /* the same order of columns in both operands: the instruction multiplies registers 0, 1 of A with 0 of B */
        for (reg = 0; reg < 4; reg++) CHECK(spinfer_frag_a_col(lane, reg) == spinfer_frag_b_col(lane, reg / 2));
        for (reg = 0; reg < 4; reg++) CHECK(spinfer_frag_a_row(lane, reg) == spinfer_frag_c_row(lane, 2 * (reg % 2)));
        /* four neighbours in one half of one BitmapTile, the same bits in the tile below */
        CHECK(spinfer_frag_a_col(lane, 2) == col + 2 && spinfer_frag_a_row(lane, 1) == row + 8);
        CHECK(spinfer_bitmap_tile_at(row, col) == spinfer_lane_tile(lane));
        CHECK(spinfer_bitmap_tile_at(row + 8, col) == spinfer_lane_tile(lane) + 2);
        CHECK(spinfer_bitmap_bit_at(row, col) == 32 * spinfer_lane_half(lane) + shift);
        CHECK(!quads[spinfer_lane_tile(lane)][spinfer_lane_half(lane)][shift]++);
    }
}

static void test_records(void)
{
    uint32_t nnz;
    CHECK(SPINFER_RECORD_BITMAPS == SPINFER_GROUP_TC_TILES * sizeof(uint16_t));
    CHECK(SPINFER_RECORD_VALUES == SPINFER_RECORD_BITMAPS + SPINFER_GROUP_BITMAP_TILES * sizeof(uint64_t));
    for (nnz = 0; nnz <= SPINFER_GROUP_ELEMENTS; nnz++) { /* room for the values and 0 to 7 zeros */
        const uint32_t room = spinfer_record_bytes(nnz) - SPINFER_RECORD_VALUES;
        CHECK(spinfer_record_bytes(nnz) % 16 == 0 && room >= 2 * nnz && room <= 2 * nnz + 14);
    }
    CHECK(spinfer_record_bytes(SPINFER_GROUP_ELEMENTS) == SPINFER_RECORD_MAX_BYTES);
    CHECK(SPINFER_MAX_DIM % SPINFER_GROUP_ROWS == 0 && SPINFER_MAX_DIM % SPINFER_GROUP_COLS == 0);
    CHECK((uint64_t)SPINFER_MAX_DIM + SPINFER_GROUP_ROWS > INT32_MAX && SPINFER_MAX_DIM <= INT32_MAX);
}

/* A piece of X: 16-byte chunks, each in a place of its own, and no place left over. */
static void test_x_places(void)
{
    static char seen[8 * SPINFER_X_BOX * 64 * 2 / 16];
    uint32_t    tokens, boxes, col, token, i, numbers = 0;
    for (i = 0; i < 8; i++) numbers |= 1u << spinfer_x_token(i);
    CHECK(numbers == 0xff);
    for (tokens = 8; tokens <= 64; tokens *= 2)
        for (boxes = 1; boxes <= 8; boxes++) {
            const uint32_t chunks = boxes * SPINFER_X_BOX * tokens * 2 / 16;
            memset(seen, 0, sizeof seen);
            for (col = 0; col < boxes * SPINFER_X_BOX; col += 8)
                for (token = 0; token < tokens; token++) {
                    const uint32_t place = spinfer_x_place(tokens, col, token);
                    CHECK(place % 16 == 0 && place / 16 < chunks && !seen[place / 16]++);
                    CHECK(place / (tokens * 128) == col / SPINFER_X_BOX); /* box by box, a row for each token */
                    CHECK(place / 128 % tokens == token);
                }
        }
}

/* The loads of X: 8 bytes for each lane, half a warp at a time, which must meet every bank once. The kernel computes
 * the place of the first one and comes to the others by exclusive or and addition, as here. */
static void test_x_banks(void)
{
    uint32_t tokens, fragment, slab, lane;
    for (tokens = 8; tokens <= 64; tokens *= 2)
        for (fragment = 0; fragment < tokens / 8; fragment++)
            for (slab = 0; slab < SPINFER_X_BOX / 16; slab++) { /* of 16 columns */
                char banks[2][32] = {{0}};
                for (lane = 0; lane < 32; lane++) {
                    const uint32_t col = (uint32_t)spinfer_frag_b_col((int)lane, 0);
                    const uint32_t token = spinfer_x_token((uint32_t)spinfer_frag_b_token((int)lane));
                    const uint32_t first = spinfer_x_place(8, col / 8 * 8, token) + 2 * (col % 8);
                    const uint32_t place = (first ^ 32 * slab) + 1024 * fragment;
                    const uint32_t bank = place / 4 % 32;
                    CHECK(place ==
                          spinfer_x_place(tokens, 16 * slab + col / 8 * 8, 8 * fragment + token) + 2 * (col % 8));
                    CHECK(place % 8 == 0 && !banks[lane / 16][bank]++ && !banks[lane / 16][bank + 1]++);
                }
            }
}

/* A tile of work: each BitmapTile of its GroupTiles belongs to one lane. */
static void test_bands(void)
{
    char seen[SPINFER_ENCODE_WARPS][SPINFER_GROUP_BITMAP_TILES] = {{0}};
    int  warp, lane;
    for (warp = 0; warp < SPINFER_ENCODE_WARPS; warp++)
        for (lane = 0; lane < 32; lane++) {
            const int group = spinfer_band_group(lane), tile = spinfer_band_tile(warp, lane);
            CHECK(group >= 0 && group < SPINFER_ENCODE_WARPS);
            CHECK(tile >= 0 && tile < SPINFER_GROUP_BITMAP_TILES && !seen[group][tile]++);
            CHECK(spinfer_bitmap_tile_row(tile) == spinfer_band_row(warp));
            CHECK(spinfer_bitmap_tile_col(tile) == spinfer_band_col(lane));
        }
    CHECK(sizeof seen == SPINFER_ENCODE_WARPS * 32); /* as many BitmapTiles as lanes: none is left over */
}

/* Twins: each unit has one of them, the bytes that it waits for are those that it gets, and no two units share a place.
 * Otherwise a launch would wait forever, or add what is not its own. */
static void test_twins(void)
{
    int all;
    for (all = 32; all <= 64; all += 8) { /* tokens of a kernel */
        uint32_t tokens, rank, i, strip;
        for (tokens = 1; tokens <= 2 * (uint32_t)all; tokens++) { /* with wgmma, and without */
            const int      wide = tokens > (uint32_t)all;
            const uint32_t units = spinfer_units(wide, wide ? tokens - (uint32_t)all : tokens);
            unsigned char  seen[32] = {0};
            for (rank = 0; rank < 2; rank++) {
                for (i = 0; spinfer_twin_unit(i, rank) < units; i++) CHECK(!seen[spinfer_twin_unit(i, rank)]++);
                CHECK(spinfer_twin_units(units, rank) == i && i <= (uint32_t)all / 4);
            }
            for (i = 0; i < units; i++) CHECK(seen[i]);
        }
        for (i = 1; i < 200; i++) { /* an odd number of ranges: the row groups of two of them are taken two for two */
            spinfer_plan p;
            memset(&p, 0, sizeof p);
            p.tokens = all, p.splits = (int)(i % 10) + 1, p.strips = (int)(i % 3) + 1, p.helpers = (int)(i % 4);
            CHECK(spinfer_twins(&p, 64 * i) == (p.splits % 2 == 0 ? 1u
                                                : p.splits > 1 && (i + i % 3) / (i % 3 + 1) % 2 == 0 && i % 2 == 0
                                                    ? 2u
                                                    : 0u));
            p.tokens = 16; /* of few strips no twins, but clusters of two ranges */
            CHECK(spinfer_twins(&p, 64 * i) == (p.splits % 2 == 0));
            CHECK(spinfer_plan_twins(&p) == (p.splits >= 6 && p.splits % 2 == 0));
            p.strips = 4;
            CHECK(spinfer_twins(&p, 64 * i) == (p.splits % 2 == 0 ? 1u
                                                : p.splits > 1 && (i + 3) / 4 % 2 == 0 && i % 2 == 0 ? 2u
                                                                                                     : 0u));
            CHECK(spinfer_plan_twins(&p) == (p.splits > 1));
            p.tokens = 8;
            CHECK(spinfer_twins(&p, 64 * i) == (p.splits % 2 == 0) && !spinfer_plan_twins(&p));
        }
        for (strip = 0; strip < 28; strip++)
            for (i = 0; i < (uint32_t)all / 4; i++)
                CHECK(spinfer_twin_mail(all, strip, i) == ((uint32_t)all / 4 * strip + i) * 2 * SPINFER_GROUP_ROWS * 4);
    }
}

/* The parts of a block's shared memory: in their order, none in another, aligned as their users need. */
static void test_shared_memory(void)
{
    static const uint32_t max_records[] = {272, 1536, 2448, SPINFER_RECORD_MAX_BYTES};
    static const uint32_t own[] = {0, 1, 16, 100, 4096, 65535, 131072}; /* bytes of the kernel itself */
    static const int      x_cols[] = {1, 2, 3, 16, 64}, x_pieces[] = {1, 2, 16};
    uint64_t              i;
    for (i = 0; i < 4 * 28 * 7 * 4 * 5 * 3; i++) {
        const uint32_t max_record = max_records[i % 4], teams = (uint32_t)(i / 4 % 28) + 1, own_bytes = own[i % 7];
        spinfer_plan   p;
        spinfer_smem   s;
        uint32_t       tokens, stages, pieces, rings, sums_end, sums;
        memset(&p, 0, sizeof p);
        p.tokens = 8 << i / (4 * 28 * 7) % 4;
        p.team = p.tokens <= 16 ? 1 : p.tokens == 64 && i % 3 == 0 ? 4 : 2;
        p.strips = teams % 4 == 0 ? 4 : teams % 2 == 0 ? 2 : 1;
        p.warps_k = (int)teams / p.strips;
        p.stages = (int)(i / (4 * 28) % 7) + 2;
        p.x_cols = x_cols[i / (4 * 28 * 7 * 4) % 5];
        p.x_pieces = x_pieces[i / (4 * 28 * 7 * 4 * 5)];
        p.splits = 1 + (int)(i / 3 % 4);
        if (p.team == 4) p.x_cols = (p.x_cols + 4 * p.warps_k - 1) / (4 * p.warps_k) * 4 * p.warps_k; /* legal */
        rings = p.team == 4 ? (uint32_t)p.warps_k : 1;                                                /* of X */
        tokens = (uint32_t)p.tokens, stages = (uint32_t)p.stages, pieces = rings * (uint32_t)p.x_pieces;
        s = spinfer_smem_layout(&p, max_record, own_bytes);
        CHECK(s.x_full == (p.team > 1 ? 16u : 8u) * teams * stages); /* barriers of 8 bytes, counters of 4 */
        CHECK(s.x_empty == s.x_full + 8 * pieces && s.x_left == s.x_empty + 8 * pieces);
        CHECK(s.twin >= s.x_left + 4 * pieces && s.twin % 8 == 0);
        CHECK(s.own >= s.twin + 2 * 8 && s.own % 16 == 0);
        CHECK(s.rings >= s.own + own_bytes && s.rings % 128 == 0);
        /* a stage begins up to 112 bytes before its first record */
        CHECK(s.stage % 128 == 0 && s.stage >= (112 + (uint32_t)p.team * max_record + 127) / 128 * 128);
        CHECK(s.tables >= s.rings + teams * stages * s.stage && s.tables % 16 == 0);
        CHECK(s.x >= s.tables + teams * (uint32_t)p.team * SPINFER_TABLE && s.x % 1024 == 0);
        CHECK(s.x_piece % 1024 == 0 && s.x_cols * rings == (uint32_t)p.x_cols);
        CHECK(s.x_piece >= s.x_cols * SPINFER_GROUP_COLS * tokens * 2);
        sums = spinfer_sums_bytes(p.team, p.tokens);
        sums_end = s.rings + (teams - 1) * s.sums + sums;
        CHECK(s.sums >= stages * s.stage && s.sums >= sums && s.sums % (p.team == 4 ? 128 : 16) == 0);
        CHECK(s.total >= s.x + pieces * s.x_piece && s.total >= sums_end);
        if (p.splits > 1 && (tokens >= 32 || (tokens == 16 && p.strips == 4))) { /* of a twin every second unit */
            CHECK(s.mail >= sums_end && s.mail % 16 == 0);
            CHECK(s.total >= s.mail + (uint32_t)p.strips * (tokens / 4) * 2 * SPINFER_GROUP_ROWS * sizeof(float));
        }
    }
    CHECK(SPINFER_SUMS_STRIDE % 16 == 0 && SPINFER_SUMS_STRIDE >= SPINFER_GROUP_ROWS * sizeof(float));
    CHECK(offsetof(spinfer_spmm_args, x_map) % 64 == 0 && sizeof(spinfer_spmm_args) % 64 == 0); /* the copy engine */
}

/* The sums of a team: units follow each other, and every float of a unit has a place for itself. */
static void test_units(void)
{
    int wide, lane;
    for (wide = 0; wide < 2; wide++) {
        const uint32_t bytes = spinfer_unit_bytes(wide), all = spinfer_units(wide, 64);
        char           seen[2 * SPINFER_SUMS_STRIDE / 16] = {0};
        uint32_t       tokens;
        CHECK(spinfer_sums_bytes(wide ? 4 : 2, 64) == all * bytes);
        CHECK(all * 512 >= 64 * SPINFER_GROUP_ROWS * sizeof(float));
        for (tokens = 1; tokens <= 64; tokens++) /* 128 sums each */
            CHECK(spinfer_units(wide, tokens) * 128 >= tokens * SPINFER_GROUP_ROWS &&
                  spinfer_units(wide, tokens) * 128 < (tokens + (wide ? 8 : 2)) * SPINFER_GROUP_ROWS);
        for (lane = 0; lane < 32; lane++) {
            const uint32_t place = spinfer_unit_place(wide, (uint32_t)lane);
            CHECK(place % 16 == 0 && place + 16 <= bytes && !seen[place / 16]++);
        }
    }
}

/* Parts of K follow each other without a gap, end at the end, and differ by one unit. */
static void test_parts(void)
{
    uint32_t parts, units, part;
    for (parts = 1; parts <= 8; parts++)
        for (units = 0; units < 100; units++) {
            const uint32_t step = units / parts, rest = units % parts;
            CHECK(spinfer_part_begin(0, step, rest) == 0 && spinfer_part_begin(parts, step, rest) == units);
            for (part = 0; part < parts; part++) {
                const uint32_t size = spinfer_part_begin(part + 1, step, rest) - spinfer_part_begin(part, step, rest);
                CHECK(size == step || size == step + 1);
            }
            /* a range with one unit more: the host divides the short one only */
            CHECK(spinfer_part_begin(parts, step, rest + 1) == units + 1);
        }
}

/* Against the division of the machine: at multiples, on both sides of them, and at the end. */
static void test_divisors(void)
{
    uint32_t i;
    for (i = 0; i < 200000; i++) {
        const uint32_t        d = i < 5000 ? i + 1 : (i * 2654435761u >> i % 32) % 0x80000000u + 1;
        const uint32_t        most = 0x7fffffff, n = (i * 2246822519u >> i % 7) & most, multiple = n / d * d;
        const spinfer_divisor by = spinfer_divisor_init(d);
        CHECK(spinfer_divide(n, by) == n / d && spinfer_divide(most, by) == most / d);
        CHECK(spinfer_divide(multiple, by) == n / d && spinfer_divide(0, by) == 0);
        if (multiple) CHECK(spinfer_divide(multiple - 1, by) == n / d - 1);
    }
}

/* A warp stores register r of its sums for eight tokens: 32 lanes, 32 banks. (With wgmma 16 bytes a lane, in order.) */
static void test_sums_banks(void)
{
    int reg, lane;
    for (reg = 0; reg < 4; reg++) {
        uint32_t banks = 0;
        for (lane = 0; lane < 32; lane++) {
            const uint32_t token = spinfer_x_token((uint32_t)spinfer_frag_c_token(lane, reg));
            const uint32_t at = token * SPINFER_SUMS_STRIDE + 4 * (uint32_t)spinfer_frag_c_row(lane, reg);
            CHECK(!(banks & 1u << at / 4 % 32));
            banks |= 1u << at / 4 % 32;
        }
        CHECK(banks == 0xffffffffu);
    }
}

/* The table of a warp: every lane finds the words that it needs, and neither half of a warp hits a bank twice. */
static void test_table(void)
{
    char seen[SPINFER_TABLE / 8];
    int  lane, half, t, bt, reg;
    memset(seen, 0, sizeof seen);
    for (half = 0; half < 2; half++) { /* of a bitmap, its first or second word */
        uint32_t banks[2] = {0, 0};
        for (lane = 0; lane < 32; lane++) {
            const uint32_t place = spinfer_table_write(lane) + 16 * (uint32_t)half; /* a word and a place, 8 bytes */
            CHECK(place % 8 == 0 && place + 8 <= SPINFER_TABLE && !seen[place / 8]);
            seen[place / 8] = 1;
            CHECK(!(banks[lane / 16] & 3u << place / 4 % 32));
            banks[lane / 16] |= 3u << place / 4 % 32;
        }
        CHECK(banks[0] == 0xffffffffu && banks[1] == 0xffffffffu);
    }
    for (t = 0; t < SPINFER_GROUP_TC_TILES; t++)
        for (lane = 0; lane < 32; lane++)
            for (bt = 0; bt < 2; bt++) { /* top, bottom */
                const int writer = 4 * t + 2 * bt + spinfer_lane_tile(lane);
                CHECK(spinfer_table_write(writer) + 16 * (uint32_t)spinfer_lane_half(lane) ==
                      spinfer_table_place(t) + spinfer_table_read(lane) + 8 * (uint32_t)bt);
                CHECK((spinfer_table_place(t) + spinfer_table_read(lane)) % 16 == 0);
                /* in the order of the instruction: registers 0 and 1 are of left BitmapTiles, 2 and 3 of right ones */
                for (reg = 0; reg < 4; reg += 2) {
                    const int row = spinfer_pair_row(lane, bt), col = spinfer_pair_col(lane, reg);
                    const int of = 4 * t + 2 * (row / 8) + col / 8;
                    CHECK(spinfer_table_write(of) + 16 * (uint32_t)(row / 4 % 2) ==
                          spinfer_table_place(t) + spinfer_table_read_pairs(lane) + 16 * (uint32_t)reg +
                              8 * (uint32_t)bt);
                }
            }
}

/* As C ABIs with 64-bit pointers lay them out. Programs in other languages have these numbers in them. */
static void test_structs(void)
{
    static const struct {
        size_t is, should_be;
    } places[] = {{offsetof(spinfer_matrix, offsets), 0},
                  {offsetof(spinfer_matrix, data), 8},
                  {offsetof(spinfer_matrix, data_bytes), 16},
                  {offsetof(spinfer_matrix, rows), 24},
                  {offsetof(spinfer_matrix, cols), 28},
                  {offsetof(spinfer_matrix, group_ld), 32},
                  {offsetof(spinfer_matrix, max_record), 36},
                  {offsetof(spinfer_matrix, dtype), 40},
                  {offsetof(spinfer_matrix, format), 44},
                  {sizeof(spinfer_matrix), 48},
                  {offsetof(spinfer_sizes, offsets_bytes), 0},
                  {offsetof(spinfer_sizes, data_bytes), 8},
                  {offsetof(spinfer_sizes, nnz), 16},
                  {offsetof(spinfer_sizes, max_record), 24},
                  {sizeof(spinfer_sizes), 32},
                  {offsetof(spinfer_device, sm_count), 0},
                  {offsetof(spinfer_device, smem_per_block), 4},
                  {offsetof(spinfer_device, compute), 8},
                  {offsetof(spinfer_device, clock_mhz), 12},
                  {offsetof(spinfer_device, read_gbs), 16},
                  {offsetof(spinfer_device, wgmma), 20},
                  {sizeof(spinfer_device), 24},
                  {offsetof(spinfer_plan, tokens), 0},
                  {offsetof(spinfer_plan, strips), 4},
                  {offsetof(spinfer_plan, team), 8},
                  {offsetof(spinfer_plan, warps_k), 12},
                  {offsetof(spinfer_plan, stages), 16},
                  {offsetof(spinfer_plan, splits), 20},
                  {offsetof(spinfer_plan, x_cols), 24},
                  {offsetof(spinfer_plan, x_pieces), 28},
                  {offsetof(spinfer_plan, dependent), 32},
                  {offsetof(spinfer_plan, helpers), 36},
                  {offsetof(spinfer_plan, tail), 40},
                  {sizeof(spinfer_plan), 44},
                  {sizeof(spinfer_frag_a), 16},
                  {sizeof(spinfer_frag_b), 8},
                  {sizeof(spinfer_frag_c), 16},
                  {sizeof(spinfer_dtype), 4},
                  {sizeof(spinfer_status), 4}};
    size_t i;
    CHECK(sizeof(void *) == 8);
    for (i = 0; i < sizeof places / sizeof places[0]; i++) CHECK(places[i].is == places[i].should_be);
}

/* ---- Figures --------------------------------------------------------------------------------- */

/* A file, and how far its text has been compared. */
typedef struct text {
    const char *name;
    char       *all, *rest;
} text;

static int lines_compared;

static text text_read(const char *directory, const char *name)
{
    char  path[4096];
    FILE *file;
    text  t;
    long  bytes;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    file = fopen(path, "rb");
    CHECK(file && fseek(file, 0, SEEK_END) == 0);
    bytes = ftell(file);
    CHECK(bytes > 0 && fseek(file, 0, SEEK_SET) == 0);
    t.name = name;
    t.all = t.rest = (char *)allocate((size_t)bytes + 1);
    CHECK(fread(t.all, 1, (size_t)bytes, file) == (size_t)bytes);
    t.all[bytes] = 0;
    fclose(file);
    return t;
}

/* The words must come next or later in the text, but in its next line if they continue a figure. */
static void expect(text *t, int next_line, const char *format, ...)
{
    char    words[256], *found, *line;
    int     lines = 0;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(words, sizeof words, format, arguments);
    va_end(arguments);
    found = strstr(t->rest, words);
    for (line = t->rest; found && line < found; line++) lines += *line == '\n';
    if (!found || (next_line && lines != 1)) {
        fprintf(stderr, "%s does not say, as the functions do%s:\n%s\n", t->name, next_line ? ", in the next line" : "",
                words);
        exit(1);
    }
    t->rest = found + strlen(words);
    lines_compared++;
}
enum { LATER = 0, NEXT = 1 };

/* FIG 1, in the header and in the README. */
static void check_fig1(text *t)
{
    int i, tc[4][2], bt[2][2];
    for (i = 0; i < 8; i++) tc[i / 2][i % 2] = spinfer_bitmap_tile_at(16 * (i / 2), 16 * (i % 2)) / 4;
    for (i = 0; i < 4; i++) bt[i / 2][i % 2] = spinfer_bitmap_tile_at(8 * (i / 2), 8 * (i % 2));
    expect(t, LATER, "GroupTile %d x %d                  TCTile 16 x 16          BitmapTile 8 x 8", SPINFER_GROUP_ROWS,
           SPINFER_GROUP_COLS);
    expect(t, NEXT, "+-------------+-------------+      +------+------+");
    expect(t, NEXT, "|  TCTile %d   |  TCTile %d   |      | BT %d | BT %d |         one uint64_t", tc[0][0], tc[0][1],
           bt[0][0], bt[0][1]);
    expect(t, NEXT, "|  TCTile %d   |  TCTile %d   |      +------+------+         bit %d * row + col", tc[1][0],
           tc[1][1], spinfer_bitmap_bit_at(1, 0));
    expect(t, NEXT, "|  TCTile %d   |  TCTile %d   |      | BT %d | BT %d |", tc[2][0], tc[2][1], bt[1][0], bt[1][1]);
    expect(t, NEXT, "|  TCTile %d   |  TCTile %d   |      +------+------+", tc[3][0], tc[3][1]);
    expect(t, NEXT, "+-------------+-------------+      = one A operand of mma.m16n8k16");
    expect(t, NEXT, " cols %d..%d    cols %d..%d", spinfer_tc_tile_col(tc[0][0]), spinfer_tc_tile_col(tc[0][0]) + 15,
           spinfer_tc_tile_col(tc[0][1]), spinfer_tc_tile_col(tc[0][1]) + 15);
}

/* The lane that owns four columns, from 8 * tile + 4 * half on, of a row of a TCTile. */
static int owner(int row, int tile, int half)
{
    int lane = 0;
    while (lane < 32 && (spinfer_frag_a_row(lane, 0) != row || spinfer_frag_a_col(lane, 0) != 8 * tile + 4 * half))
        lane++;
    CHECK(lane < 32);
    return lane;
}

static void check_fig2(text *t)
{
    const uint32_t word = 0x19; /* the example: # . . # # . . . */
    int            row, col, lane;
    expect(t, LATER, "bit number                     left tile (BT 0, 2)   right tile (BT 1, 3)");
    for (row = 0; row < 8; row++) {
        char bits[32] = "";
        if (row > 1 && row < 7) continue;
        if (row == 7) expect(t, NEXT, " ...                                     ...                   ...");
        for (col = 0; col < 8; col++) sprintf(bits + 3 * col, " %2d", spinfer_bitmap_bit_at(row, col));
        expect(t, NEXT, "row %d |%s         L%-12dL%-8dL%-12dL%d\n", row, bits, owner(row, 0, 0), owner(row, 0, 1),
               owner(row, 1, 0), owner(row, 1, 1));
        t->rest--; /* the newline */
    }
    for (lane = 0; lane < 2; lane++) {
        const int shift = spinfer_lane_shift(lane);
        char      row_0[32] = "", ranks[64] = "";
        int       bit, rank = spinfer_popcount(word & ((1u << shift) - 1));
        for (bit = 0; bit < 8; bit++) strcat(row_0, word >> bit & 1 ? " #" : " .");
        for (bit = shift; bit < shift + 4; bit++)
            if (word >> bit & 1)
                sprintf(ranks + strlen(ranks), "%sbit %d -> values[%d]", *ranks ? ", " : "", bit, rank++);
        if (lane == 0)
            expect(t, LATER, "row 0 =%s   L%d owns bits %d..%d: %s", row_0, lane, shift, shift + 3, ranks);
        else
            expect(t, NEXT, "L%d owns bits %d..%d: %s", lane, shift, shift + 3, ranks);
    }
}

/* The offsets of FIG 3, and that records are where they say. */
static void check_offsets(text *t)
{
    static uint16_t dense[130 * 97];
    spinfer_matrix  W;
    size_t          row, col;
    expect(t, LATER, "uint32_t [row_groups * group_ld + 1], in units of 16 bytes: record g is the bytes");
    expect(t, NEXT, "16 * offsets[g] .. 16 * offsets[g + 1] of data, g = (row / %d) * group_ld + col / %d",
           SPINFER_GROUP_ROWS, SPINFER_GROUP_COLS);
    fill_random(dense, 130, 97, 97, 0.5, 1);
    W = encode_matrix(dense, 130, 97, SPINFER_FP16);
    CHECK(W.group_ld == 4 && spinfer_row_groups(130) == 3 && W.data_bytes >= 16 * (uint64_t)W.offsets[3 * 4]);
    for (row = 0; row < 130; row++)
        for (col = 0; col < 97; col++) {
            const size_t         g = row / SPINFER_GROUP_ROWS * W.group_ld + col / SPINFER_GROUP_COLS;
            const unsigned char *record = (const unsigned char *)W.data + 16 * (size_t)W.offsets[g];
            CHECK(spinfer_record_at(&W, (uint32_t)(row / SPINFER_GROUP_ROWS), (uint32_t)(col / SPINFER_GROUP_COLS)) ==
                  record);
        }
    free_matrix(&W);
}

/* The record of FIG 3, in the header and in the README. */
static void check_record(text *t)
{
    const char *line = "+--------------+-------------------------+----------------------------+-----------------+";
    expect(t, LATER, "byte 0          %d                        %d                          %d + 2 * nnz",
           SPINFER_RECORD_BITMAPS, SPINFER_RECORD_VALUES, SPINFER_RECORD_VALUES);
    expect(t, NEXT, "%s", line);
    expect(t, NEXT, "| tc_offsets   | bitmaps                 | values                     | 0 to 7 zeros    |");
    expect(t, NEXT, "| uint16_t [%d] | uint64_t [%d]           | uint16_t [nnz]             | to 16 bytes     |",
           SPINFER_GROUP_TC_TILES, SPINFER_GROUP_BITMAP_TILES);
    expect(t, NEXT, "%s", line);
}

/* 50 % of a large matrix: a record and an offset for each 2048 weights. */
static void check_bits_per_weight(text *t)
{
    const double bytes = 4 + (double)spinfer_record_bytes(SPINFER_GROUP_ELEMENTS / 2);
    expect(t, LATER, "%.1f bits", 8 * bytes / SPINFER_GROUP_ELEMENTS);
}

static void check_fig4(text *t)
{
    char columns[64] = "", lanes[64] = "", registers[64] = "";
    int  col, g;
    for (g = 0; g < 8; g++) /* "lane = 4 * g + j", "rows g and g + 8": as in row 0 */
        for (col = 0; col < 16; col += 4) {
            const int lane = 4 * g + owner(0, col / 8, col / 4 % 2);
            CHECK(spinfer_frag_a_row(lane, 0) == g && spinfer_frag_a_row(lane, 1) == g + 8);
            CHECK(spinfer_frag_a_row(lane, 2) == g && spinfer_frag_a_row(lane, 3) == g + 8);
            CHECK(spinfer_frag_a_col(lane, 0) == col && spinfer_frag_a_col(lane, 1) == col);
        }
    for (col = 0; col < 16; col++) {
        const char *gap = col == 0 ? "" : col % 4 ? " " : "  ";
        const int   lane = owner(0, col / 8, col / 4 % 2), reg = spinfer_frag_a_col(lane, 2) <= col ? 2 : 0;
        sprintf(columns + strlen(columns), "%s%2d", gap, col);
        sprintf(registers + strlen(registers), "%s%2d", gap, reg);
        if (col % 4 == 0) sprintf(lanes + strlen(lanes), "%*d", col ? 13 : 6, lane);
    }
    expect(t, LATER, "column   %s        lane = 4 * g + j", columns);
    expect(t, NEXT, "lane j   %s             rows g and g + 8", lanes);
    expect(t, NEXT, "register %s        (+ 1 for row g + 8)", registers);
}

/* The part of a range of `cols` GroupTile columns that has column k, where the parts are apart: whole boxes of X. */
static int part_of(int k, int cols, int parts)
{
    const uint32_t pairs = (uint32_t)(cols + 1) / 2;
    int            part = 0;
    while (2 * spinfer_part_begin((uint32_t)part + 1, pairs / (uint32_t)parts, pairs % (uint32_t)parts) <= (uint32_t)k)
        part++;
    return part;
}

/* The team that takes GroupTile column k of a strip, counted from the first of the block's range of `cols`. */
static int team_of(int strip, int k, int cols, int warps_k, int team)
{
    const int part = spinfer_parts_apart(team) ? part_of(k, cols, warps_k) : k / team % warps_k;
    return strip * warps_k + part;
}

static void check_fig5(text *t)
{
    const int strips = 2, warps_k = 3, columns = 8;
    int       team, strip, k;
    char      line[128] = "";
    expect(t, LATER, "the teams of a block with strips = %d and warps_k = %d", strips, warps_k);
    for (k = 0; k < columns; k++) sprintf(line + strlen(line), k ? "k+%d  " : "k    ", k);
    expect(t, LATER, "K -->  %s..", line);
    for (team = 1; team <= 4; team *= 2)
        for (strip = 0; strip < strips; strip++) {
            *line = 0;
            for (k = 0; k < columns; k++)
                sprintf(line + strlen(line), "%st%d", k ? "   " : "", team_of(strip, k, columns, warps_k, team));
            if (strip == 0)
                expect(t, NEXT, "team = %d  strip %d  %s", team, strip, line);
            else
                expect(t, NEXT, "strip %d  %s", strip, line);
        }
    CHECK(SPINFER_X_BOX == 2 * SPINFER_GROUP_COLS); /* a box spans two columns of GroupTiles, as drawn */
    expect(t, LATER, "X                  |- box 0 -|- box 1 -|- box 2 -| ..");
}

/* At first a copy into each stage, then the next one as soon as a stage has been left. */
static void check_fig6(text *t)
{
    const int stages = 2;
    char      copies[128] = "", warps[128] = "";
    int       s;
    expect(t, LATER, "the life of a team (%d stages)", stages);
    for (s = 0; s < stages; s++) sprintf(copies + strlen(copies), s ? " s%d" : "s%d", s);
    for (s = 0; s < 3; s++) {
        sprintf(warps + strlen(warps), s < 2 ? "wait s%d  scan decode+mma  " : "wait s%d ..", s);
        if (s == 2) break;
        while (strlen(copies) < strlen(warps) + 3) strcat(copies, " "); /* the words before the line differ by 3 */
        sprintf(copies + strlen(copies), "s%d", stages + s);
    }
    expect(t, LATER, "copy engine   %s", copies);
    expect(t, NEXT, "warps            %s", warps);
}

/* The number of a token in its fragment. */
static uint32_t x_number(uint32_t token)
{
    uint32_t i = 0;
    while (i < 8 && spinfer_x_token(i) != token % 8) i++;
    CHECK(i < 8);
    return i;
}

static void check_fig7(text *t)
{
    char     line[128] = "";
    uint32_t token, place, chunk;
    for (place = 0; place < 8; place++) sprintf(line + strlen(line), "%4u", 16 * place);
    expect(t, LATER, "byte   %s        number in the fragment", line);
    for (token = 0; token < 8; token++) {
        if (token > 2 && token < 7) continue;
        if (token == 7) expect(t, NEXT, " ..");
        *line = 0;
        for (place = 0; place < 8; place++)
            for (chunk = 0; chunk < 8; chunk++)
                if (spinfer_x_place(8, 8 * chunk, token) == 128 * token + 16 * place)
                    sprintf(line + strlen(line), "%4u", chunk);
        expect(t, NEXT, "token %u%s        %u", token, line, x_number(token));
    }
    for (chunk = 0; chunk < 8; chunk++)
        CHECK(spinfer_x_place(16, 8 * chunk, 8) == 1024 + spinfer_x_place(16, 8 * chunk, 0));
    expect(t, NEXT, "token 8   as token 0, of the next fragment");
}

/* A line of FIG 8: a number for each lane of GroupTiles 0, 1 and 7. */
static void expect_lanes(text *t, const char *heading, const int *n, const char *rows)
{
    expect(t, NEXT, "%-9s%4d%4d%4d%4d%8d%4d%4d%4d     ..%7d%4d%4d%4d%s", heading, n[0], n[1], n[2], n[3], n[4], n[5],
           n[6], n[7], n[28], n[29], n[30], n[31], rows);
}

static void check_fig8(text *t)
{
    int warp, lane, numbers[32];
    expect(t, LATER, "the lanes of a band and their BitmapTiles");
    expect(t, LATER, "GroupTile %d         GroupTile %d               GroupTile %d", spinfer_band_group(3),
           spinfer_band_group(4), spinfer_band_group(28));
    for (lane = 0; lane < 32; lane++) numbers[lane] = spinfer_band_col(lane);
    expect_lanes(t, "columns", numbers, "");
    for (lane = 0; lane < 32; lane++) numbers[lane] = lane;
    expect_lanes(t, "lane", numbers, "");
    for (warp = 0; warp < SPINFER_ENCODE_WARPS; warp++) {
        char heading[32], rows[32];
        if (warp > 1 && warp < SPINFER_ENCODE_WARPS - 1) continue;
        if (warp > 1) expect(t, NEXT, " ..");
        for (lane = 0; lane < 32; lane++) numbers[lane] = spinfer_band_tile(warp, lane);
        sprintf(heading, "warp %d", warp);
        sprintf(rows, "     rows %2d..%d", spinfer_band_row(warp), spinfer_band_row(warp) + 7);
        expect_lanes(t, heading, numbers, rows);
    }
}

int main(int argc, char **argv)
{
    text encode, spmm, readme;
    CHECK(argc == 2);
    test_tiles();
    test_frags();
    test_records();
    test_structs();
    test_x_places();
    test_table();
    test_x_banks();
    test_sums_banks();
    test_units();
    test_bands();
    test_shared_memory();
    test_twins();
    test_parts();
    test_divisors();

    encode = text_read(argv[1], "spinfer_encode.h");
    check_fig1(&encode);
    check_fig2(&encode);
    check_offsets(&encode);
    check_record(&encode);
    check_bits_per_weight(&encode);
    spmm = text_read(argv[1], "spinfer.cuh");
    check_fig4(&spmm);
    check_fig5(&spmm);
    check_fig6(&spmm);
    check_fig7(&spmm);
    check_fig8(&spmm);
    readme = text_read(argv[1], "README.md");
    check_bits_per_weight(&readme);
    check_fig1(&readme);
    check_record(&readme);
    free(encode.all);
    free(spmm.all);
    free(readme.all);
    printf("layout: tiles, fragments, records, bands and boxes of X one-to-one, no bank twice, structs as published, "
           "%d lines of "
           "the figures as the functions draw them: OK\n",
           lines_compared);
    return 0;
}
