/* bench_epilogue.cu - what an epilogue costs: the multiply with each of them against the multiply alone.
 *
 *     bench_epilogue [--repeats COUNT] [MxK ...]
 *
 * fp16, 50 % zeros, cold weights; timing as in bench_spmm. The columns take turns, ROUNDS times, because the clock of a
 * GPU drifts by more than an epilogue costs; each time is the median of its rounds. "separate" is the multiply with a
 * kernel of its own behind it for bias and GELU, which is what the column "gelu" replaces; "spread" is (slowest -
 * fastest) / median of "plain" over its rounds. The tests check results, this does not. */
#define SPINFER_IMPLEMENTATION
#include "spinfer.cuh"

#include "common.h"
#include "timing.h"

SPINFER_DEFINE_SPMM_KERNELS(scale, SPINFER_FP16, spinfer_epilogue_scale);
SPINFER_DEFINE_SPMM_KERNELS(bias, SPINFER_FP16, spinfer_epilogue_bias);
SPINFER_DEFINE_SPMM_KERNELS(gelu, SPINFER_FP16, spinfer_epilogue_gelu);
SPINFER_DEFINE_SPMM_KERNELS(silu, SPINFER_FP16, spinfer_epilogue_silu);
SPINFER_DEFINE_SPMM_KERNELS(swiglu, SPINFER_FP16, spinfer_epilogue_swiglu);

static const struct {
    const char           *name;
    const spinfer_kernel *kernels;
    float                 beta;
    int                   separate;
} columns[] = {{"plain", scale, 0, 0},   {"beta Y", scale, 1, 0},  {"bias", bias, 0, 0},
               {"bias + R", bias, 1, 0}, {"gelu", gelu, 0, 0},     {"gelu + R", gelu, 1, 0},
               {"silu", silu, 0, 0},     {"swiglu", swiglu, 0, 0}, {"separate", scale, 0, 1}};
enum { COLUMNS = sizeof columns / sizeof *columns, MOST_TOKENS = 64, ROUNDS = 7 };
static const int token_counts[] = {1, 8, 16, 32, 64};

typedef struct job {
    spinfer_matrix *matrices; /* copies on the GPU */
    int             copies, column, n;
    void           *X, *Y, *R, *bias, *workspace;
    spinfer_plan    plan;
    size_t          workspace_bytes;
} job;

/* Y = gelu(Y + bias), two rows for each thread: the step that an epilogue saves. */
static __global__ void separate_gelu(uint32_t *Y, const uint32_t *bias, uint32_t pairs)
{
    const uint32_t pair = blockIdx.x * blockDim.x + threadIdx.x;
    const size_t   i = (size_t)blockIdx.y * pairs + pair;
    if (pair >= pairs) return;
    const uint32_t y = Y[i], b = bias[pair];
    const float    low = spinfer_widen(SPINFER_FP16, (uint16_t)y) + spinfer_widen(SPINFER_FP16, (uint16_t)b);
    const float    high =
        spinfer_widen(SPINFER_FP16, (uint16_t)(y >> 16)) + spinfer_widen(SPINFER_FP16, (uint16_t)(b >> 16));
    Y[i] = spinfer_narrow(SPINFER_FP16, spinfer_gelu(low)) | (uint32_t)spinfer_narrow(SPINFER_FP16, spinfer_gelu(high))
                                                                 << 16;
}

static void launch(const void *context, int copy, cudaStream_t stream)
{
    const job            *j = (const job *)context;
    const spinfer_matrix *W = &j->matrices[copy];
    const spinfer_fused   fused = {j->bias, j->R, W->rows};
    const size_t          pairs = W->rows / 2;
    CHECK_SPINFER(spinfer_kernel_launch(columns[j->column].kernels, SPINFER_KERNELS, &fused, sizeof fused, &j->plan,
                                        1.0f, W, j->X, W->cols, columns[j->column].beta, j->Y, W->rows, (size_t)j->n,
                                        j->workspace, j->workspace_bytes, stream));
    if (columns[j->column].separate)
        separate_gelu<<<dim3((unsigned)((pairs + 255) / 256), (unsigned)j->n), 256, 0, stream>>>(
            (uint32_t *)j->Y, (const uint32_t *)j->bias, (uint32_t)pairs);
}

/* `count` normal values as fp16 on the GPU. */
static void *random_on_gpu(size_t count, uint64_t seed)
{
    uint16_t *values = (uint16_t *)allocate(2 * count);
    void     *device;
    fill_normal(values, count, 1.0, SPINFER_FP16, seed);
    CHECK_CUDA(cudaMalloc(&device, 2 * count));
    CHECK_CUDA(cudaMemcpy(device, values, 2 * count, cudaMemcpyHostToDevice));
    free(values);
    return device;
}

