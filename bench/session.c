#include "session.h"

#include <stdio.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST_REPEATS = 10 };

/* ---- create, destroy ---- */

/* Rounds of only the ceilings: the first ones, which warm the clocks, are not kept. */
static moet_status warm_up(moet_bench *bench)
{
    bool host = bench->device->info.cc_major == 0;
    int64_t time_ns;
    int32_t sm_mhz;
    for (int32_t i = 0; i < (host ? 1 : 60); i++) {
        for (int32_t c = 0; c < MOET_CEILING_COUNT; c++)
            MOET_TRY(moet_runner_sample(bench, moet_ceiling_runner(bench->ceilings, c), &time_ns, &sm_mhz));
    }
    return moet_bench_ceilings(bench, host ? 3 : 11, &(moet_ceilings){0});
}

static moet_status open_bench(moet_bench *bench, bool ceilings)
{
    moet_device *device = bench->device;
    const moet_backend *backend = device->backend;
    MOET_TRY(backend->activate(device));
    MOET_TRY(backend->stream_create(device, &bench->stream));
    MOET_TRY(backend->event_create(device, &bench->begin));
    MOET_TRY(backend->event_create(device, &bench->end));
    MOET_TRY(backend->event_create(device, &bench->spun));
    MOET_TRY(backend->alloc(device, MOET_OPS_SINK_BYTES, &bench->sink));
    MOET_TRY(backend->fill(device, bench->sink, 0, MOET_OPS_SINK_BYTES));
    MOET_TRY(moet_ops_create(device, &bench->ops));
    if (!ceilings) return MOET_OK;
    MOET_TRY(moet_ceiling_set_create(bench, &bench->ceilings));
    return warm_up(bench);
}

moet_status moet_bench_create(moet_device *device, uint64_t seed, bool ceilings, moet_bench **bench)
{
    moet_bench *result = calloc(1, sizeof *result);
    if (!result) return moet_fail(MOET_NO_MEMORY, "bench: out of host memory");
    result->device = device;
    result->seed = seed;
    result->order_state = seed * 0x9e3779b97f4a7c15u | 1;
    moet_status status = open_bench(result, ceilings);
    if (status != MOET_OK) {
        moet_bench_destroy(result);
        return status;
    }
    *bench = result;
    return MOET_OK;
}

/* Gives back what a subject holds on the device; its trial stays. */
static void release_kernel(moet_subject *subject)
{
    moet_runner_release(subject->bench, &subject->runner);
    if (subject->config.family) subject->config.family->release(subject->state);
    subject->state = NULL;
    subject->active = false;
}

static void drop_subjects(moet_bench *bench)
{
    for (int32_t i = 0; i < bench->subject_count; i++) {
        release_kernel(bench->subjects[i]);
        moet_trial_release(&bench->subjects[i]->trial);
        free(bench->subjects[i]);
    }
    bench->subject_count = 0;
    moet_bench_release_workspaces(bench);
}

void moet_bench_destroy(moet_bench *bench)
{
    if (!bench) return;
    const moet_backend *backend = bench->device->backend;
    drop_subjects(bench);
    free(bench->subjects);
    free(bench->workspaces);
    moet_buffers_release(bench);
    moet_ceiling_set_destroy(bench, bench->ceilings);
    moet_ops_destroy(bench->ops);
    backend->free(bench->device, bench->sink);
    if (bench->begin) backend->event_destroy(bench->device, bench->begin);
    if (bench->end) backend->event_destroy(bench->device, bench->end);
    if (bench->spun) backend->event_destroy(bench->device, bench->spun);
    if (bench->stream) backend->stream_destroy(bench->device, bench->stream);
    free(bench);
}

void moet_bench_set_watch(moet_bench *bench, moet_bench_watch watch, void *context)
{
    bench->watch = watch;
    bench->watch_context = context;
}

void moet_bench_step(const moet_bench *bench, const moet_subject *subject, moet_step step)
{
    if (bench->watch) bench->watch(bench->watch_context, subject ? subject->index : -1, step);
}

