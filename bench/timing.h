/* timing.h - the time of a launch, from CUDA graphs of many, and the read bandwidth that it is held against. */
#ifndef SPINFER_BENCH_TIMING_H
#define SPINFER_BENCH_TIMING_H

#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common.h"

/* What every measurement of a run shares. */
typedef struct bench {
    cudaStream_t stream;
    cudaEvent_t  start, stop;
    int          repeats; /* replays of a graph; the median counts          */
    size_t       l2_bytes;
    int          hot;       /* 1: one copy of the weights, which may sit in L2 */
    double       warm_up;   /* seconds of replays before a timing; 0: one      */
    double       bandwidth; /* GB/s that a plain read kernel reaches           */
} bench;

/* Seconds after which a GPU that was idle is as fast as it will be for some time: an H200 runs at a lower clock for its
 * first 3 ms, in which 49152 x 12288 with one token takes 184 us, afterwards 159. */
#define WAKE_UP 0.01

typedef struct timing {
    double us;     /* median of the replays, for one launch   */
    double spread; /* (slowest - fastest) / median            */
} timing;

static inline double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Launches once on the given stream, with copy number `copy` of the weights. */
typedef void launch_function(const void *context, int copy, cudaStream_t stream);

static inline int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts the samples. */
static inline timing summarize(double *samples, int count)
{
    timing t;
    qsort(samples, (size_t)count, sizeof *samples, compare_doubles);
    t.us = count % 2 ? samples[count / 2] : 0.5 * (samples[count / 2 - 1] + samples[count / 2]);
    t.spread = (samples[count - 1] - samples[0]) / t.us;
    return t;
}

/* Copies of `bytes` of weights so that none is left in L2 when its turn comes again: together more than 3x L2. */
static inline int copies_beyond_l2(const bench *b, size_t bytes)
{
    const size_t copies = 3 * b->l2_bytes / bytes + 1;
    return b->hot ? 1 : copies < 2 ? 2 : (int)copies;
}

/* Times a launch that reads `bytes`. The graph holds whole rounds over the copies, so that every copy waits equally
 * long for its turn, also from one replay to the next. It holds enough of them for about 300 us, in which the start of
 * a replay is lost: no cold launch is faster than its bytes, nor than 2 us. */
static inline timing time_launches(const bench *b, launch_function *launch, const void *context, int copies,
                                   double bytes)
{
    const double    fastest_us = bytes / (1e3 * b->bandwidth) + 2;
    const int       rounds = (int)ceil(300 / (fastest_us * copies)), launches = copies * rounds;
    double         *samples = (double *)allocate((size_t)b->repeats * sizeof *samples);
    cudaGraph_t     graph;
    cudaGraphExec_t replay;
    timing          t;
    double          begin;
    int             i;
    launch(context, 0, b->stream); /* loads the kernel and sets its attributes, neither of which may be captured */
    CHECK_CUDA(cudaStreamSynchronize(b->stream));
    CHECK_CUDA(cudaStreamBeginCapture(b->stream, cudaStreamCaptureModeThreadLocal));
    for (i = 0; i < launches; i++) launch(context, i % copies, b->stream);
    CHECK_CUDA(cudaStreamEndCapture(b->stream, &graph));
    CHECK_CUDA(cudaGraphInstantiateWithFlags(&replay, graph, 0));
    begin = seconds();
    do {
        CHECK_CUDA(cudaGraphLaunch(replay, b->stream));
        CHECK_CUDA(cudaStreamSynchronize(b->stream));
    } while (seconds() - begin < b->warm_up);
    for (i = 0; i < b->repeats; i++) {
        float ms;
        CHECK_CUDA(cudaEventRecord(b->start, b->stream));
        CHECK_CUDA(cudaGraphLaunch(replay, b->stream));
        CHECK_CUDA(cudaEventRecord(b->stop, b->stream));
        CHECK_CUDA(cudaEventSynchronize(b->stop));
        CHECK_CUDA(cudaEventElapsedTime(&ms, b->start, b->stop));
        samples[i] = 1e3 * (double)ms / launches;
    }
    CHECK_CUDA(cudaGraphExecDestroy(replay));
    CHECK_CUDA(cudaGraphDestroy(graph));
    t = summarize(samples, b->repeats);
    free(samples);
    return t;
}

/* ---- Read bandwidth -------------------------------------------------------------------------- */

