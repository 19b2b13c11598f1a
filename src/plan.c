/* plan: a handle (device and table), and plans that hold every prepared configuration a launch may choose. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "counts.h"
#include "record.h"

static const char *const op_texts[] = {
#define MOET_X(name, text) text,
    MOET_OP_TABLE(MOET_X)
#undef MOET_X
};

/* ---- handle ---- */

moet_status moet_open(const char *table_dir, const char *device, moet_handle **handle)
{
    MOET_NEED(handle);
    const char *override = getenv("MOET_TABLE");
    bool overridden = override && *override;
    if (overridden) table_dir = strcmp(override, "off") == 0 ? NULL : override;
    moet_handle *result = calloc(1, sizeof *result);
    if (!result) return moet_fail(MOET_NO_MEMORY, "moet_open: out of memory");
    pthread_mutex_init(&result->record_mutex, NULL);
    moet_status status = moet_device_open(device ? device : "auto", &result->device);
    if (status != MOET_OK) goto done;
    if (table_dir) {
        result->table_dir = strdup(table_dir);
        status = result->table_dir ? moet_table_load(table_dir, result->device, &result->table)
                                   : moet_fail(MOET_NO_MEMORY, "moet_open: out of memory");
    }
done:
    if (status != MOET_OK) {
        /* The device's errors are not the table's. */
        if (overridden && result->device) status = moet_fail(status, "%s (from MOET_TABLE)", moet_last_error());
        moet_close(result);
        return status;
    }
    *handle = result;
    return MOET_OK;
}

void moet_close(moet_handle *handle)
{
    if (!handle) return;
    moet_table_close(handle->table);
    if (handle->counts_table) handle->counts_table->destroy(handle->counts);
    moet_device_close(handle->device);
    for (int32_t i = 0; i < handle->late_count; i++) free(handle->late[i]);
    free(handle->late);
    moet_record_stop(handle);
    pthread_mutex_destroy(&handle->record_mutex);
    free(handle->table_dir);
    free(handle);
}

int32_t moet_entry_count(const moet_handle *handle) { return handle->table ? handle->table->entry_count : 0; }

int32_t moet_refusal_count(const moet_handle *handle)
{
    return (handle->table ? handle->table->refusal_count : 0) + handle->late_count;
}

const char *moet_refusal(const moet_handle *handle, int32_t index)
{
    int32_t early = handle->table ? handle->table->refusal_count : 0;
    if (index < 0 || index >= moet_refusal_count(handle)) return "";
    return index < early ? handle->table->refusals[index] : handle->late[index - early];
}

const char *moet_device_key(const moet_handle *handle) { return handle->device->key; }

