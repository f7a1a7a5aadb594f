/* Risk: arrays from a damaged or hostile file that pass spinfer_validate() and then make a decoder read or write out of
 * bounds. Every byte of a small matrix is replaced by every other value. The verdict is known in advance for each, and
 * what is still a matrix (only bits or values moved) is decoded and multiplied in fenced memory of exact size. */
#include "test.h"
#ifdef _OPENMP
#include <omp.h>
#endif

enum { ROWS = 100, COLS = 70, ROW_GROUPS = 2, GROUPS = 3, RECORDS = ROW_GROUPS * GROUPS, TOKENS = 3 };

static long long refused, harmless;

/* Decode and multiply into memory of exact size: any access out of bounds stops the program. */
static void use(const spinfer_matrix *W)
{
    const size_t rows = W->rows, cols = W->cols;
    uint16_t    *dense = (uint16_t *)allocate_fenced(2 * rows * cols);
    uint16_t    *X = (uint16_t *)allocate_fenced(2 * cols * TOKENS);
    uint16_t    *Y = (uint16_t *)allocate_fenced(2 * rows * TOKENS);
    memset(X, 0x3c, 2 * cols * TOKENS);
    CHECK_SPINFER(spinfer_decode(W, dense, cols));
    CHECK_SPINFER(spinfer_spmm_host(1.0f, W, X, cols, 0.0f, Y, rows, TOKENS));
    free_fenced(dense, 2 * rows * cols);
    free_fenced(X, 2 * cols * TOKENS);
    free_fenced(Y, 2 * rows * TOKENS);
}

static int popcount(uint64_t bits)
{
    int count = 0;
    for (; bits; bits &= bits - 1) count++;
    return count;
}

/* Whether a record stays valid when one byte of BitmapTile `tile` changes so that its bitmap becomes `bits`. */
static int bitmap_stays_valid(int tile, uint64_t old, uint64_t bits, int nnz, int height, int width)
{
    const int row = tile / 4 % 4 * 16 + tile % 4 / 2 * 8, col = tile / 16 * 16 + tile % 2 * 8;
    const int more = popcount(bits) - popcount(old);
    int       bit;
    for (bit = 0; bit < 64; bit++)
        if ((bits >> bit & 1) && (row + bit / 8 >= height || col + bit % 8 >= width)) return 0;
    if (more == 0) return 1;              /* the same number of values at other places */
    if (tile < 28) return 0;              /* a later tc_offsets disagrees */
    if (more < 0) return 0;               /* a value, which is not zero, would lie in the padding */
    return nnz + more <= (nnz + 7) / 8 * 8; /* zeros of the padding become values */
}

/* Every byte of every record, every value. */
static void test_records(const spinfer_matrix *W, unsigned char *data, uint64_t offsets_bytes)
{
    int group, at, value;
    for (group = 0; group < RECORDS; group++) {
        unsigned char *record = data + 16 * (size_t)W->offsets[group];
        const int      bytes = (int)(16 * (W->offsets[group + 1] - W->offsets[group]));
        const int      height = group / GROUPS ? ROWS - 64 : 64, width = group % GROUPS == 2 ? COLS - 64 : 32;
        uint64_t       bitmaps[32];
        int            nnz = 0, tile;
        memcpy(bitmaps, record + 16, sizeof bitmaps);
        for (tile = 0; tile < 32; tile++) nnz += popcount(bitmaps[tile]);
        for (at = 0; at < bytes; at++) {
            const unsigned char good = record[at];
            for (value = 0; value < 256; value++) {
                int valid = at >= 272 && at < 272 + 2 * nnz; /* values: every pattern is legal */
                if (value == good) continue;
                record[at] = (unsigned char)value;
                if (at >= 16 && at < 272) {
                    uint64_t bits;
                    tile = (at - 16) / 8;
                    memcpy(&bits, record + 16 + 8 * tile, 8);
                    valid = bitmap_stays_valid(tile, bitmaps[tile], bits, nnz, height, width);
                }
                CHECK(spinfer_validate(W, offsets_bytes, W->data_bytes) == (valid ? SPINFER_OK : SPINFER_ERR_FORMAT));
                refused += !valid;
                harmless += valid;
                if (valid && (at < 272 || value == (good ^ 0x80))) use(W); /* values: one of them will do */
            }
            record[at] = good;
        }
    }
}

