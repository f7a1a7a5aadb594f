/* test_safetensors_groups.c - weights that take several tensors of a safetensors file, TCA-BME and sparse-bitmask: they
 * come back bit by bit, and whatever contradicts itself is refused with a message. */
#define _GNU_SOURCE /* mkdtemp(), and what test.h uses */
#include "test.h"
#include "bitmask_file.h"
#include "safetensors.h"
#include "tca_bme_file.h"

static char folder[64], path[128];

static void start(safetensors_writer *writer)
{
    safetensors_error error;
    CHECK(safetensors_create(writer, path, 20000, &error));
}

static void finish(safetensors_writer *writer, safetensors_model *model)
{
    safetensors_error error;
    CHECK(safetensors_commit(writer, &error));
    CHECK(safetensors_open(model, path, &error));
}

static void add(safetensors_writer *writer, const char *name, safetensors_dtype dtype, uint32_t rank, uint64_t rows,
                uint64_t cols, const void *memory)
{
    const uint64_t    shape[2] = {rows, cols};
    safetensors_error error;
    CHECK(safetensors_begin(writer, name, dtype, rank, shape, &error));
    CHECK(safetensors_append(writer, memory, writer->data_bytes - writer->position, &error));
}

static void *copy_of(const void *memory, size_t bytes) { return memcpy(allocate(bytes), memory, bytes); }

static int has_words(const safetensors_error *error, const char *words)
{
    if (!strstr(error->text, words)) fprintf(stderr, "\"%s\" lacks \"%s\"\n", error->text, words);
    return strstr(error->text, words) != NULL;
}

/* ---- TCA-BME --------------------------------------------------------------------------------- */

static void test_names(void)
{
    CHECK(tca_bme_base_length("a.b.tca_bme_data") == 3);
    CHECK(tca_bme_base_length("a.tca_bme_offsets") == 1);
    CHECK(tca_bme_base_length("ab.tca_bme_header") == 2);
    CHECK(tca_bme_base_length(".tca_bme_data") == 0);
    CHECK(tca_bme_base_length("a.tca_bme_dat") == 0 && tca_bme_base_length("a.tca_bme_data.b") == 0);
    CHECK(tca_bme_base_length("") == 0 && tca_bme_base_length("a") == 0);
    CHECK(bitmask_base_length("a.weight.compressed") == 8 && bitmask_base_length("a.bitmask") == 1);
    CHECK(bitmask_base_length("a.row_offsets") == 1 && bitmask_base_length("a.shape") == 1);
    CHECK(bitmask_base_length("a.weight") == 0 && bitmask_base_length(".shape") == 0);
}

static void test_encoded_round_trip(void)
{
    static const size_t shapes[3][2] = {{130, 97}, {64, 32}, {1, 1}};
    const char         *names[3] = {"b.weight", "a", "layers.0.weight"};
    uint16_t           *dense[3];
    spinfer_matrix      W[3], V;
    safetensors_writer  writer;
    safetensors_model   model;
    safetensors_error   error;
    tca_bme_group       group;
    uint64_t            room = 0;
    int                 i;
    for (i = 0; i < 3; i++) {
        const size_t rows = shapes[i][0], cols = shapes[i][1];
        dense[i] = (uint16_t *)allocate(2 * rows * cols);
        fill_random(dense[i], rows, cols, cols, 0.5, (uint64_t)i);
        W[i] = encode_matrix(dense[i], rows, cols, i % 2 ? SPINFER_FP16 : SPINFER_BF16);
        room += tca_bme_entry_bytes(names[i]);
    }
    CHECK(safetensors_create(&writer, path, room, &error));
    for (i = 0; i < 3; i++) CHECK(tca_bme_write_data(&writer, names[i], &W[i], &error));
    for (i = 0; i < 3; i++) CHECK(tca_bme_write_offsets(&writer, names[i], &W[i], &error));
    finish(&writer, &model);
    CHECK(model.tensor_count == 9);
    for (i = 0; i < 3; i++) {
        CHECK(tca_bme_find(&model, names[i], &group, &error) == 1);
        CHECK(group.data->offset % 128 == 0 && group.offsets->offset % 4 == 0 && group.header->offset % 4 == 0);
        CHECK(tca_bme_read_header(&model, &group, &V, &error) && !V.offsets && !V.data);
        CHECK(V.rows == W[i].rows && V.data_bytes == W[i].data_bytes);
        CHECK(tca_bme_load(&model, &group, &V, &error));
        CHECK((uintptr_t)V.data % 128 == 0 && V.data_bytes == W[i].data_bytes && V.max_record == W[i].max_record);
        CHECK(V.rows == W[i].rows && V.cols == W[i].cols && V.group_ld == W[i].group_ld && V.dtype == W[i].dtype);
        CHECK(memcmp(V.data, W[i].data, (size_t)V.data_bytes) == 0);
        check_decodes_to(&V, dense[i], W[i].cols);
        tca_bme_free(&V);
        free_matrix(&W[i]);
        free(dense[i]);
    }
    CHECK(tca_bme_find(&model, "absent", &group, &error) == 0 && !*error.text);
    CHECK(tca_bme_find(&model, "b.weight.tca_bme_data", &group, &error) == 0);
    safetensors_close(&model);
}

