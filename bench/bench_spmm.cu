/* bench_spmm.cu - spinfer_spmm() against the best that cuBLAS can do, and against the read bandwidth of the GPU.
 *
 * README.md beside this file explains the method and the columns. Run it with --help for the options. */
#define SPINFER_IMPLEMENTATION
#include "spinfer.cuh"

#include <time.h>

#include "baseline.h"
#include "common.h"
#include "layer.h"
#include "options.h"
#include "results.h"
#include "timing.h"

/* ---- One product ----------------------------------------------------------------------------- */

typedef struct product {
    const layer    *weights;
    const uint16_t *X;
    void           *Y;
    int             n;
    spinfer_plan    plan;
    void           *workspace;
    size_t          workspace_bytes;
} product;

static spinfer_status run_product(const product *p, int copy, cudaStream_t stream)
{
    const layer *L = p->weights;
    return spinfer_spmm(&p->plan, 1.0f, &L->matrices[copy], p->X, L->K, 0.0f, p->Y, L->M, (size_t)p->n, p->workspace,
                        p->workspace_bytes, stream);
}

static void launch_product(const void *context, int copy, cudaStream_t stream)
{
    CHECK_SPINFER(run_product((const product *)context, copy, stream));
}

typedef enum outcome { TIMED, REFUSED, WRONG } outcome;

/* Times a product with its plan, unless the library refuses the plan or the result is wrong, before or after. */
static outcome time_product(const bench *b, product *p, timing *t)
{
    const layer   *L = p->weights;
    const size_t   y_bytes = 2 * L->M * (size_t)p->n;
    outcome        o = REFUSED;
    spinfer_status status = spinfer_spmm_workspace_bytes(&p->plan, &L->matrices[0], (size_t)p->n, &p->workspace_bytes);
    t->us = t->spread = NAN;
    p->workspace = NULL;
    if (status == SPINFER_OK) {
        if (p->workspace_bytes) {
            CHECK_CUDA(cudaMalloc(&p->workspace, p->workspace_bytes));
            CHECK_CUDA(cudaMemsetAsync(p->workspace, 0, p->workspace_bytes, b->stream));
        }
        poison(p->Y, y_bytes, b->stream);
        status = run_product(p, 0, b->stream);
        if (status == SPINFER_ERR_CUDA) CHECK_SPINFER(status); /* nothing works after that */
    }
    if (status == SPINFER_OK) {
        o = check_product(L, p->Y, p->n, b->stream) ? WRONG : TIMED;
        if (o == TIMED) {
            poison(p->Y, y_bytes, b->stream);
            *t = time_launches(b, launch_product, p, L->matrix_copies, (double)L->encoded_bytes);
            if (check_product(L, p->Y, p->n, b->stream)) o = WRONG;
        }
    }
    CHECK_CUDA(cudaFree(p->workspace));
    p->workspace = NULL;
    return o;
}

/* ---- The sweep over plans -------------------------------------------------------------------- */

enum { MAX_VARIANTS = 256 };

static void add_variant(spinfer_plan *list, int *count, const spinfer_plan *from, const spinfer_plan *variant)
{
    CHECK(*count < MAX_VARIANTS);
    if (memcmp(from, variant, sizeof *from) != 0) list[(*count)++] = *variant;
}

/* The neighbours of a plan: all values of one group of fields that belong together, the others as they are. What the
 * library refuses drops out when it is tried. `idle`: SMs for each range of K for which the plan has no block. */
