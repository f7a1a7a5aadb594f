/* tca_bme_file.h - encoded weights inside safetensors files. C99 and POSIX, as safetensors.h.
 *
 * A weight "layers.0.weight" becomes three tensors, all little-endian:
 *
 *     layers.0.weight.tca_bme_data      U8  [data_bytes]   the records, FIG 3 of spinfer_encode.h; a multiple of 128
 *     layers.0.weight.tca_bme_offsets   U32 [groups + 1]   where each record begins, in units of 16 bytes
 *     layers.0.weight.tca_bme_header    U32 [5]            SPINFER_FORMAT_VERSION, dtype (1 fp16, 2 bf16), rows, cols,
 *                                                          bytes of the largest record
 *
 * The numbers are a tensor because tools that copy tensors from file to file drop the metadata of the file. The
 * metadata says "tca_bme_format": "1" for people; readers do not ask it.
 *
 * Alignment: safetensors allows no holes, so order makes it. A data section starts at a multiple of 128 bytes and every
 * tca_bme_data is a multiple of 128 bytes long; written before all other tensors, each starts at a multiple of 128
 * bytes of the file and can be mapped, or read into a GPU, as it is. Then follow tensors of 8-byte elements, of 4 bytes
 * (offsets and headers among them), of 2 and of 1. Readers must not rely on it, and this one does not.
 *
 * Functions that return int return 1, or 0 with an English sentence in error->text, unless they say otherwise. */
#ifndef SPINFER_EXAMPLES_TCA_BME_FILE_H
#define SPINFER_EXAMPLES_TCA_BME_FILE_H

#include "safetensors.h"
#include "spinfer_encode.h"

#define TCA_BME_METADATA_KEY "tca_bme_format"
#define TCA_BME_METADATA_VALUE "1"

/* tca_bme_group : where the three tensors of an encoded weight are. */
typedef struct tca_bme_group {
    const safetensors_tensor *data, *offsets, *header;
} tca_bme_group;

enum { TCA_BME_HEADER_NUMBERS = 5, TCA_BME_NAME_ROOM = SAFETENSORS_MAX_NAME + 32 };

/* tca_bme_base_length() : bytes of `name` before ".tca_bme_data", ".tca_bme_offsets" or ".tca_bme_header", or 0 if it
 * ends in none of them. */
static inline size_t tca_bme_base_length(const char *name)
{
    static const char *const suffixes[3] = {".tca_bme_data", ".tca_bme_offsets", ".tca_bme_header"};
    const size_t             length = strlen(name);
    int                      i;
    for (i = 0; i < 3; i++) {
        const size_t suffix = strlen(suffixes[i]);
        if (length > suffix && strcmp(name + length - suffix, suffixes[i]) == 0) return length - suffix;
    }
    return 0;
}

/* The tensor <name><suffix>, or NULL. */
static inline const safetensors_tensor *tca_bme_part(const safetensors_model *model, const char *name,
                                                     const char *suffix)
{
    char      whole[TCA_BME_NAME_ROOM];
    const int length = snprintf(whole, sizeof whole, "%s%s", name, suffix);
    return length > 0 && (size_t)length < sizeof whole ? safetensors_find(model, whole) : NULL;
}

/* tca_bme_find() : looks for the weight `name` (without suffix).
 *
 *   Returns   1  found, and dtypes and shapes of the tensors are those above; fills group
 *             0  no tensor of this weight is there (error->text is empty)
 *            -1  one of the three is missing or is not as above; error->text says which */
static inline int tca_bme_find(const safetensors_model *model, const char *name, tca_bme_group *group,
                               safetensors_error *error)
{
    const char *problem = NULL;
    error->text[0] = 0;
    group->data = tca_bme_part(model, name, ".tca_bme_data");
    group->offsets = tca_bme_part(model, name, ".tca_bme_offsets");
    group->header = tca_bme_part(model, name, ".tca_bme_header");
    if (!group->data && !group->offsets && !group->header) return 0;
    if (!group->data || group->data->dtype != SAFETENSORS_U8 || group->data->rank != 1)
        problem = ".tca_bme_data is missing or not U8 with one dimension";
    else if (!group->offsets || group->offsets->dtype != SAFETENSORS_U32 || group->offsets->rank != 1)
        problem = ".tca_bme_offsets is missing or not U32 with one dimension";
    else if (!group->header || group->header->dtype != SAFETENSORS_U32 || group->header->rank != 1 ||
             group->header->shape[0] != TCA_BME_HEADER_NUMBERS)
        problem = ".tca_bme_header is missing or not U32 [5]";
    if (!problem) return 1;
    safetensors_fail(error, "%s: weight \"%.200s\": %s", model->files[0].path, name, problem);
    return -1;
}