/* Every byte of the offsets, every value; and every pair of neighbours swapped. */
static void test_offsets(const spinfer_matrix *W, uint32_t *offsets, uint64_t offsets_bytes)
{
    unsigned char *bytes = (unsigned char *)offsets;
    size_t         at;
    int            value;
    for (at = 0; at < offsets_bytes; at++) {
        const unsigned char good = bytes[at];
        for (value = 0; value < 256; value++)
            if (value != good) {
                bytes[at] = (unsigned char)value;
                CHECK(spinfer_validate(W, offsets_bytes, W->data_bytes) == SPINFER_ERR_FORMAT);
                refused++;
            }
        bytes[at] = good;
    }
    for (at = 0; at < RECORDS; at++) {
        const uint32_t first = offsets[at], second = offsets[at + 1];
        offsets[at] = second, offsets[at + 1] = first;
        CHECK(spinfer_validate(W, offsets_bytes, W->data_bytes) == SPINFER_ERR_FORMAT);
        offsets[at] = first, offsets[at + 1] = second;
        refused++;
    }
}

/* Each bit of each number in the struct, and the values at the ends of its range. */
static void test_fields(const spinfer_matrix *W, uint64_t offsets_bytes)
{
    static const uint32_t ends[] = {0, 1, SPINFER_MAX_DIM, SPINFER_MAX_DIM + 1, UINT32_MAX};
    spinfer_matrix        bad;
    uint32_t *const       fields[] = {&bad.rows,       &bad.cols,  &bad.group_ld,
                                      &bad.max_record, &bad.dtype, &bad.format};
    size_t                field, i;
    for (field = 0; field < 6; field++)
        for (i = 0; i < 32 + sizeof ends / sizeof ends[0]; i++) {
            spinfer_status status;
            bad = *W;
            *fields[field] = i < 32 ? *fields[field] ^ 1u << i : ends[i - 32];
            if (*fields[field] == 0 || *fields[field] == UINT32_MAX)
                CHECK(spinfer_validate(&bad, offsets_bytes, bad.data_bytes) != SPINFER_OK);
            status = spinfer_validate(&bad, offsets_bytes, bad.data_bytes);
            refused += status != SPINFER_OK;
            harmless += status == SPINFER_OK;
            if (status == SPINFER_OK) use(&bad);
        }
    for (i = 0; i < 64; i++) {
        bad = *W;
        bad.data_bytes ^= (uint64_t)1 << i;
        CHECK(spinfer_validate(&bad, offsets_bytes, W->data_bytes) ==
              (bad.data_bytes > W->data_bytes ? SPINFER_ERR_CAPACITY : SPINFER_ERR_FORMAT));
        refused++;
    }
    for (i = 1; i < 128; i++) { /* the arrays could hold it, but whole lines of 128 bytes are the format */
        bad = *W, bad.data_bytes += i;
        CHECK(spinfer_validate(&bad, offsets_bytes, bad.data_bytes) == SPINFER_ERR_FORMAT);
        refused++;
    }
    bad = *W, bad.rows = 0;
    CHECK(spinfer_validate(&bad, offsets_bytes, bad.data_bytes) == SPINFER_ERR_SHAPE);
    bad = *W, bad.cols = SPINFER_MAX_DIM + 1;
    CHECK(spinfer_validate(&bad, offsets_bytes, bad.data_bytes) == SPINFER_ERR_SHAPE);
    bad = *W, bad.rows += 64;
    CHECK(spinfer_validate(&bad, offsets_bytes, bad.data_bytes) == SPINFER_ERR_CAPACITY);
    bad = *W, bad.group_ld = GROUPS - 1;
    CHECK(spinfer_validate(&bad, offsets_bytes, bad.data_bytes) == SPINFER_ERR_SHAPE);
    bad = *W, bad.max_record -= 16;
    CHECK(spinfer_validate(&bad, offsets_bytes, bad.data_bytes) == SPINFER_ERR_FORMAT);
    bad = *W, bad.max_record = SPINFER_RECORD_MAX_BYTES + 16;
    CHECK(spinfer_validate(&bad, offsets_bytes, bad.data_bytes) == SPINFER_ERR_FORMAT);
    bad = *W, bad.dtype = 0;
    CHECK(spinfer_validate(&bad, offsets_bytes, bad.data_bytes) == SPINFER_ERR_DTYPE);
    bad = *W, bad.format = SPINFER_FORMAT_VERSION + 1;
    CHECK(spinfer_validate(&bad, offsets_bytes, bad.data_bytes) == SPINFER_ERR_VERSION);
    bad = *W, bad.offsets = NULL;
    CHECK(spinfer_validate(&bad, offsets_bytes, bad.data_bytes) == SPINFER_ERR_NULL);
    bad = *W, bad.data = NULL;
    CHECK(spinfer_validate(&bad, offsets_bytes, bad.data_bytes) == SPINFER_ERR_NULL);
    bad = *W, bad.data = (const char *)W->data + 8;
    CHECK(spinfer_validate(&bad, offsets_bytes, bad.data_bytes - 8) == SPINFER_ERR_ALIGNMENT);
    bad = *W, bad.offsets = (const uint32_t *)(const void *)((const char *)W->offsets + 2);
    CHECK(spinfer_validate(&bad, offsets_bytes, bad.data_bytes) == SPINFER_ERR_ALIGNMENT);
    CHECK(spinfer_validate(NULL, offsets_bytes, W->data_bytes) == SPINFER_ERR_NULL);
}

