/* stale.c: see stale.h. */
#include "stale.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/status.h"
#include "recheck.h"

/* One line of recheck. */
typedef struct stale_line {
    moet_verdict verdict;
    moet_problem problem;
    moet_workload workload;
    char checked_at[MOET_MOMENT_SIZE];
    char device_key[MOET_DEVICE_KEY_SIZE];
} stale_line;

static moet_status read_text(const cJSON *object, const char *member, const char *where, char *text, size_t size)
{
    const char *value = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, member));
    if (value == NULL || strlen(value) >= size) {
        return moet_fail(MOET_MALFORMED, "%s: \"%s\" must be a text of at most %zu bytes", where, member, size - 1);
    }
    memcpy(text, value, strlen(value) + 1);
    return MOET_OK;
}

static moet_status read_integer(const cJSON *object, const char *member, const char *where, int64_t max, int64_t *value)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, member);
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= (double)max)) {
        return moet_fail(MOET_MALFORMED, "%s: \"%s\" must be a number between 0 and %lld", where, member,
                         (long long)max);
    }
    *value = (int64_t)item->valuedouble;
    return MOET_OK;
}

static moet_status read_counts(const cJSON *object, const char *where, moet_workload *workload)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(object, "counts"), *item;
    int64_t rows = 0;
    int32_t i = 0;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != workload->experts) {
        return moet_fail(MOET_MALFORMED, "%s: \"counts\" must be %d numbers", where, workload->experts);
    }
    workload->counts = calloc((size_t)workload->experts, sizeof *workload->counts);
    if (workload->counts == NULL) {
        return moet_fail(MOET_NO_MEMORY, "%s: no memory for %d counts", where, workload->experts);
    }
    cJSON_ArrayForEach(item, list)
    {
        if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= MOET_MAX_ROWS)) {
            return moet_fail(MOET_MALFORMED, "%s: counts[%d] is no number of rows", where, i);
        }
        workload->counts[i] = (int32_t)item->valuedouble;
        rows += workload->counts[i++];
    }
    if (rows != workload->rows) {
        return moet_fail(MOET_MALFORMED, "%s: counts sum to %lld, not to rows %lld", where, (long long)rows,
                         (long long)workload->rows);
    }
    return MOET_OK;
}

static moet_status read_object(const cJSON *object, const char *where, stale_line *line)
{
    char verdict[16], problem[MOET_KEY_SIZE];
    moet_workload *w = &line->workload;
    MOET_TRY(read_text(object, "verdict", where, verdict, sizeof verdict));
    MOET_TRY(read_text(object, "problem", where, problem, sizeof problem));
    MOET_TRY(read_text(object, "device", where, line->device_key, sizeof line->device_key));
    MOET_TRY(read_text(object, "checked_at", where, line->checked_at, sizeof line->checked_at));
    MOET_TRY(read_text(object, "workload", where, w->name, sizeof w->name));
    MOET_TRY(read_text(object, "skew", where, w->skew, sizeof w->skew));
    MOET_TRY(read_integer(object, "rows", where, MOET_MAX_ROWS, &w->rows));
    if (!cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(object, "tokens"))) {
        MOET_TRY(read_integer(object, "tokens", where, MOET_MAX_ROWS, &w->tokens));
    }
    if (moet_verdict_parse(verdict, &line->verdict) != MOET_OK ||
        moet_problem_parse(problem, &line->problem) != MOET_OK) {
        char message[512];
        snprintf(message, sizeof message, "%s", moet_last_error());
        return moet_fail(MOET_MALFORMED, "%s: %s", where, message);
    }
    w->experts = line->problem.experts;
    w->hidden = line->problem.hidden;
    w->inter = line->problem.inter;
    return read_counts(object, where, w);
}

/* What is unclear wants another recheck, no sweep. */
static bool is_broken(moet_verdict verdict)
{
    return verdict != MOET_VERDICT_HOLDS && verdict != MOET_VERDICT_LEFT && verdict != MOET_VERDICT_UNCLEAR;
}

/* A point has up to two winners, and is measured once for both. */
static bool is_known(const moet_stale *stale, const stale_line *line)
{
    char key[MOET_STORE_PROBLEM_SIZE], other[MOET_STORE_PROBLEM_SIZE];
    moet_store_problem_key(&line->problem, &line->workload, key);
    for (int32_t i = 0; i < stale->tasks.count; i++) {
        const moet_workload *w = &stale->workloads.items[i];
        moet_store_problem_key(&stale->tasks.items[i].problem, w, other);
        if (strcmp(key, other) == 0 &&
            memcmp(w->counts, line->workload.counts, (size_t)w->experts * sizeof *w->counts) == 0) {
            return true;
        }
    }
    return false;
}