/* A failure in a group: names the file and the weight. */
static inline int tca_bme_fail(const safetensors_model *model, const tca_bme_group *group, const char *problem,
                               safetensors_error *error)
{
    return safetensors_fail(error, "%s: weight \"%.*s\": %s", model->files[group->data->file].path,
                            (int)tca_bme_base_length(group->data->name), group->data->name, problem);
}

/* tca_bme_read_header() : the numbers of a group, without its arrays (W->offsets and W->data become NULL), checked
 * against the sizes of the tensors: version, dtype, shape, number of offsets. */
static inline int tca_bme_read_header(const safetensors_model *model, const tca_bme_group *group, spinfer_matrix *W,
                                      safetensors_error *error)
{
    uint32_t numbers[TCA_BME_HEADER_NUMBERS];
    if (!safetensors_read(model, group->header, 0, sizeof numbers, numbers, error)) return 0;
    memset(W, 0, sizeof *W);
    W->format = numbers[0];
    W->dtype = numbers[1];
    W->rows = numbers[2];
    W->cols = numbers[3];
    W->max_record = numbers[4];
    W->data_bytes = group->data->bytes;
    if (W->format != SPINFER_FORMAT_VERSION)
        return tca_bme_fail(model, group, spinfer_status_string(SPINFER_ERR_VERSION), error);
    if (W->dtype != SPINFER_FP16 && W->dtype != SPINFER_BF16)
        return tca_bme_fail(model, group, spinfer_status_string(SPINFER_ERR_DTYPE), error);
    if (!spinfer_offsets_bytes(W->rows, W->cols))
        return tca_bme_fail(model, group, "its rows or columns are not 1 to 2147483584", error);
    if (spinfer_offsets_bytes(W->rows, W->cols) != group->offsets->bytes)
        return tca_bme_fail(model, group, "the number of offsets does not fit its rows and columns", error);
    W->group_ld = spinfer_col_groups(W->cols);
    return 1;
}

/* tca_bme_load() : reads a group into fresh memory (data 128-byte aligned) and passes it to spinfer_validate(): after
 * success it can be decoded, multiplied, or copied to a GPU. tca_bme_free() it; after a failure there is nothing to. */
static inline int tca_bme_load(const safetensors_model *model, const tca_bme_group *group, spinfer_matrix *W,
                               safetensors_error *error)
{
    uint32_t      *offsets;
    void          *data = NULL;
    spinfer_status status;
    int            is_good = 0;
    if (!tca_bme_read_header(model, group, W, error)) return 0;
    offsets = (uint32_t *)malloc((size_t)group->offsets->bytes);
    if (!offsets || posix_memalign(&data, SAFETENSORS_ALIGNMENT, (size_t)W->data_bytes + SAFETENSORS_ALIGNMENT) != 0) {
        tca_bme_fail(model, group, "out of memory", error);
    } else if (safetensors_read(model, group->offsets, 0, group->offsets->bytes, offsets, error) &&
               safetensors_read(model, group->data, 0, W->data_bytes, data, error)) {
        W->offsets = offsets;
        W->data = data;
        status = spinfer_validate(W, group->offsets->bytes, W->data_bytes);
        is_good = status == SPINFER_OK || tca_bme_fail(model, group, spinfer_status_string(status), error);
    }
    if (is_good) return 1;
    free(offsets);
    free(data);
    memset(W, 0, sizeof *W);
    return 0;
}

static inline void tca_bme_free(spinfer_matrix *W)
{
    free((void *)(uintptr_t)W->offsets);
    free((void *)(uintptr_t)W->data);
    memset(W, 0, sizeof *W);
}

/* tca_bme_entry_bytes() : room that the three tensors need in the header of a file, for safetensors_create(). */
static inline uint64_t tca_bme_entry_bytes(const char *name)
{
    return 3 * (safetensors_entry_bytes(name) + safetensors_entry_bytes(".tca_bme_offsets"));
}

/* Declares <name><suffix>, a vector, and appends it. */
static inline int tca_bme_write_part(safetensors_writer *writer, const char *name, const char *suffix,
                                     safetensors_dtype dtype, uint64_t count, const void *memory,
                                     safetensors_error *error)
{
    char      whole[TCA_BME_NAME_ROOM];
    const int length = snprintf(whole, sizeof whole, "%s%s", name, suffix);
    if (length < 0 || (size_t)length >= sizeof whole)
        return safetensors_writer_fail(writer, error, name, "its name is too long");
    return safetensors_begin(writer, whole, dtype, 1, &count, error) &&
           safetensors_append(writer, memory, count * safetensors_dtype_bits(dtype) / 8, error);
}

/* Not a slice: the records of all its offsets fill the data. */
static inline int tca_bme_is_whole(const spinfer_matrix *W)
{
    const uint64_t count = spinfer_offsets_bytes(W->rows, W->cols) / 4;
    return spinfer_detail_check_matrix(W) == SPINFER_OK && W->group_ld == spinfer_col_groups(W->cols) &&
           W->offsets[0] == 0 && (16 * (uint64_t)W->offsets[count - 1] + 127) / 128 * 128 == W->data_bytes;
}

