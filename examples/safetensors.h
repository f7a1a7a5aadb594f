/* safetensors.h - reads and writes safetensors files and sharded sets. C99 and POSIX.1-2008; JSON by jansson.
 * Under -std=c99 define _POSIX_C_SOURCE as 200809L before the first #include; link with -ljansson.
 *
 *     offset 0      8 bytes     N, little-endian
 *     offset 8      N bytes     {"name":{"dtype":"F16","shape":[64,32],"data_offsets":[0,4096]}, ...}, then spaces
 *     offset 8 + N  the rest    the data of all tensors, without a hole
 *
 * READ: open checks everything that can be wrong before it hands out a tensor; then read what is wanted.
 *
 *     safetensors_model model;
 *     safetensors_error error;
 *     if (!safetensors_open(&model, "model.safetensors.index.json", &error)) { puts(error.text); exit(1); }
 *     const safetensors_tensor *tensor = safetensors_find(&model, "layers.0.weight");
 *     if (!safetensors_read(&model, tensor, 0, tensor->bytes, memory, &error)) ...
 *     safetensors_close(&model);
 *
 * WRITE: the size of the header first, then tensor by tensor; nothing is seen under the final name before the commit.
 *
 *     safetensors_writer writer;
 *     safetensors_create(&writer, "out.safetensors", safetensors_entry_bytes("a") + ..., &error);
 *     safetensors_begin(&writer, "a", SAFETENSORS_F16, 2, shape, &error);
 *     safetensors_append(&writer, memory, bytes, &error);          // as often as it takes
 *     safetensors_commit(&writer, &error);
 *
 * Files are read with pread() into memory of the caller and not mapped. A mapped file changes under the reader when
 * somebody writes to it: shortened, it kills the process (SIGBUS); rewritten between two passes, it differs from what
 * was counted or validated a moment before, and no check helps. What was read once stays as it is, and a file that
 * became shorter is an ordinary error.
 *
 * Functions that return int return 1, or 0 with an English sentence in error->text: which file, what and where. */
#ifndef SPINFER_EXAMPLES_SAFETENSORS_H
#define SPINFER_EXAMPLES_SAFETENSORS_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

enum {
    SAFETENSORS_MAX_HEADER = 100000000, /* bytes of JSON, as in the reference reader; of an index too */
    SAFETENSORS_MAX_TENSORS = 1000000,  /* in one file                                                */
    SAFETENSORS_MAX_RANK = 8,
    SAFETENSORS_MAX_NAME = 1024,  /* bytes of a tensor name                                                     */
    SAFETENSORS_ALIGNMENT = 128,  /* a written data section starts at a multiple of this many bytes of the file */
    SAFETENSORS_MAX_WRITERS = 16, /* open at the same time                                                      */
    SAFETENSORS_MAX_PATH = 4096   /* bytes of the path of a written file                                        */
};

typedef struct safetensors_error {
    char text[1536];
} safetensors_error;

/* The element types of the format, in the order of the names in safetensors_dtype_name(). */
typedef enum safetensors_dtype {
    SAFETENSORS_BOOL,
    SAFETENSORS_F4,
    SAFETENSORS_F6_E2M3,
    SAFETENSORS_F6_E3M2,
    SAFETENSORS_U8,
    SAFETENSORS_I8,
    SAFETENSORS_F8_E5M2,
    SAFETENSORS_F8_E4M3,
    SAFETENSORS_F8_E8M0,
    SAFETENSORS_F8_E4M3FNUZ,
    SAFETENSORS_F8_E5M2FNUZ,
    SAFETENSORS_I16,
    SAFETENSORS_U16,
    SAFETENSORS_F16,
    SAFETENSORS_BF16,
    SAFETENSORS_I32,
    SAFETENSORS_U32,
    SAFETENSORS_F32,
    SAFETENSORS_C64,
    SAFETENSORS_F64,
    SAFETENSORS_I64,
    SAFETENSORS_U64,
    SAFETENSORS_DTYPES /* their number */
} safetensors_dtype;

typedef struct safetensors_tensor {
    const char       *name; /* UTF-8 without zero bytes, 0 .. SAFETENSORS_MAX_NAME bytes             */
    safetensors_dtype dtype;
    uint32_t          rank; /* 0 (a scalar) .. SAFETENSORS_MAX_RANK                                  */
    uint32_t          file; /* index into model->files                                               */
    uint64_t          shape[SAFETENSORS_MAX_RANK]; /* 0 is legal: an empty tensor. Unused ones are 0 */
    uint64_t          offset; /* of its first byte in the file; need not be aligned to anything      */
    uint64_t          bytes;  /* of its data: product of the shape times the size of the dtype       */
} safetensors_tensor;

typedef struct safetensors_file {
    char          *path;
    int            descriptor; /* open for reading, or -1: in memory */
    const uint8_t *memory;     /* then, here                         */
    uint64_t       bytes;      /* when it was opened                 */
    json_t        *header;     /* owns the names of its tensors      */
} safetensors_file;

/* safetensors_model : one file or all shards of a set. Owned by the functions below; read what you like. */
typedef struct safetensors_model {
    safetensors_file    *files;
    size_t               file_count;
    safetensors_tensor  *tensors; /* file by file, in each by rising offset */
    size_t               tensor_count;
    safetensors_tensor **by_name; /* [tensor_count], sorted with strcmp()    */
} safetensors_model;

/* What a failing function returns. Text from files loses its control characters, which a terminal might obey. */
#ifdef __GNUC__
__attribute__((format(printf, 2, 3)))
#endif
static inline int
safetensors_fail(safetensors_error *error, const char *format, ...)
{
    va_list arguments;
    char   *at;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    for (at = error->text; *at; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f) *at = '?';
    return 0;
}

/* ---- Types ----------------------------------------------------------------------------------- */

