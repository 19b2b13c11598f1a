/* counts: the kernel that says what counts in the device's memory look like; one implementation a backend, in
 * kernels/counts.c with counts.cu. Plain C tables, reached by name, so that src needs nothing of kernels. */
#ifndef MOET_COUNTS_H
#define MOET_COUNTS_H

#include "device.h"

typedef struct moet_counts moet_counts;

typedef struct moet_counts_table {
    const char *backend;
    /* Compiles, or takes from the cache, and loads. The device outlives it. */
    moet_status (*create)(moet_device *device, moet_counts **counts);
    void (*destroy)(moet_counts *counts); /* NULL is fine */
    /* Enqueues: *routing, memory that the device writes, is what moet_routing_summarize says of counts [experts], with
     * negative ones taken as 0. Allocates nothing, capturable. */
    moet_status (*summarize)(moet_counts *counts, const int32_t *values, int32_t experts, moet_routing *routing,
                             void *stream);
} moet_counts_table;

extern const moet_counts_table moet_counts_host;
#ifdef MOET_CUDA
extern const moet_counts_table moet_counts_cuda;
#endif

#endif
