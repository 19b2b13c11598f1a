/* workload_json.c: the text form of a workload, one JSON object a line:
 *
 *   {"name":"deepseek-v3/ep32","experts":8,"hidden":7168,"inter":2048,"rows":512,"skew":"balanced","counts":[64,...]}
 *
 * and, where known, "tokens" before "skew", "seed" and "weight" before "counts". cJSON parses; as it is lenient, a scan
 * before it refuses what strict JSON and this form exclude: control characters, numbers that are not plain integers (of
 * "weight": not decimal ones), \u0000. */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/status.h"
#include "utf8.h"
#include "workload.h"

#define MAX_LINE_BYTES (1 << 20)
#define MAX_EXACT_INTEGER 9007199254740991LL /* 2^53 - 1: cJSON holds numbers as double */
#define MAX_WEIGHT 1e15
#define MAX_WEIGHT_BYTES 40

/* ---- the scan ---- */

/* Moves *at, a place behind a character, before it where it is that one; spaces are passed first. */
static bool step_back(const char *line, size_t *at, char character)
{
    while (*at > 0 && (line[*at - 1] == ' ' || line[*at - 1] == '\t')) (*at)--;
    if (*at == 0 || line[*at - 1] != character) return false;
    (*at)--;
    return true;
}

/* Whether what begins at line[at] is the value of "weight", the one field that is no whole number. */
static bool is_weight(const char *line, size_t at)
{
    static const char name[] = "\"weight";
    const size_t length = sizeof name - 1;
    return step_back(line, &at, ':') && step_back(line, &at, '"') && at >= length &&
           memcmp(line + at - length, name, length) == 0;
}

static size_t count_digits(const char *line, size_t at, size_t end)
{
    size_t begin = at;
    while (at < end && line[at] >= '0' && line[at] <= '9') at++;
    return at - begin;
}

/* Length of the decimal number without a sign in line[at, end), as JSON writes it; 0 if it is none. */
static size_t decimal_length(const char *line, size_t at, size_t end)
{
    const size_t begin = at, whole = count_digits(line, at, end);
    if (whole == 0 || (whole > 1 && line[at] == '0')) return 0;
    at += whole;
    if (at < end && line[at] == '.') {
        const size_t digits = count_digits(line, ++at, end);
        if (digits == 0) return 0;
        at += digits;
    }
    if (at < end && (line[at] == 'e' || line[at] == 'E')) {
        at++;
        at += at < end && (line[at] == '+' || line[at] == '-');
        const size_t digits = count_digits(line, at, end);
        if (digits == 0) return 0;
        at += digits;
    }
    return at == end ? at - begin : 0;
}

/* A number outside strings at line[at]: its length if it is a plain integer of at most 16 digits, or a decimal number
 * that is a weight, else an error. */
static moet_status scan_number(const char *line, size_t length, size_t at, const char *where, size_t *number_length)
{
    size_t end = at;
    while (end < length && strchr("+-.eE0123456789", line[end]) != NULL && line[end] != '\0') {
        end++;
    }
    if (is_weight(line, at)) {
        *number_length = end - at <= MAX_WEIGHT_BYTES ? decimal_length(line, at, end) : 0;
        if (*number_length > 0) return MOET_OK;
        return moet_fail(MOET_MALFORMED, "%s: column %zu: \"weight\" must be a decimal number above 0", where, at + 1);
    }
    size_t sign = line[at] == '-';
    size_t digits = 0;
    while (at + sign + digits < end && line[at + sign + digits] >= '0' && line[at + sign + digits] <= '9') {
        digits++;
    }
    bool leading_zero = digits > 1 && line[at + sign] == '0';
    if (digits == 0 || digits > 16 || at + sign + digits != end || leading_zero) {
        int shown = end - at > 40 ? 40 : (int)(end - at);
        return moet_fail(MOET_MALFORMED, "%s: column %zu: %.*s is no whole number that a workload can hold", where,
                         at + 1, shown, line + at);
    }
    *number_length = end - at;
    return MOET_OK;
}

