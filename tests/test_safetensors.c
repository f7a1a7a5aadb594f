/* test_safetensors.c - the safetensors container: every rule of the format with a file that breaks it, sharded sets,
 * round trips, and faults while reading and writing. A refused file gives a message with its name and the reason. */
#define _GNU_SOURCE /* mkdtemp(), and what test.h uses */
#include "test.h"
#include "safetensors.h"

#include <dirent.h>
#include <sys/resource.h>
#include <sys/wait.h>

/* ---- Files in memory ------------------------------------------------------------------------- */

typedef struct image {
    uint8_t *bytes; /* fenced: reading behind the end stops the program */
    size_t   size;
} image;

static image make_image(uint64_t header_bytes, const char *header, size_t length, size_t data_bytes)
{
    image  file;
    size_t i;
    file.size = 8 + length + data_bytes;
    file.bytes = (uint8_t *)allocate_fenced(file.size);
    for (i = 0; i < 8; i++) file.bytes[i] = (uint8_t)(header_bytes >> 8 * i);
    memcpy(file.bytes + 8, header, length);
    for (i = 0; i < data_bytes; i++) file.bytes[8 + length + i] = (uint8_t)(i + 1);
    return file;
}

static int parse(const image *file, safetensors_model *model, safetensors_error *error)
{
    memset(error, 0, sizeof *error);
    return safetensors_parse(file->bytes, file->size, "in memory", model, error);
}

/* Refused, with a message that has these words; the model is empty and may be closed. */
static void check_refused(const image *file, const char *words)
{
    safetensors_model model;
    safetensors_error error;
    CHECK(!parse(file, &model, &error));
    if (!strstr(error.text, words)) fprintf(stderr, "\"%s\" lacks \"%s\"\n", error.text, words);
    CHECK(strstr(error.text, words) && strncmp(error.text, "in memory: ", 11) == 0);
    CHECK(!model.files && !model.tensors && !model.by_name && !model.file_count && !model.tensor_count);
    safetensors_close(&model);
}

static void refuse(const char *header, size_t data_bytes, const char *words)
{
    const image file = make_image(strlen(header), header, strlen(header), data_bytes);
    check_refused(&file, words);
    free_fenced(file.bytes, file.size);
}

static void accept(const char *header, size_t data_bytes, size_t tensors)
{
    const image       file = make_image(strlen(header), header, strlen(header), data_bytes);
    safetensors_model model;
    safetensors_error error;
    const int         is_good = parse(&file, &model, &error);
    if (!is_good) fprintf(stderr, "%s\n", error.text);
    CHECK(is_good && model.tensor_count == tensors && model.file_count == 1);
    safetensors_close(&model);
    free_fenced(file.bytes, file.size);
}

#define TENSOR(name, dtype, shape, begin, end)                                                                         \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" begin "," end "]}"

/* ---- The smallest file ----------------------------------------------------------------------- */

static const char small_header[] = "{" TENSOR("w", "F16", "2,2", "0", "8") "}";

static void test_smallest(void)
{
    const uint16_t            values[4] = {0x3c00, 0, 0, 0xbc00};
    const image               file = make_image(56, small_header, 56, 8);
    safetensors_model         model;
    safetensors_error         error;
    const safetensors_tensor *w;
    uint16_t                  back[4] = {1, 1, 1, 1};
    CHECK(strlen(small_header) == 56);
    memcpy(file.bytes + 64, values, 8);
    CHECK(parse(&file, &model, &error));
    w = safetensors_find(&model, "w");
    CHECK(model.tensor_count == 1 && w == model.tensors && model.by_name[0] == w);
    CHECK(strcmp(w->name, "w") == 0 && w->dtype == SAFETENSORS_F16 && w->rank == 2 && w->file == 0);
    CHECK(w->shape[0] == 2 && w->shape[1] == 2 && w->shape[2] == 0 && w->offset == 64 && w->bytes == 8);
    CHECK(!safetensors_find(&model, "") && !safetensors_find(&model, "v") && !safetensors_find(&model, "w0"));
    CHECK(!safetensors_metadata(&model, 0));
    CHECK(safetensors_read(&model, w, 0, 8, back, &error) && memcmp(back, values, 8) == 0);
    CHECK(safetensors_read(&model, w, 6, 2, back, &error) && back[0] == 0xbc00);
    CHECK(safetensors_read(&model, w, 8, 0, back, &error));
    CHECK(!safetensors_read(&model, w, 7, 2, back, &error) && strstr(error.text, "\"w\""));
    CHECK(!safetensors_read(&model, w, 9, 0, back, &error));
    CHECK(!safetensors_read(&model, w, UINT64_MAX, 2, back, &error));
    safetensors_close(&model);
    free_fenced(file.bytes, file.size);
}

/* Cut short at every byte, and longer by one. */
static void test_truncation(void)
{
    const image whole = make_image(56, small_header, 56, 8);
    size_t      size;
    for (size = 0; size <= whole.size + 1; size++) {
        image part;
        if (size == whole.size) continue;
        part.size = size;
        part.bytes = (uint8_t *)allocate_fenced(size);
        memcpy(part.bytes, whole.bytes, size < whole.size ? size : whole.size);
        check_refused(&part, size < 8    ? "shorter than 8 bytes"
                             : size < 64 ? "truncated"
                             : size < 72 ? "ends behind the end of the file"
                                         : "1 bytes behind the last tensor, from byte 72 on");
        free_fenced(part.bytes, part.size);
    }
    free_fenced(whole.bytes, whole.size);
}

