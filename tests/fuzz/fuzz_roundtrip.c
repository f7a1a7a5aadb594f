/* fuzz_roundtrip.c - any 16-bit matrix comes back from its encoding bit by bit, and sizes are exact.
 *
 * Input: rows - 1 u8 (modulo 130), cols - 1 u8 (modulo 70), gap between rows u8, dtype u8, then the values; the last
 * one is repeated. */
#include "fuzz.h"

static void check_concat(const spinfer_matrix *W, const spinfer_sizes *sizes)
{
    spinfer_matrix parts[2], whole;
    uint32_t      *offsets = (uint32_t *)malloc((size_t)sizes->offsets_bytes);
    void          *data = malloc((size_t)sizes->data_bytes);
    CHECK(offsets && data);
    CHECK(spinfer_slice_rows(W, 0, 64, &parts[0]) == SPINFER_OK);
    CHECK(spinfer_slice_rows(W, 64, W->rows - 64, &parts[1]) == SPINFER_OK);
    CHECK(spinfer_concat_rows(parts, 2, offsets, sizes->offsets_bytes, data, sizes->data_bytes, &whole) == SPINFER_OK);
    CHECK(memcmp(offsets, W->offsets, (size_t)sizes->offsets_bytes) == 0);
    CHECK(memcmp(data, W->data, (size_t)sizes->data_bytes) == 0);
    free(offsets);
    free(data);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const size_t        rows = 1 + (size_t)take(&bytes, &size, 1) % 130, cols = 1 + (size_t)take(&bytes, &size, 1) % 70;
    const size_t        ld = cols + (size_t)take(&bytes, &size, 1) % 8, count = (rows - 1) * ld + cols;
    const spinfer_dtype dtype = take(&bytes, &size, 1) % 2 ? SPINFER_FP16 : SPINFER_BF16;
    uint16_t           *dense = (uint16_t *)malloc(2 * count), *back = (uint16_t *)malloc(2 * rows * cols);
    spinfer_sizes       sizes;
    spinfer_matrix      W;
    uint32_t           *offsets;
    void               *data;
    size_t              row, col, i;
    uint16_t            value = 0;
    uint64_t            nnz = 0;
    CHECK(dense && back);
    for (i = 0; i < count; i++) {
        if (size) value = (uint16_t)take(&bytes, &size, 2);
        dense[i] = value;
    }
    CHECK(spinfer_encode_sizes(dense, rows, cols, ld, &sizes) == SPINFER_OK);
    offsets = (uint32_t *)malloc((size_t)sizes.offsets_bytes);
    data = malloc((size_t)sizes.data_bytes);
    CHECK(offsets && data);
    CHECK(spinfer_encode(dense, rows, cols, ld, dtype, offsets, sizes.offsets_bytes, data, sizes.data_bytes, &W) ==
          SPINFER_OK);
    CHECK(spinfer_validate(&W, sizes.offsets_bytes, sizes.data_bytes) == SPINFER_OK);
    CHECK(spinfer_decode(&W, back, cols) == SPINFER_OK);
    for (row = 0; row < rows; row++)
        for (col = 0; col < cols; col++) {
            const uint16_t bits = dense[row * ld + col];
            CHECK(back[row * cols + col] == ((bits & 0x7fff) ? bits : 0));
            nnz += (bits & 0x7fff) != 0;
        }
    CHECK(nnz == sizes.nnz);
    if (rows > 64) check_concat(&W, &sizes);
    free(dense);
    free(back);
    free(offsets);
    free(data);
    return 0;
}
