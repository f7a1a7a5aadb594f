/* Risk: memory that is not ours. Reading Y with beta = 0, padding that leaks into results, bytes touched outside of X,
 * Y, the workspace or the encoded arrays, a workspace that is not ready for the next launch.
 *
 * Every job (gpu.h) has NaN in all gaps and guards and checks them afterwards; here are the layouts that provoke. */
#define SPINFER_IMPLEMENTATION
#include "gpu.h"

/* Three plans for every variant: no split, a few splits, and as many as there are columns of GroupTiles. */
enum { WAYS = 3 };
static spinfer_plan make_plan(const spinfer_matrix *W, size_t variant, int way, const spinfer_device *device)
{
    spinfer_plan plan = plan_for_kernel(W, variant, device);
    set_splits(&plan, way == 0 ? 1 : way == 1 ? 3 + (int)variant % 2 : many_splits(W));
    return plan;
}

/* NaN in Y, gaps between the columns, more tokens in the last block than there are, K and M with tails; with guards,
 * and at the very end of the allocations for memcheck. */
static void test_surroundings(const spinfer_device *device)
{
    static const struct {
        size_t M, K, extra_ldx, extra_ldy, x_shift, y_shift;
    } layouts[] = {{65, 130, 0, 0, 0, 0},
                   {100, 200, 8, 3, 0, 0},
                   {63, 97, 1, 1, 2, 2},
                   {1, 129, 7, 0, 0, 6},
                   {128, 256, 0, 0, 0, 0}};
    size_t layout, variant;
    for (layout = 0; layout < (small_run() ? 2 : COUNT(layouts)); layout++) {
        weights W =
            weights_random(layouts[layout].M, layouts[layout].K, 0.6, layout & 1 ? SPINFER_BF16 : SPINFER_FP16, layout);
        for (variant = 0; variant < SPINFER_KERNELS; variant++) {
            int way, tight, beta;
            for (way = 0; way < WAYS; way++) {
                const spinfer_plan plan = make_plan(&W.device, variant, way, device);
                for (tight = 0; tight < 2; tight++)
                    for (beta = 0; beta < 2; beta++) {
                        const size_t n = (size_t)kernel_tokens[variant] + 1 - 2 * (size_t)beta; /* one more, one less */
                        job          j = job_default(&W, n);
                        j.ldx += layouts[layout].extra_ldx;
                        j.ldy += layouts[layout].extra_ldy;
                        j.x_shift = layouts[layout].x_shift;
                        j.y_shift = layouts[layout].y_shift;
                        j.tight = tight;
                        j.beta = (float)beta;
                        job_create(&j, variant);
                        job_run(&j, &plan);
                        job_free(&j);
                    }
            }
        }
        weights_free(&W);
    }
}

/* NaN and infinity of both dtypes in Y with beta = 0: nothing of it shows. */
static void test_y_is_not_read(void)
{
    static const uint16_t poison[] = {0x7e00, 0x7c01, 0xfc00, 0x7f80, 0x7fff, 0xffff};
    weights               W = weights_random(70, 90, 0.5, SPINFER_FP16, 3);
    job                   j = job_default(&W, 5);
    size_t                i, element;
    job_create(&j, 4);
    for (i = 0; i < COUNT(poison); i++) {
        for (element = 0; element < j.n * j.ldy; element++) ((uint16_t *)buffer_image(&j.Y))[element] = poison[i];
        buffer_upload(&j.Y);
        job_run(&j, NULL);
    }
    job_free(&j);
    weights_free(&W);
}