/* Writes the group of W, with one thing wrong, and loads it. */
typedef struct wrong_group {
    const char       *words; /* of the message */
    int               place; /* in the header; 5: nothing, 6: a bitmap, 7: an offset, 8: length of the data */
    uint32_t          value;
    safetensors_dtype offsets_dtype;
    uint32_t          numbers;
} wrong_group;

static void check_wrong_group(const spinfer_matrix *W, const wrong_group *wrong)
{
    const uint64_t     offsets_bytes = spinfer_offsets_bytes(W->rows, W->cols);
    const uint64_t     data_bytes = W->data_bytes - (wrong->place == 8 ? wrong->value : 0);
    uint32_t           numbers[6] = {W->format, W->dtype, W->rows, W->cols, W->max_record, 0};
    uint32_t          *offsets = (uint32_t *)copy_of(W->offsets, (size_t)offsets_bytes);
    uint8_t           *data = (uint8_t *)copy_of(W->data, (size_t)W->data_bytes);
    safetensors_writer writer;
    safetensors_model  model;
    safetensors_error  error;
    tca_bme_group      group;
    spinfer_matrix     V;
    int                found;
    if (wrong->place < 5) numbers[wrong->place] = wrong->value;
    if (wrong->place == 6) data[SPINFER_RECORD_BITMAPS] = (uint8_t)(data[SPINFER_RECORD_BITMAPS] ^ 1);
    if (wrong->place == 7) offsets[1] = wrong->value;
    start(&writer);
    add(&writer, "w.tca_bme_data", SAFETENSORS_U8, 1, data_bytes, 0, data);
    add(&writer, "w.tca_bme_offsets", wrong->offsets_dtype, 1, offsets_bytes / 4, 0, offsets);
    add(&writer, "w.tca_bme_header", SAFETENSORS_U32, 1, wrong->numbers, 0, numbers);
    finish(&writer, &model);
    found = tca_bme_find(&model, "w", &group, &error);
    CHECK(found == 1 || found == -1);
    if (found == 1) {
        const int is_good = tca_bme_load(&model, &group, &V, &error);
        CHECK(is_good == !wrong->words);
        if (is_good)
            tca_bme_free(&V);
        else
            CHECK(!V.offsets && !V.data);
    }
    if (wrong->words) CHECK(has_words(&error, wrong->words) && strstr(error.text, "weight \"w\""));
    safetensors_close(&model);
    free(offsets);
    free(data);
}

static void test_wrong_groups(void)
{
    const char       *format = "the arrays of the encoded matrix contradict each other";
    const wrong_group wrong[] = {
        {NULL, 5, 0, SAFETENSORS_U32, 5},
        {"another format version", 0, 2, SAFETENSORS_U32, 5},
        {"another format version", 0, 0, SAFETENSORS_U32, 5},
        {"data types", 1, 0, SAFETENSORS_U32, 5},
        {"data types", 1, 3, SAFETENSORS_U32, 5},
        {"rows or columns", 2, 0, SAFETENSORS_U32, 5},
        {"rows or columns", 3, 0xffffffffu, SAFETENSORS_U32, 5},
        {"number of offsets", 2, 129, SAFETENSORS_U32, 5},
        {"number of offsets", 3, 64, SAFETENSORS_U32, 5},
        {"number of offsets", 3, SPINFER_MAX_DIM, SAFETENSORS_U32, 5},
        {format, 4, 0, SAFETENSORS_U32, 5},
        {format, 4, SPINFER_RECORD_VALUES, SAFETENSORS_U32, 5},
        {format, 4, 1u << 31, SAFETENSORS_U32, 5},
        {format, 6, 0, SAFETENSORS_U32, 5},
        {format, 7, 0xffffffffu, SAFETENSORS_U32, 5},
        {format, 7, 0, SAFETENSORS_U32, 5},
        {format, 8, 1, SAFETENSORS_U32, 5},
        {format, 8, 128, SAFETENSORS_U32, 5},
        {format, 2, 65, SAFETENSORS_U32, 5}, /* rows that fewer bits belong to */
        {".tca_bme_offsets is missing or not U32", 5, 0, SAFETENSORS_F32, 5},
        {".tca_bme_header is missing or not U32 [5]", 5, 0, SAFETENSORS_U32, 4},
        {".tca_bme_header is missing or not U32 [5]", 5, 0, SAFETENSORS_U32, 6},
    };
    uint16_t      *dense = (uint16_t *)allocate(2 * 128 * 97);
    spinfer_matrix W;
    size_t         i;
    fill_random(dense, 128, 97, 97, 0.5, 3);
    W = encode_matrix(dense, 128, 97, SPINFER_FP16);
    for (i = 0; i < sizeof wrong / sizeof *wrong; i++) check_wrong_group(&W, &wrong[i]);
    free_matrix(&W);
    free(dense);
}

