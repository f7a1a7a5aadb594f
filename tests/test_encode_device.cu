/* Risk: the GPU encodes other bytes than the host: an edge, a pattern, a threshold, an alignment, a tile that looks
 * back at the wrong one, a byte behind the capacity.
 *
 * Everything that a launch may write lies between guards and has an image of what it must hold (gpu.h): the arrays of
 * spinfer_encode() on the host, which also does the pruning. The workspace starts as garbage. */
#define SPINFER_IMPLEMENTATION
#include "gpu.h"
#include "test.h"

static const double densities[] = {0, 0.02, 0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9, 1};

/* ---- One call and all its arguments ---------------------------------------------------------- */

typedef struct encode_call {
    const void            *dense;
    size_t                 rows, cols, ld;
    spinfer_dtype          dtype;
    uint16_t               threshold;
    uint32_t              *offsets;
    uint64_t               offsets_bytes;
    void                  *data;
    uint64_t               data_bytes;
    spinfer_matrix        *matrix;
    spinfer_encode_result *result;
    void                  *workspace;
    size_t                 workspace_bytes;
} encode_call;

typedef spinfer_status run_function(const encode_call *c, cudaStream_t stream);

static spinfer_status run_sizes(const encode_call *c, cudaStream_t stream)
{
    return spinfer_encode_sizes_device(c->dense, c->rows, c->cols, c->ld, c->dtype, c->threshold, c->result,
                                       c->workspace, c->workspace_bytes, stream);
}

static spinfer_status run_encode(const encode_call *c, cudaStream_t stream)
{
    return spinfer_encode_device(c->dense, c->rows, c->cols, c->ld, c->dtype, c->threshold, c->offsets,
                                 c->offsets_bytes, c->data, c->data_bytes, c->matrix, c->result, c->workspace,
                                 c->workspace_bytes, stream);
}

/* ---- A weight to encode, and what must come out ---------------------------------------------- */

typedef struct task {
    size_t         rows, cols, ld;
    spinfer_dtype  dtype;
    uint16_t       threshold;
    buffer         dense, offsets, data, result, workspace;
    spinfer_sizes  sizes;
    spinfer_matrix matrix; /* as the call describes it */
} task;

static void task_describe(const task *t)
{
    fprintf(stderr, "rows %zu cols %zu ld %zu, off by %zu, %s, threshold 0x%x\n", t->rows, t->cols, t->ld,
            t->dense.front - GUARD, t->dtype == SPINFER_BF16 ? "bf16" : "fp16", t->threshold);
}

static uint16_t *task_weights(const task *t) { return (uint16_t *)buffer_image(&t->dense); }

/* The weights are 0xffff, NaN, until somebody fills them in; so are gaps and guards. Under compute-sanitizer nothing
 * lies behind the arrays, so that memcheck sees the first byte that is touched there. */
static task task_create(size_t rows, size_t cols, size_t ld, size_t shift, spinfer_dtype dtype, uint16_t threshold)
{
    const uint64_t offsets_bytes = spinfer_offsets_bytes(rows, cols);
    uint64_t       data_bytes;
    size_t         workspace_bytes;
    task           t;
    memset(&t, 0, sizeof t);
    CHECK_SPINFER(spinfer_encode_device_bytes(rows, cols, &data_bytes, &workspace_bytes));
    CHECK(data_bytes % 128 == 0 && data_bytes / SPINFER_RECORD_MAX_BYTES >= offsets_bytes / 4 - 1);
    t.rows = rows;
    t.cols = cols;
    t.ld = ld;
    t.dtype = dtype;
    t.threshold = threshold;
    t.dense = buffer_create(2 * span(rows, cols, ld), shift, small_run());
    t.offsets = buffer_create((size_t)offsets_bytes, 4, small_run());
    t.result = buffer_create(sizeof(spinfer_encode_result), 8, small_run());
    t.workspace = buffer_create(workspace_bytes, 16, small_run());
    return t;
}

