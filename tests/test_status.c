/* Risk: a status without a sentence of its own, or a number that changed under its users. */
#include "common.h"

static const struct {
    spinfer_status status;
    int            number;
} codes[] = {{SPINFER_OK, 0},        {SPINFER_ERR_NULL, 1},      {SPINFER_ERR_SHAPE, 2},     {SPINFER_ERR_ALIGNMENT, 3},
             {SPINFER_ERR_DTYPE, 4}, {SPINFER_ERR_CAPACITY, 10}, {SPINFER_ERR_OVERFLOW, 11}, {SPINFER_ERR_FORMAT, 20},
             {SPINFER_ERR_VERSION, 21}, {SPINFER_ERR_ARCH, 30},  {SPINFER_ERR_PLAN, 31},     {SPINFER_ERR_SMEM, 32},
             {SPINFER_ERR_CUDA, 90}};

int main(void)
{
    const size_t count = sizeof codes / sizeof codes[0];
    const char  *unknown = spinfer_status_string((spinfer_status)127);
    size_t       i, j;
    int          number, named = 0;
    CHECK(unknown && strcmp(unknown, "unknown status") == 0);
    for (i = 0; i < count; i++) {
        const char *text = spinfer_status_string(codes[i].status);
        CHECK((int)codes[i].status == codes[i].number);
        CHECK(text && text[0] && text[strlen(text) - 1] != '.' && strcmp(text, unknown) != 0);
        for (j = 0; j < i; j++) CHECK(strcmp(text, spinfer_status_string(codes[j].status)) != 0);
    }
    /* A code with a sentence that the table above lacks is a new one: add it there. */
    for (number = 0; number < 128; number++)
        named += strcmp(spinfer_status_string((spinfer_status)number), unknown) != 0;
    CHECK(named == (int)count);
    printf("status: %d codes with their numbers, %d distinct sentences, unknown codes: OK\n", (int)count, named);
    return 0;
}
