/* layer.h - a pruned weight on the GPU, dense and encoded, in as many copies as cold timing needs, and the check of a
 * product with it. */
#ifndef SPINFER_BENCH_LAYER_H
#define SPINFER_BENCH_LAYER_H

#include <cuda_fp16.h>

#include "baseline.h"
#include "timing.h"

typedef struct layer {
    size_t          M, K;
    spinfer_dtype   dtype;
    double          density;       /* measured: kept weights / all          */
    size_t          encoded_bytes; /* both arrays                           */
    uint16_t       *dense;
    int             dense_copies;
    size_t          dense_stride; /* elements from one copy to the next    */
    unsigned char  *encoded;
    spinfer_matrix *matrices; /* [matrix_copies], pointing into encoded */
    int             matrix_copies;
    float          *reference; /* [M, n_max]: W X, by cuBLAS in fp32          */
    float          *absolute;  /* [M, n_max]: |W| |X|, for the error bound    */
    uint32_t       *wrong;     /* device counter of check_product()           */
} layer;

static inline size_t round_up(size_t value, size_t step) { return (value + step - 1) / step * step; }

/* Fills `copies` places `stride` bytes apart: one transfer from the host, the rest on the device. */
static inline void upload_copies(unsigned char *place, size_t stride, int copies, const void *host, size_t bytes)
{
    int i;
    CHECK_CUDA(cudaMemcpy(place, host, bytes, cudaMemcpyHostToDevice));
    for (i = 1; i < copies; i++)
        CHECK_CUDA(cudaMemcpyAsync(place + (size_t)i * stride, place, bytes, cudaMemcpyDeviceToDevice, 0));
}

/* ---- The check -------------------------------------------------------------------------------
 *
 * Reference: cuBLAS on the same 16-bit inputs, with fp32 output. Each of the two products adds K terms in fp32 and so
 * rounds at most K times, by 2^-24 of a partial sum, which never exceeds |W| |X|. (Tensor cores truncate, by twice
 * that, but several terms at a time.) So before the last rounding the two differ by at most e = 2 K 2^-24 |W| |X|.
 * Rounding to 16 bits then moves spinfer's by 2^-11 (fp16) or 2^-8 (bf16) of its value, and by 2^-25 where fp16 is
 * subnormal.
 *
 * The bound is wide: it sees a lost tile, not a single lost weight. Exactness is the business of the tests. */

static __global__ void absolute_kernel(const uint16_t *values, uint16_t *absolutes, size_t count)
{
    size_t i;
    for (i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x)
        absolutes[i] = values[i] & 0x7fffu;
}

/* Written so that a NaN counts as wrong. */
static __global__ void check_kernel(const uint16_t *Y, const float *reference, const float *absolute, size_t count,
                                    float accumulation, float rounding, int is_bf16, uint32_t *wrong)
{
    size_t i;
    for (i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) {
        const float y = is_bf16 ? __uint_as_float((uint32_t)Y[i] << 16) : __half2float(__ushort_as_half(Y[i]));
        const float e = accumulation * absolute[i];
        if (!(fabsf(y - reference[i]) <= rounding * (fabsf(reference[i]) + e) + e + 0x1p-25f)) atomicAdd(wrong, 1u);
    }
}

/* Number of elements of Y, the product with the first n columns of X, that are out of bounds. */
static inline uint32_t check_product(const layer *L, const void *Y, int n, cudaStream_t stream)
{
    const int   is_bf16 = L->dtype == SPINFER_BF16;
    const float accumulation = 2.0f * (float)L->K * 0x1p-24f;
    uint32_t    wrong;
    CHECK_CUDA(cudaMemsetAsync(L->wrong, 0, sizeof wrong, stream));
    check_kernel<<<256, 256, 0, stream>>>((const uint16_t *)Y, L->reference, L->absolute, L->M * (size_t)n,
                                          accumulation, is_bf16 ? 0x1p-8f : 0x1p-11f, is_bf16, L->wrong);
    CHECK_CUDA(cudaGetLastError());
    CHECK_CUDA(cudaMemcpyAsync(&wrong, L->wrong, sizeof wrong, cudaMemcpyDeviceToHost, stream));
    CHECK_CUDA(cudaStreamSynchronize(stream));
    return wrong;
}

/* A byte pattern that is NaN in both dtypes, so that an element which nobody writes is seen. */
static inline void poison(void *Y, size_t bytes, cudaStream_t stream)
{
    CHECK_CUDA(cudaMemsetAsync(Y, 0xff, bytes, stream));
}

static inline gemm layer_gemm(const layer *L, const baseline *handles, const uint16_t *X, void *Y, int n)
{
    gemm g;
    g.handles = handles;
    g.W = L->dense;
    g.X = X;
    g.Y = Y;
    g.stride = L->dense_stride;
    g.copies = L->dense_copies;
    g.M = (int)L->M;
    g.K = (int)L->K;
    g.n = n;
    g.type = g.y_type = cuda_type(L->dtype);
    return g;
}

