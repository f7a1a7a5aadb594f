/* Risk: the GPU decompresses other weights than the host, or writes next to them: an edge, an alignment, the gap
 * between rows, a slice.
 *
 * The image of the output (gpu.h) is what spinfer_decode() gives, and 0xff in all gaps and guards. */
#define SPINFER_IMPLEMENTATION
#include "gpu.h"
#include "test.h"

/* ---- One matrix and its output --------------------------------------------------------------- */

typedef struct task {
    spinfer_matrix host, W; /* W: its arrays in device memory, as little aligned as is legal */
    size_t         ld;
    buffer         offsets, data, dense;
} task;

/* Under compute-sanitizer nothing lies behind the arrays, so that memcheck sees the first byte touched there. */
static task task_create(const uint16_t *dense, size_t rows, size_t cols, spinfer_dtype dtype, size_t ld, size_t shift)
{
    task t;
    t.host = encode_matrix(dense, rows, cols, dtype);
    t.ld = ld;
    t.offsets = buffer_create((size_t)spinfer_offsets_bytes(rows, cols), 4, small_run());
    t.data = buffer_create((size_t)t.host.data_bytes, 16, small_run());
    t.dense = buffer_create(2 * span(rows, cols, ld), shift, small_run());
    memcpy(buffer_image(&t.offsets), t.host.offsets, t.offsets.bytes);
    memcpy(buffer_image(&t.data), t.host.data, t.data.bytes);
    buffer_upload(&t.offsets);
    buffer_upload(&t.data);
    t.W = t.host;
    t.W.offsets = (const uint32_t *)buffer_payload(&t.offsets);
    t.W.data = buffer_payload(&t.data);
    CHECK_SPINFER(spinfer_decode(&t.host, (uint16_t *)buffer_image(&t.dense), ld));
    return t;
}

static task task_random(size_t rows, size_t cols, double density, size_t ld, size_t shift, uint64_t seed)
{
    uint16_t *dense = (uint16_t *)allocate(2 * rows * cols);
    task      t;
    fill_random(dense, rows, cols, cols, density, seed);
    t = task_create(dense, rows, cols, seed & 1 ? SPINFER_BF16 : SPINFER_FP16, ld, shift);
    free(dense);
    return t;
}

static spinfer_status task_launch(const task *t, cudaStream_t stream)
{
    return spinfer_decompress_device(&t->W, buffer_payload(&t->dense), t->ld, stream);
}

static void check_output(const buffer *b, const spinfer_matrix *W, size_t ld)
{
    unsigned char *now = buffer_download(b);
    size_t         i;
    for (i = 0; i < b->total; i++)
        if (now[i] != b->image[i]) {
            fprintf(stderr, "byte %lld is 0x%02x instead of 0x%02x: rows %u cols %u ld %zu, off by %zu\n",
                    (long long)i - (long long)b->front, now[i], b->image[i], W->rows, W->cols, ld, b->front - GUARD);
            exit(1);
        }
    free(now);
}

static void task_check(const task *t)
{
    check_output(&t->dense, &t->W, t->ld);
    buffer_check_unchanged(&t->offsets);
    buffer_check_unchanged(&t->data);
}

static void task_run(const task *t)
{
    CHECK_SPINFER(task_launch(t, NULL));
    CHECK_CUDA(cudaDeviceSynchronize());
    task_check(t);
}

static void task_free(task *t)
{
    free_matrix(&t->host);
    buffer_free(&t->offsets);
    buffer_free(&t->data);
    buffer_free(&t->dense);
}

/* ---- Shapes, values, slices ------------------------------------------------------------------ */

static void test_shapes(void)
{
    static const double densities[] = {0, 0.02, 0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9, 1};
    static const size_t gaps[] = {0, 0, 1, 2, 7, 8, 24, 33}, shifts[] = {0, 0, 16, 2, 6, 8, 14, 18};
    const size_t        count = small_run() ? 10 : 500;
    size_t              i;
    for (i = 0; i < count; i++) {
        const size_t rows = 1 + (size_t)(random_bits(1, i) % 130), cols = 1 + (size_t)(random_bits(2, i) % 130);
        size_t       ld = cols + PICK(gaps, 3, i), shift = PICK(shifts, 4, i);
        task         t;
        if (i % 4 == 0) ld = (ld + 7) / 8 * 8, shift = shift / 16 * 16; /* 16-byte stores */
        t = task_random(rows, cols, PICK(densities, 5, i), ld, shift, i);
        task_run(&t);
        task_free(&t);
    }
}

