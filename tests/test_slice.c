/* Risk: a slice that starts at the wrong record, forgets the stride of its parent or keeps weights of its neighbour; a
 * concatenation that differs from encoding the stacked matrix. */
#include "test.h"

enum { ROWS = 300, COLS = 200, TOKENS = 5 };

static long long slices_tested;

/* Decode, multiply and validate a slice that claims to be dense[row.., col..] of a matrix with COLS columns. */
static void check_slice(const spinfer_matrix *slice, const uint16_t *dense, size_t row, size_t col, size_t rows,
                        size_t cols)
{
    const uint16_t *part = dense + row * COLS + col;
    const size_t    y_bytes = 2 * rows * TOKENS;
    uint16_t       *X = (uint16_t *)allocate_fenced(2 * cols * TOKENS);
    uint16_t       *Y = (uint16_t *)allocate_fenced(y_bytes), *Y_whole = (uint16_t *)allocate_fenced(y_bytes);
    const uint64_t  offsets = (uint64_t)((rows + 63) / 64 - 1) * slice->group_ld + (cols + 31) / 32 + 1;
    spinfer_matrix  whole;
    CHECK(slice->rows == rows && slice->cols == cols);
    CHECK_SPINFER(spinfer_validate(slice, 4 * offsets, slice->data_bytes));
    check_decodes_to(slice, part, COLS);
    whole = encode_fenced(part, rows, cols, COLS, SPINFER_FP16); /* the same weights, encoded on their own */
    fill_normal(X, cols * TOKENS, 1.0, SPINFER_FP16, row + col);
    CHECK_SPINFER(spinfer_spmm_host(1.0f, slice, X, cols, 0.0f, Y, rows, TOKENS));
    CHECK_SPINFER(spinfer_spmm_host(1.0f, &whole, X, cols, 0.0f, Y_whole, rows, TOKENS));
    CHECK(memcmp(Y, Y_whole, y_bytes) == 0); /* the same sums in the same order */
    free_fenced_matrix(&whole);
    free_fenced(X, 2 * cols * TOKENS);
    free_fenced(Y, y_bytes);
    free_fenced(Y_whole, y_bytes);
    slices_tested++;
}

static void test_slices(const spinfer_matrix *W, const uint16_t *dense)
{
    size_t first, end, row, col;
    for (first = 0; first < ROWS; first += 64)
        for (end = first + 64; end < ROWS + 64; end += 64) {
            const size_t   count = (end < ROWS ? end : ROWS) - first;
            spinfer_matrix slice;
            CHECK_SPINFER(spinfer_slice_rows(W, first, count, &slice));
            check_slice(&slice, dense, first, 0, count, COLS);
        }
    for (first = 0; first < COLS; first += 32)
        for (end = first + 32; end < COLS + 32; end += 32) {
            const size_t   count = (end < COLS ? end : COLS) - first;
            spinfer_matrix slice;
            CHECK_SPINFER(spinfer_slice_cols(W, first, count, &slice));
            check_slice(&slice, dense, 0, first, ROWS, count);
        }
    /* slices of slices, in both orders and in place */
    for (row = 0; row < ROWS; row += 128)
        for (col = 0; col < COLS; col += 96) {
            const size_t   rows = ROWS - row, cols = COLS - col;
            const size_t   inner_row = rows > 64 ? 64 : 0, inner_col = cols > 32 ? 32 : 0;
            spinfer_matrix a = *W, b = *W;
            CHECK_SPINFER(spinfer_slice_rows(&a, row, rows, &a));
            CHECK_SPINFER(spinfer_slice_cols(&a, col, cols, &a));
            CHECK_SPINFER(spinfer_slice_rows(&a, inner_row, rows - inner_row, &a));
            CHECK_SPINFER(spinfer_slice_cols(&a, inner_col, cols - inner_col, &a));
            check_slice(&a, dense, row + inner_row, col + inner_col, rows - inner_row, cols - inner_col);
            CHECK_SPINFER(spinfer_slice_cols(&b, col + inner_col, cols - inner_col, &b));
            CHECK_SPINFER(spinfer_slice_rows(&b, row + inner_row, rows - inner_row, &b));
            CHECK(a.offsets == b.offsets && a.data == b.data && a.rows == b.rows && a.cols == b.cols);
        }
}

