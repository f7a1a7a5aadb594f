/* safetensors.h - reads and writes safetensors files and sharded sets. C99 and POSIX; JSON by jansson (link -ljansson).
 *
 *     offset 0      8 bytes     N, little-endian
 *     offset 8      N bytes     {"name":{"dtype":"F16","shape":[64,32],"data_offsets":[0,4096]}, ...}, spaces at its end
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

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

enum {
    SAFETENSORS_MAX_HEADER = 100000000, /* bytes of JSON, as in the reference reader; of an index too */
    SAFETENSORS_MAX_TENSORS = 1000000,  /* in one file                                                */
    SAFETENSORS_MAX_RANK = 8,
    SAFETENSORS_MAX_NAME = 1024, /* bytes of a tensor name                                                     */
    SAFETENSORS_ALIGNMENT = 128, /* a written data section starts at a multiple of this many bytes of the file */
    SAFETENSORS_MAX_WRITERS = 16 /* open at the same time                                                      */
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
    char    *path;
    int      descriptor; /* open for reading, or -1 for memory */
    uint64_t bytes;      /* when it was opened                 */
    json_t  *header;     /* owns the names of its tensors      */
} safetensors_file;

/* safetensors_model : one file or all shards of a set. Owned by the functions below; read what you like. */
typedef struct safetensors_model {
    safetensors_file    *files;
    size_t               file_count;
    safetensors_tensor  *tensors; /* file by file, in each by rising offset */
    size_t               tensor_count;
    safetensors_tensor **by_name; /* [tensor_count], sorted with strcmp()    */
} safetensors_model;

/* ---- Types ----------------------------------------------------------------------------------- */

/* safetensors_dtype_name() : "F16" and so on, as it stands in files. */
static inline const char *safetensors_dtype_name(safetensors_dtype dtype);

/* safetensors_dtype_bits() : bits of one element; 4 and 6 for the packed types. */
static inline uint32_t safetensors_dtype_bits(safetensors_dtype dtype);

/* ---- Read ------------------------------------------------------------------------------------ */

/* safetensors_parse() : one whole file that lies in memory. The core of the reader, without a file.
 *
 *   start       in   the file. Only its header is read: 8 + N bytes, once 8 + N <= file_bytes is known.
 *   file_bytes  in   length of the file
 *   path        in   for messages
 *   model       out  one file with descriptor -1; safetensors_close() it, after a failure it is empty
 *
 *   Refuses   whatever breaks a rule of the format: a length beyond the file or SAFETENSORS_MAX_HEADER, JSON or UTF-8
 *             that is none, duplicate keys, numbers that are not integers from 0 on, unknown dtypes, entries that are
 *             missing or unknown, shapes whose size overflows or is no whole number of bytes or differs from the
 *             offsets, data with holes, overlaps or trailing bytes, metadata other than strings. Also, beyond the
 *             format: nesting deeper than a header needs, names with a zero byte, and the limits above. */
static inline int safetensors_parse(const void *start, uint64_t file_bytes, const char *path, safetensors_model *model,
                                    safetensors_error *error);

/* safetensors_parse_index() : the text of a model.safetensors.index.json.
 *
 *   text, bytes  in   the file in memory
 *   path         in   for messages
 *   index        out  its JSON, checked: json_object_get(index, "weight_map") maps tensor names to shard names, of which
 *                     none is empty, "." or "..", contains a slash, a backslash or "..". json_decref() it. */
static inline int safetensors_parse_index(const void *text, size_t bytes, const char *path, json_t **index,
                                          safetensors_error *error);

/* safetensors_open() : a file, a sharded set, or the folder of one.
 *
 *   path     in   a .safetensors file, an index (its name ends in .json), or a folder, in which either
 *                 model.safetensors.index.json or model.safetensors is looked for
 *   model    out  safetensors_close() it; after a failure it is empty
 *
 *   A set must have every shard, and every tensor of its index in the shard that the index says; a name may occur only
 *   once in all shards. Tensors that the index does not name are part of the model too. */
static inline int safetensors_open(safetensors_model *model, const char *path, safetensors_error *error);

