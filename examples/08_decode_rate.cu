/* 08_decode_rate.cu - why the decode rate matters: a budget of population counts.
 *
 *     08_decode_rate [rows cols [percent of zeros]]
 *
 * The idea. Memory delivers encoded weights at some rate, and whoever decodes slower wastes the bytes that the format
 * saves. At 50 % zeros an H200 delivers about 16 weights for each clock and SM: in some 16 clocks a quarter of an SM
 * must be through with the 64 weights of a BitmapTile, one register of each lane, everything included. A population
 * count of a warp (POPC) takes 8 of them, and a 64-bit one is two. The records lie in shared memory and are decoded
 * again and again: nothing but decode and mma is measured. Four ways, and what they count for a BitmapTile:
 *
 *     naive    3.5 POPC. A lane owns two neighbours of each BitmapTile. Their rank is the population count of the
 *              masked 64-bit bitmap; the next BitmapTile begins behind as many values as this one counts.
 *     simple   2.5 POPC. spinfer_decode_tc_tile(): a lane owns four neighbours ("quad") in either the left or the right
 *              BitmapTiles, but it too counts what lies before its own.
 *     pair     1 POPC. As naive, but a table, filled once, says where the values of each 32-bit word begin.
 *     quad     0.5 POPC. Four neighbours and the table. The library does it this way.
 *
 * Introduces: spinfer_lane_init(), spinfer_scan_stage(), spinfer_table_place(), spinfer_lane_quad(),
 *             spinfer_quad_locate(), spinfer_quad_load(), spinfer_pack(), and stamping kernels from one body */
#include "lesson.h"

enum { WARPS = 8, ROUNDS = 100, SUMS = 8 * 64 }; /* warps of a block, sums of a warp */
enum way { NAIVE, SIMPLE, PAIR, QUAD };

#ifdef __CUDA_ARCH__ /* what the library does with a stage is device code: the host pass does not know it */
/* Two neighbours into a register: bits bit and bit + 1 say whether they are there, their values begin at place. */
static __device__ uint32_t load_pair(uint32_t word, int bit, spinfer_shared place)
{
    uint32_t low = 0, high = 0;
    if (word >> bit & 1) low = spinfer_shared_u16(place), place += 2;
    if (word >> bit & 2) high = spinfer_shared_u16(place);
    return spinfer_pack(low, high);
}

/* TCTile t of a record into registers, in one of four ways. The table has four words for each half of two BitmapTiles:
 * word of the upper one, where its values begin, word of the lower one, where its values begin. */
static __device__ void decode(const int way, spinfer_frag_a *a, const unsigned char *record, spinfer_shared table,
                              const int t, int lane)
{
    const uint64_t *bitmaps = (const uint64_t *)(record + SPINFER_RECORD_BITMAPS) + 4 * t;
    const uint16_t *values = (const uint16_t *)(record + SPINFER_RECORD_VALUES) + ((const uint16_t *)record)[t];
    const int       half = lane / 16, bit = 2 * (lane % 16); /* of a BitmapTile, and its first bit there */
    uint32_t        e[4];
    if (way == NAIVE) {
        spinfer_shared place = spinfer_shared_address(values);
        for (int bt = 0; bt < 4; bt++) { /* BitmapTiles go by rows, registers by columns */
            const int before = spinfer_popcount64(bitmaps[bt] & (((uint64_t)1 << 2 * lane) - 1));
            a->r[bt / 2 + 2 * (bt % 2)] = load_pair((uint32_t)(bitmaps[bt] >> 32 * half), bit, place + 2 * before);
            place += 2 * spinfer_popcount64(bitmaps[bt]);
        }
    } else if (way == SIMPLE) {
        spinfer_decode_tc_tile(a, bitmaps, values, lane);
    } else if (way == PAIR) {
        const uint32_t below = (1u << bit) - 1;
        for (int side = 0; side < 2; side++) {
            spinfer_shared_u32x4(table + spinfer_table_place(t) + 32 * side + 16 * half, e);
            a->r[2 * side] = load_pair(e[0], bit, e[1] + 2 * spinfer_popcount(e[0] & below));
            a->r[2 * side + 1] = load_pair(e[2], bit, e[3] + 2 * spinfer_popcount(e[2] & below));
        }
    } else {
        const spinfer_quad q = spinfer_lane_quad(lane);
        uint32_t           v[4];
        spinfer_shared_u32x4(table + spinfer_table_place(t) + spinfer_table_read(lane), e);
        for (int bottom = 0; bottom < 2; bottom++) {
            const uint32_t word = e[2 * bottom], place = spinfer_quad_locate(word, e[2 * bottom + 1], q);
            spinfer_quad_load(word, place, q, v);
            a->r[bottom] = spinfer_pack(v[0], v[1]);
            a->r[bottom + 2] = spinfer_pack(v[2], v[3]);
        }
    }
}
#endif