/* safetensors_dtype_name() : "F16" and so on, as it stands in files. */
static inline const char *safetensors_dtype_name(safetensors_dtype dtype)
{
    static const char *const names[SAFETENSORS_DTYPES] = {
        "BOOL",    "F4",          "F6_E2M3",     "F6_E3M2", "U8",  "I8",  "F8_E5M2", "F8_E4M3",
        "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I16",     "U16", "F16", "BF16",    "I32",
        "U32",     "F32",         "C64",         "F64",     "I64", "U64"};
    return (unsigned)dtype < SAFETENSORS_DTYPES ? names[dtype] : "?";
}

/* safetensors_dtype_bits() : bits of one element; 4 and 6 for the packed types. */
static inline uint32_t safetensors_dtype_bits(safetensors_dtype dtype)
{
    static const uint8_t bits[SAFETENSORS_DTYPES] = {8,  4,  6,  6,  8,  8,  8,  8,  8,  8,  8,
                                                     16, 16, 16, 16, 32, 32, 32, 64, 64, 64, 64};
    return (unsigned)dtype < SAFETENSORS_DTYPES ? bits[dtype] : 0;
}

/* Bytes of a tensor. Returns NULL, or what is wrong with it. */
static inline const char *safetensors_tensor_bytes(safetensors_dtype dtype, uint32_t rank, const uint64_t *shape,
                                                   uint64_t *bytes)
{
    const uint64_t width = safetensors_dtype_bits(dtype);
    uint64_t       bits = width;
    uint32_t       i;
    if (!width) return "its dtype is unknown";
    if (rank > SAFETENSORS_MAX_RANK) return "its shape has more than 8 dimensions";
    for (i = 0; i < rank; i++) {
        if (shape[i] && bits > UINT64_MAX / shape[i]) return "the size that follows from its shape and dtype overflows";
        bits *= shape[i];
    }
    if (bits % 8) return "its elements do not fill whole bytes";
    *bytes = bits / 8;
    return NULL;
}

/* ---- Read ------------------------------------------------------------------------------------ */

/* The file starts with the length of its header; is it possible? */
static inline int safetensors_header_bytes(const uint8_t *start, uint64_t file_bytes, const char *path,
                                           uint64_t *header_bytes, safetensors_error *error)
{
    uint64_t length = 0;
    int      i;
    *header_bytes = 0;
    if (file_bytes < 8) return safetensors_fail(error, "%s: shorter than 8 bytes, so no safetensors file", path);
    for (i = 0; i < 8; i++) length |= (uint64_t)start[i] << 8 * i;
    if (length > SAFETENSORS_MAX_HEADER)
        return safetensors_fail(error, "%s: its header would be %llu bytes long, more than %d; no safetensors file",
                                path, (unsigned long long)length, (int)SAFETENSORS_MAX_HEADER);
    if (length > file_bytes - 8)
        return safetensors_fail(error, "%s: truncated: its header ends at byte %llu, the file at byte %llu", path,
                                (unsigned long long)length + 8, (unsigned long long)file_bytes);
    *header_bytes = length;
    return 1;
}

/* Refuses what would make the JSON library build a tree far larger than any real header: deep nesting, long arrays, too
 * many entries. Also negative numbers, because -0 would pass as 0. `first` is the offset of the text in the file. */
static inline int safetensors_scan_json(const char *text, size_t bytes, size_t first, const char *path,
                                        safetensors_error *error)
{
    enum { MAX_DEPTH = 4, MAX_ENTRIES = 4 * SAFETENSORS_MAX_TENSORS };
    int         in_string = 0, depth = 0, is_array[MAX_DEPTH + 1] = {0}, elements[MAX_DEPTH + 1] = {0}, entries = 0;
    const char *problem = NULL;
    size_t      at;
    for (at = 0; at < bytes && !problem; at++) {
        const char c = text[at];
        if (in_string) {
            if (c == '\\')
                at++;
            else if (c == '"')
                in_string = 0;
        } else if (c == '"') {
            in_string = 1;
        } else if (c == '{' || c == '[') {
            if (++depth > MAX_DEPTH)
                problem = "nested too deeply";
            else
                is_array[depth] = c == '[', elements[depth] = 1;
        } else if (c == '}' || c == ']') {
            if (--depth < 0) problem = "a bracket too many";
        } else if (c == ',') {
            if (is_array[depth] ? ++elements[depth] > SAFETENSORS_MAX_RANK : ++entries > MAX_ENTRIES)
                problem = is_array[depth] ? "an array of more than 8 elements" : "too many entries";
        } else if (c == '-') {
            problem = "a negative number";
        }
    }
    if (!problem) return 1;
    return safetensors_fail(error, "%s: %s at byte %llu", path, problem, (unsigned long long)(first + at - 1));
}

/* Strict JSON: an object, UTF-8, no key twice. Returns NULL after a failure. */
static inline json_t *safetensors_load_json(const char *text, size_t bytes, size_t first, const char *path,
                                            safetensors_error *error)
{
    json_error_t why;
    json_t      *root;
    if (bytes < 1 || text[0] != '{') {
        safetensors_fail(error, "%s: no JSON object at byte %llu", path, (unsigned long long)first);
        return NULL;
    }
    if (!safetensors_scan_json(text, bytes, first, path, error)) return NULL;
    root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        safetensors_fail(error, "%s: not valid JSON at byte %llu: %s", path,
                         (unsigned long long)first + (unsigned long long)(why.position > 0 ? why.position : 0),
                         why.text);
    return root;
}

/* An array of numbers from 0 on. */
static inline int safetensors_parse_numbers(const json_t *array, size_t room, uint64_t *numbers, size_t *count)
{
    size_t i;
    if (!json_is_array(array) || json_array_size(array) > room) return 0;
    *count = json_array_size(array);
    for (i = 0; i < *count; i++) {
        const json_t *number = json_array_get(array, i);
        if (!json_is_integer(number) || json_integer_value(number) < 0) return 0;
        numbers[i] = (uint64_t)json_integer_value(number);
    }
    return 1;
}

/* One entry of the header; offsets are relative to data_first, the file ends at file_bytes. Returns NULL or what is
 * wrong. */
