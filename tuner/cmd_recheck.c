/* moe-tune recheck: whether a table's winners still win on this device. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/file.h"
#include "command.h"
#include "interrupt.h"
#include "label.h"
#include "output.h"
#include "parse.h"
#include "progress.h"
#include "recheck.h"
#include "store.h"

#define SUMMARY "whether a table's winners still win on this device"
#define EXAMPLE "moe-tune recheck --table table --save recheck.jsonl"
#define DEFAULT_SECONDS 120

typedef struct recheck_arguments {
    moet_recheck_options recheck;
    const char *save;
    moet_output_format format;
} recheck_arguments;

enum option_key { KEY_TABLE = 256, KEY_SECONDS, KEY_ROUNDS, KEY_SAVE, KEY_DEVICE, KEY_SEED, KEY_FORMAT };

static const struct argp_option options[] = {
    {.name = "table", .key = KEY_TABLE, .arg = "DIR", .doc = "The table"},
    {.name = "seconds",
     .key = KEY_SECONDS,
     .arg = "TIME",
     .doc = "Time for all of it, 90s, 5m (default 2m); 0: as long as every point takes"},
    {.name = "rounds", .key = KEY_ROUNDS, .arg = "N", .doc = "Rounds a point (default 11)"},
    {.name = "save",
     .key = KEY_SAVE,
     .arg = "FILE",
     .doc = "Write what was found to FILE too, for a sweep of what no longer holds"},
    {.name = "device", .key = KEY_DEVICE, .arg = "SPEC", .doc = "auto, host, cuda or cuda:N (default auto)"},
    {.name = "seed", .key = KEY_SEED, .arg = "N", .doc = "Of the inputs (default 1)"},
    {.name = "format", .key = KEY_FORMAT, .arg = "FORMAT", .doc = "text, csv or json (default text)"},
    {0}};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    recheck_arguments *a = state->input;
    int64_t number = 0;
    moet_status status = MOET_OK;
    switch (key) {
    case KEY_TABLE:
        a->recheck.table = arg;
        break;
    case KEY_SECONDS:
        a->recheck.limit_ns = 0;
        status = strcmp(arg, "0") == 0 ? MOET_OK : moet_parse_time(arg, "--seconds", &a->recheck.limit_ns);
        break;
    case KEY_ROUNDS:
        status = moet_parse_integer(arg, "--rounds", 3, 1000, &number);
        a->recheck.rounds = (int32_t)number;
        break;
    case KEY_SAVE:
        a->save = arg;
        break;
    case KEY_DEVICE:
        a->recheck.device = arg;
        break;
    case KEY_SEED:
        status = moet_parse_integer(arg, "--seed", 0, INT64_MAX / 10, &number);
        a->recheck.seed = (uint64_t)number;
        break;
    case KEY_FORMAT:
        status = moet_output_format_parse(arg, &a->format);
        break;
    case ARGP_KEY_END:
        if (a->recheck.table == NULL) {
            argp_error(state, "give --table DIR");
        }
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    moet_command_check(state, status);
    return 0;
}

/* ---- output ---- */

typedef struct shown {
    const moet_recheck_entry *entry;
    const char *device_key, *checked_at;
    bool brief; /* text for people: short keys */
} shown;

static void put_verdict(moet_output *out, const shown *s) { moet_output_text(out, moet_verdict_name(s->entry->verdict)); }

static void put_problem(moet_output *out, const shown *s)
{
    char key[MOET_KEY_SIZE], label[MOET_KEY_SIZE];
    moet_problem_format(&s->entry->problem->problem, key);
    moet_label_problem(key, label);
    moet_output_text(out, s->brief ? label : key);
}

static void put_device(moet_output *out, const shown *s) { moet_output_text(out, s->device_key); }
static void put_workload(moet_output *out, const shown *s) { moet_output_text(out, s->entry->workload); }
static void put_rows(moet_output *out, const shown *s) { moet_output_integer(out, s->entry->point->rows); }
static void put_skew(moet_output *out, const shown *s) { moet_output_text(out, s->entry->skew); }
static void put_kind(moet_output *out, const shown *s) { moet_output_text(out, moet_store_kind_name(s->entry->kind)); }

static void put_tokens(moet_output *out, const shown *s)
{
    if (s->entry->tokens > 0) {
        moet_output_integer(out, s->entry->tokens);
    } else {
        moet_output_none(out);
    }
}

static void put_time(moet_output *out, int64_t time_ns)
{
    moet_output_real(out, time_ns > 0 ? (double)time_ns / 1e3 : (double)NAN);
}

