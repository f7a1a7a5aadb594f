/* Risk: a shape, an alignment, a density or a scalar for which some element of Y is wrong.
 *
 * Small integers, so every result is compared with ==. */
#define SPINFER_IMPLEMENTATION
#include "gpu.h"

static const size_t edges[] = {1,  7,   8,   9,   15,  16,  17,  31,  32,  33,  63, 64,
                               65, 127, 128, 129, 130, 191, 192, 193, 194, 199, 200};
static const size_t token_counts[] = {1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 100, 130};
static const double densities[] = {0.0, 0.01, 0.3, 0.5, 0.7, 0.99, 1.0};
static const float  alphas[] = {1.0f, 1.0f, -1.0f, 2.0f, 0.5f, 3.0f, 0.0f};
static const float  betas[] = {0.0f, 0.0f, 1.0f, -1.0f, 2.0f, 0.5f};

/* Half of the jobs can be loaded 16 bytes at a time, the others are misaligned in one way or another. */
static void draw_layout(job *j, uint64_t seed)
{
    static const size_t gaps[] = {0, 0, 1, 3, 8, 13};
    j->alpha = PICK(alphas, seed, 0);
    j->beta = PICK(betas, seed, 1);
    j->ldy += PICK(gaps, seed, 2);
    j->y_shift = 2 * (random_bits(seed, 3) % 8);
    j->ldx += PICK(gaps, seed, 4);
    if (random_bits(seed, 5) & 1) {
        j->ldx = (j->ldx + 7) / 8 * 8;
    } else {
        j->x_shift = 2 * (random_bits(seed, 6) % 8);
    }
}

static void check(const weights *W, size_t n, uint64_t seed)
{
    job j = job_default(W, n);
    draw_layout(&j, seed);
    job_create(&j, seed);
    job_run(&j, NULL);
    job_free(&j);
}

/* Every edge is M and K many times, every token count comes up with both dtypes; the rest is drawn from 1..200. */
static void test_small_shapes(size_t count)
{
    size_t i;
    for (i = 0; i < count; i++) {
        const uint64_t seed = 1000 + i;
        const size_t   M = i % 3 == 0 ? edges[i / 3 % COUNT(edges)] : 1 + random_bits(seed, 10) % 200;
        const size_t   K = i % 3 == 1 ? edges[i / 3 % COUNT(edges)] : 1 + random_bits(seed, 11) % 200;
        const size_t   n = i % 3 == 2 ? 1 + random_bits(seed, 12) % 200 : PICK(token_counts, seed, 13);
        weights        W = weights_random(M, K, PICK(densities, seed, 14), i & 1 ? SPINFER_BF16 : SPINFER_FP16, seed);
        check(&W, n, seed);
        weights_free(&W);
    }
    printf("%zu shapes of up to 200\n", count);
}

/* Every density with every token count; 190 x 250 has a tail in both directions. */
static void test_densities_and_tokens(void)
{
    size_t d, t;
    for (d = 0; d < COUNT(densities); d++) {
        weights fp16 = weights_random(190, 250, densities[d], SPINFER_FP16, 50 + d);
        weights bf16 = weights_random(190, 250, densities[d], SPINFER_BF16, 60 + d);
        for (t = 0; t < COUNT(token_counts); t++) {
            check(&fp16, token_counts[t], 100 * d + t);
            check(&bf16, token_counts[t], 200 * d + t);
        }
        weights_free(&fp16);
        weights_free(&bf16);
    }
    printf("%zu densities x %zu token counts\n", COUNT(densities), COUNT(token_counts));
}

/* Where the values are. Stages, splits and warps must agree on the address of every record, however uneven they are. */
static int full_tile(int pattern, size_t row, size_t col)
{
    const size_t row_group = row / 64, col_group = col / 32;
    switch (pattern) {
    case 0: return row_group == 1 && col_group == 7;       /* all values in one GroupTile               */
    case 1: return row_group != 1;                         /* a row of GroupTiles is empty              */
    case 2: return (row_group * 5 + col_group) % 7 == 0;   /* dense GroupTiles among empty ones         */
    case 3: return col >= 16 && col < 32;                  /* one column of TCTiles                     */
    case 4: return row / 16 % 2 == 0 && col / 16 % 2 == 1; /* dense TCTiles among empty ones            */
    case 5: return (row / 8 + col / 8) % 2 == 0;           /* a chessboard of BitmapTiles               */
    case 6: return row % 8 == 7 && col % 8 == 7;           /* the last bit of every BitmapTile          */
    default: return col_group == 0 || col == 799;          /* the ends of the rows                      */
    }
}

