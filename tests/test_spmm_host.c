/* Risk: the reference of every GPU test is itself wrong. Compared with plain loops over the dense matrix in double. */
#include "test.h"

static long long products;

typedef struct {
    size_t        rows, cols, n, ldx, ldy;
    spinfer_dtype dtype;
    uint16_t     *dense, *X, *Y; /* fenced, exact size; the gaps of X and Y hold poison */
} problem;

/* Integers in [-range, range], or normal numbers if range is 0. The gaps keep their poison. */
static void fill(uint16_t *values, size_t rows, size_t columns, size_t ld, int range, spinfer_dtype dtype,
                 uint64_t seed)
{
    size_t row, column;
    for (column = 0; column < columns; column++)
        for (row = 0; row < rows; row++) {
            const uint64_t i = column * rows + row;
            const double   value = range ? (double)(random_bits(seed, i) % (uint64_t)(2 * range + 1)) - range
                                         : random_normal(seed, i);
            values[column * ld + row] = spinfer_from_float((float)value, dtype);
        }
}

static problem make_problem(size_t rows, size_t cols, size_t n, double density, int range, spinfer_dtype dtype)
{
    problem p;
    p.rows = rows, p.cols = cols, p.n = n, p.dtype = dtype;
    p.ldx = cols + (rows + n) % 4, p.ldy = rows + (cols + n) % 3;
    p.dense = (uint16_t *)allocate_fenced(2 * rows * cols);
    p.X = (uint16_t *)allocate_fenced(2 * span(n, cols, p.ldx));
    p.Y = (uint16_t *)allocate_fenced(2 * span(n, rows, p.ldy));
    fill(p.dense, cols, rows, cols, range, dtype, 11 * rows + cols);
    prune_iid(p.dense, rows, cols, 1 - density, rows);
    fill(p.X, cols, n, p.ldx, range, dtype, 13 * n + cols);
    fill(p.Y, rows, n, p.ldy, range, dtype, 17 * n + rows);
    return p;
}

static void free_problem(const problem *p)
{
    free_fenced(p->dense, 2 * p->rows * p->cols);
    free_fenced(p->X, 2 * span(p->n, p->cols, p->ldx));
    free_fenced(p->Y, 2 * span(p->n, p->rows, p->ldy));
}

/* Multiplies and compares every element with the double sum v = alpha w.x + beta y of a plain loop.
 *
 * Derivation of the interval. A product of two 16-bit floats is exact in double: at most 22 bits of mantissa, and an
 * exponent far inside the range. Each of the two sums of K products, in whatever order, is off by at most (K - 1) u S
 * to first order, where S = sum |w x| and u = 2^-53. Alpha times the sum, beta times y and their addition round once
 * each, so either value is off by at most (K + 2) u (|alpha| S + |beta y|), and the two differ by at most twice that;
 * 1 % more covers the second order, as K u < 2^-40. With e = that bound, what the library rounds is in v - e .. v + e.
 * Rounding to float and then to 16 bits never reverses an order, so its result lies between the roundings of the ends:
 * nearly always one number, at worst a few neighbours where a sum cancels. */
