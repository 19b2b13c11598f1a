/* ep_device: what the expert-parallel layer asks of a device beyond device.h: one table a backend, in
 * ep_device_host.c and ep_device_cuda.c. */
#ifndef MOET_EP_DEVICE_H
#define MOET_EP_DEVICE_H

#include "ep_comm.h"

typedef struct moet_ep_device_table {
    const char *backend;
    /* Host memory, zeroed, that the device reads and writes too. */
    moet_status (*words_alloc)(moet_device *device, size_t bytes, void **memory);
    void (*words_free)(moet_device *device, void *memory);
    /* The device's memory, zeroed, of the same size on every rank of this host, and the others' mapped: peers [ranks],
     * the own among them. Collective. UNSUPPORTED, on all ranks, where they are on several hosts or memory cannot be
     * shared. */
    moet_status (*window_open)(moet_device *device, moet_ep_comm *control, size_t bytes, void **peers);
    /* The others' memory is let go, then, after all ranks have done so, the own. NULL pointers are fine. */
    void (*window_unmap)(moet_device *device, int32_t rank, int32_t ranks, size_t bytes, void **peers);
    void (*window_free)(moet_device *device, size_t bytes, void *own);
    /* Whether the stream's work is done; DEVICE where it failed. */
    moet_status (*stream_is_done)(moet_device *device, void *stream, bool *is_done);
    /* What is enqueued on the stream from now on waits for the event, which has been recorded. */
    moet_status (*stream_wait)(moet_device *device, void *stream, void *event);
    /* Whether the stream is being captured into a graph. */
    moet_status (*stream_is_captured)(moet_device *device, void *stream, bool *is_captured);
    moet_status (*copy_async)(moet_device *device, void *to, const void *from, size_t bytes, void *stream);
    /* Copies a word that another rank waits for: whoever reads it sees what was copied before it on the stream. */
    moet_status (*flag_async)(moet_device *device, uint32_t *to, const uint32_t *from, void *stream);
} moet_ep_device_table;

extern const moet_ep_device_table moet_ep_device_host;
#ifdef MOET_CUDA
extern const moet_ep_device_table moet_ep_device_cuda;
#endif

/* Whether all ranks got as far, where this one has `status`; UNSUPPORTED where another has not. */
moet_status moet_ep_all_mapped(moet_ep_comm *control, moet_status status);

/* Text that tells hosts apart; "" where it cannot be read, which is as good as another host. */
#define MOET_EP_HOST_SIZE 48
void moet_ep_host_name(char text[MOET_EP_HOST_SIZE]);

#endif
