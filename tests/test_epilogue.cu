/* Risk: an epilogue that stores the wrong thing, misses a sum or gets it twice, or reads the argument of another; a
 * kernel of one's own shape that is wrong, or one whose own shared memory something else overwrites.
 *
 * Integers: bias and residual are compared with ==. GELU, SiLU and SwiGLU are compared with double precision, within
 * the error that the header states for them and one rounding to 16 bits. */
#define SPINFER_IMPLEMENTATION
#include "gpu.h"

#include <math.h>

typedef enum kind { BIAS, GELU, SILU, SWIGLU, KINDS } kind;

SPINFER_DEFINE_SPMM_KERNELS(bias_fp16, SPINFER_FP16, spinfer_epilogue_bias);
SPINFER_DEFINE_SPMM_KERNELS(bias_bf16, SPINFER_BF16, spinfer_epilogue_bias);
SPINFER_DEFINE_SPMM_KERNELS(gelu_fp16, SPINFER_FP16, spinfer_epilogue_gelu);
SPINFER_DEFINE_SPMM_KERNELS(gelu_bf16, SPINFER_BF16, spinfer_epilogue_gelu);
SPINFER_DEFINE_SPMM_KERNELS(silu_fp16, SPINFER_FP16, spinfer_epilogue_silu);
SPINFER_DEFINE_SPMM_KERNELS(silu_bf16, SPINFER_BF16, spinfer_epilogue_silu);
SPINFER_DEFINE_SPMM_KERNELS(swiglu_fp16, SPINFER_FP16, spinfer_epilogue_swiglu);
SPINFER_DEFINE_SPMM_KERNELS(swiglu_bf16, SPINFER_BF16, spinfer_epilogue_swiglu);

static const spinfer_kernel *const kernels[KINDS][2] = {
    {bias_fp16, bias_bf16}, {gelu_fp16, gelu_bf16}, {silu_fp16, silu_bf16}, {swiglu_fp16, swiglu_bf16}};
static const char *const names[KINDS] = {"bias", "GELU", "SiLU", "SwiGLU"};

static const size_t token_counts[] = {1, 3, 8, 9, 16, 17, 33, 64, 70};
static const float  betas[] = {0.0f, 0.0f, 1.0f, -0.5f};

/* A number as the double that 16 bits make of it. */
static double rounded(double value, spinfer_dtype dtype)
{
    return (double)spinfer_to_float(spinfer_from_float((float)value, dtype), dtype);
}

/* Integers from -range to range in all of a buffer, as 16 bits. */
static void fill(const buffer *b, int range, spinfer_dtype dtype, uint64_t seed)
{
    uint16_t *values = (uint16_t *)buffer_image(b);
    size_t    i;
    for (i = 0; i < b->bytes / 2; i++) {
        const int value = (int)(random_bits(seed, i) % (2 * (uint64_t)range + 1)) - range;
        values[i] = spinfer_from_float((float)value, dtype);
    }
    buffer_upload(b);
}

static double read_image(const buffer *b, size_t i, spinfer_dtype dtype)
{
    return (double)spinfer_to_float(((const uint16_t *)buffer_image(b))[i], dtype);
}

/* One launch and all that it needs. */
typedef struct run {
    weights       W;
    spinfer_dtype dtype;
    kind          what;
    size_t        n, ldx, ldy, ldr, rows; /* rows: of Y */
    float         alpha, beta;
    int           has_bias;
    buffer        X, Y, R, bias, workspace;
} run;

/* gelu and silu, and a bound of the relative error of spinfer_gelu() and spinfer_silu(). */
static double activation(kind what, double t, double *relative)
{
    const double a = what == GELU ? -2 * sqrt(2 / acos(-1.0)) * (t + 0.044715 * t * t * t) : -t;
    *relative = (8 + 5 * fabs(a)) * 0x1p-23;
    return t / (1 + exp(a));
}

