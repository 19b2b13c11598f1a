/* moe-tune profile: one launch under a profiler, and what holds it. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../src/file.h"
#include "../src/nvtx.h"
#include "child.h"
#include "command.h"
#include "parse.h"
#include "planned.h"
#include "store.h"
#include "sweep.h"
#include "why.h"
#include "workload_find.h"

#define SUMMARY "say why a launch takes as long as it does, by Nsight Compute's counters"
#define EXAMPLE "moe-tune profile deepseek-v3/ep32/8192/zipf:1 --table table"
#define MAX_CSV_BYTES (64 << 20)
#define MAX_LOG_BYTES (16 << 20)
#define LAUNCHED "launched " /* what --tool none prints, followed by the config */

/* Where a toolkit's or its own package puts them. */
static const char *const ncu_folders[] = {"/usr/local/cuda/bin", "/opt/nvidia/nsight-compute/*", NULL};
static const char *const nsys_folders[] = {"/usr/local/cuda/bin", "/opt/nvidia/nsight-systems/*/bin", NULL};

#define TOOL_TABLE(X) X(NCU, "ncu") X(NSYS, "nsys") X(NONE, "none")
typedef enum tool {
#define MOET_X(name, text) TOOL_##name,
    TOOL_TABLE(MOET_X)
#undef MOET_X
        TOOL_COUNT,
    TOOL_UNSET
} tool;
static const char *const tool_names[] = {
#define MOET_X(name, text) text,
    TOOL_TABLE(MOET_X)
#undef MOET_X
};

typedef struct profile_arguments {
    const char *workload, *match, *table, *device, *counters, *keep, *db;
    bool has_config, device_counts, keep_source;
    moet_config config;
    tool tool;
    int32_t warm_up;
    moet_sweep_options plan; /* problem, seed */
    int argc;                /* all of them, for the program under the tool */
    char **argv;
} profile_arguments;

/* ---- options ---- */

enum option_key {
    KEY_CONFIG = 256,
    KEY_TABLE,
    KEY_TOOL,
    KEY_COUNTERS,
    KEY_DB,
    KEY_KEEP,
    KEY_KEEP_SOURCE,
    KEY_MATCH,
    KEY_DEVICE_COUNTS,
    KEY_WARM_UP,
    KEY_DEVICE,
    KEY_SEED
};

static const struct argp_option options[] = {
    {.name = "config", .key = KEY_CONFIG, .arg = "CONFIG", .doc = "This configuration, as `show` prints it"},
    {.name = "table", .key = KEY_TABLE, .arg = "DIR", .doc = "What this table chooses; without it, the default"},
    {.name = "tool",
     .key = KEY_TOOL,
     .arg = "ncu|nsys|none",
     .doc = "What to run it under (default ncu). none: only the launch, between cuProfilerStart and cuProfilerStop, "
            "for a profiler that you started"},
    {.name = "counters",
     .key = KEY_COUNTERS,
     .arg = "FILE",
     .doc = "Run nothing: read what ncu printed of a report as CSV, of its page raw (wants --config)"},
    {.name = "db",
     .key = KEY_DB,
     .arg = "FILE",
     .doc = "Put the counters beside the trial in this database (`show --counters`); without --config and --table, "
            "profile its winner"},
    {.name = "keep", .key = KEY_KEEP, .arg = "FILE", .doc = "Keep the tool's report (.ncu-rep, .nsys-rep)"},
    {.name = "keep-source",
     .key = KEY_KEEP_SOURCE,
     .doc = "With --keep: kernels with line information and their sources, for ncu's source page"},
    {.name = "match", .key = KEY_MATCH, .arg = "TEXT", .doc = "Of a file: the workload whose name holds TEXT"},
    {.name = "device-counts", .key = KEY_DEVICE_COUNTS, .doc = "Rows per expert in device memory"},
    {.name = "warm-up", .key = KEY_WARM_UP, .arg = "N", .doc = "Launches before the one that counts (default 20)"},
    {.name = "device", .key = KEY_DEVICE, .arg = "SPEC", .doc = "auto, host, cuda or cuda:N (default auto)"},
    {.name = "seed", .key = KEY_SEED, .arg = "N", .doc = "Of the skew and the inputs (default 1)"},
    {0}};

