/* fuzz_validate.c - what spinfer_validate() accepts must decode, multiply, slice and concatenate within its arrays, and
 * the decode of the kernels, run for 32 lanes, must stay within each record and give the same weights.
 *
 * Input: rows u16, cols u16, group_ld beyond the groups u8, dtype u8, format u8, wrong sizes u8, max_record / 16 u16,
 * number of offsets u16, the offsets, the data. */
#include "spinfer.cuh"
#include "fuzz.h"

static void decode_lanes(const spinfer_matrix *W, const uint16_t *dense)
{
    size_t row_group, group, row, col;
    for (row_group = 0; row_group < spinfer_row_groups(W->rows); row_group++)
        for (group = 0; group < spinfer_col_groups(W->cols); group++) {
            const uint32_t *offset = W->offsets + row_group * W->group_ld + group;
            const size_t    bytes = 16 * (size_t)(offset[1] - offset[0]);
            void           *record = copy_exactly((const char *)W->data + 16 * (size_t)offset[0], bytes);
            uint16_t        tile[64 * 32];
            int             lane;
            memset(tile, 0xa5, sizeof tile);
            for (lane = 0; lane < 32; lane++) spinfer_decode_group(record, tile, 32, lane, 0, 1);
            for (row = 64 * row_group; row < W->rows && row < 64 * row_group + 64; row++)
                for (col = 32 * group; col < W->cols && col < 32 * group + 32; col++)
                    CHECK(dense[row * W->cols + col] == tile[row % 64 * 32 + col % 32]);
            free(record);
        }
}

static void use(const spinfer_matrix *W)
{
    enum { TOKENS = 9 };
    uint16_t      *dense = (uint16_t *)malloc((size_t)W->rows * W->cols * 2);
    uint16_t      *x = (uint16_t *)malloc((size_t)W->cols * TOKENS * 2);
    uint16_t      *y = (uint16_t *)malloc((size_t)W->rows * TOKENS * 2);
    spinfer_matrix part, whole;
    spinfer_sizes  sizes;
    uint32_t      *offsets;
    void          *data;
    size_t         i;
    CHECK(dense && x && y);
    for (i = 0; i < (size_t)W->cols * TOKENS; i++) x[i] = 0x3c00;
    CHECK(spinfer_decode(W, dense, W->cols) == SPINFER_OK);
    decode_lanes(W, dense);
    CHECK(spinfer_spmm_host(1.0f, W, x, W->cols, 0.0f, y, W->rows, TOKENS) == SPINFER_OK);
    if (W->rows > 64) {
        CHECK(spinfer_slice_rows(W, 64, W->rows - 64, &part) == SPINFER_OK);
        CHECK(spinfer_decode(&part, dense, part.cols) == SPINFER_OK);
    }
    if (W->cols > 32) {
        CHECK(spinfer_slice_cols(W, 32, W->cols - 32, &part) == SPINFER_OK);
        CHECK(spinfer_decode(&part, dense, part.cols) == SPINFER_OK);
    }
    CHECK(spinfer_concat_rows_sizes(W, 1, &sizes) == SPINFER_OK);
    offsets = (uint32_t *)malloc((size_t)sizes.offsets_bytes);
    data = malloc((size_t)sizes.data_bytes);
    CHECK(offsets && data);
    CHECK(spinfer_concat_rows(W, 1, offsets, sizes.offsets_bytes, data, sizes.data_bytes, &whole) == SPINFER_OK);
    CHECK(spinfer_validate(&whole, sizes.offsets_bytes, sizes.data_bytes) == SPINFER_OK);
    free(dense);
    free(x);
    free(y);
    free(offsets);
    free(data);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    spinfer_matrix W;
    uint32_t       wrong;
    size_t         offsets_bytes, data_bytes;
    W.rows = (uint32_t)take(&bytes, &size, 2);
    W.cols = (uint32_t)take(&bytes, &size, 2);
    W.group_ld = spinfer_col_groups(W.cols) + (uint32_t)take(&bytes, &size, 1);
    W.dtype = (uint32_t)take(&bytes, &size, 1);
    W.format = (uint32_t)take(&bytes, &size, 1);
    wrong = (uint32_t)take(&bytes, &size, 1);
    W.max_record = 16 * (uint32_t)take(&bytes, &size, 2) + (wrong & 2);
    offsets_bytes = 4 * (size_t)take(&bytes, &size, 2);
    if (offsets_bytes > size) offsets_bytes = size;
    data_bytes = size - offsets_bytes;
    W.offsets = (const uint32_t *)copy_exactly(bytes, offsets_bytes);
    W.data = copy_exactly(bytes + offsets_bytes, data_bytes);
    W.data_bytes = data_bytes + (wrong & 1) * 128;
    if (spinfer_validate(&W, offsets_bytes, data_bytes) == SPINFER_OK) use(&W);
    free((void *)(uintptr_t)W.offsets);
    free((void *)(uintptr_t)W.data);
    return 0;
}
