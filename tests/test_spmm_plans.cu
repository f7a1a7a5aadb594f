/* Risk: a plan that the caller may ask for computes something else, or fails instead of being refused.
 *
 * Every kernel variant with every way to split K and to load X, then random plans. What the library accepts must
 * be == the integer product; what it refuses must have the status of a plan, enqueue nothing and leave Y alone. */
#define SPINFER_IMPLEMENTATION
#include "gpu.h"

static const int tokens[] = {8, 16, 32, 64};
static const int splits[] = {1, 2, 3, 4, 5, 8};

/* How many accepted plans had each value of each field, so that refusing everything does not pass. */
enum { VALUES = 65 };
typedef struct seen {
    int plans, refused, tokens[VALUES], splits[2][VALUES], dependent[VALUES], stages[VALUES], strips[VALUES],
        warps_k[VALUES], x_cols[VALUES], x_pieces[VALUES];
} seen;

static void count_value(int *counts, int value)
{
    CHECK(value >= 0);
    if (value < VALUES) counts[value]++;
}

/* Returns whether the plan was accepted; then it has run and was right. */
static int try_plan(job *j, const spinfer_plan *plan, seen *s)
{
    spinfer_status status = job_set_plan(j, plan);
    arguments      a = job_arguments(j);
    size_t         nodes = 0;
    a.plan = plan; /* also where the size query refuses it: the launch must not believe its caller */
    if (status == SPINFER_OK) {
        status = launch_captured(&a, &nodes);
    } else {
        CHECK(launch_captured(&a, &nodes) != SPINFER_OK);
    }
    if (status != SPINFER_OK) {
        CHECK(status == SPINFER_ERR_PLAN || status == SPINFER_ERR_SMEM || status == SPINFER_ERR_ARCH);
        CHECK(nodes == 0);
        CHECK(launch(&a, NULL) != SPINFER_OK);
        CHECK_CUDA(cudaDeviceSynchronize());
        CHECK_CUDA(cudaPeekAtLastError());
        buffer_check_unchanged(&j->Y);
        s->refused++;
        return 0;
    }
    CHECK(nodes > 0);
    job_run(j, plan);
    buffer_upload(&j->Y); /* as it was, for the next plan */
    s->plans++;
    count_value(s->tokens, plan->tokens);
    count_value(s->splits[plan->cluster != 0], plan->splits);
    count_value(s->dependent, plan->dependent);
    count_value(s->stages, plan->stages);
    count_value(s->strips, plan->strips);
    count_value(s->warps_k, plan->warps_k);
    count_value(s->x_cols, plan->x_cols);
    count_value(s->x_pieces, plan->x_pieces);
    return 1;
}

/* Every variant x split x way to add x alignment of X, around the library's own plan for that many tokens. All must be
 * accepted where the GPU has what they need: K is long enough for eight splits, and memory is no concern. */
static void test_every_path(const spinfer_device *device, size_t M, size_t K, size_t extra_tokens, seen *s)
{
    const int     sm_90 = device->compute >= 90;
    const weights W = weights_random(M, K, 0.5, extra_tokens & 1 ? SPINFER_BF16 : SPINFER_FP16, 1);
    size_t        t, i;
    int           aligned, cluster;
    for (t = 0; t < COUNT(tokens); t++)
        for (aligned = 0; aligned < 2; aligned++) {
            job          j = job_default(&W, (size_t)tokens[t] + extra_tokens);
            spinfer_plan plan = plan_for(&W.device, (size_t)tokens[t], device);
            j.ldx = aligned ? (K + 7) / 8 * 8 : K | 1;
            j.beta = 1.0f;
            job_create(&j, t);
            CHECK(try_plan(&j, &plan, s));
            for (i = 0; i < COUNT(splits); i += small_run() ? 2 : 1)
                for (cluster = 0; cluster < 2; cluster++) {
                    int accepted;
                    plan.tokens = tokens[t];
                    set_splits(&plan, splits[i], cluster);
                    plan.dependent = sm_90 && ((i + t) & 1);
                    accepted = try_plan(&j, &plan, s);
                    if (plan.splits > 1 || !plan.cluster) CHECK(accepted == (sm_90 || !plan.cluster));
                }
            job_free(&j);
        }
    weights_free((weights *)&W);
}

