/* gpu.h - what the GPU tests share: skipping, guarded device memory, integer problems with an exact answer.
 *
 * A file defines SPINFER_IMPLEMENTATION and includes this header, which includes spinfer.cuh.
 *
 * Most tests multiply small integers. Weights are -4..4, X is -4..4: all products and all partial sums stay below 2^24,
 * so they are exact in fp32 in every order, and Y must be == the integer product, rounded to 16 bits once. */
#ifndef SPINFER_TESTS_GPU_H
#define SPINFER_TESTS_GPU_H

#include "common.h"
#include "spinfer.cuh"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* compute-sanitizer slows a kernel down a hundredfold. Its runs set SPINFER_TEST_SMALL=1. */
static inline int small_run(void)
{
    const char *small = getenv("SPINFER_TEST_SMALL");
    return small && strcmp(small, "1") == 0;
}

static inline void skip(const char *why)
{
    printf("skipped: %s\n", why);
    exit(SKIPPED);
}

/* The GPU to test on. Without one the test is skipped; a GPU that fails is a failure. */
static inline spinfer_device require_gpu(void)
{
    spinfer_device    device;
    int               count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver) skip(cudaGetErrorString(error));
    CHECK_CUDA(error);
    CHECK_SPINFER(spinfer_device_query(&device));
    if (device.compute < 80) skip("the GPU is older than sm_80");
    return device;
}

/* One of count list entries, drawn by (seed, index). */
#define PICK(list, seed, index) ((list)[random_bits(seed, index) % COUNT(list)])

/* ---- Device memory between guards ------------------------------------------------------------ */

enum { GUARD = 4096 };

/* Device memory with a host image of what all of it must hold. It starts as 0xff bytes, guards included: as fp16 and as
 * bf16 that is NaN, so what is read from the wrong place shows in the result as well. */
typedef struct buffer {
    unsigned char *device, *image;
    size_t         front, bytes, total; /* the payload is device[front .. front + bytes - 1] */
} buffer;

/* shift: bytes by which the payload is off a 256-byte boundary.
 * tight: nothing behind the payload, so that memcheck reports the first byte that is touched behind it. */
static inline buffer buffer_create(size_t bytes, size_t shift, int tight)
{
    buffer b;
    b.front = GUARD + shift;
    b.bytes = bytes;
    b.total = b.front + bytes + (tight ? 0 : GUARD);
    b.image = (unsigned char *)allocate(b.total);
    memset(b.image, 0xff, b.total);
    CHECK_CUDA(cudaMalloc((void **)&b.device, b.total));
    CHECK_CUDA(cudaMemset(b.device, 0xff, b.total));
    return b;
}

static inline void buffer_free(buffer *b)
{
    if (b->device) CHECK_CUDA(cudaFree(b->device));
    free(b->image);
    memset(b, 0, sizeof *b);
}

static inline void *buffer_payload(const buffer *b) { return b->device + b->front; }
static inline void *buffer_image(const buffer *b) { return b->image + b->front; }

/* Done when it returns, for every stream. */
static inline void buffer_upload(const buffer *b)
{
    CHECK_CUDA(cudaMemcpy(b->device, b->image, b->total, cudaMemcpyHostToDevice));
    CHECK_CUDA(cudaDeviceSynchronize());
}

/* What the device holds now, all of it. Free with free(). */
static inline unsigned char *buffer_download(const buffer *b)
{
    unsigned char *copy = (unsigned char *)allocate(b->total);
    CHECK_CUDA(cudaMemcpy(copy, b->device, b->total, cudaMemcpyDeviceToHost));
    return copy;
}

static inline void buffer_check_unchanged(const buffer *b)
{
    unsigned char *now = buffer_download(b);
    CHECK(memcmp(now, b->image, b->total) == 0);
    free(now);
}

static inline void buffer_check_guards(const buffer *b)
{
    unsigned char *now = buffer_download(b);
    const size_t   back = b->front + b->bytes;
    CHECK(memcmp(now, b->image, b->front) == 0);
    CHECK(memcmp(now + back, b->image + back, b->total - back) == 0);
    free(now);
}

/* ---- Weights --------------------------------------------------------------------------------- */