moet_status moet_bench_check_device(moet_bench *bench)
{
    /* Errors of a kernel are sticky: whatever is asked next fails too. */
    moet_status status = moet_ops_read(bench->ops, bench->sink, bench->sink, 256, bench->stream);
    if (status == MOET_OK) status = bench->device->backend->stream_synchronize(bench->device, bench->stream);
    if (status == MOET_OK) return MOET_OK;
    return moet_fail(MOET_DEVICE, "the device takes no more work (%s): run the command again to go on in a new process",
                     moet_last_error());
}

/* ---- workload, subjects ---- */

moet_status moet_bench_set_workload(moet_bench *bench, const moet_problem *problem, const int32_t *counts,
                                    int64_t tokens)
{
    MOET_TRY(moet_problem_validate(problem));
    drop_subjects(bench);
    bench->has_workload = false;
    bench->round = 0;
    bench->is_racing = false;
    bench->right_count = 0;
    MOET_TRY(moet_buffers_set(bench, problem, counts, tokens));
    bench->has_workload = true;
    return MOET_OK;
}

void moet_bench_work(const moet_bench *bench, double *flops, double *bytes)
{
    *flops = moet_problem_flops(&bench->buffers.problem, &bench->buffers.routing);
    *bytes = moet_problem_bytes(&bench->buffers.problem, &bench->buffers.routing);
}

void moet_bench_path_size(const moet_bench *bench, int64_t *tokens, int32_t *choices)
{
    *tokens = bench->buffers.routing.tokens;
    *choices = bench->buffers.choices.count;
}

static moet_status launch_config(void *context, int32_t set)
{
    const moet_subject *subject = context;
    const moet_buffers *b = &subject->bench->buffers;
    const moet_buffer_set *s = &b->sets[set];
    moet_family_launch_args args = {
        .x = s->x,
        .w = s->w,
        .bias = s->bias,
        .out = s->out,
        .counts = subject->trial.device_counts ? b->device_counts : b->counts,
        .counts_on_device = subject->trial.device_counts,
        .rows = b->routing.rows,
        .workspace = subject->workspace,
        .stream = subject->bench->stream,
    };
    return subject->config.family->launch(subject->state, &args);
}

static moet_status launch_path_config(void *context, int32_t set)
{
    const moet_subject *subject = context;
    const moet_ffn_args ffn = moet_path_args(subject->bench, set, subject->trial.device_counts);
    const moet_family_launch_args args = {
        .ffn = &ffn,
        .counts = ffn.counts,
        .counts_on_device = subject->trial.device_counts,
        .rows = subject->bench->buffers.routing.rows,
        .workspace = subject->workspace,
        .stream = subject->bench->stream,
    };
    return subject->config.family->launch(subject->state, &args);
}

static moet_status launch_path_launcher(void *context, int32_t set)
{
    const moet_subject *subject = context;
    const moet_ffn_args args = moet_path_args(subject->bench, set, subject->trial.device_counts);
    return subject->path_launcher(subject->launcher_context, &args);
}

static moet_status launch_launcher(void *context, int32_t set)
{
    const moet_subject *subject = context;
    const moet_buffers *b = &subject->bench->buffers;
    const moet_buffer_set *s = &b->sets[set];
    moet_launch_args args = {
        .x = s->x,
        .w = s->w,
        .bias = s->bias,
        .out = s->out,
        .counts = subject->trial.device_counts ? b->device_counts : b->counts,
        .stream = subject->bench->stream,
    };
    return subject->launcher(subject->launcher_context, &args);
}

static bool is_path(const moet_bench *bench) { return bench->buffers.problem.op == MOET_OP_FFN; }

