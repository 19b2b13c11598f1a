#include "emit_ep.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* A member, of a text or where that is NULL of a number; 0 of a member that may be missing is null. */
typedef struct member {
    const char *name, *text;
    int64_t number;
    bool may_be_missing;
} member;

static bool add(cJSON *object, const char *name, cJSON *value)
{
    if (value && cJSON_AddItemToObject(object, name, value)) return true;
    cJSON_Delete(value);
    return false;
}

/* An object of these at the end of the list; NULL: out of memory. */
static cJSON *append(cJSON *list, const member *members, int32_t count)
{
    cJSON *object = cJSON_CreateObject();
    bool is_whole = object != NULL;
    for (int32_t i = 0; i < count && is_whole; i++) {
        const member *m = &members[i];
        char text[32];
        snprintf(text, sizeof text, "%" PRId64, m->number); /* cJSON prints numbers by way of double */
        is_whole = add(object, m->name,
                       m->text                               ? cJSON_CreateString(m->text)
                       : m->may_be_missing && m->number == 0 ? cJSON_CreateNull()
                                                             : cJSON_CreateRaw(text));
    }
    if (is_whole && cJSON_AddItemToArray(list, object)) return object;
    cJSON_Delete(object);
    return NULL;
}

/* Whether the object's members are these. */
static bool is_of(const cJSON *object, const member *members, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, members[i].name);
        char number[32];
        snprintf(number, sizeof number, "%" PRId64, members[i].number);
        if (!item || strcmp(item->valuestring, members[i].text ? members[i].text : number) != 0) return false;
    }
    return true;
}

bool moet_emit_ep_add(cJSON *device, const moet_store_ep_row *row)
{
    const member key[] = {{.name = "problem", .text = row->problem_key},
                          {.name = "ranks", .number = row->ranks},
                          {.name = "hosts", .number = row->hosts},
                          {.name = "choices", .number = row->choices},
                          {.name = "returns", .text = row->returns}};
    const member point[] = {{.name = "workload", .text = row->name},
                            {.name = "skew", .text = row->skew},
                            {.name = "tokens", .number = row->tokens},
                            {.name = "busiest", .number = row->busiest},
                            {.name = "choice", .text = row->choice},
                            {.name = "time_ns", .number = row->median_ns},
                            {.name = "noise_ns", .number = row->noise_ns},
                            {.name = "default_time_ns", .number = row->default_ns, .may_be_missing = true}};
    cJSON *layers = cJSON_GetObjectItemCaseSensitive(device, "ep");
    cJSON *layer = layers->child ? layers->child->prev : NULL; /* the last */
    if (!layer || !is_of(layer, key, MOET_COUNT_OF(key))) {
        layer = append(layers, key, MOET_COUNT_OF(key));
        if (!layer || !add(layer, "points", cJSON_CreateArray())) return false;
    }
    return append(cJSON_GetObjectItemCaseSensitive(layer, "points"), point, MOET_COUNT_OF(point)) != NULL;
}