static int list_variants(const spinfer_plan *from, int idle, spinfer_plan *list)
{
    static const int tokens[] = {8, 16, 32, 64, 64}, teams[] = {1, 1, 1, 2, 4}; /* of the kernels */
    static const int strips[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 12};
    static const int warps_k[] = {1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 22, 24, 28};
    static const int splits[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16};
    static const int rounds[] = {1, 2, 3, 4, 6, 8}, pieces[] = {1, 2, 3, 4, 6};
    spinfer_plan     v;
    int              count = 0, i, j;
#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))
    for (v = *from, i = 0; i < COUNT(tokens); i++) {
        v.tokens = tokens[i];
        v.team = teams[i];
        add_variant(list, &count, from, &v);
    }
    for (v = *from, i = 0; i < COUNT(strips); i++)
        for (j = 0; j < COUNT(warps_k); j++) {
            if (strips[i] * warps_k[j] > 32) continue;
            v.strips = strips[i];
            v.warps_k = warps_k[j];
            v.x_cols = v.warps_k * v.team * (from->x_cols / (from->warps_k * from->team));
            v.x_cols += v.x_cols % 2 * v.x_cols; /* even */
            add_variant(list, &count, from, &v);
        }
    for (v = *from, v.stages = 2; v.stages <= 8; v.stages++) add_variant(list, &count, from, &v);
    for (v = *from, i = 0; i < COUNT(splits); i++) {
        v.splits = splits[i];
        add_variant(list, &count, from, &v);
    }
    for (v = *from, i = 0; i < COUNT(rounds); i++)
        for (v.x_cols = v.warps_k * v.team * rounds[i], j = 0; j < COUNT(pieces); j++) {
            v.x_pieces = pieces[j];
            add_variant(list, &count, from, &v);
        }
    if (from->tokens >= 32) {
        v = *from;
        v.helpers = v.tail = 0;
        add_variant(list, &count, from, &v);
        for (i = 0; i < 2; i++) /* as many helpers as now, or all SMs that are free */
            for (v.helpers = i ? idle : from->helpers, j = -6; v.helpers && j <= 6; j++) {
                v.tail = ((from->tail ? from->tail : 16) / v.team + j) * v.team;
                if (v.tail > 0) add_variant(list, &count, from, &v);
            }
    }
#undef COUNT
    return count;
}

/* Walks from the plan of p to ever better neighbours and puts the last one into the row. Returns the number of variants
 * with a wrong result. */
static int sweep_plans(const bench *b, product *p, int sm_count, result *r)
{
    const spinfer_plan none = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    spinfer_plan       list[MAX_VARIANTS], last = none;
    bench              quick = *b;
    product            trial = *p;
    double             best_us = r->us;
    int                wrong = 0, i;
    timing             t, chosen;
    quick.repeats = b->repeats < 3 ? b->repeats : 3;
    quick.warm_up = 0;
    r->best_plan = p->plan;
    while (memcmp(&last, &r->best_plan, sizeof last) != 0) {
        const int blocks = (int)spinfer_plan_row_groups(&r->best_plan, (uint32_t)p->weights->M);
        const int room = sm_count / (r->best_plan.splits * ((p->n - 1) / r->best_plan.tokens + 1));
        const int count = list_variants(&r->best_plan, room > blocks ? room - blocks : 0, list);
        last = trial.plan = r->best_plan;
        if (time_product(&quick, &trial, &t) == TIMED) best_us = t.us; /* again: the clock is not what it was */
        for (i = 0; i < count; i++) {
            outcome o;
            trial.plan = list[i];
            o = time_product(&quick, &trial, &t);
            if (o == WRONG) {
                char text[PLAN_TEXT];
                fprintf(stderr, "WRONG with the plan %s\n", plan_text(list[i], text));
                wrong++;
            } else if (o == TIMED && t.us < 0.99 * best_us) { /* less than 1 % is noise */
                best_us = t.us;
                r->best_plan = list[i];
            }
        }
    }
    /* The minimum of a hundred noisy times flatters itself, and the clock may have changed by now: the winner and
     * the plan are timed again, one right after the other. */
    trial.plan = r->best_plan;
    if (memcmp(&r->best_plan, &p->plan, sizeof p->plan) != 0 && time_product(b, &trial, &t) == TIMED &&
        time_product(b, p, &chosen) == TIMED && t.us < chosen.us) {
        r->best_us = r->us * t.us / chosen.us;
    } else {
        r->best_us = r->us;
        r->best_plan = p->plan;
    }
    return wrong;
}

/* ---- One row --------------------------------------------------------------------------------- */

