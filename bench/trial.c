#include "session.h"

#include <stdlib.h>
#include <string.h>

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
