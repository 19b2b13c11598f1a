/* A winner's member "algorithms": what a vendor library's algorithms were. Tables before it have none. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "table.h"

static bool read_bytes(const char *hex, uint8_t bytes[MOET_ALGORITHM_BYTES])
{
    if (strlen(hex) != 2 * MOET_ALGORITHM_BYTES || strspn(hex, "0123456789abcdef") != 2 * MOET_ALGORITHM_BYTES)
        return false;
    for (int32_t i = 0; i < MOET_ALGORITHM_BYTES; i++) {
        unsigned value;
        sscanf(hex + 2 * (size_t)i, "%2x", &value);
        bytes[i] = (uint8_t)value;
    }
    return true;
}

static bool read_one(const cJSON *item, moet_algorithm *algorithm, char *why)
{
    const cJSON *rows = moet_json_find(item, "rows", cJSON_Number), *text = moet_json_find(item, "text", cJSON_String);
    const cJSON *bytes = moet_json_find(item, "bytes", cJSON_String);
    if (!rows || !text || !bytes) return moet_refuse(why, "an object of \"rows\", \"text\" and \"bytes\" is expected");
    const double number = rows->valuedouble;
    if (!(number >= 0 && number <= MOET_MAX_ROWS) || number != (double)(int64_t)number)
        return moet_refuse(why, "\"rows\" must be 0 to %d", MOET_MAX_ROWS);
    if (strlen(text->valuestring) >= MOET_ALGORITHM_TEXT_SIZE)
        return moet_refuse(why, "\"text\" is longer than %d bytes", MOET_ALGORITHM_TEXT_SIZE - 1);
    *algorithm = (moet_algorithm){.rows = (int64_t)number};
    strcpy(algorithm->text, text->valuestring);
    if (!read_bytes(bytes->valuestring, algorithm->bytes))
        return moet_refuse(why, "\"bytes\" are not %d hexadecimal digits", 2 * MOET_ALGORITHM_BYTES);
    return true;
}

moet_status moet_table_read_algorithms(const cJSON *winner, moet_algorithm **algorithms, int32_t *count, char *why)
{
    const cJSON *list = moet_json_find(winner, "algorithms", ~0);
    int32_t found = 0, n = 0;
    why[0] = '\0';
    *count = 0;
    if (!list) return MOET_OK;
    if (!(list->type & cJSON_Array)) {
        moet_refuse(why, "\"algorithms\" has the wrong type");
        return MOET_MALFORMED;
    }
    for (const cJSON *item = list->child; item; item = item->next) found++;
    if (found > MOET_MAX_ALGORITHMS) {
        moet_refuse(why, "%d algorithms, must be 0 to %d", found, MOET_MAX_ALGORITHMS);
        return MOET_MALFORMED;
    }
    if (found == 0) return MOET_OK;
    moet_algorithm *result = calloc((size_t)found, sizeof *result);
    if (!result) return moet_fail(MOET_NO_MEMORY, "table: out of memory");
    for (const cJSON *item = list->child; item; item = item->next, n++) {
        char what[MOET_REASON_SIZE];
        if (read_one(item, &result[n], what)) continue;
        moet_refuse(why, "algorithms[%d]: %.200s", n, what);
        free(result);
        return MOET_MALFORMED;
    }
    *algorithms = result;
    *count = found;
    return MOET_OK;
}
