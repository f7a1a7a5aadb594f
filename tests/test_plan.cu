/* Risk: the planner divides by zero, oversubscribes shared memory or asks for what a GPU lacks, on a machine that
 * nobody here has; the estimate does not say what was measured.
 *
 * spinfer_spmm_plan() and spinfer_spmm_estimate() are pure host functions: no GPU is needed, and the matrix may be one
 * that nobody can store. */
#define SPINFER_IMPLEMENTATION
#include "common.h"
#include "spinfer.cuh"
#include <stddef.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static const struct {
    const char    *name;
    spinfer_device device;
} gpus[] = {{"A100", {108, 166912, 80, 1410, 1910, 0}},       {"RTX 3090", {82, 101376, 86, 1695, 880, 0}},
            {"RTX 4090", {128, 101376, 89, 2520, 940, 0}},    {"L4", {58, 101376, 89, 2040, 280, 0}},
            {"H200", {132, 232448, 90, 1980, 4640, 0}},       {"B200", {148, 232448, 100, 1965, 7500, 0}},
            {"RTX 5090", {170, 101376, 120, 2407, 1680, 0}},  {"one SM", {1, 101376, 80, 0, 0, 0}},
            {"H200, wgmma", {132, 232448, 90, 1980, 4640, 1}}};
enum { H200 = 4, H200_WGMMA = 8 };

static const uint32_t dims[] = {
    1,    7,    8,    31,   32,   33,    63,    64,    65,    127,    129,     512,      1000,
    1376, 1440, 4096, 7392, 8192, 11008, 14336, 28672, 50272, 151936, 1000003, 1u << 24, SPINFER_MAX_DIM};
static const size_t   token_counts[] = {1,  2,  3,  4,  7,  8,   9,   15,  16,  17,   24,   31,    32,
                                        33, 48, 63, 64, 65, 100, 128, 130, 512, 1000, 4096, 65537, 1u << 20};
static const uint32_t max_records[] = {272, 1536, 2320, 3120, SPINFER_RECORD_MAX_BYTES};

/* A matrix whose arrays would fault if the planner read them. */
static spinfer_matrix matrix(uint32_t rows, uint32_t cols, uint32_t max_record, spinfer_dtype dtype)
{
    spinfer_matrix W;
    memset(&W, 0, sizeof W);
    W.offsets = (const uint32_t *)16;
    W.data = (const void *)16;
    W.rows = rows;
    W.cols = cols;
    W.group_ld = spinfer_col_groups(cols);
    W.max_record = max_record;
    W.data_bytes = 16ull * UINT32_MAX;
    W.dtype = dtype;
    W.format = SPINFER_FORMAT_VERSION;
    return W;
}

/* How many teams of helpers have a part of the tail of a strip, at most: they take equal shares, whole stages, of all
 * tails one behind the other. */
static size_t most_helpers(const spinfer_plan *p, size_t strips)
{
    const size_t teams = (size_t)p->helpers * (size_t)p->splits * (size_t)p->strips * (size_t)p->warps_k;
    const size_t tail = (size_t)p->tail, stages = strips * tail / (size_t)p->team;
    const size_t even = (stages + teams - 1) / teams * (size_t)p->team;
    const size_t share = spinfer_uses_wgmma(p->team, p->tokens) && even < tail ? tail : even; /* or a whole tail */
    size_t       strip, most = 0;
    for (strip = 0; strip < strips && strip < 2000; strip++) {
        const size_t first = strip * tail / share, last = ((strip + 1) * tail - 1) / share;
        CHECK(last < teams);
        if (last - first + 1 > most) most = last - first + 1;
    }
    return most;
}

/* 64 x tokens sums of each strip of each block, from all splits but the last, which receives them, and from helpers. */
static void check_workspace(const spinfer_plan *p, const spinfer_matrix *W, size_t n, size_t bytes)
{
    const size_t strips =
        ((size_t)spinfer_row_groups(W->rows) + (size_t)p->strips - 1) / (size_t)p->strips * (size_t)p->strips;
    const size_t tokens = (n + (size_t)p->tokens - 1) / (size_t)p->tokens * (size_t)p->tokens;
    const size_t sums = strips * 64 * tokens * sizeof(float), splits = (size_t)p->splits - 1;
    if (p->helpers) {
        const size_t most = most_helpers(p, spinfer_row_groups(W->rows));
        CHECK(bytes == (splits + most) * sums || bytes == (splits + most + 1) * sums); /* other strips may have more */
    } else {
        CHECK(bytes == splits * sums);
    }
}

