/* moe-tune plot: pictures of results. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "plot.h"
#include "plot_options.h"

#define SUMMARY "draw results: roofline, efficiency, winners, peers, regret, sweep, waterfall"
#define EXAMPLE "moe-tune plot roofline --db moe-tune.db --out roofline.svg"

typedef struct plot_arguments {
    bool has_kind;
    moet_plot_kind kind;
    moet_plot_sources sources;
    const char *outs[2];
    int32_t out_count;
} plot_arguments;

enum option_key { KEY_DB = 256, KEY_OUT };

static const struct argp_option options[] = {
    {.name = "db",
     .key = KEY_DB,
     .arg = "FILE",
     .doc = "Database of trials (default moe-tune.db); of kind sweep one for each sweep, up to 8"},
    {.name = "out",
     .key = KEY_OUT,
     .arg = "FILE",
     .doc = "A .svg or .png file, or one of each (default KIND.svg and KIND.png)"},
    {0}};

static void check_together(plot_arguments *a, struct argp_state *state)
{
    moet_plot_sources *s = &a->sources;
    const moet_plot_source source = moet_plot_source_of(a->kind);
    if (!a->has_kind) {
        argp_error(state, "give a KIND: roofline, efficiency, winners, peers, regret, sweep or waterfall");
    } else if (source == MOET_PLOT_FROM_BENCH && s->bench == NULL) {
        argp_error(state, "kind peers is drawn from --bench FILE, with --peers FILE");
    } else if (source == MOET_PLOT_FROM_REGRET && s->regret_count == 0) {
        argp_error(state, "kind regret is drawn from --regret FILE");
    } else if (a->kind == MOET_PLOT_SWEEP && s->db_count < 2) {
        argp_error(state, "kind sweep sets sweeps of the same workloads beside each other: give --db FILE for each");
    } else if (s->db_count > 1 && a->kind != MOET_PLOT_SWEEP) {
        argp_error(state, "--db: several databases are kind sweep's only; moe-tune merge joins them");
    }
    if (s->db_count == 0) {
        s->dbs[s->db_count++] = "moe-tune.db";
    }
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    plot_arguments *a = state->input;
    moet_plot_sources *s = &a->sources;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = s;
        break;
    case KEY_DB:
        if (s->db_count == MOET_PLOT_MAX_FILES) {
            argp_error(state, "more than %d times --db", MOET_PLOT_MAX_FILES);
        }
        s->dbs[s->db_count++] = arg;
        break;
    case KEY_OUT:
        if (a->out_count == 2) {
            argp_error(state, "more than 2 times --out");
        }
        a->outs[a->out_count++] = arg;
        break;
    case ARGP_KEY_ARG:
        if (a->has_kind) {
            argp_error(state, "one picture at a time: '%s' is one too many", arg);
        }
        moet_command_check(state, moet_plot_parse(arg, &a->kind));
        a->has_kind = true;
        break;
    case ARGP_KEY_END:
        check_together(a, state);
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* On stderr, what the picture's efficiencies cannot say. */
static void note_doubt(const plot_arguments *a, double best)
{
    if (moet_plot_is_doubtful(best)) {
        moet_command_note("%s: efficiency up to %.0f %%: " MOET_PLOT_DOUBT "%s", a->sources.dbs[0], 100 * best,
                          a->kind == MOET_PLOT_WATERFALL ? "; such winners are left out" : "");
    }
}

static const struct argp_child children[] = {{&moet_plot_sources_argp, 0, NULL, 0}, {0}};
static const struct argp argp = {
    options,
    parse_option,
    "KIND",
    MOET_COMMAND_DOC(
        "Draws KIND by gnuplot, as SVG and PNG.", EXAMPLE,
        "KIND: roofline (every winner under the device's ceilings), efficiency (over rows an expert, the "
        "best of each family), winners (what wins where, over rows and skew), peers (time of others / time of "
        "moe-tune, sorted), regret (on workloads that were not tuned, sorted), sweep (time of sweeps against "
        "how good what they found is: one database each), waterfall (where the time of the ten least efficient "
        "winners goes: floor, padding, tail, L2, epilogue, unexplained). Colours are told apart by the colour-blind "
        "and in grey; the ground is white, for print and for dark pages."),
    children,
    NULL,
    NULL};

static int run(int argc, char **argv)
{
    plot_arguments a = {.kind = MOET_PLOT_ROOFLINE};
    char names[2][64];
    int code = moet_command_parse(&argp, argc, argv, &a);
    if (code != MOET_EXIT_OK) {
        return code;
    }
    for (; a.out_count < 2 && (a.out_count == 0 || a.outs[0] == names[0]); a.out_count++) {
        snprintf(names[a.out_count], sizeof names[0], "%s.%s", moet_plot_name(a.kind),
                 a.out_count == 0 ? "svg" : "png");
        a.outs[a.out_count] = names[a.out_count];
    }
    moet_status status = MOET_OK;
    double best = 0;
    for (int32_t i = 0; i < a.out_count && status == MOET_OK; i++) {
        status = moet_plot_draw(a.kind, &a.sources, a.outs[i], &best);
        if (status == MOET_OK) {
            puts(a.outs[i]);
        }
    }
    if (status == MOET_OK) note_doubt(&a, best);
    return moet_command_fail(status);
}

const moet_command moet_command_plot = {"plot", SUMMARY, EXAMPLE, run, &argp};
