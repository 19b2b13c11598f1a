/* worker.c: see worker.h. */
#include "worker.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "message_trial.h"
#include "worker_process.h"
#include "worker_serve.h"

#define MOST_UNEXPLAINED 3 /* losses in a row that are no candidate's */
#define CLOSE_NS 10000000000LL
#define CRASH_NS 2000000000LL /* what a process whose socket is closed may take to end by itself */

/* How many times the watchdog's time a step may take. The bench's own and a compiler take what they take; preparing may
 * load a vendor library for the first time. */
static const int32_t patience[MOET_STEP_COUNT] = {[MOET_STEP_BENCH] = 30,
                                                  [MOET_STEP_COMPILE] = 30,
                                                  [MOET_STEP_PREPARE] = 3,
                                                  [MOET_STEP_VERIFY] = 1,
                                                  [MOET_STEP_TIME] = 1};

typedef struct worker_subject {
    moet_config config;
    moet_trial trial; /* owned */
    int32_t sample_capacity;
    moet_sample launch;
    bool active;
    int32_t remote; /* its number in the process; -1: it is not there */
} worker_subject;

struct moet_worker {
    moet_worker_options options;
    int64_t watchdog_ns;
    /* where requests go */
    bool is_up;    /* and all of what follows is set up there */
    pid_t process; /* 0: none */
    int socket;
    moet_server local;    /* in_process */
    int32_t remote_count; /* subjects there */
    int32_t restarts;
    /* why it is no longer up */
    bool is_lost;     /* it, and not a request, failed */
    bool is_dead_end; /* and there is no other */
    moet_trial_status loss;
    char loss_reason[MOET_REASON_SIZE];
    int32_t unexplained; /* losses in a row that were no candidate's */
    int32_t step_subject;
    moet_step step;
    /* what the process found out */
    moet_device_info info;
    char key[MOET_DEVICE_KEY_SIZE];
    char libraries[1024];
    int32_t device_count;
    moet_ceilings ceilings;
    moet_ceiling_work ceiling_work;
    double flops, bytes; /* of the workload */
    /* what is to be set up */
    bool has_bench, has_workload, is_racing;
    moet_problem problem;
    int32_t *counts; /* owned */
    int64_t tokens;
    int32_t round;
    int32_t subject_count, subject_capacity;
    worker_subject *subjects;
};

/* ---- one request ---- */

/* The process is no longer of use: why, and the end of it. */
__attribute__((format(printf, 3, 4))) static void lose(moet_worker *w, moet_trial_status loss, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(w->loss_reason, sizeof w->loss_reason, format, args);
    va_end(args);
    w->loss = loss;
    w->is_lost = true;
    w->is_up = false;
}

/* Ends the process; how it ended, or why it does not. */
static void end_process(moet_worker *w, int64_t grace_ns, char *how)
{
    how[0] = '\0';
    if (w->process == 0) {
        return;
    }
    close(w->socket);
    if (moet_worker_end(w->process, grace_ns, how) != MOET_OK) {
        snprintf(how, MOET_REASON_SIZE, "%.250s", moet_last_error());
        w->is_dead_end = true;
    }
    w->process = 0;
    w->is_up = false;
}

/* The reply's body into *reply. On an error of receiving the process is lost. */
static moet_status wait_reply(moet_worker *w, moet_status *status, char *error, size_t error_size, moet_message *reply)
{
    for (;;) {
        uint32_t kind = 0;
        moet_message_release(reply);
        MOET_TRY(moet_message_receive(w->socket, moet_clock_ns() + patience[w->step] * w->watchdog_ns, &kind, reply));
        if (kind == MOET_SAYS_STEP) {
            const int64_t subject = moet_message_take_int(reply), step = moet_message_take_int(reply);
            MOET_TRY(moet_message_end(reply, "step"));
            if (step < 0 || step >= MOET_STEP_COUNT) {
                return moet_fail(MOET_MALFORMED, "step %lld is unknown", (long long)step);
            }
            w->step_subject = (int32_t)subject;
            w->step = (moet_step)step;
        } else if (kind == MOET_SAYS_REPLY) {
            const int64_t value = moet_message_take_int(reply);
            moet_message_take_text(reply, error, error_size);
            if (reply->failed || value < 0 || value >= MOET_STATUS_COUNT) {
                return moet_fail(MOET_MALFORMED, "a reply without a status");
            }
            *status = (moet_status)value;
            return MOET_OK;
        } else {
            return moet_fail(MOET_MALFORMED, "what was received is no reply");
        }
    }
}

