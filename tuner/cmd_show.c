/* moe-tune show: winners with their margins, every trial, or why one workload's winner won. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "command.h"
#include "label.h"
#include "output.h"
#include "show_ep.h"
#include "store.h"

#define MAX_COLUMNS 32

typedef struct show_options {
    const char *db, *device, *workload, *why;
    bool trials, counters, ep;
    moet_output_format format;
} show_options;

/* ---- what a row shows ---- */

/* A winner, or a trial (then only `trial` is set). */
typedef struct shown {
    const moet_store_trial_row *trial;
    const moet_store_winner_row *winner;
    int64_t fastest_ns; /* of the trial's workload */
    bool brief;         /* text for people: short keys */
} shown;

static void put_device(moet_output *out, const shown *s)
{
    char label[MOET_DEVICE_KEY_SIZE];
    moet_label_device(s->trial->device_key, label);
    moet_output_text(out, s->brief ? label : s->trial->device_key);
}

static void put_problem(moet_output *out, const shown *s)
{
    char label[MOET_KEY_SIZE];
    moet_label_problem(s->trial->problem_key, label);
    moet_output_text(out, s->brief ? label : s->trial->problem_key);
}

/* Percent by which `time` is above `base`; no value where either is missing. */
static double percent_over(int64_t time_ns, int64_t base_ns)
{
    return time_ns > 0 && base_ns > 0 ? 100.0 * ((double)time_ns / (double)base_ns - 1) : (double)NAN;
}

static bool is_timed(const shown *s) { return s->trial->status == MOET_TRIAL_OK && s->trial->median_ns > 0; }

