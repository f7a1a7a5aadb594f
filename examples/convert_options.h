/* convert_options.h - the command line of convert. C99 with POSIX. */
#ifndef SPINFER_EXAMPLES_CONVERT_OPTIONS_H
#define SPINFER_EXAMPLES_CONVERT_OPTIONS_H

#include <fnmatch.h>

#include "common.h"

enum { MAX_PATTERNS = 64 };

typedef enum target { TO_TCA_BME, TO_DENSE, TO_BITMASK } target;
typedef enum pruning { PRUNE_NOTHING, PRUNE_TENSOR, PRUNE_ROWS } pruning;

typedef struct patterns {
    const char *text[MAX_PATTERNS];
    int         count;
} patterns;

typedef struct options {
    const char   *input, *output; /* output: NULL if nothing is written               */
    target        to;
    pruning       prune;
    double        sparsity;  /* share of zeros that --prune makes                      */
    double        threshold; /* share of zeros below which a tensor stays as it is     */
    double        bandwidth; /* GB/s of --predict, 0: not asked for                    */
    spinfer_dtype dtype;     /* what fp32 weights become                               */
    patterns      include, exclude;
    int           list, verify, quiet;
} options;

/* Tables that are looked up, not multiplied; and with them the output head, which pruning hurts most. */
static const patterns embeddings = {{"*embed*", "*wte*", "*wpe*"}, 3};
static const patterns default_exclude = {{"*embed*", "*wte*", "*wpe*", "*lm_head*"}, 4};

static const char *const help =
    "convert: a pruned checkpoint to TCA-BME, the format that spinfer multiplies, and back\n"
    "\n"
    "  convert [options] INPUT OUTPUT      convert all weights, copy everything else\n"
    "  convert --list INPUT                only look\n"
    "\n"
    "INPUT is a .safetensors file (dense, sparse-bitmask, sparse-24-bitmask or TCA-BME), a "
    "model.safetensors.index.json\n"
    "or the folder that holds it, or a 2-D .npy file. OUTPUT is one .safetensors file, or .npy for a single dense\n"
    "matrix. It is written beside its final place and renamed when it is complete: either all of it is there or what\n"
    "was there before.\n"
    "\n"
    "what becomes of a weight\n"
    "  --to FORMAT        tca-bme, dense or bitmask (compressed-tensors)          (tca-bme)\n"
    "  --decode           the same as --to dense\n"
    "  --dtype TYPE       fp16 or bf16: what fp32 weights are rounded to, and\n"
    "                     what <u2 means in a .npy file                           (fp16)\n"
    "\n"
    "which weights\n"
    "  --include PATTERN  only tensors whose name matches; may be repeated\n"
    "  --exclude PATTERN  not those; may be repeated. Without --include this holds as well:\n"
    "                     '*embed*' '*wte*' '*wpe*' '*lm_head*'\n"
    "  --threshold SHARE  dense weights with a smaller share of zeros stay dense  (0.1)\n"
    "  Only 2-D tensors of fp16, bf16 and fp32 are weights; all others are copied byte by byte.\n"
    "\n"
    "pruning, for a checkpoint that is not pruned yet\n"
    "  --prune magnitude  the smallest weights of each tensor become zero\n"
    "  --prune rows       the smallest weights of each row: the same number in every row\n"
    "  --sparsity SHARE   of zeros afterwards, exact to one weight                (0.5)\n"
    "\n"
    "what to show\n"
    "  --list             a table: tensor, shape, type, zeros, encoded size; writes nothing\n"
    "  --predict GB/s     bytes for each token and the best possible speed-up at this memory bandwidth; writes "
    "nothing\n"
    "  --verify           read the output again and compare with the input bit for bit before it gets its name\n"
    "  --quiet            no progress, no summary\n"
    "  --help             this text\n"
    "\n"
    "Exit status: 0 done; 1 an error, which is printed, and no output was left; 2 wrong usage.\n"
    "Example: convert --prune rows --sparsity 0.5 --verify model.safetensors model.tca.safetensors\n";

static inline void usage_error(const char *what, const char *argument)
{
    fprintf(stderr, "convert: %s: '%s' (convert --help)\n", what, argument);
    exit(2);
}

/* Is this tensor one to convert, by its name? */
static inline int matches(const patterns *p, const char *name)
{
    int i;
    for (i = 0; i < p->count; i++)
        if (fnmatch(p->text[i], name, 0) == 0) return 1;
    return 0;
}

/* What is encoded already was wanted before, so the default does not hold for it. */
static inline int is_wanted(const options *o, const char *name, int is_encoded)
{
    if (matches(&o->exclude, name)) return 0;
    if (o->include.count) return matches(&o->include, name);
    return is_encoded || !matches(&default_exclude, name);
}

