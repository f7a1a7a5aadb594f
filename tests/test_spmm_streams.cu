/* Risk: order. Launches that overlap, replays of a graph, results that depend on who arrives first, a dependent launch
 * that reads what the kernel before has not written yet. */
#define SPINFER_IMPLEMENTATION
#include "gpu.h"

enum { VARIANTS = SPINFER_KERNELS, WAYS = 3, PLANS = VARIANTS * WAYS + 1 };

/* Plan 0 is the library's. The others: every variant unsplit, split a few times, split many times. */
static void make_plan(const spinfer_matrix *W, size_t n, int number, const spinfer_device *device, spinfer_plan *plan)
{
    const int variant = (number - 1) / WAYS, way = (number - 1) % WAYS;
    *plan = number == 0 ? plan_for(W, n, device) : plan_for_kernel(W, (size_t)variant, device);
    if (number > 0) set_splits(plan, way == 0 ? 1 : way == 1 ? 2 + variant % 5 : many_splits(W));
}

static cudaStream_t create_stream(void)
{
    cudaStream_t stream;
    CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
}

/* Two streams, each with its own workspace, launch in turn; later launches overwrite Y with the same answer. */
static void test_two_streams(const spinfer_device *device)
{
    weights W[2] = {weights_random(700, 900, 0.5, SPINFER_FP16, 1), weights_random(300, 1500, 0.5, SPINFER_BF16, 2)};
    cudaStream_t streams[2] = {create_stream(), create_stream()};
    int          first;
    for (first = 0; first < PLANS; first++) {
        job          jobs[2];
        spinfer_plan plans[2];
        int          s, repeat;
        make_plan(&W[0].device, 20, first, device, &plans[0]);
        make_plan(&W[1].device, 40, PLANS - 1 - first, device, &plans[1]);
        for (s = 0; s < 2; s++) {
            jobs[s] = job_default(&W[s], s ? 40 : 20);
            job_create(&jobs[s], (uint64_t)first);
            CHECK_SPINFER(job_set_plan(&jobs[s], &plans[s]));
        }
        for (repeat = 0; repeat < (small_run() ? 1 : 50); repeat++)
            for (s = 0; s < 2; s++) CHECK_SPINFER(job_launch(&jobs[s], streams[s]));
        for (s = 0; s < 2; s++) CHECK_CUDA(cudaStreamSynchronize(streams[s]));
        for (s = 0; s < 2; s++) {
            job_check(&jobs[s]);
            job_free(&jobs[s]);
        }
    }
    CHECK_CUDA(cudaStreamDestroy(streams[0]));
    CHECK_CUDA(cudaStreamDestroy(streams[1]));
    weights_free(&W[0]);
    weights_free(&W[1]);
}

/* A graph holds pointers: every replay takes the X of its time. Also without a plan, which asks the device while
 * capturing. */
static void test_graph(const spinfer_device *device)
{
    weights      W = weights_random(330, 700, 0.5, SPINFER_FP16, 3);
    cudaStream_t stream = create_stream();
    int          number;
    for (number = -1; number < PLANS; number++) {
        job             j = job_default(&W, 17);
        spinfer_plan    plan;
        cudaGraph_t     graph;
        cudaGraphExec_t replay;
        uint64_t        input;
        if (number >= 0) make_plan(&W.device, 17, number, device, &plan);
        j.beta = 2.0f;
        job_create(&j, 0);
        CHECK_SPINFER(job_set_plan(&j, number < 0 ? NULL : &plan));
        CHECK_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
        CHECK_SPINFER(job_launch(&j, stream));
        CHECK_CUDA(cudaStreamEndCapture(stream, &graph));
        buffer_check_unchanged(&j.Y); /* captured, not run */
        CHECK_CUDA(cudaGraphInstantiate(&replay, graph, 0));
        for (input = 1; input <= 3; input++) {
            job_set_input(&j, input);
            CHECK_CUDA(cudaGraphLaunch(replay, stream));
            CHECK_CUDA(cudaStreamSynchronize(stream));
            job_check(&j);
        }
        CHECK_CUDA(cudaGraphExecDestroy(replay));
        CHECK_CUDA(cudaGraphDestroy(graph));
        job_free(&j);
    }
    CHECK_CUDA(cudaStreamDestroy(stream));
    weights_free(&W);
}