static void put_time(moet_output *out, const shown *s)
{
    moet_output_real(out, is_timed(s) ? (double)s->trial->median_ns / 1e3 : (double)NAN);
}
static void put_noise(moet_output *out, const shown *s)
{
    moet_output_real(out, is_timed(s) ? 100.0 * (double)s->trial->noise_ns / (double)s->trial->median_ns : (double)NAN);
}
static void put_over_fastest(moet_output *out, const shown *s)
{
    moet_output_real(out, is_timed(s) ? percent_over(s->trial->median_ns, s->fastest_ns) : (double)NAN);
}
static void put_efficiency(moet_output *out, const shown *s)
{
    moet_output_real(out, is_timed(s) && s->trial->efficiency > 0 ? 100 * s->trial->efficiency : (double)NAN);
}
static void put_over_runner_up(moet_output *out, const shown *s)
{
    moet_output_real(out, percent_over(s->winner->runner_up.median_ns, s->trial->median_ns));
}
static void put_over_default(moet_output *out, const shown *s)
{
    moet_output_real(out, percent_over(s->winner->default_trial.median_ns, s->trial->median_ns));
}
static void put_runner_up(moet_output *out, const shown *s) { moet_output_text(out, s->winner->runner_up.config); }
static void put_default(moet_output *out, const shown *s) { moet_output_text(out, s->winner->default_trial.config); }
static void put_kind(moet_output *out, const shown *s) { moet_output_text(out, moet_store_kind_name(s->winner->kind)); }
static void put_workload(moet_output *out, const shown *s) { moet_output_text(out, s->trial->workload_name); }
static void put_skew(moet_output *out, const shown *s) { moet_output_text(out, s->trial->skew); }
static void put_rows(moet_output *out, const shown *s) { moet_output_integer(out, s->trial->rows); }
static void put_experts(moet_output *out, const shown *s) { moet_output_integer(out, s->trial->experts); }
static void put_max_over_mean(moet_output *out, const shown *s) { moet_output_real(out, s->trial->max_over_mean); }
static void put_gini(moet_output *out, const shown *s) { moet_output_real(out, s->trial->gini); }
static void put_counts(moet_output *out, const shown *s)
{
    moet_output_counts(out, s->trial->counts, s->trial->experts);
}
static void put_config(moet_output *out, const shown *s) { moet_output_text(out, s->trial->config); }
static void put_status(moet_output *out, const shown *s)
{
    moet_output_text(out, moet_trial_status_name(s->trial->status));
}
static void put_reason(moet_output *out, const shown *s)
{
    const bool is_suspect = s->trial->is_suspect && s->trial->status == MOET_TRIAL_OK;
    moet_output_text(out, is_suspect ? "wrong elsewhere in this problem: it wins nothing" : s->trial->reason);
}
static void put_counts_on(moet_output *out, const shown *s)
{
    moet_output_text(out, s->trial->device_counts ? "device" : "host");
}
static void put_wins(moet_output *out, const shown *s)
{
    bool any = s->trial->is_winner[MOET_TABLE_ANY], device = s->trial->is_winner[MOET_TABLE_DEVICE_COUNTS];
    moet_output_text(out, any && device ? "any,device_counts" : any ? "any" : device ? "device_counts" : "");
}
static void put_samples(moet_output *out, const shown *s) { moet_output_integer(out, s->trial->sample_count); }
static void put_is_default(moet_output *out, const shown *s) { moet_output_bool(out, s->trial->is_default); }
static void put_final(moet_output *out, const shown *s) { moet_output_bool(out, s->trial->final_rounds); }
static void put_eager(moet_output *out, const shown *s) { moet_output_bool(out, s->trial->eager); }
static void put_current(moet_output *out, const shown *s) { moet_output_bool(out, s->trial->is_current); }
static void put_version(moet_output *out, const shown *s) { moet_output_integer(out, s->trial->family_version); }
static void put_validator(moet_output *out, const shown *s) { moet_output_text(out, s->trial->validator); }
static void put_error(moet_output *out, const shown *s) { moet_output_real(out, s->trial->error); }
static void put_bit_class(moet_output *out, const shown *s) { moet_output_text(out, s->trial->bit_class); }
static void put_cubins(moet_output *out, const shown *s)
{
    char text[MOET_MAX_CUBINS * MOET_SHA256_TEXT_SIZE] = ""; /* a comma has a NUL's room */
    size_t used = 0;
    for (int32_t i = 0; i < s->trial->cubin_count; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s", i ? "," : "", s->trial->cubins[i].sha256);
    moet_output_text(out, text);
}
static void put_effort(moet_output *out, const shown *s)
{
    moet_output_text(out, moet_effort_rule_of(s->trial->effort)->name);
}
static void put_measured_at(moet_output *out, const shown *s) { moet_output_text(out, s->trial->measured_at); }

/* ---- columns ---- */

typedef struct show_column {
    moet_output_column column;
    void (*put)(moet_output *out, const shown *s);
    bool brief; /* in text too; CSV and JSON have every column */
} show_column;

static const show_column winner_columns[] = {
    {{"device", MOET_OUTPUT_TEXT, 0}, put_device, true},
    {{"problem", MOET_OUTPUT_TEXT, 0}, put_problem, true},
    {{"workload", MOET_OUTPUT_TEXT, 0}, put_workload, true},
    {{"rows", MOET_OUTPUT_INTEGER, 0}, put_rows, true},
    {{"skew", MOET_OUTPUT_TEXT, 0}, put_skew, true},
    {{"experts", MOET_OUTPUT_INTEGER, 0}, put_experts, false},
    {{"max_over_mean", MOET_OUTPUT_REAL, 4}, put_max_over_mean, false},
    {{"gini", MOET_OUTPUT_REAL, 4}, put_gini, false},
    {{"counts", MOET_OUTPUT_COUNTS, 0}, put_counts, false},
    {{"kind", MOET_OUTPUT_TEXT, 0}, put_kind, true},
    {{"config", MOET_OUTPUT_TEXT, 0}, put_config, true},
    {{"time_us", MOET_OUTPUT_REAL, 3}, put_time, true},
    {{"noise_pct", MOET_OUTPUT_REAL, 2}, put_noise, true},
    {{"over_runner_up_pct", MOET_OUTPUT_REAL, 1}, put_over_runner_up, true},
    {{"over_default_pct", MOET_OUTPUT_REAL, 1}, put_over_default, true},
    {{"efficiency_pct", MOET_OUTPUT_REAL, 1}, put_efficiency, true},
    {{"runner_up", MOET_OUTPUT_TEXT, 0}, put_runner_up, false},
    {{"default", MOET_OUTPUT_TEXT, 0}, put_default, false},
    {{"effort", MOET_OUTPUT_TEXT, 0}, put_effort, false},
};

static const show_column trial_columns[] = {
    {{"device", MOET_OUTPUT_TEXT, 0}, put_device, true},
    {{"problem", MOET_OUTPUT_TEXT, 0}, put_problem, true},
    {{"workload", MOET_OUTPUT_TEXT, 0}, put_workload, true},
    {{"rows", MOET_OUTPUT_INTEGER, 0}, put_rows, true},
    {{"skew", MOET_OUTPUT_TEXT, 0}, put_skew, true},
    {{"experts", MOET_OUTPUT_INTEGER, 0}, put_experts, false},
    {{"max_over_mean", MOET_OUTPUT_REAL, 4}, put_max_over_mean, false},
    {{"gini", MOET_OUTPUT_REAL, 4}, put_gini, false},
    {{"counts", MOET_OUTPUT_COUNTS, 0}, put_counts, false},
    {{"config", MOET_OUTPUT_TEXT, 0}, put_config, true},
    {{"counts_on", MOET_OUTPUT_TEXT, 0}, put_counts_on, true},
    {{"status", MOET_OUTPUT_TEXT, 0}, put_status, true},
    {{"time_us", MOET_OUTPUT_REAL, 3}, put_time, true},
    {{"over_fastest_pct", MOET_OUTPUT_REAL, 1}, put_over_fastest, true},
    {{"noise_pct", MOET_OUTPUT_REAL, 2}, put_noise, true},
    {{"efficiency_pct", MOET_OUTPUT_REAL, 1}, put_efficiency, true},
    {{"samples", MOET_OUTPUT_INTEGER, 0}, put_samples, true},
    {{"final", MOET_OUTPUT_BOOL, 0}, put_final, true},
    {{"default", MOET_OUTPUT_BOOL, 0}, put_is_default, true},
    {{"eager", MOET_OUTPUT_BOOL, 0}, put_eager, false},
    {{"current", MOET_OUTPUT_BOOL, 0}, put_current, false},
    {{"version", MOET_OUTPUT_INTEGER, 0}, put_version, false},
    {{"validator", MOET_OUTPUT_TEXT, 0}, put_validator, false},
    {{"error", MOET_OUTPUT_REAL, 4}, put_error, false},
    {{"bit_class", MOET_OUTPUT_TEXT, 0}, put_bit_class, false},
    {{"cubins", MOET_OUTPUT_TEXT, 0}, put_cubins, false},
    {{"measured_at", MOET_OUTPUT_TEXT, 0}, put_measured_at, false},
    {{"effort", MOET_OUTPUT_TEXT, 0}, put_effort, false},
    {{"wins", MOET_OUTPUT_TEXT, 0}, put_wins, true},
    {{"reason", MOET_OUTPUT_TEXT, 0}, put_reason, true},
};
_Static_assert(sizeof winner_columns / sizeof winner_columns[0] <= MAX_COLUMNS, "room for every column");
_Static_assert(sizeof trial_columns / sizeof trial_columns[0] <= MAX_COLUMNS, "room for every column");

/* ---- the walk ---- */

typedef struct show {
    moet_output *out;
    moet_output_column columns[MAX_COLUMNS];
    const show_column *chosen[MAX_COLUMNS];
    int32_t column_count;
    bool brief;
    int64_t rows; /* printed */
    /* the workload of the latest trial and its fastest time */
    int64_t workload_id, fastest_ns;
    char device_key[MOET_DEVICE_KEY_SIZE], problem_key[MOET_STORE_PROBLEM_SIZE];
} show;

static void choose_columns(show *w, const show_column *columns, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        if (w->brief && !columns[i].brief) continue;
        w->columns[w->column_count] = columns[i].column;
        w->chosen[w->column_count++] = &columns[i];
    }
}