/* What Y (row, token) must be, and within what. The sums are exact: t is alpha sum + bias without any error. */
static double expected(const run *r, const double *t, size_t row, size_t token, double *bound)
{
    const double residual = r->beta != 0.0f ? (double)r->beta * read_image(&r->R, token * r->ldr + row, r->dtype) : 0;
    double       value, relative = 0;
    switch (r->what) {
    case BIAS: value = t[row]; break;
    case SWIGLU:
        value = activation(SILU, t[2 * row], &relative) * t[2 * row + 1];
        relative += 0x1p-24; /* the product */
        break;
    default: value = activation(r->what, t[row], &relative); break;
    }
    *bound = fabs(value) * relative;
    value += residual;
    if (r->what == BIAS) return rounded(value, r->dtype);  /* exact in fp32, then rounded once */
    *bound += 0x1p-100 + (fabs(value) + *bound) * 0x1p-24; /* where exp leaves fp32; the sum with the residual */
    *bound += (fabs(value) + *bound) * (r->dtype == SPINFER_BF16 ? 0x1p-8 : 0x1p-11) + 0x1p-25;
    return value;
}

static void check(const run *r)
{
    unsigned char  *now = buffer_download(&r->Y);
    uint16_t       *y = (uint16_t *)(now + r->Y.front);
    const uint16_t *before = (const uint16_t *)buffer_image(&r->Y);
    double         *t = (double *)allocate(r->W.M * sizeof *t);
    size_t          row, token, k;
    for (token = 0; token < r->n; token++) {
        for (row = 0; row < r->W.M; row++) {
            double sum = 0;
            for (k = 0; k < r->W.K; k++)
                sum += (double)r->W.integers[row * r->W.K + k] * read_image(&r->X, token * r->ldx + k, r->dtype);
            t[row] = (double)r->alpha * sum + (r->has_bias ? read_image(&r->bias, row, r->dtype) : 0);
        }
        for (row = 0; row < r->rows; row++) {
            double       bound;
            const double should_be = expected(r, t, row, token, &bound);
            const double is = (double)spinfer_to_float(y[token * r->ldy + row], r->dtype);
            if (!(fabs(is - should_be) <= (r->what == BIAS ? 0 : bound))) {
                fprintf(stderr, "%s, %zu x %zu, n %zu: row %zu, token %zu: %.9g instead of %.9g, bound %g\n",
                        names[r->what], r->W.M, r->W.K, r->n, row, token, is, should_be, bound);
                exit(1);
            }
            y[token * r->ldy + row] = before[token * r->ldy + row];
        }
    }
    CHECK(memcmp(now, r->Y.image, r->Y.total) == 0); /* nothing else was written */
    free(now);
    free(t);
    buffer_check_unchanged(&r->X);
    buffer_check_unchanged(&r->R);
    buffer_check_unchanged(&r->bias);
}

static spinfer_status launch_run(const run *r, const spinfer_plan *plan)
{
    spinfer_fused fused;
    memset(&fused, 0, sizeof fused);
    if (r->has_bias) fused.bias = buffer_payload(&r->bias);
    if (r->beta != 0.0f) fused.residual = buffer_payload(&r->R);
    fused.ldr = r->ldr;
    return spinfer_kernel_launch(kernels[r->what][r->dtype == SPINFER_BF16], SPINFER_KERNELS, &fused, sizeof fused,
                                 plan, r->alpha, &r->W.device, buffer_payload(&r->X), r->ldx, r->beta,
                                 buffer_payload(&r->Y), r->ldy, r->n,
                                 r->workspace.bytes ? buffer_payload(&r->workspace) : NULL, r->workspace.bytes, NULL);
}