/* Copies an encoded matrix into two device allocations of exactly its size. */
static inline spinfer_matrix upload_matrix(const spinfer_matrix *host)
{
    const size_t   offsets_bytes = 4 * ((size_t)spinfer_row_groups(host->rows) * host->group_ld + 1);
    spinfer_matrix device = *host;
    void          *offsets, *data;
    CHECK_CUDA(cudaMalloc(&offsets, offsets_bytes));
    CHECK_CUDA(cudaMalloc(&data, (size_t)host->data_bytes));
    CHECK_CUDA(cudaMemcpy(offsets, host->offsets, offsets_bytes, cudaMemcpyHostToDevice));
    CHECK_CUDA(cudaMemcpy(data, host->data, (size_t)host->data_bytes, cudaMemcpyHostToDevice));
    device.offsets = (const uint32_t *)offsets;
    device.data = data;
    return device;
}

static inline void free_device_matrix(spinfer_matrix *device)
{
    CHECK_CUDA(cudaFree((void *)device->offsets));
    CHECK_CUDA(cudaFree((void *)device->data));
}

/* A weight of small integers: as integers, encoded on the host, encoded on the device. */
typedef struct weights {
    size_t         M, K, ld;
    int8_t        *integers; /* [M, K], row m starts at m * ld */
    spinfer_matrix host, device;
} weights;

/* [M, K] integers: 0, or with the given density one of -4..-1, 1..4. Free with free(). */
static inline int8_t *random_integers(size_t M, size_t K, double density, uint64_t seed)
{
    int8_t   *integers = (int8_t *)allocate(M * K);
    long long i;
#ifdef _OPENMP
#pragma omp parallel for
#endif
    for (i = 0; i < (long long)(M * K); i++) {
        const int value = 1 + (int)(random_bits(seed, (uint64_t)i) & 3);
        const int sign = random_bits(seed, (uint64_t)i) & 4 ? -1 : 1;
        integers[i] = (int8_t)(random_unit(seed, (uint64_t)i) < density ? sign * value : 0);
    }
    return integers;
}

/* Takes the integers over. Free with weights_free(). */
static inline weights weights_create(int8_t *integers, size_t M, size_t K, spinfer_dtype dtype)
{
    uint16_t *dense = (uint16_t *)allocate(M * K * sizeof *dense);
    weights   W;
    size_t    i;
    for (i = 0; i < M * K; i++) dense[i] = spinfer_from_float((float)integers[i], dtype);
    W.M = M;
    W.K = W.ld = K;
    W.integers = integers;
    W.host = encode_matrix(dense, M, K, dtype);
    W.device = upload_matrix(&W.host);
    free(dense);
    return W;
}

static inline weights weights_random(size_t M, size_t K, double density, spinfer_dtype dtype, uint64_t seed)
{
    return weights_create(random_integers(M, K, density, seed), M, K, dtype);
}

static inline void weights_free(weights *W)
{
    free(W->integers);
    free_matrix(&W->host);
    free_device_matrix(&W->device);
}

/* ---- Launches -------------------------------------------------------------------------------- */

/* The arguments of spinfer_spmm(), to be changed one by one. */
typedef struct arguments {
    const spinfer_plan   *plan;
    float                 alpha;
    const spinfer_matrix *W;
    const void           *X;
    size_t                ldx;
    float                 beta;
    void                 *Y;
    size_t                ldy, n;
    void                 *workspace;
    size_t                workspace_bytes;
} arguments;

static inline spinfer_status launch(const arguments *a, cudaStream_t stream)
{
    return spinfer_spmm(a->plan, a->alpha, a->W, a->X, a->ldx, a->beta, a->Y, a->ldy, a->n, a->workspace,
                        a->workspace_bytes, stream);
}

/* Calls spinfer_spmm() on a stream that is being captured. *nodes: what it enqueued there. Nothing runs. */
static inline spinfer_status launch_captured(const arguments *a, size_t *nodes)
{
    cudaStream_t   stream;
    cudaGraph_t    graph;
    spinfer_status status;
    CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    status = launch(a, stream);
    CHECK_CUDA(cudaStreamEndCapture(stream, &graph));
    CHECK_CUDA(cudaGraphGetNodes(graph, NULL, nodes));
    CHECK_CUDA(cudaGraphDestroy(graph));
    CHECK_CUDA(cudaStreamDestroy(stream));
    return status;
}

/* ---- Jobs: one multiply with an exact answer ------------------------------------------------- */