static void test_missing_parts(void)
{
    const uint16_t     one = 0x3c00;
    spinfer_matrix     W = encode_matrix(&one, 1, 1, SPINFER_FP16);
    safetensors_writer writer;
    safetensors_model  model;
    safetensors_error  error;
    tca_bme_group      group;
    start(&writer);
    CHECK(tca_bme_write_data(&writer, "w", &W, &error));
    finish(&writer, &model);
    CHECK(tca_bme_find(&model, "w", &group, &error) == -1 &&
          has_words(&error, "weight \"w\": .tca_bme_offsets is missing"));
    safetensors_close(&model);
    start(&writer);
    CHECK(tca_bme_write_offsets(&writer, "w", &W, &error));
    finish(&writer, &model);
    CHECK(tca_bme_find(&model, "w", &group, &error) == -1 &&
          has_words(&error, "weight \"w\": .tca_bme_data is missing"));
    safetensors_close(&model);
    free_matrix(&W);
}

/* Slices share the arrays of their parent; what would be written is not theirs. */
static void test_slices_are_refused(void)
{
    uint16_t          *dense = (uint16_t *)allocate(2 * 192 * 96);
    spinfer_matrix     W, part;
    safetensors_writer writer;
    safetensors_error  error;
    int                i;
    fill_random(dense, 192, 96, 96, 0.5, 4);
    W = encode_matrix(dense, 192, 96, SPINFER_FP16);
    for (i = 0; i < 3; i++) {
        if (i == 0) CHECK_SPINFER(spinfer_slice_cols(&W, 0, 64, &part));
        if (i == 1) CHECK_SPINFER(spinfer_slice_rows(&W, 0, 64, &part));
        if (i == 2) CHECK_SPINFER(spinfer_slice_rows(&W, 64, 128, &part));
        start(&writer);
        CHECK(!tca_bme_write_data(&writer, "w", &part, &error) && has_words(&error, "not a whole encoded matrix"));
    }
    free_matrix(&W);
    free(dense);
}