/* A file that ends early, at every length: arrays of just that size, and the struct told or not told. */
static void test_truncation(const spinfer_matrix *W, uint64_t offsets_bytes)
{
    spinfer_matrix cut = *W;
    uint64_t       bytes;
    for (bytes = 0; bytes < offsets_bytes; bytes++) {
        uint32_t *offsets = (uint32_t *)allocate_fenced((size_t)bytes / 4 * 4);
        memcpy(offsets, W->offsets, (size_t)bytes / 4 * 4);
        cut.offsets = offsets;
        CHECK(spinfer_validate(&cut, bytes, W->data_bytes) == SPINFER_ERR_CAPACITY);
        free_fenced(offsets, (size_t)bytes / 4 * 4);
    }
    cut.offsets = W->offsets;
    for (bytes = 0; bytes < W->data_bytes; bytes++) {
        const size_t   whole = (size_t)bytes / 16 * 16; /* keeps the fenced memory aligned */
        unsigned char *data = (unsigned char *)allocate_fenced(whole);
        memcpy(data, W->data, whole);
        cut.data = data;
        cut.data_bytes = W->data_bytes;
        CHECK(spinfer_validate(&cut, offsets_bytes, bytes) == SPINFER_ERR_CAPACITY);
        cut.data_bytes = whole;
        CHECK(spinfer_validate(&cut, offsets_bytes, bytes) == SPINFER_ERR_FORMAT);
        free_fenced(data, whole);
    }
    refused += (long long)(offsets_bytes + 2 * W->data_bytes);
}

/* A record followed by 16 zero bytes that its bitmaps do not ask for: in bounds, but one matrix has one encoding.
 * Behind the last record there may be anything. */
static void test_slack(void)
{
    const uint16_t       dense[8] = {1, 2, 3, 4, 5, 6, 7, 8}; /* they fill their 16 bytes */
    const spinfer_matrix W = encode_fenced(dense, 1, 8, 8, SPINFER_FP16);
    const uint32_t       offsets[2] = {0, 288 / 16 + 1};
    void                *data = allocate_fenced(512);
    spinfer_matrix       slack = W;
    CHECK(W.max_record == 288 && W.data_bytes == 384);
    memset(data, 0, 288 + 16); /* poison behind them */
    memcpy(data, W.data, 288);
    slack.offsets = offsets, slack.data = data, slack.data_bytes = 512, slack.max_record = 288 + 16;
    CHECK(spinfer_validate(&slack, sizeof offsets, slack.data_bytes) == SPINFER_ERR_FORMAT);
    slack.offsets = W.offsets;
    CHECK_SPINFER(spinfer_validate(&slack, sizeof offsets, slack.data_bytes));
    free_fenced(data, 512);
    free_fenced_matrix(&W);
    refused++;
}

