/* moe-tune bench: the runtime library as production uses it, timed on a file of workloads. One JSON object a line, the
 * device first, in the form of other programs' benches, so that `moe-tune compare` reads both. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/nvtx.h"
#include "command.h"
#include "parse.h"
#include "planned.h"
#include "progress.h"
#include "sweep.h"

#define SUMMARY "time the runtime library with a table on a file of workloads"
#define EXAMPLE "moe-tune bench --table table --with-default --workloads all.jsonl"
#define CEILING_ROUNDS 11
#define MAX_CONFIGS 32
#define MAX_PEERS (2 + MAX_CONFIGS)

typedef struct bench_arguments {
    const char *table, *workloads, *device, *match;
    bool use_default, with_default, device_counts;
    moet_sweep_options plan; /* problem, seed */
    moet_config configs[MAX_CONFIGS];
    int32_t config_count;
    int32_t rounds;
    int64_t limit_ns; /* 0: none */
} bench_arguments;

/* ---- options ---- */

enum option_key {
    KEY_TABLE = 256,
    KEY_WORKLOADS,
    KEY_DEFAULT,
    KEY_WITH_DEFAULT,
    KEY_CONFIG,
    KEY_DEVICE_COUNTS,
    KEY_SECONDS,
    KEY_ROUNDS,
    KEY_MATCH,
    KEY_DEVICE,
    KEY_SEED
};

static const struct argp_option options[] = {
    {.name = "workloads", .key = KEY_WORKLOADS, .arg = "FILE", .doc = "Workloads, a .jsonl file (- for stdin)"},
    {.name = "table", .key = KEY_TABLE, .arg = "DIR", .doc = "The table to run with (peer \"moe-tune\")"},
    {.name = "default", .key = KEY_DEFAULT, .doc = "Run without a table (peer \"moe-tune-default\")"},
    {.name = "with-default", .key = KEY_WITH_DEFAULT, .doc = "With --table: both, in the same rounds"},
    {.name = "config",
     .key = KEY_CONFIG,
     .arg = "CONFIG",
     .doc = "This configuration, as `show` prints it, without plan and table, in the same rounds; may be given again "
            "(peers \"config1\", \"config2\"...)"},
    {.name = "match", .key = KEY_MATCH, .arg = "TEXT", .doc = "Only workloads whose name holds TEXT"},
    {.name = "device-counts", .key = KEY_DEVICE_COUNTS, .doc = "Rows per expert in device memory"},
    {.name = "rounds", .key = KEY_ROUNDS, .arg = "N", .doc = "Rounds a point (default 11)"},
    {.name = "seconds", .key = KEY_SECONDS, .arg = "N", .doc = "Begin no point after N seconds"},
    {.name = "device", .key = KEY_DEVICE, .arg = "SPEC", .doc = "auto, host, cuda or cuda:N (default auto)"},
    {.name = "seed", .key = KEY_SEED, .arg = "N", .doc = "Of the inputs (default 1)"},
    {0}};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    bench_arguments *a = state->input;
    int64_t number = 0;
    moet_status status = MOET_OK;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->plan.problem;
        break;
    case KEY_TABLE:
        a->table = arg;
        break;
    case KEY_WORKLOADS:
        a->workloads = arg;
        break;
    case KEY_DEFAULT:
        a->use_default = true;
        break;
    case KEY_WITH_DEFAULT:
        a->with_default = true;
        break;
    case KEY_CONFIG:
        if (a->config_count == MAX_CONFIGS) {
            argp_error(state, "more than %d times --config", MAX_CONFIGS);
        }
        status = moet_config_parse(arg, &a->configs[a->config_count++]);
        break;
    case KEY_DEVICE_COUNTS:
        a->device_counts = true;
        break;
    case KEY_SECONDS:
        status = moet_parse_time(arg, "--seconds", &a->limit_ns);
        break;
    case KEY_ROUNDS:
        status = moet_parse_integer(arg, "--rounds", 3, 1000, &number);
        a->rounds = (int32_t)number;
        break;
    case KEY_MATCH:
        a->match = arg;
        break;
    case KEY_DEVICE:
        a->device = arg;
        break;
    case KEY_SEED:
        status = moet_parse_integer(arg, "--seed", 0, INT64_MAX / 10, &number);
        a->plan.seed = (uint64_t)number;
        break;
    case ARGP_KEY_END:
        if (a->workloads == NULL) {
            argp_error(state, "give --workloads FILE");
        } else if (a->table != NULL && a->use_default) {
            argp_error(state, "give either --table DIR or --default");
        } else if (a->table == NULL && !a->use_default && a->config_count == 0) {
            argp_error(state, "give --table DIR, --default or --config CONFIG");
        } else if (a->with_default && a->table == NULL) {
            argp_error(state, "--with-default goes with --table");
        }
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    moet_command_check(state, status);
    return 0;
}

