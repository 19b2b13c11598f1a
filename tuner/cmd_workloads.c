/* moe-tune workloads: workload files, imported from traces of how many rows experts got, or drawn by a seed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/file.h"
#include "command.h"
#include "draw.h"
#include "import.h"
#include "parse.h"

#define SUMMARY "make workload files from traces of real routings, or draw them"
#define EXAMPLE "moe-tune workloads import t.npy --model deepseek-v3 --ep 32 --out all.jsonl"
#define MAX_SEED 9007199254740991LL
#define DRAWN_EP "4,8,16,32"
#define DRAWN_SKEWS                                                                                                    \
    "balanced,uniform,lognormal:0.2,lognormal:0.43,lognormal:0.7,zipf:0.5,zipf:1,powerlaw:1.01,powerlaw:1.2,hot:0.5,"  \
    "idle:0.5"

typedef struct workloads_arguments {
    bool draws;   /* else imports */
    char **files; /* in argv; the first is the verb */
    int file_count;
    const char *model_name, *ep, *out;
    moet_draw_options draw;
    const char *import_only, *draw_only; /* an option given that the other verb lacks */
    moet_trace_format format;
    moet_model model;
    int64_t experts, hidden, inter, ranks, rank, clusters, divide, seed; /* of the first four 0: not given */
} workloads_arguments;

/* ---- options ---- */

enum option_key {
    KEY_MODEL = 256,
    KEY_EXPERTS,
    KEY_HIDDEN,
    KEY_INTER,
    KEY_EP,
    KEY_RANK,
    KEY_CLUSTERS,
    KEY_DIVIDE,
    KEY_FORMAT,
    KEY_SEED,
    KEY_OUT,
    KEY_COUNT,
    KEY_ROWS,
    KEY_SKEW
};

static const struct argp_option options[] = {
    {.doc = "The shape, which a trace does not say", .group = 1},
    {.name = "model",
     .key = KEY_MODEL,
     .arg = "NAME",
     .doc = "A model by name (`moe-tune sweep --list-models`); draw: several (default all)"},
    {.name = "hidden", .key = KEY_HIDDEN, .arg = "H", .doc = "Hidden size, with --inter instead of --model"},
    {.name = "inter", .key = KEY_INTER, .arg = "I", .doc = "Intermediate size of an expert"},
    {.name = "experts",
     .key = KEY_EXPERTS,
     .arg = "N",
     .doc = "Experts of all ranks, redundant ones too, where it is "
            "not the model's number or the trace's"},
    {.name = "ep",
     .key = KEY_EP,
     .arg = "N",
     .doc = "Ranks that share the experts, in blocks one behind the other; draw: several (default " DRAWN_EP
            ", those that divide the experts)"},
    {.doc = "What is made of it", .group = 2},
    {.name = "rank", .key = KEY_RANK, .arg = "R|all", .doc = "Only rank R, from 0 on (default all)"},
    {.name = "clusters",
     .key = KEY_CLUSTERS,
     .arg = "K",
     .doc = "At most K workloads of each shape, which stand for all (default 32; 0: every different one)"},
    {.name = "divide",
     .key = KEY_DIVIDE,
     .arg = "N",
     .doc = "Counts are sums over N passes: divide them, rounded to nearest (default 1)"},
    {.name = "seed", .key = KEY_SEED, .arg = "N", .doc = "Of the clustering, or the drawing (default 1)"},
    {.name = "format",
     .key = KEY_FORMAT,
     .arg = "FORMAT",
     .doc = "auto, csv, jsonl, json, npy, workloads (default auto: by content)"},
    {.doc = "What is drawn", .group = 3},
    {.name = "count", .key = KEY_COUNT, .arg = "N", .doc = "Workloads (default 60)"},
    {.name = "rows", .key = KEY_ROWS, .arg = "MIN..MAX", .doc = "Rows, log-uniform (default 256..65536)"},
    {.name = "skew",
     .key = KEY_SKEW,
     .arg = "LIST",
     .doc = "How rows are spread (default balanced, uniform, lognormal:0.2, 0.43 and 0.7, zipf:0.5 and 1, "
            "powerlaw:1.01 and 1.2, hot:0.5, idle:0.5)"},
    {.doc = "Both", .group = 4},
    {.name = "out", .key = KEY_OUT, .arg = "FILE", .doc = "The workload file (default -, standard output)"},
    {0}};

