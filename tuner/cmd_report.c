/* moe-tune report: one page that says what a database holds. */
#include <stdio.h>
#include <stdlib.h>

#include "command.h"
#include "plot_options.h"
#include "report.h"

#define SUMMARY "write one page: summary, pictures, sortable tables, where each number is from"
#define EXAMPLE "moe-tune report --db moe-tune.db --out report.html"

typedef struct report_arguments {
    moet_report_options report;
    const char *out;
} report_arguments;

enum option_key { KEY_DB = 256, KEY_OUT };

static const struct argp_option options[] = {
    {.name = "db", .key = KEY_DB, .arg = "FILE", .doc = "Database of trials (default moe-tune.db)"},
    {.name = "out", .key = KEY_OUT, .arg = "FILE", .doc = "The page (default report.html)"},
    {0}};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    report_arguments *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->report.sources;
        break;
    case KEY_DB:
        a->report.sources.dbs[0] = arg;
        break;
    case KEY_OUT:
        a->out = arg;
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static const struct argp_child children[] = {{&moet_plot_sources_argp, 0, NULL, 0}, {0}};
static const struct argp argp = {
    options,
    parse_option,
    NULL,
    MOET_COMMAND_DOC(
        "Writes one HTML file that needs no network and nothing beside itself.", EXAMPLE,
        "A summary for a minute's reading, pictures (by gnuplot), tables that sort, and for each number the "
        "run that it is from and a command that measures it again."),
    children,
    NULL,
    NULL};

static int run(int argc, char **argv)
{
    report_arguments a = {.report.sources = {.dbs = {"moe-tune.db"}, .db_count = 1}, .out = "report.html"};
    char *command = moet_command_line(argc, argv); /* before argp orders it */
    a.report.command = command;
    int code = moet_command_parse(&argp, argc, argv, &a);
    if (code == MOET_EXIT_OK) {
        moet_status status =
            command != NULL ? moet_report_write(&a.report, a.out) : moet_fail(MOET_NO_MEMORY, "no memory for a report");
        code = moet_command_fail(status);
    }
    if (code == MOET_EXIT_OK) {
        puts(a.out);
    }
    free(command);
    return code;
}

const moet_command moet_command_report = {"report", SUMMARY, EXAMPLE, run, &argp};