static void lose_silent(moet_worker *w, moet_status status)
{
    char how[MOET_REASON_SIZE], error[MOET_REASON_SIZE];
    snprintf(error, sizeof error, "%.200s", moet_last_error());
    end_process(w, status == MOET_NOT_FOUND ? CRASH_NS : 0, how);
    if (status == MOET_TIMEOUT) {
        lose(w, MOET_TRIAL_TIMEOUT, "no end within %.0f s while %s: the watchdog ended its process",
             (double)w->watchdog_ns * patience[w->step] / 1e9, moet_step_name(w->step));
    } else if (status == MOET_NOT_FOUND) {
        lose(w, MOET_TRIAL_FAILED, "its process %.200s while %s", how, moet_step_name(w->step));
    } else {
        lose(w, MOET_TRIAL_FAILED, "its process spoke nonsense while %s: %.150s", moet_step_name(w->step), error);
    }
}

static moet_status request_process(moet_worker *w, moet_request request, const moet_message *body, moet_message *reply)
{
    moet_status answered = MOET_OK;
    char error[1024];
    moet_status status = moet_message_send(w->socket, request, body);
    if (status == MOET_OK) status = wait_reply(w, &answered, error, sizeof error, reply);
    if (status != MOET_OK) {
        lose_silent(w, status);
        return moet_fail(MOET_DEVICE, "%s", w->loss_reason);
    }
    return answered == MOET_OK ? MOET_OK : moet_fail(answered, "%s", error);
}

static moet_status request_here(moet_worker *w, moet_request request, moet_message *body, moet_message *reply)
{
    moet_status status = moet_server_handle(&w->local, request, body, reply);
    w->step_subject = w->local.step_subject;
    w->step = w->local.step;
    return status;
}

/* Releases the body. On an error w->is_lost tells whether it is the process's. */
static moet_status request(moet_worker *w, moet_request what, moet_message *body, moet_message *reply)
{
    w->step = MOET_STEP_BENCH;
    w->step_subject = -1;
    moet_status status = body->failed            ? moet_fail(MOET_NO_MEMORY, "no memory for a request")
                         : w->options.in_process ? request_here(w, what, body, reply)
                                                 : request_process(w, what, body, reply);
    moet_message_release(body);
    if (status != MOET_OK) moet_message_release(reply);
    /* An error that the bench there cannot go on with; not one in opening the device, which is final. */
    if ((status == MOET_DEVICE || (status == MOET_NO_MEMORY && w->step_subject >= 0)) && !w->is_lost &&
        what != MOET_REQUEST_OPEN) {
        char how[MOET_REASON_SIZE], error[MOET_REASON_SIZE];
        snprintf(error, sizeof error, "%.255s", moet_last_error());
        end_process(w, 0, how);
        lose(w, MOET_TRIAL_FAILED, "%s", error);
    }
    return status;
}

/* Ends a reply; what is no reply of ours loses the process. */
static moet_status end_reply(moet_worker *w, moet_message *reply, const char *what)
{
    char how[MOET_REASON_SIZE];
    moet_status status = moet_message_end(reply, what);
    moet_message_release(reply);
    if (status != MOET_OK) {
        end_process(w, 0, how);
        lose(w, MOET_TRIAL_FAILED, "its process spoke nonsense: %.200s", moet_last_error());
        status = moet_fail(MOET_DEVICE, "%s", w->loss_reason);
    }
    return status;
}

/* ---- what is asked ---- */

