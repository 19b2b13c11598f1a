/* sweep_lanes.c: see sweep_lanes.h. */
#include "sweep_lanes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "candidates.h"
#include "command.h"

#define MOST_LANES 64
#define SPEC_SIZE 32

/* In the order in which a task goes through them. */
enum { TASK_WAITS, TASK_RACES, TASK_RACED, TASK_FILLS, TASK_DONE };

/* ---- the handout ---- */

moet_status moet_handout_create(const moet_sweep_tasks *tasks, bool fills, int32_t lanes, moet_handout *h)
{
    const size_t count = (size_t)tasks->count + 1;
    *h = (moet_handout){.tasks = tasks,
                        .fills = fills,
                        .states = calloc(count, sizeof *h->states),
                        .block_of = calloc(count, sizeof *h->block_of),
                        .blocks = calloc(count, sizeof *h->blocks),
                        .lanes = lanes};
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->finished, NULL);
    if (!h->states || !h->block_of || !h->blocks) return moet_fail(MOET_NO_MEMORY, "no memory for a sweep");
    char last[MOET_KEY_SIZE] = "", key[MOET_KEY_SIZE];
    for (int32_t i = 0, block = -1; i < tasks->count; i++) {
        moet_problem_format(&tasks->items[i].problem, key);
        if (strcmp(key, last) != 0) h->blocks[++block].first = i;
        h->blocks[block].count++;
        h->block_of[i] = block;
        memcpy(last, key, sizeof last);
    }
    return MOET_OK;
}

void moet_handout_destroy(moet_handout *h)
{
    if (h->tasks == NULL) return;
    pthread_cond_destroy(&h->finished);
    pthread_mutex_destroy(&h->lock);
    moet_compile_ahead_destroy(h->ahead);
    free(h->states);
    free(h->block_of);
    free(h->blocks);
    *h = (moet_handout){0};
}

/* Whether a GEMM of a path's workload is yet to be measured. */
static bool waits_for_gemms(const moet_handout *h, const moet_sweep_task *path)
{
    for (int32_t i = 0; i < h->tasks->count && path->problem.op == MOET_OP_FFN; i++) {
        const moet_sweep_task *task = &h->tasks->items[i];
        if (task->workload == path->workload && task->problem.op != MOET_OP_FFN && h->states[i] < TASK_RACED) {
            return true;
        }
    }
    return false;
}

/* Whether all of a block is raced. */
static bool may_fill(const moet_handout *h, const moet_block *block)
{
    for (int32_t i = block->first; i < block->first + block->count; i++) {
        if (h->states[i] < TASK_RACED) return false;
    }
    return h->fills;
}

/* Whether a GEMM of the task's shape has not got as far as this state. */
static bool has_gemm_before(const moet_handout *h, const moet_sweep_task *task, uint8_t state)
{
    const moet_problem *own = &task->problem;
    for (int32_t i = 0; i < h->tasks->count; i++) {
        const moet_problem *p = &h->tasks->items[i].problem;
        if (p->op != MOET_OP_FFN && h->states[i] < state && p->experts == own->experts && p->hidden == own->hidden &&
            p->inter == own->inter && p->layout == own->layout) {
            return true;
        }
    }
    return false;
}

/* What a lane looks for, in this order. */
enum { WANT_NEXT, WANT_FILLING, WANT_ANY_RACE, WANT_COUNT };

static bool is_wanted(const moet_handout *h, int32_t task, int32_t want, moet_task_step *step)
{
    const moet_sweep_task *t = &h->tasks->items[task];
    const bool is_path = t->problem.op == MOET_OP_FFN;
    const bool fills = h->states[task] == TASK_RACED && may_fill(h, &h->blocks[h->block_of[task]]);
    const bool races = h->states[task] == TASK_WAITS;
    *step = fills ? MOET_STEP_FILL : MOET_STEP_RACE;
    if (want == WANT_FILLING) return fills;
    if (want == WANT_ANY_RACE) return races;
    if (!h->fills_early) return races && !waits_for_gemms(h, t);
    if (is_path) return races && !has_gemm_before(h, t, TASK_DONE);
    return races || (fills && !has_gemm_before(h, t, TASK_RACED));
}

