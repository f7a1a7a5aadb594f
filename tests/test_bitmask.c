/* test_bitmask.c - sparse-bitmask and sparse-24-bitmask: import gives the bytes of the encoder, export gives them back,
 * and arrays that disagree are refused before anything is written. */
#include "test.h"
#include "bitmask.h"

/* What compressed-tensors would store, in fenced memory of exact size; values and row_offsets at odd addresses. */
typedef struct compressed {
    bitmask_matrix B;
    uint8_t       *values, *mask, *row_offsets;
    size_t         values_bytes, offsets_bytes;
} compressed;

/* Stores what is not zero (+0 or -0), and also the zeros where keep_zeros asks; sparse-24 where is_24 asks: of every
 * four columns the first two that are not zero, filled up with zeros. */
static compressed compress(const uint16_t *dense, size_t rows, size_t cols, int keep_zeros, int is_24)
{
    compressed   c;
    const size_t row_bytes = (cols + 7) / 8, shift = 1;
    size_t       row, col, count = 0;
    uint16_t    *packed = (uint16_t *)allocate(2 * rows * cols);
    int64_t     *starts = (int64_t *)allocate(8 * rows);
    c.mask = (uint8_t *)allocate_fenced(rows * row_bytes);
    memset(c.mask, 0, rows * row_bytes);
    for (row = 0; row < rows; row++) {
        starts[row] = (int64_t)count;
        for (col = 0; col < cols; col++) {
            const uint16_t bits = dense[row * cols + col];
            int            is_kept = (bits & 0x7fff) || (keep_zeros && random_bits(99, row * cols + col) % 16 == 0);
            if (is_24) { /* the third and fourth column only as far as the quota of two asks for them */
                const unsigned before = (unsigned)c.mask[row * row_bytes + col / 8] >> (col / 4 * 4 % 8) & 15u;
                const int      have = spinfer_popcount(before), left = 4 - (int)(col % 4);
                is_kept = have < 2 && (is_kept || left <= 2 - have);
            }
            if (!is_kept) continue;
            packed[count++] = bits;
            c.mask[row * row_bytes + col / 8] = (uint8_t)(c.mask[row * row_bytes + col / 8] | 1u << col % 8);
        }
    }
    c.values_bytes = 2 * count + shift;
    c.offsets_bytes = 8 * rows + shift;
    c.values = (uint8_t *)allocate_fenced(c.values_bytes);
    c.row_offsets = (uint8_t *)allocate_fenced(c.offsets_bytes);
    memcpy(c.values + shift, packed, 2 * count);
    memcpy(c.row_offsets + shift, starts, 8 * rows);
    c.B.values = c.values + shift;
    c.B.value_count = count;
    c.B.bitmask = c.mask;
    c.B.bitmask_bytes = rows * row_bytes;
    c.B.row_offsets = is_24 ? NULL : c.row_offsets + shift;
    c.B.row_offsets_count = is_24 ? 0 : rows;
    c.B.rows = rows;
    c.B.cols = cols;
    free(packed);
    free(starts);
    return c;
}

static void free_compressed(compressed *c)
{
    free_fenced(c->values, c->values_bytes);
    free_fenced(c->mask, (size_t)c->B.bitmask_bytes);
    free_fenced(c->row_offsets, c->offsets_bytes);
}

static void check_import(const bitmask_matrix *B, const uint16_t *dense)
{
    const size_t   rows = (size_t)B->rows, cols = (size_t)B->cols;
    spinfer_matrix expected = encode_fenced(dense, rows, cols, cols, SPINFER_BF16), W;
    spinfer_sizes  sizes, same;
    uint32_t      *offsets;
    void          *data;
    char           why[BITMASK_WHY];
    CHECK(bitmask_validate(B, why) == SPINFER_OK && !*why);
    CHECK_SPINFER(bitmask_encode_sizes(B, &sizes));
    CHECK_SPINFER(spinfer_encode_sizes(dense, rows, cols, cols, &same));
    CHECK(sizes.offsets_bytes == same.offsets_bytes && sizes.data_bytes == same.data_bytes);
    CHECK(sizes.nnz == same.nnz && sizes.max_record == same.max_record);
    offsets = (uint32_t *)allocate_fenced((size_t)sizes.offsets_bytes);
    data = allocate_fenced((size_t)sizes.data_bytes);
    CHECK(bitmask_encode(B, SPINFER_BF16, offsets, sizes.offsets_bytes, data, sizes.data_bytes - 1, &W) ==
          SPINFER_ERR_CAPACITY);
    CHECK(bitmask_encode(B, SPINFER_BF16, offsets, sizes.offsets_bytes - 1, data, sizes.data_bytes, &W) ==
          SPINFER_ERR_CAPACITY);
    CHECK(is_poison(offsets, (size_t)sizes.offsets_bytes) && is_poison(data, (size_t)sizes.data_bytes));
    CHECK_SPINFER(bitmask_encode(B, SPINFER_BF16, offsets, sizes.offsets_bytes, data, sizes.data_bytes, &W));
    CHECK(W.rows == rows && W.cols == cols && W.dtype == SPINFER_BF16 && W.format == SPINFER_FORMAT_VERSION);
    CHECK(W.group_ld == expected.group_ld && W.max_record == expected.max_record);
    CHECK(W.data_bytes == expected.data_bytes && W.offsets == offsets && W.data == data);
    CHECK(memcmp(offsets, expected.offsets, (size_t)sizes.offsets_bytes) == 0);
    CHECK(memcmp(data, expected.data, (size_t)sizes.data_bytes) == 0);
    free_fenced_matrix(&W);
    free_fenced_matrix(&expected);
}

