#include "session.h"

#include <stdlib.h>
#include <string.h>

static const char *const step_names[] = {
#define MOET_X(name, text) text,
    MOET_STEP_TABLE(MOET_X)
#undef MOET_X
};

const char *moet_step_name(moet_step step) { return (unsigned)step < MOET_STEP_COUNT ? step_names[step] : "unknown"; }

static const char *const status_names[] = {
#define MOET_X(name, text) text,
    MOET_TRIAL_STATUS_TABLE(MOET_X)
#undef MOET_X
};

const char *moet_trial_status_name(moet_trial_status status)
{
    return (unsigned)status < MOET_TRIAL_STATUS_COUNT ? status_names[status] : "unknown";
}

moet_status moet_trial_status_parse(const char *text, moet_trial_status *status)
{
    for (int32_t i = 0; i < MOET_TRIAL_STATUS_COUNT; i++) {
        if (strcmp(status_names[i], text) == 0) {
            *status = (moet_trial_status)i;
            return MOET_OK;
        }
    }
    return moet_fail(MOET_INVALID, "trial status '%s' is unknown", text);
}

void moet_trial_release(moet_trial *trial)
{
    free(trial->samples);
    free(trial->algorithms);
    for (int32_t i = 0; i < trial->cubin_count; i++) moet_cubin_release(&trial->cubins[i]);
    *trial = (moet_trial){0};
}

moet_status moet_trial_copy(const moet_trial *from, moet_trial *to)
{
    moet_trial copy = *from;
    copy.samples = NULL;
    copy.algorithms = NULL;
    copy.cubin_count = 0; /* what the copy owns so far */
    if (from->sample_count > 0) {
        size_t size_bytes = (size_t)from->sample_count * sizeof *from->samples;
        copy.samples = malloc(size_bytes);
        if (!copy.samples) return moet_fail(MOET_NO_MEMORY, "copying a trial: out of host memory");
        memcpy(copy.samples, from->samples, size_bytes);
    }
    if (from->algorithm_count > 0) {
        size_t size_bytes = (size_t)from->algorithm_count * sizeof *from->algorithms;
        copy.algorithms = malloc(size_bytes);
        if (!copy.algorithms) {
            moet_trial_release(&copy);
            return moet_fail(MOET_NO_MEMORY, "copying a trial: out of host memory");
        }
        memcpy(copy.algorithms, from->algorithms, size_bytes);
    }
    for (; copy.cubin_count < from->cubin_count; copy.cubin_count++) {
        moet_status status = moet_cubin_copy(&from->cubins[copy.cubin_count], &copy.cubins[copy.cubin_count]);
        if (status != MOET_OK) {
            moet_trial_release(&copy);
            return status;
        }
    }
    *to = copy;
    return MOET_OK;
}

moet_status moet_trial_push(moet_trial *trial, const moet_sample *sample, int32_t *capacity)
{
    if (trial->sample_count == *capacity) {
        int32_t grown_capacity = *capacity ? 2 * *capacity : 16;
        moet_sample *grown = realloc(trial->samples, (size_t)grown_capacity * sizeof *grown);
        if (!grown) return moet_fail(MOET_NO_MEMORY, "a trial's samples: out of host memory");
        trial->samples = grown;
        *capacity = grown_capacity;
    }
    trial->samples[trial->sample_count++] = *sample;
    return MOET_OK;
}

/* ---- what follows from samples ---- */

typedef int64_t (*statistic)(const int64_t *values, int32_t n);

/* A statistic of one int64_t member of the samples; 0 without samples. A long race is judged by its latest samples. */
static int64_t summarize(const moet_trial *trial, size_t member_offset, statistic of)
{
    enum { MOST = 512 };
    int64_t values[MOST];
    int32_t n = trial->sample_count < MOST ? trial->sample_count : MOST;
    for (int32_t i = 0; i < n; i++)
        memcpy(&values[i], (const char *)&trial->samples[trial->sample_count - n + i] + member_offset,
               sizeof values[i]);
    return n > 0 ? of(values, n) : 0;
}

int64_t moet_trial_median_ns(const moet_trial *trial)
{
    return summarize(trial, offsetof(moet_sample, time_ns), moet_stats_median);
}

int64_t moet_trial_noise_ns(const moet_trial *trial)
{
    return summarize(trial, offsetof(moet_sample, time_ns), moet_stats_iqr) / 2;
}

void moet_trial_derive(moet_trial *trial, const moet_ceiling_work *work, double flops, double bytes)
{
    static const size_t ceiling_offsets[MOET_CEILING_COUNT] = {
        offsetof(moet_sample, dense_ns),
        offsetof(moet_sample, dense2_ns),
        offsetof(moet_sample, copy_ns),
        offsetof(moet_sample, read_ns),
    };
    trial->median_ns = moet_trial_median_ns(trial);
    trial->noise_ns = moet_trial_noise_ns(trial);
    if (work->dense_flops > 0 && trial->median_ns > 0) {
        int64_t medians_ns[MOET_CEILING_COUNT];
        for (int32_t i = 0; i < MOET_CEILING_COUNT; i++)
            medians_ns[i] = summarize(trial, ceiling_offsets[i], moet_stats_median);
        const moet_ceilings rates = moet_ceiling_rates(work, medians_ns);
        trial->floor_ns = moet_ceiling_floor_ns(&rates, flops, bytes);
        trial->efficiency = trial->floor_ns / (double)trial->median_ns;
    }
}
