/* message_trial.c: see message_trial.h. */
#include "message_trial.h"

#include <stdlib.h>
#include <string.h>

void moet_message_put_cubins(moet_message *message, const moet_trial *trial)
{
    moet_message_put_int(message, trial->cubin_count);
    for (int32_t i = 0; i < trial->cubin_count; i++) {
        moet_message_put_block(message, trial->cubins[i].bytes, trial->cubins[i].size_bytes);
        moet_message_put_text(message, trial->cubins[i].sha256);
        moet_message_put_text(message, trial->cubins[i].arch);
    }
}

void moet_message_put_algorithms(moet_message *message, const moet_trial *trial)
{
    moet_message_put_block(message, trial->algorithms, (size_t)trial->algorithm_count * sizeof *trial->algorithms);
}

moet_status moet_message_take_cubins(moet_message *message, moet_trial *trial)
{
    const int64_t count = moet_message_take_int(message);
    message->failed = message->failed || count < 0 || count > MOET_MAX_CUBINS;
    for (int32_t i = 0; i < trial->cubin_count; i++) moet_cubin_release(&trial->cubins[i]);
    for (trial->cubin_count = 0; !message->failed && trial->cubin_count < count;) {
        moet_cubin *cubin = &trial->cubins[trial->cubin_count];
        size_t size_bytes;
        const void *bytes = moet_message_take_block(message, &size_bytes);
        *cubin = (moet_cubin){.size_bytes = size_bytes, .bytes = malloc(size_bytes > 0 ? size_bytes : 1)};
        if (cubin->bytes == NULL) {
            return moet_fail(MOET_NO_MEMORY, "no memory for a cubin of %zu bytes", size_bytes);
        }
        if (size_bytes > 0) memcpy(cubin->bytes, bytes, size_bytes);
        trial->cubin_count++;
        moet_message_take_text(message, cubin->sha256, sizeof cubin->sha256);
        moet_message_take_text(message, cubin->arch, sizeof cubin->arch);
    }
    return MOET_OK;
}

moet_status moet_message_take_algorithms(moet_message *message, moet_trial *trial)
{
    size_t size_bytes;
    const void *bytes = moet_message_take_block(message, &size_bytes);
    const size_t count = size_bytes / sizeof *trial->algorithms;
    message->failed = message->failed || size_bytes % sizeof *trial->algorithms != 0 || count > MOET_MAX_ALGORITHMS;
    free(trial->algorithms);
    trial->algorithms = NULL;
    trial->algorithm_count = 0;
    if (size_bytes == 0 || message->failed) {
        return MOET_OK;
    }
    trial->algorithms = malloc(size_bytes);
    if (trial->algorithms == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for a trial's algorithms");
    }
    memcpy(trial->algorithms, bytes, size_bytes);
    trial->algorithm_count = (int32_t)count;
    return MOET_OK;
}