static void check_plan(const spinfer_matrix *W, size_t n, const spinfer_device *device, const char *name)
{
    spinfer_plan p, again;
    size_t       bytes = ~(size_t)0;
    memset(&p, 0x00, sizeof p); /* what was in the plan does not matter */
    memset(&again, 0xff, sizeof again);
    if (spinfer_spmm_plan(W, n, device, &p) != SPINFER_OK || spinfer_spmm_plan(W, n, device, &again) != SPINFER_OK ||
        spinfer_spmm_workspace_bytes(&p, W, n, &bytes) != SPINFER_OK) {
        fprintf(stderr, "no plan: %u x %u, %zu tokens, records of %u, %s\n", W->rows, W->cols, n, W->max_record, name);
        exit(1);
    }
    CHECK(memcmp(&p, &again, sizeof p) == 0);
    CHECK(p.tokens == 8 || p.tokens == 16 || p.tokens == 32 || p.tokens == 64);
    CHECK(p.team == (p.tokens < 64 ? 1 : 2) || (p.tokens == 64 && p.team == 4 && device->wgmma));
    CHECK(p.strips >= 1 && p.warps_k >= 1);
    CHECK(p.strips * p.warps_k * p.team <= (p.team == 4 ? 20 : device->compute / 10 != 9 || p.tokens >= 32 ? 16 : 28));
    CHECK(p.stages >= 2 && p.stages <= 8);
    CHECK(p.splits >= 1 && (uint32_t)p.splits <= spinfer_col_groups(W->cols)); /* no split without columns */
    CHECK(p.dependent == 0 || p.dependent == 1);
    CHECK(p.x_cols >= 1 && p.x_cols % (p.warps_k * p.team) == 0 && p.x_pieces >= 1 && p.x_pieces <= 16);
    CHECK(p.x_pieces == 1 || p.x_cols % 2 == 0); /* boxes have two columns */
    CHECK(p.x_pieces > 1 || (uint64_t)p.x_cols * p.splits + p.tail >= spinfer_col_groups(W->cols)); /* one: all of K */
    CHECK(device->compute >= 90 || !p.dependent);
    CHECK(p.helpers >= 0 && !p.helpers == !p.tail && (p.helpers == 0 || p.tokens >= 32));
    CHECK(p.tail % p.team == 0 && p.tail <= p.x_cols * p.x_pieces); /* X of the tail is brought once */
    CHECK(!p.tail || p.team > 1 || (spinfer_col_groups(W->cols) - (uint32_t)p.tail) % 2 == 0); /* and in whole lines */
    CHECK((uint64_t)p.tail + p.splits <= spinfer_col_groups(W->cols));
    if (p.helpers) { /* they take SMs that would be idle, not turns */
        const size_t blocks = spinfer_plan_row_groups(&p, W->rows) + (size_t)p.helpers;
        CHECK(blocks * p.splits * ((n - 1) / (size_t)p.tokens + 1) <= (size_t)device->sm_count);
    }
    check_workspace(&p, W, n, bytes);
    /* at the very least, the buffered records and the pieces of X fit */
    CHECK((uint64_t)p.strips * p.warps_k * p.stages * p.team * W->max_record +
              (uint64_t)p.x_pieces * p.x_cols * SPINFER_GROUP_COLS * p.tokens * 2 <=
          (uint64_t)device->smem_per_block);
}

static void test_refusals(void)
{
    const spinfer_matrix W = matrix(4096, 4096, 2320, SPINFER_FP16);
    const spinfer_device h200 = {132, 232448, 90, 1980, 4640, 0}, turing = {72, 65536, 75, 0, 0, 0};
    const spinfer_device tiny = {132, 1024, 90, 0, 0, 0};
    spinfer_matrix       bad;
    spinfer_plan         plan, before;
    size_t               bytes = 123;
    memset(&plan, 0x55, sizeof plan);
    before = plan;
    CHECK(spinfer_spmm_plan(NULL, 16, &h200, &plan) == SPINFER_ERR_NULL);
    CHECK(spinfer_spmm_plan(&W, 16, NULL, &plan) == SPINFER_ERR_NULL);
    CHECK(spinfer_spmm_plan(&W, 16, &h200, NULL) == SPINFER_ERR_NULL);
    CHECK(spinfer_spmm_plan(&W, 0, &h200, &plan) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_spmm_plan(&W, 16, &turing, &plan) == SPINFER_ERR_ARCH);
    CHECK(spinfer_spmm_plan(&W, 16, &tiny, &plan) == SPINFER_ERR_SMEM);
    bad = W, bad.format = 99;
    CHECK(spinfer_spmm_plan(&bad, 16, &h200, &plan) == SPINFER_ERR_VERSION);
    bad = W, bad.dtype = 3;
    CHECK(spinfer_spmm_plan(&bad, 16, &h200, &plan) == SPINFER_ERR_DTYPE);
    bad = W, bad.rows = 0;
    CHECK(spinfer_spmm_plan(&bad, 16, &h200, &plan) == SPINFER_ERR_SHAPE);
    bad = W, bad.max_record = SPINFER_RECORD_MAX_BYTES + 16;
    CHECK(spinfer_spmm_plan(&bad, 16, &h200, &plan) == SPINFER_ERR_FORMAT);
    CHECK(memcmp(&plan, &before, sizeof plan) == 0);

    CHECK(spinfer_spmm_workspace_bytes(&plan, &W, 16, &bytes) == SPINFER_ERR_PLAN);
    CHECK_SPINFER(spinfer_spmm_plan(&W, 16, &h200, &plan));
    CHECK(spinfer_spmm_workspace_bytes(NULL, &W, 16, &bytes) == SPINFER_ERR_NULL);
    CHECK(spinfer_spmm_workspace_bytes(&plan, NULL, 16, &bytes) == SPINFER_ERR_NULL);
    CHECK(spinfer_spmm_workspace_bytes(&plan, &W, 16, NULL) == SPINFER_ERR_NULL);
    CHECK(spinfer_spmm_workspace_bytes(&plan, &W, 0, &bytes) == SPINFER_ERR_SHAPE);
    CHECK(bytes == 123);
}

/* GPUs with hardly any shared memory: a plan that fits, or none. */
static void test_small_memory(void)
{
    const spinfer_matrix W = matrix(4096, 4096, 2320, SPINFER_FP16);
    int                  bytes, planned = 0, refused = 0;
    for (bytes = 0; bytes <= 65536; bytes += 64) {
        const spinfer_device device = {132, bytes, 90, 0, 0, 0};
        spinfer_plan         plan;
        const spinfer_status status = spinfer_spmm_plan(&W, 16, &device, &plan);
        if (status == SPINFER_OK) {
            check_plan(&W, 16, &device, "a GPU with little shared memory");
            planned++;
        } else {
            CHECK(status == SPINFER_ERR_SMEM);
            refused++;
        }
    }
    CHECK(planned > 0 && refused > 0);
}

