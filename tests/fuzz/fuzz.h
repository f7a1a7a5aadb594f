/* fuzz.h - what the fuzz targets share. A target is one function that must return 0 and must not crash; libFuzzer calls
 * it, or replay.c for every file of a folder. See tests/README.md. */
#ifndef SPINFER_TESTS_FUZZ_H
#define SPINFER_TESTS_FUZZ_H

#include "common.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* Like CHECK(), but so that libFuzzer keeps the input. */
#undef CHECK
#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);                                  \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

/* A copy of exactly this size, so that AddressSanitizer sees the first byte too many; 16-byte aligned. */
static inline void *copy_exactly(const void *bytes, size_t size)
{
    void *copy = malloc(size ? size : 1);
    CHECK(copy);
    if (size) memcpy(copy, bytes, size);
    return copy;
}

/* Takes an unsigned number of 1 to 8 bytes off the front of the input; 0 where the input is at its end. */
static inline uint64_t take(const uint8_t **bytes, size_t *size, size_t width)
{
    uint64_t     value = 0;
    const size_t given = width < *size ? width : *size;
    if (given) memcpy(&value, *bytes, given); /* little-endian */
    *bytes += given;
    *size -= given;
    return value;
}

#endif /* SPINFER_TESTS_FUZZ_H */
