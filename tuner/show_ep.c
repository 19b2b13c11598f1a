#include "show_ep.h"

#include "label.h"

static const moet_output_column columns[] = {
    {"device", MOET_OUTPUT_TEXT, 0},
    {"problem", MOET_OUTPUT_TEXT, 0},
    {"ranks", MOET_OUTPUT_INTEGER, 0},
    {"hosts", MOET_OUTPUT_INTEGER, 0},
    {"choices", MOET_OUTPUT_INTEGER, 0},
    {"returns", MOET_OUTPUT_TEXT, 0},
    {"workload", MOET_OUTPUT_TEXT, 0},
    {"tokens", MOET_OUTPUT_INTEGER, 0},
    {"skew", MOET_OUTPUT_TEXT, 0},
    {"busiest_share", MOET_OUTPUT_REAL, 3},
    {"choice", MOET_OUTPUT_TEXT, 0},
    {"time_us", MOET_OUTPUT_REAL, 3},
    {"noise_pct", MOET_OUTPUT_REAL, 2},
    {"over_default_pct", MOET_OUTPUT_REAL, 1}, /* how much longer the default takes */
    {"default", MOET_OUTPUT_BOOL, 0},
    {"wins", MOET_OUTPUT_BOOL, 0},
    /* text ends here */
    {"asked", MOET_OUTPUT_TEXT, 0},
    {"samples", MOET_OUTPUT_INTEGER, 0},
    {"keeps_counts", MOET_OUTPUT_BOOL, 0},
    {"checked", MOET_OUTPUT_BOOL, 0},
    {"config", MOET_OUTPUT_TEXT, 0},
    {"table", MOET_OUTPUT_TEXT, 0},
    {"measured_at", MOET_OUTPUT_TEXT, 0},
};
enum { BRIEF_COLUMNS = 16 };

typedef struct walk {
    moet_output *out;
    bool trials, brief;
    int64_t rows;
} walk;

static void show_rest(const walk *w, const moet_store_ep_row *row)
{
    moet_output_text(w->out, row->asked);
    moet_output_integer(w->out, row->sample_count);
    moet_output_bool(w->out, row->keeps_counts);
    moet_output_bool(w->out, row->is_checked);
    moet_output_text(w->out, row->config);
    moet_output_text(w->out, row->table_hash[0] ? row->table_hash : NULL);
    moet_output_text(w->out, row->measured_at);
}

static moet_status show_row(void *context, const moet_store_ep_row *row)
{
    walk *w = context;
    char device[MOET_DEVICE_KEY_SIZE], problem[MOET_KEY_SIZE];
    if (!w->trials && !row->is_winner) return MOET_OK;
    moet_label_device(row->device_key, device);
    moet_label_problem(row->problem_key, problem);
    moet_output_text(w->out, w->brief ? device : row->device_key);
    moet_output_text(w->out, w->brief ? problem : row->problem_key);
    moet_output_integer(w->out, row->ranks);
    moet_output_integer(w->out, row->hosts);
    moet_output_integer(w->out, row->choices);
    moet_output_text(w->out, row->returns);
    moet_output_text(w->out, row->name);
    moet_output_integer(w->out, row->tokens);
    moet_output_text(w->out, row->skew);
    moet_output_real(w->out, (double)row->busiest / ((double)row->ranks * (double)row->tokens * row->choices));
    moet_output_text(w->out, row->choice);
    moet_output_real(w->out, (double)row->median_ns * 1e-3);
    moet_output_real(w->out, 100.0 * (double)row->noise_ns / (double)row->median_ns);
    if (row->default_ns > 0)
        moet_output_real(w->out, 100.0 * ((double)row->default_ns / (double)row->median_ns - 1));
    else
        moet_output_none(w->out);
    moet_output_bool(w->out, row->is_default);
    moet_output_bool(w->out, row->is_winner);
    if (!w->brief) show_rest(w, row);
    w->rows++;
    return MOET_OK;
}

moet_status moet_show_ep(moet_store *store, const char *device, bool trials, moet_output_format format, int64_t *rows)
{
    walk w = {.trials = trials, .brief = format == MOET_FORMAT_TEXT};
    MOET_TRY(moet_output_create(stdout, format, columns, w.brief ? BRIEF_COLUMNS : MOET_COUNT_OF(columns), &w.out));
    const moet_status status = moet_store_each_ep(store, device, show_row, &w);
    const moet_status finished = moet_output_finish(w.out);
    *rows = w.rows;
    return status == MOET_OK ? finished : status;
}