/* One matrix with every epilogue: layout, scalars, split drawn. */
static void test_shape(const spinfer_device *device, size_t M, size_t K, size_t n, kind what, uint64_t seed)
{
    const int    odd = (int)(random_bits(seed, 0) & 1);
    spinfer_plan plan;
    size_t       bytes;
    run          r;
    memset(&r, 0, sizeof r);
    r.dtype = random_bits(seed, 1) & 1 ? SPINFER_BF16 : SPINFER_FP16;
    r.what = what;
    r.W = weights_random(M, K, 0.5, r.dtype, seed);
    r.n = n;
    r.rows = what == SWIGLU ? M / 2 : M;
    r.ldx = (K + 7) / 8 * 8;
    r.ldy = odd ? r.rows + 3 : (r.rows + 3) / 4 * 4; /* 8-byte aligned stores, or none */
    r.ldr = r.rows + random_bits(seed, 2) % 4;
    r.alpha = what == BIAS ? 1.0f : 0x1p-6f;
    r.beta = PICK(betas, seed, 3);
    r.has_bias = (int)(random_bits(seed, 4) & 1);
    r.X = buffer_create(2 * ((n - 1) * r.ldx + K), 0, 0);
    r.Y = buffer_create(2 * ((n - 1) * r.ldy + r.rows), odd ? 2 : 0, 0);
    r.R = buffer_create(2 * ((n - 1) * r.ldr + r.rows), 2 * (random_bits(seed, 5) % 4), 0);
    r.bias = buffer_create(2 * M, 2 * (random_bits(seed, 6) % 4), 0);
    fill(&r.X, 4, r.dtype, seed + 1);
    fill(&r.R, 8, r.dtype, seed + 2);
    fill(&r.bias, 6, r.dtype, seed + 3);

    CHECK_SPINFER(spinfer_kernel_plan(kernels[what][r.dtype == SPINFER_BF16] + random_bits(seed, 9) % 4, 1, &r.W.device,
                                      n, device, &plan)); /* any of the four */
    if (random_bits(seed, 7) & 1) set_splits(&plan, 1 + (int)(random_bits(seed, 8) % spinfer_col_groups((uint32_t)K)));
    CHECK_SPINFER(spinfer_kernel_workspace_bytes(kernels[what][r.dtype == SPINFER_BF16], SPINFER_KERNELS, &plan,
                                                 &r.W.device, n, &bytes));
    if (bytes) {
        r.workspace = buffer_create(bytes, 0, 0);
        memset(buffer_image(&r.workspace), 0, bytes);
        buffer_upload(&r.workspace);
    }
    CHECK_SPINFER(launch_run(&r, &plan));
    CHECK_CUDA(cudaDeviceSynchronize());
    check(&r);
    weights_free(&r.W);
    buffer_free(&r.X);
    buffer_free(&r.Y);
    buffer_free(&r.R);
    buffer_free(&r.bias);
    buffer_free(&r.workspace);
}

static void test_shapes(const spinfer_device *device, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++) {
        const size_t M = 2 + 2 * (random_bits(1, i) % 150), K = 1 + random_bits(2, i) % 400;
        test_shape(device, M - (i % 4 != SWIGLU && i % 3 == 0), K, PICK(token_counts, 3, i), (kind)(i % 4), 100 + i);
    }
    printf("%zu shapes\n", count);
}

/* ---- An epilogue of one's own ---------------------------------------------------------------- */

/* 64 bytes: all that a launch takes. */
typedef struct own {
    float   *sums;  /* [n, M] */
    int     *calls; /* [n, M]: how often each element was handed over */
    uint64_t ld;
    uint64_t check[5];
} own;

SPINFER_DEVICE void own_epilogue(const spinfer_dtype dtype, const spinfer_spmm_args *args, uint32_t row, uint32_t token,
                                 spinfer_sums sum)
{
    const own *o = (const own *)args->user;
    (void)dtype;
    for (uint32_t i = 0; i < spinfer_rows_left(args, row); i++) {
        const uint64_t at = token * o->ld + row + i;
        o->sums[at] = sum.row[i] + (float)o->check[4];
        atomicAdd(o->calls + at, row % 4 == 0 && token < args->n ? 1 : 1000);
    }
}
SPINFER_DEFINE_SPMM_KERNELS(own_fp16, SPINFER_FP16, own_epilogue);

