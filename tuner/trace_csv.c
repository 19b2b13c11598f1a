/* trace_csv.c: traces as comma-separated values, long (a line an expert) or wide (a column an expert). Fields are whole
 * numbers, which programs write in quotes or as 5.0 too; a column that is not asked for may hold anything in a line, in
 * quotes commas as well (RFC 4180). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "parse.h"
#include "trace.h"

#define MAX_WHERE 300

enum role { STEP, LAYER, EXPERT, COUNT, OTHER, FIRST_EXPERT };
static const char *const role_names[] = {[STEP] = "step", [LAYER] = "layer", [EXPERT] = "expert", [COUNT] = "count"};

typedef struct csv_header {
    int32_t column_count;
    int32_t *roles;  /* [column_count]: a role, FIRST_EXPERT + e for the column of expert e */
    int32_t experts; /* wide ones; 0: a long file */
    bool has_step;
} csv_header;

/* One line of a long file. */
typedef struct csv_record {
    int64_t step, layer, expert, count, line;
} csv_record;

typedef struct csv_records {
    int64_t count, capacity;
    csv_record *items;
} csv_records;

/* The next line, cut off at its end; NULL behind the last one. */
static char *next_line(char **rest)
{
    char *line = *rest == NULL || **rest == '\0' ? NULL : strsep(rest, "\n");
    if (line != NULL) {
        line[strcspn(line, "\r")] = '\0';
    }
    return line;
}

static char *trim(char *field)
{
    field += strspn(field, " \t");
    for (size_t n = strlen(field); n > 0 && (field[n - 1] == ' ' || field[n - 1] == '\t'); n--) {
        field[n - 1] = '\0';
    }
    return field;
}

/* The quote that ends a field which begins with one, a doubled one being content; NULL where none does: then a quote is
 * a character like others. */
static char *closing_quote(char *field)
{
    char *at = field;
    while ((at = strchr(at + 1, '"')) != NULL && at[1] == '"') at++;
    const size_t spaces = at != NULL ? strspn(at + 1, " \t") : 0;
    return at != NULL && (at[1 + spaces] == ',' || at[1 + spaces] == '\0') ? at : NULL;
}

/* The next field without the spaces and quotes around it. */
static char *next_field(char **rest)
{
    char *begin = *rest != NULL ? *rest + strspn(*rest, " \t") : NULL;
    char *end = begin != NULL && *begin == '"' ? closing_quote(begin) : NULL;
    if (end != NULL) {
        *rest = end + 1;
        strsep(rest, ","); /* nothing but spaces is before it */
        *end = '\0';
        return trim(begin + 1);
    }
    char *field = strsep(rest, ",");
    return field != NULL ? trim(field) : NULL;
}

/* 5.0 is what programs write whose columns are floats: cuts the fraction off where it is none. */
static void cut_fraction(char *field)
{
    const size_t whole = strspn(field, "0123456789");
    if (whole > 0 && field[whole] == '.' && field[whole + 1 + strspn(field + whole + 1, "0")] == '\0') {
        field[whole] = '\0';
    }
}

/* ---- the header ---- */

static int32_t role_of(const char *name)
{
    int64_t expert = 0;
    for (int32_t i = 0; i < OTHER; i++) {
        if (strcmp(name, role_names[i]) == 0) {
            return i;
        }
    }
    const bool is_expert = name[0] == 'e' && name[1] >= '0' && name[1] <= '9' &&
                           moet_parse_integer(name + 1, "column", 0, MOET_TRACE_MAX_EXPERTS - 1, &expert) == MOET_OK;
    return is_expert ? FIRST_EXPERT + (int32_t)expert : OTHER;
}