static void put_row(show *w, const shown *s)
{
    for (int32_t i = 0; i < w->column_count; i++) w->chosen[i]->put(w->out, s);
    w->rows++;
}

static moet_status show_winner(void *context, const moet_store_winner_row *row)
{
    show *w = context;
    put_row(w, &(shown){.trial = &row->trial, .winner = row, .brief = w->brief});
    return MOET_OK;
}

static moet_status show_trial(void *context, const moet_store_trial_row *row)
{
    show *w = context;
    /* Trials of a workload come by time, the timed ones first. */
    if (w->workload_id != row->workload_id || strcmp(w->device_key, row->device_key) != 0 ||
        strcmp(w->problem_key, row->problem_key) != 0) {
        w->workload_id = row->workload_id;
        w->fastest_ns = row->median_ns;
        snprintf(w->device_key, sizeof w->device_key, "%s", row->device_key);
        snprintf(w->problem_key, sizeof w->problem_key, "%s", row->problem_key);
    }
    put_row(w, &(shown){.trial = row, .fastest_ns = w->fastest_ns, .brief = w->brief});
    return MOET_OK;
}

static moet_status show_all(const show_options *options, moet_store *store, show *w)
{
    bool trials = options->trials || options->why;
    moet_store_filter filter = {.device_key = options->device, .name = options->why ? options->why : options->workload};
    w->brief = options->format == MOET_FORMAT_TEXT;
    if (trials)
        choose_columns(w, trial_columns, MOET_COUNT_OF(trial_columns));
    else
        choose_columns(w, winner_columns, MOET_COUNT_OF(winner_columns));
    MOET_TRY(moet_output_create(stdout, options->format, w->columns, w->column_count, &w->out));
    moet_status status = trials ? moet_store_each_trial(store, &filter, show_trial, w)
                                : moet_store_each_winner(store, &filter, show_winner, w);
    moet_status finished = moet_output_finish(w->out);
    if (status != MOET_OK) return status;
    if (finished != MOET_OK) return finished;
    if (w->rows > 0) return MOET_OK;
    if (options->why)
        return moet_fail(MOET_NOT_FOUND,
                         "no trial of workload '%s' in '%s'; moe-tune show --trials lists what is there", options->why,
                         options->db);
    moet_command_note("'%s' has no %s%s", options->db, trials ? "trial" : "winner",
                      options->device || filter.name ? " that these options choose" : " yet; run moe-tune sweep");
    return MOET_OK;
}

