/* load_and_multiply.c - a weight from a file that convert wrote, multiplied on the GPU and checked on the CPU.
 *
 *     load_and_multiply model.safetensors [weight [tokens]]
 *
 * File -> spinfer_validate() -> GPU -> spinfer_spmm() -> compared with spinfer_spmm_host(): what an engine does once for
 * each layer while it loads, and once for each step. Without a name it takes the first weight of the file.
 *
 * Plain C: spinfer.cuh without SPINFER_IMPLEMENTATION declares the functions that load_and_multiply.cu compiles. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif

#include "spinfer.cuh"

#include <cuda_runtime_api.h>

#include "common.h"
#include "tca_bme_file.h"

#define CHECK_CUDA(call) check_cuda(call, #call)

static void check_cuda(cudaError_t error, const char *call)
{
    if (error == cudaSuccess) return;
    fprintf(stderr, "load_and_multiply: %s: %s\n", call, cudaGetErrorString(error));
    exit(1);
}

static void check(int ok, const safetensors_error *error)
{
    if (ok) return;
    fprintf(stderr, "load_and_multiply: %s\n", error->text);
    exit(1);
}

/* The first weight of a file: the base of its first tensor of this kind. */
static char *first_weight(const safetensors_model *model)
{
    size_t i;
    for (i = 0; i < model->tensor_count; i++) {
        const char  *name = model->tensors[i].name;
        const size_t length = tca_bme_base_length(name);
        char        *base = (char *)allocate(length + 1);
        memcpy(base, name, length);
        base[length] = 0;
        if (length) return base;
        free(base);
    }
    fprintf(stderr, "load_and_multiply: no encoded weight in this file; convert makes some\n");
    exit(1);
}

/* The two arrays to the GPU, as they are. cudaMalloc() aligns to more than the 128 bytes that the kernel wants. */
static spinfer_matrix to_gpu(const spinfer_matrix *W)
{
    const size_t   offsets_bytes = (size_t)spinfer_offsets_bytes(W->rows, W->cols), data_bytes = (size_t)W->data_bytes;
    spinfer_matrix copy = *W;
    void          *offsets, *data;
    CHECK_CUDA(cudaMalloc(&offsets, offsets_bytes));
    CHECK_CUDA(cudaMalloc(&data, data_bytes));
    CHECK_CUDA(cudaMemcpy(offsets, W->offsets, offsets_bytes, cudaMemcpyHostToDevice));
    CHECK_CUDA(cudaMemcpy(data, W->data, data_bytes, cudaMemcpyHostToDevice));
    copy.offsets = (const uint32_t *)offsets;
    copy.data = data;
    return copy;
}

static void multiply_on_gpu(const spinfer_matrix *W, const uint16_t *X, uint16_t *Y, size_t tokens,
                            const spinfer_device *device)
{
    const size_t   x_bytes = 2 * tokens * W->cols, y_bytes = 2 * tokens * W->rows;
    spinfer_matrix weight = to_gpu(W);
    spinfer_plan   plan;
    size_t         workspace_bytes;
    void          *dX, *dY, *workspace;
    CHECK_SPINFER(spinfer_spmm_plan(&weight, tokens, device, &plan));
    CHECK_SPINFER(spinfer_spmm_workspace_bytes(&plan, &weight, tokens, &workspace_bytes));
    CHECK_CUDA(cudaMalloc(&workspace, workspace_bytes + 16)); /* + 16: it may be 0 */
    CHECK_CUDA(cudaMemset(workspace, 0, workspace_bytes + 16));
    CHECK_CUDA(cudaMalloc(&dX, x_bytes));
    CHECK_CUDA(cudaMalloc(&dY, y_bytes));
    CHECK_CUDA(cudaMemcpy(dX, X, x_bytes, cudaMemcpyHostToDevice));
    CHECK_SPINFER(spinfer_spmm(&plan, 1.0f, &weight, (const uint16_t *)dX, W->cols, 0.0f, (uint16_t *)dY, W->rows,
                               tokens, workspace, workspace_bytes, 0));
    CHECK_CUDA(cudaMemcpy(Y, dY, y_bytes, cudaMemcpyDeviceToHost));
    CHECK_CUDA(cudaFree((void *)weight.offsets));
    CHECK_CUDA(cudaFree((void *)weight.data));
    CHECK_CUDA(cudaFree(workspace));
    CHECK_CUDA(cudaFree(dX));
    CHECK_CUDA(cudaFree(dY));
}

