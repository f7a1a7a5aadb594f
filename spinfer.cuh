/* spinfer.cuh - v0.1.0 - unstructured-sparse weight x dense on tensor cores, CUDA C, header-only, template-free
 *
 *   Y[M,n] = alpha W[M,K] X[K,n] + beta Y      W: fp16 or bf16, any zeros, TCA-BME encoded (spinfer_encode.h)
 *                                              X, Y: the same dtype, dense     sums: fp32
 *
 *   DO THIS in exactly one .cu file:           and in any other .cu, .cpp or .c file:
 *       #define SPINFER_IMPLEMENTATION             #include "spinfer.cuh"
 *       #include "spinfer.cuh"
 *
 *   CALL IT (W holds device pointers; X and Y are what PyTorch calls x[n, K] and y[n, M]):
 *       spinfer_spmm(NULL, 1.0f, &W, X, K, 0.0f, Y, M, n, workspace, workspace_bytes, stream);
 *
 *   FUSE IT: the decode is one call inside your own kernel (section 5):
 *       values += spinfer_decode_tc_tile(&a, bitmaps, values, lane);      // one mma.m16n8k16 A operand
 *   or one line stamps the library's kernel around an epilogue of yours (section 9), or a kernel of yours calls its
 *   stages (section 8)
 *
 *   NEEDS    sm_80 or newer to run, nvcc (C++14; CUDA 13.0 was tried) to build, no other library. NVRTC compiles the
 *            device half alone. Compiled for sm_90a it multiplies 33 to 64 tokens by wgmma.
 *   METHOD   SpInfer (EuroSys'25): Tensor-Core-Aware Bitmap Encoding, decode by masked population counts.
 *   License  Apache-2.0, at the end of spinfer_encode.h.
 *
 *   CONTENTS   1 Configuration       2 Host API            3 Vocabulary             4 Who owns what
 *              5 Decode              6 Memory              7 Tensor cores           8 The SpMM block
 *              9 Epilogues, kernel stamps   10 Encode, decompress   11 Implementation
 */
#ifndef SPINFER_CUH
#define SPINFER_CUH

#include "spinfer_encode.h"

/* ---- 1. Configuration ------------------------------------------------------------------------
 *
 * #define SPINFER_IMPLEMENTATION   in one .cu: emits the launch functions and the kernels
 * #define SPINFER_STATIC           in any .cu: the same, private to that file
 * #define SPINFER_NO_FORCEINLINE   in any .cu: real device functions, for a debugger (with -G); slow */

#ifndef SPINFER_API /* linkage of the launch functions; hidden, so that two shared libraries keep their own kernels */
#if defined(SPINFER_STATIC)
#define SPINFER_API static inline
#elif defined(__cplusplus) && defined(__GNUC__)
#define SPINFER_API extern "C" __attribute__((visibility("hidden")))
#elif defined(__cplusplus)
#define SPINFER_API extern "C"
#else
#define SPINFER_API extern
#endif
#endif

#ifdef __CUDACC__
#define SPINFER_ALIGN_64 __align__(64)
#else
#define SPINFER_ALIGN_64
#endif

#ifdef __CUDACC__
#ifdef SPINFER_NO_FORCEINLINE
#define SPINFER_DEVICE static __device__ __noinline__
#else
#define SPINFER_DEVICE static __device__ __forceinline__
#endif
#endif

#ifndef SPINFER_KERNEL /* static: a kernel in a header must not clash between translation units */
#ifdef __CUDACC_RTC__
#define SPINFER_KERNEL extern "C" __global__
#else
#define SPINFER_KERNEL static __global__
#endif
#endif

#ifdef __CUDA_ARCH__
#define SPINFER_UNROLL _Pragma("unroll")
#define SPINFER_NO_UNROLL _Pragma("unroll 1")
#else
#define SPINFER_UNROLL
#define SPINFER_NO_UNROLL
#endif

/* One macro for each instruction family that sm_80 lacks. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define SPINFER_HAS_BULK_COPY 1 /* cp.async.bulk, mbarrier.try_wait                       */
#define SPINFER_HAS_DEPENDENT 1 /* griddepcontrol: programmatic dependent launch          */
#else
#define SPINFER_HAS_BULK_COPY 0
#define SPINFER_HAS_DEPENDENT 0
#endif

/* Twins (FIG 8a) exchange sums through the shared memory of a cluster. Only an H200 was measured. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
#define SPINFER_HAS_TWINS 1
#else
#define SPINFER_HAS_TWINS 0
#endif

/* wgmma is an instruction of sm_90a: of code that is compiled for this GPU and no later one. */
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SPINFER_HAS_WGMMA 1
#else
#define SPINFER_HAS_WGMMA 0
#endif

/* Bulk copies go to the block itself. PTX of sm_90 could not say so; on sm_120 the older name has become a call. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
#define SPINFER_BULK_SHARED "shared::cta"
#else
#define SPINFER_BULK_SHARED "shared::cluster"
#endif

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800 && __CUDA_ARCH__ < 1000
#define SPINFER_HAS_BINARY_MMA 1 /* mma of one-bit operands in hardware                   */
#else
#define SPINFER_HAS_BINARY_MMA 0
#endif

/* ---- 2. Host API ----------------------------------------------------------------------------- */

struct CUstream_st; /* cudaStream_t is a pointer to it; no CUDA header is needed to call this library */

/* spinfer_device : what a plan (the first three, and wgmma) and an estimate depend on. */
typedef struct spinfer_device {
    int sm_count;       /* multiprocessors                                                                      */
    int smem_per_block; /* bytes of shared memory that a block may ask for (opt-in maximum)                     */
    int compute;        /* 10 * major + minor compute capability, 90 for an H200; less if the kernels of this
                           program were built for less                                                          */
    int clock_mhz;      /* highest clock of the multiprocessors, MHz. 0: not known, taken for 1980, an H200     */
    int read_gbs;       /* GB/s that a kernel can read from its memory. 0: not known, taken for 4640, an H200   */
    int wgmma;          /* 1: the kernels of this program were built for sm_90a, too, and this is such a GPU     */
} spinfer_device;

/* spinfer_plan : how one multiplication is cut into blocks and warps. spinfer_spmm_plan() fills it; change it if you
 * know better. A block owns `strips` rows of GroupTiles and one of `splits` ranges of K. Each of its strips * warps_k
 * teams walks along K in one strip through its own buffers, `team` GroupTiles at a time: every warps_k-th time, or with
 * a team of 4 through a part of its own (FIG 5). A block has strips * warps_k * team warps: at most 28, with 32 and 64
 * tokens or on other GPUs than Hopper 16, and 20 with 64 tokens and wgmma. */
typedef struct spinfer_plan {
    int tokens;    /* columns of Y of a block: 8, 16, 32 or 64, for n tokens perhaps less; chooses the kernel    */
    int strips;    /* rows of GroupTiles (64 rows of W) of a block, >= 1                                         */
    int team;      /* warps that share a buffer and split its rows, fixed by the kernel: 4 for 64 tokens with wgmma,
                      2 without, else 1; a stage of the buffer holds as many records                             */
    int warps_k;   /* teams that share the columns of a strip, >= 1                                              */
    int stages;    /* stages of each team in shared memory, 2 .. 8, and team * stages <= 16                      */
    int splits;    /* ranges of K, 1 .. groups along K (at most 1024), each with its own blocks; the sums are added
                      through the workspace, in the order of K. If their number is even, on Hopper and from 32
                      tokens on, two neighbouring ranges add theirs through shared memory first (FIG 8a)         */
    int x_cols;    /* GroupTile columns (32 of K each) in a piece of X: a multiple of warps_k * team, at most 64,
                      and even unless x_pieces is 1                                                              */
    int x_pieces;  /* pieces of X in shared memory, 1 .. 16; 1 only if it holds all columns of a range of K. With a
                      team of 4 each of the warps_k parts of K has so many, of x_cols / warps_k columns          */
    int dependent; /* 1: programmatic dependent launch (sm_90): W is fetched while the kernel before still runs,
                      X and Y are touched after its end. W must not be written by that kernel.                   */
    int helpers;   /* further blocks, for each range of K and each block of tokens, without rows of their own: their
                      teams multiply the last columns of K for all strips (FIG 8b), so that no SM is idle. 0: none,
                      always so with 8 and 16 tokens, and with a team of 4 before sm_90                          */
    int tail;      /* how many GroupTile columns that is: a multiple of team, at most x_cols * x_pieces; 0 without
                      helpers                                                                                    */
} spinfer_plan;

/* spinfer_kernel : a multiply kernel as the host sees it. The stamps of section 9 fill it: one of them for a kernel, an
 * array for a set of kernels that differ in the number of tokens or of warps. Fill it yourself for a kernel of your own
 * that takes a spinfer_spmm_args and calls the stages of a block (section 8). */
typedef struct spinfer_kernel {
    const void *function;  /* what the CUDA runtime knows it by                                   */
    uint32_t    dtype;     /* spinfer_dtype of W, X and Y                                         */
    int         tokens;    /* columns of Y of a block                                             */
    int         team;      /* warps that share a buffer                                           */
    int         max_warps; /* of a block                                                          */
    uint32_t    own_bytes; /* shared memory that a block wants for itself, at args.layout.own     */
    int         helps;     /* 1: it calls spinfer_help(), so its plans may have helpers           */
} spinfer_kernel;

/* spinfer_fused : what the epilogues of this library take besides alpha and beta, by value. All in device memory. */
typedef struct spinfer_fused {
    const void *bias;     /* [M] of the dtype of W, 2-byte aligned, or NULL                                     */
    const void *residual; /* R [M, n] column-major of the dtype of W, 2-byte aligned; read only if beta != 0    */
    uint64_t    ldr;      /* elements from token to token of R, >= M                                            */
} spinfer_fused;

/* spinfer_estimate : what a multiplication is expected to take, from launch to launch, if the weights come from memory
 * and not from L2. */
typedef struct spinfer_estimate {
    double spmm_us;  /* microseconds, by this library                                                          */
    double dense_us; /* microseconds, by a good library for dense matrices (cuBLAS), W stored in 16 bits each  */
} spinfer_estimate;

/* Kernels of a set: for 8 tokens, two for 16, for 32 and for 64, and two for 64 with wgmma. */
#define SPINFER_KERNELS 7

/* Bytes that an epilogue of your own may take by value. */
#define SPINFER_EPILOGUE_BYTES 64

#ifndef __CUDACC_RTC__

/* spinfer_device_query() : the current device. Keep its answer. read_gbs is not measured:
 * 96 % of what clock and width of the memory allow, as on an H200. Errors: NULL, CUDA. */
SPINFER_API spinfer_status spinfer_device_query(spinfer_device *device);

/* spinfer_spmm_plan() : a good plan for this matrix, n tokens and this GPU. A pure function: the same arguments give
 * the same plan, no pointer of W is followed, no GPU is needed. It compares a thousand plans and more,
 * in 10 to 260 microseconds: keep its answer if you launch often.
 *
 *   Errors    NULL, SHAPE, ALIGNMENT, DTYPE, VERSION, FORMAT, ARCH (older than sm_80), SMEM */
SPINFER_API spinfer_status spinfer_spmm_plan(const spinfer_matrix *W, size_t n, const spinfer_device *device,
                                             spinfer_plan *plan);

/* spinfer_spmm_estimate() : is it worth it? A matrix may be too small, have too few zeros or meet too many tokens:
 *
 *     spinfer_spmm_estimate(NULL, &W, n, &device, &e);
 *     if (e.dense_us < e.spmm_us) ...    // keep it dense
 *
 *   plan      in   NULL: spinfer_spmm_plan(). A dependent launch is estimated as a plain one (it gains about 1 us).
 *   W, n      in   as for spinfer_spmm_plan(). W->max_record is taken for the size of all records, and the bytes to be
 *                  read are W->data_bytes, or less if max_record says so (a slice keeps the number of its parent).
 *   device    in   spinfer_device_query(), or made by hand
 *   estimate  out
 *
 * A pure function: no pointer of W is followed, no GPU is needed. Fitted to an H200 and n <= 64: there both times are
 * 2 to 4 % off on average, and which of them is less comes out as measured in 98 % of 1120 rows, 93 % at 64 tokens,
 * where the two are close (tests/test_plan.cu). For other GPUs it extrapolates by clock and bandwidth, before sm_90
 * also by what the code for sm_80 takes on an H200. dense_us counts bytes but no arithmetic, which is too little from
 * some hundred tokens on.
 *
 *   Errors    as spinfer_spmm_plan(), and PLAN; ARCH also for a dependent launch before sm_90. Nothing was written. */
SPINFER_API spinfer_status spinfer_spmm_estimate(const spinfer_plan *plan, const spinfer_matrix *W, size_t n,
                                                 const spinfer_device *device, spinfer_estimate *estimate);

/* spinfer_spmm_workspace_bytes() : device memory that spinfer_spmm() needs with this plan; 0 unless the plan has
 * splits > 1 or helpers; else the sums of all blocks along M and tokens, once for each of spinfer_senders(), at most 2
 * TiB. Pure. Errors: as spinfer_spmm_plan(), and PLAN. */
SPINFER_API spinfer_status spinfer_spmm_workspace_bytes(const spinfer_plan *plan, const spinfer_matrix *W, size_t n,
                                                        size_t *bytes);

/* spinfer_spmm() : Y = alpha W X + beta Y on the GPU.
 *
 *   plan       in      NULL: spinfer_spmm_plan() for the current device
 *   W          in      the struct in host memory, its two arrays in device memory, data 128-byte aligned (cudaMalloc
 *                      is). Arrays that you did not encode must have passed spinfer_validate().
 *   X          in      [K, n] column-major, device memory: token t starts at X + t * ldx elements (PyTorch's contiguous
 *                      x[n, K]). 2-byte aligned; (uintptr_t)X % 16 == 0 and ldx % 8 == 0 loads faster.
 *   ldx        in      elements, >= K
 *   Y          in/out  [M, n] column-major, device memory, 2-byte aligned (PyTorch's contiguous y[n, M]); no overlap
 *                      with X. With beta == 0 it is written only, so it may hold anything, NaN included.
 *   ldy        in      elements, >= M
 *   n          in      tokens, 1 .. 65535 * plan->tokens. Made for n <= 64; above, W is decoded again for every 64.
 *   workspace  in/out  device memory, 16-byte aligned, of spinfer_spmm_workspace_bytes(), or NULL where that is 0. Zero
 *                      it once after allocating; every launch leaves zeros for the next, which may have another plan or
 *                      matrix. Launches that may overlap (two streams) need one each.
 *   stream     in      cudaStream_t
 *
 *   Stream      enqueues one kernel, never synchronises, can be captured in a CUDA graph. On Hopper a plan with an
 *               even number of splits launches clusters of two blocks.
 *   Result      bitwise the same for the same plan, device and input
 *   Errors      NULL, SHAPE, ALIGNMENT, DTYPE, VERSION, FORMAT, PLAN, CAPACITY, SMEM, ARCH: nothing was enqueued.
 *               CUDA: the runtime refused; cudaPeekAtLastError() says why. */
SPINFER_API spinfer_status spinfer_spmm(const spinfer_plan *plan, float alpha, const spinfer_matrix *W, const void *X,
                                        size_t ldx, float beta, void *Y, size_t ldy, size_t n, void *workspace,
                                        size_t workspace_bytes, struct CUstream_st *stream);

/* ---- Kernels with other epilogues, and kernels of your own
 *
 * A kernel ends with an epilogue, a device function that gets finished sums and stores what is made of them. The
 * library comes compiled with alpha W X + beta Y only. Other kernels are stamped by one line in a .cu file of yours,
 * with an epilogue of section 9 or your own, and launched by the functions below, from that file or any other:
 *
 *     SPINFER_DEFINE_SPMM_KERNELS(mlp_up, SPINFER_FP16, spinfer_epilogue_gelu);   // for 8, 16, 32 and 64 tokens
 *
 *     const spinfer_fused fused = {bias};
 *     spinfer_kernel_launch(mlp_up, SPINFER_KERNELS, &fused, sizeof fused, NULL, 1.0f, &W, X, K, 0.0f, Y, M, n,
 *                           workspace, workspace_bytes, stream);
 *
 * In all of them, `kernels` is an array of `count` kernels, by rising tokens. A plan is for one of those with the dtype
 * of W: for as few tokens as take all n at once, or else for the most, or if W has few rows perhaps for a half or a
 * quarter of them; its `tokens` and `team` say which. Those that use wgmma are planned with if device->wgmma. */

/* spinfer_kernel_plan(), spinfer_kernel_estimate(), spinfer_kernel_workspace_bytes() : as spinfer_spmm_plan(),
 * spinfer_spmm_estimate() and spinfer_spmm_workspace_bytes(), for these kernels. Pure. What an epilogue adds is not
 * estimated. Errors: the same; PLAN if no kernel has the dtype of W, or none is the plan's. */
SPINFER_API spinfer_status spinfer_kernel_plan(const spinfer_kernel *kernels, size_t count, const spinfer_matrix *W,
                                               size_t n, const spinfer_device *device, spinfer_plan *plan);
SPINFER_API spinfer_status spinfer_kernel_estimate(const spinfer_kernel *kernels, size_t count,
                                                   const spinfer_plan *plan, const spinfer_matrix *W, size_t n,
                                                   const spinfer_device *device, spinfer_estimate *estimate);
SPINFER_API spinfer_status spinfer_kernel_workspace_bytes(const spinfer_kernel *kernels, size_t count,
                                                          const spinfer_plan *plan, const spinfer_matrix *W, size_t n,
                                                          size_t *bytes);

/* spinfer_kernel_launch() : as spinfer_spmm(), by one of these kernels. spinfer_spmm() is a call of it.
 *
 *   epilogue         in   host memory: what the epilogue takes (args->user), copied into the launch; or NULL
 *   epilogue_bytes   in   0 .. SPINFER_EPILOGUE_BYTES
 *   Y, ldy           out  whatever the epilogue makes of them; not checked but for Y % 2. The epilogues of the library
 *                         need ldy >= the rows that they write.
 *   Errors           as spinfer_spmm(); NULL also if epilogue_bytes > 0 without an epilogue, CAPACITY if there are too
 *                    many of them, PLAN as above */
SPINFER_API spinfer_status spinfer_kernel_launch(const spinfer_kernel *kernels, size_t count, const void *epilogue,
                                                 size_t epilogue_bytes, const spinfer_plan *plan, float alpha,
                                                 const spinfer_matrix *W, const void *X, size_t ldx, float beta,
                                                 void *Y, size_t ldy, size_t n, void *workspace, size_t workspace_bytes,
                                                 struct CUstream_st *stream);

#endif /* !__CUDACC_RTC__ */

/* ---- Encode and decompress on the GPU --------------------------------------------------------
 *
 * From a dense weight in device memory to TCA-BME and back, the same bytes as spinfer_encode() and spinfer_decode().
 *
 *     // once: what to allocate without looking at the weights
 *     spinfer_encode_device_bytes(M, K, &most_data_bytes, &workspace_bytes);
 *     // one pass over the weights: how much it will be. Copy `result` to the host when you need it.
 *     spinfer_encode_sizes_device(dense, M, K, K, dtype, 0, result, workspace, workspace_bytes, stream);
 *     // another pass encodes into result.data_bytes, or, without the call above, into as much as you like
 *     spinfer_encode_device(dense, M, K, K, dtype, 0, offsets, offsets_bytes, data, data_bytes, &W, result, workspace,
 *                           workspace_bytes, stream); */

/* spinfer_encode_result : what the encoding kernels report, in device memory. */
typedef struct spinfer_encode_result {
    uint64_t data_bytes; /* that the data array needs, a multiple of 128                                          */
    uint64_t nnz;        /* kept weights                                                                          */
    uint32_t max_record; /* bytes of the largest record                                                           */
    uint32_t status;     /* spinfer_status: OK; CAPACITY: data_bytes is more than there was; OVERFLOW: > 64 GiB   */
} spinfer_encode_result;

#ifndef __CUDACC_RTC__

/* spinfer_encode_device_bytes() : sizes that depend on the shape alone. Pure. The offsets need
 * spinfer_offsets_bytes().
 *
 *   most_data_bytes  out  of the data array if no weight is zero; or NULL
 *   workspace_bytes  out  of the workspace, about 1 / 4096 of the dense bytes; or NULL
 *   Errors    SHAPE, OVERFLOW (even a matrix of zeros would exceed 64 GiB) */
SPINFER_API spinfer_status spinfer_encode_device_bytes(size_t rows, size_t cols, uint64_t *most_data_bytes,
                                                       size_t *workspace_bytes);

/* spinfer_encode_sizes_device() : what spinfer_encode_device() will need for this matrix. Reads the weights once.
 *
 *   dense      in   fp16 or bf16 bits [rows, cols] row-major, row r starts at dense + r * ld elements. Device memory,
 *                   2-byte aligned; read 16 bytes at a time if (uintptr_t)dense % 16 == 0 and ld % 8 == 0, else 2.
 *   rows       in   M, 1 .. SPINFER_MAX_DIM
 *   cols       in   K, 1 .. SPINFER_MAX_DIM
 *   ld         in   elements from one row to the next, >= cols
 *   dtype      in   what the bits mean
 *   threshold  in   magnitude pruning on the way: a weight is kept if |weight| > threshold, compared as bits:
 *                   (bits & 0x7fff) > threshold. 0 keeps what spinfer_encode() keeps. spinfer_from_float() makes the
 *                   bits of other thresholds, up to infinity. NaNs always stay.
 *   result     out  device memory, 8-byte aligned. Written when the kernel ends.
 *   workspace       device memory, 16-byte aligned, of spinfer_encode_device_bytes(); it may hold anything. Launches
 *                   that may overlap (two streams) need one each.
 *   stream     in   cudaStream_t
 *
 *   Stream      enqueues a memset and a kernel, never synchronises, can be captured in a CUDA graph
 *   Errors      NULL, SHAPE, ALIGNMENT, DTYPE (also a threshold that is negative or NaN), CAPACITY (workspace),
 *               OVERFLOW (as above), ARCH: nothing was enqueued. CUDA: the runtime refused. */
SPINFER_API spinfer_status spinfer_encode_sizes_device(const void *dense, size_t rows, size_t cols, size_t ld,
                                                       spinfer_dtype dtype, uint16_t threshold,
                                                       spinfer_encode_result *result, void *workspace,
                                                       size_t workspace_bytes, struct CUstream_st *stream);

/* spinfer_encode_device() : dense -> TCA-BME in one pass over the weights.
 *
 *   dense .. threshold      in   as above
 *   offsets, offsets_bytes  out  device memory of at least spinfer_offsets_bytes(), 4-byte aligned
 *   data, data_bytes        out  device memory, 128-byte aligned. spinfer_encode_sizes_device() says how much it takes;
 *                                any other capacity may be tried: nothing is written behind it.
 *   matrix                  out  host memory, set at once: describes the arrays as the kernel will leave them. Its
 *                                data_bytes is the capacity and its max_record the largest possible one; set both from
 *                                the result where you have it, for spinfer_spmm() then fits more into shared memory.
 *   result .. stream             as above
 *
 *   No two arrays may overlap. If result->status is not OK, the arrays hold no matrix: do not use them.
 *   Stream, Errors               as above, and CAPACITY also if offsets or data cannot hold even a matrix of zeros */
SPINFER_API spinfer_status spinfer_encode_device(const void *dense, size_t rows, size_t cols, size_t ld,
                                                 spinfer_dtype dtype, uint16_t threshold, uint32_t *offsets,
                                                 uint64_t offsets_bytes, void *data, uint64_t data_bytes,
                                                 spinfer_matrix *matrix, spinfer_encode_result *result, void *workspace,
                                                 size_t workspace_bytes, struct CUstream_st *stream);

/* spinfer_decompress_device() : TCA-BME -> dense, bit-exact but for the sign of zeros, which come back as +0.
 *
 *   W         in   the struct in host memory, its two arrays in device memory; a slice is fine. Trusted: run
 *                  spinfer_validate() on what you did not encode.
 *   dense     out  [rows, cols] row-major, every element written. Device memory, 2-byte aligned; written 16
 *                  bytes at a time if (uintptr_t)dense % 16 == 0 and ld % 8 == 0, else 2.
 *   ld        in   elements from one row to the next, >= cols; the gap behind a row is not written
 *   stream    in   cudaStream_t
 *
 *   Stream      enqueues one kernel, never synchronises, can be captured in a CUDA graph
 *   Errors      NULL, SHAPE, ALIGNMENT, DTYPE, VERSION, FORMAT, ARCH: nothing was enqueued. CUDA: the runtime
 *               refused. */
SPINFER_API spinfer_status spinfer_decompress_device(const spinfer_matrix *W, void *dense, size_t ld,
                                                     struct CUstream_st *stream);

#endif /* !__CUDACC_RTC__ */

/* ---- 3. Vocabulary ---------------------------------------------------------------------------
 *
 * Registers of one lane for mma.m16n8k16. Each uint32_t holds two 16-bit values, the lower column in the lower half. */

typedef struct spinfer_frag_a {
    uint32_t r[4]; /* weights: 16 rows x 16 columns  */
} spinfer_frag_a;

typedef struct spinfer_frag_b {
    uint32_t r[2]; /* X: 16 columns of W x 8 tokens  */
} spinfer_frag_b;

typedef struct spinfer_frag_c {
    float r[4]; /* sums: 16 rows x 8 tokens       */
} spinfer_frag_c;

/* A place in shared memory. On the device a 32-bit shared address; on the host a pointer, so that the same decode runs
 * and is tested on a CPU. Bytes are added to it in both worlds. */
#ifdef __CUDA_ARCH__
typedef uint32_t spinfer_shared;
#else
typedef const unsigned char *spinfer_shared;
#endif

/* ---- 4. Who owns what ------------------------------------------------------------------------
 *
 * FIG 4, the 16 columns of a TCTile and the lanes that own them ("quad order")
 *
 *     column    0  1  2  3   4  5  6  7   8  9 10 11  12 13 14 15        lane = 4 * g + j
 *     lane j        0            1            2            3             rows g and g + 8
 *     register  0  0  2  2   0  0  2  2   0  0  2  2   0  0  2  2        (+ 1 for row g + 8)
 *
 * The instruction itself gives columns 2j, 2j+1, 2j+8, 2j+9 to lane j. A dot product does not care about the order of
 * its terms, so we hand it four neighbours instead, in both operands: a lane then needs one rank for four weights, and
 * its part of X is eight consecutive bytes. On an H200 that decodes 1.12x as fast as the standard order. */

/* spinfer_frag_a_row(), spinfer_frag_a_col() : place in the TCTile of the lower half of register 0..3 of a lane. */
SPINFER_HD int spinfer_frag_a_row(int lane, int reg) { return lane / 4 + 8 * (reg % 2); }
SPINFER_HD int spinfer_frag_a_col(int lane, int reg) { return 4 * (lane % 4) + 2 * (reg / 2); }

/* spinfer_frag_b_col(), spinfer_frag_b_token() : the same for X, register 0..1. */
SPINFER_HD int spinfer_frag_b_col(int lane, int reg) { return 4 * (lane % 4) + 2 * reg; }
SPINFER_HD int spinfer_frag_b_token(int lane) { return lane / 4; }

/* spinfer_frag_c_row(), spinfer_frag_c_token() : the same for the sums, register 0..3 (fixed by the instruction). */
SPINFER_HD int spinfer_frag_c_row(int lane, int reg) { return lane / 4 + 8 * (reg / 2); }
SPINFER_HD int spinfer_frag_c_token(int lane, int reg) { return 2 * (lane % 4) + reg % 2; }

/* spinfer_pair_row(), spinfer_pair_col() : the order of the instruction itself, for register 0..3 of a lane. wgmma
 * takes X from shared memory as it lies there, so here no other order will do: a lane needs four ranks for eight
 * weights. In return a load of all lanes stays inside one BitmapTile, whose values lie in different banks. */
SPINFER_HD int spinfer_pair_row(int lane, int reg) { return lane / 4 + 8 * (reg % 2); }
SPINFER_HD int spinfer_pair_col(int lane, int reg) { return 2 * (lane % 4) + 8 * (reg / 2); }

/* spinfer_lane_tile() : 0 or 1, whether a lane's four columns lie in the left or the right BitmapTile of a TCTile.
 * spinfer_lane_half() : 0 or 1, the 32-bit half of that bitmap (rows 0..3 or 4..7) with the lane's row.
 * spinfer_lane_shift() : the lane's first bit in that half: 0, 4, .. 28. FIG 2 shows the three together. */
SPINFER_HD int spinfer_lane_tile(int lane) { return lane / 2 % 2; }
SPINFER_HD int spinfer_lane_half(int lane) { return lane / 16; }
SPINFER_HD int spinfer_lane_shift(int lane) { return 8 * (lane / 4 % 4) + 4 * (lane % 2); }

/* spinfer_pair_shift() : the same in the order of the instruction: 0, 2, .. 30, in the same half of all four. */
SPINFER_HD int spinfer_pair_shift(int lane) { return 8 * (lane / 4 % 4) + 2 * (lane % 4); }

/* ---- 5. Decode -------------------------------------------------------------------------------
 *
 * One masked population count gives the rank of a lane's first value, one conditional load each fetches up to four
 * values. These functions take plain pointers (shared or global memory, or the host's) and are for kernels and tests of
 * your own. Section 8 has the same steps on 32-bit shared addresses, cut in two so that loads overlap. */

/* spinfer_decode_quad() : four neighbouring weights of one row of a BitmapTile.
 *
 *   word      in   the 32 bits (four rows) that hold them
 *   shift     in   their first bit: 0, 4, .. 28
 *   values    in   first value of the word, 2-byte aligned; only kept values are read
 *   out       out  [2] registers: columns 0 and 1, columns 2 and 3 */
SPINFER_HD void spinfer_decode_quad(uint32_t word, int shift, const uint16_t *values, uint32_t *out)
{
    const uint32_t  bits = word >> shift;
    const uint16_t *value = values + spinfer_popcount(word & ((1u << shift) - 1)); /* shift <= 28 */
    uint32_t        e0 = 0, e1 = 0, e2 = 0, e3 = 0;
    if (bits & 1) e0 = *value++;
    if (bits & 2) e1 = *value++;
    if (bits & 4) e2 = *value++;
    if (bits & 8) e3 = *value;
    out[0] = e0 | e1 << 16;
    out[1] = e2 | e3 << 16;
}

/* spinfer_decode_bitmap_tile() : four weights of one BitmapTile into a register pair.
 *
 *   bitmap    in   the BitmapTile
 *   values    in   its first value
 *   row       in   0..7
 *   half      in   0: columns 0..3, 1: columns 4..7
 *   out       out  [2] registers */
SPINFER_HD void spinfer_decode_bitmap_tile(uint64_t bitmap, const uint16_t *values, int row, int half, uint32_t *out)
{
    const uint32_t low = (uint32_t)bitmap, high = (uint32_t)(bitmap >> 32);
    const int      shift = 8 * (row % 4) + 4 * half;
    if (row < 4)
        spinfer_decode_quad(low, shift, values, out);
    else
        spinfer_decode_quad(high, shift, values + spinfer_popcount(low), out);
}

/* spinfer_decode_tc_tile() : one TCTile into the registers of an mma A operand.
 *
 *   frag      out  FIG 4. Lane-private.
 *   bitmaps   in   [4] BitmapTiles BT 0..3 (FIG 1), 8-byte aligned
 *   values    in   first value of the TCTile, 2-byte aligned
 *   lane      in   0..31
 *
 *   Returns   number of values of the TCTile, 0..256, the same in all lanes: add it to `values` for the next TCTile
 *   Reads     values[0 .. return - 1] only
 *   Scope     one lane; no shuffle, no barrier */
SPINFER_HD int spinfer_decode_tc_tile(spinfer_frag_a *frag, const uint64_t *bitmaps, const uint16_t *values, int lane)
{
    /* Choices instead of branches: the lanes of a warp take different sides, and then both sides would cost. */
    const int      right = spinfer_lane_tile(lane), high = spinfer_lane_half(lane), shift = spinfer_lane_shift(lane);
    const uint64_t upper = right ? bitmaps[1] : bitmaps[0], lower = right ? bitmaps[3] : bitmaps[2];
    const int      n0 = spinfer_popcount64(bitmaps[0]), n1 = spinfer_popcount64(bitmaps[1]);
    const int      n2 = spinfer_popcount64(bitmaps[2]), n3 = spinfer_popcount64(bitmaps[3]);
    const int      before_upper = (right ? n0 : 0) + (high ? spinfer_popcount((uint32_t)upper) : 0);
    const int      before_lower = n0 + n1 + (right ? n2 : 0) + (high ? spinfer_popcount((uint32_t)lower) : 0);
    uint32_t       top[2], bottom[2];
    spinfer_decode_quad((uint32_t)(upper >> (32 * high)), shift, values + before_upper, top);
    spinfer_decode_quad((uint32_t)(lower >> (32 * high)), shift, values + before_lower, bottom);
    frag->r[0] = top[0];
    frag->r[1] = bottom[0];
    frag->r[2] = top[1];
    frag->r[3] = bottom[1];
    return n0 + n1 + n2 + n3;
}

/* spinfer_store_tc_tile() : the registers of a TCTile into a row-major 16 x 16 tile in shared, global or host memory.
 *
 *   tile      out  element (0, 0), 8-byte aligned. Every lane writes four elements in each of two rows.
 *   ld        in   elements from row to row, a multiple of 4. In shared memory ld % 64 == 8, 24, 40 or 56 lets ldmatrix
 *                  and these stores run without bank conflicts (padding). */
SPINFER_HD void spinfer_store_tc_tile(const spinfer_frag_a *frag, uint16_t *tile, size_t ld, int lane)
{
    const uint32_t top[2] = {frag->r[0], frag->r[2]}, bottom[2] = {frag->r[1], frag->r[3]};
    uint16_t      *to_top = tile + (size_t)spinfer_frag_a_row(lane, 0) * ld + spinfer_frag_a_col(lane, 0);
    uint16_t      *to_bottom = tile + (size_t)spinfer_frag_a_row(lane, 1) * ld + spinfer_frag_a_col(lane, 1);
#ifdef __CUDA_ARCH__
    ((uint32_t *)(void *)to_top)[0] = top[0];
    ((uint32_t *)(void *)to_top)[1] = top[1];
    ((uint32_t *)(void *)to_bottom)[0] = bottom[0];
    ((uint32_t *)(void *)to_bottom)[1] = bottom[1];
#else /* the caller reads uint16_t, which a host compiler may move across a store of uint32_t (strict aliasing) */
    memcpy(to_top, top, sizeof top);
    memcpy(to_bottom, bottom, sizeof bottom);
#endif
}

/* spinfer_record_at() : the record of a GroupTile (FIG 3 of spinfer_encode.h), 16-byte aligned, in the memory of W.
 *
 *   row_group, col_group   in   0 .. groups of W - 1 */
SPINFER_HD const void *spinfer_record_at(const spinfer_matrix *W, uint32_t row_group, uint32_t col_group)
{
    return (const unsigned char *)W->data + 16 * (size_t)W->offsets[(size_t)row_group * W->group_ld + col_group];
}

/* spinfer_decode_record_tc_tile() : spinfer_decode_tc_tile() for TCTile 0..7 (FIG 1) of a record in shared, global or
 * host memory, 16-byte aligned. Returns the same. */
SPINFER_HD int spinfer_decode_record_tc_tile(spinfer_frag_a *frag, const void *record, int tc_tile, int lane)
{
    const unsigned char *bytes = (const unsigned char *)record;
    const uint64_t      *bitmaps = (const uint64_t *)(const void *)(bytes + SPINFER_RECORD_BITMAPS);
    const uint16_t      *values = (const uint16_t *)(const void *)(bytes + SPINFER_RECORD_VALUES);
    return spinfer_decode_tc_tile(frag, bitmaps + 4 * tc_tile, values + ((const uint16_t *)record)[tc_tile], lane);
}

/* spinfer_decode_group() : a whole record into a row-major 64 x 32 tile in shared, global or host memory.
 *
 *   record    in   16-byte aligned, FIG 3; shared or global memory
 *   tile, ld       as above
 *   lane      in   0..31
 *   warp      in   0 .. warps - 1: the TCTiles are dealt to the warps; 1, 2, 4 or 8 of them work evenly
 *
 *   Scope     the calling warps; the tile is complete for other threads after a barrier of the caller */
SPINFER_HD void spinfer_decode_group(const void *record, uint16_t *tile, size_t ld, int lane, int warp, int warps)
{
    int t;
    for (t = warp; t < SPINFER_GROUP_TC_TILES; t += warps) {
        spinfer_frag_a frag;
        spinfer_decode_record_tc_tile(&frag, record, t, lane);
        spinfer_store_tc_tile(&frag, tile + (size_t)spinfer_tc_tile_row(t) * ld + spinfer_tc_tile_col(t), ld, lane);
    }
}

