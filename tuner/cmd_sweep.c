/* moe-tune sweep: the list of workloads from the command line, and the sweep over it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "compile_ahead.h"
#include "interrupt.h"
#include "parse.h"
#include "progress.h"
#include "stale.h"
#include "sweep.h"

#define SUMMARY "measure every kernel configuration on a list of workloads"
#define EXAMPLE "moe-tune sweep --model deepseek-v3 --ep 32 --rows 512..8192x4"
#define DEFAULT_ROWS "512,2048,8192"
#define DEFAULT_SKEWS "balanced,lognormal:0.43"
#define MAX_WORKLOADS 100000
#define MAX_SEED 9007199254740991LL /* what JSON holds exactly */

typedef struct sweep_arguments {
    moet_sweep_options sweep;
    const char *workloads, *stale, *device;
    moet_text_list models, skews, devices;
    moet_int_list ep, experts, hidden, inter, rows;
    bool dry_run, list_models;
} sweep_arguments;

/* ---- options ---- */

enum option_key {
    KEY_MODEL = 256,
    KEY_EP,
    KEY_EXPERTS,
    KEY_HIDDEN,
    KEY_INTER,
    KEY_ROWS,
    KEY_SKEW,
    KEY_WORKLOADS,
    KEY_FAMILIES,
    KEY_DB,
    KEY_BUDGET,
    KEY_EFFORT,
    KEY_LISTED,
    KEY_NOISE,
    KEY_JOBS,
    KEY_RETUNE,
    KEY_DRY_RUN,
    KEY_SEED,
    KEY_SHARD,
    KEY_DEVICE,
    KEY_DEVICES,
    KEY_ROUNDS,
    KEY_WATCHDOG,
    KEY_IN_PROCESS,
    KEY_STALE,
    KEY_LIST_MODELS
};

