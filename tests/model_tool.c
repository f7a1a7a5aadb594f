/* model_tool - makes and inspects the small models of test_convert.sh, and the large ones of bench_convert.sh.
 *
 *     model_tool mixed OUT.safetensors        weights of all types and densities, and whatever else a model may hold
 *     model_tool shards FOLDER                the same in two shards and an index
 *     model_tool bitmask NEW OLD DENSE        sparse-bitmask with both namings, and what they are as dense tensors
 *     model_tool bitmask24 OUT DENSE          sparse-24-bitmask, and what it is as dense tensors
 *     model_tool npy OUT ROWS COLS TYPE       a matrix: f2, f4 or u2
 *     model_tool layers OUT COUNT ROWS COLS DTYPE ZEROS    layers of F16, BF16 or F32; the values of npy, if just one
 *     model_tool large OUT                    fp32 weights that fp16 cannot hold
 *     model_tool same A B                     exit status 0: the same tensors, byte by byte
 *     model_tool converted A B                exit status 0: the same, but a -0 in A may be +0 in B, and fp32 its
 *                                             nearest 16-bit value
 *     model_tool zeros FILE TENSOR            prints the zeros of a 16-bit matrix, and the fewest and most in a row
 *
 * It knows nothing of convert, and packs bitmasks by itself. */
#include <sys/stat.h>

#include "common.h"
#include "safetensors.h"

typedef struct file {
    safetensors_writer writer;
    safetensors_error  error;
} file;

static void check(int ok, const safetensors_error *error)
{
    if (ok) return;
    fprintf(stderr, "model_tool: %s\n", error->text);
    exit(1);
}

static void create(file *f, const char *path, int tensors)
{
    check(safetensors_create(&f->writer, path, 512 * ((uint64_t)tensors + 1), &f->error), &f->error);
    check(safetensors_add_metadata(&f->writer, "format", "pt", &f->error), &f->error);
}

static void add(file *f, const char *name, safetensors_dtype dtype, uint32_t rank, uint64_t a, uint64_t b, uint64_t c,
                const void *data)
{
    uint64_t shape[3], bytes = safetensors_dtype_bits(dtype) / 8;
    uint32_t i;
    shape[0] = a, shape[1] = b, shape[2] = c;
    for (i = 0; i < rank; i++) bytes *= shape[i];
    check(safetensors_begin(&f->writer, name, dtype, rank, shape, &f->error), &f->error);
    check(safetensors_append(&f->writer, data, bytes, &f->error), &f->error);
}

static void commit(file *f) { check(safetensors_commit(&f->writer, &f->error), &f->error); }

/* A weight [rows, cols] with this share of zeros, some of them negative. Free it. */
static void *make_weight(size_t rows, size_t cols, safetensors_dtype dtype, double zeros, uint64_t seed)
{
    const spinfer_dtype half = dtype == SAFETENSORS_BF16 ? SPINFER_BF16 : SPINFER_FP16;
    const size_t        count = rows * cols;
    uint16_t           *values = (uint16_t *)allocate(2 * count);
    float              *wide;
    size_t              i;
    fill_normal(values, count, 0.02, half, seed);
    prune_iid(values, rows, cols, zeros, seed + 1);
    for (i = 0; zeros > 0 && i < count; i += 13)
        if (!values[i]) values[i] = 0x8000;
    if (dtype != SAFETENSORS_F32) return values;
    wide = (float *)allocate(4 * count);
    for (i = 0; i < count; i++) /* a value that 16 bits do not hold */
        wide[i] = spinfer_to_float(values[i], half) * (1 + 0x1p-14f);
    free(values);
    return wide;
}

static void add_weight(file *f, const char *name, size_t rows, size_t cols, safetensors_dtype dtype, double zeros,
                       uint64_t seed)
{
    void *values = make_weight(rows, cols, dtype, zeros, seed);
    add(f, name, dtype, 2, rows, cols, 0, values);
    free(values);
}

/* ---- Models ---------------------------------------------------------------------------------- */