/* Uploads the weights and computes the answer. data: at least what it takes; the rest must stay as it is. */
static void task_expect(task *t, size_t spare_bytes)
{
    uint16_t             *pruned = (uint16_t *)allocate(2 * t->rows * t->cols);
    spinfer_matrix        W;
    spinfer_encode_result result;
    size_t                row, col;
    for (row = 0; row < t->rows; row++)
        for (col = 0; col < t->cols; col++) {
            const uint16_t weight = task_weights(t)[row * t->ld + col];
            pruned[row * t->cols + col] = (weight & 0x7fff) > t->threshold ? weight : 0;
        }
    CHECK_SPINFER(spinfer_encode_sizes(pruned, t->rows, t->cols, t->cols, &t->sizes));
    W = encode_matrix(pruned, t->rows, t->cols, t->dtype);
    buffer_free(&t->data);
    t->data = buffer_create((size_t)t->sizes.data_bytes + spare_bytes, 128, small_run());
    memcpy(buffer_image(&t->data), W.data, (size_t)W.data_bytes);
    memcpy(buffer_image(&t->offsets), W.offsets, (size_t)t->sizes.offsets_bytes);
    memset(&result, 0, sizeof result);
    result.data_bytes = t->sizes.data_bytes;
    result.nnz = t->sizes.nnz;
    result.max_record = t->sizes.max_record;
    result.status = SPINFER_OK;
    memcpy(buffer_image(&t->result), &result, sizeof result);
    buffer_upload(&t->dense);
    free_matrix(&W);
    free(pruned);
}

static void task_free(task *t)
{
    buffer_free(&t->dense);
    buffer_free(&t->offsets);
    buffer_free(&t->data);
    buffer_free(&t->result);
    buffer_free(&t->workspace);
}

static encode_call task_call(task *t)
{
    encode_call c;
    c.dense = buffer_payload(&t->dense);
    c.rows = t->rows;
    c.cols = t->cols;
    c.ld = t->ld;
    c.dtype = t->dtype;
    c.threshold = t->threshold;
    c.offsets = (uint32_t *)buffer_payload(&t->offsets);
    c.offsets_bytes = t->offsets.bytes;
    c.data = buffer_payload(&t->data);
    c.data_bytes = t->data.bytes;
    c.matrix = &t->matrix;
    c.result = (spinfer_encode_result *)buffer_payload(&t->result);
    c.workspace = buffer_payload(&t->workspace);
    c.workspace_bytes = t->workspace.bytes;
    return c;
}

/* All that a launch writes becomes garbage again. */
static void task_clear(const task *t, cudaStream_t stream)
{
    const buffer *written[4] = {&t->offsets, &t->data, &t->result, &t->workspace};
    int           i;
    for (i = 0; i < 4; i++) CHECK_CUDA(cudaMemsetAsync(buffer_payload(written[i]), 0xff, written[i]->bytes, stream));
}

/* What the device holds is the image, every byte of it. */
static void task_compare(const task *t, const buffer *b, const char *what)
{
    unsigned char *now = buffer_download(b);
    size_t         i;
    for (i = 0; i < b->total; i++)
        if (now[i] != b->image[i]) {
            fprintf(stderr, "%s: byte %lld is 0x%02x instead of 0x%02x\n", what, (long long)i - (long long)b->front,
                    now[i], b->image[i]);
            task_describe(t);
            exit(1);
        }
    free(now);
}

static void task_check_result(const task *t)
{
    task_compare(t, &t->result, "result");
    buffer_check_guards(&t->workspace);
    buffer_check_unchanged(&t->dense);
}

static void task_check(const task *t)
{
    task_compare(t, &t->offsets, "offsets");
    task_compare(t, &t->data, "data");
    task_check_result(t);
    CHECK(t->matrix.offsets == buffer_payload(&t->offsets) && t->matrix.data == buffer_payload(&t->data));
    CHECK(t->matrix.data_bytes == t->data.bytes / 128 * 128 && t->matrix.max_record >= t->sizes.max_record);
    CHECK(t->matrix.rows == t->rows && t->matrix.cols == t->cols && t->matrix.dtype == (uint32_t)t->dtype);
    CHECK(spinfer_detail_check_matrix(&t->matrix) == SPINFER_OK);
}