static bool find_task(const moet_handout *h, int32_t *task, moet_task_step *step)
{
    for (int32_t want = 0; want < WANT_COUNT; want++) {
        for (*task = 0; *task < h->tasks->count; ++*task) {
            if (is_wanted(h, *task, want, step)) return true;
        }
    }
    return false;
}

static bool is_anybody_busy(const moet_handout *h)
{
    for (int32_t i = 0; i < h->tasks->count; i++) {
        if (h->states[i] == TASK_RACES || h->states[i] == TASK_FILLS) return true;
    }
    return false;
}

bool moet_handout_take(moet_handout *h, int32_t *task, moet_task_step *step)
{
    pthread_mutex_lock(&h->lock);
    bool found = find_task(h, task, step);
    while (!found && is_anybody_busy(h)) {
        pthread_cond_wait(&h->finished, &h->lock);
        found = find_task(h, task, step);
    }
    if (found) h->states[*task] = *step == MOET_STEP_RACE ? TASK_RACES : TASK_FILLS;
    pthread_mutex_unlock(&h->lock);
    return found;
}

bool moet_handout_is_over(moet_handout *h)
{
    int32_t task;
    moet_task_step step;
    pthread_mutex_lock(&h->lock);
    const bool is_over = !is_anybody_busy(h) && !find_task(h, &task, &step);
    pthread_mutex_unlock(&h->lock);
    return is_over;
}

bool moet_handout_is_ready(moet_handout *h, int32_t task)
{
    pthread_mutex_lock(&h->lock);
    const bool is_ready = h->states[task] == TASK_WAITS && !waits_for_gemms(h, &h->tasks->items[task]);
    pthread_mutex_unlock(&h->lock);
    return is_ready;
}

/* After the last of a block was filled: all of it again, where that has measured anything. */
static void finish_block(moet_handout *h, moet_block *block)
{
    bool is_filled = true;
    for (int32_t i = block->first; i < block->first + block->count; i++) is_filled &= h->states[i] == TASK_DONE;
    if (!is_filled || !block->is_measured) return;
    for (int32_t i = block->first; i < block->first + block->count; i++) h->states[i] = TASK_RACED;
    block->is_measured = false;
    block->pass++;
}

void moet_handout_finish(moet_handout *h, int32_t task, bool is_done, bool measured)
{
    pthread_mutex_lock(&h->lock);
    if (h->states[task] == TASK_RACES) {
        h->states[task] = !is_done ? TASK_WAITS : h->fills ? TASK_RACED : TASK_DONE;
        h->raced += is_done;
    } else {
        moet_block *block = &h->blocks[h->block_of[task]];
        h->states[task] = is_done ? TASK_DONE : TASK_RACED;
        block->is_measured |= measured;
        finish_block(h, block);
    }
    pthread_cond_broadcast(&h->finished);
    pthread_mutex_unlock(&h->lock);
}

int32_t moet_handout_raced(moet_handout *h)
{
    pthread_mutex_lock(&h->lock);
    const int32_t raced = h->raced;
    pthread_mutex_unlock(&h->lock);
    return raced;
}

int32_t moet_handout_pass(moet_handout *h, int32_t task)
{
    pthread_mutex_lock(&h->lock);
    const int32_t pass = h->blocks[h->block_of[task]].pass;
    pthread_mutex_unlock(&h->lock);
    return pass;
}

/* ---- lanes ---- */

typedef struct lane {
    moet_worker_options worker_options;
    char spec[SPEC_SIZE];
    moet_worker *worker;
    const moet_sweep_options *options;
    moet_handout *handout;
    moet_progress *progress;
    moet_sweep_summary summary;
    moet_status status;
    char error[1024];
    pthread_t thread;
} lane;

typedef struct lanes {
    int32_t count;
    lane items[MOST_LANES];
} lanes;

/* "cuda", "cuda:0" and "cuda:00" are one. */
static bool is_same_device(const char *a, const char *b)
{
    const size_t length = strcspn(a, ":");
    const char *first = a + length, *second = b + strcspn(b, ":");
    return length == (size_t)(second - b) && memcmp(a, b, length) == 0 &&
           (*first ? strtol(first + 1, NULL, 10) : 0) == (*second ? strtol(second + 1, NULL, 10) : 0);
}