/* spinfer_shared_u16() .. : reads of shared memory, little-endian. Address aligned to the size of the access. */
SPINFER_HD uint32_t spinfer_shared_u16(spinfer_shared address)
{
#ifdef __CUDA_ARCH__
    uint16_t value;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(value) : "r"(address));
    return value;
#else
    return *(const uint16_t *)(const void *)address;
#endif
}

SPINFER_HD void spinfer_shared_u32x2(spinfer_shared address, uint32_t *out)
{
#ifdef __CUDA_ARCH__
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(out[0]), "=r"(out[1]) : "r"(address));
#else
    out[0] = ((const uint32_t *)(const void *)address)[0];
    out[1] = ((const uint32_t *)(const void *)address)[1];
#endif
}

SPINFER_HD void spinfer_shared_u32x4(spinfer_shared address, uint32_t *out)
{
#ifdef __CUDA_ARCH__
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address));
#else
    spinfer_shared_u32x2(address, out);
    spinfer_shared_u32x2(address + 8, out + 2);
#endif
}

/* spinfer_shared_u16_if() : the value at an address if `kept` is not zero, otherwise zero. The instruction that masks a
 * bitmap to get `kept` sets the predicate and leaves the zero, so nothing must be cleared before.
 * spinfer_shared_u16_next() : the same, and the address moves behind a value that was kept. */
SPINFER_HD uint32_t spinfer_shared_u16_if(uint32_t kept, spinfer_shared address)
{
#ifdef __CUDA_ARCH__
    uint32_t value = kept;
    asm volatile("{ .reg .pred some; setp.ne.u32 some, %0, 0; @some ld.shared.u16 %0, [%1]; }"
                 : "+r"(value)
                 : "r"(address));
    return value;
#else
    return kept ? spinfer_shared_u16(address) : 0;
#endif
}

SPINFER_HD uint32_t spinfer_shared_u16_next(uint32_t kept, spinfer_shared *address)
{
#ifdef __CUDA_ARCH__
    uint32_t value = kept;
    asm volatile("{ .reg .pred some; setp.ne.u32 some, %0, 0; @some ld.shared.u16 %0, [%1]; @some add.u32 %1, %1, 2; }"
                 : "+r"(value), "+r"(*address));
    return value;
#else
    if (!kept) return 0;
    *address += 2;
    return spinfer_shared_u16(*address - 2);
#endif
}

/* Constants of the two-step decode, computed once. */
typedef struct spinfer_quad {
    uint32_t bit[4]; /* of its four weights                                            */
    uint32_t below;  /* mask of the bits below bit[1]: whose values lie before that one */
} spinfer_quad;

/* spinfer_quad_at() : of the quad whose first bit is `shift`: 0, 4, .. 28. spinfer_lane_quad() : of a lane's. */
SPINFER_HD spinfer_quad spinfer_quad_at(int shift)
{
    spinfer_quad q;
    int          i;
    for (i = 0; i < 4; i++) q.bit[i] = 1u << (shift + i);
    q.below = q.bit[1] - 1;
    return q;
}
SPINFER_HD spinfer_quad spinfer_lane_quad(int lane) { return spinfer_quad_at(spinfer_lane_shift(lane)); }

/* spinfer_quad_locate() : step one. From a word and the place of its first value to the place of the quad's second
 * value. If there is a first one it lies right before, so the two loads need no addition between them, and none waits
 * for the other. With spinfer_shared_u16_if() that saves 6 to 14 % of the instructions, and 1 to 5 % of the time
 * (H200). */
SPINFER_HD spinfer_shared spinfer_quad_locate(uint32_t word, spinfer_shared base, spinfer_quad q)
{
    return base + 2 * spinfer_popcount(word & q.below);
}

/* spinfer_quad_load() : step two, up to four conditional loads. Zeros where a bit is clear. Conditional loads beat
 * loading always and masking (15.6 against 13.7 weights for each clock and SM on an H200). */
SPINFER_HD void spinfer_quad_load(uint32_t word, spinfer_shared place, spinfer_quad q, uint32_t *values)
{
    values[0] = spinfer_shared_u16_if(word & q.bit[0], place - 2);
    values[1] = spinfer_shared_u16_next(word & q.bit[1], &place);
    values[2] = spinfer_shared_u16_next(word & q.bit[2], &place);
    values[3] = spinfer_shared_u16_if(word & q.bit[3], place);
}

/* The same for pairs, the order of the instruction. */
typedef struct spinfer_pair {
    uint32_t bit[2], below;
} spinfer_pair;

SPINFER_HD spinfer_pair spinfer_lane_pair(int lane)
{
    spinfer_pair p;
    p.bit[0] = 1u << spinfer_pair_shift(lane);
    p.bit[1] = 2 * p.bit[0];
    p.below = p.bit[1] - 1;
    return p;
}

SPINFER_HD spinfer_shared spinfer_pair_locate(uint32_t word, spinfer_shared base, spinfer_pair p)
{
    return base + 2 * spinfer_popcount(word & p.below);
}

/* spinfer_pair_first(), spinfer_pair_second() : the two conditional loads. */
SPINFER_HD uint32_t spinfer_pair_first(uint32_t word, spinfer_shared place, spinfer_pair p)
{
    return spinfer_shared_u16_if(word & p.bit[0], place - 2);
}
SPINFER_HD uint32_t spinfer_pair_second(uint32_t word, spinfer_shared place, spinfer_pair p)
{
    return spinfer_shared_u16_if(word & p.bit[1], place);
}

/* Two 16-bit values into one register. */
SPINFER_HD uint32_t spinfer_pack(uint32_t low, uint32_t high)
{
#ifdef __CUDA_ARCH__ /* a multiplication: the FMA pipe has more room than the ALU (1 % on an H200) */
    uint32_t packed;
    asm("mad.lo.u32 %0, %1, 65536, %2;" : "=r"(packed) : "r"(high), "r"(low));
    return packed;
#else
    return low | high << 16;
#endif
}

#ifdef __CUDACC__

/* ---- 6. Memory -------------------------------------------------------------------------------
 *
 * One function for one instruction. All addresses are shared-memory addresses unless a pointer says global.
 *
 * Sections 6 and 7 are for device code, and are declared wherever nvcc looks, its host pass included: a kernel of yours
 * calls them without #ifdef. Keep addresses as spinfer_shared, because in the host pass that is a pointer. */

/* spinfer_shared_address() : the 32-bit shared address of a pointer to shared memory. */
SPINFER_DEVICE spinfer_shared spinfer_shared_address(const void *pointer)
{
#ifdef __CUDA_ARCH__
    return (uint32_t)__cvta_generic_to_shared(pointer);
#else
    return (const unsigned char *)pointer;
#endif
}

SPINFER_DEVICE void spinfer_shared_store_u32x2(spinfer_shared address, uint32_t a, uint32_t b)
{
    asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(address), "r"(a), "r"(b) : "memory");
}

SPINFER_DEVICE void spinfer_shared_store_u32(spinfer_shared address, uint32_t value)
{
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}

SPINFER_DEVICE void spinfer_shared_store_u16(spinfer_shared address, uint16_t value)
{
    asm volatile("st.shared.u16 [%0], %1;" ::"r"(address), "h"(value) : "memory");
}

/* Counts 0, 1, .. modulus - 1, 0, .. and returns the number before. */
SPINFER_DEVICE uint32_t spinfer_shared_count(spinfer_shared address, uint32_t modulus)
{
    uint32_t before;
    asm volatile("atom.shared.inc.u32 %0, [%1], %2;" : "=r"(before) : "r"(address), "r"(modulus - 1) : "memory");
    return before;
}

SPINFER_DEVICE void spinfer_shared_store_f32(spinfer_shared address, float value)
{
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}

/* spinfer_cp_async_16() : starts a copy of 16 bytes from global memory; bytes from `valid` on are zeros instead. */
SPINFER_DEVICE void spinfer_cp_async_16(spinfer_shared to, const void *from, uint32_t valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid) : "memory");
}

/* spinfer_cp_async_commit(), spinfer_cp_async_wait() : group the copies of this thread; wait until at most `pending`
 * groups (a compile-time number, 0..3) are unfinished. The data is visible to this thread, to others after a
 * barrier. */
SPINFER_DEVICE void spinfer_cp_async_commit(void) { asm volatile("cp.async.commit_group;" ::: "memory"); }
SPINFER_DEVICE void spinfer_cp_async_wait(const int pending)
{
    switch (pending) { /* an asm immediate cannot be a parameter */
    case 3: asm volatile("cp.async.wait_group 3;" ::: "memory"); break;
    case 2: asm volatile("cp.async.wait_group 2;" ::: "memory"); break;
    case 1: asm volatile("cp.async.wait_group 1;" ::: "memory"); break;
    default: asm volatile("cp.async.wait_group 0;" ::: "memory"); break;
    }
}

/* spinfer_ldmatrix_x4() : four 8 x 8 matrices of 16-bit elements; lane i names row i % 8 of matrix i / 8 (16 bytes). */
SPINFER_DEVICE void spinfer_ldmatrix_x4(spinfer_shared row, uint32_t *out)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(row)
                 : "memory");
}

/* Barriers in shared memory (mbarrier, 8 bytes each): copies arrive on them, readers wait for them.
 *
 * spinfer_mbarrier_init()    a phase completes after `count` arrivals and all bytes that were announced. One thread;
 *                            others may use it after spinfer_mbarrier_fence() by that thread and a barrier.
 * spinfer_mbarrier_arrive()  one arrival; what this thread wrote before is visible to those who wait
 * spinfer_mbarrier_wait()    until the phase with this parity (0, 1, 0, ..) is complete */
SPINFER_DEVICE void spinfer_mbarrier_init(spinfer_shared barrier, uint32_t count)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

SPINFER_DEVICE void spinfer_mbarrier_fence(void)
{
#if SPINFER_HAS_BULK_COPY
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); /* to the bulk copy engine */
#endif
}

SPINFER_DEVICE void spinfer_mbarrier_arrive(spinfer_shared barrier)
{
    asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(barrier) : "memory");
}