/* Counts, encodes and checks both. */
static void task_run(task *t)
{
    const encode_call c = task_call(t);
    task_clear(t, NULL);
    CHECK_SPINFER(run_sizes(&c, NULL));
    CHECK_CUDA(cudaDeviceSynchronize());
    task_check_result(t);
    task_clear(t, NULL);
    CHECK_SPINFER(run_encode(&c, NULL));
    CHECK_CUDA(cudaDeviceSynchronize());
    task_check(t);
}

/* Fills in random weights, computes the answer, runs, frees. */
static void run_random(task *t, double density, size_t spare_bytes, uint64_t seed)
{
    fill_random(task_weights(t), t->rows, t->cols, t->ld, density, seed);
    task_expect(t, spare_bytes);
    task_run(t);
    task_free(t);
}

/* ---- Shapes, values, thresholds -------------------------------------------------------------- */

static void test_shapes(void)
{
    static const size_t gaps[] = {0, 0, 1, 2, 7, 8, 24, 33}, shifts[] = {0, 0, 16, 2, 6, 8, 14, 18};
    const size_t        count = small_run() ? 10 : 500;
    size_t              i;
    for (i = 0; i < count; i++) {
        const size_t rows = 1 + (size_t)(random_bits(1, i) % 130), cols = 1 + (size_t)(random_bits(2, i) % 130);
        size_t       ld = cols + PICK(gaps, 3, i), shift = PICK(shifts, 4, i);
        task         t;
        if (i % 4 == 0) ld = (ld + 7) / 8 * 8, shift = shift / 16 * 16; /* 16-byte loads */
        t = task_create(rows, cols, ld, shift, i & 1 ? SPINFER_BF16 : SPINFER_FP16, 0);
        run_random(&t, PICK(densities, 5, i), 0, i);
    }
}

/* More tiles than look back at a time, and more than a GPU has blocks; rows of GroupTiles that end inside a tile. */
static void test_many_tiles(void)
{
    static const struct {
        size_t rows, cols;
    } shapes[] = {{64, 32}, {64, 257}, {130, 3000}, {64, 40000}, {5000, 33}, {1500, 3000}, {4096, 4096}};
    size_t i, d;
    for (i = 0; i < (small_run() ? 3 : COUNT(shapes)); i++)
        for (d = 0; d < COUNT(densities); d += 1 + 2 * (size_t)small_run()) {
            task t = task_create(shapes[i].rows, shapes[i].cols, (shapes[i].cols + 7) / 8 * 8, 0, SPINFER_FP16, 0);
            run_random(&t, densities[d], 0, d);
        }
}

/* GroupTiles without any zero among GroupTiles without any value. */
static void test_uneven(void)
{
    const size_t rows = 640, cols = 1600;
    size_t       period;
    for (period = 1; period < 12; period += 5) {
        task   t = task_create(rows, cols, cols, 0, SPINFER_BF16, 0);
        size_t row, col;
        for (row = 0; row < rows; row++)
            for (col = 0; col < cols; col++)
                task_weights(&t)[row * cols + col] = (row / 64 * (cols / 32) + col / 32) % period ? 0x8000 : 0x3f80;
        task_expect(&t, 0);
        task_run(&t);
        task_free(&t);
    }
}

/* Every pattern of 16 bits, thresholds from nothing to infinity. */
static void test_patterns(void)
{
    static const uint16_t thresholds[] = {0,      1,      2,      0x3fe,  0x3ff,  0x400, 0x401,
                                          0x3c00, 0x3f80, 0x7bff, 0x7c00, 0x7f7f, 0x7f80};
    size_t                i, element;
    int                   is_bf16;
    for (is_bf16 = 0; is_bf16 < 2; is_bf16++)
        for (i = 0; i < COUNT(thresholds); i++) {
            task t;
            if (!is_bf16 && thresholds[i] > 0x7c00) continue;
            t = task_create(256, 256, 256, 0, is_bf16 ? SPINFER_BF16 : SPINFER_FP16, thresholds[i]);
            for (element = 0; element < 0x10000; element++) /* 40503 is odd: every pattern once */
                task_weights(&t)[element] = (uint16_t)(40503 * element);
            task_expect(&t, 0);
            task_run(&t);
            task_free(&t);
        }
}