static moet_status add_lane(lanes *l, const char *spec, int32_t part, int32_t parts, const moet_sweep_options *options)
{
    for (int32_t i = 0; i < l->count; i++) {
        const lane *other = &l->items[i];
        const moet_worker_options *own = &other->worker_options;
        const bool is_same = is_same_device(other->spec, spec), are_parts = parts > 0 || own->parts > 0;
        const bool is_twice =
            strcmp(other->spec, spec) == 0 && (parts == 0 || own->parts != parts || own->part == part);
        if (is_twice || (is_same && !are_parts)) { /* parts of a device, and all of it, have keys that differ */
            return moet_fail(MOET_INVALID, "--devices: '%s' is named twice; two workers would disturb each other",
                             spec);
        }
    }
    if (l->count == MOST_LANES || strlen(spec) >= SPEC_SIZE) {
        return moet_fail(MOET_INVALID, "--devices: '%.40s' is too long, or these are more than %d devices", spec,
                         MOST_LANES);
    }
    lane *added = &l->items[l->count++];
    *added = (lane){.options = options};
    snprintf(added->spec, sizeof added->spec, "%s", spec);
    added->worker_options = (moet_worker_options){.device = added->spec,
                                                  .seed = options->seed,
                                                  .watchdog_ns = options->watchdog_ns,
                                                  .part = part,
                                                  .parts = parts,
                                                  .in_process = options->in_process};
    return MOET_OK;
}

/* "host/N": the processors that this process may use, in N parts. */
static moet_status add_parts(lanes *l, const char *spec, const moet_sweep_options *options)
{
    char *end;
    const long parts = strtol(spec + 5, &end, 10);
    const int32_t count = moet_host_processors();
    if (end == spec + 5 || *end != '\0' || parts < 1 || parts > count || parts > MOST_LANES) {
        return moet_fail(MOET_INVALID, "--devices: '%.40s': host/N takes 1 to %d parts here, at least a processor each",
                         spec, count < MOST_LANES ? count : MOST_LANES);
    }
    for (int32_t i = 0; i < parts; i++) MOET_TRY(add_lane(l, "host", i, (int32_t)parts, options));
    return MOET_OK;
}

/* All devices of the backend that "auto" takes. */
static moet_status add_all(lanes *l, const moet_sweep_options *options)
{
    const moet_worker_options look = {.device = "auto", .in_process = options->in_process};
    moet_worker *worker = NULL;
    char spec[SPEC_SIZE], backend[SPEC_SIZE];
    MOET_TRY(moet_worker_open(&look, &worker));
    const int32_t count = moet_worker_device_count(worker);
    snprintf(backend, sizeof backend, "%s", moet_worker_info(worker)->backend);
    moet_worker_close(worker);
    for (int32_t i = 0; i < count; i++) {
        snprintf(spec, sizeof spec, "%.16s:%d", backend, i);
        MOET_TRY(add_lane(l, spec, 0, 0, options));
    }
    return MOET_OK;
}

static moet_status make_lanes(lanes *l, const moet_sweep_options *options)
{
    const moet_text_list *devices = options->devices;
    for (int32_t i = 0; i < devices->count; i++) {
        const char *spec = devices->texts[i];
        if (devices->count > 1 &&
            (strcmp(spec, "all") == 0 || strcmp(spec, "auto") == 0 || strcmp(spec, "cuda") == 0)) {
            return moet_fail(MOET_INVALID, "--devices: '%s' is no single device: name each, as cuda:0,cuda:1", spec);
        }
        if (strcmp(spec, "all") == 0) {
            MOET_TRY(add_all(l, options));
        } else if (strncmp(spec, "host/", 5) == 0) {
            MOET_TRY(add_parts(l, spec, options));
        } else {
            MOET_TRY(add_lane(l, spec, 0, 0, options));
        }
    }
    if (options->in_process && l->count > 1) {
        return moet_fail(MOET_INVALID, "--in-process measures on one device: give --device");
    }
    return MOET_OK;
}

/* Starts all workers; what they are must be the same. */
static moet_status open_workers(lanes *l)
{
    for (int32_t i = 0; i < l->count; i++) {
        MOET_TRY(moet_worker_open(&l->items[i].worker_options, &l->items[i].worker));
        const char *first = moet_worker_key(l->items[0].worker), *key = moet_worker_key(l->items[i].worker);
        if (strcmp(first, key) != 0) {
            return moet_fail(MOET_UNSUPPORTED,
                             "--devices: %s (%s) is not like %s (%s): sweep devices that differ one by one (--device), "
                             "into the same database if you like",
                             l->items[i].spec, key, l->items[0].spec, first);
        }
    }
    return MOET_OK;
}

