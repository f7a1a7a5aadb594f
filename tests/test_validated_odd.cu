/* Risk: a matrix that spinfer_validate() accepts, but that spinfer_encode() alone would not have made, breaks the
 * kernel: slices, concatenations, records at odd places, stored zeros. All are validated here and then multiplied,
 * exactly. */
#define SPINFER_IMPLEMENTATION
#include "gpu.h"

static spinfer_device device;

/* Every variant, split and not, with tokens that fill no block. */
static void check(const weights *W)
{
    static const size_t counts[SPINFER_KERNELS] = {1, 11, 15, 30, 65, 50, 61};
    const int           most = (int)spinfer_col_groups((uint32_t)W->K);
    size_t              i;
    int                 splits;
    CHECK_SPINFER(spinfer_validate(&W->host, UINT64_MAX / 8, W->host.data_bytes));
    for (i = 0; i < SPINFER_KERNELS; i++) {
        spinfer_plan plan = plan_for_kernel(&W->device, i, &device);
        job          j = job_default(W, counts[i]);
        j.beta = -1.0f;
        job_create(&j, i);
        job_run(&j, NULL);
        for (splits = 1; splits <= most && splits <= 4; splits += 3) {
            set_splits(&plan, splits);
            buffer_upload(&j.Y);
            job_run(&j, &plan);
        }
        job_free(&j);
    }
}

static void check_integers(int8_t *integers, size_t M, size_t K, spinfer_dtype dtype)
{
    weights W = weights_create(integers, M, K, dtype);
    check(&W);
    weights_free(&W);
}

static void test_extremes(void)
{
    size_t tile;
    check_integers(random_integers(1, 1, 1.0, 1), 1, 1, SPINFER_FP16);
    check_integers(random_integers(1, 1, 0.0, 1), 1, 1, SPINFER_BF16);
    check_integers(random_integers(1, 2000, 1.0, 2), 1, 2000, SPINFER_FP16);
    check_integers(random_integers(500, 1, 1.0, 3), 500, 1, SPINFER_BF16);
    check_integers(random_integers(192, 256, 1.0, 4), 192, 256, SPINFER_FP16);
    check_integers(random_integers(192, 256, 0.0, 5), 192, 256, SPINFER_BF16);
    for (tile = 0; tile < 6; tile++) { /* a single full GroupTile, at each place of a 2 x 3 grid with tails */
        int8_t *integers = random_integers(100, 70, 1.0, 6 + tile);
        size_t  row, col;
        for (row = 0; row < 100; row++)
            for (col = 0; col < 70; col++)
                if (row / 64 * 3 + col / 32 != tile) integers[row * 70 + col] = 0;
        check_integers(integers, 100, 70, SPINFER_FP16);
    }
}

/* Slices share arrays with their parent: group_ld exceeds their width, the first offset is not 0, max_record is larger
 * than any record of theirs. The same arithmetic on the host struct and on the device struct. */
static void test_slices(void)
{
    static const struct {
        size_t row, rows, col, cols;
    } parts[] = {{0, 64, 0, 410},   {64, 128, 0, 410}, {192, 8, 0, 410}, {0, 200, 0, 32},    {0, 200, 32, 64},
                 {0, 200, 96, 314}, {0, 200, 384, 26}, {64, 64, 32, 96}, {128, 72, 352, 58}, {192, 8, 384, 26}};
    int8_t *integers = random_integers(200, 410, 0.5, 20);
    weights W;
    size_t  i, row, col;
    for (row = 64; row < 128; row++)
        for (col = 0; col < 32; col++)
            integers[row * 410 + col] = 3; /* one full record, so that max_record is an outlier */
    W = weights_create(integers, 200, 410, SPINFER_BF16);
    for (i = 0; i < COUNT(parts); i++) {
        weights part = W;
        part.M = parts[i].rows;
        part.K = parts[i].cols;
        part.integers = W.integers + parts[i].row * W.ld + parts[i].col;
        CHECK_SPINFER(spinfer_slice_rows(&W.host, parts[i].row, parts[i].rows, &part.host));
        CHECK_SPINFER(spinfer_slice_cols(&part.host, parts[i].col, parts[i].cols, &part.host));
        CHECK_SPINFER(spinfer_slice_cols(&W.device, parts[i].col, parts[i].cols, &part.device));
        CHECK_SPINFER(spinfer_slice_rows(&part.device, parts[i].row, parts[i].rows, &part.device));
        check(&part);
    }
    weights_free(&W);
}

