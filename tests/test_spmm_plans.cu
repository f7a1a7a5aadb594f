/* Risk: a plan that the caller may ask for computes something else, or fails instead of being refused.
 *
 * Every kernel variant with every way to split K and to load X, then random plans. What the library accepts must
 * be == the integer product; what it refuses must have the status of a plan, enqueue nothing and leave Y alone. */
#define SPINFER_IMPLEMENTATION
#include "gpu.h"

static const int splits[] = {1, 3, 2, 5, 4, 8, 13, 26, 33}; /* a small run takes every second one */

static spinfer_device device;

/* How many accepted plans had each value of each field, so that refusing everything does not pass. */
enum { VALUES = 65 };
typedef struct seen {
    int plans, refused, tokens[VALUES], team[VALUES], splits[VALUES], dependent[VALUES], stages[VALUES], strips[VALUES],
        warps_k[VALUES], x_cols[VALUES], x_pieces[VALUES], helpers[VALUES];
    int more_splits;   /* more than VALUES - 1, or than the library chooses                  */
    int odd_piece;     /* one piece of X with an odd number of columns                       */
    int odd_range;     /* ranges of K whose last stage or box of X is half full              */
    int strips_below;  /* strips of a block that lie below the matrix                        */
    int shared_tail;   /* tails that several teams of helpers share                          */
    int several_tails; /* teams of helpers with more than one tail                           */
    int twins[3];      /* spinfer_twins(): how the blocks are twins, if the GPU has them     */
    int small_twins;   /* those for 16 tokens                                                */
    int helped_twins;  /* those of an odd number of ranges, with helpers                     */
    int blocks, parts; /* more than one block of tokens; a number of tokens that 8 divides not */
} seen;

static void count_value(int *counts, int value)
{
    CHECK(value >= 0);
    if (value < VALUES) counts[value]++;
}

static void count_plan(const job *j, const spinfer_plan *plan, seen *s)
{
    const int row_groups = (int)spinfer_row_groups((uint32_t)j->W->M);
    const int col_groups = (int)spinfer_col_groups((uint32_t)j->W->K);
    s->plans++;
    count_value(s->tokens, plan->tokens);
    count_value(s->team, plan->team);
    count_value(s->splits, plan->splits);
    count_value(s->dependent, plan->dependent);
    count_value(s->stages, plan->stages);
    count_value(s->strips, plan->strips);
    count_value(s->warps_k, plan->warps_k);
    count_value(s->x_cols, plan->x_cols);
    count_value(s->x_pieces, plan->x_pieces);
    s->more_splits += plan->splits > 26;
    s->odd_piece += plan->x_cols % 2 != 0;
    s->odd_range += col_groups / plan->splits % 2 || col_groups % plan->splits;
    count_value(s->helpers, plan->helpers);
    s->strips_below += row_groups % plan->strips != 0;
    if (plan->helpers) {
        const int share = (int)spinfer_helper_share(plan, (uint32_t)j->W->M);
        s->shared_tail += share < plan->tail;
        s->several_tails += share > plan->tail;
    }
    if (spinfer_may_twin(plan->tokens)) {
        const uint32_t twins = spinfer_plan_twins(plan) ? spinfer_twins(plan, (uint32_t)j->W->M) : 0;
        s->twins[twins]++;
        s->small_twins += twins && plan->tokens == 16;
        s->helped_twins += twins == 2 && plan->helpers;
    }
    s->blocks += j->n > (size_t)plan->tokens;
    s->parts += j->n % 8 != 0;
}

/* GroupTile columns of the longest range of K: pairs are not divided, if there are enough of them. */
static int longest_range(const spinfer_plan *p, int groups)
{
    const int all = groups - p->tail, unit = all >= 2 * p->splits ? 2 : 1;
    const int units = (all + unit - 1) / unit, most = (units + p->splits - 1) / p->splits * unit;
    return most < all ? most : all;
}

/* What spinfer.cuh says about the numbers of a plan, in small numbers that overflow nothing. */
static int legal(const job *j, const spinfer_plan *p)
{
    const int wgmma = p->tokens == 64 && p->team == 4 && device.wgmma;
    const int max_warps = wgmma ? 20 : device.compute / 10 != 9 || p->tokens >= 32 ? 16 : 28;
    const int groups = (int)spinfer_col_groups((uint32_t)j->W->K);
    if (p->team != (wgmma ? 4 : p->tokens == 64 ? 2 : 1) || p->strips * p->warps_k * p->team > max_warps) return 0;
    if (p->stages * p->team > 16) return 0;
    if (p->splits < 1 || p->splits > groups || p->x_cols > 64 || p->x_cols % (p->warps_k * p->team)) return 0;
    if (!p->helpers != !p->tail || (p->helpers && p->tokens < 32)) return 0;
    if (p->tail % p->team || p->tail > p->x_cols * p->x_pieces || p->tail + p->splits > groups) return 0;
    return p->x_pieces == 1 ? p->x_cols >= longest_range(p, groups) : p->x_cols % 2 == 0;
}

