/* results.h - the rows of a bench run: as CSV, and summed up for people. */
#ifndef SPINFER_BENCH_RESULTS_H
#define SPINFER_BENCH_RESULTS_H

#include <math.h>
#include <stddef.h>
#include <stdio.h>

#include "common.h"
#include "spinfer.cuh"

typedef struct shape {
    char   name[48];
    size_t M, K;
    int    count; /* how often it occurs in a block of the model; 1 outside of models */
} shape;

typedef struct result {
    shape        layer;
    int          n, zeros; /* zeros in per cent                                               */
    double       density;
    double       encoded_bytes;
    double       us, spread;   /* plain launch                                                */
    double       us_dependent; /* programmatic dependent launch                               */
    double       cublas_us;    /* the better of the next two                                  */
    double       gemmex_us, lt_us;
    double       cusparse_us;
    double       best_us; /* of the sweep over plans                                          */
    spinfer_plan plan, best_plan;
} result; /* a time that was not taken is NaN */

typedef struct results {
    result *rows;
    size_t  count, capacity;
} results;

static inline void add_result(results *all, const result *row)
{
    if (all->count == all->capacity) {
        all->capacity = 2 * all->capacity + 64;
        all->rows = (result *)realloc(all->rows, all->capacity * sizeof *row);
        CHECK(all->rows);
    }
    all->rows[all->count++] = *row;
}

/* ---- Plans as text --------------------------------------------------------------------------- */

static const struct {
    const char *name;
    size_t      offset;
} plan_fields[] = {
    {"tokens", offsetof(spinfer_plan, tokens)},       {"strips", offsetof(spinfer_plan, strips)},
    {"warps_k", offsetof(spinfer_plan, warps_k)},     {"stages", offsetof(spinfer_plan, stages)},
    {"splits", offsetof(spinfer_plan, splits)},       {"team", offsetof(spinfer_plan, team)},
    {"x_cols", offsetof(spinfer_plan, x_cols)},       {"x_pieces", offsetof(spinfer_plan, x_pieces)},
    {"dependent", offsetof(spinfer_plan, dependent)}, {"helpers", offsetof(spinfer_plan, helpers)},
    {"tail", offsetof(spinfer_plan, tail)},
};
enum { PLAN_FIELDS = sizeof plan_fields / sizeof *plan_fields, PLAN_TEXT = 200 };

static inline int *plan_field(spinfer_plan *plan, int field)
{
    return (int *)((char *)plan + plan_fields[field].offset);
}

/* "tokens=16 strips=2 ..." */
static inline const char *plan_text(spinfer_plan plan, char *text)
{
    int field, length = 0;
    for (field = 0; field < PLAN_FIELDS; field++)
        length += snprintf(text + length, (size_t)(PLAN_TEXT - length), "%s%s=%d", field ? " " : "",
                           plan_fields[field].name, *plan_field(&plan, field));
    return text;
}

/* Changes the fields that the text names, "strips=2,warps_k=8". Returns 0 if it cannot be understood. */
static inline int override_plan(spinfer_plan *plan, const char *text)
{
    while (*text) {
        int field = 0, length = 0;
        while (field < PLAN_FIELDS) {
            const size_t name = strlen(plan_fields[field].name);
            if (strncmp(text, plan_fields[field].name, name) == 0 && text[name] == '=') break;
            field++;
        }
        if (field == PLAN_FIELDS) return 0;
        text += strlen(plan_fields[field].name) + 1;
        if (sscanf(text, "%d%n", plan_field(plan, field), &length) != 1) return 0;
        text += length;
        if (*text == ',' || *text == ' ')
            text++;
        else if (*text)
            return 0;
    }
    return 1;
}

/* ---- CSV ------------------------------------------------------------------------------------- */

/* The weight as 16-bit numbers, and X with Y. */
static inline double dense_bytes(const shape *s) { return 2.0 * (double)s->M * (double)s->K; }
static inline double token_bytes(const shape *s, int n) { return 2.0 * (double)n * (double)(s->M + s->K); }

/* Time in which a perfect kernel reads the encoded weight and X and writes Y. */
static inline double roofline_us(const result *r, double bandwidth)
{
    return (r->encoded_bytes + token_bytes(&r->layer, r->n)) / (1e3 * bandwidth);
}

static inline void write_csv_header(FILE *csv)
{
    fprintf(csv, "name,M,K,n,dtype,mask,zeros,density_measured,encoded_bytes,bits_per_weight,us,us_dependent,spread,"
                 "cublas_us,cublas_gemmex_us,cublas_lt_us,cusparse_us,speedup,speedup_dependent,roofline_us,"
                 "roofline_share,roofline_share_dependent,cublas_share,plan,best_plan_us,best_plan\n");
}

/* One field; what was not measured stays empty. */
static inline void write_number(FILE *csv, const char *format, double value)
{
    if (!isnan(value)) fprintf(csv, format, value);
    fputc(',', csv);
}