/* Remembers what does not serve, once. */
__attribute__((format(printf, 2, 3))) static void refuse_late(moet_handle *handle, const char *format, ...)
{
    char line[MOET_CONFIG_SIZE + MOET_REASON_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    for (int32_t i = 0; i < handle->late_count; i++) {
        if (strcmp(handle->late[i], line) == 0) return;
    }
    char **grown = realloc(handle->late, ((size_t)handle->late_count + 1) * sizeof *grown);
    char *copy = grown ? strdup(line) : NULL;
    if (grown) handle->late = grown;
    if (copy) handle->late[handle->late_count++] = copy;
}

/* The table has nothing for a problem: where that is for a field's sake, and may be a slip, it is said. */
static void refuse_alike(moet_handle *handle, const moet_problem *problem)
{
    const moet_table_problem *alike = moet_table_find_alike(handle->table, problem);
    char has[MOET_KEY_SIZE], asked[MOET_KEY_SIZE];
    if (!alike) return;
    moet_problem_differences(&alike->problem, problem, has);
    moet_problem_differences(problem, &alike->problem, asked);
    refuse_late(handle, "op=%s,experts=%d,hidden=%d,inter=%d: the table has %.200s; the plan asks %.200s",
                op_texts[problem->op], problem->experts, problem->hidden, problem->inter, has, asked);
}

/* ---- plan ---- */

/* Zeros that stand for something become it. */
static void resolve_options(const moet_problem *problem, moet_plan_options *options)
{
    if (problem->op == MOET_OP_FFN && options->max_rows == 0) {
        const int64_t width = options->choices < problem->experts ? options->choices : problem->experts;
        options->max_rows = options->max_tokens * width;
    }
    if (options->expected_rows == 0) options->expected_rows = options->max_rows;
    if (options->expected_max_over_mean == 0) options->expected_max_over_mean = 1;
}

static moet_status validate_path_options(const moet_plan_options *options)
{
    if (options->max_tokens < 1 || options->max_tokens > MOET_MAX_ROWS)
        return moet_fail(MOET_INVALID, "plan: max_tokens is %lld, must be 1 to %d", (long long)options->max_tokens,
                         MOET_MAX_ROWS);
    if (options->choices < 1 || options->choices > MOET_MAX_CHOICES)
        return moet_fail(MOET_INVALID, "plan: choices is %d, must be 1 to %d", options->choices, MOET_MAX_CHOICES);
    return MOET_OK;
}

static moet_status validate_options(const moet_plan_options *options)
{
    if (options->max_rows < 1 || options->max_rows > MOET_MAX_ROWS)
        return moet_fail(MOET_INVALID, "plan: max_rows is %lld, must be 1 to %d", (long long)options->max_rows,
                         MOET_MAX_ROWS);
    if (options->max_sms < 0)
        return moet_fail(MOET_INVALID, "plan: max_sms is %d, must be 0 or more", options->max_sms);
    if (options->expected_rows < 0 || options->expected_rows > options->max_rows)
        return moet_fail(MOET_INVALID, "plan: expected_rows is %lld, must be 0 to max_rows (%lld)",
                         (long long)options->expected_rows, (long long)options->max_rows);
    if (!(options->expected_max_over_mean == 0 ||
          (options->expected_max_over_mean >= 1 && options->expected_max_over_mean <= MOET_MAX_EXPERTS)))
        return moet_fail(MOET_INVALID, "plan: expected_max_over_mean is %g, must be 0 or 1 to %d",
                         options->expected_max_over_mean, MOET_MAX_EXPERTS);
    return MOET_OK;
}

static int32_t find_prepared(const moet_plan *plan, const moet_config *config)
{
    for (int32_t i = 0; i < plan->prepared_count; i++) {
        if (moet_config_equal(&plan->prepared[i].config, config)) return i;
    }
    return -1;
}

/* What a table knows of a configuration beside its text. */
typedef struct prepared_from {
    const moet_cubin *const *cubins;
    int32_t cubin_count;
    const moet_algorithm *algorithms;
    int32_t algorithm_count;
} prepared_from;

/* Prepares a configuration and appends it; the array has room. */
static moet_status prepare(moet_plan *plan, const moet_config *config, const prepared_from *from, int32_t *index)
{
    moet_device *device = plan->handle->device;
    char why[MOET_REASON_SIZE];
    if (!config->family->applicable(&plan->problem, config, &device->info, why))
        return moet_fail(MOET_UNSUPPORTED, "%s", why);
    moet_traits traits = config->family->traits(&plan->problem, config);
    if (plan->options.device_counts ? !traits.device_counts : !traits.host_counts)
        return moet_fail(MOET_UNSUPPORTED, "%s takes no counts from %s memory", config->family->name,
                         plan->options.device_counts ? "device" : "host");
    moet_prepare_args args = {.device = device,
                              .problem = &plan->problem,
                              .config = config,
                              .max_rows = plan->options.max_rows,
                              .max_tokens = plan->options.max_tokens,
                              .choices = plan->options.choices,
                              .max_sms = plan->options.max_sms,
                              .device_counts = plan->options.device_counts,
                              .cubin_count = from->cubin_count,
                              .algorithm_count = from->algorithm_count,
                              .algorithms = from->algorithms};
    for (int32_t i = 0; i < from->cubin_count; i++) args.cubins[i] = from->cubins[i];
    void *state = NULL;
    MOET_TRY(config->family->prepare(&args, &state));
    size_t bytes = config->family->workspace_bytes(&args);
    if (bytes > plan->workspace_bytes) plan->workspace_bytes = bytes;
    char text[MOET_CONFIG_SIZE];
    moet_config_format(config, text);
    plan->prepared[plan->prepared_count] =
        (moet_prepared){.config = *config, .state = state, .text = moet_nvtx_register(text)};
    *index = plan->prepared_count++;
    return MOET_OK;
}

static moet_status prepare_tuned(moet_plan *plan)
{
    for (int32_t i = 0; i < plan->tuned->point_count; i++) {
        const moet_table_winner *winner = &plan->tuned->points[i].winner[plan->kind];
        plan->point_prepared[i] = -1;
        if (!winner->present) continue;
        int32_t index = find_prepared(plan, &winner->config);
        if (index < 0) {
            const prepared_from from = {winner->cubins, winner->cubin_count, winner->algorithms,
                                        winner->algorithm_count};
            moet_status status = prepare(plan, &winner->config, &from, &index);
            if (status == MOET_NO_MEMORY || status == MOET_DEVICE) return status;
            if (status != MOET_OK) {
                char text[MOET_CONFIG_SIZE];
                moet_config_format(&winner->config, text);
                refuse_late(plan->handle, "%s: %.200s", text, moet_last_error());
                /* Remembered as unusable, so that it is tried once. */
                plan->prepared[plan->prepared_count] = (moet_prepared){.config = winner->config};
                index = plan->prepared_count++;
            }
        }
        if (plan->prepared[index].state) plan->point_prepared[i] = index;
    }
    return MOET_OK;
}

/* The first family whose default applies and can be prepared here. */
static moet_status prepare_default(moet_plan *plan)
{
    const moet_device_info *device = &plan->handle->device->info;
    const bool device_counts = plan->options.device_counts;
    const int64_t rows = plan->options.expected_rows;
    char reasons[600] = "";
    size_t used = 0;
    for (int32_t i = 0; moet_families[i]; i++) {
        const moet_family *family = moet_families[i];
        moet_config config = {.family = family};
        char why[MOET_REASON_SIZE];
        if (strcmp(family->backend, device->backend) != 0 || !moet_family_serves(family, plan->problem.op)) continue;
        family->default_config(&plan->problem, rows, device, &config);
        moet_traits traits = family->traits(&plan->problem, &config);
        if (device_counts ? !traits.device_counts : !traits.host_counts) continue;
        int32_t index = find_prepared(plan, &config);
        if (index >= 0 && plan->prepared[index].state) {
            plan->fallback = index;
            return MOET_OK;
        }
        moet_status status = MOET_UNSUPPORTED;
        if (family->applicable(&plan->problem, &config, device, why)) {
            const moet_table *table = plan->handle->table;
            const moet_cubin *cubins[MOET_MAX_CUBINS];
            int32_t count =
                table ? moet_table_default_cubins(table, &plan->problem, &config, plan->handle->device, cubins) : 0;
            status = prepare(plan, &config, &(prepared_from){.cubins = cubins, .cubin_count = count}, &plan->fallback);
            if (status == MOET_OK) return MOET_OK;
            if (status == MOET_NO_MEMORY || status == MOET_NO_DEVICE_MEMORY || status == MOET_DEVICE) return status;
            snprintf(why, sizeof why, "%.200s", moet_last_error());
        }
        if (used < sizeof reasons)
            used += (size_t)snprintf(reasons + used, sizeof reasons - used, "%s%s: %s", used ? "; " : "", family->name,
                                     why);
    }
    /* A tuned configuration answers where the family defaults cannot. */
    for (int32_t i = 0; i < plan->prepared_count; i++) {
        if (plan->prepared[i].state) {
            plan->fallback = i;
            return MOET_OK;
        }
    }
    return moet_fail(
        MOET_UNSUPPORTED,
        "no kernel can serve this problem on %s: tune a table for this device, or make a vendor library or "
        "NVRTC loadable (%s)",
        device->name, used ? reasons : "no family takes these counts");
}

moet_status moet_plan_create(moet_handle *handle, const moet_problem *problem, const moet_plan_options *options,
                             moet_plan **plan)
{
    MOET_NEED(handle);
    MOET_NEED(problem);
    MOET_NEED(options);
    MOET_NEED(plan);
    MOET_TRY(moet_problem_validate(problem));
    moet_plan_options resolved = *options;
    if (problem->op == MOET_OP_FFN) MOET_TRY(validate_path_options(options));
    resolve_options(problem, &resolved);
    if (options->max_rows == 0 && resolved.max_rows > MOET_MAX_ROWS)
        return moet_fail(MOET_INVALID,
                         "plan: max_tokens %lld may have %lld rows, at most %d are served: say max_rows, how many "
                         "there will be at most",
                         (long long)options->max_tokens, (long long)resolved.max_rows, MOET_MAX_ROWS);
    MOET_TRY(validate_options(&resolved));
    MOET_TRY(moet_handle_enter(handle));
    moet_plan *result = calloc(1, sizeof *result);
    if (!result) return moet_fail(MOET_NO_MEMORY, "plan: out of memory");
    result->handle = handle;
    result->problem = *problem;
    result->options = resolved;
    result->kind = options->device_counts ? MOET_TABLE_DEVICE_COUNTS : MOET_TABLE_ANY;
    result->tuned = handle->table ? moet_table_find(handle->table, problem) : NULL;
    result->is_foreign = handle->table && !result->tuned && moet_table_is_foreign(handle->table, problem);
    if (handle->table && !result->tuned) refuse_alike(handle, problem);

    moet_status status = MOET_NO_MEMORY;
    size_t points = result->tuned ? (size_t)result->tuned->point_count : 0, families = 0;
    while (moet_families[families]) families++;
    result->prepared = calloc(points + families, sizeof *result->prepared);
    result->point_prepared = calloc(points + 1, sizeof *result->point_prepared);
    if (!result->prepared || !result->point_prepared) {
        moet_fail(MOET_NO_MEMORY, "plan: out of memory");
        goto done;
    }
    if (result->tuned && (status = prepare_tuned(result)) != MOET_OK) goto done;
    if ((status = prepare_default(result)) != MOET_OK) goto done;
    if (result->tuned && (status = moet_lookup_create(result, &result->lookup)) != MOET_OK) goto done;
    if (resolved.device_counts) moet_plan_choose(result, resolved.expected_rows, resolved.expected_max_over_mean);
    if (result->workspace_bytes)
        status = handle->device->backend->alloc(handle->device, result->workspace_bytes, &result->workspace);
done:
    if (status != MOET_OK) {
        moet_plan_destroy(result);
        return status;
    }
    *plan = result;
    return MOET_OK;
}

void moet_plan_destroy(moet_plan *plan)
{
    if (!plan) return;
    for (int32_t i = 0; plan->prepared && i < plan->prepared_count; i++) {
        if (plan->prepared[i].state) plan->prepared[i].config.family->release(plan->prepared[i].state);
    }
    plan->handle->device->backend->free(plan->handle->device, plan->workspace);
    free(plan->prepared);
    free(plan->point_prepared);
    moet_lookup_destroy(plan->lookup);
    free(plan);
}

size_t moet_plan_workspace_bytes(const moet_plan *plan) { return plan->workspace ? plan->workspace_bytes : 0; }

/* ---- launch ---- */

static moet_decision decide(const moet_plan *plan, const int32_t *counts, const moet_routing *routing)
{
    if (plan->lookup && routing->rows > 0) return moet_lookup_decide(plan->lookup, counts, routing);
    return (moet_decision){
        .prepared = &plan->prepared[plan->fallback], .hit = MOET_HIT_DEFAULT, .is_refused = plan->is_foreign};
}

void moet_plan_choose(moet_plan *plan, int64_t rows, double max_over_mean)
{
    plan->expected = decide(plan, NULL,
                            &(moet_routing){.experts = plan->problem.experts,
                                            .active = plan->problem.experts,
                                            .rows = rows,
                                            .tokens = rows,
                                            .max_over_mean = max_over_mean});
}

moet_status moet_plan_decide(const moet_plan *plan, const int32_t *counts, moet_routing *routing, moet_decision *d)
{
    if (plan->options.device_counts) {
        *routing = (moet_routing){.rows = plan->options.max_rows};
        *d = plan->expected;
        return MOET_OK;
    }
    if (!counts) return moet_fail(MOET_INVALID, "counts are NULL");
    MOET_TRY(moet_routing_summarize(counts, plan->problem.experts, routing));
    if (routing->rows > plan->options.max_rows)
        return moet_fail(MOET_INVALID, "counts sum to %lld rows, the plan was made for at most %lld",
                         (long long)routing->rows, (long long)plan->options.max_rows);
    *d = decide(plan, counts, routing);
    return MOET_OK;
}

/* No read-modify-write: one thread at a time launches a handle's plans. */
static void tally(moet_tally *tally, moet_answer answer)
{
    _Atomic int64_t *count = &tally->answers[answer];
    atomic_store_explicit(count, atomic_load_explicit(count, memory_order_relaxed) + 1, memory_order_relaxed);
}

void moet_plan_count(moet_plan *plan, const moet_decision *d)
{
    static const moet_answer answers[MOET_HIT_COUNT] = {[MOET_HIT_EXACT] = MOET_ANSWER_EXACT,
                                                        [MOET_HIT_NEAREST] = MOET_ANSWER_NEAREST,
                                                        [MOET_HIT_DEFAULT] = MOET_ANSWER_DEFAULT};
    const moet_answer answer = d->is_refused ? MOET_ANSWER_REFUSED : answers[d->hit];
    tally(&plan->tally, answer);
    tally(&plan->handle->tally, answer);
}

static moet_stats read_tally(const moet_tally *tally)
{
    int64_t count[MOET_ANSWER_COUNT];
    for (moet_answer i = 0; i < MOET_ANSWER_COUNT; i++)
        count[i] = atomic_load_explicit(&tally->answers[i], memory_order_relaxed);
    return (moet_stats){.exact = count[MOET_ANSWER_EXACT],
                        .nearest = count[MOET_ANSWER_NEAREST],
                        .fallback = count[MOET_ANSWER_DEFAULT],
                        .refused = count[MOET_ANSWER_REFUSED]};
}

void moet_stats_read(const moet_handle *handle, moet_stats *stats) { *stats = read_tally(&handle->tally); }

void moet_plan_stats_read(const moet_plan *plan, moet_stats *stats) { *stats = read_tally(&plan->tally); }

moet_status moet_launch(moet_plan *plan, const moet_launch_args *args)
{
    MOET_NEED(plan);
    MOET_NEED(args);
    moet_routing routing;
    moet_decision d;
    if (plan->problem.op == MOET_OP_FFN)
        return moet_fail(MOET_INVALID, "moet_launch: a plan of op ffn is launched by moet_ffn");
    if (plan->options.device_counts && !args->counts) return moet_fail(MOET_INVALID, "moet_launch: counts are NULL");
    MOET_TRY(moet_plan_decide(plan, args->counts, &routing, &d));
    if (routing.rows == 0) return MOET_OK;
    if (!args->x || !args->w || !args->out || (plan->problem.bias && !args->bias))
        return moet_fail(MOET_INVALID, "moet_launch: x, w, out or the problem's bias is NULL");
    if (((uintptr_t)args->x | (uintptr_t)args->w | (uintptr_t)args->out | (uintptr_t)args->bias) & 15)
        return moet_fail(MOET_INVALID, "moet_launch: x, w, bias and out must be 16-byte aligned");
    if (args->out == args->x)
        return moet_fail(MOET_INVALID, "moet_launch: out is x, which is read while it is written");
    MOET_TRY(moet_handle_enter(plan->handle));
    moet_family_launch_args launch = {.x = args->x,
                                      .w = args->w,
                                      .bias = plan->problem.bias ? args->bias : NULL,
                                      .out = args->out,
                                      .counts = args->counts,
                                      .counts_on_device = plan->options.device_counts,
                                      .rows = routing.rows,
                                      .workspace = plan->workspace,
                                      .stream = args->stream};
    moet_plan_count(plan, &d);
    moet_record_launch(plan, args->counts, &routing, 0, &d);
    moet_nvtx_begin(MOET_NVTX_LAUNCH, d.prepared->text, routing.rows);
    moet_nvtx_begin(plan->problem.op == MOET_OP_UP ? MOET_NVTX_UP : MOET_NVTX_DOWN, NULL, routing.rows);
    return moet_nvtx_end(moet_nvtx_end(d.prepared->config.family->launch(d.prepared->state, &launch)));
}

const char *moet_hit_name(moet_hit hit)
{
    static const char *const names[] = {
#define MOET_X(name, text) text,
        MOET_HIT_TABLE(MOET_X)
#undef MOET_X
    };
    return (unsigned)hit < MOET_HIT_COUNT ? names[hit] : "unknown";
}

moet_status moet_plan_query(const moet_plan *plan, const int32_t *counts, moet_choice *choice)
{
    MOET_NEED(plan);
    MOET_NEED(choice);
    moet_routing routing;
    moet_decision d;
    MOET_TRY(moet_plan_decide(plan, counts, &routing, &d));
    *choice = (moet_choice){.hit = d.hit, .distance = d.distance};
    moet_config_format(&d.prepared->config, choice->config);
    choice->tuned_rows = d.point ? d.point->rows : 0;
    choice->tuned_time_us = (double)d.tuned_ns * 1e-3;
    return MOET_OK;
}

__attribute__((format(printf, 4, 5))) static bool append(char *text, size_t size, size_t *used, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text + *used, size - *used, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= size - *used) return false;
    *used += (size_t)n;
    return true;
}