static void put_winner_time(moet_output *out, const shown *s)
{
    put_time(out, s->entry->times[MOET_CONTENDER_WINNER].median_ns);
}

static void put_noise(moet_output *out, const shown *s)
{
    const moet_recheck_time *time = &s->entry->times[MOET_CONTENDER_WINNER];
    moet_output_real(out,
                     time->median_ns > 0 ? 100 * (double)time->noise_ns / (double)time->median_ns : (double)NAN);
}

static void put_tuned_time(moet_output *out, const shown *s) { put_time(out, s->entry->tuned_ns); }

static void put_runner_up_time(moet_output *out, const shown *s)
{
    put_time(out, s->entry->times[MOET_CONTENDER_RUNNER_UP].median_ns);
}

static void put_default_time(moet_output *out, const shown *s)
{
    put_time(out, s->entry->times[MOET_CONTENDER_DEFAULT].median_ns);
}

static void put_error(moet_output *out, const shown *s) { moet_output_real(out, s->entry->error); }

static void put_config(moet_output *out, const char *config) { moet_output_text(out, config[0] != '\0' ? config : NULL); }

static void put_winner(moet_output *out, const shown *s)
{
    put_config(out, s->entry->times[MOET_CONTENDER_WINNER].config);
}

static void put_runner_up(moet_output *out, const shown *s)
{
    put_config(out, s->entry->times[MOET_CONTENDER_RUNNER_UP].config);
}

static void put_default(moet_output *out, const shown *s)
{
    put_config(out, s->entry->times[MOET_CONTENDER_DEFAULT].config);
}

static void put_reason(moet_output *out, const shown *s) { moet_output_text(out, s->entry->reason); }
static void put_checked_at(moet_output *out, const shown *s) { moet_output_text(out, s->checked_at); }

static void put_counts(moet_output *out, const shown *s)
{
    moet_output_counts(out, s->entry->point->counts, s->entry->problem->problem.experts);
}

typedef struct recheck_column {
    moet_output_column column;
    void (*put)(moet_output *out, const shown *s);
    bool brief; /* in text too; CSV and JSON have every column */
} recheck_column;

static const recheck_column all_columns[] = {
    {{"verdict", MOET_OUTPUT_TEXT, 0}, put_verdict, true},
    {{"device", MOET_OUTPUT_TEXT, 0}, put_device, false},
    {{"problem", MOET_OUTPUT_TEXT, 0}, put_problem, true},
    {{"workload", MOET_OUTPUT_TEXT, 0}, put_workload, true},
    {{"rows", MOET_OUTPUT_INTEGER, 0}, put_rows, true},
    {{"skew", MOET_OUTPUT_TEXT, 0}, put_skew, true},
    {{"tokens", MOET_OUTPUT_INTEGER, 0}, put_tokens, false},
    {{"kind", MOET_OUTPUT_TEXT, 0}, put_kind, true},
    {{"time_us", MOET_OUTPUT_REAL, 3}, put_winner_time, true},
    {{"noise_pct", MOET_OUTPUT_REAL, 2}, put_noise, true},
    {{"tuned_us", MOET_OUTPUT_REAL, 3}, put_tuned_time, true},
    {{"runner_up_us", MOET_OUTPUT_REAL, 3}, put_runner_up_time, true},
    {{"default_us", MOET_OUTPUT_REAL, 3}, put_default_time, true},
    {{"error", MOET_OUTPUT_REAL, 4}, put_error, false},
    {{"config", MOET_OUTPUT_TEXT, 0}, put_winner, true},
    {{"runner_up", MOET_OUTPUT_TEXT, 0}, put_runner_up, false},
    {{"default", MOET_OUTPUT_TEXT, 0}, put_default, false},
    {{"counts", MOET_OUTPUT_COUNTS, 0}, put_counts, false},
    {{"checked_at", MOET_OUTPUT_TEXT, 0}, put_checked_at, false},
    {{"reason", MOET_OUTPUT_TEXT, 0}, put_reason, true},
};

/* An output with the columns that its format has. */
typedef struct report {
    moet_output *out;
    moet_output_column columns[MOET_COUNT_OF(all_columns)];
    bool brief;
} report;

static moet_status open_report(FILE *stream, moet_output_format format, report *r)
{
    int32_t count = 0;
    r->brief = format == MOET_FORMAT_TEXT;
    for (int32_t i = 0; i < MOET_COUNT_OF(all_columns); i++) {
        if (!r->brief || all_columns[i].brief) {
            r->columns[count++] = all_columns[i].column;
        }
    }
    return moet_output_create(stream, format, r->columns, count, &r->out);
}

