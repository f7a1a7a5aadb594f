/* Risk: the decode is right on the CPU (test_decode_lanes.c) and wrong on the GPU: other instructions, shared
 * addresses, warps that miss each other. Random GroupTiles of 0 to 100 % nonzeros go into registers, into shared memory
 * and into global memory, and every bit must be that of spinfer_decode(). */
#define SPINFER_IMPLEMENTATION
#include "gpu.h"
#include "test.h"

enum { DENSITIES = 12, PADDED_LD = 40 }; /* 40: rows of a tile in shared memory fall on different banks */

__device__ static const unsigned char *record_of_block(const uint32_t *offsets, const void *data)
{
    return (const unsigned char *)data + 16 * (size_t)offsets[blockIdx.x];
}

/* One warp walks along a record by what the calls return. frags: [records][8 TCTiles][32 lanes]; ends,
 * [records][32 lanes]: how far each lane has come. */
static __global__ void to_registers(const uint32_t *offsets, const void *data, spinfer_frag_a *frags, uint32_t *ends)
{
    const unsigned char *record = record_of_block(offsets, data);
    const uint64_t      *bitmaps = (const uint64_t *)(record + SPINFER_RECORD_BITMAPS);
    const uint16_t      *values = (const uint16_t *)(record + SPINFER_RECORD_VALUES);
    const int            lane = (int)threadIdx.x;
    for (int t = 0; t < SPINFER_GROUP_TC_TILES; t++)
        values += spinfer_decode_tc_tile(&frags[(SPINFER_GROUP_TC_TILES * blockIdx.x + t) * 32 + lane], bitmaps + 4 * t,
                                         values, lane);
    ends[32 * blockIdx.x + lane] = (uint32_t)((const unsigned char *)values - record);
}

/* The same from shared memory and in the two steps of the kernel; where a word's values begin is counted. */
static __global__ void to_registers_in_two_steps(const uint32_t *offsets, const void *data, spinfer_frag_a *frags)
{
    __shared__ uint64_t  copy[SPINFER_RECORD_MAX_BYTES / 8];
    const uint64_t      *record = (const uint64_t *)record_of_block(offsets, data);
    const int            lane = (int)threadIdx.x;
    const spinfer_quad   q = spinfer_lane_quad(lane);
    const uint64_t      *bitmaps = copy + SPINFER_RECORD_BITMAPS / 8;
    const unsigned char *values = (const unsigned char *)copy + SPINFER_RECORD_VALUES;
    for (uint32_t i = threadIdx.x; i < 2 * (offsets[blockIdx.x + 1] - offsets[blockIdx.x]); i += 32)
        copy[i] = record[i];
    __syncwarp();
    for (int t = 0; t < SPINFER_GROUP_TC_TILES; t++) {
        spinfer_frag_a *frag = &frags[(SPINFER_GROUP_TC_TILES * blockIdx.x + t) * 32 + lane];
        for (int bottom = 0; bottom < 2; bottom++) {
            const int      tile = 4 * t + 2 * bottom + spinfer_lane_tile(lane), half = spinfer_lane_half(lane);
            int            before = half ? spinfer_popcount((uint32_t)bitmaps[tile]) : 0;
            const uint32_t word = (uint32_t)(bitmaps[tile] >> (32 * half));
            spinfer_shared place;
            uint32_t       four[4];
            for (int earlier = 0; earlier < tile; earlier++) before += spinfer_popcount64(bitmaps[earlier]);
            place = spinfer_quad_locate(word, spinfer_shared_address(values + 2 * before), q);
            spinfer_quad_load(word, place, q, four);
            frag->r[bottom] = spinfer_pack(four[0], four[1]);
            frag->r[bottom + 2] = spinfer_pack(four[2], four[3]);
        }
    }
}

/* blockDim.y warps decode into shared memory. tiles: [records][64][PADDED_LD], padding included. */
static __global__ void to_shared(const uint32_t *offsets, const void *data, uint16_t *tiles)
{
    __shared__ __align__(8) uint16_t tile[SPINFER_GROUP_ROWS * PADDED_LD];
    const uint32_t                   thread = 32 * threadIdx.y + threadIdx.x;
    for (uint32_t i = thread; i < SPINFER_GROUP_ROWS * PADDED_LD; i += 32 * blockDim.y) tile[i] = 0xffff;
    __syncthreads();
    spinfer_decode_group(record_of_block(offsets, data), tile, PADDED_LD, (int)threadIdx.x, (int)threadIdx.y,
                         (int)blockDim.y);
    __syncthreads();
    for (uint32_t i = thread; i < SPINFER_GROUP_ROWS * PADDED_LD; i += 32 * blockDim.y)
        tiles[blockIdx.x * SPINFER_GROUP_ROWS * PADDED_LD + i] = tile[i];
}

/* The whole matrix back to dense: blockDim.y warps for each record, `groups` records in a row. */
static __global__ void to_global(const uint32_t *offsets, const void *data, uint16_t *dense, size_t ld, uint32_t groups)
{
    uint16_t *tile = dense + blockIdx.x / groups * SPINFER_GROUP_ROWS * ld + blockIdx.x % groups * SPINFER_GROUP_COLS;
    spinfer_decode_group(record_of_block(offsets, data), tile, ld, (int)threadIdx.x, (int)threadIdx.y, (int)blockDim.y);
}

