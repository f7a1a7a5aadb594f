/* fuzz_bitmask.c - the import of sparse-bitmask and sparse-24-bitmask: what is accepted gives the bytes of the encoder,
 * and comes back.
 *
 * Input: flags u8 (1: sparse-24, 2: a bitmask of wrong size, 4: a row_offsets of wrong size, 8: make row_offsets fit,
 * 16: make the number of values fit), rows u8 (modulo 131), cols u8 (modulo 101), the bitmask, row_offsets i16
 * each, the values. */
#include "fuzz.h"
#include "bitmask.h"

enum { IS_24 = 1, WRONG_BITMASK = 2, WRONG_OFFSETS = 4, FIT_OFFSETS = 8, FIT_VALUES = 16 };

static void check_export(const spinfer_matrix *W, const uint16_t *dense)
{
    const size_t   mask_bytes = W->rows * bitmask_row_bytes(W->cols);
    uint64_t       count;
    uint16_t      *values, *back = (uint16_t *)malloc((size_t)W->rows * W->cols * 2);
    uint8_t       *mask = (uint8_t *)malloc(mask_bytes);
    int64_t       *row_offsets = (int64_t *)malloc(8 * (size_t)W->rows);
    bitmask_matrix B;
    CHECK(bitmask_export_sizes(W, &count) == SPINFER_OK);
    values = (uint16_t *)malloc(count ? (size_t)(2 * count) : 1);
    CHECK(values && back && mask && row_offsets);
    CHECK(bitmask_export(W, values, count, mask, row_offsets) == SPINFER_OK);
    B.values = values, B.value_count = count;
    B.bitmask = mask, B.bitmask_bytes = mask_bytes;
    B.row_offsets = row_offsets, B.row_offsets_count = W->rows;
    B.rows = W->rows, B.cols = W->cols;
    CHECK(bitmask_decode(&B, back, W->cols) == SPINFER_OK);
    CHECK(memcmp(back, dense, (size_t)W->rows * W->cols * 2) == 0);
    free(values);
    free(back);
    free(mask);
    free(row_offsets);
}

static void use(const bitmask_matrix *B)
{
    uint16_t      *dense = (uint16_t *)malloc((size_t)(B->rows * B->cols * 2));
    spinfer_sizes  sizes, same;
    spinfer_matrix W;
    uint32_t      *offsets, *expected_offsets;
    void          *data, *expected;
    CHECK(dense && bitmask_decode(B, dense, (size_t)B->cols) == SPINFER_OK);
    CHECK(bitmask_encode_sizes(B, &sizes) == SPINFER_OK);
    CHECK(spinfer_encode_sizes(dense, (size_t)B->rows, (size_t)B->cols, (size_t)B->cols, &same) == SPINFER_OK);
    CHECK(sizes.offsets_bytes == same.offsets_bytes && sizes.data_bytes == same.data_bytes && sizes.nnz == same.nnz &&
          sizes.max_record == same.max_record);
    offsets = (uint32_t *)malloc((size_t)sizes.offsets_bytes);
    expected_offsets = (uint32_t *)malloc((size_t)sizes.offsets_bytes);
    data = malloc((size_t)sizes.data_bytes);
    expected = malloc((size_t)sizes.data_bytes);
    CHECK(offsets && expected_offsets && data && expected);
    CHECK(spinfer_encode(dense, (size_t)B->rows, (size_t)B->cols, (size_t)B->cols, SPINFER_BF16, expected_offsets,
                         sizes.offsets_bytes, expected, sizes.data_bytes, &W) == SPINFER_OK);
    CHECK(bitmask_encode(B, SPINFER_BF16, offsets, sizes.offsets_bytes, data, sizes.data_bytes, &W) == SPINFER_OK);
    CHECK(memcmp(offsets, expected_offsets, (size_t)sizes.offsets_bytes) == 0);
    CHECK(memcmp(data, expected, (size_t)sizes.data_bytes) == 0);
    CHECK(spinfer_validate(&W, sizes.offsets_bytes, sizes.data_bytes) == SPINFER_OK);
    check_export(&W, dense);
    free(dense);
    free(offsets);
    free(expected_offsets);
    free(data);
    free(expected);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const uint32_t flags = (uint32_t)take(&bytes, &size, 1);
    const size_t   rows = (size_t)take(&bytes, &size, 1) % 131, cols = (size_t)take(&bytes, &size, 1) % 101;
    const size_t   row_bytes = bitmask_row_bytes(cols), mask_bytes = rows * row_bytes;
    uint8_t       *mask = (uint8_t *)calloc(mask_bytes + 1, 1);
    int64_t       *row_offsets = (int64_t *)calloc(rows + 1, 8), sum = 0;
    size_t         row;
    bitmask_matrix B;
    char           why[BITMASK_WHY];
    CHECK(mask && row_offsets);
    for (row = 0; row < mask_bytes; row++) mask[row] = (uint8_t)take(&bytes, &size, 1);
    for (row = 0; row < rows; row++) {
        row_offsets[row] = (flags & FIT_OFFSETS) ? sum : (int16_t)take(&bytes, &size, 2);
        sum += (int64_t)bitmask_count_bits(mask + row * row_bytes, row_bytes);
    }
    B.rows = rows, B.cols = cols;
    B.bitmask_bytes = mask_bytes - ((flags & WRONG_BITMASK) && mask_bytes);
    B.row_offsets_count = flags & IS_24 ? 0 : rows - ((flags & WRONG_OFFSETS) && rows);
    B.value_count = (flags & FIT_VALUES) ? (uint64_t)sum : size / 2;
    B.bitmask = (const uint8_t *)copy_exactly(mask, (size_t)B.bitmask_bytes);
    B.row_offsets = flags & IS_24 ? NULL : copy_exactly(row_offsets, (size_t)(8 * B.row_offsets_count));
    {
        uint8_t *values = (uint8_t *)calloc((size_t)(2 * B.value_count) + 1, 1);
        size_t   i;
        CHECK(values);
        for (i = 0; i < 2 * B.value_count; i++) values[i] = size ? bytes[i % size] : 1;
        B.values = copy_exactly(values, (size_t)(2 * B.value_count));
        free(values);
    }
    if (bitmask_validate(&B, why) == SPINFER_OK) {
        CHECK(!*why);
        use(&B);
    } else {
        CHECK(*why || !rows || !cols);
    }
    free(mask);
    free(row_offsets);
    free((void *)(uintptr_t)B.values);
    free((void *)(uintptr_t)B.bitmask);
    free((void *)(uintptr_t)B.row_offsets);
    return 0;
}
