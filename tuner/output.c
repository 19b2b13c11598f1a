#include "output.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "utf8.h"

struct moet_output {
    FILE *stream;
    moet_output_format format;
    const moet_output_column *columns;
    int32_t column_count;
    int32_t column; /* of the next value */
    moet_status status;
    /* text only: all cells, row by row */
    char **cells;
    size_t cell_count, cell_capacity;
};

moet_status moet_output_format_parse(const char *text, moet_output_format *format)
{
    static const char *const names[] = {
#define MOET_X(name, text) text,
        MOET_OUTPUT_FORMAT_TABLE(MOET_X)
#undef MOET_X
    };
    for (int32_t i = 0; i < MOET_FORMAT_COUNT; i++) {
        if (strcmp(names[i], text) == 0) {
            *format = (moet_output_format)i;
            return MOET_OK;
        }
    }
    return moet_fail(MOET_INVALID, "format '%s' is unknown; use text, csv or json", text);
}

moet_status moet_output_create(FILE *stream, moet_output_format format, const moet_output_column *columns,
                               int32_t column_count, moet_output **output)
{
    moet_output *result = calloc(1, sizeof *result);
    if (!result) return moet_fail(MOET_NO_MEMORY, "output: out of memory");
    *result = (moet_output){.stream = stream, .format = format, .columns = columns, .column_count = column_count};
    if (format == MOET_FORMAT_CSV) {
        for (int32_t i = 0; i < column_count; i++) fprintf(stream, "%s%s", i ? "," : "", columns[i].name);
        fputs("\r\n", stream);
    }
    *output = result;
    return MOET_OK;
}

/* ---- one value ---- */

static void keep_cell(moet_output *output, const char *value)
{
    if (output->cell_count == output->cell_capacity) {
        size_t capacity = output->cell_capacity ? 2 * output->cell_capacity : 256;
        char **grown = realloc(output->cells, capacity * sizeof *grown);
        if (!grown) goto failed;
        output->cells = grown;
        output->cell_capacity = capacity;
    }
    output->cells[output->cell_count] = strdup(value);
    if (!output->cells[output->cell_count]) goto failed;
    output->cell_count++;
    return;
failed:
    output->status = moet_fail(MOET_NO_MEMORY, "output: out of memory");
}

static void write_json_string(FILE *stream, const char *value)
{
    size_t length;
    fputc('"', stream);
    while (*value) {
        const char *at = moet_utf8_next(&value, &length);
        if (*at == '"' || *at == '\\')
            fprintf(stream, "\\%c", *at);
        else if (length == 1 && *at < 0x20)
            fprintf(stream, "\\u%04x", *at);
        else
            fwrite(at, 1, length, stream);
    }
    fputc('"', stream);
}

static void write_csv_field(FILE *stream, const char *value)
{
    if (!value[strcspn(value, ",\"\r\n")]) {
        fputs(value, stream);
        return;
    }
    fputc('"', stream);
    for (; *value; value++) {
        if (*value == '"') fputc('"', stream);
        fputc(*value, stream);
    }
    fputc('"', stream);
}

/* value NULL: none. quoted: a JSON string, not a number or literal. */
static void put(moet_output *output, const char *value, bool quoted)
{
    if (output->status != MOET_OK) return;
    FILE *stream = output->stream;
    bool first = output->column == 0, last = output->column == output->column_count - 1;
    switch (output->format) {
    case MOET_FORMAT_CSV:
        if (!first) fputc(',', stream);
        if (value) write_csv_field(stream, value);
        if (last) fputs("\r\n", stream);
        break;
    case MOET_FORMAT_JSON:
        fputc(first ? '{' : ',', stream);
        write_json_string(stream, output->columns[output->column].name);
        fputc(':', stream);
        if (value && quoted)
            write_json_string(stream, value);
        else
            fputs(value ? value : "null", stream);
        if (last) fputs("}\n", stream);
        break;
    default:
        keep_cell(output, value ? value : "-");
    }
    output->column = last ? 0 : output->column + 1;
    /* A row that has ended is seen at once by a reader at the other end of a pipe. */
    if (last && output->format != MOET_FORMAT_TEXT && (fflush(stream) != 0 || ferror(stream)))
        output->status = moet_fail(MOET_IO, "output: %s", strerror(errno));
}