/* Concatenates into fenced memory of exact size and compares with the encoding of the stacked dense matrix. */
static void check_concat(const spinfer_matrix *parts, size_t count, const uint16_t *stacked, size_t rows, size_t cols,
                         size_t ld)
{
    const spinfer_matrix expected = encode_fenced(stacked, rows, cols, ld, SPINFER_FP16);
    spinfer_sizes        sizes, direct;
    spinfer_matrix       W;
    uint32_t            *offsets;
    void                *data;
    CHECK_SPINFER(spinfer_encode_sizes(stacked, rows, cols, ld, &direct));
    CHECK_SPINFER(spinfer_concat_rows_sizes(parts, count, &sizes));
    CHECK(sizes.offsets_bytes == direct.offsets_bytes && sizes.data_bytes == direct.data_bytes);
    CHECK(sizes.nnz == direct.nnz);
    CHECK(sizes.max_record >= direct.max_record); /* slices keep the number of their parent */
    offsets = (uint32_t *)allocate_fenced((size_t)sizes.offsets_bytes);
    data = allocate_fenced((size_t)sizes.data_bytes);
    CHECK_SPINFER(spinfer_concat_rows(parts, count, offsets, sizes.offsets_bytes, data, sizes.data_bytes, &W));
    CHECK(memcmp(offsets, expected.offsets, (size_t)sizes.offsets_bytes) == 0);
    CHECK(memcmp(data, expected.data, (size_t)sizes.data_bytes) == 0);
    CHECK(W.offsets == offsets && W.data == data && W.data_bytes == sizes.data_bytes);
    CHECK(W.max_record == sizes.max_record && W.dtype == SPINFER_FP16);
    CHECK(W.rows == rows && W.cols == cols && W.group_ld == (cols + 31) / 32 && W.format == SPINFER_FORMAT_VERSION);
    CHECK_SPINFER(spinfer_validate(&W, sizes.offsets_bytes, sizes.data_bytes));
    free_fenced_matrix(&W);
    free_fenced_matrix(&expected);
}

static void test_concat(const spinfer_matrix *W, const uint16_t *dense)
{
    spinfer_matrix parts[3];
    uint16_t      *stacked = (uint16_t *)allocate(2 * (64 + 128 + ROWS) * COLS);
    CHECK_SPINFER(spinfer_slice_rows(W, 0, 64, &parts[0]));
    CHECK_SPINFER(spinfer_slice_rows(W, 64, 192, &parts[1]));
    CHECK_SPINFER(spinfer_slice_rows(W, 256, ROWS - 256, &parts[2]));
    check_concat(parts, 3, dense, ROWS, COLS, COLS); /* cut and glued: what it was */
    check_concat(W, 1, dense, ROWS, COLS, COLS);
    /* parts that are slices along both sides, out of order, and one twice */
    CHECK_SPINFER(spinfer_slice_cols(&parts[0], 64, 96, &parts[0]));
    CHECK_SPINFER(spinfer_slice_rows(W, 128, 128, &parts[1]));
    CHECK_SPINFER(spinfer_slice_cols(&parts[1], 64, 96, &parts[1]));
    CHECK_SPINFER(spinfer_slice_cols(W, 64, 96, &parts[2]));
    memcpy(stacked, dense, 2 * 64 * COLS);
    memcpy(stacked + 64 * COLS, dense + 128 * COLS, 2 * 128 * COLS);
    memcpy(stacked + (64 + 128) * COLS, dense, 2 * ROWS * COLS);
    check_concat(parts, 3, stacked + 64, 64 + 128 + ROWS, 96, COLS);
    { /* parts encoded on their own: max_record is exact */
        const spinfer_matrix own[2] = {encode_fenced(dense, 128, COLS, COLS, SPINFER_FP16),
                                       encode_fenced(dense + 128 * COLS, ROWS - 128, COLS, COLS, SPINFER_FP16)};
        spinfer_sizes        sizes;
        check_concat(own, 2, dense, ROWS, COLS, COLS);
        CHECK_SPINFER(spinfer_concat_rows_sizes(own, 2, &sizes));
        CHECK(sizes.max_record == W->max_record);
        free_fenced_matrix(&own[0]);
        free_fenced_matrix(&own[1]);
    }
    free(stacked);
}