static inline void safetensors_close(safetensors_model *model);

/* safetensors_find() : the tensor with this name, or NULL. */
static inline const safetensors_tensor *safetensors_find(const safetensors_model *model, const char *name);

/* safetensors_metadata() : the metadata of one file, an object of strings, or NULL. For json_object_foreach(). */
static inline json_t *safetensors_metadata(const safetensors_model *model, size_t file);

/* safetensors_read() : bytes of a tensor, copied; thread-safe, and spread over threads where the piece is large.
 *
 *   first    in   byte of the tensor to start with
 *   bytes    in   first + bytes <= tensor->bytes, or it fails
 *   memory   out  host memory, any alignment; unspecified after a failure */
static inline int safetensors_read(const safetensors_model *model, const safetensors_tensor *tensor, uint64_t first,
                                   uint64_t bytes, void *memory, safetensors_error *error);

/* ---- Write ----------------------------------------------------------------------------------- */

/* safetensors_writer : a file under way. Its bytes go to "<path>.<process>.<n>.part" beside the final file. */
typedef struct safetensors_writer {
    char    *path, *temporary;
    json_t  *header;      /* what was declared so far                                 */
    uint64_t header_used; /* bytes of JSON that it takes                              */
    uint64_t header_room; /* bytes of JSON that there is place for                    */
    uint64_t data_bytes;  /* of all declared tensors                                  */
    uint64_t position;    /* bytes of data written so far                             */
    int      descriptor;  /* -1: not open                                             */
    int      slot;        /* in the list that safetensors_remove_temporaries() reads  */
} safetensors_writer;

/* safetensors_entry_bytes(), safetensors_metadata_bytes() : what a tensor (of any shape) or a pair of metadata can take
 * in the header at most. */
static inline uint64_t safetensors_entry_bytes(const char *name);
static inline uint64_t safetensors_metadata_bytes(const char *key, const char *value);

/* safetensors_create() : starts a file.
 *
 *   header_bytes   in   sum of the two functions above over everything to come. Data starts behind this room, at a
 *                       multiple of SAFETENSORS_ALIGNMENT, so sizes need not be known before their tensor's turn; what
 *                       is left of it becomes spaces, as the format allows.
 *   writer         out  safetensors_commit() or safetensors_abandon() it; after a failure there is nothing to abandon
 *
 * Any of the functions below that fails has abandoned the file: the temporary file is gone, the old file under the
 * final name is as it was, and further calls fail or, for safetensors_abandon(), do nothing. */
static inline int safetensors_create(safetensors_writer *writer, const char *path, uint64_t header_bytes,
                                     safetensors_error *error);

/* safetensors_add_metadata() : a pair of strings, at any time before the commit; an equal key is an error. */
static inline int safetensors_add_metadata(safetensors_writer *writer, const char *key, const char *value,
                                           safetensors_error *error);

/* safetensors_begin() : declares the next tensor. The one before must be complete.
 *
 * The data of tensors lies in the order of these calls, without a gap. Readers that map the file want every tensor
 * aligned to its elements: begin those of wide elements first, TCA-BME data before all (tca_bme_file.h). */
static inline int safetensors_begin(safetensors_writer *writer, const char *name, safetensors_dtype dtype,
                                    uint32_t rank, const uint64_t *shape, safetensors_error *error);

/* safetensors_append() : the next bytes of the tensor under way; more than its shape says is an error. */
static inline int safetensors_append(safetensors_writer *writer, const void *memory, uint64_t bytes,
                                     safetensors_error *error);

/* safetensors_commit() : header, fsync, rename to the final name, fsync of the folder. All tensors must be complete. */
static inline int safetensors_commit(safetensors_writer *writer, safetensors_error *error);

/* safetensors_abandon() : closes and removes the temporary file. */
static inline void safetensors_abandon(safetensors_writer *writer);

/* safetensors_remove_temporaries() : removes the temporary files of all open writers of this translation unit. For a
 * signal handler, and safe in one: it calls unlink() only. The process must end after it. */
static inline void safetensors_remove_temporaries(void);

#endif /* SPINFER_EXAMPLES_SAFETENSORS_H */