/* More GroupTiles than warps on the GPU. */
static void test_many_tiles(void)
{
    static const size_t shapes[][2] = {{130, 3000}, {64, 40000}, {5000, 33}, {4096, 4096}};
    size_t              i;
    for (i = 0; i < (small_run() ? 1 : COUNT(shapes)); i++) {
        task t = task_random(shapes[i][0], shapes[i][1], 0.5, (shapes[i][1] + 15) / 8 * 8, 0, i);
        task_run(&t);
        task_free(&t);
    }
}

static void test_patterns(void)
{
    uint16_t *dense = (uint16_t *)allocate(2 * 0x10000);
    size_t    i;
    task      t;
    for (i = 0; i < 0x10000; i++) dense[i] = (uint16_t)(40503 * i); /* odd: every pattern once */
    t = task_create(dense, 256, 256, SPINFER_FP16, 256, 0);
    task_run(&t);
    task_free(&t);
    free(dense);
}

static void run_slice(const task *t, const spinfer_matrix *slice, const spinfer_matrix *host_slice, size_t ld)
{
    buffer dense = buffer_create(2 * span(slice->rows, slice->cols, ld), 0, small_run());
    CHECK_SPINFER(spinfer_decode(host_slice, (uint16_t *)buffer_image(&dense), ld));
    CHECK_SPINFER(spinfer_decompress_device(slice, buffer_payload(&dense), ld, NULL));
    CHECK_CUDA(cudaDeviceSynchronize());
    check_output(&dense, slice, ld);
    buffer_check_unchanged(&t->data);
    buffer_free(&dense);
}

static void test_slices(void)
{
    static const size_t parts[][4] = {{0, 64, 0, 333}, {64, 136, 0, 333}, {0, 200, 32, 64}, {128, 72, 320, 13}};
    task                t = task_random(200, 333, 0.5, 333, 0, 1);
    size_t              i;
    for (i = 0; i < COUNT(parts); i++) {
        spinfer_matrix rows, both, host_rows, host_both;
        CHECK_SPINFER(spinfer_slice_rows(&t.W, parts[i][0], parts[i][1], &rows));
        CHECK_SPINFER(spinfer_slice_cols(&rows, parts[i][2], parts[i][3], &both));
        CHECK_SPINFER(spinfer_slice_rows(&t.host, parts[i][0], parts[i][1], &host_rows));
        CHECK_SPINFER(spinfer_slice_cols(&host_rows, parts[i][2], parts[i][3], &host_both));
        run_slice(&t, &both, &host_both, both.cols);
        run_slice(&t, &both, &host_both, (both.cols + 15) / 8 * 8);
    }
    task_free(&t);
}

/* ---- Wrong arguments ------------------------------------------------------------------------- */

static int refusals;

/* The call returns its status, enqueues nothing, writes nothing, and leaves the error state of the caller alone. */
static void check_refused(const task *t, const spinfer_matrix *W, void *dense, size_t ld, spinfer_status expected,
                          int line)
{
    const cudaError_t error = cudaPeekAtLastError();
    spinfer_status    status;
    cudaStream_t      stream;
    cudaGraph_t       graph;
    size_t            nodes = 99;
    CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    status = spinfer_decompress_device(W, dense, ld, stream);
    CHECK_CUDA(cudaStreamEndCapture(stream, &graph));
    CHECK_CUDA(cudaGraphGetNodes(graph, NULL, &nodes));
    CHECK_CUDA(cudaGraphDestroy(graph));
    CHECK_CUDA(cudaStreamDestroy(stream));
    if (status != expected || nodes != 0) {
        fprintf(stderr, "line %d: \"%s\" instead of \"%s\", %zu nodes enqueued\n", line, spinfer_status_string(status),
                spinfer_status_string(expected), nodes);
        exit(1);
    }
    CHECK(spinfer_decompress_device(W, dense, ld, NULL) == expected);
    CHECK_CUDA(cudaDeviceSynchronize());
    CHECK(cudaPeekAtLastError() == error);
    task_check(t);
    refusals++;
}

#define REFUSED(change, status)                                                                                        \
    do {                                                                                                               \
        spinfer_matrix        W = t.W;                                                                                 \
        const spinfer_matrix *matrix = &W;                                                                             \
        void                 *dense = buffer_payload(&t.dense);                                                        \
        size_t                ld = t.ld;                                                                               \
        change;                                                                                                        \
        check_refused(&t, matrix, dense, ld, status, __LINE__);                                                        \
    } while (0)

