/* libraries: which of the libraries that are bound at run time are here, in which version, and what a missing one
 * costs. For `moe-tune doctor` and for the provenance of measurements. */
#ifndef MOET_LIBRARIES_H
#define MOET_LIBRARIES_H

#include "../src/family.h"

#define MOET_MAX_LIBRARIES 24

typedef struct moet_library_row {
    char name[32]; /* "NVRTC", "driver", or a kernel family that stands on a library */
    bool present;
    char version[64];               /* "13.0", "cublasLt 130100"; "" if missing or if there is none to tell */
    char missing[MOET_REASON_SIZE]; /* why it could not be loaded */
    char cost[MOET_REASON_SIZE];    /* what does not work without it */
} moet_library_row;

typedef struct moet_libraries {
    int32_t count;
    moet_library_row rows[MOET_MAX_LIBRARIES];
} moet_libraries;

/* Of the libraries that the device's backend needs, and the program's own. */
void moet_libraries_list(moet_device *device, moet_libraries *libraries);

/* "NVRTC 13.0, cublasLt 130100, ...": those present, into text. */
void moet_libraries_format(const moet_libraries *libraries, char *text, size_t size);

#endif