/* Returns the status; if the plan was accepted it has run and was right. */
static spinfer_status try_plan(job *j, const spinfer_plan *plan, seen *s)
{
    spinfer_status status = job_set_plan(j, plan);
    arguments      a = job_arguments(j);
    size_t         nodes = 0;
    a.plan = plan; /* also where the size query refuses it: the launch must not believe its caller */
    if (status == SPINFER_OK) {
        status = launch_captured(&a, &nodes);
    } else {
        CHECK(launch_captured(&a, &nodes) == status);
    }
    if (status != SPINFER_OK) {
        CHECK(status == SPINFER_ERR_PLAN || status == SPINFER_ERR_SMEM || status == SPINFER_ERR_ARCH);
        CHECK(nodes == 0);
        CHECK(launch(&a, NULL) == status);
        CHECK_CUDA(cudaDeviceSynchronize());
        CHECK_CUDA(cudaPeekAtLastError());
        buffer_check_unchanged(&j->Y);
        s->refused++;
        return status;
    }
    CHECK(nodes > 0);
    job_run(j, plan);
    buffer_upload(&j->Y); /* as it was, for the next plan */
    count_plan(j, plan, s);
    return status;
}

/* Every variant x split x alignment of X, around the library's own plan for that many tokens. All must be accepted
 * where the GPU has what they need: K is long enough for the most splits, and memory is no concern. */
static void test_every_path(size_t M, size_t K, size_t extra_tokens, seen *s)
{
    const weights W = weights_random(M, K, 0.5, extra_tokens & 1 ? SPINFER_BF16 : SPINFER_FP16, 1);
    size_t        t, i;
    int           aligned;
    for (t = 0; t < SPINFER_KERNELS; t++)
        for (aligned = 0; aligned < 2; aligned++) {
            job          j = job_default(&W, (size_t)kernel_tokens[t] + extra_tokens);
            spinfer_plan plan = plan_for_kernel(&W.device, t, &device);
            j.ldx = aligned ? (K + 7) / 8 * 8 : K | 1;
            j.beta = 1.0f;
            job_create(&j, t);
            CHECK_SPINFER(try_plan(&j, &plan, s));
            for (i = 0; i < COUNT(splits); i += small_run() ? 2 : 1) {
                set_splits(&plan, splits[i]);
                plan.dependent = device.compute >= 90 && ((i + t) & 1);
                CHECK_SPINFER(try_plan(&j, &plan, s));
                set_helpers(&plan, &W.device, 1 + (int)(i % 3), 2 + 3 * (int)i);
                CHECK_SPINFER(try_plan(&j, &plan, s));
            }
            job_free(&j);
        }
    weights_free((weights *)&W);
}

/* One plan in eight has a number that may be illegal. */
static spinfer_plan random_plan(const weights *W, uint64_t seed)
{
    static const int strips[] = {1, 1, 2, 3, 4, 5, 7}, warps_k[] = {1, 2, 3, 4, 5, 8}, stages[] = {2, 2, 3, 4, 5, 8};
    static const int x_steps[] = {1, 1, 2, 3, 8, 32}, helpers[] = {1, 2, 3, 5, 9};
    const int        groups = (int)spinfer_col_groups((uint32_t)W->K);
    int              range, step;
    spinfer_plan     p;
    p.tokens = PICK(kernel_tokens, seed, 0);
    p.team = p.tokens < 64 ? 1 : device.wgmma && random_bits(seed, 14) & 1 ? 4 : 2;
    p.strips = PICK(strips, seed, 1);
    p.warps_k = PICK(warps_k, seed, 2);
    p.stages = PICK(stages, seed, 3);
    p.splits = random_bits(seed, 4) & 1 ? PICK(splits, seed, 5) : 1 + (int)(random_bits(seed, 5) % (uint64_t)groups);
    p.x_pieces = random_bits(seed, 6) & 3 ? 1 + (int)(random_bits(seed, 7) % 16) : 1;
    p.dependent = (int)(random_bits(seed, 8) & 1);
    step = p.warps_k * p.team;
    p.helpers = p.tail = 0;
    range = longest_range(&p, groups);
    p.x_cols = p.x_pieces == 1 ? (range + step - 1) / step * step : smallest_x_cols(&p) * PICK(x_steps, seed, 9);
    if (random_bits(seed, 11) & 1)
        set_helpers(&p, &W->device, PICK(helpers, seed, 12), 1 + (int)(random_bits(seed, 13) % 40));
    switch (random_bits(seed, 10) % 32) {
    case 0: p.team = 1; break;
    case 1: p.team = 2; break;
    case 6: p.team = 3; break;
    case 2: p.x_cols += 1; break;
    case 3: p.x_cols += step; break;
    case 4: p.helpers += 1; break;
    case 5: p.tail += 1; break;
    default: break;
    }
    return p;
}

