/* parse.c: see parse.h. */
#include "parse.h"

#include <stdlib.h>
#include <string.h>

#include "../src/status.h"

#define MAX_DIGITS 18 /* any 18 digits fit an int64_t */
#define MAX_DISTANCE_LENGTH 64

/* Reads digits at *at and moves it behind them; false for none, or too many. */
static bool read_digits(const char **at, int64_t *value)
{
    size_t digits = strspn(*at, "0123456789");
    if (digits == 0 || digits > MAX_DIGITS) {
        return false;
    }
    int64_t sum = 0;
    for (size_t i = 0; i < digits; i++) {
        sum = sum * 10 + ((*at)[i] - '0');
    }
    *at += digits;
    *value = sum;
    return true;
}

static moet_status check_range(int64_t value, const char *what, int64_t min, int64_t max)
{
    if (value < min || value > max) {
        return moet_fail(MOET_INVALID, "%s: %lld is not between %lld and %lld", what, (long long)value, (long long)min,
                         (long long)max);
    }
    return MOET_OK;
}

moet_status moet_parse_integer(const char *text, const char *what, int64_t min, int64_t max, int64_t *value)
{
    const char *at = text;
    int64_t parsed = 0;
    if (!read_digits(&at, &parsed) || *at != '\0') {
        return moet_fail(MOET_INVALID, "%s: '%.40s' is no whole number between %lld and %lld", what, text,
                         (long long)min, (long long)max);
    }
    MOET_TRY(check_range(parsed, what, min, max));
    *value = parsed;
    return MOET_OK;
}

moet_status moet_parse_decimal(const char *text, const char *what, double min, double max, double *value)
{
    size_t whole = strspn(text, "0123456789");
    const char *rest = text + whole;
    size_t fraction = *rest == '.' ? strspn(rest + 1, "0123456789") : 0;
    const char *end = *rest == '.' ? rest + 1 + fraction : rest;
    if (whole == 0 || (*rest == '.' && fraction == 0) || *end != '\0' || end - text > 32) {
        return moet_fail(MOET_INVALID, "%s: '%.40s' is no decimal number such as 0.43", what, text);
    }
    double parsed = strtod(text, NULL);
    if (!(parsed >= min && parsed <= max)) {
        return moet_fail(MOET_INVALID, "%s: %.32s is not between %g and %g", what, text, min, max);
    }
    *value = parsed;
    return MOET_OK;
}

/* ---- lists ---- */

static moet_status add_value(moet_int_list *list, const char *what, int64_t value)
{
    for (int32_t i = 0; i < list->count; i++) {
        if (list->values[i] == value) {
            return MOET_OK;
        }
    }
    if (list->count == MOET_PARSE_MAX_VALUES) {
        return moet_fail(MOET_INVALID, "%s: more than %d values", what, MOET_PARSE_MAX_VALUES);
    }
    list->values[list->count++] = value;
    return MOET_OK;
}

/* One item, a number or a range, at *at. */
static moet_status read_item(const char **at, const char *what, int64_t min, int64_t max, moet_int_list *list)
{
    int64_t first = 0, last = 0, step = 0;
    if (!read_digits(at, &first)) {
        return moet_fail(MOET_INVALID, "%s: '%.40s' is no number; give %s", what, *at, MOET_PARSE_LIST_FORMS);
    }
    MOET_TRY(check_range(first, what, min, max));
    if (strncmp(*at, "..", 2) != 0) {
        return add_value(list, what, first);
    }
    *at += 2;
    if (!read_digits(at, &last)) {
        return moet_fail(MOET_INVALID, "%s: '%.40s' is no end of a range; give %s", what, *at, MOET_PARSE_LIST_FORMS);
    }
    MOET_TRY(check_range(last, what, min, max));
    char kind = **at;
    if (kind != 'x' && kind != '+') {
        return moet_fail(MOET_INVALID, "%s: a range needs its step; give %s", what, MOET_PARSE_LIST_FORMS);
    }
    *at += 1;
    if (!read_digits(at, &step)) {
        return moet_fail(MOET_INVALID, "%s: '%.40s' is no step of a range; give %s", what, *at, MOET_PARSE_LIST_FORMS);
    }
    if (last < first) {
        return moet_fail(MOET_INVALID, "%s: range %lld..%lld runs backwards", what, (long long)first, (long long)last);
    }
    bool multiplies = kind == 'x';
    if (step < (multiplies ? 2 : 1) || (multiplies && first == 0)) {
        return moet_fail(MOET_INVALID, "%s: range %lld..%lld%c%lld never ends", what, (long long)first, (long long)last,
                         kind, (long long)step);
    }
    for (int64_t value = first;;) {
        MOET_TRY(add_value(list, what, value));
        bool beyond = multiplies ? value > last / step : value > last - step;
        if (beyond) {
            return MOET_OK;
        }
        value = multiplies ? value * step : value + step;
    }
}

