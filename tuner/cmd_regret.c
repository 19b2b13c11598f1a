/* moe-tune regret: what a table's choices cost on workloads that it was not tuned on. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "compile_ahead.h"
#include "output.h"
#include "parse.h"
#include "progress.h"
#include "regret.h"
#include "store.h"
#include "sweep.h"

#define SUMMARY "what a table's choices cost on workloads that were not tuned"
#define EXAMPLE "moe-tune regret --table table --workloads drawn.jsonl"
#define EXHAUSTIVE_DB "moe-tune-regret.db"
#define STORED_RIVALS 6 /* fastest trials of a workload that are measured again */

typedef struct regret_bound {
    bool given;
    double mean, p95, most;
} regret_bound;

typedef struct regret_arguments {
    const char *table, *workloads, *db, *device;
    bool exhaustive, device_counts;
    moet_sweep_options sweep; /* problem, seed; with exhaustive, the rest */
    int32_t rounds;
    regret_bound at_most;
    moet_output_format format;
} regret_arguments;

/* ---- options ---- */

enum option_key {
    KEY_TABLE = 256,
    KEY_WORKLOADS,
    KEY_EXHAUSTIVE,
    KEY_DB,
    KEY_DEVICE_COUNTS,
    KEY_ROUNDS,
    KEY_LISTED,
    KEY_BUDGET,
    KEY_AT_MOST,
    KEY_DEVICE,
    KEY_SEED,
    KEY_FORMAT
};

static const struct argp_option options[] = {
    {.name = "table", .key = KEY_TABLE, .arg = "DIR", .doc = "The table"},
    {.name = "workloads", .key = KEY_WORKLOADS, .arg = "FILE", .doc = "Workloads, a .jsonl file (- for stdin)"},
    {.name = "exhaustive",
     .key = KEY_EXHAUSTIVE,
     .doc = "First race every candidate on every workload, as `sweep` does: the best of these are rivals too"},
    {.name = "db",
     .key = KEY_DB,
     .arg = "FILE",
     .doc = "Database whose fastest trials of these workloads are rivals too; with --exhaustive, where the races are "
            "kept, and go on (default " EXHAUSTIVE_DB ")"},
    {.name = "device-counts", .key = KEY_DEVICE_COUNTS, .doc = "Rows per expert in device memory"},
    {.name = "rounds",
     .key = KEY_ROUNDS,
     .arg = "N",
     .doc = "Rounds that tell the best, and fresh rounds that measure (default 11)"},
    {.name = "listed", .key = KEY_LISTED, .arg = "N", .doc = "With --exhaustive as in `sweep` (default 256)"},
    {.name = "budget", .key = KEY_BUDGET, .arg = "TIME", .doc = "Begin no workload after 90s, 5m, 2h"},
    {.name = "at-most",
     .key = KEY_AT_MOST,
     .arg = "MEAN,P95,MAX",
     .doc = "Exit with 4 if the regret in percent is above one of these"},
    {.name = "device", .key = KEY_DEVICE, .arg = "SPEC", .doc = "auto, host, cuda or cuda:N (default auto)"},
    {.name = "seed", .key = KEY_SEED, .arg = "N", .doc = "Of the inputs (default 1)"},
    {.name = "format", .key = KEY_FORMAT, .arg = "FORMAT", .doc = "text, csv or json (default text)"},
    {0}};

