/* worker_serve.c: see worker_serve.h. */
#include "worker_serve.h"

#include <stdlib.h>
#include <string.h>

#include "libraries.h"
#include "message_trial.h"

#define CEILING_ROUNDS 5

static void watch_step(void *context, int32_t subject, moet_step step)
{
    moet_server *server = context;
    server->step_subject = subject;
    server->step = step;
    if (server->notify != NULL) {
        server->notify(server->notify_context, subject, step);
    }
}

static moet_status serve_open(moet_server *server, moet_message *body, moet_message *reply)
{
    char spec[64];
    int32_t count = 0;
    moet_libraries libraries;
    char libraries_text[1024];
    moet_message_take_text(body, spec, sizeof spec);
    MOET_TRY(moet_message_end(body, "open"));
    MOET_TRY(moet_device_open(spec, &server->device));
    MOET_TRY(server->device->backend->count(&count));
    moet_libraries_list(server->device, &libraries);
    moet_libraries_format(&libraries, libraries_text, sizeof libraries_text);
    moet_message_put(reply, &server->device->info, sizeof server->device->info);
    moet_message_put_text(reply, server->device->key);
    moet_message_put_int(reply, count);
    moet_message_put_text(reply, libraries_text);
    return MOET_OK;
}

static moet_status serve_begin(moet_server *server, moet_message *body, moet_message *reply)
{
    const uint64_t seed = (uint64_t)moet_message_take_int(body);
    moet_ceilings ceilings;
    MOET_TRY(moet_message_end(body, "begin"));
    MOET_TRY(moet_bench_create(server->device, seed, true, &server->bench));
    MOET_TRY(moet_bench_ceilings(server->bench, CEILING_ROUNDS, &ceilings));
    moet_bench_set_watch(server->bench, watch_step, server);
    const moet_ceiling_work work = moet_bench_ceiling_work(server->bench);
    moet_message_put(reply, &ceilings, sizeof ceilings);
    moet_message_put(reply, &work, sizeof work);
    return MOET_OK;
}

/* A valid problem, and its counts in an aligned copy, which the caller frees. */
static moet_status take_routing(moet_message *body, const char *what, moet_problem *problem, int32_t **counts)
{
    size_t counts_bytes;
    moet_message_take(body, problem, sizeof *problem);
    const void *bytes = moet_message_take_block(body, &counts_bytes);
    MOET_TRY(body->failed ? moet_message_end(body, what) : moet_problem_validate(problem));
    if (counts_bytes != (size_t)problem->experts * sizeof **counts) {
        return moet_fail(MOET_MALFORMED, "%s: %zu bytes of counts for %d experts", what, counts_bytes,
                         problem->experts);
    }
    int32_t *aligned = malloc(counts_bytes);
    if (aligned == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for a workload's counts");
    }
    memcpy(aligned, bytes, counts_bytes);
    *counts = aligned;
    return MOET_OK;
}

static moet_status serve_workload(moet_server *server, moet_message *body, moet_message *reply)
{
    moet_problem problem;
    int32_t *counts = NULL;
    double flops, bytes;
    MOET_TRY(take_routing(body, "workload", &problem, &counts));
    const int64_t tokens = moet_message_take_int(body);
    moet_status status = moet_message_end(body, "workload");
    if (status == MOET_OK) status = moet_bench_set_workload(server->bench, &problem, counts, tokens);
    free(counts);
    if (status != MOET_OK) {
        return status;
    }
    moet_bench_work(server->bench, &flops, &bytes);
    moet_message_put(reply, &flops, sizeof flops);
    moet_message_put(reply, &bytes, sizeof bytes);
    return MOET_OK;
}

static moet_status put_listed(void *context, const moet_config *config)
{
    char text[MOET_CONFIG_SIZE];
    moet_config_format(config, text);
    moet_message_put_int(context, true); /* another one */
    moet_message_put_text(context, text);
    return MOET_OK;
}

static moet_status serve_list(moet_server *server, moet_message *body, moet_message *reply)
{
    moet_problem problem;
    moet_config base;
    int32_t *counts = NULL;
    char text[MOET_CONFIG_SIZE];
    MOET_TRY(take_routing(body, "list", &problem, &counts));
    moet_message_take_text(body, text, sizeof text);
    const int64_t limit = moet_message_take_int(body);
    moet_status status = moet_message_end(body, "list");
    if (status == MOET_OK) status = moet_config_parse(text, &base);
    if (status == MOET_OK)
        status = moet_bench_list(server->bench, &problem, counts, &base, (int32_t)limit, put_listed, reply);
    free(counts);
    moet_message_put_int(reply, false);
    return status;
}

static moet_status serve_racing(moet_server *server, moet_message *body, moet_message *reply)
{
    (void)reply;
    const bool is_racing = moet_message_take_int(body) != 0;
    MOET_TRY(moet_message_end(body, "racing"));
    moet_bench_set_racing(server->bench, is_racing);
    return MOET_OK;
}

/* A subject's state but for samples and cubins; the time of its verified launch, as a sample. */
static void put_trial(const moet_server *server, int32_t subject, moet_message *reply)
{
    const moet_trial *trial = moet_bench_view(server->bench, subject);
    const moet_sample launch = moet_bench_launch_sample(server->bench, subject);
    moet_message_put_int(reply, moet_bench_active(server->bench, subject));
    moet_message_put_int(reply, trial->status);
    moet_message_put_text(reply, trial->reason);
    moet_message_put_int(reply, trial->eager);
    moet_message_put(reply, &trial->error, sizeof trial->error);
    moet_message_put_text(reply, trial->bit_class);
    moet_message_put(reply, &launch, sizeof launch);
}

