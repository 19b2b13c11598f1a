/* trace: how many rows each expert got, pass by pass, as programs that serve and train dump it (docs/workloads.md). A
 * pass is one layer of one step; its counts are over the experts of all ranks.
 *
 *   csv        a header line; columns step, layer, expert, count, or step, layer, e0, e1, ...; others are ignored
 *   jsonl      {"step":0,"layer":3,"counts":[...]} a line; others are ignored
 *   json       one object with logical_count (SGLang), expert_load_window (vLLM), ...: arrays as those of npy
 *   npy        [experts], [layers, experts] or [steps, layers, experts], integers or floats that are whole numbers
 *   workloads  what moet_record_save and this program write: no trace, but recognised here
 *
 * Step and layer may be missing: a line's step is then its place in the file (long csv: 0), its layer 0. */
#ifndef MOET_TRACE_H
#define MOET_TRACE_H

#include "../src/status.h"

#define MOET_TRACE_MAX_EXPERTS 65536
#define MOET_TRACE_MAX_COUNT (1LL << 53)
#define MOET_TRACE_MAX_INDEX 1000000000 /* of a step or layer */

typedef struct moet_trace_pass {
    int64_t step, layer;
} moet_trace_pass;

typedef struct moet_trace {
    int32_t experts; /* of every pass, over all ranks */
    int64_t count, capacity;
    moet_trace_pass *passes; /* [count], in the file's order; long csv: by step, then layer */
    int64_t *counts;         /* [count, experts], each 0 to MOET_TRACE_MAX_COUNT */
} moet_trace;
void moet_trace_release(moet_trace *trace);

/* name, what --format takes */
#define MOET_TRACE_FORMAT_TABLE(X)                                                                                     \
    X(AUTO, "auto") X(CSV, "csv") X(JSONL, "jsonl") X(JSON, "json") X(NPY, "npy") X(WORKLOADS, "workloads")
typedef enum moet_trace_format {
#define MOET_X(name, text) MOET_TRACE_##name,
    MOET_TRACE_FORMAT_TABLE(MOET_X)
#undef MOET_X
        MOET_TRACE_FORMAT_COUNT
} moet_trace_format;
/* INVALID names the text and the formats. */
moet_status moet_trace_format_parse(const char *text, moet_trace_format *format);

/* Reads a file that holds at least one pass. A format of AUTO becomes what the content is; where that is WORKLOADS
 * nothing is read and the trace stays as it was. experts: of all ranks, 0: as the file has it (long csv: one more than
 * the greatest). MALFORMED names file and line or field; UNSUPPORTED, for files of torch, numpy.savez and safetensors,
 * the command that converts them; NOT_FOUND, IO, NO_MEMORY. */
moet_status moet_trace_read(const char *path, int32_t experts, moet_trace_format *format, moet_trace *trace);
/* A file's content, malloc'd with a NUL behind it; "-" is stdin, and pipes are read to their end: once, so that who
 * may find workloads in one takes load and parse. NOT_FOUND, IO, MALFORMED (too large), NO_MEMORY. */
moet_status moet_trace_load(const char *path, char **bytes, size_t *size_bytes);
/* The same as moet_trace_read of a file's content, which is written to and has a NUL behind its size_bytes; path is for
 * messages, and how it ends tells formats too. */
moet_status moet_trace_parse(char *bytes, size_t size_bytes, const char *path, int32_t experts,
                             moet_trace_format *format, moet_trace *trace);

/* ---- for the readers, trace_csv.c and trace_json.c ---- */

/* Adds a pass whose counts, *counts, are zeros to be filled before the next is added. MALFORMED, in words that begin
 * with `where`: a step or layer out of bounds, another number of experts than the passes before. */
moet_status moet_trace_add(moet_trace *trace, const char *where, int64_t step, int64_t layer, int64_t experts,
                           int64_t **counts);
/* MALFORMED where the value is no whole number from 0 to MOET_TRACE_MAX_COUNT. */
moet_status moet_trace_count(double value, const char *where, int64_t expert, int64_t *count);

/* text has a NUL behind its size_bytes; path is for messages. */
moet_status moet_trace_read_csv(char *text, const char *path, int32_t experts, moet_trace *trace);
moet_status moet_trace_read_jsonl(const char *text, size_t size_bytes, const char *path, moet_trace *trace);
moet_status moet_trace_read_json(const char *text, size_t size_bytes, const char *path, moet_trace *trace);
/* What a text that begins with a brace is: JSONL, JSON or WORKLOADS. */
moet_trace_format moet_trace_json_kind(const char *text, size_t size_bytes);

#endif
