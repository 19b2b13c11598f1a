/* moe-tune verify: every entry of a table, as the runtime library launches it, against the reference on this device; or
 * one launch against a trainer's dump. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "against.h"
#include "command.h"
#include "label.h"
#include "output.h"
#include "parse.h"
#include "planned.h"
#include "progress.h"
#include "store.h"
#include "tuned.h"

#define SUMMARY "check every entry of a table against the reference on this device, or one launch against a dump"
#define EXAMPLE "moe-tune verify --table table"
#define EXAMPLE_AGAINST "moe-tune verify --table table --against dump.npz --ops down"

typedef struct verify_arguments {
    moet_against_options against; /* table, device and format of both ways */
    uint64_t seed;
} verify_arguments;

enum option_key { KEY_TABLE = 256, KEY_DEVICE, KEY_SEED, KEY_FORMAT, KEY_AGAINST };

static const struct argp_option options[] = {
    {.name = "table", .key = KEY_TABLE, .arg = "DIR", .doc = "The table", .group = 1},
    {.name = "device", .key = KEY_DEVICE, .arg = "SPEC", .doc = "auto, host, cuda or cuda:N (default auto)"},
    {.name = "seed", .key = KEY_SEED, .arg = "N", .doc = "Of the inputs (default 1)"},
    {.name = "format", .key = KEY_FORMAT, .arg = "FORMAT", .doc = "text, csv or json (default text)"},
    {.doc = "Another program's result", .group = 2},
    {.name = "against",
     .key = KEY_AGAINST,
     .arg = "FILE",
     .doc =
         "Inputs and output in a .npz file (docs/numerics.md): compare our output with it bit by bit, with --table or "
         "the defaults"},
    {0}};