/* Appends an empty subject; it is the bench's. */
static moet_status new_subject(moet_bench *bench, const char *name, bool device_counts, moet_subject **subject)
{
    if (!bench->has_workload) return moet_fail(MOET_INVALID, "bench: no workload is set");
    if (bench->subject_count == bench->subject_capacity) {
        int32_t capacity = bench->subject_capacity ? 2 * bench->subject_capacity : 32;
        moet_subject **grown = realloc(bench->subjects, (size_t)capacity * sizeof *grown);
        if (!grown) return moet_fail(MOET_NO_MEMORY, "bench: out of host memory");
        bench->subjects = grown;
        bench->subject_capacity = capacity;
    }
    moet_subject *result = calloc(1, sizeof *result);
    if (!result) return moet_fail(MOET_NO_MEMORY, "bench: out of host memory");
    result->bench = bench;
    result->index = bench->subject_count;
    result->trial.device_counts = device_counts;
    result->trial.status = MOET_TRIAL_FAILED; /* until it is known better */
    snprintf(result->trial.config, sizeof result->trial.config, "%s", name);
    result->text = moet_nvtx_register(name);
    bench->subjects[bench->subject_count++] = result;
    *subject = result;
    return MOET_OK;
}

static void refuse(moet_subject *subject, moet_trial_status status, const char *reason)
{
    subject->trial.status = status;
    snprintf(subject->trial.reason, sizeof subject->trial.reason, "%s", reason);
}

/* The trial's verdict on an error of the candidate's own; an error status where the bench cannot go on. */
static moet_status fail_subject(moet_subject *subject, moet_status status, moet_trial_status verdict)
{
    refuse(subject, verdict, moet_last_error());
    return status == MOET_NO_MEMORY ? status : moet_bench_check_device(subject->bench);
}

/* What NVRTC makes for a config, into cubins[MOET_MAX_CUBINS], before it is prepared with them: compiling takes as long
 * as it takes, preparing does not. */
static moet_status compile_config(const moet_subject *subject, int32_t *count, moet_cubin *cubins)
{
    const moet_device_info *info = &subject->bench->device->info;
    const moet_family *family = subject->config.family;
    const moet_problem *problem = &subject->bench->buffers.problem;
    moet_source source;
    while (family->source && *count < MOET_MAX_CUBINS &&
           family->source(problem, &subject->config, info->cc_major, info->cc_minor, *count, &source)) {
        MOET_TRY(moet_module_compile(&source, &cubins[*count], NULL));
        (*count)++;
    }
    return MOET_OK;
}

/* Compiles and prepares, into *state. */
static moet_status make_state(const moet_subject *subject, moet_prepare_args *args, void **state)
{
    moet_cubin cubins[MOET_MAX_CUBINS] = {0};
    moet_bench_step(subject->bench, subject, MOET_STEP_COMPILE);
    moet_status status = compile_config(subject, &args->cubin_count, cubins);
    for (int32_t i = 0; i < args->cubin_count; i++) args->cubins[i] = &cubins[i];
    moet_bench_step(subject->bench, subject, MOET_STEP_PREPARE);
    if (status == MOET_OK) status = subject->config.family->prepare(args, state);
    for (int32_t i = 0; i < args->cubin_count; i++) moet_cubin_release(&cubins[i]);
    return status;
}

/* After fail_subject said `status`: the kernel is given back where the device still takes work. */
static moet_status leave_bench(moet_subject *subject, moet_status status)
{
    if (status == MOET_OK) release_kernel(subject);
    subject->active = false;
    return status;
}

