/* Risk: a weight that is lost, moved or changed on the way through encode and decode, or a byte touched that is not
 * ours. Every buffer has the exact size and ends at an unreadable page (test.h). */
#include "test.h"
#ifdef _OPENMP
#include <omp.h>
#endif

static long long shapes_tested;

/* Encodes and decodes; recomputes sizes, offsets and counts from the dense matrix. */
static void check_round_trip(const uint16_t *dense, size_t rows, size_t cols, size_t ld, spinfer_dtype dtype)
{
    const spinfer_matrix W = encode_fenced(dense, rows, cols, ld, dtype);
    const size_t         groups = (cols + 31) / 32;
    uint64_t             nnz = 0, bytes = 0, data_bytes, i;
    uint32_t             max_record = 0;
    spinfer_sizes        sizes;
    size_t               group_row, group, row, col;
    for (group_row = 0; group_row < (rows + 63) / 64; group_row++)
        for (group = 0; group < groups; group++) {
            uint32_t kept = 0, record;
            for (row = 64 * group_row; row < 64 * group_row + 64 && row < rows; row++)
                for (col = 32 * group; col < 32 * group + 32 && col < cols; col++)
                    kept += (dense[row * ld + col] & 0x7fff) != 0;
            record = 16 + 256 + (kept + 7) / 8 * 16;
            CHECK(W.offsets[group_row * groups + group] == bytes / 16);
            nnz += kept;
            bytes += record;
            if (record > max_record) max_record = record;
        }
    data_bytes = (bytes + 127) / 128 * 128;
    CHECK_SPINFER(spinfer_encode_sizes(dense, rows, cols, ld, &sizes));
    CHECK(sizes.offsets_bytes == 4 * ((rows + 63) / 64 * groups + 1) && sizes.data_bytes == data_bytes);
    CHECK(sizes.nnz == nnz && sizes.max_record == max_record && W.max_record == max_record);
    CHECK(W.offsets[(rows + 63) / 64 * groups] == bytes / 16 && W.data_bytes == data_bytes);
    for (i = bytes; i < data_bytes; i++) CHECK(((const unsigned char *)W.data)[i] == 0);
    CHECK(W.rows == rows && W.cols == cols && W.group_ld == groups && W.dtype == (uint32_t)dtype);
    CHECK(W.format == SPINFER_FORMAT_VERSION);
    check_decodes_to(&W, dense, ld);
    free_fenced_matrix(&W);
    shapes_tested++;
}

/* A random matrix in fenced memory whose gaps hold poison: nonzeros, should the encoder take them for weights. */
static void test_shape(size_t rows, size_t cols, size_t ld, double density, spinfer_dtype dtype)
{
    const size_t bytes = 2 * span(rows, cols, ld);
    uint16_t    *dense = (uint16_t *)allocate_fenced(bytes);
    fill_random(dense, rows, cols, ld, density, rows * 1000 + cols);
    check_round_trip(dense, rows, cols, ld, dtype);
    free_fenced(dense, bytes);
}

static void test_densities(void)
{
    static const double percent[] = {0, 1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99, 100};
    size_t              i;
    for (i = 0; i < sizeof percent / sizeof percent[0]; i++) {
        test_shape(192, 160, 160, percent[i] / 100, SPINFER_FP16);
        test_shape(200, 150, 157, percent[i] / 100, SPINFER_BF16);
    }
}

/* All pairs around the edges of BitmapTile, TCTile and GroupTile, and each M and each K from 1 to 130. */
static void test_shapes(void)
{
    static const size_t edges[] = {1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 130};
    const size_t        count = sizeof edges / sizeof edges[0];
    size_t              i, j;
    for (i = 0; i < count; i++)
        for (j = 0; j < count; j++) {
            test_shape(edges[i], edges[j], edges[j], 0.5, SPINFER_FP16);
            test_shape(edges[i], edges[j], edges[j] + 1 + (i + j) % 9, 0.9, SPINFER_BF16);
        }
    for (i = 1; i <= 130; i++)
        for (j = 0; j < 3; j++) {
            test_shape(i, 1 + (size_t)(random_bits(j, i) % 130), 131 + j, 0.4, SPINFER_FP16);
            test_shape(1 + (size_t)(random_bits(j + 3, i) % 130), i, i + j, 0.6, SPINFER_FP16);
        }
}

