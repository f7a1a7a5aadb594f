#define SPINFER_IMPLEMENTATION
#include "spinfer.cuh"
#include <stdio.h>

enum { M = 4096, K = 4096, N = 16 };
static uint16_t dense[M * K]; /* fp16 bits */

int main(void)
{
    spinfer_device device;
    spinfer_matrix W;
    spinfer_sizes  sizes;
    spinfer_plan   plan;
    uint32_t      *offsets;
    uint16_t      *X, *Y;
    void          *data, *workspace;
    size_t         workspace_bytes = 0;
    if (spinfer_device_query(&device) != SPINFER_OK) return 77; /* no GPU */

    for (int i = 0; i < M * K; i++) dense[i] = i % 3 ? 0 : 0x3c00; /* two zeros, one 1.0 */
    spinfer_encode_sizes(dense, M, K, K, &sizes);
    cudaMallocManaged(&offsets, sizes.offsets_bytes);
    cudaMallocManaged(&data, sizes.data_bytes);
    spinfer_encode(dense, M, K, K, SPINFER_FP16, offsets, sizes.offsets_bytes, data, sizes.data_bytes, &W);
    printf("%zu bytes dense, %llu encoded\n", sizeof dense,
           (unsigned long long)(sizes.offsets_bytes + sizes.data_bytes));

    cudaMallocManaged(&X, K * N * sizeof *X); /* token t: X + t * K */
    cudaMallocManaged(&Y, M * N * sizeof *Y); /* token t: Y + t * M */
    for (int i = 0; i < K * N; i++) X[i] = 0x3c00;

    spinfer_spmm_plan(&W, N, &device, &plan);
    spinfer_spmm_workspace_bytes(&plan, &W, N, &workspace_bytes);
    cudaMalloc(&workspace, workspace_bytes + 16); /* + 16: it may be 0 */
    cudaMemset(workspace, 0, workspace_bytes + 16);
    spinfer_status status = spinfer_spmm(&plan, 1.0f, &W, X, K, 0.0f, Y, M, N, workspace, workspace_bytes, 0);
    cudaDeviceSynchronize();
    printf("%s: y = %g %g %g ...\n", spinfer_status_string(status), spinfer_to_float(Y[0], SPINFER_FP16),
           spinfer_to_float(Y[1], SPINFER_FP16), spinfer_to_float(Y[2], SPINFER_FP16));
    return status != SPINFER_OK;
}
