/* seeds.c - writes the generated inputs of tests/corpus: seeds FOLDER. The other files there were found by fuzzing.
 *
 * Compile: cc -std=c99 -I. -Iexamples tests/fuzz/seeds.c -lm -o seeds */
#define _POSIX_C_SOURCE 200809L
#include "common.h"

#include <errno.h>
#include <sys/stat.h>

typedef struct seed {
    uint8_t bytes[16384];
    size_t  size;
} seed;

static void put(seed *s, const void *bytes, size_t size)
{
    CHECK(size <= sizeof s->bytes - s->size);
    memcpy(s->bytes + s->size, bytes, size);
    s->size += size;
}

static void put_number(seed *s, uint64_t value, size_t width) { put(s, &value, width); /* little-endian */ }

static void put_text(seed *s, const char *text) { put(s, text, strlen(text)); }

static void save(const seed *s, const char *folder, const char *target, const char *name)
{
    char  path[4096];
    FILE *file;
    CHECK((size_t)snprintf(path, sizeof path, "%s/%s", folder, target) < sizeof path);
    CHECK(mkdir(path, 0777) == 0 || errno == EEXIST);
    CHECK((size_t)snprintf(path, sizeof path, "%s/%s/%s", folder, target, name) < sizeof path);
    file = fopen(path, "wb");
    CHECK(file && fwrite(s->bytes, 1, s->size, file) == s->size && fclose(file) == 0);
}

static uint16_t *random_dense(size_t rows, size_t cols, double zeros, uint64_t seed_number)
{
    uint16_t *dense = (uint16_t *)allocate(2 * rows * cols);
    fill_normal(dense, rows * cols, 1.0, SPINFER_FP16, seed_number);
    prune_iid(dense, rows, cols, zeros, seed_number + 1);
    return dense;
}

static void npy_seed(const char *folder, const char *name, unsigned version, const char *header, size_t data_bytes)
{
    seed   s = {{0}, 0};
    size_t i;
    put_text(&s, "\x93NUMPY");
    put_number(&s, version, 1);
    put_number(&s, 0, 1);
    put_number(&s, strlen(header), version == 1 ? 2 : 4);
    put_text(&s, header);
    for (i = 0; i < data_bytes; i++) put_number(&s, 0x3c + i, 1);
    save(&s, folder, "npy", name);
}

static void validate_seed(const char *folder, const char *name, size_t rows, size_t cols, double zeros)
{
    seed           s = {{0}, 0};
    uint16_t      *dense = random_dense(rows, cols, zeros, rows);
    spinfer_matrix W = encode_matrix(dense, rows, cols, SPINFER_FP16);
    const size_t   offsets_bytes = (size_t)spinfer_offsets_bytes(rows, cols);
    put_number(&s, rows, 2);
    put_number(&s, cols, 2);
    put_number(&s, 0, 1);
    put_number(&s, W.dtype, 1);
    put_number(&s, W.format, 1);
    put_number(&s, 0, 1);
    put_number(&s, W.max_record / 16, 2);
    put_number(&s, offsets_bytes / 4, 2);
    put(&s, W.offsets, offsets_bytes);
    put(&s, W.data, (size_t)W.data_bytes);
    save(&s, folder, "validate", name);
    free_matrix(&W);
    free(dense);
}

static void roundtrip_seed(const char *folder, const char *name, size_t rows, size_t cols, double zeros)
{
    seed      s = {{0}, 0};
    uint16_t *dense = random_dense(rows, cols, zeros, cols);
    put_number(&s, rows - 1, 1);
    put_number(&s, cols - 1, 1);
    put_number(&s, 1, 1);
    put_number(&s, 1, 1);
    put(&s, dense, rows * cols < 200 ? 2 * rows * cols : 400);
    save(&s, folder, "roundtrip", name);
    free(dense);
}

static void safetensors_seed(const char *folder, const char *name, const char *header, const void *data, size_t size)
{
    seed s = {{0}, 0};
    put_number(&s, strlen(header), 8);
    put_text(&s, header);
    put(&s, data, size);
    save(&s, folder, "safetensors", name);
}

static void text_seed(const char *folder, const char *target, const char *name, const char *text)
{
    seed s = {{0}, 0};
    put_text(&s, text);
    save(&s, folder, target, name);
}

/* The smallest encoded weight, 1 x 1, as tca_bme_file.h names its tensors. */
static void encoded_seed(const char *folder)
{
    const uint16_t one = 0x3c00;
    spinfer_matrix W = encode_matrix(&one, 1, 1, SPINFER_FP16);
    const uint32_t numbers[5] = {W.format, W.dtype, W.rows, W.cols, W.max_record};
    seed           data = {{0}, 0};
    put(&data, W.data, (size_t)W.data_bytes);
    put(&data, W.offsets, 8);
    put(&data, numbers, sizeof numbers);
    CHECK(data.size == 412);
    safetensors_seed(folder, "tca_bme",
                     "{\"w.tca_bme_data\":{\"dtype\":\"U8\",\"shape\":[384],\"data_offsets\":[0,384]},"
                     "\"w.tca_bme_offsets\":{\"dtype\":\"U32\",\"shape\":[2],\"data_offsets\":[384,392]},"
                     "\"w.tca_bme_header\":{\"dtype\":\"U32\",\"shape\":[5],\"data_offsets\":[392,412]}}",
                     data.bytes, data.size);
    free_matrix(&W);
}

