/* Encodes 2 I, multiplies on the CPU, and plans for a GPU where the kernels were built. */
#include "spinfer.cuh"

#include <stdlib.h>

enum { SIZE = 64, ONE = 0x3c00, TWO = 0x4000 };

int main(void)
{
    static uint16_t dense[SIZE * SIZE], x[SIZE], y[SIZE];
    spinfer_sizes   sizes;
    spinfer_matrix  W;
    uint32_t       *offsets;
    void           *data;
    int             i;
    for (i = 0; i < SIZE; i++) dense[i * SIZE + i] = TWO, x[i] = ONE;
    if (spinfer_encode_sizes(dense, SIZE, SIZE, SIZE, &sizes)) return 1;
    offsets = (uint32_t *)malloc((size_t)sizes.offsets_bytes);
    data = malloc((size_t)sizes.data_bytes);
    if (!offsets || !data) return 1;
    if (spinfer_encode(dense, SIZE, SIZE, SIZE, SPINFER_FP16, offsets, sizes.offsets_bytes, data, sizes.data_bytes, &W))
        return 1;
    if (spinfer_spmm_host(1.0f, &W, x, SIZE, 0.0f, y, SIZE, 1)) return 1;
    for (i = 0; i < SIZE; i++)
        if (y[i] != TWO) return 1;
#ifdef WITH_KERNELS
    {
        const spinfer_device h200 = {132, 232448, 90, 1980, 4640, 1};
        spinfer_plan         plan;
        if (spinfer_spmm_plan(&W, 1, &h200, &plan)) return 1;
    }
#endif
    free(offsets);
    free(data);
    return 0;
}