static moet_status parse_bound(const char *text, regret_bound *bound)
{
    moet_text_list list = {0};
    double values[3];
    MOET_TRY(moet_parse_texts(text, "--at-most", &list));
    moet_status status = list.count == MOET_COUNT_OF(values)
                             ? MOET_OK
                             : moet_fail(MOET_INVALID, "--at-most: '%.40s' is not three numbers, MEAN,P95,MAX", text);
    for (int32_t i = 0; i < MOET_COUNT_OF(values) && status == MOET_OK; i++) {
        status = moet_parse_decimal(list.texts[i], "--at-most", 0, 1e6, &values[i]);
    }
    moet_text_list_release(&list);
    if (status == MOET_OK) {
        *bound = (regret_bound){true, values[0] / 100, values[1] / 100, values[2] / 100};
    }
    return status;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    regret_arguments *a = state->input;
    int64_t number = 0;
    moet_status status = MOET_OK;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->sweep.problem;
        break;
    case KEY_TABLE:
        a->table = arg;
        break;
    case KEY_WORKLOADS:
        a->workloads = arg;
        break;
    case KEY_EXHAUSTIVE:
        a->exhaustive = true;
        break;
    case KEY_DB:
        a->db = arg;
        break;
    case KEY_DEVICE_COUNTS:
        a->device_counts = true;
        break;
    case KEY_ROUNDS:
        status = moet_parse_integer(arg, "--rounds", 3, 1000, &number);
        a->rounds = (int32_t)number;
        break;
    case KEY_LISTED:
        status = moet_parse_integer(arg, "--listed", 0, MOET_SWEEP_MOST_LISTED, &number);
        a->sweep.listed = (int32_t)number;
        break;
    case KEY_BUDGET:
        status = moet_parse_time(arg, "--budget", &a->sweep.budget_ns);
        break;
    case KEY_AT_MOST:
        status = parse_bound(arg, &a->at_most);
        break;
    case KEY_DEVICE:
        a->device = arg;
        break;
    case KEY_SEED:
        status = moet_parse_integer(arg, "--seed", 0, INT64_MAX / 10, &number);
        a->sweep.seed = (uint64_t)number;
        break;
    case KEY_FORMAT:
        status = moet_output_format_parse(arg, &a->format);
        break;
    case ARGP_KEY_END:
        if (a->table == NULL) {
            argp_error(state, "give --table DIR");
        } else if (a->workloads == NULL) {
            argp_error(state, "give --workloads FILE");
        }
        if (a->exhaustive && a->db == NULL) {
            a->db = EXHAUSTIVE_DB;
        }
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    moet_command_check(state, status);
    return 0;
}

/* ---- output ---- */

static const moet_output_column columns[] = {
    {"name", MOET_OUTPUT_TEXT, 0},        {"rows", MOET_OUTPUT_INTEGER, 0},
    {"tokens", MOET_OUTPUT_INTEGER, 0},   {"skew", MOET_OUTPUT_TEXT, 0},
    {"op", MOET_OUTPUT_TEXT, 0},          {"layout", MOET_OUTPUT_TEXT, 0},
    {"hit", MOET_OUTPUT_TEXT, 0},         {"distance", MOET_OUTPUT_REAL, 3},
    {"regret_pct", MOET_OUTPUT_REAL, 2},  {"noise_pct", MOET_OUTPUT_REAL, 2},
    {"default_pct", MOET_OUTPUT_REAL, 2}, {"time_us", MOET_OUTPUT_REAL, 2},
    {"best_us", MOET_OUTPUT_REAL, 2},     {"candidates", MOET_OUTPUT_INTEGER, 0},
    {"config", MOET_OUTPUT_TEXT, 0},      {"best_config", MOET_OUTPUT_TEXT, 0},
};

static void print_row(moet_output *out, const moet_sweep_task *task, const moet_regret *regret)
{
    const moet_workload *w = task->workload;
    moet_output_text(out, w->name);
    moet_output_integer(out, w->rows);
    if (task->problem.op == MOET_OP_FFN) {
        moet_output_integer(out, w->tokens > 0 ? w->tokens : w->rows);
    } else {
        moet_output_none(out);
    }
    moet_output_text(out, w->skew);
    moet_output_text(out, moet_op_text(task->problem.op));
    moet_output_text(out, moet_layout_text(task->problem.layout));
    moet_output_text(out, moet_hit_name(regret->choice.hit));
    moet_output_real(out, regret->choice.hit == MOET_HIT_DEFAULT ? (double)NAN : regret->choice.distance);
    moet_output_real(out, 100 * regret->regret);
    moet_output_real(out, 100 * regret->noise);
    moet_output_real(out, regret->has_default ? 100 * regret->default_regret : (double)NAN);
    moet_output_real(out, (double)regret->choice_ns / 1e3);
    moet_output_real(out, (double)regret->best_ns / 1e3);
    moet_output_integer(out, regret->candidates);
    moet_output_text(out, regret->choice.config);
    moet_output_text(out, regret->best);
}

/* ---- sums ---- */

/* Of workloads that were not tuned. */
typedef struct regret_list {
    int32_t count, default_count, negative;
    double *values, *defaults; /* [tasks] */
} regret_list;

typedef struct regret_state {
    const regret_arguments *arguments;
    moet_device *device;
    char device_key[MOET_DEVICE_KEY_SIZE];
    moet_handle *handle;
    moet_table *table;
    moet_store *store; /* NULL: none */
    moet_bench *bench;
    moet_output *out;
    moet_progress progress;
    int64_t begin_ns;
    regret_list lists[MOET_OP_COUNT + 1]; /* the last: of all ops */
    int32_t hits[MOET_HIT_COUNT], wrong, failed, left;
} regret_state;