/* A 2 x 10 matrix of five values in both versions of sparse-bitmask. */
static void compressed_seeds(const char *folder)
{
    const uint8_t data[] = {0, 0,  0, 0, 0, 0, 0, 0, 3, 0, 0,    0, 0,    0, 0,    0, 2,    0, 0,    0, 0, 0, 0,
                            0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0x3c, 0, 0x40, 0, 0x42, 0, 0x44, 0, 0x45, 9, 1, 4, 2};
    const uint8_t vector[] = {0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0x3c, 0, 0x40, 5};
    const uint8_t two_of_four[] = {1, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0x3c, 0, 0x40, 5};
    safetensors_seed(folder, "bitmask",
                     "{\"w.row_offsets\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[0,16]},"
                     "\"w.shape\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[16,32]},"
                     "\"w.compressed\":{\"dtype\":\"F16\",\"shape\":[5],\"data_offsets\":[32,42]},"
                     "\"w.bitmask\":{\"dtype\":\"U8\",\"shape\":[2,2],\"data_offsets\":[42,46]}}",
                     data, sizeof data);
    safetensors_seed(folder, "bitmask_vector",
                     "{\"w.row_offsets\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]},"
                     "\"w.shape\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[8,16]},"
                     "\"w.compressed\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[16,20]},"
                     "\"w.bitmask\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[20,21]}}",
                     vector, sizeof vector);
    safetensors_seed(folder, "bitmask_24",
                     "{\"w.shape\":{\"dtype\":\"I64\",\"shape\":[2,1],\"data_offsets\":[0,16]},"
                     "\"w.compressed\":{\"dtype\":\"F16\",\"shape\":[1,2],\"data_offsets\":[16,20]},"
                     "\"w.bitmask\":{\"dtype\":\"U8\",\"shape\":[1,1],\"data_offsets\":[20,21]}}",
                     two_of_four, sizeof two_of_four);
}

static void bitmask_seed(const char *folder, const char *name, unsigned flags, unsigned rows, unsigned cols,
                         unsigned byte)
{
    seed     s = {{0}, 0};
    unsigned i;
    put_number(&s, flags, 1);
    put_number(&s, rows, 1);
    put_number(&s, cols, 1);
    for (i = 0; i < rows * ((cols + 7) / 8); i++) put_number(&s, byte, 1);
    for (i = 0; i < 40; i++) put_number(&s, 7 * i, 2); /* the first is a zero */
    save(&s, folder, "bitmask", name);
}

int main(int argc, char **argv)
{
    const char *folder = argv[1];
    if (argc != 2) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 1;
    }
    npy_seed(folder, "f2", 1, "{'descr': '<f2', 'fortran_order': False, 'shape': (2, 10), }   \n", 40);
    npy_seed(folder, "f4_version_2", 2, "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 1), }\n", 12);
    npy_seed(folder, "u2", 1, "{'shape': (1, 1), 'fortran_order': False, 'descr': '<u2'}\n", 2);
    npy_seed(folder, "large_shape", 3, "{'descr': '<f2', 'fortran_order': False, 'shape': (2147483584, 2147483584)}\n",
             2);
    validate_seed(folder, "1x1", 1, 1, 0.0);
    validate_seed(folder, "empty_7x40", 7, 40, 1.0);
    validate_seed(folder, "half_65x33", 65, 33, 0.5);
    validate_seed(folder, "full_64x32", 64, 32, 0.0);
    validate_seed(folder, "sparse_130x96", 130, 96, 0.95);
    roundtrip_seed(folder, "1x1", 1, 1, 0.0);
    roundtrip_seed(folder, "9x17", 9, 17, 0.5);
    roundtrip_seed(folder, "65x33", 65, 33, 0.5);
    roundtrip_seed(folder, "130x8", 130, 8, 0.9);
    safetensors_seed(folder, "empty", "{}", "", 0);
    safetensors_seed(folder, "2x2", "{\"w\":{\"dtype\":\"F16\",\"shape\":[2,2],\"data_offsets\":[0,8]}}",
                     "\0\x3c\0\0\0\0\0\xbc", 8);
    safetensors_seed(
        folder, "metadata_scalar_nothing",
        "{\"__metadata__\":{\"a\":\"\\u00e9\"},\"s\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[0,8]},"
        "\"n\":{\"dtype\":\"F4\",\"shape\":[3,0],\"data_offsets\":[8,8]}}  ",
        "12345678", 8);
    text_seed(folder, "safetensors", "fitted",
              "\xff\xff\xff\xff\xff\xff\xff\xff{\"w\":{\"dtype\":\"I8\",\"shape\":[3],\"data_offsets\":[0,3]}}abc");
    encoded_seed(folder);
    compressed_seeds(folder);
    text_seed(folder, "index", "two_shards",
              "{\"metadata\":{\"total_size\":8},\"weight_map\":{\"a\":\"m-1.safetensors\",\"b\":\"m-2.safetensors\"}}");
    text_seed(folder, "index", "climbs_out", "{\"weight_map\":{\"a\":\"../x\",\"b\":\"\\u002e.\\\\x\",\"c\":\"/x\"}}");
    bitmask_seed(folder, "fits_9x16", 8 + 16, 9, 16, 0x55);
    bitmask_seed(folder, "fits_70x40", 8 + 16, 70, 40, 0x81);
    bitmask_seed(folder, "two_of_four_66x32", 1 + 16, 66, 32, 0x39);
    bitmask_seed(folder, "disagrees", 0, 3, 8, 0x0f);
    bitmask_seed(folder, "wrong_sizes", 2 + 4, 3, 8, 0x0f);
    return 0;
}