/* Each wanted column once, and those of one of the two forms. */
static moet_status check_header(const char *path, csv_header *h)
{
    const int32_t most = FIRST_EXPERT + h->column_count; /* more columns than there are would leave one out */
    int32_t *places = calloc((size_t)most, sizeof *places);
    moet_status status = MOET_OK;
    if (places == NULL) {
        return moet_fail(MOET_NO_MEMORY, "%s: no memory for %d columns", path, h->column_count);
    }
    for (int32_t i = 0; i < h->column_count && status == MOET_OK; i++) {
        const int32_t role = h->roles[i];
        h->experts += role >= FIRST_EXPERT;
        if (role >= most) {
            status = moet_fail(MOET_MALFORMED, "%s:1: a column e%d, but not one for each expert before it", path,
                               role - FIRST_EXPERT);
        } else if (role != OTHER && places[role]++ > 0) {
            status = moet_fail(MOET_MALFORMED, "%s:1: columns %d and one before it have the same name", path, i + 1);
        }
    }
    for (int32_t e = 0; e < h->experts && status == MOET_OK; e++) {
        if (places[FIRST_EXPERT + e] == 0) {
            status = moet_fail(MOET_MALFORMED, "%s:1: column e%d is missing", path, e);
        }
    }
    if (status == MOET_OK && h->experts == 0 && (places[EXPERT] == 0 || places[COUNT] == 0)) {
        status =
            moet_fail(MOET_MALFORMED,
                      "%s:1: the first line must name columns step,layer,expert,count or step,layer,e0,e1,...", path);
    }
    h->has_step = places[STEP] > 0;
    free(places);
    return status;
}

/* roles: allocated, also on an error. */
static moet_status read_header(char *line, const char *path, csv_header *h)
{
    int32_t count = 1;
    for (const char *c = line; *c != '\0'; c++) {
        count += *c == ',';
    }
    h->roles = calloc((size_t)count, sizeof *h->roles);
    if (h->roles == NULL) {
        return moet_fail(MOET_NO_MEMORY, "%s: no memory for %d columns", path, count);
    }
    for (char *field = next_field(&line); field != NULL; field = next_field(&line)) {
        h->roles[h->column_count++] = role_of(field);
    }
    return check_header(path, h);
}

/* ---- lines ---- */

/* Reads a line into numbers[OTHER] by role, and counts[experts]. */
static moet_status read_fields(const csv_header *h, char *line, const char *where, int64_t *numbers, int64_t *counts)
{
    int32_t column = 0;
    for (char *field = next_field(&line); field != NULL; field = next_field(&line), column++) {
        if (column == h->column_count) {
            return moet_fail(MOET_MALFORMED, "%s: more than the %d fields that the first line names", where, column);
        }
        const int32_t role = h->roles[column];
        if (role == OTHER) {
            continue;
        }
        char what[MAX_WHERE + 32];
        snprintf(what, sizeof what, "%s: column %d", where, column + 1);
        const int64_t most = role == STEP || role == LAYER ? MOET_TRACE_MAX_INDEX
                             : role == EXPERT              ? MOET_TRACE_MAX_EXPERTS - 1
                                                           : MOET_TRACE_MAX_COUNT;
        int64_t *number = role < OTHER ? &numbers[role] : &counts[role - FIRST_EXPERT];
        cut_fraction(field);
        if (moet_parse_integer(field, what, 0, most, number) != MOET_OK) {
            char message[MAX_WHERE + 200];
            snprintf(message, sizeof message, "%s", moet_last_error());
            return moet_fail(MOET_MALFORMED, "%s", message);
        }
    }
    if (column < h->column_count) {
        return moet_fail(MOET_MALFORMED, "%s: %d fields, the first line names %d", where, column, h->column_count);
    }
    return MOET_OK;
}

static moet_status add_record(csv_records *records, const csv_record *record)
{
    if (records->count == records->capacity) {
        const int64_t capacity = records->capacity == 0 ? 1024 : 2 * records->capacity;
        csv_record *items = realloc(records->items, (size_t)capacity * sizeof *items);
        if (items == NULL) {
            return moet_fail(MOET_NO_MEMORY, "no memory for %lld lines of a trace", (long long)capacity);
        }
        records->items = items;
        records->capacity = capacity;
    }
    records->items[records->count++] = *record;
    return MOET_OK;
}

