/* Risk: a wrong argument that is found too late: after something was enqueued, by a fault, or not at all.
 *
 * Every argument is made wrong alone. The call must return its documented status, add nothing to a stream, leave Y
 * alone, and neither set nor clear the CUDA error state of the caller. */
#define SPINFER_IMPLEMENTATION
#include "gpu.h"

static int refusals;

static void check_refused(const job *j, const arguments *a, spinfer_status expected, int line)
{
    const cudaError_t    error = cudaPeekAtLastError();
    size_t               nodes = 99;
    const spinfer_status status = launch_captured(a, &nodes);
    if (status != expected || nodes != 0) {
        fprintf(stderr, "line %d: \"%s\" instead of \"%s\", %zu nodes enqueued\n", line, spinfer_status_string(status),
                spinfer_status_string(expected), nodes);
        exit(1);
    }
    CHECK(launch(a, NULL) == expected);
    CHECK_CUDA(cudaDeviceSynchronize());
    CHECK(cudaPeekAtLastError() == error);
    buffer_check_unchanged(&j->Y);
    refusals++;
}

/* Changes one argument of a good call. */
#define REFUSED(change, status)                                                                                        \
    do {                                                                                                               \
        spinfer_matrix W = j->W->device;                                                                               \
        spinfer_plan   plan = plan_for(&W, j->n, device);                                                              \
        arguments      a = job_arguments(j);                                                                           \
        a.W = &W;                                                                                                      \
        change;                                                                                                        \
        (void)plan;                                                                                                    \
        check_refused(j, &a, status, __LINE__);                                                                        \
    } while (0)

static void test_arguments(const job *j, const spinfer_device *device)
{
    size_t offset;
    REFUSED(a.W = NULL, SPINFER_ERR_NULL);
    REFUSED(a.X = NULL, SPINFER_ERR_NULL);
    REFUSED(a.Y = NULL, SPINFER_ERR_NULL);
    REFUSED(W.offsets = NULL, SPINFER_ERR_NULL);
    REFUSED(W.data = NULL, SPINFER_ERR_NULL);

    REFUSED(a.n = 0, SPINFER_ERR_SHAPE);
    REFUSED(a.n = (size_t)65535 * 64 + 1, SPINFER_ERR_SHAPE);
    REFUSED(a.n = (size_t)1 << 32, SPINFER_ERR_SHAPE);
    REFUSED((a.plan = &plan, plan.tokens = 8, a.n = 65535 * 8 + 1), SPINFER_ERR_SHAPE);
    REFUSED(a.ldx = W.cols - 1, SPINFER_ERR_SHAPE);
    REFUSED(a.ldx = 0, SPINFER_ERR_SHAPE);
    REFUSED(a.ldy = W.rows - 1, SPINFER_ERR_SHAPE);
    REFUSED(a.ldy = 0, SPINFER_ERR_SHAPE);
    REFUSED(W.rows = 0, SPINFER_ERR_SHAPE);
    REFUSED(W.cols = 0, SPINFER_ERR_SHAPE);
    REFUSED(W.rows = 0xffffffffu, SPINFER_ERR_SHAPE);
    REFUSED(W.cols = 0xffffffffu, SPINFER_ERR_SHAPE);
    REFUSED(W.group_ld -= 1, SPINFER_ERR_SHAPE);
    REFUSED(W.group_ld = 0xffffffffu, SPINFER_ERR_SHAPE);

    REFUSED(a.X = (const char *)a.X + 1, SPINFER_ERR_ALIGNMENT);
    REFUSED(a.Y = (char *)a.Y + 1, SPINFER_ERR_ALIGNMENT);
    REFUSED(W.offsets = (const uint32_t *)((const char *)W.offsets + 2), SPINFER_ERR_ALIGNMENT);
    for (offset = 8; offset < 128; offset *= 2) { /* the kernel copies whole lines of 128 bytes */
        REFUSED(W.data = (const char *)W.data + offset, SPINFER_ERR_ALIGNMENT);
        REFUSED(W.data_bytes += offset, SPINFER_ERR_ALIGNMENT);
    }

    REFUSED(W.dtype = 0, SPINFER_ERR_DTYPE);
    REFUSED(W.dtype = 3, SPINFER_ERR_DTYPE);
    REFUSED(W.format = SPINFER_FORMAT_VERSION + 1, SPINFER_ERR_VERSION);
    REFUSED(W.max_record = 0, SPINFER_ERR_FORMAT);
    REFUSED(W.max_record = SPINFER_RECORD_VALUES - 16, SPINFER_ERR_FORMAT);
    REFUSED(W.max_record += 8, SPINFER_ERR_FORMAT);
    REFUSED(W.max_record = SPINFER_RECORD_MAX_BYTES + 16, SPINFER_ERR_FORMAT);

    REFUSED((a.plan = &plan, plan.tokens = 12), SPINFER_ERR_PLAN);
    REFUSED((a.plan = &plan, plan.strips = 0), SPINFER_ERR_PLAN);
    REFUSED((a.plan = &plan, plan.warps_k = 0), SPINFER_ERR_PLAN);
    REFUSED((a.plan = &plan, plan.stages = 1), SPINFER_ERR_PLAN);
    REFUSED((a.plan = &plan, plan.stages = 9), SPINFER_ERR_PLAN);
    REFUSED((a.plan = &plan, plan.splits = 0), SPINFER_ERR_PLAN);
    REFUSED((a.plan = &plan, plan.x_cols = 0), SPINFER_ERR_PLAN);
    REFUSED((a.plan = &plan, plan.x_pieces = 0), SPINFER_ERR_PLAN);
    REFUSED((a.plan = &plan, plan.x_cols = 2 * plan.warps_k + 1, plan.warps_k = 2), SPINFER_ERR_PLAN);
    REFUSED((set_splits(&plan, 1), a.plan = &plan, plan.warps_k = plan.x_pieces = 1, plan.x_cols = 18),
            SPINFER_ERR_PLAN); /* one piece for 19 columns of GroupTiles */
    REFUSED((set_splits(&plan, 2), a.plan = &plan, plan.strips = 1, plan.x_cols = plan.warps_k = 3),
            SPINFER_ERR_PLAN); /* one and a half boxes */
    REFUSED((a.plan = &plan, plan.strips = plan.warps_k = 1, plan.x_cols = 66), SPINFER_ERR_PLAN);
    REFUSED((a.plan = &plan, plan.team = 0), SPINFER_ERR_PLAN);
    REFUSED((a.plan = &plan, plan.team = 3 - plan.team), SPINFER_ERR_PLAN); /* 1 for 2, 2 for 1 */
    REFUSED((a.plan = &plan, plan.team = 4), SPINFER_ERR_PLAN);
    REFUSED((a.plan = &plan, plan.dependent = -1), SPINFER_ERR_PLAN);
    REFUSED((a.plan = &plan, plan.splits = (int)spinfer_col_groups(W.cols) + 1), SPINFER_ERR_PLAN);
    if (device->compute < 90) REFUSED((a.plan = &plan, plan.dependent = 1), SPINFER_ERR_ARCH);
    if (!device->wgmma) /* a plan for a kernel that has no code */
        REFUSED((set_splits(&plan, 1), a.plan = &plan, plan.tokens = 64, plan.team = 4, plan.strips = 1,
                 plan.warps_k = 1, plan.x_cols = 8, plan.x_pieces = 2),
                SPINFER_ERR_ARCH);
}