typedef struct job {
    const weights      *W; /* the first part: job_default() sets it, a test changes it */
    size_t              n, ldx, ldy;
    size_t              x_shift, y_shift; /* bytes off a 256-byte boundary, even */
    size_t              x_behind;         /* columns of X behind the last token, for nobody to read */
    uint16_t            x_poison;         /* in all of X's memory that is no element of it; job_default(): NaN */
    int                 tight;            /* X, Y and workspace end where their allocations end */
    float               alpha, beta;
    const spinfer_plan *plan;     /* job_set_plan() */
    uint16_t           *expected; /* [n, M], job_set_input() */
    buffer              X, Y, workspace;
} job;

static inline job job_default(const weights *W, size_t n)
{
    job j;
    memset(&j, 0, sizeof j);
    j.W = W;
    j.n = n;
    j.ldx = W->K;
    j.ldy = W->M;
    j.alpha = 1.0f;
    j.x_poison = 0xffff;
    return j;
}

/* Y = alpha W x + beta y in integers, rounded to 16 bits once: expected [n, M]. x [n, K], y [n, M]. */
static inline void integer_product(const weights *W, float alpha, const int8_t *x, float beta, const int8_t *y,
                                   size_t n, uint16_t *expected)
{
    const spinfer_dtype dtype = (spinfer_dtype)W->host.dtype;
    long long           row;
#ifdef _OPENMP
#pragma omp parallel for
#endif
    for (row = 0; row < (long long)W->M; row++) {
        const int8_t *w = W->integers + (size_t)row * W->ld;
        size_t        token, k;
        for (token = 0; token < n; token++) {
            const size_t at = token * W->M + (size_t)row;
            int          sum = 0;
            for (k = 0; k < W->K; k++) sum += w[k] * x[token * W->K + k];
            expected[at] = spinfer_from_float(alpha * (float)sum + beta * (float)y[at], dtype);
        }
    }
}

/* Draws X and, unless beta is 0, Y; computes the answer; uploads. What is not Y is NaN, Y too if beta is 0. */
static inline void job_set_input(job *j, uint64_t seed)
{
    const size_t        M = j->W->M, K = j->W->K;
    const spinfer_dtype dtype = (spinfer_dtype)j->W->host.dtype;
    int8_t             *x = (int8_t *)allocate(j->n * K), *y = (int8_t *)allocate(j->n * M);
    uint16_t           *x_image = (uint16_t *)buffer_image(&j->X), *y_image = (uint16_t *)buffer_image(&j->Y);
    size_t              token, i;
    for (i = 0; i < j->X.bytes / 2; i++) x_image[i] = j->x_poison;
    for (i = 0; i < j->n * K; i++) x[i] = (int8_t)((int)(random_bits(seed, i) % 9) - 4);
    for (i = 0; i < j->n * M; i++) y[i] = (int8_t)((int)(random_bits(~seed, i) % 9) - 4);
    for (token = 0; token < j->n; token++) {
        for (i = 0; i < K; i++) x_image[token * j->ldx + i] = spinfer_from_float((float)x[token * K + i], dtype);
        for (i = 0; i < M; i++)
            y_image[token * j->ldy + i] = j->beta != 0.0f ? spinfer_from_float((float)y[token * M + i], dtype) : 0xffff;
    }
    integer_product(j->W, j->alpha, x, j->beta, y, j->n, j->expected);
    buffer_upload(&j->X);
    buffer_upload(&j->Y);
    free(x);
    free(y);
}

static inline void job_create(job *j, uint64_t seed)
{
    j->expected = (uint16_t *)allocate(j->n * j->W->M * sizeof *j->expected);
    j->X = buffer_create(2 * ((j->n + j->x_behind - 1) * j->ldx + j->W->K), j->x_shift, j->tight);
    j->Y = buffer_create(2 * ((j->n - 1) * j->ldy + j->W->M), j->y_shift, j->tight);
    job_set_input(j, seed);
}

static inline void job_free(job *j)
{
    free(j->expected);
    buffer_free(&j->X);
    buffer_free(&j->Y);
    buffer_free(&j->workspace);
}

