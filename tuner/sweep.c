/* sweep.c: goes through the tasks, passes over finished ones, races the others. See sweep.h. */
#include "sweep.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/nvtx.h"
#include "command.h"
#include "progress.h"
#include "race.h"
#include "sweep_lanes.h"

typedef struct sweep_state {
    const moet_sweep_options *options;
    const moet_sweep_tasks *tasks;
    moet_sweep_summary *summary;
    moet_store *store;
    moet_worker *worker;
    int64_t run_id; /* -1 until something has to be measured */
    int64_t begin_ns;
    moet_handout *handout;
    moet_progress *progress;
    int32_t current; /* task */
} sweep_state;

/* ---- what the race asks ---- */

static bool should_stop(void *context)
{
    sweep_state *s = context;
    s->summary->interrupted = s->summary->interrupted || *s->options->interrupted != 0;
    s->summary->out_of_budget = s->summary->out_of_budget ||
                                (s->options->budget_ns > 0 && moet_clock_ns() - s->begin_ns >= s->options->budget_ns);
    return s->summary->interrupted || s->summary->out_of_budget;
}

static void format_task(const moet_sweep_task *task, char *text, size_t size)
{
    snprintf(text, size, "%s %lld rows %s %s %s", task->workload->name, (long long)task->workload->rows,
             task->workload->skew, moet_op_text(task->problem.op), moet_layout_text(task->problem.layout));
}

void moet_sweep_task_begin(const moet_sweep_task *task)
{
    char text[256];
    format_task(task, text, sizeof text);
    moet_nvtx_begin(MOET_NVTX_WORKLOAD, moet_nvtx_register(text), task->workload->rows);
}

static void report(void *context, double part, const moet_candidate *best)
{
    sweep_state *s = context;
    char task[256];
    format_task(&s->tasks->items[s->current], task, sizeof task);
    if (best != NULL) {
        moet_progress_update(s->progress, moet_handout_done(s->handout) + part, "%s: best %.1f us, %s", task,
                             (double)best->median_ns / 1e3, best->text);
    } else {
        moet_progress_update(s->progress, moet_handout_done(s->handout) + part, "%s", task);
    }
}

/* ---- one task ---- */

/* The key of a task's done mark: no config. */
static moet_store_key key_of(const sweep_state *s, const moet_sweep_task *task)
{
    return (moet_store_key){.device_key = moet_worker_key(s->worker),
                            .problem = &task->problem,
                            .workload = task->workload,
                            .config = "",
                            .validator = ""};
}

/* The bench and the run's row, when the first task needs them. */
static moet_status begin_measuring(sweep_state *s)
{
    if (s->run_id >= 0) {
        return MOET_OK;
    }
    const moet_device_info *device = moet_worker_info(s->worker);
    moet_progress_update(s->progress, moet_handout_done(s->handout), "measuring what %s can do at best", device->name);
    moet_ceilings ceilings;
    MOET_TRY(moet_worker_begin(s->worker, &ceilings));
    moet_store_run run = {.device = device,
                          .device_key = moet_worker_key(s->worker),
                          .command = s->options->command,
                          .revision = moet_command_revision(),
                          .libraries = moet_worker_libraries(s->worker),
                          .ceilings = ceilings};
    return moet_store_begin_run(s->store, &run, &s->run_id);
}

/* Whether an error is one of the workload: others may still be measured. */
static bool costs_one_task(moet_status status)
{
    return status == MOET_NO_DEVICE_MEMORY || status == MOET_WRONG || status == MOET_TIMEOUT ||
           status == MOET_UNSUPPORTED;
}

static moet_status race_task(sweep_state *s, const moet_sweep_task *task, moet_candidates *candidates)
{
    char hash[MOET_SHA256_TEXT_SIZE];
    bool done = false, of_store = false;
    moet_store_key key = key_of(s, task);
    moet_candidates_hash(candidates, MOET_RACE_RULE, s->options->final_rounds, hash);
    MOET_TRY(moet_store_is_done(s->store, &key, hash, &done));
    if (done) {
        s->summary->already_done++;
        moet_progress_skip(s->progress, 1);
        return MOET_OK;
    }
    MOET_TRY(begin_measuring(s));
    moet_race race = {.worker = s->worker,
                      .store = s->store,
                      .run_id = s->run_id,
                      .device_key = moet_worker_key(s->worker),
                      .device = moet_worker_info(s->worker),
                      .problem = &task->problem,
                      .workload = task->workload,
                      .candidates = candidates,
                      .final_rounds = s->options->final_rounds,
                      .should_stop = should_stop,
                      .report = report,
                      .context = s};
    moet_race_result result;
    moet_sweep_task_begin(task);
    moet_status status = moet_nvtx_end(moet_race_run(&race, &result, &of_store));
    s->summary->tried += result.tried;
    s->summary->wrong += result.wrong;
    s->summary->broken += result.failed;
    char text[256];
    format_task(task, text, sizeof text);
    if (status != MOET_OK && !of_store && costs_one_task(status)) {
        moet_progress_clear(s->progress);
        moet_command_note("%s: not measured: %s", text, moet_last_error());
        s->summary->failed++;
        return MOET_OK;
    }
    if (status != MOET_OK || result.stopped) {
        return status;
    }
    if (result.wrong > 0) {
        moet_progress_clear(s->progress);
        moet_command_note("%s: %d candidates gave wrong results (moe-tune show --trials says which)", text,
                          result.wrong);
    }
    if (result.best == NULL) {
        moet_progress_clear(s->progress);
        moet_command_note("%s: no candidate runs on %s (moe-tune show --trials says why)", text,
                          moet_worker_info(s->worker)->name);
        s->summary->failed++;
        return MOET_OK;
    }
    MOET_TRY(moet_store_put_done(s->store, s->run_id, &key, hash));
    s->summary->measured++;
    return MOET_OK;
}