static void test_every_pattern(void)
{
    uint16_t *dense = (uint16_t *)allocate_fenced(2 * 65536);
    int       i;
    for (i = 0; i < 65536; i++) dense[i] = (uint16_t)i;
    check_round_trip(dense, 256, 256, 256, SPINFER_FP16);
    check_round_trip(dense, 512, 128, 128, SPINFER_BF16);
    free_fenced(dense, 2 * 65536);
}

/* One nonzero at each place of a 64 x 64 matrix, two GroupTiles: it must be the one bit that FIG 1 and 2 say. */
static void test_every_place(void)
{
    uint16_t *dense = (uint16_t *)allocate_fenced(2 * 64 * 64);
    int       row, col;
    memset(dense, 0, 2 * 64 * 64);
    for (row = 0; row < 64; row++)
        for (col = 0; col < 64; col++) {
            const uint16_t value = (uint16_t)(0x8000 | (64 * row + col + 1));
            const int      tc_tile = col % 32 / 16 * 4 + row / 16, tile = 4 * tc_tile + row % 16 / 8 * 2 + col % 16 / 8;
            uint16_t       expected[272 / 2 + 8] = {0};
            spinfer_matrix W;
            int            t;
            for (t = tc_tile + 1; t < 8; t++) expected[t] = 1;
            expected[8 + 4 * tile + row % 8 / 2] = (uint16_t)(1 << (row % 2 * 8 + col % 8)); /* little-endian */
            expected[272 / 2] = value;
            dense[64 * row + col] = value;
            W = encode_fenced(dense, 64, 64, 64, SPINFER_FP16);
            CHECK(W.data_bytes == 640 && W.offsets[1] == (col < 32 ? 18 : 17));
            CHECK(memcmp((const char *)W.data + (col < 32 ? 0 : 272), expected, 288) == 0);
            check_decodes_to(&W, dense, 64);
            free_fenced_matrix(&W);
            dense[64 * row + col] = 0;
        }
    free_fenced(dense, 2 * 64 * 64);
}

/* Calls spinfer_encode() with one thing wrong: the status is the documented one and every output is still poison. */
static void check_refused(spinfer_status expected, const void *dense, size_t rows, size_t cols, size_t ld, int dtype,
                          size_t shift_offsets, uint64_t offsets_bytes, size_t shift_data, uint64_t data_bytes)
{
    uint64_t       offsets[8], data[514];
    spinfer_matrix W;
    spinfer_status status;
    char          *at = (char *)(((uintptr_t)data + 15) / 16 * 16);
    memset(offsets, POISON, sizeof offsets);
    memset(data, POISON, sizeof data);
    memset(&W, POISON, sizeof W);
    status = spinfer_encode((const uint16_t *)dense, rows, cols, ld, (spinfer_dtype)dtype,
                            (uint32_t *)(void *)((char *)offsets + shift_offsets), offsets_bytes, at + shift_data,
                            data_bytes, &W);
    CHECK(status == expected);
    CHECK(is_poison(offsets, sizeof offsets) && is_poison(data, sizeof data) && is_poison(&W, sizeof W));
}

