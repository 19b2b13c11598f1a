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