/* Three weights on top of each other, one of them a slice, as for a fused projection. */
static void test_concatenated(void)
{
    const size_t   K = 150, rows[3] = {128, 64, 77};
    int8_t        *integers = random_integers(269, K, 0.5, 30);
    spinfer_matrix parts[3];
    spinfer_sizes  sizes;
    weights        whole = weights_create(integers, 269, K, SPINFER_FP16), W = whole;
    uint32_t      *offsets;
    void          *data;
    size_t         i, first = 0;
    for (i = 0; i < 3; i++) {
        uint16_t *dense = (uint16_t *)allocate(2 * rows[i] * K);
        size_t    element;
        for (element = 0; element < rows[i] * K; element++)
            dense[element] = spinfer_from_float((float)integers[first * K + element], SPINFER_FP16);
        parts[i] = encode_matrix(dense, rows[i], K, SPINFER_FP16);
        first += rows[i];
        free(dense);
    }
    free_matrix(&parts[1]);
    CHECK_SPINFER(spinfer_slice_rows(&whole.host, rows[0], rows[1], &parts[1]));
    CHECK_SPINFER(spinfer_concat_rows_sizes(parts, 3, &sizes));
    offsets = (uint32_t *)allocate((size_t)sizes.offsets_bytes);
    data = allocate((size_t)sizes.data_bytes);
    CHECK_SPINFER(spinfer_concat_rows(parts, 3, offsets, sizes.offsets_bytes, data, sizes.data_bytes, &W.host));
    W.device = upload_matrix(&W.host);
    check(&W);
    free_device_matrix(&W.device);
    free_matrix(&W.host);
    free_matrix(&parts[0]);
    free_matrix(&parts[2]);
    weights_free(&whole);
}

/* The same records elsewhere: unused bytes before, between the rows of GroupTiles and behind, offsets with a gap in
 * every row, the largest legal max_record, and some weights that are stored although they are +0 or -0. */
static void test_loose_records(void)
{
    const size_t   M = 150, K = 210, groups = spinfer_col_groups(K), row_groups = 3, group_ld = groups + 2, gap = 5;
    weights        W = weights_random(M, K, 0.5, SPINFER_FP16, 40), loose = W;
    const size_t   data_bytes = ((size_t)W.host.data_bytes + 16 * gap * (row_groups + 1) + 127) / 128 * 128;
    uint32_t      *offsets = (uint32_t *)allocate(4 * (row_groups * group_ld + 1));
    unsigned char *data = (unsigned char *)allocate(data_bytes);
    size_t         row_group, group, row, col;
    memset(data, 0xff, data_bytes);
    memset(offsets, 0xff, 4 * (row_groups * group_ld + 1));
    loose.integers = (int8_t *)allocate(M * K);
    memcpy(loose.integers, W.integers, M * K);
    for (row_group = 0; row_group < row_groups; row_group++)
        for (group = 0; group <= groups; group++) {
            const uint32_t from = W.host.offsets[row_group * groups + group];
            const uint32_t to = from + (uint32_t)(gap * (row_group + 1));
            offsets[row_group * group_ld + group] = to;
            if (group < groups)
                memcpy(data + 16 * (size_t)to, (const unsigned char *)W.host.data + 16 * (size_t)from,
                       16 * (size_t)(W.host.offsets[row_group * groups + group + 1] - from));
        }
    loose.host.offsets = offsets;
    loose.host.data = data;
    loose.host.data_bytes = data_bytes;
    loose.host.group_ld = (uint32_t)group_ld;
    loose.host.max_record = SPINFER_RECORD_MAX_BYTES;

    for (row_group = 0; row_group < row_groups;
         row_group++) { /* the first value of every record becomes a stored zero */
        for (group = 0; group < groups; group++) {
            unsigned char *record = data + 16 * (size_t)offsets[row_group * group_ld + group];
            const uint16_t zero = group & 1 ? 0x8000 : 0;
            uint64_t       bits;
            int            tile = 0, bit = 0;
            do {
                memcpy(&bits, record + SPINFER_RECORD_BITMAPS + 8 * tile, 8);
            } while (!bits && ++tile < SPINFER_GROUP_BITMAP_TILES);
            CHECK(bits);
            while (!(bits >> bit & 1)) bit++;
            memcpy(record + SPINFER_RECORD_VALUES, &zero, 2);
            row = 64 * row_group + (size_t)(spinfer_bitmap_tile_row(tile) + bit / 8);
            col = 32 * group + (size_t)(spinfer_bitmap_tile_col(tile) + bit % 8);
            CHECK(loose.integers[row * K + col] != 0);
            loose.integers[row * K + col] = 0;
        }
    }
    loose.device = upload_matrix(&loose.host);
    check(&loose);
    weights_free(&loose);
    weights_free(&W);
}

int main(void)
{
    device = require_gpu();
    test_slices();
    test_concatenated();
    test_loose_records();
    if (!small_run()) test_extremes();
    printf("OK\n");
    return 0;
}