SPINFER_DEVICE void spinfer_mbarrier_wait(spinfer_shared barrier, uint32_t parity)
{
#if SPINFER_HAS_BULK_COPY
    asm volatile("{ .reg .pred done;\n"
                 "again: mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
                 "@done bra finished;\n"
                 "bra again;\n"
                 "finished: }" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
#else
    asm volatile("{ .reg .pred done;\n"
                 "again: mbarrier.test_wait.parity.shared.b64 done, [%0], %1;\n"
                 "@done bra finished;\n"
                 "bra again;\n"
                 "finished: }" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
#endif
}

/* Two blocks of a cluster, of which the calling one has the lower or higher rank, 0 or 1. sm_90.
 *
 * spinfer_cluster_arrive()  all threads of both blocks arrive ..
 * spinfer_cluster_wait()    .. and behind this the barriers of the other block may be used, if it has called
 *                           spinfer_mbarrier_fence() before it arrived. Nothing else is made visible: to order memory
 *                           the hardware would wait for the L2, 0.75 us. Scope: warp.
 * spinfer_cluster_address() what lies at the same place in the shared memory of that block
 * spinfer_cluster_signal()  one arrival at a barrier of the other block: it may write where this thread has read
 * spinfer_cluster_store()   16 bytes to the other block; they report to a barrier of that block, which makes them
 *                           visible to those who wait there */
SPINFER_DEVICE void spinfer_cluster_arrive(void)
{
#if SPINFER_HAS_TWINS
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}

SPINFER_DEVICE void spinfer_cluster_wait(void)
{
#if SPINFER_HAS_TWINS
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

SPINFER_DEVICE uint32_t spinfer_cluster_address(spinfer_shared address, uint32_t rank)
{
    uint32_t there = 0;
#if SPINFER_HAS_TWINS
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
#else
    (void)address, (void)rank;
    __trap();
#endif
    return there;
}

SPINFER_DEVICE void spinfer_cluster_signal(uint32_t barrier)
{
#if SPINFER_HAS_TWINS
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
#else
    (void)barrier;
    __trap();
#endif
}

SPINFER_DEVICE void spinfer_cluster_store(uint32_t to, const float *four, uint32_t barrier)
{
#if SPINFER_HAS_TWINS
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(to),
        "f"(four[0]), "f"(four[1]), "f"(four[2]), "f"(four[3]), "r"(barrier)
        : "memory");
#else
    (void)to, (void)four, (void)barrier;
    __trap();
#endif
}

/* spinfer_cp_async_arrive() : one arrival as soon as all earlier cp.async of this thread have landed. */
SPINFER_DEVICE void spinfer_cp_async_arrive(spinfer_shared barrier)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}

/* spinfer_once() : the hint that what a copy reads is not read again and may leave the L2 before anything else, which
 * makes a multiply up to 2.5 % faster (H200). Not for cp.async: compiled for sm_90 by CUDA 13.0 that faults. */
SPINFER_DEVICE uint64_t spinfer_once(void)
{
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

/* spinfer_mbarrier_arrive_expect() : one arrival; the phase also waits for `bytes` of bulk copies. sm_90.
 * spinfer_bulk_copy() : starts one copy, of data that is read once, from global memory; it reports its bytes to
 * `barrier`. Both addresses and `bytes` are multiples of 16. sm_90. */
SPINFER_DEVICE void spinfer_mbarrier_arrive_expect(spinfer_shared barrier, uint32_t bytes)
{
#if SPINFER_HAS_BULK_COPY
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
#else
    __trap();
#endif
}

SPINFER_DEVICE void spinfer_bulk_copy(spinfer_shared to, const void *from, uint32_t bytes, spinfer_shared barrier)
{
#if SPINFER_HAS_BULK_COPY
    asm volatile("cp.async.bulk." SPINFER_BULK_SHARED
                 ".global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier), "l"(spinfer_once())
                 : "memory");
#else
    __trap();
#endif
}

/* spinfer_elect() : 1 in one lane of the warp. A copy that only this lane starts takes fewer instructions than one of a
 * lane that the compiler does not know to be alone. sm_90. Scope: warp. */
SPINFER_DEVICE int spinfer_elect(void)
{
#if SPINFER_HAS_BULK_COPY
    uint32_t elected;
    asm volatile("{ .reg .pred one; elect.sync _|one, 0xffffffff; selp.u32 %0, 1, 0, one; }" : "=r"(elected));
    return (int)elected;
#else
    __trap();
    return 0;
#endif
}

/* spinfer_tensor_copy() : starts the copy of a box of a matrix in global memory that the driver has described in `map`
 * (cuTensorMapEncodeTiled, 64-byte aligned, a __grid_constant__ argument); box and order in shared memory are in it.
 * sm_90. */
SPINFER_DEVICE void spinfer_tensor_copy(spinfer_shared to, const void *map, uint32_t col, uint32_t row,
                                        spinfer_shared barrier)
{
#if SPINFER_HAS_BULK_COPY
    asm volatile("cp.async.bulk.tensor.2d." SPINFER_BULK_SHARED
                 ".global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
                 "l"(map), "r"(col), "r"(row), "r"(barrier)
                 : "memory");
#else
    __trap();
#endif
}

/* spinfer_bulk_fence() : what this thread has stored in shared memory comes before copies that it, or others behind a
 * barrier, start to the same place with spinfer_bulk_copy(). */
SPINFER_DEVICE void spinfer_bulk_fence(void)
{
#if SPINFER_HAS_BULK_COPY
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

/* spinfer_clock() : cycles of the SM. spinfer_wait_until() : until it says `then`, less than 2^31 ahead, or later. */
SPINFER_DEVICE uint32_t spinfer_clock(void)
{
    uint32_t now;
    asm volatile("mov.u32 %0, %%clock;" : "=r"(now));
    return now;
}
SPINFER_DEVICE void spinfer_wait_until(uint32_t then)
{
    SPINFER_NO_UNROLL
    while ((int)(spinfer_clock() - then) < 0) continue;
}

/* spinfer_prefetch() : fetches the cache line of an address in global memory. spinfer_prefetch_l2() : as far as L2. */
SPINFER_DEVICE void spinfer_prefetch(const void *address) { asm volatile("prefetch.global.L1 [%0];" ::"l"(address)); }
SPINFER_DEVICE void spinfer_prefetch_l2(const void *address)
{
    asm volatile("prefetch.global.L2 [%0];" ::"l"(address) : "memory");
}

/* spinfer_arrive_global() : counts an arrival and returns the number before. Release and acquire: what this thread saw
 * written before is visible to those who count later. */
SPINFER_DEVICE uint32_t spinfer_arrive_global(uint32_t *counter)
{
    uint32_t before;
    asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
    return before;
}

/* ---- 7. Tensor cores ------------------------------------------------------------------------- */

/* spinfer_mma_m16n8k16() : c += a b for one TCTile and 8 tokens. `dtype` is a compile-time constant. Scope: warp. */
SPINFER_DEVICE void spinfer_mma_m16n8k16(const spinfer_dtype dtype, spinfer_frag_c *c, const spinfer_frag_a *a,
                                         const spinfer_frag_b *b)
{
    if (dtype == SPINFER_BF16)
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(c->r[0]), "+f"(c->r[1]), "+f"(c->r[2]), "+f"(c->r[3])
            : "r"(a->r[0]), "r"(a->r[1]), "r"(a->r[2]), "r"(a->r[3]), "r"(b->r[0]), "r"(b->r[1]));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                     "{%0, %1, %2, %3};"
                     : "+f"(c->r[0]), "+f"(c->r[1]), "+f"(c->r[2]), "+f"(c->r[3])
                     : "r"(a->r[0]), "r"(a->r[1]), "r"(a->r[2]), "r"(a->r[3]), "r"(b->r[0]), "r"(b->r[1]));
}

/* spinfer_mma_m16n16k16() : the same for 16 tokens, c and b are [2]. */
SPINFER_DEVICE void spinfer_mma_m16n16k16(const spinfer_dtype dtype, spinfer_frag_c *c, const spinfer_frag_a *a,
                                          const spinfer_frag_b *b)
{
    spinfer_mma_m16n8k16(dtype, &c[0], a, &b[0]);
    spinfer_mma_m16n8k16(dtype, &c[1], a, &b[1]);
}

/* spinfer_wgmma_m64n64k16() : c += a b for 64 rows and 64 tokens by four warps, each of which brings the TCTile of its
 * 16 rows in registers, in the order of the instruction (spinfer_pair_row()). sm_90a.
 *
 *   c         [8], rows of the calling warp; token 8 f + 2 * (lane % 4) + r % 2 in register r of c[f]
 *   x         spinfer_wgmma_x() of 16 columns of X
 *   Order     spinfer_wgmma_fence(), any number of these, spinfer_wgmma_commit(), spinfer_wgmma_wait(). Between commit
 *             and wait nobody touches c or a.
 *   Scope     four warps, the first of which is a multiple of four in the block; a warp waits for the others */
#define SPINFER_WGMMA_C(i) "+f"(c[i].r[0]), "+f"(c[i].r[1]), "+f"(c[i].r[2]), "+f"(c[i].r[3])
#define SPINFER_WGMMA_M64N64K16(TYPE)                                                                                  \
    asm volatile("{ .reg .pred add; .reg .b64 x; setp.eq.u32 add, 0, 0; mov.b64 x, {%36, %37};\n"                      \
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE " {%0, %1, %2, %3, %4, %5, %6, %7, "      \
                 "%8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, "       \
                 "%27, %28, %29, %30, %31}, {%32, %33, %34, %35}, x, add, 1, 1, 0; }"                                  \
                 : SPINFER_WGMMA_C(0), SPINFER_WGMMA_C(1), SPINFER_WGMMA_C(2), SPINFER_WGMMA_C(3), SPINFER_WGMMA_C(4), \
                   SPINFER_WGMMA_C(5), SPINFER_WGMMA_C(6), SPINFER_WGMMA_C(7)                                          \
                 : "r"(a->r[0]), "r"(a->r[1]), "r"(a->r[2]), "r"(a->r[3]), "r"(x), "r"(SPINFER_WGMMA_X_LAYOUT)         \
                 : "memory")

/* Upper half of the description of X: 1024 bytes from eight tokens to the next eight, swizzle of 128 bytes (FIG 7). */
#define SPINFER_WGMMA_X_LAYOUT (1024 / 16 | 1 << 30)

/* spinfer_wgmma_x() : lower half of it, for 16 columns of 64 tokens at a shared address: that of a box of X (FIG 7)
 * plus 32 bytes for each 16 columns. */
SPINFER_DEVICE uint32_t spinfer_wgmma_x(uint32_t address) { return address / 16 | 1 << 16; }

SPINFER_DEVICE void spinfer_wgmma_m64n64k16(const spinfer_dtype dtype, spinfer_frag_c *c, const spinfer_frag_a *a,
                                            uint32_t x)
{
#if SPINFER_HAS_WGMMA
    if (dtype == SPINFER_BF16)
        SPINFER_WGMMA_M64N64K16("bf16");
    else
        SPINFER_WGMMA_M64N64K16("f16");
#else
    (void)dtype, (void)c, (void)a, (void)x;
    __trap();
#endif
}

/* spinfer_wgmma_fence() : what the warp has written to registers comes before the next wgmma.
 * spinfer_wgmma_wait() : until at most `pending` (0 or 1, a compile-time number) groups of wgmma are unfinished. */
SPINFER_DEVICE void spinfer_wgmma_fence(void)
{
#if SPINFER_HAS_WGMMA
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

SPINFER_DEVICE void spinfer_wgmma_commit(void)
{
#if SPINFER_HAS_WGMMA
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

SPINFER_DEVICE void spinfer_wgmma_wait(const int pending)
{
#if SPINFER_HAS_WGMMA
    if (pending)
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
    else
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#else
    (void)pending;
#endif
}

#endif /* __CUDACC__ */

/* ---- 8. The SpMM block -----------------------------------------------------------------------
 *
 * FIG 5, the teams of a block with strips = 2 and warps_k = 3, and the records that they take
 *
 *                 K -->  k    k+1  k+2  k+3  k+4  k+5  k+6  k+7  ..
 *     team = 1  strip 0  t0   t1   t2   t0   t1   t2   t0   t1       a stage is one record, a team one warp
 *               strip 1  t3   t4   t5   t3   t4   t5   t3   t4
 *     team = 2  strip 0  t0   t0   t1   t1   t2   t2   t0   t0       a stage is two records, and each of two warps
 *               strip 1  t3   t3   t4   t4   t5   t5   t3   t3       decodes half of their rows
 *     team = 4  strip 0  t0   t0   t0   t0   t1   t1   t2   t2       a stage is four records, and each of four warps
 *               strip 1  t3   t3   t3   t3   t4   t4   t5   t5       decodes a quarter of their rows. Parts of whole
 *                                                                    boxes, here of a range of eight columns
 *     X                  |- box 0 -|- box 1 -|- box 2 -| ..          all warps read the same boxes (FIG 7), or with a
 *                                                                    team of 4 those of their part
 *
 * FIG 6, the life of a team (2 stages). When all its warps have left a stage, the first one asks for the next. No
 * barrier of the block until the sums are complete.
 *
 *     time ------------------------------------------------------------------------------->
 *     copy engine   s0 s1                        s2                        s3
 *     warps            wait s0  scan decode+mma  wait s1  scan decode+mma  wait s2 ..
 *     scan: words and the places of their first values go to a table, where a lane reads 16 bytes a TCTile
 *     start: the offsets of the first records are asked for; the records themselves, where they probably lie, for L2
 *     (spinfer_ask_early()); barriers are made; then X, the first stage of each team and the others are asked for
 *
 * Then the teams of a strip add their sums in shared memory, and the blocks of a row group send theirs through the
 * workspace to the last of them, which adds by rising K.
 *
 * FIG 8a, twins (sm_90, spinfer_plan_twins(); splits = 4). Where the number of ranges is even, the blocks of two
 * neighbouring ones are a cluster. Each of them finishes every second unit of the sums (spinfer_unit_bytes()) and gets
 * what its twin has of it straight into shared memory. So half as many messages go through the workspace, and a block
 * does not rest while its twin adds. Of an odd number of ranges the last two are twins, to whom the others send (splits
 * = 3), if the row groups are even (spinfer_twins()).
 *
 *     range of K     0          1            2          3              0            1          2
 *     block          A  <---->  B            C  <---->  D              A            B  <---->  C      shared memory
 *     even units     A  ------------------>  C                         A  ------->  B                 workspace
 *     odd units                 B  ------------------>  D              A  ------------------>  C
 *
 *     Shared memory: B's part of unit 0 to A, A's part of unit 1 to B, and so on.
 *
 * FIG 8b, a helper (strips = 2, warps_k = 2, tail = 4, a matrix of six strips). Row groups rarely divide by the number
 * of SMs; so the SMs that would be idle take the end of K, the tail, of all strips. Their teams have equal shares,
 * t0 .. t3, and send the sums of each strip to the block that has it. (With wgmma a share is at least a whole tail, and
 * if it is one, strip 0 goes to the first helper, strip 1 to the second one, and so on.)
 *
 *                 K -->                  tail
 *     strip 0     block 1                t0 t0 t0 t0
 *     strip 1     block 1                t0 t0 t1 t1
 *     strip 2     block 2                t1 t1 t1 t1     the helper is block 0: a block waits only for those before it,
 *     strip 3     block 2                t2 t2 t2 t2     and X of the tail is brought once
 *     strip 4     block 3                t2 t2 t3 t3
 *     strip 5     block 3                t3 t3 t3 t3 */

/* IN A KERNEL OF YOUR OWN the stages are called in one of two ways. Device code only: nvcc's host pass does not see
 * these functions, so put the body of the kernel into #ifdef __CUDA_ARCH__.
 *
 * 1. Stages of a block: the whole multiply, with work of yours around it. A kernel that takes one argument, const
 * __grid_constant__ spinfer_spmm_args, has __launch_bounds__ as the stamps of section 9 have, and is described by a
 * spinfer_kernel, so that spinfer_kernel_plan() and spinfer_kernel_launch() do the rest; SPINFER_CHECK_KERNEL() says
 * what cannot work (examples/11_fused_kernel.cu):
 *
 *     block = spinfer_block_init(TEAM, &args, threadIdx, blockIdx, gridDim.x);            // where this block works
 *     if (spinfer_help(DTYPE, TEAM, N_FRAGS, sums, x_frags, &args, &block, smem, lane)) return;  // a helper ends
 *     spinfer_block_start(TEAM, &ring, &args, &block, smem, lane);                        // W and X are on their way
 *     ..                                                                                  // yours, while they are
 *     spinfer_block_multiply(DTYPE, TEAM, N_FRAGS, sums, x_frags, &ring, &args, &block, smem, lane);
 *     spinfer_reduce(DTYPE, TEAM, N_FRAGS, EPILOGUE, sums, &args, &block, smem, lane);    // publishes, then EPILOGUE
 *
 *   TEAM .. x_frags  as below. All threads of the block take part in every call.
 *   wgmma            is what a TEAM of 4 with 8 N_FRAGS uses, in code for sm_90a. Elsewhere the kernel must be empty,
 *                    and made for one warp: `if (SPINFER_HAS_CODE(TEAM, N_FRAGS))` around the body, and
 *                    __launch_bounds__(SPINFER_BLOCK_THREADS(TEAM, N_FRAGS, MAX_WARPS), 1), as the stamp has them.
 *                    With 16 warps or less, block.abreast = 2 behind spinfer_block_init() makes it 2 to 5 % faster.
 *   spinfer_help()   may be left out; then `helps` in the spinfer_kernel is 0, and no plan has helpers.
 *   smem             spinfer_shared_address(spinfer_smem_bytes)
 *   lane             threadIdx.x. Take the number of the warp from `block` (strip, part, member), not from threadIdx:
 *                    the compiler must know that it is the same in all lanes, or the loop lacks a register.
 *   row group        block.row_group and block.split; twins have other ones than blockIdx says (spinfer_twins())
 *   shared memory    own_bytes of yours from spinfer_smem_bytes + args.layout.own on, a multiple of 16, for as long as
 *                    the block runs. A barrier inside of spinfer_reduce() publishes what is there to the epilogue,
 *                    which is called only in blocks of the last range of K, or of the last two (FIG 8a):
 *                    spinfer_finishes(&args, &block).
 *
 * 2. Stages of a ring: parts of the multiply in a kernel with a grid, a loop and a shared memory of its own
 * (examples/15_persistent_kernel.cu):
 *
 *     spinfer_ring_init(TEAM, &ring, stages, barriers, count, stage, member, lane);       // team: barriers and place
 *     spinfer_ring_range(TEAM, &ring, &W, strip, k_begin, cols, part, parts, lane);       // team: which records
 *     spinfer_mbarrier_fence();  and a barrier of the team                                // publishes the barriers
 *     spinfer_ring_fetch(TEAM, &ring, 0, count, lane);                                    // member 0: first copies
 *     X to the places of spinfer_x_place(), zeros behind K;  __syncthreads();             // publishes X
 *     l = spinfer_lane_init(TEAM, table, member, lane);                                   // lane constants
 *     spinfer_sums_clear(TEAM, N_FRAGS, sums);
 *     while (ring.col < cols) {
 *         x = spinfer_x_at(TEAM, N_FRAGS, spinfer_x_lane(X, lane), ring.col);             // column of X of this stage
 *         records = spinfer_ring_records(TEAM, &ring);
 *         spinfer_scan_stage(TEAM, spinfer_ring_wait(TEAM, &ring, lane), &l);             // warp: fills its table
 *         __syncwarp();                                                                   // publishes the table
 *         spinfer_multiply_stage(DTYPE, TEAM, N_FRAGS, sums, x_frags, &l, records, x);    // warp: decode and mma
 *         spinfer_ring_release(TEAM, &ring, lane);                                        // team: barrier, next copy
 *     }
 *     spinfer_sums_store(TEAM, N_FRAGS, sums, to, member, lane);  __syncthreads();        // publishes the sums
 *
 *   TEAM, N_FRAGS    compile-time constants as in SPINFER_DEFINE_SPMM_KERNEL(), but nothing that uses wgmma: that is
 *                    for stages of a block only. Arrays have sizes that are literals:
 *                    spinfer_frag_c sums[4 / TEAM * N_FRAGS], spinfer_frag_b x_frags[N_FRAGS]
 *   a team           TEAM neighbouring warps, `member` 0 .. TEAM - 1. All lanes take part in every call. The member
 *                    that fetches waits until the others have left a stage, the others wait for nobody.
 *   shared memory    of a team: `count` stages (2 .. 8, at most 16 / TEAM) of spinfer_stage_bytes(TEAM, W.max_record)
 *                    at `stages`, a multiple of 128, and spinfer_ring_barriers(TEAM) bytes for each of them, a multiple
 *                    of 8. Of a warp: a table of SPINFER_TABLE bytes, a multiple of 16. Of the block: X, 128 * 8 *
 *                    N_FRAGS bytes for every 64 columns, a multiple of 1024; and of a team SPINFER_SUMS_STRIDE bytes
 *                    of sums for each token, a multiple of 16.
 *   another range    spinfer_ring_range() and spinfer_ring_fetch() again when a range is done; the ring goes on where
 *                    it is. Whoever writes into a stage in between calls spinfer_bulk_fence(), and a barrier before
 *                    the fetch.
 *   W                in device memory, `data` a multiple of 128. `strip` is a row of 64; below the last one cols = 0 */

/* Bytes from token to token in the sums of a team: 64 rows and 8 floats, so that a fragment's sums hit 32 banks. */
#define SPINFER_SUMS_STRIDE 288

/* spinfer_uses_wgmma() : by teams of four, for 64 tokens: their four warps bring the 64 rows of a strip. The tensor
 * cores then read X from shared memory once for all of them, and a warp has half as many sums as one of a team of two:
 * 28672 x 8192 takes 102 instead of 113 us (H200). With 32 tokens nothing would be won, by the wavefronts. */
SPINFER_HD int spinfer_uses_wgmma(int team, int tokens) { return team == 4 && tokens == 64; }

/* Sums travel in units of 512 bytes, 16 for each lane: through the shared memory of a block, from twin to twin and
 * through the workspace. A unit is 64 rows of two tokens, four rows for a lane. With wgmma it is 16 rows of eight
 * tokens, as fragments have them, and only complete sums are rearranged (spinfer_sums_turn()): so a helper sends the
 * sums of a strip in 0.2 us instead of 1.1 (H200). Without wgmma that gains 0 to 1 %, and costs 1 to 4 with one token.
 *
 * spinfer_unit_bytes() : from the first of the sums of a team to those of a unit.
 * spinfer_unit_place() : from there to those of a lane.
 * spinfer_units() : how many a strip has with this many tokens. spinfer_sums_bytes() : of all sums of a team. */
SPINFER_HD uint32_t spinfer_unit_bytes(int wide) { return wide ? 512 : 2 * SPINFER_SUMS_STRIDE; }
SPINFER_HD uint32_t spinfer_unit_place(int wide, uint32_t lane)
{
    return wide ? 16 * lane : lane / 16 * SPINFER_SUMS_STRIDE + lane % 16 * 16;
}
SPINFER_HD uint32_t spinfer_units(int wide, uint32_t tokens) { return wide ? (tokens + 7) / 8 * 4 : (tokens + 1) / 2; }
SPINFER_HD uint32_t spinfer_sums_bytes(int team, int tokens)
{
    const int wide = spinfer_uses_wgmma(team, tokens);
    return spinfer_unit_bytes(wide) * spinfer_units(wide, (uint32_t)tokens);
}

/* Bytes of the table of a warp, for the TCTiles of a stage. */
#define SPINFER_TABLE 560

/* spinfer_table_place() : bytes from the start of a table to TCTile t, 0..7. It has 64 bytes: an entry {top word,
 * place, bottom word, place} for each of left low, left high, right low and right high words. Behind every second one
 * 16 bytes are left out, so that the lanes, a BitmapTile each, write to different banks. */
SPINFER_HD uint32_t spinfer_table_place(int t) { return (uint32_t)(64 * t + 16 * (t / 2)); }

/* spinfer_table_write() : where lane i writes its first word, of BitmapTile i % 4 of TCTile i / 4 of the table, and 16
 * bytes further the second. spinfer_table_read() : where a lane reads the entry of TCTile 0. */
SPINFER_HD uint32_t spinfer_table_write(int lane)
{
    return spinfer_table_place(lane / 4) + (uint32_t)(32 * (lane % 2) + 8 * (lane / 2 % 2));
}
SPINFER_HD uint32_t spinfer_table_read(int lane)
{
    return (uint32_t)(32 * spinfer_lane_tile(lane) + 16 * spinfer_lane_half(lane));
}

/* spinfer_table_read_pairs() : where it reads the left words in the order of the instruction; 32 bytes further the
 * right ones. Entries of rows instead of words take half the wavefronts, but more instructions: 4 to 10 % slower. */
SPINFER_HD uint32_t spinfer_table_read_pairs(int lane) { return (uint32_t)(16 * spinfer_lane_half(lane)); }

/* Columns of a box of X (FIG 7). */
#define SPINFER_X_BOX 64

/* spinfer_ring_barriers() : bytes of barriers for each stage of a ring: one for copies that have arrived and, if
 * several warps share the ring, one for warps that have left. */
SPINFER_HD uint32_t spinfer_ring_barriers(int team) { return team > 1 ? 16 : 8; }

/* spinfer_parts_apart() : do the teams of a strip divide K into consecutive parts, or take its records in turn (FIG 5)?
 * Apart, a part has slots of X for itself, waits for nobody else, and all parts have a short last stage instead of some
 * an idle one: up to 2 % faster with 64 tokens (H200). spinfer_x_slots() : slots of X of a block: x_pieces for each
 * part, or for all of them together. */
SPINFER_HD int      spinfer_parts_apart(int team) { return team == 4; }
SPINFER_HD uint32_t spinfer_x_slots(const spinfer_plan *plan)
{
    return (uint32_t)(spinfer_parts_apart(plan->team) ? plan->x_pieces * plan->warps_k : plan->x_pieces);
}

/* Byte offsets into the dynamic shared memory of a block. The barriers [teams] of the rings come first. */
typedef struct spinfer_smem {
    uint32_t x_full;  /* [slots of X] barriers: a piece of X has arrived                                   */
    uint32_t x_empty; /* [slots of X] barriers: all warps that share it have left a piece ..               */
    uint32_t x_left;  /* [slots of X] counters: .. and how many so far, to know who is the last            */
    uint32_t rings;   /* [teams][stages]; in the end the sums of the teams, over all that follows          */
    uint32_t stage;   /* bytes of a stage                                                                  */
    uint32_t x;       /* slots of X, for a piece each: [boxes], spinfer_x_place(); a multiple of 1024      */
    uint32_t x_piece; /* bytes of a piece ..                                                               */
    uint32_t x_cols;  /* .. and its GroupTile columns                                                      */
    uint32_t sums;    /* bytes from the sums of a team to those of the next: [units], spinfer_units()      */
    uint32_t tables;  /* [warps], SPINFER_TABLE                                                            */
    uint32_t total;   /* bytes of all                                                                      */
    uint32_t own;     /* between twin and rings, a multiple of 16: what the kernel wants for itself        */
    uint32_t twin;    /* two barriers, behind x_left: the twin's warps have left their memory .. (FIG 8a)  */
    uint32_t mail;    /* .. and its sums are here: [strips][tokens / 4], 512 bytes each; behind the sums,
                         over tables and X                                                                 */
} spinfer_smem;

/* spinfer_stage_bytes() : of a stage that holds `team` records of up to max_record bytes (W.max_record), the first of
 * which begins up to 112 bytes behind it. */
SPINFER_HD uint32_t spinfer_stage_bytes(int team, uint32_t max_record)
{
    return ((uint32_t)team * max_record + 112 + 127) / 128 * 128;
}

/* With 32 tokens or more a warp has registers and time to scan a stage while it multiplies the one before; what it
 * finds goes to the table behind the last look into it. */
SPINFER_HD int spinfer_scans_early(int tokens) { return tokens >= 32; }

/* spinfer_may_twin() : are there twins (FIG 8a) in kernels for so many tokens? With 8 there are few sums to exchange,
 * and a launch takes as long with them. spinfer_plan_twins() : has a plan twins, if its blocks can be paired? With 16
 * tokens only where a block sends much, or several send: with four strips and two to four ranges a launch takes about 1
 * % less time, with seven strips up to 4 %, with six ranges and more 2 to 10 %, with fewer of both up to 1.5 % more
 * (2000 plans on an H200). */
SPINFER_HD int spinfer_may_twin(int tokens) { return tokens >= 16; }
SPINFER_HD int spinfer_plan_twins(const spinfer_plan *plan)
{
    if (!spinfer_may_twin(plan->tokens) || plan->splits < 2) return 0;
    return plan->tokens >= 32 || plan->strips >= 4 || (plan->splits >= 6 && plan->splits % 2 == 0);
}

/* spinfer_twin_unit() : unit number i of those that the twin of this rank, 0 or 1, finishes. spinfer_twin_units() : how
 * many of them are among `units`. spinfer_twin_mail() : bytes from spinfer_smem.mail to number i of a strip of the
 * block. */
SPINFER_HD uint32_t spinfer_twin_unit(uint32_t i, uint32_t rank) { return 2 * i + rank; }
SPINFER_HD uint32_t spinfer_twin_units(uint32_t units, uint32_t rank) { return (units + 1 - rank) / 2; }
SPINFER_HD uint32_t spinfer_twin_mail(int tokens, uint32_t strip, uint32_t i)
{
    return strip * (uint32_t)(tokens / 4 * 512) + i * 512;
}

/* spinfer_smem_layout() : of a block with this plan, with own_bytes (spinfer_kernel) for the kernel itself. */
SPINFER_HD spinfer_smem spinfer_smem_layout(const spinfer_plan *plan, uint32_t max_record, uint32_t own_bytes)
{
    const uint32_t teams = (uint32_t)(plan->strips * plan->warps_k), tokens = (uint32_t)plan->tokens;
    const uint32_t stage = spinfer_stage_bytes(plan->team, max_record);
    const uint32_t ring = (uint32_t)plan->stages * stage;
    const uint32_t team_sums = spinfer_sums_bytes(plan->team, plan->tokens), slots = spinfer_x_slots(plan);
    uint32_t       end;
    spinfer_smem   s;
    s.x_full = spinfer_ring_barriers(plan->team) * teams * (uint32_t)plan->stages;
    s.x_empty = s.x_full + 8 * slots;
    s.x_left = s.x_empty + 8 * slots;
    s.twin = (s.x_left + 4 * slots + 7) / 8 * 8;
    s.own = (s.twin + 2 * 8 + 15) / 16 * 16;
    s.rings = (s.own + own_bytes + 127) / 128 * 128;
    s.stage = stage;
    s.sums = ring > team_sums ? ring : team_sums;
    s.tables = s.rings + teams * ring;
    s.x = (s.tables + teams * (uint32_t)plan->team * SPINFER_TABLE + 1023) / 1024 * 1024;
    s.x_cols = (uint32_t)(spinfer_parts_apart(plan->team) ? plan->x_cols / plan->warps_k : plan->x_cols);
    s.x_piece = (s.x_cols + 1) / 2 * tokens * 2 * SPINFER_X_BOX;
    end = s.rings + teams * s.sums;
    s.mail = end;
    if (spinfer_plan_twins(plan)) end += spinfer_twin_mail(plan->tokens, (uint32_t)plan->strips, 0);
    s.total = s.x + slots * s.x_piece;
    if (s.total < end) s.total = end;
    return s;
}

/* Row groups: blocks along M, without the helpers. */
SPINFER_HD uint32_t spinfer_plan_row_groups(const spinfer_plan *plan, uint32_t rows)
{
    return (spinfer_row_groups(rows) + (uint32_t)plan->strips - 1) / (uint32_t)plan->strips;
}

/* spinfer_twins() : which blocks are twins. 0: none. 1: those of each two neighbouring ranges of K, clusters along z of
 * the grid. 2: those of the last two of an odd number of ranges, clusters along x: blocks 2 i and 2 i + 1, counted
 * through the row groups of both ranges, are the two ranges of row group i. So the number of row groups is even, and
 * that of helpers. 5120 x 5120 takes 5 % less time with 64 tokens and 4 % less with 32 (H200). */
SPINFER_HD uint32_t spinfer_twins(const spinfer_plan *plan, uint32_t rows)
{
    if (plan->splits % 2 == 0) return 1;
    return spinfer_plan_twins(plan) && spinfer_plan_row_groups(plan, rows) % 2 == 0 && plan->helpers % 2 == 0 ? 2 : 0;
}

/* FIG 7, a box of X: 64 columns of all tokens of a block, a row of 128 bytes for each token. The chunk of eight columns
 * that lies at each 16 bytes of a row, and the place of the token in a fragment.
 *
 *     byte      0  16  32  48  64  80  96 112        number in the fragment
 *     token 0   0   1   2   3   4   5   6   7        0
 *     token 1   1   0   3   2   5   4   7   6        4
 *     token 2   2   3   0   1   6   7   4   5        2
 *      ..
 *     token 7   7   6   5   4   3   2   1   0        7
 *     token 8   as token 0, of the next fragment
 *
 * A row has all banks, so neighbouring tokens exchange their chunks: the 128-byte swizzle of the copy engine, which
 * takes it from the address, so that a box begins at a multiple of 1024. Half a warp loads two chunks of four tokens at
 * a time: either the even ones or the odd ones, which lie in different banks. */

/* spinfer_x_place() : bytes from the start of a piece of X to column `col`, a multiple of 8, of a token. */
SPINFER_HD uint32_t spinfer_x_place(uint32_t tokens, uint32_t col, uint32_t token)
{
    return col / SPINFER_X_BOX * tokens * 128 + token * 128 + 16 * (col % SPINFER_X_BOX / 8 ^ token % 8);
}

/* spinfer_x_token() : the token (of eight) that is number i of a fragment, 0 .. 7: its three bits in reverse order. */
SPINFER_HD uint32_t spinfer_x_token(uint32_t i) { return i % 2 * 4 + i / 2 % 2 * 2 + i / 4; }

/* Helpers are for 32 tokens and more. With fewer, K in many ranges costs little and fills 97 % of the SMs on most
 * layers; with 16 warps that are slower it was 85 %. */
SPINFER_HD int spinfer_may_help(int tokens) { return tokens >= 32; }

/* Ranges of K consist of pairs of GroupTile columns, the width of a box of X, unless there are too few pairs. Where
 * they begin at odd columns, X comes in halves of lines of 128 bytes: 5120 x 5120 took 16.3 instead of 15.5 us with 32
 * tokens, 14.3 instead of 13.5 with 16 (H200).
 *
 * spinfer_plan_unit() : columns that are not divided, 2 or 1. spinfer_plan_cols() : columns of a range, at most. */
SPINFER_HD uint32_t spinfer_plan_unit(const spinfer_plan *plan, uint32_t cols)
{
    return (spinfer_col_groups(cols) - (uint32_t)plan->tail) / 2 >= (uint32_t)plan->splits ? 2 : 1;
}
SPINFER_HD uint32_t spinfer_plan_cols(const spinfer_plan *plan, uint32_t cols)
{
    const uint32_t all = spinfer_col_groups(cols) - (uint32_t)plan->tail, unit = spinfer_plan_unit(plan, cols);
    const uint32_t most = ((all + unit - 1) / unit + (uint32_t)plan->splits - 1) / (uint32_t)plan->splits * unit;
    return most < all ? most : all;
}

/* spinfer_part_begin() : the unit at which part `part` of a range of K begins. Each has `step` units, and the first
 * `rest` of them one more. */
SPINFER_HD uint32_t spinfer_part_begin(uint32_t part, uint32_t step, uint32_t rest)
{
    return part * step + (part < rest ? part : rest);
}

/* spinfer_divide() : n / d for n < 2^31 by spinfer_divisor_init(d), 1 <= d <= 2^31: n * factor >> shift. */
typedef struct spinfer_divisor {
    uint32_t factor, shift;
} spinfer_divisor;

SPINFER_HD spinfer_divisor spinfer_divisor_init(uint32_t d)
{
    spinfer_divisor by;
    for (by.shift = 31; d > 1ull << (by.shift - 31); by.shift++) continue;
    by.factor = (uint32_t)(((1ull << by.shift) + d - 1) / d);
    return by;
}
SPINFER_HD uint32_t spinfer_divide(uint32_t n, spinfer_divisor by)
{
    return (uint32_t)((uint64_t)n * by.factor >> by.shift);
}

/* spinfer_helper_share() : records that each team of a helper takes of the tails; 0 without helpers. With wgmma at
 * least a whole tail, and then neighbouring strips go to different helpers: fewer sums are sent, which counts more than
 * that some teams have nothing to do (3584 x 3584 10.4 instead of 10.7 us, H200).
 * spinfer_senders() : how many partial sums a strip receives, at most: one of each other range of K, and one of each
 * team of a helper that has a part of its tail. */
SPINFER_HD uint32_t spinfer_helper_share(const spinfer_plan *plan, uint32_t rows)
{
    const uint32_t teams = (uint32_t)(plan->helpers * plan->splits * plan->strips * plan->warps_k);
    const uint32_t team = (uint32_t)plan->team, tail = (uint32_t)plan->tail;
    const uint32_t share = teams ? (spinfer_row_groups(rows) * tail / team + teams - 1) / teams * team : 0;
    return share && share < tail && spinfer_uses_wgmma(plan->team, plan->tokens) ? tail : share;
}
SPINFER_HD uint32_t spinfer_senders(const spinfer_plan *plan, uint32_t rows)
{
    const uint32_t share = spinfer_helper_share(plan, rows);
    return (uint32_t)plan->splits - 1 +
           (share ? share == (uint32_t)plan->tail ? 1 : ((uint32_t)plan->tail + share - 2) / share + 1 : 0);
}

/* Everything a kernel needs, by value. What it asks for first lies in 192 bytes, which share a line of the constant
 * cache with what CUDA itself passes. */
typedef struct SPINFER_ALIGN_64 spinfer_spmm_args {
    spinfer_plan    plan;
    uint32_t        k_cols;         /* GroupTile columns of all ranges of K, without the tail                      */
    uint32_t        k_unit;         /* spinfer_plan_unit()                                                         */
    uint32_t        k_step, k_rest; /* a range has k_step units, the last k_rest of them one more                  */
    uint32_t        part_step, part_rest; /* k_step / warps_k, k_step % warps_k, if the parts are apart            */
    uint32_t        x_tensor;             /* X comes by spinfer_tensor_copy()                                      */
    spinfer_matrix  W;
    const uint16_t *X;
    uint16_t       *Y;
    uint64_t        ldx;
    float          *partials; /* [blocks of tokens][strips][senders][units][128], spinfer_messages() */
    spinfer_smem    layout;
    uint32_t        share;                     /* spinfer_helper_share() ..                                */
    uint32_t        share_factor, tail_factor; /* .. and spinfer_divisor of it and of plan.tail            */
    uint16_t        share_shift, tail_shift;
    uint32_t        senders; /* spinfer_senders() */
    float           alpha, beta;
    uint32_t        n;
    uint64_t        ldy;
    uint32_t        mean;      /* bytes of a record on average, times 64, for spinfer_ask_early(); 0: not known */
    uint32_t        twins;     /* spinfer_twins(); 0 where the kernel has none */
    uint64_t        x_map[16]; /* X for spinfer_tensor_copy(), if x_tensor; a multiple of 64 */
    uint64_t        user[SPINFER_EPILOGUE_BYTES / 8]; /* what the epilogue takes                  */
} spinfer_spmm_args;

/* Sums of four neighbouring rows of one token. */
typedef struct spinfer_sums {
    float row[4];
} spinfer_sums;

/* spinfer_epilogue : the end of a kernel, section 9. A constant wherever it is called, so that it is inlined. */
typedef void spinfer_epilogue(const spinfer_dtype dtype, const spinfer_spmm_args *args, uint32_t row, uint32_t token,
                              spinfer_sums sum);

#ifdef __CUDA_ARCH__

SPINFER_DEVICE uint32_t spinfer_min(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* Where a block works. */
typedef struct spinfer_block {
    uint32_t row_group, split;
    uint32_t token;       /* first column of Y                                                      */
    uint32_t k_begin;     /* first GroupTile column of its range of K                               */
    uint32_t cols;        /* GroupTile columns of its range                                         */
    uint32_t sums;        /* strips of the blocks of tokens before this one, for spinfer_messages() */
    uint32_t strip, part; /* of the calling warp's team: strip in the block, part of K              */
    uint32_t member;      /* of the calling warp: 0 .. team - 1                                     */
    uint32_t abreast;     /* records that a warp decodes at a time with wgmma: 1, or 2 where a thread may have 128
                             registers. A constant where it is set, so the compiler keeps one way only          */
} spinfer_block;

/* First GroupTile column of a range of K, 0 .. splits. */
SPINFER_DEVICE uint32_t spinfer_range_begin(const spinfer_spmm_args *args, uint32_t split)
{
    const uint32_t short_ranges = (uint32_t)args->plan.splits - args->k_rest;
    const uint32_t units = split * args->k_step + (split > short_ranges ? split - short_ranges : 0);
    return spinfer_min(units * args->k_unit, args->k_cols);
}

/* spinfer_block_init() : for threads (lane, part of K and member of the team, strip) and blocks (helpers, then row
 * groups; tokens; split), as spinfer_kernel_launch() starts them; blocks_x is gridDim.x. spinfer_block_at() : the same;
 * `may_twin` and `helps` are compile-time constants: 0 in a kernel without twins, where one for 8 tokens would spill; 1
 * for a helper, whose columns are the tail. Scope: warp. */
SPINFER_DEVICE spinfer_block spinfer_block_at(const int team, const int may_twin, const int helps,
                                              const spinfer_spmm_args *args, uint3 thread, uint3 index,
                                              uint32_t blocks_x)
{
    const uint32_t helpers = (uint32_t)args->plan.helpers, splits = (uint32_t)args->plan.splits;
    spinfer_block  b;
    b.row_group = index.x - helpers;
    b.split = index.z;
    if (SPINFER_HAS_TWINS && may_twin && args->twins == 2 && (int)b.row_group >= 0 && b.split + 2 >= splits) {
        const uint32_t number = (b.split + 2 - splits) * (blocks_x - helpers) + b.row_group;
        b.row_group = number / 2;
        b.split = splits - 2 + number % 2;
    }
    b.token = index.y * (uint32_t)args->plan.tokens;
    b.k_begin = args->k_cols;
    b.cols = (uint32_t)args->plan.tail;
    if (!helps) {
        b.k_begin = __shfl_sync(0xffffffffu, spinfer_range_begin(args, b.split), 0);
        b.cols = __shfl_sync(0xffffffffu, spinfer_range_begin(args, b.split + 1), 0) - b.k_begin;
    }
    b.sums = index.y * (blocks_x - helpers) * (uint32_t)args->plan.strips;
    b.part = __shfl_sync(0xffffffffu, thread.y / (uint32_t)team, 0); /* uniform, and now the compiler knows it */
    b.member = team == 1 ? 0 : __shfl_sync(0xffffffffu, thread.y % (uint32_t)team, 0);
    b.strip = __shfl_sync(0xffffffffu, thread.z, 0);
    b.abreast = 1;
    return b;
}

SPINFER_DEVICE spinfer_block spinfer_block_init(const int team, const spinfer_spmm_args *args, uint3 thread,
                                                uint3 index, uint32_t blocks_x)
{
    return spinfer_block_at(team, 1, 0, args, thread, index, blocks_x);
}

/* spinfer_part_block() : the part of K of the calling warp's team as if it were a range of its own, where parts are
 * apart; elsewhere the block. The parts of a range divide its units, and the first ones have one more. Scope: warp. */
SPINFER_DEVICE spinfer_block spinfer_part_block(const int apart, const spinfer_spmm_args *args,
                                                const spinfer_block *block)
{
    const uint32_t rest = args->part_rest + (block->cols > args->k_step * args->k_unit), unit = args->k_unit;
    const uint32_t begin = unit * spinfer_part_begin(block->part, args->part_step, rest);
    const uint32_t end = unit * spinfer_part_begin(block->part + 1, args->part_step, rest);
    spinfer_block  b = *block;
    if (apart) {
        b.k_begin += begin; /* not of a part without columns, which asks for nothing */
        b.cols = spinfer_min(end, block->cols) - spinfer_min(begin, block->cols);
    }
    return b;
}

/* spinfer_divide_by_share(), spinfer_divide_by_tail() : of records of the tails, counted one behind the other. */
SPINFER_DEVICE uint32_t spinfer_divide_by_share(const spinfer_spmm_args *args, uint32_t records)
{
    const spinfer_divisor by = {args->share_factor, args->share_shift};
    return spinfer_divide(records, by);
}
SPINFER_DEVICE uint32_t spinfer_divide_by_tail(const spinfer_spmm_args *args, uint32_t records)
{
    const spinfer_divisor by = {args->tail_factor, args->tail_shift};
    return spinfer_divide(records, by);
}

/* spinfer_helper_team() : number of a helper's team, over all helpers: neighbouring ones are in the same block, or,
 * where each has a strip for itself, in different ones. spinfer_helper_first() : its first record, when the tails of
 * all strips are counted one behind the other. Scope: warp. */
SPINFER_DEVICE uint32_t spinfer_helper_team(const spinfer_spmm_args *args, const spinfer_block *block)
{
    const spinfer_plan *plan = &args->plan;
    const uint32_t      helper = (block->split + 1) * (uint32_t)plan->helpers + block->row_group;
    const uint32_t      team = block->strip * (uint32_t)plan->warps_k + block->part; /* of its block */
    const int           spread = args->share == (uint32_t)plan->tail;
    return helper * (spread ? 1 : (uint32_t)(plan->strips * plan->warps_k)) +
           team * (spread ? (uint32_t)(plan->helpers * plan->splits) : 1);
}
SPINFER_DEVICE uint32_t spinfer_helper_first(const spinfer_spmm_args *args, const spinfer_block *block)
{
    return spinfer_helper_team(args, block) * args->share;
}

/* spinfer_messages() : where a sender puts the sums of a strip. Senders: the ranges of K but the last, then the teams
 * of helpers that have a part of the tail. Twins share a place, so pairs of them use the later half of those of the
 * ranges, and who sends to the only pair uses all but the first: what is used lies together.
 * spinfer_messages_bytes() : from one sender to the next. */
SPINFER_DEVICE uint32_t spinfer_messages_bytes(const int n_frags) { return (uint32_t)(n_frags * 2048); }

SPINFER_DEVICE unsigned char *spinfer_messages(const int n_frags, const spinfer_spmm_args *args,
                                               const spinfer_block *block, uint32_t strip, uint32_t sender)
{
    return (unsigned char *)args->partials +
           (uint64_t)((block->sums + strip) * args->senders + sender) * spinfer_messages_bytes(n_frags);
}

/* A team's stream of records: `team` consecutive ones for each stage, then on by `team` * warps_k. Lane
 * (i * team + r) % 32 keeps the offsets of record r of stage i until it is consumed; 16 lanes at a time then load those
 * of 32 records further on. */
typedef struct spinfer_stream {
    const uint32_t *offsets;    /* of the range, in global memory           */
    uint32_t        col;        /* of this lane's record in the range ..    */
    uint32_t        begin, end; /* .. and the record, units of 16 bytes     */
    uint32_t        used;       /* spinfer_ring.owner of the stage with which the lane needs another record */
    uint32_t        tail, jump; /* of a helper: columns of a strip, offsets between them and those of the next one .. */
    uint32_t        strip;      /* .. and the lane's strip, when `col` counts the tails of all strips. Otherwise 0    */
} spinfer_stream;

/* Keeps a value in a register. The compiler prefers to compute cheap functions of the lane anew in the loop (40
 * instructions for each record); the result of a shuffle it cannot. */
SPINFER_DEVICE uint32_t spinfer_pin(uint32_t value, uint32_t lane)
{
    return __shfl_sync(0xffffffffu, value, (int)lane);
}

SPINFER_DEVICE void spinfer_stream_load(spinfer_stream *s, uint32_t cols)
{
    if (s->tail) {
        SPINFER_NO_UNROLL
        while (s->col >= (s->strip + 1) * s->tail) s->strip++;
    }
    if (s->col < cols) {
        const uint32_t *at = s->offsets + s->col + s->strip * s->jump;
        s->begin = at[0];
        s->end = at[1];
    }
}

/* Starts the copy of a stage: `count` records, the first of which lane `owner` % 32 keeps. Records lie at multiples of
 * 16, but copies whose source and target differ modulo 128 run at 3.0 to 3.8 TB/s instead of 4.1 (H200), so the target
 * is as far behind a line of 128 bytes as the source. Whole lines instead, of which two records share one, take up to
 * 2 % more time: they are three instructions more, and on average 56 bytes at each end.
 * Scope: warp; everybody has left the stage before (barrier of the team). */
SPINFER_DEVICE void spinfer_stream_fetch(const int team, const spinfer_stream *s, const void *data, uint32_t stage,
                                         uint32_t barrier, uint32_t owner, uint32_t count, uint32_t lane)
{
    const uint32_t last_owner = team == 1 ? owner : owner + count - 1;
    const uint32_t begin = __shfl_sync(0xffffffffu, s->begin, (int)owner),
                   units = __shfl_sync(0xffffffffu, s->end, (int)last_owner) - begin; /* of 16 bytes */
    const unsigned char *from = (const unsigned char *)data + (uint64_t)begin * 16;
    stage += 16 * (begin % 8);
#if SPINFER_HAS_BULK_COPY
    if (spinfer_elect()) {
        spinfer_mbarrier_arrive_expect(barrier, 16 * units);
        spinfer_bulk_copy(stage, from, 16 * units, barrier);
    }
#else
    for (uint32_t unit = lane; unit < units; unit += 32) spinfer_cp_async_16(stage + 16 * unit, from + 16 * unit, 16);
    spinfer_cp_async_arrive(barrier);
#endif
}

/* Adds the value of the lane `distance` below to x, inside groups of four lanes. */
SPINFER_DEVICE void spinfer_add_from_below(uint32_t *x, const int distance)
{
    asm volatile("{ .reg .pred inside; .reg .u32 below;\n"
                 "shfl.sync.up.b32 below|inside, %0, %1, 0x1c00, 0xffffffff;\n"
                 "@inside add.u32 %0, %0, below; }"
                 : "+r"(*x)
                 : "r"(distance));
}

/* spinfer_pin() where registers allow it: from sm_100 on the code for 64 tokens has none to spare and would spill. */
SPINFER_DEVICE uint32_t spinfer_pin_if_room(uint32_t value, uint32_t lane)
{
#if __CUDA_ARCH__ < 1000
    value = spinfer_pin(value, lane);
#else
    (void)lane;
#endif
    return value;
}

/* What a lane keeps in registers. */
typedef struct spinfer_lane {
    uint32_t     lane;
    uint32_t     tile;     /* the TCTile of a record that the lane scans                                    */
    uint32_t     write;    /* where the lane writes into the table of its warp                              */
    uint32_t     read;     /* where the lane reads TCTile 0 in the table of its warp                        */
    spinfer_quad quad;     /* its four weights in a word                                                    */
    uint32_t     shift;    /* its first bit                                                                 */
    spinfer_pair pair;     /* with wgmma, instead of quad                                                   */
    uint32_t     masks[2]; /* of spinfer_count_before(): words of a TCTile before 2 * (lane % 4) and + 1    */
} spinfer_lane;

SPINFER_DEVICE spinfer_lane spinfer_lane_init(const int team, uint32_t table, uint32_t member, uint32_t lane)
{
    const uint32_t tc = lane / 4, bt = lane % 4, tiles = 4 / (uint32_t)team; /* row tiles of a warp */
    spinfer_lane   l;
    l.lane = lane;
    l.tile = tc / tiles % 2 * 4 + member * tiles + tc % tiles;
    l.write = table + spinfer_table_write((int)lane);
    l.read = table + spinfer_table_read((int)lane);
    l.quad = spinfer_lane_quad((int)lane);
    l.masks[0] = spinfer_pin_if_room(2 * bt < tc ? 0xffffffffu : 0, lane);
    l.masks[1] = spinfer_pin_if_room(2 * bt + 1 < tc ? 0xffffffffu : 0, lane);
    if (team > 1 || !SPINFER_HAS_BULK_COPY) l.tile = spinfer_pin(l.tile, lane);
    l.write = spinfer_pin_if_room(l.write, lane);
    l.read = spinfer_pin_if_room(l.read, lane);
    l.quad.below = spinfer_pin_if_room(l.quad.below, lane);
    SPINFER_UNROLL
    for (int i = 0; i < 4; i++) l.quad.bit[i] = spinfer_pin_if_room(l.quad.bit[i], lane);
    l.shift = spinfer_pin_if_room((uint32_t)spinfer_lane_shift((int)lane), lane);
    l.pair = spinfer_lane_pair((int)lane);
    return l;
}

/* The same for a kernel that uses wgmma. */
SPINFER_DEVICE spinfer_lane spinfer_lane_init_pairs(const int team, uint32_t table, uint32_t member, uint32_t lane)
{
    spinfer_lane l = spinfer_lane_init(team, table, member, lane);
    l.read = spinfer_pin(table + spinfer_table_read_pairs((int)lane), lane);
    l.pair.below = spinfer_pin(l.pair.below, lane);
    l.pair.bit[0] = spinfer_pin(l.pair.bit[0], lane);
    l.pair.bit[1] = spinfer_pin(l.pair.bit[1], lane);
    return l;
}

/* spinfer_count_before() : for lane i with the two words of BitmapTile i, how many values of the TCTile lie before each
 * of them. sm_80 and sm_90 count on the tensor core: AND with a mask of all earlier words of the TCTile (lane / 4: row
 * of the product, masks: columns) and add up the ones. Two products of 128 bits take fewer moves; one of 256, half of
 * whose rows are empty, answers sooner, up to 1 % of the time with 32 tokens (H200): `once`.
 * Elsewhere the instruction is emulated, and a scan is faster. Scope: warp. */
SPINFER_DEVICE void spinfer_count_before(const int once, const uint32_t *word, const spinfer_lane *l, uint32_t *before)
{
#if SPINFER_HAS_BINARY_MMA
    if (once)
        asm volatile("{ .reg .s32 unused;\n"
                     "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0, %1, unused, unused}, "
                     "{%2, %6, %3, %6}, {%4, %5}, {%6, %6, %6, %6}; }"
                     : "=r"(before[0]), "=r"(before[1])
                     : "r"(word[0]), "r"(word[1]), "r"(l->masks[0]), "r"(l->masks[1]), "r"(0));
    else
        asm volatile("mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.and.popc {%0, %1}, {%2}, {%4}, {%6, %6};\n"
                     "mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.and.popc {%0, %1}, {%3}, {%5}, {%0, %1};\n"
                     : "=&r"(before[0]), "=&r"(before[1])
                     : "r"(word[0]), "r"(word[1]), "r"(l->masks[0]), "r"(l->masks[1]), "r"(0));
#else
    (void)once;
    const uint32_t low = (uint32_t)__popc(word[0]), all = low + (uint32_t)__popc(word[1]);
    uint32_t       sum = all;
    spinfer_add_from_below(&sum, 1);
    spinfer_add_from_below(&sum, 2);
    before[0] = sum - all;
    before[1] = before[0] + low;
#endif
}

/* A scan under way: two words of a BitmapTile and where their values begin. */
typedef struct spinfer_scan {
    uint32_t record; /* shared address, or 0 */
    uint32_t word[2], before[2], values;
} spinfer_scan;

/* spinfer_scan_load(), spinfer_scan_store() : the two ends of a scan, with spinfer_count_before() between them. */
SPINFER_DEVICE void spinfer_scan_load(const int team, spinfer_scan *s, const spinfer_lane *l)
{
    s->word[0] = s->word[1] = s->values = 0;
    if (team == 1 || s->record) {
        const uint32_t bitmap = team == 1 ? l->lane : 4 * l->tile + l->lane % 4; /* the same for a team of one */
        spinfer_shared_u32x2(s->record + SPINFER_RECORD_BITMAPS + 8 * bitmap, s->word);
        s->values = s->record + SPINFER_RECORD_VALUES + 2 * spinfer_shared_u16(s->record + 2 * l->tile);
    }
}
SPINFER_DEVICE void spinfer_scan_store(const spinfer_scan *s, const spinfer_lane *l)
{
    spinfer_shared_store_u32x2(l->write, s->word[0], s->values + 2 * s->before[0]);
    spinfer_shared_store_u32x2(l->write + 16, s->word[1], s->values + 2 * s->before[1]);
}

/* spinfer_scan_stage() : fills the table of a warp for its eight TCTiles of a stage: by columns of 16, in a column
 * its 4 / team row tiles. Lane i handles one BitmapTile: its two words and where their values begin. `record` is the
 * lane's record, i / (32 / team) of the stage, or 0 if the stage is shorter. Scope: warp; a warp barrier publishes the
 * table. */
SPINFER_DEVICE void spinfer_scan_stage(const int team, uint32_t record, const spinfer_lane *l)
{
    spinfer_scan s;
    s.record = record;
    spinfer_scan_load(team, &s, l);
    spinfer_count_before(0, s.word, l, s.before);
    spinfer_scan_store(&s, l);
}

/* What a lane has located of the TCTile that it will load next: rows g and g + 8. */
typedef struct spinfer_located {
    uint32_t word[2], place[2];
} spinfer_located;

/* spinfer_shifts() : are words shifted, so that the bits of all lanes' quads are the same constants? One instruction
 * more for a quad and three registers less, without which the code for sm_80 would spill from 32 tokens on, and that
 * for sm_100 with 32. */
SPINFER_HD int spinfer_shifts(int tokens)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
    return tokens == 32;
#else
    return tokens >= 32 && !SPINFER_HAS_BULK_COPY;
#endif
}

/* spinfer_locate() : words and places of a TCTile from its entry of the table. */
SPINFER_DEVICE void spinfer_locate(const int shifts, const uint32_t *entry, const spinfer_lane *l,
                                   spinfer_located *next)
{
    SPINFER_UNROLL
    for (int i = 0; i < 2; i++) {
        next->word[i] = shifts ? entry[2 * i] >> l->shift : entry[2 * i];
        next->place[i] = spinfer_quad_locate(entry[2 * i], entry[2 * i + 1], l->quad);
    }
}

SPINFER_DEVICE void spinfer_locate_tc_tile(const int shifts, uint32_t entry, const spinfer_lane *l,
                                           spinfer_located *next)
{
    uint32_t e[4];
    spinfer_shared_u32x4(entry, e);
    spinfer_locate(shifts, e, l, next);
}

/* spinfer_load_quads() : spinfer_quad_load() of two rows side by side, because a load must have read its address before
 * that is raised for the next one. No faster than one after the other on an H200, but code for sm_86 and sm_89 would
 * spill. */
SPINFER_DEVICE void spinfer_load_quads(spinfer_located at, spinfer_quad q, uint32_t *top, uint32_t *bottom)
{
    top[0] = spinfer_shared_u16_if(at.word[0] & q.bit[0], at.place[0] - 2);
    bottom[0] = spinfer_shared_u16_if(at.word[1] & q.bit[0], at.place[1] - 2);
    top[1] = spinfer_shared_u16_next(at.word[0] & q.bit[1], &at.place[0]);
    bottom[1] = spinfer_shared_u16_next(at.word[1] & q.bit[1], &at.place[1]);
    top[2] = spinfer_shared_u16_next(at.word[0] & q.bit[2], &at.place[0]);
    bottom[2] = spinfer_shared_u16_next(at.word[1] & q.bit[2], &at.place[1]);
    top[3] = spinfer_shared_u16_if(at.word[0] & q.bit[3], at.place[0]);
    bottom[3] = spinfer_shared_u16_if(at.word[1] & q.bit[3], at.place[1]);
}

/* spinfer_decode_located() : the TCTile `next` into registers. The TCTile at `entry` of the table is located while the
 * values of this one are on their way. */
SPINFER_DEVICE void spinfer_decode_located(const int shifts, uint32_t entry, const spinfer_lane *l,
                                           spinfer_located *next, spinfer_frag_a *a)
{
    uint32_t top[4], bottom[4], e[4];
    spinfer_shared_u32x4(entry, e);
    spinfer_load_quads(*next, shifts ? spinfer_quad_at(0) : l->quad, top, bottom);
    spinfer_locate(shifts, e, l, next);
    a->r[0] = spinfer_pack(top[0], top[1]);
    a->r[1] = spinfer_pack(bottom[0], bottom[1]);
    a->r[2] = spinfer_pack(top[2], top[3]);
    a->r[3] = spinfer_pack(bottom[2], bottom[3]);
}

/* A ring: the stages of a team in shared memory, through which the records of a row of GroupTiles pass. Its place in
 * the ring is the same in all lanes of the team; the offsets are those of the calling lane. */
typedef struct spinfer_ring {
    spinfer_stream stream;
    const void    *data;     /* of W                                                          */
    uint32_t       member;   /* 0 .. team - 1, of the calling warp                            */
    uint32_t       stages;   /* shared address of the first one, a multiple of 128 ..         */
    uint32_t       end;      /* .. behind the last one ..                                     */
    uint32_t       barriers; /* .. of the first barrier, [count] of 8 bytes (full, and left) .. */
    uint32_t       count;    /* .. and how many                                               */
    uint32_t       stage;    /* bytes of a stage, spinfer_stage_bytes()                       */
    uint32_t       cols;     /* GroupTile columns of the range                                */
    uint32_t       step;     /* from stage to stage, in GroupTile columns                     */
    uint32_t       col;      /* first column of the current stage; the range is done if >= cols */
    uint32_t       owner;    /* lane that keeps the offset of its first record, plus 32 i     */
    uint32_t       at;       /* shared address of the current stage ..                        */
    uint32_t       barrier;  /* .. of its barrier ..                                          */
    uint32_t       parity;   /* .. and the parity of its next phase, 0 or 1                   */
} spinfer_ring;

/* spinfer_ring_init() : an empty ring. Scope: team. Before the first copy a barrier of the team, after
 * spinfer_mbarrier_fence(), publishes the barriers in shared memory. */
SPINFER_DEVICE void spinfer_ring_init(const int team, spinfer_ring *r, uint32_t stages, uint32_t barriers,
                                      uint32_t count, uint32_t stage, uint32_t member, uint32_t lane)
{
    r->member = member;
    r->stages = r->at = stages;
    r->barriers = r->barrier = barriers;
    r->end = stages + count * stage;
    r->count = count;
    r->stage = stage;
    r->parity = 0;
    if (member == 0 && lane == 0) {
        SPINFER_NO_UNROLL
        for (uint32_t i = 0; i < count; i++) {
            spinfer_mbarrier_init(barriers + 8 * i, SPINFER_HAS_BULK_COPY ? 1 : 32);
            if (team > 1) spinfer_mbarrier_init(barriers + 8 * (count + i), 32 * (uint32_t)team);
        }
    }
}

/* spinfer_ring_range() : what will pass: of GroupTile columns k_begin .. k_begin + cols - 1 of row `strip` of W those
 * from `part` * team on, `team` at a time, every parts-th time. Scope: team; the range before is done. W: in device
 * memory. */
SPINFER_DEVICE void spinfer_ring_range(const int team, spinfer_ring *r, const spinfer_matrix *W, uint32_t strip,
                                       uint32_t k_begin, uint32_t cols, uint32_t part, uint32_t parts, uint32_t lane)
{
    const uint32_t records = (uint32_t)team;
    r->data = W->data;
    r->cols = cols;
    r->step = records * parts;
    r->col = records * part;
    r->owner = 0;
    r->stream.begin = r->stream.end = 0;
    r->stream.used = (lane | 15) + 1 - records;
    r->stream.offsets = W->offsets + (uint64_t)strip * W->group_ld + k_begin;
    r->stream.tail = r->stream.jump = r->stream.strip = 0;
    r->stream.col = r->col + r->step * (lane / records) + lane % records;
    spinfer_stream_load(&r->stream, cols);
}

/* spinfer_ring_tails() : the same for the team of a helper: `count` records from `first` on, counted through the tails
 * of all rows of W, which begin at GroupTile column k_begin and have `tail` columns; fewer where W ends. All three are
 * multiples of team. `strip`: first / tail. */
SPINFER_DEVICE void spinfer_ring_tails(const int team, spinfer_ring *r, const spinfer_matrix *W, uint32_t k_begin,
                                       uint32_t tail, uint32_t first, uint32_t strip, uint32_t count, uint32_t lane)
{
    const uint32_t records = (uint32_t)team;
    r->data = W->data;
    r->col = first;
    r->cols = spinfer_min(first + count, spinfer_row_groups(W->rows) * tail);
    r->step = records;
    r->owner = 0;
    r->stream.begin = r->stream.end = 0;
    r->stream.used = (lane | 15) + 1 - records;
    r->stream.offsets = W->offsets + k_begin;
    r->stream.tail = tail;
    r->stream.jump = W->group_ld - tail;
    r->stream.strip = strip;
    r->stream.col = first + lane;
    spinfer_stream_load(&r->stream, r->cols);
}

/* spinfer_ring_follow() : a ring whose range is done goes on, from where it is, with the range of `next`: a copy of it,
 * for which spinfer_ring_range() was called early, so that the offsets are there in time. */
SPINFER_DEVICE void spinfer_ring_follow(spinfer_ring *r, const spinfer_ring *next)
{
    r->stream = next->stream;
    r->data = next->data;
    r->cols = next->cols;
    r->step = next->step;
    r->col = next->col;
    r->owner = next->owner;
}

/* spinfer_ring_stage() : shared address of the stage that comes i stages after the current one, 0 .. count - 1. */
SPINFER_DEVICE uint32_t spinfer_ring_stage(const spinfer_ring *r, uint32_t i)
{
    const uint32_t at = r->at + i * r->stage;
    return at < r->end ? at : at - r->count * r->stage;
}

/* spinfer_ring_fetch() : starts the copies of stages i .. end - 1 of those to come, end <= count. Once for each stage,
 * before the first spinfer_ring_wait() of a range; then spinfer_ring_release() does it. Scope: team. */
SPINFER_DEVICE void spinfer_ring_fetch(const int team, const spinfer_ring *r, uint32_t i, uint32_t end, uint32_t lane)
{
    const uint32_t records = (uint32_t)team;
    SPINFER_NO_UNROLL
    for (; r->member == 0 && i < end && r->col + i * r->step < r->cols; i++) {
        const uint32_t barrier = r->barrier + 8 * i, end_barrier = r->barriers + 8 * r->count;
        spinfer_stream_fetch(team, &r->stream, r->data, spinfer_ring_stage(r, i),
                             barrier < end_barrier ? barrier : barrier - 8 * r->count, i * records,
                             spinfer_min(r->cols - (r->col + i * r->step), records), lane);
    }
}

/* Keeps the places of a ring that is still at its start in registers, spinfer_pin(). */
SPINFER_DEVICE void spinfer_ring_keep(spinfer_ring *ring)
{
    ring->stages = ring->at = spinfer_pin(ring->stages, 0);
    ring->barriers = ring->barrier = spinfer_pin(ring->barriers, 0);
    ring->end = spinfer_pin(ring->end, 0);
}

/* spinfer_ring_records() : records of the current stage, 1 .. team. */
SPINFER_DEVICE uint32_t spinfer_ring_records(const int team, const spinfer_ring *r)
{
    return spinfer_min(r->cols - r->col, (uint32_t)team);
}

/* Moves on to the place of the next stage in the ring. */
SPINFER_DEVICE void spinfer_ring_turn(spinfer_ring *r)
{
    r->at += r->stage;
    r->barrier += 8;
    if (r->at == r->end) {
        r->at = r->stages;
        r->barrier = r->barriers;
        r->parity ^= 1;
    }
}

/* spinfer_ring_wait() for the stage that comes `ahead`, 0 or 1, stages after the current one. If there is none it waits
 * for nothing, and what it returns is 0 or lies in the ring. */
SPINFER_DEVICE uint32_t spinfer_ring_wait_ahead(const int team, spinfer_ring *r, const uint32_t ahead, uint32_t lane)
{
    const uint32_t records = (uint32_t)team, col = r->col + ahead * r->step, owner = r->owner + ahead * records;
    const uint32_t begin = __shfl_sync(0xffffffffu, r->stream.begin, (int)owner);
    spinfer_ring   there = *r;
    if (ahead) spinfer_ring_turn(&there);
    uint32_t record = there.at + 16 * (begin % 8);
    if (team > 1) {
        const uint32_t i = lane / (32 / records);
        record += 16 * (__shfl_sync(0xffffffffu, r->stream.begin, (int)(owner + i)) - begin);
        if (col + i >= r->cols) record = 0;
    }
    if (owner == r->stream.used) { /* the offsets of this half of the lanes are used up */
        r->stream.used += 32;
        r->stream.col += 32 / records * r->step;
        spinfer_stream_load(&r->stream, r->cols);
    }
    if (ahead == 0 || col < r->cols) spinfer_mbarrier_wait(there.barrier, there.parity);
    return record;
}

/* spinfer_ring_wait() : until the current stage is complete. Returns what spinfer_scan_stage() takes: the shared
 * address of the record that the lane scans, or 0. Once for each stage. Scope: team; col < cols. */
SPINFER_DEVICE uint32_t spinfer_ring_wait(const int team, spinfer_ring *r, uint32_t lane)
{
    return spinfer_ring_wait_ahead(team, r, 0, lane);
}

/* spinfer_ring_release() : the current stage may be overwritten, and so may the tables of the team; starts the copy of
 * the stage that takes its place, and moves on. Scope: team; who fetches waits until all have left the stage. */
SPINFER_DEVICE void spinfer_ring_release(const int team, spinfer_ring *r, uint32_t lane)
{
    const uint32_t records = (uint32_t)team, next = r->col + r->count * r->step;
    const int      more = r->member == 0 && next < r->cols;
    if (team > 1) spinfer_mbarrier_arrive(r->barrier + 8 * r->count);
    __syncwarp(); /* all lanes have read table and stage .. */
    if (team > 1 && more)
        spinfer_mbarrier_wait(r->barrier + 8 * r->count, r->parity); /* .. and those of the other warps the stage */
    if (more)
        spinfer_stream_fetch(team, &r->stream, r->data, r->at, r->barrier, r->owner + r->count * records,
                             spinfer_min(r->cols - next, records), lane);
    r->owner += records;
    r->col += r->step;
    spinfer_ring_turn(r);
}

/* spinfer_multiply_half() : sums += half a table, four TCTiles, times 8 * n_frags tokens: `team` columns of 16.
 *
 *   sums      [4 / team][n_frags]
 *   x_frags   [n_frags], scratch
 *   next      the first TCTile, already located; on return the one at `behind`
 *   read      where the lane reads the first TCTile in the table
 *   behind    where it reads the TCTile behind this half; after the last one any place in the table
 *   x         where the lane reads X for the first column of 16, spinfer_x_at()
 *   ring      whose next stage is scanned on the way: waited for before the last loads of values (1 % faster with 32
 *             tokens than before the first), stored last; or NULL */
SPINFER_DEVICE void spinfer_multiply_half(const spinfer_dtype dtype, const int team, const int n_frags,
                                          spinfer_frag_c *sums, spinfer_frag_b *x_frags, const spinfer_lane *l,
                                          spinfer_located *next, uint32_t read, uint32_t behind, uint32_t x,
                                          spinfer_ring *const ring)
{
    const int    tiles = 4 / team;
    spinfer_scan scan;
    SPINFER_UNROLL
    for (int t = 0; t < 4; t++) {
        spinfer_frag_a a;
        if (ring && t == (SPINFER_HAS_BULK_COPY ? 3 : 0)) { /* late needs registers that sm_80 lacks */
            scan.record = spinfer_ring_wait_ahead(team, ring, 1, l->lane);
            spinfer_scan_load(team, &scan, l);
        }
        SPINFER_UNROLL
        for (int f = 0; f < n_frags && t % tiles == 0; f++) /* X stays in registers for all row tiles */
            spinfer_shared_u32x2((x ^ (uint32_t)(32 * (t / tiles))) + (uint32_t)(1024 * f), x_frags[f].r);
        spinfer_decode_located(spinfer_shifts(8 * n_frags), t < 3 ? read + spinfer_table_place(t + 1) : behind, l, next,
                               &a);
        SPINFER_UNROLL
        for (int f = 0; f < n_frags; f++) spinfer_mma_m16n8k16(dtype, &sums[t % tiles * n_frags + f], &a, &x_frags[f]);
    }
    if (ring) {
        spinfer_count_before(1, scan.word, l, scan.before);
        __syncwarp(); /* all lanes have read the table */
        spinfer_scan_store(&scan, l);
    }
}

/* Where a lane reads X for the second half of a stage. */
SPINFER_DEVICE uint32_t spinfer_x_second_half(const int team, const int n_frags, uint32_t x)
{
    return team < 4 ? x ^ (uint32_t)(32 * team) : x + (uint32_t)(1024 * n_frags); /* the next box */
}

/* spinfer_multiply_stage() : sums += the warp's rows of a stage of `count` records * X. As a loop, which saves
 * registers, but for 8 and 16 tokens: there straight code fits and is up to 5 % faster (H200). */
SPINFER_DEVICE void spinfer_multiply_stage(const spinfer_dtype dtype, const int team, const int n_frags,
                                           spinfer_frag_c *sums, spinfer_frag_b *x_frags, const spinfer_lane *l,
                                           uint32_t count, uint32_t x)
{
    spinfer_located next;
    const uint32_t  read = l->read, second = read + spinfer_table_place(4);
    spinfer_locate_tc_tile(spinfer_shifts(8 * n_frags), read, l, &next);
    if (team == 1 && n_frags <= 2) {
        spinfer_multiply_half(dtype, team, n_frags, sums, x_frags, l, &next, read, second, x, NULL);
        spinfer_multiply_half(dtype, team, n_frags, sums, x_frags, l, &next, second, read, x ^ 32, NULL);
    } else {
        SPINFER_NO_UNROLL
        for (uint32_t half = 0; half < 2; half++) {
            if (team > 1 && half * (uint32_t)team >= 2 * count) break;
            spinfer_multiply_half(dtype, team, n_frags, sums, x_frags, l, &next, half ? second : read,
                                  half ? read : second, x, NULL);
            x = spinfer_x_second_half(team, n_frags, x);
        }
    }
}

/* spinfer_x_lane() : where a lane reads X for spinfer_multiply_stage(), column 0 of a piece at shared address `x`.
 * spinfer_x_at() : the same for GroupTile column `col` of the piece, the first of a stage. */
SPINFER_DEVICE uint32_t spinfer_x_lane(uint32_t x, uint32_t lane)
{
    return x + spinfer_x_place(8, lane % 4 / 2 * 8, spinfer_x_token(lane / 4)) + lane % 2 * 8;
}
SPINFER_DEVICE uint32_t spinfer_x_at(const int team, const int n_frags, uint32_t x_lane, uint32_t col)
{
    return (x_lane + col / 2 * (uint32_t)(1024 * n_frags)) ^ (team == 1 ? col % 2 * 64 : 0);
}

/* Bytes from the box of GroupTile column `col` to that of col + step. */
SPINFER_DEVICE uint32_t spinfer_x_stride(const int n_frags, uint32_t step, uint32_t col)
{
    return ((col + step) / 2 - col / 2) * (uint32_t)(1024 * n_frags);
}

/* spinfer_multiply_and_scan() : spinfer_multiply_stage(); meanwhile the next stage, if there is one, is scanned, and in
 * the end it is in the table of the warp. A warp barrier publishes it. */
SPINFER_DEVICE void spinfer_multiply_and_scan(const spinfer_dtype dtype, const int team, const int n_frags,
                                              spinfer_frag_c *sums, spinfer_frag_b *x_frags, const spinfer_lane *l,
                                              uint32_t count, uint32_t x, spinfer_ring *ring)
{
    const uint32_t  read = l->read, second = read + spinfer_table_place(4);
    spinfer_located next;
    spinfer_locate_tc_tile(spinfer_shifts(8 * n_frags), read, l, &next);
    spinfer_multiply_half(dtype, team, n_frags, sums, x_frags, l, &next, read, second, x, NULL);
    if (team > 1 && (uint32_t)team >= 2 * count) return; /* the last stage, and it is short */
    spinfer_multiply_half(dtype, team, n_frags, sums, x_frags, l, &next, second, read,
                          spinfer_x_second_half(team, n_frags, x), ring);
}

/* What a lane has located of a TCTile in the order of the instruction: words and places of registers 0 .. 3. */
typedef struct spinfer_pairs {
    uint32_t word[4], place[4];
} spinfer_pairs;

SPINFER_DEVICE void spinfer_locate_pairs(uint32_t entry, const spinfer_lane *l, spinfer_pairs *next)
{
    uint32_t e[8];
    spinfer_shared_u32x4(entry, e);
    spinfer_shared_u32x4(entry + 32, e + 4);
    SPINFER_UNROLL
    for (int i = 0; i < 4; i++) {
        next->word[i] = e[2 * i];
        next->place[i] = spinfer_pair_locate(e[2 * i], e[2 * i + 1], l->pair);
    }
}

/* spinfer_load_pairs() : the two TCTiles of a record that a warp of a team of four has, into registers: all first
 * values, then all second ones. Two TCTiles at once take 4 % less time than one after the other (H200). Loading always
 * and choosing by a byte permutation, without a wait between first and second, takes 4 % more: each load that is left
 * out saves shared memory. */
SPINFER_DEVICE void spinfer_load_pairs(spinfer_pairs *at, const spinfer_lane *l, spinfer_frag_a *a)
{
    uint32_t first[8], second[8];
    SPINFER_UNROLL
    for (int i = 0; i < 8; i++) first[i] = spinfer_pair_first(at[i / 4].word[i % 4], at[i / 4].place[i % 4], l->pair);
    SPINFER_UNROLL
    for (int i = 0; i < 8; i++) second[i] = spinfer_pair_second(at[i / 4].word[i % 4], at[i / 4].place[i % 4], l->pair);
    SPINFER_UNROLL
    for (int i = 0; i < 8; i++) a[i / 4].r[i % 4] = spinfer_pack(first[i], second[i]);
}

/* Both TCTiles of record number r of a stage. */
SPINFER_DEVICE void spinfer_locate_record(uint32_t r, const spinfer_lane *l, spinfer_pairs *next)
{
    const uint32_t entry = l->read + r * spinfer_table_place(2);
    spinfer_locate_pairs(entry, l, &next[0]);
    spinfer_locate_pairs(entry + spinfer_table_place(1), l, &next[1]);
}

/* spinfer_wgmma_record() : sums += record number r of a stage, 32 columns, times 64 tokens: two TCTiles. Between
 * spinfer_wgmma_fence() and spinfer_wgmma_commit(). `x`: shared address of the box of X of the stage's first record. */
SPINFER_DEVICE void spinfer_wgmma_record(const spinfer_dtype dtype, spinfer_frag_c *sums, const spinfer_frag_a *a,
                                         uint32_t r, uint32_t x)
{
    const uint32_t columns = spinfer_wgmma_x(x + r / 2 * (64 * 2 * SPINFER_X_BOX) + r % 2 * 64);
    spinfer_wgmma_m64n64k16(dtype, sums, &a[0], columns);
    spinfer_wgmma_m64n64k16(dtype, sums, &a[1], columns + 32 / 16);
}

/* spinfer_wgmma_and_scan() : spinfer_multiply_and_scan() for teams of four and 64 tokens. On return one group of wgmma
 * may be under way: before the sums or X are touched, spinfer_wgmma_wait(0). Scope: team.
 *
 *   x         shared address of the box of X of the stage's first record
 *   abreast   1 or 2 records are decoded and multiplied at a time, while the product before is under way. Two need 121
 *             registers, so that a block has 16 warps, and take 2 to 5 % less time than one at a time in 96 (H200) */
SPINFER_DEVICE void spinfer_wgmma_and_scan(const spinfer_dtype dtype, const int team, const int abreast,
                                           spinfer_frag_c *sums, const spinfer_lane *l, uint32_t count, uint32_t x,
                                           spinfer_ring *ring)
{
    spinfer_frag_a a[8];
    spinfer_pairs  next[4];
    spinfer_scan   scan;
    if (count < 4) { /* the last stage, and it is short */
        SPINFER_NO_UNROLL
        for (uint32_t r = 0; r < count; r++) {
            spinfer_locate_record(r, l, next);
            spinfer_load_pairs(next, l, a);
            spinfer_wgmma_fence();
            spinfer_wgmma_record(dtype, sums, a, r, x);
            spinfer_wgmma_commit();
            spinfer_wgmma_wait(0);
        }
        return;
    }
    SPINFER_UNROLL
    for (int i = 0; i < abreast; i++) spinfer_locate_record((uint32_t)i, l, &next[2 * i]);
    SPINFER_UNROLL
    for (int r = 0; r < 4; r += abreast) {
        spinfer_frag_a *now = &a[r / abreast % 2 * 2 * abreast]; /* while the other half is multiplied */
        if (r + abreast == 4 && abreast == 1) {
            scan.record = spinfer_ring_wait_ahead(team, ring, 1, l->lane);
            spinfer_scan_load(team, &scan, l);
        }
        SPINFER_UNROLL
        for (int i = 0; i < abreast; i++) spinfer_load_pairs(&next[2 * i], l, &now[2 * i]);
        SPINFER_UNROLL
        for (int i = 0; i < abreast && r + abreast < 4; i++)
            spinfer_locate_record((uint32_t)(r + abreast + i), l, &next[2 * i]);
        if (r + abreast == 4 && abreast == 2) {
            scan.record = spinfer_ring_wait_ahead(team, ring, 1, l->lane);
            spinfer_scan_load(team, &scan, l);
        }
        spinfer_wgmma_fence();
        SPINFER_UNROLL
        for (int i = 0; i < abreast; i++) spinfer_wgmma_record(dtype, sums, &now[2 * i], (uint32_t)(r + i), x);
        spinfer_wgmma_commit();
        spinfer_wgmma_wait(1); /* the other half is free */
    }
    spinfer_count_before(1, scan.word, l, scan.before);
    __syncwarp(); /* all lanes have read the table */
    spinfer_scan_store(&scan, l);
}

/* spinfer_x_cols() : layout.x_cols. Where all parts share X it is that of the plan: with the one of the layout, the
 * loops of those kernels had up to 14 instructions more. */
SPINFER_DEVICE uint32_t spinfer_x_cols(const int team, const spinfer_spmm_args *args)
{
    return spinfer_parts_apart(team) ? args->layout.x_cols : (uint32_t)args->plan.x_cols;
}

/* spinfer_x_warps() : that share a slot of X: those of a part, or of the block. spinfer_x_arrivals() : that complete
 * the `full` barrier of a slot, besides the bytes of the copy engine: of the lanes of one warp where there is an
 * engine, otherwise of all lanes that share it. */
SPINFER_DEVICE uint32_t spinfer_x_warps(const spinfer_plan *plan)
{
    return (uint32_t)(plan->strips * plan->team * (spinfer_parts_apart(plan->team) ? 1 : plan->warps_k));
}
SPINFER_DEVICE uint32_t spinfer_x_arrivals(const spinfer_plan *plan)
{
    return SPINFER_HAS_BULK_COPY ? 32 : 32 * spinfer_x_warps(plan);
}

/* spinfer_copy_x() : copies number `part` of `parts` of a piece of X, GroupTile columns col .. col + x_cols - 1 of the
 * range of `block`, into a slot, without the copy engine: cp.async, or stores if X is not aligned. What lies outside X
 * becomes zeros, because 0 * NaN is no zero. Returns whether X is aligned. Scope: warp. */
SPINFER_DEVICE int spinfer_copy_x(const spinfer_spmm_args *args, const spinfer_block *block, uint32_t smem,
                                  uint32_t col, uint32_t slot, uint32_t part, uint32_t parts, uint32_t lane)
{
    const uint32_t tokens = (uint32_t)args->plan.tokens;
    const uint32_t boxes = (spinfer_min(block->cols - col, args->layout.x_cols) + 1) / 2;
    const uint32_t first = (block->k_begin + col) * SPINFER_GROUP_COLS; /* column of X */
    const uint32_t to = smem + args->layout.x + slot * args->layout.x_piece;
    const int      aligned = ((uint64_t)args->X % 16 | args->ldx % 8) == 0;
    SPINFER_NO_UNROLL
    for (uint32_t i = 32 * part + lane; i < boxes * tokens * 8; i += 32 * parts) { /* 16 bytes of a token */
        const uint32_t token = i / 8 % tokens, c = i / 8 / tokens * SPINFER_X_BOX + i % 8 * 8,
                       place = to + spinfer_x_place(tokens, c, token);
        const uint32_t valid =
            block->token + token < args->n && first + c < args->W.cols ? spinfer_min(args->W.cols - (first + c), 8) : 0;
        const uint16_t *from = valid ? args->X + (block->token + token) * args->ldx + first + c : args->X;
        if (aligned) {
            spinfer_cp_async_16(place, from, 2 * valid);
        } else {
            SPINFER_NO_UNROLL
            for (uint32_t k = 0; k < 8; k++) spinfer_shared_store_u16(place + 2 * k, k < valid ? from[k] : (uint16_t)0);
        }
    }
    return aligned;
}

/* spinfer_fetch_x() : starts the copy of a piece of X, as above, and announces it to the slot's `full` barrier. `parts`
 * warps, all of the block or one, share the work; on sm_90 an X that the copy engine cannot take is left to part 0.
 * Scope: warp. */
SPINFER_DEVICE void spinfer_fetch_x(const spinfer_spmm_args *args, const spinfer_block *block, uint32_t smem,
                                    uint32_t col, uint32_t slot, uint32_t part, uint32_t parts, uint32_t lane)
{
    const uint32_t full = smem + args->layout.x_full + 8 * slot;
#if SPINFER_HAS_BULK_COPY
    if (args->x_tensor) {
        const uint32_t box = (uint32_t)args->plan.tokens * 2 * SPINFER_X_BOX; /* bytes */
        const uint32_t boxes = (spinfer_min(block->cols - col, args->layout.x_cols) + 1) / 2;
        const uint32_t i = part + parts * lane; /* the instruction takes the lanes one by one, so several warps help */
        if (part == 0) spinfer_mbarrier_arrive_expect(full, lane == 0 ? boxes * box : 0);
        if (i < boxes)
            spinfer_tensor_copy(smem + args->layout.x + slot * args->layout.x_piece + i * box, args->x_map,
                                (block->k_begin + col) * SPINFER_GROUP_COLS + i * SPINFER_X_BOX, block->token, full);
        return;
    }
    if (part > 0) return;
    parts = 1;
#endif
    const uint32_t arrivals = parts > 1 ? 1 : spinfer_x_arrivals(&args->plan) / 32; /* of a lane, for who is not here */
    const int      aligned = spinfer_copy_x(args, block, smem, col, slot, part, parts, lane);
    SPINFER_NO_UNROLL
    for (uint32_t i = 0; i < arrivals; i++) {
        if (aligned)
            spinfer_cp_async_arrive(full);
        else
            spinfer_mbarrier_arrive(full);
    }
}

/* spinfer_sums_clear() : zeros, [4 / team * n_frags]. */
SPINFER_DEVICE void spinfer_sums_clear(const int team, const int n_frags, spinfer_frag_c *sums)
{
    SPINFER_UNROLL
    for (int f = 0; f < 4 / team * n_frags; f++) sums[f].r[0] = sums[f].r[1] = sums[f].r[2] = sums[f].r[3] = 0.0f;
}

/* spinfer_finishes() : does this block call the epilogue? It is one of the last range of K, or with twins of the last
 * two. */
SPINFER_DEVICE int spinfer_finishes(const spinfer_spmm_args *args, const spinfer_block *block)
{
    return block->split + (args->twins ? 2 : 1) >= (uint32_t)args->plan.splits;
}

/* spinfer_is_twin() : has this block a twin? spinfer_twin_rank() : which one of the two it is, 0 or 1. */
SPINFER_DEVICE int spinfer_is_twin(const int n_frags, const spinfer_spmm_args *args, const spinfer_block *block)
{
    if (!SPINFER_HAS_TWINS || !spinfer_may_twin(8 * n_frags) || !args->twins) return 0;
    return args->twins == 1 || spinfer_finishes(args, block);
}
SPINFER_DEVICE uint32_t spinfer_twin_rank(const spinfer_spmm_args *args, const spinfer_block *block)
{
    return (block->split + (uint32_t)args->plan.splits) % 2;
}

/* spinfer_twin_init() : the barriers of a twin, and how many bytes it will get: of each unit that it finishes 512. One
 * thread. */
SPINFER_DEVICE void spinfer_twin_init(const int wide, const spinfer_spmm_args *args, const spinfer_block *block,
                                      uint32_t smem, uint32_t warps)
{
    const uint32_t strips = (uint32_t)args->plan.strips, barriers = smem + args->layout.twin;
    const uint32_t below = spinfer_row_groups(args->W.rows) - block->row_group * strips; /* strips from the first on */
    const uint32_t units = spinfer_units(wide, spinfer_min(args->n - block->token, (uint32_t)args->plan.tokens));
    spinfer_mbarrier_init(barriers, warps);
    spinfer_mbarrier_init(barriers + 8, 1);
    spinfer_mbarrier_fence();
    spinfer_mbarrier_arrive_expect(barriers + 8, 512 * spinfer_twin_units(units, spinfer_twin_rank(args, block)) *
                                                     spinfer_min(below, strips));
}

/* spinfer_ask_early() : asks L2 for what a strip probably reads first: its records begin about where they would if all
 * had the same size. Their offsets take most of a microsecond to arrive, and with this the records are on their way
 * meanwhile: 0.1 to 0.45 us less for a launch on layers below 60 MB, 4 % of 4096 x 4096 with 8 tokens (H200); the code
 * for sm_80 gains nothing. A wrong guess costs what it reads and changes no result. Behind the loads of the offsets,
 * and 2 KB for three of four warps, side by side: who asks for two stages is up to 3 us slower than who asks for
 * nothing (offsets and X probably wait in the same queues); 2 KB of each warp's own record, so that none is complete,
 * save a quarter less.
 *
 *   group         number of the record that lies first; of its row, `warps` warps are about to read the next ones
 *   warp, warps   of the calling warp, among those of the strip
 *   Scope         warp */
SPINFER_DEVICE void spinfer_ask_early(const spinfer_spmm_args *args, uint32_t group, uint32_t warp, uint32_t warps,
                                      uint32_t lane)
{
    const uint32_t at = (uint32_t)((uint64_t)group * args->mean >> 12) + 32 * warp + lane; /* in units of 64 bytes */
    if (SPINFER_HAS_BULK_COPY && args->mean && 4 * warp < 3 * warps && at < (uint32_t)(args->W.data_bytes / 64))
        spinfer_prefetch_l2((const unsigned char *)args->W.data + (uint64_t)at * 64);
}

/* spinfer_block_open() : spinfer_block_start(), or the start of a helper; `helps` is a compile-time constant. */
SPINFER_DEVICE void spinfer_block_open(const int team_warps, const int helps, spinfer_ring *ring,
                                       const spinfer_spmm_args *args, const spinfer_block *block, uint32_t smem,
                                       uint32_t lane)
{
    const spinfer_plan *plan = &args->plan;
    const spinfer_smem  layout = args->layout;
    const int           apart = spinfer_parts_apart(team_warps) && !helps; /* a helper's teams share its X */
    const spinfer_block own = spinfer_part_block(apart, args, block);
    const uint32_t      stages = (uint32_t)plan->stages, warps_k = (uint32_t)plan->warps_k;
    const uint32_t      x_cols = spinfer_x_cols(team_warps, args);
    const uint32_t      team = block->strip * warps_k + block->part;
    const uint32_t      strip = block->row_group * (uint32_t)plan->strips + block->strip;
    const uint32_t      cols = strip < spinfer_row_groups(args->W.rows) ? own.cols : 0; /* below the matrix: none */
    const uint32_t      turn = apart ? 0 : block->part, turns = apart ? 1 : warps_k;    /* of teams that take turns */
    /* The teams that share X, and their warps. */
    const uint32_t x_teams = (uint32_t)plan->strips * turns, x_team = apart ? block->strip : team;
    const uint32_t x_warps = x_teams * (uint32_t)team_warps, x_warp = x_team * (uint32_t)team_warps + block->member;
    const uint32_t x_pieces =
        helps && spinfer_parts_apart(team_warps) ? spinfer_x_slots(plan) : (uint32_t)plan->x_pieces;
    const uint32_t x_slot = apart ? block->part * x_pieces : 0;                 /* the first one */
    const int alone = spinfer_parts_apart(team_warps) && SPINFER_HAS_BULK_COPY; /* one warp asks for a piece of X */

#if SPINFER_HAS_DEPENDENT
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
    /* The offsets first: they are on their way for most of a microsecond. */
    uint32_t early = strip * args->W.group_ld + own.k_begin; /* number of the first record in W, if nobody shares it */
    if (helps) {
        const uint32_t first = spinfer_helper_first(args, block), first_strip = spinfer_divide_by_tail(args, first);
        spinfer_ring_tails(team_warps, ring, &args->W, block->k_begin, block->cols, first, first_strip, args->share,
                           lane);
        early = first_strip * (args->W.group_ld - block->cols) + block->k_begin + first;
    } else
        spinfer_ring_range(team_warps, ring, &args->W, strip, own.k_begin, cols, turn, turns, lane);
    /* Parts that are apart begin one after the other, so that the first one has all it needs while that of the last one
     * is still on the way: the first stages of all SMs are 5 MB, 1 us at the read bandwidth. Together with asking
     * before the block's barrier 0.6 to 1.8 % of 1024 x 4096 to 8192 x 8192 (H200; 800 clocks between four parts cost
     * up to 8 %). */
    if (alone && !helps) spinfer_wait_until(spinfer_clock() + block->part * (warps_k > 2 ? 250 : 600));
    if (helps ? alone && ring->col < ring->cols : cols != 0)
        spinfer_ask_early(args, early, (alone ? 0 : turn) * (uint32_t)team_warps + block->member,
                          (alone ? 1 : turns) * (uint32_t)team_warps, lane);
    spinfer_ring_init(team_warps, ring, smem + layout.rings + team * stages * layout.stage,
                      smem + spinfer_ring_barriers(team_warps) * team * stages, stages, layout.stage, block->member,
                      lane);
    /* Where parts are apart, one warp makes the barriers of X for its part, so that it need not wait for the others. */
    const int x_maker =
        alone && block->strip == 0 && block->member + 1 == (uint32_t)team_warps && (apart || block->part == 0);
    SPINFER_NO_UNROLL
    for (uint32_t i = alone ? (x_maker ? 0 : x_pieces) : x_warp; i < x_pieces && lane == 0; i += alone ? 1 : x_warps) {
        spinfer_mbarrier_init(smem + layout.x_full + 8 * (x_slot + i), spinfer_x_arrivals(plan));
        spinfer_mbarrier_init(smem + layout.x_empty + 8 * (x_slot + i), 32 * x_warps);
        spinfer_shared_store_u32(smem + layout.x_left + 4 * (x_slot + i), 0);
    }
    spinfer_mbarrier_fence();
    /* What is needed first is asked for first: the first piece of X, then the first stage of every team, then the
     * rest. All at once, X queues behind the burst of weights, and the first warp starts 2 us later (H200). */
    if (alone) {
        __syncwarp(); /* the barriers of this warp are ready */
        if (x_maker && !plan->dependent) spinfer_fetch_x(args, &own, smem, 0, x_slot, 0, 1, lane);
        spinfer_ring_fetch(team_warps, ring, 0, 1, lane);
    }
    __syncthreads(); /* the barriers are ready for all */

    uint32_t x_part = /* warps that fetch W have the last parts of X, or none */
        (block->member ? block->member - 1 : (uint32_t)team_warps - 1) * x_teams + x_team;
    uint32_t x_next = plan->dependent ? 0 : 1; /* the piece of X that comes next */
    if (!alone && !plan->dependent) spinfer_fetch_x(args, &own, smem, 0, x_slot, x_part, x_warps, lane);
    if (!alone) spinfer_ring_fetch(team_warps, ring, 0, 1, lane);
#if SPINFER_HAS_DEPENDENT
    asm volatile("griddepcontrol.wait;" ::: "memory"); /* X may come from the kernel before, W does not */
#endif
    SPINFER_NO_UNROLL
    for (; x_next < x_pieces && x_next * x_cols < own.cols; x_next++) {
        x_part = x_part ? x_part - 1 : x_warps - 1;
        spinfer_fetch_x(args, &own, smem, x_next * x_cols, x_slot + x_next, x_part, x_warps, lane);
    }
    spinfer_ring_fetch(team_warps, ring, 1, stages, lane);
}

/* spinfer_block_start() : makes the barriers of a block and starts its first copies of W and X.
 *
 *   ring     out   of the calling warp's team, for spinfer_block_multiply()
 *   lane           lane of the calling thread, here and in spinfer_block_multiply()
 *   Scope    block, with a __syncthreads(). Nothing is waited for but, with a dependent launch, the kernel before:
 *            behind this call all that it wrote may be read. */
SPINFER_DEVICE void spinfer_block_start(const int team_warps, spinfer_ring *ring, const spinfer_spmm_args *args,
                                        const spinfer_block *block, uint32_t smem, uint32_t lane)
{
    spinfer_block_open(team_warps, 0, ring, args, block, smem, lane);
}

/* A slot of X that all warps have left gets its next piece, from GroupTile column `col` on. Where there is a copy
 * engine the last warp that leaves the slot asks for it: spinfer_leave_x(). Elsewhere a warp alone would copy for
 * microseconds. So all share the work when they enter the piece behind, spinfer_refill_x(), and a record later, when
 * their copies have landed, they arrive at the barrier that this has returned: spinfer_refilled_x(). That made the code
 * for sm_80 2 % faster with 16 tokens and two to three times as fast with 32 (on an H200). Copies could arrive there by
 * themselves, as those of the first pieces do; it is as fast, but racecheck then reports a hazard. `parity`: of the use
 * of the slot that ends. Scope: warp. */
SPINFER_DEVICE void spinfer_leave_x(const spinfer_spmm_args *args, const spinfer_block *block, uint32_t smem,
                                    uint32_t col, uint32_t slot, uint32_t parity, uint32_t warps, uint32_t lane)
{
    spinfer_mbarrier_arrive(smem + args->layout.x_empty + 8 * slot);
#if SPINFER_HAS_BULK_COPY
    uint32_t left = 0;
    __syncwarp(); /* all lanes have arrived */
    if (lane == 0) left = spinfer_shared_count(smem + args->layout.x_left + 4 * slot, warps);
    if (__shfl_sync(0xffffffffu, left, 0) == warps - 1) {
        /* complete already: it orders the reads of the others before the copy */
        spinfer_mbarrier_wait(smem + args->layout.x_empty + 8 * slot, parity);
        spinfer_fetch_x(args, block, smem, col, slot, 0, 1, lane);
    }
#endif
}

SPINFER_DEVICE uint32_t spinfer_refill_x(const spinfer_spmm_args *args, const spinfer_block *block, uint32_t smem,
                                         uint32_t col, uint32_t slot, uint32_t parity, uint32_t warp, uint32_t warps,
                                         uint32_t lane)
{
    spinfer_mbarrier_wait(smem + args->layout.x_empty + 8 * slot, parity); /* all warps have left it */
    spinfer_copy_x(args, block, smem, col, slot, warp, warps, lane);
    spinfer_cp_async_commit(); /* a group, so that copies of W that are started later are not waited for */
    return smem + args->layout.x_full + 8 * slot;
}

SPINFER_DEVICE uint32_t spinfer_refilled_x(uint32_t barrier)
{
    if (!SPINFER_HAS_BULK_COPY && barrier) {
        spinfer_cp_async_wait(0);
        spinfer_mbarrier_arrive(barrier);
    }
    return 0;
}

/* spinfer_lane_anew() : threadIdx.x, read from the hardware here and now and not kept in a register since the start: 5
 * instructions less for a record with 8 tokens, 1 to 2 % of the time with 64 (H200). */
SPINFER_DEVICE uint32_t spinfer_lane_anew(void)
{
    uint32_t lane;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(lane));
    return lane;
}

/* spinfer_block_anew() : the same for where the block works. */
SPINFER_DEVICE spinfer_block spinfer_block_anew(const int team, const spinfer_spmm_args *args)
{
    uint3    thread, index;
    uint32_t blocks_x;
    thread.x = 0;
    asm volatile("mov.u32 %0, %%tid.y;\n mov.u32 %1, %%tid.z;" : "=r"(thread.y), "=r"(thread.z));
    asm volatile("mov.u32 %0, %%ctaid.x;\n mov.u32 %1, %%ctaid.y;\n mov.u32 %2, %%ctaid.z;"
                 : "=r"(index.x), "=r"(index.y), "=r"(index.z));
    asm volatile("mov.u32 %0, %%nctaid.x;" : "=r"(blocks_x));
    return spinfer_block_init(team, args, thread, index, blocks_x);
}

/* spinfer_helper_messages() : where the team of a helper sends the sums of the strip with record number `record`. With
 * wgmma it is found out while nobody waits for it, before the records of the strip are there. Elsewhere right before
 * the sums are sent: in registers it would be in the way of the loop. */
SPINFER_DEVICE const unsigned char *spinfer_helper_messages(const int team, const int n_frags,
                                                            const spinfer_spmm_args *args, uint32_t record)
{
    const spinfer_block block = spinfer_block_anew(team, args);
    const uint32_t      number = spinfer_helper_team(args, &block);
    const uint32_t      tail = spinfer_pin((uint32_t)args->plan.tail, 0), share = spinfer_pin(args->share, 0);
    /* Other divisions than below make code for 32 tokens spill. */
    const int      wide = spinfer_uses_wgmma(team, 8 * n_frags);
    const uint32_t strip = wide ? spinfer_divide_by_tail(args, record) : record / tail;
    const uint32_t first = wide ? spinfer_divide_by_share(args, strip * tail) : strip * tail / share; /* team */
    return spinfer_messages(n_frags, args, &block, strip, (uint32_t)args->plan.splits - 1 + number - first);
}

/* spinfer_global_send_frags() : the sums of a warp of a helper, straight from its registers; `to`:
 * spinfer_helper_messages(). Only what somebody waits for. A sum of +0 is sent as -0: that is what adding -0 makes of
 * it when rounding is towards minus infinity. */
SPINFER_DEVICE void spinfer_global_send_frags(const int team, const int n_frags, const spinfer_frag_c *sums,
                                              const spinfer_spmm_args *args, const unsigned char *to)
{
    const uint32_t lane = spinfer_lane_anew(), wide = spinfer_uses_wgmma(team, 8 * n_frags);
    const uint32_t token = wide ? 0 : spinfer_x_token(2 * (lane % 4));
    uint32_t       warp, index;
    asm volatile("mov.u32 %0, %%tid.y;\n mov.u32 %1, %%ctaid.y;" : "=r"(warp), "=r"(index));
    const uint32_t member = spinfer_pin(warp % (uint32_t)team, 0);
    index = spinfer_pin(index, 0);
    const int left =
        (int)(args->n - index * (uint32_t)args->plan.tokens - (token & ~1u)); /* tokens from the lane's on */
    to += wide ? 512 * member + 16 * lane : 64 * (4 / (uint32_t)team) * member + 4 * (lane / 4) + 256 * token;
    SPINFER_UNROLL
    for (int f = 0; f < 4 / team * n_frags; f++) {
        const float *sum = sums[f].r;
        if (wide) {
            asm volatile("{ .reg .pred inside; .reg .f32 a, b, c, d;\n"
                         "setp.gt.s32 inside, %4, %5;\n"
                         "add.rm.f32 a, %0, 0f80000000;\n"
                         "add.rm.f32 b, %1, 0f80000000;\n"
                         "add.rm.f32 c, %2, 0f80000000;\n"
                         "add.rm.f32 d, %3, 0f80000000;\n"
                         "@inside st.relaxed.gpu.global.v4.f32 [%6], {a, b, c, d}; }" ::"f"(sum[0]),
                         "f"(sum[1]), "f"(sum[2]), "f"(sum[3]), "r"(left), "r"(8 * f), "l"(to + 2048 * f)
                         : "memory");
            continue;
        }
        SPINFER_UNROLL
        for (int r = 0; r < 4; r++) {
            const int pair = 8 * (f % n_frags) + 4 * (r % 2);
            asm volatile("{ .reg .pred inside; .reg .f32 sum;\n"
                         "setp.gt.s32 inside, %1, %2;\n"
                         "add.rm.f32 sum, %0, 0f80000000;\n"
                         "@inside st.relaxed.gpu.global.f32 [%3], sum; }" ::"f"(sum[r]),
                         "r"(left), "r"(pair), "l"(to + 256 * pair + 64 * (f / n_frags) + 32 * (r / 2))
                         : "memory");
        }
    }
}

/* spinfer_block_multiply() : all records of one team, and of them the rows of one warp, times X.
 *
 *   sums     out       of the calling warp, [4 / team_warps * n_frags]; spinfer_reduce() adds them to the others'
 *   x_frags            [n_frags], scratch
 *   ring     in/out    what spinfer_block_start() left
 *   Scope    block, without a barrier of it */
SPINFER_DEVICE void spinfer_block_multiply(const spinfer_dtype dtype, const int team_warps, const int n_frags,
                                           spinfer_frag_c *sums, spinfer_frag_b *x_frags, spinfer_ring *ring,
                                           const spinfer_spmm_args *args, const spinfer_block *block, uint32_t smem,
                                           uint32_t lane)
{
    const spinfer_plan *plan = &args->plan;
    const spinfer_smem  layout = args->layout;
    const int           apart = spinfer_parts_apart(team_warps);
    const spinfer_block own = spinfer_part_block(apart, args, block);
    const uint32_t      warps_k = (uint32_t)plan->warps_k, x_cols = spinfer_x_cols(team_warps, args);
    const uint32_t      warp = (block->strip * warps_k + block->part) * (uint32_t)team_warps + block->member;
    const uint32_t      warps = (uint32_t)plan->strips * warps_k * (uint32_t)team_warps, cols = ring->cols;
    const uint32_t      x_pieces = (uint32_t)plan->x_pieces;
    const uint32_t      x_warps = apart ? (uint32_t)plan->strips * (uint32_t)team_warps : warps; /* that share X */
    const uint32_t      x_warp = apart ? block->strip * (uint32_t)team_warps + block->member : warp;
    const uint32_t      x_first = apart ? block->part * x_pieces : 0; /* slot of X, where the ones of this part begin */
    const uint32_t      strides = ring->step * (uint32_t)(1024 * n_frags); /* from a stage to the second one after it */
    const uint32_t      flip = spinfer_pin(ring->step % 2 * 64, lane); /* the other half of a box, if the step is odd */
    const int           flips = team_warps == 1 && n_frags > 1;        /* with 8 tokens `stride` does it, 1 % faster */
    const int           wide = spinfer_uses_wgmma(team_warps, 8 * n_frags);
    const uint32_t      x_begin = smem + layout.x + x_first * layout.x_piece;
    uint32_t            x_lane = wide ? x_begin : spinfer_x_lane(x_begin, lane);
    uint32_t            turn = 0; /* the slot of a piece, and 256 if the parity of its barriers is 1: one register */
    if ((n_frags == 2 || n_frags == 8) && !wide) /* for others this is the register that would spill .. */
        x_lane = spinfer_pin(x_lane, lane);

    if (spinfer_is_twin(n_frags, args, block)) {
        if (warp == 0 && lane == 0) spinfer_twin_init(wide, args, block, smem, warps);
        __syncwarp();
        spinfer_cluster_arrive();
    }
    spinfer_sums_clear(team_warps, n_frags, sums);
    spinfer_ring_keep(ring);
    const int    early = spinfer_scans_early(8 * n_frags); /* the next stage is scanned on the way */
    spinfer_lane l = spinfer_lane_init(team_warps, smem + layout.tables + SPINFER_TABLE * warp, block->member, lane);
    if (wide) l = spinfer_lane_init_pairs(team_warps, smem + layout.tables + SPINFER_TABLE * warp, block->member, lane);
    if (n_frags == 2) l.tile = spinfer_pin(l.tile, lane);
    if (early && ring->col < cols) spinfer_scan_stage(team_warps, spinfer_ring_wait(team_warps, ring, lane), &l);
    if (early) __syncwarp(); /* the table is complete */
    uint32_t x =
        wide ? spinfer_x_at(team_warps, n_frags, x_lane, ring->col) : 0; /* there it runs on through all slots */
    SPINFER_NO_UNROLL
    for (uint32_t piece = 0; piece < own.cols; piece += x_cols) { /* `piece`: its first column */
        const uint32_t x_slot = turn % 256;
        uint32_t       refilled = 0;
        if (!SPINFER_HAS_BULK_COPY && piece > 0 && piece + (x_pieces - 1) * x_cols < own.cols)
            refilled = spinfer_refill_x(args, &own, smem, piece + (x_pieces - 1) * x_cols,
                                        x_first + (x_slot ? x_slot - 1 : x_pieces - 1), turn / 256 ^ (x_slot == 0),
                                        x_warp, x_warps, lane);
        uint32_t end = piece + x_cols < cols ? piece + x_cols : cols;
        if (!wide) x = spinfer_x_at(team_warps, n_frags, x_lane + x_slot * layout.x_piece, ring->col - piece);
        if (n_frags == 1) x = spinfer_pin(x, lane); /* .. but it is needed only here */
        uint32_t stride = wide ? strides / 2 : spinfer_x_stride(n_frags, ring->step, ring->col - piece);
        if (n_frags == 1)
            stride = spinfer_x_at(1, 1, x_lane + x_slot * layout.x_piece, ring->col - piece + ring->step) - x;
        if ((n_frags == 2 || n_frags == 4) && SPINFER_HAS_BULK_COPY) /* sm_80 has no register for it */
            end = spinfer_pin(end, 0);                               /* two to four instructions less for a record */
        spinfer_mbarrier_wait(smem + layout.x_full + 8 * (x_first + x_slot), turn / 256);
        if (wide && !args->x_tensor) spinfer_bulk_fence(); /* X was written by threads, wgmma reads like an engine */
        SPINFER_NO_UNROLL
        while (ring->col < end) {
            const uint32_t count = spinfer_ring_records(team_warps, ring);
            if (wide) {
                spinfer_wgmma_and_scan(dtype, team_warps, (int)block->abreast, sums, &l, count, x, ring);
            } else if (early) {
                spinfer_multiply_and_scan(dtype, team_warps, n_frags, sums, x_frags, &l, count, x, ring);
            } else {
                spinfer_scan_stage(team_warps, spinfer_ring_wait(team_warps, ring, lane), &l);
                __syncwarp(); /* the table is complete */
                spinfer_multiply_stage(dtype, team_warps, n_frags, sums, x_frags, &l, count, x);
            }
            refilled = spinfer_refilled_x(refilled);
            spinfer_ring_release(team_warps, ring, lane);
            x = (flips ? x ^ flip : x) + stride;
            if (team_warps == 1) stride = strides - stride;
        }
        spinfer_refilled_x(refilled);
        if (piece + x_pieces * x_cols < own.cols) {
            if (wide) spinfer_wgmma_wait(0); /* the tensor cores have left X */
            spinfer_leave_x(args, &own, smem, piece + x_pieces * x_cols, x_first + x_slot, turn / 256, x_warps, lane);
        }
        turn++;
        if (x_slot + 1 == x_pieces) {
            turn = 256 - turn / 256 * 256;
            if (wide) x -= x_pieces * layout.x_piece; /* the slots of X lie one behind the other */
        }
    }
    if (wide) spinfer_wgmma_wait(0);
}

/* spinfer_sums_store() : the sums of a warp to those of its team at shared address `to`. Without wgmma: for each of 8 *
 * n_frags tokens SPINFER_SUMS_STRIDE bytes, 64 rows in fp32. With it: units of spinfer_unit_bytes(). Scope: warp; a
 * barrier publishes them. */
SPINFER_DEVICE void spinfer_sums_store(const int team, const int n_frags, const spinfer_frag_c *sums, uint32_t to,
                                       uint32_t member, uint32_t lane)
{
    const uint32_t own = to + 64 * (4 / (uint32_t)team) * member + 4 * (lane / 4) +
                         spinfer_x_token(2 * (lane % 4)) * SPINFER_SUMS_STRIDE;
    SPINFER_UNROLL
    for (int f = 0; f < 4 / team * n_frags; f++) {
        if (spinfer_uses_wgmma(team, 8 * n_frags)) {
            asm volatile(
                "st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to + 512 * member + 16 * lane + (uint32_t)(2048 * f)),
                "f"(sums[f].r[0]), "f"(sums[f].r[1]), "f"(sums[f].r[2]), "f"(sums[f].r[3])
                : "memory");
            continue;
        }
        SPINFER_UNROLL
        for (int r = 0; r < 4; r++)
            spinfer_shared_store_f32(own + (uint32_t)((8 * (f % n_frags) + 4 * (r % 2)) * SPINFER_SUMS_STRIDE) +
                                         (uint32_t)(4 * (16 * (f / n_frags) + 8 * (r / 2))),
                                     sums[f].r[r]);
    }
}

SPINFER_DEVICE void spinfer_add_sums(spinfer_sums *v, spinfer_sums w)
{
    SPINFER_UNROLL
    for (int i = 0; i < 4; i++) v->row[i] += w.row[i];
}

SPINFER_DEVICE void spinfer_shared_load_sums(uint32_t address, spinfer_sums *v)
{
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v->row[0]), "=f"(v->row[1]), "=f"(v->row[2]), "=f"(v->row[3])
                 : "r"(address)
                 : "memory");
}

