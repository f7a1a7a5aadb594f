/* bench_encode_device - how fast the GPU encodes and decompresses, in GB of dense 16-bit weights for each second.
 *
 *   bench_encode_device [--csv FILE] [--repeats COUNT] [ROWSxCOLS ...]
 *
 * Every case is compared with the host byte by byte before it is timed and once more afterwards; a wrong result ends
 * the program. All arrays rotate over copies that together exceed 3x L2, as in bench_spmm. `sizes` is the counting
 * pass, `encode` the one pass of a caller who knows a capacity, `both` one after the other on the same weights. */
#define SPINFER_IMPLEMENTATION
#include "spinfer.cuh"

#include <time.h>

#include "timing.h"

enum { MAX_SHAPES = 32 };

/* One matrix in all forms, `copies` times. */
typedef struct job {
    size_t                 rows, cols;
    int                    copies;
    spinfer_matrix         host;                         /* what must come out                               */
    uint16_t              *dense;                        /* [copies][rows, cols]                             */
    uint16_t              *decoded;                      /* [copies][rows, cols]                             */
    uint32_t              *offsets;                      /* [copies], offsets_stride apart                   */
    unsigned char         *data;                         /* [copies], data_stride apart                      */
    unsigned char         *workspace;                    /* one: launches of a stream do not overlap         */
    spinfer_encode_result *result;                       /* one                                              */
    size_t                 dense_stride, offsets_stride; /* elements                        */
    size_t                 data_stride, workspace_bytes; /* bytes                           */
    size_t                 offsets_bytes;
} job;

static size_t round_up(size_t value, size_t step) { return (value + step - 1) / step * step; }

static spinfer_matrix copy_of(const job *j, int copy)
{
    spinfer_matrix W = j->host;
    W.offsets = j->offsets + (size_t)copy * j->offsets_stride;
    W.data = j->data + (size_t)copy * j->data_stride;
    return W;
}

/* ---- What is timed --------------------------------------------------------------------------- */

static void launch_sizes(const void *context, int copy, cudaStream_t stream)
{
    const job *j = (const job *)context;
    CHECK_SPINFER(spinfer_encode_sizes_device(j->dense + (size_t)copy * j->dense_stride, j->rows, j->cols, j->cols,
                                              SPINFER_FP16, 0, j->result, j->workspace, j->workspace_bytes, stream));
}

static void launch_encode(const void *context, int copy, cudaStream_t stream)
{
    const job           *j = (const job *)context;
    const spinfer_matrix to = copy_of(j, copy);
    spinfer_matrix       W;
    CHECK_SPINFER(spinfer_encode_device(j->dense + (size_t)copy * j->dense_stride, j->rows, j->cols, j->cols,
                                        SPINFER_FP16, 0, (uint32_t *)(uintptr_t)to.offsets, j->offsets_bytes,
                                        (void *)(uintptr_t)to.data, to.data_bytes, &W, j->result, j->workspace,
                                        j->workspace_bytes, stream));
}

static void launch_both(const void *context, int copy, cudaStream_t stream)
{
    launch_sizes(context, copy, stream);
    launch_encode(context, copy, stream);
}

static void launch_decompress(const void *context, int copy, cudaStream_t stream)
{
    const job           *j = (const job *)context;
    const spinfer_matrix W = copy_of(j, copy);
    CHECK_SPINFER(spinfer_decompress_device(&W, j->decoded + (size_t)copy * j->dense_stride, j->cols, stream));
}

/* ---- The check ------------------------------------------------------------------------------- */

static void check_equal(const void *device, const void *host, size_t bytes, const char *what)
{
    unsigned char *copy = (unsigned char *)allocate(bytes);
    CHECK_CUDA(cudaMemcpy(copy, device, bytes, cudaMemcpyDeviceToHost));
    if (memcmp(copy, host, bytes) != 0) {
        fprintf(stderr, "bench_encode_device: WRONG %s\n", what);
        exit(1);
    }
    free(copy);
}

/* The first and the last copy of everything. */
static void check_job(const bench *b, const job *j, const uint16_t *dense)
{
    spinfer_encode_result result;
    int                   copy;
    CHECK_CUDA(cudaStreamSynchronize(b->stream));
    CHECK_CUDA(cudaMemcpy(&result, j->result, sizeof result, cudaMemcpyDeviceToHost));
    CHECK(result.status == SPINFER_OK && result.data_bytes == j->host.data_bytes);
    CHECK(result.max_record == j->host.max_record);
    for (copy = 0; copy<j->copies; copy += j->copies> 1 ? j->copies - 1 : 1) {
        const spinfer_matrix W = copy_of(j, copy);
        check_equal(W.offsets, j->host.offsets, j->offsets_bytes, "offsets");
        check_equal(W.data, j->host.data, (size_t)j->host.data_bytes, "data");
        check_equal(j->decoded + (size_t)copy * j->dense_stride, dense, 2 * j->rows * j->cols, "dense weights");
    }
}

