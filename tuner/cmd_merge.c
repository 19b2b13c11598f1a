/* moe-tune merge: trials of several databases in one. */
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "output.h"
#include "store.h"

typedef struct merge_options {
    const char *db;
    char **from; /* the arguments, in argv */
    int from_count;
    moet_output_format format;
} merge_options;

enum { OPTION_DB = 256, OPTION_FORMAT };

static const struct argp_option options_table[] = {
    {"db", OPTION_DB, "INTO.db", 0, "database to merge into; made if absent", 0},
    {"format", OPTION_FORMAT, "FORMAT", 0, "of the summary: text, csv or json (default text)", 0},
    {0},
};

static error_t parse_option(int key, char *argument, struct argp_state *state)
{
    merge_options *options = state->input;
    switch (key) {
    case OPTION_DB:
        options->db = argument;
        return 0;
    case OPTION_FORMAT:
        moet_command_check(state, moet_output_format_parse(argument, &options->format));
        return 0;
    case ARGP_KEY_ARGS:
        options->from = state->argv + state->next;
        options->from_count = state->argc - state->next;
        return 0;
    case ARGP_KEY_END:
        if (!options->db) argp_error(state, "--db INTO.db is missing");
        if (options->from_count == 0) argp_error(state, "name the databases to merge from");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static moet_status merge_all(const merge_options *options, moet_store *into, moet_output *out)
{
    for (int i = 0; i < options->from_count; i++) {
        int64_t added = 0;
        MOET_TRY(moet_store_merge(into, options->from[i], &added));
        moet_output_text(out, options->from[i]);
        moet_output_integer(out, added);
    }
    return MOET_OK;
}

/* Every source is looked at before the first is merged, so that a wrong name costs nothing. */
static moet_status check_sources(const merge_options *options)
{
    for (int i = 0; i < options->from_count; i++) {
        moet_store *source = NULL;
        MOET_TRY(moet_store_open(options->from[i], MOET_STORE_SOURCE, &source));
        moet_store_close(source);
    }
    return MOET_OK;
}

/* Whether nothing was merged into it, by nobody. */
static bool is_empty(moet_store *into)
{
    moet_store_keys keys = {0};
    const bool empty = moet_store_device_keys(into, &keys) == MOET_OK && keys.count == 0;
    moet_store_keys_release(&keys);
    return empty;
}

static const struct argp argp = {
    .options = options_table,
    .parser = parse_option,
    .args_doc = "FROM.db...",
    .doc = MOET_COMMAND_DOC("Merges the trials of several databases into one.",
                            "moe-tune merge --db all.db h100.db h200.db",
                            "The order does not matter and merging twice changes nothing. Of two trials of one "
                            "candidate the one with final "
                            "rounds stays, then of the higher effort, then with more samples, then the faster one."),
};

static int run_merge(int argc, char **argv)
{
    static const moet_output_column columns[] = {{"from", MOET_OUTPUT_TEXT, 0}, {"added", MOET_OUTPUT_INTEGER, 0}};
    merge_options options = {0};
    int code = moet_command_parse(&argp, argc, argv, &options);
    if (code != MOET_EXIT_OK) return code;
    moet_store *into = NULL;
    moet_output *out = NULL;
    moet_status status = check_sources(&options);
    const bool is_new = status == MOET_OK && access(options.db, F_OK) != 0;
    if (status == MOET_OK) status = moet_store_open(options.db, MOET_STORE_WRITE, &into);
    if (status == MOET_OK) status = moet_output_create(stdout, options.format, columns, MOET_COUNT_OF(columns), &out);
    if (status == MOET_OK) status = merge_all(&options, into, out);
    moet_status finished = moet_output_finish(out);
    status = status != MOET_OK ? status : finished;
    code = moet_command_fail(status);
    const bool is_left_over = is_new && status != MOET_OK && into && is_empty(into);
    moet_store_close(into);
    if (is_left_over) unlink(options.db);
    return code;
}

const moet_command moet_command_merge = {
    .name = "merge",
    .summary = "merge databases of several machines or shards",
    .example = "moe-tune merge --db all.db h100.db h200.db",
    .run = run_merge,
    .argp = &argp,
};