/* The verb says what --model and --ep may be. */
static void check_import(workloads_arguments *a, struct argp_state *state)
{
    if (a->model_name != NULL) {
        moet_command_check(state, moet_model_find(a->model_name, &a->model));
    }
    if (a->ep != NULL) {
        moet_command_check(state, moet_parse_integer(a->ep, "--ep", 1, 4096, &a->ranks));
    }
    if (a->file_count == 1) {
        argp_error(state, "name the traces to import: workloads import FILE...");
    } else if (a->draw_only != NULL) {
        argp_error(state, "--%s goes with workloads draw", a->draw_only);
    } else if ((a->hidden > 0) != (a->inter > 0) || (a->model_name != NULL && a->hidden > 0)) {
        argp_error(state, "a shape is --model, or --hidden with --inter");
    } else if (a->rank >= 0 && a->rank >= a->ranks) {
        argp_error(state, "--rank: %lld is none of the %lld ranks of --ep, which begin with 0", (long long)a->rank,
                   (long long)a->ranks);
    }
}

static void check_draw(workloads_arguments *a, struct argp_state *state)
{
    if (a->file_count > 1) {
        argp_error(state, "workloads draw reads no file: '%s'", a->files[1]);
    } else if (a->import_only != NULL) {
        argp_error(state, "--%s goes with workloads import", a->import_only);
    }
    if (a->model_name != NULL) {
        moet_command_check(state, moet_parse_texts(a->model_name, "--model", &a->draw.models));
    }
    if (a->draw.skews.count == 0) {
        moet_command_check(state, moet_parse_texts(DRAWN_SKEWS, "--skew", &a->draw.skews));
    }
    moet_command_check(state, moet_parse_list(a->ep != NULL ? a->ep : DRAWN_EP, "--ep", 1, 4096, &a->draw.ep));
    a->draw.seed = (uint64_t)a->seed;
    a->draws = true;
}

static void check_arguments(workloads_arguments *a, struct argp_state *state)
{
    if (a->file_count > 0 && strcmp(a->files[0], "import") == 0) {
        check_import(a, state);
    } else if (a->file_count > 0 && strcmp(a->files[0], "draw") == 0) {
        check_draw(a, state);
    } else {
        argp_error(state, "say what to do: workloads import FILE... or workloads draw");
    }
}

/* "256..65536" */
static moet_status parse_rows(const char *text, moet_draw_options *draw)
{
    const char *dots = strstr(text, "..");
    char first[24];
    int64_t min = 0, max = 0;
    if (dots == NULL || dots - text >= (ptrdiff_t)sizeof first) {
        return moet_fail(MOET_INVALID, "--rows: '%.40s' is not MIN..MAX, such as 256..65536", text);
    }
    snprintf(first, sizeof first, "%.*s", (int)(dots - text), text);
    MOET_TRY(moet_parse_integer(first, "--rows", 1, MOET_MAX_ROWS, &min));
    MOET_TRY(moet_parse_integer(dots + 2, "--rows", min, MOET_MAX_ROWS, &max));
    draw->min_rows = min;
    draw->max_rows = max;
    return MOET_OK;
}