/* Each pair of types, pieces that cross the boundaries of the reader's own. */
static void test_read_dense(void)
{
    enum { COUNT = 40001 };
    static uint16_t    half[COUNT], back[COUNT + 1];
    static float       wide[COUNT];
    safetensors_writer writer;
    safetensors_model  model;
    safetensors_error  error;
    int                i, from;
    for (i = 0; i < COUNT; i++) {
        half[i] = (uint16_t)random_bits(5, (uint64_t)i);
        wide[i] = (float)random_normal(6, (uint64_t)i);
    }
    start(&writer);
    add(&writer, "f32", SAFETENSORS_F32, 1, COUNT, 0, wide);
    add(&writer, "f16", SAFETENSORS_F16, 1, COUNT, 0, half);
    add(&writer, "bf16", SAFETENSORS_BF16, 1, COUNT, 0, half);
    add(&writer, "u16", SAFETENSORS_U16, 1, 1, 0, half);
    finish(&writer, &model);
    for (from = 0; from < 6; from++) {
        static const char *const  names[3] = {"f32", "f16", "bf16"};
        const safetensors_tensor *tensor = safetensors_find(&model, names[from % 3]);
        const spinfer_dtype       to = from / 3 ? SPINFER_FP16 : SPINFER_BF16;
        const spinfer_dtype       own = from % 3 == 1 ? SPINFER_FP16 : SPINFER_BF16;
        memset(back, POISON, sizeof back);
        CHECK(tca_bme_read_dense(&model, tensor, 1, COUNT - 1, to, back, &error));
        for (i = 0; i < COUNT - 1; i++) {
            const float value = from % 3 ? spinfer_to_float(half[i + 1], own) : wide[i + 1];
            CHECK(back[i] == (from % 3 && own == to ? half[i + 1] : spinfer_from_float(value, to)));
        }
        CHECK(is_poison(back + COUNT - 1, 4));
        CHECK(tca_bme_read_dense(&model, tensor, COUNT, 0, to, back, &error));
        CHECK(!tca_bme_read_dense(&model, tensor, 1, COUNT, to, back, &error) && has_words(&error, "fewer elements"));
        CHECK(!tca_bme_read_dense(&model, tensor, UINT64_MAX, 2, to, back, &error));
        CHECK(!tca_bme_read_dense(&model, tensor, 2, UINT64_MAX, to, back, &error));
    }
    CHECK(!tca_bme_read_dense(&model, safetensors_find(&model, "u16"), 0, 1, SPINFER_FP16, back, &error));
    CHECK(has_words(&error, "\"u16\" is U16; F16, BF16 and F32 can be converted"));
    safetensors_close(&model);
}

/* ---- Sparse-bitmask -------------------------------------------------------------------------- */

static void check_loads_to(const safetensors_model *model, const char *base, const char *logical, spinfer_dtype dtype,
                           const uint16_t *dense, size_t rows, size_t cols)
{
    char              name[SAFETENSORS_MAX_NAME + 8];
    bitmask_group     group;
    bitmask_matrix    B;
    safetensors_error error;
    uint16_t         *back = (uint16_t *)allocate(2 * rows * cols);
    size_t            i;
    CHECK(bitmask_find(model, base, &group, &error) == 1);
    CHECK(group.rows == rows && group.cols == cols);
    bitmask_logical_name(base, &group, name);
    CHECK(strcmp(name, logical) == 0);
    CHECK(bitmask_load(model, &group, dtype, &B, &error));
    CHECK_SPINFER(bitmask_decode(&B, back, cols));
    for (i = 0; i < rows * cols; i++) CHECK(back[i] == ((dense[i] & 0x7fff) ? dense[i] : 0));
    bitmask_free(&B);
    free(back);
}

static void test_bitmask_round_trip(void)
{
    uint16_t          *dense = (uint16_t *)allocate(2 * 130 * 97);
    spinfer_matrix     W;
    safetensors_writer writer;
    safetensors_model  model;
    safetensors_error  error;
    bitmask_group      group;
    fill_random(dense, 130, 97, 97, 0.5, 7);
    W = encode_matrix(dense, 130, 97, SPINFER_FP16);
    CHECK(safetensors_create(&writer, path, bitmask_entry_bytes("a.weight") + bitmask_entry_bytes("b"), &error));
    CHECK(bitmask_write(&writer, "a.weight", &W, &error)); /* the names up to 0.8 */
    W.dtype = SPINFER_BF16;
    CHECK(bitmask_write(&writer, "b", &W, &error)); /* from 0.9 on */
    finish(&writer, &model);
    CHECK(model.tensor_count == 8 && safetensors_find(&model, "b.compressed")->dtype == SAFETENSORS_BF16);
    check_loads_to(&model, "a.weight", "a.weight", SPINFER_FP16, dense, 130, 97);
    check_loads_to(&model, "b", "b.weight", SPINFER_BF16, dense, 130, 97);
    CHECK(bitmask_find(&model, "c", &group, &error) == 0 && !*error.text);
    safetensors_close(&model);
    free_matrix(&W);
    free(dense);
}