/* ---- output ---- */

/* A JSON member whose number is printed by a format of ours. */
__attribute__((format(printf, 3, 4))) static bool add_number(cJSON *object, const char *name, const char *format, ...)
{
    char text[64];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return cJSON_AddRawToObject(object, name, text) != NULL;
}

/* Prints and frees the object; complete: whether every member could be added. */
static moet_status print_line(cJSON *object, bool complete)
{
    char *text = complete ? cJSON_PrintUnformatted(object) : NULL;
    cJSON_Delete(object);
    if (text == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for a line of output");
    }
    bool written = puts(text) >= 0 && fflush(stdout) == 0;
    free(text);
    return written ? MOET_OK : moet_fail(MOET_IO, "writing to standard output failed");
}

static moet_status print_device(const moet_device_info *device, const moet_ceilings *ceilings)
{
    cJSON *line = cJSON_CreateObject();
    bool complete = cJSON_AddStringToObject(line, "device", device->name) != NULL &&
                    add_number(line, "dense_tflops", "%.5g", ceilings->dense_flops_per_s / 1e12) &&
                    add_number(line, "copy_gbs", "%.5g", ceilings->copy_bytes_per_s / 1e9) &&
                    add_number(line, "read_gbs", "%.5g", ceilings->read_bytes_per_s / 1e9);
    return print_line(line, complete);
}

static int32_t median_mhz(const moet_trial *trial)
{
    int64_t mhz[1024];
    int32_t count = trial->sample_count < 1024 ? trial->sample_count : 1024;
    for (int32_t i = 0; i < count; i++) {
        mhz[i] = trial->samples[i].clocks.sm_mhz;
    }
    return (int32_t)moet_stats_median(mhz, count);
}

static moet_status print_point(const moet_sweep_task *task, const char *peer, const char *config, const char *hit,
                               const moet_trial *trial, double flops)
{
    const moet_workload *w = task->workload;
    double time_ns = (double)trial->median_ns;
    const bool is_path = task->problem.op == MOET_OP_FFN;
    cJSON *line = cJSON_CreateObject();
    bool complete =
        cJSON_AddStringToObject(line, "name", w->name) != NULL &&
        add_number(line, "rows", "%lld", (long long)w->rows) &&
        (!is_path || add_number(line, "tokens", "%lld", (long long)(w->tokens > 0 ? w->tokens : w->rows))) &&
        cJSON_AddStringToObject(line, "skew", w->skew) != NULL &&
        cJSON_AddStringToObject(line, "op", moet_op_text(task->problem.op)) != NULL &&
        cJSON_AddStringToObject(line, "peer", peer) != NULL && add_number(line, "time_us", "%.2f", time_ns / 1e3) &&
        add_number(line, "tflops", "%.4g", flops / time_ns / 1e3) &&
        add_number(line, "efficiency", "%.3f", isfinite(trial->efficiency) ? trial->efficiency : 0.0) &&
        add_number(line, "floor_us", "%.2f", isfinite(trial->floor_ns) ? trial->floor_ns / 1e3 : 0.0) &&
        add_number(line, "spread", "%.3f", 2 * (double)trial->noise_ns / time_ns) &&
        add_number(line, "sm_mhz", "%d", median_mhz(trial)) &&
        cJSON_AddStringToObject(line, "layout", moet_layout_text(task->problem.layout)) != NULL &&
        cJSON_AddStringToObject(line, "config", config) != NULL && cJSON_AddStringToObject(line, "hit", hit) != NULL &&
        cJSON_AddBoolToObject(line, "device_counts", trial->device_counts) != NULL &&
        cJSON_AddBoolToObject(line, "eager", trial->eager) != NULL;
    cJSON *counts = cJSON_CreateIntArray(w->counts, w->experts);
    if (counts == NULL || !cJSON_AddItemToObject(line, "counts", counts)) {
        cJSON_Delete(counts);
        complete = false;
    }
    return print_line(line, complete);
}