static void test_errors(void)
{
    const size_t   big = SPINFER_MAX_DIM;
    uint16_t       dense[65 * 40];
    uint32_t       offsets[16];
    uint64_t       data[512];
    spinfer_sizes  sizes;
    spinfer_matrix W;
    uint64_t       bytes;
    fill_random(dense, 65, 40, 40, 0.2, 7);
    CHECK_SPINFER(spinfer_encode_sizes(dense, 65, 40, 40, &sizes));
    CHECK(sizes.offsets_bytes == 20 && sizes.data_bytes <= 4000);

    check_refused(SPINFER_ERR_NULL, NULL, 65, 40, 40, SPINFER_FP16, 0, 64, 0, 4000);
    check_refused(SPINFER_ERR_SHAPE, dense, 0, 40, 40, SPINFER_FP16, 0, 64, 0, 4000);
    check_refused(SPINFER_ERR_SHAPE, dense, 65, 0, 40, SPINFER_FP16, 0, 64, 0, 4000);
    check_refused(SPINFER_ERR_SHAPE, dense, 65, 40, 39, SPINFER_FP16, 0, 64, 0, 4000);
    check_refused(SPINFER_ERR_SHAPE, dense, big + 1, 40, 40, SPINFER_FP16, 0, 64, 0, 4000);
    check_refused(SPINFER_ERR_SHAPE, dense, 65, big + 1, big + 1, SPINFER_FP16, 0, 64, 0, 4000);
    check_refused(SPINFER_ERR_SHAPE, dense, 65, 40, SIZE_MAX / 2 / 65 + 1, SPINFER_FP16, 0, 64, 0, 4000);
    check_refused(SPINFER_ERR_SHAPE, dense, SIZE_MAX, SIZE_MAX, SIZE_MAX, SPINFER_FP16, 0, 64, 0, 4000);
    check_refused(SPINFER_ERR_ALIGNMENT, (char *)dense + 1, 64, 40, 40, SPINFER_FP16, 0, 64, 0, 4000);
    check_refused(SPINFER_ERR_ALIGNMENT, dense, 65, 40, 40, SPINFER_FP16, 2, 60, 0, 4000);
    check_refused(SPINFER_ERR_ALIGNMENT, dense, 65, 40, 40, SPINFER_FP16, 0, 64, 8, 4000);
    check_refused(SPINFER_ERR_DTYPE, dense, 65, 40, 40, 0, 0, 64, 0, 4000);
    check_refused(SPINFER_ERR_DTYPE, dense, 65, 40, 40, 3, 0, 64, 0, 4000);
    for (bytes = 0; bytes < sizes.offsets_bytes; bytes++)
        check_refused(SPINFER_ERR_CAPACITY, dense, 65, 40, 40, SPINFER_FP16, 0, bytes, 0, sizes.data_bytes);
    for (bytes = 0; bytes < sizes.data_bytes; bytes++)
        check_refused(SPINFER_ERR_CAPACITY, dense, 65, 40, 40, SPINFER_FP16, 0, sizes.offsets_bytes, 0, bytes);

    memset(offsets, POISON, sizeof offsets);
    memset(data, POISON, sizeof data);
    memset(&W, POISON, sizeof W);
    CHECK(spinfer_encode(dense, 65, 40, 40, SPINFER_FP16, NULL, 64, data, 4096, &W) == SPINFER_ERR_NULL);
    CHECK(spinfer_encode(dense, 65, 40, 40, SPINFER_FP16, offsets, 64, NULL, 4096, &W) == SPINFER_ERR_NULL);
    CHECK(spinfer_encode(dense, 65, 40, 40, SPINFER_FP16, offsets, 64, data, 4096, NULL) == SPINFER_ERR_NULL);
    CHECK(is_poison(offsets, sizeof offsets) && is_poison(data, sizeof data) && is_poison(&W, sizeof W));

    memset(&sizes, POISON, sizeof sizes);
    CHECK(spinfer_encode_sizes(NULL, 65, 40, 40, &sizes) == SPINFER_ERR_NULL);
    CHECK(spinfer_encode_sizes(dense, 65, 40, 40, NULL) == SPINFER_ERR_NULL);
    CHECK(spinfer_encode_sizes(dense, 0, 40, 40, &sizes) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_encode_sizes(dense, 65, 40, 39, &sizes) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_encode_sizes((uint16_t *)(void *)((char *)dense + 1), 64, 40, 40, &sizes) == SPINFER_ERR_ALIGNMENT);
    CHECK(is_poison(&sizes, sizeof sizes));
}