static void test_slice_errors(const spinfer_matrix *W)
{
    spinfer_matrix slice;
    memset(&slice, POISON, sizeof slice);
    CHECK(spinfer_slice_rows(NULL, 0, 64, &slice) == SPINFER_ERR_NULL);
    CHECK(spinfer_slice_rows(W, 0, 64, NULL) == SPINFER_ERR_NULL);
    CHECK(spinfer_slice_rows(W, 1, 64, &slice) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_slice_rows(W, 32, 64, &slice) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_slice_rows(W, 320, 64, &slice) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_slice_rows(W, SIZE_MAX - 63, 128, &slice) == SPINFER_ERR_SHAPE); /* first + count wraps to 64 */
    CHECK(spinfer_slice_rows(W, 0, 0, &slice) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_slice_rows(W, 0, 63, &slice) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_slice_rows(W, 256, 45, &slice) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_slice_rows(W, 64, SIZE_MAX - 63, &slice) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_slice_cols(NULL, 0, 32, &slice) == SPINFER_ERR_NULL);
    CHECK(spinfer_slice_cols(W, 0, 32, NULL) == SPINFER_ERR_NULL);
    CHECK(spinfer_slice_cols(W, 16, 32, &slice) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_slice_cols(W, 224, 32, &slice) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_slice_cols(W, SIZE_MAX - 31, 64, &slice) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_slice_cols(W, 0, 0, &slice) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_slice_cols(W, 0, 31, &slice) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_slice_cols(W, 192, 9, &slice) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_slice_cols(W, 32, SIZE_MAX - 31, &slice) == SPINFER_ERR_SHAPE);
    CHECK(is_poison(&slice, sizeof slice));
}