/* As one word of a shell. */
static bool append_quoted(char *text, size_t size, size_t *used, const char *word)
{
    bool fits = append(text, size, used, "'");
    for (; fits && *word; word++) fits = append(text, size, used, *word == '\'' ? "'\\''" : "%c", *word);
    return fits && append(text, size, used, "'");
}

/* What the command line says of a path. */
static bool append_path(char *text, size_t size, size_t *used, const moet_problem *p)
{
    static const char *const activations[] = {
#define MOET_X(name, text) text,
        MOET_ACTIVATION_TABLE(MOET_X)};
    static const char *const probs[] = {MOET_PROB_TABLE(MOET_X)
#undef MOET_X
    };
    char key[MOET_KEY_SIZE]; /* its text of the clamp is one that is read back exactly */
    static const char field[] = ",clamp=";
    moet_problem_format(p, key);
    const char *clamp = strstr(key, field);
    bool fits = append(text, size, used, " --activation %s --prob %s", activations[p->activation], probs[p->prob]);
    if (p->combine == MOET_COMBINE_PADDLE) fits = fits && append(text, size, used, " --combine paddle");
    if (p->activation != MOET_ACTIVATION_SWIGLU_CLAMP || !clamp) return fits;
    clamp += strlen(field);
    return fits && append(text, size, used, " --clamp %.*s", (int)strcspn(clamp, ","), clamp);
}

