/* moe-tune report: one page that says what a database holds. */
#include <stdio.h>
#include <stdlib.h>

#include "command.h"
#include "report.h"

#define SUMMARY "write one page: summary, pictures, sortable tables, where each number is from"
#define EXAMPLE "moe-tune report --db moe-tune.db --out report.html"

typedef struct report_arguments {
    moet_report_options report;
    const char *out;
} report_arguments;

enum option_key { KEY_DB = 256, KEY_DEVICE, KEY_BENCH, KEY_PEERS, KEY_REGRET, KEY_OUT };

static const struct argp_option options[] = {
    {.name = "db", .key = KEY_DB, .arg = "FILE", .doc = "Database of trials (default moe-tune.db)"},
    {.name = "device", .key = KEY_DEVICE, .arg = "TEXT", .doc = "Of several devices the one whose key has TEXT"},
    {.name = "bench",
     .key = KEY_BENCH,
     .arg = "FILE",
     .doc = "What `moe-tune bench --with-default` printed: our times beside the peers' (else the winners' times)"},
    {.name = "peers", .key = KEY_PEERS, .arg = "FILE", .doc = "What bench/peers/peers.py printed; may be given again"},
    {.name = "regret",
     .key = KEY_REGRET,
     .arg = "FILE",
     .doc = "What `moe-tune regret --format json` printed; may be given again, to compare tables"},
    {.name = "out", .key = KEY_OUT, .arg = "FILE", .doc = "The page (default report.html)"},
    {0}};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    report_arguments *a = state->input;
    moet_plot_sources *s = &a->report.sources;
    switch (key) {
    case KEY_DB:
        s->dbs[0] = arg;
        break;
    case KEY_DEVICE:
        s->device = arg;
        break;
    case KEY_BENCH:
        s->bench = arg;
        break;
    case KEY_PEERS:
        if (s->peers_count == MOET_PLOT_MAX_FILES) {
            argp_error(state, "more than %d times --peers", MOET_PLOT_MAX_FILES);
        }
        s->peers[s->peers_count++] = arg;
        break;
    case KEY_REGRET:
        if (s->regret_count == MOET_PLOT_MAX_FILES) {
            argp_error(state, "more than %d times --regret", MOET_PLOT_MAX_FILES);
        }
        s->regrets[s->regret_count++] = arg;
        break;
    case KEY_OUT:
        a->out = arg;
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static const struct argp argp = {
    options,
    parse_option,
    NULL,
    MOET_COMMAND_DOC(
        "Writes one HTML file that needs no network and nothing beside itself.", EXAMPLE,
        "A summary for a minute's reading, pictures (by gnuplot), tables that sort, and for each number the "
        "run that it is from and a command that measures it again."),
    NULL,
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