static moet_status make_lists(regret_state *s, int32_t tasks)
{
    for (int32_t i = 0; i < MOET_COUNT_OF(s->lists); i++) {
        s->lists[i].values = malloc(((size_t)tasks + 1) * sizeof(double));
        s->lists[i].defaults = malloc(((size_t)tasks + 1) * sizeof(double));
        if (s->lists[i].values == NULL || s->lists[i].defaults == NULL) {
            return moet_fail(MOET_NO_MEMORY, "no memory for %d workloads", tasks);
        }
    }
    return MOET_OK;
}

static void add_to_list(regret_list *list, const moet_regret *regret)
{
    list->values[list->count++] = regret->regret;
    list->negative += regret->regret < 0;
    if (regret->has_default) {
        list->defaults[list->default_count++] = regret->default_regret;
    }
}

static void print_sum(FILE *to, const char *op, const char *what, double *values, int32_t count)
{
    const moet_regret_sum sum = moet_regret_summarize(values, count);
    fprintf(to, "%-4s %-8s mean %6.2f %%  p95 %6.2f %%  max %6.2f %%  n %d\n", op, what, 100 * sum.mean, 100 * sum.p95,
            100 * sum.most, count);
}

/* Data as text, beside data otherwise. */
static void print_sums(regret_state *s)
{
    FILE *to = s->arguments->format == MOET_FORMAT_TEXT ? stdout : stderr;
    int32_t ops = 0, negative = s->lists[MOET_OP_COUNT].negative;
    for (int32_t op = 0; op < MOET_OP_COUNT; op++) ops += s->lists[op].count > 0;
    fprintf(to, "\ntime of the choice / time of the best candidate - 1, of workloads that were not tuned\n");
    for (int32_t op = 0; op <= MOET_OP_COUNT; op++) {
        regret_list *list = &s->lists[op];
        const char *name = op < MOET_OP_COUNT ? moet_op_text((moet_op)op) : "all";
        if (list->count == 0 || (op == MOET_OP_COUNT && ops == 1)) {
            continue;
        }
        print_sum(to, name, "table", list->values, list->count);
        if (list->default_count > 0) {
            print_sum(to, name, "default", list->defaults, list->default_count);
        }
    }
    fprintf(to, "lookups: nearest %d, default %d; exact, which are left out above: %d\n", s->hits[MOET_HIT_NEAREST],
            s->hits[MOET_HIT_DEFAULT], s->hits[MOET_HIT_EXACT]);
    if (negative > 0) {
        fprintf(to, "%d are below 0: there the rounds that told the best and the fresh ones disagree, by noise\n",
                negative);
    }
}

/* ---- running ---- */

static void note(regret_state *s, const moet_sweep_task *task, const char *what, const char *reason)
{
    moet_progress_clear(&s->progress);
    moet_command_note("%s %lld rows %s %s: %s: %s", task->workload->name, (long long)task->workload->rows,
                      task->workload->skew, moet_op_text(task->problem.op), what, reason);
}

typedef struct stored_visit {
    bool device_counts;
    int32_t added;
    moet_rivals *rivals;
} stored_visit;

/* The fastest trials come first. */
static moet_status visit_stored(void *context, const moet_store_trial_row *row)
{
    stored_visit *visit = context;
    moet_config config;
    if (visit->added == STORED_RIVALS || !row->is_current || row->is_suspect || row->median_ns <= 0 ||
        (visit->device_counts && !row->device_counts) || moet_config_parse(row->config, &config) != MOET_OK ||
        config.family->version != row->family_version) {
        return MOET_OK;
    }
    visit->added++;
    return moet_rivals_add(visit->rivals, &config);
}

static moet_status find_rivals(const regret_state *s, const moet_sweep_task *task, moet_rivals *rivals)
{
    const bool device_counts = s->arguments->device_counts;
    MOET_TRY(moet_rivals_find(s->table, &task->problem, task->workload->rows, &s->device->info, device_counts, rivals));
    if (s->store == NULL) {
        return MOET_OK;
    }
    char problem_key[MOET_STORE_PROBLEM_SIZE];
    moet_store_problem_key(&task->problem, task->workload, problem_key);
    const moet_store_filter filter = {
        .device_key = s->device_key, .problem_key = problem_key, .workload = task->workload, .ok_only = true};
    stored_visit visit = {.device_counts = device_counts, .rivals = rivals};
    return moet_store_each_trial(s->store, &filter, visit_stored, &visit);
}