static const struct argp_option options[] = {
    {.doc = "What to measure: models, shapes or a file", .group = 1},
    {.name = "model", .key = KEY_MODEL, .arg = "NAMES", .doc = "Models by name, with --ep"},
    {.name = "ep", .key = KEY_EP, .arg = "LIST", .doc = "Ranks that share a model's experts (must divide them)"},
    {.name = "experts", .key = KEY_EXPERTS, .arg = "LIST", .doc = "Experts on this rank, with --hidden and --inter"},
    {.name = "hidden", .key = KEY_HIDDEN, .arg = "LIST", .doc = "Hidden sizes"},
    {.name = "inter", .key = KEY_INTER, .arg = "LIST", .doc = "Intermediate sizes of an expert"},
    {.name = "rows", .key = KEY_ROWS, .arg = "LIST", .doc = "Rows of all experts together (default " DEFAULT_ROWS ")"},
    {.name = "skew",
     .key = KEY_SKEW,
     .arg = "LIST",
     .doc = "How rows are spread: balanced, uniform, lognormal:S, zipf:S, powerlaw:A, hot:F, idle:F "
            "(default " DEFAULT_SKEWS ")"},
    {.name = "workloads", .key = KEY_WORKLOADS, .arg = "FILE", .doc = "Workloads from a .jsonl file (- for stdin)"},
    {.name = "stale",
     .key = KEY_STALE,
     .arg = "FILE",
     .doc = "Only what a file of `recheck` has lost, stale, wrong or not running, measured again (- for stdin)"},
    {.name = "list-models", .key = KEY_LIST_MODELS, .doc = "Print the models and end"},
    {.doc = "The sweep", .group = 3},
    {.name = "db", .key = KEY_DB, .arg = "FILE", .doc = "Database of trials (default moe-tune.db)"},
    {.name = "device", .key = KEY_DEVICE, .arg = "SPEC", .doc = "auto, host, cuda or cuda:N (default auto)"},
    {.name = "devices",
     .key = KEY_DEVICES,
     .arg = "LIST",
     .doc = "Several alike at once: all, cuda:0,cuda:1, or host/N, parts of the processors"},
    {.name = "families", .key = KEY_FAMILIES, .arg = "LIST", .doc = "Kernel families to try (default all)"},
    {.name = "rounds", .key = KEY_ROUNDS, .arg = "N", .doc = "Final rounds for the best (default 11)"},
    {.name = "effort",
     .key = KEY_EFFORT,
     .arg = "EFFORT",
     .doc = "quick: the 4 best estimates of each workload; normal: the 12 best, then around the fastest; exhaustive: "
            "all (default normal). What was tuned with as much effort or more is passed over"},
    {.name = "listed",
     .key = KEY_LISTED,
     .arg = "N",
     .doc = "Exhaustive: at most so many algorithms that a vendor library lists itself, of each family and workload, the "
            "most promising; 0: none (default 256)"},
    {.name = "budget",
     .key = KEY_BUDGET,
     .arg = "TIME",
     .doc = "Time for all workloads together, 90s, 5m, 2h: those whose share is spent are tuned with less effort, and "
            "the same command goes on"},
    {.name = "noise",
     .key = KEY_NOISE,
     .arg = "PERCENT",
     .doc = "Final rounds go on until the fastest is as steady, or gets no steadier (default 1)"},
    {.name = "retune", .key = KEY_RETUNE, .doc = "Measure again what is in the database"},
    {.name = "jobs",
     .key = KEY_JOBS,
     .arg = "N",
     .doc = "Threads that compile kernels ahead, at most 16, 0: none (default: usable processors but one)"},
    {.name = "shard", .key = KEY_SHARD, .arg = "I/N", .doc = "Only the I-th of N disjoint parts (merge joins them)"},
    {.name = "seed", .key = KEY_SEED, .arg = "N", .doc = "Of the skews and the inputs (default 1)"},
    {.name = "watchdog",
     .key = KEY_WATCHDOG,
     .arg = "TIME",
     .doc = "End a candidate whose launch takes longer (default 20s, on the host 120s)"},
    {.name = "in-process",
     .key = KEY_IN_PROCESS,
     .doc = "Measure in this process, for debuggers and profilers: a fault ends the sweep"},
    {.name = "dry-run", .key = KEY_DRY_RUN, .doc = "Print the sweep's size and about its time, measure nothing"},
    {0}};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    sweep_arguments *a = state->input;
    int64_t number = 0;
    moet_status status = MOET_OK;
    /* A list given twice: the last one counts. */
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->sweep.problem;
        break;
    case KEY_MODEL:
        moet_text_list_release(&a->models);
        status = moet_parse_texts(arg, "--model", &a->models);
        break;
    case KEY_EP:
        moet_int_list_release(&a->ep);
        status = moet_parse_list(arg, "--ep", 1, 4096, &a->ep);
        break;
    case KEY_EXPERTS:
        moet_int_list_release(&a->experts);
        status = moet_parse_list(arg, "--experts", 1, MOET_MAX_EXPERTS, &a->experts);
        break;
    case KEY_HIDDEN:
        moet_int_list_release(&a->hidden);
        status = moet_parse_list(arg, "--hidden", 8, MOET_MAX_DIM, &a->hidden);
        break;
    case KEY_INTER:
        moet_int_list_release(&a->inter);
        status = moet_parse_list(arg, "--inter", 8, MOET_MAX_DIM, &a->inter);
        break;
    case KEY_ROWS:
        moet_int_list_release(&a->rows);
        status = moet_parse_list(arg, "--rows", 1, MOET_MAX_ROWS, &a->rows);
        break;
    case KEY_SKEW:
        moet_text_list_release(&a->skews);
        status = moet_parse_texts(arg, "--skew", &a->skews);
        break;
    case KEY_WORKLOADS:
        a->workloads = arg;
        break;
    case KEY_STALE:
        a->stale = arg;
        break;
    case KEY_FAMILIES:
        moet_text_list_release(&a->sweep.families);
        status = moet_parse_texts(arg, "--families", &a->sweep.families);
        break;
    case KEY_DB:
        a->sweep.db_path = arg;
        break;
    case KEY_BUDGET:
        status = moet_parse_time(arg, "--budget", &a->sweep.budget_ns);
        break;
    case KEY_EFFORT:
        status = moet_effort_parse(arg, "--effort", &a->sweep.effort);
        break;
    case KEY_LISTED:
        status = moet_parse_integer(arg, "--listed", 0, MOET_SWEEP_MOST_LISTED, &number);
        a->sweep.listed = (int32_t)number;
        break;
    case KEY_NOISE:
        status = moet_parse_decimal(arg, "--noise", 0, 100, &a->sweep.noise);
        a->sweep.noise /= 100;
        break;
    case KEY_RETUNE:
        a->sweep.retune = true;
        break;
    case KEY_JOBS:
        status = moet_parse_integer(arg, "--jobs", 0, MOET_COMPILE_AHEAD_MOST, &number);
        a->sweep.jobs = (int32_t)number;
        break;
    case KEY_DRY_RUN:
        a->dry_run = true;
        break;
    case KEY_SEED:
        status = moet_parse_integer(arg, "--seed", 1, MAX_SEED, &number);
        a->sweep.seed = (uint64_t)number;
        break;
    case KEY_SHARD:
        status = moet_parse_shard(arg, "--shard", &a->sweep.shard);
        break;
    case KEY_DEVICE:
        a->device = arg;
        break;
    case KEY_DEVICES:
        moet_text_list_release(&a->devices);
        status = moet_parse_texts(arg, "--devices", &a->devices);
        break;
    case KEY_ROUNDS:
        status = moet_parse_integer(arg, "--rounds", 3, 1000, &number);
        a->sweep.final_rounds = (int32_t)number;
        break;
    case KEY_WATCHDOG:
        status = moet_parse_time(arg, "--watchdog", &a->sweep.watchdog_ns);
        break;
    case KEY_IN_PROCESS:
        a->sweep.in_process = true;
        break;
    case KEY_LIST_MODELS:
        a->list_models = true;
        break;
    case ARGP_KEY_END: {
        int32_t sources = (a->models.count > 0) + (a->workloads != NULL) + (a->stale != NULL) +
                          (a->experts.count > 0 || a->hidden.count > 0 || a->inter.count > 0);
        if (a->list_models) {
            break;
        }
        if (a->device != NULL && a->devices.count > 0) {
            argp_error(state, "--device is one device, --devices are several: give one of them");
        } else if (sources != 1) {
            argp_error(state, "give one of --model with --ep; --experts, --hidden and --inter; --workloads; --stale");
        } else if ((a->models.count > 0) != (a->ep.count > 0)) {
            argp_error(state, "--model and --ep go together: a model's experts are spread over --ep ranks");
        } else if (a->stale != NULL && (a->rows.count > 0 || a->skews.count > 0 || a->sweep.problem.any_given)) {
            argp_error(state, "--rows, --skew and the problem are in the --stale file already");
        } else if (a->workloads == NULL && a->stale == NULL && a->models.count == 0 &&
                   (a->experts.count == 0 || a->hidden.count == 0 || a->inter.count == 0)) {
            argp_error(state, "a shape needs --experts, --hidden and --inter");
        } else if (a->workloads != NULL && (a->rows.count > 0 || a->skews.count > 0)) {
            argp_error(state, "--rows and --skew are in the --workloads file already");
        }
        break;
    }
    default:
        return ARGP_ERR_UNKNOWN;
    }
    moet_command_check(state, status);
    return 0;
}