/* What a buffer must hold is in its image (gpu.h); then everything starts again from 0xff. */
static void check_and_clear(const buffer *b)
{
    CHECK_CUDA(cudaDeviceSynchronize());
    buffer_check_unchanged(b);
    CHECK_CUDA(cudaMemset(b->device, 0xff, b->total));
}

int main(void)
{
    static const double  densities[DENSITIES] = {0, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1};
    const spinfer_device gpu = require_gpu();
    const uint32_t       groups = small_run() ? 2 : 40, records = DENSITIES * groups;
    const size_t         K = groups * SPINFER_GROUP_COLS, M = DENSITIES * SPINFER_GROUP_ROWS, ld = K + 4;
    uint16_t            *dense = (uint16_t *)allocate(2 * M * K), *decoded = (uint16_t *)allocate(2 * M * K);
    buffer               frags, ends, tiles, matrix;
    spinfer_matrix       host, device;
    uint32_t             g, warps;
    size_t               i;
    for (i = 0; i < DENSITIES; i++)
        fill_random(dense + i * SPINFER_GROUP_ROWS * K, SPINFER_GROUP_ROWS, K, K, densities[i], 1 + i);
    host = encode_matrix(dense, M, K, SPINFER_BF16);
    device = upload_matrix(&host);
    CHECK_SPINFER(spinfer_decode(&host, decoded, K));
    frags = buffer_create(records * SPINFER_GROUP_TC_TILES * 32 * sizeof(spinfer_frag_a), 0, 0);
    ends = buffer_create(records * 32 * sizeof(uint32_t), 0, 0);
    tiles = buffer_create(records * SPINFER_GROUP_ROWS * PADDED_LD * 2, 0, 0);
    matrix = buffer_create(M * ld * 2, 0, 0);

    for (g = 0; g < records; g++) { /* the images: what must come out */
        const uint16_t *from = decoded + g / groups * SPINFER_GROUP_ROWS * K + g % groups * SPINFER_GROUP_COLS;
        uint32_t        kept = 0;
        int             row, col, t, lane, reg;
        for (row = 0; row < SPINFER_GROUP_ROWS; row++)
            for (col = 0; col < SPINFER_GROUP_COLS; col++) {
                const uint16_t bits = from[(size_t)row * K + (size_t)col];
                ((uint16_t *)buffer_image(&tiles))[(g * SPINFER_GROUP_ROWS + row) * PADDED_LD + col] = bits;
                kept += bits != 0;
            }
        for (lane = 0; lane < 32; lane++)
            ((uint32_t *)buffer_image(&ends))[32 * g + lane] = SPINFER_RECORD_VALUES + 2 * kept;
        for (t = 0; t < SPINFER_GROUP_TC_TILES; t++)
            for (lane = 0; lane < 32; lane++)
                for (reg = 0; reg < 4; reg++) {
                    const uint16_t *pair = from + (size_t)(spinfer_tc_tile_row(t) + spinfer_frag_a_row(lane, reg)) * K +
                                           (size_t)(spinfer_tc_tile_col(t) + spinfer_frag_a_col(lane, reg));
                    ((spinfer_frag_a *)buffer_image(&frags))[(SPINFER_GROUP_TC_TILES * g + t) * 32 + lane].r[reg] =
                        (uint32_t)pair[0] | (uint32_t)pair[1] << 16;
                }
    }
    for (i = 0; i < M; i++) memcpy((uint16_t *)buffer_image(&matrix) + i * ld, decoded + i * K, 2 * K);

    to_registers<<<records, 32>>>(device.offsets, device.data, (spinfer_frag_a *)buffer_payload(&frags),
                                  (uint32_t *)buffer_payload(&ends));
    CHECK_CUDA(cudaGetLastError());
    check_and_clear(&frags);
    check_and_clear(&ends);
    to_registers_in_two_steps<<<records, 32>>>(device.offsets, device.data, (spinfer_frag_a *)buffer_payload(&frags));
    CHECK_CUDA(cudaGetLastError());
    check_and_clear(&frags);
    for (warps = 1; warps <= 8; warps *= 2) {
        to_shared<<<records, dim3(32, warps)>>>(device.offsets, device.data, (uint16_t *)buffer_payload(&tiles));
        CHECK_CUDA(cudaGetLastError());
        check_and_clear(&tiles);
        to_global<<<records, dim3(32, warps)>>>(device.offsets, device.data, (uint16_t *)buffer_payload(&matrix), ld,
                                                groups);
        CHECK_CUDA(cudaGetLastError());
        check_and_clear(&matrix);
    }
    printf("%u GroupTiles into registers, shared and global memory, sm_%d\nOK\n", records, gpu.compute);
    buffer_free(&frags);
    buffer_free(&ends);
    buffer_free(&tiles);
    buffer_free(&matrix);
    free_device_matrix(&device);
    free_matrix(&host);
    free(dense);
    free(decoded);
    return 0;
}