/* Counts, applicability, workspace, prepare. subject->state is NULL where the trial's status is final. */
static moet_status prepare_config(moet_subject *subject)
{
    moet_bench *bench = subject->bench;
    moet_trial *trial = &subject->trial;
    const moet_problem *problem = &bench->buffers.problem;
    const moet_family *family = subject->config.family;
    const moet_device_info *info = &bench->device->info;
    int64_t max_rows = bench->buffers.routing.rows > 0 ? bench->buffers.routing.rows : 1;
    int64_t max_tokens = bench->buffers.routing.tokens > 0 ? bench->buffers.routing.tokens : 1;
    moet_bench_step(bench, subject, MOET_STEP_PREPARE);
    if (!family->applicable(problem, &subject->config, info, trial->reason)) {
        trial->status = MOET_TRIAL_INAPPLICABLE;
        return MOET_OK;
    }
    moet_traits traits = family->traits(problem, &subject->config);
    if (trial->device_counts ? !traits.device_counts : !traits.host_counts) {
        refuse(subject, MOET_TRIAL_INAPPLICABLE,
               trial->device_counts ? "takes counts from the host only" : "takes counts from the device only");
        return MOET_OK;
    }
    moet_prepare_args args = {
        .device = bench->device,
        .problem = problem,
        .config = &subject->config,
        .max_rows = max_rows,
        .max_tokens = max_tokens,
        .choices = bench->buffers.choices.count,
        .device_counts = trial->device_counts,
    };
    moet_status status = moet_bench_workspace(bench, family->workspace_bytes(&args), &subject->workspace);
    if (status != MOET_OK) return fail_subject(subject, status, MOET_TRIAL_FAILED);
    void *state = NULL;
    status = make_state(subject, &args, &state);
    if (status != MOET_OK)
        return fail_subject(subject, status, status == MOET_UNSUPPORTED ? MOET_TRIAL_INAPPLICABLE : MOET_TRIAL_FAILED);
    subject->state = state;
    return MOET_OK;
}

/* How long a call takes at least, for choosing calls: the roofline, as peers do; without it, or on a device without
 * graphs, the time that was seen. */
static double expected_call_us(const moet_bench *bench, double seen_us)
{
    if (!bench->ceilings || !bench->device->backend->capture_begin) return seen_us;
    int64_t medians_ns[MOET_CEILING_COUNT];
    moet_ceiling_medians(bench->ceilings, medians_ns);
    const moet_ceiling_work work = moet_ceiling_set_work(bench->ceilings);
    moet_ceilings rates = moet_ceiling_rates(&work, medians_ns);
    double flops, bytes;
    moet_bench_work(bench, &flops, &bytes);
    return moet_ceiling_floor_ns(&rates, flops, bytes) * 1e-3;
}

/* Verifies. The runner's launch is set; it is captured when its first sample is wanted. */
static moet_status admit(moet_subject *subject, bool capturable)
{
    moet_bench *bench = subject->bench;
    subject->runner.context = subject;
    subject->runner.set_count = bench->buffers.set_count;
    subject->capturable = capturable;
    moet_bench_step(bench, subject, MOET_STEP_VERIFY);
    return moet_verify_launch(bench, &subject->runner, &subject->trial, &subject->call_us);
}

/* Captures, and verifies the graph (or a second launch). */
static moet_status prepare_runner(moet_subject *subject)
{
    moet_bench *bench = subject->bench;
    moet_bench_step(bench, subject, MOET_STEP_VERIFY);
    moet_status status = moet_runner_prepare(bench, &subject->runner, subject->capturable, !bench->is_racing,
                                             expected_call_us(bench, subject->call_us));
    if (status != MOET_OK) return fail_subject(subject, status, MOET_TRIAL_FAILED);
    subject->is_prepared = true;
    subject->trial.eager = subject->runner.graph == NULL;
    return moet_verify_again(bench, &subject->runner, &subject->trial);
}

static moet_status keep_algorithms(moet_subject *subject)
{
    moet_trial *trial = &subject->trial;
    moet_algorithm *list = malloc(MOET_MAX_ALGORITHMS * sizeof *list);
    if (!list) return moet_fail(MOET_NO_MEMORY, "bench: out of host memory");
    trial->algorithms = list;
    trial->algorithm_count = subject->config.family->algorithms(subject->state, list);
    return MOET_OK;
}