static void add_first_half(file *f)
{
    const int64_t ids[6] = {0, 1, 2, 3, 4, -5};
    const float   norm[5] = {1, 0, 0, 0, 2};
    add(f, "position_ids", SAFETENSORS_I64, 2, 1, 6, 0, ids);
    add(f, "norm.weight", SAFETENSORS_F32, 1, 5, 0, 0, norm);
    add_weight(f, "model.embed_tokens.weight", 40, 24, SAFETENSORS_F16, 0.5, 1);
    add_weight(f, "layers.0.q.weight", 130, 100, SAFETENSORS_F16, 0.5, 3);
    add_weight(f, "layers.0.k.weight", 64, 32, SAFETENSORS_BF16, 0.6, 5);
}

static void add_second_half(file *f)
{
    const uint8_t bytes[3] = {1, 2, 3};
    const float   scale = 3;
    add_weight(f, "layers.1.up.weight", 200, 70, SAFETENSORS_F32, 0.4, 7);
    add_weight(f, "layers.1.dense.weight", 65, 33, SAFETENSORS_F16, 0.05, 9);
    add_weight(f, "layers.1.gate", 1, 1, SAFETENSORS_BF16, 0, 11);
    add_weight(f, "lm_head.weight", 40, 24, SAFETENSORS_F16, 0.5, 13);
    add(f, "scale", SAFETENSORS_F32, 0, 0, 0, 0, &scale);
    add(f, "empty", SAFETENSORS_F16, 2, 0, 7, 0, bytes);
    add(f, "cube", SAFETENSORS_U8, 3, 1, 3, 1, bytes);
}

static void make_mixed(const char *path)
{
    file f;
    create(&f, path, 16);
    add_first_half(&f);
    add_second_half(&f);
    commit(&f);
}

/* The index names the tensors of each shard. */
static void map_tensors(json_t *map, const char *path, const char *shard)
{
    safetensors_model model;
    safetensors_error error;
    size_t            i;
    check(safetensors_open(&model, path, &error), &error);
    for (i = 0; i < model.tensor_count; i++) json_object_set_new(map, model.tensors[i].name, json_string(shard));
    safetensors_close(&model);
}

static void make_shards(const char *folder)
{
    static const char *const names[] = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};
    json_t                  *index = json_object(), *map = json_object();
    char                     path[1024];
    int                      i;
    CHECK(index && map && strlen(folder) < 900);
    for (i = 0; i < 2; i++) {
        file f;
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        create(&f, path, 16);
        if (i == 0)
            add_first_half(&f);
        else
            add_second_half(&f);
        commit(&f);
        map_tensors(map, path, names[i]);
    }
    json_object_set_new(index, "metadata", json_object());
    json_object_set_new(index, "weight_map", map);
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
    CHECK(json_dump_file(index, path, JSON_INDENT(1)) == 0);
    json_decref(index);
}

/* ---- Bitmasks -------------------------------------------------------------------------------- */

enum { B_ROWS = 67, B_COLS = 52 };

static int keeps_two_of_four(const uint16_t *row, size_t col)
{
    const size_t quad = col / 4 * 4;
    size_t       i, larger = 0;
    for (i = quad; i < quad + 4; i++)
        larger += (row[i] & 0x7fff) > (row[col] & 0x7fff) || ((row[i] & 0x7fff) == (row[col] & 0x7fff) && i < col);
    return larger < 2;
}