static void poison_job(const bench *b, const job *j)
{
    const size_t copies = (size_t)j->copies;
    CHECK_CUDA(cudaMemsetAsync(j->offsets, 0xff, 4 * j->offsets_stride * copies, b->stream));
    CHECK_CUDA(cudaMemsetAsync(j->data, 0xff, j->data_stride * copies, b->stream));
    CHECK_CUDA(cudaMemsetAsync(j->decoded, 0xff, 2 * j->dense_stride * copies, b->stream));
}

/* ---- One row --------------------------------------------------------------------------------- */

static job make_job(const bench *b, const uint16_t *dense, size_t rows, size_t cols)
{
    job j;
    int i;
    memset(&j, 0, sizeof j);
    j.rows = rows;
    j.cols = cols;
    j.host = encode_matrix(dense, rows, cols, SPINFER_FP16);
    j.offsets_bytes = (size_t)spinfer_offsets_bytes(rows, cols);
    j.copies = copies_beyond_l2(b, (size_t)j.host.data_bytes); /* the smaller of the two forms */
    j.dense_stride = round_up(rows * cols, 128);
    j.offsets_stride = round_up(j.offsets_bytes, 256) / 4;
    j.data_stride = round_up((size_t)j.host.data_bytes, 256);
    CHECK_SPINFER(spinfer_encode_device_bytes(rows, cols, NULL, &j.workspace_bytes));
    CHECK_CUDA(cudaMalloc((void **)&j.dense, 2 * j.dense_stride * (size_t)j.copies));
    CHECK_CUDA(cudaMalloc((void **)&j.decoded, 2 * j.dense_stride * (size_t)j.copies));
    CHECK_CUDA(cudaMalloc((void **)&j.offsets, 4 * j.offsets_stride * (size_t)j.copies));
    CHECK_CUDA(cudaMalloc((void **)&j.data, j.data_stride * (size_t)j.copies));
    CHECK_CUDA(cudaMalloc((void **)&j.workspace, j.workspace_bytes));
    CHECK_CUDA(cudaMalloc((void **)&j.result, sizeof *j.result));
    for (i = 0; i < j.copies; i++)
        CHECK_CUDA(cudaMemcpy(j.dense + (size_t)i * j.dense_stride, i ? (const void *)j.dense : (const void *)dense,
                              2 * rows * cols, i ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice));
    CHECK_CUDA(cudaDeviceSynchronize());
    return j;
}

static void free_job(job *j)
{
    CHECK_CUDA(cudaFree(j->dense));
    CHECK_CUDA(cudaFree(j->decoded));
    CHECK_CUDA(cudaFree(j->offsets));
    CHECK_CUDA(cudaFree(j->data));
    CHECK_CUDA(cudaFree(j->workspace));
    CHECK_CUDA(cudaFree(j->result));
    free_matrix(&j->host);
}

static void run_row(const bench *b, const uint16_t *dense, size_t rows, size_t cols, int zeros, FILE *csv)
{
    static const struct {
        launch_function *launch;
        int              dense_passes, encoded_passes; /* over memory */
    } kinds[4] = {{launch_sizes, 1, 0}, {launch_encode, 1, 1}, {launch_both, 2, 1}, {launch_decompress, 1, 1}};
    const double dense_bytes = 2.0 * (double)rows * (double)cols;
    double       encoded_bytes, share[4], rate[4];
    timing       t[4];
    job          j = make_job(b, dense, rows, cols);
    int          i, copy;
    encoded_bytes = (double)j.host.data_bytes + (double)j.offsets_bytes;
    poison_job(b, &j);
    for (copy = 0; copy < j.copies; copy++) launch_both(&j, copy, b->stream);
    for (copy = 0; copy < j.copies; copy++) launch_decompress(&j, copy, b->stream);
    check_job(b, &j, dense);
    poison_job(b, &j);
    for (i = 0; i < 4; i++) {
        const double bytes = kinds[i].dense_passes * dense_bytes + kinds[i].encoded_passes * encoded_bytes;
        t[i] = time_launches(b, kinds[i].launch, &j, j.copies, bytes);
        rate[i] = dense_bytes / (1e3 * t[i].us);
        share[i] = bytes / (1e3 * t[i].us) / b->bandwidth;
    }
    check_job(b, &j, dense);
    printf("%6zu x %-6zu %3d %% ", rows, cols, zeros);
    for (i = 0; i < 4; i++) printf("  %9.1f us %5.0f GB/s %3.0f %%", t[i].us, rate[i], 100 * share[i]);
    printf("\n");
    fflush(stdout);
    if (csv) {
        fprintf(csv, "%zu,%zu,%d,%.0f", rows, cols, zeros, encoded_bytes);
        for (i = 0; i < 4; i++) fprintf(csv, ",%.2f,%.4f,%.1f,%.4f", t[i].us, t[i].spread, rate[i], share[i]);
        fprintf(csv, "\n");
        fflush(csv);
    }
    free_job(&j);
}