static inline const char *safetensors_parse_tensor(const json_t *entry, uint64_t data_first, uint64_t file_bytes,
                                                   safetensors_tensor *tensor)
{
    const char *dtype = json_string_value(json_object_get(entry, "dtype")), *problem;
    uint64_t    offsets[2];
    size_t      count;
    int         i = 0;
    if (json_object_size(entry) != 3) return "its entry is not exactly dtype, shape and data_offsets";
    if (!dtype) return "its dtype is missing or no string";
    while (i < SAFETENSORS_DTYPES && strcmp(dtype, safetensors_dtype_name((safetensors_dtype)i)) != 0) i++;
    tensor->dtype = (safetensors_dtype)i;
    if (i == SAFETENSORS_DTYPES) return "its dtype is unknown";
    if (!safetensors_parse_numbers(json_object_get(entry, "shape"), SAFETENSORS_MAX_RANK, tensor->shape, &count))
        return "its shape is not an array of at most 8 integers from 0 on";
    tensor->rank = (uint32_t)count;
    if (!safetensors_parse_numbers(json_object_get(entry, "data_offsets"), 2, offsets, &count) || count != 2)
        return "its data_offsets are not an array of two integers from 0 on";
    problem = safetensors_tensor_bytes(tensor->dtype, tensor->rank, tensor->shape, &tensor->bytes);
    if (problem) return problem;
    if (offsets[1] < offsets[0]) return "its data ends before it begins";
    if (offsets[1] > file_bytes - data_first) return "its data ends behind the end of the file";
    if (offsets[1] - offsets[0] != tensor->bytes) return "its data has not the size that its shape and dtype ask for";
    tensor->offset = data_first + offsets[0];
    return NULL;
}

static inline int safetensors_by_offset(const void *left, const void *right)
{
    const safetensors_tensor *a = (const safetensors_tensor *)left, *b = (const safetensors_tensor *)right;
    if (a->offset != b->offset) return a->offset < b->offset ? -1 : 1;
    if (a->bytes != b->bytes) return a->bytes < b->bytes ? -1 : 1; /* empty tensors first */
    return strcmp(a->name, b->name);
}

static inline int safetensors_by_name(const void *left, const void *right)
{
    return strcmp((*(safetensors_tensor *const *)left)->name, (*(safetensors_tensor *const *)right)->name);
}

/* The data of tensors in rising order: each begins where the one before ends, the last ends with the file. */
static inline int safetensors_check_coverage(const safetensors_tensor *tensors, size_t count, uint64_t data_first,
                                             uint64_t file_bytes, const char *path, safetensors_error *error)
{
    uint64_t end = data_first;
    size_t   i;
    for (i = 0; i < count; i++) {
        if (tensors[i].offset != end)
            return safetensors_fail(error, "%s: tensor \"%.200s\": its data begins at byte %llu, %s byte %llu", path,
                                    tensors[i].name, (unsigned long long)tensors[i].offset,
                                    tensors[i].offset < end ? "overlapping data up to" : "leaving a hole from",
                                    (unsigned long long)end);
        end += tensors[i].bytes;
    }
    if (end == file_bytes) return 1;
    return safetensors_fail(error, "%s: %llu bytes behind the last tensor, from byte %llu on", path,
                            (unsigned long long)(file_bytes - end), (unsigned long long)end);
}

/* An object of strings. */
static inline int safetensors_check_metadata(json_t *metadata, const char *path, safetensors_error *error)
{
    const char *key;
    json_t     *value;
    if (!json_is_object(metadata)) return safetensors_fail(error, "%s: its __metadata__ is no object", path);
    json_object_foreach(metadata, key, value)
    {
        if (!json_is_string(value))
            return safetensors_fail(error, "%s: its __metadata__ \"%.200s\" is no string", path, key);
    }
    return 1;
}

/* The tensors of a parsed header, into [entries of the header]. */
static inline int safetensors_parse_tensors(json_t *header, uint64_t data_first, uint64_t file_bytes, const char *path,
                                            safetensors_tensor *tensors, size_t *count, safetensors_error *error)
{
    const char *name;
    json_t     *entry;
    *count = 0;
    json_object_foreach(header, name, entry)
    {
        safetensors_tensor tensor;
        const char        *problem;
        memset(&tensor, 0, sizeof tensor);
        if (strcmp(name, "__metadata__") == 0) {
            if (!safetensors_check_metadata(entry, path, error)) return 0;
            continue;
        }
        if (strlen(name) > SAFETENSORS_MAX_NAME)
            return safetensors_fail(error, "%s: tensor \"%.200s...\": its name is longer than %d bytes", path, name,
                                    (int)SAFETENSORS_MAX_NAME);
        problem = safetensors_parse_tensor(entry, data_first, file_bytes, &tensor);
        if (problem) return safetensors_fail(error, "%s: tensor \"%.200s\": %s", path, name, problem);
        tensor.name = name;
        tensors[(*count)++] = tensor;
    }
    return 1;
}