moet_status moet_parse_list(const char *text, const char *what, int64_t min, int64_t max, moet_int_list *list)
{
    moet_int_list parsed = {.values = malloc(MOET_PARSE_MAX_VALUES * sizeof(int64_t))};
    if (parsed.values == NULL) {
        return moet_fail(MOET_NO_MEMORY, "%s: no memory for a list", what);
    }
    const char *at = text;
    moet_status status = MOET_OK;
    for (;;) {
        status = read_item(&at, what, min, max, &parsed);
        if (status != MOET_OK || *at == '\0') {
            break;
        }
        if (*at != ',') {
            status = moet_fail(MOET_INVALID, "%s: '%.40s' is not understood; give %s", what, at, MOET_PARSE_LIST_FORMS);
            break;
        }
        at++;
    }
    if (status != MOET_OK) {
        moet_int_list_release(&parsed);
        return status;
    }
    *list = parsed;
    return MOET_OK;
}

void moet_int_list_release(moet_int_list *list)
{
    free(list->values);
    *list = (moet_int_list){0};
}

moet_status moet_parse_texts(const char *text, const char *what, moet_text_list *list)
{
    int32_t count = 1;
    for (const char *c = text; *c != '\0'; c++) {
        count += *c == ',';
    }
    char **texts = calloc((size_t)count, sizeof *texts);
    char *copy = strdup(text);
    if (texts == NULL || copy == NULL) {
        free(texts);
        free(copy);
        return moet_fail(MOET_NO_MEMORY, "%s: no memory for a list", what);
    }
    char *rest = copy;
    for (int32_t i = 0; i < count; i++) {
        texts[i] = strsep(&rest, ",");
        if (texts[i][0] == '\0') {
            free(texts);
            free(copy);
            return moet_fail(MOET_INVALID, "%s: an item of '%.40s' is empty", what, text);
        }
    }
    *list = (moet_text_list){.count = count, .texts = texts};
    return MOET_OK;
}

void moet_text_list_release(moet_text_list *list)
{
    if (list->texts != NULL) {
        free(list->texts[0]);
    }
    free(list->texts);
    *list = (moet_text_list){0};
}

/* ---- times and shards ---- */

moet_status moet_parse_time(const char *text, const char *what, int64_t *time_ns)
{
    static const struct {
        char suffix;
        double seconds;
    } units[] = {{'s', 1}, {'m', 60}, {'h', 3600}};
    char number[40];
    size_t length = strlen(text);
    double scale = 1;
    if (length == 0 || length >= sizeof number) {
        return moet_fail(MOET_INVALID, "%s: '%.40s' is no time such as 90s, 5m or 2h", what, text);
    }
    memcpy(number, text, length + 1);
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (number[length - 1] == units[i].suffix) {
            number[length - 1] = '\0';
            scale = units[i].seconds;
            break;
        }
    }
    double value = 0;
    if (moet_parse_decimal(number, what, 0, 1e9, &value) != MOET_OK || value * scale * 1e9 < 1) {
        return moet_fail(MOET_INVALID, "%s: '%.40s' is no time such as 90s, 5m or 2h", what, text);
    }
    if (value * scale > MOET_PARSE_MAX_SECONDS) {
        return moet_fail(MOET_INVALID, "%s: '%.40s' is more than a year (%dh)", what, text,
                         MOET_PARSE_MAX_SECONDS / 3600);
    }
    *time_ns = (int64_t)(value * scale * 1e9);
    return MOET_OK;
}