/* What the rows of a run share. */
typedef struct run {
    const options *o;
    bench          b;
    baseline       handles;
    spinfer_device device;
    FILE          *csv; /* or NULL                              */
    results        all;
    double         start;
    int            done, failures;
} run;

static int total_rows(const options *o) { return o->shape_count * o->zeros_count * o->n_count; }

/* The plan of the library for a plain launch, with the changes of --plan. */
static spinfer_plan choose_plan(const options *o, const spinfer_matrix *W, int n, const spinfer_device *device)
{
    spinfer_plan plan;
    CHECK_SPINFER(spinfer_spmm_plan(W, (size_t)n, device, &plan));
    plan.dependent = 0;
    if (o->plan && !override_plan(&plan, o->plan)) usage_error("not a plan:", o->plan);
    return plan;
}

static int time_or_complain(run *run, const bench *b, product *p, timing *t, const result *r)
{
    const outcome o = time_product(b, p, t);
    char          text[PLAN_TEXT];
    if (o == TIMED) return 1;
    fprintf(stderr, "%s: %s n=%d %d%%, plan %s\n", o == WRONG ? "WRONG" : "PLAN REFUSED", r->layer.name, r->n, r->zeros,
            plan_text(p->plan, text));
    run->failures++;
    return 0;
}

/* Fills the times of the row. Returns 0, with nothing to report, if the result is wrong or the plan refused. */
static int time_row(run *run, const layer *L, const uint16_t *X, void *Y, int with_cusparse, result *r)
{
    const bench *b = &run->b;
    const gemm   dense = layer_gemm(L, &run->handles, X, Y, r->n);
    bench        woken = *b; /* the GPU was idle while the host made the layer, or a CSR matrix for the row before */
    product      p;
    timing       t;
    if (woken.warm_up < WAKE_UP) woken.warm_up = WAKE_UP;
    p.weights = L;
    p.X = X;
    p.Y = Y;
    p.n = r->n;
    r->plan = p.plan = choose_plan(run->o, &L->matrices[0], r->n, &run->device);
    if (!time_or_complain(run, &woken, &p, &t, r)) return 0;
    r->us = t.us;
    r->spread = t.spread;
    r->us_dependent = r->cusparse_us = r->best_us = NAN;
    if (run->device.compute >= 90 && !p.plan.dependent) {
        p.plan.dependent = 1;
        if (time_or_complain(run, b, &p, &t, r)) r->us_dependent = t.us;
        p.plan.dependent = 0;
    }
    r->gemmex_us = time_launches(b, launch_gemm_ex, &dense, dense.copies, gemm_bytes(&dense)).us;
    r->lt_us = time_best_lt(b, &dense);
    r->cublas_us = r->lt_us < r->gemmex_us ? r->lt_us : r->gemmex_us;
    if (with_cusparse) r->cusparse_us = time_cusparse(b, &dense);
    if (run->o->sweep) run->failures += sweep_plans(b, &p, run->device.sm_count, r);
    return 1;
}

static void report_row(run *run, const result *r)
{
    const options *o = run->o;
    add_result(&run->all, r);
    if (run->csv) write_csv_row(run->csv, r, dtype_name(o), mask_name(o), o->bandwidth);
    fprintf(stderr, "[%d/%d, %.0f s] %-20s n=%-2d %d%%  %.2f us (dependent %.2f), cuBLAS %.2f: %.2fx, %.0f%%",
            run->done, total_rows(o), seconds() - run->start, r->layer.name, r->n, r->zeros, r->us, r->us_dependent,
            r->cublas_us, speedup(r), 100 * roofline_us(r, o->bandwidth) / r->us);
    if (o->sweep) {
        char text[PLAN_TEXT];
        fprintf(stderr, ", best plan %.2f us: %s", r->best_us, plan_text(r->best_plan, text));
    }
    fprintf(stderr, "\n");
}