/* Which verb an option belongs to, where it is one's only. */
static void note_verb(workloads_arguments *a, int key)
{
    for (int32_t i = 0; options[i].name != NULL || options[i].doc != NULL; i++) {
        if (options[i].key != key || options[i].name == NULL) {
            continue;
        }
        const bool both = key == KEY_MODEL || key == KEY_EP || key == KEY_SEED || key == KEY_OUT;
        const bool draws = key == KEY_COUNT || key == KEY_ROWS || key == KEY_SKEW;
        if (draws) a->draw_only = options[i].name;
        if (!draws && !both) a->import_only = options[i].name;
    }
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    workloads_arguments *a = state->input;
    moet_status status = MOET_OK;
    note_verb(a, key);
    switch (key) {
    case KEY_MODEL:
        a->model_name = arg;
        break;
    case KEY_EXPERTS:
        status = moet_parse_integer(arg, "--experts", 1, MOET_TRACE_MAX_EXPERTS, &a->experts);
        break;
    case KEY_HIDDEN:
        status = moet_parse_integer(arg, "--hidden", 8, MOET_MAX_DIM, &a->hidden);
        break;
    case KEY_INTER:
        status = moet_parse_integer(arg, "--inter", 8, MOET_MAX_DIM, &a->inter);
        break;
    case KEY_EP:
        a->ep = arg;
        break;
    case KEY_COUNT:
        status = moet_parse_integer(arg, "--count", 1, MOET_DRAW_MAX_COUNT, &a->draw.count);
        break;
    case KEY_ROWS:
        status = parse_rows(arg, &a->draw);
        break;
    case KEY_SKEW:
        moet_text_list_release(&a->draw.skews);
        status = moet_parse_texts(arg, "--skew", &a->draw.skews);
        break;
    case KEY_RANK:
        if (strcmp(arg, "all") == 0) {
            a->rank = -1;
        } else {
            status = moet_parse_integer(arg, "--rank", 0, 4095, &a->rank);
        }
        break;
    case KEY_CLUSTERS:
        status = moet_parse_integer(arg, "--clusters", 0, 100000, &a->clusters);
        break;
    case KEY_DIVIDE:
        status = moet_parse_integer(arg, "--divide", 1, INT32_MAX, &a->divide);
        break;
    case KEY_FORMAT:
        status = moet_trace_format_parse(arg, &a->format);
        break;
    case KEY_SEED:
        status = moet_parse_integer(arg, "--seed", 1, MAX_SEED, &a->seed);
        break;
    case KEY_OUT:
        a->out = strcmp(arg, "-") == 0 ? NULL : arg; /* standard output, as without it */
        break;
    case ARGP_KEY_ARGS:
        a->files = state->argv + state->next;
        a->file_count = state->argc - state->next;
        break;
    case ARGP_KEY_END:
        check_arguments(a, state);
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    moet_command_check(state, status);
    return 0;
}

/* ---- files in ---- */

static void move_all(moet_workloads *from, moet_workloads *to, moet_status *status)
{
    for (int32_t i = 0; i < from->count && *status == MOET_OK; i++) {
        *status = moet_workloads_add(to, &from->items[i]);
    }
    moet_workloads_release(from);
}

static moet_status add_trace(const workloads_arguments *a, const moet_trace *trace, const char *path,
                             moet_workloads *list, int64_t *empty)
{
    char name[MOET_WORKLOAD_NAME_SIZE];
    moet_import_options shape = {.name = name,
                                 .hidden = a->model_name != NULL ? a->model.hidden : (int32_t)a->hidden,
                                 .inter = a->model_name != NULL ? a->model.inter : (int32_t)a->inter,
                                 .ranks = (int32_t)a->ranks,
                                 .rank = (int32_t)a->rank,
                                 .divide = a->divide};
    if (shape.hidden == 0 || shape.ranks == 0) {
        return moet_fail(MOET_INVALID,
                         "%s: a trace of %d experts: give --model NAME or --hidden H --inter I, and --ep N", path,
                         trace->experts);
    }
    if (a->model_name != NULL) {
        snprintf(name, sizeof name, "%s/ep%d", a->model.name, shape.ranks);
    } else {
        snprintf(name, sizeof name, "e%d-h%d-i%d/ep%d", trace->experts, shape.hidden, shape.inter, shape.ranks);
    }
    return moet_import_trace(trace, path, &shape, list, empty);
}

static moet_status read_workloads(const char *path, char *bytes, size_t size_bytes, moet_workloads *list)
{
    FILE *stream = fmemopen(bytes, size_bytes, "r");
    if (stream == NULL) {
        return moet_fail(MOET_NO_MEMORY, "%s: no memory for a stream of it", path);
    }
    moet_status status = moet_workloads_read_stream(stream, path, list);
    fclose(stream);
    return status;
}

/* Reads it once: a pipe has its content no second time. */
static moet_status add_file(const workloads_arguments *a, const char *named, moet_workloads *list, int64_t *empty)
{
    const char *path = strcmp(named, "-") == 0 ? "stdin" : named;
    const int32_t experts = a->experts > 0 ? (int32_t)a->experts : a->model_name != NULL ? a->model.experts : 0;
    moet_trace_format format = a->format;
    moet_trace trace = {0};
    moet_workloads read = {0};
    char *bytes = NULL;
    size_t size_bytes = 0;
    MOET_TRY(moet_trace_load(named, &bytes, &size_bytes));
    moet_status status = moet_trace_parse(bytes, size_bytes, path, experts, &format, &trace);
    if (status == MOET_OK && format != MOET_TRACE_WORKLOADS) {
        status = add_trace(a, &trace, path, list, empty);
    } else if (status == MOET_OK && (a->model_name != NULL || a->hidden > 0 || a->ranks > 0)) {
        status = moet_fail(MOET_INVALID,
                           "%s holds workloads, which have a shape and are of one rank: leave out --model, --hidden, "
                           "--inter and --ep",
                           path);
    } else if (status == MOET_OK) {
        status = read_workloads(path, bytes, size_bytes, &read);
        move_all(&read, list, &status);
    }
    moet_trace_release(&trace);
    free(bytes);
    return status;
}

/* ---- the file out ---- */

/* All lines as one text, malloc'd. */
static moet_status format_all(const moet_workloads *list, char **text, size_t *size_bytes)
{
    FILE *stream = open_memstream(text, size_bytes);
    moet_status status = MOET_OK;
    if (stream == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for %d workloads", list->count);
    }
    for (int32_t i = 0; i < list->count && status == MOET_OK; i++) {
        char *line = NULL;
        status = moet_workload_format(&list->items[i], &line);
        if (status == MOET_OK) fprintf(stream, "%s\n", line);
        free(line);
    }
    const bool failed = ferror(stream) != 0;
    if ((fclose(stream) != 0 || failed) && status == MOET_OK) {
        status = moet_fail(MOET_NO_MEMORY, "no memory for %d workloads", list->count);
    }
    if (status != MOET_OK) {
        free(*text);
        *text = NULL;
    }
    return status;
}

static moet_status write_all(const workloads_arguments *a, const moet_workloads *list)
{
    char *text = NULL;
    size_t size_bytes = 0;
    MOET_TRY(format_all(list, &text, &size_bytes));
    moet_status status = MOET_OK;
    if (a->out != NULL) {
        status = moet_file_replace(a->out, text, size_bytes);
    } else {
        fputs(text, stdout); /* main looks for errors of stdout */
    }
    free(text);
    return status;
}

/* Whether moet_record_save wrote some of them for plans of op ffn, whose problem has more fields than a shape. */
static bool has_paths(const moet_workloads *list)
{
    for (int32_t i = 0; i < list->count; i++) {
        if (strcmp(list->items[i].name, "recorded/ffn") == 0) return true;
    }
    return false;
}

static void note_result(const workloads_arguments *a, const moet_workloads *all, const moet_workloads *chosen,
                        const moet_cluster_summary *summary, int64_t empty)
{
    moet_command_note("%d workloads, %lld of them different, %lld more without rows left out", all->count,
                      (long long)summary->different, (long long)empty);
    moet_command_note("%d stand for all; the farthest is %.3f from its own (ln of rows, ln of max/mean, Gini)",
                      chosen->count, summary->distance);
    if (has_paths(all)) {
        moet_command_note(
            "they are of plans of op ffn: the sweep must be told the plan's --prob, --layout, --activation "
            "and --bias, where they are not its defaults");
    }
    if (a->out != NULL) {
        const char *const paths[] = {"moe-tune sweep", "--ops", "ffn", "--workloads", a->out};
        const char *const next[] = {"moe-tune sweep", "--workloads", a->out, "--bias"};
        if (has_paths(all))
            moet_command_note_next(5, paths);
        else
            moet_command_note_next(a->model.bias ? 4 : 3, next);
    }
}

/* Models with biases are other problems, which sweep and regret have to be told. */
static void note_drawn(const workloads_arguments *a, const moet_workloads *drawn)
{
    int32_t biased = 0;
    for (int32_t i = 0; i < drawn->count; i++) {
        char name[MOET_WORKLOAD_NAME_SIZE];
        moet_model model;
        snprintf(name, sizeof name, "%.*s", (int)strcspn(drawn->items[i].name, "/"), drawn->items[i].name);
        biased += moet_model_find(name, &model) == MOET_OK && model.bias;
    }
    moet_command_note("%d workloads", drawn->count);
    if (biased > 0 && biased < drawn->count) {
        moet_command_note("%d of them are of models with biases, which want --bias: draw them apart by --model",
                          biased);
    }
    if (a->out != NULL) {
        const char *const next[] = {"moe-tune regret", "--table", "table", "--workloads", a->out, "--bias"};
        moet_command_note_next(biased == drawn->count ? 6 : 5, next);
    }
}

static moet_status run_draw(const workloads_arguments *a)
{
    moet_workloads drawn = {0};
    moet_status status = moet_workloads_draw(&a->draw, &drawn);
    if (status == MOET_NOT_FOUND) status = MOET_INVALID; /* a wrong model is a wrong argument */
    if (status == MOET_OK) status = write_all(a, &drawn);
    if (status == MOET_OK) note_drawn(a, &drawn);
    moet_workloads_release(&drawn);
    return status;
}

static const struct argp argp = {
    options,
    parse_option,
    "import FILE...\ndraw",
    MOET_COMMAND_DOC(
        "Makes a workload file for `sweep`, `bench` and `regret`, from traces of how many rows each expert got, or "
        "drawn "
        "by a seed.",
        EXAMPLE,
        "FILE is CSV (step,layer,expert,count or step,layer,e0,e1,...), JSON lines "
        "({\"step\":0,\"layer\":0,\"counts\":[...]}), JSON ({\"logical_count\":[[[...]]]}), .npy ([steps, layers, "
        "experts]) or what moet_record_save writes. One workload a step, layer and rank; a few of them stand for "
        "all, each with its share of them as weight; - is standard input. docs/workloads.md says more. draw: rows are "
        "log-uniform and no "
        "powers "
        "of two, models and skews come up equally often; the same options give the same workloads (docs/tuning.md)."),
    NULL,
    NULL,
    NULL};

static moet_status run_import(const workloads_arguments *a)
{
    moet_workloads all = {0}, chosen = {0};
    moet_cluster_summary summary = {0};
    int64_t empty = 0;
    moet_status status = MOET_OK;
    for (int i = 1; i < a->file_count && status == MOET_OK; i++) {
        status = add_file(a, a->files[i], &all, &empty);
    }
    if (status == MOET_OK && all.count == 0) {
        status = moet_fail(MOET_INVALID, "%s: no rank has rows in any step; nothing was written", a->files[1]);
    }
    if (status == MOET_OK) {
        status = moet_workloads_cluster(&all, (int32_t)a->clusters, (uint64_t)a->seed, &chosen, &summary);
    }
    if (status == MOET_OK) status = write_all(a, &chosen);
    if (status == MOET_OK) note_result(a, &all, &chosen, &summary, empty);
    moet_workloads_release(&all);
    moet_workloads_release(&chosen);
    return status;
}

static int run(int argc, char **argv)
{
    workloads_arguments a = {
        .rank = -1, .clusters = 32, .divide = 1, .seed = 1, .draw = {.count = 60, .min_rows = 256, .max_rows = 65536}};
    int code = moet_command_parse(&argp, argc, argv, &a);
    if (code == MOET_EXIT_OK) {
        code = moet_command_fail(a.draws ? run_draw(&a) : run_import(&a));
    }
    moet_text_list_release(&a.draw.models);
    moet_text_list_release(&a.draw.skews);
    moet_int_list_release(&a.draw.ep);
    return code;
}

const moet_command moet_command_workloads = {"workloads", SUMMARY, EXAMPLE, run, &argp};