/* Appends a file, of which the first 8 + N bytes are at `start`, to the model. Takes the descriptor. */
static inline int safetensors_add_file(safetensors_model *model, const uint8_t *start, const char *path, int descriptor,
                                       uint64_t file_bytes, safetensors_error *error)
{
    safetensors_file   *files, *file;
    safetensors_tensor *tensors, *added;
    uint64_t            header_bytes;
    size_t              count, i;
    files = (safetensors_file *)realloc(model->files, (model->file_count + 1) * sizeof *files);
    if (files) model->files = files;
    file = files ? &files[model->file_count] : NULL;
    if (file) {
        memset(file, 0, sizeof *file);
        file->path = (char *)malloc(strlen(path) + 1);
    }
    if (!file || !file->path) {
        if (descriptor >= 0) close(descriptor);
        return safetensors_fail(error, "%s: out of memory", path);
    }
    strcpy(file->path, path);
    file->descriptor = descriptor;
    file->memory = descriptor < 0 ? start : NULL;
    file->bytes = file_bytes;
    model->file_count++; /* from here on safetensors_close() cleans up */

    if (!safetensors_header_bytes(start, file_bytes, path, &header_bytes, error)) return 0;
    file->header = safetensors_load_json((const char *)start + 8, (size_t)header_bytes, 8, path, error);
    if (!file->header) return 0;
    count = json_object_size(file->header);
    if (count > SAFETENSORS_MAX_TENSORS)
        return safetensors_fail(error, "%s: more than %d tensors", path, (int)SAFETENSORS_MAX_TENSORS);
    tensors = (safetensors_tensor *)realloc(model->tensors, (model->tensor_count + count + 1) * sizeof *tensors);
    if (!tensors) return safetensors_fail(error, "%s: out of memory", path);
    model->tensors = tensors;
    added = tensors + model->tensor_count;
    if (!safetensors_parse_tensors(file->header, 8 + header_bytes, file_bytes, path, added, &count, error)) return 0;
    if (count) qsort(added, count, sizeof *added, safetensors_by_offset);
    for (i = 0; i < count; i++) added[i].file = (uint32_t)(model->file_count - 1);
    model->tensor_count += count;
    return safetensors_check_coverage(added, count, 8 + header_bytes, file_bytes, path, error);
}

/* Sorts the names once all files are there. A name in two shards is an error. */
static inline int safetensors_sort_names(safetensors_model *model, safetensors_error *error)
{
    size_t i;
    model->by_name = (safetensors_tensor **)malloc((model->tensor_count + 1) * sizeof *model->by_name);
    if (!model->by_name) return safetensors_fail(error, "%s: out of memory", model->files[0].path);
    for (i = 0; i < model->tensor_count; i++) model->by_name[i] = &model->tensors[i];
    if (i) qsort(model->by_name, i, sizeof *model->by_name, safetensors_by_name);
    for (i = 1; i < model->tensor_count; i++)
        if (strcmp(model->by_name[i - 1]->name, model->by_name[i]->name) == 0)
            return safetensors_fail(error, "%s: tensor \"%.200s\" is in %s as well",
                                    model->files[model->by_name[i]->file].path, model->by_name[i]->name,
                                    model->files[model->by_name[i - 1]->file].path);
    return 1;
}

static inline void safetensors_close(safetensors_model *model)
{
    size_t i;
    for (i = 0; i < model->file_count; i++) {
        if (model->files[i].descriptor >= 0) close(model->files[i].descriptor);
        json_decref(model->files[i].header);
        free(model->files[i].path);
    }
    free(model->files);
    free(model->tensors);
    free(model->by_name);
    memset(model, 0, sizeof *model);
}

/* safetensors_parse() : one whole file that lies in memory. The core of the reader, without a file.
 *
 *   start       in   the file. Only its header is read: 8 + N bytes, once 8 + N <= file_bytes is known.
 *   file_bytes  in   length of the file
 *   path        in   for messages
 *   model       out  one file, for which `start` must stay; safetensors_close() it, after a failure it is empty
 *
 *   Refuses   whatever breaks a rule of the format: a length beyond the file or SAFETENSORS_MAX_HEADER, JSON or UTF-8
 *             that is none, duplicate keys, numbers that are not integers from 0 on, unknown dtypes, entries that are
 *             missing or unknown, shapes whose size overflows or is no whole number of bytes or differs from the
 *             offsets, data with holes, overlaps or trailing bytes, metadata other than strings. Also, beyond the
 *             format: nesting deeper than a header needs, names with a zero byte, and the limits above. */
static inline int safetensors_parse(const void *start, uint64_t file_bytes, const char *path, safetensors_model *model,
                                    safetensors_error *error)
{
    memset(model, 0, sizeof *model);
    if (safetensors_add_file(model, (const uint8_t *)start, path, -1, file_bytes, error) &&
        safetensors_sort_names(model, error))
        return 1;
    safetensors_close(model);
    return 0;
}

/* A shard lies beside its index and nowhere else. Links are followed: download caches are made of them. */
static inline int safetensors_shard_name_is_safe(const char *name)
{
    return name && *name && strlen(name) <= 255 && strcmp(name, ".") != 0 && !strstr(name, "..") &&
           !strpbrk(name, "/\\");
}

/* safetensors_parse_index() : the text of a model.safetensors.index.json.
 *
 *   text, bytes  in   the file in memory
 *   path         in   for messages
 *   index        out  its JSON, checked: json_object_get(index, "weight_map") maps tensor names to shard names, of
 *                     which none is empty, "." or has a slash, a backslash or "..". json_decref() it. */
static inline int safetensors_parse_index(const void *text, size_t bytes, const char *path, json_t **index,
                                          safetensors_error *error)
{
    json_t     *root, *map, *shard;
    const char *name;
    int         is_good = 1;
    if (bytes > SAFETENSORS_MAX_HEADER)
        return safetensors_fail(error, "%s: longer than %d bytes, so no index", path, (int)SAFETENSORS_MAX_HEADER);
    root = safetensors_load_json((const char *)text, bytes, 0, path, error);
    if (!root) return 0;
    map = json_object_get(root, "weight_map");
    if (!json_is_object(map) || json_object_size(map) == 0)
        is_good = safetensors_fail(error, "%s: its weight_map is missing, empty or no object", path);
    else
        json_object_foreach(map, name, shard)
        {
            const char *shard_name = json_string_value(shard);
            if (is_good && !safetensors_shard_name_is_safe(shard_name))
                is_good =
                    safetensors_fail(error, "%s: tensor \"%.200s\": \"%.200s\" is no name of a file in the same folder",
                                     path, name, shard_name ? shard_name : "(no string)");
        }
    if (is_good)
        *index = root;
    else
        json_decref(root);
    return is_good;
}

