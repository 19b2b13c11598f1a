/* json: the parser of libcjson, bound when a table is opened. */
#ifndef MOET_JSON_H
#define MOET_JSON_H

#include <cjson/cJSON.h>

#include "moet.h"

typedef struct moet_json_api {
    cJSON *(*parse)(const char *text, size_t size, const char **end, cJSON_bool terminated);
    void (*destroy)(cJSON *item);
} moet_json_api;

/* NOT_FOUND where the library is missing. */
moet_status moet_json_bind(moet_json_api *api);

/* The member of this name, if it has one of these types (cJSON_Number | ...; ~0: any); NULL if not. */
const cJSON *moet_json_find(const cJSON *object, const char *name, int types);

/* A name that stands twice among the first members (64) of the item or of any below it; NULL if none. Recursive: the
 * caller has bounded the depth. */
const char *moet_json_repeated(const cJSON *item);

#endif
