/* fuzz_index.c - model.safetensors.index.json on arbitrary bytes: no accepted name of a shard leads out of the folder.
 *
 * Input: the text of an index. */
#define _POSIX_C_SOURCE 200809L
#include "fuzz.h"
#include "safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char             *text = (char *)copy_exactly(bytes, size);
    const char       *name;
    json_t           *index, *shard;
    safetensors_error error;
    if (safetensors_parse_index(text, size, "input", &index, &error)) {
        json_object_foreach(json_object_get(index, "weight_map"), name, shard)
        {
            const char *shard_name = json_string_value(shard);
            CHECK(shard_name && *shard_name && strcmp(shard_name, ".") != 0);
            CHECK(!strchr(shard_name, '/') && !strchr(shard_name, '\\') && !strstr(shard_name, ".."));
        }
        json_decref(index);
    } else {
        CHECK(strncmp(error.text, "input: ", 7) == 0);
    }
    free(text);
    return 0;
}