static moet_status scan(const char *line, size_t length, const char *where)
{
    if (length > MAX_LINE_BYTES) {
        return moet_fail(MOET_MALFORMED, "%s: a line of %zu bytes; at most %d are read", where, length, MAX_LINE_BYTES);
    }
    bool in_string = false;
    for (size_t i = 0; i < length;) {
        unsigned char c = (unsigned char)line[i];
        if (c < 0x20 && (in_string || (c != ' ' && c != '\t' && c != '\r' && c != '\n'))) {
            return moet_fail(MOET_MALFORMED, "%s: column %zu: control character 0x%02x", where, i + 1, c);
        }
        size_t step = moet_utf8_length(line + i, length - i);
        if (step == 0) {
            return moet_fail(MOET_MALFORMED, "%s: column %zu: not UTF-8", where, i + 1);
        }
        if (in_string && c == '\\') {
            if (length - i >= 6 && memcmp(line + i, "\\u0000", 6) == 0) {
                return moet_fail(MOET_MALFORMED, "%s: column %zu: a NUL character in a text", where, i + 1);
            }
            step = 2;
        } else if (c == '"') {
            in_string = !in_string;
        } else if (!in_string && (c == '-' || (c >= '0' && c <= '9'))) {
            MOET_TRY(scan_number(line, length, i, where, &step));
        }
        i += step;
    }
    return MOET_OK;
}

/* ---- fields ---- */

static moet_status read_integer(const cJSON *item, const char *where, int64_t min, int64_t max, int64_t *value)
{
    const char *name = item->string != NULL ? item->string : "";
    if (!cJSON_IsNumber(item)) {
        return moet_fail(MOET_MALFORMED, "%s: \"%.32s\" must be a whole number", where, name);
    }
    double number = item->valuedouble;
    if (!(number >= (double)min && number <= (double)max)) {
        return moet_fail(MOET_MALFORMED, "%s: \"%.32s\": %.17g is not between %lld and %lld", where, name, number,
                         (long long)min, (long long)max);
    }
    *value = (int64_t)number;
    return MOET_OK;
}

static moet_status read_weight(const cJSON *item, const char *where, double *weight)
{
    if (!cJSON_IsNumber(item) || !(item->valuedouble > 0 && item->valuedouble <= MAX_WEIGHT)) {
        return moet_fail(MOET_MALFORMED, "%s: \"weight\" must be a number above 0, at most %g", where, MAX_WEIGHT);
    }
    *weight = item->valuedouble;
    return MOET_OK;
}

