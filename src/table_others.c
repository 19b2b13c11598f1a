/* What a lookup between the points goes by: a device's member "rates", and a winner's member "others", what the table's
 * other configurations took at its point. Tables before them have none. */
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "table.h"

enum { MOST_OTHERS = 4096 };
#define MOST_INTEGER 9007199254740992.0 /* 2^53 */

moet_status moet_table_read_rates(const cJSON *device, bool *has_rates, moet_device_rates *rates, char *why)
{
    static const char *const names[MOET_RATE_COUNT] = {
#define MOET_X(name, text) text,
        MOET_RATE_TABLE(MOET_X)
#undef MOET_X
    };
    moet_device_rates result;
    *has_rates = false;
    if (!moet_json_find(device, "rates", ~0)) return MOET_OK;
    const cJSON *object = moet_json_find(device, "rates", cJSON_Object);
    if (!object) {
        moet_refuse(why, "\"rates\" has the wrong type");
        return MOET_MALFORMED;
    }
    for (int32_t i = 0; i < MOET_RATE_COUNT; i++) {
        const cJSON *item = moet_json_find(object, names[i], cJSON_Number);
        if (!item || !(item->valuedouble >= 1 && item->valuedouble <= MOST_INTEGER)) {
            moet_refuse(why, "\"rates\": \"%s\" must be a number of 1 or more", names[i]);
            return MOET_MALFORMED;
        }
        result.rate[i] = item->valuedouble;
    }
    *has_rates = true;
    *rates = result;
    return MOET_OK;
}

/* false, with a reason: malformed. *known false: a configuration that this build does not have. */
static bool read_one(const cJSON *item, moet_table_other *other, bool *known, char *why)
{
    const cJSON *config = moet_json_find(item, "config", cJSON_String),
                *time = moet_json_find(item, "time_ns", cJSON_Number);
    if (!config || !time) return moet_refuse(why, "an object of \"config\" and \"time_ns\" is expected");
    const double number = time->valuedouble;
    if (!(number >= 1 && number <= MOST_INTEGER) || number != (double)(int64_t)number)
        return moet_refuse(why, "\"time_ns\" must be an integer of 1 or more");
    if (strlen(config->valuestring) >= MOET_CONFIG_SIZE)
        return moet_refuse(why, "\"config\" is longer than %d bytes", MOET_CONFIG_SIZE - 1);
    *known = moet_config_parse(config->valuestring, &other->config) == MOET_OK;
    other->time_ns = (int64_t)number;
    return true;
}

moet_status moet_table_read_others(const cJSON *winner, moet_table_other **others, int32_t *count, char *why)
{
    const cJSON *list = moet_json_find(winner, "others", ~0);
    int32_t found = 0, kept = 0, n = 0;
    why[0] = '\0';
    *count = 0;
    if (!list) return MOET_OK;
    if (!(list->type & cJSON_Array)) {
        moet_refuse(why, "\"others\" has the wrong type");
        return MOET_MALFORMED;
    }
    for (const cJSON *item = list->child; item; item = item->next) found++;
    if (found > MOST_OTHERS) {
        moet_refuse(why, "%d others, must be 0 to %d", found, MOST_OTHERS);
        return MOET_MALFORMED;
    }
    if (found == 0) return MOET_OK;
    moet_table_other *result = calloc((size_t)found, sizeof *result);
    if (!result) return moet_fail(MOET_NO_MEMORY, "table: out of memory");
    for (const cJSON *item = list->child; item; item = item->next, n++) {
        char what[MOET_REASON_SIZE];
        bool known = false;
        if (read_one(item, &result[kept], &known, what)) {
            kept += known;
            continue;
        }
        moet_refuse(why, "others[%d]: %.200s", n, what);
        free(result);
        return MOET_MALFORMED;
    }
    *others = result;
    *count = kept;
    return MOET_OK;
}