static void expect(const moet_output *output, moet_output_type type)
{
    assert(output->columns[output->column].type == type);
    (void)output;
    (void)type;
}

void moet_output_text(moet_output *output, const char *value)
{
    expect(output, MOET_OUTPUT_TEXT);
    put(output, value, true);
}

void moet_output_integer(moet_output *output, int64_t value)
{
    char text[32];
    expect(output, MOET_OUTPUT_INTEGER);
    snprintf(text, sizeof text, "%" PRId64, value);
    put(output, text, false);
}

void moet_output_real(moet_output *output, double value)
{
    char text[352]; /* the longest double has 309 digits before the point */
    expect(output, MOET_OUTPUT_REAL);
    if (!isfinite(value)) {
        put(output, NULL, false);
        return;
    }
    snprintf(text, sizeof text, "%.*f", (int)output->columns[output->column].decimals, value);
    put(output, text, false);
}

void moet_output_bool(moet_output *output, bool value)
{
    expect(output, MOET_OUTPUT_BOOL);
    if (output->format == MOET_FORMAT_TEXT)
        put(output, value ? "yes" : "no", false);
    else
        put(output, value ? "true" : "false", false);
}

void moet_output_counts(moet_output *output, const int32_t *values, int32_t count)
{
    expect(output, MOET_OUTPUT_COUNTS);
    bool json = output->format == MOET_FORMAT_JSON;
    size_t size = (size_t)count * 12 + 3, used = 0;
    char *text = malloc(size);
    if (!text) {
        output->status = moet_fail(MOET_NO_MEMORY, "output: out of memory");
        return;
    }
    text[0] = '\0';
    if (json) used += (size_t)snprintf(text, size, "[");
    for (int32_t i = 0; i < count; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%" PRId32, i ? (json ? "," : " ") : "", values[i]);
    if (json) snprintf(text + used, size - used, "]");
    put(output, text, false);
    free(text);
}

void moet_output_none(moet_output *output) { put(output, NULL, false); }

/* ---- text table ---- */

/* Columns that a UTF-8 text takes on a terminal, wide characters aside. */
static size_t text_width(const char *text)
{
    size_t width = 0;
    for (; *text; text++) width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

static void write_text_cell(const moet_output *output, const char *cell, int32_t column, size_t width)
{
    moet_output_type type = output->columns[column].type;
    bool right = type == MOET_OUTPUT_INTEGER || type == MOET_OUTPUT_REAL;
    bool last = column == output->column_count - 1;
    int pad = (int)(width - text_width(cell));
    fprintf(output->stream, "%s%*s%s", column ? "  " : "", right ? pad : 0, "", cell);
    if (!right && !last) fprintf(output->stream, "%*s", pad, "");
    if (last) fputc('\n', output->stream);
}

static void write_text(moet_output *output)
{
    size_t columns = (size_t)output->column_count;
    size_t *widths = calloc(columns, sizeof *widths);
    if (!widths) {
        output->status = moet_fail(MOET_NO_MEMORY, "output: out of memory");
        return;
    }
    for (size_t i = 0; i < columns; i++) widths[i] = text_width(output->columns[i].name);
    for (size_t i = 0; i < output->cell_count; i++) {
        size_t width = text_width(output->cells[i]);
        if (width > widths[i % columns]) widths[i % columns] = width;
    }
    for (int32_t i = 0; i < output->column_count; i++) write_text_cell(output, output->columns[i].name, i, widths[i]);
    for (size_t i = 0; i < output->cell_count; i++)
        write_text_cell(output, output->cells[i], (int32_t)(i % columns), widths[i % columns]);
    free(widths);
}

moet_status moet_output_finish(moet_output *output)
{
    if (!output) return MOET_OK;
    assert(output->column == 0 || output->status != MOET_OK);
    if (output->status == MOET_OK && output->format == MOET_FORMAT_TEXT) write_text(output);
    if (output->status == MOET_OK && (fflush(output->stream) != 0 || ferror(output->stream)))
        output->status = moet_fail(MOET_IO, "output: %s", strerror(errno));
    moet_status status = output->status;
    for (size_t i = 0; i < output->cell_count; i++) free(output->cells[i]);
    free(output->cells);
    free(output);
    return status;
}
