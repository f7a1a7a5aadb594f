/* 04_one_mma.cu - one mma: who owns which element.
 *
 *     04_one_mma
 *
 * The idea. mma.m16n8k16 multiplies 16 x 16 weights with 16 x 8 activations. No lane sees a whole row or column: lane l
 * gives four registers of weights and two of X, and gets four sums. Which ones is fixed by the instruction for the
 * sums, but for the 16 columns that are summed over only both operands must agree. spinfer uses that: in "quad order"
 * a lane owns four neighbouring columns instead of two and two, so that one rank finds four values (FIG 4 of
 * spinfer.cuh).
 *
 * The kernel multiplies a W and an X for which Y[row][token] = 8 * row + token, so every sum says which element it is.
 * The program prints who got what, and checks it against the functions that claim to know.
 *
 * Introduces: spinfer_mma_m16n8k16(), spinfer_frag_b_col(), spinfer_frag_b_token(), spinfer_frag_c_row(),
 *             spinfer_frag_c_token() */
#include "lesson.h"

/* One warp. X: [8 tokens][16 columns]. sums: [32 lanes][4 registers]. */
static __global__ void multiply_once(spinfer_matrix W, const uint16_t *X, float *sums)
{
    const int      lane = (int)threadIdx.x;
    spinfer_frag_a a;
    spinfer_frag_b b;
    spinfer_frag_c c = {};
    spinfer_decode_record_tc_tile(&a, spinfer_record_at(&W, 0, 0), 0, lane);
    for (int reg = 0; reg < 2; reg++) { /* two neighbouring columns in each register */
        const uint16_t *x = X + 16 * spinfer_frag_b_token(lane) + spinfer_frag_b_col(lane, reg);
        b.r[reg] = spinfer_pack(x[0], x[1]);
    }
    spinfer_mma_m16n8k16(SPINFER_FP16, &c, &a, &b);
    for (int reg = 0; reg < 4; reg++) sums[4 * lane + reg] = c.r[reg];
}

int main(void)
{
    const uint16_t one = spinfer_from_float(1, SPINFER_FP16);
    uint16_t       dense[16 * 16] = {0}, X[8 * 16] = {0}, *X_gpu;
    float          sums[32 * 4], *sums_gpu;
    int            owner[16][8], row, token, lane, reg;
    spinfer_matrix host, device;
    require_gpu();
    for (row = 0; row < 16; row++) { /* columns 5 and 14: neither lane nor register is the first one */
        dense[16 * row + 5] = spinfer_from_float((float)row, SPINFER_FP16);
        dense[16 * row + 14] = one;
    }
    for (token = 0; token < 8; token++) {
        X[16 * token + 5] = spinfer_from_float(8, SPINFER_FP16);
        X[16 * token + 14] = spinfer_from_float((float)token, SPINFER_FP16);
    }
    host = encode_matrix(dense, 16, 16, SPINFER_FP16);
    device = matrix_to_gpu(&host);
    X_gpu = (uint16_t *)copy_to_gpu(X, sizeof X);
    CHECK_CUDA(cudaMalloc((void **)&sums_gpu, sizeof sums));
    multiply_once<<<1, 32>>>(device, X_gpu, sums_gpu);
    CHECK_CUDA(cudaGetLastError());
    CHECK_CUDA(cudaMemcpy(sums, sums_gpu, sizeof sums, cudaMemcpyDeviceToHost));

    memset(owner, 0xff, sizeof owner); /* -1: nobody yet */
    for (lane = 0; lane < 32; lane++)
        for (reg = 0; reg < 4; reg++) {
            const int element = (int)sums[4 * lane + reg];
            CHECK(sums[4 * lane + reg] == (float)element && element >= 0 && element < 16 * 8);
            row = element / 8;
            token = element % 8;
            CHECK(owner[row][token] == -1);
            owner[row][token] = 4 * lane + reg;
            CHECK(row == spinfer_frag_c_row(lane, reg) && token == spinfer_frag_c_token(lane, reg));
        }
    puts("Y, 16 rows x 8 tokens: lane.register that holds the sum\n");
    for (row = 0; row < 16; row++, puts(""))
        for (token = 0; token < 8; token++) printf(" %2d.%d", owner[row][token] / 4, owner[row][token] % 4);
    puts("\nW, row 0, 16 columns: lane.register that holds the weight; X, token 0: the same lanes, half the "
         "registers\n");
    for (int column = 0; column < 16; column++)
        for (lane = 0; lane < 4; lane++)
            for (reg = 0; reg < 4; reg += 2)
                if (spinfer_frag_a_col(lane, reg) == column / 2 * 2) {
                    CHECK(spinfer_frag_b_col(lane, reg / 2) == column / 2 * 2);
                    printf(" %2d.%d", lane, reg);
                }
    puts("\n\n128 sums where the functions say\nOK");

    CHECK_CUDA(cudaFree(X_gpu));
    CHECK_CUDA(cudaFree(sums_gpu));
    matrix_free_on_gpu(&device);
    free_matrix(&host);
    return 0;
}
