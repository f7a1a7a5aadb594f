/* bench_encode - how fast the host encodes and decodes, in GB of dense 16-bit input (or output) for each second.
 *
 *   bench_encode [rows [cols [repeats]]]      default 4096 4096 9
 *
 * Every case is decoded and compared bit by bit before it is timed; a wrong result is not timed. Medians of wall time,
 * with one thread, and with all that OpenMP offers where the compiler has it. `encode` is the whole call, its capacity
 * check included; `sizes` is the pass that a caller needs before it, to allocate. */
#include <time.h>

#include "common.h"
#ifdef _OPENMP
#include <omp.h>
#endif

typedef struct {
    size_t         rows, cols;
    uint16_t      *dense, *decoded;
    spinfer_sizes  sizes;
    uint32_t      *offsets;
    void          *data;
    spinfer_matrix W;
} job;

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void run_sizes(job *j) { CHECK_SPINFER(spinfer_encode_sizes(j->dense, j->rows, j->cols, j->cols, &j->sizes)); }

static void run_encode(job *j)
{
    CHECK_SPINFER(spinfer_encode(j->dense, j->rows, j->cols, j->cols, SPINFER_FP16, j->offsets, j->sizes.offsets_bytes,
                                 j->data, j->sizes.data_bytes, &j->W));
}

static void run_decode(job *j) { CHECK_SPINFER(spinfer_decode(&j->W, j->decoded, j->cols)); }

static int compare_doubles(const void *a, const void *b)
{
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

/* GB/s of dense data at the median time. */
static double rate(void (*run)(job *), job *j, int repeats)
{
    double *times = (double *)allocate((size_t)repeats * sizeof *times), median;
    int     i;
    for (i = 0; i < repeats; i++) {
        const double begin = seconds();
        run(j);
        times[i] = seconds() - begin;
    }
    qsort(times, (size_t)repeats, sizeof *times, compare_doubles);
    median = times[repeats / 2];
    free(times);
    return 2e-9 * (double)j->rows * (double)j->cols / median;
}

static void bench(size_t rows, size_t cols, double zeros, int repeats, int threads)
{
    job j;
    j.rows = rows, j.cols = cols;
    j.dense = (uint16_t *)allocate(2 * rows * cols);
    j.decoded = (uint16_t *)allocate(2 * rows * cols);
    fill_normal(j.dense, rows * cols, 0.02, SPINFER_FP16, 1);
    prune_iid(j.dense, rows, cols, zeros, 2);
    run_sizes(&j);
    j.offsets = (uint32_t *)allocate((size_t)j.sizes.offsets_bytes);
    j.data = allocate((size_t)j.sizes.data_bytes);
    run_encode(&j);
    run_decode(&j);
    CHECK(memcmp(j.dense, j.decoded, 2 * rows * cols) == 0);
    printf("%zu,%zu,%.0f,%d", rows, cols, 100 * zeros, threads);
    printf(",%.3f", rate(run_sizes, &j, repeats));
    printf(",%.3f", rate(run_encode, &j, repeats));
    printf(",%.3f\n", rate(run_decode, &j, repeats));
    free(j.dense);
    free(j.decoded);
    free_matrix(&j.W);
}

int main(int argc, char **argv)
{
    static const double zeros[] = {0.3, 0.5, 0.7};
    const size_t        rows = argc > 1 ? (size_t)strtoul(argv[1], NULL, 10) : 4096;
    const size_t        cols = argc > 2 ? (size_t)strtoul(argv[2], NULL, 10) : 4096;
    const int           repeats = argc > 3 ? atoi(argv[3]) : 9;
#ifdef _OPENMP
    const int all = omp_get_max_threads();
#endif
    int i;
    if (repeats < 1 || rows < 1 || cols < 1) {
        fprintf(stderr, "usage: %s [rows [cols [repeats]]]\n", argv[0]);
        return 1;
    }
    printf("# spinfer %d.%d.%d, format %d\n", SPINFER_VERSION_MAJOR, SPINFER_VERSION_MINOR, SPINFER_VERSION_PATCH,
           SPINFER_FORMAT_VERSION);
#ifdef __VERSION__
    printf("# compiler %s\n", __VERSION__);
#endif
#ifdef _OPENMP
    printf("# OpenMP, %d threads\n", all);
#else
    printf("# no OpenMP\n");
#endif
    printf("# GB/s of dense 16-bit weights, median of %d\n", repeats);
    printf("rows,cols,zeros_percent,threads,sizes_gbs,encode_gbs,decode_gbs\n");
    for (i = 0; i < 3; i++) {
#ifdef _OPENMP
        omp_set_num_threads(1);
#endif
        bench(rows, cols, zeros[i], repeats, 1);
#ifdef _OPENMP
        omp_set_num_threads(all);
        if (all > 1) bench(rows, cols, zeros[i], repeats, all);
#endif
    }
    return 0;
}