/* A workspace of zeros for these kernels, which need not be the library's. */
static void set_workspace(job *j, const spinfer_kernel *list, size_t count, const spinfer_plan *plan)
{
    size_t bytes;
    CHECK_SPINFER(spinfer_kernel_workspace_bytes(list, count, plan, &j->W->device, j->n, &bytes));
    buffer_free(&j->workspace);
    if (!bytes) return;
    j->workspace = buffer_create(bytes, 0, 0);
    memset(buffer_image(&j->workspace), 0, bytes);
    buffer_upload(&j->workspace);
}

static void test_own_epilogue(const spinfer_kernel *list, size_t count, size_t M, size_t K, size_t n, int splits,
                              int helpers)
{
    weights        W = weights_random(M, K, 0.4, SPINFER_FP16, M);
    job            j = job_default(&W, n);
    own            o = {NULL, NULL, 0, {0, 0, 0, 0, 5}};
    float         *sums = (float *)allocate(n * M * sizeof *sums);
    int           *calls = (int *)allocate(n * M * sizeof *calls);
    spinfer_device device;
    spinfer_plan   plan;
    size_t         i;
    job_create(&j, 5);
    CHECK_SPINFER(spinfer_device_query(&device));
    CHECK_SPINFER(spinfer_kernel_plan(list, count, &W.device, n, &device, &plan));
    if (splits) set_splits(&plan, splits);
    if (helpers) set_helpers(&plan, &W.device, helpers, 3);
    set_workspace(&j, list, count, &plan);
    o.ld = M;
    CHECK_CUDA(cudaMalloc((void **)&o.sums, n * M * sizeof *sums));
    CHECK_CUDA(cudaMalloc((void **)&o.calls, n * M * sizeof *calls));
    CHECK_CUDA(cudaMemset(o.sums, 0xff, n * M * sizeof *sums));
    CHECK_CUDA(cudaMemset(o.calls, 0, n * M * sizeof *calls));
    CHECK_SPINFER(spinfer_kernel_launch(
        list, count, &o, sizeof o, &plan, 1.0f, &W.device, buffer_payload(&j.X), j.ldx, 0.0f, buffer_payload(&j.Y),
        j.ldy, n, j.workspace.bytes ? buffer_payload(&j.workspace) : NULL, j.workspace.bytes, NULL));
    CHECK_CUDA(cudaMemcpy(sums, o.sums, n * M * sizeof *sums, cudaMemcpyDeviceToHost));
    CHECK_CUDA(cudaMemcpy(calls, o.calls, n * M * sizeof *calls, cudaMemcpyDeviceToHost));
    for (i = 0; i < n * M; i++) {
        CHECK(calls[i] == 1);
        CHECK(spinfer_from_float(sums[i] - 5.0f, SPINFER_FP16) == j.expected[i] || sums[i] == 5.0f);
    }
    buffer_check_unchanged(&j.Y); /* this epilogue has no use for it */
    CHECK_CUDA(cudaFree(o.sums));
    CHECK_CUDA(cudaFree(o.calls));
    free(sums);
    free(calls);
    job_free(&j);
    weights_free(&W);
}

/* ---- A kernel of one's own around the stages of a block, with shared memory of its own --------- */

enum { OWN_FLOATS = 67 }; /* no multiple of 16 bytes: what comes behind begins close to the end */

/* Adds 0 if own memory is as the kernel has left it. */
SPINFER_DEVICE void own_memory_epilogue(const spinfer_dtype dtype, const spinfer_spmm_args *args, uint32_t row,
                                        uint32_t token, spinfer_sums sum)
{
    const float *memory = (const float *)(spinfer_smem_bytes + args->layout.own);
    SPINFER_UNROLL
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t at = (row + i + token) % OWN_FLOATS;
        sum.row[i] += memory[at] - (float)(at + row / SPINFER_GROUP_ROWS / (uint32_t)args->plan.strips); /* row group */
    }
    own_epilogue(dtype, args, row, token, sum);
}