/* Magnitude pruning as one uses it: |weight| > 0.01, and so many of normal weights remain. */
static void test_threshold(void)
{
    const size_t  rows = 300, cols = 500;
    spinfer_dtype dtype;
    int           i;
    for (i = 0; i < 2; i++) {
        task   t;
        size_t element, kept = 0;
        dtype = i ? SPINFER_BF16 : SPINFER_FP16;
        t = task_create(rows, cols, cols, 0, dtype, spinfer_from_float(0.01f, dtype));
        fill_normal(task_weights(&t), rows * cols, 0.015, dtype, 1);
        for (element = 0; element < rows * cols; element++)
            kept += fabsf(spinfer_to_float(task_weights(&t)[element], dtype)) >
                    spinfer_to_float(spinfer_from_float(0.01f, dtype), dtype);
        task_expect(&t, 0);
        CHECK(t.sizes.nnz == kept && kept > 0 && kept < rows * cols);
        task_run(&t);
        task_free(&t);
    }
}

/* ---- Capacity -------------------------------------------------------------------------------- */

/* More room than needed, up to the worst case, without asking for the sizes first; and less and less of it. */
static void test_capacity(void)
{
    const size_t rows = 200, cols = small_run() ? 300 : 1500;
    task         t = task_create(rows, cols, cols, 0, SPINFER_FP16, 0);
    uint64_t     most, least, step, steps = small_run() ? 2 : 20;
    fill_random(task_weights(&t), rows, cols, cols, 0.5, 3);
    CHECK_SPINFER(spinfer_encode_device_bytes(rows, cols, &most, NULL));
    task_expect(&t, 0);
    CHECK(t.sizes.data_bytes < most);
    task_expect(&t, (size_t)(most - t.sizes.data_bytes));
    task_run(&t);
    task_expect(&t, 127); /* a capacity need not be a multiple of 128 */
    task_run(&t);

    least = (spinfer_offsets_bytes(rows, cols) / 4 - 1) * SPINFER_RECORD_VALUES + 127;
    for (step = 0; step <= steps; step++) {
        const uint64_t         capacity = least + (t.sizes.data_bytes - 1 - least) * step / steps;
        encode_call            c = task_call(&t);
        spinfer_encode_result *expected = (spinfer_encode_result *)buffer_image(&t.result);
        buffer                 data = buffer_create((size_t)capacity, 128, small_run());
        c.data = buffer_payload(&data);
        c.data_bytes = capacity;
        expected->status = SPINFER_ERR_CAPACITY;
        task_clear(&t, NULL);
        CHECK_SPINFER(run_encode(&c, NULL));
        CHECK_CUDA(cudaDeviceSynchronize());
        buffer_check_guards(&data);
        task_check_result(&t);
        buffer_free(&data);
    }
    task_free(&t);
}

/* ---- Wrong arguments ------------------------------------------------------------------------- */

static int refusals;

/* The call returns its status, enqueues nothing, writes nothing, and leaves the error state of the caller alone. */
static void check_refused(run_function *run, const encode_call *c, const task *t, spinfer_status expected, int line)
{
    const cudaError_t    error = cudaPeekAtLastError();
    const spinfer_matrix before = t->matrix;
    spinfer_status       status;
    cudaStream_t         stream;
    cudaGraph_t          graph;
    size_t               nodes = 99;
    CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    status = run(c, stream);
    CHECK_CUDA(cudaStreamEndCapture(stream, &graph));
    CHECK_CUDA(cudaGraphGetNodes(graph, NULL, &nodes));
    CHECK_CUDA(cudaGraphDestroy(graph));
    CHECK_CUDA(cudaStreamDestroy(stream));
    if (status != expected || nodes != 0) {
        fprintf(stderr, "line %d: \"%s\" instead of \"%s\", %zu nodes enqueued\n", line, spinfer_status_string(status),
                spinfer_status_string(expected), nodes);
        exit(1);
    }
    CHECK(run(c, NULL) == expected);
    CHECK_CUDA(cudaDeviceSynchronize());
    CHECK(cudaPeekAtLastError() == error);
    CHECK(memcmp(&before, &t->matrix, sizeof before) == 0);
    task_check(t); /* the arrays of a good call before */
    refusals++;
}