static void check_decode(const bitmask_matrix *B, const uint16_t *dense)
{
    const size_t rows = (size_t)B->rows, cols = (size_t)B->cols, ld = cols + 2, bytes = 2 * span(rows, cols, ld);
    uint16_t    *out = (uint16_t *)allocate_fenced(bytes);
    size_t       row, col;
    CHECK(bitmask_decode(B, out, cols - 1) == SPINFER_ERR_SHAPE && is_poison(out, bytes));
    CHECK_SPINFER(bitmask_decode(B, out, ld));
    for (row = 0; row < rows; row++) {
        for (col = 0; col < cols; col++) {
            const uint16_t bits = dense[row * cols + col];
            CHECK(out[row * ld + col] == ((bits & 0x7fff) ? bits : 0));
        }
        if (row + 1 < rows) CHECK(is_poison(out + row * ld + cols, 4));
    }
    free_fenced(out, bytes);
}

/* Export of the encoded matrix equals what was compressed from the dense one, where no zeros were kept. */
static void check_export(const compressed *c, const uint16_t *dense)
{
    const size_t   rows = (size_t)c->B.rows, cols = (size_t)c->B.cols, row_bytes = (cols + 7) / 8;
    spinfer_matrix W = encode_fenced(dense, rows, cols, cols, SPINFER_FP16);
    uint64_t       count;
    uint16_t      *values;
    uint8_t       *mask = (uint8_t *)allocate_fenced(rows * row_bytes);
    int64_t       *row_offsets = (int64_t *)allocate_fenced(8 * rows);
    CHECK_SPINFER(bitmask_export_sizes(&W, &count));
    CHECK(count == c->B.value_count);
    values = (uint16_t *)allocate_fenced((size_t)(2 * count));
    if (count) CHECK(bitmask_export(&W, values, count - 1, mask, row_offsets) == SPINFER_ERR_CAPACITY);
    CHECK(is_poison(values, (size_t)(2 * count)) && is_poison(mask, rows * row_bytes) &&
          is_poison(row_offsets, 8 * rows));
    CHECK_SPINFER(bitmask_export(&W, values, count, mask, row_offsets));
    CHECK(memcmp(values, c->B.values, (size_t)(2 * count)) == 0);
    CHECK(memcmp(mask, c->B.bitmask, rows * row_bytes) == 0);
    CHECK(memcmp(row_offsets, c->B.row_offsets, 8 * rows) == 0);
    free_fenced(values, (size_t)(2 * count));
    free_fenced(mask, rows * row_bytes);
    free_fenced(row_offsets, 8 * rows);
    free_fenced_matrix(&W);
}

static void test_shape(size_t rows, size_t cols, double density)
{
    uint16_t  *dense = (uint16_t *)allocate(2 * rows * cols);
    compressed c;
    fill_random(dense, rows, cols, cols, density, rows * 1000 + cols); /* zeros of both signs, NaNs, subnormals */
    c = compress(dense, rows, cols, 0, 0);
    check_import(&c.B, dense);
    check_decode(&c.B, dense);
    check_export(&c, dense);
    free_compressed(&c);
    c = compress(dense, rows, cols, 1, 0); /* stored zeros are dropped */
    check_import(&c.B, dense);
    check_decode(&c.B, dense);
    free_compressed(&c);
    free(dense);
}