/* pread() of all the bytes, in pieces that every system takes. */
static inline int safetensors_read_bytes(int descriptor, void *memory, uint64_t bytes, uint64_t offset,
                                         const char *path, safetensors_error *error)
{
    while (bytes) {
        const size_t  piece = bytes < ((size_t)1 << 24) ? (size_t)bytes : (size_t)1 << 24;
        const ssize_t got = pread(descriptor, memory, piece, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return safetensors_fail(error, "%s: reading at byte %llu failed: %s", path, (unsigned long long)offset,
                                    strerror(errno));
        if (got == 0)
            return safetensors_fail(error, "%s: became shorter while it was read: it now ends before byte %llu", path,
                                    (unsigned long long)offset + 1);
        memory = (char *)memory + got;
        bytes -= (uint64_t)got;
        offset += (uint64_t)got;
    }
    return 1;
}

/* Returns the descriptor, or -1 with a message. A pipe must not block us, hence O_NONBLOCK. */
static inline int safetensors_open_file(const char *path, uint64_t *bytes, safetensors_error *error)
{
    const int   descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat status;
    if (descriptor < 0) {
        safetensors_fail(error, "%s: cannot be opened: %s", path, strerror(errno));
        return -1;
    }
    if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
        safetensors_fail(error, "%s: not a regular file", path);
        close(descriptor);
        return -1;
    }
    *bytes = (uint64_t)status.st_size;
    return descriptor;
}

/* Opens one .safetensors file and appends it to the model. */
static inline int safetensors_open_shard(safetensors_model *model, const char *path, safetensors_error *error)
{
    uint64_t  file_bytes, header_bytes;
    uint8_t   prefix[8] = {0}, *start;
    int       is_good;
    const int descriptor = safetensors_open_file(path, &file_bytes, error);
    if (descriptor < 0) return 0;
    if (!safetensors_read_bytes(descriptor, prefix, file_bytes < 8 ? file_bytes : 8, 0, path, error) ||
        !safetensors_header_bytes(prefix, file_bytes, path, &header_bytes, error)) {
        close(descriptor);
        return 0;
    }
    start = (uint8_t *)malloc((size_t)header_bytes + 8);
    if (!start || !safetensors_read_bytes(descriptor, start + 8, header_bytes, 8, path, error)) {
        if (!start) safetensors_fail(error, "%s: out of memory", path);
        free(start);
        close(descriptor);
        return 0;
    }
    memcpy(start, prefix, 8);
    is_good = safetensors_add_file(model, start, path, descriptor, file_bytes, error);
    free(start);
    return is_good;
}

/* folder/name in fresh memory, or NULL. folder may end in a slash. */
static inline char *safetensors_join(const char *folder, size_t folder_length, const char *name)
{
    char *path = (char *)malloc(folder_length + strlen(name) + 2);
    if (!path) return NULL;
    memcpy(path, folder, folder_length);
    if (folder_length && path[folder_length - 1] != '/') path[folder_length++] = '/';
    strcpy(path + folder_length, name);
    return path;
}

/* safetensors_find() : the tensor with this name, or NULL. */
static inline const safetensors_tensor *safetensors_find(const safetensors_model *model, const char *name)
{
    size_t first = 0, end = model->tensor_count;
    while (first < end) {
        const size_t middle = first + (end - first) / 2;
        const int    order = strcmp(model->by_name[middle]->name, name);
        if (order == 0) return model->by_name[middle];
        if (order < 0)
            first = middle + 1;
        else
            end = middle;
    }
    return NULL;
}

/* Opens every shard of a checked index once, then compares the index with what is there. */
static inline int safetensors_open_shards(safetensors_model *model, const json_t *index, const char *path,
                                          safetensors_error *error)
{
    const char  *slash = strrchr(path, '/'), *name;
    const size_t folder_length = slash ? (size_t)(slash - path) + 1 : 0;
    json_t      *map = json_object_get(index, "weight_map"), *numbers = json_object(), *shard;
    int          is_good = numbers != NULL;
    if (!is_good) safetensors_fail(error, "%s: out of memory", path);
    json_object_foreach(map, name, shard)
    {
        const char *shard_name = json_string_value(shard);
        char       *shard_path;
        if (!is_good || json_object_get(numbers, shard_name)) continue;
        shard_path = safetensors_join(path, folder_length, shard_name);
        if (!shard_path || json_object_set_new(numbers, shard_name, json_integer((json_int_t)model->file_count)) != 0)
            is_good = safetensors_fail(error, "%s: out of memory", path);
        else
            is_good = safetensors_open_shard(model, shard_path, error);
        free(shard_path);
    }
    is_good = is_good && safetensors_sort_names(model, error);
    json_object_foreach(map, name, shard)
    {
        const safetensors_tensor *tensor = is_good ? safetensors_find(model, name) : NULL;
        const char               *shard_name = json_string_value(shard);
        if (is_good && (!tensor || tensor->file != json_integer_value(json_object_get(numbers, shard_name))))
            is_good = safetensors_fail(error, "%s: tensor \"%.200s\" is not in %s", path, name, shard_name);
    }
    json_decref(numbers);
    return is_good;
}

static inline int safetensors_open_index(safetensors_model *model, const char *path, safetensors_error *error)
{
    uint64_t  bytes;
    char     *text = NULL;
    json_t   *index = NULL;
    int       is_good = 0;
    const int descriptor = safetensors_open_file(path, &bytes, error);
    if (descriptor < 0) return 0;
    if (bytes > SAFETENSORS_MAX_HEADER)
        safetensors_fail(error, "%s: longer than %d bytes, so no index", path, (int)SAFETENSORS_MAX_HEADER);
    else if ((text = (char *)malloc((size_t)bytes + 1)) == NULL)
        safetensors_fail(error, "%s: out of memory", path);
    else
        is_good = safetensors_read_bytes(descriptor, text, bytes, 0, path, error) &&
                  safetensors_parse_index(text, (size_t)bytes, path, &index, error);
    free(text);
    close(descriptor);
    is_good = is_good && safetensors_open_shards(model, index, path, error);
    json_decref(index);
    return is_good;
}