static void test_decode_errors(void)
{
    uint16_t       dense[65 * 40], out[65 * 40];
    spinfer_matrix W, bad;
    fill_random(dense, 65, 40, 40, 0.5, 8);
    W = encode_fenced(dense, 65, 40, 40, SPINFER_FP16);
    memset(out, POISON, sizeof out);
    CHECK(spinfer_decode(NULL, out, 40) == SPINFER_ERR_NULL);
    CHECK(spinfer_decode(&W, NULL, 40) == SPINFER_ERR_NULL);
    CHECK(spinfer_decode(&W, out, 39) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_decode(&W, out, SIZE_MAX) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_decode(&W, (uint16_t *)(void *)((char *)out + 1), 40) == SPINFER_ERR_ALIGNMENT);
    bad = W, bad.offsets = NULL;
    CHECK(spinfer_decode(&bad, out, 40) == SPINFER_ERR_NULL);
    bad = W, bad.data = NULL;
    CHECK(spinfer_decode(&bad, out, 40) == SPINFER_ERR_NULL);
    bad = W, bad.data = (const char *)W.data + 8;
    CHECK(spinfer_decode(&bad, out, 40) == SPINFER_ERR_ALIGNMENT);
    bad = W, bad.rows = 0;
    CHECK(spinfer_decode(&bad, out, 40) == SPINFER_ERR_SHAPE);
    bad = W, bad.group_ld = 1;
    CHECK(spinfer_decode(&bad, out, 40) == SPINFER_ERR_SHAPE);
    bad = W, bad.max_record = 0;
    CHECK(spinfer_decode(&bad, out, 40) == SPINFER_ERR_FORMAT);
    bad = W, bad.dtype = 3;
    CHECK(spinfer_decode(&bad, out, 40) == SPINFER_ERR_DTYPE);
    bad = W, bad.format++;
    CHECK(spinfer_decode(&bad, out, 40) == SPINFER_ERR_VERSION);
    CHECK(is_poison(out, sizeof out));
    free_fenced_matrix(&W);
}

/* The bytes do not depend on the number of threads. */
static void test_threads(void)
{
#ifdef _OPENMP
    enum { ROWS = 500, COLS = 333 };
    const int      threads = omp_get_max_threads();
    uint16_t      *dense = (uint16_t *)allocate(2 * ROWS * COLS);
    spinfer_matrix one, many;
    fill_random(dense, ROWS, COLS, COLS, 0.5, 9);
    omp_set_num_threads(1);
    one = encode_fenced(dense, ROWS, COLS, COLS, SPINFER_FP16);
    omp_set_num_threads(5);
    many = encode_fenced(dense, ROWS, COLS, COLS, SPINFER_FP16);
    CHECK(one.data_bytes == many.data_bytes && memcmp(one.data, many.data, (size_t)one.data_bytes) == 0);
    CHECK(memcmp(one.offsets, many.offsets, (size_t)spinfer_offsets_bytes(ROWS, COLS)) == 0);
    check_decodes_to(&many, dense, COLS);
    omp_set_num_threads(threads);
    free_fenced_matrix(&one);
    free_fenced_matrix(&many);
    free(dense);
#endif
}

int main(void)
{
    test_densities();
    test_shapes();
    test_every_pattern();
    test_every_place();
    test_errors();
    test_decode_errors();
    test_threads();
    printf("encode: %lld matrices bit-exact through encode and decode, all 65536 patterns, all 4096 places of 2 "
           "GroupTiles, wrong arguments, every shorter capacity: OK\n", shapes_tested);
    return 0;
}