/* A warp takes record k of the first strip to shared memory and multiplies it ROUNDS times with the X of 8 tokens. Its
 * sums go to y, [8 tokens][64 rows]. */
static __device__ void run(const int way, unsigned char *record, spinfer_shared table, const spinfer_matrix *W,
                           const uint16_t *X, float *y, uint32_t k, int lane)
{
#ifdef __CUDA_ARCH__
    spinfer_frag_c sums[4] = {};
    spinfer_frag_b b[2];
    for (uint32_t unit = (uint32_t)lane; unit < W->offsets[k + 1] - W->offsets[k]; unit += 32)
        ((uint4 *)record)[unit] = ((const uint4 *)spinfer_record_at(W, 0, k))[unit];
    __syncwarp(); /* the record is complete */
    if (way == PAIR || way == QUAD) {
        const spinfer_lane l = spinfer_lane_init(1, table, 0, (uint32_t)lane);
        spinfer_scan_stage(1, spinfer_shared_address(record), &l);
    }
    X += (size_t)spinfer_frag_b_token(lane) * W->cols + SPINFER_GROUP_COLS * k;
    for (int r = 0; r < 2; r++) { /* X in the order of the weights: quad, or as the instruction has it */
        const int col = way == SIMPLE || way == QUAD ? spinfer_frag_b_col(lane, r) : 2 * (lane % 4) + 8 * r;
        for (int slab = 0; slab < 2; slab++) b[slab].r[r] = *(const uint32_t *)(X + 16 * slab + col);
    }
    __syncwarp(); /* the table is complete */
    for (int round = 0; round < ROUNDS; round++) {
        asm volatile("" ::: "memory"); /* the compiler must not remember what it has read the round before */
        SPINFER_UNROLL
        for (int t = 0; t < SPINFER_GROUP_TC_TILES; t++) {
            spinfer_frag_a a;
            decode(way, &a, record, table, t, lane);
            spinfer_mma_m16n8k16(SPINFER_FP16, &sums[t % 4], &a, &b[t / 4]);
        }
    }
    for (int i = 0; i < 16; i++)
        y[64 * spinfer_frag_c_token(lane, i % 4) + 16 * (i / 4) + spinfer_frag_c_row(lane, i % 4)] =
            sums[i / 4].r[i % 4];
#endif
}

/* The body is a function, and `way` a constant in it; a kernel is a stamp that owns the memory. No template needed. */
#define DEFINE_KERNEL(name, WAY)                                                                                       \
    static __global__ void __launch_bounds__(32 * WARPS) name(spinfer_matrix W, const uint16_t *X, float *Y)           \
    {                                                                                                                  \
        __shared__ __align__(128) unsigned char records[WARPS][SPINFER_RECORD_MAX_BYTES],                              \
            tables[WARPS][SPINFER_TABLE];                                                                              \
        const uint32_t warp = threadIdx.y, number = blockIdx.x * WARPS + warp;                                         \
        run(WAY, records[warp], spinfer_shared_address(tables[warp]), &W, X, Y + (size_t)number * SUMS,                \
            number % spinfer_col_groups(W.cols), (int)threadIdx.x);                                                    \
    }