static moet_status run_task(regret_state *s, const moet_sweep_task *task)
{
    const regret_arguments *a = s->arguments;
    moet_rivals rivals = {0};
    moet_regret regret;
    MOET_TRY(find_rivals(s, task, &rivals));
    MOET_TRY(moet_regret_measure(s->bench, s->handle, &task->problem, task->workload, &rivals, &s->device->info,
                                 a->device_counts, a->rounds, &regret));
    if (regret.status != MOET_TRIAL_OK) {
        s->wrong += regret.status == MOET_TRIAL_WRONG;
        s->failed += regret.status != MOET_TRIAL_WRONG;
        note(s, task, regret.choice.config, regret.reason);
        return MOET_OK;
    }
    if (regret.failed > 0) {
        char reason[80];
        snprintf(reason, sizeof reason, "%d of %d; the best is of the others", regret.failed,
                 regret.failed + regret.candidates);
        note(s, task, "candidates that do not run, or not right", reason);
    }
    moet_progress_clear(&s->progress);
    print_row(s->out, task, &regret);
    s->hits[regret.choice.hit]++;
    if (regret.choice.hit != MOET_HIT_EXACT) {
        add_to_list(&s->lists[task->problem.op], &regret);
        add_to_list(&s->lists[MOET_OP_COUNT], &regret);
    }
    return MOET_OK;
}

/* No memory, a wrong reference and too many experts a token cost a workload. */
static bool costs_one_task(moet_status status)
{
    return status == MOET_NO_DEVICE_MEMORY || status == MOET_WRONG || status == MOET_TIMEOUT ||
           status == MOET_UNSUPPORTED || status == MOET_NOT_FOUND;
}

static moet_status run_tasks(regret_state *s, const moet_sweep_tasks *tasks, int32_t count)
{
    moet_progress_begin(&s->progress, stderr, count);
    moet_status status = MOET_OK;
    int32_t i = 0;
    for (; i < count && status == MOET_OK; i++) {
        const moet_sweep_task *task = &tasks->items[i];
        /* With --exhaustive the races had the budget. */
        const int64_t budget_ns = s->arguments->exhaustive ? 0 : s->arguments->sweep.budget_ns;
        if (budget_ns > 0 && moet_clock_ns() - s->begin_ns > budget_ns) {
            break;
        }
        moet_progress_update(&s->progress, i, "%s %lld rows %s %s", task->workload->name,
                             (long long)task->workload->rows, task->workload->skew, moet_op_text(task->problem.op));
        status = run_task(s, task);
        if (costs_one_task(status)) {
            s->wrong += status == MOET_WRONG;
            s->failed += status != MOET_WRONG;
            note(s, task, "not measured", moet_last_error());
            status = MOET_OK;
        }
    }
    s->left = tasks->count - i;
    moet_progress_end(&s->progress);
    return status;
}

/* Every candidate on every workload, into the database. *count: tasks before the first that is not done. */
static moet_status race_all(const regret_arguments *a, const moet_sweep_tasks *tasks, int32_t *count)
{
    static const volatile sig_atomic_t never = 0; /* a signal ends the program; the trials are in the database */
    char *device = (char *)a->device;             /* which the list does not write to */
    const moet_text_list devices = {1, &device};
    moet_sweep_options sweep = a->sweep;
    moet_sweep_summary summary;
    sweep.db_path = a->db;
    sweep.devices = &devices;
    sweep.final_rounds = a->rounds;
    sweep.effort = MOET_EFFORT_EXHAUSTIVE;
    sweep.races_only = true; /* these are no points of a table */
    sweep.noise = 0.01; /* as of `sweep` */
    sweep.jobs = moet_compile_ahead_jobs();
    sweep.interrupted = &never;
    MOET_TRY(moet_sweep_run(&sweep, tasks, &summary));
    moet_command_note("races: %d finished, %d were finished before, %d failed, %d left; the same command goes on",
                      summary.measured, summary.already_done, summary.failed, summary.left);
    if (summary.cut > 0) {
        moet_command_note("%d of them for want of time with effort quick only: not every candidate is a rival there",
                          summary.cut);
    }
    /* A path waits for its GEMMs: what is done is not what comes first in the list. */
    *count = summary.left > 0 ? summary.first_left[0] : tasks->count;
    return MOET_OK;
}

static moet_status begin(regret_state *s, int32_t tasks)
{
    const regret_arguments *a = s->arguments;
    MOET_TRY(make_lists(s, tasks));
    MOET_TRY(moet_planned_open(a->table, a->device, &s->handle));
    moet_command_note_refusals(a->table, s->handle);
    MOET_TRY(moet_device_open(a->device, &s->device));
    moet_device_format_key(&s->device->info, s->device_key);
    MOET_TRY(moet_table_load(a->table, s->device, &s->table));
    if (a->db != NULL) {
        MOET_TRY(moet_store_open(a->db, MOET_STORE_READ, &s->store));
    }
    MOET_TRY(moet_bench_create(s->device, a->sweep.seed, true, &s->bench));
    return moet_output_create(stdout, a->format, columns, MOET_COUNT_OF(columns), &s->out);
}