static void check_together(const profile_arguments *a, struct argp_state *state)
{
    if (a->workload == NULL) {
        argp_error(state, "give a WORKLOAD: MODEL/epN/ROWS/SKEW, or a .jsonl file");
    } else if (a->table != NULL && a->has_config) {
        argp_error(state, "give either --config CONFIG or --table DIR");
    } else if (a->counters != NULL && !a->has_config && a->db == NULL) {
        argp_error(state, "--counters wants --config, or --db: the file does not say what was launched");
    } else if (a->db != NULL && a->tool == TOOL_NSYS) {
        argp_error(state, "--db keeps counters, which ncu has: --tool ncu");
    } else if (a->counters != NULL && a->tool != TOOL_UNSET) {
        argp_error(state, "--counters runs nothing, --tool does");
    } else if (strcmp(a->workload, "-") == 0 && a->counters == NULL && a->tool != TOOL_NONE) {
        argp_error(state, "a tool runs the program again, which cannot read standard input twice: give a file");
    } else if (a->keep_source && (a->keep == NULL || a->table != NULL)) {
        argp_error(state, a->keep == NULL
                              ? "--keep-source goes with --keep FILE"
                              : "--keep-source: a table's kernels have no line information; name what to compile by "
                                "--config");
    }
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    profile_arguments *a = state->input;
    int64_t number = 0;
    moet_status status = MOET_OK;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->plan.problem;
        break;
    case KEY_CONFIG:
        status = moet_config_parse(arg, &a->config);
        a->has_config = true;
        break;
    case KEY_TABLE:
        a->table = arg;
        break;
    case KEY_TOOL:
        a->tool = TOOL_UNSET;
        for (int32_t i = 0; i < TOOL_COUNT; i++) {
            a->tool = strcmp(arg, tool_names[i]) == 0 ? (tool)i : a->tool;
        }
        if (a->tool == TOOL_UNSET) {
            argp_error(state, "--tool: '%s' is none of ncu, nsys, none", arg);
        }
        break;
    case KEY_COUNTERS:
        a->counters = arg;
        break;
    case KEY_DB:
        a->db = arg;
        break;
    case KEY_KEEP:
        a->keep = arg;
        break;
    case KEY_KEEP_SOURCE:
        a->keep_source = true;
        break;
    case KEY_MATCH:
        a->match = arg;
        break;
    case KEY_DEVICE_COUNTS:
        a->device_counts = true;
        break;
    case KEY_WARM_UP:
        status = moet_parse_integer(arg, "--warm-up", 0, 100000, &number);
        a->warm_up = (int32_t)number;
        break;
    case KEY_DEVICE:
        a->device = arg;
        break;
    case KEY_SEED:
        status = moet_parse_integer(arg, "--seed", 1, INT64_MAX / 10, &number);
        a->plan.seed = (uint64_t)number;
        break;
    case ARGP_KEY_ARG:
        if (a->workload != NULL) {
            return ARGP_ERR_UNKNOWN; /* perhaps a value of --bias */
        }
        a->workload = arg;
        break;
    case ARGP_KEY_END:
        check_together(a, state);
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    moet_command_check(state, status);
    return 0;
}

/* ---- the launch ---- */

/* Adds what is to be launched to a bench; *planned is to be released after the bench. */
static moet_status add_subject(const profile_arguments *a, const moet_sweep_task *task, moet_handle *handle,
                               moet_bench *bench, moet_planned *planned)
{
    MOET_TRY(moet_bench_set_workload(bench, &task->problem, task->workload->counts, task->workload->tokens));
    if (a->has_config) {
        return moet_bench_add_config(bench, &a->config, a->device_counts, &planned->subject);
    }
    return moet_planned_add(bench, handle, &task->problem, task->workload->counts, a->device_counts, "plan", planned);
}