/* The index of a folder or else its only file. */
static inline int safetensors_open_folder(safetensors_model *model, const char *folder, safetensors_error *error)
{
    char       *index = safetensors_join(folder, strlen(folder), "model.safetensors.index.json");
    char       *single = safetensors_join(folder, strlen(folder), "model.safetensors");
    struct stat status;
    int         is_good;
    if (!index || !single)
        is_good = safetensors_fail(error, "%s: out of memory", folder);
    else if (stat(index, &status) == 0)
        is_good = safetensors_open_index(model, index, error);
    else if (stat(single, &status) == 0)
        is_good = safetensors_open_shard(model, single, error) && safetensors_sort_names(model, error);
    else
        is_good = safetensors_fail(error, "%s: has neither model.safetensors.index.json nor model.safetensors", folder);
    free(index);
    free(single);
    return is_good;
}

/* safetensors_open() : a file, a sharded set, or the folder of one.
 *
 *   path     in   a .safetensors file, an index (its name ends in .json), or a folder, in which either
 *                 model.safetensors.index.json or model.safetensors is looked for
 *   model    out  safetensors_close() it; after a failure it is empty
 *
 *   A set must have every shard, and every tensor of its index in the shard that the index says; a name may occur only
 *   once in all shards. Tensors that the index does not name are part of the model too. */
static inline int safetensors_open(safetensors_model *model, const char *path, safetensors_error *error)
{
    const size_t length = strlen(path);
    struct stat  status;
    int          is_good;
    memset(model, 0, sizeof *model);
    if (stat(path, &status) == 0 && S_ISDIR(status.st_mode))
        is_good = safetensors_open_folder(model, path, error);
    else if (length >= 5 && strcmp(path + length - 5, ".json") == 0)
        is_good = safetensors_open_index(model, path, error);
    else
        is_good = safetensors_open_shard(model, path, error) && safetensors_sort_names(model, error);
    if (!is_good) safetensors_close(model);
    return is_good;
}

/* safetensors_metadata() : the metadata of one file, an object of strings, or NULL. For json_object_foreach(). */
static inline json_t *safetensors_metadata(const safetensors_model *model, size_t file)
{
    return json_object_get(model->files[file].header, "__metadata__");
}

/* safetensors_read() : bytes of a tensor, copied; thread-safe, and spread over threads where the piece is large.
 *
 *   first    in   byte of the tensor to start with
 *   bytes    in   first + bytes <= tensor->bytes, or it fails
 *   memory   out  host memory, any alignment; unspecified after a failure */
static inline int safetensors_read(const safetensors_model *model, const safetensors_tensor *tensor, uint64_t first,
                                   uint64_t bytes, void *memory, safetensors_error *error)
{
    enum { PIECE = 1 << 23 };
    const safetensors_file *file = &model->files[tensor->file];
    long long               piece, pieces;
    int                     bad = 0;
    if (first > tensor->bytes || bytes > tensor->bytes - first)
        return safetensors_fail(error, "%s: tensor \"%.200s\" has %llu bytes, but byte %llu is asked for", file->path,
                                tensor->name, (unsigned long long)tensor->bytes,
                                (unsigned long long)(first + bytes - 1));
    if (file->descriptor < 0) {
        if (bytes) memcpy(memory, file->memory + tensor->offset + first, (size_t)bytes);
        return 1;
    }
    pieces = (long long)(bytes / PIECE + (bytes % PIECE != 0));
#ifdef _OPENMP
#pragma omp parallel for schedule(static) reduction(| : bad) if (pieces > 1)
#endif
    for (piece = 0; piece < pieces; piece++) {
        const uint64_t    at = (uint64_t)piece * PIECE, size = bytes - at < PIECE ? bytes - at : PIECE;
        safetensors_error why;
        if (safetensors_read_bytes(file->descriptor, (char *)memory + at, size, tensor->offset + first + at, file->path,
                                   &why))
            continue;
        bad = 1;
#ifdef _OPENMP
#pragma omp critical(safetensors_read_error)
#endif
        *error = why;
    }
    return !bad;
}

/* ---- Write ----------------------------------------------------------------------------------- */

/* The temporary files of this translation unit; a signal handler reads them, so they are static and never move. */
static struct safetensors_temporary {
    volatile sig_atomic_t is_used;
    char                  path[SAFETENSORS_MAX_PATH];
} safetensors_temporaries[SAFETENSORS_MAX_WRITERS];

/* safetensors_writer : a file under way. Its bytes go to "<path>.<process>.<n>.part" beside the final file. */
typedef struct safetensors_writer {
    char                         *path;
    json_t                       *header;      /* what was declared so far                                 */
    uint64_t                      header_used; /* bytes of JSON that it takes at most                      */
    uint64_t                      header_room; /* bytes of JSON that there is place for                    */
    uint64_t                      data_bytes;  /* of all declared tensors                                  */
    uint64_t                      position;    /* bytes of data written so far                             */
    int                           descriptor;  /* -1: not open                                             */
    struct safetensors_temporary *temporary;
} safetensors_writer;

/* safetensors_entry_bytes(), safetensors_metadata_bytes() : what a tensor (of any shape) or a pair of metadata can take
 * in the header at most. */
static inline uint64_t safetensors_entry_bytes(const char *name)
{
    return 6 * (uint64_t)strlen(name) + 288; /* 6: \u0001. Eight dimensions and two offsets of 20 digits, and words */
}
static inline uint64_t safetensors_metadata_bytes(const char *key, const char *value)
{
    return 6 * ((uint64_t)strlen(key) + strlen(value)) + 8;
}

/* safetensors_abandon() : closes and removes the temporary file. */
static inline void safetensors_abandon(safetensors_writer *writer)
{
    if (writer->descriptor >= 0) close(writer->descriptor);
    if (writer->temporary) {
        unlink(writer->temporary->path);
        writer->temporary->is_used = 0;
    }
    json_decref(writer->header);
    free(writer->path);
    memset(writer, 0, sizeof *writer);
    writer->descriptor = -1;
}