static moet_status ask_open(moet_worker *w)
{
    moet_message body = {0}, reply = {0};
    moet_device_info info;
    char key[MOET_DEVICE_KEY_SIZE], libraries[sizeof w->libraries];
    moet_message_put_text(&body, w->options.device);
    MOET_TRY(request(w, MOET_REQUEST_OPEN, &body, &reply));
    moet_message_take(&reply, &info, sizeof info);
    moet_message_take_text(&reply, key, sizeof key);
    const int64_t device_count = moet_message_take_int(&reply);
    moet_message_take_text(&reply, libraries, sizeof libraries);
    MOET_TRY(end_reply(w, &reply, "open"));
    if (w->key[0] != '\0' && strcmp(w->key, key) != 0) {
        return moet_fail(MOET_MISMATCH, "the device changed: it was '%s' and is '%s'", w->key, key);
    }
    w->info = info;
    w->device_count = (int32_t)device_count;
    memcpy(w->key, key, sizeof w->key);
    memcpy(w->libraries, libraries, sizeof w->libraries);
    const bool host = strcmp(info.backend, "host") == 0;
    w->watchdog_ns = w->options.watchdog_ns > 0 ? w->options.watchdog_ns
                                                : (host ? MOET_WATCHDOG_HOST_S : MOET_WATCHDOG_DEVICE_S) * 1000000000LL;
    return MOET_OK;
}

static moet_status ask_begin(moet_worker *w)
{
    moet_message body = {0}, reply = {0};
    moet_message_put_int(&body, (int64_t)w->options.seed);
    MOET_TRY(request(w, MOET_REQUEST_BEGIN, &body, &reply));
    moet_message_take(&reply, &w->ceilings, sizeof w->ceilings);
    moet_message_take(&reply, &w->ceiling_work, sizeof w->ceiling_work);
    return end_reply(w, &reply, "begin");
}

static moet_status ask_workload(moet_worker *w)
{
    moet_message body = {0}, reply = {0};
    moet_message_put(&body, &w->problem, sizeof w->problem);
    moet_message_put_block(&body, w->counts, (size_t)w->problem.experts * sizeof *w->counts);
    moet_message_put_int(&body, w->tokens);
    w->remote_count = 0;
    MOET_TRY(request(w, MOET_REQUEST_WORKLOAD, &body, &reply));
    moet_message_take(&reply, &w->flops, sizeof w->flops);
    moet_message_take(&reply, &w->bytes, sizeof w->bytes);
    return end_reply(w, &reply, "workload");
}

/* What was visited before a reply turned out to be none is the visitor's to forget. */
static moet_status ask_list(moet_worker *w, const moet_problem *problem, const int32_t *counts, const moet_config *base,
                            int32_t limit, moet_config_visit visit, void *context)
{
    moet_message body = {0}, reply = {0};
    moet_status status = MOET_OK;
    char text[MOET_CONFIG_SIZE];
    moet_config config;
    moet_config_format(base, text);
    moet_message_put(&body, problem, sizeof *problem);
    moet_message_put_block(&body, counts, (size_t)problem->experts * sizeof *counts);
    moet_message_put_text(&body, text);
    moet_message_put_int(&body, limit);
    MOET_TRY(request(w, MOET_REQUEST_LIST, &body, &reply));
    while (status == MOET_OK && moet_message_take_int(&reply) != 0) {
        moet_message_take_text(&reply, text, sizeof text);
        if (reply.failed) break;
        status = moet_config_parse(text, &config);
        if (status == MOET_OK) status = visit(context, &config);
    }
    if (status != MOET_OK) {
        moet_message_release(&reply);
        return status;
    }
    return end_reply(w, &reply, "list");
}

static moet_status ask_racing(moet_worker *w)
{
    moet_message body = {0}, reply = {0};
    moet_message_put_int(&body, w->is_racing);
    MOET_TRY(request(w, MOET_REQUEST_RACING, &body, &reply));
    return end_reply(w, &reply, "racing");
}

static void take_trial(moet_message *reply, worker_subject *s)
{
    s->active = moet_message_take_int(reply) != 0;
    const int64_t status = moet_message_take_int(reply);
    reply->failed = reply->failed || status < 0 || status >= MOET_TRIAL_STATUS_COUNT;
    s->trial.status = reply->failed ? MOET_TRIAL_FAILED : (moet_trial_status)status;
    moet_message_take_text(reply, s->trial.reason, sizeof s->trial.reason);
    s->trial.eager = moet_message_take_int(reply) != 0;
    moet_message_take(reply, &s->trial.error, sizeof s->trial.error);
    moet_message_take_text(reply, s->trial.bit_class, sizeof s->trial.bit_class);
    moet_message_take(reply, &s->launch, sizeof s->launch);
}