moet_status moet_parse_shard(const char *text, const char *what, moet_shard *shard)
{
    const char *at = text;
    int64_t index = 0, count = 0;
    bool read = read_digits(&at, &index);
    if (!read || *at != '/' || (at++, !read_digits(&at, &count)) || *at != '\0' || index < 1 || index > count ||
        count > 100000) {
        return moet_fail(MOET_INVALID, "%s: '%.40s' is no shard; give i/n with i from 1 to n, such as 2/4", what, text);
    }
    *shard = (moet_shard){.index = (int32_t)index, .count = (int32_t)count};
    return MOET_OK;
}

moet_status moet_parse_yes(const char *text, const char *what, bool *yes)
{
    if (strcmp(text, "yes") != 0 && strcmp(text, "no") != 0) {
        return moet_fail(MOET_INVALID, "%s: '%.40s' is neither yes nor no", what, text);
    }
    *yes = text[0] == 'y';
    return MOET_OK;
}

moet_status moet_parse_bias(const char *text, const char *what, bool *up, bool *down)
{
    bool both = text == NULL || strcmp(text, "yes") == 0;
    if (!both && strcmp(text, "no") != 0 && strcmp(text, "up") != 0 && strcmp(text, "down") != 0) {
        return moet_fail(MOET_INVALID, "%s: '%.40s' is none of yes, no, up, down", what, text);
    }
    *up = both || text[0] == 'u';
    *down = both || text[0] == 'd';
    return MOET_OK;
}

/* ---- names ---- */

#define MOET_X(name, text) text,
static const char *const op_texts[] = {MOET_OP_TABLE(MOET_X)};
static const char *const layout_texts[] = {MOET_LAYOUT_TABLE(MOET_X)};
static const char *const numerics_texts[] = {MOET_NUMERICS_TABLE(MOET_X)};
static const char *const activation_texts[] = {MOET_ACTIVATION_TABLE(MOET_X)};
static const char *const prob_texts[] = {MOET_PROB_TABLE(MOET_X)};
static const char *const combine_texts[] = {MOET_COMBINE_TABLE(MOET_X)};
#undef MOET_X
#define MOET_X(name, text) " " text
#define OP_CHOICES MOET_OP_TABLE(MOET_X)
#define LAYOUT_CHOICES MOET_LAYOUT_TABLE(MOET_X)
#define NUMERICS_CHOICES MOET_NUMERICS_TABLE(MOET_X)
#define ACTIVATION_CHOICES MOET_ACTIVATION_TABLE(MOET_X)
#define PROB_CHOICES MOET_PROB_TABLE(MOET_X)
#define COMBINE_CHOICES MOET_COMBINE_TABLE(MOET_X)

static moet_status find_text(const char *text, const char *what, const char *const *texts, int32_t count,
                             const char *choices, int32_t *index)
{
    for (int32_t i = 0; i < count; i++) {
        if (strcmp(texts[i], text) == 0) {
            *index = i;
            return MOET_OK;
        }
    }
    return moet_fail(MOET_INVALID, "%s: '%.40s' is none of:%s", what, text, choices);
}