static void put_row(const report *r, const moet_recheck_entry *entry, const char *device_key, const char *checked_at)
{
    const shown s = {entry, device_key, checked_at, r->brief};
    for (int32_t i = 0; i < MOET_COUNT_OF(all_columns); i++) {
        if (!r->brief || all_columns[i].brief) {
            all_columns[i].put(r->out, &s);
        }
    }
}

/* ---- running ---- */

typedef struct recheck_state {
    const recheck_arguments *arguments;
    moet_recheck *recheck;
    report shown, saved; /* saved.out NULL: none */
    FILE *save;          /* in memory until it is whole */
    char *save_text;
    size_t save_bytes;
    char device_key[MOET_DEVICE_KEY_SIZE], checked_at[MOET_MOMENT_SIZE];
    int32_t counts[MOET_VERDICT_COUNT];
    moet_progress progress;
} recheck_state;

static void tell_before(void *context, double part, const moet_recheck_entry *first)
{
    recheck_state *s = context;
    moet_progress_update(&s->progress, part, "%s %lld rows %s: %d hold, %d lost", first->workload,
                         (long long)first->point->rows, first->skew, s->counts[MOET_VERDICT_HOLDS],
                         s->counts[MOET_VERDICT_LOST]);
}

static void tell_entry(void *context, const moet_recheck_entry *entry)
{
    recheck_state *s = context;
    s->counts[entry->verdict]++;
    moet_progress_clear(&s->progress);
    put_row(&s->shown, entry, s->device_key, s->checked_at);
    if (s->saved.out != NULL) {
        put_row(&s->saved, entry, s->device_key, s->checked_at);
    }
}

static moet_status open_save(recheck_state *s)
{
    if (s->arguments->save == NULL) {
        return MOET_OK;
    }
    s->save = open_memstream(&s->save_text, &s->save_bytes);
    if (s->save == NULL) {
        return moet_fail(MOET_NO_MEMORY, "recheck: out of memory");
    }
    return open_report(s->save, MOET_FORMAT_JSON, &s->saved);
}

/* Puts the file in its place, or (not whole) takes it away. */
static moet_status close_save(recheck_state *s, bool is_whole)
{
    moet_status status = s->saved.out != NULL ? moet_output_finish(s->saved.out) : MOET_OK;
    if (s->save != NULL && fclose(s->save) != 0 && status == MOET_OK) {
        status = moet_fail(MOET_NO_MEMORY, "recheck: out of memory");
    }
    if (s->save != NULL && status == MOET_OK && is_whole) {
        status = moet_file_replace(s->arguments->save, s->save_text, s->save_bytes);
    }
    free(s->save_text);
    return status;
}

static void note_driver(const recheck_state *s)
{
    const char *tuned = moet_recheck_driver(s->recheck), *found = moet_recheck_device(s->recheck)->driver;
    if (strcmp(tuned, found) != 0) {
        moet_command_note("%s: tuned with driver %s, found %s: its entries serve, their times are of the other driver",
                          s->arguments->recheck.table, tuned, found);
    }
}

static bool is_interrupted(const recheck_state *s)
{
    return *s->arguments->recheck.interrupted != 0 && s->counts[MOET_VERDICT_LEFT] > 0;
}

/* Entries that a new sweep would mend. */
static int32_t count_broken(const recheck_state *s)
{
    return s->counts[MOET_VERDICT_LOST] + s->counts[MOET_VERDICT_STALE] + s->counts[MOET_VERDICT_WRONG] +
           s->counts[MOET_VERDICT_FAILED];
}

