/* Risk: 32-bit arithmetic and grid limits. More than 2^31 weights, more than 2^32 bytes of records, columns of X and Y
 * more than 2^31 elements apart, more blocks in one direction than 65535.
 *
 * The large matrix is put together on the GPU from 61 different rows of GroupTiles, so the host needs little memory.
 * Small integers, so every row is compared with ==. */
#define SPINFER_IMPLEMENTATION
#include "gpu.h"

#include <unistd.h>

enum { STRIPS = 61, TOKENS = 3 }; /* 61 is prime: what is off by a power of two lands in another strip */

static size_t strip_of(size_t row_group) { return row_group * 37 % STRIPS; }

/* W has the row groups from first_group on. expected: [STRIPS][TOKENS, 64] */
static void check_rows(const spinfer_matrix *W, size_t first_group, const buffer *X, const uint16_t *expected)
{
    const size_t         M = W->rows;
    const spinfer_device device = require_gpu();
    const spinfer_plan   plan = plan_for(W, TOKENS, &device);
    buffer               Y = buffer_create(2 * M * TOKENS, 0, 0), workspace;
    unsigned char       *now;
    size_t               bytes, token, row;
    CHECK_SPINFER(spinfer_spmm_workspace_bytes(&plan, W, TOKENS, &bytes));
    workspace = buffer_create(bytes, 0, 0);
    CHECK_CUDA(cudaMemset(buffer_payload(&workspace), 0, bytes));
    CHECK_SPINFER(spinfer_spmm(&plan, 1.0f, W, buffer_payload(X), W->cols, 0.0f, buffer_payload(&Y), M, TOKENS,
                               buffer_payload(&workspace), bytes, NULL));
    CHECK_CUDA(cudaDeviceSynchronize());
    now = buffer_download(&Y);
    for (token = 0; token < TOKENS; token++)
        for (row = 0; row < M; row++) {
            const size_t   strip = strip_of(first_group + row / 64);
            const uint16_t y = ((const uint16_t *)(now + Y.front))[token * M + row];
            CHECK(spinfer_to_float(y, SPINFER_FP16) ==
                  spinfer_to_float(expected[(strip * TOKENS + token) * 64 + row % 64], SPINFER_FP16));
        }
    free(now);
    buffer_check_guards(&Y);
    buffer_check_guards(&workspace);
    buffer_free(&Y);
    buffer_free(&workspace);
}

static void test_large_matrix(size_t row_groups, size_t K, double density)
{
    const size_t   groups = spinfer_col_groups((uint32_t)K);
    uint32_t      *offsets = (uint32_t *)allocate(4 * (row_groups * groups + 1)), unit = 0;
    uint16_t      *expected = (uint16_t *)allocate(2 * STRIPS * TOKENS * 64);
    int8_t        *x = (int8_t *)allocate(K * TOKENS), *no_y = (int8_t *)allocate(64 * TOKENS);
    buffer         X = buffer_create(2 * K * TOKENS, 0, 0);
    weights        strips[STRIPS];
    spinfer_matrix W, slice;
    unsigned char *data;
    size_t         row_group, group, i, bytes = 0;

    memset(no_y, 0, 64 * TOKENS);
    for (i = 0; i < K * TOKENS; i++) {
        x[i] = (int8_t)((int)(random_bits(1, i) % 9) - 4);
        ((uint16_t *)buffer_image(&X))[i] = spinfer_from_float((float)x[i], SPINFER_FP16);
    }
    buffer_upload(&X);
    for (i = 0; i < STRIPS; i++) {
        strips[i] = weights_random(64, K, density, SPINFER_FP16, 100 + i);
        integer_product(&strips[i], 1.0f, x, 0.0f, no_y, TOKENS, expected + i * TOKENS * 64);
    }
    for (row_group = 0; row_group < row_groups; row_group++)
        bytes += (size_t)strips[strip_of(row_group)].host.data_bytes;
    CHECK(64 * row_groups * K > (size_t)1 << 31 && bytes > (size_t)1 << 32);

    CHECK_CUDA(cudaMalloc((void **)&data, bytes));
    W = strips[0].device;
    for (row_group = 0; row_group < row_groups; row_group++) {
        const weights *strip = &strips[strip_of(row_group)];
        CHECK_CUDA(cudaMemcpy(data + 16 * (size_t)unit, strip->device.data, (size_t)strip->host.data_bytes,
                              cudaMemcpyDeviceToDevice));
        for (group = 0; group < groups; group++)
            offsets[row_group * groups + group] = unit + strip->host.offsets[group];
        unit += strip->host.offsets[groups];
        if (strip->host.max_record > W.max_record) W.max_record = strip->host.max_record;
    }
    offsets[row_groups * groups] = unit;
    CHECK_CUDA(cudaMalloc((void **)&W.offsets, 4 * (row_groups * groups + 1)));
    CHECK_CUDA(cudaMemcpy((void *)W.offsets, offsets, 4 * (row_groups * groups + 1), cudaMemcpyHostToDevice));
    W.data = data;
    W.data_bytes = bytes;
    W.rows = (uint32_t)(64 * row_groups);

    check_rows(&W, 0, &X, expected);
    CHECK_SPINFER(spinfer_slice_rows(&W, 64 * (row_groups - 3), 192, &slice));
    check_rows(&slice, row_groups - 3, &X, expected);
    printf("%zu x %zu, %.2f GB encoded\n", 64 * row_groups, K, 1e-9 * (double)bytes);

    for (i = 0; i < STRIPS; i++) weights_free(&strips[i]);
    free_device_matrix(&W);
    buffer_free(&X);
    free(offsets);
    free(expected);
    free(x);
    free(no_y);
}

