/* Risk: precision. Sums kept in 16 bits, values rounded twice, a scalar applied at the wrong place.
 *
 * Random normal data against a float64 product. The bound, for one element of Y:
 *
 *     S = sum over k of |w x|,  R = |alpha| S + |beta y|,  u = 2^-24 (one fp32 rounding)
 *
 *   - Products of two 16-bit values are exact in fp32: 11 + 11 (fp16) or 8 + 8 (bf16) significant bits.
 *   - A tensor core adds some products and the accumulator in one step: it aligns them to the largest one, cuts off
 *     what is below the last of at least 24 bits, and cuts off the sum again. It truncates, hence 2u instead of u.
 *     (As published measurements say.) A step with j nonzero products loses at most 2u S for
 *     each of the j addends that are not the largest, and 2u S for its sum: at most 2j times 2u S. Over all of K that
 *     is 4u K S, however the steps are cut.
 *   - The partial sums of warps and splits are added in fp32: at most 32 * splits additions of u each. There is at most
 *     one split for each column of GroupTiles, splits <= K / 32 + 1, hence at most K + 32 additions.
 *   - alpha * sum, beta * y and their sum: three roundings, each at most u R.
 *   Together, with Higham's gamma for the products of (1 + error):
 *
 *     |fp32 result - exact| <= gamma R,   gamma = t / (1 - t),   t = u (4 K + K + 32 + 3)
 *
 *   - The last rounding, to nearest: 2^-11 (fp16) or 2^-8 (bf16) of the fp32 result; below the normal range of fp16
 *     half of 2^-24. */
#define SPINFER_IMPLEMENTATION
#include "gpu.h"

static double check(size_t M, size_t K, size_t n, double zeros, spinfer_dtype dtype, float alpha, float beta,
                    const spinfer_plan *plan, uint64_t seed)
{
    const double   t = 0x1p-24 * (5.0 * (double)K + 35.0), gamma = t / (1.0 - t);
    const double   rounding = dtype == SPINFER_BF16 ? 0x1p-8 : 0x1p-11;
    uint16_t      *w = (uint16_t *)allocate(2 * M * K);
    double        *x = (double *)allocate(K * n * sizeof *x), worst = 0;
    buffer         X = buffer_create(2 * K * n, 0, 0), Y = buffer_create(2 * M * n, 0, 0), workspace = {};
    uint16_t      *y_before = (uint16_t *)buffer_image(&Y), *y_after;
    unsigned char *now;
    spinfer_matrix host, W;
    spinfer_device device;
    spinfer_plan   chosen;
    size_t         bytes, i;
    long long      row;
    fill_normal(w, M * K, 0.05, dtype, seed);
    prune_iid(w, M, K, zeros, seed + 1);
    host = encode_matrix(w, M, K, dtype);
    W = upload_matrix(&host);
    fill_normal((uint16_t *)buffer_image(&X), K * n, 1.0, dtype, seed + 2);
    fill_normal(y_before, M * n, 1.0, dtype, seed + 3);
    for (i = 0; i < K * n; i++) x[i] = (double)spinfer_to_float(((uint16_t *)buffer_image(&X))[i], dtype);
    buffer_upload(&X);
    buffer_upload(&Y);
    CHECK_SPINFER(spinfer_device_query(&device));
    chosen = plan ? *plan : plan_for(&W, n, &device);
    CHECK_SPINFER(spinfer_spmm_workspace_bytes(&chosen, &W, n, &bytes));
    workspace = buffer_create(bytes, 0, 0);
    memset(buffer_image(&workspace), 0, bytes);
    buffer_upload(&workspace);
    CHECK_SPINFER(spinfer_spmm(&chosen, alpha, &W, buffer_payload(&X), K, beta, buffer_payload(&Y), M, n,
                               buffer_payload(&workspace), bytes, NULL));
    now = buffer_download(&Y);
    y_after = (uint16_t *)(now + Y.front);
#ifdef _OPENMP
#pragma omp parallel for reduction(max : worst)
#endif
    for (row = 0; row < (long long)M; row++) {
        size_t token, k;
        for (token = 0; token < n; token++) {
            const size_t at = token * M + (size_t)row;
            const double by = (double)beta * (double)spinfer_to_float(y_before[at], dtype);
            const double y = (double)spinfer_to_float(y_after[at], dtype);
            double       sum = 0, magnitude = 0, exact, bound, ratio;
            for (k = 0; k < K; k++) {
                const double product = (double)spinfer_to_float(w[(size_t)row * K + k], dtype) * x[token * K + k];
                sum += product;
                magnitude += fabs(product);
            }
            exact = (double)alpha * sum + by;
            bound = gamma * (fabs((double)alpha) * magnitude + fabs(by));
            bound += rounding * (fabs(exact) + bound) + (dtype == SPINFER_FP16 ? 0x1p-25 : 0.0);
            ratio = fabs(y - exact) / bound;
            if (!(ratio <= 1.0)) { /* also when y is NaN */
                fprintf(stderr, "row %lld token %zu: %g instead of %g, bound %g (%zu x %zu x %zu, alpha %g beta %g)\n",
                        row, token, y, exact, bound, M, K, n, (double)alpha, (double)beta);
                print_plan(&chosen);
                exit(1);
            }
            if (ratio > worst) worst = ratio;
        }
    }
    free(now);
    free(w);
    free(x);
    free_matrix(&host);
    free_device_matrix(&W);
    buffer_free(&X);
    buffer_free(&Y);
    buffer_free(&workspace);
    return worst;
}