static moet_status add_config(moet_subject *subject)
{
    const moet_family *family = subject->config.family;
    MOET_TRY(prepare_config(subject));
    if (!subject->state) return MOET_OK;
    subject->runner.launch = is_path(subject->bench) ? launch_path_config : launch_config;
    MOET_TRY(admit(subject, family->traits(&subject->bench->buffers.problem, &subject->config).capturable));
    const moet_cubin *list[MOET_MAX_CUBINS];
    int32_t count = family->cubins ? family->cubins(subject->state, list) : 0;
    moet_trial *trial = &subject->trial;
    for (; trial->cubin_count < count; trial->cubin_count++)
        MOET_TRY(moet_cubin_copy(list[trial->cubin_count], &trial->cubins[trial->cubin_count]));
    return family->algorithms ? keep_algorithms(subject) : MOET_OK;
}

/* Ends an addition: what is not to be timed gives its kernel back. */
static moet_status finish(moet_subject *subject, moet_status status, int32_t *index)
{
    subject->active = status == MOET_OK && subject->trial.status == MOET_TRIAL_OK;
    if (!subject->active) release_kernel(subject);
    if (status == MOET_OK) *index = subject->bench->subject_count - 1;
    return status;
}

moet_status moet_bench_add_config(moet_bench *bench, const moet_config *config, bool device_counts, int32_t *subject)
{
    char text[MOET_CONFIG_SIZE];
    moet_subject *added;
    moet_config_format(config, text);
    MOET_TRY(new_subject(bench, text, device_counts, &added));
    added->config = *config;
    moet_subject_begin_range(added);
    return moet_nvtx_end(finish(added, add_config(added), subject));
}

moet_status moet_bench_add_launcher(moet_bench *bench, const char *name, moet_bench_launcher launcher, void *context,
                                    bool capturable, bool device_counts, int32_t *subject)
{
    moet_subject *added;
    if (is_path(bench)) return moet_fail(MOET_INVALID, "bench: %s launches no op ffn", name);
    MOET_TRY(new_subject(bench, name, device_counts, &added));
    added->launcher = launcher;
    added->launcher_context = context;
    added->runner.launch = launch_launcher;
    moet_subject_begin_range(added);
    return moet_nvtx_end(finish(added, admit(added, capturable), subject));
}

moet_status moet_bench_add_path_launcher(moet_bench *bench, const char *name, moet_bench_path_launcher launcher,
                                         void *context, bool capturable, bool device_counts, int32_t *subject)
{
    moet_subject *added;
    if (!is_path(bench)) return moet_fail(MOET_INVALID, "bench: %s launches op ffn only", name);
    MOET_TRY(new_subject(bench, name, device_counts, &added));
    added->path_launcher = launcher;
    added->launcher_context = context;
    added->runner.launch = launch_path_launcher;
    moet_subject_begin_range(added);
    return moet_nvtx_end(finish(added, admit(added, capturable), subject));
}

void moet_bench_retire(moet_bench *bench, int32_t subject) { release_kernel(bench->subjects[subject]); }

int64_t moet_bench_launch_ns(const moet_bench *bench, int32_t subject)
{
    return (int64_t)llround(bench->subjects[subject]->call_us * 1e3);
}

void moet_bench_set_racing(moet_bench *bench, bool is_racing)
{
    if (bench->is_racing == is_racing) return;
    bench->is_racing = is_racing;
    for (int32_t i = 0; i < bench->subject_count; i++) {
        moet_runner_release(bench, &bench->subjects[i]->runner);
        bench->subjects[i]->is_prepared = false;
    }
}

bool moet_bench_active(const moet_bench *bench, int32_t subject) { return bench->subjects[subject]->active; }

int32_t moet_bench_subject_count(const moet_bench *bench) { return bench->subject_count; }

/* ---- rounds ---- */

/* One entrant of a round: a subject, or a ceiling. */
typedef struct entrant {
    moet_subject *subject; /* NULL: ceiling */
    int32_t ceiling;
    moet_sample sample;
} entrant;

static void shuffle(moet_bench *bench, entrant *entrants, int32_t count)
{
    for (int32_t i = count - 1; i > 0; i--) {
        int32_t j = (int32_t)(moet_xorshift(&bench->order_state) % (uint64_t)(i + 1));
        entrant swapped = entrants[i];
        entrants[i] = entrants[j];
        entrants[j] = swapped;
    }
}