static void run_shape(const bench *b, size_t rows, size_t cols, FILE *csv)
{
    static const int zeros[] = {30, 40, 50, 60, 70};
    uint16_t        *full = (uint16_t *)allocate(2 * rows * cols), *dense = (uint16_t *)allocate(2 * rows * cols);
    size_t           i;
    fill_normal(full, rows * cols, 0.02, SPINFER_FP16, 1);
    for (i = 0; i < sizeof zeros / sizeof *zeros; i++) {
        memcpy(dense, full, 2 * rows * cols);
        prune_iid(dense, rows, cols, 0.01 * zeros[i], 2);
        run_row(b, dense, rows, cols, zeros[i], csv);
    }
    free(full);
    free(dense);
}

/* ---- The run --------------------------------------------------------------------------------- */

static void write_heading(FILE *csv, const bench *b)
{
    static const char *const kinds[4] = {"sizes", "encode", "both", "decompress"};
    struct cudaDeviceProp    properties;
    const time_t             now = time(NULL);
    char                     date[64];
    int                      device, driver, runtime, i;
    CHECK_CUDA(cudaGetDevice(&device));
    CHECK_CUDA(cudaGetDeviceProperties(&properties, device));
    CHECK_CUDA(cudaDriverGetVersion(&driver));
    CHECK_CUDA(cudaRuntimeGetVersion(&runtime));
    strftime(date, sizeof date, "%Y-%m-%d %H:%M UTC", gmtime(&now));
    fprintf(csv, "# spinfer: %d.%d.%d, format %d\n# gpu: %s\n# cuda: %d, driver: %d\n# date: %s\n",
            SPINFER_VERSION_MAJOR, SPINFER_VERSION_MINOR, SPINFER_VERSION_PATCH, SPINFER_FORMAT_VERSION,
            properties.name, runtime, driver, date);
    fprintf(csv, "# l2 bytes: %zu\n# read GB/s: %.1f\n# repeats: %d\n", b->l2_bytes, b->bandwidth, b->repeats);
    fprintf(csv, "rows,cols,zeros,encoded_bytes");
    for (i = 0; i < 4; i++) fprintf(csv, ",%s_us,%s_spread,%s_gbs,%s_share", kinds[i], kinds[i], kinds[i], kinds[i]);
    fprintf(csv, "\n");
}

static void usage_error(const char *argument)
{
    fprintf(stderr, "bench_encode_device: '%s'?\nusage: bench_encode_device [--csv FILE] [--repeats COUNT] [MxK ...]\n",
            argument);
    exit(1);
}

int main(int argc, char **argv)
{
    static const size_t defaults[][2] = {{4096, 4096}, {14336, 4096}, {8192, 8192}, {28672, 8192}, {8192, 28672}};
    size_t              shapes[MAX_SHAPES][2];
    int                 count = 0, repeats = 7, devices = 0, i;
    FILE               *csv = NULL;
    bench               b;
    for (i = 1; i < argc; i++) {
        int length = 0;
        if (strcmp(argv[i], "--csv") == 0 && i + 1 < argc && !csv) {
            if (!(csv = fopen(argv[++i], "w"))) usage_error(argv[i]);
        } else if (strcmp(argv[i], "--repeats") == 0 && i + 1 < argc) {
            if ((repeats = atoi(argv[++i])) < 1) usage_error(argv[i]);
        } else if (count == MAX_SHAPES ||
                   sscanf(argv[i], "%zux%zu%n", &shapes[count][0], &shapes[count][1], &length) != 2 ||
                   argv[i][length] || spinfer_offsets_bytes(shapes[count][0], shapes[count][1]) == 0) {
            usage_error(argv[i]);
        } else {
            count++;
        }
    }
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        fprintf(stderr, "bench_encode_device: no GPU\n");
        return SKIPPED;
    }
    if (count == 0) {
        count = (int)(sizeof defaults / sizeof *defaults);
        memcpy(shapes, defaults, sizeof defaults);
    }
    b = open_bench(repeats, 0);
    b.warm_up = WAKE_UP;
    if (csv) write_heading(csv, &b);
    printf("read bandwidth %.0f GB/s; time, GB/s of dense weights, share of that bandwidth for all bytes moved\n",
           b.bandwidth);
    printf("%22s  %27s  %27s  %27s  %27s\n", "zeros", "sizes", "encode", "sizes + encode", "decompress");
    for (i = 0; i < count; i++) run_shape(&b, shapes[i][0], shapes[i][1], csv);
    if (csv && fclose(csv) != 0) usage_error("the CSV file");
    close_bench(&b);
    return 0;
}
