/* npy.h - reads a weight matrix from a NumPy .npy file: two dimensions, C order, <f2, <f4 or <u2. C99, CUDA C and C++.
 *
 *     \x93NUMPY  version  length of header  {'descr': '<f2', 'fortran_order': False, 'shape': (64, 32), }\n  data
 *     6 bytes    2        2 (version 1) or 4; little-endian like the data
 *
 * The file is not trusted: its sizes are compared with the length of the file before anything is allocated. */
#ifndef SPINFER_EXAMPLES_NPY_H
#define SPINFER_EXAMPLES_NPY_H

#include "common.h"

enum { NPY_MAX_HEADER = 65536 };

typedef struct npy_header {
    char     descr[4]; /* "<f2", "<f4" or "<u2" */
    uint64_t rows, cols;
} npy_header;

/* Skips blanks, then the text if it comes next. */
static inline int npy_accept(const char **at, const char *text)
{
    const size_t length = strlen(text);
    while (**at == ' ') ++*at;
    if (strncmp(*at, text, length) != 0) return 0;
    *at += length;
    return 1;
}

/* A dimension, 1 .. SPINFER_MAX_DIM. */
static inline int npy_accept_dim(const char **at, uint64_t *dim)
{
    npy_accept(at, "");
    for (*dim = 0; **at >= '0' && **at <= '9' && *dim <= SPINFER_MAX_DIM; ++*at)
        *dim = 10 * *dim + (uint64_t)(**at - '0');
    return *dim >= 1 && *dim <= SPINFER_MAX_DIM;
}

/* The dictionary: exactly the three keys, each once, in any order. Returns NULL or what is wrong. */
static inline const char *npy_parse_header(const char *at, npy_header *header)
{
    int seen = 0;
    if (!npy_accept(&at, "{")) return "the header is not a dictionary";
    while (!npy_accept(&at, "}")) {
        const int key = npy_accept(&at, "'descr'")           ? 1
                        : npy_accept(&at, "'fortran_order'") ? 2
                        : npy_accept(&at, "'shape'")         ? 4
                                                             : 0;
        if (!key || (seen & key)) return "the header has an unknown or repeated entry";
        if (!npy_accept(&at, ":")) return "the header has an entry without a colon";
        seen |= key;
        if (key == 1) {
            if (!npy_accept(&at, "'<f2'") && !npy_accept(&at, "'<f4'") && !npy_accept(&at, "'<u2'"))
                return "the element type is none of <f2, <f4, <u2";
            memcpy(header->descr, at - 4, 3);
            header->descr[3] = 0;
        } else if (key == 2) {
            if (!npy_accept(&at, "False")) return "the array is not in C order: save numpy.ascontiguousarray(w)";
        } else {
            if (!npy_accept(&at, "(") || !npy_accept_dim(&at, &header->rows) || !npy_accept(&at, ",") ||
                !npy_accept_dim(&at, &header->cols) || !(npy_accept(&at, ",)") || npy_accept(&at, ")")))
                return "the shape is not two dimensions from 1 to 2147483584";
        }
        if (!npy_accept(&at, ",") && *at != '}') return "the header has no comma after an entry";
    }
    if (seen != 7) return "the header lacks descr, fortran_order or shape";
    return npy_accept(&at, "\n") && *at == 0 ? NULL : "the header does not end with a newline";
}

/* Everything up to the data: leaves the file at its first byte. Returns NULL or what is wrong. */
static inline const char *npy_read_header(FILE *file, npy_header *header)
{
    unsigned char start[12];
    size_t        prefix, length;
    long          file_bytes;
    char         *text;
    const char   *error;
    if (fseek(file, 0, SEEK_END) != 0 || (file_bytes = ftell(file)) < 0) return "its length is unknown (a pipe?)";
    rewind(file);
    if (fread(start, 1, 10, file) != 10 || memcmp(start, "\x93NUMPY", 6) != 0) return "not a .npy file";
    if (start[6] < 1 || start[6] > 3 || start[7] != 0) return "a version of .npy other than 1.0, 2.0 and 3.0";
    prefix = start[6] == 1 ? 10 : 12;
    if (fread(start + 10, 1, prefix - 10, file) != prefix - 10) return "the file is truncated";
    length = start[8] | (size_t)start[9] << 8;
    if (prefix == 12) length |= (size_t)start[10] << 16 | (size_t)start[11] << 24;
    if (length > NPY_MAX_HEADER) return "the header is longer than 65536 bytes";
    text = (char *)allocate(length + 1);
    text[length] = 0;
    if (fread(text, 1, length, file) != length)
        error = "the file is truncated";
    else if (strlen(text) != length)
        error = "the header contains a zero byte";
    else
        error = npy_parse_header(text, header);
    free(text);
    if (error) return error;
    length += prefix; /* rows * cols * 4 < 2^64 */
    if ((uint64_t)file_bytes != length + header->rows * header->cols * (header->descr[2] == '4' ? 4 : 2))
        return "the data is shorter or longer than the shape says";
    return NULL;
}

/* npy_read_file() : as npy_read(), from an open file that can seek. */
static inline const char *npy_read_file(FILE *file, spinfer_dtype dtype, uint16_t **dense, size_t *rows, size_t *cols)
{
    npy_header  header;
    const char *error = npy_read_header(file, &header);
    if (!error) {
        const size_t height = (size_t)header.rows, width = (size_t)header.cols, bytes = header.descr[2] == '4' ? 4 : 2;
        const int    is_raw = header.descr[1] == 'u' || (bytes == 2 && dtype == SPINFER_FP16);
        uint16_t    *result = (uint16_t *)allocate(height * width * 2), *out = result;
        float       *line = (float *)allocate(width * 4);
        size_t       row, col;
        for (row = 0; row < height && !error; row++) {
            if (fread(line, bytes, width, file) != width) error = "a read failed";
            for (col = 0; col < width && !error; col++) {
                const uint16_t half = ((const uint16_t *)line)[col];
                const float    value = bytes == 4 ? line[col] : spinfer_to_float(half, SPINFER_FP16);
                *out++ = is_raw ? half : spinfer_from_float(value, dtype);
            }
        }
        free(line);
        if (error)
            free(result);
        else
            *dense = result, *rows = height, *cols = width;
    }
    return error;
}

/* npy_read() : the matrix as fp16 or bf16 bits in fresh memory; free() it. <f2 and <f4 are rounded to dtype where they
 * differ from it, <u2 is taken as bits of dtype (NumPy has no bf16). Returns NULL, or an English sentence. */
static inline const char *npy_read(const char *path, spinfer_dtype dtype, uint16_t **dense, size_t *rows, size_t *cols)
{
    FILE       *file = fopen(path, "rb");
    const char *error = file ? npy_read_file(file, dtype, dense, rows, cols) : "cannot be opened";
    if (file) fclose(file);
    return error;
}

#endif /* SPINFER_EXAMPLES_NPY_H */