static const float alphas[] = {1.0f, -0.7f, 3.3f}, betas[] = {0.0f, 1.0f, -0.3f};

static void test_shapes(int small)
{
    static const struct {
        size_t M, K, n;
        double zeros;
    } shapes[] = {{70, 40, 3, 0.5},     {64, 32, 8, 0.0},      {200, 1000, 17, 0.7},  {1376, 512, 64, 0.5},
                  {1000, 1000, 1, 0.5}, {1440, 2880, 16, 0.6}, {128, 14336, 33, 0.5}, {2048, 2048, 130, 0.4}};
    size_t shape, i;
    for (shape = 0; shape < (small ? 2 : COUNT(shapes)); shape++) {
        double worst[3] = {0};
        for (i = 0; i < (small ? 3 : 9); i++) {
            int dtype;
            for (dtype = SPINFER_FP16; dtype <= SPINFER_BF16; dtype++) {
                const double ratio =
                    check(shapes[shape].M, shapes[shape].K, shapes[shape].n, shapes[shape].zeros, (spinfer_dtype)dtype,
                          alphas[i % 3], betas[(i + i / 3) % 3], NULL, 9 * shape + i);
                worst[dtype] = fmax(worst[dtype], ratio);
            }
        }
        printf("%zu x %zu x %zu: largest error / bound %.3f (fp16), %.3f (bf16)\n", shapes[shape].M, shapes[shape].K,
               shapes[shape].n, worst[SPINFER_FP16], worst[SPINFER_BF16]);
    }
}

static void test_splits(const spinfer_device *device, size_t M, size_t K)
{
    const size_t n = 65;
    int8_t      *integers = random_integers(M, K, 0.5, 1);
    weights      shape = weights_create(integers, M, K, SPINFER_FP16);
    double       worst = 0;
    int          splits;
    size_t       t;
    for (t = 0; t < SPINFER_KERNELS; t++) {
        spinfer_plan plan = plan_for_kernel(&shape.device, t, device);
        for (splits = 1; splits <= many_splits(&shape.device); splits += small_run() ? 3 : 1) {
            set_splits(&plan, splits);
            worst = fmax(worst, check(M, K, n, 0.5, splits & 1 ? SPINFER_FP16 : SPINFER_BF16, 1.5f, -1.0f, &plan, t));
        }
    }
    printf("split K: largest error / bound %.3f\n", worst);
    weights_free(&shape);
}

int main(void)
{
    const spinfer_device device = require_gpu();
    test_shapes(small_run());
    if (small_run()) {
        test_splits(&device, 65, 280);
    } else {
        test_splits(&device, 300, 1500);
    }
    printf("OK\n");
    return 0;
}