/* Times every entrant once. A subject that fails leaves the bench; *slowed says that hardware held the clocks down. */
static moet_status time_entrants(moet_bench *bench, entrant *entrants, int32_t count, bool *slowed)
{
    *slowed = false;
    for (int32_t i = 0; i < count; i++) {
        moet_subject *subject = entrants[i].subject;
        if (subject && !subject->active) continue; /* failed in the round that is being repeated */
        if (subject && !subject->is_prepared) {
            moet_subject_begin_range(subject);
            MOET_TRY(moet_nvtx_end(prepare_runner(subject)));
            if (subject->trial.status != MOET_TRIAL_OK) {
                release_kernel(subject);
                continue;
            }
        }
        moet_bench_step(bench, subject, subject ? MOET_STEP_TIME : MOET_STEP_BENCH);
        moet_runner *runner = subject ? &subject->runner : moet_ceiling_runner(bench->ceilings, entrants[i].ceiling);
        int32_t sm_mhz = 0;
        if (subject) moet_subject_begin_range(subject);
        moet_status status = moet_runner_sample(bench, runner, &entrants[i].sample.time_ns, &sm_mhz);
        if (subject) moet_nvtx_end(status);
        if (status != MOET_OK && subject) {
            status = leave_bench(subject, fail_subject(subject, status, MOET_TRIAL_FAILED));
            if (status == MOET_OK) continue;
        }
        if (status != MOET_OK) return status;
        MOET_TRY(bench->device->backend->clocks(bench->device, &entrants[i].sample.clocks));
        if (sm_mhz > 0) entrants[i].sample.clocks.sm_mhz = sm_mhz; /* a driver tells it some milliseconds late */
        *slowed = *slowed || entrants[i].sample.clocks.hardware_slowdown;
    }
    return MOET_OK;
}

moet_status moet_bench_launch_again(moet_bench *bench, int32_t subject)
{
    moet_subject *s = bench->subjects[subject];
    double again_us = 0;
    moet_bench_step(bench, s, MOET_STEP_VERIFY);
    moet_status status = moet_launch_once(bench, &s->runner, &again_us);
    if (status != MOET_OK) return leave_bench(s, fail_subject(s, status, MOET_TRIAL_FAILED));
    s->call_us = fmin(s->call_us, again_us);
    return MOET_OK;
}

moet_sample moet_bench_launch_sample(const moet_bench *bench, int32_t subject)
{
    int64_t medians_ns[MOET_CEILING_COUNT] = {0};
    if (bench->ceilings) moet_ceiling_medians(bench->ceilings, medians_ns);
    return (moet_sample){.round = bench->round,
                         .time_ns = moet_bench_launch_ns(bench, subject),
                         .dense_ns = medians_ns[0],
                         .dense2_ns = medians_ns[1],
                         .copy_ns = medians_ns[2],
                         .read_ns = medians_ns[3]};
}

static moet_status keep_round(moet_bench *bench, const entrant *entrants, int32_t count)
{
    int64_t ceilings_ns[MOET_CEILING_COUNT] = {0};
    for (int32_t i = 0; i < count; i++) {
        if (!entrants[i].subject) ceilings_ns[entrants[i].ceiling] = entrants[i].sample.time_ns;
    }
    if (bench->ceilings) moet_ceiling_push(bench->ceilings, ceilings_ns);
    for (int32_t i = 0; i < count; i++) {
        if (!entrants[i].subject || !entrants[i].subject->active) continue;
        moet_sample sample = entrants[i].sample;
        sample.round = bench->round;
        sample.dense_ns = ceilings_ns[0];
        sample.dense2_ns = ceilings_ns[1];
        sample.copy_ns = ceilings_ns[2];
        sample.read_ns = ceilings_ns[3];
        MOET_TRY(moet_trial_push(&entrants[i].subject->trial, &sample, &entrants[i].subject->sample_capacity));
    }
    bench->round++;
    return MOET_OK;
}