/* Every byte replaced by every other: nothing stops the program, and what is accepted is in order. */
static void test_replaced_bytes(void)
{
    const image file = make_image(56, small_header, 56, 8);
    size_t      at;
    unsigned    byte;
    for (at = 0; at < 64; at++) {
        const uint8_t was = file.bytes[at];
        for (byte = 0; byte < 256; byte++) {
            safetensors_model model;
            safetensors_error error;
            file.bytes[at] = (uint8_t)byte;
            if (!parse(&file, &model, &error)) continue;
            CHECK(model.tensor_count == 1 && model.tensors[0].bytes == 8 && model.tensors[0].offset == 64);
            safetensors_close(&model);
        }
        file.bytes[at] = was;
    }
    free_fenced(file.bytes, file.size);
}

/* ---- Rules ----------------------------------------------------------------------------------- */

/* Rules 1 and 2. */
static void test_header_length(void)
{
    static const uint64_t huge[] = {100000001, (uint64_t)1 << 32, (uint64_t)1 << 63, UINT64_MAX - 7, UINT64_MAX};
    static const uint64_t beyond[] = {57, 65, 1000, 100000000};
    image                 file;
    size_t                i;
    for (i = 0; i < sizeof huge / sizeof *huge; i++) {
        file = make_image(huge[i], small_header, 56, 8);
        check_refused(&file, "no safetensors file");
        free_fenced(file.bytes, file.size);
    }
    for (i = 0; i < sizeof beyond / sizeof *beyond; i++) {
        file = make_image(beyond[i], small_header, 56, 0);
        check_refused(&file, "truncated");
        free_fenced(file.bytes, file.size);
    }
    file = make_image(0, "", 0, 0);
    check_refused(&file, "no JSON object at byte 8");
    free_fenced(file.bytes, file.size);
}