static inline double parse_number(const char *option, const char *text, double least, double most)
{
    char        *end;
    const double value = strtod(text, &end);
    if (end == text || *end || !(value >= least && value <= most)) {
        fprintf(stderr, "convert: %s wants a number from %g to %g, not '%s' (convert --help)\n", option, least, most,
                text);
        exit(2);
    }
    return value;
}

/* The number of the word in a NULL-terminated list. */
static inline int parse_word(const char *option, const char *text, const char *const *words)
{
    int i;
    for (i = 0; words[i]; i++)
        if (strcmp(text, words[i]) == 0) return i;
    usage_error(option, text);
    return 0;
}

static inline void add_pattern(patterns *p, const char *text)
{
    if (p->count == MAX_PATTERNS) usage_error("too many patterns", text);
    p->text[p->count++] = text;
}

/* An option without a value. Returns 0 if it is none. */
static inline int parse_flag(options *o, const char *option)
{
    if (strcmp(option, "--help") == 0) {
        fputs(help, stdout);
        exit(0);
    }
    if (strcmp(option, "--decode") == 0)
        o->to = TO_DENSE;
    else if (strcmp(option, "--list") == 0)
        o->list = 1;
    else if (strcmp(option, "--verify") == 0)
        o->verify = 1;
    else if (strcmp(option, "--quiet") == 0)
        o->quiet = 1;
    else
        return 0;
    return 1;
}

/* An option with a value. */
static inline void parse_value(options *o, const char *option, const char *value)
{
    static const char *const targets[] = {"tca-bme", "dense", "bitmask", NULL};
    static const char *const dtypes[] = {"fp16", "bf16", NULL}, *const prunings[] = {"magnitude", "rows", NULL};
    if (strcmp(option, "--to") == 0)
        o->to = (target)parse_word(option, value, targets);
    else if (strcmp(option, "--dtype") == 0)
        o->dtype = parse_word(option, value, dtypes) ? SPINFER_BF16 : SPINFER_FP16;
    else if (strcmp(option, "--prune") == 0)
        o->prune = parse_word(option, value, prunings) ? PRUNE_ROWS : PRUNE_TENSOR;
    else if (strcmp(option, "--sparsity") == 0)
        o->sparsity = parse_number(option, value, 0, 1);
    else if (strcmp(option, "--threshold") == 0)
        o->threshold = parse_number(option, value, 0, 1);
    else if (strcmp(option, "--predict") == 0)
        o->bandwidth = parse_number(option, value, 1e-3, 1e6);
    else if (strcmp(option, "--include") == 0)
        add_pattern(&o->include, value);
    else
        add_pattern(&o->exclude, value);
}

static inline int takes_value(const char *option)
{
    static const char *const names[] = {"--to",        "--dtype",   "--prune",   "--sparsity",
                                        "--threshold", "--predict", "--include", "--exclude"};
    size_t                   i;
    for (i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(option, names[i]) == 0) return 1;
    return 0;
}

static inline options parse_options(int argc, char **argv)
{
    options o;
    int     i, sparsity_given = 0;
    memset(&o, 0, sizeof o);
    o.sparsity = 0.5;
    o.threshold = 0.1;
    o.dtype = SPINFER_FP16;
    for (i = 1; i < argc; i++) {
        const char *argument = argv[i];
        if (takes_value(argument)) {
            if (++i == argc) usage_error("the value is missing", argument);
            parse_value(&o, argument, argv[i]);
            if (strcmp(argument, "--sparsity") == 0) sparsity_given = 1;
        } else if (argument[0] == '-' && argument[1]) {
            if (!parse_flag(&o, argument)) usage_error("unknown option", argument);
        } else if (!o.input) {
            o.input = argument;
        } else if (!o.output) {
            o.output = argument;
        } else {
            usage_error("more than an input and an output", argument);
        }
    }
    if (!o.input) usage_error("the input is missing", argc ? argv[0] : "convert");
    if (sparsity_given && !o.prune) usage_error("this needs --prune", "--sparsity");
    if (o.list || o.bandwidth > 0) {
        if (o.output) usage_error("--list and --predict write nothing; no output is wanted", o.output);
        if (o.list && o.bandwidth > 0) usage_error("not both at once", "--list and --predict");
        if (o.verify) usage_error("nothing is written that it could compare", "--verify");
    } else if (!o.output) {
        usage_error("the output is missing", o.input);
    }
    return o;
}

#endif /* SPINFER_EXAMPLES_CONVERT_OPTIONS_H */