static moet_status launch_once(const profile_arguments *a, const moet_sweep_task *task, moet_device *device,
                               moet_handle *handle)
{
    moet_bench *bench = NULL;
    moet_planned planned = {0};
    moet_status status = moet_bench_create(device, a->plan.seed, false, &bench);
    if (status == MOET_OK) status = add_subject(a, task, handle, bench, &planned);
    if (status == MOET_OK && !moet_bench_active(bench, planned.subject)) {
        moet_trial trial = {0};
        status = moet_bench_trial(bench, planned.subject, &trial);
        if (status == MOET_OK) {
            status = moet_fail(trial.status == MOET_TRIAL_WRONG ? MOET_WRONG : MOET_UNSUPPORTED, "%s: %s: %s",
                               trial.config, moet_trial_status_name(trial.status), trial.reason);
        }
        moet_trial_release(&trial);
    }
    if (status == MOET_OK) {
        moet_sweep_task_begin(task);
        status = moet_nvtx_end(moet_bench_launch_profiled(bench, planned.subject, a->warm_up));
    }
    if (status == MOET_OK) {
        if (a->has_config) {
            moet_config_format(&a->config, planned.choice.config);
        }
        printf(LAUNCHED "%s\n", planned.choice.config);
    }
    moet_bench_destroy(bench);
    moet_planned_release(&planned);
    return status;
}

static moet_status run_launch(const profile_arguments *a, const moet_sweep_task *task)
{
    moet_device *device = NULL;
    moet_handle *handle = NULL;
    moet_status status = moet_device_open(a->device, &device);
    if (status == MOET_OK && !a->has_config) status = moet_planned_open(a->table, a->device, &handle);
    if (status == MOET_OK && handle != NULL && a->table != NULL) moet_command_note_refusals(a->table, handle);
    if (status == MOET_OK) status = launch_once(a, task, device, handle);
    moet_close(handle);
    moet_device_close(device);
    return status;
}

/* ---- the tools ---- */

#define MOST_ARGUMENTS 64

/* Arguments of the tool, and behind them this program with its own, which then runs under no tool. */
typedef struct tool_line {
    const char *argv[MOST_ARGUMENTS + 1];
    int32_t count;
    char self[4096], config[MOET_CONFIG_SIZE];
} tool_line;

static void add(tool_line *line, const char *argument)
{
    line->argv[line->count] = argument;
    line->count += line->count < MOST_ARGUMENTS;
    line->argv[line->count] = NULL;
}

static moet_status add_self(const profile_arguments *a, tool_line *line)
{
    const ssize_t length = readlink("/proc/self/exe", line->self, sizeof line->self - 1);
    if (length < 0) {
        return moet_fail(MOET_IO, "/proc/self/exe: %s", strerror(errno));
    }
    line->self[length] = '\0';
    if (line->count + a->argc + 7 > MOST_ARGUMENTS) {
        return moet_fail(MOET_INVALID, "more than %d arguments", MOST_ARGUMENTS - line->count - 7);
    }
    add(line, line->self);
    add(line, "profile");
    for (int i = 1; i < a->argc; i++) {
        add(line, a->argv[i]);
    }
    if (a->db != NULL && a->has_config) { /* perhaps the database's winner */
        moet_config_format(&a->config, line->config);
        add(line, "--config");
        add(line, line->config);
        if (a->device_counts) add(line, "--device-counts");
    }
    add(line, "--tool"); /* the last one counts */
    add(line, "none");
    return MOET_OK;
}