/* The tensors base.compressed and so on of a [rows, cols] matrix; with is_24 what is not kept becomes zero in it. */
static void add_bitmask(file *f, const char *base, uint16_t *dense, size_t rows, size_t cols, safetensors_dtype dtype,
                        int is_24, int is_vector)
{
    const size_t width = (cols + 7) / 8;
    uint16_t    *values = (uint16_t *)allocate(2 * rows * cols);
    uint8_t     *bits = (uint8_t *)allocate(rows * width);
    int64_t     *offsets = (int64_t *)allocate(8 * rows), shape[2];
    size_t       row, col, kept = 0;
    char         name[128];
    memset(bits, 0, rows * width);
    for (row = 0; row < rows; row++) {
        const uint16_t *line = dense + row * cols;
        offsets[row] = (int64_t)kept;
        for (col = 0; col < cols; col++) {
            if (is_24 ? !keeps_two_of_four(line, col) : !(line[col] & 0x7fff)) continue;
            values[kept++] = line[col];
            bits[row * width + col / 8] |= (uint8_t)(1 << col % 8);
        }
    }
    for (row = 0; row < rows; row++)
        for (col = 0; col < cols; col++) /* what a decoder gives back */
            if (!(bits[row * width + col / 8] >> col % 8 & 1) || !(dense[row * cols + col] & 0x7fff))
                dense[row * cols + col] = 0;
    shape[0] = is_vector ? (int64_t)cols : (int64_t)rows;
    shape[1] = (int64_t)cols;
    snprintf(name, sizeof name, "%s.compressed", base);
    if (is_24)
        add(f, name, dtype, 2, rows, cols / 2, 0, values);
    else
        add(f, name, dtype, 1, kept, 0, 0, values);
    snprintf(name, sizeof name, "%s.bitmask", base);
    add(f, name, SAFETENSORS_U8, is_vector ? 1 : 2, is_vector ? width : rows, width, 0, bits);
    snprintf(name, sizeof name, "%s.row_offsets", base);
    if (!is_24) add(f, name, SAFETENSORS_I64, is_vector ? 0 : 1, rows, 0, 0, offsets);
    snprintf(name, sizeof name, "%s.shape", base);
    add(f, name, SAFETENSORS_I64, is_24 ? 2 : 1, is_vector ? 1 : 2, 1, 0, shape);
    free(values);
    free(bits);
    free(offsets);
}

static void make_bitmask(const char *new_path, const char *old_path, const char *dense_path)
{
    uint16_t *a = (uint16_t *)make_weight(B_ROWS, B_COLS, SAFETENSORS_F16, 0.5, 1);
    uint16_t *b = (uint16_t *)make_weight(8, 9, SAFETENSORS_BF16, 0.7, 3);
    uint16_t *norm = (uint16_t *)make_weight(1, 21, SAFETENSORS_F16, 0.2, 5);
    file      f;
    create(&f, old_path, 16); /* with ".weight", and vectors too */
    add_bitmask(&f, "a.weight", a, B_ROWS, B_COLS, SAFETENSORS_F16, 0, 0);
    add_bitmask(&f, "b.weight", b, 8, 9, SAFETENSORS_BF16, 0, 0);
    add_bitmask(&f, "norm.weight", norm, 1, 21, SAFETENSORS_F16, 0, 1);
    commit(&f);
    create(&f, new_path, 16);
    add_bitmask(&f, "a", a, B_ROWS, B_COLS, SAFETENSORS_F16, 0, 0);
    add_bitmask(&f, "b", b, 8, 9, SAFETENSORS_BF16, 0, 0);
    add(&f, "norm.weight", SAFETENSORS_F16, 1, 21, 0, 0, norm);
    commit(&f);
    create(&f, dense_path, 16);
    add(&f, "a.weight", SAFETENSORS_F16, 2, B_ROWS, B_COLS, 0, a);
    add(&f, "b.weight", SAFETENSORS_BF16, 2, 8, 9, 0, b);
    add(&f, "norm.weight", SAFETENSORS_F16, 1, 21, 0, 0, norm);
    commit(&f);
    free(a);
    free(b);
    free(norm);
}

static void make_bitmask24(const char *path, const char *dense_path)
{
    uint16_t *a = (uint16_t *)make_weight(B_ROWS, B_COLS, SAFETENSORS_F16, 0.6, 1); /* zeros are kept, too */
    file      f;
    create(&f, path, 16);
    add_bitmask(&f, "a", a, B_ROWS, B_COLS, SAFETENSORS_F16, 1, 0);
    commit(&f);
    create(&f, dense_path, 16);
    add(&f, "a.weight", SAFETENSORS_F16, 2, B_ROWS, B_COLS, 0, a);
    commit(&f);
    free(a);
}