/* The last of nine columns starts more than 2^31 elements behind the first. */
static void test_far_columns(size_t extra)
{
    const size_t ld = ((size_t)1 << 28) + extra, n = 9;
    weights      W = weights_random(130, 200, 0.5, SPINFER_BF16, 3);
    job          j = job_default(&W, n); /* the same multiply with its columns side by side */
    arguments    a;
    void        *X, *Y;
    j.beta = 1.0f;
    job_create(&j, 4);
    CHECK_SPINFER(job_set_plan(&j, NULL));
    CHECK_CUDA(cudaMalloc(&X, 2 * ((n - 1) * ld + W.K)));
    CHECK_CUDA(cudaMalloc(&Y, 2 * ((n - 1) * ld + W.M)));
    CHECK_CUDA(cudaMemcpy2D(X, 2 * ld, buffer_payload(&j.X), 2 * W.K, 2 * W.K, n, cudaMemcpyDeviceToDevice));
    CHECK_CUDA(cudaMemcpy2D(Y, 2 * ld, buffer_payload(&j.Y), 2 * W.M, 2 * W.M, n, cudaMemcpyDeviceToDevice));
    a = job_arguments(&j);
    a.X = X;
    a.Y = Y;
    a.ldx = a.ldy = ld;
    CHECK_SPINFER(launch(&a, NULL));
    CHECK_CUDA(cudaMemcpy2D(buffer_payload(&j.Y), 2 * W.M, Y, 2 * ld, 2 * W.M, n, cudaMemcpyDeviceToDevice));
    CHECK_CUDA(cudaDeviceSynchronize());
    job_check(&j);
    CHECK_CUDA(cudaFree(X));
    CHECK_CUDA(cudaFree(Y));
    job_free(&j);
    weights_free(&W);
    printf("columns %zu elements apart\n", ld);
}

/* One direction with more than 65535 blocks, or as many as the library allows for tokens: 65535 blocks of 64. */
static void test_long(size_t M, size_t K, size_t n)
{
    weights W = weights_random(M, K, 0.7, SPINFER_FP16, 5);
    job     j = job_default(&W, n);
    j.beta = 1.0f;
    job_create(&j, 6);
    job_run(&j, NULL);
    job_free(&j);
    weights_free(&W);
    printf("%zu x %zu x %zu\n", M, K, n);
}

int main(void)
{
    const size_t host_needed = (size_t)2 << 30, gpu_needed = (size_t)10 << 30;
    size_t       free_bytes, total_bytes;
    require_gpu();
    if (small_run()) skip("SPINFER_TEST_SMALL=1");
    if ((size_t)sysconf(_SC_AVPHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE) < host_needed)
        skip("less than 2 GiB of memory free");
    CHECK_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes));
    if (free_bytes < gpu_needed) skip("less than 10 GiB of GPU memory free");
    test_long(1, 1, 65535 * 64);
    test_long(4200001, 1, 1);
    test_long(1, 4200001, 1);
    test_far_columns(0);
    test_far_columns(1);
    test_large_matrix(1024, 40000, 0.8);
    printf("OK\n");
    return 0;
}