static void check_product(const problem *p, float alpha, float beta, int exact)
{
    const spinfer_matrix W = encode_fenced(p->dense, p->rows, p->cols, p->cols, p->dtype);
    const size_t         bytes = 2 * span(p->n, p->rows, p->ldy);
    uint16_t            *before = (uint16_t *)allocate(bytes);
    size_t               token, row, k;
    memcpy(before, p->Y, bytes);
    CHECK_SPINFER(spinfer_spmm_host(alpha, &W, p->X, p->ldx, beta, p->Y, p->ldy, p->n));
    for (token = 0; token < p->n; token++) {
        for (row = 0; row < p->rows; row++) {
            const double y = beta != 0 ? (double)spinfer_to_float(before[token * p->ldy + row], p->dtype) : 0;
            const float  result = spinfer_to_float(p->Y[token * p->ldy + row], p->dtype);
            double       sum = 0, size = 0, v, e;
            for (k = 0; k < p->cols; k++) {
                const double product = (double)spinfer_to_float(p->dense[row * p->cols + k], p->dtype) *
                                       (double)spinfer_to_float(p->X[token * p->ldx + k], p->dtype);
                sum += product;
                size += fabs(product);
            }
            v = (double)alpha * sum + (double)beta * y;
            e = 1.01 * 2 * (double)(p->cols + 2) * 0x1p-53 * (fabs((double)alpha) * size + fabs((double)beta * y));
            CHECK(result >= spinfer_to_float(spinfer_from_float((float)(v - e), p->dtype), p->dtype));
            CHECK(result <= spinfer_to_float(spinfer_from_float((float)(v + e), p->dtype), p->dtype));
            if (exact) CHECK((double)result == v);
        }
        if (token + 1 < p->n)
            CHECK(is_poison(p->Y + token * p->ldy + p->rows, 2 * (p->ldy - p->rows)));
    }
    for (token = 0; token + 1 < p->n; token++)
        CHECK(is_poison(p->X + token * p->ldx + p->cols, 2 * (p->ldx - p->cols)));
    free(before);
    free_fenced_matrix(&W);
    products++;
}

/* Integers whose result has at most 8 bits (|v| <= 256), so that bf16 holds it: every step is exact. */
static void test_integers(void)
{
    static const size_t sizes[] = {1, 7, 16, 31, 33, 64, 65, 100, 130};
    size_t              i, j, n;
    for (i = 0; i < 9; i++)
        for (j = 0; j < 9; j++) {
            const spinfer_dtype dtype = (i + j) % 2 ? SPINFER_FP16 : SPINFER_BF16;
            const problem       p = make_problem(sizes[i], sizes[j], 1 + (i * 9 + j) % 20, 0.5, 1, dtype);
            check_product(&p, 1, 0, 1);
            free_problem(&p);
        }
    for (n = 1; n <= 20; n++) {
        const problem p = make_problem(70, 60, n, 0.5, 1, n % 2 ? SPINFER_FP16 : SPINFER_BF16);
        check_product(&p, -1, 1, 1);
        check_product(&p, 2, -1, 1); /* |2 * 60 + 61| < 256 */
        free_problem(&p);
    }
}

static void test_random(void)
{
    static const float  scales[][2] = {{1, 0}, {1, 1}, {-0.37f, 2.5f}, {0, 1}, {0, 0}, {1000, -0.125f}, {1e-4f, 0}};
    static const double densities[] = {0, 0.1, 0.5, 1};
    size_t              i, s, d;
    for (i = 0; i < 2; i++)
        for (s = 0; s < 7; s++)
            for (d = 0; d < 4; d++) {
                const problem p = make_problem(77 + 9 * d, 200 + 31 * s, 1 + (5 * s + d) % 20, densities[d], 0,
                                               i ? SPINFER_BF16 : SPINFER_FP16);
                check_product(&p, scales[s][0], scales[s][1], 0);
                free_problem(&p);
            }
}

/* beta == 0 does not read Y: NaN in it does not matter. Infinite and NaN weights reach their row of Y and no other. */
static void test_not_finite(void)
{
    const problem  p = make_problem(66, 40, 3, 0.5, 1, SPINFER_FP16);
    spinfer_matrix W;
    size_t         i;
    for (i = 0; i < 3; i++) memset(p.Y + i * p.ldy, 0xff, 2 * p.rows);
    check_product(&p, 1, 0, 1);
    for (i = 0; i < 3; i++) memset(p.Y + i * p.ldy, 0xff, 2 * p.rows);
    check_product(&p, 1, -0.0f, 1);
    for (i = 0; i < p.rows * p.cols; i++) p.dense[i] = 0;
    for (i = 0; i < p.cols; i++) p.X[i] = 0x3c00;
    p.dense[0] = 0x7c00;              /* +inf * 1 */
    p.dense[p.cols] = 0xfc00;         /* -inf * 1 */
    p.dense[2 * p.cols] = 0x7e01;     /* NaN */
    p.dense[65 * p.cols + 39] = 0x7bff; /* 65504: alpha 2 overflows fp16 */
    W = encode_fenced(p.dense, p.rows, p.cols, p.cols, SPINFER_FP16);
    CHECK_SPINFER(spinfer_spmm_host(2, &W, p.X, p.ldx, 0, p.Y, p.ldy, 1));
    CHECK(p.Y[0] == 0x7c00 && p.Y[1] == 0xfc00 && (p.Y[2] & 0x7fff) > 0x7c00 && p.Y[3] == 0 && p.Y[65] == 0x7c00);
    free_fenced_matrix(&W);
    free_problem(&p);
}