/* ---- Others ---------------------------------------------------------------------------------- */

static void make_npy(const char *path, size_t rows, size_t cols, const char *type)
{
    const safetensors_dtype dtype = strcmp(type, "f4") == 0   ? SAFETENSORS_F32
                                    : strcmp(type, "u2") == 0 ? SAFETENSORS_BF16
                                                              : SAFETENSORS_F16;
    void                   *values = make_weight(rows, cols, dtype, 0.5, 1);
    FILE                   *out = fopen(path, "wb");
    char                    header[160], text[100];
    CHECK(out);
    snprintf(text, sizeof text, "{'descr': '<%s', 'fortran_order': False, 'shape': (%zu, %zu), }", type, rows, cols);
    snprintf(header, sizeof header, "%s%-117s\n", "\x93NUMPY\1 v ", text);
    header[7] = 0, header[9] = 0;
    CHECK(fwrite(header, 1, 128, out) == 128);
    CHECK(fwrite(values, dtype == SAFETENSORS_F32 ? 4 : 2, rows * cols, out) == rows * cols && fclose(out) == 0);
    free(values);
}

static void make_layers(const char *path, int count, size_t rows, size_t cols, const char *type, double zeros)
{
    const safetensors_dtype dtype = strcmp(type, "F32") == 0    ? SAFETENSORS_F32
                                    : strcmp(type, "BF16") == 0 ? SAFETENSORS_BF16
                                                                : SAFETENSORS_F16;
    void                   *values = make_weight(rows, cols, dtype, zeros, 1); /* the same ones in every layer */
    file                    f;
    int                     i;
    create(&f, path, count);
    for (i = 0; i < count; i++) {
        char name[64];
        if (count > 1)
            snprintf(name, sizeof name, "layers.%d.weight", i);
        else
            strcpy(name, "weight");
        add(&f, name, dtype, 2, rows, cols, 0, values);
    }
    commit(&f);
    free(values);
}

static void make_large(const char *path)
{
    float values[64] = {1e6f, 0, -1e6f};
    file  f;
    create(&f, path, 16);
    add(&f, "large.weight", SAFETENSORS_F32, 2, 8, 8, 0, values);
    commit(&f);
}

/* ---- Look ------------------------------------------------------------------------------------ */

static int read_tensor(const safetensors_model *model, const safetensors_tensor *t, uint8_t **bytes)
{
    safetensors_error error;
    *bytes = (uint8_t *)allocate((size_t)t->bytes);
    check(safetensors_read(model, t, 0, t->bytes, *bytes, &error), &error);
    return 1;
}

/* Is this element of A, converted, that of B? */
static int is_converted(const safetensors_tensor *a, const safetensors_tensor *b, const uint8_t *left,
                        const uint8_t *right, uint64_t i)
{
    const spinfer_dtype dtype = b->dtype == SAFETENSORS_BF16 ? SPINFER_BF16 : SPINFER_FP16;
    uint16_t            expected, found;
    memcpy(&found, right + 2 * i, 2);
    if (a->dtype == SAFETENSORS_F32) {
        float value;
        memcpy(&value, left + 4 * i, 4);
        expected = spinfer_from_float(value, dtype);
    } else {
        memcpy(&expected, left + 2 * i, 2);
    }
    return found == expected || (found == 0 && expected == 0x8000);
}

static int tensors_agree(const safetensors_tensor *a, const safetensors_tensor *b, const uint8_t *left,
                         const uint8_t *right, int converted)
{
    const int to_16 = a->dtype == b->dtype || a->dtype == SAFETENSORS_F32;
    uint64_t  i;
    if (a->dtype == b->dtype && memcmp(left, right, (size_t)a->bytes) == 0) return 1;
    if (!converted || !to_16 || safetensors_dtype_bits(b->dtype) != 16) return 0;
    for (i = 0; i < b->bytes / 2; i++)
        if (!is_converted(a, b, left, right, i)) return 0;
    return 1;
}