/* Also what ends a line, or turns the direction of the text around it, on a terminal or a page. */
static bool is_control(uint32_t code)
{
    return code < 0x20 || (code >= 0x7f && code <= 0x9f) || code == 0x61c || code == 0x200e || code == 0x200f ||
           (code >= 0x2028 && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
}

static moet_status read_text(const cJSON *item, const char *where, char *text, size_t size)
{
    if (!cJSON_IsString(item) || item->valuestring == NULL) {
        return moet_fail(MOET_MALFORMED, "%s: \"%.32s\" must be a text", where, item->string);
    }
    size_t length = strlen(item->valuestring);
    if (length == 0 || length >= size) {
        return moet_fail(MOET_MALFORMED, "%s: \"%.32s\" must be 1 to %zu bytes long, not %zu", where, item->string,
                         size - 1, length);
    }
    size_t step;
    for (const char *at = item->valuestring; *at != '\0';) {
        const char *character = moet_utf8_next(&at, &step);
        const uint32_t code = moet_utf8_code(character, step);
        if (is_control(code)) {
            return moet_fail(MOET_MALFORMED, "%s: \"%.32s\" holds control character 0x%02x", where, item->string, code);
        }
    }
    memcpy(text, item->valuestring, length + 1);
    return MOET_OK;
}

static moet_status read_counts(const cJSON *item, const char *where, moet_workload *workload)
{
    if (!cJSON_IsArray(item)) {
        return moet_fail(MOET_MALFORMED, "%s: \"counts\" must be an array of rows per expert", where);
    }
    int32_t length = cJSON_GetArraySize(item);
    if (length != workload->experts) {
        return moet_fail(MOET_MALFORMED, "%s: \"counts\" has %d numbers for %d experts", where, length,
                         workload->experts);
    }
    workload->counts = malloc((size_t)length * sizeof *workload->counts);
    if (workload->counts == NULL) {
        return moet_fail(MOET_NO_MEMORY, "%s: no memory for %d counts", where, length);
    }
    int64_t sum = 0;
    int32_t index = 0;
    const cJSON *number = NULL;
    cJSON_ArrayForEach(number, item)
    {
        if (!cJSON_IsNumber(number) || !(number->valuedouble >= 0 && number->valuedouble <= MOET_MAX_ROWS)) {
            return moet_fail(MOET_MALFORMED, "%s: counts[%d] is no whole number between 0 and %d", where, index,
                             MOET_MAX_ROWS);
        }
        int32_t rows = (int32_t)number->valuedouble;
        if (workload->tokens != 0 && rows > workload->tokens) {
            return moet_fail(MOET_MALFORMED, "%s: counts[%d] is %d, more than the %lld tokens", where, index, rows,
                             (long long)workload->tokens);
        }
        workload->counts[index++] = rows;
        sum += rows;
    }
    if (sum != workload->rows) {
        return moet_fail(MOET_MALFORMED, "%s: \"counts\" sum to %lld, \"rows\" says %lld", where, (long long)sum,
                         (long long)workload->rows);
    }
    return MOET_OK;
}

typedef enum field { NAME, EXPERTS, HIDDEN, INTER, ROWS, TOKENS, SKEW, SEED, WEIGHT, COUNTS, FIELD_COUNT } field;
static const struct {
    const char *name;
    bool required;
    int64_t min, max; /* of whole numbers */
} fields[FIELD_COUNT] = {
    [NAME] = {"name", true, 0, 0},
    [EXPERTS] = {"experts", true, 1, MOET_MAX_EXPERTS},
    [HIDDEN] = {"hidden", true, 1, MOET_MAX_DIM},
    [INTER] = {"inter", true, 1, MOET_MAX_DIM},
    [ROWS] = {"rows", true, 1, MOET_MAX_ROWS},
    [TOKENS] = {"tokens", false, 1, MOET_MAX_ROWS},
    [SKEW] = {"skew", true, 0, 0},
    [SEED] = {"seed", false, 1, MAX_EXACT_INTEGER},
    [WEIGHT] = {"weight", false, 0, 0},
    [COUNTS] = {"counts", true, 0, 0},
};

/* Finds every field's item; unknown, repeated and missing ones are errors. */
static moet_status sort_fields(const cJSON *object, const char *where, const cJSON **items)
{
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, object)
    {
        int32_t found = FIELD_COUNT;
        for (int32_t i = 0; i < FIELD_COUNT; i++) {
            if (strcmp(fields[i].name, item->string) == 0) {
                found = i;
            }
        }
        if (found == FIELD_COUNT) {
            return moet_fail(MOET_MALFORMED, "%s: unknown field \"%.40s\"", where, item->string);
        }
        if (items[found] != NULL) {
            return moet_fail(MOET_MALFORMED, "%s: field \"%s\" is there twice", where, item->string);
        }
        items[found] = item;
    }
    for (int32_t i = 0; i < FIELD_COUNT; i++) {
        if (fields[i].required && items[i] == NULL) {
            return moet_fail(MOET_MALFORMED, "%s: field \"%s\" is missing", where, fields[i].name);
        }
    }
    return MOET_OK;
}

