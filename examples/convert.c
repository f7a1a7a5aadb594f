/* convert.c - a pruned checkpoint to TCA-BME and back: convert --help. Also a worked example of the host API.
 *
 * One weight at a time: read it as 16-bit values, prune it if asked to, count (spinfer_encode_sizes), encode and write
 * it strip by strip. All of these steps run on all cores. What takes memory is the dense weight and a little; less than
 * twice the largest tensor in any case.
 *
 * convert_options.h, the command line; convert_model.h, what is in a checkpoint; convert_weight.h, the steps for one
 * weight; convert_guard.h, no partial files; convert_verify.h; convert_look.h, --list and --predict. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif

#include "convert_look.h"
#include "convert_verify.h"
#include "convert_weight.h"

/* ---- Write ----------------------------------------------------------------------------------- */

/* Tensors of wide elements come first, so that every tensor is aligned; the records of TCA-BME before all. */
enum { PASS_ENCODE, PASS_8_BYTES, PASS_4_BYTES, PASS_2_BYTES, PASS_1_BYTE, PASSES };

enum { STRIP = 1 << 18 }; /* weights that a thread encodes at a time: they stay in its cache */

static int pass_of_width(uint32_t bits)
{
    return bits == 64 ? PASS_8_BYTES : bits == 32 ? PASS_4_BYTES : bits == 16 ? PASS_2_BYTES : PASS_1_BYTE;
}

/* compressed-tensors names weights only: "x.weight" is stored as "x.bitmask" and so on. */
static int can_be_bitmask(const item *it) { return ends_in(it->name, ".weight"); }

static char *bitmask_base(const item *it) { return copy_text(it->name, strlen(it->name) - strlen(".weight")); }

static int is_to_encode(const converter *cv, const item *it)
{
    return is_weight(it) && (cv->o->to == TO_TCA_BME || (cv->o->to == TO_BITMASK && can_be_bitmask(it)));
}

static uint64_t header_bytes(const converter *cv)
{
    uint64_t bytes = safetensors_metadata_bytes(TCA_BME_METADATA_KEY, TCA_BME_METADATA_VALUE);
    size_t   i;
    for (i = 0; i < cv->in.model.file_count; i++) {
        const char *key;
        json_t     *value, *metadata = safetensors_metadata(&cv->in.model, i);
        json_object_foreach(metadata, key, value) bytes += safetensors_metadata_bytes(key, json_string_value(value));
    }
    for (i = 0; i < cv->in.count; i++) {
        const item *it = &cv->in.items[i];
        bytes += safetensors_entry_bytes(it->name);
        if (is_to_encode(cv, it))
            bytes += cv->o->to == TO_TCA_BME ? tca_bme_entry_bytes(it->name) : bitmask_entry_bytes(it->name);
    }
    return bytes;
}

/* The metadata of the input, of all shards together; the first of equal keys counts. */
static int write_metadata(converter *cv)
{
    json_t *seen = json_object();
    size_t  i;
    int     ok = seen != NULL;
    if (ok && cv->o->to == TO_TCA_BME) {
        ok = safetensors_add_metadata(&cv->out, TCA_BME_METADATA_KEY, TCA_BME_METADATA_VALUE, &cv->error);
    }
    json_object_set_new(seen, TCA_BME_METADATA_KEY, json_null());
    for (i = 0; ok && i < cv->in.model.file_count; i++) {
        const char *key;
        json_t     *value, *metadata = safetensors_metadata(&cv->in.model, i);
        json_object_foreach(metadata, key, value)
        {
            if (!ok || json_object_get(seen, key)) continue;
            ok = json_object_set(seen, key, value) == 0 &&
                 safetensors_add_metadata(&cv->out, key, json_string_value(value), &cv->error);
        }
    }
    json_decref(seen);
    return ok;
}

