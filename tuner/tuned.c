/* tuned.c: see tuned.h. */
#include "tuned.h"

#include <cjson/cJSON.h>
#include <string.h>

#include "../src/status.h"
#include "emit.h"

static const cJSON *member(const cJSON *object, const char *name)
{
    return cJSON_GetObjectItemCaseSensitive(object, name);
}

const char *moet_tuned_get_text(const cJSON *object, const char *name)
{
    const char *text = cJSON_GetStringValue(member(object, name));
    return text != NULL ? text : "";
}

int64_t moet_tuned_get_integer(const cJSON *object, const char *name)
{
    const cJSON *item = member(object, name);
    return cJSON_IsNumber(item) && item->valuedouble > -9e15 && item->valuedouble < 9e15 ? (int64_t)item->valuedouble
                                                                                         : 0;
}

static moet_status read_text(const char *dir, const moet_device *device, moet_tuned *tuned)
{
    const cJSON *section;
    MOET_TRY(moet_emit_read(dir, &tuned->text));
    if (strcmp(moet_tuned_get_text(tuned->text, "hash"), tuned->table->hash) != 0) {
        return moet_fail(MOET_MISMATCH, "%s: replaced while it was read; run the command again", dir);
    }
    cJSON_ArrayForEach(section, member(tuned->text, "devices"))
    {
        if (tuned->section == NULL && strcmp(moet_tuned_get_text(section, "key"), device->key) == 0) {
            tuned->section = section;
        }
    }
    return MOET_OK;
}

moet_status moet_tuned_open(const char *dir, const moet_device *device, moet_tuned *tuned)
{
    moet_tuned opened = {0};
    MOET_TRY(moet_table_load(dir, device, &opened.table));
    const moet_status status = read_text(dir, device, &opened);
    if (status != MOET_OK) {
        moet_tuned_close(&opened);
        return status;
    }
    *tuned = opened;
    return MOET_OK;
}

void moet_tuned_close(moet_tuned *tuned)
{
    moet_table_close(tuned->table);
    cJSON_Delete(tuned->text);
    *tuned = (moet_tuned){0};
}

/* The reader keeps a device's points in the order of the text. */
moet_status moet_tuned_each(const moet_tuned *tuned, moet_tuned_visit visit, void *context)
{
    const cJSON *text, *object;
    cJSON_ArrayForEach(text, member(tuned->section, "problems"))
    {
        moet_problem problem;
        const moet_status parsed = moet_problem_parse(moet_tuned_get_text(text, "key"), &problem);
        if (parsed == MOET_UNSUPPORTED) continue; /* a newer build's, which the reader refused */
        MOET_TRY(parsed);
        const moet_table_problem *found = moet_table_find(tuned->table, &problem);
        int32_t at = 0;
        cJSON_ArrayForEach(object, member(text, "points"))
        {
            const moet_tuned_point point = {.problem_key = moet_tuned_get_text(text, "key"),
                                            .problem = found,
                                            .point = &found->points[at++],
                                            .object = object,
                                            .workload = moet_tuned_get_text(object, "workload"),
                                            .skew = moet_tuned_get_text(object, "skew"),
                                            .tokens = moet_tuned_get_integer(object, "tokens")};
            MOET_TRY(visit(context, &point));
        }
    }
    return MOET_OK;
}