#define REFUSED(run, change, status)                                                                                   \
    do {                                                                                                               \
        encode_call c = task_call(t);                                                                                  \
        change;                                                                                                        \
        check_refused(run, &c, t, status, __LINE__);                                                                   \
    } while (0)

#define REFUSED_BY_BOTH(change, status)                                                                                \
    do {                                                                                                               \
        REFUSED(run_sizes, change, status);                                                                            \
        REFUSED(run_encode, change, status);                                                                           \
    } while (0)

static void test_arguments(task *t)
{
    const uint64_t least = (spinfer_offsets_bytes(t->rows, t->cols) / 4 - 1) * SPINFER_RECORD_VALUES;
    REFUSED_BY_BOTH(c.dense = NULL, SPINFER_ERR_NULL);
    REFUSED_BY_BOTH(c.result = NULL, SPINFER_ERR_NULL);
    REFUSED_BY_BOTH(c.workspace = NULL, SPINFER_ERR_NULL);
    REFUSED(run_encode, c.offsets = NULL, SPINFER_ERR_NULL);
    REFUSED(run_encode, c.data = NULL, SPINFER_ERR_NULL);
    REFUSED(run_encode, c.matrix = NULL, SPINFER_ERR_NULL);

    REFUSED_BY_BOTH(c.rows = 0, SPINFER_ERR_SHAPE);
    REFUSED_BY_BOTH(c.cols = 0, SPINFER_ERR_SHAPE);
    REFUSED_BY_BOTH(c.rows = (size_t)SPINFER_MAX_DIM + 1, SPINFER_ERR_SHAPE);
    REFUSED_BY_BOTH((c.cols = (size_t)SPINFER_MAX_DIM + 1, c.ld = c.cols), SPINFER_ERR_SHAPE);
    REFUSED_BY_BOTH(c.rows += (size_t)1 << 32, SPINFER_ERR_SHAPE);
    REFUSED_BY_BOTH(c.ld = c.cols - 1, SPINFER_ERR_SHAPE);
    REFUSED_BY_BOTH(c.ld = 0, SPINFER_ERR_SHAPE);
    REFUSED_BY_BOTH(c.ld = SIZE_MAX / 2 / c.rows + 1, SPINFER_ERR_SHAPE); /* bytes overflow */
    REFUSED_BY_BOTH((c.rows = c.cols = c.ld = (size_t)1 << 22), SPINFER_ERR_OVERFLOW);

    REFUSED_BY_BOTH(c.dense = (const char *)c.dense + 1, SPINFER_ERR_ALIGNMENT);
    REFUSED_BY_BOTH(c.result = (spinfer_encode_result *)((char *)c.result + 4), SPINFER_ERR_ALIGNMENT);
    REFUSED_BY_BOTH(c.workspace = (char *)c.workspace + 8, SPINFER_ERR_ALIGNMENT);
    REFUSED(run_encode, c.offsets = (uint32_t *)((char *)c.offsets + 2), SPINFER_ERR_ALIGNMENT);
    REFUSED(run_encode, c.data = (char *)c.data + 64, SPINFER_ERR_ALIGNMENT);
    REFUSED(run_encode, c.data = (char *)c.data + 16, SPINFER_ERR_ALIGNMENT);

    REFUSED_BY_BOTH(c.dtype = (spinfer_dtype)0, SPINFER_ERR_DTYPE);
    REFUSED_BY_BOTH(c.dtype = (spinfer_dtype)3, SPINFER_ERR_DTYPE);
    REFUSED_BY_BOTH((c.dtype = SPINFER_FP16, c.threshold = 0x7c01), SPINFER_ERR_DTYPE);
    REFUSED_BY_BOTH((c.dtype = SPINFER_BF16, c.threshold = 0x7f81), SPINFER_ERR_DTYPE);
    REFUSED_BY_BOTH(c.threshold = 0x8000, SPINFER_ERR_DTYPE);
    REFUSED_BY_BOTH(c.threshold = 0xffff, SPINFER_ERR_DTYPE);

    REFUSED_BY_BOTH(c.workspace_bytes -= 1, SPINFER_ERR_CAPACITY);
    REFUSED_BY_BOTH(c.workspace_bytes = 0, SPINFER_ERR_CAPACITY);
    REFUSED(run_encode, c.offsets_bytes -= 1, SPINFER_ERR_CAPACITY);
    REFUSED(run_encode, c.data_bytes = least - 1, SPINFER_ERR_CAPACITY);
    REFUSED(run_encode, c.data_bytes = 0, SPINFER_ERR_CAPACITY);
}