typedef struct known_visit {
    moet_op op;
    moet_known_gemms *known;
} known_visit;

/* The fastest trials come first. */
static moet_status visit_known(void *context, const moet_store_trial_row *row)
{
    const known_visit *visit = context;
    moet_known_gemms *known = visit->known;
    moet_config config;
    if (row->is_current && row->median_ns > 0 && moet_config_parse(row->config, &config) == MOET_OK &&
        config.family->version == row->family_version) {
        if (visit->op == MOET_OP_UP) {
            moet_known_gemms_add(&config, &known->up_count, known->ups);
        } else {
            moet_known_gemms_add(&config, &known->down_count, known->downs);
        }
    }
    return MOET_OK;
}

/* What the store knows of a path's GEMMs on the same rows. */
static moet_status find_known(const sweep_state *s, const moet_sweep_task *task, moet_known_gemms *known)
{
    *known = (moet_known_gemms){0};
    for (moet_op op = MOET_OP_UP; op <= MOET_OP_DOWN && task->problem.op == MOET_OP_FFN; op++) {
        const moet_problem gemm = moet_problem_gemm(&task->problem, op);
        char problem_key[MOET_KEY_SIZE];
        moet_problem_format(&gemm, problem_key);
        const moet_store_filter filter = {.device_key = moet_worker_key(s->worker),
                                          .problem_key = problem_key,
                                          .workload = task->workload,
                                          .ok_only = true};
        known_visit visit = {op, known};
        MOET_TRY(moet_store_each_trial(s->store, &filter, visit_known, &visit));
    }
    return MOET_OK;
}

/* Says once which families are left out for want of their library. */
static void note_missing(const moet_candidates *candidates, const moet_device_info *device)
{
    for (int32_t i = 0; i < candidates->count; i++) {
        const moet_candidate *c = &candidates->items[i];
        char validator[MOET_VALIDATOR_SIZE];
        if (c->family_default && !c->applicable && c->validator[0] == '\0' &&
            moet_family_validator(c->config.family, validator) != MOET_OK) {
            moet_command_note("family %s is left out on %s: %s", c->config.family->name, device->name, c->reason);
        }
    }
}

moet_status moet_sweep_run_lane(const moet_sweep_options *options, moet_handout *handout, moet_progress *progress,
                                moet_worker *worker, moet_sweep_summary *summary)
{
    const moet_sweep_tasks *tasks = handout->tasks;
    const moet_device_info *device = moet_worker_info(worker);
    *summary = (moet_sweep_summary){0};
    sweep_state s = {.options = options,
                     .tasks = tasks,
                     .summary = summary,
                     .worker = worker,
                     .handout = handout,
                     .progress = progress,
                     .run_id = -1};
    s.begin_ns = moet_clock_ns();
    MOET_TRY(moet_store_open(options->db_path, MOET_STORE_WRITE, &s.store));
    moet_status status = MOET_OK;
    moet_nvtx_begin(MOET_NVTX_SWEEP, NULL, tasks->count);
    /* Where nothing is left, nothing was stopped either. */
    while (status == MOET_OK && moet_handout_waits(handout) && !(moet_handout_done(handout) > 0 && should_stop(&s)) &&
           moet_handout_take(handout, &s.current)) {
        const moet_sweep_task *task = &tasks->items[s.current];
        moet_candidates candidates = {0};
        moet_known_gemms known;
        status = find_known(&s, task, &known);
        if (status == MOET_OK) {
            status = moet_candidates_list(&task->problem, task->workload->rows, device, &options->families, &known,
                                          &candidates);
        }
        if (status == MOET_OK && s.current == 0) {
            note_missing(&candidates, device);
        }
        if (status == MOET_OK) {
            status = race_task(&s, task, &candidates);
        }
        moet_candidates_release(&candidates);
        const bool stopped = summary->interrupted || summary->out_of_budget;
        moet_handout_finish(handout, s.current, status == MOET_OK && !stopped);
        if (stopped) {
            break;
        }
    }
    moet_nvtx_end(status);
    moet_progress_clear(progress);
    moet_store_close(s.store);
    return status;
}