/* ---- running ---- */

/* A handle, or a configuration as it is. */
typedef struct bench_peer {
    const char *name;
    moet_handle *handle;
    const moet_config *config;
} bench_peer;

/* Efficiencies and times of one op and peer; the last three by the workloads' weights. */
typedef struct bench_sum {
    int32_t count;
    double log_sum, least;
    double weight_sum, weighted_log_sum, weighted_time_us;
} bench_sum;

typedef struct bench_state {
    const bench_arguments *arguments;
    moet_bench *bench;
    bench_peer peers[MAX_PEERS];
    char config_names[MAX_CONFIGS][16];
    int32_t peer_count;
    bench_sum sums[MOET_OP_COUNT][MAX_PEERS];
    int32_t hits[MAX_PEERS][MOET_HIT_COUNT];
    int32_t wrong, failed;
    bool has_weights; /* a workload has one */
    moet_progress progress;
} bench_state;

static void note_failure(bench_state *s, const moet_sweep_task *task, const char *peer, const char *config,
                         const char *reason)
{
    moet_progress_clear(&s->progress);
    moet_command_note("%s %lld rows %s %s: %s %s: %s", task->workload->name, (long long)task->workload->rows,
                      task->workload->skew, moet_op_text(task->problem.op), peer, config, reason);
}

/* Prints what a peer reached. */
static moet_status report_peer(bench_state *s, const moet_sweep_task *task, int32_t peer, const moet_planned *planned)
{
    moet_trial trial = {0};
    moet_routing routing;
    MOET_TRY(moet_routing_summarize(task->workload->counts, task->workload->experts, &routing));
    MOET_TRY(moet_bench_trial(s->bench, planned->subject, &trial));
    moet_status status = MOET_OK;
    if (trial.status != MOET_TRIAL_OK || trial.median_ns <= 0) {
        s->wrong += trial.status == MOET_TRIAL_WRONG;
        s->failed += trial.status != MOET_TRIAL_WRONG;
        note_failure(s, task, s->peers[peer].name, planned->choice.config, trial.reason);
    } else {
        bool is_asked = s->peers[peer].config != NULL;
        status = print_point(task, s->peers[peer].name, planned->choice.config,
                             is_asked ? "asked" : moet_hit_name(planned->choice.hit), &trial,
                             moet_problem_flops(&task->problem, &routing));
        s->hits[peer][planned->choice.hit] += !is_asked;
        bench_sum *sum = &s->sums[task->problem.op][peer];
        if (trial.efficiency > 0 && isfinite(trial.efficiency)) {
            sum->least = sum->count == 0 || trial.efficiency < sum->least ? trial.efficiency : sum->least;
            sum->log_sum += log(trial.efficiency);
            sum->count++;
            const double weight = moet_workload_weight(task->workload);
            sum->weight_sum += weight;
            sum->weighted_log_sum += weight * log(trial.efficiency);
            sum->weighted_time_us += weight * (double)trial.median_ns * 1e-3;
            s->has_weights = s->has_weights || task->workload->weight > 0;
        }
    }
    moet_trial_release(&trial);
    return status;
}

static moet_status add_peer(bench_state *s, const moet_sweep_task *task, int32_t peer, moet_planned *planned)
{
    const bench_peer *p = &s->peers[peer];
    if (p->config == NULL) {
        return moet_planned_add(s->bench, p->handle, &task->problem, task->workload->counts,
                                s->arguments->device_counts, p->name, planned);
    }
    moet_config_format(p->config, planned->choice.config);
    return moet_bench_add_config(s->bench, p->config, s->arguments->device_counts, &planned->subject);
}