SPINFER_DEVICE void spinfer_shared_add_sums(uint32_t address, spinfer_sums *v)
{
    spinfer_sums w;
    spinfer_shared_load_sums(address, &w);
    spinfer_add_sums(v, w);
}

/* The sums of a unit of all teams of a strip, by rising part of K. With wgmma there are at most five teams, and four
 * where it takes longest. */
SPINFER_DEVICE spinfer_sums spinfer_add_teams(const int wide, uint32_t at, uint32_t stride, uint32_t teams)
{
    spinfer_sums sum = {{0.0f, 0.0f, 0.0f, 0.0f}};
    if (wide) {
        spinfer_sums v[3];
        spinfer_shared_load_sums(at, &sum);
        if (teams == 4) {
            SPINFER_UNROLL
            for (uint32_t k = 0; k < 3; k++) spinfer_shared_load_sums(at + (k + 1) * stride, &v[k]);
            SPINFER_UNROLL
            for (int k = 0; k < 3; k++) spinfer_add_sums(&sum, v[k]);
        } else {
            SPINFER_NO_UNROLL
            for (uint32_t k = 1; k < teams; k++) spinfer_shared_add_sums(at + k * stride, &sum);
        }
        return sum;
    }
#pragma unroll 4
    for (uint32_t k = 0; k < teams; k++) spinfer_shared_add_sums(at + k * stride, &sum);
    return sum;
}

