/* options.h - the command line of bench_spmm and the models that it knows. */
#ifndef SPINFER_BENCH_OPTIONS_H
#define SPINFER_BENCH_OPTIONS_H

#include "common.h"
#include "results.h"

enum { MAX_SHAPES = 256, MAX_LIST = 16, MAX_TOKENS = 4096 };

typedef enum cusparse_rows { CUSPARSE_NONE, CUSPARSE_FIRST, CUSPARSE_ALL } cusparse_rows;

typedef struct options {
    shape         shapes[MAX_SHAPES];
    int           shape_count;
    int           n[MAX_LIST], n_count;
    int           zeros[MAX_LIST], zeros_count;
    const char   *only, *csv, *tag, *plan, *model;
    spinfer_dtype dtype;
    int           wanda, hot, sweep, predict, repeats;
    cusparse_rows cusparse;
    double        budget, warm_up;         /* seconds; 0: no limit, one replay                               */
    double        bandwidth;               /* GB/s; 0: measured, or with --predict what the library says     */
    int           sms, clock_mhz, compute; /* of --predict; 0: this GPU                                      */
} options;

static const char *const help =
    "bench_spmm [options]: time spinfer_spmm() against the best cuBLAS\n"
    "\n"
    "what to run\n"
    "  --shapes FILE     layers as name,M,K lines                      (bench/shapes.csv)\n"
    "  --only TEXT       only layers whose name contains TEXT; several: A,B\n"
    "  --shape MxK       this layer instead of a file; may be repeated\n"
    "  --model NAME      all linear layers of a model, summed: llama3_8b, llama3_70b, opt_13b, opt_30b, opt_66b\n"
    "  --n LIST          tokens                                        (1,2,4,8,16,32,64)\n"
    "  --zeros LIST      per cent of zeros                             (30,40,50,60,70)\n"
    "  --dtype NAME      fp16 or bf16                                  (fp16)\n"
    "  --mask NAME       iid or wanda                                  (iid)\n"
    "  --cusparse WHICH  CSR by cuSPARSE: none, first (the first n of each layer and sparsity), all   (first)\n"
    "\n"
    "how\n"
    "  --hot             one copy of the weights, which may stay in L2, instead of copies beyond 3x L2\n"
    "  --repeats COUNT   replays of each graph, the median counts      (7)\n"
    "  --warm-up SECONDS replays before each timing: with 0.5 a chip has come to the clock that it can hold\n"
    "                                                                  (0.01 for the first of a row, then one replay)\n"
    "  --plan FIELDS     change the plan, e.g. strips=2,warps_k=8\n"
    "  --sweep           search for better plans than the chosen one\n"
    "  --budget SECONDS  stop after the row during which this time has passed\n"
    "\n"
    "output\n"
    "  --csv FILE        one line for each row, flushed as they come\n"
    "  --tag TEXT        goes into the CSV, for instance the git hash\n"
    "\n"
    "does it pay?\n"
    "  --predict         nothing is run, spinfer_spmm_estimate() answers\n"
    "  --sms COUNT --clock MHZ --compute CAPABILITY   for a GPU that is not here, 80 for an A100\n"
    "                                                                  (this one; without any, an H200)\n"
    "  --bandwidth GB/s  that a kernel can read; without --predict: instead of measuring it\n";

typedef struct model {
    const char *name;
    int         blocks;
    shape       shapes[6];
} model;

/* The linear layers of one transformer block; `count` is how often. */
static const model models[] = {
    {"llama3_8b", 32,
     {{"qo", 4096, 4096, 2}, {"kv", 1024, 4096, 2}, {"gate_up", 14336, 4096, 2}, {"down", 4096, 14336, 1}}},
    {"llama3_70b", 80,
     {{"qo", 8192, 8192, 2}, {"kv", 1024, 8192, 2}, {"gate_up", 28672, 8192, 2}, {"down", 8192, 28672, 1}}},
    {"opt_13b", 40, {{"qkvo", 5120, 5120, 4}, {"fc1", 20480, 5120, 1}, {"fc2", 5120, 20480, 1}}},
    {"opt_30b", 48, {{"qkvo", 7168, 7168, 4}, {"fc1", 28672, 7168, 1}, {"fc2", 7168, 28672, 1}}},
    {"opt_66b", 64, {{"qkvo", 9216, 9216, 4}, {"fc1", 36864, 9216, 1}, {"fc2", 9216, 36864, 1}}},
};

