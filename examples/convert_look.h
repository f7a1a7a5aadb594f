/* convert_look.h - convert --list and --predict: as if the model were converted, but nothing is written. */
#ifndef SPINFER_EXAMPLES_CONVERT_LOOK_H
#define SPINFER_EXAMPLES_CONVERT_LOOK_H

#include "convert_weight.h"

/* What one token costs: it reads every weight once, but only one row of a table of embeddings. */
typedef struct traffic {
    double dense, encoded; /* bytes */
} traffic;

static inline int is_embedding(const item *it) { return it->kind == ITEM_OTHER && matches(&embeddings, it->name); }

static inline traffic token_traffic(const item *it, const outcome *r)
{
    traffic t;
    t.dense = is_weight(it) ? 2.0 * it->rows * it->cols : (double)it->bytes;
    if (is_embedding(it) && it->tensor->rank == 2 && it->tensor->shape[0]) t.dense /= (double)it->tensor->shape[0];
    t.encoded = r->is_encoded ? encoded_bytes(r) : t.dense;
    return t;
}

static inline void print_prediction(const char *name, traffic t, double bandwidth)
{
    char         text[SAFETENSORS_MAX_NAME + 8];
    const double per_us = 1e3 * bandwidth; /* bytes */
    printable(name, text, sizeof text);
    printf("%-56s %12.0f %12.0f %9.1f %9.1f %6.2f\n", text, t.dense, t.encoded, t.dense / per_us, t.encoded / per_us,
           t.encoded > 0 ? t.dense / t.encoded : 1);
}

static inline void print_item(const item *it, const outcome *r)
{
    static const char *const kinds[] = {"", "", "npy ", "tca-bme ", "bitmask ", "bitmask "};
    char                     shape[128] = "", type[48], name[SAFETENSORS_MAX_NAME + 8];
    uint32_t                 i;
    int                      used = 0;
    if (it->tensor) {
        for (i = 0; i < it->tensor->rank; i++)
            used += snprintf(shape + used, sizeof shape - (size_t)used, "%s%llu", i ? " x " : "",
                             (unsigned long long)it->tensor->shape[i]);
        snprintf(type, sizeof type, "%s", safetensors_dtype_name(it->tensor->dtype));
    } else {
        if (it->kind == ITEM_VECTOR)
            snprintf(shape, sizeof shape, "%u", it->cols);
        else
            snprintf(shape, sizeof shape, "%u x %u", it->rows, it->cols);
        snprintf(type, sizeof type, "%s%s", kinds[it->kind], safetensors_dtype_name(file_dtype(it)));
    }
    printable(it->name, name, sizeof name);
    printf("%-56s %15s %-13s", name, shape, type);
    if (is_weight(it))
        printf(" %6.2f %13.0f %6.2f%s", 100 * zeros_share(it, r), encoded_bytes(r),
               2.0 * it->rows * it->cols / encoded_bytes(r), r->is_encoded ? "" : "  stays dense");
    puts("");
}

/* --list and --predict: as if it were converted, but nothing is written. */
static inline int look(converter *cv)
{
    const int list = cv->o->list;
    traffic   sum = {0, 0};
    size_t    i;
    int       ok = 1;
    if (list)
        printf("%-56s %15s %-13s %6s %13s %6s\n", "tensor", "shape", "type", "zeros%", "encoded bytes", "ratio");
    else
        printf("%-56s %12s %12s %9s %9s %6s\n", "bytes for each token, and us at this bandwidth", "dense", "encoded",
               "dense us", "enc. us", "gain");
    cv->begin = seconds();
    for (i = 0; ok && i < cv->in.count; i++) {
        const item *it = &cv->in.items[i];
        outcome    *r = &cv->outcomes[i];
        uint16_t   *dense;
        traffic     t;
        source      s;
        start_item(cv, i);
        if (is_weight(it)) {
            ok = open_source(&s, &cv->in, it, &cv->error) && measure(cv, &s, r, &dense);
            close_source(&s);
        }
        cv->bytes_done += it->bytes;
        end_progress(cv);
        if (!ok) break;
        t = token_traffic(it, r);
        sum.dense += t.dense;
        sum.encoded += t.encoded;
        if (list)
            print_item(it, r);
        else if (r->is_encoded)
            print_prediction(it->name, t, cv->o->bandwidth);
    }
    if (!ok || list) return ok;
    print_prediction("all tensors", sum, cv->o->bandwidth);
    puts("The gain is what bandwidth allows at best, one token at a time, against the same weights in 16 bits. Tables "
         "of");
    puts("embeddings count as one row; if the output head shares such a table, add all of it to both sides.");
    return 1;
}

#endif /* SPINFER_EXAMPLES_CONVERT_LOOK_H */