static moet_status ask_add(moet_worker *w, worker_subject *s)
{
    moet_message body = {0}, reply = {0};
    char text[MOET_CONFIG_SIZE];
    moet_config_format(&s->config, text);
    moet_message_put_text(&body, text);
    moet_message_put_int(&body, s->trial.device_counts);
    s->remote = w->remote_count++;
    MOET_TRY(request(w, MOET_REQUEST_ADD, &body, &reply));
    take_trial(&reply, s);
    moet_status status = moet_message_take_cubins(&reply, &s->trial);
    if (status == MOET_OK) status = moet_message_take_algorithms(&reply, &s->trial);
    if (status != MOET_OK) {
        moet_message_release(&reply);
        return status;
    }
    return end_reply(w, &reply, "add");
}

static worker_subject *find_remote(moet_worker *w, int64_t remote)
{
    for (int32_t i = w->subject_count - 1; i >= 0 && remote >= 0; i--) {
        if (w->subjects[i].remote == remote) return &w->subjects[i];
    }
    return NULL;
}

static moet_status ask_round(moet_worker *w)
{
    moet_message body = {0}, reply = {0};
    MOET_TRY(request(w, MOET_REQUEST_ROUND, &body, &reply));
    const int64_t count = moet_message_take_int(&reply);
    for (int64_t i = 0; i < count && !reply.failed; i++) {
        moet_sample sample;
        worker_subject unknown = {0}, *s = find_remote(w, moet_message_take_int(&reply));
        reply.failed = reply.failed || s == NULL;
        take_trial(&reply, s != NULL ? s : &unknown);
        moet_message_take(&reply, &sample, sizeof sample);
        if (s == NULL || reply.failed || !s->active) {
            continue;
        }
        sample.round = w->round; /* a new process counts from 0 again */
        moet_status status = moet_trial_push(&s->trial, &sample, &s->sample_capacity);
        if (status != MOET_OK) {
            moet_message_release(&reply);
            return status;
        }
    }
    MOET_TRY(end_reply(w, &reply, "round"));
    w->round++;
    return MOET_OK;
}

static moet_status ask_about(moet_worker *w, moet_request what, worker_subject *s)
{
    moet_message body = {0}, reply = {0};
    moet_message_put_int(&body, s->remote);
    MOET_TRY(request(w, what, &body, &reply));
    if (what == MOET_REQUEST_AGAIN) take_trial(&reply, s);
    return end_reply(w, &reply, "subject");
}

/* ---- losing the process, and going on ---- */

/* Lets the candidate that was in flight bear the loss. An error where there was none, and trying again is in vain. */
static moet_status blame(moet_worker *w)
{
    worker_subject *s = find_remote(w, w->step_subject);
    if (s != NULL) {
        s->trial.status = w->loss;
        snprintf(s->trial.reason, sizeof s->trial.reason, "%s", w->loss_reason);
        s->active = false;
        w->unexplained = 0;
        return MOET_OK;
    }
    if (w->loss == MOET_TRIAL_TIMEOUT && w->has_workload) {
        return moet_fail(MOET_TIMEOUT, "%s; --watchdog gives it longer", w->loss_reason);
    }
    if (++w->unexplained >= MOST_UNEXPLAINED || w->options.in_process) {
        return moet_fail(MOET_DEVICE, "%s: %s", w->options.device, w->loss_reason);
    }
    return MOET_OK;
}

/* A new process, and all set up in it as it was. On an error w->is_lost tells whether trying again may help. */
static moet_status set_up(moet_worker *w)
{
    w->is_lost = false;
    for (int32_t i = 0; i < w->subject_count; i++) w->subjects[i].remote = -1;
    if (!w->options.in_process) MOET_TRY(moet_worker_start(w->options.part, w->options.parts, &w->process, &w->socket));
    MOET_TRY(ask_open(w));
    if (w->has_bench) MOET_TRY(ask_begin(w));
    if (w->has_workload) MOET_TRY(ask_workload(w));
    if (w->has_workload) MOET_TRY(ask_racing(w));
    for (int32_t i = 0; i < w->subject_count; i++) {
        if (w->subjects[i].active) MOET_TRY(ask_add(w, &w->subjects[i]));
    }
    w->is_up = true;
    return MOET_OK;
}