static void release_arguments(sweep_arguments *a)
{
    moet_text_list_release(&a->models);
    moet_text_list_release(&a->skews);
    moet_text_list_release(&a->devices);
    moet_text_list_release(&a->sweep.families);
    moet_int_list *lists[] = {&a->ep, &a->experts, &a->hidden, &a->inter, &a->rows};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        moet_int_list_release(lists[i]);
    }
}

/* ---- the list of workloads ---- */

/* One shape with every number of rows and skew. */
static moet_status add_shape(const sweep_arguments *a, const char *name, int64_t experts, int64_t hidden, int64_t inter,
                             moet_workloads *list)
{
    for (int32_t r = 0; r < a->rows.count; r++) {
        for (int32_t k = 0; k < a->skews.count; k++) {
            moet_workload workload = {.experts = (int32_t)experts,
                                      .hidden = (int32_t)hidden,
                                      .inter = (int32_t)inter,
                                      .rows = a->rows.values[r],
                                      .seed = a->sweep.seed};
            if (list->count >= MAX_WORKLOADS) {
                return moet_fail(MOET_INVALID, "more than %d workloads; give shorter lists, or sweep in parts",
                                 MAX_WORKLOADS);
            }
            workload.counts = malloc((size_t)experts * sizeof *workload.counts);
            if (workload.counts == NULL) {
                return moet_fail(MOET_NO_MEMORY, "no memory for a workload of %lld experts", (long long)experts);
            }
            snprintf(workload.name, sizeof workload.name, "%s", name);
            moet_status status =
                moet_skew_draw(a->skews.texts[k], workload.experts, workload.rows, workload.seed, workload.counts);
            if (status == MOET_OK) {
                snprintf(workload.skew, sizeof workload.skew, "%s", a->skews.texts[k]);
                status = moet_workloads_add(list, &workload);
            }
            if (status != MOET_OK) {
                moet_workload_release(&workload);
                return status;
            }
        }
    }
    return MOET_OK;
}

