/* npz: arrays out of a file that numpy.savez or numpy.savez_compressed wrote: a zip archive of .npy files. The zip is
 * read by minizip, which a build may lack; the .npy header is parsed here. Errors name the file and the array. */
#ifndef MOET_NPZ_H
#define MOET_NPZ_H

#include "../src/status.h"

#define MOET_NPY_MAX_DIMENSIONS 8
#define MOET_NPY_MAX_HEADER_BYTES (64 * 1024)
#define MOET_NPZ_MAX_ARRAYS 4096
#define MOET_NPZ_NAME_SIZE 64 /* of an array's name, with its NUL; longer ones are cut off */

/* An array in C order, little-endian. */
typedef struct moet_array {
    char kind;          /* as in numpy: 'b' bool, 'i' and 'u' integers, 'f' floating point, 'V' raw bytes */
    int32_t item_bytes; /* 1 to 16 */
    int32_t dimensions;
    int64_t shape[MOET_NPY_MAX_DIMENSIONS];
    int64_t elements;  /* product of the shape; 1 without dimensions */
    size_t size_bytes; /* elements * item_bytes */
    void *data;        /* owned */
} moet_array;

void moet_array_release(moet_array *array);

#define MOET_ARRAY_TEXT_SIZE 192
/* "[3, 4]", and "float32", "int16", "raw16": 8 * item_bytes behind the kind. Into text[MOET_ARRAY_TEXT_SIZE]. */
void moet_array_shape_text(const moet_array *array, char *text);
void moet_array_type_text(const moet_array *array, char *text);

/* An element of an array of kind i, u or b; what is more than INT64_MAX is INT64_MAX. */
int64_t moet_array_integer(const moet_array *array, int64_t index);

/* The header of a .npy file, formats 1.0 and 2.0, at the beginning of bytes[size_bytes]: fills all but array->data, and
 * says where the data begin. MALFORMED, in words that begin with `what`: cut off, of another format, of a type that has
 * no kind above, big-endian, in Fortran order, of more dimensions or a longer header than the limits. */
moet_status moet_npy_parse_header(const void *bytes, size_t size_bytes, const char *what, moet_array *array,
                                  size_t *data_offset);

typedef struct moet_npz {
    const char *path;
    int32_t count;
    char (*names)[MOET_NPZ_NAME_SIZE]; /* without ".npy" */
    void *zip;
} moet_npz;

/* NOT_FOUND and IO for a file that cannot be read, MALFORMED for one that is no zip or is cut off, UNSUPPORTED in a
 * build without minizip. The path must outlive the npz. */
moet_status moet_npz_open(const char *path, moet_npz *npz);
/* A zeroed one is fine. */
void moet_npz_close(moet_npz *npz);

bool moet_npz_has(const moet_npz *npz, const char *name);
/* NOT_FOUND, MALFORMED or NO_MEMORY. */
moet_status moet_npz_read(const moet_npz *npz, const char *name, moet_array *array);

#endif
