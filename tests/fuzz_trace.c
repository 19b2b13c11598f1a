/* libFuzzer: the trace readers. The first byte is what is asked for: from '0' on the formats in the order of
 * MOET_TRACE_FORMAT_TABLE, from '8' on they again with a number of experts. The rest is the file. What is taken must be
 * within its bounds and come back from its own text in three formats. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../tuner/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ASKED_EXPERTS = 4, MOST_NUMBERS = 1 << 14 /* of a trace that is written out again */ };

static void check_bounds(const moet_trace *t)
{
    if (t->count < 1 || t->experts < 1 || t->experts > MOET_TRACE_MAX_EXPERTS) abort();
    for (int64_t i = 0; i < t->count; i++) {
        const moet_trace_pass *pass = &t->passes[i];
        if (pass->step < 0 || pass->step > MOET_TRACE_MAX_INDEX || pass->layer < 0 ||
            pass->layer > MOET_TRACE_MAX_INDEX)
            abort();
    }
    for (int64_t i = 0; i < t->count * t->experts; i++) {
        if (t->counts[i] < 0 || t->counts[i] > MOET_TRACE_MAX_COUNT) abort();
    }
}

/* ---- the trace as text ---- */

static char *write_csv(const moet_trace *t, size_t *size_bytes)
{
    char *text = NULL;
    FILE *file = open_memstream(&text, size_bytes);
    if (!file) abort();
    fprintf(file, "layer,step");
    for (int32_t e = 0; e < t->experts; e++) fprintf(file, ",e%d", e);
    for (int64_t i = 0; i < t->count; i++) {
        fprintf(file, "\n%lld,%lld", (long long)t->passes[i].layer, (long long)t->passes[i].step);
        for (int32_t e = 0; e < t->experts; e++) fprintf(file, ",%lld", (long long)t->counts[i * t->experts + e]);
    }
    fclose(file);
    return text;
}

static void write_counts(FILE *file, const moet_trace *t, int64_t pass)
{
    fputc('[', file);
    for (int32_t e = 0; e < t->experts; e++)
        fprintf(file, "%s%lld", e ? "," : "", (long long)t->counts[pass * t->experts + e]);
    fputc(']', file);
}

static char *write_jsonl(const moet_trace *t, size_t *size_bytes)
{
    char *text = NULL;
    FILE *file = open_memstream(&text, size_bytes);
    if (!file) abort();
    for (int64_t i = 0; i < t->count; i++) {
        fprintf(file, "{\"step\":%lld,\"layer\":%lld,\"counts\":", (long long)t->passes[i].step,
                (long long)t->passes[i].layer);
        write_counts(file, t, i);
        fputs("}\n", file);
    }
    fclose(file);
    return text;
}

/* [layers, experts]: steps and layers are then the places. */
static char *write_json(const moet_trace *t, size_t *size_bytes)
{
    char *text = NULL;
    FILE *file = open_memstream(&text, size_bytes);
    if (!file) abort();
    fputs("{\"logical_count\":[", file);
    for (int64_t i = 0; i < t->count; i++) {
        if (i) fputc(',', file);
        write_counts(file, t, i);
    }
    fputs("]}", file);
    fclose(file);
    return text;
}

typedef struct text_form {
    moet_trace_format format;
    char *(*write)(const moet_trace *trace, size_t *size_bytes);
    bool has_places; /* step and layer */
} text_form;

static void check_again(const moet_trace *t, const text_form *form)
{
    size_t size_bytes = 0;
    moet_trace again = {0};
    moet_trace_format format = MOET_TRACE_AUTO;
    char *text = form->write(t, &size_bytes);
    if (moet_trace_parse(text, size_bytes, "again", t->experts, &format, &again) != MOET_OK) abort();
    if (format != form->format || again.count != t->count || again.experts != t->experts) abort();
    if (memcmp(t->counts, again.counts, (size_t)(t->count * t->experts) * sizeof *t->counts) != 0) abort();
    for (int64_t i = 0; i < t->count && form->has_places; i++) {
        if (t->passes[i].step != again.passes[i].step || t->passes[i].layer != again.passes[i].layer) abort();
    }
    moet_trace_release(&again);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const text_form forms[] = {
        {MOET_TRACE_CSV, write_csv, true}, {MOET_TRACE_JSONL, write_jsonl, true}, {MOET_TRACE_JSON, write_json, false}};
    moet_trace trace = {0};
    if (size == 0) return 0;
    const uint8_t asked = (uint8_t)(data[0] - '0');
    moet_trace_format format = (moet_trace_format)(asked % 8 % MOET_TRACE_FORMAT_COUNT);
    char *bytes = malloc(size); /* exactly: a read behind the NUL is seen */
    if (!bytes) return 0;
    memcpy(bytes, data + 1, size - 1);
    bytes[size - 1] = '\0';
    if (moet_trace_parse(bytes, size - 1, "fuzz", asked >= 8 ? ASKED_EXPERTS : 0, &format, &trace) == MOET_OK &&
        format != MOET_TRACE_WORKLOADS) {
        check_bounds(&trace);
        for (size_t i = 0; i < sizeof forms / sizeof forms[0] && trace.count * trace.experts <= MOST_NUMBERS; i++)
            check_again(&trace, &forms[i]);
    }
    moet_trace_release(&trace);
    free(bytes);
    return 0;
}