static moet_status add_models(sweep_arguments *a, moet_workloads *list)
{
    bool any_bias = false, any_plain = false;
    for (int32_t i = 0; i < a->models.count; i++) {
        moet_model model;
        MOET_TRY(moet_model_find(a->models.texts[i], &model));
        any_bias = any_bias || model.bias;
        any_plain = any_plain || !model.bias;
        for (int32_t j = 0; j < a->ep.count; j++) {
            int64_t ranks = a->ep.values[j];
            char name[MOET_WORKLOAD_NAME_SIZE];
            if (model.experts % ranks != 0 || model.experts / ranks > MOET_MAX_EXPERTS) {
                return moet_fail(MOET_INVALID, "--ep: %lld does not divide the %d experts of %s", (long long)ranks,
                                 model.experts, model.name);
            }
            snprintf(name, sizeof name, "%s/ep%lld", model.name, (long long)ranks);
            MOET_TRY(add_shape(a, name, model.experts / ranks, model.hidden, model.inter, list));
        }
    }
    if (!a->sweep.problem.bias_given && any_bias && any_plain) {
        return moet_fail(MOET_INVALID,
                         "some of these models have biases, some not: sweep them apart, or say --bias=yes|no");
    }
    if (!a->sweep.problem.bias_given) {
        a->sweep.problem.bias = a->sweep.problem.down_bias = any_bias;
    }
    return MOET_OK;
}

static moet_status add_shapes(const sweep_arguments *a, moet_workloads *list)
{
    for (int32_t e = 0; e < a->experts.count; e++) {
        for (int32_t h = 0; h < a->hidden.count; h++) {
            for (int32_t i = 0; i < a->inter.count; i++) {
                long long experts = a->experts.values[e], hidden = a->hidden.values[h], inter = a->inter.values[i];
                char name[MOET_WORKLOAD_NAME_SIZE];
                snprintf(name, sizeof name, "e%lld-h%lld-i%lld", experts, hidden, inter);
                MOET_TRY(add_shape(a, name, experts, hidden, inter, list));
            }
        }
    }
    return MOET_OK;
}

static moet_status make_workloads(sweep_arguments *a, moet_workloads *list)
{
    if (a->workloads != NULL) {
        return moet_workloads_read(a->workloads, list);
    }
    if (a->rows.count == 0) {
        MOET_TRY(moet_parse_list(DEFAULT_ROWS, "--rows", 1, MOET_MAX_ROWS, &a->rows));
    }
    if (a->skews.count == 0) {
        MOET_TRY(moet_parse_texts(DEFAULT_SKEWS, "--skew", &a->skews));
    }
    return a->models.count > 0 ? add_models(a, list) : add_shapes(a, list);
}

/* Of a file of `recheck`. The device is that of the file. */
static moet_status read_stale(sweep_arguments *a, moet_stale *stale)
{
    MOET_TRY(moet_stale_read(a->stale, &a->sweep.shard, stale));
    a->sweep.device_key = stale->device_key;
    return MOET_OK;
}

/* ---- running ---- */