/* One point: every peer planned, verified and timed in the same rounds. */
static moet_status run_task(bench_state *s, const moet_sweep_task *task)
{
    moet_planned planned[MAX_PEERS] = {{0}};
    bool added[MAX_PEERS] = {false};
    moet_status status =
        moet_bench_set_workload(s->bench, &task->problem, task->workload->counts, task->workload->tokens);
    for (int32_t i = 0; i < s->peer_count && status == MOET_OK; i++) {
        status = add_peer(s, task, i, &planned[i]);
        added[i] = status == MOET_OK;
        if (status == MOET_UNSUPPORTED || status == MOET_NOT_FOUND) {
            s->failed++;
            note_failure(s, task, s->peers[i].name, "cannot run", moet_last_error());
            status = MOET_OK;
        }
    }
    for (int32_t i = 0; i < s->arguments->rounds && status == MOET_OK; i++) {
        status = moet_bench_round(s->bench);
    }
    for (int32_t i = 0; i < s->peer_count; i++) {
        if (added[i] && status == MOET_OK) {
            status = report_peer(s, task, i, &planned[i]);
        }
        if (added[i]) {
            moet_bench_retire(s->bench, planned[i].subject);
            moet_planned_release(&planned[i]);
        }
    }
    return status;
}

static void note_summary(const bench_state *s)
{
    for (int32_t op = 0; op < MOET_OP_COUNT; op++) {
        for (int32_t i = 0; i < s->peer_count; i++) {
            const bench_sum *sum = &s->sums[op][i];
            if (sum->count > 0) {
                char config[MOET_CONFIG_SIZE] = "";
                if (s->peers[i].config != NULL) moet_config_format(s->peers[i].config, config);
                char weighted[80] = "";
                if (s->has_weights)
                    snprintf(weighted, sizeof weighted, "  by weight: efficiency %.3f, %.2f us a launch",
                             exp(sum->weighted_log_sum / sum->weight_sum), sum->weighted_time_us / sum->weight_sum);
                fprintf(stderr, "%-5s %-16s geomean efficiency %.3f  min %.3f  n %d%s%s%s\n", moet_op_text((moet_op)op),
                        s->peers[i].name, exp(sum->log_sum / sum->count), sum->least, sum->count, weighted,
                        config[0] != '\0' ? "  " : "", config);
            }
        }
    }
    for (int32_t i = 0; i < s->peer_count; i++) {
        if (s->peers[i].config != NULL) {
            continue;
        }
        fprintf(stderr, "%-22s", s->peers[i].name);
        for (int32_t hit = 0; hit < MOET_HIT_COUNT; hit++) {
            fprintf(stderr, " %s %d", moet_hit_name((moet_hit)hit), s->hits[i][hit]);
        }
        fputc('\n', stderr);
    }
}

static moet_status open_peers(bench_state *s)
{
    const bench_arguments *a = s->arguments;
    if (a->table != NULL) {
        bench_peer *peer = &s->peers[s->peer_count];
        peer->name = "moe-tune";
        MOET_TRY(moet_planned_open(a->table, a->device, &peer->handle));
        s->peer_count++;
        moet_command_note_refusals(a->table, peer->handle); /* `verify` lists them all */
    }
    if (a->use_default || a->with_default) {
        bench_peer *peer = &s->peers[s->peer_count];
        peer->name = "moe-tune-default";
        MOET_TRY(moet_planned_open(NULL, a->device, &peer->handle));
        s->peer_count++;
    }
    for (int32_t i = 0; i < a->config_count; i++) {
        bench_peer *peer = &s->peers[s->peer_count++];
        snprintf(s->config_names[i], sizeof s->config_names[i], "config%u", (unsigned)(i + 1) % 1000);
        *peer = (bench_peer){.name = s->config_names[i], .config = &a->configs[i]};
    }
    return MOET_OK;
}

/* No memory, a wrong reference and too many experts a token cost a point. */
static bool costs_one_point(moet_status status)
{
    return status == MOET_NO_DEVICE_MEMORY || status == MOET_WRONG || status == MOET_TIMEOUT ||
           status == MOET_UNSUPPORTED;
}

static bool is_wanted(const bench_arguments *a, const moet_sweep_task *task)
{
    return a->match == NULL || strstr(task->workload->name, a->match) != NULL;
}

/* Before anything is measured. */
static moet_status check_match(const bench_arguments *a, const moet_sweep_tasks *tasks)
{
    for (int32_t i = 0; i < tasks->count; i++) {
        if (is_wanted(a, &tasks->items[i])) return MOET_OK;
    }
    return moet_fail(MOET_INVALID, "--match: no workload of %s has '%s' in its name", a->workloads, a->match);
}

static int32_t count_wanted(const bench_arguments *a, const moet_sweep_tasks *tasks, int32_t from)
{
    int32_t count = 0;
    for (int32_t i = from; i < tasks->count; i++) count += is_wanted(a, &tasks->items[i]);
    return count;
}