static void test_uneven(int patterns)
{
    const size_t M = 260, K = 800;
    int          pattern;
    for (pattern = 0; pattern < patterns; pattern++) {
        int8_t *integers = random_integers(M, K, 1.0, 300 + (uint64_t)pattern);
        weights W;
        size_t  row, col, t;
        for (row = 0; row < M; row++)
            for (col = 0; col < K; col++)
                if (!full_tile(pattern, row, col)) integers[row * K + col] = 0;
        W = weights_create(integers, M, K, pattern & 1 ? SPINFER_BF16 : SPINFER_FP16);
        for (t = 0; t < COUNT(token_counts); t += small_run() ? 12 : 3) check(&W, token_counts[t], 400 + t);
        weights_free(&W);
    }
    printf("%d uneven matrices\n", patterns);
}

/* What surrounds X must not reach Y, not even times a weight of zero: NaN and infinity in the columns from K to ldx, in
 * columns behind the last token that a block of `tokens` reaches for, and where the first token is not aligned. X comes
 * through the copy engine in the first layout, else lane by lane: 16 bytes at a time in the last one, whose ldx is more
 * than the copy engine can take, one element at a time in the others. */
static void test_x_surroundings(const spinfer_device *device, size_t M, size_t K, size_t step)
{
    static const struct {
        size_t ldx_multiple, ldx_extra, shift, tokens_less;
    } layouts[] = {{8, 8, 0, 1}, {8, 8, 2, 3}, {1, 1, 0, 2}, {1, 1, 14, 5}, {(size_t)1 << 40, 0, 0, 0}};
    static const uint16_t fp16[] = {0x7c00, 0xfe00}, bf16[] = {0xff80, 0x7fc0};
    size_t                layout, t, i;
    int                   dtype;
    for (dtype = SPINFER_FP16; dtype <= SPINFER_BF16; dtype++) {
        weights W = weights_random(M, K, 0.5, (spinfer_dtype)dtype, 700 + K);
        for (i = 0; i < COUNT(layouts) * SPINFER_KERNELS * 2; i += step) {
            spinfer_plan plan;
            job          j;
            layout = i / 2 % COUNT(layouts), t = i / 2 / COUNT(layouts);
            plan = plan_for_kernel(&W.device, t, device);
            j = job_default(&W, (size_t)kernel_tokens[t] + (i & 1 ? 8 : 0) - layouts[layout].tokens_less);
            j.ldx = (K + layouts[layout].ldx_extra + layouts[layout].ldx_multiple - 1) / layouts[layout].ldx_multiple *
                    layouts[layout].ldx_multiple;
            if (j.ldx > (size_t)1 << 39) j.n = 1; /* the next token would be a terabyte away */
            j.x_shift = layouts[layout].shift;
            if (j.n > 1) j.x_behind = 2 * (size_t)kernel_tokens[t] - j.n;
            j.x_poison = (dtype == SPINFER_FP16 ? fp16 : bf16)[i & 1];
            j.beta = 1.0f;
            job_create(&j, 800 + i);
            job_run(&j, &plan);
            set_splits(&plan, spinfer_col_groups((uint32_t)K) < 4 ? 1 : 3 + (int)(layout % 2));
            buffer_upload(&j.Y);
            job_run(&j, &plan);
            job_free(&j);
        }
        weights_free(&W);
    }
}

static void test_layers(void)
{
    static const struct {
        size_t M, K;
    } layers[] = {{1376, 512}, {1440, 2880}, {7392, 1024}, {512, 14336}, {4096, 4096}};
    static const size_t counts[] = {1, 7, 8, 16, 33, 64, 130};
    size_t              i, t;
    for (i = 0; i < COUNT(layers); i++) {
        weights W = weights_random(layers[i].M, layers[i].K, 0.5, i & 1 ? SPINFER_BF16 : SPINFER_FP16, 500 + i);
        for (t = 0; t < COUNT(counts); t++) check(&W, counts[t], 600 + 10 * i + t);
        weights_free(&W);
        printf("%zu x %zu\n", layers[i].M, layers[i].K);
    }
}

int main(void)
{
    const spinfer_device device = require_gpu();
    if (small_run()) {
        test_small_shapes(12);
        test_x_surroundings(&device, 65, 100, 3);
        test_uneven(3);
    } else {
        test_small_shapes(2400);
        test_densities_and_tokens();
        test_x_surroundings(&device, 130, 1, 1);
        test_x_surroundings(&device, 65, 33, 1);
        test_x_surroundings(&device, 130, 100, 1);
        test_x_surroundings(&device, 200, 1000, 1);
        test_x_surroundings(&device, 64, 1056, 1);
        printf("NaN and infinity around X\n");
        test_uneven(8);
        test_layers();
    }
    printf("OK\n");
    return 0;
}