SPINFER_DEVICE void own_memory_block(const int team, const int n_frags, spinfer_frag_c *sums, spinfer_frag_b *x_frags,
                                     const spinfer_spmm_args *args)
{
#ifdef __CUDA_ARCH__
    const spinfer_block block = spinfer_block_init(team, args, threadIdx, blockIdx, gridDim.x);
    const uint32_t      smem = spinfer_shared_address(spinfer_smem_bytes), lane = threadIdx.x;
    const uint32_t      warp = threadIdx.z * blockDim.y + threadIdx.y;
    float              *memory = (float *)(spinfer_smem_bytes + args->layout.own);
    spinfer_ring        ring;
    if (spinfer_help(SPINFER_FP16, team, n_frags, sums, x_frags, args, &block, smem, lane)) return;
    for (uint32_t i = lane; warp == 0 && i < OWN_FLOATS / 2; i += 32) memory[i] = (float)(i + block.row_group);
    spinfer_block_start(team, &ring, args, &block, smem, lane);
    for (uint32_t i = OWN_FLOATS / 2 + lane; warp == 0 && i < OWN_FLOATS; i += 32)
        memory[i] = (float)(i + block.row_group); /* some of it before the copies, some while they run */
    spinfer_block_multiply(SPINFER_FP16, team, n_frags, sums, x_frags, &ring, args, &block, smem, lane);
    spinfer_reduce(SPINFER_FP16, team, n_frags, own_memory_epilogue, sums, args, &block, smem, lane);
#endif
}

#define DEFINE_OWN_MEMORY_KERNEL(name, TEAM, N_FRAGS)                                                                  \
    static __global__ void __launch_bounds__(SPINFER_BLOCK_THREADS(TEAM, N_FRAGS, 16), 1)                              \
        name(const __grid_constant__ spinfer_spmm_args args)                                                           \
    {                                                                                                                  \
        spinfer_frag_c sums[4 / (TEAM) * (N_FRAGS)];                                                                   \
        spinfer_frag_b x_frags[N_FRAGS];                                                                               \
        if (SPINFER_HAS_CODE(TEAM, N_FRAGS)) own_memory_block(TEAM, N_FRAGS, sums, x_frags, &args);                    \
    }                                                                                                                  \
    static const spinfer_kernel name##_info = {(const void *)name,         SPINFER_FP16,  8 * (N_FRAGS), TEAM, 16,     \
                                               OWN_FLOATS * sizeof(float), (N_FRAGS) >= 4}
DEFINE_OWN_MEMORY_KERNEL(own_memory_n8, 1, 1);
DEFINE_OWN_MEMORY_KERNEL(own_memory_n32, 2, 4);
DEFINE_OWN_MEMORY_KERNEL(own_memory_n64, 4, 8); /* wgmma */

/* ---- Kernels of one's own shape -------------------------------------------------------------- */

SPINFER_DEFINE_SPMM_KERNEL(shape_1_3, SPINFER_FP16, 1, 3, 16, spinfer_epilogue_scale);
SPINFER_DEFINE_SPMM_KERNEL(shape_1_4, SPINFER_BF16, 1, 4, 16, spinfer_epilogue_scale);
SPINFER_DEFINE_SPMM_KERNEL(shape_1_7, SPINFER_FP16, 1, 7, 8, spinfer_epilogue_scale);
SPINFER_DEFINE_SPMM_KERNEL(shape_2_1, SPINFER_FP16, 2, 1, 30, spinfer_epilogue_scale);
SPINFER_DEFINE_SPMM_KERNEL(shape_2_5, SPINFER_BF16, 2, 5, 16, spinfer_epilogue_scale);
SPINFER_DEFINE_SPMM_KERNEL(shape_4_2, SPINFER_BF16, 4, 2, 28, spinfer_epilogue_scale);
SPINFER_DEFINE_SPMM_KERNEL(shape_4_7, SPINFER_FP16, 4, 7, 28, spinfer_epilogue_scale);
SPINFER_DEFINE_SPMM_KERNEL(shape_4_8, SPINFER_BF16, 4, 8, 12, spinfer_epilogue_scale); /* wgmma */