/* After an error that the bench cannot go on with, what its trial says of it is the error. */
static moet_status fail_step(const moet_server *server, moet_status status)
{
    const bool known = server->step_subject >= 0 && server->step_subject < moet_bench_subject_count(server->bench);
    const moet_trial *trial = known ? moet_bench_view(server->bench, server->step_subject) : NULL;
    if ((status == MOET_DEVICE || status == MOET_NO_MEMORY) && trial != NULL && trial->reason[0] != '\0') {
        moet_last_error_set("%s", trial->reason);
    }
    return status;
}

static moet_status serve_add(moet_server *server, moet_message *body, moet_message *reply)
{
    char text[MOET_CONFIG_SIZE];
    moet_config config;
    int32_t subject = -1;
    moet_message_take_text(body, text, sizeof text);
    const bool device_counts = moet_message_take_int(body) != 0;
    MOET_TRY(moet_message_end(body, "add"));
    MOET_TRY(moet_config_parse(text, &config));
    moet_status status = moet_bench_add_config(server->bench, &config, device_counts, &subject);
    if (status != MOET_OK) {
        return fail_step(server, status);
    }
    const moet_trial *trial = moet_bench_view(server->bench, subject);
    put_trial(server, subject, reply);
    moet_message_put_cubins(reply, trial);
    moet_message_put_algorithms(reply, trial);
    return MOET_OK;
}

static moet_status take_subject(moet_server *server, moet_message *body, const char *what, int32_t *subject)
{
    const int64_t value = moet_message_take_int(body);
    MOET_TRY(moet_message_end(body, what));
    if (value < 0 || value >= moet_bench_subject_count(server->bench)) {
        return moet_fail(MOET_MALFORMED, "%s: there is no subject %lld", what, (long long)value);
    }
    *subject = (int32_t)value;
    return MOET_OK;
}

static moet_status serve_again(moet_server *server, moet_message *body, moet_message *reply)
{
    int32_t subject = -1;
    MOET_TRY(take_subject(server, body, "again", &subject));
    moet_status status = moet_bench_launch_again(server->bench, subject);
    if (status != MOET_OK) {
        return fail_step(server, status);
    }
    put_trial(server, subject, reply);
    return MOET_OK;
}

static moet_status serve_round(moet_server *server, moet_message *body, moet_message *reply)
{
    moet_bench *bench = server->bench;
    int32_t total = moet_bench_subject_count(bench), count = 0;
    MOET_TRY(moet_message_end(body, "round"));
    int32_t *active = malloc((size_t)(total > 0 ? total : 1) * sizeof *active);
    if (active == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for a round");
    }
    for (int32_t i = 0; i < total; i++) {
        if (moet_bench_active(bench, i)) active[count++] = i;
    }
    moet_status status = moet_bench_round(bench);
    if (status != MOET_OK) {
        free(active);
        return fail_step(server, status);
    }
    moet_message_put_int(reply, count);
    for (int32_t i = 0; i < count; i++) {
        const moet_trial *trial = moet_bench_view(bench, active[i]);
        const bool has_sample = moet_bench_active(bench, active[i]) && trial->sample_count > 0;
        const moet_sample sample = has_sample ? trial->samples[trial->sample_count - 1] : (moet_sample){0};
        moet_message_put_int(reply, active[i]);
        put_trial(server, active[i], reply);
        moet_message_put(reply, &sample, sizeof sample);
    }
    free(active);
    moet_bench_clear_samples(bench); /* they are kept by the one who asked */
    return MOET_OK;
}

static moet_status serve_retire(moet_server *server, moet_message *body, moet_message *reply)
{
    (void)reply;
    int32_t subject = -1;
    MOET_TRY(take_subject(server, body, "retire", &subject));
    moet_bench_retire(server->bench, subject);
    return MOET_OK;
}

typedef moet_status (*request_handler)(moet_server *server, moet_message *body, moet_message *reply);
static const request_handler handlers[] = {
    [MOET_REQUEST_OPEN] = serve_open,     [MOET_REQUEST_BEGIN] = serve_begin,
    [MOET_REQUEST_LIST] = serve_list,     [MOET_REQUEST_WORKLOAD] = serve_workload,
    [MOET_REQUEST_RACING] = serve_racing, [MOET_REQUEST_ADD] = serve_add,
    [MOET_REQUEST_AGAIN] = serve_again,   [MOET_REQUEST_ROUND] = serve_round,
    [MOET_REQUEST_RETIRE] = serve_retire,
};
_Static_assert(MOET_COUNT_OF(handlers) == MOET_REQUEST_COUNT, "a handler for each request");

moet_status moet_server_handle(moet_server *server, uint32_t request, moet_message *body, moet_message *reply)
{
    const uint32_t first = server->device == NULL  ? MOET_REQUEST_OPEN
                           : server->bench == NULL ? MOET_REQUEST_BEGIN
                                                   : MOET_REQUEST_LIST;
    const uint32_t last = first == MOET_REQUEST_LIST ? MOET_REQUEST_COUNT - 1 : first;
    if (request < first || request > last) {
        return moet_fail(MOET_MALFORMED, "request %u is unknown, or out of turn", request);
    }
    server->step_subject = -1;
    server->step = MOET_STEP_BENCH;
    moet_status status = handlers[request](server, body, reply);
    if (status == MOET_OK && reply->failed) {
        status = moet_fail(MOET_NO_MEMORY, "no memory for a reply");
    }
    if (status != MOET_OK) {
        moet_message_release(reply);
    }
    return status;
}

void moet_server_release(moet_server *server)
{
    moet_bench_destroy(server->bench);
    moet_device_close(server->device);
    *server = (moet_server){0};
}
