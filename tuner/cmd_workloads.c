/* moe-tune workloads import: workload files out of traces of how many rows experts got. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/file.h"
#include "command.h"
#include "import.h"
#include "parse.h"

#define SUMMARY "make workload files from traces of real routings"
#define EXAMPLE "moe-tune workloads import trace.npy --model deepseek-v3 --ep 32 --out workloads.jsonl"
#define MAX_SEED 9007199254740991LL

typedef struct workloads_arguments {
    char **files; /* in argv */
    int file_count;
    const char *model_name, *out;
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
    KEY_OUT
};

static const struct argp_option options[] = {
    {.doc = "The shape, which a trace does not say", .group = 1},
    {.name = "model", .key = KEY_MODEL, .arg = "NAME", .doc = "A model by name (`moe-tune sweep --list-models`)"},
    {.name = "hidden", .key = KEY_HIDDEN, .arg = "H", .doc = "Hidden size, with --inter instead of --model"},
    {.name = "inter", .key = KEY_INTER, .arg = "I", .doc = "Intermediate size of an expert"},
    {.name = "experts",
     .key = KEY_EXPERTS,
     .arg = "N",
     .doc = "Experts of all ranks, redundant ones too, where it is "
            "not the model's number or the trace's"},
    {.name = "ep", .key = KEY_EP, .arg = "N", .doc = "Ranks that share the experts, in blocks one behind the other"},
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
    {.name = "seed", .key = KEY_SEED, .arg = "N", .doc = "Of the clustering (default 1)"},
    {.name = "format",
     .key = KEY_FORMAT,
     .arg = "FORMAT",
     .doc = "auto, csv, jsonl, json, npy, workloads (default auto: by content)"},
    {.name = "out", .key = KEY_OUT, .arg = "FILE", .doc = "The workload file (default standard output)"},
    {0}};

static void check_arguments(const workloads_arguments *a, struct argp_state *state)
{
    if (a->file_count == 0 || strcmp(a->files[0], "import") != 0) {
        argp_error(state, "say what to do: workloads import FILE...");
    } else if (a->file_count == 1) {
        argp_error(state, "name the traces to import: workloads import FILE...");
    } else if ((a->hidden > 0) != (a->inter > 0) || (a->model_name != NULL && a->hidden > 0)) {
        argp_error(state, "a shape is --model, or --hidden with --inter");
    } else if (a->rank >= 0 && a->rank >= a->ranks) {
        argp_error(state, "--rank: %lld is none of the %lld ranks of --ep, which begin with 0", (long long)a->rank,
                   (long long)a->ranks);
    }
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    workloads_arguments *a = state->input;
    moet_status status = MOET_OK;
    switch (key) {
    case KEY_MODEL:
        a->model_name = arg;
        status = moet_model_find(arg, &a->model);
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
        status = moet_parse_integer(arg, "--ep", 1, 4096, &a->ranks);
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
        a->out = arg;
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

static moet_status add_file(const workloads_arguments *a, const char *path, moet_workloads *list, int64_t *empty)
{
    const int32_t experts = a->experts > 0 ? (int32_t)a->experts : a->model_name != NULL ? a->model.experts : 0;
    moet_trace_format format = a->format;
    moet_trace trace = {0};
    moet_workloads read = {0};
    moet_status status = moet_trace_read(path, experts, &format, &trace);
    if (status == MOET_OK && format != MOET_TRACE_WORKLOADS) {
        status = add_trace(a, &trace, path, list, empty);
    } else if (status == MOET_OK && (a->model_name != NULL || a->hidden > 0 || a->ranks > 0)) {
        status = moet_fail(MOET_INVALID,
                           "%s holds workloads, which have a shape and are of one rank: leave out --model, --hidden, "
                           "--inter and --ep",
                           path);
    } else if (status == MOET_OK) {
        status = moet_workloads_read(path, &read);
        move_all(&read, list, &status);
    }
    moet_trace_release(&trace);
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

static void note_result(const workloads_arguments *a, const moet_workloads *all, const moet_workloads *chosen,
                        const moet_cluster_summary *summary, int64_t empty)
{
    moet_command_note("%d workloads, %lld of them different, %lld more without rows left out", all->count,
                      (long long)summary->different, (long long)empty);
    moet_command_note("%d stand for all; the farthest is %.3f from its own (ln of rows, ln of max/mean, Gini)",
                      chosen->count, summary->distance);
    if (a->out != NULL) {
        moet_command_note("next: moe-tune sweep --workloads %s%s", a->out, a->model.bias ? " --bias" : "");
    }
}

static const struct argp argp = {
    options,
    parse_option,
    "import FILE...",
    MOET_COMMAND_DOC(
        "Makes a workload file for `sweep` and `bench` from traces of how many rows each expert got.", EXAMPLE,
        "FILE is CSV (step,layer,expert,count or step,layer,e0,e1,...), JSON lines "
        "({\"step\":0,\"layer\":0,\"counts\":[...]}), JSON ({\"logical_count\":[[[...]]]}), .npy ([steps, layers, "
        "experts]) or what moet_record_save writes. One workload a step, layer and rank; a few of them stand for "
        "all, each with its share of them as weight. docs/workloads.md says more."),
    NULL,
    NULL,
    NULL};

static int run(int argc, char **argv)
{
    workloads_arguments a = {.rank = -1, .clusters = 32, .divide = 1, .seed = 1};
    moet_workloads all = {0}, chosen = {0};
    moet_cluster_summary summary = {0};
    int64_t empty = 0;
    int code = moet_command_parse(&argp, argc, argv, &a);
    if (code != MOET_EXIT_OK) {
        return code;
    }
    moet_status status = MOET_OK;
    for (int i = 1; i < a.file_count && status == MOET_OK; i++) {
        status = add_file(&a, a.files[i], &all, &empty);
    }
    if (status == MOET_OK && all.count == 0) {
        status = moet_fail(MOET_INVALID, "%s: no rank has rows in any step; nothing was written", a.files[1]);
    }
    if (status == MOET_OK) {
        status = moet_workloads_cluster(&all, (int32_t)a.clusters, (uint64_t)a.seed, &chosen, &summary);
    }
    if (status == MOET_OK) status = write_all(&a, &chosen);
    if (status == MOET_OK) note_result(&a, &all, &chosen, &summary, empty);
    moet_workloads_release(&all);
    moet_workloads_release(&chosen);
    return moet_command_fail(status);
}

const moet_command moet_command_workloads = {"workloads", SUMMARY, EXAMPLE, run, &argp};
