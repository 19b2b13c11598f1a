/* workload.c: workloads and their lists in memory, and reading a .jsonl file. */
#include "workload.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/status.h"

#define MAX_WHERE 256

void moet_workload_release(moet_workload *workload)
{
    free(workload->counts);
    *workload = (moet_workload){0};
}

double moet_workload_weight(const moet_workload *workload) { return workload->weight > 0 ? workload->weight : 1; }

moet_status moet_workload_copy(const moet_workload *from, moet_workload *to)
{
    size_t size_bytes = (size_t)from->experts * sizeof *from->counts;
    int32_t *counts = malloc(size_bytes);
    if (counts == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for the counts of %d experts", from->experts);
    }
    memcpy(counts, from->counts, size_bytes);
    *to = *from;
    to->counts = counts;
    return MOET_OK;
}

moet_status moet_workloads_add(moet_workloads *list, moet_workload *workload)
{
    if (list->count == list->capacity) {
        int32_t capacity = list->capacity == 0 ? 64 : 2 * list->capacity;
        moet_workload *items = realloc(list->items, (size_t)capacity * sizeof *items);
        if (items == NULL) {
            return moet_fail(MOET_NO_MEMORY, "no memory for %d workloads", capacity);
        }
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = *workload;
    *workload = (moet_workload){0};
    return MOET_OK;
}

void moet_workloads_release(moet_workloads *list)
{
    for (int32_t i = 0; i < list->count; i++) {
        moet_workload_release(&list->items[i]);
    }
    free(list->items);
    *list = (moet_workloads){0};
}

static bool is_blank(const char *line, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r' && line[i] != '\n') {
            return false;
        }
    }
    return true;
}

moet_status moet_workloads_read_stream(FILE *file, const char *shown, moet_workloads *list)
{
    moet_workloads read = {0};
    moet_workload workload = {0};
    char *line = NULL;
    size_t capacity = 0;
    moet_status status = MOET_OK;
    errno = 0;
    for (int64_t number = 1;; number++) {
        ssize_t length = getline(&line, &capacity, file);
        if (length < 0) {
            break;
        }
        if (is_blank(line, (size_t)length)) {
            continue;
        }
        char where[MAX_WHERE];
        snprintf(where, sizeof where, "%.200s:%lld", shown, (long long)number);
        status = moet_workload_parse(line, (size_t)length, where, &workload);
        if (status == MOET_OK) {
            status = moet_workloads_add(&read, &workload);
        }
        if (status != MOET_OK) {
            goto done;
        }
    }
    if (!feof(file)) {
        status = moet_fail(MOET_IO, "reading workloads %s: %s", shown, strerror(errno));
    } else if (read.count == 0) {
        status = moet_fail(MOET_INVALID, "%s holds no workload; give one JSON object a line", shown);
    }
done:
    free(line);
    moet_workload_release(&workload);
    if (status != MOET_OK) {
        moet_workloads_release(&read);
        return status;
    }
    *list = read;
    return MOET_OK;
}

moet_status moet_workloads_read(const char *path, moet_workloads *list)
{
    if (strcmp(path, "-") == 0) {
        return moet_workloads_read_stream(stdin, "stdin", list);
    }
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return moet_fail(errno == ENOENT ? MOET_NOT_FOUND : MOET_IO,
                         "cannot open workloads %s: %s; name another file (--workloads)", path, strerror(errno));
    }
    moet_status status = moet_workloads_read_stream(file, path, list);
    fclose(file);
    return status;
}
