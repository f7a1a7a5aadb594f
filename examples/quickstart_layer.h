/* quickstart_layer.h - the options and the layer of 00_quickstart: a weight from a .npy file, or a made-up, pruned one.
 * C99, CUDA C and C++. */
#ifndef SPINFER_EXAMPLES_QUICKSTART_LAYER_H
#define SPINFER_EXAMPLES_QUICKSTART_LAYER_H

#include "common.h"
#include "npy.h"

typedef struct layer_options {
    const char   *npy;        /* NULL: the layer is made up     */
    size_t        rows, cols; /* of W; until then 0: not given  */
    size_t        n;          /* tokens                         */
    double        zeros;      /* share to prune; < 0: not given */
    spinfer_dtype dtype;
} layer_options;

/* The number after an option, or exit. */
static inline double parse_number(const char *option, const char *text, double least, double most)
{
    char        *end = NULL;
    const double value = text ? strtod(text, &end) : 0;
    if (!text || end == text || *end || !(value >= least && value <= most)) {
        fprintf(stderr, "%s wants a number from %.0f to %.0f\n", option, least, most);
        exit(1);
    }
    return value;
}

static inline layer_options parse_options(int argc, char **argv)
{
    layer_options o = {NULL, 0, 0, 16, -1, SPINFER_FP16};
    int           i, understood = 1;
    for (i = 1; i < argc; i++) {
        const char *option = argv[i], *value = argv[i + 1]; /* argv ends with NULL */
        if (strcmp(option, "--bf16") == 0)
            o.dtype = SPINFER_BF16;
        else if (strcmp(option, "--n") == 0)
            o.n = (size_t)parse_number(option, value, 1, 65536), i++;
        else if (strcmp(option, "--rows") == 0)
            o.rows = (size_t)parse_number(option, value, 1, 1 << 20), i++;
        else if (strcmp(option, "--cols") == 0)
            o.cols = (size_t)parse_number(option, value, 1, 1 << 20), i++;
        else if (strcmp(option, "--zeros") == 0)
            o.zeros = parse_number(option, value, 0, 100) / 100, i++;
        else if (option[0] != '-' && !o.npy)
            o.npy = option;
        else
            understood = 0;
    }
    if (!understood || (o.npy && (o.rows || o.cols))) { /* a file has its own sizes */
        fputs("usage: 00_quickstart [layer.npy | --rows M --cols K] [--zeros PERCENT] [--n TOKENS] [--bf16]\n", stderr);
        exit(1);
    }
    return o;
}

/* The dense W [rows, cols], which sets o->rows and o->cols, or exit. Free with free(). A file stays as it is unless
 * --zeros asks for pruning, which then goes by magnitude; the made-up layer is pruned as Wanda would.
 * side: rows and columns of the made-up layer, where they are not given. */
static inline uint16_t *create_layer(layer_options *o, size_t side)
{
    uint16_t *dense = NULL;
    size_t    i;
    if (o->npy) {
        const char *error = npy_read(o->npy, o->dtype, &dense, &o->rows, &o->cols);
        if (error) {
            fprintf(stderr, "%s: %s\n", o->npy, error);
            exit(1);
        }
        for (i = 0; i < o->rows * o->cols; i++)
            if (!isfinite(spinfer_to_float(dense[i], o->dtype))) {
                fprintf(stderr, "%s: a weight is not finite, or too large for fp16 (then try --bf16)\n", o->npy);
                exit(1);
            }
        if (o->zeros >= 0) prune_by_magnitude(dense, o->rows, o->cols, o->zeros);
    } else {
        if (!o->rows) o->rows = side;
        if (!o->cols) o->cols = side;
        dense = (uint16_t *)allocate(o->rows * o->cols * sizeof *dense);
        fill_normal(dense, o->rows * o->cols, 0.02, o->dtype, 1);
        prune_wanda_like(dense, o->rows, o->cols, o->zeros >= 0 ? o->zeros : 0.5, o->dtype, 2);
    }
    return dense;
}

#endif /* SPINFER_EXAMPLES_QUICKSTART_LAYER_H */