/* Rule 3, and 9: JSON as it should be. */
static void test_json(void)
{
    static const char nul[] = "{" TENSOR("w", "U8", "1", "0", "1") "}\0";
    image             file = make_image(sizeof nul - 1, nul, sizeof nul - 1, 1);
    check_refused(&file, "not valid JSON");
    free_fenced(file.bytes, file.size);

    refuse(" {}", 0, "no JSON object at byte 8");
    refuse("[]", 0, "no JSON object at byte 8");
    refuse("{", 0, "not valid JSON");
    refuse("{}}", 0, "a bracket too many at byte 10");
    refuse("{}x", 0, "not valid JSON");
    refuse("{} {}", 0, "not valid JSON");
    refuse("{\"a\":}", 0, "not valid JSON");
    refuse("{'a':1}", 0, "not valid JSON");
    refuse("{" TENSOR("w", "U8", "1", "0", "1") ",}", 1, "not valid JSON");
    refuse("{\"w\":{\"dtype\":\"U8\"", 1, "not valid JSON");
    refuse("{\"unfinished", 0, "not valid JSON");
    refuse("{\"unfinished\\", 0, "not valid JSON");
    refuse("{" TENSOR("\xff", "U8", "1", "0", "1") "}", 1, "not valid JSON");         /* never in UTF-8     */
    refuse("{" TENSOR("\xc0\x80", "U8", "1", "0", "1") "}", 1, "not valid JSON");     /* overlong zero      */
    refuse("{" TENSOR("\xed\xa0\x80", "U8", "1", "0", "1") "}", 1, "not valid JSON"); /* surrogate          */
    refuse("{" TENSOR("\xe2\x82", "U8", "1", "0", "1") "}", 1, "not valid JSON");     /* cut short          */
    refuse("{" TENSOR("\\ud800", "U8", "1", "0", "1") "}", 1, "not valid JSON");      /* half of a pair     */
    refuse("{" TENSOR("a\\u0000b", "U8", "1", "0", "1") "}", 1, "not valid JSON");    /* a zero byte        */
    refuse("{" TENSOR("a\nb", "U8", "1", "0", "1") "}", 1, "not valid JSON");         /* unescaped control  */
    accept("{" TENSOR("\xe2\x82\xac \\u00e9 \\\"/", "U8", "1", "0", "1") "}", 1, 1);

    refuse("{" TENSOR("w", "U8", "1", "0", "1") "," TENSOR("w", "U8", "1", "1", "2") "}", 2, "duplicate");
    refuse("{" TENSOR("w", "U8", "1", "0", "1") "," TENSOR("\\u0077", "U8", "1", "1", "2") "}", 2, "duplicate");
    refuse("{\"w\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "duplicate");
    refuse("{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, "duplicate");
    refuse("{\"__metadata__\":{},\"__metadata__\":{}}", 0, "duplicate");
}

/* Deep nesting and long arrays are refused before the JSON library sees them. */
static void test_nesting(void)
{
    const size_t length = 300000;
    char        *text = (char *)allocate(length + 1);
    size_t       i;
    memset(text, '[', length);
    text[length] = 0;
    text[0] = '{';
    refuse(text, 0, "nested too deeply at byte 12");
    for (i = 0; i + 5 <= length; i += 5) memcpy(text + i, "{\"a\":", 5);
    refuse(text, 0, "nested too deeply");
    memcpy(text, "{\"a\":[", 6);
    for (i = 6; i + 2 <= length; i += 2) memcpy(text + i, "0,", 2);
    refuse(text, 0, "an array of more than 8 elements");
    for (i = 6; i + 3 <= length; i += 3) memcpy(text + i, "[],", 3);
    refuse(text, 0, "an array of more than 8 elements");
    free(text);
}

/* Too many entries, before and after the JSON library: 4 million commas take 12 MB. */
static void test_entries(void)
{
    const size_t count = 4 * (size_t)SAFETENSORS_MAX_TENSORS + 2;
    char        *text = (char *)allocate(3 * count + 1);
    size_t       i;
    text[0] = '{';
    for (i = 0; i + 1 < count; i++) memcpy(text + 1 + 3 * i, "1, ", 3);
    text[1 + 3 * i] = 0;
    refuse(text, 0, "too many entries");
    free(text);
}

/* Rule 4: no holes, no overlap, in any order of names; the first begins at 0. */
static void test_offsets(void)
{
    refuse("{" TENSOR("w", "U8", "2", "2", "4") "}", 4, "leaving a hole from byte");
    refuse("{" TENSOR("w", "U8", "2", "0", "2") "," TENSOR("v", "U8", "2", "3", "5") "}", 5, "leaving a hole");
    refuse("{" TENSOR("w", "U8", "2", "0", "2") "," TENSOR("v", "U8", "2", "1", "3") "}", 3, "overlapping");
    refuse("{" TENSOR("w", "U8", "2", "0", "2") "," TENSOR("v", "U8", "2", "0", "2") "}", 2, "overlapping");
    refuse("{" TENSOR("w", "U8", "4", "0", "4") "," TENSOR("v", "U8", "2", "1", "3") "}", 4, "overlapping");
    refuse("{" TENSOR("w", "U8", "0", "1", "1") "," TENSOR("v", "U8", "2", "0", "2") "}", 2, "overlapping");
    refuse("{" TENSOR("w", "U8", "2", "0", "2") "," TENSOR("v", "U8", "0", "3", "3") "}", 3, "leaving a hole");
    refuse("{" TENSOR("w", "U8", "2", "2", "0") "}", 2, "\"w\": its data ends before it begins");
    refuse("{" TENSOR("w", "U8", "2", "0", "3") "}", 3, "has not the size that its shape and dtype ask for");
    refuse("{" TENSOR("w", "U8", "2", "0", "1") "}", 1, "has not the size");
    refuse("{" TENSOR("w", "U8", "2", "0", "2") "}", 1, "ends behind the end of the file");
    refuse("{" TENSOR("w", "U8", "2", "9223372036854775805", "9223372036854775807") "}", 2, "ends behind the end");
    refuse("{" TENSOR("w", "U8", "2", "0", "9223372036854775808") "}", 2, "not valid JSON"); /* > 63 bits */
    refuse("{" TENSOR("w", "U8", "2", "0", "18446744073709551618") "}", 2, "not valid JSON");
    accept("{" TENSOR("b", "U8", "2", "0", "2") "," TENSOR("a", "U8", "3", "2", "5") "}", 5, 2);
    accept("{" TENSOR("b", "U8", "2", "3", "5") "," TENSOR("a", "U8", "3", "0", "3") "}", 5, 2);
}

/* 10000 tensors, all at offset 0 (the format's own example of an attack). */
static void test_many_overlapping(void)
{
    char  *text = (char *)allocate(10000 * 80), *at = text;
    size_t i;
    for (i = 0; i < 10000; i++) at += sprintf(at, "%c" TENSOR("t%zu", "U8", "100", "0", "100"), i ? ',' : '{', i);
    strcpy(at, "}");
    refuse(text, 100, "overlapping data");
    free(text);
}

/* Rule 5. */
static void test_sizes(void)
{
    refuse("{" TENSOR("w", "U8", "4294967296,4294967296", "0", "0") "}", 0, "overflows");
    refuse("{" TENSOR("w", "F64", "2305843009213693952", "0", "0") "}", 0, "overflows"); /* 2^61 * 64 */
    refuse("{" TENSOR("w", "U8", "2305843009213693952", "0", "0") "}", 0, "overflows");  /* in bits   */
    refuse("{" TENSOR("w", "U8", "4294967296,4294967296,0", "0", "0") "}", 0, "overflows");
    accept("{" TENSOR("w", "U8", "0,4294967296,4294967296", "0", "0") "}", 0, 1);
    refuse("{" TENSOR("w", "F4", "3", "0", "1") "}", 1, "do not fill whole bytes");
    refuse("{" TENSOR("w", "F6_E2M3", "2", "0", "1") "}", 1, "do not fill whole bytes");
    accept("{" TENSOR("w", "F4", "2", "0", "1") "}", 1, 1);
    accept("{" TENSOR("w", "F6_E3M2", "4", "0", "3") "}", 3, 1);
    refuse("{" TENSOR("w", "F32", "1", "0", "8") "}", 8, "has not the size");
}

/* Rule 6. */
static void test_trailing(void)
{
    refuse("{" TENSOR("w", "U8", "2", "0", "2") "}", 3, "1 bytes behind the last tensor");
    refuse("{}", 1, "1 bytes behind the last tensor, from byte 10 on");
    accept("{}", 0, 0);
    accept("{}      ", 0, 0);
}

/* Rule 7, and the sizes of all types. */
static void test_dtypes(void)
{
    static const struct {
        const char *name;
        uint32_t    bits;
    } all[] = {{"BOOL", 8},        {"F4", 4},          {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},   {"I8", 8},
               {"F8_E5M2", 8},     {"F8_E4M3", 8},     {"F8_E8M0", 8}, {"I16", 16},    {"U16", 16}, {"F16", 16},
               {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"BF16", 16},   {"I32", 32},    {"U32", 32}, {"F32", 32},
               {"C64", 64},        {"F64", 64},        {"I64", 64},    {"U64", 64}};
    size_t i;
    CHECK(sizeof all / sizeof *all == SAFETENSORS_DTYPES);
    for (i = 0; i < SAFETENSORS_DTYPES; i++) {
        char text[200];
        snprintf(text, sizeof text, "{" TENSOR("w", "%s", "8", "0", "%u") "}", all[i].name, all[i].bits);
        accept(text, all[i].bits, 1);
    }
    refuse("{" TENSOR("w", "F17", "8", "0", "8") "}", 8, "\"w\": its dtype is unknown");
    refuse("{" TENSOR("w", "", "8", "0", "8") "}", 8, "its dtype is unknown");
    refuse("{" TENSOR("w", "u8", "8", "0", "8") "}", 8, "its dtype is unknown");
    refuse("{" TENSOR("w", "U8 ", "8", "0", "8") "}", 8, "its dtype is unknown");
    refuse("{" TENSOR("w", "?", "8", "0", "8") "}", 8, "its dtype is unknown");
    refuse("{\"w\":{\"dtype\":8,\"shape\":[8],\"data_offsets\":[0,8]}}", 8, "its dtype is missing or no string");
    CHECK(safetensors_dtype_bits(SAFETENSORS_DTYPES) == 0);
}

/* Rule 8. */
static void test_metadata(void)
{
    const char       *header = "{\"__metadata__\":{\"a\":\"b\",\"\":\"\\u00e9\"}," TENSOR("w", "U8", "1", "0", "1") "}";
    const image       file = make_image(strlen(header), header, strlen(header), 1);
    safetensors_model model;
    safetensors_error error;
    CHECK(parse(&file, &model, &error));
    CHECK(json_object_size(safetensors_metadata(&model, 0)) == 2);
    CHECK(strcmp(json_string_value(json_object_get(safetensors_metadata(&model, 0), "a")), "b") == 0);
    CHECK(strcmp(json_string_value(json_object_get(safetensors_metadata(&model, 0), "")), "\xc3\xa9") == 0);
    safetensors_close(&model);
    free_fenced(file.bytes, file.size);
    refuse("{\"__metadata__\":{\"a\":1}}", 0, "its __metadata__ \"a\" is no string");
    refuse("{\"__metadata__\":{\"a\":null}}", 0, "is no string");
    refuse("{\"__metadata__\":{\"a\":{\"b\":\"c\"}}}", 0, "is no string");
    refuse("{\"__metadata__\":[]}", 0, "its __metadata__ is no object");
    refuse("{\"__metadata__\":\"a\"}", 0, "its __metadata__ is no object");
    refuse("{\"__metadata__\":{\"a\":\"b\\u0000c\"}}", 0, "not valid JSON");
}

/* Entries that are not exactly the three, and rules 10 and 12. */
static void test_entry(void)
{
    refuse("{\"w\":{}}", 0, "not exactly dtype, shape and data_offsets");
    refuse("{\"w\":[]}", 0, "not exactly dtype, shape and data_offsets");
    refuse("{\"w\":null}", 0, "not exactly dtype, shape and data_offsets");
    refuse("{\"w\":{\"dtype\":\"U8\",\"shape\":[1]}}", 0, "not exactly");
    refuse("{\"w\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":0}}", 1, "not exactly");
    refuse("{\"w\":{\"dtype\":\"U8\",\"shape\":[1],\"offsets\":[0,1]}}", 1, "its data_offsets are not");
    refuse("{\"w\":{\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]}}", 1, "its shape is not");
    refuse("{\"w\":{\"dtype\":\"U8\",\"shape\":{},\"data_offsets\":[0,1]}}", 1, "its shape is not");
    refuse("{\"w\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, "its data_offsets are not");
    refuse("{\"w\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,1]}}", 1, "its data_offsets are not");
    refuse("{\"w\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":{\"0\":0,\"1\":1}}}", 1,
           "its data_offsets are not");
    refuse("{" TENSOR("w", "U8", "-1", "0", "1") "}", 1, "a negative number at byte");
    refuse("{" TENSOR("w", "U8", "1", "-0", "1") "}", 1, "a negative number at byte");
    refuse("{" TENSOR("w", "U8", "1", "0", "-1") "}", 1, "a negative number at byte");
    refuse("{" TENSOR("w", "U8", "1.0", "0", "1") "}", 1, "its shape is not");
    refuse("{" TENSOR("w", "U8", "1e0", "0", "1") "}", 1, "its shape is not");
    refuse("{" TENSOR("w", "U8", "\"1\"", "0", "1") "}", 1, "its shape is not");
    refuse("{" TENSOR("w", "U8", "true", "0", "1") "}", 1, "its shape is not");
    refuse("{" TENSOR("w", "U8", "[1]", "0", "1") "}", 1, "its shape is not");
    refuse("{" TENSOR("w", "U8", "1", "0.0", "1") "}", 1, "its data_offsets are not");
    refuse("{" TENSOR("w", "U8", "1", "0", "1E0") "}", 1, "its data_offsets are not");
    refuse("{" TENSOR("w", "U8", "01", "0", "1") "}", 1, "not valid JSON");
    refuse("{" TENSOR("w", "U8", "0x1", "0", "1") "}", 1, "not valid JSON");
    refuse("{" TENSOR("w", "U8", "NaN", "0", "1") "}", 1, "not valid JSON");
    accept("{" TENSOR("scalar", "F64", "", "0", "8") "}", 8, 1);
    accept("{" TENSOR("a", "U8", "0", "0", "0") "," TENSOR("b", "U8", "3,0", "0", "0") "," TENSOR(
               "c", "U8", "1", "0", "1") "," TENSOR("d", "U8", "0", "1", "1") "}",
           1, 4);
    accept("{" TENSOR("-1", "U8", "1", "0", "1") "}", 1, 1); /* a name, not a number */
}

/* Rule 13: rank and names. */
static void test_limits(void)
{
    char *text = (char *)allocate(2 * SAFETENSORS_MAX_NAME), *name = (char *)allocate(SAFETENSORS_MAX_NAME + 2);
    accept("{" TENSOR("w", "U8", "1,1,1,1,1,1,1,1", "0", "1") "}", 1, 1);
    refuse("{" TENSOR("w", "U8", "1,1,1,1,1,1,1,1,1", "0", "1") "}", 1, "an array of more than 8 elements");
    accept("{" TENSOR("", "U8", "1", "0", "1") "}", 1, 1);
    memset(name, 'n', SAFETENSORS_MAX_NAME + 1);
    name[SAFETENSORS_MAX_NAME] = 0;
    sprintf(text, "{" TENSOR("%s", "U8", "1", "0", "1") "}", name);
    accept(text, 1, 1);
    name[SAFETENSORS_MAX_NAME] = 'n';
    name[SAFETENSORS_MAX_NAME + 1] = 0;
    sprintf(text, "{" TENSOR("%s", "U8", "1", "0", "1") "}", name);
    refuse(text, 1, "its name is longer than 1024 bytes");
    free(text);
    free(name);
}

/* Rule 14: data at odd offsets, names that sort against the offsets. */
static void test_order(void)
{
    const char       *header = "{" TENSOR("a", "F32", "1", "1", "5") "," TENSOR("c", "U8", "1", "0", "1") "}";
    const image       file = make_image(strlen(header), header, strlen(header), 5);
    safetensors_model model;
    safetensors_error error;
    uint8_t           bytes[4];
    CHECK(parse(&file, &model, &error));
    CHECK(strcmp(model.tensors[0].name, "c") == 0 && strcmp(model.by_name[0]->name, "a") == 0);
    CHECK(safetensors_read(&model, safetensors_find(&model, "a"), 0, 4, bytes, &error));
    CHECK(memcmp(bytes, "\2\3\4\5", 4) == 0);
    safetensors_close(&model);
    free_fenced(file.bytes, file.size);
}

/* A terminal must not obey a name. */
static void test_control_characters(void)
{
    const char       *header = "{\"\\u001b[2J\":{}}";
    const image       file = make_image(strlen(header), header, strlen(header), 0);
    safetensors_model model;
    safetensors_error error;
    CHECK(!parse(&file, &model, &error));
    CHECK(!strchr(error.text, 0x1b) && strstr(error.text, "?[2J"));
    free_fenced(file.bytes, file.size);
}

/* ---- Files and shards ------------------------------------------------------------------------ */

static char folder[64];

static const char *in_folder(const char *name)
{
    static char paths[4][512];
    static int  next;
    char       *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static void write_file(const char *name, const void *bytes, size_t size)
{
    FILE *file = fopen(in_folder(name), "wb");
    CHECK(file && fwrite(bytes, 1, size, file) == size && fclose(file) == 0);
}

static void write_image(const char *name, const char *header, size_t data_bytes)
{
    const image file = make_image(strlen(header), header, strlen(header), data_bytes);
    write_file(name, file.bytes, file.size);
    free_fenced(file.bytes, file.size);
}

/* Removes everything in the folder; returns the number of files that were there. */
static int empty_folder(void)
{
    DIR           *directory = opendir(folder);
    struct dirent *entry;
    int            files = 0;
    CHECK(directory);
    while ((entry = readdir(directory)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        CHECK(remove(in_folder(entry->d_name)) == 0);
        files++;
    }
    closedir(directory);
    return files;
}

static void check_open_fails(const char *path, const char *words)
{
    safetensors_model model;
    safetensors_error error;
    CHECK(!safetensors_open(&model, path, &error));
    if (!strstr(error.text, words)) fprintf(stderr, "\"%s\" lacks \"%s\"\n", error.text, words);
    CHECK(strstr(error.text, words) && !model.files);
    safetensors_close(&model);
}

static void test_open(void)
{
    safetensors_model model;
    safetensors_error error;
    uint8_t           bytes[2];
    check_open_fails(in_folder("missing.safetensors"), "cannot be opened: No such file");
    check_open_fails(in_folder("missing.json"), "cannot be opened: No such file");
    check_open_fails(folder, "has neither model.safetensors.index.json nor model.safetensors");
    CHECK(mkfifo(in_folder("pipe"), 0600) == 0);
    check_open_fails(in_folder("pipe"), "not a regular file");
    check_open_fails("/dev/zero", "not a regular file");
    write_file("short.safetensors", "1234567", 7);
    check_open_fails(in_folder("short.safetensors"), "short.safetensors: shorter than 8 bytes");
    write_file("empty.safetensors", "", 0);
    check_open_fails(in_folder("empty.safetensors"), "shorter than 8 bytes");
    write_image("model.safetensors", "{" TENSOR("w", "U8", "2", "0", "2") "}", 2);
    CHECK(safetensors_open(&model, in_folder("model.safetensors"), &error));
    CHECK(safetensors_read(&model, safetensors_find(&model, "w"), 0, 2, bytes, &error) && bytes[1] == 2);
    safetensors_close(&model);
    CHECK(safetensors_open(&model, folder, &error) && model.tensor_count == 1);
    safetensors_close(&model);
    CHECK(empty_folder() == 4);
}

static void refuse_index(const char *text, const char *words)
{
    write_file("model.safetensors.index.json", text, strlen(text));
    check_open_fails(in_folder("model.safetensors.index.json"), words);
}

static void test_shards(void)
{
    static const char *const outside[] = {"../m1", "..",   "/etc/passwd", "sub/m1",     "a\\\\b", "",
                                          ".",     "m1..", "\\u002e.",    "\\u002fetc", "..\\\\x"};
    const char *good = "{\"metadata\":{\"total_size\":3},\"weight_map\":{\"a\":\"m1\",\"b\":\"m2\",\"c\":\"m1\"}}";
    safetensors_model model;
    safetensors_error error;
    uint8_t           bytes[2];
    size_t            i;
    char             *text = (char *)allocate(512);
    write_image("m1", "{" TENSOR("c", "U8", "1", "0", "1") "," TENSOR("a", "U8", "1", "1", "2") "}", 2);
    write_image("m2", "{" TENSOR("b", "U8", "2", "0", "2") "," TENSOR("unlisted", "U8", "1", "2", "3") "}", 3);
    write_file("model.safetensors.index.json", good, strlen(good));
    CHECK(safetensors_open(&model, folder, &error));
    CHECK(model.file_count == 2 && model.tensor_count == 4);
    CHECK(safetensors_read(&model, safetensors_find(&model, "a"), 0, 1, bytes, &error) && bytes[0] == 2);
    CHECK(safetensors_read(&model, safetensors_find(&model, "b"), 0, 2, bytes, &error) && bytes[1] == 2);
    CHECK(safetensors_find(&model, "unlisted")->file == safetensors_find(&model, "b")->file);
    safetensors_close(&model);

    for (i = 0; i < sizeof outside / sizeof *outside; i++) {
        snprintf(text, 512, "{\"weight_map\":{\"a\":\"m1\",\"b\":\"%s\"}}", outside[i]);
        refuse_index(text, "is no name of a file in the same folder");
    }
    memset(text, 0, 512);
    strcpy(text, "{\"weight_map\":{\"a\":\"");
    memset(text + strlen(text), 'm', 256);
    strcat(text, "\"}}");
    refuse_index(text, "is no name of a file in the same folder");
    refuse_index("{\"weight_map\":{\"a\":\"m1\\u0000\"}}", "not valid JSON");
    refuse_index("{\"weight_map\":{\"a\":1}}", "\"(no string)\" is no name of a file");
    refuse_index("{\"weight_map\":{}}", "its weight_map is missing, empty or no object");
    refuse_index("{\"weight_map\":[]}", "its weight_map is missing, empty or no object");
    refuse_index("{}", "its weight_map is missing, empty or no object");
    refuse_index("", "no JSON object at byte 0");
    refuse_index("{\"weight_map\":{\"a\":\"m1\",\"a\":\"m2\"}}", "duplicate");
    refuse_index("{\"weight_map\":{\"\xff\":\"m1\"}}", "not valid JSON");
    refuse_index("{\"weight_map\":{\"a\":{\"a\":{\"a\":{\"a\":1}}}}}", "nested too deeply at byte");
    refuse_index("{\"weight_map\":{\"a\":\"m1\",\"b\":\"m3\"}}", "m3: cannot be opened: No such file");
    refuse_index("{\"weight_map\":{\"a\":\"m1\",\"b\":\"m1\"}}", "tensor \"b\" is not in m1");
    refuse_index("{\"weight_map\":{\"a\":\"m1\",\"b\":\"m2\",\"c\":\"m2\"}}", "tensor \"c\" is not in m2");
    refuse_index("{\"weight_map\":{\"a\":\"m1\",\"z\":\"m2\"}}", "tensor \"z\" is not in m2");
    write_image("m2", "{" TENSOR("b", "U8", "1", "0", "1") "," TENSOR("a", "U8", "1", "1", "2") "}", 2);
    refuse_index(good, "tensor \"a\" is in");
    write_image("m2", "{" TENSOR("b", "U8", "1", "0", "1") "}", 2);
    refuse_index(good, "m2: 1 bytes behind the last tensor");
    free(text);
    CHECK(empty_folder() == 3);
}

/* Another process cuts the file while it is open. */
static void test_shortened_while_open(void)
{
    const char                name[] = "shrinks.safetensors";
    safetensors_model         model;
    safetensors_error         error;
    const safetensors_tensor *w;
    const size_t              bytes = 40000000; /* read in several pieces, by several threads */
    char                     *memory = (char *)allocate(bytes);
    write_image(name, "{" TENSOR("w", "U8", "40000000", "0", "40000000") "}", bytes);
    CHECK(safetensors_open(&model, in_folder(name), &error));
    w = safetensors_find(&model, "w");
    CHECK(safetensors_read(&model, w, 0, bytes, memory, &error));
    CHECK(memory[0] == 1 && memory[bytes - 1] == (char)(uint8_t)bytes);
    CHECK(truncate(in_folder(name), 30000000) == 0);
    CHECK(!safetensors_read(&model, w, 0, bytes, memory, &error));
    CHECK(strstr(error.text, "shrinks.safetensors: became shorter while it was read: it now ends before byte"));
    CHECK(safetensors_read(&model, w, 0, 20000000, memory, &error));
    CHECK(truncate(in_folder(name), 0) == 0);
    CHECK(!safetensors_read(&model, w, 5, 1, memory, &error) && strstr(error.text, "became shorter"));
    safetensors_close(&model);
    free(memory);
    CHECK(empty_folder() == 1);
}

/* ---- Writing --------------------------------------------------------------------------------- */

static const uint64_t shape_2x3[2] = {2, 3}, shape_0[1] = {0};

static void start(safetensors_writer *writer, const char *name)
{
    safetensors_error error;
    CHECK(safetensors_create(writer, in_folder(name), 2000, &error));
}

static void test_round_trip(void)
{
    const uint16_t            values[6] = {1, 2, 3, 4, 5, 6};
    const double              one = 1.0;
    const char               *odd = "\xe2\x82\xac \"\\\n\x01";
    safetensors_writer        writer;
    safetensors_model         model;
    safetensors_error         error;
    const safetensors_tensor *w;
    uint16_t                  back[6];
    double                    scalar;
    const uint64_t room = safetensors_entry_bytes("w") + safetensors_entry_bytes(odd) + safetensors_entry_bytes("n") +
                          safetensors_metadata_bytes("format", "pt") + safetensors_metadata_bytes("key", odd);
    CHECK(safetensors_create(&writer, in_folder("out.safetensors"), room, &error));
    CHECK(safetensors_add_metadata(&writer, "format", "pt", &error));
    CHECK(safetensors_begin(&writer, "w", SAFETENSORS_BF16, 2, shape_2x3, &error));
    CHECK(safetensors_append(&writer, values, 5, &error));
    CHECK(safetensors_append(&writer, (const char *)values + 5, 7, &error));
    CHECK(safetensors_append(&writer, values, 0, &error));
    CHECK(safetensors_begin(&writer, odd, SAFETENSORS_F64, 0, NULL, &error));
    CHECK(safetensors_append(&writer, &one, 8, &error));
    CHECK(safetensors_begin(&writer, "n", SAFETENSORS_I64, 1, shape_0, &error));
    CHECK(safetensors_add_metadata(&writer, "key", odd, &error));
    CHECK(access(in_folder("out.safetensors"), F_OK) != 0);
    CHECK(safetensors_commit(&writer, &error));
    CHECK(!safetensors_commit(&writer, &error)); /* once */
    safetensors_abandon(&writer);

    CHECK(safetensors_open(&model, in_folder("out.safetensors"), &error));
    CHECK(model.tensor_count == 3 && json_object_size(safetensors_metadata(&model, 0)) == 2);
    CHECK(strcmp(json_string_value(json_object_get(safetensors_metadata(&model, 0), "key")), odd) == 0);
    w = safetensors_find(&model, "w");
    CHECK(w->offset % SAFETENSORS_ALIGNMENT == 0 && w->dtype == SAFETENSORS_BF16 && w->rank == 2 && w->shape[1] == 3);
    CHECK(safetensors_read(&model, w, 0, 12, back, &error) && memcmp(back, values, 12) == 0);
    w = safetensors_find(&model, odd);
    CHECK(w->rank == 0 && safetensors_read(&model, w, 0, 8, &scalar, &error) && scalar == one);
    CHECK(safetensors_find(&model, "n")->bytes == 0);
    safetensors_close(&model);
    CHECK(empty_folder() == 1);
}

/* The bounds on the header hold for the worst names, shapes and dtypes: exactly as much room as they say is enough. */
static void test_header_room(void)
{
    const uint64_t     shape[8] = {0, INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX};
    char               name[SAFETENSORS_MAX_NAME + 1];
    int                count;
    safetensors_writer writer;
    safetensors_model  model;
    safetensors_error  error;
    for (count = 0; count < 130; count += 43) { /* rounding to 128 bytes hides little errors for some counts */
        uint64_t room = 0;
        int      i;
        memset(name, 1, sizeof name); /* \u0001: six bytes each */
        name[SAFETENSORS_MAX_NAME] = 0;
        for (i = 0; i < count; i++) room += safetensors_entry_bytes(name) + safetensors_metadata_bytes(name, name);
        CHECK(safetensors_create(&writer, in_folder("out"), room, &error));
        for (i = 0; i < count; i++) {
            name[0] = (char)(1 + i / 31);
            name[1] = (char)(1 + i % 31);
            CHECK(safetensors_begin(&writer, name, SAFETENSORS_F8_E4M3FNUZ, 8, shape, &error));
            CHECK(safetensors_add_metadata(&writer, name, name, &error));
        }
        CHECK(safetensors_commit(&writer, &error));
        CHECK(safetensors_open(&model, in_folder("out"), &error) && model.tensor_count == (size_t)count);
        safetensors_close(&model);
    }
    CHECK(safetensors_create(&writer, in_folder("out2"), 100, &error));
    CHECK(!safetensors_begin(&writer, "name", SAFETENSORS_U8, 1, shape_0, &error));
    CHECK(strstr(error.text, "no room in the header"));
    CHECK(empty_folder() == 1);
}

/* What is at the final name after a failure: the old file, and nothing beside it. */
static void check_old_file_alone(void)
{
    char  text[8] = {0};
    FILE *file = fopen(in_folder("out"), "rb");
    CHECK(file && fread(text, 1, 8, file) == 3 && memcmp(text, "old", 3) == 0);
    fclose(file);
    CHECK(empty_folder() == 1);
}

static void test_misuse(void)
{
    const uint64_t huge[2] = {(uint64_t)1 << 40, (uint64_t)1 << 40}, large[1] = {(uint64_t)1 << 60},
                   beyond[2] = {0, UINT64_MAX};
    char               name[SAFETENSORS_MAX_NAME + 2];
    safetensors_writer writer;
    safetensors_error  error;
    int                i;
    memset(name, 'n', sizeof name);
    name[SAFETENSORS_MAX_NAME + 1] = 0;
    for (i = 0; i < 16; i++) {
        write_file("out", "old", 3);
        start(&writer, "out");
        CHECK(safetensors_begin(&writer, "w", SAFETENSORS_U8, 2, shape_2x3, &error));
        switch (i) {
        case 0: CHECK(!safetensors_append(&writer, "1234567", 7, &error) && strstr(error.text, "more bytes")); break;
        case 1: CHECK(!safetensors_commit(&writer, &error) && strstr(error.text, "not complete")); break;
        case 2:
            CHECK(!safetensors_begin(&writer, "v", SAFETENSORS_U8, 0, NULL, &error) &&
                  strstr(error.text, "not complete"));
            break;
        default: CHECK(safetensors_append(&writer, "123456", 6, &error));
        }
        switch (i) {
        case 3: CHECK(!safetensors_append(&writer, "1", 1, &error) && strstr(error.text, "more bytes")); break;
        case 4:
            CHECK(!safetensors_begin(&writer, "w", SAFETENSORS_U8, 0, NULL, &error));
            CHECK(strstr(error.text, "a tensor of this name exists"));
            break;
        case 5: CHECK(!safetensors_begin(&writer, "__metadata__", SAFETENSORS_U8, 0, NULL, &error)); break;
        case 6: CHECK(!safetensors_begin(&writer, "\xff", SAFETENSORS_U8, 0, NULL, &error)); break;
        case 7: CHECK(!safetensors_begin(&writer, name, SAFETENSORS_U8, 0, NULL, &error)); break;
        case 8: CHECK(!safetensors_begin(&writer, "v", SAFETENSORS_DTYPES, 0, NULL, &error)); break;
        case 9: CHECK(!safetensors_begin(&writer, "v", SAFETENSORS_U8, 9, huge, &error)); break;
        case 10:
            CHECK(!safetensors_begin(&writer, "v", SAFETENSORS_U8, 2, huge, &error) && strstr(error.text, "overflows"));
            break;
        case 11:
            CHECK(safetensors_add_metadata(&writer, "k", "v", &error));
            CHECK(!safetensors_add_metadata(&writer, "k", "w", &error) && strstr(error.text, "twice"));
            break;
        case 12: CHECK(!safetensors_add_metadata(&writer, "k", "\xff", &error)); break;
        case 13: CHECK(!safetensors_begin(&writer, "v", SAFETENSORS_F4, 1, (const uint64_t[]){3}, &error)); break;
        case 14: /* declared, never filled: too large for a file once more is added */
            CHECK(safetensors_begin(&writer, "v", SAFETENSORS_U8, 1, large, &error));
            CHECK(!safetensors_commit(&writer, &error));
            break;
        case 15: CHECK(!safetensors_begin(&writer, "v", SAFETENSORS_U8, 2, beyond, &error)); break;
        default: break;
        }
        CHECK(!safetensors_append(&writer, "", 0, &error)); /* abandoned */
        CHECK(!safetensors_begin(&writer, "x", SAFETENSORS_U8, 0, NULL, &error));
        CHECK(!safetensors_add_metadata(&writer, "x", "x", &error) && !safetensors_commit(&writer, &error));
        safetensors_abandon(&writer);
        check_old_file_alone();
    }
}

static void test_places(void)
{
    safetensors_writer writers[SAFETENSORS_MAX_WRITERS + 1];
    safetensors_error  error;
    char               name[300];
    int                i;
    CHECK(!safetensors_create(writers, in_folder("no/such/folder"), 0, &error));
    CHECK(strstr(error.text, "no/such/folder: a file beside it cannot be created: No such file"));
    CHECK(!safetensors_create(writers, folder, 0, &error) && strstr(error.text, "no regular file"));
    CHECK(!safetensors_create(writers, "/dev/null", 0, &error) && strstr(error.text, "no regular file"));
    memset(name, 'n', 299);
    name[299] = 0;
    CHECK(!safetensors_create(writers, in_folder(name), 0, &error) && strstr(error.text, "File name too long"));
    CHECK(!safetensors_create(writers, in_folder("out"), SAFETENSORS_MAX_HEADER, &error));
    CHECK(strstr(error.text, "larger than readers accept"));
    CHECK(!safetensors_create(writers, in_folder("out"), UINT64_MAX, &error));
    for (i = 0; i < SAFETENSORS_MAX_WRITERS; i++) start(&writers[i], "out"); /* the same name: each has its own file */
    CHECK(!safetensors_create(&writers[i], in_folder("out"), 0, &error) && strstr(error.text, "Too many open files"));
    for (i = 0; i < SAFETENSORS_MAX_WRITERS; i++) safetensors_abandon(&writers[i]);
    CHECK(empty_folder() == 0);
    if (geteuid() != 0) { /* root may write anywhere */
        CHECK(chmod(folder, 0500) == 0);
        CHECK(!safetensors_create(writers, in_folder("out"), 0, &error) && strstr(error.text, "Permission denied"));
        CHECK(chmod(folder, 0700) == 0);
    }
}

/* A disk that is full looks like a limit on the size of files: write() fails in the middle. */
static void test_full_disk(void)
{
    const uint64_t     shape[1] = {1 << 20};
    char              *memory = (char *)allocate(1 << 20);
    struct rlimit      limit, small;
    safetensors_writer writer;
    safetensors_error  error;
    memset(memory, 7, 1 << 20);
    signal(SIGXFSZ, SIG_IGN);
    CHECK(getrlimit(RLIMIT_FSIZE, &limit) == 0);
    small = limit;
    small.rlim_cur = 100000;
    write_file("out", "old", 3);
    start(&writer, "out");
    CHECK(safetensors_begin(&writer, "w", SAFETENSORS_U8, 1, shape, &error));
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    CHECK(!safetensors_append(&writer, memory, 1 << 20, &error));
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    CHECK(strstr(error.text, "/out: byte 0 of its data: File too large"));
    check_old_file_alone();

    write_file("out", "old", 3); /* not even the header */
    start(&writer, "out");
    small.rlim_cur = 100;
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    CHECK(!safetensors_commit(&writer, &error) && strstr(error.text, "its header: File too large"));
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    check_old_file_alone();
    signal(SIGXFSZ, SIG_DFL);
    free(memory);
}

static void stop(int number)
{
    safetensors_remove_temporaries();
    _exit(128 + number);
}

/* An interrupt in the middle: the handler of a child removes what it wrote. */
static void test_interrupt(void)
{
    safetensors_writer writer;
    safetensors_error  error;
    int                status;
    pid_t              child;
    write_file("out", "old", 3);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        signal(SIGINT, stop);
        start(&writer, "out");
        CHECK(safetensors_begin(&writer, "w", SAFETENSORS_U8, 2, shape_2x3, &error));
        CHECK(safetensors_append(&writer, "123", 3, &error));
        raise(SIGINT);
        _exit(1);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 128 + SIGINT);
    check_old_file_alone();
    safetensors_remove_temporaries(); /* with none open */
}

int main(void)
{
    const char *base = getenv("TMPDIR");
    CHECK((size_t)snprintf(folder, sizeof folder, "%s/spinfer_XXXXXX", base && strlen(base) < 40 ? base : "/tmp") <
          sizeof folder);
    CHECK(mkdtemp(folder));
    test_smallest();
    test_truncation();
    test_replaced_bytes();
    test_header_length();
    test_json();
    test_nesting();
    test_entries();
    test_offsets();
    test_many_overlapping();
    test_sizes();
    test_trailing();
    test_dtypes();
    test_metadata();
    test_entry();
    test_limits();
    test_order();
    test_control_characters();
    test_open();
    test_shards();
    test_shortened_while_open();
    test_round_trip();
    test_header_room();
    test_misuse();
    test_places();
    test_full_disk();
    test_interrupt();
    CHECK(rmdir(folder) == 0);
    return 0;
}