static inline const char *dtype_name(const options *o) { return o->dtype == SPINFER_BF16 ? "bf16" : "fp16"; }
static inline const char *mask_name(const options *o) { return o->wanda ? "wanda" : "iid"; }

static inline void usage_error(const char *what, const char *argument)
{
    fprintf(stderr, "bench_spmm: %s '%s' (--help lists the options)\n", what, argument);
    exit(1);
}

static inline int parse_int(const char *text, int low, int high)
{
    char      *end;
    const long value = strtol(text, &end, 10);
    if (end == text || *end || value < low || value > high) usage_error("number expected, or out of range:", text);
    return (int)value;
}

static inline double parse_double(const char *text)
{
    char        *end;
    const double value = strtod(text, &end);
    if (end == text || *end || !(value > 0)) usage_error("positive number expected:", text);
    return value;
}

/* "1,2,4" into rising numbers; returns how many. */
static inline int parse_list(const char *text, int *list, int low, int high)
{
    int count = 0;
    while (*text) {
        char      *end;
        const long value = strtol(text, &end, 10);
        int        at = count;
        if (end == text || (*end && *end != ',') || value < low || value > high || count == MAX_LIST)
            usage_error("list of numbers expected, or out of range:", text);
        for (; at > 0 && list[at - 1] > value; at--) list[at] = list[at - 1];
        list[at] = (int)value;
        count++;
        text = *end ? end + 1 : end;
    }
    return count;
}

static inline void add_shape(options *o, const char *name, size_t M, size_t K, int count)
{
    shape *s = &o->shapes[o->shape_count];
    CHECK(o->shape_count < MAX_SHAPES);
    snprintf(s->name, sizeof s->name, "%s", name);
    s->M = M;
    s->K = K;
    s->count = count;
    o->shape_count++;
}

static inline void read_shapes(options *o, const char *path)
{
    FILE  *file = fopen(path, "r");
    char   line[256], name[48];
    size_t M, K;
    if (!file) usage_error("cannot read the shapes (--shapes FILE):", path);
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "%47[^,],%zu,%zu", name, &M, &K) == 3) add_shape(o, name, M, K, 1); /* skips the heading */
    fclose(file);
}

static inline const model *find_model(const char *name)
{
    size_t i;
    for (i = 0; i < sizeof models / sizeof *models; i++)
        if (strcmp(models[i].name, name) == 0) return &models[i];
    usage_error("unknown model", name);
    return NULL;
}

static inline void add_model(options *o, const model *m)
{
    const shape *s;
    for (s = m->shapes; s->count; s++) {
        char name[48];
        snprintf(name, sizeof name, "%.20s.%.20s", m->name, s->name);
        add_shape(o, name, s->M, s->K, s->count);
    }
}

/* Is one of the comma-separated parts of `only` contained in the name? */
static inline int is_wanted(const char *name, const char *only)
{
    char        part[64];
    const char *end;
    if (!only) return 1;
    for (; *only; only = *end ? end + 1 : end) {
        end = only + strcspn(only, ",");
        snprintf(part, sizeof part, "%.*s", (int)(end - only), only);
        if (strstr(name, part)) return 1;
    }
    return 0;
}

static inline int keyword(const char *text, const char *const *words)
{
    int i;
    for (i = 0; words[i]; i++)
        if (strcmp(text, words[i]) == 0) return i;
    usage_error("unknown value", text);
    return 0;
}

