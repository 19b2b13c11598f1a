#include "json.h"

#include <stddef.h>
#include <string.h>

#include "module.h"
#include "status.h"

moet_status moet_json_bind(moet_json_api *api)
{
    static const char *const sonames[] = {"$ORIGIN/libcjson.so.1", "$ORIGIN/../lib/libcjson.so.1", "libcjson.so.1",
                                          NULL};
    static const moet_symbol symbols[] = {
        {"cJSON_ParseWithLengthOpts", offsetof(moet_json_api, parse), false},
        {"cJSON_Delete", offsetof(moet_json_api, destroy), false},
    };
    void *library;
    moet_status status = moet_library_bind(sonames, symbols, MOET_COUNT_OF(symbols), api, &library);
    if (status == MOET_NOT_FOUND)
        return moet_fail(MOET_NOT_FOUND,
                         "reading a table needs libcjson.so.1: install libcjson1, or put it beside libmoet");
    return status;
}

const cJSON *moet_json_find(const cJSON *object, const char *name, int types)
{
    for (const cJSON *child = object->child; child; child = child->next) {
        if (child->string && strcmp(child->string, name) == 0) return child->type & types ? child : NULL;
    }
    return NULL;
}

enum { MOST_COMPARED = 64 }; /* members: a file with objects of millions is not to take a day */

const char *moet_json_repeated(const cJSON *item)
{
    int32_t members = 0;
    for (const cJSON *child = item->child; child; child = child->next, members++) {
        const char *below = moet_json_repeated(child);
        if (below) return below;
        if (!child->string || members >= MOST_COMPARED) continue;
        for (const cJSON *before = item->child; before != child; before = before->next) {
            if (before->string && strcmp(before->string, child->string) == 0) return child->string;
        }
    }
    return NULL;
}