/* A kernel with shared memory of its own: the plan leaves room for it, or there is none. */
static void test_own_memory(void)
{
    static const uint32_t own[] = {0,      1,      96,      4096,        60000,          100000,
                                   160000, 220000, 1000000, 0x7fffffffu, UINT32_MAX - 1, UINT32_MAX};
    const spinfer_matrix  W = matrix(4096, 4096, 2320, SPINFER_FP16);
    size_t                i, gpu;
    int                   planned = 0, refused = 0, others = 0;
    for (i = 0; i < SPINFER_KERNELS * COUNT(own); i++)
        for (gpu = 0; gpu < COUNT(gpus); gpu++) {
            const spinfer_device *device = &gpus[gpu].device;
            spinfer_kernel        kernel = spinfer_spmm_fp16[i % SPINFER_KERNELS];
            const size_t          n = (size_t)kernel.tokens;
            spinfer_plan          plan, without;
            spinfer_status        status;
            spinfer_smem          smem;
            kernel.own_bytes = own[i / SPINFER_KERNELS];
            if (spinfer_uses_wgmma(kernel.team, kernel.tokens) && !device->wgmma) {
                CHECK(spinfer_kernel_plan(&kernel, 1, &W, n, device, &plan) == SPINFER_ERR_PLAN);
                continue;
            }
            status = spinfer_kernel_plan(&kernel, 1, &W, n, device, &plan);
            if (status != SPINFER_OK) {
                CHECK(status == SPINFER_ERR_SMEM && kernel.own_bytes > 50000);
                refused++;
                continue;
            }
            planned++;
            smem = spinfer_smem_layout(&plan, W.max_record, kernel.own_bytes);
            CHECK(smem.total + 64 <= (uint32_t)device->smem_per_block);
            CHECK(smem.rings - smem.own >= kernel.own_bytes);
            CHECK_SPINFER(spinfer_kernel_plan(&spinfer_spmm_fp16[i % SPINFER_KERNELS], 1, &W, n, device, &without));
            if (kernel.own_bytes == 0) CHECK(memcmp(&plan, &without, sizeof plan) == 0);
            others += memcmp(&plan, &without, sizeof plan) != 0;
        }
    CHECK(planned > 0 && refused > 0 && others > 0);
}

/* Few rows and many tokens: a kernel for fewer tokens, in several blocks, instead of many splits. Not if there are rows
 * for all SMs, and never a kernel for more tokens than are needed. */
static void test_fewer_tokens(void)
{
    static const struct {
        size_t rows, n;
        int    most, least; /* tokens of a block */
    } cases[] = {{1024, 8, 8, 8},  {1024, 16, 16, 8},    {1024, 32, 16, 8},   {1024, 64, 32, 8},
                 {512, 64, 16, 8}, {4096, 32, 32, 32},   {28672, 64, 64, 64}, {64, 1, 8, 8},
                 {64, 9, 16, 8},   {8192, 1000, 64, 64}, {1024, 1000, 64, 64}};
    size_t i;
    for (i = 0; i < COUNT(cases); i++) {
        const spinfer_matrix W = matrix(cases[i].rows, 4096, 2448, SPINFER_FP16);
        spinfer_plan         plan;
        CHECK_SPINFER(spinfer_spmm_plan(&W, cases[i].n, &gpus[H200].device, &plan)); /* H200 */
        CHECK(plan.tokens >= cases[i].least && plan.tokens <= cases[i].most);
    }
}

/* wgmma is for 64 tokens, where it is there. A plan that uses it is refused elsewhere. */
static void test_wgmma(void)
{
    const spinfer_matrix W = matrix(14336, 4096, 2448, SPINFER_FP16), few = matrix(1024, 4096, 2448, SPINFER_FP16);
    spinfer_plan         plan;
    spinfer_estimate     with, without;
    size_t               n;
    for (n = 1; n <= 100; n++) {
        CHECK_SPINFER(spinfer_spmm_plan(&W, n, &gpus[H200].device, &plan));
        CHECK(plan.team == (n > 32 ? 2 : 1));
        CHECK_SPINFER(spinfer_spmm_plan(&W, n, &gpus[H200_WGMMA].device, &plan));
        CHECK(plan.team == (n > 32 ? 4 : 1));
    }
    CHECK_SPINFER(spinfer_spmm_plan(&W, 64, &gpus[H200_WGMMA].device, &plan));
    CHECK(spinfer_spmm_estimate(&plan, &W, 64, &gpus[H200].device, &with) == SPINFER_ERR_ARCH);
    CHECK_SPINFER(spinfer_spmm_estimate(&plan, &W, 64, &gpus[H200_WGMMA].device, &with));
    CHECK_SPINFER(spinfer_spmm_estimate(NULL, &W, 64, &gpus[H200].device, &without));
    CHECK(with.spmm_us < without.spmm_us && with.dense_us == without.dense_us);

    /* and even for few rows, where without it blocks of fewer tokens are better (test_fewer_tokens()): eight ranges of
     * K are four pairs of twins. 7.5 instead of 8.3 us (H200). */
    CHECK_SPINFER(spinfer_spmm_plan(&few, 64, &gpus[H200_WGMMA].device, &plan));
    CHECK(plan.tokens == 64 && plan.team == 4 && plan.splits % 2 == 0);
}