DEFINE_KERNEL(naive, NAIVE)
DEFINE_KERNEL(simple, SIMPLE)
DEFINE_KERNEL(pair, PAIR)
DEFINE_KERNEL(quad, QUAD)

static const struct {
    const char *name, *popc;
    launch      kernel;
} ways[] = {{"naive", "3.5", naive}, {"simple", "2.5", simple}, {"pair", "1", pair}, {"quad", "0.5", quad}};
static int way, blocks;

static void launch_way(spinfer_matrix W, const uint16_t *X, float *Y)
{
    ways[way].kernel<<<blocks, dim3(32, WARPS)>>>(W, X, Y);
}

/* The sums y of warp `number` against the product of its record alone: a slice of 64 rows and 32 columns. */
static void check(const layer *l, const float *y, size_t number)
{
    const size_t   col = number % spinfer_col_groups(l->host.cols) * SPINFER_GROUP_COLS;
    uint16_t       expected[SUMS];
    spinfer_matrix record;
    CHECK_SPINFER(spinfer_slice_rows(&l->host, 0, SPINFER_GROUP_ROWS, &record));
    CHECK_SPINFER(spinfer_slice_cols(&record, col, SPINFER_GROUP_COLS, &record));
    CHECK_SPINFER(spinfer_spmm_host(1, &record, l->x + col, l->host.cols, 0, expected, 64, 8)); /* small: exact */
    for (int i = 0; i < SUMS; i++) CHECK(y[i] == (float)ROUNDS * spinfer_to_float(expected[i], SPINFER_FP16));
}

int main(int argc, char **argv)
{
    require_gpu();
    layer        l = layer_create(argc, argv);
    const int    sms = device_attribute(cudaDevAttrMultiProcessorCount);
    const double clocks = 1e3 * device_attribute(cudaDevAttrClockRate) * sms; /* a second, of all SMs */
    const double weights = (double)l.host.rows * l.host.cols;
    const double delivered = 2e3 / 8 * device_attribute(cudaDevAttrMemoryClockRate) *
                             device_attribute(cudaDevAttrGlobalMemoryBusWidth) / l.host.data_bytes * weights / clocks;
    printf("memory at its peak: %.1f weights for each clock and SM,\n"
           "that is %.1f clocks in a quarter of an SM for the 64 of a BitmapTile\n",
           delivered, 64 / (delivered / 4));
    for (way = NAIVE; way <= QUAD; way++) {
        int per_sm;
        CHECK_CUDA(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, ways[way].kernel, 32 * WARPS, 0));
        blocks = per_sm * sms;
        const size_t warps = (size_t)blocks * WARPS, bytes = warps * SUMS * sizeof(float);
        float       *y = (float *)allocate(bytes);
        CHECK_CUDA(cudaFree(l.Y)); /* here Y is what each warp makes of its record */
        CHECK_CUDA(cudaMalloc((void **)&l.Y, bytes));
        CHECK_CUDA(cudaMemset(l.Y, 0xff, bytes)); /* NaN: what nobody writes is found */
        const double rate = (double)warps * SPINFER_GROUP_ELEMENTS * ROUNDS / (launch_time(&l, launch_way) * 1e-6);
        CHECK_CUDA(cudaMemcpy(y, l.Y, bytes, cudaMemcpyDeviceToHost));
        for (size_t i = 0; i < warps; i++) check(&l, y + SUMS * i, i);
        printf("%-6s %-3s POPC for 64 weights, %2d warps in an SM: %5.1f weights for each clock and SM, the layer in "
               "%.1f us\n",
               ways[way].name, ways[way].popc, per_sm * WARPS, rate / clocks, weights / rate * 1e6);
        free(y);
    }
    layer_free(&l);
    puts("all sums exact\nOK");
    return 0;
}