static const spinfer_kernel shapes[] = {shape_1_3_info, shape_1_4_info, shape_1_7_info, shape_2_1_info,
                                        shape_2_5_info, shape_4_2_info, shape_4_7_info, shape_4_8_info};

/* Every shape with one and more splits, without and with helpers, exact. */
static void test_kernel(const spinfer_kernel *kernel, const spinfer_device *device, size_t M, size_t K, size_t n)
{
    weights W = weights_random(M, K, 0.5, (spinfer_dtype)kernel->dtype, n);
    job     j = job_default(&W, n);
    int     way;
    if (spinfer_uses_wgmma(kernel->team, kernel->tokens) && !device->wgmma) {
        spinfer_plan plan;
        CHECK(spinfer_kernel_plan(kernel, 1, &W.device, n, device, &plan) == SPINFER_ERR_PLAN);
        weights_free(&W);
        return;
    }
    j.beta = 2.0f;
    job_create(&j, 9);
    for (way = 0; way < 4; way++) {
        spinfer_plan   plan;
        spinfer_status status;
        CHECK_SPINFER(spinfer_kernel_plan(kernel, 1, &W.device, n, device, &plan));
        CHECK(plan.tokens == kernel->tokens && plan.team == kernel->team);
        if (way > 0) set_splits(&plan, way == 3 ? 1 : 5 - way);
        if (way > 1 && kernel->helps) set_helpers(&plan, &W.device, 3 - way / 3, 5);
        set_workspace(&j, kernel, 1, &plan);
        buffer_upload(&j.Y);
        j.plan = &plan;
        status = spinfer_kernel_launch(kernel, 1, NULL, 0, &plan, j.alpha, &W.device, buffer_payload(&j.X), j.ldx,
                                       j.beta, buffer_payload(&j.Y), j.ldy, n,
                                       j.workspace.bytes ? buffer_payload(&j.workspace) : NULL,
                                       j.workspace.bytes, NULL);
        if (plan.helpers && spinfer_parts_apart(plan.team) && device->compute < 90) { /* they need its copy engine */
            CHECK(status == SPINFER_ERR_ARCH);
            continue;
        }
        CHECK_SPINFER(status);
        CHECK_CUDA(cudaDeviceSynchronize());
        job_check(&j);
    }
    job_free(&j);
    weights_free(&W);
}

/* ---- Errors ---------------------------------------------------------------------------------- */