enum { READ_THREADS = 256, READ_BLOCKS_PER_SM = 4, READ_UNROLL = 8 };

static __global__ void fill_kernel(uint4 *words, size_t count)
{
    size_t i;
    for (i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) {
        const uint32_t hash = ((uint32_t)i ^ (uint32_t)(i >> 32)) * 0x9e3779b9u;
        words[i] = make_uint4(hash, hash * 0x85ebca6bu, hash * 0xc2b2ae35u, ~hash);
    }
}

/* The sum is stored only if it has one certain value, which the compiler cannot rule out. */
static __global__ void __launch_bounds__(READ_THREADS, READ_BLOCKS_PER_SM)
    read_kernel(const uint4 *words, size_t count, uint32_t *sink)
{
    const size_t stride = (size_t)gridDim.x * blockDim.x;
    uint32_t     sum = 0;
    size_t       i;
    for (i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += READ_UNROLL * stride) {
        uint4 word[READ_UNROLL];
        int   k;
#pragma unroll
        for (k = 0; k < READ_UNROLL; k++) word[k] = words[i + (size_t)k * stride];
#pragma unroll
        for (k = 0; k < READ_UNROLL; k++) sum += word[k].x ^ word[k].y ^ word[k].z ^ word[k].w;
    }
    if (sum == 0x12345678u) *sink = sum;
}

/* GB/s at which a kernel that does nothing else reads up to 8 GB. */
static inline double measure_bandwidth(const bench *b)
{
    double    samples[9];
    size_t    free_bytes, total, count, step;
    int       device, sms, i;
    uint4    *words;
    uint32_t *sink;
    CHECK_CUDA(cudaGetDevice(&device));
    CHECK_CUDA(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));
    CHECK_CUDA(cudaMemGetInfo(&free_bytes, &total));
    step = (size_t)(READ_UNROLL * READ_BLOCKS_PER_SM * READ_THREADS) * (size_t)sms; /* no tail to treat */
    count = (free_bytes / 2 < (size_t)8e9 ? free_bytes / 2 : (size_t)8e9) / sizeof *words / step * step;
    CHECK_CUDA(cudaMalloc((void **)&words, count * sizeof *words));
    CHECK_CUDA(cudaMalloc((void **)&sink, sizeof *sink));
    fill_kernel<<<sms * READ_BLOCKS_PER_SM, READ_THREADS, 0, b->stream>>>(words, count);
    CHECK_CUDA(cudaGetLastError());
    for (i = -1; i < 9; i++) { /* the first is a warm-up */
        float ms;
        CHECK_CUDA(cudaEventRecord(b->start, b->stream));
        read_kernel<<<sms * READ_BLOCKS_PER_SM, READ_THREADS, 0, b->stream>>>(words, count, sink);
        CHECK_CUDA(cudaGetLastError());
        CHECK_CUDA(cudaEventRecord(b->stop, b->stream));
        CHECK_CUDA(cudaEventSynchronize(b->stop));
        CHECK_CUDA(cudaEventElapsedTime(&ms, b->start, b->stop));
        if (i >= 0) samples[i] = 1e3 * (double)ms;
    }
    CHECK_CUDA(cudaFree(words));
    CHECK_CUDA(cudaFree(sink));
    return (double)(count * sizeof *words) / (1e3 * summarize(samples, 9).us);
}

/* Stream, events, L2 and, unless it is given (> 0), the bandwidth. */
static inline bench open_bench(int repeats, double bandwidth)
{
    bench b;
    int   device, l2;
    memset(&b, 0, sizeof b);
    b.repeats = repeats;
    CHECK_CUDA(cudaGetDevice(&device));
    CHECK_CUDA(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, device));
    b.l2_bytes = (size_t)l2;
    CHECK_CUDA(cudaStreamCreate(&b.stream));
    CHECK_CUDA(cudaEventCreate(&b.start));
    CHECK_CUDA(cudaEventCreate(&b.stop));
    b.bandwidth = bandwidth > 0 ? bandwidth : measure_bandwidth(&b);
    return b;
}

static inline void close_bench(bench *b)
{
    CHECK_CUDA(cudaEventDestroy(b->stop));
    CHECK_CUDA(cudaEventDestroy(b->start));
    CHECK_CUDA(cudaStreamDestroy(b->stream));
}

#endif /* SPINFER_BENCH_TIMING_H */