static inline void write_csv_row(FILE *csv, const result *r, const char *dtype, const char *mask, double bandwidth)
{
    const shape *s = &r->layer;
    const double roofline = roofline_us(r, bandwidth);
    char         text[PLAN_TEXT];
    fprintf(csv, "%s,%zu,%zu,%d,%s,%s,%d,%.6f,%.0f,%.4f,", s->name, s->M, s->K, r->n, dtype, mask, r->zeros, r->density,
            r->encoded_bytes, 8 * r->encoded_bytes / ((double)s->M * (double)s->K));
    write_number(csv, "%.3f", r->us);
    write_number(csv, "%.3f", r->us_dependent);
    write_number(csv, "%.4f", r->spread);
    write_number(csv, "%.3f", r->cublas_us);
    write_number(csv, "%.3f", r->gemmex_us);
    write_number(csv, "%.3f", r->lt_us);
    write_number(csv, "%.3f", r->cusparse_us);
    write_number(csv, "%.4f", r->cublas_us / r->us);
    write_number(csv, "%.4f", r->cublas_us / r->us_dependent);
    write_number(csv, "%.3f", roofline);
    write_number(csv, "%.4f", roofline / r->us);
    write_number(csv, "%.4f", roofline / r->us_dependent);
    write_number(csv, "%.4f", (dense_bytes(s) + token_bytes(s, r->n)) / (1e3 * bandwidth) / r->cublas_us);
    fprintf(csv, "%s,", plan_text(r->plan, text));
    write_number(csv, "%.3f", r->best_us);
    fprintf(csv, "%s\n", isnan(r->best_us) ? "" : plan_text(r->best_plan, text));
    fflush(csv);
}

/* ---- Summaries ------------------------------------------------------------------------------- */

static inline double speedup(const result *r) { return r->cublas_us / r->us; }

/* Geometric mean and worst row of a ratio. */
typedef struct mean {
    double log_sum, worst;
    int    count;
} mean;

static inline void add_to_mean(mean *m, double ratio)
{
    if (isnan(ratio)) return;
    if (m->count == 0 || ratio < m->worst) m->worst = ratio;
    m->log_sum += log(ratio);
    m->count++;
}

static inline void print_mean(const mean *m)
{
    if (m->count)
        printf("  %6.2f [%5.2f]", exp(m->log_sum / m->count), m->worst);
    else
        printf("  %14s", "-");
}

/* Geometric mean [worst row] of the speed-up over the best cuBLAS, for every n and sparsity that occurs. */
static inline void print_speedups(const results *all, const char *title)
{
    size_t i, j;
    printf("\n%s over the best cuBLAS: geometric mean [worst row]\n", title);
    printf("%5s %6s %7s  %14s  %14s  %14s  %14s\n", "n", "zeros", "layers", "all", "dependent", "> 100 MB dense",
           "dependent");
    for (i = 0; i < all->count; i++) {
        const result *first = &all->rows[i];
        mean          plain = {0, 0, 0}, dependent = {0, 0, 0}, large = {0, 0, 0}, large_dependent = {0, 0, 0};
        for (j = 0; j < i; j++)
            if (all->rows[j].n == first->n && all->rows[j].zeros == first->zeros) break;
        if (j < i) continue; /* this pair stands above already */
        for (j = i; j < all->count; j++) {
            const result *r = &all->rows[j];
            if (r->n != first->n || r->zeros != first->zeros) continue;
            add_to_mean(&plain, speedup(r));
            add_to_mean(&dependent, r->cublas_us / r->us_dependent);
            if (dense_bytes(&r->layer) <= 100e6) continue;
            add_to_mean(&large, speedup(r));
            add_to_mean(&large_dependent, r->cublas_us / r->us_dependent);
        }
        printf("%5d %5d%% %7d", first->n, first->zeros, plain.count);
        print_mean(&plain);
        print_mean(&dependent);
        print_mean(&large);
        print_mean(&large_dependent);
        printf("\n");
    }
}

static inline int compare_speedups(const void *a, const void *b)
{
    const double x = speedup(*(const result *const *)a), y = speedup(*(const result *const *)b);
    return (x > y) - (x < y);
}

static inline void print_worst(const results *all, double bandwidth)
{
    const result **sorted = (const result **)allocate(all->count * sizeof *sorted);
    size_t         i;
    for (i = 0; i < all->count; i++) sorted[i] = &all->rows[i];
    qsort(sorted, all->count, sizeof *sorted, compare_speedups);
    printf("\nworst rows\n");
    for (i = 0; i < all->count && i < 5; i++) {
        const result *r = sorted[i];
        printf("  %-22s %6zu x %-6zu n=%-3d %d%%  %8.2f us, cuBLAS %8.2f us, %.2fx, %.0f%% of the roofline\n",
               r->layer.name, r->layer.M, r->layer.K, r->n, r->zeros, r->us, r->cublas_us, speedup(r),
               100 * roofline_us(r, bandwidth) / r->us);
    }
    free(sorted);
}

/* How far the plans of spinfer_spmm_plan() are from the best ones that the sweep found. */
static inline void print_sweep(const results *all)
{
    size_t i, worst = 0;
    mean   m = {0, 0, 0};
    int    below = 0;
    for (i = 0; i < all->count; i++) {
        const double ratio = all->rows[i].best_us / all->rows[i].us;
        if (!isnan(ratio) && (m.count == 0 || ratio < m.worst)) worst = i;
        if (ratio < 0.95) below++;
        add_to_mean(&m, ratio);
    }
    if (m.count)
        printf("\nplans: %.1f%% of the speed of the best plan found (geometric mean), worst %.1f%% (%s, n=%d, %d%%), "
               "%d of %d rows below 95%%\n",
               100 * exp(m.log_sum / m.count), 100 * m.worst, all->rows[worst].layer.name, all->rows[worst].n,
               all->rows[worst].zeros, below, m.count);
}

#endif /* SPINFER_BENCH_RESULTS_H */
