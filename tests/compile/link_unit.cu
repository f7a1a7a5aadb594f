/* One of several translation units of a program (compile.sh link): a launcher call and a kernel of its own around the
 * decode. With SPINFER_STATIC it has private launch functions and kernels. */
#include "spinfer.cuh"

static __global__ void decode(const uint64_t *bitmaps, const uint16_t *values, uint32_t *out)
{
    const int      lane = (int)(threadIdx.x % 32);
    spinfer_frag_a frag;
    spinfer_decode_tc_tile(&frag, bitmaps, values, lane);
    for (int r = 0; r < 4; r++) out[4 * lane + r] = frag.r[r];
}

/* The address of a kernel of this unit, so that it is not removed, and a plan by the launch functions that it sees. */
extern "C" const void *UNIT(const spinfer_matrix *W, const spinfer_device *device, spinfer_plan *plan,
                            spinfer_status *status)
{
    *status = spinfer_spmm_plan(W, 8, device, plan);
    return (const void *)decode;
}