static int list_models(void)
{
    printf("%-20s %7s %5s %6s %6s %6s  %s\n", "model", "experts", "top_k", "hidden", "inter", "layers", "note");
    for (int32_t i = 0; i < moet_model_count(); i++) {
        moet_model m;
        moet_status status = moet_model_at(i, &m);
        if (status != MOET_OK) {
            return moet_command_fail(status);
        }
        printf("%-20s %7d %5d %6d %6d %6d  %s%s%s\n", m.name, m.experts, m.top_k, m.hidden, m.inter, m.layers,
               m.bias ? "biases" : "", m.bias && m.note[0] != '\0' ? ", " : "", m.note);
    }
    return MOET_EXIT_OK;
}

static moet_status print_size(const sweep_arguments *a, const moet_sweep_tasks *tasks, int32_t workloads,
                              const moet_device_info *device)
{
    moet_sweep_size size;
    char time[MOET_TIME_TEXT_SIZE];
    MOET_TRY(moet_sweep_measure_size(&a->sweep, tasks, device, &size));
    moet_progress_time(size.seconds, time);
    printf("device      %s (%s)\n", device->name, device->backend);
    printf("workloads   %d\n", workloads);
    printf("races       %d (workload, op, layout%s)\n", size.tasks, a->sweep.shard.count > 1 ? "; in this shard" : "");
    printf("candidates  %s%lld, then at most %lld around the best; %lld more do not apply\n",
           size.is_bound ? "at most " : "", (long long)size.candidates, (long long)size.around,
           (long long)size.inapplicable);
    if (size.listed > 0)
        printf("listed      at most %lld more, of what a vendor library lists when asked\n", (long long)size.listed);
    printf("time        about %s, compiling, winners of other workloads and what is in %s already not counted\n", time,
           a->sweep.db_path);
    return MOET_OK;
}

/* The one that a dry run looks at: the first of them. */
static moet_status open_first(const sweep_arguments *a, moet_device **device)
{
    const char *spec = a->devices.texts[0];
    const bool is_host = strncmp(spec, "host/", 5) == 0;
    return moet_device_open(is_host ? "host" : strcmp(spec, "all") == 0 ? "auto" : spec, device);
}

/* Names the first of the tasks that are left. */
static void note_left(const moet_sweep_tasks *tasks, const moet_sweep_summary *s)
{
    char text[1024] = "";
    size_t used = 0;
    for (int32_t i = 0; i < s->left && i < MOET_SWEEP_LEFT_NAMED; i++) {
        char name[MOET_SWEEP_TASK_SIZE];
        moet_sweep_task_format(&tasks->items[s->first_left[i]], name);
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s", used > 0 ? "; " : "", name);
    }
    moet_command_note(s->left > MOET_SWEEP_LEFT_NAMED ? "not tuned: %s; and %d more" : "not tuned: %s", text,
                      s->left - MOET_SWEEP_LEFT_NAMED);
}

static int finish(const sweep_arguments *a, const moet_sweep_tasks *tasks, const moet_sweep_summary *s,
                  moet_status status)
{
    int code = moet_command_fail(status);
    if (status != MOET_OK && s->tried + s->measured + s->already_done + s->failed == 0) {
        return code; /* it did not begin */
    }
    moet_command_note(
        "%d races finished, %d were finished before, %d failed, %d left; %lld candidates tried, %lld wrong, "
        "%lld failed",
        s->measured, s->already_done, s->failed, s->left, (long long)s->tried, (long long)s->wrong,
        (long long)s->broken);
    if (s->filled > 0) {
        moet_command_note("%lld of these are winners of other workloads, for a lookup between the workloads",
                          (long long)s->filled);
    }
    if (s->cut > 0) {
        moet_command_note("%d races for want of time with effort quick only; the same command tunes them further",
                          s->cut);
    }
    if (s->left > 0) {
        note_left(tasks, s);
    }
    if (s->left == 0 && s->unfilled > 0) {
        moet_command_note("%d races are not looked through yet for what a table takes of their problem", s->unfilled);
    }
    if (status != MOET_OK || s->left + s->unfilled > 0) {
        moet_command_note("%s; the same command %s: %s",
                          s->interrupted     ? "interrupted"
                          : s->out_of_budget ? "the budget is spent"
                                             : "stopped",
                          a->sweep.retune ? "measures all of it again (--retune)" : "goes on", a->sweep.command);
    } else if (s->measured == 0 && s->failed == 0 && s->filled == 0) {
        moet_command_note("nothing to do: all of it is in %s", a->sweep.db_path);
    } else {
        moet_command_note_next(3, (const char *const[]){"moe-tune show", "--db", a->sweep.db_path});
    }
    if (code == MOET_EXIT_OK && (s->failed > 0 || s->interrupted)) {
        code = MOET_EXIT_FAILED;
    }
    return code;
}

