/* 03_decode_on_gpu.cu - the decode on the GPU, bit for bit.
 *
 *     03_decode_on_gpu
 *
 * The idea. The function that lesson 02 called in a loop is now called by a warp, once in each lane, and every lane
 * gets its registers. No lane asks another one, so there is nothing to synchronise. Here the registers go back to
 * memory as a row-major tile, first by a kernel that decodes TCTile by TCTile, then by the function of the library that
 * does whole records. Weights are random bit patterns, NaN among them: a decode is right to the last bit or wrong.
 *
 * Introduces: spinfer_store_tc_tile(), spinfer_decode_group(), a spinfer_matrix whose arrays are in device memory */
#include "lesson.h"

enum { ROWS = 256, COLS = 320 };

/* One warp for each TCTile. Blocks (column groups, row groups, 8 TCTiles). */
static __global__ void decode_tc_tiles(spinfer_matrix W, uint16_t *dense)
{
    const int      lane = (int)threadIdx.x, t = (int)blockIdx.z;
    const void    *record = spinfer_record_at(&W, blockIdx.y, blockIdx.x);
    const size_t   row = SPINFER_GROUP_ROWS * blockIdx.y + (size_t)spinfer_tc_tile_row(t);
    const size_t   col = SPINFER_GROUP_COLS * blockIdx.x + (size_t)spinfer_tc_tile_col(t);
    spinfer_frag_a frag; /* 16 x 16 weights in the registers of 32 lanes */
    spinfer_decode_record_tc_tile(&frag, record, t, lane);
    spinfer_store_tc_tile(&frag, dense + row * W.cols + col, W.cols, lane);
}

/* Threads (32, warps): the warps of a block share a record. Blocks (column groups, row groups). */
static __global__ void decode_records(spinfer_matrix W, uint16_t *dense)
{
    const size_t row = SPINFER_GROUP_ROWS * blockIdx.y, col = SPINFER_GROUP_COLS * blockIdx.x;
    spinfer_decode_group(spinfer_record_at(&W, blockIdx.y, blockIdx.x), dense + row * W.cols + col, W.cols,
                         (int)threadIdx.x, (int)threadIdx.y, (int)blockDim.y);
}

/* Is what the GPU has written what was encoded? Then it is overwritten, for the next kernel. */
static void check(const uint16_t *expected, uint16_t *device, const char *what)
{
    static uint16_t dense[ROWS * COLS];
    size_t          i;
    CHECK_CUDA(cudaGetLastError());
    CHECK_CUDA(cudaMemcpy(dense, device, sizeof dense, cudaMemcpyDeviceToHost));
    for (i = 0; i < ROWS * COLS; i++)
        if (dense[i] != expected[i]) {
            fprintf(stderr, "%s: row %zu, column %zu: bits %04x instead of %04x\n", what, i / COLS, i % COLS, dense[i],
                    expected[i]);
            exit(1);
        }
    CHECK_CUDA(cudaMemset(device, 0xff, sizeof dense));
    printf("%s: %d weights, bit for bit\n", what, (int)(ROWS * COLS));
}

int main(void)
{
    static uint16_t dense[ROWS * COLS];
    const dim3      records(COLS / SPINFER_GROUP_COLS, ROWS / SPINFER_GROUP_ROWS);
    spinfer_matrix  host, device;
    uint16_t       *decoded;
    require_gpu();
    for (size_t i = 0; i < ROWS * COLS; i++) {
        const uint64_t bits = random_bits(1, i);
        dense[i] = bits & 0x10000 && bits & 0x7fff ? (uint16_t)bits : 0; /* half of them, and no -0 */
    }
    host = encode_matrix(dense, ROWS, COLS, SPINFER_FP16);
    device = matrix_to_gpu(&host); /* the same struct, its two arrays copied as they are */
    CHECK_CUDA(cudaMalloc((void **)&decoded, sizeof dense));
    CHECK_CUDA(cudaMemset(decoded, 0xff, sizeof dense));

    decode_tc_tiles<<<dim3(records.x, records.y, SPINFER_GROUP_TC_TILES), 32>>>(device, decoded);
    check(dense, decoded, "a warp for each TCTile");
    decode_records<<<records, dim3(32, 4)>>>(device, decoded);
    check(dense, decoded, "four warps for each record");

    CHECK_CUDA(cudaFree(decoded));
    matrix_free_on_gpu(&device);
    free_matrix(&host);
    puts("OK");
    return 0;
}
