/* baseline.h - what spinfer has to beat: the best dense product of cuBLAS and cublasLt, and cuSPARSE for contrast.
 *
 * All compute Y[M, n] = W[M, K] X[K, n] with fp32 accumulation. W is row-major, which BLAS reads as a column-major
 * [K, M] to be transposed; X and Y are column-major. */
#ifndef SPINFER_BENCH_BASELINE_H
#define SPINFER_BENCH_BASELINE_H

#include <cublasLt.h>
#include <cublas_v2.h>
#include <cusparse.h>

#include "timing.h"

#define CHECK_CUBLAS(call)                                                                                             \
    do {                                                                                                               \
        const cublasStatus_t status_ = (call);                                                                         \
        if (status_ != CUBLAS_STATUS_SUCCESS) {                                                                        \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cublasGetStatusString(status_));             \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

#define CHECK_CUSPARSE(call)                                                                                           \
    do {                                                                                                               \
        const cusparseStatus_t status_ = (call);                                                                       \
        if (status_ != CUSPARSE_STATUS_SUCCESS) {                                                                      \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cusparseGetErrorString(status_));            \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

enum { LT_HEURISTICS = 16, BASELINE_WORKSPACE = 64 << 20 };

typedef struct baseline {
    cublasHandle_t   cublas;
    cublasLtHandle_t lt;
    cusparseHandle_t cusparse;
    void            *workspace;
} baseline;

/* A dense product. `copies` equal matrices W follow each other at `stride` elements. */
typedef struct gemm {
    const baseline *handles;
    const uint16_t *W, *X;
    void           *Y;
    size_t          stride;
    int             copies;
    int             M, K, n;
    cudaDataType_t  type; /* of W and X */
    cudaDataType_t  y_type;
} gemm;

static inline cudaDataType_t cuda_type(spinfer_dtype dtype) { return dtype == SPINFER_BF16 ? CUDA_R_16BF : CUDA_R_16F; }

static inline void open_baseline(baseline *handles, cudaStream_t stream)
{
    CHECK_CUDA(cudaMalloc(&handles->workspace, BASELINE_WORKSPACE));
    CHECK_CUBLAS(cublasCreate(&handles->cublas));
    CHECK_CUBLAS(cublasSetStream(handles->cublas, stream)); /* before the workspace, which it resets */
    CHECK_CUBLAS(cublasSetWorkspace(handles->cublas, handles->workspace, BASELINE_WORKSPACE));
    CHECK_CUBLAS(cublasLtCreate(&handles->lt));
    CHECK_CUSPARSE(cusparseCreate(&handles->cusparse));
    CHECK_CUSPARSE(cusparseSetStream(handles->cusparse, stream));
}

static inline void close_baseline(baseline *handles)
{
    CHECK_CUSPARSE(cusparseDestroy(handles->cusparse));
    CHECK_CUBLAS(cublasLtDestroy(handles->lt));
    CHECK_CUBLAS(cublasDestroy(handles->cublas));
    CHECK_CUDA(cudaFree(handles->workspace));
}

static inline double gemm_bytes(const gemm *g)
{
    return 2.0 * ((double)g->M * g->K + (double)g->K * g->n + (double)g->M * g->n);
}

/* ---- cublasGemmEx ---------------------------------------------------------------------------- */

static inline void launch_gemm_ex(const void *context, int copy, cudaStream_t stream)
{
    const gemm *g = (const gemm *)context;
    const float one = 1, zero = 0;
    (void)stream; /* that of the handle */
    CHECK_CUBLAS(cublasGemmEx(g->handles->cublas, CUBLAS_OP_T, CUBLAS_OP_N, g->M, g->n, g->K, &one,
                              g->W + (size_t)copy * g->stride, g->type, g->K, g->X, g->type, g->K, &zero, g->Y,
                              g->y_type, g->M, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}

/* ---- cublasLt -------------------------------------------------------------------------------- */

typedef struct lt_gemm {
    gemm                   problem;
    cublasLtMatmulDesc_t   operation;
    cublasLtMatrixLayout_t W, X, Y;
    cublasLtMatmulAlgo_t   algorithm;
} lt_gemm;

static inline cublasStatus_t run_lt(const lt_gemm *g, int copy, cudaStream_t stream)
{
    const gemm *p = &g->problem;
    const float one = 1, zero = 0;
    return cublasLtMatmul(p->handles->lt, g->operation, &one, p->W + (size_t)copy * p->stride, g->W, p->X, g->X, &zero,
                          p->Y, g->Y, p->Y, g->Y, &g->algorithm, p->handles->workspace, BASELINE_WORKSPACE, stream);
}

static inline void launch_lt(const void *context, int copy, cudaStream_t stream)
{
    CHECK_CUBLAS(run_lt((const lt_gemm *)context, copy, stream));
}

/* The fastest of all that the heuristic offers, each timed. */
static inline double time_best_lt(const bench *b, const gemm *problem)
{
    const cublasOperation_t         transpose = CUBLAS_OP_T;
    const size_t                    workspace_bytes = BASELINE_WORKSPACE;
    const uint64_t                  M = (uint64_t)problem->M, K = (uint64_t)problem->K, n = (uint64_t)problem->n;
    cublasLtMatmulHeuristicResult_t offers[LT_HEURISTICS];
    cublasLtMatmulPreference_t      preference;
    bench                           quick = *b;
    lt_gemm                         g;
    double                          best = NAN;
    cublasStatus_t                  status;
    int                             count = 0, fastest = 0, i;
    quick.warm_up = 0;
    g.problem = *problem;
    CHECK_CUBLAS(cublasLtMatmulDescCreate(&g.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    CHECK_CUBLAS(
        cublasLtMatmulDescSetAttribute(g.operation, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof transpose));
    CHECK_CUBLAS(cublasLtMatrixLayoutCreate(&g.W, problem->type, K, M, (int64_t)K));
    CHECK_CUBLAS(cublasLtMatrixLayoutCreate(&g.X, problem->type, K, n, (int64_t)K));
    CHECK_CUBLAS(cublasLtMatrixLayoutCreate(&g.Y, problem->y_type, M, n, (int64_t)M));
    CHECK_CUBLAS(cublasLtMatmulPreferenceCreate(&preference));
    CHECK_CUBLAS(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                      &workspace_bytes, sizeof workspace_bytes));
    status = cublasLtMatmulAlgoGetHeuristic(problem->handles->lt, g.operation, g.W, g.X, g.Y, g.Y, preference,
                                            LT_HEURISTICS, offers, &count);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED) CHECK_CUBLAS(status); /* not supported: no offer for this shape */
    for (i = 0; i < count; i++) {
        timing t;
        if (offers[i].state != CUBLAS_STATUS_SUCCESS) continue;
        g.algorithm = offers[i].algo;
        if (run_lt(&g, 0, b->stream) != CUBLAS_STATUS_SUCCESS) continue; /* an offer may turn out not to run */
        t = time_launches(&quick, launch_lt, &g, problem->copies, gemm_bytes(problem));
        if (!(t.us >= best)) best = t.us, fastest = i;
    }
    if (b->warm_up > 0 && best > 0) { /* only the best one is worth that much time */
        g.algorithm = offers[fastest].algo;
        best = time_launches(b, launch_lt, &g, problem->copies, gemm_bytes(problem)).us;
    }
    CHECK_CUBLAS(cublasLtMatmulPreferenceDestroy(preference));
    CHECK_CUBLAS(cublasLtMatrixLayoutDestroy(g.Y));
    CHECK_CUBLAS(cublasLtMatrixLayoutDestroy(g.X));
    CHECK_CUBLAS(cublasLtMatrixLayoutDestroy(g.W));
    CHECK_CUBLAS(cublasLtMatmulDescDestroy(g.operation));
    return best;
}

/* ---- cuSPARSE -------------------------------------------------------------------------------- */

typedef struct csr_product {
    cusparseHandle_t     handle;
    cusparseSpMatDescr_t W;
    cusparseDnMatDescr_t X, Y;
    void                *workspace;
} csr_product;

static inline void launch_csr(const void *context, int copy, cudaStream_t stream)
{
    const csr_product *p = (const csr_product *)context;
    const float        one = 1, zero = 0;
    (void)copy;
    (void)stream; /* that of the handle */
    CHECK_CUSPARSE(cusparseSpMM(p->handle, CUSPARSE_OPERATION_NON_TRANSPOSE, CUSPARSE_OPERATION_NON_TRANSPOSE, &one,
                                p->W, p->X, &zero, p->Y, CUDA_R_32F, CUSPARSE_SPMM_ALG_DEFAULT, p->workspace));
}

/* CSR with 32-bit indices, made of the dense matrix on the GPU. One copy only: where it fits into L2, cuSPARSE may have
 * that advantage. */
static inline double time_cusparse(const bench *b, const gemm *g)
{
    const cusparseDenseToSparseAlg_t algorithm = CUSPARSE_DENSETOSPARSE_ALG_DEFAULT;
    const float                      one = 1, zero = 0;
    csr_product                      p;
    cusparseDnMatDescr_t             dense;
    void                            *rows, *cols, *values, *convert;
    int64_t                          row_count, col_count, nnz;
    size_t                           bytes;
    timing                           t;
    p.handle = g->handles->cusparse;
    CHECK_CUDA(cudaMalloc(&rows, ((size_t)g->M + 1) * sizeof(int32_t)));
    CHECK_CUSPARSE(cusparseCreateDnMat(&dense, g->M, g->K, g->K, (void *)g->W, g->type, CUSPARSE_ORDER_ROW));
    CHECK_CUSPARSE(cusparseCreateCsr(&p.W, g->M, g->K, 0, rows, NULL, NULL, CUSPARSE_INDEX_32I, CUSPARSE_INDEX_32I,
                                     CUSPARSE_INDEX_BASE_ZERO, g->type));
    CHECK_CUSPARSE(cusparseDenseToSparse_bufferSize(p.handle, dense, p.W, algorithm, &bytes));
    CHECK_CUDA(cudaMalloc(&convert, bytes ? bytes : 1));
    CHECK_CUSPARSE(cusparseDenseToSparse_analysis(p.handle, dense, p.W, algorithm, convert));
    CHECK_CUSPARSE(cusparseSpMatGetSize(p.W, &row_count, &col_count, &nnz));
    CHECK_CUDA(cudaMalloc(&cols, (size_t)nnz * sizeof(int32_t)));
    CHECK_CUDA(cudaMalloc(&values, (size_t)nnz * sizeof(uint16_t)));
    CHECK_CUSPARSE(cusparseCsrSetPointers(p.W, rows, cols, values));
    CHECK_CUSPARSE(cusparseDenseToSparse_convert(p.handle, dense, p.W, algorithm, convert));

    CHECK_CUSPARSE(cusparseCreateDnMat(&p.X, g->K, g->n, g->K, (void *)g->X, g->type, CUSPARSE_ORDER_COL));
    CHECK_CUSPARSE(cusparseCreateDnMat(&p.Y, g->M, g->n, g->M, g->Y, g->y_type, CUSPARSE_ORDER_COL));
    CHECK_CUSPARSE(cusparseSpMM_bufferSize(p.handle, CUSPARSE_OPERATION_NON_TRANSPOSE, CUSPARSE_OPERATION_NON_TRANSPOSE,
                                           &one, p.W, p.X, &zero, p.Y, CUDA_R_32F, CUSPARSE_SPMM_ALG_DEFAULT, &bytes));
    CHECK_CUDA(cudaMalloc(&p.workspace, bytes ? bytes : 1));
    t = time_launches(b, launch_csr, &p, 1, 6.0 * (double)nnz);

    CHECK_CUSPARSE(cusparseDestroyDnMat(p.Y));
    CHECK_CUSPARSE(cusparseDestroyDnMat(p.X));
    CHECK_CUSPARSE(cusparseDestroySpMat(p.W));
    CHECK_CUSPARSE(cusparseDestroyDnMat(dense));
    CHECK_CUDA(cudaFree(p.workspace));
    CHECK_CUDA(cudaFree(values));
    CHECK_CUDA(cudaFree(cols));
    CHECK_CUDA(cudaFree(convert));
    CHECK_CUDA(cudaFree(rows));
    return t.us;
}

#endif /* SPINFER_BENCH_BASELINE_H */
