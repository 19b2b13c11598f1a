/* trace.c: see trace.h. Which format a file has, and the .npy one. */
#include "trace.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../src/file.h"
#include "npz.h"

#define MAX_FILE_BYTES ((size_t)1 << 36)
#define MAX_WHERE 300

void moet_trace_release(moet_trace *trace)
{
    free(trace->passes);
    free(trace->counts);
    *trace = (moet_trace){0};
}

static const char *const format_names[] = {
#define MOET_X(name, text) text,
    MOET_TRACE_FORMAT_TABLE(MOET_X)
#undef MOET_X
};

moet_status moet_trace_format_parse(const char *text, moet_trace_format *format)
{
    for (int32_t i = 0; i < MOET_TRACE_FORMAT_COUNT; i++) {
        if (strcmp(format_names[i], text) == 0) {
            *format = (moet_trace_format)i;
            return MOET_OK;
        }
    }
    return moet_fail(MOET_INVALID, "--format: '%s' is unknown; use auto, csv, jsonl, json, npy or workloads", text);
}

/* ---- passes ---- */

static moet_status grow(moet_trace *trace, int64_t experts)
{
    const int64_t capacity = trace->capacity == 0 ? 64 : 2 * trace->capacity;
    moet_trace_pass *passes = realloc(trace->passes, (size_t)capacity * sizeof *passes);
    if (passes != NULL) {
        trace->passes = passes;
    }
    int64_t *counts = realloc(trace->counts, (size_t)(capacity * experts) * sizeof *counts);
    if (counts != NULL) {
        trace->counts = counts;
    }
    if (passes == NULL || counts == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for a trace of %lld passes of %lld experts", (long long)capacity,
                         (long long)experts);
    }
    trace->capacity = capacity;
    return MOET_OK;
}

moet_status moet_trace_add(moet_trace *trace, const char *where, int64_t step, int64_t layer, int64_t experts,
                           int64_t **counts)
{
    if (step < 0 || step > MOET_TRACE_MAX_INDEX || layer < 0 || layer > MOET_TRACE_MAX_INDEX) {
        return moet_fail(MOET_MALFORMED, "%s: step %lld and layer %lld must be 0 to %d", where, (long long)step,
                         (long long)layer, MOET_TRACE_MAX_INDEX);
    }
    if (experts < 1 || experts > MOET_TRACE_MAX_EXPERTS) {
        return moet_fail(MOET_MALFORMED, "%s: %lld experts, must be 1 to %d", where, (long long)experts,
                         MOET_TRACE_MAX_EXPERTS);
    }
    if (trace->count > 0 && experts != trace->experts) {
        return moet_fail(MOET_MALFORMED, "%s: %lld experts, where those before have %d", where, (long long)experts,
                         trace->experts);
    }
    if (trace->count == trace->capacity) {
        MOET_TRY(grow(trace, experts));
    }
    trace->experts = (int32_t)experts;
    *counts = trace->counts + trace->count * experts;
    memset(*counts, 0, (size_t)experts * sizeof **counts);
    trace->passes[trace->count++] = (moet_trace_pass){step, layer};
    return MOET_OK;
}

moet_status moet_trace_count(double value, const char *where, int64_t expert, int64_t *count)
{
    if (!(value >= 0 && value <= (double)MOET_TRACE_MAX_COUNT) || value != floor(value)) {
        return moet_fail(MOET_MALFORMED, "%s: the count of expert %lld is %g, must be a whole number of rows", where,
                         (long long)expert, value);
    }
    *count = (int64_t)value;
    return MOET_OK;
}

/* ---- .npy ---- */

/* Element of an array of integers or floats; integers up to MOET_TRACE_MAX_COUNT are exact. */
static double element(const moet_array *array, int64_t index)
{
    const char *at = (const char *)array->data + index * array->item_bytes;
    float single = 0;
    double value = 0;
    if (array->kind != 'f') {
        return (double)moet_array_integer(array, index);
    }
    if (array->item_bytes == sizeof single) {
        memcpy(&single, at, sizeof single);
        return (double)single;
    }
    memcpy(&value, at, sizeof value);
    return value;
}