/* The plan to launch with (NULL: the library's choice), and a zeroed workspace of exactly the bytes it asks for. */
static inline spinfer_status job_set_plan(job *j, const spinfer_plan *plan)
{
    spinfer_plan   chosen;
    spinfer_device device;
    size_t         bytes;
    spinfer_status status;
    if (plan) {
        chosen = *plan;
    } else {
        CHECK_SPINFER(spinfer_device_query(&device));
        CHECK_SPINFER(spinfer_spmm_plan(&j->W->device, j->n, &device, &chosen));
    }
    status = spinfer_spmm_workspace_bytes(&chosen, &j->W->device, j->n, &bytes);
    if (status != SPINFER_OK) return status;
    j->plan = plan;
    buffer_free(&j->workspace);
    if (bytes) {
        j->workspace = buffer_create(bytes, 0, j->tight);
        memset(buffer_image(&j->workspace), 0, bytes);
        buffer_upload(&j->workspace);
    }
    return SPINFER_OK;
}

static inline arguments job_arguments(const job *j)
{
    arguments a;
    a.plan = j->plan;
    a.alpha = j->alpha;
    a.W = &j->W->device;
    a.X = buffer_payload(&j->X);
    a.ldx = j->ldx;
    a.beta = j->beta;
    a.Y = buffer_payload(&j->Y);
    a.ldy = j->ldy;
    a.n = j->n;
    a.workspace = j->workspace.bytes ? buffer_payload(&j->workspace) : NULL;
    a.workspace_bytes = j->workspace.bytes;
    return a;
}

static inline spinfer_status job_launch(const job *j, cudaStream_t stream)
{
    const arguments a = job_arguments(j);
    return launch(&a, stream);
}

static inline void print_plan(const spinfer_plan *p)
{
    fprintf(stderr,
            "tokens %d strips %d team %d warps_k %d stages %d splits %d x_cols %d x_pieces %d dependent %d helpers %d "
            "tail %d\n",
            p->tokens, p->strips, p->team, p->warps_k, p->stages, p->splits, p->x_cols, p->x_pieces, p->dependent,
            p->helpers, p->tail);
}

static inline void job_describe(const job *j)
{
    fprintf(stderr, "M %zu K %zu n %zu ldx %zu ldy %zu, X off by %zu, Y off by %zu, alpha %g beta %g, %s\n", j->W->M,
            j->W->K, j->n, j->ldx, j->ldy, j->x_shift, j->y_shift, (double)j->alpha, (double)j->beta,
            j->W->host.dtype == SPINFER_BF16 ? "bf16" : "fp16");
    if (j->plan) print_plan(j->plan);
}

/* After the launch has run: Y is the answer, everything around it and everything else is as it was, which for the
 * workspace means zeros. */
static inline void job_check(const job *j)
{
    const spinfer_dtype dtype = (spinfer_dtype)j->W->host.dtype;
    unsigned char      *now = buffer_download(&j->Y);
    uint16_t           *y = (uint16_t *)(now + j->Y.front);
    const uint16_t     *before = (const uint16_t *)buffer_image(&j->Y);
    size_t              token, row;
    for (token = 0; token < j->n; token++)
        for (row = 0; row < j->W->M; row++) {
            const uint16_t result = y[token * j->ldy + row], expected = j->expected[token * j->W->M + row];
            if (spinfer_to_float(result, dtype) != spinfer_to_float(expected, dtype)) {
                fprintf(stderr, "row %zu, token %zu: %g instead of %g\n", row, token,
                        (double)spinfer_to_float(result, dtype), (double)spinfer_to_float(expected, dtype));
                job_describe(j);
                exit(1);
            }
            y[token * j->ldy + row] = before[token * j->ldy + row]; /* what is left must be as it was */
        }
    if (memcmp(now, j->Y.image, j->Y.total) != 0) {
        fprintf(stderr, "written outside of Y\n");
        job_describe(j);
        exit(1);
    }
    free(now);
    buffer_check_unchanged(&j->X);
    if (j->workspace.bytes) buffer_check_unchanged(&j->workspace);
}

/* Sets the plan, launches, checks. A plan that is refused is a failure. */
static inline void job_run(job *j, const spinfer_plan *plan)
{
    spinfer_status status = job_set_plan(j, plan);
    if (status == SPINFER_OK) status = job_launch(j, NULL);
    if (status != SPINFER_OK) {
        fprintf(stderr, "refused: %s\n", spinfer_status_string(status));
        job_describe(j);
        exit(1);
    }
    CHECK_CUDA(cudaDeviceSynchronize());
    job_check(j);
}

