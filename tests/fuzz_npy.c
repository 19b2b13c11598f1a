/* libFuzzer: the .npy header parser. What it takes must add up. */
#include <stdlib.h>

#include "../tuner/npz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    moet_array array;
    char text[MOET_ARRAY_TEXT_SIZE];
    size_t offset = 0;
    if (moet_npy_parse_header(data, size, "fuzz", &array, &offset) != MOET_OK) return 0;
    if (offset > size || array.dimensions < 0 || array.dimensions > MOET_NPY_MAX_DIMENSIONS) abort();
    if (array.size_bytes != (size_t)array.elements * (size_t)array.item_bytes) abort();
    int64_t elements = 1;
    for (int32_t i = 0; i < array.dimensions; i++) {
        if (array.shape[i] < 0) abort();
        if (array.elements > 0) elements *= array.shape[i];
    }
    if (array.elements > 0 && elements != array.elements) abort();
    moet_array_shape_text(&array, text);
    moet_array_type_text(&array, text);
    return 0;
}