static void test_errors(const spinfer_device *device)
{
    weights        W = weights_random(128, 128, 0.5, SPINFER_FP16, 1);
    job            j = job_default(&W, 4);
    spinfer_plan   plan = plan_for(&W.device, 4, device), other = plan;
    unsigned char  bytes[SPINFER_EPILOGUE_BYTES + 1] = {0};
    spinfer_kernel greedy = bias_fp16[0];
    spinfer_matrix bf16 = W.device;
    size_t         size = 123;
    bf16.dtype = SPINFER_BF16;
    other.tokens = 16;
    job_create(&j, 1);
    set_splits(&plan, 1);
#define LAUNCH(kernels, count, data, data_bytes, plan, W)                                                              \
    spinfer_kernel_launch(kernels, count, data, data_bytes, plan, 1.0f, W, buffer_payload(&j.X), j.ldx, 0.0f,          \
                          buffer_payload(&j.Y), j.ldy, 4, NULL, 0, NULL)
    CHECK(LAUNCH(NULL, SPINFER_KERNELS, NULL, 0, NULL, &W.device) == SPINFER_ERR_NULL);
    CHECK(LAUNCH(bias_fp16, SPINFER_KERNELS, NULL, 8, NULL, &W.device) == SPINFER_ERR_NULL);
    CHECK(LAUNCH(bias_fp16, SPINFER_KERNELS, bytes, sizeof bytes, NULL, &W.device) == SPINFER_ERR_CAPACITY);
    CHECK(LAUNCH(bias_fp16, 0, bytes, 8, NULL, &W.device) == SPINFER_ERR_PLAN);
    CHECK(LAUNCH(bias_fp16, SPINFER_KERNELS, bytes, 8, NULL, &bf16) == SPINFER_ERR_PLAN);
    CHECK(LAUNCH(bias_fp16, 1, bytes, 8, &other, &W.device) == SPINFER_ERR_PLAN); /* 16 tokens are not in the list */
    CHECK(LAUNCH(bias_fp16, SPINFER_KERNELS, bytes, 8, NULL, NULL) == SPINFER_ERR_NULL);
    CHECK(spinfer_kernel_plan(NULL, SPINFER_KERNELS, &W.device, 4, device, &other) == SPINFER_ERR_NULL);
    CHECK(spinfer_kernel_plan(bias_fp16, SPINFER_KERNELS, &bf16, 4, device, &other) == SPINFER_ERR_PLAN);
    CHECK(spinfer_kernel_workspace_bytes(bias_fp16 + 1, 3, &plan, &W.device, 4, &size) == SPINFER_ERR_PLAN);
    CHECK(spinfer_kernel_workspace_bytes(NULL, 3, &plan, &W.device, 4, &size) == SPINFER_ERR_NULL);
    CHECK(size == 123);
    greedy.own_bytes = (uint32_t)device->smem_per_block;
    CHECK(LAUNCH(&greedy, 1, bytes, 8, NULL, &W.device) == SPINFER_ERR_SMEM);
    CHECK(LAUNCH(&greedy, 1, bytes, 8, &plan, &W.device) == SPINFER_ERR_SMEM);
    greedy.own_bytes = UINT32_MAX;
    CHECK(LAUNCH(&greedy, 1, bytes, 8, &plan, &W.device) == SPINFER_ERR_SMEM);
#undef LAUNCH
    CHECK_CUDA(cudaDeviceSynchronize());
    buffer_check_unchanged(&j.Y);
    job_free(&j);
    weights_free(&W);
}

int main(void)
{
    const spinfer_device device = require_gpu();
    const size_t         count = small_run() ? 8 : 240;
    size_t               i;
    test_errors(&device);
    test_shapes(&device, count);
    test_own_epilogue(own_fp16, SPINFER_KERNELS, 130, 333, 5, 0, 0);
    test_own_epilogue(own_fp16, SPINFER_KERNELS, 131, 333, 17, 4, 0);
    test_own_epilogue(own_fp16, SPINFER_KERNELS, 64, 64, 70, 2, 0);
    test_own_epilogue(own_fp16, SPINFER_KERNELS, 300, 500, 40, 2, 3);
    for (i = 0; i < 4; i++) { /* n8: several blocks along the tokens; both: one split, and several; n32: helpers */
        test_own_epilogue(&own_memory_n8_info, 1, 331, 1030, 20, 3 * (int)(i % 2), 0);
        test_own_epilogue(&own_memory_n32_info, 1, 331, 1030, 9 + 23 * (i / 2), 3 * (int)(i % 2), 2 * (int)(i / 2));
        if (device.wgmma)
            test_own_epilogue(&own_memory_n64_info, 1, 331, 1030, 9 + 70 * (i / 2), 3 * (int)(i % 2), 2 * (int)(i / 2));
    }
    for (i = 0; i < COUNT(shapes); i++) {
        test_kernel(&shapes[i], &device, 190, 260, 5);
        test_kernel(&shapes[i], &device, 300, 1030, small_run() ? 9 : 100);
    }
    printf("%zu kernels of other shapes\n", COUNT(shapes));
    printf("OK\n");
    return 0;
}