/* Whether `moe-tune bench`, with the same table or none, would take the same configuration for a routing: its plan is
 * for so many rows, expects what counts in device memory say, and may have another default for it. */
static bool would_be_benched(const moet_plan *plan, const moet_routing *routing, const moet_decision *d)
{
    const bool device_counts = plan->options.device_counts;
    moet_config fallback;
    if (device_counts && decide(plan, NULL, routing).prepared != d->prepared) return false;
    if (d->hit != MOET_HIT_DEFAULT) return true;
    return moet_default_config(&plan->problem, routing->rows > 0 ? routing->rows : 1, device_counts,
                               &plan->handle->device->info, &fallback) == MOET_OK &&
           moet_config_equal(&fallback, &d->prepared->config);
}

moet_status moet_plan_replay_command(const moet_plan *plan, const int32_t *counts, char *text, size_t size)
{
    MOET_NEED(plan);
    MOET_NEED(text);
    const moet_problem *p = &plan->problem;
    moet_routing routing;
    moet_decision d;
    if (!counts) return moet_fail(MOET_INVALID, "moet_plan_replay_command: counts are NULL");
    MOET_TRY(moet_plan_decide(plan, counts, &routing, &d));
    MOET_TRY(moet_routing_summarize(counts, p->experts, &routing)); /* which those on the device are not, above */
    size_t used = 0;
    bool fits = size > 0 && append(text, size, &used,
                                   "echo '{\"name\":\"replay\",\"experts\":%d,\"hidden\":%d,\"inter\":%d,\"rows\":%lld,"
                                   "\"skew\":\"recorded\",\"counts\":[",
                                   p->experts, p->hidden, p->inter, (long long)routing.rows);
    for (int32_t e = 0; fits && e < p->experts; e++) fits = append(text, size, &used, "%s%d", e ? "," : "", counts[e]);
    const moet_device *device = plan->handle->device;
    fits = fits && append(text, size, &used, "]}' | moe-tune bench --device %s", device->backend->name);
    if (strcmp(device->backend->name, "host") != 0) fits = fits && append(text, size, &used, ":%d", device->ordinal);
    char config[MOET_CONFIG_SIZE];
    moet_config_format(&d.prepared->config, config);
    if (!would_be_benched(plan, &routing, &d))
        fits = fits && append(text, size, &used, " --config %s", config);
    else if (plan->handle->table_dir)
        fits =
            fits && append(text, size, &used, " --table ") && append_quoted(text, size, &used, plan->handle->table_dir);
    else
        fits = fits && append(text, size, &used, " --default");
    const bool is_path = p->op == MOET_OP_FFN;
    const char *bias = !p->bias && !(is_path && p->down_bias) ? ""
                       : is_path && !p->down_bias             ? " --bias=up"
                       : is_path && !p->bias                  ? " --bias=down"
                                                              : " --bias";
    fits =
        fits && append(text, size, &used, " --workloads - --ops %s --layout %s --numerics %s%s%s", op_texts[p->op],
                       p->layout == MOET_LAYOUT_NK ? "nk" : "kn", p->numerics == MOET_NUMERICS_TRAIN ? "train" : "fast",
                       bias, plan->options.device_counts ? " --device-counts" : "");
    if (is_path) fits = fits && append_path(text, size, &used, p);
    if (!fits)
        return moet_fail(MOET_INVALID, "moet_plan_replay_command: the command does not fit into %zu bytes", size);
    return MOET_OK;
}
