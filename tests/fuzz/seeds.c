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
    return 0;
}