static void test_concat_errors(const spinfer_matrix *W)
{
    spinfer_matrix parts[2], joined;
    spinfer_sizes  sizes;
    uint32_t      *offsets;
    unsigned char *data;
    CHECK_SPINFER(spinfer_slice_rows(W, 0, 64, &parts[0]));
    parts[1] = *W;
    CHECK_SPINFER(spinfer_concat_rows_sizes(parts, 2, &sizes));
    offsets = (uint32_t *)allocate((size_t)sizes.offsets_bytes + 4);
    data = (unsigned char *)allocate((size_t)sizes.data_bytes + 16);
    memset(offsets, POISON, (size_t)sizes.offsets_bytes + 4);
    memset(data, POISON, (size_t)sizes.data_bytes + 16);
    memset(&joined, POISON, sizeof joined);
#define CHECK_REFUSED(status, parts_, count, offsets_, offsets_bytes, data_, data_bytes, joined_)                      \
    CHECK(spinfer_concat_rows(parts_, count, offsets_, offsets_bytes, data_, data_bytes, joined_) == (status))
    CHECK_REFUSED(SPINFER_ERR_NULL, NULL, 2, offsets, sizes.offsets_bytes, data, sizes.data_bytes, &joined);
    CHECK_REFUSED(SPINFER_ERR_NULL, parts, 2, NULL, sizes.offsets_bytes, data, sizes.data_bytes, &joined);
    CHECK_REFUSED(SPINFER_ERR_NULL, parts, 2, offsets, sizes.offsets_bytes, NULL, sizes.data_bytes, &joined);
    CHECK_REFUSED(SPINFER_ERR_NULL, parts, 2, offsets, sizes.offsets_bytes, data, sizes.data_bytes, NULL);
    CHECK_REFUSED(SPINFER_ERR_SHAPE, parts, 0, offsets, sizes.offsets_bytes, data, sizes.data_bytes, &joined);
    CHECK_REFUSED(SPINFER_ERR_CAPACITY, parts, 2, offsets, sizes.offsets_bytes - 1, data, sizes.data_bytes, &joined);
    CHECK_REFUSED(SPINFER_ERR_CAPACITY, parts, 2, offsets, sizes.offsets_bytes, data, sizes.data_bytes - 1, &joined);
    CHECK_REFUSED(SPINFER_ERR_ALIGNMENT, parts, 2, offsets, sizes.offsets_bytes, data + 8, sizes.data_bytes, &joined);
    CHECK_REFUSED(SPINFER_ERR_ALIGNMENT, parts, 2, (uint32_t *)(void *)((char *)offsets + 2), sizes.offsets_bytes, data,
                  sizes.data_bytes, &joined);
#define CHECK_BAD_PART(field, value, status)                                                                           \
    do {                                                                                                               \
        spinfer_matrix bad[2] = {parts[0], parts[1]};                                                                  \
        bad[1].field = (value);                                                                                        \
        CHECK_REFUSED(status, bad, 2, offsets, sizes.offsets_bytes, data, sizes.data_bytes, &joined);                  \
    } while (0)
    CHECK_BAD_PART(offsets, NULL, SPINFER_ERR_NULL);
    CHECK_BAD_PART(data, NULL, SPINFER_ERR_NULL);
    CHECK_BAD_PART(cols, COLS - 1, SPINFER_ERR_SHAPE);
    CHECK_BAD_PART(rows, 0, SPINFER_ERR_SHAPE);
    CHECK_BAD_PART(rows, SPINFER_MAX_DIM, SPINFER_ERR_SHAPE); /* 64 more than there may be */
    CHECK_BAD_PART(group_ld, 1, SPINFER_ERR_SHAPE);
    CHECK_BAD_PART(max_record, 1, SPINFER_ERR_FORMAT);
    CHECK_BAD_PART(dtype, SPINFER_BF16, SPINFER_ERR_DTYPE);
    CHECK_BAD_PART(dtype, 9, SPINFER_ERR_DTYPE);
    CHECK_BAD_PART(format, 2, SPINFER_ERR_VERSION);
    parts[0] = *W; /* 300 rows: not a multiple of 64, and not the last part */
    CHECK_REFUSED(SPINFER_ERR_SHAPE, parts, 2, offsets, sizes.offsets_bytes, data, sizes.data_bytes, &joined);
    CHECK(is_poison(offsets, (size_t)sizes.offsets_bytes + 4) && is_poison(data, (size_t)sizes.data_bytes + 16));
    CHECK(is_poison(&joined, sizeof joined));
    memset(&sizes, POISON, sizeof sizes);
    CHECK(spinfer_concat_rows_sizes(NULL, 1, &sizes) == SPINFER_ERR_NULL);
    CHECK(spinfer_concat_rows_sizes(parts, 1, NULL) == SPINFER_ERR_NULL);
    CHECK(spinfer_concat_rows_sizes(parts, 0, &sizes) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_concat_rows_sizes(parts, 2, &sizes) == SPINFER_ERR_SHAPE);
    CHECK(is_poison(&sizes, sizeof sizes));
    free(offsets);
    free(data);
}

int main(void)
{
    uint16_t      *dense = (uint16_t *)allocate(2 * ROWS * COLS);
    spinfer_matrix W;
    fill_normal(dense, ROWS * COLS, 1.0, SPINFER_FP16, 1);
    prune_iid(dense, ROWS, COLS, 0.5, 2);
    W = encode_fenced(dense, ROWS, COLS, COLS, SPINFER_FP16);
    test_slices(&W, dense);
    test_concat(&W, dense);
    test_slice_errors(&W);
    test_concat_errors(&W);
    free_fenced_matrix(&W);
    free(dense);
    printf("slice: %lld slices and slices of slices equal the dense ones, concatenation equals encoding, wrong "
           "arguments: OK\n", slices_tested);
    return 0;
}
