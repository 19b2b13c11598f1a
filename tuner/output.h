/* output: rows of results as aligned text, CSV (RFC 4180) or JSON (one object a line). Columns are declared by a table;
 * a row is one call a column, in order, and ends by itself.
 *
 *   static const moet_output_column columns[] = {
 *       {"workload", MOET_OUTPUT_TEXT, 0}, {"rows", MOET_OUTPUT_INTEGER, 0}, {"time_us", MOET_OUTPUT_REAL, 2}};
 *   moet_output *out = NULL;
 *   moet_output_create(stdout, format, columns, MOET_COUNT_OF(columns), &out);
 *   moet_output_text(out, name); moet_output_integer(out, rows); moet_output_real(out, time_us);
 *   status = moet_output_finish(out);      writes what is buffered, frees; IO where the stream could not be written
 *
 * CSV and JSON rows are written as they end; text rows at the end, when the widths are known. */
#ifndef MOET_OUTPUT_H
#define MOET_OUTPUT_H

#include <stdio.h>

#include "../src/status.h"

/* name, what --format takes */
#define MOET_OUTPUT_FORMAT_TABLE(X) X(TEXT, "text") X(CSV, "csv") X(JSON, "json")
typedef enum moet_output_format {
#define MOET_X(name, text) MOET_FORMAT_##name,
    MOET_OUTPUT_FORMAT_TABLE(MOET_X)
#undef MOET_X
        MOET_FORMAT_COUNT
} moet_output_format;
/* INVALID names the text and the formats. */
moet_status moet_output_format_parse(const char *text, moet_output_format *format);

typedef enum moet_output_type {
    MOET_OUTPUT_TEXT,
    MOET_OUTPUT_INTEGER,
    MOET_OUTPUT_REAL,  /* `decimals` digits after the point; NaN and infinity are printed as no value */
    MOET_OUTPUT_BOOL,  /* text: yes, no; CSV and JSON: true, false */
    MOET_OUTPUT_COUNTS /* integers: "1 2 3"; JSON: [1,2,3] */
} moet_output_type;

typedef struct moet_output_column {
    const char *name; /* heading and JSON member, with its unit: "time_us" */
    moet_output_type type;
    int32_t decimals;
} moet_output_column;

typedef struct moet_output moet_output;

/* The columns must outlive the output. */
moet_status moet_output_create(FILE *stream, moet_output_format format, const moet_output_column *columns,
                               int32_t column_count, moet_output **output);

/* One value of the next column, whose type must be the same (asserted). Errors are kept for finish. NULL text is no
 * value; so is moet_output_none for a column of any type: "-" in text, an empty field in CSV, null in JSON. */
void moet_output_text(moet_output *output, const char *value);
void moet_output_integer(moet_output *output, int64_t value);
void moet_output_real(moet_output *output, double value);
void moet_output_bool(moet_output *output, bool value);
void moet_output_counts(moet_output *output, const int32_t *values, int32_t count);
void moet_output_none(moet_output *output);

/* Writes what is left, flushes the stream (which stays open) and frees the output. NULL is fine. With an error of the
 * caller's at hand, moet_output_finish may be called all the same: the rows so far are printed. */
moet_status moet_output_finish(moet_output *output);

#endif