/* The library's choice, to be changed. */
static inline spinfer_plan plan_for(const spinfer_matrix *W, size_t n, const spinfer_device *device)
{
    spinfer_plan plan;
    CHECK_SPINFER(spinfer_spmm_plan(W, n, device, &plan));
    return plan;
}

/* The tokens of the library's kernels. The second one for 16 is for blocks of more than 20 warps. The last two for 64
 * use wgmma, the last one for blocks of five teams. */
static const int kernel_tokens[SPINFER_KERNELS] = {8, 16, 16, 32, 64, 64, 64};

/* A plan for one of the library's kernels, which need not be the one that spinfer_spmm_plan() chooses. Those for many
 * warps get a plan that no other has room for: seven warps for each of three strips, or five strips, if records are
 * small enough. Where there is no wgmma, the last two are the one before. */
static inline spinfer_plan plan_for_kernel(const spinfer_matrix *W, size_t number, const spinfer_device *device)
{
    const spinfer_kernel *kernels = W->dtype == SPINFER_BF16 ? spinfer_spmm_bf16 : spinfer_spmm_fp16;
    const spinfer_kernel *kernel =
        &kernels[number >= SPINFER_KERNELS - 2 && !device->wgmma ? SPINFER_KERNELS - 3 : number];
    const int    wide = kernel->team == 4 && kernel->max_warps == 20;
    spinfer_plan plan, many;
    CHECK(number < SPINFER_KERNELS && kernel->tokens == kernel_tokens[number]);
    CHECK_SPINFER(spinfer_kernel_plan(kernel, 1, W, (size_t)kernel->tokens, device, &plan));
    if (!wide && (kernel->tokens != 16 || kernel->max_warps <= 20 || device->compute / 10 != 9)) return plan;
    many = plan;
    many.strips = wide ? 5 : 3;
    many.warps_k = wide ? 1 : 7;
    many.x_cols = wide ? 4 : 14;
    many.x_pieces = 2;
    many.helpers = many.tail = 0;
    return spinfer_smem_layout(&many, W->max_record, 0).total <= (uint32_t)device->smem_per_block - 64 ? many : plan;
}

/* The smallest legal piece of X, if there are several: whole steps of all teams, and whole boxes of two columns. */
static inline int smallest_x_cols(const spinfer_plan *plan)
{
    const int step = plan->warps_k * plan->team;
    return step % 2 ? 2 * step : step;
}

/* Another split of K, without helpers. Two small pieces of X suit every split; one would have to hold the whole range
 * of a block. Where these take more room than the pieces of the library's plan did, warps go. */
static inline void set_splits(spinfer_plan *plan, int splits)
{
    const uint32_t own_bytes = 1024; /* more than any kernel here has */
    spinfer_device device;
    uint32_t       room;
    CHECK_SPINFER(spinfer_device_query(&device));
    room = (uint32_t)device.smem_per_block - 64;
    plan->splits = splits;
    plan->helpers = plan->tail = 0;
    plan->x_pieces = 2;
    for (;; plan->warps_k--) {
        plan->x_cols = smallest_x_cols(plan);
        if (plan->warps_k == 1) return;
        if (spinfer_smem_layout(plan, SPINFER_RECORD_MAX_BYTES, own_bytes).total <= room) return;
    }
}

/* Helpers for a plan of 32 or 64 tokens, with about `tail` columns: what a legal plan allows, or none. */
static inline void set_helpers(spinfer_plan *plan, const spinfer_matrix *W, int helpers, int tail)
{
    const int most = (int)spinfer_col_groups(W->cols) - plan->splits, x = plan->x_cols * plan->x_pieces;
    if (tail > most) tail = most;
    if (tail > x) tail = x;
    tail -= tail % plan->team;
    plan->helpers = tail > 0 && plan->tokens >= 32 ? helpers : 0;
    plan->tail = plan->helpers ? tail : 0;
}

/* As many splits as there are columns of GroupTiles, or as many as the library itself may choose. */
static inline int many_splits(const spinfer_matrix *W)
{
    return spinfer_col_groups(W->cols) < 26 ? (int)spinfer_col_groups(W->cols) : 26;
}

#endif /* SPINFER_TESTS_GPU_H */