static void *run_lane(void *context)
{
    lane *l = context;
    l->status = moet_sweep_run_lane(l->options, l->handout, l->progress, l->worker, &l->summary);
    if (l->status != MOET_OK) snprintf(l->error, sizeof l->error, "%s", moet_last_error());
    /* Its processes belong to this thread, and end with it. */
    moet_worker_close(l->worker);
    l->worker = NULL;
    return NULL;
}

static void add_summary(moet_sweep_summary *sum, const moet_sweep_summary *part)
{
    sum->measured += part->measured;
    sum->already_done += part->already_done;
    sum->failed += part->failed;
    sum->cut += part->cut;
    sum->tried += part->tried;
    sum->filled += part->filled;
    sum->wrong += part->wrong;
    sum->broken += part->broken;
    sum->interrupted = sum->interrupted || part->interrupted;
    sum->out_of_budget = sum->out_of_budget || part->out_of_budget;
}

/* The first lane runs on this thread. What one lane leaves undone another takes, if it still looks. */
static void run_lanes(lanes *l)
{
    int32_t started = 1;
    for (; started < l->count; started++) {
        if (pthread_create(&l->items[started].thread, NULL, run_lane, &l->items[started]) != 0) {
            moet_command_note("no thread for %s: the others do without it", l->items[started].spec);
            break;
        }
    }
    run_lane(&l->items[0]);
    for (int32_t i = 1; i < started; i++) pthread_join(l->items[i].thread, NULL);
}

moet_status moet_sweep_run(const moet_sweep_options *options, const moet_sweep_tasks *tasks,
                           moet_sweep_summary *summary)
{
    *summary = (moet_sweep_summary){.left = tasks->count};
    moet_handout handout = {0};
    moet_progress progress;
    lanes *l = calloc(1, sizeof *l);
    moet_status status = l == NULL ? moet_fail(MOET_NO_MEMORY, "no memory for a sweep") : make_lanes(l, options);
    const bool fills = moet_effort_rule_of(options->effort)->fills && !options->races_only;
    if (status == MOET_OK) status = moet_handout_create(tasks, fills, l->count, &handout);
    handout.fills_early = fills && options->budget_ns == 0;
    if (status == MOET_OK) status = open_workers(l);
    moet_store_now(handout.began_at);
    if (status == MOET_OK) /* before a database is made */
        status = moet_candidates_check(moet_worker_info(l->items[0].worker), &options->families);
    if (status == MOET_OK && options->device_key != NULL &&
        strcmp(options->device_key, moet_worker_key(l->items[0].worker)) != 0)
        status = moet_fail(MOET_INVALID, "--stale: rechecked on another device: %.200s expected, %.200s found",
                           options->device_key, moet_worker_key(l->items[0].worker));
    if (status == MOET_OK && options->jobs > 0 && strcmp(moet_worker_info(l->items[0].worker)->backend, "cuda") == 0)
        status = moet_compile_ahead_create(options->jobs, &handout.ahead);
    if (status != MOET_OK) goto done;
    moet_progress_begin(&progress, stderr, tasks->count);
    for (int32_t i = 0; i < l->count; i++) {
        l->items[i].handout = &handout;
        l->items[i].progress = &progress;
    }
    run_lanes(l);
    moet_progress_end(&progress);
    summary->left = 0;
    for (int32_t i = 0; i < tasks->count; i++) {
        summary->unfilled += handout.states[i] == TASK_RACED;
        if (handout.states[i] >= TASK_RACED) continue;
        if (summary->left < MOET_SWEEP_LEFT_NAMED) summary->first_left[summary->left] = i;
        summary->left++;
    }
    for (int32_t i = 0; i < l->count; i++) {
        lane *item = &l->items[i];
        add_summary(summary, &item->summary);
        if (item->status == MOET_OK) continue;
        if (l->count > 1) moet_command_note("%s: %s", item->spec, item->error);
        if (summary->left + summary->unfilled > 0 || l->count == 1) status = moet_fail(item->status, "%s", item->error);
    }
done:
    for (int32_t i = 0; l != NULL && i < l->count; i++) moet_worker_close(l->items[i].worker);
    moet_handout_destroy(&handout);
    free(l);
    return status;
}