static int by_place(const void *a, const void *b)
{
    const csv_record *x = a, *y = b;
    const int64_t keys[][2] = {{x->step, y->step}, {x->layer, y->layer}, {x->expert, y->expert}, {x->line, y->line}};
    for (int32_t i = 0; i < MOET_COUNT_OF(keys); i++) {
        if (keys[i][0] != keys[i][1]) {
            return keys[i][0] < keys[i][1] ? -1 : 1;
        }
    }
    return 0;
}

/* A long file's lines into passes; experts 0: one more than the greatest. An expert without a line has no rows. */
static moet_status collect(csv_records *records, const char *path, int32_t experts, moet_trace *trace)
{
    int64_t most = experts, *counts = NULL;
    if (records->count > 0) {
        qsort(records->items, (size_t)records->count, sizeof *records->items, by_place);
    }
    for (int64_t i = 0; i < records->count && experts == 0; i++) {
        most = records->items[i].expert >= most ? records->items[i].expert + 1 : most;
    }
    for (int64_t i = 0; i < records->count; i++) {
        const csv_record *r = &records->items[i], *before = i > 0 ? r - 1 : NULL;
        const bool is_same = before != NULL && before->step == r->step && before->layer == r->layer;
        char where[MAX_WHERE];
        snprintf(where, sizeof where, "%.200s:%lld", path, (long long)r->line);
        if (r->expert >= most) {
            return moet_fail(MOET_MALFORMED, "%s: expert %lld of %lld; --experts says another number", where,
                             (long long)r->expert, (long long)most);
        }
        if (is_same && before->expert == r->expert) {
            return moet_fail(MOET_MALFORMED, "%s: step %lld, layer %lld, expert %lld is there twice, in line %lld too",
                             where, (long long)r->step, (long long)r->layer, (long long)r->expert,
                             (long long)before->line);
        }
        if (!is_same) {
            MOET_TRY(moet_trace_add(trace, where, r->step, r->layer, most, &counts));
        }
        counts[r->expert] = r->count;
    }
    return MOET_OK;
}

moet_status moet_trace_read_csv(char *text, const char *path, int32_t experts, moet_trace *trace)
{
    static const char byte_order_mark[] = "\xef\xbb\xbf";
    csv_header header = {0};
    csv_records records = {0};
    int64_t *counts = NULL;
    if (strncmp(text, byte_order_mark, 3) == 0) {
        text += 3;
    }
    char *line = next_line(&text);
    moet_status status = line != NULL ? read_header(line, path, &header)
                                      : moet_fail(MOET_MALFORMED, "%s is empty; a trace has a header line", path);
    for (int64_t number = 2; status == MOET_OK && (line = next_line(&text)) != NULL; number++) {
        char where[MAX_WHERE];
        int64_t numbers[OTHER] = {0};
        snprintf(where, sizeof where, "%.200s:%lld", path, (long long)number);
        if (line[strspn(line, " \t")] == '\0') {
            continue;
        }
        if (header.experts == 0) {
            status = read_fields(&header, line, where, numbers, NULL);
            const csv_record record = {numbers[STEP], numbers[LAYER], numbers[EXPERT], numbers[COUNT], number};
            if (status == MOET_OK) status = add_record(&records, &record);
            continue;
        }
        int64_t *place = NULL;
        if (counts == NULL) {
            counts = malloc((size_t)header.experts * sizeof *counts);
        }
        status = counts != NULL ? read_fields(&header, line, where, numbers, counts)
                                : moet_fail(MOET_NO_MEMORY, "%s: no memory for %d counts", where, header.experts);
        const int64_t step = header.has_step ? numbers[STEP] : trace->count;
        if (status == MOET_OK) status = moet_trace_add(trace, where, step, numbers[LAYER], header.experts, &place);
        if (status == MOET_OK) memcpy(place, counts, (size_t)header.experts * sizeof *counts);
    }
    if (status == MOET_OK) status = collect(&records, path, experts, trace);
    free(counts);
    free(records.items);
    free(header.roles);
    return status;
}