/* Random values, whose sums depend on the order of additions: every repeat must have the same bits, while another
 * stream takes multiprocessors away in the middle. */
static void test_repeats(const spinfer_device *device)
{
    const size_t   M = small_run() ? 200 : 2000, K = small_run() ? 400 : 4000, n = 33;
    const int      repeats = small_run() ? 2 : 20;
    uint16_t      *dense = (uint16_t *)allocate(2 * M * K);
    buffer         X = buffer_create(2 * K * n, 0, 0), Y = buffer_create(2 * M * n, 0, 0);
    spinfer_matrix host, W;
    weights        other = weights_random(M, K, 0.5, SPINFER_FP16, 4);
    job            load = job_default(&other, 16);
    cudaStream_t   stream = create_stream(), load_stream = create_stream();
    int            number;
    job_create(&load, 5);
    CHECK_SPINFER(job_set_plan(&load, NULL));
    fill_normal(dense, M * K, 0.05, SPINFER_FP16, 6);
    prune_iid(dense, M, K, 0.5, 7);
    fill_normal((uint16_t *)buffer_image(&X), K * n, 1.0, SPINFER_FP16, 8);
    buffer_upload(&X);
    host = encode_matrix(dense, M, K, SPINFER_FP16);
    W = upload_matrix(&host);
    for (number = 0; number < PLANS; number++) {
        unsigned char *first = NULL;
        spinfer_plan   plan;
        buffer         workspace;
        size_t         bytes;
        int            repeat;
        make_plan(&W, n, number, device, &plan);
        CHECK_SPINFER(spinfer_spmm_workspace_bytes(&plan, &W, n, &bytes));
        workspace = buffer_create(bytes, 0, 0);
        memset(buffer_image(&workspace), 0, bytes);
        buffer_upload(&workspace);
        for (repeat = 0; repeat < repeats; repeat++) {
            unsigned char *now;
            int            i;
            buffer_upload(&Y);
            for (i = 0; i < repeat % 4; i++) CHECK_SPINFER(job_launch(&load, load_stream));
            CHECK_SPINFER(spinfer_spmm(&plan, 1.0f, &W, buffer_payload(&X), K, 0.0f, buffer_payload(&Y), M, n,
                                       buffer_payload(&workspace), bytes, stream));
            CHECK_CUDA(cudaDeviceSynchronize());
            now = buffer_download(&Y);
            if (first) {
                CHECK(memcmp(first, now, Y.total) == 0);
                free(now);
            } else {
                CHECK(memcmp(Y.image, now, Y.total) != 0);
                first = now;
            }
        }
        free(first);
        buffer_free(&workspace);
    }
    job_check(&load);
    job_free(&load);
    weights_free(&other);
    free_matrix(&host);
    free_device_matrix(&W);
    free(dense);
    buffer_free(&X);
    buffer_free(&Y);
    CHECK_CUDA(cudaStreamDestroy(stream));
    CHECK_CUDA(cudaStreamDestroy(load_stream));
}

/* A chain of layers over two activations, each layer's Y is the next one's X, all with one workspace. */
typedef struct chain {
    spinfer_matrix layers[4];
    spinfer_plan   plans[4];
    buffer         activations[2], workspace;
    size_t         width, n;
    int            length;
} chain;

static void chain_launch(const chain *c, int dependent, cudaStream_t stream)
{
    int i;
    for (i = 0; i < c->length; i++) {
        spinfer_plan plan = c->plans[i % 4];
        plan.dependent = dependent;
        CHECK_SPINFER(spinfer_spmm(&plan, 1.0f, &c->layers[i % 4], buffer_payload(&c->activations[i % 2]), c->width,
                                   0.0f, buffer_payload(&c->activations[(i + 1) % 2]), c->width, c->n,
                                   buffer_payload(&c->workspace), c->workspace.bytes, stream));
    }
}