static moet_status run_tasks(bench_state *s, const moet_sweep_tasks *tasks)
{
    int64_t begin_ns = moet_clock_ns();
    moet_progress_begin(&s->progress, stderr, tasks->count);
    for (int32_t i = 0; i < tasks->count; i++) {
        const moet_sweep_task *task = &tasks->items[i];
        if (!is_wanted(s->arguments, task)) {
            moet_progress_skip(&s->progress, 1);
            continue;
        }
        if (s->arguments->limit_ns > 0 && moet_clock_ns() - begin_ns > s->arguments->limit_ns) {
            moet_progress_clear(&s->progress);
            moet_command_note("out of time: %d of %d points not measured", count_wanted(s->arguments, tasks, i),
                              count_wanted(s->arguments, tasks, 0));
            break;
        }
        moet_progress_update(&s->progress, i, "%s %lld rows %s %s", task->workload->name,
                             (long long)task->workload->rows, task->workload->skew, moet_op_text(task->problem.op));
        moet_sweep_task_begin(task);
        moet_status status = moet_nvtx_end(run_task(s, task));
        if (costs_one_point(status)) {
            s->wrong += status == MOET_WRONG;
            s->failed += status != MOET_WRONG;
            note_failure(s, task, "not measured", "", moet_last_error());
        } else if (status != MOET_OK) {
            moet_progress_clear(&s->progress);
            return status;
        }
    }
    moet_progress_end(&s->progress);
    return MOET_OK;
}

static const struct argp_child children[] = {{&moet_problem_argp, 0, "The problem", 1}, {0}};
static const struct argp argp = {
    options,
    parse_option,
    NULL,
    MOET_COMMAND_DOC(
        "Plans and launches every workload through the runtime library, as a program that links it "
        "would, and times it beside the device's ceilings.",
        EXAMPLE,
        "Prints one JSON object a line: the device and its ceilings, then name, rows, tokens (op ffn), skew, op, "
        "peer, "
        "time_us, tflops, efficiency, floor_us, spread, sm_mhz, layout, config, hit (exact, nearest, "
        "default; asked: given by --config), device_counts, eager and counts of each point. Every point is "
        "verified before it is timed; a wrong one is exit code 3. The command line wins over MOET_TABLE."),
    children,
    NULL,
    NULL};

static int run(int argc, char **argv)
{
    bench_arguments a = {.device = "auto", .rounds = 11, .plan = {.seed = 1, .shard = {1, 1}}};
    moet_problem_options_default(&a.plan.problem);
    bench_state s = {.arguments = &a};
    moet_workloads workloads = {0};
    moet_sweep_tasks tasks = {0};
    moet_device *device = NULL;
    moet_ceilings ceilings;
    int code = moet_command_parse(&argp, argc, argv, &a);
    if (code != MOET_EXIT_OK) {
        return code;
    }
    moet_status status = moet_workloads_read(a.workloads, &workloads);
    if (status == MOET_OK) status = moet_sweep_plan(&a.plan, &workloads, &tasks);
    if (status == MOET_OK) status = check_match(&a, &tasks);
    if (status == MOET_OK) status = moet_device_open(a.device, &device);
    if (status == MOET_OK) status = open_peers(&s);
    if (status == MOET_OK) status = moet_bench_create(device, a.plan.seed, true, &s.bench);
    if (status == MOET_OK) status = moet_bench_ceilings(s.bench, CEILING_ROUNDS, &ceilings);
    if (status == MOET_OK) status = print_device(&device->info, &ceilings);
    if (status == MOET_OK) {
        status = run_tasks(&s, &tasks);
        note_summary(&s);
    }
    code = moet_command_fail(status);
    if (code == MOET_EXIT_OK && s.wrong + s.failed > 0) {
        code = s.wrong > 0 ? MOET_EXIT_WRONG : MOET_EXIT_FAILED;
    }
    moet_bench_destroy(s.bench);
    for (int32_t i = 0; i < s.peer_count; i++) {
        moet_close(s.peers[i].handle);
    }
    moet_device_close(device);
    moet_sweep_tasks_release(&tasks);
    moet_workloads_release(&workloads);
    return code;
}

const moet_command moet_command_bench = {"bench", SUMMARY, EXAMPLE, run, &argp};