/* Shared memory of dependent launches: one block for an SM, or two, and not one more. */
static void test_dependent_smem(const spinfer_device *device)
{
    const uint64_t sms = (uint64_t)device->sm_count, blocks[] = {1, sms, sms + 1, 2 * sms, 2 * sms + 1, 100 * sms};
    const uint32_t most = (uint32_t)device->smem_per_block, reserved = 1024; /* of each block, and of the SM */
    uint32_t       bytes;
    size_t         i;
    for (i = 0; i < sizeof blocks / sizeof *blocks; i++)
        for (bytes = 1000; bytes <= most; bytes += 1000) {
            const uint32_t asked = spinfer_detail_dependent_smem(bytes, blocks[i], device),
                           fit = blocks[i] <= sms ? 1 : 2;
            CHECK(asked >= bytes && asked <= most);
            if (blocks[i] > 2 * sms) {
                CHECK(asked == bytes);
                continue;
            }
            CHECK((fit + 1) * (asked + reserved) > most + reserved);
            CHECK(asked == bytes || fit * (asked + reserved) <= most + reserved);
        }
}

/* Helpers where SMs would be idle: with 32 and 64 tokens, on a matrix whose rows do not divide by them. */
static void test_helpers(void)
{
    const spinfer_matrix W = matrix(14336, 4096, 2448, SPINFER_FP16), even = matrix(132 * 64, 4096, 2448, SPINFER_FP16);
    spinfer_kernel       plain = spinfer_spmm_fp16[3];
    spinfer_plan         plan;
    size_t               n;
    for (n = 1; n <= 64; n *= 2) {
        CHECK_SPINFER(spinfer_spmm_plan(&W, n, &gpus[H200].device, &plan)); /* H200 */
        CHECK((plan.helpers > 0) == (n >= 32));
        CHECK_SPINFER(spinfer_spmm_plan(&even, n, &gpus[H200].device, &plan));
        CHECK(plan.helpers == 0);
    }
    plain.helps = 0; /* a kernel that does not call spinfer_help() */
    CHECK_SPINFER(spinfer_kernel_plan(&plain, 1, &W, 32, &gpus[H200].device, &plan));
    CHECK(plan.helpers == 0 && plan.tail == 0);
}

static spinfer_status workspace_status(const spinfer_plan *plan, const spinfer_matrix *W, size_t n)
{
    size_t               bytes = 123;
    const spinfer_status status = spinfer_spmm_workspace_bytes(plan, W, n, &bytes);
    CHECK(status == SPINFER_OK || bytes == 123);
    return status;
}