static int copy_tensor(converter *cv, const safetensors_tensor *t)
{
    enum { PIECE = 16 << 20 };
    const size_t size = t->bytes < PIECE ? (size_t)t->bytes : PIECE;
    void        *memory = allocate(size);
    uint64_t     first;
    int          ok = safetensors_begin(&cv->out, t->name, t->dtype, t->rank, t->shape, &cv->error);
    for (first = 0; ok && first < t->bytes; first += size) {
        const uint64_t bytes = t->bytes - first < size ? t->bytes - first : size;
        ok = safetensors_read(&cv->in.model, t, first, bytes, memory, &cv->error) &&
             safetensors_append(&cv->out, memory, bytes, &cv->error);
    }
    free(memory);
    return ok;
}

/* A weight or vector as a dense 16-bit tensor. */
static int write_dense(converter *cv, source *s)
{
    const item     *it = s->it;
    const size_t    strip = strip_rows(it, (size_t)4 << 20);
    const uint16_t *dense = NULL;
    uint16_t       *rows = NULL;
    uint64_t        shape[2];
    size_t          row;
    int             ok;
    shape[0] = it->kind == ITEM_VECTOR ? it->cols : it->rows;
    shape[1] = it->cols;
    if (!s->W.data && it->kind != ITEM_VECTOR) {
        dense = load_dense(cv, s, cv->o->to == TO_DENSE ? cv->o->prune : PRUNE_NOTHING);
        if (!dense) return 0;
    }
    if (!dense) rows = (uint16_t *)allocate(2 * (strip < it->rows ? strip : it->rows) * (size_t)it->cols);
    ok = safetensors_begin(&cv->out, it->name, file_dtype(it), it->kind == ITEM_VECTOR ? 1 : 2, shape, &cv->error);
    for (row = 0; ok && row < it->rows; row += strip) {
        const size_t    count = it->rows - row < strip ? it->rows - row : strip;
        const uint16_t *from = dense ? dense + row * it->cols : rows;
        ok = (dense || read_rows(s, row, count, rows, &cv->error)) &&
             safetensors_append(&cv->out, from, 2 * (uint64_t)count * it->cols, &cv->error);
    }
    free(rows);
    return ok;
}

/* Encodes rows first .. first + count - 1 into memory of this thread. */
static spinfer_status encode_strip(const item *it, const uint16_t *dense, size_t first, size_t count, buffer *offsets,
                                   buffer *data, spinfer_matrix *W)
{
    const uint16_t *rows = dense + first * it->cols;
    spinfer_sizes   sizes;
    spinfer_status  status = spinfer_encode_sizes(rows, count, it->cols, it->cols, &sizes);
    if (status != SPINFER_OK) return status;
    return spinfer_encode(rows, count, it->cols, it->cols, it->dtype,
                          (uint32_t *)reserve(offsets, (size_t)sizes.offsets_bytes), sizes.offsets_bytes,
                          reserve(data, (size_t)sizes.data_bytes), sizes.data_bytes, W);
}

/* Appends the records of a strip to the file, and where they begin to `offsets`, in units of 16 bytes. */
static int append_strip(converter *cv, const spinfer_matrix *strip, size_t first, uint32_t *offsets)
{
    const size_t   groups = (size_t)spinfer_row_groups(strip->rows) * strip->group_ld;
    const size_t   at = first / SPINFER_GROUP_ROWS * strip->group_ld;
    const uint32_t begin = offsets[at];
    size_t         i;
    for (i = 1; i <= groups; i++) offsets[at + i] = begin + strip->offsets[i];
    return safetensors_append(&cv->out, strip->data, 16 * (uint64_t)strip->offsets[groups], &cv->error);
}

/* Encodes strip by strip and writes the records at once: while one thread writes, the others encode, and no more than a
 * strip for each thread takes memory. The bytes are those of a single spinfer_encode(). */