/* spinfer_sums_turn() : a unit as fragments have it, with wgmma, to four neighbouring rows of a token for each lane:
 * four lanes have a row each of four sums, and get a sum each of four rows. Through shared memory it would be 0.05 us
 * faster for 3584 x 3584, but 0.3 us slower where three messages are waited for (1024 x 4096, H200). Scope: warp, whose
 * lanes may have come apart: without the barrier each shuffle has a slow way for that, 0.5 us for all (H200). */
SPINFER_DEVICE void spinfer_sums_turn(spinfer_sums *v, uint32_t lane)
{
    __syncwarp();
    SPINFER_UNROLL
    for (int step = 1; step <= 2; step *= 2) {
        const int odd = (lane & (uint32_t)(4 * step)) != 0;
        SPINFER_UNROLL
        for (int i = 0; i < 2; i++) {
            const int   low = step == 1 ? 2 * i : i, high = low + step;
            const float got = __shfl_xor_sync(0xffffffffu, odd ? v->row[low] : v->row[high], 4 * step);
            v->row[low] = odd ? got : v->row[low];
            v->row[high] = odd ? v->row[high] : got;
        }
    }
}

/* spinfer_unit_row(), spinfer_unit_token() : the rows of a strip, the first of four, and the token of the block that a
 * lane has of a complete unit. */
SPINFER_DEVICE uint32_t spinfer_unit_row(const int wide, uint32_t unit, uint32_t lane)
{
    return wide ? unit % 4 * 16 + 4 * (lane / 16 + lane / 8 % 2 * 2) : 4 * (lane % 16);
}
SPINFER_DEVICE uint32_t spinfer_unit_token(const int wide, uint32_t unit, uint32_t lane)
{
    return wide ? unit / 4 * 8 + 2 * (lane % 4) + lane / 4 % 2 : 2 * unit + lane / 16;
}

/* Partial sums travel between blocks through global memory, each float its own message: zero bits say "not there yet",
 * so a sum of +0 is sent as -0, which adds the same. No fence, no counter, no barrier: the reader polls the data,
 * adds it, and leaves zeros for the next launch. On an H200 this takes as long as sums that blocks of a cluster send to
 * each other's shared memory, and it knows no limit on blocks. */
SPINFER_DEVICE void spinfer_global_send_sums(const unsigned char *address, spinfer_sums v)
{
    uint32_t bits[4];
    SPINFER_UNROLL
    for (int i = 0; i < 4; i++) {
        bits[i] = __float_as_uint(v.row[i]);
        if (bits[i] == 0) bits[i] = 0x80000000u;
    }
    asm volatile("st.relaxed.gpu.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(address), "r"(bits[0]), "r"(bits[1]),
                 "r"(bits[2]), "r"(bits[3])
                 : "memory");
}

SPINFER_DEVICE void spinfer_global_clear_sums(const unsigned char *address)
{
    asm volatile("st.relaxed.gpu.global.v4.b32 [%0], {%1, %1, %1, %1};" ::"l"(address), "r"(0) : "memory");
}

SPINFER_DEVICE spinfer_sums spinfer_global_peek_sums(const unsigned char *address)
{
    spinfer_sums v;
    asm volatile("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.row[0]), "=f"(v.row[1]), "=f"(v.row[2]), "=f"(v.row[3])
                 : "l"(address)
                 : "memory");
    return v;
}

SPINFER_DEVICE int spinfer_sums_arrived(spinfer_sums v)
{
    return __float_as_uint(v.row[0]) && __float_as_uint(v.row[1]) && __float_as_uint(v.row[2]) &&
           __float_as_uint(v.row[3]);
}

/* Adds `width` messages (a compile-time constant), `stride` bytes apart, in their order. Asks for all of them until all
 * are there: who waits for them one by one finds each of them a round trip to the L2 too late. To ask for the missing
 * ones only takes about 0.1 us longer, but without it the code for sm_80 would spill. */
SPINFER_DEVICE void spinfer_global_receive(const int width, const unsigned char *from, uint32_t stride,
                                           spinfer_sums *sum)
{
    spinfer_sums v[3] = {};
    int          missing;
    SPINFER_NO_UNROLL
    do {
        SPINFER_UNROLL
        for (int i = 0; i < width; i++)
            if (SPINFER_HAS_BULK_COPY || !spinfer_sums_arrived(v[i]))
                v[i] = spinfer_global_peek_sums(from + (uint32_t)i * stride);
        missing = 0;
        SPINFER_UNROLL
        for (int i = 0; i < width; i++) missing |= !spinfer_sums_arrived(v[i]);
    } while (missing);
    SPINFER_UNROLL
    for (int i = 0; i < width; i++) {
        spinfer_add_sums(sum, v[i]);
        spinfer_global_clear_sums(from + (uint32_t)i * stride);
    }
}

/* Adds `count` messages, three at a time. Seven at a time are 3 to 5 % faster for 1024 x 4096 and up to 2 % slower
 * elsewhere: code that runs once costs by its length (H200). */
SPINFER_DEVICE void spinfer_global_receive_sums(const unsigned char *from, uint32_t count, uint32_t stride,
                                                spinfer_sums *sum)
{
    SPINFER_NO_UNROLL
    for (; count >= 3; count -= 3, from += 3 * stride) spinfer_global_receive(3, from, stride, sum);
    if (count == 2) spinfer_global_receive(2, from, stride, sum);
    if (count == 1) spinfer_global_receive(1, from, stride, sum);
}

/* The first two messages for the next unit of the last sum, asked for before they are needed. Zeros: not there yet, or
 * nobody sends. Layers with helpers or three ranges of K take up to 2.5 % less time with 64 tokens (H200). Asking for
 * four units at once is from 2 % faster to 4 % slower: while they are not there yet, it asks for many bytes. */
typedef struct spinfer_asked {
    spinfer_sums message[2];
} spinfer_asked;

SPINFER_HD int spinfer_asks_ahead(int team, int tokens) { return spinfer_uses_wgmma(team, tokens); }

/* spinfer_global_ask() : of `count` messages, `stride` bytes apart; there may be none. */
SPINFER_DEVICE void spinfer_global_ask(spinfer_asked *asked, const unsigned char *from, uint32_t count, uint32_t stride)
{
    SPINFER_UNROLL
    for (int i = 0; i < 2; i++)
        asm volatile("{ .reg .pred sent; setp.gt.u32 sent, %5, %6;\n"
                     "@sent ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4]; }"
                     : "+f"(asked->message[i].row[0]), "+f"(asked->message[i].row[1]), "+f"(asked->message[i].row[2]),
                       "+f"(asked->message[i].row[3])
                     : "l"(from + (uint32_t)i * stride), "r"(count), "r"(i)
                     : "memory");
}

/* spinfer_global_arrived() : are they here, those of `count` that were asked for, at least one? Scope: warp. */
SPINFER_DEVICE int spinfer_global_arrived(const spinfer_asked *asked, uint32_t count)
{
    return __all_sync(0xffffffffu, spinfer_sums_arrived(asked->message[0]) &&
                                       (count < 2 || spinfer_sums_arrived(asked->message[1])));
}

/* spinfer_global_take() : adds `count` messages, the first of which have been asked for. Scope: warp. */
SPINFER_DEVICE void spinfer_global_take(spinfer_asked asked, const unsigned char *from, uint32_t count, uint32_t stride,
                                        spinfer_sums *sum)
{
    if (spinfer_global_arrived(&asked, count)) {
        SPINFER_UNROLL
        for (uint32_t i = 0; i < 2; i++) {
            if (count == 0) break;
            spinfer_add_sums(sum, asked.message[i]);
            spinfer_global_clear_sums(from);
            from += stride, count--;
        }
    }
    spinfer_global_receive_sums(from, count, stride, sum);
}

/* spinfer_helping() : teams of helpers that had a part of the tail of a strip. */
SPINFER_DEVICE uint32_t spinfer_helping(const int n_frags, const spinfer_spmm_args *args, uint32_t strip)
{
    const uint32_t begin = strip * (uint32_t)args->plan.tail, end = begin + (uint32_t)args->plan.tail;
    if (!spinfer_may_help(8 * n_frags) || !args->plan.helpers) return 0;
    return spinfer_divide_by_share(args, end - 1) - spinfer_divide_by_share(args, begin) + 1;
}

/* Of section 9. */
SPINFER_DEVICE spinfer_epilogue spinfer_epilogue_bias, spinfer_epilogue_gelu, spinfer_epilogue_silu,
    spinfer_epilogue_swiglu;

/* spinfer_epilogue_ask() : fetches what an epilogue that takes a spinfer_fused will read for these rows and this token,
 * while the sums are on their way: saves 0.7 to 1.5 % with a residual (H200). What other epilogues read is not known
 * here. Twins do not call it yet. */
SPINFER_DEVICE void spinfer_epilogue_ask(spinfer_epilogue *const epilogue, const spinfer_spmm_args *args, uint32_t row,
                                         uint32_t token)
{
    const spinfer_fused *fused = (const spinfer_fused *)args->user;
    const int            pairs = epilogue == spinfer_epilogue_swiglu;
    if (!pairs && epilogue != spinfer_epilogue_bias && epilogue != spinfer_epilogue_gelu &&
        epilogue != spinfer_epilogue_silu)
        return;
    if (row >= args->W.rows || token >= args->n) return;
    if (fused->bias) spinfer_prefetch((const uint16_t *)fused->bias + row);
    if (args->beta != 0.0f)
        spinfer_prefetch((const uint16_t *)fused->residual + token * fused->ldr + (pairs ? row / 2 : row));
}

/* spinfer_block_units() : units of the calling warp's strip that are in Y. */
SPINFER_DEVICE uint32_t spinfer_block_units(const int wide, const int n_frags, const spinfer_spmm_args *args,
                                            const spinfer_block *block)
{
    const uint32_t strip = block->row_group * (uint32_t)args->plan.strips + block->strip;
    if (strip * SPINFER_GROUP_ROWS >= args->W.rows) return 0;
    return spinfer_units(wide, spinfer_min(args->n - block->token, (uint32_t)(8 * n_frags)));
}

/* spinfer_finish() : a complete unit of the calling warp's strip to the epilogue. Scope: warp. */
SPINFER_DEVICE void spinfer_finish(const spinfer_dtype dtype, const int wide, spinfer_epilogue *const epilogue,
                                   const spinfer_spmm_args *args, const spinfer_block *block, uint32_t unit,
                                   spinfer_sums sum, uint32_t lane)
{
    const uint32_t strip = block->row_group * (uint32_t)args->plan.strips + block->strip;
    const uint32_t row = strip * SPINFER_GROUP_ROWS + spinfer_unit_row(wide, unit, lane);
    uint32_t       column = block->token + spinfer_unit_token(wide, unit, lane);
    if (wide)
        spinfer_sums_turn(&sum, lane);
    else
        column = spinfer_pin(column, lane); /* not computed before the main loop */
    if (column < args->n && row < args->W.rows) epilogue(dtype, args, row, column, sum);
}

/* spinfer_reduce_twins() : spinfer_reduce() for twins (FIG 8a). First come the twin's units, then those of the block
 * itself, from the other end of the warps, so that few warps have both. */
SPINFER_DEVICE void spinfer_reduce_twins(const spinfer_dtype dtype, const int team_warps, const int n_frags,
                                         spinfer_epilogue *const epilogue, const spinfer_frag_c *sums,
                                         const spinfer_spmm_args *args, const spinfer_block *block, uint32_t smem,
                                         uint32_t lane)
{
    const spinfer_plan *plan = &args->plan;
    const uint32_t warps_k = (uint32_t)plan->warps_k, splits = (uint32_t)plan->splits, strips = (uint32_t)plan->strips;
    const uint32_t warps = warps_k * (uint32_t)team_warps, warp = block->part * (uint32_t)team_warps + block->member;
    const uint32_t stride = args->layout.sums,
                   sums_of_strip = smem + args->layout.rings + block->strip * warps_k * stride;
    const uint32_t strip = block->row_group * strips + block->strip; /* of W */
    const uint32_t rank = spinfer_twin_rank(args, block), barriers = smem + args->layout.twin;
    /* The place of the first message for who finishes and, without helpers, how many there are. */
    const uint32_t slot = splits % 2 ? 1 : splits / 2, others = splits % 2 ? splits - 2 : splits / 2 - 1;
    spinfer_cluster_wait(); /* both have made their barriers: long ago, so nobody waits here */
    const uint32_t twin_barriers = spinfer_cluster_address(barriers, 1 - rank);
    __syncwarp(); /* all lanes have left their stage and X, over which the twin may write now */
    if (lane == 0) spinfer_cluster_signal(twin_barriers);
    if (team_warps > 1 || stride > (uint32_t)plan->stages * args->layout.stage)
        __syncthreads(); /* all warps have left their stages and X */
    const int wide = spinfer_uses_wgmma(team_warps, 8 * n_frags);
    spinfer_sums_store(team_warps, n_frags, sums, sums_of_strip + block->part * stride, block->member, lane);
    const int      ahead = spinfer_asks_ahead(team_warps, 8 * n_frags);
    const uint32_t units = spinfer_block_units(wide, n_frags, args, block), message = spinfer_messages_bytes(n_frags);
    const uint32_t mail = args->layout.mail + spinfer_twin_mail(8 * n_frags, block->strip, 0) + 16 * lane;
    const uint32_t at = sums_of_strip + spinfer_unit_place(wide, lane);
    const uint32_t last = warps - 1 - warp, first = spinfer_twin_unit(last, rank);
    const unsigned char *messages = NULL; /* for the next unit, from the ranges of K and then from helpers */
    uint32_t             senders = 0;
    spinfer_asked        asked = {};
    if (ahead && args->senders > 1 && spinfer_finishes(args, block)) {
        senders = spinfer_pin(others + spinfer_helping(n_frags, args, strip), 0);
        messages = spinfer_messages(n_frags, args, block, strip, slot) + 512 * first + 16 * lane;
    }
    __syncthreads();                    /* the sums of all warps are visible, and the kernel's own memory */
    spinfer_mbarrier_wait(barriers, 0); /* also who sends nothing: its twin's signals must find it here */
    if (senders) spinfer_global_ask(&asked, messages, first < units ? senders : 0, message);
    uint32_t unit = spinfer_twin_unit(warp, 1 - rank), to = twin_barriers - args->layout.twin + mail + 512 * warp;
    SPINFER_NO_UNROLL
    for (; unit < units; unit += 2 * warps, to += 512 * warps) {
        const spinfer_sums sum = spinfer_add_teams(wide, at + unit * spinfer_unit_bytes(wide), stride, warps_k);
        spinfer_cluster_store(to, sum.row, twin_barriers + 8);
    }
    if (plan->helpers && senders && !spinfer_global_arrived(&asked, senders)) /* once more, before it waits */
        spinfer_global_ask(&asked, messages, first < units ? senders : 0, message);
    uint32_t from = smem + mail + 512 * last;
    SPINFER_NO_UNROLL
    for (unit = first; unit < units; unit += 2 * warps, from += 512 * warps) {
        const uint32_t place = unit * spinfer_unit_bytes(wide);
        spinfer_sums   sum = spinfer_add_teams(wide, at + place, stride, warps_k), before = {{0.0f, 0.0f, 0.0f, 0.0f}};
        spinfer_mbarrier_wait(barriers + 8, 0);
        spinfer_shared_add_sums(from, &sum);
        if (!spinfer_finishes(args, block)) { /* the last messages of the ranges, before those of helpers */
            spinfer_global_send_sums(spinfer_messages(n_frags, args, block, strip, (splits + block->split) / 2) +
                                         512 * unit + 16 * lane,
                                     sum);
            continue;
        }
        if (ahead && senders) {
            const spinfer_asked now = asked;
            spinfer_global_ask(&asked, messages + 1024 * warps, unit + 2 * warps < units ? senders : 0, message);
            spinfer_global_take(now, messages, senders, message, &before);
            spinfer_add_sums(&sum, before);
            messages += 1024 * warps;
        } else if (!ahead && (splits > 2 || (spinfer_may_help(8 * n_frags) && plan->helpers))) {
            spinfer_global_receive_sums(spinfer_messages(n_frags, args, block, strip, slot) + 512 * unit + 16 * lane,
                                        others + spinfer_helping(n_frags, args, strip), message, &before);
            spinfer_add_sums(&sum, before);
        }
        spinfer_finish(dtype, wide, epilogue, args, block, unit, sum, lane);
    }
}

/* spinfer_reduce() : adds the sums of the warps of a strip, then those of the splits, in the order of K, and of
 * helpers; calls the epilogue. The warps of a strip take its units (spinfer_unit_bytes()) in turn. The block of the
 * last range of K receives what the others send. It waits only for its twin, which starts with it, and for blocks that
 * come before it in the grid: the hardware starts them in that order, CUDA does not promise it. Scope: block, with a
 * __syncthreads() that publishes the sums, and with them what the kernel has written into shared memory of its own. */
SPINFER_DEVICE void spinfer_reduce(const spinfer_dtype dtype, const int team_warps, const int n_frags,
                                   spinfer_epilogue *const epilogue, const spinfer_frag_c *sums,
                                   const spinfer_spmm_args *args, const spinfer_block *block, uint32_t smem,
                                   uint32_t lane)
{
    if (spinfer_is_twin(n_frags, args, block)) {
        spinfer_reduce_twins(dtype, team_warps, n_frags, epilogue, sums, args, block, smem, lane);
        return;
    }
    const spinfer_plan *plan = &args->plan;
    const uint32_t warps_k = (uint32_t)plan->warps_k, splits = (uint32_t)plan->splits, strips = (uint32_t)plan->strips;
    const uint32_t warps = warps_k * (uint32_t)team_warps, warp = block->part * (uint32_t)team_warps + block->member;
    const uint32_t stride = args->layout.sums,
                   sums_of_strip = smem + args->layout.rings + block->strip * warps_k * stride;
    const uint32_t       strip = block->row_group * strips + block->strip; /* of W */
    const int            wide = spinfer_uses_wgmma(team_warps, 8 * n_frags), last = block->split + 1 == splits;
    const uint32_t       units = spinfer_block_units(wide, n_frags, args, block);
    const uint32_t       ahead_of_twins = spinfer_may_twin(8 * n_frags) && args->twins; /* who sends to two blocks */
    const unsigned char *messages =
        spinfer_messages(n_frags, args, block, strip, last ? 0 : block->split + ahead_of_twins) + 16 * lane;
    const uint32_t senders = splits - 1 + spinfer_helping(n_frags, args, strip);

    if (last) {
        SPINFER_NO_UNROLL
        for (uint32_t unit = warp; unit < units; unit += warps)
            spinfer_epilogue_ask(epilogue, args, strip * SPINFER_GROUP_ROWS + spinfer_unit_row(wide, unit, lane),
                                 block->token + spinfer_unit_token(wide, unit, lane));
    }
    if (team_warps > 1 || stride > (uint32_t)plan->stages * args->layout.stage)
        __syncthreads(); /* all warps have left their stages and X */
    spinfer_sums_store(team_warps, n_frags, sums, sums_of_strip + block->part * stride, block->member, lane);
    __syncthreads(); /* the sums of all warps are visible, and the kernel's own memory */
    const int      ahead = spinfer_asks_ahead(team_warps, 8 * n_frags);
    const uint32_t message = spinfer_messages_bytes(n_frags), at = sums_of_strip + spinfer_unit_place(wide, lane);
    if (ahead && !last) { /* two units at a time, because somebody waits: 1 % of 5120 x 5120 (H200) */
#pragma unroll 2
        for (uint32_t unit = warp; unit < units; unit += warps)
            spinfer_global_send_sums(messages + 512 * unit,
                                     spinfer_add_teams(wide, at + unit * spinfer_unit_bytes(wide), stride, warps_k));
        return;
    }
    spinfer_asked asked = {};
    if (ahead) spinfer_global_ask(&asked, messages + 512 * warp, warp < units ? senders : 0, message);
    SPINFER_NO_UNROLL
    for (uint32_t unit = warp; unit < units; unit += warps) {
        const uint32_t     place = unit * spinfer_unit_bytes(wide);
        const spinfer_sums sum = spinfer_add_teams(wide, at + place, stride, warps_k);
        if (!ahead && !last) {
            spinfer_global_send_sums(messages + 512 * unit, sum);
        } else {
            const uint32_t      next = unit + warps;
            const spinfer_asked now = asked;
            spinfer_sums        before = {{0.0f, 0.0f, 0.0f, 0.0f}};
            if (ahead) {
                spinfer_global_ask(&asked, messages + 512 * next, next < units ? senders : 0, message);
                spinfer_global_take(now, messages + 512 * unit, senders, message, &before);
            } else {
                spinfer_global_receive_sums(messages + 512 * unit, senders, message, &before);
            }
            spinfer_add_sums(&before, sum);
            spinfer_finish(dtype, wide, epilogue, args, block, unit, before, lane);
        }
    }
}

/* spinfer_help() : in a helper (FIG 8b) does all that there is to do, and returns 1; in other blocks 0. Scope: block,
 * with a __syncthreads(). Arguments as for spinfer_block_multiply(). */