static void test_arguments(void)
{
    task t = task_random(130, 600, 0.5, 600, 0, 4);
    task_run(&t);
    REFUSED(matrix = NULL, SPINFER_ERR_NULL);
    REFUSED(dense = NULL, SPINFER_ERR_NULL);
    REFUSED(W.offsets = NULL, SPINFER_ERR_NULL);
    REFUSED(W.data = NULL, SPINFER_ERR_NULL);
    REFUSED(ld = W.cols - 1, SPINFER_ERR_SHAPE);
    REFUSED(ld = 0, SPINFER_ERR_SHAPE);
    REFUSED(ld = SIZE_MAX / 2 / W.rows + 1, SPINFER_ERR_SHAPE);
    REFUSED(W.rows = 0, SPINFER_ERR_SHAPE);
    REFUSED(W.cols = 0, SPINFER_ERR_SHAPE);
    REFUSED(W.rows = 0xffffffffu, SPINFER_ERR_SHAPE);
    REFUSED(W.group_ld -= 1, SPINFER_ERR_SHAPE);
    REFUSED((W.rows = W.cols = 1u << 23, W.group_ld = W.cols / 32, ld = W.cols), SPINFER_ERR_SHAPE);
    REFUSED(dense = (char *)dense + 1, SPINFER_ERR_ALIGNMENT);
    REFUSED(W.offsets = (const uint32_t *)((const char *)W.offsets + 2), SPINFER_ERR_ALIGNMENT);
    REFUSED(W.data = (const char *)W.data + 8, SPINFER_ERR_ALIGNMENT);
    REFUSED(W.dtype = 3, SPINFER_ERR_DTYPE);
    REFUSED(W.format = SPINFER_FORMAT_VERSION + 1, SPINFER_ERR_VERSION);
    REFUSED(W.max_record = 0, SPINFER_ERR_FORMAT);
    task_free(&t);
}

/* ---- Streams and graphs ---------------------------------------------------------------------- */

static void test_streams_and_graph(void)
{
    const size_t    rows = small_run() ? 100 : 2000, cols = small_run() ? 200 : 3000;
    task            tasks[2] = {task_random(rows, cols, 0.4, cols, 0, 1), task_random(cols, rows, 0.8, rows + 1, 2, 2)};
    cudaStream_t    streams[2];
    cudaGraph_t     graph;
    cudaGraphExec_t replay;
    int             repeat, s;
    for (s = 0; s < 2; s++) CHECK_CUDA(cudaStreamCreateWithFlags(&streams[s], cudaStreamNonBlocking));
    for (repeat = 0; repeat < (small_run() ? 1 : 50); repeat++)
        for (s = 0; s < 2; s++) {
            CHECK_CUDA(cudaMemset2DAsync(buffer_payload(&tasks[s].dense), 2 * tasks[s].ld, 0xff, 2 * tasks[s].W.cols,
                                         tasks[s].W.rows, streams[s]));
            CHECK_SPINFER(task_launch(&tasks[s], streams[s]));
        }
    for (s = 0; s < 2; s++) {
        CHECK_CUDA(cudaStreamSynchronize(streams[s]));
        task_check(&tasks[s]);
        CHECK_CUDA(cudaMemset(tasks[s].dense.device, 0xff, tasks[s].dense.total));
    }
    CHECK_CUDA(cudaDeviceSynchronize());
    CHECK_CUDA(cudaStreamBeginCapture(streams[0], cudaStreamCaptureModeGlobal));
    for (s = 0; s < 2; s++) CHECK_SPINFER(task_launch(&tasks[s], streams[0]));
    CHECK_CUDA(cudaStreamEndCapture(streams[0], &graph));
    CHECK_CUDA(cudaGraphInstantiate(&replay, graph, 0));
    CHECK_CUDA(cudaGraphLaunch(replay, streams[0]));
    CHECK_CUDA(cudaStreamSynchronize(streams[0]));
    for (s = 0; s < 2; s++) {
        task_check(&tasks[s]);
        task_free(&tasks[s]);
        CHECK_CUDA(cudaStreamDestroy(streams[s]));
    }
    CHECK_CUDA(cudaGraphExecDestroy(replay));
    CHECK_CUDA(cudaGraphDestroy(graph));
}

/* ---- More than 2^31 weights and 2^32 bytes --------------------------------------------------- */

enum { STRIPS = 7, LARGE_GROUPS = 1040, LARGE_LD = 32808, LARGE_COLS = 32797 };