static void end(regret_state *s)
{
    moet_bench_destroy(s->bench);
    moet_store_close(s->store);
    moet_table_close(s->table);
    moet_close(s->handle);
    moet_device_close(s->device);
    for (int32_t i = 0; i < MOET_COUNT_OF(s->lists); i++) {
        free(s->lists[i].values);
        free(s->lists[i].defaults);
    }
}

static int judge(regret_state *s)
{
    const regret_bound *bound = &s->arguments->at_most;
    regret_list *all = &s->lists[MOET_OP_COUNT];
    if (s->left > 0) {
        moet_command_note("out of time: %d workloads not measured", s->left);
    }
    if (s->wrong + s->failed > 0) {
        moet_command_note("%d workloads not measured: %d wrong, %d failed", s->wrong + s->failed, s->wrong, s->failed);
        return s->wrong > 0 ? MOET_EXIT_WRONG : MOET_EXIT_FAILED;
    }
    if (all->count == 0) {
        moet_command_note("no workload that was not tuned; `moe-tune workloads draw` makes some");
        return MOET_EXIT_FAILED;
    }
    const moet_regret_sum sum = moet_regret_summarize(all->values, all->count);
    if (bound->given && (sum.mean > bound->mean || sum.p95 > bound->p95 || sum.most > bound->most)) {
        moet_command_note("slower than asked: mean, p95, max %.2f, %.2f, %.2f %%; at most %g, %g, %g were asked for",
                          100 * sum.mean, 100 * sum.p95, 100 * sum.most, 100 * bound->mean, 100 * bound->p95,
                          100 * bound->most);
        return MOET_EXIT_SLOWER;
    }
    return MOET_EXIT_OK;
}

static const struct argp_child children[] = {{&moet_problem_argp, 0, "The problem", 1}, {0}};
static const struct argp argp = {
    options,
    parse_option,
    NULL,
    MOET_COMMAND_DOC(
        "Times what a table chooses beside the best candidate, on workloads that it was not tuned on.", EXAMPLE,
        "Candidates are the table's configurations of the problem and the families' defaults; with --db the fastest "
        "trials there, with --exhaustive those of a race over all. One set of rounds tells the best of them, fresh "
        "interleaved rounds measure it beside the choice: regret_pct is the median of the rounds' ratios less 1, "
        "noise_pct its +-, default_pct the same of what runs without a table. Below 0: equally fast, by noise. "
        "Workloads that are points of the table (hit exact) are printed, but left out of the sums. docs/tuning.md "
        "says more. Exit codes: 0; 4 above --at-most; 3 a result is wrong; 1 a workload failed."),
    children,
    NULL,
    NULL};

static int run(int argc, char **argv)
{
    regret_arguments a = {
        .rounds = 11, .device = "auto", .sweep = {.seed = 1, .shard = {1, 1}, .listed = MOET_SWEEP_LISTED}};
    moet_problem_options_default(&a.sweep.problem);
    regret_state s = {.arguments = &a, .begin_ns = moet_clock_ns()};
    moet_workloads workloads = {0};
    moet_sweep_tasks tasks = {0};
    char *command = moet_command_line(argc, argv); /* before argp reorders argv */
    int code = moet_command_parse(&argp, argc, argv, &a);
    if (code != MOET_EXIT_OK) {
        free(command);
        return code;
    }
    a.sweep.command = command != NULL ? command : "moe-tune regret";
    moet_status status = moet_workloads_read(a.workloads, &workloads);
    if (status == MOET_OK) status = moet_sweep_plan(&a.sweep, &workloads, &tasks);
    int32_t count = tasks.count;
    if (status == MOET_OK && a.exhaustive) status = race_all(&a, &tasks, &count);
    if (status == MOET_OK) status = begin(&s, tasks.count);
    if (status == MOET_OK) status = run_tasks(&s, &tasks, count);
    if (s.out != NULL) {
        const moet_status finished = moet_output_finish(s.out);
        status = status == MOET_OK ? finished : status;
        print_sums(&s);
    }
    code = status == MOET_OK ? judge(&s) : moet_command_fail(status);
    end(&s);
    moet_sweep_tasks_release(&tasks);
    moet_workloads_release(&workloads);
    free(command);
    return code;
}

const moet_command moet_command_regret = {"regret", SUMMARY, EXAMPLE, run, &argp};