static int write_records(converter *cv, const item *it, const uint16_t *dense, outcome *r)
{
    static const char zeros[128] = {0};
    const size_t      step = strip_rows(it, STRIP);
    const long long   strips = (long long)((it->rows + step - 1) / step);
    uint32_t         *offsets = (uint32_t *)allocate((size_t)r->sizes.offsets_bytes);
    char             *name = (char *)allocate(strlen(it->name) + 32);
    spinfer_matrix    W = {NULL, NULL, 0, 0, 0, 0, 0, 0, SPINFER_FORMAT_VERSION};
    long long         strip;
    int               ok;
    sprintf(name, "%s.tca_bme_data", it->name);
    ok = safetensors_begin(&cv->out, name, SAFETENSORS_U8, 1, &r->sizes.data_bytes, &cv->error);
    offsets[0] = 0;
#ifdef _OPENMP
#pragma omp parallel
#endif
    {
        buffer strip_offsets = {NULL, 0}, strip_data = {NULL, 0};
#ifdef _OPENMP
#pragma omp for ordered schedule(dynamic, 1)
#endif
        for (strip = 0; strip < strips; strip++) {
            const size_t   first = (size_t)strip * step, count = it->rows - first < step ? it->rows - first : step;
            spinfer_matrix part;
            spinfer_status status = encode_strip(it, dense, first, count, &strip_offsets, &strip_data, &part);
#ifdef _OPENMP
#pragma omp ordered
#endif
            if (ok && status != SPINFER_OK)
                ok = fail(&cv->error, it->name, spinfer_status_string(status));
            else if (ok)
                ok = append_strip(cv, &part, first, offsets);
        }
        release(&strip_offsets);
        release(&strip_data);
    }
    free(name);
    r->offsets = offsets;
    W.offsets = offsets;
    W.data_bytes = r->sizes.data_bytes;
    W.rows = it->rows;
    W.cols = it->cols;
    W.group_ld = spinfer_col_groups(it->cols);
    W.max_record = r->sizes.max_record;
    W.dtype = it->dtype;
    r->W = W;
    return ok && safetensors_append(&cv->out, zeros, /* to a multiple of 128 bytes */
                                    W.data_bytes - 16 * (uint64_t)offsets[r->sizes.offsets_bytes / 4 - 1], &cv->error);
}

static int write_bitmask(converter *cv, const source *s, const uint16_t *dense, outcome *r)
{
    char *base = bitmask_base(s->it);
    int   ok = 1;
    r->W = s->W;
    if (dense) ok = encode(cv, s->it, dense, r);
    release(&cv->dense); /* bitmask_write() takes memory, too */
    ok = ok && bitmask_write(&cv->out, base, &r->W, &cv->error);
    free(base);
    return ok;
}

/* The records of a weight, or its bitmask: what comes first in the file. */
static int write_encoded(converter *cv, const item *it, outcome *r)
{
    source    s;
    uint16_t *dense = NULL;
    int       ok = open_source(&s, &cv->in, it, &cv->error) && measure(cv, &s, r, &dense);
    if (ok && r->is_encoded) {
        cv->bytes_done += it->bytes;
        if (cv->o->to == TO_BITMASK) {
            ok = write_bitmask(cv, &s, dense, r);
        } else if (dense) {
            ok = write_records(cv, it, dense, r);
        } else {
            r->W = s.W;
            ok = tca_bme_write_data(&cv->out, it->name, &r->W, &cv->error);
        }
    }
    r->W.data = NULL;
    if (it->kind == ITEM_BITMASK) { /* the offsets have to last */
        r->offsets = (uint32_t *)(uintptr_t)s.W.offsets;
        s.W.offsets = NULL;
    }
    close_source(&s);
    return ok;
}

/* The item's part of this pass. */
static int write_item(converter *cv, const item *it, outcome *r, int pass)
{
    const int rewrites = it->kind == ITEM_VECTOR || (is_weight(it) && it->kind != ITEM_DENSE) ||
                         (it->kind == ITEM_DENSE && cv->o->to == TO_DENSE && cv->o->prune != PRUNE_NOTHING);
    source s;
    int    ok;
    if (pass == PASS_ENCODE) return !is_to_encode(cv, it) || write_encoded(cv, it, r);
    if (r->is_encoded) {
        if (cv->o->to != TO_TCA_BME || pass != PASS_4_BYTES) return 1;
        if (it->kind == ITEM_TCA_BME)
            return copy_tensor(cv, it->tca_bme.offsets) && copy_tensor(cv, it->tca_bme.header);
        return tca_bme_write_offsets(&cv->out, it->name, &r->W, &cv->error);
    }
    if (pass != (rewrites ? PASS_2_BYTES : pass_of_width(safetensors_dtype_bits(it->tensor->dtype)))) return 1;
    cv->bytes_done += it->bytes;
    if (!rewrites) return copy_tensor(cv, it->tensor);
    ok = open_source(&s, &cv->in, it, &cv->error) && write_dense(cv, &s);
    close_source(&s);
    return ok;
}

