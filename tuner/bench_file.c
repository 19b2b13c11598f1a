/* bench_file.c: see bench_file.h. */
#include "bench_file.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/status.h"

static moet_status read_text(const cJSON *object, const char *member, const char *where, bool required, char *text,
                             size_t size)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, member);
    if (item == NULL && !required) {
        return MOET_OK;
    }
    if (!cJSON_IsString(item) || item->valuestring == NULL || strlen(item->valuestring) >= size) {
        return moet_fail(MOET_MALFORMED, "%s: \"%s\" must be a text of at most %zu bytes", where, member, size - 1);
    }
    memcpy(text, item->valuestring, strlen(item->valuestring) + 1);
    return MOET_OK;
}

static moet_status read_number(const cJSON *object, const char *member, const char *where, bool required, double min,
                               double max, double *number)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, member);
    if (item == NULL && !required) {
        return MOET_OK;
    }
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= min && item->valuedouble <= max)) {
        return moet_fail(MOET_MALFORMED, "%s: \"%s\" must be a number between %g and %g", where, member, min, max);
    }
    *number = item->valuedouble;
    return MOET_OK;
}

static moet_status read_counts(const cJSON *object, const char *where, moet_bench_point *point)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(object, "counts");
    if (list == NULL) {
        return MOET_OK;
    }
    int32_t length = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : 0;
    if (length < 1 || length > MOET_MAX_EXPERTS) {
        return moet_fail(MOET_MALFORMED, "%s: \"counts\" must be an array of 1 to %d numbers", where, MOET_MAX_EXPERTS);
    }
    point->counts = malloc((size_t)length * sizeof *point->counts);
    if (point->counts == NULL) {
        return moet_fail(MOET_NO_MEMORY, "%s: no memory for %d counts", where, length);
    }
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, list)
    {
        if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= MOET_MAX_ROWS)) {
            return moet_fail(MOET_MALFORMED, "%s: counts[%d] is no number of rows", where, point->experts);
        }
        point->counts[point->experts++] = (int32_t)item->valuedouble;
    }
    return MOET_OK;
}

static moet_status read_point(const cJSON *object, const char *where, moet_bench_point *point)
{
    double rows = 0;
    snprintf(point->layout, sizeof point->layout, "nk");
    MOET_TRY(read_text(object, "name", where, true, point->name, sizeof point->name));
    MOET_TRY(read_text(object, "skew", where, true, point->skew, sizeof point->skew));
    MOET_TRY(read_text(object, "op", where, true, point->op, sizeof point->op));
    MOET_TRY(read_text(object, "peer", where, true, point->peer, sizeof point->peer));
    MOET_TRY(read_text(object, "layout", where, false, point->layout, sizeof point->layout));
    MOET_TRY(read_number(object, "rows", where, true, 0, MOET_MAX_ROWS, &rows));
    MOET_TRY(read_number(object, "time_us", where, true, 1e-6, 1e15, &point->time_us));
    MOET_TRY(read_number(object, "efficiency", where, false, 0, 1e6, &point->efficiency));
    double tokens = rows;
    MOET_TRY(read_number(object, "tokens", where, false, 0, MOET_MAX_ROWS, &tokens));
    point->rows = (int64_t)rows;
    point->tokens = (int64_t)tokens;
    return read_counts(object, where, point);
}

/* Takes ownership of the point's counts. */
static moet_status add_point(moet_bench_file *file, moet_bench_point *point)
{
    for (int32_t i = 0; i < file->count; i++) {
        moet_bench_point *old = &file->points[i];
        if (strcmp(old->peer, point->peer) == 0 && moet_bench_point_matches(old, point)) {
            free(old->counts);
            *old = *point;
            point->counts = NULL;
            return MOET_OK;
        }
    }
    if (file->count == file->capacity) {
        int32_t capacity = file->capacity == 0 ? 256 : 2 * file->capacity;
        moet_bench_point *points = realloc(file->points, (size_t)capacity * sizeof *points);
        if (points == NULL) {
            return moet_fail(MOET_NO_MEMORY, "no memory for %d points", capacity);
        }
        file->points = points;
        file->capacity = capacity;
    }
    file->points[file->count++] = *point;
    point->counts = NULL;
    return MOET_OK;
}

static moet_status read_line(const char *line, size_t length, const char *where, moet_bench_file *file)
{
    const char *end = NULL;
    cJSON *object = cJSON_ParseWithLengthOpts(line, length, &end, false);
    moet_bench_point point = {0};
    moet_status status = MOET_OK;
    while (object != NULL && end < line + length && strchr(" \t\r\n", *end) != NULL && *end != '\0') {
        end++;
    }
    if (!cJSON_IsObject(object) || end != line + length) {
        status = moet_fail(MOET_MALFORMED, "%s: not one complete JSON object", where);
    } else if (cJSON_GetObjectItemCaseSensitive(object, "device") != NULL) {
        status = read_text(object, "device", where, true, file->device, sizeof file->device);
    } else {
        status = read_point(object, where, &point);
        if (status == MOET_OK) status = add_point(file, &point);
    }
    free(point.counts);
    cJSON_Delete(object);
    return status;
}

moet_status moet_bench_file_read(const char *path, moet_bench_file *file)
{
    bool is_stdin = strcmp(path, "-") == 0;
    FILE *stream = is_stdin ? stdin : fopen(path, "re");
    if (stream == NULL) {
        return moet_fail(errno == ENOENT ? MOET_NOT_FOUND : MOET_IO, "cannot open %s: %s", path, strerror(errno));
    }
    moet_bench_file read = {0};
    moet_status status = MOET_OK;
    char *line = NULL;
    size_t capacity = 0;
    errno = 0;
    for (int64_t number = 1; status == MOET_OK; number++) {
        ssize_t length = getline(&line, &capacity, stream);
        if (length < 0) {
            break;
        }
        if (strspn(line, " \t\r\n") < (size_t)length) {
            char where[256];
            snprintf(where, sizeof where, "%.200s:%lld", is_stdin ? "stdin" : path, (long long)number);
            status = read_line(line, (size_t)length, where, &read);
        }
    }
    if (status == MOET_OK && !feof(stream)) {
        status = moet_fail(MOET_IO, "reading %s: %s", path, strerror(errno));
    } else if (status == MOET_OK && read.count == 0) {
        status = moet_fail(MOET_INVALID, "%s holds no measured point; give what moe-tune bench or bench/peers/peers.py printed", path);
    }
    free(line);
    if (!is_stdin) {
        fclose(stream);
    }
    if (status != MOET_OK) {
        moet_bench_file_release(&read);
        return status;
    }
    *file = read;
    return MOET_OK;
}

void moet_bench_file_release(moet_bench_file *file)
{
    for (int32_t i = 0; i < file->count; i++) {
        free(file->points[i].counts);
    }
    free(file->points);
    *file = (moet_bench_file){0};
}

bool moet_bench_point_matches(const moet_bench_point *a, const moet_bench_point *b)
{
    if (a->rows != b->rows || a->tokens != b->tokens || strcmp(a->name, b->name) != 0 ||
        strcmp(a->skew, b->skew) != 0 || strcmp(a->op, b->op) != 0 || strcmp(a->layout, b->layout) != 0) {
        return false;
    }
    if (a->counts == NULL || b->counts == NULL) {
        return true;
    }
    return a->experts == b->experts && memcmp(a->counts, b->counts, (size_t)a->experts * sizeof *a->counts) == 0;
}
