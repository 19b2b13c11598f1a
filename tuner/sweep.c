/* sweep.c: goes through the tasks, passes over finished ones, races the others. See sweep.h. */
#include "sweep.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/nvtx.h"
#include "calibrate.h"
#include "command.h"
#include "emit_winners.h"
#include "progress.h"
#include "race.h"
#include "seeds.h"
#include "sweep_lanes.h"

#define LOOK_AHEAD 4   /* tasks whose kernels are compiled while one is raced: of GEMMs, and new ones of op ffn */
#define PATHS_AHEAD 32 /* of op ffn in all: the down GEMMs, which need few new kernels, leave time for theirs */

typedef struct sweep_state {
    const moet_sweep_options *options;
    const moet_sweep_tasks *tasks;
    moet_sweep_summary *summary;
    moet_store *store;
    moet_worker *worker;
    int64_t run_id; /* -1 until something has to be measured */
    moet_store_cost cost;
    moet_seeds seeds;
    int32_t asked;     /* tasks before this one, without those of op ffn, have been compiled ahead */
    bool *asked_paths; /* [tasks] which of op ffn have */
    moet_config *table; /* what a table would take of the problem at hand */
    int32_t table_count, table_room;
    char table_key[MOET_STORE_PROBLEM_SIZE]; /* of which; "": of none yet */
    int32_t table_pass;                      /* of filling, in which it was found */
    int64_t begin_ns;
    moet_handout *handout;
    moet_progress *progress;
    int32_t current; /* task */
    moet_task_step step;
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

void moet_sweep_task_format(const moet_sweep_task *task, char text[MOET_SWEEP_TASK_SIZE])
{
    snprintf(text, MOET_SWEEP_TASK_SIZE, "%s %lld rows %s %s %s", task->workload->name, (long long)task->workload->rows,
             task->workload->skew, moet_op_text(task->problem.op), moet_layout_text(task->problem.layout));
}

void moet_sweep_task_begin(const moet_sweep_task *task)
{
    char text[256];
    moet_sweep_task_format(task, text);
    moet_nvtx_begin(MOET_NVTX_WORKLOAD, moet_nvtx_register(text), task->workload->rows);
}

static void report(void *context, double part, const moet_candidate *best)
{
    sweep_state *s = context;
    char task[MOET_SWEEP_TASK_SIZE];
    moet_sweep_task_format(&s->tasks->items[s->current], task);
    if (s->step == MOET_STEP_FILL) {
        moet_progress_update(s->progress, moet_handout_raced(s->handout), "%s: what the others' winners take", task);
    } else if (best != NULL) {
        moet_progress_update(s->progress, moet_handout_raced(s->handout) + part, "%s: best %.1f us, %s", task,
                             (double)best->median_ns / 1e3, best->text);
    } else {
        moet_progress_update(s->progress, moet_handout_raced(s->handout) + part, "%s", task);
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
    moet_progress_update(s->progress, moet_handout_raced(s->handout), "measuring what %s can do at best", device->name);
    moet_ceilings ceilings;
    MOET_TRY(moet_worker_begin(s->worker, &ceilings));
    moet_store_run run = {.device = device,
                          .device_key = moet_worker_key(s->worker),
                          .command = s->options->command,
                          .revision = moet_command_revision(),
                          .libraries = moet_worker_libraries(s->worker),
                          .ceilings = ceilings,
                          .effort = s->options->effort};
    MOET_TRY(moet_store_begin_run(s->store, &run, &s->run_id));
    return moet_calibrate(s->worker, s->handout->ahead, s->store, &ceilings, &s->cost);
}

/* Whether an error is one of the workload: others may still be measured. */
static bool costs_one_task(moet_status status)
{
    return status == MOET_NO_DEVICE_MEMORY || status == MOET_WRONG || status == MOET_TIMEOUT ||
           status == MOET_UNSUPPORTED;
}

/* The hash is of what this effort tries. What was finished with more has another one, and counts. */
static moet_status find_done(const sweep_state *s, const moet_sweep_task *task, const moet_candidates *candidates,
                             char hash[MOET_SHA256_TEXT_SIZE], bool *done)
{
    const moet_store_key key = key_of(s, task);
    const bool lists = s->options->effort == MOET_EFFORT_EXHAUSTIVE;
    char of_more[MOET_SHA256_TEXT_SIZE];
    moet_candidates_hash(candidates, MOET_RACE_RULE, s->options->final_rounds, s->options->listed, of_more);
    moet_candidates_hash(candidates, MOET_RACE_RULE, s->options->final_rounds, lists ? s->options->listed : 0, hash);
    *done = false;
    if (s->options->retune) return MOET_OK;
    MOET_TRY(moet_store_is_done(s->store, &key, hash, s->options->effort, done));
    return *done ? MOET_OK : moet_store_is_done(s->store, &key, of_more, s->options->effort, done);
}

typedef struct listing {
    const sweep_state *sweep;
    const moet_sweep_task *task;
} listing;

static moet_status list_in_worker(void *context, const moet_config *base, moet_config_visit visit, void *visit_context)
{
    const listing *l = context;
    return moet_worker_list(l->sweep->worker, &l->task->problem, l->task->workload->counts, base,
                            l->sweep->options->listed, visit, visit_context);
}

/* What only a vendor library can enumerate joins the candidates of an exhaustive race. A library that fails at it costs
 * the race its name: *effort is lowered. */
static moet_status add_listed(const sweep_state *s, const moet_sweep_task *task, moet_candidates *candidates,
                              moet_effort *effort)
{
    listing l = {s, task};
    *effort = s->options->effort;
    if (s->options->effort < MOET_EFFORT_EXHAUSTIVE || s->options->listed == 0) {
        return MOET_OK;
    }
    const moet_status status =
        moet_candidates_add_listed(candidates, &task->problem, moet_worker_info(s->worker), list_in_worker, &l);
    if (status == MOET_OK || status == MOET_NO_MEMORY) {
        return status;
    }
    char text[MOET_SWEEP_TASK_SIZE];
    moet_sweep_task_format(task, text);
    moet_progress_clear(s->progress);
    moet_command_note("%s: not exhaustive, for a library did not list its algorithms: %s; the same command tries again",
                      text, moet_last_error());
    *effort = MOET_EFFORT_NORMAL;
    return MOET_OK;
}

static moet_status select_candidates(const sweep_state *s, const moet_sweep_task *task, moet_candidates *candidates)
{
    return moet_candidates_select(candidates, &task->problem, task->workload->counts,
                                  task->workload->tokens > 0 ? task->workload->tokens : task->workload->rows,
                                  moet_worker_info(s->worker), &s->cost.rates, s->options->effort);
}

/* What won nearby joins the candidates. */
static moet_status add_seeds(sweep_state *s, const moet_sweep_task *task, const moet_routing *routing,
                             moet_candidates *candidates)
{
    char problem_key[MOET_STORE_PROBLEM_SIZE];
    moet_config configs[MOET_SEEDS_MOST];
    moet_store_problem_key(&task->problem, task->workload, problem_key);
    problem_key[moet_store_problem_length(problem_key)] = '\0';
    MOET_TRY(moet_seeds_load(&s->seeds, s->store, moet_worker_key(s->worker), problem_key));
    const int32_t count = moet_seeds_nearest(&s->seeds, routing, MOET_SEEDS_MOST, configs);
    for (int32_t i = 0; i < count; i++)
        MOET_TRY(moet_candidates_add_seed(candidates, &task->problem, moet_worker_info(s->worker), &configs[i]));
    return MOET_OK;
}

/* When a race that begins now has had its share of the budget. */
static int64_t deadline(const sweep_state *s)
{
    if (s->options->budget_ns == 0) return 0;
    const int64_t now_ns = moet_clock_ns(), left_ns = s->begin_ns + s->options->budget_ns - now_ns;
    const int32_t tasks = s->tasks->count - moet_handout_raced(s->handout);
    return now_ns + (tasks > s->handout->lanes ? left_ns / tasks * s->handout->lanes : left_ns);
}

static moet_status compile_listed(sweep_state *s, const moet_sweep_task *task, const moet_candidates *candidates)
{
    for (int32_t i = 0; s->handout->ahead != NULL && i < candidates->count; i++) {
        const moet_candidate *c = &candidates->items[i];
        if (c->applicable)
            MOET_TRY(
                moet_compile_ahead_add(s->handout->ahead, &task->problem, &c->config, moet_worker_info(s->worker)));
    }
    return MOET_OK;
}

static moet_status compile_next(sweep_state *s);

/* Told on stderr; MOET_OK where others may still be measured. */
static moet_status judge(sweep_state *s, const moet_sweep_task *task, moet_status status, bool of_store,
                         const moet_race_result *result)
{
    char text[MOET_SWEEP_TASK_SIZE];
    moet_sweep_task_format(task, text);
    s->summary->tried += result->tried;
    s->summary->wrong += result->wrong;
    s->summary->broken += result->failed;
    if (status != MOET_OK && !of_store && costs_one_task(status)) {
        moet_progress_clear(s->progress);
        moet_command_note("%s: %s: %s", text,
                          s->step == MOET_STEP_FILL ? "winners of other workloads were not tried" : "not measured",
                          moet_last_error());
        s->summary->failed += s->step == MOET_STEP_RACE;
        return MOET_OK;
    }
    if (status == MOET_OK && !result->stopped && result->wrong > 0) {
        moet_progress_clear(s->progress);
        moet_command_note("%s: %d candidates gave wrong results (moe-tune show --trials says which)", text,
                          result->wrong);
    }
    return status;
}

/* What was measured of a task before that moment is measured again; "": nothing. */
static const char *since_of(const sweep_state *s, const moet_sweep_task *task)
{
    if (task->since[0] != '\0') return task->since;
    return s->options->retune ? s->handout->began_at : "";
}

/* A race of candidates; the rest is the task's. */
static moet_race race_of(sweep_state *s, const moet_sweep_task *task, moet_candidates *candidates)
{
    return (moet_race){.worker = s->worker,
                       .store = s->store,
                       .run_id = s->run_id,
                       .device_key = moet_worker_key(s->worker),
                       .device = moet_worker_info(s->worker),
                       .problem = &task->problem,
                       .workload = task->workload,
                       .candidates = candidates,
                       .final_rounds = s->options->final_rounds,
                       .effort = s->options->effort,
                       .noise = s->options->noise,
                       .since = since_of(s, task),
                       .ahead = s->handout->ahead,
                       .should_stop = should_stop,
                       .report = report,
                       .context = s};
}

static moet_status race_task(sweep_state *s, const moet_sweep_task *task, moet_candidates *candidates)
{
    char hash[MOET_SHA256_TEXT_SIZE];
    bool done = false, of_store = false;
    const moet_store_key key = key_of(s, task);
    moet_routing routing;
    MOET_TRY(moet_routing_summarize(task->workload->counts, task->workload->experts, &routing));
    if (task->since[0] != '\0') {
        MOET_TRY(moet_store_reopen(s->store, &key, task->since));
    }
    MOET_TRY(find_done(s, task, candidates, hash, &done));
    if (done) {
        s->summary->already_done++;
        moet_progress_skip(s->progress, 1);
        return moet_store_put_name(s->store, &key); /* by which it will be asked for */
    }
    moet_effort effort;
    MOET_TRY(begin_measuring(s));
    MOET_TRY(add_listed(s, task, candidates, &effort));
    MOET_TRY(add_seeds(s, task, &routing, candidates));
    MOET_TRY(select_candidates(s, task, candidates));
    MOET_TRY(compile_listed(s, task, candidates)); /* before those of later tasks that were not asked for yet */
    MOET_TRY(compile_next(s));
    moet_race race = race_of(s, task, candidates);
    race.deadline_ns = deadline(s);
    moet_race_result result;
    moet_sweep_task_begin(task);
    moet_status status = moet_nvtx_end(moet_race_run(&race, &result, &of_store));
    const bool is_lost = status != MOET_OK && !of_store && costs_one_task(status);
    status = judge(s, task, status, of_store, &result);
    if (status != MOET_OK || is_lost || result.stopped) {
        return status;
    }
    char text[MOET_SWEEP_TASK_SIZE];
    moet_sweep_task_format(task, text);
    if (result.best == NULL) {
        moet_progress_clear(s->progress);
        moet_command_note("%s: no candidate runs on %s (moe-tune show --trials says why)", text,
                          moet_worker_info(s->worker)->name);
        s->summary->failed++;
        return MOET_OK;
    }
    effort = result.effort < effort ? result.effort : effort;
    MOET_TRY(moet_store_put_done(s->store, s->run_id, &key, hash, effort));
    s->summary->measured++;
    s->summary->cut += result.effort < s->options->effort;
    return moet_seeds_add(&s->seeds, &routing, &result.best->config);
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
    if (row->is_current && !row->is_suspect && row->median_ns > 0 &&
        moet_config_parse(row->config, &config) == MOET_OK && config.family->version == row->family_version) {
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

/* Candidates as they are listed, whatever the effort. */
static moet_status list_candidates(const sweep_state *s, const moet_sweep_task *task, moet_candidates *candidates)
{
    moet_known_gemms known;
    MOET_TRY(find_known(s, task, &known));
    return moet_candidates_list(&task->problem, task->workload->rows, moet_worker_info(s->worker),
                                &s->options->families, &known, candidates);
}

/* ---- filling ---- */

static moet_status visit_table(void *context, const char *text)
{
    sweep_state *s = context;
    if (s->table_count == s->table_room) {
        const int32_t room = s->table_room == 0 ? 64 : 2 * s->table_room;
        moet_config *grown = realloc(s->table, (size_t)room * sizeof *grown);
        if (grown == NULL) return moet_fail(MOET_NO_MEMORY, "no memory for %d configurations", room);
        s->table = grown;
        s->table_room = room;
    }
    /* A config of another build's family is none of this one's table. */
    s->table_count += moet_config_parse(text, &s->table[s->table_count]) == MOET_OK;
    return MOET_OK;
}

/* What a table takes of the task's problem, as things stood at this lane's first task of this pass of filling. */
static moet_status find_table(sweep_state *s, const moet_sweep_task *task)
{
    const int32_t pass = moet_handout_pass(s->handout, s->current);
    char problem_key[MOET_STORE_PROBLEM_SIZE];
    moet_store_problem_key(&task->problem, task->workload, problem_key);
    if (strcmp(s->table_key, problem_key) == 0 && s->table_pass == pass) return MOET_OK;
    s->table_count = 0;
    MOET_TRY(moet_emit_winners_each_config(s->store, moet_worker_key(s->worker), problem_key, visit_table, s));
    snprintf(s->table_key, sizeof s->table_key, "%s", problem_key);
    s->table_pass = pass;
    return MOET_OK;
}

/* Only defaults and the table's stay. How many of the latter the store lacks: 0 where it has none of them, as the
 * workload could not be measured. */
static moet_status keep_table(const sweep_state *s, const moet_sweep_task *task, moet_candidates *candidates,
                              int32_t *lacking)
{
    int32_t kept = 0, known = 0;
    *lacking = 0;
    for (int32_t i = 0; i < candidates->count; i++) {
        const moet_candidate c = candidates->items[i];
        if (!c.applicable || !(c.family_default || c.is_seed)) continue;
        candidates->items[kept++] = c;
        moet_store_key key = key_of(s, task);
        key.config = c.text;
        key.device_counts = c.device_counts;
        key.family_version = c.config.family->version;
        key.validator = c.validator;
        bool is_known = false;
        MOET_TRY(moet_store_has_trial(s->store, &key, since_of(s, task), s->options->effort, &is_known, NULL));
        known += is_known;
        *lacking += !is_known && !c.family_default;
    }
    candidates->count = kept;
    *lacking = known > 0 ? *lacking : 0;
    return MOET_OK;
}

typedef struct own_visit {
    moet_candidates *list;
    const moet_problem *problem;
    const moet_device_info *device;
} own_visit;

static moet_status visit_own(void *context, const moet_store_winner_row *row)
{
    const own_visit *visit = context;
    moet_config config;
    if (moet_config_parse(row->trial.config, &config) != MOET_OK) return MOET_OK;
    return moet_candidates_add_seed(visit->list, visit->problem, visit->device, &config);
}

/* What won here is what the others are to beat, and is timed again with them where one of them may. */
static moet_status add_own(const sweep_state *s, const moet_sweep_task *task, moet_candidates *candidates)
{
    char problem_key[MOET_STORE_PROBLEM_SIZE];
    moet_store_problem_key(&task->problem, task->workload, problem_key);
    const moet_store_filter filter = {
        .device_key = moet_worker_key(s->worker), .problem_key = problem_key, .workload = task->workload};
    own_visit visit = {candidates, &task->problem, moet_worker_info(s->worker)};
    return moet_store_each_winner(s->store, &filter, visit_own, &visit);
}

/* Measures what a table takes of the problem at a workload where others won: a lookup between workloads then knows all
 * of them on every side (docs/tuning.md, How the table generalises). */
static moet_status fill(sweep_state *s, const moet_sweep_task *task, moet_candidates *candidates, bool *measured)
{
    int32_t lacking = 0;
    bool of_store = false;
    *measured = false;
    MOET_TRY(find_table(s, task));
    MOET_TRY(list_candidates(s, task, candidates));
    for (int32_t i = 0; i < s->table_count; i++)
        MOET_TRY(moet_candidates_add_seed(candidates, &task->problem, moet_worker_info(s->worker), &s->table[i]));
    MOET_TRY(add_own(s, task, candidates));
    MOET_TRY(keep_table(s, task, candidates, &lacking));
    if (lacking == 0) return MOET_OK;
    MOET_TRY(begin_measuring(s));
    MOET_TRY(compile_next(s));
    moet_race race = race_of(s, task, candidates);
    race.fills = true;
    moet_race_result result;
    moet_sweep_task_begin(task);
    moet_status status = moet_nvtx_end(moet_race_run(&race, &result, &of_store));
    *measured = status == MOET_OK;
    if (status == MOET_OK && !result.stopped) s->summary->filled += lacking;
    return judge(s, task, status, of_store, &result);
}

/* ---- compiling ahead ---- */

/* Asks for the kernels of a task's candidates, unless it was finished before. */
static moet_status compile_task(sweep_state *s, const moet_sweep_task *task)
{
    char hash[MOET_SHA256_TEXT_SIZE];
    moet_candidates candidates = {0};
    bool done = false;
    moet_status status = list_candidates(s, task, &candidates);
    if (status == MOET_OK) status = find_done(s, task, &candidates, hash, &done);
    if (status == MOET_OK && !done) status = select_candidates(s, task, &candidates);
    if (status == MOET_OK && !done) status = compile_listed(s, task, &candidates);
    moet_candidates_release(&candidates);
    return status;
}

/* Asks for the kernels of the tasks after this one. Of op ffn, whose kernels are large, as soon as its GEMMs are known,
 * from which follows what will be tried. */
static moet_status compile_next(sweep_state *s)
{
    if (s->handout->ahead == NULL) return MOET_OK;
    if (s->asked <= s->current) s->asked = s->current + 1;
    for (; s->asked < s->tasks->count && s->asked <= s->current + LOOK_AHEAD; s->asked++) {
        if (s->tasks->items[s->asked].problem.op != MOET_OP_FFN) MOET_TRY(compile_task(s, &s->tasks->items[s->asked]));
    }
    for (int32_t i = 0, ready = 0, asked = 0; i < s->tasks->count && ready < PATHS_AHEAD && asked < LOOK_AHEAD; i++) {
        const moet_sweep_task *task = &s->tasks->items[i];
        if (task->problem.op != MOET_OP_FFN || !moet_handout_is_ready(s->handout, i)) continue;
        ready++;
        if (s->asked_paths[i]) continue;
        s->asked_paths[i] = true;
        asked++;
        MOET_TRY(compile_task(s, task));
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
    s.asked_paths = calloc((size_t)tasks->count + 1, sizeof *s.asked_paths);
    moet_status status = s.asked_paths ? MOET_OK : moet_fail(MOET_NO_MEMORY, "no memory for %d tasks", tasks->count);
    moet_nvtx_begin(MOET_NVTX_SWEEP, NULL, tasks->count);
    /* Where nothing is left, nothing was stopped either. */
    while (status == MOET_OK && !moet_handout_is_over(handout) &&
           !(moet_handout_raced(handout) > 0 && should_stop(&s)) && moet_handout_take(handout, &s.current, &s.step)) {
        const moet_sweep_task *task = &tasks->items[s.current];
        moet_candidates candidates = {0};
        bool measured = false;
        if (moet_handout_raced(handout) > 0 && should_stop(&s)) { /* while it waited */
            moet_handout_finish(handout, s.current, false, false);
            break;
        }
        if (s.step == MOET_STEP_FILL) {
            status = fill(&s, task, &candidates, &measured);
        } else {
            status = list_candidates(&s, task, &candidates);
            if (status == MOET_OK && s.current == 0) note_missing(&candidates, device);
            if (status == MOET_OK) status = race_task(&s, task, &candidates);
        }
        moet_candidates_release(&candidates);
        const bool stopped = summary->interrupted || summary->out_of_budget;
        moet_handout_finish(handout, s.current, status == MOET_OK && !stopped, measured);
        if (stopped) {
            break;
        }
    }
    moet_nvtx_end(status);
    moet_progress_clear(progress);
    moet_seeds_release(&s.seeds);
    moet_store_close(s.store);
    free(s.asked_paths);
    free(s.table);
    return status;
}
