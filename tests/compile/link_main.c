/* The C main of compile.sh link. Needs no GPU: all units must plan alike, and each has a kernel of its own. */
#include "common.h"
#include "spinfer.cuh"

typedef const void *unit(const spinfer_matrix *W, const spinfer_device *device, spinfer_plan *plan,
                         spinfer_status *status);
extern unit         unit_a, unit_b, unit_private;

int main(void)
{
    const spinfer_device h200 = {132, 232448, 90, 1980, 4640, 1};
    unit *const          units[3] = {unit_a, unit_b, unit_private};
    const void          *kernels[3];
    uint16_t             dense[256 * 512];
    spinfer_matrix       W;
    spinfer_plan         plan, other;
    spinfer_status       status;
    size_t               bytes;
    int                  i;
    fill_normal(dense, 256 * 512, 1.0, SPINFER_FP16, 1);
    W = encode_matrix(dense, 256, 512, SPINFER_FP16);
    memset(&plan, 0, sizeof plan);
    memset(&other, 0, sizeof other);
    CHECK_SPINFER(spinfer_spmm_plan(&W, 8, &h200, &plan));
    CHECK_SPINFER(spinfer_spmm_workspace_bytes(&plan, &W, 8, &bytes));
    for (i = 0; i < 3; i++) {
        kernels[i] = units[i](&W, &h200, &other, &status);
        CHECK_SPINFER(status);
        CHECK(memcmp(&plan, &other, sizeof plan) == 0);
    }
    CHECK(kernels[0] != kernels[1] && kernels[0] != kernels[2] && kernels[1] != kernels[2]);
    free_matrix(&W);
    return 0;
}