/* Starts cv->out at `path`, writes everything, gives it its name. */
static int write_output(converter *cv, const char *path)
{
    size_t i;
    int    pass, ok = safetensors_create(&cv->out, path, header_bytes(cv), &cv->error) && write_metadata(cv);
    for (pass = PASS_ENCODE; ok && pass < PASSES; pass++)
        for (i = 0; ok && i < cv->in.count; i++) {
            start_item(cv, i);
            ok = write_item(cv, &cv->in.items[i], &cv->outcomes[i], pass);
        }
    if (ok) return safetensors_commit(&cv->out, &cv->error);
    safetensors_abandon(&cv->out);
    return 0;
}

/* ---- A single dense matrix as .npy ------------------------------------------------------------ */

/* Header and rows. bf16 becomes <u2: NumPy has no bf16. */
static int write_npy_rows(converter *cv, source *s, int file)
{
    const item  *it = s->it;
    const size_t strip = strip_rows(it, (size_t)4 << 20);
    uint16_t    *rows = (uint16_t *)allocate(2 * (strip < it->rows ? strip : it->rows) * (size_t)it->cols);
    char         header[129];
    size_t       row;
    int          ok;
    memset(header, ' ', 128);
    memcpy(header, "\x93NUMPY\1\0\x76\0", 10);
    row = (size_t)sprintf(header + 10, "{'descr': '%s', 'fortran_order': False, 'shape': (%u, %u), }",
                          it->dtype == SPINFER_BF16 ? "<u2" : "<f2", it->rows, it->cols);
    header[10 + row] = ' ';
    header[127] = '\n';
    ok = write_all(file, header, 128);
    for (row = 0; ok && row < it->rows; row += strip) {
        const size_t count = it->rows - row < strip ? it->rows - row : strip;
        if (!read_rows(s, row, count, rows, &cv->error)) break;
        ok = write_all(file, rows, 2 * count * it->cols);
    }
    if (!ok) fail(&cv->error, unnamed_output, strerror(errno));
    free(rows);
    return ok && row >= it->rows;
}

static int write_npy(converter *cv, const char *path)
{
    const item *weight = single_weight(&cv->in);
    source      s;
    int         file, ok;
    if (cv->o->to != TO_DENSE || cv->o->prune || !weight)
        return fail(&cv->error, cv->o->output, "a .npy file holds one dense matrix: use --decode, --include to choose");
    start_item(cv, (size_t)(weight - cv->in.items));
    file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file < 0) return fail(&cv->error, path, strerror(errno));
    ok = open_source(&s, &cv->in, weight, &cv->error) && write_npy_rows(cv, &s, file);
    close_source(&s);
    if (fsync(file) != 0 && ok) ok = fail(&cv->error, path, strerror(errno));
    if (close(file) != 0 && ok) ok = fail(&cv->error, path, strerror(errno));
    cv->bytes_done = weight->bytes;
    return ok;
}

/* ---- Convert --------------------------------------------------------------------------------- */

