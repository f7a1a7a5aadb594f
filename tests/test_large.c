/* Risk: an element count above 2^31 or a byte offset above 2^32 that is computed in 32 bits. Untouched anonymous memory
 * costs nothing, so the arrays here are huge and nearly empty. */
#include "test.h"

static void *map_zeros(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

/* Shapes at the limit. The pointer is never read: every call must refuse before that. */
static void test_limits(void)
{
    const size_t    big = SPINFER_MAX_DIM, row_groups = big / 64, col_groups = big / 32;
    const uint16_t *dense = (const uint16_t *)(uintptr_t)64;
    spinfer_sizes   sizes;
    CHECK(big == 0x7fffffc0 && spinfer_row_groups((uint32_t)big) == row_groups);
    CHECK(spinfer_col_groups((uint32_t)big) == col_groups && spinfer_col_groups((uint32_t)big - 31) == col_groups);
    CHECK(spinfer_offsets_bytes(1, 1) == 8 && spinfer_offsets_bytes(64, 32) == 8);
    CHECK(spinfer_offsets_bytes(65, 32) == 12 && spinfer_offsets_bytes(64, 33) == 12);
    CHECK(spinfer_offsets_bytes(65, 33) == 20);
    CHECK(spinfer_offsets_bytes(big, 1) == 4 * (row_groups + 1));
    CHECK(spinfer_offsets_bytes(1, big) == 4 * (col_groups + 1));
    CHECK(spinfer_offsets_bytes(big, big) == 4 * ((uint64_t)row_groups * col_groups + 1)); /* 2^53: beyond any memory */
    CHECK(spinfer_offsets_bytes(0, 1) == 0 && spinfer_offsets_bytes(1, 0) == 0);
    CHECK(spinfer_offsets_bytes(big + 1, 1) == 0 && spinfer_offsets_bytes(1, big + 1) == 0);
    CHECK(spinfer_offsets_bytes(SIZE_MAX, 1) == 0 && spinfer_offsets_bytes(1, SIZE_MAX) == 0);
    CHECK(spinfer_offsets_bytes((size_t)1 << 32, 1) == 0); /* 0 in 32 bits */

    memset(&sizes, POISON, sizeof sizes);
    CHECK(spinfer_encode_sizes(dense, big + 1, 1, 1, &sizes) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_encode_sizes(dense, (size_t)1 << 32 | 1, 1, 1, &sizes) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_encode_sizes(dense, 1, (size_t)1 << 32 | 1, SIZE_MAX, &sizes) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_encode_sizes(dense, 2, 1, SIZE_MAX / 4 + 1, &sizes) == SPINFER_ERR_SHAPE); /* bytes overflow */
    CHECK(spinfer_encode_sizes(dense, big, big, SIZE_MAX / big, &sizes) == SPINFER_ERR_SHAPE);
    CHECK(is_poison(&sizes, sizeof sizes));
}

/* 2^31 + 2^21 elements, three nonzeros, the last one at the very end. */
static void test_elements(void)
{
    const size_t   rows = 65600, cols = 32768, last = rows * cols - 1, middle = ((size_t)1 << 31) + 12345;
    const size_t   places[3] = {5, middle, last};
    uint16_t      *dense = (uint16_t *)map_zeros(2 * rows * cols);
    spinfer_matrix W, slice;
    spinfer_sizes  sizes;
    uint32_t      *offsets;
    void          *data;
    int            i;
    CHECK(rows * cols > (size_t)1 << 31);
    for (i = 0; i < 3; i++) dense[places[i]] = (uint16_t)(0x1234 + i);
    CHECK_SPINFER(spinfer_encode_sizes(dense, rows, cols, cols, &sizes));
    CHECK(sizes.nnz == 3 &&
          sizes.data_bytes == 272 * (uint64_t)(rows / 64 * (cols / 32)) + 128); /* 3 * 16, rounded up */
    offsets = (uint32_t *)allocate((size_t)sizes.offsets_bytes);
    data = allocate((size_t)sizes.data_bytes);
    CHECK_SPINFER(spinfer_encode(dense, rows, cols, cols, SPINFER_BF16, offsets, sizes.offsets_bytes, data,
                                 sizes.data_bytes, &W));
    CHECK_SPINFER(spinfer_validate(&W, sizes.offsets_bytes, sizes.data_bytes));
    for (i = 0; i < 3; i++) { /* decoded in rows of GroupTiles: the whole would fill 4 GiB of real memory */
        const size_t first = places[i] / cols / 64 * 64;
        CHECK_SPINFER(spinfer_slice_rows(&W, first, 64, &slice));
        check_decodes_to(&slice, dense + first * cols, cols);
    }
    free(offsets);
    free(data);
    CHECK(munmap(dense, 2 * rows * cols) == 0);
}

/* Encoded bytes above 2^32: the records of a small matrix lie 5 GiB into the data, like the last rows of a big one. */
static void test_bytes(void)
{
    enum { ROWS = 100, COLS = 70, N = 3, GROUPS = 2 * 3 };
    const uint64_t far_away = 5ull << 30, limit = far_away + 32768;
    uint16_t       dense[ROWS * COLS], X[COLS * N], Y[ROWS * N], Y_far[ROWS * N];
    uint32_t       offsets[GROUPS + 1], joined_offsets[2 * GROUPS + 1];
    char          *data = (char *)map_zeros((size_t)limit), *joined;
    spinfer_matrix W, far_W, parts[2], both;
    spinfer_sizes  sizes;
    size_t         i;
    fill_normal(dense, ROWS * COLS, 1.0, SPINFER_FP16, 1);
    fill_normal(X, COLS * N, 1.0, SPINFER_FP16, 2);
    W = encode_matrix(dense, ROWS, COLS, SPINFER_FP16);
    CHECK(W.data_bytes <= 32768);
    memcpy(data + far_away, W.data, (size_t)W.data_bytes);
    for (i = 0; i <= GROUPS; i++) offsets[i] = W.offsets[i] + (uint32_t)(far_away / 16);
    far_W = W;
    far_W.offsets = offsets;
    far_W.data = data;
    far_W.data_bytes = far_away + W.data_bytes;
    CHECK_SPINFER(spinfer_validate(&far_W, sizeof offsets, limit));
    check_decodes_to(&far_W, dense, COLS);
    far_W.data_bytes -= 128;
    CHECK(spinfer_validate(&far_W, sizeof offsets, limit) == SPINFER_ERR_FORMAT);
    far_W.data_bytes += 128;
    CHECK(spinfer_validate(&far_W, sizeof offsets, far_away) == SPINFER_ERR_CAPACITY);
    CHECK_SPINFER(spinfer_spmm_host(1.0f, &W, X, COLS, 0.0f, Y, ROWS, N));
    CHECK_SPINFER(spinfer_spmm_host(1.0f, &far_W, X, COLS, 0.0f, Y_far, ROWS, N));
    CHECK(memcmp(Y, Y_far, sizeof Y) == 0);

    CHECK_SPINFER(spinfer_slice_rows(&far_W, 0, 64, &parts[0]));
    parts[1] = far_W;
    CHECK_SPINFER(spinfer_concat_rows_sizes(parts, 2, &sizes));
    CHECK(sizes.data_bytes == (16 * (W.offsets[3] + W.offsets[GROUPS]) + 127) / 128 * 128);
    joined = (char *)allocate((size_t)sizes.data_bytes);
    CHECK_SPINFER(spinfer_concat_rows(parts, 2, joined_offsets, sizes.offsets_bytes, joined, sizes.data_bytes, &both));
    CHECK(memcmp(joined + 16 * W.offsets[3], W.data, 16 * (size_t)W.offsets[GROUPS]) == 0);
    CHECK_SPINFER(spinfer_validate(&both, sizes.offsets_bytes, sizes.data_bytes));
    free(joined);
    free_matrix(&W);
    CHECK(munmap(data, (size_t)limit) == 0);
}

/* Results that would exceed 64 GiB or the largest dimension. The parts promise records and rows that they do not have;
 * sizing reads no more of them than one record of zeros. */
static void test_overflow(void)
{
    uint32_t       offsets[2] = {0, 0x80000000u}; /* one "record" of 32 GiB */
    uint64_t       record[SPINFER_RECORD_VALUES / 8 + 1] = {0};
    void          *data = (void *)(((uintptr_t)record + 15) / 16 * 16);
    spinfer_matrix parts[2];
    spinfer_sizes  sizes;
    memset(&parts[0], 0, sizeof parts[0]);
    parts[0].offsets = offsets;
    parts[0].data = data;
    parts[0].rows = 64;
    parts[0].cols = 32;
    parts[0].group_ld = 1;
    parts[0].max_record = SPINFER_RECORD_MAX_BYTES;
    parts[0].dtype = SPINFER_FP16;
    parts[0].format = SPINFER_FORMAT_VERSION;
    parts[1] = parts[0];
    CHECK_SPINFER(spinfer_concat_rows_sizes(parts, 1, &sizes));
    CHECK(sizes.data_bytes == 1ull << 35);
    memset(&sizes, POISON, sizeof sizes);
    CHECK(spinfer_concat_rows_sizes(parts, 2, &sizes) == SPINFER_ERR_OVERFLOW);
    offsets[1] = 0xfffffff9u; /* below 64 GiB, but not when rounded up to 128 bytes */
    CHECK(spinfer_concat_rows_sizes(parts, 1, &sizes) == SPINFER_ERR_OVERFLOW);
    CHECK(is_poison(&sizes, sizeof sizes));
    offsets[1] = 0xfffffff8u;
    CHECK_SPINFER(spinfer_concat_rows_sizes(parts, 1, &sizes));
    CHECK(sizes.data_bytes == (1ull << 36) - 128);
    memset(&sizes, POISON, sizeof sizes);
    parts[1].rows = SPINFER_MAX_DIM;
    CHECK(spinfer_concat_rows_sizes(parts, 2, &sizes) == SPINFER_ERR_SHAPE);
    CHECK(is_poison(&sizes, sizeof sizes));
}

int main(void)
{
    test_limits();
    test_overflow();
    test_bytes();
    test_elements();
    printf("large: shapes at the limit, overflow, records beyond 4 GiB, 2^31 + 2^21 elements: OK\n");
    return 0;
}