/* Indices of a comma-separated list of distinct names; `indices` holds `count`. */
static moet_status find_texts(const char *text, const char *what, const char *const *texts, int32_t count,
                              const char *choices, int32_t *indices, int32_t *found)
{
    moet_text_list list = {0};
    MOET_TRY(moet_parse_texts(text, what, &list));
    moet_status status = MOET_OK;
    int32_t kept = 0;
    for (int32_t i = 0; i < list.count && status == MOET_OK; i++) {
        int32_t index = 0;
        status = find_text(list.texts[i], what, texts, count, choices, &index);
        bool repeated = false;
        for (int32_t j = 0; j < kept; j++) {
            repeated = repeated || indices[j] == index;
        }
        if (status == MOET_OK && !repeated) {
            indices[kept++] = index;
        }
    }
    moet_text_list_release(&list);
    if (status == MOET_OK) {
        *found = kept;
    }
    return status;
}

const char *moet_op_text(moet_op op) { return op_texts[op]; }

const char *moet_layout_text(moet_layout layout) { return layout_texts[layout]; }

const char *moet_numerics_text(moet_numerics numerics) { return numerics_texts[numerics]; }

moet_status moet_parse_numerics(const char *text, const char *what, moet_numerics *numerics)
{
    int32_t index = 0;
    MOET_TRY(find_text(text, what, numerics_texts, MOET_NUMERICS_COUNT, NUMERICS_CHOICES, &index));
    *numerics = (moet_numerics)index;
    return MOET_OK;
}

moet_status moet_parse_activation(const char *text, const char *what, moet_activation *activation)
{
    int32_t index = 0;
    MOET_TRY(find_text(text, what, activation_texts, MOET_ACTIVATION_COUNT, ACTIVATION_CHOICES, &index));
    *activation = (moet_activation)index;
    return MOET_OK;
}

moet_status moet_parse_prob(const char *text, const char *what, moet_prob *prob)
{
    int32_t index = 0;
    MOET_TRY(find_text(text, what, prob_texts, MOET_PROB_COUNT, PROB_CHOICES, &index));
    *prob = (moet_prob)index;
    return MOET_OK;
}

moet_status moet_parse_combine(const char *text, const char *what, moet_combine *combine)
{
    int32_t index = 0;
    MOET_TRY(find_text(text, what, combine_texts, MOET_COMBINE_COUNT, COMBINE_CHOICES, &index));
    *combine = (moet_combine)index;
    return MOET_OK;
}

moet_status moet_parse_ops(const char *text, const char *what, moet_op_list *list)
{
    int32_t indices[MOET_OP_COUNT], found = 0;
    MOET_TRY(find_texts(text, what, op_texts, MOET_OP_COUNT, OP_CHOICES, indices, &found));
    list->count = found;
    for (int32_t i = 0; i < found; i++) {
        list->ops[i] = (moet_op)indices[i];
    }
    return MOET_OK;
}

moet_status moet_parse_layouts(const char *text, const char *what, moet_layout_list *list)
{
    int32_t indices[MOET_LAYOUT_COUNT], found = 0;
    MOET_TRY(find_texts(text, what, layout_texts, MOET_LAYOUT_COUNT, LAYOUT_CHOICES, indices, &found));
    list->count = found;
    for (int32_t i = 0; i < found; i++) {
        list->layouts[i] = (moet_layout)indices[i];
    }
    return MOET_OK;
}

int32_t moet_text_distance(const char *a, const char *b)
{
    int32_t row[MAX_DISTANCE_LENGTH + 1];
    size_t b_length = strlen(b);
    if (strlen(a) > MAX_DISTANCE_LENGTH || b_length > MAX_DISTANCE_LENGTH) {
        return INT32_MAX;
    }
    for (size_t j = 0; j <= b_length; j++) {
        row[j] = (int32_t)j;
    }
    for (size_t i = 0; a[i] != '\0'; i++) {
        int32_t diagonal = row[0];
        row[0] = (int32_t)i + 1;
        for (size_t j = 0; j < b_length; j++) {
            int32_t replaced = diagonal + (a[i] != b[j]);
            int32_t shifted = (row[j] < row[j + 1] ? row[j] : row[j + 1]) + 1;
            diagonal = row[j + 1];
            row[j + 1] = replaced < shifted ? replaced : shifted;
        }
    }
    return row[b_length];
}