/* Random offsets with random or zero records behind them. */
static void test_noise(void)
{
    uint32_t       offsets[RECORDS + 1];
    uint64_t      *data = (uint64_t *)allocate_fenced(8192);
    spinfer_matrix W;
    int            round;
    for (round = 0; round < 20000; round++) {
        size_t i;
        memset(&W, 0, sizeof W);
        W.offsets = offsets, W.data = data, W.data_bytes = 8192;
        W.rows = ROWS, W.cols = COLS, W.group_ld = GROUPS;
        W.max_record = SPINFER_RECORD_MAX_BYTES, W.dtype = SPINFER_FP16, W.format = SPINFER_FORMAT_VERSION;
        for (i = 0; i <= RECORDS; i++) offsets[i] = (uint32_t)(random_bits((uint64_t)round, i) % 520);
        for (i = 0; i < 1024; i++) data[i] = round % 2 ? random_bits((uint64_t)round, 100 + i) : 0;
        CHECK(spinfer_validate(&W, sizeof offsets, 8192) == SPINFER_ERR_FORMAT);
        refused++;
    }
    free_fenced(data, 8192);
}

/* Whatever the encoder makes is valid, whole or as a slice, also with room to spare. */
static int test_accepted(void)
{
    static const double densities[] = {0, 0.01, 0.3, 0.5, 0.99, 1};
    int                 accepted = 0, i;
    for (i = 0; i < 300; i++) {
        const size_t   rows = 1 + (size_t)(random_bits(1, (uint64_t)i) % 200);
        const size_t   cols = 1 + (size_t)(random_bits(2, (uint64_t)i) % 200);
        uint16_t      *dense = (uint16_t *)allocate(2 * rows * cols);
        const uint64_t offsets_bytes = spinfer_offsets_bytes(rows, cols);
        uint64_t       left;
        spinfer_matrix W, slice;
        size_t         first;
        fill_random(dense, rows, cols, cols, densities[i % 6], (uint64_t)i);
        W = encode_fenced(dense, rows, cols, cols, i % 2 ? SPINFER_FP16 : SPINFER_BF16);
        CHECK_SPINFER(spinfer_validate(&W, offsets_bytes, W.data_bytes));
        CHECK_SPINFER(spinfer_validate(&W, offsets_bytes + 1, W.data_bytes + 1));
        CHECK_SPINFER(spinfer_validate(&W, UINT64_MAX, UINT64_MAX));
        for (first = 0; first < rows; first += 64) {
            CHECK_SPINFER(spinfer_slice_rows(&W, first, rows - first, &slice));
            left = offsets_bytes - 4 * (uint64_t)(slice.offsets - W.offsets);
            CHECK_SPINFER(spinfer_validate(&slice, left, W.data_bytes));
            accepted++;
        }
        for (first = 0; first < cols; first += 32) {
            CHECK_SPINFER(spinfer_slice_cols(&W, first, cols - first < 32 ? cols - first : 32, &slice));
            left = offsets_bytes - 4 * (uint64_t)(slice.offsets - W.offsets);
            CHECK_SPINFER(spinfer_validate(&slice, left, W.data_bytes));
            accepted++;
        }
        free_fenced_matrix(&W);
        free(dense);
    }
    return accepted + i;
}

int main(void)
{
    uint16_t       dense[ROWS * COLS];
    spinfer_matrix W;
    const uint64_t offsets_bytes = spinfer_offsets_bytes(ROWS, COLS);
    const int      accepted = test_accepted();
#ifdef _OPENMP
    omp_set_num_threads(1); /* 800 000 calls on a tiny matrix: starting threads for each would be all that they do */
#endif
    fill_random(dense, ROWS, COLS, COLS, 0.1, 3);
    W = encode_fenced(dense, ROWS, COLS, COLS, SPINFER_FP16);
    test_records(&W, (unsigned char *)(uintptr_t)W.data, offsets_bytes);
    test_offsets(&W, (uint32_t *)(uintptr_t)W.offsets, offsets_bytes);
    test_fields(&W, offsets_bytes);
    test_truncation(&W, offsets_bytes);
    test_slack();
    test_noise();
    check_decodes_to(&W, dense, COLS); /* every byte was put back */
    free_fenced_matrix(&W);
    printf("validate: %d good matrices accepted, %lld damaged ones refused, %lld accepted and harmless: OK\n", accepted,
           refused, harmless);
    return 0;
}