static void test_random_plans(size_t count, seen *s)
{
    static const struct {
        size_t M, K, n;
        double density;
    } shapes[] = {{200, 300, 70, 0.5},  {64, 1024, 5, 0.7},   {320, 96, 33, 0.3}, {1, 1, 1, 1.0},
                  {130, 2080, 17, 0.6}, {257, 515, 100, 1.0}, {700, 64, 9, 0.5},  {65, 4100, 64, 0.0}};
    static const int strips[] = {1, 2, 3, 4}, warps_k[] = {1, 2, 3, 4, 5, 8}, stages[] = {2, 2, 3, 4, 5, 8};
    static const int x_rounds[] = {1, 1, 2, 3, 8}, x_pieces[] = {1, 2, 3, 4, 16};
    size_t           shape, i;
    for (shape = 0; shape < COUNT(shapes); shape++) {
        weights W = weights_random(shapes[shape].M, shapes[shape].K, shapes[shape].density,
                                   shape & 1 ? SPINFER_BF16 : SPINFER_FP16, 10 + shape);
        job     j = job_default(&W, shapes[shape].n);
        j.alpha = 2.0f;
        j.beta = -1.0f;
        j.ldx = shape & 2 ? (W.K + 15) / 8 * 8 : W.K + 1;
        j.ldy += 1;
        job_create(&j, shape);
        for (i = 0; i < count / COUNT(shapes); i++) {
            const uint64_t seed = 7000 + shape * count + i;
            spinfer_plan   plan;
            plan.tokens = PICK(tokens, seed, 0);
            plan.strips = PICK(strips, seed, 1);
            plan.warps_k = PICK(warps_k, seed, 2);
            plan.stages = PICK(stages, seed, 3);
            plan.splits = PICK(splits, seed, 4);
            plan.cluster = (int)(random_bits(seed, 5) & 1);
            plan.x_cols =
                plan.warps_k * PICK(x_rounds, seed, 6) + (random_bits(seed, 10) % 16 == 0); /* rarely illegal */
            plan.x_pieces = PICK(x_pieces, seed, 7);
            plan.dependent = (int)(random_bits(seed, 9) & 1);
            try_plan(&j, &plan, s);
        }
        job_free(&j);
        weights_free(&W);
    }
}

/* Numbers outside of their range, one field at a time. Large ones overflow int where products go unchecked. */
static void test_nonsense(const spinfer_device *device)
{
    static const int   bad_tokens[] = {-8, 0, 1, 7, 9, 24, 63, 65, 128}, bad_stages[] = {-1, 0, 1, 9, 1 << 20};
    static const int   bad_counts[] = {-2147483647, -1, 0, 1 << 20, 2147483647}, no_flag[] = {-1, 2};
    const weights      W = weights_random(130, 600, 0.5, SPINFER_FP16, 2);
    const spinfer_plan good = plan_for(&W.device, 10, device);
    const size_t       fields = sizeof good / sizeof(int);
    job                j = job_default(&W, 10);
    seen               s;
    size_t             field, i;
    memset(&s, 0, sizeof s);
    job_create(&j, 3);
    CHECK(try_plan(&j, &good, &s));
    for (field = 0; field < fields; field++) {
        spinfer_plan plan = good;
        int         *value = (int *)&plan + field;
        const int    is_flag = value == &plan.cluster || value == &plan.dependent;
        const int   *bad = value == &plan.tokens   ? bad_tokens
                           : value == &plan.stages ? bad_stages
                           : is_flag               ? no_flag
                                                   : bad_counts;
        const size_t count = value == &plan.tokens   ? COUNT(bad_tokens)
                             : value == &plan.stages ? COUNT(bad_stages)
                             : is_flag               ? COUNT(no_flag)
                                                     : COUNT(bad_counts);
        for (i = 0; i < count; i++) {
            *value = bad[i];
            if (try_plan(&j, &plan, &s)) {
                print_plan(&plan);
                CHECK(!"such a plan is accepted");
            }
        }
    }
    { /* a portable cluster has at most eight blocks */
        spinfer_plan plan = good;
        plan.cluster = 1;
        plan.splits = 9;
        CHECK(!try_plan(&j, &plan, &s));
    }
    printf("%d nonsensical plans refused\n", s.refused);
    job_free(&j);
    weights_free((weights *)&W);
}

int main(void)
{
    const spinfer_device device = require_gpu();
    seen                 s;
    size_t               i;
    memset(&s, 0, sizeof s);
    test_every_path(&device, 100, 1050, 3, &s);
    if (!small_run()) {
        test_every_path(&device, 520, 1376, 0, &s);
        test_random_plans(8000, &s);
    }
    printf("%d plans accepted, %d refused\n", s.plans, s.refused);
    if (!small_run()) { /* the random plans reached what plans differ in */
        for (i = 0; i < COUNT(tokens); i++) CHECK(s.tokens[tokens[i]] > 10);
        for (i = 0; i < COUNT(splits); i++) CHECK(s.splits[0][splits[i]] > 10);
        for (i = 1; i < COUNT(splits) && device.compute >= 90; i++) CHECK(s.splits[1][splits[i]] > 10);
        CHECK(s.dependent[0] > 10 && (s.dependent[1] > 10 || device.compute < 90));
        CHECK(s.stages[2] && s.stages[3] && s.stages[4] && s.strips[1] && s.strips[2] && s.warps_k[1] && s.warps_k[2]);
        CHECK(s.x_cols[1] && s.x_cols[2] && s.x_cols[4] && s.x_pieces[1] && s.x_pieces[2]);
    }
    test_nonsense(&device);
    printf("OK\n");
    return 0;
}