static void test_size_query(void)
{
    uint64_t data_bytes = 5;
    size_t   workspace_bytes = 5;
    CHECK(spinfer_encode_device_bytes(0, 1, &data_bytes, &workspace_bytes) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_encode_device_bytes(1, SIZE_MAX, &data_bytes, &workspace_bytes) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_encode_device_bytes((size_t)1 << 22, (size_t)1 << 22, &data_bytes, &workspace_bytes) ==
          SPINFER_ERR_OVERFLOW);
    CHECK(data_bytes == 5 && workspace_bytes == 5);
    CHECK_SPINFER(spinfer_encode_device_bytes(1, 1, &data_bytes, &workspace_bytes));
    CHECK(data_bytes == (SPINFER_RECORD_MAX_BYTES + 127) / 128 * 128 && workspace_bytes > 5);
    CHECK_SPINFER(spinfer_encode_device_bytes((size_t)1 << 18, (size_t)1 << 17, &data_bytes, NULL));
    CHECK(data_bytes == (uint64_t)SPINFER_RECORD_MAX_BYTES << 24);
    CHECK_SPINFER(spinfer_encode_device_bytes(1, 1, NULL, NULL));
}

/* ---- Streams and graphs ---------------------------------------------------------------------- */

static cudaStream_t create_stream(void)
{
    cudaStream_t stream;
    CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
}

/* Both fill the GPU, so blocks of one wait while blocks of the other run. */
static void test_two_streams(void)
{
    const size_t rows = small_run() ? 100 : 2000, cols = small_run() ? 200 : 3000;
    task         tasks[2] = {task_create(rows, cols, cols, 0, SPINFER_FP16, 0),
                             task_create(cols, rows, rows + 1, 2, SPINFER_BF16, 0x3f00)};
    cudaStream_t streams[2] = {create_stream(), create_stream()};
    int          repeat, s;
    for (s = 0; s < 2; s++) {
        fill_random(task_weights(&tasks[s]), tasks[s].rows, tasks[s].cols, tasks[s].ld, 0.6, 7);
        task_expect(&tasks[s], 0);
    }
    for (repeat = 0; repeat < (small_run() ? 1 : 50); repeat++)
        for (s = 0; s < 2; s++) {
            const encode_call c = task_call(&tasks[s]);
            task_clear(&tasks[s], streams[s]);
            CHECK_SPINFER(run_sizes(&c, streams[s]));
            CHECK_SPINFER(run_encode(&c, streams[s]));
        }
    for (s = 0; s < 2; s++) {
        CHECK_CUDA(cudaStreamSynchronize(streams[s]));
        task_check(&tasks[s]);
        task_free(&tasks[s]);
        CHECK_CUDA(cudaStreamDestroy(streams[s]));
    }
}