static moet_status read_npy(char *bytes, size_t size_bytes, const char *path, moet_trace *trace)
{
    moet_array array = {0};
    size_t offset = 0;
    char text[MOET_ARRAY_TEXT_SIZE];
    MOET_TRY(moet_npy_parse_header(bytes, size_bytes, path, &array, &offset));
    if (size_bytes - offset != array.size_bytes) {
        return moet_fail(MOET_MALFORMED, "%s has %zu bytes of data, its shape wants %zu", path, size_bytes - offset,
                         array.size_bytes);
    }
    if (array.kind != 'i' && array.kind != 'u' &&
        !(array.kind == 'f' && (array.item_bytes == 4 || array.item_bytes == 8))) {
        moet_array_type_text(&array, text);
        return moet_fail(MOET_MALFORMED, "%s is of %s, must be of integers, float32 or float64: array.astype('int64')",
                         path, text);
    }
    if (array.dimensions < 1 || array.dimensions > 3 || array.elements == 0) {
        moet_array_shape_text(&array, text);
        return moet_fail(MOET_MALFORMED,
                         "%s is of shape %s, must be [steps, layers, experts], [layers, experts] or "
                         "[experts], of at least one element",
                         path, text);
    }
    array.data = bytes + offset; /* the file's, not to be released */
    const int64_t experts = array.shape[array.dimensions - 1];
    const int64_t layers = array.dimensions > 1 ? array.shape[array.dimensions - 2] : 1;
    for (int64_t pass = 0; pass < array.elements / experts; pass++) {
        char where[MAX_WHERE];
        int64_t *counts = NULL;
        snprintf(where, sizeof where, "%.200s: step %lld, layer %lld", path, (long long)(pass / layers),
                 (long long)(pass % layers));
        MOET_TRY(moet_trace_add(trace, where, pass / layers, pass % layers, experts, &counts));
        for (int64_t e = 0; e < experts; e++) {
            MOET_TRY(moet_trace_count(element(&array, pass * experts + e), where, e, &counts[e]));
        }
    }
    return MOET_OK;
}

/* ---- which format ---- */

static bool begins(const char *bytes, size_t size_bytes, const char *magic, size_t length)
{
    return size_bytes >= length && memcmp(bytes, magic, length) == 0;
}

static bool ends(const char *path, const char *suffix)
{
    const size_t length = strlen(path), own = strlen(suffix);
    return length >= own && strcmp(path + length - own, suffix) == 0;
}

/* Files that take another program to be read. A pickle is a program: it is not run here. */
static moet_status refuse_foreign(const char *bytes, size_t size_bytes, const char *path)
{
    const bool is_zip = begins(bytes, size_bytes, "PK\3\4", 4);
    if (is_zip && ends(path, ".npz")) {
        return moet_fail(MOET_UNSUPPORTED,
                         "%.200s holds several arrays; write one as .npy: python3 -c 'import numpy; "
                         "numpy.save(\"trace.npy\", numpy.load(\"%.200s\")[\"NAME\"])'",
                         path, path);
    }
    if (is_zip || begins(bytes, size_bytes, "\x80\x02", 2) || ends(path, ".pt") || ends(path, ".pth")) {
        return moet_fail(MOET_UNSUPPORTED,
                         "%.200s is a file of torch, which is not read; write it as .npy: python3 -c 'import numpy, "
                         "torch; numpy.save(\"trace.npy\", torch.load(\"%.200s\", map_location=\"cpu\", "
                         "weights_only=True)[\"logical_count\"].numpy())'",
                         path, path);
    }
    if (ends(path, ".safetensors") || (size_bytes > 9 && bytes[7] == '\0' && bytes[8] == '{')) {
        return moet_fail(MOET_UNSUPPORTED,
                         "%.200s is a file of safetensors, which is not read; write it as .npy: python3 -c 'import "
                         "numpy, safetensors.numpy as s; "
                         "numpy.save(\"trace.npy\", next(iter(s.load_file(\"%.200s\").values())))'",
                         path, path);
    }
    return MOET_OK;
}