static void test_24(size_t rows, size_t cols, double density)
{
    uint16_t  *dense = (uint16_t *)allocate(2 * rows * cols), *kept = (uint16_t *)allocate(2 * rows * cols);
    compressed c;
    size_t     i;
    fill_random(dense, rows, cols, cols, density, 7 * rows + cols);
    c = compress(dense, rows, cols, 0, 1);
    CHECK(c.B.value_count == rows * cols / 2);
    for (i = 0; i < rows * cols; i++)
        kept[i] = c.mask[i / cols * ((cols + 7) / 8) + i % cols / 8] >> i % cols % 8 & 1 ? dense[i] : 0;
    check_import(&c.B, kept);
    check_decode(&c.B, kept);
    free_compressed(&c);
    free(dense);
    free(kept);
}

/* The vector of the format's description: 2 x 10, made with NumPy's packbits. */
static void test_published_vector(void)
{
    const uint16_t values[5] = {0x3c00, 0x4000, 0x4200, 0x4400, 0x4500};
    const uint16_t dense[20] = {0x3c00, 0, 0, 0x4000, 0, 0, 0, 0, 0x4200, 0, 0, 0, 0x4400, 0, 0, 0, 0, 0, 0, 0x4500};
    const uint8_t  mask[4] = {0x09, 0x01, 0x04, 0x02};
    const int64_t  row_offsets[2] = {0, 3};
    bitmask_matrix B = {values, 5, mask, 4, row_offsets, 2, 2, 10};
    compressed     c = compress(dense, 2, 10, 0, 0);
    check_import(&B, dense);
    CHECK(memcmp(c.mask, mask, 4) == 0 && memcmp(c.B.row_offsets, row_offsets, 16) == 0);
    check_export(&c, dense);
    free_compressed(&c);
}

/* Refused with this status; the message has these words; encode and decode refuse alike and write nothing. */
static void check_refused(const bitmask_matrix *B, spinfer_status status, const char *words)
{
    char           why[BITMASK_WHY];
    spinfer_sizes  sizes = {1, 2, 3, 4};
    spinfer_matrix W;
    uint32_t       offsets[64];
    uint64_t       data[512];
    uint16_t       dense[256];
    memset(offsets, POISON, sizeof offsets);
    memset(data, POISON, sizeof data);
    memset(dense, POISON, sizeof dense);
    CHECK(bitmask_validate(B, NULL) == status);
    CHECK(bitmask_validate(B, why) == status);
    if (!strstr(why, words)) fprintf(stderr, "\"%s\" lacks \"%s\"\n", why, words);
    CHECK(strstr(why, words));
    CHECK(bitmask_encode_sizes(B, &sizes) == status && sizes.offsets_bytes == 1 && sizes.max_record == 4);
    CHECK(bitmask_encode(B, SPINFER_FP16, offsets, sizeof offsets, data, sizeof data, &W) == status);
    CHECK(bitmask_decode(B, dense, 16) == status);
    CHECK(is_poison(offsets, sizeof offsets) && is_poison(data, sizeof data) && is_poison(dense, sizeof dense));
}

