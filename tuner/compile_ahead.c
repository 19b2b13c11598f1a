/* compile_ahead.c: see compile_ahead.h. */
#include "compile_ahead.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum job_state { JOB_WAITING, JOB_RUNNING, JOB_DONE } job_state;

typedef struct job {
    struct job *next;
    moet_source source;
    char key[MOET_SHA256_TEXT_SIZE]; /* of everything that the kernel depends on */
    job_state state;
} job;

struct moet_compile_ahead {
    pthread_mutex_t lock;
    pthread_cond_t added, done;
    job *first, *last; /* all, in the order in which they were asked for */
    job *urgent;       /* begun before the others */
    bool stopping;
    int32_t compiled;
    int32_t thread_count;
    pthread_t threads[MOET_COMPILE_AHEAD_MOST];
};

int32_t moet_compile_ahead_jobs(void)
{
    const int32_t processors = moet_host_processors();
    return processors <= 2 ? 1 : processors > MOET_COMPILE_AHEAD_MOST ? MOET_COMPILE_AHEAD_MOST : processors - 1;
}

static job *next_waiting(moet_compile_ahead *ahead)
{
    if (ahead->urgent && ahead->urgent->state == JOB_WAITING) return ahead->urgent;
    for (job *j = ahead->first; j; j = j->next)
        if (j->state == JOB_WAITING) return j;
    return NULL;
}

static void *work(void *context)
{
    moet_compile_ahead *ahead = context;
    pthread_mutex_lock(&ahead->lock);
    while (!ahead->stopping) {
        job *j = next_waiting(ahead);
        if (!j) {
            pthread_cond_wait(&ahead->added, &ahead->lock);
            continue;
        }
        j->state = JOB_RUNNING;
        pthread_mutex_unlock(&ahead->lock);
        bool was_cached = moet_module_is_cached(&j->source), is_cached = was_cached;
        if (!was_cached) {
            moet_cubin cubin = {0};
            const moet_status status = moet_module_compile(&j->source, &cubin, NULL);
            moet_cubin_release(&cubin);
            /* Where nothing can be kept, compiling ahead is work twice. */
            is_cached = status != MOET_OK || moet_module_is_cached(&j->source);
            was_cached = status != MOET_OK;
        }
        pthread_mutex_lock(&ahead->lock);
        j->state = JOB_DONE;
        ahead->compiled += !was_cached;
        ahead->stopping = ahead->stopping || !is_cached;
        pthread_cond_broadcast(&ahead->done);
    }
    pthread_mutex_unlock(&ahead->lock);
    return NULL;
}

moet_status moet_compile_ahead_create(int32_t jobs, moet_compile_ahead **ahead)
{
    moet_compile_ahead *result = calloc(1, sizeof *result);
    if (!result) return moet_fail(MOET_NO_MEMORY, "no memory to compile ahead");
    pthread_mutex_init(&result->lock, NULL);
    pthread_cond_init(&result->added, NULL);
    pthread_cond_init(&result->done, NULL);
    for (int32_t i = 0; i < jobs && i < MOET_COMPILE_AHEAD_MOST; i++) {
        if (pthread_create(&result->threads[i], NULL, work, result) != 0) break;
        result->thread_count++;
    }
    if (result->thread_count == 0) {
        moet_compile_ahead_destroy(result);
        return moet_fail(MOET_NO_MEMORY, "no thread to compile ahead: give --jobs 0");
    }
    *ahead = result;
    return MOET_OK;
}

void moet_compile_ahead_destroy(moet_compile_ahead *ahead)
{
    if (!ahead) return;
    pthread_mutex_lock(&ahead->lock);
    ahead->stopping = true;
    pthread_cond_broadcast(&ahead->added);
    pthread_mutex_unlock(&ahead->lock);
    for (int32_t i = 0; i < ahead->thread_count; i++) pthread_join(ahead->threads[i], NULL);
    while (ahead->first) {
        job *next = ahead->first->next;
        free(ahead->first);
        ahead->first = next;
    }
    pthread_cond_destroy(&ahead->done);
    pthread_cond_destroy(&ahead->added);
    pthread_mutex_destroy(&ahead->lock);
    free(ahead);
}

static void make_key(const moet_source *source, char key[MOET_SHA256_TEXT_SIZE])
{
    char text[sizeof source->options + 256];
    size_t used = (size_t)snprintf(text, sizeof text, "%.60s %.16s", source->name, source->arch);
    for (int32_t i = 0; i < source->option_count; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, " %s", source->options[i]);
    moet_sha256_text(text, used, key);
}

static job *find(moet_compile_ahead *ahead, const char *key)
{
    for (job *j = ahead->first; j; j = j->next)
        if (strcmp(j->key, key) == 0) return j;
    return NULL;
}

static bool source_of(const moet_problem *problem, const moet_config *config, const moet_device_info *device,
                      int32_t index, moet_source *source)
{
    return config->family->source && strcmp(device->backend, "cuda") == 0 &&
           config->family->source(problem, config, device->cc_major, device->cc_minor, index, source);
}

moet_status moet_compile_ahead_add(moet_compile_ahead *ahead, const moet_problem *problem, const moet_config *config,
                                   const moet_device_info *device)
{
    moet_source source;
    for (int32_t i = 0; ahead && source_of(problem, config, device, i, &source); i++) {
        char key[MOET_SHA256_TEXT_SIZE];
        make_key(&source, key);
        pthread_mutex_lock(&ahead->lock);
        const bool is_new = !ahead->stopping && !find(ahead, key);
        job *added = is_new ? malloc(sizeof *added) : NULL;
        if (added) {
            *added = (job){.source = source};
            memcpy(added->key, key, sizeof key);
            if (ahead->last)
                ahead->last->next = added;
            else
                ahead->first = added;
            ahead->last = added;
            pthread_cond_signal(&ahead->added);
        }
        pthread_mutex_unlock(&ahead->lock);
        if (is_new && !added) return moet_fail(MOET_NO_MEMORY, "no memory to compile ahead");
    }
    return MOET_OK;
}

void moet_compile_ahead_wait(moet_compile_ahead *ahead, const moet_problem *problem, const moet_config *config,
                             const moet_device_info *device)
{
    moet_source source;
    for (int32_t i = 0; ahead && source_of(problem, config, device, i, &source); i++) {
        char key[MOET_SHA256_TEXT_SIZE];
        make_key(&source, key);
        pthread_mutex_lock(&ahead->lock);
        job *wanted = find(ahead, key);
        while (wanted && wanted->state != JOB_DONE && !(ahead->stopping && wanted->state == JOB_WAITING)) {
            ahead->urgent = wanted;
            pthread_cond_wait(&ahead->done, &ahead->lock);
        }
        pthread_mutex_unlock(&ahead->lock);
    }
}

int32_t moet_compile_ahead_compiled(moet_compile_ahead *ahead)
{
    if (!ahead) return 0;
    pthread_mutex_lock(&ahead->lock);
    const int32_t compiled = ahead->compiled;
    pthread_mutex_unlock(&ahead->lock);
    return compiled;
}