/* One layer at one sparsity, for every n. Returns 0 when the budget is spent. */
static int run_layer(run *run, const shape *s, int zeros, const uint16_t *host_W, const uint16_t *X, void *Y)
{
    const options *o = run->o;
    layer          L = make_layer(&run->b, &run->handles, host_W, s->M, s->K, o->dtype, X, o->n[o->n_count - 1]);
    int            in_time = 1, t;
    for (t = 0; t < o->n_count && in_time; t++) {
        const int with_cusparse = o->cusparse == CUSPARSE_ALL || (o->cusparse == CUSPARSE_FIRST && t == 0);
        result    r;
        memset(&r, 0, sizeof r);
        r.layer = *s;
        r.n = o->n[t];
        r.zeros = zeros;
        r.density = L.density;
        r.encoded_bytes = (double)L.encoded_bytes;
        run->done++;
        if (time_row(run, &L, X, Y, with_cusparse, &r)) report_row(run, &r);
        in_time = o->budget == 0 || seconds() - run->start < o->budget;
    }
    free_layer(&L);
    return in_time;
}

/* One shape at every sparsity. They rise and the seed stays, so that each mask removes from what the one before left.
 * Returns 0 when the budget is spent. */
static int run_shape(run *run, const shape *s)
{
    const options *o = run->o;
    const size_t   weights = s->M * s->K, inputs = s->K * (size_t)o->n[o->n_count - 1];
    uint16_t      *host_W = (uint16_t *)allocate(2 * weights), *host_X = (uint16_t *)allocate(2 * inputs), *X;
    void          *Y;
    int            in_time = 1, z;
    fill_normal(host_W, weights, 0.02, o->dtype, 1);
    fill_normal(host_X, inputs, 1.0, o->dtype, 2);
    CHECK_CUDA(cudaMalloc((void **)&X, 2 * inputs));
    CHECK_CUDA(cudaMalloc(&Y, 2 * s->M * (size_t)o->n[o->n_count - 1]));
    CHECK_CUDA(cudaMemcpy(X, host_X, 2 * inputs, cudaMemcpyHostToDevice));
    for (z = 0; z < o->zeros_count && in_time; z++) {
        if (o->wanda)
            prune_wanda_like(host_W, s->M, s->K, 0.01 * o->zeros[z], o->dtype, 3);
        else
            prune_iid(host_W, s->M, s->K, 0.01 * o->zeros[z], 3);
        in_time = run_layer(run, s, o->zeros[z], host_W, X, Y);
    }
    CHECK_CUDA(cudaFree(Y));
    CHECK_CUDA(cudaFree(X));
    free(host_X);
    free(host_W);
    return in_time;
}

/* ---- Predict --------------------------------------------------------------------------------- */

/* What the command line says of a GPU; else the one that is here; else an H200. */
static spinfer_device predicted_device(const options *o)
{
    const spinfer_device h200 = {132, 232448, 90, 1980, 4640, 1};
    spinfer_device       device;
    if (spinfer_device_query(&device) != SPINFER_OK) device = h200;
    if (o->compute) { /* KB of shared memory for a block: 163, 99 or 227 */
        const int small = o->compute == 86 || o->compute == 89 || o->compute / 10 == 12;
        device.smem_per_block = 1024 * (o->compute < 90 && !small ? 163 : small ? 99 : 227);
        device.compute = o->compute;
        device.wgmma = device.wgmma && o->compute == 90;
    }
    if (o->sms) device.sm_count = o->sms;
    if (o->clock_mhz) device.clock_mhz = o->clock_mhz;
    if (o->bandwidth > 0) device.read_gbs = (int)o->bandwidth;
    return device;
}