/* A plan that splits K through the workspace. */
static void test_workspace(const job *j, const spinfer_device *device)
{
    const size_t bytes = j->workspace.bytes;
    CHECK(bytes > 0);
    REFUSED((a.workspace = NULL, a.workspace_bytes = bytes), SPINFER_ERR_NULL);
    REFUSED(a.workspace_bytes = bytes - 1, SPINFER_ERR_CAPACITY);
    REFUSED(a.workspace_bytes = 0, SPINFER_ERR_CAPACITY);
    REFUSED(a.workspace = (char *)a.workspace + 8, SPINFER_ERR_ALIGNMENT);
    buffer_check_unchanged(&j->workspace);
}

/* A matrix without zeros, more warps and more stages: what cannot fit is refused as such, what is small is not. */
static void test_shared_memory(const spinfer_device *device)
{
    weights W = weights_random(300, 700, 1.0, SPINFER_FP16, 2);
    job     j = job_default(&W, 5);
    int     strips, full = 0;
    job_create(&j, 3);
    for (strips = 1; strips <= 16; strips++) {
        spinfer_plan plan = plan_for(&W.device, j.n, device);
        plan.tokens = 8;
        plan.strips = strips;
        plan.warps_k = 1;
        set_splits(&plan, 1);
        plan.stages = 8;
        if (strips * plan.stages * SPINFER_RECORD_MAX_BYTES > device->smem_per_block) {
            arguments a = job_arguments(&j);
            a.plan = &plan;
            check_refused(&j, &a, SPINFER_ERR_SMEM, __LINE__);
            full++;
        } else {
            plan.stages = 2;
            job_run(&j, &plan);
            buffer_upload(&j.Y);
        }
    }
    CHECK(full > 0 && full < 16);
    job_free(&j);
    weights_free(&W);
}

int main(void)
{
    const spinfer_device device = require_gpu();
    weights              W = weights_random(130, 600, 0.5, SPINFER_FP16, 1);
    job                  j = job_default(&W, 10);
    spinfer_plan         split = plan_for(&W.device, 10, &device);
    arguments            good;
    size_t               nodes;
    void                *impossible;
    set_splits(&split, 3);
    job_create(&j, 2);

    CHECK_SPINFER(job_set_plan(&j, NULL));
    good = job_arguments(&j);
    CHECK_SPINFER(launch_captured(&good, &nodes)); /* the good call does enqueue, so that 0 nodes mean something */
    CHECK(nodes > 0);
    test_arguments(&j, &device);
    CHECK_SPINFER(job_set_plan(&j, &split));
    test_workspace(&j, &device);
    test_shared_memory(&device);

    if (!small_run()) { /* compute-sanitizer would report the error that is made here */
        CHECK(cudaMalloc(&impossible, (size_t)1 << 60) == cudaErrorMemoryAllocation);
        CHECK(cudaPeekAtLastError() == cudaErrorMemoryAllocation);
        CHECK_SPINFER(job_set_plan(&j, NULL));
        test_arguments(&j, &device);
        CHECK_SPINFER(job_set_plan(&j, &split));
        test_workspace(&j, &device);
        CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
    }
    job_run(&j, NULL); /* and afterwards all is well */
    printf("%d wrong calls refused\nOK\n", refusals);
    job_free(&j);
    weights_free(&W);
    return 0;
}
