/* trace_json.c: traces as JSON, a line a pass or one object with nested arrays. cJSON parses. */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

#include "trace.h"

#define MAX_WHERE 300

/* Members that hold [steps, layers, experts] or less, as programs name them: SGLang's recorder and its option
 * --init-expert-location, vLLM's load balancer, and what is said without either. */
static const char *const array_names[] = {"logical_count",       "global_physical_count",     "expert_load_window",
                                          "logical_expert_load", "global_expert_load_window", "counts"};

/* NULL where the text is anything but one JSON value; *column is then where, from 1 on. */
static cJSON *parse_whole(const char *text, size_t size_bytes, size_t *column)
{
    const char *end = text;
    cJSON *value = cJSON_ParseWithLengthOpts(text, size_bytes, &end, false);
    while (value != NULL && end < text + size_bytes && strchr(" \t\r\n", *end) != NULL) {
        end++;
    }
    *column = (size_t)(end - text) + 1;
    if (value != NULL && end < text + size_bytes) {
        cJSON_Delete(value);
        return NULL;
    }
    return value;
}

static moet_status read_counts(const cJSON *array, const char *where, int64_t step, int64_t layer, moet_trace *trace)
{
    int64_t *counts = NULL, expert = 0;
    const cJSON *item = NULL;
    if (!cJSON_IsArray(array)) {
        return moet_fail(MOET_MALFORMED, "%s: the counts must be an array of one number an expert", where);
    }
    MOET_TRY(moet_trace_add(trace, where, step, layer, cJSON_GetArraySize(array), &counts));
    cJSON_ArrayForEach(item, array)
    {
        if (!cJSON_IsNumber(item)) {
            return moet_fail(MOET_MALFORMED, "%s: the count of expert %lld is no number", where, (long long)expert);
        }
        MOET_TRY(moet_trace_count(item->valuedouble, where, expert, &counts[expert]));
        expert++;
    }
    return MOET_OK;
}

/* ---- a line a pass ---- */

static moet_status read_index(const cJSON *object, const char *name, const char *where, int64_t missing, int64_t *index)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    if (item == NULL) {
        *index = missing;
        return MOET_OK;
    }
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= MOET_TRACE_MAX_INDEX) ||
        item->valuedouble != (double)(int64_t)item->valuedouble) {
        return moet_fail(MOET_MALFORMED, "%s: \"%s\" must be a whole number from 0 to %d", where, name,
                         MOET_TRACE_MAX_INDEX);
    }
    *index = (int64_t)item->valuedouble;
    return MOET_OK;
}

static moet_status read_line(const cJSON *object, const char *where, size_t column, moet_trace *trace)
{
    int64_t step = 0, layer = 0;
    if (object == NULL) {
        return moet_fail(MOET_MALFORMED, "%s: column %zu: not a complete JSON object, or text after it", where, column);
    }
    if (!cJSON_IsObject(object)) {
        return moet_fail(MOET_MALFORMED, "%s: no JSON object; a line is {\"step\":0,\"layer\":0,\"counts\":[...]}",
                         where);
    }
    const cJSON *counts = cJSON_GetObjectItemCaseSensitive(object, "counts");
    if (counts == NULL) {
        return moet_fail(MOET_MALFORMED, "%s: \"counts\" is missing", where);
    }
    MOET_TRY(read_index(object, "step", where, trace->count, &step));
    MOET_TRY(read_index(object, "layer", where, 0, &layer));
    return read_counts(counts, where, step, layer, trace);
}

moet_status moet_trace_read_jsonl(const char *text, size_t size_bytes, const char *path, moet_trace *trace)
{
    const char *end = text + size_bytes;
    for (int64_t number = 1; text < end; number++) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        const size_t length = (size_t)((newline != NULL ? newline : end) - text);
        const size_t blank = strspn(text, " \t\r");
        if (blank < length) {
            char where[MAX_WHERE];
            snprintf(where, sizeof where, "%.200s:%lld", path, (long long)number);
            size_t column = 0;
            cJSON *object = parse_whole(text, length, &column);
            const moet_status status = read_line(object, where, column, trace);
            cJSON_Delete(object);
            MOET_TRY(status);
        }
        text += length + 1;
    }
    return MOET_OK;
}