/* Numbers that the caller may choose, at both sides of their limits. 1000 columns are 32 GroupTiles. */
static void test_limits(void)
{
    static const spinfer_plan good = {8, 1, 1, 2, 2, 1, 4, 2, 0, 0, 0}; /* in the order of the struct */
    const spinfer_matrix      W = matrix(64, 1000, 2320, SPINFER_BF16), tall = matrix(64 * 100, 64, 2320, SPINFER_FP16);
    const spinfer_matrix      long_rows = matrix(64, 32 * 2000, 2320, SPINFER_FP16);
    const spinfer_matrix      largest = matrix(SPINFER_MAX_DIM, SPINFER_MAX_DIM, 2320, SPINFER_FP16);
    spinfer_plan              plan;
    size_t                    bytes;
#define STATUS(change, W, n) (plan = good, (change), workspace_status(&plan, W, n))
    CHECK(good.team == 1 && good.warps_k == 2 && good.stages == 2 && good.splits == 1 && good.x_cols == 4);
    CHECK_SPINFER(workspace_status(&good, &W, 8));

    /* one piece of X holds all of what a block needs of it, or there are two */
    CHECK(STATUS((plan.x_pieces = 1, plan.x_cols = 30), &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS((plan.x_pieces = 1, plan.x_cols = 32), &W, 8) == SPINFER_OK);
    CHECK(STATUS((plan.x_pieces = 1, plan.x_cols = 10, plan.splits = 3), &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS((plan.x_pieces = 1, plan.x_cols = 12, plan.splits = 3), &W, 8) == SPINFER_OK);
    CHECK(STATUS(plan.x_pieces = 16, &W, 8) == SPINFER_OK);
    CHECK(STATUS(plan.x_pieces = 17, &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS(plan.x_cols = 3, &W, 8) == SPINFER_ERR_PLAN);

    /* pieces end with a box of two columns, unless there is only one piece */
    CHECK(STATUS((plan.warps_k = 3, plan.x_cols = 6), &W, 8) == SPINFER_OK);
    CHECK(STATUS((plan.warps_k = 3, plan.x_cols = 3), &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS((plan.warps_k = 3, plan.x_cols = 33, plan.x_pieces = 1), &W, 8) == SPINFER_OK);
    CHECK(STATUS(plan.x_cols = 64, &W, 8) == SPINFER_OK);
    CHECK(STATUS(plan.x_cols = 66, &W, 8) == SPINFER_ERR_PLAN);

    /* each kernel has its team, and its most warps */
    CHECK(STATUS(plan.team = 2, &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS(plan.team = 0, &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS((plan.tokens = 16, plan.team = 2), &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS(plan.tokens = 32, &W, 8) == SPINFER_OK);
    CHECK(STATUS(plan.tokens = 64, &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS((plan.tokens = 64, plan.team = 2), &W, 8) == SPINFER_OK);
    CHECK(STATUS((plan.tokens = 64, plan.team = 2, plan.x_cols = 6), &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS((plan.tokens = 64, plan.team = 4, plan.x_cols = 8), &W, 8) == SPINFER_OK); /* wgmma */
    CHECK(STATUS((plan.tokens = 64, plan.team = 4), &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS((plan.tokens = 64, plan.team = 8), &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS((plan.tokens = 64, plan.team = 4, plan.warps_k = 1, plan.strips = 5), &W, 8) == SPINFER_OK);
    CHECK(STATUS((plan.tokens = 64, plan.team = 4, plan.warps_k = 1, plan.strips = 6), &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS((plan.tokens = 64, plan.team = 4, plan.warps_k = 1, plan.stages = 4), &W, 8) == SPINFER_OK);
    CHECK(STATUS((plan.tokens = 64, plan.team = 4, plan.warps_k = 1, plan.stages = 5), &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS((plan.tokens = 32, plan.team = 4), &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS(plan.strips = 14, &W, 8) == SPINFER_OK);
    CHECK(STATUS(plan.strips = 15, &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS((plan.tokens = 32, plan.strips = 8), &W, 8) == SPINFER_OK);
    CHECK(STATUS((plan.tokens = 32, plan.strips = 9), &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS((plan.tokens = 64, plan.team = 2, plan.strips = 4), &W, 8) == SPINFER_OK);
    CHECK(STATUS((plan.tokens = 64, plan.team = 2, plan.strips = 5), &W, 8) == SPINFER_ERR_PLAN);

    /* a ring keeps the offsets of 32 records, half of which may be on their way */
    {
        const spinfer_kernel four = {(const void *)16, SPINFER_BF16, 8, 4, 16, 0, 0};
        spinfer_plan         ring = good;
        size_t               unused;
        ring.team = 4, ring.warps_k = 1;
        ring.stages = 4;
        CHECK(spinfer_kernel_workspace_bytes(&four, 1, &ring, &W, 8, &unused) == SPINFER_OK);
        ring.stages = 5;
        CHECK(spinfer_kernel_workspace_bytes(&four, 1, &ring, &W, 8, &unused) == SPINFER_ERR_PLAN);
    }

    CHECK(STATUS(plan.dependent = 1, &W, 8) == SPINFER_OK);
    CHECK(STATUS(plan.dependent = 2, &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS(plan.dependent = -1, &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS(plan.splits = 32, &W, 8) == SPINFER_OK);
    CHECK(STATUS(plan.splits = 33, &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS(plan.splits = 1024, &long_rows, 8) == SPINFER_OK);
    CHECK(STATUS(plan.splits = 1025, &long_rows, 8) == SPINFER_ERR_PLAN);

    /* helpers have a tail, a tail has helpers, whose X fits, and something of K is left for each range */
    CHECK(STATUS((plan.tokens = 32, plan.helpers = 1, plan.tail = 8), &W, 8) == SPINFER_OK);
    CHECK(STATUS((plan.tokens = 32, plan.helpers = 1024, plan.tail = 1), &W, 8) == SPINFER_OK);
    CHECK(STATUS((plan.tokens = 32, plan.helpers = 1025, plan.tail = 1), &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS((plan.tokens = 32, plan.helpers = -1, plan.tail = 8), &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS((plan.tokens = 32, plan.helpers = 1, plan.tail = -8), &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS((plan.tokens = 32, plan.helpers = 1, plan.tail = 0), &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS((plan.tokens = 32, plan.helpers = 0, plan.tail = 8), &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS((plan.tokens = 32, plan.helpers = 1, plan.tail = 9), &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS((plan.tokens = 16, plan.helpers = 1, plan.tail = 8), &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS((plan.tokens = 32, plan.helpers = 1, plan.tail = 8, plan.splits = 24), &W, 8) == SPINFER_OK);
    CHECK(STATUS((plan.tokens = 32, plan.helpers = 1, plan.tail = 8, plan.splits = 25), &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS((plan.tokens = 64, plan.team = 2, plan.helpers = 1, plan.tail = 8), &W, 8) == SPINFER_OK);
    CHECK(STATUS((plan.tokens = 64, plan.team = 2, plan.helpers = 1, plan.tail = 7), &W, 8) == SPINFER_ERR_PLAN);
    CHECK(STATUS((plan.tokens = 32, plan.helpers = 1, plan.tail = 8, plan.x_pieces = 1, plan.x_cols = 24), &W, 8) ==
          SPINFER_OK);
    CHECK(STATUS((plan.tokens = 32, plan.helpers = 1, plan.tail = 8, plan.x_pieces = 1, plan.x_cols = 22), &W, 8) ==
          SPINFER_ERR_PLAN);
    CHECK(STATUS((plan.tokens = 32, plan.helpers = 1, plan.tail = 8), &largest, 8) == SPINFER_OK);
    CHECK(STATUS((plan.tokens = 32, plan.helpers = 1, plan.tail = 64, plan.x_cols = 64), &largest, 8) ==
          (SPINFER_MAX_DIM / 64 * 64 > INT32_MAX ? SPINFER_ERR_PLAN : SPINFER_OK));

    /* blocks along the tokens: the grid's y. 8 tokens each, or 64 for the library's own choice */
    CHECK(STATUS(plan.dependent = 0, &W, 65535 * 8) == SPINFER_OK);
    CHECK(STATUS(plan.dependent = 0, &W, 65535 * 8 + 1) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_spmm_plan(&W, (size_t)65535 * 64, &gpus[0].device, &plan) == SPINFER_OK);
    CHECK(spinfer_spmm_plan(&W, (size_t)65535 * 64 + 1, &gpus[0].device, &plan) == SPINFER_ERR_SHAPE);

    /* the workspace grows with rows, tokens and splits, up to 2 TiB */
    CHECK(STATUS(plan.splits = 2, &W, 65535 * 8) == SPINFER_OK);
    CHECK(STATUS((plan.splits = 2, plan.strips = 3), &tall, 164 * 8) == SPINFER_OK);
    CHECK_SPINFER(spinfer_spmm_workspace_bytes(&plan, &tall, 164 * 8, &bytes));
    CHECK(bytes == (size_t)34 * 3 * 64 * 164 * 8 * 4);
    CHECK(STATUS((plan.tokens = 64, plan.team = 2, plan.splits = 4), &largest, 64) == SPINFER_OK);
    CHECK(STATUS((plan.tokens = 64, plan.team = 2, plan.splits = 6), &largest, 64) == SPINFER_ERR_PLAN);
    CHECK(STATUS((plan.tokens = 64, plan.team = 2, plan.splits = 1024), &largest, 65535 * 64) == SPINFER_ERR_PLAN);
#undef STATUS
}

/* ---- The estimate ---------------------------------------------------------------------------- */

static spinfer_estimate estimate(const spinfer_plan *plan, const spinfer_matrix *W, size_t n,
                                 const spinfer_device *device)
{
    spinfer_estimate e, again;
    memset(&e, 0x00, sizeof e);
    memset(&again, 0xff, sizeof again);
    CHECK_SPINFER(spinfer_spmm_estimate(plan, W, n, device, &e));
    CHECK_SPINFER(spinfer_kernel_estimate(W->dtype == SPINFER_BF16 ? spinfer_spmm_bf16 : spinfer_spmm_fp16,
                                          SPINFER_KERNELS, plan, W, n, device, &again));
    CHECK(memcmp(&e, &again, sizeof e) == 0);
    CHECK(e.spmm_us > 0 && e.spmm_us < 1e30 && e.dense_us > 0 && e.dense_us < 1e30); /* neither NaN nor infinite */
    return e;
}

/* Whatever the GPU: more work, a slower clock or slower memory never make it faster. But cuBLAS has other kernels from
 * 33 tokens on, and they are faster for small layers. */
static void check_estimate(const spinfer_matrix *W, size_t n, const spinfer_device *gpu)
{
    spinfer_device   device = *gpu;
    spinfer_matrix   sparser = *W;
    spinfer_plan     plan;
    spinfer_estimate e, other;
    CHECK_SPINFER(spinfer_spmm_plan(W, n, gpu, &plan));
    e = estimate(NULL, W, n, gpu);
    other = estimate(&plan, W, n, gpu);
    CHECK(memcmp(&e, &other, sizeof e) == 0);

    if (!gpu->clock_mhz) device.clock_mhz = 1980; /* what zeros stand for */
    if (!gpu->read_gbs) device.read_gbs = 4640;
    other = estimate(&plan, W, n, &device);
    CHECK(memcmp(&e, &other, sizeof e) == 0);
    device.clock_mhz /= 2;
    other = estimate(&plan, W, n, &device);
    CHECK(other.spmm_us >= e.spmm_us && other.dense_us == e.dense_us);
    device.clock_mhz = gpu->clock_mhz, device.read_gbs /= 2;
    other = estimate(&plan, W, n, &device);
    CHECK(other.spmm_us >= e.spmm_us && other.dense_us > e.dense_us && other.dense_us < 2 * e.dense_us);

    if (n / 2 > 0 && (n / 2 > 32 || n <= 32)) CHECK(estimate(NULL, W, n / 2, gpu).dense_us < e.dense_us);
    sparser.data_bytes /= 1000;
    other = estimate(&plan, &sparser, n, gpu);
    CHECK(other.spmm_us <= e.spmm_us && other.dense_us == e.dense_us);
    sparser = *W, sparser.max_record = SPINFER_RECORD_VALUES;
    if (2 * plan.strips * plan.warps_k * plan.team > 28) { /* as many blocks on an SM as before */
        other = estimate(&plan, &sparser, n, gpu);
        CHECK(other.spmm_us <= e.spmm_us && other.dense_us == e.dense_us);
    }
}

static void test_estimate_refusals(void)
{
    const spinfer_matrix W = matrix(4096, 4096, 2320, SPINFER_FP16);
    const spinfer_device h200 = {132, 232448, 90, 1980, 4640, 0}, a100 = {108, 166912, 80, 0, 0, 0};
    const spinfer_device turing = {72, 65536, 75, 0, 0, 0};
    const spinfer_device tiny = {132, 1024, 90, 0, 0, 0}, none = {0, 232448, 90, 0, 0, 0};
    spinfer_matrix       bad;
    spinfer_plan         plan, changed;
    spinfer_estimate     e, before;
    spinfer_kernel       greedy = spinfer_spmm_fp16[1];
    memset(&e, 0x55, sizeof e);
    before = e;
    CHECK_SPINFER(spinfer_spmm_plan(&W, 16, &h200, &plan));
    CHECK(spinfer_spmm_estimate(&plan, NULL, 16, &h200, &e) == SPINFER_ERR_NULL);
    CHECK(spinfer_spmm_estimate(NULL, &W, 16, NULL, &e) == SPINFER_ERR_NULL);
    CHECK(spinfer_spmm_estimate(NULL, &W, 16, &h200, NULL) == SPINFER_ERR_NULL);
    CHECK(spinfer_kernel_estimate(NULL, SPINFER_KERNELS, NULL, &W, 16, &h200, &e) == SPINFER_ERR_NULL);
    CHECK(spinfer_kernel_estimate(spinfer_spmm_bf16, SPINFER_KERNELS, NULL, &W, 16, &h200, &e) == SPINFER_ERR_PLAN);
    CHECK(spinfer_kernel_estimate(spinfer_spmm_fp16, 1, &plan, &W, 16, &h200, &e) == SPINFER_ERR_PLAN);
    CHECK(spinfer_spmm_estimate(NULL, &W, 0, &h200, &e) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_spmm_estimate(&plan, &W, 0, &h200, &e) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_spmm_estimate(&plan, &W, 16, &none, &e) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_spmm_estimate(NULL, &W, 16, &turing, &e) == SPINFER_ERR_ARCH);
    CHECK(spinfer_spmm_estimate(NULL, &W, 16, &tiny, &e) == SPINFER_ERR_SMEM);
    CHECK(spinfer_spmm_estimate(&plan, &W, 16, &tiny, &e) == SPINFER_ERR_SMEM);
    greedy.own_bytes = 232448;
    CHECK(spinfer_kernel_estimate(&greedy, 1, &plan, &W, 16, &h200, &e) == SPINFER_ERR_SMEM);
    bad = W, bad.format = 99;
    CHECK(spinfer_spmm_estimate(&plan, &bad, 16, &h200, &e) == SPINFER_ERR_VERSION);
    bad = W, bad.dtype = 3;
    CHECK(spinfer_spmm_estimate(&plan, &bad, 16, &h200, &e) == SPINFER_ERR_DTYPE);
    bad = W, bad.max_record = SPINFER_RECORD_MAX_BYTES + 16;
    CHECK(spinfer_spmm_estimate(&plan, &bad, 16, &h200, &e) == SPINFER_ERR_FORMAT);

    changed = plan, changed.stages = 1;
    CHECK(spinfer_spmm_estimate(&changed, &W, 16, &h200, &e) == SPINFER_ERR_PLAN);
    CHECK_SPINFER(spinfer_spmm_plan(&W, 16, &a100, &plan));
    changed = plan, changed.dependent = 1;
    CHECK(spinfer_spmm_estimate(&changed, &W, 16, &a100, &e) == SPINFER_ERR_ARCH);
    changed = plan, changed.strips = 17, changed.warps_k = 1, changed.x_cols = 2, changed.x_pieces = 2;
    CHECK(spinfer_spmm_estimate(&changed, &W, 16, &a100, &e) == SPINFER_ERR_PLAN); /* 17 warps: on Hopper only */
    CHECK(memcmp(&e, &before, sizeof e) == 0);
    CHECK_SPINFER(spinfer_spmm_estimate(&changed, &W, 16, &h200, &e));
}

/* Helpers of a team of four share their X in another way than other blocks, which only a copy engine can. */
static void test_helpers_of_four(void)
{
    static const spinfer_device h100 = {132, 232448, 90, 1980, 3000, 0}, a100 = {108, 166912, 80, 1410, 1935, 0};
    const spinfer_matrix        W = matrix(4096, 4096, 2320, SPINFER_FP16);
    spinfer_kernel              four = spinfer_spmm_fp16[3]; /* 32 tokens */
    spinfer_plan                plan;
    spinfer_estimate            e;
    four.team = 4;
    memset(&plan, 0, sizeof plan);
    plan.tokens = four.tokens;
    plan.team = four.team;
    plan.strips = plan.splits = 1;
    plan.warps_k = plan.stages = plan.x_pieces = 2;
    plan.x_cols = 8;
    CHECK_SPINFER(spinfer_kernel_estimate(&four, 1, &plan, &W, 32, &a100, &e));
    plan.helpers = 4;
    plan.tail = 8;
    CHECK_SPINFER(spinfer_kernel_estimate(&four, 1, &plan, &W, 32, &h100, &e));
    CHECK(spinfer_kernel_estimate(&four, 1, &plan, &W, 32, &a100, &e) == SPINFER_ERR_ARCH);
}

/* Where a kernel looks for the first records before their offsets are there (spinfer_ask_early()). If all records have
 * the same size it is wrong by no more than the padding at the end of the data. */
static void test_mean(void)
{
    enum { ROWS = 256, COLS = 992, GROUPS = ROWS / SPINFER_GROUP_ROWS * (COLS / SPINFER_GROUP_COLS) };
    static uint16_t dense[ROWS * COLS];
    spinfer_matrix  W, part;
    uint32_t        i;
    for (i = 0; i < ROWS * COLS; i += 2) dense[i] = 0x3c00; /* every second weight: records of the same size */
    W = encode_matrix(dense, ROWS, COLS, SPINFER_FP16);
    CHECK(spinfer_detail_mean(&W) > 0);
    for (i = 0; i < GROUPS; i++) {
        const uint64_t guess = (uint64_t)i * spinfer_detail_mean(&W) >> 6, place = 16ull * W.offsets[i];
        CHECK(guess <= place && place - guess < 128);
    }
    /* slices: nobody knows where their data begins */
    CHECK_SPINFER(spinfer_slice_rows(&W, 64, 128, &part));
    CHECK(spinfer_detail_mean(&part) == 0);
    CHECK_SPINFER(spinfer_slice_cols(&W, 32, 64, &part));
    CHECK(spinfer_detail_mean(&part) == 0);
    CHECK_SPINFER(spinfer_slice_cols(&W, 0, 960, &part));
    CHECK(spinfer_detail_mean(&part) == 0);
    /* records of unknown or very different sizes */
    part = W;
    part.max_record = W.max_record / 2 * 3;
    CHECK(spinfer_detail_mean(&part) == 0);
    part.max_record = SPINFER_RECORD_MAX_BYTES;
    part.data_bytes = SPINFER_RECORD_MAX_BYTES * GROUPS / 128 * 128;
    CHECK(spinfer_detail_mean(&part) == 0);
    free_matrix(&W);
}

/* How far the estimates are from the times of some rows. */
typedef struct accuracy {
    int    n, rows, right; /* right: rows in which the faster one was named */
    double spmm_sum, spmm_max, dense_sum, dense_max;
} accuracy;

static void add_row(accuracy *a, const spinfer_estimate *e, double us, double cublas_us)
{
    const double spmm = fabs(e->spmm_us / us - 1), dense = fabs(e->dense_us / cublas_us - 1);
    a->rows++;
    a->right += (e->dense_us < e->spmm_us) == (cublas_us < us);
    a->spmm_sum += spmm;
    a->dense_sum += dense;
    if (spmm > a->spmm_max) a->spmm_max = spmm;
    if (dense > a->dense_max) a->dense_max = dense;
}

static void print_accuracy(const accuracy *a)
{
    printf("%4d tokens, %4d rows: the faster one named in %5.1f %%; error of spinfer %4.1f %% [%4.1f], "
           "of cuBLAS %4.1f %% [%4.1f]\n",
           a->n, a->rows, 100.0 * a->right / a->rows, 100 * a->spmm_sum / a->rows, 100 * a->spmm_max,
           100 * a->dense_sum / a->rows, 100 * a->dense_max);
}

/* Times measured on an H200 (bench/README.md). The bars lie a little below what the documentation of
 * spinfer_spmm_estimate() states: new times for a new kernel, and they may not hold any more. Then fit the model again.
 *
 *   rows_of_all           rows that the file must have
 *   right, right_of_n     part of them, and of those with the same number of tokens, in which the faster one is named
 *   error                 mean relative error of the time of spinfer */
static void test_measured(const char *root, const char *name, const spinfer_device *gpu, int rows_of_all, double right,
                          double right_of_n, double error)
{
    accuracy by_n[8] = {}, all = {};
    char     path[4096], line[1024];
    FILE    *file;
    size_t   i;
    snprintf(path, sizeof path, "%s/bench/results/%s", root, name);
    file = fopen(path, "r");
    if (!file) fprintf(stderr, "cannot read %s\n", path);
    CHECK(file);
    while (fgets(line, sizeof line, file)) {
        spinfer_matrix   W;
        spinfer_estimate e;
        size_t           rows, cols, n;
        double           density, us, cublas_us;
        const char      *at = line;
        if (sscanf(line, "%*[^,],%zu,%zu,%zu,fp16,iid,%*d,%lf,%*f,%*f,%lf", &rows, &cols, &n, &density, &us) != 5)
            continue;                    /* the head */
        for (i = 0; i < 13; i++, at++) { /* fields to cublas_us; one of them, us_dependent, may be empty */
            at = strchr(at, ',');
            CHECK(at);
        }
        CHECK(sscanf(at, "%lf", &cublas_us) == 1);
        W = imagine_matrix(rows, cols, density, SPINFER_FP16);
        e = estimate(NULL, &W, n, gpu);
        for (i = 0; i + 1 < COUNT(by_n) && by_n[i].n && by_n[i].n != (int)n; i++) {}
        by_n[i].n = (int)n;
        add_row(&by_n[i], &e, us, cublas_us);
        add_row(&all, &e, us, cublas_us);
    }
    fclose(file);
    for (i = 0; i < COUNT(by_n) && by_n[i].n; i++) print_accuracy(&by_n[i]);
    CHECK(all.rows >= rows_of_all);
    CHECK(all.right >= right * all.rows);
    CHECK(all.spmm_sum <= error * all.rows && all.dense_sum <= 0.04 * all.rows);
    for (i = 0; i < COUNT(by_n) && by_n[i].n; i++) CHECK(by_n[i].right >= right_of_n * by_n[i].rows);
}

#define PICK(list, seed, index) ((list)[random_bits(seed, index) % COUNT(list)])

int main(int argc, char **argv)
{
    static const spinfer_device h200 = {132, 232448, 90, 1980, 4640, 1}; /* as spinfer.cuh takes an H200 to be */
    static const spinfer_device h200_as_80 = {132, 232448, 80, 1980, 4640, 0};

    const char    *small = getenv("SPINFER_TEST_SMALL");
    const uint64_t draws = small && strcmp(small, "1") == 0 ? 200 : 100000;
    uint64_t       i;
    for (i = 0; i < draws; i++) {
        const spinfer_matrix W =
            matrix(PICK(dims, i, 0), PICK(dims, i, 1), PICK(max_records, i, 2), i & 1 ? SPINFER_BF16 : SPINFER_FP16);
        const size_t gpu = random_bits(i, 4) % COUNT(gpus);
        check_plan(&W, PICK(token_counts, i, 3), &gpus[gpu].device, gpus[gpu].name);
        if (i % 8 == 0) check_estimate(&W, PICK(token_counts, i, 3), &gpus[gpu].device);
    }
    test_refusals();
    test_limits();
    test_small_memory();
    test_own_memory();
    test_fewer_tokens();
    test_wgmma();
    for (i = 0; i < sizeof gpus / sizeof *gpus; i++)
        if (gpus[i].device.compute >= 90) test_dependent_smem(&gpus[i].device);
    test_helpers();
    test_helpers_of_four();
    test_mean();
    /* what a kernel asks for first lies in one line of the constant cache; the tensor map is aligned */
    CHECK(offsetof(spinfer_spmm_args, layout) + offsetof(spinfer_smem, total) <= 192);
    CHECK(offsetof(spinfer_spmm_args, x_map) % 64 == 0);
    test_estimate_refusals();
    test_measured(argc > 1 ? argv[1] : ".", "h200-fp16-iid.csv", &h200, 1000, 0.96, 0.8, 0.04);
    puts("code for sm_80:");
    test_measured(argc > 1 ? argv[1] : ".", "h200-fp16-iid-sm80path.csv", &h200_as_80, 90, 0.85, 0.7, 0.05);
    printf("%llu plans\nOK\n", (unsigned long long)draws);
    return 0;
}