/* Encoded on the host, one of 7 different rows of GroupTiles at a time, and put together on the GPU. */
static void test_large(void)
{
    const size_t   rows = LARGE_GROUPS * 64, groups = spinfer_col_groups(LARGE_COLS);
    const size_t   offsets_bytes = (size_t)spinfer_offsets_bytes(rows, LARGE_COLS);
    uint16_t      *strip = (uint16_t *)allocate(2 * 64 * LARGE_LD), *expected[STRIPS], *dense;
    uint32_t      *offsets = (uint32_t *)allocate(offsets_bytes), unit = 0;
    spinfer_matrix strips[STRIPS], W;
    unsigned char *data;
    void          *device_offsets;
    size_t         free_bytes, total_bytes, row_group, group;
    int            s;
    CHECK(rows * LARGE_COLS > (size_t)1 << 31);
    CHECK_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes));
    if (free_bytes < (size_t)12 << 30) {
        printf("large: needs 12 GiB of device memory, not run\n");
        free(strip);
        free(offsets);
        return;
    }
    for (s = 0; s < STRIPS; s++) {
        uint16_t *tight = (uint16_t *)allocate(2 * 64 * LARGE_COLS);
        fill_random(tight, 64, LARGE_COLS, LARGE_COLS, 0.98, (uint64_t)s);
        strips[s] = encode_matrix(tight, 64, LARGE_COLS, SPINFER_FP16);
        expected[s] = (uint16_t *)allocate(2 * 64 * LARGE_LD);
        memset(expected[s], 0xff, 2 * 64 * LARGE_LD);
        CHECK_SPINFER(spinfer_decode(&strips[s], expected[s], LARGE_LD));
        free(tight);
    }
    W = strips[0];
    W.data_bytes = 0;
    for (row_group = 0; row_group < LARGE_GROUPS; row_group++) {
        const spinfer_matrix *from = &strips[row_group % STRIPS];
        for (group = 0; group <= groups; group++) offsets[row_group * groups + group] = unit + from->offsets[group];
        unit += from->offsets[groups];
        if (from->max_record > W.max_record) W.max_record = from->max_record;
    }
    W.data_bytes = (16 * (uint64_t)unit + 127) / 128 * 128;
    W.rows = (uint32_t)rows;
    CHECK(W.data_bytes > 1ull << 32);
    CHECK_CUDA(cudaMalloc((void **)&data, (size_t)W.data_bytes));
    CHECK_CUDA(cudaMalloc(&device_offsets, offsets_bytes));
    CHECK_CUDA(cudaMalloc((void **)&dense, 2 * rows * LARGE_LD));
    CHECK_CUDA(cudaMemcpy(device_offsets, offsets, offsets_bytes, cudaMemcpyHostToDevice));
    for (row_group = 0; row_group < LARGE_GROUPS; row_group++) {
        const spinfer_matrix *from = &strips[row_group % STRIPS];
        CHECK_CUDA(cudaMemcpy(data + 16 * (size_t)offsets[row_group * groups], from->data,
                              16 * (size_t)from->offsets[groups], cudaMemcpyHostToDevice));
    }
    CHECK_CUDA(cudaMemset(dense, 0xff, 2 * rows * LARGE_LD));
    W.offsets = (const uint32_t *)device_offsets;
    W.data = data;
    CHECK_SPINFER(spinfer_decompress_device(&W, dense, LARGE_LD, NULL));
    for (row_group = 0; row_group < LARGE_GROUPS; row_group++) {
        CHECK_CUDA(cudaMemcpy(strip, dense + row_group * 64 * LARGE_LD, 2 * 64 * LARGE_LD, cudaMemcpyDeviceToHost));
        CHECK(memcmp(strip, expected[row_group % STRIPS], 2 * 64 * LARGE_LD) == 0); /* gaps included */
    }
    for (s = 0; s < STRIPS; s++) {
        free_matrix(&strips[s]);
        free(expected[s]);
    }
    CHECK_CUDA(cudaFree(data));
    CHECK_CUDA(cudaFree(device_offsets));
    CHECK_CUDA(cudaFree(dense));
    free(strip);
    free(offsets);
}

int main(void)
{
    require_gpu();
    test_shapes();
    test_many_tiles();
    test_patterns();
    test_slices();
    test_arguments();
    test_streams_and_graph();
    if (!small_run()) test_large();
    printf("decompressed on the GPU as on the host, %d wrong calls refused\nOK\n", refusals);
    return 0;
}