/* Takes the line's workload. Until the end a task's workload is the one of its index. */
static moet_status add_task(moet_stale *stale, stale_line *line, int32_t *room)
{
    if (stale->tasks.count == *room) {
        const int32_t grown_room = *room > 0 ? 2 * *room : 64;
        moet_sweep_task *grown = realloc(stale->tasks.items, (size_t)grown_room * sizeof *grown);
        if (grown == NULL) {
            return moet_fail(MOET_NO_MEMORY, "no memory for %d tasks", grown_room);
        }
        stale->tasks.items = grown;
        *room = grown_room;
    }
    MOET_TRY(moet_workloads_add(&stale->workloads, &line->workload));
    moet_sweep_task *task = &stale->tasks.items[stale->tasks.count++];
    *task = (moet_sweep_task){.problem = line->problem};
    memcpy(task->since, line->checked_at, sizeof task->since);
    return MOET_OK;
}

static moet_status read_line(const char *text, size_t length, const char *where, moet_stale *stale, int32_t *room)
{
    stale_line line = {0};
    cJSON *object = cJSON_ParseWithLength(text, length);
    moet_status status = cJSON_IsObject(object)
                             ? read_object(object, where, &line)
                             : moet_fail(MOET_MALFORMED, "%s: not one complete JSON object", where);
    cJSON_Delete(object);
    if (status == MOET_OK && stale->device_key[0] != '\0' && strcmp(stale->device_key, line.device_key) != 0) {
        status = moet_fail(MOET_INVALID, "%s: another device than the lines before; one file a device", where);
    }
    if (status == MOET_OK) {
        memcpy(stale->device_key, line.device_key, sizeof stale->device_key);
    }
    if (status == MOET_OK && is_broken(line.verdict) && !is_known(stale, &line)) {
        status = add_task(stale, &line, room);
    }
    moet_workload_release(&line.workload);
    return status;
}

static moet_status read_stream(FILE *stream, const char *name, moet_stale *stale)
{
    moet_status status = MOET_OK;
    char *line = NULL;
    size_t capacity = 0;
    int64_t number = 0;
    int32_t room = 0;
    ssize_t length;
    while (status == MOET_OK && (length = getline(&line, &capacity, stream)) >= 0) {
        number++;
        if (strspn(line, " \t\r\n") < (size_t)length) {
            char where[256];
            snprintf(where, sizeof where, "%.200s:%lld", name, (long long)number);
            status = read_line(line, (size_t)length, where, stale, &room);
        }
    }
    free(line);
    if (status == MOET_OK && ferror(stream)) {
        status = moet_fail(MOET_IO, "reading %s: %m", name);
    } else if (status == MOET_OK && number == 0) {
        status = moet_fail(MOET_INVALID, "%s is empty; give what moe-tune recheck --save wrote", name);
    }
    return status;
}

/* Keeps the tasks of the shard. */
static moet_status choose_tasks(const moet_shard *shard, moet_stale *stale)
{
    int32_t kept = 0;
    for (int32_t i = 0; i < stale->tasks.count; i++) {
        moet_sweep_task task = stale->tasks.items[i];
        bool inside = false;
        task.workload = &stale->workloads.items[i];
        MOET_TRY(moet_sweep_is_in_shard(shard, &task, &inside));
        stale->tasks.items[kept] = task;
        kept += inside;
    }
    stale->tasks.count = kept;
    return MOET_OK;
}

moet_status moet_stale_read(const char *path, const moet_shard *shard, moet_stale *stale)
{
    const bool is_stdin = strcmp(path, "-") == 0;
    FILE *stream = is_stdin ? stdin : fopen(path, "re");
    if (stream == NULL) {
        return moet_fail(errno == ENOENT ? MOET_NOT_FOUND : MOET_IO, "cannot open %s: %m", path);
    }
    moet_stale read = {0};
    moet_status status = read_stream(stream, is_stdin ? "stdin" : path, &read);
    if (status == MOET_OK) status = choose_tasks(shard, &read);
    if (!is_stdin) {
        fclose(stream);
    }
    if (status != MOET_OK) {
        moet_stale_release(&read);
        return status;
    }
    *stale = read;
    return MOET_OK;
}

void moet_stale_release(moet_stale *stale)
{
    moet_sweep_tasks_release(&stale->tasks);
    moet_workloads_release(&stale->workloads);
    *stale = (moet_stale){0};
}
