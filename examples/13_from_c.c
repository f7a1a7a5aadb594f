/* 13_from_c.c - from plain C.
 *
 *     nvcc -c implementation.cu && cc -c 13_from_c.c && nvcc implementation.o 13_from_c.o -o 13_from_c
 *     (with -I for the headers and, for cc, for those of CUDA)
 *
 * The idea. Kernels need nvcc, but who calls them does not. One .cu file of two lines defines SPINFER_IMPLEMENTATION;
 * every other file, C or C++, includes the same header and sees only declarations. This is C99 and uses CUDA for memory
 * alone. It multiplies a layer with odd sizes, keeps its plan and workspace for the second call, and adds to Y there.
 *
 * Introduces: spinfer_device_query(), spinfer_spmm_plan(), spinfer_spmm_workspace_bytes(), spinfer_spmm(),
 *             spinfer_spmm_host() */
#include <cuda_runtime_api.h>

#include "common.h"
#include "spinfer.cuh"

#define CHECK_CUDA(call) CHECK((call) == cudaSuccess)

enum { M = 1000, K = 1376, N = 5 };

static void *copy_to_gpu(const void *host, size_t bytes)
{
    void *device;
    CHECK_CUDA(cudaMalloc(&device, bytes));
    CHECK_CUDA(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice));
    return device;
}

/* Integers from -2 to 2 as bf16; some are zero. Their products are exact, and so are all sums of K of them. */
static uint16_t *integers(size_t count, uint64_t seed)
{
    uint16_t *values = (uint16_t *)allocate(count * sizeof *values);
    size_t    i;
    for (i = 0; i < count; i++) values[i] = spinfer_from_float((float)(random_bits(seed, i) % 5) - 2.0f, SPINFER_BF16);
    return values;
}

int main(void)
{
    uint16_t      *dense = integers(M * K, 1), *X = integers(N * K, 2);
    uint16_t      *Y = (uint16_t *)allocate(N * M * sizeof *Y), *expected = (uint16_t *)allocate(N * M * sizeof *Y);
    spinfer_matrix host = encode_matrix(dense, M, K, SPINFER_BF16), W = host; /* W: the same on the GPU */
    spinfer_device device;
    spinfer_plan   plan;
    void          *X_gpu, *Y_gpu, *offsets, *data, *workspace;
    size_t         workspace_bytes, i;
    int            count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        puts("skipped: no GPU");
        return SKIPPED;
    }
    CHECK_SPINFER(spinfer_device_query(&device));
    if (device.compute < 80) {
        puts("skipped: the GPU is older than sm_80");
        return SKIPPED;
    }
    memset(Y, 0xff, N * M * sizeof *Y); /* NaN: with beta = 0 it is not read */
    X_gpu = copy_to_gpu(X, N * K * sizeof *X);
    Y_gpu = copy_to_gpu(Y, N * M * sizeof *Y);
    W.offsets = (const uint32_t *)(offsets = copy_to_gpu(host.offsets, (size_t)spinfer_offsets_bytes(M, K)));
    W.data = data = copy_to_gpu(host.data, (size_t)host.data_bytes);

    /* once for a layer */
    CHECK_SPINFER(spinfer_spmm_plan(&W, N, &device, &plan));
    CHECK_SPINFER(spinfer_spmm_workspace_bytes(&plan, &W, N, &workspace_bytes));
    CHECK_CUDA(cudaMalloc(&workspace, workspace_bytes + 16)); /* + 16: it may be 0 */
    CHECK_CUDA(cudaMemset(workspace, 0, workspace_bytes + 16));

    /* for each batch of tokens; the second call adds to Y: Y = 2 W X - Y */
    CHECK_SPINFER(spinfer_spmm(&plan, 1.0f, &W, X_gpu, K, 0.0f, Y_gpu, M, N, workspace, workspace_bytes, NULL));
    CHECK_SPINFER(spinfer_spmm(&plan, 2.0f, &W, X_gpu, K, -1.0f, Y_gpu, M, N, workspace, workspace_bytes, NULL));
    CHECK_CUDA(cudaMemcpy(Y, Y_gpu, N * M * sizeof *Y, cudaMemcpyDeviceToHost));

    CHECK_SPINFER(spinfer_spmm_host(1.0f, &host, X, K, 0.0f, expected, M, N));
    CHECK_SPINFER(spinfer_spmm_host(2.0f, &host, X, K, -1.0f, expected, M, N));
    for (i = 0; i < N * M; i++)
        CHECK(spinfer_to_float(Y[i], SPINFER_BF16) == spinfer_to_float(expected[i], SPINFER_BF16));
    printf("%d x %d, %d tokens, bf16, from C: %d results as on the CPU\nOK\n", M, K, N, N * M);

    CHECK_CUDA(cudaFree(X_gpu));
    CHECK_CUDA(cudaFree(Y_gpu));
    CHECK_CUDA(cudaFree(offsets));
    CHECK_CUDA(cudaFree(data));
    CHECK_CUDA(cudaFree(workspace));
    free_matrix(&host);
    free(dense);
    free(X);
    free(Y);
    free(expected);
    return 0;
}