static inline void compute_reference(const bench *b, const baseline *handles, layer *L, const uint16_t *X, int n_max)
{
    const size_t weights = L->M * L->K, inputs = L->K * (size_t)n_max, outputs = L->M * (size_t)n_max;
    uint16_t    *absolute_W, *absolute_X;
    gemm         g = layer_gemm(L, handles, X, NULL, n_max);
    g.y_type = CUDA_R_32F;
    CHECK_CUDA(cudaMalloc((void **)&L->reference, outputs * sizeof(float)));
    CHECK_CUDA(cudaMalloc((void **)&L->absolute, outputs * sizeof(float)));
    CHECK_CUDA(cudaMalloc((void **)&L->wrong, sizeof *L->wrong));
    CHECK_CUDA(cudaMalloc((void **)&absolute_W, weights * sizeof(uint16_t)));
    CHECK_CUDA(cudaMalloc((void **)&absolute_X, inputs * sizeof(uint16_t)));
    absolute_kernel<<<1024, 256, 0, b->stream>>>(L->dense, absolute_W, weights);
    CHECK_CUDA(cudaGetLastError());
    absolute_kernel<<<1024, 256, 0, b->stream>>>(X, absolute_X, inputs);
    CHECK_CUDA(cudaGetLastError());
    g.Y = L->reference;
    launch_gemm_ex(&g, 0, b->stream);
    g.W = absolute_W;
    g.X = absolute_X;
    g.Y = L->absolute;
    launch_gemm_ex(&g, 0, b->stream);
    CHECK_CUDA(cudaStreamSynchronize(b->stream));
    CHECK_CUDA(cudaFree(absolute_X));
    CHECK_CUDA(cudaFree(absolute_W));
}

/* ---- Make and free --------------------------------------------------------------------------- */

/* Takes a pruned matrix of the host to the GPU, dense and encoded, and computes W X and |W| |X| for n_max tokens. */
static inline layer make_layer(const bench *b, const baseline *handles, const uint16_t *host, size_t M, size_t K,
                               spinfer_dtype dtype, const uint16_t *X, int n_max)
{
    spinfer_matrix W;
    spinfer_sizes  sizes;
    size_t         data_at, stride;
    layer          L;
    int            i;
    memset(&L, 0, sizeof L);
    L.M = M;
    L.K = K;
    L.dtype = dtype;

    L.dense_stride = round_up(M * K, 128); /* 256 bytes: the alignment that cuBLAS assumes */
    L.dense_copies = copies_beyond_l2(b, 2 * M * K);
    CHECK_CUDA(cudaMalloc((void **)&L.dense, 2 * L.dense_stride * (size_t)L.dense_copies));
    upload_copies((unsigned char *)L.dense, 2 * L.dense_stride, L.dense_copies, host, 2 * M * K);

    CHECK_SPINFER(spinfer_encode_sizes(host, M, K, K, &sizes));
    W = encode_matrix(host, M, K, dtype);
    L.density = (double)sizes.nnz / ((double)M * (double)K);
    L.encoded_bytes = (size_t)(sizes.offsets_bytes + sizes.data_bytes);
    data_at = round_up((size_t)sizes.offsets_bytes, 256);
    stride = data_at + round_up((size_t)sizes.data_bytes, 256);
    L.matrix_copies = copies_beyond_l2(b, L.encoded_bytes);
    CHECK_CUDA(cudaMalloc((void **)&L.encoded, stride * (size_t)L.matrix_copies));
    upload_copies(L.encoded, stride, L.matrix_copies, W.offsets, (size_t)sizes.offsets_bytes);
    upload_copies(L.encoded + data_at, stride, L.matrix_copies, W.data, (size_t)sizes.data_bytes);
    L.matrices = (spinfer_matrix *)allocate((size_t)L.matrix_copies * sizeof *L.matrices);
    for (i = 0; i < L.matrix_copies; i++) {
        L.matrices[i] = W;
        L.matrices[i].offsets = (const uint32_t *)(L.encoded + (size_t)i * stride);
        L.matrices[i].data = L.encoded + (size_t)i * stride + data_at;
    }
    free_matrix(&W);
    CHECK_CUDA(cudaDeviceSynchronize());

    compute_reference(b, handles, &L, X, n_max);
    return L;
}

static inline void free_layer(layer *L)
{
    CHECK_CUDA(cudaFree(L->wrong));
    CHECK_CUDA(cudaFree(L->absolute));
    CHECK_CUDA(cudaFree(L->reference));
    CHECK_CUDA(cudaFree(L->encoded));
    CHECK_CUDA(cudaFree(L->dense));
    free(L->matrices);
}

#endif /* SPINFER_BENCH_LAYER_H */