static void check_arguments(const verify_arguments *a, struct argp_state *state)
{
    const moet_against_options *against = &a->against;
    if (against->file == NULL && against->problem.any_given) {
        argp_error(state, "--ops, --layout, --numerics, --activation, --clamp, --prob and --combine go with "
                          "--against FILE");
    } else if (against->problem.bias_given) {
        argp_error(state, "--bias: a dump has the arrays bias, up_bias, down_bias or it has not");
    } else if (against->file == NULL && against->table == NULL) {
        argp_error(state, "give --table DIR or --against FILE");
    } else if (against->problem.ops.count > 1) {
        argp_error(state, "--ops: one op with --against");
    } else if (against->problem.layouts.count > 1) {
        argp_error(state, "--layout: one layout with --against");
    }
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    verify_arguments *a = state->input;
    int64_t number = 0;
    moet_status status = MOET_OK;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->against.problem;
        break;
    case KEY_TABLE:
        a->against.table = arg;
        break;
    case KEY_DEVICE:
        a->against.device = arg;
        break;
    case KEY_SEED:
        status = moet_parse_integer(arg, "--seed", 0, INT64_MAX / 10, &number);
        a->seed = (uint64_t)number;
        break;
    case KEY_FORMAT:
        status = moet_output_format_parse(arg, &a->against.format);
        break;
    case KEY_AGAINST:
        a->against.file = arg;
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

static const moet_output_column columns[] = {
    {"problem", MOET_OUTPUT_TEXT, 0}, {"rows", MOET_OUTPUT_INTEGER, 0}, {"max", MOET_OUTPUT_INTEGER, 0},
    {"kind", MOET_OUTPUT_TEXT, 0},    {"config", MOET_OUTPUT_TEXT, 0},  {"status", MOET_OUTPUT_TEXT, 0},
    {"error", MOET_OUTPUT_REAL, 4},   {"reason", MOET_OUTPUT_TEXT, 0},
};

typedef struct verify_state {
    moet_bench *bench;
    moet_handle *handle;
    moet_output *out;
    moet_output_format format;
    moet_progress progress;
    int32_t done; /* points */
    int32_t right, wrong, failed;
} verify_state;

typedef struct verified {
    moet_trial_status status;
    double error;
    char reason[MOET_REASON_SIZE];
} verified;

/* One round: a graph is captured, and its replay must give the bits of the launch. */
static moet_status read_subject(verify_state *s, int32_t subject, verified *result)
{
    moet_trial trial = {0};
    MOET_TRY(moet_bench_round(s->bench));
    MOET_TRY(moet_bench_trial(s->bench, subject, &trial));
    result->status = trial.status;
    result->error = trial.error;
    snprintf(result->reason, sizeof result->reason, "%s", trial.reason);
    moet_trial_release(&trial);
    return MOET_OK;
}

/* Whether an error says that this entry cannot run here, and no more. */
static bool costs_one_entry(moet_status status)
{
    return status == MOET_UNSUPPORTED || status == MOET_NOT_FOUND || status == MOET_COMPILE ||
           status == MOET_NO_DEVICE_MEMORY;
}

/* The plan's launch; and the entry's own config where another point of the same rows and busiest expert answers for it.
 */
static moet_status verify_entry(verify_state *s, const moet_problem *problem, const moet_table_point *point,
                                moet_table_kind kind, verified *result)
{
    const moet_table_winner *winner = &point->winner[kind];
    bool device_counts = kind == MOET_TABLE_DEVICE_COUNTS;
    char config[MOET_CONFIG_SIZE];
    moet_planned planned = {0};
    moet_config_format(&winner->config, config);
    moet_status status = moet_planned_add(s->bench, s->handle, problem, point->counts, device_counts, config, &planned);
    if (costs_one_entry(status)) {
        result->status = MOET_TRIAL_FAILED;
        snprintf(result->reason, sizeof result->reason, "%.255s", moet_last_error());
        return MOET_OK;
    }
    MOET_TRY(status);
    status = read_subject(s, planned.subject, result);
    bool answers = planned.choice.hit == MOET_HIT_EXACT && strcmp(planned.choice.config, config) == 0;
    if (status == MOET_OK && planned.choice.hit != MOET_HIT_EXACT) {
        result->status = MOET_TRIAL_FAILED;
        snprintf(result->reason, sizeof result->reason, "the runtime answers with %.150s (%s) instead",
                 planned.choice.config, moet_hit_name(planned.choice.hit));
    } else if (status == MOET_OK && !answers && result->status == MOET_TRIAL_OK) {
        int32_t subject = -1;
        moet_traits traits = winner->config.family->traits(problem, &winner->config);
        status = moet_bench_add_config(s->bench, &winner->config, device_counts || !traits.host_counts, &subject);
        if (status == MOET_OK) status = read_subject(s, subject, result);
        if (status == MOET_OK) moet_bench_retire(s->bench, subject);
    }
    moet_bench_retire(s->bench, planned.subject);
    moet_planned_release(&planned);
    return status;
}

static void print_entry(verify_state *s, const moet_problem *problem, const moet_table_point *point,
                        moet_table_kind kind, const verified *result)
{
    char key[MOET_KEY_SIZE], label[MOET_KEY_SIZE], config[MOET_CONFIG_SIZE];
    moet_problem_format(problem, key);
    moet_label_problem(key, label);
    moet_config_format(&point->winner[kind].config, config);
    moet_output_text(s->out, s->format == MOET_FORMAT_TEXT ? label : key);
    moet_output_integer(s->out, point->rows);
    moet_output_integer(s->out, point->max);
    moet_output_text(s->out, moet_store_kind_name(kind));
    moet_output_text(s->out, config);
    moet_output_text(s->out, moet_trial_status_name(result->status));
    moet_output_real(s->out, result->error);
    moet_output_text(s->out, result->reason);
}

/* moet_tuned_visit. A point that does not fit, or has more experts a token than a path takes, is its entries' alone. */
static moet_status verify_point(void *context, const moet_tuned_point *tuned)
{
    verify_state *s = context;
    const moet_problem *problem = &tuned->problem->problem;
    const moet_table_point *point = tuned->point;
    moet_progress_update(&s->progress, s->done++, "%d right, %d wrong, %d failed", s->right, s->wrong, s->failed);
    const moet_status status = moet_bench_set_workload(s->bench, problem, point->counts, tuned->tokens);
    const bool cannot_run = status == MOET_NO_DEVICE_MEMORY || status == MOET_UNSUPPORTED;
    char reason[MOET_REASON_SIZE];
    snprintf(reason, sizeof reason, "%.255s", moet_last_error());
    if (status != MOET_OK && !cannot_run) {
        return status;
    }
    for (int32_t kind = 0; kind < MOET_TABLE_KIND_COUNT; kind++) {
        verified result = {.status = MOET_TRIAL_FAILED, .error = (double)NAN};
        if (!point->winner[kind].present) {
            continue;
        }
        if (cannot_run) {
            memcpy(result.reason, reason, sizeof reason);
        } else {
            MOET_TRY(verify_entry(s, problem, point, (moet_table_kind)kind, &result));
        }
        s->right += result.status == MOET_TRIAL_OK;
        s->wrong += result.status == MOET_TRIAL_WRONG;
        s->failed += result.status != MOET_TRIAL_OK && result.status != MOET_TRIAL_WRONG;
        print_entry(s, problem, point, (moet_table_kind)kind, &result);
    }
    return MOET_OK;
}

static moet_status verify_table(verify_state *s, const moet_tuned *tuned)
{
    int32_t total = 0;
    for (int32_t i = 0; i < tuned->table->problem_count; i++) {
        total += tuned->table->problems[i].point_count;
    }
    moet_progress_begin(&s->progress, stderr, total);
    const moet_status status = moet_tuned_each(tuned, verify_point, s);
    moet_progress_clear(&s->progress);
    return status;
}

/* What a refusal says behind its entry: "ENTRY: REASON". */
static const char *find_reason(const char *refusal)
{
    const char *colon = strstr(refusal, ": ");
    return colon != NULL ? colon + 2 : refusal;
}

/* A line a reason: a table of another device has as many refusals as entries, and one reason. */
static void note_refusals(const char *table_dir, const moet_table *table)
{
    for (int32_t i = 0; i < table->refusal_count; i++) {
        const char *reason = find_reason(table->refusals[i]);
        int32_t before = 0, alike = 0;
        for (int32_t k = 0; k < table->refusal_count; k++) {
            const bool same = strcmp(find_reason(table->refusals[k]), reason) == 0;
            before += same && k < i;
            alike += same;
        }
        if (before == 0) {
            moet_command_note("%s: %d entries refused, the first: %s", table_dir, alike, table->refusals[i]);
        }
    }
}

static int run_table(const char *table_dir, const verify_arguments *a)
{
    verify_state s = {.format = a->against.format};
    moet_device *device = NULL;
    moet_tuned tuned = {0};
    moet_status status = moet_device_open(a->against.device, &device);
    if (status == MOET_OK) status = moet_tuned_open(table_dir, device, &tuned);
    if (status == MOET_OK) status = moet_planned_open(table_dir, a->against.device, &s.handle);
    if (status == MOET_OK) status = moet_bench_create(device, a->seed, false, &s.bench);
    if (status == MOET_OK) status = moet_output_create(stdout, s.format, columns, MOET_COUNT_OF(columns), &s.out);
    if (status == MOET_OK) {
        note_refusals(table_dir, tuned.table);
        status = verify_table(&s, &tuned);
        moet_status written = moet_output_finish(s.out);
        status = status == MOET_OK ? written : status;
    }
    int code = moet_command_fail(status);
    if (code == MOET_EXIT_OK && tuned.table->problem_count + tuned.table->refusal_count == 0) {
        moet_command_note("%s has no GEMM entries to verify%s", table_dir,
                          tuned.table->ep_count > 0
                              ? ", only how the expert-parallel layer is run: moe-tune ep --check runs it"
                              : "");
        code = MOET_EXIT_FAILED;
    } else if (code == MOET_EXIT_OK) {
        moet_command_note("%s on %s: %d right, %d wrong, %d could not run, %d refused", table_dir, device->info.name,
                          s.right, s.wrong, s.failed, tuned.table->refusal_count);
        code = s.wrong > 0 ? MOET_EXIT_WRONG : s.failed > 0 || s.right == 0 ? MOET_EXIT_FAILED : MOET_EXIT_OK;
    }
    moet_bench_destroy(s.bench);
    moet_close(s.handle);
    moet_tuned_close(&tuned);
    moet_device_close(device);
    return code;
}

static int run_against(const verify_arguments *a)
{
    int64_t differing = 0;
    int code = moet_command_fail(moet_against_run(&a->against, &differing));
    return code == MOET_EXIT_OK && differing > 0 ? MOET_EXIT_WRONG : code;
}

static const struct argp_child children[] = {{&moet_problem_argp, 0, "Its problem", 3}, {0}};
static const struct argp argp = {
    options,
    parse_option,
    NULL,
    MOET_COMMAND_DOC(
        "Runs every entry of a table through the runtime library, on the counts it was tuned for, and "
        "checks every element of the result. With --against: runs another program's inputs, and compares its "
        "output with ours.",
        EXAMPLE "\n  " EXAMPLE_AGAINST,
        "error is the largest distance to the reference in units of the bound; up to 1 is right. Entries "
        "that this device refuses are counted on stderr, a line a reason. With --against: elements of out of each "
        "expert, how many differ in any bit, the largest distance in steps of BF16, and how many are NaN in one of the "
        "two only; "
        "the sum by rows an expert on stderr. Exit codes: 0 all right, 1 some could not run "
        "or none serves this device (a table may have none but of the expert-parallel layer), 3 some are wrong or "
        "differ."),
    children,
    NULL,
    NULL};

static int run(int argc, char **argv)
{
    verify_arguments a = {.against = {.device = "auto"}, .seed = 1};
    moet_problem_options_default(&a.against.problem);
    a.against.problem.ops.count = a.against.problem.layouts.count = 0; /* what the file says */
    int code = moet_command_parse(&argp, argc, argv, &a);
    if (code != MOET_EXIT_OK) {
        return code;
    }
    return a.against.file != NULL ? run_against(&a) : run_table(a.against.table, &a);
}

const moet_command moet_command_verify = {"verify", SUMMARY, EXAMPLE, run, &argp};