static moet_status read_workload(const cJSON *object, const char *where, moet_workload *workload)
{
    const cJSON *items[FIELD_COUNT] = {NULL};
    int64_t numbers[FIELD_COUNT] = {0};
    MOET_TRY(sort_fields(object, where, items));
    for (int32_t i = 0; i < FIELD_COUNT; i++) {
        if (items[i] != NULL && fields[i].max > 0) {
            MOET_TRY(read_integer(items[i], where, fields[i].min, fields[i].max, &numbers[i]));
        }
    }
    workload->experts = (int32_t)numbers[EXPERTS];
    workload->hidden = (int32_t)numbers[HIDDEN];
    workload->inter = (int32_t)numbers[INTER];
    workload->rows = numbers[ROWS];
    workload->tokens = numbers[TOKENS];
    workload->seed = (uint64_t)numbers[SEED];
    if (items[WEIGHT] != NULL) {
        MOET_TRY(read_weight(items[WEIGHT], where, &workload->weight));
    }
    MOET_TRY(read_text(items[NAME], where, workload->name, sizeof workload->name));
    MOET_TRY(read_text(items[SKEW], where, workload->skew, sizeof workload->skew));
    return read_counts(items[COUNTS], where, workload);
}

moet_status moet_workload_parse(const char *line, size_t length, const char *where, moet_workload *workload)
{
    while (length > 0 && strchr(" \t\r\n", line[length - 1]) != NULL && line[length - 1] != '\0') {
        length--;
    }
    MOET_TRY(scan(line, length, where));
    const char *end = line;
    cJSON *object = cJSON_ParseWithLengthOpts(line, length, &end, false);
    moet_workload parsed = {0};
    moet_status status;
    if (object == NULL) {
        size_t column = end >= line && end <= line + length ? (size_t)(end - line) + 1 : 1;
        status = moet_fail(MOET_MALFORMED, "%s: column %zu: not a complete JSON object", where, column);
    } else if (end != line + length) {
        status =
            moet_fail(MOET_MALFORMED, "%s: column %zu: text after the JSON object", where, (size_t)(end - line) + 1);
    } else if (!cJSON_IsObject(object)) {
        status = moet_fail(MOET_MALFORMED, "%s: a line must hold one JSON object", where);
    } else {
        status = read_workload(object, where, &parsed);
    }
    cJSON_Delete(object);
    if (status != MOET_OK) {
        moet_workload_release(&parsed);
        return status;
    }
    *workload = parsed;
    return MOET_OK;
}

/* Adds an integer in plain digits, which cJSON's own printing of doubles does not promise. */
static bool add_integer(cJSON *object, const char *name, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    return cJSON_AddRawToObject(object, name, text) != NULL;
}

/* Adds a number in the fewest digits that are read back as the same one. */
static bool add_decimal(cJSON *object, const char *name, double value)
{
    char text[32];
    for (int32_t digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    return cJSON_AddRawToObject(object, name, text) != NULL;
}

moet_status moet_workload_format(const moet_workload *workload, char **line)
{
    if (workload->seed > MAX_EXACT_INTEGER) {
        return moet_fail(MOET_INVALID, "workload %s: seed %llu is above 2^53 - 1, which JSON cannot hold",
                         workload->name, (unsigned long long)workload->seed);
    }
    cJSON *object = cJSON_CreateObject();
    cJSON *counts = cJSON_CreateIntArray(workload->counts, workload->experts);
    char *text = NULL;
    bool complete = object != NULL && counts != NULL &&
                    cJSON_AddStringToObject(object, fields[NAME].name, workload->name) != NULL &&
                    add_integer(object, fields[EXPERTS].name, workload->experts) &&
                    add_integer(object, fields[HIDDEN].name, workload->hidden) &&
                    add_integer(object, fields[INTER].name, workload->inter) &&
                    add_integer(object, fields[ROWS].name, workload->rows) &&
                    (workload->tokens == 0 || add_integer(object, fields[TOKENS].name, workload->tokens)) &&
                    cJSON_AddStringToObject(object, fields[SKEW].name, workload->skew) != NULL &&
                    (workload->seed == 0 || add_integer(object, fields[SEED].name, (int64_t)workload->seed)) &&
                    (workload->weight == 0 || add_decimal(object, fields[WEIGHT].name, workload->weight));
    if (complete && cJSON_AddItemToObject(object, fields[COUNTS].name, counts)) {
        counts = NULL; /* the object's now */
        text = cJSON_PrintUnformatted(object);
    }
    cJSON_Delete(counts);
    cJSON_Delete(object);
    if (text == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for the text of workload %s", workload->name);
    }
    *line = text;
    return MOET_OK;
}