static const struct argp_child children[] = {{&moet_problem_argp, 0, "The problem", 2}, {0}};
static const struct argp argp = {
    options,
    parse_option,
    NULL,
    MOET_COMMAND_DOC(
        "Measures every applicable kernel configuration on a list of workloads and stores every trial.", EXAMPLE,
        "LIST is numbers and ranges: 512,2048 or 1024..8192x2 (multiplied) or 1024..8192+1024 (added). "
        "Interrupted (Ctrl-C, kill, kill -9), the same command goes on where it stopped; no finished "
        "trial is measured again. The first Ctrl-C ends the round and stores it (exit 1), one a second "
        "or more after it ends at once. Exit codes: 0 all measured, or the budget is spent; 1 a workload failed, or "
        "interrupted."),
    children,
    NULL,
    NULL};

static int run(int argc, char **argv)
{
    sweep_arguments a = {.sweep = {.db_path = "moe-tune.db",
                                   .devices = &a.devices,
                                   .seed = 1,
                                   .shard = {1, 1},
                                   .final_rounds = 11,
                                   .effort = MOET_EFFORT_NORMAL,
                                   .listed = MOET_SWEEP_LISTED,
                                   .noise = 0.01,
                                   .jobs = moet_compile_ahead_jobs()}};
    moet_problem_options_default(&a.sweep.problem);
    moet_workloads workloads = {0};
    moet_sweep_tasks made = {0};
    moet_stale stale = {0};
    moet_device *device = NULL;
    char *command = moet_command_line(argc, argv); /* before argp reorders argv */
    int code = moet_command_parse(&argp, argc, argv, &a);
    if (code != MOET_EXIT_OK || a.list_models) {
        code = code != MOET_EXIT_OK ? code : list_models();
        goto done;
    }
    if (a.devices.count == 0) {
        code = moet_command_fail(moet_parse_texts(a.device != NULL ? a.device : "auto", "--device", &a.devices));
        if (code != MOET_EXIT_OK) goto done;
    }
    a.sweep.command = command != NULL ? command : "moe-tune sweep";
    moet_status status = a.stale != NULL ? read_stale(&a, &stale) : make_workloads(&a, &workloads);
    if (status == MOET_OK && a.stale == NULL) status = moet_sweep_plan(&a.sweep, &workloads, &made);
    const moet_sweep_tasks tasks = a.stale != NULL ? stale.tasks : made;
    const int32_t workload_count = a.stale != NULL ? stale.workloads.count : workloads.count;
    if (status == MOET_NOT_FOUND && a.models.count > 0) status = MOET_INVALID; /* a wrong model is a wrong argument */
    if (status == MOET_OK && tasks.count == 0 && a.stale != NULL && workload_count == 0) {
        moet_command_note("nothing to do: %s has no winner that is lost or stale", a.stale);
        goto done;
    }
    if (status == MOET_OK && tasks.count == 0) {
        moet_command_note("nothing to do: no race falls into shard %d/%d", a.sweep.shard.index, a.sweep.shard.count);
        goto done;
    }
    if (status == MOET_OK && a.dry_run) status = open_first(&a, &device);
    if (status != MOET_OK) {
        code = moet_command_fail(status);
        goto done;
    }
    if (a.dry_run) {
        code = moet_command_fail(print_size(&a, &tasks, workload_count, &device->info));
        goto done;
    }
    a.sweep.interrupted = moet_interrupt_catch();
    moet_sweep_summary summary;
    status = moet_sweep_run(&a.sweep, &tasks, &summary);
    code = finish(&a, &tasks, &summary, status);
done:
    moet_device_close(device);
    moet_sweep_tasks_release(&made);
    moet_stale_release(&stale);
    moet_workloads_release(&workloads);
    release_arguments(&a);
    free(command);
    return code;
}

const moet_command moet_command_sweep = {"sweep", SUMMARY, EXAMPLE, run, &argp};