/* The published 2 x 10 example, a vector of the old kind, sparse-24, and values of 32 bits that are rounded. */
static void test_bitmask_kinds(void)
{
    const uint16_t dense[20] = {0x3c00, 0, 0, 0x4000, 0, 0, 0, 0, 0x4200, 0, 0, 0, 0x4400, 0, 0, 0, 0, 0, 0, 0x4500};
    const uint16_t values[5] = {0x3c00, 0x4000, 0x4200, 0x4400, 0x4500};
    const float    wide[5] = {1, 2, 3, 4, 5};
    const uint8_t  mask[4] = {9, 1, 4, 2}, two[2] = {0x39, 0x0a};
    const int64_t  starts[2] = {0, 3}, shape[2] = {2, 10}, length[1] = {10}, shape_24[2] = {1, 12};
    const uint16_t values_24[6] = {1, 2, 3, 4, 0, 6};
    const uint16_t dense_24[12] = {1, 0, 0, 2, 3, 4, 0, 0, 0, 0, 0, 6};
    safetensors_writer writer;
    safetensors_model  model;
    start(&writer);
    add(&writer, "m.row_offsets", SAFETENSORS_I64, 1, 2, 0, starts);
    add(&writer, "m.shape", SAFETENSORS_I64, 1, 2, 0, shape);
    add(&writer, "m.compressed", SAFETENSORS_F32, 1, 5, 0, wide);
    add(&writer, "m.bitmask", SAFETENSORS_U8, 2, 2, 2, mask);
    add(&writer, "v.bitmask", SAFETENSORS_U8, 1, 2, 0, mask);
    add(&writer, "v.compressed", SAFETENSORS_F16, 1, 3, 0, values);
    add(&writer, "v.row_offsets", SAFETENSORS_I64, 0, 0, 0, starts);
    add(&writer, "v.shape", SAFETENSORS_I64, 1, 1, 0, length);
    add(&writer, "t.compressed", SAFETENSORS_F16, 2, 1, 6, values_24);
    add(&writer, "t.bitmask", SAFETENSORS_U8, 2, 1, 2, two);
    add(&writer, "t.shape", SAFETENSORS_I64, 2, 2, 1, shape_24);
    finish(&writer, &model);
    check_loads_to(&model, "m", "m.weight", SPINFER_FP16, dense, 2, 10);
    check_loads_to(&model, "v", "v", SPINFER_FP16, dense, 1, 10);
    check_loads_to(&model, "t", "t.weight", SPINFER_FP16, dense_24, 1, 12);
    safetensors_close(&model);
}

/* The published example with one tensor left out (dtype SAFETENSORS_DTYPES) or replaced. */
static void check_bitmask_refused(const char *suffix, safetensors_dtype dtype, uint32_t rank, uint64_t rows,
                                  uint64_t cols, const void *memory, const char *words)
{
    const uint16_t values[5] = {0x3c00, 0x4000, 0x4200, 0x4400, 0x4500};
    const uint8_t  mask[4] = {9, 1, 4, 2};
    const int64_t  starts[2] = {0, 3}, shape[2] = {2, 10};
    const struct {
        const char       *name;
        safetensors_dtype dtype;
        uint32_t          rank;
        uint64_t          rows, cols;
        const void       *memory;
    } parts[4] = {{"m.row_offsets", SAFETENSORS_I64, 1, 2, 0, starts},
                  {"m.shape", SAFETENSORS_I64, 1, 2, 0, shape},
                  {"m.compressed", SAFETENSORS_F16, 1, 5, 0, values},
                  {"m.bitmask", SAFETENSORS_U8, 2, 2, 2, mask}};
    safetensors_writer writer;
    safetensors_model  model;
    safetensors_error  error;
    bitmask_group      group;
    bitmask_matrix     B;
    int                i, found;
    start(&writer);
    for (i = 0; i < 4; i++) {
        if (strcmp(parts[i].name + 1, suffix) != 0)
            add(&writer, parts[i].name, parts[i].dtype, parts[i].rank, parts[i].rows, parts[i].cols, parts[i].memory);
        else if (dtype != SAFETENSORS_DTYPES)
            add(&writer, parts[i].name, dtype, rank, rows, cols, memory);
    }
    finish(&writer, &model);
    found = bitmask_find(&model, "m", &group, &error);
    CHECK(found == 1 || found == -1);
    if (found == 1) CHECK(!bitmask_load(&model, &group, SPINFER_FP16, &B, &error) && !B.values && !B.bitmask);
    CHECK(has_words(&error, words) && strstr(error.text, "\"m"));
    safetensors_close(&model);
}