static void note_summary(const recheck_state *s)
{
    const recheck_arguments *a = s->arguments;
    int32_t configs, measured;
    moet_recheck_coverage(s->recheck, &configs, &measured);
    moet_command_note("%s on %s: %d hold, %d lost, %d unclear, %d stale, %d wrong, %d do not run, %d left; %d of %d "
                      "configurations that win were rechecked",
                      a->recheck.table, moet_recheck_device(s->recheck)->name, s->counts[MOET_VERDICT_HOLDS],
                      s->counts[MOET_VERDICT_LOST], s->counts[MOET_VERDICT_UNCLEAR], s->counts[MOET_VERDICT_STALE],
                      s->counts[MOET_VERDICT_WRONG], s->counts[MOET_VERDICT_FAILED], s->counts[MOET_VERDICT_LEFT],
                      measured, configs);
    if (is_interrupted(s)) {
        moet_command_note("interrupted: %d entries not rechecked; the same command begins anew",
                          s->counts[MOET_VERDICT_LEFT]);
    } else if (s->counts[MOET_VERDICT_LEFT] > 0) {
        moet_command_note("out of time: %d entries not rechecked; --seconds 0 takes the time that all of them need",
                          s->counts[MOET_VERDICT_LEFT]);
    }
    if (s->counts[MOET_VERDICT_UNCLEAR] > 0) {
        moet_command_note("%d entries are unclear, for the device is busy: recheck again when nothing else runs on it",
                          s->counts[MOET_VERDICT_UNCLEAR]);
    }
    if (count_broken(s) == 0) {
        return;
    }
    if (a->save != NULL) {
        moet_command_note("next: moe-tune sweep --stale %s --db moe-tune.db, then emit", a->save);
    } else if (a->format == MOET_FORMAT_JSON) {
        moet_command_note("next: moe-tune sweep --stale FILE --db moe-tune.db with this output in FILE, then emit");
    } else {
        moet_command_note("next: this command with --save FILE, then moe-tune sweep --stale FILE --db moe-tune.db");
    }
}

static int exit_code(const recheck_state *s)
{
    return s->counts[MOET_VERDICT_WRONG] > 0                       ? MOET_EXIT_WRONG
           : count_broken(s) + s->counts[MOET_VERDICT_UNCLEAR] > 0 ? MOET_EXIT_SLOWER
           : is_interrupted(s)                                     ? MOET_EXIT_FAILED
                                                                   : MOET_EXIT_OK;
}

static const struct argp argp = {
    .options = options,
    .parser = parse_option,
    .doc = MOET_COMMAND_DOC(
        "Verifies a table's winners on this device and times each beside the runner-up and what would run without a "
        "table.",
        EXAMPLE,
        "Takes the time of --seconds: one point of every winner's configuration first, then others spread over its "
        "points; those left are told. verdict is holds; lost: another is faster by more than max(1 %, noise), twice in "
        "a row; unclear: a noise above 10 % and more than 10 % slower than tuned, on a busy device; stale: this "
        "device, its libraries or this build refuse the entry; wrong: winner, runner-up or default "
        "is; failed: the winner does not run; left. Times are medians; tuned_us is the table's. Ctrl-C ends the round: "
        "the rows so far are printed and saved. Exit codes: 0 what was rechecked holds; 4 a winner is lost, unclear or "
        "stale or does not run; 3 something is wrong; 1 an error, or interrupted."),
};

static int run(int argc, char **argv)
{
    recheck_arguments a = {
        .recheck = {.device = "auto", .seed = 1, .rounds = 11, .limit_ns = DEFAULT_SECONDS * (int64_t)1000000000}};
    recheck_state s = {.arguments = &a};
    int code = moet_command_parse(&argp, argc, argv, &a);
    if (code != MOET_EXIT_OK) {
        return code;
    }
    moet_store_now(s.checked_at); /* as a store has its moments, with which it is compared */
    const moet_recheck_visitor visitor = {tell_before, tell_entry, &s};
    moet_status status = a.save != NULL ? moet_file_check(a.save) : MOET_OK;
    if (status == MOET_OK) status = moet_recheck_open(&a.recheck, &s.recheck);
    if (status == MOET_OK) status = open_report(stdout, a.format, &s.shown);
    if (status == MOET_OK) status = open_save(&s);
    if (status == MOET_OK) {
        moet_device_format_key(moet_recheck_device(s.recheck), s.device_key);
        note_driver(&s);
        a.recheck.interrupted = moet_interrupt_catch();
        moet_progress_begin(&s.progress, stderr, 1);
        status = moet_recheck_run(s.recheck, &visitor);
        moet_progress_end(&s.progress);
    }
    if (s.shown.out != NULL) {
        const moet_status finished = moet_output_finish(s.shown.out);
        status = status == MOET_OK ? finished : status;
    }
    const moet_status saved = close_save(&s, status == MOET_OK);
    status = status == MOET_OK ? saved : status;
    code = moet_command_fail(status);
    if (status == MOET_OK) {
        note_summary(&s);
        code = exit_code(&s);
    }
    moet_recheck_close(s.recheck);
    return code;
}

const moet_command moet_command_recheck = {"recheck", SUMMARY, EXAMPLE, run, &argp};