static void test_refusals(void)
{
    uint16_t             values[6] = {1, 2, 3, 4, 5, 6};
    uint8_t              mask[4] = {0x09, 0x01, 0x04, 0x02};
    int64_t              row_offsets[3] = {0, 3, 5};
    const bitmask_matrix good = {values, 5, mask, 4, row_offsets, 2, 2, 10};
    bitmask_matrix       B = good;
    char                 why[BITMASK_WHY];
    CHECK(bitmask_validate(&B, why) == SPINFER_OK);
    CHECK(bitmask_validate(NULL, why) == SPINFER_ERR_NULL);

    B = good, B.values = NULL;
    check_refused(&B, SPINFER_ERR_NULL, "");
    B = good, B.bitmask = NULL;
    check_refused(&B, SPINFER_ERR_NULL, "");
    B = good, B.rows = 0;
    check_refused(&B, SPINFER_ERR_SHAPE, "");
    B = good, B.cols = 0;
    check_refused(&B, SPINFER_ERR_SHAPE, "");
    B = good, B.rows = (uint64_t)SPINFER_MAX_DIM + 1;
    check_refused(&B, SPINFER_ERR_SHAPE, "");
    B = good, B.cols = UINT64_MAX;
    check_refused(&B, SPINFER_ERR_SHAPE, "");
    B = good, B.rows = SPINFER_MAX_DIM, B.cols = SPINFER_MAX_DIM; /* nothing is read */
    check_refused(&B, SPINFER_ERR_FORMAT, "the bitmask is not rows");

    B = good, B.bitmask_bytes = 3;
    check_refused(&B, SPINFER_ERR_FORMAT, "the bitmask is not rows");
    B = good, B.bitmask_bytes = 5;
    check_refused(&B, SPINFER_ERR_FORMAT, "the bitmask is not rows");
    B = good, B.row_offsets_count = 1;
    check_refused(&B, SPINFER_ERR_FORMAT, "row_offsets has not one number");
    B = good, B.row_offsets_count = 3; /* a last entry as in CSR */
    check_refused(&B, SPINFER_ERR_FORMAT, "row_offsets has not one number");
    B = good, B.row_offsets = NULL;
    check_refused(&B, SPINFER_ERR_FORMAT, "row_offsets is missing");

    B = good, B.value_count = 4;
    check_refused(&B, SPINFER_ERR_FORMAT, "5 bits, but there are 4 values");
    B = good, B.value_count = 6;
    check_refused(&B, SPINFER_ERR_FORMAT, "5 bits, but there are 6 values");
    B = good, B.value_count = UINT64_MAX;
    check_refused(&B, SPINFER_ERR_FORMAT, "values");

    B = good, row_offsets[1] = 2;
    check_refused(&B, SPINFER_ERR_FORMAT, "row 1: row_offsets");
    row_offsets[1] = -1;
    check_refused(&B, SPINFER_ERR_FORMAT, "row 1: row_offsets");
    row_offsets[1] = INT64_MAX;
    check_refused(&B, SPINFER_ERR_FORMAT, "row 1: row_offsets");
    row_offsets[1] = 3, row_offsets[0] = 1;
    check_refused(&B, SPINFER_ERR_FORMAT, "row 0: row_offsets");
    row_offsets[0] = 0;
    mask[0] = 0x0b; /* a bit too many */
    check_refused(&B, SPINFER_ERR_FORMAT, "row 1: row_offsets");
    mask[0] = 0x08;
    check_refused(&B, SPINFER_ERR_FORMAT, "row 1: row_offsets");
    mask[0] = 0x09, mask[3] = 0x06;
    check_refused(&B, SPINFER_ERR_FORMAT, "row 1: the bitmask has a bit behind the last column");
    mask[3] = 0x80;
    check_refused(&B, SPINFER_ERR_FORMAT, "row 1: the bitmask has a bit behind the last column");
    mask[3] = 0x02;
    CHECK(bitmask_validate(&B, why) == SPINFER_OK);
}

static void test_24_refusals(void)
{
    const uint16_t values[13] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13};
    uint8_t        mask[4] = {0x93, 0x05, 0xc5, 0x0a}, odd[2] = {0x33, 0x33};
    bitmask_matrix good = {values, 12, mask, 4, NULL, 0, 2, 12};
    char           why[BITMASK_WHY];
    bitmask_matrix B = good;
    CHECK(bitmask_validate(&B, why) == SPINFER_OK);
    B.value_count = 11;
    check_refused(&B, SPINFER_ERR_FORMAT, "12 bits, but there are 11 values");
    B.value_count = 13;
    check_refused(&B, SPINFER_ERR_FORMAT, "12 bits, but there are 13 values");
    B = good, B.cols = 11;
    check_refused(&B, SPINFER_ERR_FORMAT, "no multiple of 4");
    B = good, B.bitmask = odd, B.bitmask_bytes = 2, B.cols = 6, B.value_count = 6;
    check_refused(&B, SPINFER_ERR_FORMAT, "no multiple of 4");
    B = good, mask[2] = 0xc1; /* one of four */
    check_refused(&B, SPINFER_ERR_FORMAT, "row 1: the bitmask has not two bits in every four");
    mask[2] = 0xd1; /* one and three of four: the row has the right number */
    check_refused(&B, SPINFER_ERR_FORMAT, "row 1: the bitmask has not two bits in every four");
    mask[2] = 0xc5, mask[1] = 0x35;
    check_refused(&B, SPINFER_ERR_FORMAT, "row 0: the bitmask has a bit behind the last column");
}