static moet_status detect(const char *bytes, size_t size_bytes, const char *path, moet_trace_format *format)
{
    if (begins(bytes, size_bytes, "\x93NUMPY", 6) || ends(path, ".npy")) {
        *format = MOET_TRACE_NPY;
        return MOET_OK;
    }
    MOET_TRY(refuse_foreign(bytes, size_bytes, path));
    const size_t begin = strspn(bytes, " \t\r\n");
    if (bytes[begin] == '{' || bytes[begin] == '[') {
        *format = moet_trace_json_kind(bytes, size_bytes);
        if (*format == MOET_TRACE_JSON && ends(path, ".jsonl")) *format = MOET_TRACE_JSONL;
    } else {
        *format = MOET_TRACE_CSV;
    }
    return MOET_OK;
}

moet_status moet_trace_parse(char *bytes, size_t size_bytes, const char *path, int32_t experts,
                             moet_trace_format *format, moet_trace *trace)
{
    moet_trace read = {0};
    moet_trace_format found = *format;
    moet_status status = found == MOET_TRACE_AUTO ? detect(bytes, size_bytes, path, &found) : MOET_OK;
    if (status == MOET_OK && found == MOET_TRACE_NPY) {
        status = read_npy(bytes, size_bytes, path, &read);
    } else if (status == MOET_OK && found != MOET_TRACE_WORKLOADS && strlen(bytes) != size_bytes) {
        status = moet_fail(MOET_MALFORMED, "%s: a NUL byte at %zu: no text file", path, strlen(bytes));
    } else if (status == MOET_OK && found == MOET_TRACE_CSV) {
        status = moet_trace_read_csv(bytes, path, experts, &read);
    } else if (status == MOET_OK && found == MOET_TRACE_JSONL) {
        status = moet_trace_read_jsonl(bytes, size_bytes, path, &read);
    } else if (status == MOET_OK && found == MOET_TRACE_JSON) {
        status = moet_trace_read_json(bytes, size_bytes, path, &read);
    }
    if (status == MOET_OK && found != MOET_TRACE_WORKLOADS && read.count == 0) {
        status = moet_fail(MOET_MALFORMED, "%s holds no counts; docs/workloads.md says what a trace is", path);
    }
    if (status == MOET_OK && found != MOET_TRACE_WORKLOADS && experts > 0 && read.experts != experts) {
        status = moet_fail(MOET_INVALID, "%s has %d experts, must have %d; --experts says another number", path,
                           read.experts, experts);
    }
    if (status != MOET_OK) {
        moet_trace_release(&read);
        return status;
    }
    *format = found;
    if (found != MOET_TRACE_WORKLOADS) {
        *trace = read;
    }
    return MOET_OK;
}

moet_status moet_trace_load(const char *path, char **bytes, size_t *size_bytes)
{
    return strcmp(path, "-") == 0 ? moet_file_read_open(STDIN_FILENO, "stdin", MAX_FILE_BYTES, bytes, size_bytes)
                                  : moet_file_read_any(path, MAX_FILE_BYTES, bytes, size_bytes);
}

moet_status moet_trace_read(const char *path, int32_t experts, moet_trace_format *format, moet_trace *trace)
{
    char *bytes = NULL;
    size_t size_bytes = 0;
    MOET_TRY(moet_trace_load(path, &bytes, &size_bytes));
    moet_status status = moet_trace_parse(bytes, size_bytes, path, experts, format, trace);
    free(bytes);
    return status;
}