/* Starts from the images of the activations; both of them afterwards, one behind the other. */
static unsigned char *chain_result(const chain *c, int dependent, int graph_launch, cudaStream_t stream)
{
    const size_t   total = c->activations[0].total;
    unsigned char *result = (unsigned char *)allocate(2 * total), *second;
    unsigned char *first;
    buffer_upload(&c->activations[0]);
    buffer_upload(&c->activations[1]);
    if (graph_launch) {
        cudaGraph_t     graph;
        cudaGraphExec_t replay;
        CHECK_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
        chain_launch(c, dependent, stream);
        CHECK_CUDA(cudaStreamEndCapture(stream, &graph));
        CHECK_CUDA(cudaGraphInstantiate(&replay, graph, 0));
        CHECK_CUDA(cudaGraphLaunch(replay, stream));
        CHECK_CUDA(cudaStreamSynchronize(stream));
        CHECK_CUDA(cudaGraphExecDestroy(replay));
        CHECK_CUDA(cudaGraphDestroy(graph));
    } else {
        chain_launch(c, dependent, stream);
        CHECK_CUDA(cudaStreamSynchronize(stream));
    }
    first = buffer_download(&c->activations[0]);
    second = buffer_download(&c->activations[1]);
    memcpy(result, first, total);
    memcpy(result + total, second, total);
    free(first);
    free(second);
    return result;
}

/* Weights with a deviation of 1 / sqrt(nonzeros in a row) keep the activations near 1 over any number of layers, so a
 * stale or half-written activation changes the bits of the last. */
static void test_dependent_chain(const spinfer_device *device)
{
    const size_t   width = small_run() ? 200 : 1000;
    spinfer_matrix host[4];
    cudaStream_t   stream = create_stream();
    chain          c;
    int            number, i;
    c.width = width;
    c.n = 12;
    c.length = small_run() ? 4 : 41;
    for (i = 0; i < 4; i++) {
        uint16_t *dense = (uint16_t *)allocate(2 * width * width);
        fill_normal(dense, width * width, 1.0 / sqrt(0.5 * (double)width), SPINFER_FP16, 10 + (uint64_t)i);
        prune_iid(dense, width, width, 0.5, 20 + (uint64_t)i);
        host[i] = encode_matrix(dense, width, width, SPINFER_FP16);
        c.layers[i] = upload_matrix(&host[i]);
        free(dense);
    }
    for (i = 0; i < 2; i++) {
        c.activations[i] = buffer_create(2 * width * c.n, 0, 0);
        if (i == 0) fill_normal((uint16_t *)buffer_image(&c.activations[0]), width * c.n, 1.0, SPINFER_FP16, 30);
    }
    for (number = 0; number < PLANS; number++) {
        unsigned char *plain, *dependent;
        size_t         largest = 0;
        int            repeat;
        for (i = 0; i < 4; i++) { /* neighbours with different plans: kernels of different sizes overlap */
            size_t    bytes;
            const int way = number == 0 ? 0 : 1 + (number - 1 + 5 * i) % (PLANS - 1);
            make_plan(&c.layers[i], c.n, way, device, &c.plans[i]);
            CHECK_SPINFER(spinfer_spmm_workspace_bytes(&c.plans[i], &c.layers[i], c.n, &bytes));
            if (bytes > largest) largest = bytes;
        }
        c.workspace = buffer_create(largest, 0, 0);
        memset(buffer_image(&c.workspace), 0, largest);
        buffer_upload(&c.workspace);
        plain = chain_result(&c, 0, 0, stream);
        for (repeat = 0; repeat < (small_run() ? 2 : 10); repeat++) {
            dependent = chain_result(&c, 1, repeat & 1, stream);
            CHECK(memcmp(plain, dependent, 2 * c.activations[0].total) == 0);
            free(dependent);
        }
        {
            const uint16_t last =
                *(uint16_t *)(plain + (c.length & 1) * c.activations[0].total + c.activations[0].front);
            const float value = spinfer_to_float(last, SPINFER_FP16);
            CHECK(value == value && fabsf(value) < 1000.0f); /* equal because it is a result, not because all is NaN */
        }
        free(plain);
        buffer_free(&c.workspace);
    }
    for (i = 0; i < 4; i++) {
        free_matrix(&host[i]);
        free_device_matrix(&c.layers[i]);
    }
    buffer_free(&c.activations[0]);
    buffer_free(&c.activations[1]);
    CHECK_CUDA(cudaStreamDestroy(stream));
}

int main(void)
{
    const spinfer_device device = require_gpu();
    test_two_streams(&device);
    test_graph(&device);
    test_repeats(&device);
    if (device.compute >= 90) {
        test_dependent_chain(&device);
    } else {
        printf("not tested: dependent launches need sm_90\n");
    }
    printf("OK\n");
    return 0;
}