/* The folder of kernels' sources beside a kept report. */
static moet_status make_source_folder(const profile_arguments *a)
{
    char folder[1024], path[4096];
    if (!a->keep_source) {
        return MOET_OK;
    }
    if ((size_t)snprintf(folder, sizeof folder, "%s.sources", a->keep) >= sizeof folder) {
        return moet_fail(MOET_INVALID, "--keep: the path is too long");
    }
    if ((mkdir(folder, 0777) != 0 && errno != EEXIST) || realpath(folder, path) == NULL) {
        return moet_fail(MOET_IO, "%s: %s", folder, strerror(errno));
    }
    return setenv("MOET_LINE_INFO", path, 1) == 0 ? MOET_OK : moet_fail(MOET_NO_MEMORY, "no memory for MOET_LINE_INFO");
}

/* What was launched, by the line that the program under the tool printed into its log. */
static moet_status read_launched(const char *log_path, moet_config *config, char **log)
{
    size_t size = 0;
    MOET_TRY(moet_file_read(log_path, MAX_LOG_BYTES, log, &size));
    const char *line = strstr(*log, LAUNCHED);
    if (line == NULL) {
        return moet_ncu_explain(*log);
    }
    char text[MOET_CONFIG_SIZE];
    line += strlen(LAUNCHED);
    snprintf(text, sizeof text, "%.*s", (int)strcspn(line, "\r\n"), line);
    return moet_config_parse(text, config);
}

/* The tool's report: what is kept, or a file of the folder. Tools add their extension where it is not there. */
static moet_status report_path(const profile_arguments *a, const char *folder, const char *extension, char *path,
                               size_t size)
{
    const size_t length = a->keep ? strlen(a->keep) : 0, end = strlen(extension);
    const bool has_it = length > end && strcmp(a->keep + length - end, extension) == 0;
    const int used = a->keep ? snprintf(path, size, "%s%s", a->keep, has_it ? "" : extension)
                             : snprintf(path, size, "%s/p%s", folder, extension);
    return (size_t)used < size ? MOET_OK : moet_fail(MOET_INVALID, "--keep: the path is too long");
}

/* Runs ncu twice: over the program, and over its report, which is then CSV at csv_path. */
static moet_status run_ncu(profile_arguments *a, const char *folder, const char *csv_path)
{
    char report[1200], log_path[1200], *ncu = NULL, *metrics = moet_ncu_metric_list(), *log = NULL;
    tool_line line = {.count = 0};
    int code = 0;
    snprintf(log_path, sizeof log_path, "%s/ncu.log", folder);
    moet_status status = metrics != NULL ? MOET_OK : moet_fail(MOET_NO_MEMORY, "no memory for ncu's metrics");
    if (status == MOET_OK) status = report_path(a, folder, ".ncu-rep", report, sizeof report);
    if (status == MOET_OK) {
        status = moet_child_find("ncu", ncu_folders,
                                 "install Nsight Compute (CUDA's package cuda-nsight-compute) or add its folder to "
                                 "PATH; --tool none runs the launch under a profiler of yours",
                                 &ncu);
    }
    if (status == MOET_OK) status = make_source_folder(a);
    if (status == MOET_OK) {
        /* Caches are flushed before each pass, ncu's default: weights are cold, as in trials. Clocks are the GPU's own.
         */
        const char *const arguments[] = {
            ncu,   "--force-overwrite", "--export", report, "--metrics", metrics, "--profile-from-start",
            "off", "--clock-control",   "none"};
        const char *const of_source[] = {"--section", "SourceCounters", "--import-source", "yes"};
        for (int32_t i = 0; i < MOET_COUNT_OF(arguments); i++) {
            add(&line, arguments[i]);
        }
        for (int32_t i = 0; a->keep_source && i < MOET_COUNT_OF(of_source); i++) {
            add(&line, of_source[i]);
        }
        status = add_self(a, &line);
    }
    if (status == MOET_OK) status = moet_child_run(line.argv, log_path, log_path, &code);
    if (status == MOET_OK) status = read_launched(log_path, &a->config, &log);
    if (status == MOET_OK && (code != 0 || access(report, F_OK) != 0)) status = moet_ncu_explain(log);
    if (status == MOET_OK) {
        const char *const import[] = {ncu, "--import", report, "--csv", "--page", "raw", "--print-units", "base", NULL};
        status = moet_child_run(import, csv_path, log_path, &code);
        free(log);
        log = NULL;
        size_t size = 0;
        if (status == MOET_OK && code != 0) {
            status = moet_file_read(log_path, MAX_LOG_BYTES, &log, &size);
            if (status == MOET_OK) status = moet_ncu_explain(log);
        }
    }
    free(log);
    free(metrics);
    free(ncu);
    return status;
}