static void test_bitmask_refusals(void)
{
    const uint8_t  mask[6] = {9, 1, 4, 0x82, 1, 1}, more[4] = {0x0b, 1, 4, 2};
    const int64_t  starts[3] = {0, 2, 3}, shapes[][2] = {{2, 17}, {3, 10}, {0, 10}, {-2, 10}, {2, INT64_MAX}, {2, 9}};
    const uint64_t values[6] = {0};
    const safetensors_dtype none = SAFETENSORS_DTYPES;
    check_bitmask_refused(".shape", none, 0, 0, 0, NULL, ".shape is missing");
    check_bitmask_refused(".compressed", none, 0, 0, 0, NULL, ".compressed is missing");
    check_bitmask_refused(".row_offsets", none, 0, 0, 0, NULL, ".row_offsets is missing");
    check_bitmask_refused(".shape", SAFETENSORS_I32, 1, 2, 0, shapes[0], ".shape is missing or not I64");
    check_bitmask_refused(".shape", SAFETENSORS_I64, 1, 3, 0, starts, ".shape is missing or not I64");
    check_bitmask_refused(".shape", SAFETENSORS_I64, 0, 0, 0, starts, ".shape is missing or not I64");
    check_bitmask_refused(".shape", SAFETENSORS_I64, 2, 1, 2, starts, ".shape is missing or not I64");
    check_bitmask_refused(".shape", SAFETENSORS_I64, 1, 0, 0, starts, ".shape is missing or not I64");
    check_bitmask_refused(".shape", SAFETENSORS_I64, 1, 1, 0, &shapes[0][1], ".bitmask is not U8 with a bit");
    check_bitmask_refused(".shape", SAFETENSORS_I64, 1, 2, 0, shapes[0], ".bitmask is not U8 with a bit");
    check_bitmask_refused(".shape", SAFETENSORS_I64, 1, 2, 0, shapes[1], ".bitmask is not U8 with a bit");
    check_bitmask_refused(".shape", SAFETENSORS_I64, 1, 2, 0, shapes[2], "a size that is not 1 to");
    check_bitmask_refused(".shape", SAFETENSORS_I64, 1, 2, 0, shapes[3], "a size that is not 1 to");
    check_bitmask_refused(".shape", SAFETENSORS_I64, 1, 2, 0, shapes[4], "a size that is not 1 to");
    check_bitmask_refused(".shape", SAFETENSORS_I64, 1, 2, 0, shapes[5], "row 1: the bitmask has a bit behind");
    check_bitmask_refused(".bitmask", SAFETENSORS_I8, 2, 2, 2, mask, ".bitmask is not U8 with a bit");
    check_bitmask_refused(".bitmask", SAFETENSORS_U8, 1, 4, 0, mask, ".bitmask is not U8 with a bit");
    check_bitmask_refused(".bitmask", SAFETENSORS_U8, 2, 3, 2, mask, ".bitmask is not U8 with a bit");
    check_bitmask_refused(".bitmask", SAFETENSORS_U8, 2, 2, 2, mask, "row 1: the bitmask has a bit behind");
    check_bitmask_refused(".bitmask", SAFETENSORS_U8, 2, 2, 2, more, "row 1: row_offsets and the bits");
    check_bitmask_refused(".row_offsets", SAFETENSORS_I64, 1, 2, 0, starts, "row 1: row_offsets and the bits");
    check_bitmask_refused(".row_offsets", SAFETENSORS_I64, 1, 3, 0, starts, ".row_offsets is not I64");
    check_bitmask_refused(".row_offsets", SAFETENSORS_I32, 1, 2, 0, starts, ".row_offsets is not I64");
    check_bitmask_refused(".row_offsets", SAFETENSORS_I64, 2, 2, 1, starts, ".row_offsets is not I64");
    check_bitmask_refused(".compressed", SAFETENSORS_F16, 1, 4, 0, values, "5 bits, but there are 4 values");
    check_bitmask_refused(".compressed", SAFETENSORS_F16, 1, 6, 0, values, "5 bits, but there are 6 values");
    check_bitmask_refused(".compressed", SAFETENSORS_F16, 2, 5, 1, values, ".compressed has not one dimension");
    check_bitmask_refused(".compressed", SAFETENSORS_F8_E4M3, 1, 5, 0, values, "none of F16, BF16 and F32");
}

int main(void)
{
    const char *base = getenv("TMPDIR");
    CHECK((size_t)snprintf(folder, sizeof folder, "%s/spinfer_XXXXXX", base && strlen(base) < 40 ? base : "/tmp") <
          sizeof folder);
    CHECK(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    test_names();
    test_encoded_round_trip();
    test_wrong_groups();
    test_missing_parts();
    test_slices_are_refused();
    test_read_dense();
    test_bitmask_round_trip();
    test_bitmask_kinds();
    test_bitmask_refusals();
    CHECK(remove(path) == 0 && rmdir(folder) == 0);
    return 0;
}