/* Both times without running anything. */
static void predict_row(const options *o, const spinfer_device *device, result *r)
{
    const shape         *s = &r->layer;
    const spinfer_matrix W = imagine_matrix(s->M, s->K, 1 - 0.01 * r->zeros, o->dtype);
    spinfer_estimate     e;
    r->plan = choose_plan(o, &W, r->n, device);
    CHECK_SPINFER(spinfer_spmm_estimate(&r->plan, &W, (size_t)r->n, device, &e));
    r->us = e.spmm_us;
    r->cublas_us = e.dense_us;
    r->encoded_bytes = (double)spinfer_offsets_bytes(s->M, s->K) + (double)W.data_bytes;
    r->us_dependent = r->best_us = NAN;
    printf("%-22s %6zu x %-6zu n=%-3d %2d%%  dense %8.2f us, sparse %8.2f us, %.2fx: %s\n", s->name, s->M, s->K, r->n,
           r->zeros, r->cublas_us, r->us, speedup(r), speedup(r) > 1 ? "pays" : "keep it dense");
}

static void predict(const options *o, results *all)
{
    const spinfer_device device = predicted_device(o);
    int                  i, z, t;
    printf("assumed: compute capability %d.%d, %d SMs at %d MHz, reads %d GB/s\n", device.compute / 10,
           device.compute % 10, device.sm_count, device.clock_mhz, device.read_gbs);
    for (i = 0; i < o->shape_count; i++)
        for (z = 0; z < o->zeros_count; z++)
            for (t = 0; t < o->n_count; t++) {
                result r;
                memset(&r, 0, sizeof r);
                r.layer = o->shapes[i];
                r.n = o->n[t];
                r.zeros = o->zeros[z];
                predict_row(o, &device, &r);
                add_result(all, &r);
            }
}

/* ---- Models ---------------------------------------------------------------------------------- */

static void print_model(const options *o, const results *all)
{
    const model *m = find_model(o->model);
    int          z, t;
    printf("\n%s: linear layers of %d blocks, without attention and vocabulary; one step yields n tokens\n", m->name,
           m->blocks);
    printf("%5s %6s | %9s %9s %8s | %9s %9s | %12s %12s | %12s %12s\n", "n", "zeros", "dense ms", "sparse ms",
           "speed-up", "dense GB", "sparse GB", "dense ms/tok", "sparse", "dense GB/tok", "sparse");
    for (z = 0; z < o->zeros_count; z++)
        for (t = 0; t < o->n_count; t++) {
            const int n = o->n[t];
            double    dense_ms = 0, sparse_ms = 0, dense_gb = 0, sparse_gb = 0;
            int       found = 0;
            size_t    i;
            for (i = 0; i < all->count; i++) {
                const result *r = &all->rows[i];
                const double  times = (double)r->layer.count * m->blocks, tokens = token_bytes(&r->layer, n);
                if (r->n != n || r->zeros != o->zeros[z]) continue;
                dense_ms += 1e-3 * times * r->cublas_us;
                sparse_ms += 1e-3 * times * r->us;
                dense_gb += 1e-9 * times * (dense_bytes(&r->layer) + tokens);
                sparse_gb += 1e-9 * times * (r->encoded_bytes + tokens);
                found++;
            }
            if (found < o->shape_count) continue; /* stopped by the budget, narrowed by a failure */
            printf("%5d %5d%% | %9.3f %9.3f %7.2fx | %9.3f %9.3f | %12.4f %12.4f | %12.4f %12.4f\n", n, o->zeros[z],
                   dense_ms, sparse_ms, dense_ms / sparse_ms, dense_gb, sparse_gb, dense_ms / n, sparse_ms / n,
                   dense_gb / n, sparse_gb / n);
        }
}

/* ---- The run --------------------------------------------------------------------------------- */

