/* Risk: pruning by a wrong count, the wrong weights, or ties that depend on how the work was cut. The reference
 * sorts. */
#include "prune.h"
#include "test.h"

typedef struct ranked {
    uint16_t magnitude;
    size_t   index;
} ranked;

static int compare_ranked(const void *left, const void *right)
{
    const ranked *a = (const ranked *)left, *b = (const ranked *)right;
    if (a->magnitude != b->magnitude) return a->magnitude < b->magnitude ? -1 : 1;
    return (a->index > b->index) - (a->index < b->index);
}

/* The slow way: sort by magnitude, then by place; the first `remove` become +0. */
static void prune_by_sorting(uint16_t *weights, size_t count, size_t remove)
{
    ranked *order = (ranked *)allocate(count * sizeof *order);
    size_t  i;
    for (i = 0; i < count; i++) order[i].magnitude = weights[i] & 0x7fffu, order[i].index = i;
    qsort(order, count, sizeof *order, compare_ranked);
    for (i = 0; i < remove; i++) weights[order[i].index] = 0;
    free(order);
}

/* `distinct` bit patterns only: few of them make many ties, NaNs and zeros of both signs among them. */
static void check(size_t count, size_t distinct, double share, uint64_t seed)
{
    const size_t remove = (size_t)prune_count(count, share);
    uint16_t    *weights = (uint16_t *)allocate_fenced(2 * count), *expected = (uint16_t *)allocate(2 * count);
    uint16_t    *tensor = (uint16_t *)allocate_fenced(2 * count);
    size_t       i;
    for (i = 0; i < count; i++) weights[i] = (uint16_t)random_bits(seed, random_bits(seed + 1, i) % distinct);
    for (i = 0; i < count; i += 7) weights[i] &= 0x8000u;
    memcpy(expected, weights, 2 * count);
    memcpy(tensor, weights, 2 * count);
    prune_by_sorting(expected, count, remove);
    prune_rows(weights, 1, count, share);
    prune_tensor(tensor, count, share);
    CHECK(memcmp(weights, expected, 2 * count) == 0);
    CHECK(memcmp(tensor, expected, 2 * count) == 0);
    free_fenced(weights, 2 * count);
    free_fenced(tensor, 2 * count);
    free(expected);
}

int main(void)
{
    static const size_t counts[] = {1, 2, 63, 64, 1000, 40000, 70001}; /* beyond 32768 and 65536 ties, too */
    static const size_t distinct[] = {1, 2, 50, 100000};
    static const double shares[] = {0, 0.01, 0.5, 0.77, 0.999, 1};
    size_t              i, j, k;
    for (i = 0; i < sizeof counts / sizeof *counts; i++)
        for (j = 0; j < sizeof distinct / sizeof *distinct; j++)
            for (k = 0; k < sizeof shares / sizeof *shares; k++) check(counts[i], distinct[j], shares[k], 10 * i + j);
    CHECK(prune_count(10, 0.5) == 5 && prune_count(3, 0.5) == 2 && prune_count(7, 1) == 7 && prune_count(7, 0) == 0);
    return 0;
}