/* A timeline of the launch, of which nsys prints the kernels and our ranges. */
static moet_status run_nsys(const profile_arguments *a, const char *folder)
{
    char report[1200], *nsys = NULL;
    tool_line line = {.count = 0};
    int code = 0;
    MOET_TRY(report_path(a, folder, ".nsys-rep", report, sizeof report));
    MOET_TRY(moet_child_find("nsys", nsys_folders,
                             "install Nsight Systems (CUDA's package cuda-nsight-systems) or add its folder to PATH",
                             &nsys));
    const char *const arguments[] = {nsys,      "profile",   "--force-overwrite", "true",           "--output", report,
                                     "--trace", "cuda,nvtx", "--capture-range",   "cudaProfilerApi"};
    for (int32_t i = 0; i < MOET_COUNT_OF(arguments); i++) {
        add(&line, arguments[i]);
    }
    moet_status status = add_self(a, &line);
    if (status == MOET_OK) status = moet_child_run(line.argv, NULL, NULL, &code);
    if (status == MOET_OK && code != 0) status = moet_fail(MOET_DEVICE, "nsys ended with exit code %d", code);
    if (status == MOET_OK) {
        const char *const stats[] = {
            nsys,   "stats", "--force-export", "true", "--report", "cuda_gpu_kern_sum", "--report", "nvtx_pushpop_sum",
            report, NULL};
        status = moet_child_run(stats, NULL, NULL, &code);
        if (status == MOET_OK && code != 0) status = moet_fail(MOET_DEVICE, "nsys stats ended with exit code %d", code);
    }
    free(nsys);
    return status;
}

/* ---- the database ---- */

/* The trial that is profiled: of this config, or the winner. */
typedef struct trial_search {
    const profile_arguments *arguments;
    const char *config; /* NULL: the winner */
    int32_t found;
    int64_t trial_id;
    bool device_counts; /* of the trial: with host counts a config may win that takes either */
    char config_text[MOET_CONFIG_SIZE];
} trial_search;

static moet_status visit_trial(void *context, const moet_store_trial_row *row)
{
    trial_search *s = context;
    const bool device_counts = s->arguments->device_counts;
    const bool is_it = s->config != NULL ? row->is_current && row->device_counts == device_counts &&
                                               strcmp(row->config, s->config) == 0
                                         : row->is_winner[device_counts ? MOET_TABLE_DEVICE_COUNTS : MOET_TABLE_ANY];
    if (is_it) {
        s->found++;
        s->trial_id = row->trial_id;
        s->device_counts = row->device_counts;
        snprintf(s->config_text, sizeof s->config_text, "%s", row->config);
    }
    return MOET_OK;
}

/* Of this machine's device, or, where it has no GPU (counters of a file), of any. */
static moet_status find_trial(const profile_arguments *a, const moet_sweep_task *task, trial_search *search)
{
    char problem_key[MOET_STORE_PROBLEM_SIZE];
    moet_store *store = NULL;
    moet_device *device = NULL;
    const bool is_known =
        moet_device_open(a->device, &device) == MOET_OK && (a->counters == NULL || device->info.cc_major > 0);
    moet_store_problem_key(&task->problem, task->workload, problem_key);
    const moet_store_filter filter = {.device_key = is_known ? device->key : NULL,
                                      .problem_key = problem_key,
                                      .workload = task->workload,
                                      .ok_only = true};
    moet_status status = moet_store_open(a->db, MOET_STORE_READ, &store);
    if (status == MOET_OK) status = moet_store_each_trial(store, &filter, visit_trial, search);
    if (status == MOET_OK && search->found != 1) {
        status = moet_fail(
            MOET_NOT_FOUND, "%s: %s %s of this workload%s: %s", a->db, search->found == 0 ? "no" : "more than one",
            search->config != NULL ? "trial of the configuration" : "winner", is_known ? " on this device" : "",
            search->found == 0 ? "sweep it first, or leave --db out" : "several devices have one");
    }
    moet_store_close(store);
    moet_device_close(device);
    return status;
}

