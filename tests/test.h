/* test.h - what the host tests share: fenced memory, random matrices, encode and decode into buffers of exact size. */
#ifndef SPINFER_TESTS_TEST_H
#define SPINFER_TESTS_TEST_H

#include <sys/mman.h>
#include <unistd.h>

#include "common.h"

enum { POISON = 0xa5 };

static inline int is_poison(const void *memory, size_t bytes)
{
    size_t i;
    for (i = 0; i < bytes; i++)
        if (((const unsigned char *)memory)[i] != POISON) return 0;
    return 1;
}

/* Poisoned memory that ends where an unreadable page begins: an access one byte past the end stops the program, with or
 * without a sanitizer. Aligned as far as `bytes` is, which suits every array of the library. */
static inline void *allocate_fenced(size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (bytes + page) / page * page; /* some slack in front */
    char        *memory = (char *)mmap(NULL, body + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK((void *)memory != MAP_FAILED);
    CHECK(mprotect(memory + body, page, PROT_NONE) == 0);
    memset(memory, POISON, body);
    return memory + body - bytes;
}

/* Also checks that nothing was written in front of the memory. */
static inline void free_fenced(const void *memory, size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (bytes + page) / page * page;
    char        *begin = (char *)(uintptr_t)memory + bytes - body;
    CHECK(is_poison(begin, body - bytes));
    CHECK(munmap(begin, body + page) == 0);
}

/* Random bit patterns (subnormals, infinities and NaN payloads among them); the others are zeros of both signs. The gap
 * behind each row keeps what it held. */
static inline void fill_random(uint16_t *dense, size_t rows, size_t cols, size_t ld, double density, uint64_t seed)
{
    size_t row, col;
    for (row = 0; row < rows; row++)
        for (col = 0; col < cols; col++) {
            const uint16_t bits = (uint16_t)random_bits(seed, row * cols + col); /* random_unit() uses the upper bits */
            const uint16_t kept = (bits & 0x7fff) ? bits : 0x0001;
            dense[row * ld + col] = random_unit(seed, row * cols + col) < density ? kept : (uint16_t)(bits & 0x8000);
        }
}

/* Elements of a [rows, cols] array with this leading dimension: the gap behind the last row is not part of it. */
static inline size_t span(size_t rows, size_t cols, size_t ld) { return (rows - 1) * ld + cols; }

/* Encodes into fenced arrays of exactly the size that was asked for. */
static inline spinfer_matrix encode_fenced(const uint16_t *dense, size_t rows, size_t cols, size_t ld,
                                           spinfer_dtype dtype)
{
    spinfer_sizes  sizes;
    spinfer_matrix W;
    uint32_t      *offsets;
    void          *data;
    CHECK_SPINFER(spinfer_encode_sizes(dense, rows, cols, ld, &sizes));
    offsets = (uint32_t *)allocate_fenced((size_t)sizes.offsets_bytes);
    data = allocate_fenced((size_t)sizes.data_bytes);
    CHECK_SPINFER(spinfer_encode(dense, rows, cols, ld, dtype, offsets, sizes.offsets_bytes, data, sizes.data_bytes,
                                 &W));
    CHECK(W.data_bytes == sizes.data_bytes && W.max_record == sizes.max_record);
    return W;
}

/* For whole matrices, not for slices. */
static inline void free_fenced_matrix(const spinfer_matrix *W)
{
    free_fenced(W->offsets, (size_t)spinfer_offsets_bytes(W->rows, W->cols));
    free_fenced(W->data, (size_t)W->data_bytes);
}

/* Decodes into fenced memory and compares bit by bit; the gap behind each row must stay as it was. */
static inline void check_decodes_to(const spinfer_matrix *W, const uint16_t *dense, size_t ld)
{
    const size_t out_ld = W->cols + 3, bytes = 2 * span(W->rows, W->cols, out_ld);
    uint16_t    *out = (uint16_t *)allocate_fenced(bytes);
    size_t       row, col;
    CHECK_SPINFER(spinfer_decode(W, out, out_ld));
    for (row = 0; row < W->rows; row++) {
        for (col = 0; col < W->cols; col++) {
            const uint16_t bits = dense[row * ld + col];
            CHECK(out[row * out_ld + col] == ((bits & 0x7fff) ? bits : 0));
        }
        if (row + 1 < W->rows) CHECK(is_poison(out + row * out_ld + W->cols, 2 * (out_ld - W->cols)));
    }
    free_fenced(out, bytes);
}

#endif /* SPINFER_TESTS_TEST_H */