static moet_status ensure_up(moet_worker *w)
{
    while (!w->is_up) {
        if (w->is_dead_end || (w->options.in_process && w->is_lost)) {
            return moet_fail(MOET_DEVICE, "the device takes no more work (%s): %s", w->loss_reason,
                             w->is_dead_end ? "its process does not die, the device may need a reset"
                                            : "run the command again to go on in a new process");
        }
        char how[MOET_REASON_SIZE], error[1024];
        const bool again = w->key[0] != '\0';
        moet_status status = set_up(w);
        w->restarts += again && status == MOET_OK;
        if (status != MOET_OK && !w->is_lost) {
            snprintf(error, sizeof error, "%s", moet_last_error());
            end_process(w, 0, how);
            return moet_fail(status, "%s", error);
        }
        if (status != MOET_OK) MOET_TRY(blame(w));
    }
    return MOET_OK;
}

/* After a request that failed: MOET_OK where only the process was lost, and another is up in its place. */
static moet_status go_on(moet_worker *w, moet_status status)
{
    if (!w->is_lost) {
        return status;
    }
    MOET_TRY(blame(w));
    return ensure_up(w);
}

/* ---- open, close ---- */

moet_status moet_worker_open(const moet_worker_options *options, moet_worker **worker)
{
    moet_worker *w = calloc(1, sizeof *w);
    if (w == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for a worker");
    }
    w->options = *options;
    w->watchdog_ns = options->watchdog_ns > 0 ? options->watchdog_ns : MOET_WATCHDOG_DEVICE_S * 1000000000LL;
    moet_status status = ensure_up(w);
    if (status != MOET_OK) {
        moet_worker_close(w);
        return status;
    }
    *worker = w;
    return MOET_OK;
}

static void drop_subjects(moet_worker *w)
{
    for (int32_t i = 0; i < w->subject_count; i++) moet_trial_release(&w->subjects[i].trial);
    w->subject_count = 0;
}

void moet_worker_close(moet_worker *w)
{
    char how[MOET_REASON_SIZE];
    if (w == NULL) {
        return;
    }
    end_process(w, CLOSE_NS, how);
    moet_server_release(&w->local);
    drop_subjects(w);
    free(w->subjects);
    free(w->counts);
    free(w);
}

const moet_device_info *moet_worker_info(const moet_worker *w) { return &w->info; }
const char *moet_worker_key(const moet_worker *w) { return w->key; }
const char *moet_worker_libraries(const moet_worker *w) { return w->libraries; }
int32_t moet_worker_device_count(const moet_worker *w) { return w->device_count; }
int32_t moet_worker_restarts(const moet_worker *w) { return w->restarts; }

moet_status moet_worker_begin(moet_worker *w, moet_ceilings *ceilings)
{
    MOET_TRY(ensure_up(w));
    w->has_bench = true;
    moet_status status = ask_begin(w);
    if (status != MOET_OK) status = go_on(w, status);
    w->has_bench = status == MOET_OK;
    if (status == MOET_OK) *ceilings = w->ceilings;
    return status;
}

/* ---- the bench ---- */

moet_status moet_worker_list(moet_worker *w, const moet_problem *problem, const int32_t *counts, const moet_config *base,
                             int32_t limit, moet_config_visit visit, void *context)
{
    MOET_TRY(ensure_up(w));
    return ask_list(w, problem, counts, base, limit, visit, context); /* a lost process is replaced when needed */
}

moet_status moet_worker_set_workload(moet_worker *w, const moet_problem *problem, const int32_t *counts, int64_t tokens)
{
    const size_t size_bytes = (size_t)problem->experts * sizeof *counts;
    int32_t *copy = malloc(size_bytes);
    if (copy == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for a workload's counts");
    }
    memcpy(copy, counts, size_bytes);
    free(w->counts);
    w->counts = copy;
    w->problem = *problem;
    w->tokens = tokens;
    w->is_racing = false;
    w->has_workload = false;
    w->round = 0;
    drop_subjects(w);
    MOET_TRY(ensure_up(w));
    w->has_workload = true;
    moet_status status = ask_workload(w);
    if (status != MOET_OK) status = go_on(w, status);
    w->has_workload = status == MOET_OK;
    return status;
}

