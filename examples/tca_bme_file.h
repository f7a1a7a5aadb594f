/* tca_bme_file.h - encoded weights inside safetensors files. C99 and POSIX.
 *
 * A weight "layers.0.weight" becomes three tensors, all little-endian:
 *
 *     layers.0.weight.tca_bme_data      U8  [data_bytes]   the records, FIG 3 of spinfer_encode.h; a multiple of 128
 *     layers.0.weight.tca_bme_offsets   U32 [groups + 1]   where each record begins, in units of 16 bytes
 *     layers.0.weight.tca_bme_header    U32 [5]            SPINFER_FORMAT_VERSION, dtype (1 fp16, 2 bf16), rows, cols,
 *                                                          bytes of the largest record
 *
 * The numbers are a tensor because tools that copy tensors from file to file drop the metadata of the file. The metadata
 * says "tca_bme_format": "1" for people; readers do not ask it.
 *
 * Alignment: the format allows no holes, so order makes it. A data section starts at a multiple of 128 bytes and every
 * tca_bme_data is a multiple of 128 bytes long; written before all other tensors, each starts at a multiple of 128 bytes
 * of the file and can be mapped, or read into a GPU, as it is. Then follow tensors of 8-byte elements, of 4 bytes
 * (offsets and headers among them), of 2 and of 1. Readers must not rely on it, and this one does not. */
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

/* tca_bme_base_length() : bytes of `name` before ".tca_bme_data", ".tca_bme_offsets" or ".tca_bme_header", or 0 if it
 * ends in none of them. */
static inline size_t tca_bme_base_length(const char *name);

/* tca_bme_find() : looks for the weight `name` (without suffix).
 *
 *   Returns   1  found, and dtypes and shapes of the tensors are those above; fills group
 *             0  no tensor of this weight is there (error->text is empty)
 *            -1  one of the three is missing or is not as above; error->text says which */
static inline int tca_bme_find(const safetensors_model *model, const char *name, tca_bme_group *group,
                               safetensors_error *error);

/* tca_bme_read_header() : the numbers of a group, without its arrays (W->offsets and W->data become NULL), checked
 * against the sizes of the tensors: version, dtype, shape, number of offsets. */
static inline int tca_bme_read_header(const safetensors_model *model, const tca_bme_group *group, spinfer_matrix *W,
                                      safetensors_error *error);

/* tca_bme_load() : reads a group into fresh memory (data 128-byte aligned) and passes it to spinfer_validate(): after
 * success it can be decoded, multiplied, or copied to a GPU. tca_bme_free() it; after a failure there is nothing to. */
static inline int tca_bme_load(const safetensors_model *model, const tca_bme_group *group, spinfer_matrix *W,
                               safetensors_error *error);

static inline void tca_bme_free(spinfer_matrix *W);

/* tca_bme_entry_bytes() : room that the three tensors need in the header of a file, for safetensors_create(). */
static inline uint64_t tca_bme_entry_bytes(const char *name);

/* tca_bme_write_data() : appends <name>.tca_bme_data. All of these come before any other tensor (see above).
 *   W   in   whole matrix in host memory; a slice is refused (spinfer_concat_rows() makes a matrix of one) */
static inline int tca_bme_write_data(safetensors_writer *writer, const char *name, const spinfer_matrix *W,
                                     safetensors_error *error);

/* tca_bme_write_offsets() : appends <name>.tca_bme_offsets and <name>.tca_bme_header; W->data is not read, so it may be
 * gone by then. */
static inline int tca_bme_write_offsets(safetensors_writer *writer, const char *name, const spinfer_matrix *W,
                                        safetensors_error *error);

/* tca_bme_read_dense() : elements of an F16, BF16 or F32 tensor as bits of a 16-bit dtype, rounded to even where the
 * types differ, untouched where they do not.
 *
 *   first, count   in   elements, in C order; first + count <= elements of the tensor, or it fails
 *   dense          out  [count] */
static inline int tca_bme_read_dense(const safetensors_model *model, const safetensors_tensor *tensor, uint64_t first,
                                     uint64_t count, spinfer_dtype dtype, uint16_t *dense, safetensors_error *error);

#endif /* SPINFER_EXAMPLES_TCA_BME_FILE_H */