static void test_random_plans(size_t count, seen *s)
{
    static const struct {
        size_t M, K, n;
        double density;
    } shapes[] = {{200, 300, 70, 0.5},  {64, 1024, 5, 0.7},   {320, 96, 33, 0.3}, {1, 1, 1, 1.0},
                  {130, 2080, 17, 0.6}, {257, 515, 100, 1.0}, {700, 64, 9, 0.5},  {65, 4100, 64, 0.0},
                  {90, 2016, 13, 0.4},  {450, 1100, 130, 0.5}};
    size_t shape, i;
    for (shape = 0; shape < COUNT(shapes); shape++) {
        weights W = weights_random(shapes[shape].M, shapes[shape].K, shapes[shape].density,
                                   shape & 1 ? SPINFER_BF16 : SPINFER_FP16, 10 + shape);
        job     j = job_default(&W, shapes[shape].n);
        j.alpha = 2.0f;
        j.beta = -1.0f;
        j.ldx = shape & 2 ? W.K + 1 : (W.K + 15) / 8 * 8;
        j.ldy += 1;
        job_create(&j, shape);
        for (i = 0; i < count / COUNT(shapes); i++) {
            const spinfer_plan   plan = random_plan(&W, 7000 + shape * count + i);
            const spinfer_status status = try_plan(&j, &plan, s);
            const int            is_legal = legal(&j, &plan);
            const int            arch = status == SPINFER_ERR_ARCH && plan.dependent && device.compute < 90;
            const int other = (status == SPINFER_ERR_SMEM && device.compute / 10 != 9) || arch; /* found earlier */
            if (is_legal ? status == SPINFER_ERR_PLAN : status != SPINFER_ERR_PLAN && !other) {
                print_plan(&plan);
                fprintf(stderr, "\"%s\" for a plan that is %slegal\n", spinfer_status_string(status),
                        is_legal ? "" : "il");
                exit(1);
            }
        }
        job_free(&j);
        weights_free(&W);
    }
}

/* Numbers outside of their range, one field at a time. Large ones overflow int where products go unchecked. */
static void test_nonsense(void)
{
    static const int   bad_tokens[] = {-8, 0, 1, 7, 9, 24, 63, 65, 128}, bad_stages[] = {-1, 0, 1, 9, 1 << 20};
    static const int   bad_counts[] = {-2147483647, -1, 0, 1 << 20, 2147483647}, no_flag[] = {-1, 2};
    const weights      W = weights_random(130, 600, 0.5, SPINFER_FP16, 2);
    const spinfer_plan good = plan_for(&W.device, 10, &device);
    static const int   no_helpers[] = {-2147483647, -1, 1, 1 << 20, 2147483647}; /* with 16 tokens */
    const size_t       fields = sizeof good / sizeof(int);
    job                j = job_default(&W, 10);
    seen               s;
    size_t             field, i;
    memset(&s, 0, sizeof s);
    job_create(&j, 3);
    CHECK_SPINFER(try_plan(&j, &good, &s));
    for (field = 0; field < fields; field++) {
        spinfer_plan plan = good;
        int         *value = (int *)&plan + field;
        const int    is_flag = value == &plan.dependent, no_help = value == &plan.helpers || value == &plan.tail;
        const int   *bad = value == &plan.tokens   ? bad_tokens
                           : value == &plan.stages ? bad_stages
                           : is_flag               ? no_flag
                           : no_help               ? no_helpers
                                                   : bad_counts;
        const size_t count = value == &plan.tokens   ? COUNT(bad_tokens)
                             : value == &plan.stages ? COUNT(bad_stages)
                             : is_flag               ? COUNT(no_flag)
                             : no_help               ? COUNT(no_helpers)
                                                     : COUNT(bad_counts);
        for (i = 0; i < count; i++) {
            *value = bad[i];
            if (try_plan(&j, &plan, &s) != SPINFER_ERR_PLAN) {
                print_plan(&plan);
                CHECK(!"such a plan is not refused as a plan");
            }
        }
    }
    printf("%d nonsensical plans refused\n", s.refused);
    job_free(&j);
    weights_free((weights *)&W);
}

