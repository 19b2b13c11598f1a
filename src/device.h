/* device: one interface over the machines that moe-tune measures and runs on. A backend is one row of the table in
 * device.c and one file backend_<name>.c; everything above it (families, bench, plans) goes through it. */
#ifndef MOET_DEVICE_H
#define MOET_DEVICE_H

#include "moet.h"
#include "status.h"

/* Identity and limits of a device. The first block makes the key: two devices with equal keys share winners. */
typedef struct moet_device_info {
    char backend[8];        /* "host" or "cuda" */
    char name[128];         /* product name, or CPU model */
    int32_t cc_major;       /* compute capability; 0 on the host */
    int32_t cc_minor;       /* */
    int32_t sm_count;       /* streaming multiprocessors; host: threads used */
    int64_t memory_bytes;   /* total device memory */
    int64_t power_limit_mw; /* enforced power limit; 0 unknown or host */
    char partition[64];     /* MIG profile, "" if none; host: BLAS library and its kernel */
    /* not in the key */
    int64_t smem_per_block_optin_bytes;
    int64_t smem_per_sm_bytes;
    int32_t regs_per_sm;
    int64_t l2_bytes;
    char driver[32];             /* "580.159.04"; host: "" */
    int32_t driver_cuda_version; /* 13000 for CUDA 13.0; 0 on the host */
} moet_device_info;

#define MOET_DEVICE_KEY_SIZE 384

/* State of the clocks right after a sample; zero where unknown. */
typedef struct moet_clocks {
    int32_t sm_mhz;
    int32_t power_mw;
    uint64_t throttle_reasons; /* nvmlClocksThrottleReasons bits */
    bool hardware_slowdown;    /* hardware slowdown, thermal slowdown or power brake: the sample is void */
} moet_clocks;

typedef struct moet_backend moet_backend;

typedef struct moet_device {
    const moet_backend *backend;
    int32_t ordinal;
    moet_device_info info;
    char key[MOET_DEVICE_KEY_SIZE];
    void *impl;    /* the backend's own */
    bool is_stuck; /* its work may never end, nor then what waits for it: nothing of it is freed any more */
} moet_device;

/* Streams, events and graphs are opaque pointers of the backend (CUstream, CUevent, CUgraphExec on CUDA). Memory is a
 * plain pointer in the device's address space. */
struct moet_backend {
    const char *name;
    /* Number of devices; 0 with MOET_OK where there is none, an error that says why where the driver is broken. */
    moet_status (*count)(int32_t *count);
    /* Fills info and impl. Makes the device current on the calling thread. */
    moet_status (*open)(int32_t ordinal, moet_device *device);
    void (*close)(moet_device *device);
    moet_status (*activate)(moet_device *device); /* makes its context current on the calling thread */
    /* Whether kernels may run in this process; NULL: in any. Each launch asks. */
    moet_status (*enter)(moet_device *device);

    moet_status (*alloc)(moet_device *device, size_t size_bytes, void **memory); /* NO_DEVICE_MEMORY says the size */
    void (*free)(moet_device *device, void *memory);                             /* NULL is fine */
    moet_status (*free_bytes)(moet_device *device, size_t *size_bytes);          /* memory still to be had */
    moet_status (*upload)(moet_device *device, void *to_device, const void *from_host, size_t size_bytes);
    moet_status (*download)(moet_device *device, void *to_host, const void *from_device, size_t size_bytes);
    moet_status (*fill)(moet_device *device, void *memory, uint8_t byte, size_t size_bytes);

    moet_status (*stream_create)(moet_device *device, void **stream);
    void (*stream_destroy)(moet_device *device, void *stream);
    moet_status (*stream_synchronize)(moet_device *device, void *stream);

    moet_status (*event_create)(moet_device *device, void **event);
    void (*event_destroy)(moet_device *device, void *event);
    moet_status (*event_record)(moet_device *device, void *event, void *stream);
    /* Both recorded; waits for `end`. */
    moet_status (*event_elapsed_us)(moet_device *device, void *begin, void *end, double *time_us);

    /* NULL where the device has no graphs (host): launches are then timed eagerly. */
    moet_status (*capture_begin)(moet_device *device, void *stream);
    /* Ends the capture in any case; *graph is NULL on an error. */
    moet_status (*capture_end)(moet_device *device, void *stream, void **graph);
    moet_status (*graph_launch)(moet_device *device, void *graph, void *stream);
    void (*graph_destroy)(moet_device *device, void *graph);

    moet_status (*clocks)(moet_device *device, moet_clocks *clocks);
    /* Tells a profiler to collect from here on, or to stop: cuProfilerStart, cuProfilerStop. NULL: none listens. */
    moet_status (*set_profiling)(moet_device *device, bool is_on);
};

/* The backends in the order in which "auto" tries them, ended by NULL. */
extern const moet_backend *const moet_backends[];
const moet_backend *moet_backend_find(const char *name);

/* Processors that this process may use: of its affinity, and no more than a container's quota. At least 1. */
int32_t moet_host_processors(void);

/* Opens "auto", "host", "cuda", "cuda:N". */
moet_status moet_device_open(const char *spec, moet_device **device);
void moet_device_close(moet_device *device);
/* Writes the key text of info into key[MOET_DEVICE_KEY_SIZE]. */
void moet_device_format_key(const moet_device_info *info, char *key);
/* Why what was made for one key does not serve another: from the first field on in which they differ, as what is equal
 * may be longer than why[MOET_REASON_SIZE]. false. */
bool moet_device_refuse_key(const char *expected, const char *found, char *why);

/* ---- libraries bound at run time (dynlib.c) ---- */

typedef struct moet_symbol {
    const char *name; /* exported symbol */
    size_t offset;    /* of the function pointer in the api structure */
    bool optional;    /* left NULL where the library lacks it */
} moet_symbol;

/* Loads the first of the sonames that opens (NULL-ended; "$ORIGIN/x" is looked up beside the calling binary) and fills
 * the function pointers of `api`. NOT_FOUND names the libraries tried; MISMATCH names the missing symbol. The library
 * stays loaded for the process (vendor libraries do not survive unloading). */
moet_status moet_library_bind(const char *const *sonames, const moet_symbol *symbols, int32_t symbol_count, void *api,
                              void **library);

#endif