/* A graph holds pointers: every replay encodes the weights of its time. */
static void test_graph(void)
{
    const size_t    rows = 300, cols = 700;
    task            t = task_create(rows, cols, cols, 0, SPINFER_FP16, 0);
    cudaStream_t    stream = create_stream();
    cudaGraph_t     graph;
    cudaGraphExec_t replay;
    encode_call     c;
    buffer          data; /* of the worst case, so that every input fits */
    uint64_t        most;
    int             input;
    CHECK_SPINFER(spinfer_encode_device_bytes(rows, cols, &most, NULL));
    data = buffer_create((size_t)most, 0, 0);
    fill_random(task_weights(&t), rows, cols, cols, 0.5, 1);
    task_expect(&t, 0);
    c = task_call(&t);
    c.data = buffer_payload(&data);
    c.data_bytes = most;
    CHECK_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    CHECK_SPINFER(run_sizes(&c, stream));
    CHECK_SPINFER(run_encode(&c, stream));
    CHECK_CUDA(cudaStreamEndCapture(stream, &graph));
    buffer_check_unchanged(&data); /* captured, not run */
    CHECK_CUDA(cudaGraphInstantiate(&replay, graph, 0));
    for (input = 0; input <= 4; input++) {
        fill_random(task_weights(&t), rows, cols, cols, 0.25 * input, (uint64_t)input);
        task_expect(&t, 0);
        memset(buffer_image(&data), 0xff, data.bytes);
        memcpy(buffer_image(&data), buffer_image(&t.data), (size_t)t.sizes.data_bytes);
        CHECK_CUDA(cudaMemset(data.device, 0xff, data.total));
        CHECK_CUDA(cudaDeviceSynchronize());
        CHECK_CUDA(cudaGraphLaunch(replay, stream));
        CHECK_CUDA(cudaStreamSynchronize(stream));
        task_compare(&t, &data, "data");
        task_compare(&t, &t.offsets, "offsets");
        task_check_result(&t);
    }
    CHECK_CUDA(cudaGraphExecDestroy(replay));
    CHECK_CUDA(cudaGraphDestroy(graph));
    CHECK_CUDA(cudaStreamDestroy(stream));
    buffer_free(&data);
    task_free(&t);
}

/* ---- More than 2^31 weights and 2^32 bytes --------------------------------------------------- */

enum { STRIPS = 7, LARGE_GROUPS = 1040, LARGE_LD = 32800, LARGE_COLS = LARGE_LD - 3, LAST_ROWS = 61 };

