/* fuzz_npy.c - npy.h on arbitrary bytes: it says what is wrong, or gives a matrix that fits the file. */
#define _POSIX_C_SOURCE 200809L /* fmemopen() */
#include "fuzz.h"
#include "npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const spinfer_dtype dtype = size % 2 ? SPINFER_FP16 : SPINFER_BF16;
    FILE               *file = size ? fmemopen((void *)(uintptr_t)bytes, size, "rb") : NULL;
    uint16_t           *dense;
    size_t              rows, cols;
    if (!file) return 0;
    if (!npy_read_file(file, dtype, &dense, &rows, &cols)) {
        CHECK(rows >= 1 && cols >= 1 && rows * cols * 2 <= size);
        free(dense);
    }
    fclose(file);
    return 0;
}