/* tca_bme_write_data() : appends <name>.tca_bme_data. All of these come before any other tensor (see above).
 *   W   in   whole matrix in host memory; a slice is refused (spinfer_concat_rows() makes a matrix of one) */
static inline int tca_bme_write_data(safetensors_writer *writer, const char *name, const spinfer_matrix *W,
                                     safetensors_error *error)
{
    if (!tca_bme_is_whole(W)) return safetensors_writer_fail(writer, error, name, "not a whole encoded matrix");
    return tca_bme_write_part(writer, name, ".tca_bme_data", SAFETENSORS_U8, W->data_bytes, W->data, error);
}

/* tca_bme_write_offsets() : appends <name>.tca_bme_offsets and <name>.tca_bme_header; W->data is not read, so it may be
 * gone by then. */
static inline int tca_bme_write_offsets(safetensors_writer *writer, const char *name, const spinfer_matrix *W,
                                        safetensors_error *error)
{
    const uint32_t numbers[TCA_BME_HEADER_NUMBERS] = {W->format, W->dtype, W->rows, W->cols, W->max_record};
    return tca_bme_write_part(writer, name, ".tca_bme_offsets", SAFETENSORS_U32,
                              spinfer_offsets_bytes(W->rows, W->cols) / 4, W->offsets, error) &&
           tca_bme_write_part(writer, name, ".tca_bme_header", SAFETENSORS_U32, TCA_BME_HEADER_NUMBERS, numbers, error);
}

enum { TCA_BME_PIECE = 16384 };

/* One piece of the function below, at most TCA_BME_PIECE elements. */
static inline int tca_bme_read_piece(const safetensors_model *model, const safetensors_tensor *tensor, uint64_t first,
                                     size_t count, spinfer_dtype dtype, uint16_t *dense, safetensors_error *error)
{
    const uint64_t      width = safetensors_dtype_bits(tensor->dtype) / 8;
    const spinfer_dtype from = tensor->dtype == SAFETENSORS_BF16 ? SPINFER_BF16 : SPINFER_FP16;
    float               wide[TCA_BME_PIECE];
    size_t              i;
    if (!safetensors_read(model, tensor, width * first, width * count, width == 4 ? (void *)wide : (void *)dense,
                          error))
        return 0;
    if (width == 4)
        for (i = 0; i < count; i++) dense[i] = spinfer_from_float(wide[i], dtype);
    else if (from != dtype)
        for (i = 0; i < count; i++) dense[i] = spinfer_from_float(spinfer_to_float(dense[i], from), dtype);
    return 1;
}

/* tca_bme_read_dense() : elements of an F16, BF16 or F32 tensor as bits of a 16-bit dtype, rounded to even where the
 * types differ, untouched where they do not.
 *
 *   first, count   in   elements, in C order; first + count <= elements of the tensor, or it fails
 *   dense          out  [count] */
static inline int tca_bme_read_dense(const safetensors_model *model, const safetensors_tensor *tensor, uint64_t first,
                                     uint64_t count, spinfer_dtype dtype, uint16_t *dense, safetensors_error *error)
{
    const uint64_t  width = safetensors_dtype_bits(tensor->dtype) / 8;
    const long long pieces = (long long)((count + TCA_BME_PIECE - 1) / TCA_BME_PIECE);
    long long       piece;
    int             bad = 0;
    if (tensor->dtype != SAFETENSORS_F16 && tensor->dtype != SAFETENSORS_BF16 && tensor->dtype != SAFETENSORS_F32)
        return safetensors_fail(error, "%s: tensor \"%.200s\" is %s; F16, BF16 and F32 can be converted",
                                model->files[tensor->file].path, tensor->name, safetensors_dtype_name(tensor->dtype));
    if (first > tensor->bytes / width || count > tensor->bytes / width - first)
        return safetensors_fail(error, "%s: tensor \"%.200s\" has fewer elements than asked for",
                                model->files[tensor->file].path, tensor->name);
#ifdef _OPENMP
#pragma omp parallel for schedule(static) reduction(| : bad) if (pieces > 1)
#endif
    for (piece = 0; piece < pieces; piece++) {
        const uint64_t    at = (uint64_t)piece * TCA_BME_PIECE, left = count - at;
        safetensors_error why;
        if (tca_bme_read_piece(model, tensor, first + at, left < TCA_BME_PIECE ? (size_t)left : TCA_BME_PIECE, dtype,
                               dense + at, &why))
            continue;
        bad = 1;
#ifdef _OPENMP
#pragma omp critical(tca_bme_read_error)
#endif
        *error = why;
    }
    return !bad;
}

#endif /* SPINFER_EXAMPLES_TCA_BME_FILE_H */