static void upload(job *j, const bench *b, const spinfer_matrix *host)
{
    const size_t offsets_bytes = (size_t)spinfer_offsets_bytes(host->rows, host->cols);
    int          i;
    j->copies = copies_beyond_l2(b, (size_t)host->data_bytes);
    j->matrices = (spinfer_matrix *)allocate((size_t)j->copies * sizeof *j->matrices);
    for (i = 0; i < j->copies; i++) {
        void *offsets, *data;
        CHECK_CUDA(cudaMalloc(&offsets, offsets_bytes));
        CHECK_CUDA(cudaMalloc(&data, (size_t)host->data_bytes));
        CHECK_CUDA(cudaMemcpy(offsets, host->offsets, offsets_bytes, cudaMemcpyHostToDevice));
        CHECK_CUDA(cudaMemcpy(data, host->data, (size_t)host->data_bytes, cudaMemcpyHostToDevice));
        j->matrices[i] = *host;
        j->matrices[i].offsets = (const uint32_t *)offsets;
        j->matrices[i].data = data;
    }
}

static void run_shape(const bench *b, size_t M, size_t K)
{
    uint16_t      *dense = (uint16_t *)allocate(2 * M * K);
    spinfer_matrix host;
    spinfer_device device;
    job            j;
    double         us[COLUMNS][ROUNDS];
    size_t         t;
    int            i, round;
    memset(&j, 0, sizeof j);
    fill_normal(dense, M * K, 0.02, SPINFER_FP16, 1);
    prune_iid(dense, M, K, 0.5, 2);
    host = encode_matrix(dense, M, K, SPINFER_FP16);
    free(dense);
    upload(&j, b, &host);
    j.X = random_on_gpu(MOST_TOKENS * K, 3);
    j.R = random_on_gpu(MOST_TOKENS * M, 4);
    j.bias = random_on_gpu(M, 5);
    CHECK_CUDA(cudaMalloc(&j.Y, 2 * MOST_TOKENS * M));
    CHECK_SPINFER(spinfer_device_query(&device));
    for (t = 0; t < sizeof token_counts / sizeof *token_counts; t++) {
        j.n = token_counts[t];
        CHECK_SPINFER(spinfer_kernel_plan(scale, SPINFER_KERNELS, &host, (size_t)j.n, &device, &j.plan));
        CHECK_SPINFER(spinfer_kernel_workspace_bytes(scale, SPINFER_KERNELS, &j.plan, &host, (size_t)j.n,
                                                     &j.workspace_bytes));
        CHECK_CUDA(cudaMalloc(&j.workspace, j.workspace_bytes + 16));
        CHECK_CUDA(cudaMemset(j.workspace, 0, j.workspace_bytes + 16));
        CHECK_CUDA(cudaMemset(j.Y, 0, 2 * MOST_TOKENS * M));
        printf("%6zu x %-6zu n=%-3d", M, K, j.n);
        for (round = 0; round < ROUNDS; round++)
            for (j.column = 0; j.column < COLUMNS; j.column++)
                us[j.column][round] = time_launches(b, launch, &j, j.copies, (double)host.data_bytes).us;
        for (i = 0; i < COLUMNS; i++) {
            qsort(us[i], ROUNDS, sizeof us[i][0], compare_doubles);
            printf(" %9.2f", us[i][ROUNDS / 2]);
        }
        printf(" %8.1f%%\n", 100.0 * (us[0][ROUNDS - 1] - us[0][0]) / us[0][ROUNDS / 2]);
        fflush(stdout);
        CHECK_CUDA(cudaFree(j.workspace));
    }
    for (i = 0; i < j.copies; i++) {
        CHECK_CUDA(cudaFree((void *)j.matrices[i].offsets));
        CHECK_CUDA(cudaFree((void *)j.matrices[i].data));
    }
    CHECK_CUDA(cudaFree(j.X));
    CHECK_CUDA(cudaFree(j.Y));
    CHECK_CUDA(cudaFree(j.R));
    CHECK_CUDA(cudaFree(j.bias));
    free(j.matrices);
    free_matrix(&host);
}

int main(int argc, char **argv)
{
    static const size_t shapes[][2] = {{4096, 4096}, {8192, 8192}, {28672, 4096}, {4096, 14336}, {28672, 8192}};
    bench               b;
    int                 devices = 0, i, run = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        fprintf(stderr, "bench_epilogue: no GPU\n");
        return SKIPPED;
    }
    b = open_bench(5, 0);
    b.warm_up = WAKE_UP;
    printf("microseconds            ");
    for (i = 0; i < COLUMNS; i++) printf(" %9s", columns[i].name);
    printf(" %9s\n", "spread");
    for (i = 1; i < argc; i++) {
        size_t M, K;
        if (strcmp(argv[i], "--repeats") == 0 && i + 1 < argc) {
            b.repeats = atoi(argv[++i]);
            CHECK(b.repeats > 0);
        } else if (sscanf(argv[i], "%zux%zu", &M, &K) == 2 && M > 0 && M % 2 == 0 && K > 0) {
            run_shape(&b, M, K);
            run = 1;
        } else {
            fprintf(stderr, "usage: bench_epilogue [--repeats COUNT] [MxK ...], M even\n");
            return 1;
        }
    }
    for (i = 0; !run && i < (int)(sizeof shapes / sizeof *shapes); i++) run_shape(&b, shapes[i][0], shapes[i][1]);
    close_bench(&b);
    return 0;
}
