#include "device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef MOET_CUDA
extern const moet_backend moet_backend_cuda;
#endif
extern const moet_backend moet_backend_host;

const moet_backend *const moet_backends[] = {
#ifdef MOET_CUDA
    &moet_backend_cuda,
#endif
    &moet_backend_host,
    NULL,
};

const moet_backend *moet_backend_find(const char *name)
{
    for (int32_t i = 0; moet_backends[i]; i++) {
        if (strcmp(moet_backends[i]->name, name) == 0) return moet_backends[i];
    }
    return NULL;
}

void moet_device_format_key(const moet_device_info *info, char *key)
{
    int n = snprintf(key, MOET_DEVICE_KEY_SIZE,
                     "backend=%s,name=%s,cc=%d.%d,sms=%d,memory_mib=%lld,power_w=%lld,partition=%s", info->backend,
                     info->name, info->cc_major, info->cc_minor, info->sm_count, (long long)(info->memory_bytes >> 20),
                     (long long)(info->power_limit_mw / 1000), info->partition);
    (void)n; /* every field is bounded: the longest key is below the size */
}

bool moet_device_refuse_key(const char *expected, const char *found, char *why)
{
    size_t field = 0; /* from which on they differ */
    for (size_t i = 0; expected[i] && expected[i] == found[i]; i++) field = expected[i] == ',' ? i + 1 : field;
    return moet_refuse(why, "made for another device: %.100s expected, %.100s found", expected + field, found + field);
}

/* The first backend with a device. A backend that is broken is passed over: the host always works. */
static moet_status find_auto(const moet_backend **backend)
{
    for (int32_t i = 0; moet_backends[i]; i++) {
        int32_t count = 0;
        if (moet_backends[i]->count(&count) == MOET_OK && count > 0) {
            *backend = moet_backends[i];
            return MOET_OK;
        }
    }
    return moet_fail(MOET_NOT_FOUND, "no device found");
}

/* "name" or "name:ordinal"; ordinal -1: the backend's choice. */
static moet_status parse_spec(const char *spec, const moet_backend **backend, int32_t *ordinal)
{
    const char *colon = strchr(spec, ':');
    char name[16];
    size_t length = colon ? (size_t)(colon - spec) : strlen(spec);
    if (length < sizeof name) {
        memcpy(name, spec, length);
        name[length] = '\0';
        *backend = moet_backend_find(name);
    } else {
        *backend = NULL;
    }
    if (!*backend && strncmp(spec, "cuda", 4) == 0)
        return moet_fail(MOET_UNSUPPORTED,
                         "device '%s': this build has no CUDA; rebuild where a CUDA toolkit is installed", spec);
    if (!*backend) return moet_fail(MOET_INVALID, "device '%s' is unknown; use auto, host, cuda or cuda:N", spec);
    *ordinal = -1;
    if (colon) {
        char *end;
        long value = strtol(colon + 1, &end, 10);
        if (colon[1] < '0' || colon[1] > '9' || *end || value > 1023)
            return moet_fail(MOET_INVALID, "device '%s': a device number is expected after ':'", spec);
        *ordinal = (int32_t)value;
    }
    return MOET_OK;
}

moet_status moet_device_open(const char *spec, moet_device **device)
{
    const moet_backend *backend = NULL;
    int32_t ordinal = -1, count = 0;
    if (strcmp(spec, "auto") == 0)
        MOET_TRY(find_auto(&backend));
    else
        MOET_TRY(parse_spec(spec, &backend, &ordinal));
    MOET_TRY(backend->count(&count));
    if (count == 0)
        return moet_fail(MOET_NOT_FOUND, "device '%s': no %s device or driver on this machine; use --device host", spec,
                         backend->name);
    if (ordinal >= count)
        return moet_fail(MOET_NOT_FOUND, "device '%s': this machine has %d %s device%s", spec, count, backend->name,
                         count == 1 ? "" : "s");
    moet_device *result = calloc(1, sizeof *result);
    if (!result) return moet_fail(MOET_NO_MEMORY, "device '%s': out of memory", spec);
    result->backend = backend;
    moet_status status = backend->open(ordinal, result);
    if (status != MOET_OK) {
        free(result);
        return status;
    }
    moet_device_format_key(&result->info, result->key);
    *device = result;
    return MOET_OK;
}

void moet_device_close(moet_device *device)
{
    if (!device) return;
    device->backend->close(device);
    free(device);
}