static __global__ void wgmma_kernel(int *has) { *has = SPINFER_HAS_WGMMA; }

/* What the library learned about the code that runs here is what that code says itself: if it saw no wgmma where
 * there is some, every other test would pass without the kernel that uses it. */
static void test_wgmma_is_seen(void)
{
    int *device_has, has = -1;
    CHECK_CUDA(cudaMalloc(&device_has, sizeof *device_has));
    wgmma_kernel<<<1, 1>>>(device_has);
    CHECK_CUDA(cudaGetLastError());
    CHECK_CUDA(cudaMemcpy(&has, device_has, sizeof has, cudaMemcpyDeviceToHost));
    CHECK_CUDA(cudaFree(device_has));
    CHECK(device.wgmma == has);
}

/* On Hopper, from 32 tokens on, and from four strips on with 16, the sums of two ranges of K travel through shared
 * memory: the workspace may hold anything. Elsewhere the launch would read messages in it, and none of what follows is
 * true. */
static void test_twins(void)
{
    const weights W = weights_random(200, 1050, 0.5, SPINFER_FP16, 5);
    size_t        t, n;
    if (device.compute != 90) return;
    for (t = 0; t < SPINFER_KERNELS; t++)
        for (n = 1; kernel_tokens[t] >= 16 && n <= (size_t)kernel_tokens[t]; n = n < 4 ? n + 1 : n + 13) {
            job          j = job_default(&W, n);
            spinfer_plan plan = plan_for_kernel(&W.device, t, &device);
            if (plan.tokens == 16) plan.warps_k = plan.strips * plan.warps_k > 20 ? 6 : 2, plan.strips = 4;
            set_splits(&plan, 2);
            job_create(&j, t);
            CHECK_SPINFER(job_set_plan(&j, &plan));
            memset(buffer_image(&j.workspace), 0x7f, j.workspace.bytes); /* neither zeros nor what is expected */
            buffer_upload(&j.workspace);
            CHECK_SPINFER(job_launch(&j, NULL));
            CHECK_CUDA(cudaDeviceSynchronize());
            job_check(&j); /* the workspace, too, is as it was */
            job_free(&j);
        }
    weights_free((weights *)&W);
}

int main(void)
{
    seen   s;
    size_t i;
    device = require_gpu();
    test_wgmma_is_seen();
    test_twins();
    memset(&s, 0, sizeof s);
    test_every_path(100, 1050, 3, &s);
    if (!small_run()) {
        test_every_path(520, 1376, 0, &s);
        test_random_plans(10000, &s);
    }
    printf("%d plans accepted, %d refused\n", s.plans, s.refused);
    if (!small_run()) { /* the random plans reached what plans differ in */
        for (i = 0; i < SPINFER_KERNELS; i++) CHECK(s.tokens[kernel_tokens[i]] > 10);
        for (i = 0; i < COUNT(splits); i++) CHECK(s.splits[splits[i]] > 10);
        for (i = 1; i <= 16; i++) CHECK(s.x_pieces[i] > 10);
        CHECK(s.team[1] > 10 && s.team[2] > 10 && (s.team[4] > 10 || !device.wgmma));
        CHECK(s.dependent[0] > 10 && (s.dependent[1] > 10 || device.compute < 90));
        CHECK(s.stages[2] && s.stages[3] && s.stages[4] && s.stages[8]);
        CHECK(s.strips[1] && s.strips[2] && s.strips[7] && s.warps_k[1] && s.warps_k[2] && s.warps_k[8]);
        CHECK(s.x_cols[1] && s.x_cols[2] && s.x_cols[3] && s.x_cols[4] && s.x_cols[64]);
        CHECK(s.more_splits > 10 && s.odd_piece > 10 && s.odd_range > 10 && s.strips_below > 10);
        CHECK(s.blocks > 10 && s.parts > 10);
        CHECK(s.helpers[1] > 10 && s.helpers[2] > 10 && s.helpers[9] > 10);
        CHECK(s.shared_tail > 10 && s.several_tails > 10);
        CHECK(s.twins[0] > 10 && s.twins[1] > 10 && s.twins[2] > 10 && s.small_twins > 10 && s.helped_twins > 10);
        CHECK(s.refused > 10);
    }
    test_nonsense();
    printf("OK\n");
    return 0;
}