/* ---- counters ---- */

static const moet_output_column counter_columns[] = {
    {"device", MOET_OUTPUT_TEXT, 0},    {"problem", MOET_OUTPUT_TEXT, 0}, {"workload", MOET_OUTPUT_TEXT, 0},
    {"rows", MOET_OUTPUT_INTEGER, 0},   {"skew", MOET_OUTPUT_TEXT, 0},    {"config", MOET_OUTPUT_TEXT, 0},
    {"counts_on", MOET_OUTPUT_TEXT, 0}, {"tool", MOET_OUTPUT_TEXT, 0},    {"position", MOET_OUTPUT_INTEGER, 0},
    {"kernel", MOET_OUTPUT_TEXT, 0},    {"metric", MOET_OUTPUT_TEXT, 0},  {"value", MOET_OUTPUT_REAL, 3},
};

typedef struct counters_walk {
    moet_store *store;
    moet_output *out;
    const moet_store_trial_row *trial; /* at hand */
    bool brief;
    int64_t rows;
} counters_walk;

static moet_status show_counter(void *context, const char *tool, const moet_store_counter *counter)
{
    counters_walk *w = context;
    const shown s = {.trial = w->trial, .brief = w->brief};
    put_device(w->out, &s);
    put_problem(w->out, &s);
    put_workload(w->out, &s);
    put_rows(w->out, &s);
    put_skew(w->out, &s);
    put_config(w->out, &s);
    put_counts_on(w->out, &s);
    moet_output_text(w->out, tool);
    moet_output_integer(w->out, counter->position);
    moet_output_text(w->out, counter->kernel);
    moet_output_text(w->out, counter->metric);
    moet_output_real(w->out, counter->value);
    w->rows++;
    return MOET_OK;
}

static moet_status show_counters_of(void *context, const moet_store_trial_row *row)
{
    counters_walk *w = context;
    w->trial = row;
    return moet_store_each_counter(w->store, row->trial_id, show_counter, w);
}

static moet_status show_counters(const show_options *options, moet_store *store)
{
    const moet_store_filter filter = {.device_key = options->device, .name = options->workload, .ok_only = true};
    counters_walk w = {.store = store, .brief = options->format == MOET_FORMAT_TEXT};
    MOET_TRY(moet_output_create(stdout, options->format, counter_columns, MOET_COUNT_OF(counter_columns), &w.out));
    moet_status status = moet_store_each_trial(store, &filter, show_counters_of, &w);
    moet_status finished = moet_output_finish(w.out);
    if (status == MOET_OK && finished == MOET_OK && w.rows == 0) {
        moet_command_note("'%s' has no counters%s", options->db,
                          options->device || filter.name ? " that these options choose"
                                                         : " yet; moe-tune profile --db puts them there");
    }
    return status == MOET_OK ? finished : status;
}