static void print_summary(const converter *cv)
{
    double before = 0, after = 0;
    size_t i, weights = 0, encoded = 0;
    for (i = 0; i < cv->in.count; i++) {
        const item *it = &cv->in.items[i];
        weights += (size_t)is_weight(it);
        if (!cv->outcomes[i].is_encoded) continue;
        encoded++;
        before += 2.0 * it->rows * it->cols;
        after += encoded_bytes(&cv->outcomes[i]);
    }
    if (encoded && cv->o->to == TO_TCA_BME)
        printf("%zu of %zu weights encoded: %.3f MB in 16 bits, %.3f MB encoded, %.2f times smaller\n", encoded,
               weights, 1e-6 * before, 1e-6 * after, before / after);
    else if (cv->o->to != TO_DENSE)
        printf("%zu of %zu weights encoded\n", encoded, weights);
    if (weights && !encoded && cv->o->to != TO_DENSE)
        printf("None has %.3g %% zeros. Is the checkpoint pruned? --list shows it, --prune prunes it.\n",
               100 * cv->o->threshold);
    printf("%.3f MB read, converted in %.2f s: %.2f GB/s\n", 1e-6 * (double)cv->bytes, cv->seconds,
           1e-9 * (double)cv->bytes / cv->seconds);
    if (cv->o->verify) puts("verified: every value in the output is that of the input");
}

/* What is to be verified, and .npy files, have a name of their own until they are complete and right. */
static int convert(converter *cv)
{
    const char *output = cv->o->output;
    const int   npy = is_npy(output), is_direct = !npy && !cv->o->verify;
    char       *path = (char *)allocate(strlen(output) + 48);
    int         ok;
    sprintf(path, is_direct ? "%s" : "%s.%ld.unnamed%s", output, (long)getpid(), npy ? ".npy" : ".safetensors");
    if (!is_direct) unnamed_output = path;
    cv->begin = seconds();
    ok = npy ? write_npy(cv, path) : write_output(cv, path);
    cv->seconds = seconds() - cv->begin;
    release(&cv->dense);
    release(&cv->data);
    if (ok && cv->o->verify) ok = verify_output(cv, path);
    end_progress(cv);
    current_item[0] = 0;
    if (!is_direct) {
        if (ok && rename(path, output) != 0) ok = fail(&cv->error, output, strerror(errno));
        if (ok && !safetensors_flush_folder(output)) ok = fail(&cv->error, output, "its folder cannot be flushed");
        unlink(path); /* there is none any more if all went well */
        unnamed_output = NULL;
    }
    free(path);
    return ok;
}

/* Weights that are encoded already are not pruned again: it would hide what was lost before. */
static int check_prune(converter *cv)
{
    size_t i;
    for (i = 0; cv->o->prune && i < cv->in.count; i++)
        if (cv->in.items[i].kind == ITEM_TCA_BME || cv->in.items[i].kind == ITEM_BITMASK)
            return fail(&cv->error, cv->in.items[i].name,
                        "is encoded already; --prune takes dense weights, so --decode first");
    return 1;
}

/* Threads that wait for each other spin by default, which is slow where other programs run: on two busy cores it took
 * 25 times as long for a model of small weights. OpenMP reads its variables only when a program starts. */
static void start_again_with_threads_that_sleep(char **argv)
{
#ifdef _OPENMP
    if (getenv("OMP_WAIT_POLICY") || setenv("OMP_WAIT_POLICY", "passive", 0) != 0) return;
    execv("/proc/self/exe", argv); /* where this is not possible, go on as it is */
#else
    (void)argv;
#endif
}

int main(int argc, char **argv)
{
    const options o = parse_options(argc, argv);
    converter     cv;
    size_t        i;
    int           ok;
    start_again_with_threads_that_sleep(argv);
    memset(&cv, 0, sizeof cv);
    cv.o = &o;
    guard();
    ok = open_checkpoint(&cv.in, &o, &cv.error);
    if (ok) {
        cv.outcomes = (outcome *)allocate(cv.in.count * sizeof *cv.outcomes);
        memset(cv.outcomes, 0, cv.in.count * sizeof *cv.outcomes);
        for (i = 0; i < cv.in.count; i++) cv.bytes += cv.in.items[i].bytes;
        ok = check_prune(&cv) && (o.output ? convert(&cv) : look(&cv));
        end_progress(&cv);
        if (ok && o.output && !o.quiet) print_summary(&cv);
        for (i = 0; i < cv.in.count; i++) free(cv.outcomes[i].offsets);
        free(cv.outcomes);
        release(&cv.dense);
        release(&cv.data);
        close_checkpoint(&cv.in);
    }
    if (!ok) fprintf(stderr, "convert: %s\n", cv.error.text);
    return !ok;
}
