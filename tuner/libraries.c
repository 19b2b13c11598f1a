/* libraries.c: see libraries.h. */
#include "libraries.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

#include "store.h"

static moet_library_row *add_row(moet_libraries *libraries, const char *name)
{
    moet_library_row *row = &libraries->rows[libraries->count];
    if (libraries->count < MOET_MAX_LIBRARIES - 1) {
        libraries->count++;
    }
    *row = (moet_library_row){.present = true};
    snprintf(row->name, sizeof row->name, "%s", name);
    return row;
}

static void add_cuda(moet_libraries *libraries, moet_device *device)
{
    int32_t supported = device->info.driver_cuda_version;
    moet_library_row *row = add_row(libraries, "CUDA driver");
    snprintf(row->version, sizeof row->version, "%.31s, CUDA %d.%d", device->info.driver, supported / 1000,
             supported % 1000 / 10);

    int32_t version = moet_module_compiler_version();
    row = add_row(libraries, "NVRTC");
    row->present = version > 0;
    if (row->present) {
        snprintf(row->version, sizeof row->version, "%d.%d", version / 1000, version % 1000 / 10);
    } else {
        snprintf(row->missing, sizeof row->missing, "libnvrtc could not be loaded");
        snprintf(row->cost, sizeof row->cost,
                 "kernels that are not in the cache or a table cannot be compiled, nor tuned: install CUDA's NVRTC");
    }

    moet_clocks clocks = {0};
    row = add_row(libraries, "NVML");
    row->present = device->backend->clocks(device, &clocks) == MOET_OK && clocks.sm_mhz > 0;
    if (!row->present) {
        snprintf(row->missing, sizeof row->missing, "clocks cannot be read");
        snprintf(row->cost, sizeof row->cost,
                 "samples carry no clocks and slowed-down rounds are not recognised; the power limit is unknown");
    }
}

void moet_libraries_list(moet_device *device, moet_libraries *libraries)
{
    *libraries = (moet_libraries){0};
    if (strcmp(device->backend->name, "cuda") == 0) {
        add_cuda(libraries, device);
    }
    for (int32_t i = 0; moet_families[i] != NULL; i++) {
        const moet_family *family = moet_families[i];
        if (strcmp(family->backend, device->backend->name) != 0) {
            continue;
        }
        char version[64] = "";
        moet_status status = moet_family_validator(family, version);
        if (status == MOET_OK && version[0] == '\0') {
            continue; /* stands on no library */
        }
        moet_library_row *row = add_row(libraries, family->name);
        row->present = status == MOET_OK;
        if (row->present) {
            snprintf(row->version, sizeof row->version, "%s", version);
        } else {
            snprintf(row->missing, sizeof row->missing, "%.250s", moet_last_error());
            snprintf(row->cost, sizeof row->cost, "family %s (%s) is left out", family->name, family->summary);
        }
    }
    snprintf(add_row(libraries, "SQLite")->version, 64, "%s", moet_store_library());
    snprintf(add_row(libraries, "cJSON")->version, 64, "%s", cJSON_Version());
}

void moet_libraries_format(const moet_libraries *libraries, char *text, size_t size)
{
    size_t used = 0;
    text[0] = '\0';
    for (int32_t i = 0; i < libraries->count && used < size; i++) {
        const moet_library_row *row = &libraries->rows[i];
        if (row->present && row->version[0] != '\0') {
            used +=
                (size_t)snprintf(text + used, size - used, "%s%s %s", used > 0 ? ", " : "", row->name, row->version);
        }
    }
}