/* ---- nested arrays ---- */

/* Arrays around the innermost numbers: 1 for [experts]. */
static int32_t depth_of(const cJSON *array)
{
    int32_t depth = 0;
    for (; cJSON_IsArray(array); array = array->child) {
        depth++;
    }
    return depth;
}

static moet_status read_layers(const cJSON *array, int32_t depth, const char *path, int64_t step, moet_trace *trace)
{
    const cJSON *item = depth == 1 ? array : array->child;
    for (int64_t layer = 0; item != NULL; layer++, item = depth == 1 ? NULL : item->next) {
        char where[MAX_WHERE];
        snprintf(where, sizeof where, "%.200s: step %lld, layer %lld", path, (long long)step, (long long)layer);
        MOET_TRY(read_counts(item, where, step, layer, trace));
    }
    return MOET_OK;
}

static moet_status read_nested(const cJSON *array, const char *path, moet_trace *trace)
{
    const int32_t depth = depth_of(array);
    if (depth < 1 || depth > 3) {
        return moet_fail(MOET_MALFORMED,
                         "%s: the counts must be arrays [steps, layers, experts], [layers, experts] or [experts]",
                         path);
    }
    if (depth < 3) {
        return read_layers(array, depth, path, 0, trace);
    }
    int64_t step = 0;
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, array)
    {
        if (!cJSON_IsArray(item)) {
            return moet_fail(MOET_MALFORMED, "%s: step %lld is no array of layers", path, (long long)step);
        }
        MOET_TRY(read_layers(item, 2, path, step++, trace));
    }
    return MOET_OK;
}

static const cJSON *find_array(const cJSON *value)
{
    const cJSON *found = cJSON_IsArray(value) ? value : NULL;
    for (size_t i = 0; found == NULL && i < sizeof array_names / sizeof array_names[0]; i++) {
        found = cJSON_GetObjectItemCaseSensitive(value, array_names[i]);
    }
    return found;
}

moet_status moet_trace_read_json(const char *text, size_t size_bytes, const char *path, moet_trace *trace)
{
    size_t column = 0;
    cJSON *value = parse_whole(text, size_bytes, &column);
    const cJSON *array = find_array(value);
    moet_status status;
    if (value == NULL) {
        status = moet_fail(MOET_MALFORMED, "%s: byte %zu: not complete JSON, or text after it", path, column);
    } else if (array == NULL) {
        status = moet_fail(MOET_MALFORMED,
                           "%s: has no member \"logical_count\", \"expert_load_window\" or \"counts\"; "
                           "docs/workloads.md lists the names",
                           path);
    } else {
        status = read_nested(array, path, trace);
    }
    cJSON_Delete(value);
    return status;
}

moet_trace_format moet_trace_json_kind(const char *text, size_t size_bytes)
{
    const size_t begin = strspn(text, " \t\r\n");
    const char *newline = memchr(text + begin, '\n', size_bytes - begin);
    const size_t length = newline != NULL ? (size_t)(newline - text) - begin : size_bytes - begin;
    cJSON *first = cJSON_ParseWithLength(text + begin, length); /* NULL: an object of several lines */
    const cJSON *counts = cJSON_GetObjectItemCaseSensitive(first, "counts");
    moet_trace_format kind = MOET_TRACE_JSON;
    if (cJSON_GetObjectItemCaseSensitive(first, "hidden") != NULL &&
        cJSON_GetObjectItemCaseSensitive(first, "inter") != NULL) {
        kind = MOET_TRACE_WORKLOADS;
    } else if (counts != NULL && depth_of(counts) < 2) {
        kind = MOET_TRACE_JSONL;
    }
    cJSON_Delete(first);
    return kind;
}