SPINFER_DEVICE int spinfer_help(const spinfer_dtype dtype, const int team_warps, const int n_frags,
                                spinfer_frag_c *sums, spinfer_frag_b *x_frags, const spinfer_spmm_args *args,
                                const spinfer_block *block, uint32_t smem, uint32_t lane)
{
    const spinfer_plan *plan = &args->plan;
    const uint32_t      tail = (uint32_t)plan->tail, warps_k = (uint32_t)plan->warps_k;
    const uint32_t      warp = (block->strip * warps_k + block->part) * (uint32_t)team_warps + block->member;
    spinfer_block       own = *block;
    spinfer_ring        ring;
    /* row_group of a helper is below 0. Expected, so that this code comes last: otherwise 32 tokens spill. */
    if (!spinfer_may_help(8 * n_frags) || __builtin_expect((int)block->row_group >= 0, 1)) return 0;
    own.k_begin = args->k_cols;
    own.cols = tail;
    spinfer_block_open(team_warps, 1, &ring, args, &own, smem, lane);
    spinfer_ring_keep(&ring);
    const int            wide = spinfer_uses_wgmma(team_warps, 8 * n_frags), idle = ring.col >= ring.cols;
    const uint32_t       table = smem + args->layout.tables + SPINFER_TABLE * warp;
    uint32_t             left = 0, piece = 0; /* columns of the strip; piece of X that is not yet there */
    const unsigned char *to = NULL;
    spinfer_lane         l;
    if (wide) {
        left = tail - (ring.col - spinfer_divide_by_tail(args, ring.col) * tail);
        to = spinfer_helper_messages(team_warps, n_frags, args, ring.col); /* while it waits */
        l = spinfer_lane_init_pairs(team_warps, table, block->member, lane);
        if (!idle) spinfer_scan_stage(team_warps, spinfer_ring_wait(team_warps, &ring, lane), &l);
    }
    /* X of the tail remains when it is there. With wgmma the first stage waits for what it needs, the second one for
     * all of it; who has nothing to do waits, too: when the block ends, its shared memory may be another's. */
    SPINFER_NO_UNROLL
    for (; piece * args->layout.x_cols < (wide && !idle ? tail - left + 1 : tail); piece++)
        spinfer_mbarrier_wait(smem + args->layout.x_full + 8 * piece, 0);
    if (idle) return 1;
    if (wide && !args->x_tensor) spinfer_bulk_fence();
    spinfer_sums_clear(team_warps, n_frags, sums);
    if (!wide) { /* here, and by a division: otherwise code for 64 tokens would spill */
        left = tail - ring.col % tail;
        l = spinfer_lane_init(team_warps, table, block->member, lane);
        spinfer_scan_stage(team_warps, spinfer_ring_wait(team_warps, &ring, lane), &l);
    }
    const uint32_t x_lane = wide ? smem + args->layout.x : spinfer_x_lane(smem + args->layout.x, lane);
    __syncwarp();                     /* the table is complete */
    l.lane = spinfer_pin(lane, lane); /* what has been computed from it is not kept: with 32 tokens it would spill */
    if (team_warps == 1) l.tile = l.lane / 4;
    SPINFER_NO_UNROLL
    while (ring.col < ring.cols) {
        const uint32_t count = spinfer_ring_records(team_warps, &ring);
        const uint32_t x = spinfer_x_at(team_warps, n_frags, x_lane, tail - left);
        if (wide)
            spinfer_wgmma_and_scan(dtype, team_warps, (int)block->abreast, sums, &l, count, x, &ring);
        else
            spinfer_multiply_and_scan(dtype, team_warps, n_frags, sums, x_frags, &l, count, x, &ring);
        spinfer_ring_release(team_warps, &ring, lane);
        left -= (uint32_t)team_warps;
        SPINFER_NO_UNROLL
        for (; wide && piece * args->layout.x_cols < tail; piece++) {
            spinfer_mbarrier_wait(smem + args->layout.x_full + 8 * piece, 0);
            if (!args->x_tensor) spinfer_bulk_fence();
        }
        if (left == 0 || ring.col >= ring.cols) {
            if (wide)
                spinfer_wgmma_wait(0);
            else
                to = spinfer_helper_messages(team_warps, n_frags, args, ring.col - 1);
            spinfer_global_send_frags(team_warps, n_frags, sums, args, to);
            spinfer_sums_clear(team_warps, n_frags, sums);
            left = tail;
            if (wide) to = spinfer_helper_messages(team_warps, n_frags, args, ring.col);
        }
    }
    if (wide) spinfer_wgmma_wait(0); /* nothing is under way here, but the compiler does not know */
    return 1;
}

#endif /* __CUDA_ARCH__ */

#ifdef __CUDACC__

/* spinfer_spmm_block() : the whole kernel. The stamp declares the arrays, whose sizes must be literals. Threads are
 * (lane, part of K, strip), blocks are (row group, tokens, split), so that no one divides to find its place. */
SPINFER_DEVICE void spinfer_spmm_block(const spinfer_dtype dtype, const int team_warps, const int n_frags,
                                       const int max_warps, spinfer_epilogue *const epilogue, spinfer_frag_c *sums,
                                       spinfer_frag_b *x_frags, const spinfer_spmm_args *args, const void *smem_pointer,
                                       uint3 thread, uint3 index, uint32_t row_groups)
{
#ifdef __CUDA_ARCH__
    const int      wide = spinfer_uses_wgmma(team_warps, 8 * n_frags), may_twin = spinfer_may_twin(8 * n_frags);
    const uint32_t smem = spinfer_shared_address(smem_pointer), lane = spinfer_pin(thread.x, thread.x);
    spinfer_block  block;
    spinfer_ring   ring;
    if (wide && __builtin_expect(index.x < (uint32_t)args->plan.helpers, 0)) { /* without the range of a block */
        block = spinfer_block_at(team_warps, 0, 1, args, thread, index, row_groups);
        block.abreast = max_warps <= 16 ? 2 : 1;
        spinfer_help(dtype, team_warps, n_frags, sums, x_frags, args, &block, smem, lane);
        return;
    }
    block = spinfer_block_at(team_warps, may_twin, 0, args, thread, index, row_groups);
    block.abreast = max_warps <= 16 ? 2 : 1;
    if (!wide && spinfer_help(dtype, team_warps, n_frags, sums, x_frags, args, &block, smem, lane)) return;
    spinfer_block_start(team_warps, &ring, args, &block, smem, lane);
    spinfer_block_multiply(dtype, team_warps, n_frags, sums, x_frags, &ring, args, &block, smem, lane);
    spinfer_reduce(dtype, team_warps, n_frags, epilogue, sums, args, &block, smem, spinfer_lane_anew());
#endif
}

#endif /* __CUDACC__ */

/* ---- 9. Epilogues and kernel stamps ----------------------------------------------------------
 *
 * An epilogue stores what is made of finished sums. Write your own like this, no edit of this file is needed:
 *
 *     SPINFER_DEVICE void clip(const spinfer_dtype dtype, const spinfer_spmm_args *args, uint32_t row, uint32_t token,
 *                              spinfer_sums sum)
 *     {
 *         const float *limit = (const float *)args->user;                      // what the launch was given
 *         for (int i = 0; i < 4; i++) sum.row[i] = fminf(args->alpha * sum.row[i], *limit);
 *         spinfer_store_rows(dtype, 4, args->Y + token * args->ldy + row, spinfer_rows_left(args, row), sum);
 *     }
 *     SPINFER_DEFINE_SPMM_KERNELS(clipped, SPINFER_FP16, clip);
 *
 *   dtype        in   of W, X and Y, a compile-time constant: branches on it cost nothing
 *   args         in   alpha, beta, n, Y, ldy, W.rows, and in user[] the bytes of the launch, 8-byte aligned
 *   row, token   in   row is a multiple of 4, row < W.rows and token < n
 *   sum          in   sums of rows row .. row + 3 of this token; those from W.rows on are padding
 *
 *   Calls        once for every sum, in a block of the last range of K, or of the last two (spinfer_finishes()). Of a
 *                warp, lanes 0..15 have 64 neighbouring rows of one token, lanes 16..31 of the next token; with wgmma
 *                (spinfer_uses_wgmma()) 32 lanes have 16 neighbouring rows of eight tokens. Lanes without a row or
 *                token are not there, so use no shuffle and no barrier without asking who is.
 *   Order        64-bit arithmetic for addresses: token * args->ldy is 64-bit because ldy is
 *   Memory       no __shared__ arrays, neither here nor in a kernel of your own: the dynamic part must start where
 *                shared memory starts. Own memory is own_bytes of a spinfer_kernel (section 8). */

#ifdef __CUDACC__

/* spinfer_widen(), spinfer_narrow() : 16 bits to fp32 and back, to nearest even. */
SPINFER_DEVICE float spinfer_widen(const spinfer_dtype dtype, uint16_t bits)
{
    float value;
    if (dtype == SPINFER_BF16)
        value = __uint_as_float((uint32_t)bits << 16);
    else
        asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
SPINFER_DEVICE uint16_t spinfer_narrow(const spinfer_dtype dtype, float value)
{
    uint16_t bits;
    if (dtype == SPINFER_BF16)
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    else
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

/* spinfer_rows_left() : how many of the four rows from `row` on are rows of W, 1..4. */
SPINFER_DEVICE uint32_t spinfer_rows_left(const spinfer_spmm_args *args, uint32_t row)
{
    return args->W.rows - row < 4 ? args->W.rows - row : 4;
}

/* spinfer_load_rows() : `count` neighbouring 16-bit values in global memory as fp32, zeros for the rest of the four.
 * One by one: for a load of all four at once the kernels lack a register. */
SPINFER_DEVICE spinfer_sums spinfer_load_rows(const spinfer_dtype dtype, const uint16_t *from, uint32_t count)
{
    spinfer_sums v;
    SPINFER_UNROLL
    for (uint32_t i = 0; i < 4; i++) v.row[i] = i < count ? spinfer_widen(dtype, from[i]) : 0.0f;
    return v;
}

/* spinfer_store_rows() : the first `count` of `width` values (2 or 4, a compile-time constant) as neighbouring 16-bit
 * values. One store if count == width and `to` is aligned to 2 * width bytes. */
SPINFER_DEVICE void spinfer_store_rows(const spinfer_dtype dtype, const int width, uint16_t *to, uint32_t count,
                                       spinfer_sums v)
{
    uint16_t bits[4];
    SPINFER_UNROLL
    for (int i = 0; i < width; i++) bits[i] = spinfer_narrow(dtype, v.row[i]);
    if (count == (uint32_t)width && (uint64_t)to % (2 * (uint64_t)width) == 0) {
        if (width == 4)
            asm volatile("st.global.v4.u16 [%0], {%1, %2, %3, %4};" ::"l"(to), "h"(bits[0]), "h"(bits[1]), "h"(bits[2]),
                         "h"(bits[3])
                         : "memory");
        else
            asm volatile("st.global.v2.u16 [%0], {%1, %2};" ::"l"(to), "h"(bits[0]), "h"(bits[1]) : "memory");
        return;
    }
    SPINFER_UNROLL
    for (int i = 0; i < width; i++)
        if ((uint32_t)i < count) to[i] = bits[i];
}

/* spinfer_silu() : x / (1 + exp(-x)).
 * spinfer_gelu() : the tanh form, x / 2 * (1 + tanh(u)) with u = sqrt(2 / pi) (x + 0.044715 x^3), which is
 *                  x / (1 + exp(-2u)); up to 5e-4 off the form with the error function.
 * Both by the GPU's approximations of exp and division: the relative error stays below (8 + 5 |a|) 2^-23 for the
 * argument a of exp; beyond |a| = 87 the result is x or 0. */
SPINFER_DEVICE float spinfer_silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }
SPINFER_DEVICE float spinfer_gelu(float x)
{
    return __fdividef(x, 1.0f + __expf(-1.595769122f * (x + 0.044715f * x * x * x)));
}

/* spinfer_epilogue_scale() : Y = alpha sum + beta Y. That of spinfer_spmm(). */
SPINFER_DEVICE void spinfer_epilogue_scale(const spinfer_dtype dtype, const spinfer_spmm_args *args, uint32_t row,
                                           uint32_t token, spinfer_sums sum)
{
    const uint32_t count = spinfer_rows_left(args, row);
    uint16_t      *y = args->Y + token * args->ldy + row;
    spinfer_sums   old;
    SPINFER_UNROLL
    for (int i = 0; i < 4; i++) sum.row[i] *= args->alpha;
    if (args->beta != 0.0f) {
        old = spinfer_load_rows(dtype, y, count);
        SPINFER_UNROLL
        for (int i = 0; i < 4; i++) sum.row[i] += args->beta * old.row[i];
    }
    spinfer_store_rows(dtype, 4, y, count, sum);
}

/* alpha sum + bias, for the epilogues that take a spinfer_fused. */
SPINFER_DEVICE void spinfer_add_bias(const spinfer_dtype dtype, const spinfer_spmm_args *args, uint32_t row,
                                     spinfer_sums *sum)
{
    const spinfer_fused *fused = (const spinfer_fused *)args->user;
    spinfer_sums         bias = {{0.0f, 0.0f, 0.0f, 0.0f}};
    if (fused->bias) bias = spinfer_load_rows(dtype, (const uint16_t *)fused->bias + row, spinfer_rows_left(args, row));
    SPINFER_UNROLL
    for (int i = 0; i < 4; i++) sum->row[i] = args->alpha * sum->row[i] + bias.row[i];
}

/* Y = value + beta R for `width` rows from `row` on, of which Y and R have `count`. */
SPINFER_DEVICE void spinfer_store_fused(const spinfer_dtype dtype, const int width, const spinfer_spmm_args *args,
                                        uint32_t row, uint32_t token, uint32_t count, spinfer_sums value)
{
    const spinfer_fused *fused = (const spinfer_fused *)args->user;
    if (args->beta != 0.0f) {
        const uint16_t    *from = (const uint16_t *)fused->residual + token * fused->ldr + row;
        const spinfer_sums r = spinfer_load_rows(dtype, from, count);
        SPINFER_UNROLL
        for (int i = 0; i < width; i++) value.row[i] += args->beta * r.row[i];
    }
    spinfer_store_rows(dtype, width, args->Y + token * args->ldy + row, count, value);
}

/* spinfer_epilogue_bias()   Y = alpha sum + bias + beta R
 * spinfer_epilogue_gelu()   Y = gelu(alpha sum + bias) + beta R, the tanh form
 * spinfer_epilogue_silu()   Y = silu(alpha sum + bias) + beta R
 *
 * They take a spinfer_fused. R may be Y itself. */
SPINFER_DEVICE void spinfer_epilogue_bias(const spinfer_dtype dtype, const spinfer_spmm_args *args, uint32_t row,
                                          uint32_t token, spinfer_sums sum)
{
    spinfer_add_bias(dtype, args, row, &sum);
    spinfer_store_fused(dtype, 4, args, row, token, spinfer_rows_left(args, row), sum);
}

SPINFER_DEVICE void spinfer_epilogue_gelu(const spinfer_dtype dtype, const spinfer_spmm_args *args, uint32_t row,
                                          uint32_t token, spinfer_sums sum)
{
    spinfer_add_bias(dtype, args, row, &sum);
    SPINFER_UNROLL
    for (int i = 0; i < 4; i++) sum.row[i] = spinfer_gelu(sum.row[i]);
    spinfer_store_fused(dtype, 4, args, row, token, spinfer_rows_left(args, row), sum);
}

SPINFER_DEVICE void spinfer_epilogue_silu(const spinfer_dtype dtype, const spinfer_spmm_args *args, uint32_t row,
                                          uint32_t token, spinfer_sums sum)
{
    spinfer_add_bias(dtype, args, row, &sum);
    SPINFER_UNROLL
    for (int i = 0; i < 4; i++) sum.row[i] = spinfer_silu(sum.row[i]);
    spinfer_store_fused(dtype, 4, args, row, token, spinfer_rows_left(args, row), sum);
}

/* spinfer_epilogue_swiglu() : Y = silu(gate) * up + beta R, where gate and up = alpha sum + bias of W's even and odd
 * rows: row 2i of W is row i of the gate weight, row 2i + 1 that of the up weight, and W has twice as many rows as Y
 * and R. So a lane has both factors, and a piece of W for one GPU of several holds both, too.
 *
 * From a gate and an up weight [M, K] that are encoded already: spinfer_decode() or spinfer_decompress_device() write
 * gate to dense and up to dense + K, both with ld = 2K; then encode dense as [2M, K]. */
SPINFER_DEVICE void spinfer_epilogue_swiglu(const spinfer_dtype dtype, const spinfer_spmm_args *args, uint32_t row,
                                            uint32_t token, spinfer_sums sum)
{
    spinfer_sums value = {{0.0f, 0.0f, 0.0f, 0.0f}};
    spinfer_add_bias(dtype, args, row, &sum);
    SPINFER_UNROLL
    for (int i = 0; i < 2; i++) value.row[i] = spinfer_silu(sum.row[2 * i]) * sum.row[2 * i + 1];
    spinfer_store_fused(dtype, 2, args, row / 2, token, spinfer_rows_left(args, row) / 2, value);
}

extern __shared__ __align__(1024) unsigned char spinfer_smem_bytes[]; /* boxes of X: spinfer_x_place() */

/* Most warps of a block. Only Hopper has the shared memory, and its compiler the registers, for all of them. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ != 900
#define SPINFER_BLOCK_WARPS(max_warps) ((max_warps) < 16 ? (max_warps) : 16)
#else
#define SPINFER_BLOCK_WARPS(max_warps) (max_warps)
#endif

/* Is there code for this kernel? One that uses wgmma is empty where there is no wgmma, and for one warp only: by that
 * the host knows it. */
#if defined(__CUDA_ARCH__) && !SPINFER_HAS_WGMMA
#define SPINFER_HAS_CODE(TEAM, N_FRAGS) ((TEAM) != 4 || (N_FRAGS) != 8) /* spinfer_uses_wgmma() */
#else
#define SPINFER_HAS_CODE(TEAM, N_FRAGS) 1
#endif
#define SPINFER_BLOCK_THREADS(TEAM, N_FRAGS, MAX_WARPS)                                                                \
    (SPINFER_HAS_CODE(TEAM, N_FRAGS) ? 32 * SPINFER_BLOCK_WARPS(MAX_WARPS) : 32)

/* What a kernel of your own must keep to. A lane needs some 36 registers besides its sums. */
#define SPINFER_CHECK_KERNEL(TEAM, N_FRAGS, MAX_WARPS)                                                                 \
    static_assert((TEAM) == 1 || (TEAM) == 2 || (TEAM) == 4, "TEAM: 1, 2 or 4 warps share a buffer");                  \
    static_assert((N_FRAGS) >= 1 && (N_FRAGS) <= 8, "N_FRAGS: 1 to 8 fragments of 8 tokens");                          \
    static_assert((N_FRAGS) < 8 || (TEAM) > 1, "N_FRAGS: 8 is made for a TEAM of 2, or with wgmma of 4");              \
    static_assert((MAX_WARPS) >= (TEAM) && (MAX_WARPS) <= 32, "MAX_WARPS: TEAM to 32 warps in a block");               \
    static_assert((MAX_WARPS) % (TEAM) == 0, "MAX_WARPS: whole teams");                                                \
    static_assert((TEAM) != 4 || (N_FRAGS) != 8 || (MAX_WARPS) <= 20, "MAX_WARPS: up to 20 with wgmma");               \
    static_assert(16 / (TEAM) * (N_FRAGS) + 36 <= 2048 / (MAX_WARPS) / 8 * 8,                                          \
                  "registers: 16 / TEAM * N_FRAGS sums and 36 others exceed 2048 / MAX_WARPS")

/* What the host knows of them. */
#ifdef __CUDACC_RTC__
#define SPINFER_DESCRIBE_KERNEL(name, DTYPE, TEAM, N_FRAGS, MAX_WARPS) static_assert(1, "for the host")
#define SPINFER_LIST_KERNELS(name) static_assert(1, "for the host")
#else
#define SPINFER_DESCRIBE_KERNEL(name, DTYPE, TEAM, N_FRAGS, MAX_WARPS)                                                 \
    static const spinfer_kernel name##_info = {(const void *)name, DTYPE, 8 * (N_FRAGS), TEAM,                         \
                                               MAX_WARPS,          0,     (N_FRAGS) >= 4}