/* ---- the expert-parallel layer ---- */

static moet_status show_ep(const show_options *options, moet_store *store)
{
    int64_t rows = 0;
    MOET_TRY(moet_show_ep(store, options->device, options->trials, options->format, &rows));
    if (rows == 0) {
        moet_command_note("'%s' has no trial of the expert-parallel layer%s", options->db,
                          options->device ? " on such a device" : " yet; moe-tune ep --db puts them there");
    }
    return MOET_OK;
}

/* ---- command ---- */

enum {
    OPTION_DB = 256,
    OPTION_TRIALS,
    OPTION_COUNTERS,
    OPTION_EP,
    OPTION_WHY,
    OPTION_DEVICE,
    OPTION_WORKLOAD,
    OPTION_FORMAT
};

static const struct argp_option options_table[] = {
    {"db", OPTION_DB, "FILE", 0, "database of moe-tune sweep (default moe-tune.db)", 0},
    {"trials", OPTION_TRIALS, NULL, 0, "every trial instead of the winners", 0},
    {"counters", OPTION_COUNTERS, NULL, 0, "what `profile --db` counted, instead of the winners", 0},
    {"ep", OPTION_EP, NULL, 0, "the expert-parallel layer's winners, or with --trials its trials, of `ep --db`", 0},
    {"why", OPTION_WHY, "WORKLOAD", 0,
     "every candidate of a workload (NAME, NAME/ROWS or NAME/ROWS/SKEW) with its time or "
     "the reason for its refusal",
     0},
    {"workload", OPTION_WORKLOAD, "NAME", 0, "only this workload; NAME as for --why", 0},
    {"device", OPTION_DEVICE, "TEXT", 0, "only devices whose key holds TEXT", 0},
    {"format", OPTION_FORMAT, "FORMAT", 0, "text, csv or json (default text)", 0},
    {0},
};

static error_t parse_option(int key, char *argument, struct argp_state *state)
{
    show_options *options = state->input;
    switch (key) {
    case OPTION_DB:
        options->db = argument;
        return 0;
    case OPTION_TRIALS:
        options->trials = true;
        return 0;
    case OPTION_COUNTERS:
        options->counters = true;
        return 0;
    case OPTION_EP:
        options->ep = true;
        return 0;
    case OPTION_WHY:
        options->why = argument;
        return 0;
    case OPTION_WORKLOAD:
        options->workload = argument;
        return 0;
    case OPTION_DEVICE:
        options->device = argument;
        return 0;
    case OPTION_FORMAT:
        moet_command_check(state, moet_output_format_parse(argument, &options->format));
        return 0;
    case ARGP_KEY_END:
        if (options->counters && (options->trials || options->why)) {
            argp_error(state, "--counters goes with neither --trials nor --why; --workload NAME chooses");
        } else if (options->why && options->workload) {
            argp_error(state, "--why and --workload both name a workload: give one of them");
        }
        if (options->ep && (options->counters || options->why || options->workload)) {
            argp_error(state, "--ep goes with --trials and --device only");
        }
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    .options = options_table,
    .parser = parse_option,
    .doc = MOET_COMMAND_DOC(
        "Shows winners with their margins and noise, or every trial.", "moe-tune show --db moe-tune.db",
        "A margin is how much longer the runner-up (the fastest other config) or the family default takes; a tie "
        "within the noise goes to the default, so it may be below 0. Text is for people; CSV and JSON (one object "
        "a "
        "line) have every column."),
};

static int run_show(int argc, char **argv)
{
    show_options options = {.db = "moe-tune.db"};
    int code = moet_command_parse(&argp, argc, argv, &options);
    if (code != MOET_EXIT_OK) return code;
    show w = {.workload_id = -1};
    moet_store *store = NULL;
    moet_status status = moet_store_open(options.db, MOET_STORE_READ, &store);
    if (status == MOET_OK) {
        status = options.ep         ? show_ep(&options, store)
                 : options.counters ? show_counters(&options, store)
                                    : show_all(&options, store, &w);
    }
    moet_store_close(store);
    return moet_command_fail(status);
}

const moet_command moet_command_show = {
    .name = "show",
    .summary = "show winners with their margins and noise, or every trial",
    .example = "moe-tune show --why deepseek-v3/ep32/512",
    .run = run_show,
    .argp = &argp,
};