static void test_errors(void)
{
    const problem  p = make_problem(65, 40, 2, 0.5, 1, SPINFER_FP16);
    const size_t   bytes = 2 * span(2, 65, p.ldy);
    const uint16_t *X_odd = (const uint16_t *)((uintptr_t)p.X + 1);
    uint16_t       *Y_odd = (uint16_t *)((uintptr_t)p.Y + 1);
    spinfer_matrix W = encode_fenced(p.dense, 65, 40, 40, SPINFER_FP16), bad;
    memset(p.Y, POISON, bytes);
    CHECK(spinfer_spmm_host(1, NULL, p.X, p.ldx, 0, p.Y, p.ldy, 2) == SPINFER_ERR_NULL);
    CHECK(spinfer_spmm_host(1, &W, NULL, p.ldx, 0, p.Y, p.ldy, 2) == SPINFER_ERR_NULL);
    CHECK(spinfer_spmm_host(1, &W, p.X, p.ldx, 0, NULL, p.ldy, 2) == SPINFER_ERR_NULL);
    CHECK(spinfer_spmm_host(1, &W, p.X, 39, 0, p.Y, p.ldy, 2) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_spmm_host(1, &W, p.X, p.ldx, 0, p.Y, 64, 2) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_spmm_host(1, &W, p.X, p.ldx, 0, p.Y, p.ldy, 0) == SPINFER_ERR_SHAPE);
    CHECK(spinfer_spmm_host(1, &W, X_odd, p.ldx, 0, p.Y, p.ldy, 2) == SPINFER_ERR_ALIGNMENT);
    CHECK(spinfer_spmm_host(1, &W, p.X, p.ldx, 0, Y_odd, p.ldy, 2) == SPINFER_ERR_ALIGNMENT);
#define CHECK_BAD(field, value, status)                                                                                \
    do {                                                                                                               \
        bad = W;                                                                                                       \
        bad.field = (value);                                                                                           \
        CHECK(spinfer_spmm_host(1, &bad, p.X, p.ldx, 0, p.Y, p.ldy, 2) == (status));                                   \
    } while (0)
    CHECK_BAD(offsets, NULL, SPINFER_ERR_NULL);
    CHECK_BAD(data, NULL, SPINFER_ERR_NULL);
    CHECK_BAD(rows, 0, SPINFER_ERR_SHAPE);
    CHECK_BAD(cols, 0, SPINFER_ERR_SHAPE);
    CHECK_BAD(group_ld, 1, SPINFER_ERR_SHAPE);
    CHECK_BAD(dtype, 0, SPINFER_ERR_DTYPE);
    CHECK_BAD(format, 0, SPINFER_ERR_VERSION);
    CHECK_BAD(max_record, 0, SPINFER_ERR_FORMAT);
    CHECK_BAD(data, (const char *)W.data + 8, SPINFER_ERR_ALIGNMENT);
    CHECK(is_poison(p.Y, bytes));
    free_fenced_matrix(&W);
    free_problem(&p);
}

int main(void)
{
    test_integers();
    test_random();
    test_not_finite();
    test_errors();
    printf("spmm_host: %lld products against float64, integers exact, random ones within their derived interval, "
           "alpha, beta, NaN in Y, gaps, wrong arguments: OK\n", products);
    return 0;
}