/* Before anything runs: the winner becomes the config, for the program under the tool too; a trial must be there. */
static moet_status choose_trial(profile_arguments *a, const moet_sweep_task *task)
{
    char config[MOET_CONFIG_SIZE] = "";
    trial_search search = {.arguments = a, .config = a->has_config ? config : NULL};
    if (a->db == NULL || a->table != NULL) {
        return MOET_OK;
    }
    if (a->has_config) moet_config_format(&a->config, config);
    MOET_TRY(find_trial(a, task, &search));
    a->has_config = true;
    a->device_counts = search.device_counts;
    return moet_config_parse(search.config_text, &a->config);
}

static moet_status put_counters(const profile_arguments *a, const moet_sweep_task *task, const moet_ncu_report *report)
{
    char config[MOET_CONFIG_SIZE];
    trial_search search = {.arguments = a, .config = config};
    moet_store *store = NULL;
    int32_t count = 0;
    moet_config_format(&a->config, config);
    MOET_TRY(find_trial(a, task, &search));
    moet_store_counter *counters = calloc((size_t)report->count * MOET_NCU_METRIC_COUNT, sizeof *counters);
    if (counters == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for the counters of %d kernels", report->count);
    }
    for (int32_t k = 0; k < report->count; k++) {
        for (int32_t m = 0; m < MOET_NCU_METRIC_COUNT; m++) {
            const double value = report->kernels[k].values[m];
            if (!isnan(value)) {
                counters[count++] =
                    (moet_store_counter){k, report->kernels[k].name, moet_ncu_metric_name((moet_ncu_metric)m), value};
            }
        }
    }
    moet_status status = moet_store_open(a->db, MOET_STORE_WRITE, &store);
    if (status == MOET_OK) status = moet_store_put_profile(store, search.trial_id, "ncu", counters, count);
    moet_store_close(store);
    free(counters);
    return status;
}

/* ---- the answer ---- */

/* The device that was profiled, of which an answer wants the SMs: this machine's, if it has one of as many. */
static moet_device_info find_device(const profile_arguments *a, const moet_ncu_report *report)
{
    const double counted = report->joined.values[MOET_NCU_SM_COUNT];
    moet_device_info info = {.sm_count = counted > 0 ? (int32_t)counted : 0};
    moet_device *device = NULL;
    if (moet_device_open(a->device, &device) == MOET_OK && device->info.cc_major > 0 &&
        (info.sm_count == 0 || device->info.sm_count == info.sm_count)) {
        info = device->info;
    }
    moet_device_close(device);
    return info;
}

static moet_status answer(const profile_arguments *a, const moet_sweep_task *task, const char *csv_path)
{
    const moet_workload *w = task->workload;
    char *text = NULL, name[256];
    size_t size = 0;
    moet_ncu_report report = {0};
    moet_why_verdict verdict;
    moet_why_launch launch = {.workload = name, .problem = &task->problem, .config = &a->config, .report = &report};
    snprintf(name, sizeof name, "%s %lld rows %s %s", w->name, (long long)w->rows, w->skew,
             moet_op_text(task->problem.op));
    moet_status status = moet_file_read(csv_path, MAX_CSV_BYTES, &text, &size);
    if (status == MOET_OK) status = moet_ncu_parse(text, csv_path, &report);
    if (status == MOET_OK) status = moet_routing_summarize(w->counts, w->experts, &launch.routing);
    if (status == MOET_OK) {
        const moet_device_info info = find_device(a, &report);
        launch.routing.tokens = w->tokens > 0 ? w->tokens : w->rows;
        status =
            moet_schedule_config(&task->problem, w->counts, &a->config, &info, &launch.has_schedule, &launch.schedule);
    }
    if (status == MOET_OK) {
        moet_why_judge(&launch, &verdict);
        moet_why_print(&launch, &verdict);
        if (a->db != NULL) status = put_counters(a, task, &report);
    }
    moet_ncu_report_release(&report);
    free(text);
    return status;
}