static void test_arguments(void)
{
    const uint16_t values[1] = {0x3c00};
    const uint8_t  mask[1] = {1};
    const int64_t  row_offsets[1] = {0};
    bitmask_matrix B = {values, 1, mask, 1, row_offsets, 1, 1, 1};
    uint32_t       offsets[4];
    uint64_t       data[64], count;
    spinfer_sizes  sizes;
    spinfer_matrix W, V;
    uint16_t       out[2];
    uint8_t        bits[1];
    int64_t        starts[2];
    CHECK(bitmask_encode_sizes(&B, NULL) == SPINFER_ERR_NULL);
    CHECK(bitmask_encode_sizes(NULL, &sizes) == SPINFER_ERR_NULL);
    CHECK(bitmask_encode(&B, SPINFER_FP16, NULL, 8, data, 384, &W) == SPINFER_ERR_NULL);
    CHECK(bitmask_encode(&B, SPINFER_FP16, offsets, 8, NULL, 384, &W) == SPINFER_ERR_NULL);
    CHECK(bitmask_encode(&B, SPINFER_FP16, offsets, 8, data, 384, NULL) == SPINFER_ERR_NULL);
    CHECK(bitmask_encode(&B, (spinfer_dtype)3, offsets, 8, data, 384, &W) == SPINFER_ERR_DTYPE);
    CHECK(bitmask_encode(&B, SPINFER_FP16, (uint32_t *)((char *)offsets + 2), 8, data, 384, &W) ==
          SPINFER_ERR_ALIGNMENT);
    CHECK(bitmask_decode(&B, NULL, 1) == SPINFER_ERR_NULL);
    {
        uint64_t *aligned = (uint64_t *)allocate(512);
        CHECK(bitmask_encode(&B, SPINFER_FP16, offsets, 8, (char *)aligned + 8, 384, &W) == SPINFER_ERR_ALIGNMENT);
        CHECK_SPINFER(bitmask_encode(&B, SPINFER_FP16, offsets, 8, aligned, 384, &W));
        CHECK(bitmask_export_sizes(NULL, &count) == SPINFER_ERR_NULL);
        CHECK(bitmask_export_sizes(&W, NULL) == SPINFER_ERR_NULL);
        V = W, V.format = 2;
        CHECK(bitmask_export_sizes(&V, &count) == SPINFER_ERR_VERSION);
        CHECK_SPINFER(bitmask_export_sizes(&W, &count));
        CHECK(bitmask_export(&W, NULL, 1, bits, starts) == SPINFER_ERR_NULL);
        CHECK(bitmask_export(&W, out, 1, NULL, starts) == SPINFER_ERR_NULL);
        CHECK(bitmask_export(&W, out, 1, bits, NULL) == SPINFER_ERR_NULL);
        CHECK(bitmask_export(&W, out, 1, bits, (int64_t *)((char *)starts + 4)) == SPINFER_ERR_ALIGNMENT);
        CHECK_SPINFER(bitmask_export(&W, out, 1, bits, starts));
        CHECK(count == 1 && out[0] == 0x3c00 && bits[0] == 1 && starts[0] == 0);
        free(aligned);
    }
}

/* Not a single value: the pointer may be NULL on the way in and out. */
static void test_all_zero(void)
{
    const uint8_t  mask[6] = {0};
    const int64_t  row_offsets[3] = {0};
    const uint16_t dense[27] = {0};
    bitmask_matrix B = {NULL, 0, mask, 6, row_offsets, 3, 3, 9};
    spinfer_matrix W = encode_fenced(dense, 3, 9, 9, SPINFER_FP16);
    uint8_t        bits[6];
    int64_t        starts[3];
    check_import(&B, dense);
    check_decode(&B, dense);
    CHECK_SPINFER(bitmask_export(&W, NULL, 0, bits, starts));
    CHECK(memcmp(bits, mask, 6) == 0 && memcmp(starts, row_offsets, 24) == 0);
    free_fenced_matrix(&W);
}

int main(void)
{
    static const size_t shapes[][2] = {{1, 1},   {1, 8},    {2, 10},   {7, 9},    {8, 8},     {63, 31},  {64, 32},
                                       {65, 33}, {64, 200}, {130, 64}, {200, 97}, {129, 321}, {1, 1000}, {300, 1}};
    static const double densities[] = {0.0, 0.03, 0.5, 0.9, 1.0};
    size_t              i, d;
    for (i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (d = 0; d < sizeof densities / sizeof *densities; d++) {
            test_shape(shapes[i][0], shapes[i][1], densities[d]);
            test_24(shapes[i][0], (shapes[i][1] + 3) / 4 * 4, densities[d]);
        }
    test_published_vector();
    test_refusals();
    test_24_refusals();
    test_arguments();
    test_all_zero();
    return 0;
}