/* A failure of a writer: message, then abandon. `problem` may have been made by strerror(). */
static inline int safetensors_writer_fail(safetensors_writer *writer, safetensors_error *error, const char *what,
                                          const char *problem)
{
    safetensors_fail(error, "%s: %.300s: %s", writer->path ? writer->path : "(no open file)", what, problem);
    safetensors_abandon(writer);
    return 0;
}

/* Registers the name before the file exists, so that no signal can come between. */
static inline int safetensors_open_temporary(safetensors_writer *writer)
{
    struct safetensors_temporary *slot = safetensors_temporaries;
    int                           number;
    while (slot < safetensors_temporaries + SAFETENSORS_MAX_WRITERS && slot->is_used) slot++;
    if (slot == safetensors_temporaries + SAFETENSORS_MAX_WRITERS) {
        errno = EMFILE;
        return 0;
    }
    for (number = 0; number < 100; number++) {
        const int length =
            snprintf(slot->path, sizeof slot->path, "%s.%ld.%d.part", writer->path, (long)getpid(), number);
        if (length < 0 || (size_t)length >= sizeof slot->path) {
            errno = ENAMETOOLONG;
            return 0;
        }
        slot->is_used = 1;
        writer->descriptor = open(slot->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (writer->descriptor >= 0) {
            writer->temporary = slot;
            return 1;
        }
        slot->is_used = 0;
        if (errno != EEXIST) return 0;
    }
    return 0;
}

/* safetensors_create() : starts a file.
 *
 *   header_bytes   in   sum of the two functions above over everything to come. Data starts behind this room, at a
 *                       multiple of SAFETENSORS_ALIGNMENT, so sizes need not be known before their tensor's turn; what
 *                       is left of it becomes spaces, as the format allows.
 *   writer         out  safetensors_commit() or safetensors_abandon() it; after a failure there is nothing to abandon
 *
 * `path` must be free or a regular file, which is replaced at the commit; writers belong to one thread.
 *
 * Any of the functions below that fails has abandoned the file: the temporary file is gone, the old file under the
 * final name is as it was, and further calls fail or, for safetensors_abandon(), do nothing. */
static inline int safetensors_create(safetensors_writer *writer, const char *path, uint64_t header_bytes,
                                     safetensors_error *error)
{
    struct stat status;
    memset(writer, 0, sizeof *writer);
    writer->descriptor = -1;
    writer->path = (char *)malloc(strlen(path) + 1);
    writer->header = json_pack("{s:{}}", "__metadata__"); /* comes first in the file, goes if it stays empty */
    if (writer->path) strcpy(writer->path, path);
    if (!writer->path || !writer->header) return safetensors_writer_fail(writer, error, "create", "out of memory");
    if (header_bytes > SAFETENSORS_MAX_HEADER - 256)
        return safetensors_writer_fail(writer, error, "create", "the header would be larger than readers accept");
    if (stat(path, &status) == 0 && !S_ISREG(status.st_mode))
        return safetensors_writer_fail(writer, error, "create", "exists and is no regular file");
    writer->header_used = 24; /* {"__metadata__":{}} */
    writer->header_room = (8 + writer->header_used + header_bytes + SAFETENSORS_ALIGNMENT - 1) / SAFETENSORS_ALIGNMENT *
                              SAFETENSORS_ALIGNMENT -
                          8;
    if (!safetensors_open_temporary(writer))
        return safetensors_writer_fail(writer, error, "a file beside it cannot be created", strerror(errno));
    return 1;
}

/* Takes room in the header for what safetensors_create() was told of. */
static inline int safetensors_take_room(safetensors_writer *writer, uint64_t bytes)
{
    if (bytes > writer->header_room - writer->header_used) return 0;
    writer->header_used += bytes;
    return 1;
}

/* safetensors_add_metadata() : a pair of strings, at any time before the commit; an equal key is an error. */
static inline int safetensors_add_metadata(safetensors_writer *writer, const char *key, const char *value,
                                           safetensors_error *error)
{
    json_t *metadata = json_object_get(writer->header, "__metadata__");
    if (writer->descriptor < 0) return safetensors_writer_fail(writer, error, key, "the file is not open");
    if (json_object_get(metadata, key)) return safetensors_writer_fail(writer, error, key, "metadata added twice");
    if (!safetensors_take_room(writer, safetensors_metadata_bytes(key, value)))
        return safetensors_writer_fail(writer, error, key, "no room in the header");
    if (json_object_set_new(metadata, key, json_string(value)) != 0)
        return safetensors_writer_fail(writer, error, key, "metadata is not UTF-8, or out of memory");
    return 1;
}

/* safetensors_begin() : declares the next tensor. The one before must be complete.
 *
 * The data of tensors lies in the order of these calls, without a gap. Readers that map the file want every tensor
 * aligned to its elements: begin those of wide elements first, TCA-BME data before all (tca_bme_file.h). */
static inline int safetensors_begin(safetensors_writer *writer, const char *name, safetensors_dtype dtype,
                                    uint32_t rank, const uint64_t *shape, safetensors_error *error)
{
    const char *problem;
    uint64_t    bytes = 0;
    uint32_t    i;
    json_t     *dims, *entry;
    if (writer->descriptor < 0) return safetensors_writer_fail(writer, error, name, "the file is not open");
    if (writer->position != writer->data_bytes)
        return safetensors_writer_fail(writer, error, name, "the tensor before it is not complete");
    problem = safetensors_tensor_bytes(dtype, rank, shape, &bytes);
    if (problem) return safetensors_writer_fail(writer, error, name, problem);
    for (i = 0; i < rank; i++)
        if (shape[i] > INT64_MAX) return safetensors_writer_fail(writer, error, name, "its shape exceeds 63 bits");
    if (bytes > (uint64_t)INT64_MAX - SAFETENSORS_MAX_HEADER - writer->data_bytes)
        return safetensors_writer_fail(writer, error, name, "the file would be larger than 2^63 bytes");
    if (strlen(name) > SAFETENSORS_MAX_NAME)
        return safetensors_writer_fail(writer, error, name, "its name is longer than 1024 bytes");
    if (json_object_get(writer->header, name))
        return safetensors_writer_fail(writer, error, name, "a tensor of this name exists");
    if (json_object_size(writer->header) > SAFETENSORS_MAX_TENSORS ||
        !safetensors_take_room(writer, safetensors_entry_bytes(name)))
        return safetensors_writer_fail(writer, error, name, "no room in the header");
    dims = json_array();
    for (i = 0; i < rank; i++) json_array_append_new(dims, json_integer((json_int_t)shape[i]));
    entry = json_pack("{s:s,s:o,s:[I,I]}", "dtype", safetensors_dtype_name(dtype), "shape", dims, "data_offsets",
                      (json_int_t)writer->data_bytes, (json_int_t)(writer->data_bytes + bytes));
    if (!entry || json_array_size(dims) != rank || json_object_set(writer->header, name, entry) != 0) {
        json_decref(entry);
        return safetensors_writer_fail(writer, error, name, "its name is not UTF-8, or out of memory");
    }
    json_decref(entry);
    writer->data_bytes += bytes;
    return 1;
}

/* pwrite() of all the bytes. Returns 0 with errno set after a failure. */
static inline int safetensors_write_bytes(int descriptor, const void *memory, uint64_t bytes, uint64_t offset)
{
    while (bytes) {
        const size_t  piece = bytes < ((size_t)1 << 24) ? (size_t)bytes : (size_t)1 << 24;
        const ssize_t done = pwrite(descriptor, memory, piece, (off_t)offset);
        if (done < 0 && errno == EINTR) continue;
        if (done == 0) errno = ENOSPC;
        if (done <= 0) return 0;
        memory = (const char *)memory + done;
        bytes -= (uint64_t)done;
        offset += (uint64_t)done;
    }
    return 1;
}

/* safetensors_append() : the next bytes of the tensor under way; more than its shape says is an error. */
static inline int safetensors_append(safetensors_writer *writer, const void *memory, uint64_t bytes,
                                     safetensors_error *error)
{
    char place[64];
    snprintf(place, sizeof place, "byte %llu of its data", (unsigned long long)writer->position);
    if (writer->descriptor < 0) return safetensors_writer_fail(writer, error, place, "the file is not open");
    if (bytes > writer->data_bytes - writer->position)
        return safetensors_writer_fail(writer, error, place, "more bytes than the shape of the tensor says");
    if (!safetensors_write_bytes(writer->descriptor, memory, bytes, 8 + writer->header_room + writer->position))
        return safetensors_writer_fail(writer, error, place, strerror(errno));
    writer->position += bytes;
    return 1;
}

/* Length of the header and the header, with spaces to its end, in front of the data. */
static inline int safetensors_write_header(safetensors_writer *writer)
{
    const size_t room = (size_t)writer->header_room;
    uint8_t     *start = (uint8_t *)malloc(8 + room);
    int          i, is_good;
    if (!start) {
        errno = ENOMEM;
        return 0;
    }
    if (json_object_size(json_object_get(writer->header, "__metadata__")) == 0)
        json_object_del(writer->header, "__metadata__");
    for (i = 0; i < 8; i++) start[i] = (uint8_t)(room >> 8 * i);
    memset(start + 8, ' ', room);
    errno = ENOMEM;
    is_good = json_dumpb(writer->header, (char *)start + 8, room, JSON_COMPACT) <= room &&
              safetensors_write_bytes(writer->descriptor, start, 8 + room, 0);
    free(start);
    return is_good;
}

/* Makes the rename last. Some file systems cannot flush a folder (EINVAL), and then there is nothing to do. */
static inline int safetensors_flush_folder(const char *path)
{
    const char *slash = strrchr(path, '/');
    char       *folder = safetensors_join(path, slash ? (size_t)(slash - path) + 1 : 0, slash ? "" : ".");
    const int   descriptor = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    const int   is_good = descriptor >= 0 && (fsync(descriptor) == 0 || errno == EINVAL);
    const int   why = errno;
    if (descriptor >= 0) close(descriptor);
    free(folder);
    errno = why;
    return is_good;
}

/* safetensors_commit() : header, fsync, rename to the final name, fsync of the folder. All tensors must be complete. */
static inline int safetensors_commit(safetensors_writer *writer, safetensors_error *error)
{
    int descriptor = writer->descriptor;
    if (descriptor < 0) return safetensors_writer_fail(writer, error, "commit", "the file is not open");
    if (writer->position != writer->data_bytes)
        return safetensors_writer_fail(writer, error, "commit", "the last tensor is not complete");
    if (!safetensors_write_header(writer)) return safetensors_writer_fail(writer, error, "its header", strerror(errno));
    if (fsync(descriptor) != 0) return safetensors_writer_fail(writer, error, "fsync", strerror(errno));
    writer->descriptor = -1;
    if (close(descriptor) != 0) return safetensors_writer_fail(writer, error, "close", strerror(errno));
    if (rename(writer->temporary->path, writer->path) != 0)
        return safetensors_writer_fail(writer, error, "rename", strerror(errno));
    writer->temporary->is_used = 0;
    writer->temporary = NULL;
    if (!safetensors_flush_folder(writer->path))
        return safetensors_writer_fail(writer, error, "written, but its folder cannot be flushed", strerror(errno));
    safetensors_abandon(writer);
    return 1;
}

/* safetensors_remove_temporaries() : removes the temporary files of all open writers of this translation unit. For a
 * signal handler, and safe in one: it calls unlink() only. The process must end after it. */
static inline void safetensors_remove_temporaries(void)
{
    int i;
    for (i = 0; i < SAFETENSORS_MAX_WRITERS; i++)
        if (safetensors_temporaries[i].is_used) unlink(safetensors_temporaries[i].path);
}

#endif /* SPINFER_EXAMPLES_SAFETENSORS_H */