moet_status moet_worker_add_config(moet_worker *w, const moet_config *config, bool device_counts, int32_t *subject)
{
    MOET_TRY(ensure_up(w));
    if (w->subject_count == w->subject_capacity) {
        int32_t capacity = w->subject_capacity > 0 ? 2 * w->subject_capacity : 64;
        worker_subject *grown = realloc(w->subjects, (size_t)capacity * sizeof *grown);
        if (grown == NULL) {
            return moet_fail(MOET_NO_MEMORY, "no memory for a candidate");
        }
        w->subjects = grown;
        w->subject_capacity = capacity;
    }
    const int32_t index = w->subject_count;
    worker_subject *s = &w->subjects[index];
    *s = (worker_subject){.config = *config, .remote = -1, .active = true};
    s->trial.device_counts = device_counts;
    moet_config_format(config, s->trial.config);
    w->subject_count++;
    moet_status status = ask_add(w, s);
    if (status == MOET_OK) {
        w->unexplained = 0;
    } else if (w->is_lost) {
        /* A candidate's own loss is seen to when the next request needs the process: its trial comes first. */
        const bool own = w->step_subject >= 0;
        status = own ? blame(w) : go_on(w, status);
    }
    if (status != MOET_OK) {
        moet_trial_release(&s->trial);
        w->subject_count--;
        return status;
    }
    *subject = index;
    return MOET_OK;
}

moet_status moet_worker_launch_again(moet_worker *w, int32_t subject)
{
    worker_subject *s = &w->subjects[subject];
    MOET_TRY(ensure_up(w));
    if (!s->active) {
        return MOET_OK;
    }
    moet_status status = ask_about(w, MOET_REQUEST_AGAIN, s);
    return status != MOET_OK && w->is_lost ? blame(w) : status;
}

int64_t moet_worker_launch_ns(const moet_worker *w, int32_t subject) { return w->subjects[subject].launch.time_ns; }

moet_status moet_worker_keep_launch(moet_worker *w, int32_t subject)
{
    worker_subject *s = &w->subjects[subject];
    s->trial.eager = true;
    return moet_trial_push(&s->trial, &s->launch, &s->sample_capacity);
}

moet_status moet_worker_set_racing(moet_worker *w, bool is_racing)
{
    MOET_TRY(ensure_up(w));
    w->is_racing = is_racing;
    moet_status status = ask_racing(w);
    return status != MOET_OK ? go_on(w, status) : MOET_OK;
}

moet_status moet_worker_round(moet_worker *w)
{
    for (;;) {
        MOET_TRY(ensure_up(w));
        moet_status status = ask_round(w);
        if (status == MOET_OK) {
            w->unexplained = 0;
            return MOET_OK;
        }
        MOET_TRY(go_on(w, status));
    }
}

void moet_worker_retire(moet_worker *w, int32_t subject)
{
    worker_subject *s = &w->subjects[subject];
    const bool is_there = s->active && w->is_up;
    s->active = false;
    if (is_there) (void)ask_about(w, MOET_REQUEST_RETIRE, s); /* it was over; a lost process is replaced when needed */
}

bool moet_worker_active(const moet_worker *w, int32_t subject) { return w->subjects[subject].active; }

void moet_worker_clear_samples(moet_worker *w)
{
    for (int32_t i = 0; i < w->subject_count; i++) w->subjects[i].trial.sample_count = 0;
}

moet_status moet_worker_trial(const moet_worker *w, int32_t subject, moet_trial *trial)
{
    moet_trial result;
    MOET_TRY(moet_trial_copy(&w->subjects[subject].trial, &result));
    moet_trial_derive(&result, &w->ceiling_work, w->flops, w->bytes);
    *trial = result;
    return MOET_OK;
}

int64_t moet_worker_median_ns(const moet_worker *w, int32_t subject)
{
    return moet_trial_median_ns(&w->subjects[subject].trial);
}

int64_t moet_worker_noise_ns(const moet_worker *w, int32_t subject)
{
    return moet_trial_noise_ns(&w->subjects[subject].trial);
}