/* The encoded arrays are only read, and what lies around them (0xff) does not matter. */
static void test_encoded_arrays(const spinfer_device *device)
{
    weights      W = weights_random(130, 330, 0.5, SPINFER_FP16, 5), moved = W;
    const size_t offsets_bytes = (size_t)spinfer_offsets_bytes(W.M, W.K);
    size_t       variant;
    int          way, aligned;
    for (variant = 0; variant < SPINFER_KERNELS; variant++)
        for (way = 0; way < WAYS; way++)
            for (aligned = 0; aligned < 2; aligned++) {
                buffer       offsets = buffer_create(offsets_bytes, 4, 0);            /* 4-byte aligned, no more   */
                buffer       data = buffer_create((size_t)W.host.data_bytes, 128, 0); /* 128-byte aligned, no more */
                job          j = job_default(&moved, 9);
                spinfer_plan plan;
                memcpy(buffer_image(&offsets), W.host.offsets, offsets_bytes);
                memcpy(buffer_image(&data), W.host.data, (size_t)W.host.data_bytes);
                buffer_upload(&offsets);
                buffer_upload(&data);
                moved.device.offsets = (const uint32_t *)buffer_payload(&offsets);
                moved.device.data = buffer_payload(&data);
                if (aligned) j.ldx = 336; /* 16-byte aligned columns of X are loaded in another way */
                plan = make_plan(&moved.device, variant, way, device);
                job_create(&j, 6);
                job_run(&j, &plan);
                job_free(&j);
                buffer_check_unchanged(&offsets);
                buffer_check_unchanged(&data);
                buffer_free(&offsets);
                buffer_free(&data);
            }
    weights_free(&W);
}

/* One workspace for launches of different shapes, variants and splits, cleared once and as large as the largest needs.
 * Each leaves zeros: in what it asked for, because the next one takes anything else for a sum, and behind that. */
static void test_workspace_reuse(const spinfer_device *device)
{
    enum { LAUNCHES = 7 };
    static const struct {
        size_t M, K, n;
        int    splits;
    } launches[LAUNCHES] = {{300, 400, 33, 3}, {64, 96, 1, 2},    {700, 300, 64, 4},  {65, 2000, 7, 8},
                            {1, 3000, 2, 90},  {300, 400, 33, 3}, {129, 700, 100, 22}};
    weights      weight[LAUNCHES];
    spinfer_plan plans[LAUNCHES];
    buffer       workspace;
    size_t       i, largest = 0, round;
    for (i = 0; i < LAUNCHES; i++) {
        size_t bytes;
        weight[i] = weights_random(launches[i].M, launches[i].K, 0.5, SPINFER_FP16, 20 + i);
        plans[i] = plan_for(&weight[i].device, launches[i].n, device);
        set_splits(&plans[i], launches[i].splits);
        CHECK_SPINFER(spinfer_spmm_workspace_bytes(&plans[i], &weight[i].device, launches[i].n, &bytes));
        CHECK(bytes > 0);
        if (bytes > largest) largest = bytes;
    }
    workspace = buffer_create(largest, 0, 0);
    memset(buffer_image(&workspace), 0, largest);
    buffer_upload(&workspace);
    for (round = 0; round < (small_run() ? 1 : 20); round++)
        for (i = 0; i < LAUNCHES; i++) {
            job       j = job_default(&weight[i], launches[i].n);
            arguments a;
            job_create(&j, 30 + round);
            CHECK_SPINFER(job_set_plan(&j, &plans[i]));
            a = job_arguments(&j);
            a.workspace = buffer_payload(&workspace);
            a.workspace_bytes = workspace.bytes;
            CHECK_SPINFER(launch(&a, NULL));
            CHECK_CUDA(cudaDeviceSynchronize());
            job_check(&j);
            buffer_check_unchanged(&workspace);
            job_free(&j);
        }
    buffer_free(&workspace);
    for (i = 0; i < LAUNCHES; i++) weights_free(&weight[i]);
}

/* Launches of different plans share a workspace in stream order, with no synchronisation in between: what one sends
 * lies where the next one expects to find zeros. */