/* The matrix is put together on the GPU from 7 different rows of GroupTiles and a last one that is cut off. */
static void test_large(void)
{
    const size_t          rows = (LARGE_GROUPS - 1) * 64 + LAST_ROWS, groups = spinfer_col_groups(LARGE_COLS);
    const uint64_t        offsets_bytes = spinfer_offsets_bytes(rows, LARGE_COLS);
    uint16_t             *strip = (uint16_t *)allocate(2 * 64 * LARGE_LD);
    uint32_t             *offsets = (uint32_t *)allocate((size_t)offsets_bytes), unit = 0;
    spinfer_matrix        strips[STRIPS + 1], W; /* the last one: what is cut off */
    spinfer_encode_result result, *device_result;
    uint16_t             *dense;
    unsigned char        *data, *now = (unsigned char *)allocate(groups * SPINFER_RECORD_MAX_BYTES);
    void                 *workspace, *device_offsets;
    size_t                workspace_bytes, free_bytes, total_bytes, row_group, group;
    int                   s;
    CHECK(rows * LARGE_COLS > (size_t)1 << 31);
    CHECK_SPINFER(spinfer_encode_device_bytes(rows, LARGE_COLS, NULL, &workspace_bytes));
    CHECK_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes));
    if (free_bytes < (size_t)12 << 30) {
        printf("large: needs 12 GiB of device memory, not run\n");
        free(strip);
        free(offsets);
        free(now);
        return;
    }
    CHECK_CUDA(cudaMalloc((void **)&dense, 2 * rows * LARGE_LD));
    CHECK_CUDA(cudaMalloc((void **)&device_result, sizeof *device_result));
    CHECK_CUDA(cudaMalloc(&workspace, workspace_bytes));
    CHECK_CUDA(cudaMalloc(&device_offsets, (size_t)offsets_bytes));
    for (s = 0; s <= STRIPS; s++) {
        const size_t height = s < STRIPS ? 64 : LAST_ROWS, first = s < STRIPS ? (size_t)s : LARGE_GROUPS - 1;
        uint16_t    *tight = (uint16_t *)allocate(2 * 64 * LARGE_COLS);
        size_t       row;
        memset(strip, 0xff, 2 * 64 * LARGE_LD);
        fill_random(strip, height, LARGE_COLS, LARGE_LD, 0.98, (uint64_t)s);
        for (row = 0; row < height; row++) memcpy(tight + row * LARGE_COLS, strip + row * LARGE_LD, 2 * LARGE_COLS);
        strips[s] = encode_matrix(tight, height, LARGE_COLS, SPINFER_FP16);
        for (row_group = first; row_group < (s < STRIPS ? LARGE_GROUPS - 1 : LARGE_GROUPS); row_group += STRIPS)
            CHECK_CUDA(
                cudaMemcpy(dense + row_group * 64 * LARGE_LD, strip, 2 * height * LARGE_LD, cudaMemcpyHostToDevice));
        free(tight);
    }

    CHECK_SPINFER(spinfer_encode_sizes_device(dense, rows, LARGE_COLS, LARGE_LD, SPINFER_FP16, 0, device_result,
                                              workspace, workspace_bytes, NULL));
    CHECK_CUDA(cudaMemcpy(&result, device_result, sizeof result, cudaMemcpyDeviceToHost));
    CHECK(result.status == SPINFER_OK && result.data_bytes > 1ull << 32);
    CHECK_CUDA(cudaMalloc((void **)&data, (size_t)result.data_bytes));
    CHECK_SPINFER(spinfer_encode_device(dense, rows, LARGE_COLS, LARGE_LD, SPINFER_FP16, 0, (uint32_t *)device_offsets,
                                        offsets_bytes, data, result.data_bytes, &W, device_result, workspace,
                                        workspace_bytes, NULL));
    CHECK_CUDA(cudaMemcpy(&result, device_result, sizeof result, cudaMemcpyDeviceToHost));
    CHECK(result.status == SPINFER_OK && result.data_bytes == W.data_bytes);
    CHECK_CUDA(cudaMemcpy(offsets, device_offsets, (size_t)offsets_bytes, cudaMemcpyDeviceToHost));
    for (row_group = 0; row_group < LARGE_GROUPS; row_group++) {
        const spinfer_matrix *from = &strips[row_group + 1 < LARGE_GROUPS ? row_group % STRIPS : (size_t)STRIPS];
        const size_t          bytes = 16 * (size_t)from->offsets[groups];
        for (group = 0; group <= groups; group++)
            CHECK(offsets[row_group * groups + group] == unit + from->offsets[group]);
        CHECK_CUDA(cudaMemcpy(now, data + 16 * (size_t)unit, bytes, cudaMemcpyDeviceToHost));
        CHECK(memcmp(now, from->data, bytes) == 0);
        unit += from->offsets[groups];
    }
    CHECK(result.data_bytes == (16 * (uint64_t)unit + 127) / 128 * 128);

    for (s = 0; s <= STRIPS; s++) free_matrix(&strips[s]);
    CHECK_CUDA(cudaFree(dense));
    CHECK_CUDA(cudaFree(data));
    CHECK_CUDA(cudaFree(device_result));
    CHECK_CUDA(cudaFree(device_offsets));
    CHECK_CUDA(cudaFree(workspace));
    free(strip);
    free(offsets);
    free(now);
}

int main(void)
{
    task        t;
    encode_call c;
    require_gpu();
    test_size_query();
    test_shapes();
    test_many_tiles();
    test_uneven();
    test_patterns();
    test_threshold();
    test_capacity();
    test_two_streams();
    test_graph();

    t = task_create(130, 600, 600, 0, SPINFER_FP16, 0);
    fill_random(task_weights(&t), t.rows, t.cols, t.ld, 0.5, 9);
    task_expect(&t, 0);
    c = task_call(&t);
    CHECK_SPINFER(run_encode(&c, NULL));
    CHECK_CUDA(cudaDeviceSynchronize());
    task_check(&t);
    test_arguments(&t);
    task_free(&t);

    if (!small_run()) test_large();
    printf("encoded on the GPU as on the host, %d wrong calls refused\nOK\n", refusals);
    return 0;
}