static int compare(const char *left, const char *right, int converted)
{
    safetensors_model a, b;
    safetensors_error error;
    size_t            i;
    int               different = 0;
    check(safetensors_open(&a, left, &error), &error);
    check(safetensors_open(&b, right, &error), &error);
    if (a.tensor_count != b.tensor_count) {
        printf("%zu and %zu tensors\n", a.tensor_count, b.tensor_count);
        return 1;
    }
    for (i = 0; i < a.tensor_count; i++) {
        const safetensors_tensor *t = a.by_name[i], *u = b.by_name[i];
        uint8_t                  *left_bytes, *right_bytes;
        if (strcmp(t->name, u->name) || t->rank != u->rank || memcmp(t->shape, u->shape, sizeof t->shape)) {
            printf("%s and %s are not of the same name and shape\n", t->name, u->name);
            return 1;
        }
        read_tensor(&a, t, &left_bytes);
        read_tensor(&b, u, &right_bytes);
        if (!tensors_agree(t, u, left_bytes, right_bytes, converted)) different = printf("%s differs\n", t->name);
        free(left_bytes);
        free(right_bytes);
    }
    safetensors_close(&a);
    safetensors_close(&b);
    return different != 0;
}

static void count_zeros(const char *path, const char *name)
{
    safetensors_model         model;
    safetensors_error         error;
    const safetensors_tensor *t;
    uint8_t                  *bytes;
    uint64_t                  row, col, zeros = 0, fewest = UINT64_MAX, most = 0;
    check(safetensors_open(&model, path, &error), &error);
    t = safetensors_find(&model, name);
    CHECK(t && t->rank == 2 && safetensors_dtype_bits(t->dtype) == 16);
    read_tensor(&model, t, &bytes);
    for (row = 0; row < t->shape[0]; row++) {
        uint64_t in_row = 0;
        for (col = 0; col < t->shape[1]; col++) {
            uint16_t value;
            memcpy(&value, bytes + 2 * (row * t->shape[1] + col), 2);
            in_row += (value & 0x7fff) == 0;
        }
        zeros += in_row;
        if (in_row < fewest) fewest = in_row;
        if (in_row > most) most = in_row;
    }
    printf("%llu %llu %llu\n", (unsigned long long)zeros, (unsigned long long)fewest, (unsigned long long)most);
    free(bytes);
    safetensors_close(&model);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    if (argc == 3 && strcmp(what, "mixed") == 0)
        make_mixed(argv[2]);
    else if (argc == 3 && strcmp(what, "shards") == 0)
        make_shards(argv[2]);
    else if (argc == 5 && strcmp(what, "bitmask") == 0)
        make_bitmask(argv[2], argv[3], argv[4]);
    else if (argc == 4 && strcmp(what, "bitmask24") == 0)
        make_bitmask24(argv[2], argv[3]);
    else if (argc == 6 && strcmp(what, "npy") == 0)
        make_npy(argv[2], strtoul(argv[3], NULL, 10), strtoul(argv[4], NULL, 10), argv[5]);
    else if (argc == 8 && strcmp(what, "layers") == 0)
        make_layers(argv[2], atoi(argv[3]), strtoul(argv[4], NULL, 10), strtoul(argv[5], NULL, 10), argv[6],
                    atof(argv[7]));
    else if (argc == 3 && strcmp(what, "large") == 0)
        make_large(argv[2]);
    else if (argc == 4 && strcmp(what, "same") == 0)
        return compare(argv[2], argv[3], 0);
    else if (argc == 4 && strcmp(what, "converted") == 0)
        return compare(argv[2], argv[3], 1);
    else if (argc == 4 && strcmp(what, "zeros") == 0)
        count_zeros(argv[2], argv[3]);
    else {
        fprintf(stderr, "usage: see the first comment of model_tool.c\n");
        return 2;
    }
    return 0;
}