/* How many results of a row differ by more than they may. With |x| <= 1 the row's sum of |w x| is at most S, its sum of
 * |w|. The GPU adds `kept` products in fp32 with an error below 3 kept 2^-23 S (see 00_quickstart.c), the CPU in double;
 * then both round to float and to the dtype. */
static size_t count_wrong(const spinfer_matrix *W, const uint16_t *w, size_t row, const uint16_t *gpu,
                          const uint16_t *cpu, size_t tokens)
{
    const spinfer_dtype dtype = (spinfer_dtype)W->dtype;
    const double        rounding = 0x1p-23 + (dtype == SPINFER_FP16 ? 0x1p-11 : 0x1p-8);
    const double        underflow = dtype == SPINFER_FP16 ? 0x1p-24 : W->cols * 0x1p-125;
    double              S = 0, kept = 0;
    size_t              col, token, wrong = 0;
    for (col = 0; col < W->cols; col++) {
        S += fabs((double)spinfer_to_float(w[col], dtype));
        kept += w[col] != 0;
    }
    for (token = 0; token < tokens; token++) {
        const double y = spinfer_to_float(gpu[token * W->rows + row], dtype);
        const double expected = spinfer_to_float(cpu[token * W->rows + row], dtype);
        const double error = 3 * kept * 0x1p-23 * S;
        const int    is_same = gpu[token * W->rows + row] == cpu[token * W->rows + row]; /* infinities too */
        wrong += !is_same && !(fabs(y - expected) <= error + 2 * rounding * (fabs(expected) + error) + underflow);
    }
    return wrong;
}

int main(int argc, char **argv)
{
    const size_t      tokens = argc > 3 ? (size_t)strtoul(argv[3], NULL, 10) : 16;
    safetensors_model model;
    safetensors_error error;
    tca_bme_group     group;
    spinfer_matrix    W;
    spinfer_device    device;
    uint16_t         *X, *Y, *expected, *dense;
    size_t            row, wrong = 0;
    char             *name;
    int               found;
    if (argc < 2 || tokens < 1 || tokens > 4096) {
        fprintf(stderr, "usage: load_and_multiply model.safetensors [weight [tokens, 1 to 4096]]\n");
        return 1;
    }
    check(safetensors_open(&model, argv[1], &error), &error);
    name = argc > 2 ? argv[2] : first_weight(&model);
    found = tca_bme_find(&model, name, &group, &error);
    if (found == 0) safetensors_fail(&error, "%.600s: no encoded weight has this name", name);
    check(found == 1, &error);
    check(tca_bme_load(&model, &group, &W, &error), &error); /* validates: from here on W is trusted */
    printf("%s: %u x %u, %.2f bits for each weight\n", name, W.rows, W.cols,
           8.0 * (double)(W.data_bytes + spinfer_offsets_bytes(W.rows, W.cols)) / ((double)W.rows * W.cols));
    if (spinfer_device_query(&device) != SPINFER_OK) {
        printf("skipped: no GPU of sm_80 or newer\n");
        return SKIPPED;
    }

    X = (uint16_t *)allocate(2 * tokens * W.cols);
    Y = (uint16_t *)allocate(2 * tokens * W.rows);
    expected = (uint16_t *)allocate(2 * tokens * W.rows);
    dense = (uint16_t *)allocate(2 * (size_t)W.rows * W.cols);
    for (row = 0; row < tokens * W.cols; row++)
        X[row] = spinfer_from_float((float)(2 * random_unit(1, row) - 1), (spinfer_dtype)W.dtype);

    multiply_on_gpu(&W, X, Y, tokens, &device);
    CHECK_SPINFER(spinfer_spmm_host(1.0f, &W, X, W.cols, 0.0f, expected, W.rows, tokens));
    CHECK_SPINFER(spinfer_decode(&W, dense, W.cols));
    for (row = 0; row < W.rows; row++) wrong += count_wrong(&W, dense + row * W.cols, row, Y, expected, tokens);
    printf("%zu tokens, %zu results, %zu wrong: %s\n", tokens, tokens * W.rows, wrong, wrong ? "FAILED" : "OK");

    free(X);
    free(Y);
    free(expected);
    free(dense);
    if (argc <= 2) free(name);
    tca_bme_free(&W);
    safetensors_close(&model);
    return wrong != 0;
}