static void write_csv_comments(FILE *csv, const bench *b, const baseline *handles, const options *o, int device)
{
    struct cudaDeviceProp properties;
    const time_t          now = time(NULL);
    char                  line[256] = "unknown\n";
    FILE                 *driver = fopen("/proc/driver/nvidia/version", "r");
    int                   api, runtime, cublas;
    if (driver) {
        if (!fgets(line, sizeof line, driver)) snprintf(line, sizeof line, "unknown\n");
        fclose(driver);
    }
    CHECK_CUDA(cudaGetDeviceProperties(&properties, device));
    CHECK_CUDA(cudaDriverGetVersion(&api));
    CHECK_CUDA(cudaRuntimeGetVersion(&runtime));
    CHECK_CUBLAS(cublasGetVersion(handles->cublas, &cublas));
    fprintf(csv, "# gpu: %s\n# driver: CUDA %d.%d, %s", properties.name, api / 1000, api % 1000 / 10, line);
    fprintf(csv, "# cuda runtime: %d.%d\n# cublas: %d\n", runtime / 1000, runtime % 1000 / 10, cublas);
    fprintf(csv, "# spinfer: %d.%d.%d\n", SPINFER_VERSION_MAJOR, SPINFER_VERSION_MINOR, SPINFER_VERSION_PATCH);
    if (o->tag) fprintf(csv, "# tag: %s\n", o->tag);
    strftime(line, sizeof line, "%Y-%m-%d %H:%M UTC", gmtime(&now));
    fprintf(csv, "# date: %s\n# l2 bytes: %zu\n# sms: %d\n# clock MHz: %d\n# read GB/s: %.1f\n", line, b->l2_bytes,
            o->sms, o->clock_mhz, b->bandwidth);
    fprintf(csv, "# weights: %s\n# repeats: %d\n", b->hot ? "hot, one copy" : "cold, copies beyond 3x L2", b->repeats);
    if (b->warm_up > 0) fprintf(csv, "# warm-up: %g s before each timing\n", b->warm_up);
}

static bench open_run(options *o)
{
    bench b = open_bench(o->repeats, o->bandwidth);
    int   device, khz;
    CHECK_CUDA(cudaGetDevice(&device));
    CHECK_CUDA(cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, device));
    if (!o->clock_mhz) o->clock_mhz = khz / 1000;
    if (!o->sms) CHECK_CUDA(cudaDeviceGetAttribute(&o->sms, cudaDevAttrMultiProcessorCount, device));
    b.hot = o->hot;
    b.warm_up = o->warm_up;
    o->bandwidth = b.bandwidth;
    return b;
}

/* Every shape, until the budget is spent. */
static void run_all(run *run)
{
    const options *o = run->o;
    int            device, i;
    CHECK_CUDA(cudaGetDevice(&device));
    CHECK_SPINFER(spinfer_device_query(&run->device));
    open_baseline(&run->handles, run->b.stream);
    if (o->csv && !(run->csv = fopen(o->csv, "w"))) usage_error("cannot write", o->csv);
    if (run->csv) {
        write_csv_comments(run->csv, &run->b, &run->handles, o, device);
        write_csv_header(run->csv);
    }
    fprintf(stderr, "read bandwidth %.0f GB/s, %s weights\n", o->bandwidth, o->hot ? "hot" : "cold");
    run->start = seconds();
    for (i = 0; i < o->shape_count; i++)
        if (!run_shape(run, &o->shapes[i])) break;
    if (run->done < total_rows(o)) fprintf(stderr, "budget spent after %d of %d rows\n", run->done, total_rows(o));
    if (run->csv && fclose(run->csv) != 0) usage_error("cannot write", o->csv);
    close_baseline(&run->handles);
}

int main(int argc, char **argv)
{
    options o = parse_options(argc, argv);
    int     devices = 0;
    run     run;
    memset(&run, 0, sizeof run);
    run.o = &o;
    if (!o.predict) {
        if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
            fprintf(stderr, "bench_spmm: no GPU\n");
            return SKIPPED;
        }
        run.b = open_run(&o);
    }
    if (o.predict)
        predict(&o, &run.all);
    else
        run_all(&run);
    if (run.all.count) {
        print_speedups(&run.all, o.predict ? "predicted speed-up" : "speed-up");
        if (!o.predict) print_worst(&run.all, o.bandwidth);
        if (o.sweep) print_sweep(&run.all);
        if (o.model) print_model(&o, &run.all);
    }
    if (run.failures) printf("\n%d FAILURES: wrong results or refused plans, see above\n", run.failures);
    if (!o.predict) close_bench(&run.b);
    free(run.all.rows);
    return run.failures ? 1 : 0;
}