#define SPINFER_LIST_KERNELS(name)                                                                                     \
    static const spinfer_kernel name[SPINFER_KERNELS] = {                                                              \
        name##_n8_info,  name##_n16_20_info,    name##_n16_info,       name##_n32_info,                                \
        name##_n64_info, name##_n64_wgmma_info, name##_n64_wgmma5_info}
#endif

/* SPINFER_DEFINE_SPMM_KERNEL() : a kernel `name` for 8 * N_FRAGS tokens and blocks of up to MAX_WARPS warps, and on the
 * host `name_info`, its spinfer_kernel. At file scope of a .cu file; SPINFER_IMPLEMENTATION is not needed there.
 *
 *   DTYPE       SPINFER_FP16 or SPINFER_BF16
 *   TEAM        1, 2 or 4 warps that share a buffer and split its 64 rows: more of them leave a warp fewer sums
 *   N_FRAGS     1 to 8 fragments of 8 tokens. 8 with a TEAM of 2, or of 4: then it uses wgmma, and exists in code for
 *               sm_90a only (nvcc -gencode arch=compute_90a,code=sm_90a); elsewhere its launch is refused, ARCH.
 *   MAX_WARPS   bounds the registers of a thread: 2048 / MAX_WARPS. GPUs other than sm_90 use at most 16. With wgmma,
 *               16 or less are enough registers to decode two records at a time.
 *   EPILOGUE    a function as above */
#define SPINFER_DEFINE_SPMM_KERNEL(name, DTYPE, TEAM, N_FRAGS, MAX_WARPS, EPILOGUE)                                    \
    SPINFER_KERNEL void __launch_bounds__(SPINFER_BLOCK_THREADS(TEAM, N_FRAGS, MAX_WARPS), 1)                          \
        name(const __grid_constant__ spinfer_spmm_args args)                                                           \
    {                                                                                                                  \
        spinfer_frag_c sums[4 / (TEAM) * (N_FRAGS)];                                                                   \
        spinfer_frag_b x_frags[N_FRAGS];                                                                               \
        if (SPINFER_HAS_CODE(TEAM, N_FRAGS))                                                                           \
            spinfer_spmm_block(DTYPE, TEAM, N_FRAGS, MAX_WARPS, EPILOGUE, sums, x_frags, &args, spinfer_smem_bytes,    \
                               threadIdx, blockIdx, gridDim.x);                                                        \
    }                                                                                                                  \
    SPINFER_DESCRIBE_KERNEL(name, DTYPE, TEAM, N_FRAGS, MAX_WARPS);                                                    \
    SPINFER_CHECK_KERNEL(TEAM, N_FRAGS, MAX_WARPS)

/* SPINFER_DEFINE_SPMM_KERNELS() : kernels name_n8, name_n16_20, name_n16, name_n32, name_n64, name_n64_wgmma and
 * name_n64_wgmma5, and on the host `name`, an array of SPINFER_KERNELS spinfer_kernel. The shapes that the library
 * itself uses; their threads have 72, 96, 72, 128, 128, 128 and 96 registers. Of kernels that differ in MAX_WARPS only,
 * the first one that has room for a plan is taken: with 16 tokens 20 warps of 96 registers are 1 to 2 % faster than the
 * same 20 of 72 (with 8 they are not), and without the last kernel, for blocks of five teams, 20480 x 5120 takes 51
 * instead of 47 us with 64 tokens (H200). */
#define SPINFER_DEFINE_SPMM_KERNELS(name, DTYPE, EPILOGUE)                                                             \
    SPINFER_DEFINE_SPMM_KERNEL(name##_n8, DTYPE, 1, 1, 28, EPILOGUE);                                                  \
    SPINFER_DEFINE_SPMM_KERNEL(name##_n16_20, DTYPE, 1, 2, 20, EPILOGUE);                                              \
    SPINFER_DEFINE_SPMM_KERNEL(name##_n16, DTYPE, 1, 2, 28, EPILOGUE);                                                 \
    SPINFER_DEFINE_SPMM_KERNEL(name##_n32, DTYPE, 1, 4, 16, EPILOGUE);                                                 \
    SPINFER_DEFINE_SPMM_KERNEL(name##_n64, DTYPE, 2, 8, 16, EPILOGUE);                                                 \
    SPINFER_DEFINE_SPMM_KERNEL(name##_n64_wgmma, DTYPE, 4, 8, 16, EPILOGUE);                                           \
    SPINFER_DEFINE_SPMM_KERNEL(name##_n64_wgmma5, DTYPE, 4, 8, 20, EPILOGUE);                                          \
    SPINFER_LIST_KERNELS(name)

#endif /* __CUDACC__ */

/* ---- 10. Encode and decompress ---------------------------------------------------------------
 *
 * A block of eight warps has eight neighbouring GroupTiles, a tile of work, and divides it in two ways. In the dense
 * matrix a warp has a band: eight rows of all of them, a BitmapTile for each lane. So a warp reads or writes 512
 * neighbouring bytes of a row at a time, and the values of a lane follow each other. Of the records a warp has one.
 *
 * FIG 9, the lanes of a band and their BitmapTiles
 *
 *                   GroupTile 0         GroupTile 1               GroupTile 7
 *     columns     0   8  16  24       0   8  16  24     ..      0   8  16  24
 *     lane        0   1   2   3       4   5   6   7     ..     28  29  30  31
 *     warp 0      0   1  16  17       0   1  16  17     ..      0   1  16  17     rows  0..7
 *     warp 1      2   3  18  19       2   3  18  19     ..      2   3  18  19     rows  8..15
 *      ..
 *     warp 7     14  15  30  31      14  15  30  31     ..     14  15  30  31     rows 56..63
 *
 * FIG 10, a tile of work; | is a barrier of the block
 *
 *     encode      by bands      load, bitmaps |                | place values       |
 *                 by records                  | count, publish | look back (warp 0) | copy out
 *     decompress  by records    fetch, count  |
 *                 by bands                    | decode, store
 *
 * Where the records of a tile begin is known when all tiles of smaller numbers have been counted. Each tile publishes
 * its sum, and later all that lies before and in it; the next ones add up what they find ("decoupled look-back",
 * Merrill and Garland, 2016). Numbers are taken by running blocks, in order, so that nobody waits for a block that does
 * not run.
 *
 * On an H200, 28672 x 8192 with 50 % zeros encode at 1.87 TB/s of dense weights and decompress at 2.52. With a Group-
 * Tile for each warp in the dense matrix as well, eight rows of 64 bytes at a time, it was 1.74 and 2.16. */

/* Warps of a block, bands and GroupTiles of a tile of work: eight, as FIG 9 has it. */
#define SPINFER_ENCODE_WARPS 8

/* Blocks of an SM that the registers shall allow. */
#define SPINFER_ENCODE_BLOCKS 4
#define SPINFER_DECOMPRESS_BLOCKS 6

/* Start of the workspace, zeros before each launch. Behind it, [tiles] published sums: 0: not yet, 2 * units of the
 * tile, or 1 + 2 * units of it and all before it. */
typedef struct spinfer_encode_totals {
    uint64_t nnz, units;
    uint32_t most;   /* values of the largest record             */
    uint32_t ticket; /* number of the next tile                  */
    uint32_t done;   /* blocks that have added to the sums above */
    uint32_t unused;
} spinfer_encode_totals;

/* Everything the encoding kernels need, by value. */
typedef struct spinfer_encode_args {
    const uint16_t        *dense;
    uint64_t               ld;
    uint32_t               rows, cols, col_groups;
    uint32_t               groups, tiles; /* GroupTiles, tiles of SPINFER_ENCODE_WARPS of them     */
    uint32_t               above;         /* spinfer_kept_bits()                                    */
    uint32_t               aligned;       /* 1: every row of a GroupTile is 16-byte aligned         */
    uint32_t              *offsets;
    unsigned char         *data;
    uint64_t               capacity; /* of data, units of 16 bytes                                  */
    spinfer_encode_result *result;
    spinfer_encode_totals *totals;
    uint64_t              *published; /* [tiles]                                                     */
} spinfer_encode_args;

typedef struct spinfer_decompress_args {
    spinfer_matrix W;
    uint16_t      *dense;
    uint64_t       ld;
    uint32_t       col_groups, groups, aligned;
} spinfer_decompress_args;

/* FIG 9: which GroupTile of its tile of work a lane is in; first row, column and number of its BitmapTile in there. */
SPINFER_HD int spinfer_band_group(int lane) { return lane / 4; }
SPINFER_HD int spinfer_band_row(int warp) { return 8 * warp; }
SPINFER_HD int spinfer_band_col(int lane) { return 8 * (lane % 4); }
SPINFER_HD int spinfer_band_tile(int warp, int lane)
{
    return spinfer_bitmap_tile_at(spinfer_band_row(warp), spinfer_band_col(lane));
}

/* A BitmapTile in the dense matrix. */
typedef struct spinfer_dense_tile {
    uint32_t row, col;   /* of its first weight                                                 */
    uint32_t rows, cols; /* 0..8 of them inside of the matrix; 0 rows behind the last GroupTile */
} spinfer_dense_tile;

/* How many of the eight rows or columns from `first` on lie inside of a matrix with `size` of them. */
SPINFER_HD uint32_t spinfer_inside(uint32_t size, uint32_t first)
{
    const uint32_t left = first < size ? size - first : 0;
    return left < 8 ? left : 8;
}

/* spinfer_band_place() : where the BitmapTile of a lane lies in a matrix of rows x cols weights.
 *
 *   tile      the tile of work: GroupTiles SPINFER_ENCODE_WARPS * tile and following, counted along the rows */
SPINFER_HD spinfer_dense_tile spinfer_band_place(uint32_t rows, uint32_t cols, uint32_t tile, int warp, int lane)
{
    const uint32_t     group = tile * SPINFER_ENCODE_WARPS + (uint32_t)spinfer_band_group(lane);
    const uint32_t     col_groups = spinfer_col_groups(cols), row_group = group / col_groups;
    spinfer_dense_tile t;
    t.row = row_group * SPINFER_GROUP_ROWS + (uint32_t)spinfer_band_row(warp);
    t.col = (group - row_group * col_groups) * SPINFER_GROUP_COLS + (uint32_t)spinfer_band_col(lane);
    t.rows = spinfer_inside(rows, t.row);
    t.cols = spinfer_inside(cols, t.col);
    return t;
}

/* spinfer_kept_bits() : which of eight neighbouring weights are kept, one bit each, the first one lowest.
 *
 *   words     in   [4] registers of two weights each
 *   above     in   (0x7fff - threshold) * 0x10001: added to two magnitudes at once, it sets the bits above them where
 *                  they exceed the threshold */
SPINFER_HD uint32_t spinfer_kept_bits(const uint32_t *words, uint32_t above)
{
    uint32_t bits = 0;
    int      i;
    SPINFER_UNROLL
    for (i = 0; i < 4; i++) bits |= ((words[i] & 0x7fff7fffu) + above) >> (15 - 2 * i) & 0x00010001u << (2 * i);
    return (bits | bits >> 15) & 0xff;
}

/* spinfer_tile_bitmap() : the bitmap of a BitmapTile whose weights are in words [8 rows][4]. */
SPINFER_HD uint64_t spinfer_tile_bitmap(const uint32_t *words, uint32_t above)
{
    uint32_t half[2] = {0, 0};
    int      row;
    SPINFER_UNROLL
    for (row = 0; row < 8; row++) half[row / 4] |= spinfer_kept_bits(words + 4 * row, above) << (8 * (row % 4));
    return half[0] | (uint64_t)half[1] << 32;
}

/* spinfer_place_pair() : stores the kept ones of two weights in a register, given the bit of the lower one, and moves
 * `place` on. In one piece, because a compiler that sees a conditional addition copies the register around it. */
SPINFER_HD void spinfer_place_pair(spinfer_shared *place, uint32_t bits, uint32_t bit, uint32_t word)
{
#ifdef __CUDA_ARCH__
    asm volatile("{ .reg .pred low, high; .reg .b16 values<2>; .reg .b32 masked;\n"
                 "mov.b32 {values0, values1}, %1;\n"
                 "and.b32 masked, %2, %3; setp.ne.u32 low, masked, 0;\n"
                 "and.b32 masked, %2, %4; setp.ne.u32 high, masked, 0;\n"
                 "@low st.shared.u16 [%0], values0;\n"
                 "@low add.u32 %0, %0, 2;\n"
                 "@high st.shared.u16 [%0], values1;\n"
                 "@high add.u32 %0, %0, 2; }"
                 : "+r"(*place)
                 : "r"(word), "r"(bits), "r"(bit), "r"(2 * bit)
                 : "memory");
#else
    uint16_t *to = (uint16_t *)(uintptr_t)*place;
    if (bits & bit) *to++ = (uint16_t)word;
    if (bits & 2 * bit) *to++ = (uint16_t)(word >> 16);
    *place = (spinfer_shared)(const void *)to;
#endif
}

/* spinfer_place_values() : the kept ones of a BitmapTile, words [8 rows][4], one behind the other from `place` on. */
SPINFER_HD void spinfer_place_values(const uint32_t *words, uint64_t bitmap, spinfer_shared place)
{
    int i;
    SPINFER_UNROLL
    for (i = 0; i < 32; i++)
        spinfer_place_pair(&place, (uint32_t)(bitmap >> (32 * (i / 16))), 1u << (2 * (i % 16)), words[i]);
}

/* spinfer_decode_row() : the way back, a row of a BitmapTile into [4] registers of two weights.
 *
 *   bits      its eight bits; above them, anything
 *   values    place of its first value */
SPINFER_HD void spinfer_decode_row(uint32_t bits, spinfer_shared values, uint32_t *words)
{
    const spinfer_quad left = spinfer_quad_at(0), right = spinfer_quad_at(4);
    uint32_t           weights[8];
    int                i;
    spinfer_quad_load(bits, spinfer_quad_locate(bits, values, left), left, weights);
    spinfer_quad_load(bits, spinfer_quad_locate(bits, values, right), right, weights + 4);
    SPINFER_UNROLL
    for (i = 0; i < 4; i++) words[i] = spinfer_pack(weights[2 * i], weights[2 * i + 1]);
}

#ifdef __CUDA_ARCH__

/* 16 bytes from and to global memory. The loads leave the L1 alone; nobody writes there while the kernel runs. */
SPINFER_DEVICE void spinfer_global_load_16(const void *from, uint32_t *words)
{
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "l"(from));
}

SPINFER_DEVICE void spinfer_global_store_16(void *to, const uint32_t *words)
{
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(words[0]), "r"(words[1]), "r"(words[2]),
                 "r"(words[3])
                 : "memory");
}

/* A number that other blocks may be writing or reading right now. Nothing else is ordered by it. */
SPINFER_DEVICE uint64_t spinfer_load_relaxed(const uint64_t *from)
{
    uint64_t value;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(from) : "memory");
    return value;
}

SPINFER_DEVICE void spinfer_store_relaxed(uint64_t *to, uint64_t value)
{
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(value) : "memory");
}

/* spinfer_scan_warp() : the sum over this lane and those below. Scope: warp. */
SPINFER_DEVICE uint32_t spinfer_scan_warp(uint32_t value, int lane)
{
    SPINFER_UNROLL
    for (int distance = 1; distance < 32; distance *= 2) {
        const uint32_t below = __shfl_up_sync(0xffffffffu, value, distance);
        if (lane >= distance) value += below;
    }
    return value;
}

/* The record of a GroupTile of the tile of work, among those in shared memory; its bitmaps; the place of a value. */
SPINFER_DEVICE unsigned char *spinfer_tile_record(unsigned char *records, int group)
{
    return records + group * SPINFER_RECORD_MAX_BYTES;
}

SPINFER_DEVICE uint64_t *spinfer_record_bitmaps(unsigned char *record)
{
    return (uint64_t *)(void *)(record + SPINFER_RECORD_BITMAPS);
}

SPINFER_DEVICE spinfer_shared spinfer_record_value(const unsigned char *record, uint32_t value)
{
    return spinfer_shared_address(record) + SPINFER_RECORD_VALUES + 2 * value;
}

/* spinfer_count_values() : how many values of a record lie before each of its BitmapTiles, from the bitmaps alone:
 * whatever they are, values end before SPINFER_RECORD_MAX_BYTES. Returns how many there are. Scope: warp. */
SPINFER_DEVICE uint32_t spinfer_count_values(unsigned char *record, uint16_t *before, int lane)
{
    const uint32_t kept = (uint32_t)spinfer_popcount64(spinfer_record_bitmaps(record)[lane]);
    const uint32_t sum = spinfer_scan_warp(kept, lane);
    before[lane] = (uint16_t)(sum - kept);
    return __shfl_sync(0xffffffffu, sum, 31);
}

/* spinfer_load_weights() : a lane's BitmapTile into words [8 rows][4], zeros outside of the matrix. */
SPINFER_DEVICE void spinfer_load_weights(const spinfer_encode_args *args, uint32_t tile, uint32_t *words, int lane,
                                         int warp)
{
    const spinfer_dense_tile t = spinfer_band_place(args->rows, args->cols, tile, warp, lane);
    const uint16_t          *from = args->dense + t.row * args->ld + t.col;
    if (args->aligned && t.rows == 8 && t.cols == 8) {
        SPINFER_UNROLL
        for (uint32_t row = 0; row < 8; row++) spinfer_global_load_16(from + row * args->ld, words + 4 * row);
        return;
    }
    SPINFER_UNROLL
    for (uint32_t row = 0; row < 8; row++, from += args->ld) {
        const uint32_t inside = row < t.rows ? t.cols : 0;
        SPINFER_UNROLL
        for (uint32_t i = 0; i < 4; i++) {
            const uint32_t low = 2 * i < inside ? from[2 * i] : 0;
            const uint32_t high = 2 * i + 1 < inside ? from[2 * i + 1] : 0;
            words[4 * row + i] = low | high << 16;
        }
    }
}

/* What a warp has encoded so far. In shared memory: the registers belong to the weights. Lane 0 keeps it. */
typedef struct spinfer_encode_sums {
    uint64_t nnz, units;
    uint32_t most; /* values of the largest record */
} spinfer_encode_sums;

/* What the warps of a block tell each other. */
typedef struct spinfer_encode_shared {
    spinfer_encode_sums sums[SPINFER_ENCODE_WARPS];
    uint64_t            begin;                       /* first unit of the tile                       */
    uint32_t            units[SPINFER_ENCODE_WARPS]; /* of the warp's record in this tile, 0 if none */
    uint32_t            tile;
    uint16_t            before[SPINFER_ENCODE_WARPS][SPINFER_GROUP_BITMAP_TILES]; /* spinfer_count_values() */
} spinfer_encode_shared;

typedef struct spinfer_sizes_shared {
    spinfer_encode_sums sums[SPINFER_ENCODE_WARPS];
    uint32_t            kept[2][SPINFER_ENCODE_WARPS][SPINFER_ENCODE_WARPS]; /* [turn][GroupTile][band] */
} spinfer_sizes_shared;

SPINFER_DEVICE void spinfer_clear_sums(spinfer_encode_sums *sums, int lane)
{
    if (lane == 0) sums->nnz = sums->units = sums->most = 0;
}

/* Adds a record and returns its units. */
SPINFER_DEVICE uint32_t spinfer_add_record(spinfer_encode_sums *sums, uint32_t nnz, int lane)
{
    const uint32_t units = spinfer_record_bytes(nnz) / 16;
    if (lane == 0) {
        sums->nnz += nnz;
        sums->units += units;
        if (nnz > sums->most) sums->most = nnz;
    }
    return units;
}

/* spinfer_encode_finish() : adds the sums of the warps to those of the other blocks; the last block writes the
 * result. */
SPINFER_DEVICE void spinfer_encode_finish(const spinfer_encode_args *args, const spinfer_encode_sums *sums,
                                          uint32_t blocks, int lane, int warp)
{
    spinfer_encode_totals *totals = args->totals;
    spinfer_encode_sums    sum = {0, 0, 0};
    __syncthreads(); /* the sums of all warps are visible */
    if (warp != 0 || lane != 0) return;
    for (int other = 0; other < SPINFER_ENCODE_WARPS; other++) {
        sum.nnz += sums[other].nnz;
        sum.units += sums[other].units;
        if (sums[other].most > sum.most) sum.most = sums[other].most;
    }
    atomicAdd((unsigned long long *)&totals->nnz, (unsigned long long)sum.nnz);
    atomicAdd((unsigned long long *)&totals->units, (unsigned long long)sum.units);
    atomicMax(&totals->most, sum.most);
    if (spinfer_arrive_global(&totals->done) != blocks - 1) return;

    const uint64_t units = (spinfer_load_relaxed(&totals->units) + 7) / 8 * 8; /* whole lines of 128 bytes */
    args->result->data_bytes = 16 * units;
    args->result->nnz = spinfer_load_relaxed(&totals->nnz);
    args->result->max_record = spinfer_record_bytes(atomicMax(&totals->most, 0u));
    args->result->status = SPINFER_OK;
    if (units > args->capacity) args->result->status = SPINFER_ERR_CAPACITY;
    if (units > 0xffffffffu) args->result->status = SPINFER_ERR_OVERFLOW;
}

/* spinfer_encode_sizes_block() : the kernel that only counts. A block takes every so many-th tile. */
SPINFER_DEVICE void spinfer_encode_sizes_block(const spinfer_encode_args *args, spinfer_sizes_shared *shared,
                                               uint32_t block, uint32_t blocks, int lane, int warp)
{
    uint32_t turn = 0; /* two arrays in turn: one barrier for each tile */
    spinfer_clear_sums(&shared->sums[warp], lane);
    SPINFER_NO_UNROLL
    for (uint32_t tile = block; tile < args->tiles; tile += blocks, turn ^= 1) {
        uint32_t words[32], kept;
        spinfer_load_weights(args, tile, words, lane, warp);
        kept = (uint32_t)spinfer_popcount64(spinfer_tile_bitmap(words, args->above));
        kept += __shfl_xor_sync(0xffffffffu, kept, 1); /* of the four lanes of a GroupTile */
        kept += __shfl_xor_sync(0xffffffffu, kept, 2);
        if (lane % 4 == 0) shared->kept[turn][spinfer_band_group(lane)][warp] = kept;
        __syncthreads(); /* the counts of all bands are visible; those of the tile before have been read */
        kept = __reduce_add_sync(0xffffffffu, lane < SPINFER_ENCODE_WARPS ? shared->kept[turn][warp][lane] : 0);
        if (tile * SPINFER_ENCODE_WARPS + (uint32_t)warp < args->groups)
            spinfer_add_record(&shared->sums[warp], kept, lane);
    }
    spinfer_encode_finish(args, shared->sums, blocks, lane, warp);
}

/* spinfer_encode_counts() : what a record needs beside bitmaps and values, tc_offsets and the zeros behind the values.
 * Returns the number of its values. Scope: warp. */
SPINFER_DEVICE uint32_t spinfer_encode_counts(unsigned char *record, uint16_t *before, int lane)
{
    const uint32_t nnz = spinfer_count_values(record, before, lane);
    if (lane % 4 == 0) ((uint16_t *)(void *)record)[lane / 4] = before[lane];
    if ((uint32_t)lane < (0 - nnz) % 8) spinfer_shared_store_u16(spinfer_record_value(record, nnz + (uint32_t)lane), 0);
    return nnz;
}

/* spinfer_look_back() : units of all tiles before this one. Scope: warp. */
SPINFER_DEVICE uint64_t spinfer_look_back(const uint64_t *published, uint32_t tile, int lane)
{
    uint64_t sum = 0;
    SPINFER_NO_UNROLL
    while (tile > 0) {     /* lane i looks at the tile i + 1 before */
        uint64_t seen = 1; /* before the first tile there are no units */
        if ((uint32_t)lane < tile) {
            SPINFER_NO_UNROLL
            do seen = spinfer_load_relaxed(published + (tile - 1 - (uint32_t)lane));
            while (seen == 0);
        }
        const uint32_t complete = __ballot_sync(0xffffffffu, (int)(seen & 1)); /* those that include all before them */
        const int      last = complete ? __ffs((int)complete) - 1 : 32;
        sum += __reduce_add_sync(0xffffffffu, lane < last ? (uint32_t)(seen / 2) : 0);
        if (complete) return sum + __shfl_sync(0xffffffffu, seen, last) / 2;
        tile -= 32;
    }
    return sum;
}

/* spinfer_store_record() : a record from shared to global memory, and its offset. Nothing behind the capacity. The warp
 * that has the last record also ends the offsets and fills the last line of data with zeros. Scope: warp. */
SPINFER_DEVICE void spinfer_store_record(const spinfer_encode_args *args, const unsigned char *record, uint32_t group,
                                         uint64_t begin, uint32_t units, int lane)
{
    const uint64_t end = begin + units, line = (end + 7) / 8 * 8;
    if (lane == 0) args->offsets[group] = (uint32_t)begin;
    if (end <= args->capacity) { /* from a multiple of 128 bytes on, so that a warp stores whole lines */
        SPINFER_NO_UNROLL
        for (int unit = lane - (int)(begin % 8); unit < (int)units; unit += 32) {
            if (unit >= 0) {
                const uint4    value = ((const uint4 *)(const void *)record)[unit];
                const uint32_t words[4] = {value.x, value.y, value.z, value.w};
                spinfer_global_store_16(args->data + 16 * (begin + (uint64_t)unit), words);
            }
        }
    }
    if (group == args->groups - 1) {
        const uint32_t zeros[4] = {0, 0, 0, 0};
        if (lane == 0) args->offsets[args->groups] = (uint32_t)end;
        if (line <= args->capacity && (uint64_t)lane < line - end)
            spinfer_global_store_16(args->data + 16 * (end + (uint64_t)lane), zeros);
    }
}

/* spinfer_encode_tile() : one tile of work. Returns the number of the next one, to the first thread of the block.
 *
 *   records   shared memory, SPINFER_ENCODE_WARPS of SPINFER_RECORD_MAX_BYTES
 *   Scope     block
 *
 * Taking the number of the next tile early, to load its weights while this one is placed, made the kernel three to five
 * times slower (H200): all later tiles wait for a sum that its block publishes only after this tile. */
SPINFER_DEVICE uint32_t spinfer_encode_tile(const spinfer_encode_args *args, unsigned char *records,
                                            spinfer_encode_shared *shared, uint32_t tile, int lane, int warp)
{
    const int      in_band = spinfer_band_group(lane), bitmap_tile = spinfer_band_tile(warp, lane);
    unsigned char *lane_record = spinfer_tile_record(records, in_band);  /* of its BitmapTile            */
    unsigned char *warp_record = spinfer_tile_record(records, warp);     /* that it counts and copies    */
    const uint32_t group = tile * SPINFER_ENCODE_WARPS + (uint32_t)warp; /* the GroupTile of warp_record */
    uint64_t      *bitmap = spinfer_record_bitmaps(lane_record) + bitmap_tile;
    uint32_t       words[32], units = 0, all = 0, next = 0;
    spinfer_load_weights(args, tile, words, lane, warp);
    *bitmap = spinfer_tile_bitmap(words, args->above); /* 0 behind the last GroupTile */
    __syncthreads();                                   /* the bitmaps are visible */
    if (group < args->groups)
        units = spinfer_add_record(&shared->sums[warp], spinfer_encode_counts(warp_record, shared->before[warp], lane),
                                   lane);
    if (lane == 0) shared->units[warp] = units;
    __syncthreads(); /* the counts and units of all records are visible */
    if (warp == 0) {
        all = __reduce_add_sync(0xffffffffu, lane < SPINFER_ENCODE_WARPS ? shared->units[lane] : 0);
        if (lane == 0) spinfer_store_relaxed(args->published + tile, 2 * (uint64_t)all);
    }
    spinfer_place_values(words, *bitmap, spinfer_record_value(lane_record, shared->before[in_band][bitmap_tile]));
    if (warp == 0) {
        const uint64_t begin = spinfer_look_back(args->published, tile, lane);
        if (lane == 0) {
            spinfer_store_relaxed(args->published + tile, 2 * (begin + all) + 1);
            shared->begin = begin;
            next = atomicAdd(&args->totals->ticket, 1u); /* on its way while the records are copied */
        }
    }
    __syncthreads(); /* the tile's first unit is visible, the records are complete */
    if (group < args->groups) {
        uint64_t begin = shared->begin;
        for (int other = 0; other < warp; other++) begin += shared->units[other];
        spinfer_store_record(args, warp_record, group, begin, units, lane);
    }
    return next;
}

/* spinfer_encode_block() : the kernel. */
SPINFER_DEVICE void spinfer_encode_block(const spinfer_encode_args *args, unsigned char *records,
                                         spinfer_encode_shared *shared, uint32_t blocks, int lane, int warp)
{
    uint32_t next = 0;
    spinfer_clear_sums(&shared->sums[warp], lane);
    if (warp == 0 && lane == 0) next = atomicAdd(&args->totals->ticket, 1u);
    SPINFER_NO_UNROLL
    for (;;) {
        if (warp == 0 && lane == 0) shared->tile = next;
        __syncthreads(); /* the number of the tile is visible; all have left the tile before */
        const uint32_t tile = shared->tile;
        if (tile >= args->tiles) break;
        next = spinfer_encode_tile(args, records, shared, tile, lane, warp);
    }
    spinfer_encode_finish(args, shared->sums, blocks, lane, warp);
}

/* spinfer_fetch_record() : the record of a GroupTile into shared memory, where it is complete for the warp on return.
 * Behind the last GroupTile, nothing. */
SPINFER_DEVICE void spinfer_fetch_record(const spinfer_decompress_args *args, uint32_t group, unsigned char *record,
                                         int lane)
{
    const uint32_t       row_group = group / args->col_groups, col_group = group - row_group * args->col_groups;
    const uint32_t      *offsets = args->W.offsets + (uint64_t)row_group * args->W.group_ld + col_group;
    const unsigned char *data = (const unsigned char *)args->W.data;
    const spinfer_shared to = spinfer_shared_address(record);
    uint32_t             begin = 0, units = 0;
    if (group < args->groups) {
        begin = offsets[0];
        units = spinfer_min(offsets[1] - begin, SPINFER_RECORD_MAX_BYTES / 16);
    }
    SPINFER_NO_UNROLL
    for (uint32_t unit = (uint32_t)lane; unit < units; unit += 32)
        spinfer_cp_async_16(to + 16 * unit, data + 16 * ((uint64_t)begin + unit), 16);
    spinfer_cp_async_commit();
    spinfer_cp_async_wait(0);
    __syncwarp(); /* the copies of all lanes are visible */
}

/* spinfer_store_weights() : the eight weights in `words`, but for those from `inside` on. */
SPINFER_DEVICE void spinfer_store_weights(uint16_t *to, const uint32_t *words, uint32_t inside, uint32_t aligned)
{
    if (aligned && inside == 8) {
        spinfer_global_store_16(to, words);
        return;
    }
    SPINFER_UNROLL
    for (uint32_t i = 0; i < 8; i++)
        if (i < inside) to[i] = (uint16_t)(words[i / 2] >> (16 * (i % 2)));
}

/* spinfer_decompress_tile() : a lane's BitmapTile into the dense matrix. `values`: the place of its first one. */
SPINFER_DEVICE void spinfer_decompress_tile(const spinfer_decompress_args *args, spinfer_dense_tile t, uint64_t bitmap,
                                            spinfer_shared values)
{
    uint16_t *to = args->dense + t.row * args->ld + t.col;
    SPINFER_UNROLL
    for (uint32_t row = 0; row < 8; row++, to += args->ld) {
        const uint32_t bits = (uint32_t)(bitmap >> (8 * row));
        uint32_t       words[4];
        spinfer_decode_row(bits, values, words);
        values += 2 * spinfer_popcount(bits & 0xff);
        if (row < t.rows) spinfer_store_weights(to, words, t.cols, args->aligned);
    }
}

/* spinfer_decompress_block() : the kernel, one tile of work.
 *
 *   records   shared memory, SPINFER_ENCODE_WARPS of SPINFER_RECORD_MAX_BYTES
 *   before    shared memory, spinfer_count_values() of each of them */
SPINFER_DEVICE void spinfer_decompress_block(const spinfer_decompress_args *args, unsigned char *records,
                                             uint16_t *before, uint32_t tile, int lane, int warp)
{
    const int                in_band = spinfer_band_group(lane), bitmap_tile = spinfer_band_tile(warp, lane);
    const spinfer_dense_tile place = spinfer_band_place(args->W.rows, args->W.cols, tile, warp, lane);
    unsigned char           *lane_record = spinfer_tile_record(records, in_band); /* of its BitmapTile         */
    unsigned char           *warp_record = spinfer_tile_record(records, warp);    /* that it fetches and counts */
    spinfer_fetch_record(args, tile * SPINFER_ENCODE_WARPS + (uint32_t)warp, warp_record, lane);
    spinfer_count_values(warp_record, before + SPINFER_GROUP_BITMAP_TILES * warp, lane);
    __syncthreads(); /* the records and counts of all warps are visible */
    if (place.rows > 0)
        spinfer_decompress_tile(
            args, place, spinfer_record_bitmaps(lane_record)[bitmap_tile],
            spinfer_record_value(lane_record, before[SPINFER_GROUP_BITMAP_TILES * in_band + bitmap_tile]));
}

#endif /* __CUDA_ARCH__ */

#endif /* SPINFER_CUH */

/* ==============================================================================================
 * ==============================================================================================
 * ---- 11. Implementation ----------------------------------------------------------------------
 *
 * Below the include guard, so that a file may include the header first and ask for the implementation later. */

#if (defined(SPINFER_IMPLEMENTATION) || defined(SPINFER_STATIC)) && !defined(SPINFER_IMPLEMENTED) && defined(__CUDACC__)
#define SPINFER_IMPLEMENTED

SPINFER_DEFINE_SPMM_KERNELS(spinfer_spmm_fp16, SPINFER_FP16, spinfer_epilogue_scale);
SPINFER_DEFINE_SPMM_KERNELS(spinfer_spmm_bf16, SPINFER_BF16, spinfer_epilogue_scale);

#ifndef __CUDACC_RTC__

#include <cudaTypedefs.h> /* CUtensorMap */

/* The library's own kernels for a dtype, SPINFER_KERNELS of them. */
static inline const spinfer_kernel *spinfer_detail_kernels(uint32_t dtype)
{
    return dtype == (uint32_t)SPINFER_BF16 ? spinfer_spmm_bf16 : spinfer_spmm_fp16;
}

/* The kernel of a plan: the first one that has room for its blocks, or else the last one; NULL if none is for it. */
static inline const spinfer_kernel *spinfer_detail_find(const spinfer_kernel *kernels, size_t count, uint32_t dtype,
                                                        const spinfer_plan *plan)
{
    const int64_t         teams = (int64_t)plan->strips * plan->warps_k;
    const spinfer_kernel *found = NULL;
    size_t                i;
    for (i = 0; i < count; i++)
        if (kernels[i].dtype == dtype && kernels[i].tokens == plan->tokens && kernels[i].team == plan->team &&
            (!found || found->max_warps / found->team < teams))
            found = &kernels[i];
    return found;
}

/* The tokens to plan for: of the first kernel that takes all n at once, or else of the last; 0 if none has the dtype,
 * or all of them use wgmma and the device does not. */
static inline int spinfer_detail_tokens(const spinfer_kernel *kernels, size_t count, uint32_t dtype, size_t n,
                                        const spinfer_device *device)
{
    int    tokens = 0;
    size_t i;
    for (i = 0; i < count && !(tokens && (size_t)tokens >= n); i++)
        if (kernels[i].dtype == dtype && (device->wgmma || !spinfer_uses_wgmma(kernels[i].team, kernels[i].tokens)))
            tokens = kernels[i].tokens;
    return tokens;
}

/* Is this a plan for this kernel (which may be NULL)? */
static inline spinfer_status spinfer_detail_check_plan(const spinfer_plan *plan, const spinfer_kernel *kernel,
                                                       const spinfer_matrix *W, size_t n)
{
    const int teams = kernel ? kernel->max_warps / kernel->team : 0; /* at most, in a block */
    if (plan->strips < 1 || plan->strips > teams || plan->warps_k < 1 || plan->warps_k > teams / plan->strips)
        return SPINFER_ERR_PLAN;
    if (plan->stages < 2 || plan->stages > 8 || plan->stages * plan->team > 16 || plan->x_pieces < 1 ||
        plan->x_pieces > 16)
        return SPINFER_ERR_PLAN;
    /* 64 columns: a warp fetches a piece with a box for each lane */
    if (plan->x_cols < 1 || plan->x_cols > 64 || plan->x_cols % (plan->warps_k * plan->team) ||
        (plan->x_cols % 2 && plan->x_pieces > 1))
        return SPINFER_ERR_PLAN;
    if (plan->splits < 1 || (uint32_t)plan->splits > spinfer_col_groups(W->cols) || plan->splits > 1024)
        return SPINFER_ERR_PLAN;
    if (plan->dependent & ~1) return SPINFER_ERR_PLAN;
    if (plan->helpers < 0 || plan->helpers > 1024 || !plan->helpers != !plan->tail) return SPINFER_ERR_PLAN;
    if (plan->helpers && (!kernel->helps || !spinfer_may_help(plan->tokens))) return SPINFER_ERR_PLAN;
    if (plan->tail < 0 || plan->tail % plan->team || plan->tail > plan->x_cols * plan->x_pieces ||
        (uint32_t)(plan->tail + plan->splits) > spinfer_col_groups(W->cols) ||
        (uint64_t)spinfer_row_groups(W->rows) * (uint32_t)plan->tail > INT32_MAX) /* records are counted in 32 bits */
        return SPINFER_ERR_PLAN;
    if (plan->x_pieces == 1 && (uint32_t)plan->x_cols < spinfer_plan_cols(plan, W->cols)) return SPINFER_ERR_PLAN;
    if (n < 1 || (n - 1) / (size_t)plan->tokens >= 65535) return SPINFER_ERR_SHAPE; /* the grid's y */
    return SPINFER_OK;
}

/* Most warps of a block of this kernel (SPINFER_BLOCK_WARPS). */
static inline int spinfer_detail_max_warps(const spinfer_kernel *kernel, const spinfer_device *device)
{
    return device->compute / 10 != 9 && kernel->max_warps > 16 ? 16 : kernel->max_warps;
}

/* Bytes of shared memory of each block, if so many are to share an SM; an SM has 1024 more than a block may take, which
 * each block loses again. */
static inline uint32_t spinfer_detail_smem_limit(const spinfer_device *device, int blocks_per_sm)
{
    const int limit = (device->smem_per_block + 1024) / blocks_per_sm - 1024 - 64;
    return limit > 0 ? (uint32_t)limit : 0;
}

/* Can this GPU run this kernel with this plan? */
static inline spinfer_status spinfer_detail_check_device(const spinfer_plan *plan, const spinfer_kernel *kernel,
                                                         const spinfer_matrix *W, const spinfer_device *device)
{
    if (kernel->own_bytes > (uint32_t)device->smem_per_block ||
        spinfer_smem_layout(plan, W->max_record, kernel->own_bytes).total > spinfer_detail_smem_limit(device, 1))
        return SPINFER_ERR_SMEM;
    if (device->compute < 80 || (device->compute < 90 && plan->dependent)) return SPINFER_ERR_ARCH;
    /* A helper's teams share X, those of other blocks do not: only a copy engine fills the slots of both. */
    if (device->compute < 90 && plan->helpers && spinfer_parts_apart(plan->team)) return SPINFER_ERR_ARCH;
    if (!device->wgmma && spinfer_uses_wgmma(plan->team, plan->tokens)) return SPINFER_ERR_ARCH;
    if (plan->strips * plan->warps_k * plan->team > spinfer_detail_max_warps(kernel, device)) return SPINFER_ERR_PLAN;
    return SPINFER_OK;
}

/* Shared memory to ask for with a dependent launch of so many blocks that need `bytes`: so much that an SM has no room
 * for more of them than it gets. Without that, with blocks of 8 warps, three of which fit, 5120 x 5120 took 14.2 us and
 * plain launches 11.4 (H200), probably because those of the next launch, which begin while these still run, crowd some
 * SMs. With it: 10.4. */
static inline uint32_t spinfer_detail_dependent_smem(uint32_t bytes, uint64_t blocks, const spinfer_device *device)
{
    const uint64_t sms = (uint64_t)device->sm_count;
    const uint32_t least = 192 + spinfer_detail_smem_limit(device, blocks <= sms ? 2 : 3);
    return blocks <= 2 * sms && bytes < least ? least : bytes;
}

/* Fills stages, x_cols and x_pieces of a plan so that it fits into `limit` bytes of shared memory, of which the kernel
 * has own_bytes; 0 if it cannot. Of two and three stages, two were the best or close to it (H200): what is left belongs
 * to X. Pieces of about 32 columns are up to 5 % better than pieces of 16, even if only two of them fit, and two of 24
 * 1 % better than three of 16. For 8 tokens spinfer_detail_widen() has the last word. */
static inline int spinfer_detail_fit(spinfer_plan *plan, const spinfer_matrix *W, uint32_t own_bytes, uint32_t limit)
{
    const int    cols = (int)spinfer_plan_cols(plan, W->cols);
    const int    step = plan->warps_k * plan->team;
    spinfer_smem layout;
    int          per_piece;
    if (own_bytes > limit) return 0;
    plan->stages = 2;
    for (per_piece = step < 32 ? 32 / step : 1; per_piece >= 1; per_piece--) {
        plan->x_cols = per_piece * step;
        if (plan->x_cols % 2 && per_piece > 1) continue;
        if (plan->x_cols % 2) plan->x_cols *= 2;
        plan->x_pieces = (cols + plan->x_cols - 1) / plan->x_cols;
        if (plan->x_pieces > 16) plan->x_pieces = 16;
        layout = spinfer_smem_layout(plan, W->max_record, own_bytes);
        if (layout.total > limit && plan->x_pieces > 2) { /* about as many as the rest of the memory holds, or fewer */
            const int most = layout.x < limit ? (int)((limit - layout.x) / layout.x_piece) + 1 : 2;
            if (plan->x_pieces > most) plan->x_pieces = most > 2 ? most : 2;
            while ((layout = spinfer_smem_layout(plan, W->max_record, own_bytes)).total > limit && plan->x_pieces > 2)
                plan->x_pieces--;
        }
        if (layout.total <= limit) return plan->tail <= plan->x_cols * plan->x_pieces;
    }
    return 0;
}

/* What the model below knows of a kernel: 50 000 timed plans (H200, 31 layers and 9 small ones, 30 to 70 % zeros), for
 * 32 and 64 tokens 3900 more, with and without helpers, 2100 with wgmma; 1004 for `twin`. Its choice was 0.1 to 1.2 %
 * slower on average than the best of a layer's timed plans. Microseconds. */
typedef struct spinfer_detail_model {
    double launch;  /* a wave: start, first copies, end                                                      */
    double latency; /* a stage of a team that is alone on the SM ..                                          */
    double crowd;   /* .. and what each warp on the SM adds                                                  */
    double record;  /* a record with half its weights, when the SM is busy: decode, or memory                */
    double density; /* .. and how much of it follows the size of a record                                    */
    double even;    /* 1: records cost what they cost; 0: a round of all teams costs the same if some rest   */
    double idle;    /* 1: only the quarter of the SM with the most warps counts                              */
    double x;       /* to bring 1000 columns of X, for each token                                            */
    double piece;   /* for each piece of X                                                                   */
    double refill;  /* for each column of X that finds its slot taken, over the pieces + 1                   */
    double split;   /* for each strip of a block, and each further range of K                                */
    double message; /* to receive three messages                                                             */
    double full;    /* a record costs more if fewer warps than this share the SM ..                          */
    double few;     /* .. for one of them by this part                                                       */
    double dense;   /* a record costs more by this part if its half TCTiles do not fit into the banks        */
    double slower;  /* a record costs a helper so many times as much ..                                      */
    double send;    /* .. and each strip whose sums one of its teams sends                                   */
    double help;    /* for a plan with helpers                                                               */
    double twin;    /* to add what a twin sends, for each unit of a warp, and again if there are more ranges */
    double warp;    /* what each warp on the SM adds at start and end                                        */
} spinfer_detail_model;

/* spinfer_spmm_args.mean, if the records are known to have about the same size and data begins with the first one. What
 * spinfer_encode_device() describes is not known. A slice has neither its own data nor its own data_bytes: one of
 * columns has the group_ld of its parent, and for one of rows the mean comes out as more than the maximum, unless
 * nearly all rows are left. */
static inline uint32_t spinfer_detail_mean(const spinfer_matrix *W)
{
    const uint64_t groups = (uint64_t)spinfer_row_groups(W->rows) * W->group_ld, most = (uint64_t)W->max_record * 64;
    const uint64_t mean = (W->data_bytes - 127) * 64 / groups; /* without the padding at the end, up to 127 bytes */
    if (W->group_ld != spinfer_col_groups(W->cols) || W->max_record == SPINFER_RECORD_MAX_BYTES) return 0;
    return mean <= most && mean >= most / 4 * 3 ? (uint32_t)mean : 0;
}

/* Which blocks run as clusters of two (FIG 8a): spinfer_twins(), if the GPU has them. */
static inline uint32_t spinfer_detail_clusters(const spinfer_plan *plan, const spinfer_matrix *W,
                                               const spinfer_device *device)
{
    return device->compute == 90 ? spinfer_twins(plan, W->rows) : 0;
}

/* Estimated microseconds of a plan on an H200; the smallest wins. For other GPUs it only has to rank, and
 * spinfer_kernel_estimate() scales it. */
static inline double spinfer_detail_estimate(const spinfer_plan *plan, const spinfer_matrix *W, size_t n,
                                             const spinfer_device *device, int blocks_per_sm)
{
    static const spinfer_detail_model models[10] = {
        /* 8, 16, 32 and 64 tokens. Of 8 the first three numbers and the last one: fitted to 170 timed plans, most of
         * four small layers. Before that 5120 x 5120 had 14 warps, 8 are 5 % faster. 0.055 is by hand: 7168 x 7168
         * with one token and 40 % zeros took 7 to 9 % more with K in one range than in eight, probably because all SMs
         * then read the same X. Of 16: fitted to 5400 timed plans of two kernels, with and without twins */
        {3.27,  0.534, 0.019, 0.0724, 0.439, 0.332, 0.454, 0.055, 0.021, 0.036,
         0.045, 0.021, 20,    0.261,  0.0,   0,     0,     0,     0,     0.040},
        {2.63,  0.566, 0.0247, 0.0703, 0.183, 0.495, 0.404, 0.273, 0.039, 0.0236,
         0.049, 0.210, 20,     0.163,  0.249, 0,     0,     0,     0.231, 0.067},
        {4.36,  0.685, 0.031, 0.0805, 0.167, 0.551, 0.653, 0.534, 0.078, 0.002,
         0.077, 0.352, 11,    0.152,  0.141, 1.155, 0.371, 0.042, 0.5,   0},
        {4.01,  1.150, 0.027, 0.1169, 0.141, 0.919, 0.909, 0.206, 0.142, 0.000,
         0.152, 0.312, 11,    0.588,  0.085, 1.155, 0.6,   0.607, 1.2,   0},
        /* the code for sm_80: earlier fits, those of 32 and 64 suit it better */
        {3.94,  0.793, 0.002, 0.0724, 0.439, 0.332, 0.454, 0.018, 0.021, 0.036,
         0.045, 0.021, 20,    0.261,  0.0,   0,     0,     0,     0,     0},
        {3.66,  0.959, 0.015, 0.0746, 0.314, 0.119, 0.811, 0.237, 0.076, 0.014,
         0.051, 0.347, 20,    0.110,  0.06,  0,     0,     0,     0,     0},
        {4.28,  0.809, 0.032, 0.0866, 0.170, 0.253, 1.000, 0.372, 0.045, 0.002,
         0.021, 0.475, 11,    0.195,  0.09,  0,     0,     0,     0,     0},
        {4.70,  1.150, 0.028, 0.1170, 0.047, 0.433, 0.972, 0.123, 0.166, 0.000,
         0.125, 0.380, 11,    0.443,  0.055, 0,     0,     0,     0,     0},
        /* 64 with wgmma, in up to 16 warps and, an earlier fit, in 20. Helpers of the former (1.066, 0.02, 0.03): near
         * a fit to 380 timed plans of ten layers. 4.4 is by hand, so that 1024 x 4096 gets the best plan timed */
        {4.73,  0.489, 0.0417, 0.1003, 0.0515, 0.999, 0.0,  0.094, 0.116, 0.005,
         0.147, 0.205, 8.26,   6.55,   0.025,  1.066, 0.02, 0.03,  0.108, 0},
        {4.4,   0.828, 0.040, 0.1015, 0.065, 0.622, 0.0,   0.145, 0.135, 0.005,
         0.171, 0.236, 13,    0.422,  0.027, 1.142, 0.094, 0.155, 0.2,   0}};
    const int                   row = plan->tokens <= 8 ? 0 : plan->tokens <= 16 ? 1 : plan->tokens <= 32 ? 2 : 3;
    const spinfer_detail_model *m =
        &models[spinfer_uses_wgmma(plan->team, plan->tokens) ? 8 + (plan->strips * plan->warps_k > 4)
                : device->compute < 90                       ? row + 4
                                                             : row];
    const uint32_t cols = spinfer_plan_cols(plan, W->cols);
    const uint32_t share = spinfer_helper_share(plan, W->rows);
    const uint32_t clusters = spinfer_detail_clusters(plan, W, device);
    const int      twins = clusters && spinfer_plan_twins(plan);
    const uint32_t senders = spinfer_senders(plan, W->rows) - (!twins          ? 0
                                                               : clusters == 1 ? (uint32_t)plan->splits / 2
                                                                               : 1);
    const int      step = plan->warps_k * plan->team;
    const double   rounds = (double)((cols + (uint32_t)step - 1) / (uint32_t)step);
    const double   blocks =
        (double)spinfer_plan_row_groups(plan, W->rows) * plan->splits * (double)((n - 1) / (size_t)plan->tokens + 1);
    const double room = (double)device->sm_count * blocks_per_sm;
    const double waves = (double)(uint64_t)((blocks + room - 1) / room);
    const double sharing = blocks > device->sm_count ? blocks_per_sm : 1; /* blocks on an SM */
    const double records = sharing * plan->strips * (m->even * cols + (1.0 - m->even) * rounds * step);
    const double weights = (double)W->max_record / 2448.0; /* 1: half of them kept */
    const double span = weights < 1.03 ? 0.0 : weights > 1.15 ? 1.0 : (weights - 1.03) / 0.12;
    const double size = 1.0 + m->density * (weights - 1.0) + m->dense * span;
    const double warps_sm = sharing * plan->strips * step, quarters = (double)(uint64_t)((warps_sm + 3.0) / 4.0);
    const double idle = 1.0 + m->idle * (4.0 * quarters / warps_sm - 1.0);
    /* Warps are for the decode; with large records memory decides. 5120 x 5120 with 8 tokens and 30 % zeros: 4 %. */
    const double full = plan->tokens <= 16 && weights > 1.1 ? 16.0 : m->full;
    const double few = warps_sm < full ? 1.0 + m->few * (1.0 - warps_sm / full) : 1.0;
    const double busy = m->record * size * records * idle * few + m->x * sharing * cols * plan->tokens / 1000.0;
    const double late = (double)cols - (double)plan->x_cols * plan->x_pieces; /* columns of X that come later */
    const double alone = (m->latency + m->crowd * warps_sm) * rounds;
    const int    units = plan->strips * plan->tokens / (twins ? 4 : 2), warps = plan->strips * step;
    const double turns = (units + warps - 1) / warps; /* units of a warp, at most */
    double       us = waves * (m->launch + m->warp * warps_sm + (busy > alone ? busy : alone));
    if (late > 0) us += m->refill * late / (plan->x_pieces + 1);
    us += m->piece * cols / plan->x_cols;
    if (share) { /* helpers: they or the others, whoever takes longer */
        /* Teams of a helper that have something to do: if neighbouring strips go to different ones, not all. */
        const uint32_t helpers = (uint32_t)(plan->helpers * plan->splits), strips = spinfer_row_groups(W->rows);
        const int      spread = spinfer_uses_wgmma(plan->team, plan->tokens) && share == (uint32_t)plan->tail;
        const double   teams = spread ? (double)((strips + helpers - 1) / helpers) : plan->strips * plan->warps_k;
        const double   all = share * teams, crowd = m->crowd * (spread ? teams * plan->team : warps_sm);
        const double   help_busy =
            m->slower * m->record * size * all * idle * few + m->x * plan->tail * plan->tokens / 1000.0;
        const double help_alone = (m->latency + crowd) * share / plan->team;
        const double help = m->launch + (help_busy > help_alone ? help_busy : help_alone) +
                            m->send * (1.0 + (double)share / plan->tail);
        us = m->help + (help > us ? help : us);
    }
    us += m->split * senders * plan->strips + m->message * ((senders + 2) / 3) * turns;
    if (twins) us += m->twin * (turns + (plan->splits > 2 ? 1 : 0));
    if (late > 0 && plan->x_cols < 16 && plan->tokens <= 16) us += 0.6 * cols / plan->x_cols; /* pieces for a moment */
    /* All records are asked for at once, and the first ones come late. 3584 x 3584, 16 tokens, 40 % zeros: 7 %. */
    if (rounds <= plan->stages && plan->tokens <= 16 && weights > 0.5) us *= 1.0 + 0.06 * (weights - 0.5);
    return share ? 1.01 * us : us; /* helpers that save less than 1 % are not worth it */
}

/* What a launch must know of the current device, for a kernel that may have been compiled for less. */
static inline spinfer_status spinfer_detail_query(const void *kernel, spinfer_device *device)
{
    int                       id, major, minor;
    spinfer_device            d = {};
    struct cudaFuncAttributes attributes;
    if (cudaGetDevice(&id) != cudaSuccess ||
        cudaDeviceGetAttribute(&d.sm_count, cudaDevAttrMultiProcessorCount, id) != cudaSuccess ||
        cudaDeviceGetAttribute(&d.smem_per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin, id) != cudaSuccess ||
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, id) != cudaSuccess ||
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, id) != cudaSuccess)
        return SPINFER_ERR_CUDA;
    d.compute = 10 * major + minor;
    if (d.compute >= 80) { /* what the GPU has and the code that runs on it uses */
        if (cudaFuncGetAttributes(&attributes, kernel) != cudaSuccess) return SPINFER_ERR_CUDA;
        if (attributes.ptxVersion < d.compute) d.compute = attributes.ptxVersion;
    }
    *device = d;
    return SPINFER_OK;
}

/* The same for kernels of one dtype, with an answer whether those that use wgmma have code (SPINFER_HAS_CODE). */
static inline spinfer_status spinfer_detail_query_set(const spinfer_kernel *kernels, size_t count, uint32_t dtype,
                                                      spinfer_device *device)
{
    spinfer_status            status = SPINFER_ERR_PLAN; /* none */
    struct cudaFuncAttributes attributes;
    size_t                    i;
    for (i = 0; i < count; i++) {
        if (kernels[i].dtype != dtype) continue;
        if (status != SPINFER_OK) status = spinfer_detail_query(kernels[i].function, device);
        if (status != SPINFER_OK) return status;
        if (device->compute != 90 || !spinfer_uses_wgmma(kernels[i].team, kernels[i].tokens)) continue;
        if (cudaFuncGetAttributes(&attributes, kernels[i].function) != cudaSuccess) return SPINFER_ERR_CUDA;
        device->wgmma = attributes.maxThreadsPerBlock > 32;
    }
    return status;
}

SPINFER_API spinfer_status spinfer_device_query(spinfer_device *device)
{
    int            id, clock_khz, memory_khz, memory_bits;
    spinfer_device d;
    spinfer_status status;
    if (!device) return SPINFER_ERR_NULL;
    status = spinfer_detail_query_set(spinfer_spmm_fp16, SPINFER_KERNELS, SPINFER_FP16, &d);
    if (status != SPINFER_OK) return status;
    if (cudaGetDevice(&id) != cudaSuccess ||
        cudaDeviceGetAttribute(&clock_khz, cudaDevAttrClockRate, id) != cudaSuccess ||
        cudaDeviceGetAttribute(&memory_khz, cudaDevAttrMemoryClockRate, id) != cudaSuccess ||
        cudaDeviceGetAttribute(&memory_bits, cudaDevAttrGlobalMemoryBusWidth, id) != cudaSuccess)
        return SPINFER_ERR_CUDA;
    d.clock_mhz = clock_khz / 1000;
    d.read_gbs = (int)(0.96 * 2.0 * memory_khz * (memory_bits / 8) * 1e-6); /* two transfers in a clock */
    *device = d;
    return SPINFER_OK;
}

/* The same plan with helpers on the SMs that it leaves free, if there are any and it is estimated to take less than
 * *best_us: with about as long a tail as gives all teams the same number of records. Not for the code for sm_80, which
 * with them took 2 to 9 % less on seven layers and 7 to 24 % more on nine (on an H200). */
static inline void spinfer_detail_try_helpers(const spinfer_kernel *kernel, const spinfer_matrix *W, size_t n,
                                              const spinfer_device *device, spinfer_plan p, spinfer_plan *best,
                                              double *best_us)
{
    const int    slices = p.splits * (int)((n - 1) / (size_t)p.tokens + 1), cols = (int)spinfer_col_groups(W->cols);
    const int    room = device->sm_count / slices - (int)spinfer_plan_row_groups(&p, W->rows);
    const double teams = (double)room * p.splits * p.strips * p.warps_k, strips = spinfer_row_groups(W->rows);
    const int    most = p.x_cols * p.x_pieces; /* columns, for which X has room */
    int          i, even;
    if (!kernel->helps || !spinfer_may_help(p.tokens) || room < 1 || device->compute < 90) return;
    p.helpers = room;
    even = (int)(cols / (1.0 + strips / teams * p.splits * p.warps_k));
    if (even > most) even = most;
    for (i = -3; i <= 3; i++) {
        double us;
        p.tail = (even / p.team + i) * p.team;
        /* From even columns on, boxes of X are whole lines: 3 % of 7168 x 7168 with 32 tokens (H200). */
        if (p.team == 1 && (cols - p.tail) % 2) continue;
        if (p.tail < p.team || p.tail > most || p.tail + p.splits > cols ||
            !spinfer_detail_fit(&p, W, kernel->own_bytes, spinfer_detail_smem_limit(device, 1)) ||
            spinfer_detail_check_plan(&p, kernel, W, n) != SPINFER_OK)
            continue;
        us = spinfer_detail_estimate(&p, W, n, device, 1);
        if (us >= *best_us) continue;
        *best = p;
        *best_us = us;
    }
}

/* The best plan for one kernel, in blocks of more than `above` warps, if it is estimated to take less than *best_us. */
static inline void spinfer_detail_search(const spinfer_kernel *kernel, int above, const spinfer_matrix *W, size_t n,
                                         const spinfer_device *device, spinfer_plan *best, double *best_us)
{
    const int      max_warps = spinfer_detail_max_warps(kernel, device);
    const int      max_splits = spinfer_col_groups(W->cols) < 26 ? (int)spinfer_col_groups(W->cols) : 26;
    const uint32_t groups = spinfer_row_groups(W->rows);
    spinfer_plan   p;
    int            blocks_per_sm;
    memset(&p, 0, sizeof p);
    p.tokens = kernel->tokens;
    p.team = kernel->team;
    for (p.splits = 1; p.splits <= max_splits; p.splits++) {
        for (p.strips = 1; p.strips <= max_warps && (p.strips == 1 || (uint32_t)p.strips <= groups); p.strips++) {
            if (p.splits > 1 && /* more blocks than two for each SM: fewer splits are better */
                (size_t)spinfer_plan_row_groups(&p, W->rows) * (size_t)p.splits > 2 * (size_t)device->sm_count)
                continue;
            for (p.warps_k = 1; p.warps_k * p.strips * p.team <= max_warps; p.warps_k++) {
                for (blocks_per_sm = 1; blocks_per_sm <= 2; blocks_per_sm++) { /* two small blocks can share an SM */
                    double us;
                    if (p.strips * p.warps_k * p.team * blocks_per_sm > max_warps ||
                        p.strips * p.warps_k * p.team <= above ||
                        !spinfer_detail_fit(&p, W, kernel->own_bytes,
                                            spinfer_detail_smem_limit(device, blocks_per_sm)) ||
                        spinfer_detail_check_plan(&p, kernel, W, n) != SPINFER_OK)
                        continue;
                    us = spinfer_detail_estimate(&p, W, n, device, blocks_per_sm);
                    if (blocks_per_sm == 1 && us < 1.25 * *best_us) /* they save less than that */
                        spinfer_detail_try_helpers(kernel, W, n, device, p, best, best_us);
                    if (us >= *best_us) continue;
                    *best = p;
                    *best_us = us;
                }
            }
        }
    }
}

/* What a plan for 8 tokens does with its shared memory, once warps and ranges of K are chosen: few large pieces of X,
 * because all warps meet at the end of each, and three or four stages of small records. It takes 0.6 % less time with
 * 30 to 50 % zeros and 2 % with 60 and 70, up to 5 % (25 layers, H200); with 16 tokens it would take more. Blocks that
 * can share an SM still can, and large records do not wait for an X in one piece. */
static inline void spinfer_detail_widen(spinfer_plan *plan, const spinfer_matrix *W, const spinfer_kernel *kernel,
                                        const spinfer_device *device)
{
    const int      step = plan->warps_k, cols = (int)spinfer_plan_cols(plan, W->cols), pieces = (cols + 63) / 64;
    const int      unit = step % 2 && pieces > 1 ? 2 * step : step; /* x_cols is even, but in one piece */
    const int      rounds = plan->strips > 1 ? cols / step : 0;
    const int      zeros = W->max_record < 1800 ? 70 : W->max_record < 2200 ? 60 : W->max_record < 2600 ? 50 : 0;
    const int      most = zeros == 70 && rounds >= 12 ? 4 : zeros >= 60 && rounds >= (zeros == 70 ? 8 : 12) ? 3 : 2;
    const uint32_t own = kernel->own_bytes, half = spinfer_detail_smem_limit(device, 2);
    const int      share = 2 * plan->strips * step <= kernel->max_warps;
    const uint32_t limit = share && spinfer_smem_layout(plan, W->max_record, own).total <= half
                               ? half
                               : spinfer_detail_smem_limit(device, 1);
    spinfer_plan   p = *plan;
    int            even = ((cols + pieces - 1) / pieces + unit - 1) / unit * unit; /* pieces of the same size */
    if (plan->tokens > 8 || plan->team > 1 || device->compute < 90 || (pieces == 1 && zeros == 0)) return;
    while (even > 64) even -= unit;
    for (p.stages = most; p.stages >= 2; p.stages--) {
        for (p.x_cols = even; p.x_cols > 0; p.x_cols -= unit) {
            if (p.x_cols < even && (p.stages == 4 || (p.stages == 3 && p.x_cols < 32)))
                break; /* fewer stages instead */
            if (p.x_cols < cols && p.x_cols % 2) continue;
            p.x_pieces = (cols + p.x_cols - 1) / p.x_cols;
            if (p.x_pieces > 16) p.x_pieces = 16;
            while (p.x_pieces > 2 && spinfer_smem_layout(&p, W->max_record, own).total > limit) p.x_pieces--;
            if (spinfer_smem_layout(&p, W->max_record, own).total > limit) continue;
            *plan = p;
            return;
        }
    }
}

/* Usually the kernel that takes all tokens at once is the best. If W has so few rows that there are SMs for several
 * blocks of tokens, kernels for fewer tokens are tried, too: W is decoded several times, but K needs fewer splits, and
 * their sums cost more. 1024 x 4096 takes 7.0 instead of 8.1 us with 32 tokens, 8.3 instead of 10 with 64 (H200). */
SPINFER_API spinfer_status spinfer_kernel_plan(const spinfer_kernel *kernels, size_t count, const spinfer_matrix *W,
                                               size_t n, const spinfer_device *device, spinfer_plan *plan)
{
    const spinfer_status status = spinfer_detail_check_matrix(W);
    const double         never = 1e300;
    spinfer_plan         best;
    double               best_us = never;
    size_t               i, k;
    int                  tokens, above;
    if (!kernels || !device || !plan) return SPINFER_ERR_NULL;
    if (status != SPINFER_OK) return status;
    if (device->compute < 80) return SPINFER_ERR_ARCH;
    if (device->sm_count < 1 || n < 1) return SPINFER_ERR_SHAPE;
    tokens = spinfer_detail_tokens(kernels, count, W->dtype, n, device);
    if (!tokens) return SPINFER_ERR_PLAN;
    memset(&best, 0, sizeof best);
    for (i = 0; i < count; i++) {
        const size_t blocks = (n - 1) / (size_t)kernels[i].tokens + 1;
        if (kernels[i].dtype != W->dtype || kernels[i].tokens > tokens) continue;
        if (!device->wgmma && spinfer_uses_wgmma(kernels[i].team, kernels[i].tokens)) continue;
        for (above = 0, k = 0; k < i; k++) /* plans with fewer warps are for a kernel before */
            if (kernels[k].dtype == kernels[i].dtype && kernels[k].tokens == kernels[i].tokens &&
                kernels[k].team == kernels[i].team && kernels[k].max_warps > above)
                above = kernels[k].max_warps;
        if (kernels[i].tokens == tokens ||
            (blocks <= 4 && spinfer_row_groups(W->rows) * blocks <= (size_t)device->sm_count))
            spinfer_detail_search(&kernels[i], above, W, n, device, &best, &best_us);
    }
    if (best_us >= never) return (n - 1) / (size_t)tokens >= 65535 ? SPINFER_ERR_SHAPE : SPINFER_ERR_SMEM;
    spinfer_detail_widen(&best, W, spinfer_detail_find(kernels, count, W->dtype, &best), device);
    *plan = best;
    return SPINFER_OK;
}

SPINFER_API spinfer_status spinfer_spmm_plan(const spinfer_matrix *W, size_t n, const spinfer_device *device,
                                             spinfer_plan *plan)
{
    return spinfer_kernel_plan(W ? spinfer_detail_kernels(W->dtype) : NULL, SPINFER_KERNELS, W, n, device, plan);
}

/* Bytes that a launch reads and writes: weights, X and Y. W->data_bytes is more than the weights of a slice. */
static inline double spinfer_detail_spmm_bytes(const spinfer_matrix *W, size_t n)
{
    const double groups = (double)spinfer_row_groups(W->rows) * spinfer_col_groups(W->cols);
    const double most = groups * W->max_record, data = (double)W->data_bytes;
    return (data < most ? data : most) + 4.0 * groups + 2.0 * (double)n * ((double)W->rows + (double)W->cols);
}

/* The model that ranks plans follows the decode, and but for wgmma most of it was fitted before spinfer_ask_early() and
 * spinfer_detail_widen(): some per cent or tenths of a microsecond less fit the times since then. Where records are
 * large, memory decides: then a launch takes 4.4 us and its bytes at 90 % of what can be read. cuBLAS takes 4.8 us and
 * its bytes at 95 %. Fitted to bench/results/h200-fp16-iid.csv: 3.0 % off on average, 14 % at most. Code for sm_80 has
 * fewer warps and no copy engine: it takes longer by the factors below, measured with it on an H200. */
SPINFER_API spinfer_status spinfer_kernel_estimate(const spinfer_kernel *kernels, size_t count,
                                                   const spinfer_plan *plan, const spinfer_matrix *W, size_t n,
                                                   const spinfer_device *device, spinfer_estimate *estimate)
{
    spinfer_status        status = spinfer_detail_check_matrix(W);
    const spinfer_kernel *kernel;
    spinfer_plan          best;
    double                decode_us, read_us, clock_mhz, bytes_per_us, dense_bytes;
    int                   two_blocks;
    if (!kernels || !device || !estimate) return SPINFER_ERR_NULL;
    if (status == SPINFER_OK && !plan) {
        status = spinfer_kernel_plan(kernels, count, W, n, device, &best);
        plan = &best;
    }
    if (status != SPINFER_OK) return status;
    if (device->sm_count < 1) return SPINFER_ERR_SHAPE;
    kernel = spinfer_detail_find(kernels, count, W->dtype, plan);
    status = spinfer_detail_check_plan(plan, kernel, W, n);
    if (status == SPINFER_OK) status = spinfer_detail_check_device(plan, kernel, W, device);
    if (status != SPINFER_OK) return status;

    clock_mhz = device->clock_mhz > 0 ? device->clock_mhz : 1980.0;
    bytes_per_us = 1e3 * (device->read_gbs > 0 ? device->read_gbs : 4640.0);
    two_blocks =
        2 * plan->strips * plan->warps_k * plan->team <= spinfer_detail_max_warps(kernel, device) &&
        spinfer_smem_layout(plan, W->max_record, kernel->own_bytes).total <= spinfer_detail_smem_limit(device, 2);
    decode_us = spinfer_detail_estimate(plan, W, n, device, two_blocks ? 2 : 1) * (1980.0 / clock_mhz);
    if (device->compute >= 90 && spinfer_uses_wgmma(plan->team, plan->tokens))
        decode_us *= 0.955;
    else if (device->compute >= 90)
        decode_us = plan->tokens <= 8    ? 0.94 * decode_us + 0.2
                    : plan->tokens <= 16 ? decode_us - 0.2
                                         : 0.98 * decode_us - 0.6;
    read_us = 4.4 + spinfer_detail_spmm_bytes(W, n) / (0.9 * bytes_per_us);
    dense_bytes = 2.0 * ((double)W->rows * W->cols + (double)n * ((double)W->rows + (double)W->cols));
    estimate->spmm_us = decode_us > read_us ? decode_us : read_us;
    if (device->compute < 90) estimate->spmm_us *= plan->tokens <= 8 ? 1.14 : plan->tokens <= 16 ? 1.24 : 1.3;
    estimate->dense_us = 4.8 + dense_bytes / (0.95 * bytes_per_us);
    if (n > 32) { /* other kernels: 3584 x 3584 takes 9.0 us with 64 tokens and 10.7 with 32 (H200) */
        const double small = 6.7 + 0.3 * dense_bytes / bytes_per_us;
        estimate->dense_us = 3.3 + dense_bytes / (0.93 * bytes_per_us);
        if (estimate->dense_us < small) estimate->dense_us = small;
    }
    return SPINFER_OK;
}

SPINFER_API spinfer_status spinfer_spmm_estimate(const spinfer_plan *plan, const spinfer_matrix *W, size_t n,
                                                 const spinfer_device *device, spinfer_estimate *estimate)
{
    return spinfer_kernel_estimate(W ? spinfer_detail_kernels(W->dtype) : NULL, SPINFER_KERNELS, plan, W, n, device,
                                   estimate);
}

SPINFER_API spinfer_status spinfer_kernel_workspace_bytes(const spinfer_kernel *kernels, size_t count,
                                                          const spinfer_plan *plan, const spinfer_matrix *W, size_t n,
                                                          size_t *bytes)
{
    spinfer_status status = spinfer_detail_check_matrix(W);
    size_t         sums, senders;
    if (!kernels || !plan || !bytes) return SPINFER_ERR_NULL;
    if (status == SPINFER_OK)
        status = spinfer_detail_check_plan(plan, spinfer_detail_find(kernels, count, W->dtype, plan), W, n);
    if (status != SPINFER_OK) return status;
    sums = (size_t)spinfer_plan_row_groups(plan, W->rows) * (size_t)plan->strips * SPINFER_GROUP_ROWS *
           ((n - 1) / (size_t)plan->tokens + 1) * (size_t)plan->tokens;
    senders = spinfer_senders(plan, W->rows);
    if (sums > SIZE_MAX / sizeof(float) / (senders + 1)) return SPINFER_ERR_PLAN;
    sums *= senders * sizeof(float);
    if (sums / 512 > UINT32_MAX) return SPINFER_ERR_PLAN; /* the kernel counts messages in 32 bits */
    *bytes = sums;
    return SPINFER_OK;
}

SPINFER_API spinfer_status spinfer_spmm_workspace_bytes(const spinfer_plan *plan, const spinfer_matrix *W, size_t n,
                                                        size_t *bytes)
{
    return spinfer_kernel_workspace_bytes(W ? spinfer_detail_kernels(W->dtype) : NULL, SPINFER_KERNELS, plan, W, n,
                                          bytes);
}

/* Describes X to the copy engine: boxes of 64 columns x `tokens`. 0 if it cannot take it (alignment, an old driver):
 * the kernel then copies X by itself. */
static inline uint32_t spinfer_detail_x_map(void *map, const void *X, size_t cols, size_t n, size_t ldx, int tokens)
{
    const cuuint64_t                dims[2] = {cols, n}, strides[1] = {2 * ldx};
    const cuuint32_t                box[2] = {SPINFER_X_BOX, (cuuint32_t)tokens}, element[2] = {1, 1};
    void                           *encode = NULL;
    cudaDriverEntryPointQueryResult found;
    if ((uintptr_t)X % 16 || ldx % 8 || 2 * ldx >= (size_t)1 << 40) return 0;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, 12000, cudaEnableDefault, &found) !=
            cudaSuccess ||
        found != cudaDriverEntryPointSuccess)
        return 0;
    return ((PFN_cuTensorMapEncodeTiled_v12000)encode)(
               (CUtensorMap *)map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 2, (void *)(uintptr_t)X, dims, strides, box, element,
               CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_NONE,
               CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

SPINFER_API spinfer_status spinfer_kernel_launch(const spinfer_kernel *kernels, size_t count, const void *epilogue,
                                                 size_t epilogue_bytes, const spinfer_plan *plan, float alpha,
                                                 const spinfer_matrix *W, const void *X, size_t ldx, float beta,
                                                 void *Y, size_t ldy, size_t n, void *workspace, size_t workspace_bytes,
                                                 struct CUstream_st *stream)
{
    spinfer_status        status = spinfer_detail_check_matrix(W);
    spinfer_device        device;
    spinfer_spmm_args     args;
    const spinfer_kernel *kernel;
    cudaLaunchConfig_t    config = {};
    cudaLaunchAttribute   launch[2] = {};
    size_t                needed;
    uint32_t              clusters;
    void                 *parameters[1];

    if (!kernels || !X || !Y || (epilogue_bytes && !epilogue)) return SPINFER_ERR_NULL;
    if (status != SPINFER_OK) return status;
    if (n < 1 || ldx < W->cols || n > UINT32_MAX) return SPINFER_ERR_SHAPE;
    if ((uintptr_t)X % 2 || (uintptr_t)Y % 2 || (uintptr_t)W->data % 128 || W->data_bytes % 128)
        return SPINFER_ERR_ALIGNMENT;
    if (epilogue_bytes > SPINFER_EPILOGUE_BYTES) return SPINFER_ERR_CAPACITY;
    memset(&args, 0, sizeof args);
    kernel = plan ? spinfer_detail_find(kernels, count, W->dtype, plan) : NULL;
    if (plan && !kernel) return SPINFER_ERR_PLAN;
    status = spinfer_detail_query_set(kernel ? kernel : kernels, kernel ? 1 : count, W->dtype, &device);
    if (status != SPINFER_OK) return status;
    if (plan)
        args.plan = *plan;
    else {
        status = spinfer_kernel_plan(kernels, count, W, n, &device, &args.plan);
        if (status != SPINFER_OK) return status;
        kernel = spinfer_detail_find(kernels, count, W->dtype, &args.plan);
    }
    status = spinfer_kernel_workspace_bytes(kernel, 1, &args.plan, W, n, &needed);
    if (status != SPINFER_OK) return status;
    if (needed && !workspace) return SPINFER_ERR_NULL;
    if (needed && (uintptr_t)workspace % 16) return SPINFER_ERR_ALIGNMENT;
    if (workspace_bytes < needed) return SPINFER_ERR_CAPACITY;

    status = spinfer_detail_check_device(&args.plan, kernel, W, &device);
    if (status != SPINFER_OK) return status;
    args.layout = spinfer_smem_layout(&args.plan, W->max_record, kernel->own_bytes);
    config.dynamicSmemBytes = args.layout.total;
    args.W = *W;
    args.X = (const uint16_t *)X;
    args.x_tensor = device.compute >= 90 && spinfer_detail_x_map(args.x_map, X, W->cols, n, ldx, args.plan.tokens);
    clusters = spinfer_detail_clusters(&args.plan, W, &device);
    args.twins = spinfer_plan_twins(&args.plan) ? clusters : 0;
    args.Y = (uint16_t *)Y;
    args.ldx = ldx;
    args.ldy = ldy;
    args.n = (uint32_t)n;
    args.k_cols = spinfer_col_groups(W->cols) - (uint32_t)args.plan.tail;
    args.k_unit = spinfer_plan_unit(&args.plan, W->cols);
    args.k_step = (args.k_cols + args.k_unit - 1) / args.k_unit / (uint32_t)args.plan.splits;
    args.k_rest = (args.k_cols + args.k_unit - 1) / args.k_unit % (uint32_t)args.plan.splits;
    args.part_step = args.k_step / (uint32_t)args.plan.warps_k;
    args.part_rest = args.k_step % (uint32_t)args.plan.warps_k;
    args.share = spinfer_helper_share(&args.plan, W->rows);
    if (args.share) {
        const spinfer_divisor share = spinfer_divisor_init(args.share);
        const spinfer_divisor tail = spinfer_divisor_init((uint32_t)args.plan.tail);
        args.share_factor = share.factor;
        args.tail_factor = tail.factor;
        args.share_shift = (uint16_t)share.shift;
        args.tail_shift = (uint16_t)tail.shift;
    }
    args.senders = spinfer_senders(&args.plan, W->rows);
    args.mean = spinfer_detail_mean(W);
    args.alpha = alpha;
    args.beta = beta;
    args.partials = (float *)workspace;
    if (epilogue_bytes) memcpy(args.user, epilogue, epilogue_bytes);
    parameters[0] = &args;

    config.gridDim = dim3((uint32_t)args.plan.helpers + spinfer_plan_row_groups(&args.plan, W->rows),
                          (uint32_t)((n - 1) / (size_t)args.plan.tokens + 1), (uint32_t)args.plan.splits);
    config.blockDim = dim3(32, (uint32_t)(args.plan.team * args.plan.warps_k), (uint32_t)args.plan.strips);
    config.stream = stream;
    config.attrs = launch;
    if (args.plan.dependent) {
        const uint64_t blocks = (uint64_t)config.gridDim.x * config.gridDim.y * config.gridDim.z;
        config.dynamicSmemBytes = spinfer_detail_dependent_smem(args.layout.total, blocks, &device);
        launch[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        launch[config.numAttrs].val.programmaticStreamSerializationAllowed = 1;
        config.numAttrs++;
    }
    if (clusters) { /* without twins, too: two blocks that start together are up to 2 % faster (H200) */
        launch[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
        launch[config.numAttrs].val.clusterDim.x = clusters == 2 ? 2 : 1;
        launch[config.numAttrs].val.clusterDim.y = 1;
        launch[config.numAttrs].val.clusterDim.z = clusters == 2 ? 1 : 2;
        config.numAttrs++;
    }
    if (cudaFuncSetAttribute(kernel->function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             (int)config.dynamicSmemBytes) != cudaSuccess ||
        cudaLaunchKernelExC(&config, kernel->function, parameters) != cudaSuccess)
        return SPINFER_ERR_CUDA;
    return SPINFER_OK;
}

SPINFER_API spinfer_status spinfer_spmm(const spinfer_plan *plan, float alpha, const spinfer_matrix *W, const void *X,
                                        size_t ldx, float beta, void *Y, size_t ldy, size_t n, void *workspace,
                                        size_t workspace_bytes, struct CUstream_st *stream)
{
    if (W && X && Y && ldy < W->rows) return SPINFER_ERR_SHAPE;
    return spinfer_kernel_launch(W ? spinfer_detail_kernels(W->dtype) : NULL, SPINFER_KERNELS, NULL, 0, plan, alpha, W,
                                 X, ldx, beta, Y, ldy, n, workspace, workspace_bytes, stream);
}

#endif /* !__CUDACC_RTC__ */

/* ---- Encode and decompress on the GPU: kernels of (lane, warp) threads, and their launches ---- */

SPINFER_KERNEL void __launch_bounds__(32 * SPINFER_ENCODE_WARPS, SPINFER_ENCODE_BLOCKS)
    spinfer_encode_sizes_kernel(const __grid_constant__ spinfer_encode_args args)
{
#ifdef __CUDA_ARCH__
    __shared__ spinfer_sizes_shared shared;
    spinfer_encode_sizes_block(&args, &shared, blockIdx.x, gridDim.x, (int)threadIdx.x, (int)threadIdx.y);
#else
    (void)args;
#endif
}

SPINFER_KERNEL void __launch_bounds__(32 * SPINFER_ENCODE_WARPS, SPINFER_ENCODE_BLOCKS)
    spinfer_encode_kernel(const __grid_constant__ spinfer_encode_args args)
{
#ifdef __CUDA_ARCH__
    __shared__ __align__(16) unsigned char records[SPINFER_ENCODE_WARPS * SPINFER_RECORD_MAX_BYTES];
    __shared__ spinfer_encode_shared       shared;
    spinfer_encode_block(&args, records, &shared, gridDim.x, (int)threadIdx.x, (int)threadIdx.y);
#else
    (void)args;
#endif
}

SPINFER_KERNEL void __launch_bounds__(32 * SPINFER_ENCODE_WARPS, SPINFER_DECOMPRESS_BLOCKS)
    spinfer_decompress_kernel(const __grid_constant__ spinfer_decompress_args args)
{
#ifdef __CUDA_ARCH__
    __shared__ __align__(16) unsigned char records[SPINFER_ENCODE_WARPS * SPINFER_RECORD_MAX_BYTES];
    __shared__ uint16_t                    before[SPINFER_ENCODE_WARPS * SPINFER_GROUP_BITMAP_TILES];
    spinfer_decompress_block(&args, records, before, blockIdx.x, (int)threadIdx.x, (int)threadIdx.y);
#else
    (void)args;
#endif
}

#ifndef __CUDACC_RTC__

SPINFER_API spinfer_status spinfer_encode_device_bytes(size_t rows, size_t cols, uint64_t *most_data_bytes,
                                                       size_t *workspace_bytes)
{
    const uint64_t offsets_bytes = spinfer_offsets_bytes(rows, cols), groups = offsets_bytes / 4 - 1;
    if (offsets_bytes == 0) return SPINFER_ERR_SHAPE;
    if ((groups * (SPINFER_RECORD_VALUES / 16) + 7) / 8 * 8 > UINT32_MAX) return SPINFER_ERR_OVERFLOW;
    if (most_data_bytes) *most_data_bytes = (groups * SPINFER_RECORD_MAX_BYTES + 127) / 128 * 128;
    if (workspace_bytes)
        *workspace_bytes =
            sizeof(spinfer_encode_totals) + (size_t)((groups - 1) / SPINFER_ENCODE_WARPS + 1) * sizeof(uint64_t);
    return SPINFER_OK;
}

/* Checks what both encoding functions have in common, and fills the arguments of their kernels. */
static inline spinfer_status spinfer_detail_encode_args(const void *dense, size_t rows, size_t cols, size_t ld,
                                                        spinfer_dtype dtype, uint16_t threshold,
                                                        spinfer_encode_result *result, void *workspace,
                                                        size_t workspace_bytes, spinfer_encode_args *args)
{
    const spinfer_status status = spinfer_detail_check_dense(dense, rows, cols, ld);
    spinfer_status       size_status;
    size_t               needed = 0;
    if (!dense || !result || !workspace) return SPINFER_ERR_NULL;
    if (status != SPINFER_OK) return status;
    if ((uintptr_t)result % 8 || (uintptr_t)workspace % 16) return SPINFER_ERR_ALIGNMENT;
    if (dtype != SPINFER_FP16 && dtype != SPINFER_BF16) return SPINFER_ERR_DTYPE;
    if (threshold > (dtype == SPINFER_BF16 ? 0x7f80u : 0x7c00u)) return SPINFER_ERR_DTYPE; /* above infinity */
    size_status = spinfer_encode_device_bytes(rows, cols, NULL, &needed);
    if (size_status != SPINFER_OK) return size_status;
    if (workspace_bytes < needed) return SPINFER_ERR_CAPACITY;
    memset(args, 0, sizeof *args);
    args->dense = (const uint16_t *)dense;
    args->ld = ld;
    args->rows = (uint32_t)rows;
    args->cols = (uint32_t)cols;
    args->col_groups = spinfer_col_groups(args->cols);
    args->groups = spinfer_row_groups(args->rows) * args->col_groups;
    args->tiles = (args->groups - 1) / SPINFER_ENCODE_WARPS + 1;
    args->above = (0x7fffu - threshold) * 0x10001u;
    args->aligned = ((uintptr_t)dense % 16 | ld % 8) == 0;
    args->capacity = UINT64_MAX;
    args->result = result;
    args->totals = (spinfer_encode_totals *)workspace;
    args->published = (uint64_t *)(args->totals + 1);
    return SPINFER_OK;
}

/* Launches one of the kernels above: a block for each tile of work, but not more than blocks_per_sm for each SM unless
 * that is 0. */
static inline spinfer_status spinfer_detail_launch(const void *kernel, void *args, uint32_t tiles, int blocks_per_sm,
                                                   void *clear, size_t clear_bytes, struct CUstream_st *stream)
{
    spinfer_device       device;
    cudaLaunchConfig_t   config = {};
    const spinfer_status status = spinfer_detail_query(kernel, &device);
    uint32_t             blocks = tiles, most;
    if (status != SPINFER_OK) return status;
    if (device.compute < 80) return SPINFER_ERR_ARCH;
    most = (uint32_t)(device.sm_count * blocks_per_sm);
    if (most > 0 && blocks > most) blocks = most;
    config.gridDim = dim3(blocks);
    config.blockDim = dim3(32, SPINFER_ENCODE_WARPS);
    config.stream = stream;
    if ((clear_bytes && cudaMemsetAsync(clear, 0, clear_bytes, stream) != cudaSuccess) ||
        cudaLaunchKernelExC(&config, kernel, &args) != cudaSuccess)
        return SPINFER_ERR_CUDA;
    return SPINFER_OK;
}

SPINFER_API spinfer_status spinfer_encode_sizes_device(const void *dense, size_t rows, size_t cols, size_t ld,
                                                       spinfer_dtype dtype, uint16_t threshold,
                                                       spinfer_encode_result *result, void *workspace,
                                                       size_t workspace_bytes, struct CUstream_st *stream)
{
    spinfer_encode_args  args;
    const spinfer_status status =
        spinfer_detail_encode_args(dense, rows, cols, ld, dtype, threshold, result, workspace, workspace_bytes, &args);
    if (status != SPINFER_OK) return status;
    return spinfer_detail_launch((const void *)spinfer_encode_sizes_kernel, &args, args.tiles, SPINFER_ENCODE_BLOCKS,
                                 workspace, sizeof *args.totals, stream);
}

SPINFER_API spinfer_status spinfer_encode_device(const void *dense, size_t rows, size_t cols, size_t ld,
                                                 spinfer_dtype dtype, uint16_t threshold, uint32_t *offsets,
                                                 uint64_t offsets_bytes, void *data, uint64_t data_bytes,
                                                 spinfer_matrix *matrix, spinfer_encode_result *result, void *workspace,
                                                 size_t workspace_bytes, struct CUstream_st *stream)
{
    spinfer_encode_args args;
    spinfer_status      status;
    if (!offsets || !data || !matrix) return SPINFER_ERR_NULL;
    status =
        spinfer_detail_encode_args(dense, rows, cols, ld, dtype, threshold, result, workspace, workspace_bytes, &args);
    if (status != SPINFER_OK) return status;
    if ((uintptr_t)offsets % 4 || (uintptr_t)data % 128) return SPINFER_ERR_ALIGNMENT;
    if (offsets_bytes < spinfer_offsets_bytes(rows, cols)) return SPINFER_ERR_CAPACITY;
    if (data_bytes / 128 * 128 < (uint64_t)args.groups * SPINFER_RECORD_VALUES) return SPINFER_ERR_CAPACITY;
    args.offsets = offsets;
    args.data = (unsigned char *)data;
    args.capacity = data_bytes / 128 * 8;
    status = spinfer_detail_launch((const void *)spinfer_encode_kernel, &args, args.tiles, SPINFER_ENCODE_BLOCKS,
                                   workspace, sizeof *args.totals + args.tiles * sizeof *args.published, stream);
    if (status != SPINFER_OK) return status;
    matrix->offsets = offsets;
    matrix->data = data;
    matrix->data_bytes = data_bytes / 128 * 128;
    matrix->rows = args.rows;
    matrix->cols = args.cols;
    matrix->group_ld = args.col_groups;
    matrix->max_record = SPINFER_RECORD_MAX_BYTES;
    matrix->dtype = (uint32_t)dtype;
    matrix->format = SPINFER_FORMAT_VERSION;
    return SPINFER_OK;
}

SPINFER_API spinfer_status spinfer_decompress_device(const spinfer_matrix *W, void *dense, size_t ld,
                                                     struct CUstream_st *stream)
{
    spinfer_decompress_args args;
    spinfer_status          status = spinfer_detail_check_matrix(W);
    uint64_t                groups;
    if (!dense) return SPINFER_ERR_NULL;
    if (status == SPINFER_OK) status = spinfer_detail_check_dense(dense, W->rows, W->cols, ld);
    if (status != SPINFER_OK) return status;
    groups = (uint64_t)spinfer_row_groups(W->rows) * spinfer_col_groups(W->cols);
    if (groups > UINT32_MAX / 17) return SPINFER_ERR_SHAPE; /* more records than 64 GiB hold */
    memset(&args, 0, sizeof args);
    args.W = *W;
    args.dense = (uint16_t *)dense;
    args.ld = ld;
    args.col_groups = spinfer_col_groups(W->cols);
    args.groups = (uint32_t)groups;
    args.aligned = ((uintptr_t)dense % 16 | ld % 8) == 0;
    /* 2.52 TB/s of dense weights; 2.37 with as many blocks as run at a time, which take tiles in turn (H200) */
    return spinfer_detail_launch((const void *)spinfer_decompress_kernel, &args,
                                 (args.groups - 1) / SPINFER_ENCODE_WARPS + 1, 0, NULL, 0, stream);
}

#endif /* !__CUDACC_RTC__ */
#endif /* SPINFER_IMPLEMENTATION */