static inline options parse_options(int argc, char **argv)
{
    static const char *const dtypes[] = {"fp16", "bf16", NULL}, *const masks[] = {"iid", "wanda", NULL};
    static const char *const which[] = {"none", "first", "all", NULL};
    const char              *shapes = "bench/shapes.csv";
    options                  o;
    int                      i, kept = 0;
    memset(&o, 0, sizeof o);
    o.n_count = parse_list("1,2,4,8,16,32,64", o.n, 1, MAX_TOKENS);
    o.zeros_count = parse_list("30,40,50,60,70", o.zeros, 0, 100);
    o.dtype = SPINFER_FP16;
    o.cusparse = CUSPARSE_FIRST;
    o.repeats = 7;
    for (i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        size_t      M, K;
        int         length = 0;
        if (strcmp(name, "--help") == 0) {
            fputs(help, stdout);
            exit(0);
        } else if (strcmp(name, "--hot") == 0) {
            o.hot = 1;
            continue;
        } else if (strcmp(name, "--sweep") == 0) {
            o.sweep = 1;
            continue;
        } else if (strcmp(name, "--predict") == 0) {
            o.predict = 1;
            continue;
        }
        if (!value) usage_error("unknown option, or its value is missing:", name);
        i++;
        if (strcmp(name, "--shapes") == 0) shapes = value;
        else if (strcmp(name, "--only") == 0) o.only = value;
        else if (strcmp(name, "--model") == 0) o.model = value;
        else if (strcmp(name, "--csv") == 0) o.csv = value;
        else if (strcmp(name, "--tag") == 0) o.tag = value;
        else if (strcmp(name, "--plan") == 0) o.plan = value;
        else if (strcmp(name, "--n") == 0) o.n_count = parse_list(value, o.n, 1, MAX_TOKENS);
        else if (strcmp(name, "--zeros") == 0) o.zeros_count = parse_list(value, o.zeros, 0, 100);
        else if (strcmp(name, "--dtype") == 0) o.dtype = keyword(value, dtypes) ? SPINFER_BF16 : SPINFER_FP16;
        else if (strcmp(name, "--mask") == 0) o.wanda = keyword(value, masks);
        else if (strcmp(name, "--cusparse") == 0) o.cusparse = (cusparse_rows)keyword(value, which);
        else if (strcmp(name, "--repeats") == 0) o.repeats = parse_int(value, 1, 1000);
        else if (strcmp(name, "--budget") == 0) o.budget = parse_double(value);
        else if (strcmp(name, "--warm-up") == 0) o.warm_up = parse_double(value);
        else if (strcmp(name, "--bandwidth") == 0) o.bandwidth = parse_double(value);
        else if (strcmp(name, "--sms") == 0) o.sms = parse_int(value, 1, 10000);
        else if (strcmp(name, "--clock") == 0) o.clock_mhz = parse_int(value, 1, 10000);
        else if (strcmp(name, "--compute") == 0) o.compute = parse_int(value, 80, 999);
        else if (strcmp(name, "--shape") == 0 && sscanf(value, "%zux%zu%n", &M, &K, &length) == 2 && !value[length])
            add_shape(&o, value, M, K, 1);
        else usage_error("unknown option, or a value that it does not take:", name);
    }
    if (o.predict && (o.csv || o.sweep)) usage_error("no --csv, no --sweep: nothing is measured with", "--predict");
    if (o.model) add_model(&o, find_model(o.model));
    if (o.shape_count == 0) read_shapes(&o, shapes);
    for (i = 0; i < o.shape_count; i++)
        if (is_wanted(o.shapes[i].name, o.only)) o.shapes[kept++] = o.shapes[i];
    o.shape_count = kept;
    if (o.shape_count == 0 || o.n_count == 0 || o.zeros_count == 0) usage_error("nothing to do:", o.only ? o.only : "");
    return o;
}

#endif /* SPINFER_BENCH_OPTIONS_H */