static moet_status run_round(moet_bench *bench, bool with_subjects)
{
    int32_t count = 0;
    entrant *entrants = malloc((size_t)(bench->subject_count + MOET_CEILING_COUNT) * sizeof *entrants);
    if (!entrants) return moet_fail(MOET_NO_MEMORY, "bench: out of host memory");
    for (int32_t i = 0; with_subjects && i < bench->subject_count; i++) {
        if (bench->subjects[i]->active) entrants[count++] = (entrant){.subject = bench->subjects[i]};
    }
    for (int32_t i = 0; bench->ceilings && i < MOET_CEILING_COUNT; i++) entrants[count++] = (entrant){.ceiling = i};
    bool slowed = false;
    moet_status status = MOET_OK;
    for (int32_t i = 0; i < MOST_REPEATS; i++) {
        if (i > 0) nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL); /* lets it cool */
        shuffle(bench, entrants, count);
        status = time_entrants(bench, entrants, count, &slowed);
        if (status != MOET_OK || !slowed) break;
    }
    if (status == MOET_OK && slowed)
        status = moet_fail(MOET_TIMEOUT,
                           "the hardware slowed its clocks down in %d rounds running (heat or power): check "
                           "cooling and power supply, then run the command again",
                           MOST_REPEATS);
    if (status == MOET_OK) status = keep_round(bench, entrants, count);
    free(entrants);
    return status;
}

moet_status moet_bench_round(moet_bench *bench) { return run_round(bench, true); }

moet_status moet_bench_sustain(moet_bench *bench, int32_t subject, int64_t time_ns)
{
    moet_subject *s = bench->subjects[subject];
    moet_bench_step(bench, s, MOET_STEP_TIME);
    moet_status status = moet_runner_sustain(bench, &s->runner, time_ns);
    return status == MOET_OK ? MOET_OK : leave_bench(s, fail_subject(s, status, MOET_TRIAL_FAILED));
}

void moet_bench_clear_samples(moet_bench *bench)
{
    for (int32_t i = 0; i < bench->subject_count; i++) bench->subjects[i]->trial.sample_count = 0;
}

moet_status moet_bench_ceilings(moet_bench *bench, int32_t rounds, moet_ceilings *ceilings)
{
    int64_t medians_ns[MOET_CEILING_COUNT];
    if (!bench->ceilings) return moet_fail(MOET_INVALID, "bench: made without ceilings");
    for (int32_t i = 0; i < rounds; i++) MOET_TRY(run_round(bench, false));
    const moet_ceiling_work work = moet_ceiling_set_work(bench->ceilings);
    moet_ceiling_medians(bench->ceilings, medians_ns);
    *ceilings = moet_ceiling_rates(&work, medians_ns);
    return MOET_OK;
}

/* ---- reading ---- */

int64_t moet_bench_median_ns(const moet_bench *bench, int32_t subject)
{
    return moet_trial_median_ns(&bench->subjects[subject]->trial);
}

int64_t moet_bench_noise_ns(const moet_bench *bench, int32_t subject)
{
    return moet_trial_noise_ns(&bench->subjects[subject]->trial);
}

const moet_trial *moet_bench_view(const moet_bench *bench, int32_t subject) { return &bench->subjects[subject]->trial; }

moet_ceiling_work moet_bench_ceiling_work(const moet_bench *bench)
{
    return bench->ceilings ? moet_ceiling_set_work(bench->ceilings) : (moet_ceiling_work){0};
}

moet_status moet_bench_trial(const moet_bench *bench, int32_t subject, moet_trial *trial)
{
    const moet_ceiling_work work = moet_bench_ceiling_work(bench);
    double flops, bytes;
    moet_trial result;
    MOET_TRY(moet_trial_copy(&bench->subjects[subject]->trial, &result));
    moet_bench_work(bench, &flops, &bytes);
    moet_trial_derive(&result, &work, flops, bytes);
    *trial = result;
    return MOET_OK;
}