/* Under the tool. */
static moet_status profile(profile_arguments *a, const moet_sweep_task *task)
{
    char folder[MOET_CHILD_FOLDER_SIZE], csv_path[MOET_CHILD_FOLDER_SIZE + 16];
    MOET_TRY(choose_trial(a, task));
    if (a->tool == TOOL_NONE) {
        return run_launch(a, task);
    }
    if (a->counters != NULL) {
        return answer(a, task, a->counters);
    }
    MOET_TRY(moet_child_folder_make(folder));
    snprintf(csv_path, sizeof csv_path, "%s/raw.csv", folder);
    moet_status status = a->tool == TOOL_NSYS ? run_nsys(a, folder) : run_ncu(a, folder, csv_path);
    if (status == MOET_OK && a->tool != TOOL_NSYS) status = answer(a, task, csv_path);
    moet_child_folder_remove(folder);
    return status;
}

static const struct argp_child children[] = {{&moet_problem_argp, 0, "The problem", 1}, {0}};
static const struct argp argp = {
    options,
    parse_option,
    "WORKLOAD",
    MOET_COMMAND_DOC(
        "Launches WORKLOAD once under Nsight Compute, after a warm-up, and answers in ten lines why it takes as long "
        "as "
        "it does: how near it is to each ceiling, what tiles lose, what warps wait for, and which parameter may help.",
        EXAMPLE,
        "WORKLOAD is MODEL/epN/ROWS/SKEW, as `sweep` draws it, or a .jsonl file (- for stdin) of which --match names "
        "one. Without --ops it is the up GEMM. Counters need permission: where the driver keeps them to root, the "
        "message says how to allow them. Times under ncu are no trials: it runs a kernel several times, with flushed "
        "caches, and --db keeps counters only beside a trial's times. scripts/profile_ncu.sh and "
        "scripts/profile_nsys.sh are the same by hand."),
    children,
    NULL,
    NULL};

static int run(int argc, char **argv)
{
    profile_arguments a = {.device = "auto", .tool = TOOL_UNSET, .warm_up = 20, .plan = {.seed = 1, .shard = {1, 1}}};
    moet_workloads workloads = {0};
    moet_sweep_tasks tasks = {0};
    moet_problem_options_default(&a.plan.problem);
    a.plan.problem.ops = (moet_op_list){1, {MOET_OP_UP}};
    int code = moet_command_parse(&argp, argc, argv, &a);
    if (code != MOET_EXIT_OK) {
        return code;
    }
    a.argc = argc;
    a.argv = argv;
    bool has_bias = false;
    moet_status status = moet_workload_find(a.workload, a.match, a.plan.seed, &workloads, &has_bias);
    if (!a.plan.problem.bias_given) {
        a.plan.problem.bias = a.plan.problem.down_bias = has_bias;
    }
    if (status == MOET_OK) status = moet_sweep_plan(&a.plan, &workloads, &tasks);
    if (status == MOET_OK && tasks.count != 1) {
        status = moet_fail(MOET_INVALID, "one launch is profiled: give one of --ops and one of --layout");
    }
    if (status == MOET_OK) status = profile(&a, &tasks.items[0]);
    code = moet_command_fail(status);
    moet_sweep_tasks_release(&tasks);
    moet_workloads_release(&workloads);
    return code;
}

const moet_command moet_command_profile = {"profile", SUMMARY, EXAMPLE, run, &argp};