static void test_workspace_in_stream_order(const spinfer_device *device)
{
    enum { JOBS = 3 };
    static const size_t n[JOBS] = {5, 30, 130};
    const int           repeats = small_run() ? 2 : 100;
    weights             W = weights_random(200, 900, 0.5, SPINFER_BF16, 40);
    spinfer_plan        plans[JOBS];
    job                 jobs[JOBS];
    buffer              workspace;
    size_t              i, largest = 0;
    int                 repeat;
    for (i = 0; i < JOBS; i++) {
        plans[i] = make_plan(&W.device, i, i == 1 ? 1 : 2, device);
        jobs[i] = job_default(&W, n[i]);
        job_create(&jobs[i], 41 + i);
        CHECK_SPINFER(job_set_plan(&jobs[i], &plans[i]));
        CHECK(jobs[i].workspace.bytes > 0);
        if (jobs[i].workspace.bytes > largest) largest = jobs[i].workspace.bytes;
    }
    workspace = buffer_create(largest, 0, 0);
    memset(buffer_image(&workspace), 0, largest);
    buffer_upload(&workspace);
    for (repeat = 0; repeat < repeats; repeat++)
        for (i = 0; i < JOBS; i++) {
            arguments a = job_arguments(&jobs[i]);
            a.workspace = buffer_payload(&workspace);
            a.workspace_bytes = workspace.bytes;
            CHECK_SPINFER(launch(&a, NULL));
        }
    CHECK_CUDA(cudaDeviceSynchronize());
    buffer_check_unchanged(&workspace);
    for (i = 0; i < JOBS; i++) {
        job_check(&jobs[i]);
        job_free(&jobs[i]);
    }
    buffer_free(&workspace);
    weights_free(&W);
}

/* A NaN weight is its row's business and a NaN token is its column's: all other elements stay exact. The weight itself
 * must arrive, so its row is NaN for every token, through the workspace too, where NaN is a message like any other. */
static void test_nan_stays(const spinfer_device *device)
{
    const size_t M = 150, K = 170, bad_row = 77, bad_col = 101, bad_token = 4;
    int8_t      *integers = random_integers(M, K, 0.5, 7);
    weights      W, poisoned;
    size_t       variant;
    int          way;
    integers[bad_row * K + bad_col] = 1;
    W = weights_create(integers, M, K, SPINFER_FP16);
    poisoned = W;
    { /* the same bitmaps with one other value */
        uint16_t *dense = (uint16_t *)allocate(2 * M * K);
        CHECK_SPINFER(spinfer_decode(&W.host, dense, K));
        dense[bad_row * K + bad_col] = 0xfd55;
        poisoned.host = encode_matrix(dense, M, K, SPINFER_FP16);
        poisoned.device = upload_matrix(&poisoned.host);
        free(dense);
    }
    for (variant = 0; variant < SPINFER_KERNELS; variant++)
        for (way = 0; way < WAYS; way++) {
            const spinfer_plan plan = make_plan(&W.device, variant, way, device);
            job                j = job_default(&poisoned, (size_t)kernel_tokens[variant] - 1);
            unsigned char     *now;
            const uint16_t    *y;
            size_t             token, row;
            job_create(&j, 8);
            ((uint16_t *)buffer_image(&j.X))[bad_token * j.ldx + 3] = 0x7e00;
            buffer_upload(&j.X);
            CHECK_SPINFER(job_set_plan(&j, &plan));
            CHECK_SPINFER(job_launch(&j, NULL));
            CHECK_CUDA(cudaDeviceSynchronize());
            if (j.workspace.bytes) buffer_check_unchanged(&j.workspace);
            now = buffer_download(&j.Y);
            y = (const uint16_t *)(now + j.Y.front);
            for (token = 0; token < j.n; token++)
                for (row = 0; row < M; row++) {
                    const float value = spinfer_to_float(y[token * j.ldy + row], SPINFER_FP16);
                    if (row == bad_row) {
                        CHECK(value != value);
                    } else if (token != bad_token) {
                        CHECK(value == spinfer_to_float(j.expected[token * M + row], SPINFER_FP16));
                    }
                }
            free(now);
            job_free(&j);
        }
    free_matrix(&poisoned.host);
    free_device_matrix(&poisoned.device);
    weights_free(&W);
}

int main(void)
{
    const spinfer_device device = require_gpu();
    test_surroundings(&device);
    test_y_is_not_read();
    test_encoded_arrays(&device);
    test_workspace_reuse(&device);
    test_workspace_in_stream_order(&device);
    test_nan_stays(&device);
    printf("OK\n");
    return 0;
}
