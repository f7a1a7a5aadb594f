/* fuzz_safetensors.c - the container on arbitrary bytes: a file that is accepted keeps its promises, and the groups of
 * tensors in it (TCA-BME, sparse-bitmask) load or are refused.
 *
 * Input: a safetensors file. Where the length of its header has the top byte 0xff, the header is made to end with the
 * last brace, so that it may grow and shrink. */
#define _POSIX_C_SOURCE 200809L
#include "fuzz.h"
#include "bitmask_file.h"
#include "safetensors.h"
#include "tca_bme_file.h"

static void load_group(const safetensors_model *model, const char *name)
{
    char              base[TCA_BME_NAME_ROOM], logical[SAFETENSORS_MAX_NAME + 8];
    tca_bme_group     encoded;
    bitmask_group     compressed;
    bitmask_matrix    B;
    spinfer_matrix    W;
    safetensors_error error;
    if (tca_bme_base_length(name)) {
        snprintf(base, sizeof base, "%.*s", (int)tca_bme_base_length(name), name);
        if (tca_bme_find(model, base, &encoded, &error) == 1 && tca_bme_load(model, &encoded, &W, &error))
            tca_bme_free(&W);
    } else if (bitmask_base_length(name)) {
        snprintf(base, sizeof base, "%.*s", (int)bitmask_base_length(name), name);
        if (bitmask_find(model, base, &compressed, &error) == 1) {
            bitmask_logical_name(base, &compressed, logical);
            if (bitmask_load(model, &compressed, SPINFER_FP16, &B, &error)) bitmask_free(&B);
        }
    }
}

static void use(const safetensors_model *model, uint64_t file_bytes)
{
    uint64_t end = 0;
    size_t   i;
    for (i = 0; i < model->tensor_count; i++) {
        const safetensors_tensor *tensor = &model->tensors[i];
        safetensors_error         error;
        uint64_t                  elements = 1;
        uint32_t                  d;
        uint8_t                  *data = (uint8_t *)malloc((size_t)tensor->bytes + 1);
        for (d = 0; d < tensor->rank; d++) elements *= tensor->shape[d];
        CHECK(data && tensor->rank <= SAFETENSORS_MAX_RANK);
        CHECK(elements * safetensors_dtype_bits(tensor->dtype) == 8 * tensor->bytes);
        CHECK(i == 0 || tensor->offset == end);
        end = tensor->offset + tensor->bytes;
        CHECK(end <= file_bytes);
        CHECK(safetensors_find(model, tensor->name) == tensor);
        CHECK(safetensors_read(model, tensor, 0, tensor->bytes, data, &error));
        CHECK(!safetensors_read(model, tensor, 1, tensor->bytes, data, &error));
        free(data);
        load_group(model, tensor->name);
    }
    CHECK(i == 0 || end == file_bytes);
}

static void fit_header(uint8_t *bytes, size_t size)
{
    uint64_t length;
    size_t   end = size;
    if (size < 9 || bytes[7] != 0xff) return;
    while (end > 8 && bytes[end - 1] != '}') end--;
    length = end - 8;
    memcpy(bytes, &length, 8);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    uint8_t          *copy = (uint8_t *)copy_exactly(bytes, size);
    safetensors_model model;
    safetensors_error error;
    fit_header(copy, size);
    if (safetensors_parse(copy, size, "input", &model, &error)) {
        use(&model, size);
        safetensors_close(&model);
    } else {
        CHECK(strncmp(error.text, "input: ", 7) == 0);
    }
    free(copy);
    return 0;
}
